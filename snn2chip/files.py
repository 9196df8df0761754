"""Output files that appear whole or not at all."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import EnvironmentFailure, UsageError


def check_absent(path: Path, force: bool) -> None:
    """Raise :class:`UsageError` if ``path`` exists and ``force`` is not given."""
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; --force overwrites it")


@contextmanager
def whole_file(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """A temporary path beside ``path`` that replaces it when the block ends without an error.

    Raises:
        UsageError: ``path`` exists and ``force`` is not given.
        EnvironmentFailure: the folder is missing or read-only, or the disk is full.
    """
    target = Path(path)
    check_absent(target, force)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise EnvironmentFailure(f"{target}: cannot be written ({error.strerror or error})") from error
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(target)
    except EnvironmentFailure as error:  # of a writer inside, which knows the temporary name alone
        raise EnvironmentFailure(str(error).replace(str(temporary), str(target))) from error
    except OSError as error:
        raise EnvironmentFailure(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview, force: bool = False) -> None:
    """Write ``data`` to ``path``, whole or not at all; errors as in :func:`whole_file`."""
    with whole_file(path, force) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], force: bool = False) -> None:
    """Write arrays as a compressed ``.npz``, whole or not at all; errors as in :func:`whole_file`."""
    buffer = io.BytesIO()  # the zip writer complains once more when its file fails
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getbuffer(), force)
