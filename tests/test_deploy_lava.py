"""Bundles run as a reader runs them, in Lava: equal as deployed, and the layer is named where something was changed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from deployed import delayed_net, exit_net, feedback_circuit, sigma_delta_net, soft_reset_circuit, spikes
from torch import nn
from with_lava import needs_lava

import snn2chip as s2c
from snn2chip.chip import ChipNet
from snn2chip.cli import cli
from snn2chip.deployment import compare
from snn2chip.deployment.circuit import Circuit, gated
from snn2chip.exporters import bundle as bundles
from snn2chip.nn import LIF, Network, Readout
from snn2chip.simulators import lava, lava_env, reference
from snn2chip.traces import Record

pytestmark = [pytest.mark.lava, needs_lava]


def run(bundle: Path, *arguments: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
    """`python run.py` in the bundle, which knows nothing of this checkout."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(bundle)}
    command = [python or lava.python(), "-I", "run.py", "--timeout", "120", *arguments]
    return subprocess.run(command, cwd=bundle, env=environ, capture_output=True, text=True, check=False)


def left_behind(bundle: Path) -> list[str]:
    """Command lines of processes that still run with files of the bundle."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended since
            lines.append(path.read_bytes().decode(errors="replace"))
    return [line for line in lines if str(bundle) in line]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    bundle = tmp_path_factory.mktemp("lava") / "bundle"
    bundles.write(exit_net(), bundle, spikes(exit_net(), 4), np.arange(4) % 3)
    return bundle


def test_a_bundle_does_what_is_expected_and_comes_back(deployed: Path) -> None:
    done = run(deployed)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == "EQUAL: 4 samples, 4 layers, every step and neuron"
    assert any(line.startswith("  early exit: 4 of 4 as expected") for line in lines)
    found = compare.compared(compare.opened(deployed / "results"))
    assert found.equal and found.expected_agrees and found.decisions == 4 and not found.late
    assert {(one.layer, one.variable) for one in found.differences} >= {
        (name, variable)
        for name in ("conv", "hidden", "out", "exit decision")
        for variable in ("spikes", "u_mark", "v_mark")
    }
    assert sorted(path.name for path in (deployed / "results").iterdir()) == ["run.json", "traces.npz"]
    assert not left_behind(deployed)


def test_with_a_one_step_delay_for_each_adapter(deployed: Path, tmp_path: Path) -> None:
    """The chip's wiring: resets wait for the adapter, recordings come late, potentials are read once per window."""
    done = run(deployed, "--rehearse", "--results", str(tmp_path / "results"))
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "results" / "run.json").read_text())
    assert facts["mode"] == "rehearsal" and set(facts["late"].values()) == {1}
    with np.load(tmp_path / "results" / "traces.npz") as ours, np.load(deployed / "expected.npz") as expected:
        np.testing.assert_array_equal(ours["v_last.2"], expected["v_last.2"])
    assert compare.compared(compare.opened(tmp_path / "results", deployed)).equal


