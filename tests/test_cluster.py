"""Work in pieces: the same results wherever and by how many it is done, whoever is killed meanwhile."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner
from cluster_tasks import Job, square, starts, variables
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import snn2chip as s2c
from snn2chip import long_runs, verification
from snn2chip.chip import ChipNet, Dense, Neuron, Readout
from snn2chip.cli import cli
from snn2chip.cluster import Place, connect, journal, places, run, shards
from snn2chip.data import open_data
from snn2chip.early_exit import attach
from snn2chip.errors import EnvironmentFailure, InputError, LimitError, UsageError
from snn2chip.sample_tree import LEAF, SampleTree

psutil = pytest.importorskip("psutil")
pytest.importorskip("distributed")

HANG = 300  # seconds; whatever takes longer has failed
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two workers for all tests that leave them alive."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(TESTS))
        with connect("local", 2) as place:
            yield place


def jobs(folder: Path, **special: Job) -> list[Job]:
    """Six of them; ``_2=...`` replaces the third."""
    folder.mkdir(exist_ok=True)
    return [special.get(f"_{i}", Job(i, folder)) for i in range(6)]


def shown(results: list[Any]) -> list[Any]:
    return [{**result, "row": result["row"].tolist()} for result in results]


def squares(numbers: range = range(6)) -> list[Any]:
    return [{"square": i * i, "row": list(range(i)), "pair": [i, i / 3]} for i in numbers]


# Tasks


def test_results_are_in_order_and_the_same_everywhere(tmp_path: Path, local: Place) -> None:
    calls: list[tuple[int, int]] = []
    tasks = [*jobs(tmp_path / "m"), Job(2, tmp_path / "m")]  # one of them twice
    for where in (None, local):
        calls.clear()
        found = run(square, tasks, where, progress=lambda *call: calls.append(call))
        assert shown(found) == [*squares(), squares()[2]]
        assert found[2]["row"].dtype == np.arange(2).dtype
        assert calls == [(i, 6) for i in range(7)]
    assert set(starts(tmp_path / "m").values()) == {2}


def test_a_killed_worker_is_replaced(tmp_path: Path, local: Place) -> None:
    tasks = jobs(tmp_path / "m", _2=Job(2, tmp_path / "m", kills=1))
    assert shown(run(square, tasks, local)) == squares()
    assert starts(tmp_path / "m")[2] > 1


def test_a_task_that_ends_every_worker_is_named(tmp_path: Path, local: Place) -> None:
    tasks = jobs(tmp_path / "m", _2=Job(2, tmp_path / "m", kills=99))
    with pytest.raises(
        EnvironmentFailure, match=r"^square of Job\(number=2, .*: ended every worker that ran it"
    ) as end:
        run(square, tasks, local, journal=tmp_path / "j")
    assert "\n" not in str(end.value)
    assert 2 < starts(tmp_path / "m")[2] < 10
    tasks = jobs(tmp_path / "m", _2=Job(2, tmp_path / "m"))  # now it does not
    before = starts(tmp_path / "m")
    assert shown(run(square, tasks, None, journal=tmp_path / "j")) == squares()
    after = starts(tmp_path / "m")
    assert {i for i in after if after[i] > before[i]} <= {2, 3, 4, 5}  # those after it may not have been begun
    assert {0, 1} & {i for i in after if after[i] == before[i]} == {0, 1}


@pytest.mark.parametrize(
    ("failing", "kind", "message"),
    [
        ((3,), InputError, "task 3 has no input"),
        ((2, 3, 5), LimitError, "task 2: weight is 300, limit 127; take a smaller one"),
    ],
)
def test_the_first_error_in_order_is_raised(
    tmp_path: Path, local: Place, failing: tuple[int, ...], kind: type[Exception], message: str
) -> None:
    first = min(failing)
    slow = {f"_{i}": Job(i, tmp_path / "m", 0.3 if i == first else 0.0, fails=True) for i in failing}
    for where in (None, local):
        tasks = jobs(tmp_path / "m", **slow)
        with pytest.raises(kind) as end:
            run(square, tasks, where, journal=tmp_path / "j")
        assert str(end.value) == message
        assert len(list((tmp_path / "j").glob("*.task"))) >= first
    assert end.value.__dict__ == ({} if kind is InputError else {"layer": "task 2"})


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-3],
        lambda data: b"",
        lambda data: data[:80] + bytes([data[80] ^ 1]) + data[81:],
        lambda data: data.replace(b"square", b"cubic!"),
    ],
)
def test_a_damaged_entry_is_made_anew(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    tasks = jobs(tmp_path / "m")
    run(square, tasks, journal=tmp_path / "j")
    entries = sorted((tmp_path / "j").glob("*.task"))
    entries[0].write_bytes(damage(entries[0].read_bytes()))
    entries[1].replace(tmp_path / "j" / entries[2].name)  # the result of another task
    assert shown(run(square, tasks, journal=tmp_path / "j")) == squares()
    assert sorted(starts(tmp_path / "m").values()) == [1, 1, 1, 2, 2, 2]
    assert len(list((tmp_path / "j").iterdir())) == 6


def test_entries_whose_files_are_gone_do_not_count(tmp_path: Path) -> None:
    tasks = jobs(tmp_path / "m")
    for odd, again in ((lambda result: result["square"] % 2 == 1, 3), (lambda result: True, 0)):
        run(square, tasks, journal=tmp_path / "j")
        before = sum(starts(tmp_path / "m").values())
        run(square, tasks, journal=tmp_path / "j", valid=odd)
        assert sum(starts(tmp_path / "m").values()) == before + again


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | arrays.arrays(
        st.sampled_from([np.int8, np.uint64, np.float32, np.bool_]), arrays.array_shapes(min_dims=0, min_side=0)
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
def test_results_survive_the_journal(value: Any) -> None:
    def same(one: Any, other: Any) -> bool:
        if isinstance(one, np.ndarray):
            return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
        if isinstance(one, dict):
            return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(map(same, one, other))
        return type(one) is type(other) and one == other

    if "__array__" not in str(value):
        assert same(value, journal.from_bytes(journal.to_bytes(value)))


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, object(), np.array([None]), {"__array__": 1}])
def test_results_of_other_types_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="a task returned"):
        journal.to_bytes(value)


# Who is killed


def client(folder: Path, where: str, first: int) -> subprocess.Popen[str]:
    """A process that hears all signals and runs eight tasks; those after the first wait for ``gate`` in ``folder``.

    Temporary files go to ``folder``, too.
    """
    for name in ("tmp", "m"):
        (folder / name).mkdir(exist_ok=True)
    arguments = [where, str(folder / "m"), str(folder / "j"), str(first), str(folder / "gate")]
    return subprocess.Popen(
        [sys.executable, str(TESTS / "cluster_tasks.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(TESTS), "TMPDIR": str(folder / "tmp")},
    )


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + HANG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def entries(folder: Path) -> list[Path]:
    return list((folder / "j").glob("*.task"))


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[None]:
    """Whatever the test did, nothing is left of the process."""
    try:
        yield
    finally:
        for one in family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


def family(process: subprocess.Popen[str]) -> list[Any]:
    with contextlib.suppress(psutil.NoSuchProcess):
        own = psutil.Process(process.pid)
        return [own, *own.children(recursive=True)]
    return []


EIGHT = str(sum(i * i for i in range(8)))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGKILL, -signal.SIGKILL),
        (signal.SIGTERM, 128 + signal.SIGTERM),
        (signal.SIGINT, -signal.SIGINT),
    ],
)
def test_a_killed_client_continues_and_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    first = client(tmp_path, "local", 3)
    with ended(first):
        until(lambda: len(entries(tmp_path)) == 3 and len(starts(tmp_path / "m")) > 3)
        alive = family(first)
        # As a terminal does, Ctrl-C tells the workers as well.
        (os.killpg if number == signal.SIGINT else os.kill)(first.pid, number)
        _, error = first.communicate(timeout=HANG)
        assert first.returncode == code
        assert psutil.wait_procs(alive, HANG)[1] == []
    assert len(alive) > 2
    assert not re.search(
        r"^\S*distributed\S* - |^Task exception|^Future exception", error, re.MULTILINE
    )  # logs of dask
    assert error.endswith("KeyboardInterrupt\n") if number == signal.SIGINT else error == ""
    if number != signal.SIGKILL:
        assert list((tmp_path / "tmp").iterdir()) == []
        return
    begun = sum(starts(tmp_path / "m").values())
    assert len(entries(tmp_path)) == 3
    (tmp_path / "gate").touch()
    second = client(tmp_path, "local", 3)
    with ended(second):
        assert second.communicate(timeout=HANG) == (EIGHT + "\n", "")
    assert sum(starts(tmp_path / "m").values()) == begun + 8 - 3
    assert list((tmp_path / "tmp").iterdir()) == []  # not even what the first one left


class Dask:
    """A scheduler and one worker, started as a user does."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.file, self.folder, self.processes = folder / "scheduler.json", folder, []
        self.start("scheduler", "--port", "0", "--no-dashboard", "--interface", "lo")
        until(self.file.exists)
        self.start("worker", "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder), *options)

    def start(self, what: str, *options: str) -> None:
        self.processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + what, "--scheduler-file", str(self.file), *options],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": str(TESTS)},
            )
        )

    @property
    def address(self) -> str:
        return str(json.loads(self.file.read_text())["address"])

    def __enter__(self) -> Dask:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            with ended(process):
                pass


