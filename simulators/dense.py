"""Dense simulator: matrix products of torch carry the integers, on the processor or on a GPU.

Equal to :mod:`snn2chip.simulators.reference` in every spike, u and v. Its cost hardly depends on how much the network
fires: it is made for GPUs, and on a processor it serves where most neurons fire most of the time and as a second
implementation that shares nothing with the event simulator. Why floating point is exact here:

- Every product and every partial sum is an integer. While the bound of a layer's sums (:meth:`Dense.largest_sum`) is
  below 2^24, float32 holds all of them whatever the order of summation; beyond it float64 does, up to 2^53. Weights and
  spikes that fit 8 bits go through integer products, where torch has them for the device and they are faster.
- Convolutions are summed directly or as one matrix product over their taps. Algorithms that transform their input
  (Winograd, FFT), which torch and cuDNN choose as they see fit, would round.
- Graded messages between layers have up to 32 bits and no useful bound: they are summed in float64, in two halves of 16
  bits where a layer is so large that 53 bits might not do.
- Delayed synapses are one product for each delay, over the inputs and neurons that have it, added to the sums of the
  step in which they arrive.
- States are kept in types that hold every product, and wrap as Lava's do: :mod:`snn2chip.simulators.dense_neurons`.
- torch's settings and the tests of what it computes: :mod:`snn2chip.simulators.dense_arithmetic`.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snn2chip.chip import ChipNet, InputNeurons
from snn2chip.errors import EnvironmentFailure, UsageError
from snn2chip.simulators import dense_arithmetic as arithmetic
from snn2chip.simulators.dense_arithmetic import BLOCK_BYTES, Tensor
from snn2chip.simulators.dense_layers import LARGEST_MESSAGE, Messages, Stage, largest_message
from snn2chip.traces import Mode, Record, Traces, check_messages, check_mode

Array = npt.NDArray[Any]

_LEAST_SAMPLES = 32  # of a chunk, before threads want several
_BLOCK_STEPS = 16  # of a block; samples take what is left, since each step is one round of calls for all of them


class _Recorder:
    """Counts, and the traces that were asked for, on the host."""

    def __init__(self, net: ChipNet, record: Record, samples: int) -> None:
        self.window = net.window
        self._lock = threading.Lock()
        lead = (samples, net.window)
        shapes = {layer.name: (*lead, *layer.shape) for layer in net.layers}
        self.spikes = {
            layer.name: np.zeros(shapes[layer.name], np.int32 if layer.neuron.graded else np.uint8)
            for layer in net.layers
            if layer.name in record.spikes
        }
        self.u = {name: np.zeros(shapes[name], np.int32) for name in shapes if name in record.states}
        self.v = {name: np.zeros(shapes[name], np.int32) for name in self.u}
        self.fired = {name: np.zeros(net.window, np.int64) for name in shapes}
        self.operations = {name: np.zeros(net.window, np.int64) for name in shapes}

    def add(self, counts: Array, start: int, per_step: Array) -> None:
        """``per_step``, of which the first is at layer time ``start``, to ``counts``; what is before 0 is left out."""
        steps = np.arange(start, start + len(per_step))
        with self._lock:
            np.add.at(counts, steps[steps >= 0] % self.window, per_step[steps >= 0])

    def store(self, target: Array, chunk: _Chunk, start: int, block: Tensor) -> None:
        """``block`` ``[steps, samples, neurons]``, of which the first step is at layer time ``start``."""
        early = max(0, -start)
        traces = block[early:].transpose(0, 1).cpu().numpy()
        if chunk.chained:
            flat = target.reshape(-1, *target.shape[2:])  # one run over all samples
            flat[start + early : start + len(block)] = traces[0].reshape(-1, *target.shape[2:])
        else:
            part = target[chunk.low : chunk.high, start : start + len(block)]
            part[:] = traces.reshape(part.shape)


@dataclass(frozen=True)
class _Chunk:
    """Samples ``low`` to ``high`` in blocks of steps, side by side, or all one after the other (``chained``)."""

    low: int
    high: int
    steps: int
    chained: bool

    @property
    def width(self) -> int:
        """Runs that are computed side by side."""
        return 1 if self.chained else self.high - self.low


def _distinct(block: Array) -> tuple[list[int], list[int]]:
    """Steps of ``block`` ``[samples, steps, ...]`` that differ from the one before, and which of them each step is."""
    kept, index = [0], [0]
    for t in range(1, block.shape[1]):
        now, before = block[:, t], block[:, t - 1]
        # The first sample nearly always tells, and costs nothing.
        if not (np.array_equal(now[0], before[0]) and np.array_equal(now, before)):
            kept.append(t)
        index.append(len(kept) - 1)
    return kept, index


class _Input:
    """The user's messages as blocks on the device."""

    def __init__(self, net: ChipNet, messages: Array, device: torch.device) -> None:
        self.messages = messages.reshape(*messages.shape[:2], math.prod(net.input_shape))
        self.window = net.window
        self.device = device
        largest = max(int(messages.max(initial=0)), -int(messages.min(initial=0))) if messages.size else 0
        self.largest = min(largest, LARGEST_MESSAGE)  # what has more than 32 bits wraps
        self.fan_out = net.layers[0].fan_out().reshape(-1)
        # Narrow on the way to the device.
        self._type = np.int8 if self.largest < 1 << 7 else np.int16 if self.largest < 1 << 15 else np.int32

    def block(self, chunk: _Chunk, low: int, high: int, dtype: torch.dtype) -> tuple[Messages, Array]:
        """Steps ``low`` to ``high`` of a chunk, silent beyond the messages' last; synaptic operations of each."""
        if chunk.chained:
            steps = np.arange(low, high)
            given = steps % self.window < self.messages.shape[1]
            block = np.zeros((1, high - low, self.messages.shape[2]), self._type)
            block[0, given] = self.messages[steps[given] // self.window, steps[given] % self.window]
        else:
            block = self.messages[chunk.low : chunk.high, low:high]
            missing = high - low - block.shape[1]
            if missing:
                silent = np.zeros_like(block, shape=(chunk.width, missing, block.shape[2]))
                block = np.concatenate([block, silent], axis=1)
        kept, index = _distinct(block)
        if len(kept) < len(index):
            block = block[:, kept]
        rows = np.array(block.swapaxes(0, 1), self._type, order="C")
        return Messages(torch.from_numpy(rows).to(self.device).to(dtype), index), self._operations(rows)[index]

    def _operations(self, rows: npt.NDArray[Any]) -> Array:
        if (self.fan_out == self.fan_out[:1]).all():  # one number a step is far quicker counted than one for each input
            return np.multiply([np.count_nonzero(row) for row in rows], self.fan_out[0])
        operations: Array = np.count_nonzero(rows, axis=1) @ self.fan_out
        return operations


def _chunks(stages: Sequence[Stage], samples: int, window: int, chained: bool, threads: int) -> list[_Chunk]:
    """Samples side by side and the steps of a block, so that no array of one layer and block is larger than allowed."""
    device = stages[0].device
    inputs = math.prod(stages[0].layer.input_shape)
    rows = max(1, BLOCK_BYTES[device.type] // (4 * max(inputs, *(stage.size for stage in stages))))
    if chained:
        return [_Chunk(0, samples, rows, True)]
    # Several for each thread, so that none waits long, unless they would be tiny.
    longest = max(stage.longest_delay for stage in stages)
    width = max(
        1, min(rows // (min(window, _BLOCK_STEPS) + longest), max(_LEAST_SAMPLES, -(-samples // (4 * threads))))
    )
    steps = max(1, min(window, rows // width))
    return [_Chunk(low, min(samples, low + width), steps, False) for low in range(0, samples, width)]


def _each(jobs: Sequence[_Chunk], work: Callable[[_Chunk], None], threads: int) -> None:
    """``work`` on each job: side by side with one thread of torch each, or one job with all of them.

    torch divides single operations among threads that wait for each other after each one, which costs more than it
    gains on small arrays, and far more where another program needs a core.
    """
    if threads <= 1 or len(jobs) <= 1:
        for job in jobs:
            work(job)
        return

    def alone(job: _Chunk) -> None:
        with torch.inference_mode():  # a property of the thread, as is autocast, which starts switched off
            work(job)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, len(jobs))) as pool:
            for _ in pool.map(alone, jobs):
                pass
    finally:
        torch.set_num_threads(before)


def _device(asked: str | None) -> torch.device:
    if asked is None:
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    if asked.partition(":")[0] not in BLOCK_BYTES:
        raise UsageError(f"device: {asked!r} is unknown, expected {' or '.join(BLOCK_BYTES)}")
    if asked != "cpu" and not torch.cuda.is_available():
        raise EnvironmentFailure(f"dense simulator: torch {torch.__version__} finds no CUDA device; use device='cpu'")
    return torch.device(asked)


def _run_chunk(stages: Sequence[Stage], data: _Input, chunk: _Chunk, reset: bool, keep: _Recorder) -> None:
    """Block by block of steps through all layers; u, v and own spikes pass from one to the next."""
    window = keep.window
    carries = [stage.rest(chunk.width) for stage in stages]
    total = chunk.high * window if chunk.chained else window
    for low in range(0, total, chunk.steps):
        start = low
        x, operations = data.block(chunk, low, min(total, low + chunk.steps), stages[0].dtype)
        for i, (stage, carry) in enumerate(zip(stages, carries, strict=True)):
            name = stage.layer.name
            keep.add(keep.operations[name], start, operations)
            if chunk.chained and low == 0 and not isinstance(stage.layer, InputNeurons):
                # The pipeline fills: as in Lava, layer k runs k + 1 steps before its data arrive.
                start -= 1
                x = x.after_silence()
            drive = stage.drive(x, carry, start, window if reset else 0)
            if drive is None:  # later layers no longer matter, nor what this one sends
                break
            shape = (len(x.index), chunk.width, stage.size)
            states = None
            if name in keep.u:
                u, v = (torch.empty(shape, dtype=torch.int32, device=stage.device) for _ in range(2))
                states = u, v
            following = stages[i + 1] if i + 1 < len(stages) else None
            kept = torch.int32 if stage.layer.neuron.graded else torch.uint8
            sent = torch.empty(shape, dtype=kept if following is None else following.dtype, device=stage.device)
            arrived = stage.neurons.advance(drive, carry.state, sent, states)
            fired = arrived.sum(1).cpu().numpy()
            keep.add(keep.fired[name], start, fired)
            if stage.recurrent:
                keep.add(keep.operations[name], start, fired * stage.size)
            if name in keep.spikes:
                keep.store(keep.spikes[name], chunk, start, sent.to(kept))
            if states is not None:
                keep.store(keep.u[name], chunk, start, states[0])
                keep.store(keep.v[name], chunk, start, states[1])
            if following is not None:
                operations = (arrived * following.fan_out).sum(1).cpu().numpy()
            x = Messages(sent, list(range(len(sent))))


def run(
    net: ChipNet,
    messages: Array,
    mode: Mode = "isolated",
    record: Record | None = None,
    *,
    device: str | None = "cpu",
    threads: int = 0,
) -> Traces:
    """Simulate ``net`` on ``messages`` ``[N, T, *input_shape]``; see :mod:`snn2chip.traces` for the contract.

    Memory grows with what is recorded, not with the samples. ``seconds`` is the simulation; the test of the arithmetic
    and the layout of the weights are ``overhead_seconds``. Runs in one process wait for each other, because torch's
    settings belong to the process.

    Args:
        net: the network.
        messages: integers; steps that repeat the one before are summed once.
        mode: see :data:`snn2chip.traces.Mode`. Where state passes from sample to sample there is little to do at once.
        record: what to keep; what the readout needs, by default.
        device: ``cpu``, ``cuda``, or None for a GPU where there is one.
        threads: of torch on the processor; 0 leaves its setting alone.

    Raises:
        EnvironmentFailure: torch does not compute exactly on this device, or there is no such device.
        LimitError: graded messages make a sum larger than Lava computes exactly.
    """
    check_mode(mode)
    check_messages(net, messages)
    place = _device(device)
    with arithmetic.exact_arithmetic(place, threads):
        began = time.perf_counter()
        arithmetic.check_exactness(place)
        if any(layer.neuron.graded for layer in net.layers):
            arithmetic.check_wrapping(place)
        # Unless something outlives it, a reset leaves nothing of the window before, nor of the steps before the first.
        chained = mode == "streaming" or (mode == "windowed" and net.leaks)
        data = _Input(net, messages, place)
        steps = 0 if mode == "streaming" else net.window
        largest, stages = data.largest, []
        for layer in net.layers:
            stages.append(Stage(layer, largest, steps, place))
            largest = largest_message(layer.neuron)
        ready = time.perf_counter()
        keep = _Recorder(net, record or Record.readout(net), len(messages))
        workers = 1 if place.type == "cuda" else torch.get_num_threads()
        chunks = _chunks(stages, len(messages), net.window, chained, workers)
        _each(chunks, lambda chunk: _run_chunk(stages, data, chunk, mode == "windowed", keep), workers)
        for stage in stages:
            stage.check()
        ended = time.perf_counter()
    return Traces(
        keep.spikes, keep.u, keep.v, keep.fired, keep.operations, ended - ready, overhead_seconds=ready - began
    )
