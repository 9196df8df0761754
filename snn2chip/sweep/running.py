"""A sweep from its file to its results."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snn2chip import __version__
from snn2chip.cluster import run
from snn2chip.cluster.places import check_place, connect
from snn2chip.data import Data, open_data
from snn2chip.errors import UsageError
from snn2chip.files import write_whole
from snn2chip.formats import read
from snn2chip.hardware import target_of
from snn2chip.long_runs import digest
from snn2chip.quantise.network import SECOND_ORDER_BITS
from snn2chip.sweep import plot
from snn2chip.sweep.compiling import CompileTask, Quantisation, compile_task, still_there
from snn2chip.sweep.config import Configuration, Cutoff, Sweep, load_sweep
from snn2chip.sweep.folder import FORMAT, JOURNAL, NETS, finish, output_folder
from snn2chip.sweep.measuring import MeasureTask, measure_task
from snn2chip.sweep.pareto import FRONTS, mark
from snn2chip.sweep.planning import Family, Plan, network_of, plan, quantisation_of
from snn2chip.sweep.source import Source, content_sha256
from snn2chip.sweep.table import check_format, encoded, row_of

#: Of fewer networks than this, the cutoffs of one are measured in tasks of their own, policy by policy.
FEW_NETWORKS = 8

#: Told what is done (``compiling`` or ``measuring``), how many tasks of it are done, and of how many.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a sweep came to.

    Attributes:
        rows: one for each configuration, by column of :data:`snn2chip.sweep.table.COLUMNS`.
        samples: of the data.
        files: that were written, by what they are.
    """

    rows: tuple[dict[str, Any], ...]
    samples: int
    files: dict[str, Path]


@dataclass(frozen=True)
class _Inputs:
    """The files of a sweep, found and read as far as needed."""

    sweep: Sweep
    source: Source
    data: Data
    contents: dict[str, dict[str, str]]
    path: str
    samples: int


