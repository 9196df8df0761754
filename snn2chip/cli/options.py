"""What the commands' arguments and options share: words, sections of the help, suggestions, completion."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.shell_completion import CompletionItem

from snn2chip.names import suggestion

if TYPE_CHECKING:
    Choice = click.Choice[str]
    Item = CompletionItem[str]
    ParamType = click.ParamType[Any]
else:  # older versions of click have no generic types
    Choice, Item, ParamType = click.Choice, CompletionItem, click.ParamType

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Decorator(Protocol):
    """What leaves the type of a function as it is."""

    def __call__(self, function: Decorated, /) -> Decorated:
        """Decorate."""


class AsWritten(click.Command):
    """A command whose epilog is printed as it is written, its headings below those of the sections."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The text alone."""
        if self.epilog:
            formatter.write("\n" + self.epilog.strip("\n") + "\n")


class Command(AsWritten):
    """A command whose help explains its arguments and has its options in sections.

    Args:
        sections: titles, each with the parameters under it; those that stand nowhere are under ``Options``.
    """

    def __init__(self, *arguments: Any, sections: Mapping[str, Sequence[str]] | None = None, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.sections = {**(sections or {}), "General": ("as_json", "debug")}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Arguments, then the sections."""
        arguments: list[tuple[str, str]] = []
        rows: dict[str, list[tuple[str, str]]] = {"Options": [], **{title: [] for title in self.sections}}
        titles = {name: title for title, names in self.sections.items() for name in names}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Argument):
                arguments.append((parameter.human_readable_name, getattr(parameter, "explained", "")))
            elif (record := parameter.get_help_record(ctx)) is not None:
                general = "General" if parameter is self.get_help_option(ctx) else "Options"
                rows[titles.get(parameter.name or "", general)].append(record)
        for title, entries in {"Arguments": arguments, **rows}.items():
            if entries:
                with formatter.section(title):
                    formatter.write_dl(entries)


class _Argument(click.Argument):
    """An argument that says what it is."""

    def __init__(self, *arguments: Any, explained: str, **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.explained = explained


def command(
    name: str, epilog: str = "", sections: Mapping[str, Sequence[str]] | None = None
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command with sections in its help."""
    return click.command(name, cls=Command, epilog=epilog, sections=sections)


def argument(name: str, kind: ParamType, explained: str, **others: Any) -> Decorator:
    """An argument that the help explains."""
    return click.argument(name, cls=_Argument, type=kind, explained=explained, metavar=name.upper(), **others)


# What values may be


def listed(entries: Mapping[str, str]) -> str:
    """Names and what they are, for a help text: as narrow as a terminal of 80 columns."""
    lines = []
    for name, text in entries.items():
        lines += textwrap.wrap(f"  {name:<8} {text}", 76, subsequent_indent=" " * 11)
    return "\n".join(lines)


class File(click.Path):
    """A path; shells offer folders and the files that end in one of ``suffixes`` (all, without any)."""

    def __init__(self, *suffixes: str, **others: Any) -> None:
        super().__init__(path_type=Path, **others)
        self.suffixes = suffixes

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Item]:
        """See :class:`snn2chip.cli.completion.Bash`, which knows what ``suffixes`` are for; other shells offer all."""
        return [Item(incomplete, type="file", suffixes=self.suffixes)]


class Name(Choice):
    """One of a few names; an unknown one gets a suggestion."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(list(names))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The name itself."""
        if value not in self.choices:
            self.fail(f"{str(value)!r} is unknown{suggestion(str(value), self.choices, ', expected ')}", param, ctx)
        return str(value)


class OneOf(ParamType):
    """A name that the library checks; shells offer the usual ones, which ``more`` may have to import."""

    name = "text"

    def __init__(self, *names: str, more: Callable[[], Sequence[str]] = lambda: ()) -> None:
        self.names, self.more = names, more

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Item]:
        """The usual names that begin so."""
        names = (*self.names, *self.more())
        return [Item(name, quoted=True) for name in names if name.startswith(incomplete)]


