"""What each section of the page is given: figures, tables and sentences."""

from __future__ import annotations

import math
from typing import Any

from snn2chip import __version__
from snn2chip.chip import Layer, Neuron
from snn2chip.early_exit import detach
from snn2chip.hardware.memory import mantissa
from snn2chip.report import figures, neurons
from snn2chip.report.collect import Content, kind_of
from snn2chip.report.svg import Table
from snn2chip.report.words import NONE, count, index, interval, percent, plural, shape, si, significant, size, span

#: Anchors and titles, in order.
TITLES = {
    "network": "Network",
    "accuracy": "Accuracy",
    "divergence": "Divergence",
    "time": "Time and early exit",
    "activity": "Activity",
    "potentials": "Potentials",
    "weights": "Weights",
    "cores": "Cores",
    "cost": "Energy and time",
    "inexact": "Not exact",
    "origin": "Provenance",
}


NO_LAVA = "Lava is not installed where this page was made, so that our own reference took its place."
ENCODINGS = {"spikes": "spikes", "graded": "graded messages at each step", "hold": "one message, held on the chip"}
READOUTS = {"count": "most spikes", "potential": "highest potential at the last step"}


def network(content: Content) -> dict[str, Any]:
    """Layers, shapes, resources."""
    net, placement = content.net, content.costs.placement
    encoding = net.encoding
    bits = "" if encoding.kind == "spikes" else f", {encoding.message_bits} bits"
    cells = []
    rows = []
    for i, layer in enumerate(net.layers):
        cores = [placement.cores[k] for k in placement.by_layer[layer.name]]
        memory = 8 * sum(core.synapse_words for core in cores)
        width = mantissa(layer).bits if layer.synapses else None
        cells.append(
            {
                "css": figures.colour(i),
                "number": f"L{i + 1}",
                "name": layer.name,
                "lines": (
                    f"{kind_of(layer)} {shape(layer.shape)}",
                    plural(layer.synapses, "synapse"),
                    plural(len(cores), "core") + (f", {width} bit" if width else ""),
                ),
            }
        )
        rows.append(
            (
                figures.label(content, i),
                kind_of(layer),
                shape(layer.shape),
                count(math.prod(layer.shape)),
                count(layer.synapses),
                NONE if width is None else f"{width}",
                *(_parameter(layer, name) for name in ("threshold", "current_decay", "voltage_decay")),
                count(len(cores)),
                size(memory),
            )
        )
    facts = (
        ("input", f"{shape(net.input_shape)}, {ENCODINGS[encoding.kind]}{bits}"),
        ("time steps", f"{net.time_steps}, window {net.window}"),
        ("depth", plural(net.depth, "step")),
        ("read by", READOUTS[net.readout.kind]),
        ("neurons", count(sum(math.prod(layer.shape) for layer in net.layers))),
        ("synapses", count(sum(layer.synapses for layer in net.layers))),
        ("synaptic memory", size(placement.synaptic_memory_bytes)),
        ("target", placement.target.title),
    )
    columns = (
        "layer",
        "type",
        "shape",
        "neurons",
        "synapses",
        "bits",
        "threshold",
        "iDecay",
        "vDecay",
        "cores",
        "memory",
    )
    note = ""
    if net.exit is not None and net.exit.form != "host":
        added = [layer.name for layer in net.layers[len(detach(net).layers) :]]
        inside = math.prod(net.readout_layer.shape) - net.exit.classes
        where = (
            f"{net.exit.readout} holds {plural(inside, 'detector')} beside its {net.exit.classes} classes; "
            if inside
            else ""
        )
        note = f"The circuit of the early exit: {where}{' and '.join(added)} decide{'s' if len(added) == 1 else ''}."
    elif net.exit is not None:
        note = "The early exit has no circuit: its rule is applied to the readout, outside of the chip."
    return {
        "input": f"{shape(net.input_shape)}",
        "how": ENCODINGS[encoding.kind] + bits,
        "cells": cells,
        "facts": facts,
        "table": Table(columns, tuple(rows)),
        "figure": figures.shares(content),
        "note": note,
    }


def _parameter(layer: Layer, name: str) -> str:
    value = getattr(layer.neuron, name, None)
    if value is None:
        return NONE if isinstance(layer.neuron, Neuron) else f"({type(layer.neuron).__name__})"
    return span(int(value.min()), int(value.max()))


