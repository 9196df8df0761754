"""Branches and delays become a chain of layers: relays carry spikes past the layers between.

A relay is a memoryless neuron that repeats the spikes of one neuron (or input) one layer on, which costs nothing in
layer time. The next synapses see a layer's own spikes and its relays side by side.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair
from snn2chip.errors import UnsupportedError
from snn2chip.graph import Add, Concat, Conv2d, Delay, Flatten, Graph, Linear, Neuron, Node, per_neuron
from snn2chip.passes.layering import Chain, Layer, View, chain_of, taps
from snn2chip.passes.places import JOIN
from snn2chip.passes.relays import kernel_geometry

Array = npt.NDArray[Any]
#: Relays see 0 or 1.
RELAY_THRESHOLD = 0.5


def chain_branches(graph: Graph) -> Graph:
    """Rewrite branches and delays as a chain of layers; a chain without delays is left alone.

    ::

        Before: x -> synapses -> Neuron f;  Add or Concat of f and x -> Linear(w) -> Neuron g             (spikes)
        After:  x -> [synapses; 1] -> Neuron f, relays=|x| -> Linear([w, w] or [w_f, w_x]) -> Neuron g

        Before: x -> synapses -> Neuron f;  Add of Linear(w1) of f and (Linear(w2) of) x -> Neuron g      (currents)
        After:  x -> [synapses; 1] -> Neuron f, relays=|x| -> Linear([w1, 1 or w2]) -> Neuron g

        Before: Delay(k) -> Linear(w) -> Neuron
        After:  Linear(w, delay=k) -> Neuron

    - A skip over several layers is relayed by each of them; sums of sums count each source as often as it is in them.
    - Neurons that wait for the same layers, on maps of one size, with one stride and kind of reset, become one layer
      called ``f + g``; others follow one another, the larger map first.
    - Convolutions: all kernels are embedded in one geometry (the same pixels, at other places of a larger kernel). What
      is relayed past a stride becomes one map for each of its phases that is read later. A layer of Linear has a relay
      for each neuron. Groups become zeros of a dense kernel where a layer is rewritten.
    - Where a neuron takes another's spikes with several delays, a layer of relays before it has them once for each.
    - A delay before a convolution or a recurrent layer, or behind a bias, moves behind the neurons if they are silent
      without input: they fire the same spikes, that many steps earlier.

    Raises:
        UnsupportedError: what has no exact form, by name: a branch that ends nowhere, analog input taken past a layer,
            strides or sizes that do not fit one another, a delay that no synapse can have.
    """
    if _is_chain(graph):
        return graph
    _check_ends(graph)
    chain = chain_of(graph)
    nodes: list[Node] = [graph.input]
    for level in range(1, len(chain.layers)):
        nodes += _unchanged(graph, chain, level, nodes) or _rewritten(chain, level, nodes)
    return replace(graph, nodes=tuple(nodes))


def _is_chain(graph: Graph) -> bool:
    return all(
        node.inputs == (previous.name,) and not isinstance(node, Add | Concat | Delay)
        for previous, node in zip(graph.nodes, graph.nodes[1:], strict=False)
    )


def _check_ends(graph: Graph) -> None:
    if not isinstance(graph.output, Neuron):
        raise UnsupportedError(
            f"{graph.output.name}: is the last operation, but has no neurons; in a network with branches or delays the "
            "last operation must be float neurons or a linear readout"
        )
    used = {name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes[:-1]:
        if node.name not in used:
            raise UnsupportedError(
                f"{node.name}: nothing takes its output, the network's output is {graph.output.name}; the chip's chain "
                "of layers has one end, leave this branch out"
            )


def _unchanged(graph: Graph, chain: Chain, level: int, before: list[Node]) -> list[Node] | None:
    """The layer's nodes where they are a block already that takes all of the layer before, and nothing else."""
    layer = chain.layers[level]
    if chain.relayed[level] or chain.relayed[level - 1] or len(layer.neurons) != 1:
        return None
    neuron = layer.neurons[0]
    synapse = graph.node(neuron.inputs[0])
    if not isinstance(synapse, Linear | Conv2d):
        return None
    nodes: list[Node] = [synapse, neuron]
    while isinstance(source := graph.node(nodes[0].inputs[0]), Flatten):
        nodes.insert(0, source)
    delay = synapse.delay if isinstance(synapse, Linear) and synapse.delay is not None else 0
    same_delay = all(np.array_equal(synapses.delay, delay) for synapses in layer.synapses)
    free = not any(node.name in {other.name for other in before} for node in nodes)
    return nodes if source.name == before[-1].name and same_delay and free else None


