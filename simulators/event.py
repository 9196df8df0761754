"""Event-driven simulator: the integer law with work proportional to messages, compiled by numba.

Equal to :mod:`snn2chip.simulators.reference` in every message, u and v. How the work is kept small:

- A message adds one row of the transposed weights (dense), or contiguous runs of kernel columns (convolution), to the
  sums of its step; a step of spikes denser than one half starts from the response to all inputs and subtracts the
  absent ones. Sums of spikes are taken in 16 bits and widened before they can overflow.
- A graded input that repeats itself (direct coding presents the same image at each step) is summed once.
- Where nothing arrives, sigma-delta neurons rest: a step costs no more than to see that.
- A block of samples goes through all layers before the next one starts, so that spikes stay in the processor's cache
  and memory stays bounded; only recorded layers are kept whole. Threads take blocks in turn.
- Neurons of a convolution are ordered ``[group, y, x, channel]`` inside; what is recorded is put back in order.

Compiled code is cached on disk next to this file, or in the user's cache folder where that is read-only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, InputNeurons, Layer
from snn2chip.errors import LimitError
from snn2chip.simulators.event_stages import Pool, Stage, Tally, lay_out
from snn2chip.traces import Mode, Record, Traces, check_messages, check_mode

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 20  # of the largest array of a block of samples, so that what is in use fits the caches


def make_stages(layers: Sequence[Layer], x_type: np.dtype[Any]) -> list[Stage]:
    """The layers, compiled, for input rows of that type."""
    stages: list[Stage] = []
    order = np.arange(math.prod(layers[0].input_shape))
    for layer in layers:
        stages.append(lay_out(layer, order))
        stages[-1].compile(x_type)
        order, x_type = stages[-1].order, stages[-1].message_type
    return stages


def row_type(messages: Array) -> np.dtype[Any]:
    """Bytes stay bytes, everything else becomes int32."""
    return np.dtype(np.uint8 if messages.dtype in (np.bool_, np.uint8) else np.int32)


def _rows(messages: Array, steps: int) -> tuple[Array, bool]:
    """``messages`` ``[N, T, *shape]`` as rows ``[N, steps, inputs]``, silent from T on; a view if possible.

    Returns:
        The rows, and whether any message may be other than 0 and 1.
    """
    samples, given = messages.shape[:2]
    size = math.prod(messages.shape[2:])
    kind = row_type(messages)
    if messages.dtype == np.bool_:
        messages = messages.view(np.uint8)
    # numba compiles anew for read-only arrays
    if given == steps and messages.dtype == kind and messages.flags.c_contiguous and messages.flags.writeable:
        rows = messages.reshape(samples, steps, size)
    else:
        rows = np.zeros((samples, steps, size), kind)
        rows[:, :given] = messages.reshape(samples, given, size)
    return rows, kind != np.uint8 or bool(rows.max(initial=0) > 1)


def thread_count(asked: int) -> int:
    """``asked``, or as many as this process may use where that is 0."""
    config: Any = numba.config
    return asked or int(config.NUMBA_NUM_THREADS)


def row_bytes(stages: Sequence[Stage], x_type: np.dtype[Any]) -> int:
    """Bytes of the largest array of one step of one sample."""
    return max(x_type.itemsize * math.prod(stages[0].layer.input_shape), *(stage.row_bytes for stage in stages))


def _blocks(samples: int, bytes_each: int, threads: int) -> list[tuple[int, int]]:
    """Ranges of samples: small enough for the cache, and several for each thread so that none waits long."""
    size = max(1, min(_BLOCK_BYTES // max(1, bytes_each), -(-samples // (4 * threads))))
    return [(low, min(samples, low + size)) for low in range(0, samples, size)]


def run_layer(
    layer: Layer, messages: Array, start: int = 0, reset_every: int = 0, states: bool = True, threads: int = 0
) -> tuple[Array, npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Messages, u and v of one layer, each ``[N, S, *shape]``, from messages ``[N, S, *input_shape]``.

    Messages come back as int32 where they are graded, else as bytes.

    Args:
        layer: the layer.
        messages: integers; zeros cost next to nothing.
        start: layer time of the first step; negative while the pipeline fills.
        reset_every: u and v are cleared before each step that is a multiple of it; 0 is never.
        states: without it u and v are not stored, and come back with no steps.
        threads: 0 takes as many as there are processors.

    Raises:
        LimitError: graded messages make a weighted sum of a dense layer too large.
    """
    threads = thread_count(threads)
    x_type = row_type(messages)
    stage = make_stages([layer], x_type)[0]
    samples, steps = messages.shape[:2]
    spikes = np.empty((samples, steps, *layer.shape), stage.message_type)
    u, v = (np.empty((samples, steps if states else 0, stage.size), np.int32) for _ in range(2))

    def work(low: int, high: int) -> Tally:
        x, graded = _rows(messages[low:high], steps)
        traces = (u[low:high], v[low:high]) if states else None
        rows = np.empty((high - low, steps, stage.pitch), stage.message_type)
        tally = stage.advance(x, rows, traces, start, reset_every, graded=graded)
        spikes[low:high] = stage.restored(rows)
        return tally

    with Pool(threads) as pool:
        tallies = pool.map(work, _blocks(samples, steps * row_bytes([stage], x_type), threads))
    if tallies:
        _check_sums(layer, np.max([tally.peaks for tally in tallies], axis=0))
    return spikes, stage.restored(u), stage.restored(v)


