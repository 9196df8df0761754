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
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, Layer, Neuron
from snn2chip.errors import UnsupportedError
from snn2chip.simulators import event_kernels as kernels
from snn2chip.simulators import event_vectors as vectors
from snn2chip.traces import Mode, Record, Traces, check_messages, check_mode

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 20  # of the largest array of a block of samples, so that what is in use fits the caches
_LINE = 64  # bytes
_WORTH_SHARING = 1 << 15  # neuron updates that take longer than waking a thread
_PATTERN_BITS = 63  # of a patch whose response is looked up; so few weights of 9 bits cannot overflow 16
_TABLE_BYTES = 1 << 18  # of all responses that are looked up, so that they fit the caches
_INT16_MAX = (1 << 15) - 1


@dataclass
class _Carry:
    """State between two calls: u, v and the last spikes, each ``[padded neurons]``, and messages still under way."""

    u: npt.NDArray[np.int32]
    v: npt.NDArray[np.int32]
    last: npt.NDArray[np.uint8]
    past: Array | None = None  # the last rows that arrived, [1, longest delay, inputs]

    @staticmethod
    def rest(size: int) -> _Carry:
        return _Carry(np.zeros(size, np.int32), np.zeros(size, np.int32), np.zeros(size, np.uint8))


@dataclass(frozen=True)
class _Delays:
    """Delayed synapses as more inputs without delay: one for each input and each of its delays.

    Attributes:
        steps: all delays that occur.
        inputs: for each of them, entries of the rows that arrive.
        columns: for each of them, the inputs that repeat these so much later.
    """

    steps: list[int]
    inputs: list[npt.NDArray[np.int64]]
    columns: list[slice]

    @staticmethod
    def of(delay: Array, weight: Array) -> tuple[_Delays, Array]:
        """From ``[inputs, neurons]`` arrays; also the weights of the new inputs."""
        steps, inputs, columns, rows, begin = [], [], [], [], 0
        for step in np.unique(delay).tolist():
            delayed = np.where(delay == step, weight, 0)
            used = np.flatnonzero(delayed.any(1))
            if len(used):
                steps.append(step)
                inputs.append(used)
                columns.append(slice(begin, begin + len(used)))
                rows.append(delayed[used])
                begin += len(used)
        return _Delays(steps, inputs, columns), np.concatenate(rows or [weight[:0]])

    def late(self, x: Array, carry: _Carry | None) -> Array:
        """The new inputs at each step of ``x``, and in ``carry`` what the next call needs of it."""
        size = self.columns[-1].stop if self.columns else 0
        longest = max(self.steps, default=0)
        before = np.zeros((len(x), longest, x.shape[2]), x.dtype)
        if carry is not None and carry.past is not None:
            before = carry.past
        both = np.concatenate([before, x], axis=1)
        out = np.empty((*x.shape[:2], size), x.dtype)
        for step, inputs, columns in zip(self.steps, self.inputs, self.columns, strict=True):
            out[:, :, columns] = both[:, longest - step : both.shape[1] - step, inputs]
        if carry is not None:
            carry.past = both[:, both.shape[1] - longest :]
        return out


def _by_neuron(layer: Dense) -> npt.NDArray[np.int32] | None:
    """The delay of each neuron, where all its synapses share it and it stays at rest until its first input.

    Such a neuron does the same without the delay, only earlier: from rest, its traces are moved instead of its inputs.
    """
    assert layer.delay is not None
    assert isinstance(layer.neuron, Neuron)  # others are refused
    if (layer.delay != layer.delay[:, :1]).any() or layer.neuron.bias.any():
        return None
    return np.ascontiguousarray(layer.delay[:, 0], np.int32)


