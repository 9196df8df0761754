"""The integer law in plain numpy: short enough to read, and what every other simulator is compared with.

Law and order of operations: Lava ``proc/lif/models.py`` (``PyLifResetModelBitAcc``), ``proc/dense/models.py`` and
``proc/conv/models.py``, lava-nc 0.10.0.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, InputNeurons, Layer
from snn2chip.conv import conv2d
from snn2chip.traces import Mode, Record, Traces, check_mode, padded

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

    Products are taken in float64, exact while sums stay below 2^53.
    """
    if isinstance(layer, InputNeurons):
        return messages
    if isinstance(layer, Dense):
        flat = messages.reshape(len(messages), -1).astype(np.float64)
        return (flat @ layer.weight.T.astype(np.float64)).astype(np.int64)
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


def run_layer(layer: Layer, messages: Int, start: int = 0, reset_every: int = 0) -> tuple[Int, Int, Int]:
    """Spikes, u and v of one layer, each ``[N, S, *shape]``, from messages ``[N, S, *input_shape]``.

    Args:
        start: layer time of the first step; negative while the pipeline fills.
        reset_every: u and v are cleared before each step that is a multiple of it; 0 is never.
    """
    samples, steps = messages.shape[:2]
    sums = weighted_sums(layer, messages.reshape(samples * steps, *layer.input_shape))
    sums = sums.reshape(samples, steps, *layer.shape)
    parameters = {name: array.astype(np.int64) for name, array in layer.neuron.expanded(layer.shape).items()}
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


def run(net: ChipNet, messages: npt.NDArray[np.int32], mode: Mode = "isolated", record: Record | None = None) -> Traces:
    """Simulate ``net`` on ``messages`` ``[N, T, *input_shape]``; see :mod:`snn2chip.traces` for the contract.

    In the modes ``windowed`` and ``streaming`` all samples form one run. As in Lava, layer k (0 is the first that costs
    a step) starts k + 1 steps before its data arrive: biases integrate meanwhile, and what it fires then is delivered.
    """
    check_mode(mode)
    record = record or Record.readout(net)
    current: Int = padded(net, messages).astype(np.int64)
    samples, window = current.shape[:2]
    began = time.perf_counter()
    chained = mode != "isolated"
    if chained:
        current = current.reshape(1, samples * window, *net.input_shape)
    reset_every = window if mode == "windowed" else 0
    start = 0
    out = Traces({}, {}, {}, {})
    operations = 0
    for layer in net.layers:
        arrived = np.count_nonzero(current[:, -start:], axis=(0, 1))
        operations += int((arrived * layer.fan_out()).sum())
        if chained and not isinstance(layer, InputNeurons):
            start -= 1
            current = np.concatenate([np.zeros_like(current[:, :1]), current], axis=1)
        spikes, u, v = run_layer(layer, current, start, reset_every)
        kept = {
            name: array[:, -start:].reshape(samples, window, *layer.shape)
            for name, array in (("s", spikes), ("u", u), ("v", v))
        }
        out.spike_counts[layer.name] = int(kept["s"].sum())
        if isinstance(layer, Dense) and layer.recurrent is not None:
            operations += out.spike_counts[layer.name] * layer.shape[0]
        if layer.name in record.spikes:
            out.spikes[layer.name] = kept["s"].astype(np.uint8)
        if layer.name in record.states:
            out.u[layer.name], out.v[layer.name] = kept["u"].astype(np.int32), kept["v"].astype(np.int32)
        current = spikes
    seconds = time.perf_counter() - began
    return Traces(out.spikes, out.u, out.v, out.spike_counts, operations, seconds)
