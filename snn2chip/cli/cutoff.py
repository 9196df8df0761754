"""``snn2chip cutoff``."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy.typing as npt

from snn2chip import hardware
from snn2chip.chip import ChipNet, ExitPolicy
from snn2chip.cli import clustering, options, output
from snn2chip.cli.app import common, print_json
from snn2chip.errors import InputError, UsageError
from snn2chip.files import check_absent, check_apart
from snn2chip.formats import export, read

if TYPE_CHECKING:
    from snn2chip.cli.progress import Tell
    from snn2chip.early_exit import Calibrated, LevelCost
    from snn2chip.quantise import Choice

Array = npt.NDArray[Any]

POLICIES = ("margin", "threshold", "softmax", "first-spike", "patience")
FORMS = ("pairs", "ladder", "band", "host")
COST_SAMPLES = 500  # held-out samples that costs are measured on

EPILOG = """
Policies:
  margin       the best class leads the second by a threshold
  threshold    the best class has reached a threshold
  softmax      the softmax of the best class is surely above 1 - EPS
  first-spike  the first class that spikes
  patience     the same class has led for so many steps

Forms of the circuit:
  pairs   a detector for each pair of classes, C(C - 1)
  ladder  softmax alone: several detectors for each pair, less is lost
  band    threshold alone: 2C detectors; class i decides if it reaches m and
          all others stay below
  host    no circuit: the rule is applied to the readout, outside of the chip

Examples:
  snn2chip cutoff model.net heldout.npz --max-drop 0.5 -o exit.net
  snn2chip cutoff model.net heldout.npz --eps 0.01
  snn2chip cutoff model.net heldout.npz --policy margin --policy patience \\
      --max-latency 8

Exit codes: 0 fine, 1 no threshold reaches the aim
"""


@options.command(
    "cutoff",
    EPILOG,
    {
        "Aim (one of these)": ("max_drop", "eps", "max_latency"),
        "Rule": ("policies", "form", "confidence", "logit"),
        "Output": ("target", "force"),
        **clustering.SECTION,
    },
)
@options.net_argument("The network, a NetX file; an exit that it has is replaced.")
@options.data_argument("Samples x and classes y that took part in neither training nor tests.")
@options.max_drop_option("Accuracy that may be lost, at most, in points.")
@options.eps_option("Softmax confidence that is guaranteed: more than 1 - EPS.")
@click.option(
    "--max-latency", type=options.Number(1), metavar="STEPS", help="Mean steps until the answer has left the chip."
)
@click.option(
    "--policy",
    "policies",
    type=options.Name(POLICIES),
    multiple=True,
    help="When to stop, see below; of several the best is taken.  [default: margin; softmax with --eps]",
)
@click.option("--form", type=options.Name(FORMS), help="Form of the circuit, see below.  [default: the exact one]")
@click.option(
    "--confidence",
    type=options.Number(0.5, 1, max_open=True),
    metavar="P",
    default=0.95,
    show_default=True,
    help="Probability with which the drop stays within its bound.",
)
@click.option(
    "--logit",
    type=options.Number(0, min_open=True),
    metavar="X",
    help="Integers of evidence per unit of logit.  [default: fitted to DATA]",
)
@options.samples_option()
@options.output_option(options.NET, "Write the network with its exit.")
@options.force_option()
@clustering.cluster_options
@common
def command(
    net: Path,
    data: Path,
    max_drop: float | None,
    eps: float | None,
    max_latency: float | None,
    policies: Any,
    form: Any,
    confidence: float,
    logit: float | None,
    samples: int | None,
    target: Path | None,
    force: bool,
    cluster: str | None,
    workers: int | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Choose when NET may stop early, on held-out DATA, and write NET with the circuit that decides.

    The drop is bounded at the confidence asked for; where DATA are too few for that, the error says how many are
    missing.
    """

    from snn2chip.data import open_data
    from snn2chip.early_exit import calibrate, level_costs

    if sum(aim is not None for aim in (max_drop, eps, max_latency)) != 1:
        raise UsageError("cutoff: give one aim: --max-drop POINTS, --eps EPS or --max-latency STEPS")
    if eps is not None and set(policies) - {"softmax"}:
        raise UsageError("--eps is the aim of --policy softmax; others take --max-drop or --max-latency")
    if target is not None:
        check_apart(target, data)
        check_absent(target, force)
    on = clustering.chosen(cluster, workers, journal, target, "isolated")
    network = read(net)
    opened = open_data(data)
    if opened.y is None:
        raise InputError(f"{data}: no classes y; they are needed to measure the drop")
    total = len(opened) if samples is None else min(samples, len(opened))
    x, _ = opened.read(0, total if on is None else min(total, COST_SAMPLES))
    y = opened.y.read(0, total)
    with contextlib.ExitStack() as stack:
        tell = stack.enter_context(output.working("Calibrating", as_json))
        seeing: dict[str, Any] = {}
        if on is not None:
            from snn2chip.cluster.shards import observing_shards

            seeing["observing"] = stack.enter_context(observing_shards(net, data, on, samples=samples, progress=tell))
        found = calibrate(
            network,
            x,
            y,
            policies or ("margin",),
            form,
            max_drop=None if max_drop is None else max_drop / 100,
            eps=eps,
            max_latency=max_latency,
            confidence=confidence,
            logit=logit,
            energy=True,
            progress=tell,
            **seeing,
        )
        tell("costs of stopping", 0, 0)
        costs = level_costs(found.net, x[:COST_SAMPLES])
    if target is not None:
        export(found.net, target, force=force)
    if on is not None:
        on.finished()
    if as_json:
        print_json({**exit_json(found, costs), "file": None if target is None else str(target)})
        return
    print_exit(found, costs)
    if target is not None:
        output.out().print(f"wrote {target}", markup=False)


