"""Sweeps: what a file means, that rows are what the single commands say, and that nothing depends on who ran them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snn2chip as s2c
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.chip import Readout as ChipReadout
from snn2chip.cli import cli
from snn2chip.cli import sweep as command
from snn2chip.compiler import compile_model
from snn2chip.early_exit import LEVELS, level_costs
from snn2chip.errors import EnvironmentFailure, InputError, LimitError, UsageError
from snn2chip.nn import LIF, Network, Readout
from snn2chip.passes import chip_blocks
from snn2chip.sweep import config, table
from snn2chip.sweep.compiling import with_thresholds
from snn2chip.sweep.config import LARGEST_GRID, LIMIT, Configuration, Cutoff, parse
from snn2chip.sweep.pareto import FRONTS, OBJECTIVES, front
from snn2chip.sweep.planning import plan
from snn2chip.sweep.running import Outcome, run_sweep
from snn2chip.sweep.source import Source

FILES = "model: model.pt\ndata: test.npz\n"

#: Configurations of every kind; two of them cannot be.
TEXT = (
    FILES
    + """
grid:
  bits: [8, {"*": 6, "0": 8}]
  thresholds: [1, 100, {"*": 1, "2 (Linear)": 1.2}]
  cutoff:
    - none
    - {policy: margin, max_drop: [10, 30]}
    - {policy: softmax, eps: 0.2}
    - {policy: patience, threshold: 2, form: [run, host], level: decision}
    - {policy: margin, threshold: 30, level: gated}
