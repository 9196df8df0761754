"""The containers that step a spiking network through time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from snn2chip.errors import InputError, UsageError
from snn2chip.nn.neurons import SpikingNeuron


class Readout(nn.Linear):
    """Linear readout without a neuron: its output, averaged over time, scores the classes."""


class Residual(nn.Module):
    """``body(x) + shortcut(x)``: currents of the neurons that follow.

    Args:
        body: modules in order.
        shortcut: modules in order, none for the identity. It takes spikes, unless nothing precedes it.

    Shape: input and output ``[N, T, ...]``.
    """

    def __init__(self, body: Sequence[nn.Module], shortcut: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.body, self.shortcut = nn.Sequential(*body), nn.Sequential(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, ``[N, T, ...]``."""
        return over_time(self.body, x) + over_time(self.shortcut, x)


def takes_time(module: nn.Module) -> bool:
    """Whether ``module`` takes ``[N, T, ...]``: neurons, and what contains them."""
    return isinstance(module, SpikingNeuron | Residual)


def over_time(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Run a chain on ``[N, T, ...]``: neurons through time, everything else on each step by itself."""
    for module in modules:
        if takes_time(module):
            x = module(x)
        elif x.shape[1] == 1:
            x = torch.stack([module(x[:, 0])], 1)  # which tells capture, as unsqueeze does not, that this is time
        else:
            x = module(x.flatten(0, 1)).unflatten(0, x.shape[:2])
    return x


class Network(nn.Sequential):
    """A chain of modules, stepped layer by layer over time.

    Args:
        modules: neurons of :mod:`snn2chip.nn`, :class:`Residual` and stateless torch modules, in order; the last is a
            :class:`Readout` (or ``nn.Linear``), or neurons whose spikes are counted.
        input_shape: shape of one sample at one step, ``(F,)`` or ``(C, H, W)``.
        time_steps: steps T for static input.

    Shape: ``forward`` takes ``[N, T, *input_shape]``, or ``[N, *input_shape]`` that is shown for ``time_steps`` steps,
    and returns the mean over time ``[N, classes]``; :meth:`steps` returns ``[N, T, classes]``. Everything before the
    first neuron sees a static input once, so dropout there is the same at each step.

    Example:
        >>> net = Network(nn.Linear(64, 32), LIF(0.5), Readout(32, 10), input_shape=(64,), time_steps=4)
        >>> net(torch.rand(8, 64)).shape
        torch.Size([8, 10])
    """

    def __init__(self, *modules: nn.Module, input_shape: Sequence[int], time_steps: int) -> None:
        super().__init__(*modules)
        self.input_shape = tuple(int(n) for n in input_shape)
        self.time_steps = int(time_steps)
        if len(self.input_shape) not in (1, 3) or min(self.input_shape) < 1:
            raise UsageError(f"Network: input_shape is {self.input_shape}, expected (features,) or (C, H, W)")
        if self.time_steps < 1:
            raise UsageError(f"Network: time_steps is {self.time_steps}, expected at least 1")
        # A step of training convolutions takes 10 to 40 % less on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # which torch's types leave out

    def steps(self, x: Tensor) -> Tensor:
        """Output at each step, ``[N, T, classes]``."""
        extra = x.ndim - len(self.input_shape)
        if extra not in (1, 2) or tuple(x.shape[extra:]) != self.input_shape:
            raise InputError(
                f"Network: input of shape {tuple(x.shape)}, expected (N, *{self.input_shape}) "
                f"or (N, T, *{self.input_shape})"
            )
        modules = list(self)
        if extra == 1:
            while modules and not takes_time(modules[0]):
                x = modules.pop(0)(x)
            x = x.unsqueeze(1).expand(-1, self.time_steps, *x.shape[1:])
        return over_time(modules, x)

    def forward(self, x: Tensor) -> Tensor:
        """Mean output over time, ``[N, classes]``."""
        return self.steps(x).mean(1)
