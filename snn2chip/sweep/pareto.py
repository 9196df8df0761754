"""Which configurations no other beats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

#: What the front of a sweep weighs, by column of the results; -1: more is better.
OBJECTIVES = {"accuracy": -1, "mean_steps": 1, "energy": 1, "cores": 1}
#: Fronts, by column of the results.
FRONTS: dict[str, tuple[str, ...]] = {
    "pareto": tuple(OBJECTIVES),
    "pareto_energy": ("accuracy", "energy"),
    "pareto_cores": ("accuracy", "cores"),
}


def front(costs: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Which rows of ``costs`` ``[N, K]``, less being better, no other dominates.

    A row dominates another if it is at most as large in all columns and less in one; of equal rows none does.
    """
    best = np.ones(len(costs), bool)
    for i, row in enumerate(costs):
        best[i] = not ((costs <= row).all(1) & (costs < row).any(1)).any()
    return best


def mark(rows: Sequence[dict[str, Any]]) -> None:
    """Set the columns of :data:`FRONTS`: whether a row is on each front; failed rows are on none."""
    fine = [row for row in rows if row["status"] == "ok"]
    for column, objectives in FRONTS.items():
        costs = np.array([[OBJECTIVES[name] * row[name] for name in objectives] for row in fine], np.float64)
        found = front(costs.reshape(len(fine), len(objectives)))
        for row in rows:
            row[column] = False
        for row, on in zip(fine, found.tolist(), strict=True):
            row[column] = on
