"""Figures of the whole network: shares, accuracy, time, cores, energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.hardware.placement import positions
from snn2chip.ladder import wilson
from snn2chip.report.collect import Content
from snn2chip.report.svg import (
    WIDTH,
    Axes,
    Figure,
    Legend,
    Mark,
    Table,
    dot,
    line,
    polyline,
    rect,
    text,
    ticks,
)
from snn2chip.report.words import MINUS, NONE, count, interval, percent, plural, short, si, significant

Array = npt.NDArray[Any]

CHIPS = 4
EXIT_BARS = 40
BAR_LAYERS = 24  # with a bar of their own
COLOURS = 8

RUNGS = {"float": "trained (float32)", "graph": "lowered (float64)", "chip": "chip (integers)"}


def colour(layer: int) -> str:
    """Class of a layer's colour."""
    return f"s{layer % COLOURS}"


def label(content: Content, layer: int) -> str:
    """Number and name of a layer."""
    return f"L{layer + 1} · {content.net.layers[layer].name}"


def tick_labels(values: Sequence[float]) -> list[str]:
    """Labels of ticks: as few digits as tell them apart."""
    for digits in range(6):
        words = [f"{value:,.{digits}f}" for value in values]
        if len(set(words)) == len(words) and all(
            abs(float(w.replace(",", "")) - v) <= 1e-9 + 1e-6 * abs(v) for w, v in zip(words, values, strict=True)
        ):
            break
    return [word.replace("-", MINUS) for word in words]


# Network


def shares(content: Content) -> Figure:
    """How the layers share what the chip pays for."""
    net, placement = content.net, content.costs.placement
    words = {name: sum(placement.cores[i].synapse_words for i in cores) for name, cores in placement.by_layer.items()}
    neurons = [math.prod(layer.shape) for layer in net.layers]
    rows: list[tuple[str, list[float]]] = [
        ("neurons", [float(n) for n in neurons]),
        ("synapses", [float(layer.synapses) for layer in net.layers]),
        ("memory", [8.0 * words[layer.name] for layer in net.layers]),
        ("cores", [float(len(placement.by_layer[layer.name])) for layer in net.layers]),
        ("spikes", [one.spikes / content.ran.samples for one in content.activity]),
        ("operations", [one.operations for one in content.activity]),
    ]
    left, step, bar = 72.0, 27.0, 17.0
    marks: list[Mark] = []
    for row, (name, values) in enumerate(rows):
        top = row * step + 4
        marks.append(text(name, left - 6, top + 12, "end"))
        total, x = sum(values), left
        if not total:
            marks.append(text("none", left, top + 12))
        for i, value in enumerate(values):
            width = (WIDTH - left - 2) * value / total if total else 0
            if width:
                told = f"{label(content, i)}: {count(value)} ({percent(value / total, 1)})"
                marks.append(rect(f"bar {colour(i)}", x, top, max(width - 1, 0.4), bar, told))
                if width > 22:
                    marks.append(text(f"L{i + 1}", x + width / 2, top + 12.5, "middle", "label on"))
            x += width
    most = int(np.argmax(rows[-1][1]))
    total = sum(rows[-1][1]) or 1.0
    table = Table(
        ("layer", "neurons", "synapses", "memory, bytes", "cores", "spikes per sample", "operations per sample"),
        tuple(
            (label(content, i), *(count(int(v[i])) if k < 4 else count(v[i]) for k, (_, v) in enumerate(rows)))
            for i in range(len(net.layers))
        ),
    )
    return Figure(
        "fig-shares",
        "Share of each layer",
        "What the chip pays for, and which layer takes it. Memory is that of synapses; spikes and operations are "
        f"means over {plural(content.ran.samples, 'sample')}.",
        f"Stacked bars of the layers' shares. {label(content, most)} does most synaptic operations, "
        f"{percent(rows[-1][1][most] / total, 0)} of {count(sum(rows[-1][1]))} a sample.",
        len(rows) * step + 2,
        tuple(marks),
        tuple(Legend(colour(i), short(label(content, i), 30)) for i in range(min(len(net.layers), BAR_LAYERS))),
        table,
    )


