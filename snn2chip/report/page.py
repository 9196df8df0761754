"""The page: content to HTML, by the template, with every text escaped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import jinja2

from snn2chip import __version__
from snn2chip.report import sections
from snn2chip.report.collect import Content
from snn2chip.report.figures import RESOURCES
from snn2chip.report.words import count, interval, percent, plural, points, si

#: Nothing is fetched and nothing runs, whatever a name in a file holds.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"

Tone = Literal["good", "warn", "bad", "plain"]


@dataclass(frozen=True)
class Tile:
    """One figure of the summary."""

    label: str
    value: str
    detail: str
    tone: Tone
    section: str


def page(content: Content) -> str:
    """One HTML page; the same content gives the same text."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("snn2chip.report").joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("report.html").render(
        policy=POLICY,
        version=__version__,
        sections=sections.TITLES,
        names=content.names,
        tiles=tiles(content),
        verdict=verdict(content),
        network=sections.network(content),
        accuracy=sections.accuracy(content),
        divergence=sections.divergence(content),
        time=sections.time(content),
        activity=sections.activity(content),
        potentials=sections.potentials(content),
        weights=sections.weights(content),
        cores=sections.cores(content),
        cost=sections.cost(content),
        inexact=sections.inexact(content),
        origin=sections.origin(content),
    )
    return html.encode("utf-8", "replace").decode("utf-8")  # names in files can hold half of a character


def summary(content: Content) -> dict[str, Any]:
    """The figures of the summary, for programs."""
    ran, proof, cost, early = content.ran, content.proof, content.costs, content.costs.exit
    return {
        "samples": ran.samples,
        "accuracy": ran.accuracy(ran.predictions),
        "float_accuracy": None if content.ladder is None else content.ladder[0]["float"].accuracy,
        "against": proof.against,
        "equal": content.equal,
        "compared_samples": proof.result.samples,
        "differing_spikes": sum(proof.result.differing_spikes.values()),
        "differing_states": sum(proof.result.differing_states.values()),
        "cores": len(cost.placement.cores),
        "energy": cost.estimate.total.mid,
        "seconds_per_sample": cost.estimate.sample_time.mid,
        "exit": None
        if early is None
        else {
            "accuracy": early.accuracy,
            "mean_steps": float(early.took.cutoff.mean()),
            "mean_latency_steps": float(early.took.chip.mean()),
            "exited": early.exited,
        },
        "inexact": [line.what for line in content.inexact],
    }


# Summary


def _compared_values(content: Content) -> int:
    """Spikes, u and v."""
    neurons = sum(math.prod(layer.shape) for layer in content.net.layers)
    return 3 * neurons * content.net.window * content.proof.result.samples


def _chip_accuracy(content: Content) -> tuple[float | None, tuple[float, float] | None, int]:
    """Accuracy on the chip, its interval and how many samples: the ladder's, where there is one, for both to agree."""
    if content.ladder is not None:
        rung = content.ladder[0]["chip"]
        return rung.accuracy, rung.interval, content.ladder[1]
    ran = content.ran
    return ran.accuracy(ran.predictions), ran.interval(ran.predictions), ran.samples


def verdict(content: Content) -> str:
    """One sentence: right or not, how accurate, at what cost."""
    result, cost = content.proof.result, content.costs
    if content.equal:
        said = f"Equal to {content.against} in every spike and state of {plural(result.samples, 'sample')}"
    else:
        spikes, states = (sum(d.values()) for d in (result.differing_spikes, result.differing_states))
        found = f"{plural(spikes, 'spike')} and {plural(states, 'state')} of {plural(result.samples, 'sample')}"
        said = f"Different from {content.against}: {found}"
        if result.equal:
            said = f"Equal to {content.against}, but the early exit differs from its rule"
    known, _, samples = _chip_accuracy(content)
    if known is not None:
        said += f". {percent(known)} of {plural(samples, 'sample')} are classified correctly"
        trained = None if content.ladder is None else content.ladder[0]["float"].accuracy
        if trained is not None:
            side = "below" if known < trained else "above"
            by = points(abs(known - trained)).lstrip("+")
            said += ", as many as by the trained model" if known == trained else f", {by} {side} the trained model"
    cores, chips = len(cost.placement.cores), cost.placement.chips
    where = f"{'a' if chips == 1 else chips} {cost.placement.target.title} chip{'' if chips == 1 else 's'}"
    return (
        f"{said}. The network takes {plural(cores, 'core')} of {where} and, by the cost model, "
        f"{si(cost.estimate.total.mid, 'J')} and {si(cost.estimate.sample_time.mid, 's')} a sample."
    )


