"""Runs over data of any size: equal to one call in memory, in bounded memory, and resumed where they were killed."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console

import snn2chip as s2c
from snn2chip import long_runs
from snn2chip.chip import ChipNet, Dense, Encoding, Neuron, Readout
from snn2chip.cli import cli, output, progress
from snn2chip.data import of_arrays
from snn2chip.errors import EnvironmentFailure, InputError, UsageError
from snn2chip.long_runs import check_fits, digest, simulate_data
from snn2chip.traces import Record

SMALL = {"backend": "reference", "chunk_bytes": 8_000}  # eight samples, or some more
RECORD = Record.of(["a/b"], ["out"])


def network(seed: int = 0, **settings: Any) -> ChipNet:
    def weights(*shape: int) -> Any:
        return np.random.default_rng(seed).integers(-100, 101, shape)

    hidden = Dense("a/b", (12,), weights(8, 12), Neuron.of("a/b", 90, 2000, 300))
    out = Dense("out", (8,), weights(4, 8), Neuron.of("out", 60, 2000, 300))
    return ChipNet((12,), (hidden, out), time_steps=3, **settings)


X = np.random.default_rng(1).integers(0, 2, (101, 3, 12)).astype(np.uint8)
Y = np.arange(101) % 4


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def always_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_runs, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setattr(long_runs, "FIRST_CHUNK", 3)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    simulate_data(network(), of_arrays(X, Y), record=RECORD, target=tmp_path / "undisturbed", **SMALL)
    return files(tmp_path / "undisturbed")


def test_equal_to_one_call_in_memory(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    target, zipped = tmp_path / "out", tmp_path / "out.npz"
    arguments = {"record": RECORD, **SMALL}
    found = simulate_data(
        network(), of_arrays(X, Y), target=target, progress=lambda *call: calls.append(call), **arguments
    )
    simulate_data(network(), of_arrays(X, Y), target=zipped, **arguments)
    expected = s2c.simulate(network(), X, Y, "reference", record=RECORD)
    assert found.accuracy == expected.accuracy
    assert (found.samples, found.resumed_at) == (101, 0)
    assert found.spike_counts == expected.traces.spike_counts
    assert found.synaptic_operations == expected.traces.synaptic_operations > 0
    assert len(calls) > 5
    assert calls[-1] == ("simulating", 101, 101)
    arrays = {
        "predictions": expected.predictions,
        "scores": expected.traces.scores(network()),
        "spikes_per_step": np.stack(list(expected.traces.spikes_per_step.values())),
        "operations_per_step": np.stack(list(expected.traces.operations_per_step.values())),
        "spikes/a/b": expected.traces.spikes["a/b"],
        "u/out": expected.traces.u["out"],
        "v/out": expected.traces.v["out"],
    }
    summary = json.loads((target / "run.json").read_text())
    assert summary["finished"] is True
    assert (summary["layers"], summary["accuracy"]) == (["a/b", "out"], expected.accuracy)
    assert summary["spikes"] == expected.traces.spike_counts
    assert summary["files"].keys() == arrays.keys()
    assert summary["files"]["spikes/a/b"] == "layer0-spikes.npy"
    assert {*summary["files"].values(), "run.json"} == set(files(target))
    with np.load(zipped) as stored:
        assert set(stored.files) == {*arrays, "layers"}
        assert stored["layers"].tolist() == ["a/b", "out"]
        for name, array in arrays.items():
            for candidate in (np.load(target / summary["files"][name]), stored[name]):
                assert candidate.dtype == array.dtype
                assert np.array_equal(candidate, array)


def test_nothing_depends_on_chunks(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    simulate_data(network(), of_arrays(X, Y), "reference", record=RECORD, target=tmp_path / "big")
    assert files(tmp_path / "big") == undisturbed


class _Killed:
    """Ends the process, as kill -9 does, at the n-th call that changes something in the folder."""

    def __init__(self, n: int, folder: Path) -> None:
        self.left, self.folder = n, folder

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            place = arguments[0]  # a path, or the handle of an open file
            self.left -= not isinstance(place, Path) or self.folder in (place, place.parent)
            if self.left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return wrapper


def killed_at(n: int, target: Path) -> bool:
    """Run in a process that is killed at its n-th write; whether it was."""
    child = os.fork()
    if child == 0:
        killer = _Killed(n, target)
        for name in ("pwrite", "ftruncate", "fsync"):
            setattr(os, name, killer.before(getattr(os, name)))
        for name in ("replace", "mkdir", "open"):
            setattr(Path, name, killer.before(getattr(Path, name)))
        try:
            simulate_data(network(), of_arrays(X, Y), record=RECORD, target=target, **SMALL)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_killed_at_any_write(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    killed, resumed = 0, set()
    for n in [*range(40), *range(40, 2000, 11)]:
        target = tmp_path / f"out{n}"
        if not killed_at(n, target):
            break
        killed += 1
        found = simulate_data(network(), of_arrays(X, Y), record=RECORD, target=target, **SMALL)
        resumed.add(found.resumed_at)
        assert files(target) == undisturbed, f"killed at write {n}, went on at {found.resumed_at}"
        shutil.rmtree(target)
    assert killed > 45
    assert len(resumed) > 5
    assert files(target) == undisturbed  # the last one was not killed


def test_killed_more_than_once(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    target = tmp_path / "out"
    done = []
    for _ in range(4):
        assert killed_at(60, target)
        done.append(json.loads((target / "run.json").read_text())["unfinished"]["samples_done"])
    assert done == sorted(set(done))
    assert simulate_data(network(), of_arrays(X, Y), record=RECORD, target=target, **SMALL).resumed_at == done[-1]
    assert files(target) == undisturbed


SLOW = """
import time
from snn2chip import long_runs
from snn2chip.cli import main
long_runs.CHECKPOINT_SECONDS, long_runs.FIRST_CHUNK, long_runs._next_size = 0.01, 3, lambda *_: 3
simulate = long_runs.simulate
def slow(*arguments, **options):
    time.sleep(0.02)
    return simulate(*arguments, **options)
