"""Chips and boards: limits and costs, each with its source, read from one JSON file for each chip.

A limit whose value is a name refers to :mod:`snn2chip.limits`, so that no number stands twice. A cost with ``from`` is
that of another chip between undivided (high) and divided by ``factor`` (low).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

from snn2chip import limits
from snn2chip.errors import UsageError
from snn2chip.names import meant

#: ``documented`` by the maker or in public code; read from a published ``compiler log``; or ``inferred`` by us.
Confidence = Literal["documented", "compiler log", "inferred"]

TARGETS = ("loihi1", "loihi2")


@dataclass(frozen=True)
class Limit:
    """A number that a network has to keep, and how far to trust it."""

    value: int
    unit: str
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Cost:
    """Energy, time or power of one operation; a range where sources disagree."""

    low: float
    mid: float
    high: float
    unit: str
    source: str

    def at(self, level: Level) -> float:
        """The value at ``low``, ``mid`` or ``high``, in J, s or W."""
        return float(getattr(self, level)) * _UNITS[self.unit]


Level = Literal["low", "mid", "high"]
LEVELS: tuple[Level, ...] = get_args(Level)
_UNITS = {"pJ": 1e-12, "ns": 1e-9, "mW": 1e-3}


@dataclass(frozen=True)
class Board:
    """Chips on one board."""

    name: str
    target: str
    chips: int
    source: str
    confidence: Confidence


@dataclass(frozen=True)
class Target:
    """One chip.

    Attributes:
        name: ``loihi1`` or ``loihi2``; ``title`` for people.
        prefix: of the rules' ids.
        limits: by name; a name that is missing means that the chip has no such limit.
        costs: by name.
        cost_label: what kind of figures the costs are.
        boards: by name.
        neuron_kinds: classes of neurons (:mod:`snn2chip.chip`) that the chip can compute.
        weight_widths: bits that a stored weight can have.
    """

    name: str
    title: str
    prefix: str
    limits: Mapping[str, Limit]
    costs: Mapping[str, Cost]
    cost_source: str
    cost_label: str
    boards: Mapping[str, Board]
    neuron_kinds: tuple[str, ...]
    weight_widths: tuple[int, ...]

    def value(self, name: str) -> int:
        """The limit of that name, as a number."""
        return self.limits[name].value

    def within(self, name: str, value: int) -> bool:
        """Whether ``value`` keeps the limit of that name, or there is none."""
        return name not in self.limits or value <= self.limits[name].value


@cache
def target_of(name: str) -> Target:
    """The chip called ``name``.

    Raises:
        UsageError: there is no such chip.
    """
    if name not in TARGETS:
        raise UsageError(f"target: {name!r} is unknown, expected {' or '.join(TARGETS)}{meant(name, TARGETS)}")
    data = json.loads(resources.files("snn2chip.hardware").joinpath(f"{name}.json").read_text(encoding="utf-8"))
    boards = {key: Board(key, name, **board) for key, board in data["boards"].items()}
    return Target(
        name=name,
        title=data["title"],
        prefix=data["prefix"],
        limits={key: _limit(**limit) for key, limit in data["limits"].items()},
        costs={key: _cost(key, cost, data["cost_source"]) for key, cost in data["costs"].items()},
        cost_source=data["cost_source"],
        cost_label=data["cost_label"],
        boards=boards,
        neuron_kinds=tuple(data["neuron_kinds"]),
        weight_widths=tuple(data["weight_widths"]),
    )


def _limit(value: int | str, unit: str, source: str, confidence: str) -> Limit:
    if confidence not in get_args(Confidence):
        raise ValueError(f"confidence {confidence!r}, expected one of {get_args(Confidence)}")
    number = getattr(limits, value) if isinstance(value, str) else value
    return Limit(int(number), unit, source, confidence)  # type: ignore[arg-type]


def _cost(name: str, data: Mapping[str, Any], source: str) -> Cost:
    if "from" not in data:
        where = "; ".join(text for text in (data.get("source", source), data.get("note")) if text)
        return Cost(data["low"], data["mid"], data["high"], data["unit"], where)
    base, factor = target_of(data["from"]).costs[name], data["factor"]
    return Cost(base.low / factor, base.mid / math.sqrt(factor), base.high, base.unit, source)


#: Every board, by name.
BOARDS: Mapping[str, Board] = {key: board for name in TARGETS for key, board in target_of(name).boards.items()}
