"""Models and arguments that the capture refuses, each with what its one line has to name and to say."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from frontend_cases import library
from torch import nn
from torch.nn import functional as F

from snn2chip.errors import InputError, Snn2chipError, UnsupportedError, UsageError

STEPS, SAMPLES, FEATURES = 5, 6, 12
IMAGE = (1, 6, 6)


def events(*shape: int) -> Any:
    return (np.random.default_rng(0).random(shape) < 0.5).astype(np.float32)


FLAT = partial(events, STEPS, SAMPLES, FEATURES)
IMAGES = partial(events, STEPS, SAMPLES, *IMAGE)


@dataclass(frozen=True)
class Refusal:
    """Something that is refused.

    Attributes:
        what: as the page of compatibility calls it; empty where it is about arguments rather than models.
        build: makes the module of the library's modules.
        names: how the message begins: a module's path and type, or the argument.
        says: a part of the message: the reason or the way out.
        example: the example input.
        error: its type.
        options: arguments of ``capture``.
    """

    name: str
    framework: str
    what: str
    build: Callable[[Any], nn.Module]
    names: str
    says: str
    example: Callable[[], Any] = FLAT
    error: type[Snn2chipError] = UnsupportedError
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.name


class First(nn.Module):
    """The first of several."""

    def forward(self, x: tuple[torch.Tensor, Any]) -> torch.Tensor:
        return x[0]


class Model(nn.Module):
    """Modules and the function that calls them."""

    def __init__(self, function: Callable[[Any, torch.Tensor], Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: torch.Tensor) -> Any:
        return self.function(self, x)


def neurons(**how: Any) -> nn.Module:
    """snnTorch's, which keep their state."""
    lif: nn.Module = library("snnTorch").snn.Leaky(beta=0.8, init_hidden=True, reset_mechanism="zero", **how)
    return lif


def by_step(step: Callable[[Any, torch.Tensor], Any], **modules: nn.Module) -> Model:
    """``step`` at each time step, and the stack of what it returns."""
    return Model(lambda self, x: torch.stack([step(self, x[t]) for t in range(len(x))]), **modules)


def dense(**between: nn.Module) -> Model:
    """Linear, what is between, neurons, Linear, neurons."""
    return chain(fc=nn.Linear(FEATURES, 10), **between, lif=neurons(), out=nn.Linear(10, 4), last=neurons())


def conv(features: int, **between: nn.Module) -> Model:
    """Conv2d, neurons, what is between, Linear of so many features, neurons."""
    return chain(
        conv=nn.Conv2d(1, 4, 3),
        lif=neurons(),
        **between,
        flat=nn.Flatten(),
        out=nn.Linear(features, 4),
        last=neurons(),
    )


def chain(**modules: nn.Module) -> Model:
    def step(self: Any, x: torch.Tensor) -> Any:
        for name in modules:
            x = getattr(self, name)(x)
        return x

    return by_step(step, **modules)


def two(step: Callable[[Any, torch.Tensor], Any], **more: nn.Module) -> Model:
    """Two Linears with neurons, and ``step`` that joins them."""
    return by_step(
        step,
        a=nn.Linear(FEATURES, 10),
        lif=neurons(),
        b=nn.Linear(10, 10),
        other=neurons(),
        out=nn.Linear(10, 4),
        **more,
    )


def snn(name: str, what: str, make: Callable[[Any], nn.Module], says: str, names: str = "lif", **more: Any) -> Refusal:
    """Neurons of snnTorch."""
    return Refusal(name, "snnTorch", what, lambda lib: _alone(make(lib.snn)), names, says, **more)


def _alone(lif: nn.Module) -> Model:
    def forward(self: Any, x: torch.Tensor) -> Any:
        found = [self.lif(self.fc(x_t)) for x_t in x]
        return torch.stack([y[0] if isinstance(y, tuple) else y for y in found])

    return Model(forward, fc=nn.Linear(FEATURES, 10), lif=lif)


def jelly(name: str, what: str, make: Callable[[Any], nn.Module], says: str, names: str = "1", **more: Any) -> Refusal:
    """Neurons of SpikingJelly, all steps at a call."""

    def build(lib: Any) -> nn.Module:
        net = nn.Sequential(lib.layer.Linear(FEATURES, 10), make(lib))
        lib.functional.set_step_mode(net, "m")
        return net

    return Refusal(name, "SpikingJelly", what, build, names, says, **more)


