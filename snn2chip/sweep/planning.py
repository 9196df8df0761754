"""Which networks a sweep needs: layers by their full names, options that make sense, each quantisation once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from snn2chip.data import Data
from snn2chip.errors import InputError, UsageError
from snn2chip.formats import read
from snn2chip.graph import Graph
from snn2chip.long_runs import check_fits
from snn2chip.names import suggestion
from snn2chip.sweep.config import AXES, BY_LAYER, REST, Configuration, Cutoff, Setting
from snn2chip.sweep.source import Source

#: What may change where the network is integers already, in a model or in a NetX file.
OF_INTEGERS: tuple[str, ...] = ("thresholds", "window", "cutoff")
OF_NETS: tuple[str, ...] = ("cutoff",)
_USUAL = Configuration()

#: Quantisations that share all layers but the last.
Family = tuple[Configuration, ...]


@dataclass(frozen=True)
class Plan:
    """What is to be made.

    Attributes:
        configurations: with layers by their full names, each once.
        axes: options that the network has.
        networks: those that differ, as configurations without a cutoff, with the cutoffs that each is needed with.
        families: quantisations of these networks, each once.
    """

    configurations: tuple[Configuration, ...]
    axes: tuple[str, ...]
    networks: Mapping[Configuration, tuple[Cutoff, ...]]
    families: tuple[Family, ...]


def network_of(options: Configuration) -> Configuration:
    """``options`` as far as they matter to the network."""
    return replace(options, cutoff=_USUAL.cutoff)


def quantisation_of(options: Configuration) -> Configuration:
    """``options`` as far as they matter to quantisation, which thresholds are changed after."""
    return replace(options, cutoff=_USUAL.cutoff, thresholds=_USUAL.thresholds)


def plan(configurations: Sequence[Configuration], source: Source, data: Data) -> Plan:
    """Check options against the network and the data.

    Raises:
        UsageError: an option does not apply to this network, or names a layer that it does not have.
        InputError: the data do not fit the network, or have no classes.
    """
    if not data.classes:
        raise InputError(f"{data.name}: no classes y; they are needed for the accuracy")
    if any(one.cutoff.aims for one in configurations) and source.is_net and source.calibration is None:
        raise UsageError(
            "calibration: cutoffs with max_drop, eps or max_latency need held-out samples; give calibration: file, or "
            "cutoffs with threshold:"
        )
    axes = OF_NETS
    last: Callable[[str], str] = _no_layer
    if source.is_net:
        _only(configurations, OF_NETS, f"{source.model} is a NetX file; give the trained model")
        check_fits(read(source.model), data)
    else:
        configurations, axes, last = _resolved(configurations, source, data)
    each = tuple(dict.fromkeys(configurations))
    networks: dict[Configuration, tuple[Cutoff, ...]] = {}
    for one in each:
        networks[network_of(one)] = (*networks.get(network_of(one), ()), one.cutoff)
    families: dict[Configuration, dict[Configuration, None]] = {}
    for network in networks:
        options = quantisation_of(network)
        families.setdefault(_leading(options, last), {})[options] = None
    return Plan(each, axes, networks, tuple(map(tuple, families.values())))


def _leading(options: Configuration, last: Callable[[str], str]) -> Configuration:
    """``options`` as far as they matter to the layers before the last."""
    named: dict[str, Setting] = {name: getattr(options, name) for name in BY_LAYER if len(getattr(options, name)) > 1}
    cut: dict[str, Any] = {
        name: tuple(one for one in setting if one[0] != last(options.resets)) for name, setting in named.items()
    }
    return replace(options, **cut)


def _no_layer(resets: str) -> str:
    """A NetX file is not quantised, and none of its layers named."""
    return ""


def _only(configurations: Sequence[Configuration], allowed: Sequence[str], why: str) -> None:
    for one in configurations:
        for name in (field.name for field in fields(one)):
            if name not in allowed and getattr(one, name) != getattr(_USUAL, name):
                raise UsageError(f"{name}: cannot be swept, {why}; have {', '.join(allowed)}")


def _resolved(
    configurations: Sequence[Configuration], source: Source, data: Data
) -> tuple[list[Configuration], tuple[str, ...], Callable[[str], str]]:
    """With layers by their full names, which options the network has, and its last layer, by the word for resets."""
    from snn2chip.compiler import lowered_graph
    from snn2chip.passes import chip_blocks
    from snn2chip.quantise import hard_reset, integer_net, is_integer

    model = source.trained()
    graph = model.graph
    _check_shape(graph, data)
    integers = is_integer(graph)
    if integers:
        _only(configurations, OF_INTEGERS, f"{source.model} holds integers already")
    elif model.x is None:
        raise UsageError("calibration: the model holds no samples; give calibration: file")
    static = len(data.shape) == len(graph.input.shape) + 1
    for what, timed in ((data.name, not static), ("calibration", _timed(model.x, graph))):
        if timed and any(one.time_steps not in (None, graph.time_steps) for one in configurations):
            raise UsageError(f"time_steps: cannot be swept, {what} has a time axis of its own; give static samples")

    @functools.cache
    def names(resets: str) -> list[str]:
        if integers:
            return [layer.name for layer in integer_net(graph).layers]
        return [block.name for block in chip_blocks(lowered_graph(graph if resets == "keep" else hard_reset(graph)))]

    axes = OF_INTEGERS if integers else AXES
    return [_named(one, names, integers) for one in configurations], axes, lambda resets: names(resets)[-1]


def _timed(x: Any, graph: Graph) -> bool:
    return x is not None and bool(x.ndim == len(graph.input.shape) + 2)


def _check_shape(graph: Graph, data: Data) -> None:
    shape = graph.input.shape
    if data.shape[1:] not in (shape, (graph.time_steps, *shape)):
        sizes = ", ".join(map(str, shape))
        raise InputError(
            f"{data.name}: x has shape {data.shape}, expected (N, {graph.time_steps}, {sizes}) or (N, {sizes})"
        )


def _named(options: Configuration, names: Callable[[str], list[str]], integers: bool) -> Configuration:
    """With layers by their full names, and words that quantisation knows."""
    if any(len(getattr(options, name)) > 1 for name in BY_LAYER):
        known = names(options.resets)
        full: dict[str, Any] = {name: _full(name, getattr(options, name), known) for name in BY_LAYER}
        options = replace(options, **full)
    if not integers:
        from snn2chip.quantise.network import Option, layer_options
        from snn2chip.sweep.compiling import layer_changes

        changes = layer_changes(options)
        usual = Option(*(dict(getattr(options, name))[REST] for name in ("bits", "scales", "rounding")))
        layer_options(list(changes), changes, usual)
    return options


def _full(name: str, setting: Setting, known: Sequence[str]) -> Setting:
    paths = {layer.split(" (")[0]: layer for layer in known}
    found: dict[str, Any] = {}
    for layer, value in setting:
        full = layer if layer == REST or layer in known else paths.get(layer)
        if full is None:
            raise UsageError(f"{name}: {layer!r} is no layer of the network{suggestion(layer, known)}")
        if full in found:
            raise UsageError(f"{name}: {full} is given twice, by its name and by its path")
        found[full] = value
    rest = found.pop(REST)
    return ((REST, rest), *sorted(found.items()))
