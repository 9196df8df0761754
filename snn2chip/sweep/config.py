"""What a sweep is: a YAML file that names a network, data, and the values that options take.

::

    model: model.pt             data: test.npz              paths are relative to the file
    grid:                       each combination of values, or random: N of them
      bits: [8, 4]              one value for all layers ...
      thresholds:               ... or by layer; "*" are those that are not named
        "*": [1]
        "0 (Conv2d)": [0.9, 1, 1.1]
    configurations:             and these
      - {bits: {"*": 4, "0 (Conv2d)": 8}, cutoff: {policy: margin, max_drop: 0.5}}

The file is not trusted; it is read as :mod:`snn2chip.config` reads others, whose words it uses.
"""

from __future__ import annotations

import itertools
import math
import os
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from snn2chip.chip import ExitForm, ExitPolicy
from snn2chip.config import checked, plain_yaml, read_plain, section, suggestion
from snn2chip.errors import InputError

#: Configurations of a file that does not say ``limit:``.
LIMIT = 1000
#: Combinations that a grid may have where some are drawn.
LARGEST_GRID = 1 << 62
#: All layers that are not named.
REST = "*"

LEVELS = ("decision", "gated", "stopped")  # of snn2chip.early_exit, which takes seconds to load
#: What decides on a threshold; exactly one.
AIMS = ("threshold", "max_drop", "eps", "max_latency")

#: A value for each layer, by name; :data:`REST` comes first.
Setting = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Cutoff:
    """An early exit; no policy, none.

    Attributes:
        policy, form: see :func:`snn2chip.early_exit.attach`.
        threshold: integer of the circuit's evidence, or steps (patience).
        max_drop: points of accuracy that may be lost on held-out samples, bounded at ``confidence``.
        eps: softmax confidence 1 - eps.
        max_latency: mean steps until the answer has left the chip.
        level: what a decision ends, see :mod:`snn2chip.early_exit.activity`; energy and spikes are those of this level.
    """

    policy: str | None = None
    form: str | None = None
    threshold: int | None = None
    max_drop: float | None = None
    eps: float | None = None
    max_latency: float | None = None
    confidence: float = 0.95
    level: str = "stopped"

    @property
    def aims(self) -> bool:
        """Whether the threshold is chosen on held-out samples."""
        return self.policy is not None and self.threshold is None


@dataclass(frozen=True)
class Configuration:
    """Options of one network: those of an export, and what is changed afterwards.

    Attributes:
        bits, scales, rounding, per_neuron, resets, analog, window: see :class:`snn2chip.config.Config`.
        thresholds: factors on the thresholds of neurons that fire.
        time_steps: None takes the model's.
    """

    bits: Setting = ((REST, 8),)
    scales: Setting = ((REST, "search"),)
    rounding: Setting = ((REST, "auto"),)
    per_neuron: bool = False
    thresholds: Setting = ((REST, 1.0),)
    time_steps: int | None = None
    resets: str = "keep"
    analog: str = "graded"
    window: int | None = None
    cutoff: Cutoff = Cutoff()


@dataclass(frozen=True)
class Sweep:
    """A file's content.

    Attributes:
        model, data, calibration: paths as they are written.
        target: chip.
        samples: only the first so many of the data.
        configurations: each once, in the order of the file, the grid's first.
    """

    model: str
    data: str
    calibration: str | None = None
    target: str = "loihi2"
    samples: int | None = None
    configurations: tuple[Configuration, ...] = ()


@dataclass(frozen=True)
class _File:
    """Keys of a file."""

    model: Any = None
    data: Any = None
    calibration: Any = None
    target: Any = None
    samples: Any = None
    grid: Any = None
    random: Any = None
    seed: Any = None
    configurations: Any = None
    limit: Any = None


AXES = tuple(field.name for field in fields(Configuration))
#: Axes whose value may differ between layers.
BY_LAYER = ("bits", "scales", "rounding", "thresholds")


@dataclass(frozen=True)
class _Axis:
    """Values of one option, for all layers (settings) or for one (plain values)."""

    name: str
    layer: str | None
    values: tuple[Any, ...]


def load_sweep(path: str | os.PathLike[str]) -> Sweep:
    """Read a file.

    Raises:
        InputError: it is missing, too large, no plain YAML, holds an unknown key or value, or too many configurations;
            one line that says where.
    """
    return read_plain(path, parse)


