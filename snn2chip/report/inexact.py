"""Everything that is not exact, each with what it was measured to change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.early_exit import detach
from snn2chip.early_exit.circuit import rounding_error
from snn2chip.ladder import Rung
from snn2chip.report.model import Trained, Weights
from snn2chip.report.timing import Costs, Run
from snn2chip.report.words import NONE, percent, points
from snn2chip.traces import messages_of

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Line:
    """What is not exact; its effect, measured; and on what."""

    what: str
    effect: str
    measured_on: str


def lines(
    net: ChipNet,
    ran: Run,
    costs: Costs,
    weights: tuple[Weights, ...],
    trained: Trained | None,
    ladder: tuple[dict[str, Rung], int] | None,
    x: Array,
) -> tuple[Line, ...]:
    """In the order of the data's way: input, lowering, rounding, exit, what the network lists, what is modelled."""
    found = [*_input(net, x)]
    if ladder is not None:
        rungs, samples = ladder
        on = f"{samples:,} samples"
        found.append(Line("lowering: float32 as trained to float64 in chip form", _step(rungs, "float", "graph"), on))
        found.append(Line(f"integers: {_rounding(weights)}", _step(rungs, "graph", "chip"), on))
    else:
        found.append(Line("integers in place of trained weights", "not measured: --source gives the model", NONE))
    if net.exit is not None and costs.exit is not None:
        changed = float((ran.found.label != ran.predictions).mean()) if ran.found is not None else 0.0
        better = ran.accuracy(ran.predictions)
        drop = (
            ""
            if better is None or costs.exit.accuracy is None
            else (f"; accuracy changes by {points(costs.exit.accuracy - better)}")
        )
        found.append(
            Line(
                f"early exit: decides before the window ends ({net.exit.policy})",
                f"{percent(changed)} of the predictions change{drop}",
                f"{ran.samples:,} samples",
            )
        )
        numerator, denominator = net.exit.scale
        if numerator != denominator and net.exit.form != "host":
            found.append(
                Line(
                    f"early exit: its evidence is the readout's, scaled by {numerator}/{denominator} and rounded",
                    f"a detector's weight is off by {rounding_error(net):.2f} of the readout's weights at most; the "
                    "decisions are counted in the line above",
                    "the circuit",
                )
            )
    found += [Line(sentence, _effect(sentence), NONE) for sentence in net.inexact]
    if trained is not None:
        more = [sentence for sentence in trained.lowered.inexact if sentence not in net.inexact]
        found += [Line(sentence, _effect(sentence), "the source") for sentence in more]
        found += [Line(f"assumed: {note}", "not measured: the source does not say it", NONE) for note in trained.notes]
    if detach(net).leaks:
        found.append(
            Line(
                "samples are simulated one by one; on the chip, what no reset clears crosses into the next sample",
                "not measured here: snn2chip verify --windowed does",
                NONE,
            )
        )
    total = costs.estimate.total
    found.append(
        Line(
            "energy and time are modelled, not measured",
            f"low to high {total.low / total.mid:.2g} to {total.high / total.mid:.2g} times the middle"
            if total.mid
            else "no figures",
            costs.estimate.total.label,
        )
    )
    found.append(Line("the number of cores is modelled", "a lower bound: published layouts take up to 25 % more", NONE))
    return tuple(found)


def _input(net: ChipNet, x: Array) -> list[Line]:
    encoding = net.encoding
    if encoding.kind == "spikes":
        return []
    messages = messages_of(encoding, net.input_shape, net.time_steps, x).astype(np.float64)
    static = x.ndim == len(net.input_shape) + 1
    given = (x.astype(np.float64)[:, None] if static else x.astype(np.float64)) * encoding.scale
    clipped = float(((given < encoding.low - 0.5) | (given > encoding.high + 0.5)).mean())
    low, high = encoding.low, encoding.high
    inside = np.clip(given, low, high)
    step = "" if (encoding.step, encoding.offset) == (1, 0) else f" at steps of {encoding.step}"
    error = ((messages - encoding.offset) / encoding.step).mean(1) - inside.mean(1)
    return [
        Line(
            f"input: numbers become messages of {encoding.message_bits} bits{step}, up to {encoding.largest}",
            f"{percent(clipped)} of the values are clipped; the mean over time is rounded by "
            f"{np.sqrt((error**2).mean()):.2g} of a message (root mean square)",
            f"{len(x):,} samples",
        )
    ]


def _step(rungs: dict[str, Rung], one: str, other: str) -> str:
    before, after = rungs[one], rungs[other]
    differing = sum((after.differing_spikes or {}).values())
    total = max(1, sum(before.spikes.values()))
    text = f"{differing:,} spikes differ, {percent(differing / total)} of the spikes there are"
    if after.accuracy is not None and before.accuracy is not None:
        text += f"; accuracy changes by {points(after.accuracy - before.accuracy)}"
    return text


def _rounding(weights: tuple[Weights, ...]) -> str:
    errors = [w.rms for w in weights if w.rms is not None]
    if not errors:
        return "the source holds them already"
    return f"weights are rounded, by {max(errors):.2f} of a unit (root mean square) in the coarsest layer"


def _effect(sentence: str) -> str:
    """A sentence that counts says its effect itself."""
    return "as it says" if any(c.isdigit() for c in sentence.split(": ", 1)[-1]) else "not measured"
