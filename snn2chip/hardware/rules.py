"""Design rules: what Lava and NetX accept but a chip does not.

Each rule is a function that yields the violations of a network, and a line in :data:`RULES`. A finding's id is the
target's prefix and the rule's name, as in ``L2-AXON-IN``. A rule is checked only where the target has its limit. A rule
whose limit is inferred, not documented or logged, warns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons
from snn2chip.errors import DoesNotFitError, UsageError
from snn2chip.hardware.memory import mantissa
from snn2chip.hardware.placement import Core, Placement, place
from snn2chip.hardware.targets import Board, Target
from snn2chip.names import suggestion

RuleLevel = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """A violated rule.

    Attributes:
        id: such as ``L2-AXON-IN``.
        level: ``error`` where the chip cannot hold it, ``warning`` where results or speed may suffer.
        layer: by the user's module path, or ``network``.
        what: the quantity, with its unit.
        value: what it is; ``limit``: what it may be.
        remedy: what to do instead.
    """

    id: str
    level: RuleLevel
    layer: str
    what: str
    value: int | str
    limit: int | str
    remedy: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.what} is {self.value}, limit {self.limit}; {self.remedy} ({self.id})"


@dataclass(frozen=True)
class Case:
    """What a rule looks at."""

    net: ChipNet
    target: Target
    placement: Placement
    board: Board


#: Layer, quantity, value, limit.
Violation = tuple[str, str, int | str, int | str]


@dataclass(frozen=True)
class Rule:
    """A rule; ``limits`` are those that it reads, the first decides whether it is more than a warning."""

    name: str
    level: RuleLevel
    limits: tuple[str, ...]
    remedy: str
    function: Callable[[Case], Iterator[Violation]]


def weight(case: Case) -> Iterator[Violation]:
    """Weights are an 8 bit mantissa times a power of two: -128..127, even to -256..254, or 0..255 of one sign.

    Source: Davies et al. 2018 (sign mode, exponent); nengo-loihi ``discretize_weights``; Lava keeps odd values beyond
    where NetX does not change them.
    """
    bits = case.target.value("weight_bits")
    for layer in case.net.layers:
        found = mantissa(layer)
        if found.bits > bits:
            span = f"{found.low << found.exponent}..{found.high << found.exponent}"
            allowed = f"{-(1 << bits - 1)}..{(1 << bits - 1) - 1}" if found.mixed else f"{(1 << bits) - 1} in magnitude"
            yield layer.name, "range of the weights", span, f"{allowed}, twice that where all are even"


def threshold(case: Case) -> Iterator[Violation]:
    """The threshold mantissa has 17 bits; 131072, NetX's default integrator, runs in Lava only.

    Source: Lava ``proc/lif/models.py``; nengo-loihi ``VTH_MAN_MAX``.
    """
    yield from _parameter(case, "threshold", "threshold", "threshold mantissa")


def voltage_decay(case: Case) -> Iterator[Violation]:
    """``vDecay`` has 12 bits: 4096 (forget fully) runs in Lava only.

    Source: Lava ``proc/lif/models.py``; nengo-loihi ``DECAY_V_MAX``.
    """
    yield from _parameter(case, "voltage_decay", "voltage_decay", "vDecay")


def current_decay(case: Case) -> Iterator[Violation]:
    """The register holds ``iDecay - 1``, unsigned on Loihi 1; Loihi 2 takes -1.

    Source: nengo-loihi asserts ``decay_u >= 0``; Intel's PilotNet tutorial sets ``du = -1`` on Loihi 2.
    """
    least = case.target.value("current_decay_min")
    for layer in case.net.layers:
        decay = getattr(layer.neuron, "current_decay", None)
        if decay is not None and (decay < least).any():
            yield layer.name, "iDecay", int(decay.min()), f"{least} or more"


def bias(case: Case) -> Iterator[Violation]:
    """The bias mantissa has 13 bits, Lava's has 16.

    Source: Davies et al. 2018; Lava ``proc/lif/models.py``.
    """
    low, high = case.target.value("bias_min"), case.target.value("bias_max")
    for layer in case.net.layers:
        values = getattr(layer.neuron, "bias", None)
        if values is not None and ((values < low) | (values > high)).any():
            worst = int(values.flat[np.abs(values).argmax()])
            yield layer.name, "bias mantissa", worst, f"{low}..{high}"


def delay(case: Case) -> Iterator[Violation]:
    """Synaptic delays have 6 bits, of which 62 steps can be used.

    Source: Davies et al. 2018; NetX clamps to 62.
    """
    for layer in case.net.layers:
        if isinstance(layer, Dense) and layer.delay is not None and not case.target.within("delay", _max(layer.delay)):
            yield layer.name, "delay in steps", _max(layer.delay), case.target.value("delay")


def graded(case: Case) -> Iterator[Violation]:
    """Messages with a payload, which Loihi 1 does not know.

    Source: Davies et al. 2018; Intel's Loihi 2 brief (up to 32 bits). Lava holds sigma-delta messages in 32 bits.
    """
    bits = case.target.value("payload_bits")
    first = case.net.layers[0]
    if case.net.encoding.message_bits > bits and not isinstance(first, InputNeurons):  # those are driven by their bias
        yield first.name, "bits of an input message", case.net.encoding.message_bits, bits
    for layer in case.net.layers[:-1]:
        if layer.neuron.graded and bits < 32:
            yield layer.name, "bits of a message", 32, bits


def neuron_kind(case: Case) -> Iterator[Violation]:
    """Neurons other than current-based leaky ones need Loihi 2's programmable neurons.

    Source: Davies et al. 2018; Intel's Loihi 2 brief.
    """
    for layer in case.net.layers:
        kind = type(layer.neuron).__name__
        if kind not in case.target.neuron_kinds:
            yield layer.name, "kind of neurons", kind, ", ".join(case.target.neuron_kinds)


def window(case: Case) -> Iterator[Violation]:
    """The periodic reset counts in powers of two.

    Source: Intel's PilotNet tutorial uses 16; Lava's reset takes any interval.
    """
    steps = case.net.window
    if case.net.resettable and steps & (steps - 1):
        yield "network", "window in steps", steps, f"a power of two, such as {1 << steps.bit_length()}"


def input_width(case: Case) -> Iterator[Violation]:
    """Wide convolutions may lose spikes next to every 256th column.

    Source: warning of Intel's compiler in lava-dl's netx/yolo_kp/run.ipynb.
    """
    for layer in case.net.layers:
        if isinstance(layer, Conv) and not case.target.within("conv_input_width", layer.input_shape[2]):
            limit = case.target.value("conv_input_width")
            yield layer.name, "input width in pixels", layer.input_shape[2], limit


def conv_input(case: Case) -> Iterator[Violation]:
    """A convolution that the host feeds with more positions than a core has axons: transfer will dominate.

    Source: lava-dl's netx/pilotnet_sdnn/benchmark.ipynb names the transfer of frames as the bottleneck; that it grows
    bad at the size of the axon table is inferred.
    """
    first = case.net.layers[0]
    size = int(np.prod(first.input_shape))
    if isinstance(first, Conv) and not case.target.within("axons_in", size):
        yield first.name, "positions of the input", size, case.target.value("axons_in")


def weight_sum(case: Case) -> Iterator[Violation]:
    """The sum of |weights| of one neuron, all inputs firing at once, may leave the accumulator.

    Source: inferred, 16 bits of dendritic accumulator; Lava sums in 24 bits or more.
    """
    for layer in case.net.layers:
        if not isinstance(layer, InputNeurons) and not case.target.within("weight_sum", layer.largest_sum(1)):
            yield (
                layer.name,
                "largest sum of |weights| of a neuron",
                layer.largest_sum(1),
                case.target.value("weight_sum"),
            )


def profiles(case: Case) -> Iterator[Violation]:
    """Different (threshold, iDecay, vDecay) of the neurons of one core.

    Source: nengo-loihi ``hardware/validate.py`` (Loihi 1); neuron groups in lava-dl's netx/yolo_kp/run.ipynb (Loihi 2).
    """
    yield from _per_core(case, "neuron_profiles", "neuron profiles of a core", lambda core: core.profiles)


def thresholds(case: Case) -> Iterator[Violation]:
    """Different thresholds of the neurons of one core.

    Source: nengo-loihi ``hardware/validate.py``.
    """
    yield from _per_core(case, "threshold_profiles", "thresholds of a core", lambda core: core.thresholds)


def axon_in(case: Case) -> Iterator[Violation]:
    """Axons that end on one core.

    Source: nengo-loihi ``MAX_IN_AXONS``; compiler log of YOLO-KP.
    """
    yield from _per_core(case, "axons_in", "input axons of a core", lambda core: core.axons_in)


def axon_out(case: Case) -> Iterator[Violation]:
    """Axons that leave one core, one for each neuron and core that it sends to.

    Source: nengo-loihi ``MAX_OUT_AXONS``.
    """
    yield from _per_core(case, "axons_out", "output axons of a core", lambda core: core.axons_out)


def axon_map(case: Case) -> Iterator[Violation]:
    """Entries of the table that sends messages out.

    Source: compiler log of YOLO-KP.
    """
    yield from _per_core(case, "axon_map", "axon map entries of a core", lambda core: core.axon_map)


def neurons(case: Case) -> Iterator[Violation]:
    """Neurons of one core.

    Source: Davies et al. 2018; compiler log of YOLO-KP.
    """
    yield from _per_core(case, "neurons_per_core", "neurons of a core", lambda core: core.neurons)


def synaptic_memory(case: Case) -> Iterator[Violation]:
    """Words of synapses on one core; a single neuron's inputs can be too many.

    Source: Davies et al. 2018; compiler log of YOLO-KP.
    """
    yield from _per_core(case, "synapse_words", "synaptic memory of a core in words", lambda core: core.synapse_words)


def core_memory(case: Case) -> Iterator[Violation]:
    """Words of synapses, neurons and axons on one core.

    Source: compiler log of YOLO-KP, column Total.
    """
    yield from _per_core(case, "core_words", "memory of a core in words", lambda core: core.words)


def cores(case: Case) -> Iterator[Violation]:
    """Cores of the board.

    Source: number of chips, and of cores of a chip.
    """
    used, limit = len(case.placement.cores), case.target.value("cores_per_chip") * case.board.chips
    if used > limit:
        largest = max(case.placement.by_layer.items(), key=lambda item: len(item[1]))
        what = f"number of cores ({len(largest[1])} for this layer)"
        yield largest[0], what, used, f"{limit} on {case.board.name}"


RULES = (
    Rule("WEIGHT", "error", ("weight_bits",), "lower the weight scale, or use even weights", weight),
    Rule("THRESHOLD", "error", ("threshold",), "131071 never fires either while v stays below 8388545", threshold),
    Rule("VDECAY", "error", ("voltage_decay",), "4095 and a threshold that the residue cannot cross", voltage_decay),
    Rule(
        "IDECAY", "error", ("current_decay_min",), "1 decays by 1/4096 a step; or send input each step", current_decay
    ),
    Rule("BIAS", "error", ("bias_min", "bias_max"), "lower the weight scale of the layer", bias),
    Rule("DELAY", "error", ("delay",), "shorten the delays, or add a layer of relays", delay),
    Rule("GRADED", "error", ("payload_bits",), "encode the input as spikes, or use Loihi 2", graded),
    Rule("NEURON", "error", (), "use Loihi 2", neuron_kind),
    Rule("WINDOW", "warning", (), "export with --window; the steps added stay silent", window),
    Rule("INPUT-WIDTH", "warning", ("conv_input_width",), "crop, pool or tile the input", input_width),
    Rule(
        "CONV-INPUT",
        "warning",
        ("axons_in",),
        "pool or crop the input, or expect slow transfer to the chip",
        conv_input,
    ),
    Rule("WEIGHT-SUM", "warning", ("weight_sum",), "lower the weight scale, or use fewer inputs", weight_sum),
    Rule("PROFILES", "error", ("neuron_profiles",), "let neurons of a layer share thresholds and decays", profiles),
    Rule("THRESHOLDS", "error", ("threshold_profiles",), "let neurons of a layer share thresholds", thresholds),
    Rule("AXON-IN", "error", ("axons_in",), "use fewer inputs, or split the layer into two that are added", axon_in),
    Rule("AXON-OUT", "error", ("axons_out",), "use fewer neurons, or a next layer that fits on fewer cores", axon_out),
    Rule("AXON-MAP", "error", ("axon_map",), "use fewer neurons in a layer", axon_map),
    Rule("NEURONS", "error", ("neurons_per_core",), "use fewer neurons in a layer", neurons),
    Rule("SYN-MEM", "error", ("synapse_words",), "use fewer inputs or narrower weights (--bits)", synaptic_memory),
    Rule("CORE-MEM", "error", ("core_words",), "use fewer inputs or narrower weights (--bits)", core_memory),
    Rule("CORES", "error", ("cores_per_chip",), "use fewer or narrower weights (--bits), or a larger board", cores),
)


def check(
    net: ChipNet, target: Target, placement: Placement | None = None, board: Board | None = None
) -> list[Finding]:
    """Violations of all rules, in the order of :data:`RULES`.

    Args:
        placement: of ``net`` on ``target``; made where it is None.
        board: that has to hold it; the target's largest where it is None.
    """
    placement = placement or place(net, target)
    board = board or max(target.boards.values(), key=lambda b: b.chips)
    case = Case(net, target, placement, board)
    found = []
    for rule in RULES:
        if not all(name in target.limits for name in rule.limits):
            continue
        inferred = any(target.limits[name].confidence == "inferred" for name in rule.limits[:1])
        level: RuleLevel = "warning" if inferred else rule.level
        for layer, what, value, limit in rule.function(case):
            found.append(Finding(f"{target.prefix}-{rule.name}", level, layer, what, value, limit, rule.remedy))
    return found


def require(findings: list[Finding], allowed: Collection[str] = ()) -> None:
    """Refuse errors whose id is not in ``allowed``.

    Raises:
        DoesNotFitError: an error that is not allowed; the first is named.
        UsageError: ``allowed`` holds what is no rule's id.
    """
    known = {f"{prefix}-{rule.name}" for prefix in ("L1", "L2") for rule in RULES}
    unknown = sorted(set(allowed) - known)
    if unknown:
        raise UsageError(
            f"allow: {unknown[0]!r} is no rule{suggestion(unknown[0], sorted(known), ', expected one of ')}"
        )
    refused = [finding for finding in findings if finding.level == "error" and finding.id not in allowed]
    if refused:
        more = f"; {len(refused) - 1} more" if len(refused) > 1 else ""
        raise DoesNotFitError(f"{refused[0]}; --allow {refused[0].id} exports all the same{more}")


def _max(values: Any) -> int:
    return int(np.asarray(values).max())


def _parameter(case: Case, attribute: str, limit: str, what: str) -> Iterator[Violation]:
    for layer in case.net.layers:
        values = getattr(layer.neuron, attribute, None)
        if values is not None and not case.target.within(limit, _max(values)):
            yield layer.name, what, _max(values), case.target.value(limit)


def _per_core(case: Case, limit: str, what: str, count: Callable[[Core], int]) -> Iterator[Violation]:
    """The worst core of each layer."""
    for name, indices in case.placement.by_layer.items():
        worst = max(count(case.placement.cores[i]) for i in indices)
        if not case.target.within(limit, worst):
            yield name, what, worst, case.target.value(limit)
