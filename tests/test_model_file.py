"""``model.pt``: round trip, proof of the capture, hostile and damaged files."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import snn2chip as s2c
from snn2chip.errors import CheckFailed, InputError, UsageError
from snn2chip.frontends import native
from snn2chip.graph import Graph, Neuron, execute
from snn2chip.model_file import Model, load, model_of
from snn2chip.nn import IF, LIF, Network, Readout


def network() -> Network:
    torch.manual_seed(0)
    return Network(
        nn.Conv2d(1, 4, 3, stride=(1, 2), bias=False),
        nn.BatchNorm2d(4),
        LIF(0.5, recurrent=None),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 8, bias=False),
        IF(recurrent=nn.Linear(8, 8, bias=False)),
        Readout(8, 3),
        input_shape=(1, 8, 10),
        time_steps=4,
    ).eval()


def same(one: Graph, other: Graph) -> bool:
    """Equal in every field of every node."""
    if one.time_steps != other.time_steps or len(one.nodes) != len(other.nodes):
        return False
    return all(
        type(a) is type(b)
        and all(np.array_equal(va, vb) for va, vb in zip(vars(a).values(), vars(b).values(), strict=True))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )


def test_round_trip(tmp_path: Path) -> None:
    x, y = torch.rand(10, 1, 8, 10) * 2, torch.arange(10) % 3
    module = network()
    s2c.save(module, tmp_path / "m.pt", calibration=(x, y))
    model = load(tmp_path / "m.pt")
    assert isinstance(model, Model)
    assert same(model.graph, model_of(module, calibration=(x, y)).graph)
    assert np.array_equal(model.x, x.numpy())
    assert np.array_equal(model.y, y.numpy())
    assert torch.load(tmp_path / "m.pt", weights_only=True)["format"] == "snn2chip.model"
    with torch.no_grad():
        expected = module.double()(x.double()).numpy()
    assert np.array_equal(execute(model.graph, model.x).scores, expected)


def test_binary_events_are_spikes_and_give_the_time_steps() -> None:
    module = Network(nn.Linear(4, 3), LIF(), input_shape=(4,), time_steps=9)
    events = torch.randint(0, 2, (6, 5, 4)).float()
    graph = model_of(module, events).graph
    assert (graph.input.kind, graph.time_steps) == ("spikes", 5)
    assert model_of(module, events[:, 0]).graph.input.kind == "analog"  # static, so it is not events
    assert model_of(module, events / 2).graph.input.kind == "analog"


def test_a_capture_that_is_wrong_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Network(nn.Linear(4, 3), LIF(), Readout(3, 2), input_shape=(4,), time_steps=4)
    monkeypatch.setattr(native, "Neuron", functools.partial(Neuron, bias=np.full(3, 0.3)))
    with pytest.raises(CheckFailed, match=r"1 \(LIF\): the graph's spikes differ from the module's on \d+ of 16"):
        model_of(module, torch.rand(16, 4) * 4)


def test_nothing_to_run_is_an_error() -> None:
    with pytest.raises(UsageError, match="example_input"):
        model_of(network())
    with pytest.raises(UsageError, match="y has shape"):
        model_of(network(), calibration=(torch.rand(4, 1, 8, 10), torch.zeros(3)))


def content(tmp_path: Path) -> dict[str, Any]:
    s2c.save(network(), tmp_path / "good.pt", calibration=torch.rand(4, 1, 8, 10))
    loaded: dict[str, Any] = torch.load(tmp_path / "good.pt", weights_only=True)
    return loaded


def node(content: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(entry for entry in content["nodes"] if entry["type"] == kind)


DAMAGE: dict[str, Any] = {
    "format": lambda c: c.update(format="other"),
    "newer version": lambda c: c.update(version=99),
    "no nodes": lambda c: c.pop("nodes"),
    "unknown node": lambda c: node(c, "Linear").update(type="Evil"),
    "weight is a string": lambda c: node(c, "Linear").update(weight="1"),
    "weight is complex": lambda c: node(c, "Linear").update(weight=torch.zeros(8, 24, dtype=torch.complex64)),
    "weight is NaN": lambda c: node(c, "Linear")["weight"].fill_(torch.nan),
    "weight of the wrong shape": lambda c: node(c, "Linear").update(weight=torch.zeros(8, 25)),
    "stride is a float": lambda c: node(c, "Conv2d").update(stride=(1.5, 1)),
    "stride is text": lambda c: node(c, "Conv2d").update(stride="12"),
    "kernel larger than the image": lambda c: node(c, "Conv2d").update(dilation=(9, 9)),
    "reset unknown": lambda c: node(c, "Neuron").update(reset="sometimes"),
    "threshold NaN": lambda c: node(c, "Neuron").update(threshold=float("nan")),
    "missing field": lambda c: node(c, "Conv2d").pop("weight"),
    "inputs that do not exist": lambda c: node(c, "Conv2d").update(inputs=("nothing",)),
    "time steps": lambda c: c.update(time_steps=0),
    "calibration is text": lambda c: c.update(calibration={"x": "data"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_content(tmp_path: Path, damage: str) -> None:
    broken = content(tmp_path)
    DAMAGE[damage](broken)
    path = tmp_path / "broken.pt"
    torch.save(broken, path)
    with pytest.raises(InputError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self) -> Any:
        return (Path.touch, (Path("exploded"),))


@pytest.mark.parametrize("writer", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))])
def test_pickles_are_refused_and_not_run(tmp_path: Path, writer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer({"format": "snn2chip.model", "x": Bomb()}, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"pickled Python objects.*--trust-pickle"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "exploded").exists()


def test_trusted_pickle_gives_the_module(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "module.pt")
    with pytest.raises(InputError, match="pickled"):
        load(tmp_path / "module.pt")
    assert isinstance(load(tmp_path / "module.pt", trust_pickle=True), Network)


@pytest.mark.parametrize("data", [b"", b"hello", b"PK\x03\x04 broken zip", bytes(1000)])
def test_not_a_model(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(data)
    with pytest.raises(InputError, match=r"x\.pt"):
        load(tmp_path / "x.pt")


def test_truncated_file(tmp_path: Path) -> None:
    content(tmp_path)
    whole = (tmp_path / "good.pt").read_bytes()
    for keep in (10, len(whole) // 2, len(whole) - 10):
        (tmp_path / "cut.pt").write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"cut\.pt"):
            load(tmp_path / "cut.pt")
