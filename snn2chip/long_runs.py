"""Runs over data of any size: chunk by chunk, results written as they come, resumed where they were killed.

Results go to a folder of ``.npy`` files, described in ``docs/results.md``. ``run.json`` in it says how many samples are
done; it is replaced as a whole after what it speaks of is on the disk, so that a run that is killed at any moment goes
on from there, and ends with the same bytes as a run that was not. Nothing in the folder depends on how the samples were
cut into chunks, or on time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip._version import NEEDS, __version__, newer
from snn2chip.archive import shown
from snn2chip.chip import ChipNet
from snn2chip.data import MAX_BYTES, Data, Rows
from snn2chip.errors import EnvironmentFailure, InputError, UsageError
from snn2chip.files import check_absent, write_npz
from snn2chip.sample_tree import SampleTree
from snn2chip.simulation import Simulation, faster_backend, simulate
from snn2chip.traces import Mode, Record, encode

Array = npt.NDArray[Any]

_KIND, _VERSION = "snn2chip run", 1
FORMAT = f"{_KIND} {_VERSION}"
#: What one chunk may take, roughly: messages, their copies, and traces that are kept.
CHUNK_BYTES = 256 << 20
#: Where state passes from sample to sample, everything is one chunk.
ONE_CHUNK_BYTES = 4 << 30
FIRST_CHUNK = 64  # samples; the next ones are as long as the seconds below
CHUNK_SECONDS = 1.0
CHECKPOINT_SECONDS = 1.0
OVERHEAD_SHARE = 0.2  # longer chunks where starting the simulator takes more than this

#: Told what is done (``checking`` what an earlier run has done, or ``simulating``), and how many samples of all.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What a run over data came to.

    Attributes:
        backend: the simulator that ran last; ``auto`` only where an earlier run had done everything.
        samples: all of them, whichever run simulated them.
        resumed_at: samples that an earlier run had done.
        accuracy: share of predictions that are right; None without classes.
        spikes_per_step, operations_per_step: by layer, as in :class:`~snn2chip.traces.Traces`.
        seconds, overhead_seconds: of this run alone.
    """

    backend: str
    samples: int
    resumed_at: int
    accuracy: float | None
    spikes_per_step: dict[str, npt.NDArray[np.int64]]
    operations_per_step: dict[str, npt.NDArray[np.int64]]
    seconds: float
    overhead_seconds: float

    @property
    def spike_counts(self) -> dict[str, int]:
        """Spikes of each layer over all samples and steps."""
        return {name: int(counts.sum()) for name, counts in self.spikes_per_step.items()}

    @property
    def synaptic_operations(self) -> int:
        """Synapses that received a message, over all samples, layers and steps."""
        return sum(int(counts.sum()) for counts in self.operations_per_step.values())


