"""Compiled kernels of the event simulator: sums driven by single messages, and the law of spiking neurons on them.

Law: Lava ``proc/lif/models.py`` (``PyLifResetModelBitAcc``), ``proc/dense/models.py`` and ``proc/conv/models.py``,
lava-nc 0.10.0. A kernel takes a block of samples through one layer, without the interpreter's lock, so that threads
work on different samples. Every intermediate is cast to the width that Lava holds it in: numba computes integer
expressions in 64 bits, the casts make LLVM narrow them, which is both the law (sums wrap at 32 bits) and the speed.

Rows are parts of flat arrays, given by where they start: numba counts references to slices, which costs as much as the
work on a small layer. Rows of neurons are padded to a multiple of 64 entries that never fire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.simulators import event_vectors as vectors
from snn2chip.simulators.event_cache import njit
from snn2chip.simulators.event_vectors import (
    add_16,
    add_32,
    add_48,
    add_64,
    add_128,
    add_256,
    add_graded_16,
    add_graded_32,
    add_graded_48,
    add_graded_64,
    add_graded_128,
    add_graded_256,
    bits,
    copy,
    count,
    find,
)

Array = npt.NDArray[Any]
Function = TypeVar("Function", bound=Callable[..., Any])

_WRAP_AT = limits.STATE_LIMIT
_WRAP_BY = 2 * limits.STATE_LIMIT
_CLIP = limits.STATE_LIMIT - 1
_SHIFT = limits.STATE_SHIFT
_SUM_SHIFT = 32 - limits.CONV_SUM_BITS
_SUM_LIMIT = limits.SUM_LIMIT
INT16_MAX = (1 << 15) - 1
_POSITIONS, _COUNTS, _REACH, _SLACK = vectors.POSITIONS, vectors.COUNTS, vectors.REACH, vectors.SLACK


def kernel(function: Function) -> Function:
    """A kernel."""
    return njit(function)


def inline(function: Function) -> Function:
    """Part of a kernel. An array is seven arguments to LLVM: calls with ten of them cost more than a small layer."""
    return njit(function, forceinline=True)


class Law(NamedTuple):
    """Parameters of a layer's neurons, one entry per neuron in the simulator's order, padded.

    Attributes:
        threshold: ``vth << 6``.
        bias: ``bias << 6``.
        factor_u, factor_v: ``(4096 - decay) / 4096``.
        uniform: threshold and factors are the same for all neurons.
        memoryless: u forgets at each step: it need not be stored.
    """

    threshold: npt.NDArray[np.int32]
    bias: npt.NDArray[np.int32]
    factor_u: npt.NDArray[np.float64]
    factor_v: npt.NDArray[np.float64]
    uniform: bool
    memoryless: bool


class Patches(NamedTuple):
    """Where the neurons of a convolution look.

    A step's messages are put in a field ``[groups, H + 2 pad, W + 2 pad, channels of a group]``, so that what a kernel
    row sees is one contiguous stretch of it (one per kernel column where it is dilated).

    Attributes:
        position: of each input, in the order in which it arrives, in the field.
        fan_out: synapses behind each input.
        field: entries of the field.
        group, row, column: distances in the field between groups, output rows and output columns.
        stretches: where each stretch of the patch starts, from the patch's first entry on.
        length: entries of a stretch.
        shape: groups, output rows, output columns, channels out of a group.
        wraps: sums of spikes may leave 24 bits.
    """

    position: npt.NDArray[np.uint32]
    fan_out: npt.NDArray[np.int64]
    field: int
    group: int
    row: int
    column: int
    stretches: npt.NDArray[np.int64]
    length: int
    shape: tuple[int, int, int, int]
    wraps: bool


@inline
def decayed(state: Any, factor: Any) -> Any:
    """``trunc0(state * keep / 4096)``: 32 times 12 bits are exact in a double, and its conversion truncates."""
    return np.int32(np.float64(state) * factor)


@inline
def _wrapped(u: Any) -> Any:
    """One wrap into 24 bits; 2^23 itself stays."""
    if u > _WRAP_AT:
        return np.int32(u - _WRAP_BY)
    if u <= -_WRAP_AT:
        return np.int32(u + _WRAP_BY)
    return u


@inline
def clipped(v: Any) -> Any:
    """Held within +-(2^23 - 1)."""
    return np.int32(min(max(v, -_CLIP), _CLIP))


@inline
def _step(
    threshold: Array,
    bias: Array,
    factor_u: Array,
    factor_v: Array,
    uniform: bool,
    store_u: bool,
    sums: Array,
    u: Array,
    v: Array,
    spikes: Array,
) -> None:
    """One step of one row of neurons, in place: ``sums`` is the weighted sum ``a``, ``spikes`` becomes 0 or 1.

    The fields of :class:`Law` come one by one because numba counts a reference for each that it takes out of a tuple.
    Loops write few arrays: LLVM gives up vectorising where too many might overlap.

    Args:
        store_u: u is needed, by the next step or by the caller.
    """
    size = u.size
    if uniform and size:
        same_threshold, same_u, same_v = threshold[0], factor_u[0], factor_v[0]
        if not store_u:
            for j in range(size):
                new = _wrapped(np.int32(sums[j] << _SHIFT))
                new = clipped(np.int32(np.int32(decayed(v[j], same_v) + new) + bias[j]))
                fires = new > same_threshold
                spikes[j] = np.uint8(fires)
                v[j] = np.int32(0 if fires else new)
            return
        for j in range(size):
            u[j] = _wrapped(np.int32(decayed(u[j], same_u) + np.int32(sums[j] << _SHIFT)))
        for j in range(size):
            new = clipped(np.int32(np.int32(decayed(v[j], same_v) + u[j]) + bias[j]))
            fires = new > same_threshold
            spikes[j] = np.uint8(fires)
            v[j] = np.int32(0 if fires else new)
        return
    for j in range(size):
        u[j] = _wrapped(np.int32(decayed(u[j], factor_u[j]) + np.int32(sums[j] << _SHIFT)))
    for j in range(size):
        v[j] = clipped(np.int32(np.int32(decayed(v[j], factor_v[j]) + u[j]) + bias[j]))
    for j in range(size):
        spikes[j] = np.uint8(v[j] > threshold[j])
    for j in range(size):
        v[j] = np.int32(0 if spikes[j] else v[j])


@inline
def _present(x: Array, start: int, size: int, flip: int, index: Array, tail: Array) -> Any:
    """Which of ``x[start : start + size]`` are not zero (``flip`` 0) or zero (-1), in ``index``; how many."""
    whole = size
    if start + size + _REACH > x.size:  # so close to the end the search must not reach beyond
        whole = size - size % _REACH
    found = find(x, start, whole, flip, 0, _POSITIONS, _COUNTS, index, 0)
    if whole < size:
        for j in range(size - whole):
            tail[j] = x[start + whole + j]
        found = find(tail, 0, size - whole, flip, whole, _POSITIONS, _COUNTS, index, found)
    return found


@inline
def _binary(x: Array, start: int, size: int) -> Any:
    """Whether all of a row is 0 or 1."""
    other: Any = 0
    for j in range(start, start + size):
        other |= np.int32(x[j]) & np.int32(-2)
    return other == 0


@inline
def same(x: Array, first: int, second: int, size: int) -> Any:
    """Whether two parts of a flat array are equal."""
    different: Any = 0
    for j in range(size):
        different |= np.int32(x[first + j]) ^ np.int32(x[second + j])
    return different == 0


@inline
def _add_rows(weight: Array, index: Array, number: int, flush: int, sums: Array, at: int, sign: int) -> None:
    """``sums[at:] += sign * weight[index[:number]].sum(0)``, in 16 bits, flushed before they overflow.

    Args:
        flush: rows whose sum surely fits 16 bits.
    """
    width = weight.shape[1]
    low = 0
    while low < number:
        high = min(low + flush, number)
        column = 0
        while column + 256 <= width:
            add_256(weight, column, width, index, low, high, sums, at + column, sign)
            column += 256
        if column + 128 <= width:
            add_128(weight, column, width, index, low, high, sums, at + column, sign)
            column += 128
        if column + 64 <= width:
            add_64(weight, column, width, index, low, high, sums, at + column, sign)
            column += 64
        if column + 48 <= width:
            add_48(weight, column, width, index, low, high, sums, at + column, sign)
            column += 48
        elif column + 32 <= width:
            add_32(weight, column, width, index, low, high, sums, at + column, sign)
            column += 32
        if column < width:
            add_16(weight, column, width, index, low, high, sums, at + column, sign)
        low = high


@kernel
def _add_graded_rows(
    weight: Array, index: Array, number: int, messages: Array, first: int, sums: Array, at: int
) -> None:
    """``sums[at:] += messages[first + index] @ weight[index]`` in 32 bits."""
    width = weight.shape[1]
    column = 0
    while column + 256 <= width:
        add_graded_256(weight, column, width, index, 0, number, messages, first, sums, at + column)
        column += 256
    if column + 128 <= width:
        add_graded_128(weight, column, width, index, 0, number, messages, first, sums, at + column)
        column += 128
    if column + 64 <= width:
        add_graded_64(weight, column, width, index, 0, number, messages, first, sums, at + column)
        column += 64
    if column + 48 <= width:
        add_graded_48(weight, column, width, index, 0, number, messages, first, sums, at + column)
        column += 48
    elif column + 32 <= width:
        add_graded_32(weight, column, width, index, 0, number, messages, first, sums, at + column)
        column += 32
    if column < width:
        add_graded_16(weight, column, width, index, 0, number, messages, first, sums, at + column)


@kernel
def _largest(
    sums: Array, weight: Array, index: Array, number: int, flush: int, messages: Array, first: int, values: bool
) -> np.int64:
    """The largest magnitude of the true ``messages[first + index] @ weight[index]``, or 0 where it is surely legal.

    Args:
        sums: these sums in 32 bits, which may have wrapped.
        flush: as in :func:`run_dense`; it bounds the weights.
        values: the ``number`` messages are not all 1; only then ``index`` has to say which they are.
    """
    total = np.int64(number)
    if values:
        total = np.int64(0)
        for k in range(number):
            total += abs(np.int64(messages[first + index[k]]))
    bound = total * (INT16_MAX // flush)
    worst = np.int64(0)
    if bound < _SUM_LIMIT:
        return worst
    if bound < 1 << 31 or not values:
        for j in range(weight.shape[1]):
            worst = max(worst, abs(np.int64(sums[j])))
        return worst
    wide = np.zeros(weight.shape[1], np.int64)
    for k in range(number):
        message = np.int64(messages[first + index[k]])
        for j in range(wide.size):
            wide[j] += message * weight[index[k], j]
    for j in range(wide.size):
        worst = max(worst, abs(wide[j]))
    return worst


@kernel
def _keep(target: Array, n: int, t: int, state: Array) -> None:
    for j in range(target.shape[2]):
        target[n, t, j] = state[j]


@kernel
def run_input(
    x: Array,
    graded: bool,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    last: Array,
    spikes: Array,
    fired: Array,
    operations: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """Input neurons: the message is the sum. Arguments as in :func:`run_dense`."""
    samples, steps, inputs = x.shape
    size = u.size
    threshold, bias, factor_u, factor_v = law.threshold, law.bias, law.factor_u, law.factor_v
    store_u = keep_states or not law.memoryless
    row = spikes.reshape(-1)
    sums = np.zeros(size, np.int32)
    for n in range(samples):
        if from_rest:
            u[:] = 0
            v[:] = 0
        for t in range(steps):
            for j in range(inputs):
                sums[j] = np.int32(x[n, t, j])
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            at = (n * steps + t) * size
            _step(threshold, bias, factor_u, factor_v, law.uniform, store_u, sums, u, v, last)
            copy(row, at, last, size)
            fired[t] += count(last, 0, size)
            if keep_states:
                _keep(trace_u, n, t, u)
                _keep(trace_v, n, t, v)


@kernel
def run_dense(
    x: Array,
    graded: bool,
    weight: Array,
    everything: Array,
    flush: int,
    recurrent: Array,
    flush_recurrent: int,
    neurons: int,
    peak: Array | None,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    last: Array,
    spikes: Array,
    fired: Array,
    operations: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """A dense layer on ``x`` ``[N, S, inputs]``, of which entries beyond ``len(weight)`` are padding.

    Args:
        graded: messages may be other than 0 and 1 (decided step by step).
        weight: ``[inputs, neurons]``, int8 or int16; the neurons padded to a multiple of the narrowest tile.
        everything: its sum over inputs: the response when all of them spike.
        flush: rows of ``weight`` whose sum surely fits 16 bits.
        recurrent: ``[neurons, neurons]`` by the neuron that spikes, padded likewise, or without rows.
        neurons: how many there are without padding.
        peak: int64, one entry, which grows to the largest magnitude of a sum that is too large; or None, which costs
            nothing, where there can be none.
        start, reset_every: as in ``law.run_layer``.
        from_rest: each sample starts with u, v and ``last`` at 0; else there is one sample, which goes on from them.
        u, v, last: ``[padded neurons]``, state and spikes of the step before; of the last step on return.
        spikes: ``[N, S, padded neurons]``, output.
        fired, operations: ``[S]``, to which the spikes fired and the synapses that received a message are added.
        trace_u, trace_v: ``[N, S, neurons]``, written if ``keep_states``.
    """
    samples, steps, pitch = x.shape
    inputs, width = weight.shape
    size = u.size
    threshold, bias, factor_u, factor_v = law.threshold, law.bias, law.factor_u, law.factor_v
    store_u = keep_states or not law.memoryless
    entries, row = x.reshape(-1), spikes.reshape(-1)
    index = np.empty(max(inputs, size) + _SLACK, np.int32)
    tail = np.zeros(_REACH, x.dtype)
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
            first = (n * steps + t) * pitch
            if not (repeats and same(entries, first, first - pitch, inputs)):
                repeats = graded and not _binary(entries, first, inputs)
                arrived = _present(entries, first, inputs, 0, index, tail)
                forward[:] = 0
                if repeats:
                    _add_graded_rows(weight, index, arrived, entries, first, forward, 0)
                elif 2 * arrived > inputs:
                    forward[:width] = everything
                    absent = _present(entries, first, inputs, -1, index, tail)
                    _add_rows(weight, index, absent, flush, forward, 0, -1)
                else:
                    _add_rows(weight, index, arrived, flush, forward, 0, 1)
                if peak is not None:
                    peak[0] = max(peak[0], _largest(forward, weight, index, arrived, flush, entries, first, repeats))
            operations[t] += arrived * neurons
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            at = (n * steps + t) * size
            if recurs:
                sums[:] = forward
                back = find(last, 0, size, 0, 0, _POSITIONS, _COUNTS, index, 0)
                _add_rows(recurrent, index, back, flush_recurrent, sums, 0, 1)
                _step(threshold, bias, factor_u, factor_v, law.uniform, store_u, sums, u, v, last)
            else:
                _step(threshold, bias, factor_u, factor_v, law.uniform, store_u, forward, u, v, last)
            copy(row, at, last, size)
            fired[t] += count(last, 0, size)
            if keep_states:
                _keep(trace_u, n, t, u)
                _keep(trace_v, n, t, v)


@kernel
def sum_dense(
    x: Array,
    graded: bool,
    weight: Array,
    flush: int,
    neurons: int,
    peak: Array | None,
    sums: Array,
    operations: Array,
) -> None:
    """Weighted sums of a dense layer, into ``sums`` ``[N, S, neurons or more]``, zero so far; see :func:`run_dense`.

    Absent messages are never counted instead of those that arrived: few are expected.
    """
    samples, steps, pitch = x.shape
    inputs = len(weight)
    entries = x.reshape(-1)
    index = np.empty(inputs + _SLACK, np.int32)
    tail = np.zeros(_REACH, x.dtype)
    forward = np.zeros(weight.shape[1], np.int32)
    for n in range(samples):
        for t in range(steps):
            first = (n * steps + t) * pitch
            arrived = _present(entries, first, inputs, 0, index, tail)
            if not arrived:
                continue
            values = graded and not _binary(entries, first, inputs)
            forward[:] = 0
            if values:
                _add_graded_rows(weight, index, arrived, entries, first, forward, 0)
            else:
                _add_rows(weight, index, arrived, flush, forward, 0, 1)
            if peak is not None:
                peak[0] = max(peak[0], _largest(forward, weight, index, arrived, flush, entries, first, values))
            operations[t] += arrived * neurons
            for j in range(neurons):
                sums[n, t, j] = forward[j]


@inline
def _patch(field: Array, origin: int, stretches: Array, length: int, flip: int, index: Array) -> Any:
    """Which entries of a patch are not zero (``flip`` 0) or zero (-1), as rows of the kernel; how many."""
    found: Any = 0
    for k in range(stretches.size):
        found = find(field, origin + stretches[k], length, flip, k * length, _POSITIONS, _COUNTS, index, found)
    return found


@inline
def _pattern(field: Array, origin: int, stretches: Array, length: int, index: Array) -> Any:
    """Rows of the table of responses that add up to the response to a patch; how many."""
    pattern: Any = 0
    for k in range(stretches.size):
        pattern |= bits(field, origin + stretches[k], length) << (k * length)
    rows = (stretches.size * length + 7) >> 3
    for k in range(rows):
        index[k] = 256 * k + (pattern >> (8 * k) & 255)
    return rows


@kernel
def convolve(
    field: Array,
    binary: bool,
    patches: Patches,
    weight: Array,
    everything: Array,
    flush: int,
    table: Array,
    low: int,
    high: int,
    index: Array,
    sums: Array,
) -> None:
    """Adds to ``sums`` (zero so far) the response of output rows ``low:high`` of a convolution to ``field``."""
    _, height, width, channels = patches.shape
    stretches, length = patches.stretches, patches.length
    patch = stretches.size * length
    values = np.empty(patch if not binary else 0, np.int32)
    at = 0
    for r in range(low, high):
        g, y = r // height, r % height
        rows, responses = weight[g], table[g]
        for x in range(width):
            origin = g * patches.group + y * patches.row + x * patches.column
            if binary and len(responses):
                found = _pattern(field, origin, stretches, length, index)
                _add_rows(responses, index, found, patch, sums, at, 1)
                at += channels
                continue
            found = _patch(field, origin, stretches, length, 0, index)
            if not found:
                at += channels
                continue
            if not binary:
                for k in range(stretches.size):
                    for j in range(length):
                        values[k * length + j] = field[origin + stretches[k] + j]
                _add_graded_rows(rows, index, found, values, 0, sums, at)
            elif 2 * found > patch:
                for j in range(channels):
                    sums[at + j] = everything[g, j]
                absent = _patch(field, origin, stretches, length, -1, index)
                _add_rows(rows, index, absent, flush, sums, at, -1)
            else:
                _add_rows(rows, index, found, flush, sums, at, 1)
            at += channels


@inline
def _respond_conv(
    entries: Array,
    first: int,
    graded: bool,
    weight: Array,
    everything: Array,
    flush: int,
    table: Array,
    patches: Patches,
    low: int,
    high: int,
    index: Array,
    tail: Array,
    inner: Array,
    field: Array,
    forward: Array,
) -> Any:
    """Response of a convolution to one row, in ``forward``; whether messages are graded, and synapses that got one.

    ``field`` is all zero before and after.
    """
    position, fan_out = patches.position, patches.fan_out
    inputs = position.size
    values = graded and not _binary(entries, first, inputs)
    arrived = _present(entries, first, inputs, 0, index, tail)
    received: Any = 0
    forward[:] = 0
    if arrived:
        for k in range(arrived):
            i = np.uint32(index[k])
            received += fan_out[i]
            field[position[i]] = entries[first + i]
        convolve(field, not values, patches, weight, everything, flush, table, low, high, inner, forward)
        field[:] = 0
        if values or patches.wraps:
            for j in range(forward.size):  # into 24 bits
                forward[j] = np.int32(np.int32(forward[j] << _SUM_SHIFT) >> _SUM_SHIFT)
    return values, received


@kernel
def run_conv(
    x: Array,
    graded: bool,
    weight: Array,
    everything: Array,
    flush: int,
    table: Array,
    patches: Patches,
    low: int,
    high: int,
    law: Law,
    start: int,
    reset_every: int,
    from_rest: bool,
    u: Array,
    v: Array,
    last: Array,
    spikes: Array,
    fired: Array,
    operations: Array,
    keep_states: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """A convolution on ``x`` ``[N, S, inputs]``; what is not said here is as in :func:`run_dense`.

    Args:
        weight: ``[groups, kH * kW * C_in of a group, C_out of a group]``, rows in the order of a patch.
        everything: its sum over a patch. Padding is absent input, so that it holds at the border too.
        table: ``[groups, 256 * bytes, C_out of a group]``, int16: the response to each pattern of each eight entries of
            a patch; without rows where it would be large.
        patches: where the neurons look.
        low, high: output rows (of one group after the other) to compute; threads may share a sample.
    """
    samples, steps, pitch = x.shape
    inputs = patches.position.size
    pitch_out = u.size
    _, _, width, channels = patches.shape
    begin, end = low * width * channels, high * width * channels
    size = end - begin
    threshold, bias = law.threshold[begin:end], law.bias[begin:end]
    factor_u, factor_v = law.factor_u[begin:end], law.factor_v[begin:end]
    u, v = u[begin:end], v[begin:end]
    padded = (size + _REACH - 1) // _REACH * _REACH
    own = np.zeros(padded + _REACH, np.uint8)
    written = size if high < patches.shape[0] * patches.shape[1] else pitch_out - begin  # the last part pads the row
    store_u = keep_states or not law.memoryless
    entries, row = x.reshape(-1), spikes.reshape(-1)
    index = np.empty(inputs + _SLACK, np.int32)
    inner = np.empty(weight.shape[1] + _SLACK, np.int32)
    tail = np.zeros(_REACH, x.dtype)
    field = np.zeros(patches.field + _REACH, x.dtype)
    forward = np.zeros(size + weight.shape[2], np.int32)
    for n in range(samples):
        if from_rest:
            u[:] = 0
            v[:] = 0
        repeats = False
        received = 0
        for t in range(steps):
            first = (n * steps + t) * pitch
            if not (repeats and same(entries, first, first - pitch, inputs)):
                repeats, received = _respond_conv(
                    entries,
                    first,
                    graded,
                    weight,
                    everything,
                    flush,
                    table,
                    patches,
                    low,
                    high,
                    index,
                    tail,
                    inner,
                    field,
                    forward,
                )
            if low == 0:
                operations[t] += received
            if reset_every and (start + t) % reset_every == 0:
                u[:] = 0
                v[:] = 0
            _step(threshold, bias, factor_u, factor_v, law.uniform, store_u, forward, u, v, own)
            copy(row, (n * steps + t) * pitch_out + begin, own, written)
            fired[t] += count(own, 0, padded)
            if keep_states:
                for j in range(size):
                    trace_u[n, t, begin + j] = u[j]
                for j in range(size):
                    trace_v[n, t, begin + j] = v[j]


@kernel
def sum_conv(
    x: Array,
    graded: bool,
    weight: Array,
    everything: Array,
    flush: int,
    table: Array,
    patches: Patches,
    low: int,
    high: int,
    sums: Array,
    operations: Array,
) -> None:
    """Weighted sums of a convolution, into ``sums`` ``[N, S, neurons or more]``, zero so far; see :func:`run_conv`."""
    samples, steps, pitch = x.shape
    inputs = patches.position.size
    _, _, width, channels = patches.shape
    begin, size = low * width * channels, (high - low) * width * channels
    entries = x.reshape(-1)
    index = np.empty(inputs + _SLACK, np.int32)
    inner = np.empty(weight.shape[1] + _SLACK, np.int32)
    tail = np.zeros(_REACH, x.dtype)
    field = np.zeros(patches.field + _REACH, x.dtype)
    forward = np.zeros(size + weight.shape[2], np.int32)
    for n in range(samples):
        repeats = False
        received = 0
        for t in range(steps):
            first = (n * steps + t) * pitch
            if not (repeats and same(entries, first, first - pitch, inputs)):
                repeats, received = _respond_conv(
                    entries,
                    first,
                    graded,
                    weight,
                    everything,
                    flush,
                    table,
                    patches,
                    low,
                    high,
                    index,
                    tail,
                    inner,
                    field,
                    forward,
                )
            if received:
                if low == 0:
                    operations[t] += received
                for j in range(size):
                    sums[n, t, begin + j] = forward[j]


@kernel
def postpone(trace: Array, delay: Array, counts: Array) -> None:
    """Move each neuron's trace ``[N, S, neurons]`` to later steps, in place; count what is not zero at each step."""
    counts[:] = 0
    for n in range(trace.shape[0]):
        for t in range(trace.shape[1] - 1, -1, -1):  # from the end: what is read is not moved yet
            here = trace[n, t]
            count = 0
            for i in range(delay.size):
                before = t - delay[i]
                value = trace[n, before, i] if before >= 0 else 0
                here[i] = value
                count += value != 0
            counts[t] += count
