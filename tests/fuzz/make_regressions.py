"""Write ``tests/regressions``: every hostile feature in the files of every reader, and what the fuzzer has found.

``python tests/fuzz/make_regressions.py`` makes the systematic ones anew; files whose name begins with ``found-`` are
the fuzzer's and stay. The folder's ``outcomes.json`` says what has to come of each file: ``read``, or the error.
"""

from __future__ import annotations

import io
import json
import os
import struct
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fuzz import mutate, seeds
from fuzz.readers import READERS, lay, outcome

FOLDER = Path(__file__).resolve().parents[1] / "regressions"
Files = Iterator[tuple[str, bytes]]


def hdf5_files() -> Files:
    """Hostile features in place of a member that the reader needs; files that are cut off or not what they seem."""
    trees = {
        "net": (seeds.net_trees()[0], ("layer", "1", "weight")),
        "nir": (seeds.nir_trees()[0], ("node", "nodes", "n0", "weight")),
        "h5": (seeds.DATA[0], ("x",)),
    }
    for kind, (tree, place) in trees.items():
        for feature, special in mutate.SPECIAL.items():
            yield f"{_slug(feature)}.{kind}", _small(_with(tree, place, special))
    net, nir = trees["net"][0], trees["nir"][0]
    groups = ("soft link", "external link", "group of itself", "deep groups", "many attributes", "unallocated", "texts")
    for feature in groups:
        yield f"group-is-{_slug(feature)}.net", _small(_with(net, ("layer", "1"), mutate.SPECIAL[feature]))
        yield f"group-is-{_slug(feature)}.nir", _small(_with(nir, ("node", "nodes"), mutate.SPECIAL[feature]))
    for feature in ("soft link", "null dataspace", "object reference", "texts", "long text", "lists", "unlimited"):
        yield f"type-is-{_slug(feature)}.net", _small(_with(net, ("layer", "1", "type"), mutate.SPECIAL[feature]))
        yield f"edges-are-{_slug(feature)}.nir", _small(_with(nir, ("node", "edges"), mutate.SPECIAL[feature]))
        metadata = _with(net, ("snn2chip", "metadata"), mutate.SPECIAL[feature])
        yield f"metadata-are-{_slug(feature)}.net", _small(metadata)
    for name, odd in {
        "line-break": "a\nb",
        "escape": "\x1b[31m",
        "not-ascii": "\u00e9\u4e16",
        "long": "n" * 2000,
    }.items():
        yield f"name-with-{name}.net", _small(_with(net, ("layer", odd), 1))
        yield f"name-with-{name}.nir", _small(_with(nir, ("node", "nodes", odd), nir["node"]["nodes"]["n0"]))
        yield f"name-with-{name}.h5", _small({odd: seeds.X})
    for kind, (tree, _) in trees.items():
        whole = mutate.hdf5(tree)
        for part in (8, 96, len(whole) // 3, len(whole) // 2, len(whole) - 1):
            yield f"cut-after-{part}.{kind}", whole[:part]
        yield f"end-of-file-beyond-the-end.{kind}", _put(whole, 40, "<Q", 1 << 60)
        yield f"root-group-points-nowhere.{kind}", _put(whole, 64, "<Q", 1 << 40)
        yield f"root-group-points-to-itself.{kind}", _put(whole, 64, "<Q", 0)
        yield f"superblock-version-9.{kind}", _put(whole, 8, "<B", 9)
        yield f"sizes-of-addresses-are-0.{kind}", _put(whole, 13, "<B", 0)
        yield f"two-files-in-one.{kind}", whole + whole
        yield f"user-block.{kind}", bytes(512) + whole
        yield f"latest-format.{kind}", mutate.hdf5(tree, libver="latest")
    yield "heap-without-an-end.nir", _heap(nir, 24, 0)
    yield "heap-object-beyond-its-heap.nir", _heap(nir, 24, 1 << 40)
    yield "heap-of-size-0.nir", _heap(nir, 8, 0)
    yield "text-in-no-heap.nir", _put_at(mutate.hdf5(nir), b"GCOL", 0, "<I", 0x4C4F4347)
    yield "subgraphs-nested-too-deeply.nir", _small(_nested(nir, 10))
    yield "edges-in-a-loop.nir", mutate.hdf5(_with(nir, ("node", "edges"), np.array([[b"n0", b"n1"], [b"n1", b"n0"]])))
    yield "no-edges.nir", mutate.hdf5(_with(nir, ("node", "edges"), np.zeros((0, 2), "S4")))
    for name, value in _METADATA.items():
        text = value if isinstance(value, bytes) else json.dumps(_changed_metadata(net, value)).encode()
        yield f"metadata-{name}.net", _small(_with(net, ("snn2chip", "metadata"), np.bytes_(text)))


_METADATA: dict[str, Any] = {
    "nested-too-deeply": b"[" * 9000,
    "not-json": b"{",
    "a-list": b"[]",
    "not-ascii": "\u00e9".encode(),
    "without-layers": {"layers": None},
    "layer-named-with-a-line-break": {"layers": [{"index": 1, "name": "a\nb"}]},
    "layer-with-a-long-name": {"layers": [{"index": 1, "name": "n" * 9000}]},
    "layer-of-no-index": {"layers": [{"index": "1", "name": "a"}]},
    "huge-window": {"window": 1 << 80},
    "negative-window": {"window": -1},
    "huge-time-steps": {"time_steps": 10**400},
    "scale-of-nan": {"encoding": {"kind": "graded", "scale": float("nan"), "low": 0, "high": 1}},
    "huge-scale": {"encoding": {"kind": "graded", "scale": 10**400, "low": 0, "high": 1}},
    "unknown-readout": {"readout": ["count"]},
    "target-with-escapes": {"target": "\x1b[31m"},
    "huge-spike-exponent": {"spike_exp": 1 << 70},
    "exit-of-a-list": {"exit": []},
    "exit-with-huge-numbers": {"exit": {"policy": "margin", "form": "host", "thresholds": [10**40], "scale": [1, 0]}},
}


def zip_files() -> Files:
    """Zip files that lie, and members that do."""
    x, y = seeds.npy(seeds.X), seeds.npy(seeds.Y)
    content = seeds.contents()[0]
    sound = {"npz": seeds.NPZ[0], "pt": seeds.saved(content), "pth": seeds.saved(seeds.contents()[2])}
    first = {"npz": "x.npy", "pt": "data.pkl", "pth": "data.pkl"}
    for kind, whole in sound.items():
        parts = mutate.members(whole)
        assert parts is not None
        names = [name for name, _, _ in parts]
        target = next(i for i, name in enumerate(names) if name.endswith(first[kind]))

        def renamed(name: str, parts: Any = parts, target: int = target) -> bytes:
            return mutate.packed([(name if i == target else old, c, m) for i, (old, c, m) in enumerate(parts)])

        yield f"member-twice.{kind}", mutate.packed([*parts, parts[target]])
        yield f"member-with-an-absolute-name.{kind}", renamed("/x.npy")
        yield f"member-that-climbs.{kind}", renamed("../../x.npy")
        yield f"member-with-a-backslash.{kind}", renamed("..\\x.npy").replace(b"../x.npy", b"..\\x.npy")
        yield f"member-with-a-line-break.{kind}", renamed("a\nb.npy")
        yield f"member-with-a-long-name.{kind}", renamed("n" * 9000)
        yield f"packed-by-lzma.{kind}", mutate.packed([(n, c, zipfile.ZIP_LZMA) for n, c, _ in parts])
        yield f"packed-by-bzip2.{kind}", mutate.packed([(n, c, zipfile.ZIP_BZIP2) for n, c, _ in parts])
        if kind == "npz":
            yield f"bomb.{kind}", mutate.packed([*parts, *((f"b/{i}", bytes(1 << 22), 8) for i in range(80))])
        central = whole.index(b"PK\1\2")
        for what, at, form, value in (
            ("encrypted", 8, "<H", 1),
            ("method-99", 10, "<H", 99),
            ("wrong-checksum", 16, "<I", 12345),
            ("packed-size-too-large", 20, "<I", 1 << 30),
            ("size-too-large", 24, "<I", 1 << 31),
            ("size-too-small", 24, "<I", 3),
            ("size-in-zip64-that-is-missing", 24, "<I", 0xFFFFFFFF),
            ("name-longer-than-the-directory", 28, "<H", 65535),
            ("extra-longer-than-the-directory", 30, "<H", 65535),
            ("overlapping-members", 42, "<I", 100),
            ("member-beyond-the-end", 42, "<I", 1 << 31),
        ):
            yield f"{what}.{kind}", _put(whole, central + at, form, value)
        end = whole.rindex(b"PK\5\6")
        for what, at, form, value in (
            ("directory-of-4-gib", 12, "<I", 0xFFFFFFFE),
            ("directory-before-the-start", 16, "<I", 0xFFFFFFF0),
            ("comment-longer-than-the-file", 20, "<H", 65535),
            ("directory-of-no-bytes", 12, "<I", 0),
        ):
            yield f"{what}.{kind}", _put(whole, end + at, form, value)
        locator = b"PK\6\7" + struct.pack("<IQI", 0, 1 << 60, 1)
        record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 60, 1 << 60)
        yield f"zip64-lies.{kind}", whole[:end] + record + locator + whole[end:]
        yield f"cut-in-the-middle.{kind}", whole[: len(whole) // 2]
        yield f"nothing-but-an-end.{kind}", whole[end:]
        yield f"empty.{kind}", b""
    for name, head in _HEADERS.items():
        yield f"npy-{name}.npz", mutate.packed([("x.npy", head + x[128:], 0), ("y.npy", y, 0)])
    yield "objects.npz", mutate.packed([("x.npy", _pickled_npy(), 0)])
    yield "no-arrays.npz", mutate.packed([("readme", b"", 0)])
    yield "other-arrays.npz", seeds.npz(**{"a\x1b": seeds.X})
    yield "huge-class-array.npz", mutate.packed([("x.npy", x, 0), ("y.npy", _npy_head("'<i8'", f"({1 << 60},)"), 0)])
    yield from _torch_files(content)


def _npy_head(descr: str, shape: str, order: str = "False", version: bytes = b"\1\0") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2 if version[0] == 1 else 4, "little") + text


