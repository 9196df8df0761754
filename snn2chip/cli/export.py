"""``snn2chip export``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.compiler import compile_model
from snn2chip.data import load_npz
from snn2chip.errors import CheckFailed
from snn2chip.files import check_absent, whole_file
from snn2chip.formats import export, read
from snn2chip.ladder import ladder
from snn2chip.prove import prove

EXAMPLES = """\b
Examples:
  snn2chip export model.pt
  snn2chip export model.pt -o net.net --calibration samples.npz --bits 4
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), help="File to write [default: MODEL.net].")
@click.option("--calibration", type=click.Path(path_type=Path), help="Samples (.npz with x, y) to choose scales with.")
@click.option("--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Width of the weights.")
@click.option(
    "--scales", default="search", show_default=True, help="search, or one method for every layer (max, mse, ...)."
)
@click.option(
    "--analog-input",
    type=click.Choice(["graded", "hold"]),
    default="graded",
    show_default=True,
    help="Send analog input at each step, or once and hold it on the chip.",
)
@click.option("--window", type=click.IntRange(1), help="Steps between two resets [default: the time steps].")
@click.option("--skip-pass", "skip", multiple=True, help="Leave out a lowering pass; repeatable.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Prove the written file against Lava.")
@click.option(
    "--samples", type=click.IntRange(1), default=16, show_default=True, help="Calibration samples to verify with."
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds that Lava may take.",
)
@click.option("--force", is_flag=True, help="Overwrite the output.")
@click.option(
    "--trust-pickle", is_flag=True, help="Read a pickled module. It can run any code: only from people you trust."
)
@common
def command(
    model: Path,
    target: Path | None,
    calibration: Path | None,
    bits: int,
    scales: str,
    analog_input: Any,
    window: int | None,
    skip: tuple[str, ...],
    verify: bool,
    samples: int,
    timeout: float,
    force: bool,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Compile MODEL (.pt of snn2chip.save) to a NetX file that lava-dl loads, and verify it.

    Verification runs the first calibration samples in Lava and in our event simulator: every spike and state of every
    layer has to be equal, or nothing is left behind. Without Lava, two of our own simulators are compared instead, and
    the output says so.
    """
    target = target or model.with_suffix(".net")
    check_absent(target, force)
    data = None if calibration is None else load_npz(calibration)
    with output.working(f"Compiling {model.name}", as_json):
        compiled = compile_model(
            model,
            data,
            bits=bits,
            scales=scales,
            analog_input=analog_input,
            window=window,
            skip=skip,
            trust_pickle=trust_pickle,
        )
    net, x, y = compiled.net, compiled.model.x, compiled.model.y
    assert x is not None  # compile_model needs samples
    with output.working("Measuring the ladder", as_json):
        rungs = ladder(compiled.model.graph, net, x[:256], None if y is None else y[:256])
    proof = None
    with whole_file(target, force) as candidate:
        export(net, candidate, force=True)
        if verify:
            with output.working("Verifying in Lava", as_json):
                proof = prove(read(candidate), x[:samples], timeout)
            if not proof.result.equal:
                raise CheckFailed(
                    f"{target}: not written, {proof.backend} differs from {proof.against}: {proof.result.first}"
                )
    if as_json:
        print_json(
            {
                "file": str(target),
                "ladder": output.ladder_json(rungs),
                "scales": [vars(choice) for choice in compiled.choices],
                "verification": None
                if proof is None
                else {**output.verification_json(proof.result), "against": proof.against},
                "lava": proof is not None and proof.against == "lava",
                "inexact": list(net.inexact),
            }
        )
        return
    output.table(
        ("layer", "scale", "weights per unit", "error"),
        [(c.layer, c.method, f"{c.weight_scale:.4g}", f"{c.error:.3%}") for c in compiled.choices],
    )
    output.print_ladder(rungs, f"on {min(len(x), 256)} calibration samples")
    for line in net.inexact:
        output.out().print(f"inexact: {line}", markup=False)
    if proof is None:
        output.out().print("not verified (--no-verify)", style="yellow")
    else:
        if proof.note:
            output.out().print(proof.note, style="yellow", markup=False)
        output.print_verification(proof.result, proof.against, proof.backend)
    output.out().print(f"wrote {target}", markup=False)
