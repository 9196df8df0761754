"""Output files and folders that appear whole or not at all, written by one run at a time.

What is being written lies in ``.NAME.part/`` beside its target, locked by the run that writes it. A run that is killed
leaves that folder behind; the next one that writes the same target removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import io
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import EnvironmentFailure, UsageError

#: Seconds that a short write waits for another one to end.
PATIENCE = 10.0
_POLL = 0.02
#: Of file systems that have no locks, or no hard links.
_NOT_THERE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL, errno.EPERM, errno.EMLINK)


def check_absent(path: Path, force: bool) -> None:
    """Raise :class:`UsageError` if ``path`` exists and is no file, or ``force`` is not given."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, expected the name of a file")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: is not a regular file")
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; --force overwrites it")


def check_apart(path: Path, *others: Path) -> None:
    """Raise :class:`UsageError` if ``path``, which is to be written, is one of the other files of the command."""
    for other in others:
        with contextlib.suppress(OSError):
            if path.absolute() == other.absolute() or (path.exists() and other.exists() and path.samefile(other)):
                raise UsageError(f"{path}: is {other}, which the command needs; give another name")


def check_folder(path: Path) -> None:
    """Raise :class:`EnvironmentFailure` if nothing can be written beside ``path``, before work is done for it."""
    with _failures(path), tempfile.TemporaryFile(dir=path.absolute().parent):
        pass


@contextmanager
def whole_file(path: str | os.PathLike[str], force: bool = False, patience: float = 0.0) -> Iterator[Path]:
    """A path to write to, whose file replaces ``path`` when the block ends without an error.

    A link is followed: what it points to is written, and the link stays.

    Args:
        force: replace an existing file.
        patience: seconds to wait where another run is writing ``path``.

    Raises:
        UsageError: ``path`` is a folder, exists and ``force`` is not given, or is being written by another run.
        EnvironmentFailure: the folder is missing or read-only, or the disk is full.
    """
    shown, target = Path(path), Path(os.path.realpath(path))
    check_absent(shown, force)
    with _failures(shown), _place(target, shown, patience) as place:
        temporary = place / target.name
        try:
            yield temporary
        except EnvironmentFailure as error:  # of a writer inside, which knows the temporary name alone
            raise EnvironmentFailure(str(error).replace(str(temporary), str(shown))) from error
        if not force:
            with contextlib.suppress(FileExistsError):  # said by the check that follows
                if _linked(temporary, target):
                    return
        check_absent(shown, force)
        temporary.replace(target)


@contextmanager
def whole_folder(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """An empty folder that replaces ``path`` when the block ends without an error; missing parents are made.

    Raises:
        UsageError: ``path`` exists and ``force`` is not given, or is being written by another run.
        EnvironmentFailure: it cannot be written.
    """
    target = Path(path)
    with _failures(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _place(target, target, 0.0) as place:
            new, old = place / "new", place / "old"
            new.mkdir()
            yield new
            if force and target.exists():
                target.replace(old)
            try:
                new.replace(target)
            except OSError as error:
                if old.exists():
                    old.replace(target)
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise UsageError(f"{target}: exists already; --force overwrites it") from error
                raise


def write_whole(path: str | os.PathLike[str], data: bytes | memoryview, force: bool = False) -> None:
    """Write ``data`` to ``path``, whole or not at all; errors as in :func:`whole_file`."""
    with whole_file(path, force, PATIENCE) as temporary, temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, npt.NDArray[Any]], force: bool = False) -> None:
    """Write arrays as a compressed ``.npz``, whole or not at all; errors as in :func:`whole_file`."""
    buffer = io.BytesIO()  # the zip writer complains once more when its file fails
    np.savez_compressed(buffer, **arrays)
    write_whole(path, buffer.getbuffer(), force)


@contextmanager
def _failures(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(f"{path}: cannot be written ({error.strerror or error})") from error


@contextmanager
def _place(target: Path, shown: Path, patience: float) -> Iterator[Path]:
    """An empty folder beside ``target`` that this run alone uses, and that goes with it."""
    place, lock = _locked(target, shown, time.monotonic() + patience)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(target: Path, shown: Path, deadline: float) -> tuple[Path, int | None]:
    """The folder and its lock; without locks a folder of another name each time."""
    place = target.with_name(f".{target.name}.part")
    while True:
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        try:
            lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:  # another run has ended just now
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(lock, place):
                _empty(place)
                return place, lock
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(lock)
                raise UsageError(f"{shown}: another run is writing it") from None
            time.sleep(_POLL)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                os.close(lock)
                raise
            os.close(lock)
            with contextlib.suppress(OSError):
                place.rmdir()
            return Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)), None
        os.close(lock)


def _is_at(handle: int, path: Path) -> bool:
    """Whether ``handle`` is what lies at ``path`` now, and not something that was removed since it was opened."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    """Remove what a killed run has left."""
    for entry in list(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _linked(temporary: Path, target: Path) -> bool:
    """Give the file its name unless that is taken (FileExistsError), in one step; False where the system cannot."""
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise
    return True
