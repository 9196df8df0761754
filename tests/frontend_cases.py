"""Small networks of every library: what is captured, and what of it the chip can do. The tests run them all, and
``tools/compatibility.py`` makes docs/compatibility.md of them; nothing of a library is imported before it is used."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

STEPS = 8
_MODULES = {
    "snnTorch": {"snn": "snntorch", "utils": "snntorch.utils"},
    "SpikingJelly": {
        name: f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer", "functional", "base", "surrogate")
    },
    "Norse": {"norse": "norse.torch", "snn": "norse.torch.module.snn"},
    "snn2chip": {"nn": "snn2chip.nn"},
    "torch": {},
}
#: Versions that the laws were read from.
VERSIONS = {"snnTorch": "1.0.0", "SpikingJelly": "0.0.0.0.14", "Norse": "1.0.0"}


def installed(framework: str) -> bool:
    """Whether a library is there."""
    return all(importlib.util.find_spec(name.partition(".")[0]) for name in _MODULES[framework].values())


def library(framework: str) -> Any:
    """Its modules, by short names; what they print and warn of when they are imported is theirs."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        return SimpleNamespace(**{k: importlib.import_module(name) for k, name in _MODULES[framework].items()})


Coding = Literal["static", "repeated", "poisson", "latency"]


@dataclass(frozen=True)
class Case:
    """A network, and what is promised of it.

    Attributes:
        name: of the test.
        what: the neurons, or the layers and operations, as the page of compatibility calls them.
        reset: of the neurons, as the library calls it; empty where the case is about layers.
        build: makes the network of the library's modules.
        coding: how digits enter: one image for all steps (a module that takes no time axis), the same repeated,
            Bernoulli spikes, or one spike each, the earlier the brighter.
        image: shape of one sample and step.
        chip: why the chip cannot do it, by a part of the refusal; empty where it can.
        inexact: whether the user has to allow an approximation.
        reads: whether the output is a membrane potential.
        boost: factor on the weights before training, for activity.
        lava: whether its chip form runs in Lava, too.
    """

    name: str
    framework: str
    what: str
    reset: str
    build: Callable[[Any], nn.Module]
    coding: Coding = "poisson"
    image: tuple[int, ...] = (64,)
    chip: str = ""
    inexact: bool = False
    reads: bool = False
    boost: float = 6.0
    lava: bool = False

    def __str__(self) -> str:
        return f"{self.framework}-{self.name}"


# --- networks ---


class ByStep(nn.Module):
    """snnTorch as in its tutorials: a loop over time, states passed from call to call.

    Args:
        read: what is returned.
        static: steps for which one image is shown; 0 where data have time.
    """

    def __init__(self, layers: list[nn.Module], read: str = "spikes", static: int = 0) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.read, self.static = read, static

    def forward(self, x: torch.Tensor) -> Any:
        states: dict[int, Any] = {}
        for i, layer in enumerate(self.layers):
            begin = getattr(layer, f"init_{type(layer).__name__.lower()}", None)
            if begin is not None:
                state = begin()
                states[i] = state if isinstance(state, tuple) else (state,)
        steps = []
        for t in range(self.static or len(x)):
            y = x if self.static else x[t]
            for i, layer in enumerate(self.layers):
                if i in states:
                    returned = layer(y, *states[i])
                    y, states[i] = returned[0], returned[-len(states[i]) :]
                else:
                    y = layer(y)
            steps.append(states[len(self.layers) - 1][-1] if self.read == "potential" else y)
        if self.read == "potential":
            return steps[-1]
        return torch.stack(steps) if self.read == "spikes" else sum(steps[1:], start=steps[0]) / len(steps)


class Looped(nn.Module):
    """A network that keeps its own states, called step by step.

    Args:
        rest: puts it at rest.
    """

    def __init__(self, net: nn.Module, rest: Callable[[nn.Module], Any], static: int = 0) -> None:
        super().__init__()
        self.net, self.rest, self.static = net, rest, static

    def forward(self, x: torch.Tensor) -> Any:
        self.rest(self.net)
        steps = []
        for t in range(self.static or len(x)):
            y = self.net(x if self.static else x[t])
            steps.append(y[0] if isinstance(y, tuple) else y)
        return torch.stack(steps).mean(0) if self.static else torch.stack(steps)


