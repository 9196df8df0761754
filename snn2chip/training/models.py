"""Networks to train, all of them deployable: no max pooling, no normalisation that differs from step to step."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from snn2chip.errors import UsageError
from snn2chip.names import meant
from snn2chip.nn import LIF, Network, Readout, Residual

#: Makes the neurons of one layer; ``nn.ReLU`` makes the network's ordinary counterpart.
Neurons = Callable[[], nn.Module]


def mlp(
    input_shape: Sequence[int],
    classes: int,
    time_steps: int,
    neurons: Neurons = LIF,
    norm: bool = True,
    widths: Sequence[int] = (256,),
) -> Network:
    """Dense layers of ``widths`` neurons, and a readout."""
    modules: list[nn.Module] = [nn.Flatten()] if len(input_shape) == 3 else []
    before = math.prod(input_shape)
    for width in widths:
        modules += [nn.Linear(before, width, bias=not norm), *([nn.BatchNorm1d(width)] if norm else []), neurons()]
        before = width
    return Network(*modules, Readout(before, classes), input_shape=input_shape, time_steps=time_steps)


def conv(
    input_shape: Sequence[int],
    classes: int,
    time_steps: int,
    neurons: Neurons = LIF,
    norm: bool = True,
    widths: Sequence[int] = (16, 32),
) -> Network:
    """For each of ``widths`` a 3 x 3 convolution and average pooling, then a readout."""
    channels, *size = _image("conv", input_shape, 2 ** len(widths))
    modules: list[nn.Module] = []
    for width in widths:
        modules += [*_conv(channels, width, 1, norm), neurons(), nn.AvgPool2d(2)]
        channels, size = width, [n // 2 for n in size]
    modules += [nn.Flatten(), Readout(channels * math.prod(size), classes)]
    return Network(*modules, input_shape=input_shape, time_steps=time_steps)


def vgg(
    input_shape: Sequence[int],
    classes: int,
    time_steps: int,
    neurons: Neurons = LIF,
    norm: bool = True,
    factor: float = 1.0,
) -> Network:
    """VGG-like as in TET: pairs of 64-128, 256-256, 512-512 and 512-512 channels, each followed by average pooling.

    As many pairs as the size allows, at least two.
    """
    channels, *size = _image("vgg", input_shape, 4)
    modules: list[nn.Module] = []
    for pair in ((64, 128), (256, 256), (512, 512), (512, 512)):
        if min(size) < 2:
            break
        for width in (_scaled(n, factor) for n in pair):
            modules += [*_conv(channels, width, 1, norm), neurons()]
            channels = width
        modules.append(nn.AvgPool2d(2))
        size = [n // 2 for n in size]
    modules += [nn.Flatten(), Readout(channels * math.prod(size), classes)]
    return Network(*modules, input_shape=input_shape, time_steps=time_steps)


def resnet19(
    input_shape: Sequence[int],
    classes: int,
    time_steps: int,
    neurons: Neurons = LIF,
    norm: bool = True,
    factor: float = 1.0,
) -> Network:
    """ResNet-19 as in TET: a convolution, blocks of 3 x 128, 3 x 256 and 2 x 512 channels, and two dense layers.

    Neurons follow each sum, so that what is skipped is spikes, which the chip relays.
    """
    channels, *size = _image("resnet19", input_shape, 4)
    width = _scaled(128, factor)
    modules: list[nn.Module] = [*_conv(channels, width, 1, norm), neurons()]
    channels = width
    for width, blocks, stride in ((128, 3, 1), (256, 3, 2), (512, 2, 2)):
        for block in range(blocks):
            out, step = _scaled(width, factor), stride if block == 0 else 1
            body = [*_conv(channels, out, step, norm), neurons(), *_conv(out, out, 1, norm)]
            plain = step == 1 and channels == out
            shortcut = [] if plain else _conv(channels, out, step, norm, kernel=1)
            modules += [Residual(body, shortcut), neurons()]
            channels, size = out, [-(-n // step) for n in size]
    dense = _scaled(256, factor)
    pool = (size[0], size[1])
    modules += [nn.AvgPool2d(pool), nn.Flatten(), nn.Linear(channels, dense), neurons(), Readout(dense, classes)]
    return Network(*modules, input_shape=input_shape, time_steps=time_steps)


#: Name and builder; the first two take widths, the others a factor for all of theirs.
MODELS: dict[str, Callable[..., Network]] = {"mlp": mlp, "conv": conv, "vgg": vgg, "resnet19": resnet19}


def builder(spec: str) -> Callable[..., Network]:
    """The builder that ``spec`` names: ``mlp``, ``mlp:512-128``, ``conv:16-32``, ``vgg:0.25``, ``resnet19:0.5``.

    Takes ``(input_shape, classes, time_steps, neurons=LIF, norm=True)``.

    Raises:
        UsageError: there is no such model, or what follows the colon is not what it takes.
    """
    name, _, detail = spec.partition(":")
    if name not in MODELS:
        raise UsageError(
            f"model: {spec!r} is unknown; have {', '.join(MODELS)}, or PACKAGE.MODULE:FUNCTION for one of your own"
            f"{meant(name, MODELS)}"
        )
    if not detail:
        return MODELS[name]
    option: dict[str, object]
    try:
        if name in ("mlp", "conv"):
            widths = tuple(int(width) for width in detail.split("-"))
            option, fits = {"widths": widths}, min(widths) > 0
        else:
            factor = float(detail)
            option, fits = {"factor": factor}, 0 < factor < math.inf
    except ValueError:
        fits = False
    if not fits:
        takes = "widths as in 512-128" if name in ("mlp", "conv") else "a factor as in 0.5"
        raise UsageError(f"model: {spec!r}: {name} takes {takes}")
    return lambda *args, **kwargs: MODELS[name](*args, **option, **kwargs)


def is_own(spec: str) -> bool:
    """Whether ``spec`` names a function of the user's, as ``package.module:function``."""
    name, _, function = spec.partition(":")
    return name not in MODELS and all(part.isidentifier() for part in (*name.split("."), function))


def own_model(spec: str) -> nn.Module:
    """What the user's function ``package.module:function`` returns; modules of the working folder are found too.

    Raises:
        UsageError: it cannot be imported, or returns no module.
    """
    name, _, function = spec.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        made = getattr(importlib.import_module(name), function)()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"model: {spec}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"model: {spec} returns {type(made).__name__}, expected a torch module")
    return made


def _conv(before: int, width: int, stride: int, norm: bool, kernel: int = 3) -> list[nn.Module]:
    layer = nn.Conv2d(before, width, kernel, stride, padding=kernel // 2, bias=not norm)
    return [layer, *([nn.BatchNorm2d(width)] if norm else [])]


def _scaled(width: int, factor: float) -> int:
    return max(4, round(width * factor))


def _image(name: str, shape: Sequence[int], least: int) -> Sequence[int]:
    if len(shape) != 3 or min(shape[1:]) < least:
        raise UsageError(f"model: {name} takes (C, H, W) of at least {least} x {least}, the data have {tuple(shape)}")
    return shape
