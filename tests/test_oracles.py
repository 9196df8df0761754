"""Truth from elsewhere: an independent Loihi emulator, and a trace recorded on Loihi 2 silicon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.simulators import event, reference
from snn2chip.traces import Record

SILICON = Path(__file__).parents[2] / "shared" / "data" / "nir" / "lif_lava_loihi_fixed.csv"


@pytest.mark.skipif(not SILICON.exists(), reason="the recorded trace is not part of the repository")
@pytest.mark.parametrize("simulator", [reference, event])
def test_trace_recorded_on_loihi_2(simulator: object) -> None:
    """One LIF neuron (dv 163, vth 25, weight 10) for 1000 steps; neuromorphs/NIR, paper/01_lif, BSD-3.

    The chip sees the input one step later, and its v reads 128 after a spike, where simulators read 0.
    """
    sent, v, spikes = np.loadtxt(SILICON, delimiter=",").T
    neuron = Dense("lif", (1,), np.array([[10]]), Neuron.of("lif", 25, 4096, 163))
    net = ChipNet((1,), (neuron,), time_steps=1000)
    seen = np.concatenate([[0], sent[:-1]]).astype(np.int32).reshape(1, 1000, 1)
    found = simulator.run(net, seen, record=Record.everything(net))  # type: ignore[attr-defined]
    assert spikes.sum() == 4
    assert np.array_equal(found.spikes["lif"].ravel(), spikes)
    after_spike = spikes > 0
    assert np.array_equal(found.v["lif"].ravel()[~after_spike], v[~after_spike])
    assert set(v[after_spike]) == {128}


def emulated(net: ChipNet, messages: np.ndarray) -> dict[str, np.ndarray]:
    """Traces of brian2-loihi (Michaelis et al. 2022, doi 10.3389/fninf.2022.1015624), one sample, one layer."""
    import brian2
    from brian2_loihi import (
        LoihiNetwork,
        LoihiNeuronGroup,
        LoihiSpikeGeneratorGroup,
        LoihiSpikeMonitor,
        LoihiStateMonitor,
        LoihiSynapses,
    )

    brian2.prefs.codegen.target = "numpy"
    (layer,) = net.layers
    assert isinstance(layer, Dense)
    steps = messages.shape[1]
    when, who = np.nonzero(messages[0])
    source = LoihiSpikeGeneratorGroup(len(layer.weight[0]), who, when)
    neurons = LoihiNeuronGroup(
        layer.shape[0],
        refractory=1,
        threshold_v_mant=int(layer.neuron.threshold),
        decay_v=int(layer.neuron.voltage_decay),
        decay_I=int(layer.neuron.current_decay),
    )
    synapses = LoihiSynapses(source, neurons, sign_mode=1)
    synapses.connect()
    synapses.w = layer.weight.T.ravel()
    u, v = LoihiStateMonitor(neurons, "I"), LoihiStateMonitor(neurons, "v")
    fired = LoihiSpikeMonitor(neurons)
    LoihiNetwork(source, neurons, synapses, u, v, fired).run(steps + 1, namespace={})
    spikes = np.zeros((steps + 1, *layer.shape))
    spikes[np.rint(np.asarray(fired.t)).astype(int), np.asarray(fired.i)] = 1
    return {"spikes": spikes, "u": np.asarray(u.I).T, "v": np.asarray(v.v).T}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # brian2 calls what pyparsing has renamed
@pytest.mark.parametrize("seed", range(10))
def test_cuba_dynamics_equal_brian2_loihi(seed: int) -> None:
    pytest.importorskip("brian2_loihi", reason="brian2-loihi needs Python 3.10")
    generator = np.random.default_rng(seed)
    weight = 2 * generator.integers(-60, 100, (20, 12))
    current_decay, voltage_decay = ([410, 4096, 300, 2048][seed % 4], [123, 0, 900, 4095][seed // 3])
    neuron = Neuron.of("fc", int(generator.integers(200, 2000)), current_decay, voltage_decay)
    net = ChipNet((12,), (Dense("fc", (12,), weight, neuron),), time_steps=200)
    messages = (generator.random((1, 200, 12)) < 0.2).astype(np.int32)
    ours = reference.run(net, messages, record=Record.everything(net))
    theirs = emulated(net, messages)
    assert 0 < ours.spikes["fc"].mean() < 1
    assert np.abs(ours.v["fc"]).max() < limits.STATE_LIMIT - 1, "the emulator does not clip v"
    for kind, found in theirs.items():
        assert np.array_equal(found[:200], getattr(ours, kind)["fc"][0]), kind
