"""Small networks and circuits that bundles are tested with."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.chip import (
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    InputNeurons,
    Neuron,
    Readout,
    Resonator,
    Sigma,
    SigmaDelta,
)
from snn2chip.deployment.circuit import Circuit, Edge, soft_reset
from snn2chip.early_exit import attach


def weights(shape: tuple[int, ...], low: int, high: int, seed: int) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def spikes(net: ChipNet, samples: int, rate: float = 0.3, seed: int = 0) -> Any:
    shape = (samples, net.time_steps, *net.input_shape)
    return (np.random.default_rng(seed).random(shape) < rate).astype(np.uint8)


def exit_net(margin: int = 20) -> ChipNet:
    """Convolution, hidden layer and potential readout, with the circuit of an early exit."""
    conv = Conv("conv", (1, 8, 8), weights((4, 1, 3, 3), -30, 60, 1), Neuron.of("conv", 120, 4096, 400), padding=(1, 1))
    hidden = Dense("hidden", conv.shape, weights((12, 256), -20, 24, 2), Neuron.of("hidden", 300, 4096, 200))
    out = Dense("out", (12,), weights((3, 12), -60, 60, 3), Neuron.of("out", 131071, 4096, 0))
    net = ChipNet((1, 8, 8), (conv, hidden, out), readout=Readout("potential"), time_steps=12, window=16)
    return attach(net, "margin", margin)


def sigma_delta_net() -> ChipNet:
    """Graded messages throughout, which nothing resets."""
    entry = InputNeurons("entry", (6,), Delta.of("entry", 1))
    hidden = Dense("hidden", (6,), weights((5, 6), -20, 40, 1), SigmaDelta.of("hidden", 9, weights((5,), -3, 4, 2)))
    out = Dense("out", (5,), weights((3, 5), -20, 40, 3), Sigma())
    encoding = Encoding("graded", 1.0, -9, 9)
    return ChipNet((6,), (entry, hidden, out), encoding, Readout("potential"), time_steps=7, window=8)


def delayed_net() -> ChipNet:
    """Delays and resonators, which cross the reset, and a window with silent steps."""
    first = Dense(
        "first", (6,), weights((5, 6), -20, 60, 1), Neuron.of("first", 60, 3000, 500), None, weights((5, 6), 0, 4, 2)
    )
    rotation = Resonator.of("ring", 90, 1500, 3600)
    ring = Dense("ring", (5,), weights((4, 5), -60, 60, 3), rotation, imaginary=weights((4, 5), -60, 60, 4))
    return ChipNet((6,), (first, ring), time_steps=13, window=16)


def soft_reset_circuit() -> Circuit:
    """Two convolutions, asymmetric in everything, that subtract their threshold, and a dense layer."""

    def neuron(name: str, theta: int) -> Neuron:
        return Neuron.of(name, theta + 1, 400, 4095)

    first = Conv("features.0", (2, 6, 5), weights((3, 2, 3, 3), -20, 40, 1), neuron("features.0", 60), padding=(1, 1))
    second = Conv("features.2", (3, 6, 5), weights((4, 3, 3, 2), -20, 40, 2), neuron("features.2", 90), stride=(2, 1))
    size = int(np.prod(second.shape))
    last = Dense("fc", second.shape, weights((5, size), -30, 30, 3), Neuron.of("fc", 150, 4096, 300))
    net = ChipNet((2, 6, 5), (first, second, last), time_steps=10, window=16)
    return Circuit(net, (soft_reset(first, 60), soft_reset(second, [90, 89, 91, 90])))


def feedback_circuit() -> Circuit:
    """Graded input, parameters per neuron, recurrent synapses, and an edge of every kind."""
    entry = InputNeurons("entry", (2, 4, 3), Neuron.of("entry", 3, 2000, 100))
    conv = Conv(
        "conv",
        (2, 4, 3),
        weights((4, 1, 2, 3), -40, 60, 1),
        Neuron.of("conv", weights((4, 3, 3), 20, 90, 2), 4096, 500, weights((4, 3, 3), -3, 6, 3)),
        padding=(0, 1),
        groups=2,
    )
    neuron = Neuron.of("fc", weights((6,), 10, 60, 4), weights((6,), 300, 4096, 5), 100, weights((6,), -2, 5, 6))
    dense = Dense("fc", conv.shape, weights((6, 36), -20, 60, 7), neuron, weights((6, 6), -50, 40, 8))
    net = ChipNet((2, 4, 3), (entry, conv, dense), Encoding("graded", 1.0, -3, 6), time_steps=7, window=8)
    edges = (
        Edge("fc", "conv", 2 * weights((36, 6), -120, 40, 9)),
        Edge("fc", "fc", weights((6,), -90, -10, 10), 1),
        Edge("conv", "conv", weights((4,), -60, 0, 11)),
        Edge("conv", "fc", -weights((6, 36), 0, 3, 12), 2),
    )
    return Circuit(net, edges, (("fc", 4),))