def norse(
    name: str, what: str, make: Callable[[Any], nn.Module], says: str, names: str = "net.1", **more: Any
) -> Refusal:
    """Modules of Norse, behind a Linear."""

    def build(lib: Any) -> nn.Module:
        net = lib.norse.SequentialState(nn.Linear(FEATURES, 10), make(lib.norse))
        return Model(lambda self, x: self.net(x)[0], net=net)

    return Refusal(name, "Norse", what, build, names, says, **more)


def plain(name: str, what: str, build: Callable[[], nn.Module], names: str, says: str, **more: Any) -> Refusal:
    """Layers and operations of torch, with snnTorch's neurons between."""
    return Refusal(name, "torch", what, lambda lib: build(), names, says, **more)


def _with_nan() -> nn.Module:
    model = dense()
    torch.nn.init.constant_(model.get_submodule("fc").get_parameter("weight"), float("nan"))
    return model


def _with_a_module() -> nn.Module:
    model = dense()
    model.__dict__["library"] = np
    return model


def _noisy(self: Any, x: torch.Tensor) -> Any:
    return self.last(self.out(F.dropout(self.lif(self.fc(x)), 0.5, training=True)))


def _branching(self: Any, x: torch.Tensor) -> Any:
    y = self.lif(self.fc(x))
    return self.last(self.out(y if y.sum() > 3 else 2 * y))


def _reading(self: Any, x: torch.Tensor) -> Any:
    y = self.lif(self.fc(x))
    return self.last(self.out(y / max(1.0, y.mean().item())))


def _modified(self: Any, x: torch.Tensor) -> Any:
    mem, steps = self.lif.init_leaky(), []
    for x_t in x:
        spikes, mem = self.lif(self.fc(x_t), mem)
        mem = mem * 0.9
        steps.append(spikes)
    return torch.stack(steps)


def _started(self: Any, x: torch.Tensor) -> Any:
    mem, steps = torch.full((x.shape[1], 10), 0.3), []
    for x_t in x:
        spikes, mem = self.lif(self.fc(x_t), mem)
        steps.append(spikes)
    return torch.stack(steps)


def _exchanged(self: Any, x: torch.Tensor) -> Any:
    mem, steps = self.lif.init_leaky(), []
    for x_t in x:
        a, mem = self.lif(self.fc(x_t), mem)
        b, mem = self.other(self.fc(x_t), mem)
        steps.append(a + b)
    return torch.stack(steps)


def _explicit() -> dict[str, nn.Module]:
    leaky = library("snnTorch").snn.Leaky
    return {"fc": nn.Linear(FEATURES, 10), "lif": leaky(beta=0.8), "other": leaky(beta=0.8)}


def _from_later(self: Any, x: torch.Tensor) -> Any:
    late, steps = torch.zeros(x.shape[1], 10), []
    for x_t in x:
        spikes = self.lif(self.a(x_t) + late)
        late = self.other(self.b(spikes))
        steps.append(self.out(late))
    return torch.stack(steps)


def _growing(self: Any, x: torch.Tensor) -> Any:
    return torch.stack([self.last(self.out(self.lif(self.fc(x_t)))) * (t + 1) for t, x_t in enumerate(x)])


def _alternating(self: Any, x: torch.Tensor) -> Any:
    steps = []
    for t, x_t in enumerate(x):
        y = self.a(x_t)
        steps.append(self.out(self.lif(y if t % 2 else self.b(y))))
    return torch.stack(steps)


def _twice(self: Any, x: torch.Tensor) -> Any:
    return self.out(self.lif(self.b(self.lif(self.a(x)))))


def _returns(what: Callable[[torch.Tensor], Any]) -> Model:
    return Model(
        lambda self, x: what(torch.stack([self.lif(self.fc(x_t)) for x_t in x])),
        fc=nn.Linear(FEATURES, 10),
        lif=neurons(),
    )


def _alone_on_images(lif: nn.Module) -> Model:
    return Model(lambda self, x: torch.stack([self.lif(self.conv(x_t)) for x_t in x]), conv=nn.Conv2d(1, 2, 3), lif=lif)


