"""When to stop: one rule for floats and integers.

At each step every policy names a leader and how strongly it leads; the rule stops at the first step at which that
strength reaches the threshold, else at the last one:

::

    margin        min over j of (C_i - C_j)  >= m                     top 1 - top 2 of the classes
    threshold     C_i of the leader          >= m
    band          C_i >= m, every other C_j < r                        cheap form of threshold, see below
    softmax       margin with m from eps, see :func:`softmax_gap`; or a ladder, see :func:`softmax_ladder`
    first-spike   threshold on spike counts with m = 1
    patience      steps that i has led by at least 1 without a break  >= k

The lowest class wins a tie, as in :meth:`snn2chip.traces.Traces.predictions`; margins of at least 1 know no ties.
A ``band`` that stops does so for the leader, with a margin of at least ``m - r + 1``; it may stop later than threshold
and margin rules do, or never, because a second class has passed r: its 2C detectors replace C(C - 1) + C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import Exit, ExitForm, ExitPolicy
from snn2chip.early_exit.evidence import Evidence
from snn2chip.errors import UsageError

Array = npt.NDArray[Any]

#: Strength of a leader that no threshold is low enough for.
NO_LEADER = -1


@dataclass(frozen=True)
class Lead:
    """Who leads at each step, and how strongly.

    Attributes:
        label: class, ``[N, T]``.
        strength: what the threshold is compared with, ``[N, T]``; negative where nobody leads.
        second: of ``band``, the evidence of the best other class, ``[N, T]``.
    """

    label: npt.NDArray[np.int64]
    strength: Array
    second: Array | None = None


@dataclass(frozen=True)
class Decisions:
    """What was decided, and when.

    Attributes:
        label: class, ``[N]``; of the full window where the rule never stopped.
        step: step of the decision, counted from 0, ``[N]``; the last one where it never stopped.
        exited: whether the rule stopped at all, ``[N]``.
    """

    label: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    exited: npt.NDArray[np.bool_]

    @property
    def steps(self) -> npt.NDArray[np.int64]:
        """How many steps each sample took: ``step + 1``."""
        return self.step + 1

    def same(self, other: Decisions) -> bool:
        """Whether both decided the same at the same steps."""
        mine, theirs = (self.label, self.step, self.exited), (other.label, other.step, other.exited)
        return all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))


def lead(policy: ExitPolicy, form: ExitForm, evidence: Evidence, rungs: tuple[int, ...] = ()) -> Lead:
    """Leader and strength at each step.

    Args:
        rungs: thresholds of a ladder; its strength is the margin where they are satisfied.

    Raises:
        UsageError: the evidence is not what the policy needs.
    """
    if form == "band":
        levels = _needed(evidence.levels)
        top = np.sort(levels, axis=2)
        return Lead(levels.argmax(2), top[:, :, -1], top[:, :, -2])
    if policy in ("threshold", "first-spike"):
        levels = _needed(evidence.levels)
        ahead, valid = _first_of_all(_needed(evidence.pairs))
        strength = np.take_along_axis(levels, ahead[..., None], 2)[..., 0]
        return Lead(ahead, np.where(valid, strength, NO_LEADER))
    pairs = _needed(evidence.pairs)
    margin = _with_own(pairs).min(3)
    label = margin.argmax(2)
    strength = margin.max(2)
    if policy == "patience":
        return Lead(label, _run_length(label, strength >= 1))
    if form == "ladder":
        limit, costs = ladder_costs(pairs.shape[2])
        ahead_by = np.take_along_axis(pairs, label[:, :, None, None], 2)[:, :, 0]
        price = np.full(ahead_by.shape, limit, np.int64)
        for rung, cost in zip(rungs, costs, strict=True):
            price = np.where(ahead_by >= rung, cost, price)
        np.put_along_axis(price, label[..., None], 0, 2)
        return Lead(label, np.where(price.sum(2) < limit, strength, NO_LEADER))
    ahead, valid = _first_of_all(pairs)
    tie = strength == 0  # the lowest class of all that share the lead
    label = np.where(tie, ahead, label)
    return Lead(label, np.where(tie & ~valid, NO_LEADER, strength))


def _needed(array: Array | None) -> Array:
    if array is None:
        raise UsageError("early exit: the rule needs evidence that this circuit does not collect")
    return array


def _with_own(pairs: Array) -> Array:
    """``pairs`` with a lead of each class over itself that is no smallest."""
    own = np.eye(pairs.shape[2], dtype=bool)
    highest = np.inf if pairs.dtype.kind == "f" else np.iinfo(pairs.dtype).max
    return np.where(own, highest, pairs)


def _first_of_all(pairs: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The class that no other beats, the lowest of equals; whether there is one: rounded pairs may go in circles."""
    classes = pairs.shape[2]
    upper = np.triu(np.ones((classes, classes), bool), 1)
    wins = (np.where(upper, pairs >= 0, pairs > 0) | np.eye(classes, dtype=bool)).all(3)
    return wins.argmax(2), wins.any(2)


