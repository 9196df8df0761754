"""Tasks of the cluster tests, which workers import by name; run as a script, a client that can be killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.errors import InputError, LimitError, Snn2chipError


@dataclass(frozen=True)
class Job:
    """What a task does beside leaving a marker in ``folder`` each time that it starts.

    Attributes:
        number: its own.
        folder: where markers go.
        seconds: that it takes.
        kills: how many of its attempts end the process that runs it.
        fails: whether it raises an error.
        waits: for this file, if any.
    """

    number: int
    folder: Path
    seconds: float = 0.0
    kills: int = 0
    fails: bool = False
    waits: Path | None = None


def square(job: Job) -> dict[str, Any]:
    (job.folder / f"{job.number}-{os.getpid()}-{time.monotonic_ns()}").touch()
    if starts(job.folder)[job.number] <= job.kills:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(job.seconds)
    while job.waits and not job.waits.exists():
        time.sleep(0.02)
    if job.fails and job.number % 2:
        raise InputError(f"task {job.number} has no input")
    if job.fails:
        raise LimitError(f"task {job.number}", "weight", 300, 127, "take a smaller one")
    return {"square": job.number**2, "row": np.arange(job.number), "pair": (job.number, job.number / 3)}


def starts(folder: Path) -> dict[int, int]:
    """How often each task began."""
    numbers = [int(path.name.split("-")[0]) for path in folder.iterdir()]
    return {number: numbers.count(number) for number in sorted(set(numbers))}


def variables(job: Job) -> dict[str, str | None]:
    return {name: os.environ.get(name) for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}


def main(where: str, markers: str, journal: str, first: str, gate: str) -> None:
    import cluster_tasks  # a worker knows no __main__

    from snn2chip.cluster import places, run

    places.CONNECT_SECONDS = 3
    waits = [None if i < int(first) else Path(gate) for i in range(8)]
    tasks = [cluster_tasks.Job(i, Path(markers), waits=file) for i, file in enumerate(waits)]
    workers = 2 if where == "local" else None
    try:
        results = run(cluster_tasks.square, tasks, where, workers=workers, journal=Path(journal))
    except Snn2chipError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{sum(result['square'] for result in results)}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
