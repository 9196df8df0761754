"""The integer law: cases computed by hand, and a second implementation in plain Python integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from compare import assert_same_traces
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from strategies import chip_nets, messages_for

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Layer, Neuron
from snn2chip.simulators import event, reference
from snn2chip.traces import MODES, Mode, Record, Traces

TOP = 1 << 23
RUN_LAYERS = [reference.run_layer, event.run_layer]


def neuron(threshold: Any = 131071, current_decay: Any = 4096, voltage_decay: Any = 4096, bias: Any = 0) -> Neuron:
    """Memoryless and hard to fire unless told otherwise."""
    return Neuron.of("cell", threshold, current_decay, voltage_decay, bias)


def dense(weight: Any, cell: Neuron, recurrent: Any = None) -> Dense:
    matrix = np.array(weight, np.int32)
    return Dense("cell", (matrix.shape[1],), matrix, cell, None if recurrent is None else np.array(recurrent, np.int32))


# One input neuron, whose sum `a` is the message: name, neuron, messages, expected (spike, u, v) of each step.
ONE_NEURON: list[tuple[str, Neuron, list[int], list[tuple[int, int, int]]]] = [
    # 64 * 2047 / 4096 = 31.98, 31 * 2047 / 4096 = 15.49
    ("current decay rounds down", neuron(current_decay=2049), [1, 0, 0], [(0, 64, 64), (0, 31, 31), (0, 15, 15)]),
    (
        "current decay rounds a negative up",
        neuron(current_decay=2049),
        [-1, 0, 0],
        [(0, -64, -64), (0, -31, -31), (0, -15, -15)],
    ),
    # u is 64, then 0; v 64, 31, 15
    ("voltage decay rounds down", neuron(voltage_decay=2049), [1, 0, 0], [(0, 64, 64), (0, 0, 31), (0, 0, 15)]),
    (
        "voltage decay rounds a negative up",
        neuron(voltage_decay=2049),
        [-1, 0, 0],
        [(0, -64, -64), (0, 0, -31), (0, 0, -15)],
    ),
    ("decay 4095 keeps 1/4096", neuron(current_decay=4095), [64, 0, 0], [(0, 4096, 4096), (0, 1, 1), (0, 0, 0)]),
    ("decay 0 keeps all", neuron(current_decay=0), [3, 0, 0], [(0, 192, 192)] * 3),
    ("threshold is strict", neuron(threshold=5), [5, 6], [(0, 320, 320), (1, 384, 0)]),
    ("threshold 0", neuron(threshold=0), [0, 1, -1], [(0, 0, 0), (1, 64, 0), (0, -64, -64)]),
    # the reset clears v alone: u goes on
    (
        "a spike clears v and not u",
        neuron(threshold=2, current_decay=0, voltage_decay=0),
        [3, -1, 0, 0],
        [(1, 192, 0), (0, 128, 128), (1, 128, 0), (0, 128, 128)],
    ),
    ("bias enters v alone", neuron(bias=-3, voltage_decay=0), [0, 1, 0], [(0, 0, -192), (0, 64, -320), (0, 0, -512)]),
    (
        "bias fires",
        neuron(threshold=2, bias=1, voltage_decay=0),
        [0] * 4,
        [(0, 0, 64), (0, 0, 128), (1, 0, 0), (0, 0, 64)],
    ),
    # 131072 << 6 is 2^23
    (
        "2^23 stays in u and clips in v",
        neuron(current_decay=0),
        [65535, 65535, 2, 0],
        [(0, 4194240, 4194240), (0, 8388480, 8388480), (1, TOP, 0), (1, TOP, 0)],
    ),
    (
        "beyond 2^23 u wraps once",
        neuron(current_decay=0),
        [65535, 65535, 3],
        [(0, 4194240, 4194240), (0, 8388480, 8388480), (0, 8388672 - 2 * TOP, 8388672 - 2 * TOP)],
    ),
    (
        "-2^23 wraps to 2^23",
        neuron(current_decay=0),
        [-65535, -65535, -2],
        [(0, -4194240, -4194240), (0, -8388480, -8388480), (1, TOP, 0)],
    ),
    (
        "v clips from below",
        neuron(voltage_decay=0),
        [-65535] * 3,
        [(0, -4194240, -4194240), (0, -4194240, -8388480), (0, -4194240, 1 - TOP)],
    ),
]


@pytest.mark.parametrize("run_layer", RUN_LAYERS, ids=["reference", "event"])
@pytest.mark.parametrize(
    ("cell", "messages", "expected"), [row[1:] for row in ONE_NEURON], ids=[r[0] for r in ONE_NEURON]
)
def test_one_neuron(run_layer: Any, cell: Neuron, messages: list[int], expected: list[tuple[int, int, int]]) -> None:
    s, u, v = run_layer(InputNeurons("cell", (1,), cell), np.array(messages, np.int64).reshape(1, -1, 1))
    assert list(zip(s.ravel().tolist(), u.ravel().tolist(), v.ravel().tolist(), strict=True)) == expected


@pytest.mark.parametrize("run_layer", RUN_LAYERS, ids=["reference", "event"])
def test_current_beyond_32_bits_wraps_as_lavas_arrays_do(run_layer: Any) -> None:
    # Found with lava-nc 0.10.0 by calling PyLifResetModelBitAcc.subthr_dynamics with a = 2^24 - 1, du = -1.
    layer = dense([[1]], neuron(current_decay=0))
    _, u, _ = run_layer(layer, np.full((1, 5, 1), (1 << 24) - 1, np.int64))
    assert u.ravel().tolist() == [1056964544, 2113929088, -1090519232, -256, 1056964288]


@pytest.mark.parametrize("run_layer", RUN_LAYERS, ids=["reference", "event"])
@pytest.mark.parametrize(
    ("message", "in_conv"),
    [
        (32896, 8388480),  # times 255, below 2^23: as it is
        (32897, 8388735 - (1 << 24)),
        (-32897, -8388735 + (1 << 24)),
    ],
)
def test_sum_of_a_convolution_wraps_at_24_bits_and_that_of_a_dense_layer_does_not(
    run_layer: Any, message: int, in_conv: int
) -> None:
    conv = Conv("cell", (1, 1, 1), np.full((1, 1, 1, 1), 255, np.int32), neuron())
    for layer, a in ((conv, in_conv), (dense([[255]], neuron()), 255 * message)):
        _, u, _ = run_layer(layer, np.full((1, 1, *layer.input_shape), message, np.int64))
        # a << 6 is far beyond 2^23: u wraps once, and stays beyond it
        assert u.item() == (a << 6) - (2 * TOP if a > 0 else -2 * TOP)


@pytest.mark.parametrize("run_layer", RUN_LAYERS, ids=["reference", "event"])
def test_recurrent_spikes_arrive_one_step_later(run_layer: Any) -> None:
    layer = dense([[2], [0]], neuron(threshold=[1, 100]), recurrent=[[0, 0], [-7, 0]])
    s, u, _ = run_layer(layer, np.array([[[1], [0], [0]]]))
    assert s.tolist() == [[[1, 0], [0, 0], [0, 0]]]
    assert u.tolist() == [[[128, 0], [0, -448], [0, 0]]]


@pytest.mark.parametrize("run_layer", RUN_LAYERS, ids=["reference", "event"])
def test_reset_comes_before_the_input_of_its_step(run_layer: Any) -> None:
    layer = dense([[1]], neuron(current_decay=0, voltage_decay=0))
    messages = np.ones((1, 5, 1), np.int64)
    _, u, v = run_layer(layer, messages, 0, 2)
    assert u.ravel().tolist() == [64, 128, 64, 128, 64]
    assert v.ravel().tolist() == [64, 192, 64, 192, 64]
    _, u, _ = run_layer(layer, messages, -1, 2)  # a step earlier in layer time: the second step is step 0
    assert u.ravel().tolist() == [64, 64, 128, 64, 128]


@pytest.mark.parametrize("simulator", [reference, event], ids=["reference", "event"])
def test_recurrent_spikes_cross_the_window_and_leave_isolated_samples_alone(simulator: Any) -> None:
    net = ChipNet((1,), (dense([[2]], neuron(threshold=1, voltage_decay=0), recurrent=[[1]]),), time_steps=2)
    messages = np.array([[[0], [1]], [[0], [0]]], np.int32)
    record = Record.everything(net)
    assert simulator.run(net, messages, "isolated", record).v["cell"].ravel().tolist() == [0, 0, 0, 0]
    windowed = simulator.run(net, messages, "windowed", record)
    assert windowed.spikes["cell"].ravel().tolist() == [0, 1, 0, 0]
    assert windowed.u["cell"].ravel().tolist() == [0, 128, 64, 0]  # the spike of the first sample's last step


@pytest.mark.parametrize("simulator", [reference, event], ids=["reference", "event"])
def test_without_reset_biases_integrate_before_the_data_arrive(simulator: Any) -> None:
    # Layer k (from 0) runs k + 1 steps ahead of its data.
    first = Dense("a", (1,), np.zeros((1, 1), np.int32), neuron(threshold=100, voltage_decay=0, bias=1))
    second = Dense("b", (1,), np.zeros((1, 1), np.int32), neuron(threshold=100, voltage_decay=0, bias=10))
    net = ChipNet((1,), (first, second), time_steps=2)
    streamed = simulator.run(net, np.zeros((2, 2, 1), np.int32), "streaming", Record.everything(net))
    assert (streamed.v["a"].ravel() // 64).tolist() == [2, 3, 4, 5]
    assert (streamed.v["b"].ravel() // 64).tolist() == [30, 40, 50, 60]
    windowed = simulator.run(net, np.zeros((2, 2, 1), np.int32), "windowed", Record.everything(net))
    assert (windowed.v["b"].ravel() // 64).tolist() == [10, 20, 10, 20]


@pytest.mark.parametrize("simulator", [reference, event], ids=["reference", "event"])
def test_synaptic_operations_are_counted_where_they_arrive(simulator: Any) -> None:
    # A 2 x 2 kernel over 3 x 3: the centre is seen by 4 taps, a corner by 1; two output channels each.
    conv = Conv("conv", (1, 3, 3), np.ones((2, 1, 2, 2), np.int32), neuron(threshold=0))
    readout = Dense("dense", conv.shape, np.ones((3, 8), np.int32), neuron(threshold=0), np.ones((3, 3), np.int32))
    net = ChipNet((1, 3, 3), (conv, readout), time_steps=1)
    messages = np.zeros((1, 1, 1, 3, 3), np.int32)
    messages[0, 0, 0, 0, 0] = messages[0, 0, 0, 1, 1] = 1
    out = simulator.run(net, messages)
    assert out.spike_counts == {"conv": 8, "dense": 3}
    assert out.synaptic_operations == 2 * (1 + 4) + 8 * 3 + 3 * 3
    assert {name: counts.tolist() for name, counts in out.operations_per_step.items()} == {
        "conv": [2 * (1 + 4)],
        "dense": [8 * 3 + 3 * 3],
    }


# --- The law once more: Python integers, loops, and chip time instead of layer time ---


def _truncated(state: int, decay: int) -> int:
    size = abs(state) * (4096 - decay) // 4096
    return size if state >= 0 else -size


def _signed(value: int, bits: int) -> int:
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def _synapses(layer: Layer) -> list[list[tuple[int, int]]]:
    """``(input, weight)`` pairs of each neuron, both counted in the order C, H, W."""
    if isinstance(layer, InputNeurons):
        return [[(i, 1)] for i in range(int(np.prod(layer.shape)))]
    if isinstance(layer, Dense):
        return [list(enumerate(row)) for row in layer.weight.tolist()]
    _, height, width = layer.input_shape
    channels, out_height, out_width = layer.shape
    lists = []
    for c in range(channels):
        kernel = layer.weight[c].tolist()
        first = (c // (channels // layer.groups)) * len(kernel)
        for oy in range(out_height):
            for ox in range(out_width):
                pairs = []
                for k, plane in enumerate(kernel):
                    for i, line in enumerate(plane):
                        for j, w in enumerate(line):
                            y = oy * layer.stride[0] - layer.padding[0] + i * layer.dilation[0]
                            x = ox * layer.stride[1] - layer.padding[1] + j * layer.dilation[1]
                            if 0 <= y < height and 0 <= x < width:
                                pairs.append((((first + k) * height + y) * width + x, w))
                lists.append(pairs)
    return lists


class ScalarLayer:
    """One layer as a process of Lava: at each chip step it uses what arrived the step before."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.synapses = _synapses(layer)
        self.recurrent = layer.recurrent.tolist() if isinstance(layer, Dense) and layer.recurrent is not None else None
        self.parameters = [
            [int(p[name]) for name in ("threshold", "current_decay", "voltage_decay", "bias")]
            for p in _per_neuron(layer)
        ]
        self.rest()
        self.spikes = [0] * len(self.synapses)

    def rest(self) -> None:
        self.u, self.v = [0] * len(self.synapses), [0] * len(self.synapses)

    def step(self, messages: Sequence[int]) -> None:
        before, self.spikes = self.spikes, []
        for n, (threshold, current_decay, voltage_decay, bias) in enumerate(self.parameters):
            a = sum(w * messages[i] for i, w in self.synapses[n])
            if isinstance(self.layer, Conv):
                a = _signed(a, 24)
            if self.recurrent is not None:
                a += sum(w * s for w, s in zip(self.recurrent[n], before, strict=True))
            u = _signed(_truncated(self.u[n], current_decay) + a * 64, 32)
            if u > TOP:
                u -= 2 * TOP
            elif u <= -TOP:
                u += 2 * TOP
            v = _signed(_truncated(self.v[n], voltage_decay) + u + bias * 64, 32)
            v = min(max(v, 1 - TOP), TOP - 1)
            self.spikes.append(int(v > threshold * 64))
            self.u[n], self.v[n] = u, 0 if v > threshold * 64 else v


