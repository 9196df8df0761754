"""Blocks of lava-dl SLAYER: integers of the graph against SLAYER's own forward, and against SLAYER's own export."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import torch
from compare import assert_same_traces
from torch import Tensor, nn

from snn2chip.chip import ChipNet, Dense, Neuron, Resonator, SigmaDelta
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.exporters import netx
from snn2chip.frontends import capture
from snn2chip.frontends.factory import module_from_state
from snn2chip.frontends.leaves import put_at_rest
from snn2chip.graph import ChipLayer, Graph, execute
from snn2chip.model_file import Model, load, save
from snn2chip.quantise import integer_net
from snn2chip.simulators import event, lava
from snn2chip.traces import Record, encode

try:
    FOUND = importlib.util.find_spec("lava.lib.dl.slayer") is not None
except ImportError:
    FOUND = False
if not FOUND:
    pytest.skip("lava-dl is not installed", allow_module_level=True)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from lava.lib.dl import slayer

cuba, sdnn, rf, rf_iz = slayer.block.cuba, slayer.block.sigma_delta, slayer.block.rf, slayer.block.rf_iz
MeanOnly, Scaled = slayer.neuron.norm.MeanOnlyBatchNorm, slayer.neuron.norm.WgtScaleBatchNorm

pytestmark = pytest.mark.filterwarnings("ignore:torch.nn.utils.weight_norm is deprecated")

Array = npt.NDArray[Any]


class Net(nn.Module):
    """As in lava-dl's tutorials."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def export_hdf5(self, path: Path) -> None:
        with h5py.File(path, "w") as file:
            for i, block in enumerate(self.blocks):
                block.export_hdf5(file.create_group(f"layer/{i}"))


def lif(**changes: Any) -> dict[str, Any]:
    """SLAYER changes the dict that it is given: a new one for each block."""
    return {"threshold": 1.0, "current_decay": 0.3, "voltage_decay": 0.1, "requires_grad": True, **changes}


def resonant(**changes: Any) -> dict[str, Any]:
    return {"threshold": 0.3, "period": 8, "decay": 0.05, **changes}