def _silently(make: Callable[..., nn.Module], **how: Any) -> nn.Module:
    """Some libraries warn when such a thing is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make(**how)


def _four() -> dict[str, nn.Module]:
    return {"fc": nn.Linear(FEATURES, 10), "lif": neurons(), "out": nn.Linear(10, 4), "last": neurons()}


def _p(norse: Any, kind: str, **values: float) -> Any:
    return getattr(norse, f"{kind}Parameters")(**{name: torch.tensor(value) for name, value in values.items()})


_USE_SNN = "use Leaky, Synaptic, RLeaky, RSynaptic, Lapicque"
_USE_JELLY = "use IFNode, LIFNode, ParametricLIFNode"
_USE_NORSE = "use IAFCell, LI, LICell, LIF, LIFBoxCell, LIFCell, LIFRecurrent, LIFRecurrentCell, LILinearCell"

REFUSALS: tuple[Refusal, ...] = (
    # neurons of snnTorch
    snn("alpha", "Alpha", lambda s: s.Alpha(alpha=0.9, beta=0.8, init_hidden=True), _USE_SNN),
    snn("slstm", "SLSTM", lambda s: s.SLSTM(10, 10, init_hidden=True), _USE_SNN),
    Refusal(
        "sconv2dlstm",
        "snnTorch",
        "SConv2dLSTM",
        lambda lib: _alone_on_images(lib.snn.SConv2dLSTM(2, 2, 3, init_hidden=True)),
        "lif (SConv2dLSTM)",
        _USE_SNN,
        IMAGES,
    ),
    Refusal(
        "rleaky-conv",
        "snnTorch",
        "RLeaky, RSynaptic with conv2d_channels",
        lambda lib: _alone_on_images(lib.snn.RLeaky(beta=0.8, conv2d_channels=2, kernel_size=3, init_hidden=True)),
        "lif (RLeaky)",
        "use linear_features",
        IMAGES,
    ),
    Refusal(
        "leaky-parallel",
        "snnTorch",
        "LeakyParallel",
        lambda lib: Model(lambda self, x: self.lif(x), lif=lib.snn.LeakyParallel(FEATURES, 10)),
        "lif.rnn (RNN)",
        "use recurrent spiking neurons",
    ),
    snn(
        "inhibition",
        "inhibition=True",
        lambda s: _silently(s.Leaky, beta=0.8, init_hidden=True, inhibition=True),
        "has no form on the chip",
    ),
    snn(
        "state-quant",
        "state_quant",
        lambda s: s.Leaky(0.8, init_hidden=True, state_quant=torch.round),
        "the export quantises the states",
    ),
    snn(
        "graded",
        "graded_spikes_factor other than 1",
        lambda s: s.Leaky(beta=0.8, init_hidden=True, graded_spikes_factor=2.0),
        "scale the next weights",
    ),
    snn(
        "rsynaptic-at-once",
        "RSynaptic with reset_delay=False and init_hidden (fails in snnTorch itself)",
        lambda s: s.RSynaptic(alpha=0.5, beta=0.8, linear_features=10, init_hidden=True, reset_delay=False),
        "fails on the example input",
        error=InputError,
    ),
    # neurons of SpikingJelly
    jelly("qif", "QIFNode", lambda j: j.neuron.QIFNode(), _USE_JELLY),
    jelly("eif", "EIFNode", lambda j: j.neuron.EIFNode(), _USE_JELLY),
    jelly("izhikevich", "IzhikevichNode", lambda j: j.neuron.IzhikevichNode(), _USE_JELLY),
    jelly("klif", "KLIFNode", lambda j: j.neuron.KLIFNode(), _USE_JELLY),
    jelly(
        "not-spiking",
        "surrogate functions with spiking=False",
        lambda j: j.neuron.IFNode(surrogate_function=j.surrogate.Sigmoid(spiking=False)),
        "its surrogate function has spiking=False; spikes are 0 or 1",
    ),
    jelly("restless", "v_reset above v_threshold", lambda j: j.neuron.IFNode(v_reset=2.0), "is not above v_reset"),
    jelly(
        "synapse-filter", "SynapseFilter", lambda j: j.layer.SynapseFilter(), "has a state that has no form on the chip"
    ),
    jelly("delay", "layer.Delay", lambda j: j.layer.Delay(1), "has a state that has no form on the chip"),
    jelly(
        "drop-connect",
        "DropConnectLinear",
        lambda j: j.layer.DropConnectLinear(10, 10),
        "what is computed must not depend on them",
    ),
    Refusal(
        "neu-norm",
        "SpikingJelly",
        "NeuNorm",
        lambda lib: nn.Sequential(
            lib.layer.Conv2d(1, 4, 3, step_mode="m"),
            lib.neuron.IFNode(step_mode="m"),
            lib.layer.NeuNorm(4, 4, 4, k=0.9, step_mode="m"),
        ),
        "2 (NeuNorm)",
        "has a state that has no form on the chip",
        IMAGES,
    ),
    Refusal(
        "mixed-step-modes",
        "SpikingJelly",
        "step_mode 's' on all time steps at once",
        lambda lib: nn.Sequential(lib.layer.Linear(FEATURES, 10, step_mode="m"), lib.neuron.IFNode(step_mode="s")),
        "1 (IFNode)",
        "call it step by step",
    ),
    # neurons of Norse
    norse("adaptive", "LIFAdEx, LIFAdExRecurrent", lambda n: n.LIFAdEx(), _USE_NORSE),
    norse("exponential", "LIFEx, LIFExRecurrent", lambda n: n.LIFEx(), _USE_NORSE),
    norse("lsnn", "LSNN, LSNNRecurrent", lambda n: n.LSNN(), _USE_NORSE),
    norse("refractory", "LIFRefrac, LIFRefracRecurrent", lambda n: n.LIFRefracRecurrent(10, 10), _USE_NORSE),
    norse("coba", "CobaLIFCell", lambda n: n.CobaLIFCell(10, 10), _USE_NORSE),
    norse(
        "lif-reset", "v_reset other than v_leak", lambda n: n.LIF(_p(n, "LIF", v_reset=-0.2)), "train with equal ones"
    ),
    norse("lif-threshold", "v_th not above v_reset", lambda n: n.LIF(_p(n, "LIF", v_th=0.0)), "is not above v_reset"),
    norse("li-leak", "LI with v_leak other than 0", lambda n: n.LI(_p(n, "LI", v_leak=0.1)), "add it to the scores"),
    norse(
        "li-lif",
        "neurons behind LI",
        lambda n: nn.Sequential(n.LI(), First(), n.LIF(), First()),
        "neurons take spikes, through synapses, of each step",
        "net.1.2",
    ),
    norse("cell-of-sequence", "cells on all time steps at once", lambda n: n.LIFCell(), "call it step by step"),
    Refusal(
        "li-mean",
        "Norse",
        "potentials of LI, summed or averaged over time, or their maximum",
        lambda lib: Model(lambda self, x: self.li(self.fc(x))[0].mean(0), fc=nn.Linear(FEATURES, 4), li=lib.norse.LI()),
        "model (Model)",
        "only that of the last step can be read",
    ),
    Refusal(
        "encoder",
        "Norse",
        "encoders inside the module",
        lambda lib: Model(lambda self, x: self.li(self.enc(x))[0], enc=lib.norse.PoissonEncoder(5), li=lib.norse.LI()),
        "enc (PoissonEncoder)",
        _USE_NORSE,
        lambda: events(SAMPLES, FEATURES),
    ),
    # layers of torch
    plain(
        "relu", "ReLU and other activations", lambda: dense(act=nn.ReLU()), "act (ReLU)", "put spiking neurons there"
    ),
    plain("sigmoid", "Sigmoid between layers", lambda: dense(act=nn.Sigmoid()), "act (Sigmoid)", "leave it out"),
    plain("layer-norm", "LayerNorm", lambda: dense(norm=nn.LayerNorm(10)), "norm (LayerNorm)", "use batch norm"),
    plain(
        "group-norm",
        "GroupNorm, InstanceNorm",
        lambda: conv(64, norm=nn.GroupNorm(2, 4)),
        "norm (GroupNorm)",
        "use batch norm",
        example=IMAGES,
    ),
    plain(
        "batch-statistics",
        "BatchNorm with track_running_stats=False",
        lambda: dense(norm=nn.BatchNorm1d(10, track_running_stats=False)),
        "norm (BatchNorm1d)",
        "train with track_running_stats=True",
    ),
    plain(
        "lstm",
        "LSTM, GRU, RNN",
        lambda: Model(
            lambda self, x: torch.stack([self.lif(y) for y in self.lstm(x)[0]]),
            lstm=nn.LSTM(FEATURES, 10),
            lif=neurons(),
        ),
        "lstm (LSTM)",
        "use recurrent spiking neurons",
    ),
    plain(
        "attention",
        "attention",
        lambda: Model(
            lambda self, x: torch.stack([self.lif(y) for y in self.att(x, x, x)[0]]),
            att=nn.MultiheadAttention(FEATURES, 2),
            lif=neurons(),
        ),
        "att (MultiheadAttention)",
        "leave it out",
    ),
    plain(
        "max-pool-ceil",
        "MaxPool2d with dilation, ceil_mode or return_indices",
        lambda: conv(16, pool=nn.MaxPool2d(3, 2, ceil_mode=True)),
        "pool (MaxPool2d)",
        "leave them out",
        example=IMAGES,
    ),
    plain(
        "average-pool-ceil",
        "AvgPool2d with ceil_mode or divisor_override",
        lambda: conv(16, pool=nn.AvgPool2d(3, 2, ceil_mode=True)),
        "pool (AvgPool2d)",
        "leave them out",
        example=IMAGES,
    ),
    plain(
        "average-pool-padding",
        "AvgPool2d with count_include_pad=False",
        lambda: conv(36, pool=nn.AvgPool2d(2, padding=1, count_include_pad=False)),
        "pool (AvgPool2d)",
        "use True, or no padding",
        example=IMAGES,
    ),
    plain(
        "adaptive-pool",
        "AdaptiveAvgPool2d to a size that does not divide",
        lambda: conv(36, pool=nn.AdaptiveAvgPool2d(3)),
        "pool (AdaptiveAvgPool2d)",
        "choose a size that does",
        example=IMAGES,
    ),
    plain(
        "adaptive-max-pool",
        "AdaptiveMaxPool2d, LPPool2d",
        lambda: conv(16, pool=nn.AdaptiveMaxPool2d(2)),
        "pool (AdaptiveMaxPool2d)",
        "use AvgPool2d or MaxPool2d",
        example=IMAGES,
    ),
    plain(
        "dropout",
        "dropout that is active in evaluation",
        lambda: by_step(_noisy, **_four()),
        "model (Model)",
        "use nn.Dropout",
    ),
    plain(
        "conv1d",
        "Conv1d, Conv3d",
        lambda: by_step(lambda self, x: self.lif(self.conv(x.unsqueeze(1))), conv=nn.Conv1d(1, 2, 3), lif=neurons()),
        "conv (Conv1d)",
        "use Conv2d, with an axis of size 1",
    ),
    plain(
        "conv3d",
        "",
        lambda: Model(
            lambda self, x: torch.stack(
                [self.lif(y) for y in self.conv(x.permute(1, 2, 0, 3, 4)).permute(2, 0, 1, 3, 4)]
            ),
            conv=nn.Conv3d(1, 1, (1, 3, 3), padding=(0, 1, 1)),
            lif=neurons(),
        ),
        "conv (Conv3d)",
        "use Conv2d, with an axis of size 1",
        example=IMAGES,
    ),
    plain(
        "conv-transpose",
        "ConvTranspose2d, Upsample",
        lambda: conv(128, up=nn.ConvTranspose2d(4, 2, 2, stride=2)),
        "up (ConvTranspose2d)",
        "make maps larger by a Linear, or keep their size",
        example=IMAGES,
    ),
    plain(
        "padding-mode",
        "padding that is not of zeros, or apart from Conv2d",
        lambda: chain(conv=nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), lif=neurons()),
        "conv (Conv2d)",
        "use the padding of Conv2d, which is of zeros",
        example=IMAGES,
    ),
    plain(
        "padding-same",
        "padding='same' of an even kernel",
        lambda: chain(conv=nn.Conv2d(1, 2, 2, padding="same"), lif=neurons()),
        "conv (Conv2d)",
        "give the padding in pixels",
        example=IMAGES,
    ),
    plain(
        "linear-on-images",
        "Linear on images that are not flattened",
        lambda: chain(fc=nn.Linear(6, 4), lif=neurons()),
        "fc (Linear)",
        "flatten images before",
        example=IMAGES,
    ),
    # what a forward does
    plain(
        "transposed",
        "permuted channels, height and width",
        lambda: by_step(
            lambda self, x: self.out(self.flat(self.lif(self.conv(x)).transpose(2, 3))),
            conv=nn.Conv2d(1, 2, 3),
            lif=neurons(),
            flat=nn.Flatten(),
            out=nn.Linear(32, 4),
        ),
        "flat (Flatten)",
        "keep time, batch and sample apart, and the sample in its order",
        example=IMAGES,
    ),
    plain(
        "permuted-convolution",
        "",
        lambda: by_step(
            lambda self, x: self.lif(self.conv(x).permute(0, 2, 3, 1)), conv=nn.Conv2d(1, 2, 3), lif=neurons()
        ),
        "lif (Leaky)",
        "permute them back before",
        example=IMAGES,
    ),
    plain(
        "permuted-output",
        "",
        lambda: by_step(
            lambda self, x: self.lif(self.conv(x)).permute(0, 2, 3, 1), conv=nn.Conv2d(1, 2, 3), lif=neurons()
        ),
        "model (Model)",
        "permute them back",
        example=IMAGES,
    ),
    plain(
        "product",
        "product or difference of two branches",
        lambda: two(lambda self, x: self.out(self.lif(self.a(x)) * self.other(self.b(self.a(x))))),
        "model (Model)",
        "add or concatenate them",
    ),
    plain(
        "difference",
        "",
        lambda: two(lambda self, x: self.out(self.lif(self.a(x)) - self.other(self.b(self.a(x))))),
        "model (Model)",
        "with weights of the other sign",
    ),
    plain(
        "skip-of-channels",
        "skip connections from a part of a layer, or between shapes that differ",
        lambda: two(lambda self, x: self.out(self.lif(self.a(x)) + x[:, :10])),
        "model (Model)",
        "take it whole, and choose by the next weights",
    ),
    plain(
        "skip-of-other-shape",
        "",
        lambda: two(lambda self, x: self.out(self.lif(self.a(x)) + x)),
        "model (Model)",
        "fails on the example input",
        error=InputError,
    ),
    plain(
        "data-dependent-branch",
        "control flow and numbers that depend on the data (bool, .item(), .numpy())",
        lambda: by_step(_branching, **_four()),
        "model (Model)",
        "what is computed must not depend on them",
    ),
    plain(
        "data-dependent-number",
        "",
        lambda: by_step(_reading, **_four()),
        "model (Model)",
        "what is computed must not depend on them",
    ),
    plain(
        "encoding",
        "encoding of the data inside the module (bernoulli)",
        lambda: Model(
            lambda self, x: torch.stack([self.lif(self.fc(torch.bernoulli(x))) for _ in range(STEPS)]),
            fc=nn.Linear(FEATURES, 10),
            lif=neurons(),
        ),
        "model (Model)",
        "encode data before the module",
        example=lambda: events(SAMPLES, FEATURES) / 2,
    ),
    plain(
        "written-neuron",
        "neurons written by hand: comparisons, Heaviside functions of one's own",
        lambda: by_step(
            lambda self, x: (self.out(self.lif(self.fc(x))) > 1).float(),
            fc=nn.Linear(FEATURES, 10),
            lif=neurons(),
            out=nn.Linear(10, 4),
        ),
        "model (Model)",
        "for a neuron take snn2chip.nn.LIF",
    ),
    plain(
        "noise",
        "constants that differ within a channel, between samples or over time",
        lambda: by_step(
            lambda self, x: self.lif(self.fc(x + torch.linspace(0, 1, len(x))[:, None])),
            fc=nn.Linear(FEATURES, 10),
            lif=neurons(),
        ),
        "model (Model)",
        "only one number for each channel has a form on the chip",
    ),
    plain(
        "constant-input",
        "neurons whose input does not depend on the data",
        lambda: by_step(
            lambda self, x: self.lif(self.fc(torch.ones(len(x), FEATURES))), fc=nn.Linear(FEATURES, 10), lif=neurons()
        ),
        "lif (Leaky)",
        "is given something that does not depend on the network's input; leave it out",
    ),
    plain(
        "state-modified",
        "states that the module changes, exchanges or sets",
        lambda: Model(_modified, **_explicit()),
        "model (Model)",
        "membrane potential; only the last layer's can be read",
    ),
    plain("state-set", "", lambda: Model(_started, **_explicit()), "lif (Leaky)", "networks start at rest"),
    plain(
        "state-exchanged", "", lambda: Model(_exchanged, **_explicit()), "other (Leaky)", "pass back what it returned"
    ),
    plain(
        "shared-neurons",
        "neurons that several layers share",
        lambda: by_step(_twice, a=nn.Linear(FEATURES, 10), lif=neurons(), b=nn.Linear(10, 10), out=nn.Linear(10, 4)),
        "lif (Leaky)",
        "give each layer neurons of its own",
    ),
    plain(
        "feedback",
        "feedback from a later layer",
        lambda: Model(
            _from_later,
            a=nn.Linear(FEATURES, 10),
            lif=neurons(),
            b=nn.Linear(10, 10),
            other=neurons(),
            out=nn.Linear(10, 4),
        ),
        "lif (Leaky)",
        "leave the feedback out",
    ),
    plain(
        "alternating",
        "something else at each time step",
        lambda: Model(
            _alternating, a=nn.Linear(FEATURES, 10), lif=neurons(), b=nn.Linear(10, 10), out=nn.Linear(10, 4)
        ),
        "lif (Leaky)",
        "the chip does the same at each step",
    ),
    plain("growing", "", lambda: Model(_growing, **_four()), "model (Model)", "in order"),
    plain(
        "time-reversed",
        "time steps out of order, or skipped",
        lambda: Model(
            lambda self, x: torch.stack([self.lif(self.fc(x[t])) for t in reversed(range(STEPS))]),
            fc=nn.Linear(FEATURES, 10),
            lif=neurons(),
        ),
        "lif (Leaky)",
        "neurons are called once each step",
    ),
    plain(
        "part-of-the-steps",
        "an output of some time steps only",
        lambda: Model(
            lambda self, x: torch.stack([self.lif(self.fc(x[t])) for t in range(3)]),
            fc=nn.Linear(FEATURES, 10),
            lif=neurons(),
        ),
        "model (Model)",
        "returns 3 of 5 time steps; return all of them",
    ),
    plain("last-step", "", lambda: _returns(lambda y: y[-1]), "lif (Leaky)", "return all steps"),
    plain("last-steps", "", lambda: _returns(lambda y: y[2:].mean(0)), "model (Model)", "only single time steps"),
    plain(
        "maximum",
        "an output that is a maximum over time, or a class (max, argmax)",
        lambda: _returns(lambda y: y.max(0)[0]),
        "model (Model)",
        "return spikes or scores of all steps, or their sum or mean",
    ),
    plain("class", "", lambda: _returns(lambda y: y.sum(0).argmax(1)), "model (Model)", "return spikes or scores"),
    plain(
        "two-outputs",
        "several outputs",
        lambda: Model(
            lambda self, x: [self.one(y) for y in x] + [self.two(y) for y in x],
            one=nn.Linear(FEATURES, 3),
            two=nn.Linear(FEATURES, 2),
        ),
        "model (Model)",
        "return one output",
        options=(("layout", "TN"),),
    ),
    plain("nothing", "", lambda: _returns(lambda y: None), "model (Model)", "return spikes or scores first"),
    plain("constant", "", lambda: _returns(lambda y: torch.zeros(4)), "model (Model)", "return spikes or scores first"),
    plain(
        "not-copied",
        "modules that cannot be copied, such as one that keeps a file or a Python module",
        _with_a_module,
        "model (Model)",
        "keep nothing in it but modules, tensors and values",
        error=InputError,
    ),
    # arguments
    plain("nan-weights", "", _with_nan, "fc (Linear)", "contains NaN", error=InputError),
    plain("nan-example", "", dense, "example input", "NaN", example=lambda: FLAT() * np.nan, error=InputError),
    plain(
        "text-example", "", dense, "example input", "not an array", example=lambda: np.array(["a"]), error=InputError
    ),
    plain("empty-example", "", dense, "example input", "is empty", example=lambda: events(5, 0, 12), error=InputError),
    plain("no-steps", "", dense, "example input", "is empty", example=lambda: events(0, 5, 12), error=InputError),
    plain(
        "flat-example", "", dense, "example input", "say where time is", example=lambda: events(12), error=UsageError
    ),
    plain(
        "wrong-features",
        "",
        dense,
        "fc (Linear)",
        "fails on the example input of shape (5, 6, 7)",
        example=lambda: events(5, 6, 7),
        error=InputError,
    ),
    plain("wrong-layout", "", dense, "model (Model)", "say with layout", options=(("layout", "NT"),)),
    plain(
        "layout-of-other-size",
        "",
        dense,
        "example input",
        "a sample's step is (F,) or (C, H, W)",
        options=(("layout", "N"),),
        error=InputError,
    ),
    plain(
        "unknown-habit",
        "",
        lambda: Model(lambda self, x: self.fc(x), fc=nn.Linear(FEATURES, 4)),
        "example input",
        "say where time is",
        error=UsageError,
    ),
)