def _run_length(label: Array, leads: Array) -> Array:
    """Steps that the present leader has led without a break."""
    length = np.zeros(label.shape, np.int64)
    length[:, 0] = leads[:, 0]
    for t in range(1, label.shape[1]):
        same = (label[:, t] == label[:, t - 1]) & leads[:, t - 1]
        length[:, t] = np.where(leads[:, t], np.where(same, length[:, t - 1], 0) + 1, 0)
    return length


def decide(found: Lead, thresholds: Any, full: Array, rival: float | None = None) -> Decisions:
    """Stop at the first step at which the strength reaches the threshold.

    Args:
        thresholds: one number, or one per time step.
        rival: of ``band``, what all other classes have to stay below; by default the threshold.
        full: class of the full window, ``[N]``, for samples that never stop.
    """
    steps = found.label.shape[1]
    limit = np.broadcast_to(np.asarray(thresholds), (steps,)) if np.size(thresholds) > 1 else np.max(thresholds)
    stops = (found.strength >= limit) & (found.strength >= 0)
    if found.second is not None:
        stops &= found.second < (limit if rival is None else rival)
    exited = stops.any(1)
    step = np.where(exited, stops.argmax(1), steps - 1)
    label = np.where(exited, np.take_along_axis(found.label, step[:, None], 1)[:, 0], full)
    return Decisions(label.astype(np.int64), step.astype(np.int64), exited)


def apply(rule: Exit, evidence: Evidence, full: Array) -> Decisions:
    """Decisions of an integer rule on the evidence of its circuit, or (``host``) on the readout's."""
    thresholds = rule.thresholds[:1] if rule.form == "ladder" else rule.thresholds
    return decide(lead(rule.policy, rule.form, evidence, rule.thresholds), thresholds, full, rule.rival)


# The published rules, on floats


def softmax(scores: Array) -> npt.NDArray[np.float64]:
    """Of the last axis."""
    shifted = np.exp(scores - scores.max(-1, keepdims=True))
    probability: npt.NDArray[np.float64] = shifted / shifted.sum(-1, keepdims=True)
    return probability


def softmax_rule(logits: Array, eps: float, full: Array) -> Decisions:
    """Stop at the first step with ``max softmax(C(t)) > 1 - eps``, C the summed logits ``[N, T, C]``.

    Source: arXiv 2405.00699.
    """
    probability = softmax(logits)
    # strictly above, as published
    sure = np.where(probability.max(2) > 1 - eps, 1, NO_LEADER)
    return decide(Lead(logits.argmax(2), sure), 1, full)


def softmax_gap(eps: float, classes: int, logit: float) -> int:
    """The least integer gap of top 1 and top 2 that guarantees ``max softmax(C) > 1 - eps``.

    ::

        sum over j of exp(-(C_1 - C_j)) <= (K - 1) exp(-gap) < eps / (1 - eps)
        gap > logit * ln((K - 1) (1 - eps) / eps)

    Args:
        eps: what the confidence may fall short of 1 by, between 0 and 1.
        classes: K.
        logit: integers of evidence per unit of logit.
    """
    if not 0 < eps < 1 or classes < 2 or logit <= 0:
        raise UsageError(f"softmax: eps {eps} in 0..1, {classes} classes, {logit} integers per logit")
    return max(0, math.floor(logit * math.log((classes - 1) * (1 - eps) / eps)) + 1)


