"""Networks with synapses that no chain of layers has: feedback, gates, reset by subtraction in a convolution.

A :class:`Circuit` is a :class:`~snn2chip.chip.ChipNet` and edges between any two of its layers. Time is the chip's:
what a layer fires at one chip step arrives at every other one, or at itself, at the next. In layer time an edge from
layer s to layer t delivers at step ``i + 1 + s - t`` what was fired at step i.

Stock Lava runs circuits (:mod:`snn2chip.exporters.lava_module`); NetX has no form for them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import law, limits
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, IntArray, Layer, Neuron
from snn2chip.errors import InputError, LimitError, UnsupportedError, UsageError
from snn2chip.traces import Mode, Record, Traces, check_mode, padded

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]

EXPONENT_MAX = 7  # of a weight, four bits with sign


@dataclass(frozen=True, eq=False)
class Edge:
    """Synapses from the spikes of one layer to the neurons of another one, or of the same.

    Attributes:
        source, target: names of layers.
        weight: ``[channels]``: each neuron to the one at the same place, with its channel's weight (of a vector: its
            own); or ``[target neurons, source neurons]`` in the order C, H, W.
        exponent: weights count times 2 to this, 0..7.
    """

    source: str
    target: str
    weight: IntArray
    exponent: int = 0

    @property
    def one_to_one(self) -> bool:
        """Whether each neuron drives the one at its own place alone."""
        return self.weight.ndim == 1

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.source} -> {self.target}"


@dataclass(frozen=True, eq=False)
class Circuit:
    """A network and what runs across its layers.

    Attributes:
        net: the chain of layers.
        edges: see above.
        resets: names of layers and an interval that divides the window: u and v of these are zero before every step
            that is a multiple of it.
    """

    net: ChipNet
    edges: tuple[Edge, ...] = ()
    resets: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        layers = {layer.name: layer for layer in self.net.layers}
        for name in (*(e.source for e in self.edges), *(e.target for e in self.edges), *(n for n, _ in self.resets)):
            if name not in layers:
                raise InputError(f"circuit: no layer {name!r}, have {', '.join(layers)}")
        for layer in self.net.layers:
            _check_layer(layer)
        for edge in self.edges:
            _check_edge(edge, layers[edge.source], layers[edge.target])
        for name, interval in self.resets:
            if interval < 1 or self.net.window % interval:
                raise LimitError(
                    name, "reset interval", interval, f"a divisor of {self.net.window}", "use a wider window"
                )

    def into(self, name: str) -> tuple[Edge, ...]:
        """Edges that end in a layer."""
        return tuple(edge for edge in self.edges if edge.target == name)


def _check_layer(layer: Layer) -> None:
    if not isinstance(layer.neuron, Neuron):
        kind = type(layer.neuron).__name__
        raise UnsupportedError(f"{layer.name}: neurons of kind {kind} cannot be part of a circuit; use NetX")
    if isinstance(layer, Dense) and layer.delay is not None:
        raise UnsupportedError(f"{layer.name}: delays cannot be part of a circuit; use NetX, or layers of relays")


def _check_edge(edge: Edge, source: Layer, target: Layer) -> None:
    sizes = (int(np.prod(target.shape)), int(np.prod(source.shape)))
    if edge.one_to_one:
        if source.shape != target.shape or edge.weight.shape != target.shape[:1]:
            raise InputError(
                f"{edge.name}: {len(edge.weight)} weights, one per channel, need two layers of one shape with as many "
                f"channels, they have {source.shape} and {target.shape}"
            )
    elif edge.weight.shape != sizes:
        raise InputError(f"{edge.name}: weight has shape {edge.weight.shape}, expected {sizes}")
    if not 0 <= edge.exponent <= EXPONENT_MAX:
        raise LimitError(edge.name, "weight exponent", edge.exponent, f"0..{EXPONENT_MAX}", "use another weight")
    worst = int(edge.weight.flat[np.abs(edge.weight).argmax()]) if edge.weight.size else 0
    if not limits.WEIGHT_MIN <= worst <= limits.WEIGHT_MAX:
        raise LimitError(
            edge.name, "weight", worst, f"{limits.WEIGHT_MIN}..{limits.WEIGHT_MAX}", "use a larger weight exponent"
        )


def soft_reset(layer: Layer, theta: Any) -> Edge:
    """The edge that subtracts ``theta``, one number or one per channel, from the current of a neuron that has fired.

    Exact for neurons that keep their potential in the current: iDecay is the leak, vDecay 4096, or 4095 with a
    threshold that the residual cannot cross (:mod:`snn2chip.passes.soft_reset`).
    """
    weight = -np.broadcast_to(np.asarray(theta), layer.shape[:1]).astype(np.int32)
    return Edge(layer.name, layer.name, weight)


def gated(net: ChipNet) -> Circuit:
    """``net``, whose decision holds its hidden layers down: fewer spikes from the exit to the end of the window.

    Detectors are reset in the middle of the window, when the input has ended, so that no gate reaches into the next
    one; the window is made as long as that needs, a power of two.

    Raises:
        UsageError: the network has no circuit that decides.
        UnsupportedError: a layer before the decision has biases that drive it without input, so that it would decide
            again after the input; or no hidden layer can be held down without a wrap.
    """
    from snn2chip.early_exit.activity import gates

    rule = net.exit
    if rule is None or rule.form in ("host", "run"):
        raise UsageError("gate: the network has no early exit in its layers (form pairs, band or first) to drive it")
    half = 1 << (max(net.time_steps, len(net.layers)) - 1).bit_length()
    net = replace(net, window=max(2 * half, net.window))
    half = net.window // 2
    for layer in net.layers[:-1]:
        assert isinstance(layer.neuron, Neuron)
        own = layer.neuron.expanded(layer.shape)
        driven = np.where(own["threshold"] < limits.THRESHOLD_MAX, own["bias"], 0)
        if driven.max() > 0:
            raise UnsupportedError(
                f"{layer.name}: a bias of {int(driven.max())} drives it without input, and would let it decide after "
                "the sample; train without biases, or gate from the host (snn2chip simulate --exit gated)"
            )
    decision = net.layers[-1]
    names = [layer.name for layer in net.layers]
    edges = []
    for name, amount in gates(net).items():
        size = int(np.prod(net.layers[names.index(name)].shape))
        # 127 at most, so that Lava's eight bits with sign hold it whatever else the matrix has.
        exponent = max(0, (amount + 126) // 127 - 1).bit_length()
        weight = -amount // (1 << exponent)
        if exponent <= EXPONENT_MAX:
            edges.append(Edge(decision.name, name, np.full((size, rule.classes), weight, np.int32), exponent))
    if not edges:
        raise UnsupportedError(
            "gate: no hidden layer can be held down without a wrap; lower weights, or shorten the window"
        )
    deciding = names[names.index(rule.readout) + (rule.form == "first" or net.readout.kind == "count") : -1]
    return Circuit(net, tuple(edges), tuple((name, half) for name in deciding))


# The law, in chip time


@dataclass
class _State:
    """One layer while it runs."""

    layer: Layer
    neuron: Mapping[str, Int]
    edges: tuple[Edge, ...]
    u: Int
    v: Int
    spikes: Int

    @staticmethod
    def at_rest(layer: Layer, edges: tuple[Edge, ...], streams: int) -> _State:
        assert isinstance(layer.neuron, Neuron)
        neuron = {name: array.astype(np.int64) for name, array in layer.neuron.expanded(layer.shape).items()}
        u, v, spikes = np.zeros((3, streams, *layer.shape), np.int64)
        return _State(layer, neuron, edges, u, v, spikes)

    def clear(self) -> None:
        self.u, self.v = np.zeros_like(self.u), np.zeros_like(self.v)

    def advance(self, arrived: Int, fired: Mapping[str, Int]) -> Int:
        """Spikes of this step, from what the layer before and all layers fired at the last one."""
        a = law.weighted_sums(self.layer, arrived).reshape(self.u.shape)
        if isinstance(self.layer, Dense) and self.layer.recurrent is not None:
            a = a + fired[self.layer.name] @ self.layer.recurrent.T.astype(np.int64)
        for edge in self.edges:
            a = a + _delivered(edge, fired[edge.source], self.layer.shape)
        self.u = law.wrapped(
            law.in_register(law.decayed(self.u, self.neuron["current_decay"]) + (a << limits.STATE_SHIFT))
        )
        bias = self.neuron["bias"] << limits.BIAS_EXPONENT
        self.v = law.clipped(law.in_register(law.decayed(self.v, self.neuron["voltage_decay"]) + self.u + bias))
        spikes: Int = (self.v > self.neuron["threshold"] << limits.STATE_SHIFT).astype(np.int64)
        self.v = np.where(spikes == 1, 0, self.v)
        return spikes


def _delivered(edge: Edge, spikes: Int, shape: tuple[int, ...]) -> Int:
    weight = edge.weight.astype(np.int64)
    if edge.one_to_one:
        sums = spikes * weight.reshape(-1, *(1,) * (len(shape) - 1))
    else:
        sums = (spikes.reshape(len(spikes), -1) @ weight.T).reshape(len(spikes), *shape)
    shifted: Int = sums << edge.exponent
    return shifted


def run(circuit: Circuit, messages: Array, mode: Mode = "isolated", record: Record | None = None) -> Traces:
    """Simulate ``circuit`` on ``messages`` ``[N, T, *input_shape]``; see :mod:`snn2chip.traces` for the contract.

    ``isolated``: each sample from rest, and what an edge would deliver after a window is lost. ``windowed`` and
    ``streaming``: one run from chip step 1, as in Lava; edges deliver across resets.
    """
    check_mode(mode)
    net = circuit.net
    record = record or Record.readout(net)
    frames = padded(net, messages).astype(np.int64)
    samples, window = frames.shape[:2]
    began = time.perf_counter()
    isolated = mode == "isolated"
    if not isolated:
        frames = frames.reshape(1, samples * window, *net.input_shape)
    streams, steps = frames.shape[:2]
    states = [_State.at_rest(layer, circuit.into(layer.name), streams) for layer in net.layers]
    intervals = dict(circuit.resets)
    regular = window if mode == "windowed" else 0
    first = 0 if isinstance(net.layers[0], InputNeurons) else 1
    kept = {layer.name: np.zeros((3, streams, steps, *layer.shape), np.int32) for layer in net.layers}
    silence = np.zeros_like(frames[:, 0])
    for chip_step in range(steps + first + len(states) - 1):
        fired = {state.layer.name: state.spikes for state in states}
        for k, state in enumerate(states):
            name, t = state.layer.name, chip_step - first - k
            inside = 0 <= t < steps
            if isolated and not inside:
                state.spikes = np.zeros_like(state.spikes)
                continue
            interval = intervals.get(name, regular)
            if interval and t % interval == 0:
                state.clear()
            arrived = fired[net.layers[k - 1].name] if k else frames[:, t] if inside else silence
            state.spikes = state.advance(arrived, fired)
            if inside:
                kept[name][:, :, t] = state.spikes, state.u, state.v
    seconds = time.perf_counter() - began
    return _traces(circuit, frames.reshape(samples, window, *net.input_shape), kept, record, seconds)


def _traces(circuit: Circuit, frames: Int, kept: Mapping[str, Array], record: Record, seconds: float) -> Traces:
    """What is recorded; an edge's operations count with the step of the spike that it carries."""
    out = Traces({}, {}, {}, {}, {}, seconds)
    samples, window = frames.shape[:2]
    before = frames
    for layer in circuit.net.layers:
        spikes, u, v = (array.reshape(samples, window, *layer.shape) for array in kept[layer.name])
        fired = np.count_nonzero(spikes, axis=0).reshape(window, -1).sum(1)
        operations = (np.count_nonzero(before, axis=0) * layer.fan_out()).reshape(window, -1).sum(1)
        if isinstance(layer, Dense) and layer.recurrent is not None:
            operations = operations + fired * layer.shape[0]
        for edge in circuit.edges:
            if edge.source == layer.name:
                operations = operations + fired * (1 if edge.one_to_one else len(edge.weight))
        out.spikes_per_step[layer.name], out.operations_per_step[layer.name] = fired, operations
        if layer.name in record.spikes:
            out.spikes[layer.name] = spikes.astype(np.uint8)
        if layer.name in record.states:
            out.u[layer.name], out.v[layer.name] = u.copy(), v.copy()
        before = spikes
    return out


