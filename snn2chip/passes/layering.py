"""Which neurons become one layer, and what each layer has to relay so that the next ones see what they need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

from snn2chip.conv import Pair
from snn2chip.errors import UnsupportedError
from snn2chip.graph import Graph, Neuron, Shape
from snn2chip.passes.forms import Form, Synapses, neuron_forms
from snn2chip.passes.places import JOIN
from snn2chip.passes.relays import cover

#: What a layer relays: for each source, where in its map each relayed map begins; of features how late, ``(steps, 0)``.
Relayed = dict[str, list[Pair]]


@dataclass(frozen=True, eq=False)
class Layer:
    """Neurons that become one layer; the input is a layer without, and so is one of delayed relays alone.

    Attributes:
        name: of its neurons.
        own: shape of each of its neurons' output, or of the input.
        size: of their maps ``(H, W)``; () for features.
        stride: of the kernel that all its synapses are embedded in.
        steps: for each source up to here, how far apart in its map neighbouring pixels of a relay in this layer are.
    """

    name: str
    neurons: tuple[Neuron, ...]
    forms: tuple[Form, ...]
    own: dict[str, Shape]
    size: tuple[int, ...]
    stride: Pair
    steps: dict[str, Pair]

    @property
    def synapses(self) -> list[Synapses]:
        """Those of all its neurons."""
        return [synapses for form in self.forms for synapses in form.synapses]

    @property
    def delays(self) -> bool:
        """Whether it is there to relay spikes once for each delay with which the next layer takes them."""
        return not self.own


@dataclass(frozen=True, eq=False)
class View:
    """How a layer sees a source in the layer before: where the relayed maps begin that hold a row, and a column."""

    rows: dict[int, tuple[int, ...]]
    columns: dict[int, tuple[int, ...]]

    def planes(self, pixel: Pair) -> list[Pair]:
        """Beginnings of the maps that hold what a tap sees which begins at ``pixel``; none for padding alone."""
        return list(itertools.product(self.rows[pixel[0]], self.columns[pixel[1]]))


@dataclass(frozen=True, eq=False)
class Chain:
    """The layers, in order.

    Attributes:
        shapes: of each source.
        relayed: by each layer.
    """

    layers: tuple[Layer, ...]
    shapes: dict[str, Shape]
    relayed: list[Relayed] = field(default_factory=list)

    def reads(self, level: int) -> dict[str, set[Pair]]:
        """Pixels of each source that a layer's first neurons see; of features, and for them, all pixels."""
        layer = self.layers[level]
        reads: dict[str, set[Pair]] = {}

        def add(source: str, pixels: Iterable[Pair]) -> None:
            reads.setdefault(source, set()).update(pixels)

        if layer.size == ():
            for source in [*(synapses.source for synapses in layer.synapses), *self.relayed[level]]:
                add(source, self.pixels(source))
            return reads
        for synapses in layer.synapses:
            add(synapses.source, itertools.product(*taps(synapses)))
        for source, planes in self.relayed[level].items():
            add(source, planes)
        return reads

    def pixels(self, source: str) -> list[Pair]:
        """All pixels of a source's map; (0, 0) for features."""
        shape = self.shapes[source]
        return list(itertools.product(range(shape[1]), range(shape[2]))) if len(shape) == 3 else [(0, 0)]

    def view(self, level: int, source: str, reads: Iterable[Pair]) -> View:
        """How a layer sees ``source`` in the layer before."""
        layer, before = self.layers[level], self.layers[level - 1]
        shape = self.shapes[source]
        if before.size == () or len(shape) != 3:
            return View({row: (0,) for row, _ in reads}, {column: (0,) for _, column in reads})
        axes = []
        for axis, places in enumerate(zip(*reads, strict=True)):
            stride, count = (layer.steps[source][axis], layer.size[axis]) if layer.size else (1, 1)
            step, length = before.steps[source][axis], before.size[axis]
            axes.append(cover(places, stride, count, shape[1 + axis], step, length))
        return View(*axes)

    def views(self, level: int) -> dict[str, View]:
        """How a layer sees each source."""
        return {source: self.view(level, source, reads) for source, reads in self.reads(level).items()}


def chain_of(graph: Graph) -> Chain:
    """The layers of ``graph``, whose last node is a neuron that all others lead to."""
    forms = neuron_forms(graph)
    shapes = graph.shapes()
    chain = Chain(_layers(graph, forms, shapes), {name: shapes[name] for name in [graph.input.name, *forms]})
    chain.relayed.extend({} for _ in chain.layers)
    # From the last layer to the first: what a layer reads has to be in the one before.
    for level in range(len(chain.layers) - 1, 0, -1):
        layer, before = chain.layers[level], chain.layers[level - 1]
        for source, reads in chain.reads(level).items():
            if source in before.own:
                continue
            if source == graph.input.name and graph.input.kind != "spikes":
                raise UnsupportedError(
                    f"{layer.name}: takes the analog input past {before.name}; only spikes can be relayed, put "
                    "neurons behind the input and branch there"
                )
            view = chain.view(level, source, reads)
            planes = {plane for pixel in reads for plane in view.planes(pixel)}
            if before.delays:
                planes = {
                    (int(late), 0)
                    for synapses in layer.synapses
                    if synapses.source == source
                    for late in np.unique(synapses.delay)
                }
                planes |= {(0, 0)} if source in chain.relayed[level] else set()
            if planes:
                chain.relayed[level - 1][source] = sorted(planes)
    return chain


