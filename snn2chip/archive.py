"""Zip files of unknown origin (``.npz``, ``.pt``), read without trust.

No member is extracted to a path, and none is read before the directory was checked as a whole: names, overlaps, sizes,
kinds of packing. What unpacks to much more than the file holds is refused.
"""

from __future__ import annotations

import mmap
import reprlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: Bytes that any file may unpack to, and how many times its own size.
FREE_BYTES, MAX_RATIO = 256 << 20, 256
MAX_DIRECTORY = 16 << 20
MAX_NAME = 256
#: The most that deflate packs.
_DEFLATE_RATIO = 1032
_TAIL = (1 << 16) + 22 + 76  # end of the directory: a comment, and records of both kinds

#: What zipfile and zlib raise on malformed files.
BROKEN = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    RuntimeError,
    EOFError,
    MemoryError,
    OverflowError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


class Refused(Exception):
    """What is wrong with the file."""


def shown(value: Any, longest: int = 60) -> str:
    """Any value of a hostile file in one printable line of bounded length; takes bounded time, too."""
    text = value[: longest + 1] if isinstance(value, str) else _REPR.repr(value)
    text = "".join(c if c.isprintable() else "?" for c in text[: longest + 1])
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class _Repr(reprlib.Repr):
    """Bounded in time as well: Python refuses to write integers of more than 4300 digits."""

    def repr_int(self, value: int, level: int) -> str:
        size = value.bit_length()
        return repr(value) if size <= 128 else f"{'-' if value < 0 else ''}2^{size - 1}..."


_REPR = _Repr()
_REPR.maxlevel, _REPR.maxother = 3, 60


class Archive:
    """Members by name; :func:`opened` makes it."""

    def __init__(self, file: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> None:
        self._file, self.members = file, members

    def __contains__(self, name: str) -> bool:
        return name in self.members

    def size(self, name: str) -> int:
        """Bytes of a member, unpacked."""
        return self.members[name].file_size

    def read(self, name: str) -> bytearray:
        """A member, unpacked.

        Raises:
            Refused: it is damaged.
        """
        info = self.members[name]
        content = bytearray(info.file_size)
        rest = memoryview(content)
        try:
            with self._file.open(info) as stream:
                while rest and (part := stream.read(min(len(rest), 1 << 20))):
                    rest[: len(part)] = part
                    rest = rest[len(part) :]
                stream.read(1)  # the checksum
        except BROKEN as error:
            raise Refused(f"{shown(name)}: {shown(str(error))}") from error
        if rest:
            raise Refused(f"{shown(name)}: ends early")
        return content


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """A zip file whose directory is sound.

    Raises:
        Refused: it is not.
    """
    try:
        size = path.stat().st_size
        _check_directory(path, size)
        file = zipfile.ZipFile(path)
    except BROKEN as error:
        raise Refused(shown(str(error) or type(error).__name__, 120)) from error
    with file:
        yield Archive(file, _members(file, size))


def _check_directory(path: Path, size: int) -> None:
    """Before zipfile makes an object for each entry."""
    if not size:
        raise Refused("is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        tail = content[max(0, size - _TAIL) :]
    for mark, at, width in ((b"PK\5\6", 12, 4), (b"PK\6\6", 40, 8)):
        start = tail.find(mark)
        while start >= 0:
            declared = int.from_bytes(tail[start + at : start + at + width], "little")
            if declared > MAX_DIRECTORY and declared != 0xFFFFFFFF:
                raise Refused(f"a directory of {declared} bytes, limit {MAX_DIRECTORY}")
            start = tail.find(mark, start + 1)


def _members(file: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    members: dict[str, zipfile.ZipInfo] = {}
    end, total = 0, 0
    for info in sorted(file.infolist(), key=lambda info: info.header_offset):
        name = info.orig_filename
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or len(name) > MAX_NAME or not parts[0] or ".." in parts:
            raise Refused(f"a member is called {shown(name)!r}")
        if name in members:
            raise Refused(f"{shown(name)} is there twice")
        if info.flag_bits & 0x2061:
            raise Refused(f"{shown(name)} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"{shown(name)} is packed by method {info.compress_type}, expected deflate or none")
        packed = info.compress_size
        if info.header_offset < end or info.header_offset + 30 + packed > file.start_dir:
            raise Refused(f"{shown(name)} overlaps another member, or the end")
        if (
            info.file_size != packed
            if info.compress_type == zipfile.ZIP_STORED
            else (info.file_size > _DEFLATE_RATIO * packed + 64)
        ):
            raise Refused(f"{shown(name)} declares {info.file_size} bytes and stores {packed}")
        end, total = info.header_offset + 30 + packed, total + info.file_size
        members[name] = info
    if total > max(FREE_BYTES, MAX_RATIO * size):
        raise Refused(f"unpacks to {total} bytes, more than {MAX_RATIO} times its size")
    return members
