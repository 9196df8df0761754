"""Capture of :class:`snn2chip.nn.Network`, module by module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.graph import AvgPool2d, BatchNorm, Conv2d, Flatten, Graph, Input, Linear, Neuron, Node
from snn2chip.nn import Network, SpikingNeuron

Array = npt.NDArray[Any]


def capture_network(network: Network) -> Graph:
    """The graph of ``network`` in evaluation mode; see :func:`snn2chip.frontends.capture`.

    The input is taken as analog; :func:`snn2chip.model_file.save` marks it as spikes where the data are binary events.
    """
    nodes: list[Node] = [Input(name="input", shape=network.input_shape, kind="analog")]
    for path, module in _leaves(network):
        name = f"{path} ({type(module).__name__})"
        node = _node(name, module)
        if node is not None:
            arrays = [v for v in vars(node).values() if isinstance(v, np.ndarray)]
            if not all(np.isfinite(a).all() for a in arrays):
                raise InputError(f"{name}: its parameters contain NaN or infinite values; train it again")
            nodes.append(node.__class__(**{**vars(node), "inputs": (nodes[-1].name,)}))
    graph = Graph(tuple(nodes), network.time_steps)
    graph.shapes()
    return graph


def _leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        path = prefix + name
        if type(child) is nn.Sequential:
            yield from _leaves(child, f"{path}.")
        else:
            yield path, child


def _node(name: str, module: nn.Module) -> Node | None:
    """The node of one module; None where it does nothing in evaluation."""
    if isinstance(module, nn.Dropout | nn.Dropout1d | nn.Dropout2d | nn.Identity):
        return None
    for kind, build in _BUILDERS:
        if isinstance(module, kind):
            return build(name, module)
    supported = ", ".join(kind.__name__ for kind, _ in _BUILDERS)
    raise UnsupportedError(f"{name}: modules of this type are not supported; use {supported} or Dropout")


def _array(tensor: torch.Tensor) -> Array:
    array: Array = tensor.detach().cpu().to(torch.float64).numpy()
    return array


def _bias(module: nn.Linear | nn.Conv2d) -> Array:
    return np.zeros(module.weight.shape[0]) if module.bias is None else _array(module.bias)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))
    return first, second


def _linear(name: str, module: Any) -> Node:
    return Linear(name=name, weight=_array(module.weight), bias=_bias(module))


def _conv(name: str, module: Any) -> Node:
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise UnsupportedError(
            f"{name}: padding {module.padding!r} in mode {module.padding_mode!r} is not supported; "
            "give the padding in pixels, with zeros"
        )
    return Conv2d(
        name=name,
        weight=_array(module.weight),
        bias=_bias(module),
        stride=_pair(module.stride),
        padding=_pair(module.padding),
        dilation=_pair(module.dilation),
        groups=module.groups,
    )


def _batch_norm(name: str, module: Any) -> Node:
    if module.running_mean is None:
        raise UnsupportedError(f"{name}: has no running statistics; train it with track_running_stats=True")
    scale = 1 / np.sqrt(_array(module.running_var) + module.eps)
    if module.affine:
        scale = scale * _array(module.weight)
    shift = -_array(module.running_mean) * scale
    if module.affine:
        shift = shift + _array(module.bias)
    return BatchNorm(name=name, scale=scale, shift=shift)


def _average_pool(name: str, module: Any) -> Node:
    if _pair(module.padding) != (0, 0) or module.ceil_mode or module.divisor_override is not None:
        raise UnsupportedError(
            f"{name}: padding, ceil_mode and divisor_override are not supported; pad the convolution"
        )
    return AvgPool2d(name=name, kernel=_pair(module.kernel_size), stride=_pair(module.stride))


def _flatten(name: str, module: Any) -> Node:
    if (module.start_dim, module.end_dim) != (1, -1):
        raise UnsupportedError(f"{name}: flattens dimensions {module.start_dim} to {module.end_dim}; use nn.Flatten()")
    return Flatten(name=name)


def _neuron(name: str, module: Any) -> Node:
    return Neuron(
        name=name,
        alpha=float(module.alpha),
        beta=float(module.beta),
        threshold=float(module.threshold),
        reset=module.reset,
        recurrent=None if module.recurrent is None else _array(module.recurrent.weight),
    )


_BUILDERS: tuple[tuple[type[nn.Module], Callable[[str, Any], Node]], ...] = (
    (nn.Linear, _linear),
    (nn.Conv2d, _conv),
    (nn.BatchNorm1d, _batch_norm),
    (nn.BatchNorm2d, _batch_norm),
    (nn.AvgPool2d, _average_pool),
    (nn.Flatten, _flatten),
    (SpikingNeuron, _neuron),
)
