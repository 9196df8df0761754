"""Tables, numbers and progress in the terminal. Progress goes to standard error, results to standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from snn2chip.ladder import Rung
from snn2chip.verification import Verification

err = Console(stderr=True, highlight=False)


def out() -> Console:
    """Standard output, as it is now; a file or pipe is as wide as the widest table."""
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = 160
    return console


@contextmanager
def working(what: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """A spinner on a terminal, nothing elsewhere; yields what is told which part is worked on."""
    if quiet or not err.is_terminal:
        yield lambda part: None
    else:
        with err.status(what) as status:
            yield lambda part: status.update(f"{what}: {part}")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """Print a table: names first, numbers to the right."""
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    rows = [list(row) for row in rows]
    for i, name in enumerate(columns):
        numeric = all(
            isinstance(row[i], int | float) or str(row[i])[:1].isdigit() or row[i] in ("", "-") for row in rows
        )
        grid.add_column(name, justify="right" if i and numeric and rows else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    out().print(grid, soft_wrap=False)


def percent(share: float | None) -> str:
    """``0.9861`` as ``98.61 %``."""
    return "-" if share is None else f"{100 * share:.2f} %"


def print_verification(result: Verification, against: str, backend: str) -> None:
    """One line, or where and why they differ."""
    console = out()
    spikes, states = sum(result.differing_spikes.values()), sum(result.differing_states.values())
    style = "green" if result.equal else "bold red"
    verdict = "equal" if result.equal else "DIFFERENT"
    console.print(
        Text(
            f"{verdict}: {backend} against {against}, {result.samples} samples, {result.layers} layers, every step and "
            f"neuron: {spikes:,} differing spikes, {states:,} differing states",
            style=style,
        )
    )
    if result.first is not None:
        console.print(Text(f"first: {result.first}", style="red"))


def print_ladder(rungs: dict[str, Rung], samples: str) -> None:
    """Accuracy and spikes from the trained model to the chip; ``samples`` says on what."""
    rows = []
    for name, rung in rungs.items():
        differing = "-" if rung.differing_spikes is None else f"{sum(rung.differing_spikes.values()):,}"
        rows.append(
            (
                _RUNGS.get(name, name),
                percent(rung.accuracy),
                "-" if rung.interval is None else f"{100 * rung.interval[0]:.1f}-{100 * rung.interval[1]:.1f}",
                sum(rung.spikes.values()),
                differing,
                percent(rung.agreement),
            )
        )
    table((samples, "accuracy", "95 %", "spikes", "differ from above", "same prediction"), rows)


def print_layer_agreement(rungs: dict[str, Rung]) -> None:
    """Of each layer: spikes of each rung, and how many neurons and steps say the same as on the rung above."""
    rows = []
    for layer in rungs["float"].spikes:
        row = [layer, *(rung.spikes[layer] for rung in rungs.values())]
        for rung in rungs.values():
            if rung.layer_agreement is not None:
                row.append(f"{100 * rung.layer_agreement[layer]:.3f} %")
        rows.append(row)
    table(("layer", "spikes", "lowered", "chip", "lowered as trained", "chip as lowered"), rows)


_RUNGS = {
    "float": "trained model (float32)",
    "graph": "lowered graph (float64)",
    "chip": "chip (integers)",
}


def ladder_json(rungs: dict[str, Rung]) -> dict[str, Any]:
    """The ladder for ``--json``."""
    return {
        name: {
            "accuracy": rung.accuracy,
            "interval": rung.interval,
            "spikes": rung.spikes,
            "differing_spikes": rung.differing_spikes,
            "layer_agreement": rung.layer_agreement,
            "agreement": rung.agreement,
        }
        for name, rung in rungs.items()
    }


def verification_json(result: Verification) -> dict[str, Any]:
    """The comparison for ``--json``."""
    first = result.first
    return {
        "equal": result.equal,
        "samples": result.samples,
        "layers": result.layers,
        "differing_spikes": sum(result.differing_spikes.values()),
        "differing_states": sum(result.differing_states.values()),
        "first": None if first is None else {**vars(first), "neuron": list(first.neuron)},
    }
