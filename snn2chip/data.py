"""Data files: samples ``x`` and optionally their classes ``y``, in memory or streamed.

=====================  ====================================================================================
``data.npz``           arrays ``x`` and ``y``; read into memory
a folder of ``.npy``   ``x.npy``, or shards ``x-000.npy``, ``x-001.npy`` ... in that order; ``y`` likewise
one ``.npy``           ``x`` alone
HDF5                   datasets ``x`` and ``y`` in the root group
=====================  ====================================================================================

``x`` is ``[N, T, *input_shape]``, or ``[N, *input_shape]`` where it is static; ``y`` is ``[N]`` integers. All but
``.npz`` are read in ranges of samples and never as a whole. Files are treated as hostile: nothing is unpickled, no link
to another file is followed, and no header is believed that claims more than its file can hold.
"""

from __future__ import annotations

import io
import math
import os
import re
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt

from snn2chip import archive, guarded
from snn2chip.archive import shown
from snn2chip.errors import InputError
from snn2chip.guarded import Entry
from snn2chip.hdf5 import more_than_stored, own_dataset

Array = npt.NDArray[Any]

#: A header can claim any size; more than this is not read into memory.
MAX_BYTES = 8 << 30

_NPY_MAGIC, _HDF5_MAGIC = b"\x93NUMPY", b"\x89HDF\r\n\x1a\n"
#: Of an ``.npy`` header.
_MAX_HEADER = 1 << 16
_MAX_AXIS = 1 << 40
# What numpy raises on malformed headers.
_BROKEN = (*archive.BROKEN, SyntaxError, RecursionError, tokenize.TokenError)


class Rows(Protocol):
    """Something with a first axis of which ranges can be read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""

    def read(self, first: int, last: int) -> Array:
        """Rows ``first`` to ``last``, without the latter."""


@dataclass(frozen=True)
class _Whole:
    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def read(self, first: int, last: int) -> Array:
        return self.array[first:last]


@dataclass(frozen=True)
class _Shard:
    path: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Npy:
    """One array in several ``.npy`` files. Read, not mapped: pages of a map count as memory, and a file that is cut
    off while it is mapped ends the process."""

    shards: tuple[_Shard, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(shard.shape[0] for shard in self.shards), *self.shards[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.shards[0].dtype

    def read(self, first: int, last: int) -> Array:
        out = np.empty((last - first, *self.shape[1:]), self.dtype)
        begin = 0
        for shard in self.shards:
            low, high = max(first, begin), min(last, begin + shard.shape[0])
            if low < high:
                part = out[low - first : high - first]
                try:
                    with shard.path.open("rb") as file:
                        file.seek(shard.offset + (low - begin) * (part.nbytes // len(part)))
                        got = file.readinto(part.reshape(-1).view(np.uint8).data)
                except OSError as error:
                    raise _unreadable(shard.path, error) from error
                if got != part.nbytes:
                    raise InputError(f"{shard.path}: ends early, it has been cut off since it was opened")
            begin += shard.shape[0]
        return out


@dataclass(frozen=True)
class _Hdf5:
    """A dataset. The file is opened for each range: it may be needed again in a process that was started meanwhile."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, first: int, last: int) -> Array:
        with _opened(self.path) as file:
            entry = _dataset(self.path, file, file.root, self.name)
            if entry.shape != self.shape or entry.dtype != self.dtype:
                raise InputError(f"{self.path}: {self.name} has been changed since it was opened")
            return file.values(0, self.name, entry, first, last)


@dataclass(frozen=True)
class Data:
    """Samples and, where ``y`` is not None, their classes.

    Attributes:
        name: what messages call them.
        x, y: rows ``[N, ...]`` and ``[N]``.
    """

    name: str
    x: Rows
    y: Rows | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of ``x``."""
        return self.x.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of ``x``."""
        return self.x.dtype

    @property
    def classes(self) -> bool:
        """Whether there are classes."""
        return self.y is not None

    def read(self, first: int = 0, last: int | None = None) -> tuple[Array, Array | None]:
        """``x`` and ``y`` of samples ``first`` to ``last`` (without it), or to the end.

        Raises:
            InputError: the file is damaged, or the range is larger than memory allows.
        """
        last = len(self) if last is None else min(last, len(self))
        size = (last - first) * math.prod(self.shape[1:]) * self.dtype.itemsize
        if size > MAX_BYTES:
            raise InputError(f"{self.name}: {size} bytes, limit {MAX_BYTES}; take fewer samples")
        x = self.x.read(first, last)
        if x.dtype == bool:
            x = x.view(np.uint8) != 0  # files can hold any byte
        return x, None if self.y is None else self.y.read(first, last)

    def chunks(self, size: int, first: int = 0) -> Iterator[tuple[Array, Array | None]]:
        """``size`` samples at a time, from ``first`` on."""
        for low in range(first, len(self), size):
            yield self.read(low, low + size)


