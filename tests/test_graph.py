"""Native layers against the graph's executor, and exactness of every pass on random graphs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from compare import graph_of
from hypothesis import given, note, settings
from hypothesis import strategies as st
from lowered import assert_same_spikes
from torch import nn

from snn2chip.errors import InputError, UnsupportedError, UsageError
from snn2chip.graph import Graph, Input, Linear, Neuron, execute
from snn2chip.nn import IF, LIF, SURROGATES, CubaLIF, Network, Readout, spike
from snn2chip.passes import PASSES, chip_blocks, hold_input, lower
from snn2chip.passes.bias import move_bias
from snn2chip.passes.neurons import integrate_readout


def randomised(network: Network, seed: int) -> Network:
    """Weights and statistics on a coarse binary grid, so that float sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)

    def grid(tensor: torch.Tensor, low: int, high: int, step: float) -> None:
        tensor.copy_(torch.randint(low, high, tensor.shape, generator=generator) * step)

    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                grid(module.weight, -16, 17, 1 / 16)
                if module.bias is not None:
                    grid(module.bias, -4, 5, 1 / 8)
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                grid(module.weight, 1, 9, 1 / 4)
                grid(module.bias, -4, 5, 1 / 8)
                grid(module.running_mean, -4, 5, 1 / 8)
                # 1 / sqrt(var + eps) is a power of two
                module.running_var.copy_(torch.full_like(module.running_var, 0.25 - module.eps, dtype=torch.float64))
                module.eps = 0.25 - float(module.running_var[0])
    return network.eval()


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, np.ndarray]:
    """Small conv nets with batch norm, dilation, groups and average pooling before and after neurons, and data."""
    seed = draw(st.integers(0, 2**31))
    size = draw(st.sampled_from([10, 11, 12]))
    channels = draw(st.sampled_from([2, 4]))
    neuron = draw(st.sampled_from(["lif", "if", "cuba"]))

    def neurons() -> nn.Module:
        return {"lif": LIF(0.5, 0.75), "if": IF(1.5), "cuba": CubaLIF(0.5, 0.75)}[neuron]

    bias = draw(st.booleans())
    conv = nn.Conv2d(
        2,
        channels,
        draw(st.sampled_from([2, 3, (1, 3)])),
        stride=draw(st.sampled_from([1, (2, 1)])),
        padding=draw(st.sampled_from([0, 1, (1, 0)])),
        dilation=draw(st.sampled_from([1, (1, 2)])),
        groups=draw(st.sampled_from([1, 2])),
        bias=bias,
    )
    modules: list[nn.Module] = [conv]
    normed = draw(st.booleans())
    pool_first = draw(st.booleans())
    if pool_first:
        modules.append(nn.AvgPool2d(2))
    if normed:
        modules.append(nn.BatchNorm2d(channels))
    modules += [neurons(), nn.Dropout(0.5)]
    if draw(st.booleans()):
        modules.append(nn.AvgPool2d((2, 1), draw(st.sampled_from([None, (1, 1)]))))
    if draw(st.booleans()):
        modules += [nn.Conv2d(channels, 3, (1, 2), bias=False), neurons()]
    modules.append(nn.Flatten())
    x = np.random.default_rng(seed).integers(0, 2, (3, 5, 2, size, size)).astype(np.float32)
    with torch.no_grad():
        shape = nn.Sequential(*modules[:1]).eval()(torch.zeros(1, 2, size, size)).shape
        flat = torch.zeros(1, 2, size, size)
        for module in modules:
            flat = (
                module(flat.unsqueeze(1)).squeeze(1) if isinstance(module, LIF | IF | CubaLIF) else module.eval()(flat)
            )
    note(f"seed {seed}, first convolution gives {tuple(shape)}")
    modules.append(Readout(flat.shape[1], 4))
    network = Network(*modules, input_shape=(2, size, size), time_steps=5)
    return randomised(network, seed), x


@settings(max_examples=40, deadline=None)
@given(networks())
def test_lowering_keeps_every_spike_of_a_network(case: tuple[Network, np.ndarray]) -> None:
    network, x = case
    graph = graph_of(network.double())
    with torch.no_grad():
        expected_scores = network(torch.from_numpy(x).double()).numpy()
    np.testing.assert_array_equal(execute(graph, x).scores, expected_scores)
    for step in PASSES:
        lowered = step.rewrite(graph)
        assert_same_spikes(graph, lowered, x, step.name)
        graph = lowered
    assert len(chip_blocks(graph)) == sum(isinstance(node, Neuron) for node in graph.nodes)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_held_input_gives_the_same_spikes(seed: int) -> None:
    network = Network(nn.Linear(6, 5), LIF(0.5), nn.Linear(5, 4), IF(), input_shape=(6,), time_steps=7)
    graph = lower(graph_of(randomised(network, seed).double()))
    x = np.random.default_rng(seed).integers(0, 9, (4, 6)) / 8
    held = hold_input(graph)
    assert held.input.kind == "hold"
    for name, spikes in execute(graph, x).outputs.items():
        assert np.array_equal(execute(held, x).outputs[name], spikes), f"seed {seed}: {name}"


