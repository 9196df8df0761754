"""What ``vDecay`` 4095 leaves of a potential that should be forgotten, and whether it can change a spike.

Let the potential be ``u + bias`` at each step, a multiple of 128, and the threshold ``64 vth`` with ``vth`` odd. The
remainder ``r`` of the step before changes a spike only if it crosses a gap of 64: ``r > 64`` below the threshold or
``r <= -64`` above it, where ``|r| = |v| >> 12``.

- Positive: ``v`` has not fired, so ``v <= 64 vth``, and r stays in the gap if ``vth < 4160``.
- Negative: ``v <= -2^18`` is needed. A current that is forgotten (alpha = 0) has ``v >= -64 N - 63`` with ``N`` the
  largest sum of inhibition in one step. One that never decays (alpha = 1) can sink further, but then has to rise from
  there above the threshold at once, which takes a sum of excitation ``P > 4064 + vth`` in one step.

So the weights alone prove most layers, for every input.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Conv, Dense, Encoding, Neuron
from snn2chip.graph import per_channel
from snn2chip.quantise.layers import Form
from snn2chip.simulators import event

Array = npt.NDArray[Any]

_GAP = 1 << limits.STATE_SHIFT  # half of the distance of two potentials
_TIGHT = _GAP * limits.DECAY_UNITY >> limits.STATE_SHIFT  # 2^18 in units of a: what leaves a remainder of 64


def swing(layer: Dense | Conv, encoding: Encoding) -> tuple[Array, Array]:
    """``[C]`` each: largest sums of excitation and of inhibition that one step can bring, for all inputs."""
    weight = layer.weight.reshape(len(layer.weight), -1).astype(np.int64)
    positive, negative = np.maximum(weight, 0).sum(1), np.maximum(-weight, 0).sum(1)
    up = positive * encoding.high - negative * encoding.low
    down = negative * encoding.high - positive * encoding.low
    if isinstance(layer, Dense) and layer.recurrent is not None:
        recurrent = layer.recurrent.astype(np.int64)
        up, down = up + np.maximum(recurrent, 0).sum(1), down + np.maximum(-recurrent, 0).sum(1)
    return up, down


def is_proven(form: Form, layer: Dense | Conv, encoding: Encoding) -> bool:
    """Whether no input at all can make the remainder change a spike of the memoryless neurons."""
    if form.factor == 1 or not form.on_grid:
        return False
    assert isinstance(layer.neuron, Neuron)
    up, down = (per_channel(values, len(form.shape)) for values in swing(layer, encoding))
    parameters = layer.neuron.expanded(layer.shape)
    threshold, bias = (parameters[name].astype(np.int64) for name in ("threshold", "bias"))
    below = np.minimum(threshold, np.where(form.alpha == 0, up + bias + 1, threshold)) < _TIGHT + _GAP
    above = np.where(form.alpha == 0, down - bias < _TIGHT, up <= _TIGHT - _GAP // 2 + threshold)
    return bool((below & above)[form.memoryless].all())


def inexact(form: Form, layer: Dense | Conv, encoding: Encoding, messages: Array, spikes: Array) -> list[str]:
    """What remains to be said about the layer's membranes: nothing, where they are exact.

    Args:
        messages: calibration data as the layer is given them.
        spikes: what it makes of them.
    """
    if not form.memoryless.any() or is_proven(form, layer, encoding):
        return []
    name = form.block.neuron.name
    if not form.hardware_legal:
        return [f"{name}: vDecay 4096 is what Lava computes; the chip's register holds 4095"]
    assert isinstance(layer.neuron, Neuron)
    decay = np.where(form.memoryless, limits.DECAY_UNITY, layer.neuron.voltage_decay).astype(np.int32)
    forgetful = replace(layer, neuron=replace(layer.neuron, voltage_decay=decay))
    differing = int((event.run_layer(forgetful, messages)[0] != spikes).sum())
    return [
        f"{name}: a memoryless membrane needs vDecay 4096, the register holds 4095; 1/4096 of the potential remains, "
        f"which changes {differing} of {spikes.size} spikes on the calibration data"
    ]