def _no_accuracy(content: Content) -> str:
    return "The data have no classes" if content.net.classes > 1 else "The readout is one neuron"


def tiles(content: Content) -> tuple[Tile, ...]:
    """What is seen at one glance."""
    net, proof, cost = content.net, content.proof, content.costs
    spikes, states = (sum(d.values()) for d in (proof.result.differing_spikes, proof.result.differing_states))
    values = f"{count(_compared_values(content))} values, {plural(proof.result.samples, 'sample')}"
    tone: Tone = "bad" if not content.equal else "good" if proof.against == "lava" else "warn"
    against = "reference" if proof.against == "reference" else content.against
    found = [
        Tile(
            "Bit for bit",
            f"{'Equal to' if content.equal else 'Differs from'} {against}",
            f"{plural(spikes + states, 'difference')} in {values}"
            + (". Lava was not run" if proof.against != "lava" else ""),
            tone,
            "divergence",
        )
    ]
    known, bounds, samples = _chip_accuracy(content)
    trained = None if content.ladder is None else content.ladder[0]["float"].accuracy
    if known is None:
        found.append(Tile("Accuracy", "not measured", _no_accuracy(content), "plain", "accuracy"))
    elif trained is None:
        found.append(
            Tile(
                "Accuracy",
                percent(known),
                f"95 %: {interval(bounds)}, {plural(samples, 'sample')}",
                "plain",
                "accuracy",
            )
        )
    else:
        value = f"{100 * trained:.2f} → {percent(known)}"
        detail = f"{points(known - trained)}, float to chip; 95 %: {interval(bounds)}, {plural(samples, 'sample')}"
        found.append(Tile("Accuracy", value, detail, "plain", "accuracy"))
    placement = cost.placement
    resource, share = max(
        (entry for core in placement.cores for entry in placement.utilisation(core).items()), key=lambda entry: entry[1]
    )
    errors = [finding for finding in content.findings if finding.level == "error"]
    per_chip = placement.target.value("cores_per_chip")
    chips = "" if placement.chips == 1 else f" on {placement.chips} chips"
    found += [
        Tile(
            "Cores",
            f"{len(placement.cores):,} of {placement.chips * per_chip:,}{chips}",
            f"{placement.target.title}; fullest {RESOURCES[resource]}: {percent(share, 0)}",
            "bad" if errors else "plain",
            "cores",
        ),
        Tile(
            "Energy of a sample",
            si(cost.estimate.total.mid, "J"),
            f"modelled: {si(cost.estimate.total.low, 'J')} to {si(cost.estimate.total.high, 'J')}",
            "plain",
            "cost",
        ),
        Tile(
            "Time of a sample",
            si(cost.estimate.sample_time.mid, "s"),
            f"modelled; answer after {net.time_steps + net.depth if cost.exit is None else cost.exit.took.full_chip} "
            "time steps",
            "plain",
            "cost",
        ),
    ]
    if cost.exit is None:
        found.append(Tile("Early exit", "none", "Each sample takes its whole window", "plain", "time"))
    else:
        took = cost.exit.took
        answer = f"answer after {took.chip.mean():.2f} of {took.full_chip}"
        right = "" if cost.exit.accuracy is None else f"; {percent(cost.exit.accuracy)} right"
        found.append(
            Tile("Early exit", f"{took.cutoff.mean():.2f} of {took.full_cutoff} steps", answer + right, "plain", "time")
        )
    warnings = len(content.findings) - len(errors)
    found.append(
        Tile(
            "Design rules",
            "all kept" if not content.findings else f"{len(content.findings)} broken",
            f"{plural(len(errors), 'error')}, {plural(warnings, 'warning')}",
            "bad" if errors else "warn" if warnings else "good",
            "cores",
        )
    )
    listed = len(content.net.inexact)
    found.append(
        Tile(
            "Not exact",
            plural(len(content.inexact), "entry", "entries"),
            "each with its measured effect" if not listed else f"{listed} listed in the file",
            "plain",
            "inexact",
        )
    )
    return tuple(found)
