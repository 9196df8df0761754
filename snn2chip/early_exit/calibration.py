"""Choosing policy and threshold on held-out samples, with a bound on what the exit costs.

Drop is the accuracy of the full window minus that with the exit, on the same samples: P(only the full window is right)
minus P(only the exit is right). Its upper bound takes a Clopper-Pearson bound of each share, at half the error each.

Thresholds are tested in a fixed order, from the one that hardly ever stops to lower ones, and the first that fails ends
the test: that needs no correction for their number (learn then test, arXiv 2110.01052). Where latency is the aim, the
most accurate of them is taken instead, so that they share the error, as several policies do. The test set takes no
part.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import hardware
from snn2chip.chip import ChipNet, ExitForm, ExitPolicy
from snn2chip.early_exit.activity import Activity, ends, in_chip_time, latency, run_layers, until
from snn2chip.early_exit.circuit import (
    LEVELS,
    THRESHOLD_MAX,
    attach,
    detach,
    rounding_error,
    with_host_rule,
)
from snn2chip.early_exit.evidence import Evidence, accumulated_scores, circuit_evidence, source_layer
from snn2chip.early_exit.policies import Decisions, Lead, decide, lead, softmax_gap, softmax_ladder
from snn2chip.errors import CheckFailed, InputError, UsageError
from snn2chip.long_runs import Progress
from snn2chip.simulation import check_classes
from snn2chip.traces import Record, Traces, encode

Array = npt.NDArray[Any]

CHUNK = 250  # samples whose spikes are held at once
CANDIDATES = 60  # thresholds that are tried
LADDER_CLASSES = 46  # that a ladder's budget is enough for
LEAST_LEVELS = 4  # of a detector's weights; coarser rows would no longer be the readout's
CONFIDENCE = 0.95
POLICIES: tuple[ExitPolicy, ...] = ("margin", "threshold", "patience")


# Bounds


def binomial_tail(count: int, samples: int, share: float) -> float:
    """P(X <= count) of a binomial X."""
    if share <= 0:
        return 1.0
    if share >= 1:
        return 1.0 if count >= samples else 0.0
    k = np.arange(count + 1)
    logs = np.cumsum(np.log((samples - k[1:] + 1) / k[1:])) if count else np.zeros(0)
    logs = np.concatenate([[0.0], logs]) + k * math.log(share) + (samples - k) * math.log1p(-share)
    return float(min(1.0, np.exp(logs).sum()))


def upper_share(count: int, samples: int, error: float) -> float:
    """Clopper-Pearson: the largest share that ``count`` of ``samples`` does not refute at this error."""
    if count >= samples:
        return 1.0
    low, high = count / samples, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_tail(count, samples, middle) > error else (low, middle)
    return high


def lower_share(count: int, samples: int, error: float) -> float:
    """Clopper-Pearson: the smallest share that ``count`` of ``samples`` does not refute at this error."""
    return 1 - upper_share(samples - count, samples, error)


def drop_bound(worse: int, better: int, samples: int, error: float) -> float:
    """Upper bound of the drop, from samples that only the full window, or only the exit, gets right."""
    return upper_share(worse, samples, error / 2) - lower_share(better, samples, error / 2)


def samples_needed(max_drop: float, error: float, worse: float = 0.0, better: float = 0.0) -> int | None:
    """Samples that prove ``max_drop`` if these shares stay as they are; None where no number does."""
    if worse - better >= max_drop:
        return None
    low, high = 1, 2

    def proves(samples: int) -> bool:
        return drop_bound(round(worse * samples), round(better * samples), samples, error) <= max_drop

    while not proves(high):
        low, high = high, 2 * high
        if high > 1 << 24:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if proves(middle) else (middle, high)
    return high


# Measuring


@dataclass(frozen=True)
class Samples:
    """Held-out samples as a network with a circuit sees them.

    Attributes:
        net: the network; its threshold does not matter here.
        lead: by the circuit's evidence.
        exact: by the readout's own, before its rows are rounded.
        full: predictions of the full window, ``[N]``.
        scores: of the readout, accumulated, ``[N, T, C]``.
        y: classes, ``[N]``.
        activity: counts of each layer.
    """

    net: ChipNet
    lead: Lead
    exact: Lead
    full: npt.NDArray[np.int64]
    scores: npt.NDArray[np.int64]
    y: npt.NDArray[np.int64]
    activity: Activity


def observe(net: ChipNet, x: Array, y: Array, threads: int = 0, progress: Progress | None = None) -> Samples:
    """Run a network with an early exit on all samples, whole windows.

    Args:
        progress: called before each chunk.

    Raises:
        InputError: there are no samples, or the classes do not fit.
    """
    rule = net.exit
    if rule is None:
        raise UsageError("exit: the network has none")
    if len(x) == 0 or len(y) == 0:
        raise InputError(f"calibration: {len(x)} samples and classes of shape {y.shape}; both are needed")
    check_classes(y, len(x), net.classes, "calibration")
    readout, source = rule.readout, source_layer(net)
    potential = net.readout.kind == "potential"
    record = Record.of([source] if source else [], [readout] if potential else [])
    leads: list[Lead] = []
    exact: list[Lead] = []
    scores, full, spikes, operations = [], [], [], []
    for low in range(0, len(x), CHUNK):
        if progress is not None:
            progress(f"simulating: {rule.policy}", low, len(x))
        messages = encode(net, x[low : low + CHUNK])
        run = run_layers(net, messages, record, threads=threads)
        trace = run.states[readout][1] if potential else run.kept[readout]
        chunk = accumulated_scores(net, trace)
        scores.append(chunk)
        full.append(run.traces().predictions(net))
        numerator, denominator = rule.scale
        unrounded = tuple(max(1, round(m * denominator / numerator)) for m in rule.thresholds)
        own = lead(rule.policy, rule.form, Evidence.of(chunk), unrounded)
        exact.append(own)
        if rule.form == "host":
            leads.append(own)
        else:
            arrived = run.kept[source] if source else _padded(net, messages)
            leads.append(lead(rule.policy, rule.form, circuit_evidence(net, rule, arrived), rule.thresholds))
        spikes.append(run.spikes)
        operations.append(run.operations)
    joined = np.concatenate(scores)
    return Samples(
        net,
        _joined(leads),
        _joined(exact),
        np.concatenate(full),
        joined,
        y.astype(np.int64),
        Activity(by_name(spikes), by_name(operations), {}, {}),
    )


def _padded(net: ChipNet, messages: Array) -> Array:
    out = np.zeros((len(messages), net.window, *net.input_shape), messages.dtype)
    out[:, : messages.shape[1]] = messages
    return out


def _joined(parts: Sequence[Lead]) -> Lead:
    return Lead(np.concatenate([part.label for part in parts]), np.concatenate([part.strength for part in parts]))


def by_name(parts: Sequence[Any]) -> dict[str, npt.NDArray[np.int64]]:
    """Arrays of chunks, joined along the samples."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class Point:
    """One threshold on held-out samples.

    Attributes:
        threshold: integer, of the circuit's evidence.
        accuracy: with the exit.
        drop, drop_upper_bound: against the full window; the bound holds with the confidence asked for.
        exited: share of samples that the rule stopped.
        mean_steps, median_steps, p95_steps: cutoff steps.
        mean_latency_steps: until the answer has left the chip.
        operations: synaptic operations of a stopped window, mean. What a circuit's detectors do depends on the
            threshold; for those that were not chosen it is counted as at the lowest.
        energy: of a stopped window, J, mean; None where it was not asked for.
    """

    threshold: int
    accuracy: float
    drop: float
    drop_upper_bound: float
    exited: float
    mean_steps: float
    median_steps: float
    p95_steps: float
    mean_latency_steps: float
    operations: float
    energy: float | None = None


