"""All numbers of a report."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Conv, InputNeurons, Layer
from snn2chip.data import Data
from snn2chip.differences import Difference
from snn2chip.early_exit import ExitProof, verify_exit
from snn2chip.errors import InputError
from snn2chip.graph import Graph
from snn2chip.hardware import Finding, check
from snn2chip.ladder import Rung, ladder
from snn2chip.long_runs import Progress
from snn2chip.prove import Proof, prove
from snn2chip.report.inexact import Line, lines
from snn2chip.report.model import Apart, Index, Membrane, Trained, Weights, apart, changed_integers, match, membranes
from snn2chip.report.model import weights as weights_of
from snn2chip.report.timing import Costs, Run, costs, run
from snn2chip.traces import encode
from snn2chip.verification import verify

Array = npt.NDArray[Any]

PROOF_BYTES = 512 << 20  # of two simulators' recordings of everything
LADDER_BYTES = 512 << 20  # of three rungs' spikes
PRICED_SAMPLES = 250
PRICED_BYTES = 256 << 20  # of all layers' spikes


@dataclass(frozen=True)
class Options:
    """What a report is made of.

    Attributes:
        samples: of the data, the first so many.
        proof_samples: of these, compared in two simulators; fewer where the network is large.
        against: ``lava`` or ``reference``; None for Lava where it can run, else the reference, which the page says.
        timeout: seconds that Lava may take.
        neurons: whose potentials are shown, layer and index; one of each layer where none is named.
    """

    samples: int = 1000
    proof_samples: int = 16
    against: str | None = None
    timeout: float = 600.0
    neurons: tuple[tuple[str, Index], ...] = ()


@dataclass(frozen=True)
class Names:
    """What the page calls the files, and (by their names) their SHA-256."""

    net: str = "network"
    data: str = "data"
    source: str | None = None
    hashes: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(net: Path, data: Path, source: Path | None = None) -> Names:
        """Of files, whose folders are nobody's business; data, which may be large or a folder, are not hashed."""
        files = [net] if source is None else [net, source]
        hashes = {file.name: _sha256(file) for file in files}
        return Names(net.name, data.name, None if source is None else source.name, hashes)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class Activity:
    """Spikes of one layer.

    Attributes:
        rate: spikes per neuron and step, over all samples.
        per_step: the same at each step of the window, ``[W]``.
        never, always: share of neurons that never, or at every step, fired in the compared samples.
        operations: synaptic operations of a sample.
    """

    layer: str
    spikes: int
    rate: float
    per_step: npt.NDArray[np.float64]
    never: float
    always: float
    operations: float


@dataclass(frozen=True)
class Recorded:
    """The ladder that ``export`` measured and wrote into the file: samples, and accuracy of each rung."""

    samples: int
    accuracy: dict[str, float | None]


