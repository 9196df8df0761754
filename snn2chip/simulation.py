"""Run a network on data with any simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.backends import simulator
from snn2chip.chip import ChipNet
from snn2chip.errors import InputError
from snn2chip.traces import Mode, Record, Traces, encode

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
        backend: the simulator's name.
        traces: spikes, states and counts.
        predictions: ``[N]`` classes.
        accuracy: share of predictions that are right; None without classes.
    """

    backend: str
    traces: Traces
    predictions: npt.NDArray[np.int64]
    accuracy: float | None


def check_classes(y: Array | None, samples: int) -> None:
    """Raise :class:`InputError` unless ``y`` is one integer per sample."""
    if y is not None and (y.shape != (samples,) or y.dtype.kind not in "iu"):
        raise InputError(f"data: y has shape {y.shape} and type {y.dtype}, expected {samples} integer classes")


def simulate(
    net: ChipNet,
    x: Array,
    y: Array | None = None,
    backend: str = "event",
    mode: Mode = "isolated",
    record: Record | None = None,
    **options: Any,
) -> Simulation:
    """Simulate ``net`` on data.

    Args:
        x: ``[N, T, *input_shape]``, or ``[N, *input_shape]``, static.
        y: ``[N]`` classes, for the accuracy.
        backend: ``event`` (fast), ``reference`` (plain numpy) or ``lava``.
        mode: see :data:`snn2chip.traces.Mode`.
        record: layers whose spikes and states to keep beside what the prediction needs.
        options: passed on to the simulator.

    Raises:
        InputError: the data do not fit the network.
        UsageError: no such backend.
        LavaError: Lava is missing, failed or timed out.
    """
    check_classes(y, len(x))
    if len(x) == 0:
        raise InputError("data: no samples")
    needed, asked = Record.readout(net), record or Record()
    keep = Record(needed.spikes | asked.spikes, needed.states | asked.states)
    traces: Traces = simulator(backend).run(net, encode(net, x), mode, keep, **options)
    predictions = traces.predictions(net)
    accuracy = None if y is None else float((predictions == y).mean())
    return Simulation(backend, traces, predictions, accuracy)
