"""How a model is exported: a YAML file that ``snn2chip init`` writes and ``snn2chip export --config`` reads.

The file is not trusted: plain YAML alone, no references, at most 256 KiB, and every key and value is known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from snn2chip.archive import shown
from snn2chip.chip import ExitPolicy
from snn2chip.errors import InputError
from snn2chip.names import meant

MAX_BYTES = 1 << 18
#: Of one value or key: some numbers take time in the square of their length.
MAX_SCALAR = 1000
MAX_DEPTH = 8

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class LayerConfig:
    """Changes for one layer; None takes the network's."""

    bits: int | None = None
    scales: str | None = None
    rounding: str | None = None


@dataclass(frozen=True)
class InputConfig:
    """``analog``: ``graded`` messages at each step, or ``hold``, one that the first layer holds."""

    analog: str = "graded"


@dataclass(frozen=True)
class ExitConfig:
    """Early exit; no ``policy``, no exit. ``max_drop`` in points of accuracy, ``eps`` a probability."""

    policy: str | None = None
    max_drop: float | None = None
    eps: float | None = None


@dataclass(frozen=True)
class Config:
    """Options of an export.

    Attributes:
        bits: width of the weights, 1 to 8, or ``auto``.
        max_drop, budget_cores: with ``auto``: points of accuracy that may be lost, cores that may be used.
        scales, rounding, per_neuron, layers: see :func:`snn2chip.quantise.quantise`.
        resets: ``keep`` the model's, or ``zero``: the chip's own, whatever the model has.
        window: steps between two resets.
        target: chip.
    """

    bits: int | str = 8
    max_drop: float | None = None
    budget_cores: int | None = None
    scales: str = "search"
    rounding: str = "auto"
    per_neuron: bool = False
    layers: Mapping[str, LayerConfig] = field(default_factory=dict)
    input: InputConfig = field(default_factory=InputConfig)
    resets: str = "keep"
    window: int | None = None
    target: str | None = None
    exit: ExitConfig = field(default_factory=ExitConfig)

    def layer_options(self) -> dict[str, dict[str, Any]]:
        """What :func:`snn2chip.quantise.quantise` takes as ``layers``."""
        return {
            name: {key: value for key, value in asdict(layer).items() if value is not None}
            for name, layer in self.layers.items()
        }


#: What a key may hold: a type and, where there are few, the values.
_KINDS: dict[str, tuple[type, Any]] = {
    "max_drop": (float, None),
    "budget_cores": (int, None),
    "scales": (str, None),
    "rounding": (str, ("auto", "nearest", "second-order")),
    "per_neuron": (bool, None),
    "analog": (str, ("graded", "hold")),
    "resets": (str, ("keep", "zero")),
    "window": (int, None),
    "target": (str, None),
    "policy": (str, get_args(ExitPolicy)),
    "eps": (float, None),
}
_NAMES: dict[type, str] = {
    float: "a number from 0",
    int: "a whole number from 0",
    bool: "true or false",
    str: "a word",
}
_OPTIONAL = ("max_drop", "budget_cores", "window", "target", "policy", "eps")


