"""Accuracy over energy and over cores, with the fronts of what no other configuration beats."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

KINDS = ("png", "svg")

#: Shapes that are told apart in print as well; the last stands for all that follow.
_SHAPES = "osD^vP*X<>"
_COLOURS = "viridis"
_FRONT = "#c0392b"
_DPI = 150
#: From this ratio of the largest to the smallest value on, an axis is logarithmic.
_WIDE = 20
_UNITS = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"), (1e-12, "pJ"))


def pareto(rows: Sequence[dict[str, Any]]) -> dict[str, bytes]:
    """A PNG and an SVG, by kind; none where every configuration failed. The same bytes for the same rows."""
    fine = [row for row in rows if row["status"] == "ok"]
    if not fine:
        return {}
    # A fixed salt names the parts of the SVG, and its text stays text.
    with rc_context({"svg.hashsalt": "snn2chip", "svg.fonttype": "none", "font.size": 10}):
        figure = Figure(figsize=(12, 5.2), layout="constrained")
        FigureCanvasAgg(figure)
        _draw(figure, fine, len(rows))
        found = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=_DPI, metadata=metadata)
            found[kind] = buffer.getvalue()
    return found


def _draw(figure: Figure, rows: Sequence[dict[str, Any]], configurations: int) -> None:
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    steps = np.array([row["mean_steps"] for row in rows])
    low, high = float(steps.min()), float(steps.max())
    scale = Normalize(low, high if high > low else low + 1)
    factor, unit = next(
        (entry for entry in _UNITS if np.median([row["energy"] for row in rows]) >= entry[0]), _UNITS[-1]
    )
    what, names = _kinds(rows)
    shapes = {name: _SHAPES[min(i, len(_SHAPES) - 1)] for i, name in enumerate(names)}
    for axes, column, horizontal in (
        (left, "pareto_energy", np.array([row["energy"] / factor for row in rows])),
        (right, "pareto_cores", np.array([float(row["cores"]) for row in rows])),
    ):
        _panel(axes, rows, column, horizontal, [shapes[_kind(row, what)] for row in rows], scale)
    left.set_xlabel(f"energy of a sample, modelled [{unit}]")
    right.set_xlabel("cores")
    if right.get_xscale() == "linear":
        right.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_ylabel("accuracy [%]")
    right.tick_params(labelleft=True)
    _legend(figure, shapes, what)
    if high > low:
        bar = figure.colorbar(ScalarMappable(scale, _COLOURS), ax=(left, right), pad=0.015, aspect=30)
        bar.set_label("mean steps until the decision")
    failed = configurations - len(rows)
    title = f"{configurations} configurations, {rows[0]['samples']:,} samples"
    figure.suptitle(title + (f"; {failed} failed and {'is' if failed == 1 else 'are'} not shown" if failed else ""))


def _kinds(rows: Sequence[dict[str, Any]]) -> tuple[str, list[str]]:
    """What shapes stand for: widths of weights, or policies where there is one width alone."""
    widths = {_kind(row, "bits") for row in rows}
    if len(widths) > 1:
        return "bits", sorted(widths, key=lambda name: (not name[0].isdigit(), name))
    return "policy", sorted({_kind(row, "policy") for row in rows}, key=lambda name: (name != "full window", name))


def _kind(row: dict[str, Any], what: str) -> str:
    if what == "policy":
        return "full window" if row["policy"] == "none" else str(row["policy"])
    bits = row["bits"]
    if bits is None:
        return "as in the file"
    return f"{bits} bit{'' if bits == '1' else 's'}" if bits.isdigit() else "mixed bits"


def _panel(
    axes: Axes, rows: Sequence[dict[str, Any]], column: str, horizontal: Any, shapes: Sequence[str], scale: Normalize
) -> None:
    accuracy = np.array([100 * row["accuracy"] for row in rows])
    steps = np.array([row["mean_steps"] for row in rows])
    on = np.array([row[column] for row in rows])
    if horizontal.min() > 0 and horizontal.max() / horizontal.min() > _WIDE:
        axes.set_xscale("log")
    for shape in dict.fromkeys(shapes):
        these = np.array([one == shape for one in shapes])
        for front, size, alpha, order in ((False, 34, 0.75, 3), (True, 78, 1.0, 5)):
            chosen = these & (on == front)
            axes.scatter(
                horizontal[chosen],
                accuracy[chosen],
                s=size,
                c=steps[chosen],
                cmap=_COLOURS,
                norm=scale,
                marker=shape,
                alpha=alpha,
                edgecolors=_FRONT if front else "white",
                linewidths=1.6 if front else 0.4,
                zorder=order,
            )
    order = np.lexsort((accuracy, horizontal))
    path = order[on[order]]
    low, high = (np.array([100 * row[name] for row in rows]) for name in ("accuracy_low", "accuracy_high"))
    axes.errorbar(
        horizontal[path],
        accuracy[path],
        np.maximum(np.stack([accuracy - low, high - accuracy])[:, path], 0),  # rounding, where all are right
        fmt="none",
        ecolor=_FRONT,
        elinewidth=0.8,
        alpha=0.5,
        zorder=2,
    )
    axes.plot(horizontal[path], accuracy[path], drawstyle="steps-post", color=_FRONT, linewidth=1.2, zorder=4)
    axes.grid(True, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))


def _legend(figure: Figure, shapes: dict[str, str], what: str) -> None:
    """Below both panels, where it hides no point."""
    grey: dict[str, Any] = {"linestyle": "", "markerfacecolor": "0.6", "markeredgecolor": "white"}
    front: dict[str, Any] = {"color": _FRONT, "markerfacecolor": "white", "markeredgecolor": _FRONT}
    names = list(shapes)
    entries = []
    for name in names[: len(_SHAPES)]:
        last = len(names) > len(_SHAPES) and name == names[len(_SHAPES) - 1]
        label = f"{len(names) - len(_SHAPES) + 1} others" if last else name
        entries.append(Line2D([], [], marker=shapes[name], markersize=7, label=label, **grey))
    label = "no other is better in both, with 95 % interval"
    entries.append(Line2D([], [], marker="o", markersize=8, linewidth=1.2, label=label, **front))
    title = "width of the weights" if what == "bits" else "cutoff"
    figure.legend(handles=entries, loc="outside lower center", ncols=min(len(entries), 7), frameon=False, title=title)
