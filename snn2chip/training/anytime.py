"""When to stop: at which step the accumulated outputs ``[T, N, classes]`` would have been enough.

Stops are numbers of steps, 1..T. On the chip each layer adds one step until the answer leaves it: :func:`latency`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Thresholds that the gap cutoff tries at each step (arXiv 2301.09522).
BINS = 100


def softmax_stops(outputs: Array, epsilon: float) -> npt.NDArray[np.int64]:
    """Steps ``[N]`` until the highest softmax of the accumulated output exceeds ``1 - epsilon``, at most T.

    arXiv 2405.00699; accumulated is the sum, not the mean.
    """
    return _first(confidences(outputs) > 1 - epsilon)


def confidences(outputs: Array) -> Array:
    """Highest softmax of the accumulated output, ``[T, N]``."""
    total = outputs.astype(np.float64).cumsum(0)
    total -= total.max(2, keepdims=True)
    return np.asarray(1 / np.exp(total).sum(2))


def gaps(outputs: Array) -> Array:
    """Highest less second highest accumulated output, ``[T, N]``."""
    ordered = np.sort(outputs.astype(np.float64).cumsum(0), 2)
    return np.asarray(ordered[:, :, -1] - ordered[:, :, -2])


def fit_gaps(outputs: Array, classes: Array, epsilon: float) -> Array:
    """Thresholds ``[T]`` of the gap cutoff (arXiv 2301.09522), on samples that are held out from training and test.

    Of 100 gaps between 0 and the largest, the smallest with which at least ``1 - epsilon`` of the samples that exceed
    it are right at this and all later steps; infinity where none is.
    """
    found = gaps(outputs)
    stays = _stays_right(outputs, classes)
    thresholds = np.full(len(outputs), np.inf)
    for t in range(len(outputs)):
        for threshold in np.linspace(0, found[t].max(), BINS, endpoint=False):
            beyond = found[t] > threshold
            if beyond.any() and stays[t, beyond].mean() >= 1 - epsilon:
                thresholds[t] = threshold
                break
    return thresholds


def gap_stops(outputs: Array, thresholds: Array) -> npt.NDArray[np.int64]:
    """Steps ``[N]`` until the gap exceeds that step's threshold, at most T."""
    return _first(gaps(outputs) > thresholds[:, None])


def oracle_stops(outputs: Array, classes: Array) -> npt.NDArray[np.int64]:
    """The least steps ``[N]`` from which on the answer stays right; T for samples that are wrong at the end."""
    return _first(_stays_right(outputs, classes))


@dataclass(frozen=True)
class Stopped:
    """What stopping costs and saves.

    Attributes:
        accuracy: share of samples that are right when they stop.
        full: share that is right after all steps.
        mean_steps: mean of the stops.
        mean_latency: the same until the answer has left the chip.
    """

    accuracy: float
    full: float
    mean_steps: float
    mean_latency: float

    @property
    def drop(self) -> float:
        """Lost accuracy."""
        return self.full - self.accuracy


def stopped(outputs: Array, classes: Array, stops: Array, depth: int) -> Stopped:
    """Accuracy and steps of ``stops`` ``[N]`` in a network of ``depth`` chip layers."""
    answers = outputs.astype(np.float64).cumsum(0).argmax(2)
    at = answers[stops - 1, np.arange(len(stops))]
    steps = float(stops.mean())
    return Stopped(float((at == classes).mean()), float((answers[-1] == classes).mean()), steps, steps + depth)


def choose_epsilon(outputs: Array, classes: Array, drop: float) -> float:
    """The most daring epsilon whose accuracy on held-out samples falls by no more than ``drop`` (a share).

    Candidates are the confidences that occur, at most 200 of them.
    """
    seen = 1 - confidences(outputs)
    candidates = np.unique(np.quantile(seen, np.linspace(0, 1, 200)))
    best = 0.0
    for epsilon in candidates:
        result = stopped(outputs, classes, softmax_stops(outputs, float(epsilon)), 0)
        if result.drop <= drop:
            best = max(best, float(epsilon))
    return best


def _stays_right(outputs: Array, classes: Array) -> npt.NDArray[np.bool_]:
    right = outputs.astype(np.float64).cumsum(0).argmax(2) == classes
    return np.asarray(np.logical_and.accumulate(right[::-1], axis=0)[::-1])


def _first(hit: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    hit = hit.copy()
    hit[-1] = True
    return np.asarray(hit.argmax(0) + 1, np.int64)
