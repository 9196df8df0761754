"""Random networks: independent simulators agree in every message, u and v."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import ModuleType

import hypothesis.strategies as st
import numpy as np
import pytest
from compare import assert_same_traces
from hypothesis import HealthCheck, Phase, given, settings
from strategies import SITUATIONS, chip_nets, messages_for, rf_nets, sdnn_nets, situations
from with_lava import needs_lava

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron, Resonator
from snn2chip.errors import LimitError
from snn2chip.simulators import event, lava, reference
from snn2chip.traces import MODES, Mode, Record, Traces

NETWORKS = 600
OTHER_NETWORKS = 200  # of each kind
LAVA_NETWORKS = 45
LAVA_MODES: tuple[Mode, ...] = ("isolated", "windowed")


def features(net: ChipNet) -> Counter[str]:
    """What this network is made of."""
    seen: Counter[str] = Counter([f"{net.encoding.kind} input", f"{len(net.layers)} layers"])
    seen["window longer than the sample"] = int(net.window > net.time_steps)
    for layer in net.layers:
        if isinstance(layer, InputNeurons):
            seen["input neurons"] += 1
        elif isinstance(layer, Dense):
            seen[
                "dense after convolution" if len(layer.input_shape) == 3 and layer is not net.layers[0] else "dense"
            ] += 1
            seen["recurrent"] += layer.recurrent is not None
            seen["delays"] += layer.delay is not None and bool(layer.delay.any())
        elif isinstance(layer, Conv):
            seen["convolution"] += 1
            seen["groups"] += layer.groups > 1
            seen["asymmetric stride"] += layer.stride[0] != layer.stride[1]
            seen["asymmetric padding"] += layer.padding[0] != layer.padding[1]
            seen["asymmetric dilation"] += layer.dilation[0] != layer.dilation[1]
            seen["dilation that does not divide the stride"] += layer.stride[1] % layer.dilation[1] != 0
        seen["threshold for each neuron"] += layer.neuron.threshold.ndim > 0
        seen["decay for each neuron"] += layer.neuron.current_decay.ndim > 0 and layer.neuron.voltage_decay.ndim > 0
        seen["bias"] += bool(layer.neuron.bias.any())
    return +seen


FEATURES = (
    *(f"{kind} input" for kind in ("spikes", "graded", "hold")),
    *(f"{n} layers" for n in (1, 2, 3)),
    *("window longer than the sample", "input neurons", "dense", "dense after convolution", "recurrent", "convolution"),
    *("groups", "asymmetric stride", "asymmetric padding", "asymmetric dilation"),
    *("dilation that does not divide the stride", "threshold for each neuron", "decay for each neuron", "bias"),
    "delays",
)


def test_event_equals_reference_in_all_modes_and_every_situation_occurs() -> None:
    population: Counter[str] = Counter()
    networks = 0

    @settings(max_examples=NETWORKS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        nonlocal networks
        net = data.draw(chip_nets(delays=True))
        messages = data.draw(messages_for(net))
        record = Record.everything(net)
        for mode in MODES:
            assert_same_traces(event.run(net, messages, mode, record), reference.run(net, messages, mode, record))
            population.update(dict.fromkeys(situations(net, messages, mode), 1))
        population.update(dict.fromkeys(features(net), 1))
        networks += 1

    compare()
    assert networks >= 300
    # Each in several networks, or the comparison above says nothing about it.
    assert {name: population[name] for name in (*SITUATIONS, *FEATURES) if population[name] < 5} == {}


def outcome(simulator: ModuleType, net: ChipNet, messages: np.ndarray, mode: Mode) -> Traces | str:
    """Everything, or the error that says that a sum is too large."""
    try:
        traces: Traces = simulator.run(net, messages, mode, Record.everything(net))
    except LimitError as error:
        return str(error)
    return traces


@pytest.mark.parametrize(
    ("nets", "wanted"),
    [
        (
            sdnn_nets,
            "SigmaDelta Conv, SigmaDelta Dense, Sigma Conv, Sigma Dense, Neuron Dense, delayed SigmaDelta, "
            "delayed Sigma, delayed Neuron, Delta InputNeurons, large messages",
        ),
        (rf_nets, "Resonator phase, Resonator Izhikevich, Neuron Dense, large messages"),
    ],
)
def test_event_equals_reference_with_other_neurons(nets: Callable[[], st.SearchStrategy[ChipNet]], wanted: str) -> None:
    population: Counter[str] = Counter()

    @settings(max_examples=OTHER_NETWORKS, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        net = data.draw(nets())
        # Beyond what the encoding allows sums become too large, and registers wrap.
        large = data.draw(st.sampled_from([1, 1, 1, 1 << 12, 1 << 20]))
        messages = data.draw(messages_for(net)) * np.int32(large)
        for mode in MODES:
            found, expected = (outcome(simulator, net, messages, mode) for simulator in (event, reference))
            if isinstance(found, str) or isinstance(expected, str):
                assert found == expected
                population["too large"] += 1
                continue
            assert_same_traces(found, expected)
            population[f"networks, {mode}"] += 1
            population["messages"] += sum(expected.spike_counts.values())
        for layer in net.layers:
            kind = type(layer.neuron).__name__
            name = type(layer).__name__
            if isinstance(layer.neuron, Resonator):
                name = "phase" if layer.neuron.phase else "Izhikevich"
            population[f"{kind} {name}"] += 1
            population[f"delayed {kind}"] += isinstance(layer, Dense) and layer.delay is not None
        population["large messages"] += large > 1

    compare()
    assert all(population[f"networks, {mode}"] >= 100 for mode in MODES)
    assert population["messages"] > 1000
    assert {name: population[name] for name in (*wanted.split(", "), "too large") if population[name] < 5} == {}


@pytest.mark.lava
@needs_lava
def test_lava_equals_reference() -> None:
    population: Counter[str] = Counter()

    # A run takes seconds, so a failure is reported as it is drawn, not shrunk.
    @settings(
        max_examples=LAVA_NETWORKS,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data(), st.sampled_from(LAVA_MODES))
    def compare(data: st.DataObject, mode: Mode) -> None:
        net = data.draw(chip_nets(netx_safe=True, max_steps=4))
        messages = data.draw(messages_for(net, max_samples=2))
        record = Record.everything(net)
        assert_same_traces(lava.run(net, messages, mode, record), reference.run(net, messages, mode, record))
        population.update([mode, "networks", *features(net), *situations(net, messages, mode)])

    compare()
    assert population["networks"] >= 40
    common = ("dense", "convolution", "recurrent", "input neurons", "bias", *FEATURES[:3], *LAVA_MODES)
    assert [name for name in common if not population[name]] == []


def _far_apart() -> dict[str, tuple[ChipNet, list[list[list[int]]], Mode]]:
    """Networks small enough for Lava in which implementations part: situation, network, messages, mode."""
    holds = Neuron.of("a", 131071, 0, 0)
    leaks = Neuron.of("a", 1, 4096, 1000)
    loop = Dense("a", (2,), np.array([[2, -1], [1, 2]]), leaks, np.array([[1, -1], [2, 1]]))
    return {
        "u passes 2^31": (
            ChipNet(
                (1,),
                (Dense("a", (1,), np.array([[255]]), holds),),
                Encoding("graded", 1.0, -65535, 65535),
                time_steps=6,
            ),
            [[[65535]] * 6, [[-65535]] * 6],
            "isolated",
        ),
        "u stays at 2^23": (
            ChipNet(
                (1,), (Dense("a", (1,), np.array([[64]]), holds),), Encoding("graded", 1.0, -2048, 2048), time_steps=3
            ),
            [[[2048], [0], [1]], [[-2048], [0], [-1]]],
            "isolated",
        ),
        "spikes cross a window": (
            ChipNet((2,), (loop,), time_steps=3),
            [[[0, 0], [1, 0], [1, 1]], [[0, 0]] * 3, [[1, 1]] * 3],
            "windowed",
        ),
    }


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize("situation", _far_apart())
def test_lava_equals_reference_where_implementations_part(situation: str) -> None:
    net, values, mode = _far_apart()[situation]
    messages, record = np.array(values, np.int32), Record.everything(net)
    assert situations(net, messages, mode)[situation]
    assert_same_traces(lava.run(net, messages, mode, record), reference.run(net, messages, mode, record))
