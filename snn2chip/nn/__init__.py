"""Torch modules of spiking networks: neurons with surrogate gradients and the containers that step them.

Everything else is plain torch (``Linear``, ``Conv2d``, ``BatchNorm2d``, ``AvgPool2d``, ``Flatten``, ``Dropout``).
"""

from snn2chip.nn.network import Network, Readout, Residual
from snn2chip.nn.neurons import IF, LIF, CubaLIF, SpikingNeuron
from snn2chip.nn.surrogate import SURROGATES, spike

__all__ = ["IF", "LIF", "SURROGATES", "CubaLIF", "Network", "Readout", "Residual", "SpikingNeuron", "spike"]
