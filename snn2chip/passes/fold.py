"""Linear operations folded into the synapses beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair, output_size
from snn2chip.errors import UnsupportedError
from snn2chip.graph import (
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Linear,
    Node,
    Shape,
    per_channel,
)
from snn2chip.passes.edit import as_synapses, is_current, moved_behind, on_each_input, private_source, rewired, without

Array = npt.NDArray[Any]


def fold_batch_norm(graph: Graph) -> Graph:
    """Fold batch norm, or any affine map per channel, into the synapses before it, else into those after it.

    ::

        Before: Conv2d(w, b) -> BatchNorm(scale, shift)
        After:  Conv2d(scale * w, scale * b + shift)

        Before: Neuron -> BatchNorm(scale, shift) -> Linear(w, b)
        After:  Neuron -> Linear(w * scale, b + w shift)

    It moves through average pooling, sums, concatenations and delays on its way. Behind neurons or data, and before
    anything that has no weights, it becomes synapses itself: one weight per channel.

    Raises:
        UnsupportedError: a shift would not be the same at the border of a padded operation.
    """
    while norms := [node for node in graph.nodes if isinstance(node, BatchNorm)]:
        norm = norms[0]
        graph = _norm_backward(graph, norm) if is_current(graph, norm.inputs[0]) else _norm_forward(graph, norm)
    return graph


def _norm_backward(graph: Graph, norm: BatchNorm) -> Graph:
    graph, source = private_source(graph, norm)
    if isinstance(source, Conv2d | Linear):
        folded = replace(
            source,
            weight=source.weight * per_channel(norm.scale, source.weight.ndim),
            bias=source.bias * norm.scale + norm.shift,
        )
        return graph.replaced({norm.name: None, source.name: folded})
    if isinstance(source, BatchNorm):
        return graph.replaced({norm.name: None, source.name: _composed(source, norm)})
    unshifted = replace(norm, shift=np.zeros_like(norm.shift))
    if isinstance(source, Add):
        return on_each_input(graph, norm, source, [norm, *[unshifted] * (len(source.inputs) - 1)])
    if isinstance(source, Concat):
        shapes = graph.shapes()
        parts: list[Node] = []
        start = 0
        for name in source.inputs:
            part = slice(start, start := start + shapes[name][0])
            parts.append(replace(norm, scale=norm.scale[part], shift=norm.shift[part]))
        return on_each_input(graph, norm, source, parts)
    if (isinstance(source, AvgPool2d) and source.padding == (0, 0)) or (
        isinstance(source, AvgPool2d | Delay) and not norm.shift.any()
    ):
        return on_each_input(graph, norm, source, [norm])
    raise UnsupportedError(
        f"{norm.name}: follows {source.name}; a normalisation folds into weights only right after Linear or Conv2d, "
        "move it there"
    )


def _composed(first: BatchNorm, second: BatchNorm) -> BatchNorm:
    return replace(first, scale=first.scale * second.scale, shift=first.shift * second.scale + second.shift)


def _norm_forward(graph: Graph, norm: BatchNorm) -> Graph:
    """One step: past or into the first consumer; synapses where it can go no further."""
    source = norm.inputs[0]
    consumers = graph.consumers(norm.name)
    shapes = graph.shapes()
    consumer = next((node for node in consumers if _takes_norm(graph, norm, node)), None)
    if consumer is None:
        return graph.replaced({norm.name: as_synapses(norm, shapes[source])})
    if isinstance(consumer, Linear | Conv2d | BatchNorm):
        folded = _composed(norm, consumer) if isinstance(consumer, BatchNorm) else _into_weights(norm, consumer)
        graph = graph.replaced({consumer.name: replace(rewired(folded, norm.name, source), name=consumer.name)})
        return graph if len(consumers) > 1 else without(graph, norm.name)
    new = norm
    if isinstance(consumer, Flatten):
        size = int(np.prod(shapes[source][1:]))
        new = replace(norm, scale=np.repeat(norm.scale, size), shift=np.repeat(norm.shift, size))
    elif isinstance(consumer, Concat):
        scales = [norm.scale if name == norm.name else np.ones(shapes[name][0]) for name in consumer.inputs]
        shifts = [norm.shift if name == norm.name else np.zeros(shapes[name][0]) for name in consumer.inputs]
        new = replace(norm, scale=np.concatenate(scales), shift=np.concatenate(shifts))
    return moved_behind(graph, norm, consumer, new)


def _takes_norm(graph: Graph, norm: BatchNorm, consumer: Node) -> bool:
    """Whether a map of spikes or data can go into, or past, what takes it."""
    if isinstance(consumer, Linear) and consumer.delay is not None and norm.shift.any():
        raise UnsupportedError(
            f"{norm.name}: shifts the input of {consumer.name}, whose synapses delay it; put the normalisation after it"
        )
    if isinstance(consumer, Linear | BatchNorm | Flatten):
        return True
    if isinstance(consumer, Conv2d) and consumer.padding != (0, 0) and norm.shift.any():
        raise UnsupportedError(
            f"{norm.name}: shifts the input of {consumer.name}, whose padding of {consumer.padding} it does not shift; "
            "use padding 0, or put the normalisation after the convolution"
        )
    if isinstance(consumer, Conv2d):
        return True
    if isinstance(consumer, AvgPool2d):
        return consumer.padding == (0, 0) or not norm.shift.any()
    if isinstance(consumer, Concat):
        return not is_current(graph, consumer.name)
    return isinstance(consumer, Delay) and not norm.shift.any()


def _into_weights(norm: BatchNorm, synapse: Linear | Conv2d) -> Linear | Conv2d:
    """``w (scale x + shift) + b``; nothing is padded, or nothing shifted."""
    if isinstance(synapse, Linear):
        return replace(synapse, weight=synapse.weight * norm.scale, bias=synapse.bias + synapse.weight @ norm.shift)
    outputs, per_group = synapse.weight.shape[:2]
    # Output o sees the channels of its group.
    seen = np.arange(outputs)[:, None] // (outputs // synapse.groups) * per_group + np.arange(per_group)
    shift = (synapse.weight.sum((2, 3)) * norm.shift[seen]).sum(1)
    return replace(synapse, weight=synapse.weight * norm.scale[seen][:, :, None, None], bias=synapse.bias + shift)


def merge_linear(graph: Graph) -> Graph:
    """Make one Linear of two without neurons between.

    ::

        Before: Linear(w1, b1) -> Linear(w2, b2)
        After:  Linear(w2 w1, w2 b1 + b2)
    """
    for first in graph.nodes:
        consumers = graph.consumers(first.name)
        if not isinstance(first, Linear) or first.delay is not None or not consumers:
            continue
        merged: dict[str, Node | None] = {
            node.name: replace(node, weight=node.weight @ first.weight, bias=node.weight @ first.bias + node.bias)
            for node in consumers
            if isinstance(node, Linear) and node.delay is None
        }
        if len(merged) == len(consumers):
            return merge_linear(graph.replaced({first.name: None, **merged}))
    return graph


def fold_average_pool(graph: Graph) -> Graph:
    """Fold average pooling into the convolution before it, or the synapses after it.

    ::

        Before: Conv2d(w, stride s) -> AvgPool2d(p) -> Neuron
        After:  Conv2d(w * ones(p)/|p|, stride s * p) -> Neuron

        Before: Neuron -> AvgPool2d(p) -> Conv2d(w, stride s) or Flatten -> Linear(w)
        After:  Neuron -> Conv2d(kron(w, ones(p)/|p|), stride s * p) or Flatten -> Linear(w P), P the pooling matrix

        Before: Neuron -> AvgPool2d(p) -> Neuron, Add or the end
        After:  Neuron -> Conv2d(ones(p)/|p|, stride p, one group per channel) -> Neuron, Add or the end

    Raises:
        UnsupportedError: a padded convolution or pooling sees a border that the folded kernel cannot.
    """
    while pools := [node for node in graph.nodes if isinstance(node, AvgPool2d)]:
        after_synapses = [pool for pool in pools if is_current(graph, pool.inputs[0])]
        # Behind synapses the first, behind spikes the last, so that pooling of pooling folds one by one.
        graph = _pool_backward(graph, after_synapses[0]) if after_synapses else _pool_forward(graph, pools[-1])
    return graph


def _pool_backward(graph: Graph, pool: AvgPool2d) -> Graph:
    graph, source = private_source(graph, pool)
    if isinstance(source, Conv2d) and pool.padding == (0, 0):
        return graph.replaced({pool.name: None, source.name: _conv_then_pool(source, pool)})
    if isinstance(source, Add | Concat | Delay):
        return on_each_input(graph, pool, source, [pool] * len(source.inputs))
    if isinstance(source, Conv2d):
        raise UnsupportedError(
            f"{pool.name}: pads the output of {source.name} with {pool.padding} zeros, which no convolution does; "
            "pool without padding, or after the neurons"
        )
    raise UnsupportedError(
        f"{pool.name}: follows {source.name}; average pooling folds only into a Conv2d right before it, or into what "
        "follows neurons"
    )


def _pool_forward(graph: Graph, pool: AvgPool2d) -> Graph:
    """Into each consumer that has weights; synapses of its own for the others."""
    shapes = graph.shapes()
    source = pool.inputs[0]
    consumers = graph.consumers(pool.name)
    delays = [node for node in consumers if isinstance(node, Delay)]
    if delays:
        return moved_behind(graph, pool, delays[0], pool)
    changes: dict[str, Node | None] = {}
    for node in consumers:
        if isinstance(node, Conv2d):
            folded = _pool_then_conv(pool, node, shapes[source])
            changes[node.name] = rewired(folded, pool.name, source)
        elif isinstance(node, Flatten) and (linears := _only_linear(graph, node)):
            matrix = pooling_matrix(pool, shapes[source])
            changes[node.name] = rewired(node, pool.name, source)
            changes |= {linear.name: _pool_then_linear(pool, linear, matrix) for linear in linears}
    graph = graph.replaced(changes)
    if consumers and len(graph.consumers(pool.name)) == 0:
        return without(graph, pool.name)
    return graph.replaced({pool.name: as_synapses(pool, shapes[source])})


def _only_linear(graph: Graph, flatten: Flatten) -> list[Linear]:
    """The consumers of ``flatten``, if all are Linear; else none."""
    consumers = graph.consumers(flatten.name)
    linears = [node for node in consumers if isinstance(node, Linear)]
    return linears if len(linears) == len(consumers) else []


def _pool_then_linear(pool: AvgPool2d, linear: Linear, matrix: Array) -> Linear:
    delay = linear.delay
    if delay is not None:
        if (delay != delay.flat[0]).any():
            raise UnsupportedError(
                f"{linear.name}: its synapses delay what {pool.name} pools by different numbers of steps; pool before "
                "the neurons"
            )
        delay = np.full((len(delay), matrix.shape[1]), delay.flat[0])
    return replace(linear, weight=linear.weight @ matrix, delay=delay)


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
    pooled = output_size(shape[1:], pool.kernel, pool.stride, pool.padding)
    for size, window, stride, pad, out, conv_pad in zip(
        shape[1:], pool.kernel, pool.stride, pool.padding, pooled, conv.padding, strict=True
    ):
        # The convolution pads the pooled map with zeros: no window beyond that map may see a pixel.
        if conv_pad and (window > stride + pad or size + pad > out * stride):
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
    padding = (conv.padding[0] * step_h + pool.padding[0], conv.padding[1] * step_w + pool.padding[1])
    return replace(
        conv,
        weight=weight / (pool_h * pool_w),
        stride=(conv.stride[0] * step_h, conv.stride[1] * step_w),
        padding=padding,
        dilation=(1, 1),
    )


def pooling_matrix(pool: AvgPool2d, shape: Shape) -> Array:
    """``[C * H_out * W_out, C * H * W]`` of the pooling on an input of ``shape``."""
    outputs = output_size(shape[1:], pool.kernel, pool.stride, pool.padding)
    axes = []
    for size, out, kernel, stride, pad in zip(shape[1:], outputs, pool.kernel, pool.stride, pool.padding, strict=True):
        rows = np.zeros((out, size + 2 * pad))
        for o in range(out):
            rows[o, o * stride : o * stride + kernel] = 1 / kernel
        axes.append(rows[:, pad : pad + size])
    return np.kron(np.eye(shape[0]), np.kron(axes[0], axes[1]))
