"""Configuration files: what they hold, what is refused; and `init`, `export --config`, `diff` on the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import snn2chip as s2c
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.cli import cli
from snn2chip.config import MAX_BYTES, Config, ExitConfig, LayerConfig, load_config, parse, template
from snn2chip.differences import differences
from snn2chip.errors import InputError
from snn2chip.exporters import netx
from snn2chip.nn import LIF, Network, Readout


def test_a_template_is_the_default() -> None:
    text = template("model.pt", ["0 (Conv2d)", 'odd "name" \\ (Linear)'], analog=True)
    config = parse(text)
    assert set(config.layers) == {"0 (Conv2d)", 'odd "name" \\ (Linear)'}
    assert set(config.layers.values()) == {LayerConfig()}
    assert replace(config, layers={}) == replace(Config(), target="loihi2")
    assert parse("") == Config()


def test_values() -> None:
    config = parse("bits: auto\nmax_drop: 1\nbudget_cores: 3\nexit: {policy: margin, max_drop: 0.5}\nresets: zero\n")
    assert (config.bits, config.max_drop, config.budget_cores, config.resets) == ("auto", 1.0, 3, "zero")
    assert config.exit == ExitConfig("margin", 0.5)
    layers = parse("layers:\n  '0': {bits: 3, scales: max}\n  x: {}\n").layer_options()
    assert layers == {"0": {"bits": 3, "scales": "max"}, "x": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bitz: 8", "'bitz' is unknown; did you mean bits?"),
        ("layers: {a: {bit: 3}}", "layers: a: 'bit' is unknown; did you mean bits?"),
        ("exit: {polcy: margin}", "exit: 'polcy' is unknown; did you mean policy?"),
        ("input: {analog: holt}", "input: analog: 'holt' is unknown; did you mean hold?"),
        ("zzz: 1", "'zzz' is unknown, expected bits, "),
        ("bits: 9", "bits: '9', expected 1 to 8, or auto"),
        ("bits: true", "bits: 'True'"),
        ("layers: {a: {bits: auto}}", "layers: a: bits: 'auto', expected 1 to 8"),
        ("per_neuron: 1", "per_neuron: '1', expected true or false"),
        ("window: -3", "window: '-3', expected a whole number"),
        ("max_drop: .nan\nbits: auto", "max_drop: 'nan'"),
        ("max_drop: 0.5", "belong to bits: auto"),
        ("bits: auto\nlayers: {a: {bits: 3}}", "auto chooses the widths of all layers"),
        ("- 1\n- 2", "expected keys with values"),
        ("layers: [a]", "layers: expected names"),
        ("bits: 8\nbits: 4", "'bits' is given twice"),
        ("bits: [", "is no plain YAML"),
        ("a: &x 1\nb: *x", "references"),
        ("a: !!python/object/apply:os.system ['false']", "is no plain YAML"),
        ("bits: " + "[" * 5000, "nested too deeply|is no plain YAML"),
        ("? [1, 2]\n: 3", "is unknown|is no plain YAML"),
        ("bits: 2001-99-99", "is no plain YAML"),
    ],
)
def test_refusals_are_one_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("|is", "|is")) as caught:
        parse(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_laughing_files_are_refused_at_once(tmp_path: Path) -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    with pytest.raises(InputError, match="references"):
        parse(bomb)
    large, binary = tmp_path / "large.yaml", tmp_path / "binary.yaml"
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    binary.write_bytes(b"\xff\xfe\x00")
    for path, message in ((large, "larger than"), (binary, "UTF-8"), (tmp_path / "none", "no such file")):
        with pytest.raises(InputError, match=message):
            load_config(path)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_a_configuration_or_an_input_error(text: str) -> None:
    try:
        assert isinstance(parse(text), Config)
    except InputError as error:
        assert "\n" not in str(error)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    layers = (nn.Linear(8, 16), LIF(0.5), nn.Linear(16, 8), LIF(0.5), Readout(8, 3))
    network = Network(*layers, input_shape=(8,), time_steps=4).eval()
    x = np.random.default_rng(0).random((60, 8)).astype(np.float32) * 4
    y = network(torch.from_numpy(x)).argmax(1).numpy()
    path = tmp_path_factory.mktemp("config") / "model.pt"
    s2c.save(network, path, calibration=(x, y))
    return path


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_init_export_and_diff(model: Path, tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    assert "3 layers" in run("init", model, "-o", config)
    run("init", model, "-o", config, code=2)  # exists
    text = config.read_text()
    plain, narrow, flag = (tmp_path / f"{name}.net" for name in ("plain", "narrow", "flag"))
    run("export", model, "--config", config, "-o", plain, "--no-verify")
    assert s2c.read(plain) == s2c.convert(model)
    config.write_text(text.replace('"2 (Linear)": {bits: null', '"2 (Linear)": {bits: 3'))
    said = json.loads(run("export", model, "--config", config, "-o", narrow, "--no-verify", "--json"))
    rung = said["ladder"]["chip"]
    assert rung["interval"][0] < rung["accuracy"] <= rung["interval"][1] and set(rung["layer_agreement"])
    assert netx.read_measured(narrow)["ladder"]["chip"]["accuracy"] == rung["accuracy"]
    assert {bound["what"] for bound in said["bounds"]} == {"sum", "u", "v"}
    assert s2c.read(narrow) == s2c.convert(model, layers={"2": {"bits": 3}})
    run("export", model, "--config", config, "-o", flag, "--no-verify", "--bits", "6")
    assert s2c.read(flag) == s2c.convert(model, bits=6, layers={"2": {"bits": 3}})

    assert "equal" in run("diff", plain, plain)
    found = json.loads(run("diff", plain, narrow, "--json", code=1))["differences"]
    assert {"2 (Linear)", "4 (Readout)"} >= {one["layer"] for one in found} and found[0]["what"] == "weight"
    assert "2 (Linear)" in run("diff", plain, narrow, code=1)
    config.write_text("bitz: 3")
    result = CliRunner().invoke(cli, ["export", str(model), "--config", str(config)])
    assert result.exit_code == 3 and result.output.splitlines() == [
        f"error: {config}: 'bitz' is unknown; did you mean bits?"
    ]


def test_auto_bits_on_the_command_line(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "auto.net"
    said = json.loads(run("export", model, "-o", out, "--bits", "auto", "--max-drop", "5", "--no-verify", "--json"))
    widths = said["widths"]
    assert widths["drop"] <= 0.05 and widths["memory"][0] < widths["memory"][1]
    assert set(widths["bits"]) == {"0 (Linear)", "2 (Linear)", "4 (Readout)"}
    run("export", model, "--bits", "4", "--budget-cores", "2", code=2)


def small(**changes: object) -> ChipNet:
    layer = Dense("a", (2,), np.array([[1, 2], [3, 4]]), Neuron.of("a", 9, bias=np.array([1, 2])))
    return replace(ChipNet((2,), (layer, replace(layer, name="b")), time_steps=3), **changes)


def test_differences_say_how_much() -> None:
    net = small()
    other = replace(net.layers[0], weight=np.array([[1, 2], [3, 14]]), neuron=Neuron.of("a", 10, bias=np.array([1, 2])))
    first, second = differences(net, replace(net, layers=(other, net.layers[1])))
    assert (first.layer, first.what, first.changed, first.total, first.largest, first.mean) == (
        "a",
        "weight",
        1,
        4,
        10,
        2.5,
    )
    assert (second.what, second.first, second.second, second.largest) == ("neuron.threshold", "9..9", "10..10", 1)
    assert differences(net, small()) == ()
    whats = {(one.layer, one.what) for one in differences(net, small(time_steps=4, window=8, layers=net.layers[:1]))}
    assert whats == {("", "time_steps"), ("", "window"), ("b", "layer")}
