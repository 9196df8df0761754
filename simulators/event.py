"""Event-driven simulator: the integer law with work proportional to messages, compiled by numba.

Equal to :mod:`snn2chip.simulators.reference` in every spike, u and v. How the work is kept small:

- A message adds one row of the transposed weights (dense), or contiguous runs of kernel columns (convolution), to the
  sums of its step; a step of spikes denser than one half starts from the response to all inputs and subtracts the
  absent ones. Sums of spikes are taken in 16 bits and widened before they can overflow.
- A graded input that repeats itself (direct coding presents the same image at each step) is summed once.
- A block of samples goes through all layers before the next one starts, so that spikes stay in the processor's cache
  and memory stays bounded; only recorded layers are kept whole. Threads take blocks in turn.
- Neurons of a convolution are ordered ``[group, y, x, channel]`` inside; what is recorded is put back in order.

Compiled code is cached on disk next to this file, or in the user's cache folder where that is read-only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, Layer
from snn2chip.simulators import event_kernels as kernels
from snn2chip.traces import Mode, Record, Traces, check_mode, padded

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 20  # of the largest array of a block of samples, so that what is in use fits the caches
_INT16_MAX = (1 << 15) - 1


@dataclass
class _Carry:
    """State between two calls: u, v and the last spikes, each ``[neurons]``."""

    u: npt.NDArray[np.int32]
    v: npt.NDArray[np.int32]
    last: npt.NDArray[np.uint8]

    @staticmethod
    def rest(size: int) -> _Carry:
        return _Carry(np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.uint8))


#: What a stage's kernel needs beside the samples; the arguments that all kernels share come after it.
_Kernel = Callable[..., tuple[int, int]]


class _Stage:
    """One layer, laid out for its kernel.

    Args:
        layer: the layer.
        order: position in the layer's input, flattened, of each entry of the rows that arrive.
        graded: messages may be other than 0 and 1.
    """

    def __init__(self, layer: Layer, order: Array, graded: bool) -> None:
        self.layer = layer
        self.size = math.prod(layer.shape)
        self.recurrent = isinstance(layer, Dense) and layer.recurrent is not None
        self.order = np.arange(self.size)  # of the outgoing rows
        self._blocked: tuple[int, ...] | None = None
        self._kernel: _Kernel
        self._arguments: tuple[Any, ...]
        if isinstance(layer, InputNeurons):
            self.order = order
            self._kernel, self._arguments = kernels.run_input, ()
        elif isinstance(layer, Dense):
            self._kernel, self._arguments = kernels.run_dense, _dense_arguments(layer, order, graded)
        else:
            channels, height, width = layer.shape
            self._blocked = (layer.groups, height, width, channels // layer.groups)
            by_group = np.arange(self.size).reshape(layer.groups, channels // layer.groups, height, width)
            self.order = by_group.transpose(0, 2, 3, 1).reshape(-1)
            self._kernel, self._arguments = kernels.run_conv, _conv_arguments(layer, order, graded)
        self._law = _law(layer, self.order)

    @property
    def in_order(self) -> bool:
        """Whether rows are in the order of the layer's shape."""
        return self._blocked is None

    def restored(self, block: Array) -> Array:
        """``block`` ``[N, S, neurons]`` as ``[N, S, *shape]``."""
        if self._blocked is None:
            return block.reshape(*block.shape[:2], *self.layer.shape)
        groups, height, width, channels = self._blocked
        split = block.reshape(*block.shape[:2], groups, height, width, channels)
        return split.transpose(0, 1, 2, 5, 3, 4).reshape(*block.shape[:2], *self.layer.shape)

    def advance(
        self,
        x: Array,
        spikes: Array,
        states: tuple[Array, Array] | None,
        start: int = 0,
        reset_every: int = 0,
        carry: _Carry | None = None,
    ) -> tuple[int, int]:
        """Run rows ``x`` ``[N, S, inputs]`` into ``spikes`` and, where given, the traces of u and v.

        Each sample starts from rest, or the only one from ``carry``.

        Returns:
            Spikes and synaptic operations at steps from layer time 0 on; operations of recurrent synapses apart.
        """
        trace_u, trace_v = states or (_NO_TRACE, _NO_TRACE)
        state = carry or _Carry.rest(self.size)
        carried = (state.u, state.v, state.last) if isinstance(self.layer, Dense) else (state.u, state.v)
        fired, operations = self._kernel(
            x,
            *self._arguments,
            self._law,
            start,
            reset_every,
            carry is None,
            *carried,
            spikes,
            states is not None,
            trace_u,
            trace_v,
        )
        return int(fired), int(operations)

    def compile(self, x_type: type[np.generic]) -> None:
        """Compile the kernel, or load it, for rows of ``x_type`` by running it on no samples."""
        inputs = math.prod(self.layer.input_shape)
        self.advance(np.zeros((0, 0, inputs), x_type), np.zeros((0, 0, self.size), np.uint8), None)


