"""Ways to write a forward pass, which the capture reads as torch does: checked on samples that it has not seen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from snn2chip.errors import CheckFailed, InputError, UnsupportedError
from snn2chip.frontends import capture
from snn2chip.graph import Graph, execute

snn = pytest.importorskip("snntorch")
frontend: Any = pytest.importorskip("snn2chip.frontends.snntorch")

STEPS, FEATURES, HIDDEN, CLASSES = 6, 12, 8, 4


class Net(nn.Module):
    """A layer of neurons, stepped by hand; ``after`` makes the output of the list of its spikes."""

    def __init__(self, after: Callable[[Net, list[Tensor]], Tensor], **modules: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.fc, self.out, self.norm = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, CLASSES), nn.BatchNorm1d(HIDDEN)
        self.lif, self.drop = snn.Leaky(0.8, reset_mechanism="zero"), nn.Dropout()
        for name, module in modules.items():
            setattr(self, name, module)
        with torch.no_grad():
            self.fc.weight.mul_(3)
            nn.init.normal_(self.out.bias)
            nn.init.normal_(self.norm.bias)
            nn.init.normal_(self.norm.running_mean)
        self.after = after

    def given(self, x: Tensor) -> Tensor:
        return self.drop(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        potential, record = self.lif.reset_mem(), []
        for step in x:
            spikes, potential = self.lif(self.given(step), potential)
            record.append(spikes)
        return self.after(self, record)


def events(samples: int, seed: int = 0, rate: float = 0.4) -> Any:
    return (np.random.default_rng(seed).random((STEPS, samples, FEATURES)) < rate).astype(np.float32)


def summed(net: Net, record: list[Tensor]) -> Tensor:
    total = torch.zeros_like(record[0])
    for spikes in record:
        total += spikes
    return total


def assigned(net: Net, record: list[Tensor], axis: int = 0) -> Tensor:
    shape = list(record[0].shape)
    out = torch.zeros(*shape[:axis], STEPS, *shape[axis:])
    for step, spikes in enumerate(record):
        if axis:
            out[:, step] = spikes
        else:
            out[step] = spikes
    return out.sum(axis)


#: What is done with the spikes of all steps, and the numbers that torch has for it in terms of the graph's mean.
FORWARDS: dict[str, Callable[[Net, list[Tensor]], Tensor]] = {
    "factor before a bias": lambda net, r: net.out(torch.stack(r).mean(0) * 0.1),
    "division before a bias": lambda net, r: net.out(torch.stack(r).mean(0) / 4),
    "sum before a bias": lambda net, r: net.out(torch.stack(r).sum(0)),
    "sum by steps before a bias": lambda net, r: net.out(torch.stack(r).sum(0) / STEPS),
    "sum of a list before a bias": lambda net, r: net.out(sum(r, torch.zeros(())) / STEPS),
    "factor after a bias": lambda net, r: 3 * net.out(torch.stack(r).mean(0)),
    "two layers": lambda net, r: net.out(net.norm(torch.stack(r).sum(0) / 2) * 0.5),
    "norm of a sum": lambda net, r: net.norm(torch.stack(r).sum(0)),
    "in place": summed,
    "in place before a bias": lambda net, r: net.out(summed(net, r)),
    "assigned steps": assigned,
    "assigned steps, second axis": lambda net, r: assigned(net, r, 1),
    "softmax at the end": lambda net, r: net.out(sum(r, torch.zeros(()))).softmax(1),
    "log softmax of a factor": lambda net, r: (net.out(torch.stack(r).mean(0)) * 2).log_softmax(-1),
}


def graph_of(net: nn.Module, x: Any) -> Graph:
    return capture(net.eval(), x, "TN").graph


def scores(net: nn.Module, x: Any) -> Any:
    """What torch computes, in double precision, also of spikes, which the library makes single ones."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    kinds = [module for module in net.modules() if isinstance(module, snn.SpikingNeuron)]
    hooks = [module.register_forward_hook(lambda module, args, out: in_double(out)) for module in kinds]
    try:
        with torch.no_grad():
            return net.double()(torch.from_numpy(x).double()).numpy()
    finally:
        torch.set_default_dtype(before)
        for hook in hooks:
            hook.remove()


def in_double(content: Any) -> Any:
    return content.double() if isinstance(content, Tensor) else tuple(part.double() for part in content)


