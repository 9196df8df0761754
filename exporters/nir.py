"""NIR files (``.nir``): the float graph for other frameworks, and exactly itself for snn2chip.

``nir.read`` and what builds on it load the file. Neurons are written as snnTorch writes them: forward Euler with a step
of 1e-4 s, ``tau = dt / (1 - beta)``, ``r = tau / dt``, ``w_in = tau_syn / dt``, so that the input's gain is 1. What NIR
has no word for (the kind of reset, ``>=``, time steps, names) stands in ``metadata`` under the name ``snn2chip``, with
decays and thresholds bit for bit; :func:`snn2chip.frontends.nir.read_nir` takes them from there.

=====================  =====================================================================================
node of the graph      in the file
=====================  =====================================================================================
Input, Flatten, Delay  the node of that name; the delay in seconds
Linear                 Affine, or Linear where the bias is 0
Conv2d, AvgPool2d      the node of that name
BatchNorm              Scale; with a shift a diagonal Affine, on images a diagonal Conv2d of 1 x 1
Add                    Scale by 1, which NIR feeds with the sum of its inputs
Neuron                 IF (beta = 1), LIF or CubaLIF; I, LI or CubaLI where it cannot fire
recurrent synapses     Linear ``name.w_rec`` beside ``name.lif``, edges in both directions
=====================  =====================================================================================
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import UnsupportedError
from snn2chip.files import write_whole
from snn2chip.graph import (
    Add,
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Input,
    Linear,
    Neuron,
    Node,
    Shape,
    per_neuron,
)
from snn2chip.hdf5 import Tree, image

Array = npt.NDArray[Any]

FORMAT = 1
#: Of the nir package whose files look like ours.
NIR_VERSION = "1.0.8"
#: Seconds; arbitrary, and what snnTorch and SpikingJelly take.
DT = 1e-4


def write(graph: Graph, path: str | os.PathLike[str], force: bool = False) -> None:
    """Write ``graph``; reading it back gives the same graph, and the same graph gives the same bytes.

    Raises:
        UnsupportedError: NIR has no form for a node; the message names it.
        UsageError: ``path`` exists and ``force`` is not given.
        EnvironmentFailure: the file cannot be written.
    """
    shapes = graph.shapes()
    keys = _keys(graph)
    nodes: dict[str, Tree] = {}
    edges: list[tuple[str, str]] = []
    for node in graph.nodes:
        if node is not graph.output and not graph.consumers(node.name):
            raise UnsupportedError(f"{node.name}: does not lead to the output; remove it")
        key = keys[node.name]
        given = shapes[node.inputs[0]] if node.inputs else shapes[node.name]
        tree = _tree(node, given)
        nodes[key] = {**tree, "metadata": {"snn2chip": _notes(node)}}
        if len(set(node.inputs)) < len(node.inputs):
            raise UnsupportedError(f"{node.name}: takes an input twice, NIR knows it once; scale it instead")
        edges += [(keys[name], key) for name in node.inputs]
        if isinstance(node, Neuron) and node.recurrent is not None:
            synapses = f"{key.rpartition('.')[0]}.w_rec"
            nodes[synapses] = {"type": _text("Linear"), "weight": _narrow(node.recurrent)}
            edges += [(key, synapses), (synapses, key)]
    nodes["output"] = {"type": _text("Output"), "shape": np.array(shapes[graph.output.name], np.int64)}
    edges.append((keys[graph.output.name], "output"))
    whole = {
        "format": FORMAT,
        "dt": DT,
        "time_steps": graph.time_steps,
        "readout": graph.readout,
        "inexact": list(graph.inexact),
        "order": [node.name for node in graph.nodes],
    }
    file = {
        "version": _text(NIR_VERSION),
        "node": {
            "type": _text("NIRGraph"),
            "nodes": nodes,
            "edges": np.array([[_text(name) for name in edge] for edge in edges], object),
            "metadata": {"snn2chip": _text(json.dumps(whole, sort_keys=True))},
        },
    }
    write_whole(path, image(file), force)


def _text(text: str) -> bytes:
    return text.encode()


def _keys(graph: Graph) -> dict[str, str]:
    """Short names that every framework takes, by the graph's names: letters, digits and underscores."""
    keys: dict[str, str] = {}
    taken = {"input", "output"}
    for node in graph.nodes:
        if isinstance(node, Input):
            keys[node.name] = "input"
            continue
        base = re.sub(r"[^0-9A-Za-z]+", "_", node.name.partition(" (")[0]).strip("_")[:64] or "node"
        key, count = base, 1
        while key in taken:
            count += 1
            key = f"{base}_{count}"
        taken.add(key)
        recurrent = isinstance(node, Neuron) and node.recurrent is not None
        keys[node.name] = f"{key}.lif" if recurrent else key
    return keys


def _narrow(array: Array) -> Array:
    """float32 where no value changes."""
    narrow = array.astype(np.float32)
    return narrow if np.array_equal(narrow, array) else array.astype(np.float64)


