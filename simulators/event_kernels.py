"""Compiled kernels of the event simulator: the integer law on rows of neurons, and sums driven by single messages.

Law: Lava ``proc/lif/models.py`` (``PyLifResetModelBitAcc``), ``proc/dense/models.py`` and ``proc/conv/models.py``,
lava-nc 0.10.0. A kernel takes a block of samples through one layer, without the interpreter's lock, so that threads
work on different samples. Every intermediate is cast to the width that Lava holds it in: numba computes integer
expressions in 64 bits, the casts make LLVM narrow them, which is both the law (sums wrap at 32 bits) and the speed.

Loops write one array each where they can: LLVM gives up vectorising where too many arrays might overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

from snn2chip import limits

Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

#: What a uniform decay leaves to do: multiply, nothing (decay 0 keeps the state), forget it (decay 4096).
DECAYS, KEEPS, FORGETS = 0, 1, 2

_WRAP_AT = limits.STATE_LIMIT
_WRAP_BY = 2 * limits.STATE_LIMIT
_CLIP = limits.STATE_LIMIT - 1
_TWELVE = np.uint32(12)
_LOW_BITS = np.uint32(limits.DECAY_UNITY - 1)


def _kernel(function: Function) -> Function:
    """``numba.njit``, with its type kept; compiled code is cached on disk, where numba finds a place for it."""
    njit: Any = numba.njit(cache=True, nogil=True)
    compiled: Function = njit(function)
    return compiled


class Law(NamedTuple):
    """Parameters of a layer's neurons, one entry per neuron in the simulator's order.

    Attributes:
        threshold: ``vth << 6``.
        bias: ``bias << 6``.
        keep_u, keep_v: ``4096 - decay``.
        kind_u, kind_v: :data:`DECAYS`, :data:`KEEPS` or :data:`FORGETS`.
        up, down: the sum ``a`` enters u as ``(a << up) >> down`` in 32 bits: 6 and 0, or 8 and 2 where it wraps to
            24 bits first.
    """

    threshold: npt.NDArray[np.int32]
    bias: npt.NDArray[np.int32]
    keep_u: npt.NDArray[np.uint32]
    keep_v: npt.NDArray[np.uint32]
    kind_u: int
    kind_v: int
    up: int
    down: int


class Geometry(NamedTuple):
    """Where the messages of a convolution's inputs go.

    Kernel columns are stored so that those which meet the same input pixel follow one another; what one message adds
    to one row of outputs is then a contiguous run of kernel columns on a contiguous run of output pixels (several
    runs where the dilation does not divide the stride).

    Attributes:
        channel, group, y, x: of each input, in the order in which it arrives.
        rows_from, row_out, row_tap: output rows and kernel rows of input row y are entries
            ``rows_from[y]:rows_from[y + 1]`` of the other two.
        runs_from, run_out, run_tap, run_length: the same for input column x, in elements (pixels times channels).
        kernel_height, out_height: sizes.
    """

    channel: npt.NDArray[np.int32]
    group: npt.NDArray[np.int32]
    y: npt.NDArray[np.int32]
    x: npt.NDArray[np.int32]
    rows_from: npt.NDArray[np.int32]
    row_out: npt.NDArray[np.int32]
    row_tap: npt.NDArray[np.int32]
    runs_from: npt.NDArray[np.int32]
    run_out: npt.NDArray[np.int32]
    run_tap: npt.NDArray[np.int32]
    run_length: npt.NDArray[np.int32]
    kernel_height: int
    out_height: int


@_kernel
def _decayed(state: Any, keep: Any) -> Any:
    """``trunc0(state * keep / 4096)`` in 32 bits: the magnitude's high and low 12 bits are multiplied apart."""
    size = np.uint32(-state if state < 0 else state)
    high = np.uint32(np.uint32(size >> _TWELVE) * keep)
    low = np.uint32(np.uint32(np.uint32(size & _LOW_BITS) * keep) >> _TWELVE)
    result = np.int32(np.uint32(high + low))
    return np.int32(-result) if state < 0 else result


@_kernel
def _wrapped(u: Any) -> Any:
    """One wrap into 24 bits; 2^23 itself stays."""
    if u > _WRAP_AT:
        return np.int32(u - _WRAP_BY)
    if u <= -_WRAP_AT:
        return np.int32(u + _WRAP_BY)
    return u


