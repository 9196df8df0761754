"""Energy and time of a placed network, from the counts of a simulation.

::

    dynamic  =  operations * synapse + neurons * steps * neuron + spikes * spike
                + messages * (message + east-west hops * hop + north-south hops * hop)
    step     =  barrier + max( over cores: the same sum with times instead of energies,
                               over links of the mesh: messages * hop )
    total    =  dynamic + static power of the chips * time

A message goes to each core that a spike has synapses on. A core's own work is added up, nothing overlaps. Counts are
the mean over samples. Within a layer, spikes are spread over neurons as recorded, or evenly where the simulation did
not keep them; the busiest core is then a lower bound.

Boundary: cores and mesh of the chips. Not in it: the host, the transfer of data to and from the chip, messages between
chips beyond those hops, and the power of the board. Transfer can dominate: Intel reports 1.21 ms for a frame of
PilotNet-SDNN without it and 65.4 ms with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Conv, Layer
from snn2chip.conv import conv2d
from snn2chip.errors import InputError
from snn2chip.hardware.placement import Core, Placement, positions
from snn2chip.hardware.targets import LEVELS, Level, Target
from snn2chip.traces import Traces

Array = npt.NDArray[Any]

BOUNDARY = "cores and mesh of the chips; without host, data transfer, messages between chips, board"


@dataclass(frozen=True)
class Figure:
    """A modelled quantity: a range, in ``unit``, and what kind of figures it rests on."""

    low: float
    mid: float
    high: float
    unit: str
    label: str


@dataclass(frozen=True)
class Estimate:
    """What one sample costs.

    Attributes:
        steps: of one sample.
        step_time: mean over the steps, s.
        sample_time: s.
        dynamic, static, total: energy of one sample, J.
        parts: dynamic energy by cause, J.
        counts: by cause, of one sample: operations, neuron updates, spikes, messages, hops.
        busiest: layer of the core that sets the step time most often, or "mesh".
        boundary: what is counted.
        source: of the costs.
    """

    steps: int
    step_time: Figure
    sample_time: Figure
    dynamic: Figure
    static: Figure
    total: Figure
    parts: Mapping[str, Figure]
    counts: Mapping[str, float]
    busiest: str
    boundary: str
    source: str


def estimate(net: ChipNet, placement: Placement, traces: Traces, samples: int = 1) -> Estimate:
    """Energy and time of one sample of ``net`` on ``placement``, from the counts in ``traces``.

    Args:
        traces: of any simulator; layers whose spikes were recorded are spread over their cores as they fired.
        samples: number of samples that ``traces`` counted.

    Raises:
        InputError: ``traces`` are not of this network.
    """
    names = [layer.name for layer in net.layers]
    if list(traces.spikes_per_step) != names or list(placement.by_layer) != names:
        raise InputError(f"estimate: traces and placement are not of the layers {', '.join(names)}")
    target, cores = placement.target, placement.cores
    steps = len(traces.spikes_per_step[names[0]])
    operations, spikes = np.zeros((2, len(cores), steps))
    for i, layer in enumerate(net.layers):
        own = list(placement.by_layer[layer.name])
        parts = [cores[k] for k in own]
        spikes[own] = np.outer(_fired(layer, parts, traces), traces.spikes_per_step[layer.name] / samples)
        before = net.layers[i - 1] if i else None
        operations[own] = np.outer(
            _received(layer, before, parts, traces), traces.operations_per_step[layer.name] / samples
        )
    convolution = np.array([isinstance(net.layers[core.index], Conv) for core in cores])
    updates = np.array([float(core.neurons) for core in cores])
    # Spikes of a core that go along each pair of cores: its mean rate on the neurons of the pair.
    source = placement.traffic.source
    flow = (placement.traffic.neurons / updates[source])[:, None] * spikes[source]
    messages = np.zeros_like(spikes)
    np.add.at(messages, source, flow)
    east_west, north_south = placement.hops
    hops = [float(way @ flow.sum(1)) for way in (east_west, north_south)]
    counts = {
        "synapse_dense": float(operations[~convolution].sum()),
        "synapse_conv": float(operations[convolution].sum()),
        "neuron": float(updates.sum() * steps),
        "spike": float(spikes.sum()),
        "message": float(messages.sum()),
        "hop_east_west": hops[0],
        "hop_north_south": hops[1],
    }
    links = _link_loads(placement, flow.sum(1) / steps)
    results = {level: _at(level, target, operations, convolution, updates, spikes, messages, links) for level in LEVELS}
    label, chips = target.cost_label, placement.chips

    def figure(values: Mapping[Level, float], unit: str) -> Figure:
        return Figure(values["low"], values["mid"], values["high"], unit, label)

    def cost(name: str, level: Level) -> float:
        return target.costs[name].at(level)

    parts_of = {
        name: {level: count * cost(f"{name}_energy", level) for level in LEVELS} for name, count in counts.items()
    }
    step_time = {level: float(times.mean()) for level, (times, _) in results.items()}
    dynamic = {level: sum(part[level] for part in parts_of.values()) for level in LEVELS}
    static = {
        level: chips * (cost("chip_power", level) + cost("host_power", level)) * steps * step_time[level]
        for level in LEVELS
    }
    busiest = np.bincount(results["mid"][1]).argmax()
    return Estimate(
        steps=steps,
        step_time=figure(step_time, "s"),
        sample_time=figure({level: steps * value for level, value in step_time.items()}, "s"),
        dynamic=figure(dynamic, "J"),
        static=figure(static, "J"),
        total=figure({level: dynamic[level] + static[level] for level in LEVELS}, "J"),
        parts={name: figure(values, "J") for name, values in parts_of.items()},
        counts=counts,
        busiest="mesh" if busiest == len(cores) else cores[busiest].layer,
        boundary=BOUNDARY,
        source=target.cost_source,
    )


def _at(
    level: Level,
    target: Target,
    operations: Array,
    convolution: Array,
    updates: Array,
    spikes: Array,
    messages: Array,
    links: Mapping[str, float],
) -> tuple[Array, Array]:
    """Time of each step, and which core (or, as last number, the mesh) sets it."""

    def time(name: str) -> float:
        return target.costs[f"{name}_time"].at(level)

    synapse = np.where(convolution, time("synapse_conv"), time("synapse_dense"))[:, None]
    cores = (
        operations * synapse + updates[:, None] * time("neuron") + spikes * time("spike") + messages * time("message")
    )
    mesh = max((load * time(name) for name, load in links.items()), default=0.0)
    busy = np.concatenate([cores, np.full((1, cores.shape[1]), mesh)])
    return busy.max(0) + time("barrier"), busy.argmax(0)


def _fired(layer: Layer, parts: list[Core], traces: Traces) -> Array:
    """Share of the layer's spikes that each of its cores sends."""
    weights = np.array([float(core.neurons) for core in parts])
    if layer.name in traces.spikes:
        fired = np.count_nonzero(traces.spikes[layer.name], axis=(0, 1))
        weights = np.array([float(core.part(fired).sum()) for core in parts])
    return _shares(weights)


