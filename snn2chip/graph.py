"""Graph: the network in floating point and discrete time, with explicit semantics, and its executor.

Nodes are frozen dataclasses in topological order. All nodes work within the same step, except :class:`Delay`; only
:class:`Neuron` and :class:`ChipLayer` have state. The executor is the meaning of the graph: passes have to leave its
spikes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from snn2chip import law
from snn2chip.chip import Encoding, Layer
from snn2chip.conv import Pair, conv2d, output_size
from snn2chip.errors import InputError, UnsupportedError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
#: How data enter: binary events; numbers at each step; numbers at step 0 that the first layer's current holds.
InputKind = Literal["spikes", "analog", "hold"]
#: What a spike does to the membrane potential.
Reset = Literal["zero", "subtract", "none"]
#: What scores the classes: the last node's output over time, or its membrane potential at the last step.
ReadoutKind = Literal["output", "potential"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """One operation.

    Attributes:
        name: the user's module path and the module's type, e.g. ``features.3 (Conv2d)``.
        inputs: names of the nodes that it takes, in order.
    """

    name: str
    inputs: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Input(Node):
    """The data, ``[N, T, *shape]``, or static."""

    shape: Shape
    kind: InputKind = "spikes"


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Node):
    """``y = weight x + bias``; weight ``[out, in]``, bias ``[out]``.

    Attributes:
        delay: ``[out, in]``, whole steps that each synapse takes longer (the bias does not), or None.
    """

    weight: Array
    bias: Array
    delay: Array | None = None

    def __post_init__(self) -> None:
        if self.delay is not None:
            steps = np.rint(self.delay).astype(np.int64)
            if not np.array_equal(steps, self.delay) or (steps < 0).any():
                raise InputError(f"{self.name}: delays must be whole numbers of steps, at least 0")
            object.__setattr__(self, "delay", steps)


@dataclass(frozen=True, eq=False, kw_only=True)
class Conv2d(Node):
    """Cross-correlation as in torch; weight ``[C_out, C_in / groups, kH, kW]``, bias ``[C_out]``."""

    weight: Array
    bias: Array
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchNorm(Node):
    """``y = scale * x + shift`` per channel (or feature): batch norm with its running statistics, or any such map."""

    scale: Array
    shift: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(Node):
    """Mean over windows; padding counts as zeros, windows that do not fit are dropped."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(Node):
    """Maximum over windows; padding never wins, windows that do not fit are dropped."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Node):
    """``[C, H, W]`` to ``[C * H * W]``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Add(Node):
    """Sum of all inputs, which have one shape."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Concat(Node):
    """Inputs one after the other along channels (or features)."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Delay(Node):
    """``y[t] = x[t - steps]``, 0 before."""

    steps: int = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Neuron(Node):
    """Current-based leaky integrate-and-fire neurons.

    ::

        i[t] = alpha * i[t-1] + x[t] + recurrent s[t-1]
        v[t] = beta * v[t-1] + i[t] + bias  (- threshold * s[t-1], reset "subtract" with reset_delay)
        s[t] = v[t] > threshold             (>= where inclusive)
        v[t] = 0 where s[t]                 reset "zero"; with reset_delay v[t+1] = 0 before it may fire instead
        v[t] = v[t] - threshold * s[t]      reset "subtract" without reset_delay

    The two kinds of subtraction differ where the potential leaks: the delayed one is not scaled by ``beta``.
    An integrator is ``beta = 1`` with an infinite threshold: it never spikes and its potential is read.
    ``alpha``, ``beta`` and ``threshold`` are one number, an array ``[C]`` per channel (or feature), or ``[*shape]``.
    ``bias`` is None until a pass moves the synapses' bias here, where it does not pass through the current.

    Attributes:
        relays: the last so many channels (or features) are memoryless (alpha = beta = 0) and fire exactly when any of
            their inputs does: their weights are 0 or 1 and their threshold is 1/2, on the chip whatever fits. A pass
            makes them.
    """

    alpha: float | Array = 0.0
    beta: float | Array = 1.0
    threshold: float | Array = 1.0
    reset: Reset = "zero"
    reset_delay: bool = False
    inclusive: bool = False
    recurrent: Array | None = None
    bias: Array | None = None
    relays: int = 0

    @property
    def spikes(self) -> bool:
        """Whether any of the neurons can fire."""
        return bool(np.isfinite(self.threshold).any())


