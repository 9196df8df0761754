"""Evidence C(t): what each class has collected up to step t, as integers.

::

    count        C_i(t) = output spikes of class i in steps 0..t
    potential    C_i(t) = v_i(t) / 64 of a readout that integrates, so that C is the sum of the logits so far; rounded
                 down where the readout leaks

The circuit sees the same for spikes. On potentials its rows are differences of readout rows, re-quantised
(:mod:`snn2chip.early_exit.circuit`): its evidence ``pairs[i, j] ~ scale * (C_i - C_j)`` is computed here from the
spikes that arrive and the rows in the network, apart from the simulators.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, Exit, InputNeurons
from snn2chip.errors import InputError, UnsupportedError

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evidence:
    """What a rule decides on, integers or floats.

    Attributes:
        levels: of each class, ``[N, T, C]``; None where the circuit compares pairs alone.
        pairs: lead of class i over class j, ``[N, T, C, C]``; None where the rule needs none.
    """

    levels: Array | None
    pairs: Array | None

    @staticmethod
    def of(scores: Array) -> Evidence:
        """Of accumulated scores ``[N, T, C]``, exactly."""
        return Evidence(scores, scores[:, :, :, None] - scores[:, :, None, :])


def accumulated_scores(net: ChipNet, readout: Array) -> Int:
    """C(t) ``[N, T, C]`` from the readout's trace ``[N, W, *shape]``: spikes, or v where potentials are read."""
    trace = readout[:, : net.time_steps]
    trace = trace.reshape(*trace.shape[:2], math.prod(trace.shape[2:]))[:, :, : net.classes]
    if net.readout.kind == "count":
        return trace.astype(np.int64).cumsum(1)
    return trace.astype(np.int64) >> limits.STATE_SHIFT


def pair_order(classes: int) -> tuple[Int, Int]:
    """Class i and class j of each detector, ``[C * (C - 1)]``."""
    first, second = np.nonzero(~np.eye(classes, dtype=bool))
    return first, second


def source_layer(net: ChipNet) -> str | None:
    """Name of the layer whose spikes the circuit of ``net`` collects; None where that is the input itself."""
    names = [layer.name for layer in net.layers]
    at = names.index(net.readout_layer.name)
    if net.readout.kind == "count":
        return names[at]
    return names[at - 1] if at else None


def circuit_evidence(net: ChipNet, rule: Exit, spikes: Array) -> Evidence:
    """Evidence as the circuit in ``net`` collects it, from what arrives there ``[N, W, *shape]``.

    Raises:
        UnsupportedError: the network has no circuit.
    """
    if rule.form == "host":
        raise UnsupportedError(f"{rule.readout}: the exit has no circuit, its rule is applied to the readout")
    if rule.form == "first" or net.readout.kind == "count":
        counts = accumulated_scores(net, spikes)
        return Evidence.of(counts) if rule.form != "band" else Evidence(counts, None)
    readout = net.readout_layer
    assert isinstance(readout, Dense)
    arrived = spikes[:, : net.time_steps].reshape(len(spikes), net.time_steps, readout.weight.shape[1])
    arrived = arrived.astype(np.float64)
    rows = readout.weight[rule.classes :].astype(np.float64) / 2  # of the detectors, doubled on the chip
    if rule.form == "ladder":
        rows = rows[: rule.classes * (rule.classes - 1)]  # the same for each rung
    sums = (arrived @ rows.T).astype(np.int64).cumsum(1)
    classes = rule.classes
    if rule.form == "band":
        return Evidence(sums[:, :, :classes], None)
    levels = None
    if rule.policy == "threshold":
        levels, sums = sums[:, :, :classes], sums[:, :, classes:]
    pairs = np.zeros((*sums.shape[:2], classes, classes), np.int64)
    first, second = pair_order(classes)
    pairs[:, :, first, second] = sums
    return Evidence(levels, pairs)


def require_evidence(net: ChipNet) -> None:
    """Raise unless the readout of ``net`` collects evidence that grows step by step.

    Raises:
        UnsupportedError: its messages are graded, or its potential leaks, fires or is driven directly.
        InputError: there are fewer than two classes.
    """
    readout = net.readout_layer
    if net.classes < 2:
        raise InputError(f"{readout.name}: {net.classes} class, a decision needs at least 2")
    if readout.neuron.graded or not readout.neuron.resettable:
        kind = type(readout.neuron).__name__
        raise UnsupportedError(f"{readout.name}: neurons of kind {kind} give no evidence for an early exit")
    if net.readout.kind == "potential" and isinstance(readout, InputNeurons):
        raise UnsupportedError(f"{readout.name}: potentials of input neurons give no evidence for an early exit")
