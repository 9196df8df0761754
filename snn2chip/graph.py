"""Graph: the network in floating point and discrete time, with explicit semantics, and its executor.

Nodes are frozen dataclasses in topological order. All nodes work within the same step; only :class:`Neuron` has state.
The executor is the meaning of the graph: passes have to leave its spikes unchanged.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair, conv2d, output_size
from snn2chip.errors import InputError, UnsupportedError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
#: How data enter: binary events; numbers at each step; numbers at step 0 that the first layer's current holds.
InputKind = Literal["spikes", "analog", "hold"]


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
    """``y = weight x + bias``; weight ``[out, in]``, bias ``[out]``."""

    weight: Array
    bias: Array


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
    """``y = scale * x + shift`` per channel (or feature): batch norm with its running statistics."""

    scale: Array
    shift: Array


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(Node):
    """Mean over windows, without padding; windows that do not fit are dropped."""

    kernel: Pair
    stride: Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class Flatten(Node):
    """``[C, H, W]`` to ``[C * H * W]``."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Neuron(Node):
    """Current-based leaky integrate-and-fire neurons.

    ::

        i[t] = alpha * i[t-1] + x[t] + recurrent s[t-1]
        v[t] = beta * v[t-1] + i[t] + bias
        s[t] = v[t] > threshold
        v[t] = 0 where s[t] (reset "zero"), or v[t] - threshold * s[t] (reset "subtract")

    An integrator is ``beta = 1`` with an infinite threshold: it never spikes and its potential is read.
    ``bias`` is None until a pass moves the synapses' bias here, where it does not pass through the current.
    """

    alpha: float = 0.0
    beta: float = 1.0
    threshold: float = 1.0
    reset: Literal["zero", "subtract"] = "zero"
    recurrent: Array | None = None
    bias: Array | None = None


NodeT = TypeVar("NodeT", bound=Node)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order; the first is the input, the last the output.

    Attributes:
        time_steps: steps T of one sample.
    """

    nodes: tuple[Node, ...]
    time_steps: int

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
        return Graph(tuple(nodes), self.time_steps)

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
        return (node.weight.shape[0],)
    if isinstance(node, Flatten):
        return (int(np.prod(shape)),)
    if isinstance(node, Conv2d | AvgPool2d):
        if len(shape) != 3:
            raise InputError(f"{node.name}: takes (C, H, W), is given {shape}")
        if isinstance(node, AvgPool2d):
            channels, size = shape[0], output_size(shape[1:], node.kernel, node.stride, (0, 0))
        else:
            channels = node.weight.shape[0]
            if shape[0] != node.weight.shape[1] * node.groups:
                raise InputError(
                    f"{node.name}: takes {node.weight.shape[1] * node.groups} channels, is given {shape[0]}"
                )
            size = output_size(shape[1:], node.weight.shape[2:], node.stride, node.padding, node.dilation)
        if min(size) < 1:
            raise InputError(f"{node.name}: its window is larger than its input {shape}")
        return (channels, *size)
    if isinstance(node, BatchNorm) and len(node.scale) != shape[0]:
        raise InputError(f"{node.name}: takes {len(node.scale)} channels, is given {shape}")
    if isinstance(node, Neuron) and node.recurrent is not None and node.recurrent.shape != (shape[0],) * 2:
        raise InputError(f"{node.name}: recurrent weight has shape {node.recurrent.shape}, the layer {shape}")
    return shape


def per_channel(values: Array, ndim: int) -> Array:
    """``[C]`` shaped to broadcast over ``[..., C, H, W]`` or ``[..., F]`` arrays of one sample with ``ndim`` axes."""
    return values.reshape(-1, *(1,) * (ndim - 1))


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
        height, width = output_size(x.shape[2:], node.kernel, node.stride, (0, 0))
        (step_h, step_w), total = node.stride, np.zeros((*x.shape[:2], height, width), dtype)
        for i in range(node.kernel[0]):
            for j in range(node.kernel[1]):
                total += x[:, :, i : i + height * step_h : step_h, j : j + width * step_w : step_w][
                    :, :, :height, :width
                ]
        return np.asarray(total / (node.kernel[0] * node.kernel[1]), dtype)
    if isinstance(node, Flatten):
        return x.reshape(len(x), -1)
    raise UnsupportedError(f"{node.name}: the executor does not know {type(node).__name__}")


def _neuron(node: Neuron, x: Array, steps: int, dtype: Any) -> tuple[Array, Array]:
    """Spikes and membrane potentials (after the reset) ``[N, T, ...]`` of currents ``[N, T or 1, ...]``."""
    shape = (x.shape[0], steps, *x.shape[2:])
    spikes, potentials = np.empty(shape, dtype), np.empty(shape, dtype)
    i, v, s = (np.zeros((x.shape[0], *x.shape[2:]), dtype) for _ in range(3))
    alpha, beta, threshold = dtype(node.alpha), dtype(node.beta), dtype(node.threshold)
    recurrent = None if node.recurrent is None else node.recurrent.T.astype(dtype)
    bias = dtype(0) if node.bias is None else per_channel(node.bias.astype(dtype), x.ndim - 2)
    for t in range(steps):
        x_t = x[:, t if x.shape[1] > 1 else 0]
        i = alpha * i + x_t if recurrent is None else alpha * i + x_t + s @ recurrent
        v = beta * v + (i + bias)
        s = (v > threshold).astype(dtype)
        v = np.where(s > 0, dtype(0), v) if node.reset == "zero" else v - np.where(s > 0, threshold, dtype(0))
        spikes[:, t], potentials[:, t] = s, v
    return spikes, potentials


@dataclass(frozen=True)
class GraphTrace:
    """What the executor saw: the output of each kept node, and membrane potentials of kept neurons, ``[N, T, ...]``.

    ``scores`` ``[N, classes]``: spikes counted, potential at the last step, or output averaged over time.
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
        if isinstance(node, Input):
            result = x
        elif isinstance(node, Neuron):
            result, potentials[node.name] = _neuron(node, live[node.inputs[0]], steps, dtype)
        else:
            given = live[node.inputs[0]]
            flat = _stateless(node, given.reshape(-1, *given.shape[2:]), dtype)
            result = flat.reshape(*given.shape[:2], *flat.shape[1:])
        live[node.name] = result
        if keep(node):
            outputs[node.name] = np.broadcast_to(result, (len(x), steps, *result.shape[2:]))
        elif node is not graph.output:
            potentials.pop(node.name, None)
        for name in node.inputs:
            if last_use[name] == node.name:
                del live[name]
    last = graph.output
    if isinstance(last, Neuron):
        scores = result.sum(1) if np.isfinite(last.threshold) else potentials[last.name][:, -1]
    else:
        scores = result.mean(1)
    return GraphTrace(outputs, potentials, scores.reshape(len(x), -1))
