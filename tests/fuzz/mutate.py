"""Changes of files that keep the container sound, so that readers see more than a wrong checksum.

Each function takes a :class:`random.Random` and gives bytes; trees of HDF5 files are written anew each time, because
opening a damaged one here could end the process.
"""

from __future__ import annotations

import copy
import io
import json
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import h5py
import numpy as np

NUMBERS = (0, 1, -1, 2, 3, 7, 8, 127, 128, 255, 256, 4095, 4096, 32767, 65535, 2**31 - 1, 2**31, 2**32 - 1)
HUGE = (*NUMBERS, 2**40, 2**62, 2**63 - 1, 2**64 - 1, -(2**31), -(2**63))
WORDS = (
    "",
    "x",
    "y",
    "type",
    "CUBA",
    "SDNN",
    "RF",
    "dense",
    "conv",
    "a\nb",
    "\x1b[31m",
    "é",
    "\0",
    "..",
    "/",
    "%s",
    "nan",
)


def raw(rng: random.Random, data: bytes, most: int = 4) -> bytes:
    """Bytes changed, cut out, doubled, replaced by telling numbers."""
    content = bytearray(data or b"\0")
    for _ in range(rng.randint(1, most)):
        at = rng.randrange(len(content)) if content else 0
        kind = rng.random()
        if kind < 0.35 and content:
            content[at] = rng.randrange(256)
        elif kind < 0.5 and content:
            content[at] ^= 1 << rng.randrange(8)
        elif kind < 0.75:
            width = rng.choice(("<B", "<H", "<I", "<Q", ">I", ">Q"))
            value = rng.choice(HUGE) & ((1 << 8 * struct.calcsize(width)) - 1)
            content[at : at + struct.calcsize(width)] = struct.pack(width, value)
        elif kind < 0.85:
            del content[at : at + rng.choice((1, 2, 8, 64, 1 << 20))]
        elif kind < 0.95:
            part = content[at : at + rng.choice((1, 8, 32, 200))]
            to = rng.randrange(len(content) + 1)
            content[to:to] = part
        else:
            del content[at:]
    return bytes(content)


def number(rng: random.Random) -> Any:
    """A value that some check may have forgotten."""
    return rng.choice(
        (
            rng.choice(HUGE),
            rng.choice(NUMBERS),
            rng.uniform(-10, 10),
            float("nan"),
            float("inf"),
            1e300,
            True,
            None,
            rng.choice(WORDS),
        )
    )


def json_tree(rng: random.Random, content: Any) -> Any:
    """One place of plain containers changed."""
    content = copy.deepcopy(content)
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            places.append((node, key))
            walk(node[key])

    walk(content)
    if not places:
        return number(rng)
    parent, key = rng.choice(places)
    kind = rng.random()
    if kind < 0.5:
        parent[key] = number(rng)
    elif kind < 0.6:
        parent[key] = rng.choice(([], {}, [[]] * 3, {"a": {}}, [number(rng)] * 3, "9" * 5000))
    elif kind < 0.75 and isinstance(parent, dict):
        parent[rng.choice(WORDS)] = parent.pop(key)
    elif kind < 0.85 and isinstance(parent, dict):
        del parent[key]
    elif kind < 0.9:
        source, place = rng.choice(places)
        parent[key] = copy.deepcopy(source.get(place) if isinstance(source, dict) else number(rng))
    elif isinstance(parent[key], int):
        parent[key] += rng.choice((-1, 1))
    else:
        parent[key] = [parent[key]]
    return content


