"""Surrogate gradients: the derivative that stands in for that of the Heaviside step in the backward pass.

All are functions of ``x = v - threshold``, element by element. Another one is another entry of :data:`SURROGATES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def triangle(x: Tensor) -> Tensor:
    """``max(0, 1 - |x|)``, as in TET (arXiv 2202.11946)."""
    return x.abs().neg_().add_(1).clamp_(min=0)


def boxcar(x: Tensor) -> Tensor:
    """1 within 0.5 of the threshold, else 0 (STBP, arXiv 1706.02609)."""
    return (x.abs() < 0.5).to(x.dtype)


def narrow(x: Tensor) -> Tensor:
    """1 within 0.2 of the threshold, else 0, as in local tandem learning (arXiv 2210.04532)."""
    return (x.abs() < 0.2).to(x.dtype)


def atan(x: Tensor) -> Tensor:
    """Derivative of ``atan(pi x) / pi``: ``1 / (1 + (pi x)^2)``."""
    return torch.reciprocal(1 + (torch.pi * x) ** 2)


def fast_sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + 10 |x|)^2`` (SuperSpike, arXiv 1705.11146)."""
    return torch.reciprocal((1 + 10 * x.abs()) ** 2)


def s2nn(x: Tensor) -> Tensor:
    """``4 sig(4 x) (1 - sig(4 x))`` below the threshold, ``1 / (x + 1)`` from it on (S2NN, arXiv 2201.10879).

    The right branch never dies, so that neurons which fire for every input still learn.
    """
    gate = torch.sigmoid(4 * x)
    return torch.where(x < 0, 4 * gate * (1 - gate), torch.reciprocal(x.clamp(min=0) + 1))


def straight_through(x: Tensor) -> Tensor:
    """1 within 1 of the threshold, else 0: the clipped identity of binary networks (arXiv 1602.02830)."""
    return (x.abs() <= 1).to(x.dtype)


SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "triangle": triangle,
    "boxcar": boxcar,
    "narrow": narrow,
    "atan": atan,
    "fast_sigmoid": fast_sigmoid,
    "s2nn": s2nn,
    "straight_through": straight_through,
}


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, derivative: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.derivative = derivative
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradients[0] * ctx.derivative(x), None


def spike(x: Tensor, derivative: Callable[[Tensor], Tensor] = triangle) -> Tensor:
    """1 where ``x > 0`` (strictly), else 0; its gradient is ``derivative(x)``."""
    out: Tensor = _Spike.apply(x, derivative)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return out
