"""Spiking neurons as torch modules over ``[N, T, ...]``."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from snn2chip.errors import UsageError
from snn2chip.names import suggestion
from snn2chip.nn.fused import integrate
from snn2chip.nn.surrogate import SURROGATES, spike

Reset = Literal["zero", "subtract"]


class SpikingNeuron(nn.Module):
    """Current-based leaky integrate-and-fire neurons; :class:`LIF`, :class:`IF` and :class:`CubaLIF` are special cases.

    ::

        i[t] = alpha * i[t-1] + x[t] (+ recurrent(s[t-1]))
        v[t] = beta * v[t-1] + i[t]
        s[t] = v[t] > threshold
        v[t] = 0 where s[t]               reset="zero" (hard), exact on the chip
        v[t] = v[t] - threshold * s[t]    reset="subtract" (soft)

    Args:
        beta: share of the membrane potential that is left after one step, 0..1.
        alpha: share of the synaptic current that is left after one step, 0..1.
        threshold: membrane threshold, positive.
        reset: what a spike does to the membrane potential.
        surrogate: name of the surrogate derivative, see :data:`snn2chip.nn.SURROGATES`.
        recurrent: synapses from the layer to itself, one step later: ``nn.Linear(n, n, bias=False)``.

    Attributes:
        keep_potential: whether ``potential`` is kept at each call.
        potential: ``[N, T, ...]`` after the reset, of the last call; None where it is not kept.
        online: whether no gradient crosses from one step to the one before.

    Shape: input ``[N, T, ...]``, output the same, spikes of 0 and 1. State starts at rest at each call. Half precision
    is computed in float32.
    """

    def __init__(
        self,
        beta: float,
        alpha: float,
        threshold: float = 1.0,
        reset: Reset = "zero",
        surrogate: str = "triangle",
        recurrent: nn.Linear | None = None,
    ) -> None:
        super().__init__()
        if not (0 <= beta <= 1 and 0 <= alpha <= 1):
            raise UsageError(f"{type(self).__name__}: beta {beta} and alpha {alpha} must lie in 0..1")
        if threshold <= 0:
            raise UsageError(f"{type(self).__name__}: threshold {threshold} must be positive")
        if reset not in ("zero", "subtract"):
            raise UsageError(f"{type(self).__name__}: reset {reset!r} is unknown, expected 'zero' or 'subtract'")
        if surrogate not in SURROGATES:
            raise UsageError(
                f"{type(self).__name__}: surrogate {surrogate!r} is unknown{suggestion(surrogate, SURROGATES)}"
            )
        if recurrent is not None and recurrent.bias is not None:
            raise UsageError(f"{type(self).__name__}: recurrent synapses have no bias; use nn.Linear(n, n, bias=False)")
        self.beta, self.alpha, self.threshold = beta, alpha, threshold
        self.reset: Reset = reset
        self.surrogate = surrogate
        self.recurrent = recurrent
        self.keep_potential = self.online = False
        self.potential: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Spikes ``[N, T, ...]`` of currents ``[N, T, ...]``."""
        if x.dtype in (torch.float16, torch.bfloat16):  # a potential sums up many small currents
            x = x.float()
        law = self._stepped if self.recurrent is not None else self._fused
        spikes, self.potential = law(x)
        return spikes

    def _fused(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        return integrate(
            x,
            self.alpha,
            self.beta,
            self.threshold,
            self.reset == "subtract",
            SURROGATES[self.surrogate],
            self.online,
            self.keep_potential,
        )

    def _stepped(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Step by step, as recurrent synapses need it."""
        derivative = SURROGATES[self.surrogate]
        current = voltage = spikes = None
        out, potentials = [], []
        for x_t in x.unbind(1):
            if self.online and spikes is not None and voltage is not None and current is not None:
                spikes, voltage, current = spikes.detach(), voltage.detach(), current.detach()
            if self.recurrent is not None and spikes is not None:
                x_t = x_t + self.recurrent(spikes)
            current = x_t if current is None or self.alpha == 0 else self.alpha * current + x_t
            voltage = current if voltage is None else self.beta * voltage + current
            spikes = spike(voltage - self.threshold, derivative)
            voltage = voltage * (1 - spikes) if self.reset == "zero" else voltage - self.threshold * spikes
            out.append(spikes)
            potentials.append(voltage)
        return torch.stack(out, 1), torch.stack(potentials, 1) if self.keep_potential else None

    def extra_repr(self) -> str:
        """Parameters, for printing."""
        return f"beta={self.beta}, alpha={self.alpha}, threshold={self.threshold}, reset={self.reset!r}"


class LIF(SpikingNeuron):
    """Leaky integrate-and-fire: ``v[t] = beta * v[t-1] + x[t]``."""

    def __init__(
        self,
        beta: float = 0.5,
        threshold: float = 1.0,
        reset: Reset = "zero",
        surrogate: str = "triangle",
        recurrent: nn.Linear | None = None,
    ) -> None:
        super().__init__(beta, 0.0, threshold, reset, surrogate, recurrent)


class IF(SpikingNeuron):
    """Integrate-and-fire, without a leak: ``v[t] = v[t-1] + x[t]``."""

    def __init__(
        self,
        threshold: float = 1.0,
        reset: Reset = "zero",
        surrogate: str = "triangle",
        recurrent: nn.Linear | None = None,
    ) -> None:
        super().__init__(1.0, 0.0, threshold, reset, surrogate, recurrent)


class CubaLIF(SpikingNeuron):
    """Leaky integrate-and-fire with a synaptic current that decays: ``i[t] = alpha * i[t-1] + x[t]``."""

    def __init__(
        self,
        alpha: float = 0.5,
        beta: float = 0.5,
        threshold: float = 1.0,
        reset: Reset = "zero",
        surrogate: str = "triangle",
        recurrent: nn.Linear | None = None,
    ) -> None:
        super().__init__(beta, alpha, threshold, reset, surrogate, recurrent)
