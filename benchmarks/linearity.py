"""Whether the event simulator's time grows in proportion to spikes, and to samples: fitted lines and a plot.

    python benchmarks/linearity.py [--json] [--plot benchmarks/linearity.png] [--runs 5]

The 784-512-10 network of ``simulators.py``, T = 32. Over spikes: 1000 samples of 1 % to 50 % input activity, on one
thread, time against synaptic operations. Over samples: 250 to 8000 samples of 5 %. Medians of runs that take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from simulators import messages_of, mlp  # noqa: TID251  # the script beside this one, not the package
from snn2chip.simulators import event
from snn2chip.traces import Traces

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
SAMPLES = (250, 500, 1000, 2000, 4000, 8000)


def medians(jobs: Sequence[Callable[[], Traces]], runs: int) -> tuple[list[float], list[Traces]]:
    """Seconds of each, and what it gave; the first turn is not counted."""
    seconds: list[list[float]] = [[] for _ in jobs]
    traces = [job() for job in jobs]
    for _ in range(runs):
        for job, values in zip(jobs, seconds, strict=True):
            values.append(job().seconds)
    return [statistics.median(values) for values in seconds], traces


def fitted(x: Sequence[float], y: Sequence[float]) -> dict[str, Any]:
    """Least squares line, and how far the points lie from it."""
    slope, start = np.polyfit(x, y, 1)
    line = slope * np.asarray(x) + start
    share = 1 - np.square(np.asarray(y) - line).sum() / np.square(np.asarray(y) - np.mean(y)).sum()
    return {"x": list(x), "seconds": list(y), "slope": float(slope), "start": float(start), "r2": float(share)}


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--plot", help="where to draw it (needs matplotlib)")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    net = mlp(0.1)

    def job(samples: int, share: float, threads: int) -> Callable[[], Traces]:
        messages = messages_of(net, samples, share)
        return lambda: event.run(net, messages, threads=threads)

    by_spikes, traces = medians([job(1000, share, 1) for share in SHARES], arguments.runs)
    by_samples, _ = medians([job(samples, 0.05, 0) for samples in SAMPLES], arguments.runs)
    operations = [float(trace.synaptic_operations) for trace in traces]
    results = {
        "load": load,
        "synaptic operations": fitted(operations, by_spikes),
        "samples": fitted([float(n) for n in SAMPLES], by_samples),
    }
    if arguments.plot:
        draw(results, arguments.plot)
    if arguments.json:
        print(json.dumps(results))
        return
    print(f"load {load:.2f} at the start")
    for what in ("synaptic operations", "samples"):
        fit = results[what]
        assert isinstance(fit, dict)
        print(f"seconds = {fit['slope']:.3g} x {what} + {fit['start']:.3g}; R2 {fit['r2']:.4f}")


def draw(results: dict[str, Any], path: str) -> None:
    """Both lines with their points."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for panel, what in zip(panels, ("synaptic operations", "samples"), strict=True):
        fit = results[what]
        x = np.linspace(0, max(fit["x"]), 2)
        panel.plot(fit["x"], fit["seconds"], "o", label="measured (median)")
        panel.plot(x, fit["slope"] * x + fit["start"], "-", label=f"line, R2 = {fit['r2']:.4f}")
        panel.set(xlabel=what, ylabel="seconds", xlim=(0, None), ylim=(0, None))
        panel.legend()
    figure.suptitle("Event simulator, 784-512-10, T = 32")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
