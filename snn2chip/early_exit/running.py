"""A network with an early exit on data: decisions, what each level of stopping costs, and the proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import hardware
from snn2chip.chip import ChipNet
from snn2chip.data import Data
from snn2chip.early_exit import lava, stopping
from snn2chip.early_exit.activity import (
    Activity,
    Latency,
    Level,
    decisions,
    latency,
    required_record,
    run_layers,
    until,
)
from snn2chip.early_exit.calibration import CHUNK, by_name, ended, energy_of
from snn2chip.early_exit.circuit import detach
from snn2chip.early_exit.evidence import circuit_evidence, source_layer
from snn2chip.early_exit.policies import Decisions, apply
from snn2chip.errors import InputError, UsageError
from snn2chip.simulation import check_classes, simulate
from snn2chip.traces import Record, Traces, encode, padded

Array = npt.NDArray[Any]

DATA_CHUNK = 2000  # samples in memory at once


@dataclass(frozen=True)
class ExitRun:
    """What came out.

    Attributes:
        level: see :data:`snn2chip.early_exit.activity.Level`.
        decisions: of each sample.
        latency: steps until the cutoff, and until the answer has left the chip.
        accuracy: with the exit; None without classes.
        accuracy_full: of the full window; None without classes, and where windows were not run to their end.
        computed_steps: time steps that were simulated, mean.
        seconds, overhead_seconds: of the simulation.
    """

    level: Level
    decisions: Decisions
    latency: Latency
    accuracy: float | None
    accuracy_full: float | None
    computed_steps: float
    seconds: float
    overhead_seconds: float


def simulate_exit(
    net: ChipNet, x: Array, y: Array | None = None, level: Level = "decision", backend: str = "event", threads: int = 0
) -> ExitRun:
    """Decide all samples in the event simulator, or (``decision``) in any other.

    A gate changes no decision, so that ``gated`` runs as ``decision`` does; what it saves is in :func:`level_costs`.

    Raises:
        UsageError: the network has no early exit, or the backend does not stop.
        InputError: the data do not fit.
    """
    check_classes(y, len(x), net.classes)
    if level == "stopped":
        if backend != "event":
            raise UsageError(f"exit: backend {backend!r} does not stop windows; use event")
        run = stopping.run(net, encode(net, x), threads=threads)
        found, full = run.decisions, None
        computed, seconds, overhead = run.steps / len(x), run.seconds, run.overhead_seconds
    else:
        result = simulate(net, x, backend=backend, record=required_record(net))
        found, full = decisions(net, result.traces), result.predictions
        computed = float(net.window)
        seconds, overhead = result.traces.seconds, result.traces.overhead_seconds
    return ExitRun(
        level,
        found,
        latency(net, found),
        None if y is None else float((found.label == y).mean()),
        None if y is None or full is None else float((full == y).mean()),
        computed,
        seconds,
        overhead,
    )


def simulate_exit_data(
    net: ChipNet, data: Data, level: Level = "decision", backend: str = "event", samples: int | None = None
) -> ExitRun:
    """:func:`simulate_exit` on data of any size, chunk by chunk."""
    total = len(data) if samples is None else min(samples, len(data))
    runs = []
    for low in range(0, total, DATA_CHUNK):
        x, y = data.read(low, min(total, low + DATA_CHUNK))
        runs.append(simulate_exit(net, x, y, level, backend))
    if not runs:
        raise InputError("data: no samples")
    return joined_runs(net, runs)


def joined_runs(net: ChipNet, runs: Sequence[ExitRun]) -> ExitRun:
    """Runs over samples that follow one another as one: means are those of a single run, to the last bit."""
    sizes = [len(run.decisions.step) for run in runs]

    def mean(name: str) -> float | None:
        values: list[float | None] = [getattr(run, name) for run in runs]
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return sum(round(value * size) for value, size in zip(known, sizes, strict=True)) / sum(sizes)

    found = Decisions(*(np.concatenate([getattr(run.decisions, name) for run in runs]) for name in _FIELDS))
    steps = mean("computed_steps")
    assert steps is not None
    return ExitRun(
        runs[0].level,
        found,
        latency(net, found),
        mean("accuracy"),
        mean("accuracy_full"),
        steps,
        sum(run.seconds for run in runs),
        sum(run.overhead_seconds for run in runs),
    )


@dataclass(frozen=True)
class LevelCost:
    """What one sample costs on the chip, mean.

    Attributes:
        level: ``none`` is the network without its circuit.
        steps: chip steps between two samples.
        spikes, operations: of all layers.
        energy, dynamic: J, modelled (:mod:`snn2chip.hardware.energy`); with and without static power.
        seconds: between two samples, modelled.
        cores: that the network takes.
    """

    level: str
    steps: float
    spikes: float
    operations: float
    energy: float
    dynamic: float
    seconds: float
    cores: int


def level_costs(net: ChipNet, x: Array, threads: int = 0) -> tuple[LevelCost, ...]:
    """Full, gated and stopped windows side by side, and the network without an exit.

    Full windows follow one another in the pipeline, ``window`` steps apart; a stopped one leaves it empty, so that the
    next one starts after the last layer has decided. Of a rule that the host applies there is nothing to gate.

    Raises:
        UsageError: the network has no early exit.
    """
    rule = net.exit
    if rule is None:
        raise UsageError("exit: the network has none; snn2chip cutoff makes one")
    base = detach(net)
    host = rule.form == "host"
    record = required_record(net)
    plain, whole, gated = [], [], []
    found: list[Decisions] = []
    for low in range(0, len(x), CHUNK):
        messages = encode(net, x[low : low + CHUNK])
        plain.append(run_layers(base, messages, Record(), threads=threads))
        run = run_layers(net, messages, record, threads=threads)
        whole.append(run)
        found.append(decisions(net, run.traces()))
        if not host:
            at = np.where(found[-1].exited, found[-1].step, net.window)
            gated.append(run_layers(net, messages, Record(), at, threads=threads))
    decided = Decisions(*(np.concatenate([getattr(part, name) for part in found]) for name in _FIELDS))
    own, bare = (hardware.place(which, hardware.target_of(net.target)) for which in (net, base))
    out = [
        pipelined_cost("none", base, bare, _all(plain).traces(), len(x)),
        pipelined_cost("decision", net, own, _all(whole).traces(), len(x)),
    ]
    if gated:
        out.append(pipelined_cost("gated", net, own, _all(gated).traces(), len(x)))
    activity = _all(whole)
    spikes, operations = (int(until(net, counts, decided).sum()) for counts in (activity.spikes, activity.operations))
    out.append(stopped_cost(net, own, ended(net, activity, decided), spikes, operations))
    return tuple(out)


_FIELDS = ("label", "step", "exited")


def _all(parts: list[Activity]) -> Activity:
    return Activity(by_name([part.spikes for part in parts]), by_name([part.operations for part in parts]), {}, {})


def pipelined_cost(level: str, net: ChipNet, placement: hardware.Placement, traces: Traces, samples: int) -> LevelCost:
    """Windows that follow one another; ``traces`` of so many samples."""
    estimate = hardware.estimate(net, placement, traces, samples)
    return LevelCost(
        level,
        float(net.window),
        sum(traces.spike_counts.values()) / samples,
        traces.synaptic_operations / samples,
        estimate.total.mid,
        estimate.dynamic.mid,
        estimate.sample_time.mid,
        len(placement.cores),
    )


def stopped_cost(
    net: ChipNet,
    placement: hardware.Placement,
    windows: Mapping[int, tuple[int, Traces]],
    spikes: int,
    operations: int,
) -> LevelCost:
    """Windows that a decision ended.

    Args:
        windows: see :func:`snn2chip.early_exit.calibration.ended`.
        spikes, operations: of all layers until the ends, summed over samples.
    """
    samples = sum(count for count, _ in windows.values())
    energy, dynamic, seconds, steps = energy_of(net, placement, windows)
    return LevelCost(
        "stopped", steps, spikes / samples, operations / samples, energy, dynamic, seconds, len(placement.cores)
    )


@dataclass(frozen=True)
class ExitProof:
    """An early exit checked: how many samples differ, by what was compared; None where it was not.

    Attributes:
        samples: compared.
        rule: the circuit in the event simulator against the integer rule on its evidence, class and step.
        stopped: windows ended at the decision against whole ones.
        lava: the circuit in Lava against the event simulator.
        gated_spikes: spikes of all layers, gated in Lava against gated in the event simulator.
        stopped_lava: windows ended in Lava against whole ones.
    """

    samples: int
    rule: int | None
    stopped: int
    lava: int | None = None
    gated_spikes: int | None = None
    stopped_lava: int | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing that was compared differs."""
        return not any((self.rule, self.stopped, self.lava, self.gated_spikes, self.stopped_lava))


