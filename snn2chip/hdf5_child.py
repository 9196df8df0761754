"""The program of the process that :mod:`snn2chip.guarded` reads HDF5 files in; it needs numpy and h5py alone.

libhdf5 crashes on some damaged files, loops for ever on others and takes any memory that a header asks for. Here that
ends this process, which may use so much memory and so many seconds, writes no file and follows no link. Requests come
on standard input, one JSON object each; answers go to standard output in frames: a letter, eight bytes of length, and
that many bytes. ``D`` is data, ``J`` is the JSON object that ends an answer; one says first that the process is ready.

=======================================  ====================================================================
``{"do": "open", "path": p}``            opens a file, closes the one before; its size, and the list of group 0
``{"do": "list", "of": 0, "name": s}``   entries of a group by name, and the number that this group has from now on
``{"do": "read", "of": g, "name": s}``   values of a dataset, perhaps only rows ``first`` to ``last``
=======================================  ====================================================================
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import resource
import signal
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5g, h5l, h5o, h5s, h5z

#: HDF5 unpacks whole chunks.
MAX_CHUNK = 256 << 20
#: Entries of one group, groups that are looked into, bytes of all texts of a dataset.
MAX_ENTRIES = 1 << 16
MAX_GROUPS = 1 << 16
MAX_TEXTS = 1 << 24
#: Values that come with the list of their group.
SMALL = 4096
#: Entries of groups that come with the list of the group around them.
AHEAD = 256
BLOCK = 32 << 20

#: Texts in a file: by address of their heap, sizes by index.
Heaps = dict[int, dict[int, int]]

_REFERENCE = np.dtype([("length", "<u4"), ("address", "<u8"), ("index", "<u4")])


class Refused(Exception):
    """What is wrong with the file."""


class Server:
    """The file that is open. h5py's lower layer, which is five times as fast."""

    def __init__(self) -> None:
        self.path = Path()
        self.file: Any = None
        self.groups: list[Any] = []
        self.ahead = AHEAD
        self.heaps: Heaps | None = None

    def open(self, path: str) -> dict[str, Any]:
        """Open a file."""
        if self.file is not None:
            self.groups, self.heaps = [], None
            self.file.close()
            self.file = None
        self.path = Path(path)
        self.file = h5py.File(path, "r")
        self.ahead = AHEAD
        return {"bytes": self.path.stat().st_size, **self._list(h5g.open(self.file.id, b"/"))}

    def listed(self, of: int, name: str) -> dict[str, Any]:
        """What a group holds: by name, ``kind`` "group", "dataset", "link" or "other", and what a dataset declares."""
        self.ahead = AHEAD
        return self._list(h5g.open(self.groups[of], _encoded(name)))

    def _list(self, group: Any) -> dict[str, Any]:
        if len(self.groups) >= MAX_GROUPS:
            raise Refused(f"more than {MAX_GROUPS} groups")
        if len(group) > MAX_ENTRIES:
            raise Refused(f"{len(group)} entries in one group, limit {MAX_ENTRIES}")
        self.groups.append(group)
        self.ahead -= len(group)
        number = len(self.groups) - 1
        return {"group": number, "entries": {_decoded(name): self._entry(group, name) for name in list(group)}}

    def _entry(self, group: Any, name: bytes) -> dict[str, Any]:
        if b"/" in name or name in (b"", b"."):  # libhdf5 would take it as a path
            return {"kind": "other"}
        try:
            if group.links.get_info(name).type != h5l.TYPE_HARD:
                return {"kind": "link"}
            item = h5o.open(group, name)
            if isinstance(item, h5g.GroupID):
                few = len(item) < self.ahead and len(self.groups) < MAX_GROUPS
                return {"kind": "group", **(self._list(item) if few else {})}
            return self._dataset(item) if isinstance(item, h5d.DatasetID) else {"kind": "other"}
        except Exception as error:  # whatever h5py makes of it: only who asks for this entry needs to know
            return {"kind": "broken", "problem": reason(error)}

    def _dataset(self, dataset: Any) -> dict[str, Any]:
        plist, dtype = dataset.get_create_plist(), dataset.dtype
        layout = plist.get_layout()
        if layout == h5d.VIRTUAL or plist.get_external_count():
            return {"kind": "dataset", "problem": "lies in another file"}
        if layout == h5d.CHUNKED and math.prod(plist.get_chunk()) * dtype.itemsize > MAX_CHUNK:
            chunk = tuple(plist.get_chunk())
            return {"kind": "dataset", "problem": f"has chunks of shape {chunk}, limit {MAX_CHUNK} bytes each"}
        text, space = h5py.check_string_dtype(dtype), dataset.get_space()
        shape = None if space.get_simple_extent_type() == h5s.NULL else tuple(space.get_simple_extent_dims())
        entry = {
            "kind": "dataset",
            "shape": shape,
            "dtype": dtype.str,
            "type": str(dtype)[:80],
            "text": None if text is None else text.length or 0,
            "stored": dataset.get_storage_size(),
        }
        size = 0 if shape is None else math.prod(shape) * dtype.itemsize
        with contextlib.suppress(Exception):  # who asks for the values is told
            if shape is None or not 0 < size <= SMALL:
                return entry
            if entry["stored"] and dtype.kind in "biufS":
                entry["value"] = _values(dataset, shape, dtype).tobytes().hex()
            elif entry["text"] == 0:
                entry["texts"] = self._texts(dataset, shape, dtype)
        return entry

    def read(self, of: int, name: str, first: int | None, last: int | None) -> Iterator[tuple[bytes, Any]]:
        """Frames of the answer."""
        dataset = h5d.open(self.groups[of], _encoded(name))
        shape, dtype = dataset.shape, dataset.dtype
        text = h5py.check_string_dtype(dtype)
        if text is not None and text.length is None:
            yield b"J", {"texts": self._texts(dataset, shape, dtype)}
            return
        if not shape:
            yield b"D", _values(dataset, shape, dtype).tobytes()
        else:
            low, high = (first or 0), (shape[0] if last is None else last)
            step = max(1, BLOCK // max(1, math.prod(shape[1:]) * dtype.itemsize))
            rows = h5py.Dataset(dataset)
            for begin in range(low, high, step):
                grant()
                yield b"D", np.ascontiguousarray(rows[begin : min(begin + step, high)]).data.cast("B")
        yield b"J", {}

    def _texts(self, dataset: Any, shape: tuple[int, ...], dtype: Any) -> list[str]:
        """Texts, byte for byte; raises :class:`Refused` unless all references point to texts of that size."""
        if self.heaps is None:
            self.heaps = heaps(self.path)
        lengths = None if self.file.userblock_size else _lengths(self.path, dataset, math.prod(shape), self.heaps)
        if lengths is None:
            raise Refused("refers to texts that are not in the file")
        if lengths > MAX_TEXTS:
            raise Refused(f"holds {lengths} bytes of text, limit {MAX_TEXTS}")
        return [bytes(value).decode("latin-1") for value in _values(dataset, shape, dtype).reshape(-1)]


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _values(dataset: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """All of them."""
    out = np.zeros(shape, dtype)
    dataset.read(h5s.ALL, h5s.ALL, out)
    return out


def heaps(path: Path) -> Heaps:
    """The heaps of texts; libhdf5 loops for ever on some damaged ones, and on references to where none is.

    A global heap (HDF5 file format, III.E) is "GCOL", version, its size, then objects: index, references, size, data.

    Raises:
        Refused: a heap has an object without an end.
    """
    found: Heaps = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = content.find(b"GCOL")
        while start >= 0:
            size = int.from_bytes(content[start + 8 : start + 16], "little")
            position, end = start + 16, start + size
            sizes = found.setdefault(start, {})
            while position + 16 <= min(end, len(content)):
                index = int.from_bytes(content[position : position + 2], "little")
                length = int.from_bytes(content[position + 8 : position + 16], "little")
                step = 16 + (length + 7) // 8 * 8 if index else length  # object 0 is the free space, header included
                if step < 16 or position + step > end:
                    raise Refused("damaged heap of texts")
                sizes[index] = length
                position += step
            start = content.find(b"GCOL", start + 4)
    return found


def _lengths(path: Path, dataset: Any, count: int, found: Heaps) -> int | None:
    """Bytes of all texts; None unless every reference (length, address of a heap, index) points to one of that size."""
    plist = dataset.get_create_plist()
    filters = [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]
    if plist.get_layout() == h5d.CHUNKED and filters in ([], [h5z.FILTER_DEFLATE]):
        parts = []
        limit = math.prod(plist.get_chunk()) * _REFERENCE.itemsize
        for i in range(dataset.get_num_chunks()):
            skipped, stored = dataset.read_direct_chunk(dataset.get_chunk_info(i).chunk_offset)
            packed = filters and not skipped
            parts.append(zlib.decompressobj().decompress(stored, limit) if packed else stored)
        raw = b"".join(parts)
    elif plist.get_layout() == h5d.CONTIGUOUS and dataset.get_offset() is not None:
        with path.open("rb") as file:
            file.seek(dataset.get_offset())
            raw = file.read(count * _REFERENCE.itemsize)
    else:
        return None
    references = np.frombuffer(raw[: len(raw) // _REFERENCE.itemsize * _REFERENCE.itemsize], _REFERENCE)
    total = 0
    for length, address, index in references.tolist():
        if length > found.get(address, {}).get(index, 0):
            return None
        total += length
    return total if len(references) >= count else None


def reason(error: BaseException) -> str:
    """One short line."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def grant() -> None:
    """So many seconds of computing from here on; the kernel ends the process after that."""
    used = math.ceil(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (used + SECONDS, resource.RLIM_INFINITY))


def _answers(server: Server, request: dict[str, Any]) -> Iterator[tuple[bytes, Any]]:
    try:
        if request["do"] == "open":
            yield b"J", server.open(request["path"])
        elif request["do"] == "list":
            yield b"J", server.listed(request["of"], request["name"])
        else:
            yield from server.read(request["of"], request["name"], request.get("first"), request.get("last"))
    except Refused as error:
        yield b"J", {"problem": str(error)}
    except MemoryError:
        yield b"J", {"memory": True}
    except Exception as error:  # h5py raises whatever the bytes provoke
        yield b"J", {"broken": reason(error)}


def main() -> None:
    """Answer until standard input ends."""
    server, out = Server(), os.fdopen(os.dup(1), "wb", buffering=0)
    _send(out, b"J", {"ready": True})
    for line in sys.stdin.buffer:
        grant()
        for letter, content in _answers(server, json.loads(line)):
            _send(out, letter, content)


def _send(out: Any, letter: bytes, content: Any) -> None:
    data = json.dumps(content).encode() if letter == b"J" else content
    for part in (letter + len(data).to_bytes(8, "little"), data):
        rest = memoryview(part)
        while len(rest):
            rest = rest[out.write(rest) :]


if __name__ == "__main__":
    SECONDS, memory = int(sys.argv[1]), int(sys.argv[2]) << 20
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    for what, limit in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (limit, limit))
    main()
