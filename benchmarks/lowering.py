"""What exact lowering is worth: soft reset as trained against soft reset taken for hard reset, and held input.

    python benchmarks/lowering.py [--json] [--seeds 5]

Digits (scikit-learn), 64-64-32-10, T = 8, trained with reset by subtraction. ``exact`` deploys it as it is, by
self-inhibition; ``naive`` takes the reset for a reset to zero, as exporters do that lose the reset's kind. Both get 8
bits and the same search. Intervals are 95 % of the mean over seeds (Student's t).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from snn2chip.compiler import compile_model
from snn2chip.graph import Neuron
from snn2chip.model_file import Model, model_of
from snn2chip.nn import LIF, Network, Readout
from snn2chip.simulation import simulate
from snn2chip.traces import Record, encode

STEPS, EPOCHS, TRAIN = 8, 15, 1300
T_95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}  # by number of seeds


def data(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images and classes to train with, and to test with."""
    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.target))
    x, y = torch.tensor(digits.data[order] / 16, dtype=torch.float32), torch.tensor(digits.target[order])
    return x[:TRAIN], y[:TRAIN], x[TRAIN:], y[TRAIN:]


def trained(seed: int, beta: float, reset: Any) -> tuple[Network, tuple[torch.Tensor, ...]]:
    """A network and its data."""
    torch.manual_seed(seed)
    x, y, test_x, test_y = data(seed)
    net = Network(
        *(nn.Linear(64, 64), LIF(beta, reset=reset), nn.Linear(64, 32), LIF(beta, reset=reset), Readout(32, 10)),
        input_shape=(64,),
        time_steps=STEPS,
    )
    optimiser = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(EPOCHS):
        for i in range(0, len(x), 64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(2 * net(x[i : i + 64]), y[i : i + 64]).backward()
            optimiser.step()
    return net.eval(), (x, y, test_x, test_y)


def as_hard_reset(model: Model) -> Model:
    """The same weights, the reset taken for a reset to zero."""
    nodes = tuple(dataclasses.replace(n, reset="zero") if isinstance(n, Neuron) else n for n in model.graph.nodes)
    return dataclasses.replace(model, graph=dataclasses.replace(model.graph, nodes=nodes))


def soft_reset(seed: int, beta: float) -> dict[str, float]:
    """Accuracies on the test images."""
    net, (x, y, test_x, test_y) = trained(seed, beta, "subtract")
    with torch.no_grad():
        accuracy = float((net(test_x).argmax(1) == test_y).float().mean())
    model = model_of(net, calibration=(x[:256], y[:256]))
    found = {"float": accuracy}
    for name, source in (("exact", model), ("naive", as_hard_reset(model))):
        result = simulate(compile_model(source).net, test_x.numpy(), test_y.numpy())
        assert result.accuracy is not None  # classes are given
        found[name] = result.accuracy
    return found


def held_input(seed: int) -> dict[str, Any]:
    """Messages of the input, sent at each step and held."""
    net, (x, y, test_x, _) = trained(seed, 0.5, "zero")
    model = model_of(net, calibration=(x[:256], y[:256]))
    out: dict[str, Any] = {}
    traces = {}
    for kind in ("graded", "hold"):
        chip = compile_model(model, scales="max", analog_input=kind).net
        simulated = simulate(chip, test_x.numpy(), record=Record.of(spikes=[layer.name for layer in chip.layers]))
        traces[kind] = simulated.traces.spikes
        out[f"{kind} messages"] = int(np.count_nonzero(encode(chip, test_x.numpy())))
        out[f"{kind} synaptic operations"] = int(simulated.traces.synaptic_operations)
    out["differing spikes"] = sum(
        int((traces["graded"][name] != traces["hold"][name]).sum()) for name in traces["hold"]
    )
    return out


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half of its 95 % interval, in points."""
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    half = T_95.get(len(values), 1.96) * spread / len(values) ** 0.5
    return round(100 * statistics.mean(values), 2), round(100 * half, 2)


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}
    for beta in (1.0, 0.9, 0.5):
        runs = [soft_reset(seed, beta) for seed in range(arguments.seeds)]
        row = {name: interval([run[name] for run in runs]) for name in runs[0]}
        row["exact - naive"] = interval([run["exact"] - run["naive"] for run in runs])
        results[f"soft reset, beta {beta}"] = row
    results["held input"] = held_input(0)
    if arguments.json:
        print(json.dumps(results))
        return
    for name, row in results.items():
        print(name)
        for what, value in row.items():
            print(f"  {what:28} {value}" if isinstance(value, int) else f"  {what:28} {value[0]} +- {value[1]} %")


if __name__ == "__main__":
    main()
