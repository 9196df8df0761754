"""The command line as a user sees it: results, one-line errors, exit codes, no file left behind."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn
from with_lava import needs_lava

import snn2chip as s2c
from snn2chip.cli import cli
from snn2chip.nn import LIF, Network, Readout


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained-like model, its exported network, and data."""
    path = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    network = Network(
        nn.Conv2d(1, 4, 3), LIF(), nn.AvgPool2d(2), nn.Flatten(), Readout(36, 3), input_shape=(1, 8, 8), time_steps=4
    )
    x = np.random.default_rng(0).random((20, 1, 8, 8)).astype(np.float32) * 3
    y = np.arange(20) % 3
    s2c.save(network, path / "model.pt", calibration=(x, y))
    np.savez(path / "data.npz", x=x, y=y)
    s2c.export(s2c.convert(path / "model.pt"), path / "model.net")
    return path


def as_json(*arguments: object) -> Any:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_inspect(folder: Path) -> None:
    content = as_json("inspect", folder / "model.net")
    assert [layer["name"] for layer in content["layers"]] == ["0 (Conv2d)", "4 (Readout)"]
    assert (content["depth"], content["window"], content["neurons"]) == (2, 4, 4 * 36 + 3)
    assert content["synapses"] == 4 * 36 * 9 + 3 * 144
    text = call("inspect", folder / "model.net")
    assert text.exit_code == 0
    assert re.search(r"0 \(Conv2d\) +conv +4x6x6", text.stdout)


@pytest.mark.parametrize("backend", ["event", "reference"])
def test_simulate(folder: Path, backend: str) -> None:
    content = as_json("simulate", folder / "model.net", folder / "data.npz", "--backend", backend)
    assert (content["backend"], content["samples"], content["time_steps"]) == (backend, 20, 4)
    assert content["spikes"]["0 (Conv2d)"] > 0
    assert 0 <= content["accuracy"] <= 1
    assert {"seconds", "overhead_seconds", "samples_per_s", "synaptic_operations"} <= content.keys()


