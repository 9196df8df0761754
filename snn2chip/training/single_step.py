"""Training with one step, noise in place of a past (arXiv 2211.05453), and what to do with the weights afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.nn import Network
from snn2chip.training.records import neurons_of


@contextmanager
def potential_noise(module: nn.Module, sigma: float = 0.2, mu: float = 0.2) -> Iterator[None]:
    """Add ``N(mu, sigma^2)`` to what neurons are given while they train: it stands in for the residual potential.

    Only the abstract of the paper is known to us: a *reconstruction*. The default mu, chosen on validation samples, is
    about what beta = 0.5 leaves of potentials anywhere between 0 and a threshold of 1. Works on neurons of all
    libraries that :func:`snn2chip.training.records.neurons_of` knows.

    Raises:
        UsageError: sigma is negative.
    """
    if sigma < 0:
        raise UsageError(f"noise: sigma is {sigma}, expected at least 0")

    def disturbed(neuron: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not neuron.training:
            return None
        x = args[0]
        noise = torch.randn(x.shape, dtype=x.dtype, device=x.device)  # many times faster than in another memory format
        return (noise.mul_(sigma).add_(mu).add_(x), *args[1:])

    handles = [neuron.register_forward_pre_hook(disturbed) for _, neuron in neurons_of(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_own_statistics(network: Network, x: Tensor, batch: int = 256) -> Network:
    """A copy whose batch norms have the means and variances that samples ``x`` cause at its own number of steps.

    Part of the *reconstruction*: trained with one step, they are those of spikes without a past. Needs no gradients.

    Args:
        x: static samples ``[N, ...]``; the more, the better the statistics.
        batch: samples at a time.
    """
    other = copy.deepcopy(network).eval()
    norms: list[Any] = [m for m in other.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if not norms:
        return other
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.no_grad():
        for part in torch.split(x, batch):
            if len(part) > 1:  # one sample has no variance
                other(part.float())
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    return other.eval()


def with_time_steps(network: Network, time_steps: int) -> Network:
    """A copy with the same weights that shows static input for ``time_steps`` steps, without noise."""
    other = copy.deepcopy(network)
    other.time_steps = time_steps
    return other
