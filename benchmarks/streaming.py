"""A data set larger than memory allows: samples per second, peak memory, and whether time grows in proportion.

    python benchmarks/streaming.py [--json] [--samples 1000000] [--folder /tmp]

Writes random spikes for a 784-512-10 network with 4 steps as a folder of ``.npy`` (3.1 GB for a million samples,
removed at the end) and lets ``snn2chip simulate`` run over an eighth of it, a quarter, a half and all of it, each in a
process of its own that writes its results to a folder. The peak is what the kernel notes for that process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import snn2chip as s2c
from snn2chip.chip import ChipNet, Dense, Neuron

SHARD = 50_000
STEPS = 4
COMMAND = """
import atexit, re, sys
from pathlib import Path
from snn2chip.cli import main
status = Path("/proc/self/status")
atexit.register(lambda: print(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1], file=sys.stderr))
main()
"""


def network() -> ChipNet:
    """784-512-10 with random weights; about a tenth of the neurons fire."""
    generator = np.random.default_rng(0)
    hidden = Dense("fc1", (784,), generator.integers(-40, 41, (512, 784)), Neuron.of("fc1", 290, 4096, 2048))
    out = Dense("fc2", (512,), generator.integers(-40, 41, (10, 512)), Neuron.of("fc2", 230, 4096, 2048))
    return ChipNet((784,), (hidden, out), time_steps=STEPS)


def write(folder: Path, samples: int) -> None:
    """Spikes in a tenth of all places, and classes."""
    generator = np.random.default_rng(1)
    for first in range(0, samples, SHARD):
        count = min(SHARD, samples - first)
        x = generator.integers(0, 256, (count, STEPS, 784), np.uint8) < 26
        np.save(folder / f"x-{first // SHARD:03d}.npy", x.view(np.uint8))
    np.save(folder / "y.npy", np.arange(samples) % 10)


def measure(net: Path, data: Path, samples: int, out: Path) -> dict[str, Any]:
    """One run of the command."""
    began = time.perf_counter()
    arguments = ["simulate", str(net), str(data), "--samples", str(samples), "-o", str(out), "--json"]
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds = time.perf_counter() - began
    found = json.loads(done.stdout)
    shutil.rmtree(out)
    return {
        "samples": samples,
        "seconds": round(seconds, 2),
        "simulation_seconds": round(found["seconds"], 2),
        "samples_per_s": round(samples / seconds),
        "peak_mib": round(int(done.stderr.split()[-1]) / 1024),
        "spikes": found["spikes"],
    }


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where there is room [default: the temporary folder]")
    arguments = parser.parse_args()
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "python": platform.python_version()}
    with tempfile.TemporaryDirectory(prefix="snn2chip-streaming-", dir=arguments.folder) as name:
        folder = Path(name)
        (folder / "data").mkdir()
        write(folder / "data", arguments.samples)
        s2c.export(network(), folder / "model.net")
        sizes = [arguments.samples // part for part in (8, 4, 2, 1)]
        measure(folder / "model.net", folder / "data", min(1000, sizes[0]), folder / "out")  # compiles the kernels
        runs = [measure(folder / "model.net", folder / "data", size, folder / "out") for size in sizes]
    seconds = np.array([run["seconds"] for run in runs])
    slope, start = np.polyfit(sizes, seconds, 1)
    largest = float(np.abs(slope * np.array(sizes) + start - seconds).max() / seconds[-1])
    fit = {
        "microseconds_per_sample": round(1e6 * slope, 2),
        "start_seconds": round(start, 2),
        "largest_deviation": round(largest, 4),
        "peak_growth": round(runs[-1]["peak_mib"] / runs[0]["peak_mib"], 3),
    }
    if arguments.json:
        print(json.dumps({"machine": machine, "runs": runs, "fit": fit}))
        return
    print(f"{machine['cores']} cores, load {machine['load']:.2f} at the start")
    for run in runs:
        print("{samples:>9,} samples: {seconds:7.2f} s, {samples_per_s:>7,} samples/s, {peak_mib:,} MiB".format(**run))
    print(
        f"{fit['microseconds_per_sample']} us per sample and {fit['start_seconds']} s to start, "
        f"{fit['largest_deviation']:.1%} off a line at most"
    )


if __name__ == "__main__":
    main()