def measure(samples: Samples, threshold: int, error: float, placement: hardware.Placement | None = None) -> Point:
    """What a threshold does; ``error``: of the bound."""
    found = decide(samples.lead, threshold, samples.full)
    right, before = found.label == samples.y, samples.full == samples.y
    took = latency(samples.net, found)
    count = len(right)
    return Point(
        int(threshold),
        float(right.mean()),
        float(before.mean() - right.mean()),
        drop_bound(int((before & ~right).sum()), int((right & ~before).sum()), count, error),
        float(found.exited.mean()),
        float(took.cutoff.mean()),
        float(np.median(took.cutoff)),
        float(np.percentile(took.cutoff, 95)),
        float(took.chip.mean()),
        float(until(samples.net, samples.activity.operations, found).mean()),
        None if placement is None else stopped_energy(samples.net, placement, samples.activity, found)[0],
    )


def stopped_energy(
    net: ChipNet, placement: hardware.Placement, activity: Activity, found: Decisions
) -> tuple[float, float, float, float]:
    """Of a mean stopped window: energy and dynamic energy, J, time, s, and chip steps.

    Each length is estimated by itself, from the step at which its pipeline begins to fill to that of the decision.
    """
    return energy_of(net, placement, ended(net, activity, found))


def ended(net: ChipNet, activity: Activity, found: Decisions) -> dict[int, tuple[int, Traces]]:
    """Stopped windows by the chip steps that they took: how many, and what they did, by chip step."""
    length = ends(net, found)
    steps = np.unique(length).tolist()
    return {n: (int((length == n).sum()), in_chip_time(net, activity, length == n, n)) for n in steps}


