"""Tables, numbers and progress in the terminal. Progress goes to standard error, results to standard output."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from snn2chip.cli.progress import Tell
    from snn2chip.ladder import Rung
    from snn2chip.verification import Verification

#: Width where nobody looks: lines end where they end.
ENDLESS = 1 << 16
#: Between two columns.
GAP = 2
#: To which names, and text in other columns, may be narrowed; they go on in the next line.
NARROW = 16


class _Console(Console):
    """A console that leaves a broken pipe to whoever called it."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that is being handled


err = _Console(stderr=True, highlight=False)


def watched(console: Console) -> bool:
    """Whether it is a terminal that can redraw a line; colour that is forced (``FORCE_COLOR``) makes no terminal."""
    if not console.is_terminal or console.is_dumb_terminal:
        return False
    forced = "FORCE_COLOR" in os.environ or "TTY_COMPATIBLE" in os.environ
    return not forced or console.file.isatty()


def seen(quiet: bool) -> bool:
    """Whether somebody sees a progress bar."""
    return not quiet and watched(err)


def out() -> Console:
    """Standard output, as it is now: lines break between words on a terminal, and nowhere in a file or a pipe."""
    console = _Console(highlight=False)
    if not console.file.isatty():
        console.soft_wrap = True
        console.width = ENDLESS
    return console


def command(text: str) -> None:
    """Print what is to be copied; it is broken nowhere."""
    out().print(text, markup=False, soft_wrap=True)


@contextmanager
def working(what: str, quiet: bool = False) -> Iterator[Tell]:
    """A progress bar, see :func:`snn2chip.cli.progress.working`."""
    from snn2chip.cli import progress  # it imports this module

    with progress.working(what, quiet) as tell:
        yield tell


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None, names: int = 1) -> None:
    """Print a table: names first, numbers to the right.

    On a terminal that is narrower, headings and text go on in the next line; columns for which that is not enough
    follow in a table below, beside the first ``names`` again. Numbers are never cut.
    """
    rows = [list(row) for row in rows]
    texts = [[f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row] for row in rows]
    numeric = [
        i > 0 and bool(rows) and all(isinstance(row[i], int | float) or _number(text[i]) for row, text in given)
        for given in [list(zip(rows, texts, strict=True))]
        for i in range(len(columns))
    ]
    console = out()
    cells = [max((cell_len(text[i]) for text in texts), default=1) for i in range(len(columns))]
    words = [max(map(cell_len, name.split()), default=1) for name in columns]
    wide = [max(cell, cell_len(name)) for cell, name in zip(cells, columns, strict=True)]
    folded = [max(cell, word) for cell, word in zip(cells, words, strict=True)]
    least = [width if numeric[i] else min(width, max(words[i], NARROW)) for i, width in enumerate(folded)]
    for group in _groups(least, console.width, names):
        widths = _fitted([[given[i] for i in group] for given in (wide, folded, least)], console.width)
        grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for i, width in zip(group, widths, strict=True):
            grid.add_column(columns[i], justify="right" if numeric[i] else "left", width=width, overflow="fold")
        for text in texts:
            grid.add_row(*(Text(text[i]) for i in group))
        console.width = max(console.width, sum(widths) + GAP * (len(widths) - 1))  # nothing is left out
        console.print(grid, soft_wrap=False)


def _number(text: str) -> bool:
    return (text[:1].isdigit() and "/" not in text) or text in ("", "-")


def _groups(least: Sequence[int], width: int, names: int) -> list[list[int]]:
    """Columns of each table: as many as fit beside the names, and at least one."""
    first = list(range(min(names, len(least))))
    groups, used = [first], 0
    for i in range(len(first), len(least)):
        if len(groups[-1]) == len(first) or used + GAP + least[i] <= width:
            groups[-1] = [*groups[-1], i]
        else:
            groups.append([*first, i])
        used = sum(least[k] + GAP for k in groups[-1]) - GAP
    return groups


def _fitted(stages: Sequence[Sequence[int]], width: int) -> list[int]:
    """Widths of columns: those of the first stage, narrowed to those of the next where that is too wide, widest first.

    Where the last stage is too wide, the first column gives way.
    """
    widths = list(stages[0])
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    for least in stages[1:]:
        while excess > 0 and (wider := [i for i, now in enumerate(widths) if now > least[i]]):
            widths[max(wider, key=lambda i: widths[i])] -= 1
            excess -= 1
    widths[0] = max(1, widths[0] - max(excess, 0))
    return widths


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
