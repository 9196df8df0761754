"""Second-order rounding: each weight's rounding error is made up for by the weights that are rounded after it.

Rounding to the nearest integer minimises the error of each weight. What matters is the error of the current that the
weights cause together on real inputs, ``(w - q) H (w - q)`` with ``H`` the second moments of the inputs. Column by
column, the error of one weight is carried to those still to come by the inverse of ``H`` (GPTQ, arXiv
2210.17323). Here the inputs are what the quantised layers before really send, seen through the membrane's leak:
``z[t] = beta z[t-1] + x[t]``. A constant input stands for the bias, comes last and is not rounded to a weight, so that
it takes up the mean error: that is bias correction.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.graph import Conv2d, per_channel, per_neuron
from snn2chip.passes import Block
from snn2chip.quantise.layers import Floats, Form

Array = npt.NDArray[Any]

#: Rows of data that moments are taken of, picked at random (always the same) where there are more.
ROWS = 32768
#: Inputs of one neuron beyond which weights are rounded to the nearest: the inverse of ``H`` would take too long.
INPUTS_MAX = 2304
#: Added to the diagonal of ``H``, as a share of its mean.
DAMPING = 0.01


@dataclass(frozen=True)
class Moments:
    """Second moments of what a group of neurons is given; the constant input, if any, is the last.

    Attributes:
        given: ``[n, n]``, of the inputs on the chip.
        missing: ``[n, n]``, of (trained inputs - inputs on the chip) with the inputs on the chip.
    """

    given: Floats
    missing: Floats


@dataclass(frozen=True)
class Rounding:
    """Rounds the weights of one layer.

    Attributes:
        moments: one for each group of a convolution.
        constant: whether there is a constant input, the bias.
    """

    form: Form
    moments: tuple[Moments, ...]
    constant: bool

    @staticmethod
    def of(form: Form, messages: Array, wanted: Array) -> Rounding | None:
        """None where weights have delays, or too many inputs.

        Args:
            messages: ``[N, T, *input_shape]`` that the chip's layer is given.
            wanted: the same for the trained layer, in the same units.
        """
        synapse = form.block.synapse
        inputs = int(np.prod(synapse.weight.shape[1:]))
        delayed = not isinstance(synapse, Conv2d) and synapse.delay is not None
        if inputs > INPUTS_MAX or not form.live.any() or delayed:
            return None
        alpha, beta = (float(values[form.live].mean()) for values in (form.alpha, form.beta))
        constant = not form.alpha.any()
        groups = []
        parts = (_inputs(form.block, _leaky(x, alpha, beta)) for x in (messages, wanted))
        for seen, aimed in zip(*parts, strict=True):
            missing = aimed - seen
            if constant:
                level = np.array([_leaky(np.ones((1, messages.shape[1])), alpha, beta).mean()])
                seen = np.concatenate([seen, np.broadcast_to(level, (len(seen), 1))], 1)
                missing = np.concatenate([missing, np.zeros((len(seen), 1))], 1)
            groups.append(Moments(seen.T @ seen / len(seen), missing.T @ seen / len(seen)))
        return Rounding(form, tuple(groups), constant)

    def block(self, scale: Floats, message_scale: float, repair: float) -> Block:
        """The block with weights that are integers at these scales, and its bias corrected.

        Args:
            scale: W of each row, ``[C]``.
            message_scale: messages per unit of input.
            repair: how far the weights first move towards what makes up for the errors of the layers before, 0 to 1.
        """
        form = self.form
        weight = form.block.synapse.weight
        rows = weight.reshape(len(weight), -1) * scale[:, None]
        found, bias = np.array(rows), np.zeros(len(rows))
        size = len(rows) // len(self.moments)
        for i, moments in enumerate(self.moments):
            part = np.arange(i * size, (i + 1) * size)
            part = part[form.live[part]]
            if len(part):
                found[part], bias[part] = self._rounded(rows[part], moments, repair)
        safe = np.where(scale > 0, scale, 1.0)
        synapse = replace(form.block.synapse, weight=(found / safe[:, None]).reshape(weight.shape))
        neuron = form.block.neuron
        if bias.any():
            shift = bias / (safe * message_scale)
            if neuron.bias is None or np.ndim(neuron.bias) < 2:
                old = 0.0 if neuron.bias is None else np.asarray(neuron.bias)
                neuron = replace(neuron, bias=old + shift)
            else:
                shape = form.shape
                neuron = replace(neuron, bias=per_neuron(neuron.bias, shape) + per_channel(shift, len(shape)))
        return replace(form.block, synapse=synapse, neuron=neuron)

    def _rounded(self, rows: Floats, moments: Moments, repair: float) -> tuple[Floats, Floats]:
        n = rows.shape[1]
        size = max(float(np.diag(moments.given).mean()), 1e-12)
        hessian = moments.given + DAMPING * size * np.eye(len(moments.given))
        target = np.concatenate([rows, np.zeros((len(rows), 1))], 1) if self.constant else np.array(rows)
        if repair:
            target = target + repair * np.linalg.solve(hessian, (target @ moments.missing).T).T
        order = np.argsort(-np.diag(moments.given)[:n], kind="stable")
        if self.constant:
            order = np.append(order, n)
        inverse = np.linalg.inv(hessian[np.ix_(order, order)])
        factor = np.linalg.cholesky((inverse + inverse.T) / 2).T  # upper triangular
        left = target[:, order]
        absent = rows[:, order[:n]] == 0
        for j in range(n):
            rounded = np.where(absent[:, j], 0.0, self.form.rounded(left[:, j]))
            error = (left[:, j] - rounded) / factor[j, j]
            left[:, j] = rounded
            left[:, j + 1 :] -= error[:, None] * factor[j, j + 1 :]
        found = np.empty_like(rows)
        found[:, order[:n]] = left[:, :n]
        return found, left[:, n] if self.constant else np.zeros(len(rows))


def _leaky(x: Array, alpha: float, beta: float) -> Floats:
    """``i[t] = alpha i[t-1] + x[t]; v[t] = beta v[t-1] + i[t]`` of ``[N, T, ...]``."""
    out = np.array(x, np.float64)
    for share in (alpha, beta):
        for t in range(1, out.shape[1] if share else 0):
            out[:, t] += share * out[:, t - 1]
    return out


def _inputs(block: Block, x: Floats) -> list[Floats]:
    """What neurons see, ``[rows, inputs]`` for each group of a convolution."""
    synapse = block.synapse
    steps = x.shape[:2]
    generator = np.random.default_rng(0)
    if not isinstance(synapse, Conv2d):
        rows = x.reshape(steps[0] * steps[1], -1)
        return [rows if len(rows) <= ROWS else rows[generator.choice(len(rows), ROWS, replace=False)]]
    (high, wide), (down, right) = synapse.weight.shape[2:], synapse.dilation
    images = x.reshape(-1, *block.input_shape)
    pad = [(0, 0), (0, 0), *((p, p) for p in synapse.padding)]
    view: Any = np.lib.stride_tricks.sliding_window_view  # numpy's types lack several axes
    windows = view(np.pad(images, pad), ((high - 1) * down + 1, (wide - 1) * right + 1), (2, 3))[
        :, :, :: synapse.stride[0], :: synapse.stride[1], ::down, ::right
    ]
    count, channels, height, width = windows.shape[:4]
    picked = np.arange(count * height * width)
    if len(picked) > ROWS:
        picked = generator.choice(len(picked), ROWS, replace=False)
    image, place = np.divmod(picked, height * width)
    patches = windows[image, :, place // width, place % width]
    per_group = channels // synapse.groups
    return [patches[:, g * per_group : (g + 1) * per_group].reshape(len(picked), -1) for g in range(synapse.groups)]
