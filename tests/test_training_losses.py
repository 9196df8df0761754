"""Neurons, losses, teachers and cutoffs: each against its equation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from snn2chip.demo import digits
from snn2chip.errors import UnsupportedError, UsageError
from snn2chip.nn import IF, LIF, SURROGATES, Network, Readout, SpikingNeuron, spike
from snn2chip.nn.network import over_time
from snn2chip.training import losses, observe
from snn2chip.training.augment import AUGMENTATIONS, augmentation
from snn2chip.training.events import saccades
from snn2chip.training.models import conv, mlp
from snn2chip.training.records import LayerRecord, neurons_of
from snn2chip.training.single_step import potential_noise, with_own_statistics, with_time_steps
from snn2chip.training.teacher import (
    activation_scales,
    activations,
    fold_batch_norm,
    normalised,
    rate_coded,
    spiking_from_teacher,
)


@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.sampled_from(["zero", "subtract"]),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_fused_neurons_compute_and_learn_as_stepped_ones(
    seed: int, alpha: float, beta: float, reset: Any, online: bool, keep: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    neuron = SpikingNeuron(beta, alpha, 0.7, reset, "atan")
    neuron.online, neuron.keep_potential = online, keep
    x = random(2, 5, 3).requires_grad_()
    spikes, potentials = random(2, 5, 3), random(2, 5, 3)
    found = []
    for law in (neuron._fused, neuron._stepped):
        s, v = law(x)
        assert (v is not None) == keep
        loss = (s * spikes).sum() + (0 if v is None else (v * potentials).sum())
        found.append((s, v, *torch.autograd.grad(loss, x)))
    assert torch.equal(found[0][0], found[1][0])
    for fused, stepped in zip(found[0][1:], found[1][1:], strict=True):
        assert (fused is None) == (stepped is None)
        assert fused is None or torch.allclose(fused, stepped, rtol=1e-12, atol=1e-12)


def test_potentials_alone_carry_a_gradient() -> None:
    neuron = LIF()
    neuron.keep_potential = True
    x = torch.randn(2, 3, 4, requires_grad=True)
    neuron(x)
    assert neuron.potential is not None
    (gradient,) = torch.autograd.grad(neuron.potential.square().sum(), x)
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates_are_what_spikes_learn_with(name: str) -> None:
    x = torch.linspace(-3, 3, 61, requires_grad=True)
    (gradient,) = torch.autograd.grad(spike(x, SURROGATES[name]).sum(), x)
    assert torch.equal(gradient, SURROGATES[name](x.detach()))
    assert (gradient >= 0).all()


def test_surrogate_of_s2nn() -> None:
    x = torch.tensor([-1.0, -0.25, 0.0, 1.0, 9.0])
    gate = 1 / (1 + math.exp(1))
    expected = [4 * (1 / (1 + math.exp(4))) * (1 - 1 / (1 + math.exp(4))), 4 * gate * (1 - gate), 1.0, 0.5, 0.1]
    assert torch.allclose(SURROGATES["s2nn"](x), torch.tensor(expected))


def layer(spikes: Any, potential: Any = None, threshold: float = 1.0) -> LayerRecord:
    as_tensor = [None if part is None else torch.tensor(part, dtype=torch.float64) for part in (spikes, potential)]
    assert as_tensor[0] is not None
    return LayerRecord("layer", as_tensor[0], as_tensor[1], threshold)


def test_direct_losses() -> None:
    outputs = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])  # [T=2, N=1, classes=2]
    y = torch.tensor([0])
    each = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]
    assert losses.sdt(outputs, y).item() == pytest.approx(math.log(1 + math.exp(-0.5)))
    assert losses.tet(outputs, y, lam=0).item() == pytest.approx(sum(each) / 2)
    squares = (1 + 1 + 1 + 0) / 4
    assert losses.tet(outputs, y, lam=0.2).item() == pytest.approx(0.8 * sum(each) / 2 + 0.2 * squares)
    assert losses.tet(outputs[:1], y, lam=0).item() == pytest.approx(losses.sdt(outputs[:1], y).item())
    online = losses.online_entropy(outputs, y, warm_up=1)
    assert online.item() == pytest.approx(losses.sdt(outputs, y).item())


def test_strength_ratio_and_its_penalty_are_separate() -> None:
    one = layer([[[1.0, 1.0]]], [[[3.0, 4.0]]], threshold=5.0)  # [T=1, N=1, 2]
    ratio = 5 * math.sqrt(2) / 5
    assert losses.strength_ratio(one).item() == pytest.approx(ratio)
    assert losses.str_loss([one]).item() == pytest.approx(1 / (ratio + 1))
    assert losses.str_loss([one], penalty=lambda r: -r).item() == pytest.approx(-ratio)
    assert losses.str_loss([one, layer([[[0.0]]], [[[1.0]]])]).item() == pytest.approx((1 / (ratio + 1) + 1) / 2)
    with pytest.raises(UsageError, match="potential was not recorded"):
        losses.str_loss([layer([[[1.0]]])])
    with pytest.raises(UsageError, match="no neurons"):
        losses.str_loss([])


def test_regulariser_of_cosine_similarity() -> None:
    # spikes [T=2, N=2, 2]: the first sample is right, its steps are orthogonal; the second is wrong
    spikes = [[[1.0, 0.0], [1.0, 1.0]], [[0.0, 1.0], [1.0, 1.0]]]
    one = layer(spikes, np.zeros((2, 2, 2)).tolist())
    outputs = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [1.0, 0.0]]])
    found = losses.rcs_loss([one], outputs, torch.tensor([0, 1]))
    assert found.item() == pytest.approx(1 / (0.5 + 1e-5))
    assert losses.rcs_loss([one], outputs, torch.tensor([1, 1])).item() == 0
    residual = layer(spikes, np.full((2, 2, 2), -3.0).tolist())  # negative potentials do not count
    assert losses.rcs_loss([residual], outputs, torch.tensor([0, 1])).item() == pytest.approx(found.item())


def test_spike_rate_counts_what_exceeds_its_target() -> None:
    layers = [layer([[[1.0, 1.0]], [[0.0, 0.0]]]), layer([[[0.0]], [[0.0]]])]
    assert losses.spike_rate(layers).item() == 0.25
    assert losses.spike_rate(layers, 0.4).item() == pytest.approx(0.05)


def test_running_means_have_the_gradient_of_their_own_step() -> None:
    values = torch.randn(4, 2, 3, requires_grad=True)
    means = losses.running_mean(values)
    for t in range(4):
        assert torch.allclose(means[t], values[: t + 1].mean(0), atol=1e-6)
    (gradient,) = torch.autograd.grad(means[3].sum(), values)
    assert torch.equal(gradient[:3], torch.zeros(3, 2, 3))
    assert torch.allclose(gradient[3], torch.full((2, 3), 0.25))


def test_local_losses_stay_in_their_layer() -> None:
    torch.manual_seed(0)
    network = mlp((6,), 3, 4, lambda: LIF(0.9, 0.3), norm=False, widths=(5, 4))
    x = torch.rand(8, 6)
    with observe(network, local=True) as records:
        outputs = network.steps(x).transpose(0, 1)
        layers = records.take()
    assert [one.name for one in layers] == ["1", "3"]
    wanted = [torch.rand(8, 5), torch.rand(8, 4)]
    weights = [network[0].weight, network[2].weight, network[4].weight]

    def touched(loss: Tensor) -> list[bool]:
        gradients = torch.autograd.grad(loss, weights, allow_unused=True, retain_graph=True)  # type: ignore[arg-type]
        return [gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients]

    assert touched(losses.local_offline(layers[:1], wanted[:1])) == [True, False, False]
    assert touched(losses.local_offline(layers[1:], wanted[1:])) == [False, True, False]
    assert touched(losses.sdt(outputs, torch.zeros(8, dtype=torch.long))) == [False, False, True]
    assert losses.local_offline(layers, [one.spikes.mean(0) for one in layers]).item() == 0
    with pytest.raises(UsageError, match="the student's layers are"):
        losses.local_online(layers, wanted[:1])


def test_observing_leaves_nothing_behind() -> None:
    network = Network(nn.Linear(4, 3), LIF(), Readout(3, 2), input_shape=(4,), time_steps=3)
    x = torch.rand(2, 4)
    with observe(network, potentials=True) as records:
        network(x)
        (one,) = records.take()
        assert one.potential is not None
        assert one.spikes.shape == one.potential.shape == (3, 2, 3)
    neuron = network[1]
    assert neuron.potential is None
    assert not neuron.keep_potential
    assert not neuron._forward_hooks


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of spikingjelly with a current torch
@pytest.mark.parametrize("library", ["snntorch", "spikingjelly", "spikingjelly steps"])
def test_records_of_other_libraries_make_the_same_losses(library: str) -> None:
    """The same hard-reset neurons in three libraries: equal records, equal regularisers, equal gradients."""
    pytest.importorskip(library.split()[0])
    torch.manual_seed(1)
    x = torch.randn(5, 4, 6)  # [T, N, F]
    if library == "snntorch":
        import snntorch

        class Other(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lif = snntorch.Leaky(
                    beta=0.5, reset_mechanism="zero", reset_delay=False, spike_grad=lambda u: spike(u)
                )

            def forward(self, x: Tensor) -> None:
                memory = self.lif.init_leaky()
                for step in x:
                    _, memory = self.lif(step, memory)

        other: nn.Module = Other()
    else:
        from spikingjelly.activation_based import neuron as jelly

        mode = "m" if "steps" in library else "s"
        lif = jelly.LIFNode(
            tau=2.0, decay_input=False, v_reset=0.0, step_mode=mode, surrogate_function=lambda u: spike(u)
        )

        class Stepped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.lif = lif

            def forward(self, x: Tensor) -> None:
                if mode == "m":
                    self.lif(x)
                else:
                    for step in x:
                        self.lif(step)

        other = Stepped()
    own = nn.Sequential(LIF(0.5))
    found = []
    for module, data in ((own, x.transpose(0, 1)), (other, x)):
        leaf = data.clone().requires_grad_()
        assert len(neurons_of(module)) == 1
        with observe(module, potentials=True) as records:
            module(leaf)
            (one,) = records.take()
        loss = losses.str_loss([one]) + losses.spike_rate([one])
        (gradient,) = torch.autograd.grad(loss, leaf)
        found.append((one, loss, gradient.transpose(0, 1) if module is own else gradient))
    (mine, loss, gradient), (theirs, other_loss, other_gradient) = found
    assert mine.threshold == theirs.threshold
    assert torch.equal(mine.spikes, theirs.spikes)
    assert mine.potential is not None
    assert theirs.potential is not None
    assert torch.allclose(mine.potential, theirs.potential)
    assert torch.allclose(loss, other_loss)
    assert torch.allclose(gradient, other_gradient, atol=1e-6)


def test_noise_is_added_in_training_alone() -> None:
    network = Network(nn.Linear(4, 50), LIF(), Readout(50, 2), input_shape=(4,), time_steps=1)
    x = torch.rand(8, 4)
    quiet = network.eval()(x)
    with potential_noise(network, 0.5):
        assert torch.equal(network(x), quiet)
        assert not torch.equal(network.train()(x), quiet)
    assert torch.equal(network(x), quiet)
    longer = with_time_steps(network, 5)
    assert longer.steps(x).shape[1] == 5
    assert network.time_steps == 1
    assert torch.equal(longer[0].weight, network[0].weight)


def test_batch_norms_take_the_statistics_of_all_steps() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(4, 50), LIF(), nn.Linear(50, 20), nn.BatchNorm1d(20), LIF(), Readout(20, 2)]
    network = Network(*layers, input_shape=(4,), time_steps=5).train()
    x = 3 * torch.rand(60, 4)
    converted = with_own_statistics(network, x)
    with torch.no_grad():
        seen = over_time(layers[:3], x[:, None].expand(-1, 5, -1)).flatten(0, 1)
    assert torch.allclose(converted[3].running_mean, seen.mean(0), atol=1e-5)
    assert torch.allclose(converted[3].running_var, seen.var(0), atol=1e-5)
    assert converted[3].momentum == network[3].momentum == 0.1
    assert torch.equal(network[3].running_mean, torch.zeros(20))


def relu_network() -> Network:
    torch.manual_seed(2)
    network = conv((1, 8, 8), 10, 1, nn.ReLU, widths=(4, 8))
    images = torch.from_numpy(digits()[0])
    network.train()
    for _ in range(3):
        network(images[:128])  # gives the batch norms their statistics
    return network.eval()


def test_folded_batch_norm_computes_the_same() -> None:
    network = relu_network()
    x = torch.from_numpy(digits()[2][:20])
    folded = fold_batch_norm(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert torch.allclose(folded(x), network(x), atol=1e-5)


def test_normalised_activations_lie_in_0_to_1_and_reach_it() -> None:
    network = fold_batch_norm(relu_network())
    x = torch.from_numpy(digits()[0][:200])
    scales = activation_scales(network, x, quantile=1.0)
    for raw, rate in zip(activations(network, x), normalised(activations(network, x), scales), strict=True):
        assert torch.allclose(rate, raw / raw.max())


def test_conversion_approaches_the_ordinary_network() -> None:
    """Of rate coding: with more steps, the outputs approach those of the ReLU network."""
    network = relu_network()
    x = torch.from_numpy(digits()[0][:100])
    with torch.no_grad():
        expected = network(x)
        errors = [float((rate_coded(network, x, steps, 1.0)(x) - expected).abs().mean()) for steps in (4, 16, 128)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.03 * float(expected.abs().mean())


def test_teachers_with_batch_norm_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"1 \(BatchNorm2d\).*fold_batch_norm"):
        spiking_from_teacher(relu_network(), [1.0, 1.0], lambda: IF(), 4)


# -- data


def test_saccades_are_events_of_both_kinds() -> None:
    images = digits()[0][:20]
    x = saccades(images, 6, seed=1, noise=0.0, lost=0.0)
    assert x.shape == (20, 6, 2, 12, 12)
    assert x.dtype == np.uint8
    assert x.max() == 1
    assert (x.sum((0, 1, 3, 4)) > 100).all()  # ON and OFF
    assert not (x[:, :, 0] & x[:, :, 1]).any()
    assert np.array_equal(x, saccades(images, 6, seed=1, noise=0.0, lost=0.0))
    assert not np.array_equal(x, saccades(images, 6, seed=2, noise=0.0, lost=0.0))
    assert not saccades(np.zeros((2, 1, 8, 8)), 4, noise=0.0).any()


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("shape", [(30, 1, 8, 8), (30, 4, 2, 8, 8)])
def test_augmentations_treat_all_steps_and_channels_alike(name: str, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plane = torch.rand(shape[0], *(1,) * (len(shape) - 3), 8, 8)
    x = plane.expand(shape).contiguous()
    before = x.clone()
    out = AUGMENTATIONS[name](x)
    assert out.shape == x.shape
    assert torch.equal(x, before)
    flat = out.reshape(30, -1, 8, 8)
    assert all(torch.equal(flat[:, 0], flat[:, i]) for i in range(flat.shape[1]))
    changed = (out != x).flatten(1).any(1)
    assert 5 < changed.sum() <= 30


def test_unknown_augmentations() -> None:
    with pytest.raises(UsageError, match="mixup unknown; have shift"):
        augmentation(["mixup"])
    with pytest.raises(UsageError, match="are no images"):
        augmentation(["flip"])(torch.rand(2, 5))
