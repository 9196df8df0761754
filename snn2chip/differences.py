"""How two networks differ, layer by layer and parameter by parameter."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from snn2chip.chip import ChipNet


@dataclass(frozen=True)
class Difference:
    """One parameter that is not the same.

    Attributes:
        layer: its name in the first network; empty for what belongs to the whole network.
        what: the parameter, such as ``weight`` or ``neuron.threshold``.
        first, second: values, or shapes of arrays.
        changed: entries that differ, None where shapes do.
        total: entries.
        largest: largest magnitude of the difference.
        mean: mean magnitude, over all entries.
    """

    layer: str
    what: str
    first: str
    second: str
    changed: int | None = None
    total: int | None = None
    largest: int | None = None
    mean: float | None = None


def differences(a: ChipNet, b: ChipNet) -> tuple[Difference, ...]:
    """What is not the same; empty for equal networks. Layers are compared in order, whatever their names."""
    found = [
        *_settings("", "", a, b, ("layers", "inexact")),
        *(Difference("", "inexact", line, "-") for line in a.inexact if line not in b.inexact),
        *(Difference("", "inexact", "-", line) for line in b.inexact if line not in a.inexact),
    ]
    for first, second in zip(a.layers, b.layers, strict=False):
        if type(first) is not type(second):
            found.append(Difference(first.name, "type", type(first).__name__, type(second).__name__))
        else:
            found += _settings(first.name, "", first, second, ())
    for layer in a.layers[len(b.layers) :]:
        found.append(Difference(layer.name, "layer", type(layer).__name__, "-"))
    for layer in b.layers[len(a.layers) :]:
        found.append(Difference(layer.name, "layer", "-", type(layer).__name__))
    return tuple(found)


def _settings(layer: str, prefix: str, a: Any, b: Any, skipped: tuple[str, ...]) -> list[Difference]:
    found: list[Difference] = []
    for f in fields(a):
        if f.name in skipped:
            continue
        what, one, other = prefix + f.name, getattr(a, f.name), getattr(b, f.name)
        if is_dataclass(one) and type(one) is type(other):
            found += _settings(layer, f"{what}.", one, other, ())
        elif isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
            found += _arrays(layer, what, one, other)
        elif isinstance(one, np.ndarray) or isinstance(other, np.ndarray) or one != other:
            found.append(Difference(layer, what, _short(one), _short(other)))
    return found


def _arrays(layer: str, what: str, a: Any, b: Any) -> list[Difference]:
    if a.shape != b.shape and () in (a.shape, b.shape):  # one number for all neurons
        a, b = np.broadcast_arrays(a, b)
    if a.shape != b.shape:
        return [Difference(layer, what, _short(a), _short(b))]
    apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
    if not apart.any():
        return []
    count = int(np.count_nonzero(apart))
    first, second = (f"{int(x.min())}..{int(x.max())}" for x in (a, b))
    return [Difference(layer, what, first, second, count, apart.size, int(apart.max()), float(apart.mean()))]


def _short(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "x".join(map(str, value.shape)) or str(value)
    return type(value).__name__ if is_dataclass(value) else str(value)