def accuracy(content: Content) -> dict[str, Any]:
    """The ladder from the trained model to the chip."""
    said = []
    table = layers = recorded = None
    if content.ladder is not None:
        rungs, samples = content.ladder
        table = Table(
            (
                f"on {plural(samples, 'sample')}",
                "accuracy",
                "95 %",
                "spikes",
                "spikes that differ from above",
                "same prediction as above",
            ),
            tuple(
                (
                    figures.RUNGS[name],
                    percent(rung.accuracy),
                    interval(rung.interval),
                    count(sum(rung.spikes.values())),
                    NONE if rung.differing_spikes is None else count(sum(rung.differing_spikes.values())),
                    percent(rung.agreement),
                )
                for name, rung in rungs.items()
            ),
        )
        layers = Table(
            ("neurons of", "spikes, trained", "lowered", "chip", "lowered as trained", "chip as lowered"),
            tuple(
                (
                    name,
                    *(count(rung.spikes[name]) for rung in rungs.values()),
                    *(percent(r.layer_agreement[name], 3) for r in rungs.values() if r.layer_agreement is not None),
                )
                for name in rungs["float"].spikes
            ),
        )
        if samples < content.ran.samples:
            said.append(
                f"The ladder takes the first {samples:,} of {content.ran.samples:,} samples, to bound its memory."
            )
    else:
        said.append("Only the chip is shown: --source model.pt adds the trained model, and what each layer loses.")
    if content.net.classes < 2:
        said.append("The readout is one neuron, so that there is no accuracy.")
    elif content.ran.y is None:
        said.append("The data have no classes y, so that no accuracy can be measured.")
    if content.recorded is not None:
        recorded = Table(
            (f"on {plural(content.recorded.samples, 'calibration sample')}", "accuracy"),
            tuple((figures.RUNGS[name], percent(value)) for name, value in content.recorded.accuracy.items()),
        )
    return {"figure": figures.accuracy(content), "table": table, "layers": layers, "recorded": recorded, "said": said}


def divergence(content: Content) -> dict[str, Any]:
    """Simulators bit for bit, and the chip against the trained model."""
    result, proof = content.proof.result, content.proof
    sizes = {layer.name: math.prod(layer.shape) for layer in content.net.layers}
    different = [n for n in sizes if result.differing_spikes[n] or result.differing_states[n]]
    each = content.net.window * result.samples
    table = Table(
        ("layer", "differing spikes", "of", "differing states", "of"),
        tuple(
            (
                figures.label(content, i),
                count(result.differing_spikes[layer.name]),
                count(each * sizes[layer.name]),
                count(result.differing_states[layer.name]),
                count(2 * each * sizes[layer.name]),
            )
            for i, layer in enumerate(content.net.layers)
        ),
    )
    first = None
    if result.first is not None:
        first = (
            ("layer", result.first.layer),
            ("sample", f"{result.first.sample}"),
            ("time step", f"{result.first.step}, counted from 0"),
            ("neuron", index(result.first.neuron)),
            (f"{result.first.variable} in {proof.against}", count(result.first.expected)),
            (f"{result.first.variable} in {proof.backend}", count(result.first.found)),
            ("likely cause", result.first.cause),
        )
    early = None
    if content.exit_proof is not None:
        rows = (
            ("circuit against the integer rule on its evidence", content.exit_proof.rule),
            ("windows ended at the decision against whole ones", content.exit_proof.stopped),
        )
        early = Table(
            ("early exit", "differing samples", "of"),
            tuple(
                (what, "not compared: no circuit" if found is None else count(found), count(content.exit_proof.samples))
                for what, found in rows
            ),
        )
    asked = min(content.options.proof_samples, content.ran.samples)
    bounded = (
        "" if result.samples == asked else f" The network is large: {result.samples} of {asked} samples were compared."
    )
    return {
        "equal": content.equal,
        "tone": "bad" if not content.equal else "good" if proof.against == "lava" else "warn",
        "head": f"{'Equal' if result.equal else 'Different'}: the {proof.backend} simulator against {content.against}",
        "text": f"{plural(result.samples, 'sample')}, {plural(result.layers, 'layer')}, every time step and neuron: "
        f"{plural(sum(result.differing_spikes.values()), 'differing spike')}, "
        f"{plural(sum(result.differing_states.values()), 'differing state')} (u or v).{bounded}",
        "note": NO_LAVA if proof.note else "",  # which names paths of this machine
        "different": different,
        "table": table,
        "first": first,
        "exit": early,
        "model": from_model(content),
    }


