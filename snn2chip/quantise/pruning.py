"""Pruning: the smallest weights of each layer become zero.

A dense layer of many zeros can be run by the NetX loader's sparse synapses: ``Network(..., sparse_fc_layer=True)``
computes the same and stores what is not zero alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.graph import Graph, Node
from snn2chip.passes import Block, chip_blocks
from snn2chip.quantise.layers import Form

Array = npt.NDArray[Any]


def kept(block: Block, sparsity: float) -> Array:
    """Which weights stay, as 0 and 1 of the shape of ``block.synapse.weight``.

    Of the weights that are not zero, a share ``sparsity`` goes, the smallest of the layer; each row keeps its largest,
    and relays keep all.
    """
    weight = np.abs(block.synapse.weight.reshape(len(block.synapse.weight), -1))
    live = Form(block).live
    candidates = weight[live]
    mask = np.ones_like(weight)
    present = np.sort(candidates[candidates > 0])
    gone = int(sparsity * len(present))
    if gone:
        stays = (candidates > present[gone - 1]) | (candidates == candidates.max(1, keepdims=True))
        mask[live] = stays
    return np.asarray(mask.reshape(block.synapse.weight.shape))


def pruned(graph: Graph, sparsity: float) -> Graph:
    """``graph``, in chip form, without the smallest weights of each layer."""
    changes: dict[str, Node | None] = {}
    for block in chip_blocks(graph):
        weight = block.synapse.weight * kept(block, sparsity)
        synapse = block.synapse
        changes[synapse.name] = type(synapse)(**{**vars(synapse), "weight": weight})
    return graph.replaced(changes)
