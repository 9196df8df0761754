"""Data-parallel training: processes that torchrun started, each with its share of every batch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from snn2chip.errors import EnvironmentFailure, UsageError

#: Seconds after which threads have let go of what they worked on.
RELEASED = 0.5


@dataclass(frozen=True)
class Group:
    """The processes that train together; alone: rank 0 of 1.

    Attributes:
        rank: of this process.
        size: processes.
        device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def share(self, index: Tensor) -> Tensor:
        """This process's part of a batch or data set."""
        return index[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """Sum over all processes."""
        if self.size == 1:
            return values
        values = values.to(self.device, copy=True)
        distributed.all_reduce(values)
        return values.cpu()

    def gathered(self, thing: Any) -> list[Any]:
        """What each process has, by rank."""
        if self.size == 1:
            return [thing]
        everything: list[Any] = [None] * self.size
        distributed.all_gather_object(everything, thing)
        return everything

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module with gradients averaged over all processes."""
        if self.size == 1:
            return module
        return nn.parallel.DistributedDataParallel(module, [self.device] if self.device.type == "cuda" else None)


def device_of(name: str, local_rank: int = 0) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UsageError: no such device.
        EnvironmentFailure: there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: {name!r} is unknown; auto, cpu, cuda or cuda:0") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: {name!r} is not supported; auto, cpu, cuda or cuda:0")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise EnvironmentFailure(f"device: {name}: torch sees no GPU")
        device = torch.device("cuda", local_rank if device.index is None else device.index)
        if device.index >= torch.cuda.device_count():
            raise EnvironmentFailure(f"device: {device}: torch sees {torch.cuda.device_count()} GPUs")
    return device


@contextmanager
def group(device: str = "auto") -> Iterator[Group]:
    """Join the processes that ``torchrun`` started, if it did; leave them at the end, unless they had joined before."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    own = device_of(device, int(os.environ.get("LOCAL_RANK", "0")))
    if size == 1:
        yield Group(0, 1, own)
        return
    if own.type == "cuda":
        torch.cuda.set_device(own)
    joined = not distributed.is_initialized()
    if joined:
        distributed.init_process_group("nccl" if own.type == "cuda" else "gloo")
    try:
        yield Group(distributed.get_rank(), size, own)
        if joined:
            distributed.barrier()
    finally:
        if joined:
            # Gloo's threads let go of tensors after the work is done, for which they need Python's lock; the
            # destructor keeps it while it waits for them, for ever.
            time.sleep(RELEASED)
            distributed.destroy_process_group()
