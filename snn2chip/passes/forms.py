"""What drives each neuron, as a sum over the spikes of earlier neurons and of the input.

Everything between neurons (Linear, Conv2d, AvgPool2d, Flatten, Add, Concat, Delay) is linear. A :class:`Form` says
what that comes to: how often each source's spikes are in a value (residual sums and concatenations of spikes), which
synapses lead to it, and which bias. Nothing is multiplied out, so that a form is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.conv import Pair
from snn2chip.errors import UnsupportedError
from snn2chip.graph import (
    Add,
    AvgPool2d,
    ChipLayer,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Input,
    Linear,
    Neuron,
    Node,
    Shape,
)

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Synapses:
    """From one source to some channels (or features) of a value.

    Attributes:
        nodes: names of the nodes they come from; none where spikes are added to a current as they are.
        source: the input, or a neuron.
        start: the first channel (or feature) that they lead to.
        weight: ``[channels, channels of the source, kH, kW]``, or ``[features, features of the flattened source]``.
        delay: steps, one number or ``[features, features of the source]``.
    """

    nodes: tuple[str, ...]
    source: str
    start: int
    weight: Array
    delay: int | Array = 0
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)


@dataclass(frozen=True, eq=False)
class Form:
    """A value between neurons.

    Attributes:
        spikes: how often the spikes of a source are in it: (first channel or feature, source, delay) to multiplicity.
        biases: constants by the step from which on they are there, ``[channels or features]``.
    """

    shape: Shape
    spikes: dict[tuple[int, str, int], int] = field(default_factory=dict)
    synapses: tuple[Synapses, ...] = ()
    biases: dict[int, Array] = field(default_factory=dict)

    @property
    def dense(self) -> bool:
        """Whether it has features, not a map of channels."""
        return len(self.shape) == 1

    @property
    def sources(self) -> list[str]:
        """Names of what spikes into it, each once."""
        return list(dict.fromkeys([source for _, source, _ in self.spikes] + [s.source for s in self.synapses]))

    def arrivals(self) -> tuple[list[int], list[int]]:
        """Delays of spikes and synapses, and of biases that are not zero."""
        of_spikes = [delay for _, _, delay in self.spikes]
        for synapses in self.synapses:
            of_spikes += np.unique(synapses.delay).astype(int).tolist()
        return of_spikes, [delay for delay, bias in self.biases.items() if bias.any()]

    def delayed(self, steps: int) -> Form:
        """The same, so many steps later (or earlier, where negative)."""
        return replace(
            self,
            spikes={(start, source, delay + steps): times for (start, source, delay), times in self.spikes.items()},
            synapses=tuple(replace(s, delay=s.delay + steps) for s in self.synapses),
            biases={delay + steps: bias for delay, bias in self.biases.items()},
        )


def neuron_forms(graph: Graph) -> dict[str, Form]:
    """What drives each neuron, in the graph's order; spikes that are added to a current have become synapses.

    A neuron whose whole input is late by ``k`` steps, and that is silent without input, comes without that delay; what
    takes its spikes takes them ``k`` steps later. Its spikes are the same, ``k`` steps earlier.

    Raises:
        UnsupportedError: an operation that has no such form; a delay that no synapse can have.
    """
    shapes = graph.shapes()
    forms: dict[str, Form] = {}
    driven: dict[str, Form] = {}
    for node in graph.nodes:
        shape = shapes[node.name]
        if isinstance(node, Neuron):
            form = _all_synapses(forms[node.inputs[0]], shapes)
            form, late = _without_delay(node, form, node is graph.output)
            driven[node.name] = form
            forms[node.name] = Form(shape, {(0, node.name, late): 1})
        elif isinstance(node, Input):
            forms[node.name] = Form(shape, {(0, node.name, 0): 1})
        else:
            forms[node.name] = _form(node, shape, [forms[name] for name in node.inputs], shapes)
    return driven


def _form(node: Node, shape: Shape, given: list[Form], shapes: dict[str, Shape]) -> Form:
    first = given[0]
    if isinstance(node, Add):
        return _sum(shape, given, [0] * len(given))
    if isinstance(node, Concat):
        starts = np.cumsum([0] + [form.shape[0] for form in given[:-1]]).tolist()
        return _sum(shape, given, starts)
    if isinstance(node, Delay):
        return first.delayed(node.steps)
    if isinstance(node, Flatten):
        if first.dense:
            return first
        _check_spikes(node, first, "put it behind the neurons")
        pixels = int(np.prod(first.shape[1:]))
        places = first.spikes.items()
        return Form(shape, {(start * pixels, source, delay): times for (start, source, delay), times in places})
    if isinstance(node, Linear | Conv2d | AvgPool2d):
        _check_spikes(node, first, "put a LIF or IF between")
        return _linear(node, shape, first, shapes)
    if isinstance(node, ChipLayer):
        raise UnsupportedError(
            f"{node.name}: its integers leave no room for relays; in a network with branches or delays use float layers"
        )
    raise UnsupportedError(
        f"{node.name}: a {type(node).__name__} in a network with branches or delays has no form on the chip; "
        "put it where it folds into a Linear or Conv2d, or leave it out"
    )


def _check_spikes(node: Node, form: Form, remedy: str) -> None:
    if form.synapses or form.biases:
        raise UnsupportedError(
            f"{node.name}: follows {node.inputs[0]} without neurons between; the chip needs spikes there, {remedy}"
        )


def _sum(shape: Shape, given: list[Form], starts: list[int]) -> Form:
    spikes: dict[tuple[int, str, int], int] = {}
    synapses: list[Synapses] = []
    biases: dict[int, Array] = {}
    for form, offset in zip(given, starts, strict=True):
        for (start, source, delay), times in form.spikes.items():
            key = (start + offset, source, delay)
            spikes[key] = spikes.get(key, 0) + times
        synapses += [replace(s, start=s.start + offset) for s in form.synapses]
        for delay, bias in form.biases.items():
            total = biases.setdefault(delay, np.zeros(shape[0]))
            total[offset : offset + len(bias)] += bias
    return Form(shape, spikes, tuple(synapses), biases)


def _linear(node: Linear | Conv2d | AvgPool2d, shape: Shape, form: Form, shapes: dict[str, Shape]) -> Form:
    """One set of synapses for each source in ``form``."""
    make: Callable[[int, str, int, int], Synapses]
    if isinstance(node, Linear):
        weight, own_delay = node.weight, 0 if node.delay is None else np.asarray(node.delay, np.int64)

        def make(start: int, source: str, delay: int, times: int) -> Synapses:
            columns = slice(start, start + int(np.prod(shapes[source])))
            steps = delay + (own_delay if isinstance(own_delay, int) else own_delay[:, columns])
            return Synapses((node.name,), source, 0, weight[:, columns] * times, steps)

    else:
        if isinstance(node, Conv2d):
            kernel, geometry = ungrouped(node), (node.stride, node.padding, node.dilation)
        else:
            window = np.full(node.kernel, 1 / (node.kernel[0] * node.kernel[1]))
            kernel, geometry = np.eye(shape[0])[:, :, None, None] * window, (node.stride, node.padding, (1, 1))

        def make(start: int, source: str, delay: int, times: int) -> Synapses:
            channels = slice(start, start + shapes[source][0])
            return Synapses((node.name,), source, 0, kernel[:, channels] * times, delay, *geometry)

    biases = {} if isinstance(node, AvgPool2d) else {0: node.bias}
    return Form(shape, {}, tuple(make(*key, times) for key, times in form.spikes.items()), biases)


def ungrouped(conv: Conv2d) -> Array:
    """The kernel ``[C_out, C_in, kH, kW]`` that computes the same with one group."""
    if conv.groups == 1:
        return conv.weight
    outputs, inputs = conv.weight.shape[0] // conv.groups, conv.weight.shape[1]
    kernel = np.zeros((conv.weight.shape[0], inputs * conv.groups, *conv.weight.shape[2:]))
    for g in range(conv.groups):
        rows = slice(g * outputs, (g + 1) * outputs)
        kernel[rows, g * inputs : (g + 1) * inputs] = conv.weight[rows]
    return kernel


def _all_synapses(form: Form, shapes: dict[str, Shape]) -> Form:
    """Spikes that are added to a current arrive through synapses of weight 1 from each neuron to its counterpart."""
    added = []
    for (start, source, delay), times in form.spikes.items():
        if form.dense:
            weight = np.eye(int(np.prod(shapes[source]))) * times
        else:
            weight = np.eye(shapes[source][0])[:, :, None, None] * times
        added.append(Synapses((), source, start, weight, delay))
    return replace(form, spikes={}, synapses=(*form.synapses, *added))


def _without_delay(neuron: Neuron, form: Form, is_output: bool) -> tuple[Form, int]:
    """The form with delays that the chip's synapses can have, and how much later the neuron's spikes have to count."""
    arrivals, biases = form.arrivals()
    if neuron.bias is not None and neuron.bias.any():
        biases = [*biases, 0]
    if not any(arrivals + biases):
        return form, 0
    delayable = form.dense and neuron.recurrent is None
    if delayable and not any(biases):
        return form, 0
    late = min(arrivals + biases)
    if any(delay != late for delay in (biases if delayable else arrivals + biases)):
        steps = ", ".join(map(str, sorted(set(arrivals + biases))))
        why = "a bias cannot be late" if delayable else "only synapses of Linear without recurrence can be late"
        raise UnsupportedError(
            f"{neuron.name}: its input arrives with delays of {steps} steps; {why} on the chip, "
            "delay all of it by the same number of steps or put the Delay before a Linear"
        )
    rest = np.asarray(neuron.threshold)
    if (rest <= 0).any() if neuron.inclusive else (rest < 0).any():
        raise UnsupportedError(
            f"{neuron.name}: fires without input, so that a delay of {late} steps before it cannot be moved behind it; "
            "use a positive threshold, or put the Delay before a Linear"
        )
    if is_output:
        raise UnsupportedError(
            f"{neuron.name}: is the output, and its input is late by {late} steps, which no synapse behind it can take "
            "over; remove the Delay, or end with a Linear"
        )
    return form.delayed(-late), late