_HEADERS = {
    "huge-shape": _npy_head("'|u1'", f"({10**30}, 4)"),
    "huge-shape-of-no-values": _npy_head("'|u1'", f"(0, {10**30})"),
    "negative-shape": _npy_head("'|u1'", "(-60,)"),
    "shape-of-many-digits": _npy_head("'|u1'", f"({'9' * 5000},)"),
    "shape-of-many-axes": _npy_head("'|u1'", "(" + "1, " * 100 + ")"),
    "shape-of-code": _npy_head("'|u1'", "(__import__('os').getpid(),)"),
    "shape-of-truth": _npy_head("'|u1'", "(True, 60)"),
    "fortran-order": _npy_head("'|u1'", "(5, 3, 4)", "True"),
    "order-of-none": _npy_head("'|u1'", "(5, 3, 4)", "None"),
    "objects": _npy_head("'|O'", "(5, 3, 4)"),
    "dates": _npy_head("'<M8[s]'", "(5, 3, 4)"),
    "complex": _npy_head("'<c16'", "(5, 3, 4)"),
    "structured": _npy_head("[('a', '|u1')]", "(5, 3, 4)"),
    "nested-type": _npy_head("[('a', [('b', '|O')])]", "(5,)"),
    "type-of-code": _npy_head("__import__('os')", "(5,)"),
    "type-with-a-shape": _npy_head("('|u1', (4,))", "(5, 3)"),
    "text-of-no-width": _npy_head("'|S0'", "(5, 3, 4)"),
    "version-3": _npy_head("'|u1'", "(5, 3, 4)", version=b"\3\0"),
    "version-255": _npy_head("'|u1'", "(5, 3, 4)", version=b"\xff\0"),
    "parentheses": b"\x93NUMPY\1\0" + struct.pack("<H", 8000) + b"(" * 4000 + b")" * 4000,
    "brackets-that-stay-open": b"\x93NUMPY\1\0" + struct.pack("<H", 300) + b"{" * 299 + b"\n",
    "longs-of-python-2": b"\x93NUMPY\1\0" + struct.pack("<H", 60) + b"{'descr': '|u1', 'shape': (60L, 1L".ljust(60),
    "line-continued-for-ever": b"\x93NUMPY\1\0" + struct.pack("<H", 60) + b"{'descr': (\\".ljust(60, b"\\"),
    "header-of-4-gib": b"\x93NUMPY\2\0" + struct.pack("<I", 0xFFFFFFF0) + b"{}",
    "header-of-no-bytes": b"\x93NUMPY\1\0\0\0",
    "header-not-latin": b"\x93NUMPY\1\0" + struct.pack("<H", 20) + b"{'d\xff\0': \x00}".ljust(20),
}