def test_simulate_writes_what_was_asked_for(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.npz"
    arguments = ("simulate", folder / "model.net", folder / "data.npz", "-o", target, "--record", "0 (Conv2d)")
    assert call(*arguments).exit_code == 0
    with np.load(target) as out:
        recorded = {f"{kind}/0 (Conv2d)" for kind in ("spikes", "u", "v")}
        counts = {"layers", "spikes_per_step", "operations_per_step"}
        assert set(out.files) == {"predictions", "scores", *counts, *recorded}
        assert out["layers"].tolist() == ["0 (Conv2d)", "4 (Readout)"]
        assert out["spikes_per_step"].shape == out["operations_per_step"].shape == (2, 4)
        assert out["spikes_per_step"][0].tolist() == out["spikes/0 (Conv2d)"].sum((0, 2, 3, 4), int).tolist()
        assert out["spikes/0 (Conv2d)"].shape == (20, 4, 4, 6, 6)
        assert np.array_equal(out["predictions"], out["scores"].argmax(1))
    again = call(*arguments)
    assert (again.exit_code, "--force" in again.stderr) == (2, True)
    assert call(*arguments, "--force").exit_code == 0


def test_verify_with_ladder(folder: Path) -> None:
    arguments = ("verify", folder / "model.net", folder / "data.npz", "--against", "reference")
    content = as_json(*arguments, "--source", folder / "model.pt")
    assert content["equal"] is True
    assert (content["samples"], content["differing_spikes"], content["differing_states"]) == (20, 0, 0)
    assert content["first"] is None
    assert list(content["ladder"]) == ["float", "graph", "chip"]
    text = call(*arguments, "--source", folder / "model.pt")
    assert "equal: event against reference, 20 samples, 2 layers" in text.stdout
    assert "trained model (float32)" in text.stdout


def test_verify_finds_a_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snn2chip.simulators import event

    true = event.run

    def wrong(*arguments: Any, **options: Any) -> Any:
        traces = true(*arguments, **options)
        traces.v["4 (Readout)"][7, 2, 1] += 64
        return traces

    monkeypatch.setattr(event, "run", wrong)
    arguments = ("verify", folder / "model.net", folder / "data.npz", "--against", "reference")
    result = call(*arguments)
    assert result.exit_code == 1
    assert "DIFFERENT" in result.stdout
    assert "4 (Readout): sample 7, step 2, neuron (1)" in result.stdout
    found = json.loads(call(*arguments, "--json").stdout)
    assert (found["equal"], found["first"]["neuron"], found["differing_states"]) == (False, [1], 1)


def test_export_without_lava(folder: Path, tmp_path: Path) -> None:
    content = as_json("export", folder / "model.pt", "-o", tmp_path / "a.net", "--no-verify")
    assert content["verification"] is None
    assert content["lava"] is False
    assert content["ladder"]["graph"]["differing_spikes"]["0 (Conv2d)"] <= 1  # float32 against float64
    assert s2c.read(tmp_path / "a.net") == s2c.read(folder / "model.net")
    text = call("export", folder / "model.pt", "-o", tmp_path / "b.net", "--no-verify", "--bits", 4)
    assert "not verified (--no-verify)" in text.stdout
    assert (tmp_path / "b.net").exists()


@pytest.mark.lava
@needs_lava
def test_export_verifies_in_lava(folder: Path, tmp_path: Path) -> None:
    content = as_json("export", folder / "model.pt", "-o", tmp_path / "a.net", "--samples", 3)
    assert content["lava"] is True
    assert content["verification"]["against"] == "lava"
    assert (content["verification"]["equal"], content["verification"]["samples"]) == (True, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.net"]


@pytest.mark.lava
@needs_lava
def test_lava_that_hangs_or_is_interrupted(folder: Path, tmp_path: Path) -> None:
    command = ["export", folder / "model.pt", "-o", tmp_path / "out.net"]
    late = call(*command, "--timeout", 0.01)
    assert late.exit_code == 5
    assert re.fullmatch(r"error: Lava: not finished after 0.01 s.*\n", late.stderr)
    process = subprocess.Popen(
        [sys.executable, "-c", "from snn2chip.cli import main; main()", *map(str, command)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (workers := lava_workers(process.pid)):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (130, "error: interrupted\n")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert list(tmp_path.iterdir()) == []


def lava_workers(pid: int) -> list[int]:
    """Child processes of ``pid`` that run Lava, from Linux's process table."""
    found = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if b"lava_worker.py" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def test_a_failed_proof_leaves_no_file(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snn2chip import prove
    from snn2chip.errors import LavaMissing
    from snn2chip.simulators import event

    def missing(net: Any, x: Any, against: str, **options: Any) -> Any:
        if against == "lava":
            raise LavaMissing("not here")
        return real(net, x, against=against, **options)

    real, true = prove.verify, event.run

    def wrong(*arguments: Any, **options: Any) -> Any:
        traces = true(*arguments, **options)
        for name in traces.u:
            traces.u[name][0, 0] += 64
        return traces

    monkeypatch.setattr(prove, "verify", missing)
    good = call("export", folder / "model.pt", "-o", tmp_path / "good.net")
    assert good.exit_code == 0
    assert "Lava was not run: not here" in good.stdout
    monkeypatch.setattr(event, "run", wrong)
    bad = call("export", folder / "model.pt", "-o", tmp_path / "bad.net")
    assert bad.exit_code == 1
    assert "a weight differs" in bad.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["good.net"]


def bad_cases(folder: Path, tmp: Path) -> dict[str, tuple[int, str, list[Any]]]:
    """Name: exit code, what the message says, arguments."""
    (tmp / "text.pt").write_text("hello")
    torch.save(nn.Linear(3, 3), tmp / "pickle.pt")
    (tmp / "text.net").write_text("hello")
    (tmp / "text.npz").write_text("hello")
    pool = Network(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), LIF(), input_shape=(1, 8, 8), time_steps=2)
    s2c.save(pool, tmp / "pool.pt", calibration=torch.rand(8, 1, 8, 8))
    s2c.save(Network(nn.Linear(4, 2), LIF(), input_shape=(4,), time_steps=2), tmp / "bare.pt", torch.rand(4, 4))
    (tmp / "link.net").write_bytes((folder / "model.net").read_bytes())
    with h5py.File(tmp / "link.net", "r+") as file:
        del file["layer/1/weight"]
        file["layer/1/weight"] = h5py.ExternalLink(str(folder / "model.net"), "/layer/1/weight")
    (tmp / "missing.net").write_bytes((folder / "model.net").read_bytes())
    with h5py.File(tmp / "missing.net", "r+") as file:
        del file["layer/1/weight"]
    with h5py.File(tmp / "link.h5", "w") as file:
        file["x"] = h5py.ExternalLink(str(folder / "model.net"), "/layer/1/weight")
    (tmp / "folder").mkdir()
    objects = np.empty(2, object)
    objects[:] = [{}, []]
    net, data, model = folder / "model.net", folder / "data.npz", folder / "model.pt"
    out = ["-o", tmp / "out.net"]
    trusted = ["export", tmp / "pickle.pt", "--trust-pickle", "--calibration", data]

    def data_of(x: Any, **arrays: Any) -> Path:
        path = tmp / f"data{len(list(tmp.iterdir()))}.npz"
        np.savez(path, **arrays, **({} if x is None else {"x": x}))
        return path

    return {
        "no such model": (3, "no such file", ["export", tmp / "nix.pt", *out]),
        "not a model": (3, "not a file of torch.save", ["export", tmp / "text.pt", *out]),
        "a pickle": (3, "--trust-pickle", ["export", tmp / "pickle.pt", *out]),
        "trusted, but other data": (3, "model (Linear): fails on the example", [*trusted, *out]),
        "pooled currents": (4, "1 (MaxPool2d): ", ["export", tmp / "pool.pt", *out]),
        "no calibration": (2, "--calibration", ["export", tmp / "bare.pt", *out]),
        "calibration of another shape": (
            3,
            "shape",
            ["export", tmp / "bare.pt", "--calibration", data_of(np.zeros((4, 3, 7))), *out],
        ),
        "unknown scales": (2, "'best'", ["export", model, "--scales", "best", *out]),
        "unknown pass": (2, "fold-batch-norm", ["export", model, "--skip-pass", "fold", *out]),
        "skipped pass is needed": (4, "2 (AvgPool2d)", ["export", model, "--skip-pass", "fold-average-pool", *out]),
        "bits": (2, "not one of", ["export", model, "--bits", 9, *out]),
        "output folder missing": (5, "cannot be written", ["export", model, "-o", tmp / "no" / "out.net"]),
        "not a network": (3, "text.net", ["inspect", tmp / "text.net"]),
        "a model as network": (3, "model.pt", ["inspect", model]),
        "missing dataset": (3, "weight", ["inspect", tmp / "missing.net"]),
        "external link": (3, "link", ["inspect", tmp / "link.net"]),
        "no such data": (3, "no such file", ["simulate", net, tmp / "nix.npz"]),
        "not data": (3, "cannot be read as .npz", ["simulate", net, tmp / "text.npz"]),
        "data by an external link": (3, "link", ["simulate", net, tmp / "link.h5"]),
        "empty folder of data": (3, "neither x.npy", ["simulate", net, tmp / "folder", "-o", tmp / "out"]),
        "folder of others as output": (2, "exists already", ["simulate", net, data, "-o", folder, "--force"]),
        "no x": (3, "no array x", ["simulate", net, data_of(None, y=[1])]),
        "objects": (3, "type object, expected numbers", ["simulate", net, data_of(objects)]),
        "text data": (3, "type <U1", ["simulate", net, data_of(np.full((2, 1, 8, 8), "a"))]),
        "data of another shape": (3, "shape (3, 1, 8, 9)", ["simulate", net, data_of(np.zeros((3, 1, 8, 9)))]),
        "NaN data": (3, "NaN", ["simulate", net, data_of(np.full((3, 1, 8, 8), np.nan))]),
        "wrong classes": (3, "y has shape", ["simulate", net, data_of(np.zeros((3, 1, 8, 8)), y=[1])]),
        "unknown backend": (2, "'loihi' is unknown", ["simulate", net, data, "--backend", "loihi"]),
        "two modes": (2, "exclude each other", ["simulate", net, data, "--windowed", "--streaming"]),
        "record without output": (2, "--output", ["simulate", net, data, "--record", "all"]),
        "record of no layer": (2, "no layer nix; have 0 (Conv2d)", ["simulate", net, data, "--record", "nix", *out]),
        "unknown command": (2, "Did you mean export?", ["exprot"]),
        "unknown option": (2, "--sampels", ["simulate", net, data, "--sampels", 3]),
    }


def test_bad_input_gives_one_line_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    wrong = []
    for name, (code, message, arguments) in bad_cases(folder, tmp_path).items():
        before = set(tmp_path.iterdir())
        result = call(*arguments)
        lines = result.stderr.strip().splitlines()
        usage = code == 2 and lines[:1] and lines[0].startswith("Usage:")  # click adds how to call the command
        if result.exit_code != code or message not in lines[-1] or not (len(lines) == 1 or usage):
            wrong.append(f"{name}: exit {result.exit_code}, {result.stderr!r}")
        if set(tmp_path.iterdir()) != before:
            wrong.append(f"{name}: left {set(tmp_path.iterdir()) - before}")
    assert not wrong, "\n".join(wrong)


def test_existing_output_is_kept(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.net"
    target.write_text("precious")
    result = call("export", folder / "model.pt", "-o", target, "--no-verify")
    assert (result.exit_code, target.read_text()) == (2, "precious")
    assert call("export", folder / "model.pt", "-o", target, "--no-verify", "--force").exit_code == 0
    assert s2c.read(target).time_steps == 4


@pytest.mark.parametrize("limit", [0, 700, 5000])
def test_full_disk(folder: Path, tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for a disk: the system refuses the write, nothing is mocked."""
    for arguments in (
        ["export", folder / "model.pt", "-o", tmp_path / "out.net", "--no-verify"],
        ["simulate", folder / "model.net", folder / "data.npz", "-o", tmp_path / "out.npz", "--record", "all"],
    ):
        assert call(*arguments).exit_code == 0  # compiled kernels are files too: cached by now
        Path(arguments[arguments.index("-o") + 1]).unlink()
        done = subprocess.run(
            [sys.executable, "-c", "from snn2chip.cli import main; main()", *map(str, arguments)],
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 5, done.stderr
        assert re.fullmatch(r"error: \S+/out\.(net|npz): cannot be written \(File too large\)\n", done.stderr)
        assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(folder: Path) -> None:
    result = call("inspect", folder / "model.pt", "--debug")
    assert result.exit_code == 3
    assert "Traceback" in result.stderr


def test_help_is_quick_and_needs_no_torch() -> None:
    code = "import sys, snn2chip.cli as c; c.cli(['--help'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "doctor", "export", "inspect", "lava-env", "simulate", "verify"):
        assert command in done.stdout
        helped = call(command, "--help")
        assert (helped.exit_code, "--json" in helped.stdout) == (0, True)


def test_version() -> None:
    assert call("--version").stdout.strip() == f"snn2chip, version {s2c.__version__}"