# Accuracy


def accuracy(content: Content) -> Figure | None:
    """Rungs with their intervals; None without classes."""
    rows: list[tuple[str, str, float, tuple[float, float]]] = []
    samples = content.ran.samples
    if content.ladder is not None:
        rungs, samples = content.ladder
        rows = [
            (RUNGS[name], "chip" if name == "chip" else "model", r.accuracy, r.interval)
            for name, r in rungs.items()
            if r.accuracy is not None and r.interval is not None
        ]
    else:
        known, bounds = content.ran.accuracy(content.ran.predictions), content.ran.interval(content.ran.predictions)
        if known is not None and bounds is not None:
            rows = [(RUNGS["chip"], "chip", known, bounds)]
    early = content.costs.exit
    if early is not None and early.accuracy is not None and early.interval is not None:
        rows.append(("chip, early exit", "exit", early.accuracy, early.interval))
    if not rows:
        return None
    low = max(0.0, min(r[3][0] for r in rows))
    high = min(1.0, max(r[3][1] for r in rows))
    pad = max(0.005, 0.08 * (high - low))
    x = (100 * max(0.0, low - pad), 100 * min(1.0, high + pad))
    axes = Axes(x=x, y=(0, 1), left=106, right=62, top=6, bottom=34, height=44 + 30 * len(rows))
    at = ticks(*x, most=5)
    for value in at:
        axes.marks.append(line("grid", axes.px(value), 4, axes.px(value), axes.height - axes.bottom))
    axes.across(at, tick_labels(at), "accuracy, %")
    for i, (name, css, value, bounds) in enumerate(rows):
        y = 22 + 30 * i
        axes.marks += [
            text(name, axes.left - 8, y + 3.5, "end"),
            line(f"whisker c-{css}", axes.px(100 * bounds[0]), y, axes.px(100 * bounds[1]), y),
            dot(f"point c-{css}", axes.px(100 * value), y, 4.5, f"{name}: {percent(value)}, 95 % {interval(bounds)}"),
            text(percent(value), axes.width, y + 3.5, "end", "label strong"),
        ]
    said = "; ".join(f"{name} {percent(value)}, {interval(bounds)}" for name, _, value, bounds in rows)
    others = "" if early is None or samples == content.ran.samples else f"; with the exit on {content.ran.samples:,}"
    return Figure(
        "fig-accuracy",
        "Accuracy, from the trained model to the chip" if content.ladder is not None else "Accuracy on the chip",
        f"Points with 95 % intervals (Wilson) on {plural(samples, 'sample')}{others}.",
        f"Accuracy of each rung: {said}.",
        axes.height,
        tuple(axes.marks),
    )


# Time