def json_bytes(rng: random.Random, data: bytes) -> bytes:
    """A JSON file."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return raw(rng, data)
    if rng.random() < 0.2:
        return raw(rng, data)
    for _ in range(rng.randint(1, 3)):
        content = json_tree(rng, content)
    return json.dumps(content).encode()


# zip


def npy_header(rng: random.Random, data: bytes) -> bytes:
    """An ``.npy`` file with another header."""
    shape = rng.choice(
        ("()", "(5,)", "(5, 3, 4)", "(-1, 4)", "(True, 60)", "(2**9, 3)", f"({rng.choice(HUGE)}, 4)", "(0, 3)", "[5]")
    )
    descr = rng.choice(
        (
            "'|u1'", "'<f8'", "'|O'", "'<i4'", "'>c16'", "'<M8[s]'", "[('a', '<i4')]", "'V9'", "'|S0'", "('<f4', (2,))",
            "'<U9'", "1", "None", "'|b1'", "__import__('os')", "'<f16'", "[('', '|O')] * 3",
        )
    )  # fmt: skip
    text = f"{{'descr': {descr}, 'fortran_order': {rng.choice(('True', 'False', '0', 'None'))}, 'shape': {shape}, }}"
    if rng.random() < 0.2:
        text = rng.choice(("(" * 300 + ")" * 300, "{" * 90, text[: rng.randrange(len(text))], "5L", text + "#", "\\"))
    head = text.encode("latin-1").ljust(54) + b"\n"
    version = rng.choice((b"\1\0", b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\0"))
    length = struct.pack("<H" if version[0] == 1 else "<I", rng.choice((len(head), len(head), 0, 9, 65535)))
    body = rng.choice((data[128:], bytes(60), bytes(480), b"", data[128:] + b"\0"))
    return b"\x93NUMPY" + version + length + head + body


def members(data: bytes) -> list[tuple[str, bytes, int]] | None:
    """What a sound zip file holds."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            infos = file.infolist()
            if len(infos) > 40 or sum(info.file_size for info in infos) > 1 << 20:
                return None
            return [(info.filename, file.read(info), info.compress_type) for info in infos]
    except Exception:  # it is damaged already
        return None


def packed(parts: Sequence[tuple[str, bytes, int]]) -> bytes:
    """A zip file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w") as file:
        warnings.simplefilter("ignore")
        for name, content, method in parts:
            if zipfile.ZipInfo(name).filename:  # Python cuts names at a zero byte, and writes none that are empty
                file.writestr(name, content, method)
    return buffer.getvalue()


def archive(rng: random.Random, data: bytes, change: Callable[[random.Random, str, bytes], bytes]) -> bytes:
    """A zip file whose members are changed by ``change``, or its directory."""
    parts = members(data)
    if not parts or rng.random() < 0.15:
        return raw(rng, data)
    for _ in range(rng.randint(1, 2)):
        i = rng.randrange(len(parts))
        name, content, method = parts[i]
        kind = rng.random()
        if kind < 0.6:
            parts[i] = (name, change(rng, name, content), method)
        elif kind < 0.7:
            wanted = rng.choice((*WORDS, "x.npy", "y.npy", "../x.npy", "/etc/x", "C:\\x", "a/data.pkl", "a" * 300))
            parts[i] = (wanted or "n", content, method)
        elif kind < 0.78 and len(parts) > 1:
            del parts[i]
        elif kind < 0.84:
            parts.append(parts[i])
        elif kind < 0.9:
            methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2)
            parts[i] = (name, content, rng.choice(methods))
        else:
            parts[i] = (name, content * rng.choice((0, 2, 50)), zipfile.ZIP_DEFLATED)
    out = packed(parts)
    if rng.random() < 0.3:
        out = directory(rng, out)
    return out


def directory(rng: random.Random, data: bytes) -> bytes:
    """One field of a zip file's headers changed."""
    content = bytearray(data)
    fields = {
        b"PK\1\2": (8, 10, 16, 20, 24, 28, 30, 32, 38, 42),
        b"PK\3\4": (6, 8, 14, 18, 22, 26, 28),
        b"PK\5\6": (8, 10, 12, 16, 20),
    }
    mark = rng.choice(list(fields))
    starts = [found.start() for found in re.finditer(re.escape(mark), data)]
    if starts:
        at = rng.choice(starts) + rng.choice(fields[mark])
        value = rng.choice((*HUGE, len(data), len(data) + 1, rng.randrange(len(data)))) & 0xFFFFFFFF
        width = rng.choice((2, 4))
        content[at : at + width] = (value & ((1 << 8 * width) - 1)).to_bytes(width, "little")
    return bytes(content)


def npy_member(rng: random.Random, name: str, data: bytes) -> bytes:
    return npy_header(rng, data) if rng.random() < 0.6 else raw(rng, data)


# torch


