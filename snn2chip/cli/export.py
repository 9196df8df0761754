"""``snn2chip export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from snn2chip.cli import options, output
from snn2chip.cli.app import common, fail, print_json
from snn2chip.cli.choices import NIR_DIALECTS, RESETS, ROUNDINGS
from snn2chip.cli.cutoff import COST_SAMPLES, POLICIES, check_aim, exit_json, exit_of, print_exit
from snn2chip.cli.inspect import print_findings
from snn2chip.errors import CheckFailed, InputError, UsageError
from snn2chip.files import check_absent, check_apart, whole_file
from snn2chip.formats import export, read
from snn2chip.hardware import RULES, TARGETS, check, require, target_of
from snn2chip.prove import prove

if TYPE_CHECKING:
    from snn2chip.config import Config
    from snn2chip.quantise import Widths

EPILOG = """
Examples:
  snn2chip export model.pt
  snn2chip export model.pt -o net.net --calibration samples.npz --bits 4
  snn2chip export model.pt --bits auto --max-drop 0.5
  snn2chip export weights.pt --factory mynets:make --calibration data.npz
  snn2chip export model.pt --calibration heldout.npz --exit margin \\
      --max-drop 0.5
  snn2chip export model.nir --nir-dialect snntorch --reset subtract \\
      --calibration samples.npz

