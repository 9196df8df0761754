"""``model.pt``: a graph, its tensors and calibration samples in one file that loads with ``weights_only=True``.

Layout: a dict with ``format`` ("snn2chip.model"), ``version``, ``needs`` (the oldest snn2chip that reads it),
``time_steps``, ``nodes`` (a list of dicts: ``type``, then the fields of that node of :mod:`snn2chip.graph`; arrays
are tensors, float32 where that is exact, integers of the chip int32), ``readout``, ``inexact``, and ``calibration``
(None, or ``x`` and ``y``, ``y`` possibly None).
"""

from __future__ import annotations

import io
import math
import os
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn2chip import archive, chip, torch_file
from snn2chip import graph as graphs
from snn2chip._version import NEEDS, newer
from snn2chip.errors import InputError, UsageError
from snn2chip.files import write_whole
from snn2chip.frontends import EXAMPLES, Layout, capture, layout_of
from snn2chip.graph import Graph, InputKind, Node

FORMAT, VERSION = "snn2chip.model", 1
Array = npt.NDArray[Any]
#: No module path is longer.
MAX_NAME = 500
MAX_STEPS = 1 << 24

_NODE_TYPES: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        graphs.Input,
        graphs.Linear,
        graphs.Conv2d,
        graphs.BatchNorm,
        graphs.AvgPool2d,
        graphs.MaxPool2d,
        graphs.Flatten,
        graphs.Add,
        graphs.Concat,
        graphs.Delay,
        graphs.Neuron,
        graphs.ChipLayer,
    )
}
_CHIP_LAYERS: dict[str, type[Any]] = {kind.__name__: kind for kind in (chip.InputNeurons, chip.Dense, chip.Conv)}
_CHIP_NEURONS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (chip.Neuron, chip.Delta, chip.SigmaDelta, chip.Sigma, chip.Resonator)
}


@dataclass(frozen=True)
class Model:
    """What a ``model.pt`` holds.

    Attributes:
        graph: the network as trained.
        x, y: calibration samples ``[N, ...]`` and their classes ``[N]``, or None.
    """

    graph: Graph
    x: Array | None = None
    y: Array | None = None


def as_array(data: Any) -> Array:
    """A numpy array of a tensor or of anything array-like."""
    return data.detach().cpu().numpy() if isinstance(data, Tensor) else np.asarray(data)


def model_of(
    module: nn.Module,
    example_input: Any = None,
    calibration: Any = None,
    layout: Layout | None = None,
    approximate: bool = False,
) -> Model:
    """Capture ``module`` by running it on data, and prove the capture; see :func:`snn2chip.frontends.capture`.

    Args:
        example_input: as the module takes it; defaults to the first calibration samples. Binary with a time axis means
            that the network takes spikes; anything else is analog input.
        calibration: samples to choose scales with: ``x`` ``[N, T, ...]`` or ``[N, ...]``, or ``(x, y)``; 200 to 500
            are plenty.
        layout: where the module keeps time in its input: "TN", "NT", "N..T", or "N" for nowhere.
        approximate: allow what has no exact counterpart; the graph lists it.

    Raises:
        UsageError: neither example input nor calibration is given.
        UnsupportedError: the module has no counterpart in the graph; the message names what.
        CheckFailed: the graph does not compute what the module does.
    """
    x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
    x, y = (None if a is None else as_array(a) for a in (x, y))
    if x is not None and y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise UsageError(f"calibration: y has shape {y.shape} and type {y.dtype}, expected {len(x)} integer classes")
    if example_input is None and x is not None:
        layout = layout or layout_of(module, torch.from_numpy(x))
        example_input = np.moveaxis(x[:EXAMPLES], *{"TN": (1, 0), "N..T": (1, -1)}.get(layout, (0, 0)))
    if example_input is None:
        raise UsageError("save: give example_input, or calibration samples")
    graph = capture(module, as_array(example_input), layout, approximate).graph
    return Model(graph if x is None else fitted(graph, x), x, y)


def fitted(graph: Graph, x: Array) -> Graph:
    """``graph`` for data with a time axis: as many steps, and spikes where they are binary."""
    if x.ndim != len(graph.input.shape) + 2:
        return graph
    kind: InputKind = "spikes" if bool(np.isin(x, (0, 1)).all()) else "analog"
    nodes = (replace(graph.input, kind=kind), *graph.nodes[1:])
    return replace(graph, nodes=nodes, time_steps=x.shape[1])


