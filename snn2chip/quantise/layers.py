"""One layer as integers, for a given scale.

With weight scale ``W`` and message scale ``M`` (1 for spikes), one unit of the trained model is ``S = W * M`` units of
the chip's ``a``, and 64 S units of u and v:

    weight = rint(w * W)                        bias = rint(b * S)
    threshold = floor or rint(theta * S)        decay = rint(4096 * (1 - beta))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Conv, Dense, Neuron
from snn2chip.errors import LimitError
from snn2chip.graph import Conv2d
from snn2chip.passes import Block

Array = npt.NDArray[Any]


def weight_range(weight: Array, bits: int) -> tuple[int, int]:
    """Integers that a weight matrix may use so that the NetX loader leaves them alone.

    Mixed signs: symmetric within 8 bits. No negative weights: the unsigned range. No positive weights: odd bounds only,
    since the loader shifts a power of two out of its range (-4 becomes -3).
    """
    if weight.min() >= 0:
        return 0, (1 << bits) - 1
    magnitude = max((1 << (bits - 1)) - 1, 1)
    return -magnitude, magnitude


def _mse_range(weight: Array, levels: int) -> float:
    """Clipping range of least mean squared error, among 60 % to 100 % of the largest magnitude."""
    largest = np.abs(weight).max()
    errors = {}
    for share in np.linspace(0.4, 1.0, 25):
        scale = levels / (share * largest)
        errors[share] = float(np.square(np.clip(np.rint(weight * scale), -levels, levels) / scale - weight).mean())
    return float(largest * min(errors, key=lambda share: errors[share]))


#: Ways to choose the largest magnitude that is represented; larger weights are clipped. The first wins a tie.
SCALE_METHODS: dict[str, Callable[[Array, int], float]] = {
    "max": lambda weight, levels: float(np.abs(weight).max()),
    "percentile 99.9": lambda weight, levels: float(np.percentile(np.abs(weight[weight != 0]), 99.9)),
    "percentile 99.5": lambda weight, levels: float(np.percentile(np.abs(weight[weight != 0]), 99.5)),
    "percentile 98": lambda weight, levels: float(np.percentile(np.abs(weight[weight != 0]), 98)),
    "mse": _mse_range,
}


def all_weights(block: Block) -> Array:
    """Feed-forward and recurrent weights, which share one scale."""
    flat = block.synapse.weight.ravel()
    return flat if block.neuron.recurrent is None else np.concatenate([flat, block.neuron.recurrent.ravel()])


def largest_scale(block: Block) -> float:
    """Largest S at which threshold and bias fit the chip's registers."""
    bounds = [math.inf]
    if math.isfinite(block.neuron.threshold):
        bounds.append(limits.THRESHOLD_MAX / block.neuron.threshold)
    if block.neuron.bias is not None and block.neuron.bias.any():
        bounds.append(limits.HARDWARE_BIAS_MAX / float(np.abs(block.neuron.bias).max()))
    return min(bounds)


def build(
    block: Block, weight_scale: float, message_scale: float, bits: int, round_threshold: bool = False
) -> Dense | Conv:
    """The integer layer.

    Raises:
        LimitError: all weights are zero, or round to zero.
    """
    name, synapse, neuron = block.name, block.synapse, block.neuron
    low, high = weight_range(all_weights(block), bits)

    def integers(weight: Array) -> npt.NDArray[np.int32]:
        return np.asarray(np.clip(np.rint(weight * weight_scale), low, high), np.int32)

    weight = integers(synapse.weight)
    if not weight.any():
        raise LimitError(
            name, "largest weight", f"0 of {bits} bits", "at least 1", "the layer is dead or its bias far too large"
        )
    scale = weight_scale * message_scale
    if math.isinf(neuron.threshold):
        threshold = limits.THRESHOLD_MAX
    else:
        threshold = round(scale * neuron.threshold) if round_threshold else math.floor(scale * neuron.threshold)
    chip_neuron = Neuron.of(
        name,
        threshold=min(threshold, limits.THRESHOLD_MAX),
        current_decay=round(limits.DECAY_UNITY * (1 - neuron.alpha)),
        voltage_decay=min(round(limits.DECAY_UNITY * (1 - neuron.beta)), limits.HARDWARE_DECAY_MAX),
        bias=0 if neuron.bias is None else np.rint(neuron.bias * scale).astype(np.int32),
    )
    if isinstance(synapse, Conv2d):
        return Conv(
            name,
            block.input_shape,
            weight,
            chip_neuron,
            synapse.stride,
            synapse.padding,
            synapse.dilation,
            synapse.groups,
        )
    recurrent = None if neuron.recurrent is None else integers(neuron.recurrent)
    return Dense(name, block.input_shape, weight, chip_neuron, recurrent)