def _rewritten(chain: Chain, level: int, before: list[Node]) -> list[Node]:
    layer = chain.layers[level]
    taken = {node.name for node in before} | {neuron.name for neuron in layer.neurons}
    names = JOIN.join(dict.fromkeys(name for synapses in layer.synapses for name in synapses.nodes))
    name = _free(names or f"{layer.name} synapses", taken)
    inputs = (before[-1].name,)
    flatten = Flatten(name=_free(f"{name} flat", taken), inputs=inputs)
    if layer.size:
        return [_conv(name, inputs, chain, level), _neuron(name, chain, level)]
    if chain.layers[level - 1].size:
        return [flatten, _linear(name, (flatten.name,), chain, level), _neuron(name, chain, level)]
    return [_linear(name, inputs, chain, level), _neuron(name, chain, level)]


def _free(name: str, taken: set[str]) -> str:
    return name if name not in taken else next(n for k in itertools.count(2) if (n := f"{name} {k}") not in taken)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where each map (or block of features) begins in a layer's channels, by source and its first pixel."""

    starts: dict[tuple[str, Pair], int]
    own: int
    channels: int


def _layout(chain: Chain, level: int) -> _Layout:
    layer = chain.layers[level]
    starts: dict[tuple[str, Pair], int] = {}
    channels = 0
    for source, shape in layer.own.items():
        starts[source, (0, 0)] = channels
        channels += shape[0]
    own = channels
    for source, planes in chain.relayed[level].items():
        for plane in planes:
            starts[source, plane] = channels
            channels += chain.shapes[source][0] if layer.size else math.prod(chain.shapes[source])
    return _Layout(starts, own, channels)


def _offsets(layer: Layer) -> list[int]:
    """The first channel (or feature) of each neuron node of a layer."""
    return list(itertools.accumulate((form.shape[0] for form in layer.forms), initial=0))


def _bias(chain: Chain, level: int) -> Array:
    bias = np.zeros(_layout(chain, level).channels)
    for start, form in zip(_offsets(chain.layers[level]), chain.layers[level].forms, strict=False):
        bias[start : start + form.shape[0]] = sum(form.biases.values())
    return bias