def energy_of(
    net: ChipNet, placement: hardware.Placement, windows: Mapping[int, tuple[int, Traces]]
) -> tuple[float, float, float, float]:
    """What :func:`stopped_energy` returns, of :func:`ended` windows."""
    total = np.zeros(4)
    samples = 0
    for steps in sorted(windows):
        count, traces = windows[steps]
        cost = hardware.estimate(net, placement, traces, count)
        total += np.array([cost.total.mid, cost.dynamic.mid, cost.sample_time.mid, steps]) * count
        samples += count
    energy, dynamic, seconds, mean = (total / samples).tolist()
    return energy, dynamic, seconds, mean


# Choosing


@dataclass(frozen=True)
class Calibrated:
    """A network with a chosen exit, and how it was chosen.

    Attributes:
        net: with its circuit, or (``host``) its rule.
        chosen: its threshold on the calibration samples.
        curve: all thresholds, from the one that hardly ever stops.
        accuracy_full: of the full window.
        samples: how many there were.
        confidence: of the bounds on the drop.
        loss: what the re-quantised rows change, see :class:`Loss`.
        estimated_operations: of the chosen threshold, counted as those of the others are.
    """

    net: ChipNet
    chosen: Point
    curve: tuple[Point, ...]
    accuracy_full: float
    samples: int
    confidence: float
    loss: Loss
    estimated_operations: float


@dataclass(frozen=True)
class Loss:
    """The circuit's evidence against the readout's own, at the chosen threshold.

    Attributes:
        scale: circuit's units per unit of the readout's evidence.
        weight_error: largest rounding error of a detector's weight, in units of the readout's weights.
        same_decision: share of samples that decide for the same class at the same step with unrounded evidence.
        accuracy: with unrounded evidence.
        mean_steps: with unrounded evidence.
    """

    scale: float
    weight_error: float
    same_decision: float
    accuracy: float
    mean_steps: float


