"""Lowering: exact rewrites of the graph until only chip blocks remain.

Each pass is a function from graph to graph that leaves every remaining neuron's spikes unchanged. The order is the
table below; :func:`lower` runs it and :func:`chip_blocks` checks and returns the result.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from snn2chip.errors import UsageError
from snn2chip.graph import Graph
from snn2chip.passes.blocks import Block, chip_blocks
from snn2chip.passes.fold import fold_average_pool, fold_batch_norm
from snn2chip.passes.neurons import hold_input, integrate_readout, move_bias


@dataclass(frozen=True)
class Pass:
    """A named rewrite and why it stands where it does."""

    name: str
    rewrite: Callable[[Graph], Graph]
    reason: str


PASSES: tuple[Pass, ...] = (
    Pass("fold-batch-norm", fold_batch_norm, "first: pooling can only be folded into weights that are final"),
    Pass("fold-average-pool", fold_average_pool, "before the neurons: only synapses and neurons remain after it"),
    Pass("integrate-readout", integrate_readout, "gives the last synapses a neuron, which takes their bias next"),
    Pass("move-bias", move_bias, "last: every bias has its final value and every synapse its neuron"),
)


def lower(graph: Graph, skip: Collection[str] = ()) -> Graph:
    """Run all passes in order, except those named in ``skip``."""
    unknown = set(skip) - {p.name for p in PASSES}
    if unknown:
        raise UsageError(f"passes: {', '.join(sorted(unknown))} unknown; have {', '.join(p.name for p in PASSES)}")
    for step in PASSES:
        if step.name not in skip:
            graph = step.rewrite(graph)
    return graph


__all__ = ["PASSES", "Block", "Pass", "chip_blocks", "hold_input", "lower"]
