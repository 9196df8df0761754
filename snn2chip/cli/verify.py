"""``snn2chip verify``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.simulate import mode_of
from snn2chip.compiler import lowered_graph
from snn2chip.data import open_data
from snn2chip.early_exit import ExitProof, verify_exit
from snn2chip.errors import CheckFailed, UsageError
from snn2chip.formats import read
from snn2chip.ladder import ladder
from snn2chip.model_file import Model, load
from snn2chip.verification import verify


@click.command("verify")
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "--against", default="lava", show_default=True, help="The simulator that is right: lava, reference or event."
)
@click.option("--backend", default="event", show_default=True, help="The simulator that is checked.")
@click.option("--samples", type=click.IntRange(1), default=32, show_default=True, help="Only the first N samples.")
@click.option(
    "--windowed", is_flag=True, help="Samples follow one another as on the chip; spikes in flight cross a reset."
)
@click.option("--streaming", is_flag=True, help="Samples follow one another and nothing is reset.")
@click.option("--exit", "early", is_flag=True, help="Also prove the early exit: rule, gates, ended windows.")
@click.option("--source", type=click.Path(path_type=Path), help="The model.pt: adds the ladder float, graph, chip.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that Lava may take.")
@common
def command(
    net: Path,
    data: Path,
    against: str,
    backend: str,
    samples: int,
    windowed: bool,
    streaming: bool,
    early: bool,
    source: Path | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Compare two simulators on DATA, bit for bit: every spike, u and v of every layer of NET at every step.

    Exit code 0 where all are equal, 1 where not; the first difference is shown with its likely cause.
    """
    if timeout is not None and against != "lava":
        raise UsageError("--timeout is for --against lava")
    mode = mode_of(windowed, streaming)
    network = read(net)
    x, y = open_data(data).read(0, samples)
    rungs = None
    if source is not None:
        model = load(source)
        assert isinstance(model, Model)  # a module comes only with trust_pickle
        with output.working("Measuring the ladder", as_json):
            rungs = ladder(model.graph, lowered_graph(model.graph), network, x, y)
    options = {} if timeout is None else {"timeout": timeout}
    with output.working(f"Comparing {backend} with {against} on {len(x)} samples", as_json):
        result = verify(network, x, against, backend, mode, **options)
    proof = None
    if early:
        with output.working("Proving the early exit", as_json):
            proof = verify_exit(network, x, against == "lava", timeout or 3600.0)
    equal = result.equal and (proof is None or proof.equal)
    if as_json:
        content = output.verification_json(result)
        if rungs is not None:
            content["ladder"] = output.ladder_json(rungs)
        if proof is not None:
            content["exit"] = {"equal": proof.equal, **vars(proof)}
        print_json(content)
        if not equal:
            sys.exit(CheckFailed.exit_code)
        return
    if rungs is not None:
        output.print_ladder(rungs, f"on {len(x)} samples")
    output.print_verification(result, against, backend)
    if proof is not None:
        print_exit_proof(proof)
    if not equal:
        sys.exit(CheckFailed.exit_code)


def print_exit_proof(proof: ExitProof) -> None:
    """One line for each comparison of the early exit."""
    rows = (
        ("circuit, integer rule", proof.rule, "samples"),
        ("ended windows, whole windows", proof.stopped, "samples"),
        ("circuit in Lava, event", proof.lava, "samples"),
        ("gated in Lava, event", proof.gated_spikes, "spikes"),
        ("ended windows in Lava, whole windows", proof.stopped_lava, "samples"),
    )
    output.table(
        ("early exit", "differing", "of"),
        [(what, "not compared" if count is None else count, unit) for what, count, unit in rows],
    )
