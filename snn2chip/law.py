"""The integer law in plain numpy: short enough to read, and what every simulator is compared with.

Law and order of operations: Lava ``proc/lif/models.py`` (``PyLifResetModelBitAcc``), ``proc/dense/models.py``,
``proc/conv/models.py``, ``proc/sdn/models.py``, ``proc/rf/models.py`` and ``proc/rf_iz/models.py``, lava-nc 0.10.0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Delta, Dense, InputNeurons, Layer, Neuron, Resonator, Shape, Sigma, SigmaDelta
from snn2chip.conv import conv2d
from snn2chip.errors import LimitError

Int = npt.NDArray[np.int64]


def decayed(state: Int, decay: Int) -> Int:
    """``trunc0(state * (4096 - decay) / 4096)``: decay, rounded towards zero."""
    magnitude: Int = (np.abs(state) * (limits.DECAY_UNITY - decay)) >> 12
    return np.sign(state) * magnitude


def in_register(total: Int) -> Int:
    """``total`` as Lava's int32 arrays hold it: sums that pass 2^31 wrap before anything else is done to them."""
    return total.astype(np.int32).astype(np.int64)


def wrapped(u: Int) -> Int:
    """One wrap into 24 bits; 2^23 itself stays, and a value that is further out stays out."""
    u = np.where(u > limits.STATE_LIMIT, u - 2 * limits.STATE_LIMIT, u)
    return np.where(u <= -limits.STATE_LIMIT, u + 2 * limits.STATE_LIMIT, u)


def clipped(v: Int) -> Int:
    """``v`` held within +-(2^23 - 1)."""
    return np.clip(v, -(limits.STATE_LIMIT - 1), limits.STATE_LIMIT - 1)


def weighted_sums(layer: Layer, messages: Int) -> Int:
    """``a`` of the feed-forward synapses for any number of steps: ``[K, *input_shape]`` to ``[K, *shape]``.

    Products are taken in float64, exact while sums stay below 2^53. Delays, and the imaginary part of complex weights,
    are :func:`arriving`'s business.
    """
    if isinstance(layer, InputNeurons):
        return messages
    if isinstance(layer, Dense):
        return _dense_sums(layer, layer.weight, messages)
    sums = conv2d(
        messages.astype(np.float64),
        layer.weight.astype(np.float64),
        layer.stride,
        layer.padding,
        layer.dilation,
        layer.groups,
    ).astype(np.int64)
    half = 1 << (limits.CONV_SUM_BITS - 1)
    return (sums + half) % (2 * half) - half


def _dense_sums(layer: Dense, weight: npt.NDArray[np.int32], messages: Int) -> Int:
    flat = messages.reshape(len(messages), -1).astype(np.float64)
    sums: Int = (flat @ weight.T.astype(np.float64)).astype(np.int64)
    worst = int(np.abs(sums).max(initial=0))
    if worst >= limits.SUM_LIMIT:  # Lava scales weights up before it multiplies, and its int32 would wrap
        remedy = "lower the weights, or the scale of the graded messages"
        raise LimitError(layer.name, "weighted sum", worst, limits.SUM_LIMIT - 1, remedy)
    return sums


def arriving(layer: Layer, messages: Int) -> list[Int]:
    """``a`` at each step, ``[N, S, *shape]``, from messages ``[N, S, *input_shape]``; real and imaginary where complex.

    A synapse of delay d delivers the message of step t with those of step t + d: Lava ``PyDelayDenseModelBitAcc``.
    """
    samples, steps = messages.shape[:2]

    def over_time(sums: Int) -> Int:
        return sums.reshape(samples, steps, *layer.shape)

    rows = messages.reshape(samples * steps, *layer.input_shape)
    if isinstance(layer, Dense) and layer.imaginary is not None:
        return [over_time(_dense_sums(layer, weight, rows)) for weight in (layer.weight, layer.imaginary)]
    if not isinstance(layer, Dense) or layer.delay is None:
        return [over_time(weighted_sums(layer, rows))]
    total = np.zeros((samples, steps, *layer.shape), np.int64)
    for d in np.unique(layer.delay).tolist():
        sums = over_time(_dense_sums(layer, np.where(layer.delay == d, layer.weight, 0), rows))
        total[:, d:] += sums[:, : max(0, steps - d)]
    return [total]


def run_layer(layer: Layer, messages: Int, start: int = 0, reset_every: int = 0) -> tuple[Int, Int, Int]:
    """Messages, u and v of one layer, each ``[N, S, *shape]``, from messages ``[N, S, *input_shape]``.

    Args:
        start: layer time of the first step; negative while the pipeline fills.
        reset_every: u and v are cleared before each step that is a multiple of it; 0 is never. Sigma-delta and
            resonate-and-fire neurons know no reset.
    """
    sums = arriving(layer, messages)
    neuron = layer.neuron
    if isinstance(neuron, Neuron):
        return _run_neurons(layer, neuron, sums[0], start, reset_every)
    if isinstance(neuron, Resonator):
        return _run_resonators(neuron, layer.shape, sums[0], sums[1])
    return _run_sigma_delta(neuron, layer.shape, sums[0])