def _entry(thing: Any) -> dict[str, Any]:
    """A node, a chip layer or chip neurons as a dict of plain containers and tensors."""
    entry: dict[str, Any] = {"type": type(thing).__name__}
    for f in fields(thing):
        value = getattr(thing, f.name)
        if is_dataclass(value):
            value = _entry(value)
        entry[f.name] = _tensor(value) if isinstance(value, np.ndarray) else value
    return entry


def _tensor(array: Array) -> Tensor:
    """float32 where no value changes, so that files are as small as the trained weights."""
    narrow = array.astype(np.float32) if array.dtype == np.float64 else array
    return torch.from_numpy(np.array(narrow if np.array_equal(narrow, array) else array))


def save(
    module: nn.Module | Graph,
    path: str | os.PathLike[str],
    example_input: Any = None,
    calibration: Any = None,
    force: bool = True,
    layout: Layout | None = None,
    approximate: bool = False,
) -> None:
    """Write a trained module as ``model.pt``; see :func:`model_of` for the arguments.

    ``force=False`` refuses to overwrite (:class:`UsageError`).
    """
    if isinstance(module, Graph):
        x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
        model = Model(module, None if x is None else as_array(x), None if y is None else as_array(y))
    else:
        model = model_of(module, example_input, calibration, layout, approximate)
    calibrated = None
    if model.x is not None:
        calibrated = {"x": _tensor(model.x), "y": None if model.y is None else _tensor(model.y)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "needs": NEEDS,
        "time_steps": model.graph.time_steps,
        "nodes": [_entry(node) for node in model.graph.nodes],
        "readout": model.graph.readout,
        "inexact": model.graph.inexact,
        "calibration": calibrated,
    }
    buffer = io.BytesIO()  # torch reports a full disk in many ways, a plain write in one
    torch.save(content, buffer)
    write_whole(path, buffer.getbuffer(), force)


def load(path: str | os.PathLike[str], trust_pickle: bool = False) -> Model | nn.Module:
    """Read a ``model.pt`` without unpickling anything but tensors and plain containers.

    Args:
        trust_pickle: also read a whole pickled module, which can run any code while it loads. Only for files whose
            author you trust; gives the module.

    Raises:
        InputError: the file is missing, not a model, damaged, or written by a newer version.
    """
    content = _read(Path(path), trust_pickle)
    if isinstance(content, nn.Module):
        return content
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path}: not a snn2chip model; write one with snn2chip.save(module, path, example_input=x)")
    version = content.get("version")
    if type(version) is not int or version < 1:
        raise InputError(f"{path}: damaged model (version)")
    if version > VERSION:
        raise InputError(f"{path}: {newer(version, VERSION, content.get('needs'))}")
    try:
        nodes = tuple(_load_node(entry) for entry in content["nodes"])
        hints = get_type_hints(Graph)
        kept = {name: content[name] for name in ("readout", "inexact") if name in content}
        graph = Graph(
            nodes,
            _steps(content["time_steps"]),
            **{name: _load_field(name, hints[name], value) for name, value in kept.items()},
        )
        graph.shapes()
        calibrated = content.get("calibration") or {}
        x, y = (None if calibrated.get(key) is None else calibrated[key].numpy() for key in ("x", "y"))
    except InputError as error:
        raise InputError(f"{path}: {archive.shown(str(error), 600)}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path}: damaged model ({archive.shown(f'{type(error).__name__}: {error}', 200)})") from error
    return Model(graph, x, y)


def _read(path: Path, trust_pickle: bool) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if trust_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        with path.open("rb") as file:
            start = file.read(1)
        if start == b"\x80":  # the first byte of every pickle since protocol 2
            raise torch_file.Foreign("a pickle")
        if not torch_file.is_torch_file(path):
            raise InputError(
                f"{path}: not a file of torch.save; write one with snn2chip.save(module, path, example_input=x)"
            )
        return torch_file.read(path)
    except torch_file.Foreign as error:
        raise InputError(
            f"{path}: contains pickled Python objects ({error}), which can run any code when loaded; write the model "
            "with snn2chip.save(module, path, example_input=x), or give --trust-pickle if you trust its author"
        ) from error
    except InputError:
        raise
    except Exception as error:  # torch.load raises whatever the bytes provoke
        reason = archive.shown(str(error) or type(error).__name__, 200)
        raise InputError(f"{path}: cannot be read ({reason})") from error