def _conv(name: str, inputs: tuple[str, ...], chain: Chain, level: int) -> Conv2d:
    """All kernels of a layer and its relays as one, on the maps of the layer before."""
    layer, before = chain.layers[level], chain.layers[level - 1]
    layout, given = _layout(chain, level), _layout(chain, level - 1)
    views = chain.views(level)
    parts: list[tuple[int, int, Pair, Array]] = []  # first channel out and in, tap, [C_out, C_in]

    def add(start: int, source: str, pixel: Pair, weight: Array) -> None:
        steps = before.steps[source]
        for plane in views[source].planes(pixel):
            tap = ((pixel[0] - plane[0]) // steps[0], (pixel[1] - plane[1]) // steps[1])
            parts.append((start, given.starts[source, plane], tap, weight))

    for start, form in zip(_offsets(layer), layer.forms, strict=False):
        for synapses in form.synapses:
            rows, columns = taps(synapses)
            for i, row in enumerate(rows):
                for j, column in enumerate(columns):
                    add(start + synapses.start, synapses.source, (row, column), synapses.weight[:, :, i, j])
    for source, planes in chain.relayed[level].items():
        for plane in planes:
            add(layout.starts[source, plane], source, plane, np.eye(chain.shapes[source][0]))
    (pad_h, height), (pad_w, width) = (
        kernel_geometry([tap[axis] for _, _, tap, _ in parts], layer.stride[axis], before.size[axis], layer.size[axis])
        for axis in (0, 1)
    )
    weight = np.zeros((layout.channels, given.channels, height, width))
    for out, into, (row, column), part in parts:
        weight[out : out + len(part), into : into + part.shape[1], row + pad_h, column + pad_w] += part
    return Conv2d(
        name=name, inputs=inputs, weight=weight, bias=_bias(chain, level), stride=layer.stride, padding=(pad_h, pad_w)
    )


def _linear(name: str, inputs: tuple[str, ...], chain: Chain, level: int) -> Linear:
    """All matrices of a layer and its relays as one, on all features of the layer before."""
    layer, layout, given = chain.layers[level], _layout(chain, level), _layout(chain, level - 1)
    views = chain.views(level)
    before = chain.layers[level - 1]
    width = given.channels * math.prod(before.size)
    weight = np.zeros((layout.channels, width))
    delay = np.zeros((layout.channels, width), np.int64)

    def add(first: int, source: str, new: Array, steps: Array) -> None:
        for already in np.unique(steps).tolist() if before.delays else [0]:
            part = np.where(steps == already, new, 0) if before.delays else new
            columns = _columns(chain, level - 1, given, source, views[source], already)
            place = np.ix_(np.arange(first, first + len(part)), columns)
            delay[place] = np.where(part != 0, steps - already, delay[place])
            weight[place] += part

    for start, form in zip(_offsets(layer), layer.forms, strict=False):
        for synapses in form.synapses:
            steps = np.broadcast_to(synapses.delay, synapses.weight.shape)
            add(start + synapses.start, synapses.source, synapses.weight, steps)
    for source, planes in chain.relayed[level].items():
        columns = _columns(chain, level - 1, given, source, views[source], 0)
        for late, _ in planes:
            first = layout.starts[source, (late, 0)]
            weight[np.arange(first, first + len(columns)), columns] = 1
            delay[np.arange(first, first + len(columns)), columns] = late
    bias = _bias(chain, level)
    return Linear(name=name, inputs=inputs, weight=weight, bias=bias, delay=delay if delay.any() else None)


def _columns(chain: Chain, level: int, given: _Layout, source: str, view: View, late: int) -> Array:
    """Where each feature of a flattened source, so many steps late, is in a layer's flattened output."""
    layer, shape = chain.layers[level], chain.shapes[source]
    if layer.size == ():
        return given.starts[source, (late, 0)] + np.arange(math.prod(shape))
    found = np.empty(shape, np.int64)
    for row, column in chain.pixels(source):
        (plane,) = view.planes((row, column))
        place = [
            (at - begin) // step for at, begin, step in zip((row, column), plane, layer.steps[source], strict=True)
        ]
        channels = given.starts[source, plane] + np.arange(shape[0])
        found[:, row, column] = (channels * layer.size[0] + place[0]) * layer.size[1] + place[1]
    return found.ravel()


def _neuron(synapses: str, chain: Chain, level: int) -> Neuron:
    """The neurons of a layer and its relays as one node."""
    layer, layout = chain.layers[level], _layout(chain, level)
    relays = layout.channels - layout.own
    if not layer.neurons:
        return Neuron(name=layer.name, inputs=(synapses,), beta=0.0, threshold=RELAY_THRESHOLD, relays=relays)
    first = layer.neurons[0]

    def joined(relay: float, *values: float | Array) -> float | Array:
        if all(np.ndim(value) == 0 and value == values[0] for value in (*values, *[relay] * bool(relays))):
            return values[0]
        kept = 1 if all(np.ndim(value) < 2 for value in values) else 3  # axes: one value per channel is enough, or not
        shapes = [shape[:kept] for shape in layer.own.values()]
        parts = [np.asarray(per_neuron(value, shape), np.float64) for value, shape in zip(values, shapes, strict=True)]
        result: Array = np.concatenate([*parts, np.full((relays, *shapes[0][1:]), relay)])
        return result

    recurrent = None
    if first.recurrent is not None:
        recurrent = np.zeros((layout.channels, layout.channels))
        for start, neuron in zip(_offsets(layer), layer.neurons, strict=False):
            assert neuron.recurrent is not None  # layers are of one kind
            place = slice(start, start + len(neuron.recurrent))
            recurrent[place, place] = neuron.recurrent
    bias: Array | None = None
    if any(neuron.bias is not None for neuron in layer.neurons):
        bias = np.asarray(joined(0.0, *(0.0 if neuron.bias is None else neuron.bias for neuron in layer.neurons)))
    return replace(
        first,
        name=layer.name,
        inputs=(synapses,),
        alpha=joined(0.0, *(neuron.alpha for neuron in layer.neurons)),
        beta=joined(0.0, *(neuron.beta for neuron in layer.neurons)),
        threshold=joined(RELAY_THRESHOLD, *(neuron.threshold for neuron in layer.neurons)),
        recurrent=recurrent,
        bias=bias,
        relays=relays + sum(neuron.relays for neuron in layer.neurons),
    )
