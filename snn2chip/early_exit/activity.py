"""Decisions of a network with an early exit, and what each sample does until it is ended: three levels.

::

    decision   the whole window runs; the decision is read when it leaves
    gated      the decision silences input and hidden layers until the window ends: fewer spikes, as many steps
    stopped    host or embedded processor ends the window: the next sample starts at once, in an empty pipeline

A decision at step t of the last layer, chip step t + d with d layers before it, is seen by all others one chip step
later: layer l is silent from its step ``t + d + 1 - l`` on, the input from ``t + d + 2`` on (a message under way still
arrives).

The gate is a negative input to every neuron of a hidden layer, strong enough that none can fire whatever arrives; it is
no layer of the network but a process beside it (:mod:`snn2chip.early_exit.lava`), and what it does is computed here by
silencing those layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, InputNeurons, Layer, Neuron
from snn2chip.early_exit.circuit import detach
from snn2chip.early_exit.evidence import Evidence, accumulated_scores
from snn2chip.early_exit.policies import Decisions, apply
from snn2chip.errors import UsageError
from snn2chip.simulators import event
from snn2chip.traces import Record, Traces

Array = npt.NDArray[Any]
Int = npt.NDArray[np.int64]
Level = Literal["decision", "gated", "stopped"]
LEVELS: tuple[Level, ...] = ("decision", "gated", "stopped")


def required_record(net: ChipNet) -> Record:
    """What decisions and full-window predictions need to be recorded."""
    readout = Record.readout(net)
    last = frozenset((net.layers[-1].name,)) if net.exit is not None and net.exit.form != "host" else frozenset()
    return Record(readout.spikes | last, readout.states)


def decisions(net: ChipNet, traces: Traces) -> Decisions:
    """What the circuit in ``net`` decided, or (``host``) the rule on its readout.

    Raises:
        UsageError: ``net`` has no early exit.
    """
    rule = net.exit
    if rule is None:
        raise UsageError("exit: the network has none; snn2chip cutoff makes one")
    full = traces.predictions(net)
    if rule.form == "host":
        recorded = traces.v if net.readout.kind == "potential" else traces.spikes
        return apply(rule, Evidence.of(accumulated_scores(net, recorded[rule.readout])), full)
    return of_spikes(net, traces.spikes[net.layers[-1].name], full)


def of_spikes(net: ChipNet, spikes: Array, full: Array) -> Decisions:
    """From the decision layer's spikes ``[N, W, C]``; ``full``: class of the whole window, for samples without."""
    assert net.exit is not None
    fires = spikes[:, : net.time_steps] != 0
    if net.exit.form == "run":  # what delays still hold of the window before arrives earlier than that
        fires = fires.copy()
        fires[:, : net.exit.thresholds[0] - 1] = False
    any_class = fires.any(2)
    exited = any_class.any(1)
    step = np.where(exited, any_class.argmax(1), fires.shape[1] - 1)
    label = np.where(exited, fires[np.arange(len(fires)), step].argmax(1), full)
    return Decisions(label.astype(np.int64), step.astype(np.int64), exited)


@dataclass(frozen=True)
class Latency:
    """Steps until the answer, per sample ``[N]``, and of the window without an exit.

    Attributes:
        cutoff: steps of input that were looked at.
        chip: steps until the answer has left the chip: one for each layer on the way more.
        full_cutoff, full_chip: the same without an exit.
    """

    cutoff: Int
    chip: Int
    full_cutoff: int
    full_chip: int

    @property
    def speed_up(self) -> tuple[float, float]:
        """Full over mean: of the cutoff steps, and of the steps until the answer has left the chip."""
        return self.full_cutoff / float(self.cutoff.mean()), self.full_chip / float(self.chip.mean())


def latency(net: ChipNet, found: Decisions) -> Latency:
    """How long the decisions took; samples that never stopped take the window and are read at its end."""
    full = net.time_steps + detach(net).depth
    return Latency(found.steps, np.where(found.exited, found.steps + net.depth, full), net.time_steps, full)


# Gates


def gates(net: ChipNet) -> dict[str, int]:
    """Hidden layers that a gate can silence, and by how much input; nothing of a window may wrap.

    ::

        v <= 64 vth after each step, so that no neuron fires where  gate >= largest sum + bias + current left over
    """
    out: dict[str, int] = {}
    message = net.encoding.largest
    for layer in net.layers:
        if layer.name == net.readout_layer.name:
            break
        graded = layer.neuron.graded
        if isinstance(layer.neuron, Neuron) and message:
            gate = _gate(layer, layer.neuron, message, net.window)
            if gate is not None:
                out[layer.name] = gate
        message = 0 if graded else 1
    return out