def calibrate(
    net: ChipNet,
    x: Array,
    y: Array,
    policies: Sequence[ExitPolicy] = ("margin",),
    form: ExitForm | None = None,
    *,
    max_drop: float | None = None,
    eps: float | None = None,
    max_latency: float | None = None,
    logit: float | None = None,
    confidence: float = CONFIDENCE,
    energy: bool = False,
    threads: int = 0,
    observing: Callable[[ChipNet, Array, Array, int], Samples] = observe,
    progress: Progress | None = None,
) -> Calibrated:
    """Choose policy and threshold on held-out samples; exactly one aim has to be given.

    Args:
        net: without or with an exit, which is replaced.
        x, y: samples and classes that the network was not trained on; never the test set.
        policies: those to choose from; of several that reach the aim, that with fewest steps (or, at a given latency,
            the most accurate).
        form: of the circuit; by default the exact one.
        max_drop: accuracy that may be lost, as a share (0.005 is half a point), bounded at ``confidence``.
        eps: softmax confidence that is guaranteed to exceed ``1 - eps``; the policy is ``softmax``.
        max_latency: mean steps until the answer has left the chip.
        logit: integers of the readout's evidence per unit of logit; by default the scale at which the softmax of the
            full window fits the classes of these samples best.
        energy: estimate the energy of each threshold.
        observing: :func:`observe`, or something that remembers what it returned.
        progress: called with what is done now, and how many samples or thresholds of all are done.

    Raises:
        CheckFailed: no threshold reaches the aim; the message says how many samples are missing, where that is why.
        UnsupportedError: the policy has no circuit for this readout.
    """
    if sum(aim is not None for aim in (max_drop, eps, max_latency)) != 1:
        raise UsageError("cutoff: give one of max_drop, eps and max_latency")
    if eps is not None:
        policies = ("softmax",)
    if not policies or not 0 < confidence < 1:
        raise UsageError(f"cutoff: policies {policies}, confidence {confidence}")
    if max_drop is not None and not 0 <= max_drop <= 1:
        raise UsageError(f"cutoff: max_drop {max_drop}, expected a share in 0..1")
    net = detach(net)

    if observing is observe:
        observing = functools.partial(observe, progress=progress)

    def see(net: ChipNet) -> Samples:
        return observing(net, x, y, threads)

    error = (1 - confidence) / len(policies)
    best: tuple[Samples, Point, tuple[Point, ...], ExitPolicy] | None = None
    refusals = []
    trials: list[tuple[ExitPolicy, int]] = [(policy, LEVELS) for policy in policies]
    for policy, levels in trials:
        samples = _seen(see, net, policy, form, levels)
        coarser = _coarser(samples)
        placement = hardware.place(samples.net, hardware.target_of(net.target)) if energy else None
        if eps is not None:
            unit = logit if logit is not None else fitted_logit(samples.scores[:, -1], samples.y)
            samples = _confident(see, samples, eps, unit, form)
            placement = hardware.place(samples.net, hardware.target_of(net.target)) if energy else None
            assert samples.net.exit is not None
            chosen = measure(samples, samples.net.exit.thresholds[0], error, placement)
            best = (samples, chosen, (chosen,), policy)
            break
        points: list[Point] = []
        candidates = _candidates(samples, policy)
        share = error if max_drop is not None else error / len(candidates)
        for m in candidates:
            if progress is not None:
                progress(f"thresholds: {policy}", len(points), len(candidates))
            points.append(measure(samples, m, share, placement))
        curve = tuple(points)
        passed = _passing(curve, max_drop, max_latency)
        if not passed and coarser is not None and max_drop is not None:
            trials.append((policy, coarser))  # the largest threshold stops too early
            continue
        if not passed:
            refusals.append(f"{policy}: {_why(curve, samples, max_drop, max_latency, error)}")
            continue
        point = min(passed, key=lambda p: (p.mean_steps, -p.accuracy) if max_drop is not None else (-p.accuracy,))
        if best is None or _better(point, best[1], max_drop is not None):
            best = (samples, point, curve, policy)
    if best is None:
        raise CheckFailed(f"cutoff: no threshold reaches the aim; {'; '.join(refusals)}")
    samples, chosen, curve, policy = best
    final, estimated = _final(samples, chosen, confidence), chosen.operations
    if final.exit is not None and final.exit.form != "host" and samples.net.exit != replace(final.exit, calibration=()):
        own = see(replace(final, exit=replace(final.exit, calibration=())))
        own_placement = hardware.place(own.net, hardware.target_of(net.target)) if energy else None
        exact = measure(own, chosen.threshold, error, own_placement)
        chosen = replace(chosen, operations=exact.operations, energy=exact.energy)
        curve = tuple(chosen if point.threshold == chosen.threshold else point for point in curve)
    return Calibrated(
        final,
        chosen,
        curve,
        float((samples.full == samples.y).mean()),
        len(samples.y),
        confidence,
        _loss(samples, chosen),
        estimated,
    )