# What the constructors of yaml raise.
_BROKEN = (yaml.YAMLError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # yaml has no types
    """Without references, and with each key once."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: references (& and *) are not allowed")
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_SCALAR:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: {len(event.value)} characters, limit {MAX_SCALAR}")
        if getattr(event, "tag", None) is not None:
            raise yaml.YAMLError(f"line {event.start_mark.line + 1}: types (!) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen if isinstance(key.value, str) else False:
                raise yaml.YAMLError(f"line {key.start_mark.line + 1}: {key.value!r} is given twice")
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read a file.

    Raises:
        InputError: it is missing, too large, no plain YAML, or holds an unknown key or value; one line that says where.
    """
    return read_plain(path, parse)


def read_plain(path: str | os.PathLike[str], parse: Callable[[str], Parsed]) -> Parsed:
    """What ``parse`` makes of the text of a file; raises :class:`InputError` with the file's name."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES} bytes, which no configuration is")
    try:
        return parse(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is no UTF-8 text (byte {error.start})") from None
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def plain_yaml(text: str) -> Any:
    """Containers, numbers and words of YAML ``text``; raises :class:`InputError` where there is anything else."""
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except _BROKEN as error:
        raise InputError(f"is no plain YAML ({shown(' '.join(str(error).split()), 200)})") from None
    except RecursionError:
        raise InputError("is nested too deeply") from None


def parse(text: str) -> Config:
    """The configuration in YAML ``text``; raises :class:`InputError` as :func:`load_config` does."""
    content = plain_yaml(text)
    if content is None:
        return Config()
    values = section("", content, Config)
    layers = values.get("layers", {})
    if layers is None:
        layers = {}
    if not isinstance(layers, dict) or not all(isinstance(name, str) for name in layers):
        raise InputError("layers: expected names of layers, each with its options")
    parsed: dict[str, Any] = {
        key: checked(key, value) for key, value in values.items() if key not in ("layers", "input", "exit")
    }
    parsed["layers"] = {
        name: LayerConfig(**_values(f"layers: {shown(name)}: ", options, LayerConfig))
        for name, options in layers.items()
    }
    parsed["input"] = InputConfig(**_values("input: ", values.get("input"), InputConfig))
    parsed["exit"] = ExitConfig(**_values("exit: ", values.get("exit"), ExitConfig))
    config = Config(**parsed)
    if config.bits == "auto" and any(layer.bits is not None for layer in config.layers.values()):
        raise InputError("bits: auto chooses the widths of all layers; remove those of single layers")
    if config.bits != "auto" and (config.max_drop is not None or config.budget_cores is not None):
        raise InputError("max_drop, budget_cores: belong to bits: auto")
    return config


def section(where: str, content: Any, kind: type) -> dict[str, Any]:
    """``content`` as a mapping whose keys are fields of ``kind``; raises :class:`InputError` where it is none."""
    if not isinstance(content, dict):
        raise InputError(f"{where}expected keys with values, found {shown(content, 40)!r}")
    known = [f.name for f in fields(kind)]
    for key in content:
        if key not in known:
            raise InputError(f"{where}{shown(key)!r} is unknown{suggestion(shown(key), known)}")
    return content


def suggestion(word: str, known: Sequence[str]) -> str:
    """``; did you mean ...?``, or what there is."""
    return meant(word, known) or f", expected {', '.join(known)}"


def _values(where: str, content: Any, kind: type) -> dict[str, Any]:
    values = section(where, {} if content is None else content, kind)
    optional = kind is LayerConfig
    return {key: None if optional and value is None else checked(key, value, where) for key, value in values.items()}


def checked(key: str, value: Any, where: str = "") -> Any:
    """``value`` of an option of an export; raises :class:`InputError` where it is none that the option has."""
    if value is None and key in _OPTIONAL:
        return None
    if key == "bits":
        if (value == "auto" and not where) or (type(value) is int and 1 <= value <= 8):
            return value
        raise InputError(f"{where}bits: {shown(value, 40)!r}, expected 1 to 8{'' if where else ', or auto'}")
    allowed: Any
    kind, allowed = _KINDS[key]
    if kind is float and type(value) is int and abs(value) < 1e9:  # a float holds no more than 308 digits
        value = float(value)
    number: Any = value
    if type(value) is not kind or (kind in (int, float) and not 0 <= number < 1e9):
        raise InputError(f"{where}{key}: {shown(value, 40)!r}, expected {_NAMES[kind]}")
    if allowed is not None and value not in allowed:
        raise InputError(f"{where}{key}: {shown(value, 40)!r} is unknown{suggestion(str(value), allowed)}")
    return value


def template(model: str, layers: Sequence[str], analog: bool, target: str = "loihi2") -> str:
    """A file for a model, with every option at its default.

    Args:
        model: path, for the first line.
        layers: names of its layers on the chip.
        analog: whether its input is analog.
    """
    lines = [
        f"# How {model} is exported: snn2chip export {model} --config THIS_FILE",
        "# What is deleted takes its default; options of the command line win.",
        "bits: 8               # of the weights, 1 to 8; or auto: the fewest that max_drop or budget_cores allow",
        "max_drop: null        # with auto: points of accuracy that may be lost",
        "budget_cores: null    # with auto: cores that may be used",
        "scales: search        # range of the weights: search, max, mse, percentile 99.9, percentile 99.5, ...",
        "rounding: auto        # auto, nearest, second-order",
        "per_neuron: false     # a scale and threshold for each neuron; costs neuron profiles",
        "layers:               # for single layers: bits, scales, rounding",
        *(f"  {_quoted(name)}: {{bits: null, scales: null}}" for name in layers),
        "input:",
        "  analog: graded      # graded: a message at each step; hold: one that the first layer holds"
        + ("" if analog else " (this model takes spikes)"),
        "resets: keep          # keep: the model's, by an exact form; zero: the chip's own, which changes the network",
        "window: null          # steps between two resets; null: the model's time steps",
        f"target: {target}",
        "exit:",
        f"  policy: null        # {', '.join(get_args(ExitPolicy))}",
        "  max_drop: null      # points of accuracy that the exit may cost",
        "  eps: null           # or its confidence, 1 - eps",
    ]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
