"""The ladder from the trained model to the chip: accuracy and spikes of each rung on the same samples."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.graph import ChipLayer, Delay, Graph, execute
from snn2chip.passes import chip_blocks
from snn2chip.passes.places import Place, places
from snn2chip.quantise import is_integer
from snn2chip.simulation import simulate
from snn2chip.traces import Record

Array = npt.NDArray[Any]

#: Samples that the float executor takes at once, so that its memory stays bounded.
CHUNK = 128


@dataclass(frozen=True)
class Rung:
    """One stage on the ladder.

    Attributes:
        accuracy: share of samples that are right; None without classes.
        interval: of the accuracy, 95 % (Wilson); None without classes.
        spikes: by layer, over all samples and steps.
        differing_spikes: by layer, against the rung above; None on the first. Where lowering takes out a delay before
            neurons, so that they fire the same earlier, that is no difference.
        layer_agreement: by layer, share of neurons and steps with the same spike as on the rung above.
        agreement: share of samples with the same prediction as the rung above; None on the first.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    spikes: dict[str, int]
    differing_spikes: dict[str, int] | None
    layer_agreement: dict[str, float] | None
    agreement: float | None


@dataclass(frozen=True)
class _Followed:
    """Neurons of the trained graph, and where they are further down.

    Attributes:
        early: steps by which lowering may have moved them forward, where delays stand before them.
    """

    neuron: str
    place: Place
    layer: str
    label: str
    early: int = 0

    def own(self, outputs: Array) -> Array:
        """Theirs of a layer's outputs ``[N, T, ...]``: ``[N, T, neurons]``."""
        flat = outputs.reshape(*outputs.shape[:2], -1)
        return flat[:, :, self.place.first : self.place.first + self.place.size].astype(np.int32)


def ladder(source: Graph, lowered: Graph, net: ChipNet, x: Array, y: Array | None = None) -> dict[str, Rung]:
    """``float`` (as trained, float32), ``graph`` (lowered, float64) and ``chip`` (integers, event simulator).

    Only the trained neurons are counted, not those that lowering added (relays, always firing ones).
    """
    followed = _followed(source, lowered)
    spikes: dict[str, dict[str, list[Array]]] = {
        rung: {one.label: [] for one in followed} for rung in ("float", "graph", "chip")
    }
    predictions: dict[str, list[Array]] = {rung: [] for rung in spikes}
    record = Record.of(spikes=(one.layer for one in followed))
    trained, placed = {one.neuron for one in followed}, {one.place.node for one in followed}
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        first = execute(source, part, lambda node: node.name in trained, np.float32)
        second = execute(lowered, part, lambda node: node.name in placed)
        third = simulate(net, part, record=record)
        for rung, scores in (("float", first.scores), ("graph", second.scores)):
            predictions[rung].append(scores.argmax(1))
        predictions["chip"].append(third.predictions)
        for one in followed:
            whole = first.outputs[one.neuron]
            spikes["float"][one.label].append(whole.reshape(*whole.shape[:2], -1).astype(np.int32))
            spikes["graph"][one.label].append(one.own(second.outputs[one.place.node]))
            spikes["chip"][one.label].append(one.own(third.traces.spikes[one.layer][:, : net.time_steps]))
    rungs: dict[str, Rung] = {}
    above: tuple[Array, dict[str, Array]] | None = None
    for rung, parts in predictions.items():
        classes = np.concatenate(parts)
        fired = {label: np.concatenate(arrays) for label, arrays in spikes[rung].items()}
        differing = same = agreement = None
        if above is not None:
            early = {one.label: one.early if rung == "graph" else 0 for one in followed}
            differing = {label: _differing(s, fired[label], early[label]) for label, s in above[1].items()}
            same = {label: 1 - differing[label] / max(s.size, 1) for label, s in fired.items()}
            agreement = float((classes == above[0]).mean())
        accuracy = None if y is None else float((classes == y).mean())
        counts = {label: int(np.count_nonzero(s)) for label, s in fired.items()}
        interval = None if y is None else wilson(int((classes == y).sum()), len(y))
        rungs[rung] = Rung(accuracy, interval, counts, differing, same, agreement)
        above = (classes, fired)
    return rungs


def _differing(expected: Array, found: Array, early: int) -> int:
    """Spikes ``[N, T, neurons]`` that differ, of neurons that are at most so many steps early, all by the same."""
    steps = expected.shape[1]
    shifts = range(min(early, steps - 1) + 1)
    return min(int((expected[:, shift:] != found[:, : steps - shift]).sum()) for shift in shifts)


def wilson(right: int, samples: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval of a share of which ``right`` in ``samples`` were seen, 95 % by default (Wilson, JASA 22, 1927)."""
    share, square = right / samples, z * z / samples
    middle, half = share + square / 2, z * math.sqrt(share * (1 - share) / samples + square / (4 * samples))
    return max(0.0, (middle - half) / (1 + square)), min(1.0, (middle + half) / (1 + square))


def _followed(source: Graph, lowered: Graph) -> list[_Followed]:
    """A layer's name stands for its neurons, or theirs where it holds those of several."""
    if is_integer(lowered):
        shapes = source.shapes()
        names = [node.name for node in source.nodes if isinstance(node, ChipLayer)]
        return [_Followed(name, Place(name, 0, math.prod(shapes[name])), name, name) for name in names]
    layers = {block.neuron.name: block.name for block in chip_blocks(lowered)}
    found = places(source, lowered)
    shared = Counter(place.node for place in found.values())
    late: dict[str, int] = {}
    for node in source.nodes:
        late[node.name] = max((late[name] for name in node.inputs), default=0)
        late[node.name] += node.steps if isinstance(node, Delay) else 0
    return [
        _Followed(name, place, layers[place.node], layers[place.node] if shared[place.node] == 1 else name, late[name])
        for name, place in found.items()
    ]
