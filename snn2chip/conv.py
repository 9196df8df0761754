"""Geometry and arithmetic of 2-d convolution on numpy arrays, shared by the float graph and the integer law."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Pair = tuple[int, int]
Array = npt.NDArray[Any]


def output_size(
    size: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> Pair:
    """Height and width of a convolution's (or pooling's) output; entries below 1 mean that nothing fits."""
    height, width = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )
    return height, width


def conv2d(x: Array, weight: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int) -> Array:
    """Cross-correlation as in ``torch.nn.functional.conv2d``, by one matrix product per group.

    Args:
        x: ``[N, C_in, H, W]``, floating point.
        weight: ``[C_out, C_in / groups, kH, kW]`` of the same type.

    Returns:
        ``[N, C_out, H_out, W_out]``. Integers held in float64 come out exact while every sum is below 2^53.
    """
    samples, channels_in = x.shape[:2]
    channels_out, per_group, kernel_h, kernel_w = weight.shape
    height, width = output_size(x.shape[2:], (kernel_h, kernel_w), stride, padding, dilation)
    (pad_h, pad_w), (step_h, step_w), (dil_h, dil_w) = padding, stride, dilation
    padded = np.pad(x, ((0, 0), (0, 0), (pad_h, pad_h), (pad_w, pad_w)))
    taps = np.empty((samples, channels_in, kernel_h, kernel_w, height, width), x.dtype)
    for i in range(kernel_h):
        for j in range(kernel_w):
            rows = slice(i * dil_h, i * dil_h + (height - 1) * step_h + 1, step_h)
            columns = slice(j * dil_w, j * dil_w + (width - 1) * step_w + 1, step_w)
            taps[:, :, i, j] = padded[:, :, rows, columns]
    taps = taps.reshape(samples, groups, per_group * kernel_h * kernel_w, height * width)
    kernels = weight.reshape(groups, channels_out // groups, per_group * kernel_h * kernel_w)
    products: Array = np.matmul(kernels, taps)
    return products.reshape(samples, channels_out, height, width)


def taps_per_input(size: Sequence[int], kernel: Sequence[int], stride: Pair, padding: Pair, dilation: Pair) -> Array:
    """``[H, W]``: through how many kernel positions each input pixel is seen (fewer at the border)."""
    outputs = output_size(size, kernel, stride, padding, dilation)
    axes = []
    for n, out, k, s, p, d in zip(size, outputs, kernel, stride, padding, dilation, strict=True):
        seen = np.zeros(n + 2 * p, np.int64)
        for o in range(out):
            seen[o * s : o * s + d * (k - 1) + 1 : d] += 1
        axes.append(seen[p : p + n])
    return np.outer(axes[0], axes[1])