@pytest.mark.parametrize("reset", ["zero", "subtract"])
@pytest.mark.parametrize("neuron", [LIF, IF, CubaLIF])
@pytest.mark.parametrize("recurrent", [False, True])
def test_native_neurons_equal_the_executor(neuron: type, reset: str, recurrent: bool) -> None:
    torch.manual_seed(1)
    layer = neuron(reset=reset, recurrent=nn.Linear(6, 6, bias=False) if recurrent else None)
    network = Network(nn.Linear(4, 6, bias=False), layer, input_shape=(4,), time_steps=8).double()
    x = torch.rand(10, 8, 4, dtype=torch.float64) * 3
    with torch.no_grad():
        layers = list(network)
        expected = layers[1](layers[0](x)).numpy()
    trace = execute(graph_of(network), x.numpy())
    assert 0 < expected.mean() < 1
    assert np.array_equal(trace.outputs[f"1 ({neuron.__name__})"], expected)


def test_neuron_by_hand() -> None:
    x = torch.tensor([[[0.6], [0.8], [0.9], [1.2]]])
    assert LIF(0.5)(x).flatten().tolist() == [0, 1, 0, 1]  # 0.6; 1.1 -> 0; 0.9; 1.65
    assert IF()(x).flatten().tolist() == [0, 1, 0, 1]  # 0.6; 1.4 -> 0; 0.9; 2.1
    assert IF(reset="subtract")(x).flatten().tolist() == [0, 1, 1, 1]  # 0.6; 1.4 -> 0.4; 1.3 -> 0.3; 1.5
    assert CubaLIF(0.5, 0.5)(x).flatten().tolist() == [0, 1, 1, 1]  # 0.6; 1.1+0.3 -> 0; 1.45 -> 0; 1.925
    assert spike(torch.tensor([0.0])).item() == 0  # the threshold itself does not fire


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_give_gradients_near_the_threshold(name: str) -> None:
    x = torch.tensor([-0.1, 0.1, 50.0], requires_grad=True)
    torch.autograd.backward(spike(x, SURROGATES[name]).sum())
    assert x.grad is not None
    assert (x.grad[:2] > 0).all()
    assert x.grad[2] < x.grad[1]


def test_static_input_equals_the_same_input_repeated() -> None:
    torch.manual_seed(0)
    network = Network(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), LIF(), nn.Flatten(), Readout(64, 3), input_shape=(1, 6, 6), time_steps=5
    ).eval()
    x = torch.rand(4, 1, 6, 6) * 3
    with torch.no_grad():
        assert torch.equal(network(x), network(x.unsqueeze(1).expand(-1, 5, -1, -1, -1)))


REFUSED = {
    "0 (MaxPool2d)": (nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3), LIF()),
    "1 (ReLU)": (nn.Conv2d(1, 2, 3), nn.ReLU()),
    "1 (Conv2d)": (nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3), LIF()),
    "1 (AvgPool2d)": (nn.Conv2d(1, 2, 3, bias=False), nn.AvgPool2d(2, padding=1), LIF()),
    "3 (Conv2d)": (nn.Conv2d(1, 2, 2), LIF(), nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, padding=1), LIF()),
    "block.1 (MaxPool2d)": (nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2)), CubaLIF(0.5)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_module(name: str) -> None:
    network = Network(*REFUSED[name], input_shape=(1, 8, 8), time_steps=3)
    if name.startswith("block"):
        network = Network(input_shape=(1, 8, 8), time_steps=3)
        network.add_module("block", REFUSED[name][0])
        network.add_module("neurons", REFUSED[name][1])
    with pytest.raises(UnsupportedError) as caught:
        chip_blocks(lower(graph_of(network)))
    assert str(caught.value).startswith(name)
    assert "\n" not in str(caught.value)


def test_nan_weights_are_named() -> None:
    network = Network(nn.Linear(4, 3), LIF(), input_shape=(4,), time_steps=2)
    with torch.no_grad():
        network[0].weight[1, 2] = math.nan
    with pytest.raises(InputError, match=r"0 \(Linear\): .*NaN"):
        graph_of(network)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(UsageError, match="input_shape"):
        Network(nn.Linear(4, 3), input_shape=(1, 2), time_steps=3)
    with pytest.raises(UsageError, match=r"LIF: beta 1\.5"):
        LIF(1.5)
    with pytest.raises(UsageError, match=r"IF: reset 'soft'"):
        IF(reset="soft")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"1 \(Linear\).*: fails on the example input.*4x4 and 5x3"):
        graph_of(Network(nn.Identity(), nn.Linear(5, 3), LIF(), input_shape=(4,), time_steps=3))
    with pytest.raises(UsageError, match=r"fold-batch-norm"):
        lower(graph_of(Network(nn.Linear(4, 3), LIF(), input_shape=(4,), time_steps=3)), skip=["fold"])


def test_readout_sums_over_time() -> None:
    readout = Graph(
        (
            Input(name="input", shape=(2,)),
            Linear(name="fc", inputs=("input",), weight=np.ones((3, 2)), bias=np.ones(3)),
        ),
        4,
    )
    scores = execute(move_bias(integrate_readout(readout)), np.ones((1, 2))).scores
    assert scores.tolist() == [[12, 12, 12]]  # 4 steps of 2 + 1
