"""Networks that are integers already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, Encoding, Layer, Neuron, Readout, Shape
from snn2chip.errors import LimitError, UnsupportedError
from snn2chip.graph import ChipLayer, Flatten, Graph, Linear


def is_integer(graph: Graph) -> bool:
    """Whether the graph holds nothing but integer layers (and flattens between them), and perhaps a linear readout."""
    inner = graph.nodes[1:-1] if isinstance(graph.output, Linear) else graph.nodes[1:]
    return any(isinstance(node, ChipLayer) for node in inner) and all(
        isinstance(node, ChipLayer | Flatten) for node in inner
    )


def integer_net(graph: Graph) -> ChipNet:
    """The network of a graph of :class:`~snn2chip.graph.ChipLayer` nodes, as it is: nothing is left to be chosen.

    A :class:`~snn2chip.graph.Linear` at the end whose weights are multiples of one number is summed up over time by an
    integrator; its scores are those of the graph times a positive factor.

    Analog input must be integers; they become graded messages of the width that the first layer's sums allow, at most
    16 bits with sign.

    Raises:
        UnsupportedError: there are other nodes, or not one chain.
        InputError, LimitError: the layers do not fit one another.
    """
    shapes = graph.shapes()
    layers: list[Layer] = []
    shape = graph.input.shape
    for previous, node in zip(graph.nodes, graph.nodes[1:], strict=False):
        if node.inputs != (previous.name,):
            raise UnsupportedError(f"{node.name}: takes {', '.join(node.inputs)}; only chains of layers are supported")
        if isinstance(node, Flatten):
            continue
        if isinstance(node, Linear) and node is graph.output and layers:
            layers.append(_integrator(node, shape, graph.time_steps))
            continue
        if not isinstance(node, ChipLayer):
            raise UnsupportedError(
                f"{node.name}: is in floating point, other layers are integers already; train all of them with the "
                "chip's arithmetic, or none"
            )
        layer = replace(node.layer, name=node.name)
        layers.append(replace(layer, input_shape=shape) if isinstance(layer, Dense) else layer)
        shape = shapes[node.name]
    if not layers:
        raise UnsupportedError(f"{graph.output.name}: no layers of integers")
    return ChipNet(
        input_shape=graph.input.shape,
        layers=tuple(layers),
        encoding=_encoding(graph, layers[0]),
        readout=Readout("potential" if graph.reads_potential or isinstance(graph.output, Linear) else "count"),
        time_steps=graph.time_steps,
        inexact=graph.inexact,
    )


def _integrator(node: Linear, shape: Shape, steps: int) -> Dense:
    values = np.concatenate([node.weight.ravel(), node.bias.ravel()])
    least = np.abs(values[values != 0]).min(initial=1.0)
    units = (least, *(2.0**-k for k in range(11)))
    unit = next((u for u in units if (np.rint(values / u) == values / u).all()), None)
    if unit is None or node.delay is not None:
        raise UnsupportedError(
            f"{node.name}: is a readout in floating point, other layers are integers already; its weights must be "
            "multiples of one number: use Affine of SLAYER, which rounds them"
        )
    weight, bias = (np.rint(part / unit).astype(np.int32) for part in (node.weight, node.bias))
    bound = int((np.abs(weight.astype(np.int64)).sum(1) + np.abs(bias)).max(initial=0)) * steps
    if bound >= limits.LAVA_THRESHOLD_MAX:
        remedy = "use fewer inputs or steps, or smaller weights"
        raise LimitError(node.name, f"largest sum over {steps} steps", bound, limits.LAVA_THRESHOLD_MAX - 1, remedy)
    neuron = Neuron.of(node.name, limits.LAVA_THRESHOLD_MAX, limits.DECAY_UNITY, 0, bias if bias.any() else 0)
    return Dense(node.name, shape, weight, neuron)


def _encoding(graph: Graph, first: Layer) -> Encoding:
    given = next(node.encoding for node in graph.nodes if isinstance(node, ChipLayer))
    if given is not None:
        return given
    if graph.input.kind == "spikes":
        return Encoding()
    widest = (1 << (limits.MESSAGE_BITS_MAX - 1)) - 1
    high = max(1, min(widest, (limits.SUM_LIMIT - 1) // max(first.largest_sum(1), 1) - 1))
    return Encoding("hold" if graph.input.kind == "hold" else "graded", 1.0, -high - 1, high)
