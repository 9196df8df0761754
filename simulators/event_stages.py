"""One layer of the event simulator: its weights laid out for the kernels, and a block of samples taken through it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Conv, Delta, Dense, InputNeurons, Layer, Neuron, Resonator, Sigma, SigmaDelta
from snn2chip.simulators import event_kernels as kernels
from snn2chip.simulators import event_neurons as neurons
from snn2chip.simulators import event_vectors as vectors

Array = npt.NDArray[Any]

_LINE = 64  # bytes
_WORTH_SHARING = 1 << 15  # neuron updates that take longer than waking a thread
_PATTERN_BITS = 63  # of a patch whose response is looked up; so few weights of 9 bits cannot overflow 16
_TABLE_BYTES = 1 << 18  # of all responses that are looked up, so that they fit the caches


@dataclass
class Carry:
    """State between two calls: u, v and the last spikes, each ``[padded neurons]``, and messages still under way.

    Instead of the last spikes, sigma-delta neurons have what they have not sent yet.
    """

    u: npt.NDArray[np.int32]
    v: npt.NDArray[np.int32]
    last: Array
    past: Array | None = None  # the last rows that arrived, [1, longest delay, inputs]


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

    def late(self, x: Array, carry: Carry | None) -> Array:
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
    shared = (layer.delay == layer.delay[:, :1]).all()
    if not shared or not isinstance(layer.neuron, Neuron) or layer.neuron.bias.any():
        return None
    return np.ascontiguousarray(layer.delay[:, 0], np.int32)


class Pool:
    """Threads."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._executor = ThreadPoolExecutor(threads) if threads > 1 else None

    def map(self, work: Callable[..., Any], jobs: Iterable[tuple[int, int]]) -> list[Any]:
        """``work(*job)`` of each job."""
        if self._executor is None:
            return [work(*job) for job in jobs]
        return list(self._executor.map(lambda job: work(*job), jobs))

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *error: object) -> None:
        if self._executor is not None:
            self._executor.shutdown()


_Counts = npt.NDArray[np.int64]
_Kernel = Callable[..., None]


@dataclass(frozen=True)
class Tally:
    """What a block of samples did in one layer.

    Attributes:
        counts: messages sent and synaptic operations at each step, int64 ``[2, S]``; those of recurrent synapses apart.
        peaks: largest magnitudes of weighted sums of graded messages, int64, right where they are too large, in the
            order in which they matter: of each delay, of real and imaginary weights, or just one. Convolutions have
            none.
    """

    counts: _Counts
    peaks: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Block:
    """What one call of :meth:`Stage.advance` hands to the kernels."""

    rows: Array
    graded: bool
    arguments: tuple[Any, ...]
    sums: list[npt.NDArray[np.int32]]
    peaks: npt.NDArray[np.int64]
    messages: Array
    start: int
    reset_every: int
    from_rest: bool
    state: Carry
    states: tuple[bool, Array, Array]  # whether to keep them, traces of u and v

    def peak(self, which: int) -> npt.NDArray[np.int64] | None:
        """One of the peaks; None where no sum can be too large: numba compiles that apart."""
        return self.peaks[which : which + 1] if self.graded and len(self.peaks) else None


_NO_TRACE: npt.NDArray[np.int32] = np.zeros((0, 0, 0), np.int32)
_NO_PEAKS: npt.NDArray[np.int64] = np.zeros(0, np.int64)