@dataclass(frozen=True, eq=False, kw_only=True)
class ChipLayer(Node):
    """Synapses and neurons that are integers already, as in a network trained with the chip's arithmetic.

    Computes messages by the integer law (:mod:`snn2chip.law`).

    Attributes:
        encoding: how the numbers that it takes become messages; None where they are integers already.
    """

    layer: Layer
    encoding: Encoding | None = None


NodeT = TypeVar("NodeT", bound=Node)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order; the first is the input, the last the output.

    Attributes:
        time_steps: steps T of one sample.
        readout: what scores the classes.
        inexact: what differs from the trained module, one sentence each.
    """

    nodes: tuple[Node, ...]
    time_steps: int
    readout: ReadoutKind = "output"
    inexact: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        if not self.nodes or not isinstance(self.nodes[0], Input):
            raise InputError("graph: the first node must be the input")
        if self.time_steps < 1:
            raise InputError(f"graph: {self.time_steps} time steps, expected at least 1")
        for node in self.nodes:
            if node.name in seen:
                raise InputError(f"{node.name}: the name is used twice")
            if isinstance(node, Input) != (not node.inputs) or any(name not in seen for name in node.inputs):
                raise InputError(f"{node.name}: takes {node.inputs}, which do not come before it")
            seen.add(node.name)

    @property
    def input(self) -> Input:
        """The first node."""
        first = self.nodes[0]
        assert isinstance(first, Input)  # __post_init__ checked it
        return first

    @property
    def output(self) -> Node:
        """The last node."""
        return self.nodes[-1]

    @property
    def reads_potential(self) -> bool:
        """Whether the last neurons' potential at the last step scores the classes."""
        last = self.output
        if isinstance(last, Neuron) and not last.spikes:
            return True
        return self.readout == "potential" and isinstance(last, Neuron | ChipLayer)

    def consumers(self, name: str) -> list[Node]:
        """Nodes that take the output of ``name``."""
        return [node for node in self.nodes if name in node.inputs]

    def replaced(self, changes: dict[str, Node | None]) -> Graph:
        """The graph with some nodes replaced; None removes a node and connects its input to its consumers."""
        gone = {name: self.node(name).inputs[0] for name, node in changes.items() if node is None}

        def source(name: str) -> str:
            while name in gone:
                name = gone[name]
            return name

        nodes = []
        for node in self.nodes:
            new = changes.get(node.name, node)
            if new is not None:
                nodes.append(replace(new, inputs=tuple(source(name) for name in new.inputs)))
        return replace(self, nodes=tuple(nodes))

    def node(self, name: str) -> Node:
        """The node of that name."""
        return next(node for node in self.nodes if node.name == name)

    def shapes(self) -> dict[str, Shape]:
        """Shape of each node's output for one sample and step.

        Raises:
            InputError: an operation does not fit the shape that it is given, by the node's name.
        """
        shapes: dict[str, Shape] = {}
        for node in self.nodes:
            shapes[node.name] = _shape(node, [shapes[name] for name in node.inputs])
        return shapes


