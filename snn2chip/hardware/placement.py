"""Layers split over cores, the memory that each core needs, and the traffic between them.

Each layer has cores of its own. A dense layer is split by neurons, cores being filled one after the other up to the
planned share of synaptic memory. A convolution is split into channels only as far as its kernel has to be, since each
group of channels needs all of the input; then into the tiles that need fewest cores, among those with least overlap at
their borders. Cores then go along the chip's mesh in the order of the layers, and pairs of them change places as long
as that shortens the way of the messages. The same network gives the same placement.

Inferred from compiler logs (:mod:`snn2chip.hardware.memory` for the words): tiles are ``2^k`` pixels wide; a neuron
takes one word; an axon map has one entry for each pixel (block of channels) towards a convolution, else one for each
neuron. Entries of ``AxonMem`` (up to 731 words of 20 000 in the logs) are not modelled: words are a lower bound there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Conv, Dense, Layer, Neuron
from snn2chip.errors import LimitError
from snn2chip.hardware.memory import blocks, conv_words, dense_axons, dense_words, stored_bits
from snn2chip.hardware.targets import Target

Array = npt.NDArray[Any]
Span = tuple[int, int]

#: ``fill``: cores of a dense layer are filled up to the planned memory. ``divide``: the layer is divided evenly, and
#: once more in two, until each part keeps the memory of the compiler of 2022, whose logs show it.
Split = Literal["fill", "divide"]

LAYER_CORES = 4096  # pairs of cores are held one by one
REFINED_CORES = 768  # beyond, cores stay in the order of the layers
REFINED_ROUNDS = 4


@dataclass(frozen=True)
class Core:
    """Part of a layer on one core.

    Attributes:
        layer: name; ``index`` in ``net.layers``.
        channels, rows, columns: spans of the part; a dense layer has one row and one column.
        neurons: how many.
        synapse_words: 64-bit words of synaptic memory.
        axons_in: entries that take messages in.
        axon_map: entries that send them out on Loihi 2; 0 where the chip has none.
        axons_out: pairs of a neuron and a core that it sends to.
        profiles: different (threshold, iDecay, vDecay).
        thresholds: different thresholds.
    """

    layer: str
    index: int
    channels: Span
    rows: Span
    columns: Span
    neurons: int
    synapse_words: int
    axons_in: int
    axon_map: int
    axons_out: int = 0
    profiles: int = 1
    thresholds: int = 1

    @property
    def words(self) -> int:
        """Words of the whole core: synapses, neurons, axons in and map."""
        return self.synapse_words + self.neurons + self.axons_in + self.axon_map

    def part(self, values: Array) -> Array:
        """The core's part of one value for each neuron of the layer, ``[*shape]``."""
        if values.ndim == 3:
            image: Array = values[slice(*self.channels), slice(*self.rows), slice(*self.columns)]
            return image
        flat: Array = values.reshape(-1)[slice(*self.channels)]
        return flat


#: A dense layer's neurons ``first..last - 1`` on one core.
Part = Callable[[int, int], Core]