@_kernel
def _clipped(v: Any) -> Any:
    return np.int32(min(max(v, -_CLIP), _CLIP))


@_kernel
def step(law: Law, sums: Array, u: Array, v: Array, spikes: Array) -> None:
    """One step of one row of neurons, in place: ``sums`` is the weighted sum ``a``, ``spikes`` becomes 0 or 1."""
    size = sums.size
    up, down = law.up, law.down
    if law.kind_u == FORGETS:
        for j in range(size):
            u[j] = _wrapped(np.int32(np.int32(sums[j] << up) >> down))
    elif law.kind_u == KEEPS:
        for j in range(size):
            u[j] = _wrapped(np.int32(u[j] + np.int32(np.int32(sums[j] << up) >> down)))
    else:
        keep = law.keep_u
        for j in range(size):
            u[j] = _wrapped(np.int32(_decayed(u[j], keep[j]) + np.int32(np.int32(sums[j] << up) >> down)))
    bias = law.bias
    if law.kind_v == FORGETS:
        for j in range(size):
            v[j] = _clipped(np.int32(u[j] + bias[j]))
    elif law.kind_v == KEEPS:
        for j in range(size):
            v[j] = _clipped(np.int32(np.int32(v[j] + u[j]) + bias[j]))
    else:
        keep = law.keep_v
        for j in range(size):
            v[j] = _clipped(np.int32(np.int32(_decayed(v[j], keep[j]) + u[j]) + bias[j]))
    threshold = law.threshold
    for j in range(size):
        spikes[j] = np.uint8(v[j] > threshold[j])
    for j in range(size):
        v[j] = np.int32(0 if spikes[j] else v[j])


@_kernel
def _total(spikes: Array) -> Any:
    count = 0
    for j in range(spikes.size):
        count += spikes[j]
    return count


@_kernel
def _present(row: Array, index: Array) -> Any:
    """Positions of the non-zero entries of ``row``, in ``index``; returns how many. No branch to mispredict."""
    count: Any = 0
    for j in range(row.size):
        index[count] = j
        count += row[j] != 0
    return count


@_kernel
def _absent(row: Array, index: Array) -> Any:
    """Positions of the zeros of ``row``."""
    count: Any = 0
    for j in range(row.size):
        index[count] = j
        count += row[j] == 0
    return count


@_kernel
def _binary(row: Array) -> Any:
    """Whether all of ``row`` is 0 or 1."""
    other: Any = 0
    for j in range(row.size):
        other |= np.int32(row[j]) & np.int32(-2)
    return other == 0


@_kernel
def _same(a: Array, b: Array) -> Any:
    different: Any = 0
    for j in range(a.size):
        different |= np.int32(a[j]) ^ np.int32(b[j])
    return different == 0


@_kernel
def _add_rows(weight: Array, index: Array, count: int, flush: int, partial: Array, sums: Array, sign: int) -> None:
    """``sums += sign * weight[index[:count]].sum(0)``, eight rows a pass into 16 bits, flushed before they overflow.

    Args:
        flush: rows whose sum surely fits 16 bits.
    """
    size = sums.size
    partial[:] = 0
    held = 0
    k = 0
    while k < count:
        if held + min(8, count - k) > flush:
            for j in range(size):
                sums[j] = np.int32(sums[j] + sign * partial[j])
            partial[:] = 0
            held = 0
        if k + 8 <= count:
            a, b, c, d = weight[index[k]], weight[index[k + 1]], weight[index[k + 2]], weight[index[k + 3]]
            e, f, g, h = weight[index[k + 4]], weight[index[k + 5]], weight[index[k + 6]], weight[index[k + 7]]
            for j in range(size):
                first = np.int16(np.int16(a[j] + b[j]) + np.int16(c[j] + d[j]))
                second = np.int16(np.int16(e[j] + f[j]) + np.int16(g[j] + h[j]))
                partial[j] = np.int16(partial[j] + np.int16(first + second))
            k += 8
            held += 8
        else:
            a = weight[index[k]]
            for j in range(size):
                partial[j] = np.int16(partial[j] + a[j])
            k += 1
            held += 1
    for j in range(size):
        sums[j] = np.int32(sums[j] + sign * partial[j])


