"""Every training method from data to a proven NetX file: train, export, verify.

    python examples/train_methods.py                             # all methods on scikit-learn's digits
    python examples/train_methods.py tet str --data saccades     # on synthetic events
    python examples/train_methods.py s2nn --epochs 30 --model mlp:256

Prints a line of JSON for each: accuracy of the trained network and of the chip on the test samples, and how many spikes
differ between our event simulator and Lava (or, where Lava is not installed, our reference).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import snn2chip as s2c
from snn2chip import training
from snn2chip.prove import prove
from snn2chip.training.deploy import save_trained


def deployed(
    method: str, data: training.TrainingData, options: training.Options, seed: int, folder: Path, samples: int
) -> dict[str, Any]:
    """Train by ``method``, write ``METHOD.pt`` and ``METHOD.net`` to ``folder``, compare what the latter computes."""
    assert data.test is not None
    plan = training.plan_of(method, data, options)
    trained = training.train(plan, data, training.Settings(seed=seed))
    assert trained.test is not None
    model, net_file = folder / f"{method}.pt", folder / f"{method}.net"
    save_trained(trained.network, data, model, options.time_steps)
    s2c.export(s2c.convert(model), net_file, force=True)
    net = s2c.read(net_file)
    x, y = data.test.numpy()
    proof = prove(net, x[:samples])
    return {
        "method": method,
        "time_steps": net.time_steps,
        "float_accuracy": trained.test.accuracy[-1],
        "chip_accuracy": s2c.simulate(net, x, y).accuracy,
        "spikes_per_neuron_and_step": round(trained.test.spike_rate, 4),
        "compared_with": proof.against,
        "compared_samples": proof.result.samples,
        "differing_spikes": sum(proof.result.differing_spikes.values()),
        "differing_states": sum(proof.result.differing_states.values()),
        "file": str(net_file),
    }


def main() -> None:
    """Train, export and verify; print a line of JSON for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(training.METHODS))
    parser.add_argument("--data", default="digits")
    parser.add_argument("--model", default="mlp:64")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--time-steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=8, help="compared with Lava")
    parser.add_argument("--folder", type=Path, default=Path("demo/methods"))
    arguments = parser.parse_args()
    data = training.load(arguments.data, time_steps=arguments.time_steps or 10)
    static = ("noise", "s2nn", "ltl", "convert")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for method in arguments.methods or [m for m in training.METHODS if data.static or m not in static]:
        steps = data.time_steps or arguments.time_steps or training.METHODS[method].time_steps
        options = training.Options(model=arguments.model, epochs=arguments.epochs, time_steps=steps)
        print(
            json.dumps(deployed(method, data, options, arguments.seed, arguments.folder, arguments.samples)), flush=True
        )


if __name__ == "__main__":
    main()
