"""Neurons of Norse: LIF, LIFBox, IAF and leaky integrators, by single or by all time steps.

Law of norse 1.0.0, ``torch/functional/{lif,lif_box,iaf,leaky_integrator}.py``: one Euler step of ``dt``, and a spike
where the potential is strictly above ``v_th``. Feed-forward LIF neurons move the potential with the current of the
step before; recurrent ones and integrators with the current that holds this step's input. Potentials are relative to
``v_leak``, where neurons start; a reset has to lead there as well.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import Array, Leaf, as_array, parameter
from snn2chip.graph import BatchNorm, Delay, Linear, Neuron, Node, Shape

#: Neurons that take all time steps at a call, with time first.
_SEQUENCES = frozenset(("LIF", "LIFRecurrent", "LI"))
_SPIKING = frozenset(("LIFCell", "LIF", "LIFRecurrentCell", "LIFRecurrent", "LIFBoxCell", "IAFCell"))
_INTEGRATORS = frozenset(("LICell", "LI", "LILinearCell"))
_LATE = frozenset(("LIFCell", "LIF"))
_WITHOUT_CURRENT = frozenset(("LIFBoxCell", "IAFCell"))
#: Norse's modules without state that stand around neurons; the capture looks into them.
_CONTAINERS = frozenset(("SequentialState", "Lift"))


def leaf(module: nn.Module) -> Leaf | None:
    """The neurons that ``module`` is; None of containers."""
    kind = type(module).__name__
    if kind in _CONTAINERS:
        return None
    if kind not in _SPIKING | _INTEGRATORS:
        known = ", ".join(sorted(_SPIKING | _INTEGRATORS))
        raise UnsupportedError(f"modules of this kind have no form on the chip; use {known}")
    neuron: Any = module
    p, step = neuron.p, neuron.dt
    threshold = _threshold(p) if kind in _SPIKING else np.inf

    if kind in _INTEGRATORS and (as_array(torch.as_tensor(p.v_leak)) != 0).any():
        raise UnsupportedError("v_leak is not 0; integrators start at rest, add it to the scores instead")

    def nodes(name: str, shape: Shape) -> list[Node]:
        chain: list[Node] = []
        if hasattr(neuron, "input_weights"):
            chain.append(_synapses(f"{name} input", neuron.input_weights))
            shape = (len(neuron.input_weights),)
        rate: Any = 1.0 if kind == "IAFCell" else parameter(step * p.tau_mem_inv, shape)
        beta = 1.0 if kind == "IAFCell" else 1 - rate
        alpha = 0.0 if kind in _WITHOUT_CURRENT else 1 + parameter(-step * p.tau_syn_inv, shape)
        if kind in _LATE:
            chain.append(Delay(name=f"{name} current", steps=1))
        if np.any(rate != 1):
            chain.append(_gain(f"{name} gain", rate, shape))
        recurrent = None
        if hasattr(neuron, "recurrent_weights"):
            recurrent = np.reshape(rate, (-1, 1)) * as_array(neuron.recurrent_weights)
        reset: Any = "zero" if kind in _SPIKING else "none"
        above = parameter(threshold, shape)
        chain.append(Neuron(name=name, alpha=alpha, beta=beta, threshold=above, reset=reset, recurrent=recurrent))
        return chain

    return Leaf(nodes, time=0 if kind in _SEQUENCES else None, potential=0 if kind in _INTEGRATORS else None)


def _threshold(p: Any) -> torch.Tensor:
    """Above the potential at rest."""
    reset = as_array(torch.as_tensor(p.v_reset))
    start = as_array(torch.as_tensor(getattr(p, "v_leak", p.v_reset)))
    if (reset != start).any():
        raise UnsupportedError(
            f"v_reset {_shown(reset)} is not v_leak {_shown(start)}; the chip's neurons start where they reset to, "
            "train with equal ones"
        )
    threshold = as_array(torch.as_tensor(p.v_th)) - reset
    if (threshold <= 0).any():
        raise UnsupportedError(f"v_th {_shown(as_array(torch.as_tensor(p.v_th)))} is not above v_reset; never at rest")
    return torch.as_tensor(threshold)


def _shown(values: Array) -> str:
    return f"{values.flat[0]:.6g}" if values.size == 1 else f"of shape {values.shape}"


def _synapses(name: str, weight: torch.Tensor) -> Linear:
    return Linear(name=name, weight=as_array(weight), bias=np.zeros(len(weight)))


def _gain(name: str, rate: float | Array, shape: Shape) -> BatchNorm:
    if np.ndim(rate) > 1:
        raise UnsupportedError(f"tau_mem_inv has shape {np.shape(rate)}, expected one number or one for each channel")
    gain = np.broadcast_to(np.asarray(rate, np.float64), shape[:1]).copy()
    return BatchNorm(name=name, scale=gain, shift=np.zeros_like(gain))
