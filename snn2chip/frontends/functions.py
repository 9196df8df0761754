"""Operations on tensors that the capture understands, by the names of torch's functions and methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import as_array
from snn2chip.frontends.trace import Dim, Source, Tracer, Value, double, sample_dims, tensors_in
from snn2chip.graph import Add, AvgPool2d, BatchNorm, Concat, Conv2d, Flatten, Linear, MaxPool2d, Node


class _NoCounterpart(Exception):
    """An operation that the graph has no node for; the text says why."""


class _Reading(float):
    """A number that was read out of the data, such as an event count that is logged.

    It is NaN, so that it cannot go unnoticed into what the network computes, and nothing can be decided by it.
    """

    def __new__(cls, place: str) -> _Reading:
        reading = super().__new__(cls, "nan")
        reading.place = place
        return reading

    place: str

    def _refuse(self, *ignored: Any) -> Any:
        raise UnsupportedError(f"{self.place}: item reads values of the data; what is computed must not depend on them")

    __bool__ = __int__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __round__ = __floor__ = _refuse
    __hash__ = float.__hash__


@dataclass(frozen=True)
class _Call:
    """One operation: its name, what it took, what it returned."""

    tracer: Tracer
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument by position or name."""
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def data(self) -> Tensor:
        """The first tensor."""
        return tensors_in((self.args, self.kwargs))[0]

    @property
    def value(self) -> Value:
        """What the first tensor holds."""
        value = self.tracer.value(self.data)
        if value is None:
            raise _NoCounterpart(f"{self.name} of a constant and of data")
        return value

    def put(self, value: Value) -> None:
        """Note what the operation returned."""
        self.tracer.put(self.result, value)

    def put_node(
        self,
        key: Any,
        make: Callable[[str], Node],
        value: Value | None = None,
        shifts: bool = False,
        linear: bool = True,
    ) -> None:
        """The operation is a node of one input.

        Args:
            shifts: it adds something, so that a factor before it is none after it.
            linear: of a mean over time it is the mean of what it does at each step, apart from what it adds.
        """
        value = whole_sum(self.tracer, self.value if value is None else value)
        if value.ranked:
            raise _NoCounterpart(f"{self.name} after {value.ranked}; leave {value.ranked} out")
        if value.total and not linear:
            raise _NoCounterpart(f"{self.name} after the sum over time; only what is linear can come there")
        if value.part == "state" or value.steps:
            raise _NoCounterpart(f"{self.name} of a neuron's inner state, or of some time steps' sum")
        if value.part == "potential":
            raise _NoCounterpart(f"{self.name} of a membrane potential; only the last layer's can be read")
        if not value.ordered:
            raise _NoCounterpart(f"{self.name} on permuted dimensions {', '.join(value.dims)}; permute them back")
        gain = value.gain if shifts else 1.0
        given = next(t for t in tensors_in((self.args, self.kwargs)) if self.tracer.value(t) is not None)
        channels = given.shape[value.dims.index("s0")] if value.sample else 0

        def nodes(name: str) -> list[Node]:
            if gain == 1:
                return [make(name)]
            scale = np.full(channels, gain)
            return [BatchNorm(name=f"{name} factor", scale=scale, shift=0 * scale), make(name)]

        name = self.tracer.node((key, gain), self.name, (Source(value.node),), nodes)
        value = replace(value, gain=value.gain / gain)
        dims = (*value.lead, *sample_dims(self.result.ndim - len(value.lead)))
        self.put(replace(value, node=name, dims=dims))

    def images(self) -> Value:
        """The value, which has to be images with one axis in front."""
        value = self.value
        if len(value.lead) != 1 or value.dims != (*value.lead, "s0", "s1", "s2"):
            raise _NoCounterpart(f"{self.name} on dimensions {', '.join(value.dims)}; flatten time and batch before")
        return value


def whole_sum(tracer: Tracer, value: Value) -> Value:
    """A sum that has become one over all steps that there are so far is their mean, times their number."""
    if not value.steps or value.steps != tuple(range(tracer.steps)):
        return value
    return replace(value, steps=(), total=tracer.steps, gain=_product(value.gain, tracer.steps))


def _product(gain: float, factor: float) -> float:
    """Exactly 1 where a sum is divided by the number of its terms."""
    return 1.0 if math.isclose(gain * factor, 1, rel_tol=1e-12) else gain * factor


