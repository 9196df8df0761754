"""NIR files (HDF5) as a flat, ordered list of operations, before anything is said about time.

Layout, as ``nir.write`` of nir 0.1 to 1.0 has it::

    /version                         text
    /node/type                       "NIRGraph"
    /node/edges                      (E, 2) names: from, to; in any order, possibly repeated
    /node/nodes/<name>/type          "Input" | "Output" | "Affine" | "LIF" | ... | "NIRGraph" (again nodes and edges)
    /node/nodes/<name>/<parameter>   weight, tau, r, v_threshold ...
    /node/metadata, /node/nodes/<name>/metadata    anything; ours under the name snn2chip

Subgraphs are laid flat (``lif1`` holding ``lif`` becomes ``lif1.lif``), recurrent synapses move into their neurons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import InputError, UnsupportedError
from snn2chip.hdf5 import Group

Array = npt.NDArray[Any]
Edge = tuple[str, str]

MAX_NODES = 4096
MAX_EDGES = 1 << 16
MAX_DEPTH = 8
MAX_NAME = 256
MAX_METADATA = 1 << 20
#: The group, or the text in a group, that our exporter adds to ``metadata``.
OURS = "snn2chip"

#: Parameters of each kind of node; those with a question mark may be missing.
FIELDS: dict[str, tuple[str, ...]] = {
    "Input": ("shape",),
    "Output": (),
    "Linear": ("weight",),
    "Affine": ("weight", "bias"),
    "Scale": ("scale",),
    "Conv2d": ("weight", "bias?", "stride", "padding", "dilation", "groups"),
    "SumPool2d": ("kernel_size", "stride", "padding"),
    "AvgPool2d": ("kernel_size", "stride", "padding"),
    "Flatten": ("start_dim", "end_dim", "input_type?"),
    "Delay": ("delay",),
    "Threshold": ("threshold",),
    "I": ("r",),
    "IF": ("r", "v_threshold", "v_reset?"),
    "LI": ("tau", "r", "v_leak"),
    "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset?"),
    "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in?"),
    "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "v_threshold", "v_reset?", "w_in?"),
}
#: Kinds with a membrane potential.
NEURONS = ("I", "IF", "LI", "LIF", "CubaLI", "CubaLIF")
_INTEGERS = ("shape", "stride", "dilation", "groups", "kernel_size", "start_dim", "end_dim", "input_type")
_INFINITE = ("tau", "tau_syn", "tau_mem", "r", "w_in", "v_threshold", "threshold")


@dataclass(frozen=True, eq=False)
class Operation:
    """A node of the file.

    Attributes:
        name: its key, with the keys of the subgraphs around it: ``lif1.lif``.
        kind: NIR's name of the type.
        where: file and name, for errors.
        values: its parameters as stored.
        padding: "same" or "valid" where a convolution says so instead of numbers.
        metadata: our exporter's text and arrays.
        inputs: names of the operations that feed it; several are summed.
        recurrent: the Linear, Affine or Scale through which a neuron feeds itself.
    """

    name: str
    kind: str
    where: str
    values: dict[str, Array]
    padding: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    recurrent: Operation | None = None

    def fail(self, problem: str) -> InputError:
        """The error for a value that makes no sense; the caller raises it."""
        return InputError(f"{self.where}: {problem}")

    def unsupported(self, problem: str) -> UnsupportedError:
        """The error for something that the graph has no form for; the caller raises it."""
        return UnsupportedError(f"{self.where}: {problem}")


@dataclass(frozen=True, eq=False)
class NirFile:
    """Operations in topological order; the first is the input, ``output`` names the one that is read.

    Attributes:
        text: our exporter's metadata of the whole graph, None in files of other origin.
        recurrent_names: whether recurrent synapses and their neurons are called ``lif`` and ``w_rec``.
    """

    operations: tuple[Operation, ...]
    output: str
    text: str | None
    recurrent_names: bool

    def neurons(self) -> Iterator[Operation]:
        """Operations with a membrane potential."""
        return (operation for operation in self.operations if operation.kind in NEURONS)


@dataclass
class _Flat:
    """Nodes and edges of all graphs read so far, by full name."""

    operations: dict[str, Operation] = field(default_factory=dict)
    edges: set[Edge] = field(default_factory=set)
    bridges: list[str] = field(default_factory=list)  # inputs and outputs of subgraphs
    keys: int = 0  # counts subgraphs as well


def parse(root: Group) -> NirFile:
    """The network in a file.

    Raises:
        InputError: malformed.
        UnsupportedError: sound, but with nodes or connections that the float graph does not have.
    """
    if "node" not in root:
        raise root.fail("has no group node; not a NIR file")
    top = Group.of(root.child("node"), root.where)
    if top.text("type") != "NIRGraph":
        raise top.fail(f"is one {top.text('type')}, expected a NIRGraph")
    text = None
    if top.is_group("metadata") and OURS in top.child("metadata"):
        text = top.child("metadata").text(OURS, MAX_METADATA, "utf-8")
    flat = _Flat()
    outer = _read_graph(top, "", flat, 0)
    for name in flat.bridges:
        _bypass(flat, name)
    by_kind = {kind: [name for name in outer if flat.operations[name].kind == kind] for kind in ("Input", "Output")}
    for kind, names in by_kind.items():
        if len(names) != 1:
            found = ", ".join(names) or "none"
            raise (top.unsupported if names else top.fail)(f"has {len(names)} {kind} nodes ({found}), expected one")
    return _ordered(top, flat, by_kind["Input"][0], by_kind["Output"][0], text)


def _read_graph(graph: Group, prefix: str, flat: _Flat, depth: int) -> list[str]:
    """Add a graph's nodes and edges; returns the full names of its own nodes."""
    if depth > MAX_DEPTH:
        raise graph.fail(f"subgraphs nested more than {MAX_DEPTH} deep")
    nodes = graph.child("nodes")
    keys = list(nodes.entries)
    flat.keys += len(keys)
    if flat.keys > MAX_NODES:
        raise graph.fail(f"more than {MAX_NODES} nodes")
    gates: dict[str, Edge] = {}  # subgraph: its input, its output
    own = []
    for key in keys:
        if len(key) > MAX_NAME or not key.isprintable():
            raise graph.fail(
                f"a node has the name {key[:MAX_NAME]!r}, expected at most {MAX_NAME} printable characters"
            )
        name = prefix + key
        node = Group.of(nodes.child(key), f"{graph.where}: {key}")
        kind = node.text("type")
        if kind == "NIRGraph":
            gates[key] = _subgraph(node, f"{name}.", flat, depth)
            continue
        if name in flat.operations:
            raise node.fail(f"the name {name} is used twice")
        flat.operations[name] = _operation(node, name, kind)
        own.append(name)
    for source, target in _edges(graph):
        for key in (source, target):
            if key not in nodes:
                raise graph.fail(f"an edge names {key!r}, which is no node")
        first = gates[source][1] if source in gates else prefix + source
        second = gates[target][0] if target in gates else prefix + target
        if first == second:
            raise graph.unsupported(f"{source} feeds itself without a weight; put a Linear node between")
        flat.edges.add((first, second))
    if len(flat.edges) > MAX_EDGES:
        raise graph.fail(f"more than {MAX_EDGES} edges")
    return own