def test_a_killed_scheduler_ends_the_run_which_continues_at_another(tmp_path: Path) -> None:
    with Dask(tmp_path / "first") as first:
        killed = client(tmp_path, first.address, 2)
        with ended(killed):
            until(lambda: len(entries(tmp_path)) == 2 and len(starts(tmp_path / "m")) == 3)
            first.processes[0].kill()
            out, error = killed.communicate(timeout=HANG)
    assert (out, killed.returncode) == ("", 1)
    pattern = rf"error: {first.address}: the scheduler is gone; the same command continues: \d of 8 tasks are done\n"
    assert re.fullmatch(pattern, error)
    assert len(entries(tmp_path)) == 2
    (tmp_path / "gate").touch()
    with Dask(tmp_path / "second") as second:
        again = client(tmp_path, second.address, 2)
        with ended(again):
            assert again.communicate(timeout=HANG) == (EIGHT + "\n", "")
    assert sum(starts(tmp_path / "m").values()) == 3 + 8 - 2


def test_another_version_on_a_worker_is_an_error(tmp_path: Path) -> None:
    preload = tmp_path / "older.py"
    preload.write_text("import snn2chip._version\nsnn2chip._version.__version__ = snn2chip.__version__ = '0.0.1'\n")
    with Dask(tmp_path / "dask", "--preload", str(preload)) as dask:
        message = rf"a worker has snn2chip 0.0.1, not {s2c.__version__}; install the same there as here"
        with pytest.raises(EnvironmentFailure, match=message):
            run(square, jobs(tmp_path / "m"), dask.address)


