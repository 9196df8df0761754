"""Networks and recordings that lava-dl ships: our reader and simulators against data that we did not make."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from compare import assert_same_traces
from with_lava import SHIPPED

from snn2chip.chip import (
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    InputNeurons,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
)
from snn2chip.errors import UnsupportedError
from snn2chip.exporters import netx
from snn2chip.law import run_layer
from snn2chip.simulators import event, lava, reference
from snn2chip.traces import MODES, Mode, Record

pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not (SHIPPED / "tiny.net").exists(), reason="lava-dl and its tests are not installed"),
]


Run = Callable[..., tuple[np.ndarray, np.ndarray, np.ndarray]]
by_law_and_event = pytest.mark.parametrize("run", [run_layer, event.run_layer], ids=["law", "event"])


def recorded(name: str) -> np.ndarray:
    """``[1, T, C, H, W]``."""
    array: np.ndarray = np.load(SHIPPED / "gts" / "tinynet" / f"{name}.npy")
    return np.moveaxis(array, -1, 1).astype(np.int64)


@pytest.fixture(scope="module")
def tiny() -> ChipNet:
    """Its recordings drive the input neurons' bias, which NetX does not carry; a message a step is the same."""
    net = netx.read(SHIPPED / "tiny.net")
    return dataclasses.replace(net, encoding=Encoding("graded", 1.0, -255, 255), time_steps=16, window=16)


def image() -> np.ndarray:
    """``[C, H, W]``: what the recordings added to the input neurons at each step, except at the first."""
    bias: np.ndarray = np.load(SHIPPED / "gts" / "tinynet" / "input_bias.npy")
    return bias.transpose(2, 1, 0).astype(np.int64)


def test_tiny_net_is_read(tiny: ChipNet) -> None:
    assert [(layer.name, layer.shape) for layer in tiny.layers] == [
        ("layer 0 (input)", (3, 16, 16)),
        ("layer 1 (conv)", (24, 6, 6)),
        ("layer 2 (conv)", (36, 1, 1)),
    ]
    assert tiny.inexact == (
        "layer 0 (input): the NetX loader never applies the input layer's weight 36, bias 34; "
        "scale and shift the data instead",
    )


@by_law_and_event
def test_tiny_net_equals_its_recordings(tiny: ChipNet, run: Run) -> None:
    """Each layer from the recorded spikes of the one before; the recordings' first step is silent, without bias."""
    messages = np.repeat(image()[None, None], 15, axis=1)
    for layer, name in zip(tiny.layers, ("input", "layer1", "output"), strict=True):
        wanted = recorded(name)
        spikes, u, _ = run(layer, messages)
        assert np.array_equal(spikes, wanted[:, 1:]), layer.name
        assert wanted.any() and not wanted[:, 0].any()
        if name == "layer1":
            assert np.array_equal(u, recorded("current")[:, 1:] * 64)
        messages = spikes


@pytest.mark.parametrize("mode", ["isolated", "streaming"])
def test_tiny_net_in_lava(tiny: ChipNet, mode: str) -> None:
    messages = np.repeat(np.stack([image(), image()[:, ::-1]])[:, None], 16, axis=1).astype(np.int32)
    record = Record.everything(tiny)
    expected = reference.run(tiny, messages, mode, record)  # type: ignore[arg-type]
    found = lava.run(tiny, messages, mode, record, timeout=600)  # type: ignore[arg-type]
    for what in ("spikes", "u", "v"):
        for name, wanted in getattr(expected, what).items():
            assert np.array_equal(getattr(found, what)[name], wanted), (what, name)
    assert all(found.spike_counts.values())
    assert isinstance(tiny.layers[0], InputNeurons)


SDNN = "gts/pilotnet_sdnn"
LIF = "gts/pilotnet_lif"


def ground_truth(name: str) -> np.ndarray:
    """``[T, C, H, W]`` or ``[T, N]``: recordings are stored W, H, C, T."""
    array: np.ndarray = np.load(SHIPPED / "gts" / f"{name}.npy")
    return array.T.astype(np.int64)


