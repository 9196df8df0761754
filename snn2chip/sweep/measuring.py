"""What one network does on the data, with any number of cutoffs.

The network runs once. A circuit changes the last layers alone, so that for each cutoff only these run again, on the
spikes that arrive there; a threshold that is to be chosen on held-out samples is chosen on what they were seen to do,
once for each policy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Encoding
from snn2chip.data import Data, open_data
from snn2chip.early_exit import Decisions, attach, calibrate, decisions, detach, latency
from snn2chip.early_exit.activity import Activity, required_record, run_layers, until
from snn2chip.early_exit.calibration import CHUNK, Samples, ended, observe
from snn2chip.early_exit.running import LevelCost, pipelined_cost, stopped_cost
from snn2chip.errors import DoesNotFitError, EnvironmentFailure, InputError, Snn2chipError, UsageError
from snn2chip.formats import read
from snn2chip.hardware import Placement, Target, check, place, target_of
from snn2chip.long_runs import digest
from snn2chip.sweep.config import Cutoff
from snn2chip.sweep.source import Source
from snn2chip.traces import Record, Traces, encode

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class MeasureTask:
    """One network on the data.

    Attributes:
        net, digest: a NetX file and the network that it holds.
        data, sha256: path of the samples and what they contain.
        samples: how many of them.
        source: of samples that thresholds are chosen on.
        used: so many of the first of these chose scales.
        logit: integers per logit, where known.
        target: chip.
        cutoffs: to measure.
    """

    net: str
    digest: str
    data: str
    sha256: str
    samples: int
    source: Source
    used: int
    logit: float | None
    target: str
    cutoffs: tuple[Cutoff, ...]


@functools.lru_cache(maxsize=1)
def _data(path: str, sha256: str) -> Data:
    return open_data(path)


def measure_task(task: MeasureTask) -> list[dict[str, Any]]:
    """What each cutoff comes to: see :meth:`_Measured.result`, or ``reason`` where it cannot be had.

    Raises:
        InputError: the network or the data have changed, or cannot be read.
    """
    base = read(task.net)
    if digest(base) != task.digest:
        raise InputError(f"{task.net}: is not the network that was compiled; --force starts anew")
    base, found = detach(base), _choices(base, task)
    measured = [one for one in found if isinstance(one, _Measured)]
    record = _needed(base, measured)
    data = _data(task.data, task.sha256)
    for low in range(0, task.samples if measured else 0, CHUNK):
        x, y = data.read(low, min(low + CHUNK, task.samples))
        if y is None:
            raise InputError(f"{task.data}: no classes y; they are needed for the accuracy")
        messages = encode(base, x)
        run = run_layers(base, messages, record)
        for one in measured:
            one.add(messages, run, y)
    return [one.result() if isinstance(one, _Measured) else {"reason": one} for one in found]


def _choices(base: ChipNet, task: MeasureTask) -> list[_Measured | str]:
    """For each cutoff the network that has it, or why there is none."""
    seen: dict[Any, Samples] = {}

    def observing(net: ChipNet, x: Array, y: Array, threads: int) -> Samples:
        if net.exit not in seen:
            seen[net.exit] = observe(net, x, y, threads)
        return seen[net.exit]

    found: list[_Measured | str] = []
    target = target_of(task.target)
    for cutoff in task.cutoffs:
        try:
            net = _with_cutoff(base, cutoff, task, observing)
            placement = placed(net, target)
        except EnvironmentFailure:
            raise
        except Snn2chipError as error:
            found.append(str(error))
            continue
        found.append(_Measured(detach(base), net, placement, cutoff.level))
    return found


def placed(net: ChipNet, target: Target) -> Placement:
    """``net`` on the chip.

    Raises:
        DoesNotFitError: it breaks a design rule.
    """
    placement = place(net, target)
    errors = [finding for finding in check(net, target, placement) if finding.level == "error"]
    if errors:
        more = f"; {len(errors) - 1} more" if len(errors) > 1 else ""
        raise DoesNotFitError(f"{errors[0]}{more}")
    return placement


def _with_cutoff(
    base: ChipNet, cutoff: Cutoff, task: MeasureTask, observing: Callable[[ChipNet, Array, Array, int], Samples]
) -> ChipNet:
    """``base`` with an exit: as given, or chosen as ``snn2chip cutoff`` and ``snn2chip export --exit`` do."""
    policy: Any = cutoff.policy
    form: Any = cutoff.form
    if policy is None:
        return detach(base)
    if cutoff.threshold is not None:
        return attach(base, policy, cutoff.threshold, form)
    x, y = held_out(task)
    return calibrate(
        base,
        x,
        y,
        (policy,),
        form,
        max_drop=None if cutoff.max_drop is None else cutoff.max_drop / 100,
        eps=cutoff.eps,
        max_latency=cutoff.max_latency,
        logit=task.logit,
        confidence=cutoff.confidence,
        observing=observing,
    ).net


def held_out(task: MeasureTask) -> tuple[Array, Array]:
    """Samples that thresholds are chosen on: those that chose no scales.

    Raises:
        UsageError: there are none.
    """
    x, y = task.source.samples()
    if x is None or y is None or len(x) <= task.used:
        have = "none" if x is None else f"{len(x)}{'' if y is not None else ' without classes'}"
        raise UsageError(
            f"calibration: have {have}; a cutoff needs classes, and samples beyond the first {task.used}, which choose "
            "the scales; give calibration: heldout.npz, or cutoffs with threshold:"
        )
    return x[task.used :], y[task.used :]


def _shared(base: ChipNet, net: ChipNet) -> int:
    """How many of the first layers are the same."""
    same = 0
    for mine, theirs in zip(base.layers, net.layers, strict=False):
        if mine != theirs:
            break
        same += 1
    return same


def _needed(base: ChipNet, measured: list[_Measured]) -> Record:
    """What the run of the whole network has to keep."""
    readout = required_record(base)
    before = {base.layers[one.shared - 1].name for one in measured if one.shared}
    return Record(readout.spikes | before, readout.states)


class _Measured:
    """A network with its cutoff, and what it did so far.

    Attributes:
        base: without the cutoff.
        net: with it.
        level: what a decision ends.
        shared: first layers that both have.
    """

    def __init__(self, base: ChipNet, net: ChipNet, placement: Placement, level: str) -> None:
        self.base, self.net, self.placement = base, net, placement
        self.level = "none" if net.exit is None else level
        self.shared = _shared(base, net)
        self.samples = self.right = self.right_full = self.exited = self.steps = self.latency = 0
        self.spikes = self.operations = 0
        self.traces: Traces | None = None
        self.windows: dict[int, tuple[int, Traces]] = {}

    def add(self, messages: Array, run: Activity, y: Array) -> None:
        """Samples; ``run``: what :attr:`base` made of them."""
        activity = self._completed(messages, run)
        full = activity.traces().predictions(self.net)
        self.samples += len(y)
        self.right_full += int((full == y).sum())
        found = None if self.net.exit is None else decisions(self.net, activity.traces())
        label = full if found is None else found.label
        self.right += int((label == y).sum())
        if found is None:
            self.steps += self.net.time_steps * len(y)
            self.latency += (self.net.time_steps + self.net.depth) * len(y)
        else:
            took = latency(self.net, found)
            self.steps += int(took.cutoff.sum())
            self.latency += int(took.chip.sum())
            self.exited += int(found.exited.sum())
        self._count(messages, activity, found)

    def _completed(self, messages: Array, run: Activity) -> Activity:
        """What the network does, of which the first layers have run."""
        net, shared = self.net, self.shared
        if shared == len(net.layers):
            return run
        rest, arrived = net, messages
        if shared:
            inputs, layers = net.layers[shared].input_shape, net.layers[shared:]
            rest = replace(net, input_shape=inputs, layers=layers, encoding=Encoding())
            arrived = run.kept[net.layers[shared - 1].name]
        after = run_layers(rest, arrived, required_record(rest))
        first = [layer.name for layer in net.layers[:shared]]
        return Activity(
            {**{name: run.spikes[name] for name in first}, **after.spikes},
            {**{name: run.operations[name] for name in first}, **after.operations},
            after.kept,
            after.states,
        )

    def _count(self, messages: Array, activity: Activity, found: Decisions | None) -> None:
        net = self.net
        if self.level == "stopped":
            assert found is not None
            self.spikes += int(until(net, activity.spikes, found).sum())
            self.operations += int(until(net, activity.operations, found).sum())
            for steps, (count, traces) in ended(net, activity, found).items():
                before, sums = self.windows.get(steps, (0, None))
                self.windows[steps] = (before + count, _plus(sums, traces))
            return
        if self.level == "gated":
            assert found is not None
            at = np.where(found.exited, found.step, net.window)
            activity = run_layers(net, messages, Record(), at)
        self.traces = _plus(self.traces, activity.traces())

    def result(self) -> dict[str, Any]:
        """Counts over all samples, the rule, and what a mean sample costs on the chip."""
        rule, placement = self.net.exit, self.placement
        return {
            "samples": self.samples,
            "right": self.right,
            "right_full": self.right_full,
            "exited": self.exited,
            "steps": self.steps,
            "latency": self.latency,
            "time_steps": self.net.time_steps,
            "form": None if rule is None else rule.form,
            "thresholds": [] if rule is None else list(rule.thresholds),
            "cost": vars(self._cost()),
            "chips": placement.chips,
            "synaptic_memory_bytes": placement.synaptic_memory_bytes,
        }

    def _cost(self) -> LevelCost:
        if self.level == "stopped":
            return stopped_cost(self.net, self.placement, self.windows, self.spikes, self.operations)
        assert self.traces is not None
        return pipelined_cost(self.level, self.net, self.placement, self.traces, self.samples)


def _plus(one: Traces | None, other: Traces) -> Traces:
    """Counts of both; nothing that was recorded."""

    def sums(mine: Mapping[str, Array] | None, theirs: Mapping[str, Array]) -> dict[str, Array]:
        return {name: counts if mine is None else mine[name] + counts for name, counts in theirs.items()}

    return Traces(
        {},
        {},
        {},
        sums(None if one is None else one.spikes_per_step, other.spikes_per_step),
        sums(None if one is None else one.operations_per_step, other.operations_per_step),
    )
