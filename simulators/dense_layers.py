"""Layers on a device, for the dense simulator: synapses with their delays, and the neurons that they drive."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from snn2chip import limits
from snn2chip.chip import AnyNeuron, Conv, Dense, InputNeurons, Layer, Sigma
from snn2chip.errors import LimitError
from snn2chip.simulators import dense_arithmetic as arithmetic
from snn2chip.simulators.dense_arithmetic import Tensor, on_device
from snn2chip.simulators.dense_neurons import Drive, State, neurons_of

Array = npt.NDArray[Any]

#: Largest magnitude of a message of 32 bits, as the user gives them and decoders send them.
LARGEST_MESSAGE = 1 << 31
_CONV_HALF = 1 << (limits.CONV_SUM_BITS - 1)


def largest_message(neuron: AnyNeuron) -> int:
    """Bound of the magnitude of what ``neuron`` sends."""
    if not neuron.graded:
        return 1
    return LARGEST_MESSAGE if isinstance(neuron, Sigma) else LARGEST_MESSAGE >> limits.STATE_EXPONENT


@dataclass(frozen=True)
class Messages:
    """Messages of a block of steps; steps that repeat are stored, and summed, once.

    Attributes:
        rows: ``[distinct steps, samples, inputs]``.
        index: which of them each step has.
    """

    rows: Tensor
    index: list[int]

    def after_silence(self) -> Messages:
        """With a silent step in front."""
        silent = torch.zeros_like(self.rows[:1])
        return Messages(torch.cat([silent, self.rows]), [0, *(i + 1 for i in self.index)])


@dataclass
class Carry:
    """What passes from one block of steps to the next: state of the neurons, and sums that are still under way.

    Attributes:
        state: of the neurons.
        late: sums that arrive in the next steps, ``[longest delay, samples, neurons]``.
    """

    state: State
    late: Tensor


@dataclass(frozen=True)
class _Part:
    """Synapses of one matrix product: those that have one delay, or the real or imaginary ones.

    Attributes:
        weight: ``[inputs, neurons]``.
        delay: how many steps later they deliver.
        inputs, neurons: which ones have such synapses; None is all.
    """

    weight: Tensor
    delay: int = 0
    inputs: Tensor | None = None
    neurons: Tensor | None = None


def _parts(layer: Dense, dtype: torch.dtype, device: torch.device) -> list[_Part]:
    if layer.imaginary is not None:
        return [_Part(on_device(weight.T, dtype, device)) for weight in (layer.weight, layer.imaginary)]
    if layer.delay is None or not layer.delay[layer.weight != 0].any():
        return [_Part(on_device(layer.weight.T, dtype, device))]
    parts = []
    for delay in np.unique(layer.delay).tolist():
        weight = np.where(layer.delay == delay, layer.weight, 0).T
        used = [np.flatnonzero(weight.any(axis)) for axis in (1, 0)]
        if len(used[0]):
            inputs, neurons = (
                None if len(chosen) == size else on_device(chosen, torch.int64, device)
                for chosen, size in zip(used, weight.shape, strict=True)
            )
            parts.append(_Part(on_device(weight[np.ix_(*used)], dtype, device), delay, inputs, neurons))
    return parts


class Stage:
    """One layer on the device, for any number of runs at once.

    Args:
        layer: the layer.
        largest: bound of its messages' magnitude.
        steps: most steps without a reset; 0 is any number.
        device: where it is computed.
    """

    def __init__(self, layer: Layer, largest: int, steps: int, device: torch.device) -> None:
        self.layer = layer
        self.size = math.prod(layer.shape)
        self.device = device
        self.bound = layer.largest_sum(largest)
        #: Type in which the previous layer's messages are taken.
        self.dtype = torch.float32 if max(self.bound, largest) < arithmetic.EXACT_IN_FLOAT32 else torch.float64
        self._parts: list[_Part] = []
        self._kernels: Tensor | None = None
        recurrent = None
        if isinstance(layer, Dense):
            matrices = [matrix for matrix in (layer.weight, layer.imaginary) if matrix is not None]
            narrow = largest < 128 and all(m.min(initial=0) >= -128 and m.max(initial=0) < 128 for m in matrices)
            if layer.recurrent is not None:
                recurrent = on_device(layer.recurrent.T, self.dtype, device)
            if narrow and self.dtype == torch.float32 and arithmetic.int8_helps(device):
                self.dtype = torch.int8
            self._parts = _parts(layer, self.dtype, device)
        elif isinstance(layer, Conv):
            self._kernels = on_device(layer.weight, self.dtype, device)
        self._wraps_sums = isinstance(layer, Conv) and self.bound >= _CONV_HALF
        self.recurrent = recurrent is not None
        self.longest_delay = max((part.delay for part in self._parts), default=0)
        self.fan_out = torch.from_numpy(layer.fan_out().reshape(-1)).to(device)
        reach = _CONV_HALF if self._wraps_sums else self.bound
        self.neurons = neurons_of(layer.neuron, layer.shape, device, reach, steps, recurrent)
        self._lock = threading.Lock()
        self._worst = [0] * len(self._parts)  # magnitude of any sum so far, by part, where one may be too large

    def rest(self, samples: int) -> Carry:
        """Before the first block."""
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        late = torch.zeros((self.longest_delay, samples, self.size), dtype=dtype, device=self.device)
        return Carry(self.neurons.rest(samples), late)

    def drive(self, messages: Messages, carry: Carry, start: int, reset_every: int) -> Drive | None:
        """What ``messages`` cause in a block of steps that starts at layer time ``start``.

        None once a sum of this layer was too large: then :meth:`check` says which was the largest, of the blocks that
        are still given as well.
        """
        layer, rows = self.layer, messages.rows
        distinct, samples, inputs = rows.shape
        if isinstance(layer, InputNeurons):
            return Drive(rows, messages.index, start, reset_every)
        flat = rows.reshape(distinct * samples, inputs)
        if isinstance(layer, Conv):
            sums = self._convolved(layer, flat).reshape(distinct, samples, self.size)
            return Drive(sums, messages.index, start, reset_every)
        of_parts = [self._product(part, flat).reshape(distinct, samples, -1) for part in self._parts]
        if self.bound >= limits.SUM_LIMIT and self._too_large(of_parts):
            return None
        if self.longest_delay:
            sums = self._delayed(of_parts, messages.index, carry)
            return Drive(sums, list(range(len(sums))), start, reset_every)
        sums = of_parts[0] if len(of_parts) == 1 else torch.cat(of_parts, dim=2)
        return Drive(sums, messages.index, start, reset_every)

    def check(self) -> None:
        """Raise :class:`LimitError` if any sum was too large, with the magnitude that the reference names."""
        for worst in self._worst:
            if worst >= limits.SUM_LIMIT:
                remedy = "lower the weights, or the scale of the graded messages"
                raise LimitError(self.layer.name, "weighted sum", worst, limits.SUM_LIMIT - 1, remedy)

    def _exactly(self, multiply: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """``multiply(rows)``, whatever the bound."""
        if self.bound < arithmetic.EXACT_IN_FLOAT64:
            return multiply(rows)
        return arithmetic.in_halves(multiply, rows)

    def _convolved(self, layer: Conv, flat: Tensor) -> Tensor:
        kernels = self._kernels
        assert kernels is not None
        rows = flat.reshape(-1, *layer.input_shape)
        sums = self._exactly(lambda some: arithmetic.convolution(some, kernels, layer), rows)
        if self._wraps_sums:
            if sums.dtype == torch.int64:
                return (sums + _CONV_HALF) % (2 * _CONV_HALF) - _CONV_HALF
            sums = sums.to(torch.float64)
            sums = sums - torch.floor((sums + _CONV_HALF) / (2 * _CONV_HALF)) * (2 * _CONV_HALF)
        return sums

    def _product(self, part: _Part, flat: Tensor) -> Tensor:
        rows = flat if part.inputs is None else flat[:, part.inputs]
        return self._exactly(lambda some: arithmetic.product(some, part.weight), rows)

    def _too_large(self, of_parts: Sequence[Tensor]) -> bool:
        """Whether a sum reached the limit, here or in a block before."""
        if of_parts[0].numel():
            ends = [torch.aminmax(sums) for sums in of_parts]
            worst = torch.stack([torch.maximum(-low, high).to(torch.int64) for low, high in ends]).tolist()
            with self._lock:
                self._worst = [max(pair) for pair in zip(self._worst, worst, strict=True)]
        return max(self._worst) >= limits.SUM_LIMIT

    def _delayed(self, of_parts: Sequence[Tensor], index: list[int], carry: Carry) -> Tensor:
        """Sums of each step, ``[steps, samples, neurons]``; what arrives later goes to ``carry``.

        The sum over all delays has the bound of the undelayed one, or was found to be below the limit for each.
        """
        steps, samples = len(index), of_parts[0].shape[1]
        total = carry.late.new_zeros((steps + self.longest_delay, samples, self.size))
        total[: self.longest_delay] = carry.late
        for part, sums in zip(self._parts, of_parts, strict=True):
            arriving = (sums if len(sums) == steps else sums[index]).to(total.dtype)
            when = total[part.delay : part.delay + steps]
            if part.neurons is None:
                when.add_(arriving)
            else:
                when.index_add_(2, part.neurons, arriving)
        carry.late = total[steps:].clone()
        return total[:steps]
