"""What the dense simulator does beyond the law: blocks, threads, large sums, torch's settings, its own test."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from compare import assert_same_traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import SITUATIONS, chip_nets, messages_for, rf_nets, sdnn_nets, situations

from snn2chip import simulation
from snn2chip.backends import simulator
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
from snn2chip.errors import EnvironmentFailure, InputError, LimitError, UnsupportedError, UsageError
from snn2chip.simulation import faster_backend, simulate
from snn2chip.simulators import dense, reference
from snn2chip.simulators import dense_arithmetic as arithmetic
from snn2chip.traces import MODES, Mode, Record, Traces

NETWORKS = 500


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    # Tests run side by side; who asks for threads says so.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def integers(rng: np.random.Generator, *shape: int) -> IntArray:
    return rng.integers(-20, 20, shape, np.int32)


def small_net(recurrent: bool = True, steps: int = 3, window: int = 4) -> ChipNet:
    rng = np.random.default_rng(1)
    cell = Neuron.of("n", 40, 1000, 100, 3)
    conv = Conv("conv", (2, 6, 5), integers(rng, 4, 1, 3, 2), cell, (2, 1), (1, 0), groups=2)
    own = integers(rng, 9, 9) if recurrent else None
    last = Dense("dense", conv.shape, integers(rng, 9, int(np.prod(conv.shape))), cell, own)
    return ChipNet((2, 6, 5), (conv, last), time_steps=steps, window=window)


def delayed_net(neuron: Neuron | SigmaDelta | None = None) -> ChipNet:
    """Delays of each kind: all different, of each neuron, of each input, beyond the window, and none."""
    rng = np.random.default_rng(3)
    delays = [
        rng.integers(0, 4, (9, 12)),
        np.broadcast_to([[0], [1], [3]], (3, 9)),
        np.broadcast_to([2, 62, 0], (4, 3)),
        np.zeros((3, 4), np.int32),
    ]
    layers = tuple(
        Dense(f"l{i}", (d.shape[1],), integers(rng, *d.shape), neuron or Neuron.of("n", 10, 1000, 100, 3), delay=d)
        for i, d in enumerate(delays)
    )
    return ChipNet((12,), layers, time_steps=5, window=8)


def sigma_delta_net() -> ChipNet:
    rng = np.random.default_rng(3)
    encoder = InputNeurons("in", (2, 6, 5), Delta.of("in", 1))
    cell = SigmaDelta.of("n", 0, 1)
    conv = Conv("conv", (2, 6, 5), integers(rng, 4, 1, 3, 2), cell, (2, 1), (1, 0), groups=2)
    hidden = Dense("hidden", conv.shape, integers(rng, 9, int(np.prod(conv.shape))), cell)
    decoder = Dense("out", (9,), integers(rng, 4, 9), Sigma())
    return ChipNet((2, 6, 5), (encoder, conv, hidden, decoder), time_steps=3, window=4)


def resonator_net() -> ChipNet:
    rng = np.random.default_rng(3)
    layers = list[Layer]()
    for inputs, neurons, phase in ((12, 9, True), (9, 5, False), (5, 4, True)):
        cell = Resonator.of("n", 9, integers(rng, neurons) * 90, 3000, phase)
        weights = (integers(rng, neurons, inputs) for _ in "ri")
        layers.append(Dense(f"l{inputs}", (inputs,), next(weights), cell, imaginary=next(weights)))
    return ChipNet((12,), tuple(layers), time_steps=5, window=7)


NETS: dict[str, Callable[[], ChipNet]] = {
    "feed-forward": lambda: small_net(recurrent=False),
    "recurrent": small_net,
    "delays": delayed_net,
    "sigma-delta": sigma_delta_net,
    "sigma-delta with delays": lambda: delayed_net(SigmaDelta.of("n", 0, 1, 0)),
    "resonators": resonator_net,
}


def spikes_for(net: ChipNet, samples: int, density: float = 0.3) -> Any:
    shape = (samples, net.time_steps, *net.input_shape)
    return (np.random.default_rng(2).random(shape) < density).astype(np.int32)


def test_dense_equals_reference_in_all_modes_and_every_situation_occurs() -> None:
    population: Counter[str] = Counter()

    @settings(max_examples=NETWORKS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        net = data.draw(chip_nets())
        messages = data.draw(messages_for(net))
        record = Record.everything(net)
        for mode in MODES:
            assert_same_traces(dense.run(net, messages, mode, record), reference.run(net, messages, mode, record))
        population.update(dict.fromkeys(situations(net, messages, "windowed"), 1))
        population["networks"] += 1

    compare()
    assert population["networks"] >= 300
    # Or the comparison above says nothing about it.
    assert [name for name in SITUATIONS if not population[name]] == []


def assert_same_run(net: ChipNet, messages: Any, mode: Mode, record: Record, **options: Any) -> LimitError | None:
    """Fail unless both simulators return the same, or raise the same :class:`LimitError`, which is returned."""
    try:
        expected = reference.run(net, messages, mode, record)
    except LimitError as error:
        with pytest.raises(LimitError) as found:
            dense.run(net, messages, mode, record, **options)
        assert str(found.value) == str(error)
        return error
    assert_same_traces(dense.run(net, messages, mode, record, **options), expected)
    return None


@pytest.mark.parametrize(
    ("nets", "networks", "wanted"),
    [
        pytest.param(chip_nets(delays=True), 140, ("delays", "Neuron"), id="delays"),
        pytest.param(
            sdnn_nets(), 200, ("delays", "Delta", "SigmaDelta", "Sigma", "Neuron", "LimitError"), id="sigma-delta"
        ),
        pytest.param(rf_nets(), 110, ("phase", "Izhikevich", "Neuron", "LimitError"), id="resonators"),
    ],
)
def test_every_layer_and_neuron_type_equals_reference(
    monkeypatch: pytest.MonkeyPatch, nets: Any, networks: int, wanted: tuple[str, ...]
) -> None:
    population: Counter[str] = Counter()

    @settings(max_examples=networks, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        net = data.draw(nets)
        # Beyond the encoding's range now and then: sums, and states of 32 bits, may pass their limits.
        messages = data.draw(messages_for(net)) * np.int32(data.draw(st.sampled_from([1, 1, 1, 700, 1 << 20])))
        record = data.draw(st.sampled_from([Record.everything(net), Record()]))
        monkeypatch.setitem(arithmetic.BLOCK_BYTES, "cpu", data.draw(st.sampled_from([1 << 20, 1, 500])))
        for mode in MODES:
            error = assert_same_run(net, messages, mode, record)
            population["LimitError"] += error is not None
        for neuron in (layer.neuron for layer in net.layers if not error):
            resonates = isinstance(neuron, Resonator)
            population[("phase" if neuron.phase else "Izhikevich") if resonates else type(neuron).__name__] += 1
        population["delays"] += net.delayed and not error
        population["networks"] += 1

    compare()
    assert population["networks"] >= 100
    assert [name for name in wanted if population[name] < 5] == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("kind", NETS)
def test_blocks_and_threads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, threads: int, kind: str
) -> None:
    net = NETS[kind]()
    messages, record = spikes_for(net, 19), Record.everything(net)
    expected = reference.run(net, messages, mode, record)
    assert all(expected.spike_counts.values())
    monkeypatch.setattr(dense, "_LEAST_SAMPLES", 1)
    for block_bytes in (1, 5000, 1 << 20) if threads == 1 else (700,):
        monkeypatch.setitem(arithmetic.BLOCK_BYTES, "cpu", block_bytes)
        assert_same_traces(dense.run(net, messages, mode, record, threads=threads), expected)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("low, high", [(-128, 127), (-129, 127), (-128, 128), (-256, 255)])
@pytest.mark.parametrize("kind", ["recurrent", "delays", "complex"])
def test_products_of_8_bits_and_wider(
    monkeypatch: pytest.MonkeyPatch, kind: str, int8: bool, low: int, high: int
) -> None:
    # torch 2.3 has no product of int8 on a processor; one that is made of int32 stands in for it.
    products = []

    def product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        products.append(rows.dtype)
        return rows.to(torch.int32) @ weight.to(torch.int32)

    monkeypatch.setattr(arithmetic, "int8_helps", lambda device: int8)
    monkeypatch.setattr(arithmetic, "int8_product", product)
    rng = np.random.default_rng(4)
    weight = rng.integers(low, high, (30, 50), endpoint=True)
    weight[0, :2] = low, high
    cell = Neuron.of("a", 500, 2048, 100)
    layers: tuple[Dense, ...] = (
        Dense("a", (50,), weight, cell),
        Dense("b", (30,), weight[:, :30], cell, recurrent=weight[:, :30]),
    )
    if kind == "delays":
        layers = tuple(dataclasses.replace(x, recurrent=None, delay=x.weight % 3) for x in layers)
    if kind == "complex":
        resonator = Resonator.of("a", 50, 2048, 3000)
        small = tuple(dataclasses.replace(x, weight=x.weight.clip(-9, 9), recurrent=None) for x in layers)
        layers = tuple(
            dataclasses.replace(x, neuron=resonator, imaginary=y.weight, recurrent=None)
            for x, y in zip(small, layers, strict=True)
        )
    net = ChipNet((50,), layers, time_steps=5)
    messages, record = spikes_for(net, 9), Record.everything(net)
    assert_same_traces(dense.run(net, messages, record=record), reference.run(net, messages, record=record))
    assert bool(products) == (int8 and low >= -128 and high <= 127)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_that_are_legal(sign: int) -> None:
    # 257 * 65281 is 2^24 + 1; all digits of these sums count, up to the last.
    encoding = Encoding("graded", 1.0, -65535, 65535)
    cell = Neuron.of("a", 1 << 17, 0, 0)
    weight = np.array([[255, 1, 0], [127, 128, 1], [1, 254, 1], [-253, 2, 1]]) * sign
    net = ChipNet((3,), (Dense("a", (3,), weight, cell),), encoding, time_steps=4)
    assert net.layers[0].largest_sum(65535) == 256 * 65535  # 2^24 - 256
    values = [65535, 65533, 32769, 4097, 1, -65535, -65533]
    messages = np.random.default_rng(0).choice(values, (40, 4, 3)).astype(np.int32)
    record = Record.everything(net)
    for mode in MODES:
        assert_same_traces(dense.run(net, messages, mode, record), reference.run(net, messages, mode, record))


def test_sums_beyond_float32_are_exact_or_refused_as_in_the_reference() -> None:
    # Messages beyond the encoding's range; the bound of the sums passes 2^24, the sums themselves do not.
    cell = Neuron.of("a", 100, 4096, 0)
    net = ChipNet((400,), (Dense("a", (400,), np.full((3, 400), 255), cell),), Encoding("graded", 1.0, 0, 160))
    messages = np.zeros((2, 1, 400), np.int32)
    messages[0, 0, :2], messages[1, 0, :2] = (65535, 255), (65533, 1)
    record = Record.everything(net)
    assert_same_traces(dense.run(net, messages, record=record), reference.run(net, messages, record=record))
    messages[1, 0, :3] = 65535
    for run in (dense.run, reference.run):
        with pytest.raises(LimitError, match=r"a: weighted sum is 50134275, limit 16777215"):
            run(net, messages)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_sums_beyond_the_limit_are_named_as_in_the_reference_whatever_the_blocks(
    monkeypatch: pytest.MonkeyPatch, mode: Mode, threads: int
) -> None:
    monkeypatch.setattr(dense, "_LEAST_SAMPLES", 1)
    monkeypatch.setitem(arithmetic.BLOCK_BYTES, "cpu", 500)
    # Sample 5 passes the limit in the second layer, sample 11 in the first, sample 3 there as well, by less.
    passes = SigmaDelta.of("n", 0)
    ones = np.ones((2, 2), np.int32)
    cases: dict[str, tuple[Layer, Layer]] = {
        "first": (Dense("first", (2,), 9 * ones, passes), Dense("second", (2,), 255 * ones, passes)),
        "first at its second delay": (
            Dense("first", (2,), np.array([[2, 9], [1, 9]]), passes, delay=np.array([[0, 1], [2, 1]])),
            Dense("second", (2,), 255 * ones, passes, delay=ones),
        ),
        "first's imaginary weights": (
            Dense("first", (2,), ones, Resonator.of("n", 1, 0, 0), imaginary=9 * ones),
            Dense("second", (2,), 255 * ones, passes),
        ),
    }
    for name, layers in cases.items():
        net = ChipNet((2,), layers, Encoding("graded", 1.0, -9, 9), time_steps=2, window=3)
        messages = np.random.default_rng(0).integers(-9, 9, (13, 2, 2), np.int32)
        messages[5, 1] = 1 << 18
        record = Record.everything(net)
        first = assert_same_run(net, messages, mode, record, threads=threads)
        assert first is None if "imaginary" in name else first is not None and "second" in str(first)
        messages[3], messages[11] = 1 << 21, (1 << 22) + 1
        last = assert_same_run(net, messages, mode, record, threads=threads)
        assert last is not None
        assert f"first: weighted sum is {(1 if 'delay' in name else 2) * 9 * ((1 << 22) + 1)}, limit" in str(last)


@pytest.mark.parametrize("size", [1, 8, 37])  # shorter than a vector of the processor, one, and with a rest
def test_sigma_delta_states_wrap_at_32_bits(size: int) -> None:
    rng = np.random.default_rng(6)
    eye = np.eye(size, dtype=np.int32)
    messages = rng.choice([-(1 << 18), 1 << 18, (1 << 18) - 1, 0, 1, -1], (3, 20, size)).astype(np.int32)
    for threshold in (0, 1, 131071):
        # The least int32 is its own negative: 2^18 << 13.
        net = ChipNet((size,), (InputNeurons("in", (size,), Delta.of("in", threshold, 7)),), time_steps=20)
        assert assert_same_run(net, messages, "isolated", Record.everything(net)) is None
        assert (reference.run(net, messages, "isolated", Record.everything(net)).v["in"] == -(1 << 31)).any()
    # 255 * 65535 at each step passes 2^31 within 129 of them.
    steps = 150
    encoding = Encoding("graded", 1.0, -65535, 65535)
    messages = np.broadcast_to(rng.choice([65535, -65535, 65534], (2, 1, size)), (2, steps, size)).astype(np.int32)
    bias = rng.integers(-32768, 32767, size)
    for neuron in (SigmaDelta.of("a", 5, bias, 7), Sigma()):
        layers = (Dense("a", (size,), 255 * eye, neuron), Dense("b", (size,), 0 * eye, Sigma()))
        net = ChipNet((size,), layers, encoding, time_steps=steps)
        record = Record.everything(net)
        assert assert_same_run(net, messages, "isolated", record) is None
        sigma = reference.run(net, messages, "isolated", record).u["a"].astype(np.int64)
        assert (abs(np.diff(sigma, axis=1)) > 1 << 31).any()


@pytest.mark.parametrize("kind", ["dense", "conv", "conv that wraps"])
def test_sums_of_32_bit_messages_beyond_float64_are_exact(kind: str) -> None:
    # Large terms cancel, so that the small ones are what is left, or wrap; on the way sums pass 2^53.
    rng = np.random.default_rng(7)
    height, width = 2, 20_000
    large = rng.integers((1 << 31) - 1000, (1 << 31) - 1, (2, 1, 1, width), np.int32)
    small = rng.integers(-30, 30, (2, 1, 1, width), np.int32)
    messages = np.concatenate([large, large + np.minimum(small, (1 << 31) - 1 - large.astype(np.int64))], axis=2)
    messages = messages.astype(np.int32)
    cancels = kind != "conv that wraps"
    weight = np.repeat([255, -255 if cancels else 255], width).reshape(1, 1, height, width)
    exact = (messages.astype(np.int64) * weight[0]).sum((2, 3))
    assert ((abs(exact) < 1 << 23) == cancels).all()
    exact = (exact + (1 << 23)) % (1 << 24) - (1 << 23)
    assert (abs(messages.astype(np.int64) * weight[0]).sum((2, 3)) > 1 << 53).all()
    layer: Layer
    if kind == "dense":
        layer = Dense("a", (height * width,), weight.reshape(1, -1), Sigma())
        messages = messages.reshape(2, 1, -1)
    else:
        layer = Conv("a", (1, height, width), weight, Sigma())
        messages = messages[:, None]
    net = ChipNet(layer.input_shape, (layer,))
    assert dense.run(net, messages).spikes["a"].reshape(-1).tolist() == exact.reshape(-1).tolist()


@pytest.mark.parametrize("low, high", [(0, 65535), (-65535, 65535)])
def test_sums_of_convolutions_wrap_at_24_bits(low: int, high: int) -> None:
    rng = np.random.default_rng(5)
    weight = np.full((4, 1, 2, 1), 127)
    weight[2:] = -128
    layer = Conv("a", (2, 5, 5), weight, Neuron.of("a", 3000, 100, 4000), padding=(1, 1), groups=2)
    net = ChipNet((2, 5, 5), (layer,), Encoding("graded", 1.0, low, high), time_steps=3)
    messages = rng.integers(low, high, (6, 3, 2, 5, 5), np.int32, endpoint=True)
    assert situations(net, messages, "isolated")["conv sum wraps"]
    record = Record.everything(net)
    for values in (messages, messages * 200):  # the second passes float32 as well
        assert_same_traces(dense.run(net, values, record=record), reference.run(net, values, record=record))


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_messages_of_any_integer_type_contiguous_or_not(dtype: Any) -> None:
    net = small_net()
    messages = spikes_for(net, 5)
    expected = reference.run(net, messages)
    given_ = np.asfortranarray(messages.astype(dtype))
    given_.flags.writeable = False
    assert_same_traces(dense.run(net, given_), expected)
    assert_same_traces(dense.run(net, np.repeat(messages, 2, axis=0)[::2]), expected)
    one = spikes_for(net, 1)
    one.flags.writeable = False  # torch warns of arrays that it must not write to
    assert_same_traces(dense.run(net, one), reference.run(net, one))


def test_messages_other_than_0_and_1_are_values_whatever_the_encoding() -> None:
    net = small_net()
    messages = spikes_for(net, 4) * np.array([1, -3, 2], np.int32).reshape(1, 3, 1, 1, 1)
    assert_same_traces(dense.run(net, messages), reference.run(net, messages))


def test_steps_that_repeat_are_summed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    summed = []
    convolution = arithmetic.convolution

    def counted(x: torch.Tensor, weight: torch.Tensor, layer: Conv) -> torch.Tensor:
        summed.append(len(x))
        return convolution(x, weight, layer)

    monkeypatch.setattr(arithmetic, "convolution", counted)
    layer = small_net().layers[0]
    net = ChipNet((2, 6, 5), (layer,), Encoding("graded", 1.0, 0, 255), time_steps=6, window=9)
    image = np.random.default_rng(0).integers(0, 255, (4, 1, 2, 6, 5))
    record = Record.everything(net)
    changing = np.repeat(image, 6, axis=1)
    changing[3, 3:] += 1  # one sample, from step 3 on
    for messages, distinct in ((np.repeat(image, 6, axis=1), 2), (changing, 3), (image, 2)):
        summed.clear()
        assert_same_traces(dense.run(net, messages, record=record), reference.run(net, messages, record=record))
        assert summed[-1] == distinct * 4  # with the silence after them


@pytest.mark.parametrize("mode", MODES)
def test_no_samples(mode: Mode) -> None:
    net = small_net()
    out = dense.run(net, spikes_for(net, 0), mode, Record.everything(net))
    assert out.u["dense"].shape == (0, 4, 9)
    assert out.spike_counts == {"conv": 0, "dense": 0}
    assert out.synaptic_operations == 0


def test_what_it_cannot_do_is_refused() -> None:
    net = small_net()
    with pytest.raises(InputError, match="messages: shape"):
        dense.run(net, np.zeros((1, 3, 7), np.int32))
    with pytest.raises(UsageError, match="unknown"):
        dense.run(net, spikes_for(net, 1), "sometimes")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="'gpu' is unknown, expected cpu or cuda"):
        dense.run(net, spikes_for(net, 1), device="gpu")
    if not torch.cuda.is_available():
        with pytest.raises(EnvironmentFailure, match="no CUDA device"):
            dense.run(net, spikes_for(net, 1), device="cuda")


def test_memory_does_not_grow_with_samples() -> None:
    layers = tuple(InputNeurons(f"l{i}", (2000,), Neuron.of("l", 0)) for i in range(1))
    net = ChipNet((2000,), layers, time_steps=50)
    messages = np.zeros((1, 50, 2000), np.uint8)

    def peak(samples: int) -> int:
        tracemalloc.start()  # numpy's arrays; torch's are bounded by the same blocks
        dense.run(net, np.broadcast_to(messages, (samples, 50, 2000)), record=Record())
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1)
    assert peak(800) < 1.5 * peak(200)  # 80 MB of messages


# torch's settings


def settings_now() -> dict[str, Any]:
    backends: Any = torch.backends
    now: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "type": torch.get_default_dtype(),
    }
    with contextlib.suppress(RuntimeError):  # that both ways of setting it were used
        now["float32"] = torch.get_float32_matmul_precision()
        now["tf32"] = backends.cuda.matmul.allow_tf32
    if hasattr(backends, "fp32_precision"):
        for place in ("", "cuda.matmul.", "mkldnn.", "mkldnn.matmul.", "mkldnn.conv.", "cudnn.conv."):
            owner = backends
            for name in place.split(".")[:-1]:
                owner = getattr(owner, name)
            now[place] = owner.fp32_precision
    return now


@contextlib.contextmanager
def restored_settings() -> Iterator[None]:
    backends: Any = torch.backends
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision("highest")
        if hasattr(backends, "fp32_precision"):
            for place in (backends.cuda.matmul, backends.mkldnn.matmul, backends.mkldnn.conv, backends):
                place.fp32_precision = "none"


def set_all() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


def set_one() -> None:
    backends: Any = torch.backends
    backends.mkldnn.matmul.fp32_precision = "bf16"


def set_both() -> None:
    torch.set_float32_matmul_precision("high")
    set_one()


CHOICES: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "default type": lambda: torch.set_default_dtype(torch.float64),
    "all backends": set_all,
    "one operation": set_one,
    "both ways": set_both,
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("fails", [False, True])
def test_the_users_settings_change_nothing_and_come_back(
    monkeypatch: pytest.MonkeyPatch, choice: str, fails: bool
) -> None:
    if choice in ("all backends", "one operation", "both ways") and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("newer than this torch")
    net = small_net()
    messages, record = spikes_for(net, 70), Record.everything(net)
    expected = reference.run(net, messages, record=record)
    during: dict[str, Any] = {}
    check = arithmetic.check_exactness

    def spy(device: torch.device) -> None:
        during.update(settings_now())
        check(device)
        if fails:
            raise EnvironmentFailure("told to")

    monkeypatch.setattr(arithmetic, "check_exactness", spy)
    with restored_settings():
        CHOICES[choice]()
        before = settings_now()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for threads in (0, 3):
                with pytest.raises(EnvironmentFailure, match="told to") if fails else contextlib.nullcontext():
                    assert_same_traces(dense.run(net, messages, record=record, threads=threads), expected)
                assert settings_now() == before
                assert during["float32"] == "highest"
                assert during["threads"] == (threads or before["threads"])
                assert {during.get(place, "ieee") for place in ("cuda.matmul.", "mkldnn.matmul.", "mkldnn.conv.")} == {
                    "ieee"
                }
            one = torch.ones(2, 2, dtype=torch.float32)
            assert (one @ one).dtype == torch.bfloat16  # still on


def test_runs_from_several_threads_do_not_disturb_each_other() -> None:
    net = small_net()
    messages = spikes_for(net, 40)
    expected = reference.run(net, messages)
    found: list[Traces] = []
    before = settings_now()
    threads = [threading.Thread(target=lambda: found.append(dense.run(net, messages, threads=2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for traces in found:
        assert_same_traces(traces, expected)
    assert settings_now() == before


# Its own test


def rounded(x: torch.Tensor) -> torch.Tensor:
    """As a unit with the 11 binary digits of TF32 sees it."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2048) / 2048, exponent)


