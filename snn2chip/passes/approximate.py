"""What has no exact form, done nearly and measured; only where the user allows it."""

from __future__ import annotations

from dataclasses import replace

from snn2chip.graph import Array, Graph, Neuron, Node, execute


def reset_at_once(graph: Graph) -> Graph:
    """Reset to zero in the step of the spike where the model discards the whole next update.

    ::

        Before: Neuron(reset="zero", reset_delay=True)      snnTorch's delayed reset to zero
        After:  Neuron(reset="zero")                        not exact: the input of the next step counts
    """
    changes: dict[str, Node | None] = {
        node.name: replace(node, reset_delay=False)
        for node in graph.nodes
        if isinstance(node, Neuron) and node.reset == "zero" and node.reset_delay
    }
    return graph.replaced(changes) if changes else graph


def approximate(graph: Graph, x: Array) -> Graph:
    """Replace what has no exact form on the chip; ``inexact`` of the result lists it with its effect on ``x``.

    Args:
        x: samples ``[N, ...]`` as :func:`snn2chip.graph.execute` takes them.
    """
    changed = reset_at_once(graph)
    names = [new.name for old, new in zip(graph.nodes, changed.nodes, strict=True) if old is not new]
    if not names:
        return graph
    before, after = (execute(g, x).outputs for g in (graph, changed))
    sentences = []
    for name in names:
        differing, total = int((before[name] != after[name]).sum()), before[name].size
        sentences.append(
            f"{name}: resets to zero in the step of the spike instead of discarding the next step; {differing} of "
            f"{total} outputs differ on {len(x)} samples ({differing / total:.2%})"
        )
    return replace(changed, inexact=(*graph.inexact, *sentences))