def simulate_data(
    net: ChipNet,
    data: Data,
    backend: str = "event",
    mode: Mode = "isolated",
    record: Record | None = None,
    *,
    samples: int | None = None,
    target: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    parts: Callable[[int], Iterator[Part]] | None = None,
    **options: Any,
) -> Outcome:
    """Simulate ``net`` on data of any size in bounded memory.

    Args:
        data: see :func:`snn2chip.data.open_data`.
        mode: all but ``isolated`` run in one piece, which has to fit into memory.
        record: layers whose spikes and states to write.
        samples: only the first so many.
        target: where results go: an ``.npz`` file, written at the end and kept in memory until then, or a folder,
            written as they come. A folder with an unfinished run of the same network, data and settings is continued.
        force: overwrite the target.
        progress: called after each chunk.
        chunk_bytes: roughly what a chunk may take.
        parts: called with the number of samples, gives the results of all of them in order: others have simulated,
            here is only written. An unfinished run begins anew.
        options: passed on to the simulator; they change no result.

    Raises:
        InputError: the data do not fit the network, or are damaged.
        UsageError: the target exists, or holds an unfinished run of something else.
        EnvironmentFailure: the disk is full, say; the same call continues later.
        LavaError: Lava is missing, failed or timed out.
    """
    check_fits(net, data)
    if samples is not None and samples < 1:
        raise UsageError(f"samples: {samples}, expected at least 1")
    total = len(data) if samples is None else min(samples, len(data))
    record = record or Record()
    largest = _largest_chunk(net, data, record, mode, total, chunk_bytes)
    tell = progress or (lambda what, done, of: None)
    settings = {
        "network": digest(net),
        "data": {"shape": list(data.shape), "dtype": data.dtype.str, "classes": data.classes},
        "samples": total,
        "backend": backend,
        "mode": mode,
        "record": {"spikes": sorted(record.spikes), "states": sorted(record.states)},
        "version": __version__,
    }
    if parts is not None:
        with _sink(target, force, net, settings) as sink:
            return _joined(net, data, sink, total, parts(total), tell)
    size = largest if mode != "isolated" else min(FIRST_CHUNK, largest)
    with _sink(target, force, net, settings) as sink:
        resumed_at = _check_done(sink, data, largest, total, tell)
        if backend == "auto" and resumed_at < total:
            first = encode(net, data.read(0, min(FIRST_CHUNK, total))[0])
            backend = faster_backend(net, first, mode, record, samples=total, **options)
        seconds, overhead = _simulated(net, data, backend, mode, record, sink, total, size, largest, tell, options)
        sink.finish()
    return _outcome(backend, total, resumed_at, data, sink.tally, seconds, overhead)


def _simulated(
    net: ChipNet,
    data: Data,
    backend: str,
    mode: Mode,
    record: Record,
    sink: _Sink,
    total: int,
    size: int,
    largest: int,
    tell: Progress,
    options: Mapping[str, Any],
) -> tuple[float, float]:
    """What the sink does not have yet; seconds of the simulation and of the rest."""
    seconds, overhead, saved = 0.0, 0.0, time.monotonic()
    while (low := sink.tally.done) < total:
        began, high = time.perf_counter(), min(low + size, total)
        try:
            x, y = sink.read(data, low, high)
            result = simulate(net, x, y, backend, mode, record, **options)
        except InputError as error:
            raise InputError(f"{error} (in samples {low} to {high - 1})" if low else str(error)) from error
        sink.write(low, total, _arrays(net, result, record))
        traces, correct = result.traces, 0 if y is None else int((result.predictions == y).sum())
        sink.tally = sink.tally.plus(traces.spikes_per_step, traces.operations_per_step, correct, high, sink.sha256())
        size = _next_size(high - low, result, largest)
        seconds += traces.seconds
        overhead += time.perf_counter() - began - traces.seconds
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            sink.checkpoint()
            saved = time.monotonic()
        tell("simulating", high, total)
    return seconds, overhead


def _outcome(
    backend: str, total: int, resumed_at: int, data: Data, tally: _Tally, seconds: float, overhead: float
) -> Outcome:
    accuracy = tally.correct / total if data.classes else None
    return Outcome(backend, total, resumed_at, accuracy, tally.spikes, tally.operations, seconds, overhead)


@dataclass(frozen=True)
class Part:
    """Results of some samples, isolated.

    Attributes:
        samples: how many.
        backend: the simulator that ran.
        arrays: results by name, each ``[samples, ...]``, as they are written; none where nothing is.
        correct: right predictions.
        spikes_per_step, operations_per_step: ``[layers, W]``.
        nodes, rest: of the :class:`~snn2chip.sample_tree.SampleTree` over these samples.
        seconds, overhead_seconds: that they took.
    """

    samples: int
    backend: str
    arrays: Mapping[str, Array]
    correct: int
    spikes_per_step: npt.NDArray[np.int64]
    operations_per_step: npt.NDArray[np.int64]
    nodes: tuple[tuple[int, bytes], ...]
    rest: bytes | None
    seconds: float
    overhead_seconds: float


