"""Surrogate gradients: the derivative that stands in for that of the Heaviside step in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def triangle(x: Tensor) -> Tensor:
    """``max(0, 1 - |x|)``, as in TET (arXiv 2202.11946)."""
    return torch.clamp(1 - x.abs(), min=0)


def boxcar(x: Tensor) -> Tensor:
    """1 within 0.5 of the threshold, else 0 (STBP, arXiv 1706.02609)."""
    return (x.abs() < 0.5).to(x.dtype)


def atan(x: Tensor) -> Tensor:
    """Derivative of ``atan(pi x) / pi``: ``1 / (1 + (pi x)^2)``."""
    return torch.reciprocal(1 + (torch.pi * x) ** 2)


def fast_sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + 10 |x|)^2`` (SuperSpike, arXiv 1705.11146)."""
    return torch.reciprocal((1 + 10 * x.abs()) ** 2)


SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "triangle": triangle,
    "boxcar": boxcar,
    "atan": atan,
    "fast_sigmoid": fast_sigmoid,
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
