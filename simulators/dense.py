"""Dense simulator: matrix products of torch carry the integers, on the processor or on a GPU.

Equal to :mod:`snn2chip.simulators.reference` in every spike, u and v. Its cost hardly depends on how much the network
fires: it is made for GPUs, and on a processor it serves where most neurons fire most of the time and as a second
implementation that shares nothing with the event simulator. Why floating point is exact here:

- Every product and every partial sum is an integer. While the bound of a layer's sums (:meth:`Dense.largest_sum`) is
  below 2^24, float32 holds all of them whatever the order of summation; beyond it float64 does, up to 2^53. Weights and
  spikes that fit 8 bits go through integer products, where torch has them for the device and they are faster.
- Convolutions are summed directly or as one matrix product over their taps. Algorithms that transform their input
  (Winograd, FFT), which torch and cuDNN choose as they see fit, would round.
- u and v are kept in float64: a 32 bit state times a 12 bit fraction has 44 bits, 53 fit. What passes 2^31 is taken to
  int32 and wraps there, as in Lava's arrays.

What would take these guarantees away is switched off while a run lasts (TF32, bfloat16 inside of float32 products,
autocast) and put back afterwards; nothing is computed in half precision, so its reductions need no setting. Each run
begins with a product and a convolution whose result is known, and raises
:class:`~snn2chip.errors.EnvironmentFailure` unless every digit is right.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, Layer, Neuron, require_spiking
from snn2chip.conv import conv2d
from snn2chip.errors import EnvironmentFailure, LimitError, UsageError
from snn2chip.traces import Mode, Record, Traces, check_messages, check_mode

Array = npt.NDArray[Any]
Tensor = torch.Tensor

_backends: Any = torch.backends  # untyped in part, and not the same in all versions

_EXACT_IN_FLOAT32 = 1 << 24
_EXACT_IN_FLOAT64 = 1 << 53
_STATE_UNIT = 1 << limits.STATE_SHIFT
_WRAP_BY = 2 * limits.STATE_LIMIT
_INT32_LIMIT = 1 << 31

#: Bytes of the largest array of a block, of which a few are in use at once: they have to stay near the caches of a
#: processor, and a GPU wants work for all of its units at each step.
_BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}
_LEAST_SAMPLES = 32  # of a chunk, before threads want several
_BLOCK_STEPS = 16  # of a block; samples take what is left, since each step is one round of calls for all of them

_settings = threading.RLock()  # what a run switches off belongs to the process


# The arithmetic


def _product(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows [K, inputs] @ weight [inputs, neurons]``: float32, float64, or int8 into int32."""
    if rows.dtype == torch.int8:
        return _int8_product(rows, weight)
    return rows @ weight


def _int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """The product of int8 matrices in int32.

    cuBLAS asks for more than 16 rows and for multiples of 8 elsewhere, so that there they are filled up with zeros.
    """
    if rows.device.type == "cpu":
        return torch._int_mm(rows, weight)
    (count, inputs), neurons = rows.shape, weight.shape[1]
    rows = torch.nn.functional.pad(rows, (0, -inputs % 8, 0, max(0, 24 - count)))
    weight = torch.nn.functional.pad(weight, (0, -neurons % 8, 0, -inputs % 8))
    return torch._int_mm(rows, weight)[:count, :neurons]


