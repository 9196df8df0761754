"""``snn2chip deploy``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.chip import ChipNet
from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.data import open_data
from snn2chip.deployment.circuit import Circuit, gated
from snn2chip.deployment.rolled import rolled
from snn2chip.errors import CheckFailed, LavaError, LavaMissing, UsageError
from snn2chip.exporters import bundle as bundles
from snn2chip.formats import read
from snn2chip.simulation import check_classes
from snn2chip.traces import encode

Array = Any

EPILOG = """\b
Examples:
  snn2chip deploy model.net -o bundle/ --data test.npz
  snn2chip deploy model.net -o bundle/ --data test.npz --lava-module
  cd bundle && python run.py
"""


@click.command("deploy", epilog=EPILOG)
@click.argument("net", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@click.option("--data", type=click.Path(path_type=Path), help="Samples to check it with [default: random input].")
@click.option("--samples", type=click.IntRange(1, 4096), default=8, show_default=True, help="How many of them.")
@click.option("--window", type=click.IntRange(1), help="Steps between two resets [default: the next power of two].")
@click.option(
    "--lava-module",
    "module",
    is_flag=True,
    help="A plain Lava module instead of NetX; convolutions that subtract their threshold stay convolutions.",
)
@click.option("--gated", "gates", is_flag=True, help="Let the early exit hold hidden layers down; a Lava module.")
@click.option("--partition", default="oheogulch", show_default=True, help="SLURM partition of the lab.")
@click.option(
    "--loihi-gen",
    "generation",
    type=click.Choice(bundles.GENERATIONS),
    default="N3B3",
    show_default=True,
    help="Chip generation of the lab's board.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Run the bundle in Lava before it is left.")
@click.option(
    "--timeout", type=click.FloatRange(0, min_open=True), default=600.0, show_default=True, help="For that, s."
)
@click.option("--force", is_flag=True, help="Replace a bundle that is there.")
@common
def command(
    net: Path,
    target: Path,
    data: Path | None,
    samples: int,
    window: int | None,
    module: bool,
    gates: bool,
    partition: str,
    generation: str,
    verify: bool,
    timeout: float,
    force: bool,
    as_json: bool,
) -> None:
    """Write a folder that runs NET on Loihi 2 in the lab, and in Lava's simulator here, and checks itself bit for bit.

    It needs lava-nc and lava-dl, not snn2chip. The README in it has the exact commands. A bundle that does not do in
    Lava what is expected is not left behind.
    """
    network = bundles.widened(read(net), window)
    subject: ChipNet | Circuit = network
    if gates:
        subject, module = gated(network), True
        network = subject.net
    elif module:
        subject = rolled(network)
        network = subject.net
    messages, y = _messages(network, data, samples)
    with output.working("Writing the bundle", as_json):
        written = bundles.write(
            subject,
            target,
            messages,
            y,
            kind="module" if module else "netx",
            partition=partition,
            generation=generation,
            force=force,
        )
    note = "not run in Lava (--no-verify)"
    proven = False
    if verify:
        try:
            with output.working("Running the bundle in Lava", as_json):
                bundles.prove(target, timeout)
            proven, note = (
                True,
                f"Lava's simulator does what is expected: {written.samples} samples, every layer and step",
            )
        except LavaMissing as error:
            note = f"not run in Lava: {error}"
        except (CheckFailed, LavaError):
            shutil.rmtree(target)
            raise
    if as_json:
        print_json(
            {
                "folder": str(target),
                "kind": written.kind,
                "files": list(written.files),
                "samples": written.samples,
                "window": network.window,
                "verified_in_lava": proven,
                "random_input": data is None,
                "notes": list(written.notes),
            }
        )
        return
    console = output.out()
    console.print(f"wrote {target}: {len(written.files)} files, window {network.window} steps", markup=False)
    if data is None:
        console.print("samples are random input (no --data): they check the run, not the accuracy", style="yellow")
    for one in written.notes:
        console.print(f"note: {one}", markup=False)
    console.print(note, style="green" if proven else "yellow", markup=False)
    console.print(f"next: {target / 'README.md'}", markup=False)


def _messages(net: ChipNet, data: Path | None, samples: int) -> tuple[Array, Array | None]:
    """Messages ``[N, T, *input_shape]`` and classes."""
    if data is not None:
        x, y = open_data(data).read(0, samples)
        if not len(x):
            raise UsageError(f"--data {data}: no samples in it")
        check_classes(y, len(x))
        return encode(net, x), y
    generator = np.random.default_rng(0)
    shape = (samples, net.time_steps, *net.input_shape)
    if net.encoding.kind == "spikes":
        return (generator.random(shape) < 0.2).astype(np.uint8), None
    messages = generator.integers(net.encoding.low, net.encoding.high + 1, shape).astype(np.int32)
    return (messages[:, :1] if net.encoding.kind == "hold" else messages), None
