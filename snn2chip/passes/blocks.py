"""The chip form: a chain of synapses, each with its neurons."""

from __future__ import annotations

from dataclasses import dataclass

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Conv2d, Flatten, Graph, Linear, Neuron, Shape


@dataclass(frozen=True)
class Block:
    """Synapses and their neurons: one layer on the chip.

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
            if node.reset == "subtract":
                raise UnsupportedError(
                    f"{node.name}: reset by subtraction has no form on this target yet; train with reset='zero'"
                )
            blocks.append(Block(pending, node, before))
            pending, before = None, shapes[node.name]
        elif isinstance(node, Neuron):
            raise UnsupportedError(
                f"{node.name}: follows {previous.name} without synapses; put a Linear or Conv2d before"
            )
        else:
            raise UnsupportedError(
                f"{node.name}: follows {previous.name} without neurons between; the chip needs spikes there, "
                "put a LIF or IF between"
            )
    if pending is not None or not blocks:
        raise UnsupportedError(f"{graph.output.name}: is the last operation, but has no neurons")
    return tuple(blocks)
