"""NIR files that snn2chip wrote (:mod:`snn2chip.exporters.nir`).

What NIR cannot say stands in the metadata, and has to agree with what it does say.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, get_args, get_type_hints

import numpy as np

from snn2chip.errors import InputError
from snn2chip.frontends.nir_dialects import DIALECTS
from snn2chip.frontends.nir_file import NEURONS, OURS, NirFile, Operation
from snn2chip.frontends.nir_nodes import BUILDERS, Build, Time, continuous, input_node, recurrent_synapses
from snn2chip.graph import (
    Add,
    BatchNorm,
    Conv2d,
    Graph,
    InputKind,
    Linear,
    Neuron,
    Node,
    Reset,
    Shape,
    per_neuron,
)

#: Metadata that this reader understands.
FORMAT = 1


def read_own(file: NirFile, text: str) -> tuple[Graph, float]:
    """The graph as it was written, and the time step; ``text`` is the metadata of the whole.

    Raises:
        InputError: the metadata are malformed, or say something else than the rest of the file.
    """
    whole = _parsed(f"metadata/{OURS}", text)
    version = whole.get("format")
    if type(version) is not int or not 1 <= version <= FORMAT:
        raise InputError(f"metadata: format {version!r}, this snn2chip reads up to {FORMAT}")
    hints = get_type_hints(Graph)
    try:
        dt, order = float(whole["dt"]), [str(name) for name in whole["order"]]
        steps, readout, inexact = whole["time_steps"], whole["readout"], whole["inexact"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"metadata: malformed ({type(error).__name__}: {error})") from None
    if (
        type(steps) is not int
        or readout not in get_args(hints["readout"])
        or not (isinstance(inexact, list) and all(isinstance(line, str) for line in inexact))
        or not (math.isfinite(dt) and dt > 0)
    ):
        raise InputError("metadata: malformed (time_steps, readout, inexact or dt)")
    build = Build(Time(dt, None))
    for operation in file.operations:
        build.outputs[operation.name] = build.add(_our_node(build, operation))
    by_name = {node.name: node for node in build.nodes}
    if sorted(order) != sorted(by_name):
        raise InputError(f"metadata: name other nodes than the file has{_CHANGED}")
    return Graph(tuple(by_name[name] for name in order), steps, readout, tuple(inexact)), dt


_CHANGED = "; the file was changed after snn2chip wrote it, read it with --nir-dialect snntorch"


def _parsed(where: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: malformed ({type(error).__name__})") from None
    if not isinstance(value, dict):
        raise InputError(f"{where}: malformed (not an object)")
    return value


def _our_node(build: Build, operation: Operation) -> Node:
    if not isinstance(operation.metadata.get("node"), str):
        raise operation.fail(f"the metadata say nothing about it{_CHANGED}")
    note = _parsed(f"{operation.where}: metadata", operation.metadata["node"])
    name, kind = note.get("name"), note.get("type")
    if not isinstance(name, str) or not name.isprintable() or kind not in _OUR_TYPES:
        raise operation.fail("its metadata are malformed (name or type)")
    if kind == "Input":
        if operation.kind != "Input" or note.get("kind") not in get_args(InputKind):
            raise operation.fail("its metadata are malformed (kind)")
        return replace(input_node(build, operation), name=name, kind=note["kind"])
    if kind == "Add":
        return _our_add(build, operation, name, note)
    if len(operation.inputs) != 1:
        raise operation.fail(f"has {len(operation.inputs)} inputs{_CHANGED}")
    source = build.outputs[operation.inputs[0]]
    shape = build.shapes[source]
    if kind == "Neuron" and operation.kind in NEURONS:
        return replace(_our_neuron(build, operation, note, shape), name=name, inputs=(source,))
    nodes = BUILDERS[operation.kind](build, operation, shape) if operation.kind in _PLAIN else []
    if len(nodes) == 1 and kind == "BatchNorm" and not isinstance(nodes[0], BatchNorm):
        nodes = [_our_batch_norm(operation, nodes[0])]
    if len(nodes) != 1 or type(nodes[0]).__name__ != kind:
        raise operation.fail(f"its metadata say {kind}{_CHANGED}")
    return replace(nodes[0], name=name, inputs=(source,))


_PLAIN = ("Linear", "Affine", "Scale", "Conv2d", "AvgPool2d", "Flatten", "Delay")
_OUR_TYPES = ("Input", "Linear", "Conv2d", "BatchNorm", "AvgPool2d", "Flatten", "Add", "Delay", "Neuron")


def _our_add(build: Build, operation: Operation, name: str, note: dict[str, Any]) -> Node:
    if operation.kind != "Scale" or (operation.values["scale"] != 1).any():
        raise operation.fail(f"its metadata say Add{_CHANGED}")
    names, found = note.get("inputs"), [build.outputs[source] for source in operation.inputs]
    if not isinstance(names, list) or len(names) < 1 or set(map(str, names)) != set(found):
        raise operation.fail(f"its metadata name other inputs{_CHANGED}")
    return Add(name=name, inputs=tuple(names))


def _our_batch_norm(operation: Operation, node: Node) -> BatchNorm:
    """The per-channel map that stands in the file as a diagonal matrix, or as a convolution with one."""
    plain = not isinstance(node, Conv2d) or (node.stride, node.padding) == ((1, 1), (0, 0))
    if isinstance(node, Linear | Conv2d) and plain and node.weight.size == len(node.bias) ** 2:
        weight = node.weight.reshape(len(node.bias), -1)
        scale = np.diag(weight).copy()
        if (weight == np.diag(scale)).all():
            return BatchNorm(name=node.name, scale=scale, shift=node.bias)
    raise operation.fail(f"its metadata say BatchNorm{_CHANGED}")


def _our_neuron(build: Build, operation: Operation, note: dict[str, Any], shape: Shape) -> Neuron:
    p = continuous(operation, shape)
    law = DIALECTS["snntorch"].convert(p, build.time.dt)
    values: dict[str, Any] = {}
    expected = {"alpha": law.alpha, "beta": law.beta, "threshold": p.v_threshold}
    for what in ("alpha", "beta", "threshold", "bias"):
        value = operation.metadata.get(what, note.get(what))
        if what == "bias" and value is None:
            values[what] = None
            continue
        if not isinstance(value, np.ndarray | float | int) or isinstance(value, bool):
            raise operation.fail(f"its metadata are malformed ({what})")
        if np.shape(value) not in ((), shape[:1], shape):
            raise operation.fail(
                f"{what} in its metadata has shape {np.shape(value)}, expected (), {shape[:1]} or {shape}"
            )
        values[what] = value if isinstance(value, np.ndarray) else float(value)
        if what in expected and not np.allclose(per_neuron(values[what], shape), expected[what], rtol=1e-9, atol=1e-9):
            raise operation.fail(f"{what} in its metadata contradicts its parameters{_CHANGED}")
    flags: dict[str, Any] = {what: note.get(what) for what in ("reset", "reset_delay", "inclusive", "relays")}
    sound = flags["reset"] in get_args(Reset) and type(flags["relays"]) is int and 0 <= flags["relays"] <= shape[0]
    if not sound or type(flags["reset_delay"]) is not bool or type(flags["inclusive"]) is not bool:
        raise operation.fail("its metadata are malformed (reset, reset_delay, inclusive or relays)")
    recurrent, recurrent_bias = recurrent_synapses(operation, shape)
    if recurrent_bias.any() or (law.gain != 1).any():
        raise operation.fail(f"r, w_in or a recurrent bias differ from what snn2chip writes{_CHANGED}")
    return Neuron(name=operation.name, recurrent=recurrent, **values, **flags)