def _received(layer: Layer, before: Layer | None, parts: list[Core], traces: Traces) -> Array:
    """Share of the layer's synaptic operations that each of its cores does."""
    weights = np.array([float(core.neurons) for core in parts])
    if isinstance(layer, Conv) and layer.groups == 1:
        fired = np.ones(layer.input_shape[1:])
        if before is not None and before.name in traces.spikes:
            fired = np.count_nonzero(traces.spikes[before.name], axis=(0, 1, 2)).astype(np.float64)
        kernel = np.ones((1, 1, *layer.weight.shape[2:]))
        received = conv2d(fired[None, None], kernel, layer.stride, layer.padding, layer.dilation, 1)
        weights = np.array(
            [
                float(received[0, 0, slice(*core.rows), slice(*core.columns)].sum())
                * (core.channels[1] - core.channels[0])
                for core in parts
            ]
        )
    return _shares(weights)


def _shares(weights: Array) -> Array:
    total = weights.sum()
    shares: Array = weights / total if total else np.full(len(weights), 1 / len(weights))
    return shares


def _link_loads(placement: Placement, flow: Array) -> dict[str, float]:
    """Messages of a mean step over the busiest link of each direction; rows first, then columns."""
    x, y, chip = positions(placement.slots, placement.target)
    source, target = placement.traffic.source, placement.traffic.target
    here = chip[source] == chip[target]
    source, target, flow = source[here], target[here], flow[here]
    loads = {}
    for name, start, end, line in (
        ("hop_east_west", x[source], x[target], y[source]),
        ("hop_north_south", y[source], y[target], x[target]),
    ):
        busiest = 0.0
        for forward in (True, False):
            on = (end > start) if forward else (end < start)
            if not on.any():
                continue
            # Differences along each line of routers: a message enters at its start and leaves at its end.
            low, high = np.minimum(start, end)[on], np.maximum(start, end)[on]
            steps = np.zeros((int(chip.max()) + 1, int(line.max()) + 1, int(high.max()) + 1))
            np.add.at(steps, (chip[source][on], line[on], low), flow[on])
            np.add.at(steps, (chip[source][on], line[on], high), -flow[on])
            busiest = max(busiest, float(steps.cumsum(2).max()))
        loads[name] = busiest
    return loads
