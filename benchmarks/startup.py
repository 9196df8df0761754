"""How long the command takes to answer, and to export: medians of repeated runs, each in a process of its own.

    python benchmarks/startup.py [--json] [--repeats 5] [--model mnist.pt]

``help`` is ``snn2chip --help``; ``export`` is ``snn2chip export --no-verify`` of the convolutional MNIST network of
``examples/mnist.py`` with 1024 calibration samples stored in the model, or of the model that is named. Without one, its
weights and samples are random: what is computed has the same sizes. Seconds are those on the clock; ``cpu`` is user and
system time, which says more on a machine that does other things too. Kernels are compiled once before, as in daily use.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import snn2chip as s2c

LIMITS = {"help": 0.5, "export": 5.0}  # seconds


def measured(command: list[str], repeats: int) -> dict[str, float]:
    """Medians of seconds and of processor seconds."""
    seconds, cpu = [], []
    for _ in range(repeats):
        before, began = os.times(), time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        seconds.append(time.perf_counter() - began)
        after = os.times()
        cpu.append(after.children_user - before.children_user + after.children_system - before.children_system)
    return {"seconds": statistics.median(seconds), "cpu": statistics.median(cpu), "slowest": max(seconds)}


def random_model(path: Path) -> None:
    """The network with random weights, its batch norms fitted to random samples."""
    torch.manual_seed(0)
    x = np.random.default_rng(0).random((1024, 1, 28, 28)).astype(np.float32)
    network = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "mnist.py"))["conv_net"]()
    network.train()
    for part in torch.split(torch.from_numpy(x), 128):
        network(part)  # batch norm takes its means from the samples
    s2c.save(network.eval(), path, calibration=(x, np.arange(1024) % 10))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "snn2chip"]
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or Path(folder, "model.pt")
        if arguments.model is None:
            random_model(model)
        export = [*command, "export", str(model), "-o", str(Path(folder, "out.net")), "--no-verify", "--force"]
        measured(export, 1)
        found = {
            "help": measured([*command, "--help"], arguments.repeats),
            "export": measured(export, arguments.repeats),
        }
    if arguments.json:
        print(json.dumps({"python": platform.python_version(), "repeats": arguments.repeats, **found}))
        return
    for name, row in found.items():
        print(
            f"{name:<7} {row['seconds']:.2f} s (slowest {row['slowest']:.2f}), {row['cpu']:.2f} s of processor time; "
            f"limit {LIMITS[name]} s"
        )


if __name__ == "__main__":
    main()
