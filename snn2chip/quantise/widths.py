"""Mixed precision: for each layer the fewest bits that the accuracy, or the cores, allow.

Each layer's sensitivity is measured alone: what narrowing it, all others at eight bits, does to the predictions, and
how much memory it saves by the placement model. Moves of most saving per harm then make a sequence of networks, each
cheaper than the one before. What is wanted is searched for in that sequence, with networks that are quantised whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.errors import CheckFailed, InputError, LimitError
from snn2chip.graph import Graph, execute
from snn2chip.hardware import Target, place
from snn2chip.long_runs import Progress
from snn2chip.quantise.network import SAMPLES, Option, Quantised, Workbench
from snn2chip.quantise.search import Candidate
from snn2chip.simulation import simulate

Array = npt.NDArray[Any]

#: Widths that are tried, widest first. One bit saves nothing where both signs occur.
WIDTHS = (8, 6, 5, 4, 3, 2)
#: Samples that scales are chosen on while widths are compared.
TRIAL_SAMPLES = 512
#: Samples that predictions are compared on.
JUDGED_SAMPLES = 4096
CHUNK = 512


@dataclass(frozen=True)
class Widths:
    """Widths that were chosen, and what they cost.

    Attributes:
        bits: by layer.
        drop: accuracy of the trained model less the chip's, 0..1; without classes the share of other predictions.
        samples: on how many.
        apart: whether scales were chosen on other samples.
        memory: synaptic memory in bytes, and of the network with eight bits everywhere.
        cores: the same two for cores.
        sensitivity: by layer and width, share of predictions that narrowing this layer alone changes.
    """

    bits: dict[str, int]
    drop: float
    samples: int
    apart: bool
    memory: tuple[int, int]
    cores: tuple[int, int]
    sensitivity: dict[str, dict[int, float]]


@dataclass(frozen=True)
class _Judge:
    """Predictions on samples that networks are compared on."""

    x: Array
    y: Array | None
    trained: Array

    @staticmethod
    def of(graph: Graph, x: Array, y: Array | None) -> _Judge:
        parts = range(0, len(x), CHUNK)
        scores = [execute(graph, x[i : i + CHUNK], lambda node: False, np.float32).scores for i in parts]
        return _Judge(x, y, np.concatenate(scores).argmax(1))

    def changed(self, net: ChipNet) -> float:
        """Share of predictions that are not the trained model's."""
        return float((simulate(net, self.x).predictions != self.trained).mean())

    def drop(self, net: ChipNet) -> float:
        if self.y is None:
            return self.changed(net)
        return float((self.trained == self.y).mean() - (simulate(net, self.x).predictions == self.y).mean())


class _Bench:
    """Networks of any widths; what two of them have in common is computed once."""

    def __init__(self, graph: Graph, x: Array, per_neuron: bool, hardware_legal: bool) -> None:
        self.bench = Workbench(graph, x, per_neuron, hardware_legal)
        self.names = [block.name for block in self.bench.blocks]
        self._known: dict[tuple[int, ...], Candidate] = {}

    def layers(self, widths: tuple[int, ...]) -> list[Candidate]:
        found: list[Candidate] = []
        for i in range(len(widths)):
            key = widths[: i + 1]
            if key not in self._known:
                self._known[key] = self.bench.layer(i, Option(widths[i]), found[-1] if found else None)
            found.append(self._known[key])
        return found

    def net(self, widths: tuple[int, ...]) -> ChipNet:
        return self.bench.finished(self.layers(widths)).net