def exit_json(found: Calibrated, costs: tuple[LevelCost, ...]) -> dict[str, Any]:
    """The chosen exit for ``--json``."""
    rule, chosen = found.net.exit, found.chosen
    assert rule is not None
    return {
        "policy": rule.policy,
        "form": rule.form,
        "threshold": chosen.threshold,
        "time_steps": found.net.time_steps,
        "samples": found.samples,
        "confidence": found.confidence,
        "accuracy_full": found.accuracy_full,
        "accuracy_exit": chosen.accuracy,
        "drop": chosen.drop,
        "drop_upper_bound": chosen.drop_upper_bound,
        "exited": chosen.exited,
        "mean_steps": chosen.mean_steps,
        "mean_latency_steps": chosen.mean_latency_steps,
        "loss": vars(found.loss),
        "estimated_operations": found.estimated_operations,
        "curve": [vars(point) for point in found.curve],
        "levels": [vars(cost) for cost in costs],
        "added_cores": added_cores(found.net),
    }


def added_cores(net: ChipNet) -> int:
    """Cores that the circuit takes."""

    from snn2chip.early_exit import detach

    target = hardware.target_of(net.target)
    whole, bare = (len(hardware.place(which, target).cores) for which in (net, detach(net)))
    return whole - bare


def print_exit(found: Calibrated, costs: tuple[LevelCost, ...]) -> None:
    """Tables of thresholds and of the levels of stopping."""

    from snn2chip.early_exit import detach

    rule, chosen, console = found.net.exit, found.chosen, output.out()
    assert rule is not None
    shown = found.curve[:: max(1, len(found.curve) // 12)]
    output.table(
        ("threshold", "accuracy", "drop <=", "steps mean", "median", "p95", "latency", "operations", "energy"),
        [
            (
                point.threshold,
                output.percent(point.accuracy),
                output.percent(point.drop_upper_bound),
                f"{point.mean_steps:.2f}",
                f"{point.median_steps:g}",
                f"{point.p95_steps:g}",
                f"{point.mean_latency_steps:.2f}",
                f"{point.operations:,.0f}",
                "-" if point.energy is None else f"{1e6 * point.energy:.2f} uJ",
            )
            for point in sorted({*shown, chosen}, key=lambda point: -point.threshold)
        ],
    )
    if rule.form != "host" and found.estimated_operations != chosen.operations:
        console.print(
            f"operations and energy of other thresholds than {chosen.threshold} count detectors as at the lowest, "
            f"which at {chosen.threshold} would be {found.estimated_operations:,.0f} operations",
            markup=False,
        )
    full = found.net.time_steps
    console.print(
        f"{rule.policy} ({rule.form}), threshold {chosen.threshold}: {chosen.mean_steps:.2f} of {full} steps, "
        f"{chosen.mean_latency_steps:.2f} of {full + detach(found.net).depth} until the answer has left the chip; "
        f"accuracy {output.percent(chosen.accuracy)} of {output.percent(found.accuracy_full)} on {found.samples} "
        f"samples, drop at most {output.percent(chosen.drop_upper_bound)} at {100 * found.confidence:g} % confidence; "
        f"{100 * (1 - chosen.exited):.1f} % never confident",
        markup=False,
    )
    if found.loss.scale != 1:
        console.print(
            f"evidence re-quantised to {found.loss.scale:.3g} of its units: {output.percent(found.loss.same_decision)} "
            f"decide as with unrounded evidence (accuracy {output.percent(found.loss.accuracy)}, "
            f"{found.loss.mean_steps:.2f} steps)",
            markup=False,
        )
    output.table(
        ("window", "steps", "spikes", "operations", "energy", "dynamic", "time", "cores"),
        [
            (
                cost.level,
                f"{cost.steps:.2f}",
                f"{cost.spikes:,.0f}",
                f"{cost.operations:,.0f}",
                f"{1e6 * cost.energy:.2f} uJ",
                f"{1e6 * cost.dynamic:.2f} uJ",
                f"{1e6 * cost.seconds:.1f} us",
                cost.cores,
            )
            for cost in costs
        ],
    )


def check_aim(policy: ExitPolicy | None, max_drop: float | None, eps: float | None) -> None:
    """Raise :class:`UsageError` unless an exit has the one aim that its policy takes."""
    if policy is None and (max_drop is not None or eps is not None):
        raise UsageError("--max-drop and --eps are aims of --exit, --max-drop also of --bits auto")
    if policy is not None and ((eps is None) == (max_drop is None) or (eps is not None and policy != "softmax")):
        raise UsageError("--exit: give --max-drop, or --eps for softmax")


def exit_of(
    net: ChipNet,
    x: Array,
    y: Array | None,
    policy: ExitPolicy,
    max_drop: float | None,
    eps: float | None,
    choices: Sequence[Choice],
    used: int,
    progress: Tell | None = None,
) -> Calibrated:
    """The exit of a network that was just compiled, on calibration samples beyond the ``used`` ones that chose scales.

    Raises:
        UsageError: there are none.
    """

    from snn2chip.early_exit import calibrate

    if y is None or len(x) <= used:
        raise UsageError(
            f"--exit: needs classes, and samples beyond the first {used}, which choose the scales; give "
            "--calibration heldout.npz, or use snn2chip cutoff on the written file"
        )
    x, y = x[used:], y[used:]
    logit = choices[-1].weight_scale if choices and net.readout.kind == "potential" else None
    drop = None if max_drop is None else max_drop / 100
    return calibrate(net, x, y, (policy,), max_drop=drop, eps=eps, logit=logit, energy=True, progress=progress)
