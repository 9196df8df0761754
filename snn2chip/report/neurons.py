"""Figures of neurons: rates, rasters, membrane potentials, weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.report.collect import Content
from snn2chip.report.figures import BAR_LAYERS, colour, label, tick_labels
from snn2chip.report.model import Membrane, Weights
from snn2chip.report.svg import (
    WIDTH,
    Axes,
    Figure,
    Legend,
    Mark,
    Table,
    dot,
    line,
    number,
    path,
    polyline,
    rect,
    text,
    ticks,
)
from snn2chip.report.words import count, index, percent, plural, shape, short, significant

Array = npt.NDArray[Any]

RASTER_ROWS, RASTER_COLUMNS = 64, 200
RASTERS = 12  # layers, the first and the last of them, where there are more
MEMBRANES = 12
IMAGE_SIDE = 64
TABLE_STEPS = 40  # of a potential that a table lists
HISTOGRAMS = 24


# Activity


def rates(content: Content) -> Figure:
    """Spikes per neuron and step of each layer."""
    shown = list(enumerate(content.activity))[:BAR_LAYERS]
    highest = max((one.rate for _, one in shown), default=0.0) or 1.0
    axes = Axes(x=(0, highest * 1.02), y=(0, 1), left=124, right=50, top=2, bottom=34, height=40 + 22 * len(shown))
    at = ticks(0, highest, most=5)
    for value in at:
        axes.marks.append(line("grid", axes.px(value), 2, axes.px(value), axes.height - axes.bottom))
    axes.across(at, tick_labels(at), "spikes per neuron and time step")
    for row, (i, one) in enumerate(shown):
        y = 4 + 22 * row
        axes.marks += [
            text(short(label(content, i), 19), axes.left - 6, y + 11, "end"),
            rect(f"bar {colour(i)}", axes.left, y, axes.px(one.rate) - axes.left, 14, label(content, i)),
            text(significant(one.rate), axes.width, y + 11, "end", "label strong"),
        ]
    busiest = max(shown, key=lambda entry: entry[1].rate)
    left_out = "" if len(shown) == len(content.activity) else f" The first {len(shown)} layers; the table has all."
    compared = content.proof.result.samples
    return Figure(
        "fig-rates",
        "Firing rate of each layer",
        f"Means over {plural(content.ran.samples, 'sample')}, all {content.net.window:,} steps of the window and all "
        f"neurons.{left_out}",
        f"Bars of firing rates; the highest is {significant(busiest[1].rate)} spikes per neuron and step in "
        f"{label(content, busiest[0])}.",
        axes.height,
        tuple(axes.marks),
        table=Table(
            (
                "layer",
                "spikes",
                "per neuron and step",
                f"neurons that never fired in {compared}",
                f"at each step of {compared}",
                "operations per sample",
            ),
            tuple(
                (
                    label(content, i),
                    count(one.spikes),
                    significant(one.rate),
                    percent(one.never, 1),
                    percent(one.always, 1),
                    count(one.operations),
                )
                for i, one in enumerate(content.activity)
            ),
        ),
    )


def first_input(content: Content) -> Figure:
    """What the first sample sends: an image, or a raster of messages over time."""
    net, messages = content.net, content.first
    kind = "spikes" if net.encoding.kind == "spikes" else "messages"
    if len(net.input_shape) == 3 and min(net.input_shape[1:]) > 1:
        picture = np.abs(messages.astype(np.float64)).sum((0, 1))
        stride = max(1, -(-max(picture.shape) // IMAGE_SIDE))
        picture = picture[::stride, ::stride]
        height, width = picture.shape
        cell = min(150 / height, (WIDTH - 20) / width)
        left = (WIDTH - cell * width) / 2
        marks = [rect("frame", left - 1, 1, cell * width + 2, cell * height + 2)]
        level = np.ceil(5 * picture / picture.max()).astype(int) if picture.max() else np.zeros(picture.shape, int)
        for value in range(1, 6):
            data = "".join(
                f"M{number(left + x * cell)} {number(2 + y * cell)}h{long}v{number(cell)}h-{long}z"
                for y, x, n in _runs(level == value)
                for long in (number(cell * n),)
            )
            if data:
                marks.append(path(f"tone tone{value}", data))
        skipped = "" if stride == 1 else f" Every {_ordinal(stride)} row and column."
        return Figure(
            "fig-input",
            "The first sample",
            f"{kind.capitalize()} of each pixel, summed over channels and {plural(len(messages), 'step')}, in five "
            f"tones.{skipped} Rasters and potentials below are of this sample.",
            f"Image of the first sample, {shape(net.input_shape)} values, "
            f"{percent(float((messages != 0).mean()), 0)} of its {kind} are not zero.",
            cell * height + 4,
            tuple(marks),
        )
    flat = (messages != 0).reshape(len(messages), -1)
    return _raster(
        "fig-input",
        "The first sample",
        flat,
        "s7",
        flat.mean(1),
        f"The input: {kind} other than zero. Rasters and potentials below are of this sample.",
        "inputs",
        len(messages),
    )


def rasters(content: Content) -> list[Figure]:
    """Spikes of the first sample, layer by layer."""
    layers = content.net.layers
    chosen = list(range(len(layers)))
    if len(chosen) > RASTERS:
        chosen = [*chosen[: RASTERS // 2], *chosen[-RASTERS // 2 :]]
    found = []
    for i in chosen:
        fired = (content.proof.result.expected.spikes[layers[i].name][0] != 0).reshape(content.net.window, -1)
        what = "Messages other than zero" if layers[i].neuron.graded else "Spikes"
        found.append(
            _raster(
                f"fig-raster-{i + 1}",
                label(content, i),
                fired,
                colour(i),
                content.activity[i].per_step,
                f"{what} of the first sample; above, the mean rate over {plural(content.ran.samples, 'sample')}.",
                "neurons",
                content.net.window,
            )
        )
    return found


def _raster(id: str, title: str, fired: Array, css: str, rate: Array, caption: str, unit: str, steps: int) -> Figure:
    """Rows of neurons over steps, with the rate at each step above."""
    neurons = fired.shape[1]
    rows = np.unique(np.linspace(0, neurons - 1, min(neurons, RASTER_ROWS)).round().astype(int))
    width = max(1, -(-len(fired) // RASTER_COLUMNS))
    bins = -(-len(fired) // width)
    shown = np.zeros((bins * width, len(rows)), bool)
    shown[: len(fired)] = fired[:, rows]
    shown = shown.reshape(bins, width, -1).any(1)
    strip = np.array([float(part.mean()) for part in np.array_split(rate, bins)]) if width > 1 else rate
    height = float(np.clip(6 * len(rows), 44, 128))
    axes = Axes(x=(0, bins), y=(len(rows), 0), top=48, height=48 + height + 34, left=52)
    cell, row = (WIDTH - axes.left - axes.right) / bins, height / len(rows)
    highest = float(strip.max(initial=0.0))
    for step, value in enumerate(strip.tolist()):
        tall = 28 * value / highest if highest else 0
        told = f"step {step * width + 1}: {significant(value)}"
        axes.marks.append(rect(f"bar {css}", axes.px(step) + 0.06 * cell, 40 - tall, 0.88 * cell, tall, told))
    axes.marks += [
        line("axis", axes.left, 40.5, WIDTH - axes.right, 40.5),
        text(significant(highest, 2), axes.left - 5, 16, "end"),
        text("rate", axes.left - 5, 38, "end"),
        rect("frame", axes.left, axes.top, WIDTH - axes.left - axes.right, height),
    ]
    data = []
    for y, x, n in _runs(shown.T):
        starts = [(x, n)] if bins > 60 else [(x + k, 1) for k in range(n)]
        data += [
            f"M{number(axes.px(at) + 0.06 * cell)} {number(axes.top + (y + 0.5) * row)}h{number(cell * (long - 0.12))}"
            for at, long in starts
        ]
    if data:
        mark = path(f"spikes {css}", "".join(data))
        axes.marks.append(Mark("path", mark.css, {**mark.attributes, "stroke-width": number(row * 0.8)}))
    else:
        middle = (axes.left + WIDTH - axes.right) / 2
        axes.marks.append(
            text("none of these rows" if fired.any() else "no spikes", middle, axes.top + height / 2 + 4, "middle")
        )
    at = [value for value in ticks(0, bins, 6, whole=True) if value < bins] if bins > 8 else list(range(bins))
    axes.across([v + 0.5 for v in at], [f"{int(v) * width + 1:,}" for v in at], "time step")
    axes.marks += [
        text("0", axes.left - 5, axes.top + 8, "end"),
        text(f"{neurons - 1:,}", axes.left - 5, axes.top + height, "end"),
    ]
    if len(rows) > 6:
        axes.marks.append(text(unit, axes.left - 5, axes.top + height / 2 + 4, "end"))
    sampled = "" if len(rows) == neurons else f" {len(rows)} of {neurons:,} {unit}, evenly spaced."
    binned = "" if width == 1 else f" A mark stands for {width} steps."
    total = int(fired.sum())
    return Figure(
        id,
        title,
        caption + sampled + binned,
        f"Raster of {title}: {total:,} spikes of {neurons:,} {unit} in {steps:,} steps, "
        f"{significant(float(fired.mean()))} per neuron and step.",
        axes.height,
        tuple(axes.marks),
    )


def _runs(grid: Array) -> Iterable[tuple[int, int, int]]:
    """Row, first column and length of each run of true values."""
    for y, row in enumerate(grid):
        edges = np.flatnonzero(np.diff(np.concatenate([[False], row, [False]]).astype(np.int8)))
        for first, last in edges.reshape(-1, 2).tolist():
            yield y, first, last - first


def _ordinal(n: int) -> str:
    return {2: "second", 3: "third"}.get(n, f"{n}th")


# Potentials


def potentials(content: Content) -> list[Figure]:
    """One figure for each neuron that was chosen."""
    return [_potential(content, i, one) for i, one in enumerate(content.membranes[:MEMBRANES])]


def _potential(content: Content, i: int, one: Membrane) -> Figure:
    steps = len(one.chip)
    layer = [layer.name for layer in content.net.layers].index(one.layer)
    both = one.chip if one.model is None else np.concatenate([one.chip, one.model])
    threshold = one.unit == "threshold"
    low, high = min(0.0, float(both.min())), max(0.0, float(both.max()), 1.06 if threshold else 0.0)
    pad = 0.05 * (high - low) or 1.0
    axes = Axes(x=(0.5, steps + 0.5), y=(low - pad, high + pad), top=42, height=230, left=52)
    at = ticks(low, high, 5)
    axes.down(at, tick_labels(at))
    first, last = one.start + 1, one.start + steps
    across = list(range(first, last + 1)) if steps <= 10 else [int(t) for t in ticks(first, last, 6, whole=True)]
    axes.across([t - one.start for t in across], [f"{t:,}" for t in across], "time step")
    if threshold:
        y = axes.py(1)
        axes.marks.append(line("threshold", axes.left, y, WIDTH - axes.right, y))
    traces = [("model", one.model, one.model_spikes, 12.0), ("chip", one.chip, one.chip_spikes, 26.0)]
    for css, values, fired, row in traces:
        if values is None or fired is None:
            continue
        spots = [(axes.px(t + 1), axes.py(float(v))) for t, v in enumerate(values)]
        axes.marks.append(polyline(f"trace c-{css}", spots))
        if steps <= 40:
            axes.marks += [
                dot(f"point c-{css}", x, y, 2.8, significant(float(v))) for (x, y), v in zip(spots, values, strict=True)
            ]
        axes.marks.append(text(css, axes.left - 5, row + 3.5, "end", f"label t-{css}"))
        axes.marks.append(line("grid", axes.left, row, WIDTH - axes.right, row))
        for t in np.flatnonzero(fired).tolist():
            x = axes.px(t + 1)
            axes.marks.append(line(f"tick c-{css}", x, row - 5, x, row + 5, f"spike at step {one.start + t + 1:,}"))
    unit = {
        "threshold": "thresholds",
        "model": "units of the model's output",
        "weight of the chip": "units of the chip's weights",
    }.get(one.unit, one.unit)
    fired_chip = int(one.chip_spikes.sum())
    said = f"the chip fires {plural(fired_chip, 'time')}"
    if one.model_spikes is not None and one.rms is not None:
        differing = int((one.model_spikes != one.chip_spikes).sum())
        said += f", the model {int(one.model_spikes.sum())}, {differing} of {steps} steps differ; potentials differ by "
        said += f"{significant(one.rms)} (root mean square)"
    shown = "" if steps == one.steps else f" Steps {one.start + 1:,} to {one.start + steps:,} of {one.steps:,}."
    return Figure(
        f"fig-potential-{i + 1}",
        f"{label(content, layer)}, neuron {index(one.neuron)}",
        f"Membrane potential after each step in {unit}; ticks above are spikes. Chosen: {one.why}; {said}.{shown}",
        f"Membrane potential of neuron {index(one.neuron)} of {one.layer}: {said}.",
        axes.height,
        tuple(axes.marks),
        (Legend("c-chip", "chip"),) + ((Legend("c-model", "model"),) if one.model is not None else ()),
        _steps_table(one) if steps <= TABLE_STEPS else None,
    )


def _steps_table(one: Membrane) -> Table:
    told = {True: "spike", False: ""}
    if one.model is None or one.model_spikes is None:
        return Table(
            ("step", "chip", "fires"),
            tuple(
                (f"{t + 1}", significant(float(v)), told[bool(s)])
                for t, (v, s) in enumerate(zip(one.chip, one.chip_spikes, strict=True))
            ),
        )
    rows = zip(one.chip, one.chip_spikes, one.model, one.model_spikes, strict=True)
    return Table(
        ("step", "chip", "fires", "model", "fires"),
        tuple(
            (f"{t + 1}", significant(float(v)), told[bool(s)], significant(float(w)), told[bool(r)])
            for t, (v, s, w, r) in enumerate(rows)
        ),
    )


# Weights


def weight_histograms(content: Content) -> list[Figure]:
    """Before and after rounding, layer by layer."""
    return [_weights(content, i, one) for i, one in enumerate(content.weights)][:HISTOGRAMS]


def _weights(content: Content, i: int, one: Weights) -> Figure:
    layer = [layer.name for layer in content.net.layers].index(one.layer)
    total = max(1, one.values)
    after = one.chip / total
    before = None if one.trained is None else one.trained / total
    highest = max(float(after.max(initial=0)), 0.0 if before is None else float(before.max(initial=0))) or 1.0
    axes = Axes(x=(float(one.edges[0]), float(one.edges[-1])), y=(0, 1.05 * highest), height=178, left=46)
    at = ticks(0, 100 * highest, 4)
    axes.down([v / 100 for v in at], [f"{w} %" for w in tick_labels(at)])
    across = ticks(*axes.x, most=7, whole=True)
    axes.across(across, tick_labels(across), "weight, integers of the chip")
    base = axes.py(0)
    for k, value in enumerate(after.tolist()):
        x0, x1 = axes.px(float(one.edges[k])), axes.px(float(one.edges[k + 1]))
        if value:
            gap = min(0.5, 0.1 * (x1 - x0))
            axes.marks.append(
                rect(f"bar {colour(layer)}", x0 + gap, axes.py(value), x1 - x0 - 2 * gap, base - axes.py(value))
            )
    if before is not None:
        outline = []
        for k, value in enumerate(before.tolist()):
            y = axes.py(value)
            outline += [(axes.px(float(one.edges[k])), y), (axes.px(float(one.edges[k + 1])), y)]
        axes.marks.append(polyline("outline c-ink", outline))
    said = f"{one.values:,} weights, {one.distinct} different values, {one.zeros:,} zeros"
    if one.scale is not None and one.rms is not None and one.largest is not None:
        said += (
            f"; {significant(one.scale)} integers per unit of trained weight; rounding moves them by "
            f"{significant(one.rms, 2)} (root mean square), at most {significant(one.largest, 2)}"
        )
    return Figure(
        f"fig-weights-{i + 1}",
        label(content, layer),
        f"{said[0].upper()}{said[1:]}.",
        f"Histogram of the weights of {one.layer}: {said}.",
        axes.height,
        tuple(axes.marks),
        (Legend(colour(layer), "chip"),) + ((Legend("c-ink", "trained, scaled"),) if before is not None else ()),
    )
