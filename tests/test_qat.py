"""Quantisation-aware training: its spikes are the chip's, its gradients those of the trained model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn
from with_lava import needs_lava

import snn2chip as s2c
from snn2chip.errors import UnsupportedError, UsageError
from snn2chip.nn import IF, LIF, CubaLIF, Network, Readout, Residual
from snn2chip.quantise import IntegerNetwork, Spec, prepare
from snn2chip.simulation import simulate
from snn2chip.traces import Record


def dense() -> Network:
    layers = (nn.Linear(8, 20), LIF(0.7), nn.Linear(20, 12), LIF(0.9), Readout(12, 4))
    return Network(*layers, input_shape=(8,), time_steps=6)


def conv() -> Network:
    layers = (
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.BatchNorm2d(4),
        LIF(0.5),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        LIF(0.5),
        nn.Flatten(),
        nn.Linear(24, 5),
        LIF(0.5),
    )
    return Network(*layers, input_shape=(1, 8, 8), time_steps=5)


def recurrent() -> Network:
    own = nn.Linear(12, 12, bias=False)
    layers = (nn.Linear(8, 12), CubaLIF(0.5, 0.8, recurrent=own), nn.Linear(12, 5), CubaLIF(0.5, 0.5))
    return Network(*layers, input_shape=(8,), time_steps=7)


def soft() -> Network:
    first, second = LIF(0.9, reset="subtract"), IF(reset="subtract")
    layers = (nn.Linear(8, 12, bias=False), first, nn.Linear(12, 5, bias=False), second)
    return Network(*layers, input_shape=(8,), time_steps=7)


def soft_conv() -> Network:
    first, second = LIF(0.9, reset="subtract"), IF(reset="subtract")
    layers = (nn.Conv2d(1, 3, 3, padding=1, bias=False), first, nn.MaxPool2d(2), nn.Flatten())
    return Network(*layers, nn.Linear(48, 5, bias=False), second, input_shape=(1, 8, 8), time_steps=6)


def residual() -> Network:
    block = Residual([nn.Linear(12, 12), LIF(0.5), nn.Linear(12, 12)])
    return Network(nn.Linear(8, 12), LIF(0.5), block, LIF(0.5), Readout(12, 3), input_shape=(8,), time_steps=5)


NETS: dict[str, Callable[[], Network]] = {
    "dense": dense,
    "conv": conv,
    "recurrent": recurrent,
    "soft reset": soft,
    "soft reset of a convolution": soft_conv,
    "residual": residual,
}


def made(name: str) -> Network:
    torch.manual_seed(0)
    return NETS[name]().eval()


def data(network: Network, spikes: bool, samples: int = 30) -> np.ndarray:
    generator = np.random.default_rng(1)
    if spikes:
        return (generator.random((samples, network.time_steps, *network.input_shape)) < 0.4).astype(np.float32)
    return generator.random((samples, *network.input_shape)).astype(np.float32) * 3


def trained(network: Network, x: np.ndarray, spec: Spec, steps: int = 4) -> IntegerNetwork:
    integer = prepare(network, spec, x)
    classes = torch.from_numpy(np.random.default_rng(2).integers(0, 3, len(x)))
    optimiser = torch.optim.Adam(integer.parameters(), 1e-2)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(integer(torch.from_numpy(x)), classes)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return integer


@pytest.mark.parametrize("spikes", [True, False])
@pytest.mark.parametrize("name", NETS)
def test_spikes_are_those_of_the_exported_chip_after_training(name: str, spikes: bool) -> None:
    network = made(name)
    x = data(network, spikes)
    integer = trained(network, x, Spec(scales="mse"))
    assert [id(p) for p in integer.parameters()] == [id(p) for p in network.parameters()]
    net = integer.chip_net()
    expected = simulate(net, x, record=Record.everything(net))
    with torch.no_grad():
        found, scores = integer.spikes(torch.from_numpy(x)), integer(torch.from_numpy(x))
        steps = integer.steps(torch.from_numpy(x))
    assert sum(int(s.sum()) for s in found.values()) > 0
    for layer, trace in found.items():
        assert np.array_equal(trace.numpy(), expected.traces.spikes[layer]), layer
    assert np.array_equal(scores.argmax(1).numpy(), expected.predictions)
    np.testing.assert_allclose(steps.mean(1).numpy(), scores.numpy(), rtol=1e-4, atol=1e-5)


def test_training_changes_the_chip() -> None:
    network = made("dense")
    x = data(network, False)
    before = prepare(network, Spec(bits=4), x).chip_net()
    assert trained(network, x, Spec(bits=4)).chip_net() != before


@pytest.mark.parametrize("name", ["dense", "conv"])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_narrow_weights(name: str, bits: int) -> None:
    network = made(name)
    x = data(network, False)
    integer = trained(network, x, Spec(bits=bits, per_neuron=True))
    net = integer.chip_net()
    traces = simulate(net, x, record=Record.everything(net)).traces
    with torch.no_grad():
        for layer, trace in integer.spikes(torch.from_numpy(x)).items():
            assert np.array_equal(trace.numpy(), traces.spikes[layer]), layer


@pytest.mark.parametrize("reset", ["zero", "subtract"])
def test_gradients_are_the_float_models_where_nothing_is_rounded(reset: str) -> None:
    """Weights that are integers at full scale and dyadic leaks: same spikes, so the same gradients."""
    generator = np.random.default_rng(0)
    beta = 0.5 if reset == "zero" else 1.0
    unit = 64.0
    hidden, last = LIF(beta, 100 / unit, reset=reset, surrogate="atan"), IF(60 / unit, surrogate="atan")
    layers = (nn.Linear(8, 6, bias=False), hidden, nn.Linear(6, 3, bias=False), last)
    network = Network(*layers, input_shape=(8,), time_steps=6).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                weight = generator.integers(-120, 121, module.weight.shape)
                weight[:, 0] = 127
                module.weight.copy_(torch.from_numpy(weight / unit))
    x = torch.from_numpy(data(network, True))
    integer = prepare(network, Spec(scales="max", surrogate="atan"), x.numpy())
    gradients = []
    for model in (network, integer):
        network.zero_grad()
        (model(x) * torch.linspace(-1, 1, 90).reshape(30, 3)).sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters()])
    assert any(g.abs().max() > 1e-4 for g in gradients[0])
    for expected, found in zip(*gradients, strict=True):
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=3e-3, atol=1e-2)  # vDecay 4095 keeps 1/4096


def test_hard_reset_of_a_soft_reset_model() -> None:
    network = made("soft reset")
    x = data(network, False)
    net = trained(network, x, Spec(reset="zero")).chip_net()
    assert not net.recurrent and prepare(network, Spec(), x).chip_net().recurrent


def test_pruned_weights_stay_zero() -> None:
    network = made("dense")
    x = data(network, False)
    net = trained(network, x, Spec(sparsity=0.6)).chip_net()
    for layer in net.layers:
        assert 0.5 < (layer.weight == 0).mean() < 0.75
        assert layer.weight.any(1).all(), "each row keeps a weight"


def test_exports_and_reads_back(tmp_path: object) -> None:
    network = made("recurrent")
    x = data(network, True)
    net = trained(network, x, Spec(scales="mse")).chip_net()
    path = f"{tmp_path}/a.net"
    s2c.export(net, path)
    assert s2c.read(path) == net


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"surrogate": "steep"}, "'steep' is unknown"),
        ({"sparsity": 1.0}, "sparsity is 1.0"),
        ({"reset": "none"}, "reset 'none' is unknown"),
    ],
)
def test_wrong_specs(spec: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Spec(**spec)


def test_what_has_no_parameters_of_its_own_is_refused() -> None:
    network = Network(
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)), LIF(), Readout(4, 2), input_shape=(8,), time_steps=3
    ).eval()
    with pytest.raises(UnsupportedError, match="remove the parametrisation"):
        prepare(network, Spec(), data(network, True))
    pooled = Network(
        nn.Conv2d(1, 2, 3, padding=1),
        nn.AvgPool2d(2),
        LIF(),
        nn.Flatten(),
        Readout(32, 2),
        input_shape=(1, 8, 8),
        time_steps=3,
    ).eval()
    with pytest.raises(UnsupportedError, match=r"^0 \(Conv2d\): .*several trained values"):
        prepare(pooled, Spec(), data(pooled, True))
    with pytest.raises(UsageError, match="calibration"):
        prepare(made("dense"), Spec(), example_input=data(made("dense"), True))


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize("name", ["conv", "soft reset"])
def test_lava_fires_the_same(name: str) -> None:
    network = made(name)
    x = data(network, True)
    integer = trained(network, x, Spec(scales="mse"))
    net = integer.chip_net()
    traces = simulate(net, x[:2], backend="lava", record=Record.everything(net)).traces
    with torch.no_grad():
        for layer, trace in integer.spikes(torch.from_numpy(x[:2])).items():
            assert np.array_equal(trace.numpy(), traces.spikes[layer]), layer