def parse(text: str) -> Sweep:
    """The sweep in YAML ``text``; raises :class:`InputError` as :func:`load_sweep` does."""
    content = plain_yaml(text)
    if isinstance(content, dict):
        for key in content:
            if key in AXES:
                raise InputError(f"{key!r} is an option of configurations: move it below grid: or configurations:")
    values = section("", {} if content is None else content, _File)
    for key in ("model", "data"):
        if not _is_path(values.get(key)):
            raise InputError(f"{key}: {_shown(values.get(key))}, expected a path")
    if values.get("calibration") is not None and not _is_path(values["calibration"]):
        raise InputError(f"calibration: {_shown(values['calibration'])}, expected a path")
    limit = _count("limit", values.get("limit"), LIMIT)
    found = _drawn(values, limit)
    listed = values.get("configurations")
    if listed is not None:
        if not isinstance(listed, list):
            raise InputError(f"configurations: expected a list, found {_shown(listed)}")
        found += [_configuration(f"configurations: {i + 1}: ", entry) for i, entry in enumerate(listed)]
    configurations = tuple(dict.fromkeys(found))
    if not configurations:
        raise InputError("no configurations; give grid: with values, or configurations:")
    if len(configurations) > limit:
        raise InputError(_too_many("configurations", len(configurations), limit))
    return Sweep(
        values["model"],
        values["data"],
        values.get("calibration"),
        checked("target", values.get("target")) or "loihi2",
        _count("samples", values.get("samples"), None),
        configurations,
    )


def _drawn(values: Mapping[str, Any], limit: int) -> list[Configuration]:
    """Configurations of the grid: all, or as many as are drawn."""
    drawn, seed = _count("random", values.get("random"), None), values.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 1 << 63:
        raise InputError(f"seed: {_shown(seed)}, expected a whole number from 0")
    if values.get("grid") is None:
        if drawn is not None:
            raise InputError("random: draws from a grid; give grid: with values")
        return []
    axes = _axes(values["grid"])
    total = math.prod(len(axis.values) for axis in axes)
    if drawn is None and total > limit:
        raise InputError(_too_many("grid", total, limit))
    if total > LARGEST_GRID:
        raise InputError(f"grid: more than 2^62 combinations ({total}); give fewer values")
    chosen: Sequence[int] = range(total)
    if drawn is not None and drawn < total:
        chosen = sorted(random.Random(seed).sample(range(total), drawn))
    return [_combination(axes, index) for index in chosen]


def _too_many(where: str, count: int, limit: int) -> str:
    return (
        f"{where}: {count:,} configurations, limit {limit:,}; draw some of a grid with random: N, give fewer values, "
        f"or raise it with limit: {count}"
    )


def _axes(grid: Any) -> list[_Axis]:
    axes = []
    for name, content in section("grid: ", grid, Configuration).items():
        where = f"grid: {name}: "
        if name in BY_LAYER and isinstance(content, dict):
            for layer, values in _rest_first(where, content).items():
                listed = _listed(f"{where}{layer}: ", values)
                axes.append(_Axis(name, layer, tuple(_plain(name, value, where) for value in listed)))
            if not content:
                raise InputError(f"{where}names no layer; give values, or leave it out")
            continue
        read = _every_cutoff if name == "cutoff" else lambda entry, where, name=name: [_value(name, entry, where)]
        found = tuple(value for entry in _listed(where, content) for value in read(entry, where))
        axes.append(_Axis(name, None, found))
    if not axes:
        raise InputError("grid: names no option; give values, such as bits: [8, 4]")
    return axes


def _listed(where: str, content: Any) -> list[Any]:
    listed = content if isinstance(content, list) else [content]
    if not listed:
        raise InputError(f"{where}is empty; give at least one value, or leave it out")
    return listed


def _rest_first(where: str, content: Mapping[Any, Any]) -> dict[str, Any]:
    if not all(isinstance(layer, str) for layer in content):
        raise InputError(f"{where}expected names of layers (in quotes), found {_shown(list(content))}")
    return {layer: content[layer] for layer in sorted(content, key=lambda layer: (layer != REST, layer))}


def _combination(axes: Sequence[_Axis], index: int) -> Configuration:
    """Number ``index`` of all combinations, of which the last axis changes first."""
    settings: dict[str, Any] = {}
    layers: dict[str, dict[str, Any]] = {}
    for axis in reversed(axes):
        index, k = divmod(index, len(axis.values))
        if axis.layer is None:
            settings[axis.name] = axis.values[k]
        else:
            layers.setdefault(axis.name, {})[axis.layer] = axis.values[k]
    settings |= {name: _setting(name, chosen) for name, chosen in layers.items()}
    return Configuration(**settings)


