"""Max pooling as a layer of neurons."""

from __future__ import annotations

import numpy as np

from snn2chip.errors import UnsupportedError
from snn2chip.graph import ChipLayer, Concat, Conv2d, Delay, Flatten, Graph, Input, MaxPool2d, Neuron, Node
from snn2chip.passes.edit import inserted, is_current


def relay_max_pool(graph: Graph) -> Graph:
    """Max pooling of spikes as neurons that fire when any spike is in their window; one layer, one step of latency.

    ::

        Before: Neuron -> MaxPool2d(p)
        After:  Neuron -> Conv2d(ones(p), stride p, one group per channel) -> Neuron(alpha=beta=0, threshold=1/2)

    Raises:
        UnsupportedError: what is pooled are currents or analog data, whose maximum no sum of spikes gives.
    """
    while pools := [node for node in graph.nodes if isinstance(node, MaxPool2d)]:
        pool = pools[0]
        source = pool.inputs[0]
        if is_current(graph, source):
            raise UnsupportedError(
                f"{pool.name}: pools the currents of {source}, which has no exact form on the chip; put it after the "
                "neurons, or use average pooling"
            )
        if not _binary(graph, graph.node(source)):
            raise UnsupportedError(
                f"{pool.name}: pools analog values ({source}); max pooling has a form on the chip only for spikes, "
                "put it after neurons or use average pooling"
            )
        channels = graph.shapes()[source][0]
        synapses = Conv2d(
            name=pool.name,
            inputs=pool.inputs,
            weight=np.ones((channels, 1, *pool.kernel)),
            bias=np.zeros(channels),
            stride=pool.stride,
            padding=pool.padding,
            groups=channels,
        )
        any_neurons = Neuron(name=f"{pool.name} any", inputs=(pool.name,), beta=0.0, threshold=0.5, relays=channels)
        graph = inserted(graph.replaced({pool.name: synapses}), pool.name, any_neurons)
    return graph


def _binary(graph: Graph, node: Node) -> bool:
    """Whether ``node``, behind no synapses, gives spikes of 0 and 1."""
    if isinstance(node, Input):
        return node.kind == "spikes"
    if isinstance(node, Neuron):
        return True
    if isinstance(node, ChipLayer):
        return not node.layer.neuron.graded
    carries = isinstance(node, Concat | Delay | Flatten | MaxPool2d)  # sums of spikes may be 2
    return carries and all(_binary(graph, graph.node(name)) for name in node.inputs)
