"""Quantisation: ranges, decays, search and what is refused; the integer network against the float graph."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from snn2chip import limits
from snn2chip.compiler import compile_model, convert
from snn2chip.errors import InputError, LimitError, UsageError
from snn2chip.frontends import capture
from snn2chip.graph import Graph, execute
from snn2chip.model_file import Model, model_of
from snn2chip.nn import IF, LIF, CubaLIF, Network, Readout
from snn2chip.passes import lower
from snn2chip.quantise import SCALE_METHODS, quantise
from snn2chip.quantise.layers import weight_range
from snn2chip.simulation import simulate
from snn2chip.traces import Record, encode


def dense(*modules: nn.Module, inputs: int = 8, steps: int = 6) -> Network:
    return Network(*modules, input_shape=(inputs,), time_steps=steps).eval()


def spikes(samples: int = 40, steps: int = 6, inputs: int = 8, share: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(0).random((samples, steps, inputs)) < share).astype(np.float32)


def graph_of(network: Network, x: np.ndarray) -> Graph:
    return lower(model_of(network, x).graph)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["if", "lif", "rec"]))
def test_integer_weights_survive_exactly(seed: int, kind: str) -> None:
    """Weights that are integers at full scale, dyadic leaks: the chip's spikes are the trained model's, all of them."""
    generator = np.random.default_rng(seed)
    torch.manual_seed(seed)
    recurrent = nn.Linear(5, 5, bias=False) if kind == "rec" else None
    network = dense(nn.Linear(8, 5), IF(threshold=100.0, recurrent=recurrent), nn.Linear(5, 3), IF(threshold=60.0))
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                weight = generator.integers(-126, 128, module.weight.shape)
                weight[0, 0] = 127  # so that the scale is 1
                module.weight.copy_(torch.from_numpy(weight))
                if module.bias is not None:
                    module.bias.copy_(torch.from_numpy(generator.integers(-9, 10, module.bias.shape)))
    if kind == "lif":
        network[1].beta = 1.0
    x = spikes()
    net = convert(network, x)
    trace = execute(graph_of(network, x), x)
    found = simulate(net, x, record=Record.everything(net)).traces
    for layer, (name, expected) in zip(net.layers, trace.outputs.items(), strict=True):
        assert np.array_equal(found.spikes[layer.name], expected), f"seed {seed}: {name}"


def test_decays_threshold_and_bias_by_hand() -> None:
    network = dense(nn.Linear(2, 1), LIF(0.9, 2.0), nn.Linear(1, 1, bias=False), CubaLIF(0.75, 0.0), inputs=2)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[0.5, -1.0]]))
        network[0].bias.fill_(0.25)
        network[2].weight.fill_(3.0)
    net = quantise(graph_of(network, spikes(inputs=2)), spikes(inputs=2), scales="max").net
    first, second = net.layers
    assert first.weight.tolist() == [[64, -127]]  # 127 units per 1.0
    assert (int(first.neuron.threshold), first.neuron.bias.tolist()) == (254, [32])
    assert (int(first.neuron.voltage_decay), int(first.neuron.current_decay)) == (410, 4096)
    assert second.weight.tolist() == [[255]]  # no negative weights: unsigned
    assert int(second.neuron.current_decay) == 1024
    assert int(second.neuron.voltage_decay) == 4095
    assert any("vDecay 4096" in line and line.startswith("3 (CubaLIF)") for line in net.inexact)


@pytest.mark.parametrize("bits", range(2, 9))
def test_weights_stay_in_their_bits(bits: int) -> None:
    torch.manual_seed(0)
    network = dense(nn.Linear(8, 16), LIF(), Readout(16, 4))
    net = convert(network, spikes(), bits=bits)
    for layer in net.layers:
        assert np.abs(layer.weight).max() <= (1 << (bits - 1)) - 1
        assert np.abs(layer.neuron.bias).max() <= limits.HARDWARE_BIAS_MAX
    assert weight_range(np.array([-3.0, -0.5]), bits)[0] % 2, "a power of two would be shifted out by the NetX loader"


def test_search_is_never_worse_than_max_on_its_data() -> None:
    torch.manual_seed(3)
    network = dense(nn.Linear(8, 32, bias=False), LIF(0.8), nn.Linear(32, 16, bias=False), LIF(0.8), Readout(16, 4))
    with torch.no_grad():
        network[0].weight[0, 0] = 12.0  # an outlier that max scaling spends its range on
    graph = graph_of(network, spikes())
    searched = quantise(graph, spikes(), bits=4)
    plain = quantise(graph, spikes(), bits=4, scales="max")
    assert searched.choices[0].error < plain.choices[0].error
    assert searched.choices[0].method in SCALE_METHODS
    assert quantise(graph, spikes(), bits=4).net == searched.net, "deterministic"


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("analog_input", ["graded", "hold"])
def test_analog_input(signed: bool, analog_input: str) -> None:
    torch.manual_seed(0)
    network = dense(nn.Linear(8, 64), LIF(), Readout(64, 4))
    x = np.random.default_rng(0).random((200, 8)).astype(np.float32) * 4 - (2 if signed else 0)
    compiled = compile_model(network, (x, np.zeros(200, np.int64)), analog_input=analog_input)
    net = compiled.net
    assert (net.encoding.kind, net.encoding.low < 0) == (analog_input, signed)
    assert net.encoding.message_bits <= 8
    assert int(net.layers[0].neuron.current_decay) == (0 if analog_input == "hold" else 4096)
    found = simulate(net, x, record=Record.everything(net))
    expected = execute(compiled.lowered, x)
    different = found.traces.spikes["0 (Linear)"] != expected.outputs["1 (LIF)"]
    assert expected.outputs["1 (LIF)"].mean() > 0.01
    assert different.mean() < 0.02
    assert (found.predictions == expected.scores.argmax(1)).mean() > 0.97


def test_hold_sends_each_pixel_once_and_fires_the_same() -> None:
    torch.manual_seed(0)
    network = dense(nn.Linear(8, 64), LIF(), Readout(64, 4))
    x = np.random.default_rng(0).random((50, 8)).astype(np.float32) * 4
    graded, held = (convert(network, x, analog_input=kind, scales="max") for kind in ("graded", "hold"))
    one, other = (simulate(net, x, record=Record.everything(net)).traces for net in (graded, held))
    for layer in graded.layers:
        assert np.array_equal(one.spikes[layer.name], other.spikes[layer.name])
        assert np.array_equal(one.v[layer.name], other.v[layer.name])
    messages = np.count_nonzero(encode(held, x)) * 64
    assert one.synaptic_operations - other.synaptic_operations == messages * (graded.time_steps - 1)


def test_states_keep_their_distance_from_24_bits() -> None:
    network = dense(nn.Linear(8, 4, bias=False), CubaLIF(1.0, 1.0, threshold=3000.0), inputs=8, steps=60)
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].weight[0, 0] = -1.0
    x = np.ones((4, 60, 8), np.float32)
    net = convert(network, x)
    u = simulate(net, x, record=Record.everything(net)).traces.u["0 (Linear)"]
    assert 0 < np.abs(u).max() < limits.STATE_LIMIT // 2


def refused() -> dict[str, tuple[Network, np.ndarray, dict[str, object], type[Exception], str]]:
    dead = dense(nn.Linear(8, 4), LIF(), Readout(4, 2))
    with torch.no_grad():
        dead[0].weight.zero_()
    crushed = dense(nn.Linear(8, 4), LIF(), Readout(4, 2))
    with torch.no_grad():
        crushed[0].bias.fill_(1e9)
    good = dense(nn.Linear(8, 4), LIF(), Readout(4, 2))
    nan = spikes()
    nan[3, 2, 1] = math.nan
    return {
        "dead layer": (dead, spikes(), {}, LimitError, r"^0 \(Linear\): .*dead"),
        "bias far too large": (crushed, spikes(), {}, LimitError, r"^0 \(Linear\): "),
        "one bit": (good, spikes(), {"bits": 1}, UsageError, "2 to 8"),
        "unknown method": (good, spikes(), {"scales": "best"}, UsageError, "'best' is unknown.*percentile"),
        "no samples": (good, spikes()[:0], {}, InputError, "no samples"),
        "NaN": (good, nan, {}, InputError, "NaN"),
        "wrong shape": (good, spikes(inputs=9), {}, InputError, "shape"),
        "hold of events": (good, spikes(), {"analog_input": "hold"}, Exception, "only a static analog input"),
        "window too short": (good, spikes(), {"window": 3}, InputError, "window of 3"),
        "all zero": (good, np.zeros((4, 8), np.float32), {}, InputError, "zero"),
    }


@pytest.mark.parametrize("case", refused())
def test_refusals(case: str) -> None:
    network, x, options, kind, message = refused()[case]
    good = x if case not in ("no samples", "NaN", "wrong shape") else spikes()
    graph = model_of(network, good).graph if case != "all zero" else capture(network)
    with pytest.raises(kind, match=message) as caught:
        convert(Model(graph, x), **options)
    assert "\n" not in str(caught.value)


def test_calibration_is_asked_for() -> None:
    network = dense(nn.Linear(8, 4), LIF(), Readout(4, 2))
    with pytest.raises(UsageError, match="--calibration"):
        convert(Model(capture(network)))
