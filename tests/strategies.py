"""Hypothesis strategies for integer networks and their messages.

``chip_nets()`` draws the structure value by value, so that failures shrink; arrays come from a numpy generator whose
seed is drawn, which is fast, and noted when a test fails. Situations in which implementations part (u beyond 24 bits,
v at its clip, v exactly on the threshold, sums beyond 24 bits) are drawn on purpose; ``situations()`` counts them.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from hypothesis import note
from hypothesis import strategies as st

from snn2chip import law, limits
from snn2chip.chip import (
    AnyNeuron,
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    EncodingKind,
    InputNeurons,
    Layer,
    Neuron,
    Readout,
    Resonator,
    Shape,
    Sigma,
    SigmaDelta,
)
from snn2chip.conv import conv2d, output_size
from snn2chip.traces import Mode

Draw = Callable[..., Any]
Array = npt.NDArray[Any]
T = TypeVar("T")

UNITY = limits.DECAY_UNITY


def _often(draw: Draw, common: Sequence[T], rare: Sequence[T]) -> T:
    """One of ``common`` three times in four, else one of ``rare``."""
    chosen: T = draw(st.sampled_from(common if draw(st.integers(0, 3)) else rare))
    return chosen


@st.composite
def _generators(draw: Draw) -> np.random.Generator:
    seed = draw(st.integers(0, 2**32 - 1))
    note(f"numpy seed {seed}")
    return np.random.default_rng(seed)


def _weights(draw: Draw, rng: np.random.Generator, shape: Shape, largest: int, safe: str, full: bool = False) -> Array:
    """Random weights of magnitude at most ``largest``.

    Args:
        safe: "" for anything that a layer may hold, else what the NetX loader leaves unchanged in a matrix of kind
            "dense", "recurrent" or "conv".
        full: all of a neuron's weights at the largest magnitude, with one sign.
    """
    if full and safe != "recurrent":
        sign = np.array([1]) if safe == "dense" else rng.choice([-1, 1], shape[0])
        return np.broadcast_to(min(largest, 255) * sign.reshape(-1, *(1 for _ in shape[1:])), shape).copy()
    styles = {
        "": [(-256, 255), (-128, 127), (0, 255), (-256, 0), (-2, 2)],
        "conv": [(-256, 255), (-128, 127), (0, 255), (-2, 2)],
        "dense": [(-128, 127), (-16, 16), (-2, 2), (0, 255)],
        "recurrent": [(-127, 127), (-16, 16), (-2, 2)],
    }
    low, high = draw(st.sampled_from(styles[safe]))
    low, high = max(low, -largest), min(high, largest)
    weight = rng.integers(low, high, shape, endpoint=True)
    weight[rng.random(shape) < draw(st.sampled_from([0.0, 0.0, 0.5, 0.9]))] = 0
    flat = weight.reshape(-1)
    if safe == "recurrent" or (safe == "dense" and low < 0):
        flat[rng.integers(flat.size)] = -rng.integers(1, -low, endpoint=True)
        if flat.size > 1:
            flat[(flat.argmin() + 1) % flat.size] = rng.integers(1, high, endpoint=True)
    if safe and not (flat > 0).any():
        flat[rng.integers(flat.size)] = rng.integers(1, high, endpoint=True)
    return weight


def _decay(draw: Draw, rng: np.random.Generator, shape: Shape) -> Array | int:
    kind = draw(st.sampled_from(["memoryless", "for ever", "leaky", "each its own", "extremes"]))
    if kind == "memoryless":
        return UNITY
    if kind == "for ever":
        return 0
    if kind == "leaky":
        return int(draw(st.integers(1, UNITY - 1)))
    if kind == "extremes":
        return rng.choice([0, 1, UNITY - 1, UNITY], shape)
    return rng.integers(0, UNITY, shape, endpoint=True)


def _neuron(draw: Draw, rng: np.random.Generator, name: str, shape: Shape, scale: int, full: bool = False) -> Neuron:
    """Neurons for weighted sums of about ``scale``; ``full``: half of the time, currents that never decay."""
    top = draw(st.sampled_from([2, scale, 4 * scale, limits.THRESHOLD_MAX]))
    top = min(max(top, 1), limits.THRESHOLD_MAX)
    threshold = draw(st.integers(0, top)) if draw(st.booleans()) else rng.integers(0, top, shape, endpoint=True)
    bias: Array | int
    match draw(st.sampled_from(["none", "none", "same", "per channel", "each its own", "widest"])):
        case "none":
            bias = 0
        case "same":
            bias = draw(st.integers(-20, 20))
        case "per channel":
            bias = rng.integers(-20, 20, shape[:1], endpoint=True)
        case "each its own":
            bias = rng.integers(-(top // 2) - 1, top // 2 + 1, shape, endpoint=True).clip(-4096, 4095)
        case _:
            bias = rng.integers(limits.BIAS_MANTISSA_MIN, limits.BIAS_MANTISSA_MAX, shape, endpoint=True)
    current = 0 if full and draw(st.booleans()) else _decay(draw, rng, shape)
    return Neuron.of(name, threshold, current, _decay(draw, rng, shape), bias)


def _conv_layer(
    draw: Draw, rng: np.random.Generator, name: str, shape: Shape, message: int, safe: bool, full: bool
) -> Conv:
    channels, *size = shape
    groups = draw(st.sampled_from([g for g in range(1, channels + 1) if channels % g == 0]))
    channels_out = groups * draw(st.integers(1, 3))
    stride, padding, dilation = ((draw(st.integers(low, 3)), draw(st.integers(low, 2))) for low in (1, 0, 1))
    kernel = tuple(
        draw(st.integers(1, min(3, (n + 2 * p - 1) // d + 1)))  # no larger than the padded input
        for n, p, d in zip(size, padding, dilation, strict=True)
    )
    weight_shape = (channels_out, channels // groups, *kernel)
    largest = _largest_weight(int(np.prod(weight_shape[1:])), message)
    weight = _weights(draw, rng, weight_shape, largest, "conv" if safe else "", full)
    out = output_size(size, kernel, stride, padding, dilation)
    neuron = _neuron(draw, rng, name, (channels_out, *out), _scale(weight.reshape(channels_out, -1), message), full)
    return Conv(name, shape, weight, neuron, stride, padding, dilation, groups)


def _dense_layer(
    draw: Draw, rng: np.random.Generator, name: str, shape: Shape, message: int, safe: bool, full: bool
) -> Dense:
    inputs = int(np.prod(shape))
    neurons = _often(draw, range(2, 9), [1, 17, 40])
    recurs = draw(st.integers(0, 2)) == 0 and neurons > 1
    largest = _largest_weight(inputs * (2 if recurs else 1), message)
    if safe and recurs:
        largest = min(largest, 127)
    weight = _weights(draw, rng, (neurons, inputs), largest, ("recurrent" if recurs else "dense") if safe else "", full)
    if message == 1 << 11 and not safe:
        weight[0] = 0
        weight[0, rng.integers(inputs)] = 1 << 6  # times the largest message, and aligned to bit 6: 2^23 exactly
    recurrent = _weights(draw, rng, (neurons, neurons), 256, "recurrent" if safe else "") if recurs else None
    neuron = _neuron(draw, rng, name, (neurons,), _scale(weight, message), full)
    return Dense(name, shape, weight, neuron, recurrent)


def _largest_weight(inputs: int, message: int) -> int:
    """So that no weighted sum reaches the limit, half of it left to recurrent synapses."""
    return max(1, min(256, (limits.SUM_LIMIT - (1 << 16)) // (inputs * message)))


def _scale(weight: Array, message: int) -> int:
    return int(np.abs(weight).sum(1).mean() * max(1, message // 2) / 4) + 1


def _delayed(draw: Draw, rng: np.random.Generator, layer: Dense) -> Dense:
    """``layer`` with delays, about every other one."""
    shape, kind = layer.weight.shape, draw(st.sampled_from(["none", "none", "short", "neuron", "input", "extremes"]))
    if kind == "none" or layer.recurrent is not None:
        return layer
    if kind == "extremes":
        delay = rng.choice([0, 1, limits.DELAY_MAX], shape)
    else:
        rows, columns = {"short": shape, "neuron": (shape[0], 1), "input": (1, shape[1])}[kind]
        delay = np.broadcast_to(rng.integers(0, 6, (rows, columns)), shape)
    return dataclasses.replace(layer, delay=delay)


@st.composite
def sdnn_nets(draw: Draw, *, max_layers: int = 3, max_steps: int = 5) -> ChipNet:
    """Sigma-delta networks that the NetX loader takes unchanged; sums may be too large, which the reference reports.

    An encoder or none, convolutions and dense layers (delayed now and then) of sigma-delta neurons and, rarely, of
    spiking ones, at the end a decoder or none.
    """
    rng = draw(_generators())
    exponent = draw(st.sampled_from([6, 6, 0, 7]))
    high = draw(st.sampled_from([1, 9, 60]))
    encoding = Encoding() if high == 1 else Encoding("graded", 1.0, -high, high)
    shape: Shape = (draw(st.integers(1, 8)),)
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 2)), draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    first, layers = shape, list[Layer]()
    if draw(st.booleans()):
        layers.append(InputNeurons("input", shape, Delta.of("input", draw(st.integers(0, 4)), exponent)))
    count = draw(st.integers(1, max_layers))
    for i in range(count):
        name = f"layer{i}"
        layer: Layer
        if len(shape) == 3 and draw(st.booleans()):
            layer = _conv_layer(draw, rng, name, shape, 1, True, False)
            layer = dataclasses.replace(layer, weight=layer.weight.clip(-16, 16))
        else:
            neurons, inputs = draw(st.integers(2, 6)), int(np.prod(shape))
            weight = _weights(draw, rng, (neurons, inputs), 16, "dense")
            layer = _delayed(draw, rng, Dense(name, shape, weight, Neuron.of(name, 100, 4096, 1000)))
        bias = rng.integers(-20, 20, draw(st.sampled_from([(), layer.shape[:1], layer.shape])), endpoint=True)
        neuron: AnyNeuron = SigmaDelta.of(name, draw(st.sampled_from([0, 1, 5, 40])), bias, exponent)
        if i == count - 1 and draw(st.booleans()):
            neuron = Sigma()
        elif draw(st.integers(0, 4)) == 0:
            neuron = layer.neuron
        layers.append(dataclasses.replace(layer, neuron=neuron))
        shape = layer.shape
    steps = draw(st.integers(1, max_steps))
    return ChipNet(first, tuple(layers), encoding, Readout(), steps, steps + draw(st.sampled_from([0, 0, 2])))


@st.composite
def rf_nets(draw: Draw, *, max_layers: int = 3, max_steps: int = 12) -> ChipNet:
    """Resonate-and-fire networks that the NetX loader takes unchanged, now and then with a layer of spiking neurons."""
    rng = draw(_generators())
    high = draw(st.sampled_from([1, 1, 30, 65535]))
    encoding = Encoding() if high == 1 else Encoding("graded", 1.0, -high, high)
    first = shape = (draw(st.integers(1, 6)),)
    layers, message = list[Layer](), high
    for i in range(draw(st.integers(1, max_layers))):
        name, neurons = f"layer{i}", draw(st.integers(2, 6))
        real, imaginary = (_weights(draw, rng, (neurons, *shape), _largest_weight(9, message), "dense") for _ in "ri")
        if i and draw(st.integers(0, 4)) == 0:
            layers.append(Dense(name, shape, real, Neuron.of(name, 60, 2000, 300)))
        else:
            size = draw(st.sampled_from([(), (neurons,)]))
            angle, radius = rng.uniform(-np.pi, np.pi, size), rng.uniform(0.5, 1.0, size) * UNITY
            sine, cosine = (np.asarray(radius * f(angle)).astype(int) for f in (np.sin, np.cos))
            threshold = draw(st.integers(0, min(limits.THRESHOLD_MAX, 60 * message)))
            neuron = Resonator.of(name, threshold, sine, cosine, draw(st.booleans()))
            layers.append(Dense(name, shape, real, neuron, imaginary=imaginary))
        shape, message = (neurons,), 1
    steps = draw(st.integers(4, max_steps))
    return ChipNet(first, tuple(layers), encoding, Readout(), steps, steps + draw(st.sampled_from([0, 0, 2])))


@st.composite
def chip_nets(
    draw: Draw,
    *,
    netx_safe: bool = False,
    max_layers: int = 3,
    max_steps: int = 6,
    recurrent: bool = True,
    delays: bool = False,
) -> ChipNet:
    """Integer networks of up to ``max_layers`` layers.

    Args:
        netx_safe: only weights and biases that the NetX loader takes unchanged.
        max_layers: most layers.
        max_steps: most time steps; the window is up to 3 longer.
        recurrent: dense layers may be recurrent.
        delays: dense layers may delay messages.
    """
    rng = draw(_generators())
    # full: the largest sums that are legal; currents pass 24 bits, and 32. edge: currents of exactly +-2^23.
    scenario = draw(st.sampled_from(["plain", "plain", "plain", "full", "edge"]))
    full, edge = scenario == "full", scenario == "edge"
    kind: EncodingKind = "graded" if full or edge else draw(st.sampled_from(["spikes", "spikes", "graded", "hold"]))
    if kind == "spikes":
        encoding = Encoding()
    else:
        high = 65535 if full else 2048 if edge else draw(st.sampled_from([3, 255, 255, 2048, 65535]))
        encoding = Encoding(kind, 1.0, draw(st.sampled_from([0, -high])), high)
    shape: Shape
    if draw(st.booleans()):
        shape = (draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 6)))
    else:
        # Now and then more inputs than 16 bits can sum, as long as the sum of messages stays within limits.
        shape = (_often(draw, range(1, 13), [40, 300 if encoding.largest < 256 else 60]),)
    first, message = shape, encoding.largest
    layers: list[Layer] = []
    for i in range(draw(st.integers(1, max_layers))):
        name = f"layer{i}"
        if i == 0 and draw(st.integers(0, 5)) == 0:
            cell = _neuron(draw, rng, name, shape, message)
            if netx_safe:  # the loader never applies a bias here, the exporter refuses it
                cell = Neuron.of(name, cell.threshold, cell.current_decay, cell.voltage_decay)
            layers.append(InputNeurons(name, shape, cell))
        elif len(shape) == 3 and draw(st.integers(0, 3)) and not (edge and i == 0):
            layers.append(_conv_layer(draw, rng, name, shape, message, netx_safe, full and i == 0))
        else:
            dense = _dense_layer(draw, rng, name, shape, message, netx_safe, full and i == 0)
            dense = dense if recurrent else Dense(name, shape, dense.weight, dense.neuron)
            layers.append(_delayed(draw, rng, dense) if delays else dense)
        shape, message = layers[-1].shape, 1
    steps = 1 if kind == "hold" and draw(st.booleans()) else draw(st.integers(1, max_steps))
    window = steps + draw(st.sampled_from([0, 0, 1, 3]))
    readout = Readout(draw(st.sampled_from(["count", "potential"])))
    return ChipNet(first, tuple(layers), encoding, readout, steps, window)


@st.composite
def messages_for(draw: Draw, net: ChipNet, max_samples: int = 3) -> npt.NDArray[np.int32]:
    """Messages ``[N, T, *input_shape]`` as ``net``'s encoding makes them, from silent to full, static or not."""
    rng = draw(_generators())
    samples, encoding = draw(st.integers(1, max_samples)), net.encoding
    wide = encoding.largest >= 1 << 11
    density = draw(st.sampled_from([0.5, 1.0, 1.0] if wide else [0.0, 0.1, 0.3, 0.6, 0.9, 1.0]))
    steps = 1 if encoding.kind == "hold" else net.time_steps
    shape = (samples, steps, *net.input_shape)
    match draw(st.sampled_from(["any", "extremes", "extremes" if wide else "small"])):
        case "any":
            values = rng.integers(encoding.low, encoding.high, shape, endpoint=True)
        case "extremes":
            values = rng.choice([encoding.low or encoding.high, encoding.high], shape)
        case _:
            values = rng.integers(max(encoding.low, -2), min(encoding.high, 2), shape, endpoint=True)
    messages = np.where(rng.random(shape) < density, values, 0).astype(np.int32)
    if encoding.kind == "graded" and draw(st.booleans()):
        messages[:] = messages[:, :1]  # direct coding: the same at each step
    return messages


