"""The rule as chip layers: detectors that compare evidence, and coincidence neurons that fire for a class.

::

    spikes       ... -> output -> detectors -> decision
    potentials   ... -> hidden -> [readout; detectors] -> decision        the readout's own rows stay as they are
    patience     ... -> detectors -> k copies of each leader -> decision, copy d through a delay of d steps
    first-spike  ... -> output -> decision                                 own spike, inhibited by lower classes

A detector holds its sum D in the current (``iDecay`` 0), doubled, and compares it at each step with a threshold between
two of its values::

    u = 64 * 2 D      fires where D >= m:   vth = 2 m - 1, bias 0;   m = 0:   vth = 0, bias 1      (``vDecay`` 4095)

Row of the pair (i, j): W_i - W_j. For a margin of m >= 1 class i decides where all its pairs reach m. Where ties have
to be decided (m = 0, and the leader of ``threshold``), pairs with i < j compare with 0, the others with 1: of each two
classes exactly one wins, so that no step has two decisions.

On potentials rows are scaled and rounded to the integers that leave the law exact, for every input of a window:

- doubled they stay within -126..126, beside the readout's odd weights in one matrix (LOIHI.md, safe weights),
- no sum of a window reaches 2^17, where u would wrap,
- what ``vDecay`` 4095 leaves of v, ``|v| >> 12``, never spans the gap of 64 between D and the threshold: m <= 2048,
  and no step adds more than 2048 to D.

The readout's bias is not part of u. Neurons of the layer before that fire at each step (*clocks*) carry it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, Exit, ExitForm, ExitPolicy, Layer, Neuron
from snn2chip.early_exit.evidence import pair_order, require_evidence
from snn2chip.early_exit.policies import RUNGS, ladder_costs
from snn2chip.errors import LimitError, UnsupportedError, UsageError

Int = npt.NDArray[np.int64]

#: Largest magnitude of a detector's weight before it is doubled.
LEVELS = 63
#: Largest threshold, and largest step of D, that the residual of v cannot cross.
THRESHOLD_MAX = 2048
#: ``|2 D|`` below this for every input.
WINDOW_MAX = limits.STATE_LIMIT >> limits.STATE_SHIFT

DETECTORS, LEADERS, DECISION = "exit detectors", "exit leaders", "exit decision"
COINCIDENCE = 64  # weight of a coincidence neuron's inputs

_FORMS: dict[str, tuple[ExitForm, ...]] = {
    "margin": ("pairs",),
    "softmax": ("ladder", "pairs"),
    "threshold": ("pairs", "band"),
    "first-spike": ("first",),
    "patience": ("run",),
}


@dataclass(frozen=True)
class Rows:
    """Detectors, before they are doubled.

    Attributes:
        weight: ``[rows, inputs]``, clocks last.
        clocks: how many of the inputs fire at each step.
        scale: integers per unit of the readout's evidence, numerator and denominator.
        error: largest rounding error of a weight, in units of the readout.
    """

    weight: Int
    clocks: int
    scale: tuple[int, int]
    error: float


def forms_of(policy: ExitPolicy) -> tuple[ExitForm, ...]:
    """Circuits that compute a policy, the exact one first."""
    return _FORMS[policy]


def attach(
    net: ChipNet,
    policy: ExitPolicy,
    threshold: int | tuple[int, ...],
    form: ExitForm | None = None,
    *,
    rival: int | None = None,
    levels: int = LEVELS,
    calibration: tuple[tuple[str, float], ...] = (),
) -> ChipNet:
    """``net`` with the circuit of an early exit; a circuit that is there already is replaced.

    The readout, and with it the prediction of the full window, stays as it is, bit for bit.

    Args:
        policy: see :mod:`snn2chip.early_exit.policies`.
        threshold: integer, of the circuit's evidence; of ``patience``: steps; of a ladder: its rungs.
        form: see :class:`snn2chip.chip.Exit`; by default the exact one.
        rival: of ``band``, at most the threshold; by default the same.
        levels: largest weight of a detector on potentials, at most 63; fewer make larger gaps countable.
        calibration: kept with the network.

    Raises:
        UnsupportedError: the readout leaks, fires or is graded, or the policy has no circuit for it; ``form="host"``
            applies the rule outside of the chip.
        LimitError: the threshold is larger than the circuit can compare exactly.
        UsageError: the arguments contradict one another.
    """
    net = detach(net)
    require_evidence(net)
    form = form or forms_of(policy)[0]
    readout = net.readout_layer
    thresholds = threshold if isinstance(threshold, tuple) else (threshold,)
    if form == "host":
        return with_host_rule(net, policy, thresholds, calibration=calibration)
    if form not in forms_of(policy):
        raise UsageError(f"exit: {policy} has no form {form}, only {', '.join(forms_of(policy))}")
    if policy == "first-spike" and net.readout.kind != "count":
        raise UnsupportedError(f"{readout.name}: its potential is read, first-spike needs output spikes; use threshold")
    if len(thresholds) != (len(RUNGS) if form == "ladder" else 1):
        raise UsageError(f"exit: {len(thresholds)} thresholds for the form {form}")
    if form == "ladder":
        ladder_costs(net.classes)  # refuses too many classes
    smallest, highest = min(thresholds), max(thresholds)
    rival = highest if rival is None else rival
    if form == "band" and not 0 <= rival <= highest:
        raise UsageError(f"exit: rival {rival}, expected 0 to the threshold {highest}: else two classes may decide")
    least = 1 if policy in ("first-spike", "patience") or form == "ladder" else 0
    largest = limits.DELAY_MAX + 1 if policy == "patience" else THRESHOLD_MAX
    if not least <= smallest <= highest <= largest:
        remedy = "fewer levels scale the evidence down" if highest > largest else "use at least that"
        worst = highest if highest > largest else smallest
        raise LimitError(readout.name, f"threshold of the exit ({policy})", worst, f"{least}..{largest}", remedy)
    rule = Exit(
        policy, form, thresholds, readout.name, net.classes, rival if form == "band" else 0, calibration=calibration
    )
    if net.readout.kind == "count":
        return _on_spikes(net, rule)
    return _on_potentials(net, rule, levels)


def with_host_rule(
    net: ChipNet,
    policy: ExitPolicy,
    thresholds: tuple[int, ...],
    calibration: tuple[tuple[str, float], ...] = (),
) -> ChipNet:
    """``net`` with a rule that is applied to its readout outside of the chip; thresholds may differ between steps."""
    net = detach(net)
    require_evidence(net)
    rule = Exit(policy, "host", thresholds, net.readout_layer.name, net.classes, calibration=calibration)
    return replace(net, exit=rule)


def detach(net: ChipNet) -> ChipNet:
    """``net`` without its early exit, as it was before."""
    rule = net.exit
    if rule is None:
        return net
    at = [layer.name for layer in net.layers].index(rule.readout)
    layers = list(net.layers[: at + 1])
    if rule.form != "host" and net.readout.kind == "potential":
        readout = layers[at]
        assert isinstance(readout, Dense)
        if rule.clocks:
            layers[at - 1] = _without_clocks(layers[at - 1], rule.clocks)
        inputs = layers[at - 1].shape if at else net.input_shape
        layers[at] = Dense(
            readout.name,
            inputs,
            readout.weight[: rule.classes, : math.prod(inputs)],
            _compact(_part(readout.neuron, readout.shape, rule.classes)),
        )
    return replace(net, layers=tuple(layers), exit=None)


def _compared(name: str, thresholds: Int) -> Neuron:
    """Detectors ``D >= m``, one for each entry."""
    zero = thresholds == 0
    return Neuron.of(
        name,
        threshold=np.where(zero, 0, 2 * thresholds - 1),
        current_decay=0,
        voltage_decay=limits.HARDWARE_DECAY_MAX,
        bias=zero.astype(np.int32) if zero.any() else 0,
    )


def _coincidence(name: str, threshold: Any) -> Neuron:
    return Neuron.of(name, threshold, limits.DECAY_UNITY, limits.HARDWARE_DECAY_MAX)


def _wanted(rule: Exit) -> Int:
    """Threshold of each detector, in the order of the rows."""
    classes, m = rule.classes, rule.thresholds[0]
    first, second = pair_order(classes)
    ties = (first > second).astype(np.int64)
    if rule.form == "band":
        return np.repeat([m, rule.rival], classes)
    if rule.policy == "threshold":
        return np.concatenate([np.full(classes, m), ties])
    if rule.form == "run":
        return np.ones(len(first), np.int64)
    if rule.form == "ladder":
        return np.repeat(rule.thresholds, len(first))
    return ties if m == 0 else np.full(len(first), m)


def _combinations(rule: Exit) -> tuple[Int, Int]:
    """Which detectors speak for a class (1) or against it (-1), ``[C, rows]``, and how many it needs."""
    classes = rule.classes
    own = np.eye(classes, dtype=np.int64)
    if rule.form == "band":
        return np.concatenate([own, own - 1], 1), np.ones(classes, np.int64)
    pairs = (pair_order(classes)[0] == np.arange(classes)[:, None]).astype(np.int64)
    if rule.policy == "threshold":
        return np.concatenate([own, pairs], 1), np.full(classes, classes)
    return pairs, np.full(classes, classes - 1)


def _signs(rule: Exit) -> Int:
    """What each detector compares: ``[rows, C]``, +1 and -1 of the classes."""
    own = np.eye(rule.classes, dtype=np.int64)
    if rule.form == "band":
        return np.concatenate([own, own])
    first, second = pair_order(rule.classes)
    pairs = own[first] - own[second]
    if rule.form == "ladder":
        return np.tile(pairs, (len(rule.thresholds), 1))
    return np.concatenate([own, pairs]) if rule.policy == "threshold" else pairs


def _on_spikes(net: ChipNet, rule: Exit) -> ChipNet:
    readout = net.readout_layer
    if net.window > THRESHOLD_MAX:
        remedy = "counts may grow beyond what a detector compares exactly; use a shorter window"
        raise LimitError(readout.name, "window of an exit on spikes", net.window, THRESHOLD_MAX, remedy)
    if rule.form == "first":
        weight = COINCIDENCE * (np.eye(rule.classes, dtype=np.int64) - np.tri(rule.classes, k=-1, dtype=np.int64))
        decision = Dense(DECISION, readout.shape, weight, _coincidence(DECISION, COINCIDENCE // 2))
        return replace(net, layers=(*net.layers, decision), exit=rule)
    detectors = Dense(DETECTORS, readout.shape, 2 * _signs(rule), _compared(DETECTORS, _wanted(rule)))
    return replace(net, layers=(*net.layers, detectors, *_deciders(rule, detectors.shape[0], 0)), exit=rule)


def _deciders(rule: Exit, size: int, skipped: int) -> tuple[Layer, ...]:
    """Layers after the detectors, which follow ``skipped`` other neurons of a layer of ``size``."""
    if rule.form == "ladder":
        return (_ladder_decision(rule, size, skipped),)
    chosen, needed = _combinations(rule)
    weight = np.zeros((rule.classes, size), np.int32)
    weight[:, skipped:] = COINCIDENCE * chosen
    threshold = COINCIDENCE * needed - COINCIDENCE // 2
    if rule.form != "run":
        return (Dense(DECISION, (size,), weight, _coincidence(DECISION, threshold)),)
    k, classes = rule.thresholds[0], rule.classes
    copies = np.repeat(weight[None], k, 0).reshape(k * classes, size)
    leaders = Dense(LEADERS, (size,), copies, _coincidence(LEADERS, np.tile(threshold, k)))
    delay = np.broadcast_to(np.repeat(np.arange(k), classes), (classes, k * classes))
    taps = (COINCIDENCE * np.tile(np.eye(classes), k)).astype(np.int32)
    last = _coincidence(DECISION, COINCIDENCE * k - COINCIDENCE // 2)
    return leaders, Dense(DECISION, (k * classes,), taps, last, delay=delay.astype(np.int32) if k > 1 else None)


def _ladder_decision(rule: Exit, size: int, skipped: int) -> Layer:
    """Neurons that fire where the costs of all other classes stay below the budget R.

    ::

        weight of a rung = what reaching it saves:  R - F_1,  F_1 - F_2,  F_2 - F_3, ...
        sum = (C - 1) R - sum over j of cost(j),  a class below the first rung costing R;  fires from (C - 2) R + 1 on

    Doubled, with the threshold between two sums, as a detector.
    """
    budget, costs = ladder_costs(rule.classes)
    saved = -np.diff([budget, *costs])
    pairs = (pair_order(rule.classes)[0] == np.arange(rule.classes)[:, None]).astype(np.int64)
    weight = np.zeros((rule.classes, size), np.int32)
    weight[:, skipped:] = 2 * np.concatenate([pairs * rung for rung in saved], 1)
    return Dense(DECISION, (size,), weight, _coincidence(DECISION, 2 * ((rule.classes - 2) * budget + 1) - 1))


def _on_potentials(net: ChipNet, rule: Exit, levels: int) -> ChipNet:
    readout = net.readout_layer
    assert isinstance(readout, Dense)
    neuron = _integrator(readout)
    at = len(net.layers) - 1
    message = 1 if at else net.encoding.largest
    rows = _rows(net, readout, neuron, _signs(rule), levels, message)
    layers = list(net.layers)
    if rows.clocks:
        if not at:
            raise UnsupportedError(
                f"{readout.name}: its bias differs between classes, and no layer before could carry it"
            )
        layers[at - 1] = _with_clocks(layers[at - 1], rows.clocks)
    inputs = layers[at - 1].shape if at else net.input_shape
    size = math.prod(inputs)
    added = _compared(readout.name, _wanted(rule))
    own = np.zeros((rule.classes, size), np.int64)
    own[:, : readout.weight.shape[1]] = readout.weight
    # clocks are the first neurons of what was added before; other neurons there have no weight
    detectors = np.zeros((len(rows.weight), size), np.int64)
    detectors[:, : rows.weight.shape[1]] = 2 * rows.weight
    wide = Dense(
        readout.name,
        inputs,
        np.concatenate([own, detectors]),
        _compact(_joined(neuron, (rule.classes,), added, (len(detectors),))),
    )
    layers[at] = wide
    added_inputs = size - readout.weight.shape[1]
    return replace(
        net,
        layers=(*layers, *_deciders(rule, wide.shape[0], rule.classes)),
        exit=replace(rule, clocks=added_inputs, scale=rows.scale),
    )


def _integrator(readout: Dense) -> Neuron:
    """The readout's neurons, which have to sum up their inputs and nothing else.

    Raises:
        UnsupportedError: they leak or may fire, or their synapses are recurrent or delayed.
    """
    neuron = readout.neuron
    assert isinstance(neuron, Neuron)
    decays = {(int(a), int(b)) for a, b in np.broadcast(neuron.current_decay, neuron.voltage_decay)}
    sums_up = decays == {(limits.DECAY_UNITY, 0)} or (
        decays == {(0, limits.DECAY_UNITY)} and not neuron.bias.any()  # which would count once, not at each step
    )
    if not sums_up or neuron.threshold.min() < limits.THRESHOLD_MAX:
        raise UnsupportedError(
            f"{readout.name}: its potential leaks or fires, so that differences of rows are not differences of "
            "potentials; apply the rule outside of the chip (form host)"
        )
    if readout.recurrent is not None or readout.delay is not None or readout.imaginary is not None:
        raise UnsupportedError(f"{readout.name}: recurrent or delayed synapses; apply the rule outside (form host)")
    return neuron


def _rows(net: ChipNet, readout: Dense, neuron: Neuron, signs: Int, levels: int, message: int) -> Rows:
    """Signed sums of the readout's rows, scaled and rounded as little as the law needs.

    Raises:
        LimitError: not even rows of -1, 0 and 1 are small enough.
    """
    if not 1 <= levels <= LEVELS:
        raise UsageError(f"exit: {levels} levels, expected 1..{LEVELS}")
    exact = signs @ readout.weight.astype(np.int64)
    bias = signs @ np.broadcast_to(neuron.bias, readout.shape).astype(np.int64)
    largest = int(np.abs(exact).max(initial=0)) or 1
    clocks = -(-int(np.abs(bias).max(initial=0)) // largest)
    shares = np.zeros((len(exact), clocks), np.int64)
    for k in range(clocks):  # as evenly as integers allow
        shares[:, k] = np.sign(bias) * ((np.abs(bias) + k) // clocks)
    exact = np.concatenate([exact, shares], 1)
    level = min(levels, largest)
    while level:
        rounded = np.sign(exact) * ((2 * np.abs(exact) * level + largest) // (2 * largest))
        sums = np.maximum(np.maximum(rounded, 0).sum(1), np.maximum(-rounded, 0).sum(1)).max(initial=0) * message
        if 2 * sums * net.window < WINDOW_MAX and sums <= THRESHOLD_MAX and rounded.any():
            error = float(np.abs(rounded * (largest / level) - exact).max(initial=0))
            return Rows(rounded, clocks, (level, largest), error)
        level -= 1
    remedy = "u may wrap, or v keep more than the gap; use fewer inputs, a shorter window, or the form host"
    raise LimitError(readout.name, "detectors' sum over a window", "too large with weights of 1", WINDOW_MAX, remedy)


def rounding_error(net: ChipNet) -> float:
    """Largest error of a detector's weight, in units of the readout's weights; 0 where the circuit is exact.

    Raises:
        UsageError: the network has no circuit.
    """
    if net.exit is None or net.exit.form == "host":
        raise UsageError("exit: the network has no circuit")
    if net.readout.kind == "count":
        return 0.0
    readout, base = net.readout_layer, detach(net).readout_layer
    assert isinstance(readout, Dense) and isinstance(base, Dense) and isinstance(base.neuron, Neuron)
    exact = _signs(net.exit) @ base.weight.astype(np.int64)
    found = readout.weight[net.exit.classes :, : exact.shape[1]] / 2
    level, largest = net.exit.scale
    return float(np.abs(found * (largest / level) - exact).max())


# Neurons that fire at each step


def _joined(one: Neuron, shape: tuple[int, ...], other: Neuron, more: tuple[int, ...]) -> Neuron:
    """Neurons of both, one after the other along the first axis."""
    both = (one.expanded(shape), other.expanded(more))
    return Neuron(**{name: np.concatenate([both[0][name], both[1][name]]) for name in both[0]})


def _part(neuron: Any, shape: tuple[int, ...], count: int) -> Neuron:
    """The first ``count`` along the first axis."""
    assert isinstance(neuron, Neuron)
    return Neuron(**{name: array[:count] for name, array in neuron.expanded(shape).items()})


def _compact(neuron: Neuron) -> Neuron:
    """One number where all neurons have the same; of images one bias per channel where that is all."""
    arrays = {}
    for name in ("threshold", "current_decay", "voltage_decay", "bias"):
        array = getattr(neuron, name)
        if (array == array.flat[0]).all():
            array = np.asarray(array.flat[0], np.int32)
        elif name == "bias" and array.ndim == 3 and (array == array[:, :1, :1]).all():
            array = array[:, 0, 0]
        arrays[name] = np.array(array, np.int32)
        arrays[name].flags.writeable = False
    return Neuron(**arrays)


def _with_clocks(layer: Layer, clocks: int) -> Layer:
    """``layer`` with neurons that fire at each step: ``clocks`` more, or a channel of which the first so many do.

    Raises:
        UnsupportedError: the layer cannot be given such neurons.
    """
    remedy = "apply the rule outside of the chip (form host), or train the readout without a bias"
    if not isinstance(layer.neuron, Neuron):
        raise UnsupportedError(f"{layer.name}: the readout's bias needs neurons here that fire at each step; {remedy}")
    if isinstance(layer, Dense):
        fires = Neuron.of(layer.name, 0, limits.DECAY_UNITY, limits.HARDWARE_DECAY_MAX, 1)
        neuron = _compact(_joined(layer.neuron, layer.shape, fires, (clocks,)))
        below = np.zeros((clocks, layer.weight.shape[1]), np.int32)
        recurrent, delay = layer.recurrent, layer.delay
        return Dense(
            layer.name,
            layer.input_shape,
            np.concatenate([layer.weight, below]),
            neuron,
            None if recurrent is None else np.pad(recurrent, (0, clocks)),
            None if delay is None else np.concatenate([delay, below]),
        )
    if not isinstance(layer, Conv) or layer.groups > 1:
        raise UnsupportedError(f"{layer.name}: cannot be given neurons that fire at each step; {remedy}")
    _, height, width = layer.shape
    channels = -(-clocks // (height * width))
    bias = np.zeros(channels * height * width, np.int32)
    bias[:clocks] = 1
    shape = (channels, height, width)
    fires = Neuron.of(layer.name, 0, limits.DECAY_UNITY, limits.HARDWARE_DECAY_MAX, bias.reshape(shape))
    silent = np.zeros((channels, *layer.weight.shape[1:]), np.int32)
    weight = np.concatenate([layer.weight, silent])
    neuron = _compact(_joined(layer.neuron, layer.shape, fires, shape))
    return replace(layer, weight=weight, neuron=neuron)


def _without_clocks(layer: Layer, added: int) -> Layer:
    """The inverse of :func:`_with_clocks`."""
    kept = layer.shape[0] - added // math.prod(layer.shape[1:])
    neuron = _compact(_part(layer.neuron, layer.shape, kept))
    if isinstance(layer, Dense):
        recurrent, delay = layer.recurrent, layer.delay
        return Dense(
            layer.name,
            layer.input_shape,
            layer.weight[:kept],
            neuron,
            None if recurrent is None else recurrent[:kept, :kept],
            None if delay is None else delay[:kept],
        )
    assert isinstance(layer, Conv)
    return replace(layer, weight=layer.weight[:kept], neuron=neuron)
