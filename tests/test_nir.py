"""NIR files: recorded ones, those of the frameworks' exporters, our own round trip, and hostile ones."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snn2chip.errors import InputError, Snn2chipError, UnsupportedError, UsageError
from snn2chip.exporters import nir as exporter
from snn2chip.frontends.nir import RESETS, NirModel, read_nir
from snn2chip.graph import (
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    execute,
)
from snn2chip.hdf5 import image

nir = pytest.importorskip("nir")
RECORDED = Path(__file__).parents[2] / "shared" / "data" / "nir"
Array = Any


def needs(name: str) -> Path:
    path = RECORDED / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return path


# Files by hand


def encoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: encoded(entry) for key, entry in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return np.array([[name.encode() for name in edge] for edge in value], object)
    return value.encode() if isinstance(value, str) else np.asarray(value)


def net(nodes: dict[str, Any], edges: list[tuple[str, str]]) -> dict[str, Any]:
    return {"type": "NIRGraph", "nodes": nodes, "edges": edges}


def store(path: Path, graph: dict[str, Any]) -> Path:
    path.write_bytes(image(encoded({"version": "1.0.8", "node": graph})))
    return path


def chain(*nodes: dict[str, Any], shape: tuple[int, ...] = (3,)) -> dict[str, Any]:
    """Input, the nodes called n0, n1 ..., output."""
    named = {f"n{i}": node for i, node in enumerate(nodes)}
    names = ["input", *named, "output"]
    ends = {"input": {"type": "Input", "shape": shape}, "output": {"type": "Output", "shape": (1,)}}
    return net({**ends, **named}, list(itertools.pairwise(names)))


def lif(size: int = 3, tau: float = 1e-3, r: float = 10.0, **changes: Any) -> dict[str, Any]:
    values = {"tau": tau, "r": r, "v_leak": 0.0, "v_threshold": 1.0, "v_reset": 0.0, **changes}
    return {"type": "LIF", **{what: np.full(size, value) for what, value in values.items()}}


def cuba(size: int = 3, **changes: float) -> dict[str, Any]:
    values = {"tau_syn": 2e-4, "tau_mem": 1e-3, "r": 10.0, "v_leak": 0.0, "v_threshold": 1.0, "w_in": 2.0, **changes}
    return {"type": "CubaLIF", **{what: np.full(size, value) for what, value in values.items()}}


def affine(out: int = 3, inputs: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"type": "Affine", "weight": rng.normal(0, 1, (out, inputs)), "bias": rng.normal(0, 0.1, out)}


def spikes_of(model: NirModel | Graph, x: Array) -> list[Array]:
    graph = model.graph if isinstance(model, NirModel) else model
    return list(execute(graph, x).outputs.values())


def check_spikes(found: Array, wanted: Array, least: int = 20) -> None:
    assert found.shape == wanted.shape
    assert (found != wanted).sum() == 0
    assert wanted.sum() >= least  # else the comparison says nothing
    assert (wanted == 0).sum() >= least


# Recorded


def test_recorded_braille_network() -> None:
    path = needs("braille_noDelay_bias_zero.nir")
    x = np.load(needs("braille_input_256x12_uint8.npy"))[None]
    wanted = np.load(needs("snntorch_activity_noDelay_bias_zero.npy"))
    model = read_nir(path, reset="zero-now")
    assert model.dialect == "snntorch" and "by its names lif and w_rec" in model.notes[0]
    hidden = execute(model.graph, x).outputs["lif1.lif (CubaLIF)"][0]
    check_spikes(hidden, wanted)
    assert wanted.size == 9728
    with pytest.raises(UsageError, match=r"give --reset zero\|subtract\|zero-now\|subtract-now"):
        read_nir(path)


def test_recorded_loihi_neuron() -> None:
    """The chip's spikes; its input takes one step longer."""
    model = read_nir(needs("lif_norse.nir"), dt=1e-4, time_steps=1000)
    assert (model.dialect, model.graph.time_steps) == ("norse", 1000)
    x, _, spikes = np.loadtxt(needs("lif_lava_loihi_fixed.csv"), delimiter=",").T
    (found,) = spikes_of(model, x[None, :, None])
    assert np.array_equal(found[0, :-1, 0], spikes[1:]) and spikes[0] == 0
    assert spikes.sum() == 4


# Exporters that can be run


def export_snntorch(module: Any, x: Any, path: Path) -> Path:
    export = pytest.importorskip("snntorch.export_nir")
    nir.write(path, export.export_to_nir(module, x[:1, 0], ignore_dims=[0]))
    return path


def run_snntorch(modules: Any, x: Any) -> list[Array]:
    """Spikes ``[N, T, ...]`` of each spiking module of a sequence."""
    import snntorch as snn
    import torch

    spikes: dict[int, list[Any]] = {}
    with torch.no_grad():
        for t in range(x.shape[1]):
            value = x[:, t]
            for i, module in enumerate(modules):
                value = module(value)
                if isinstance(module, snn.SpikingNeuron):
                    spikes.setdefault(i, []).append(value)
    return [torch.stack(steps, 1).numpy() for steps in spikes.values()]


def fire(x: Any) -> Any:
    """snnTorch's own spikes are float32 in any case, which its double precision weights do not take."""
    return (x > 0).to(x.dtype)


