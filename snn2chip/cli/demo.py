"""``snn2chip demo``."""

from __future__ import annotations

from pathlib import Path

import click

from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.verify import print_exit_proof

EPILOG = """
Examples:
  snn2chip demo
  snn2chip demo --folder elsewhere --samples 8
"""


@options.command("demo", EPILOG)
@click.option(
    "--folder",
    type=options.File(file_okay=False),
    metavar="FOLDER",
    default=Path("demo"),
    show_default=True,
    help="Where files go; they replace those of an earlier demo.",
)
@options.samples_option("Test images to compare with Lava.", default=64)
@common
def command(folder: Path, samples: int, as_json: bool) -> None:
    """Train a small convolutional SNN on handwritten digits, export it, and prove it against Lava.

    Takes about a minute.
    """
    with output.working("Loading torch", as_json):
        from snn2chip import demo

    with output.working("Demo", as_json) as tell:
        result = demo.run(folder, samples, stage=tell)
    proof, run = result.proof, result.exit_run
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
                "exit": {
                    "policy": "softmax",
                    "eps": demo.EXIT_EPS,
                    "held_out_samples": result.early.samples,
                    "drop_upper_bound": result.early.chosen.drop_upper_bound,
                    "accuracy": run.accuracy,
                    "accuracy_full": run.accuracy_full,
                    "exited": float(run.decisions.exited.mean()),
                    "mean_steps": float(run.latency.cutoff.mean()),
                    "mean_latency_steps": float(run.latency.chip.mean()),
                    "full_steps": run.latency.full_cutoff,
                    "full_latency_steps": run.latency.full_chip,
                    "proof": {"equal": result.exit_proof.equal, **vars(result.exit_proof)},
                },
                "images_per_s": result.rates,
                "training_seconds": result.seconds,
                "files": result.files,
            }
        )
        return
    output.out().print(f"\ntrained in {result.seconds:.0f} s")
    output.print_ladder(result.rungs, f"on {result.test_images} test images")
    output.out().print()
    output.table(("simulator", "images/s"), [(name, f"{rate:,.0f}") for name, rate in result.rates.items()])
    output.out().print()
    if proof.note:
        output.out().print(proof.note, style="yellow", markup=False)
    output.print_verification(proof.result, proof.against, proof.backend)
    took = run.latency
    output.out().print(
        f"early exit (softmax confidence {1 - demo.EXIT_EPS:g}, guaranteed by a circuit): accuracy "
        f"{output.percent(run.accuracy)} (full window {output.percent(run.accuracy_full)}), cutoff after "
        f"{took.cutoff.mean():.2f} of {took.full_cutoff} steps, answer off the chip after {took.chip.mean():.2f} of "
        f"{took.full_chip}",
        markup=False,
    )
    output.out().print()
    print_exit_proof(result.exit_proof)
    files = result.files
    output.command(
        f"\nFiles: {', '.join(files.values())}\n"
        f"Open:  {files['report']}\n"
        f"Next:  snn2chip inspect {files['net']}\n"
        f"       snn2chip simulate {files['net']} {files['data']}\n"
        f"       snn2chip simulate {files['exit']} {files['data']} --exit stopped\n"
        f"       snn2chip cutoff {files['net']} {files['held']} --max-drop 2\n"
        f"       snn2chip verify {files['net']} {files['data']} --source {files['model']}"
    )


def _if_lava(against: str, count: int) -> int | None:
    """Null, not zero, where Lava did not run."""
    return count if against == "lava" else None
