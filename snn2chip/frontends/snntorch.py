"""Neurons of snnTorch: Leaky, Synaptic, RLeaky, RSynaptic and Lapicque, one time step a call.

Law of snntorch 1.0.0, ``_neurons/*.py``. The reset looks at the potential of the step before: "subtract" takes the
threshold off one step after the spike; "zero" discards in ``Leaky`` what was left after the spike, and in the others
the whole next update, input included. ``reset_delay=False`` resets within the step of the spike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import Leaf, as_array, parameter
from snn2chip.graph import BatchNorm, Neuron, Node, Shape

#: By class, which of the returned tensors is the membrane potential.
_POTENTIAL = {"Leaky": 1, "Synaptic": 2, "RLeaky": 1, "RSynaptic": 2, "Lapicque": 1}


def rest(module: nn.Module) -> None:
    """Put neurons at rest."""
    if type(module).__name__ in _POTENTIAL:
        module.reset_mem()


def leaf(module: nn.Module) -> Leaf | None:
    """The neurons that ``module`` is; None of modules without state."""
    import snntorch

    if not isinstance(module, snntorch.SpikingNeuron):
        return None
    kind = next((name for name in _POTENTIAL if type(module) is getattr(snntorch, name)), None)
    if kind is None:
        raise UnsupportedError(f"neurons of this kind are not supported; use {', '.join(_POTENTIAL)}")
    neuron: Any = module
    if neuron.inhibition:
        raise UnsupportedError("inhibition=True, the largest potential alone fires, has no form on the chip")
    if neuron.state_quant:
        raise UnsupportedError("state_quant has no form on the chip; the export quantises the states")
    if (factor := as_array(neuron.graded_spikes_factor))[factor != 1].size:
        raise UnsupportedError(
            f"graded_spikes_factor {factor[factor != 1][0]:.6g}; spikes are 0 or 1, scale the next weights"
        )
    reset = ("subtract", "zero", "none")[int(neuron.reset_mechanism_val)]
    delayed = getattr(neuron, "reset_delay", True) or kind == "RSynaptic"  # whose own reset is lost in a local variable
    if reset == "zero" and kind == "Leaky":
        delayed = False  # what is discarded is what a reset in the step of the spike would leave
    inexact: tuple[str, ...] = ()
    if reset == "subtract" and not delayed:
        inexact = (
            "reset_delay=False takes the threshold off again where the potential exceeds it even after a spike's "
            "reset; here it does not",
        )

    def nodes(name: str, shape: Shape) -> list[Node]:
        chain: list[Node] = []
        alpha: Any = 0.0
        beta: Any = parameter(neuron.beta.clamp(0, 1), shape) if kind != "Lapicque" else None
        recurrent = None
        if kind == "Lapicque":
            step, resistance, capacity = (float(getattr(neuron, what)) for what in ("time_step", "R", "C"))
            beta = 1 - step / (resistance * capacity)
            gain = np.full(shape[0], resistance * (1 / (resistance * capacity)) * step)
            if (gain != 1).any():
                chain.append(BatchNorm(name=f"{name} gain", scale=gain, shift=np.zeros_like(gain)))
        if kind in ("Synaptic", "RSynaptic"):
            alpha = parameter(neuron.alpha.clamp(0, 1), shape)
        if kind in ("RLeaky", "RSynaptic"):
            recurrent, bias = _recurrent(neuron, shape)
            if bias.any():
                chain.append(BatchNorm(name=f"{name} recurrent bias", scale=np.ones_like(bias), shift=bias))
        chain.append(
            Neuron(
                name=name,
                alpha=alpha,
                beta=beta,
                threshold=parameter(neuron.threshold, shape),
                reset=reset,  # type: ignore[arg-type]
                reset_delay=delayed and reset != "none",
                recurrent=recurrent,
            )
        )
        return chain

    return Leaf(nodes, potential=_POTENTIAL[kind], inexact=inexact)


def _recurrent(neuron: Any, shape: Shape) -> tuple[Any, Any]:
    """Weights from the layer to itself, and the bias that comes with them."""
    synapses = neuron.recurrent
    if isinstance(synapses, nn.Linear):
        bias = np.zeros(synapses.out_features) if synapses.bias is None else as_array(synapses.bias)
        return as_array(synapses.weight), bias
    if isinstance(synapses, nn.Conv2d):
        raise UnsupportedError("recurrent convolutions have no form on the chip; use linear_features")
    if len(shape) != 1:
        raise UnsupportedError("recurrent synapses of images have no form on the chip; flatten before")
    return np.diag(np.broadcast_to(as_array(synapses.V), shape)), np.zeros(shape)
