"""HDF5 files: those of unknown origin read without trust, ours written.

A file may point to other files, claim sizes that it does not hold, or pack gigabytes into one chunk. Everything here
reads only what lies in the file itself, and checks what a header claims before memory is taken for it.
"""

from __future__ import annotations

import math
import mmap
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from snn2chip.errors import DoesNotFitError, InputError, Snn2chipError, UnsupportedError, UsageError

#: No honest network has more values in one array. 2^26 synapses at 8 bits fill four chips.
MAX_ELEMENTS = 1 << 26
#: Deflate packs 1032 to 1 at best: what declares more than this has little stored in it.
MAX_RATIO = 2048
#: HDF5 unpacks whole chunks.
MAX_CHUNK = 256 << 20

#: What a file holds: datasets and groups by name.
Tree = Mapping[str, Any]

#: What h5py raises on damaged files.
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)


def own_item(group: h5py.Group, name: str, kind: type, fail: Callable[[str], InputError]) -> Any:
    """A group or dataset that lies in this file; ``fail`` makes the error that is raised where it does not."""
    if name not in group.keys():  # noqa: SIM118  # h5py's `in` follows soft links and paths
        raise fail(f"{name} is missing")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise fail(f"{name} is a link to elsewhere")
    item = group[name]
    if not isinstance(item, kind):
        raise fail(f"{name} is not a {'group' if kind is h5py.Group else 'dataset'}")
    return item


def own_dataset(group: h5py.Group, name: str, fail: Callable[[str], InputError]) -> h5py.Dataset:
    """A dataset whose values lie in this file, in chunks that fit into memory."""
    dataset = own_item(group, name, h5py.Dataset, fail)
    if dataset.is_virtual or dataset.external:
        raise fail(f"{name} lies in another file")
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > MAX_CHUNK:
        raise fail(f"{name} has chunks of shape {dataset.chunks}, limit {MAX_CHUNK} bytes each")
    return dataset


def more_than_stored(dataset: h5py.Dataset) -> bool:
    """Whether ``dataset`` declares more than its file can hold."""
    size = dataset.size * dataset.dtype.itemsize
    file_size = Path(dataset.file.filename).stat().st_size
    return bool(size) and (dataset.id.get_storage_size() == 0 or size > MAX_RATIO * file_size)


#: Texts in a file: by address of their heap, sizes by index.
Heaps = dict[int, dict[int, int]]


@dataclass
class Budget:
    """Values that may still be read from one file, and where its texts lie."""

    left: int = 2 * MAX_ELEMENTS
    heaps: Heaps = field(default_factory=dict)


GroupT = TypeVar("GroupT", bound="Group")


