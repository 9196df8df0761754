"""What can be wrong with calibration data."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt

from snn2chip.errors import InputError

Array = npt.NDArray[Any]


def check_labels(y: Array | None, samples: int, classes: int) -> None:
    """Raise :class:`InputError` unless ``y`` is one class of the network's for each sample."""
    if y is None:
        return
    if y.shape != (samples,) or y.dtype.kind not in "iu":
        raise InputError(f"calibration: y has shape {y.shape} and type {y.dtype}, expected {samples} integer classes")
    if samples and (y.min() < 0 or y.max() >= classes):
        wrong = int(y.max() if y.max() >= classes else y.min())
        raise InputError(f"calibration: y contains class {wrong}, the network has classes 0..{classes - 1}")


def label_warning(accuracy: float | None, samples: int, classes: int) -> str | None:
    """A sentence where the trained model is no better than chance (two standard errors), as with wrong labels."""
    if accuracy is None or classes < 2 or samples < 8 * classes:
        return None
    chance = 1 / classes
    if accuracy > chance + 2 * math.sqrt(chance * (1 - chance) / samples):
        return None
    return (
        f"calibration: the trained model is right on {accuracy:.1%} of {samples} samples, chance is {chance:.1%}; the "
        "labels, or the samples, are not those it was trained for"
    )
