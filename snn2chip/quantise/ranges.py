"""How many integers a weight matrix may use, and which magnitude is given the largest of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def weight_range(weight: Array, bits: int, doubled: bool = False) -> tuple[int, int]:
    """Integers that a weight matrix may use so that the NetX loader leaves them alone.

    Mixed signs: symmetric within 8 bits. No negative weights: the unsigned range, half of it where all integers are
    ``doubled`` afterwards. No positive weights: odd bounds only, since the loader shifts a power of two out of its
    range (-4 becomes -3).
    """
    if weight.min(initial=0) >= 0 and not doubled:
        return 0, (1 << bits) - 1
    magnitude = max((1 << (bits - 1)) - 1, 1)
    return -magnitude, magnitude


def _percentile(share: float) -> Callable[[Array, int], float]:
    return lambda weight, levels: float(np.percentile(np.abs(weight[weight != 0]), share))


def _mse_range(weight: Array, levels: int) -> float:
    """Clipping range of least mean squared error, among 40 % to 100 % of the largest magnitude."""
    largest = np.abs(weight).max()
    errors = {}
    for share in np.linspace(0.4, 1.0, 25):
        scale = levels / (share * largest)
        errors[share] = float(np.square(np.clip(np.rint(weight * scale), -levels, levels) / scale - weight).mean())
    return float(largest * min(errors, key=lambda share: errors[share]))


def mean_range(weight: Array, levels: int) -> float:
    """The magnitude that stands for all where nothing but the sign is kept: their mean (XNOR-Net, arXiv 1603.05279)."""
    return float(np.abs(weight[weight != 0]).mean())


def grid_range(weight: Array, levels: int) -> float:
    """The range in which weights that are whole multiples of the smallest stay whole, else the largest magnitude.

    At 8 bits -1, 1 and 2 are exact as -63, 63 and 126; with 127 for 2 the others would fall between two integers.
    """
    magnitude = np.abs(weight[weight != 0])
    unit, largest = float(magnitude.min()), float(magnitude.max())
    steps = int(levels * unit / largest * (1 + 1e-12))
    multiples = magnitude / unit
    if steps < 1 or not np.allclose(multiples, np.rint(multiples), 0, 1e-6):
        return largest
    return levels * unit / steps


#: Ways to choose the largest magnitude that is represented; larger weights are clipped. The first wins a tie.
SCALE_METHODS: dict[str, Callable[[Array, int], float]] = {
    "max": lambda weight, levels: float(np.abs(weight).max()),
    "percentile 99.9": _percentile(99.9),
    "percentile 99.5": _percentile(99.5),
    "percentile 98": _percentile(98),
    "mse": _mse_range,
    "grid": grid_range,
}

#: In every row the largest magnitude fills the bits, and thresholds follow.
PER_NEURON = "per neuron"
