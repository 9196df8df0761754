"""The synapses' bias, which the chip adds to the potential and never to the current.

Where the current decays, a bias has to come with the input at each step: from a neuron that always fires.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair
from snn2chip.errors import UnsupportedError
from snn2chip.graph import Conv2d, Flatten, Graph, Linear, Neuron, Node, per_neuron
from snn2chip.passes.edit import alike, fresh
from snn2chip.passes.forms import ungrouped
from snn2chip.passes.unroll import unrolled

Array = npt.NDArray[Any]

#: What the refusals offer.
REMEDY = "train with bias=False"


def move_bias(graph: Graph) -> Graph:
    """Move the synapses' bias into their neuron, or let a neuron that always fires deliver it.

    Where the current is memoryless, the chip adds the bias to the potential at each step::

        Before: Linear(w, b) -> Neuron(alpha=0)
        After:  Linear(w, 0) -> Neuron(bias=b)

    Where it decays, the layer before is given one more neuron (before a convolution: a channel of them) that has no
    weights and a bias above its threshold, behind its own neurons and before its relays::

        Before: Neuron f -> Linear(w, b) -> Neuron(alpha)
        After:  Neuron [f, always] -> Linear([w, b], 0) -> Neuron(alpha)

    The first layer gets such a neuron itself. It fires from step 0 on and acts one step later, with what is left of
    the bias by then; the bias of the present step is added to the potential::

        Before: Input -> Linear(w, b) -> Neuron(alpha, recurrent=R) -> Linear(w2)
        After:  Input -> Linear([w, 0], 0) -> Neuron [f, always](bias=b, recurrent=[R, alpha b]) -> Linear([w2, 0])

    If that is the last layer as well, a layer of relays leaves the additional neuron out. A convolution as first layer
    is unrolled for it.

    Raises:
        UnsupportedError, LimitError: there is no place for such a neuron.
    """
    for name in [node.name for node in graph.nodes if isinstance(node, Linear | Conv2d)]:
        synapse, neuron = _layer(graph, name)
        if neuron is None or not synapse.bias.any():
            continue  # chip_blocks names what is wrong
        fed = _fed(graph, synapse, neuron)
        before = _layer_before(graph, synapse)
        if fed.any() and isinstance(synapse, Conv2d) and (before is None or _tap(graph, synapse) is None):
            graph = unrolled(graph, {name}, f"the bias feeds a current that decays ({neuron.name})", REMEDY)
            synapse, neuron = _layer(graph, name)
            assert neuron is not None  # as it was before
            fed = _fed(graph, synapse, neuron)
            before = _layer_before(graph, synapse)
        # The first layer's own neuron acts one step late, so that the present step's bias is left to the potential.
        graph = _into_potential(graph, synapse, neuron, synapse.bias if before is None else synapse.bias - fed)
        if fed.any() and before is None:
            graph = _from_own_layer(graph, name, fed)
        elif fed.any() and before is not None:
            graph = _from_layer_before(graph, before.name, name, fed)
    return graph


def _layer(graph: Graph, name: str) -> tuple[Linear | Conv2d, Neuron | None]:
    """Synapses and their neurons, if these are all that takes them."""
    synapse = graph.node(name)
    assert isinstance(synapse, Linear | Conv2d)
    consumers = graph.consumers(name)
    neuron = consumers[0] if len(consumers) == 1 else None
    return synapse, neuron if isinstance(neuron, Neuron) else None


def _fed(graph: Graph, synapse: Linear | Conv2d, neuron: Neuron) -> Array:
    """``[C]``: the bias where any current of the channel decays, or lasts; else 0."""
    alpha = per_neuron(neuron.alpha, graph.shapes()[neuron.name])
    return np.where((alpha != 0).reshape(len(alpha), -1).any(1), synapse.bias, 0.0)


def _layer_before(graph: Graph, synapse: Node) -> Neuron | None:
    source = graph.node(synapse.inputs[0])
    if isinstance(source, Flatten):
        source = graph.node(source.inputs[0])
    return source if isinstance(source, Neuron) else None


def _into_potential(graph: Graph, synapse: Linear | Conv2d, neuron: Neuron, direct: Array) -> Graph:
    bias: Array | None = direct
    if neuron.bias is not None:
        old, new = alike(graph.shapes()[neuron.name], neuron.bias, direct)
        bias = old + new
    elif not direct.any():
        bias = None
    silent = replace(synapse, bias=np.zeros_like(synapse.bias))
    return graph.replaced({synapse.name: silent, neuron.name: replace(neuron, bias=bias)})


def _tap(graph: Graph, conv: Conv2d) -> Pair | None:
    """A place in the kernel that never lies in the padding, for any output; None where there is none."""
    shapes = graph.shapes()
    found = []
    for size, out, kernel, stride, pad, dilation in zip(
        shapes[conv.inputs[0]][1:],
        shapes[conv.name][1:],
        conv.weight.shape[2:],
        conv.stride,
        conv.padding,
        conv.dilation,
        strict=True,
    ):
        inside = [k for k in range(kernel) if 0 <= k * dilation - pad < size - (out - 1) * stride]
        if not inside:
            return None
        found.append(inside[0])
    return found[0], found[1]


def _from_layer_before(graph: Graph, before: str, name: str, fed: Array) -> Graph:
    """Add an always firing neuron to those called ``before``, and synapses from it to those called ``name``."""
    shape, neuron = graph.shapes()[before], graph.node(before)
    assert isinstance(neuron, Neuron)
    at = shape[0] - neuron.relays
    pixels = math.prod(shape[1:])
    synapse, _ = _layer(graph, name)
    if isinstance(synapse, Linear):
        places = np.zeros(shape[1:])
        places[(0,) * places.ndim] = 1.0  # one of the channel's neurons is enough
        return _with_columns(_with_always_firing(graph, before, places), name, at * pixels, pixels, fed)
    tap = _tap(graph, synapse)
    assert tap is not None  # else it has been unrolled
    kernel = np.insert(ungrouped(synapse), at, 0.0, 1)
    kernel[:, at, tap[0], tap[1]] = fed
    graph = _with_always_firing(graph, before, np.ones(shape[1:]))
    return graph.replaced({name: replace(synapse, weight=kernel, groups=1)})


def _from_own_layer(graph: Graph, name: str, fed: Array) -> Graph:
    """Add an always firing neuron to the first layer, and recurrent synapses from it."""
    synapse, neuron = _layer(graph, name)
    assert isinstance(synapse, Linear)
    assert neuron is not None
    if synapse.delay is not None or (neuron is graph.output and graph.reads_potential):
        why = "its synapses have delays" if synapse.delay is not None else "its potential is read"
        raise UnsupportedError(
            f"{name}: its bias feeds a current that decays ({neuron.name}), and {why}; no neuron can deliver it; "
            f"{REMEDY}"
        )
    size = len(synapse.weight)
    at = size - neuron.relays
    column = per_neuron(neuron.alpha, (size,)) * fed
    following = graph.consumers(neuron.name)
    graph = _with_always_firing(graph, neuron.name, np.ones(()), column)
    if not following:
        select = np.delete(np.eye(size + 1), at, 0)
        output = Linear(
            name=fresh(graph, f"{neuron.name} output"), inputs=(neuron.name,), weight=select, bias=np.zeros(size)
        )
        relays = Neuron(
            name=fresh(graph, f"{neuron.name} relayed"), inputs=(output.name,), beta=0.0, threshold=0.5, relays=size
        )
        return replace(graph, nodes=(*graph.nodes, output, relays))
    after = following[0]
    if isinstance(after, Flatten):
        after = graph.consumers(after.name)[0]
    if len(following) > 1 or not isinstance(after, Linear):
        raise _branches(neuron)
    return _with_columns(graph, after.name, at, 1, np.zeros(len(after.weight)))


def _branches(neuron: Neuron) -> UnsupportedError:
    return UnsupportedError(
        f"{neuron.name}: needs an additional neuron that always fires, to deliver a bias, which only a chain of layers "
        f"can have; {REMEDY}"
    )


def _with_columns(graph: Graph, name: str, at: int, count: int, first: Array) -> Graph:
    """A Linear with ``count`` more inputs at ``at``; weight ``first`` for the first of them, 0 for the others."""
    synapse = graph.node(name)
    assert isinstance(synapse, Linear)
    weight = np.insert(synapse.weight, [at] * count, 0.0, 1)
    weight[:, at] = first
    delay = None if synapse.delay is None else np.insert(synapse.delay, [at] * count, 0, 1)
    return graph.replaced({name: replace(synapse, weight=weight, delay=delay)})


def _with_always_firing(graph: Graph, name: str, places: Array, column: Array | None = None) -> Graph:
    """One more neuron (or channel) before the relays; it fires at each step where ``places`` ``[*shape[1:]]`` are 1.

    Args:
        column: ``[C]``, recurrent weights from it.
    """
    neuron, shape = graph.node(name), graph.shapes()[name]
    assert isinstance(neuron, Neuron)
    at = shape[0] - neuron.relays
    synapse = graph.node(neuron.inputs[0])
    shared = len(graph.consumers(synapse.name)) > 1 or len(graph.consumers(name)) > 1
    if shared or not isinstance(synapse, Linear | Conv2d):
        raise _branches(neuron)
    # As large as the weights, so that it keeps its sense at their scale.
    bias = float(np.abs(synapse.weight).max(initial=0)) or 1.0

    def widened(values: float | Array, new: float) -> float | Array:
        if np.ndim(values) == 0:
            if values == new:
                return values
            values = np.full(shape[0], values)
        return np.insert(np.asarray(values, np.float64), at, new, 0)

    biases: Array = np.zeros(shape[0]) if neuron.bias is None else neuron.bias
    if places.all():
        biases = np.insert(biases, at, bias, 0)
    else:
        biases = np.insert(per_neuron(biases, shape), at, bias * places, 0)
    recurrent = neuron.recurrent
    if recurrent is not None or column is not None:
        recurrent = np.zeros((shape[0], shape[0])) if recurrent is None else recurrent
        recurrent = np.insert(recurrent, at, 0.0 if column is None else column, 1)
        recurrent = np.insert(recurrent, at, 0.0, 0)
    wider = replace(
        neuron,
        alpha=widened(neuron.alpha, 0.0),
        beta=widened(neuron.beta, 0.0),
        threshold=widened(neuron.threshold, bias / 4),
        bias=biases,
        recurrent=recurrent,
    )
    weight = synapse.weight if isinstance(synapse, Linear) else ungrouped(synapse)
    fields: dict[str, Any] = {"weight": np.insert(weight, at, 0.0, 0), "bias": np.insert(synapse.bias, at, 0.0)}
    if isinstance(synapse, Conv2d):
        fields["groups"] = 1
    elif synapse.delay is not None:
        fields["delay"] = np.insert(synapse.delay, at, 0, 0)
    return graph.replaced({name: wider, synapse.name: replace(synapse, **fields)})