def simulate_part(
    net: ChipNet,
    data: Data,
    first: int,
    last: int,
    backend: str = "event",
    record: Record | None = None,
    *,
    keep: bool = True,
    chunk_bytes: int = CHUNK_BYTES,
    **options: Any,
) -> Part:
    """Simulate samples ``first`` to ``last`` (without it), isolated; what is kept is in memory.

    Args:
        first: a multiple of 16.
        keep: whether results of each sample are kept, or counts alone.
    """
    record = record or Record()
    largest = _largest_chunk(net, data, record, "isolated", last - first, chunk_bytes)
    sink: _Sink = _Arrays("", net, SampleTree(first)) if keep else _Sink("", net, SampleTree(first))

    def tell(what: str, done: int, total: int) -> None:
        pass

    own = part_of(data, first, last)
    seconds, overhead = _simulated(
        net, own, backend, "isolated", record, sink, last - first, largest, largest, tell, options
    )
    counts = sink.tally.per_step()
    return Part(
        last - first,
        backend,
        sink.arrays if isinstance(sink, _Arrays) else {},
        sink.tally.correct,
        counts["spikes_per_step"],
        counts["operations_per_step"],
        tuple(sink.tree.nodes),
        sink.tree.rest,
        seconds,
        overhead,
    )


def part_of(data: Data, first: int, last: int) -> Data:
    """Samples ``first`` to ``last`` (without it) as data of their own; reads none of them."""
    return replace(data, x=_Range(data.x, first, last), y=None if data.y is None else _Range(data.y, first, last))


@dataclass(frozen=True)
class _Range:
    """Rows from ``first`` to ``last``, without the latter."""

    rows: Rows
    first: int
    last: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.last - self.first, *self.rows.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.rows.dtype

    def read(self, first: int, last: int) -> Array:
        return self.rows.read(self.first + first, self.first + last)


def _joined(net: ChipNet, data: Data, sink: _Sink, total: int, parts: Iterator[Part], tell: Progress) -> Outcome:
    """Write what others have simulated."""
    sink.tally = _Tally.of(net)
    names, backends = list(sink.tally.spikes), set()
    seconds, overhead, saved = 0.0, 0.0, time.monotonic()
    for part in parts:
        low = sink.tally.done
        sink.write(low, total, part.arrays)
        sink.tree.join(list(part.nodes), part.rest)
        sink.tally = sink.tally.plus(
            dict(zip(names, part.spikes_per_step, strict=True)),
            dict(zip(names, part.operations_per_step, strict=True)),
            part.correct,
            low + part.samples,
            sink.sha256(),
        )
        backends.add(part.backend)
        seconds, overhead = seconds + part.seconds, overhead + part.overhead_seconds
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            sink.checkpoint()
            saved = time.monotonic()
        tell("writing", sink.tally.done, total)
    sink.finish()
    return _outcome(" and ".join(sorted(backends)), total, 0, data, sink.tally, seconds, overhead)


def check_fits(net: ChipNet, data: Data) -> None:
    """Raise :class:`InputError` unless samples of ``data`` have the shape that ``net`` takes; reads none of them."""
    known = data.shape[1:] in (net.input_shape, (net.time_steps, *net.input_shape))
    shape = (1, *data.shape[1:]) if known else data.shape
    encode(net, np.broadcast_to(np.zeros((), data.dtype), shape))