# Places


def test_local_listens_to_this_machine_alone(local: Place) -> None:
    own = psutil.Process()
    opened = [c for one in (own, *own.children(recursive=True)) for c in one.net_connections("inet")]
    listening = {c.laddr.ip for c in opened if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    with contextlib.suppress(urllib.error.HTTPError):
        for port in {c.laddr.port for c in opened if c.status == "LISTEN"}:
            with contextlib.suppress(OSError, http.client.HTTPException):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=1)
                raise AssertionError("a dashboard")


def test_workers_have_one_thread_and_a_device_in_turn(tmp_path: Path, local: Place) -> None:
    assert [places.environment_of(i, ("0", "GPU-5"))["CUDA_VISIBLE_DEVICES"] for i in range(5)] == [
        "0",
        "GPU-5",
        "0",
        "GPU-5",
        "0",
    ]
    assert "CUDA_VISIBLE_DEVICES" not in places.environment_of(3)
    found = run(variables, jobs(tmp_path / "m"), local)
    assert {(one["NUMBA_NUM_THREADS"], one["OMP_NUM_THREADS"]) for one in found} == {("1", "1")}
    assert os.environ.get("NUMBA_NUM_THREADS") != "1"


def test_devices_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert shards.cuda_devices() == ("2", "5")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert shards.cuda_devices() == ()


