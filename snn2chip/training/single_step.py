"""Training with one step, noise in place of a past (arXiv 2211.05453), and what to do with the weights afterwards."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from snn2chip.errors import UsageError
from snn2chip.nn import Network
from snn2chip.training.records import neurons_of


@contextmanager
def potential_noise(module: nn.Module, sigma: float = 0.2, mu: float = 0.0) -> Iterator[None]:
    """Add ``N(mu, sigma^2)`` to what neurons are given while they train: it stands in for the residual potential.

    Only the abstract of the paper is known to us: a *reconstruction*. Works on neurons of all libraries that
    :func:`snn2chip.training.records.neurons_of` knows.

    Raises:
        UsageError: sigma is negative.
    """
    if sigma < 0:
        raise UsageError(f"noise: sigma is {sigma}, expected at least 0")

    def disturbed(neuron: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not neuron.training:
            return None
        return (args[0] + mu + sigma * torch.randn_like(args[0]), *args[1:])

    handles = [neuron.register_forward_pre_hook(disturbed) for _, neuron in neurons_of(module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def with_time_steps(network: Network, time_steps: int) -> Network:
    """A copy with the same weights that shows static input for ``time_steps`` steps, without noise."""
    other = copy.deepcopy(network)
    other.time_steps = time_steps
    return other
