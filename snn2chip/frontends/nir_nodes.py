"""Nodes of the float graph from NIR's operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair
from snn2chip.errors import InputError
from snn2chip.frontends.nir_dialects import Continuous, Dialect, Discrete
from snn2chip.frontends.nir_file import NEURONS, Operation
from snn2chip.graph import (
    Add,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Input,
    Linear,
    Neuron,
    Node,
    Reset,
    Shape,
    per_channel,
)
from snn2chip.hdf5 import MAX_ELEMENTS

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Time:
    """How neurons become discrete: the dialect's law, or None for what our metadata say of each node."""

    dt: float
    dialect: Dialect | None
    reset: Reset = "zero"
    reset_delay: bool = False


@dataclass
class Build:
    """The graph as far as it is built; ``outputs`` names the graph node that carries an operation's output."""

    time: Time
    nodes: list[Node] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, node: Node) -> str:
        """Append a node; returns its name."""
        if node.name in self.shapes:
            raise InputError(f"{node.name}: the name is used twice")
        if isinstance(node, Input):
            self.shapes[node.name] = node.shape
        else:
            given = {name: self.shapes[name] for name in node.inputs}
            if isinstance(node, Add) and len(set(given.values())) > 1:
                raise InputError(f"{node.name}: adds shapes {' and '.join(str(shape) for shape in given.values())}")
            source = Input(name=node.inputs[0], shape=given[node.inputs[0]])
            alone = replace(node, inputs=(source.name,))
            self.shapes[node.name] = Graph((source, alone), 1).shapes()[node.name]
        self.nodes.append(node)
        return node.name


def _name(operation: Operation) -> str:
    return f"{operation.name} ({operation.kind})"


def _source(build: Build, operation: Operation) -> str:
    """The graph node that feeds ``operation``; the sum where there are several."""
    inputs = tuple(build.outputs[name] for name in operation.inputs)
    if len(inputs) == 1:
        return inputs[0]
    return build.add(Add(name=f"{operation.name} (sum)", inputs=inputs))


def add_operation(build: Build, operation: Operation) -> None:
    """Append the nodes of one operation, whose inputs are built already."""
    if operation.kind == "Input":
        build.outputs[operation.name] = build.add(input_node(build, operation))
        return
    source = _source(build, operation)
    shape = build.shapes[source]
    for node in BUILDERS[operation.kind](build, operation, shape):
        source = build.add(replace(node, inputs=(source,)))
    build.outputs[operation.name] = source


def input_node(build: Build, operation: Operation) -> Input:
    """The data, analog until they are seen."""
    values = operation.values["shape"].reshape(-1)
    if values.size > 4 or values.min() < 1 or float(np.prod(values.astype(np.float64))) > MAX_ELEMENTS:
        raise operation.fail(f"shape is {values[:8].tolist()}, expected one to three positive sizes")
    shape = tuple(int(n) for n in values)
    if len(shape) in (2, 4) and shape[0] == 1:
        build.notes.append(f"{operation.name}: its first axis of 1 is taken as the batch")
        shape = shape[1:]
    if len(shape) not in (1, 3):
        raise operation.unsupported(f"shape is {shape}, expected (features,) or (channels, height, width)")
    return Input(name=operation.name, shape=shape, kind="analog")


