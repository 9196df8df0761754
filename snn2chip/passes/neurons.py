"""Rewrites around the neurons: the readout's integrator, missing synapses, and data that are sent once."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Add, ChipLayer, Flatten, Graph, Neuron, Node
from snn2chip.passes.edit import fresh, identity, inserted, is_current, with_arrays, without
from snn2chip.passes.unroll import unrolled


def integrate_readout(graph: Graph) -> Graph:
    """Give a linear readout a neuron that never spikes and sums over time; the argmax of sum and mean is the same.

    ::

        Before: ... -> Linear(w, b)
        After:  ... -> Linear(w, b) -> Neuron(beta=1, threshold=inf), its potential read at the last step

    A Flatten at the end changes no score and goes.
    """
    while isinstance(graph.output, Flatten):
        last = graph.node(graph.output.inputs[0])
        rest = tuple(node for node in graph.nodes if node not in (last, graph.output))
        graph = replace(graph, nodes=(*rest, last), readout="output")
    last = graph.output
    if isinstance(last, Neuron | ChipLayer):
        return graph
    neuron = Neuron(name=f"{last.name} readout", inputs=(last.name,), beta=1.0, threshold=math.inf)
    return replace(graph, nodes=(*graph.nodes, neuron))


def add_synapses(graph: Graph) -> Graph:
    """Put synapses of weight 1 before neurons that have none, and neurons before a Flatten that parts them from theirs.

    ::

        Before: Neuron or Input -> Neuron
        After:  Neuron or Input -> Conv2d(1, one group per channel) or Linear(I) -> Neuron

        Before: Conv2d -> Flatten -> Neuron
        After:  Conv2d -> Neuron -> Flatten      or, where the neurons are recurrent, Flatten -> Linear -> Neuron

    Raises:
        LimitError: a convolution before recurrent neurons is too large to be unrolled.
    """
    for name in [node.name for node in graph.nodes if isinstance(node, Neuron)]:
        neuron, source = _with_source(graph, name)
        while isinstance(source, Flatten) and is_current(graph, source.name):
            if neuron.recurrent is None:
                graph = _before_flatten(graph, neuron, source)
            else:
                reason = f"{name} is recurrent, which needs all-to-all synapses"
                graph = unrolled(graph, {source.inputs[0]}, reason, "pool before it, or leave the recurrence out")
            neuron, source = _with_source(graph, name)
        if not is_current(graph, source.name) and not isinstance(source, Add):  # a sum gets its synapses elsewhere
            synapses = identity(fresh(graph, f"{name} synapses"), source.name, graph.shapes()[source.name])
            graph = inserted(graph, source.name, synapses, [name])
    return graph


def _with_source(graph: Graph, name: str) -> tuple[Neuron, Node]:
    neuron = graph.node(name)
    assert isinstance(neuron, Neuron)  # no rewrite here makes anything else of it
    return neuron, graph.node(neuron.inputs[0])


def _before_flatten(graph: Graph, neuron: Neuron, flatten: Flatten) -> Graph:
    """Swap the two; parameters per feature become maps."""
    shape = graph.shapes()[flatten.inputs[0]]
    maps = with_arrays(neuron, lambda values: values.reshape(shape))
    if neuron is not graph.output:
        after = Flatten(name=fresh(graph, f"{neuron.name} flat"), inputs=(neuron.name,))
        graph = inserted(graph, neuron.name, after)
    graph = graph.replaced({neuron.name: replace(maps, inputs=flatten.inputs)})
    return graph if graph.consumers(flatten.name) else without(graph, flatten.name)


def hold_input(graph: Graph) -> Graph:
    """Send a static input once: the first layer's current does not decay and holds it for the whole sample.

    ::

        Before: Input(x at each step) -> synapses -> Neuron(alpha=0)
        After:  Input(x at step 0) -> synapses -> Neuron(alpha=1)     exact; T times fewer input messages
    """
    if graph.input.kind != "analog":
        raise UnsupportedError("input: only a static analog input can be held, this network takes spikes")
    first = next((node for node in graph.nodes if isinstance(node, Neuron)), None)
    if first is None or np.any(first.alpha) or first.recurrent is not None:
        name = "input" if first is None else first.name
        raise UnsupportedError(
            f"{name}: an input can only be held by neurons with a memoryless current (alpha 0) and no recurrent "
            "synapses; use graded messages at each step"
        )
    return graph.replaced({graph.input.name: replace(graph.input, kind="hold"), first.name: replace(first, alpha=1.0)})