@dataclass(frozen=True)
class Content:
    """Everything that the page shows.

    Attributes:
        ran: the event simulator on all samples.
        proof: the bit for bit comparison.
        first: messages of the first sample ``[T, *input_shape]``.
        ladder: rungs, and the samples they were measured on; None without a source.
        recorded: the ladder in the file; None without one.
        apart: chip against the lowered model, layer by layer; empty without a source.
        changed: integers that are not those of an integer source.
        exit_proof: circuit, rule and ended windows against one another; None without an exit.
    """

    net: ChipNet
    names: Names
    options: Options
    ran: Run
    proof: Proof
    first: Array
    activity: tuple[Activity, ...]
    costs: Costs
    findings: tuple[Finding, ...]
    weights: tuple[Weights, ...]
    membranes: tuple[Membrane, ...]
    inexact: tuple[Line, ...]
    trained: Trained | None = None
    ladder: tuple[dict[str, Rung], int] | None = None
    recorded: Recorded | None = None
    apart: tuple[Apart, ...] = ()
    changed: tuple[Difference, ...] = ()
    exit_proof: ExitProof | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing that was compared bit for bit differs."""
        return self.proof.result.equal and (self.exit_proof is None or self.exit_proof.equal)

    @property
    def against(self) -> str:
        """What was compared with, in words."""
        return "Lava" if self.proof.against == "lava" else f"the {self.proof.against}"


def collect(
    net: ChipNet,
    data: Data,
    source: Graph | None = None,
    notes: tuple[str, ...] = (),
    options: Options | None = None,
    names: Names | None = None,
    measured: Mapping[str, Any] | None = None,
    status: Progress = lambda text, done, total: None,
) -> Content:
    """Simulate, compare and price ``net``.

    Args:
        data: samples and perhaps classes.
        source: the network as trained; ``notes``: what had to be assumed to read it.
        measured: what ``export`` wrote into the file (:func:`snn2chip.exporters.netx.read_measured`).
        status: called with what is worked on, how much of it is done, and of how much (0: unknown).

    Raises:
        InputError: the data do not fit, or ``measured`` is malformed.
        UsageError: the source is of another network; a neuron does not exist.
        LavaError: Lava failed, or (``against="lava"``) is missing.
    """
    options, names = options or Options(), names or Names()
    recorded = recorded_ladder(measured or {})
    neurons = sum(math.prod(layer.shape) for layer in net.layers)
    limits = [
        options.proof_samples,
        PROOF_BYTES // (net.window * neurons * 18),
        PRICED_BYTES // (net.window * neurons),
        LADDER_BYTES // (net.time_steps * neurons * 12),
    ]
    compared, priced, climbed = (
        max(1, min(most, options.samples, len(data)))
        for most in (min(limits[:2]), min(PRICED_SAMPLES, limits[2]), limits[3])
    )
    head, _ = data.read(0, max(compared, priced))
    status("matching the source", 0, 0)
    trained = None if source is None else match(source, net, head, notes)
    ran = run(net, data, options.samples, status)
    status(f"comparing {compared} samples", 0, 0)
    proof = _proof(net, head[:compared], options)
    rungs = None
    if trained is not None:
        status("measuring the ladder", 0, 0)
        x, y = data.read(0, climbed)
        rungs = ladder(trained.graph, trained.lowered, net, x, y if net.classes > 1 else None), len(x)
    status("pricing", 0, 0)
    cost = costs(net, ran, head[:priced])
    weights = weights_of(net, trained)
    return Content(
        net=net,
        names=names,
        options=options,
        ran=ran,
        proof=proof,
        first=encode(net, head[:1])[0],
        activity=tuple(_activity(layer, ran, proof) for layer in net.layers),
        costs=cost,
        findings=tuple(check(net, cost.placement.target, cost.placement)),
        weights=weights,
        membranes=membranes(net, proof.result.expected, trained, head[:compared], options.neurons),
        inexact=lines(net, ran, cost, weights, trained, rungs, head[:compared]),
        trained=trained,
        ladder=rungs,
        recorded=recorded,
        apart=() if trained is None else apart(trained, net, head[:compared]),
        changed=() if trained is None else changed_integers(trained, net),
        exit_proof=None if net.exit is None else verify_exit(net, head[:compared], in_lava=False),
    )


def _proof(net: ChipNet, x: Array, options: Options) -> Proof:
    if options.against is None:
        return prove(net, x, options.timeout)
    waits: dict[str, Any] = {"timeout": options.timeout} if options.against == "lava" else {}
    return Proof(verify(net, x, options.against, **waits), options.against, "event")


def _activity(layer: Layer, ran: Run, proof: Proof) -> Activity:
    counts = ran.traces.spikes_per_step[layer.name]
    neurons = math.prod(layer.shape)
    fired = proof.result.expected.spikes[layer.name] != 0
    return Activity(
        layer.name,
        int(counts.sum()),
        float(counts.sum()) / (ran.samples * len(counts) * neurons),
        counts / (ran.samples * neurons),
        float((~fired.any((0, 1))).mean()),
        float(fired.all((0, 1)).mean()),
        float(ran.traces.operations_per_step[layer.name].sum()) / ran.samples,
    )


def recorded_ladder(measured: Mapping[str, Any]) -> Recorded | None:
    """The ladder of ``measured``, whose values nobody has checked.

    Raises:
        InputError: it is not what ``export`` writes.
    """
    if "ladder" not in measured:
        return None
    rungs, samples = measured["ladder"], measured.get("samples")
    wrong = InputError("snn2chip: the ladder in the file's metadata is malformed; export the network again")
    if not isinstance(rungs, dict) or type(samples) is not int or samples < 1:
        raise wrong
    accuracy: dict[str, float | None] = {}
    for name in ("float", "graph", "chip"):
        rung = rungs.get(name)
        if not isinstance(rung, dict):
            raise wrong
        value = rung.get("accuracy")
        if value is not None and (type(value) not in (int, float) or not 0 <= value <= 1):
            raise wrong
        accuracy[name] = value
    return Recorded(samples, accuracy)


def kind_of(layer: Layer) -> str:
    """What NetX calls it."""
    if isinstance(layer, InputNeurons):
        return "input"
    if isinstance(layer, Conv):
        return "conv"
    return "recurrent" if layer.recurrent is not None else "dense"