def _subgraph(node: Group, prefix: str, flat: _Flat, depth: int) -> Edge:
    own = _read_graph(node, prefix, flat, depth + 1)
    gates = []
    for kind in ("Input", "Output"):
        names = [name for name in own if flat.operations[name].kind == kind]
        if len(names) != 1:
            raise node.unsupported(f"subgraph with {len(names)} {kind} nodes, expected one")
        gates += names
    flat.bridges += gates
    return gates[0], gates[1]


def _edges(graph: Group) -> list[Edge]:
    if "edges" not in graph:
        raise graph.fail("edges is missing")
    entry = graph.dataset("edges")
    shape = entry.shape or ()
    if entry.text is None or len(shape) != 2 or shape[1] != 2 or entry.text > MAX_NAME * 4:
        raise graph.fail(f"edges has shape {shape} and type {entry.type}, expected (E, 2) names")
    if shape[0] > MAX_EDGES:
        raise graph.fail(f"edges has {shape[0]} rows, limit {MAX_EDGES}")
    names = iter(graph.texts("edges", entry))
    try:
        return [(first.decode(), second.decode()) for first, second in zip(names, names, strict=True)]
    except UnicodeDecodeError:
        raise graph.fail("edges contains names that are not UTF-8") from None


def _operation(node: Group, name: str, kind: str) -> Operation:
    if kind == "Conv1d":
        raise node.unsupported("Conv1d has no form here; write it as Conv2d over images of height 1")
    if kind not in FIELDS:
        raise node.fail(f"type {kind!r} is unknown, expected one of {', '.join(FIELDS)}")
    values: dict[str, Array] = {}
    padding = None
    for entry in FIELDS[kind]:
        what = entry.rstrip("?")
        if entry.endswith("?") and what not in node:
            continue
        if what == "padding" and node.dataset(what).text is not None:
            padding = node.text(what)
        elif what in _INTEGERS or what == "padding":
            values[what] = node.values(what, "iu", "integers").astype(np.int64)
        else:
            values[what] = node.values(what, "iuf", "numbers")
            if what not in _INFINITE and not np.isfinite(values[what]).all():
                raise node.fail(f"{what} contains NaN or infinite values")
    return Operation(name, kind, node.where, values, padding, _our_metadata(node))