#: Rungs of a ladder: share of the budget that a class costs whose lead reaches this rung and not the next.
RUNGS = (0.9, 0.6, 0.35, 0.2, 0.1, 0.04, 0.012)
_BUDGET = 255


def ladder_costs(classes: int) -> tuple[int, tuple[int, ...]]:
    """Budget R of a ladder, and what a class costs from each rung on.

    The sum that a decision neuron needs has to stay below 2048 (:mod:`snn2chip.early_exit.circuit`).

    Raises:
        UsageError: there are so many classes that they cost more than the budget on the last rung.
    """
    budget = min(_BUDGET, 2046 // (classes - 2)) if classes > 2 else _BUDGET
    if classes > budget:
        raise UsageError(f"softmax: a ladder holds up to 46 classes, not {classes}; use the form pairs")
    last = max(1, min(math.ceil(RUNGS[-1] * budget), (budget - 1) // (2 * (classes - 1))))
    costs = [max(last, math.floor(share * budget)) for share in RUNGS[:-1]]
    return budget, (*costs, last)


def softmax_ladder(eps: float, classes: int, logit: float) -> tuple[int, ...]:
    """Rungs, integers, that guarantee ``max softmax(C) > 1 - eps`` with less to spare than one gap for all classes.

    ::

        exp(-(C_1 - C_j)) <= F(j) r / R    with  r = eps / (1 - eps),  F(j) the cost of the rung that class j is on
        sum over j of F(j) < R             guarantees that the sum of exp(-(C_1 - C_j)) is below r

    Args:
        eps, classes, logit: as of :func:`softmax_gap`.
    """
    softmax_gap(eps, classes, logit)  # checks
    budget, costs = ladder_costs(classes)
    share = eps / (1 - eps)
    return tuple(max(1, math.ceil(logit * math.log(budget / (cost * share)))) for cost in costs)


def oracle(labels: Array, y: Array) -> Decisions:
    """OCT: the first step from which all predictions ``[N, T]`` are right; never-right samples take them all.

    An oracle: it knows the classes ``y``. Source: arXiv 2301.09522.
    """
    right = labels == y[:, None]
    tail = np.logical_and.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    exited = tail.any(1)
    step = np.where(exited, tail.argmax(1), labels.shape[1] - 1)
    return Decisions(np.take_along_axis(labels, step[:, None], 1)[:, 0], step, exited)


def fit_gap(gaps: Array, labels: Array, y: Array, eps: float, bins: int = 100) -> npt.NDArray[np.float64]:
    """beta(t) of the Top-K gap rule, ``[T]``: per step the smallest of ``bins`` levels that is safe on held-out data.

    Safe: at least ``1 - eps`` of the samples whose gap exceeds the level stay right from this step on. Infinite where
    no level is. Source: arXiv 2301.09522.

    Args:
        gaps: top 1 - top 2 of the evidence, ``[N, T]``.
        labels: prediction at each step, ``[N, T]``.
        y: classes, ``[N]``.
    """
    right = labels == y[:, None]
    stays = np.logical_and.accumulate(right[:, ::-1], axis=1)[:, ::-1]
    beta = np.full(gaps.shape[1], np.inf)
    for t in range(gaps.shape[1]):
        for level in np.linspace(0, gaps[:, t].max(initial=0), bins, endpoint=False):
            above = gaps[:, t] > level
            if above.any() and stays[above, t].mean() >= 1 - eps:
                beta[t] = level
                break
    return beta


def gap_rule(gaps: Array, labels: Array, beta: Array, full: Array) -> Decisions:
    """Stop at the first step whose gap exceeds ``beta(t)``; integers exceed it from ``floor(beta) + 1`` on."""
    stops = np.where(gaps > beta, 1, NO_LEADER)
    return decide(Lead(labels, stops), 1, full)