def snntorch_nets(name: str) -> Any:
    import snntorch as snn
    import torch
    from torch import nn

    torch.manual_seed(1)
    betas, full = 0.3 + 0.69 * torch.rand(9), {"init_hidden": True, "spike_grad": fire}
    one = torch.ones
    nets: dict[str, Callable[[], list[Any]]] = {
        "subtract": lambda: [snn.Leaky(beta=betas, threshold=0.7 * one(9), **full)],
        "subtract-now": lambda: [snn.Leaky(beta=betas, threshold=4 * one(9), reset_delay=False, **full)],
        "zero": lambda: [snn.Leaky(beta=betas, threshold=one(9), reset_mechanism="zero", **full)],
        "zero-now": lambda: [
            snn.Leaky(beta=betas, threshold=one(9), reset_mechanism="zero", reset_delay=False, **full)
        ],
        "synaptic subtract": lambda: [snn.Synaptic(alpha=betas.flip(0), beta=betas, threshold=one(9), **full)],
        "synaptic zero": lambda: [
            snn.Synaptic(alpha=betas.flip(0), beta=betas, threshold=one(9), reset_mechanism="zero", **full)
        ],
        "synaptic zero-now": lambda: [
            snn.Synaptic(
                alpha=betas.flip(0), beta=betas, threshold=one(9), reset_mechanism="zero", reset_delay=False, **full
            )
        ],
        "recurrent subtract": lambda: [snn.RLeaky(beta=betas, linear_features=9, **full)],
        "recurrent zero": lambda: [snn.RLeaky(beta=betas, linear_features=9, reset_mechanism="zero", **full)],
        "one to one subtract": lambda: [snn.RLeaky(beta=betas, all_to_all=False, V=torch.randn(9), **full)],
        "recurrent synaptic subtract": lambda: [snn.RSynaptic(alpha=0.5, beta=betas, linear_features=9, **full)],
        "recurrent synaptic zero": lambda: [
            snn.RSynaptic(alpha=0.5, beta=betas, linear_features=9, reset_mechanism="zero", **full)
        ],
    }
    layers = [nn.Linear(6, 9), *nets[name](), nn.Linear(9, 4), *nets["subtract"]()]
    layers[2] = nn.Linear(9, 9, bias=False)
    if "zero" in name:
        layers = layers[:2]  # the file knows one reset for all
    if name.endswith("subtract-now"):
        layers = layers[:2]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.1, 0.6)
    return nn.Sequential(*layers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("double", [True, False], ids=["float64", "float32 file"])
@pytest.mark.parametrize(
    "name",
    [
        "subtract",
        "subtract-now",
        "zero",
        "zero-now",
        "synaptic subtract",
        "synaptic zero",
        "synaptic zero-now",
        "recurrent subtract",
        "recurrent zero",
        "one to one subtract",
        "recurrent synaptic subtract",
        "recurrent synaptic zero",
    ],
)
def test_snntorch(name: str, double: bool, tmp_path: Path) -> None:
    """Spikes of snnTorch in double precision; also from a file in single precision, from which decays come exactly."""
    pytest.importorskip("snntorch")
    import torch

    modules = snntorch_nets(name)
    x = (torch.rand(3, 25, 6) < 0.3).double()
    if double:
        path = export_snntorch(modules.double(), x, tmp_path / "a.nir")
    else:
        path = export_snntorch(modules, x.float(), tmp_path / "a.nir")
        for module in modules:
            for state in ("mem", "syn", "spk"):
                if hasattr(module, state):
                    setattr(module, state, torch.zeros(0))
        modules = modules.double()
    reset = name.rpartition(" ")[2]
    model = read_nir(path, dialect="snntorch", reset=reset)
    for module in modules:
        if hasattr(module, "reset_mem"):
            module.reset_mem()
    assert bool(model.graph.inexact) == (reset == "subtract-now")  # above twice the threshold, not reached here
    found, wanted = spikes_of(model, x.numpy()), run_snntorch(modules, x)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        check_spikes(one, other)


@pytest.mark.filterwarnings("ignore")
def test_snntorch_images(tmp_path: Path) -> None:
    snn = pytest.importorskip("snntorch")
    import torch
    from torch import nn

    torch.manual_seed(0)
    beta = 0.5 + 0.5 * torch.rand(2, 6, 6)
    modules = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        snn.Leaky(beta=beta, threshold=0.5 * torch.ones(2, 6, 6), init_hidden=True, spike_grad=fire),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(18, 3),
        snn.Leaky(beta=torch.full((3,), 0.9), threshold=0.3 * torch.ones(3), init_hidden=True, spike_grad=fire),
    ).double()
    nn.init.normal_(modules[4].weight, 0.05, 0.5)
    x = torch.rand(4, 12, 1, 8, 8).double()
    path = export_snntorch(modules, x, tmp_path / "a.nir")
    for i in (1, 5):
        modules[i].reset_mem()
    model = read_nir(path, reset="subtract", dialect="snntorch")
    assert [type(node) for node in model.graph.nodes] == [Input, Conv2d, Neuron, AvgPool2d, Flatten, Linear, Neuron]
    assert np.shape(model.graph.nodes[2].beta) == (2, 6, 6)  # type: ignore[attr-defined]
    for one, other in zip(spikes_of(model, x.numpy()), run_snntorch(modules, x), strict=True):
        check_spikes(one, other)


