"""Figures as SVG: marks with coordinates, which the template writes out with every attribute and text escaped.

Colours and fonts are classes that the style sheet gives a light and a dark form; nothing here knows a colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

WIDTH = 360.0  # of every figure, in its own units: about as many pixels on a phone, so that text keeps its size

Tag = Literal["path", "rect", "circle", "line", "text"]
Anchor = Literal["start", "middle", "end"]
Row = Sequence[Any]


@dataclass(frozen=True)
class Mark:
    """One SVG element.

    Attributes:
        css: classes.
        attributes: numbers and path data.
        text: content of a ``text``.
        title: what a pointer that rests on it is told.
    """

    tag: Tag
    css: str
    attributes: dict[str, Any]
    text: str = ""
    title: str = ""


@dataclass(frozen=True)
class Table:
    """The numbers of a figure, or a table of its own: names of the columns, and rows of cells."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class Legend:
    """What a class of marks means."""

    css: str
    text: str


@dataclass(frozen=True)
class Figure:
    """A figure with what it says in words.

    Attributes:
        id: anchor on the page.
        title: short, above the figure.
        caption: what is shown, on what, and what was left out.
        alt: for those who do not see it, with the key number.
        height: in units of which the figure is :data:`WIDTH` wide.
        table: its numbers; None where the caption says them all.
    """

    id: str
    title: str
    caption: str
    alt: str
    height: float
    marks: tuple[Mark, ...]
    legend: tuple[Legend, ...] = ()
    table: Table | None = None
    width: float = WIDTH


def number(value: float) -> str:
    """A coordinate with two decimals at most."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def rect(css: str, x: float, y: float, width: float, height: float, title: str = "") -> Mark:
    """A rectangle."""
    sides = {"x": x, "y": y, "width": max(width, 0.0), "height": max(height, 0.0)}
    return Mark("rect", css, {name: number(value) for name, value in sides.items()}, title=title)


def line(css: str, x1: float, y1: float, x2: float, y2: float, title: str = "") -> Mark:
    """A straight line."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    return Mark("line", css, {name: number(value) for name, value in ends.items()}, title=title)


def dot(css: str, x: float, y: float, radius: float = 3, title: str = "") -> Mark:
    """A filled circle."""
    return Mark("circle", css, {"cx": number(x), "cy": number(y), "r": number(radius)}, title=title)


def text(words: str, x: float, y: float, anchor: Anchor = "start", css: str = "label") -> Mark:
    """Words at a baseline."""
    return Mark("text", css, {"x": number(x), "y": number(y), "text-anchor": anchor}, text=words)


def path(css: str, data: str, title: str = "") -> Mark:
    """Any path."""
    return Mark("path", css, {"d": data}, title=title)


def polyline(css: str, points: Iterable[tuple[float, float]], closed: bool = False) -> Mark:
    """A line through points, or an area."""
    data = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return path(css, data + ("z" if closed else ""))


def ticks(low: float, high: float, most: int = 5, whole: bool = False) -> list[float]:
    """Round numbers within ``low..high``: 1, 2, 2.5 or 5 times a power of ten apart, ``most`` of them or a few less."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    factors = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next((f * power for f in factors if f * power >= rough * 0.999), 10 * power)
    if whole:
        step = max(1.0, round(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


@dataclass
class Axes:
    """A frame with linear scales, to which ``marks`` are added; ``x`` and ``y`` are the values at its borders."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float = 46
    right: float = 10
    top: float = 8
    bottom: float = 34
    height: float = 200
    width: float = WIDTH
    marks: list[Mark] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Across."""
        low, high = self.x
        share = (value - low) / (high - low) if high > low else 0.5
        return self.left + share * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Down."""
        low, high = self.y
        share = (value - low) / (high - low) if high > low else 0.5
        return self.height - self.bottom - share * (self.height - self.top - self.bottom)

    def across(self, at: Sequence[float], labels: Sequence[str], name: str) -> None:
        """Ticks, their labels, and the name of the horizontal axis."""
        base = self.height - self.bottom
        self.marks.append(line("axis", self.left, base, self.width - self.right, base))
        for value, label in zip(at, labels, strict=True):
            where = self.px(value)
            self.marks.append(line("axis", where, base, where, base + 3))
            inside = where + 3 * len(label) > self.width - 1
            self.marks.append(
                text(label, self.width - 1 if inside else where, base + 14, "end" if inside else "middle")
            )
        middle = (self.left + self.width - self.right) / 2
        self.marks.append(text(name, middle, self.height - 4, "middle", "label name"))

    def down(self, at: Sequence[float], labels: Sequence[str], grid: bool = True) -> None:
        """Ticks of the vertical axis, with lines across; its name stands in the figure's title."""
        for value, label in zip(at, labels, strict=True):
            where = self.py(value)
            if grid:
                self.marks.append(line("grid", self.left, where, self.width - self.right, where))
            self.marks.append(text(label, self.left - 5, where + 3.5, "end"))
