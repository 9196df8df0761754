"""The command group and what all commands share: options, errors, exit codes."""

from __future__ import annotations

import functools
import json
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import click

from snn2chip import __version__
from snn2chip.errors import Snn2chipError

#: Commands, each the module of that name beside this one (``lava-env``: ``lava_env``), loaded when it runs: ``--help``
#: must not import torch.
COMMANDS = {
    "compare": "Compare what came back from the lab with the simulators.",
    "cutoff": "Choose when a network may stop early, and add the circuit that decides.",
    "demo": "Train a small network on digits, export it, prove it against Lava.",
    "deploy": "Write a folder that runs a NetX file in the lab and checks itself.",
    "diff": "Say in which layers and parameters two NetX files differ.",
    "doctor": "Say what is installed, what works, and what to do where not.",
    "export": "Compile a trained model to a NetX file and verify it.",
    "init": "Write an editable file with all options of an export.",
    "inspect": "Show layers, neurons and readout of a NetX file.",
    "lava-env": "Make a small environment that runs Lava for this Python.",
    "simulate": "Run a NetX file on data of any size.",
    "train": "Train a spiking network by one of the five methods.",
    "verify": "Compare two simulators on data, bit for bit.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        try:
            command = import_module(f"snn2chip.cli.{cmd_name.replace('-', '_')}").command
        except KeyboardInterrupt as error:  # loading torch takes seconds
            fail(error, False)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(sorted(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        import difflib

        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            close = difflib.get_close_matches(args[0], COMMANDS)
            hint = f" Did you mean {close[0]}?" if close and "Did you mean" not in error.message else ""
            raise click.UsageError(error.message + hint, ctx) from error


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="snn2chip")
def cli() -> None:
    """Compile trained torch spiking networks for Loihi-style hardware, and prove the result against Lava.

    \b
    snn2chip demo                              train, export, verify: everything once
    snn2chip export model.pt                   write model.net and verify it
    snn2chip simulate model.net data.npz       run it on data
    """


def fail(error: BaseException, debug: bool) -> NoReturn:
    """One line on standard error, and the exit code."""
    if debug:
        traceback.print_exception(error)
    if isinstance(error, Snn2chipError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, text = 130, "interrupted"
    elif isinstance(error, OSError):
        code, text = 5, f"{error.filename or 'system'}: {error.strerror or error}"
    else:
        code, text = 1, f"internal error ({type(error).__name__}: {error}); --debug shows where, please report it"
    click.echo("error: " + " ".join(text.split()), err=True)
    sys.exit(code)


def common(function: Callable[..., None]) -> Callable[..., None]:
    """``--json`` and ``--debug``, and errors as one line with their exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapper(*args: Any, debug: bool, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except (Exception, KeyboardInterrupt) as error:
            fail(error, debug)

    return wrapper


def print_json(content: dict[str, Any]) -> None:
    """One object, one line."""
    click.echo(json.dumps(content))


def main() -> None:
    """Entry point of the ``snn2chip`` command."""
    try:
        sys.exit(cli.main(prog_name="snn2chip", standalone_mode=False))
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):  # click makes the first of the second
        fail(KeyboardInterrupt(), False)
