"""Output files that appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    except OSError as error:
        raise EnvironmentFailure(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)
