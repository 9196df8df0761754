"""``snn2chip simulate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.chip import ChipNet
from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.progress import bar
from snn2chip.data import open_data
from snn2chip.early_exit import LEVELS, Level, simulate_exit_data
from snn2chip.errors import UsageError
from snn2chip.formats import read
from snn2chip.long_runs import simulate_data
from snn2chip.traces import Mode, Record

EPILOG = """\b
Results (-o FILE.npz, or -o FOLDER with one .npy for each; docs/results.md):
  predictions, scores                      of each sample
  spikes_per_step, operations_per_step     of each layer and step, over all samples
  spikes, u, v                             of each sample, step and neuron, for --record

A FOLDER is written while the run goes on. If the run is killed, the same command continues it.

\b
Examples:
  snn2chip simulate model.net test.npz
  snn2chip simulate model.net folder/ -o results/
  snn2chip simulate model.net data.h5 --samples 1000 -o spikes.npz --record all
"""


def mode_of(windowed: bool, streaming: bool) -> Mode:
    """The mode that two flags ask for."""
    if windowed and streaming:
        raise UsageError("--windowed and --streaming exclude each other")
    return "windowed" if windowed else "streaming" if streaming else "isolated"


@click.command("simulate", epilog=EPILOG)
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    help="event, dense, auto (the faster of both, or what knows the network), reference or lava.",
)
@click.option("--samples", type=click.IntRange(1), help="Only the first N samples.")
@click.option(
    "--windowed", is_flag=True, help="Samples follow one another as on the chip; spikes in flight cross a reset."
)
@click.option("--streaming", is_flag=True, help="Samples follow one another and nothing is reset.")
@click.option(
    "--exit",
    "level",
    type=click.Choice(LEVELS),
    is_flag=False,
    flag_value="decision",
    help="Decide early, as the network's exit says: read the decision [default], gate, or end the window.",
)
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Where to write results, see below.")
@click.option(
    "--record", "layers", multiple=True, help="Also write spikes, u and v of this layer (or: all); repeatable."
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
@common
def command(
    net: Path,
    data: Path,
    backend: str,
    samples: int | None,
    windowed: bool,
    streaming: bool,
    level: Any,
    target: Path | None,
    layers: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Run NET on DATA: x and, for the accuracy, y.

    DATA is an .npz, a folder of .npy (x.npy, or x-000.npy, x-001.npy ...; y likewise), or HDF5; the last two may be
    larger than memory.
    """
    mode = mode_of(windowed, streaming)
    if target is None and layers:
        raise UsageError("--record needs --output")
    network = read(net)
    if level is not None:
        if target is not None or layers or mode != "isolated":
            raise UsageError("--exit: samples are isolated, and nothing is written or recorded")
        _simulate_exit(network, data, level, "event" if backend == "auto" else backend, samples, as_json)
        return
    names = [layer.name for layer in network.layers]
    unknown = set(layers) - {*names, "all"}
    if unknown:
        raise UsageError(f"--record: no layer {', '.join(sorted(unknown))}; have {', '.join(names)}")
    kept = names if "all" in layers else layers
    with bar(as_json) as tell:
        result = simulate_data(
            network,
            open_data(data),
            backend,
            mode,
            Record.of(kept, kept),
            samples=samples,
            target=target,
            force=force,
            progress=tell,
        )
    simulated = result.samples - result.resumed_at
    rate = simulated / result.seconds if result.seconds > 0 else None
    if as_json:
        print_json(
            {
                "backend": result.backend,
                "mode": mode,
                "samples": result.samples,
                "resumed_at": result.resumed_at,
                "time_steps": network.time_steps,
                "seconds": result.seconds,
                "overhead_seconds": result.overhead_seconds,
                "samples_per_s": rate,
                "accuracy": result.accuracy,
                "spikes": result.spike_counts,
                "synaptic_operations": result.synaptic_operations,
            }
        )
        return
    output.table(
        ("layer", "spikes", "spikes per neuron and sample"),
        [
            (name, count, f"{count / result.samples / np.prod(layer.shape):.3f}")
            for layer, (name, count) in zip(network.layers, result.spike_counts.items(), strict=True)
        ],
    )
    accuracy = "" if result.accuracy is None else f", accuracy {output.percent(result.accuracy)}"
    if result.resumed_at:
        output.out().print(f"continued at sample {result.resumed_at:,}", markup=False)
    output.out().print(
        f"{simulated:,} samples x {network.time_steps} steps in {result.seconds:.3f} s ({rate or 0:,.0f} samples/s, "
        f"{result.backend}, {mode}), {result.synaptic_operations:,} synaptic operations{accuracy}",
        markup=False,
    )
    if target is not None:
        output.out().print(f"wrote {target}", markup=False)


def _simulate_exit(net: ChipNet, path: Path, level: Level, backend: str, samples: int | None, as_json: bool) -> None:
    """Run to the decisions and print them."""
    run = simulate_exit_data(net, open_data(path), level, backend, samples)
    took, count = run.latency, len(run.decisions.step)
    cut, chip = took.speed_up
    exited = float(run.decisions.exited.mean())
    if as_json:
        print_json(
            {
                "backend": backend,
                "level": level,
                "samples": count,
                "time_steps": net.time_steps,
                "seconds": run.seconds,
                "overhead_seconds": run.overhead_seconds,
                "accuracy": run.accuracy,
                "accuracy_full": run.accuracy_full,
                "exited": exited,
                "mean_steps": float(took.cutoff.mean()),
                "mean_latency_steps": float(took.chip.mean()),
                "full_steps": took.full_cutoff,
                "full_latency_steps": took.full_chip,
                "speed_up": {"cutoff": cut, "latency": chip},
                "computed_steps": run.computed_steps,
            }
        )
        return
    accuracy = "" if run.accuracy is None else f", accuracy {output.percent(run.accuracy)}"
    if run.accuracy_full is not None:
        accuracy += f" (full window {output.percent(run.accuracy_full)})"
    output.out().print(
        f"{count:,} samples in {run.seconds:.3f} s ({level}, {backend}): cutoff after {took.cutoff.mean():.2f} of "
        f"{took.full_cutoff} steps ({cut:.2f}x), answer after {took.chip.mean():.2f} of {took.full_chip} "
        f"({chip:.2f}x), "
        f"{1 - exited:.1%} never confident{accuracy}",
        markup=False,
    )
