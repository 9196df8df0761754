"""Rewrites around the neurons: the readout's integrator and the place of the bias."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Conv2d, Graph, Linear, Neuron, Node


def integrate_readout(graph: Graph) -> Graph:
    """Give a linear readout a neuron that never spikes and sums over time; the argmax of sum and mean is the same.

    ::

        Before: ... -> Linear(w, b)
        After:  ... -> Linear(w, b) -> Neuron(beta=1, threshold=inf), its potential read at the last step
    """
    last = graph.output
    if not isinstance(last, Linear | Conv2d):
        return graph
    neuron = Neuron(name=f"{last.name} readout", inputs=(last.name,), beta=1.0, threshold=math.inf)
    return replace(graph, nodes=(*graph.nodes, neuron))


def move_bias(graph: Graph) -> Graph:
    """Move the synapses' bias into their neuron, where the chip adds it to the potential at each step.

    ::

        Before: Linear(w, b) -> Neuron
        After:  Linear(w, 0) -> Neuron(bias=b)       exact where the current is memoryless (alpha = 0)
    """
    for node in graph.nodes:
        if not isinstance(node, Linear | Conv2d) or not node.bias.any():
            continue
        changes: dict[str, Node | None] = {node.name: replace(node, bias=np.zeros_like(node.bias))}
        for neuron in graph.consumers(node.name):
            if not isinstance(neuron, Neuron):
                continue  # chip_blocks names it
            if neuron.alpha:
                raise UnsupportedError(
                    f"{node.name}: its bias feeds a current that decays ({neuron.name}, alpha {neuron.alpha}), the "
                    "chip adds it to the potential; train with bias=False"
                )
            changes[neuron.name] = replace(neuron, bias=node.bias)
        graph = graph.replaced(changes)
    return graph


def hold_input(graph: Graph) -> Graph:
    """Send a static input once: the first layer's current does not decay and holds it for the whole sample.

    ::

        Before: Input(x at each step) -> synapses -> Neuron(alpha=0)
        After:  Input(x at step 0) -> synapses -> Neuron(alpha=1)     exact; T times fewer input messages
    """
    if graph.input.kind != "analog":
        raise UnsupportedError("input: only a static analog input can be held, this network takes spikes")
    first = next((node for node in graph.nodes if isinstance(node, Neuron)), None)
    if first is None or first.alpha or first.recurrent is not None:
        name = "input" if first is None else first.name
        raise UnsupportedError(
            f"{name}: an input can only be held by neurons with a memoryless current (alpha 0) and no recurrent "
            "synapses; use graded messages at each step"
        )
    return graph.replaced({graph.input.name: replace(graph.input, kind="hold"), first.name: replace(first, alpha=1.0)})
