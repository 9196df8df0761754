"""Run a network on data with any simulator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.backends import simulator
from snn2chip.chip import ChipNet
from snn2chip.errors import EnvironmentFailure, InputError, UnsupportedError
from snn2chip.traces import Mode, Record, Traces, encode

Array = npt.NDArray[Any]

#: ``auto`` looks no further than the event simulator where that takes less than this for everything: torch alone takes
#: about as long to load.
_WORTH_A_TRIAL_SECONDS = 2.0
_TRIAL_SHARE, _TRIAL_MOST = 64, 64  # samples


@dataclass(frozen=True)
class Simulation:
    """What came out.

    Attributes:
        backend: the simulator that ran; ``auto`` is never among them.
        traces: spikes, states and counts.
        predictions: ``[N]`` classes.
        accuracy: share of predictions that are right; None without classes.
    """

    backend: str
    traces: Traces
    predictions: npt.NDArray[np.int64]
    accuracy: float | None


def check_classes(y: Array | None, samples: int, classes: int, what: str = "data") -> None:
    """Raise :class:`InputError` unless ``y`` is one class of the network's for each sample.

    Args:
        classes: that the network has; one neuron has none, and any integer will do.
        what: in which data, for the message.
    """
    if y is None:
        return
    if y.shape != (samples,) or y.dtype.kind not in "iu":
        raise InputError(f"{what}: y has shape {y.shape} and type {y.dtype}, expected {samples} integer classes")
    if samples and classes > 1 and (y.min() < 0 or y.max() >= classes):
        wrong = int(y.max() if y.max() >= classes else y.min())
        raise InputError(f"{what}: y contains class {wrong}, the network has classes 0..{classes - 1}")


def faster_backend(
    net: ChipNet,
    messages: Array,
    mode: Mode = "isolated",
    record: Record | None = None,
    *,
    samples: int | None = None,
    **options: Any,
) -> str:
    """What ``backend="auto"`` takes: the faster of ``event`` and ``dense``, timed on the first samples.

    How they compare depends on activity, sizes and machine, so that a trial says more than a model would; what they
    compute is the same. Where ``dense`` does not know a layer, or torch fails, it is ``event``.

    Args:
        net: the network.
        messages: all messages ``[N, T, *input_shape]``, or the first of them.
        mode, record: as for the run that follows.
        samples: how many there are in all.
        options: that both simulators take (``threads``).
    """
    samples = len(messages) if samples is None else samples
    trial = messages[: max(1, min(_TRIAL_MOST, samples // _TRIAL_SHARE))]

    def seconds(name: str) -> float:
        run = simulator(name).run
        run(net, trial[:1], mode, record, **options)  # loads and warms what later runs share
        return float(run(net, trial, mode, record, **options).seconds)

    event = seconds("event")
    if event * samples / len(trial) < _WORTH_A_TRIAL_SECONDS:
        return "event"
    try:
        return "dense" if seconds("dense") < event else "event"
    except (UnsupportedError, EnvironmentFailure):
        return "event"


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
        backend: ``event`` (work proportional to spikes), ``dense`` (matrix products, also on a GPU), ``auto`` (the
            faster of both, see :func:`faster_backend`), ``reference`` (plain numpy) or ``lava``.
        mode: see :data:`snn2chip.traces.Mode`.
        record: layers whose spikes and states to keep beside what the prediction needs.
        options: passed on to the simulator.

    Raises:
        InputError: the data do not fit the network.
        UsageError: no such backend.
        LavaError: Lava is missing, failed or timed out.
    """
    check_classes(y, len(x), net.classes)
    if len(x) == 0:
        raise InputError("data: no samples")
    needed, asked = Record.readout(net), record or Record()
    keep = Record(needed.spikes | asked.spikes, needed.states | asked.states)
    messages = encode(net, x)
    if backend == "auto":
        backend = faster_backend(net, messages, mode, keep, **options)
    traces: Traces = simulator(backend).run(net, messages, mode, keep, **options)
    predictions = traces.predictions(net)
    accuracy = None if y is None else float((predictions == y).mean())
    return Simulation(backend, traces, predictions, accuracy)
