"""Two simulators compared bit for bit; a difference is located and explained."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, Layer, Neuron
from snn2chip.errors import LavaError
from snn2chip.simulation import simulate
from snn2chip.traces import Mode, Record, Traces

if TYPE_CHECKING:
    from snn2chip.long_runs import Progress

Array = npt.NDArray[Any]

#: Samples that one of Lava's jobs gets at least, so that starting it is worth it.
JOB_SAMPLES = 8
#: What a round takes at least, seconds, and long enough that starting the simulator takes at most ``OVERHEAD_SHARE``.
ROUND_SECONDS = 2.0


@dataclass(frozen=True)
class Divergence:
    """The first difference: earliest layer, then earliest step.

    Attributes:
        layer: name of the layer.
        sample, step, neuron: where; the neuron's index within the layer's shape.
        variable: ``u``, ``v`` or ``spike``: the first of the three, in order of computation, that differs there.
        expected, found: both values.
        cause: what most likely explains it.
    """

    layer: str
    sample: int
    step: int
    neuron: tuple[int, ...]
    variable: str
    expected: int
    found: int
    cause: str

    def __str__(self) -> str:
        where = ", ".join(map(str, self.neuron))
        return (
            f"{self.layer}: sample {self.sample}, step {self.step}, neuron ({where}): {self.variable} is {self.found}, "
            f"expected {self.expected}; {self.cause}"
        )


@dataclass(frozen=True)
class Verification:
    """Result of a comparison.

    Attributes:
        samples, layers: how many were compared, at every step and neuron.
        differing_spikes, differing_states: how many values differ, by layer.
        first: the first difference, None where equal.
        expected: what the simulator that is right recorded.
    """

    samples: int
    layers: int
    differing_spikes: dict[str, int]
    differing_states: dict[str, int]
    first: Divergence | None
    expected: Traces

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return self.first is None


def verify(
    net: ChipNet,
    x: Array,
    against: str = "lava",
    backend: str = "event",
    mode: Mode = "isolated",
    *,
    progress: Progress | None = None,
    skip: int = 0,
    **options: Any,
) -> Verification:
    """Compare two simulators on data: every layer, step and neuron, spikes, u and v.

    Args:
        x: ``[N, T, *input_shape]``, or ``[N, *input_shape]``, static.
        against: the simulator that is right by definition.
        backend: the simulator that is checked.
        progress: called with the simulator that runs, and how many samples it has done. Isolated samples are then
            simulated in rounds, so that there is something to tell; results are the same.
        skip: samples at the beginning that are not compared: what they leave behind explains a difference in the next.
        options: passed on to ``against``.

    Raises:
        LavaError: Lava is missing, failed or timed out.
    """
    record = Record.everything(net)
    if progress is None or mode != "isolated":
        found = simulate(net, x, backend=backend, mode=mode, record=record).traces
        expected = simulate(net, x, backend=against, mode=mode, record=record, **options).traces
    else:
        found = _in_rounds(net, x, backend, record, progress, {})
        expected = _in_rounds(net, x, against, record, progress, options)
    return compare(net, expected, found, skip)


def _in_rounds(
    net: ChipNet, x: Array, backend: str, record: Record, progress: Progress, options: Mapping[str, Any]
) -> Traces:
    """Isolated samples, some at a time: first as many as give each processor the share that Lava's jobs have."""
    from snn2chip.long_runs import OVERHEAD_SHARE  # which opens data files; a comparison needs none

    began, timeout = time.monotonic(), options.get("timeout")
    rounds: list[Traces] = []
    done, size = 0, JOB_SAMPLES * (os.cpu_count() or 1)
    while done < len(x) or not rounds:
        progress(backend, done, len(x) if size < len(x) else 0)  # a single round tells nothing until it ends
        left = {} if timeout is None else {"timeout": max(timeout - (time.monotonic() - began), 0.0)}
        try:
            part = simulate(net, x[done : done + size], backend=backend, record=record, **{**options, **left}).traces
        except LavaError as error:
            if timeout is None or not done or time.monotonic() - began < timeout:
                raise
            raise LavaError(f"Lava: {done} of {len(x)} samples after {timeout:g} s; use fewer, or more time") from error
        rounds.append(part)
        done += size
        wanted = max(ROUND_SECONDS, part.overhead_seconds / OVERHEAD_SHARE)
        size = max(1, int(size * wanted / max(part.seconds, 1e-9)))
    return joined(rounds)


def joined(rounds: Sequence[Traces]) -> Traces:
    """Traces of samples one after the other as one."""
    if len(rounds) == 1:
        return rounds[0]
    first = rounds[0]

    def kept(kind: str) -> dict[str, Array]:
        return {name: np.concatenate([getattr(part, kind)[name] for part in rounds]) for name in getattr(first, kind)}

    def summed(kind: str) -> dict[str, Array]:
        return {name: np.sum([getattr(part, kind)[name] for part in rounds], 0) for name in getattr(first, kind)}

    return Traces(
        kept("spikes"),
        kept("u"),
        kept("v"),
        summed("spikes_per_step"),
        summed("operations_per_step"),
        sum(part.seconds for part in rounds),
        sum(part.overhead_seconds for part in rounds),
    )