_GLOBALS = (
    b"ctorch\nFloatStorage\n", b"ctorch\nLongStorage\n", b"ctorch\nBoolStorage\n", b"ctorch\nComplexFloatStorage\n",
    b"ccollections\nOrderedDict\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"cos\nsystem\n", b"ctorch\nSize\n",
    b"ctorch\nBFloat16Storage\n", b"cbuiltins\neval\n", b"ctorch.storage\nUntypedStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nuint16\n",
)  # fmt: skip
_CODES = (
    b"}", b"]", b")", b"N", b"\x88", b"(", b"t", b"u", b"s", b"e", b"a", b"R", b"b", b"Q", b"0", b"2", b"1", b"\x94",
    b"\x85", b"K\x05", b"J\xff\xff\xff\x7f", b"M\xff\xff", b"h\x01", b"q\x01", b"G\x7f\xf8\0\0\0\0\0\0",
    b"X\x01\0\0\0x", b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b".", b"\x81",
    b"c__main__\nx\n",
)  # fmt: skip


def pickle_member(rng: random.Random, name: str, data: bytes) -> bytes:
    """A pickle with instructions replaced, or any other member."""
    if not name.endswith("data.pkl") or rng.random() < 0.15:
        return raw(rng, data)
    try:
        starts = [place for _, _, place in pickletools.genops(data)]
    except Exception:  # it is damaged already
        return raw(rng, data)
    parts = [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(parts))
        kind = rng.random()
        if kind < 0.3:
            names = [j for j, part in enumerate(parts) if part[:1] == b"c"] or [i]
            parts[rng.choice(names)] = rng.choice(_GLOBALS)
        elif kind < 0.6:
            whole = [j for j, part in enumerate(parts) if part[:1] in b"KMJ"] or [i]
            value = rng.choice(
                (b"K\0", b"K\1", b"K\3", b"K\xff", b"M\0\1", b"J\xff\xff\xff\xff", b"J\0\0\0\x80", *_CODES[-11:-5])
            )
            parts[rng.choice(whole)] = value
        elif kind < 0.7:
            parts[i] = parts[rng.randrange(len(parts))]
        elif kind < 0.8:
            parts[i] = b""
        elif kind < 0.9:
            parts[i] = rng.choice(_CODES)
        else:
            parts[i] += rng.choice(_CODES)
    return b"".join(parts)


def model(rng: random.Random, content: Any, save: Callable[[Any], bytes]) -> bytes:
    """A sound file with other content."""
    import torch

    content = json_tree(rng, _listed(content))
    for _ in range(rng.randint(0, 2)):
        content = json_tree(rng, content)
    tensors: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key in node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            if isinstance(node[key], torch.Tensor):
                tensors.append((node, key))
            else:
                walk(node[key])

    walk(content)
    if tensors and rng.random() < 0.6:
        parent, key = rng.choice(tensors)
        old = parent[key]
        parent[key] = rng.choice(
            (
                lambda: old.to(rng.choice((torch.int32, torch.bool, torch.bfloat16, torch.complex64, torch.uint8))),
                lambda: old.reshape(-1),
                lambda: old[..., :1],
                lambda: old * rng.choice((0.0, -1.0, 1e30, float("nan"))),
                lambda: old.unsqueeze(0),
                lambda: torch.zeros(0),
                lambda: torch.ones(1).expand(rng.choice((3, 1 << 20, 1 << 21))),
                lambda: torch.zeros(rng.choice(((1,), (3, 4), (1, 1, 1, 1, 1), ()))),
            )
        )()
    try:
        return save(content)
    except Exception:  # nothing that torch can write
        return b""


def _listed(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _listed(value) for key, value in node.items()}
    return [_listed(value) for value in node] if isinstance(node, list | tuple) else node


# HDF5


class Special:
    """A member that is no plain value: ``store(group, name)`` writes it."""

    def __init__(self, store: Callable[[Any, str], None]) -> None:
        self.store = store


def hdf5(tree: dict[str, Any], **options: Any) -> bytes:
    """An HDF5 file of a tree."""
    with h5py.File("image", "w", driver="core", backing_store=False, **options) as file:
        _fill(file, tree)
        file.flush()
        return bytes(file.id.get_file_image())


def _fill(group: Any, tree: dict[str, Any]) -> None:
    for name, value in tree.items():
        try:
            if isinstance(value, dict):
                _fill(group.create_group(name), value)
            elif isinstance(value, Special):
                value.store(group, name)
            else:
                group[name] = value
        except (ValueError, TypeError, OSError, RuntimeError, KeyError):  # h5py cannot write that
            continue