class Stateful(nn.Module):
    """Norse's cells: a loop over time that passes one state on."""

    def __init__(self, net: nn.Module, read: str = "spikes") -> None:
        super().__init__()
        self.net, self.read = net, read

    def forward(self, x: torch.Tensor) -> Any:
        state, steps = None, []
        for x_t in x:
            y, state = self.net(x_t, state)
            steps.append(y)
        return steps[-1] if self.read == "potential" else torch.stack(steps)


class First(nn.Module):
    """The first of what a module returns; of integrators, at the last step."""

    def __init__(self, net: nn.Module, last: bool = False) -> None:
        super().__init__()
        self.net, self.last = net, last

    def forward(self, x: torch.Tensor) -> Any:
        y = self.net(x)[0]
        return y[-1] if self.last else y


class Feedback(nn.Module):
    """A layer whose spikes return through a Linear of the user's."""

    def __init__(self, lif: nn.Module, size: int = 24) -> None:
        super().__init__()
        self.fc, self.own, self.lif, self.out = nn.Linear(64, size), nn.Linear(size, size), lif, nn.Linear(size, 10)
        self.size = size

    def forward(self, x: torch.Tensor) -> Any:
        mem, spikes, scores = self.lif.init_leaky(), torch.zeros(x.shape[1], self.size), 0
        for t in range(len(x)):
            spikes, mem = self.lif(self.fc(x[t]) + self.own(spikes), mem)
            scores = scores + self.out(spikes)
        return scores


class Branches(nn.Module):
    """A skip from the first layer to the third, by addition or by concatenation."""

    def __init__(self, neurons: Callable[[], nn.Module], join: str) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 20), nn.Linear(20, 20)
        self.lif1, self.lif2, self.lif3 = neurons(), neurons(), neurons()
        self.fc3 = nn.Linear(20 if join == "add" else 40, 10)
        self.join = join

    def forward(self, x: torch.Tensor) -> Any:
        mem1, mem2, mem3 = self.lif1.init_leaky(), self.lif2.init_leaky(), self.lif3.init_leaky()
        steps = []
        for x_t in x:
            a, mem1 = self.lif1(self.fc1(x_t), mem1)
            b, mem2 = self.lif2(self.fc2(a), mem2)
            both = a + b if self.join == "add" else torch.cat([a, b], 1)
            c, mem3 = self.lif3(self.fc3(both), mem3)
            steps.append(c)
        return torch.stack(steps)


def _mlp(
    lib: Any, read: str = "spikes", static: int = 0, hidden: Any = None, last: Any = None, **how: Any
) -> nn.Module:
    first = hidden(lib) if hidden else lib.snn.Leaky(beta=0.8, **how)
    second = last(lib) if last else lib.snn.Leaky(beta=0.8, **how)
    return ByStep([nn.Linear(64, 24), first, nn.Linear(24, 10), second], read, static)


def _snn(lib: Any, kind: str, **how: Any) -> nn.Module:
    """A layer of ``kind`` between others."""
    neurons = getattr(lib.snn, kind)
    last = lib.snn.Leaky(beta=0.7, reset_mechanism="zero")
    return ByStep([nn.Linear(64, 24), neurons(**how), nn.Linear(24, 10), last])


def _snn_conv(lib: Any, pool: nn.Module, **how: Any) -> nn.Module:
    how = {"init_hidden": True, "reset_mechanism": "zero", **how}
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        lib.snn.Leaky(beta=0.7, **how),
        pool,
        nn.Conv2d(6, 8, 3, padding="same", groups=2, bias=False),
        lib.snn.Leaky(beta=0.6, **how),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 10),
        lib.snn.Leaky(beta=0.6, output=True, **how),
    )
    return Looped(net, lib.utils.reset, static=STEPS)


def _jelly(
    lib: Any, mode: str, hidden: Callable[[Any], nn.Module], last: Callable[[Any], nn.Module] | None = None
) -> Any:
    layer = lib.layer
    net = nn.Sequential(
        layer.Linear(64, 24), hidden(lib), layer.Dropout(0.2), layer.Linear(24, 10), (last or hidden)(lib)
    )
    lib.functional.set_step_mode(net, mode)
    return net if mode == "m" else Looped(net, lib.functional.reset_net)