Exit codes: 0 fine, 1 verification failed or the aim is out of reach,
4 the network has no form on the chip, 5 Lava failed
"""


def _configured(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> Config | None:
    """The options of a file, as defaults: what is given on the command line wins."""

    from snn2chip.config import load_config

    if path is None:
        return None
    try:
        config = load_config(path)
    except InputError as error:
        fail(error, False)
    ctx.default_map = {
        "bits": str(config.bits),
        "scales": config.scales,
        "rounding": config.rounding,
        "per_neuron": config.per_neuron,
        "budget_cores": config.budget_cores,
        "analog_input": config.input.analog,
        "resets": config.resets,
        "window": config.window,
        "chip": config.target,
        "policy": config.exit.policy,
        "max_drop": config.exit.max_drop if config.exit.policy else config.max_drop,
        "eps": config.exit.eps,
    }
    return config


def _passes() -> list[str]:
    from snn2chip.passes import PASSES

    return [one.name for one in PASSES]


def _rules() -> list[str]:
    return [f"{target_of(name).prefix}-{rule.name}" for name in TARGETS for rule in RULES]


@options.command(
    "export",
    EPILOG,
    {
        "Model": ("calibration", "layout", "factory", "trust_pickle"),
        "NIR files": ("nir_dialect", "dt", "reset", "time_steps"),
        "Weights": ("bits", "budget_cores", "rounding", "scales", "per_neuron"),
        "Network": ("analog_input", "resets", "window", "approximate", "skip", "chip", "allow"),
        "Early exit": ("policy", "max_drop", "eps"),
        "Verification": ("verify", "samples", "timeout"),
    },
)
@options.argument("model", options.MODEL, "A .pt of snn2chip.save, a state dict with --factory, or a NIR file.")
@options.output_option(options.NET, "File to write.  [default: MODEL.net]")
@options.force_option()
@click.option(
    "--config",
    type=options.File(".yaml", ".yml"),
    metavar="FILE",
    is_eager=True,
    callback=_configured,
    help="YAML file of `snn2chip init`; options given here win, layers keep what is their own.",
)
@click.option(
    "--calibration",
    type=options.NPZ,
    metavar="FILE",
    help="Samples to choose scales with, an .npz with x and y.  [default: those in MODEL]",
)
@click.option(
    "--layout",
    type=options.Name(["TN", "NT", "N..T", "N"]),
    help="Where a module keeps time in its input: first, after the batch, last, nowhere.  [default: as its library]",
)
@click.option("--factory", metavar="PACKAGE.MODULE:FUNCTION", help="Makes the module whose state dict MODEL is.")
@click.option(
    "--trust-pickle", is_flag=True, help="Read a pickled module. It can run any code: only from people you trust."
)
@click.option(
    "--nir-dialect",
    type=options.Name(NIR_DIALECTS),
    default="auto",
    show_default=True,
    help="Whose conventions the file follows.",
)
@click.option("--dt", type=options.SECONDS, metavar="SECONDS", help="Length of a time step.  [default: the dialect's]")
@click.option(
    "--reset",
    type=options.Name(RESETS),
    help="Reset of the neurons: when their framework does it, or in the step of the spike (-now).",
)
@click.option("--time-steps", type=options.COUNT, metavar="N", help="Time steps.  [default: those of the samples]")
@click.option(
    "--bits",
    type=click.Choice([*map(str, range(1, 9)), "auto"]),
    default="8",
    show_default=True,
    metavar="1-8|auto",
    help="Width of the weights; auto: the fewest that --max-drop (0 if neither is given) or --budget-cores allow.",
)
@click.option("--budget-cores", type=options.COUNT, metavar="N", help="Cores that may be used, for --bits auto.")
@click.option(
    "--rounding",
    type=options.Name(ROUNDINGS),
    default="auto",
    show_default=True,
    help="To the nearest integer, or second-order, which auto does for up to six bits.",
)
@click.option(
    "--scales",
    type=options.OneOf("search", "max", "mse", "percentile 99.9", "percentile 99.5", "percentile 98", "grid"),
    metavar="METHOD",
    default="search",
    show_default=True,
    help="Range of the weights: search, or one method for every layer (max, mse, percentile 99.9 ...).",
)
@click.option("--per-neuron", is_flag=True, help="Allow each neuron a scale and threshold of its own; costs profiles.")
@click.option(
    "--analog-input",
    type=options.Name(["graded", "hold"]),
    default="graded",
    show_default=True,
    help="Send analog input at each step, or once and hold it on the chip.",
)
@click.option(
    "--resets",
    type=options.Name(["keep", "zero"]),
    default="keep",
    show_default=True,
    help="Keep the model's resets, or give every neuron the chip's own, which changes the network.",
)
@options.window_option("[default: the time steps]")
@click.option("--approximate", is_flag=True, help="Allow what has no exact form; it is listed with its effect.")
@click.option(
    "--skip-pass",
    "skip",
    type=options.OneOf(more=_passes),
    metavar="PASS",
    multiple=True,
    help="Leave out a lowering pass; repeatable.",
)
@click.option("--target", "chip", type=options.Name(TARGETS), help="Chip to check it for.  [default: loihi2]")
@click.option(
    "--allow",
    type=options.OneOf(more=_rules),
    multiple=True,
    metavar="RULE",
    help="Export although this design rule is broken; repeatable.",
)
@click.option("--exit", "policy", type=options.Name(POLICIES), help="Add the circuit of an exit, see cutoff --help.")
@options.max_drop_option("Accuracy that --exit, or --bits auto, may lose, at most, in points.")
@options.eps_option("Softmax confidence that the exit guarantees: more than 1 - EPS.")
@click.option("--verify/--no-verify", default=True, show_default=True, help="Prove the written file against Lava.")
@options.samples_option("Calibration samples to verify with.", default=16)
@options.timeout_option(600.0)
@common
def command(
    model: Path,
    target: Path | None,
    calibration: Path | None,
    config: Config | None,
    bits: str,
    budget_cores: int | None,
    rounding: str,
    resets: Any,
    scales: str,
    per_neuron: bool,
    analog_input: Any,
    window: int | None,
    layout: Any,
    factory: str | None,
    nir_dialect: str,
    dt: float | None,
    reset: str | None,
    time_steps: int | None,
    approximate: bool,
    skip: tuple[str, ...],
    verify: bool,
    samples: int,
    timeout: float,
    policy: Any,
    max_drop: float | None,
    eps: float | None,
    chip: str | None,
    allow: tuple[str, ...],
    force: bool,
    trust_pickle: bool,
    as_json: bool,
) -> None:
    """Compile MODEL to a NetX file that lava-dl loads, and verify it.

    Verification runs the first calibration samples in Lava and in our event simulator: every spike and state of every
    layer has to be equal, or nothing is left behind. Without Lava, two of our own simulators are compared instead, and
    the output says so. A network that breaks a design rule of the chip is refused.
    """
    target = target or model.with_suffix(".net")
    check_apart(target, model, *([] if calibration is None else [calibration]))
    check_absent(target, force)
    ctx = click.get_current_context()
    auto = bits == "auto"
    if auto and policy is not None:
        raise UsageError(
            "--bits auto looks at all calibration samples, and --exit needs others; export without it, then use "
            "snn2chip cutoff with held-out samples"
        )
    typed = {name for name in ("max_drop", "eps") if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    if "max_drop" not in typed and ("eps" in typed or not (auto or policy)):  # it is the file's, for what is not done
        max_drop = None
    if "eps" not in typed and "max_drop" in typed:
        eps = None
    drop = config.max_drop if config is not None and config.exit.policy else max_drop if policy is None else None
    check_aim(policy, None if auto and policy is None else max_drop, eps)
    if budget_cores is not None and not auto:
        raise UsageError("--budget-cores: belongs to --bits auto; give both, or neither")
    require([], allow)  # unknown ids, before anything takes time
    with output.working("Loading torch", as_json):
        from snn2chip.compiler import compile_model
        from snn2chip.data import load_npz
        from snn2chip.early_exit import level_costs
        from snn2chip.ladder import ladder
        from snn2chip.quantise import bounds, label_warning

    data = None if calibration is None else load_npz(calibration)
    with output.working(f"Compiling {model.name}", as_json) as status:
        compiled = compile_model(
            model,
            data,
            bits="auto" if auto else int(bits),
            scales=scales,
            rounding=rounding,
            layers=None if config is None else config.layer_options(),
            max_drop=drop / 100 if auto and drop is not None else None,
            budget_cores=budget_cores,
            resets=resets,
            per_neuron=per_neuron,
            analog_input=analog_input,
            window=window,
            skip=skip,
            trust_pickle=trust_pickle,
            layout=layout,
            factory=factory,
            nir_dialect=nir_dialect,
            dt=dt,
            reset=reset,
            time_steps=time_steps,
            approximate=approximate,
            target=chip or "loihi2",
            progress=status,
        )
    net, x, y = compiled.net, compiled.model.x, compiled.model.y
    if x is None:
        raise UsageError("calibration: the model holds no samples to verify with; give --calibration x.npz")
    bare, chosen = net, None
    if policy is not None:
        with output.working("Calibrating the exit", as_json) as status:
            chosen = exit_of(net, x, y, policy, max_drop, eps, compiled.choices, compiled.used, status)
            status("costs of stopping", 0, 0)
            costs = level_costs(chosen.net, x[:COST_SAMPLES])
        net = chosen.net
    hardware = target_of(net.target)
    findings = check(net, hardware)
    require(findings, allow)
    with output.working("Measuring the ladder", as_json):
        rungs = ladder(compiled.model.graph, compiled.lowered, bare, x[:256], None if y is None else y[:256])
        ranges = bounds(bare, x[:64])
    suspicion = label_warning(rungs["float"].accuracy, min(len(x), 256), bare.classes)
    warnings = [
        *compiled.warnings,
        *([] if suspicion is None else [suspicion]),
        *(bound.warning for bound in ranges if bound.warning is not None),
    ]
    proof = None
    with whole_file(target, force) as candidate:
        measured = {"ladder": output.ladder_json(rungs), "samples": min(len(x), 256)}
        export(net, candidate, force=True, measured=measured)
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
                "widths": None if compiled.widths is None else vars(compiled.widths),
                "warnings": warnings,
                "bounds": [vars(bound) for bound in ranges],
                "verification": None
                if proof is None
                else {**output.verification_json(proof.result), "against": proof.against},
                "lava": proof is not None and proof.against == "lava",
                "inexact": list(net.inexact),
                "assumed": list(compiled.notes),
                "passes": [vars(cost) for cost in compiled.costs],
                "rules": [vars(finding) for finding in findings],
                "exit": None if chosen is None else exit_json(chosen, costs),
            }
        )
        return
    output.table(
        ("layer", "scale", "weights per unit", "error"),
        [(c.layer, c.method, f"{c.weight_scale:.4g}", f"{100 * c.error:.3f} %") for c in compiled.choices],
    )
    output.out().print()
    if compiled.widths is not None:
        print_widths(compiled.widths)
        output.out().print()
    output.print_ladder(rungs, f"on {min(len(x), 256)} calibration samples")
    output.out().print()
    output.print_layer_agreement(rungs)
    output.out().print()
    for cost in compiled.costs:
        if cost.layers or cost.neurons > 0 or cost.synapses > 0:
            output.out().print(
                f"{cost.name} added: layers {cost.layers}, neurons {cost.neurons}, synapses {cost.synapses}",
                markup=False,
            )
    for line in compiled.notes:
        output.out().print(f"assumed: {line}", markup=False)
    for line in warnings:
        output.out().print(f"warning: {line}", style="yellow", markup=False)
    for line in net.inexact:
        output.out().print(f"inexact: {line}", markup=False)
    if chosen is not None:
        print_exit(chosen, costs)
    print_findings(findings, hardware)
    if proof is None:
        output.out().print("not verified (--no-verify)", style="yellow")
    else:
        if proof.note:
            output.out().print(proof.note, style="yellow", markup=False)
        output.print_verification(proof.result, proof.against, proof.backend)
    output.out().print(f"wrote {target}", markup=False)


def print_widths(widths: Widths) -> None:
    """Bits of each layer, and what they save."""
    now, before = widths.memory
    output.table(("layer", "bits"), [(name, str(bits)) for name, bits in widths.bits.items()])
    on = "samples that chose no scale" if widths.apart else "the samples that chose the scales"
    output.out().print(
        f"bits auto: {output.percent(1 - now / before)} less synaptic memory than with 8 bits ({now:,} of {before:,} "
        f"bytes), {widths.cores[0]} of {widths.cores[1]} cores; accuracy drops by {100 * widths.drop:.2f} points on "
        f"{widths.samples} {on}",
        markup=False,
    )
