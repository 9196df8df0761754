"""Data sets in shards: simulate, verify and cutoff on a cluster, with the results that one process has.

A task names files and a range of samples; whoever runs it opens them itself and reads that range alone. Nothing depends
on who ran what, or on the number of workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.cluster.engine import run
from snn2chip.cluster.journal import Journal
from snn2chip.cluster.places import Place, connect
from snn2chip.data import Data, open_data, read_npz
from snn2chip.early_exit import ExitProof, ExitRun, Level, attach, detach, latency, verify_exit, with_host_rule
from snn2chip.early_exit.activity import Activity
from snn2chip.early_exit.calibration import Samples, observe
from snn2chip.early_exit.circuit import LEVELS
from snn2chip.early_exit.policies import Decisions, Lead
from snn2chip.early_exit.running import joined_runs, simulate_exit_data
from snn2chip.errors import CheckFailed, EnvironmentFailure, InputError, UsageError
from snn2chip.files import PATIENCE, whole_file
from snn2chip.formats import read
from snn2chip.long_runs import Outcome, Part, Progress, check_fits, digest, part_of, simulate_data, simulate_part
from snn2chip.sample_tree import LEAF
from snn2chip.simulation import faster_backend
from snn2chip.traces import Record, Traces, encode
from snn2chip.verification import Divergence, Verification, verify

Array = npt.NDArray[Any]

#: Shards of a data set: as many, unless they would be larger or smaller than this, samples.
SHARDS, LARGEST, SMALLEST = 32, 1 << 14, LEAF
#: Beyond it shards grow, or one scheduler could not hand them out as fast as a thousand workers come back.
MOST_SHARDS = 1 << 14
#: What a shard may keep in memory until it is written.
KEPT_BYTES = 256 << 20
#: Samples that ``auto`` tries simulators on.
_TRIAL = 64


@dataclass(frozen=True)
class Source:
    """What shards are of.

    Attributes:
        net, network: the NetX file, and the digest of what it holds.
        data, stamp: the samples, and when and how large their files were written.
    """

    net: str
    network: str
    data: str
    stamp: str

    @staticmethod
    def of(net: Path, data: Path) -> Source:
        """Files as they are now.

        Raises:
            InputError: one of them cannot be read.
        """
        net, data = net.absolute(), data.absolute()
        return Source(str(net), digest(read(net)), str(data), stamp_of(data))

    def opened(self) -> tuple[ChipNet, Data]:
        """Network and samples, kept by the process for the next shard.

        Raises:
            InputError: they are others than when the run began, or cannot be read.
        """
        return _network(self.net, self.network), _data(self.data, self.stamp)


@functools.lru_cache(maxsize=2)
def _network(path: str, network: str) -> ChipNet:
    net = read(path)
    if digest(net) != network:
        raise InputError(f"{path}: has been changed since the run began")
    return net


@functools.lru_cache(maxsize=2)
def _data(path: str, stamp: str) -> Data:
    if stamp_of(Path(path)) != stamp:
        raise InputError(f"{path}: has been changed since the run began")
    return open_data(path)


def stamp_of(data: Path) -> str:
    """Names, sizes and times of the files at ``data``, as a digest.

    Raises:
        InputError: there is nothing.
    """
    try:
        files = sorted(data.glob("*.npy")) if data.is_dir() else [data]
        found = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise InputError(f"{data}: cannot be read ({error.strerror or error})") from error
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def shard_size(samples: int, kept_bytes: int = 0) -> int:
    """Samples of a shard, a multiple of 16. It does not depend on the workers, so that others can continue a run.

    Args:
        samples: of all shards.
        kept_bytes: of each sample, in memory until the shard is written.
    """
    largest = max(LARGEST, -(-samples // MOST_SHARDS))
    wanted = min(-(-samples // SHARDS), largest, KEPT_BYTES // max(1, kept_bytes))
    return max(SMALLEST, wanted // LEAF * LEAF if wanted % LEAF == 0 else (wanted // LEAF + 1) * LEAF)


def ranges(samples: int, size: int) -> list[tuple[int, int]]:
    """First sample of each shard, and the one after its last."""
    return [(low, min(low + size, samples)) for low in range(0, samples, size)]


def cuda_devices() -> tuple[str, ...]:
    """CUDA devices that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return tuple(name.strip() for name in listed.split(",") if name.strip())
    import torch

    return tuple(str(i) for i in range(torch.cuda.device_count()))


