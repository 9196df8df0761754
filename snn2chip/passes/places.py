"""Where the neurons of the trained graph are in the lowered one."""

from __future__ import annotations

import math
from dataclasses import dataclass

from snn2chip.graph import Graph, Neuron

#: Joins the names of neurons that share a layer.
JOIN = " + "


@dataclass(frozen=True)
class Place:
    """Neurons ``first .. first + size - 1`` of a node's flattened output (C, H, W order)."""

    node: str
    first: int
    size: int


def places(source: Graph, lowered: Graph) -> dict[str, Place]:
    """Where each neuron node of ``source`` is in ``lowered``, by its name.

    A layer may hold the neurons of several nodes, one behind the other, and has those that passes have added (relays
    and always firing ones) behind them.
    """
    shapes = source.shapes()
    sizes = {node.name: math.prod(shapes[node.name]) for node in source.nodes if isinstance(node, Neuron)}
    found: dict[str, Place] = {}
    for node in lowered.nodes:
        if not isinstance(node, Neuron):
            continue
        rest, first = node.name, 0
        while name := next((n for n in sizes if rest == n or rest.startswith(n + JOIN)), None):
            found[name] = Place(node.name, first, sizes[name])
            first += sizes[name]
            rest = rest[len(name) + len(JOIN) :]
    return found