def _steps(value: Any) -> int:
    if type(value) is not int or not 1 <= value <= MAX_STEPS:
        raise InputError(f"time_steps is {archive.shown(value)}, expected 1 to {MAX_STEPS}")
    return value


def _load_node(entry: dict[str, Any]) -> Node:
    entry = dict(entry)
    name = entry.get("name")
    if type(name) is not str or not name.isprintable() or len(name) > MAX_NAME:
        raise InputError(f"a node is called {archive.shown(name)!r}, expected at most {MAX_NAME} printable characters")
    kind = _NODE_TYPES.get(entry.pop("type"))
    if kind is None:
        raise InputError(f"{name}: unknown node type, the file is from a newer version or damaged")
    hints = get_type_hints(kind)
    values = {
        f.name: _load_field(f"{name}: {f.name}", hints[f.name], entry[f.name]) for f in fields(kind) if f.name in entry
    }
    for what, least in (("kernel", 1), ("stride", 1), ("dilation", 1), ("groups", 1), ("padding", 0)):
        numbers = values.get(what, least)
        if min(numbers if isinstance(numbers, tuple) else (numbers,)) < least:
            raise InputError(f"{name}: {what} is {archive.shown(numbers)}, expected at least {least}")
    return kind(**values)


def _load_field(what: str, hint: Any, value: Any) -> Any:
    """``value`` as the field's type, or an :class:`InputError`."""
    shown = str(hint).lower()  # of an array "NDArray[...]" where numpy has it as an alias, else "numpy.ndarray[...]"
    if "ndarray" in shown and "chip" not in shown and not isinstance(value, float | int):
        if value is None and type(None) in get_args(hint):
            return None
        if not isinstance(value, Tensor) or value.is_complex() or not torch.isfinite(value).all():
            raise InputError(f"{what}: expected a tensor of finite numbers")
        return value.to(torch.float64).numpy()
    if hint == chip.Layer:
        return _load_chip_layer(what, value)
    if chip.Encoding in get_args(hint) and (value is None or isinstance(value, dict)):
        if value is None:
            return None
        hints = get_type_hints(chip.Encoding)
        return chip.Encoding(**{k: _load_field(f"{what}: {k}", hints[k], v) for k, v in value.items() if k != "type"})
    if isinstance(value, list):
        value = tuple(value)
    if hint is float or float in get_args(hint):
        fits = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    elif get_origin(hint) is Literal:
        fits = value in get_args(hint)
    elif get_origin(hint) is tuple:
        inner = get_args(hint)
        fits = isinstance(value, tuple) and all(type(v) is inner[0] for v in value)
        fits = fits and (inner[-1] is ... or len(value) == len(inner))
    else:
        fits = type(value) is hint
    if not fits:
        raise InputError(f"{what}: unexpected value {archive.shown(value, 80)!r}")
    return value


def _load_chip_layer(what: str, entry: Any) -> chip.Layer:
    values = _chip_values(what, entry, _CHIP_LAYERS)
    kind = _CHIP_LAYERS[values.pop("type")]
    neurons = _chip_values(f"{what} neuron", values.pop("neuron"), _CHIP_NEURONS)
    neuron_kind = _CHIP_NEURONS[neurons.pop("type")]
    neuron = neuron_kind.of(str(values["name"]), **neurons) if hasattr(neuron_kind, "of") else neuron_kind(**neurons)
    layer: chip.Layer = kind(neuron=neuron, **values)
    return layer


def _chip_values(what: str, entry: Any, kinds: dict[str, type[Any]]) -> dict[str, Any]:
    if not isinstance(entry, dict) or entry.get("type") not in kinds:
        raise InputError(f"{what}: unknown type, the file is from a newer version or damaged")
    values = {}
    for key, value in entry.items():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            raise InputError(f"{what}: {key}: expected a tensor of integers")
        values[key] = value.numpy() if isinstance(value, Tensor) else value
    return values