def _shape(node: Node, given: list[Shape]) -> Shape:
    if isinstance(node, Input):
        return node.shape
    shape = given[0]
    if isinstance(node, Linear):
        if shape != (node.weight.shape[1],):
            raise InputError(f"{node.name}: takes {node.weight.shape[1]} features, is given {shape}")
        if node.delay is not None and node.delay.shape != node.weight.shape:
            raise InputError(f"{node.name}: delay has shape {node.delay.shape}, expected {node.weight.shape}")
        return (node.weight.shape[0],)
    if isinstance(node, Flatten):
        return (int(np.prod(shape)),)
    if isinstance(node, Add):
        if any(other != shape for other in given):
            raise InputError(f"{node.name}: adds shapes {' and '.join(str(one) for one in given)}")
        return shape
    if isinstance(node, Concat):
        if any(other[1:] != shape[1:] for other in given):
            raise InputError(f"{node.name}: concatenates shapes {' and '.join(str(one) for one in given)}")
        return (sum(other[0] for other in given), *shape[1:])
    if isinstance(node, Conv2d | AvgPool2d | MaxPool2d):
        if len(shape) != 3:
            raise InputError(f"{node.name}: takes (C, H, W), is given {shape}")
        if isinstance(node, Conv2d):
            channels = node.weight.shape[0]
            if shape[0] != node.weight.shape[1] * node.groups:
                raise InputError(
                    f"{node.name}: takes {node.weight.shape[1] * node.groups} channels, is given {shape[0]}"
                )
            size = output_size(shape[1:], node.weight.shape[2:], node.stride, node.padding, node.dilation)
        else:
            channels, size = shape[0], output_size(shape[1:], node.kernel, node.stride, node.padding)
        if min(size) < 1:
            raise InputError(f"{node.name}: its window is larger than its input {shape}")
        return (channels, *size)
    if isinstance(node, BatchNorm) and len(node.scale) != shape[0]:
        raise InputError(f"{node.name}: takes {len(node.scale)} channels, is given {shape}")
    if isinstance(node, Neuron):
        _check_neuron(node, shape)
    if isinstance(node, ChipLayer):
        if shape != node.layer.input_shape and (int(np.prod(shape)),) != node.layer.input_shape:
            raise InputError(f"{node.name}: takes {node.layer.input_shape}, is given {shape}")
        return node.layer.shape
    return shape


def _check_neuron(node: Neuron, shape: Shape) -> None:
    if node.recurrent is not None and node.recurrent.shape != (shape[0],) * 2:
        raise InputError(f"{node.name}: recurrent weight has shape {node.recurrent.shape}, the layer {shape}")
    for what in ("alpha", "beta", "threshold", "bias"):
        values = getattr(node, what)
        if values is not None and np.shape(values) not in ((), shape[:1], shape):
            raise InputError(f"{node.name}: {what} has shape {np.shape(values)}, expected (), {shape[:1]} or {shape}")


def per_channel(values: Array, ndim: int) -> Array:
    """``[C]`` shaped to broadcast over ``[..., C, H, W]`` or ``[..., F]`` arrays of one sample with ``ndim`` axes."""
    return values.reshape(-1, *(1,) * (ndim - 1))


def per_neuron(values: float | Array, shape: Shape) -> Array:
    """One number, ``[C]`` or ``[*shape]`` as an array ``[*shape]``."""
    array = np.asarray(values)
    if array.ndim == 1:
        array = per_channel(array, len(shape))
    return np.broadcast_to(array, shape)


def _windows(node: AvgPool2d | MaxPool2d, x: Array, pad_with: float) -> list[Array]:
    """The values at each place of the window, each ``[K, C, H_out, W_out]``."""
    (pad_h, pad_w), (step_h, step_w) = node.padding, node.stride
    height, width = output_size(x.shape[2:], node.kernel, node.stride, node.padding)
    if pad_h or pad_w:
        x = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)), constant_values=pad_with)
    return [
        x[:, :, i : i + (height - 1) * step_h + 1 : step_h, j : j + (width - 1) * step_w + 1 : step_w]
        for i in range(node.kernel[0])
        for j in range(node.kernel[1])
    ]