@_kernel
def _add_graded_rows(weight: Array, index: Array, count: int, messages: Array, sums: Array) -> None:
    """``sums += messages[index] @ weight[index]`` in 32 bits, four rows a pass."""
    size = sums.size
    k = 0
    while k + 4 <= count:
        i0, i1, i2, i3 = index[k], index[k + 1], index[k + 2], index[k + 3]
        a, b, c, d = weight[i0], weight[i1], weight[i2], weight[i3]
        m0, m1, m2, m3 = np.int32(messages[i0]), np.int32(messages[i1]), np.int32(messages[i2]), np.int32(messages[i3])
        for j in range(size):
            first = np.int32(np.int32(m0 * a[j]) + np.int32(m1 * b[j]))
            second = np.int32(np.int32(m2 * c[j]) + np.int32(m3 * d[j]))
            sums[j] = np.int32(sums[j] + np.int32(first + second))
        k += 4
    while k < count:
        a = weight[index[k]]
        m0 = np.int32(messages[index[k]])
        for j in range(size):
            sums[j] = np.int32(sums[j] + np.int32(m0 * a[j]))
        k += 1


@_kernel
def scatter(geometry: Geometry, weight: Array, index: Array, count: int, sums: Array, sign: int) -> None:
    """Adds ``sign`` times the kernel of each spike to ``sums``, ``[groups * H_out, W_out * channels of a group]``."""
    for k in range(count):
        i = index[k]
        y, x = geometry.y[i], geometry.x[i]
        first_weight = geometry.channel[i] * geometry.kernel_height
        first_sum = geometry.group[i] * geometry.out_height
        for r in range(geometry.rows_from[y], geometry.rows_from[y + 1]):
            taps = weight[first_weight + geometry.row_tap[r]]
            row = sums[first_sum + geometry.row_out[r]]
            for s in range(geometry.runs_from[x], geometry.runs_from[x + 1]):
                length = geometry.run_length[s]
                source = taps[geometry.run_tap[s] : geometry.run_tap[s] + length]
                target = row[geometry.run_out[s] : geometry.run_out[s] + length]
                if sign > 0:
                    for q in range(target.size):
                        target[q] += source[q]
                else:
                    for q in range(target.size):
                        target[q] -= source[q]


@_kernel
def _scatter_graded(geometry: Geometry, weight: Array, index: Array, count: int, messages: Array, sums: Array) -> None:
    """Adds each message times its kernel to ``sums``, laid out as in :func:`scatter`."""
    for k in range(count):
        i = index[k]
        message = np.int32(messages[i])
        y, x = geometry.y[i], geometry.x[i]
        first_weight = geometry.channel[i] * geometry.kernel_height
        first_sum = geometry.group[i] * geometry.out_height
        for r in range(geometry.rows_from[y], geometry.rows_from[y + 1]):
            taps = weight[first_weight + geometry.row_tap[r]]
            row = sums[first_sum + geometry.row_out[r]]
            for s in range(geometry.runs_from[x], geometry.runs_from[x + 1]):
                length = geometry.run_length[s]
                source = taps[geometry.run_tap[s] : geometry.run_tap[s] + length]
                target = row[geometry.run_out[s] : geometry.run_out[s] + length]
                for q in range(target.size):
                    target[q] = np.int32(target[q] + np.int32(message * source[q]))


