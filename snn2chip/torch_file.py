"""Files of ``torch.save`` from unknown authors: tensors and plain containers, and nothing that runs.

Such a file is a zip of ``<name>/data.pkl``, a pickle, and the storages ``<name>/data/<key>`` that it refers to. Here
the pickle is a list of instructions, of which those are obeyed that build dicts, lists, tuples, numbers, texts and
tensors. ``torch.load(weights_only=True)`` is not used: it believes the sizes in the pickle (and reads past the end of a
storage), and before torch 2.6 it can be made to run code (CVE-2025-32434).
"""

from __future__ import annotations

import math
import pickletools
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snn2chip.archive import Archive, Refused, opened, shown

MAX_PICKLE = 16 << 20
#: Instructions of one pickle; a tensor takes about twenty.
MAX_INSTRUCTIONS = 1 << 22
MAX_AXES, MAX_AXIS = 16, 1 << 40
#: Values of a tensor that repeats what is stored.
FREE_REPEATED = 1 << 20

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_GLOBALS: dict[str, Any] = {
    **{f"torch {name}": dtype for name, dtype in _STORAGES.items()},
    "torch.storage UntypedStorage": torch.uint8,
    "torch Size": "size",
    "collections OrderedDict": "dict",
    "torch._utils _rebuild_parameter": "parameter",
    "torch._utils _rebuild_tensor_v2": "tensor",
    "torch._utils _rebuild_tensor_v3": "tensor of a type",
}
_MARK = object()


class Foreign(Exception):
    """The file holds more than tensors and plain containers; the message names what."""


class _Global(str):
    """A function or type that an instruction names."""


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as what ``torch.save`` has written since torch 1.6."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\3\4" and zipfile.is_zipfile(path)


