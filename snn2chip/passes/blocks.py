"""The chip form: a chain of synapses, each with its neurons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Conv2d, Flatten, Graph, Linear, Neuron, Node, Shape


@dataclass(frozen=True)
class Block:
    """Synapses and their neurons: one layer on the chip.

    The synapses have no bias, the neurons reset to zero (or need no reset). Parameters may be arrays; recurrence is
    all-to-all. Delays of synapses and recurrence exclude one another.

    Attributes:
        input_shape: shape before a flatten, if there is one.
    """

    synapse: Linear | Conv2d
    neuron: Neuron
    input_shape: Shape

    @property
    def name(self) -> str:
        """The layer's name: that of its synapses."""
        return self.synapse.name


def chip_blocks(graph: Graph) -> tuple[Block, ...]:
    """The blocks of a lowered graph.

    Raises:
        UnsupportedError: something is left that the chip cannot do; the message names it.
    """
    shapes = graph.shapes()
    blocks: list[Block] = []
    pending: Linear | Conv2d | None = None
    before = graph.input.shape
    for previous, node in zip(graph.nodes, graph.nodes[1:], strict=False):
        if node.inputs != (previous.name,):
            raise UnsupportedError(f"{node.name}: takes {', '.join(node.inputs)}; only chains of layers are supported")
        if isinstance(node, Flatten) and pending is None:
            continue
        if isinstance(node, Linear | Conv2d) and pending is None:
            pending = node
        elif isinstance(node, Neuron) and pending is not None:
            _check(pending, node, shapes[node.name])
            blocks.append(Block(pending, node, before))
            pending, before = None, shapes[node.name]
        else:
            raise UnsupportedError(_misplaced(previous, node, pending))
    if pending is not None or not blocks:
        raise UnsupportedError(f"{graph.output.name}: is the last operation, but has no neurons")
    return tuple(blocks)


def _check(synapse: Linear | Conv2d, neuron: Neuron, shape: Shape) -> None:
    """Raise for what no layer of the chip has."""
    problem = None
    if (neuron.reset != "zero" or neuron.reset_delay) and neuron.spikes:
        late = ", one step later," if neuron.reset_delay else ""
        problem = f"reset={neuron.reset!r}{late} is not what the chip does; lower it, or train with reset='zero'"
    elif neuron.recurrent is not None and len(shape) == 3:
        problem = "has recurrent synapses on a feature map, only all-to-all layers have them; put a Flatten before it"
    elif neuron.recurrent is not None and isinstance(synapse, Linear) and synapse.delay is not None:
        problem = f"is recurrent and its synapses ({synapse.name}) have delays; leave one of them out"
    elif synapse.bias.any():
        problem = f"the bias of {synapse.name} has not been moved to the neurons; train with bias=False"
    for what in ("alpha", "beta"):
        values = getattr(neuron, what)
        if not (np.all(np.greater_equal(values, 0)) and np.all(np.less_equal(values, 1))):
            problem = f"{what} lies outside 0..1, which no decay of the chip can be; train with one inside"
    if problem:
        raise UnsupportedError(f"{neuron.name}: {problem}")


def _misplaced(previous: Node, node: Node, pending: Node | None) -> str:
    if isinstance(node, Neuron):
        return f"{node.name}: follows {previous.name} without synapses; put a Linear or Conv2d before"
    if pending is None:
        return f"{node.name}: a {type(node).__name__} has no form on the chip here; leave it out"
    return (
        f"{node.name}: follows {previous.name} without neurons between; the chip needs spikes there, "
        "put a LIF or IF between"
    )
