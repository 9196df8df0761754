"""Lowering: exact rewrites of the graph until only chip blocks remain.

Each pass is a function from graph to graph that leaves the spikes of every neuron unchanged. A layer may be given more
neurons (channels, features) behind its own, several nodes may share one, and maps may be flattened: :func:`places` says
where the neurons of the trained graph are. Delays that no synapse can have move behind neurons, which then fire the
same spikes earlier. The order of the passes is the table below; :func:`lower` runs it, and :func:`chip_blocks` checks
and returns the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from snn2chip.errors import UsageError
from snn2chip.graph import Graph
from snn2chip.names import suggestion
from snn2chip.passes.bias import move_bias
from snn2chip.passes.blocks import Block, chip_blocks
from snn2chip.passes.costs import PassCost, size_of
from snn2chip.passes.fold import fold_average_pool, fold_batch_norm, merge_linear
from snn2chip.passes.neurons import add_synapses, hold_input, integrate_readout
from snn2chip.passes.places import Place, places
from snn2chip.passes.pooling import relay_max_pool
from snn2chip.passes.soft_reset import carry_state_in_current
from snn2chip.passes.structure import chain_branches


@dataclass(frozen=True)
class Pass:
    """A named rewrite and why it stands where it does."""

    name: str
    rewrite: Callable[[Graph], Graph]
    reason: str


PASSES: tuple[Pass, ...] = (
    Pass("fold-batch-norm", fold_batch_norm, "first: pooling can only be folded into weights that are final"),
    Pass("fold-average-pool", fold_average_pool, "leaves only synapses, neurons and max pooling, which differ in kind"),
    Pass("merge-linear", merge_linear, "when nothing folds any more: two in a row are one"),
    Pass("relay-max-pool", relay_max_pool, "makes layers of it, which unrolling and branches take as any other"),
    Pass("integrate-readout", integrate_readout, "gives the last synapses neurons too, on which all that follows acts"),
    Pass("add-synapses", add_synapses, "before what changes or unrolls a layer: every neuron has its synapses"),
    Pass("soft-reset", carry_state_in_current, "before neurons of other kinds join a layer, while it has one reset"),
    Pass("chain-branches", chain_branches, "after what changes single layers: it joins them, and adds relays to them"),
    Pass("move-bias", move_bias, "last: each bias has its final value, and a chain has room for always firing neurons"),
)


def _lowering(graph: Graph, skip: Collection[str]) -> Iterator[tuple[Pass, Graph]]:
    """Each pass that is not skipped, and the graph after it."""
    names = [p.name for p in PASSES]
    unknown = sorted(set(skip) - set(names))
    if unknown:
        raise UsageError(f"passes: {', '.join(unknown)} unknown{suggestion(unknown[0], names)}")
    for step in PASSES:
        if step.name not in skip:
            graph = step.rewrite(graph)
            yield step, graph


def lower(graph: Graph, skip: Collection[str] = ()) -> Graph:
    """Run all passes in order, except those named in ``skip``.

    Raises:
        UnsupportedError, LimitError: something has no exact form on the chip; the message names it.
        UsageError: ``skip`` names no pass.
    """
    for _, lowered in _lowering(graph, skip):
        graph = lowered
    return graph


def lowering_costs(graph: Graph, skip: Collection[str] = ()) -> tuple[PassCost, ...]:
    """What each pass of :func:`lower` adds to the network (or saves), in order; raises as it does."""
    costs = []
    before = size_of(graph)
    for step, lowered in _lowering(graph, skip):
        after = size_of(lowered)
        costs.append(PassCost(step.name, *(new - old for new, old in zip(after, before, strict=True))))
        before = after
    return tuple(costs)


__all__ = [
    "PASSES",
    "Block",
    "Pass",
    "PassCost",
    "Place",
    "chip_blocks",
    "hold_input",
    "lower",
    "lowering_costs",
    "places",
]