def taps(synapses: Synapses) -> tuple[list[int], list[int]]:
    """The row, and the column, that the first neuron sees through each tap of a kernel."""
    rows, columns = (
        [i * dilation - padding for i in range(size)]
        for size, padding, dilation in zip(synapses.weight.shape[2:], synapses.padding, synapses.dilation, strict=True)
    )
    return rows, columns


def _layers(graph: Graph, forms: dict[str, Form], shapes: dict[str, Shape]) -> tuple[Layer, ...]:
    """Input and neurons in the order of the chip: maps before features, the larger map before the smaller."""
    entry = graph.input
    size = entry.shape[1:] if len(entry.shape) == 3 else ()
    layers = [Layer(entry.name, (), (), {entry.name: entry.shape}, size, (1, 1), {entry.name: (1, 1)})]
    waiting = dict(forms)
    neurons = {node.name: node for node in graph.nodes if isinstance(node, Neuron)}
    while waiting:
        steps = layers[-1].steps
        kinds: dict[tuple[Any, ...], list[str]] = {}
        for name, form in waiting.items():
            if all(source in steps for source in form.sources):
                kinds.setdefault(_kind(neurons[name], form, steps), []).append(name)
        chosen = max(kinds, key=lambda kind: (kind[0] != (), math.prod(kind[0])))
        size, stride = chosen[:2]
        names = sorted(kinds[chosen], key=lambda name: neurons[name].relays > 0)  # relays are a layer's last channels
        own = {name: forms[name].shape for name in names}
        joined = JOIN.join(names)
        if any(_delayed_twice(forms[name], shapes) for name in names):
            layers.append(Layer(f"{joined} delays", (), (), {}, (), (1, 1), steps))
        passing = {source: (step[0] * stride[0], step[1] * stride[1]) for source, step in steps.items()}
        layers.append(
            Layer(
                joined,
                tuple(neurons[name] for name in names),
                tuple(forms[name] for name in names),
                own,
                size,
                stride,
                {**passing, **dict.fromkeys(own, (1, 1))},
            )
        )
        for name in names:
            del waiting[name]
    return tuple(layers)


def _delayed_twice(form: Form, shapes: dict[str, Shape]) -> bool:
    """Whether some neuron has two synapses of different delays from one other neuron; the chip has one."""
    if max(form.arrivals()[0]) == 0:
        return False
    for source in form.sources:
        delay = np.full((form.shape[0], math.prod(shapes[source])), -1)
        for synapses in (s for s in form.synapses if s.source == source):
            rows = delay[synapses.start : synapses.start + len(synapses.weight)]
            if ((synapses.weight != 0) & (rows >= 0) & (rows != synapses.delay)).any():
                return True
            rows[:] = np.where(synapses.weight != 0, synapses.delay, rows)
    return False


def _kind(neuron: Neuron, form: Form, steps: dict[str, Pair]) -> tuple[Any, ...]:
    """Neurons of one kind can share a layer: size of the map, stride, then what one layer has in common."""
    delayed = max(form.arrivals()[0]) > 0
    common: tuple[Any, ...] = (neuron.reset, neuron.reset_delay, neuron.inclusive, neuron.recurrent is None, delayed)
    if 0 < neuron.relays < form.shape[0]:
        common = (*common, neuron.name)
    if form.dense:
        return ((), (1, 1), *common)
    if len(form.shape) != 3:
        raise UnsupportedError(f"{neuron.name}: neurons of shape {form.shape}; the chip has (C, H, W) and (F,)")
    return (form.shape[1:], (_stride(neuron, form, steps, 0), _stride(neuron, form, steps, 1)), *common)


def _stride(neuron: Neuron, form: Form, steps: dict[str, Pair], axis: int) -> int:
    """What the layer's kernel moves by, on maps that hold each ``steps[source]``-th pixel."""
    if form.shape[1 + axis] == 1:
        return 1  # it does not move
    strides = {s.source: Fraction(s.stride[axis], steps[s.source][axis]) for s in form.synapses}
    different = {Fraction(s.stride[axis], steps[s.source][axis]) for s in form.synapses}
    stride = min(different)
    if len(different) > 1 or stride.denominator > 1:
        ways = ", ".join(f"{source} by {by}" for source, by in strides.items())
        raise UnsupportedError(
            f"{neuron.name}: its synapses move by different or broken numbers of pixels of what layers between leave "
            f"({ways}); one layer has one whole stride, reduce the size in the same places on every way"
        )
    return int(stride)