def chip_time(net: ChipNet, messages: np.ndarray, run: Run) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Messages, u and v of each layer, all from Lava's first step on: layer k starts k steps before its data arrive."""
    found, current = [], messages[None].astype(np.int64)
    for layer in net.layers:
        if not isinstance(layer, InputNeurons):
            current = np.concatenate([np.zeros_like(current[:, :1]), current], axis=1)
        traces = run(layer, current)
        found.append(tuple(trace[0] for trace in traces))
        current = traces[0]
    return found  # type: ignore[return-value]


def assert_lava_equals(net: ChipNet, messages: np.ndarray, *modes: str) -> None:
    """In every layer, step, message, u and v."""
    record = Record.everything(net)
    for mode in modes:
        expected = reference.run(net, messages, mode, record)  # type: ignore[arg-type]
        assert all(list(expected.spike_counts.values())[:-1])  # the last may be an integrator
        assert_same_traces(lava.run(net, messages, mode, record, timeout=600), expected)  # type: ignore[arg-type]


@pytest.mark.parametrize("simulator", [reference, event])
def test_ntidigits_equals_its_recording(simulator: ModuleType) -> None:
    """Two layers of delays up to 62, 3000 steps; the recording shows step t at t + 4, one after Lava."""
    net = netx.read(SHIPPED / "gts/ntidigits/ntidigits.net", num_layers=5)
    net = dataclasses.replace(net, time_steps=3000, window=3000)
    assert net.delayed and net.leaks and net.inexact == ()
    messages = ground_truth("ntidigits/input").astype(np.int32).reshape(1, 3000, 1, 1, 64)
    out = simulator.run(net, messages, "streaming", Record.of(["layer 4 (dense)"]))
    recorded_spikes = ground_truth("ntidigits/output")
    assert np.array_equal(out.spikes["layer 4 (dense)"][0, :-4], recorded_spikes[4:])
    assert not recorded_spikes[:4].any() and recorded_spikes.sum() == 22572


def test_layers_that_netx_cannot_load_are_named() -> None:
    with pytest.raises(UnsupportedError, match=r"ntidigits\.net: layer 5: type 'average'"):
        netx.read(SHIPPED / "gts/ntidigits/ntidigits.net")


@pytest.mark.slow
def test_ntidigits_in_lava() -> None:
    """Slow: Lava builds a matrix of 63 * 256 * 256 at each step."""
    net = netx.read(SHIPPED / "gts/ntidigits/ntidigits.net", num_layers=5)
    net = dataclasses.replace(net, time_steps=80, window=90)
    messages = ground_truth("ntidigits/input")[240:400].astype(np.int32).reshape(2, 80, 1, 1, 64)
    assert_lava_equals(net, messages, "isolated", "windowed")


@by_law_and_event
@pytest.mark.parametrize(("name", "layers"), [("network", 2), ("square_network", 4)])
def test_pilotnet_sdnn_equals_its_recordings(name: str, layers: int, run: Run) -> None:
    """Messages of the encoder, sigma of the first layers: 20 steps of one image, while the pipeline fills as well."""
    net = netx.read(SHIPPED / SDNN / f"{name}.net")
    width = net.input_shape[2]
    image = ground_truth("pilotnet_sdnn/input")[..., :width]
    found = chip_time(net, np.repeat(image, 20, axis=0), run)
    assert np.array_equal(found[0][0], ground_truth("pilotnet_sdnn/act0")[..., :width])
    for k in range(1, layers + 1):
        wanted = ground_truth(f"pilotnet_sdnn/sigma{k}{'_square' if 'square' in name else ''}")
        assert np.array_equal(found[k][1][:20], wanted), k
    if name == "network":
        assert np.array_equal(found[-1][0][:9], ground_truth("pilotnet_sdnn/output"))