def _stateless(node: Node, x: Array, dtype: Any) -> Array:
    """``[K, ...]`` to ``[K, ...]``."""
    if isinstance(node, Linear):
        return np.asarray(x @ node.weight.T.astype(dtype) + node.bias.astype(dtype))
    if isinstance(node, Conv2d):
        weight = node.weight.astype(dtype)
        out = conv2d(x, weight, node.stride, node.padding, node.dilation, node.groups)
        return out + per_channel(node.bias.astype(dtype), 3)
    if isinstance(node, BatchNorm):
        axes = x.ndim - 1
        return x * per_channel(node.scale.astype(dtype), axes) + per_channel(node.shift.astype(dtype), axes)
    if isinstance(node, AvgPool2d):
        total = sum(_windows(node, x, 0.0))
        return np.asarray(total / (node.kernel[0] * node.kernel[1]), dtype)
    if isinstance(node, MaxPool2d):
        return np.asarray(np.maximum.reduce(_windows(node, x, -np.inf)), dtype)
    if isinstance(node, Flatten):
        return x.reshape(len(x), -1)
    raise UnsupportedError(f"{node.name}: the executor does not know {type(node).__name__}")


def _neuron(node: Neuron, x: Array, steps: int, dtype: Any) -> tuple[Array, Array]:
    """Spikes and membrane potentials (after the reset) ``[N, T, ...]`` of currents ``[N, T or 1, ...]``."""
    shape = (x.shape[0], steps, *x.shape[2:])
    spikes, potentials = np.empty(shape, dtype), np.empty(shape, dtype)
    i, v, s = (np.zeros((x.shape[0], *x.shape[2:]), dtype) for _ in range(3))
    alpha, beta, threshold = (
        per_neuron(values, x.shape[2:]).astype(dtype) for values in (node.alpha, node.beta, node.threshold)
    )
    recurrent = None if node.recurrent is None else node.recurrent.T.astype(dtype)
    bias = dtype(0) if node.bias is None else per_neuron(node.bias, x.shape[2:]).astype(dtype)
    fires = np.greater_equal if node.inclusive else np.greater
    resets = np.ones(x.shape[2:], dtype)
    resets[len(resets) - node.relays :] = 0  # a relay is memoryless: its spike leaves nothing behind
    for t in range(steps):
        x_t = x[:, t if x.shape[1] > 1 else 0]
        i = alpha * i + x_t if recurrent is None else alpha * i + x_t + s @ recurrent
        v = beta * v + (i + bias)
        if node.reset == "subtract" and node.reset_delay:
            v = v - np.where(s * resets > 0, threshold, dtype(0))
        elif node.reset == "zero" and node.reset_delay:
            v = np.where(s * resets > 0, dtype(0), v)
        s = fires(v, threshold).astype(dtype)
        if node.reset == "zero" and not node.reset_delay:
            v = np.where(s * resets > 0, dtype(0), v)
        elif node.reset == "subtract" and not node.reset_delay:
            v = v - np.where(s * resets > 0, threshold, dtype(0))
        spikes[:, t], potentials[:, t] = s, v
    return spikes, potentials


def _chip_layer(node: ChipLayer, x: Array, steps: int, dtype: Any) -> tuple[Array, Array]:
    """Messages and potentials ``[N, T, ...]`` of numbers ``[N, T or 1, ...]``.

    Raises:
        InputError: they are not integers, and nothing says how they become such.
    """
    if node.encoding is not None:
        x = node.encoding.rounded(x)
    elif (x != np.rint(x)).any():
        raise InputError(
            f"{node.name}: takes integers, is given {x[x != np.rint(x)].flat[0]:g}; start the network with a layer "
            "that rounds its input"
        )
    messages = np.broadcast_to(x, (x.shape[0], steps, *x.shape[2:])).astype(np.int64)
    messages = messages.reshape(*messages.shape[:2], *node.layer.input_shape)
    spikes, _, v = law.run_layer(node.layer, messages)
    return spikes.astype(dtype), v.astype(dtype)


def _delayed(x: Array, delay: int, steps: int) -> Array:
    whole = np.broadcast_to(x, (x.shape[0], steps, *x.shape[2:]))
    silent = np.zeros((x.shape[0], min(delay, steps), *x.shape[2:]), x.dtype)
    return np.concatenate([silent, whole[:, : max(0, steps - delay)]], 1)


