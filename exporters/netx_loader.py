"""What the NetX loader and Lava make of weights and rotations in a ``.net`` file, in plain numpy.

The loader rescales a dense layer's weights to the synapse's eight bits (lava-dl 0.6.0, ``netx/utils.py``), Lava clips
and truncates them at the first step (lava-nc 0.10.0, ``proc/dense/models.py``), and the two disagree about signs:

===========================  ==================  ===================
weights                      the loader's view   Lava's view
===========================  ==================  ===================
none negative                excitatory          excitatory
all negative                 inhibitory          inhibitory
none positive, some zero     **mixed**           inhibitory
part of a recurrent pair     that of the pair    its own
===========================  ==================  ===================

Where they disagree, or where a single sign goes beyond the range, what runs is not what was written. Convolutions
are not rescaled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]

#: What passes unchanged, for messages.
SAFE_WEIGHTS = "both signs within -128..127 (even weights: -256..254), or none negative within 0..255"


def _floor_log2(numerator: int, denominator: int) -> int:
    """``floor(log2(numerator / denominator))`` of positive integers, exactly."""
    if numerator >= denominator:
        return (numerator // denominator).bit_length() - 1
    return -(-(-denominator // numerator) - 1).bit_length()


def _shifted(weight: Array, bits: int) -> Array:
    """``weight << bits`` as numpy does it on int32: a negative number of bits gives zeros."""
    return weight << bits if 0 <= bits < 32 else np.zeros_like(weight)


def _optimised(weight: Array) -> tuple[Array, int, int]:
    """The loader's scaling: ``(weight << shift, shift, number of weight bits)``.

    ::

        shift = floor(log2(256 / -min))                              all negative
                floor(log2(255 / max))                               none negative
                floor(log2(min(127 / max, 128 / -min))) + 1          otherwise; clipped to [-256, 254] before
        bits  = 8 - shift - n (+ 1 if mixed)                         2^n, n <= 8, divides all weights
    """
    low, high = int(weight.min()), int(weight.max())
    if (high > 254 and low < 0) or (low < -256 and high > 0):
        weight = weight.clip(-256, 254)
        low, high = int(weight.min()), int(weight.max())
    mixed = low < 0 <= high
    if mixed:
        positive = [_floor_log2(127, high)] if high else []
        shift = min([*positive, _floor_log2(128, -low)]) + 1
    elif high < 0:
        shift = _floor_log2(256, -low)
    elif high == 0:
        raise OverflowError("all weights are zero")
    else:
        shift = _floor_log2(255, high)
    divisor = int(np.gcd.reduce(weight, axis=None))
    twos = min((divisor & -divisor).bit_length() - 1, 8)
    return _shifted(weight, shift), shift, 8 - shift - twos + mixed


def _as_run(weight: Array, shift: int, bits: int) -> Floats:
    """Lava's clipping and truncation of scaled weights, and the shift back of the sum.

    ::

        w = clip(w, -256 if mixed else 0, 255)         on -w, where none is positive
        w = (w >> d) << d,  d = 8 - bits (+ 1 if mixed)
    """
    low, high = int(weight.min()), int(weight.max())
    mixed, sign = low < 0 < high, -1 if low < 0 and high <= 0 else 1
    drop = 8 - bits + mixed
    clipped = (sign * weight).clip(-256 if mixed else 0, 255)
    truncated = _shifted(clipped >> drop, drop) if 0 <= drop < 32 else np.zeros_like(clipped)
    return sign * truncated.astype(np.float64) / 2.0**shift + 0.0  # no negative zeros


def loader_weights(weight: Array, recurrent: Array | None = None) -> tuple[Floats, Floats | None]:
    """The weights that Lava's simulator effectively applies for those in the file.

    Args:
        weight: integers ``[neurons, inputs]``.
        recurrent: integers ``[neurons, neurons]`` of the same layer; the loader scales the two together.

    Returns:
        Effective weights, exact. Fractions mean that Lava cuts the *sum* of scaled weights, which no integer
        weights can express.

    Raises:
        OverflowError: all weights are zero; the loader raises the same.
    """
    pair = weight if recurrent is None else np.hstack((weight, recurrent))
    scaled, shift, bits = _optimised(pair.astype(np.int64))
    effective = _as_run(scaled[:, : weight.shape[1]], shift, bits)
    return effective, None if recurrent is None else _as_run(scaled[:, weight.shape[1] :], shift, bits)


def loader_rotation(sine: Floats, cosine: Floats) -> tuple[Array, Array]:
    """Lava's ``sin_decay`` and ``cos_decay``, in 1/4096, for ``sinDecay`` and ``cosDecay`` in the file.

    The loader (``lava/lib/dl/slayer/neuron/rf.py``, ``neuron_params``) makes a decay and a period of them, and Lava
    (``proc/rf/process.py``) makes sine and cosine of those and truncates: 1000 may come back as 999.
    """
    s, c = np.float64(1) * sine / limits.DECAY_UNITY, np.float64(1) * cosine / limits.DECAY_UNITY
    alpha = 1 - np.sqrt(s**2 + c**2)
    with np.errstate(divide="ignore"):
        period = 1 / (np.arctan2(s, c) / 2 / np.pi)
    parts = (1 - alpha) * np.sin(np.pi * 2 * 1 / period), (1 - alpha) * np.cos(np.pi * 2 * 1 / period)
    first, second = (np.asarray(part * limits.DECAY_UNITY).astype(np.int32) for part in parts)
    return first, second
