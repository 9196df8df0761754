"""The whole network: which layers there are, what each is given, and the integers that come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, EncodingKind, Readout
from snn2chip.errors import InputError, UsageError
from snn2chip.graph import Graph, execute
from snn2chip.long_runs import Progress, digest
from snn2chip.names import suggestion
from snn2chip.passes import Block, chip_blocks
from snn2chip.quantise import residual
from snn2chip.quantise.layers import Floats, Form, build
from snn2chip.quantise.ranges import PER_NEURON, SCALE_METHODS
from snn2chip.quantise.search import Candidate, Given, Task, choose, counted, most_attempts, second_order
from snn2chip.traces import messages_of

Array = npt.NDArray[Any]

#: Calibration samples that are used; more cost time and change little.
SAMPLES = 1024
#: Widths up to which second-order rounding is tried unless it is asked for; with more bits it takes time for little.
SECOND_ORDER_BITS = 6
#: Share of steps with a spike from which on a layer says nothing any more.
SATURATED = 0.99
ROUNDINGS = ("auto", "nearest", "second-order")


@dataclass(frozen=True)
class Choice:
    """What was chosen for one layer.

    Attributes:
        layer: its name.
        method: how the range of weights was chosen; ``per neuron`` where each row has a range of its own.
        weight_scale: integers per unit of weight; the median where each row has its own.
        message_scale: integers per unit of input; 1 for spikes.
        error: share of spikes that differ from the trained model's on calibration data; for a readout the relative
            error of the potentials.
    """

    layer: str
    method: str
    weight_scale: float
    message_scale: float
    error: float


@dataclass(frozen=True)
class Plan:
    """What makes integers of a layer's floats, whatever these are: :func:`snn2chip.quantise.layers.build`'s arguments.

    Attributes:
        bits, exponent, hardware_legal: see :class:`~snn2chip.quantise.layers.Form`.
        scale: integers per unit of weight, before the exponent, ``[C]``.
        message_scale: messages per unit of input.
    """

    bits: int
    exponent: int
    hardware_legal: bool
    scale: Floats
    message_scale: float
    largest_message: int
    nearest: bool
    steps: int

    def form(self, block: Block) -> Form:
        """``block`` at the plan's width."""
        return Form(block, self.bits, self.hardware_legal, self.exponent)

    def build(self, block: Block) -> Dense | Conv:
        """The layer of ``block``; raises :class:`LimitError` where its numbers have outgrown the plan."""
        form = self.form(block)
        return build(form, self.scale, self.message_scale, self.largest_message, self.nearest, self.steps)


