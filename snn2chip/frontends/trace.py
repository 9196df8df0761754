"""Capture by running: a module is run on an example, and what its data pass through is recorded.

A torch function mode sees every operation on tensors, and module calls are intercepted: a call of a :class:`Leaf`
becomes its nodes, everything else is looked into. What a tensor holds is a :class:`Value`: the output of a node, and
the meaning of each axis. Operations with equal operands are one node, so that the steps of a loop over time fall
together; only neurons count them. An operation that has no counterpart poisons what it returns, and is an error only
where the network's output depends on it.
"""

from __future__ import annotations

import linecache
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import Leaf, leaf_of
from snn2chip.graph import Node

#: Meaning of an axis: time, batch, both in one (the slower first), one step of time, nothing (size 1), an axis of the
#: sample "s0", "s1", "s2" or, of neurons in groups, "group" and "member".
Dim = str
Part = Literal["output", "potential", "state"]

_LEAD = frozenset(("T", "N", "TN", "NT", "1"))
_PACKAGE = str(Path(__file__).parent)
_LOCK = threading.Lock()  # module calls are intercepted in the whole process


@dataclass(frozen=True)
class Source:
    """A node's output, so many steps ago; None instead of a node where an operation has no counterpart.

    Attributes:
        why: what has no counterpart, with the place.
    """

    node: str | None
    lag: int = 0
    why: str = ""


@dataclass(frozen=True)
class Value:
    """What a tensor holds.

    Attributes:
        node: the node whose output it is; None where an operation has no counterpart.
        dims: the meaning of each axis.
        step: the time step; None of something that does not change, or of all steps.
        part: output of the node, or another of its variables.
        total: of a mean over time: of how many steps; what the tensor holds is ``gain`` times it. 0 of no mean.
        gain: positive.
        ranked: what has changed the numbers after the mean and left their order, "softmax" for instance.
        why: of no node: what has no counterpart, with the place.
        steps: of a sum that is not complete: the steps that are in it.
        unit: the node's output in one of the tensor's.
    """

    node: str | None
    dims: tuple[Dim, ...]
    step: int | None = None
    part: Part = "output"
    total: int = 0
    gain: float = 1.0
    ranked: str = ""
    why: str = ""
    steps: tuple[int, ...] = ()
    unit: float = 1

    @property
    def sample(self) -> tuple[Dim, ...]:
        """Axes of the sample."""
        return tuple(d for d in self.dims if d.startswith("s"))

    @property
    def ordered(self) -> bool:
        """Whether the axes of the sample are in the order of the node's output."""
        return self.sample == sample_dims(len(self.sample))

    @property
    def lead(self) -> tuple[Dim, ...]:
        """Axes that are not of the sample."""
        return tuple(d for d in self.dims if not d.startswith("s"))

    @property
    def timed(self) -> bool:
        """Whether all time steps are in it."""
        return bool({"T", "TN", "NT"} & set(self.dims))


@dataclass
class Record:
    """Nodes of one operation, in a chain, and what feeds the first; of neurons, step by step."""

    nodes: list[Node]
    sources: list[tuple[Source, ...]]
    leaf: Leaf | None = None
    found: list[Tensor] = field(default_factory=list)  # what the module returned: each step, or all at once
    shape: tuple[int, ...] = ()  # of a leaf's input, one sample and step

    @property
    def name(self) -> str:
        """Of the last node."""
        return self.nodes[-1].name


#: Runs an operation on tensors and notes what it returns; see :func:`snn2chip.frontends.functions.apply`.
Operation = Callable[["Tracer", Any, tuple[Any, ...], dict[str, Any]], Any]


