"""What several passes need: questions about a graph, and small edits of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.graph import (
    AvgPool2d,
    BatchNorm,
    ChipLayer,
    Conv2d,
    Graph,
    Input,
    Linear,
    Neuron,
    Node,
    Shape,
    per_channel,
    per_neuron,
)

Array = npt.NDArray[Any]


def is_current(graph: Graph, name: str) -> bool:
    """Whether synapses feed ``name`` with no neurons between: its values are currents, not spikes or data."""
    node = graph.node(name)
    if isinstance(node, Linear | Conv2d):
        return True
    if isinstance(node, Input | Neuron | ChipLayer):
        return False
    return any(is_current(graph, source) for source in node.inputs)


def rewired(node: Node, old: str, new: str) -> Node:
    """``node`` with input ``old`` replaced by ``new``."""
    return replace(node, inputs=tuple(new if name == old else name for name in node.inputs))


def inserted(graph: Graph, after: str, node: Node, consumers: list[str] | None = None) -> Graph:
    """``node`` put behind ``after``, whose consumers (or only those named) take it instead."""
    nodes: list[Node] = []
    for one in graph.nodes:
        nodes.append(one if consumers is not None and one.name not in consumers else rewired(one, after, node.name))
        if one.name == after:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def without(graph: Graph, name: str) -> Graph:
    """The graph without a node that nothing takes."""
    return replace(graph, nodes=tuple(node for node in graph.nodes if node.name != name))


def private_source(graph: Graph, node: Node) -> tuple[Graph, Node]:
    """The (first) source of ``node``, after it has been copied where others take it too."""
    source = graph.node(node.inputs[0])
    if graph.consumers(source.name) == [node]:
        return graph, source
    copy = replace(source, name=fresh(graph, f"{source.name} for {node.name}"))
    place = graph.nodes.index(source) + 1
    graph = replace(graph, nodes=(*graph.nodes[:place], copy, *graph.nodes[place:]))
    return graph.replaced({node.name: rewired(node, source.name, copy.name)}), copy


def fresh(graph: Graph, name: str) -> str:
    """``name``, or it with a number, so that no node has it."""
    taken = {node.name for node in graph.nodes}
    return name if name not in taken else next(n for k in range(2, 1 << 30) if (n := f"{name} {k}") not in taken)


def on_each_input(graph: Graph, operation: Node, through: Node, parts: list[Node]) -> Graph:
    """Move an operation before the node that it follows: ``parts[k]`` acts on that node's input k.

    ::

        Before: a, b -> through -> operation
        After:  a -> parts[0], b -> parts[1] -> through
    """
    names: list[str] = []
    for part, source in zip(parts, through.inputs, strict=True):
        name = fresh(graph, operation.name if not names else f"{operation.name} of {source}")
        if not names:
            graph = graph.replaced({operation.name: None})
            name = operation.name
        names.append(name)
        place = graph.nodes.index(graph.node(source)) + 1
        new = replace(part, name=name, inputs=(source,))
        graph = replace(graph, nodes=(*graph.nodes[:place], new, *graph.nodes[place:]))
    return graph.replaced({through.name: replace(graph.node(through.name), inputs=tuple(names))})


def moved_behind(graph: Graph, operation: Node, consumer: Node, new: Node) -> Graph:
    """Swap an operation and one of its consumers.

    ::

        Before: a -> operation -> consumer
        After:  a -> consumer -> new
    """
    source = operation.inputs[0]
    name = operation.name
    others = [node for node in graph.consumers(name) if node is not consumer]
    graph = graph.replaced({consumer.name: rewired(consumer, name, source)})
    if not others:
        graph = without(graph, name)
    else:
        name = fresh(graph, f"{name} of {consumer.name}")
    return inserted(graph, consumer.name, replace(new, name=name, inputs=(consumer.name,)))


def as_synapses(node: BatchNorm | AvgPool2d, shape: Shape) -> Linear | Conv2d:
    """The same map of an input of ``shape`` as synapses: one weight per channel, or a window of equal weights."""
    if isinstance(node, AvgPool2d):
        weight = np.full((shape[0], 1, *node.kernel), 1 / (node.kernel[0] * node.kernel[1]))
        zeros = np.zeros(shape[0])
        geometry = {"stride": node.stride, "padding": node.padding, "groups": shape[0]}
        return Conv2d(name=node.name, inputs=node.inputs, weight=weight, bias=zeros, **geometry)  # type: ignore[arg-type]
    if len(shape) == 3:
        weight = per_channel(node.scale, 4)
        return Conv2d(name=node.name, inputs=node.inputs, weight=weight, bias=node.shift, groups=shape[0])
    return Linear(name=node.name, inputs=node.inputs, weight=np.diag(node.scale), bias=node.shift)


def alike(shape: Shape, *values: float | Array) -> tuple[Array, ...]:
    """Parameters of neurons of ``shape`` as arrays that broadcast with one another."""
    if all(np.ndim(value) < 2 for value in values):
        return tuple(np.asarray(value, np.float64) for value in values)
    return tuple(np.array(per_neuron(value, shape), np.float64) for value in values)


def with_arrays(neuron: Neuron, change: Callable[[Array], Array]) -> Neuron:
    """``neuron`` with those of its parameters changed that are arrays, ``[C]`` or ``[*shape]``; numbers stay."""

    def changed(values: float | Array) -> float | Array:
        return values if np.ndim(values) == 0 else change(np.asarray(values))

    return replace(
        neuron,
        alpha=changed(neuron.alpha),
        beta=changed(neuron.beta),
        threshold=changed(neuron.threshold),
        bias=None if neuron.bias is None else change(neuron.bias),
    )


def identity(name: str, source: str, shape: Shape) -> Linear | Conv2d:
    """Synapses that carry a value of ``shape`` on unchanged."""
    ones, zeros = np.ones(shape[0]), np.zeros(shape[0])
    return as_synapses(BatchNorm(name=name, inputs=(source,), scale=ones, shift=zeros), shape)
