"""What a cluster costs and gains: overhead of a task, and shards of MNIST on one and two local workers.

    python benchmarks/cluster.py [mnist.npz] [--copies 4] [--runs 3] [--tasks 2000]

Prints one JSON object. ``overhead`` is of tasks that do nothing, client, scheduler and workers on this machine: what
one more costs while others wait. ``simulate`` are the test images of an ``.npz`` with ``test_images [N, 28, 28]``, as
spikes where a pixel is above half, repeated ``--copies`` times, through the 784-512-10 network of ``simulators.py``
(random weights: what is measured is time), T = 32, predictions written to a folder; medians, all clusters standing and
warm, one thread each. The results are compared byte by byte. ``projection`` is the arithmetic of ``docs/cluster.md``
with these figures. On fewer idle cores than workers the figures mean nothing: ``load`` says what else ran.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import snn2chip as s2c
from simulators import mlp  # noqa: TID251  # the script beside this one, not the package
from snn2chip.cluster import connect, run
from snn2chip.cluster.shards import On, shard_size, simulate_shards
from snn2chip.data import open_data
from snn2chip.long_runs import simulate_data


@dataclass(frozen=True)
class Task:
    """Nothing to do."""

    number: int


def nothing(task: Task) -> dict[str, int]:
    """The result of nothing."""
    return {"number": task.number}


def overhead(tasks: int, workers: int, kept: bool) -> dict[str, float]:
    """Seconds for each task: as time passes, and of the processor in client and scheduler."""
    with connect("local", workers) as place, tempfile.TemporaryDirectory() as folder:
        run(nothing, [Task(-i) for i in range(1, 50)], place)
        began, used = time.perf_counter(), time.process_time()
        journal = Path(folder) / "journal" if kept else None
        run(nothing, [Task(i) for i in range(tasks)], place, journal=journal)
        return {
            "seconds": (time.perf_counter() - began) / tasks,
            "client_and_scheduler_seconds": (time.process_time() - used) / tasks,
        }


def simulated(mnist: Path, copies: int, runs: int) -> dict[str, Any]:
    """Seconds of one process and of one and two workers, and whether they write the same."""
    with np.load(mnist) as arrays:
        x, y = arrays["test_images"].reshape(-1, 784) > 127, arrays["test_labels"].astype(np.int64)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "data").mkdir()
        for name, array in {"x": np.tile(x, (copies, 1)), "y": np.tile(y, copies)}.items():
            np.save(folder / "data" / f"{name}.npy", array)
        s2c.export(mlp(0.1), folder / "model.net")
        net, data = folder / "model.net", folder / "data"
        network = s2c.read(net)
        places = {f"{n} workers": stack.enter_context(connect("local", n)) for n in (1, 2)}

        def one_process(target: Path) -> float:
            began = time.perf_counter()
            simulate_data(network, open_data(data), "event", target=target, force=True, threads=1)
            return time.perf_counter() - began

        def there(name: str) -> Callable[[Path], float]:
            def job(target: Path) -> float:
                began = time.perf_counter()
                on = On.of(places[name], None, None, target)
                simulate_shards(net, data, on, "event", target=target, force=True)
                return time.perf_counter() - began

            return job

        jobs = {"one process": one_process, **{name: there(name) for name in places}}
        seconds: dict[str, list[float]] = {name: [] for name in jobs}
        for turn in range(runs + 1):
            for name, job in jobs.items():
                taken = job(folder / name)
                if turn:  # the first loads and compiles
                    seconds[name].append(taken)
        files = {name: {f.name: f.read_bytes() for f in (folder / name).iterdir()} for name in jobs}
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        return {
            "samples": len(x) * copies,
            "seconds": medians,
            "all": seconds,
            "two_over_one": medians["1 workers"] / medians["2 workers"],
            "one_process_over_one_worker": medians["one process"] / medians["1 workers"],
            "same_bytes": all(content == files["one process"] for content in files.values()),
            "samples_per_s_and_worker": len(x) * copies / medians["1 workers"],
        }


def projection(task_seconds: float, rate: float, workers: int = 1000, samples: int = 10**9) -> dict[str, float]:
    """Seconds that workers and scheduler need, each alone; the run takes the larger one at least."""
    size = shard_size(samples)
    tasks = samples / size
    return {
        "workers": workers,
        "samples": float(samples),
        "samples_of_a_shard": size,
        "tasks": tasks,
        "compute_seconds": samples / (workers * rate),
        "scheduler_seconds": tasks * task_seconds,
        "shard_seconds": size / rate,
        "workers_that_one_scheduler_feeds": size / rate / task_seconds,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path, nargs="?")
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=2000)
    arguments = parser.parse_args()
    results: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count()}
    results["overhead"] = {
        f"{workers} workers{', journal' if kept else ''}": overhead(arguments.tasks, workers, kept)
        for workers in (1, 2)
        for kept in (False, True)
    }
    if arguments.mnist is not None:
        results["simulate"] = simulated(arguments.mnist, arguments.copies, arguments.runs)
        results["projection"] = projection(
            results["overhead"]["2 workers"]["client_and_scheduler_seconds"],
            results["simulate"]["samples_per_s_and_worker"],
        )
    print(json.dumps(results))


if __name__ == "__main__":
    main()