def _jelly_conv(lib: Any, mode: str, pool: str, norm: Callable[[Any], nn.Module], wrap: bool = False) -> Any:
    layer, neuron = lib.layer, lib.neuron
    if wrap:
        synapses = [layer.SeqToANNContainer(nn.Conv2d(1, 6, 3, padding=1), norm(lib))]
    else:
        synapses = [layer.Conv2d(1, 6, 3, padding=1), norm(lib)]
    net = nn.Sequential(
        *synapses,
        neuron.LIFNode(tau=2.0),
        getattr(layer, pool)(2),
        layer.Conv2d(6, 8, 3, padding=1, bias=False),
        neuron.IFNode(),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(32, 10),
        neuron.ParametricLIFNode(),
    )
    lib.functional.set_step_mode(net, mode)
    return net if mode == "m" else Looped(net, lib.functional.reset_net)


def _threshold_dependent(lib: Any) -> nn.Module:
    """tdBN with the check of dimensions that its class leaves abstract."""
    kind = lib.layer.ThresholdDependentBatchNorm2d
    made: nn.Module = type(kind.__name__, (kind,), {"_check_input_dim": lambda self, x: None})(1.0, 1.0, 6)
    return made


def _jelly_recurrent(lib: Any, kind: str) -> nn.Module:
    layer, neuron = lib.layer, lib.neuron
    if kind == "linear":
        inner = layer.LinearRecurrentContainer(neuron.LIFNode(tau=2.0), 24, 24)
    else:
        inner = layer.ElementWiseRecurrentContainer(neuron.LIFNode(tau=2.0), torch.add)
    before = [layer.Linear(64, 24)] + [neuron.IFNode()] * (kind == "linear")  # that container has synapses of its own
    net = nn.Sequential(*before, inner, layer.Linear(24, 10), neuron.IFNode())
    lib.functional.set_step_mode(net, "m")
    inner.sub_module.step_mode = "s"
    return net


def _jelly_voting(lib: Any) -> nn.Module:
    net = nn.Sequential(lib.layer.Linear(64, 30), lib.neuron.IFNode(), lib.layer.VotingLayer(3))
    lib.functional.set_step_mode(net, "m")
    return net


def _norse_parameters(lib: Any, kind: str = "LIF", **values: float) -> Any:
    return getattr(lib.norse, f"{kind}Parameters")(**{k: torch.as_tensor(v) for k, v in values.items()})


def _norse(lib: Any, *layers: Any, read: str = "", cells: bool = False) -> nn.Module:
    """``layers``: modules, or functions of the library."""
    made = [layer(lib) if not isinstance(layer, nn.Module) else layer for layer in layers]
    net = lib.norse.SequentialState(*made)
    return Stateful(net, read) if cells else First(net, read == "potential")


def _lif(lib: Any, kind: str = "LIF", *sizes: int, **values: float) -> nn.Module:
    return getattr(lib.norse, kind)(*sizes, _norse_parameters(lib, v_th=0.4, **values))


def _native(lib: Any, hidden: Callable[[Any], nn.Module], static: bool = False) -> nn.Module:
    net = lib.nn.Network(
        nn.Linear(64, 24), hidden(lib), nn.Linear(24, 10), lib.nn.LIF(0.8), input_shape=(64,), time_steps=STEPS
    )
    assert isinstance(net, nn.Module)
    return net


# --- the table ---

snn = partial(Case, framework="snnTorch")
jelly = partial(Case, framework="SpikingJelly")
norse = partial(Case, framework="Norse")
native = partial(Case, framework="snn2chip")

_DELAYED_ZERO = "discards the input of that step, which has no exact form on the chip; fine-tune with reset_delay=False"
_SOFT_CURRENT = "has no exact form on the chip; use alpha 0, or fine-tune with reset='zero'"