def wrong_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rounded(rows) @ rounded(weight)


def half_product(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (rows.to(torch.bfloat16) @ weight.to(torch.bfloat16)).to(rows.dtype)


def wrong_convolution(x: torch.Tensor, weight: torch.Tensor, layer: Conv) -> torch.Tensor:
    return torch.nn.functional.conv2d(x, weight, padding=layer.padding) * (1 + 2**-23)


@pytest.mark.parametrize(
    "name, replacement, message",
    [
        ("product", wrong_product, r"of 12288 sums of a matrix product of float32 are wrong with torch .* on cpu"),
        ("product", half_product, "of a matrix product of float32"),
        ("convolution", wrong_convolution, "of a convolution of float32"),
    ],
)
def test_arithmetic_that_is_not_exact_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, replacement: Callable[..., torch.Tensor], message: str
) -> None:
    monkeypatch.setattr(arithmetic, name, replacement)
    net = small_net()
    with pytest.raises(EnvironmentFailure, match=message):
        dense.run(net, spikes_for(net, 1))


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "abs"])
def test_states_that_would_not_wrap_are_found(monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    wraps = getattr(torch.Tensor, operation)

    def saturates(*operands: torch.Tensor) -> torch.Tensor:
        if operands[0].dtype != torch.int32:
            return wraps(*operands)  # type: ignore[no-any-return]
        return wraps(*(x.to(torch.int64) for x in operands)).clamp(-(1 << 31), (1 << 31) - 1).to(torch.int32)  # type: ignore[no-any-return]

    net = sigma_delta_net()
    dense.run(net, spikes_for(net, 1))
    monkeypatch.setattr(torch.Tensor, operation, saturates)
    with pytest.raises(EnvironmentFailure, match=r"sums of int32 do not wrap with torch .* on cpu"):
        dense.run(net, spikes_for(net, 1))


def test_the_known_sums_use_all_digits() -> None:
    rows, weight, product = arithmetic.known_product()
    bound = np.abs(rows) @ np.abs(weight)
    assert (1 << 23) < bound.max() < 1 << 24
    assert (product % 2 == 1).any()
    layer, messages, _ = arithmetic.known_convolution()
    assert (1 << 23) < layer.largest_sum(int(messages.max())) < 1 << 24


def test_products_of_int8_that_saturate_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def saturates(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return (rows.to(torch.int32) @ weight.to(torch.int32)).clamp(-32768, 32767)

    def missing(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    for product in (saturates, missing):
        monkeypatch.setattr(arithmetic, "int8_product", product)
        assert not arithmetic.int8_helps.__wrapped__(torch.device("cpu"))


@pytest.mark.parametrize("available", [False, True])
def test_convolution_by_taps_equals_onednn(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: available)
    monkeypatch.setitem(arithmetic.BLOCK_BYTES, "cpu", 3000)
    net = small_net()
    assert_same_traces(dense.run(net, spikes_for(net, 9)), reference.run(net, spikes_for(net, 9)))


# backend="auto"


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]) -> list[tuple[str, int]]:
    """Simulators that take as long as ``seconds`` says for a sample; returns who was asked for how many."""
    asked: list[tuple[str, int]] = []

    class Timed:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, net: ChipNet, messages: Any, *arguments: Any, **options: Any) -> Traces:
            asked.append((self.name, len(messages)))
            if self.name not in seconds:
                raise UnsupportedError("not known")
            found: Traces = reference.run(net, messages, *arguments)
            return Traces(
                found.spikes,
                found.u,
                found.v,
                found.spikes_per_step,
                found.operations_per_step,
                seconds[self.name] * len(messages),
            )

    monkeypatch.setattr(simulation, "simulator", Timed)
    return asked


