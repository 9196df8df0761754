"""``snn2chip verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from snn2chip.cli import clustering, options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.simulate import mode_of
from snn2chip.errors import CheckFailed, UsageError
from snn2chip.formats import read

if TYPE_CHECKING:
    from snn2chip.early_exit import ExitProof


EPILOG = """
Examples:
  snn2chip verify model.net test.npz
  snn2chip verify model.net test.npz --source model.pt --samples 100
  snn2chip verify exit.net test.npz --exit
  snn2chip verify model.net test.npz --against reference      without Lava

Exit codes: 0 all equal, 1 something differs, 5 Lava is missing or failed
"""


@options.command("verify", EPILOG, {"Time": ("windowed", "streaming"), **clustering.SECTION})
@options.net_argument()
@options.data_argument("Samples x and, for the accuracy of --source, classes y.")
@options.backend_option("--against", "lava", "The simulator that is right: lava, reference, event or dense.")
@options.backend_option("--backend", "event", "The simulator that is checked.")
@options.samples_option(default=32)
@click.option("--exit", "early", is_flag=True, help="Also prove the early exit: rule, gates, ended windows.")
@click.option(
    "--source",
    type=options.File(".pt"),
    metavar="MODEL",
    help="The model.pt that NET was made of: adds the ladder from the trained model to the chip.",
)
@options.timeout_option()
@options.mode_options
@clustering.cluster_options
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
    cluster: str | None,
    workers: int | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Compare two simulators on DATA, bit for bit: every spike, u and v of every layer of NET at every step.

    Of differences, the first is shown with its likely cause.
    """

    from snn2chip.compiler import lowered_graph
    from snn2chip.data import open_data
    from snn2chip.early_exit import verify_exit
    from snn2chip.ladder import ladder
    from snn2chip.model_file import Model, load
    from snn2chip.verification import verify

    if against == backend:
        raise UsageError(f"--against {against}: is the backend that is verified; give two different ones")
    if timeout is not None and against != "lava":
        raise UsageError("--timeout is for --against lava")
    mode = mode_of(windowed, streaming)
    on = clustering.chosen(cluster, workers, journal, None, mode)
    network = read(net)
    opened = open_data(data)
    count = min(samples, len(opened))
    rungs = None
    if on is None or source is not None:
        x, y = opened.read(0, samples)
    if source is not None:
        model = load(source)
        assert isinstance(model, Model)  # a module comes only with trust_pickle
        with output.working("Measuring the ladder", as_json):
            rungs = ladder(model.graph, lowered_graph(model.graph), network, x, y)
    limit: dict[str, Any] = {} if timeout is None else {"timeout": timeout}
    proof = None
    with output.working(f"Comparing on {count} samples", as_json) as tell:
        if on is None:
            seen = tell if output.seen(as_json) else None
            result = verify(network, x, against, backend, mode, progress=seen, **limit)
        else:
            from snn2chip.cluster.shards import verify_shards

            result, proof = verify_shards(
                net, data, on, against, backend, samples=samples, early=early, timeout=timeout, progress=tell
            )
    if early and on is None:
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
        output.print_ladder(rungs, f"on {count} samples")
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
