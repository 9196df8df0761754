"""``model.pt``: a graph, its tensors and calibration samples in one file that loads with ``weights_only=True``.

Layout: a dict with ``format`` ("snn2chip.model"), ``version``, ``time_steps``, ``nodes`` (a list of dicts: ``type``,
then the fields of that node of :mod:`snn2chip.graph`; arrays are tensors, float32 where that is exact), and
``calibration`` (None, or ``x`` and ``y``, ``y`` possibly None).
"""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import warnings
import zipfile
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn2chip import graph as graphs
from snn2chip.errors import CheckFailed, InputError, UsageError
from snn2chip.files import write_whole
from snn2chip.frontends import capture
from snn2chip.graph import Graph, Node, execute

FORMAT, VERSION = "snn2chip.model", 1
Array = npt.NDArray[Any]

_NODE_TYPES: dict[str, type[Node]] = {
    kind.__name__: kind
    for kind in (
        graphs.Input,
        graphs.Linear,
        graphs.Conv2d,
        graphs.BatchNorm,
        graphs.AvgPool2d,
        graphs.Flatten,
        graphs.Neuron,
    )
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


def model_of(module: nn.Module, example_input: Any = None, calibration: Any = None) -> Model:
    """Capture ``module`` and prove the capture on data.

    Args:
        example_input: ``[N, ...]`` as the module takes it; defaults to the first calibration samples. Whether it is
            binary with a time axis decides that the network takes spikes; anything else is analog input.
        calibration: samples to choose scales with: ``x`` or ``(x, y)``; 200 to 500 are plenty.

    Raises:
        UsageError: neither example input nor calibration is given.
        CheckFailed: the graph does not compute what the module does (scores in double precision).
    """
    x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
    x, y = (None if a is None else as_array(a) for a in (x, y))
    if x is not None and y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise UsageError(f"calibration: y has shape {y.shape} and type {y.dtype}, expected {len(x)} integer classes")
    example = x[:8] if example_input is None and x is not None else example_input
    if example is None:
        raise UsageError("save: give example_input, or calibration samples")
    example = as_array(example)
    graph = capture(module)
    events = example.ndim == len(graph.input.shape) + 2 and bool(np.isin(example if x is None else x, (0, 1)).all())
    if events:
        graph = replace(graph, nodes=(replace(graph.input, kind="spikes"), *graph.nodes[1:]))
    if example.ndim == len(graph.input.shape) + 2:
        graph = replace(graph, time_steps=example.shape[1])
    _prove(module, graph, example[:32])
    return Model(graph, x, y)


def _prove(module: nn.Module, graph: Graph, example: Array) -> None:
    """Compare scores of the module (a double precision copy, in evaluation) and of the graph."""
    twin = copy.deepcopy(module).cpu().double().eval()
    with torch.no_grad():
        expected = twin(torch.as_tensor(example, dtype=torch.float64)).numpy().reshape(len(example), -1)
    found = execute(graph, example, keep=lambda node: False).scores
    if isinstance(graph.output, graphs.Neuron):
        found = found / graph.time_steps  # the module returns a mean rate, the graph counts
    # A membrane potential within one rounding error of the threshold may fall on either side: allow it one sample.
    different = ~np.isclose(expected, found, rtol=1e-9, atol=1e-9).all(1)
    if different.sum() > max(1, len(example) // 16):
        raise CheckFailed(
            f"capture: the graph's scores differ from the module's on {different.sum()} of {len(example)} samples; "
            "please report this with the model"
        )


def _tensor(array: Array) -> Tensor:
    """float32 where no value changes, so that files are as small as the trained weights."""
    narrow = array.astype(np.float32) if array.dtype == np.float64 else array
    return torch.from_numpy(np.ascontiguousarray(narrow if np.array_equal(narrow, array) else array))


def save(
    module: nn.Module | Graph,
    path: str | os.PathLike[str],
    example_input: Any = None,
    calibration: Any = None,
    force: bool = True,
) -> None:
    """Write a trained module as ``model.pt``; see :func:`model_of` for the arguments.

    ``force=False`` refuses to overwrite (:class:`UsageError`).
    """
    if isinstance(module, Graph):
        x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
        model = Model(module, None if x is None else as_array(x), None if y is None else as_array(y))
    else:
        model = model_of(module, example_input, calibration)
    nodes = []
    for node in model.graph.nodes:
        entry: dict[str, Any] = {"type": type(node).__name__}
        for f in fields(node):
            value = getattr(node, f.name)
            entry[f.name] = _tensor(value) if isinstance(value, np.ndarray) else value
        nodes.append(entry)
    calibrated = None
    if model.x is not None:
        calibrated = {"x": _tensor(model.x), "y": None if model.y is None else _tensor(model.y)}
    content = {
        "format": FORMAT,
        "version": VERSION,
        "time_steps": model.graph.time_steps,
        "nodes": nodes,
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
    if not isinstance(content.get("version"), int) or content["version"] > VERSION:
        raise InputError(f"{path}: format version {content.get('version')}, this snn2chip reads up to {VERSION}")
    try:
        nodes = tuple(_load_node(entry) for entry in content["nodes"])
        graph = Graph(nodes, int(content["time_steps"]))
        graph.shapes()
        calibrated = content.get("calibration") or {}
        x, y = (None if calibrated.get(key) is None else calibrated[key].numpy() for key in ("x", "y"))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path}: damaged model ({type(error).__name__}: {error})") from error
    return Model(graph, x, y)


def _read(path: Path, trust_pickle: bool) -> Any:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    with path.open("rb") as file:
        pickled = file.read(1) == b"\x80"  # the first byte of every pickle since protocol 2
    if not zipfile.is_zipfile(path) and not pickled:
        raise InputError(
            f"{path}: not a file of torch.save; write one with snn2chip.save(module, path, example_input=x)"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about what it refuses; the error below says it
            return torch.load(path, map_location="cpu", weights_only=not trust_pickle)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        if pickled or isinstance(error, pickle.UnpicklingError):
            raise InputError(
                f"{path}: contains pickled Python objects, which can run any code when loaded; write the model with "
                "snn2chip.save(module, path, example_input=x), or give --trust-pickle if you trust its author"
            ) from error
        raise InputError(f"{path}: cannot be read ({str(error).splitlines()[0][:200]})") from error


def _load_node(entry: dict[str, Any]) -> Node:
    entry = dict(entry)
    name = entry.get("name")
    kind = _NODE_TYPES.get(entry.pop("type"))
    if kind is None:
        raise InputError(f"{name}: unknown node type, the file is from a newer version or damaged")
    hints = get_type_hints(kind)
    values = {
        f.name: _load_field(f"{name}: {f.name}", hints[f.name], entry[f.name]) for f in fields(kind) if f.name in entry
    }
    return kind(**values)


def _load_field(what: str, hint: Any, value: Any) -> Any:
    """``value`` as the field's type, or an :class:`InputError`."""
    if "ndarray" in str(hint):
        if value is None and type(None) in get_args(hint):
            return None
        if not isinstance(value, Tensor) or not (value.is_floating_point() and torch.isfinite(value).all()):
            raise InputError(f"{what}: expected a tensor of finite floating point numbers")
        return value.to(torch.float64).numpy()
    if isinstance(value, list):
        value = tuple(value)
    if hint is float:
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
        raise InputError(f"{what}: unexpected value {str(value)[:80]!r}")
    return value
