"""``snn2chip doctor``."""

from __future__ import annotations

import sys

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.doctor import examine
from snn2chip.errors import EnvironmentFailure

EPILOG = """
Examples:
  snn2chip doctor
  snn2chip doctor --json > report.json

Exit codes: 0 the reference and the event simulator work, 5 they do not
"""


@options.command("doctor", EPILOG)
@common
def command(as_json: bool) -> None:
    """Say what is installed, run a small network on every backend, and say what to do where that fails."""
    with output.working("Running a small network on every backend", as_json):
        found = examine()
    if as_json:
        print_json(
            {
                "works": found.works,
                "python": {"version": found.python[0], "path": found.python[1]},
                "packages": found.packages,
                "backends": {
                    backend.name: {
                        "works": backend.works,
                        "interpreter": backend.interpreter,
                        "problem": backend.problem or None,
                    }
                    for backend in found.backends
                },
            }
        )
    else:
        rows = [("Python", f"{found.python[0]}  {found.python[1]}")]
        rows += [(name, version or "not installed") for name, version in found.packages.items()]
        output.table(("", "version"), rows)
        console = output.out()
        console.print()
        for backend in found.backends:
            elsewhere = f" in {backend.interpreter}" if backend.interpreter != sys.executable else ""
            how = f"works{elsewhere}: equal to the reference" if backend.works else f"does not work: {backend.problem}"
            console.print(f"{backend.name}: {how}", style="green" if backend.works else "yellow", markup=False)
    if not found.works:
        sys.exit(EnvironmentFailure.exit_code)
