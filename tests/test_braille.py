"""A trained recurrent network (Braille, NIR's paper/03_rnn), float and integer, against what snnTorch recorded.

38 hidden neurons with a decaying current, all-to-all recurrence and biases that feed the current; weights up to 13
thresholds, so that one scale for all of them leaves a threshold of 9 units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from with_lava import needs_lava

from snn2chip.graph import Graph, Input, Linear, Neuron, execute
from snn2chip.passes import lower
from snn2chip.quantise import Quantised, quantise
from snn2chip.simulation import simulate
from snn2chip.simulators import event, lava
from snn2chip.traces import Record, encode

DATA = Path(__file__).parents[2] / "shared" / "data" / "nir"
NETWORK = DATA / "braille_noDelay_bias_zero.nir"
DT = 1e-4  # of the paper, s

pytestmark = pytest.mark.skipif(not NETWORK.exists(), reason="the Braille network is not in ../shared")


def braille() -> Graph:
    """NIR's ``CubaLIF``: ``alpha = 1 - dt / tau_syn``, ``beta = 1 - dt / tau_mem``; both input scales are 1."""
    with h5py.File(NETWORK) as file:
        nodes = file["node/nodes"]
        values = {f"{node}.{name}": data[()] for node, group in nodes.items() for name, data in group.items()}

    def neuron(name: str, source: str, **more: Any) -> Neuron:
        alpha, beta = (1 - DT / values[f"{name}.{tau}"][0].astype(float) for tau in ("tau_syn", "tau_mem"))
        assert values[f"{name}.w_in"][0] * DT == pytest.approx(values[f"{name}.tau_syn"][0])
        assert values[f"{name}.r"][0] * DT == pytest.approx(values[f"{name}.tau_mem"][0])
        return Neuron(name=name, inputs=(source,), alpha=alpha, beta=beta, threshold=1.0, **more)

    def array(name: str) -> np.ndarray:
        return np.asarray(values[name], np.float64)

    return Graph(
        (
            Input(name="input", shape=(12,)),
            Linear(
                name="fc1",
                inputs=("input",),
                weight=array("fc1.weight"),
                bias=array("fc1.bias") + array("lif1.w_rec.bias"),
            ),
            neuron("lif1.lif", "fc1", recurrent=array("lif1.w_rec.weight")),
            Linear(name="fc2", inputs=("lif1.lif",), weight=array("fc2.weight"), bias=array("fc2.bias")),
            neuron("lif2", "fc2"),
        ),
        256,
    )


def recording() -> np.ndarray:
    return np.load(DATA / "braille_input_256x12_uint8.npy")[None]


def perturbed(samples: int, seed: int = 0) -> np.ndarray:
    """Copies of the recording: a fifth of the spikes one step early or late, a twentieth lost."""
    generator = np.random.default_rng(seed)
    at, channel = np.nonzero(recording()[0])
    copies = np.zeros((samples, 256, 12), np.uint8)
    for copy in copies:
        moved = np.clip(at + generator.choice([-1, 0, 1], len(at), p=[0.1, 0.8, 0.1]), 0, 255)
        kept = generator.random(len(at)) > 0.05
        copy[moved[kept], channel[kept]] = 1
    return copies


def f1(found: np.ndarray, expected: np.ndarray, tolerance: int) -> float:
    """Of spikes ``[T, neurons]``, each matched with at most one, up to ``tolerance`` steps away."""
    matched = 0
    for neuron in range(expected.shape[1]):
        times = np.flatnonzero(found[:, neuron]).tolist()
        for wanted in np.flatnonzero(expected[:, neuron]).tolist():
            near = next((time for time in times if abs(time - wanted) <= tolerance), None)
            if near is not None:
                matched += 1
                times.remove(near)
    return 2 * matched / (found.sum() + expected.sum())


def test_the_graph_fires_as_snntorch_did() -> None:
    recorded = np.load(DATA / "snntorch_activity_noDelay_bias_zero.npy").reshape(256, 38)
    found = execute(braille(), recording()).outputs["lif1.lif"][0]
    assert recorded.sum() == 119
    assert (found == recorded).sum() == recorded.size == 9728


@pytest.fixture(scope="module")
def quantised() -> Quantised:
    return quantise(lower(braille()), perturbed(128), per_neuron=True)


def test_the_chip_fires_nearly_as_the_trained_network(quantised: Quantised) -> None:
    net = quantised.net
    trained = execute(braille(), recording()).outputs["lif1.lif"][0]
    found = simulate(net, recording(), record=Record.everything(net)).traces.spikes["fc1"][0][:, :38]
    assert net.inexact == ()
    assert f1(found, trained, 1) >= 0.93  # 0.97
    assert f1(found, trained, 0) >= 0.80  # 0.86


def test_rows_with_scales_of_their_own_are_what_it_takes(quantised: Quantised) -> None:
    """On copies of the recording that the search has not seen."""
    unseen = perturbed(32, seed=1)
    graph = lower(braille())
    trained = execute(graph, unseen).outputs["lif1.lif"]
    one_scale = quantise(graph, perturbed(128), scales="max").net

    def differing(net: Any) -> float:
        spikes = simulate(net, unseen, record=Record.everything(net)).traces.spikes["fc1"]
        return float((spikes != trained).mean())

    assert quantised.choices[0].method == "per neuron"
    assert differing(quantised.net) < 0.6 * differing(one_scale)


@pytest.mark.lava
@needs_lava
def test_lava_fires_as_the_event_simulator(quantised: Quantised) -> None:
    net = quantised.net
    record = Record.everything(net)
    messages = encode(net, recording())
    expected, found = event.run(net, messages, record=record), lava.run(net, messages, record=record)
    for layer in net.layers:
        for what in ("spikes", "u", "v"):
            assert np.array_equal(getattr(found, what)[layer.name], getattr(expected, what)[layer.name])
