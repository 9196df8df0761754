"""The neuron laws on tensors, for the dense simulator: a block of steps, all samples and neurons of a layer at once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from snn2chip import limits
from snn2chip.chip import AnyNeuron, Delta, Neuron, Resonator, Shape, Sigma, SigmaDelta
from snn2chip.simulators.dense_arithmetic import Tensor, in_register, on_device, round_to_zero

Array = npt.NDArray[Any]
State = list[Tensor]

_STATE_UNIT = 1 << limits.STATE_SHIFT
_WRAP_BY = 2 * limits.STATE_LIMIT
_INT32_LIMIT = 1 << 31


@dataclass(frozen=True)
class Drive:
    """What reaches the neurons of a layer in a block of steps.

    Attributes:
        sums: weighted sums, ``[distinct steps, samples, neurons]``; of complex weights the real ones first, then the
            imaginary ones.
        index: which of the distinct steps each step has.
        start: layer time of the first step.
        reset_every: steps between two resets, 0 is never.
    """

    sums: Tensor
    index: list[int]
    start: int
    reset_every: int

    def every_step(self) -> Tensor:
        """The sums of each step, ``[steps, samples, neurons]``."""
        return self.sums if len(self.index) == len(self.sums) else self.sums[self.index]


class Neurons(Protocol):
    """The neurons of one layer, whose state is kept by the caller."""

    def rest(self, samples: int) -> State:
        """State at the start, each ``[samples, neurons]``."""

    def advance(self, drive: Drive, state: State, messages: Tensor, traces: tuple[Tensor, Tensor] | None) -> Tensor:
        """Compute a block of steps.

        Args:
            drive: what arrives.
            state: at the start of the block; on return, at its end.
            messages: ``[steps, samples, neurons]``, of any type that holds them; filled.
            traces: the same for u and v, int32; filled.

        Returns:
            How many samples have a message that is not 0, int64 ``[steps, neurons]``.
        """


def neurons_of(
    neuron: AnyNeuron,
    shape: Shape,
    device: torch.device,
    largest_sum: int,
    steps: int,
    recurrent: Tensor | None = None,
) -> Neurons:
    """The law of ``neuron`` for a layer of ``shape``.

    Args:
        neuron: the neurons.
        shape: of the layer.
        device: where they are computed.
        largest_sum: bound of the weighted sums' magnitude.
        steps: most steps without a reset; 0 is any number.
        recurrent: weights ``[neurons, neurons]`` from each neuron (rows), in the type of the product.
    """
    if isinstance(neuron, Neuron):
        return _CurrentBased(neuron, shape, device, largest_sum, steps, recurrent)
    if isinstance(neuron, Resonator):
        return _Resonators(neuron, shape, device)
    return _SigmaDelta(neuron, shape, device)


def _zeros(count: int, samples: int, size: int, dtype: torch.dtype, device: torch.device) -> State:
    return [torch.zeros((samples, size), dtype=dtype, device=device) for _ in range(count)]


def _parameter(values: Array, dtype: torch.dtype, device: torch.device) -> Tensor:
    """One number where all neurons have the same, else one for each."""
    flat = values.reshape(-1)
    same = bool((flat == flat[:1]).all())
    return on_device(flat[0] if same else flat, dtype, device)


class _CurrentBased:
    """:class:`~snn2chip.chip.Neuron`. State: u, v, and the last spikes where they return.

    u and v are kept in float64: a 32 bit state times a 12 bit fraction has 44 bits, 53 fit. What passes 2^31 is taken
    to int32 and wraps there, as in Lava's arrays.
    """

    def __init__(
        self,
        neuron: Neuron,
        shape: Shape,
        device: torch.device,
        largest_sum: int,
        steps: int,
        recurrent: Tensor | None,
    ) -> None:
        self._size = math.prod(shape)
        self._device = device
        self._recurrent = recurrent
        law = neuron.expanded(shape)

        def parameter(values: Array) -> Tensor:
            return _parameter(values, torch.float64, device)

        self._threshold = parameter(law["threshold"].astype(np.int64) << limits.STATE_SHIFT)
        self._bias = parameter(law["bias"].astype(np.int64) << limits.BIAS_EXPONENT)
        keep_u, keep_v = (limits.DECAY_UNITY - law[name] for name in ("current_decay", "voltage_decay"))
        # Fractions of 2^12 are exact. None: the state is forgotten.
        self._keep_u = parameter(keep_u / limits.DECAY_UNITY) if keep_u.any() else None
        self._keep_v = parameter(keep_v / limits.DECAY_UNITY) if keep_v.any() else None
        self._leaks_u = bool((keep_u != limits.DECAY_UNITY).any())
        self._leaks_v = bool((keep_v != limits.DECAY_UNITY).any())
        self._biased = bool(law["bias"].any())

        # How far u gets before it is wrapped: the sum of a geometric series, or of every step.
        least_decay = int(limits.DECAY_UNITY - keep_u.max())
        terms = [limits.DECAY_UNITY / least_decay] if least_decay else []
        terms += [steps] if steps else []
        reach = largest_sum * _STATE_UNIT * min(terms, default=math.inf)
        self._wraps = reach >= limits.STATE_LIMIT
        # One wrap brings u back within 24 bits unless more than 2^24 is added at once; only then can it pass 2^31, and
        # v with it. The half leaves room for v and the bias.
        self._overflows = largest_sum * _STATE_UNIT >= _WRAP_BY and reach >= _INT32_LIMIT // 2

    def rest(self, samples: int) -> State:
        state = _zeros(2, samples, self._size, torch.float64, self._device)
        if self._recurrent is not None:
            state += _zeros(1, samples, self._size, self._recurrent.dtype, self._device)
        return state

    def advance(self, drive: Drive, state: State, messages: Tensor, traces: tuple[Tensor, Tensor] | None) -> Tensor:
        sums, index = drive.sums, drive.index
        u, v = state[:2]
        fired = torch.empty_like(v)
        counts = torch.empty((len(index), self._size), dtype=torch.float64, device=self._device)
        for t, which in enumerate(index):
            a = sums[which]
            if self._recurrent is not None:
                a = a + state[2] @ self._recurrent
            if drive.reset_every and (drive.start + t) % drive.reset_every == 0:
                u.zero_()
                v.zero_()
            if self._keep_u is None:
                u.copy_(a).mul_(_STATE_UNIT)
            else:
                if self._leaks_u:
                    round_to_zero(u.mul_(self._keep_u), fired)
                u.add_(fired.copy_(a), alpha=_STATE_UNIT)
            if self._overflows:
                u.copy_(in_register(u))
            if self._wraps:
                # Comparisons in the type of the state: torch does not vectorise masks.
                u.sub_(torch.gt(u, limits.STATE_LIMIT, out=fired), alpha=_WRAP_BY)
                u.add_(torch.le(u, -limits.STATE_LIMIT, out=fired), alpha=_WRAP_BY)
            if self._keep_v is None:
                v.copy_(u)
            else:
                if self._leaks_v:
                    round_to_zero(v.mul_(self._keep_v), fired)
                v.add_(u)
            if self._biased:
                v.add_(self._bias)
            if self._overflows:
                v.copy_(in_register(v))
            _clip(v)
            torch.gt(v, self._threshold, out=fired)
            v.addcmul_(v, fired, value=-1)
            messages[t].copy_(fired)
            torch.sum(fired, 0, out=counts[t])
            if self._recurrent is not None:
                state[2].copy_(fired)
            if traces is not None:
                traces[0][t].copy_(u)
                traces[1][t].copy_(v)
        return counts.to(torch.int64)


def _clip(state: Tensor) -> None:
    state.clamp_(-(limits.STATE_LIMIT - 1), limits.STATE_LIMIT - 1)


class _SigmaDelta:
    """:class:`~snn2chip.chip.Delta`, ``SigmaDelta`` and ``Sigma``. State: sigma, act and residue, int32, which wraps.

    Sums over time are exact in int64 and wrap when they are taken to int32, so that of each step only the residue has
    to wait for the step before.
    """

    def __init__(self, neuron: Delta | SigmaDelta | Sigma, shape: Shape, device: torch.device) -> None:
        self._size = math.prod(shape)
        self._device = device
        self._neuron = neuron
        if isinstance(neuron, Sigma):
            return
        scale = neuron.spike_exp + limits.STATE_EXPONENT
        self._unit = 1 << scale
        self._threshold = int(neuron.threshold) << scale
        if isinstance(neuron, SigmaDelta):
            bias = neuron.expanded(shape)["bias"].astype(np.int64) << scale
            self._bias = _parameter(bias, torch.int64, device)

    def rest(self, samples: int) -> State:
        return _zeros(3, samples, self._size, torch.int32, self._device)

    def advance(self, drive: Drive, state: State, messages: Tensor, traces: tuple[Tensor, Tensor] | None) -> Tensor:
        sigma, act, residue = state
        sums = drive.every_step().to(torch.int64)
        residues = None
        if isinstance(self._neuron, Delta):
            new = (sums * self._unit).to(torch.int32)
            residues = None if traces is None else traces[0]
        else:
            total = sums.cumsum(0).add_(sigma)
            sums = total.to(torch.int32)
            sigma.copy_(sums[-1])
            if traces is not None:
                traces[0].copy_(sums)
            # The bias is added to sigma as it is before it wraps: both are taken modulo 2^32.
            new = sums if isinstance(self._neuron, Sigma) else total.add_(self._bias).to(torch.int32).clamp_(min=0)
        if traces is not None:
            traces[1].copy_(new)
        if isinstance(self._neuron, Sigma):
            messages.copy_(new)
        else:
            change = torch.diff(new, dim=0, prepend=act[None])
            act.copy_(new[-1])
            self._send(change, residue, residues)
            messages.copy_(change.bitwise_right_shift_(limits.STATE_EXPONENT))
        return torch.count_nonzero(messages, dim=1)

    def _send(self, change: Tensor, residue: Tensor, residues: Tensor | None) -> None:
        """Leave of each step's change what is sent; the rest goes to ``residue``, and of all steps to ``residues``."""
        small = torch.empty_like(residue)
        for t in range(len(change)):
            now = change[t].add_(residue)
            # The least int32 has no magnitude in int32, and so never reaches a threshold.
            torch.lt(torch.abs(now, out=small), self._threshold, out=small)
            now.sub_(torch.mul(now, small, out=residue))
            if residues is not None:
                residues[t].copy_(residue)