_NO_TRACE: npt.NDArray[np.int32] = np.zeros((0, 0, 0), np.int32)


def _law(layer: Layer, order: Array) -> kernels.Law:
    parameters = {name: array.reshape(-1)[order] for name, array in layer.neuron.expanded(layer.shape).items()}
    keep_u = limits.DECAY_UNITY - parameters["current_decay"]
    keep_v = limits.DECAY_UNITY - parameters["voltage_decay"]
    wraps = limits.CONV_SUM_BITS if isinstance(layer, Conv) else 32 - limits.STATE_SHIFT
    up = 32 - wraps  # the sum's highest bit becomes the word's, ...
    return kernels.Law(
        threshold=parameters["threshold"] << limits.STATE_SHIFT,
        bias=parameters["bias"] << limits.BIAS_EXPONENT,
        keep_u=keep_u.astype(np.uint32),
        keep_v=keep_v.astype(np.uint32),
        kind_u=_kind(keep_u),
        kind_v=_kind(keep_v),
        up=up,
        down=up - limits.STATE_SHIFT,  # ... and its lowest bit 6
    )


def _kind(keep: Array) -> int:
    if (keep == limits.DECAY_UNITY).all():
        return kernels.KEEPS
    return kernels.DECAYS if keep.any() else kernels.FORGETS


def _flush(weight: Array) -> int:
    """How many rows of ``weight`` can be summed in 16 bits, whichever they are."""
    return _INT16_MAX // max(1, int(np.abs(weight.astype(np.int32)).max(initial=0)))


def _dense_arguments(layer: Dense, order: Array, graded: bool) -> tuple[Any, ...]:
    weight = layer.weight.T[order]
    recurrent = np.zeros((0, layer.shape[0]), np.int32) if layer.recurrent is None else layer.recurrent.T
    low = min(int(weight.min(initial=0)), int(recurrent.min(initial=0)))
    high = max(int(weight.max(initial=0)), int(recurrent.max(initial=0)))
    narrow = np.int8 if low >= -128 and high <= 127 else np.int16
    return (
        graded,
        np.array(weight, narrow, order="C"),
        weight.sum(0, dtype=np.int32),
        _flush(weight),
        np.array(recurrent, narrow, order="C"),
        _flush(recurrent),
    )