@pytest.mark.parametrize(
    ("where", "workers", "kind", "message"),
    [
        ("lokal", None, UsageError, "--cluster lokal: expected local, tcp://host:port, tls://host:port or slurm"),
        ("tcp://127.0.0.1:9", 2, UsageError, "its workers are those that were started with it"),
        ("local", 0, UsageError, "expected at least 1"),
        (None, 2, UsageError, "needs --cluster"),
        ("slurm", 2, EnvironmentFailure, "no sbatch here"),
        ("tcp://127.0.0.1:9", None, EnvironmentFailure, "tcp://127.0.0.1:9: no dask scheduler answers"),
        ("tcp://:::", None, EnvironmentFailure, "no dask scheduler answers"),
    ],
)
def test_places_that_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, workers: int, kind: type[Exception], message: str
) -> None:
    monkeypatch.setattr(places, "CONNECT_SECONDS", 1)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(kind, match=re.escape(message)):
        run(square, jobs(tmp_path / "m"), where, workers=workers)


SLURM = {"cores": 4, "memory": "8GB", "queue": "loihi", "walltime": "02:00:00", "interface": "lo"}


def needs_jobqueue() -> None:
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed")
    places.check_place("slurm", 1)  # imports it, with the defaults of its configuration


def test_slurm_jobs_are_as_configured() -> None:
    import dask

    needs_jobqueue()
    with pytest.raises(UsageError, match=r"set jobqueue\.slurm\.cores and jobqueue\.slurm\.memory"):
        places.slurm_cluster([], None)
    prologue = {"job-script-prologue": ["module load cuda"]}
    settings = {"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **SLURM, **prologue}}
    with dask.config.set(settings), places.event_loop() as loop, places.slurm_cluster([], loop) as cluster:
        script, address = cluster.job_script(), cluster.scheduler_address
    assert address.startswith("tcp://127.0.0.1:")
    for line in ("#SBATCH -p loihi", "#SBATCH -t 02:00:00", "#SBATCH --cpus-per-task=4", "module load cuda"):
        assert line in script.splitlines()
    assert "export NUMBA_NUM_THREADS=1" in script
    for option in ("--nthreads 1", "--nworkers 4", "--no-dashboard", "--memory-limit 0"):
        assert option in script


#: As SLURM's, but that the job starts at once, here; its number is that of the process. The script is gone afterwards.
SBATCH = """#!/bin/sh
[ "$JOBS" = refused ] && echo "sbatch: error: Invalid account" >&2 && exit 1
script=$(cat "$1")
[ "$JOBS" = "end at once" ] && script="exit 1"
setsid sh -c "$script" > /dev/null 2>&1 &
echo "Submitted batch job $!"
"""
SQUEUE = """#!/bin/sh
for word; do case "$word" in --jobs=*) jobs=${word#--jobs=} ;; esac; done
kill -0 "$jobs" 2>/dev/null && echo "$jobs" && exit 0
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """SLURM's commands; afterwards no job is left."""
    needs_jobqueue()
    for name, script in (("sbatch", SBATCH), ("squeue", SQUEUE), ("scancel", "#!/bin/sh\nkill -- -$1\n")):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(TESTS))
    small = {**SLURM, "cores": 1, "local-directory": str(tmp_path)}
    for name, value in small.items():
        monkeypatch.setenv(f"DASK_JOBQUEUE__SLURM__{name.replace('-', '_')}", str(value))
    import dask

    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **small}}):
        yield monkeypatch
    until(lambda: not [one for one in psutil.process_iter(["cmdline"]) if named(one, tmp_path)])