def run_sweep(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    where: str | None = None,
    workers: int | None = None,
    form: str = "csv",
    force: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Run the sweep in a YAML file; results do not depend on where and by how many it is run.

    Args:
        path: see :mod:`snn2chip.sweep.config`.
        out: a folder, see :mod:`snn2chip.sweep.folder`. An unfinished sweep of the same file is continued.
        where, workers: see :func:`snn2chip.cluster.run`. Workers must see model, data and ``out`` under the same paths.
        form: ``csv`` or ``parquet``.
        force: overwrite what an earlier sweep left in ``out``.

    Raises:
        InputError: a file cannot be read, or does not fit the others.
        UsageError: an option does not apply to the network, or ``out`` holds something else.
        EnvironmentFailure: a worker or the disk failed; the same call continues.
    """
    check_format(form)
    if where is not None:
        check_place(where, workers)
    elif workers is not None:
        raise UsageError(f"--workers {workers}: needs --cluster local or slurm")
    given = _inputs(Path(path))
    target_of(given.sweep.target)  # refuses an unknown one
    planned = plan(given.sweep.configurations, given.source, given.data)
    settings = {
        "version": __version__,
        **given.contents,
        "samples": given.samples,
        "target": given.sweep.target,
        "configurations": digest(planned.configurations),
    }
    tell = progress or (lambda what, done, total: None)
    with output_folder(Path(out).resolve(), settings, force) as folder, _standing(where, workers) as (place, count):

        def made(what: str, function: Callable[[Any], Any], tasks: Sequence[Any], valid: Any = None) -> list[Any]:
            return run(
                function,
                tasks,
                place,
                workers=count,
                journal=folder / JOURNAL,
                progress=lambda done, total: tell(what, done, total),
                valid=valid,
            )

        nets = _compiled(planned, given, folder, made)
        found = _measured(planned, given, nets, made)
        rows = _rows(planned, given, folder, nets, found)
        files = {"results": folder / f"results.{form}", "state": folder / "sweep.json"}
        write_whole(files["results"], encoded(rows, form), force=True)
        for kind, content in plot.pareto(rows).items():
            files[kind] = folder / f"pareto.{kind}"
            write_whole(files[kind], content, force=True)
        finish(folder, _summary(settings, rows, files))
    return Outcome(tuple(rows), given.samples, files)


def _inputs(path: Path) -> _Inputs:
    sweep = load_sweep(path)
    named = {"model": sweep.model, "data": sweep.data, "calibration": sweep.calibration}
    paths = {what: str((path.parent / name).resolve()) for what, name in named.items() if name is not None}
    data = open_data(paths["data"])
    contents = {what: {"path": str(named[what]), "sha256": content_sha256(file)} for what, file in paths.items()}
    samples = len(data) if sweep.samples is None else min(sweep.samples, len(data))
    origins = [contents[what]["sha256"] for what in ("model", "calibration") if what in contents]
    source = Source(paths["model"], paths.get("calibration"), digest(origins))
    return _Inputs(sweep, source, data, contents, paths["data"], samples)


@contextlib.contextmanager
def _standing(where: str | None, workers: int | None) -> Iterator[tuple[str | None, int | None]]:
    """One cluster for all stages, so that workers keep what they have loaded."""
    if where not in ("local", "slurm"):
        yield where, workers
        return
    with connect(where, workers) as place:
        yield place.client.scheduler.address, None


_Made = Callable[..., list[Any]]


def _compiled(planned: Plan, given: _Inputs, folder: Path, made: _Made) -> dict[Configuration, dict[str, Any]]:
    """For each network its file, digest and what chose its scales; or the reason why there is none."""
    if given.source.is_net:
        net = {"file": given.source.model, "digest": digest(read(given.source.model)), "used": 0, "logit": None}
        return dict.fromkeys(planned.networks, net)
    files = {network: str(folder / NETS / f"net-{i:04}.net") for i, network in enumerate(planned.networks)}
    same: dict[Configuration, list[Configuration]] = {}  # networks that differ in their thresholds alone
    for network in planned.networks:
        same.setdefault(quantisation_of(network), []).append(network)
    families = _long_first(planned.families)
    tasks = [
        CompileTask(
            given.source,
            tuple(
                Quantisation(
                    options,
                    tuple(network.thresholds for network in same[options]),
                    tuple(files[network] for network in same[options]),
                )
                for options in family
            ),
            given.sweep.target,
        )
        for family in families
    ]
    nets: dict[Configuration, dict[str, Any]] = {}
    for family, results in zip(families, made("compiling", compile_task, tasks, still_there), strict=True):
        for options, result in zip(family, results, strict=True):
            for i, network in enumerate(same[options]):
                nets[network] = result if "reason" in result else {**result, **result["nets"][i]}
    return nets


def _long_first(families: Sequence[Family]) -> list[Family]:
    """Those of most work first, so that no worker is left with a long one; beside one another what shares work."""

    def work(options: Configuration) -> int:
        narrow = sum(bits <= SECOND_ORDER_BITS for _, bits in options.bits)
        return int(narrow + sum(rounding == "second-order" for _, rounding in options.rounding) + options.per_neuron)

    def most(families: Sequence[Family]) -> int:
        return max(work(options) for family in families for options in family)

    groups: dict[Any, list[Family]] = {}
    for family in families:
        first = family[0]
        shared = (first.time_steps, first.resets, first.analog, first.per_neuron, first.bits[0])
        groups.setdefault(shared, []).append(family)
    ordered = sorted(groups.values(), key=lambda group: -most(group))
    return [family for group in ordered for family in group]


def _measured(
    planned: Plan, given: _Inputs, nets: Mapping[Configuration, Mapping[str, Any]], made: _Made
) -> dict[tuple[Configuration, Cutoff], dict[str, Any]]:
    """What each network does with each cutoff."""
    tasks: list[MeasureTask] = []
    whose: list[Configuration] = []
    for network, cutoffs in planned.networks.items():
        net = nets[network]
        if "reason" in net:
            continue
        for part in _parts(cutoffs) if len(planned.networks) < FEW_NETWORKS else [cutoffs]:
            whose.append(network)
            tasks.append(
                MeasureTask(
                    net["file"],
                    net["digest"],
                    given.path,
                    given.contents["data"]["sha256"],
                    given.samples,
                    given.source,
                    net["used"],
                    net["logit"],
                    given.sweep.target,
                    part,
                )
            )
    order = sorted(range(len(tasks)), key=lambda i: -len(tasks[i].cutoffs))
    results = made("measuring", measure_task, [tasks[i] for i in order])
    found: dict[tuple[Configuration, Cutoff], dict[str, Any]] = {}
    for i, result in zip(order, results, strict=True):
        for cutoff, one in zip(tasks[i].cutoffs, result, strict=True):
            found[whose[i], cutoff] = one
    return found


def _parts(cutoffs: Sequence[Cutoff]) -> list[tuple[Cutoff, ...]]:
    """Policy by policy: what a policy sees on held-out samples serves all its cutoffs."""
    parts: dict[str | None, list[Cutoff]] = {}
    for cutoff in cutoffs:
        parts.setdefault(cutoff.policy, []).append(cutoff)
    return [tuple(part) for part in parts.values()]


def _rows(
    planned: Plan,
    given: _Inputs,
    folder: Path,
    nets: Mapping[Configuration, Mapping[str, Any]],
    found: Mapping[tuple[Configuration, Cutoff], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    rows = []
    for number, options in enumerate(planned.configurations):
        network = network_of(options)
        net = nets[network]
        file = None
        if "reason" not in net:
            file = given.sweep.model if given.source.is_net else str(Path(net["file"]).relative_to(folder))
        result = net if file is None else found[network, options.cutoff]
        rows.append(row_of(number, options, planned.axes, file, result))
    mark(rows)
    return rows


def _summary(
    settings: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], files: Mapping[str, Path]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "finished": True,
        "settings": dict(settings),
        "configurations": len(rows),
        "failed": sum(row["status"] != "ok" for row in rows),
        "files": {kind: file.name for kind, file in files.items() if kind != "state"},
        "fronts": {name: [row["configuration"] for row in rows if row[name]] for name in FRONTS},
    }