@dataclass(frozen=True)
class Quantised:
    """The network and how it came about.

    Attributes:
        plans: how each layer's integers were made, in order; second-order rounding aside.
        warnings: what looks wrong on the calibration data, one sentence each.
    """

    net: ChipNet
    choices: tuple[Choice, ...]
    plans: tuple[Plan, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Option:
    """How one layer is quantised; see :func:`quantise`."""

    bits: int = 8
    scales: str = "search"
    rounding: str = "auto"


class Workbench:
    """A lowered graph on calibration data: quantises it layer by layer, each on what the ones before send.

    Args:
        graph: in chip form.
        x: calibration samples.
        per_neuron, hardware_legal: see :func:`quantise`.
    """

    def __init__(self, graph: Graph, x: Array, per_neuron: bool = False, hardware_legal: bool = True) -> None:
        _check_samples(x)
        self.graph, self.blocks = graph, chip_blocks(graph)
        self._x, self._per_neuron, self._hardware_legal = x, per_neuron, hardware_legal
        names = {block.neuron.name for block in self.blocks}
        self._trained = execute(graph, x, keep=lambda node: node.name in names)
        self._path: list[tuple[Option, Candidate]] = []

    def layers(self, options: Sequence[Option], progress: Progress | None = None) -> list[Candidate]:
        """The integers of all layers; the first ones are those of the last call, as far as the options are the same."""
        same = 0
        while same < min(len(self._path), len(options)) and self._path[same][0] == options[same]:
            same += 1
        del self._path[same:]
        for i, option in enumerate(options[same:], same):
            tell = None if progress is None else self._telling(i, progress)
            self._path.append((option, self.layer(i, option, self._path[-1][1] if self._path else None, tell)))
        return [candidate for _, candidate in self._path]

    def _telling(self, index: int, progress: Progress) -> Callable[[float], None]:
        """Tells ``progress`` the share of one layer that is done as a part of all layers, weighted by synapses."""
        shapes = self.graph.shapes()
        work = []
        for block in self.blocks:
            weight = block.synapse.weight
            work.append(int(np.prod(shapes[block.neuron.name])) * max(weight.size // max(len(weight), 1), 1))
        before, own, total = sum(work[:index]), work[index], sum(work)
        return lambda share: progress(f"scales: {self.blocks[index].name}", before + int(share * own), total)

    def layer(
        self, index: int, option: Option, before: Candidate | None, tell: Callable[[float], None] | None = None
    ) -> Candidate:
        """The integers of one layer, ``before`` being those of the previous one; ``tell``: the share that is done."""
        block = self.blocks[index]
        form = Form(block, option.bits, self._hardware_legal)
        potential = index == len(self.blocks) - 1 and self.graph.reads_potential
        name = block.neuron.name
        expected = self._trained.potentials[name] if potential else self._trained.outputs[name].astype(np.uint8)
        if before is None:
            least = 5 if option.scales == "search" else 8
            inputs = _inputs(self.graph, self._x, form.subtracts, least)
            wanted = _over_time(self.graph, self._x)
        else:
            inputs = [Given(Encoding(), before.spikes, 1.0)]
            wanted = self._trained.outputs[self.blocks[index - 1].neuron.name]
        by_row = not potential and (self._per_neuron or option.scales == PER_NEURON)
        narrow = option.rounding == "auto" and option.bits <= SECOND_ORDER_BITS
        second = option.scales == "search" and (narrow or option.rounding == "second-order")
        tried = None if tell is None else counted(tell, most_attempts(len(inputs), option.scales, by_row, second))
        task = Task(form, expected, potential, wanted, self.graph.time_steps, tried)
        best = choose(task, inputs, option.scales, by_row)
        return second_order(task, best, by_row) if second else best

    def finished(self, layers: list[Candidate]) -> Quantised:
        """The network of all layers."""
        inexact = list(self.graph.inexact)
        first = layers[0]
        if first.form.subtracts and first.given.encoding.message_bits:
            inexact.append(_coarse_input(first.form, first.given.encoding))
        for best in layers:
            inexact += residual.inexact(best.form, best.layer, best.given.encoding, best.given.messages, best.spikes)
        net = ChipNet(
            input_shape=self.graph.input.shape,
            layers=tuple(best.layer for best in layers),
            encoding=first.given.encoding,
            readout=Readout("potential" if self.graph.reads_potential else "count"),
            time_steps=self.graph.time_steps,
            inexact=tuple(inexact),
        )
        plans = tuple(_plan(best, self.graph.time_steps) for best in layers)
        return Quantised(net, tuple(_choice(best) for best in layers), plans, tuple(self._warnings(layers)))

    def _warnings(self, layers: list[Candidate]) -> list[str]:
        """Layers in which nothing, or everything, happens on the calibration data."""
        found = []
        for block, best in zip(self.blocks, layers, strict=True):
            own = best.form.live
            if not block.neuron.spikes or not own.any():
                continue
            trained, chip = (
                spikes[:, :, own].astype(bool) for spikes in (self._trained.outputs[block.neuron.name], best.spikes)
            )
            for what, spikes in (("trained model", trained), ("chip", chip)):
                if not spikes.any():
                    why = "its weights or its input are too small for its threshold, or the data are not the model's"
                    found.append(f"{block.name}: is dead, no neuron fires in the {what} on calibration data; {why}")
                    break
                share = float(spikes.mean())
                if share > SATURATED:
                    found.append(
                        f"{block.name}: is saturated, its neurons fire in {share:.1%} of all steps in the {what} on "
                        "calibration data; raise its threshold or scale the data as in training"
                    )
                    break
        return found


class Shelf:
    """The workbench that was used last, for the next network of the same graph and samples."""

    def __init__(self) -> None:
        self._key = ""
        self._bench: Workbench | None = None

    def bench(self, graph: Graph, x: Array, per_neuron: bool, hardware_legal: bool) -> Workbench:
        """A workbench, perhaps one that was used before; arguments as of :class:`Workbench`."""
        key = digest((graph, x, per_neuron, hardware_legal))
        if self._bench is None or key != self._key:
            self._key, self._bench = key, Workbench(graph, x, per_neuron, hardware_legal)
        return self._bench


def quantise(
    graph: Graph,
    x: Array,
    bits: int = 8,
    scales: str = "search",
    progress: Progress | None = None,
    per_neuron: bool = False,
    hardware_legal: bool = True,
    rounding: str = "auto",
    layers: Mapping[str, Mapping[str, Any]] | None = None,
    shelf: Shelf | None = None,
) -> Quantised:
    """Integers for a lowered graph.

    Args:
        graph: in chip form (:func:`snn2chip.passes.lower`).
        x: calibration samples ``[N, ...]`` as the model takes them.
        bits: width of the weights, 1 to 8.
        scales: ``search``, one of :data:`SCALE_METHODS` for every layer, or ``per neuron``: in every row the largest
            magnitude fills the bits.
        progress: called with each layer's name, and how much of all work is done.
        per_neuron: the search may give each row a scale, and so a threshold, of its own. That costs neuron profiles,
            of which a core has few.
        hardware_legal: decays fit the chip's registers. If not, memoryless membranes have ``vDecay`` 4096, which only
            Lava computes.
        rounding: ``nearest``, ``second-order``, or ``auto``: second-order for weights of up to six bits. It belongs to
            ``search``.
        layers: ``bits``, ``scales`` or ``rounding`` of single layers, by their name or its path (``features.3``).
        shelf: what one network after the other may reuse; changes no result.

    Raises:
        UsageError: an option or a layer is unknown.
        InputError: the calibration data do not fit the network.
        LimitError: a layer cannot be expressed in the chip's ranges.
    """
    options = layer_options([block.name for block in chip_blocks(graph)], layers or {}, Option(bits, scales, rounding))
    make = Workbench if shelf is None else shelf.bench
    if progress is not None:
        progress("running the trained model", 0, 0)
    bench = make(graph, x, per_neuron, hardware_legal)
    return bench.finished(bench.layers([options[block.name] for block in bench.blocks], progress))


def _over_time(graph: Graph, x: Array) -> Array:
    """What the trained model is shown, ``[N, T, ...]``."""
    steps = graph.time_steps
    if x.ndim == len(graph.input.shape) + 2:
        return x
    shown = np.broadcast_to(x[:, None], (len(x), steps, *x.shape[1:]))
    return shown * (np.arange(steps) == 0).reshape(-1, *(1,) * (x.ndim - 1)) if graph.input.kind == "hold" else shown


def _plan(best: Candidate, steps: int) -> Plan:
    form, given = best.form, best.given
    return Plan(
        form.bits,
        form.exponent,
        form.hardware_legal,
        best.scale,
        given.scale,
        given.encoding.largest,
        best.nearest,
        steps,
    )


def layer_options(names: list[str], layers: Mapping[str, Mapping[str, Any]], usual: Option) -> dict[str, Option]:
    """What each layer is quantised with.

    Args:
        layers: changes of ``usual``, by the layer's name or its path.

    Raises:
        UsageError: a value, a layer or an option is unknown.
    """
    _check_option("", usual)
    found = dict.fromkeys(names, usual)
    paths = {name.split(" (")[0]: name for name in names}
    for key, changes in layers.items():
        name = key if key in found else paths.get(key)
        if name is None:
            raise UsageError(f"layers: {key!r} is no layer of the network{suggestion(key, names)}")
        known = [f.name for f in fields(Option)]
        for option in changes:
            if option not in known:
                raise UsageError(f"layers: {key}: {option!r} is unknown{suggestion(option, known, ', expected ')}")
        found[name] = replace(usual, **changes)
        _check_option(f"{name}: ", found[name])
    return found


def _check_option(where: str, option: Option) -> None:
    if isinstance(option.bits, bool) or not isinstance(option.bits, int) or not 1 <= option.bits <= 8:
        raise UsageError(f"{where}bits: {option.bits}, the chip's weights have 1 to 8")
    for what, value, known in (
        ("scales", option.scales, ("search", PER_NEURON, *SCALE_METHODS)),
        ("rounding", option.rounding, ROUNDINGS),
    ):
        if value not in known:
            raise UsageError(f"{where}{what}: {value!r} is unknown{suggestion(value, known, ', expected ')}")


def _check_samples(x: Array) -> None:
    if len(x) == 0:
        raise InputError("calibration: no samples")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError("calibration: contains NaN or infinite values")


def _coarse_input(form: Form, encoding: Encoding) -> str:
    return (
        f"input: messages have {encoding.message_bits} bits, rounded over time: the reset by subtraction of "
        f"{form.block.neuron.name} is a weight, so that a threshold is at most {form.bounds[1]} units of weight times "
        "message; reset='zero' or spikes as input would be finer"
    )


def _choice(best: Candidate) -> Choice:
    live = best.form.live
    scales = best.scale[live] if live.any() else best.scale
    return Choice(best.layer.name, best.method, float(np.median(scales)) * best.form.gain, best.given.scale, best.error)


def _inputs(graph: Graph, x: Array, coarse: bool, least_bits: int) -> list[Given]:
    """Encodings to try: spikes as they are; analog input with 8 bits, or fewer where weights or bias need the room.

    Args:
        coarse: any number of bits may be needed; then rounding is spread over time.
    """
    if graph.input.kind == "spikes":
        encodings = [Encoding()]
    else:
        kind: EncodingKind = "hold" if graph.input.kind == "hold" else "graded"
        largest = float(np.abs(x).max())
        if largest == 0:
            raise InputError("calibration: all samples are zero")
        signed = bool((x < 0).any())
        encodings = []
        spread = coarse and kind == "graded"
        for message_bits in range(8, max(1 if coarse else least_bits, 1 + signed) - 1, -1):
            high = (1 << (message_bits - signed)) - 1
            encodings.append(Encoding(kind, high / largest, -high - 1 if signed else 0, high, spread))
    return [Given(encoding, _messages(graph, encoding, x), encoding.scale) for encoding in encodings]


def _messages(graph: Graph, encoding: Encoding, x: Array) -> Array:
    """What the chip is sent for ``x``, over the whole window."""
    messages = messages_of(encoding, graph.input.shape, graph.time_steps, x)
    silent = graph.time_steps - messages.shape[1]
    return np.pad(messages, ((0, 0), (0, silent), *((0, 0),) * len(graph.input.shape)))
