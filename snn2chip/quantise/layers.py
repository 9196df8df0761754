"""One layer as integers, for given scales.

With weight scale ``W`` and message scale ``M`` (1 for spikes), one unit of the trained model is ``S = W * M`` units of
the chip's ``a``, and 64 S units of u and v:

    weight = rint(w * W)            recurrent = rint(r * S)         bias = rint(b * S)
    fires above  k = floor(theta * S), or at and above theta: k = ceil(theta * S) - 1
    decay = rint(4096 * (1 - beta))

``W`` is one number or one per row (neuron, or output channel): to scale a row, its bias and its threshold together
changes no spike. All integers of a layer may be multiplied by a power of two, which the chip keeps beside the weights:
narrow weights do not make thresholds and biases coarse. Three kinds of neurons have a form of their own:

**Memoryless membranes** (beta = 0) need ``vDecay`` 4096, the register holds 4095, so ``|v| >> 12`` of the potential
remains. Where the potential is a sum of integers (alpha is 0 or 1) all of them are doubled and the threshold becomes
the odd number ``2 k + 1``: the remainder cannot cross the gap while it is below 64 (:mod:`snn2chip.quantise.residual`).

**Reset by self-inhibition** is a memoryless membrane with ``recurrent = -theta * I``: theta * S has to be an integer,
so that the neuron fires at what it subtracts. Recurrent weights share the 8 bits with the others.

**Relays** have a weight of 64 and a threshold of 32, whatever the layer's scale.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Conv, Dense, Neuron
from snn2chip.conv import output_size
from snn2chip.errors import LimitError
from snn2chip.graph import Conv2d, Shape, per_channel, per_neuron
from snn2chip.passes import Block
from snn2chip.quantise.ranges import weight_range

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Self-inhibition of at least this is made 1, at the cost of clipped weights; narrow weights need it.
_LEAST_STEP = 0.25


def per_row(values: Array, reduce: Any) -> Array:
    """``[C, ...]`` to ``[C]`` by ``reduce``, a ufunc such as ``np.maximum``."""
    rows: Array = reduce.reduce(values.reshape(len(values), -1), axis=1)
    return rows


@dataclass(frozen=True)
class Form:
    """A block, seen as rows of weights: which kinds of neurons it has, and what bounds their scales.

    Attributes:
        bits: width of the weights, 1 to 8. One bit is a sign: -1 and 1, or 0 and 1 where no weight is negative.
        exponent: all integers of the layer are multiplied by ``2^exponent``.
        hardware_legal: ``vDecay`` stays within its register; if not, a memoryless membrane is given 4096, which Lava
            computes and no chip does.
    """

    block: Block
    bits: int = 8
    hardware_legal: bool = True
    exponent: int = 0

    @cached_property
    def shape(self) -> Shape:
        """Shape of the neurons."""
        synapse = self.block.synapse
        if not isinstance(synapse, Conv2d):
            return (len(synapse.weight),)
        kernel = synapse.weight.shape[2:]
        size = output_size(self.block.input_shape[1:], kernel, synapse.stride, synapse.padding, synapse.dilation)
        return (len(synapse.weight), *size)

    def _neurons(self, values: float | Array | None) -> Floats:
        return np.asarray(per_neuron(0.0 if values is None else values, self.shape), np.float64)

    @cached_property
    def threshold(self) -> Floats:
        """``[*shape]``; infinite where the neuron never fires."""
        return self._neurons(self.block.neuron.threshold)

    @cached_property
    def bias(self) -> Floats:
        """``[*shape]``."""
        return self._neurons(self.block.neuron.bias)

    @cached_property
    def alpha(self) -> Floats:
        """``[*shape]``."""
        return self._neurons(self.block.neuron.alpha)

    @cached_property
    def beta(self) -> Floats:
        """``[*shape]``."""
        return self._neurons(self.block.neuron.beta)

    @cached_property
    def relays(self) -> Mask:
        """``[C]``: rows that carry spikes on."""
        relays = np.zeros(self.shape[0], bool)
        relays[self.shape[0] - self.block.neuron.relays :] = True
        return relays

    @cached_property
    def silent(self) -> Mask:
        """``[C]``: rows without any weight."""
        silent = per_row(self.block.synapse.weight == 0, np.logical_and)
        if self.block.neuron.recurrent is not None:
            silent = silent & per_row(self.block.neuron.recurrent == 0, np.logical_and)
        return silent & ~self.relays

    @cached_property
    def always_on(self) -> Mask:
        """``[C]``: rows without any weight whose bias makes them fire at each step."""
        fires = self.bias >= self.threshold if self.block.neuron.inclusive else self.bias > self.threshold
        return self.silent & per_row(fires, np.logical_and)

    @cached_property
    def live(self) -> Mask:
        """``[C]``: rows whose weights need a scale."""
        return ~self.relays & ~self.silent

    def _all(self, holds: Array) -> bool:
        return bool(self.live.any()) and bool(holds[self.live].all())

    @cached_property
    def memoryless(self) -> Mask:
        """``[*shape]``: neurons, but relays, whose membrane forgets within a step."""
        forgets: Mask = np.rint(limits.DECAY_UNITY * (1 - self.beta)) > limits.HARDWARE_DECAY_MAX
        forgets &= per_channel(self.live, len(self.shape)) & np.isfinite(self.threshold)
        return forgets

    @cached_property
    def on_grid(self) -> bool:
        """Whether the current is a sum of integers: it is forgotten at once, or never decays."""
        return self._all((self.alpha == 0) | (self.alpha == 1))

    @cached_property
    def leaky(self) -> bool:
        """Whether any state decays by less than all, and so leaves the integers."""
        return bool(((self.beta > 0) & (self.beta < 1) | (self.alpha > 0) & (self.alpha < 1))[self.live].any())

    @cached_property
    def subtracts(self) -> bool:
        """Whether spikes act back on a memoryless membrane: the form of reset by subtraction."""
        return self.block.neuron.recurrent is not None and self._all(self.memoryless)

    @cached_property
    def factor(self) -> int:
        """2 where all integers are doubled so that a threshold fits between two of them, else 1."""
        return 2 if self.hardware_legal and self._all(self.memoryless) and (self.on_grid or self.subtracts) else 1

    @property
    def gain(self) -> int:
        """What all integers are multiplied by after they have been rounded."""
        return self.factor << self.exponent

    @cached_property
    def largest_exponent(self) -> int:
        """Power of two up to which weights of this width stay within the synapse's eight bits."""
        if self.subtracts:
            return 0  # the threshold is a weight, and gains nothing
        low, high = self.bounds
        if self.weights().max(initial=0) <= 0:
            return 0  # the NetX loader changes even weights that are all negative
        most = (limits.WEIGHT_MAX if low >= 0 else limits.WEIGHT_MAX >> 1) // (high * self.factor)
        return max(most, 1).bit_length() - 1

    def rounded(self, values: Array) -> Floats:
        """Weights in units of the integers as integers, before the gain."""
        low, high = self.bounds
        if self.bits == 1 and low < 0:
            return np.asarray(np.sign(values), np.float64)
        return np.asarray(np.clip(np.rint(values), low, high), np.float64)

    def weights(self, message_scale: float = 1.0) -> Floats:
        """``[C, inputs]``: all weights of each row, in units of the feed-forward ones."""
        rows = self.block.synapse.weight.reshape(self.shape[0], -1)
        recurrent = self.block.neuron.recurrent
        return rows if recurrent is None else np.concatenate([rows, recurrent * message_scale], 1)

    @cached_property
    def bounds(self) -> tuple[int, int]:
        """Least and largest integer, before they are doubled."""
        return weight_range(self.weights(), self.bits, doubled=self.factor > 1)

    def largest_scale(self, message_scale: float) -> Floats:
        """``[C]``: largest W at which thresholds and biases fit the chip's registers."""

        def bound(largest: int, values: Array) -> Floats:
            magnitude = per_row(np.abs(values), np.maximum)
            return np.divide(largest, magnitude, out=np.full(len(magnitude), np.inf), where=magnitude > 0)

        finite = np.where(np.isfinite(self.threshold), self.threshold, 0.0)
        scale = np.minimum(
            bound(limits.THRESHOLD_MAX, finite * self.gain), bound(limits.HARDWARE_BIAS_MAX // self.gain, self.bias)
        )
        if self.subtracts:
            assert self.block.neuron.recurrent is not None
            levels = self.bounds[1]
            scale = np.minimum(scale, bound(levels, finite))
            scale = np.minimum(scale, bound(levels, np.diagonal(self.block.neuron.recurrent)))
        return scale / message_scale

    def fitted(self, scale: Floats, message_scale: float, single: bool) -> Floats:
        """``[C]``: the next scales W at or below ``scale`` that registers and self-inhibition allow.

        Args:
            single: one scale for all rows that have weights; only the others may fall below it.

        Raises:
            LimitError: the self-inhibition of a reset by subtraction would round to 0.
        """
        largest = self.largest_scale(message_scale)
        scale = np.minimum(scale, largest)
        if not self.live.any():
            return scale
        if single:
            scale = np.minimum(scale[self.live].min(), largest)
        if not self.subtracts:
            return scale
        theta = self.threshold[self.live]
        theta = np.full_like(theta, theta.max()) if single else theta
        exact = theta * np.broadcast_to(scale, self.shape)[self.live] * message_scale
        if exact.min() < _LEAST_STEP or (theta * largest[self.live] * message_scale).min() < 1:
            raise LimitError(
                self.block.name,
                "self-inhibition of the reset by subtraction",
                f"{exact.min():.2g}",
                "at least 1",
                "its threshold is far below its largest weight; train with reset='zero' or smaller weights",
            )
        assert self.block.neuron.recurrent is not None
        steps = np.floor(np.maximum(_snapped(exact), 1)).astype(int)
        subtracted = np.abs(np.diagonal(self.block.neuron.recurrent)[self.live]) / theta
        if single:
            steps[:] = _even_steps(steps[0], subtracted)
        else:
            steps[:] = [_even_steps(*row) for row in zip(steps, subtracted[:, None], strict=True)]
        scale[self.live] = steps / (theta * message_scale)
        return scale


def _even_steps(most: int, shares: Array) -> int:
    """Integer of a threshold, at most ``most`` and hardly less: that of which all ``shares`` come closest to integers.

    What a spike subtracts may be less than the threshold.
    """
    steps = np.arange(most, max(1, most * 3 // 4) - 1, -1)
    parts = _snapped(steps[:, None] * shares)
    return int(steps[np.abs(parts - np.rint(parts)).max(1).argmin()])


def _snapped(values: Array) -> Floats:
    """Integers where floating-point rounding alone has moved the value off them."""
    nearest = np.rint(values)
    return np.where(np.abs(values - nearest) <= 1e-12 * np.maximum(np.abs(nearest), 1), nearest, values)


def _compact(values: Array) -> Array:
    """One number, if all are the same."""
    return values.reshape(-1)[0] if (values == values.flat[0]).all() else values


def relay_weight(form: Form, largest_message: int) -> int:
    """64, or the power of two that fits narrower weights and keeps the sums of large windows within u.

    Raises:
        LimitError: the sum of a window may wrap even so.
    """
    inputs = int((form.weights()[form.relays] != 0).sum(1).max(initial=0))
    window = inputs * largest_message
    largest = limits.STATE_LIMIT >> (limits.STATE_SHIFT + 1)
    weight = max(1 << form.bits >> 2, 1) << form.exponent
    while weight > form.gain and weight * window >= largest:
        weight >>= 1
    weight = max(weight, form.gain)
    if weight * window >= 2 * largest:
        remedy = "use fewer message bits or smaller windows"
        raise LimitError(form.block.name, "sum of a relay's inputs", weight * window, 2 * largest - 1, remedy)
    return weight


def build(
    form: Form, scale: Floats, encoding_scale: float, largest_message: int, nearest: bool = False, steps: int = 1
) -> Dense | Conv:
    """The integer layer.

    Args:
        scale: W of each row, ``[C]``.
        encoding_scale: M, messages per unit of input; 1 for spikes.
        largest_message: bound of their magnitude.
        nearest: round thresholds, as is best where leaks leave the potential between integers; otherwise the potential
            is an integer, which the threshold divides as the trained one does.
        steps: for which decays are chosen.

    Raises:
        LimitError: all weights round to zero, or a threshold is not positive.
    """
    block, axes = form.block, len(form.shape)
    synapse, neuron, name = block.synapse, block.neuron, block.name

    def integers(weight: Array, scale: Floats) -> npt.NDArray[np.int32]:
        return np.asarray(form.rounded(weight * per_channel(scale, weight.ndim)) * form.gain, np.int32)

    weight = integers(synapse.weight, scale)
    recurrent = None if neuron.recurrent is None else integers(neuron.recurrent, scale * encoding_scale)
    relay = relay_weight(form, largest_message)
    weight[form.relays] = (synapse.weight[form.relays] != 0) * relay
    dead = form.live.any() and not weight[form.live].any()
    if dead or (not weight.any() and not form.always_on.all()):  # the loader takes no matrix of zeros
        raise LimitError(
            name,
            "largest weight",
            f"0 of {form.bits} bits",
            "at least 1",
            "the layer is dead or its bias far too large",
        )
    relays = np.broadcast_to(per_channel(form.relays, axes), form.shape)
    always_on = np.broadcast_to(per_channel(form.always_on, axes), form.shape)
    unit = per_channel(scale * encoding_scale, axes)
    threshold = _thresholds(form, unit, nearest)
    threshold[relays] = relay // 2
    bias = form.factor * np.rint((form.gain // form.factor) * form.bias * unit)
    threshold[always_on & (threshold >= limits.HARDWARE_BIAS_MAX)] = 0
    bias[always_on] = threshold[always_on] + 1
    decay_max = limits.HARDWARE_DECAY_MAX if form.hardware_legal else limits.DECAY_UNITY
    current_decay = np.where(relays, limits.DECAY_UNITY, decays(form.alpha, threshold, steps))
    voltage_decay = np.minimum(decays(form.beta, threshold, steps), decay_max)
    voltage_decay[relays] = limits.HARDWARE_DECAY_MAX
    if neuron.bias is None and not always_on.any():
        bias = np.zeros(())
    elif axes == 3 and (bias == bias[:, :1, :1]).all():
        bias = bias[:, 0, 0]
    chip_neuron = Neuron.of(
        name,
        threshold=_compact(threshold).astype(np.int32),
        current_decay=_compact(current_decay).astype(np.int32),
        voltage_decay=_compact(voltage_decay).astype(np.int32),
        bias=bias.astype(np.int32),
    )
    if isinstance(synapse, Conv2d):
        return Conv(
            name,
            block.input_shape,
            weight,
            chip_neuron,
            synapse.stride,
            synapse.padding,
            synapse.dilation,
            synapse.groups,
        )
    return Dense(name, block.input_shape, weight, chip_neuron, recurrent, synapse.delay)


def _thresholds(form: Form, unit: Array, nearest: bool) -> Floats:
    """``[*shape]``, relays' and always-on neurons' aside."""
    finite = np.isfinite(form.threshold)
    scaled = _snapped(np.where(finite, form.threshold, 0.0) * unit * (form.gain // form.factor))
    if form.subtracts:
        scaled = np.rint(scaled)  # as the self-inhibition, where thresholds differ and the scale does not
    if nearest:
        found = np.rint(scaled * form.factor)
    else:
        below = np.ceil(scaled) - 1 if form.block.neuron.inclusive else np.floor(scaled)
        found = form.factor * below + (form.factor - 1)
    ordinary = per_channel(~form.relays & ~form.always_on, len(form.shape))
    if (found < 0)[ordinary & finite].any():
        worst = float(form.threshold[np.broadcast_to(ordinary & finite, form.shape)].min())
        raise LimitError(
            form.block.name,
            "threshold",
            f"{worst:g}",
            "above 0",
            "the chip's is not negative; add the difference to the bias, or train with a positive threshold",
        )
    return np.where(finite, found, float(limits.THRESHOLD_MAX))


def decays(kept: Floats, threshold: Floats, steps: int) -> Floats:
    """The integer decays that keep closest to a share ``kept`` per step, over ``steps`` steps.

    The chip rounds the state towards zero at each step, and so loses up to one more unit each time: a slightly smaller
    decay may follow the trained one better. Judged by the squared distance along a decay from the threshold.

    Args:
        kept: ``[*shape]``, 0..1.
        threshold: ``[*shape]``, mantissas; infinite ones as the register's largest.
    """
    found: Floats = np.rint(limits.DECAY_UNITY * (1 - kept))
    between = (kept > 0) & (kept < 1)
    if steps < 2 or not between.any():
        return found
    start = np.where(np.isfinite(threshold), np.maximum(threshold, 1), limits.THRESHOLD_MAX)
    start = np.minimum(start * (1 << limits.STATE_SHIFT), limits.STATE_LIMIT - 1).astype(np.int64)
    start = np.broadcast_to(start, kept.shape)
    for share in np.unique(kept[between]).tolist():
        these = kept == share
        starts, where = np.unique(start[these], return_inverse=True)
        best = np.array([_decay(share, state, steps) for state in starts.tolist()], np.float64)
        found[these] = best[where.reshape(-1)]
    return found


@functools.lru_cache(maxsize=65536)
def _decay(kept: float, start: int, steps: int) -> int:
    nearest = round(limits.DECAY_UNITY * (1 - kept))
    tried = np.arange(max(nearest - 2, 0), min(nearest + 2, limits.DECAY_UNITY) + 1)
    tried = tried[np.argsort(np.abs(tried - nearest), kind="stable")]  # the first wins a tie
    state, error = np.full(len(tried), start), np.zeros(len(tried))
    for step in range(1, min(steps, 64)):
        state = (state * (limits.DECAY_UNITY - tried)) >> 12
        error += np.square(state - start * kept**step)
    return int(tried[error.argmin()])
