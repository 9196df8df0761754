"""Compiled laws of sigma-delta and resonate-and-fire neurons, on weighted sums that are there already.

Law: Lava ``proc/sdn/models.py``, ``proc/rf/models.py`` and ``proc/rf_iz/models.py``, lava-nc 0.10.0; written out in
:mod:`snn2chip.chip`. None of these neurons sees its own messages, so that the sums of all steps come first
(:func:`~snn2chip.simulators.event_kernels.sum_dense`, ``sum_conv``). A sigma-delta neuron to which nothing arrives
comes to rest within a step: a later one without sums, or with the input of the step before, changes and sends nothing.
Every intermediate is cast to int32, as in :mod:`snn2chip.simulators.event_kernels`.

Arguments that all laws share:

- ``begin``, ``end``: which neurons; threads may share a sample.
- ``from_rest``: each sample starts from zero; else there is one sample, which goes on from the state that is given.
- ``u``, ``v``, ``rest`` ``[padded neurons]``: state; ``rest`` is what sigma-delta neurons have not sent yet.
- ``messages`` ``[N, S, padded neurons]``: output, int32 or bytes. The padding is not written.
- ``fired`` ``[S]``, to which the messages other than 0 are added.
- ``trace_u``, ``trace_v`` ``[N, S, neurons]``, written if ``keep_states``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.simulators.event_kernels import clipped, decayed, inline, kernel, same

Array = npt.NDArray[Any]

_STATE_EXPONENT = limits.STATE_EXPONENT
_SHIFT = limits.STATE_SHIFT


@inline
def _trace(target: Array, n: int, t: int, state: Array, begin: int, end: int) -> None:
    for j in range(begin, end):
        target[n, t, j] = state[j]


@inline
def _send(threshold: int, residue: Array, messages: Array, at: int, begin: int, end: int) -> Any:
    """Send of ``residue`` what reaches the threshold, keep the rest; how many messages are not 0.

    The magnitude is int32 as well: that of -2^31 is negative, and is kept.
    """
    sent: Any = 0
    for j in range(begin, end):
        change = residue[j]
        message = np.int32((change if np.int32(abs(change)) >= threshold else 0) >> _STATE_EXPONENT)
        messages[at + j] = message
        sent += message != 0
    for j in range(begin, end):
        residue[j] = np.int32(0 if np.int32(abs(residue[j])) >= threshold else residue[j])
    return sent


@inline
def _silence(row: Array, at: int, begin: int, end: int) -> None:
    for j in range(begin, end):
        row[at + j] = 0


@kernel
def run_delta(
    x: Array,
    threshold: int,
    scale: int,
    begin: int,
    end: int,
    from_rest: bool,
    u: Array,
    v: Array,
    rest: Array,
    messages: Array,
    fired: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """:class:`~snn2chip.chip.Delta` on messages ``x`` ``[N, S, neurons]`` of any type.

    Args:
        threshold: shifted by ``scale`` already.
        scale: ``spike_exp + 6``.
    """
    samples, steps, inputs = x.shape
    residue, act = u, v
    entries, row, pitch = x.reshape(-1), messages.reshape(-1), messages.shape[2]
    for n in range(samples):
        if from_rest:
            _silence(residue, 0, begin, end)
            _silence(act, 0, begin, end)
        for t in range(steps):
            first, at = (n * steps + t) * inputs, (n * steps + t) * pitch
            if t > 0 and same(entries, first, first - inputs, inputs):
                _silence(row, at, begin, end)
            else:
                for j in range(begin, end):
                    new = np.int32(np.int32(entries[first + j]) << scale)
                    residue[j] = np.int32(np.int32(new - act[j]) + residue[j])
                for j in range(begin, end):
                    act[j] = np.int32(np.int32(entries[first + j]) << scale)
                fired[t] += _send(threshold, residue, row, at, begin, end)
            if keep_states:
                _trace(trace_u, n, t, residue, begin, end)
                _trace(trace_v, n, t, act, begin, end)


@kernel
def run_sigma_delta(
    sums: Array,
    threshold: int,
    bias: Array,
    begin: int,
    end: int,
    from_rest: bool,
    u: Array,
    v: Array,
    rest: Array,
    messages: Array,
    fired: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """:class:`~snn2chip.chip.SigmaDelta` on ``sums`` ``[N, S, neurons or more]``.

    Args:
        threshold: shifted by ``spike_exp + 6`` already.
        bias: ``[neurons]``, shifted likewise.
    """
    samples, steps, width = sums.shape
    sigma, act, residue = u, v, rest
    entries, row, pitch = sums.reshape(-1), messages.reshape(-1), messages.shape[2]
    for n in range(samples):
        if from_rest:
            for state in (sigma, act, residue):
                _silence(state, 0, begin, end)
        for t in range(steps):
            first, at = (n * steps + t) * width, (n * steps + t) * pitch
            anything: Any = np.int32(t == 0)  # a bias is sent at the first step of all
            for j in range(begin, end):
                anything |= entries[first + j]
            if anything:
                for j in range(begin, end):
                    sigma[j] = np.int32(sigma[j] + entries[first + j])
                for j in range(begin, end):
                    new = max(np.int32(sigma[j] + bias[j]), np.int32(0))
                    residue[j] = np.int32(np.int32(new - act[j]) + residue[j])
                for j in range(begin, end):
                    act[j] = max(np.int32(sigma[j] + bias[j]), np.int32(0))
                fired[t] += _send(threshold, residue, row, at, begin, end)
            else:
                _silence(row, at, begin, end)
            if keep_states:
                _trace(trace_u, n, t, sigma, begin, end)
                _trace(trace_v, n, t, act, begin, end)


@kernel
def run_sigma(
    sums: Array,
    begin: int,
    end: int,
    from_rest: bool,
    u: Array,
    v: Array,
    rest: Array,
    messages: Array,
    fired: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """:class:`~snn2chip.chip.Sigma` on ``sums`` ``[N, S, neurons or more]``."""
    samples, steps, _ = sums.shape
    sigma = u
    for n in range(samples):
        if from_rest:
            _silence(sigma, 0, begin, end)
        for t in range(steps):
            for j in range(begin, end):
                sigma[j] = np.int32(sigma[j] + sums[n, t, j])
            sent = 0
            for j in range(begin, end):
                messages[n, t, j] = sigma[j]
                sent += sigma[j] != 0
            fired[t] += sent
            if keep_states:
                _trace(trace_u, n, t, sigma, begin, end)
                _trace(trace_v, n, t, sigma, begin, end)


@kernel
def run_resonators(
    real: Array,
    imaginary: Array,
    threshold: int,
    sine: Array,
    cosine: Array,
    phase: bool,
    begin: int,
    end: int,
    from_rest: bool,
    u: Array,
    v: Array,
    rest: Array,
    messages: Array,
    fired: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """:class:`~snn2chip.chip.Resonator` on sums of real and of imaginary weights, each ``[N, S, neurons or more]``.

    Args:
        threshold: shifted by 6 already.
        sine, cosine: ``[neurons]``, over 4096: with 24 bits of state their products are exact in a double.
        phase: fires where the phase passes 0; else as Izhikevich's.
    """
    samples, steps, _ = real.shape
    re, im = u, v
    for n in range(samples):
        if from_rest:
            _silence(re, 0, begin, end)
            _silence(im, 0, begin, end)
        for t in range(steps):
            sent = 0
            for j in range(begin, end):
                old_re, old_im = re[j], im[j]
                turned = np.int32(decayed(old_re, cosine[j]) - decayed(old_im, sine[j]))
                new_re = clipped(np.int32(turned + np.int32(real[n, t, j] << _SHIFT)))
                turned = np.int32(decayed(old_re, sine[j]) + decayed(old_im, cosine[j]))
                new_im = clipped(np.int32(turned + np.int32(imaginary[n, t, j] << _SHIFT)))
                if phase:
                    fires = new_re >= threshold and new_im >= 0 and old_im < 0
                else:
                    fires = new_im >= threshold
                    if fires:
                        new_re, new_im = np.int32(0), np.int32(threshold - 1)
                re[j], im[j] = new_re, new_im
                messages[n, t, j] = np.uint8(fires)
                sent += fires
            fired[t] += sent
            if keep_states:
                _trace(trace_u, n, t, re, begin, end)
                _trace(trace_v, n, t, im, begin, end)
