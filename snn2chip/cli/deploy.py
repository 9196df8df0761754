"""``snn2chip deploy``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.chip import ChipNet
from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.choices import GENERATIONS
from snn2chip.deployment.circuit import Circuit, gated
from snn2chip.deployment.rolled import rolled
from snn2chip.errors import LavaMissing, UsageError
from snn2chip.formats import read
from snn2chip.traces import encode

Array = Any

EPILOG = """
Examples:
  snn2chip deploy model.net -o bundle/ --data test.npz
  snn2chip deploy model.net -o bundle/ --data test.npz --lava-module
  cd bundle && python run.py

Exit codes: 0 fine, 1 Lava does not do what is expected; nothing is left
"""


@options.command(
    "deploy",
    EPILOG,
    {
        "Network": ("window", "module", "gates"),
        "Samples": ("data", "samples"),
        "Lab": ("partition", "generation"),
        "Check": ("verify", "timeout"),
    },
)
@options.net_argument()
@options.output_option(options.File(file_okay=False), "Folder to write.", "FOLDER", required=True)
@options.force_option("Replace a bundle that is there.")
@click.option("--data", type=options.SAMPLES, metavar="DATA", help="Samples to check it with.  [default: random input]")
@click.option(
    "--samples",
    type=click.IntRange(1, 4096),
    metavar="N",
    default=8,
    show_default=True,
    help="How many of them, 1 to 4096.",
)
@options.window_option("[default: the next power of two]")
@click.option(
    "--lava-module",
    "module",
    is_flag=True,
    help="A plain Lava module instead of NetX; convolutions that subtract their threshold stay convolutions.",
)
@click.option("--gated", "gates", is_flag=True, help="Let the early exit hold hidden layers down; a Lava module.")
@click.option("--partition", metavar="NAME", default="oheogulch", show_default=True, help="SLURM partition of the lab.")
@click.option(
    "--loihi-gen",
    "generation",
    type=options.Name(GENERATIONS),
    default="N3B3",
    show_default=True,
    help="Chip generation of the lab's board.",
)
@click.option("--verify/--no-verify", default=True, show_default=True, help="Run the bundle in Lava before it is left.")
@options.timeout_option(600.0)
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
    from snn2chip.exporters import bundle as bundles

    if not re.fullmatch(r"[\w,.-]+", partition, re.ASCII):
        raise UsageError(f"--partition {partition!r}: expected letters, digits, and _ - . or , between names")
    network = bundles.widened(read(net), window)
    subject: ChipNet | Circuit = network
    if gates:
        subject, module = gated(network), True
        network = subject.net
    elif module:
        subject = rolled(network)
        network = subject.net
    messages, y = _messages(network, data, samples)
    notes: list[str] = []

    def prove(part: Path) -> None:
        """Before the folder takes its place: a bundle that fails is not left behind, nor has it replaced another."""
        if not verify:
            return
        try:
            bundles.prove(part, timeout, name=target, scratch=part.parent)
        except LavaMissing as error:
            notes.append(f"not run in Lava: {error}")

    with output.working("Writing the bundle" + (" and running it in Lava" if verify else ""), as_json):
        written = bundles.write(
            subject,
            target,
            messages,
            y,
            kind="module" if module else "netx",
            partition=partition,
            generation=generation,
            force=force,
            check_first=prove,
        )
    proven = verify and not notes
    if proven:
        note = f"Lava's simulator does what is expected: {written.samples} samples, every layer and step"
    else:
        note = notes[0] if notes else "not run in Lava (--no-verify)"
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

    from snn2chip.data import open_data
    from snn2chip.simulation import check_classes

    if data is not None:
        x, y = open_data(data).read(0, samples)
        if not len(x):
            raise UsageError(f"--data {data}: no samples in it")
        check_classes(y, len(x), net.classes)
        return encode(net, x), y
    generator = np.random.default_rng(0)
    shape = (samples, net.time_steps, *net.input_shape)
    if net.encoding.kind == "spikes":
        return (generator.random(shape) < 0.2).astype(np.uint8), None
    messages = generator.integers(net.encoding.low, net.encoding.high + 1, shape).astype(np.int32)
    return (messages[:, :1] if net.encoding.kind == "hold" else messages), None
