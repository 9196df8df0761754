"""Accuracy over time steps, early exit, and what both cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import hardware
from snn2chip.chip import ChipNet, ExitPolicy
from snn2chip.data import Data
from snn2chip.early_exit import Decisions, Latency, LevelCost, decisions, detach, latency, level_costs, with_host_rule
from snn2chip.early_exit.activity import required_record
from snn2chip.early_exit.calibration import CONFIDENCE, measure, observe
from snn2chip.ladder import wilson
from snn2chip.long_runs import Progress
from snn2chip.simulation import simulate
from snn2chip.traces import Record, Traces

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]

READ_STEPS = 64  # at which predictions are read
PRICED_STEPS = 16  # fixed windows that are priced
THRESHOLDS = 12  # of the exit's rule that are tried
RECORD_BYTES = 128 << 20  # of recordings that are held at once


@dataclass(frozen=True)
class Run:
    """The whole network on the samples, in the event simulator.

    Attributes:
        predictions, y: ``[N]``; no y where the data have no classes, or the readout is one neuron.
        read_at: steps, counted from 1, after which predictions were read.
        over_time: predictions then, ``[N, len(read_at)]``.
        traces: counts over all samples; nothing else is kept.
        found: decisions of the exit; None without one.
    """

    predictions: Int
    y: Int | None
    read_at: tuple[int, ...]
    over_time: Int
    traces: Traces
    found: Decisions | None

    @property
    def samples(self) -> int:
        """How many there were."""
        return len(self.predictions)

    def accuracy(self, predictions: Int) -> float | None:
        """Share that is right; None without classes."""
        return None if self.y is None else float((predictions == self.y).mean())

    def interval(self, predictions: Int) -> tuple[float, float] | None:
        """Of the accuracy, 95 %."""
        return None if self.y is None else wilson(int((predictions == self.y).sum()), len(self.y))


def run(net: ChipNet, data: Data, samples: int, status: Progress) -> Run:
    """The first ``samples`` of ``data``, chunk by chunk; ``status`` is told before each."""
    total = min(samples, len(data))
    record = required_record(net)
    kept = {
        layer.name: int(np.prod(layer.shape)) for layer in net.layers if layer.name in record.spikes | record.states
    }
    size = int(np.clip(RECORD_BYTES // max(1, net.window * 9 * sum(kept.values())), 1, 256))
    read_at = spread(net.time_steps, READ_STEPS)
    predictions, over_time, classes, spikes, operations, found = [], [], [], [], [], []
    for low in range(0, total, size):
        status("simulating", low, total)
        x, y = data.read(low, min(total, low + size))
        result = simulate(net, x, y, record=record)
        predictions.append(result.predictions)
        over_time.append(_predictions_at(net, result.traces, read_at))
        spikes.append(result.traces.spikes_per_step)
        operations.append(result.traces.operations_per_step)
        if y is not None and net.classes > 1:
            classes.append(y.astype(np.int64))
        if net.exit is not None:
            found.append(decisions(net, result.traces))
    names = ("label", "step", "exited")
    return Run(
        np.concatenate(predictions),
        np.concatenate(classes) if classes else None,
        read_at,
        np.concatenate(over_time),
        Traces({}, {}, {}, _summed(spikes), _summed(operations)),
        Decisions(*(np.concatenate([getattr(part, name) for part in found]) for name in names)) if found else None,
    )


def spread(last: int, most: int) -> tuple[int, ...]:
    """``1 .. last``, or ``most`` of them evenly apart, the last one included."""
    if last <= most:
        return tuple(range(1, last + 1))
    return tuple(sorted({round(value) for value in np.linspace(1, last, most).tolist()}))


def _summed(parts: list[dict[str, Int]]) -> dict[str, Int]:
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def _predictions_at(net: ChipNet, traces: Traces, steps: tuple[int, ...]) -> Int:
    """``[N, len(steps)]``: what :meth:`Traces.predictions` would say of windows of so many steps."""
    name, potential = net.readout_layer.name, net.readout.kind == "potential"
    trace = (traces.v if potential else traces.spikes)[name][:, : net.time_steps]
    scores = trace.reshape(*trace.shape[:2], -1)[:, :, : net.classes]
    if not potential:
        scores = scores.cumsum(1, dtype=np.int64)
    best: Int = scores[:, [step - 1 for step in steps]].argmax(2)
    return best


# Cost


@dataclass(frozen=True)
class Priced:
    """One way to stop.

    Attributes:
        what: in words.
        steps: mean steps of input that it looks at.
        accuracy: on the samples that are priced; None without classes.
        energy: of a sample, J, modelled.
    """

    what: str
    steps: float
    accuracy: float | None
    energy: float


@dataclass(frozen=True)
class EarlyExit:
    """The early exit on the samples.

    Attributes:
        accuracy, interval: with the exit; None without classes.
        took: steps of each sample.
        exited: share of samples that the rule stopped.
        levels: cost of whole, gated and stopped windows on the first ``priced`` samples.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    took: Latency
    exited: float
    levels: tuple[LevelCost, ...]
    priced: int


