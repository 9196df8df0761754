"""Neurons of :mod:`snn2chip.nn`."""

from __future__ import annotations

from torch import nn

from snn2chip.frontends.leaves import Leaf, as_array
from snn2chip.graph import Neuron, Node, Shape
from snn2chip.nn import SpikingNeuron


def leaf(module: nn.Module) -> Leaf | None:
    """The neurons' law is that of the graph: time is axis 1, and each call starts at rest."""
    if not isinstance(module, SpikingNeuron):
        return None

    def nodes(name: str, shape: Shape) -> list[Node]:
        return [
            Neuron(
                name=name,
                alpha=float(module.alpha),
                beta=float(module.beta),
                threshold=float(module.threshold),
                reset=module.reset,
                recurrent=None if module.recurrent is None else as_array(module.recurrent.weight),
            )
        ]

    return Leaf(nodes, time=1)
