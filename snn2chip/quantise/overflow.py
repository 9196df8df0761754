"""How large u, v and the sums can become: for any input, from the weights, and on data.

For any input: in one step a row's sum lies between minus its inhibition and its excitation (:func:`swing`). From rest,
the law is monotonic in what it is given, so that feeding every step the largest sum gives the largest current, and the
largest potential that a neuron may reach before it fires is what the threshold leaves plus one more step. A neuron that
is inhibited at every step sinks lowest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, Neuron
from snn2chip.graph import per_channel
from snn2chip.law import decayed
from snn2chip.quantise.residual import swing
from snn2chip.simulation import simulate
from snn2chip.traces import Record

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Bound:
    """One quantity of one layer.

    Attributes:
        layer: its name.
        what: ``sum``, ``u`` or ``v``.
        possible: largest magnitude for any input.
        seen: largest magnitude on data; None for sums, and without data.
        limit: from which on it wraps (sum, u) or is clipped (v).
        neuron: the neuron of ``possible``, ``(c, y, x)`` or ``(n,)``.
    """

    layer: str
    what: str
    possible: int
    seen: int | None
    limit: int
    neuron: tuple[int, ...]

    @property
    def warning(self) -> str | None:
        """One sentence where the limit can be reached."""
        if self.possible < self.limit:
            return None
        does = "is clipped" if self.what == "v" else "wraps"
        data = "" if self.seen is None else f"; on calibration data it stays at {self.seen}"
        if self.seen is not None and self.seen >= self.limit:
            data = f"; on calibration data it reaches {self.seen}"
        return (
            f"{self.layer}: {self.what} of neuron {self.neuron} may reach {self.possible}, {does} at {self.limit} for "
            f"inputs that are all against it{data}; fewer steps or inputs, or a lower scale, leave more room"
        )


def bounds(net: ChipNet, x: Array | None = None) -> tuple[Bound, ...]:
    """Sum, u and v of each layer of current-based neurons.

    Args:
        x: data, as :func:`snn2chip.simulate` takes them.
    """
    traces = None if x is None else simulate(net, x, record=Record.everything(net)).traces
    found = []
    encoding = net.encoding
    for layer in net.layers:
        if isinstance(layer, Dense | Conv) and isinstance(layer.neuron, Neuron):
            sums, u, v = _possible(layer, encoding, net.window)
            sum_limit = 1 << (limits.CONV_SUM_BITS - 1) if isinstance(layer, Conv) else limits.SUM_LIMIT
            for what, values, limit in (
                ("sum", sums, sum_limit),
                ("u", u, limits.STATE_LIMIT),
                ("v", v, limits.STATE_LIMIT),
            ):
                seen = None
                if traces is not None and what != "sum":
                    state = (traces.u if what == "u" else traces.v)[layer.name]
                    seen = max(int(state.max()), -int(state.min()))
                at = np.unravel_index(int(values.argmax()), values.shape)
                where = tuple(int(i) for i in at)
                found.append(Bound(layer.name, what, int(values.max()), seen, limit, where))
        encoding = Encoding() if not layer.neuron.graded else encoding
    return tuple(found)


def _possible(layer: Dense | Conv, encoding: Encoding, steps: int) -> tuple[Int, Int, Int]:
    """Largest magnitudes of sum, u and v of each neuron, ``[*shape]``, for any input."""
    assert isinstance(layer.neuron, Neuron)
    up, down = (
        np.broadcast_to(per_channel(side, len(layer.shape)), layer.shape).astype(np.int64)
        for side in swing(layer, encoding)
    )
    parameters = {name: array.astype(np.int64) for name, array in layer.neuron.expanded(layer.shape).items()}
    threshold = parameters["threshold"] << limits.STATE_SHIFT
    bias = parameters["bias"] << limits.BIAS_EXPONENT
    high_u = low_u = high_v = low_v = np.zeros(layer.shape, np.int64)
    top_u = top_v = np.zeros(layer.shape, np.int64)
    held = encoding.kind == "hold"
    for t in range(steps):
        arrives = t == 0 or not held
        high_u = decayed(high_u, parameters["current_decay"]) + ((up if arrives else 0 * up) << limits.STATE_SHIFT)
        low_u = decayed(low_u, parameters["current_decay"]) - ((down if arrives else 0 * down) << limits.STATE_SHIFT)
        before = decayed(np.minimum(high_v, threshold), parameters["voltage_decay"]) + high_u + bias
        # After a spike it starts from 0, and may not have fired where the bias is negative.
        high_v = np.maximum(before, high_u + bias)
        low_v = np.minimum(decayed(low_v, parameters["voltage_decay"]), 0) + low_u + bias
        low_v = np.minimum(low_v, 0)
        top_u = np.maximum(top_u, np.maximum(high_u, -low_u))
        top_v = np.maximum(top_v, np.maximum(high_v, -low_v))
    return np.maximum(up, down), top_u, top_v


def overflow_warnings(net: ChipNet, x: Array | None = None) -> list[str]:
    """A sentence for each quantity whose limit can be reached."""
    return [bound.warning for bound in bounds(net, x) if bound.warning is not None]
