"""Exact sums of integers by torch's floating point, for the dense simulator: products, convolutions, and their tests.

What would take the guarantees away is switched off while a run lasts (TF32, bfloat16 inside of float32 products,
autocast) and put back afterwards; nothing is computed in half precision, so its reductions need no setting. Each run
begins with a product and a convolution whose result is known, and raises
:class:`~snn2chip.errors.EnvironmentFailure` unless every digit is right.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snn2chip.chip import Conv, Neuron
from snn2chip.conv import conv2d
from snn2chip.errors import EnvironmentFailure

Array = npt.NDArray[Any]
Tensor = torch.Tensor

_backends: Any = torch.backends  # untyped in part, and not the same in all versions

EXACT_IN_FLOAT32 = 1 << 24
EXACT_IN_FLOAT64 = 1 << 53

#: Bytes of the largest array of a block, of which a few are in use at once: they have to stay near the caches of a
#: processor, and a GPU wants work for all of its units at each step.
BLOCK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}

_settings = threading.RLock()  # what a run switches off belongs to the process


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """``rows [K, inputs] @ weight [inputs, neurons]``: float32, float64, or int8 into int32."""
    if rows.dtype == torch.int8:
        return int8_product(rows, weight)
    return rows @ weight


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """The product of int8 matrices in int32.

    cuBLAS asks for more than 16 rows and for multiples of 8 elsewhere, so that there they are filled up with zeros.
    """
    if rows.device.type == "cpu":
        return torch._int_mm(rows, weight)
    (count, inputs), neurons = rows.shape, weight.shape[1]
    rows = torch.nn.functional.pad(rows, (0, -inputs % 8, 0, max(0, 24 - count)))
    weight = torch.nn.functional.pad(weight, (0, -neurons % 8, 0, -inputs % 8))
    return torch._int_mm(rows, weight)[:count, :neurons]


def convolution(x: Tensor, weight: Tensor, layer: Conv) -> Tensor:
    """``[K, *input_shape]`` to ``[K, *shape]``, each sum taken term by term."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and _backends.mkldnn.is_available():
        # oneDNN's direct algorithm; conv2d might choose NNPACK, which transforms.
        return torch.mkldnn_convolution(x, weight, None, layer.padding, layer.stride, layer.dilation, layer.groups)
    height, width = layer.shape[1:]
    channels_out, per_group, kernel_h, kernel_w = weight.shape
    taps = per_group * kernel_h * kernel_w
    kernels = weight.reshape(layer.groups, channels_out // layer.groups, taps)
    bytes_each = layer.groups * taps * height * width * x.element_size()
    at_once = max(1, BLOCK_BYTES[x.device.type] // bytes_each)
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


def in_halves(multiply: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """``multiply(rows)`` in int64, for sums of float64 that pass 2^53: of the lower 16 bits, and of those above.

    Args:
        multiply: linear, exact where messages have 16 bits.
        rows: integers of 32 bits in float64.
    """
    high = torch.floor(rows / (1 << 16))
    low = rows - high * (1 << 16)
    return multiply(high).to(torch.int64) * (1 << 16) + multiply(low).to(torch.int64)


def in_register(total: Tensor) -> Tensor:
    """Integers in float64 as int32 holds them: what passes 2^31 wraps."""
    return total.to(torch.int64).to(torch.int32).to(torch.float64)


def round_to_zero(state: Tensor, scratch: Tensor) -> None:
    """``trunc_`` by what torch has vectorised."""
    state.sub_(torch.frac(state, out=scratch))


@contextlib.contextmanager
def exact_arithmetic(device: torch.device, threads: int) -> Iterator[None]:
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


def known_product() -> tuple[Array, Array, Array]:
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


def known_convolution() -> tuple[Conv, Array, Array]:
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
    layer, *arrays = known_convolution()
    messages, sums = (on_device(array, dtype, device) for array in arrays)
    rows, weight, product = (on_device(array, dtype, device) for array in known_product())
    return _Known(rows, weight, product, layer, messages, on_device(layer.weight, dtype, device), sums)


def check_exactness(device: torch.device) -> None:
    """Raise :class:`EnvironmentFailure` unless known products and convolutions come out as they are."""
    for dtype in (torch.float32, torch.float64):
        known = _known(device, dtype)
        found = {
            "matrix product": (product(known.rows, known.weight), known.product),
            "convolution": (convolution(known.messages, known.kernels, known.layer), known.sums),
        }
        for what, (ours, expected) in found.items():
            if not torch.equal(ours, expected):
                wrong, kind = int((ours != expected).sum()), str(dtype).removeprefix("torch.")
                raise EnvironmentFailure(
                    f"dense simulator: {wrong} of {expected.numel()} sums of a {what} of {kind} are wrong with torch "
                    f"{torch.__version__} on {device}; use the event simulator, or another version of torch"
                )


def check_wrapping(device: torch.device) -> None:
    """Raise :class:`EnvironmentFailure` unless int32 sums, and the magnitude of the least one, wrap as in Lava."""
    low, high = torch.iinfo(torch.int32).min, torch.iinfo(torch.int32).max
    ends = torch.tensor([low, high], dtype=torch.int32, device=device).repeat(21, 1)  # whole vectors, and their rest
    found = torch.stack([ends + ends.flip(1), ends + ends, ends - ends.flip(1), ends.abs()])
    expected = torch.tensor([[-1, -1], [0, -2], [1, -1], [low, high]], dtype=torch.int32, device=device)
    if not torch.equal(found, expected[:, None].expand_as(found)):
        raise EnvironmentFailure(
            f"dense simulator: sums of int32 do not wrap with torch {torch.__version__} on {device}; "
            "use the event simulator, or another version of torch"
        )


@functools.cache
def int8_helps(device: torch.device) -> bool:
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
        ours, theirs = on_device(rows, dtype, device), on_device(weight, dtype, device)
        try:
            found = product(ours, theirs).cpu().numpy()  # also the warm-up
        except RuntimeError:  # NotImplementedError is one
            return False
        if dtype == torch.int8 and (found != rows @ weight).any():
            return False
        times = []
        for _ in range(3):
            began = time.perf_counter()
            for _ in range(4):
                last = product(ours, theirs)
            last[0, 0].item()  # waits for the device
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return seconds[torch.int8] < seconds[torch.float32]


def on_device(array: Array, dtype: torch.dtype, device: torch.device) -> Tensor:
    """``array``, which may be read-only, on the device."""
    return torch.from_numpy(np.array(array, order="C")).to(device).to(dtype)
