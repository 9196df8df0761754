"""Every known trap of the NetX loader and Lava's fixed_pt models: avoided, or refused with a way out.

Refused means that :func:`snn2chip.exporters.netx.write` raises; avoided means that Lava computes what the network says.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from with_lava import NETX, needs_lava, needs_lava_here

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron
from snn2chip.errors import InputError, LimitError
from snn2chip.exporters import netx
from snn2chip.exporters.netx_loader import loader_weights
from snn2chip.simulators import lava, reference
from snn2chip.traces import Record

runs_lava = [pytest.mark.lava, needs_lava]


def dense_net(weight: Any, recurrent: Any = None, **neuron: Any) -> ChipNet:
    weight = np.array(weight)
    matrix = None if recurrent is None else np.array(recurrent)
    parameters = Neuron.of("block.fc", **{"threshold": 60, "current_decay": 2000, "voltage_decay": 100, **neuron})
    layer = Dense("block.fc", (weight.shape[1],), weight, parameters, matrix)
    return ChipNet((weight.shape[1],), (layer,), time_steps=6)


def groups_net(groups: int) -> ChipNet:
    weight = np.random.default_rng(0).integers(-100, 120, (groups, 1, 2, 2))
    layer = Conv("block.conv", (groups, 2, 3), weight, Neuron.of("block.conv", 60), groups=groups)
    return ChipNet((groups, 2, 3), (layer,), time_steps=3)


# Refused


@pytest.mark.parametrize(
    ("weight", "recurrent", "message"),
    [
        ([[0, 0]], None, r"largest \|weight\| is 0, limit at least 1"),
        ([[-4, -3]], None, r"weight\[0, 0\] is -4, which the NetX loader turns into -3"),
        ([[-256, -3]], None, r"weight\[0, 0\] is -256, which the NetX loader turns into -255"),
        ([[-255, 0], [-3, -4]], None, r"weight\[0, 0\] is -255, which the NetX loader turns into 0"),
        ([[-2, 0]], None, r"weight\[0, 0\] is -2, which the NetX loader turns into -1"),
        ([[-1, 0]], None, r"weight\[0, 0\] is -1, which the NetX loader turns into -0\.5"),
        ([[255, -2]], None, r"weight\[0, 0\] is 255, which the NetX loader turns into 254"),
        ([[200, 3], [201, 0]], [[-1, -1], [-200, -1]], r"weight\[0, 0\] is 200, which the NetX loader turns into 0"),
        ([[3, -1], [1, 1]], [[0, 129], [1, 0]], r"recurrent weight\[0, 1\] is 129, which the NetX loader turns into 0"),
        (
            [[3, 1], [1, 1]],
            [[-128, 0], [-1, 0]],
            r"recurrent weight\[0, 0\] is -128, which the NetX loader turns into -127\.5",
        ),
    ],
)
def test_weights_that_would_change_are_refused(weight: Any, recurrent: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(LimitError, match=message) as caught:
        netx.write(dense_net(weight, recurrent), tmp_path / "model.net")
    assert str(caught.value).startswith("block.fc: ")
    assert "keep one" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [-257, 256, 300])
def test_a_single_sign_beyond_the_range_cannot_even_be_built(value: int) -> None:
    with pytest.raises(LimitError, match=f"block.fc: weight is {value}, limit -256..255"):
        dense_net([[value, value // 2]])


@pytest.mark.parametrize("value", [-(1 << 15) - 1, 1 << 15])
def test_a_bias_beyond_int16_cannot_even_be_built(value: int) -> None:
    with pytest.raises(LimitError, match=f"block.fc: bias mantissa is {value}"):
        dense_net([[1, -1]], bias=value)


def test_a_bias_of_the_wrong_length_cannot_even_be_built() -> None:
    """Lava would hang at the end of the run."""
    with pytest.raises(InputError, match=r"block\.fc: bias has shape \(3,\)"):
        dense_net([[1, -1]], bias=np.array([1, 2, 3]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stride": (128, 1)}, "stride is 128, limit 127"),
        ({"padding": (1, 128)}, "padding is 128, limit 127"),
        ({"dilation": (130, 1), "padding": (100, 0)}, "dilation is 130, limit 127"),
        ({"kernel": (128, 1), "padding": (100, 0)}, "kernel size is 128, limit 127"),
    ],
)
def test_geometry_beyond_eight_bits_is_refused(changes: Any, message: str, tmp_path: Path) -> None:
    weight = np.ones((1, 1, *changes.pop("kernel", (2, 1))), int)
    layer = Conv("block.conv", (1, 3, 3), weight, Neuron.of("block.conv", 1), **changes)
    with pytest.raises(LimitError, match=f"block.conv: {message}"):
        netx.write(ChipNet((1, 3, 3), (layer,)), tmp_path / "model.net")


def test_bias_of_input_neurons_is_refused(tmp_path: Path) -> None:
    first = InputNeurons("image", (3,), Neuron.of("image", 10, bias=np.array([1, -5, 0])))
    with pytest.raises(LimitError, match=r"image: bias of input neurons is -5, limit 0; .*add it to the messages"):
        netx.write(ChipNet((3,), (first,)), tmp_path / "model.net")


def test_merged_groups_that_are_too_large_are_refused(tmp_path: Path) -> None:
    groups = 131 * 97  # at most 97 groups
    layer = Conv(
        "block.conv", (groups, 1, 1), np.ones((groups, 1, 8, 8), int), Neuron.of("x", 1), padding=(4, 4), groups=groups
    )
    with pytest.raises(LimitError, match=f"block.conv: groups is {groups}, limit 127"):
        netx.write(ChipNet((groups, 1, 1), (layer,)), tmp_path / "model.net")


# Avoided


def test_decays_are_stored_signed(tmp_path: Path) -> None:
    netx.write(dense_net([[1, -1]], current_decay=0), tmp_path / "model.net")
    with h5py.File(tmp_path / "model.net") as file:
        assert file["layer/1/neuron/iDecay"][()] - 1 == -1


class TestInLava:
    pytestmark = runs_lava

    @pytest.mark.parametrize(
        "net",
        [
            groups_net(127),
            groups_net(128),
            groups_net(200),
            dense_net([[-128, 127, 3], [5, -7, 0]]),
            dense_net([[-256, 254, 2], [16, -8, 0]], threshold=200),
            dense_net([[131, -255, 3], [-1, 7, 0]], threshold=100),
            dense_net([[255, 3, 0], [1, 0, 254]], threshold=300),
            dense_net([[255, 254, 251], [253, 1, 3]], threshold=300),
            dense_net([[2, 1, 0], [0, 1, 1]], threshold=1),
            dense_net([[-1, -64], [0, 32]], [[-128, 127], [1, -3]], bias=9),
            dense_net([[0, 0], [0, 0]], [[3, -1], [1, -3]], bias=90),
            dense_net([[3, 127], [120, 0]], [[-100, -1], [-127, -3]], bias=[90, 3]),
            dense_net(
                [[3, -3], [1, -1]], threshold=131071, current_decay=[0, 1], bias=[32767, -32768], voltage_decay=0
            ),
            dense_net([[30, -3], [1, -1]], threshold=131072, current_decay=0, bias=32767, voltage_decay=0),
        ],
        ids=[
            "127 groups",
            "128 groups",
            "200 groups",
            "mixed",
            "even",
            "odd, nine bits",
            "positive",
            "odd and large",
            "small",
            "recurrent",
            "only recurrent",
            "opposite signs",
            "iDecay 0 and large bias",
            "clipped v",
        ],
    )
    def test_what_is_written_is_what_lava_computes(self, net: ChipNet) -> None:
        if len(net.input_shape) == 1:
            inputs = np.indices((2,) * net.input_shape[0]).reshape(net.input_shape[0], -1).T  # all patterns
            messages = np.repeat(inputs[:, None], net.time_steps, axis=1).astype(np.int32)
        else:
            messages = np.random.default_rng(0).integers(0, 2, (1, 3, *net.input_shape)).astype(np.int32)
        record = Record.everything(net)
        expected, found = (
            reference.run(net, messages, record=record),
            lava.run(net, messages, record=record, timeout=600),
        )
        (layer,) = net.layers
        for what in ("spikes", "u", "v"):
            assert np.array_equal(getattr(expected, what)[layer.name], getattr(found, what)[layer.name]), what
        assert expected.u[layer.name].any()

    def test_wide_kernels_within_eight_bits(self) -> None:
        """127 of everything, though the products pass eight bits."""
        weight = np.random.default_rng(0).integers(-100, 100, (1, 1, 3, 127))
        geometry: Any = {"stride": (127, 2), "padding": (127, 120), "dilation": (127, 1)}
        layer = Conv("conv", (1, 3, 4), weight, Neuron.of("conv", 5, bias=np.array([9])), **geometry)
        net = ChipNet((1, 3, 4), (layer,), Encoding("graded", 1.0, 0, 9), time_steps=2)
        messages = np.random.default_rng(1).integers(0, 10, (2, 2, 1, 3, 4)).astype(np.int32)
        record = Record.everything(net)
        expected, found = (
            reference.run(net, messages, record=record),
            lava.run(net, messages, record=record, timeout=600),
        )
        assert np.array_equal(expected.v["conv"], found.v["conv"]) and expected.u["conv"].any()


# The loader's weights


def real_functions() -> tuple[ModuleType, ModuleType]:
    """The loader's and Lava's own; the first by path, as its package imports torch."""
    assert NETX is not None
    path = NETX / "utils.py"
    spec = importlib.util.spec_from_file_location("netx_utils", path)
    assert spec is not None and spec.loader is not None
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    return utils, importlib.import_module("lava.utils.weightutils")


def real_weights(utils: ModuleType, lava_utils: ModuleType, weight: Any, recurrent: Any) -> list[Any]:
    """As ``Network.create_dense`` and ``PyDenseModelBitAcc.run_spk`` use them."""
    pair = weight if recurrent is None else np.hstack((weight, recurrent))
    with np.errstate(divide="ignore"):
        scaled, bits, exponent, _ = utils.optimize_weight_bits(pair)
    parts = np.split(scaled.astype(np.int32), [weight.shape[1]], axis=1)
    found = []
    for part in parts if recurrent is not None else parts[:1]:
        mode = lava_utils.determine_sign_mode(part)
        part = lava_utils.clip_weights(part, mode, num_bits=8)
        found.append(lava_utils.truncate_weights(part, mode, bits) * 2.0**exponent)
    return found


@st.composite
def matrices(draw: st.DrawFn) -> tuple[Any, Any]:
    """Weights and, sometimes, recurrent weights, of all signs, ranges and common divisors."""
    neurons, inputs = draw(st.integers(1, 3)), draw(st.integers(1, 3))

    def matrix(columns: int) -> Any:
        low, high = sorted(draw(st.tuples(*[st.sampled_from([-600, -257, -129, -9, -1, 0, 1, 7, 127, 255, 700])] * 2)))
        values = st.lists(st.integers(low, high), min_size=neurons * columns, max_size=neurons * columns)
        return np.array(draw(values)).reshape(neurons, columns) * draw(st.sampled_from([1, 1, 2, 8, 64]))

    return matrix(inputs), matrix(neurons) if draw(st.booleans()) else None


@pytest.mark.lava
@needs_lava_here
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
class TestLoaderWeights:
    functions: tuple[ModuleType, ModuleType] | None = None

    @settings(max_examples=600, deadline=None)
    @given(matrices())
    @example((np.array([[300, 1]]), None))
    @example((np.array([[-4, -3]]), None))
    @example((np.array([[-300, 0]]), None))
    def test_equals_the_real_functions(self, pair: tuple[Any, Any]) -> None:
        cls = type(self)
        cls.functions = cls.functions or real_functions()
        weight, recurrent = pair
        try:
            expected = real_weights(*cls.functions, weight, recurrent)
        except OverflowError:
            with pytest.raises(OverflowError, match="all weights are zero"):
                loader_weights(weight, recurrent)
            return
        found = loader_weights(weight, recurrent)
        assert np.array_equal(found[0], expected[0])
        assert (found[1] is None) == (recurrent is None)
        if found[1] is not None:
            assert np.array_equal(found[1], expected[1])


@given(matrices(), st.sampled_from([1, 2]))
def test_safe_weights_pass_unchanged(pair: tuple[Any, Any], step: int) -> None:
    """What the messages promise."""
    weight = pair[0]
    weight = (np.clip(weight, -128, 127) if step == 1 else np.clip(weight, -256, 254) // 2 * 2).reshape(weight.shape)
    if weight.min() >= 0 or weight.max() <= 0:
        weight = np.abs(weight).clip(0, 255)
    if weight.any():
        assert np.array_equal(loader_weights(weight)[0], weight)
