"""Reset by subtraction, and no reset at all, by synapses from each neuron to itself.

Chips set the membrane potential to zero at a spike. Where the potential is kept in the current instead, which no spike
clears, the neuron's own spike can subtract the threshold from it one step later, exactly when it is needed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snn2chip.errors import LimitError, UnsupportedError
from snn2chip.graph import Graph, Neuron, Node, Shape
from snn2chip.passes.edit import alike
from snn2chip.passes.unroll import UNROLLED_MAX, unrolled

#: What the refusals say and offer.
WHY = "reset by subtraction needs all-to-all synapses"
REMEDY = "fine-tune with reset='zero' (in snnTorch with reset_delay=False)"


def carry_state_in_current(graph: Graph) -> Graph:
    """Give neurons that subtract their threshold, or never reset, a form whose only reset is the chip's.

    ::

        Before: Neuron(alpha=0, beta, reset="subtract", recurrent=R)
        After:  Neuron(alpha=beta, beta=0, reset="zero", recurrent=R - beta threshold I)
                recurrent=R - threshold I where reset_delay: the threshold itself does not leak

        Before: Neuron(alpha=0, beta, reset="none", recurrent=R)
        After:  Neuron(alpha=beta, beta=0, reset="zero", recurrent=R)

    Only all-to-all layers have synapses to themselves: convolutions are unrolled (:mod:`snn2chip.passes.unroll`).
    Neurons that never spike need no reset, memoryless ones none either, unless it comes a step later.

    Raises:
        UnsupportedError: the current decays as well, so that it is not free to hold the potential; the potential after
            the reset is what is read; or a reset to zero comes one step later and discards an input.
        LimitError: the unrolled convolution or the synapses to itself are too many.
    """
    shapes = graph.shapes()
    soft = [node for node in graph.nodes if isinstance(node, Neuron) and (node.reset != "zero" or node.reset_delay)]
    maps = {node.name for node in soft if len(shapes[node.name]) == 3 and _subtracts(node)}
    for node in soft:
        if node.spikes and node.reset == "zero":
            raise UnsupportedError(
                f"{node.name}: reset='zero' one step later (reset_delay) discards the input of that step, which has no "
                "exact form on the chip; fine-tune with reset_delay=False"
            )
        if node.spikes and node is graph.output and graph.reads_potential:
            raise UnsupportedError(
                f"{node.name}: its potential after reset={node.reset!r} is read, the chip has only that after a reset "
                f"to zero; read the spikes, or {REMEDY}"
            )
    if maps:
        graph = unrolled(graph, maps, WHY, REMEDY)
        shapes = graph.shapes()
    return graph.replaced({node.name: _carried(graph.node(node.name), shapes[node.name]) for node in soft})


def _delayed(node: Neuron) -> bool:
    return node.reset == "subtract" and node.reset_delay


def _subtracts(node: Neuron) -> bool:
    """Whether something has to be subtracted: not where nothing spikes, or nothing remembers."""
    return node.reset == "subtract" and node.spikes and (node.reset_delay or bool(np.any(node.beta)))


def _carried(node: Node, shape: Shape) -> Neuron:
    assert isinstance(node, Neuron)  # unrolling keeps names and kinds
    hard = replace(node, reset="zero", reset_delay=False)
    if not node.spikes or not (_subtracts(node) or np.any(node.beta)):
        return hard
    alpha, beta, threshold = alike(shape, node.alpha, node.beta, node.threshold)
    if np.any((alpha != 0) & ((beta != 0) | _delayed(node))):
        raise UnsupportedError(
            f"{node.name}: reset={node.reset!r} with a current that decays (alpha {np.max(alpha):g}) has no exact form "
            f"on the chip; use alpha 0, or {REMEDY}"
        )
    recurrent = node.recurrent
    if _subtracts(node):
        size = shape[0]
        if size**2 > UNROLLED_MAX:
            raise LimitError(node.name, f"{WHY}; number of weights", size**2, UNROLLED_MAX, REMEDY)
        finite = np.where(np.isfinite(threshold), threshold, 0.0)
        subtracted = np.diag(np.broadcast_to(finite if _delayed(node) else beta * finite, size))
        recurrent = -subtracted if recurrent is None else recurrent - subtracted
    held = alpha + beta  # one of them is zero
    return replace(hard, alpha=held if held.ndim else float(held), beta=0.0, recurrent=recurrent)
