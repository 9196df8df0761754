"""Ordinary networks as teachers: batch norm folded, activations normalised, weights handed on to spiking neurons."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from snn2chip.errors import UnsupportedError
from snn2chip.nn import IF, Network, Residual, SpikingNeuron

#: Quantile of the activations that counts as a rate of 1 (arXiv 2210.04532).
QUANTILE = 0.999
_CHUNK = 512


def fold_batch_norm(network: Network) -> Network:
    """A copy in evaluation whose batch norms are folded into the ``Linear`` or ``Conv2d`` before each."""
    folded = copy.deepcopy(network).eval()
    return Network(*_folded(folded), input_shape=folded.input_shape, time_steps=folded.time_steps).eval()


def _folded(modules: nn.Sequential) -> list[nn.Module]:
    out: list[nn.Module] = []
    for module in modules:
        if isinstance(module, Residual):
            out.append(Residual(_folded(module.body), _folded(module.shortcut)))
        elif isinstance(module, nn.BatchNorm2d) and out and isinstance(out[-1], nn.Conv2d):
            out[-1] = fuse_conv_bn_eval(out[-1], module)
        elif isinstance(module, nn.BatchNorm1d) and out and isinstance(out[-1], nn.Linear):
            out[-1] = fuse_linear_bn_eval(out[-1], module)
        else:
            out.append(module)
    return out


def activations(network: Network, x: Tensor) -> list[Tensor]:
    """Output ``[N, ...]`` of each ReLU for static ``x`` ``[N, ...]``, in the order in which they run; no gradients."""
    found: list[Tensor] = []
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    handles = [module.register_forward_hook(lambda _m, _args, out: found.append(out)) for module in relus]
    try:
        with torch.no_grad():
            network(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


def activation_scales(network: Network, x: Tensor, quantile: float = QUANTILE) -> list[float]:
    """Per layer of ReLUs the quantile of all its activations on samples ``x``; 1 where it is silent."""
    parts = [activations(network, part) for part in torch.split(x, _CHUNK)]
    scales = []
    for layer in zip(*parts, strict=True):
        values = np.concatenate([part.flatten().cpu().numpy() for part in layer])
        scales.append(float(np.quantile(values, quantile)) or 1.0)
    return scales


def normalised(layers: Sequence[Tensor], scales: Sequence[float]) -> list[Tensor]:
    """Activations as rates in 0..1."""
    return [(layer / scale).clamp(0, 1) for layer, scale in zip(layers, scales, strict=True)]


def spiking_from_teacher(
    teacher: Network, scales: Sequence[float], neurons: Callable[[], SpikingNeuron], time_steps: int
) -> Network:
    """A spiking network with the teacher's weights, scaled so that a rate of 1 stands for each layer's scale.

    ::

        W_l <- W_l * scale_{l-1} / scale_l * threshold     b_l <- b_l / scale_l * threshold
        readout: W <- W * scale_{L-1}                      (scale of the input: 1)

    Args:
        teacher: with ReLUs, its batch norms folded.
        scales: of each ReLU, see :func:`activation_scales`.
        neurons: makes the neurons of one layer.
        time_steps: of the result.

    Raises:
        UnsupportedError: the teacher has skip connections or batch norm: the first cannot be scaled, as a spike that
            skips a layer counts 1 on both ways.
    """
    modules: list[nn.Module] = []
    before, waiting, left = 1.0, None, list(scales)
    for name, module in copy.deepcopy(teacher).named_children():
        if isinstance(module, Residual | nn.modules.batchnorm._BatchNorm):
            raise UnsupportedError(
                f"{name} ({type(module).__name__}): a teacher's weights can only be handed on along a chain without "
                "skips and batch norm; use mlp, conv or vgg, and fold_batch_norm first"
            )
        if isinstance(module, nn.Linear | nn.Conv2d):
            waiting = module
        if isinstance(module, nn.ReLU):
            assert waiting is not None  # a ReLU on the input would come first
            neuron = neurons()
            scale = left.pop(0)
            _scale(waiting, before / scale * neuron.threshold, neuron.threshold / scale)
            before, waiting = scale, None
            modules.append(neuron)
        else:
            modules.append(module)
    if waiting is not None:
        _scale(waiting, before, 1.0)
    return Network(*modules, input_shape=teacher.input_shape, time_steps=time_steps)


def _scale(module: nn.Linear | nn.Conv2d, weight: float, bias: float) -> None:
    with torch.no_grad():
        module.weight.mul_(weight)
        if module.bias is not None:
            module.bias.mul_(bias)


def rate_coded(teacher: Network, x: Tensor, time_steps: int, quantile: float = QUANTILE) -> Network:
    """Classical conversion of a ReLU network: threshold balancing, reset by subtraction, shift of ``threshold / 2T``.

    As in optimal conversion (arXiv 2103.00476): the shift rounds the rate instead of cutting it off.

    Args:
        teacher: with ReLUs, as trained.
        x: training samples ``[N, ...]`` to balance with.
        time_steps: T.
    """
    folded = fold_batch_norm(teacher)
    network = spiking_from_teacher(folded, activation_scales(folded, x, quantile), _soft, time_steps)
    modules = list(network)
    waiting: nn.Linear | nn.Conv2d | None = None
    with torch.no_grad():
        for module in modules:
            if isinstance(module, nn.Linear | nn.Conv2d):
                waiting = module
            if isinstance(module, SpikingNeuron) and waiting is not None:
                if waiting.bias is None:
                    waiting.bias = nn.Parameter(torch.zeros_like(waiting.weight[:, 0].flatten(1)[:, 0]))
                waiting.bias.add_(module.threshold / (2 * time_steps))
    return network.eval()


def _soft() -> SpikingNeuron:
    return IF(threshold=1.0, reset="subtract")