long_runs.simulate = slow
main()
"""


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_the_command_goes_on_after_kill(tmp_path: Path, sent: signal.Signals) -> None:
    for i in range(3):
        np.save(tmp_path / f"x-{i}.npy", X[40 * i : 40 * i + 40])
        np.save(tmp_path / f"y-{i}.npy", Y[40 * i : 40 * i + 40])
    s2c.export(network(), tmp_path / "a.net")
    arguments = ["simulate", str(tmp_path / "a.net"), str(tmp_path), "--json", "--backend", "reference"]
    arguments += ["--record", "all", "-o"]
    whole = json.loads(CliRunner().invoke(cli, [*arguments, str(tmp_path / "whole")]).stdout)
    command = [sys.executable, "-c", SLOW, *arguments]
    out = tmp_path / "out"
    process = subprocess.Popen([*command, out], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    limit = time.monotonic() + 60
    while time.monotonic() < limit:  # until it has done something
        if (out / "run.json").exists() and json.loads((out / "run.json").read_text())["unfinished"]["samples_done"]:
            break
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(sent)
    output, errors = process.communicate()
    assert (output, process.returncode) == (b"", -9 if sent is signal.SIGKILL else 130)
    assert errors == (b"" if sent is signal.SIGKILL else b"error: interrupted\n")
    again = json.loads(subprocess.run([*command, out], check=True, capture_output=True).stdout)
    assert 0 < again["resumed_at"] < 101
    for key in ("samples", "accuracy", "spikes", "synaptic_operations"):
        assert again[key] == whole[key]
    assert files(out) == files(tmp_path / "whole")


@pytest.fixture
def unfinished(tmp_path: Path) -> Path:
    assert killed_at(90, tmp_path / "out")
    return tmp_path / "out"


def other_start(x: Any) -> Any:
    x = x.copy()
    x[0, 0, 0] ^= 1
    return x


DIFFERENT: dict[str, tuple[str, dict[str, Any]]] = {
    "network": ("another network", {"net": network(1)}),
    "readout": ("another network", {"net": network(readout=Readout("potential"))}),
    "type of the data": ("another data", {"data": of_arrays(X.astype(np.int32), Y)}),
    "classes": ("another data", {"data": of_arrays(X)}),
    "samples": ("another samples (101, now 50)", {"samples": 50}),
    "backend": ("another backend (reference, now event)", {"backend": "event"}),
    "record": ("another record", {"record": Record()}),
    "contents": ("samples are not those of", {"data": of_arrays(other_start(X), Y)}),
    "contents of y": ("samples are not those of", {"data": of_arrays(X, Y[::-1])}),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_another_run_does_not_go_on(unfinished: Path, what: str) -> None:
    message, change = DIFFERENT[what]
    arguments = {"net": network(), "data": of_arrays(X, Y), "record": RECORD, **SMALL, **change}
    before = files(unfinished)
    with pytest.raises(UsageError, match=re.escape(message)):
        simulate_data(target=unfinished, **arguments)
    assert files(unfinished) == before


def test_what_is_still_to_come_may_change(unfinished: Path, undisturbed: dict[str, bytes]) -> None:
    x = X.copy()
    x[100] = 2  # not binary: stops there, and keeps the rest
    with pytest.raises(InputError, match=r"not binary.* \(in samples \d+ to 100\)"):
        simulate_data(network(), of_arrays(x, Y), record=RECORD, target=unfinished, **SMALL)
    simulate_data(network(), of_arrays(X, Y), record=RECORD, target=unfinished, **SMALL)
    assert files(unfinished) == undisturbed


def break_json(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    content["unfinished"]["spikes_per_step"] = [[1, "a"]]
    (folder / "run.json").write_text(json.dumps(content))


DAMAGED: dict[str, tuple[type[Exception], str, Callable[[Path], object]]] = {
    "array missing": (InputError, "predictions.npy: is missing", lambda f: (f / "predictions.npy").unlink()),
    "array cut off": (InputError, "not what the unfinished run wrote", lambda f: os.truncate(f / "scores.npy", 140)),
    "another array": (InputError, "not what the unfinished run wrote", lambda f: np.save(f / "scores.npy", X)),
    "counts": (InputError, "run.json: damaged", break_json),
    "no run.json": (UsageError, "no folder of results", lambda f: (f / "run.json").unlink()),
    "text": (UsageError, "no folder of results", lambda f: (f / "run.json").write_text("hello")),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_run_does_not_go_on(unfinished: Path, what: str) -> None:
    error, message, damage = DAMAGED[what]
    damage(unfinished)
    with pytest.raises(error, match=re.escape(message)):
        simulate_data(network(), of_arrays(X, Y), record=RECORD, target=unfinished, **SMALL)


def test_force_starts_anew_and_spares_other_files(unfinished: Path, undisturbed: dict[str, bytes]) -> None:
    (unfinished / "notes.txt").write_text("mine")
    found = simulate_data(network(), of_arrays(X, Y), record=RECORD, target=unfinished, force=True, **SMALL)
    assert found.resumed_at == 0
    assert files(unfinished) == {**undisturbed, "notes.txt": b"mine"}
    with pytest.raises(UsageError, match="--force overwrites it"):
        simulate_data(network(), of_arrays(X, Y), record=RECORD, target=unfinished, **SMALL)
    simulate_data(network(1), of_arrays(X, Y), target=unfinished, force=True, **SMALL)
    assert "layer0-spikes.npy" not in files(unfinished)


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    for name in ("mine", "file", "link"):
        with pytest.raises(UsageError, match="exists already"):
            simulate_data(network(), of_arrays(X), target=tmp_path / name, force=True, **SMALL)
    with pytest.raises(EnvironmentFailure, match="No such file"):
        simulate_data(network(), of_arrays(X), target=tmp_path / "no" / "out", **SMALL)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == (tmp_path / "file").read_text() == "precious"


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    def second(*_: object) -> None:
        with pytest.raises(UsageError, match="another run is writing there"):
            simulate_data(network(), of_arrays(X), target=tmp_path / "out", **SMALL)

    simulate_data(network(), of_arrays(X), target=tmp_path / "out", progress=second, **SMALL)


def test_a_full_disk(tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    true, left = os.pwrite, 30

    def full(*arguments: Any) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return true(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(EnvironmentFailure, match="No space left on device") as caught:
            simulate_data(network(), of_arrays(X, Y), record=RECORD, target=tmp_path / "out", **SMALL)
    assert caught.value.exit_code == 5
    found = simulate_data(network(), of_arrays(X, Y), record=RECORD, target=tmp_path / "out", **SMALL)
    assert found.resumed_at > 0
    assert files(tmp_path / "out") == undisturbed


def test_a_disk_that_is_too_small_shows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 20, 1 << 20, 100))
    with pytest.raises(EnvironmentFailure, match="MiB needed, 0 MiB free"):
        simulate_data(network(), of_arrays(np.tile(X, (50, 1, 1))), target=tmp_path / "out", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_did_nothing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not binary"):
        simulate_data(network(), of_arrays(X + 2), target=tmp_path / "out", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_state_that_passes_on_needs_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    found = simulate_data(network(), of_arrays(X), mode="streaming", **SMALL)
    assert found.spike_counts == s2c.simulate(network(), X, backend="reference", mode="streaming").traces.spike_counts
    monkeypatch.setattr(long_runs, "ONE_CHUNK_BYTES", 50_000)
    with pytest.raises(UsageError, match=r"mode streaming: .* at most \d+ of these samples fit, not 101"):
        simulate_data(network(), of_arrays(X), mode="streaming", **SMALL)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((5, 12), None),
        ((5, 3, 12), None),
        ((5, 4, 12), "4 time steps"),
        ((5, 3, 13), "shape (5, 3, 13), expected (N, T, 12)"),
        ((5, 3, 12, 1), "shape (5, 3, 12, 1)"),
    ],
)
def test_shapes_are_checked_before_anything_is_read(shape: tuple[int, ...], message: str | None) -> None:
    data = of_arrays(np.full(shape, 7))  # not binary, if anybody looked
    if message is None:
        check_fits(network(), data)
    else:
        with pytest.raises(InputError, match=re.escape(message)):
            check_fits(network(), data)


def test_digest() -> None:
    assert digest(network()) == digest(network())
    others = [
        network(1),
        network(readout=Readout("potential")),
        network(window=4),
        network(encoding=Encoding("graded")),
    ]
    assert len({digest(net) for net in [network(), *others]}) == 5


MEMORY = """
import resource, sys
import numpy as np
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.data import open_data
from snn2chip.long_runs import simulate_data
layer = Dense("out", (784,), np.ones((10, 784), np.int64), Neuron.of("out", 200))
net = ChipNet((784,), (layer,), time_steps=4)
simulate_data(net, open_data(sys.argv[1]), samples=1000, chunk_bytes=16 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = simulate_data(net, open_data(sys.argv[1]), target=sys.argv[2], chunk_bytes=16 << 20)
print(found.samples, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    x = np.zeros((40_000, 4, 784), np.uint8)
    x[:, :, ::97] = 1
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path, tmp_path / "out"], check=True, capture_output=True, text=True
    )
    samples, before, after = map(int, done.stdout.split())
    assert samples == 40_000
    assert (after - before) / 1024 < 50, "MiB more for 120 MiB of data"


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_progress(monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool) -> None:
    monkeypatch.setattr(output, "err", Console(file=io.StringIO(), force_terminal=terminal, width=120))
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with progress.bar(quiet) as tell:
        time.sleep(0.05)
        for done in (2000, 2500, 3000):
            tell("simulating", done, 10_000)
            time.sleep(0.05)
        time.sleep(0.2)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.err.file.getvalue())
    if quiet or not terminal:
        assert text == ""
    else:
        assert re.search(r"simulating .*3000/10000.* [\d,]+ samples/s.* 0:0\d:\d\d", text)


def test_what_is_quick_shows_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "err", Console(file=io.StringIO(), force_terminal=True))
    with progress.bar() as tell:
        tell("simulating", 1, 1)
    assert output.err.file.getvalue() == ""


def test_auto_is_decided_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []

    def choose(net: ChipNet, messages: Any, *rest: object, samples: int, **options: object) -> str:
        asked.append((len(messages), samples))
        return "reference"

    monkeypatch.setattr(long_runs, "faster_backend", choose)
    found = simulate_data(network(), of_arrays(X, Y), "auto", chunk_bytes=8_000, target=tmp_path / "out")
    assert (found.backend, asked) == ("reference", [(3, 101)])
