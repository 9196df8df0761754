"""``snn2chip lava-env``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json

EPILOG = """
Examples:
  snn2chip lava-env
  snn2chip lava-env --folder ~/lava --python python3.10
"""


@options.command("lava-env", EPILOG)
@click.option(
    "--folder",
    type=options.File(file_okay=False),
    metavar="FOLDER",
    help="Where.  [default: $SNN2CHIP_LAVA_ENV, or lava-env in the user's data folder]",
)
@click.option("--python", metavar="PYTHON", help="The Python 3.10 to build on.  [default: look for one]")
@options.force_option("Make it anew if it is there.")
@common
def command(folder: Path | None, python: str | None, force: bool, as_json: bool) -> None:
    """Make a Python 3.10 environment with Lava (about 420 MB), for the backend lava where this Python has none.

    Lava's last release needs Python 3.10 and pins an old torch. The environment holds what its simulator needs and no
    torch; every other command finds it and lets Lava run there.
    """

    from snn2chip.simulators import lava, lava_env

    target = folder or lava_env.default_folder()
    fresh = force or not lava_env.is_current(target)
    began = time.perf_counter()
    with output.working("Installing Lava (about 420 MB)", as_json):
        interpreter = lava_env.make(target, python, force)
    seconds, size = time.perf_counter() - began, lava_env.size(target)
    found = lava_env.interpreter() == lava_env.interpreter(target)
    if as_json:
        content = {"folder": str(target), "python": str(interpreter), "bytes": size, "seconds": seconds}
        print_json({**content, "made": fresh, "found": found, "used": lava.python()})
        return
    console = output.out()
    if fresh:
        console.print(f"made {target}: {size / 1e6:.0f} MB in {seconds:.0f} s", markup=False)
    else:
        console.print(f"{target} is complete already; --force makes it anew", markup=False)
    if not found:
        console.print(f"to use it: export {lava_env.FOLDER_VARIABLE}={target.absolute()}", markup=False)
    elif lava.python() != str(interpreter):
        console.print(f"Lava runs with {lava.python()}, which comes first", markup=False)
