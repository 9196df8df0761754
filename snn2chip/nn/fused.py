"""Neurons over all steps in one autograd operation: one tensor is kept beside the spikes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Numbers in a step below which the surrogate of all steps is computed at once; larger steps stay in the cache.
SMALL = 1 << 14


class _Integrate(torch.autograd.Function):
    """``i = alpha i + x;  u = beta v + i;  s = u > threshold;  v = u (1 - s)``, or ``v = u - threshold s``.

    Backward, from the last step to the first, with ``ds``, ``dv`` the gradients of what is returned::

        dv[t] += beta * du[t+1]
        du[t]  = (ds[t] - u[t] dv[t]) * surrogate(u[t] - threshold) + (1 - s[t]) dv[t]           reset to zero
        du[t]  = (ds[t] - threshold dv[t]) * surrogate(u[t] - threshold) + dv[t]                 by subtraction
        di[t]  = du[t] + alpha di[t+1],   dx[t] = di[t]

    ``online`` leaves out what comes from t + 1.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        alpha: float,
        beta: float,
        threshold: float,
        subtract: bool,
        derivative: Callable[[Tensor], Tensor],
        online: bool,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        steps = x.shape[1]
        reached = torch.empty_like(x) if steps > 1 else x
        spikes = torch.empty_like(x)
        kept = torch.empty_like(x) if keep else x.new_empty(0)
        v: Any = None
        i: Any = None
        for t in range(steps):
            u, s = reached[:, t], spikes[:, t]
            i = alpha * i + x[:, t] if alpha != 0 and i is not None else x[:, t]
            if v is not None:
                torch.add(torch.mul(v, beta, out=v), i, out=u)  # rounds as beta * v + i does
            elif steps > 1:
                u.copy_(i)
            torch.sub(u, threshold, out=s).sign_().clamp_(min=0)  # u > threshold, three times as fast as gt into floats
            if keep or t + 1 < steps:
                v = torch.sub(u, s, alpha=threshold, out=v) if subtract else torch.addcmul(u, u, s, value=-1, out=v)
            if keep:
                kept[:, t] = v
        ctx.save_for_backward(reached, spikes)  # the next layer keeps the spikes anyway
        ctx.law = (alpha, beta, threshold, subtract, derivative, online)
        ctx.set_materialize_grads(False)
        return spikes, kept

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]  # torch leaves it untyped
    def backward(ctx: Any, ds: Tensor | None, dv: Tensor | None) -> tuple[Tensor | None, ...]:
        reached, spikes = ctx.saved_tensors
        alpha, beta, threshold, subtract, derivative, online = ctx.law
        if ds is None and dv is None:
            return (None,) * 8
        whole = derivative(reached - threshold) if reached[:, 0].numel() < SMALL else None
        out = torch.empty_like(reached)
        du = di = None
        for t in reversed(range(reached.shape[1])):
            u = reached[:, t]
            target = out[:, t] if alpha == 0 or online else None
            slope = whole[:, t] if whole is not None else derivative(u - threshold)
            carried = None if dv is None else dv[:, t]
            if du is not None and beta != 0 and not online:
                carried = beta * du if carried is None else torch.add(carried, du, alpha=beta)
            if carried is None:
                assert ds is not None
                du = torch.mul(ds[:, t], slope, out=target)
            else:
                lost = torch.mul(carried, threshold if subtract else u, out=target)
                du = torch.neg(lost, out=lost) if ds is None else torch.sub(ds[:, t], lost, out=lost)
                du.mul_(slope)
                du.add_(carried)
                if not subtract:
                    du.addcmul_(carried, spikes[:, t], value=-1)
            if target is None:
                di = du if di is None else torch.add(du, di, alpha=alpha)
                out[:, t] = di
        return (out, *(None,) * 7)


def integrate(
    x: Tensor,
    alpha: float,
    beta: float,
    threshold: float,
    subtract: bool,
    derivative: Callable[[Tensor], Tensor],
    online: bool = False,
    keep: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Spikes ``[N, T, ...]`` of currents ``x`` ``[N, T, ...]`` and, with ``keep``, potentials after the reset.

    The law is that of :class:`snn2chip.nn.SpikingNeuron`; gradients flow through the reset as well. A second derivative
    is refused by torch.
    """
    spikes, potential = _Integrate.apply(x, alpha, beta, threshold, subtract, derivative, online, keep)  # type: ignore[no-untyped-call]
    return spikes, potential if keep else None
