"""Comparison of traces: every kind of difference is found, located and explained; the ladder."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from snn2chip.chip import ChipNet, Conv, Dense, Neuron
from snn2chip.compiler import compile_model
from snn2chip.errors import InputError, UsageError
from snn2chip.ladder import ladder
from snn2chip.nn import LIF, Network, Readout
from snn2chip.simulation import simulate
from snn2chip.traces import Record, Traces
from snn2chip.verification import compare, verify


def net(recurrent: bool = False) -> ChipNet:
    generator = np.random.default_rng(0)
    conv = Conv("conv", (1, 5, 5), generator.integers(-20, 60, (2, 1, 3, 3)), Neuron.of("conv", 60, 2048, 512, 3))
    extra = generator.integers(-9, 9, (4, 4)) if recurrent else None
    dense = Dense("dense", conv.shape, generator.integers(-40, 60, (4, 18)), Neuron.of("dense", 50, 4096, 300), extra)
    return ChipNet((1, 5, 5), (conv, dense), time_steps=6)


X = (np.random.default_rng(1).random((5, 6, 1, 5, 5)) < 0.4).astype(np.int64)


def traces(network: ChipNet) -> Traces:
    return simulate(network, X, backend="reference", record=Record.everything(network)).traces


def changed(network: ChipNet, layer: int, **parameters: object) -> ChipNet:
    """The network with other neurons or weights in one layer."""
    old = network.layers[layer]
    weight = parameters.pop("weight", old.weight)
    neuron = replace(old.neuron, **{k: np.asarray(v, np.int32) for k, v in parameters.items()})
    layers = list(network.layers)
    layers[layer] = replace(old, neuron=neuron, weight=weight)
    return replace(network, layers=tuple(layers))


def bumped(network: ChipNet, layer: int) -> np.ndarray:
    weight = network.layers[layer].weight.copy()
    weight.flat[0] += 1
    return weight


CHANGES = {
    "weight": (1, {"weight": bumped(net(), 1)}, "u", "a weight differs"),
    "threshold": (0, {"threshold": 75}, "spike", "threshold"),
    "bias": (0, {"bias": 4}, "v", "bias"),
    "voltage decay": (1, {"voltage_decay": 301}, "v", "decay of the potential"),
    "current decay": (0, {"current_decay": 2049}, "u", "decay of the current"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_differences_are_located_and_explained(what: str) -> None:
    layer, parameters, variable, cause = CHANGES[what]
    network = net()
    other = changed(network, layer, **parameters)
    expected, found = traces(network), traces(other)
    result = compare(network, expected, found)
    assert not result.equal
    first = result.first
    assert first is not None
    name = network.layers[layer].name
    assert first.layer == name
    assert first.variable == variable
    assert cause in first.cause
    # Really the first: everything before that step is equal, and the values are those of the traces.
    for kind in ("spikes", "u", "v"):
        one, two = getattr(expected, kind)[name], getattr(found, kind)[name]
        assert np.array_equal(one[:, : first.step], two[:, : first.step])
    at = (first.sample, first.step, *first.neuron)
    kind = {"spike": "spikes"}.get(variable, variable)
    assert (getattr(expected, kind)[name][at], getattr(found, kind)[name][at]) == (first.expected, first.found)
    assert result.differing_spikes[name] == int((expected.spikes[name] != found.spikes[name]).sum())
    assert str(first).startswith(f"{name}: sample {first.sample}, step {first.step}, neuron (")


def test_a_leak_between_samples_is_recognised() -> None:
    network = net(recurrent=True)
    everything = Record.everything(network)
    isolated = traces(network)
    windowed = simulate(network, X, backend="reference", mode="windowed", record=everything).traces
    first = compare(network, isolated, windowed).first
    assert first is not None
    assert (first.layer, first.step, first.variable) == ("dense", 0, "u")
    assert "spikes of the previous sample's last step arrived" in first.cause


@pytest.mark.parametrize(("layer", "variable", "cause"), [(0, "u", "current"), (1, "v", "potential")])
def test_a_missing_reset_is_recognised(layer: int, variable: str, cause: str) -> None:
    network = changed(net(), 0, bias=0)  # a bias would also act while the pipeline fills
    if layer == 1:  # only the second layer keeps anything, and does not fire it away
        network = changed(changed(network, 0, current_decay=4096, voltage_decay=4096), 1, threshold=5000)
    everything = Record.everything(network)
    streaming = simulate(network, X, backend="reference", mode="streaming", record=everything).traces
    first = compare(network, traces(network), streaming).first
    assert first is not None
    assert (first.layer, first.step, first.variable) == (network.layers[layer].name, 0, variable)
    assert f"the {cause} of the previous sample was not reset" in first.cause


@pytest.mark.parametrize("mode", ["isolated", "windowed", "streaming"])
def test_two_simulators_agree(mode: str) -> None:
    result = verify(net(recurrent=True), X, against="reference", backend="event", mode=mode)
    assert result.equal
    assert (result.samples, result.layers) == (5, 2)


def test_unknown_names_and_data() -> None:
    with pytest.raises(UsageError, match=r"backend: 'lavva' is unknown, installed are .*event.*reference"):
        verify(net(), X, against="lavva")
    with pytest.raises(UsageError, match="mode: 'endless'"):
        simulate(net(), X, mode="endless")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"shape \(5, 6, 1, 5, 4\), expected \(N, T, 1, 5, 5\)"):
        simulate(net(), X[..., :4])
    with pytest.raises(InputError, match="7 time steps, the network was made for 6"):
        simulate(net(), np.zeros((2, 7, 1, 5, 5)))
    with pytest.raises(InputError, match="not binary"):
        simulate(net(), X * 2)
    with pytest.raises(InputError, match="expected 5 integer classes"):
        simulate(net(), X, np.zeros(4, np.int64))


def test_ladder_counts_what_each_rung_changes() -> None:
    torch.manual_seed(0)
    network = Network(nn.Linear(8, 32), LIF(), Readout(32, 4), input_shape=(8,), time_steps=6).eval()
    x = (np.random.default_rng(0).random((150, 6, 8)) < 0.4).astype(np.float32)
    with torch.no_grad():
        y = network(torch.from_numpy(x)).argmax(1).numpy()
    compiled = compile_model(network, (x, y))
    rungs = ladder(compiled.model.graph, compiled.lowered, compiled.net, x, y)
    assert list(rungs) == ["float", "graph", "chip"]
    assert rungs["float"].accuracy == 1.0
    assert rungs["graph"].differing_spikes == {"0 (Linear)": 0}
    assert rungs["chip"].accuracy == rungs["chip"].agreement
    found = simulate(compiled.net, x, record=Record.everything(compiled.net)).traces
    assert rungs["chip"].spikes["0 (Linear)"] == found.spike_counts["0 (Linear)"]