@pytest.mark.parametrize("name", FORWARDS)
def test_what_comes_after_the_last_spikes(name: str) -> None:
    net = Net(FORWARDS[name])
    graph = graph_of(net, events(40))
    x = events(200, 1)
    found, wanted = execute(graph, x.swapaxes(0, 1)).scores, scores(net, x)
    assert (found.argmax(1) == wanted.argmax(1)).all()
    if "softmax" not in name:
        factor = (found * wanted).sum() / (found**2).sum()  # scores are means over time
        assert factor > 0
        np.testing.assert_allclose(factor * found, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda net, r: net.out(torch.stack(r).mean(0).softmax(1)), "linear after softmax; leave softmax out"),
        (lambda net, r: net.out(torch.stack(r).mean(0).sigmoid()), "linear after sigmoid; leave sigmoid out"),
        (lambda net, r: torch.stack(r).mean(0).softmax(0), "softmax over another axis than the scores'"),
        (lambda net, r: r[0] + 0.5 * r[1], "add"),
        (lambda net, r: sum(r[:-1], torch.zeros(())), f"a sum of {STEPS - 1} of {STEPS} time steps"),
        (lambda net, r: net.out(sum(r[:-1], torch.zeros(()))), "of some time steps' sum"),
    ],
)
def test_what_no_mean_over_time_can_be(forward: Any, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        graph_of(Net(forward), events(40))


def test_samples_of_the_proof_are_from_everywhere() -> None:
    """Data are often in the order of their classes; here only the last samples tell one network from another."""

    class Twice(Net):
        def given(self, x: Tensor) -> Tensor:
            return super().given(x) * (1 + (x.sum(1, keepdim=True) > FEATURES - 1))

    x = events(400, rate=0.2)
    x[:, 300:] = 1
    with pytest.raises((UnsupportedError, CheckFailed)):
        graph_of(Twice(lambda net, r: torch.stack(r).sum(0)), x)


def images(samples: int, active: slice = slice(None)) -> Any:
    x = np.zeros((8, samples, 1, 4, 4), np.float32)
    x[:, active] = np.random.default_rng(2).random((8, samples, 1, 4, 4))[:, active] < 0.4
    return x


class Conv(nn.Module):
    """Four channels of four columns, so that an axis taken for another has the right length."""

    def __init__(self, beta: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=False)
        nn.init.constant_(self.conv.weight, 0.6)
        self.lif = snn.Leaky(beta, init_hidden=True, reset_mechanism="zero")

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.lif(self.conv(step)) for step in x])


@pytest.mark.parametrize("shape", [(4,), (1, 4), (4, 1), (4, 1, 1), (1, 4, 4), (4, 4, 4), (1, 4, 1, 1)])
@pytest.mark.parametrize("samples", [40, 2])
def test_parameters_are_along_the_axes_that_torch_says(shape: tuple[int, ...], samples: int) -> None:
    beta = torch.linspace(0, 0.9, int(np.prod(shape))).reshape(shape)
    net = Conv(beta)
    graph = graph_of(net, images(200, slice(0, samples)))
    x = images(50)
    net.lif.reset_mem()
    np.testing.assert_array_equal(execute(graph, x.swapaxes(0, 1)).scores, scores(net, x).sum(0).reshape(50, -1))