class DataName(ParamType):
    """Data of a training: a name, or a file."""

    name = "text"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Item]:
        """Names, then files."""
        names = OneOf("digits", "saccades", "torchvision:", "tonic:").shell_complete(ctx, param, incomplete)
        return [*names, *SAMPLES.shell_complete(ctx, param, incomplete)]


class LayerName(ParamType):
    """A layer of the argument NET; shells offer its layers."""

    name = "layer"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Item]:
        """The layers whose names begin so, and ``all``."""
        from snn2chip.errors import Snn2chipError
        from snn2chip.formats import read

        try:
            # After an option that still lacks its value, click has not come to the arguments.
            path = ctx.params.get("net") or ctx.args[0]
            names = [layer.name for layer in read(path).layers]
        except (IndexError, Snn2chipError):
            names = []  # there is no NET yet, or it is none: nothing to offer, and a prompt is no place for errors
        return [Item(name, quoted=True) for name in (*names, "all") if name.startswith(incomplete)]


class Number(click.FloatRange):
    """A number in a range; NaN and infinity, which compare with nothing or exceed all, are none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A finite float."""
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


NET = File(".net")
MODEL = File(".pt", ".nir")
SAMPLES = File(".npz", ".npy", ".h5", ".hdf5")
NPZ = File(".npz")
COUNT = click.IntRange(1)
MOST_STEPS = 1 << 20
SECONDS = Number(0, min_open=True)


# What several commands take


def net_argument(explained: str = "The network, a NetX file.") -> Decorator:
    """``NET``."""
    return argument("net", NET, explained)


def data_argument(explained: str) -> Decorator:
    """``DATA``."""
    return argument("data", SAMPLES, f"{explained} An .npz, a folder of .npy, or HDF5.")


def output_option(kind: ParamType, explained: str, metavar: str = "FILE", **others: Any) -> Decorator:
    """``-o``."""
    return click.option("-o", "--output", "target", type=kind, metavar=metavar, help=explained, **others)


def force_option(explained: str = "Overwrite the output if it exists.") -> Decorator:
    """``--force``."""
    return click.option("--force", is_flag=True, help=explained)


def samples_option(explained: str = "Use only the first N samples.", **others: Any) -> Decorator:
    """``--samples``."""
    shown = "default" in others
    return click.option("--samples", type=COUNT, metavar="N", help=explained, show_default=shown, **others)


def backend_option(name: str, default: str, explained: str) -> Decorator:
    """A simulator; :mod:`snn2chip.backends` knows which there are."""
    kind = OneOf("auto", "event", "dense", "reference", "lava")
    return click.option(name, type=kind, metavar="NAME", default=default, show_default=True, help=explained)


def max_drop_option(explained: str) -> Decorator:
    """``--max-drop``."""
    return click.option("--max-drop", type=Number(0, 100), metavar="POINTS", help=explained)


def eps_option(explained: str) -> Decorator:
    """``--eps``."""
    kind = Number(0, 1, min_open=True, max_open=True)
    return click.option("--eps", type=kind, metavar="EPS", help=explained)


def window_option(default: str) -> Decorator:
    """``--window``."""
    return click.option(
        "--window", type=click.IntRange(1, MOST_STEPS), metavar="STEPS", help=f"Steps between two resets.  {default}"
    )


def timeout_option(default: float | None = None) -> Decorator:
    """``--timeout``."""
    shown = default is not None
    text = "Seconds that Lava may take." if shown else "Seconds that Lava may take.  [default: 3600]"
    return click.option("--timeout", type=SECONDS, metavar="SECONDS", default=default, show_default=shown, help=text)


def mode_options(function: Decorated) -> Decorated:
    """``--windowed`` and ``--streaming``."""
    for flag, text in (
        ("--streaming", "Samples follow one another and nothing is reset."),
        ("--windowed", "Samples follow one another as on the chip: spikes in flight cross a reset."),
    ):
        function = click.option(flag, is_flag=True, help=text)(function)
    return function
