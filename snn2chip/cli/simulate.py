"""``snn2chip simulate``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.cli import clustering, options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.choices import LEVELS
from snn2chip.cli.progress import bar
from snn2chip.errors import UsageError
from snn2chip.files import check_apart
from snn2chip.formats import read
from snn2chip.names import suggestion
from snn2chip.traces import Mode, Record

if TYPE_CHECKING:
    from snn2chip.cluster.shards import On
    from snn2chip.data import Rows
    from snn2chip.early_exit import Level

Array = npt.NDArray[Any]

EPILOG = """
Results (-o FILE.npz, or -o FOLDER with one .npy for each):
  predictions, scores                     of each sample
  spikes_per_step, operations_per_step    of each layer and step, all samples
  spikes, u, v                            of each sample, step and neuron, for
                                          --record (docs/results.md)

A FOLDER is written while the run goes on. If the run is killed, the same
command continues it.

Examples:
  snn2chip simulate model.net test.npz
  snn2chip simulate model.net folder/ -o results/
  snn2chip simulate model.net data.h5 --samples 1000 -o out.npz --record all
  snn2chip simulate exit.net test.npz --exit stopped
"""


def mode_of(windowed: bool, streaming: bool) -> Mode:
    """The mode that two flags ask for."""
    if windowed and streaming:
        raise UsageError("--windowed and --streaming exclude each other")
    return "windowed" if windowed else "streaming" if streaming else "isolated"


@options.command(
    "simulate",
    EPILOG,
    {"Time": ("windowed", "streaming", "level"), "Results": ("target", "layers", "force"), **clustering.SECTION},
)
@options.net_argument()
@options.data_argument("Samples x and, for the accuracy, classes y.")
@options.backend_option("--backend", "auto", "Simulator: event, dense, auto (the faster of both), reference or lava.")
@options.samples_option()
@options.mode_options
@click.option(
    "--exit",
    "level",
    type=options.Name(LEVELS),
    is_flag=False,
    flag_value="decision",
    help="Decide early, as the network's exit says: read the decision (where no level is named), gate hidden layers, "
    "or end the window.",
)
@options.output_option(options.File(".npz"), "File or folder for the results, see below.", "FILE|FOLDER")
@click.option(
    "--record",
    "layers",
    multiple=True,
    type=options.LayerName(),
    metavar="LAYER",
    help="Also write spikes, u and v of this layer, or of all; repeatable.",
)
@options.force_option()
@click.option(
    "--device", type=options.Name(("cpu", "cuda")), help="Of the dense simulator.  [default: cpu]", metavar="NAME"
)
@clustering.cluster_options
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
    device: str | None,
    cluster: str | None,
    workers: int | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Run NET on DATA: accuracy, spikes and synaptic operations of every layer.

    A folder of DATA holds x.npy, or x-000.npy, x-001.npy ..., and y likewise. Folders and HDF5 may be larger than
    memory.
    """

    from snn2chip.data import open_data
    from snn2chip.long_runs import simulate_data

    mode = mode_of(windowed, streaming)
    if target is None and layers:
        raise UsageError("--record: needs --output, a file or folder for what is recorded")
    if device is not None and backend != "dense":
        raise UsageError(f"--device {device}: needs --backend dense")
    if target is not None:
        check_apart(target, net, data)
    on = clustering.chosen(cluster, workers, journal, target, mode)
    network = read(net)
    if level is not None:
        if target is not None or layers or mode != "isolated":
            raise UsageError("--exit: samples are isolated, and nothing is written or recorded")
        if device is not None:
            raise UsageError("--device: not with --exit")
        _simulate_exit(net, network, data, level, "event" if backend == "auto" else backend, samples, on, as_json)
        return
    names = [layer.name for layer in network.layers]
    unknown = sorted(set(layers) - {*names, "all"})
    if unknown:
        raise UsageError(f"--record: no layer {', '.join(unknown)}{suggestion(unknown[0], names)}")
    kept = names if "all" in layers else layers
    record = Record.of(kept, kept)
    place: dict[str, Any] = {} if device is None else {"device": device}
    with bar(as_json) as tell:
        if on is None:
            result = simulate_data(
                network,
                open_data(data),
                backend,
                mode,
                record,
                samples=samples,
                target=target,
                force=force,
                progress=tell,
                **place,
            )
        else:
            from snn2chip.cluster.shards import simulate_shards

            result = simulate_shards(
                net,
                data,
                on,
                backend,
                record,
                samples=samples,
                target=target,
                force=force,
                device=device,
                progress=tell,
            )
    simulated = result.samples - result.resumed_at
    rate = simulated / result.seconds if result.seconds > 0 else None
    if as_json:
        print_json(
            {
                "backend": result.backend,
                "mode": mode,
                "cluster": cluster,
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


class _Told:
    """Rows that tell how many were read before."""

    def __init__(self, rows: Rows, tell: Callable[[int], None]) -> None:
        self.shape, self.dtype = rows.shape, rows.dtype
        self._rows, self._tell = rows, tell

    def read(self, first: int, last: int) -> Array:
        """As of :class:`snn2chip.data.Rows`."""
        self._tell(first)
        return self._rows.read(first, last)


def _simulate_exit(
    file: Path,
    net: ChipNet,
    path: Path,
    level: Level,
    backend: str,
    samples: int | None,
    on: On | None,
    as_json: bool,
) -> None:
    """Run to the decisions and print them."""

    from snn2chip.data import open_data
    from snn2chip.early_exit import simulate_exit_data

    data = open_data(path)
    total = len(data) if samples is None else min(samples, len(data))
    with bar(as_json) as tell:
        if on is None:
            told = replace(data, x=_Told(data.x, lambda done: tell("simulating", done, total)))
            run = simulate_exit_data(net, told, level, backend, samples)
        else:
            from snn2chip.cluster.shards import simulate_exit_shards

            run = simulate_exit_shards(file, path, on, level, backend, samples=samples, progress=tell)
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
        f"{100 * (1 - exited):.1f} % never confident{accuracy}",
        markup=False,
    )