def _pickled_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}, None], object), allow_pickle=True)
    return buffer.getvalue()


#: Instructions, as a pickle; ``{}`` is where a sound one would stand.
_PICKLES: dict[str, bytes] = {
    "that-makes-a-file": b"\x80\x02cpathlib\nPath\nX\x14\0\0\0snn2chip-was-unsafe!\x85R.touch",
    "that-calls-the-shell": b"\x80\x02cposix\nsystem\nX\x1a\0\0\0touch snn2chip-was-unsafe!!\x85R.",
    "that-evaluates": b"\x80\x02cbuiltins\neval\nX\x1e\0\0\0open('snn2chip-was-unsafe!','w')\x85R.",
    "that-names-by-stack": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.",
    "that-imports-by-extension": b"\x80\x02\x82\x01.",
    "of-an-object": b"\x80\x02c__main__\nX\n)\x81.",
    "of-a-module": b"\x80\x02ctorch.nn.modules.linear\nLinear\n)\x81}b.",
    "with-memo-of-4-billion": b"\x80\x02}r\xff\xff\xff\xff.",
    "with-text-of-4-gib": b"\x80\x02X\xff\xff\xff\xffab.",
    "with-text-of-2-to-60": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"ab.",
    "with-long-of-2-gib": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "with-decimal-of-many-digits": b"\x80\x02L" + b"9" * 9000 + b"L\n.",
    "with-keys-that-hash-for-ever": b"\x80\x02}" + b")" + b"\x85q\0h\0\x86" * 60 + b"K\1s.",
    "with-values-that-print-for-ever": b"\x80\x02}X\6\0\0\0format]" + b"q\0]h\0ah\0a" * 60 + b"s.",
    "that-holds-itself": b"\x80\x02]q\0h\0a.",
    "nested-too-deeply": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "without-an-end": b"\x80\x02}}}}",
    "without-a-start": b".",
    "of-nothing": b"",
    "with-mark-alone": b"\x80\x02(.",
    "with-marks-everywhere": b"\x80\x02" + b"(" * 20000 + b"t.",
    "that-builds-a-dict": b"\x80\x02}}X\x05\0\0\0itemsK\1sb.",
    "that-pops": b"\x80\x02}0.",
    "of-protocol-255": b"\x80\xff}.",
    "that-repeats-a-call": b"\x80\x02ccollections\nOrderedDict\nq\0" + b")Rh\0" * 3000 + b".",
}