@dataclass(frozen=True)
class Traffic:
    """Neurons of ``source`` cores that send to ``target`` cores, one entry for each pair."""

    source: npt.NDArray[np.int64]
    target: npt.NDArray[np.int64]
    neurons: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Placement:
    """A network on a chip.

    Attributes:
        cores: in the order of the layers.
        slots: of each core, where it is: chip * cores per chip + core on the chip.
        traffic: between cores, without the host.
    """

    target: Target
    cores: tuple[Core, ...]
    slots: npt.NDArray[np.int64]
    traffic: Traffic

    @property
    def chips(self) -> int:
        """Chips that the cores fill."""
        return -(-len(self.cores) // self.target.value("cores_per_chip"))

    @cached_property
    def by_layer(self) -> Mapping[str, tuple[int, ...]]:
        """Indices of each layer's cores, by the layer's name."""
        found: dict[str, list[int]] = {}
        for i, core in enumerate(self.cores):
            found.setdefault(core.layer, []).append(i)
        return {name: tuple(indices) for name, indices in found.items()}

    @property
    def synaptic_memory_bytes(self) -> int:
        """Synaptic memory of all cores."""
        return 8 * sum(core.synapse_words for core in self.cores)

    def utilisation(self, core: Core) -> dict[str, float]:
        """Share of each resource of one core, by the limit's name, and of the whole core where the chip has such."""
        used = {
            "neurons_per_core": core.neurons,
            "synapse_words": core.synapse_words,
            "axons_in": core.axons_in,
            "axon_map": core.axon_map,
            "axons_out": core.axons_out,
            "core_words": core.words,
        }
        return {name: count / self.target.value(name) for name, count in used.items() if name in self.target.limits}

    @cached_property
    def hops(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """East-west and north-south hops of each pair in ``traffic``; pairs on different chips as if on one."""
        x, y, _ = positions(self.slots, self.target)
        source, target = self.traffic.source, self.traffic.target
        return np.abs(x[source] - x[target]), np.abs(y[source] - y[target])

    @property
    def between_chips(self) -> int:
        """Pairs of a neuron and a core that it sends to on another chip."""
        chip = self.slots // self.target.value("cores_per_chip")
        far = chip[self.traffic.source] != chip[self.traffic.target]
        return int(self.traffic.neurons[far].sum())


def place(net: ChipNet, target: Target, split: Split = "fill") -> Placement:
    """Split the layers of ``net`` over cores of ``target``.

    A part that no core can hold gets a core all the same, so that :func:`snn2chip.hardware.rules.check` can name it.

    Raises:
        LimitError: a layer would need thousands of cores, which the model does not go to.
    """
    parts = [
        list(_parts(layer, i, net.layers[i + 1] if i + 1 < len(net.layers) else None, target, split))
        for i, layer in enumerate(net.layers)
    ]
    starts = np.cumsum([0, *map(len, parts)])
    traffic = _join(
        [
            *(
                _between(parts[i], layer, parts[i - 1], starts[i - 1], starts[i])
                for i, layer in enumerate(net.layers)
                if i
            ),
            *(
                _all_to_all(parts[i], parts[i], starts[i], starts[i])
                for i, layer in enumerate(net.layers)
                if isinstance(layer, Dense) and layer.recurrent is not None
            ),
        ]
    )
    cores = [core for layer in parts for core in layer]
    out = np.zeros(len(cores), np.int64)
    np.add.at(out, traffic.source, traffic.neurons)
    cores = [replace(core, axons_out=int(count)) for core, count in zip(cores, out, strict=True)]
    return Placement(target, tuple(cores), _arrange(len(cores), traffic, target), traffic)


def _parts(layer: Layer, index: int, following: Layer | None, target: Target, split: Split) -> Iterator[Core]:
    bits = stored_bits(layer, target)
    _modelled(layer, math.prod(layer.shape) // target.value("neurons_per_core"))
    if len(layer.shape) == 3:
        yield from _tiles(layer, index, following, target, bits)
        return
    neurons = math.prod(layer.shape)
    axons = dense_axons(layer) if isinstance(layer, Dense) else 0

    def part(first: int, last: int) -> Core:
        words = dense_words(layer, last - first, bits, target) if isinstance(layer, Dense) else 0
        entries = last - first if "axon_map" in target.limits else 0
        core = Core(layer.name, index, (first, last), (0, 1), (0, 1), last - first, words, axons, entries)
        return _profiled(core, layer)

    size = _divided(part, neurons, target) if split == "divide" else _filled(part, neurons, target)
    _modelled(layer, -(-neurons // size))
    for first in range(0, neurons, size):
        yield part(first, min(first + size, neurons))


def _modelled(layer: Layer, cores: int) -> None:
    if cores > LAYER_CORES:
        raise LimitError(layer.name, "number of cores of one layer", cores, LAYER_CORES, "the model ends here")


def _filled(part: Part, neurons: int, target: Target) -> int:
    """Most neurons that keep the planned memory, else the whole memory, else one."""
    for name in ("synapse_words_planned", "synapse_words"):
        if name not in target.limits:
            continue
        low, high = 0, neurons
        while low < high:
            middle = (low + high + 1) // 2
            core = part(0, middle)
            if _holds(core, target) and core.synapse_words <= target.value(name):
                low = middle
            else:
                high = middle - 1
        if low:
            return low
    return 1


def _divided(part: Part, neurons: int, target: Target) -> int:
    """Neurons of an even part: as many parts as the memory asks for, then twice as many until each fits."""
    name = "synapse_words_divided" if "synapse_words_divided" in target.limits else "synapse_words"
    count = max(1, -(-part(0, neurons).synapse_words // target.value(name)))
    while True:
        size = -(-neurons // count)
        core = part(0, size)
        if size == 1 or (_holds(core, target) and core.synapse_words <= target.value(name)):
            return size
        count *= 2


def _holds(core: Core, target: Target) -> bool:
    return (
        target.within("neurons_per_core", core.neurons)
        and target.within("synapse_words", core.synapse_words)
        and target.within("axons_in", core.axons_in)
        and target.within("axon_map", core.axon_map)
        and target.within("core_words", core.words)
    )


def _profiled(core: Core, layer: Layer) -> Core:
    """``core`` with the number of its neurons' profiles."""
    neuron = layer.neuron
    if not isinstance(neuron, Neuron):
        return core
    arrays = [np.asarray(a) for a in (neuron.threshold, neuron.current_decay, neuron.voltage_decay)]
    if not any(a.ndim for a in arrays):
        return core
    rows = np.stack([core.part(np.broadcast_to(a, layer.shape)).ravel() for a in arrays], axis=1)
    return replace(core, profiles=len(np.unique(rows, axis=0)), thresholds=len(np.unique(rows[:, 0])))


# Convolutions and images


def _tiles(layer: Layer, index: int, following: Layer | None, target: Target, bits: int) -> Iterator[Core]:
    """Tiles of an image: see the module's docstring."""
    channels, height, width = layer.shape
    padded = "tile_width_power" in target.limits
    best: tuple[tuple[int, int, int], tuple[int, int, int]] | None = None
    for depth in _halvings(channels):
        for tile_w in _powers(width) if padded else _halvings(width):
            for tile_h in _halvings(height):
                core = _tile(layer, index, following, target, bits, (0, depth), (0, tile_h), (0, tile_w))
                if not _holds(replace(core, neurons=depth * tile_h * tile_w), target):
                    continue
                count = -(-channels // depth) * -(-height // tile_h) * -(-width // tile_w)
                if best is not None and count > best[0][0]:
                    continue
                rank = (count, _overlap(layer, tile_h, tile_w), -tile_w)
                if best is None or rank < best[0]:
                    best = (rank, (depth, tile_h, tile_w))
        if best is not None:
            break
    depth, tile_h, tile_w = best[1] if best else (1, 1, 1)
    _modelled(layer, -(-channels // depth) * -(-height // tile_h) * -(-width // tile_w))
    for c in range(0, channels, depth):
        for y in range(0, height, tile_h):
            for x in range(0, width, tile_w):
                spans = [
                    (start, min(start + size, end))
                    for start, size, end in ((c, depth, channels), (y, tile_h, height), (x, tile_w, width))
                ]
                yield _profiled(_tile(layer, index, following, target, bits, *spans), layer)


def _tile(
    layer: Layer,
    index: int,
    following: Layer | None,
    target: Target,
    bits: int,
    channels: Span,
    rows: Span,
    columns: Span,
) -> Core:
    pixels = (rows[1] - rows[0]) * (columns[1] - columns[0])
    depth = channels[1] - channels[0]
    words = axons = 0
    if isinstance(layer, Conv):
        words = conv_words(layer, *channels, bits, target)
        if "channel_block_min" in target.limits:
            axons = len(blocks(depth, target))
        else:
            patch = [len(seen) for seen in _patch(layer, rows, columns)]
            axons = _inputs(layer, channels) * patch[0] * patch[1]
    entries = 0
    if "axon_map" in target.limits:
        entries = pixels * len(blocks(depth, target)) if isinstance(following, Conv) else pixels * depth
    return Core(layer.name, index, channels, rows, columns, pixels * depth, words, axons, entries)


def _halvings(size: int) -> Iterator[int]:
    while size > 1:
        yield size
        size = -(-size // 2)
    yield 1


def _powers(size: int) -> Iterator[int]:
    power = 1 << (size - 1).bit_length()
    while power:
        yield power
        power >>= 1


def _patch(layer: Conv, rows: Span, columns: Span) -> tuple[Array, Array]:
    """Rows and columns of the input that a tile of ``layer`` sees, sorted."""
    seen = []
    for axis, (first, last) in enumerate((rows, columns)):
        outputs = np.arange(first, last)[:, None] * layer.stride[axis] - layer.padding[axis]
        taps = np.unique(outputs + np.arange(layer.weight.shape[2 + axis]) * layer.dilation[axis])
        seen.append(taps[(taps >= 0) & (taps < layer.input_shape[1 + axis])])
    return seen[0], seen[1]


def _inputs(layer: Conv, channels: Span) -> int:
    """Input channels that output ``channels`` see."""
    first, last = _input_channels(layer, channels)
    return last - first


def _input_channels(layer: Conv, channels: Span) -> Span:
    per_group, wide = layer.shape[0] // layer.groups, layer.weight.shape[1]
    return channels[0] // per_group * wide, -(-channels[1] // per_group) * wide


def _overlap(layer: Layer, tile_h: int, tile_w: int) -> int:
    """Input pixels that all tiles see together: those at borders count more than once."""
    _, height, width = layer.shape
    if not isinstance(layer, Conv):
        return 0
    rows = [_patch(layer, (y, min(y + tile_h, height)), (0, 1))[0] for y in range(0, height, tile_h)]
    columns = [_patch(layer, (0, 1), (x, min(x + tile_w, width)))[1] for x in range(0, width, tile_w)]
    return sum(map(len, rows)) * sum(map(len, columns))


# Traffic


def _between(parts: Sequence[Core], layer: Layer, before: Sequence[Core], first_before: int, first: int) -> Traffic:
    """Neurons of the layer before that send to each core of ``layer``."""
    if not isinstance(layer, Conv):
        return _all_to_all(before, parts, first_before, first)
    neurons = np.empty((len(before), len(parts)), np.int64)
    held = np.array([(core.channels, core.rows, core.columns) for core in before])  # [cores, axis, first or last]
    for k, core in enumerate(parts):
        counts = np.ones(len(before), np.int64)
        channels = np.arange(*_input_channels(layer, core.channels))
        for axis, seen in enumerate((channels, *_patch(layer, core.rows, core.columns))):
            start, end = np.searchsorted(seen, held[:, axis].T)
            counts *= end - start
        neurons[:, k] = counts
    source, target = neurons.nonzero()
    return Traffic(source + first_before, target + first, neurons[source, target])


def _all_to_all(before: Sequence[Core], parts: Sequence[Core], first_before: int, first: int) -> Traffic:
    source, target = (grid.ravel() for grid in np.indices((len(before), len(parts))))
    neurons = np.array([core.neurons for core in before], np.int64)[source]
    return Traffic(source + first_before, target + first, neurons)


def _join(parts: Iterable[Traffic]) -> Traffic:
    parts = list(parts)
    empty = np.zeros(0, np.int64)
    return Traffic(
        *(
            np.concatenate([empty, *(getattr(part, name) for part in parts)]).astype(np.int64)
            for name in ("source", "target", "neurons")
        )
    )


# The mesh


def positions(
    slots: npt.NDArray[np.int64], target: Target
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Column and row of each slot's router, and its chip; slots go to and fro along the rows."""
    chip, core = np.divmod(slots, target.value("cores_per_chip"))
    row, column = np.divmod(core // target.value("cores_per_router"), target.value("router_columns"))
    return np.where(row % 2, target.value("router_columns") - 1 - column, column), row, chip


def _arrange(count: int, traffic: Traffic, target: Target) -> npt.NDArray[np.int64]:
    """Slots of the cores: in order, then the best exchange for each core in turn while any shortens the way."""
    slots = np.arange(count)
    if not 1 < count <= REFINED_CORES:
        return slots
    x, y, chip = positions(slots, target)
    far = 2 * int(x.max() + y.max() + 1)  # another chip is further than any core of this one
    distance = (np.abs(x[:, None] - x) + np.abs(y[:, None] - y) + far * np.abs(chip[:, None] - chip)).astype(np.float64)
    flow = np.zeros((count, count))
    np.add.at(flow, (traffic.source, traffic.target), traffic.neurons)
    flow += flow.T
    np.fill_diagonal(flow, 0)
    placed = distance.copy()  # between cores, as they are placed
    costs = (flow * placed).sum(1)
    for _ in range(REFINED_ROUNDS):
        improved = False
        for i in range(count):
            moved = flow[i] @ placed  # way of i's messages from each core's slot
            back = flow @ placed[i]  # way of each core's messages from i's slot
            change = (moved - costs[i]) + (back - costs) + 2 * flow[i] * placed[i]
            best = int(change.argmin())
            if change[best] < 0:
                pair, swapped = [i, best], [best, i]
                slots[pair] = slots[swapped]
                placed[pair] = placed[swapped]
                placed[:, pair] = placed[:, swapped]
                costs = (flow * placed).sum(1)
                improved = True
        if not improved:
            break
    return slots
