"""``snn2chip compare``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.errors import CheckFailed, UsageError
from snn2chip.hardware import BOARDS

if TYPE_CHECKING:
    from snn2chip.deployment.compare import Comparison, Row


EPILOG = """
Examples:
  snn2chip compare bundle/results
  snn2chip compare results/ --bundle bundle/ --profile power.csv \\
      --board kapoho-bay

Exit codes: 0 equal but for known differences, 1 something else differs
"""


@options.command("compare", EPILOG)
@options.argument("results", options.File(".npz"), "Folder that the bundle's run.py wrote.")
@click.option(
    "--bundle",
    type=options.File(file_okay=False),
    metavar="FOLDER",
    help="The bundle.  [default: the folder that RESULTS lie in]",
)
@click.option(
    "--profile",
    type=options.File(".npz", ".csv"),
    metavar="FILE",
    help="Measured power and time, .npz or .csv.  [default: RESULTS/profile.npz or .csv]",
)
@click.option(
    "--board", type=options.Name(sorted(BOARDS)), help="Board that power was measured on: its chips share it."
)
@common
def command(results: Path, bundle: Path | None, profile: Path | None, board: str | None, as_json: bool) -> None:
    """Compare what a bundle's run left in RESULTS with the simulators, layer by layer.

    Known differences between the chip and the simulators are named and do not count. Power and time, where they were
    measured, stand beside the energy model.
    """

    from snn2chip.deployment import compare

    folder = compare.opened(results, bundle)
    if profile is None:
        there = (folder.results / name for name in compare.PROFILES)
        profile = next((path for path in there if path.exists()), None)
    elif not profile.exists():
        raise UsageError(f"--profile {profile}: there is no such file")
    with output.working("Simulating what was run", as_json):
        found = compare.compared(folder)
        rows: list[Row] = []
        label = ""
        if profile is not None and folder.net is not None:
            values = compare.profile(profile)
            steps = int(folder.description["window"])
            rows, modelled = compare.beside_model(
                folder, compare.measured(values, steps, BOARDS[board] if board else None)
            )
            label = f"{modelled.total.label}; {modelled.boundary}"
    if as_json:
        print_json(_json(found, rows))
    else:
        _print(found, rows, label, board)
        if profile is not None and folder.net is None:
            output.out().print("no energy model: it knows chains of layers, this is a Lava module", style="yellow")
    if not found.equal:
        sys.exit(CheckFailed.exit_code)


def _json(found: Comparison, rows: list[Row]) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "mode": found.mode or None,
        "samples": found.samples,
        "known_differences": found.known,
        "differences": [{**vars(one), "first": list(one.first)} for one in found.differences],
        "late": dict(found.late),
        "expected_agrees": found.expected_agrees,
        "predictions": found.predictions,
        "accuracy": found.accuracy,
        "decisions": found.decisions,
        "measured": {
            row.name: {
                "measured": row.measured,
                "low": row.modelled.low,
                "mid": row.modelled.mid,
                "high": row.modelled.high,
                "unit": row.modelled.unit,
            }
            for row in rows
        },
    }


def _print(found: Comparison, rows: list[Row], label: str, board: str | None) -> None:
    console = output.out()
    console.print(f"{found.samples} samples{_MODES.get(found.mode, '')}", markup=False)
    for name, steps in found.late.items():
        console.print(f"known: recordings of {name} arrive {steps} steps late (adapters)", markup=False)
    for one in found.differences:
        console.print(str(one), style="red" if one.unknown else "yellow" if one.known else None, markup=False)
    if found.expected_agrees is False:
        console.print(
            "the bundle's expected.npz is not what the simulator says: it was changed, or made by another version",
            style="red",
        )
    if found.predictions is not None:
        right = "" if found.accuracy is None else f", accuracy {output.percent(found.accuracy)}"
        console.print(f"predictions: {found.predictions} of {found.samples} as expected{right}", markup=False)
    if found.decisions is not None:
        console.print(f"early exits: {found.decisions} of {found.samples} as expected", markup=False)
    if rows:
        output.table(
            ("", "measured", "model", "low", "high", "measured / model"),
            [
                (
                    row.name,
                    _si(row.measured, row.modelled.unit),
                    *(
                        _si(value, row.modelled.unit)
                        for value in (row.modelled.mid, row.modelled.low, row.modelled.high)
                    ),
                    "-" if row.ratio is None else f"{row.ratio:.3g}",
                )
                for row in rows
            ],
        )
        console.print(f"model: {label}", markup=False)
        if board is None:
            console.print(
                "static power is that of the whole board; --board takes the share of the chips in use", markup=False
            )
    if found.equal:
        known = f", but for {found.known:,} values that differ as known" if found.known else ""
        console.print(f"equal{known}", style="green")
    else:
        console.print("DIFFERENT", style="bold red")


_MODES = {
    "hardware": " from Loihi 2",
    "simulation": " from Lava's simulator",
    "rehearsal": " from Lava's simulator, with adapters",
}
_PREFIXES = ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p"))


def _si(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    size, prefix = next(((size, prefix) for size, prefix in _PREFIXES if abs(value) >= size), _PREFIXES[-1])
    return f"{value / size:.4g} {prefix}{unit}"
