"""HDF5 files: those of unknown origin read without trust, ours written.

A file may point to other files, claim sizes that it does not hold, pack gigabytes into one chunk, or crash libhdf5.
Everything here reads only what lies in the file itself, checks what a header claims before memory is taken for it, and
leaves libhdf5 to another process (:mod:`snn2chip.guarded`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from snn2chip import guarded
from snn2chip.archive import shown
from snn2chip.errors import DoesNotFitError, EnvironmentFailure, InputError, Snn2chipError, UnsupportedError, UsageError
from snn2chip.guarded import Entry, File

#: No honest network has more values in one array. 2^26 synapses at 8 bits fill four chips.
MAX_ELEMENTS = 1 << 26
#: Deflate packs 1032 to 1 at best: what declares more than this has little stored in it.
MAX_RATIO = 2048
#: Values of a whole file: so many in any case, and in each of its bytes.
FREE_ELEMENTS, ELEMENTS_PER_BYTE = 1 << 22, 16

#: What a file holds: datasets and groups by name.
Tree = Mapping[str, Any]


def own_dataset(entries: Mapping[str, Entry], name: str, fail: Callable[[str], InputError]) -> Entry:
    """A dataset whose values lie in this file, in chunks that fit into memory.

    Args:
        entries: of its group.
        fail: makes the error that is raised where it does not.
    """
    entry = _own(entries, name, "dataset", fail)
    if entry.problem:
        raise fail(f"{name} {entry.problem}")
    return entry


def _own(entries: Mapping[str, Entry], name: str, kind: str, fail: Callable[[str], InputError]) -> Entry:
    if name not in entries:
        raise fail(f"{name} is missing")
    entry = entries[name]
    if entry.kind == "link":
        raise fail(f"{name} is a link to elsewhere")
    if entry.kind == "broken":
        raise fail(f"{name} is damaged ({entry.problem})")
    if entry.kind != kind:
        raise fail(f"{name} is not a {kind}")
    return entry


def more_than_stored(entry: Entry, file: File) -> bool:
    """Whether a dataset declares more than its file can hold."""
    return bool(entry.size) and (entry.stored == 0 or entry.bytes > MAX_RATIO * file.bytes)


@dataclass
class Budget:
    """Values that may still be read from one file."""

    left: int = 2 * MAX_ELEMENTS


GroupT = TypeVar("GroupT", bound="Group")


@dataclass(frozen=True)
class Group:
    """A group of the file, its number and entries there, and where it is, for errors."""

    file: File
    number: int
    entries: Mapping[str, Entry]
    where: str
    budget: Budget

    @classmethod
    def of(cls: type[GroupT], group: Group, where: str | None = None) -> GroupT:
        """The same group as another class, or called otherwise in errors."""
        return cls(group.file, group.number, group.entries, where or group.where, group.budget)

    def fail(self, problem: str) -> InputError:
        """The error for a malformed file; the caller raises it."""
        return InputError(f"{self.where}: {problem}")

    def unsupported(self, problem: str) -> UnsupportedError:
        """The error for a sound file that uses something we have no form for; the caller raises it."""
        return UnsupportedError(f"{self.where}: {problem}")

    def __contains__(self, name: str) -> bool:
        return name in self.entries

    def is_group(self, name: str) -> bool:
        """Whether ``name`` is a group that lies in this file."""
        return name in self.entries and self.entries[name].kind == "group"

    def child(self: GroupT, name: str, label: str | None = None) -> GroupT:
        """The group ``name``; ``label`` is what errors call it."""
        entry = _own(self.entries, name, "group", self.fail)
        try:
            number, entries = self.file.entries(self.number, name, entry)
        except guarded.Refused as error:
            raise self.fail(f"{name}: {error}") from error
        return replace(self, number=number, entries=entries, where=f"{self.where}: {label or name}")

    def dataset(self, name: str) -> Entry:
        """What the dataset ``name`` declares, of a size that a network can have and the file holds."""
        entry = own_dataset(self.entries, name, self.fail)
        if entry.size == 0:
            raise self.fail(f"{name} is empty")
        if entry.size > MAX_ELEMENTS:
            raise self.fail(f"{name} declares {entry.size} values, more than any network has")
        if more_than_stored(entry, self.file):
            raise self.fail(f"{name} declares {entry.size} values and stores {_stored(entry)}")
        if entry.size > self.budget.left:
            raise self.fail(
                f"{name} declares {entry.size} values, too many in a file of {self.file.bytes} bytes; "
                "store them without compression"
            )
        self.budget.left -= entry.size
        return entry

    def text(self, name: str, longest: int = 64, encoding: str = "ascii") -> str:
        """One text of at most ``longest`` bytes."""
        entry = self.dataset(name)
        if entry.text is None or entry.size != 1 or entry.text > longest:
            raise self.fail(f"{name} is not one short text")
        (value,) = self.texts(name, entry)
        if len(value) > longest:
            raise self.fail(f"{name} is not one short text")
        try:
            return value.decode(encoding)
        except UnicodeDecodeError:
            raise self.fail(f"{name} is not {encoding.upper()}") from None

    def texts(self, name: str, entry: Entry) -> list[bytes]:
        """All texts of a dataset, in order."""
        try:
            return self.file.texts(self.number, name, entry)
        except guarded.Refused as error:
            raise self.fail(f"{name} {error}") from error

    def values(self, name: str, kinds: str, expected: str) -> npt.NDArray[Any]:
        """Numbers of one of numpy's ``kinds``, at most 64 bits wide; NaN is an error.

        ``expected`` says in errors what these are.
        """
        entry = self.dataset(name)
        if entry.dtype is None or entry.dtype.kind not in kinds or entry.dtype.itemsize > 8:
            raise self.fail(f"{name} has type {entry.type}, expected {expected}")
        try:
            array = self.file.values(self.number, name, entry)
        except guarded.Refused as error:
            raise self.fail(f"{name} {error}") from error
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise self.fail(f"{name} contains NaN or infinite values")
        return array.view(np.uint8) != 0 if array.dtype.kind == "b" else array  # files can hold any byte


def _stored(entry: Entry) -> str:
    return f"{entry.stored} bytes" if entry.stored else "none"


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[Group]:
    """The root group of a file; errors inside the block name the file.

    Raises:
        InputError: the file is missing, malformed, or tries something it must not.
        UnsupportedError: whatever :class:`DoesNotFitError` the block raises.
    """
    path = Path(path)
    check_regular(path)
    try:
        with guarded.opened(path) as file:
            left = min(2 * MAX_ELEMENTS, max(FREE_ELEMENTS, ELEMENTS_PER_BYTE * file.bytes))
            yield Group(file, 0, file.root, str(path), Budget(left))
    except guarded.Refused as error:
        raise InputError(f"{path}: {error}") from error
    except DoesNotFitError as error:
        raise UnsupportedError(_located(path, error)) from error
    except UsageError as error:
        raise UsageError(_located(path, error)) from error
    except EnvironmentFailure:
        raise
    except Snn2chipError as error:
        raise InputError(_located(path, error)) from error


def check_regular(path: Path) -> None:
    """Raise :class:`InputError` unless ``path`` is a file that can be read; a pipe would block."""
    try:
        if not path.is_file():
            raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a regular file")
        path.open("rb").close()
    except PermissionError as error:
        raise InputError(f"{path}: no permission to read it") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error


def _located(path: Path, error: Snn2chipError) -> str:
    return f"{path}: {shown(str(error).removeprefix(f'{path}: '), 600)}"


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