def apply(tracer: Tracer, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation and note what it returns.

    Raises:
        UnsupportedError: it reads the data's values, so that the network is another for other data.
    """
    name = _canonical(func)
    if name in _SYNAPSES:
        args, kwargs = _promoted(tracer, args), _promoted(tracer, kwargs)
    if args and isinstance(args[0], Tensor) and name != "setitem" and _in_place(func) and tracer.value(args[0]) is None:
        taken = (args[0].clone(), *args[1:])  # or the constant would hold the result
    else:
        taken = args
    result = func(*args, **kwargs)
    if name in _CASTS and isinstance(result, Tensor) and result.dtype == torch.float32:
        result = args[0].double()
    given = [value for tensor in tensors_in((args, kwargs)) if (value := tracer.value(tensor)) is not None]
    if not given or name in _CONSTANTS or (name in _CASTS and tracer.value(args[0]) is None):
        return result
    if name == "item" and isinstance(result, float):
        return _Reading(tracer.place)
    if name in _READERS and not isinstance(result, Tensor):
        raise UnsupportedError(
            f"{tracer.place}: {name} reads values of the data; what is computed must not depend on them"
        )
    if name == "iter":
        result = list(result)
    returned = [result] if isinstance(result, Tensor) else tensors_in(result)
    poisoned = next((value for value in given if value.node is None), None)
    if poisoned is not None:
        for tensor in returned or ([args[0]] if name == "setitem" else []):
            tracer.put(tensor, poisoned)
    elif returned or name == "setitem":
        call = _Call(tracer, name, taken, kwargs, result)
        try:
            if name not in _HANDLERS:
                raise _NoCounterpart(f"{name} has no form on the chip; {_INSTEAD.get(name, _ELSE)}")
            _HANDLERS[name](call)
        except _NoCounterpart as reason:
            for tensor in returned or [args[0]]:
                dims = given[0].dims if len(given[0].dims) == tensor.ndim else ("?",) * tensor.ndim
                tracer.put(tensor, Value(None, dims, why=f"{tracer.place}: {reason}"))
    return iter(result) if name == "iter" else result


def _promoted(tracer: Tracer, content: Any) -> Any:
    """Arguments of synapses in double precision, as their weights are."""
    promoted = double(content)
    for before, after in zip(tensors_in(content), tensors_in(promoted), strict=True):
        value = tracer.value(before)
        if value is not None and after is not before:
            tracer.put(after, value)
    return promoted


_ALIASES = {
    "iadd": "add",
    "radd": "add",
    "isub": "sub",
    "subtract": "sub",
    "imul": "mul",
    "rmul": "mul",
    "multiply": "mul",
    "itruediv": "div",
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "swapaxes": "transpose",
    "swapdims": "transpose",
    "moveaxis": "movedim",
    "concat": "cat",
    "concatenate": "cat",
    "view_as": "reshape",
    "reshape_as": "reshape",
    "view": "reshape",
    "expand_as": "expand",
    "broadcast_to": "expand",
    "mm": "matmul",
    "rmatmul": "rmatmul",
    "negative": "neg",
}


def _canonical(func: Any) -> str:
    """``__iadd__``, ``add_`` and ``add`` are ``add``; of a property, its name."""
    name = getattr(func, "__name__", "") or str(func)
    if name == "__get__":
        name = str(getattr(func.__self__, "__name__", name))
    name = name.strip("_")
    return _ALIASES.get(name, name)


def _in_place(func: Any) -> bool:
    name = str(getattr(func, "__name__", ""))
    return name.startswith("__i") if name.endswith("__") else name.endswith("_")


# --- arithmetic ---


def _identity(call: _Call) -> None:
    if not call.result.is_floating_point():
        raise _NoCounterpart(f"{call.name} to {call.result.dtype}")
    call.put(call.value)


def _dropout(call: _Call) -> None:
    if not torch.equal(call.result.nan_to_num(), call.data.nan_to_num()):
        raise _NoCounterpart("dropout that is active in evaluation; use nn.Dropout")
    call.put(call.value)


def _operands(call: _Call) -> tuple[Any, Any]:
    return call.args[0], call.argument(1, "other")


def _add(call: _Call) -> None:
    _sum_of(call, *_operands(call), 1.0)


def _sub(call: _Call) -> None:
    _sum_of(call, *_operands(call), -1.0)


def _rsub(call: _Call) -> None:
    first, second = _operands(call)
    _sum_of(call, second, first, -1.0)


def _sum_of(call: _Call, first: Any, second: Any, sign: float) -> None:
    """``first + sign * alpha * second``."""
    sign = sign * call.kwargs.get("alpha", 1)
    a, b = call.tracer.value(first), call.tracer.value(second)
    if a is None:
        first, second, a, b = second, first, b, a
        _affine(call, first, sign, second)
        return
    assert a is not None  # one of them is
    if b is None:
        _affine(call, first, 1.0, second * sign)
        return
    if a.node == b.node and a.part == b.part and sign == 1 and a.step != b.step and not a.timed:
        _check_spikes(call, a)
        steps = [step for value in (a, b) for step in value.steps or (value.step,) if step is not None]
        if a.gain != b.gain:
            raise _NoCounterpart("weighted sum over time; sum time steps without factors, or take the mean")
        call.put(replace(a, step=None, steps=tuple(sorted(steps))))
        return
    if sign != 1:
        raise _NoCounterpart(
            "difference or weighted sum of two branches; add them, with weights of the other sign or times the factor"
        )
    _combine(call, [a, b], lambda name: Add(name=name))


def _check_spikes(call: _Call, value: Value) -> None:
    if value.part != "output":
        raise _NoCounterpart(
            f"{call.name} over time of a membrane potential; only that of the last step can be read, or spikes counted"
        )


def _combine(call: _Call, values: list[Value], make: Callable[[str], Node]) -> None:
    """Several values of one moment."""
    dims = max((value.dims for value in values), key=len)
    if any(value.dims != dims and value.dims != tuple(d for d in dims if d != "T") for value in values):
        raise _NoCounterpart(f"{call.name} of dimensions {' and '.join(', '.join(value.dims) for value in values)}")
    if any(value.total or value.steps or value.part != "output" for value in values):
        raise _NoCounterpart(f"{call.name} of sums over time or of membrane potentials")
    now = max((value.step for value in values if value.step is not None), default=None)
    sources = tuple(
        Source(value.node, 0 if value.step is None or now is None else now - value.step) for value in values
    )
    name = call.tracer.node(None, call.name, sources, lambda name: [make(name)])
    call.put(Value(name, dims, now))


def _affine(call: _Call, data: Tensor, scale: Any, shift: Any) -> None:
    """``scale * data + shift`` for constants."""
    value = call.tracer.value(data)
    assert value is not None
    if value.total or value.steps:
        if not (np.ndim(scale) == 0 and scale > 0 and not _filled(shift, call, value).any()):
            raise _NoCounterpart(f"{call.name} of a sum over time with a constant")
        call.put(replace(value, gain=_product(value.gain, float(scale))))
        return
    scales, shifts = (_filled(constant, call, value) for constant in (scale, shift))
    if (scales == 1).all() and not shifts.any():
        call.put(value)
        return
    call.put_node(
        (scales.tobytes(), shifts.tobytes()),
        lambda name: BatchNorm(name=name, scale=scales, shift=shifts),
        value,
        bool(shifts.any()),
    )


def _filled(constant: Any, call: _Call, value: Value) -> Any:
    """A constant as one number for each channel or feature."""
    whole = torch.as_tensor(constant, dtype=torch.float64).broadcast_to(call.result.shape)
    first = whole[tuple(slice(None) if dim.startswith("s") else 0 for dim in value.dims)]
    if call.result.ndim != len(value.dims) or not value.sample:
        raise _NoCounterpart(f"{call.name} with a constant of more dimensions")
    channels = first.reshape(first.shape[0], -1)[:, 0]
    lead = [i for i, dim in enumerate(value.dims) if not dim.startswith("s")]
    back = channels.reshape(-1, *(1,) * (first.ndim - 1)).expand(first.shape)
    if not torch.equal(whole, back[(None,) * len(lead)].expand(whole.shape)):
        raise _NoCounterpart(
            f"{call.name} with a constant that differs within a channel, between samples or over time; only one number "
            "for each channel has a form on the chip"
        )
    return channels.numpy().copy()


def _mul(call: _Call) -> None:
    first, second = _operands(call)
    if call.tracer.value(first) is not None and call.tracer.value(second) is not None:
        raise _NoCounterpart("product of two branches; add or concatenate them")
    if call.tracer.value(first) is None:
        first, second = second, first
    _affine(call, first, second, 0.0)


def _div(call: _Call) -> None:
    first, second = _operands(call)
    if call.tracer.value(first) is None or call.tracer.value(second) is not None:
        raise _NoCounterpart("division by data")
    _affine(call, first, 1 / second, 0.0)


def _neg(call: _Call) -> None:
    _affine(call, call.data, -1.0, 0.0)


def _monotone(call: _Call) -> None:
    """Of scores, which keep their order."""
    value = whole_sum(call.tracer, call.value)
    if not value.total:
        raise _NoCounterpart(f"{call.name} has no form on the chip, except after the sum over time; leave it out")
    if call.name != "sigmoid":
        axis = call.argument(1, "dim")
        if value.dims[-1:] != ("s0",) or axis is None or _axis(call, axis) != len(value.dims) - 1:
            raise _NoCounterpart(f"{call.name} over another axis than the scores'; leave it out")
    call.put(replace(value, ranked=call.name))


# --- synapses and pooling ---


def _bias(bias: Tensor | None, size: int) -> Any:
    return np.zeros(size) if bias is None else as_array(bias)


def _constant(call: _Call, *tensors: Tensor | None) -> tuple[int | None, ...]:
    if any(call.tracer.value(tensor) is not None for tensor in tensors):
        raise _NoCounterpart(f"{call.name} with weights that depend on the data")
    return tuple(None if tensor is None else call.tracer.digest(tensor) for tensor in tensors)


def _weighted(call: _Call, weight: Tensor, bias: Tensor | None) -> None:
    value, matrix = call.value, as_array(weight)
    if value.sample != ("s0",) or value.dims[-1] != "s0":
        raise _NoCounterpart(f"{call.name} on dimensions {', '.join(value.dims)}; flatten images before")
    shift = _bias(bias, len(matrix))
    call.put_node(
        _constant(call, weight, bias), lambda name: Linear(name=name, weight=matrix, bias=shift), shifts=shift.any()
    )


def _linear(call: _Call) -> None:
    _weighted(call, call.argument(1, "weight"), call.argument(2, "bias"))


def _matmul(call: _Call) -> None:
    weight = call.argument(1, "other")
    if call.tracer.value(weight) is not None or weight.ndim != 2:
        raise _NoCounterpart("product of two branches; add or concatenate them")
    _weighted(call, weight.T, None)


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    values = [int(v) for v in value]
    return values[0], values[-1]


def _conv2d(call: _Call) -> None:
    call.images()
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    padding = call.argument(4, "padding", 0)
    dilation, groups = _pair(call.argument(5, "dilation", 1)), int(call.argument(6, "groups", 1))
    if isinstance(padding, str):
        sizes = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        if padding == "same" and any(size % 2 for size in sizes):
            raise _NoCounterpart("padding='same' of an even kernel; give the padding in pixels")
        padding = tuple(size // 2 for size in sizes) if padding == "same" else 0
    stride, pad = _pair(call.argument(3, "stride", 1)), _pair(padding)
    kernel, shift = as_array(weight), _bias(bias, weight.shape[0])
    call.put_node(
        (*_constant(call, weight, bias), stride, pad, dilation, groups),
        lambda name: Conv2d(
            name=name, weight=kernel, bias=shift, stride=stride, padding=pad, dilation=dilation, groups=groups
        ),
        shifts=shift.any(),
    )


def _batch_norm(call: _Call) -> None:
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    if mean is None or call.argument(5, "training", False):
        raise _NoCounterpart("normalisation by the batch's statistics; train with track_running_stats=True")
    weight, bias = call.argument(3, "weight"), call.argument(4, "bias")
    if call.value.lead != call.value.dims[:1]:
        raise _NoCounterpart(f"{call.name} on dimensions {', '.join(call.value.dims)}")
    scale = 1 / np.sqrt(as_array(variance) + call.argument(7, "eps", 1e-5))
    scale = scale if weight is None else scale * as_array(weight)
    shift = -as_array(mean) * scale
    shift = shift if bias is None else shift + as_array(bias)
    key = _constant(call, mean, variance, weight, bias)
    call.put_node(key, lambda name: BatchNorm(name=name, scale=scale, shift=shift), shifts=shift.any())


def _average_pool(call: _Call) -> None:
    call.images()
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    padding = _pair(call.argument(3, "padding", 0))
    if call.argument(4, "ceil_mode", False) or call.argument(6, "divisor_override") is not None:
        raise _NoCounterpart("average pooling with ceil_mode or divisor_override; leave them out, pad the convolution")
    if padding != (0, 0) and not call.argument(5, "count_include_pad", True):
        raise _NoCounterpart("average pooling with count_include_pad=False; use True, or no padding")
    call.put_node(
        (kernel, stride, padding), lambda name: AvgPool2d(name=name, kernel=kernel, stride=stride, padding=padding)
    )


def _adaptive_pool(call: _Call) -> None:
    call.images()
    size, out = call.data.shape[2:], call.result.shape[2:]
    if any(n % m for n, m in zip(size, out, strict=True)):
        raise _NoCounterpart(
            f"adaptive pooling of {tuple(size)} to {tuple(out)}, which does not divide it; choose a size that does"
        )
    kernel = (size[0] // out[0], size[1] // out[1])
    call.put_node((kernel,), lambda name: AvgPool2d(name=name, kernel=kernel, stride=kernel))


def _max_pool(call: _Call) -> None:
    call.images()
    kernel = _pair(call.argument(1, "kernel_size"))
    stride = _pair(call.argument(2, "stride") or kernel)
    padding, dilation = _pair(call.argument(3, "padding", 0)), _pair(call.argument(4, "dilation", 1))
    if dilation != (1, 1) or call.argument(5, "ceil_mode", False) or call.argument(6, "return_indices", False):
        raise _NoCounterpart("max pooling with dilation, ceil_mode or return_indices; leave them out")
    call.put_node(
        (kernel, stride, padding),
        lambda name: MaxPool2d(name=name, kernel=kernel, stride=stride, padding=padding),
        linear=False,
    )


# --- shape and time ---


def _axis(call: _Call, axis: int, extra: int = 0) -> int:
    return axis % (len(call.value.dims) + extra)


def _permuted(call: _Call, order: list[int]) -> None:
    call.put(replace(call.value, dims=tuple(call.value.dims[i] for i in order)))


def _permute(call: _Call) -> None:
    order = call.args[1] if isinstance(call.args[1], list | tuple) else call.args[1:]
    _permuted(call, [_axis(call, int(i)) for i in order])


def _transpose(call: _Call) -> None:
    order = list(range(len(call.value.dims)))
    first, second = (_axis(call, call.argument(i + 1, f"dim{i}")) for i in range(2))
    order[first], order[second] = second, first
    _permuted(call, order)


def _reversed(call: _Call) -> None:
    _permuted(call, list(range(len(call.value.dims)))[::-1])


def _movedim(call: _Call) -> None:
    here, there = (call.argument(i, name) for i, name in ((1, "source"), (2, "destination")))
    if not isinstance(here, int) or not isinstance(there, int):
        raise _NoCounterpart("movedim of several dimensions")
    order = list(range(len(call.value.dims)))
    order.insert(_axis(call, there), order.pop(_axis(call, here)))
    _permuted(call, order)


def _unsqueeze(call: _Call) -> None:
    dims = list(call.value.dims)
    dims.insert(_axis(call, call.argument(1, "dim"), 1), "1")
    call.put(replace(call.value, dims=tuple(dims)))


def _squeeze(call: _Call) -> None:
    axes = call.argument(1, "dim")
    if axes is None:
        chosen = set(range(len(call.value.dims)))
    else:
        chosen = {_axis(call, i) for i in ([axes] if isinstance(axes, int) else axes)}
    gone = [i for i in chosen if call.data.shape[i] == 1]
    if any(call.value.dims[i] not in ("1",) for i in gone):
        _reshape(call)
        return
    call.put(replace(call.value, dims=tuple(d for i, d in enumerate(call.value.dims) if i not in gone)))


def _getitem(call: _Call) -> None:
    index = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(isinstance(i, Tensor | list) for i in index):
        raise _NoCounterpart("indexing by a list or tensor")
    if Ellipsis in index:
        at = index.index(Ellipsis)
        missing = len(call.value.dims) - sum(i is not None for i in index) + 1
        index = (*index[:at], *(slice(None),) * missing, *index[at + 1 :])
    value, dims, axis = call.value, [], 0
    for entry in index:
        if entry is None:
            dims.append("1")
            continue
        value, dim = _indexed(call, value, axis, entry)
        dims.extend(dim)
        axis += 1
    call.put(replace(value, dims=(*dims, *value.dims[axis:])))


def _indexed(call: _Call, value: Value, axis: int, entry: Any) -> tuple[Value, tuple[Dim, ...]]:
    """One entry of an index: the value, and what is left of the axis."""
    dim, size = value.dims[axis], call.data.shape[axis]
    if isinstance(entry, slice) and entry.indices(size) == (0, size, 1):
        return value, (dim,)
    if dim == "T" and isinstance(entry, int):
        return replace(value, step=entry % size), ()
    if dim == "T" and isinstance(entry, slice) and len(range(*entry.indices(size))) == 1:
        return replace(value, step=entry.indices(size)[0]), ("1",)
    if dim == "1" and isinstance(entry, int):
        return value, ()
    if dim.startswith("s"):
        raise _NoCounterpart(f"index {entry} into the sample; take it whole, and choose by the next weights")
    what = "time" if dim == "T" else "the batch (say with layout where time is)"
    raise _NoCounterpart(f"index {entry} into {what}; only single time steps can be taken out, or all summed")


def _select(call: _Call) -> None:
    axis = _axis(call, call.argument(1, "dim"))
    value, left = _indexed(call, call.value, axis, int(call.argument(2, "index")))
    call.put(replace(value, dims=(*value.dims[:axis], *left, *value.dims[axis + 1 :])))


def _pieces(call: _Call, axis: int, keep: bool) -> None:
    """Parts of one step each; ``keep``: with an axis of size 1."""
    value, axis = call.value, _axis(call, axis)
    pieces = list(call.result)
    if value.dims[axis] not in ("T", "1") or len(pieces) != call.data.shape[axis]:
        raise _NoCounterpart(f"{call.name} of {value.dims[axis]}; only time can be taken apart, step by step")
    for step, piece in enumerate(pieces):
        left = ("1",) if keep else ()
        dims = (*value.dims[:axis], *left, *value.dims[axis + 1 :])
        call.tracer.put(piece, replace(value, dims=dims, step=step if value.dims[axis] == "T" else value.step))


def _unbind(call: _Call) -> None:
    _pieces(call, call.argument(1, "dim", 0), keep=False)


def _split(call: _Call) -> None:
    _pieces(call, call.argument(2, "dim", 0), keep=True)


def _steps_of(call: _Call) -> Value:
    """What a list of tensors holds that are the steps of one thing, in order."""
    tensors = call.args[0] if call.args else call.kwargs["tensors"]
    values = [call.tracer.value(tensor) for tensor in tensors]
    first = values[0]
    if first is None or any(value is None for value in values):
        raise _NoCounterpart(f"{call.name} of data and constants")
    steps = [value.step for value in values if value is not None]
    same = all(value is not None and replace(value, step=None) == replace(first, step=None) for value in values)
    if not same or not (steps == list(range(len(steps))) or set(steps) == {None}):
        raise _NoCounterpart(
            f"{call.name} of other things than all time steps of one, in order; {call.name} what one layer returns"
        )
    return replace(first, step=None)


def _stack(call: _Call) -> None:
    value = _steps_of(call)
    dims = list(value.dims)
    dims.insert(call.argument(1, "dim", 0) % (len(dims) + 1), "T")
    call.put(replace(value, dims=tuple(dims)))


def _cat(call: _Call) -> None:
    tensors = call.args[0] if call.args else call.kwargs["tensors"]
    axis = call.argument(1, "dim", 0) % tensors[0].ndim
    values = [value for tensor in tensors if (value := call.tracer.value(tensor)) is not None]
    if len(values) < len(tensors):
        raise _NoCounterpart("concatenation with a constant")
    if values[0].dims[axis] == "1":
        value = _steps_of(call)
        call.put(replace(value, dims=tuple("T" if i == axis else d for i, d in enumerate(value.dims))))
    elif values[0].dims[axis] == "s0":
        _combine(call, values, lambda name: Concat(name=name))
    else:
        raise _NoCounterpart(f"concatenation along {values[0].dims[axis]}; only along channels or features")


def _setitem(call: _Call) -> None:
    target, index, source = call.args[:3]
    value = call.tracer.value(source)
    before = call.tracer.value(target)
    entries = index if isinstance(index, tuple) else (index,)
    axis = len(entries) - 1
    step = entries[-1] if isinstance(entries[-1], int) and entries[:-1] == (slice(None),) * axis else None
    if value is None or step is None or value.step != step % target.shape[axis] or source.ndim != target.ndim - 1:
        raise _NoCounterpart("assignment into a tensor; only result[t] or result[:, t] = value of time step t")
    whole = replace(value, step=None, dims=(*value.dims[:axis], "T", *value.dims[axis:]))
    if before is not None and whole != before:
        raise _NoCounterpart("assignment of several things into one tensor")
    if before is None and step != 0:
        raise _NoCounterpart("assignment into a tensor that does not start at time step 0")
    call.tracer.put(target, whole)


def _expand(call: _Call) -> None:
    """A new axis, or one of size 1, that takes as many steps as there are."""
    value, added = call.value, call.result.ndim - len(call.value.dims)
    dims: list[Dim] = ["1"] * added + list(value.dims)
    sizes = [1] * added + list(call.data.shape)
    for i, (old, new) in enumerate(zip(sizes, call.result.shape, strict=True)):
        if old != new:
            if dims[i] != "1" or value.step is not None or value.timed:
                raise _NoCounterpart(f"{call.name} of {dims[i]} to {new}; only a new axis of time can be made")
            dims[i] = "T"
            call.tracer.steps = max(call.tracer.steps, new)
    call.put(replace(value, dims=tuple(dims)))


def _groups(given: tuple[int, ...], wanted: tuple[int, ...]) -> Iterator[tuple[list[int], list[int]]]:
    """Axes before and after a reshape that belong together, in order."""
    i = j = 0
    while i < len(given) or j < len(wanted):
        left, right = [i] if i < len(given) else [], [j] if j < len(wanted) else []
        i, j = i + len(left), j + len(right)
        while math.prod(given[k] for k in left) != math.prod(wanted[k] for k in right):
            if math.prod(given[k] for k in left) < math.prod(wanted[k] for k in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        while j == len(wanted) and i < len(given) and given[i] == 1:
            left.append(i)
            i += 1
        yield left, right


def _reshape(call: _Call) -> None:
    value, given, wanted = call.value, tuple(call.data.shape), tuple(call.result.shape)
    dims: list[Dim] = []
    flattens = False
    for left, right in _groups(given, wanted):
        before = tuple(value.dims[i] for i in left)
        kept = tuple(d for d in before if d != "1")
        sizes = [wanted[i] for i in right]
        if len(right) == 1 and len(kept) == 1:
            dims.append(kept[0])
        elif len(right) == 1 and not kept:
            dims.append("1")
        elif len(right) == 1 and kept in (("T", "N"), ("N", "T")):
            dims.append("".join(kept))
        elif len(right) == 1 and kept == value.sample and len(kept) > 1 and value.ordered:
            dims.append("s0")
            flattens = True
        elif len(right) == 2 and kept in (("TN",), ("NT",)) and sizes[kept[0].index("T")] in (call.tracer.steps, 1):
            dims.extend(kept[0])
        elif len(right) == 2 and kept == ("s0",) and value.sample == kept and 1 not in sizes:
            dims.extend(("group", "member"))
        elif len(kept) == 1 and sum(size != 1 for size in sizes) <= 1:
            at = next((i for i, size in enumerate(sizes) if size != 1), 0)
            dims.extend(kept[0] if i == at else "1" for i in range(len(sizes)))
        elif not kept or before == tuple(d for d in before if len(right) == len(left)):
            dims.extend(before if before else ("1",) * len(right))
        else:
            raise _NoCounterpart(
                f"{call.name} of dimensions {', '.join(value.dims)} from {given} to {wanted}; keep time, batch and "
                "sample apart, and the sample in its order"
            )
    reshaped = replace(value, dims=tuple(dims))
    if flattens:
        name = call.tracer.node(None, "flatten", (Source(value.node),), lambda name: [Flatten(name=name)])
        reshaped = replace(reshaped, node=name)
        if value.part != "output":
            raise _NoCounterpart(f"{call.name} of a membrane potential")
    call.put(reshaped)


def _reduced(call: _Call) -> None:
    """Sum or mean over time, over a whole image, or over groups of neurons."""
    value, axes = call.value, call.argument(1, "dim")
    chosen = {_axis(call, i) for i in ([axes] if isinstance(axes, int) else axes or range(len(value.dims)))}
    names = tuple(value.dims[i] for i in sorted(chosen))
    left = tuple("1" if i in chosen else d for i, d in enumerate(value.dims))
    if not call.argument(2, "keepdim", False):
        left = tuple(d for i, d in enumerate(left) if i not in chosen)
    if set(names) <= {"1"}:
        call.put(replace(value, dims=left))
    elif names == ("T",):
        size = call.data.shape[next(iter(chosen))]
        if size < call.tracer.steps:
            raise _NoCounterpart(f"{call.name} over {size} of {call.tracer.steps} time steps")
        _check_spikes(call, value)
        gain = _product(value.gain, 1 if call.name == "mean" else size)
        call.put(replace(value, dims=left, total=size, gain=gain, step=None))
    elif names == ("s1", "s2") and value.dims[-3:] == ("s0", "s1", "s2"):
        _whole_image(call, left)
    elif names == ("member",):
        _population(call, left)
    else:
        raise _NoCounterpart(
            f"{call.name} over {', '.join(names)}; only over time, whole images or groups of neurons of equal size"
        )


def _whole_image(call: _Call, left: tuple[Dim, ...]) -> None:
    height, width = call.data.shape[-2:]
    gain = np.full(call.data.shape[-3], height * width if call.name == "sum" else 1.0)

    def make(name: str) -> list[Node]:
        pool = AvgPool2d(name=f"{name} pool", kernel=(height, width), stride=(height, width))
        nodes: list[Node] = [pool, Flatten(name=name)]
        if call.name == "sum":
            nodes = [pool, Flatten(name=f"{name} flatten"), BatchNorm(name=name, scale=gain, shift=0 * gain)]
        return nodes

    value = call.value
    if value.part != "output" or value.total or value.steps or len(left) != len(value.lead) + 1:
        raise _NoCounterpart(f"{call.name} over images of dimensions {', '.join(value.dims)}")
    name = call.tracer.node((height, width), call.name, (Source(value.node),), make)
    call.put(replace(value, node=name, dims=left))


def _population(call: _Call, left: tuple[Dim, ...]) -> None:
    dims = call.value.dims
    members, groups = call.data.shape[dims.index("member")], call.data.shape[dims.index("group")]
    _groups_of(call, groups, members, 1.0 if call.name == "sum" else 1 / members, left)


def _voting(call: _Call) -> None:
    """Average pooling over features."""
    value, members, stride = call.value, call.argument(1, "kernel_size"), call.argument(2, "stride")
    members, stride = (int(n[0]) if isinstance(n, tuple | list) else n for n in (members, stride))
    if value.dims[-1] != "s0" or value.sample != ("s0",) or stride not in (None, members):
        raise _NoCounterpart(f"{call.name} on dimensions {', '.join(value.dims)}; only over groups of features")
    if call.argument(3, "padding", 0) not in (0, (0,)) or call.data.shape[-1] % members:
        raise _NoCounterpart(f"{call.name} of {call.data.shape[-1]} features by {members}; use groups of equal size")
    _groups_of(call, call.data.shape[-1] // members, members, 1 / members, value.dims)


def _groups_of(call: _Call, groups: int, members: int, share: float, left: tuple[Dim, ...]) -> None:
    value = whole_sum(call.tracer, call.value)
    matrix = np.kron(np.eye(groups), np.full((1, members), share))
    if value.part != "output" or value.steps or value.ranked:
        what = f"what {value.ranked} returns" if value.ranked else "membrane potentials"
        raise _NoCounterpart(f"{call.name} over groups of {what}")
    name = call.tracer.node(
        (members, groups, share),
        "population",
        (Source(value.node),),
        lambda name: [Linear(name=name, weight=matrix, bias=np.zeros(groups))],
    )
    call.put(replace(value, node=name, dims=tuple("s0" if d == "group" else d for d in left)))


def _each(handler: Callable[[_Call], None], names: str) -> dict[str, Callable[[_Call], None]]:
    return dict.fromkeys(names.split(), handler)


#: Give tensors that do not depend on the data.
_CONSTANTS = frozenset(f"{how}_like" for how in ("zeros", "ones", "full", "empty", "rand", "randn")) | frozenset(
    f"new_{how}" for how in ("zeros", "ones", "full", "empty", "tensor")
)
_CASTS = frozenset(("float", "to", "type", "type_as"))
_SYNAPSES = frozenset(("linear", "matmul", "conv2d", "batch_norm"))
#: What to do instead of an operation that has no counterpart.
_INSTEAD = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "elu", "gelu", "silu", "tanh", "hardtanh", "relu6"), "put spiking neurons there"
    ),
    **dict.fromkeys(("lstm", "gru", "rnn_relu", "rnn_tanh"), "use recurrent spiking neurons"),
    **dict.fromkeys(("layer_norm", "group_norm", "instance_norm"), "use batch norm"),
    **dict.fromkeys(("conv1d", "conv3d"), "use Conv2d, with an axis of size 1"),
    **dict.fromkeys(("conv_transpose2d", "interpolate"), "make maps larger by a Linear, or keep their size"),
    **dict.fromkeys(("adaptive_max_pool2d", "lp_pool2d", "max_pool1d"), "use AvgPool2d or MaxPool2d"),
    **dict.fromkeys(("max", "amax", "argmax", "topk"), "return spikes or scores of all steps, or their sum or mean"),
    "bernoulli": "encode data before the module, and give it the spikes",
    **dict.fromkeys(
        ("lt", "gt", "le", "ge", "sign", "heaviside"),
        "for a neuron take snn2chip.nn.LIF or one of snnTorch, SpikingJelly, Norse or SLAYER; where it encodes data, "
        "do that before the module, and give it the spikes",
    ),
    "pad": "use the padding of Conv2d, which is of zeros",
}
_ELSE = "leave it out, or compute it outside of the module"
#: Give numbers that depend on the data.
_READERS = frozenset(("item", "bool", "float", "int", "index", "tolist", "numpy", "array", "equal", "allclose"))
_HANDLERS: dict[str, Callable[[_Call], None]] = {
    **_each(_identity, "clone detach contiguous to float double type type_as cpu cuda requires_grad_ data alias"),
    "as_tensor": _identity,
    **_each(_dropout, "dropout dropout1d dropout2d dropout3d feature_dropout alpha_dropout"),
    **_each(_monotone, "softmax log_softmax sigmoid"),
    **_each(_reduced, "sum mean"),
    **_each(_reshape, "reshape flatten unflatten ravel"),
    **_each(_expand, "expand repeat tile"),
    **_each(_unbind, "unbind iter"),
    **_each(_split, "split chunk"),
    **_each(_reversed, "T t"),
    "add": _add,
    "sub": _sub,
    "rsub": _rsub,
    "mul": _mul,
    "div": _div,
    "neg": _neg,
    "linear": _linear,
    "matmul": _matmul,
    "conv2d": _conv2d,
    "batch_norm": _batch_norm,
    "avg_pool1d": _voting,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_pool,
    "max_pool2d": _max_pool,
    "permute": _permute,
    "transpose": _transpose,
    "movedim": _movedim,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    "getitem": _getitem,
    "select": _select,
    "stack": _stack,
    "cat": _cat,
    "setitem": _setitem,
}
