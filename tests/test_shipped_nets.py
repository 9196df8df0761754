"""Networks and recordings that lava-dl ships: our reader and simulators against data that we did not make."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from snn2chip.chip import ChipNet, Encoding, InputNeurons
from snn2chip.exporters import netx
from snn2chip.simulators import lava, reference
from snn2chip.traces import Record

try:
    LAVA = importlib.util.find_spec("lava.lib.dl.netx")
except ImportError:
    LAVA = None

# lava-dl installs its tests, as a top-level package
FOLDER = (
    Path("/nowhere") if LAVA is None or LAVA.origin is None else Path(LAVA.origin).parents[4] / "tests/lava/lib/dl/netx"
)

pytestmark = [
    pytest.mark.lava,
    pytest.mark.skipif(not (FOLDER / "tiny.net").exists(), reason="lava-dl and its tests are not installed"),
]


def recorded(name: str) -> np.ndarray:
    """``[1, T, C, H, W]``."""
    array: np.ndarray = np.load(FOLDER / "gts" / "tinynet" / f"{name}.npy")
    return np.moveaxis(array, -1, 1).astype(np.int64)


@pytest.fixture(scope="module")
def tiny() -> ChipNet:
    """Its recordings drive the input neurons' bias, which NetX does not carry; a message a step is the same."""
    net = netx.read(FOLDER / "tiny.net")
    return dataclasses.replace(net, encoding=Encoding("graded", 1.0, -255, 255), time_steps=16, window=16)


def image() -> np.ndarray:
    """``[C, H, W]``: what the recordings added to the input neurons at each step, except at the first."""
    bias: np.ndarray = np.load(FOLDER / "gts" / "tinynet" / "input_bias.npy")
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


def test_tiny_net_equals_its_recordings(tiny: ChipNet) -> None:
    """Each layer from the recorded spikes of the one before; the recordings' first step is silent, without bias."""
    messages = np.repeat(image()[None, None], 15, axis=1)
    for layer, name in zip(tiny.layers, ("input", "layer1", "output"), strict=True):
        wanted = recorded(name)
        spikes, u, _ = reference.run_layer(layer, messages)
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
    found = lava.run(tiny, messages, mode, record, timeout=120)  # type: ignore[arg-type]
    for what in ("spikes", "u", "v"):
        for name, wanted in getattr(expected, what).items():
            assert np.array_equal(getattr(found, what)[name], wanted), (what, name)
    assert all(found.spike_counts.values())
    assert isinstance(tiny.layers[0], InputNeurons)


@pytest.mark.parametrize("name", ["tiny.net", "mnist.net", "gts/pilotnet_lif/network.net"])
def test_shipped_nets_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    net = netx.read(FOLDER / name)
    netx.write(net, tmp_path / "again.net")
    assert netx.read(tmp_path / "again.net") == net
