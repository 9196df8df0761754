"""Capture of NIR files (Neuromorphic Intermediate Representation), for all exporters that are known."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from snn2chip import hdf5
from snn2chip.errors import UsageError
from snn2chip.frontends.nir_dialects import DIALECTS, NAMES, Dialect, mismatch, recognise, time_step
from snn2chip.frontends.nir_file import NirFile, parse
from snn2chip.frontends.nir_nodes import Build, Time, add_operation, continuous, own_shape
from snn2chip.frontends.nir_own import read_own
from snn2chip.graph import Graph, Reset

#: Values of ``--reset``: what a spike does to the potential, where the file does not say it. "zero" and "subtract" act
#: when the framework's neurons do so by default, which with snnTorch is one step later (``reset_delay=True``);
#: "zero-now" and "subtract-now" act in the step of the spike.
NirReset = Literal["zero", "subtract", "zero-now", "subtract-now"]
RESETS: tuple[str, ...] = get_args(NirReset)


@dataclass(frozen=True)
class NirModel:
    """What a NIR file holds.

    Attributes:
        graph: the network in discrete time.
        dialect: whose conventions were applied; "snn2chip" for files that we wrote.
        dt: the time step in seconds (sinabs: in its own unit, 1).
        notes: what was assumed, one sentence each.
    """

    graph: Graph
    dialect: str
    dt: float
    notes: tuple[str, ...]


def read_nir(
    path: str | os.PathLike[str],
    dialect: str = "auto",
    dt: float | None = None,
    reset: str | None = None,
    time_steps: int | None = None,
) -> NirModel:
    """Read a ``.nir`` file.

    Args:
        dialect: whose conventions give discrete time: "snntorch", "spikingjelly", "norse", "sinabs", "rockpool"; "nir"
            for the equations as written; "auto" where metadata or the numbers tell it.
        dt: the time step in seconds; defaults to the dialect's.
        reset: one of ``RESETS``; needed where the exporter loses it.
        time_steps: steps of one sample, which NIR does not hold; defaults to our metadata's, else 1.

    Raises:
        InputError: the file is missing, malformed, or tries something it must not; the message names the node.
        UnsupportedError: a node has no form in the graph.
        UsageError: the dialect, the reset or the step is not clear; the message names the options.
    """
    if dialect not in NAMES:
        raise UsageError(f"--nir-dialect is {dialect!r}, expected {', '.join(NAMES)}")
    if reset is not None and reset not in RESETS:
        raise UsageError(f"--reset is {reset!r}, expected {', '.join(RESETS)}")
    if dt is not None and not (math.isfinite(dt) and dt > 0):
        raise UsageError(f"--dt is {dt}, expected a positive number of seconds")
    # Absurd parameters overflow; what does not come out finite is refused by name.
    with hdf5.opened(path) as root, np.errstate(all="ignore"):
        file = parse(root)
        if file.text is not None and dialect == "auto":
            given = [name for name, value in (("--dt", dt), ("--reset", reset)) if value is not None]
            if given:
                raise UsageError(f"its metadata hold what {' and '.join(given)} would say; leave them out")
            graph, step = read_own(file, file.text)
            model = NirModel(graph, "snn2chip", step, (_OWN,))
        else:
            model = _foreign(file, dialect, dt, reset)
        if time_steps is not None:
            graph = replace(model.graph, time_steps=time_steps)
            return replace(model, graph=graph, notes=tuple(n for n in model.notes if n != NO_STEPS))
        return model


_OWN = "written by snn2chip: neurons, reset and time steps as its metadata say"
_STILL_ABOVE = (
    "snnTorch with reset_delay=False treats potentials otherwise that stay above the threshold after a spike (above "
    "twice the threshold before it)"
)
#: Note of a file that only the data can complete.
NO_STEPS = "NIR holds no number of time steps: 1 until the data or --time-steps say it"


def _foreign(file: NirFile, name: str, dt: float | None, reset: str | None) -> NirModel:
    neurons = [continuous(operation, own_shape(operation)) for operation in file.neurons()]
    if name == "auto":
        dialect, how = recognise(neurons, dt, file.recurrent_names)
        how = f"recognised as {dialect.label}'s {how}"
    else:
        dialect, how = DIALECTS[name], f"read as {DIALECTS[name].label}'s, as asked for"
        if (reason := mismatch(dialect, neurons, dt)) is not None:
            raise UsageError(f"is not {dialect.label}'s: {reason}; give another --nir-dialect or --dt")
    step = time_step(dialect, dt, neurons)
    kind, delayed = _reset(dialect, reset, any(neuron.kind in ("IF", "LIF", "CubaLIF") for neuron in neurons))
    build = Build(Time(step, dialect, kind, delayed))
    build.notes += [how, f"time step {step:g}{'' if dialect.name == 'sinabs' else ' s'}"]
    does = "subtracts the threshold from the potential" if kind == "subtract" else "sets the potential to v_reset"
    build.notes.append(f"a spike {does} {'one step later (reset_delay=True)' if delayed else 'in the same step'}")
    build.notes.append(f"neurons fire at v {'>=' if dialect.inclusive else '>'} threshold")
    build.notes += [*dialect.remarks, NO_STEPS]
    for operation in file.operations:
        add_operation(build, operation)
    spiking = any(neuron.kind in ("IF", "LIF", "CubaLIF") for neuron in neurons)
    inexact = dialect.inexact if spiking else ()
    if spiking and dialect.reset_delay and kind == "subtract" and not delayed:
        inexact += (_STILL_ABOVE,)
    graph = Graph(tuple(build.nodes), 1, inexact=inexact)
    return NirModel(graph, dialect.name, step, tuple(build.notes))


def _reset(dialect: Dialect, reset: str | None, needed: bool) -> tuple[Reset, bool]:
    if reset is not None:
        if dialect.name == "rockpool" and reset.startswith("zero"):
            raise UsageError(f"--reset {reset}: Rockpool's neurons subtract the threshold; leave it out")
        kind, _, now = reset.partition("-")
        return "zero" if kind == "zero" else "subtract", dialect.reset_delay and not now
    if dialect.reset is not None:
        return dialect.reset, False
    if needed:
        raise UsageError(
            f"{dialect.label}'s exporter does not say what a spike does to the potential (v_reset is 0 in any case); "
            f"give --reset {'|'.join(RESETS)}, as it was trained"
            + (" (-now: reset_delay=False)" if dialect.reset_delay else "")
        )
    return "zero", False