def _gate(layer: Layer, neuron: Neuron, message: int, window: int) -> int | None:
    sums = layer.largest_sum(message)
    decay = int(neuron.current_decay.min())
    # steps' worth of input that a current holds at most
    held = 1 if decay == limits.DECAY_UNITY else min(window, -(-limits.DECAY_UNITY // decay) if decay else window)
    needed = sums * held + max(0, int(neuron.bias.max()))
    shift = max(0, needed.bit_length() - 8)  # a weight of eight bits and its exponent
    gate = (-(-needed // (1 << shift))) << shift
    return gate if (gate + sums) * held < limits.STATE_LIMIT >> limits.STATE_SHIFT else None


@dataclass(frozen=True)
class Activity:
    """What each layer did, by name.

    Attributes:
        spikes, operations: of each sample and step, ``[N, W]``; operations count with the message that causes them.
        kept: spikes ``[N, W, *shape]`` of the layers asked for.
        states: u and v of the layers asked for.
    """

    spikes: Mapping[str, Int]
    operations: Mapping[str, Int]
    kept: Mapping[str, Array]
    states: Mapping[str, tuple[Array, Array]]

    def traces(self, samples: slice | Array | None = None) -> Traces:
        """Counts over samples as a simulator returns them."""
        chosen = slice(None) if samples is None else samples
        return Traces(
            dict(self.kept),
            {name: u for name, (u, _) in self.states.items()},
            {name: v for name, (_, v) in self.states.items()},
            {name: counts[chosen].sum(0) for name, counts in self.spikes.items()},
            {name: counts[chosen].sum(0) for name, counts in self.operations.items()},
        )


def run_layers(
    net: ChipNet, messages: Array, record: Record, gated_at: Int | None = None, threads: int = 0
) -> Activity:
    """All layers in the event simulator, one after the other, each sample from rest.

    Args:
        messages: ``[N, T, *input_shape]``.
        gated_at: step of each sample's decision, from which the gates act; the window's length or more: never.
    """
    window = net.window
    x = np.zeros((len(messages), window, *net.input_shape), messages.dtype)
    x[:, : messages.shape[1]] = messages
    depth = len(net.layers) - 1
    silenced = gates(net) if gated_at is not None else {}
    if gated_at is not None:
        arrival = 1 if isinstance(net.layers[0], InputNeurons) else 2
        x = _silent_from(x, np.where(gated_at < net.time_steps, gated_at + depth + arrival, window))
    spikes: dict[str, Int] = {}
    operations: dict[str, Int] = {}
    kept: dict[str, Array] = {}
    states: dict[str, tuple[Array, Array]] = {}
    for i, layer in enumerate(net.layers):
        arrived = (x != 0).reshape(len(x), window, -1)
        operations[layer.name] = arrived @ layer.fan_out().reshape(-1)
        wanted = layer.name in record.states
        x, u, v = event.run_layer(layer, x, states=wanted, threads=threads)
        if layer.name in silenced and gated_at is not None:
            x = _silent_from(x, np.where(gated_at < net.time_steps, gated_at + depth + 1 - i, window))
        fired = np.count_nonzero(x.reshape(len(x), window, -1), axis=2)
        spikes[layer.name] = fired
        if isinstance(layer, Dense) and layer.recurrent is not None:
            operations[layer.name] = operations[layer.name] + fired * layer.shape[0]
        if layer.name in record.spikes:
            kept[layer.name] = x
        if wanted:
            states[layer.name] = (u, v)
    return Activity(spikes, operations, kept, states)


def _silent_from(x: Array, step: Int) -> Array:
    """``x`` ``[N, W, ...]`` without messages from ``step`` ``[N]`` on."""
    late = np.arange(x.shape[1]) >= step[:, None]
    return np.where(late.reshape(*late.shape, *(1,) * (x.ndim - 2)), 0, x).astype(x.dtype)


def ends(net: ChipNet, found: Decisions) -> Int:
    """Chip steps that a stopped window takes, ``[N]``; one that nothing stops is emptied."""
    steps: Int = np.where(found.exited, found.steps, net.window) + net.depth
    return steps


def until(net: ChipNet, counts: Mapping[str, Int], found: Decisions) -> Int:
    """Sum of ``counts`` ``[N, W]`` of all layers up to the end of a stopped window, ``[N]``."""
    total = np.zeros(len(found.step), np.int64)
    for i, layer in enumerate(net.layers):
        cumulated = counts[layer.name].cumsum(1)
        last = np.where(found.exited, np.minimum(found.step + len(net.layers) - 1 - i, net.window - 1), net.window - 1)
        total += cumulated[np.arange(len(last)), last]
    return total


def in_chip_time(net: ChipNet, activity: Activity, samples: Array, steps: int) -> Traces:
    """Counts of samples whose windows end after so many chip steps, by chip step."""
    spikes: dict[str, Int] = {}
    operations: dict[str, Int] = {}
    first = net.depth - len(net.layers) + 1  # chip step at which the first layer acts: after that of the input
    for at, layer in enumerate(net.layers, first):
        for counts, out in ((activity.spikes, spikes), (activity.operations, operations)):
            summed = counts[layer.name][samples].sum(0)[: max(0, steps - at)]
            out[layer.name] = np.pad(summed, (min(at, steps), max(0, steps - at - len(summed))))
    return Traces({}, {}, {}, spikes, operations)