def _conv_arguments(layer: Conv, order: Array, graded: bool) -> tuple[Any, ...]:
    channels_in, height, width = layer.input_shape
    channels_out, per_group, kernel_h, kernel_w = layer.weight.shape
    _, out_h, out_w = layer.shape
    groups, per_group_out = layer.groups, channels_out // layer.groups

    # Kernel columns that meet one input pixel differ by `spread`; the leftmost output takes the rightmost of them.
    spread = layer.stride[1] // math.gcd(layer.stride[1], layer.dilation[1])
    columns = sorted(range(kernel_w), key=lambda j: (j % spread, -j))
    by_input = layer.weight.reshape(groups, per_group_out, per_group, kernel_h, kernel_w)[..., columns]
    by_input = by_input.transpose(0, 2, 3, 4, 1)  # [group, channel in, kernel row, kernel column, channel out]
    weight = np.array(by_input.reshape(channels_in * kernel_h, kernel_w * per_group_out), np.int16, order="C")

    rows = [
        _taps(y, kernel_h, out_h, *(pair[0] for pair in (layer.stride, layer.padding, layer.dilation)))
        for y in range(height)
    ]
    runs = []
    for x in range(width):
        taps = _taps(x, kernel_w, out_w, *(pair[1] for pair in (layer.stride, layer.padding, layer.dilation)))
        runs.append(_runs([(out, columns.index(tap)) for out, tap in taps]))
    channel, pixel = np.divmod(order, height * width)
    geometry = kernels.Geometry(
        channel=channel.astype(np.int32),
        group=(channel // per_group).astype(np.int32),
        y=(pixel // width).astype(np.int32),
        x=(pixel % width).astype(np.int32),
        rows_from=_offsets(rows),
        row_out=_column(rows, 0),
        row_tap=_column(rows, 1),
        runs_from=_offsets(runs),
        run_out=_column(runs, 0, per_group_out),
        run_tap=_column(runs, 1, per_group_out),
        run_length=_column(runs, 2, per_group_out),
        kernel_height=kernel_h,
        out_height=out_h,
    )
    # No sum of spikes leaves 16 bits if the sum of magnitudes does not.
    sum_type = np.int16 if layer.largest_sum(1) <= _INT16_MAX else np.int32
    everything = np.zeros((groups * out_h, out_w * per_group_out), sum_type)
    inputs = len(order)
    kernels.scatter(geometry, weight, np.arange(inputs, dtype=np.int32), inputs, everything, 1)
    return graded, weight, everything, geometry, layer.fan_out().reshape(-1)[order]


def _taps(position: int, kernel: int, outputs: int, stride: int, padding: int, dilation: int) -> list[tuple[int, ...]]:
    """``(output, kernel position)`` of every synapse of one input row or column, by output."""
    reach = ((position + padding - tap * dilation, tap) for tap in range(kernel))
    return sorted((far // stride, tap) for far, tap in reach if far % stride == 0 and 0 <= far // stride < outputs)


def _runs(taps: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
    """``(first output, first kernel column, length)`` of the stretches in which both rise by one."""
    runs: list[tuple[int, ...]] = []
    for out, column in taps:
        if runs and runs[-1][0] + runs[-1][2] == out and runs[-1][1] + runs[-1][2] == column:
            runs[-1] = (runs[-1][0], runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((out, column, 1))
    return runs


def _offsets(lists: Sequence[Sequence[Any]]) -> npt.NDArray[np.int32]:
    return np.cumsum([0] + [len(entries) for entries in lists], dtype=np.int32)


def _column(lists: Iterable[Iterable[Sequence[int]]], which: int, scale: int = 1) -> npt.NDArray[np.int32]:
    return np.array([entry[which] * scale for entries in lists for entry in entries], np.int32)


def _stages(layers: Sequence[Layer]) -> list[_Stage]:
    stages: list[_Stage] = []
    order = np.arange(math.prod(layers[0].input_shape))
    for layer in layers:
        stages.append(_Stage(layer, order, graded=not stages))
        stages[-1].compile(np.uint8 if len(stages) > 1 else np.int32)
        order = stages[-1].order
    return stages


def _rows(messages: Array, steps: int) -> npt.NDArray[np.int32]:
    """``messages`` ``[N, T, *shape]`` as int32 rows ``[N, steps, inputs]``, silent from T on; a view if possible."""
    samples, given = messages.shape[:2]
    size = math.prod(messages.shape[2:])
    ready = messages.dtype == np.int32 and messages.flags.c_contiguous and messages.flags.writeable
    if given == steps and ready:  # numba compiles anew for read-only arrays
        return messages.reshape(samples, steps, size)
    rows = np.zeros((samples, steps, size), np.int32)
    rows[:, :given] = messages.reshape(samples, given, size)
    return rows


def _threads(asked: int) -> int:
    config: Any = numba.config
    return asked or int(config.NUMBA_NUM_THREADS)  # by default the processors that this process may use


def _each(threads: int, jobs: Sequence[tuple[int, int]], work: Callable[[int, int], Any]) -> list[Any]:
    """``work(*job)`` of each job, on ``threads`` threads."""
    threads = min(threads, len(jobs))
    if threads <= 1:
        return [work(*job) for job in jobs]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda job: work(*job), jobs))


def _row_bytes(stages: Sequence[_Stage]) -> int:
    """Bytes of the largest array of one step of one sample: spikes are bytes, messages words."""
    return max(4 * math.prod(stages[0].layer.input_shape), *(stage.size for stage in stages))


def _blocks(samples: int, bytes_each: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of samples: small enough for the cache, and several for each thread so that none waits long."""
    size = max(1, min(_BLOCK_BYTES // max(1, bytes_each), -(-samples // (4 * threads))))
    return [(low, min(samples, low + size)) for low in range(0, samples, size)]


def run_layer(
    layer: Layer, messages: Array, start: int = 0, reset_every: int = 0, states: bool = True, threads: int = 0
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Spikes, u and v of one layer, each ``[N, S, *shape]``, from messages ``[N, S, *input_shape]``.

    Args:
        layer: the layer.
        messages: integers; zeros cost next to nothing.
        start: layer time of the first step; negative while the pipeline fills.
        reset_every: u and v are cleared before each step that is a multiple of it; 0 is never.
        states: without it u and v are not stored, and come back with no steps.
        threads: 0 takes as many as there are processors.
    """
    threads = _threads(threads)
    stage = _stages([layer])[0]
    samples, steps = messages.shape[:2]
    size = stage.size
    spikes = np.empty((samples, steps, size), np.uint8)
    u, v = (np.empty((samples, steps if states else 0, size), np.int32) for _ in range(2))

    def work(low: int, high: int) -> None:
        x = _rows(messages[low:high], steps)
        traces = (u[low:high], v[low:high]) if states else None
        stage.advance(x, spikes[low:high], traces, start, reset_every)

    _each(threads, _blocks(samples, steps * size, threads), work)
    return stage.restored(spikes), stage.restored(u), stage.restored(v)


class _Recorder:
    """Counts, and the traces that were asked for, filled block by block."""

    def __init__(self, net: ChipNet, record: Record, samples: int) -> None:
        lead = (samples, net.window)
        shapes = {layer.name: (*lead, *layer.shape) for layer in net.layers}
        self.spikes = {name: np.zeros(shapes[name], np.uint8) for name in shapes if name in record.spikes}
        self.u = {name: np.zeros(shapes[name], np.int32) for name in shapes if name in record.states}
        self.v = {name: np.zeros(shapes[name], np.int32) for name in self.u}
        self.counts = dict.fromkeys(shapes, 0)
        self.operations = 0

    def add(self, stage: _Stage, fired: int, operations: int) -> None:
        name = stage.layer.name
        self.counts[name] += fired
        self.operations += operations + (fired * stage.size if stage.recurrent else 0)


def _run_samples(stages: Sequence[_Stage], messages: Array, window: int, keep: _Recorder, threads: int) -> None:
    """Samples from rest, each a window of its own."""

    def work(low: int, high: int) -> list[tuple[int, int]]:
        x: Array = _rows(messages[low:high], window)
        counts = []
        for stage in stages:
            name, lead = stage.layer.name, (high - low, window)
            spikes, states = np.empty((*lead, stage.size), np.uint8), None
            if stage.in_order and name in keep.spikes:
                spikes = keep.spikes[name][low:high].reshape(*lead, stage.size)
            if name in keep.u:
                u, v = keep.u[name][low:high], keep.v[name][low:high]
                if stage.in_order:
                    states = u.reshape(*lead, stage.size), v.reshape(*lead, stage.size)
                else:
                    states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            counts.append(stage.advance(x, spikes, states))
            if not stage.in_order:
                if name in keep.spikes:
                    keep.spikes[name][low:high] = stage.restored(spikes)
                if states is not None:
                    u[:], v[:] = stage.restored(states[0]), stage.restored(states[1])
            x = spikes
        return counts

    for counts in _each(threads, _blocks(len(messages), _row_bytes(stages) * window, threads), work):
        for stage, (fired, operations) in zip(stages, counts, strict=True):
            keep.add(stage, fired, operations)


def _run_chain(stages: Sequence[_Stage], messages: Array, window: int, reset_every: int, keep: _Recorder) -> None:
    """Samples one after the other in one run; state, and spikes of recurrent layers, pass from block to block."""
    samples = len(messages)
    carries = [_Carry.rest(stage.size) for stage in stages]
    for low, high in _blocks(samples, _row_bytes(stages) * window, 1) or [(0, 0)]:
        x: Array = _rows(messages[low:high], window)
        x = x.reshape(1, (high - low) * window, x.shape[2])
        start = low * window
        for stage, carry in zip(stages, carries, strict=True):
            name = stage.layer.name
            if low == 0 and not isinstance(stage.layer, InputNeurons):
                # The pipeline fills: as in Lava, layer k runs k + 1 steps before its data arrive.
                start -= 1
                x = np.concatenate([np.zeros_like(x[:, :1], shape=(1, 1, x.shape[2])), x], axis=1)
            lead = (1, x.shape[1])
            spikes, states = np.empty((*lead, stage.size), np.uint8), None
            if name in keep.u:
                states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            keep.add(stage, *stage.advance(x, spikes, states, start, reset_every, carry))
            early = max(0, -start)
            if name in keep.spikes:
                fires = keep.spikes[name][low:high]
                fires[:] = stage.restored(spikes[:, early:]).reshape(fires.shape)
            if states is not None:
                for target, trace in zip((keep.u[name], keep.v[name]), states, strict=True):
                    target[low:high] = stage.restored(trace[:, early:]).reshape(target[low:high].shape)
            x = spikes


def run(
    net: ChipNet,
    messages: npt.NDArray[np.int32],
    mode: Mode = "isolated",
    record: Record | None = None,
    threads: int = 0,
) -> Traces:
    """Simulate ``net`` on ``messages`` ``[N, T, *input_shape]``; see :mod:`snn2chip.traces` for the contract.

    Memory grows with what is recorded, not with the samples. ``seconds`` is the simulation; laying out the weights and
    compiling (or loading) the kernels is ``overhead_seconds``.

    Args:
        net: the network.
        messages: integers; zeros cost next to nothing.
        mode: see :data:`snn2chip.traces.Mode`.
        record: what to keep; what the readout needs, by default.
        threads: 0 takes as many as there are processors (``NUMBA_NUM_THREADS`` where that is set). A run in which
            state passes from sample to sample has one.
    """
    check_mode(mode)
    began = time.perf_counter()
    padded(net, messages[:0] if messages.ndim else messages)  # checks the shape
    stages = _stages(net.layers)
    compiled = time.perf_counter()
    keep = _Recorder(net, record or Record.readout(net), len(messages))
    # Without recurrence a reset leaves nothing of the window before, nor of the steps before the first one.
    if mode == "isolated" or (mode == "windowed" and not net.recurrent):
        _run_samples(stages, messages, net.window, keep, _threads(threads))
    else:
        _run_chain(stages, messages, net.window, net.window if mode == "windowed" else 0, keep)
    ended = time.perf_counter()
    return Traces(
        keep.spikes, keep.u, keep.v, keep.counts, keep.operations, ended - compiled, overhead_seconds=compiled - began
    )
