"""The same inputs give the same bytes: in any process, with any number of threads, in any folder, place and year."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import snn2chip as s2c
from snn2chip.nn import LIF, Network, Readout

COMMANDS = (
    "export model.pt -o a.net --no-verify",
    "export model.pt -o narrow.net --no-verify --bits 4",
    "export model.pt -o neurons.net --no-verify --per-neuron --scales mse",
    "init model.pt -o a.yaml",
    "cutoff a.net data.npz --max-drop 90 -o exit.net",
    "deploy a.net --data data.npz -o bundle --no-verify",
    "deploy a.net -o module --lava-module --no-verify",
    "simulate a.net data.npz -o out.npz --record all",
    "simulate a.net data.npz -o dense.npz --record all --backend dense",
    "simulate a.net data.npz -o out",
    "simulate a.net data.npz -o out-streaming --streaming",
)
SCRIPT = """
import json, sys, time
time.time = (lambda real: lambda: real() + float(sys.argv[3]))(time.time)  # the year
import torch
torch.set_num_threads(int(sys.argv[2]))
from click.testing import CliRunner
from snn2chip.cli import cli
for command in json.loads(sys.argv[1]):
    result = CliRunner().invoke(cli, command.split())
    assert result.exit_code == 0, (command, result.output)
"""

pytestmark = pytest.mark.xdist_group("determinism")  # the first run serves all tests


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of every kind of layer whose scales come from sums of floats, and its data."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    network = Network(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        LIF(0.5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * 6 * 6, 32),
        LIF(0.7),
        Readout(32, 4),
        input_shape=(1, 12, 12),
        time_steps=4,
    )
    generator = np.random.default_rng(0)
    x, y = generator.random((256, 1, 12, 12)).astype(np.float32) * 2, np.arange(256) % 4
    network.train()
    network(torch.from_numpy(x))  # batch norm takes its means from the samples
    s2c.save(network.eval(), folder / "model.pt", calibration=(x, y))
    np.savez(folder / "data.npz", x=x[:150], y=y[:150])
    return folder


def digests(inputs: Path, folder: Path, threads: int, later: float, **environ: str) -> dict[str, str]:
    """SHA-256 of every file that the commands write, run in a process of its own."""
    folder.mkdir(parents=True)
    given = {path.name for path in inputs.iterdir()}
    for name in given:
        (folder / name).symlink_to(inputs / name)
    count = str(threads)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    command = [sys.executable, "-c", SCRIPT, json.dumps(COMMANDS), count, str(later)]
    environment = {**os.environ, **dict.fromkeys(names, count), **environ}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in given
    }


@pytest.fixture(scope="module")
def first(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("first") / "here"
    return digests(inputs, folder, 1, 0.0, PYTHONHASHSEED="0", TZ="UTC", LC_ALL="C")


def test_the_commands_write_what_is_compared(first: dict[str, str]) -> None:
    wanted = {"a.net", "narrow.net", "neurons.net", "a.yaml", "exit.net", "out.npz", "dense.npz", "out/run.json"}
    wanted |= {"bundle/model.net", "bundle/expected.npz", "module/network.npz", "out-streaming/scores.npy"}
    assert wanted <= first.keys()
    assert first["a.net"] not in (first["narrow.net"], first["neurons.net"], first["exit.net"])


def test_another_process_place_and_number_of_threads(inputs: Path, first: dict[str, str], tmp_path: Path) -> None:
    environ = {"PYTHONHASHSEED": "4242", "TZ": "Asia/Kolkata", "LC_ALL": "C.UTF-8", "COLUMNS": "40"}
    assert digests(inputs, tmp_path / "än other" / "place", 2, 1e8, **environ) == first


def test_from_python_too(inputs: Path, first: dict[str, str], tmp_path: Path) -> None:
    """In a process that has done other things, and twice."""
    for name in ("a.net", "b.net"):
        s2c.export(s2c.convert(inputs / "model.pt"), tmp_path / name)
    assert (tmp_path / "a.net").read_bytes() == (tmp_path / "b.net").read_bytes()


def test_models_are_the_same_bytes_each_time(inputs: Path, tmp_path: Path) -> None:
    model = s2c.load(inputs / "model.pt")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        s2c.save(model.graph, tmp_path / name / "model.pt", calibration=(model.x, model.y))
    assert (tmp_path / "a/model.pt").read_bytes() == (tmp_path / "b/model.pt").read_bytes()