def _setting(name: str, layers: Mapping[str, Any]) -> Setting:
    """By layer, the usual value for the rest; layers that have the rest's anyway are left out."""
    usual = dict(getattr(Configuration(), name))[REST]
    rest = layers.get(REST, usual)
    own = sorted((layer, value) for layer, value in layers.items() if layer != REST and value != rest)
    return ((REST, rest), *own)


def _configuration(where: str, content: Any) -> Configuration:
    values = section(where, {} if content is None else content, Configuration)
    return Configuration(**{name: _value(name, value, where + f"{name}: ") for name, value in values.items()})


def _value(name: str, value: Any, where: str) -> Any:
    """One value of an axis."""
    if name == "cutoff":
        found = _every_cutoff(value, where)
        if len(found) > 1:
            raise InputError(f"{where}several values for one configuration; lists belong below grid:")
        return found[0]
    if name not in BY_LAYER:
        return _plain(name, value, where)
    if not isinstance(value, dict):
        return ((REST, _plain(name, value, where)),)
    layers = _rest_first(where, value)
    return _setting(name, {layer: _plain(name, entry, f"{where}{layer}: ") for layer, entry in layers.items()})


def _plain(name: str, value: Any, where: str) -> Any:
    """A value for a layer, or for all."""
    if name == "thresholds":
        if type(value) not in (int, float) or not 0.01 <= value <= 100:
            raise InputError(f"{where}{_shown(value)}, expected a factor, 0.01 to 100")
        return float(value)
    if name in ("time_steps", "window"):
        return _count(where.rstrip(": "), value, None)
    return checked(name, value, where.removesuffix(f"{name}: ") or " ")


def _every_cutoff(content: Any, where: str) -> list[Cutoff]:
    """One entry; each of its options may be a list."""
    if content is None or content == "none":
        return [Cutoff()]
    options = section(where, content, Cutoff)
    if options.get("policy") is None:
        raise InputError(f"{where}no policy, expected {', '.join(get_args(ExitPolicy))}; or cutoff: none")
    kinds: dict[str, Callable[[Any], Any]] = {
        "policy": lambda value: _word(f"{where}policy", value, get_args(ExitPolicy)),
        "form": lambda value: _word(f"{where}form", value, get_args(ExitForm)),
        "threshold": lambda value: _count(f"{where}threshold", value, None, 0),
        "max_drop": lambda value: _number(f"{where}max_drop", value, 0, 100),
        "eps": lambda value: _number(f"{where}eps", value, 1e-300, 1 - 1e-15),
        "max_latency": lambda value: _number(f"{where}max_latency", value, 1, 1e9),
        "confidence": lambda value: _number(f"{where}confidence", value, 0.5, 1 - 1e-15),
        "level": lambda value: _word(f"{where}level", value, LEVELS),
    }
    names = list(options)
    values = [
        [None if value is None else kinds[name](value) for value in _listed(f"{where}{name}: ", options[name])]
        for name in names
    ]
    return [_checked_cutoff(where, dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*values)]


def _checked_cutoff(where: str, options: dict[str, Any]) -> Cutoff:
    given = {name: value for name, value in options.items() if value is not None}
    found = Cutoff(**given)
    aims = [name for name in AIMS if name in given]
    if found.policy == "first-spike" and not aims:
        return replace(found, threshold=1)
    if len(aims) != 1:
        raise InputError(f"{where}{found.policy}: {' and '.join(aims) or 'no aim'} given, expected one of {_either()}")
    if found.eps is not None and found.policy != "softmax":
        raise InputError(f"{where}eps: is the confidence of policy softmax, not of {found.policy}; take max_drop")
    if found.policy == "softmax" and found.threshold is not None:
        raise InputError(f"{where}threshold: softmax has several; give eps or max_drop, or take policy margin")
    if found.form == "host" and found.level == "gated":
        raise InputError(f"{where}level: gated needs a circuit on the chip, and form: host has none; take stopped")
    return found


def _either() -> str:
    return f"{', '.join(AIMS[:-1])} or {AIMS[-1]}"


def _word(where: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise InputError(f"{where}: {_shown(value)} is unknown{suggestion(str(value), known)}")
    return str(value)


def _number(where: str, value: Any, low: float, high: float) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise InputError(f"{where}: {_shown(value)}, expected a number from {low:g} to {high:g}")
    return float(value)


def _count(where: str, value: Any, usual: Any, least: int = 1) -> Any:
    if value is None:
        return usual
    if type(value) is not int or not least <= value < 1 << 31:
        raise InputError(f"{where}: {_shown(value)}, expected a whole number from {least}")
    return value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _shown(value: Any) -> str:
    return repr(str(value)[:40])
