"""The trained model beside the chip: where they differ, the weights before, the potential of one neuron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import ChipNet, Dense, InputNeurons, Layer, Neuron
from snn2chip.compiler import lowered_graph
from snn2chip.differences import Difference, differences
from snn2chip.early_exit import detach
from snn2chip.errors import Snn2chipError, UnsupportedError, UsageError
from snn2chip.graph import Graph, execute, per_neuron
from snn2chip.passes import Block, chip_blocks
from snn2chip.passes.approximate import approximate
from snn2chip.quantise import hard_reset, integer_net, is_integer
from snn2chip.simulation import simulate
from snn2chip.traces import Record, Traces

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Index = tuple[int, ...]

MATCH_SAMPLES = 64  # that say what an inexact form of the source changes
HISTOGRAM_BINS = 64
TRACE_STEPS, TRACE_LEAD = 200, 20  # of one sample that are drawn, and before the first spike


@dataclass(frozen=True)
class Trained:
    """The source of a network.

    Attributes:
        graph: as trained.
        lowered: in chip form, layer by layer what the network has.
        blocks: of each layer, by name; empty where the source holds the chip's integers already.
        integers: these; None where it does not.
        notes: what had to be assumed to read it.
    """

    graph: Graph
    lowered: Graph
    blocks: dict[str, Block]
    integers: ChipNet | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """The trained model on some samples, by layer of the chip: spikes and potentials ``[N, T, *shape]``."""

    spikes: dict[str, Array]
    potentials: dict[str, Array]


def match(graph: Graph, net: ChipNet, x: Array, notes: tuple[str, ...] = ()) -> Trained:
    """``graph`` in the chip form that ``net`` was made of.

    Args:
        x: samples that tell what an approximation changes.

    Raises:
        UsageError: ``net`` has other layers than the source.
        UnsupportedError: the source has no form on the chip.
    """
    base = detach(net)
    if graph.time_steps != net.time_steps:
        raise UsageError(f"--source: has {graph.time_steps} time steps, the network has {net.time_steps}")
    wanted = [(layer.name, layer.shape) for layer in base.layers]
    if is_integer(graph):
        integers = integer_net(graph)
        _same_layers([(layer.name, layer.shape) for layer in integers.layers], wanted)
        return Trained(graph, graph, {}, integers, notes)
    refused: Snn2chipError | None = None
    few = x[:MATCH_SAMPLES]
    forms: tuple[Callable[[], Graph], ...] = (
        lambda: graph,
        lambda: approximate(graph, few),
        lambda: hard_reset(graph, few),
    )
    for form in forms:
        changed = form()
        try:
            lowered = lowered_graph(changed)
            blocks = {block.name: block for block in chip_blocks(lowered)}
            shapes = lowered.shapes()
            _same_layers([(name, tuple(shapes[b.neuron.name])) for name, b in blocks.items()], wanted)
        except (UnsupportedError, UsageError) as error:
            refused = refused or error
            continue
        _same_weights(blocks, base)
        return Trained(changed, lowered, blocks, None, notes)
    assert refused is not None
    raise refused


def _same_layers(found: Sequence[tuple[str, Index]], wanted: Sequence[tuple[str, Index]]) -> None:
    for one, other in zip(found, wanted, strict=False):
        if one != other:
            raise UsageError(f"--source: has the layer {one[0]} {one[1]} where the network has {other[0]} {other[1]}")
    if len(found) != len(wanted):
        raise UsageError(f"--source: has {len(found)} layers on the chip, the network has {len(wanted)}")


def _same_weights(blocks: dict[str, Block], net: ChipNet) -> None:
    for layer in net.layers:
        shape = np.shape(blocks[layer.name].synapse.weight)
        if not isinstance(layer, InputNeurons) and shape != layer.weight.shape:
            raise UsageError(f"--source: {layer.name} has weights {shape}, the network has {layer.weight.shape}")


# Where they differ


@dataclass(frozen=True)
class Apart:
    """One layer of the chip against the lowered model.

    Attributes:
        differing, values: spikes, over all samples, steps and neurons that were compared.
        first: sample, step and neuron of the first difference in time; None where there is none.
        weight_error: largest distance of a weight from the trained one, in integers of the chip; None without weights.
    """

    layer: str
    differing: int
    values: int
    first: tuple[int, int, Index] | None
    weight_error: float | None


def apart(trained: Trained, net: ChipNet, x: Array) -> tuple[Apart, ...]:
    """Each layer's spikes against the model's on ``x``; potentials of a layer that never fires are not spikes."""
    base = detach(net)
    ours = simulate(base, x, record=Record.of(spikes=(layer.name for layer in base.layers))).traces
    theirs = see(trained, x)
    found = []
    for layer in base.layers:
        other = _fires(ours.spikes[layer.name])[:, : base.time_steps]
        different = _fires(theirs.spikes[layer.name]).reshape(other.shape) != other
        where = None
        if different.any():
            step = int(different.any(axis=(0, *range(2, different.ndim))).argmax())
            sample, *neuron = (int(i) for i in np.argwhere(different[:, step])[0])
            where = (sample, step, tuple(neuron))
        scale = weight_scale(trained, layer)
        error = None if scale is None else float(np.abs(_residual(trained, layer, scale)).max(initial=0))
        found.append(Apart(layer.name, int(different.sum()), different.size, where, error))
    return tuple(found)


def changed_integers(trained: Trained, net: ChipNet) -> tuple[Difference, ...]:
    """What of the network is not what an integer source says; empty for others."""
    return () if trained.integers is None else differences(trained.integers, detach(net))


def _fires(outputs: Array) -> npt.NDArray[np.bool_]:
    fires: npt.NDArray[np.bool_] = outputs != 0
    return fires


def see(trained: Trained, x: Array) -> Seen:
    """The source, in chip form, on ``x``: in double precision, or by the integer law where it holds integers."""
    if trained.integers is not None:
        net = trained.integers
        traces = simulate(net, x, record=Record.everything(net)).traces
        own = slice(0, net.time_steps)
        return Seen(
            {name: spikes[:, own] for name, spikes in traces.spikes.items()},
            {name: v[:, own] for name, v in traces.v.items()},
        )
    trace = execute(trained.lowered, x)
    names = {layer: block.neuron.name for layer, block in trained.blocks.items()}
    return Seen(
        {layer: trace.outputs[name] for layer, name in names.items()},
        {layer: trace.potentials[name] for layer, name in names.items()},
    )


# Weights


@dataclass(frozen=True)
class Weights:
    """Weights of one layer, zero in both left out, in integers of the chip.

    Attributes:
        edges: of the bins, ``[B + 1]``; counts ``[B]``.
        chip: on the chip; ``trained``: before, times the layer's scale; None without a source.
        values: how many; ``zeros``: how many of all are zero.
        scale: integers per unit of weight, the median where each row has its own.
        rms, largest: distance from the trained weight, in integers.
    """

    layer: str
    edges: Floats
    chip: npt.NDArray[np.int64]
    trained: npt.NDArray[np.int64] | None
    values: int
    zeros: int
    distinct: int
    scale: float | None
    rms: float | None
    largest: float | None


def weights(net: ChipNet, trained: Trained | None) -> tuple[Weights, ...]:
    """Of each layer that has weights; without the circuit of an early exit."""
    found = []
    for layer in detach(net).layers:
        if isinstance(layer, InputNeurons):
            continue
        whole = layer.weight.astype(np.float64)
        scale = None if trained is None else weight_scale(trained, layer)
        before = None
        if trained is not None and scale is not None:
            before = whole - _residual(trained, layer, scale)
        kept = whole != 0 if before is None else (whole != 0) | (before != 0)
        values = whole[kept]
        others = None if before is None else before[kept]
        both = values if others is None else np.concatenate([values, others])
        low, high = (math.floor(both.min()), math.ceil(both.max())) if both.size else (0, 0)
        width = max(1, -(-(high - low + 1) // HISTOGRAM_BINS))
        edges = np.arange(low - 0.5, high + width + 0.5, width)
        error = None if others is None else np.abs(values - others)
        found.append(
            Weights(
                layer.name,
                edges,
                np.histogram(values, edges)[0].astype(np.int64),
                None if others is None else np.histogram(others, edges)[0].astype(np.int64),
                values.size,
                int((whole == 0).sum()),
                len(np.unique(whole)),
                None if scale is None else float(np.median(scale)),
                None if error is None else float(np.sqrt((error**2).mean())) if error.size else 0.0,
                None if error is None else float(error.max(initial=0)),
            )
        )
    return tuple(found)


def weight_scale(trained: Trained, layer: Layer) -> Floats | None:
    """Integers per unit of weight of each row ``[C]``: the least squares fit of the chip's weights to the trained ones.

    One for the whole layer, unless rows of their own come at least twice as close. Relays, whose weights have no
    scale, are given that of their layer. None where the source has no float weights.
    """
    if layer.name not in trained.blocks or isinstance(layer, InputNeurons):
        return None
    block = trained.blocks[layer.name]
    before = np.asarray(block.synapse.weight, np.float64).reshape(len(layer.weight), -1)
    after = layer.weight.astype(np.float64).reshape(before.shape)
    own = slice(0, len(before) - block.neuron.relays)
    whole = _fit(after[own].ravel(), before[own].ravel())
    rows: Floats = np.array([_fit(a, b, whole) for a, b in zip(after, before, strict=True)])
    rows[len(before) - block.neuron.relays :] = whole
    errors = [float(((after[own] - s * before[own]) ** 2).sum()) for s in (whole, rows[own, None])]
    return rows if errors[1] < errors[0] / 4 else np.full(len(before), whole)


def _fit(after: Floats, before: Floats, otherwise: float = 1.0) -> float:
    square = float(before @ before)
    scale = float(after @ before) / square if square else 0.0
    return scale if scale > 0 else otherwise


def _residual(trained: Trained, layer: Layer, scale: Floats) -> Floats:
    """Weights of the chip less the trained ones times their scale; 0 for relays."""
    assert not isinstance(layer, InputNeurons)
    block = trained.blocks[layer.name]
    before = np.asarray(block.synapse.weight, np.float64)
    scaled: Floats = before * scale.reshape(-1, *(1,) * (before.ndim - 1))
    rest: Floats = layer.weight.astype(np.float64) - scaled
    rest[len(rest) - block.neuron.relays :] = 0
    return rest


# Potentials


@dataclass(frozen=True)
class Membrane:
    """One neuron on the first sample.

    Attributes:
        why: how it was chosen.
        unit: of the potentials; ``threshold`` where 1 is the threshold.
        chip, model: membrane potential after each step, ``[T]`` or a part of it; no model without a source.
        chip_spikes, model_spikes: likewise.
        start, steps: first step that is drawn, and steps of the sample.
        rms: of the difference of the potentials; None without a source.
    """

    layer: str
    neuron: Index
    why: str
    unit: str
    chip: Floats
    chip_spikes: npt.NDArray[np.bool_]
    model: Floats | None
    model_spikes: npt.NDArray[np.bool_] | None
    start: int
    steps: int
    rms: float | None


def membranes(
    net: ChipNet, traces: Traces, trained: Trained | None, x: Array, asked: Sequence[tuple[str, Index]]
) -> tuple[Membrane, ...]:
    """Potentials on the first sample: of the neurons asked for, else of one in each layer.

    Args:
        traces: everything of the network, as its samples ``x`` went through it.
        asked: layers (name, its module path, or its number as in ``L1``) and indices within their shape, or flat.

    Raises:
        UsageError: there is no such neuron.
    """
    base = detach(net)
    theirs = None if trained is None else see(trained, x[:1])
    wanted = [(*_found(base, name, index), "as asked for") for name, index in asked]
    if not wanted:
        wanted = [(layer, *_telling(base, layer, traces, theirs)) for layer in base.layers]
    return tuple(_membrane(base, layer, index, why, traces, trained, theirs) for layer, index, why in wanted)


def _found(net: ChipNet, name: str, index: Index) -> tuple[Layer, Index]:
    number = name.removeprefix("L")
    fitting = [layer for layer in net.layers if layer.name == name]
    fitting = fitting or [layer for layer in net.layers if layer.name.split(" (")[0] == name]
    if not fitting and number.isdecimal() and 1 <= int(number[:6]) <= len(net.layers):
        fitting = [net.layers[int(number[:6]) - 1]]
    if len(fitting) != 1:
        raise UsageError(f"--neuron: no layer {name!r}; have {', '.join(layer.name for layer in net.layers)}")
    layer = fitting[0]
    size = math.prod(layer.shape)
    if len(index) == 1 and len(layer.shape) > 1 and 0 <= index[0] < size:
        index = tuple(int(i) for i in np.unravel_index(index[0], layer.shape))
    if len(index) != len(layer.shape) or any(not 0 <= i < n for i, n in zip(index, layer.shape, strict=True)):
        raise UsageError(f"--neuron: {layer.name} has neurons {'x'.join(map(str, layer.shape))}, not {index}")
    return layer, index


def _own(layer: Layer, recorded: Array) -> Array:
    """The layer's own part ``[T, *shape]`` of the first sample's recording; a circuit may have added rows behind it."""
    flat: Array = recorded[0].reshape(len(recorded[0]), -1)
    own: Array = flat[:, : math.prod(layer.shape)].reshape(-1, *layer.shape)
    return own


def _telling(net: ChipNet, layer: Layer, traces: Traces, theirs: Seen | None) -> tuple[Index, str]:
    """The neuron that differs most from the model, else the one that fires most, else that of the highest potential."""
    fired = _fires(_own(layer, traces.spikes[layer.name]))[: net.time_steps]
    if theirs is not None:
        model = _fires(theirs.spikes[layer.name][0]).reshape(fired.shape)
        wrong = (model != fired).sum(0)
        if wrong.any():
            return _at(wrong), "its spikes differ most from the model's"
    if fired.any():
        often = fired.sum(0)
        some = np.where(
            often > 0, np.minimum(often, len(fired) - often), -1
        )  # silent and always firing ones say little
        return _at(some), "it fires often, but not at each step" if some.max() > 0 else "it fires at each step"
    last = _own(layer, traces.v[layer.name])[net.time_steps - 1]
    return _at(last), "it has the highest potential at the last step"


def _at(values: Array) -> Index:
    return tuple(int(i) for i in np.unravel_index(int(values.argmax()), values.shape))


def _membrane(
    net: ChipNet,
    layer: Layer,
    index: Index,
    why: str,
    traces: Traces,
    trained: Trained | None,
    theirs: Seen | None,
) -> Membrane:
    at: Any = (slice(0, net.time_steps), *index)
    chip = _own(layer, traces.v[layer.name])[at].astype(np.float64)
    fired = _fires(_own(layer, traces.spikes[layer.name])[at])
    units, unit = _unit(net, layer, index, trained)
    model = model_fired = None
    if trained is not None and theirs is not None:
        model = theirs.potentials[layer.name][0].reshape(-1, *layer.shape)[at].astype(np.float64)
        model_fired = _fires(theirs.spikes[layer.name][0].reshape(-1, *layer.shape)[at])
        if trained.integers is not None:
            model = model / units
        else:
            neuron = trained.blocks[layer.name].neuron
            if index[0] >= layer.shape[0] - neuron.relays:  # the graph does not reset these, which nobody can tell
                model = np.where(model_fired, 0.0, model)
            if unit == "threshold":
                model = model / float(per_neuron(neuron.threshold, layer.shape)[index])
    start = int(np.clip(int(fired.argmax()) - TRACE_LEAD, 0, max(0, net.time_steps - TRACE_STEPS)))
    shown = slice(start, start + TRACE_STEPS)
    chip = chip / units
    rms = None if model is None else float(np.sqrt(((chip - model) ** 2).mean()))
    return Membrane(
        layer.name,
        index,
        why,
        unit,
        chip[shown],
        fired[shown],
        None if model is None else model[shown],
        None if model_fired is None else model_fired[shown],
        start,
        net.time_steps,
        rms,
    )


def _unit(net: ChipNet, layer: Layer, index: Index, trained: Trained | None) -> tuple[float, str]:
    """What a potential of the chip is divided by, and what it is then counted in."""
    shift = float(1 << limits.STATE_SHIFT)
    if not isinstance(layer.neuron, Neuron):
        return 1.0, f"state v of {type(layer.neuron).__name__} neurons"
    readout = layer.name == net.readout_layer.name and net.readout.kind == "potential"
    threshold = int(layer.neuron.expanded(layer.shape)["threshold"][index])
    if not readout and 0 < threshold <= limits.THRESHOLD_MAX:
        return shift * threshold, "threshold"
    scale = None if trained is None else weight_scale(trained, layer)
    if scale is None:
        return shift, "weight of the chip"
    first = layer is net.layers[0] and net.encoding.kind != "spikes"
    message = net.encoding.scale * net.encoding.step if first else 1.0
    return shift * float(scale[index[0] if isinstance(layer, Dense) or len(index) > 1 else 0]) * message, "model"