configurations:
  - {bits: 4, per_neuron: true, time_steps: 6}
  - {cutoff: {policy: first-spike}}
  - {window: 2}
  - {bits: 8}
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with calibration samples, test data, and a sweep."""
    torch.manual_seed(0)
    layers = (nn.Linear(8, 16), LIF(0.5), nn.Linear(16, 12), LIF(0.5), Readout(12, 3))
    network = Network(*layers, input_shape=(8,), time_steps=4).eval()
    x = np.random.default_rng(0).random((1600, 8)).astype(np.float32) * 4
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    path = tmp_path_factory.mktemp("sweep")
    s2c.save(network, path / "model.pt", calibration=(x[:1200], y[:1200]))
    np.savez(path / "test.npz", x=x[1200:], y=y[1200:])
    (path / "sweep.yaml").write_text(TEXT)
    return path


@pytest.fixture(scope="module")
def swept(folder: Path) -> Outcome:
    return run_sweep(folder / "sweep.yaml", folder / "here")


def row_of(found: Outcome, cutoff: Cutoff | None = None, **options: Any) -> dict[str, Any]:
    """The only row with these options."""
    usual = {"bits": "8", "thresholds": "1", "per_neuron": False, "window": None, "time_steps": 4, **options}
    cutoff = cutoff or Cutoff()
    aim = next((f"{name} {getattr(cutoff, name):g}" for name in config.AIMS if getattr(cutoff, name) is not None), None)
    wanted = {**usual, "policy": cutoff.policy or "none", "aim": aim}
    if cutoff.form:
        wanted["form"] = cutoff.form
    rows = [row for row in found.rows if all(row[name] == value for name, value in wanted.items())]
    assert len(rows) == 1, (wanted, len(rows))
    return rows[0]


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def as_json(*arguments: object) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(run(*arguments, "--json"))
    return found


# The file


def test_a_grid_is_every_combination_and_each_configuration_once() -> None:
    found = parse(TEXT).configurations
    assert len(found) == 2 * 3 * 7 + 3  # the last one is in the grid
    assert len(set(found)) == len(found)
    assert found[0] == Configuration() and found[1] == Configuration(cutoff=Cutoff("margin", max_drop=10.0))
    assert found[21].bits == (("*", 6), ("0", 8))
    assert found[-3:] == (
        Configuration(bits=(("*", 4),), per_neuron=True, time_steps=6),
        Configuration(cutoff=Cutoff("first-spike", threshold=1)),
        Configuration(window=2),
    )


def test_axes_of_layers_are_combined_too() -> None:
    found = parse(FILES + 'grid: {bits: {"*": [8, 4], a: [4, 2]}, thresholds: {a: [0.5, 1]}}').configurations
    assert {one.bits for one in found} == {
        (("*", 8), ("a", 4)),
        (("*", 8), ("a", 2)),
        (("*", 4),),  # a is no exception there
        (("*", 4), ("a", 2)),
    }
    assert {one.thresholds for one in found} == {(("*", 1.0), ("a", 0.5)), (("*", 1.0),)} and len(found) == 8


def test_drawn_configurations_are_of_the_grid_and_of_the_seed() -> None:
    grid = FILES + "grid: {bits: [1, 2, 3, 4, 5, 6, 7, 8], window: [1, 2, 3, 4, 5, 6, 7, 8, 9], per_neuron: [true]}\n"
    whole = parse(grid).configurations
    drawn = parse(grid + "random: 20\nseed: 3").configurations
    assert len(drawn) == 20 and set(drawn) < set(whole)
    assert drawn == parse(grid + "random: 20\nseed: 3").configurations != parse(grid + "random: 20").configurations
    assert [whole.index(one) for one in drawn] == sorted(whole.index(one) for one in drawn)
    assert parse(grid + "random: 900").configurations == whole
    large = "grid:\n  bits: {" + ", ".join(f"l{i}: [1, 2, 3, 4]" for i in range(30)) + "}\nrandom: 5"
    assert len(parse(FILES + large).configurations) == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grd: {bits: [8]}", "'grd' is unknown; did you mean grid?"),
        ("grid: {bitz: [8]}", "grid: 'bitz' is unknown; did you mean bits?"),
        ("bits: [8]", "'bits' is an option of configurations: move it below grid:"),
        ("configurations: [{bitz: 8}]", "configurations: 1: 'bitz' is unknown; did you mean bits?"),
        ("grid: {bits: [9]}", "grid: bits: '9', expected 1 to 8"),
        ("grid: {bits: [auto]}", "grid: bits: 'auto', expected 1 to 8"),
        ('grid: {bits: {"*": [0]}}', "grid: bits: '0', expected 1 to 8"),
        ("grid: {bits: {}}", "grid: bits: names no layer"),
        ("grid: {bits: []}", "grid: bits: is empty; give at least one value"),
        ("grid: {}", "grid: names no option"),
        ("grid: {rounding: [nearst]}", "'nearst' is unknown; did you mean nearest?"),
        ("grid: {per_neuron: [1]}", "per_neuron: '1', expected true or false"),
        ("grid: {thresholds: [0]}", "thresholds: '0', expected a factor"),
        ("grid: {time_steps: [0]}", "time_steps: '0', expected a whole number from 1"),
        ("grid: {bits: {0: [8]}}", "expected names of layers (in quotes)"),
        ("grid: {cutoff: [{policy: margn, max_drop: 1}]}", "policy: 'margn' is unknown; did you mean margin?"),
        ("grid: {cutoff: [{max_drop: 1}]}", "no policy, expected margin"),
        ("grid: {cutoff: [{policy: margin}]}", "margin: no aim given, expected one of threshold, max_drop"),
        ("grid: {cutoff: [{policy: margin, eps: 0.1}]}", "eps: is the confidence of policy softmax"),
        ("grid: {cutoff: [{policy: margin, max_drop: 1, threshold: 1}]}", "threshold and max_drop given"),
        ("grid: {cutoff: [{policy: margin, max_drop: 101}]}", "'101', expected a number from 0 to 100"),
        ("grid: {cutoff: [{policy: margin, max_drop: .nan}]}", "'nan', expected a number"),
        ("grid: {cutoff: [{policy: softmax, threshold: 9}]}", "softmax has several"),
        ("configurations: [{cutoff: {policy: margin, max_drop: [1, 2]}}]", "several values for one configuration"),
        ("configurations: {bits: 8}", "configurations: expected a list"),
        ("random: 5", "random: draws from a grid"),
        ("samples: 5", "no configurations; give grid:"),
        ("grid: {bits: [8]}\nsamples: 0", "samples: '0', expected a whole number from 1"),
        ("grid: {bits: [8]}\nseed: -1", "seed: '-1'"),
        ("grid: &a {bits: [8]}\nrandom: *a", "references"),
        ("grid: {bits: " + "[" * 300, "nested too deeply|is no plain YAML"),
        ("grid: {bits: [8]}\ngrid: {bits: [4]}", "given twice"),
    ],
    ids=lambda value: value[:40],
)
def test_refusals_are_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse(FILES + text)
    assert any(part in str(caught.value) for part in message.split("|")), str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_too_many_configurations_and_the_ways_out() -> None:
    grid = "grid: {thresholds: [" + ", ".join(f"{1 + i / 1000}" for i in range(LIMIT + 1)) + "]}\n"
    with pytest.raises(InputError, match=r"1,001 configurations, limit 1,000; draw some .* random: N.* limit: 1001"):
        parse(FILES + grid)
    assert len(parse(FILES + grid + "limit: 1001").configurations) == LIMIT + 1
    assert len(parse(FILES + grid + "random: 10").configurations) == 10
    beyond = "grid:\n  bits: {" + ", ".join(f"l{i}: [1, 2, 3, 4, 5, 6, 7, 8]" for i in range(21)) + "}\nrandom: 5"
    assert LARGEST_GRID < 8**21
    with pytest.raises(InputError, match=r"more than 2\^62"):
        parse(FILES + beyond)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_sweep_or_an_input_error(text: str) -> None:
    try:
        assert parse(FILES + text).configurations
    except InputError as error:
        assert "\n" not in str(error)


# Rows


def test_every_configuration_has_its_row(folder: Path, swept: Outcome) -> None:
    assert [row["configuration"] for row in swept.rows] == list(range(45))
    with (folder / "here" / "results.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [row["status"] for row in written] == [row["status"] for row in swept.rows]
    assert list(written[0]) == list(table.COLUMNS)
    failed = {row["configuration"]: row["reason"] for row in swept.rows if row["status"] == "failed"}
    large = [row for row in swept.rows if row["thresholds"] == "100"]
    assert len(large) == 14 and all("threshold is" in failed[row["configuration"]] for row in large)
    assert "first-spike needs output spikes" in failed[43] and "window 2:" in failed[44] and len(failed) == 16
    state = json.loads((folder / "here" / "sweep.json").read_text())
    assert (state["finished"], state["configurations"], state["failed"]) == (True, 45, 16)
    assert state["fronts"]["pareto"] == [row["configuration"] for row in swept.rows if row["pareto"]] != []
    assert {path.name for path in (folder / "here").iterdir()} == {
        "nets",
        "pareto.png",
        "pareto.svg",
        "results.csv",
        "sweep.json",
    }


def test_a_row_is_what_export_and_simulate_say(folder: Path, swept: Outcome, tmp_path: Path) -> None:
    model, test = folder / "model.pt", folder / "test.npz"
    yaml, net, ended = tmp_path / "model.yaml", tmp_path / "a.net", tmp_path / "b.net"
    yaml.write_text('bits: 6\nlayers: {"0 (Linear)": {bits: 8}}\n')
    row = row_of(swept, bits='{"*": 6, "0 (Linear)": 8}')
    run("export", model, "--config", yaml, "-o", net, "--no-verify")
    assert s2c.read(net) == s2c.read(folder / "here" / row["net"])
    said, seen = as_json("simulate", net, test), as_json("inspect", net)
    assert row["accuracy"] == row["accuracy_full"] == said["accuracy"] and row["samples"] == 400
    assert row["spikes"] * 400 == sum(said["spikes"].values())
    assert row["synaptic_operations"] * 400 == said["synaptic_operations"]
    assert (row["cores"], row["synaptic_memory_bytes"]) == (seen["cores"], seen["synaptic_memory_bytes"])
    assert (row["mean_steps"], row["mean_latency_steps"], row["exited"]) == (4, 4 + 3, 0)

    found = row_of(swept, Cutoff("margin", max_drop=10.0))
    run("export", model, "--exit", "margin", "--max-drop", "10", "-o", ended, "--no-verify")
    _compare(found, ended, test, "stopped")
    found = row_of(swept, Cutoff("softmax", eps=0.2), bits='{"*": 6, "0 (Linear)": 8}')
    run("export", model, "--config", yaml, "--exit", "softmax", "--eps", "0.2", "-o", ended, "--no-verify", "--force")
    _compare(found, ended, test, "stopped")


def _compare(row: dict[str, Any], net: Path, test: Path, level: str) -> None:
    said = as_json("simulate", net, test, "--exit", level)
    for name in ("accuracy", "mean_steps", "mean_latency_steps", "exited"):
        assert row[name] == said[name], name
    network, x = s2c.read(net), s2c.open_data(test).read()[0]
    cost = {one.level: one for one in level_costs(network, x)}[level]
    names = {"energy": "energy", "dynamic_energy": "dynamic", "sample_time": "seconds", "cores": "cores"}
    names |= {"spikes": "spikes", "synaptic_operations": "operations"}
    assert {name: row[name] for name in names} == {name: getattr(cost, theirs) for name, theirs in names.items()}
    assert network.exit is not None and row["exit_threshold"] == " ".join(map(str, network.exit.thresholds))


@pytest.mark.parametrize(
    ("cutoff", "level"),
    [
        (Cutoff("margin", threshold=30), "gated"),
        (Cutoff("patience", "run", threshold=2), "decision"),
        (Cutoff("patience", "host", threshold=2), "decision"),
    ],
)
def test_thresholds_that_are_given(folder: Path, swept: Outcome, tmp_path: Path, cutoff: Cutoff, level: str) -> None:
    from snn2chip.early_exit import attach

    changed = {"thresholds": '{"*": 1.0, "2 (Linear)": 1.2}'}
    row = row_of(swept, cutoff, **changed)
    net, policy, form = s2c.read(folder / "here" / row["net"]), cutoff.policy, cutoff.form
    assert cutoff.threshold is not None
    attached = attach(net, policy, cutoff.threshold, form)  # type: ignore[arg-type]
    s2c.export(attached, tmp_path / "exit.net")
    if level == "decision" and form == "host":  # the circuit decides the same, and costs cores
        assert row["accuracy"] == row_of(swept, replace(cutoff, form="run"), **changed)["accuracy"]
    _compare(row, tmp_path / "exit.net", folder / "test.npz", level)
    plain, more = s2c.read(folder / "here" / row_of(swept)["net"]), np.array([1.0, 1.2, 1.0])
    for one, other, factor in zip(plain.layers, net.layers, more, strict=True):
        assert isinstance(one.neuron, Neuron) and isinstance(other.neuron, Neuron)
        assert (other.neuron.threshold == np.rint(one.neuron.threshold * factor)).all()
        assert replace(other, neuron=one.neuron) == one


def test_other_options_reach_the_compiler(folder: Path, swept: Outcome) -> None:
    row = row_of(swept, bits="4", per_neuron=True, time_steps=6)
    net = s2c.read(folder / "here" / row["net"])
    model = s2c.load(folder / "model.pt")
    longer = replace(model, graph=replace(model.graph, time_steps=6))
    assert net == s2c.convert(longer, bits=4, per_neuron=True) and net.time_steps == 6
    x, y = s2c.open_data(folder / "test.npz").read()
    assert row["accuracy"] == s2c.simulate(net, x, y).accuracy


def test_what_differs_in_the_last_layer_alone_is_quantised_together(folder: Path, tmp_path: Path) -> None:
    widths: list[Any] = [{"*": 2, "0": 8}, {"*": 2, "0": 8, "4": 3}, 2, {"*": 2, "4": 3}, {"*": 2, "2": 3}]
    text = {"model": str(folder / "model.pt"), "data": str(folder / "test.npz"), "samples": 40}
    (tmp_path / "sweep.yaml").write_text(json.dumps({**text, "configurations": [{"bits": bits} for bits in widths]}))
    swept = config.load_sweep(tmp_path / "sweep.yaml")
    planned = plan(swept.configurations, Source(str(folder / "model.pt"), None, ""), s2c.open_data(folder / "test.npz"))
    together = [[planned.configurations.index(one) for one in family] for family in planned.families]
    assert together == [[0, 1], [2, 3], [4]]
    for row, bits in zip(run_sweep(tmp_path / "sweep.yaml", tmp_path / "out").rows, widths, strict=True):
        layers = {name: {"bits": width} for name, width in bits.items() if name != "*"} if bits != 2 else {}
        alone = s2c.convert(folder / "model.pt", bits=2, layers=layers)
        assert s2c.read(tmp_path / "out" / row["net"]) == alone


def test_a_netx_file_and_its_cutoffs(folder: Path, swept: Outcome, tmp_path: Path) -> None:
    s2c.export(s2c.convert(folder / "model.pt"), tmp_path / "model.net")
    model = s2c.load(folder / "model.pt")
    np.savez(tmp_path / "held.npz", x=model.x[256:], y=model.y[256:])
    (tmp_path / "test.npz").write_bytes((folder / "test.npz").read_bytes())
    sweep, exits = tmp_path / "cutoffs.yaml", "[none, {policy: margin, max_drop: [10, 30]}]"
    sweep.write_text(
        f"model: model.net\ndata: test.npz\ncalibration: held.npz\nsamples: 200\ngrid: {{cutoff: {exits}}}\n"
    )
    found = as_json("sweep", sweep, "-o", tmp_path / "out")
    assert (found["configurations"], found["failed"], found["samples"]) == (3, 0, 200)
    with (tmp_path / "out" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["bits"] == "" and rows[0]["net"] == "model.net" and rows[0]["samples"] == "200"
    said = as_json(
        "cutoff", tmp_path / "model.net", tmp_path / "held.npz", "--max-drop", "10", "-o", tmp_path / "exit.net"
    )
    assert rows[1]["exit_threshold"] == str(said["threshold"])
    seen = as_json("simulate", tmp_path / "exit.net", tmp_path / "test.npz", "--exit", "stopped", "--samples", "200")
    assert float(rows[1]["mean_steps"]) == seen["mean_steps"] and float(rows[1]["accuracy"]) == seen["accuracy"]
    for axis, message in (("bits: [4]", "bits: cannot be swept"), ("thresholds: [2]", "give the trained model")):
        sweep.write_text(f"model: model.net\ndata: test.npz\ngrid: {{{axis}}}\n")
        assert message in run("sweep", sweep, "-o", tmp_path / "refused", code=2)
    sweep.write_text(f"model: model.net\ndata: test.npz\ngrid: {{cutoff: {exits}}}\n")
    assert "need held-out samples" in run("sweep", sweep, "-o", tmp_path / "refused", code=2)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("grid: {bits: {nothing: [4]}}", 2, "bits: 'nothing' is no layer of the network; have 0 (Linear)"),
        ('configurations: [{bits: {"0": 4, "0 (Linear)": 3}}]', 2, "given twice"),
        ("grid: {scales: [serch]}", 2, "scales: 'serch' is unknown"),
        ("grid: {bits: [8]}\ntarget: loihi3", 2, "target: 'loihi3' is unknown"),
        ("grid: {bits: [8]}\ncalibration: none.npz", 3, "no such file"),
    ],
)
def test_what_the_network_does_not_have(folder: Path, tmp_path: Path, text: str, code: int, message: str) -> None:
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(FILES.replace(": ", f": {folder}/") + text)
    assert message in run("sweep", sweep, code=code)
    assert not sweep.with_suffix("").exists()


def test_data_that_do_not_fit(folder: Path, tmp_path: Path) -> None:
    sweep, (x, y) = tmp_path / "sweep.yaml", s2c.open_data(folder / "test.npz").read()
    assert y is not None
    for arrays, axis, code, message in (
        ({"x": x}, "bits: [8]", 3, "no classes y"),
        ({"x": x[:, :7], "y": y}, "bits: [8]", 3, "shape (400, 7), expected (N, 4, 8) or (N, 8)"),
        ({"x": np.repeat(x[:, None], 4, 1), "y": y}, "time_steps: [4, 5]", 2, "has a time axis of its own"),
    ):
        np.savez(tmp_path / "data.npz", **arrays)
        sweep.write_text(f"model: {folder}/model.pt\ndata: data.npz\ngrid: {{{axis}}}\n")
        assert message in run("sweep", sweep, "-o", tmp_path / "out", code=code)


def test_a_chip_that_cannot_hold_it(folder: Path, tmp_path: Path) -> None:
    """Loihi 1 takes no graded input; and the circuit of a margin needs a current that never decays."""
    sweep = tmp_path / "sweep.yaml"
    cutoffs = "grid: {cutoff: [none, {policy: margin, threshold: 9}]}\ntarget: loihi1\n"
    sweep.write_text(FILES.replace(": ", f": {folder}/") + cutoffs)
    found = run("sweep", sweep)
    assert "2 failed" in found and "2: 0 (Linear): bits of an input message is 8" in found and "(L1-GRADED)" in found
    assert not sweep.with_suffix("").joinpath("pareto.png").exists()

    rng = np.random.default_rng(0)
    first = Dense("fc", (8,), rng.integers(-60, 70, (9, 8)), Neuron.of("fc", 90, 4096, 2000))
    last = Dense("out", (9,), rng.integers(-127, 128, (3, 9)), Neuron.of("out", 131071, 4096, 0))
    s2c.export(ChipNet((8,), (first, last), readout=ChipReadout("potential"), time_steps=4), tmp_path / "a.net")
    np.savez(tmp_path / "data.npz", x=(rng.random((50, 4, 8)) < 0.5).astype(np.uint8), y=np.arange(50) % 3)
    sweep.write_text(f"model: a.net\ndata: data.npz\n{cutoffs}")
    rows = run_sweep(sweep, tmp_path / "out").rows
    assert [row["status"] for row in rows] == ["ok", "failed"] and "(L1-IDECAY)" in rows[1]["reason"]


def test_thresholds_of_neurons_that_lowering_added_stay() -> None:
    torch.manual_seed(1)
    layers = (nn.Conv2d(1, 3, 3), LIF(0.5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4), LIF(0.0), Readout(4, 3))
    network = Network(*layers, input_shape=(1, 6, 6), time_steps=3).eval()
    x = np.random.default_rng(1).random((40, 1, 6, 6)).astype(np.float32)
    model_x = x * 3
    from snn2chip.model_file import model_of

    compiled = compile_model(model_of(network, calibration=model_x))
    blocks = chip_blocks(compiled.lowered)
    after = with_thresholds(compiled.net, blocks, {"*": 1.5})
    changed = {one.name for one, other in zip(compiled.net.layers, after.layers, strict=True) if one != other}
    assert changed == {"0 (Conv2d)", "4 (Linear)"}, "relays and readouts have no threshold of the model's"
    memoryless = next(layer for layer in after.layers if layer.name == "4 (Linear)").neuron
    assert isinstance(memoryless, Neuron) and (memoryless.threshold % 2 == 1).all(), "between two even potentials"
    assert with_thresholds(compiled.net, blocks, {"*": 1.0}) == compiled.net
    with pytest.raises(LimitError, match="use a smaller factor"):
        with_thresholds(compiled.net, blocks, {"*": 1e4})


# Fronts


points = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=12)


@settings(max_examples=200, deadline=None)
@given(points)
def test_nothing_beats_the_front_and_the_front_beats_the_rest(rows: list[tuple[int, ...]]) -> None:
    def dominates(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        return one != other and all(a <= b for a, b in zip(one, other, strict=True))

    on = front(np.array(rows, float).reshape(len(rows), 3))
    best = [row for row, chosen in zip(rows, on, strict=True) if chosen]
    for row, chosen in zip(rows, on, strict=True):
        beaten = any(dominates(other, row) for other in best)
        assert beaten != chosen
        assert not (chosen and any(dominates(other, row) for other in rows))


def test_columns_say_which_rows_are_on_the_fronts(swept: Outcome) -> None:
    fine = [row for row in swept.rows if row["status"] == "ok"]
    assert not any(row[name] for row in swept.rows if row not in fine for name in FRONTS)
    for column, names in FRONTS.items():
        costs = np.array([[OBJECTIVES[name] * row[name] for name in names] for row in fine])
        assert front(costs).tolist() == [row[column] for row in fine]


# Who runs it


def test_two_workers_change_no_byte(folder: Path, swept: Outcome, tmp_path: Path) -> None:
    run_sweep(folder / "sweep.yaml", tmp_path / "out", where="local", workers=2)
    for name in ("results.csv", "sweep.json", "pareto.png", "pareto.svg"):
        assert (tmp_path / "out" / name).read_bytes() == (folder / "here" / name).read_bytes(), name


def test_a_killed_sweep_goes_on_with_a_worker(folder: Path, swept: Outcome, tmp_path: Path) -> None:
    """Nor does it matter that two processes have each done a part."""
    out = tmp_path / "out"
    arguments = [sys.executable, "-m", "snn2chip", "sweep", str(folder / "sweep.yaml"), "-o", str(out)]
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
        while client.poll() is None and not list(out.glob("journal/*.task")):
            time.sleep(0.005)
        os.kill(client.pid, signal.SIGKILL)
        _, said = client.communicate()
    assert client.returncode == -signal.SIGKILL, said
    assert not json.loads((out / "sweep.json").read_text())["finished"] and not (out / "results.csv").exists()
    nets = {path: path.stat().st_mtime_ns for path in out.glob("nets/*.net")}
    other = folder / "other.yaml"
    other.write_text(TEXT.replace("max_drop: [10, 30]", "max_drop: [10, 20]"))
    with pytest.raises(UsageError, match="unfinished sweep with another configurations; --force"):
        run_sweep(other, out)
    told: list[tuple[str, int, int]] = []
    sweep = folder / "sweep.yaml"
    run_sweep(sweep, out, where="local", workers=1, progress=lambda *what: told.append(what))
    assert told[0][0] == "compiling" and told[0][1] >= 1, "what was done is not done again"
    assert nets and any(path.stat().st_mtime_ns == when for path, when in nets.items())
    for name in ("results.csv", "sweep.json", "pareto.png", "pareto.svg"):
        assert (out / name).read_bytes() == (folder / "here" / name).read_bytes(), name
    assert not (out / "journal").exists()


def test_nothing_is_overwritten_unasked(folder: Path, swept: Outcome, tmp_path: Path) -> None:
    assert "holds a finished sweep; --force" in run("sweep", folder / "sweep.yaml", "-o", folder / "here", code=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert "holds thesis.tex" in run("sweep", folder / "sweep.yaml", "-o", tmp_path / "mine", "--force", code=2)
    small = folder / "small.yaml"
    small.write_text(FILES + "samples: 50\ngrid: {bits: [8, 7]}\n")
    out = tmp_path / "out"
    assert "2 configurations on 50 samples" in run("sweep", small, "-o", out)
    before = (out / "results.csv").read_bytes()
    text = run("sweep", small, "-o", out, "--force", "--format", "parquet")
    assert "results.parquet" in text and not (out / "results.csv").exists()
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(out / "results.parquet").to_pylist()
    assert table.encoded(rows, "csv") == before and table.encoded(rows, "parquet") == table.encoded(rows, "parquet")
    assert "needs --cluster" in run("sweep", small, "-o", tmp_path / "none", "--workers", "2", code=2)
    assert not (tmp_path / "none").exists()


def test_parquet_needs_the_extra(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(EnvironmentFailure, match=r"pip install 'snn2chip\[cluster\]'"):
        run_sweep(folder / "sweep.yaml", tmp_path / "out", form="parquet")
    assert not (tmp_path / "out").exists()


def test_a_file_to_begin_with(folder: Path, tmp_path: Path) -> None:
    model = folder / "model.pt"
    said = as_json("sweep", "--init", model, "-o", tmp_path / "sweep.yaml")
    assert said["layers"] == ["0 (Linear)", "2 (Linear)", "4 (Readout)"]
    text = (tmp_path / "sweep.yaml").read_text()
    assert (tmp_path / config.load_sweep(tmp_path / "sweep.yaml").model).resolve() == model
    uncommented = [line.replace("# ", "", 1) for line in text.splitlines() if line.startswith("  # ")]
    for line in uncommented:  # each example is one that a grid takes
        parse(f"{FILES}random: 2\ngrid:\n{line}\n")
    assert "exists" in run("sweep", "--init", model, "-o", tmp_path / "sweep.yaml", code=2)


def test_the_example_is_one() -> None:
    found = config.load_sweep(Path(__file__).parents[1] / "examples" / "sweep.yaml")
    assert len(found.configurations) == 5 * 2 * 4 + 3 and found.model == "../demo/model.pt"


def test_words_are_those_of_the_library() -> None:
    assert config.LEVELS == LEVELS and command.FORMATS == table.FORMATS