def _tree(node: Node, given: Shape) -> Tree:
    """A node's type and parameters, as NIR has them."""
    if isinstance(node, Neuron):
        return _neuron(node, given)
    if isinstance(node, Input):
        if len(node.shape) not in (1, 3):
            raise UnsupportedError(
                f"{node.name}: shape {node.shape}, expected (features,) or (channels, height, width)"
            )
        return {"type": _text("Input"), "shape": np.array(node.shape, np.int64)}
    if isinstance(node, Linear):
        if node.delay is not None:
            raise UnsupportedError(f"{node.name}: NIR has no delays of single synapses; save the model as model.pt")
        if not node.bias.any():
            return {"type": _text("Linear"), "weight": _narrow(node.weight)}
        return {"type": _text("Affine"), "weight": _narrow(node.weight), "bias": _narrow(node.bias)}
    if isinstance(node, Conv2d):
        return _conv(node, given)
    if isinstance(node, BatchNorm):
        return _batch_norm(node, given)
    if isinstance(node, Add):
        return {"type": _text("Scale"), "scale": np.ones(given, np.float32)}
    if isinstance(node, AvgPool2d):
        sizes = {"kernel_size": node.kernel, "stride": node.stride, "padding": node.padding}
        return {"type": _text("AvgPool2d"), **{what: np.array(pair, np.int64) for what, pair in sizes.items()}}
    if isinstance(node, Flatten):
        dims = {"start_dim": np.int64(0), "end_dim": np.int64(-1)}
        return {"type": _text("Flatten"), **dims, "input_type": np.array(given, np.int64)}
    if isinstance(node, Delay):
        return {"type": _text("Delay"), "delay": np.full(given, node.steps * DT)}
    raise UnsupportedError(f"{node.name}: NIR has no form for {type(node).__name__}; save the model as model.pt")


def _conv(node: Conv2d, given: Shape) -> Tree:
    pairs = {"stride": node.stride, "padding": node.padding, "dilation": node.dilation}
    return {
        "type": _text("Conv2d"),
        "input_shape": np.array(given[1:], np.int64),
        "weight": _narrow(node.weight),
        "bias": _narrow(node.bias),
        **{what: np.array(pair, np.int64) for what, pair in pairs.items()},
        "groups": np.int64(node.groups),
    }


def _batch_norm(node: BatchNorm, given: Shape) -> Tree:
    if not node.shift.any():
        scale = np.broadcast_to(node.scale.reshape(-1, *(1,) * (len(given) - 1)), given)
        return {"type": _text("Scale"), "scale": _narrow(scale)}
    if len(given) == 1:
        return {"type": _text("Affine"), "weight": _narrow(np.diag(node.scale)), "bias": _narrow(node.shift)}
    # Not depthwise: nir 1.0.8 takes the channels of a grouped convolution for too few.
    return _conv(Conv2d(name=node.name, weight=np.diag(node.scale)[:, :, None, None], bias=node.shift), given)


def _neuron(node: Neuron, shape: Shape) -> Tree:
    alpha, beta, threshold = (per_neuron(values, shape) for values in (node.alpha, node.beta, node.threshold))
    tree: dict[str, Any] = {}
    leaks = bool((beta != 1).any())
    current = bool(alpha.any())
    if leaks or current:
        tree["v_leak"] = np.zeros(shape)
        tree["tau_mem" if current else "tau"] = _tau(beta)
        tree["r"] = _tau(beta) / DT
    else:
        tree["r"] = np.full(shape, 1 / DT)
    if current:
        tree["tau_syn"] = _tau(alpha)
        tree["w_in"] = _tau(alpha) / DT
    if node.bias is not None and node.bias.any():
        bias = per_neuron(node.bias, shape)
        if "v_leak" not in tree or (bias[beta == 1] != 0).any():
            raise UnsupportedError(
                f"{node.name}: a bias of the potential without a leak has no form in NIR; keep it in the synapses"
            )
        tree["v_leak"] = np.divide(bias, 1 - beta, out=np.zeros(shape), where=beta != 1)
    if node.spikes:
        tree["v_threshold"] = threshold.astype(np.float64)
        tree["v_reset"] = np.zeros(shape)
    kind = "CubaLI" if current else "LI" if leaks else "I"
    return {"type": _text(kind + "F" if node.spikes else kind), **tree}


def _tau(decay: Array) -> Array:
    """``dt / (1 - decay)``; infinite without leak."""
    with np.errstate(divide="ignore"):
        return np.asarray(DT / (1 - decay.astype(np.float64)))


def _notes(node: Node) -> Tree:
    """What NIR cannot say of a node: one JSON text, and arrays."""
    note: dict[str, Any] = {"type": type(node).__name__, "name": node.name}
    arrays: dict[str, Array] = {}
    if isinstance(node, Input):
        note["kind"] = node.kind
    if isinstance(node, Add):
        note["inputs"] = list(node.inputs)
    if isinstance(node, Neuron):
        for what in ("reset", "reset_delay", "inclusive", "relays"):
            note[what] = getattr(node, what)
        for what in ("alpha", "beta", "threshold", "bias"):
            value = getattr(node, what)
            if isinstance(value, np.ndarray) and value.ndim:
                arrays[what] = value.astype(np.float64)
            elif value is not None:
                note[what] = float(value)
    return {"node": _text(json.dumps(note, sort_keys=True)), **arrays}
