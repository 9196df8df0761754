"""The chip's own reset in place of the model's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy.typing as npt

from snn2chip.graph import Graph, Neuron, Node, execute

Array = npt.NDArray[Any]


def hard_reset(graph: Graph, x: Array | None = None) -> Graph:
    """Every neuron that fires resets to zero, in the step of its spike. Another network: to be fine-tuned.

    Args:
        x: samples; with them ``inexact`` says what it changes.
    """
    changes: dict[str, Node | None] = {
        node.name: replace(node, reset="zero", reset_delay=False)
        for node in graph.nodes
        if isinstance(node, Neuron) and node.spikes and (node.reset != "zero" or node.reset_delay)
    }
    if not changes:
        return graph
    changed = graph.replaced(changes)
    if x is None:
        return changed
    before, after = (execute(g, x).outputs for g in (graph, changed))
    sentences = []
    for name in changes:
        differing, total = int((before[name] != after[name]).sum()), before[name].size
        sentences.append(
            f"{name}: resets to zero where the trained model does not; {differing} of {total} outputs differ on "
            f"{len(x)} samples ({differing / total:.2%})"
        )
    return replace(changed, inexact=(*graph.inexact, *sentences))