def _storage(kind: str = "FloatStorage", key: str = "0", count: int = 4) -> bytes:
    key_bytes = key.encode()
    text = b"X" + struct.pack("<I", len(key_bytes)) + key_bytes
    number = b"\x8a\x08" + struct.pack("<q", count)
    return b"(X\7\0\0\0storagectorch\n" + kind.encode() + b"\n" + text + b"X\3\0\0\0cpu" + number + b"tQ"


def _rebuilt(storage: bytes, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    def long(n: int) -> bytes:
        return b"\x8a\x09" + n.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(long, values)) + b"t"

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + long(offset) + numbers(size) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


_TENSORS = {
    "past-its-storage": (_storage(count=1 << 40), 0, (1 << 40,), (1,)),
    "past-its-storage-by-one": (_storage(), 1, (4,), (1,)),
    "of-negative-length": (_storage(count=-1), 0, (1,), (1,)),
    "before-its-storage": (_storage(), -1, (2,), (1,)),
    "of-negative-stride": (_storage(), 3, (4,), (-1,)),
    "repeated-a-billion-times": (_storage(), 0, (1 << 30,), (0,)),
    "repeated-in-many-axes": (_storage(), 0, (1 << 10,) * 6, (0,) * 6),
    "of-overflowing-shape": (_storage(), 0, (1 << 62, 1 << 62), (0, 0)),
    "of-no-values-and-huge-shape": (_storage(), 0, (0, 1 << 62), (1, 1)),
    "of-many-axes": (_storage(), 0, (1,) * 99, (1,) * 99),
    "of-overflowing-stride": (_storage(), 0, (1, 4), (1 << 62, 1)),
    "of-more-strides-than-axes": (_storage(), 0, (4,), (1, 1)),
    "of-a-storage-elsewhere": (_storage(key="../version"), 0, (1,), (1,)),
    "of-a-storage-that-is-missing": (_storage(key="9"), 0, (4,), (1,)),
    "of-another-type": (_storage("DoubleStorage"), 0, (4,), (1,)),
    "of-truth-values": (_storage("BoolStorage", count=16), 0, (16,), (1,)),
    "of-quantised-values": (_storage("QInt8Storage", count=16), 0, (16,), (1,)),
}