class Tracer(TorchFunctionMode):
    """Records one run of ``module``; one at a time in a process.

    Args:
        module: in evaluation, at rest.
        apply: what happens at each operation on tensors.

    Attributes:
        records: by the name of each chain's last node, in the order of first use.
        steps: time steps, as far as they are known.
        given_steps: those of the data; 0 where these have no time.
        failed: where the run failed.
    """

    def __init__(self, module: nn.Module, apply: Operation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._apply = apply
        self.paths = {id(m): path for path, m in module.named_modules(remove_duplicate=False)}
        self._compound: dict[str, bool] = {}  # by a module's name, whether it has modules inside
        self.records: dict[str, Record] = {}
        self.steps = self.given_steps = 0
        self.failed = ""
        self._values: dict[int, Value] = {}
        self._alive: list[Tensor] = []  # so that no id is used twice
        self._keys: dict[Any, str] = {}
        self._digests: dict[int, int] = {}
        self._stack: list[str] = []
        self._paused = 0

    # --- values ---

    def value(self, tensor: Any) -> Value | None:
        """What ``tensor`` holds; None of constants."""
        return self._values.get(id(tensor)) if isinstance(tensor, Tensor) else None

    def put(self, tensor: Tensor, value: Value) -> None:
        """Note what ``tensor`` holds."""
        self._values[id(tensor)] = value
        self._alive.append(tensor)

    def digest(self, tensor: Tensor) -> int:
        """Hash of a constant's content."""
        found = self._digests.get(id(tensor))
        if found is None:
            found = self._digests[id(tensor)] = hash((tuple(tensor.shape), tensor.detach().cpu().numpy().tobytes()))
            self._alive.append(tensor)
        return found

    @property
    def place(self) -> str:
        """Path and type of the module that runs, and the user's line in it."""
        return f"{self._stack[-1] if self._stack else 'forward'}{_line()}"

    def node(self, key: Any, kind: str, sources: tuple[Source, ...], make: Callable[[str], list[Node]]) -> str:
        """Name of the node of an operation: the same for the same ``key`` and sources in the same module."""
        key = (self._stack[-1] if self._stack else "", kind, key, sources)
        if key not in self._keys:
            nodes = make(self._unique(self._operation(kind)))
            self.records[nodes[-1].name] = Record(nodes, [sources])
            self._keys[key] = nodes[-1].name
        return self._keys[key]

    def _operation(self, kind: str) -> str:
        """Name of an operation: its module's, or where that has others inside, with the kind."""
        if not self._stack:
            return kind
        name = self._stack[-1]
        return f"{name} {kind}" if self._compound.get(name) else name

    def _unique(self, name: str) -> str:
        taken = {node.name for record in self.records.values() for node in record.nodes}
        return next(n for n in [name, *(f"{name} #{i}" for i in range(2, len(taken) + 3))] if n not in taken)

    # --- running ---

    def run(self, module: nn.Module, x: Tensor, dims: tuple[Dim, ...], name: str) -> Any:
        """Run ``module`` on ``x``, the output of the node ``name``."""
        self.put(x, Value(name, dims))
        if "T" in dims:
            self.steps = self.given_steps = x.shape[dims.index("T")]
        with _LOCK, _intercepted(self), self:
            return module(x)

    def call(self, original: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """A module's call."""
        path = self.paths.get(id(module))
        if self._paused or path is None:
            return original(module, *args, **kwargs)
        name = f"{path or 'model'} ({type(module).__name__})"
        try:
            leaf = leaf_of(module)
        except UnsupportedError as error:
            raise UnsupportedError(f"{name}: {error}") from error
        if leaf is None:
            self._stack.append(name)
            self._compound[name] = any(True for _ in module.children())
            try:
                return original(module, *args, **kwargs)
            except Exception:
                self.failed = self.failed or self.place
                raise
            finally:
                self._stack.pop()
        self._paused += 1
        try:
            result = double(original(module, *args, **kwargs))
            _remember_in_double(module)
        except Exception:
            self.failed = self.failed or f"{name}{_line()}"
            raise
        finally:
            self._paused -= 1
        self._leaf(name, leaf, args, kwargs, result)
        return result

    def _leaf(self, name: str, leaf: Leaf, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        given = tensors_in((args, kwargs))
        data = self.value(given[0]) if given else None
        if data is None:
            raise UnsupportedError(
                f"{name}: is given something that does not depend on the network's input; leave it out"
            )
        data = self._alone(leaf, data)
        if data.node is None and ("?" in data.dims or len(data.dims) != given[0].ndim):
            for tensor in tensors_in(result):
                self.put(tensor, Value(None, ("?",) * tensor.ndim, why=data.why))
            return
        record = self.records.get(name)
        if record is None:
            try:
                shape = _sample_shape(data, given[0])
                nodes = leaf.nodes(name, shape)
            except UnsupportedError as error:
                raise UnsupportedError(f"{name}: {error}") from error
            record = self.records[name] = Record(nodes, [], leaf, shape=shape)
            assert record.name == name
        step = len(record.sources)
        self._check_states(name, given[1:], step)
        if data.node is not None:
            self._check_data(name, leaf, data, step)
        lag = 0 if leaf.time is not None or data.step is None else step - data.step
        if data.step is not None and lag < 0:
            raise UnsupportedError(
                f"{name}: its call {step + 1} takes time step {data.step + 1}; neurons are called once each step"
            )
        record.sources.append((Source(data.node, lag, data.why),))
        returned = tensors_in(result)
        record.found.append(returned[0])
        self.steps = max(self.steps, returned[0].shape[leaf.time] if leaf.time is not None else step + 1)
        tail = data.dims[-1:] if data.dims[-1:] == ("T",) else ()
        lead = tuple(d for d in data.lead if d not in tail) or data.dims[:1]
        unit = data.unit if leaf.takes is None else leaf.unit
        for i, tensor in reversed(list(enumerate(returned))):  # a tensor that is returned twice is what it is first
            part: Part = "potential" if i == leaf.potential else "output" if i == 0 else "state"
            dims = data.dims
            if tensor.ndim != len(dims):
                dims = (*lead, *sample_dims(tensor.ndim - len(lead) - len(tail)), *tail)
            self.put(tensor, Value(name, dims, None if leaf.time is not None else step, part, unit=unit))

    def _alone(self, leaf: Leaf, data: Value) -> Value:
        """An axis of one step is time, where neurons want it and no other step can be meant."""
        axis = leaf.time
        only = data.step is None if self.given_steps == 0 else self.given_steps == 1
        if axis is None or data.timed or data.dims[axis : axis + 1 or None] != ("1",) or not only:
            return data
        return replace(
            data, dims=tuple("T" if i == axis % len(data.dims) else d for i, d in enumerate(data.dims)), step=None
        )

    def _check_data(self, name: str, leaf: Leaf, data: Value, step: int) -> None:
        given = f"is given dimensions {', '.join(data.dims)}"
        if data.total or data.steps or data.part != "output":
            what = "a sum over time" if data.part == "output" else "a membrane potential or current of other neurons"
            raise UnsupportedError(f"{name}: is given {what}; neurons take spikes, through synapses, of each step")
        if not data.ordered:
            raise UnsupportedError(f"{name}: {given}, which are permuted; permute them back before")
        if leaf.takes not in (None, data.unit):
            raise UnsupportedError(
                f"{name}: is given integers in units of 1/{data.unit:g}, takes those of 1/{leaf.takes:g}; use layers "
                "of one kind, and start sigma-delta networks with their Input"
            )
        if leaf.time is None:
            if data.timed:
                raise UnsupportedError(f"{name}: takes one time step at a call, {given}; call it step by step")
            if self.given_steps and step >= self.given_steps:
                raise UnsupportedError(
                    f"{name}: is called more than once at a time step; give each layer neurons of its own"
                )
        elif not data.timed or data.dims[leaf.time] != "T":
            raise UnsupportedError(f"{name}: takes all time steps at a call, with time as axis {leaf.time}, {given}")
        elif step:
            raise UnsupportedError(f"{name}: is called again; one call of all time steps is supported")

    def _check_states(self, name: str, states: list[Tensor], step: int) -> None:
        for state in states:
            value = self.value(state)
            if value is None:
                if bool((state != 0).any()):
                    raise UnsupportedError(f"{name}: its state is set from outside; networks start at rest, with 0")
            elif value.node is None:
                raise UnsupportedError(value.why)
            elif value.node != name or value.step != step - 1:
                raise UnsupportedError(f"{name}: its state comes from {value.node}; pass back what it returned")

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """An operation on tensors."""
        kwargs = kwargs or {}
        if self._paused:
            return func(*args, **kwargs)
        self._paused += 1
        try:
            return self._apply(self, func, args, kwargs)
        finally:
            self._paused -= 1


def _sample_shape(value: Value, tensor: Tensor) -> tuple[int, ...]:
    return tuple(n for n, dim in zip(tensor.shape, value.dims, strict=True) if dim not in _LEAD)


def sample_dims(count: int) -> tuple[Dim, ...]:
    """Names of so many axes of a sample."""
    return tuple(f"s{i}" for i in range(count))


def tensors_in(content: Any) -> list[Tensor]:
    """All tensors in nested containers, in order."""
    if isinstance(content, Tensor):
        return [content]
    if isinstance(content, dict):
        content = content.values()
    if isinstance(content, list | tuple) or type(content).__name__ == "dict_values":
        return [tensor for part in content for tensor in tensors_in(part)]
    return []


def double(content: Any) -> Any:
    """``content`` with all floating point tensors in double precision; some libraries make single ones of spikes."""
    if isinstance(content, Tensor):
        return content.double() if content.is_floating_point() else content
    if isinstance(content, dict):
        return {key: double(part) for key, part in content.items()}
    if isinstance(content, tuple) and hasattr(content, "_fields"):
        return type(content)(*(double(part) for part in content))
    return type(content)(double(part) for part in content) if type(content) in (list, tuple) else content


def _remember_in_double(module: nn.Module) -> None:
    """What neurons keep for their next call, beside what they return."""
    for kept in (vars(module), module._buffers):
        kept.update({key: double(value) for key, value in kept.items() if isinstance(value, Tensor)})


@contextmanager
def _intercepted(tracer: Tracer) -> Iterator[None]:
    """Calls of modules, and indexing, which torch 2.3 does not show to modes where the index is simple."""
    original = nn.Module.__call__
    index, assign = Tensor.__getitem__, Tensor.__setitem__

    def calling(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return tracer.call(original, module, *args, **kwargs)

    def indexing(tensor: Tensor, at: Any) -> Any:
        return tracer.__torch_function__(index, (), (tensor, at))

    def assigning(tensor: Tensor, at: Any, value: Any) -> None:
        tracer.__torch_function__(assign, (), (tensor, at, value))

    nn.Module.__call__ = calling  # type: ignore[method-assign]
    Tensor.__getitem__ = indexing  # type: ignore[method-assign, assignment]
    Tensor.__setitem__ = assigning  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.__call__ = original  # type: ignore[method-assign]
        del Tensor.__getitem__, Tensor.__setitem__  # inherited


def _line() -> str:
    """File and line of the innermost frame of the user's, within the run."""
    frame: FrameType | None = sys._getframe(1)
    torch_folder = str(Path(torch.__file__).parent)
    while frame is not None and frame.f_code is not Tracer.run.__code__:
        file = frame.f_code.co_filename
        if not file.startswith((torch_folder, _PACKAGE)) and "<" not in file:
            code = linecache.getline(file, frame.f_lineno).strip()
            return f", {Path(file).name}:{frame.f_lineno}" + (f" `{code[:60]}`" if code else "")
        frame = frame.f_back
    return ""
