"""What the event simulator does beyond the law: blocks, threads, narrow sums, memory."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from compare import assert_same_traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import chip_nets, messages_for, rf_nets, sdnn_nets

from snn2chip.chip import (
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    InputNeurons,
    IntArray,
    Layer,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
)
from snn2chip.errors import InputError, LimitError, UsageError
from snn2chip.law import run_layer
from snn2chip.simulation import faster_backend
from snn2chip.simulators import event, event_stages, reference
from snn2chip.traces import MODES, Mode, Record


def integers(rng: np.random.Generator, *shape: int) -> IntArray:
    return rng.integers(-20, 20, shape, np.int32)


def small_net(recurrent: bool = True, steps: int = 3, window: int = 4) -> ChipNet:
    rng = np.random.default_rng(1)
    cell = Neuron.of("n", 40, 1000, 100, 3)
    conv = Conv("conv", (2, 6, 5), integers(rng, 4, 1, 3, 2), cell, (2, 1), (1, 0), groups=2)
    inputs = int(np.prod(conv.shape))
    own = integers(rng, 9, 9) if recurrent else None
    dense = Dense("dense", conv.shape, integers(rng, 9, inputs), cell, own)
    return ChipNet((2, 6, 5), (conv, dense), time_steps=steps, window=window)


def sigma_delta_net(steps: int = 3, window: int = 4) -> ChipNet:
    """Encoder, convolution, delays, a layer that spikes, decoder."""
    rng = np.random.default_rng(1)
    conv = Conv("conv", (2, 6, 5), integers(rng, 4, 1, 3, 2), SigmaDelta.of("conv", 1, 3), (2, 1), (1, 0), groups=2)
    inputs = int(np.prod(conv.shape))
    layers = (
        InputNeurons("in", (2, 6, 5), Delta.of("in", 1)),
        conv,
        Dense(
            "late",
            conv.shape,
            integers(rng, 9, inputs),
            SigmaDelta.of("late", 2),
            delay=rng.integers(0, 4, (9, inputs)),
        ),
        Dense("spiking", (9,), integers(rng, 70, 9), Neuron.of("spiking", 40, 1000, 100)),
        Dense("out", (70,), integers(rng, 3, 70), Sigma()),
    )
    return ChipNet((2, 6, 5), layers, Encoding("graded", 1.0, -9, 9), time_steps=steps, window=window)


def assert_equal_arrays(found: tuple[Any, ...], expected: tuple[Any, ...]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def spikes_for(net: ChipNet, samples: int, density: float = 0.3) -> Any:
    shape = (samples, net.time_steps, *net.input_shape)
    return (np.random.default_rng(2).random(shape) < density).astype(np.int32)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("recurrent", [False, True])
def test_blocks_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, threads: int, recurrent: bool
) -> None:
    net = small_net(recurrent)
    messages, record = spikes_for(net, 37), Record.everything(net)
    expected = reference.run(net, messages, mode, record)
    for block_bytes in (1, 700, 1 << 20):
        monkeypatch.setattr(event, "_BLOCK_BYTES", block_bytes)
        assert_same_traces(event.run(net, messages, mode, record, threads=threads), expected)
    # Threads share the neurons of a convolution where there are fewer samples than threads, or one run.
    monkeypatch.setattr(event_stages, "_WORTH_SHARING", 0)
    for few in (messages, messages[:1], messages[:2]):
        expected = reference.run(net, few, mode, record)
        assert_same_traces(event.run(net, few, mode, record, threads=threads), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing_in_sigma_delta_networks(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, threads: int
) -> None:
    net = sigma_delta_net()
    messages, record = spikes_for(net, 17) * integers(np.random.default_rng(4), 17, 3, 2, 6, 5), Record.everything(net)
    monkeypatch.setattr(event_stages, "_WORTH_SHARING", 0)
    for few in (messages, messages[:1]):
        expected = reference.run(net, few, mode, record)
        assert all(expected.spike_counts.values())
        for block_bytes in (1, 3000, 1 << 20):
            monkeypatch.setattr(event, "_BLOCK_BYTES", block_bytes)
            assert_same_traces(event.run(net, few, mode, record, threads=threads), expected)


@settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.integers(-4, 3), st.integers(0, 4))
def test_one_layer_equals_reference(data: st.DataObject, start: int, reset_every: int) -> None:
    net = data.draw(st.one_of(chip_nets(max_layers=1), sdnn_nets(max_layers=1), rf_nets(max_layers=1)))
    messages, layer = data.draw(messages_for(net)), net.layers[0]
    expected = run_layer(layer, messages.astype(np.int64), start, reset_every)
    found = event.run_layer(layer, messages, start, reset_every)
    assert [array.dtype for array in found] == [np.int32 if layer.neuron.graded else np.uint8, np.int32, np.int32]
    assert_equal_arrays(found, expected)
    spikes, u, v = event.run_layer(layer, messages, start, reset_every, states=False)
    np.testing.assert_array_equal(spikes, expected[0])
    assert u.shape == v.shape == (len(messages), 0, *layer.shape)


@pytest.mark.parametrize("weight", [-256, -128, 127, 255])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.49, 0.51, 0.9, 1.0])
def test_sums_of_many_spikes_do_not_overflow(weight: int, density: float) -> None:
    # 16 bits hold 127 rows of magnitude 256; half of the inputs may spike before absent ones are counted instead.
    rng = np.random.default_rng(3)
    messages = (rng.random((2, 3, 3000)) < density).astype(np.int64)
    own = np.full((400, 400), weight)  # all of a recurrent layer may spike
    layer = Dense("a", (3000,), np.full((400, 3000), weight), Neuron.of("a", 0, bias=4095), own)
    assert_equal_arrays(event.run_layer(layer, messages), reference.run_layer(layer, messages))
    conv = Conv("a", (300, 2, 5), np.full((2, 300, 2, 3), weight), Neuron.of("a", 0), padding=(1, 0))
    images = messages.reshape(2, 3, 300, 2, 5)
    assert_equal_arrays(event.run_layer(conv, images), reference.run_layer(conv, images))


@pytest.mark.parametrize("neurons", [1, 16, 17, 48, 63, 64, 70, 130, 300, 515])
@pytest.mark.parametrize("largest", [3, 127, 255])
def test_rows_of_all_widths(neurons: int, largest: int) -> None:
    rng = np.random.default_rng(neurons)
    for inputs in (1, 63, 64, 65, 200):
        weight = rng.integers(-largest, largest, (neurons, inputs), np.int32, endpoint=True)
        layer = Dense("a", (inputs,), weight, Neuron.of("a", largest, 3000, 100, rng.integers(-9, 9, neurons)))
        for density in (0.0, 0.02, 0.3, 0.7, 1.0):
            messages = (rng.random((2, 3, inputs)) < density).astype(np.uint8)
            assert_equal_arrays(event.run_layer(layer, messages), reference.run_layer(layer, messages.astype(int)))
            graded = messages * rng.integers(-9, 9, messages.shape)
            assert_equal_arrays(event.run_layer(layer, graded), reference.run_layer(layer, graded))


@pytest.mark.parametrize("channels", [(1, 1), (3, 24), (7, 9), (8, 48), (16, 70), (12, 300)])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5)])
def test_patches_small_enough_to_look_up_and_larger_ones(channels: tuple[int, int], kernel: tuple[int, int]) -> None:
    rng = np.random.default_rng(channels[1])
    weight = rng.integers(-256, 255, (channels[1], channels[0], *kernel), np.int32, endpoint=True)
    cell = Neuron.of("a", 300, 3000, 100, rng.integers(-9, 9, channels[1]))
    layer = Conv("a", (channels[0], 6, 9), weight, cell, (1, 2), (1, 0))
    for density in (0.0, 0.02, 0.3, 0.7, 1.0):
        messages = (rng.random((2, 3, channels[0], 6, 9)) < density).astype(np.uint8)
        assert_equal_arrays(event.run_layer(layer, messages), reference.run_layer(layer, messages.astype(int)))
        graded = messages * rng.integers(-9, 9, messages.shape)
        assert_equal_arrays(event.run_layer(layer, graded), reference.run_layer(layer, graded))


@pytest.mark.parametrize("mode", MODES)
def test_delays_cross_blocks(monkeypatch: pytest.MonkeyPatch, mode: Mode) -> None:
    rng = np.random.default_rng(5)
    cell = Neuron.of("n", 40, 1000, 100)
    first = Dense("first", (12,), integers(rng, 30, 12), cell, delay=rng.choice([0, 1, 2, 5, 62], (30, 12)))
    second = Dense("second", (30,), integers(rng, 9, 30), cell, delay=np.full((9, 30), 1))
    net = ChipNet((12,), (first, second), time_steps=3, window=4)
    messages, record = spikes_for(net, 37), Record.everything(net)
    expected = reference.run(net, messages, mode, record)
    assert expected.spike_counts["second"]
    for block_bytes in (1, 700, 1 << 20):
        monkeypatch.setattr(event, "_BLOCK_BYTES", block_bytes)
        assert_same_traces(event.run(net, messages, mode, record), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [0, 3])
@pytest.mark.parametrize("window", [9, 30])
def test_delays_that_all_synapses_of_a_neuron_share(mode: Mode, bias: int, window: int) -> None:
    rng = np.random.default_rng(3)
    layers: list[Layer] = []
    for name, inputs, neurons in (("a", 7, 70), ("b", 70, 5)):
        delay = np.repeat(rng.integers(0, 12, (neurons, 1)), inputs, axis=1)
        cell = Neuron.of(name, rng.integers(0, 60, neurons), 1000, 200, bias)
        layers.append(Dense(name, (inputs,), integers(rng, neurons, inputs), cell, delay=delay))
    net = ChipNet((7,), tuple(layers), time_steps=9, window=window)
    record, messages = Record.everything(net), spikes_for(net, 6)
    found = event.run(net, messages, mode, record)
    assert_same_traces(found, reference.run(net, messages, mode, record))
    assert found.spike_counts["b"] > 0
    for start, reset_every in ((0, 0), (0, 4), (-2, 5), (-2, 0)):
        ours, theirs = (run(layers[0], messages, start, reset_every) for run in (event.run_layer, reference.run_layer))
        assert_equal_arrays(ours, theirs)


def graded_net(*layers: Layer, inputs: int = 3) -> ChipNet:
    """``layers`` behind decoders, which send on the sum of all messages so far."""
    first = Dense("first", (inputs,), np.eye(inputs, dtype=np.int32), Sigma())
    return ChipNet((inputs,), (first, *layers), Encoding("graded", 1.0, -65535, 65535), time_steps=3)


def _too_large() -> dict[str, tuple[ChipNet, int]]:
    """Networks and messages whose sums reach the limit, by what is special about them."""
    weight = np.array([[255, 255, -255], [3, 2, 1]])
    turn = Resonator.of("a", 9, 100, 4000)
    one, two = Dense("a", (3,), weight, Sigma()), Dense("b", (2,), np.array([[200, 100]]), Sigma())
    many = Dense("a", (64,), np.full((1, 64), 255), Sigma())
    late, shared = np.array([[5, 1, 5], [0, 2, 2]]), np.array([[4, 4, 4], [1, 1, 1]])
    return {
        "sigma": (graded_net(one), 65535),
        "spiking": (graded_net(Dense("a", (3,), weight, Neuron.of("a", 9))), 65535),
        "real weights": (graded_net(Dense("a", (3,), weight, turn, imaginary=weight // 2)), 65535),
        "imaginary weights": (graded_net(Dense("a", (3,), weight // 99, turn, imaginary=weight)), 65535),
        "delays": (graded_net(Dense("a", (3,), weight, Sigma(), delay=late)), 65535),
        "delays that neurons share": (graded_net(Dense("a", (3,), weight, Neuron.of("a", 9), delay=shared)), 65535),
        "first of two layers": (graded_net(one, two), 65535),
        "second of two layers": (graded_net(one, two), 1000),
        "beyond 32 bits": (graded_net(many, inputs=64), 1 << 22),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", _too_large())
def test_sums_that_are_too_large_raise_what_the_reference_raises(
    monkeypatch: pytest.MonkeyPatch, case: str, mode: Mode
) -> None:
    net, message = _too_large()[case]
    shares = np.array([1, 2, 3, 3, 1]).reshape(5, 1, 1)  # the largest sum is neither in the first block nor in the last
    messages = np.broadcast_to(message // 3 * shares, (5, 3, *net.input_shape)).astype(np.int32)
    with pytest.raises(LimitError) as expected:
        reference.run(net, messages, mode)
    for block_bytes in (1, 1 << 20):
        monkeypatch.setattr(event, "_BLOCK_BYTES", block_bytes)
        with pytest.raises(LimitError) as found:
            event.run(net, messages, mode)
        assert str(found.value) == str(expected.value)


@pytest.mark.parametrize(
    ("inputs", "weight", "message"),
    [
        (64, 128, 1 << 19),  # 2^32, in 32 bits nothing
        (66000, 255, 1),  # spikes, as far as they go
        (66000, 255, -1),
        (256, 256, 256),  # exactly the limit
    ],
)
def test_largest_sums_of_one_layer(inputs: int, weight: int, message: int) -> None:
    layer = Dense("a", (inputs,), np.full((2, inputs), -weight), Sigma())
    messages = np.full((1, 1, inputs), message)
    with pytest.raises(LimitError) as expected:
        run_layer(layer, messages)
    with pytest.raises(LimitError) as found:
        event.run_layer(layer, messages)
    assert str(found.value) == str(expected.value)
    messages[..., inputs // 2 :] = 0
    messages[..., 0] = 0 if weight * inputs * abs(message) // 2 < 1 << 24 else -message * (inputs // 2 - 1)
    assert_equal_arrays(event.run_layer(layer, messages), run_layer(layer, messages))


@pytest.mark.parametrize("threshold", [0, 1, 131071])
@pytest.mark.parametrize("spike_exp", [0, 7])
def test_registers_of_sigma_delta_neurons_wrap(threshold: int, spike_exp: int) -> None:
    values = np.array([0, 1 << 18, -(1 << 18), (1 << 18) - 1, 1 << 25, -(1 << 25), (1 << 31) - 1, -(1 << 31), 1, -1])
    messages = np.stack([np.roll(values, k) for k in range(len(values))])[None]  # magnitudes of -2^31, and beyond
    encoder = InputNeurons("in", (10,), Delta.of("in", threshold, spike_exp))
    assert_equal_arrays(event.run_layer(encoder, messages), run_layer(encoder, messages))
    push = np.array([1 << 21, -(1 << 21), 54321, -1, 0])  # a convolution's sums are below 2^23
    graded = push[:, None, None] * (np.random.default_rng(0).random((1, 800, 5, 1, 1)) < 0.9)
    bias = np.array([-(1 << 15), (1 << 15) - 1, 9, -9, 1])[:, None, None]
    for neuron in (SigmaDelta.of("a", threshold, bias, spike_exp), Sigma()):
        layer = Conv("a", (5, 1, 1), np.eye(5, dtype=np.int32)[:, :, None, None] * 3, neuron)
        expected = run_layer(layer, graded)
        assert np.abs(np.diff(expected[1], axis=1)).max() > 1 << 31
        assert_equal_arrays(event.run_layer(layer, graded), expected)


def test_auto_takes_what_knows_the_neurons() -> None:
    net = sigma_delta_net()
    assert faster_backend(net, spikes_for(net, 2)) == "event"


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int32, np.int64])
def test_messages_of_any_integer_type_contiguous_or_not(dtype: Any) -> None:
    net = small_net()
    messages = spikes_for(net, 5)
    expected = reference.run(net, messages)
    given_ = np.asfortranarray(messages.astype(dtype))
    given_.flags.writeable = False
    assert_same_traces(event.run(net, given_), expected)
    assert_same_traces(event.run(net, np.repeat(messages, 2, axis=0)[::2]), expected)


def test_messages_other_than_0_and_1_are_values_whatever_the_encoding() -> None:
    net = small_net()
    messages = spikes_for(net, 4) * np.array([1, -3, 2], np.int32).reshape(1, 3, 1, 1, 1)
    assert_same_traces(event.run(net, messages), reference.run(net, messages))
    large = (spikes_for(net, 4) * 255).astype(np.uint8)
    assert_same_traces(event.run(net, large), reference.run(net, large))


@pytest.mark.parametrize("mode", MODES)
def test_no_samples(mode: Mode) -> None:
    net = small_net()
    out = event.run(net, spikes_for(net, 0), mode, Record.everything(net))
    assert out.u["dense"].shape == (0, 4, 9)
    assert out.spike_counts == {"conv": 0, "dense": 0}
    assert out.synaptic_operations == 0
    graded, u, _ = event.run_layer(Dense("a", (3,), np.ones((2, 3), np.int32), Sigma()), np.zeros((0, 4, 3), np.int32))
    assert graded.shape == u.shape == (0, 4, 2)


def test_wrong_shapes_and_modes_are_refused() -> None:
    net = small_net()
    with pytest.raises(InputError, match="messages: shape"):
        event.run(net, np.zeros((1, 3, 7), np.int32))
    with pytest.raises(InputError, match="5 time steps, the window has 4"):
        event.run(net, np.zeros((1, 5, 2, 6, 5), np.int32))
    with pytest.raises(UsageError, match="unknown"):
        event.run(net, spikes_for(net, 1), "sometimes")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", MODES)
def test_memory_does_not_grow_with_samples_that_are_not_recorded(mode: Mode) -> None:
    cell = Neuron.of("n", 300)
    first = Conv("first", (1, 28, 28), np.full((16, 1, 5, 5), 9), cell, (2, 2))
    second: Layer = Dense("second", first.shape, np.full((10, 2304), 1), cell)
    net = ChipNet((1, 28, 28), (first, second), Encoding("hold", 1.0, 0, 255), time_steps=1, window=4)
    messages = np.ones((2000, 1, 1, 28, 28), np.int32)
    event.run(net, messages[:1], mode)
    tracemalloc.start()
    try:
        event.run(net, messages, mode, threads=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    everything = 2000 * 4 * 2304
    assert peak < everything / 2


def test_seconds_leave_compiling_out() -> None:
    net = ChipNet((3,), (InputNeurons("in", (3,), Neuron.of("in", 1)),), Encoding("graded", 1.0, -9, 9))
    out = event.run(net, np.ones((1, 1, 3), np.int32))
    assert 0 < out.seconds < 0.5
    assert out.overhead_seconds > 0
