"""Linear operations folded into the synapses beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair, output_size
from snn2chip.errors import UnsupportedError
from snn2chip.graph import AvgPool2d, BatchNorm, Conv2d, Flatten, Graph, Linear, Node, Shape, per_channel

Array = npt.NDArray[Any]


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold batch norm into the synapses before it, also through average pooling, which it commutes with.

    ::

        Before: Conv2d(w, b) -> [AvgPool2d ->] BatchNorm(scale, shift)
        After:  Conv2d(scale * w, scale * b + shift) [-> AvgPool2d]
    """
    while norms := [node for node in graph.nodes if isinstance(node, BatchNorm)]:
        norm = norms[0]
        source = graph.node(norm.inputs[0])
        through: Node = norm
        while isinstance(source, AvgPool2d) and len(graph.consumers(source.name)) == 1:
            source, through = graph.node(source.inputs[0]), source
        if not isinstance(source, Conv2d | Linear) or graph.consumers(source.name) != [through]:
            raise UnsupportedError(
                f"{norm.name}: follows {source.name}; only a normalisation right after Linear or Conv2d folds into "
                "weights, move it there"
            )
        folded = replace(
            source,
            weight=source.weight * per_channel(norm.scale, source.weight.ndim),
            bias=source.bias * norm.scale + norm.shift,
        )
        graph = graph.replaced({norm.name: None, source.name: folded})
    return graph


def fold_average_pool(graph: Graph) -> Graph:
    """Fold average pooling into the convolution before it, or the synapses after it.

    ::

        Before: Conv2d(w, stride s) -> AvgPool2d(p) -> Neuron
        After:  Conv2d(w * ones(p)/|p|, stride s * p) -> Neuron

        Before: Neuron -> AvgPool2d(p) -> Conv2d(w, stride s) or Flatten -> Linear(w)
        After:  Neuron -> Conv2d(kron(w, ones(p)/|p|), stride s * p) or Flatten -> Linear(w P), P the pooling matrix
    """
    while pools := [node for node in graph.nodes if isinstance(node, AvgPool2d)]:
        pool = pools[-1]  # the last first, so that pooling of pooling folds one by one
        graph = _fold_pool(graph, pool)
    return graph


def _fold_pool(graph: Graph, pool: AvgPool2d) -> Graph:
    shapes = graph.shapes()
    source = graph.node(pool.inputs[0])
    after = graph.consumers(pool.name)
    if isinstance(source, Conv2d) and graph.consumers(source.name) == [pool]:
        return graph.replaced({pool.name: None, source.name: _conv_then_pool(source, pool)})
    changes: dict[str, Node | None] = {pool.name: None}
    for node in after:
        if isinstance(node, Conv2d):
            changes[node.name] = _pool_then_conv(pool, node, shapes[source.name])
        elif isinstance(node, Flatten) and all(isinstance(n, Linear) for n in graph.consumers(node.name)):
            for linear in graph.consumers(node.name):
                assert isinstance(linear, Linear)
                matrix = pooling_matrix(pool, shapes[source.name])
                changes[linear.name] = replace(linear, weight=linear.weight @ matrix)
        else:
            raise UnsupportedError(
                f"{pool.name}: stands between {source.name} and {node.name}; average pooling folds only into a Conv2d "
                "before it, or a Conv2d or Linear after it"
            )
    if not after:
        raise UnsupportedError(f"{pool.name}: is the last operation; end with a Readout or neurons")
    return graph.replaced(changes)


def _dilated(weight: Array, dilation: Pair) -> Array:
    """The same kernel with its gaps filled by zeros, for dilation 1."""
    height, width = weight.shape[2:]
    out = np.zeros((*weight.shape[:2], (height - 1) * dilation[0] + 1, (width - 1) * dilation[1] + 1))
    out[:, :, :: dilation[0], :: dilation[1]] = weight
    return out


def _conv_then_pool(conv: Conv2d, pool: AvgPool2d) -> Conv2d:
    """Each pooled value is the mean of the convolution at ``pool.kernel`` places that lie one stride apart."""
    kernel = _dilated(conv.weight, conv.dilation)
    height, width = kernel.shape[2:]
    (step_h, step_w), (pool_h, pool_w) = conv.stride, pool.kernel
    weight = np.zeros((*kernel.shape[:2], height + (pool_h - 1) * step_h, width + (pool_w - 1) * step_w))
    for i in range(pool_h):
        for j in range(pool_w):
            weight[:, :, i * step_h : i * step_h + height, j * step_w : j * step_w + width] += kernel
    stride = (step_h * pool.stride[0], step_w * pool.stride[1])
    return replace(conv, weight=weight / (pool_h * pool_w), stride=stride, dilation=(1, 1))


def _pool_then_conv(pool: AvgPool2d, conv: Conv2d, shape: Shape) -> Conv2d:
    """The kernel's taps lie one pooling stride apart, each a window of the pooling."""
    pooled = output_size(shape[1:], pool.kernel, pool.stride, (0, 0))
    for size, window, stride, out, pad in zip(shape[1:], pool.kernel, pool.stride, pooled, conv.padding, strict=True):
        # Padding adds zeros to the pooled map; the folded kernel would see pixels that pooling dropped or shared.
        if pad and (window > stride or size != (out - 1) * stride + max(window, stride)):
            raise UnsupportedError(
                f"{conv.name}: has padding after {pool.name}, whose windows of {window} in steps of {stride} do not "
                f"tile {size} pixels; use padding 0 or a size that is a multiple of the pooling"
            )
    kernel = _dilated(conv.weight, conv.dilation)
    height, width = kernel.shape[2:]
    (step_h, step_w), (pool_h, pool_w) = pool.stride, pool.kernel
    weight = np.zeros((*kernel.shape[:2], (height - 1) * step_h + pool_h, (width - 1) * step_w + pool_w))
    for i in range(height):
        for j in range(width):
            tap = kernel[:, :, i : i + 1, j : j + 1]
            weight[:, :, i * step_h : i * step_h + pool_h, j * step_w : j * step_w + pool_w] += tap
    return replace(
        conv,
        weight=weight / (pool_h * pool_w),
        stride=(conv.stride[0] * step_h, conv.stride[1] * step_w),
        padding=(conv.padding[0] * step_h, conv.padding[1] * step_w),
        dilation=(1, 1),
    )


def pooling_matrix(pool: AvgPool2d, shape: Shape) -> Array:
    """``[C * H_out * W_out, C * H * W]`` of the pooling on an input of ``shape``."""
    axes = []
    for size, kernel, stride in zip(shape[1:], pool.kernel, pool.stride, strict=True):
        out = (size - kernel) // stride + 1
        rows = np.zeros((out, size))
        for o in range(out):
            rows[o, o * stride : o * stride + kernel] = 1 / kernel
        axes.append(rows)
    return np.kron(np.eye(shape[0]), np.kron(axes[0], axes[1]))