def compare(net: ChipNet, expected: Traces, found: Traces, skip: int = 0) -> Verification:
    """Compare two recordings of everything, but for the first ``skip`` samples."""
    spikes, states = {}, {}
    first: Divergence | None = None
    samples = 0
    for layer in net.layers:
        name = layer.name
        samples = len(expected.spikes[name]) - skip
        different = {
            "u": expected.u[name] != found.u[name],
            "v": expected.v[name] != found.v[name],
            "spike": expected.spikes[name] != found.spikes[name],
        }
        for values in different.values():
            values[:skip] = False
        spikes[name] = int(different["spike"].sum())
        states[name] = int(different["u"].sum()) + int(different["v"].sum())
        if first is None and (spikes[name] or states[name]):
            first = _locate(layer, different, expected, found)
    return Verification(samples, len(net.layers), spikes, states, first, expected)


def _locate(layer: Layer, different: dict[str, Array], expected: Traces, found: Traces) -> Divergence:
    name = layer.name
    anywhere = different["u"] | different["v"] | different["spike"]
    # The earliest step over all samples: what comes later may be a consequence.
    step = int(np.argmax(anywhere.any(axis=(0, *range(2, anywhere.ndim)))))
    index = tuple(int(i) for i in np.argwhere(anywhere[:, step])[0])
    sample, neuron = index[0], index[1:]
    at = (sample, step, *neuron)
    # v is reset by a spike: where spikes differ, v differs as a consequence.
    variable = "u" if different["u"][at] else "spike" if different["spike"][at] else "v"
    recorded = {"u": "u", "v": "v", "spike": "spikes"}[variable]
    one, other = (int(getattr(traces, recorded)[name][at]) for traces in (expected, found))
    leaked = variable != "spike" and (_leak(layer, at, expected, found) or _leak(layer, at, found, expected))
    cause = leaked or _cause(layer, variable, step, one, other)
    return Divergence(name, sample, step, neuron, variable, one, other, cause)


def _leak(layer: Layer, at: tuple[int, ...], one: Traces, other: Traces) -> str:
    """What of the previous sample explains, exactly, that ``one`` has more at the first step than ``other``."""
    sample, step, *neuron = at
    if step > 0 or sample == 0 or not isinstance(layer.neuron, Neuron):
        return ""
    name, last = layer.name, (sample - 1, -1, *neuron)
    more = {kind: int(getattr(one, kind)[name][at]) - int(getattr(other, kind)[name][at]) for kind in ("u", "v")}
    parameters = layer.neuron.expanded(layer.shape)
    carried = {}
    for kind, decay in (("u", "current_decay"), ("v", "voltage_decay")):
        state = int(getattr(one, kind)[name][last])
        left = abs(state) * (limits.DECAY_UNITY - int(parameters[decay][tuple(neuron)])) >> 12
        carried[kind] = left if state > 0 else -left
    if isinstance(layer, Dense) and layer.recurrent is not None:
        spikes = one.spikes[name][sample - 1, -1].astype(np.int64)
        flying = int(layer.recurrent[neuron[0]] @ spikes) << limits.STATE_SHIFT
        if flying and more["u"] in (flying, flying + carried["u"]):
            return "spikes of the previous sample's last step arrived in this one: a reset does not stop them"
    if more["u"] and more["u"] == carried["u"]:
        return "the current of the previous sample was not reset (reset offset)"
    if not more["u"] and more["v"] and more["v"] == carried["v"]:
        return "the potential of the previous sample was not reset (reset offset)"
    return ""


def _cause(layer: Layer, variable: str, step: int, expected: int, found: int) -> str:
    if not isinstance(layer.neuron, Neuron):
        kind = type(layer.neuron).__name__
        return f"its inputs are equal: a weight, a delay or the law or state of its neurons ({kind}) differs"
    if variable == "u":
        if abs(expected - found) == 2 * limits.STATE_LIMIT:
            return "the current wrapped beyond 24 bits in one of them"
        if isinstance(layer, Dense) and layer.recurrent is not None and step > 0:
            return "its inputs are equal: weights, recurrent weights or the decay of the current differ"
        if (expected - found) % (1 << limits.STATE_SHIFT) == 0:
            return "its inputs are equal: a weight differs (the difference is a multiple of 64)"
        return "its inputs are equal: the decay of the current differs"
    if variable == "v":
        if max(abs(expected), abs(found)) == limits.STATE_LIMIT - 1:
            return "the potential was clipped to 24 bits in one of them"
        if step == 0:
            return "the current is equal: the bias differs"
        return "the current is equal: the bias or the decay of the potential differs"
    return "the current is equal: the threshold, the bias or the decay of the potential differs"