def _torch_files(content: Any) -> Files:
    def archive(pickle: bytes, order: bytes = b"little") -> bytes:
        values = np.arange(4, dtype=np.float32).tobytes()
        parts = {"data.pkl": pickle, "byteorder": order, "data/0": values, "version": b"3\n"}
        return mutate.packed([(f"archive/{name}", data, 0) for name, data in parts.items()])

    for name, pickle in _PICKLES.items():
        yield f"pickle-{name}.pt", archive(pickle)
        yield f"pickle-{name}.pth", archive(pickle)
    for name, arguments in _TENSORS.items():
        yield f"tensor-{name}.pth", archive(b"\x80\x02}X\1\0\0\0a" + _rebuilt(*arguments) + b"s.")
    yield "legacy-pickle.pt", _PICKLES["that-makes-a-file"]
    yield "legacy-pickle.pth", _PICKLES["that-makes-a-file"]
    yield "tar-with-a-zip-behind.pt", bytes(512) + b"storages".ljust(512, b"\0") + seeds.saved(content)
    yield "byte-order-of-another-machine.pth", archive(b"\x80\x02}.", b"big")
    yield "two-pickles.pth", mutate.packed([("a/data.pkl", b"\x80\x02}.", 0), ("b/data.pkl", b"\x80\x02}.", 0)])
    changes: dict[str, Any] = {
        "version-99": {"version": 99},
        "version-of-truth": {"version": True},
        "time-steps-infinite": {"time_steps": float("inf")},
        "time-steps-huge": {"time_steps": 1 << 70},
        "no-nodes": {"nodes": []},
        "nodes-of-text": {"nodes": "abc"},
        "calibration-of-text": {"calibration": "abc"},
        "calibration-of-nothing": {"calibration": {}},
        "readout-unknown": {"readout": "\x1b"},
    }
    for name, change in changes.items():
        yield f"model-{name}.pt", seeds.saved({**content, **change})
    for field, value in (
        ("name", "a\nb"), ("name", "n" * 9000), ("name", 5), ("inputs", ("x",) * 9), ("type", []),
        ("shape", (1 << 62, 4)),
        ("shape", (-1,)), ("shape", ()), ("kind", None),
    ):  # fmt: skip
        nodes = [dict(node) for node in content["nodes"]]
        nodes[0][field] = value
        yield f"node-{field}-{_slug(str(value)[:20])}.pt", seeds.saved({**content, "nodes": nodes})
    image = seeds.contents()[1]
    for field, value in (
        ("stride", (0, 0)),
        ("stride", (-1, 1)),
        ("dilation", (0, 1)),
        ("padding", (-9, 0)),
        ("groups", 0),
    ):
        nodes = [dict(node) for node in image["nodes"]]
        next(node for node in nodes if node["type"] == "Conv2d")[field] = value
        yield f"conv-{field}-{'-'.join(str(value).strip('()').split(', '))}.pt", seeds.saved({**image, "nodes": nodes})