class _Resonators:
    """:class:`~snn2chip.chip.Resonator`. State: re and im, in float64, where 24 bits times 13 are exact."""

    def __init__(self, neuron: Resonator, shape: Shape, device: torch.device) -> None:
        self._size = math.prod(shape)
        self._device = device
        self._phase = neuron.phase
        self._threshold = int(neuron.threshold) << limits.STATE_SHIFT
        law = neuron.expanded(shape)
        self._sine, self._cosine = (
            _parameter(law[name] / limits.DECAY_UNITY, torch.float64, device) for name in ("sine", "cosine")
        )

    def rest(self, samples: int) -> State:
        return _zeros(2, samples, self._size, torch.float64, self._device)

    def advance(self, drive: Drive, state: State, messages: Tensor, traces: tuple[Tensor, Tensor] | None) -> Tensor:
        re, im = state
        new_re, new_im, term, scratch = (torch.empty_like(re) for _ in range(4))

        def turned(new: Tensor, along: Tensor, across: Tensor, sign: int, a: Tensor) -> None:
            round_to_zero(torch.mul(along, self._cosine, out=new), scratch)
            round_to_zero(torch.mul(across, self._sine, out=term), scratch)
            new.add_(term, alpha=sign)
            _clip(new.add_(term.copy_(a), alpha=_STATE_UNIT))

        for t, which in enumerate(drive.index):
            a = drive.sums[which]
            turned(new_re, re, im, -1, a[:, : self._size])
            turned(new_im, im, re, 1, a[:, self._size :])
            if self._phase:
                fired = torch.ge(new_re, self._threshold, out=term)
                fired.mul_(torch.ge(new_im, 0, out=scratch)).mul_(torch.lt(im, 0, out=scratch))
            else:
                fired = torch.ge(new_im, self._threshold, out=term)
                new_re.addcmul_(new_re, fired, value=-1)
                new_im.addcmul_(new_im, fired, value=-1).add_(fired, alpha=self._threshold - 1)
            messages[t].copy_(fired)
            re, new_re, im, new_im = new_re, re, new_im, im
            if traces is not None:
                traces[0][t].copy_(re)
                traces[1][t].copy_(im)
        state[:] = re, im
        return torch.count_nonzero(messages, dim=1)
