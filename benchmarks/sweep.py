"""A sweep of 100 configurations over MNIST: how long it takes, and what a second worker saves.

    python benchmarks/sweep.py mnist.npz [--repeats 3] [--small] [--json] [--keep FOLDER]

The conv net of ``examples/mnist.py``, all 10 000 test images. Widths, scales for each neuron, thresholds, time steps
and cutoffs; eleven quantisations, twelve networks. Runs with one and with two local workers take turns; seconds are
those of the whole command, with starting Python and the workers, writing results and plots. Results of all runs, and of
one in a single process, have to be the same bytes.

Cutoffs are chosen on training images, which the network has seen: enough to measure a sweep, not to judge an exit
(``benchmarks/early_exit.py`` does). ``--small`` is for trying the script.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from quantisation import CACHE, mnist, trained

import snn2chip as s2c

CALIBRATION = 6000
FILES = ("results.csv", "sweep.json", "pareto.png", "pareto.svg")

SWEEP = """\
model: model.pt
data: test.npz
grid:
  bits: [8, 4, 3, 2]
  per_neuron: [false, true]
  cutoff:
    - none
    - {policy: margin, max_drop: [0.5, 1, 2]}
    - {policy: threshold, max_drop: [1, 2]}
    - {policy: softmax, eps: [0.01, 0.05]}
    - {policy: patience, threshold: [2, 3], form: [run, host], level: decision}
configurations:
  - {bits: {"*": 2, "0 (Conv2d)": 8}}
  - {bits: {"*": 2, "0 (Conv2d)": 8, "10 (Readout)": 8}}
  - {thresholds: 1.1}
  - {time_steps: 2}
"""
SMALL = """\
model: model.pt
data: test.npz
samples: 500
grid:
  bits: [8, 7]
  cutoff: [none, {policy: margin, max_drop: 5}]
"""


def prepared(data: Path, small: bool, folder: Path) -> Path:
    """The sweep's file, beside the model and the data."""
    x, y, test_x, test_y = mnist(data)
    network = trained(0, x, y)
    s2c.save(network, folder / "model.pt", calibration=(x[:CALIBRATION], y[:CALIBRATION]))
    np.savez(folder / "test.npz", x=test_x, y=test_y)
    file = folder / "sweep.yaml"
    file.write_text(SMALL if small else SWEEP)
    return file


def swept(file: Path, workers: int | None) -> tuple[float, dict[str, bytes], dict[str, Any]]:
    """Seconds, the files that came out, and what the command said; no workers: in one process."""
    out = file.with_name("out")
    shutil.rmtree(out, ignore_errors=True)
    where = [] if workers is None else ["--cluster", "local", "--workers", str(workers)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "snn2chip", "sweep", str(file), "-o", str(out), "--json", *where]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds = time.perf_counter() - began
    return seconds, {name: (out / name).read_bytes() for name in FILES}, json.loads(said.stdout)


def measured(file: Path, repeats: int) -> dict[str, Any]:
    """Both numbers of workers in turns."""
    _, expected, said = swept(file, None)
    seconds: dict[int, list[float]] = {1: [], 2: []}
    differing: list[str] = []
    for turn in range(repeats):
        for workers in (1, 2) if turn % 2 == 0 else (2, 1):
            took, found, _ = swept(file, workers)
            seconds[workers].append(took)
            differing += [f"{workers} workers: {name}" for name in FILES if found[name] != expected[name]]
    ratios = [one / two for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "configurations": said["configurations"],
        "failed": said["failed"],
        "samples": said["samples"],
        "load_at_the_end": round(os.getloadavg()[0], 1),
        "seconds": {workers: [round(took, 1) for took in runs] for workers, runs in seconds.items()},
        "median_seconds": {workers: round(statistics.median(runs), 1) for workers, runs in seconds.items()},
        "speed_up": [round(ratio, 2) for ratio in ratios],
        "median_speed_up": round(statistics.median(ratios), 2),
        "differing_files": differing,
        "pareto": [(row["configuration"], row["accuracy"], row["energy"], row["cores"]) for row in said["pareto"]],
    }


def main() -> None:
    """Print what it came to; exit code 1 where results differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, help="copy the last results there")
    arguments = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        file = prepared(arguments.data, arguments.small, Path(name))
        found = measured(file, arguments.repeats)
        if arguments.keep is not None:
            shutil.copytree(file.with_name("out"), arguments.keep)
    if arguments.json:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {value}")
    sys.exit(1 if found["differing_files"] else 0)


if __name__ == "__main__":
    main()
