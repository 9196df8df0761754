"""Where a trained network comes from: ``model.pt``, a state dict and the function that makes its module, or NIR."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from snn2chip.errors import UsageError
from snn2chip.frontends import Layout
from snn2chip.model_file import Model, as_array, fitted, load, model_of


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source; what does not apply to it is an error.

    Attributes:
        example_input, layout: of a module, see :func:`snn2chip.frontends.capture`.
        approximate: allow what has no exact form; it is listed with its effect.
        trust_pickle: read a pickled module, which can run any code.
        factory: ``package.module:function`` that makes the module of a state dict.
        nir_dialect, dt, reset, time_steps: see :func:`snn2chip.frontends.nir.read_nir`.
    """

    example_input: Any = None
    layout: Layout | None = None
    approximate: bool = False
    trust_pickle: bool = False
    factory: str | None = None
    nir_dialect: str = "auto"
    dt: float | None = None
    reset: str | None = None
    time_steps: int | None = None


@dataclass(frozen=True)
class Opened:
    """A model, and what had to be assumed to read it, one sentence each."""

    model: Model
    notes: tuple[str, ...] = ()


def open_source(
    source: str | os.PathLike[str] | nn.Module | Model, calibration: Any = None, options: SourceOptions | None = None
) -> Opened:
    """The model of a file or a module.

    Args:
        calibration: samples ``x`` ``[N, ...]`` or ``(x, y)``.

    Raises:
        InputError: the file cannot be read.
        UsageError: an option does not apply.
        UnsupportedError: something in the network has no counterpart.
    """
    options = options or SourceOptions()
    if isinstance(source, Model):
        return Opened(source)
    if not isinstance(source, nn.Module):
        path = Path(source)
        nir = path.suffix.lower() == ".nir"
        _check_options(path, nir, options)
        if nir:
            from snn2chip.frontends.nir import NO_STEPS, read_nir

            found = read_nir(path, options.nir_dialect, options.dt, options.reset, options.time_steps)
            x, y = calibration if isinstance(calibration, tuple | list) else (calibration, None)
            graph = found.graph if x is None or options.time_steps else fitted(found.graph, as_array(x))
            notes = [note for note in found.notes if note != NO_STEPS or graph is found.graph]
            return Opened(Model(graph, x, y), tuple(notes))
        if options.factory is not None:
            from snn2chip.frontends.factory import module_from_state

            source = module_from_state(path, options.factory)
        else:
            loaded = load(path, options.trust_pickle)
            if isinstance(loaded, Model):
                return Opened(loaded)
            source = loaded
    assert isinstance(source, nn.Module)  # files are read above
    return Opened(model_of(source, options.example_input, calibration, options.layout, options.approximate))


def _check_options(path: Path, nir: bool, options: SourceOptions) -> None:
    for_nir = {
        "--nir-dialect": options.nir_dialect != "auto",
        "--dt": options.dt is not None,
        "--reset": options.reset is not None,
        "--time-steps": options.time_steps is not None,
    }
    for_modules = {"--factory": options.factory is not None, "--trust-pickle": options.trust_pickle}
    for flag, given in (for_modules if nir else for_nir).items():
        if given:
            kind = "a NIR file" if nir else "not a NIR file"
            raise UsageError(f"{flag}: does not apply, {path} is {kind}")
