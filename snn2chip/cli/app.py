"""The command group and what all commands share: options, errors, exit codes."""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from snn2chip import __version__
from snn2chip.cli.options import AsWritten
from snn2chip.errors import Snn2chipError
from snn2chip.names import closest

#: Exit code where the reader of a pipe has gone, that of a program that the signal SIGPIPE ends.
UNREAD = 141
#: Environment variable by which a shell asks what could come next.
COMPLETE = "_SNN2CHIP_COMPLETE"

#: Commands, each the module of that name beside this one (``lava-env``: ``lava_env``), loaded when it runs: ``--help``
#: must not import torch.
COMMANDS = {
    "completion": "Print the script that completes commands in bash, zsh or fish.",
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
    "report": "Write an HTML page: right on the chip, at what cost, where it loses.",
    "simulate": "Run a NetX file on data of any size.",
    "sweep": "Measure many configurations of one network over a data set.",
    "train": "Train a spiking network by a published method.",
    "verify": "Compare two simulators on data, bit for bit.",
}


class _LazyGroup(AsWritten, click.Group):
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
        if args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(f"no such command {args[0]!r}{_meant(args[0], COMMANDS)}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [
            CompletionItem(name, help=text) for name, text in sorted(COMMANDS.items()) if name.startswith(incomplete)
        ]

    def main(self, args: Any = None, prog_name: str | None = None, *_: Any, **others: Any) -> Any:
        """Errors as one line, and their exit codes, also of wrong usage."""
        standalone = others.pop("standalone_mode", True)
        others["standalone_mode"] = False
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed by the shell: >&-
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # open until the end
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # names may be more than the terminal's encoding holds
        if COMPLETE in os.environ:
            import_module("snn2chip.cli.completion")  # registers what bash asks
        try:
            code = super().main(args, prog_name, **others)
            sys.stdout.flush()
        except SystemExit:
            if type(sys.stdout).__name__.endswith("PacifyFlushWrapper"):  # click's, where nobody reads its help
                sys.exit(UNREAD)
            raise
        except click.ClickException as error:
            if not standalone:
                raise
            if type(error).__name__ == "NoArgsIsHelpError":  # of newer versions of click
                error.show()
            else:
                _complain(_usage(error))
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):  # click makes the first of the second
            fail(KeyboardInterrupt(), False)
        except OSError as error:  # standard output is full, or nobody reads it
            fail(error, False)
        if standalone:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _meant(word: str, known: Iterable[str]) -> str:
    likely = closest(word, known)
    return "" if likely is None else f". Did you mean {likely}?"


def _usage(error: click.ClickException) -> str:
    """What is wrong with a command line, and where to read how it goes."""
    text = error.format_message()
    ctx = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        options = [] if ctx is None else [name for option in ctx.command.get_params(ctx) for name in option.opts]
        text = f"no such option {error.option_name}{_meant(error.option_name, [o for o in options if o[:1] == '-'])}"
    if ctx is None:
        return text
    return f"{text}{'' if text[-1] in '.?' else '.'} See {ctx.command_path} --help"


EPILOG = """
Examples:
  snn2chip demo                             train, export, verify, all at once
  snn2chip export model.pt                  write model.net and verify it
  snn2chip inspect model.net                what is in it, what it takes
  snn2chip simulate model.net test.npz      run it on data
  snn2chip simulate --help                  options and examples of a command

Exit codes: 0 fine, 1 the check that was asked for failed, 2 wrong usage,
3 unreadable input, 4 the network does not fit the chip, 5 the machine failed
(Lava missing, disk full, time-out), 130 interrupted
"""


@click.command(
    cls=_LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="snn2chip")
def cli() -> None:
    """Compile trained torch spiking networks for Loihi-style hardware, and prove the result against Lava."""


def fail(error: BaseException, debug: bool) -> NoReturn:
    """One line on standard error, and the exit code; nothing where nobody reads what is printed any more."""
    unread = isinstance(error, BrokenPipeError) and _unread()
    try:
        sys.stdout.flush()
    except OSError:  # full, or nobody reads it: what is buffered has to go somewhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if unread:
        sys.exit(UNREAD)
    if debug:
        traceback.print_exception(error)
    if isinstance(error, Snn2chipError):
        code, text = error.exit_code, str(error)
    elif isinstance(error, KeyboardInterrupt):
        code, text = 130, "interrupted"
    elif isinstance(error, MemoryError):
        code, text = 5, f"out of memory ({str(error) or 'no more is given'}); take fewer samples, or record less"
    elif isinstance(error, OSError):
        code, text = 5, f"{error.filename or 'system'}: {error.strerror or error}"
    else:
        code, text = 1, f"internal error ({type(error).__name__}: {error}); --debug shows where, please report it"
    _complain(text)
    sys.exit(code)


def _complain(text: str) -> None:
    """One line, which a terminal breaks between words."""
    line = "error: " + " ".join(text.split())
    if not sys.stderr.isatty():
        click.echo(line, err=True)
        return
    from rich.text import Text

    from snn2chip.cli import output

    output.err.print(Text.assemble(("error:", "bold red"), line.removeprefix("error:")))


def _unread() -> bool:
    """Whether standard output is a pipe that nobody reads any more, as of ``snn2chip ... | head``."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, select.POLLOUT)
        return any(event & select.POLLERR for _, event in poll.poll(0))
    except (ValueError, OSError):  # it is no file
        return False


def common(function: Callable[..., None]) -> Callable[..., None]:
    """``--json`` and ``--debug``, and errors as one line with their exit code."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text and tables.")
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


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Entry point of the ``snn2chip`` command. Being terminated cleans up as Ctrl-C does."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as of nohup
            signal.signal(number, _interrupt)
    cli.main(prog_name="snn2chip")