def _convolution(x: Tensor, weight: Tensor, layer: Conv) -> Tensor:
    """``[K, *input_shape]`` to ``[K, *shape]``, each sum taken term by term."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and _backends.mkldnn.is_available():
        # oneDNN's direct algorithm; conv2d might choose NNPACK, which transforms.
        return torch.mkldnn_convolution(x, weight, None, layer.padding, layer.stride, layer.dilation, layer.groups)
    height, width = layer.shape[1:]
    channels_out, per_group, kernel_h, kernel_w = weight.shape
    taps = per_group * kernel_h * kernel_w
    kernels = weight.reshape(layer.groups, channels_out // layer.groups, taps)
    bytes_each = layer.groups * taps * height * width * x.element_size()
    at_once = max(1, _BLOCK_BYTES[x.device.type] // bytes_each)
    out = x.new_empty((len(x), *layer.shape))
    (pad_h, pad_w), (step_h, step_w), (dil_h, dil_w) = layer.padding, layer.stride, layer.dilation
    for low in range(0, len(x), at_once):
        part = torch.nn.functional.pad(x[low : low + at_once], (pad_w, pad_w, pad_h, pad_h)).contiguous()
        by_sample, by_channel, by_row, by_column = part.stride()
        seen = part.as_strided(
            (len(part), part.shape[1], kernel_h, kernel_w, height, width),
            (by_sample, by_channel, dil_h * by_row, dil_w * by_column, step_h * by_row, step_w * by_column),
        ).reshape(len(part), layer.groups, taps, height * width)
        out[low : low + at_once] = torch.matmul(kernels, seen).reshape(len(part), *layer.shape)
    return out


def _in_register(total: Tensor) -> Tensor:
    """Integers in float64 as int32 holds them: what passes 2^31 wraps."""
    return total.to(torch.int64).to(torch.int32).to(torch.float64)


def _round_to_zero(state: Tensor, scratch: Tensor) -> None:
    """``trunc_`` by what torch has vectorised."""
    state.sub_(torch.frac(state, out=scratch))


@contextlib.contextmanager
def _exact_arithmetic(device: torch.device, threads: int) -> Iterator[None]:
    """torch without reduced precision; as it was afterwards."""
    with contextlib.ExitStack() as undo:
        undo.enter_context(_settings)
        undo.enter_context(torch.inference_mode())
        undo.enter_context(torch.autocast(device.type, enabled=False))
        if threads and threads != torch.get_num_threads():
            undo.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        # Since torch 2.9 each operation of each backend has its own precision; the older setting writes some of them.
        for place in _precisions():
            undo.callback(_restore_precision, place, place.fp32_precision)
        undo.callback(torch.set_float32_matmul_precision, _older_precision())
        torch.set_float32_matmul_precision("highest")
        for place in _precisions():
            place.fp32_precision = "ieee"
        yield


def _precisions() -> list[Any]:
    if not hasattr(_backends, "fp32_precision"):
        return []
    return [_backends.cuda.matmul, _backends.mkldnn.matmul, _backends.mkldnn.conv]


def _older_precision() -> str:
    """The older setting, which newer versions of torch read only while the newer settings agree with it.

    Leaves those as they agree.
    """
    # "highest", "high" and "medium" in the newer settings of products by cuBLAS and by oneDNN
    for pair in ((), ("ieee", "ieee"), ("tf32", "tf32"), ("tf32", "bf16")):
        for place, precision in zip(_precisions(), pair, strict=False):
            place.fp32_precision = precision
        with contextlib.suppress(RuntimeError):
            return torch.get_float32_matmul_precision()
    return "highest"


def _restore_precision(place: Any, precision: str) -> None:
    place.fp32_precision = "none"  # which takes the setting of the whole backend, or of all
    if place.fp32_precision != precision:
        place.fp32_precision = precision


# Tests of the arithmetic


def _known_product() -> tuple[Array, Array, Array]:
    """Rows, weights and their product.

    One half of the rows sums many products of 8 bits, up to the bound; the other has few messages of 16 bits, all
    digits set, which TF32 (11 bits) and bfloat16 (8 bits) cannot hold.
    """
    generator = np.random.default_rng(0)
    rows = generator.choice([-127, 127, 125], (128, 512))
    rows[0] = 127
    rows[64:] = 0
    rows[np.arange(64, 128), generator.integers(0, 256, 64)] = 65535
    rows[np.arange(64, 128), generator.integers(256, 512, 64)] = 257
    weight = generator.integers(-255, 255, (512, 96), endpoint=True)
    weight[:, :8] = 255
    return rows, weight, rows @ weight


def _known_convolution() -> tuple[Conv, Array, Array]:
    """A convolution (3 x 3 at stride 1, where Winograd's algorithm would be taken), messages and sums."""
    generator = np.random.default_rng(0)
    messages = 2 * generator.integers(0, 228, (16, 16, 8, 8)) + 1  # 16 * 9 * 455 * 255 is just below 2^24
    weight = generator.choice([-255, -127, 127, 255], (16, 16, 3, 3))
    layer = Conv("known", (16, 8, 8), weight, Neuron.of("known", 0), padding=(1, 1))
    return layer, messages, conv2d(messages, weight, layer.stride, layer.padding, layer.dilation, layer.groups)


@dataclass(frozen=True)
class _Known:
    """The known product and convolution on a device, in one type."""

    rows: Tensor
    weight: Tensor
    product: Tensor
    layer: Conv
    messages: Tensor
    kernels: Tensor
    sums: Tensor


@functools.cache
def _known(device: torch.device, dtype: torch.dtype) -> _Known:
    layer, *arrays = _known_convolution()
    messages, sums = (_on(array, dtype, device) for array in arrays)
    rows, weight, product = (_on(array, dtype, device) for array in _known_product())
    return _Known(rows, weight, product, layer, messages, _on(layer.weight, dtype, device), sums)


def _check_exactness(device: torch.device) -> None:
    """Raise :class:`EnvironmentFailure` unless known products and convolutions come out as they are."""
    for dtype in (torch.float32, torch.float64):
        known = _known(device, dtype)
        found = {
            "matrix product": (_product(known.rows, known.weight), known.product),
            "convolution": (_convolution(known.messages, known.kernels, known.layer), known.sums),
        }
        for what, (ours, expected) in found.items():
            if not torch.equal(ours, expected):
                wrong, kind = int((ours != expected).sum()), str(dtype).removeprefix("torch.")
                raise EnvironmentFailure(
                    f"dense simulator: {wrong} of {expected.numel()} sums of a {what} of {kind} are wrong with torch "
                    f"{torch.__version__} on {device}; use the event simulator, or another version of torch"
                )


@functools.cache
def _int8_helps(device: torch.device) -> bool:
    """Whether int8 products exist here, are exact, and beat float32.

    Processors without 8 bit dot products either saturate at 16 bits or are slow.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    generator = np.random.default_rng(0)
    rows, weight = generator.integers(-128, 127, (512, 512)), generator.integers(-128, 127, (512, 256), endpoint=True)
    rows[0], weight[:, 0], weight[:, 1] = -128, -128, 127
    seconds = {}
    for dtype in (torch.float32, torch.int8):
        ours, theirs = _on(rows, dtype, device), _on(weight, dtype, device)
        try:
            found = _product(ours, theirs).cpu().numpy()  # also the warm-up
        except RuntimeError:  # NotImplementedError is one
            return False
        if dtype == torch.int8 and (found != rows @ weight).any():
            return False
        times = []
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(4):
                last = _product(ours, theirs)
            last[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.int8] < seconds[torch.float32]


def _on(array: Array, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``array``, which may be read-only, on the device."""
    return torch.from_numpy(np.array(array, order="C")).to(device).to(dtype)


# One layer


@dataclass
class _Carry:
    """State between two blocks, each ``[samples, neurons]``."""

    u: Tensor
    v: Tensor
    last: Tensor

    @staticmethod
    def rest(samples: int, stage: _Stage) -> _Carry:
        u, v, last = (torch.zeros((samples, stage.size), dtype=torch.float64, device=stage.device) for _ in range(3))
        return _Carry(u, v, last.to(stage.own_dtype))


class _Messages:
    """Messages of a block of steps; steps that repeat are stored, and summed, once.

    Attributes:
        rows: ``[distinct steps, samples, inputs]``.
        index: which of them each step has.
    """

    def __init__(self, rows: Tensor, index: list[int]) -> None:
        self.rows = rows
        self.index = index

    def after_silence(self) -> _Messages:
        """With a silent step in front."""
        silent = torch.zeros_like(self.rows[:1])
        return _Messages(torch.cat([silent, self.rows]), [0, *(i + 1 for i in self.index)])


class _Stage:
    """One layer on the device.

    Args:
        layer: the layer.
        largest: bound of its messages' magnitude.
        steps: most steps without a reset; 0 is any number.
        device: where it is computed.
    """

    def __init__(self, layer: Layer, largest: int, steps: int, device: torch.device) -> None:
        self.layer = layer
        self.size = math.prod(layer.shape)
        self.device = device
        self.bound = layer.largest_sum(largest)
        if self.bound >= _EXACT_IN_FLOAT64:
            remedy = "scale the messages down"
            raise LimitError(layer.name, "bound of the weighted sum", self.bound, _EXACT_IN_FLOAT64 - 1, remedy)
        #: Types in which the previous layer's messages, and own spikes, are taken.
        self.dtype = self.own_dtype = torch.float32 if self.bound < _EXACT_IN_FLOAT32 else torch.float64
        self._weight: Tensor | None = None
        self._recurrent: Tensor | None = None
        if isinstance(layer, Dense):
            weight = layer.weight.T
            narrow = largest < 128 and weight.min(initial=0) >= -128 and weight.max(initial=0) < 128
            if layer.recurrent is not None:
                self._recurrent = _on(layer.recurrent.T, self.dtype, device)
            if narrow and self.dtype == torch.float32 and _int8_helps(device):
                self.dtype = torch.int8
            self._weight = _on(weight, self.dtype, device)
        elif isinstance(layer, Conv):
            self._weight = _on(layer.weight, self.dtype, device)
        self.fan_out = torch.from_numpy(layer.fan_out().reshape(-1)).to(device)

        law = {name: array.reshape(-1) for name, array in layer.neuron.expanded(layer.shape).items()}
        self._threshold = self._parameter(law["threshold"].astype(np.int64) << limits.STATE_SHIFT)
        self._bias = self._parameter(law["bias"].astype(np.int64) << limits.BIAS_EXPONENT)
        keep_u, keep_v = (limits.DECAY_UNITY - law[name] for name in ("current_decay", "voltage_decay"))
        # Fractions of 2^12 are exact. None: the state is forgotten.
        self._keep_u = self._parameter(keep_u / limits.DECAY_UNITY) if keep_u.any() else None
        self._keep_v = self._parameter(keep_v / limits.DECAY_UNITY) if keep_v.any() else None
        self._leaks_u = bool((keep_u != limits.DECAY_UNITY).any())
        self._leaks_v = bool((keep_v != limits.DECAY_UNITY).any())
        self._biased = bool(law["bias"].any())

        # How far u gets before it is wrapped: the sum of a geometric series, or of every step.
        largest_sum = self.bound
        self._wraps_sums = isinstance(layer, Conv) and self.bound >= 1 << (limits.CONV_SUM_BITS - 1)
        if self._wraps_sums:
            largest_sum = 1 << (limits.CONV_SUM_BITS - 1)
        least_decay = int(limits.DECAY_UNITY - keep_u.max())
        terms = [limits.DECAY_UNITY / least_decay] if least_decay else []
        terms += [steps] if steps else []
        reach = largest_sum * _STATE_UNIT * min(terms, default=math.inf)
        self._wraps = reach >= limits.STATE_LIMIT
        # One wrap brings u back within 24 bits unless more than 2^24 is added at once; only then can it pass 2^31, and
        # v with it. The half leaves room for v and the bias.
        self._overflows = largest_sum * _STATE_UNIT >= _WRAP_BY and reach >= _INT32_LIMIT // 2

    @property
    def recurrent(self) -> bool:
        """Whether own spikes return."""
        return self._recurrent is not None

    def _parameter(self, values: Array) -> Tensor:
        """One number where all neurons have the same, else one for each."""
        same = bool((values == values[:1]).all())
        return _on(values[0] if same else values, torch.float64, self.device)

    def _sums(self, rows: Tensor) -> Tensor:
        """``a`` of the feed-forward synapses, ``[steps, samples, neurons]``."""
        steps, samples, inputs = rows.shape
        layer, flat = self.layer, rows.reshape(steps * samples, inputs)
        if isinstance(layer, InputNeurons):
            return rows
        assert self._weight is not None
        if isinstance(layer, Dense):
            sums = _product(flat, self._weight)
            if self.bound >= limits.SUM_LIMIT and len(flat):
                worst = int(sums.abs().max())
                if worst >= limits.SUM_LIMIT:  # as in the reference
                    remedy = "lower the weights, or the scale of the graded messages"
                    raise LimitError(layer.name, "weighted sum", worst, limits.SUM_LIMIT - 1, remedy)
        else:
            sums = _convolution(flat.reshape(-1, *layer.input_shape), self._weight, layer)
            if self._wraps_sums:
                sums = sums.to(torch.float64)
                half = 1 << (limits.CONV_SUM_BITS - 1)
                sums = sums - torch.floor((sums + half) / (2 * half)) * (2 * half)
        return sums.reshape(steps, samples, self.size)

    def advance(
        self,
        messages: _Messages,
        carry: _Carry,
        start: int,
        reset_every: int,
        dtype: torch.dtype,
        states: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Spikes ``[steps, samples, neurons]`` of type ``dtype``, and how many samples have one, ``[steps, neurons]``.

        u and v of each step go to ``states``.
        """
        sums, index = self._sums(messages.rows), messages.index
        spikes = torch.empty((len(index), *carry.v.shape), dtype=dtype, device=self.device)
        counts = torch.empty((len(index), self.size), dtype=torch.float64, device=self.device)
        u, v, fired = carry.u, carry.v, torch.empty_like(carry.v)
        for t, which in enumerate(index):
            a = sums[which]
            if self._recurrent is not None:
                a = a + carry.last @ self._recurrent
            if reset_every and (start + t) % reset_every == 0:
                u.zero_()
                v.zero_()
            if self._keep_u is None:
                u.copy_(a).mul_(_STATE_UNIT)
            else:
                if self._leaks_u:
                    _round_to_zero(u.mul_(self._keep_u), fired)
                u.add_(fired.copy_(a), alpha=_STATE_UNIT)
            if self._overflows:
                u.copy_(_in_register(u))
            if self._wraps:
                # Comparisons in the type of the state: torch does not vectorise masks.
                u.sub_(torch.gt(u, limits.STATE_LIMIT, out=fired), alpha=_WRAP_BY)
                u.add_(torch.le(u, -limits.STATE_LIMIT, out=fired), alpha=_WRAP_BY)
            if self._keep_v is None:
                v.copy_(u)
            else:
                if self._leaks_v:
                    _round_to_zero(v.mul_(self._keep_v), fired)
                v.add_(u)
            if self._biased:
                v.add_(self._bias)
            if self._overflows:
                v.copy_(_in_register(v))
            v.clamp_(-(limits.STATE_LIMIT - 1), limits.STATE_LIMIT - 1)
            torch.gt(v, self._threshold, out=fired)
            v.addcmul_(v, fired, value=-1)
            spikes[t].copy_(fired)
            torch.sum(fired, 0, out=counts[t])
            if self._recurrent is not None:
                carry.last.copy_(fired)
            if states is not None:
                states[0][t].copy_(u)
                states[1][t].copy_(v)
        return spikes, counts.to(torch.int64)


# The network


class _Recorder:
    """Counts, and the traces that were asked for, on the host."""

    def __init__(self, net: ChipNet, record: Record, samples: int) -> None:
        self.window = net.window
        self._lock = threading.Lock()
        lead = (samples, net.window)
        shapes = {layer.name: (*lead, *layer.shape) for layer in net.layers}
        self.spikes = {name: np.zeros(shapes[name], np.uint8) for name in shapes if name in record.spikes}
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
        self.largest = max(int(messages.max(initial=0)), -int(messages.min(initial=0))) if messages.size else 0
        self.fan_out = net.layers[0].fan_out().reshape(-1)
        # Narrow on the way to the device.
        self._type = np.int8 if self.largest < 1 << 7 else np.int16 if self.largest < 1 << 15 else np.int32

    def block(self, chunk: _Chunk, low: int, high: int, dtype: torch.dtype) -> tuple[_Messages, Array]:
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
        return _Messages(torch.from_numpy(rows).to(self.device).to(dtype), index), self._operations(rows)[index]

    def _operations(self, rows: npt.NDArray[Any]) -> Array:
        if (self.fan_out == self.fan_out[:1]).all():  # one number a step is far quicker counted than one for each input
            return np.multiply([np.count_nonzero(row) for row in rows], self.fan_out[0])
        operations: Array = np.count_nonzero(rows, axis=1) @ self.fan_out
        return operations


def _chunks(stages: Sequence[_Stage], samples: int, window: int, chained: bool, threads: int) -> list[_Chunk]:
    """Samples side by side and the steps of a block, so that no array of one layer and block is larger than allowed."""
    device = stages[0].device
    inputs = math.prod(stages[0].layer.input_shape)
    rows = max(1, _BLOCK_BYTES[device.type] // (4 * max(inputs, *(stage.size for stage in stages))))
    if chained:
        return [_Chunk(0, samples, rows, True)]
    # Several for each thread, so that none waits long, unless they would be tiny.
    width = max(1, min(rows // min(window, _BLOCK_STEPS), max(_LEAST_SAMPLES, -(-samples // (4 * threads)))))
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
    if asked.partition(":")[0] not in _BLOCK_BYTES:
        raise UsageError(f"device: {asked!r} is unknown, expected {' or '.join(_BLOCK_BYTES)}")
    if asked != "cpu" and not torch.cuda.is_available():
        raise EnvironmentFailure(f"dense simulator: torch {torch.__version__} finds no CUDA device; use device='cpu'")
    return torch.device(asked)


def _run_chunk(stages: Sequence[_Stage], data: _Input, chunk: _Chunk, reset: bool, keep: _Recorder) -> None:
    """Block by block of steps through all layers; u, v and own spikes pass from one to the next."""
    window = keep.window
    carries = [_Carry.rest(chunk.width, stage) for stage in stages]
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
            states = None
            if name in keep.u:
                shape = (len(x.index), chunk.width, stage.size)
                u, v = (torch.empty(shape, dtype=torch.int32, device=stage.device) for _ in range(2))
                states = u, v
            following = stages[i + 1] if i + 1 < len(stages) else None
            dtype = torch.uint8 if following is None else following.dtype
            spikes, arrived = stage.advance(x, carry, start, window if reset else 0, dtype, states)
            fired = arrived.sum(1).cpu().numpy()
            keep.add(keep.fired[name], start, fired)
            if stage.recurrent:
                keep.add(keep.operations[name], start, fired * stage.size)
            if name in keep.spikes:
                keep.store(keep.spikes[name], chunk, start, spikes.to(torch.uint8))
            if states is not None:
                keep.store(keep.u[name], chunk, start, states[0])
                keep.store(keep.v[name], chunk, start, states[1])
            if following is not None:
                operations = (arrived * following.fan_out).sum(1).cpu().numpy()
            x = _Messages(spikes, list(range(len(spikes))))


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
        UnsupportedError: the network has delays, or neurons other than :class:`~snn2chip.chip.Neuron`.
    """
    check_mode(mode)
    check_messages(net, messages)
    require_spiking(net, "dense")
    place = _device(device)
    with _exact_arithmetic(place, threads):
        began = time.perf_counter()
        _check_exactness(place)
        # Without recurrence a reset leaves nothing of the window before, nor of the steps before the first one.
        chained = mode == "streaming" or (mode == "windowed" and net.recurrent)
        data = _Input(net, messages, place)
        steps = 0 if mode == "streaming" else net.window
        largest, stages = data.largest, []
        for layer in net.layers:
            stages.append(_Stage(layer, largest, steps, place))
            largest = 1
        ready = time.perf_counter()
        keep = _Recorder(net, record or Record.readout(net), len(messages))
        workers = 1 if place.type == "cuda" else torch.get_num_threads()
        chunks = _chunks(stages, len(messages), net.window, chained, workers)
        _each(chunks, lambda chunk: _run_chunk(stages, data, chunk, mode == "windowed", keep), workers)
        ended = time.perf_counter()
    return Traces(
        keep.spikes, keep.u, keep.v, keep.fired, keep.operations, ended - ready, overhead_seconds=ready - began
    )
