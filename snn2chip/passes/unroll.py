"""Convolutions as all-to-all synapses, for what only these can do."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import output_size
from snn2chip.errors import LimitError, UnsupportedError
from snn2chip.graph import Add, Concat, Conv2d, Delay, Flatten, Graph, Linear, Neuron, Node, Shape, per_neuron
from snn2chip.passes.edit import fresh, with_arrays
from snn2chip.passes.forms import ungrouped

Array = npt.NDArray[Any]

#: Most weights of one matrix that a convolution is unrolled to: 1024 neurons on 1024 inputs are 1 MiB at 8 bits.
UNROLLED_MAX = 1 << 20


def unrolled(graph: Graph, names: set[str], reason: str, remedy: str) -> Graph:
    """Make some layers, and all that follows them up to a Flatten, all-to-all on flattened maps (C, H, W order).

    ::

        Before: Conv2d(w) -> Neuron -> Conv2d(w2) -> Neuron -> Flatten -> Linear
        After:  Flatten -> Linear(W) -> Neuron -> Linear(W2) -> Neuron -> Linear

    Args:
        names: neurons or convolutions on feature maps.
        reason: what needs it, for errors.
        remedy: what to do instead, for errors.

    Raises:
        LimitError: a matrix would have more than :data:`UNROLLED_MAX` weights.
        UnsupportedError: an operation follows that has no flat form.
    """
    shapes = graph.shapes()
    wanted = set(names)
    for node in reversed(graph.nodes):
        if node.name in wanted and isinstance(node, Neuron | Add | Concat | Delay):
            sources = (graph.node(name) for name in node.inputs)
            wanted |= {source.name for source in sources if isinstance(source, Conv2d | Add | Concat | Delay)}
    flat: dict[str, str] = {}  # a feature map's name -> the node that has it flattened: itself, or a new Flatten
    nodes: list[Node] = []
    needless: dict[str, Node | None] = {}
    for node in graph.nodes:
        on_flat = any(flat.get(name) == name for name in node.inputs)
        if isinstance(node, Flatten) and on_flat:
            needless[node.name] = None
        if node.name not in wanted and (not on_flat or isinstance(node, Flatten)):
            nodes.append(node)
            continue
        for name in node.inputs:
            if name not in flat:
                flat[name] = fresh(graph, f"{name} flat")
                nodes.append(Flatten(name=flat[name], inputs=(name,)))
        taken = tuple(flat[name] for name in node.inputs)
        nodes.append(replace(_flat(node, shapes, reason, remedy), inputs=taken))
        flat[node.name] = node.name
    return replace(graph, nodes=tuple(nodes)).replaced(needless)


def _flat(node: Node, shapes: dict[str, Shape], reason: str, remedy: str) -> Node:
    shape = shapes[node.name]
    if isinstance(node, Conv2d):
        source = shapes[node.inputs[0]]
        weights = math.prod(shape) * math.prod(source)
        if weights > UNROLLED_MAX:
            raise LimitError(node.name, f"{reason}; number of weights", weights, UNROLLED_MAX, remedy)
        bias = np.repeat(node.bias, math.prod(shape[1:]))
        return Linear(name=node.name, inputs=node.inputs, weight=conv_matrix(node, source), bias=bias)
    if isinstance(node, Neuron):
        wide = with_arrays(node, lambda values: per_neuron(values, shape).ravel())
        return replace(wide, relays=node.relays * math.prod(shape[1:]))
    if isinstance(node, Add | Concat | Delay):
        return node
    raise UnsupportedError(
        f"{node.name}: follows a layer that had to be unrolled ({reason}), which it cannot; {remedy}"
    )


def conv_matrix(conv: Conv2d, shape: Shape) -> Array:
    """``[C_out * H_out * W_out, C_in * H * W]``: the convolution of maps of ``shape`` as one matrix."""
    kernel = ungrouped(conv)
    size = shape[1:]
    height, width = output_size(size, kernel.shape[2:], conv.stride, conv.padding, conv.dilation)
    out = np.zeros((kernel.shape[0], height, width, *shape))
    for i, j in np.ndindex(*kernel.shape[2:]):
        places = []
        for tap, outputs, n, stride, pad, dilation in zip(
            (i, j), (height, width), size, conv.stride, conv.padding, conv.dilation, strict=True
        ):
            seen = np.arange(outputs) * stride + tap * dilation - pad
            inside = (seen >= 0) & (seen < n)
            places.append((np.arange(outputs)[inside], seen[inside]))
        (rows, rows_in), (columns, columns_in) = places
        # Index arrays apart by slices come first: [rows, columns, C_out, C_in].
        out[:, rows[:, None], columns, :, rows_in[:, None], columns_in] += kernel[:, :, i, j]
    return out.reshape(math.prod(out.shape[:3]), -1)