def _better(one: Point, other: Point, by_steps: bool) -> bool:
    return one.mean_steps < other.mean_steps if by_steps else one.accuracy > other.accuracy


#: :func:`observe` on the samples.
_See = Callable[[ChipNet], Samples]


def _seen(see: _See, net: ChipNet, policy: ExitPolicy, form: ExitForm | None, levels: int) -> Samples:
    if form == "host":
        return see(with_host_rule(net, policy, (1,)))
    if policy == "softmax":
        form = "pairs"  # the evidence of a ladder, whose rungs need the scale
    return see(attach(net, policy, 1, form, levels=levels))


def _confident(see: _See, samples: Samples, eps: float, unit: float, form: ExitForm | None) -> Samples:
    """The samples, seen by a circuit that guarantees a softmax confidence; ``unit``: integers per logit.

    Raises:
        CheckFailed: detectors cannot count up to the gap that it takes.
    """
    net = detach(samples.net)
    classes = net.classes
    if form == "host":
        return see(with_host_rule(net, "softmax", (softmax_gap(eps, classes, unit),)))
    form = form or ("ladder" if classes <= LADDER_CLASSES else "pairs")
    assert samples.net.exit is not None
    level, largest = samples.net.exit.scale
    while True:
        scaled = unit * level / largest
        gaps = softmax_ladder(eps, classes, scaled) if form == "ladder" else (softmax_gap(eps, classes, scaled),)
        if max(gaps) <= THRESHOLD_MAX:
            levels = level if net.readout.kind == "potential" else LEVELS
            return see(attach(net, "softmax", gaps, form, levels=levels))
        level -= 1
        if net.readout.kind == "count" or level < LEAST_LEVELS:
            raise CheckFailed(f"cutoff: eps {eps} needs a gap of {max(gaps)}, detectors compare up to {THRESHOLD_MAX}")


def _coarser(samples: Samples) -> int | None:
    """Levels of rows whose evidence stays within what a detector compares; None where it does, or they are too few."""
    rule = samples.net.exit
    assert rule is not None
    if rule.form == "host" or rule.policy == "patience" or samples.net.readout.kind == "count":
        return None
    largest = float(samples.lead.strength.max())
    levels = int(rule.scale[0] * THRESHOLD_MAX / largest) if largest > THRESHOLD_MAX else 0
    return levels if LEAST_LEVELS <= levels < rule.scale[0] else None


def _candidates(samples: Samples, policy: ExitPolicy) -> list[int]:
    """Thresholds from the one that hardly ever stops downwards."""
    strength = samples.lead.strength
    high = samples.net.time_steps if policy == "patience" else THRESHOLD_MAX
    assert samples.net.exit is not None
    if samples.net.exit.form == "host" and policy != "patience":
        high = int(strength.max(initial=0)) + 1
    possible = np.unique(np.clip(strength[strength >= 1], 1, high))
    if len(possible) > CANDIDATES:
        possible = np.unique(np.quantile(possible, np.linspace(0, 1, CANDIDATES)).astype(np.int64))
    return sorted({*possible.tolist(), 1}, reverse=True)


def _passing(curve: Iterable[Point], max_drop: float | None, max_latency: float | None) -> list[Point]:
    out = []
    for point in curve:
        if max_drop is not None:
            if point.drop_upper_bound > max_drop:
                break
            out.append(point)
        elif max_latency is not None and point.mean_latency_steps <= max_latency:
            out.append(point)
    return out


