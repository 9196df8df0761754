"""Energy and time: what it costs."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from with_lava import SHIPPED, needs_lava_here

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron
from snn2chip.errors import InputError
from snn2chip.exporters import netx
from snn2chip.hardware import Target, estimate, place, target_of
from snn2chip.hardware.targets import LEVELS
from snn2chip.simulators import event, reference
from snn2chip.traces import Record, Traces

LOIHI1, LOIHI2 = target_of("loihi1"), target_of("loihi2")


def net() -> ChipNet:
    """Convolution and dense layer, driven by input neurons."""
    weight = np.random.default_rng(0).integers(-9, 30, (6, 2, 3, 3))
    image = InputNeurons("in", (2, 9, 40), Neuron.of("", 0))
    conv = Conv("conv", (2, 9, 40), weight, Neuron.of("", 100), (2, 2))
    dense = Dense("fc", conv.shape, np.random.default_rng(1).integers(-9, 30, (2, 456)), Neuron.of("", 200))
    return ChipNet((2, 9, 40), (image, conv, dense), time_steps=4)


def run(network: ChipNet, record: bool, samples: int = 3) -> Traces:
    """Spikes on the left half of the image alone."""
    messages = (np.random.default_rng(2).random((samples, 4, *network.input_shape)) < 0.4).astype(np.uint8)
    messages[..., 20:] = 0
    return reference.run(network, messages, record=Record.of([x.name for x in network.layers] if record else ()))


def test_one_core_by_hand() -> None:
    """Three neurons on one core of Loihi 1, counts given."""
    layer = Dense("fc", (2,), np.array([[1, 2], [3, 4], [5, 6]]), Neuron.of("", 100))
    network = ChipNet((2,), (layer,), time_steps=2)
    counts = {"fc": np.array([2, 6])}, {"fc": np.array([6, 12])}
    found = estimate(network, place(network, LOIHI1), Traces({}, {}, {}, *counts), samples=2)
    times = [3 * 3.8 + 3 * 9.7 + 1 * 30 + 1200, 6 * 3.8 + 3 * 9.7 + 3 * 30 + 1200]  # ns; no core to send to
    assert found.step_time.mid == pytest.approx(1e-9 * sum(times) / 2)
    assert found.sample_time.mid == pytest.approx(1e-9 * sum(times))
    assert found.dynamic.mid == pytest.approx(1e-12 * (9 * 35.5 + 6 * 72.8 + 4 * 69.3))
    assert found.static.mid == pytest.approx(0.169 * 1e-9 * sum(times))
    assert found.total.mid == pytest.approx(found.dynamic.mid + found.static.mid)
    assert (found.busiest, found.steps, found.step_time.label) == ("fc", 2, "Loihi 1 silicon (low: pre-silicon)")


@pytest.mark.parametrize("target", [LOIHI1, LOIHI2], ids=lambda t: t.name)
def test_counts_are_those_of_the_simulation(target: Target) -> None:
    network = net()
    few = dataclasses.replace(target.limits["neurons_per_core"], value=60)
    small = dataclasses.replace(target, limits={**target.limits, "neurons_per_core": few})
    placement = place(network, small)
    assert len(placement.by_layer["conv"]) > 2
    recorded, counted = run(network, True), run(network, False)
    found, even = estimate(network, placement, recorded, 3), estimate(network, placement, counted, 3)
    for result in (found, even):
        operations = result.counts["synapse_dense"] + result.counts["synapse_conv"]
        assert operations == pytest.approx(recorded.synaptic_operations / 3)
        assert result.counts["spike"] == pytest.approx(sum(recorded.spike_counts.values()) / 3)
        assert result.counts["neuron"] == 4 * (720 + 456 + 2)
        assert result.total.low <= result.total.mid <= result.total.high
        assert result.dynamic.mid == pytest.approx(sum(part.mid for part in result.parts.values()))
    # Half of the image is dark: the busiest core does more than an even share of the work.
    assert found.step_time.mid > even.step_time.mid


def test_mean_of_samples() -> None:
    """Counts of twice as many equal samples give the same cost of one."""
    network = net()
    placement, traces = place(network, LOIHI2), run(network, False)
    double = dataclasses.replace(
        traces,
        spikes_per_step={name: 2 * counts for name, counts in traces.spikes_per_step.items()},
        operations_per_step={name: 2 * counts for name, counts in traces.operations_per_step.items()},
    )
    assert estimate(network, placement, double, 6) == estimate(network, placement, traces, 3)
    silent = dataclasses.replace(
        traces,
        spikes_per_step={name: 0 * counts for name, counts in traces.spikes_per_step.items()},
        operations_per_step={name: 0 * counts for name, counts in traces.operations_per_step.items()},
    )
    found = estimate(network, placement, silent)
    for level in LEVELS:
        rest = 4 * (720 + 456 + 2) * LOIHI2.costs["neuron_energy"].at(level)
        assert getattr(found.dynamic, level) == pytest.approx(rest)


def test_traces_of_another_network() -> None:
    network = net()
    other = dataclasses.replace(network, layers=network.layers[:2])
    with pytest.raises(InputError, match="not of the layers in, conv"):
        estimate(other, place(other, LOIHI2), run(network, False))


@pytest.mark.slow
@needs_lava_here
def test_pilotnet_within_a_factor_of_two() -> None:
    """Slow: 17 million messages. Published for Loihi 2: 152.8 us a step, 1.661 mJ a frame; costs are Loihi 1's."""
    folder = SHIPPED / "gts/pilotnet_lif"
    network = dataclasses.replace(
        netx.read(folder / "network.net"), encoding=Encoding("graded", 1.0, -255, 255), time_steps=16, window=16
    )
    messages = np.repeat(np.load(folder / "image.npy").T.astype(np.int32)[None, None], 16, axis=1)
    traces = event.run(network, messages, record=Record.of([layer.name for layer in network.layers]))
    result = estimate(network, place(network, LOIHI2, "divide"), traces)
    assert 152.8e-6 / 2 < result.step_time.mid < 152.8e-6 * 2
    assert 1.661e-3 / 2 < result.total.mid < 1.661e-3 * 2
    assert result.step_time.low < 152.8e-6 < result.step_time.high
    assert result.total.low < 1.661e-3 < result.total.high
