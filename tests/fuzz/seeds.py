"""Small sound files of each format: what the fuzzer and the table of hostile files start from."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.chip import ChipNet, Conv, Delta, Dense, Encoding, InputNeurons, Neuron, Readout, Resonator, SigmaDelta
from snn2chip.config import template

Tree = dict[str, Any]


def integers(shape: tuple[int, ...], seed: int = 0, low: int = -100, high: int = 101) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def small_net(**changes: Any) -> ChipNet:
    weight = np.array([[1, -2, 3], [4, 5, -6]])
    return ChipNet((3,), (Dense("fc1", (3,), weight, Neuron.of("fc1", 10, 4096, 128), **changes),), time_steps=4)


def conv_net() -> ChipNet:
    neuron = Neuron.of("a", integers((4, 3, 4), 1, 0, 500), 9, integers((4, 3, 4), 3, 0, 4097), integers((4, 3, 4), 4))
    first = Conv("a", (2, 5, 6), integers((4, 1, 3, 2)), neuron, (1, 2), (0, 1), (1, 1), 2)
    recurrent = Dense("b", first.shape, integers((5, 48), 7), Neuron.of("b", 300, 1, 4095, -4), integers((5, 5), 8))
    last = Dense("out", (5,), integers((3, 5), 9), Neuron.of("out", 1 << 17, integers((3,), 1, 0, 9), 0))
    encoding = Encoding("graded", 0.1, -8, 200)
    return ChipNet((2, 5, 6), (first, recurrent, last), encoding, Readout("potential"), 5, 8, inexact=("a: rounded",))


def odd_net() -> ChipNet:
    """Input neurons, delays."""
    first = InputNeurons("in", (2, 3, 4), Neuron.of("in", integers((2, 3, 4), 1, 0, 90), 4096, 7))
    delay = np.broadcast_to(np.array([[1], [2]]), (2, 24))
    return ChipNet((2, 3, 4), (first, Dense("fc", (2, 3, 4), integers((2, 24)), Neuron.of("fc", 5), delay=delay)))


def sigma_net() -> ChipNet:
    first = InputNeurons("in", (3,), Delta.of("in", 64))
    last = Dense("out", (3,), integers((2, 3)), SigmaDelta.of("out", 640, np.array([3, 4])))
    return ChipNet((3,), (first, last), Encoding("graded", 1.0, -500, 500), time_steps=3)


def resonator_net() -> ChipNet:
    neuron = Resonator.of("rf", 900, integers((2,), 0, -900, 900), integers((2,), 1, -900, 900))
    return ChipNet((3,), (Dense("rf", (3,), integers((2, 3)), neuron, imaginary=integers((2, 3), 5)),), time_steps=3)


NETS = {"small": small_net, "conv": conv_net, "odd": odd_net, "sigma": sigma_net, "resonator": resonator_net}


@cache
def net_trees() -> tuple[Tree, ...]:
    """What the NetX exporter writes, as plain dicts; and a file of another tool."""
    import h5py

    from snn2chip.exporters import netx
    from snn2chip.hdf5 import image

    def plain(group: Any) -> Tree:
        return {k: plain(v) if isinstance(v, h5py.Group) else v[()] for k, v in group.items()}

    trees = []
    for make in NETS.values():
        layers, notes = netx._trees(make())
        tree = {"layer": {str(i): layer for i, layer in enumerate(layers)}}
        with h5py.File(io.BytesIO(image({**tree, "snn2chip": _meta(make(), notes)})), "r") as file:
            trees.append(plain(file))
    cuba = {"type": b"LOIHI", "vThMant": 25, "iDecay": 4096, "vDecay": 1024}
    layers = [
        {"type": b"input", "shape": [1, 3, 4]},
        {"type": b"conv", "shape": [2, 2, 3], "weight": np.ones((2, 1, 2, 2, 1)), "stride": 1, "padding": [0, 0]}
        | {"dilation": [1], "groups": 1, "neuron": cuba},
        {"type": b"flatten", "shape": [12]},
        {"type": "dense", "shape": [2, 1, 1], "weight": np.arange(-12.0, 12), "bias": np.array([1.9, -1.9])},
    ]
    return (*trees, {"layer": {str(i): layer for i, layer in enumerate(layers)}})


def _meta(net: ChipNet, notes: Any) -> Tree:
    encoding = {k: getattr(net.encoding, k) for k in ("kind", "scale", "low", "high", "spread", "step", "offset")}
    metadata = {
        "layers": notes,
        "encoding": encoding,
        "readout": net.readout.kind,
        "time_steps": net.time_steps,
        "window": net.window,
        "target": net.target,
        "inexact": list(net.inexact),
        "exit": {
            "policy": "margin",
            "form": "host",
            "thresholds": [3],
            "readout": net.layers[-1].name,
            "classes": 2,
            "rival": 0,
            "clocks": 0,
            "scale": [1, 1],
            "calibration": [["drop", 0.5]],
        },
    }
    return {"format": np.int32(1), "metadata": np.bytes_(json.dumps(metadata))}


@cache
def nir_trees() -> tuple[Tree, ...]:
    """Graphs as the frameworks' exporters write them, and one of ours."""

    def net(nodes: Tree, edges: list[tuple[str, str]], **more: Any) -> Tree:
        named = np.array([[name.encode() for name in edge] for edge in edges], object)
        return {"type": b"NIRGraph", "nodes": nodes, "edges": named, **more}

    def chain(*nodes: Tree, shape: tuple[int, ...] = (3,)) -> Tree:
        named = {f"n{i}": node for i, node in enumerate(nodes)}
        ends = {"input": {"type": b"Input", "shape": shape}, "output": {"type": b"Output", "shape": (1,)}}
        return net({**ends, **named}, list(itertools.pairwise(["input", *named, "output"])))

    def lif(size: int, tau: float = 1e-3) -> Tree:
        one = np.ones(size)
        return {
            "type": b"LIF",
            "tau": tau * one,
            "r": 10 * one,
            "v_leak": 0 * one,
            "v_threshold": one,
            "v_reset": 0 * one,
        }

    linear = {"type": b"Affine", "weight": np.arange(6.0).reshape(2, 3), "bias": np.zeros(2)}
    conv = {
        "type": b"Conv2d",
        "weight": np.ones((2, 1, 2, 2)),
        "bias": np.zeros(2),
        "stride": (1, 1),
        "padding": (0, 0),
        "dilation": (1, 1),
        "groups": 1,
    }
    pool = {"type": b"SumPool2d", "kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    flat = {"type": b"Flatten", "start_dim": 1, "end_dim": -1, "input_type": np.array([2, 2, 2])}
    cuba = {"type": b"CubaLIF", "tau_syn": np.full(2, 2e-4), "tau_mem": np.full(2, 1e-3), "w_in": np.full(2, 2.0)}
    cuba |= {"r": np.full(2, 10.0), "v_leak": np.zeros(2), "v_threshold": np.ones(2), "v_reset": np.zeros(2)}
    nodes = chain(linear, lif(2))["nodes"] | {"w": {"type": b"Linear", "weight": np.eye(2)}}
    edges = [("input", "n0"), ("n0", "n1"), ("n1", "output"), ("n1", "w"), ("w", "n1")]
    inner = chain(lif(2), shape=(2,))
    return tuple(
        {"version": b"1.0.8", "node": graph}
        for graph in (
            chain(linear, lif(2)),
            chain(linear, cuba),
            chain(conv, pool, flat, {**linear, "weight": np.ones((2, 8))}, lif(2), shape=(1, 5, 5)),
            net(nodes, edges),
            chain(linear, inner),
            chain(
                {"type": b"Delay", "delay": np.full(3, 2e-4)}, linear, {"type": b"Threshold", "threshold": np.ones(2)}
            ),
        )
    )


@cache
def contents() -> tuple[Any, ...]:
    """Plain containers of tensors: our models, a state dict."""
    import torch
    from torch import nn

    import snn2chip as s2c
    from snn2chip.nn import LIF, Network, Readout

    torch.manual_seed(0)
    dense = Network(nn.Linear(4, 3), LIF(), Readout(3, 2), input_shape=(4,), time_steps=4).eval()
    image = Network(
        nn.Conv2d(1, 2, 3, bias=False),
        nn.BatchNorm2d(2),
        LIF(0.5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 2, bias=False),
        Readout(2, 2),
        input_shape=(1, 6, 6),
        time_steps=3,
    ).eval()
    found = []
    for module, x in ((dense, torch.rand(4, 4)), (image, torch.rand(4, 1, 6, 6))):
        folder = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
        path = folder / f"seed-{id(module)}.pt"
        try:
            s2c.save(module, path, calibration=(x, torch.arange(4) % 2))
            found.append(torch.load(path, weights_only=True))
        finally:
            path.unlink(missing_ok=True)
    return (*found, dict(image.state_dict()))


def saved(content: Any) -> bytes:
    """A file of ``torch.save``."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def npz(packed: bool = False, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


X = np.random.default_rng(0).integers(0, 2, (5, 3, 4)).astype(np.uint8)
Y = np.arange(5) % 3

NPZ = (npz(x=X, y=Y), npz(True, x=X, y=Y), npz(x=X.astype(">f4")), npz(x=np.asfortranarray(X), y=Y, z=Y))

#: A data set in HDF5 and how each is stored.
DATA: tuple[Mapping[str, Any], ...] = ({"x": X, "y": Y}, {"x": X.astype(np.float32)})

YAML = (
    template("model.pt", ["0 (Conv2d)", "é"], True).encode(),
    b"bits: auto\nmax_drop: 0.5\nexit: {policy: margin, max_drop: 1}\nlayers:\n  a: {scales: max}\n",
    b"layers: {a: {bits: 3}}\ntarget: loihi2\nwindow: 8\nresets: zero\n",
)


def unfinished() -> bytes:
    """``run.json`` of a run over :data:`X` that was interrupted after two samples."""
    import tempfile

    from snn2chip.data import of_arrays
    from snn2chip.long_runs import simulate_data

    net = run_net()
    with tempfile.TemporaryDirectory() as folder:

        def stop(what: str, done: int, of: int) -> None:
            raise KeyboardInterrupt

        try:
            simulate_data(net, of_arrays(RUN_X, RUN_Y), "reference", target=f"{folder}/r", progress=stop, samples=4)
        except KeyboardInterrupt:
            return (Path(folder) / "r" / "run.json").read_bytes()
    raise AssertionError


def run_net() -> ChipNet:
    return replace(small_net(), time_steps=3, window=3)


RUN_X = np.random.default_rng(0).integers(0, 2, (4, 3, 3)).astype(np.uint8)
RUN_Y = np.arange(4) % 2