def _linear(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    weight = _matrix(operation)
    bias = operation.values.get("bias", np.zeros(len(weight)))
    if bias.shape != weight.shape[:1]:
        raise operation.fail(f"bias has shape {bias.shape}, expected {weight.shape[:1]}")
    return [Linear(name=_name(operation), weight=weight, bias=_float(bias))]


def _matrix(operation: Operation) -> Array:
    weight = operation.values["weight"]
    if weight.ndim != 2:
        raise operation.fail(f"weight has shape {weight.shape}, expected (out, in)")
    return _float(weight)


def _float(values: Array) -> Array:
    return values.astype(np.float64)


def _scale(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    scale = _compact(_spread(operation, "scale", shape), shape)
    if np.ndim(scale) > 1:
        raise operation.unsupported("scale differs within a channel; put it into the weights")
    scale = np.broadcast_to(scale, shape[:1]).copy()
    return [BatchNorm(name=_name(operation), scale=scale, shift=np.zeros_like(scale))]


def _pair(operation: Operation, what: str, least: int) -> Pair:
    values = operation.values[what]
    if values.size not in (1, 2) or values.min() < least or values.max() >= 1 << 16:
        raise operation.fail(f"{what} is {values.reshape(-1)[:8].tolist()}, expected one or two sizes from {least}")
    return int(values.flat[0]), int(values.flat[-1])


def _conv(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    weight = _float(operation.values["weight"])
    if weight.ndim != 4:
        raise operation.fail(f"weight has shape {weight.shape}, expected (C_out, C_in / groups, kH, kW)")
    groups = operation.values["groups"]
    if groups.size != 1 or not 1 <= groups.flat[0] <= len(weight) or len(weight) % groups.flat[0]:
        raise operation.fail(f"groups is {groups.reshape(-1)[:8].tolist()}, expected a divisor of {len(weight)}")
    bias = _float(operation.values.get("bias", np.zeros(len(weight))))
    if bias.shape != weight.shape[:1]:
        raise operation.fail(f"bias has shape {bias.shape}, expected {weight.shape[:1]}")
    stride, dilation = _pair(operation, "stride", 1), _pair(operation, "dilation", 1)
    return [
        Conv2d(
            name=_name(operation),
            weight=weight,
            bias=bias,
            stride=stride,
            padding=_padding(operation, weight.shape[2:], stride, dilation),
            dilation=dilation,
            groups=int(groups.flat[0]),
        )
    ]


def _padding(operation: Operation, kernel: Shape, stride: Pair, dilation: Pair) -> Pair:
    if operation.padding is None:
        return _pair(operation, "padding", 0)
    if operation.padding == "valid":
        return 0, 0
    if operation.padding != "same":
        raise operation.fail(f"padding is {operation.padding!r}, expected numbers, 'same' or 'valid'")
    total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    if stride != (1, 1) or any(n % 2 for n in total):
        raise operation.unsupported(f"padding 'same' with kernel {kernel} and stride {stride} is not symmetric")
    return total[0] // 2, total[1] // 2


def _pool(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    kernel = _pair(operation, "kernel_size", 1)
    stride, padding = _pair(operation, "stride", 1), _pair(operation, "padding", 0)
    mean = AvgPool2d(name=_name(operation), kernel=kernel, stride=stride, padding=padding)
    if operation.kind == "AvgPool2d":
        return [mean]
    # The factor comes first: sums of spikes times the window's size divide without rounding.
    size = np.full(shape[0], float(kernel[0] * kernel[1]))
    return [BatchNorm(name=f"{operation.name} (window size)", scale=size, shift=np.zeros_like(size)), mean]


def _flatten(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    start, end = (int(operation.values[what].flat[0]) for what in ("start_dim", "end_dim"))
    axes = len(shape)
    stored = operation.values.get("input_type")
    dialect = build.time.dialect
    # sinabs counts the batch as an axis, and says so by one axis more in the type
    batch = (stored is not None and stored.size == axes + 1) or (dialect is not None and dialect.name == "sinabs")
    first = start + axes + batch if start < 0 else start
    last = end + axes + batch if end < 0 else end
    if axes > 1 and (first - batch > 0 or last - batch != axes - 1):
        raise operation.unsupported(f"flattens axes {start} to {end} of {shape}; only all of them together")
    return [Flatten(name=_name(operation))]


def _delay(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    delay = operation.values["delay"].astype(np.float64)
    steps = np.rint(delay / build.time.dt)
    if steps.min() < 0 or steps.max() > 1 << 16 or not np.allclose(steps * build.time.dt, delay, rtol=1e-4, atol=0):
        raise operation.fail(f"delay {delay.flat[0]:g} is not a number of steps of {build.time.dt:g}; give --dt")
    if (steps != steps.flat[0]).any():
        raise operation.unsupported("delays that differ between neurons; use one Delay node for each")
    return [Delay(name=_name(operation), steps=int(steps.flat[0]))]


def _threshold(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    threshold = _compact(_spread(operation, "threshold", shape), shape)
    return [Neuron(name=_name(operation), alpha=0.0, beta=0.0, threshold=threshold)]


def _spread(operation: Operation, what: str, shape: Shape) -> Array:
    """A parameter as float64 ``[*shape]``."""
    values = _float(operation.values[what])
    if values.shape == shape[:1] or (len(shape) == 3 and values.shape == (shape[0], 1, 1)):
        values = per_channel(values.reshape(-1), len(shape))
    elif values.size != 1 and values.shape != shape:
        raise operation.fail(f"{what} has shape {values.shape}, expected {shape}")
    return np.broadcast_to(values.reshape(()) if values.size == 1 else values, shape)


def _compact(values: Array, shape: Shape) -> float | Array:
    """One number, ``[C]``, or ``[*shape]``: the shortest that says the same."""
    if (values == values.flat[0]).all():
        return float(values.flat[0])
    channels = values.reshape(shape[0], -1)
    return channels[:, 0].copy() if (channels == channels[:, :1]).all() else values.copy()


def _of_channels(values: Array) -> Array:
    """``[C]`` of values that are equal within each channel."""
    first: Array = values.reshape(values.shape[0], -1)[:, 0]
    return first


def own_shape(operation: Operation) -> Shape:
    """The shape of a node's parameters, which have one shape or are one number."""
    shapes = {values.shape for values in operation.values.values() if values.size > 1}
    if len(shapes) > 1:
        raise operation.fail(f"parameters of shapes {' and '.join(str(shape) for shape in sorted(shapes))}")
    return shapes.pop() if shapes else (1,)


def continuous(operation: Operation, shape: Shape) -> Continuous:
    """Neurons as the file has them, for an input of ``shape``."""
    values = operation.values
    names = {"tau": "tau_mem" if "tau_mem" in values else "tau", "tau_syn": "tau_syn"}
    taus = {}
    for what, stored in names.items():
        taus[what] = _spread(operation, stored, shape) if stored in values else None
        if stored in values and not (values[stored] > 0).all():
            raise operation.fail(f"{stored} contains {values[stored].min():g}, expected positive time constants")
    zeros, ones = np.zeros(shape), np.ones(shape)

    def get(what: str, default: Array) -> Array:
        return _spread(operation, what, shape) if what in values else default

    return Continuous(
        where=operation.where,
        kind=operation.kind,
        r=get("r", ones),
        tau=taus["tau"],
        tau_syn=taus["tau_syn"],
        w_in=get("w_in", ones),
        v_leak=get("v_leak", zeros),
        v_threshold=get("v_threshold", np.full(shape, np.inf)),
        v_reset=get("v_reset", zeros),
        resets="v_reset" in values,
        recurrent=operation.recurrent is not None,
        narrow=any(values[name].dtype == np.float32 for name in names.values() if name in values),
    )


def _neurons(build: Build, operation: Operation, shape: Shape) -> list[Node]:
    """``gain`` in front of the neurons where it is not 1, and the neurons.

    With ``v`` counted from the potential after a reset, and the leak's pull on it as input::

        v[t] - v0 = beta * (v[t-1] - v0) + i[t] + (1 - beta) * (v_leak - v0)        threshold - v0
    """
    time = build.time
    assert time.dialect is not None  # our own files take another way
    p = continuous(operation, shape)
    law = time.dialect.convert(p, time.dt)
    if not (law.beta.min() >= 0 and law.alpha.min() >= 0 and law.beta.max() <= 1 and law.alpha.max() <= 1):
        raise operation.fail(f"a time constant is shorter than the time step {time.dt:g}; give a smaller --dt")
    if not np.isfinite(law.gain).all():
        raise operation.fail("r and w_in give an infinite input")
    bias = np.zeros(shape)
    threshold = p.v_threshold
    if p.v_leak.any() or p.v_reset.any():
        start = {"zero": bias, "v_leak": p.v_leak, "v_reset": p.v_reset}[time.dialect.start]
        if (start != p.v_reset).any() or (time.reset == "subtract" and p.v_reset.any()):
            raise operation.unsupported(
                "its potential starts elsewhere than v_reset; only one resting potential for both is supported"
            )
        bias, threshold = (1 - law.beta) * (p.v_leak - p.v_reset), threshold - p.v_reset
        if not np.isfinite(bias).all():
            raise operation.fail("v_leak and v_reset lie too far apart")
    recurrent, recurrent_bias = recurrent_synapses(operation, shape)
    gain, threshold, bias = _per_channel_gain(operation, law, threshold, bias, shape)
    shift = gain * recurrent_bias
    if not law.alpha.any() and np.ndim(_compact(bias, shape)) < 2:
        shift, bias = shift + _of_channels(bias), np.zeros(shape)
    nodes: list[Node] = []
    if (gain != 1).any() or shift.any():
        nodes.append(BatchNorm(name=f"{operation.name} (input)", scale=gain, shift=shift))
    if law.delay:
        nodes.append(Delay(name=f"{operation.name} (delay)", steps=law.delay))
    spikes = "v_threshold" in operation.values
    nodes.append(
        Neuron(
            name=_name(operation),
            alpha=_compact(law.alpha, shape),
            beta=_compact(law.beta, shape),
            threshold=_compact(threshold, shape),
            reset=time.reset if spikes else "zero",
            reset_delay=spikes and _resets_late(time, p),
            inclusive=time.dialect.inclusive if spikes else False,
            recurrent=None if recurrent is None else gain[:, None] * recurrent,
            bias=np.broadcast_to(_compact(bias, shape), shape).copy() if bias.any() else None,
        )
    )
    return nodes


def _resets_late(time: Time, p: Continuous) -> bool:
    """snnTorch's Leaky clears the potential before it takes the next input: as if it had done so at once."""
    return time.reset_delay and (time.reset == "subtract" or p.tau_syn is not None or p.recurrent)


def _per_channel_gain(
    operation: Operation, law: Discrete, threshold: Array, bias: Array, shape: Shape
) -> tuple[Array, Array, Array]:
    """The gain ``[C]``; where it differs within a channel the potential is scaled instead, spikes stay the same."""
    if np.ndim(_compact(law.gain, shape)) < 2:
        return _of_channels(law.gain).copy(), threshold, bias
    if law.gain.min() <= 0 or not np.isfinite(threshold).all():
        raise operation.unsupported("r differs within a channel; put it into the weights")
    return np.ones(shape[0]), threshold / law.gain, bias / law.gain


def recurrent_synapses(operation: Operation, shape: Shape) -> tuple[Array | None, Array]:
    """Weight ``[N, N]`` and bias ``[N]`` of the synapses through which neurons feed themselves."""
    synapses = operation.recurrent
    if synapses is None:
        return None, np.zeros(shape[0])
    if len(shape) != 1:
        raise synapses.unsupported(f"recurrent synapses of neurons {shape}; only those of (features,) are supported")
    if synapses.kind == "Scale":
        return np.diag(_spread(synapses, "scale", shape)), np.zeros(shape)
    weight = _matrix(synapses)
    if weight.shape != shape * 2:
        raise synapses.fail(f"weight has shape {weight.shape}, expected {shape * 2}")
    bias = _float(synapses.values.get("bias", np.zeros(shape)))
    if bias.shape != shape:
        raise synapses.fail(f"bias has shape {bias.shape}, expected {shape}")
    return weight, bias


Builder = Callable[[Build, Operation, Shape], list[Node]]
BUILDERS: dict[str, Builder] = {
    "Linear": _linear,
    "Affine": _linear,
    "Scale": _scale,
    "Conv2d": _conv,
    "SumPool2d": _pool,
    "AvgPool2d": _pool,
    "Flatten": _flatten,
    "Delay": _delay,
    "Threshold": _threshold,
    **dict.fromkeys(NEURONS, _neurons),
}
