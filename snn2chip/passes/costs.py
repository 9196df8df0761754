"""How large a graph is, in what the chip pays for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from snn2chip.conv import taps_per_input
from snn2chip.graph import ChipLayer, Conv2d, Graph, Linear, Neuron


class Size(NamedTuple):
    """Layers on the longest path, which are steps of latency; neurons; synapses, recurrent ones included."""

    layers: int
    neurons: int
    synapses: int


@dataclass(frozen=True)
class PassCost:
    """What one pass adds; negative where it saves.

    Attributes:
        name: the pass.
        layers: layers of neurons one behind the other: each is a step of latency.
        neurons: neurons.
        synapses: synapses, counted as the chip has them: of a convolution, one for each neuron and pixel that it sees.
    """

    name: str
    layers: int
    neurons: int
    synapses: int


def size_of(graph: Graph) -> Size:
    """Layers, neurons and synapses of a graph, lowered or not; pooling and the like count nothing."""
    shapes = graph.shapes()
    depth: dict[str, int] = {}
    neurons = synapses = 0
    for node in graph.nodes:
        fires = isinstance(node, Neuron | ChipLayer)
        depth[node.name] = max((depth[name] for name in node.inputs), default=0) + fires
        neurons += math.prod(shapes[node.name]) if fires else 0
        if isinstance(node, Linear):
            synapses += node.weight.size
        elif isinstance(node, Conv2d):
            channels, *size = shapes[node.inputs[0]]
            taps = taps_per_input(size, node.weight.shape[2:], node.stride, node.padding, node.dilation)
            synapses += int(taps.sum()) * channels * (node.weight.shape[0] // node.groups)
        elif isinstance(node, Neuron) and node.recurrent is not None:
            synapses += node.recurrent.size
        elif isinstance(node, ChipLayer):
            synapses += node.layer.synapses
    return Size(max(depth.values()), neurons, synapses)
