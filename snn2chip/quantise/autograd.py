"""The integer law as a torch operation: exact integers forwards, surrogate gradients backwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from snn2chip import limits


@dataclass(frozen=True)
class Law:
    """Neurons of one layer; tensors ``[*shape]``, float64 integers unless said otherwise.

    Attributes:
        threshold: in units of v (shifted).
        current, voltage: ``4096 - decay``.
        unit: of u and v, for one unit of the trained model's potential.
        wraps: whether u may leave its 24 bits.
        conv_wraps: whether the sums may leave the 24 bits that Lava's Conv holds them in.
        derivative: surrogate of the spike's derivative, of the distance to the threshold in the trained model's units.
    """

    threshold: Tensor
    current: Tensor
    voltage: Tensor
    unit: Tensor
    wraps: bool
    conv_wraps: bool
    derivative: Callable[[Tensor], Tensor]


def decayed(state: Tensor, kept: Tensor) -> Tensor:
    """``trunc0(state * kept / 4096)``; exact, as products stay below 2^53."""
    return torch.trunc(state * kept / limits.DECAY_UNITY)


def _modulo(x: Tensor, bits: int) -> Tensor:
    half = float(1 << (bits - 1))
    return torch.remainder(x + half, 2 * half) - half


def _wrapped(u: Tensor) -> Tensor:
    """As :func:`snn2chip.law.wrapped` after ``in_register``."""
    u = _modulo(u, 32)
    u = torch.where(u > limits.STATE_LIMIT, u - 2 * limits.STATE_LIMIT, u)
    return torch.where(u <= -limits.STATE_LIMIT, u + 2 * limits.STATE_LIMIT, u)


class _Run(torch.autograd.Function):
    """Spikes and potentials of sums ``a`` ``[N, T, *shape]``; see :class:`snn2chip.chip.Neuron` for the law.

    Backward, from the last step to the first, in units of the trained model (``x`` the distance to the threshold
    before the reset, ``v-`` the potential there, truncation and limits passed over)::

        dv[t]  += voltage dv-[t+1]
        ds[t]  += recurrent^T da[t+1]
        dv-[t]  = (ds[t] - v-[t] dv[t]) surrogate(x[t]) + (1 - s[t]) dv[t]
        du[t]   = dv-[t] + current du[t+1],    da[t] = du[t],    dbias = sum dv-[t]
    """

    @staticmethod
    def forward(
        ctx: Any, sums: Tensor, bias: Tensor, recurrent: Tensor | None, law: Law, last: bool
    ) -> tuple[Tensor, Tensor]:
        samples, steps = sums.shape[:2]
        shift, top = float(1 << limits.STATE_SHIFT), float(limits.STATE_LIMIT - 1)
        added = bias.double() * shift
        u: Tensor | None = None
        v = s = torch.zeros((samples, *sums.shape[2:]), dtype=torch.float64, device=sums.device)
        weight = None if recurrent is None else recurrent.double().T
        memoryless = not bool(law.current.any())
        spikes = sums.new_empty(sums.shape)
        reached = torch.empty_like(spikes)
        potentials = torch.empty(sums.shape if not last else (samples, 0), dtype=torch.float64, device=sums.device)
        for t in range(steps):
            a = sums[:, t].double()
            if law.conv_wraps:
                a = _modulo(a, limits.CONV_SUM_BITS)
            if weight is not None and t:
                a = a + s @ weight
            total = a * shift
            if u is not None and not memoryless:
                total += decayed(u, law.current)
            u = _wrapped(total) if law.wraps else total
            v = (decayed(v, law.voltage) + u + added).clamp_(-top, top)
            above = v - law.threshold
            s = (above > 0).double()
            v = v * (1 - s)
            spikes[:, t] = s
            reached[:, t] = above / law.unit
            if not last:
                potentials[:, t] = v
        ctx.save_for_backward(spikes, reached, recurrent)
        ctx.law = law
        ctx.bias_shape = bias.shape
        ctx.set_materialize_grads(False)
        return spikes, v if last else potentials

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def backward(ctx: Any, ds: Tensor | None, dv: Tensor | None) -> tuple[Tensor | None, ...]:
        spikes, reached, recurrent = ctx.saved_tensors
        law: Law = ctx.law
        if ds is None and dv is None:
            return (None,) * 5
        kind = spikes.dtype
        unit = law.unit.to(kind)
        theta = (law.threshold / law.unit).to(kind)
        current, voltage = ((kept / limits.DECAY_UNITY).to(kind) for kept in (law.current, law.voltage))
        slope = law.derivative(reached)
        per_sum = (1 << limits.STATE_SHIFT) / unit  # of u's trained units, per unit of a
        steps = spikes.shape[1]
        d_sums = torch.empty_like(spikes)
        d_recurrent = None if recurrent is None else torch.zeros_like(recurrent)
        before: Tensor | None = None  # of v before the reset, one step later
        du: Tensor | None = None
        total_bias: Tensor | None = None
        for t in reversed(range(steps)):
            s = spikes[:, t]
            carried = None if before is None else voltage * before
            if dv is not None and dv.ndim == spikes.ndim:
                own = dv[:, t].to(kind) * unit
                carried = own if carried is None else carried + own
            elif dv is not None and t == steps - 1:
                carried = dv.to(kind) * unit
            d_spike = None if ds is None else ds[:, t]
            if recurrent is not None and t + 1 < steps:
                back = d_sums[:, t + 1] @ recurrent.to(kind)
                d_spike = back if d_spike is None else d_spike + back
                assert d_recurrent is not None
                d_recurrent += (d_sums[:, t + 1].T @ s).to(d_recurrent.dtype)
            if carried is None:
                before = slope[:, t] * d_spike if d_spike is not None else torch.zeros_like(s)
            else:
                lost = (reached[:, t] + theta) * carried
                before = ((-lost if d_spike is None else d_spike - lost) * slope[:, t]).add_((1 - s) * carried)
            du = before if du is None else before + current * du
            d_sums[:, t] = du * per_sum
            total_bias = before if total_bias is None else total_bias + before
        assert total_bias is not None  # there is at least one step
        d_bias = (total_bias * per_sum).sum(0)
        d_bias = d_bias.sum() if len(ctx.bias_shape) == 0 else d_bias.sum_to_size(ctx.bias_shape)
        return d_sums, d_bias.double(), d_recurrent, None, None


def run(sums: Tensor, bias: Tensor, recurrent: Tensor | None, law: Law, last: bool = True) -> tuple[Tensor, Tensor]:
    """Spikes ``[N, T, *shape]``, and v after the reset.

    Args:
        sums: weighted sums ``[N, T, *shape]``, whole numbers.
        bias: mantissas, ``[]``, ``[*shape]``, or what broadcasts to it.
        recurrent: ``[neurons, neurons]``, or None.
        last: return v of the last step alone, ``[N, *shape]``, instead of all ``[N, T, *shape]``; float64.
    """
    spikes, v = _Run.apply(sums, bias, recurrent, law, last)  # type: ignore[no-untyped-call]
    return spikes, v


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, integers: Tensor) -> Tensor:
        return integers.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def straight_through(value: Tensor, integers: Tensor) -> Tensor:
    """``integers``, exactly, with the gradient of ``value``."""
    out: Tensor = _Straight.apply(value, integers)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return out
