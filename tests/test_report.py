"""The HTML report: its numbers, what it escapes and never fetches, and how it looks to a browser."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import with_browser
from click.testing import CliRunner, Result
from torch import nn

import snn2chip as s2c
from snn2chip.chip import ChipNet, Dense, Encoding, Neuron
from snn2chip.cli import cli
from snn2chip.data import of_arrays
from snn2chip.early_exit import attach, simulate_exit, with_host_rule
from snn2chip.errors import InputError
from snn2chip.graph import ChipLayer, Graph, Input
from snn2chip.hardware import estimate, place, target_of
from snn2chip.model_file import load
from snn2chip.nn import LIF, Network, Readout
from snn2chip.report import Names, Options, collect, page, summary
from snn2chip.report.collect import recorded_ladder
from snn2chip.report.sections import TITLES
from snn2chip.report.words import interval, percent, si

HOSTILE = "<script>alert(1)</script>\"'><img src=//x onerror=y>{{ 7 * 7 }}\u202e"
VOID = {"meta", "br", "img", "link", "hr", "input"}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, its network without and with an early exit, and data with and without classes."""
    path = tmp_path_factory.mktemp("report")
    torch.manual_seed(0)
    network = Network(
        nn.Conv2d(1, 4, 3), LIF(), nn.AvgPool2d(2), nn.Flatten(), Readout(36, 3), input_shape=(1, 8, 8), time_steps=4
    )
    x = np.random.default_rng(0).random((40, 1, 8, 8)).astype(np.float32) * 3
    y = np.arange(40) % 3
    s2c.save(network, path / "model.pt", calibration=(x, y))
    np.savez(path / "data.npz", x=x, y=y)
    np.savez(path / "bare.npz", x=x)
    compiled = s2c.compile_model(path / "model.pt")
    s2c.export(compiled.net, path / "model.net")
    s2c.export(attach(compiled.net, "margin", 20), path / "exit.net")
    return path


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The report with everything, and what the command said about it."""
    target = folder / "report.html"
    result = call(
        *("report", folder / "exit.net", folder / "data.npz", "-o", target),
        *("--source", folder / "model.pt", "--against", "reference", "--json"),
    )
    assert result.exit_code == 0, result.output
    return target, json.loads(result.stdout)


class Page(HTMLParser):
    """Elements with their attributes, and the text of all that is shown; every element has to be closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.inside: dict[str, list[str]] = {}
        self._ids: list[str | None] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        for owner in filter(None, self._ids):
            self.inside[owner].append(tag)
        if tag not in VOID:
            self.open.append(tag)
            self._ids.append(dict(attrs).get("id"))
            if self._ids[-1]:
                self.inside[self._ids[-1]] = []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        for owner in filter(None, self._ids):
            self.inside[owner].append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self._ids.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def ids(self) -> set[str]:
        found = [attributes["id"] for _, attributes in self.elements if attributes.get("id")]
        assert len(found) == len(set(found))
        return {name for name in found if name}

    def shows(self, words: str) -> bool:
        return words.replace("\u00a0", " ") in " ".join(self.text.replace("\u00a0", " ").split())