def folder_files() -> Files:
    """Folders of ``.npy`` files, coded in one file."""
    between = b"\n--next file--\n"
    for name, head in _HEADERS.items():
        yield f"npy-{name}.folder", between.join((head + seeds.npy(seeds.X)[128:], seeds.npy(seeds.Y)))
    yield "shard-missing.folder", between.join([seeds.npy(seeds.X), seeds.npy(seeds.Y), seeds.npy(seeds.X)])
    yield "cut.folder", between.join((seeds.npy(seeds.X)[:-1], seeds.npy(seeds.Y)))


def text_files() -> Files:
    """YAML, and runs in JSON."""
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    texts: dict[str, bytes] = {
        "references": bomb.encode(),
        "python-object": b"bits: !!python/object/apply:os.system ['touch snn2chip-was-unsafe!']",
        "python-name": b"bits: !!python/name:os.system",
        "timestamp-by-type": b"bits: !!timestamp abc",
        "truth-by-type": b"per_neuron: !!bool abc",
        "number-by-type": b"bits: !!int ''",
        "binary": b"bits: !!binary ====",
        "merge": b"<<: {bits: 8}",
        "sexagesimal": b"bits: " + b"1:" * 900 + b"1",
        "many-digits": b"window: " + b"9" * 9000,
        "hexadecimal-of-many-digits": b"bits: 0x" + b"f" * 9000,
        "infinity": b"bits: auto\nmax_drop: .inf",
        "nested-lists": b"bits: " + b"[" * 5000,
        "nested-maps": b"{a: " * 3000,
        "list-as-key": b"? [1, 2]\n: 3",
        "map-as-key": b"? {a: 1}\n: 3",
        "given-twice": b"bits: 8\nbits: 4",
        "layer-with-a-line-break": b'layers: {"a\\nb\\e[31m": {bits: 99}}',
        "layer-with-a-long-name": b"layers: {" + b"n" * 900 + b": {bits: 99}}",
        "key-with-escapes": b'"\\e[31m": 1',
        "null-bytes": b"bits: 8\0",
        "utf-16": "bits: 8".encode("utf-16"),
        "not-utf-8": b"\xff\xfe\xfd",
        "two-documents": b"bits: 8\n---\nbits: 7\n",
        "directive": b"%YAML 9.9\n---\nbits: 8\n",
        "tabs": b"layers:\n\ta: 1",
        "date": b"bits: 2001-99-99",
    }
    for name, text in texts.items():
        yield f"{name}.yaml", text
    sound = json.loads(seeds.unfinished())
    changes: dict[str, Any] = {
        "finished": {"finished": True},
        "unknown-format": {"format": "x"},
        "without-progress": {"unfinished": None},
        "beyond-the-data": {"unfinished": {**sound["unfinished"], "samples_done": 10**30}},
        "negative": {"unfinished": {**sound["unfinished"], "samples_done": -1, "correct": -1}},
        "ragged-counts": {"unfinished": {**sound["unfinished"], "spikes_per_step": [[1], [2, 3]]}},
        "huge-counts": {"unfinished": {**sound["unfinished"], "spikes_per_step": [[1 << 70] * 3]}},
        "counts-of-text": {"unfinished": {**sound["unfinished"], "operations_per_step": "abc"}},
        "settings-of-text": {"settings": "abc"},
        "other-network": {"settings": {**sound["settings"], "network": "\x1b[31m\n"}},
        "hash-of-other-data": {"unfinished": {**sound["unfinished"], "sha256": "0"}},
    }
    for name, change in changes.items():
        yield f"run-{name}.json", json.dumps({**sound, **change}).encode()
    yield "run-nested-too-deeply.json", b"[" * 9000
    yield "run-not-json.json", b"{"
    yield "run-of-nan.json", b'{"format": "snn2chip run 1", "settings": NaN}'