def _delayed_linear(node: Linear, delay: Array, x: Array, steps: int, dtype: Any) -> Array:
    """Each synapse's product arrives its own number of steps later."""
    total = np.broadcast_to(node.bias.astype(dtype), (len(x), steps, len(node.bias)))
    for d in np.unique(delay).tolist():
        total = total + _delayed(x @ np.where(delay == d, node.weight, 0).T.astype(dtype), int(d), steps)
    return total


def _combined(node: Add | Concat, given: list[Array]) -> Array:
    """Inputs ``[N, T or 1, ...]``, static ones shown at each step where others are not."""
    steps = max(x.shape[1] for x in given)
    given = [np.broadcast_to(x, (x.shape[0], steps, *x.shape[2:])) for x in given]
    if isinstance(node, Concat):
        return np.concatenate(given, 2)
    return np.asarray(sum(given[1:], start=given[0]))


@dataclass(frozen=True)
class GraphTrace:
    """What the executor saw: the output of each kept node, and membrane potentials of kept neurons, ``[N, T, ...]``.

    ``scores`` ``[N, classes]``: spikes counted, potential at the last step, or output averaged over time, as the
    graph's readout says. Neurons that never spike are read by their potential in any case.
    """

    outputs: dict[str, Array]
    potentials: dict[str, Array]
    scores: Array


def execute(
    graph: Graph,
    x: Array,
    keep: Callable[[Node], bool] = lambda node: isinstance(node, Neuron),
    dtype: Any = np.float64,
) -> GraphTrace:
    """Run ``graph`` on data.

    Args:
        x: ``[N, T, *shape]``, or ``[N, *shape]``, static.
        keep: which nodes' outputs to return.
        dtype: ``np.float64``, or ``np.float32`` to see what training saw.
    """
    extra = x.ndim - len(graph.input.shape)
    if extra not in (1, 2) or x.shape[extra:] != graph.input.shape:
        raise InputError(f"data: shape {x.shape}, expected (N, T, *{graph.input.shape}) or (N, *{graph.input.shape})")
    steps = graph.time_steps if extra == 1 else x.shape[1]
    if extra == 1:
        x = x[:, None]
    x = x.astype(dtype)
    if graph.input.kind == "hold" and x.shape[1] == 1:
        x = np.concatenate([x, np.zeros((len(x), steps - 1, *x.shape[2:]), dtype)], 1)
    last_use = {name: node.name for node in graph.nodes for name in node.inputs}
    live: dict[str, Array] = {}
    outputs: dict[str, Array] = {}
    potentials: dict[str, Array] = {}
    result = x
    for node in graph.nodes:
        given = [live[name] for name in node.inputs]
        if isinstance(node, Input):
            result = x
        elif isinstance(node, Neuron):
            result, potentials[node.name] = _neuron(node, given[0], steps, dtype)
        elif isinstance(node, ChipLayer):
            result, potentials[node.name] = _chip_layer(node, given[0], steps, dtype)
        elif isinstance(node, Delay):
            result = _delayed(given[0], node.steps, steps)
        elif isinstance(node, Linear) and node.delay is not None:
            result = _delayed_linear(node, node.delay, given[0], steps, dtype)
        elif isinstance(node, Add | Concat):
            result = _combined(node, given)
        else:
            flat = _stateless(node, given[0].reshape(-1, *given[0].shape[2:]), dtype)
            result = flat.reshape(*given[0].shape[:2], *flat.shape[1:])
        live[node.name] = result
        if keep(node):
            outputs[node.name] = np.broadcast_to(result, (len(x), steps, *result.shape[2:]))
        elif node is not graph.output:
            potentials.pop(node.name, None)
        for name in set(node.inputs):
            if last_use[name] == node.name:
                del live[name]
    last = graph.output
    if graph.reads_potential:
        scores = potentials[last.name][:, -1]
    else:
        scores = result.sum(1) if isinstance(last, Neuron | ChipLayer) else result.mean(1)
    return GraphTrace(outputs, potentials, scores.reshape(len(x), -1))