def _our_metadata(node: Group) -> dict[str, Any]:
    if not node.is_group("metadata") or not node.child("metadata").is_group(OURS):
        return {}
    ours = node.child("metadata").child(OURS)
    found: dict[str, Any] = {}
    for key in list(ours.entries)[:16]:
        text = ours.dataset(key).text is not None
        found[key] = ours.text(key, MAX_METADATA, "utf-8") if text else ours.values(key, "f", "numbers")
    return found


def _bypass(flat: _Flat, name: str) -> None:
    """Remove a node that passes its input on."""
    sources = [a for a, b in flat.edges if b == name]
    targets = [b for a, b in flat.edges if a == name]
    del flat.operations[name]
    flat.edges = {edge for edge in flat.edges if name not in edge}
    if len(sources) * len(targets) + len(flat.edges) > MAX_EDGES:
        raise InputError(f"{name}: more than {MAX_EDGES} edges")
    flat.edges |= {(a, b) for a in sources for b in targets}


def _ordered(top: Group, flat: _Flat, first: str, last: str, text: str | None) -> NirFile:
    recurrent = _take_recurrent(flat)
    before: dict[str, set[str]] = {name: set() for name in flat.operations}
    after: dict[str, set[str]] = {name: set() for name in flat.operations}
    for a, b in flat.edges:
        before[b].add(a)
        after[a].add(b)
    if before[first]:
        raise top.fail(f"{first}: an Input node is fed by {', '.join(sorted(before[first]))}")
    if after[last]:
        raise top.fail(f"{last}: an Output node feeds {', '.join(sorted(after[last]))}")
    if len(before[last]) != 1:
        raise top.unsupported(f"{last}: the output is fed by {len(before[last])} nodes, expected one")
    _check_reached(top, first, after, "is not fed by the input")
    _check_reached(top, last, before, "does not lead to the output")
    waiting = {name: len(sources) for name, sources in before.items()}
    place = {name: i for i, name in enumerate(flat.operations)}
    ready, names = [first], []
    while ready:
        ready.sort(key=place.__getitem__, reverse=True)
        name = ready.pop()
        names.append(name)
        for target in after[name]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    if len(names) < len(flat.operations):
        left = {name for name, count in waiting.items() if count}
        while behind := {name for name in left if not after[name] & left}:
            left -= behind
        loop = ", ".join(sorted(left)[:4])
        raise top.unsupported(
            f"{loop}: in a loop; only a neuron that feeds itself through one Linear, Affine or Scale can be recurrent"
        )
    operations = [
        Operation(
            **{
                **vars(flat.operations[name]),
                "inputs": tuple(sorted(before[name], key=place.__getitem__)),
                "recurrent": recurrent.get(name),
            }
        )
        for name in names
        if name != last
    ]
    output = next(iter(before[last]))
    operations.sort(key=lambda operation: operation.name == output)  # feeds nothing else: it may come last
    named = all(
        neuron.rpartition(".")[2] == "lif" and weight.name.rpartition(".")[2] == "w_rec"
        for neuron, weight in recurrent.items()
    )
    return NirFile(tuple(operations), output, text, bool(recurrent) and named)


def _take_recurrent(flat: _Flat) -> dict[str, Operation]:
    """Remove synapses from a neuron to itself; returns them by neuron."""
    found: dict[str, Operation] = {}
    sources: dict[str, set[str]] = {}
    targets: dict[str, set[str]] = {}
    for a, b in flat.edges:
        sources.setdefault(b, set()).add(a)
        targets.setdefault(a, set()).add(b)
    for name, operation in list(flat.operations.items()):
        if operation.kind not in ("Linear", "Affine", "Scale") or sources.get(name) != targets.get(name):
            continue
        if len(sources.get(name, ())) != 1:
            continue
        (neuron,) = sources[name]
        if flat.operations[neuron].kind not in NEURONS:
            continue
        if neuron in found:
            raise operation.unsupported(f"{neuron} has recurrent synapses already; add both into one node")
        found[neuron] = operation
        del flat.operations[name]
        flat.edges -= {(name, neuron), (neuron, name)}
    return found


def _check_reached(top: Group, start: str, steps: dict[str, set[str]], what: str) -> None:
    seen, ahead = {start}, [start]
    while ahead:
        for name in steps[ahead.pop()]:
            if name not in seen:
                seen.add(name)
                ahead.append(name)
    lost = sorted(set(steps) - seen)
    if lost:
        raise top.unsupported(f"{lost[0]}: {what}; remove it")