@pytest.mark.parametrize(
    "seconds, chosen, trials",
    [
        ({"event": 1.0, "dense": 0.5}, "dense", ["event", "event", "dense", "dense"]),
        ({"event": 0.5, "dense": 1.0}, "event", ["event", "event", "dense", "dense"]),
        ({"event": 1e-3, "dense": 1e-9}, "event", ["event", "event"]),  # a fifth of a second: not worth a trial
        ({"event": 1.0}, "event", ["event", "event", "dense"]),  # dense fails
    ],
)
def test_auto_takes_the_faster(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], chosen: str, trials: list[str]
) -> None:
    net = small_net()
    x = spikes_for(net, 200)
    expected = reference.run(net, x)
    asked = timed(monkeypatch, seconds)
    found = simulate(net, x, backend="auto")
    assert found.backend == chosen
    assert [name for name, _ in asked] == [*trials, chosen]
    assert all(samples <= 3 for _, samples in asked[:-1])
    assert_same_traces(found.traces, expected)


def test_auto_with_the_simulators_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    net = small_net()
    x = spikes_for(net, 100)
    for worth in (0.0, 1e9):
        monkeypatch.setattr(simulation, "_WORTH_A_TRIAL_SECONDS", worth)
        for mode in MODES:
            found = simulate(net, x, backend="auto", mode=mode, threads=1)
            assert found.backend == "event" if worth else found.backend in ("event", "dense")
            assert_same_traces(found.traces, reference.run(net, x, mode))
            assert faster_backend(net, x, mode) in ("event", "dense")


def test_dense_is_installed() -> None:
    assert simulator("dense").run is dense.run
