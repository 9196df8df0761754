"""``snn2chip simulate``."""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.data import load_npz
from snn2chip.errors import UsageError
from snn2chip.files import check_absent, whole_file
from snn2chip.formats import read
from snn2chip.simulation import simulate
from snn2chip.traces import Mode, Record


def mode_of(windowed: bool, streaming: bool) -> Mode:
    """The mode that two flags ask for."""
    if windowed and streaming:
        raise UsageError("--windowed and --streaming exclude each other")
    return "windowed" if windowed else "streaming" if streaming else "isolated"


@click.command("simulate")
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--backend", default="event", show_default=True, help="event, reference or lava.")
@click.option("--samples", type=click.IntRange(1), help="Only the first N samples.")
@click.option(
    "--windowed", is_flag=True, help="Samples follow one another as on the chip; spikes in flight cross a reset."
)
@click.option("--streaming", is_flag=True, help="Samples follow one another and nothing is reset.")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="Write predictions and scores (.npz).")
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
    target: Path | None,
    layers: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Run NET on DATA (.npz with x and, for the accuracy, y)."""
    mode = mode_of(windowed, streaming)
    if target is not None:
        check_absent(target, force)
    elif layers:
        raise UsageError("--record needs --output FILE.npz")
    network = read(net)
    names = [layer.name for layer in network.layers]
    unknown = set(layers) - {*names, "all"}
    if unknown:
        raise UsageError(f"--record: no layer {', '.join(sorted(unknown))}; have {', '.join(names)}")
    x, y = load_npz(data)
    x, y = x[:samples], None if y is None else y[:samples]
    kept = names if "all" in layers else layers
    with output.working(f"Simulating {len(x)} samples ({backend})", as_json):
        result = simulate(network, x, y, backend, mode, Record.of(kept, kept))
    traces = result.traces
    if target is not None:
        arrays = {"predictions": result.predictions, "scores": traces.scores(network)}
        for kind, recorded in (("spikes", traces.spikes), ("u", traces.u), ("v", traces.v)):
            arrays |= {f"{kind}/{name}": array for name, array in recorded.items() if name in kept}
        with whole_file(target, force) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **arrays)
    rate = len(x) / traces.seconds if traces.seconds > 0 else float("inf")
    if as_json:
        print_json(
            {
                "backend": backend,
                "mode": mode,
                "samples": len(x),
                "time_steps": network.time_steps,
                "seconds": traces.seconds,
                "overhead_seconds": traces.overhead_seconds,
                "samples_per_s": rate,
                "accuracy": result.accuracy,
                "spikes": traces.spike_counts,
                "synaptic_operations": traces.synaptic_operations,
            }
        )
        return
    output.table(
        ("layer", "spikes", "spikes per neuron and sample"),
        [
            (name, count, f"{count / len(x) / np.prod(layer.shape):.3f}")
            for layer, (name, count) in zip(network.layers, traces.spike_counts.items(), strict=True)
        ],
    )
    accuracy = "" if result.accuracy is None else f", accuracy {output.percent(result.accuracy)}"
    output.out().print(
        f"{len(x)} samples x {network.time_steps} steps in {traces.seconds:.3f} s ({rate:,.0f} samples/s, {backend}, "
        f"{mode}), {traces.synaptic_operations:,} synaptic operations{accuracy}",
        markup=False,
    )
    if target is not None:
        output.out().print(f"wrote {target}", markup=False)