def test_pilotnet_sdnn_is_read() -> None:
    net = netx.read(SHIPPED / SDNN / "network.net")
    assert isinstance(net.layers[0].neuron, Delta) and isinstance(net.layers[-1].neuron, Sigma)
    assert all(isinstance(layer.neuron, SigmaDelta) for layer in net.layers[1:-1])
    assert net.encoding.kind == "graded" and net.readout.kind == "potential"
    assert net.inexact == () and net.leaks


@pytest.mark.parametrize(
    ("name", "modes"),
    [("square_network", ("isolated", "windowed")), pytest.param("network", ("isolated",), marks=pytest.mark.slow)],
)
def test_pilotnet_sdnn_in_lava(name: str, modes: tuple[str, ...]) -> None:
    net = dataclasses.replace(netx.read(SHIPPED / SDNN / f"{name}.net"), time_steps=3, window=3)
    image = ground_truth("pilotnet_sdnn/input")[0, ..., : net.input_shape[2]].astype(np.int32)
    assert_lava_equals(net, np.stack([[image, image // 2, -image], [image[:, ::-1]] * 3]), *modes)


@by_law_and_event
def test_sigma_delta_blocks_equal_their_recordings(run: Run) -> None:
    """lava-dl's tests of single blocks, ``test_blocks.py``; they give no message bits, so that any message counts 1."""
    image = ground_truth("tinynet_sdnn/input_bias")
    wave = np.sin(2 * np.pi * np.arange(15) / 15)
    encoder = InputNeurons("in", (3, 16, 16), Delta.of("in", 20))
    messages = run(encoder, (image * wave[:, None, None, None]).astype(np.int64)[None])[0]
    assert np.array_equal(messages[0], ground_truth("tinynet_sdnn/input"))
    kernel = np.load(SHIPPED / "gts/tinynet_sdnn/layer1_kernel.npy").transpose(0, 3, 2, 1)[..., ::-1, ::-1]
    bias = ground_truth("tinynet_sdnn/layer1_bias")
    layer = Conv("c", (3, 16, 16), kernel, SigmaDelta.of("c", 20, bias), stride=(2, 2))
    late = np.concatenate([np.zeros_like(messages[:, :1]), messages != 0], axis=1)
    assert np.array_equal(run(layer, late)[0][0], ground_truth("tinynet_sdnn/layer1"))
    flat = np.load(SHIPPED / "gts/tinynet_sdnn/layer1.npy").reshape(-1, 16).T.astype(np.int64)
    decoder = Dense("fc", (864,), np.load(SHIPPED / "gts/tinynet_sdnn/layer2_weight.npy"), Sigma())
    late = np.concatenate([np.zeros_like(flat[:1]), flat[:-1] != 0])[None]
    assert np.array_equal(run(decoder, late)[0][0], ground_truth("tinynet_sdnn/layer2"))


@by_law_and_event
def test_dense_blocks_equal_their_recordings(run: Run) -> None:
    """Spiking and resonate-and-fire neurons, 2000 steps; the recordings are one step later."""
    neuron = Neuron.of("d", 6, 4096, 415)
    layer = Dense("d", (200,), np.load(SHIPPED / "gts/dense/weight.npy"), neuron)
    spikes = run(layer, ground_truth("dense/in")[None])[0][0]
    assert np.array_equal(spikes[:-1], ground_truth("dense/out")[1:])
    sine, cosine = (int(4096 * 0.95 * f(2 * np.pi / 11)) for f in (np.sin, np.cos))
    real, imaginary = (np.load(SHIPPED / f"gts/complex_dense/weight_{part}.npy").astype(int) for part in ("r", "img"))
    layer = Dense("r", (200,), real, Resonator.of("r", 25, sine, cosine), imaginary=imaginary)
    spikes = run(layer, ground_truth("complex_dense/in")[None])[0][0]
    assert np.array_equal(spikes[:-1], ground_truth("complex_dense/out")[1:])


@by_law_and_event
def test_pilotnet_lif_equals_its_recordings(run: Run) -> None:
    """Recorded on Loihi 2: each layer from the recorded spikes of the one before.

    The first reset of layer k comes at step k, later ones each 17 steps. On the chip v reads 128 after a spike. What is
    recorded of the last layer belongs to another run: no spikes of the layer before, with its weights, give those u.
    """
    net = netx.read(SHIPPED / LIF / "network.net")
    image = ground_truth("pilotnet_lif/image")
    recorded_spikes = ground_truth("pilotnet_lif/input")
    spikes, _, _ = run(net.layers[0], np.repeat(image[None, None], 24, axis=1), 0, 17)
    assert np.array_equal(spikes[0], recorded_spikes)
    names = [f"conv-{k}" for k in range(5)] + [f"fc-{k}" for k in range(3)]
    for k, (layer, name) in enumerate(zip(net.layers[1:], names, strict=False)):
        found = run(layer, recorded_spikes[None], -k, 17)
        spikes, u, v = (trace[0, k:-1] for trace in found)
        recorded_spikes = ground_truth(f"pilotnet_lif/{name}")
        assert np.array_equal(spikes, recorded_spikes[k + 1 :]), name
        assert np.array_equal(u, ground_truth(f"pilotnet_lif/{name}-u")[k + 1 :]), name
        assert np.array_equal(np.where(spikes, 128, v), ground_truth(f"pilotnet_lif/{name}-v")[k + 1 :]), name
        assert spikes.any()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "name", [f"{SDNN}/network.net", f"{SDNN}/square_network.net", f"{LIF}/network.net", "tiny.net"]
)
def test_event_equals_reference_on_shipped_nets(name: str, mode: Mode) -> None:
    """One image for a while, then one that changes a little, and the other way round: in every layer and step."""
    net = dataclasses.replace(netx.read(SHIPPED / name), encoding=Encoding("graded", 1.0, -255, 255))
    net = dataclasses.replace(net, time_steps=8, window=9)
    if SDNN in name:
        frame = ground_truth("pilotnet_sdnn/input")[0, ..., : net.input_shape[2]]
    else:
        frame = image() if name == "tiny.net" else ground_truth("pilotnet_lif/image")
    still = np.repeat(frame[None], 8, axis=0)
    moving = still.copy()
    for t in range(4, 8):
        moving[t:, ..., t * 2] += 9
    messages, record = np.stack([still, moving, moving[::-1]]).astype(np.int32), Record.everything(net)
    expected = reference.run(net, messages, mode, record)
    assert all(list(expected.spike_counts.values())[:-1])  # the last may be an integrator
    assert_same_traces(event.run(net, messages, mode, record), expected)


@pytest.mark.slow
def test_pilotnet_lif_in_lava() -> None:
    """Slow: 75 ms a step."""
    net = dataclasses.replace(
        netx.read(SHIPPED / LIF / "network.net"), encoding=Encoding("graded", 1.0, -255, 255), time_steps=20, window=20
    )
    image = ground_truth("pilotnet_lif/image").astype(np.int32)
    messages = np.repeat(image[None, None], 20, axis=1)
    record = Record.everything(net)
    assert_same_traces(lava.run(net, messages, record=record), reference.run(net, messages, record=record))


def test_mnist_in_lava() -> None:
    net = netx.read(SHIPPED / "mnist.net")
    net = dataclasses.replace(net, encoding=Encoding("graded", 1.0, 0, 255), time_steps=12, window=12)
    images = np.random.default_rng(0).integers(0, 256, (2, 1, *net.input_shape)).astype(np.int32)
    assert_lava_equals(net, np.repeat(images, 12, axis=1), "isolated")


@pytest.mark.parametrize(
    "name", ["tiny.net", "mnist.net", f"{LIF}/network.net", f"{SDNN}/network.net", f"{SDNN}/square_network.net"]
)
def test_shipped_nets_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    net = netx.read(SHIPPED / name)
    netx.write(net, tmp_path / "again.net")
    assert netx.read(tmp_path / "again.net") == net
