"""``--cluster`` and what belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from snn2chip.cli import options
from snn2chip.errors import UsageError

if TYPE_CHECKING:
    from snn2chip.cluster.shards import On
    from snn2chip.traces import Mode

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

#: Title of the options in a help, and their names.
SECTION = {"Cluster (docs/cluster.md)": ("cluster", "workers", "journal")}


class Place(options.OneOf):
    """A word, or the address of a scheduler."""

    def __init__(self) -> None:
        super().__init__("local", "slurm")


def place_options(function: Decorated) -> Decorated:
    """``--cluster`` and ``--workers``."""
    function = click.option(
        "--workers", type=options.COUNT, metavar="N", help="Workers to start.  [default: local, cores; slurm, 1]"
    )(function)
    return click.option(
        "--cluster",
        type=Place(),
        metavar="PLACE",
        help="Share the samples among workers: local (processes here), slurm, or tcp://host:port of a dask scheduler. "
        "Results are the same. DATA as .npz is for local alone.",
    )(function)


def cluster_options(function: Decorated) -> Decorated:
    """``--cluster``, ``--workers`` and ``--journal``."""
    function = click.option(
        "--journal",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Keep finished pieces there until all are done: the same command goes on.  [default: beside the output]",
    )(function)
    return place_options(function)


def chosen(
    cluster: str | None, workers: int | None, journal: Path | None, target: Path | None, mode: Mode
) -> On | None:
    """What the options say; None for this process.

    Raises:
        UsageError: they contradict each other, or samples are not isolated.
    """
    if cluster is None:
        if workers is not None or journal is not None:
            raise UsageError(f"{'--journal' if workers is None else '--workers'}: needs --cluster")
        return None
    if mode != "isolated":
        raise UsageError(f"--cluster: not with --{mode}, where state passes from sample to sample")
    from snn2chip.cluster.places import check_place
    from snn2chip.cluster.shards import On

    check_place(cluster, workers)
    return On.of(cluster, workers, journal, target)