def unrolled(circuit: Circuit) -> ChipNet:
    """``circuit`` as a chain of recurrent all-to-all layers, which every simulator runs.

    Only edges from a layer to itself have such a form. Convolutions with such edges, and those after them, become
    matrices.

    Raises:
        UnsupportedError: an edge connects different layers, or a layer is reset within the window.
    """
    if circuit.resets or any(edge.source != edge.target for edge in circuit.edges):
        raise UnsupportedError("circuit: gates and feedback between layers have no form as a chain of layers")
    layers: list[Layer] = []
    for layer in circuit.net.layers:
        edges = circuit.into(layer.name)
        flat = bool(layers) and layers[-1].shape != layer.input_shape
        if isinstance(layer, InputNeurons) or not (edges or flat):
            layers.append(layer)
            continue
        inputs = layers[-1].shape if layers else circuit.net.input_shape
        weight = layer.weight
        if isinstance(layer, Conv):
            size = int(np.prod(layer.input_shape))
            one = np.eye(size, dtype=np.int64).reshape(size, *layer.input_shape)
            weight = law.weighted_sums(layer, one).reshape(size, -1).T.astype(np.int32)
        size = len(weight)
        own = np.zeros((size, size), np.int64)
        if isinstance(layer, Dense) and layer.recurrent is not None:
            own += layer.recurrent
        for edge in edges:
            one = np.eye(size, dtype=np.int64).reshape(size, *layer.shape)
            own += _delivered(edge, one, layer.shape).reshape(size, size).T
        assert isinstance(layer.neuron, Neuron)
        neuron = Neuron(**{name: array.reshape(-1) for name, array in layer.neuron.expanded(layer.shape).items()})
        layers.append(Dense(layer.name, inputs, weight, neuron, own.astype(np.int32) if own.any() else None))
    return replace(circuit.net, layers=tuple(layers))