def threshold_times(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Let the capture take the threshold for another, as a fault of it would."""
    real = frontend.parameter

    def parameter(value: Any, shape: Any) -> Any:
        found = real(value, shape)
        return found * factor if value is wanted else found

    wanted: Any = None

    def nodes(module: Any) -> Any:
        nonlocal wanted
        wanted = module.threshold
        return original(module)

    original = frontend.leaf
    monkeypatch.setattr(frontend, "parameter", parameter)
    monkeypatch.setattr(frontend, "leaf", nodes)


class Halves(nn.Module):
    """Two inputs reach the threshold of 1 and do not exceed it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.lif = nn.Linear(FEATURES, 1, bias=False), snn.Leaky(0.0, reset_mechanism="zero")
        nn.init.constant_(self.fc.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        potential, out = self.lif.reset_mem(), []
        for step in x:
            spikes, potential = self.lif(self.fc(step), potential)
            out.append(spikes)
        return torch.stack(out)


def one_sample_of(inputs: int) -> Any:
    x = np.zeros((STEPS, 40, FEATURES), np.float32)
    x[2, 0, :inputs] = 1
    return x


def test_a_sample_that_differs_by_more_than_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    threshold_times(monkeypatch, 0.9)
    with pytest.raises(
        CheckFailed, match=r"lif \(Leaky\): the graph's spikes differ from the module's on 1 of 32 samples"
    ):
        graph_of(Halves(), one_sample_of(2))


def test_a_sample_that_differs_by_rounding_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    threshold_times(monkeypatch, 1 - 1e-12)
    found = capture(Halves().eval(), one_sample_of(2), "TN")
    assert found.differing == 1
    assert found.graph.inexact == (
        "lif (Leaky): potentials within rounding of the threshold, where the module decides otherwise, on 1 of 32 "
        "example samples",
    )
    assert capture(Halves().eval(), one_sample_of(3), "TN").graph.inexact == ()


@pytest.mark.parametrize("kind", ["RLeaky", "RSynaptic"])
def test_neurons_that_keep_their_own_spikes(kind: str) -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc = nn.Linear(FEATURES, HIDDEN)
            with torch.no_grad():
                self.fc.weight.mul_(3)
            decays = {"beta": 0.7} if kind == "RLeaky" else {"alpha": 0.5, "beta": 0.7}
            self.lif = getattr(snn, kind)(**decays, linear_features=HIDDEN, init_hidden=True)

        def forward(self, x: Tensor) -> Tensor:
            self.lif.reset_mem()
            return torch.stack([self.lif(self.fc(step)) for step in x])

    graph = graph_of(Own(), events(40))
    assert execute(graph, events(20, 1).swapaxes(0, 1)).scores.any()


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*weight_norm:UserWarning")
@pytest.mark.parametrize(
    "change",
    [lambda layer: prune.random_unstructured(layer, "weight", 0.5), nn.utils.weight_norm],
    ids=["pruned", "weight_norm"],
)
def test_weights_that_are_made_at_each_call(change: Callable[[nn.Module], Any]) -> None:
    net = Net(lambda net, r: torch.stack(r).sum(0))
    change(net.fc)
    net(torch.from_numpy(events(3)))
    x = events(60, 1)
    found = execute(graph_of(net, events(40)), x.swapaxes(0, 1)).scores
    assert found.any()
    np.testing.assert_array_equal(found, scores(net, x))


@pytest.mark.parametrize(
    "given",
    [
        lambda fc, x: torch.add(torch.ones(HIDDEN), fc(x), alpha=2),
        lambda fc, x: torch.sub(torch.ones(HIDDEN), fc(x), alpha=2),
        lambda fc, x: torch.rsub(fc(x), 0.1, alpha=2),
        lambda fc, x: torch.sub(fc(x), 0.1, alpha=2),
        lambda fc, x: torch.add(fc(x), torch.ones(HIDDEN), alpha=0.5),
    ],
)
def test_weighted_sums_with_constants(given: Any) -> None:
    class Weighted(Net):
        def given(self, x: Tensor) -> Tensor:
            return given(self.fc, x)  # type: ignore[no-any-return]

    net = Weighted(lambda net, r: torch.stack(r).sum(0))
    x = events(60, 1)
    found = execute(graph_of(net, events(40)), x.swapaxes(0, 1)).scores
    assert found.any()
    np.testing.assert_array_equal(found, scores(net, x))


def test_feedback_through_synapses_of_a_sum() -> None:
    class Fed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.second = nn.Linear(FEATURES, HIDDEN), nn.Linear(HIDDEN, HIDDEN)
            with torch.no_grad():
                self.first.weight.mul_(3)
                self.second.weight.mul_(4)
            self.a, self.b = (snn.Leaky(0.8, init_hidden=True, reset_mechanism="zero") for _ in range(2))

        def forward(self, x: Tensor) -> Tensor:
            self.a.reset_mem()
            self.b.reset_mem()
            before, out = None, []
            for step in x:
                spikes = self.a(self.first(step))
                before = self.b(self.second(spikes if before is None else spikes + before))
                out.append(before)
            return torch.stack(out)

    net = Fed()
    x = events(60, 1)
    found = execute(graph_of(net, events(40)), x.swapaxes(0, 1)).scores
    assert found.any()
    np.testing.assert_array_equal(found, scores(net, x).sum(0))


@pytest.mark.parametrize("steps", [1, 2])
def test_static_input_for_few_steps(steps: int) -> None:
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")

    class Static(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.lif = nn.Linear(FEATURES, HIDDEN), neuron.IFNode(step_mode="m")

        def forward(self, x: Tensor) -> Tensor:
            self.lif.reset()
            return self.lif(self.fc(x).unsqueeze(0).repeat(steps, 1, 1)).sum(0)  # type: ignore[no-any-return]

    graph = capture(Static().eval(), events(40)[0], "N").graph
    assert graph.time_steps == steps


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda net: setattr(net, "lif", snn.Leaky(0.8, threshold=-0.3)),
            "lif .*threshold is -0.3, so that it fires at",
        ),
        (lambda net: setattr(net, "lif", snn.Leaky(0.8, threshold=float("nan"))), "lif .*threshold contains NaN"),
        (lambda net: net.fc.weight.data.fill_(float("nan")), "fc .*weight contains NaN"),
    ],
)
def test_parameters_that_no_neuron_has(change: Any, message: str) -> None:
    net = Net(lambda net, r: torch.stack(r).sum(0))
    change(net)
    with pytest.raises((InputError, UnsupportedError), match=message):
        graph_of(net, events(40))