def from_model(content: Content) -> dict[str, Any] | None:
    """Chip against the trained model; None without a source."""
    if content.trained is None:
        return None
    samples = content.proof.result.samples
    rows = tuple(
        (
            figures.label(content, i),
            count(one.differing),
            percent(one.differing / max(1, one.values), 3),
            NONE if one.first is None else f"sample {one.first[0]}, step {one.first[1]}, neuron {index(one.first[2])}",
            NONE if one.weight_error is None else significant(one.weight_error),
        )
        for i, one in enumerate(content.apart)
        if one.differing or one.weight_error
    )
    changed = tuple(
        (
            one.layer or "network",
            one.what,
            one.first,
            one.second,
            NONE if one.changed is None else f"{one.changed:,} of {one.total:,}",
            NONE if one.largest is None else count(one.largest),
        )
        for one in content.changed
    )
    same = not rows and not changed
    on = plural(samples, "sample")
    if same:
        text = f"On {on} the chip fires exactly as its source; their integers are the same."
    elif content.trained.integers is not None:
        text = f"The source is integers of the chip, which the file should be; compared on {on}."
    else:
        text = (
            f"What rounding to integers changes on {on}, layer by layer, against the lowered model in double precision."
            " The last column is the largest distance of a weight from the trained one times the layer's scale: half a "
            "unit is rounding; more is clipping, second-order rounding, or a file that is not of this source."
        )
    columns = ("layer", "differing spikes", "share", "first", "largest weight error")
    return {
        "same": same,
        "text": text,
        "table": Table(columns, rows) if rows else None,
        "changed": Table(("layer", "what", "source", "file", "entries", "largest"), changed) if changed else None,
    }


def time(content: Content) -> dict[str, Any]:
    """Accuracy over time steps, early exit, accuracy against energy."""
    net, early = content.net, content.costs.exit
    said = []
    levels = None
    if early is None or net.exit is None:
        said.append("The network has no early exit; snn2chip cutoff calibrates one and adds its circuit.")
    else:
        rule = net.exit
        stated = dict(rule.calibration)
        where = "applied outside of the chip" if rule.form == "host" else f"as a circuit ({rule.form})"
        text = f"Rule: {rule.policy}, {where}"
        if {"samples", "drop_upper_bound", "confidence"} <= stated.keys():
            text += (
                f"; calibrated on {stated['samples']:,.0f} held-out samples, where the accuracy drops by at most "
                f"{100 * stated['drop_upper_bound']:.2f} points at {100 * stated['confidence']:g}\u00a0% confidence"
            )
        said.append(text + ".")
        levels = Table(
            ("windows", "steps between samples", "spikes", "operations", "energy", "dynamic", "time", "cores"),
            tuple(
                (
                    figures.LEVELS[cost.level],
                    significant(cost.steps),
                    count(cost.spikes),
                    count(cost.operations),
                    si(cost.energy, "J"),
                    si(cost.dynamic, "J"),
                    si(cost.seconds, "s"),
                    count(cost.cores),
                )
                for cost in early.levels
            ),
        )
    trade = figures.trade_off(content)
    if net.classes < 2:
        said.append("The readout is one neuron, so that there are no classes to decide between at any step.")
    elif trade is None:
        said.append("Without classes there is no trade-off of accuracy and energy to draw.")
    shown = (figures.over_time(content), figures.exit_times(content), trade)
    return {
        "figures": [figure for figure in shown if figure is not None],
        "levels": levels,
        "priced": 0 if early is None else early.priced,
        "said": said,
    }


def activity(content: Content) -> dict[str, Any]:
    """Rates and rasters."""
    drawn = neurons.rasters(content)
    more = len(content.net.layers) - len(drawn)
    said = [] if more <= 0 else [f"Rasters of {plural(more, 'layer')} in the middle are left out."]
    rule, readout = content.net.exit, content.net.readout_layer
    if rule is not None and math.prod(readout.shape) > rule.classes:
        said.append(
            f"Of {readout.name} the first {rule.classes} neurons are the readout, the others detectors of the exit."
        )
    if content.net.leaks:
        said.append("Samples are simulated one by one; on the chip, spikes in flight reach the next sample.")
    return {"figures": [neurons.rates(content), neurons.first_input(content), *drawn], "said": said}


def potentials(content: Content) -> dict[str, Any]:
    """Membrane potentials of some neurons."""
    drawn = neurons.potentials(content)
    said = []
    if content.trained is None:
        said.append("Only the chip's potentials are shown: --source model.pt draws the trained model's beside them.")
    elif content.trained.integers is None:
        said.append("The model is the source in chip form, in double precision; lowering leaves its spikes unchanged.")
    if content.trained is not None and not content.options.neurons:
        said.append(
            "Where spikes differ, the neuron that differs most is drawn: the worst of this sample, not the typical."
        )
    if len(content.membranes) > len(drawn):
        said.append(f"The first {len(drawn)} of {len(content.membranes)} neurons are drawn.")
    said.append("Other neurons: snn2chip report --neuron LAYER:INDEX.")
    return {"figures": drawn, "said": said}