@dataclass(frozen=True)
class On:
    """Where shards run, and where they leave what is finished.

    Attributes:
        where, workers: see :func:`snn2chip.cluster.run`.
        journal: a folder of its own, which goes when the run has succeeded; None keeps nothing.
    """

    where: str | Place | None
    workers: int | None = None
    journal: Path | None = None

    @staticmethod
    def of(where: str | Place, workers: int | None, journal: Path | None, target: Path | None) -> On:
        """With a journal beside the output, where no other is named."""
        if journal is None and target is not None:
            journal = target.with_name(f".{target.name}.pieces")
        return On(where, workers, None if journal is None else journal.absolute())

    def check(self, data: Path) -> None:
        """Raise :class:`UsageError` where workers would have to read all of ``data`` for a part of it."""
        name = self.where.name if isinstance(self.where, Place) else self.where
        if name not in (None, "local") and data.is_file() and zipfile.is_zipfile(data):
            raise UsageError(
                f"{data}: workers of {name} cannot read a part of an .npz; save x and y as a folder of .npy, or as HDF5"
            )

    def run(
        self,
        function: Callable[[Any], Any],
        tasks: Sequence[Any],
        done: Callable[[int], None],
        devices: Sequence[str] = (),
    ) -> list[Any]:
        """Results of all; ``done`` is told how many are."""

        def valid(result: Any) -> bool:
            return result.get("file") is None or Path(result["file"]).is_file()

        return run(
            function,
            tasks,
            self.where,
            workers=self.workers,
            journal=self.journal,
            progress=lambda count, total: done(count),
            devices=devices,
            valid=valid,
        )

    def finished(self) -> None:
        """Remove the journal: what it was kept for has been written."""
        if self.journal is not None:
            for piece in self.journal.glob("*.npz"):
                piece.unlink(missing_ok=True)
            Journal(self.journal).clear()


def _counted(samples: int | None, data: Data) -> int:
    return len(data) if samples is None else min(samples, len(data))


# simulate


@dataclass(frozen=True)
class SimulateShard:
    """Samples ``first`` to ``last`` (without it) to simulate.

    Attributes:
        total: samples of all shards.
        spikes, states: layers to record.
        folder: where results of each sample go; None: nowhere.
        device: of the dense simulator.
    """

    source: Source
    first: int
    last: int
    total: int
    backend: str
    spikes: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    folder: str | None = None
    device: str | None = None


def simulate_shard(task: SimulateShard) -> dict[str, Any]:
    """Counts of a shard; what is kept of its samples is in an ``.npz``, whole or not at all."""
    net, data = task.source.opened()
    record = Record.of(task.spikes, task.states)
    backend = task.backend if task.backend != "auto" else _faster(task.source, record, task.total)
    options: dict[str, Any] = {} if task.device is None else {"device": task.device}
    part = simulate_part(net, data, task.first, task.last, backend, record, keep=task.folder is not None, **options)
    file = None
    if task.folder is not None:
        name = hashlib.sha256(repr(task).encode()).hexdigest()[:16]
        file = Path(task.folder) / f"{task.first}-{task.last}-{name}.npz"
        with whole_file(file, True, PATIENCE) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **part.arrays)
            stream.flush()
            os.fsync(stream.fileno())
    counts = {name: getattr(part, name) for name in _COUNTS}
    nodes = [[level, node.hex()] for level, node in part.nodes]
    return {**counts, "nodes": nodes, "rest": part.rest and part.rest.hex(), "file": file and str(file)}


_COUNTS = (
    "samples",
    "backend",
    "correct",
    "spikes_per_step",
    "operations_per_step",
    "seconds",
    "overhead_seconds",
)