def _huge(shape: tuple[int, ...], **options: Any) -> Special:
    return Special(lambda group, name: group.create_dataset(name, shape, options.pop("dtype", "i2"), **options))


def _low(group: Any, name: str, kind: Any, space: Any, value: Any = None) -> None:
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space)
    if value is not None:
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, value)


def _virtual(group: Any, name: str) -> None:
    layout = h5py.VirtualLayout((2, 3), "i4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (2, 3))
    group.create_virtual_dataset(name, layout)


def _attributes(group: Any, name: str) -> None:
    made = group.create_group(name)
    for i in range(60):
        made.attrs[f"a{i}"] = "text" if i % 2 else np.arange(40)


def _reference(kind: Any) -> Callable[[Any, str], None]:
    def store(group: Any, name: str) -> None:
        made = group.create_dataset(name, (2,), kind)
        made[0] = group.ref if kind is h5py.ref_dtype else None

    return store


def _deep(group: Any, name: str) -> None:
    for _ in range(30):
        group = group.create_group(name)


def _vlen(group: Any, name: str) -> None:
    group.create_dataset(name, (2,), h5py.vlen_dtype(np.int32))[0] = [1, 2, 3]


def _compact(group: Any, name: str) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.NATIVE_INT32, h5py.h5s.create_simple((4,)), plist)


def _cycle(group: Any, name: str) -> None:
    group[name] = group


def _bomb(group: Any, name: str) -> None:
    group.create_dataset(name, (1 << 22,), "i1", chunks=(1 << 20,), compression="gzip", compression_opts=1)[:] = 1


_ONES = np.ones((2, 3))
#: Hostile features, each under the name of any member.
SPECIAL: dict[str, Special] = {
    "soft link": Special(lambda group, name: group.__setitem__(name, h5py.SoftLink("/layer"))),
    "soft link to itself": Special(lambda group, name: group.__setitem__(name, h5py.SoftLink(name))),
    "dangling soft link": Special(lambda group, name: group.__setitem__(name, h5py.SoftLink("/nowhere"))),
    "external link": Special(lambda group, name: group.__setitem__(name, h5py.ExternalLink("/etc/passwd", "/"))),
    "external storage": Special(
        lambda group, name: group.create_dataset(name, (2, 3), "i1", external=[("/etc/passwd", 0, 6)])
    ),
    "virtual dataset": Special(_virtual),
    "group of itself": Special(_cycle),
    "deep groups": Special(_deep),
    "many attributes": Special(_attributes),
    "unallocated": _huge((1 << 20, 1 << 20), chunks=(1, 64)),
    "unlimited": _huge((1 << 40,), maxshape=(None,), chunks=(64,)),
    "absurd chunks": _huge((1 << 15, 1 << 15), chunks=(1 << 15, 1 << 15), compression="gzip"),
    "fill value": _huge((1 << 30,), fillvalue=7, chunks=(64,)),
    "compression bomb": Special(_bomb),
    "empty": Special(lambda group, name: group.create_dataset(name, data=np.zeros((0, 3)))),
    "null dataspace": Special(lambda group, name: group.__setitem__(name, h5py.Empty("f8"))),
    "object reference": Special(_reference(h5py.ref_dtype)),
    "region reference": Special(_reference(h5py.regionref_dtype)),
    "committed type": Special(lambda group, name: group.__setitem__(name, np.dtype("i4"))),
    "lists": Special(_vlen),
    "compact": Special(_compact),
    "texts": Special(lambda group, name: group.__setitem__(name, np.array([b"a", b"bc", b""], object))),
    "long text": Special(lambda group, name: group.__setitem__(name, "x" * 20000)),
    "text of fixed length": Special(lambda group, name: group.__setitem__(name, np.bytes_(b"conv\0\0"))),
    "complex": Special(lambda group, name: group.__setitem__(name, np.ones((2, 3), complex))),
    "structured": Special(lambda group, name: group.__setitem__(name, np.zeros(3, "i4,f8"))),
    "array type": Special(lambda group, name: group.create_dataset(name, (2,), np.dtype(("<i4", (3,))))),
    "opaque": Special(lambda group, name: group.__setitem__(name, np.zeros(3, "V5"))),
    "long double": Special(lambda group, name: group.__setitem__(name, np.ones((2, 3), np.longdouble))),
    "half": Special(lambda group, name: group.__setitem__(name, np.ones((2, 3), np.float16))),
    "bits": Special(lambda group, name: _low(group, name, h5py.h5t.STD_B8LE, h5py.h5s.create_simple((4,)))),
    "time": Special(lambda group, name: _low(group, name, h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4,)))),
    "odd integers": Special(lambda group, name: _low(group, name, _odd_type(), h5py.h5s.create_simple((4,)))),
    "enumeration": Special(
        lambda group, name: group.create_dataset(name, (3,), h5py.enum_dtype({"a": 0, "b": 1}, "i1"))
    ),
    "many axes": Special(lambda group, name: group.__setitem__(name, np.zeros((1,) * 32))),
    "shuffled and checked": Special(
        lambda group, name: group.create_dataset(name, data=_ONES, chunks=(1, 3), shuffle=True, fletcher32=True)
    ),
    "lzf": Special(lambda group, name: group.create_dataset(name, data=_ONES, chunks=(1, 3), compression="lzf")),
    "scale-offset": Special(
        lambda group, name: group.create_dataset(name, data=_ONES.astype(int), chunks=(1, 3), scaleoffset=0)
    ),
}  # fmt: skip


