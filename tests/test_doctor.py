"""``snn2chip doctor`` and ``snn2chip lava-env``."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from with_lava import needs_lava_here

import snn2chip as s2c
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.cli import cli
from snn2chip.errors import EnvironmentFailure, LavaMissing
from snn2chip.simulators import event, lava, lava_env, reference
from snn2chip.traces import Record


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the environment would be, whatever this machine has."""
    monkeypatch.setenv(lava_env.FOLDER_VARIABLE, str(tmp_path / "env"))
    monkeypatch.delenv(lava.PYTHON_VARIABLE, raising=False)
    return tmp_path / "env"


@pytest.fixture
def no_lava(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def test_doctor_without_lava(no_lava: None) -> None:
    done = call("doctor", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["works"] is True
    assert found["python"]["path"] == sys.executable
    assert found["packages"]["numpy"] == np.__version__
    assert {"torch", "numba", "h5py", "lava-nc", "lava-dl", "nir"} <= found["packages"].keys()
    assert found["backends"]["event"] == {"works": True, "interpreter": sys.executable, "problem": None}
    assert found["backends"]["reference"]["works"] is True
    assert found["backends"]["lava"]["works"] is False
    assert "snn2chip lava-env" in found["backends"]["lava"]["problem"]
    text = call("doctor").stdout
    assert "event: works: equal to the reference" in text
    assert re.search(r"numpy +\d", text)


@pytest.mark.parametrize("how", ["raises", "differs"])
def test_doctor_with_a_broken_core(no_lava: None, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        if how == "raises":
            raise ImportError("no\nnumba")
        traces = reference.run(*arguments, **options)
        traces.v["dense"][1, 2, 0] += 1
        return traces

    monkeypatch.setattr(event, "run", broken)
    done = call("doctor", "--json")
    assert done.exit_code == 5
    found = json.loads(done.stdout)
    problem = "ImportError: no numba" if how == "raises" else "differs from the reference; please report it"
    assert (found["works"], found["backends"]["event"]["problem"]) == (False, problem)


@pytest.mark.lava
@pytest.mark.skipif(sys.version_info >= (3, 11), reason="Lava needs Python 3.10")
@needs_lava_here
def test_doctor_runs_lava() -> None:
    found = json.loads(call("doctor", "--json").stdout)["backends"]["lava"]
    assert found["works"] is True, found


#: A python3.10 that makes environments of itself; its pip does what PIP says.
FAKE = """#!/bin/sh
case "$*" in
  *ensurepip*) echo "{version} $0" ;;
  *sys.version_info*) echo "{version}" ;;
  *"-m venv"*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python" ;;
  *"-m pip"*) {pip} ;;
  *run_path*) {worker} ;;
esac
"""


def fake(path: Path, version: str = "3.10", pip: str = ":", worker: str = ":") -> Path:
    path.write_text(FAKE.format(version=version, pip=pip, worker=worker))
    path.chmod(0o755)
    return path


def test_lava_env_is_made_once_and_found(folder: Path, tmp_path: Path, no_lava: None) -> None:
    count = tmp_path / "count"
    python = fake(tmp_path / "python", pip=f'echo "$@" >> {count}')
    with pytest.raises(LavaMissing, match="'snn2chip lava-env'"):
        lava.python()
    content = json.loads(call("lava-env", "--python", python, "--json").stdout)
    assert content["made"] is content["found"] is True
    assert content["python"] == content["used"] == str(folder / "bin" / "python") == lava.python()
    assert content["bytes"] > 100
    assert "complete already" in call("lava-env").stdout
    assert len(count.read_text().splitlines()) == 1
    assert re.search(
        r"-m pip .*--no-input .*--no-deps .*lava-nc==0\.10\.0 lava-dl==0\.6\.0 numpy==1", count.read_text()
    )
    assert call("lava-env", "--python", python, "--force").exit_code == 0
    assert len(count.read_text().splitlines()) == 2
    (folder / lava_env.STAMP).write_text("lava-nc==0.9.0\n")  # of an earlier version
    assert call("lava-env", "--python", python).exit_code == 0
    assert len(count.read_text().splitlines()) == 3
    assert {path.name for path in tmp_path.iterdir()} == {"env", "python", "count"}


def test_lava_env_elsewhere_says_how_to_use_it(folder: Path, tmp_path: Path, no_lava: None) -> None:
    python = fake(tmp_path / "python")
    lava_env.make(folder, str(python))
    done = call("lava-env", "--python", python, "--folder", tmp_path / "other")
    assert f"to use it: export SNN2CHIP_LAVA_ENV={tmp_path}/other" in done.stdout


def test_an_interpreter_that_is_named_comes_first(
    folder: Path, tmp_path: Path, monkeypatch: Any, no_lava: None
) -> None:
    python = fake(tmp_path / "python")
    monkeypatch.setenv(lava.PYTHON_VARIABLE, str(python))
    done = call("lava-env", "--python", python)
    assert f"Lava runs with {python}, which comes first" in done.stdout


FAILURES: dict[str, tuple[dict[str, str], str]] = {
    "pip": ({"pip": "echo ERROR: No matching distribution >&2; exit 1"}, "pip failed: ERROR: No matching distribution"),
    "silent": ({"pip": "exit 1"}, "pip failed: no message"),
    "import": ({"worker": "echo ImportError: no lava >&2; exit 42"}, "Lava failed: ImportError: no lava"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_a_failing_installation_leaves_nothing(folder: Path, tmp_path: Path, what: str) -> None:
    behaviour, message = FAILURES[what]
    done = call("lava-env", "--python", fake(tmp_path / "python", **behaviour))
    assert (done.exit_code, done.stderr) == (5, f"error: lava-env: {message}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]
    assert lava_env.interpreter() is None


def test_wrong_usage_of_lava_env(folder: Path, tmp_path: Path) -> None:
    python = fake(tmp_path / "python")
    folder.mkdir()
    (folder / "thesis.tex").write_text("precious")
    for arguments, message in (
        (("--python", python, "--force"), "is no environment made by lava-env"),
        (("--python", fake(tmp_path / "old", "3.9"), "--folder", tmp_path / "new"), "is not a Python 3.10"),
        (("--python", "/nowhere/python", "--folder", tmp_path / "new"), "is not a Python 3.10"),
    ):
        done = call("lava-env", *arguments)
        assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    full = call("lava-env", "--python", python, "--folder", "/dev/null/env")
    assert (full.exit_code, "cannot be written" in full.stderr) == (5, True)


def test_two_installations_at_once(folder: Path, tmp_path: Path) -> None:
    with lava_env._locked(tmp_path, folder):
        done = call("lava-env", "--python", fake(tmp_path / "python"))
    assert (done.exit_code, "another lava-env" in done.stderr) == (2, True)


def test_python_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    monkeypatch.setattr(sys, "executable", str(fake(tmp_path / "this", "3.12")))
    with pytest.raises(EnvironmentFailure, match=r"no Python 3\.10 found.*uv python install 3\.10.*pyenv.*conda"):
        lava_env.find_python()
    for version, works in (("3.10.1", False), ("3.10.9", True)):  # the first is broken
        (tmp_path / "pyenv" / "versions" / version / "bin").mkdir(parents=True)
        if works:
            fake(tmp_path / "pyenv" / "versions" / version / "bin" / "python")
    assert lava_env.find_python() == str(tmp_path / "pyenv/versions/3.10.9/bin/python")


def test_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(lava_env.FOLDER_VARIABLE)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert lava_env.default_folder() == tmp_path / "snn2chip" / "lava-env"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert lava_env.default_folder() == tmp_path / ".local" / "share" / "snn2chip" / "lava-env"


@pytest.mark.slow
@pytest.mark.lava
def test_lava_runs_in_the_environment_that_lava_env_makes(folder: Path, no_lava: None) -> None:
    try:
        lava_env.find_python()
    except EnvironmentFailure as error:
        pytest.skip(str(error))
    content = json.loads(call("lava-env", "--json").stdout)
    assert 300e6 < content["bytes"] < 500e6
    weights = np.random.default_rng(0).integers(-100, 101, (6, 8)).astype(np.int32)
    net = ChipNet((8,), (Dense("out", (8,), weights, Neuron.of("out", 90, 2000, 300)),), time_steps=4)
    x = np.random.default_rng(1).integers(0, 2, (5, 4, 8))
    found = s2c.simulate(net, x, backend="lava", record=Record.everything(net)).traces
    expected = s2c.simulate(net, x, backend="reference", record=Record.everything(net)).traces
    for kind in ("spikes", "u", "v"):
        assert np.array_equal(getattr(found, kind)["out"], getattr(expected, kind)["out"])
    assert found.spike_counts["out"] > 0