@pytest.mark.parametrize(
    ("jobs_do", "message"),
    [
        ("run", None),
        ("refused", r"slurm: no job could be submitted .*Invalid account"),
        ("end at once", r"slurm: no worker for 2 s; .*slurm-\*\.out"),
    ],
)
def test_slurm_with_an_sbatch_that_runs_its_job_here(
    tmp_path: Path, queue: pytest.MonkeyPatch, jobs_do: str, message: str | None
) -> None:
    queue.setenv("JOBS", jobs_do)
    queue.setattr(places, "PATIENCE", 2.0)
    queue.setattr(places, "QUEUE_SECONDS", 1.0)
    if message is None:
        assert shown(run(square, jobs(tmp_path / "m"), "slurm")) == squares()
    else:
        with pytest.raises(EnvironmentFailure, match=message):
            run(square, jobs(tmp_path / "m"), "slurm")


@pytest.mark.usefixtures("queue")
def test_an_interrupted_client_cancels_its_slurm_jobs(tmp_path: Path) -> None:
    """dask_jobqueue takes Ctrl-C for itself when it is imported, and the process would end with 0."""
    process = client(tmp_path, "slurm", 2)
    with ended(process):
        until(lambda: len(entries(tmp_path)) == 2)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=HANG)
    assert (out, process.returncode) == ("", -signal.SIGINT)
    assert error.endswith("KeyboardInterrupt\n")


def named(process: Any, folder: Path) -> bool:
    return any(str(folder) in word for word in process.info["cmdline"] or ())


# Data sets in shards


def network(kind: str = "potential") -> ChipNet:
    rng = np.random.default_rng(0)
    hidden = Dense("a/b", (12,), rng.integers(-60, 90, (8, 12)), Neuron.of("a/b", 90, 2000, 300))
    threshold, decay = (131071, 0) if kind == "potential" else (60, 300)
    out = Dense("out", (8,), rng.integers(-100, 101, (4, 8)), Neuron.of("out", threshold, 4096, decay))
    return ChipNet((12,), (hidden, out), time_steps=5, readout=Readout(kind))


