"""Synaptic memory of a core in 64-bit words: the formulas behind published compiler logs.

::

    dense        words = inputs * ceil((neurons * (bits + index) + header) / 64)
    convolution  words = kernel_h * kernel_w * inputs * sum over blocks of ceil((channels * bits + header) / 64)

``neurons`` and ``channels`` are those on the core, ``bits`` is the width of a stored weight (plus that of its delay).
Zero weights are not left out. A core stores a kernel once, whatever the size of its tile; on Loihi 2 channels go in
blocks of powers of two (24 as 16 + 8). On Loihi 1 a header stands before every 64 synapses. The Loihi 2 formulas are
inferred from the logs in lava-dl's notebooks netx/oxford, pilotnet_snn, pilotnet_sdnn and yolo_kp; with the weights of
the PilotNet-LIF that lava-dl ships they give the logged words of each of its layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip.chip import Conv, Dense, IntArray, Layer
from snn2chip.hardware.targets import Target

WORD = 64


@dataclass(frozen=True)
class Mantissa:
    """Weights of a layer after their common power of two: ``low..high``, times ``2^exponent``."""

    low: int
    high: int
    exponent: int

    @property
    def mixed(self) -> bool:
        """Whether both signs occur, so that one bit is the sign."""
        return self.low < 0 < self.high

    @property
    def bits(self) -> int:
        """Width that holds every value: two's complement for mixed signs, else the magnitude; at least 1."""
        if self.mixed:
            return max(self.high.bit_length(), (-self.low - 1).bit_length()) + 1
        return max(self.high.bit_length(), (-self.low).bit_length(), 1)


def matrices(layer: Layer) -> list[IntArray]:
    """Weights of a layer: feed-forward, recurrent, imaginary."""
    if isinstance(layer, Conv):
        return [layer.weight]
    if isinstance(layer, Dense):
        return [matrix for matrix in (layer.weight, layer.recurrent, layer.imaginary) if matrix is not None]
    return []


def mantissa(layer: Layer) -> Mantissa:
    """What the weights of ``layer`` look like to the chip; they share one exponent."""
    arrays = matrices(layer)
    if not arrays:
        return Mantissa(0, 0, 0)
    low, high = min(int(a.min()) for a in arrays), max(int(a.max()) for a in arrays)
    used = 0
    for array in arrays:
        used |= int(np.bitwise_or.reduce(np.abs(array), axis=None))
    exponent = (used & -used).bit_length() - 1 if used else 0
    return Mantissa(low >> exponent, high >> exponent, exponent)


def stored_bits(layer: Layer, target: Target) -> int:
    """Bits of one synapse apart from its index: the next width that the chip has, and the delay."""
    bits = mantissa(layer).bits
    width = next((w for w in target.weight_widths if w >= bits), target.weight_widths[-1])
    delay = int(layer.delay.max()).bit_length() if isinstance(layer, Dense) and layer.delay is not None else 0
    return width + delay


def axon_words(synapses: int, bits: int, target: Target) -> int:
    """Words of one axon's list of ``synapses``, each of ``bits``."""
    header, block = target.value("synapse_header_bits"), target.value("synapse_block") or synapses
    whole, rest = divmod(synapses, block) if synapses else (0, 0)
    return whole * -(-(block * bits + header) // WORD) + (-(-(rest * bits + header) // WORD) if rest else 0)


def dense_axons(layer: Dense) -> int:
    """Axons into each core of a dense layer: inputs (twice where complex) and, where recurrent, its own neurons."""
    inputs = layer.weight.shape[1] * (1 if layer.imaginary is None else 2)
    return inputs + (0 if layer.recurrent is None else layer.shape[0])


def dense_words(layer: Dense, neurons: int, bits: int, target: Target) -> int:
    """Words of ``neurons`` neurons of a dense layer on one core."""
    return dense_axons(layer) * axon_words(neurons, bits + target.value("synapse_index_bits"), target)


def blocks(channels: int, target: Target) -> list[int]:
    """Sizes of the blocks that hold ``channels`` channels of a convolution, largest first."""
    if "channel_block_min" not in target.limits:
        return [channels]
    least = target.value("channel_block_min")
    whole = -(-channels // least) * least
    return [1 << k for k in reversed(range(whole.bit_length())) if whole >> k & 1]


def conv_words(layer: Conv, first: int, last: int, bits: int, target: Target) -> int:
    """Words of the kernels of output channels ``first..last - 1`` of a convolution on one core."""
    per_group = layer.shape[0] // layer.groups
    taps = int(np.prod(layer.weight.shape[1:]))
    index = 0 if "channel_block_min" in target.limits else target.value("synapse_index_bits")
    words = 0
    for group in range(first // per_group, -(-last // per_group)):
        channels = min(last, (group + 1) * per_group) - max(first, group * per_group)
        words += taps * sum(axon_words(size, bits + index, target) for size in blocks(channels, target))
    return words