SPIKINGJELLY: list[tuple[str, dict[str, Any]]] = [
    ("IF", {"v_threshold": 0.8}),
    ("IF", {"v_threshold": 0.8, "v_reset": None}),
    ("LIF", {"tau": 2.0, "decay_input": True}),
    ("LIF", {"tau": 3.0, "decay_input": False, "v_threshold": 1.5}),
    ("LIF", {"tau": 3.0, "decay_input": False, "v_reset": None}),
    ("LIF", {"tau": 1.7, "decay_input": True, "v_reset": -0.3, "v_threshold": 0.4}),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind, options", SPIKINGJELLY)
def test_spikingjelly(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Neurons of SpikingJelly; the file as its exporter (of later versions) maps them."""
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    import torch

    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(0.2, 0.7, (7, 5)), rng.normal(0, 0.2, 7), rng.integers(0, 2, (3, 30, 5))
    module = getattr(neuron, f"{kind}Node")(step_mode="m", **options)
    with torch.no_grad():
        current = torch.as_tensor(x @ weight.T + bias).transpose(0, 1)
        wanted = module(current).transpose(0, 1).numpy()
    reset = 0.0 if module.v_reset is None else module.v_reset
    values = {"v_threshold": module.v_threshold, "v_reset": reset}
    if kind == "LIF":
        r = 1.0 if module.decay_input else module.tau
        values |= {"tau": module.tau * 1e-4, "r": r, "v_leak": reset}
    else:
        values |= {"r": 1 / 1e-4}
    neurons = {"type": kind, **{what: np.full(7, value) for what, value in values.items()}}
    path = store(tmp_path / "a.nir", chain({"type": "Affine", "weight": weight, "bias": bias}, neurons, shape=(5,)))
    model = read_nir(path, dialect="spikingjelly", reset="subtract" if module.v_reset is None else "zero")
    check_spikes(spikes_of(model, x)[0], wanted)


# Exporters that cannot be run here: their difference equations, as their sources state them


def norse_lif(x: Array, p: dict[str, Array], dt: float) -> Array:
    """``lif_box_feed_forward_step``, from v = v_leak."""
    v = np.broadcast_to(p["v_leak"], x[:, 0].shape)
    out = []
    for t in range(x.shape[1]):
        v = v + dt / p["tau"] * (x[:, t] + p["v_leak"] - v)
        out.append(v - p["v_threshold"] > 0)
        v = np.where(out[-1], p["v_reset"], v)
    return np.stack(out, 1)


def norse_cuba(x: Array, p: dict[str, Array], dt: float) -> Array:
    """``lif_feed_forward_step``: the potential sees the current before the input reaches it."""
    v, i = np.zeros_like(x[:, 0]), np.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        v = v + dt / p["tau_mem"] * (p["v_leak"] - v + i)
        i = i - dt / p["tau_syn"] * i
        out.append(v - p["v_threshold"] > 0)
        v = np.where(out[-1], 0.0, v)
        i = i + x[:, t]
    return np.stack(out, 1)


def sinabs_lif(x: Array, p: dict[str, Array], dt: float) -> Array:
    """``lif_forward`` with normalised input, one spike at most, reset by subtraction."""
    v = np.zeros_like(x[:, 0])
    alpha = np.exp(-1 / p["tau"])
    out = []
    for t in range(x.shape[1]):
        v = alpha * v + (1 - alpha) * x[:, t]
        out.append(v >= p["v_threshold"])
        v = v - out[-1] * p["v_threshold"]
    return np.stack(out, 1)


def sinabs_if(x: Array, p: dict[str, Array], dt: float) -> Array:
    v = np.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        v = v + x[:, t]
        out.append(v >= p["v_threshold"])
        v = v - out[-1] * p["v_threshold"]
    return np.stack(out, 1)


def rockpool_lif(x: Array, p: dict[str, Array], dt: float) -> Array:
    """``LIFTorch.forward`` without noise, one spike at most."""
    v, i = np.zeros_like(x[:, 0]), np.zeros_like(x[:, 0])
    out = []
    for t in range(x.shape[1]):
        i = np.exp(-dt / p["tau_syn"]) * (i + x[:, t])
        v = np.exp(-dt / p["tau_mem"]) * v + i
        out.append(v >= p["v_threshold"])
        v = v - out[-1] * p["v_threshold"]
    return np.stack(out, 1)


def varied(low: float, high: float, size: int = 7) -> Array:
    return np.random.default_rng(5).uniform(low, high, size)


def rockpool_r(tau: Array, dt: float) -> Array:
    return tau / dt * np.exp(-dt / tau)


OTHERS: dict[str, tuple[str, Callable[..., Array], str, dict[str, Any], float, dict[str, Any]]] = {
    "norse LIF": (
        "norse",
        norse_lif,
        "LIF",
        {"tau": varied(2e-3, 2e-2), "r": np.ones(7), "v_threshold": varied(0.1, 0.3), "v_leak": 0.0, "v_reset": 0.0},
        1e-3,
        {},
    ),
    "norse LIF at rest": (
        "norse",
        norse_lif,
        "LIF",
        {"tau": varied(2e-3, 2e-2), "r": np.ones(7), "v_threshold": 0.4, "v_leak": 0.2, "v_reset": 0.2},
        5e-4,
        {"dt": 5e-4},
    ),
    "norse CubaLIF": (
        "norse",
        norse_cuba,
        "CubaLIF",
        {
            "tau_mem": varied(4e-3, 2e-2),
            "tau_syn": varied(2e-3, 9e-3),
            "r": np.ones(7),
            "w_in": np.ones(7),
            "v_threshold": 0.3,
            "v_leak": 0.0,
            "v_reset": 0.0,
        },
        1e-3,
        {},
    ),
    "sinabs LIF": (
        "sinabs",
        sinabs_lif,
        "LIF",
        {"tau": varied(2, 20), "r": np.ones(7), "v_threshold": 0.2, "v_leak": 0.0},
        1.0,
        {"reset": "subtract"},
    ),
    "sinabs IF": ("sinabs", sinabs_if, "IF", {"r": np.ones(7), "v_threshold": 1.5}, 1.0, {"reset": "subtract"}),
    "rockpool": (
        "rockpool",
        rockpool_lif,
        "CubaLIF",
        {
            "tau_mem": varied(4e-3, 2e-2),
            "tau_syn": varied(2e-3, 9e-3),
            "r": rockpool_r(varied(4e-3, 2e-2), 7e-4),
            "v_threshold": 3.0,
            "v_leak": 0.0,
        },
        7e-4,
        {},
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_difference_equations(case: str, tmp_path: Path) -> None:
    dialect, law, kind, given_values, dt, options = OTHERS[case]
    values = {what: np.broadcast_to(value, 7).astype(float) for what, value in given_values.items()}
    rng = np.random.default_rng(1)
    weight, x = rng.normal(0.3, 0.8, (7, 5)), rng.integers(0, 2, (3, 40, 5)).astype(float)
    path = store(tmp_path / "a.nir", chain({"type": "Linear", "weight": weight}, {"type": kind, **values}, shape=(5,)))
    model = read_nir(path, dialect=dialect, **options)
    assert model.dt == pytest.approx(dt, rel=1e-12)
    check_spikes(spikes_of(model, x)[0], law(x @ weight.T, values, dt))
    assert bool(model.graph.inexact) == (dialect in ("sinabs", "rockpool"))


def test_equations_as_written(tmp_path: Path) -> None:
    """Forward Euler of what NIR defines, with any r."""
    weight, x = np.random.default_rng(1).normal(0.3, 0.8, (3, 3)), np.random.default_rng(2).random((2, 40, 3))
    path = store(tmp_path / "a.nir", chain({"type": "Linear", "weight": weight}, lif(tau=0.01, r=2.5, v_threshold=0.2)))
    with pytest.raises(UsageError, match="--nir-dialect nir needs --dt"):
        read_nir(path, dialect="nir")
    v, out = np.zeros((2, 3)), []
    for t in range(40):
        v = v + 2e-3 / 0.01 * (-v + 2.5 * (x[:, t] @ weight.T))
        out.append(v > 0.2)
        v = np.where(out[-1], 0, v)
    check_spikes(spikes_of(read_nir(path, dialect="nir", dt=2e-3), x)[0], np.stack(out, 1))


def no_reset(node: dict[str, Any]) -> dict[str, Any]:
    return {what: value for what, value in node.items() if what != "v_reset"}


RECOGNISED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "snntorch, neurons differ": (lif(tau=np.array([1e-3, 2e-3, 3e-3]), r=np.array([10, 20, 30])), {}, "snntorch"),
    "snntorch, old": (no_reset(lif()), {}, "snntorch"),
    "spikingjelly IF": (
        {"type": "IF", **{k: np.full(3, v) for k, v in (("r", 1e4), ("v_threshold", 1.0), ("v_reset", 0.0))}},
        {},
        "spikingjelly",
    ),
    "norse, old": (no_reset(lif(tau=0.01, r=1.0)), {}, "norse"),
    "norse, neurons differ": (lif(tau=np.array([0.01, 0.02, 0.03]), r=1.0), {}, "norse"),
    "norse, dt asked for": (no_reset(lif(tau=0.01, r=1.0)), {"dt": 1e-4}, "norse"),
    "sinabs": (no_reset(lif(tau=20.0, r=np.ones(3), v_threshold=np.array([1, 2, 3.0]))), {}, "sinabs"),
    "rockpool": (no_reset(cuba(w_in=1.0, r=rockpool_r(np.float64(1e-3), 2e-4))), {}, "rockpool"),
}


@pytest.mark.parametrize("case", RECOGNISED)
def test_recognised(case: str, tmp_path: Path) -> None:
    node, options, expected = RECOGNISED[case]
    path = store(tmp_path / "a.nir", chain(affine(), node))
    lost = expected in ("snntorch", "spikingjelly", "sinabs")
    if lost:
        with pytest.raises(UsageError, match=r"a\.nir: .*exporter does not say .* give --reset zero\|subtract"):
            read_nir(path, **options)
    model = read_nir(path, reset="subtract" if lost else None, **options)
    assert model.dialect == expected
    assert "recognised" in model.notes[0]


UNCLEAR: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "snntorch or spikingjelly": (lif(), {}, r"may be from snnTorch or SpikingJelly; .* snntorch\|spikingjelly"),
    "spikingjelly or norse": (lif(tau=0.01, r=1.0), {}, r"may be from SpikingJelly or Norse"),
    "none": (lif(r=3.0), {}, r"from no exporter .*snntorch: n1: it writes r = tau / 0.0001, which is 10 and not 3;"),
    "no neurons": (affine(), {}, "has no neurons that tell the exporter"),
    "not what was asked for": (lif(r=3.0), {"dialect": "spikingjelly"}, r"is not SpikingJelly's: n1: .* not 3"),
    "unknown dialect": (lif(), {"dialect": "brian"}, "--nir-dialect is 'brian', expected auto, snntorch"),
    "unknown reset": (lif(), {"reset": "half"}, "--reset is 'half', expected zero"),
    "step of 0": (lif(), {"dt": 0.0}, "--dt is 0.0, expected a positive"),
    "rockpool never to zero": (
        cuba(w_in=1.0, r=rockpool_r(np.float64(1e-3), 2e-4)),
        {"dialect": "rockpool", "reset": "zero"},
        "Rockpool's neurons subtract",
    ),
}


@pytest.mark.parametrize("case", UNCLEAR)
def test_unclear(case: str, tmp_path: Path) -> None:
    node, options, message = UNCLEAR[case]
    path = store(tmp_path / "a.nir", chain(affine(), node))
    with pytest.raises(UsageError, match=message) as error:
        read_nir(path, **options)
    assert "\n" not in str(error.value)


# Structure


def recurrent_forms() -> dict[str, dict[str, Any]]:
    """One network, its recurrence flat or in a subgraph, its edges in order, shuffled, or repeated."""
    lif_node, weight, first = cuba(), affine(3, 3, 1), affine(3, 2, 2)
    ends = {"input": {"type": "Input", "shape": (2,)}, "output": {"type": "Output", "shape": (3,)}, "fc": first}
    flat = {**ends, "r.lif": lif_node, "r.w_rec": weight}
    edges = [("input", "fc"), ("fc", "r.lif"), ("r.lif", "r.w_rec"), ("r.w_rec", "r.lif"), ("r.lif", "output")]
    inner = net(
        {
            "input": {"type": "Input", "shape": (3,)},
            "output": {"type": "Output", "shape": (3,)},
            "lif": lif_node,
            "w_rec": weight,
        },
        [("w_rec", "lif"), ("lif", "output"), ("lif", "w_rec"), ("input", "lif")],
    )
    return {
        "flat": net(flat, edges),
        "shuffled": net(flat, edges[::-1]),
        "repeated": net(flat, edges + edges[1:4]),
        "subgraph": net({**ends, "r": inner}, [("r", "output"), ("fc", "r"), ("input", "fc")]),
    }


@pytest.mark.parametrize("form", recurrent_forms())
def test_recurrent_forms(form: str, tmp_path: Path) -> None:
    path = store(tmp_path / "a.nir", recurrent_forms()[form])
    model = read_nir(path, reset="zero")
    assert [node.name for node in model.graph.nodes] == ["input", "fc (Affine)", "r.lif (input)", "r.lif (CubaLIF)"]
    reference = read_nir(store(tmp_path / "b.nir", recurrent_forms()["flat"]), reset="zero")
    assert_same(model.graph, reference.graph)


def test_nodes_without_neurons(tmp_path: Path) -> None:
    """Sums at a node with two inputs, pooling, scale, delay, threshold: by hand on one sample."""
    nodes = {
        "input": {"type": "Input", "shape": (2, 4, 4)},
        "sum": {"type": "SumPool2d", "kernel_size": 2, "stride": (2, 2), "padding": 0},
        "scale": {"type": "Scale", "scale": np.array([2.0, 3.0])[:, None, None] * np.ones((2, 2, 2))},
        "late": {"type": "Delay", "delay": np.full((2, 2, 2), 3e-4)},
        "conv": {
            "type": "Conv2d",
            "weight": np.ones((1, 2, 1, 1)),
            "bias": np.array([0.5]),
            "stride": 1,
            "padding": "same",
            "dilation": (1, 1),
            "groups": 1,
        },
        "flat": {"type": "Flatten", "start_dim": 0, "end_dim": -1},
        "fire": {"type": "Threshold", "threshold": np.array([20.0])},
        "output": {"type": "Output", "shape": (4,)},
    }
    edges = [("input", "sum"), ("sum", "scale"), ("scale", "late"), ("late", "conv"), ("scale", "conv")]
    edges += [("conv", "flat"), ("flat", "fire"), ("fire", "output")]
    model = read_nir(store(tmp_path / "a.nir", net(nodes, edges)), dialect="nir", dt=1e-4)
    x = np.random.default_rng(0).integers(0, 3, (1, 6, 2, 4, 4)).astype(float)
    pooled = x.reshape(1, 6, 2, 2, 2, 2, 2).sum((4, 6)) * np.array([2.0, 3.0])[:, None, None]
    late = np.concatenate([np.zeros((1, 3, 2, 2, 2)), pooled[:, :3]], 1)
    wanted = ((pooled + late).sum(2) + 0.5).reshape(1, 6, 4)
    trace = execute(model.graph, x, keep=lambda node: True)
    assert np.array_equal(trace.outputs["flat (Flatten)"], wanted)
    assert np.array_equal(trace.outputs["fire (Threshold)"], wanted > 20)


# Round trip


def values_equal(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray) or isinstance(second, np.ndarray):
        return np.shape(first) == np.shape(second) and np.array_equal(first, second)
    return bool(first == second) and type(first) is type(second)


def assert_same(first: Graph, second: Graph) -> None:
    assert (first.time_steps, first.readout, first.inexact) == (second.time_steps, second.readout, second.inexact)
    assert [type(node) for node in first.nodes] == [type(node) for node in second.nodes]
    for one, other in zip(first.nodes, second.nodes, strict=True):
        for field in dataclasses.fields(one):
            found = getattr(one, field.name), getattr(other, field.name)
            assert values_equal(*found), f"{one.name}: {field.name} {found}"


@st.composite
def graphs(draw: Any) -> Graph:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["spikes", "analog"]))
    images = draw(st.booleans())
    shape: tuple[int, ...] = (2, 6, 5) if images else (4,)
    nodes: list[Node] = [Input(name="input", shape=shape, kind=kind)]

    def add(node: Node) -> None:
        nonlocal shape
        nodes.append(node)
        shape = Graph(tuple(nodes), 1).shapes()[node.name]

    def array(*size: int) -> Array:
        values = rng.normal(0, 1, size)
        return values.astype(np.float32).astype(np.float64) if draw(st.booleans()) else values

    for i in range(draw(st.integers(1, 4))):
        name, source = f"features.{i}", (nodes[-1].name,)
        if len(shape) == 3 and draw(st.booleans()):
            channels = draw(st.sampled_from([2, 4]))
            groups = draw(st.sampled_from([1, 2]))
            weight = array(channels, shape[0] // groups, 2, draw(st.integers(1, 2)))
            padding = draw(st.sampled_from([(0, 0), (1, 2)]))
            add(
                Conv2d(
                    name=f"{name} (Conv2d)",
                    inputs=source,
                    weight=weight,
                    bias=array(channels),
                    padding=padding,
                    groups=groups,
                )
            )
            if draw(st.booleans()):
                pad = draw(st.sampled_from([(0, 0), (1, 0)]))
                pool = AvgPool2d(
                    name=f"{name} pool", inputs=(nodes[-1].name,), kernel=(2, 1), stride=(1, 2), padding=pad
                )
                add(pool)
        else:
            if len(shape) == 3:
                add(Flatten(name=f"{name} flatten", inputs=source))
            bias = array(3) if draw(st.booleans()) else np.zeros(3)
            source = (nodes[-1].name,)
            add(Linear(name=f"{name} (Linear)", inputs=source, weight=array(3, shape[0]), bias=bias))
        source = (nodes[-1].name,)
        if draw(st.booleans()):
            shift = array(shape[0]) if draw(st.booleans()) else np.zeros(shape[0])
            add(BatchNorm(name=f"{name} norm", inputs=source, scale=array(shape[0]), shift=shift))
        if draw(st.booleans()):
            add(Delay(name=f"{name} delay", inputs=(nodes[-1].name,), steps=draw(st.integers(0, 9))))
            if draw(st.booleans()):
                add(Add(name=f"{name} sum", inputs=(nodes[-1].name, source[0])))
        add(draw(neurons(f"{name} (LIF)", nodes[-1].name, shape, rng)))
    readout = draw(st.sampled_from(["output", "potential"]))
    return Graph(tuple(nodes), draw(st.integers(1, 50)), readout, draw(st.sampled_from([(), ("one", "zwei ü")])))


@st.composite
def neurons(draw: Any, name: str, source: str, shape: tuple[int, ...], rng: np.random.Generator) -> Neuron:
    def parameter(special: list[float]) -> float | Array:
        form = draw(st.sampled_from(["special", "number", "channel", "neuron"]))
        if form == "special":
            return float(draw(st.sampled_from(special)))
        if form == "number":
            return float(rng.uniform(0, 1))
        values = rng.uniform(0, 1, shape[:1] if form == "channel" else shape)
        values.flat[0] = draw(st.sampled_from(special))
        return values

    beta = parameter([0.0, 1.0, 0.5, 1 - 2**-20])
    square = len(shape) == 1 and draw(st.booleans())
    bias = rng.normal(0, 1, shape[:1]) if draw(st.booleans()) and np.max(beta) < 1 else None
    return Neuron(
        name=name,
        inputs=(source,),
        alpha=parameter([0.0, 0.0, 1.0, 0.75]),
        beta=beta,
        threshold=parameter([math.inf, 1.0, 0.25]),
        reset=draw(st.sampled_from(["zero", "subtract", "none"])),
        reset_delay=draw(st.booleans()),
        inclusive=draw(st.booleans()),
        recurrent=rng.normal(0, 1, shape * 2) if square else None,
        bias=bias,
        relays=draw(st.integers(0, shape[0])),
    )


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(graphs())
def test_round_trip(tmp_path: Path, graph: Graph) -> None:
    path, again = tmp_path / "a.nir", tmp_path / "b.nir"
    exporter.write(graph, path, force=True)
    model = read_nir(path)
    assert (model.dialect, model.dt) == ("snn2chip", 1e-4)
    assert_same(model.graph, graph)
    exporter.write(model.graph, again, force=True)
    assert path.read_bytes() == again.read_bytes()
    # nir 1.0.8 expects square kernels and one group when it infers shapes
    plain = all(n.groups == 1 and n.weight.shape[2] == n.weight.shape[3] for n in graph.nodes if isinstance(n, Conv2d))
    loaded = nir.read(path, type_check=plain)
    assert len(loaded.nodes) == len(graph.nodes) + 1 + sum(
        getattr(n, "recurrent", None) is not None for n in graph.nodes
    )


def small_graph() -> Graph:
    rng = np.random.default_rng(3)
    first = Linear(
        name="fc (Linear)", inputs=("input",), weight=rng.normal(0.2, 0.7, (5, 4)), bias=rng.normal(0, 0.1, 5)
    )
    hidden = Neuron(
        name="lif (LIF)",
        inputs=(first.name,),
        alpha=0.25,
        beta=np.linspace(0.3, 0.9, 5),
        threshold=0.75,
        reset="subtract",
        reset_delay=True,
        recurrent=rng.normal(0, 0.3, (5, 5)),
    )
    return Graph((Input(name="input", shape=(4,)), first, hidden), 20)


def test_others_read_ours(tmp_path: Path) -> None:
    """Without the metadata the file still says the same network; only the reset has to be given."""
    graph, path = small_graph(), tmp_path / "a.nir"
    exporter.write(graph, path)
    other = read_nir(path, dialect="snntorch", reset="subtract")
    x = np.random.default_rng(0).integers(0, 2, (5, 20, 4))
    check_spikes(spikes_of(other, x)[0], spikes_of(graph, x)[0])
    assert isinstance(nir.read(path).nodes["lif.lif"], nir.CubaLIF)
    with pytest.raises(UsageError, match="exists already"):
        exporter.write(graph, path)
    with pytest.raises(UsageError, match="its metadata hold what --dt and --reset would say"):
        read_nir(path, dt=1e-3, reset="zero")


def edit_weight(file: Any) -> None:
    del file["node/nodes/lif.lif/tau_mem"]
    file["node/nodes/lif.lif/tau_mem"] = np.full(5, 3e-4)


def edit_text(**changes: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        text = json.loads(file["node/metadata/snn2chip"][()])
        del file["node/metadata/snn2chip"]
        file["node/metadata/snn2chip"] = json.dumps({**text, **changes}).encode()

    return edit


def edit_note(node: str, text: bytes) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        del file[f"node/nodes/{node}/metadata/snn2chip/node"]
        file[f"node/nodes/{node}/metadata/snn2chip/node"] = text

    return edit


def drop(path: str) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        del file[path]

    return edit


def put(path: str, value: Any, **options: Any) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        if path in file:
            del file[path]
        file.create_dataset(path, data=value, **options)

    return edit


@pytest.mark.parametrize(
    "edit, message",
    [
        (edit_weight, "lif.lif: beta in its metadata contradicts its parameters; the file was changed"),
        (drop("node/nodes/fc/metadata"), "fc: the metadata say nothing about it"),
        (edit_text(format=2), "metadata: format 2, this snn2chip reads up to 1"),
        (edit_text(time_steps="many"), "metadata: malformed"),
        (edit_text(order=["input"]), "metadata: name other nodes than the file has"),
        (put("node/metadata/snn2chip", b"{" * 99), "metadata/snn2chip: malformed"),
        (edit_note("fc", b'{"type": "Conv2d", "name": "fc"}'), "fc: its metadata say Conv2d"),
        (edit_note("fc", b'{"type": "Linear", "name": 4}'), "fc: its metadata are malformed"),
        (edit_note("fc", b"[]"), "fc: metadata: malformed"),
        (edit_note("lif.lif", b'{"type": "Neuron", "name": "a", "alpha": "x"}'), "lif.lif: its metadata are malformed"),
    ],
)
def test_metadata_that_do_not_fit(edit: Callable[[Any], None], message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.nir"
    exporter.write(small_graph(), path)
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(InputError, match=message) as error:
        read_nir(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "node, message",
    [
        (
            MaxPool2d(name="pool", inputs=("input",), kernel=(2, 2), stride=(2, 2)),
            "pool: NIR has no form for MaxPool2d",
        ),
        (Concat(name="cat", inputs=("input", "input")), "cat: NIR has no form for Concat"),
        (Add(name="sum", inputs=("input", "input")), "sum: takes an input twice"),
        (Neuron(name="n", inputs=("input",), beta=1.0, bias=np.ones(2)), "n: a bias of the potential without a leak"),
    ],
)
def test_no_form_in_nir(node: Node, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=message):
        exporter.write(Graph((Input(name="input", shape=(2, 4, 4)), node), 1), tmp_path / "a.nir")
    assert not list(tmp_path.iterdir())


# Malformed and hostile


def with_nodes(**nodes: Any) -> dict[str, Any]:
    tree = chain(affine(), lif())
    tree["nodes"].update(nodes)
    return tree


def with_edges(*edges: tuple[str, str]) -> dict[str, Any]:
    tree = chain(affine(), lif())
    tree["edges"] = [*tree["edges"], *edges]
    return tree


CONV = {
    "type": "Conv2d",
    "weight": np.ones((2, 1, 3, 3)),
    "bias": np.zeros(2),
    "stride": 1,
    "padding": 0,
    "dilation": 1,
    "groups": 1,
}


def nested(depth: int) -> dict[str, Any]:
    ends = {"input": {"type": "Input", "shape": (3,)}, "output": {"type": "Output", "shape": (3,)}}
    inner = net({**ends, "a": affine()}, [("input", "a"), ("a", "output")])
    for _ in range(depth):
        inner = net({**ends, "s": inner}, [("input", "s"), ("s", "output")])
    return inner


MALFORMED: dict[str, tuple[dict[str, Any], type[Snn2chipError], str]] = {
    "not a graph": (lif(), InputError, "is one LIF, expected a NIRGraph"),
    "unknown type": (with_nodes(n1={"type": "Izhikevich"}), InputError, "n1: type 'Izhikevich' is unknown"),
    "Conv1d": (with_nodes(n1={"type": "Conv1d"}), UnsupportedError, "n1: Conv1d has no form here"),
    "parameter missing": (with_nodes(n1={"type": "LIF", "tau": np.ones(3)}), InputError, "n1: r is missing"),
    "texts for numbers": (with_nodes(n1={**lif(), "tau": "fast"}), InputError, "n1: tau has type object"),
    "complex": (with_nodes(n0={**affine(), "bias": np.ones(3, complex)}), InputError, "n0: bias has type complex128"),
    "real strides": (with_nodes(n1={**CONV, "stride": 1.5}), InputError, "n1: stride has type float64"),
    "NaN": (with_nodes(n1=lif(v_threshold=math.nan)), InputError, "n1: v_threshold contains NaN"),
    "infinite weight": (
        with_nodes(n0={**affine(), "bias": np.full(3, np.inf)}),
        InputError,
        "n0: bias contains NaN or inf",
    ),
    "empty": (with_nodes(n1={**lif(), "tau": np.zeros(0)}), InputError, "n1: tau is empty"),
    "shapes differ": (
        with_nodes(n1={**lif(), "tau": np.ones((2, 2))}),
        InputError,
        r"n1: parameters of shapes \(2, 2\) and \(3,\)",
    ),
    "shape of the layer": (with_nodes(n1=lif(4)), InputError, r"n1: tau has shape \(4,\), expected \(3,\)"),
    "negative tau": (with_nodes(n1=lif(tau=-1.0)), InputError, "n1: tau contains -1, expected positive"),
    "tau below the step": (
        with_nodes(n1=lif(tau=1e-5, r=0.1)),
        InputError,
        "n1: a time constant is shorter than the time",
    ),
    "weight in 3 axes": (with_nodes(n0={**affine(), "weight": np.ones((3, 3, 1))}), InputError, "n0: weight has shape"),
    "weight too wide": (with_nodes(n0=affine(3, 5)), InputError, r"n0 \(Affine\): takes 5 features, is given \(3,\)"),
    "bias too long": (with_nodes(n0={**affine(), "bias": np.zeros(4)}), InputError, r"n0: bias has shape \(4,\)"),
    "conv on features": (with_nodes(n0=CONV), InputError, r"n0 \(Conv2d\): takes \(C, H, W\)"),
    "no groups": (with_nodes(n0={**CONV, "groups": 0}), InputError, "n0: groups is"),
    "stride 0": (with_nodes(n0={**CONV, "stride": (0, 1)}), InputError, r"n0: stride is \[0, 1\]"),
    "padding text": (with_nodes(n0={**CONV, "padding": "mirror"}), InputError, "n0: padding is 'mirror'"),
    "delays differ": (
        with_nodes(n0={"type": "Delay", "delay": np.array([1e-4, 2e-4, 1e-4])}),
        UnsupportedError,
        "n0: delays that differ",
    ),
    "delay between steps": (
        with_nodes(n0={"type": "Delay", "delay": np.full(3, 1.5e-4)}),
        InputError,
        "n0: delay 0.00015 is not a number",
    ),
    "rest elsewhere": (with_nodes(n1=lif(v_reset=0.5, v_leak=0.0)), UsageError, "n1: it writes v_leak = v_reset = 0"),
    "edge to nothing": (with_edges(("n0", "ghost")), InputError, "an edge names 'ghost', which is no node"),
    "self loop": (with_edges(("n1", "n1")), UnsupportedError, "n1 feeds itself without a weight"),
    "loop": (
        with_edges(("n1", "n0"), ("n0", "n0b")) | {"nodes": chain(affine(), lif())["nodes"] | {"n0b": affine()}},
        UnsupportedError,
        "n0b: does not lead to the output",
    ),
    "loop of two neurons": (
        net({**chain(lif(), lif())["nodes"]}, [("input", "n0"), ("n0", "n1"), ("n1", "n0"), ("n1", "output")]),
        UnsupportedError,
        "n0, n1: in a loop",
    ),
    "unused node": (with_nodes(spare=affine()), UnsupportedError, "spare: is not fed by the input"),
    "two outputs": (with_nodes(second={"type": "Output", "shape": (3,)}), UnsupportedError, "has 2 Output nodes"),
    "no input": (
        net({"output": {"type": "Output", "shape": (1,)}, "a": affine()}, [("a", "output")]),
        InputError,
        "has 0 Input nodes",
    ),
    "fed input": (with_edges(("n1", "input")), InputError, "input: an Input node is fed by n1"),
    "huge input": (with_nodes(input={"type": "Input", "shape": (2**40, 2**40, 4)}), InputError, "input: shape is"),
    "edges of numbers": ({**chain(affine()), "edges": np.zeros((3, 2))}, InputError, "edges has shape"),
    "edges of three": (
        {**chain(affine()), "edges": np.array([[b"a", b"b", b"c"]], object)},
        InputError,
        r"edges has shape \(1, 3\)",
    ),
    "too deep": (nested(12), InputError, "subgraphs nested more than 8 deep"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed(case: str, tmp_path: Path) -> None:
    tree, kind, message = MALFORMED[case]
    path = store(tmp_path / "a.nir", tree)
    with pytest.raises(kind, match=message) as error:
        read_nir(path, dialect="snntorch", reset="zero")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def link(kind: str) -> Callable[[Any], None]:
    def edit(file: Any) -> None:
        del file["node/nodes/n0/weight"]
        target = h5py.ExternalLink("/etc/passwd", "/x") if kind == "external" else h5py.SoftLink("/node/nodes/n0/bias")
        file["node/nodes/n0/weight"] = target

    return edit


def cycle(file: Any) -> None:
    file["node/nodes/again"] = file["node"]


def bomb(file: Any) -> None:
    """Seven levels of subgraphs, each twenty times the one below: 10^9 nodes in a small file."""
    below = file["node"]
    for level in range(7):
        group = file.create_group(f"level{level}")
        group["type"] = b"NIRGraph"
        group["edges"] = np.array([[b"input", b"0"]], object)
        for end in ("Input", "Output"):
            group[f"nodes/{end.lower()}/type"] = end.encode()
            group[f"nodes/{end.lower()}/shape"] = [3]
        for i in range(20):
            group[f"nodes/{i}"] = below
        below = group
    del file["node"]
    file["node"] = below


def unstored(file: Any) -> None:
    del file["node/nodes/n0/weight"]
    file.create_dataset("node/nodes/n0/weight", (1 << 12, 1 << 12), "f8", chunks=(64, 64))


def virtual(file: Any) -> None:
    del file["node/nodes/n0/weight"]
    layout = h5py.VirtualLayout((3, 3), "f8")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3, 3))
    file.create_virtual_dataset("node/nodes/n0/weight", layout)


def external(file: Any) -> None:
    del file["node/nodes/n0/weight"]
    file.create_dataset("node/nodes/n0/weight", (3, 3), "f8", external=[("/etc/passwd", 0, 72)])


def group_for_dataset(file: Any) -> None:
    del file["node/nodes/n0/bias"]
    file.create_group("node/nodes/n0/bias")


HOSTILE: dict[str, tuple[Callable[[Any], None], str]] = {
    "external link": (link("external"), "n0: weight is a link to elsewhere"),
    "soft link": (link("soft"), "n0: weight is a link to elsewhere"),
    "loop of groups": (cycle, "subgraphs nested more than 8 deep|more than 4096 nodes"),
    "bomb": (bomb, "more than 4096 nodes"),
    "huge": (
        put("node/nodes/n0/weight", None, shape=(1 << 20, 1 << 20), dtype="f4", chunks=(64, 64)),
        "declares 1099511627776",
    ),
    "unstored": (unstored, "n0: weight declares 16777216 values and stores none"),
    "virtual": (virtual, "n0: weight lies in another file"),
    "external storage": (external, "n0: weight lies in another file"),
    "huge chunks": (
        put("node/nodes/n0/weight", None, shape=(3, 3), dtype="f8", maxshape=(None, None), chunks=(1 << 13, 1 << 13)),
        "has chunks of shape",
    ),
    "long text": (put("node/nodes/n0/type", b"A" * 1000), "n0: type is not one short text"),
    "not text": (put("node/nodes/n0/type", 3), "n0: type is not one short text"),
    "dataset for a group": (put("node/nodes/n0", 3), "n0 is not a group"),
    "group for a dataset": (
        group_for_dataset,
        "n0: bias is not a dataset",
    ),
    "no nodes": (drop("node/nodes"), "nodes is missing"),
    "no edges": (drop("node/edges"), "edges is missing"),
    "no node": (drop("node"), "has no group node; not a NIR file"),
    "names not UTF-8": (
        put("node/edges", np.array([[b"\xff", b"n0"]], object), dtype=h5py.string_dtype("ascii")),
        "not UTF-8",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile(case: str, tmp_path: Path) -> None:
    edit, message = HOSTILE[case]
    path = store(tmp_path / "a.nir", chain(affine(), lif()))
    with h5py.File(path, "r+") as file:
        edit(file)
    with pytest.raises(InputError, match=message) as error:
        read_nir(path, dialect="snntorch", reset="zero")
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_heap_without_end(tmp_path: Path) -> None:
    """An empty free space in the heap of texts, on which libhdf5 loops for ever."""
    path = store(tmp_path / "a.nir", chain(affine(), lif()))
    content = bytearray(path.read_bytes())
    start = content.find(b"GCOL")
    content[start + 16 : start + 32] = bytes(16)
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged heap"):
        read_nir(path, dialect="snntorch", reset="zero")


def test_text_beyond_the_file(tmp_path: Path) -> None:
    """A reference to a heap that is not there, on which libhdf5 loops as well."""
    path = store(tmp_path / "a.nir", chain(affine(), lif()))
    with h5py.File(path) as file:
        offset = file["node/nodes/n0/type"].id.get_offset()
    content = bytearray(path.read_bytes())
    content[offset + 7] = 144
    path.write_bytes(content)
    with pytest.raises(InputError, match="n0: type refers to texts that are not in the file"):
        read_nir(path, dialect="snntorch", reset="zero")


@pytest.mark.parametrize("cut", [0, 10, 500, 3000])
def test_cut_off(cut: int, tmp_path: Path) -> None:
    path = store(tmp_path / "a.nir", chain(affine(), lif()))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"a\.nir: ") as error:
        read_nir(path, dialect="snntorch", reset="zero")
    assert "\n" not in str(error.value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_flipped_bytes(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever the damage: the network, or an error of ours."""
    path = store(tmp_path / "a.nir", chain(affine(), lif()))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        model = read_nir(path, dialect="snntorch", reset="zero")
    except Snn2chipError as error:
        assert "\n" not in str(error)
    else:
        assert model.graph.shapes()


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_nir(tmp_path / "nix.nir")
    assert RESETS == ("zero", "subtract", "zero-now", "subtract-now")