def over_time(content: Content) -> Figure | None:
    """Accuracy if the window ended earlier, or without classes how many predictions are final; None of one neuron."""
    ran = content.ran
    if content.net.classes < 2:
        return None
    known = ran.y is not None
    wanted = ran.y if ran.y is not None else ran.predictions
    shares = (ran.over_time == wanted[:, None]).mean(0)
    bounds = [wilson(round(share * ran.samples), ran.samples) for share in shares.tolist()]
    low = 100 * min(b[0] for b in bounds) if known else 100 * float(shares.min())
    high = 100 * max(b[1] for b in bounds) if known else 100.0
    pad = max(0.06 * (high - low), 1.0)
    axes = Axes(x=(0.5, ran.read_at[-1] + 0.5), y=(max(0.0, low - pad), min(100.0, high + pad)), height=210)
    at = ticks(*axes.y, most=6)
    axes.down(at, tick_labels(at))
    across = (
        [float(t) for t in ran.read_at]
        if len(ran.read_at) <= 10
        else [max(1.0, t) for t in ticks(0, ran.read_at[-1], 7, whole=True)]
    )
    axes.across(across, [f"{int(t):,}" for t in across], "time steps of input")
    if known and len(bounds) > 1:
        band = [(axes.px(t), axes.py(100 * b[1])) for t, b in zip(ran.read_at, bounds, strict=True)]
        band += [(axes.px(t), axes.py(100 * b[0])) for t, b in zip(ran.read_at[::-1], bounds[::-1], strict=True)]
        axes.marks.append(polyline("band c-chip", band, closed=True))
    spots = [(axes.px(t), axes.py(100 * s)) for t, s in zip(ran.read_at, shares.tolist(), strict=True)]
    axes.marks.append(polyline("trace c-chip", spots))
    if len(spots) <= 20:
        axes.marks += [
            dot("point c-chip", x, y, 3.2, f"{t} steps: {percent(s)}")
            for (x, y), t, s in zip(spots, ran.read_at, shares.tolist(), strict=True)
        ]
    early = content.costs.exit
    legend = [Legend("c-chip", "window of so many steps" + (", 95 % interval" if known else ""))]
    if known and early is not None and early.accuracy is not None:
        x, y = axes.px(float(early.took.cutoff.mean())), axes.py(100 * min(max(early.accuracy, axes.y[0] / 100), 1))
        axes.marks.append(dot("point c-exit", x, y, 5, f"early exit: {percent(early.accuracy)}"))
        legend.append(Legend("c-exit", "early exit, at its mean step"))
    what = "accuracy" if known else "predictions that are final"
    first, last = percent(float(shares[0])), percent(float(shares[-1]))
    return Figure(
        "fig-time",
        "Accuracy (%) over time steps" if known else "Predictions that are final (%)",
        f"If the window ended after so many steps: {what} on {plural(ran.samples, 'sample')}."
        + ("" if known else " The data have no classes, so that this is no accuracy."),
        f"{what.capitalize()} over time: {first} after {plural(ran.read_at[0], 'step')}, {last} after "
        f"{ran.read_at[-1]}.",
        axes.height,
        tuple(axes.marks),
        tuple(legend),
        Table(
            ("time steps", what, "95 %") if known else ("time steps", what),
            tuple(
                (f"{t:,}", percent(float(s)), interval(b)) if known else (f"{t:,}", percent(float(s)))
                for t, s, b in zip(ran.read_at, shares, bounds, strict=True)
            ),
        ),
    )