def digest(value: Any) -> str:
    """SHA-256 of a dataclass by content: every field, every array."""
    state = hashlib.sha256()

    def add(part: Any) -> None:
        if is_dataclass(part):
            state.update(f"<{type(part).__name__}".encode())
            for entry in fields(part):
                state.update(f" {entry.name}=".encode())
                add(getattr(part, entry.name))
        elif isinstance(part, np.ndarray):
            state.update(f"{part.dtype.str}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, tuple | list):
            state.update(f"({len(part)}".encode())
            for entry in part:
                add(entry)
        elif isinstance(part, Mapping):
            add(sorted(part.items()))
        else:
            state.update(f"{type(part).__name__} {part!r};".encode())

    add(value)
    return state.hexdigest()


def _largest_chunk(net: ChipNet, data: Data, record: Record, mode: Mode, total: int, chunk_bytes: int) -> int:
    """Samples that fit into a chunk."""
    sizes = {layer.name: math.prod(layer.shape) for layer in net.layers}
    kept = 4 * sum(sizes.get(name, 0) for name in record.spikes) + 8 * sum(sizes.get(name, 0) for name in record.states)
    given = math.prod(data.shape[1:]) * data.dtype.itemsize
    # Messages (analog ones pass through float64) and padded; spikes of every layer; what is kept, and a copy of it.
    message = 12 if net.encoding.kind == "spikes" else 36
    each = 3 * given + net.window * (message * math.prod(net.input_shape) + 4 * sum(sizes.values()) + 2 * kept)
    if mode == "isolated":
        return max(1, min(total, chunk_bytes // each))
    if total * each > ONE_CHUNK_BYTES:
        raise UsageError(
            f"mode {mode}: state passes from sample to sample, so that all run in one piece; at most "
            f"{max(1, ONE_CHUNK_BYTES // each)} of these samples fit, not {total}"
        )
    return total


def _next_size(size: int, result: Simulation, largest: int) -> int:
    """Samples of the next chunk: long enough to be worth starting the simulator, short enough to be seen to go on."""
    seconds = max(result.traces.seconds, 1e-9)
    wanted = max(CHUNK_SECONDS, result.traces.overhead_seconds / OVERHEAD_SHARE)
    return max(1, min(largest, 8 * size, int(size * wanted / seconds)))


def _check_done(sink: _Sink, data: Data, size: int, total: int, tell: Progress) -> int:
    """Read again what an earlier run has done, so that its results are known to come from these samples."""
    done = sink.tally.done
    for low in range(0, done, size):
        sink.read(data, low, min(low + size, done))
        tell("checking", min(low + size, done), total)
    if done and sink.sha256() != sink.tally.sha256:
        raise UsageError(
            f"{sink.name}: holds an unfinished run whose first {done} samples are not those of {data.name}; "
            "--force starts anew"
        )
    return done


def _arrays(net: ChipNet, result: Simulation, record: Record) -> dict[str, Array]:
    """Results by name, each ``[N, ...]``."""
    traces = result.traces
    arrays: dict[str, Array] = {"predictions": result.predictions, "scores": traces.scores(net)}
    for layer in net.layers:
        if layer.name in record.spikes:
            arrays[f"spikes/{layer.name}"] = traces.spikes[layer.name]
        if layer.name in record.states:
            arrays[f"u/{layer.name}"], arrays[f"v/{layer.name}"] = traces.u[layer.name], traces.v[layer.name]
    return arrays


@dataclass(frozen=True)
class _Tally:
    """How far a run is, and all that is summed over samples; replaced as a whole, so that an interruption between two
    statements leaves a true one.

    Attributes:
        done: samples whose results are written.
        correct: right predictions among them.
        sha256: of the ``x`` and ``y`` that they came from.
        spikes, operations: by layer, ``[W]``.
    """

    done: int
    correct: int
    sha256: str
    spikes: dict[str, npt.NDArray[np.int64]]
    operations: dict[str, npt.NDArray[np.int64]]

    @staticmethod
    def of(net: ChipNet) -> _Tally:
        """Of no samples."""
        nothing = {layer.name: np.zeros(net.window, np.int64) for layer in net.layers}
        return _Tally(0, 0, "", nothing, nothing)

    def plus(
        self, spikes: Mapping[str, Array], operations: Mapping[str, Array], correct: int, done: int, sha256: str
    ) -> _Tally:
        """With samples whose results are written."""
        return _Tally(
            done,
            self.correct + correct,
            sha256,
            {name: counts + spikes[name] for name, counts in self.spikes.items()},
            {name: counts + operations[name] for name, counts in self.operations.items()},
        )

    def per_step(self) -> dict[str, Array]:
        """Counts as arrays ``[layers, W]``."""
        return {
            "spikes_per_step": np.stack(list(self.spikes.values())),
            "operations_per_step": np.stack(list(self.operations.values())),
        }

    def as_json(self) -> dict[str, Any]:
        """For ``run.json`` while the run is not finished."""
        counts = {name: array.tolist() for name, array in self.per_step().items()}
        return {"samples_done": self.done, "correct": self.correct, "sha256": self.sha256, **counts}

    def restored(self, content: Any) -> _Tally:
        """The inverse of :meth:`as_json`, for the same layers; raises what malformed content gives."""

        def counts(mine: dict[str, npt.NDArray[np.int64]], rows: Any) -> dict[str, npt.NDArray[np.int64]]:
            table = np.array(rows)
            if table.dtype.kind != "i" or table.shape != (len(mine), *next(iter(mine.values())).shape):
                raise ValueError("counts per step")
            return dict(zip(mine, table.astype(np.int64), strict=True))

        done, correct, sha256 = content["samples_done"], content["correct"], content["sha256"]
        if not (
            isinstance(done, int) and isinstance(correct, int) and isinstance(sha256, str) and 0 <= correct <= done
        ):
            raise ValueError("samples_done")
        spikes = counts(self.spikes, content["spikes_per_step"])
        return _Tally(done, correct, sha256, spikes, counts(self.operations, content["operations_per_step"]))


class _Sink:
    """Where results go; here: nowhere."""

    def __init__(self, name: str, net: ChipNet, tree: SampleTree | None = None) -> None:
        self.name, self.tally = name, _Tally.of(net)
        self.tree = tree or SampleTree()

    def __enter__(self) -> _Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        pass

    def read(self, data: Data, first: int, last: int) -> tuple[Array, Array | None]:
        """Samples, in order."""
        return data.read(first, last)

    def sha256(self) -> str:
        """Of what was read so far, where that is part of the results."""
        return ""

    def write(self, first: int, total: int, arrays: Mapping[str, Array]) -> None:
        """Results of samples from ``first`` on, of ``total``."""

    def checkpoint(self) -> None:
        """What the tally says is done survives from here on."""

    def finish(self) -> None:
        """All samples are done."""


class _Arrays(_Sink):
    """Memory; what was read becomes part of the tree."""

    def __init__(self, name: str, net: ChipNet, tree: SampleTree | None = None) -> None:
        super().__init__(name, net, tree)
        self.arrays: dict[str, Array] = {}

    def read(self, data: Data, first: int, last: int) -> tuple[Array, Array | None]:
        """Samples, in order."""
        x, y = data.read(first, last)
        self.tree.add(x, y)
        return x, y

    def write(self, first: int, total: int, arrays: Mapping[str, Array]) -> None:
        """Keep them."""
        if not self.arrays:
            size = sum(array.nbytes // len(array) * total for array in arrays.values())
            if size > MAX_BYTES:
                raise UsageError(f"{self.name}: {size} bytes of results do not fit; write to a folder: -o out/")
            self.arrays = {name: np.empty((total, *array.shape[1:]), array.dtype) for name, array in arrays.items()}
        for name, array in arrays.items():
            self.arrays[name][first : first + len(array)] = array


class _Npz(_Arrays):
    """An ``.npz`` file, in memory until the run is finished."""

    def __init__(self, path: Path, force: bool, net: ChipNet) -> None:
        super().__init__(str(path), net)
        check_absent(path, force)
        self.path, self.force = path, force

    def read(self, data: Data, first: int, last: int) -> tuple[Array, Array | None]:
        """Samples, in order."""
        return data.read(first, last)

    def finish(self) -> None:
        """Write the file, whole."""
        layers = {"layers": np.array(list(self.tally.spikes))}
        write_npz(self.path, {**self.arrays, **self.tally.per_step(), **layers}, self.force)


class _Folder(_Sink):
    """``run.json`` and one ``.npy`` for each array, all of its final length from the first chunk on."""

    def __init__(self, path: Path, force: bool, net: ChipNet, settings: dict[str, Any]) -> None:
        super().__init__(str(path), net)
        self.path, self.settings = path, settings
        self.layers = {layer.name: k for k, layer in enumerate(net.layers)}
        self.files: dict[str, int] = {}
        with _disk(path):
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UsageError(f"{path}: exists already and is not a folder")
            self.made = not path.exists()
            path.mkdir(exist_ok=True)
            self.lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._begin(force)
        except BaseException:
            self._close()
            raise

    def _begin(self, force: bool) -> None:
        with _disk(self.path):
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.path}: another run is writing there") from None
            found = self._load()
            if found is None:
                strange = [entry.name for entry in self.path.iterdir() if entry.name != _PART]
                if strange:
                    raise UsageError(f"{self.path}: exists already and is no folder of results; take another")
            elif force:
                self._remove()
            elif found.get("finished"):
                raise UsageError(f"{self.path}: exists already; --force overwrites it")
            else:
                self._continue(found)
                return
            self._save(False)

    def _load(self) -> dict[str, Any] | None:
        """``run.json``, if it is one of ours."""
        try:
            with os.fdopen(os.open(self.path / _RUN, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
                content = json.loads(file.read(_RUN_BYTES))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(content, dict):
            return None
        found = re.fullmatch(rf"{_KIND} (\d{{1,6}})", str(content.get("format")))
        if found is not None and int(found[1]) > _VERSION:
            raise InputError(f"{self.path / _RUN}: {newer(int(found[1]), _VERSION, content.get('needs'))}")
        return content if content.get("format") == FORMAT else None

    def _continue(self, found: dict[str, Any]) -> None:
        settings = found.get("settings")
        was: dict[str, Any] = settings if isinstance(settings, dict) else {}
        for name, mine in self.settings.items():
            if was.get(name) != mine:
                raise UsageError(
                    f"{self.path}: holds an unfinished run with another {name} "
                    f"({_short(was.get(name))}, now {_short(mine)}); --force starts anew"
                )
        try:
            self.tally = self.tally.restored(found["unfinished"])
            if self.tally.done > self.settings["samples"]:
                raise ValueError("samples_done")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{self.path / _RUN}: damaged ({error}); --force starts anew") from error

    def _close(self) -> None:
        for handle in (*self.files.values(), self.lock):
            with contextlib.suppress(OSError):
                os.close(handle)
        self.files = {}

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Keep what is done, or nothing where nothing is."""
        try:
            if kind is not None and self.tally.done == 0:
                with contextlib.suppress(OSError):
                    self._remove()
                    if self.made:
                        self.path.rmdir()
            elif kind is not None:
                with contextlib.suppress(EnvironmentFailure):
                    self.checkpoint()
        finally:
            self._close()

    def read(self, data: Data, first: int, last: int) -> tuple[Array, Array | None]:
        """Samples, in order: what they contained is part of the run."""
        x, y = data.read(first, last)
        self.tree.add(x, y)
        return x, y

    def sha256(self) -> str:
        """Of x and y that were read so far."""
        return self.tree.sha256()

    def write(self, first: int, total: int, arrays: Mapping[str, Array]) -> None:
        """Into the files, at their place."""
        with _disk(self.path):
            if not self.files:
                self._open({name: (array.dtype, (total, *array.shape[1:])) for name, array in arrays.items()})
            for name, array in arrays.items():
                header = len(_header(array.dtype, (total, *array.shape[1:])))
                _write_at(self.files[name], np.ascontiguousarray(array), header + first * (array.nbytes // len(array)))

    def _file(self, name: str) -> str:
        """Layers go by number: their names can be anything."""
        kind, _, layer = name.partition("/")
        return f"layer{self.layers[layer]}-{kind}.npy" if layer else f"{kind}.npy"

    def _open(self, wanted: dict[str, tuple[np.dtype[Any], tuple[int, ...]]]) -> None:
        sizes = {}
        for name, (dtype, shape) in wanted.items():
            file = self.path / self._file(name)
            header = _header(dtype, shape)
            flags = os.O_RDWR | os.O_NOFOLLOW | (0 if self.tally.done else os.O_CREAT | os.O_TRUNC)
            try:
                self.files[name] = os.open(file, flags, 0o666)
            except FileNotFoundError:
                raise InputError(f"{file}: is missing; --force starts anew") from None
            sizes[name] = len(header) + math.prod(shape) * dtype.itemsize
            if not self.tally.done:
                _write_at(self.files[name], np.frombuffer(header, np.uint8), 0)
                os.ftruncate(self.files[name], sizes[name])
            elif os.pread(self.files[name], len(header), 0) != header or file.stat().st_size != sizes[name]:
                raise InputError(f"{file}: not what the unfinished run wrote; --force starts anew")
        space = shutil.disk_usage(self.path).free
        needed = sum(max(0, sizes[name] - 512 * os.fstat(handle).st_blocks) for name, handle in self.files.items())
        if needed > space:
            raise OSError(errno.ENOSPC, f"{needed >> 20} MiB needed, {space >> 20} MiB free")

    def checkpoint(self) -> None:
        """First the results, then ``run.json`` that speaks of them."""
        with _disk(self.path):
            for handle in self.files.values():
                os.fsync(handle)
            self._save(False)

    def finish(self) -> None:
        """Write what is known at the end only."""
        with _disk(self.path):
            for name, array in self.tally.per_step().items():
                handle = os.open(
                    self.path / self._file(name), os.O_RDWR | os.O_NOFOLLOW | os.O_CREAT | os.O_TRUNC, 0o666
                )
                self.files[name] = handle
                header = np.frombuffer(_header(array.dtype, array.shape), np.uint8)
                _write_at(handle, header, 0)
                _write_at(handle, array, len(header))
            for handle in self.files.values():
                os.fsync(handle)
            self._save(True)

    def _save(self, finished: bool) -> None:
        tally = self.tally
        content: dict[str, Any] = {"format": FORMAT, "needs": NEEDS, "finished": finished, "settings": self.settings}
        content["layers"] = list(self.layers)
        if finished:
            kinds = [f"spikes/{name}" for name in self.settings["record"]["spikes"]]
            kinds += [f"{kind}/{name}" for name in self.settings["record"]["states"] for kind in "uv"]
            names = ["predictions", "scores", *tally.per_step(), *kinds]
            content["files"] = {name: self._file(name) for name in names}
            content["sha256"] = tally.sha256
            content["accuracy"] = tally.correct / tally.done if self.settings["data"]["classes"] else None
            content["spikes"] = {name: int(counts.sum()) for name, counts in tally.spikes.items()}
            content["synaptic_operations"] = sum(int(counts.sum()) for counts in tally.operations.values())
        else:
            content["unfinished"] = tally.as_json()
        part = self.path / _PART
        with part.open("w") as file:
            json.dump(content, file, indent=None if not finished else 1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / _RUN)
        os.fsync(self.lock)  # the folder: its new entries

    def _remove(self) -> None:
        """Everything that a run writes and nothing else, ``run.json`` last."""
        for entry in list(self.path.iterdir()):
            if _OURS.fullmatch(entry.name):
                entry.unlink()
        (self.path / _RUN).unlink(missing_ok=True)


_RUN, _PART = "run.json", ".run.json.part"
_RUN_BYTES = 1 << 28
_OURS = re.compile(
    r"(predictions|scores|spikes_per_step|operations_per_step|layer\d+-(spikes|u|v))\.npy|\.run\.json\.part"
)


def _sink(target: str | os.PathLike[str] | None, force: bool, net: ChipNet, settings: dict[str, Any]) -> _Sink:
    if target is None:
        return _Sink("", net)
    path = Path(target)
    return _Npz(path, force, net) if path.suffix == ".npz" else _Folder(path, force, net, settings)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailure(f"{path}: cannot be written ({error.strerror or error})") from error


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """The header of an ``.npy`` file."""
    buffer = io.BytesIO()
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, description)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _write_at(handle: int, array: Array, offset: int) -> None:
    """All bytes of ``array``. Not through a map, where a full disk would end the process."""
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(handle, rest, offset)
        rest, offset = rest[written:], offset + written


def _short(value: Any) -> str:
    text = shown(value if isinstance(value, str) else json.dumps(value), 61)
    return text if len(text) <= 60 else text[:12]
