"""Scale search: layer by layer, the scale whose integer spikes differ least from the trained model's.

Each layer is judged on what it will be given, the spikes of the quantised layers before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, EncodingKind, Readout
from snn2chip.errors import InputError, LimitError, UsageError
from snn2chip.graph import Graph, GraphTrace, execute
from snn2chip.passes import Block, chip_blocks
from snn2chip.quantise.layers import SCALE_METHODS, all_weights, build, largest_scale, weight_range
from snn2chip.simulators import event
from snn2chip.traces import messages_of

Array = npt.NDArray[Any]

#: u and v may reach this on calibration data: half of what they hold, so that unseen data do not wrap either.
STATE_HEADROOM = limits.STATE_LIMIT // 2


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer.

    Attributes:
        layer: its name.
        method: how the range of weights was chosen.
        weight_scale: integers per unit of weight.
        message_scale: integers per unit of input; 1 for spikes.
        error: share of spikes that differ from the trained model's on calibration data; for a readout the relative
            error of the potentials.
    """

    layer: str
    method: str
    weight_scale: float
    message_scale: float
    error: float


@dataclass(frozen=True)
class Quantised:
    """The network and how it came about."""

    net: ChipNet
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class _Candidate:
    choice: Choice
    layer: Dense | Conv
    encoding: Encoding
    spikes: Array


def quantise(
    graph: Graph,
    x: Array,
    bits: int = 8,
    scales: str = "search",
    progress: Callable[[str], None] = lambda layer: None,
) -> Quantised:
    """Integers for a lowered graph.

    Args:
        graph: in chip form (:func:`snn2chip.passes.lower`).
        x: calibration samples ``[N, ...]`` as the model takes them.
        bits: width of the weights, 2 to 8.
        scales: ``search``, or one of :data:`SCALE_METHODS` for every layer.
        progress: called with each layer's name.

    Raises:
        UsageError: bits or scales are unknown.
        InputError: the calibration data do not fit the network.
        LimitError: a layer cannot be expressed in the chip's ranges.
    """
    if not 2 <= bits <= 8:
        raise UsageError(f"bits: {bits}, the chip's weights have 2 to 8")
    if scales != "search" and scales not in SCALE_METHODS:
        raise UsageError(f"scales: {scales!r} is unknown, expected search, {', '.join(SCALE_METHODS)}")
    if len(x) == 0:
        raise InputError("calibration: no samples")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError("calibration: contains NaN or infinite values")
    methods = tuple(SCALE_METHODS) if scales == "search" else (scales,)
    blocks = chip_blocks(graph)
    names = {block.neuron.name for block in blocks}
    trained = execute(graph, x, keep=lambda node: node.name in names)
    messages: Array | None = None
    encoding = Encoding()
    layers: list[Dense | Conv] = []
    choices: list[Choice] = []
    for block in blocks:
        progress(block.name)
        if messages is None:
            inputs = [(e, _messages(graph, e, x)) for e in _encodings(graph, x, methods)]
        else:
            inputs = [(encoding, messages)]
        best: _Candidate | None = None
        for candidate in _candidates(block, inputs, methods, bits, trained, first=messages is None):
            if best is None or candidate.choice.error < best.choice.error:
                best = candidate
        assert best is not None  # there is at least one method and one encoding
        layers.append(best.layer)
        choices.append(best.choice)
        messages, encoding = best.spikes, best.encoding
    integrates = math.isinf(blocks[-1].neuron.threshold)
    net = ChipNet(
        input_shape=graph.input.shape,
        layers=tuple(layers),
        encoding=encoding,
        readout=Readout("potential" if integrates else "count"),
        time_steps=graph.time_steps,
        inexact=tuple(_inexact(blocks)),
    )
    return Quantised(net, tuple(choices))


def _encodings(graph: Graph, x: Array, methods: tuple[str, ...]) -> list[Encoding]:
    """Encodings to try: spikes as they are; analog input with 8 bits, or fewer where the bias leaves no room."""
    if graph.input.kind == "spikes":
        return [Encoding()]
    kind: EncodingKind = "hold" if graph.input.kind == "hold" else "graded"
    largest = float(np.abs(x).max())
    if largest == 0:
        raise InputError("calibration: all samples are zero")
    found = []
    for message_bits in (8, 7, 6, 5) if len(methods) > 1 else (8,):
        signed = bool((x < 0).any())
        high = (1 << (message_bits - signed)) - 1
        found.append(Encoding(kind, scale=high / largest, low=-high - 1 if signed else 0, high=high))
    return found


def _messages(graph: Graph, encoding: Encoding, x: Array) -> Array:
    """What the chip is sent for ``x``, over the whole window."""
    messages = messages_of(encoding, graph.input.shape, graph.time_steps, x)
    silent = graph.time_steps - messages.shape[1]
    return np.pad(messages, ((0, 0), (0, silent), *((0, 0),) * len(graph.input.shape)))


def _candidates(
    block: Block,
    inputs: list[tuple[Encoding, Array]],
    methods: tuple[str, ...],
    bits: int,
    trained: GraphTrace,
    first: bool,
) -> Iterator[_Candidate]:
    weights = all_weights(block)
    if not weights.any():
        raise LimitError(
            block.name, "largest weight", 0, "at least 1", "the layer is dead: train it again or remove it"
        )
    levels = weight_range(weights, bits)[1]
    leaky = 0 < block.neuron.beta < 1 or 0 < block.neuron.alpha < 1
    for encoding, messages in inputs:
        message_scale = encoding.scale if first else 1.0
        largest = largest_scale(block) / message_scale
        for method in methods:
            weight_scale = min(levels / SCALE_METHODS[method](weights, levels), largest)
            for round_threshold in (False, True) if leaky and len(methods) > 1 else (leaky,):
                yield _candidate(
                    block, method, weight_scale, message_scale, bits, round_threshold, encoding, messages, trained
                )


def _candidate(
    block: Block,
    method: str,
    weight_scale: float,
    message_scale: float,
    bits: int,
    round_threshold: bool,
    encoding: Encoding,
    messages: Array,
    trained: GraphTrace,
) -> _Candidate:
    """One layer at one scale, which is lowered until no state comes near its limit."""
    while True:
        layer = build(block, weight_scale, message_scale, bits, round_threshold)
        spikes, u, v = event.run_layer(layer, messages)
        integrates = math.isinf(block.neuron.threshold)
        peak = max(int(np.abs(u).max()), int(np.abs(v).max()) if integrates else 0)
        largest = layer.largest_sum(encoding.largest)
        if peak < STATE_HEADROOM and largest < limits.SUM_LIMIT:
            break
        weight_scale *= 0.98 * min(1.0, STATE_HEADROOM / max(peak, 1), limits.SUM_LIMIT / max(largest, 1))
    if integrates:
        expected = trained.potentials[block.neuron.name]
        found = v / (weight_scale * message_scale * (1 << limits.STATE_SHIFT))
        error = float(np.square(found - expected).mean() / max(float(np.square(expected).mean()), 1e-30))
    else:
        error = float((spikes != trained.outputs[block.neuron.name]).mean())
    choice = Choice(block.name, method, weight_scale, message_scale, error)
    return _Candidate(choice, layer, encoding, spikes)


def _inexact(blocks: tuple[Block, ...]) -> Iterator[str]:
    for block in blocks:
        if round(limits.DECAY_UNITY * (1 - block.neuron.beta)) > limits.HARDWARE_DECAY_MAX:
            yield (
                f"{block.neuron.name}: a memoryless membrane needs vDecay 4096, the register holds 4095; "
                "1/4096 of the potential remains"
            )