def events(*shape: int, samples: int = 100, steps: int = 12, rate: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return (torch.rand(samples, *shape, steps, generator=generator) < rate).float()


def trained(make: Callable[[], Net], x: Tensor, steps: int = 3) -> Net:
    """A few steps towards a rate of 0.3, with delays of all sizes; in evaluation, at rest."""
    torch.manual_seed(1)
    net = make()
    net(x[:2])
    for module in net.modules():
        if type(module).__name__ == "Delay":
            module.delay.data = torch.rand(len(module.delay)) * 5
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(steps):
        loss = (net(x).mean(-1) - 0.3).square().sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return at_rest(net)


def at_rest(net: Net) -> Net:
    for module in net.modules():
        put_at_rest(module)
    return net.eval()


def time_second(x: Tensor) -> Array:
    array: Array = np.moveaxis(x.detach().numpy(), -1, 1)
    return array


def assert_bit_exact(graph: Graph, net: Net, x: Tensor) -> None:
    """Output of the last block, in single precision as SLAYER computes it."""
    found = execute(graph, time_second(x), keep=lambda node: node is graph.output).outputs[graph.output.name]
    with torch.no_grad():
        expected = time_second(at_rest(net)(x))
    late = sum(getattr(block, "delay_shift", False) is True for block in net.blocks)
    assert found.shape == expected.shape
    differing = (found[:, : found.shape[1] - late] != expected[:, late:]).sum()
    assert differing == 0
    assert 0.02 < found.mean() < 0.9, "a layer that is silent or always on shows little"


# name: how it is made, its data, and the kinds of the layers that come of it
NETS: dict[str, tuple[Callable[[], Net], Tensor, str]] = {
    "delays": (
        lambda: Net(cuba.Dense(lif(), 20, 30, weight_norm=True, delay=True), cuba.Dense(lif(), 30, 5, delay=True)),
        events(20),
        "Dense Dense",
    ),
    "images": (
        lambda: Net(
            cuba.Input(None, delay_shift=False),
            cuba.Conv(lif(), 2, 4, 3, stride=(1, 2), padding=1, weight_norm=True, weight_scale=2),
            cuba.Conv(lif(threshold=0.5), 4, 4, 3, dilation=2, padding=2, groups=2, weight_scale=2),
            cuba.Flatten(),
            cuba.Dense(lif(), 128, 5),
        ),
        events(2, 8, 8, steps=10),
        "Conv Conv Dense",
    ),
    "pooling": (
        lambda: Net(
            cuba.Input(None, delay_shift=False),
            cuba.Pool(lif(threshold=1.5), 2),
            cuba.Dense(lif(), (4, 4, 2), 6),
            cuba.Flatten(),
            cuba.Dense(lif(), 6, 5),
        ),
        events(2, 8, 8, steps=10),
        "Conv Conv Dense",
    ),
    "recurrent": (
        lambda: Net(cuba.Recurrent(lif(), 20, 16), cuba.Recurrent(lif(), 16, 5)),
        events(20, steps=10),
        "Dense Dense",
    ),
    "recurrent, delays": (
        lambda: Net(cuba.Recurrent(lif(), 20, 16, delay=True), cuba.Dense(lif(), 16, 5)),
        events(20, steps=10),
        "Dense Dense Dense",
    ),
    "normed": (
        lambda: Net(
            cuba.Input(None, delay_shift=False),
            cuba.Conv(lif(norm=MeanOnly), 2, 4, 3, weight_scale=2, delay_shift=False),
            cuba.Flatten(),
            cuba.Dense(lif(norm=MeanOnly, threshold=0.3), 144, 10, weight_scale=2, delay_shift=False),
            cuba.Dense(lif(norm=MeanOnly, threshold=0.3), 10, 5, weight_scale=3),
        ),
        events(2, 8, 8, steps=10),
        "Conv Dense Dense",
    ),
    "normed, delays": (
        lambda: Net(
            cuba.Dense(lif(norm=MeanOnly), 20, 16, delay=True, delay_shift=False), cuba.Dense(lif(), 16, 5, delay=True)
        ),
        events(20),
        "Dense Dense Dense",
    ),
    "decays of their own": (
        lambda: Net(
            cuba.Dense(lif(shared_param=False, current_decay=(0.1, 0.9)), 20, 30),
            cuba.Dense(lif(scale=32, dropout=slayer.neuron.Dropout(0.2)), 30, 5),
        ),
        events(20),
        "Dense Dense",
    ),
    "resonators": (
        lambda: Net(
            rf.Dense(resonant(shared_param=False, period=(5, 20)), 20, 30, delay=True), rf.Dense(resonant(), 30, 5)
        ),
        events(20),
        "Dense Dense Dense",
    ),
    "Izhikevich's": (
        lambda: Net(rf_iz.Dense(resonant(), 20, 30, weight_norm=True), rf_iz.Dense(resonant(), 30, 5)),
        events(20),
        "Dense Dense",
    ),
}


@cache
def case(name: str) -> tuple[Net, Tensor, Graph]:
    make, x, _ = NETS[name]
    net = trained(make, x)
    return net, x, capture(net, x).graph


@pytest.mark.parametrize("name", NETS)
def test_spikes_are_slayers(name: str, tmp_path: Path) -> None:
    net, x, graph = case(name)
    assert_bit_exact(graph, net, x)
    chip = integer_net(graph)
    assert " ".join(type(layer).__name__ for layer in chip.layers) == NETS[name][2]
    assert not chip.inexact
    record = Record.everything(chip)
    last = chip.layers[-1].name
    found = event.run(chip, encode(chip, time_second(x)), record=record)
    trace = execute(graph, time_second(x), keep=lambda node: isinstance(node, ChipLayer))
    assert all((found.spikes[layer] == output).all() for layer, output in trace.outputs.items())
    assert (found.scores(chip) == trace.scores).all() and last == graph.output.name
    netx.write(chip, tmp_path / "ours.net")
    assert netx.read(tmp_path / "ours.net") == chip


def nameless(net: ChipNet) -> list[Any]:
    return [dataclasses.replace(layer, name="") for layer in net.layers]


@pytest.mark.parametrize("name", ["delays", "images", "recurrent", "normed", "decays of their own"])
def test_equals_slayers_export(name: str, tmp_path: Path) -> None:
    net, _, graph = case(name)
    ours = integer_net(graph)
    copy.deepcopy(at_rest(net)).export_hdf5(tmp_path / "theirs.net")
    theirs = netx.read(tmp_path / "theirs.net")
    assert theirs.input_shape == ours.input_shape
    assert nameless(theirs) == nameless(ours)


def test_resonators_where_slayers_export_loses_a_unit(tmp_path: Path) -> None:
    """The loader truncates the rotations that SLAYER writes; ours come back as they were trained."""
    net, _, graph = case("Izhikevich's")
    ours = integer_net(graph)
    copy.deepcopy(at_rest(net)).export_hdf5(tmp_path / "theirs.net")
    for our, their in zip(ours.layers, netx.read(tmp_path / "theirs.net").layers, strict=True):
        assert isinstance(our, Dense) and isinstance(our.neuron, Resonator)
        assert isinstance(their, Dense) and isinstance(their.neuron, Resonator)
        assert (our.weight == their.weight).all() and np.array_equal(our.imaginary, their.imaginary)
        assert our.neuron.threshold == their.neuron.threshold
        lost = our.neuron.sine - their.neuron.sine, our.neuron.cosine - their.neuron.cosine
        assert set(lost) <= {0, 1}


def images(*shape: int, samples: int = 100, steps: int = 8) -> Tensor:
    """Slowly changing, partly beyond SLAYER's range of -4 to 3.97."""
    generator = torch.Generator().manual_seed(6)
    start, change = (torch.randn(samples, *shape, n, generator=generator) for n in (1, steps))
    return start * 1.5 + change.cumsum(-1) * 0.3


def delta(**changes: Any) -> dict[str, Any]:
    return {"threshold": 0.125, "activation": torch.relu, "scale_grad": 1.0, **changes}


def sigma_delta_net() -> Net:
    net = Net(
        sdnn.Input(delta(threshold=0.1), weight=1.5, bias=0.25),
        sdnn.Conv(delta(), 2, 4, 3, stride=2, weight_norm=True),
        sdnn.Flatten(),
        sdnn.Dense(delta(threshold=0.3, norm=MeanOnly), 36, 12, delay=True),
        sdnn.Dense(delta(threshold=0.0625, requires_grad=False), 12, 8),
        sdnn.Output(delta(), 8, 3),
    )
    net.blocks[4].neuron.set_bias(torch.arange(8) / 64)
    return net


@cache
def sigma_delta_case() -> tuple[Net, Tensor, Graph]:
    x = images(2, 8, 8)
    torch.manual_seed(1)
    net = sigma_delta_net()
    net(x[:2])
    net.blocks[3].delay.delay.data = torch.arange(12) / 4
    net.blocks[3].neuron.norm = None
    return at_rest(net), x, capture(net, x).graph


def test_sigma_delta_messages_are_slayers(tmp_path: Path) -> None:
    net, x, graph = sigma_delta_case()
    trace = execute(graph, time_second(x), keep=lambda node: isinstance(node, ChipLayer))
    outputs = list(trace.outputs.values())
    with torch.no_grad():
        for block in at_rest(net).blocks:
            x = block(x)
            if not isinstance(block, sdnn.Flatten):
                unit = 1 << 18 if isinstance(block, sdnn.Output) else 1 << 12
                expected, found = time_second(x) * unit, outputs.pop(0)
                assert (found == expected).all()
                assert 0.02 < (found != 0).mean() < 0.99 or isinstance(block, sdnn.Output)
    assert not outputs
    chip = integer_net(graph)
    assert (chip.encoding.scale, chip.encoding.step, chip.encoding.offset) == (32, 3, 16)
    messages = encode(chip, time_second(images(2, 8, 8)))
    found = event.run(chip, messages, record=Record.everything(chip))
    assert all((found.spikes[name] == output).all() for name, output in trace.outputs.items())
    assert (found.scores(chip) == trace.scores).all() and chip.readout.kind == "potential"
    netx.write(chip, tmp_path / "ours.net")
    assert netx.read(tmp_path / "ours.net") == chip
    save(net, tmp_path / "model.pt", example_input=images(2, 8, 8))
    model = load(tmp_path / "model.pt")
    assert isinstance(model, Model) and integer_net(model.graph) == chip


def test_sigma_delta_export(tmp_path: Path) -> None:
    """Weights, thresholds and delays of SLAYER's own file; it leaves out a bias that was set."""
    net, _, graph = sigma_delta_case()
    copied = copy.deepcopy(at_rest(net))
    copied.export_hdf5(tmp_path / "theirs.net")
    theirs, ours = netx.read(tmp_path / "theirs.net"), integer_net(graph)
    for our, their in zip(ours.layers[1:], theirs.layers[1:], strict=True):
        if isinstance(our.neuron, SigmaDelta):
            our = dataclasses.replace(our, neuron=dataclasses.replace(our.neuron, bias=np.zeros((), np.int32)))
        assert dataclasses.replace(our, name="") == dataclasses.replace(their, name="")


@pytest.mark.parametrize("weight", [None, 2.0])
@pytest.mark.parametrize("x", [images(20, steps=12), events(20)], ids=["images", "events"])
def test_input_neurons(weight: float | None, x: Tensor) -> None:
    net = trained(lambda: Net(cuba.Input(lif(), weight=weight), cuba.Dense(lif(), 20, 5, weight_scale=2)), x, 0)
    graph = capture(net, x).graph
    assert_bit_exact(graph, net, x)
    chip = integer_net(graph)
    assert chip.encoding.step == 2 * (weight or 1)
    found = event.run(chip, encode(chip, time_second(x)), record=Record.everything(chip))
    trace = execute(graph, time_second(x), keep=lambda node: node is graph.output)
    assert (found.spikes[chip.layers[-1].name] == trace.outputs[graph.output.name]).all()


def test_potentials_of_an_affine_readout() -> None:
    x = events(20)
    net = trained(lambda: Net(cuba.Dense(lif(), 20, 30), cuba.Affine(lif(), 30, 5)), x)
    graph = capture(net, x).graph
    chip = integer_net(graph)
    assert chip.readout.kind == "potential"
    assert isinstance(chip.layers[1].neuron, Neuron) and chip.layers[1].neuron.threshold == 1 << 17
    found = execute(graph, time_second(x)).potentials[graph.output.name]
    with torch.no_grad():
        expected = time_second(at_rest(net)(x)) * 4096
    assert (found[:, :-1] == expected[:, 1:]).all() and found.any()


def test_sums_of_an_affine_readout() -> None:
    x = events(20)
    net = trained(lambda: Net(cuba.Dense(lif(), 20, 30), cuba.Affine(lif(), 30, 5, dynamics=False)), x)
    graph = capture(net, x).graph
    found = execute(graph, time_second(x), keep=lambda node: node is graph.output).outputs[graph.output.name]
    with torch.no_grad():
        expected = time_second(at_rest(net)(x))
    assert (found[:, :-1] == expected[:, 1:]).all() and found.any()
    chip = integer_net(graph)
    assert chip.readout.kind == "potential"
    ours = event.run(chip, encode(chip, time_second(x)), record=Record.readout(chip)).scores(chip)
    assert (ours == found.sum(1) * (ours.sum() / found.sum())).all()


def test_average_over_populations() -> None:
    x = events(20)
    net = trained(lambda: Net(cuba.Dense(lif(), 20, 12), cuba.Average(3)), x, 0)
    graph = capture(net, x).graph
    chip = integer_net(graph)
    scores = event.run(chip, encode(chip, time_second(x)), record=Record.readout(chip)).scores(chip)
    spikes = execute(graph, time_second(x), keep=lambda node: isinstance(node, ChipLayer)).outputs["blocks.0 (Dense)"]
    assert (scores == 64 * spikes.sum(1).reshape(-1, 3, 4).sum(2)).all() and scores.any()


def test_a_forward_that_counts() -> None:
    """Side outputs that have no form on the chip do no harm."""

    class Counting(Net):
        def forward(self, x: Tensor) -> Any:
            counts: list[Any] = []
            for block in self.blocks:
                x = block(x)
                counts.append(torch.mean(x).item())
            return x, torch.FloatTensor(counts).reshape((1, -1))

    plain, x, _ = case("decays of their own")
    assert_bit_exact(capture(Counting(*plain.blocks), x).graph, plain, x)


def test_rates_over_time_are_counts() -> None:
    class Rates(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).mean(-1)

    plain, x, _ = case("decays of their own")
    graph = capture(Rates(*plain.blocks), x).graph
    assert_bit_exact(graph, plain, x)
    assert integer_net(graph).readout.kind == "count"


def test_capture_starts_at_rest_and_leaves_the_module_alone() -> None:
    net, x, _ = case("recurrent")
    net(x)  # SLAYER keeps the states that this leaves
    kept = net.blocks[0].recurrent_synapse.weight.clone()
    assert_bit_exact(capture(net, x).graph, net, x)
    assert torch.equal(net.blocks[0].recurrent_synapse.weight, kept)
    normed, x, _ = case("delays")
    capture(normed.train(), x)
    assert hasattr(normed.blocks[0].synapse, "weight_g") and normed.training
    normed(x).sum().backward()
    assert normed.blocks[0].synapse.weight_g.grad is not None


def test_normed_weights_round_as_in_single_precision() -> None:
    """In double precision, the norm of these weights would round others to the next integer."""
    x = events(500, samples=4, steps=3)
    torch.manual_seed(0)
    net = Net(cuba.Dense(lif(), 500, 200, weight_norm=True))
    synapse = net.blocks[0].synapse
    synapse.weight_g.data *= 50
    with torch.no_grad():
        net(x)
        expected = net.blocks[0].neuron.quantize_8bit(synapse.weight, descale=True)[..., 0, 0, 0].numpy()
        norm = synapse.weight_v.double().flatten(1).norm(dim=1)[:, None]
        double = synapse.weight_v.double().flatten(1) * synapse.weight_g.double().flatten(1) / norm
    found = integer_net(capture(net, x).graph).layers[0]
    assert isinstance(found, Dense)
    assert (found.weight == expected).all()
    assert (np.clip(2 * np.rint(double.numpy() * 32), -256, 254) != expected).any()


def test_a_model_file_keeps_it(tmp_path: Path) -> None:
    net, x, graph = case("decays of their own")
    save(net, tmp_path / "model.pt", example_input=x)
    model = load(tmp_path / "model.pt")
    assert isinstance(model, Model)
    assert integer_net(model.graph) == integer_net(graph)


@pytest.mark.parametrize("name", ["delays", "decays of their own", "recurrent", "normed", "resonators"])
def test_state_dict(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parameters that SLAYER makes at the first call are those of the file, not new random ones."""
    net, x, graph = case(name)
    make = NETS[name][0]
    torch.save(net.state_dict(), tmp_path / "network.pt")
    factory = types.ModuleType("slayer_factory")
    factory.make = make  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "slayer_factory", factory)
    again = module_from_state(tmp_path / "network.pt", "slayer_factory:make")
    assert integer_net(capture(again, x).graph) == integer_net(graph)


def dense(**changes: Any) -> Net:
    return Net(cuba.Dense(lif(**changes), 20, 5))


def image(block: nn.Module) -> Net:
    return Net(cuba.Input(None, delay_shift=False), block)


def with_delay(net: Net, steps: float) -> Net:
    for module in net.modules():
        if type(module).__name__ == "Delay":
            module.init, module.delay.data = True, torch.full((4,), steps)
    return net


def with_mean(net: Net, mean: float = 0.25) -> Net:
    for module in net.modules():
        if isinstance(module, MeanOnly | Scaled):
            module.running_mean = torch.full_like(module.running_mean, mean)
            if isinstance(module, Scaled):
                module.running_var = torch.full_like(module.running_var, 3.0)
    return net


REFUSALS: list[tuple[Callable[[], Net], Tensor, str]] = [
    (lambda: dense(graded_spike=True), events(20), r"blocks\.0 \(Dense\): graded_spike=True, .*graded_spike=False"),
    (lambda: dense(scale=100), events(20), "scale=100 of the neurons is not a power of two"),
    (lambda: with_mean(dense(norm=Scaled)), events(20), "WgtScaleBatchNorm divides by 2, .* MeanOnlyBatchNorm"),
    (lambda: dense(threshold=64.0), events(20), "threshold 64, .* also fires at it, the chip above it"),
    (
        lambda: with_mean(Net(cuba.Dense(lif(), 20, 8), cuba.Dense(lif(norm=MeanOnly), 8, 5))),
        events(20),
        r"blocks\.1 \(Dense\): has a bias, which acts for 1 steps .* delay_shift = False",
    ),
    (
        lambda: with_mean(Net(cuba.Recurrent(lif(norm=MeanOnly), 20, 5))),
        events(20),
        "a current that has a memory; train without norm",
    ),
    (lambda: Net(cuba.Dense(lif(), 20, 5, pre_hook_fx=None)), events(20), "not a multiple of 1/64; leave pre_hook_fx"),
    (
        lambda: Net(cuba.Dense(lif(), 20, 5, weight_norm=True, mask=torch.ones(5, 20))),
        events(20),
        "mask with weight_norm=True",
    ),
    (
        lambda: Net(cuba.Recurrent(lif(), 20, 5, weight_norm=True)),
        events(20),
        "weight_norm=True of Recurrent, .* weight_norm=False",
    ),
    (lambda: Net(cuba.KWTA(lif(), 20, 5, 2)), events(20), r"KWTA has no form on the chip; use Recurrent"),
    (
        lambda: with_delay(image(cuba.Conv(lif(), 2, 4, 3, delay=True)), 2.5),
        events(2, 8, 8),
        r"blocks\.1 \(Conv\): delays of images, up to 2 steps, .* delay=False",
    ),
    (lambda: image(cuba.ConvT(lif(), 2, 4, 3)), events(2, 8, 8), "ConvT has no form on the chip; use Conv"),
    (lambda: image(cuba.Unpool(lif(), 2)), events(2, 8, 8), "Unpool has no form on the chip; use Conv"),
    (lambda: image(cuba.Pool(lif(), 2)), events(2, 7, 8), r"Pool of \(2, 2\) .* use windows that divide the image"),
    (
        lambda: image(cuba.Conv(lif(shared_param=False), 2, 4, 5)),
        events(2, 8, 8),
        "decays per channel of an image, .* shared_param=True",
    ),
    (lambda: image(rf.Conv(resonant(), 2, 4, 3)), events(2, 8, 8), "Conv of resonators has no form in NetX"),
    (
        lambda: Net(
            slayer.block.alif.Dense(
                {**lif(), "threshold_step": 1.0, "threshold_decay": 0.1, "refractory_decay": 0.1}, 20, 5
            )
        ),
        events(20),
        "neurons of kind alif have no form on the chip; use cuba",
    ),
    (
        lambda: Net(sdnn.Dense({"threshold": 0.25, "activation": torch.relu}, 20, 5)),
        events(20),
        "takes those of 1/4096; .* start sigma-delta networks with their Input",
    ),
    (lambda: Net(cuba.Dense(lif(), 20, 5)), images(20), r"blocks\.0 \(Dense\): takes integers, is given"),
    (
        lambda: Net(cuba.Input(lif(), weight=0.3), cuba.Dense(lif(), 20, 5)),
        events(20),
        "weight of the input is 0.3.*, not a positive multiple of 1/2; scale the data",
    ),
    (lambda: Net(sdnn.Input(delta(cum_error=True))), events(20), "cum_error=True has no form .* cum_error=False"),
    (
        lambda: Net(sdnn.Input(delta()), sdnn.Dense(delta(activation=torch.tanh), 20, 5)),
        events(20),
        "sigma-delta neurons rectify, use F.relu",
    ),
    (lambda: Net(sdnn.Input(delta(scale=32))), events(20), "scale=32 of the neurons is not 64"),
    (lambda: Net(slayer.synapse.Dense(20, 5)), events(20), r"slayer\.synapse outside of a block; use the blocks"),
]


@pytest.mark.parametrize(("make", "x", "message"), REFUSALS, ids=range(len(REFUSALS)))
def test_refusals(make: Callable[[], Net], x: Tensor, message: str) -> None:
    torch.manual_seed(0)
    with pytest.raises((UnsupportedError, InputError), match=message) as error:
        capture(make(), x[:4])
    assert "\n" not in str(error.value)


@pytest.mark.lava
@pytest.mark.parametrize("name", ["delays", "recurrent, delays", "sigma-delta"])
def test_lava_runs_the_same(name: str) -> None:
    _, x, graph = sigma_delta_case() if name == "sigma-delta" else case(name)
    chip = integer_net(graph)
    messages = encode(chip, time_second(x[:4]))
    record = Record.everything(chip)
    found, expected = (run(chip, messages, record=record) for run in (lava.run, event.run))
    assert_same_traces(found, expected)
    assert all(expected.spike_counts.values())
