"""Numbers and names as the page writes them."""

from __future__ import annotations

import math
from collections.abc import Iterable

NBSP = "\u00a0"
MINUS = "\u2212"
TIMES = "\u00d7"
NONE = "\u2013"  # in a table, where there is nothing to say
_PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}


def percent(share: float | None, places: int = 2) -> str:
    """``0.9861`` as ``98.61 %``."""
    return NONE if share is None else f"{100 * share:.{places}f}{NBSP}%"


def points(change: float) -> str:
    """A change of a share, in points of a percent."""
    rounded = round(100 * change, 2) + 0.0  # no minus before zero
    return f"{rounded:+.2f}{NBSP}points".replace("-", MINUS) if rounded else f"0.00{NBSP}points"


def interval(bounds: tuple[float, float] | None) -> str:
    """``97.4 to 99.5 %``."""
    return NONE if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}{NBSP}%"


def si(value: float, unit: str, digits: int = 3) -> str:
    """Three digits and a prefix: ``2.83e-05`` J as ``28.3 µJ``."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}{NBSP}{unit}"
    power = min(max(3 * math.floor(math.log10(abs(value) * (1 + 10.0 ** -(digits + 1))) / 3), -12), 9)
    return f"{significant(value / 10.0**power, digits)}{NBSP}{_PREFIXES[power]}{unit}"


def significant(value: float, digits: int = 3) -> str:
    """So many digits, without an exponent, with a true minus."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 12)}f}".replace("-", MINUS)


def count(value: float) -> str:
    """``1,234``; large means are rounded, small ones keep two digits after the point."""
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.2f}"
    return text.replace("-", MINUS)


def size(amount: float) -> str:
    """Bytes."""
    return f"{amount:,.0f}{NBSP}B" if amount < 1024 else f"{significant(amount / 1024)}{NBSP}KiB"


def shape(axes: Iterable[int]) -> str:
    """``16 x 8 x 8`` with a cross, which does not break."""
    return f"{NBSP}{TIMES}{NBSP}".join(map(str, axes))


def index(neuron: Iterable[int]) -> str:
    """``(2, 7, 2)``."""
    return f"({', '.join(map(str, neuron))})"


def plural(number: int, one: str, many: str = "") -> str:
    """``1 core``, ``12 cores``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def short(name: str, most: int = 18) -> str:
    """A name cut to a figure's label; the tables have it whole."""
    return name if len(name) <= most else name[: most - 1] + "…"


def span(low: int, high: int) -> str:
    """``25``, or ``-7 to 25``."""
    text = str(low) if low == high else f"{low} to {high}"
    return text.replace("-", MINUS)
