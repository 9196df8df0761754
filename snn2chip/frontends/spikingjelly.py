"""Neurons of SpikingJelly: IFNode, LIFNode and ParametricLIFNode, by single or by all time steps.

Law of spikingjelly 0.0.0.0.14, ``activation_based/neuron.py``: neurons fire at or above the threshold, in the step in
which they reset; ``v_reset=None`` takes the threshold off. Another ``v_reset`` than 0 shifts potential and threshold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import Leaf
from snn2chip.graph import BatchNorm, Neuron, Node, Shape


def rest(module: nn.Module) -> None:
    """Put neurons and recurrent containers at rest."""
    from spikingjelly.activation_based import base

    if isinstance(module, base.MemoryModule):
        module.reset()


def leaf(module: nn.Module) -> Leaf | None:
    """The neurons that ``module`` is; None of modules that are looked into."""
    from spikingjelly.activation_based import base, neuron

    kinds = (neuron.IFNode, neuron.LIFNode, neuron.ParametricLIFNode)
    if not isinstance(module, neuron.BaseNode):
        name = type(module).__name__
        if isinstance(module, base.MemoryModule) and not name.startswith("Dropout") and not list(module.children()):
            raise UnsupportedError("has a state that has no form on the chip")
        return None
    if type(module) not in kinds:
        raise UnsupportedError(f"neurons of this kind are not supported; use {', '.join(k.__name__ for k in kinds)}")
    node: Any = module
    if not getattr(node.surrogate_function, "spiking", True):
        raise UnsupportedError("its surrogate function has spiking=False; spikes are 0 or 1")
    soft = node.v_reset is None
    offset = 0.0 if soft else float(node.v_reset)
    rate = 0.0  # 1 / tau
    if isinstance(node, neuron.LIFNode):
        rate = 1 / float(node.tau)
    elif isinstance(node, neuron.ParametricLIFNode):
        rate = float(node.w.detach().double().sigmoid())
    threshold = float(node.v_threshold) - offset
    if threshold <= 0:
        raise UnsupportedError(f"v_threshold {node.v_threshold} is not above v_reset {node.v_reset}; they never rest")

    def nodes(name: str, shape: Shape) -> list[Node]:
        chain: list[Node] = []
        if rate and node.decay_input and rate != 1:
            gain = np.full(shape[0], rate)
            chain.append(BatchNorm(name=f"{name} input decay", scale=gain, shift=np.zeros_like(gain)))
        chain.append(
            Neuron(name=name, beta=1 - rate, threshold=threshold, reset="subtract" if soft else "zero", inclusive=True)
        )
        return chain

    return Leaf(nodes, time=0 if node.step_mode == "m" else None)