def _why(
    curve: Sequence[Point], samples: Samples, max_drop: float | None, max_latency: float | None, error: float
) -> str:
    if max_drop is None:
        shortest = min(point.mean_latency_steps for point in curve)
        return f"at least {shortest:.2f} steps on average until the answer has left the chip, not {max_latency}"
    have, needed = len(samples.y), samples_needed(max_drop, error)
    if needed is None or needed > have:
        missing = "infinitely many" if needed is None else f"{needed - have}"
        return f"{have} samples prove no drop below {100 * max_drop:g} points; at least {missing} more are missing"
    first = curve[0]
    return f"even threshold {first.threshold} may lose {100 * first.drop_upper_bound:.2f} points"


def _final(samples: Samples, chosen: Point, confidence: float) -> ChipNet:
    """The network with the chosen threshold, which the samples have seen with another one."""
    rule = samples.net.exit
    assert rule is not None
    notes = (
        ("samples", float(len(samples.y))),
        ("accuracy_full", float((samples.full == samples.y).mean())),
        ("accuracy_exit", chosen.accuracy),
        ("drop", chosen.drop),
        ("drop_upper_bound", chosen.drop_upper_bound),
        ("confidence", confidence),
        ("mean_steps", chosen.mean_steps),
        ("median_steps", chosen.median_steps),
        ("mean_latency_steps", chosen.mean_latency_steps),
    )
    base = detach(samples.net)
    if rule.form == "host":
        return with_host_rule(base, rule.policy, (chosen.threshold,), notes)
    levels = rule.scale[0] if base.readout.kind == "potential" else LEVELS
    threshold = rule.thresholds if rule.form == "ladder" else chosen.threshold
    return attach(base, rule.policy, threshold, rule.form, levels=levels, calibration=notes)


def _loss(samples: Samples, chosen: Point) -> Loss:
    rule = samples.net.exit
    assert rule is not None
    numerator, denominator = rule.scale
    scale = numerator / denominator
    # patience counts steps, all other strengths are evidence
    exact = chosen.threshold if rule.policy == "patience" else max(1, round(chosen.threshold / scale))
    unrounded = decide(samples.exact, exact, samples.full)
    found = decide(samples.lead, chosen.threshold, samples.full)
    same = (unrounded.label == found.label) & (unrounded.step == found.step)
    return Loss(
        scale,
        0.0 if rule.form == "host" else rounding_error(samples.net),
        float(same.mean()),
        float((unrounded.label == samples.y).mean()),
        float(unrounded.steps.mean()),
    )


def fitted_logit(scores: Array, y: Array) -> float:
    """Integers per unit of logit at which the softmax of ``scores`` ``[N, C]`` fits the classes best.

    Temperature scaling, arXiv 1706.04599: the least negative log-likelihood.

    Raises:
        CheckFailed: all are right, so that the smaller the number, the better the fit.
    """
    if (scores[np.arange(len(y)), y] == scores.max(1)).all():
        raise CheckFailed(
            f"cutoff: the full window is right on all {len(y)} samples, which leaves its confidence open; give more "
            "samples, or the integers per unit of logit with --logit"
        )
    spread = float(np.abs(scores - scores.mean(1, keepdims=True)).max()) or 1.0

    def cost(unit: float) -> float:
        logits = (scores - scores.max(1, keepdims=True)) / unit
        return float((np.log(np.exp(logits).sum(1)) - logits[np.arange(len(y)), y]).mean())

    low, high = math.log(spread / 1e3), math.log(spread * 1e3)
    shrink = (math.sqrt(5) - 1) / 2
    for _ in range(60):  # golden section: the cost has one minimum
        a, b = high - shrink * (high - low), low + shrink * (high - low)
        low, high = (low, b) if cost(math.exp(a)) < cost(math.exp(b)) else (a, high)
    return math.exp((low + high) / 2)