class Stage(ABC):
    """One layer, laid out for its kernels.

    Args:
        layer: the layer.
        order: position in the layer's input, flattened, of each entry of the rows that arrive.
    """

    _sums = 0  # arrays of weighted sums that stand between two kernels

    def __init__(self, layer: Layer, order: Array) -> None:
        self.layer = layer
        self.size = math.prod(layer.shape)
        self.pitch = _up(self.size, vectors.REACH)  # entries of an outgoing row
        self.graded = layer.neuron.graded
        self.message_type = np.dtype(np.int32 if self.graded else np.uint8)
        self.recurrent = isinstance(layer, Dense) and layer.recurrent is not None
        self.order = np.arange(self.size)  # of the outgoing rows
        self._blocked: tuple[int, ...] | None = None
        self.delays: _Delays | None = None
        self._postponed: npt.NDArray[np.int32] | None = None  # delay of each neuron, see _by_neuron
        self._arguments: tuple[Any, ...] = ()  # of the synapses' kernel
        self._prompt: tuple[Any, ...] = ()  # the same without delays
        self._peaks = 0
        if isinstance(layer, InputNeurons):
            self.order = order
        elif isinstance(layer, Dense):
            weight = layer.weight.T[order]
            self._peaks = 1 if layer.imaginary is None else 2
            if layer.delay is not None:
                self._postponed = _by_neuron(layer)
                if self._postponed is not None:
                    self._prompt = self._dense_arguments(layer, weight, order)
                self.delays, weight = _Delays.of(layer.delay.T[order], weight)
                self._peaks = len(self.delays.steps)
            self._arguments = self._dense_arguments(layer, weight, order)
        else:
            channels, height, width = layer.shape
            self._blocked = (layer.groups, height, width, channels // layer.groups)
            by_group = np.arange(self.size).reshape(layer.groups, channels // layer.groups, height, width)
            self.order = by_group.transpose(0, 2, 3, 1).reshape(-1)
            self._arguments = _conv_arguments(layer, order)

    @staticmethod
    @abstractmethod
    def _dense_arguments(layer: Dense, weight: Array, order: Array) -> tuple[Any, ...]:
        """What the kernel of a dense layer needs, for ``weight`` ``[what arrives, neurons]``."""

    @abstractmethod
    def _run(self, block: _Block, part: tuple[int, ...], counts: _Counts) -> None:
        """Run the kernels; ``part``: of a convolution, which output rows (of one group after the other)."""

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

    @property
    def row_bytes(self) -> int:
        """Bytes of the largest array of one step of one sample."""
        return self.pitch * (4 if self._sums else self.message_type.itemsize)

    def rest(self) -> Carry:
        """All zero."""
        zeros = np.zeros(self.pitch, np.int32)
        return Carry(zeros, zeros.copy(), zeros.astype(self.message_type))

    def advance(
        self,
        x: Array,
        messages: Array,
        states: tuple[Array, Array] | None,
        start: int = 0,
        reset_every: int = 0,
        carry: Carry | None = None,
        graded: bool = False,
        pool: Pool | None = None,
    ) -> Tally:
        """Run rows ``x`` into ``messages`` ``[N, S, pitch]`` and, where given, traces of u and v ``[N, S, neurons]``.

        Each sample starts from rest, or the only one from ``carry``. ``graded``: messages may be other than 0 and 1.
        ``pool``: threads that may share the neurons of each sample.
        """
        rows, arguments, peaks = x, self._arguments, np.zeros(self._peaks, np.int64)
        postponed = self._postponed if carry is None and not reset_every else None
        if postponed is not None:
            arguments = self._prompt
        elif self.delays is not None:
            rows = self.delays.late(x, carry)
        block = _Block(
            rows,
            graded,
            arguments,
            [np.zeros((*x.shape[:2], self.pitch), np.int32) for _ in range(self._sums)],
            peaks if self.delays is None else _NO_PEAKS,  # what meets after different delays may be large
            messages,
            start,
            reset_every,
            carry is None,
            carry or self.rest(),
            (states is not None, *(states or (_NO_TRACE, _NO_TRACE))),
        )

        def work(*part: int) -> _Counts:
            counts = np.zeros((2, x.shape[1]), np.int64)
            self._run(block, part, counts)
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
            kernels.postpone(messages, postponed, counts[0])
            for trace in states or ():
                kernels.postpone(trace, postponed, np.zeros_like(counts[0]))
        if self.delays is not None:  # a message counts when it is sent, with all synapses behind it
            counts[1] = np.count_nonzero(x, axis=(0, 2)) * self.size
            if graded and _sum(x) * _largest(self._arguments) >= limits.SUM_LIMIT:
                for which in range(self._peaks):
                    self._look_at(x, which, peaks[which : which + 1])
        return Tally(counts, peaks)

    def _look_at(self, x: Array, which: int, peak: npt.NDArray[np.int64]) -> None:
        """The largest magnitude of what synapses of one delay deliver at a time, into ``peak``."""
        assert self.delays is not None
        weight, flush = self._arguments[0][self.delays.columns[which]], self._arguments[2]
        rows = np.ascontiguousarray(x[:, :, self.delays.inputs[which]])
        sums, operations = np.zeros((*x.shape[:2], 0), np.int32), np.zeros(x.shape[1], np.int64)
        kernels.sum_dense(rows, True, weight, flush, 0, peak, sums, operations)

    def compile(self, x_type: np.dtype[Any]) -> None:
        """Compile the kernels, or load them, for rows of ``x_type`` by running them on no samples."""
        x = np.zeros((0, 0, math.prod(self.layer.input_shape)), x_type)
        self.advance(x, np.zeros((0, 0, self.pitch), self.message_type), None, graded=x_type != np.uint8)
        if self._postponed is not None:  # of u and v
            kernels.postpone(_NO_TRACE, self._postponed, np.zeros(0, np.int64))
        if self.delays is not None and self.delays.steps and x_type != np.uint8:
            self._look_at(x, 0, np.zeros(1, np.int64))


class SpikingStage(Stage):
    """A layer of :class:`~snn2chip.chip.Neuron`: sums and law in one kernel."""

    def __init__(self, layer: Layer, neuron: Neuron, order: Array) -> None:
        super().__init__(layer, order)
        self._law = _law(layer, neuron, self.order, self.pitch)
        self._kernel: _Kernel = kernels.run_input
        if not isinstance(layer, InputNeurons):
            self._kernel = kernels.run_dense if isinstance(layer, Dense) else kernels.run_conv

    @staticmethod
    def _dense_arguments(layer: Dense, weight: Array, order: Array) -> tuple[Any, ...]:
        recurrent = np.zeros((0, layer.shape[0]), np.int32) if layer.recurrent is None else layer.recurrent.T
        kind = _narrow(weight, recurrent)
        return (*_matrix(weight, kind), _wide(recurrent.astype(kind)), _flush(recurrent), layer.shape[0])

    def _run(self, block: _Block, part: tuple[int, ...], counts: _Counts) -> None:
        own: tuple[Any, ...] = (block.peak(0),) if isinstance(self.layer, Dense) else part
        self._kernel(
            block.rows,
            block.graded,
            *block.arguments,
            *own,
            self._law,
            block.start,
            block.reset_every,
            block.from_rest,
            block.state.u,
            block.state.v,
            block.state.last,
            block.messages,
            *counts,
            *block.states,
        )


class _Summed(Stage):
    """A layer of any other neurons: first the sums of all steps, then the law."""

    def __init__(self, layer: Layer, neuron: Delta | SigmaDelta | Sigma | Resonator, order: Array) -> None:
        self._sums = 0 if isinstance(neuron, Delta) else 2 if isinstance(neuron, Resonator) else 1
        super().__init__(layer, order)
        self._neurons, self._parameters = _other_law(layer, neuron, self.order)

    @staticmethod
    def _dense_arguments(layer: Dense, weight: Array, order: Array) -> tuple[Any, ...]:
        """Of the real weights, then of the imaginary ones."""
        weights = [weight] if layer.imaginary is None else [weight, layer.imaginary.T[order]]
        return tuple(argument for weight in weights for argument in _matrix(weight, _narrow(weight)))

    def _run(self, block: _Block, part: tuple[int, ...], counts: _Counts) -> None:
        begin, end = 0, self.size
        sum_conv: _Kernel = kernels.sum_conv
        sums: list[Array] = [*block.sums]
        if isinstance(self.layer, InputNeurons):
            sums = [block.rows]
        elif isinstance(self.layer, Conv):
            _, _, width, channels = self._blocked or ()
            begin, end = (line * width * channels for line in part)
            sum_conv(block.rows, block.graded, *block.arguments, *part, *sums, counts[1])
        else:
            for i, total in enumerate(sums):
                weight, _, flush = block.arguments[3 * i : 3 * i + 3]
                kernels.sum_dense(block.rows, block.graded, weight, flush, self.size, block.peak(i), total, counts[1])
        state = block.state
        self._neurons(
            *sums,
            *self._parameters,
            begin,
            end,
            block.from_rest,
            state.u,
            state.v,
            state.last,
            block.messages,
            counts[0],
            *block.states,
        )
        if end == self.size:
            block.messages[:, :, end:] = 0


def lay_out(layer: Layer, order: Array) -> Stage:
    """``layer``, laid out; ``order`` as in :class:`Stage`."""
    if isinstance(layer.neuron, Neuron):
        return SpikingStage(layer, layer.neuron, order)
    return _Summed(layer, layer.neuron, order)


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


def _law(layer: Layer, neuron: Neuron, order: Array, size: int) -> kernels.Law:
    parameters = {name: array.reshape(-1)[order] for name, array in neuron.expanded(layer.shape).items()}
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


def _other_law(
    layer: Layer, neuron: Delta | SigmaDelta | Sigma | Resonator, order: Array
) -> tuple[_Kernel, tuple[Any, ...]]:
    """The kernel of the neurons, and its parameters."""
    if isinstance(neuron, Sigma):
        return neurons.run_sigma, ()
    expanded = {name: array.reshape(-1)[order] for name, array in neuron.expanded(layer.shape).items()}
    threshold = int(neuron.threshold)
    if isinstance(neuron, Resonator):
        turn = (expanded[name] / limits.DECAY_UNITY for name in ("sine", "cosine"))
        return neurons.run_resonators, (threshold << limits.STATE_SHIFT, *turn, neuron.phase)
    scale = neuron.spike_exp + limits.STATE_EXPONENT
    if isinstance(neuron, Delta):
        return neurons.run_delta, (threshold << scale, scale)
    return neurons.run_sigma_delta, (threshold << scale, expanded["bias"] << scale)


def _flush(weight: Array) -> int:
    """How many rows of ``weight`` can be summed in 16 bits, whichever they are."""
    return kernels.INT16_MAX // max(1, int(np.abs(weight.astype(np.int32)).max(initial=0)))


def _narrow(*weights: Array) -> type[np.signedinteger[Any]]:
    """The narrowest type that holds all of these."""
    low, high = min(int(w.min(initial=0)) for w in weights), max(int(w.max(initial=0)) for w in weights)
    return np.int8 if low >= -128 and high <= 127 else np.int16


def _largest(arguments: tuple[Any, ...]) -> int:
    """No weight of a dense layer is larger."""
    return kernels.INT16_MAX // int(arguments[2])


def _sum(x: Array) -> int:
    """The largest sum of magnitudes of a row of ``x``."""
    return int(np.abs(x.astype(np.int64)).sum(2).max(initial=0))


def _wide(rows: Array) -> Array:
    """``rows`` padded to whole tiles."""
    return _padded(rows, _up(rows.shape[-1], vectors.TILES[-1]))


def _matrix(weight: Array, kind: type[np.signedinteger[Any]]) -> tuple[Any, ...]:
    """``weight`` ``[what arrives, neurons]`` as that type, its sum over what arrives, and :func:`_flush`."""
    return _wide(weight.astype(kind)), _wide(weight.sum(0, dtype=np.int32)), _flush(weight)


def _conv_arguments(layer: Conv, order: Array) -> tuple[Any, ...]:
    _, height, width = layer.input_shape
    channels_out, per_group, kernel_h, kernel_w = layer.weight.shape
    groups, per_group_out = layer.groups, channels_out // layer.groups
    (pad_h, pad_w), (dilation_h, dilation_w) = layer.padding, layer.dilation
    field_h, field_w = height + 2 * pad_h, width + 2 * pad_w

    rows = layer.weight.reshape(groups, per_group_out, per_group, kernel_h, kernel_w)
    rows = rows.transpose(0, 3, 4, 2, 1)  # [group, kernel row, kernel column, channel in, channel out]
    rows = rows.reshape(groups, kernel_h * kernel_w * per_group, per_group_out)

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
    laid_out = _wide(rows.astype(_narrow(rows)))
    return laid_out, _wide(rows.sum(1, dtype=np.int32)), _flush(rows), _table(rows, laid_out.shape[-1]), patches


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