def _per_neuron(layer: Layer) -> list[dict[str, int]]:
    flat = {name: array.reshape(-1).tolist() for name, array in layer.neuron.expanded(layer.shape).items()}
    return [dict(zip(flat, values, strict=True)) for values in zip(*flat.values(), strict=True)]


def scalar_run(net: ChipNet, messages: Any, mode: Mode) -> Traces:
    """All of :func:`reference.run`, in chip time: at each step every layer sees what the one before it sent last."""
    if mode == "isolated":
        parts = [_scalar_stream(net, messages[n : n + 1], mode) for n in range(len(messages))]
    else:
        parts = [_scalar_stream(net, messages, mode)]
    join = {
        what: {k.name: np.concatenate([getattr(p, what)[k.name] for p in parts]) for k in net.layers} for what in "uv"
    }
    return Traces(
        {k.name: np.concatenate([p.spikes[k.name] for p in parts]) for k in net.layers},
        join["u"],
        join["v"],
        {k.name: sum(p.spikes_per_step[k.name] for p in parts) for k in net.layers},
        {k.name: sum(p.operations_per_step[k.name] for p in parts) for k in net.layers},
    )


def _scalar_stream(net: ChipNet, messages: Any, mode: Mode) -> Traces:
    samples, window = len(messages), net.window
    silent = [0] * int(np.prod(net.input_shape))
    stream = [
        messages[n, t].reshape(-1).tolist() if t < messages.shape[1] else silent
        for n in range(samples)
        for t in range(window)
    ]
    layers = [ScalarLayer(layer) for layer in net.layers]
    found: dict[str, dict[str, list[list[int]]]] = {w: {k.name: [] for k in net.layers} for w in ("s", "u", "v")}
    operations = {k.name: np.zeros(window, np.int64) for k in net.layers}
    buffered: list[Any] = [[0] * int(np.prod(layer.input_shape)) for layer in net.layers]
    for chip_step in range(len(stream) + net.depth):
        message = stream[chip_step] if chip_step < len(stream) else silent
        late = 0
        for k, cell in enumerate(layers):
            costs = not isinstance(cell.layer, InputNeurons)
            late += costs
            layer_time = chip_step - late
            arrived = buffered[k] if costs else message
            buffered[k] = message
            if mode != "isolated" or layer_time >= 0:
                if mode == "windowed" and layer_time % window == 0:
                    cell.rest()
                cell.step(arrived)
            message = cell.spikes
            if 0 <= layer_time < len(stream):
                for what, values in (("s", cell.spikes), ("u", cell.u), ("v", cell.v)):
                    found[what][cell.layer.name].append(list(values))
                if costs:
                    received = sum(arrived[i] != 0 for pairs in cell.synapses for i, _ in pairs)
                    operations[cell.layer.name][layer_time % window] += received
                if cell.recurrent is not None:
                    operations[cell.layer.name][layer_time % window] += sum(cell.spikes) * len(cell.spikes)

    def traces(what: str, kind: Any) -> dict[str, Any]:
        return {k.name: np.array(found[what][k.name], kind).reshape(samples, window, *k.shape) for k in net.layers}

    spikes = traces("s", np.uint8)
    counts = {name: array.sum(0, dtype=np.int64).reshape(window, -1).sum(1) for name, array in spikes.items()}
    return Traces(spikes, traces("u", np.int32), traces("v", np.int32), counts, operations)


@settings(max_examples=120, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(MODES))
def test_scalar_chip_time_law_equals_reference(data: st.DataObject, mode: Mode) -> None:
    net = data.draw(chip_nets(max_steps=4))
    messages = data.draw(messages_for(net, max_samples=2))
    assert_same_traces(reference.run(net, messages, mode, Record.everything(net)), scalar_run(net, messages, mode))


def test_readout_is_recorded_by_default() -> None:
    net = ChipNet((1,), (dense([[1]], neuron()),), Encoding())
    assert reference.run(net, np.zeros((1, 1, 1), np.int32)).spikes.keys() == {"cell"}