N = 101


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Networks and data; ``x`` is a folder."""
    folder = tmp_path_factory.mktemp("files")
    x = np.random.default_rng(1).integers(0, 2, (N, 5, 12)).astype(np.uint8)
    y = s2c.simulate(network(), x).predictions
    y[::9] = (y[::9] + 1) % 4
    for kind in ("potential", "count"):
        s2c.export(network(kind), folder / f"{kind}.net")
    s2c.export(attach(network(), "margin", 40), folder / "exit.net")
    (folder / "x").mkdir()
    for name, array in {"x": x, "y": y}.items():
        np.save(folder / "x" / f"{name}.npy", array)
    np.savez(folder / "x.npz", x=x, y=y)
    with h5py.File(folder / "x.h5", "w") as file:
        file["x"], file["y"] = x, y
    return folder


def command(*arguments: Any) -> tuple[int, dict[str, Any]]:
    """Exit code and what ``--json`` prints but for times and places."""
    result = CliRunner().invoke(cli, [*map(str, arguments), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    found = json.loads(result.stdout) if result.stdout else {"error": result.stderr}
    for name in ("seconds", "overhead_seconds", "samples_per_s", "cluster", "file", "backend"):
        found.pop(name, None)
    return result.exit_code, found


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (path.iterdir() if path.is_dir() else [path])}


@pytest.mark.parametrize("target", ["out", "out.npz"])
@pytest.mark.parametrize(("net", "data"), [("potential.net", "x"), ("count.net", "x.h5")])
def test_simulate_writes_the_same_bytes(
    tmp_path: Path, files: Path, local: Place, net: str, data: str, target: str
) -> None:
    what = ["simulate", files / net, files / data, "--backend", "event", "--record", "a/b"]
    there = ["--cluster", local.client.scheduler.address]
    results, written = [], []
    for name, options in (("one", []), ("many", there)):
        (tmp_path / name).mkdir()
        results.append(command(*what, "-o", tmp_path / name / target, *options))
        written.append(content(tmp_path / name / target))
        assert [path.name for path in (tmp_path / name).iterdir()] == [target]
    assert results[0] == results[1]
    assert results[0][0] == 0
    assert 0.5 < results[0][1]["accuracy"] < 1
    assert written[0] == written[1]


def test_simulate_by_workers_of_its_own(files: Path) -> None:
    what = ["simulate", files / "potential.net", files / "x.npz"]
    results = [command(*what, *options) for options in ([], ["--cluster", "local", "--workers", 2])]
    assert results[0] == results[1]
    assert results[0][0] == 0


@pytest.mark.parametrize(
    "what",
    [
        ["verify", "potential.net", "x", "--samples", 60, "--against", "reference"],
        ["verify", "exit.net", "x.h5", "--samples", 40, "--against", "reference", "--exit"],
        ["simulate", "exit.net", "x", "--exit"],
        ["simulate", "exit.net", "x", "--exit", "stopped", "--samples", 70],
        ["cutoff", "potential.net", "x", "--max-drop", 20],
        ["cutoff", "potential.net", "x", "--max-drop", 50, "--policy", "patience", "--policy", "threshold"],
        ["cutoff", "potential.net", "x", "--eps", 0.3, "--samples", 90],
        ["cutoff", "count.net", "x", "--max-latency", 7, "--form", "host"],
        ["cutoff", "potential.net", "x", "--max-drop", 0.001],
    ],
    ids=lambda what: " ".join(map(str, what)),
)
def test_commands_print_the_same(tmp_path: Path, files: Path, local: Place, what: list[Any]) -> None:
    arguments = [files / word if (files / str(word)).exists() else word for word in what]
    results, written = [], []
    for name, options in (("one", []), ("many", ["--cluster", local.client.scheduler.address])):
        (tmp_path / name).mkdir()
        target = tmp_path / name / "out.net"
        results.append(command(*arguments, *(["-o", target] if what[0] == "cutoff" else []), *options))
        written.append([content(path) for path in (tmp_path / name).iterdir()])
    assert results[0] == results[1]
    assert written[0] == written[1]
    assert results[0][0] == (1 if 0.001 in what else 0)
    assert len(written[0]) == (what[0] == "cutoff" and 0.001 not in what)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--streaming"], "--cluster: not with --streaming, where state passes from sample to sample"),
        (["--windowed"], "--cluster: not with --windowed"),
        (["--workers", 2], "its workers are those that were started with it"),
        (["--device", "cuda"], "--device cuda: needs --backend dense"),
    ],
)
def test_what_cannot_be_shared(files: Path, local: Place, options: list[Any], message: str) -> None:
    there = ["--cluster", local.client.scheduler.address]
    code, found = command("simulate", files / "potential.net", files / "x", *there, *options)
    assert (code, message in found["error"]) == (2, True)


def test_a_part_of_an_npz_is_for_local_alone(files: Path, local: Place) -> None:
    code, found = command("simulate", files / "count.net", files / "x.npz", "--cluster", "tcp://127.0.0.1:9")
    assert code == 2
    assert "cannot read a part of an .npz; save x and y as a folder of .npy, or as HDF5" in found["error"]


class Stopped(Exception):
    pass


def test_an_interrupted_run_goes_on_to_the_same_bytes(tmp_path: Path, files: Path, local: Place) -> None:
    net, data, target = files / "potential.net", files / "x", tmp_path / "out"
    simulate = functools.partial(shards.simulate_shards, net, data, backend="event", target=target)
    long_runs.simulate_data(s2c.read(net), open_data(data), target=tmp_path / "one")

    def stop(what: str, done: int, total: int) -> None:
        if done >= 48:
            raise Stopped

    with pytest.raises(Stopped):
        simulate(shards.On.of(local, None, None, target), progress=stop)
    pieces = tmp_path / ".out.pieces"
    assert 3 <= len(list(pieces.glob("*.npz"))) <= 7  # those that were under way end as well
    first, second = sorted(pieces.glob("*.npz"))[:2]
    first.unlink()
    second.write_bytes(second.read_bytes()[:-20])
    with pytest.raises(EnvironmentFailure, match="the same command makes it anew"):
        simulate(shards.On.of(local, None, None, target))
    outcome = simulate(shards.On.of(local, None, None, target))
    assert outcome.samples == N
    assert content(target) == content(tmp_path / "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "out"]


def test_an_unfinished_run_of_one_process_is_not_lost(tmp_path: Path, files: Path) -> None:
    net, data, target = files / "potential.net", files / "x", tmp_path / "out"

    def stop(what: str, done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        long_runs.simulate_data(s2c.read(net), open_data(data), "reference", target=target, progress=stop)
    with pytest.raises(UsageError, match="holds an unfinished run of one process; continue it without --cluster"):
        shards.simulate_shards(net, data, shards.On.of("local", None, None, target), "reference", target=target)


def test_files_must_not_change_meanwhile(tmp_path: Path, files: Path) -> None:
    shutil.copytree(files / "x", tmp_path / "x")
    shutil.copy(files / "count.net", tmp_path / "a.net")
    source = shards.Source.of(tmp_path / "a.net", tmp_path / "x")
    assert source.opened()[1].shape == (N, 5, 12)
    np.save(tmp_path / "x" / "y.npy", np.zeros(N, np.int32))
    shards._data.cache_clear()  # as in a worker that has not seen them
    with pytest.raises(InputError, match="x: has been changed since the run began"):
        source.opened()
    shutil.copy(files / "potential.net", tmp_path / "a.net")
    shards._network.cache_clear()
    with pytest.raises(InputError, match=r"a\.net: has been changed since the run began"):
        source.opened()


@pytest.mark.parametrize(
    "wrong", [{"a/b": [(70, 3)]}, {"a/b": [(16, 0), (60, 0)]}, {"a/b": [(50, 4)], "out": [(1, 0)]}]
)
def test_the_first_difference_is_that_of_one_process(
    files: Path, monkeypatch: pytest.MonkeyPatch, wrong: dict[str, list[tuple[int, int]]]
) -> None:
    x = open_data(files / "x").read()[0]
    usual = verification.simulate

    def faulty(net: ChipNet, part: Any, backend: str = "event", **options: Any) -> Any:
        result = usual(net, part, backend=backend, **options)
        if backend == "event":
            first = next(i for i in range(len(x)) if np.array_equal(x[i : i + len(part)], part))
            for layer, places in wrong.items():
                for sample, step in places:
                    if first <= sample < first + len(part):
                        result.traces.v[layer][sample - first, step, 2] += 64
        return result

    monkeypatch.setattr(verification, "simulate", faulty)
    net = s2c.read(files / "potential.net")
    expected = verification.verify(net, x, "reference")
    on = shards.On(None)
    found, proof = shards.verify_shards(files / "potential.net", files / "x", on, "reference", samples=N)
    assert proof is None
    assert expected.first is not None
    assert replace(found, expected=expected.expected) == expected


@given(st.lists(st.integers(0, 5), max_size=5), st.integers(0, 40), st.booleans())
def test_digests_of_parts_add_up(sizes: list[int], rest: int, classes: bool) -> None:
    total = LEAF * sum(sizes) + rest
    x = np.random.default_rng(total).integers(0, 256, (total, 3)).astype(np.uint8)
    y = np.arange(total) if classes else None
    whole, joined = SampleTree(), SampleTree()
    for low in range(0, total, 7):  # as chunks come
        whole.add(x[low : low + 7], None if y is None else y[low : low + 7])
    low = 0
    for size in (*(LEAF * size for size in sizes), rest):
        part = SampleTree(low)
        part.add(x[low : low + size], None if y is None else y[low : low + size])
        joined.join(part.nodes, part.rest)
        low += size
    assert joined.sha256() == whole.sha256()
    assert len(whole.nodes) <= max(1, total).bit_length()
    other = SampleTree()
    if total:
        x[total // 2, 1] ^= 1
    other.add(x, y)
    assert (other.sha256() == whole.sha256()) == (total == 0)


@pytest.mark.parametrize(
    ("samples", "kept", "size"),
    [
        (1, 0, 16),
        (100, 0, 16),
        (10_000, 0, 320),
        (10**8, 0, 16384),
        (10**9, 0, 61040),
        (10**9, 1 << 20, 256),
        (10**6, 1 << 30, 16),
    ],
)
def test_shards(samples: int, kept: int, size: int) -> None:
    assert shards.shard_size(samples, kept) == size
    ranges = shards.ranges(min(samples, 1000), size)
    assert [i for low, high in ranges for i in range(low, high)] == list(range(min(samples, 1000)))
