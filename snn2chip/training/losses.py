"""Losses and regularisers: plain functions of outputs ``[T, N, classes]`` and records ``[T, N, ...]``.

They know no module and no library, and add up: ``tet(outputs, y) + 0.1 * str_loss(layers) + spike_rate(layers)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.errors import UsageError
from snn2chip.training.records import LayerRecord

#: Share of the last steps whose mean is what RCS takes for the final answer (arXiv 2301.09522).
LAST = 0.3


def sdt(outputs: Tensor, classes: Tensor) -> Tensor:
    """Standard direct training: cross-entropy of the mean output.

    Args:
        outputs: ``[T, N, classes]``.
        classes: ``[N]``.
    """
    return F.cross_entropy(outputs.mean(0), classes)


def tet(outputs: Tensor, classes: Tensor, lam: float = 0.05, phi: float = 1.0) -> Tensor:
    """Temporal efficient training (arXiv 2202.11946): the mean over steps of each step's cross-entropy.

    ``(1 - lam) * mean_t CE(O_t, y) + lam * MSE(O, phi)``. The paper's ``lam`` is 0.05 for static images and 0.001 for
    events.

    Args:
        outputs: ``[T, N, classes]``.
        classes: ``[N]``.
        lam: weight of the regularisation that keeps outliers small.
        phi: what all outputs are drawn to.
    """
    steps = len(outputs)
    entropy = F.cross_entropy(outputs.flatten(0, 1), classes.repeat(steps))
    if lam == 0:
        return entropy
    return (1 - lam) * entropy + lam * F.mse_loss(outputs, torch.full_like(outputs, phi))


def spike_rate(layers: Sequence[LayerRecord], target: float = 0.0) -> Tensor:
    """Mean over layers of how far the mean spikes per neuron and step exceed ``target``."""
    _some(layers)
    return torch.stack([(layer.spikes.mean() - target).clamp(min=0) for layer in layers]).mean()


def strength_ratio(layer: LayerRecord, floor: float = 1e-6) -> Tensor:
    """Spike strength to residual potential, ``||threshold * s||_2 / ||v||_2`` over a sample's neurons, ``[T, N]``.

    The ratio that STR (arXiv 2405.00699) regulates; our reconstruction, its code is not public.
    """
    potential = _potential(layer)
    strength, left = (
        torch.linalg.vector_norm(part.flatten(2), dim=2) for part in (layer.threshold * layer.spikes, potential)
    )
    out: Tensor = strength / left.clamp(min=floor)
    return out


def reciprocal_penalty(ratio: Tensor) -> Tensor:
    """``1 / (ratio + 1)``: 1 where nothing fires, 0 where nothing is left behind."""
    return torch.reciprocal(ratio + 1)


def str_loss(
    layers: Sequence[LayerRecord],
    ratio: Callable[[LayerRecord], Tensor] = strength_ratio,
    penalty: Callable[[Tensor], Tensor] = reciprocal_penalty,
) -> Tensor:
    """Regulariser in the manner of STR (arXiv 2405.00699), added to TET; a *reconstruction*, its code is not public.

    Mean over layers, steps and samples of ``penalty(ratio(layer))``. Coefficients of the paper: 0.1 CIFAR-10, 0.05
    CIFAR-100, 0.5 events.
    """
    _some(layers)
    return torch.stack([penalty(ratio(layer)).mean() for layer in layers]).mean()


def late_mean(values: Tensor) -> Tensor:
    """Mean over the last 30 % of steps, at least one, ``[N, ...]`` of ``[T, N, ...]``."""
    return values[-max(1, round(LAST * len(values))) :].mean(0)


def rcs_loss(layers: Sequence[LayerRecord], outputs: Tensor, classes: Tensor) -> Tensor:
    """Regulariser of cosine similarity (arXiv 2301.09522): each step's activity is drawn to that of the last steps.

    Per layer ``r(t) = s(t) + relu(v(t) / threshold)`` and the detached mean of it over the last 30 % of steps; the
    penalty is ``1 / (cos + 1e-5)`` of their mean cosine over t, over the samples that are right over these last steps.
    0 where no sample is. The paper's coefficients are 0.002 to 0.005.

    Args:
        layers: with potentials.
        outputs: ``[T, N, classes]``.
        classes: ``[N]``.
    """
    _some(layers)
    right = late_mean(outputs).argmax(1) == classes
    if not right.any():
        return outputs.sum() * 0
    penalties = []
    for layer in layers:
        activity = (layer.spikes + F.relu(_potential(layer) / layer.threshold))[:, right].flatten(2)
        wanted = late_mean(activity).detach()
        cosine = F.cosine_similarity(activity, wanted[None], dim=2).mean(0)
        penalties.append(torch.reciprocal(cosine + 1e-5).mean())
    return torch.stack(penalties).mean()


def rates(spikes: Tensor) -> Tensor:
    """Spikes per step ``[N, ...]`` of ``[T, N, ...]``."""
    return spikes.mean(0)


def running_mean(values: Tensor, local: bool = True) -> Tensor:
    """Mean from the first step to each, ``[T, N, ...]``.

    Args:
        values: ``[T, N, ...]``.
        local: only the newest step has a gradient, so that the past need not be kept.
    """
    total = values.detach().cumsum(0) - values.detach() + values if local else values.cumsum(0)
    steps = torch.arange(1, len(values) + 1, dtype=values.dtype, device=values.device)
    return total / steps.reshape(-1, *(1,) * (values.ndim - 1))


def local_offline(layers: Sequence[LayerRecord], teacher: Sequence[Tensor]) -> Tensor:
    """Local tandem learning (arXiv 2210.04532), offline: each layer's rates follow the teacher's activations.

    Sum over layers of ``MSE(rate_l, a_l)``. The layers have to be recorded ``local``.

    Args:
        layers: of the student.
        teacher: of each layer, normalised activations ``[N, ...]`` in 0..1.
    """
    _pairs(layers, teacher)
    return torch.stack(
        [F.mse_loss(rates(layer.spikes), wanted) for layer, wanted in zip(layers, teacher, strict=True)]
    ).sum()


def local_online(layers: Sequence[LayerRecord], teacher: Sequence[Tensor], warm_up: int = 12) -> Tensor:
    """Local tandem learning, online: the running rates of steps ``warm_up`` and later follow the teacher's.

    The neurons have to be ``online``, and the layers recorded ``local``; see :func:`local_offline`.
    """
    _pairs(layers, teacher)
    losses = []
    for layer, wanted in zip(layers, teacher, strict=True):
        late = running_mean(layer.spikes)[_warm(warm_up, len(layer.spikes)) :]
        losses.append(F.mse_loss(late, wanted.expand_as(late)))
    return torch.stack(losses).sum()


def online_entropy(outputs: Tensor, classes: Tensor, warm_up: int = 12) -> Tensor:
    """Cross-entropy of the running mean output of steps ``warm_up`` and later, each with its own step's gradient."""
    late = running_mean(outputs)[_warm(warm_up, len(outputs)) :]
    return F.cross_entropy(late.flatten(0, 1), classes.repeat(len(late)))


def _warm(warm_up: int, steps: int) -> int:
    return min(warm_up, steps - 1)


def _potential(layer: LayerRecord) -> Tensor:
    if layer.potential is None:
        raise UsageError(f"{layer.name}: its membrane potential was not recorded; observe(module, potentials=True)")
    return layer.potential


def _some(layers: Sequence[LayerRecord]) -> None:
    if not layers:
        raise UsageError("records: the module has no neurons that were recorded")


def _pairs(layers: Sequence[LayerRecord], teacher: Sequence[Tensor]) -> None:
    shapes = [tuple(layer.spikes.shape[1:]) for layer in layers], [tuple(wanted.shape) for wanted in teacher]
    if shapes[0] != shapes[1]:
        raise UsageError(f"local tandem learning: the student's layers are {shapes[0]}, the teacher's {shapes[1]}")
