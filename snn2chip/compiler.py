"""The compiler on one screen: capture, lower, quantise."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from snn2chip.chip import ChipNet
from snn2chip.errors import UsageError
from snn2chip.graph import Graph
from snn2chip.model_file import Model, as_array, load, model_of
from snn2chip.passes import hold_input, lower
from snn2chip.quantise import Choice, quantise

#: Calibration samples that the scale search uses; more cost time and change little.
CALIBRATION_SAMPLES = 256


@dataclass(frozen=True)
class Compiled:
    """The chip's network, and the stages that led to it.

    Attributes:
        net: integers for the chip.
        model: the graph as trained, and calibration samples.
        lowered: the graph in chip form.
        choices: scales, layer by layer.
    """

    net: ChipNet
    model: Model
    lowered: Graph
    choices: tuple[Choice, ...]


def compile_model(
    source: str | os.PathLike[str] | nn.Module | Model,
    calibration: Any = None,
    *,
    example_input: Any = None,
    bits: int = 8,
    scales: str = "search",
    analog_input: Literal["graded", "hold"] = "graded",
    window: int | None = None,
    skip: Collection[str] = (),
    trust_pickle: bool = False,
    progress: Callable[[str], None] = lambda layer: None,
) -> Compiled:
    """All stages of :func:`convert`, which describes the arguments."""
    if isinstance(source, str | os.PathLike):
        source = load(Path(source), trust_pickle)
    if isinstance(source, nn.Module):
        source = model_of(source, example_input, calibration)
    if calibration is not None:
        x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
        source = replace(source, x=as_array(x), y=None if y is None else as_array(y))
    if source.x is None:
        raise UsageError(
            "calibration: the model holds no samples; give --calibration x.npz, or save with "
            "snn2chip.save(module, path, calibration=(x, y))"
        )
    lowered = lower(source.graph, skip)
    if analog_input == "hold":
        lowered = hold_input(lowered)
    quantised = quantise(lowered, source.x[:CALIBRATION_SAMPLES], bits, scales, progress)
    net = quantised.net if window is None else replace(quantised.net, window=window)
    return Compiled(net, source, lowered, quantised.choices)


def convert(source: str | os.PathLike[str] | nn.Module | Model, calibration: Any = None, **options: Any) -> ChipNet:
    """A trained network as integers for the chip.

    Args:
        source: path of a ``model.pt``, or a trained module.
        calibration: samples ``x`` ``[N, ...]`` or ``(x, y)``; defaults to those saved with the model. The first 256 are
            used.
        options:
            ``example_input``: what the module takes, where there is no calibration data with it.
            ``bits``: width of the weights, 2 to 8.
            ``scales``: ``search`` (default: by spike-train error) or one of ``quantise.SCALE_METHODS``.
            ``analog_input``: ``graded`` messages at each step (default), or ``hold``, one message that the first layer
            holds.
            ``window``: steps between two resets, at least the time steps.
            ``skip``: names of passes to leave out.
            ``trust_pickle``: read a pickled module, which can run any code.
            ``progress``: called with the name of each layer.

    Raises:
        InputError: the file is not a model, or the data do not fit.
        UnsupportedError, LimitError: the network has no form on the chip; the message names the module.
        UsageError: there are no calibration data.
    """
    return compile_model(source, calibration, **options).net