def read(path: Path) -> Any:
    """What was saved; tensors are on the CPU.

    Raises:
        Foreign: it takes code to read it.
        Refused: the file is damaged.
    """
    with opened(path) as archive:
        found = [name for name in archive.members if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(found) != 1:
            raise Refused("holds no data.pkl, or several")
        folder = found[0].removesuffix("data.pkl")
        order = f"{folder}byteorder"
        if order in archive and bytes(archive.read(order)[:16]) != sys.byteorder.encode():
            raise Refused("was written on a machine of another byte order")
        if archive.size(found[0]) > MAX_PICKLE:
            raise Refused(f"data.pkl has {archive.size(found[0])} bytes, limit {MAX_PICKLE}")
        try:
            return _Builder(archive, folder).run(bytes(archive.read(found[0])))
        except (ValueError, TypeError, KeyError, IndexError, OverflowError, RuntimeError, AttributeError) as error:
            raise Refused(f"data.pkl: {shown(str(error) or type(error).__name__)}") from error


class _Builder:
    """A stack, what is remembered, and storages by key."""

    def __init__(self, archive: Archive, folder: str) -> None:
        self.archive, self.folder = archive, folder
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.storages: dict[tuple[str, torch.dtype], Tensor] = {}

    def run(self, data: bytes) -> Any:
        """Obey all instructions; the last value is the result."""
        for count, (code, value, _) in enumerate(pickletools.genops(data)):
            if count > MAX_INSTRUCTIONS:
                raise Refused(f"more than {MAX_INSTRUCTIONS} instructions")
            self._obey(code.name, value)
        (result,) = self.stack
        if result is _MARK or isinstance(result, _Global):
            raise Refused("data.pkl: makes nothing")
        return result

    def _obey(self, name: str, value: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(value)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[value] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[value])
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            stack.append(tuple(self._popped(int(name[-1]))))
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in ("APPEND", "APPENDS"):
            items = self._popped(1) if name == "APPEND" else self._to_mark()
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._popped(2) if name == "SETITEM" else self._to_mark()
            self._fill(self._top(dict), items)
        elif name == "GLOBAL":
            stack.append(_known(value))
        elif name == "STACK_GLOBAL":
            stack.append(_known(" ".join(str(part) for part in self._popped(2) if type(part) is str)))
        elif name == "REDUCE":
            function, arguments = self._popped(2)
            stack.append(self._call(function, arguments))
        elif name == "BUILD":
            self._popped(1)  # of an OrderedDict: versions of modules
            self._top(dict)
        elif name == "BINPERSID":
            stack.append(self._storage(*self._popped(1)))
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise Foreign(f"the instruction {name}")

    def _popped(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count or any(item is _MARK for item in items):
            raise Refused("data.pkl: an instruction finds too little")
        del self.stack[-count:]
        return items

    def _to_mark(self) -> list[Any]:
        at = next((i for i in range(len(self.stack) - 1, -1, -1) if self.stack[i] is _MARK), None)
        if at is None:
            raise Refused("data.pkl: an instruction finds no mark")
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _top(self, kind: type) -> Any:
        if not self.stack or type(self.stack[-1]) is not kind:
            raise Refused(f"data.pkl: an instruction finds no {kind.__name__}")
        return self.stack[-1]

    def _fill(self, target: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):  # tuples of tuples take for ever to hash
                raise Refused(f"data.pkl: a key is {shown(key)}, expected a text or a whole number")
            target[key] = value

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or type(arguments) is not tuple:
            raise Refused("data.pkl: calls what is no function")
        does = _GLOBALS[function]
        if does == "dict" and not arguments:
            return {}
        if does == "size" and len(arguments) == 1:
            return _sizes(arguments[0])
        if does == "parameter" and arguments and isinstance(arguments[0], Tensor):
            return arguments[0]
        if does in ("tensor", "tensor of a type"):
            return _tensor(does, *arguments[:4], *(arguments[6:7] if does != "tensor" else ()))
        raise Refused(f"data.pkl: calls {function} with {shown(arguments)}")

    def _storage(self, identity: Any) -> Tensor:
        """All values of a storage, ``[n]``."""
        if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
            raise Refused(f"data.pkl: refers to {shown(identity)}")
        _, kind, key, _, count = identity
        dtype = _GLOBALS.get(kind) if isinstance(kind, _Global) else None
        if not isinstance(dtype, torch.dtype) or type(key) is not str or type(count) is not int:
            raise Refused(f"data.pkl: refers to {shown(identity)}")
        name = f"{self.folder}data/{key}"
        if name not in self.archive:
            raise Refused(f"storage {shown(key)} is missing")
        if count * dtype.itemsize != self.archive.size(name):
            raise Refused(
                f"storage {shown(key)} has {self.archive.size(name)} bytes, declared {count * dtype.itemsize}"
            )
        if (key, dtype) not in self.storages:
            self.storages[key, dtype] = _numbers(self.archive.read(name), dtype)
        return self.storages[key, dtype]


_VALUES = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_CONTAINERS: dict[str, Any] = {"EMPTY_LIST": list, "EMPTY_DICT": dict}


def _known(name: str) -> _Global:
    module, _, kind = name.partition(" ")
    if name not in _GLOBALS and not (module == "torch" and isinstance(getattr(torch, kind, None), torch.dtype)):
        raise Foreign(shown(name.replace(" ", ".")))
    return _Global(name)


def _numbers(content: bytearray, dtype: torch.dtype) -> Tensor:
    if not content:
        return torch.empty(0, dtype=dtype)
    if dtype is torch.bool:
        return torch.frombuffer(content, dtype=torch.uint8) != 0  # files can hold any byte
    return torch.frombuffer(content, dtype=dtype)


def _sizes(values: Any) -> tuple[int, ...]:
    fits = type(values) in (tuple, list) and len(values) <= MAX_AXES
    if not fits or not all(type(n) is int and 0 <= n <= MAX_AXIS for n in values):
        raise Refused(f"data.pkl: a tensor has the shape or strides {shown(values)}")
    return tuple(values)


def _tensor(what: str, storage: Any, offset: Any, size: Any, stride: Any, kind: Any = None) -> Tensor:
    """A view of a storage, which has to hold all of it."""
    if not isinstance(storage, Tensor) or type(offset) is not int or offset < 0:
        raise Refused(f"data.pkl: a tensor begins at {shown(offset)}")
    if what != "tensor":
        dtype = getattr(torch, str(kind).partition(" ")[2], None) if isinstance(kind, _Global) else None
        if not isinstance(dtype, torch.dtype) or storage.numel() % dtype.itemsize or storage.dtype != torch.uint8:
            raise Refused(f"data.pkl: a tensor of type {shown(kind)}")
        storage = storage.view(dtype)
    shape, strides = _sizes(size), _sizes(stride)
    if len(shape) != len(strides):
        raise Refused(f"data.pkl: a tensor of shape {shape} has the strides {strides}")
    values = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if values and (last >= storage.numel() or values > max(storage.numel(), FREE_REPEATED)):
        raise Refused(f"data.pkl: a tensor of shape {shape} in a storage of {storage.numel()} values")
    if not values:
        return torch.empty(shape, dtype=storage.dtype)
    view: Tensor = storage.as_strided(shape, strides, offset)
    return view