def _run_neurons(layer: Layer, neuron: Neuron, sums: Int, start: int, reset_every: int) -> tuple[Int, Int, Int]:
    """The law of :class:`~snn2chip.chip.Neuron`; own spikes return one step later."""
    samples, steps = sums.shape[:2]
    parameters = {name: array.astype(np.int64) for name, array in neuron.expanded(layer.shape).items()}
    threshold = parameters["threshold"] << limits.STATE_SHIFT
    bias = parameters["bias"] << limits.BIAS_EXPONENT
    recurrent = layer.recurrent.astype(np.float64) if isinstance(layer, Dense) and layer.recurrent is not None else None

    u = np.zeros((samples, *layer.shape), np.int64)
    v, spikes = np.zeros_like(u), np.zeros_like(u)
    trace_s, trace_u, trace_v = (np.empty_like(sums) for _ in range(3))
    for t in range(steps):
        a = sums[:, t]
        if recurrent is not None:
            a = a + (spikes.astype(np.float64) @ recurrent.T).astype(np.int64)
        if reset_every and (start + t) % reset_every == 0:
            u, v = np.zeros_like(u), np.zeros_like(v)
        u = wrapped(in_register(decayed(u, parameters["current_decay"]) + (a << limits.STATE_SHIFT)))
        v = clipped(in_register(decayed(v, parameters["voltage_decay"]) + u + bias))
        spikes = (v > threshold).astype(np.int64)
        v = np.where(spikes == 1, 0, v)
        trace_s[:, t], trace_u[:, t], trace_v[:, t] = spikes, u, v
    return trace_s, trace_u, trace_v


def _run_sigma_delta(neuron: Delta | SigmaDelta | Sigma, shape: Shape, sums: Int) -> tuple[Int, Int, Int]:
    """The laws of :class:`~snn2chip.chip.Delta`, ``SigmaDelta`` and ``Sigma``; int32 throughout, so that it wraps."""
    sigma = np.zeros((sums.shape[0], *shape), np.int32)
    act, residue = np.zeros_like(sigma), np.zeros_like(sigma)
    trace_s, trace_u, trace_v = (np.empty_like(sums) for _ in range(3))
    parameters = neuron.expanded(shape)
    scale = 0 if isinstance(neuron, Sigma) else neuron.spike_exp + limits.STATE_EXPONENT
    for t in range(sums.shape[1]):
        a = sums[:, t].astype(np.int32)
        if isinstance(neuron, Delta):
            new = np.left_shift(a, scale)
        else:
            sigma = sigma + a
            if isinstance(neuron, Sigma):
                trace_s[:, t] = trace_u[:, t] = trace_v[:, t] = sigma
                continue
            new = np.maximum(sigma + np.left_shift(parameters["bias"], scale), 0)
        change = new - act + residue
        act = new
        sent = np.where(np.abs(change) >= np.left_shift(parameters["threshold"], scale), change, 0)
        residue = change - sent
        trace_s[:, t] = np.right_shift(sent, limits.STATE_EXPONENT)
        trace_u[:, t], trace_v[:, t] = residue if isinstance(neuron, Delta) else sigma, act
    return trace_s, trace_u, trace_v


def _run_resonators(neuron: Resonator, shape: Shape, real: Int, imaginary: Int) -> tuple[Int, Int, Int]:
    """The law of :class:`~snn2chip.chip.Resonator`."""
    parameters = {name: array.astype(np.int64) for name, array in neuron.expanded(shape).items()}
    sine, cosine, threshold = parameters["sine"], parameters["cosine"], parameters["threshold"] << limits.STATE_SHIFT
    re = np.zeros((real.shape[0], *shape), np.int64)
    im = np.zeros_like(re)
    trace_s, trace_re, trace_im = (np.empty_like(real) for _ in range(3))

    def scaled(product: Int) -> Int:
        magnitude: Int = np.abs(product) >> 12
        return np.sign(product) * magnitude

    for t in range(real.shape[1]):
        new_re = clipped(scaled(cosine * re) - scaled(sine * im) + (real[:, t] << limits.STATE_SHIFT))
        new_im = clipped(scaled(sine * re) + scaled(cosine * im) + (imaginary[:, t] << limits.STATE_SHIFT))
        if neuron.phase:
            spikes = (new_re >= threshold) & (new_im >= 0) & (im < 0)
            re, im = new_re, new_im
        else:
            spikes = new_im >= threshold
            re, im = np.where(spikes, 0, new_re), np.where(spikes, threshold - 1, new_im)
        trace_s[:, t], trace_re[:, t], trace_im[:, t] = spikes, re, im
    return trace_s, trace_re, trace_im
