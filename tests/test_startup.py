"""``--help`` answers at once: nothing that takes long to load is loaded, by any command."""

from __future__ import annotations

import json
import subprocess
import sys

from snn2chip.cli import choices
from snn2chip.cli.app import COMMANDS

HEAVY = ("torch", "numba", "h5py", "scipy", "sklearn", "matplotlib", "dask", "distributed", "pyarrow", "jinja2", "lava")

SCRIPT = """
import json, sys
from click.testing import CliRunner
from snn2chip.cli import cli
loaded = {}
for command in ["", *sys.argv[2:]]:
    result = CliRunner().invoke(cli, [command, "--help"] if command else ["--help"])
    assert result.exit_code == 0 and "Usage: " in result.stdout, f"{command}: {result.exception!r} {result.output}"
    loaded[command] = [name for name in sys.argv[1].split() if name in sys.modules]
print(json.dumps(loaded))
"""


def output_of(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_help_of_every_command_loads_nothing_heavy() -> None:
    loaded = json.loads(output_of("-c", SCRIPT, " ".join(HEAVY), *COMMANDS).stdout)
    assert list(loaded) == ["", *COMMANDS]
    assert not any(loaded.values()), loaded


def test_the_help_of_the_group_does_without_numpy_too() -> None:
    """As the interpreter itself reports what it imports."""
    done = output_of("-X", "importtime", "-m", "snn2chip", "--help")
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "click" in imported
    assert not imported & {*HEAVY, "numpy", "rich"}


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = f"import sys, snn2chip; print([name for name in {(*HEAVY, 'numpy')!r} if name in sys.modules])"
    assert output_of("-c", code).stdout == "[]\n"


def test_choices_are_those_of_the_library() -> None:
    from snn2chip.early_exit import LEVELS
    from snn2chip.exporters.bundle import GENERATIONS
    from snn2chip.frontends.nir import RESETS
    from snn2chip.frontends.nir_dialects import NAMES
    from snn2chip.quantise.network import ROUNDINGS
    from snn2chip.training import METHODS

    assert (choices.LEVELS, choices.GENERATIONS, choices.ROUNDINGS) == (LEVELS, GENERATIONS, ROUNDINGS)
    assert (choices.RESETS, choices.NIR_DIALECTS) == (RESETS, NAMES)
    assert {name: method.about for name, method in METHODS.items()} == choices.METHODS