class _Pool:
    """Threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, work: Callable[..., Any], jobs: Iterable[tuple[int, int]]) -> list[Any]:
        """``work(*job)`` of each job."""
        if self._executor is None:
            return [work(*job) for job in jobs]
        return list(self._executor.map(lambda job: work(*job), jobs))

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown()


#: Spikes and synaptic operations of one layer at each step, int64 ``[2, S]``.
_Counts = npt.NDArray[np.int64]

#: What a stage's kernel needs beside the samples; the arguments that all kernels share come after it.
_Kernel = Callable[..., None]


class _Stage:
    """One layer, laid out for its kernel.

    Args:
        layer: the layer.
        order: position in the layer's input, flattened, of each entry of the rows that arrive.
    """

    def __init__(self, layer: Layer, order: Array) -> None:
        self.layer = layer
        self.size = math.prod(layer.shape)
        self.pitch = _up(self.size, vectors.REACH)  # entries of an outgoing row
        self.recurrent = isinstance(layer, Dense) and layer.recurrent is not None
        self.order = np.arange(self.size)  # of the outgoing rows
        self._blocked: tuple[int, ...] | None = None
        self._delays: _Delays | None = None
        self._postponed: npt.NDArray[np.int32] | None = None  # delay of each neuron, see _by_neuron
        self._kernel: _Kernel
        self._arguments: tuple[Any, ...]
        self._prompt: tuple[Any, ...] | None = None  # the same without delays
        if isinstance(layer, InputNeurons):
            self.order = order
            self._kernel, self._arguments = kernels.run_input, ()
        elif isinstance(layer, Dense):
            weight = layer.weight.T[order]
            if layer.delay is not None:
                self._postponed = _by_neuron(layer)
                if self._postponed is not None:
                    self._prompt = _dense_arguments(layer, weight)
                self._delays, weight = _Delays.of(layer.delay.T[order], weight)
            self._kernel, self._arguments = kernels.run_dense, _dense_arguments(layer, weight)
        else:
            channels, height, width = layer.shape
            self._blocked = (layer.groups, height, width, channels // layer.groups)
            by_group = np.arange(self.size).reshape(layer.groups, channels // layer.groups, height, width)
            self.order = by_group.transpose(0, 2, 3, 1).reshape(-1)
            self._kernel, self._arguments = kernels.run_conv, _conv_arguments(layer, order)
        self._law = _law(layer, self.order, self.pitch)

    @property
    def in_order(self) -> bool:
        """Whether rows are in the order of the layer's shape."""
        return self._blocked is None

    def restored(self, block: Array) -> Array:
        """``block`` ``[N, S, neurons or padded neurons]`` as ``[N, S, *shape]``."""
        block = block[:, :, : self.size]
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
        graded: bool = False,
        pool: _Pool | None = None,
    ) -> _Counts:
        """Run rows ``x`` into ``spikes`` ``[N, S, pitch]`` and, where given, traces of u and v ``[N, S, neurons]``.

        Each sample starts from rest, or the only one from ``carry``. ``graded``: messages may be other than 0 and 1.
        ``pool``: threads that may share the neurons of each sample.

        Returns:
            Spikes and synaptic operations at each step; those of recurrent synapses apart.
        """
        trace_u, trace_v = states or (_NO_TRACE, _NO_TRACE)
        state = carry or _Carry.rest(self.pitch)
        rows, arguments = x, self._arguments
        postponed = self._postponed if carry is None and not reset_every else None
        if postponed is not None:
            assert self._prompt is not None
            arguments = self._prompt
        elif self._delays is not None:
            rows = self._delays.late(x, carry)

        def work(*part: int) -> _Counts:
            counts = np.zeros((2, x.shape[1]), np.int64)
            self._kernel(
                rows,
                graded,
                *arguments,
                *part,
                self._law,
                start,
                reset_every,
                carry is None,
                state.u,
                state.v,
                state.last,
                spikes,
                counts[0],
                counts[1],
                states is not None,
                trace_u,
                trace_v,
            )
            return counts

        if not isinstance(self.layer, Conv):
            counts = work()
        else:
            lines = self.layer.groups * self.layer.shape[1]
            share = pool is not None and x.shape[0] * x.shape[1] * self.size >= _WORTH_SHARING
            bounds = [lines * i // pool.threads for i in range(pool.threads + 1)] if pool and share else [0, lines]
            jobs = [(bounds[i], bounds[i + 1]) for i in range(len(bounds) - 1)]
            counts = np.sum(pool.map(work, jobs) if pool and share else [work(*job) for job in jobs], axis=0)
        if postponed is not None:
            kernels.postpone(spikes, postponed, counts[0])
            for trace in states or ():
                kernels.postpone(trace, postponed, np.zeros_like(counts[0]))
        if self._delays is not None:  # a message counts when it is sent, with all synapses behind it
            counts[1] = np.count_nonzero(x, axis=(0, 2)) * self.size
        return counts

    def compile(self, x_type: np.dtype[Any]) -> None:
        """Compile the kernel, or load it, for rows of ``x_type`` by running it on no samples."""
        inputs = math.prod(self.layer.input_shape)
        self.advance(np.zeros((0, 0, inputs), x_type), np.zeros((0, 0, self.pitch), np.uint8), None)
        if self._postponed is not None:  # of u and v
            kernels.postpone(_NO_TRACE, self._postponed, np.zeros(0, np.int64))


_NO_TRACE: npt.NDArray[np.int32] = np.zeros((0, 0, 0), np.int32)


def _up(size: int, to: int) -> int:
    """``size`` rounded up to a multiple of ``to``."""
    return -(-size // to) * to


def _padded(array: Array, width: int) -> Array:
    """``array`` with zeros appended to its last axis, in C order, aligned to the lines of the cache."""
    shape = (*array.shape[:-1], width)
    bytes_needed = math.prod(shape) * array.itemsize
    raw = np.zeros(bytes_needed + _LINE, np.uint8)
    begin = -raw.ctypes.data % _LINE
    out = raw[begin : begin + bytes_needed].view(array.dtype).reshape(shape)
    out[..., : array.shape[-1]] = array
    return out


def _law(layer: Layer, order: Array, size: int) -> kernels.Law:
    parameters = {name: array.reshape(-1)[order] for name, array in layer.neuron.expanded(layer.shape).items()}
    threshold, decay_u, decay_v = (parameters[name] for name in ("threshold", "current_decay", "voltage_decay"))
    unity = limits.DECAY_UNITY
    return kernels.Law(
        threshold=_padded(threshold << limits.STATE_SHIFT, size),
        bias=_padded(parameters["bias"] << limits.BIAS_EXPONENT, size),
        factor_u=_padded((unity - decay_u) / unity, size),
        factor_v=_padded((unity - decay_v) / unity, size),
        uniform=all(len(array) and (array == array[0]).all() for array in (threshold, decay_u, decay_v)),
        memoryless=bool((decay_u == unity).all()),
    )


def _flush(weight: Array) -> int:
    """How many rows of ``weight`` can be summed in 16 bits, whichever they are."""
    return _INT16_MAX // max(1, int(np.abs(weight.astype(np.int32)).max(initial=0)))


def _narrow(*weights: Array) -> type[np.signedinteger[Any]]:
    """The narrowest type that holds all of these."""
    low, high = min(int(w.min(initial=0)) for w in weights), max(int(w.max(initial=0)) for w in weights)
    return np.int8 if low >= -128 and high <= 127 else np.int16


def _dense_arguments(layer: Dense, weight: Array) -> tuple[Any, ...]:
    recurrent = np.zeros((0, layer.shape[0]), np.int32) if layer.recurrent is None else layer.recurrent.T
    kind, width = _narrow(weight, recurrent), _up(layer.shape[0], vectors.TILES[-1])
    return (
        _padded(weight.astype(kind), width),
        _padded(weight.sum(0, dtype=np.int32), width),
        _flush(weight),
        _padded(recurrent.astype(kind), width),
        _flush(recurrent),
        layer.shape[0],
    )


def _conv_arguments(layer: Conv, order: Array) -> tuple[Any, ...]:
    _, height, width = layer.input_shape
    channels_out, per_group, kernel_h, kernel_w = layer.weight.shape
    groups, per_group_out = layer.groups, channels_out // layer.groups
    (pad_h, pad_w), (dilation_h, dilation_w) = layer.padding, layer.dilation
    field_h, field_w = height + 2 * pad_h, width + 2 * pad_w

    rows = layer.weight.reshape(groups, per_group_out, per_group, kernel_h, kernel_w)
    rows = rows.transpose(0, 3, 4, 2, 1)  # [group, kernel row, kernel column, channel in, channel out]
    rows = rows.reshape(groups, kernel_h * kernel_w * per_group, per_group_out)
    padded = _up(per_group_out, vectors.TILES[-1])

    channel, pixel = np.divmod(order, height * width)
    group, channel = np.divmod(channel, per_group)
    y, x = np.divmod(pixel, width)
    position = ((group * field_h + y + pad_h) * field_w + x + pad_w) * per_group + channel
    row = field_w * per_group
    together = kernel_w if dilation_w == 1 else 1  # kernel columns that are neighbours in the field
    stretches = np.add.outer(
        np.arange(kernel_h) * dilation_h * row, np.arange(0, kernel_w, together) * dilation_w * per_group
    )
    patches = kernels.Patches(
        position=position.astype(np.uint32),
        fan_out=layer.fan_out().reshape(-1)[order],
        field=groups * field_h * row,
        group=field_h * row,
        row=layer.stride[0] * row,
        column=layer.stride[1] * per_group,
        stretches=stretches.reshape(-1).astype(np.int64),
        length=together * per_group,
        shape=(groups, layer.shape[1], layer.shape[2], per_group_out),
        wraps=layer.largest_sum(1) >= 1 << (limits.CONV_SUM_BITS - 1),
    )
    return (
        _padded(rows.astype(_narrow(rows)), padded),
        _padded(rows.sum(1, dtype=np.int32), padded),
        _flush(rows),
        _table(rows, padded),
        patches,
    )


def _table(rows: Array, width: int) -> npt.NDArray[np.int16]:
    """``[groups, 256 * bytes, width]``: the response to each pattern of eight inputs, for small patches only."""
    groups, patch, channels = rows.shape
    eights = -(-patch // 8)
    if patch > _PATTERN_BITS or 2 * groups * eights * 256 * width > _TABLE_BYTES:
        return np.zeros((groups, 0, width), np.int16)
    inputs = np.zeros((groups, 8 * eights, channels), np.int64)
    inputs[:, :patch] = rows
    patterns = np.arange(256)[:, None] >> np.arange(8) & 1
    table = patterns @ inputs.reshape(groups, eights, 8, channels)
    return _padded(table.astype(np.int16).reshape(groups, eights * 256, channels), width)


def _stages(layers: Sequence[Layer], x_type: np.dtype[Any]) -> list[_Stage]:
    """The layers, compiled, for input rows of that type."""
    stages: list[_Stage] = []
    order = np.arange(math.prod(layers[0].input_shape))
    for layer in layers:
        if not isinstance(layer.neuron, Neuron):
            kind = type(layer.neuron).__name__
            raise UnsupportedError(
                f"{layer.name}: neurons of kind {kind}, which the event simulator does not know; use reference or lava"
            )
        stages.append(_Stage(layer, order))
        stages[-1].compile(x_type)
        order, x_type = stages[-1].order, np.dtype(np.uint8)
    return stages


def _row_type(messages: Array) -> np.dtype[Any]:
    """Bytes stay bytes, everything else becomes int32."""
    return np.dtype(np.uint8 if messages.dtype in (np.bool_, np.uint8) else np.int32)


def _rows(messages: Array, steps: int) -> tuple[Array, bool]:
    """``messages`` ``[N, T, *shape]`` as rows ``[N, steps, inputs]``, silent from T on; a view if possible.

    Returns:
        The rows, and whether any message may be other than 0 and 1.
    """
    samples, given = messages.shape[:2]
    size = math.prod(messages.shape[2:])
    kind = _row_type(messages)
    if messages.dtype == np.bool_:
        messages = messages.view(np.uint8)
    # numba compiles anew for read-only arrays
    if given == steps and messages.dtype == kind and messages.flags.c_contiguous and messages.flags.writeable:
        rows = messages.reshape(samples, steps, size)
    else:
        rows = np.zeros((samples, steps, size), kind)
        rows[:, :given] = messages.reshape(samples, given, size)
    return rows, kind != np.uint8 or bool(rows.max(initial=0) > 1)


def _threads(asked: int) -> int:
    config: Any = numba.config
    return asked or int(config.NUMBA_NUM_THREADS)  # by default the processors that this process may use


def _row_bytes(stages: Sequence[_Stage], x_type: np.dtype[Any]) -> int:
    """Bytes of the largest array of one step of one sample."""
    return max(x_type.itemsize * math.prod(stages[0].layer.input_shape), *(stage.pitch for stage in stages))


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
    x_type = _row_type(messages)
    stage = _stages([layer], x_type)[0]
    samples, steps = messages.shape[:2]
    spikes = np.empty((samples, steps, *layer.shape), np.uint8)
    u, v = (np.empty((samples, steps if states else 0, stage.size), np.int32) for _ in range(2))

    def work(low: int, high: int) -> None:
        x, graded = _rows(messages[low:high], steps)
        traces = (u[low:high], v[low:high]) if states else None
        rows = np.empty((high - low, steps, stage.pitch), np.uint8)
        stage.advance(x, rows, traces, start, reset_every, graded=graded)
        spikes[low:high] = stage.restored(rows)

    with _Pool(threads) as pool:
        pool.map(work, _blocks(samples, steps * _row_bytes([stage], x_type), threads))
    return spikes, stage.restored(u), stage.restored(v)


class _Recorder:
    """Counts, and the traces that were asked for, filled block by block."""

    def __init__(self, net: ChipNet, record: Record, samples: int) -> None:
        lead = (samples, net.window)
        shapes = {layer.name: (*lead, *layer.shape) for layer in net.layers}
        self.spikes = {name: np.zeros(shapes[name], np.uint8) for name in shapes if name in record.spikes}
        self.u = {name: np.zeros(shapes[name], np.int32) for name in shapes if name in record.states}
        self.v = {name: np.zeros(shapes[name], np.int32) for name in self.u}
        self.fired = {name: np.zeros(net.window, np.int64) for name in shapes}
        self.operations = {name: np.zeros(net.window, np.int64) for name in shapes}

    def add(self, stage: _Stage, counts: _Counts) -> None:
        """Counts of whole windows."""
        name = stage.layer.name
        fired, operations = counts.reshape(2, -1, len(self.fired[name])).sum(1)
        self.fired[name] += fired
        self.operations[name] += operations + (fired * stage.size if stage.recurrent else 0)


def _run_samples(stages: Sequence[_Stage], messages: Array, window: int, keep: _Recorder, threads: int) -> None:
    """Samples from rest, each a window of its own; threads share samples, or the neurons of too few."""
    blocks = _blocks(len(messages), _row_bytes(stages, _row_type(messages)) * window, threads)
    share = len(blocks) < threads

    def work(low: int, high: int) -> list[_Counts]:
        x, graded = _rows(messages[low:high], window)
        counts = []
        for stage in stages:
            name, lead = stage.layer.name, (high - low, window)
            spikes, states = np.empty((*lead, stage.pitch), np.uint8), None
            if name in keep.u:
                u, v = keep.u[name][low:high], keep.v[name][low:high]
                if stage.in_order:
                    states = u.reshape(*lead, stage.size), v.reshape(*lead, stage.size)
                else:
                    states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            counts.append(stage.advance(x, spikes, states, graded=graded, pool=pool if share else None))
            if name in keep.spikes:
                keep.spikes[name][low:high] = stage.restored(spikes)
            if states is not None and not stage.in_order:
                u[:], v[:] = stage.restored(states[0]), stage.restored(states[1])
            x, graded = spikes, False
        return counts

    with _Pool(threads) as pool:
        for counts in [work(*block) for block in blocks] if share else pool.map(work, blocks):
            for stage, count in zip(stages, counts, strict=True):
                keep.add(stage, count)


def _run_chain(
    stages: Sequence[_Stage], messages: Array, window: int, reset_every: int, keep: _Recorder, pool: _Pool
) -> None:
    """Samples one after the other in one run; state, and spikes of recurrent layers, pass from block to block."""
    samples = len(messages)
    carries = [_Carry.rest(stage.pitch) for stage in stages]
    for low, high in _blocks(samples, _row_bytes(stages, _row_type(messages)) * window, 1) or [(0, 0)]:
        x, graded = _rows(messages[low:high], window)
        x = x.reshape(1, (high - low) * window, x.shape[2])
        start = low * window
        for stage, carry in zip(stages, carries, strict=True):
            name = stage.layer.name
            if low == 0 and not isinstance(stage.layer, InputNeurons):
                # The pipeline fills: as in Lava, layer k runs k + 1 steps before its data arrive.
                start -= 1
                x = np.concatenate([np.zeros_like(x[:, :1], shape=(1, 1, x.shape[2])), x], axis=1)
            lead = (1, x.shape[1])
            spikes, states = np.empty((*lead, stage.pitch), np.uint8), None
            if name in keep.u:
                states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            early = max(0, -start)
            keep.add(stage, stage.advance(x, spikes, states, start, reset_every, carry, graded, pool)[:, early:])
            if name in keep.spikes:
                fires = keep.spikes[name][low:high]
                fires[:] = stage.restored(spikes[:, early:]).reshape(fires.shape)
            if states is not None:
                for target, trace in zip((keep.u[name], keep.v[name]), states, strict=True):
                    target[low:high] = stage.restored(trace[:, early:]).reshape(target[low:high].shape)
            x, graded = spikes, False


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
        threads: 0 takes as many as there are processors (``NUMBA_NUM_THREADS`` where that is set). They share the
            samples, or the neurons of convolutions where samples are few or state passes from one to the next.
    """
    check_mode(mode)
    began = time.perf_counter()
    check_messages(net, messages)
    stages = _stages(net.layers, _row_type(messages))
    compiled = time.perf_counter()
    keep = _Recorder(net, record or Record.readout(net), len(messages))
    # Without recurrence and delays a reset leaves nothing of the window before, nor of the steps before the first one.
    if mode == "isolated" or (mode == "windowed" and not net.leaks):
        _run_samples(stages, messages, net.window, keep, _threads(threads))
    else:
        with _Pool(_threads(threads)) as pool:
            _run_chain(stages, messages, net.window, net.window if mode == "windowed" else 0, keep, pool)
    ended = time.perf_counter()
    return Traces(
        keep.spikes, keep.u, keep.v, keep.fired, keep.operations, ended - compiled, overhead_seconds=compiled - began
    )