@_kernel
def run_input(
    x: Array,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    spikes: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> Any:
    """Input neurons: the message is the sum. Arguments and result as in :func:`run_dense`."""
    samples, steps, size = spikes.shape
    fired = 0
    sums = np.zeros(size, np.int32)
    for n in range(samples):
        if from_rest:
            u[:] = 0
            v[:] = 0
        for t in range(steps):
            for j in range(size):
                sums[j] = np.int32(x[n, t, j])
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            step(law, sums, u, v, spikes[n, t])
            if start + t >= 0:
                fired += _total(spikes[n, t])
            if keep_states:
                trace_u[n, t] = u
                trace_v[n, t] = v
    return fired, 0


@_kernel
def run_dense(
    x: Array,
    graded: bool,
    weight: Array,
    everything: Array,
    flush: int,
    recurrent: Array,
    flush_recurrent: int,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    last: Array,
    spikes: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> Any:
    """A dense layer on ``x`` ``[N, S, inputs]``.

    Args:
        graded: messages may be other than 0 and 1 (decided step by step).
        weight: ``[inputs, neurons]``, int8 or int16.
        everything: its sum over inputs: the response when all of them spike.
        flush: rows of ``weight`` whose sum surely fits 16 bits.
        recurrent: ``[neurons, neurons]`` by the neuron that spikes, or without rows.
        start, reset_every: as in ``reference.run_layer``.
        from_rest: each sample starts with u, v and ``last`` at 0; else there is one sample, which goes on from them.
        u, v, last: ``[neurons]``, state and spikes of the step before; of the last step on return.
        spikes: ``[N, S, neurons]``, output.
        trace_u, trace_v: the same, written if ``keep_states``.

    Returns:
        Spikes fired and messages times synapses received, at steps from layer time 0 on.
    """
    samples, steps, size = spikes.shape
    inputs = x.shape[2]
    fired, operations = 0, 0
    index = np.empty(max(inputs, size), np.int32)
    partial = np.zeros(size, np.int16)
    forward = np.zeros(size, np.int32)
    sums = np.zeros(size, np.int32)
    recurs = len(recurrent) > 0
    for n in range(samples):
        if from_rest:
            u[:] = 0
            v[:] = 0
            last[:] = 0
        repeats = False  # `forward` is the response to the graded messages of the step before
        arrived = 0
        for t in range(steps):
            row = x[n, t]
            if not (repeats and _same(row, x[n, t - 1])):
                repeats = graded and not _binary(row)
                arrived = _present(row, index)
                if repeats:
                    forward[:] = 0
                    _add_graded_rows(weight, index, arrived, row, forward)
                elif 2 * arrived > inputs:
                    forward[:] = everything
                    _add_rows(weight, index, _absent(row, index), flush, partial, forward, -1)
                else:
                    forward[:] = 0
                    _add_rows(weight, index, arrived, flush, partial, forward, 1)
            if start + t >= 0:
                operations += arrived * size
            if recurs:
                sums[:] = forward
                _add_rows(recurrent, index, _present(last, index), flush_recurrent, partial, sums, 1)
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            step(law, sums if recurs else forward, u, v, spikes[n, t])
            if recurs:
                last[:] = spikes[n, t]
            if start + t >= 0:
                fired += _total(spikes[n, t])
            if keep_states:
                trace_u[n, t] = u
                trace_v[n, t] = v
    return fired, operations


@_kernel
def run_conv(
    x: Array,
    graded: bool,
    weight: Array,
    everything: Array,
    geometry: Geometry,
    fan_out: Array,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    spikes: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> Any:
    """A convolution on ``x`` ``[N, S, inputs]``; what is not said here is as in :func:`run_dense`.

    Args:
        weight: ``[C_in * kH, kW * channels of a group]``, int16, columns as in :class:`Geometry`.
        everything: ``[groups * H_out, W_out * channels of a group]``; spikes are summed in its type, which has 16 bits
            if no such sum can overflow them.
        fan_out: synapses behind each input.
    """
    samples, steps, size = spikes.shape
    inputs = x.shape[2]
    fired, operations = 0, 0
    index = np.empty(inputs, np.int32)
    forward = np.zeros(size, np.int32)
    narrow = np.empty_like(everything)
    narrow_row = narrow.reshape(size)
    for n in range(samples):
        if from_rest:
            u[:] = 0
            v[:] = 0
        repeats = False
        received = 0
        for t in range(steps):
            row = x[n, t]
            if not (repeats and _same(row, x[n, t - 1])):
                repeats = graded and not _binary(row)
                arrived = _present(row, index)
                received = 0
                for k in range(arrived):
                    received += fan_out[index[k]]
                if repeats:
                    forward[:] = 0
                    _scatter_graded(geometry, weight, index, arrived, row, forward.reshape(narrow.shape))
                else:
                    if 2 * arrived > inputs:
                        narrow[:] = everything
                        scatter(geometry, weight, index, _absent(row, index), narrow, -1)
                    else:
                        narrow[:] = 0
                        scatter(geometry, weight, index, arrived, narrow, 1)
                    for j in range(size):
                        forward[j] = np.int32(narrow_row[j])
            if start + t >= 0:
                operations += received
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            step(law, forward, u, v, spikes[n, t])
            if start + t >= 0:
                fired += _total(spikes[n, t])
            if keep_states:
                trace_u[n, t] = u
                trace_v[n, t] = v
    return fired, operations