def _odd_type() -> Any:
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(13)
    kind.set_offset(5)
    return kind


def hdf5_tree(rng: random.Random, tree: dict[str, Any]) -> bytes:
    """A file of a tree of which some members are changed, retyped, renamed, dropped, or hostile."""
    tree = copy.deepcopy(tree)
    for _ in range(rng.randint(1, 3)):
        places: list[tuple[dict[str, Any], str]] = []

        def walk(node: dict[str, Any], places: list[tuple[dict[str, Any], str]] = places) -> None:
            for key, value in node.items():
                places.append((node, key))
                if isinstance(value, dict):
                    walk(value)

        walk(tree)
        if not places:
            break
        parent, key = rng.choice(places)
        old = parent[key]
        kind = rng.random()
        if kind < 0.15:
            parent[key] = rng.choice(list(SPECIAL.values()))
        elif kind < 0.25:
            del parent[key]
        elif kind < 0.33:
            new = rng.choice(
                (*WORDS[:-3], "0", "1", "weight", "bias", "neuron", "delay", "vThMant", "imag", "metadata")
            )
            parent[new or "n"] = parent.pop(key)
        elif kind < 0.4:
            source, place = rng.choice(places)
            parent[key] = copy.deepcopy(source.get(place, 0))
        elif key == "metadata" and isinstance(old, bytes):
            text = json_bytes(rng, old).replace(b"\0", b"")
            parent[key] = np.bytes_(text) if rng.random() < 0.7 else text
        elif isinstance(old, dict):
            continue
        elif isinstance(old, bytes | str):
            kinds = "CUBA SDNN RF RF_PHASE dense conv input flatten dense_rec pool NIRGraph LIF LI I IF Affine Linear"
            parent[key] = rng.choice((*kinds.split(), "Scale", "Flatten", "Conv2d", "Input", "Output", *WORDS)).encode()
        elif not isinstance(old, Special):
            parent[key] = _array(rng, old)
    options = {} if rng.random() < 0.8 else {"libver": "latest"}
    data = hdf5(tree, **options)
    return raw(rng, data) if rng.random() < 0.2 else data


def _array(rng: random.Random, old: Any) -> Any:
    array = np.array(old)
    if array.dtype.kind not in "iufb":
        return number(rng) or 0
    kind = rng.random()
    if kind < 0.3:
        array = array.astype(rng.choice(("i1", "u1", "i8", "u8", "f2", "f4", "f8", "?", ">i4", "c8", "S3")))
    elif kind < 0.45:
        array = array.reshape(-1)
    elif kind < 0.6:
        array = array[None] if rng.random() < 0.5 else array.reshape(-1)[: rng.choice((0, 1, 2))]
    elif kind < 0.7:
        array = array.T.copy()
    elif array.size:
        array = array.astype(rng.choice((array.dtype, np.float64)))
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = rng.choice((*NUMBERS, float("nan"), float("inf"), 0.5, 1e300))
            try:
                array.reshape(-1)[rng.randrange(array.size)] = value
            except (ValueError, OverflowError):
                array.reshape(-1)[0] = 0
    return array
