"""Samples per second of the simulators on the same networks and inputs.

    python benchmarks/simulators.py [--json] [--runs 5] [--no-lava]

Each figure is the median over runs of the simulation alone (Lava: its ``run`` call), with minimum and maximum; the
simulators take turns, so that a change of the machine's speed meets all of them. Lava gets fewer samples, since its
time per sample does not depend on their number. Random weights whose thresholds are set so that about a tenth of the
neurons fire.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from typing import Any

import numpy as np

from snn2chip.backends import simulator
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, Neuron
from snn2chip.errors import LavaMissing
from snn2chip.traces import Record


def mlp(share: float) -> ChipNet:
    """784-512-10, T = 32, for inputs that fire at that share of steps."""
    generator = np.random.default_rng(0)
    spread = 23.4 * (784 * share) ** 0.5  # standard deviation of the first layer's weighted sums
    hidden = Dense(
        "fc1", (784,), generator.integers(-40, 41, (512, 784)), Neuron.of("fc1", round(1.4 * spread), 4096, 2048)
    )
    out = Dense("fc2", (512,), generator.integers(-40, 41, (10, 512)), Neuron.of("fc2", 230, 4096, 2048))
    return ChipNet((784,), (hidden, out), time_steps=32)


def conv() -> ChipNet:
    """16C5s2-32C3s2-FC128-FC10 on graded 28x28 images, T = 4."""
    generator = np.random.default_rng(0)
    neurons = {name: Neuron.of(name, threshold, 4096, 2048) for name, threshold in THRESHOLDS.items()}
    first = Conv("c1", (1, 28, 28), generator.integers(-127, 128, (16, 1, 5, 5)), neurons["c1"], (2, 2))
    second = Conv("c2", first.shape, generator.integers(-127, 128, (32, 16, 3, 3)), neurons["c2"], (2, 2))
    third = Dense("fc1", second.shape, generator.integers(-127, 128, (128, 800)), neurons["fc1"])
    last = Dense("fc2", (128,), generator.integers(-127, 128, (10, 128)), neurons["fc2"])
    return ChipNet((1, 28, 28), (first, second, third, last), Encoding("graded", 255.0, 0, 255), time_steps=4)


THRESHOLDS = {"c1": 30000, "c2": 500, "fc1": 1000, "fc2": 300}


def messages_of(net: ChipNet, samples: int, share: float) -> np.ndarray:
    """Random spikes, or images of which that share of pixels is not black, the same at each step."""
    generator = np.random.default_rng(1)
    if net.encoding.kind == "spikes":
        return (generator.random((samples, net.time_steps, *net.input_shape)) < share).astype(np.int32)
    image = generator.integers(1, 256, (samples, 1, *net.input_shape))
    lit = generator.random(image.shape) < share
    return np.repeat(image * lit, net.time_steps, axis=1).astype(np.int32)


def measure(net: ChipNet, share: float, samples: dict[str, int], runs: int) -> dict[str, Any]:
    """Samples per second by simulator, and spikes per neuron and step."""
    seconds: dict[str, list[float]] = {name: [] for name in samples}
    traces = None
    for run in range(runs + 1):
        for name, count in samples.items():
            if name == "lava" and run == 0:
                continue  # the first run warms caches and compiles; Lava does neither
            options = {"jobs": 1} if name == "lava" else {}
            found = simulator(name).run(net, messages_of(net, count, share), record=Record.readout(net), **options)
            if run:
                seconds[name].append(found.seconds)
            if name == "event":
                traces = found
    assert traces is not None
    neurons = sum(int(np.prod(layer.shape)) for layer in net.layers)
    activity = sum(traces.spike_counts.values()) / (samples["event"] * net.time_steps * neurons)
    rates = {
        name: {
            "median": round(samples[name] / statistics.median(values), 1),
            "min": round(samples[name] / max(values), 1),
            "max": round(samples[name] / min(values), 1),
            "samples": samples[name],
        }
        for name, values in seconds.items()
    }
    return {"input_activity": share, "neuron_activity": round(activity, 3), "samples_per_s": rates}


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-lava", action="store_true")
    arguments = parser.parse_args()
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    samples = {"event": 2000, "reference": 64, "lava": 16}
    if arguments.no_lava:
        del samples["lava"]
    results = {}
    cases = {f"mlp {share:.0%}": (mlp(share), share) for share in (0.1, 0.05, 0.02)} | {"conv 20%": (conv(), 0.2)}
    for name, (net, share) in cases.items():
        try:
            results[name] = measure(net, share, samples, arguments.runs)
        except LavaMissing as error:
            parser.exit(5, f"{error}; --no-lava leaves it out\n")
    if arguments.json:
        print(json.dumps({"machine": machine, "results": results}))
        return
    print(f"{machine['cores']} cores, load {machine['load']:.2f} at the start, {arguments.runs} runs")
    for name, result in results.items():
        rates = result["samples_per_s"]
        line = ", ".join(f"{k} {v['median']:,} ({v['min']:,} to {v['max']:,})" for k, v in rates.items())
        ratio = (
            f"; event is {rates['event']['median'] / rates['lava']['median']:,.0f} x Lava" if "lava" in rates else ""
        )
        print(f"{name}: neurons fire at {result['neuron_activity']:.1%} of steps; samples/s: {line}{ratio}")


if __name__ == "__main__":
    main()
