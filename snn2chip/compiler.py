"""The compiler on one screen: capture, lower, quantise."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from snn2chip.chip import ChipNet
from snn2chip.errors import UsageError
from snn2chip.graph import Graph
from snn2chip.hardware import target_of
from snn2chip.long_runs import Progress
from snn2chip.model_file import Model, as_array
from snn2chip.passes import PassCost, hold_input, lower, lowering_costs
from snn2chip.passes.approximate import approximate
from snn2chip.quantise import Choice, Widths, choose_widths, hard_reset, integer_net, is_integer, quantise
from snn2chip.quantise.network import SAMPLES, SECOND_ORDER_BITS, Shelf
from snn2chip.simulation import check_classes
from snn2chip.sources import SourceOptions, open_source

#: Calibration samples that scales are chosen on; more cost time and change little. Narrow weights, which second-order
#: rounding fits to the samples, take up to ``quantise.network.SAMPLES``.
CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Compiled:
    """The chip's network, and the stages that led to it.

    Attributes:
        net: integers for the chip.
        model: the graph as trained, and calibration samples.
        lowered: the graph in chip form.
        choices: scales, layer by layer; none where the network was integers already.
        notes: what had to be assumed to read the source, one sentence each.
        costs: what each lowering pass added.
        widths: how the bits were chosen; None where they were given.
        warnings: what looks wrong on the calibration data.
        used: so many of the first calibration samples chose scales and widths; later ones are free for other choices.
    """

    net: ChipNet
    model: Model
    lowered: Graph
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()
    costs: tuple[PassCost, ...] = ()
    widths: Widths | None = None
    warnings: tuple[str, ...] = ()
    used: int = 0


def lowered_graph(graph: Graph, skip: Collection[str] = ()) -> Graph:
    """``graph`` in chip form; integers stay as they are."""
    return graph if is_integer(graph) else lower(graph, skip)


def compile_model(
    source: str | os.PathLike[str] | nn.Module | Model,
    calibration: Any = None,
    *,
    bits: int | Literal["auto"] = 8,
    scales: str = "search",
    rounding: str = "auto",
    layers: Mapping[str, Mapping[str, Any]] | None = None,
    max_drop: float | None = None,
    budget_cores: int | None = None,
    resets: Literal["keep", "zero"] = "keep",
    analog_input: Literal["graded", "hold"] = "graded",
    window: int | None = None,
    skip: Collection[str] = (),
    per_neuron: bool = False,
    progress: Progress | None = None,
    shelf: Shelf | None = None,
    target: str = "loihi2",
    **reading: Any,
) -> Compiled:
    """All stages of :func:`convert`, which describes the arguments; ``reading`` are those of ``SourceOptions``.

    ``shelf``: see :func:`snn2chip.quantise.quantise`.
    """
    options = SourceOptions(**reading)
    if progress is not None:
        progress("reading the model", 0, 0)
    opened = open_source(source, calibration, options)
    model = opened.model
    if calibration is not None:
        x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
        model = replace(model, x=as_array(x), y=None if y is None else as_array(y))
    if is_integer(model.graph):
        net = integer_net(model.graph)
        compiled = Compiled(net, model, model.graph, (), opened.notes)
    else:
        if model.x is None:
            raise UsageError(
                "calibration: the model holds no samples; give --calibration x.npz, or save with "
                "snn2chip.save(module, path, calibration=(x, y))"
            )
        classes = math.prod(model.graph.shapes()[model.graph.output.name])
        check_classes(model.y, len(model.x), classes, "calibration")
        graph, samples = model.graph, model.x[: _samples(bits, rounding, layers or {})]
        if resets == "zero":
            graph = hard_reset(graph, samples)
        if options.approximate:
            graph = approximate(graph, samples)
        if progress is not None:
            progress("lowering", 0, 0)
        lowered = lower(graph, skip)
        if analog_input == "hold":
            lowered = hold_input(lowered)
        widths = None
        if bits == "auto":
            chip = target_of(target)
            if scales != "search" or layers:
                raise UsageError("bits: auto chooses the widths of all layers by search; leave out scales and layers")
            quantised, widths = choose_widths(
                lowered, model.x, model.y, chip, max_drop, budget_cores, per_neuron, progress=progress
            )
        else:
            if max_drop is not None or budget_cores is not None:
                raise UsageError("max_drop, budget_cores: belong to bits='auto'")
            quantised = quantise(
                lowered, samples, bits, scales, progress, per_neuron, rounding=rounding, layers=layers, shelf=shelf
            )
        net = quantised.net
        compiled = Compiled(
            net,
            model,
            lowered,
            quantised.choices,
            opened.notes,
            lowering_costs(graph, skip),
            widths,
            quantised.warnings,
            len(model.x if bits == "auto" else samples),
        )
    if window is not None and window < net.time_steps:
        raise UsageError(f"window {window}: the network runs for {net.time_steps} time steps; give at least as many")
    return replace(compiled, net=replace(net, window=net.window if window is None else window, target=target))


def _samples(bits: int | str, rounding: str, layers: Mapping[str, Mapping[str, Any]]) -> int:
    widths = [bits, *(layer["bits"] for layer in layers.values() if "bits" in layer)]
    narrow = any(isinstance(width, int) and width <= SECOND_ORDER_BITS for width in widths)
    return SAMPLES if narrow or rounding == "second-order" else CALIBRATION_SAMPLES


def convert(source: str | os.PathLike[str] | nn.Module | Model, calibration: Any = None, **options: Any) -> ChipNet:
    """A trained network as integers for the chip.

    Args:
        source: path of a ``model.pt`` or ``.nir``, or a trained module.
        calibration: samples ``x`` ``[N, ...]`` or ``(x, y)``; defaults to those saved with the model. The first 256
            are used, for weights of six bits or less the first 1024.
        options:
            those of :class:`snn2chip.sources.SourceOptions`: how a module or file is read;
            ``bits``: width of the weights, 1 to 8, or ``auto``: the fewest for each layer with which the accuracy drops
            by at most ``max_drop`` (0..1), or that fit on ``budget_cores`` (:func:`snn2chip.quantise.choose_widths`).
            ``rounding``, ``layers``: see :func:`snn2chip.quantise.quantise`.
            ``resets``: ``zero`` gives every neuron the chip's own reset, whatever the model has.
            ``scales``: ``search`` (default: by spike-train error) or one of ``quantise.SCALE_METHODS``.
            ``analog_input``: ``graded`` messages at each step (default), or ``hold``, one message that the first layer
            holds.
            ``window``: steps between two resets, at least the time steps.
            ``target``: the chip that it is for, ``loihi2`` (default) or ``loihi1``; which of its rules the network
            breaks is what :func:`snn2chip.hardware.check` says.
            ``skip``: names of passes to leave out.
            ``per_neuron``: each neuron may have a weight scale and threshold of its own; costs neuron profiles.
            ``progress``: called with what is done now, how much of it is done, and of how much (0: nobody knows).

    Raises:
        InputError: the file is not a model, or the data do not fit.
        UnsupportedError, LimitError: the network has no form on the chip; the message names the module.
        UsageError: there are no calibration data.
    """
    return compile_model(source, calibration, **options).net