#: What :func:`situations` looks for.
SITUATIONS = (
    "u wraps from above",
    "u wraps from below",
    "u stays at 2^23",
    "u passes 2^31",
    "u stays beyond 24 bits",
    "v clips above",
    "v clips below",
    "v on the threshold",
    "conv sum wraps",
    "decay truncates a negative u",
    "decay truncates a negative v",
    "own spikes return",
    "spikes cross a window",
    "warm-up spikes",
    "denser than one half",
    "graded step repeats",
)


def situations(net: ChipNet, messages: Array, mode: Mode) -> Counter[str]:
    """How many (neuron, step) pairs, or steps, of this run are in each of :data:`SITUATIONS`."""
    seen: Counter[str] = Counter()
    samples = len(messages)
    current = np.zeros((samples, net.window, *net.input_shape), np.int64)
    current[:, : messages.shape[1]] = messages
    if mode != "isolated":
        current = current.reshape(1, -1, *net.input_shape)
    reset_every, start = (net.window if mode == "windowed" else 0), 0
    top = limits.STATE_LIMIT
    for layer in net.layers:
        if mode != "isolated" and not isinstance(layer, InputNeurons):
            start -= 1
            current = np.concatenate([np.zeros_like(current[:, :1]), current], 1)
        spikes, u, v = law.run_layer(layer, current, start, reset_every)
        rows = current.reshape(-1, *layer.input_shape)
        sums = law.weighted_sums(layer, rows).reshape(u.shape)
        steps = u.shape[1]
        if isinstance(layer, Dense) and layer.recurrent is not None:
            back = spikes[:, :-1] @ layer.recurrent.T.astype(np.int64)
            sums[:, 1:] += back
            seen["own spikes return"] += np.count_nonzero(back)
            crossing = [t for t in range(1, steps) if reset_every and (start + t) % reset_every == 0]
            seen["spikes cross a window"] += np.count_nonzero(spikes[:, [t - 1 for t in crossing]])
        if isinstance(layer, Conv):
            flat = layer.weight.reshape(layer.shape[0], -1)
            if np.abs(flat).sum() * np.abs(rows).max(initial=0) >= 1 << 23:
                exact = conv2d(
                    rows.astype(float),
                    layer.weight.astype(float),
                    layer.stride,
                    layer.padding,
                    layer.dilation,
                    layer.groups,
                ).reshape(u.shape)
                seen["conv sum wraps"] += np.count_nonzero(exact != sums)
        parameters = {name: p.astype(np.int64) for name, p in layer.neuron.expanded(layer.shape).items()}
        for t in range(steps):
            cleared = t == 0 or (reset_every and (start + t) % reset_every == 0)
            u_before, v_before = (np.zeros_like(x[:, 0]) if cleared else x[:, t - 1] for x in (u, v))
            keep_u, keep_v = UNITY - parameters["current_decay"], UNITY - parameters["voltage_decay"]
            raw = law.decayed(u_before, parameters["current_decay"]) + (sums[:, t] << 6)
            seen["u passes 2^31"] += np.count_nonzero(np.abs(raw) >= 1 << 31)
            seen["u wraps from above"] += np.count_nonzero(raw > top)
            seen["u wraps from below"] += np.count_nonzero(raw <= -top)
            seen["u stays at 2^23"] += np.count_nonzero(raw == top)
            seen["u stays beyond 24 bits"] += np.count_nonzero(np.abs(u[:, t]) > top)
            seen["decay truncates a negative u"] += np.count_nonzero((u_before < 0) & (u_before * keep_u % UNITY != 0))
            seen["decay truncates a negative v"] += np.count_nonzero((v_before < 0) & (v_before * keep_v % UNITY != 0))
            full = law.decayed(v_before, parameters["voltage_decay"]) + u[:, t] + (parameters["bias"] << 6)
            seen["v clips above"] += np.count_nonzero(full >= top)
            seen["v clips below"] += np.count_nonzero(full <= -top)
            on = (full == parameters["threshold"] << 6) & (full != 0)
            assert not spikes[:, t][on].any()
            seen["v on the threshold"] += np.count_nonzero(on)
        seen["warm-up spikes"] += np.count_nonzero(spikes[:, : max(0, -start)])
        steps_in = current.reshape(current.shape[0], current.shape[1], -1)
        seen["denser than one half"] += np.count_nonzero((steps_in != 0).mean(2) > 0.5)
        if layer is net.layers[0]:
            graded = ((steps_in != 0) & (steps_in != 1)).any(2)
            repeats = (steps_in[:, 1:] == steps_in[:, :-1]).all(2)
            seen["graded step repeats"] += np.count_nonzero(graded[:, 1:] & repeats)
        current = spikes
    return +seen
