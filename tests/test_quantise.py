"""Quantisation: ranges, decays, search and what is refused; the integer network against the float graph."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn
from with_lava import needs_lava

from snn2chip import law, limits
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons
from snn2chip.chip import Neuron as ChipNeuron
from snn2chip.compiler import compile_model, convert
from snn2chip.errors import CheckFailed, InputError, LimitError, UnsupportedError, UsageError
from snn2chip.exporters.netx_loader import loader_weights
from snn2chip.graph import ChipLayer, Conv2d, Flatten, Graph, Input, InputKind, Linear, MaxPool2d, Neuron, Node, execute
from snn2chip.hardware import place, target_of
from snn2chip.hardware.memory import mantissa
from snn2chip.model_file import Model, model_of
from snn2chip.nn import IF, LIF, CubaLIF, Network, Readout
from snn2chip.passes import chip_blocks, lower
from snn2chip.quantise import (
    PER_NEURON,
    SCALE_METHODS,
    bounds,
    choose_widths,
    integer_net,
    is_integer,
    label_warning,
    quantise,
)
from snn2chip.quantise.layers import Form, decays
from snn2chip.quantise.ranges import weight_range
from snn2chip.quantise.residual import is_proven
from snn2chip.quantise.rounding import Rounding
from snn2chip.simulation import simulate
from snn2chip.simulators import lava
from snn2chip.traces import Record, encode


def dense(*modules: nn.Module, inputs: int = 8, steps: int = 6) -> Network:
    return Network(*modules, input_shape=(inputs,), time_steps=steps).eval()


def spikes(samples: int = 40, steps: int = 6, inputs: int = 8, share: float = 0.4) -> np.ndarray:
    return (np.random.default_rng(0).random((samples, steps, inputs)) < share).astype(np.float32)


def graph_of(network: Network, x: np.ndarray) -> Graph:
    return lower(model_of(network, x).graph)


@settings(max_examples=20, deadline=None)
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
    assert (int(first.neuron.voltage_decay), int(first.neuron.current_decay)) == (409, 4096)  # rounds down
    assert second.weight.tolist() == [[255]]  # no negative weights: unsigned
    assert int(second.neuron.current_decay) == 1024
    assert int(second.neuron.voltage_decay) == 4095
    assert any("vDecay 4096" in line and line.startswith("3 (CubaLIF)") for line in net.inexact)


@pytest.mark.parametrize("bits", range(1, 9))
def test_weights_stay_in_their_bits(bits: int) -> None:
    torch.manual_seed(0)
    network = dense(nn.Linear(8, 16), LIF(), Readout(16, 4))
    net = convert(network, spikes(), bits=bits)
    for layer in net.layers:
        assert mantissa(layer).bits <= max(bits, 2), "a sign alone takes two bits"
        assert np.abs(layer.weight).max() >= (127 if bits == 8 else 64) // 2, "thresholds are not made coarse"
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
    assert searched.choices[0].method in (PER_NEURON, *SCALE_METHODS)
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
        "nine bits": (good, spikes(), {"bits": 9}, UsageError, "1 to 8"),
        "unknown method": (good, spikes(), {"scales": "best"}, UsageError, "'best' is unknown.*percentile"),
        "no samples": (good, spikes()[:0], {}, InputError, "no samples"),
        "NaN": (good, nan, {}, InputError, "NaN"),
        "wrong shape": (good, spikes(inputs=9), {}, InputError, "shape"),
        "hold of events": (good, spikes(), {"analog_input": "hold"}, Exception, "only a static analog input"),
        "window too short": (good, spikes(), {"window": 3}, UsageError, "window 3: the network runs for 6"),
        "all zero": (good, np.zeros((4, 8), np.float32), {}, InputError, "zero"),
    }


@pytest.mark.parametrize("case", refused())
def test_refusals(case: str) -> None:
    network, x, options, kind, message = refused()[case]
    good = x if case not in ("no samples", "NaN", "wrong shape") else spikes()
    graph = model_of(network, np.ones_like(good) if case == "all zero" else good).graph
    with pytest.raises(kind, match=message) as caught:
        convert(Model(graph, x), **options)
    assert "\n" not in str(caught.value)


def test_calibration_is_asked_for() -> None:
    network = dense(nn.Linear(8, 4), LIF(), Readout(4, 2))
    with pytest.raises(UsageError, match="--calibration"):
        convert(Model(model_of(network, spikes()).graph))


# The forms of blocks that passes make


def block_graph(
    weight: np.ndarray, neuron: Neuron, shape: tuple[int, ...] = (), steps: int = 12, kind: InputKind = "spikes"
) -> Graph:
    """Input, synapses named ``w`` and neurons named ``n``."""
    zeros = np.zeros(len(weight))
    if weight.ndim == 2:
        shape = (weight.shape[1],)
        synapse: Node = Linear(name="w", inputs=("x",), weight=weight, bias=zeros)
    else:
        synapse = Conv2d(name="w", inputs=("x",), weight=weight, bias=zeros, padding=(1, 1))
    return Graph((Input(name="x", shape=shape, kind=kind), synapse, replace(neuron, inputs=("w",))), steps)


def chip_spikes(net: ChipNet, x: np.ndarray) -> np.ndarray:
    return simulate(net, x, record=Record.everything(net)).traces.spikes[net.layers[-1].name]


def loads_as_it_is(layer: Dense | Conv) -> bool:
    if isinstance(layer, Conv):
        return True
    weight, recurrent = loader_weights(layer.weight, layer.recurrent)
    return np.array_equal(weight, layer.weight) and (recurrent is None or np.array_equal(recurrent, layer.recurrent))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.booleans(), st.booleans(), st.booleans())
def test_reset_by_subtraction_is_exact(seed: int, inclusive: bool, lateral: bool, unequal: bool) -> None:
    """Integer weights and thresholds: every spike of the form of soft reset, within the registers, for any input."""
    generator = np.random.default_rng(seed)
    weight = generator.integers(-60, 61, (5, 8)).astype(float)
    weight[:, 0], weight[:, 1] = 127, -127  # fills the range, so that the scale is 1
    theta = generator.integers(20, 128, 5 if unequal else 1) * np.ones(5)
    recurrent = -np.diag(theta)
    if lateral:
        recurrent += generator.integers(-9, 10, (5, 5)) * (1 - np.eye(5))
    unit = generator.choice([1, 8, 32])
    neuron = Neuron(name="n", alpha=1.0, beta=0.0, threshold=theta / unit, recurrent=recurrent / unit)
    graph = block_graph(weight / unit, replace(neuron, inclusive=inclusive))
    x = (generator.random((30, 12, 8)) < 0.4).astype(float)
    net = quantise(graph, x).net
    layer = net.layers[0]
    assert (layer.weight % 2 == 0).all() and (layer.neuron.threshold % 2 == 1).all() and loads_as_it_is(layer)
    assert layer.neuron.voltage_decay == 4095 and net.inexact == ()
    subtracted = layer.neuron.threshold + (1 if inclusive else -1)
    np.testing.assert_array_equal(-np.diagonal(layer.recurrent), np.broadcast_to(subtracted, 5))
    assert np.array_equal(chip_spikes(net, x), execute(graph, x).outputs["n"]), f"seed {seed}"


def test_reset_by_subtraction_of_graded_input_takes_fewer_message_bits() -> None:
    """theta * S <= 127 leaves analog messages few bits: with 8 of them every weight would be below one half."""
    generator = np.random.default_rng(0)
    neuron = Neuron(name="n", alpha=1.0, beta=0.0, recurrent=-np.eye(16))
    graph = block_graph(generator.normal(0, 0.3, (16, 8)), neuron, kind="analog")
    x = generator.random((40, 8))
    quantised = quantise(graph, x)
    assert quantised.net.encoding.message_bits < 6
    assert np.diagonal(quantised.net.layers[0].recurrent).min() >= -254
    assert quantised.choices[0].error < 0.13
    (said,) = quantised.net.inexact
    bits = quantised.net.encoding.message_bits
    assert said.startswith(f"input: messages have {bits} bits, rounded over time: the reset by subtraction")
    tiny = block_graph(generator.normal(0, 0.3, (16, 8)), replace(neuron, threshold=1e-4, recurrent=-1e-4 * np.eye(16)))
    with pytest.raises(LimitError, match=r"^w: self-inhibition .* is 0.01.*, limit at least 1; .*reset='zero'"):
        quantise(tiny, (x[:, None] > 0.5) * np.ones((1, 12, 1)))


@pytest.mark.parametrize("leak", [0.9, 3686 / 4096])
def test_leaky_reset_by_subtraction_says_what_the_register_changes(leak: float) -> None:
    generator = np.random.default_rng(1)
    neuron = Neuron(name="n", alpha=leak, beta=0.0, recurrent=-leak * np.eye(16))
    graph = block_graph(generator.normal(0, 0.4, (16, 8)), neuron, steps=30)
    x = (generator.random((40, 30, 8)) < 0.3).astype(float)
    quantised = quantise(graph, x)
    (said,) = quantised.net.inexact
    assert said.startswith("n: a memoryless membrane needs vDecay 4096")
    assert int(said.split("which changes ")[1].split(" of ")[0]) < 0.01 * x.shape[0] * 30 * 16
    assert quantised.choices[0].error < 0.02
    lava_only = quantise(graph, x, hardware_legal=False).net
    assert lava_only.layers[0].neuron.voltage_decay == 4096
    assert lava_only.inexact == ("n: vDecay 4096 is what Lava computes; the chip's register holds 4095",)


def memoryless(weight: list[list[int]], alpha: float, threshold: float, bias: float | None = None) -> Graph:
    """Integer weights; as soft reset where alpha is 1."""
    recurrent = -threshold * np.eye(len(weight)) if alpha else None
    bias_row = None if bias is None else np.full(len(weight), bias)
    neuron = Neuron(name="n", alpha=alpha, beta=0.0, threshold=threshold, recurrent=recurrent, bias=bias_row)
    return block_graph(np.array(weight, float), neuron, steps=60)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([0.0, 1.0]), st.sampled_from([4, 16, 30, 40]))
def test_what_is_proven_holds_for_hostile_input(seed: int, alpha: float, inputs: int) -> None:
    """Long inhibition, then whatever comes near the threshold: vDecay 4095 fires as 4096 would, where it is proven."""
    generator = np.random.default_rng(seed)
    weight = generator.integers(-127, 128, (6, inputs))
    weight[:, 0] = 127
    x = np.zeros((40, 60, inputs))
    x[:, ::2] = weight[0] < 0  # inhibits the first neuron
    x[:, 1::2] = generator.random((40, 30, inputs)) < generator.random((40, 30, 1))
    form, layer = integers_of(memoryless(weight.tolist(), alpha, float(generator.integers(1, 120))), x)
    differing = spikes_that_differ(layer, x)
    event(f"proven: {is_proven(form, layer, Encoding())}")
    if is_proven(form, layer, Encoding()):
        assert differing == 0, f"seed {seed}"


def integers_of(graph: Graph, x: np.ndarray) -> tuple[Form, Dense | Conv]:
    (block,) = chip_blocks(graph)
    layer = quantise(graph, x, scales="max").net.layers[0]
    assert not isinstance(layer, InputNeurons)
    return Form(block), layer


def spikes_that_differ(layer: Dense | Conv, x: np.ndarray) -> int:
    """From those with vDecay 4096."""
    decay = np.full_like(layer.neuron.voltage_decay, 4096)
    exact = replace(layer, neuron=replace(layer.neuron, voltage_decay=decay))
    return int((law.run_layer(layer, x.astype(int))[0] != law.run_layer(exact, x.astype(int))[0]).sum())


def test_what_is_not_proven_can_happen() -> None:
    """40 inhibitory inputs bring the potential below -2^18; what remains of it stops the next spike."""
    graph = memoryless([[127, *[-127] * 40]], 0.0, 126.0)
    x = np.zeros((1, 60, 41))
    x[0, 0, 1:] = 1
    x[0, 1, 0] = 1
    form, layer = integers_of(graph, x)
    assert not is_proven(form, layer, Encoding())
    assert spikes_that_differ(layer, x) == 1
    (said,) = quantise(graph, x, scales="max").net.inexact
    assert "changes 1 of 60 spikes" in said


@pytest.mark.parametrize("inclusive", [False, True])
@pytest.mark.parametrize("theta", [2.0, 2.5])
@pytest.mark.parametrize("beta", [1.0, 0.0])
def test_thresholds_divide_the_integers_as_the_trained_ones_do(inclusive: bool, theta: float, beta: float) -> None:
    """All sums from 0 to 5 against thresholds on and between them."""
    weight = np.ones((1, 6))
    x = np.tril(np.ones((6, 6)), -1)[:, None] * (np.arange(12) == 0)[:, None]  # k inputs at step 0
    graph = block_graph(weight, Neuron(name="n", beta=beta, threshold=theta, inclusive=inclusive))
    net = quantise(graph, x, scales="max").net
    assert net.inexact == ()
    assert chip_spikes(net, x)[:, 0, 0].tolist() == [k >= theta if inclusive else k > theta for k in range(6)]


def test_a_threshold_that_rest_reaches_is_refused() -> None:
    graph = block_graph(np.eye(3), Neuron(name="n", threshold=np.array([1.0, 0.0, 2.0]), inclusive=True))
    with pytest.raises(LimitError, match=r"^w: threshold is 0, limit above 0; "):
        quantise(graph, np.ones((2, 12, 3)))


@pytest.mark.parametrize("kind", ["dense", "conv", "recurrent", "subtract"])
def test_rows_of_different_ranges_are_exact_with_scales_of_their_own(kind: str) -> None:
    """Integers divided by another power of two in each row: no scale suits all of them, but each has one."""
    generator = np.random.default_rng(5)
    rows, inputs = 6, 9
    scale = 2.0 ** np.arange(rows)
    weight = generator.integers(-126, 127, (rows, inputs)).astype(float)
    weight[:, 0] = 127
    theta = generator.integers(60, 127, rows).astype(float)
    neuron = Neuron(name="n", threshold=theta / scale, bias=generator.integers(-9, 30, rows) / scale)
    x = (generator.random((40, 12, inputs)) < 0.3).astype(float)
    if kind == "conv":
        weight, x = weight.reshape(rows, 1, 3, 3), x.reshape(40, 12, 1, 3, 3)
    elif kind != "dense":
        lateral = generator.integers(-90, 91, (rows, rows)) / scale[:, None]
        neuron = replace(neuron, recurrent=lateral)
    if kind == "subtract":
        recurrent = lateral * (1 - np.eye(rows)) - np.diag(theta / scale)
        neuron = replace(neuron, alpha=1.0, beta=0.0, bias=None, recurrent=recurrent)
    graph = block_graph(weight / scale.reshape(-1, *(1,) * (weight.ndim - 1)), neuron, x.shape[2:])
    quantised = quantise(graph, x, per_neuron=True)
    expected = execute(graph, x).outputs["n"]
    assert expected.mean() > 0.05
    assert quantised.choices[0].method == PER_NEURON
    assert np.array_equal(chip_spikes(quantised.net, x), expected)
    layer = quantised.net.layers[0]
    assert layer.neuron.threshold.shape == layer.shape and loads_as_it_is(layer)
    forbidden = quantise(graph, x)
    assert forbidden.choices[0].error > 0 and forbidden.choices[0].method in SCALE_METHODS
    assert kind == "subtract" or forbidden.net.layers[0].neuron.threshold.shape == layer.shape  # theta differs


def test_a_tie_keeps_one_scale_and_readouts_always_do() -> None:
    torch.manual_seed(0)
    exact = block_graph(np.array([[127.0, -5.0], [3.0, 1.0]]), Neuron(name="n", threshold=4.0))
    quantised = quantise(exact, spikes(inputs=2, steps=12))
    assert quantised.choices[0].method == "max" and quantised.net.layers[0].neuron.threshold.shape == ()
    readout = block_graph(np.array([[1.0, -0.3], [0.1, 0.033]]), Neuron(name="n", threshold=math.inf))
    assert quantise(readout, spikes(inputs=2, steps=12)).choices[0].method != PER_NEURON
    assert quantise(readout, spikes(inputs=2, steps=12), scales=PER_NEURON).net.layers[0].weight.max() == 127


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["max pool", "behind a layer", "soft reset"])
def test_relays_repeat_any_spike_at_any_width(bits: int, kind: str) -> None:
    generator = np.random.default_rng(bits)
    x = (generator.random((20, 12, 8)) < 0.3).astype(float)
    ordinary = generator.normal(0, 1, (4, 8))
    relays = (generator.random((3, 8)) < 0.4).astype(float)
    own = {"max pool": 0, "behind a layer": 4, "soft reset": 4}[kind]
    alpha = np.r_[np.full(own, 1.0 if kind == "soft reset" else 0.0), np.zeros(3)]
    beta = np.r_[np.full(own, 0.0 if kind == "soft reset" else 0.9), np.zeros(3)]
    recurrent = np.diag(np.r_[np.full(own, -1.0), np.zeros(3)]) if kind == "soft reset" else None
    neuron = Neuron(
        name="n",
        alpha=alpha,
        beta=beta,
        threshold=np.r_[np.ones(own), np.full(3, 0.5)],
        recurrent=recurrent,
        relays=3,
    )
    graph = block_graph(np.concatenate([ordinary[:own], relays]), neuron)
    net = quantise(graph, x, bits=bits).net
    layer = net.layers[0]
    assert np.array_equal(chip_spikes(net, x)[..., own:], x @ relays.T > 0)
    assert loads_as_it_is(layer)
    assert not any("n:" in line for line in net.inexact)
    if bits == 8:
        parameters = layer.neuron.expanded(layer.shape)
        assert layer.weight[own:].tolist() == (64 * relays).tolist()
        assert {name: int(values[-1]) for name, values in parameters.items()} == {
            "threshold": 32,
            "current_decay": 4096,
            "voltage_decay": 4095,
            "bias": 0,
        }


def test_relays_of_wide_windows_do_not_wrap() -> None:
    """2000 spikes of weight 64 would pass 2^23."""
    neuron = Neuron(name="n", beta=0.0, threshold=0.5, relays=1)
    graph = block_graph(np.ones((1, 3000)), neuron)
    x = np.ones((1, 12, 3000))
    assert chip_spikes(quantise(graph, x).net, x).all()
    with pytest.raises(LimitError, match=r"^w: sum of a relay's inputs is 200000, limit 131071; "):
        quantise(block_graph(np.ones((1, 200_000)), neuron, steps=1), np.ones((1, 1, 200_000)))


def test_always_on_neurons_carry_a_bias_of_the_current() -> None:
    """A row without weights whose bias exceeds its threshold fires at each step, however the others are scaled."""
    weight = np.array([[127.0, -50.0], [0.0, 0.0]])
    recurrent = np.array([[0.0, 20.0], [0.0, 0.0]])
    for theta in (60.0, 1e5):  # registers of biases hold 4095
        neuron = Neuron(name="n", alpha=1.0, threshold=theta, recurrent=recurrent, bias=np.array([0.0, 2 * theta]))
        graph = block_graph(weight, neuron)
        x = spikes(inputs=2, steps=12)
        net = quantise(graph, x, per_neuron=True).net
        assert np.array_equal(chip_spikes(net, x), execute(graph, x).outputs["n"])
        assert net.layers[0].neuron.bias.max() <= limits.HARDWARE_BIAS_MAX
    assert chip_spikes(net, x)[..., 1].all()
    with pytest.raises(LimitError, match=r"^w: .*dead"):
        quantise(block_graph(np.zeros((2, 2)), Neuron(name="n", bias=np.array([2.0, 0.5]))), x)


def test_recurrent_weights_see_spikes_not_messages() -> None:
    """Graded input multiplies feed-forward weights by the message scale, recurrent ones have to follow."""
    generator = np.random.default_rng(2)
    neuron = Neuron(name="n", beta=0.9, recurrent=generator.normal(0, 0.1, (16, 16)))
    graph = block_graph(generator.normal(0, 0.5, (16, 8)), neuron, kind="analog")
    quantised = quantise(graph, generator.random((40, 8)))
    assert quantised.choices[0].error < 0.03


def test_delays_and_what_is_inexact_are_passed_on() -> None:
    generator = np.random.default_rng(0)
    graph = block_graph(generator.integers(-127, 128, (3, 4)).astype(float), Neuron(name="n", threshold=99.0))
    delay = generator.integers(0, 5, (3, 4))
    graph = replace(graph.replaced({"w": replace(graph.node("w"), delay=delay)}), inexact=("input: as it is",))
    x = spikes(inputs=4, steps=12)
    net = quantise(graph, x).net
    assert np.array_equal(net.layers[0].delay, delay) and net.inexact == ("input: as it is",)
    assert np.array_equal(chip_spikes(net, x), execute(graph, x).outputs["n"])


def lowerable(case: str) -> tuple[Graph, np.ndarray]:
    """A small convolutional network of integers, 127 the largest so that the scale is 1; and spikes."""
    generator = np.random.default_rng(3)

    def integers(*shape: int) -> np.ndarray:
        weight = generator.integers(-100, 127, shape).astype(float)
        weight.flat[0] = 127  # so that the scale is 1
        return weight

    soft = replace(
        Neuron(name="n", threshold=120.0),
        reset="subtract" if case.startswith("reset") else "zero",
        reset_delay=case == "reset a step late",
        alpha=1.0 if case == "bias of a current" else 0.0,
    )
    bias = generator.integers(-9, 10, 3) * (case == "bias of a current")
    graph = Graph(
        (
            Input(name="x", shape=(2, 6, 6)),
            Conv2d(name="c", inputs=("x",), weight=integers(3, 2, 3, 3), bias=bias.astype(float)),
            replace(soft, name="s", inputs=("c",)),
            MaxPool2d(name="p", inputs=("s",), kernel=(2, 2), stride=(2, 2)),
            Flatten(name="f", inputs=("p",)),
            Linear(name="l", inputs=("f",), weight=integers(4, 12), bias=np.zeros(4)),
            replace(soft, inputs=("l",)),
        ),
        8,
    )
    x = (generator.random((20, 8, 2, 6, 6)) < 0.3).astype(float)
    return graph, x


@pytest.mark.parametrize("case", ["max pooling", "reset by subtraction", "reset a step late", "bias of a current"])
def test_lowered_networks_of_integers_are_exact(case: str) -> None:
    graph, x = lowerable(case)
    net = quantise(lower(graph), x).net
    expected = execute(graph, x).outputs["n"]
    assert 0.05 < expected.mean() < 0.95 and net.inexact == ()
    assert np.array_equal(chip_spikes(net, x), expected)


@pytest.mark.lava
@needs_lava
def test_lava_runs_doubled_weights_relays_and_self_inhibition() -> None:
    graph, x = lowerable("reset by subtraction")
    net = quantise(lower(graph), x).net
    messages = encode(net, x[:3])
    record = Record.everything(net)
    expected, found = simulate(net, x[:3], record=record).traces, lava.run(net, messages, record=record)
    for layer in net.layers:
        assert np.array_equal(found.spikes[layer.name], expected.spikes[layer.name])
        assert np.array_equal(found.v[layer.name], expected.v[layer.name])


@pytest.mark.parametrize("kind", ["spikes", "analog"])
def test_networks_of_integers_stay_what_they_are(kind: InputKind) -> None:
    generator = np.random.default_rng(0)
    conv = Conv("c", (1, 4, 4), generator.integers(-9, 10, (2, 1, 3, 3)), ChipNeuron.of("c", 20), padding=(1, 1))
    dense_layer = Dense("d", (32,), generator.integers(-9, 10, (3, 32)), ChipNeuron.of("d", 131071))
    graph = Graph(
        (
            Input(name="x", shape=(1, 4, 4), kind=kind),
            ChipLayer(name="c", inputs=("x",), layer=conv),
            Flatten(name="f", inputs=("c",)),
            ChipLayer(name="d", inputs=("f",), layer=dense_layer),
        ),
        5,
        "potential",
        ("said before",),
    )
    net = integer_net(graph)
    assert is_integer(graph) and net.layers[0] == conv
    assert net.layers[1] == replace(dense_layer, input_shape=conv.shape)
    assert net.inexact == ("said before",) and net.readout.kind == "potential"
    x = generator.integers(0, 2 if kind == "spikes" else 256, (6, 5, 1, 4, 4))
    assert np.array_equal(simulate(net, x).traces.scores(net), execute(graph, x).scores)
    mixed = replace(graph, nodes=(*graph.nodes, Neuron(name="n", inputs=("d",))))
    assert not is_integer(mixed)
    with pytest.raises(UnsupportedError, match=r"^n: is in floating point"):
        integer_net(mixed)


# Narrow weights


def narrow_net() -> tuple[Graph, np.ndarray, np.ndarray]:
    """A lowered network and spikes whose neighbours go together, as those of images do; the second half is unseen."""
    torch.manual_seed(1)
    network = dense(nn.Linear(24, 32), LIF(0.7), nn.Linear(32, 16), LIF(0.7), Readout(16, 4), inputs=24)
    generator = np.random.default_rng(4)
    prototypes = (generator.random((6, 1, 24)) < 0.5).astype(np.float32)
    flips = generator.random((400, 6, 24)) < 0.15
    x = np.abs(prototypes[generator.integers(0, 6, 400)] - flips).astype(np.float32)
    return graph_of(network, x[:200]), x[:200], x[200:]


def unseen_error(graph: Graph, net: ChipNet, x: np.ndarray) -> float:
    scores = simulate(net, x).traces.scores(net)
    wanted = execute(graph, x).scores
    return float(1 - np.corrcoef(scores.ravel(), wanted.ravel())[0, 1])


@pytest.mark.parametrize("bits", [2, 3])
def test_second_order_rounding_is_better_on_unseen_data(bits: int) -> None:
    graph, x, unseen = narrow_net()
    errors = {
        rounding: unseen_error(graph, quantise(graph, x, bits, rounding=rounding).net, unseen)
        for rounding in ("nearest", "second-order")
    }
    assert errors["second-order"] < 0.8 * errors["nearest"]
    assert quantise(graph, x, bits).net == quantise(graph, x, bits, rounding="second-order").net, "auto, deterministic"


def test_rounding_carries_errors_to_inputs_that_go_together() -> None:
    """Two inputs that are always equal: 0.4 + 0.4 has to become 1 + 0, not 0 + 0."""
    neuron = Neuron(name="n", beta=0.0, threshold=0.5)
    graph = block_graph(np.array([[0.4, 0.4, -1.0], [1.0, -1.0, 0.3]]), neuron)
    x = spikes(60, 12, 3)
    x[..., 1] = x[..., 0]
    rounding = Rounding.of(Form(chip_blocks(graph)[0], 2), x, x)
    assert rounding is not None
    found = rounding.block(np.ones(2), 1.0, 0.0).synapse.weight
    assert found[0].tolist() in ([1.0, 0.0, -1.0], [0.0, 1.0, -1.0]) and np.isin(found, (-1, 0, 1)).all()


def test_single_layers_have_options_of_their_own() -> None:
    graph, x, _ = narrow_net()
    net = quantise(graph, x, layers={"0": {"bits": 3}, "2 (Linear)": {"bits": 5, "scales": "max"}}).net
    assert [mantissa(layer).bits for layer in net.layers] == [3, 5, 8]
    for layers, message in (
        ({"7": {"bits": 3}}, "'7' is no layer of the network; have 0 .Linear."),
        ({"0": {"bit": 3}}, "'bit' is unknown"),
        ({"0": {"bits": 0}}, "0 .Linear.: bits: 0"),
        ({"0": {"rounding": "up"}}, "rounding: 'up' is unknown"),
    ):
        with pytest.raises(UsageError, match=message):
            quantise(graph, x, layers=layers)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.01, 0.99), st.integers(1, 8000), st.integers(2, 32))
def test_no_other_decay_follows_the_trained_one_better(kept: float, threshold: int, steps: int) -> None:
    def error(decay: int) -> float:
        state, total = np.array(threshold << 6), 0.0
        for step in range(1, steps):
            state = law.decayed(state, np.array(decay))
            total += float((state - (threshold << 6) * kept**step) ** 2)
        return total

    best = int(decays(np.array([kept]), np.array([float(threshold)]), steps)[0])
    nearest = round(4096 * (1 - kept))
    assert abs(best - nearest) <= 2
    assert error(best) <= min(error(decay) for decay in range(max(nearest - 2, 0), nearest + 3))


def test_auto_widths_meet_what_is_asked_for_and_cost_less() -> None:
    torch.manual_seed(1)
    network = dense(nn.Linear(8, 16, bias=False), LIF(0.7), Readout(16, 4))
    x = spikes(100)
    graph = graph_of(network, x)
    y = execute(graph, x).scores.argmax(1)
    target = target_of("loihi2")
    quantised, widths = choose_widths(graph, x, y, target, max_drop=0.05)
    found = float((simulate(quantised.net, x).predictions != y).mean())
    assert widths.drop <= 0.05 and found == pytest.approx(widths.drop)
    assert widths.memory[0] < widths.memory[1] == place(quantise(graph, x).net, target).synaptic_memory_bytes
    assert place(quantised.net, target).synaptic_memory_bytes == widths.memory[0]
    assert widths.cores == (2, 2) and not widths.apart
    with pytest.raises(CheckFailed, match=r"no widths fit 1 cores, the fewest are 2"):
        choose_widths(graph, x, None, target, budget_cores=1)


# What can go wrong with states and with data


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(["if", "lif", "cuba", "rec", "analog"]))
def test_no_input_passes_the_bounds(seed: int, kind: str) -> None:
    generator = np.random.default_rng(seed)
    recurrent = generator.normal(0, 1, (5, 5)) if kind == "rec" else None
    alpha, beta = {"if": (0, 1), "lif": (0, 0.8), "cuba": (0.7, 0.9)}.get(kind, (0, 0.9))
    neuron = Neuron(
        name="n", alpha=alpha, beta=beta, threshold=2.0, recurrent=recurrent, bias=generator.normal(0, 1, 5)
    )
    graph = block_graph(generator.normal(0, 1, (5, 6)), neuron, kind="analog" if kind == "analog" else "spikes")
    x = generator.integers(0, 2, (30, 12, 6)).astype(float)
    net = quantise(graph, x, scales="max").net
    weight = net.layers[0].weight
    x[0], x[1] = (weight[0] > 0), (weight[0] < 0)  # the largest sums
    for bound in bounds(net, x):
        assert bound.seen is None or bound.seen <= bound.possible, f"seed {seed}: {bound}"
        assert bound.what != "sum" or bound.possible <= net.layers[0].largest_sum(net.encoding.largest)


def test_overflow_is_said_by_layer_and_neuron() -> None:
    weight = np.zeros((3, 4))
    weight[1] = 127
    layer = Dense("w", (4,), weight.astype(int), ChipNeuron.of("w", 131071, 0, 0))
    net = ChipNet((4,), (layer,), Encoding("graded", 1.0, 0, 255), time_steps=20)
    by_name = {bound.what: bound for bound in bounds(net, np.zeros((1, 20, 4), int))}
    assert by_name["u"].possible == 20 * 4 * 127 * 255 * 64 and by_name["u"].neuron == (1,)
    said = by_name["u"].warning
    assert said is not None and said.startswith("w: u of neuron (1,) may reach 165811200, wraps at 8388608")
    assert "on calibration data it stays at 0" in said and by_name["sum"].warning is None


@pytest.mark.parametrize(
    ("threshold", "message"), [(1e3, "is dead, no neuron fires in the trained model"), (1e-3, "is saturated")]
)
def test_dead_and_saturated_layers_are_named(threshold: float, message: str) -> None:
    graph = block_graph(np.abs(np.random.default_rng(0).normal(1, 0.2, (4, 8))), Neuron(name="n", threshold=threshold))
    (said,) = quantise(graph, np.ones((20, 12, 8))).warnings
    assert said.startswith("w: ") and message in said


def test_wrong_labels_are_named() -> None:
    network = dense(nn.Linear(8, 16), LIF(), Readout(16, 4))
    x = spikes(80)
    for y, message in (
        (np.full(80, 4), "contains class 4, the network has classes 0..3"),
        (np.full(80, -1), "class -1"),
    ):
        with pytest.raises(InputError, match=message):
            convert(network, (x, y))
    assert label_warning(0.25, 400, 4) is not None and label_warning(0.4, 400, 4) is None
    assert "right on 3.0% of 100 samples, chance is 10.0%" in str(label_warning(0.03, 100, 10))
    assert label_warning(None, 400, 4) is None and label_warning(0.1, 20, 10) is None