def open_data(path: str | os.PathLike[str]) -> Data:
    """The samples at ``path``; see the module's description for what can be there.

    Raises:
        InputError: missing, of no known format, malformed, or not numbers.
    """
    file = Path(path)
    if file.is_dir():
        return _checked(str(file), _shards(file, "x"), _shards(file, "y"))
    if not file.is_file():
        raise InputError(f"{file}: no such file or folder")
    try:
        with file.open("rb") as stream:
            head = stream.read(len(_NPY_MAGIC))
            hdf5 = _is_hdf5(stream)
    except OSError as error:
        raise _unreadable(file, error) from error
    if hdf5:
        return _checked(str(file), *_hdf5(file))
    if head == _NPY_MAGIC:
        return _checked(str(file), _Npy((_shard(file),)), None)
    if head[:2] == b"PK" or file.suffix == ".npz":
        return of_arrays(*load_npz(file), name=str(file))
    raise InputError(f"{file}: neither .npz, .npy nor HDF5")


def of_arrays(x: Array, y: Array | None = None, name: str = "data") -> Data:
    """Arrays in memory as data.

    Raises:
        InputError: not numbers ``[N, ...]`` and ``[N]`` integers.
    """
    return _checked(name, _Whole(x), None if y is None else _Whole(y))


def load_npz(path: str | os.PathLike[str]) -> tuple[Array, Array | None]:
    """``x`` and ``y`` (or None) of an ``.npz`` file, without unpickling.

    Raises:
        InputError: missing, not an ``.npz``, without ``x``, larger than memory allows, or not numbers.
    """
    file = Path(path)
    found = read_npz(file, ("x", "y"))
    if "x" not in found:
        raise InputError(f"{file}: has no array x, only {', '.join(found) or 'nothing'}")
    x, y = found["x"], found.get("y")
    of_arrays(x, y, str(file))  # checks them
    return x, y