def weights(content: Content) -> dict[str, Any]:
    """Weights before and after."""
    drawn = neurons.weight_histograms(content)
    said = []
    if content.trained is None:
        said.append("Weights before rounding are not shown: --source model.pt gives them.")
    elif content.trained.integers is not None:
        said.append("The source holds the chip's integers already; there is nothing before rounding.")
    else:
        said.append(
            "Trained weights are those after lowering (batch norm and pooling folded in), times the layer's scale. "
            "Weights that are zero in both are left out. Moves of more than half a unit are clipping or second-order "
            "rounding."
        )
    if len(content.weights) > len(drawn):
        said.append(f"The first {len(drawn)} of {len(content.weights)} layers are drawn.")
    labels = {layer.name: figures.label(content, i) for i, layer in enumerate(content.net.layers)}
    table = Table(
        ("layer", "weights", "different values", "zeros", "integers per unit", "moved by, rms", "at most"),
        tuple(
            (
                labels[one.layer],
                count(one.values),
                count(one.distinct),
                count(one.zeros),
                *(NONE if v is None else significant(v) for v in (one.scale, one.rms, one.largest)),
            )
            for one in content.weights
        ),
    )
    return {"figures": drawn, "said": said, "table": table if content.weights else None}


def cores(content: Content) -> dict[str, Any]:
    """Placement and design rules."""
    placement = content.costs.placement
    rows = []
    resources: list[str] = []
    for i, cores in enumerate(placement.by_layer.values()):
        uses = [placement.utilisation(placement.cores[k]) for k in cores]
        resources = list(uses[0])
        rows.append(
            (
                figures.label(content, i),
                count(len(cores)),
                *(percent(max(use[r] for use in uses), 1) for r in resources),
                count(max(placement.cores[k].profiles for k in cores)),
            )
        )
    findings = tuple(
        (
            finding.id,
            finding.level,
            finding.layer,
            f"{finding.what} is {finding.value}, limit {finding.limit}",
            finding.remedy,
        )
        for finding in sorted(content.findings, key=lambda f: f.level)
    )
    return {
        "figures": figures.core_maps(content),
        "text": f"{plural(len(placement.cores), 'core')} on {plural(placement.chips, 'chip')}, "
        f"{size(placement.synaptic_memory_bytes)} of synaptic memory. Placement is a model of the compiler: the number "
        "of cores is a lower bound.",
        "table": Table(
            ("fullest core of", "cores", *(figures.RESOURCES[r] for r in resources), "profiles"), tuple(rows)
        ),
        "findings": Table(("rule", "level", "layer", "found", "what to do"), findings) if findings else None,
        "target": placement.target.title,
    }


def cost(content: Content) -> dict[str, Any]:
    """Modelled energy and time."""
    estimate = content.costs.estimate
    return {
        "figure": figures.energy(content),
        "table": Table(
            ("of a sample", "low", "middle", "high"),
            tuple(
                (name, *(si(value, part.unit) for value in (part.low, part.mid, part.high)))
                for name, part in (
                    ("energy", estimate.total),
                    ("dynamic energy", estimate.dynamic),
                    ("static energy", estimate.static),
                    ("time", estimate.sample_time),
                    ("time of a step", estimate.step_time),
                )
            ),
        ),
        "text": f"Modelled, not measured, from the counts of {plural(content.ran.samples, 'sample')} with whole "
        f"windows of {plural(estimate.steps, 'step')}; {estimate.total.label}. The step time is set most often by "
        f"{estimate.busiest}.",
        "boundary": f"Boundary: {estimate.boundary}.",
        "source": estimate.source,
    }


def inexact(content: Content) -> dict[str, Any]:
    """Everything that is not exact."""
    return {
        "table": Table(
            ("what", "measured effect", "on"),
            tuple((line.what, line.effect, line.measured_on) for line in content.inexact),
        ),
        "listed": bool(content.net.inexact),
    }


def origin(content: Content) -> dict[str, Any]:
    """What the page was made of."""
    names = content.names
    kept = [
        ("network", names.net),
        ("data", f"{names.data}, the first {plural(content.ran.samples, 'sample')}"),
        ("trained model", names.source or "not given"),
        (
            "compared",
            f"event simulator against {content.against}, {plural(content.proof.result.samples, 'sample')}",
        ),
        ("simulated", "each sample from rest, in the event simulator"),
        ("snn2chip", __version__),
    ]
    return {
        "facts": kept,
        "hashes": Table(("file", "SHA-256"), tuple(names.hashes.items())) if names.hashes else None,
    }