def read(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def test_all_sections_and_figures_are_there(made: tuple[Path, dict[str, Any]]) -> None:
    found = read(made[0])
    assert set(TITLES) | {"summary"} <= found.ids()
    single = ("shares", "accuracy", "time", "exit", "trade", "rates", "input", "energy", "cores-1")
    series = [f"raster-{i}" for i in (1, 2, 3)] + [f"{k}-{i}" for k in ("potential", "weights") for i in (1, 2)]
    figures = {name for name in found.ids() if name.startswith("fig-")}
    assert figures == {f"fig-{name}" for name in (*single, *series)}
    for name in figures:
        inside = found.inside[name]
        assert inside.count("svg") == inside.count("figcaption") == 1, name
        assert sum(tag in ("path", "rect", "circle", "line") for tag in inside) >= 3, name
    drawn = [attributes for tag, attributes in found.elements if tag == "svg"]
    assert len(drawn) == len(figures)
    assert all(a["role"] == "img" and any(c.isdigit() for c in a["aria-label"] or "") for a in drawn)
    anchors = {(a["href"] or "").removeprefix("#") for tag, a in found.elements if tag == "a"}
    assert anchors <= found.ids()


def test_nothing_is_fetched_and_nothing_runs(made: tuple[Path, dict[str, Any]]) -> None:
    html = made[0].read_text("utf-8")
    found = Page(html)
    assert not {"script", "link", "iframe", "img", "object", "form"} & {tag for tag, _ in found.elements}
    for tag, attributes in found.elements:
        assert not {"src", "srcset", "style"} & attributes.keys(), tag
        assert not any(name.startswith("on") for name in attributes), tag
        assert (attributes.get("href") or "#").startswith("#"), attributes
    assert not re.search(r"url\(|@import|https?:", html)
    policy = next(a["content"] for _, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert len(html.encode()) == made[1]["bytes"] < 300_000


def test_its_numbers_are_those_of_the_other_commands(folder: Path, made: tuple[Path, dict[str, Any]]) -> None:
    found, said = read(made[0]), made[1]
    net = s2c.read(folder / "exit.net")
    with np.load(folder / "data.npz") as data:
        x, y = data["x"], data["y"]
    run = s2c.simulate(net, x, y)
    assert said["accuracy"] == run.accuracy
    verified = json.loads(
        call(
            *("verify", folder / "exit.net", folder / "data.npz", "--against", "reference", "--samples", 40, "--json"),
            *("--source", folder / "model.pt"),
        ).stdout
    )
    assert said["float_accuracy"] == verified["ladder"]["float"]["accuracy"]
    assert (said["equal"], said["differing_spikes"], said["differing_states"]) == (True, 0, 0)
    for rung in verified["ladder"].values():
        assert found.shows(percent(rung["accuracy"]))
        assert found.shows(interval(rung["interval"]))
        assert all(found.shows(f"{count:,}") for count in rung["spikes"].values())
    assert found.shows(percent(verified["ladder"]["chip"]["layer_agreement"]["0 (Conv2d)"], 3))
    inspected = json.loads(call("inspect", folder / "exit.net", "--json").stdout)
    assert said["cores"] == inspected["cores"]
    for layer in inspected["layers"]:
        assert found.shows(layer["name"]) and found.shows(f"{layer['synapses']:,}")
    placement = place(net, target_of("loihi2"))
    cost = estimate(net, placement, run.traces, 40)
    # the event simulator kept the readout's spikes in neither run, so that both spread them alike
    assert said["energy"] == cost.total.mid and said["seconds_per_sample"] == cost.sample_time.mid
    assert found.shows(si(cost.total.mid, "J")) and found.shows(si(cost.sample_time.mid, "s"))
    early = simulate_exit(net, x, y)
    assert said["exit"] == {
        "accuracy": early.accuracy,
        "mean_steps": float(early.latency.cutoff.mean()),
        "mean_latency_steps": float(early.latency.chip.mean()),
        "exited": float(early.decisions.exited.mean()),
    }
    assert early.decisions.exited.any()
    assert found.shows(f"{early.latency.cutoff.mean():.2f} of 4 steps")
    assert all(found.shows(line) for line in said["inexact"])


def test_the_same_inputs_give_the_same_bytes(folder: Path, made: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    for name in ("exit.net", "data.npz", "model.pt"):
        shutil.copy(folder / name, tmp_path / name)
    again = call(
        *("report", tmp_path / "exit.net", tmp_path / "data.npz", "-o", tmp_path / "other name.html"),
        *("--source", tmp_path / "model.pt", "--against", "reference"),
    )
    assert again.exit_code == 0, again.output
    assert "equal: event against reference, 16 samples" in again.stdout
    assert (tmp_path / "other name.html").read_bytes() == made[0].read_bytes()
    assert str(folder) not in made[0].read_text("utf-8")
    assert read(made[0]).shows(hashlib.sha256((folder / "exit.net").read_bytes()).hexdigest())


def test_what_cannot_be_shown_is_said(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "bare.html"
    result = call("report", folder / "model.net", folder / "bare.npz", "-o", target, "--against", "reference")
    assert result.exit_code == 0, result.output
    found = read(target)
    for words in (
        "The data have no classes",
        "Each sample takes its whole window",
        "The network has no early exit",
        "Only the chip is shown: --source",
        "Not compared: --source",
        "Weights before rounding are not shown",
        "Only the chip's potentials are shown",
        "no trade-off of accuracy and energy",
        "Lava was not run",
        "this is no accuracy",
    ):
        assert found.shows(words), words
    assert not {"fig-accuracy", "fig-exit", "fig-trade"} & found.ids()
    assert {"fig-time", "fig-potential-1", "fig-weights-1"} <= found.ids()


@pytest.fixture(scope="module")
def hostile(folder: Path) -> Path:
    """A report with names and notes that nobody would give."""
    net = s2c.read(folder / "model.net")
    layers = (replace(net.layers[0], name=HOSTILE), replace(net.layers[1], name="L" * 3000 + "\ud800"))
    net = replace(net, layers=layers, inexact=(f"{HOSTILE}: 3 of 4 differ",))
    with np.load(folder / "data.npz") as data:
        content = collect(
            net,
            of_arrays(data["x"], data["y"]),
            options=Options(against="reference", proof_samples=2, samples=5),
            names=Names(HOSTILE, HOSTILE, hashes={HOSTILE: "0"}),
        )
    target = folder / "hostile.html"
    target.write_bytes(page(content).encode())
    return target


def test_a_page_without_lava_says_so_and_names_no_paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snn2chip.errors import LavaMissing
    from snn2chip.simulators import lava

    def missing(*arguments: Any, **options: Any) -> Any:
        raise LavaMissing(f"Lava is not installed for {sys.executable}")

    monkeypatch.setattr(lava, "run", missing)
    data = s2c.open_data(folder / "bare.npz")
    html = page(collect(s2c.read(folder / "model.net"), data, options=Options(proof_samples=1, samples=1)))
    assert Page(html).shows("Lava is not installed where this page was made")
    assert sys.executable not in html


def test_names_from_files_are_escaped(hostile: Path) -> None:
    html = hostile.read_text("utf-8")
    found = Page(html)
    assert found.shows(HOSTILE) and found.shows(f"{HOSTILE}: 3 of 4 differ") and found.shows("{{ 7 * 7 }}")
    assert "49" not in found.text.replace(HOSTILE, "").split()[:20]
    assert not {"script", "img"} & {tag for tag, _ in found.elements}
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)
    assert len(html) < 300_000


def with_weight(net: ChipNet, layer: int, change: int) -> ChipNet:
    """``net`` with one weight changed."""
    old = net.layers[layer]
    weight = np.array(old.weight)  # type: ignore[union-attr]
    weight.flat[np.abs(weight).argmin()] += change
    layers = list(net.layers)
    layers[layer] = replace(old, weight=weight)
    return replace(net, layers=tuple(layers))


def test_a_changed_file_shows_against_its_source(folder: Path, tmp_path: Path) -> None:
    """One weight of a trained network: its error and the spikes that it changes."""
    net = s2c.read(folder / "model.net")
    s2c.export(with_weight(net, 0, 100), tmp_path / "changed.net")
    errors = []
    for file in (folder / "model.net", tmp_path / "changed.net"):
        target = tmp_path / f"{file.stem}.html"
        arguments = ("report", file, folder / "data.npz", "-o", target, "--against", "reference")
        result = call(*arguments, "--source", folder / "model.pt", "--json")
        assert result.exit_code == 0, result.output  # both simulators read the same file
        content = collect(
            s2c.read(file),
            s2c.open_data(folder / "data.npz"),
            load(folder / "model.pt").graph,  # type: ignore[union-attr]
            options=Options(against="reference"),
        )
        first = content.apart[0]
        assert first.weight_error is not None
        errors.append((first.differing, first.weight_error))
        assert read(target).shows(f"{first.differing:,}") and "divergence-model" in read(target).ids()
    assert errors[0][1] < 0.6 < 90 < errors[1][1]
    assert errors[0][0] < errors[1][0]


def integer_source() -> tuple[Graph, ChipNet]:
    rng = np.random.default_rng(1)
    one = Dense("hidden", (5,), rng.integers(-40, 90, (6, 5)).astype(np.int32), Neuron.of("hidden", 60, 4096, 1024))
    two = Dense("out", (6,), rng.integers(-40, 90, (3, 6)).astype(np.int32), Neuron.of("out", 40, 4096, 1024))
    nodes = (
        Input(name="input", shape=(5,)),
        ChipLayer(name="hidden", inputs=("input",), layer=one),
        ChipLayer(name="out", inputs=("hidden",), layer=two),
    )
    return Graph(nodes, 6), ChipNet((5,), (one, two), time_steps=6)


@pytest.mark.parametrize("changed", [False, True])
def test_a_source_of_integers_has_to_be_met_exactly(changed: bool) -> None:
    graph, net = integer_source()
    x = (np.random.default_rng(2).random((4, 6, 5)) < 0.5).astype(np.uint8)
    content = collect(
        with_weight(net, 1, 100) if changed else net, of_arrays(x), graph, options=Options(against="reference")
    )
    found = Page(page(content))
    assert found.shows("The file is not what the source says") is changed
    assert found.shows("the chip fires exactly as its source") is not changed
    assert [one.what for one in content.changed] == (["weight"] if changed else [])
    assert content.membranes[0].model is not None
    assert np.array_equal(content.membranes[0].chip, content.membranes[0].model)


def test_a_divergence_is_located(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from snn2chip.simulators import event

    true = event.run

    def wrong(*arguments: Any, **options: Any) -> Any:
        traces = true(*arguments, **options)
        if "0 (Conv2d)" in traces.u:
            traces.u["0 (Conv2d)"][3, 2, 1, 4, 5] += 64
        return traces

    monkeypatch.setattr(event, "run", wrong)
    target = tmp_path / "report.html"
    result = call("report", folder / "model.net", folder / "data.npz", "-o", target, "--against", "reference", "--json")
    assert result.exit_code == 1
    assert (json.loads(result.stdout)["equal"], json.loads(result.stdout)["differing_states"]) == (False, 1)
    found = read(target)
    for words in (
        "Differs from reference",
        "(1, 4, 5)",
        "a weight differs",
        "1 differing state (u or v)",
        "0 spikes and 1 state of 16 samples",
    ):
        assert found.shows(words), words
    assert "bad" in next(a["class"] or "" for _, a in found.elements if a.get("id") == "divergence-simulators")


def test_chosen_neurons(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    command = ["report", folder / "model.net", folder / "data.npz", "-o", target, "--against", "reference", "--force"]
    chosen = [
        ("0:2,5,5", "0 (Conv2d), neuron (2, 5, 5)"),
        ("L1:107", "neuron (2, 5, 5)"),
        ("4 (Readout):1", "neuron (1)"),
    ]
    asked = [word for neuron, _ in chosen for word in ("--neuron", neuron)]
    assert call(*command, *asked, "--source", folder / "model.pt").exit_code == 0
    found = read(target)
    assert {f"fig-potential-{i}" for i in (1, 2, 3)} <= found.ids() and "fig-potential-4" not in found.ids()
    assert all(found.shows(words) for _, words in chosen)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--neuron", "0:9,9,9"], "4x6x6"),
        (["--neuron", "nowhere:1"], "have 0 (Conv2d), 4 (Readout)"),
        (["--neuron", "7"], "expected LAYER:INDEX"),
        (["--source", "other.pt"], "the network has 4 (Readout)"),
        (["-o", "model.net"], "which the command needs"),
    ],
)
def test_wrong_usage_leaves_nothing_behind(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "model.net", tmp_path)
    other = Network(nn.Conv2d(1, 4, 3), LIF(), nn.Flatten(), Readout(144, 3), input_shape=(1, 8, 8), time_steps=4)
    s2c.save(other, "other.pt", torch.rand(4, 1, 8, 8))
    before = sorted(tmp_path.iterdir())
    target = [] if "-o" in options else ["-o", "report.html"]
    result = call("report", "model.net", folder / "data.npz", *target, *options, "--against", "reference")
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_the_ladder_in_the_file_is_shown_if_it_is_one(folder: Path, tmp_path: Path) -> None:
    rungs = {name: {"accuracy": share} for name, share in (("float", 0.75), ("graph", 0.75), ("chip", 0.625))}
    s2c.export(s2c.read(folder / "model.net"), tmp_path / "a.net", measured={"ladder": rungs, "samples": 8})
    arguments = ("report", tmp_path / "a.net", folder / "data.npz", "-o", tmp_path / "a.html", "--against", "reference")
    assert call(*arguments).exit_code == 0
    found = read(tmp_path / "a.html")
    assert found.shows("As measured when the file was exported") and found.shows("62.50 %")
    rungs["chip"]["accuracy"] = 62.5
    s2c.export(s2c.read(folder / "model.net"), tmp_path / "a.net", measured={"ladder": rungs, "samples": 8}, force=True)
    bad = call(*arguments, "--force")
    assert (bad.exit_code, "export the network again" in bad.stderr) == (3, True), bad.stderr
    for wrong in ({"ladder": 1}, {"ladder": rungs, "samples": 0}, {"ladder": {"float": 3}, "samples": 1}):
        with pytest.raises(InputError, match="malformed"):
            recorded_ladder(wrong)
    assert recorded_ladder({}) is None


def test_a_long_and_wide_network_stays_small() -> None:
    """Sampled neurons, binned steps, and captions that say so; a rule of the host; no classes of one neuron."""
    rng = np.random.default_rng(0)
    one = Dense("wide", (30,), rng.integers(-60, 120, (1500, 30)).astype(np.int32), Neuron.of("wide", 400, 1024, 256))
    two = Dense("out", (1500,), rng.integers(-9, 10, (4, 1500)).astype(np.int32), Neuron.of("out", 2000, 4096, 256))
    net = ChipNet((30,), (one, two), Encoding("graded", 1.0, 0, 3), time_steps=220, window=256)
    x, y = rng.integers(0, 4, (3, 220, 30)), np.arange(3)
    host = with_host_rule(net, "margin", (3,))
    content = collect(host, of_arrays(x, y), options=Options(against="reference", proof_samples=2, samples=3))
    html = page(content)
    found = Page(html)
    assert len(html) < 1_000_000
    assert found.shows("64 of 1,500 neurons, evenly spaced.") and found.shows("A mark stands for 2 steps.")
    assert found.shows("to 200 of 220.") and found.shows("applied outside of the chip")
    single = replace(net, layers=(one, replace(two, weight=two.weight[:1])))
    few = collect(single, of_arrays(x[:1]), options=Options(against="reference", proof_samples=1))
    assert "fig-time" not in Page(page(few)).ids()
    assert summary(few)["accuracy"] is None


def test_accuracy_over_time_ends_in_the_prediction(folder: Path) -> None:
    content = collect(
        s2c.read(folder / "model.net"),
        s2c.open_data(folder / "data.npz"),
        options=Options(against="reference", proof_samples=1),
    )
    assert content.ran.read_at == (1, 2, 3, 4)
    assert np.array_equal(content.ran.over_time[:, -1], content.ran.predictions)
    net = s2c.read(folder / "model.net")
    with np.load(folder / "data.npz") as data:
        short = s2c.simulate(replace(net, time_steps=2, window=4), data["x"])
    assert np.array_equal(content.ran.over_time[:, 1], short.predictions)
    assert content.costs.fixed[-1].energy == content.costs.estimate.total.mid
    assert math.isclose(sum(a.spikes for a in content.activity), sum(content.ran.traces.spike_counts.values()))


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not with_browser.CHROMIUM:
        if with_browser.NEEDED:
            pytest.fail("CI on Linux needs Chromium: apt-get install chromium")
        pytest.skip("no Chromium is installed")
    pytest.importorskip("playwright.sync_api")
    with with_browser.chromium() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_in_chromium(browser: Any, made: tuple[Path, dict[str, Any]], width: int, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    requests: list[str] = []
    complaints: list[str] = []
    with with_browser.looking(browser, viewport={"width": width, "height": 900}, color_scheme=scheme) as view:
        view.on("request", lambda request: requests.append(request.url))
        view.on("console", lambda message: complaints.append(message.text))
        view.on("pageerror", lambda error: complaints.append(str(error)))
        view.goto(made[0].as_uri())
        assert requests == [made[0].as_uri()]
        for details in view.locator("details").all():
            details.evaluate("element => element.open = true")
        assert view.evaluate("document.documentElement.scrollWidth") == width
        assert (
            view.evaluate("getComputedStyle(document.body).backgroundColor")
            == {
                "light": "rgb(255, 255, 255)",
                "dark": "rgb(18, 22, 26)",
            }[scheme]
        )
        boxes = view.evaluate(
            "[...document.querySelectorAll('svg')].map(s => [s.parentElement.id, s.getBoundingClientRect().width, "
            "s.getBoundingClientRect().height, ...[...s.querySelectorAll('text')].map(t => t.getBoundingClientRect())"
            ".reduce((m, b) => [Math.min(m[0], b.left), Math.max(m[1], b.right)], [1e9, 0])])"
        )
        assert len(boxes) == 16
        for name, across, down, left, right in boxes:
            assert across > 250 and down > 40, name
            assert (left >= 0 and right <= width) or right == 0, f"{name}: labels from {left} to {right}"
        if width == 390:  # the same elements and colours in both
            assert [v["id"] for v in axe.Axe().run(view).response["violations"]] == []
        assert complaints == []


def test_hostile_names_in_chromium(browser: Any, hostile: Path) -> None:
    heard: list[str] = []
    with with_browser.looking(browser, viewport={"width": 390, "height": 900}) as view:
        view.on("dialog", lambda dialog: heard.append(dialog.message) or dialog.dismiss())
        view.on("request", lambda request: heard.append(request.url))
        view.goto(hostile.as_uri())
        assert heard == [hostile.as_uri()]
        assert view.evaluate("document.documentElement.scrollWidth") == 390
