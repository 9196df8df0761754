"""``snn2chip inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.chip import ChipNet, Dense, InputNeurons, Layer
from snn2chip.cli import options, output
from snn2chip.cli.app import common, print_json
from snn2chip.cli.choices import LEVELS
from snn2chip.errors import UsageError
from snn2chip.formats import read
from snn2chip.hardware import BOARDS, TARGETS, Board, Finding, Placement, Target, check, place, target_of
from snn2chip.hardware.memory import mantissa

EPILOG = """
Examples:
  snn2chip inspect model.net
  snn2chip inspect model.net --target loihi1
  snn2chip inspect model.net --json | jq .synaptic_memory_bytes
"""


@options.command("inspect", EPILOG)
@options.net_argument()
@click.option("--target", type=options.Name(TARGETS), help="Chip to check it for.  [default: the network's]")
@click.option("--board", type=options.Name(sorted(BOARDS)), help="Board that has to hold it.  [default: the largest]")
@common
def command(net: Path, target: str | None, board: str | None, as_json: bool) -> None:
    """Show the layers, neurons, readout and early exit of NET, its cores, and the design rules that it breaks."""
    network = read(net)
    chip, boards = _hardware(target, board, network)
    placement = place(network, chip)
    findings = check(network, chip, placement, boards)
    layers = [_describe(layer, network, i) for i, layer in enumerate(network.layers)]
    if as_json:
        print_json(
            {
                "layers": layers,
                "depth": network.depth,
                "time_steps": network.time_steps,
                "window": network.window,
                "target": network.target,
                "input": {"shape": list(network.input_shape), **vars(network.encoding)},
                "readout": network.readout.kind,
                "neurons": sum(layer["neurons"] for layer in layers),
                "synapses": sum(layer["synapses"] for layer in layers),
                "inexact": list(network.inexact),
                "checked_for": chip.name,
                "rules": [vars(finding) for finding in findings],
                "cores": len(placement.cores),
                "chips": placement.chips,
                "synaptic_memory_bytes": placement.synaptic_memory_bytes,
                "placement": _per_layer(placement),
                "exit": _exit(network),
            }
        )
        return
    encoding = network.encoding
    how = "spikes" if encoding.kind == "spikes" else f"{encoding.kind}, {encoding.message_bits} bits"
    output.out().print(
        f"{net.name}: input {_shape(network.input_shape)} ({how}), {network.time_steps} time steps, window "
        f"{network.window}, depth {network.depth} steps, read by {_READOUT[network.readout.kind]}",
        markup=False,
    )
    output.table(
        ("layer", "type", "shape", "neurons", "synapses", "bits", "threshold", "iDecay", "vDecay"),
        [
            (
                layer["name"],
                layer["type"],
                _shape(layer["shape"]),
                layer["neurons"],
                layer["synapses"],
                layer["bits"],
                *(_span(layer["neuron"].get(name)) for name in ("threshold", "current_decay", "voltage_decay")),
            )
            for layer in layers
        ],
    )
    for line in network.inexact:
        output.out().print(f"inexact: {line}", markup=False)
    _print_exit(network)
    output.out().print()
    _print_placement(placement)
    print_findings(findings, chip)


def _exit(net: ChipNet) -> dict[str, Any] | None:
    """The early exit: its rule, its circuit, and the levels at which it may stop."""
    rule = net.exit
    if rule is None:
        return None
    names = [layer.name for layer in net.layers]
    circuit = names[names.index(rule.readout) + 1 :]
    return {
        "policy": rule.policy,
        "form": rule.form,
        "thresholds": list(rule.thresholds),
        "readout": rule.readout,
        "classes": rule.classes,
        "layers": circuit,
        "levels": [level for level in LEVELS if circuit or level != "gated"],
        "evidence_scale": list(rule.scale),
        "calibration": dict(rule.calibration),
    }


def _print_exit(net: ChipNet) -> None:
    found = _exit(net)
    if found is None:
        return
    size = {layer.name: int(np.prod(layer.shape)) for layer in net.layers}
    circuit = ", ".join(f"{name} ({size[name]} neurons)" for name in found["layers"])
    thresholds = found["thresholds"]
    several = f"thresholds {', '.join(map(str, thresholds))}" if len(thresholds) > 1 else f"threshold {thresholds[0]}"
    output.out().print(
        f"early exit: {found['policy']} ({found['form']}), {several}, of {found['classes']} classes of "
        f"{found['readout']}; {f'circuit: {circuit}' if circuit else 'no circuit, the host applies the rule'}; levels: "
        f"{', '.join(found['levels'])}",
        markup=False,
    )
    known = found["calibration"]
    if {"samples", "accuracy_full", "accuracy_exit", "drop_upper_bound", "confidence", "mean_steps"} <= known.keys():
        output.out().print(
            f"its calibration: accuracy {output.percent(known['accuracy_exit'])} of "
            f"{output.percent(known['accuracy_full'])} on {known['samples']:.0f} samples, drop at most "
            f"{output.percent(known['drop_upper_bound'])} at {100 * known['confidence']:g} % confidence; "
            f"{known['mean_steps']:.2f} of {net.time_steps} steps",
            markup=False,
        )


def _hardware(target: str | None, board: str | None, net: ChipNet) -> tuple[Target, Board | None]:
    """The chip, and the board where one was named, which names its chip too."""
    found = None if board is None else BOARDS[board]
    if found is not None and target not in (None, found.target):
        raise UsageError(f"--board {board}: has chips of kind {found.target}, not {target}; leave --target out")
    return target_of(target or (found.target if found else net.target)), found


def _per_layer(placement: Placement) -> list[dict[str, Any]]:
    """Cores of each layer and the fullest one's use of every resource."""
    rows = []
    for name, indices in placement.by_layer.items():
        cores = [placement.cores[i] for i in indices]
        shares = [placement.utilisation(core) for core in cores]
        rows.append(
            {
                "layer": name,
                "cores": len(cores),
                "neurons": max(core.neurons for core in cores),
                "profiles": max(core.profiles for core in cores),
                "utilisation": {resource: max(share[resource] for share in shares) for resource in shares[0]},
            }
        )
    return rows