@dataclass(frozen=True)
class Costs:
    """What the network costs.

    Attributes:
        placement: of the whole network, its exit included.
        estimate: of a sample with its whole window.
        fixed: windows of fixed lengths of the network without its exit.
        swept: the exit's rule on the readout, at other thresholds.
        exit: None without one.
        priced: samples of ``fixed`` and ``swept``.
    """

    placement: hardware.Placement
    estimate: hardware.Estimate
    fixed: tuple[Priced, ...]
    swept: tuple[Priced, ...]
    exit: EarlyExit | None
    priced: int


def costs(net: ChipNet, ran: Run, x: Array) -> Costs:
    """Of the network on the samples that ``ran``; ``x``: the first of them, as many as the comparisons may take."""
    target = hardware.target_of(net.target)
    placement = hardware.place(net, target)
    estimate = hardware.estimate(net, placement, ran.traces, ran.samples)
    base = detach(net)
    priced = len(x)
    y = None if ran.y is None else ran.y[:priced]
    counted = ran.traces if base is net and priced == ran.samples else simulate(base, x, record=Record()).traces
    bare = placement if base is net else hardware.place(base, target)
    fixed = []
    for at in spread(len(ran.read_at), PRICED_STEPS):
        step = ran.read_at[at - 1]
        spikes, operations = (_until(c, step) for c in (counted.spikes_per_step, counted.operations_per_step))
        short = Traces({}, {}, {}, spikes, operations)
        accuracy = None if y is None else float((ran.over_time[:priced, at - 1] == y).mean())
        energy = hardware.estimate(base, bare, short, priced).total.mid
        fixed.append(Priced(f"{step} steps", float(step), accuracy, energy))
    if net.exit is None or ran.found is None:
        return Costs(placement, estimate, tuple(fixed), (), None, priced)
    early = EarlyExit(
        ran.accuracy(ran.found.label),
        ran.interval(ran.found.label),
        latency(net, ran.found),
        float(ran.found.exited.mean()),
        level_costs(net, x),
        priced,
    )
    swept = () if y is None else _swept(base, net.exit.policy, x, y)
    return Costs(placement, estimate, tuple(fixed), swept, early, priced)


def _until(counts: dict[str, Int], step: int) -> dict[str, Int]:
    return {name: array[:step] for name, array in counts.items()}


def _swept(base: ChipNet, policy: ExitPolicy, x: Array, y: Int) -> tuple[Priced, ...]:
    """The rule on the readout of ``base`` at thresholds between its extremes; softmax as the margin that it implies."""
    policy = "margin" if policy == "softmax" else policy
    host = with_host_rule(base, policy, (1,))
    samples = observe(host, x, y)
    strength = samples.lead.strength
    possible = np.unique(strength[strength >= 1])
    if not len(possible) or policy == "first-spike":
        return ()
    chosen = sorted({1, *np.quantile(possible, np.linspace(0, 1, THRESHOLDS)).astype(np.int64).tolist()})
    placement = hardware.place(host, hardware.target_of(host.target))
    found = []
    for threshold in chosen:
        point = measure(samples, int(threshold), 1 - CONFIDENCE, placement)
        assert point.energy is not None
        found.append(Priced(f"threshold {threshold}", point.mean_steps, point.accuracy, point.energy))
    return tuple(found)
