"""Convolutions found again in matrices: what NetX needs unrolled, a Lava module keeps as a kernel.

Reset by subtraction needs synapses from a neuron to itself, which NetX has in all-to-all layers alone, so that such
convolutions are compiled to matrices (:mod:`snn2chip.passes.unroll`). Here each matrix is searched for a kernel, stride
and padding that give exactly it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import law
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, Layer, Neuron, Shape
from snn2chip.conv import output_size
from snn2chip.deployment.circuit import Circuit, Edge

Array = npt.NDArray[Any]

#: Kernels, strides and paddings that are tried, the same along both axes.
KERNELS, STRIDES, PADDINGS = range(1, 12), range(1, 5), range(6)


def rolled(net: ChipNet) -> Circuit:
    """``net`` with convolutions in place of matrices that are unrolled ones; it computes the same.

    ::

        Before: Dense(M, recurrent = diagonal)
        After:  Conv(kernel), and an edge from each neuron to itself

    Layers whose matrix is no convolution stay as they are, and so do those with other recurrent synapses or delays: a
    convolution that subtracts its threshold and has a bias, which clock neurons in its matrix carry, is one of them.
    """
    layers: list[Layer] = []
    edges: list[Edge] = []
    shape = net.input_shape
    for layer in net.layers:
        new = layer
        if isinstance(layer, Dense):
            found = _found(layer, shape) if layer is not net.layers[-1] else None
            if found is None:
                new = replace(layer, input_shape=shape)
            else:
                new, edge = found
                edges += [edge] if edge is not None else []
        elif not isinstance(layer, InputNeurons) and layer.input_shape != shape:
            return Circuit(net)
        layers.append(new)
        shape = new.shape
    return Circuit(replace(net, layers=tuple(layers)), tuple(edges))


def _found(layer: Dense, shape: Shape) -> tuple[Conv, Edge | None] | None:
    if len(shape) != 3 or layer.delay is not None or not isinstance(layer.neuron, Neuron):
        return None
    recurrent = layer.recurrent
    if recurrent is not None and np.count_nonzero(recurrent) != np.count_nonzero(np.diag(recurrent)):
        return None
    conv = convolution(layer, shape)
    if conv is None or recurrent is None:
        return None if conv is None else (conv, None)
    own = np.diag(recurrent).reshape(conv.shape)
    if (own != own[:, :1, :1]).any():
        return None
    return conv, Edge(layer.name, layer.name, np.ascontiguousarray(own[:, 0, 0]))


def convolution(layer: Dense, shape: Shape) -> Conv | None:
    """The convolution of images of ``shape`` that ``layer``'s matrix is, of the smallest kernel; None if it is none."""
    neurons, matrix = layer.shape[0], layer.weight.reshape(-1, *shape)
    for kernel, stride, padding in itertools.product(KERNELS, STRIDES, PADDINGS):
        if padding >= kernel or kernel > min(shape[1:]) + 2 * padding:
            continue
        size = output_size(shape[1:], (kernel, kernel), (stride, stride), (padding, padding), (1, 1))
        places = math.prod(size)
        if places < 2 or neurons % places:
            continue
        weight = _kernel(matrix.reshape(-1, *size, *shape), kernel, stride, padding)
        if weight is None:
            continue
        neuron = _images(layer.neuron, (neurons // places, *size))
        conv = Conv(layer.name, shape, weight, neuron, (stride, stride), (padding, padding))
        inputs = math.prod(shape)
        one = np.eye(inputs, dtype=np.int64).reshape(inputs, *shape)
        if (layer.weight == law.weighted_sums(conv, one).reshape(inputs, neurons).T).all():
            return conv
    return None


def _kernel(matrix: Array, kernel: int, stride: int, padding: int) -> Array | None:
    """Weights of ``matrix`` ``[C_out, H_out, W_out, C_in, H, W]`` at each tap, each from the first place that has it.

    None where the place in the middle sees more than its taps, which most matrices show at once.
    """
    channels, height, width, inputs, rows, columns = matrix.shape
    out = np.zeros((channels, inputs, kernel, kernel), np.int32)
    for i, j in np.ndindex(kernel, kernel):
        up, left = (_place(tap, stride, padding, *sizes) for tap, sizes in ((i, (height, rows)), (j, (width, columns))))
        if up is None or left is None:
            continue  # it sees nothing but padding
        out[:, :, i, j] = matrix[:, up[0], left[0], :, up[1], left[1]]
    y, x = height // 2, width // 2
    seen = matrix[:, y, x].copy()
    top, start = y * stride - padding, x * stride - padding
    seen[..., max(0, top) : max(0, top + kernel), max(0, start) : max(0, start + kernel)] = 0
    return None if seen.any() else out


def _place(tap: int, stride: int, padding: int, outputs: int, inputs: int) -> tuple[int, int] | None:
    """An output and the input that it sees through a tap, along one axis."""
    for output in range(outputs):
        seen = output * stride + tap - padding
        if seen in range(inputs):
            return output, seen
    return None


def _images(neuron: Any, shape: Shape) -> Neuron:
    """Parameters of each neuron as images."""
    assert isinstance(neuron, Neuron)
    parameters = {name: getattr(neuron, name) for name in ("threshold", "current_decay", "voltage_decay", "bias")}
    return Neuron(**{name: array.reshape(shape) if array.ndim else array for name, array in parameters.items()})
