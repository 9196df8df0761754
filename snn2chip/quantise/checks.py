"""What can be wrong with calibration data."""

from __future__ import annotations

import math


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