def choose_widths(
    graph: Graph,
    x: Array,
    y: Array | None,
    target: Target,
    max_drop: float | None = None,
    budget_cores: int | None = None,
    per_neuron: bool = False,
    hardware_legal: bool = True,
    progress: Progress | None = None,
) -> tuple[Quantised, Widths]:
    """The cheapest network whose accuracy drops by at most ``max_drop``, or the most accurate on ``budget_cores``.

    With both, the network has to meet both; with neither, nothing may be lost at all.

    Args:
        graph: in chip form.
        x, y: calibration samples. The first are used for scales; where there are twice as many, accuracy is measured
            on the others.
        target: the chip, whose memory is saved.
        max_drop: of the accuracy, 0..1; without classes of the share of equal predictions.
        progress: called with what is done now, and how much of it.

    Raises:
        CheckFailed: no widths meet what is asked for; the message says what is possible.
        InputError: no samples.
    """
    if len(x) == 0:
        raise InputError("calibration: no samples")
    size = min(SAMPLES, len(x) // 2) if len(x) >= 2 * TRIAL_SAMPLES else len(x)
    apart = size < len(x)
    rest = slice(size, size + JUDGED_SAMPLES) if apart else slice(0, len(x))
    judge = _Judge.of(graph, x[rest], None if y is None else y[rest])
    bench = _Bench(graph, x[: min(size, TRIAL_SAMPLES)], per_neuron, hardware_legal)
    count = len(bench.names)
    tell = progress or (lambda what, done, of: None)
    tell(f"sensitivity: all layers at {WIDTHS[0]} bits", 0, count * len(WIDTHS))
    usual = (WIDTHS[0],) * count
    widest = bench.layers(usual)
    wide_net = bench.bench.finished(widest).net
    words: list[dict[int, int]] = []
    sensitivity: list[dict[int, float]] = []
    for i, name in enumerate(bench.names):
        words.append({})
        sensitivity.append({})
        for k, width in enumerate(WIDTHS):
            tell(f"sensitivity: {name} at {width} bits", i * len(WIDTHS) + k, count * len(WIDTHS))
            try:
                own = bench.layers((*usual[:i], width))[i] if width != WIDTHS[0] else widest[i]
            except LimitError:
                break  # fewer bits do not fit either
            encoding = own.given.encoding if i == 0 else wide_net.encoding
            layers = (*wide_net.layers[:i], own.layer, *wide_net.layers[i + 1 :])
            net = replace(wide_net, layers=layers, encoding=encoding)
            words[i][width] = place(net, target).synaptic_memory_bytes
            sensitivity[i][width] = judge.changed(net)
    sequence = _sequence(usual, words, sensitivity)

    full = _Bench(graph, x[:size], per_neuron, hardware_legal)
    measured: dict[int, tuple[float, int]] = {}

    def meets(index: int) -> bool:
        """Whether the network's accuracy is good enough."""
        tell("widths: " + " ".join(map(str, sequence[index])), len(measured), len(sequence).bit_length() + 2)
        try:
            net = full.net(sequence[index])
        except LimitError:
            measured[index] = (np.inf, 0)
            return False
        measured[index] = (judge.drop(net), len(place(net, target).cores))
        return measured[index][0] <= allowed

    allowed = (0.0 if budget_cores is None else np.inf) if max_drop is None else max_drop
    if budget_cores is None:
        chosen = _last(len(sequence), meets)
    else:
        chosen = next((i for i in range(len(sequence)) if _cores(bench, sequence[i], target) <= budget_cores), None)
        chosen = chosen if chosen is not None and meets(chosen) else None
    if chosen is None or not np.isfinite(measured[chosen][0]):
        raise CheckFailed(_impossible(measured, max_drop, budget_cores, bench, sequence, target))
    quantised = full.bench.finished(full.layers(sequence[chosen]))
    reference = place(full.net(usual), target)
    placement = place(quantised.net, target)
    widths = Widths(
        dict(zip(bench.names, sequence[chosen], strict=True)),
        measured[chosen][0],
        len(judge.x),
        apart,
        (placement.synaptic_memory_bytes, reference.synaptic_memory_bytes),
        (len(placement.cores), len(reference.cores)),
        dict(zip(bench.names, sensitivity, strict=True)),
    )
    return quantised, widths


def _sequence(
    usual: tuple[int, ...], words: list[dict[int, int]], sensitivity: list[dict[int, float]]
) -> list[tuple[int, ...]]:
    """Widths from all wide to all narrow: each move the one of least harm for what it saves."""
    sequence = [usual]
    while True:
        now = sequence[-1]
        moves = [
            ((max(harm[to] - harm[now[i]], 0.0) + 1e-6) / (memory[now[i]] - memory[to]), i, to)
            for i, (memory, harm) in enumerate(zip(words, sensitivity, strict=True))
            for to in memory
            if to < now[i] and memory[to] < memory[now[i]]
        ]
        if not moves:
            return sequence
        _, i, to = min(moves)
        sequence.append((*now[:i], to, *now[i + 1 :]))


def _last(count: int, meets: Callable[[int], bool]) -> int | None:
    """The last index that is good enough, by bisection, and a look at the ones behind it; None where none is."""
    low, high = -1, count
    while high - low > 1:
        middle = (low + high) // 2
        if meets(middle):
            low = middle
        else:
            high = middle
    for index in range(min(high + 2, count - 1), high, -1):  # harm need not grow with each move
        if meets(index):
            return index
    return None if low < 0 else low


def _cores(bench: _Bench, widths: tuple[int, ...], target: Target) -> int:
    try:
        return len(place(bench.net(widths), target).cores)
    except LimitError:
        return 1 << 30


def _impossible(
    measured: dict[int, tuple[float, int]],
    max_drop: float | None,
    budget_cores: int | None,
    bench: _Bench,
    sequence: list[tuple[int, ...]],
    target: Target,
) -> str:
    if budget_cores is not None and not measured:
        least = min(_cores(bench, widths, target) for widths in sequence)
        return f"bits: no widths fit {budget_cores} cores, the fewest are {least}; use a smaller network"
    best = min(drop for drop, _ in measured.values())
    cores = "" if budget_cores is None else f" on {budget_cores} cores"
    return (
        f"bits: the accuracy drops by {best:.2%} at least{cores}, allowed are {max_drop or 0.0:.2%}; allow more, give "
        "more calibration samples, or fine-tune with snn2chip.quantise.prepare"
    )