@dataclass(frozen=True)
class Group:
    """A group of the file, and where it is, for errors."""

    group: h5py.Group
    where: str
    budget: Budget

    def fail(self, problem: str) -> InputError:
        """The error for a malformed file; the caller raises it."""
        return InputError(f"{self.where}: {problem}")

    def unsupported(self, problem: str) -> UnsupportedError:
        """The error for a sound file that uses something we have no form for; the caller raises it."""
        return UnsupportedError(f"{self.where}: {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self.group.keys()  # noqa: SIM118  # h5py's `in` follows soft links and paths

    def is_group(self, name: str) -> bool:
        """Whether ``name`` is a group that lies in this file."""
        hard = name in self and isinstance(self.group.get(name, getlink=True), h5py.HardLink)
        return hard and isinstance(self.group[name], h5py.Group)

    def child(self: GroupT, name: str, label: str | None = None) -> GroupT:
        """The group ``name``; ``label`` is what errors call it."""
        item = own_item(self.group, name, h5py.Group, self.fail)
        return type(self)(item, f"{self.where}: {label or name}", self.budget)

    def dataset(self, name: str) -> h5py.Dataset:
        """The dataset ``name``, of a size that a network can have and the file holds."""
        dataset = own_dataset(self.group, name, self.fail)
        if dataset.shape is None or dataset.size == 0:
            raise self.fail(f"{name} is empty")
        if dataset.size > MAX_ELEMENTS or dataset.size > self.budget.left:
            raise self.fail(f"{name} declares {dataset.size} values, more than any network has")
        if more_than_stored(dataset):
            raise self.fail(f"{name} declares {dataset.size} values and stores {_stored(dataset)}")
        self.budget.left -= dataset.size
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind is not None and kind.length is None and not _texts_lie(dataset, self.budget.heaps):
            raise self.fail(f"{name} refers to texts that are not in the file")
        return dataset

    def text(self, name: str, longest: int = 64, encoding: str = "ascii") -> str:
        """One text of at most ``longest`` bytes."""
        dataset = self.dataset(name)
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind is None or dataset.size != 1 or (kind.length or 0) > longest:
            raise self.fail(f"{name} is not one short text")
        value = dataset[()] if dataset.shape == () else dataset[:].flat[0]
        if not isinstance(value, bytes) or len(value) > longest:
            raise self.fail(f"{name} is not one short text")
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            raise self.fail(f"{name} is not {encoding.upper()}") from None

    def values(self, name: str, kinds: str, expected: str) -> npt.NDArray[Any]:
        """Numbers of one of numpy's ``kinds``, at most 64 bits wide; NaN is an error.

        ``expected`` says in errors what these are.
        """
        dataset = self.dataset(name)
        if dataset.dtype.kind not in kinds or dataset.dtype.itemsize > 8:
            raise self.fail(f"{name} has type {dataset.dtype}, expected {expected}")
        array: npt.NDArray[Any] = np.asarray(dataset[()])
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise self.fail(f"{name} contains NaN or infinite values")
        return array


def _stored(dataset: h5py.Dataset) -> str:
    size = dataset.id.get_storage_size()
    return f"{size} bytes" if size else "none"


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Group]:
    """The root group of a file; errors inside the block name the file.

    Raises:
        InputError: the file is missing, malformed, or tries something it must not.
        UnsupportedError: whatever :class:`DoesNotFitError` the block raises.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
    try:
        heaps = _heaps(path)
        with h5py.File(path, "r") as file:
            yield Group(file, str(path), Budget(heaps=heaps))
    except DoesNotFitError as error:
        raise UnsupportedError(_located(path, error)) from error
    except UsageError as error:
        raise UsageError(_located(path, error)) from error
    except Snn2chipError as error:
        raise InputError(_located(path, error)) from error
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except BROKEN as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: not a readable HDF5 file ({reason})") from error


def _heaps(path: Path) -> Heaps:
    """The heaps of texts; libhdf5 loops for ever on some damaged ones, and on references to where none is.

    A global heap (HDF5 file format, III.E) is "GCOL", version, its size, then objects: index, references, size, data.

    Raises:
        InputError: a heap has an object without an end.
    """
    heaps: Heaps = {}
    if not path.stat().st_size:
        return heaps
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL")
        while start >= 0:
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            position, end = start + 16, start + size
            sizes = heaps.setdefault(start, {})
            while position + 16 <= min(end, len(content)):
                index = int.from_bytes(content[position : position + 2], "little")
                length = int.from_bytes(content[position + 8 : position + 16], "little")
                step = 16 + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, header included
                if step < 16 or position + step > end:
                    raise InputError(f"{path}: not a readable HDF5 file (damaged heap)")
                sizes[index] = length
                position += step
            start = content.find(b"GCOL", start + 4)
    return heaps


def _texts_lie(dataset: h5py.Dataset, heaps: Heaps) -> bool:
    """Whether all references of a dataset of texts (length, address of a heap, index) point to texts of that size."""
    plain = dataset.file.userblock_size == 0 and dataset.fletcher32 is False and not dataset.shuffle
    if dataset.chunks is not None and plain and dataset.compression in (None, "gzip"):
        parts = []
        for i in range(dataset.id.get_num_chunks()):
            chunk = dataset.id.get_chunk_info(i)
            skipped, stored = dataset.id.read_direct_chunk(chunk.chunk_offset)
            limit = math.prod(dataset.chunks) * _REFERENCE.itemsize
            packed = dataset.compression is not None and not skipped
            parts.append(zlib.decompressobj().decompress(stored, limit) if packed else stored)
        raw = b"".join(parts)
    elif plain and dataset.id.get_offset() is not None:
        with Path(dataset.file.filename).open("rb") as file:
            file.seek(dataset.id.get_offset())
            raw = file.read(dataset.size * _REFERENCE.itemsize)
    else:
        return False
    references = np.frombuffer(raw[: len(raw) // _REFERENCE.itemsize * _REFERENCE.itemsize], _REFERENCE)
    return len(references) >= dataset.size and all(
        int(length) <= heaps.get(int(address), {}).get(int(index), 0) for length, address, index in references
    )


_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


def _located(path: Path, error: Snn2chipError) -> str:
    return str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}"


def image(tree: Tree) -> bytes:
    """An HDF5 file of ``tree``, for :func:`snn2chip.files.write_whole`; the same tree gives the same bytes."""
    # In memory: libhdf5 crashes the process when a disk is full.
    with h5py.File("image", "w", driver="core", backing_store=False) as file:
        _store(file, tree)
        file.flush()
        return bytes(file.id.get_file_image())


def _store(group: h5py.Group, tree: Tree) -> None:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            _store(group.create_group(name), value)
        else:
            group.create_dataset(name, data=value, track_times=False)
