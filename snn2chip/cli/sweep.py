"""``snn2chip sweep``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.clustering import place_options
from snn2chip.errors import UsageError
from snn2chip.files import check_apart, write_whole

#: :data:`snn2chip.sweep.table.FORMATS`.
FORMATS = ("csv", "parquet")
SHOWN = 20  # rows of the table

EPILOG = """
Results in the folder:
  results.csv            a row for each configuration; failed ones say why
  pareto.png, .svg       accuracy over energy and over cores
  nets/                  the networks, as NetX files
  sweep.json             what was asked for, and which rows are on the fronts

A sweep that was interrupted goes on where it was; results do not depend on
where, and by how many workers, it was run (docs/sweep.md).

Examples:
  snn2chip sweep --init model.pt -o sweep.yaml
  snn2chip sweep sweep.yaml -o results/
  snn2chip sweep sweep.yaml -o results/ --cluster local --workers 2
  snn2chip sweep sweep.yaml -o results/ --cluster tcp://10.0.0.1:8786
"""


@options.command(
    "sweep",
    EPILOG,
    {"Output": ("target", "form", "force"), "Workers (docs/cluster.md)": ("cluster", "workers")},
)
@options.argument("config", options.File(".yaml", ".yml", ".pt", ".nir", ".net"), "The sweep, a YAML file.")
@click.option("--init", "make", is_flag=True, help="Write an annotated YAML file for a model, given as CONFIG.")
@options.output_option(
    options.File(), "Where results go, a folder; with --init a file.  [default: CONFIG without suffix]", "PATH"
)
@click.option(
    "--format",
    "form",
    type=options.Name(FORMATS),
    default="csv",
    show_default=True,
    metavar="|".join(FORMATS),
    help="Of the results.",
)
@options.force_option("Overwrite what an earlier sweep left.")
@place_options
@common
def command(
    config: Path,
    make: bool,
    target: Path | None,
    form: str,
    force: bool,
    cluster: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure many configurations of one network: widths, scales, thresholds, time steps, cutoffs."""
    if make:
        _init(config, target or config.with_name(f"{config.stem}-sweep.yaml"), force, as_json)
        return

    from snn2chip.sweep.running import run_sweep

    target = target or config.with_suffix("")
    if target == config:
        raise UsageError(f"{config}: has no suffix to leave out; name a folder with -o")
    with output.working("Sweep", as_json) as tell:
        found = run_sweep(config, target, where=cluster, workers=workers, form=form, force=force, progress=tell)
    best = sorted((row for row in found.rows if row["pareto"]), key=lambda row: (row["energy"], -row["accuracy"]))
    failed = [row for row in found.rows if row["status"] != "ok"]
    if as_json:
        files = {kind: str(file) for kind, file in found.files.items()}
        counts = {"configurations": len(found.rows), "failed": len(failed), "samples": found.samples}
        print_json({**counts, "pareto": best, "files": files})
        return
    _print(found.rows, best, failed, found.samples)
    for file in found.files.values():
        output.out().print(f"wrote {file}", markup=False)


def _init(model: Path, target: Path, force: bool, as_json: bool) -> None:
    """Write a file to begin with."""
    check_apart(target, model)
    from snn2chip.sweep.template import template

    path = os.path.relpath(model.resolve(), target.resolve().parent)
    if model.suffix.lower() == ".net":
        raise UsageError(f"{model}: --init needs the trained model; of a NetX file only cutoff: can be swept")
    from snn2chip.compiler import lowered_graph
    from snn2chip.passes import chip_blocks
    from snn2chip.quantise import integer_net, is_integer
    from snn2chip.sources import open_source

    opened = open_source(model).model
    graph = opened.graph
    integers = is_integer(graph)
    parts: Sequence[Any] = integer_net(graph).layers if integers else chip_blocks(lowered_graph(graph))
    layers = [part.name for part in parts]
    timed = opened.x is not None and opened.x.ndim == len(graph.input.shape) + 2
    text = template(path, layers, graph.input.kind != "spikes" and not timed, integers)
    write_whole(target, text.encode(), force)
    if as_json:
        print_json({"file": str(target), "layers": layers})
    else:
        output.out().print(f"wrote {target}: {len(layers)} layers", markup=False)


def _print(
    rows: Sequence[dict[str, Any]], best: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]], samples: int
) -> None:
    """The rows that no other beats in accuracy, steps, energy and cores."""
    console = output.out()
    options_of = [name for name in _OPTIONS if len({row[name] for row in rows}) > 1]
    output.table(
        ("row", *(name.replace("_", " ") for name in options_of), "accuracy", "95 %", "steps", "energy", "cores"),
        [
            (
                str(row["configuration"]),
                *(_cell(row[name]) for name in options_of),
                output.percent(row["accuracy"]),
                f"{100 * row['accuracy_low']:.1f}-{100 * row['accuracy_high']:.1f}",
                f"{row['mean_steps']:.2f}",
                f"{1e6 * row['energy']:.2f} uJ",
                row["cores"],
            )
            for row in best[:SHOWN]
        ],
    )
    if len(best) > SHOWN:
        console.print(f"and {len(best) - SHOWN} more, where the column pareto of the results is true", markup=False)
    console.print(
        f"{len(rows)} configurations on {samples:,} samples; {len(best)} of them no other beats in accuracy, steps, "
        "energy (modelled) and cores",
        markup=False,
    )
    reasons = dict.fromkeys(row["reason"] for row in failed)
    if failed:
        console.print(f"{len(failed)} failed:", style="yellow")
    for reason in reasons:
        console.print(f"  {sum(row['reason'] == reason for row in failed)}: {reason}", style="yellow", markup=False)


def _cell(value: Any) -> str:
    return "-" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


#: Columns of options, shown where they differ.
_OPTIONS = (
    "bits",
    "scales",
    "rounding",
    "per_neuron",
    "thresholds",
    "time_steps",
    "resets",
    "analog",
    "window",
    "policy",
    "form",
    "aim",
    "level",
)