def _print_placement(placement: Placement) -> None:
    rows = _per_layer(placement)
    resources = list(rows[0]["utilisation"])
    output.out().print(
        f"{placement.target.title}: at least {len(placement.cores)} cores, {placement.chips} "
        f"chip{'s' if placement.chips > 1 else ''}, {placement.synaptic_memory_bytes:,} bytes of synaptic memory "
        "(modelled; fullest core of each layer)",
        markup=False,
    )
    output.table(
        ("layer", "cores", *(_RESOURCES[name] for name in resources), "profiles"),
        [
            (
                row["layer"],
                row["cores"],
                *(output.percent(row["utilisation"][name]) for name in resources),
                row["profiles"],
            )
            for row in rows
        ],
    )


def print_findings(findings: list[Finding], target: Target) -> None:
    """Broken design rules, errors first."""
    if not findings:
        output.out().print(f"no design rule of {target.title} broken", style="green")
        return
    for finding in sorted(findings, key=lambda f: f.level):
        style = "red" if finding.level == "error" else "yellow"
        output.out().print(f"{finding.level}: {finding}", style=style, markup=False)


_RESOURCES = {
    "neurons_per_core": "neurons",
    "synapse_words": "synapses",
    "axons_in": "axons in",
    "axon_map": "axon map",
    "axons_out": "axons out",
    "core_words": "core",
}


_READOUT = {"count": "spike count", "potential": "potential at the last step"}


def _describe(layer: Layer, net: ChipNet, index: int) -> dict[str, Any]:
    kind = {"InputNeurons": "input", "Dense": "dense", "Conv": "conv"}[type(layer).__name__]
    weights: list[Any] = []
    if not isinstance(layer, InputNeurons):
        weights.append(layer.weight)
    if isinstance(layer, Dense) and layer.recurrent is not None:
        kind = "dense_rec"
        weights.append(layer.recurrent)
    if isinstance(layer, Dense) and layer.imaginary is not None:
        weights.append(layer.imaginary)
    parameters = {name: np.asarray(value) for name, value in vars(layer.neuron).items()}  # of any kind of neuron
    neuron = {name: [int(array.min()), int(array.max())] for name, array in parameters.items()}
    return {
        "name": layer.name,
        "type": kind,
        "shape": list(layer.shape),
        "neurons": int(np.prod(layer.shape)),
        "synapses": layer.synapses,
        "weights": sum(w.size for w in weights),
        "bits": mantissa(layer).bits,
        "neuron": neuron,
        "depth": index + (0 if isinstance(net.layers[0], InputNeurons) else 1),
    }


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape))


def _span(bounds: list[int] | None) -> str:
    if bounds is None:
        return ""
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"