def differing(one: Decisions, other: Decisions) -> int:
    """Samples that differ in class or step, or in whether they exited."""
    return int(((one.label != other.label) | (one.step != other.step) | (one.exited != other.exited)).sum())


def verify_exit(net: ChipNet, x: Array, in_lava: bool = True, timeout: float = 3600.0, threads: int = 0) -> ExitProof:
    """Compare circuit and integer rule, whole and stopped windows, and (a circuit) event simulator and Lava.

    Raises:
        UsageError: the network has no early exit.
        LavaError: Lava is missing, failed or timed out.
    """
    rule = net.exit
    if rule is None:
        raise UsageError("exit: the network has none; snn2chip cutoff makes one")
    messages = encode(net, x)
    if rule.form == "host":
        found = decisions(net, simulate(net, x, record=required_record(net)).traces)
        return ExitProof(len(x), None, differing(stopping.run(net, messages, threads=threads).decisions, found))
    source, record = source_layer(net), required_record(net)
    record = Record(record.spikes | ({source} if source else set()), record.states)
    result = simulate(net, x, record=record)
    found = decisions(net, result.traces)
    arrived = result.traces.spikes[source] if source else padded(net, messages)
    wanted = apply(rule, circuit_evidence(net, rule, arrived), result.predictions)
    stopped = stopping.run(net, messages, threads=threads).decisions
    proof = ExitProof(len(x), differing(found, wanted), differing(stopped, found))
    if not in_lava:
        return proof
    there = simulate(net, x, backend="lava", record=required_record(net), timeout=timeout)
    everything = Record.of([layer.name for layer in net.layers])
    at = np.where(found.exited, found.step, net.window)
    ours = run_layers(net, messages, everything, at, threads)
    theirs = lava.run_gated(net, messages, everything, timeout=timeout)
    stopped_lava = None
    if not net.leaks:
        ended, _ = lava.run_stopped(net, messages, timeout=timeout)
        label = np.where(ended.exited, ended.label, found.label)  # the host reads what nothing stopped
        stopped_lava = differing(Decisions(label, ended.step, ended.exited), found)
    return ExitProof(
        proof.samples,
        proof.rule,
        proof.stopped,
        differing(decisions(net, there.traces), found),
        sum(int((ours.kept[name] != theirs.spikes[name]).sum()) for name in ours.kept),
        stopped_lava,
    )
