"""``snn2chip diff``."""

from __future__ import annotations

from pathlib import Path

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.differences import differences
from snn2chip.formats import read

EPILOG = """
Examples:
  snn2chip diff model.net other.net

Exit codes: 0 equal, 1 something differs
"""


@options.command("diff", EPILOG)
@options.argument("first", options.NET, "A NetX file.")
@options.argument("second", options.NET, "Another one.")
@common
def command(first: Path, second: Path, as_json: bool) -> None:
    """Say in which layers and parameters two NetX files differ, and by how much."""
    found = differences(read(first), read(second))
    if as_json:
        print_json({"equal": not found, "differences": [vars(one) for one in found]})
    elif not found:
        output.out().print(f"equal: {first} and {second}", markup=False)
    else:
        rows = []
        for one in found:
            changed = "-" if one.changed is None else f"{one.changed:,} of {one.total:,}"
            largest = "-" if one.largest is None else str(one.largest)
            mean = "-" if one.mean is None else f"{one.mean:.4g}"
            rows.append((one.layer or "(network)", one.what, one.first, one.second, changed, largest, mean))
        output.table(("layer", "parameter", first.name, second.name, "differ", "largest", "mean"), rows, names=2)
    if found:
        click.get_current_context().exit(1)