CASES: tuple[Case, ...] = (
    # snnTorch: neurons
    snn("leaky-subtract", what="Leaky", reset="subtract", build=partial(_mlp), coding="repeated"),
    snn(
        "leaky-zero",
        what="Leaky",
        reset="zero",
        build=partial(_mlp, reset_mechanism="zero", read="mean", static=STEPS),
        coding="static",
        lava=True,
    ),
    snn(
        "leaky-none",
        what="Leaky",
        reset="none",
        build=partial(_mlp, reset_mechanism="none"),
    ),
    snn(
        "leaky-none-potential",
        what="Leaky, last layer's potential read",
        reset="none",
        build=partial(
            _mlp,
            read="potential",
            hidden=lambda lib: lib.snn.Leaky(beta=0.8, reset_mechanism="zero"),
            reset_mechanism="none",
        ),
        reads=True,
    ),
    snn(
        "leaky-zero-at-once",
        what="Leaky, reset_delay=False",
        reset="zero",
        build=partial(_mlp, reset_mechanism="zero", reset_delay=False),
        coding="latency",
    ),
    snn(
        "leaky-subtract-at-once",
        what="Leaky, reset_delay=False",
        reset="subtract",
        build=partial(_mlp, reset_delay=False),
        inexact=True,
    ),
    snn(
        "leaky-per-neuron",
        what="Leaky, learnt beta and threshold, one for each neuron",
        reset="zero",
        build=partial(
            _mlp,
            hidden=lambda lib: lib.snn.Leaky(
                beta=torch.linspace(0.2, 0.95, 24),
                threshold=torch.linspace(0.5, 1.5, 24),
                learn_beta=True,
                learn_threshold=True,
                reset_mechanism="zero",
            ),
            last=lambda lib: lib.snn.Leaky(beta=0.8, learn_beta=True, reset_mechanism="zero"),
        ),
    ),
    snn(
        "synaptic-subtract",
        what="Synaptic",
        reset="subtract",
        chip=_SOFT_CURRENT,
        build=partial(_snn, kind="Synaptic", alpha=0.5, beta=0.7),
    ),
    snn(
        "synaptic-zero",
        what="Synaptic",
        reset="zero",
        build=partial(_snn, kind="Synaptic", alpha=0.5, beta=0.7, reset_mechanism="zero"),
        chip=_DELAYED_ZERO,
    ),
    snn(
        "synaptic-zero-at-once",
        what="Synaptic, reset_delay=False",
        reset="zero",
        build=partial(_snn, kind="Synaptic", alpha=0.5, beta=0.7, reset_mechanism="zero", reset_delay=False),
    ),
    snn(
        "rleaky-subtract",
        what="RLeaky, all to all",
        reset="subtract",
        build=partial(_snn, kind="RLeaky", beta=0.7, linear_features=24),
    ),
    snn(
        "rleaky-zero",
        what="RLeaky, all to all",
        reset="zero",
        build=partial(_snn, kind="RLeaky", beta=0.7, linear_features=24, reset_mechanism="zero"),
        chip=_DELAYED_ZERO,
    ),
    snn(
        "rleaky-zero-at-once",
        what="RLeaky, all to all, reset_delay=False",
        reset="zero",
        build=partial(_snn, kind="RLeaky", beta=0.7, linear_features=24, reset_mechanism="zero", reset_delay=False),
        lava=True,
    ),
    snn(
        "rleaky-one-to-one",
        what="RLeaky, one to one, reset_delay=False",
        reset="zero",
        build=lambda lib: _snn(
            lib,
            "RLeaky",
            beta=0.7,
            all_to_all=False,
            V=torch.linspace(-1, 1, 24),
            reset_mechanism="zero",
            reset_delay=False,
        ),
    ),
    snn(
        "rsynaptic-subtract",
        what="RSynaptic, all to all",
        reset="subtract",
        chip=_SOFT_CURRENT,
        build=partial(_snn, kind="RSynaptic", alpha=0.4, beta=0.7, linear_features=24),
    ),
    snn(
        "rsynaptic-one-to-one",
        what="RSynaptic, one to one",
        reset="zero",
        build=partial(_snn, kind="RSynaptic", alpha=0.4, beta=0.7, all_to_all=False, V=0.5, reset_mechanism="zero"),
        chip=_DELAYED_ZERO,
    ),
    snn(
        "lapicque-subtract",
        what="Lapicque",
        reset="subtract",
        build=partial(_snn, kind="Lapicque", R=5.0, C=0.5, time_step=0.5),
    ),
    snn(
        "lapicque-zero",
        what="Lapicque",
        reset="zero",
        build=partial(_snn, kind="Lapicque", beta=0.8, reset_mechanism="zero"),
        chip=_DELAYED_ZERO,
    ),
    # snnTorch: layers and operations
    snn(
        "own-feedback",
        what="feedback through a Linear of one's own, spikes averaged",
        reset="",
        build=lambda lib: Feedback(lib.snn.Leaky(beta=0.7, reset_mechanism="zero")),
    ),
    snn(
        "conv-average",
        what="Conv2d (padding, groups), BatchNorm2d, AvgPool2d, AdaptiveAvgPool2d, Flatten, Dropout; init_hidden",
        reset="",
        build=lambda lib: _snn_conv(lib, nn.AvgPool2d(2)),
        coding="static",
        image=(1, 8, 8),
    ),
    snn(
        "conv-max",
        what="MaxPool2d of spikes",
        reset="",
        build=lambda lib: _snn_conv(lib, nn.MaxPool2d(2)),
        coding="static",
        image=(1, 8, 8),
    ),
    snn(
        "skip-add",
        what="skip connections by addition",
        reset="",
        build=lambda lib: Branches(lambda: lib.snn.Leaky(beta=0.7, reset_mechanism="zero"), "add"),
    ),
    snn(
        "skip-concat",
        what="skip connections by concatenation",
        reset="",
        build=lambda lib: Branches(lambda: lib.snn.Leaky(beta=0.7, reset_mechanism="zero"), "concat"),
    ),
    # SpikingJelly: neurons
    *(
        jelly(
            f"{name}-{mode}",
            what=f"{what}, step_mode '{mode}'",
            reset=reset,
            build=partial(_jelly, mode=mode, hidden=hidden),
            coding=coding,
            lava=name == "lif-hard" and mode == "m",
        )
        for name, what, reset, coding, hidden in (
            ("if-hard", "IFNode", "v_reset=0", "poisson", lambda lib: lib.neuron.IFNode()),
            ("if-soft", "IFNode", "v_reset=None", "latency", lambda lib: lib.neuron.IFNode(v_reset=None)),
            ("if-other", "IFNode", "v_reset≠0", "repeated", lambda lib: lib.neuron.IFNode(v_reset=-0.2)),
            ("lif-hard", "LIFNode", "v_reset=0", "repeated", lambda lib: lib.neuron.LIFNode(tau=2.0)),
            ("lif-soft", "LIFNode", "v_reset=None", "poisson", lambda lib: lib.neuron.LIFNode(tau=3.0, v_reset=None)),
            (
                "lif-no-decay",
                "LIFNode, decay_input=False",
                "v_reset=0",
                "latency",
                lambda lib: lib.neuron.LIFNode(tau=3.0, decay_input=False),
            ),
            (
                "plif",
                "ParametricLIFNode",
                "v_reset=0",
                "poisson",
                lambda lib: lib.neuron.ParametricLIFNode(init_tau=2.5, decay_input=False),
            ),
        )
        for mode in "sm"
    ),
    jelly(
        "lif-other-m",
        what="LIFNode, step_mode 'm'",
        reset="v_reset≠0",
        build=partial(_jelly, mode="m", hidden=lambda lib: lib.neuron.LIFNode(tau=2.0, v_reset=-0.1)),
    ),
    jelly(
        "plif-soft-m",
        what="ParametricLIFNode, step_mode 'm'",
        reset="v_reset=None",
        build=partial(_jelly, mode="m", hidden=lambda lib: lib.neuron.ParametricLIFNode(v_reset=None)),
    ),
    # SpikingJelly: layers
    jelly(
        "conv-s",
        what="layer.Conv2d, BatchNorm2d, AvgPool2d, Flatten, Linear, Dropout, step_mode 's'",
        reset="",
        build=partial(_jelly_conv, mode="s", pool="AvgPool2d", norm=lambda lib: lib.layer.BatchNorm2d(6)),
        coding="repeated",
        image=(1, 8, 8),
        boost=12.0,
    ),
    jelly(
        "conv-max-m",
        what="layer.MaxPool2d of spikes, step_mode 'm'",
        reset="",
        build=partial(_jelly_conv, mode="m", pool="MaxPool2d", norm=lambda lib: lib.layer.BatchNorm2d(6)),
        coding="repeated",
        image=(1, 8, 8),
        boost=12.0,
    ),
    jelly(
        "conv-tdbn",
        what="layer.ThresholdDependentBatchNorm2d",
        reset="",
        build=partial(
            _jelly_conv,
            mode="m",
            pool="AvgPool2d",
            norm=_threshold_dependent,
        ),
        image=(1, 8, 8),
        boost=12.0,
    ),
    jelly(
        "conv-containers",
        what="layer.SeqToANNContainer of plain torch modules",
        reset="",
        build=partial(_jelly_conv, mode="m", pool="AvgPool2d", norm=lambda lib: nn.BatchNorm2d(6), wrap=True),
        image=(1, 8, 8),
        boost=12.0,
    ),
    jelly(
        "voting",
        what="layer.VotingLayer, the mean of groups of output neurons",
        reset="",
        build=_jelly_voting,
    ),
    jelly(
        "recurrent-linear",
        what="layer.LinearRecurrentContainer",
        reset="",
        build=partial(_jelly_recurrent, kind="linear"),
    ),
    jelly(
        "recurrent-element",
        what="layer.ElementWiseRecurrentContainer (sum)",
        reset="",
        build=partial(_jelly_recurrent, kind="element"),
    ),
    # Norse: neurons
    norse(
        "lif",
        what="LIF",
        reset="v_reset",
        build=lambda lib: _norse(lib, nn.Linear(64, 24), _lif, nn.Linear(24, 10, bias=False), _lif),
        lava=True,
    ),
    norse(
        "lif-late-bias",
        what="LIF, last layer, behind a Linear with bias",
        reset="v_reset",
        build=lambda lib: _norse(lib, nn.Linear(64, 24), _lif, nn.Linear(24, 10), _lif),
        chip="is the output, and its input is late by 1 steps, which no synapse behind it can take over",
    ),
    norse(
        "lif-offset",
        what="LIF, v_leak = v_reset ≠ 0",
        reset="v_reset",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            lambda lib: _lif(lib, v_leak=0.1, v_reset=0.1),
            nn.Linear(24, 10, bias=False),
            lambda lib: lib.norse.LIF(_norse_parameters(lib, v_th=0.4), dt=0.002),
        ),
        coding="repeated",
    ),
    norse(
        "lif-cell",
        what="LIFCell",
        reset="v_reset",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            partial(_lif, kind="LIFCell"),
            nn.Linear(24, 10, bias=False),
            partial(_lif, kind="LIFCell"),
            cells=True,
        ),
    ),
    norse(
        "lif-recurrent",
        what="LIFRecurrent",
        reset="v_reset",
        build=lambda lib: _norse(
            lib, lambda lib: _lif(lib, "LIFRecurrent", 64, 24), nn.Linear(24, 10, bias=False), _lif
        ),
    ),
    norse(
        "lif-recurrent-cell",
        what="LIFRecurrentCell",
        reset="v_reset",
        build=lambda lib: _norse(
            lib,
            lambda lib: lib.norse.LIFRecurrentCell(64, 24, _norse_parameters(lib, v_th=0.4), autapses=True),
            nn.Linear(24, 10, bias=False),
            partial(_lif, kind="LIFCell"),
            cells=True,
        ),
    ),
    norse(
        "lif-box",
        what="LIFBoxCell",
        reset="v_reset",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            lambda lib: lib.norse.LIFBoxCell(_norse_parameters(lib, "LIFBox", v_th=0.2)),
            nn.Linear(24, 10, bias=False),
            lambda lib: lib.norse.LIFBoxCell(_norse_parameters(lib, "LIFBox", v_th=0.2, tau_mem_inv=300.0)),
            cells=True,
        ),
        coding="repeated",
    ),
    norse(
        "iaf",
        what="IAFCell",
        reset="v_reset",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            lambda lib: lib.norse.IAFCell(),
            nn.Linear(24, 10, bias=False),
            lambda lib: lib.norse.IAFCell(_norse_parameters(lib, "IAF", v_th=1.2, v_reset=-0.2)),
            cells=True,
        ),
        coding="latency",
    ),
    norse(
        "li",
        what="LI, potential of the last step",
        reset="",
        build=lambda lib: _norse(
            lib, nn.Linear(64, 24), _lif, nn.Linear(24, 10, bias=False), lambda lib: lib.norse.LI(), read="potential"
        ),
        reads=True,
    ),
    norse(
        "li-cell",
        what="LICell, potential of the last step",
        reset="",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            partial(_lif, kind="LIFCell"),
            nn.Linear(24, 10, bias=False),
            lambda lib: lib.norse.LICell(),
            read="potential",
            cells=True,
        ),
        reads=True,
    ),
    norse(
        "li-linear-cell",
        what="LILinearCell, potential of the last step",
        reset="",
        build=lambda lib: _norse(
            lib,
            nn.Linear(64, 24),
            partial(_lif, kind="LIFCell"),
            lambda lib: lib.norse.LILinearCell(24, 10),
            read="potential",
            cells=True,
        ),
        reads=True,
    ),
    norse(
        "lift",
        what="Lift of Conv2d and AvgPool2d, Flatten, in SequentialState",
        reset="",
        build=lambda lib: _norse(
            lib,
            lib.norse.Lift(nn.Conv2d(1, 6, 3)),
            _lif,
            lib.norse.Lift(nn.AvgPool2d(2)),
            nn.Flatten(2),
            nn.Linear(54, 10, bias=False),
            _lif,
        ),
        coding="repeated",
        image=(1, 8, 8),
    ),
    # our own
    native("if", what="IF", reset="zero", build=partial(_native, hidden=lambda lib: lib.nn.IF()), coding="static"),
    native("lif-zero", what="LIF", reset="zero", build=partial(_native, hidden=lambda lib: lib.nn.LIF(0.7)), lava=True),
    native(
        "lif-subtract",
        what="LIF",
        reset="subtract",
        build=partial(_native, hidden=lambda lib: lib.nn.LIF(0.7, reset="subtract")),
        coding="repeated",
    ),
    native(
        "cuba-zero",
        what="CubaLIF",
        reset="zero",
        build=partial(_native, hidden=lambda lib: lib.nn.CubaLIF(beta=0.7, alpha=0.5)),
        coding="latency",
    ),
    native(
        "cuba-subtract",
        what="CubaLIF",
        reset="subtract",
        chip=_SOFT_CURRENT,
        build=partial(_native, hidden=lambda lib: lib.nn.CubaLIF(beta=0.7, alpha=0.5, reset="subtract")),
    ),
    native(
        "recurrent",
        what="LIF, recurrent",
        reset="zero",
        build=partial(_native, hidden=lambda lib: lib.nn.LIF(0.7, recurrent=nn.Linear(24, 24, bias=False))),
    ),
)


