"""Augmentations of a batch ``[N, ..., H, W]``: each sample draws its own, the same for all its steps and channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from snn2chip.errors import UsageError
from snn2chip.names import suggestion


def moved(x: Tensor, most: int) -> Tensor:
    """Up to ``most`` pixels in each direction; what comes in is 0. With 4 the random crop of CIFAR."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (most,) * 4)
    by = torch.randint(0, 2 * most + 1, (2, len(x), 1), device=x.device)
    rows = by[0] + torch.arange(height, device=x.device)
    columns = by[1] + torch.arange(width, device=x.device)
    samples = torch.arange(len(x), device=x.device)[:, None, None]
    flat = padded.flatten(1, -3) if x.ndim > 3 else padded[:, None]
    return flat[samples, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).reshape(x.shape)


def flipped(x: Tensor) -> Tensor:
    """Every second sample, by chance, left to right."""
    chosen = torch.rand(len(x), *(1,) * (x.ndim - 1), device=x.device) < 0.5
    return torch.where(chosen, x.flip(-1), x)


def cut_out(x: Tensor) -> Tensor:
    """A square of half the side is 0, at a random place that may lie partly outside (arXiv 1708.04552)."""
    height, width = x.shape[-2:]
    middle = torch.rand(2, len(x), 1, device=x.device)
    rows = (torch.arange(height, device=x.device) - middle[0] * height).abs() < height / 4
    columns = (torch.arange(width, device=x.device) - middle[1] * width).abs() < width / 4
    hole = rows[:, :, None] & columns[:, None, :]
    return x * (~hole).reshape(len(x), *(1,) * (x.ndim - 3), height, width)


#: By name: TET has crop, flip and cutout on CIFAR-10, flip and roll on DVS-CIFAR10, the others crop and flip.
AUGMENTATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": lambda x: moved(x, 2),
    "crop": lambda x: moved(x, 4),
    "roll": lambda x: moved(x, 5),
    "flip": flipped,
    "cutout": cut_out,
}


def augmentation(names: Sequence[str]) -> Callable[[Tensor], Tensor]:
    """One after the other.

    Raises:
        UsageError: there is no such augmentation.
    """
    unknown = [name for name in names if name not in AUGMENTATIONS]
    if unknown:
        raise UsageError(f"augmentation: {', '.join(unknown)} unknown{suggestion(unknown[0], AUGMENTATIONS)}")

    def augmented(x: Tensor) -> Tensor:
        if names and x.ndim < 4:
            raise UsageError(f"augmentation: samples of shape {tuple(x.shape[1:])} are no images")
        for name in names:
            x = AUGMENTATIONS[name](x)
        return x

    return augmented
