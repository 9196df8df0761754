"""``snn2chip demo``."""

from __future__ import annotations

from pathlib import Path

import click

from snn2chip import demo
from snn2chip.cli import output
from snn2chip.cli.app import common, print_json


@click.command("demo")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Where files go.",
)
@click.option(
    "--samples", type=click.IntRange(1), default=64, show_default=True, help="Test images to compare with Lava."
)
@common
def command(folder: Path, samples: int, as_json: bool) -> None:
    """Train a small convolutional SNN on handwritten digits, export it, and prove it against Lava.

    Takes about a minute. Files go to ./demo and replace those of an earlier demo.
    """

    def stage(text: str) -> None:
        output.err.print(f"- {text}", markup=False)

    result = demo.run(folder, samples, stage=stage)
    proof = result.proof
    if as_json:
        print_json(
            {
                "float_accuracy": result.rungs["float"].accuracy,
                "chip_accuracy": result.rungs["chip"].accuracy,
                "lava_accuracy": result.lava_accuracy,
                "lava_samples": proof.result.samples if proof.against == "lava" else 0,
                "lava_differing_spikes": _if_lava(proof.against, sum(proof.result.differing_spikes.values())),
                "lava_differing_states": _if_lava(proof.against, sum(proof.result.differing_states.values())),
                "against": proof.against,
                "ladder": output.ladder_json(result.rungs),
                "images_per_s": result.rates,
                "training_seconds": result.seconds,
                "files": result.files,
            }
        )
        return
    output.out().print(f"\ntrained in {result.seconds:.0f} s")
    output.print_ladder(result.rungs, f"on {result.test_images} test images")
    output.table(("simulator", "images/s"), [(name, f"{rate:,.0f}") for name, rate in result.rates.items()])
    if proof.note:
        output.out().print(proof.note, style="yellow", markup=False)
    output.print_verification(proof.result, proof.against, proof.backend)
    files = result.files
    output.out().print(
        f"\nFiles: {', '.join(files.values())}\n"
        f"Next:  snn2chip inspect {files['net']}\n"
        f"       snn2chip simulate {files['net']} {files['data']}\n"
        f"       snn2chip verify {files['net']} {files['data']} --source {files['model']}",
        markup=False,
    )


def _if_lava(against: str, count: int) -> int | None:
    """Null, not zero, where Lava did not run."""
    return count if against == "lava" else None