def time_axis(case: Case) -> int | None:
    """Where a case's module takes time in its input; None where nowhere."""
    return None if case.coding == "static" else 1 if case.framework == "snn2chip" else 0


def digits(case: Case, samples: int, first: int = 0) -> tuple[Any, Any]:
    """Digits of scikit-learn as the case codes them, ``[N, T, ...]`` or ``[N, ...]``, and their classes."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    x = (images[first : first + samples] / 16).reshape(samples, *case.image)
    y = classes[first : first + samples].astype(np.int64)
    if case.coding == "static":
        return x.astype(np.float32), y
    repeated = np.repeat(x[:, None], STEPS, 1)
    if case.coding == "poisson":
        repeated = np.random.default_rng(first).random(repeated.shape) < repeated
    elif case.coding == "latency":
        time = np.arange(STEPS).reshape(1, STEPS, *(1,) * len(case.image))
        repeated = (np.round((1 - repeated) * STEPS) == time) & (repeated > 0)
    return repeated.astype(np.float32), y


def as_taken(case: Case, x: Any) -> torch.Tensor:
    """Data ``[N, T, ...]`` as the case's module takes them."""
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    return tensor.transpose(0, 1) if time_axis(case) == 0 else tensor


def put_at_rest(case: Case, module: nn.Module) -> None:
    """By the library's own means."""
    lib = library(case.framework)
    if case.framework == "SpikingJelly":
        lib.functional.reset_net(module)
    elif case.framework == "snnTorch":
        for neuron in module.modules():
            if isinstance(neuron, lib.snn.SpikingNeuron):
                neuron.reset_mem()


def trained(case: Case, updates: int = 6) -> nn.Module:
    """The network after a few steps of Adam, in evaluation."""
    torch.manual_seed(0)
    module = case.build(library(case.framework))
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1:
                parameter.mul_(case.boost)
    optimiser = torch.optim.Adam(module.parameters(), 3e-3)
    module.train()
    x, y = digits(case, 32 * updates, first=1000)
    for start in range(0, len(x), 32):
        put_at_rest(case, module)
        scores = module(as_taken(case, x[start : start + 32]))
        scores = scores.sum(0) if scores.ndim == 3 else scores
        loss = nn.functional.cross_entropy(scores, torch.from_numpy(y[start : start + 32]))
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    return module.eval()