def test_each_run_ends_with_its_decision(deployed: Path) -> None:
    done = run(deployed, "--stop-at-decision", "--samples", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    with np.load(deployed / "expected.npz") as file:
        label, step = file["alone"][0]
    # conv sees the first message at chip step 2, the decision three layers later
    what = f"class {label} at step {step + 1} of 12, paused at chip step {step + 5} of 20"
    assert f"  sample 0: {what}" in done.stdout


def test_one_flipped_weight_bit_is_found_and_its_layer_named(deployed: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(deployed, bundle, ignore=shutil.ignore_patterns("results"))
    with h5py.File(bundle / "model.net", "r+") as file:
        (index,) = (
            k for k, group in file["layer"].items() if group["shape"][()].tolist() == [12] and "weight" in group
        )
        weight = file[f"layer/{index}/weight"][()]
        weight[5, 100] ^= 1
        file[f"layer/{index}/weight"][...] = weight
    done = run(bundle)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "! changed since deployment: model.net" in done.stdout
    assert "! hidden: its weights or parameters are not those that were deployed" in done.stdout
    assert "! hidden: " in done.stdout and "currents (all neurons) differ, first in sample" in done.stdout
    assert done.stdout.splitlines()[-1] == "DIFFERENT: the first layer that differs is hidden"


def gated_exit_net() -> Circuit:
    return gated(exit_net())


@pytest.mark.parametrize("make", [soft_reset_circuit, gated_exit_net, feedback_circuit])
def test_a_lava_module_does_what_the_integer_simulator_says(make: Callable[[], Circuit], tmp_path: Path) -> None:
    """Every spike, and every u and v by their marks, of every layer at every step."""
    subject = make()
    net = subject.net
    messages: Any = spikes(net, 3, 0.4)
    if net.encoding.kind == "graded":
        shape = messages.shape
        messages = np.random.default_rng(0).integers(net.encoding.low, net.encoding.high + 1, shape).astype(np.int32)
    bundles.write(subject, tmp_path / "bundle", messages, kind="module")
    said = bundles.prove(tmp_path / "bundle", 120)
    assert said.splitlines()[-1] == f"EQUAL: 3 samples, {len(net.layers)} layers, every step and neuron"
    for layer in net.layers:
        assert f"  {layer.name}: {3 * net.window * int(np.prod(layer.shape)):,} spikes equal" in said
        assert f"  {layer.name}: {3 * net.window} steps' currents (all neurons) equal" in said
    with np.load(tmp_path / "bundle" / "expected.npz") as file:
        assert all(file[f"spikes.{k}"].any() for k in range(len(net.layers))), "a test without spikes shows little"


@pytest.mark.slow
def test_in_an_environment_with_lava_alone(deployed: Path, tmp_path: Path) -> None:
    """As the README says: a fresh environment, without torch and without snn2chip."""
    python = str(lava_env.make(tmp_path / "environment"))
    has = "import importlib.util as u; print([bool(u.find_spec(name)) for name in ('snn2chip', 'torch', 'lava')])"
    said = subprocess.run([python, "-I", "-c", has], capture_output=True, text=True, check=True).stdout
    assert said == "[False, False, True]\n"
    done = run(deployed, python=python)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("make", [sigma_delta_net, delayed_net])
@pytest.mark.parametrize("switch", ["--simulation", "--rehearse"])
def test_other_kinds_of_layers(make: Callable[[], ChipNet], switch: str, tmp_path: Path) -> None:
    net = make()
    messages: Any = spikes(net, 3, 0.5)
    if net.encoding.kind == "graded":
        messages = np.random.default_rng(0).integers(-9, 10, messages.shape).astype(np.int32)
    written = bundles.write(net, tmp_path / "bundle", messages)
    assert any("no reset" in note for note in written.notes)
    assert "EQUAL: 3 samples" in bundles.prove(tmp_path / "bundle", 120, (switch,))


@pytest.mark.slow
def test_a_chain_of_layers_is_a_module_too(tmp_path: Path) -> None:
    net: ChipNet = exit_net()
    bundles.write(net, tmp_path / "bundle", spikes(net, 2), kind="module")
    assert "EQUAL" in bundles.prove(tmp_path / "bundle", 120)


def test_a_trained_convolution_with_soft_reset_from_the_command_line(tmp_path: Path) -> None:
    """Compiled to a matrix, deployed as the convolution that it was trained as."""
    torch.manual_seed(0)
    neurons = (LIF(0.5, reset="subtract"), LIF(0.75, reset="subtract"))
    network = Network(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        neurons[0],
        nn.Conv2d(3, 4, 2, stride=2, bias=False),
        neurons[1],
        nn.Flatten(),
        Readout(64, 3),
        input_shape=(1, 8, 8),
        time_steps=4,
    )
    x = np.random.default_rng(0).random((6, 1, 8, 8)).astype(np.float32) * 3
    s2c.save(network, tmp_path / "model.pt", calibration=(x, np.arange(6) % 3))
    net = s2c.convert(tmp_path / "model.pt")
    assert [type(layer).__name__ for layer in net.layers[:2]] == ["Dense", "Dense"] and net.recurrent
    s2c.export(net, tmp_path / "model.net")
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(6) % 3)
    arguments = ["deploy", "model.net", "-o", "bundle", "--data", "data.npz", "--lava-module", "--json"]
    done = CliRunner().invoke(cli, [str(tmp_path / a) if "." in a or a == "bundle" else a for a in arguments])
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["verified_in_lava"] and content["kind"] == "module"
    text = (tmp_path / "bundle" / "network.py").read_text()
    assert text.count("synapse=Conv(") == 2 and text.count("one to one, one step later") == 4
    with np.load(tmp_path / "bundle" / "expected.npz") as file, np.load(tmp_path / "bundle" / "inputs.npz") as inputs:
        messages = inputs["messages"].reshape(6, -1, 1, 8, 8)[:, : net.time_steps]
        traces = reference.run(bundles.widened(net, None), messages, "windowed", Record.everything(net))
        for k, layer in enumerate(net.layers):
            expected = traces.spikes[layer.name]
            np.testing.assert_array_equal(file[f"spikes.{k}"].reshape(expected.shape), expected)
            assert layer is net.layers[-1] or expected.any()


def test_a_bundle_that_was_not_proven_is_not_left(deployed: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    arguments = ["deploy", str(deployed / "model.net"), "-o", str(target), "--timeout", "0.01"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 5, done.output
    assert "not finished after 0.01 s" in done.stderr and not target.exists()
    assert not left_behind(target)


def test_calls_of_the_labs_part_fit_the_public_signatures(deployed: Path) -> None:
    """What lab.py calls of the public packages; its own names cannot be tried here."""
    script = """
import inspect, sys
sys.path[:0] = ["."]
import lab
from lava.utils import loihi
config = lab.run_config({}, {int: str})
assert config.select_sub_proc_model and config.exception_proc_model_map == {int: str}
inspect.signature(loihi.use_slurm_host).bind(partition="p", board=None, loihi_gen=loihi.ChipGeneration["N3B3"])
inspect.signature(loihi.use_ethernet_host).bind(host_address="a", loihi_gen=loihi.ChipGeneration["N3C1"])
try:
    lab.use_host({"loihi_gen": "N3B3", "host": None, "partition": "p", "board": None})
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [lava.python(), "-I", "-c", script], cwd=deployed, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Lava-Loihi is not installed" in done.stdout