def exit_times(content: Content) -> Figure | None:
    """When samples were decided; None without an exit."""
    early, found = content.costs.exit, content.ran.found
    if early is None or found is None:
        return None
    steps = content.net.time_steps
    width = max(1, -(-steps // EXIT_BARS))
    bars = -(-steps // width)
    stopped = np.bincount(found.step[found.exited] // width, minlength=bars) / len(found.step)
    never = float((~found.exited).mean())
    highest = max(float(stopped.max(initial=0)), never) or 1.0
    axes = Axes(x=(0, bars + 1.6), y=(0, 1.12 * highest), height=210)
    at = ticks(0, 100 * highest, 5)
    axes.down([v / 100 for v in at], [f"{w} %" for w in tick_labels(at)])
    base = axes.py(0)
    for k, share in enumerate([*stopped.tolist(), never]):
        left = k if k < bars else bars + 0.6
        first, last = k * width + 1, min(steps, (k + 1) * width)
        name = "never confident" if k == bars else f"step {first}" if width == 1 else f"steps {first} to {last}"
        x0, x1 = axes.px(left + 0.08), axes.px(left + 0.92)
        css = "bar c-exit" if k < bars else "bar c-never"
        axes.marks.append(rect(css, x0, axes.py(share), x1 - x0, base - axes.py(share), f"{name}: {percent(share)}"))
        if bars <= 8:
            axes.marks.append(text(percent(share, 1), (x0 + x1) / 2, axes.py(share) - 4, "middle", "label strong"))
    shown = list(range(bars)) if bars <= 8 else [int(t) for t in ticks(0, bars - 1, 6, whole=True)]
    axes.across(
        [*(k + 0.5 for k in shown), bars + 1.1],
        [*(f"{k * width + 1}" for k in shown), "never"],
        "step of the decision",
    )
    took = early.took
    binned = "" if width == 1 else f" Bars of {width} steps."
    return Figure(
        "fig-exit",
        "When samples leave",
        f"Share of {plural(content.ran.samples, 'sample')}; mean {took.cutoff.mean():.2f} of {took.full_cutoff} steps, "
        f"median {np.median(took.cutoff):g}. Never: the rule did not stop the sample, whose whole window is read."
        f"{binned}",
        f"Histogram of exit times: mean {took.cutoff.mean():.2f} of {took.full_cutoff} steps, "
        f"{percent(early.exited)} of the samples leave before the window ends or at its end.",
        axes.height,
        tuple(axes.marks),
        table=Table(
            ("step", "samples", "share"),
            (
                *(
                    (
                        f"{k * width + 1}" if width == 1 else f"{k * width + 1} to {min(steps, (k + 1) * width)}",
                        count(round(share * len(found.step))),
                        percent(share),
                    )
                    for k, share in enumerate(stopped.tolist())
                ),
                ("never", count(int((~found.exited).sum())), percent(never)),
            ),
        ),
    )


def trade_off(content: Content) -> Figure | None:
    """Accuracy against modelled energy; None without classes."""
    costs = content.costs
    if content.net.classes < 2:
        return None
    fixed = [(p.energy, p.accuracy, p.what) for p in costs.fixed if p.accuracy is not None]
    if not fixed:
        return None
    swept = [(p.energy, p.accuracy, p.what) for p in costs.swept if p.accuracy is not None]
    found, y = content.ran.found, content.ran.y
    early = []
    if costs.exit is not None and found is not None and y is not None:
        right = float((found.label[: costs.priced] == y[: costs.priced]).mean())
        early = [(level.energy, right, LEVELS[level.level]) for level in costs.exit.levels if level.level != "none"]
    everything = [*fixed, *swept, *early]
    top = max(energy for energy, _, _ in everything)
    power = 10.0 ** (3 * math.floor(math.log10(top) / 3)) if top else 1.0
    unit = si(power, "J").split("\u00a0")[1]
    low, high = (100 * f(a for _, a, _ in everything) for f in (min, max))
    pad = max(0.3, 0.12 * (high - low))
    axes = Axes(x=(0, 1.06 * top / power), y=(max(0, low - pad), min(100.0, high + pad)), height=230)
    at = ticks(*axes.y, most=6)
    axes.down(at, tick_labels(at))
    across = ticks(0, axes.x[1], most=6)
    axes.across(across, tick_labels(across), f"modelled energy of a sample, {unit}")
    legend = [Legend("c-chip", "fixed windows, no exit")]
    for css, row in (("c-model", swept), ("c-chip", fixed)):
        spots = [(axes.px(energy / power), axes.py(100 * share)) for energy, share, _ in row]
        if spots:
            axes.marks.append(polyline(f"trace {css}", spots))
        axes.marks += [
            dot(f"point {css}", x, where, 3, f"{what}: {percent(share)}, {si(energy, 'J')}")
            for (x, where), (energy, share, what) in zip(spots, row, strict=True)
        ]
    if len(fixed) <= 8:
        axes.marks += [
            text(f"{int(p.steps)}", axes.px(energy / power), axes.py(100 * share) - 7, "middle", "label t-chip")
            for p, (energy, share, _) in zip(costs.fixed, fixed, strict=True)
        ]
    if swept:
        legend.append(Legend("c-model", "the rule at other thresholds, windows ended"))
    if early:
        legend.append(Legend("c-exit", "this exit"))
    for energy, share, what in early:
        told = f"{what}: {percent(share)}, {si(energy, 'J')}"
        axes.marks.append(dot("point c-exit", axes.px(energy / power), axes.py(100 * share), 5, told))
    best = max(fixed, key=lambda p: (p[1], -p[0]))
    rest = (
        " The rule at other thresholds is applied to the readout, without the circuit's neurons and cores. An ended "
        "window leaves the pipeline empty: in a deep network with a short window it can cost more than a whole one."
        if early
        else ""
    )
    return Figure(
        "fig-trade",
        "Accuracy (%) against energy",
        f"Fixed windows of {plural(int(costs.fixed[0].steps), 'step')} to {int(costs.fixed[-1].steps)}, on the first "
        f"{plural(costs.priced, 'sample')}.{rest} Energy is modelled.",
        f"Accuracy against modelled energy: best fixed window {best[2]} with {percent(best[1])} at {si(best[0], 'J')}"
        + (f"; the exit {percent(early[-1][1])} at {si(early[-1][0], 'J')} with ended windows." if early else "."),
        axes.height,
        tuple(axes.marks),
        tuple(legend),
        Table(
            ("how", "mean steps", "accuracy", "energy"),
            tuple(
                (p.what, significant(p.steps), percent(p.accuracy), si(p.energy, "J"))
                for p in (*costs.fixed, *costs.swept)
            )
            + tuple((f"this exit, {what}", NONE, percent(share), si(energy, "J")) for energy, share, what in early),
        ),
    )


LEVELS = {
    "none": "whole windows, no exit",
    "decision": "whole windows, early answer",
    "gated": "gated after the decision",
    "stopped": "windows ended at the decision",
}


# Chip


def core_maps(content: Content) -> list[Figure]:
    """The cores of each chip, coloured by layer and filled by use."""
    placement = content.costs.placement
    target = placement.target
    per_chip, per_router = target.value("cores_per_chip"), target.value("cores_per_router")
    columns, rows = target.value("router_columns"), -(-per_chip // per_router // target.value("router_columns"))
    side = max(1, math.isqrt(per_router))
    place: dict[int, int] = {int(slot): core for core, slot in enumerate(placement.slots.tolist())}
    slots = np.arange(per_chip)
    x, y, _ = positions(slots, target)
    cell = (WIDTH - 4) / columns
    core_size = (cell - 4) / side
    used_chips = sorted({slot // per_chip for slot in place})
    found = []
    for chip in used_chips[:CHIPS]:
        marks = [
            rect("router", 2 + column * cell + 1, 2 + row * cell + 1, cell - 2, cell - 2)
            for column, row in sorted(set(zip(x.tolist(), y.tolist(), strict=True)))
        ]
        held, fullest = 0, 0.0
        for slot in slots.tolist():
            within = slot % per_router
            left = 2 + x[slot] * cell + 2 + (within % side) * core_size
            top = 2 + y[slot] * cell + 2 + (within // side) * core_size
            core = place.get(chip * per_chip + slot)
            if core is None:
                marks.append(rect("free", left + 1, top + 1, core_size - 2, core_size - 2))
                continue
            part = placement.cores[core]
            use = placement.utilisation(part)
            resource, share = max(use.items(), key=lambda entry: entry[1])
            held, fullest = held + 1, max(fullest, share)
            tall = (core_size - 2) * min(1.0, share)
            told = (
                f"core {slot}: {label(content, part.index)}, {part.neurons:,} neurons, "
                f"{RESOURCES[resource]} {percent(share, 0)} full"
            )
            marks += [
                rect(f"core {colour(part.index)}", left + 1, top + 1, core_size - 2, core_size - 2, told),
                rect(f"bar {colour(part.index)}", left + 1, top + core_size - 1 - tall, core_size - 2, tall, told),
                text(f"{part.index + 1}", left + core_size / 2, top + core_size / 2 + 4, "middle", "label on-core"),
            ]
        name = f"Chip {chip + 1}" if len(used_chips) > 1 else target.title
        layers = sorted({placement.cores[core].index for slot, core in place.items() if slot // per_chip == chip})
        more = len(used_chips) - CHIPS
        rest = f" {plural(more, 'more chip')} not drawn." if more > 0 and chip == used_chips[CHIPS - 1] else ""
        found.append(
            Figure(
                f"fig-cores-{chip + 1}",
                f"{name}: {held} of {per_chip} cores",
                f"Each square is a core, {per_router} to a router; number and colour are the layer's, the solid part "
                f"is its fullest resource.{rest}",
                f"Map of {name}: {held} of {per_chip} cores are used, the fullest at {percent(fullest, 0)}.",
                rows * cell + 4,
                tuple(marks),
                tuple(Legend(colour(i), short(label(content, i), 30)) for i in layers[:BAR_LAYERS]),
            )
        )
    return found


RESOURCES = {
    "neurons_per_core": "neurons",
    "synapse_words": "synaptic memory",
    "axons_in": "input axons",
    "axon_map": "axon map",
    "axons_out": "output axons",
    "core_words": "core memory",
}

PARTS = {
    "synapse_dense": "synapses, dense",
    "synapse_conv": "synapses, conv",
    "neuron": "neuron updates",
    "spike": "spikes",
    "message": "messages",
    "hop_east_west": "hops east-west",
    "hop_north_south": "hops north-south",
}


def energy(content: Content) -> Figure:
    """Energy of a sample by cause, each with its range."""
    estimate = content.costs.estimate
    rows = [(PARTS.get(name, name), part) for name, part in estimate.parts.items() if part.high > 0]
    rows.append(("static power", estimate.static))
    top = max(part.high for _, part in rows)
    lowest = min((part.low for _, part in rows if part.low > 0), default=top / 10)
    first, last = math.floor(math.log10(lowest)), math.ceil(math.log10(top))
    axes = Axes(x=(first, max(last, first + 1)), y=(0, 1), left=106, right=62, height=44 + 24 * len(rows))
    decades = list(range(first, max(last, first + 1) + 1))
    stride = max(1, -(-len(decades) // 5))
    for value in decades:
        axes.marks.append(line("grid", axes.px(value), 2, axes.px(value), axes.height - axes.bottom))
    axes.across(
        decades[::stride],
        [si(10.0**d, "J", 1).replace("\u00a0", " ") for d in decades[::stride]],
        "modelled energy of a sample",
    )
    for i, (name, part) in enumerate(rows):
        y = 16 + 24 * i
        axes.marks.append(text(name, axes.left - 6, y + 3.5, "end"))
        low, mid, high = (
            axes.px(math.log10(value)) if value > 0 else axes.left for value in (part.low, part.mid, part.high)
        )
        told = f"{name}: {si(part.low, 'J')} to {si(part.high, 'J')}"
        axes.marks += [
            line("whisker c-chip", low, y, high, y, told),
            dot("point c-chip", mid, y, 4, told),
            text(si(part.mid, "J"), axes.width, y + 3.5, "end", "label strong"),
        ]
    return Figure(
        "fig-energy",
        "Energy of a sample, by cause",
        f"Middle and range of the model; {estimate.total.label}. Logarithmic. {estimate.boundary[0].upper()}"
        f"{estimate.boundary[1:]}.",
        f"Modelled energy by cause: total {si(estimate.total.mid, 'J')}, between {si(estimate.total.low, 'J')} and "
        f"{si(estimate.total.high, 'J')}; static power {si(estimate.static.mid, 'J')} of it.",
        axes.height,
        tuple(axes.marks),
        table=Table(
            ("cause", "count", "low", "middle", "high"),
            (
                *(
                    (
                        PARTS.get(name, name),
                        count(float(estimate.counts[name])),
                        si(part.low, "J"),
                        si(part.mid, "J"),
                        si(part.high, "J"),
                    )
                    for name, part in estimate.parts.items()
                ),
                *(
                    (name, NONE, si(part.low, "J"), si(part.mid, "J"), si(part.high, "J"))
                    for name, part in (
                        ("static power", estimate.static),
                        ("total", estimate.total),
                    )
                ),
            ),
        ),
    )