READER_OF = {"folder": "npy", "json": "run", "pth": "state"}


def reader_of(name: str) -> str:
    """The reader of a regression file, by its last suffix."""
    suffix = name.rpartition(".")[2]
    return READER_OF.get(suffix, suffix)


def expected(name: str, content: bytes, folder: Path) -> str:
    """What comes of a file."""
    reader = READERS[reader_of(name)]
    return outcome(reader, lay(reader, folder, content))


def main() -> None:
    """Write them."""
    os.environ["SNN2CHIP_READER_SECONDS"] = "2"
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        if not old.name.startswith("found-"):
            old.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = [*hdf5_files(), *zip_files(), *folder_files(), *text_files()]
    for name, content in files:
        assert not (FOLDER / name).exists(), name
        (FOLDER / name).write_bytes(content)
    outcomes = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in sorted(FOLDER.iterdir()):
            outcomes[file.name] = expected(file.name, file.read_bytes(), Path(folder))
    (FOLDER / "outcomes.json").write_text(json.dumps(outcomes, indent=0, sort_keys=True) + "\n")
    size = sum(file.stat().st_size for file in FOLDER.iterdir())
    sys.stdout.write(f"{len(outcomes)} files, {size} bytes\n")


# Helpers


def _slug(text: str) -> str:
    return "-".join("".join(c if c.isalnum() else " " for c in text).split()) or "empty"


def _small(tree: Any) -> bytes:
    """In the newest format, which takes less room."""
    return mutate.hdf5(tree, libver="latest")


def _with(tree: Any, place: tuple[str, ...], value: Any) -> Any:
    name, *rest = place
    return {**tree, name: _with(tree.get(name, {}), tuple(rest), value) if rest else value}


def _nested(tree: Any, depth: int) -> Any:
    graph = tree["node"]
    for _ in range(depth):
        graph = {**tree["node"], "nodes": {**tree["node"]["nodes"], "n0": graph}}
    return {**tree, "node": graph}


def _put(data: bytes, at: int, form: str, value: int) -> bytes:
    out = bytearray(data)
    struct.pack_into(form, out, at, value)
    return bytes(out)


def _put_at(data: bytes, mark: bytes, at: int, form: str, value: int) -> bytes:
    return _put(data, data.index(mark) + at, form, value ^ int.from_bytes(b"\1", "little"))


def _heap(tree: Any, at: int, value: int) -> bytes:
    data = mutate.hdf5(tree)
    return _put(data, data.index(b"GCOL") + at, "<Q", value)


def _changed_metadata(tree: Any, change: dict[str, Any]) -> Any:
    with h5py.File(io.BytesIO(mutate.hdf5(tree)), "r") as file:
        return {**json.loads(file["snn2chip/metadata"][()]), **change}


if __name__ == "__main__":
    main()