def _check_sums(layer: Layer, peaks: npt.NDArray[np.int64]) -> None:
    """Raise what the reference raises for weighted sums as large as ``peaks``."""
    for worst in peaks.tolist():
        if worst >= limits.SUM_LIMIT:
            remedy = "lower the weights, or the scale of the graded messages"
            raise LimitError(layer.name, "weighted sum", worst, limits.SUM_LIMIT - 1, remedy)


class _Recorder:
    """Counts, and the traces that were asked for, filled block by block."""

    def __init__(self, net: ChipNet, record: Record, samples: int) -> None:
        lead = (samples, net.window)
        shapes = {layer.name: (*lead, *layer.shape) for layer in net.layers}
        types = {layer.name: np.int32 if layer.neuron.graded else np.uint8 for layer in net.layers}
        self.spikes = {name: np.zeros(shapes[name], types[name]) for name in shapes if name in record.spikes}
        self.u = {name: np.zeros(shapes[name], np.int32) for name in shapes if name in record.states}
        self.v = {name: np.zeros(shapes[name], np.int32) for name in self.u}
        self.fired = {name: np.zeros(net.window, np.int64) for name in shapes}
        self.operations = {name: np.zeros(net.window, np.int64) for name in shapes}
        self.peaks: dict[str, npt.NDArray[np.int64]] = {}

    def add(self, stage: Stage, tally: Tally, early: int = 0) -> None:
        """What happened in whole windows, from step ``early`` on."""
        name = stage.layer.name
        fired, operations = tally.counts[:, early:].reshape(2, -1, len(self.fired[name])).sum(1)
        self.fired[name] += fired
        self.operations[name] += operations + (fired * stage.size if stage.recurrent else 0)
        self.peaks[name] = np.maximum(self.peaks.get(name, 0), tally.peaks)

    def check_sums(self, layers: Iterable[Layer]) -> None:
        """Raise :class:`LimitError` for the first layer in which a sum was too large: what follows is worth nothing."""
        for layer in layers:
            if layer.name in self.peaks:
                _check_sums(layer, self.peaks[layer.name])


def _run_samples(stages: Sequence[Stage], messages: Array, window: int, keep: _Recorder, threads: int) -> None:
    """Samples from rest, each a window of its own; threads share samples, or the neurons of too few."""
    blocks = _blocks(len(messages), row_bytes(stages, row_type(messages)) * window, threads)
    share = len(blocks) < threads

    def work(low: int, high: int) -> list[Tally]:
        x, graded = _rows(messages[low:high], window)
        tallies = []
        for stage in stages:
            name, lead = stage.layer.name, (high - low, window)
            spikes, states = np.empty((*lead, stage.pitch), stage.message_type), None
            if name in keep.u:
                u, v = keep.u[name][low:high], keep.v[name][low:high]
                if stage.in_order:
                    states = u.reshape(*lead, stage.size), v.reshape(*lead, stage.size)
                else:
                    states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            tallies.append(stage.advance(x, spikes, states, graded=graded, pool=pool if share else None))
            if name in keep.spikes:
                keep.spikes[name][low:high] = stage.restored(spikes)
            if states is not None and not stage.in_order:
                u[:], v[:] = stage.restored(states[0]), stage.restored(states[1])
            x, graded = spikes, stage.graded
        return tallies

    with Pool(threads) as pool:
        for tallies in [work(*block) for block in blocks] if share else pool.map(work, blocks):
            for stage, tally in zip(stages, tallies, strict=True):
                keep.add(stage, tally)


def _run_chain(
    stages: Sequence[Stage], messages: Array, window: int, reset_every: int, keep: _Recorder, pool: Pool
) -> None:
    """Samples one after the other in one run; state, and spikes of recurrent layers, pass from block to block."""
    samples = len(messages)
    carries = [stage.rest() for stage in stages]
    for low, high in _blocks(samples, row_bytes(stages, row_type(messages)) * window, 1) or [(0, 0)]:
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
            spikes, states = np.empty((*lead, stage.pitch), stage.message_type), None
            if name in keep.u:
                states = np.empty((*lead, stage.size), np.int32), np.empty((*lead, stage.size), np.int32)
            early = max(0, -start)
            keep.add(stage, stage.advance(x, spikes, states, start, reset_every, carry, graded, pool), early)
            if name in keep.spikes:
                fires = keep.spikes[name][low:high]
                fires[:] = stage.restored(spikes[:, early:]).reshape(fires.shape)
            if states is not None:
                for target, trace in zip((keep.u[name], keep.v[name]), states, strict=True):
                    target[low:high] = stage.restored(trace[:, early:]).reshape(target[low:high].shape)
            x, graded = spikes, stage.graded


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

    Raises:
        LimitError: graded messages make a weighted sum of a dense layer too large; found at the end of the run, so that
            the error names the largest.
    """
    check_mode(mode)
    began = time.perf_counter()
    check_messages(net, messages)
    stages = make_stages(net.layers, row_type(messages))
    compiled = time.perf_counter()
    keep = _Recorder(net, record or Record.readout(net), len(messages))
    # Without recurrence and delays a reset leaves nothing of the window before, nor of the steps before the first one.
    if mode == "isolated" or (mode == "windowed" and not net.leaks):
        _run_samples(stages, messages, net.window, keep, thread_count(threads))
    else:
        with Pool(thread_count(threads)) as pool:
            _run_chain(stages, messages, net.window, net.window if mode == "windowed" else 0, keep, pool)
    keep.check_sums(net.layers)
    ended = time.perf_counter()
    return Traces(
        keep.spikes, keep.u, keep.v, keep.fired, keep.operations, ended - compiled, overhead_seconds=compiled - began
    )