@functools.lru_cache(maxsize=2)
def _faster(source: Source, record: Record, total: int) -> str:
    """Which simulator is faster here, once for each process."""
    net, data = source.opened()
    return faster_backend(net, encode(net, data.read(0, min(_TRIAL, total))[0]), "isolated", record, samples=total)


def _part(result: dict[str, Any]) -> Part:
    """What a shard has left.

    Raises:
        EnvironmentFailure: its file is damaged.
    """
    arrays: dict[str, Array] = {}
    if result["file"] is not None:
        file = Path(result["file"])
        try:
            arrays = read_npz(file)
        except InputError as error:
            with contextlib.suppress(OSError):
                file.unlink()
            raise EnvironmentFailure(f"{error}; the same command makes it anew") from error
    nodes = tuple((level, bytes.fromhex(node)) for level, node in result["nodes"])
    rest = None if result["rest"] is None else bytes.fromhex(result["rest"])
    return Part(arrays=arrays, nodes=nodes, rest=rest, **{name: result[name] for name in _COUNTS})


def simulate_shards(
    net: Path,
    data: Path,
    on: On,
    backend: str = "event",
    record: Record | None = None,
    *,
    samples: int | None = None,
    target: Path | None = None,
    force: bool = False,
    device: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """:func:`snn2chip.long_runs.simulate_data` on a cluster, isolated samples: the same files and numbers.

    Args:
        net, data: files that all workers see under these paths.
        device: of the dense simulator: ``cuda`` gives each worker of ``local`` one GPU, in turn.

    Returns:
        ``seconds`` is how long the shards took, all workers together, ``overhead_seconds`` all the rest.

    Raises:
        UsageError: the target holds an unfinished run of one process, or is not empty.
        EnvironmentFailure: a worker, the scheduler or the disk failed; the same call continues.
    """
    on.check(data)
    source, record, tell = Source.of(net, data), record or Record(), progress or (lambda what, done, total: None)
    network, opened = source.opened()
    check_fits(network, opened)
    if target is not None and _unfinished(target) and not force and not (on.journal and on.journal.is_dir()):
        raise UsageError(
            f"{target}: holds an unfinished run of one process; continue it without --cluster, or --force starts anew"
        )
    kept = _kept_bytes(network, record) if target is not None else 0
    devices = cuda_devices() if device == "cuda" else ()
    marks: list[float] = []

    def parts(total: int) -> Iterator[Part]:
        size = shard_size(total, kept)
        folder = None if target is None or on.journal is None else str(on.journal)
        spikes, states = tuple(sorted(record.spikes)), tuple(sorted(record.states))
        tasks = [
            SimulateShard(source, low, high, total, backend, spikes, states, folder, device)
            for low, high in ranges(total, size)
        ]

        def done(count: int) -> None:
            marks.append(time.perf_counter())
            tell("simulating", min(count * size, total), total)

        yield from map(_part, on.run(simulate_shard, tasks, done, devices))

    began = time.perf_counter()
    outcome = simulate_data(
        network,
        opened,
        backend,
        record=record,
        samples=samples,
        target=target,
        force=force,
        progress=progress,
        parts=parts,
    )
    on.finished()
    seconds = marks[-1] - marks[0]
    return replace(outcome, seconds=seconds, overhead_seconds=time.perf_counter() - began - seconds)


def _unfinished(target: Path) -> bool:
    try:
        content = json.loads((target / "run.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("finished") is False


def _kept_bytes(net: ChipNet, record: Record) -> int:
    sizes = {layer.name: int(np.prod(layer.shape)) for layer in net.layers}
    spikes, states = (sum(sizes.get(name, 0) for name in names) for names in (record.spikes, record.states))
    return 8 * (1 + net.classes) + net.window * (4 * spikes + 8 * states)


# simulate --exit


@dataclass(frozen=True)
class ExitShard:
    """Samples ``first`` to ``last`` (without it) to decide early."""

    source: Source
    first: int
    last: int
    level: Level
    backend: str


_MEANS = ("accuracy", "accuracy_full", "computed_steps", "seconds", "overhead_seconds")


def exit_shard(task: ExitShard) -> dict[str, Any]:
    """Decisions of a shard, and means."""
    net, data = task.source.opened()
    run = simulate_exit_data(net, part_of(data, task.first, task.last), task.level, task.backend)
    return {"decisions": vars(run.decisions), **{name: getattr(run, name) for name in _MEANS}}


def simulate_exit_shards(
    net: Path,
    data: Path,
    on: On,
    level: Level = "decision",
    backend: str = "event",
    *,
    samples: int | None = None,
    progress: Progress | None = None,
) -> ExitRun:
    """:func:`snn2chip.early_exit.simulate_exit_data` on a cluster: the same decisions and means."""
    on.check(data)
    source = Source.of(net, data)
    network, opened = source.opened()
    total = _counted(samples, opened)
    size = shard_size(total)
    tasks = [ExitShard(source, low, high, level, backend) for low, high in ranges(total, size)]
    found = on.run(exit_shard, tasks, _told(progress, size, total))
    on.finished()
    runs = []
    for result in found:
        decisions = Decisions(**result["decisions"])
        runs.append(ExitRun(level, decisions, latency(network, decisions), **{name: result[name] for name in _MEANS}))
    return joined_runs(network, runs)


def _told(progress: Progress | None, size: int, total: int) -> Callable[[int], None]:
    tell = progress or (lambda what, done, total: None)
    return lambda count: tell("simulating", min(count * size, total), total)


# verify


@dataclass(frozen=True)
class VerifyShard:
    """Samples ``first`` to ``last`` (without it) to compare.

    Attributes:
        early: also prove the early exit.
        timeout: seconds that Lava may take for these samples.
    """

    source: Source
    first: int
    last: int
    against: str
    backend: str
    early: bool = False
    timeout: float | None = None


def verify_shard(task: VerifyShard) -> dict[str, Any]:
    """Differences of a shard. It runs with the sample before it, which may explain one."""
    net, data = task.source.opened()
    skip = min(task.first, 1)
    x, _ = data.read(task.first - skip, task.last)
    options: dict[str, Any] = {} if task.timeout is None else {"timeout": task.timeout}
    if task.against == "lava":
        options["jobs"] = 1  # the shards are the jobs
    result = verify(net, x, task.against, task.backend, skip=skip, **options)
    first = None
    if result.first is not None:
        first = vars(replace(result.first, sample=result.first.sample + task.first - skip))
    proof = None
    if task.early:
        proof = asdict(verify_exit(net, x[skip:], task.against == "lava", task.timeout or 3600.0))
    return {
        "samples": result.samples,
        "spikes": result.differing_spikes,
        "states": result.differing_states,
        "first": first,
        "seconds": [result.expected.seconds, result.expected.overhead_seconds],
        "proof": proof,
    }


def verify_shards(
    net: Path,
    data: Path,
    on: On,
    against: str = "lava",
    backend: str = "event",
    *,
    samples: int | None = None,
    early: bool = False,
    timeout: float | None = None,
    progress: Progress | None = None,
) -> tuple[Verification, ExitProof | None]:
    """:func:`snn2chip.verification.verify` on a cluster, and :func:`~snn2chip.early_exit.verify_exit` with ``early``.

    Returns:
        What one process finds, the same first difference among it; of ``expected`` the seconds alone.
    """
    on.check(data)
    source = Source.of(net, data)
    network, opened = source.opened()
    check_fits(network, opened)
    total = _counted(samples, opened)
    size = shard_size(total, _kept_bytes(network, Record.everything(network)))
    tasks = [VerifyShard(source, low, high, against, backend, early, timeout) for low, high in ranges(total, size)]
    found = on.run(verify_shard, tasks, _told(progress, size, total))
    on.finished()
    names = [layer.name for layer in network.layers]
    firsts = [Divergence(**{**one["first"], "neuron": tuple(one["first"]["neuron"])}) for one in found if one["first"]]
    result = Verification(
        sum(one["samples"] for one in found),
        len(names),
        {name: sum(one["spikes"][name] for one in found) for name in names},
        {name: sum(one["states"][name] for one in found) for name in names},
        min(firsts, key=lambda first: (names.index(first.layer), first.step, first.sample), default=None),
        Traces({}, {}, {}, {}, {}, *(sum(one["seconds"][i] for one in found) for i in range(2))),
    )
    return result, _proof([one["proof"] for one in found]) if early else None


def _proof(parts: Sequence[dict[str, Any]]) -> ExitProof:
    values: dict[str, list[Any]] = {name: [part[name] for part in parts] for name in parts[0]}
    sums: dict[str, Any] = {name: None if None in each else sum(each) for name, each in values.items()}
    return ExitProof(**sums)


# cutoff


@dataclass(frozen=True)
class ObserveShard:
    """Samples ``first`` to ``last`` (without it) to see with an early exit.

    Attributes:
        policy, form, thresholds, levels: of the circuit that the network gets, or (form ``host``) of the rule.
        circuit: digest of the network with it.
    """

    source: Source
    first: int
    last: int
    policy: Any
    form: Any
    thresholds: tuple[int, ...]
    levels: int
    circuit: str


def observe_shard(task: ObserveShard) -> dict[str, Any]:
    """Evidence and activity of a shard."""
    net, data = task.source.opened()
    if task.form == "host":
        net = with_host_rule(detach(net), task.policy, task.thresholds)
    else:
        net = attach(detach(net), task.policy, task.thresholds, task.form, levels=task.levels)
    if digest(net) != task.circuit:
        raise EnvironmentFailure("a worker makes another circuit of the same network; install the same there as here")
    x, y = data.read(task.first, task.last)
    if y is None:
        raise InputError(f"{task.source.data}: no classes y; they are needed to measure the drop")
    seen = observe(net, x, y)
    return {
        "lead": [seen.lead.label, seen.lead.strength],
        "exact": [seen.exact.label, seen.exact.strength],
        "full": seen.full,
        "scores": seen.scores,
        "spikes": dict(seen.activity.spikes),
        "operations": dict(seen.activity.operations),
    }


@contextlib.contextmanager
def observing_shards(
    net: Path, data: Path, on: On, *, samples: int | None = None, progress: Progress | None = None
) -> Iterator[Callable[[ChipNet, Array, Array, int], Samples]]:
    """:func:`snn2chip.early_exit.calibration.observe` on a cluster, for :func:`~snn2chip.early_exit.calibrate`.

    Yields:
        What looks at the classes that it is given alone: workers read the samples. The journal stays until
        :meth:`On.finished`, but for a calibration that ends without a threshold.
    """
    on.check(data)
    source = Source.of(net, data)
    total = _counted(samples, source.opened()[1])
    size = shard_size(total)
    standing = connect(on.where, on.workers) if isinstance(on.where, str) else contextlib.nullcontext(on.where)
    with standing as place:
        there = replace(on, where=place, workers=None)

        def see(net: ChipNet, x: Array, y: Array, threads: int) -> Samples:
            rule = net.exit
            assert rule is not None
            levels = rule.scale[0] if net.readout.kind == "potential" and rule.form != "host" else LEVELS
            circuit = digest(net)
            tasks = [
                ObserveShard(source, low, high, rule.policy, rule.form, rule.thresholds, levels, circuit)
                for low, high in ranges(total, size)
            ]
            return _seen(net, y, there.run(observe_shard, tasks, _told(progress, size, total)))

        try:
            yield see
        except CheckFailed:
            on.finished()
            raise


def _seen(net: ChipNet, y: Array, found: Sequence[dict[str, Any]]) -> Samples:
    def joined(*path: Any) -> Array:
        return np.concatenate([functools.reduce(lambda part, key: part[key], path, one) for one in found])

    spikes, operations = ({name: joined(kind, name) for name in found[0][kind]} for kind in ("spikes", "operations"))
    return Samples(
        net,
        Lead(joined("lead", 0), joined("lead", 1)),
        Lead(joined("exact", 0), joined("exact", 1)),
        joined("full"),
        joined("scores"),
        y.astype(np.int64),
        Activity(spikes, operations, {}, {}),
    )