def read_npz(path: str | os.PathLike[str], wanted: Sequence[str] | None = None) -> dict[str, Array]:
    """Arrays of numbers of an ``.npz`` file, without unpickling.

    Args:
        wanted: names of those to read, where they are there; the names of others come without values, as empty arrays,
            where none of them is there. None reads all.

    Raises:
        InputError: missing, not an ``.npz``, larger than memory allows, or not numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        with archive.opened(file) as members:
            names = {name.removesuffix(".npy"): name for name in members.members if name.endswith(".npy")}
            chosen = [name for name in names if wanted is None or name in wanted]
            if not chosen:
                return {shown(name): np.empty(0) for name in list(names)[:8]}
            size = sum(members.size(names[name]) for name in chosen)
            if size > MAX_BYTES:
                raise InputError(f"{file}: {size} bytes unpacked, limit {MAX_BYTES}; save it as a folder of .npy")
            return {name: _array(file, name, members.read(names[name])) for name in chosen}
    except archive.Refused as error:
        raise InputError(f"{file}: cannot be read as .npz ({error})") from error


def _array(file: Path, name: str, content: bytearray) -> Array:
    where = f"{file}: {shown(name)}"
    stream = io.BytesIO(memoryview(content)[: _MAX_HEADER + 16])
    try:
        shape, fortran, dtype, offset = _header(stream)
    except _BROKEN as error:
        raise InputError(f"{file}: cannot be read as .npz ({shown(name)}: {_first_line(error)})") from error
    if dtype.hasobject or dtype.kind not in "biuf" or (shape and min(shape) < 0):
        raise InputError(f"{where} has shape {shown(shape)} and type {shown(str(dtype))}, expected numbers")
    if math.prod(shape) * dtype.itemsize != len(content) - offset:
        raise InputError(
            f"{file}: cannot be read as .npz ({shown(name)}: {len(content) - offset} bytes of data, but shape "
            f"{shown(shape)} and type {dtype})"
        )
    if math.prod(shape) == 0:
        return np.empty((0,), dtype) if max(shape) > _MAX_AXIS else np.empty(shape, dtype)
    return np.ndarray(shape, dtype, content, offset, order="F" if fortran else "C")


def _checked(name: str, x: Rows | None, y: Rows | None) -> Data:
    if x is None:
        raise InputError(f"{name}: has neither x.npy nor x-000.npy, x-001.npy ...")
    if x.dtype.kind not in "biuf" or len(x.shape) < 2 or math.prod(x.shape) == 0:
        raise InputError(f"{name}: x has shape {x.shape} and type {x.dtype}, expected numbers [N, ...] with N >= 1")
    if y is not None and (y.shape != x.shape[:1] or y.dtype.kind not in "iu"):
        raise InputError(f"{name}: y has shape {y.shape} and type {y.dtype}, expected {x.shape[0]} integer classes")
    return Data(name, x, y)


def _first_line(error: BaseException) -> str:
    return shown((str(error).splitlines() or [type(error).__name__])[0], 120)


def _unreadable(path: Path, error: BaseException) -> InputError:
    return InputError(f"{path}: cannot be read ({_first_line(error)})")


def _shards(folder: Path, what: str) -> _Npy | None:
    """``what.npy``, or ``what-0.npy``, ``what-1.npy`` ... of a folder; None where it has neither."""
    try:
        names = [entry.name for entry in folder.iterdir()]
    except OSError as error:
        raise _unreadable(folder, error) from error
    numbers = {name: found[1] for name in names if (found := re.fullmatch(rf"{what}-([0-9]{{1,9}})\.npy", name))}
    if f"{what}.npy" in names:
        if numbers:
            raise InputError(f"{folder}: has both {what}.npy and {min(numbers)}; which of them is meant?")
        return _Npy((_shard(folder / f"{what}.npy"),))
    if not numbers:
        return None
    ordered = sorted(numbers, key=lambda name: int(numbers[name]))
    found_numbers = [int(numbers[name]) for name in ordered]
    for i, (name, number) in enumerate(zip(ordered, found_numbers, strict=True)):
        expected = min(found_numbers[0], 1) + i  # counted from 0 or from 1
        if number != expected:
            raise InputError(f"{folder}: {name} where shard {expected} of {what} is expected; one is missing or double")
    shards = tuple(_shard(folder / name) for name in ordered)
    for shard in shards:
        if shard.shape[1:] != shards[0].shape[1:] or shard.dtype != shards[0].dtype:
            raise InputError(
                f"{shard.path}: samples of shape {shard.shape[1:]} and type {shard.dtype}, "
                f"those of {shards[0].path.name} have {shards[0].shape[1:]} and {shards[0].dtype}"
            )
    return _Npy(shards)


def _shard(path: Path) -> _Shard:
    """What the header of an ``.npy`` file says, if the file is exactly as long as that."""
    if not path.is_file():  # a pipe would block
        raise InputError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            shape, fortran, dtype, offset = _header(file)
            size = os.fstat(file.fileno()).st_size
    except _BROKEN as error:
        raise InputError(f"{path}: cannot be read as .npy ({_first_line(error)})") from error
    if dtype.hasobject or dtype.kind not in "biuf" or not shape or min(shape) < 0:
        raise InputError(f"{path}: shape {shown(shape)} and type {shown(str(dtype))}, expected numbers [N, ...]")
    if fortran and len(shape) > 1:
        raise InputError(f"{path}: in Fortran order, which cannot be streamed; save numpy.ascontiguousarray(x)")
    if math.prod(shape) * dtype.itemsize != size - offset:
        raise InputError(
            f"{path}: {size - offset} bytes of data, but shape {shown(shape)} and type {dtype} are "
            f"{shown(math.prod(shape) * dtype.itemsize)}"
        )
    return _Shard(path, offset, shape, dtype)


def _header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Shape, whether in Fortran order, type and length of the header of an ``.npy`` file; raises one of _BROKEN."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about headers that Python 2 wrote
        version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read:
            raise ValueError(f".npy version {version}, expected 1.0 or 2.0")
        start = file.tell()
        if int.from_bytes(file.read(2 * version[0]), "little") > _MAX_HEADER:
            raise ValueError(f"a header of more than {_MAX_HEADER} bytes")
        file.seek(start)
        shape, fortran, dtype = read[version](file)  # type: ignore[no-untyped-call]
    return tuple(int(n) for n in shape), fortran, dtype, file.tell()


def _is_hdf5(file: BinaryIO) -> bool:
    """Whether the signature stands at the start, or behind a user block."""
    place, size = 0, file.seek(0, os.SEEK_END)
    while place < size:
        file.seek(place)
        if file.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC:
            return True
        place = 2 * place or 512
    return False


@contextmanager
def _opened(path: Path) -> Iterator[guarded.File]:
    try:
        with guarded.opened(path, "cannot be read as HDF5") as file:
            yield file
    except guarded.Refused as error:
        raise InputError(f"{path}: cannot be read as HDF5 ({error})") from error


def _hdf5(path: Path) -> tuple[_Hdf5, _Hdf5 | None]:
    with _opened(path) as file:
        entries = file.root
        if "x" not in entries:
            names = ", ".join(shown(name) for name in list(entries)[:8])
            raise InputError(f"{path}: has no dataset x, only {names or 'nothing'}")
        rows = {}
        for name in ("x", "y"):
            if name in entries:
                entry = _dataset(path, file, entries, name)
                assert entry.shape is not None and entry.dtype is not None  # checked there
                rows[name] = _Hdf5(path, name, entry.shape, entry.dtype)
    return rows["x"], rows.get("y")


def _dataset(path: Path, file: guarded.File, entries: Mapping[str, Entry], name: str) -> Entry:
    """A dataset of numbers that lies in this file and can hold what it declares."""
    entry = own_dataset(entries, name, lambda problem: InputError(f"{path}: {problem}"))
    if entry.shape is None or entry.dtype is None or entry.dtype.kind not in "biuf":
        raise InputError(f"{path}: {name} has shape {entry.shape} and type {entry.type}, expected numbers [N, ...]")
    if more_than_stored(entry, file):
        raise InputError(f"{path}: {name} declares {entry.bytes} bytes, more than the file can hold")
    return entry
