"""What a simulator is asked to keep and what it returns: the contract between simulators, verify and report.

Every simulator is a function ``run(net, messages, mode="isolated", record=Record(), **options) -> Traces``, registered
under the entry point group ``snn2chip.simulators``. ``messages`` are integers of any type ``[N, T, *input_shape]`` with
``T <= net.window``: :func:`encode` makes bytes of spikes, int32 of graded input. Steps from T to the window are silent.
All times are layer time.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Encoding, Shape
from snn2chip.errors import InputError, UsageError

Array = npt.NDArray[Any]

#: ``isolated``: each sample starts from rest. ``windowed``: samples follow one another as on the chip, u and v are
#: reset at each window, spikes in flight cross it. ``streaming``: samples follow one another, nothing is ever reset.
Mode = Literal["isolated", "windowed", "streaming"]
MODES: tuple[Mode, ...] = ("isolated", "windowed", "streaming")


@dataclass(frozen=True)
class Record:
    """Names of the layers whose spikes, and whose u and v, are kept. Counts are always kept."""

    spikes: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()

    @staticmethod
    def of(spikes: Iterable[str] = (), states: Iterable[str] = ()) -> Record:
        """Spikes of some layers, u and v of some."""
        return Record(frozenset(spikes), frozenset(states))

    @staticmethod
    def everything(net: ChipNet) -> Record:
        """Spikes, u and v of every layer."""
        names = frozenset(layer.name for layer in net.layers)
        return Record(names, names)

    @staticmethod
    def readout(net: ChipNet) -> Record:
        """What a prediction needs."""
        last = (net.readout_layer.name,)
        return Record.of(states=last) if net.readout.kind == "potential" else Record.of(spikes=last)


@dataclass(frozen=True)
class Traces:
    """What a simulator saw.

    Attributes:
        spikes: by layer, uint8 ``[N, W, *shape]``; where messages are graded (``layer.neuron.graded``), int32 payloads,
            and whatever is not 0 counts as a spike.
        u, v: by layer, int32 ``[N, W, *shape]``, v after the reset by a spike. Neurons other than
            :class:`~snn2chip.chip.Neuron` say in their docstrings what is shown as u and v.
        spikes_per_step: by layer, int64 ``[W]``: spikes at each step over all samples.
        operations_per_step: by layer, int64 ``[W]``: synapses that received a message at that step, over all samples.
            Recurrent synapses count with the step of the spike that they carry.
        seconds: simulation alone, without compiling, loading and writing.
        overhead_seconds: the rest.
    """

    spikes: dict[str, Array]
    u: dict[str, npt.NDArray[np.int32]]
    v: dict[str, npt.NDArray[np.int32]]
    spikes_per_step: dict[str, npt.NDArray[np.int64]]
    operations_per_step: dict[str, npt.NDArray[np.int64]]
    seconds: float = 0.0
    overhead_seconds: float = 0.0

    @property
    def spike_counts(self) -> dict[str, int]:
        """Spikes of each layer over all samples and steps."""
        return {name: int(counts.sum()) for name, counts in self.spikes_per_step.items()}

    @property
    def synaptic_operations(self) -> int:
        """Synapses that received a message, over all samples, layers and steps."""
        return sum(int(counts.sum()) for counts in self.operations_per_step.values())

    def scores(self, net: ChipNet) -> Array:
        """``[N, classes]`` from the readout: spike counts, or potentials at the last step of the sample."""
        last, steps = net.readout_layer.name, net.time_steps
        if net.readout.kind == "potential":
            scores: Array = self.v[last][:, steps - 1]
        else:
            scores = self.spikes[last][:, :steps].sum(1, dtype=np.int64)
        return scores.reshape(len(scores), -1)[:, : net.classes]

    def predictions(self, net: ChipNet) -> npt.NDArray[np.int64]:
        """``[N]`` class of the highest score; the lowest class wins a tie."""
        best: npt.NDArray[np.int64] = self.scores(net).argmax(1)
        return best


def encode(net: ChipNet, x: Array) -> Array:
    """Messages of data ``x`` for ``net``; see :func:`messages_of`."""
    return messages_of(net.encoding, net.input_shape, net.time_steps, x)


def messages_of(encoding: Encoding, shape: Shape, steps: int, x: Array) -> Array:
    """Messages ``[N, T, *shape]`` of data ``x``, uint8 for spikes, else int32; a held input has one step.

    Args:
        x: ``[N, T, *shape]``, or without T: static, presented at each step.

    Raises:
        InputError: the shape is neither, the data are not finite, or spikes are asked for and ``x`` is not binary.
    """
    if x.dtype.kind not in "iufb":
        raise InputError(f"data: type {x.dtype}, expected numbers")
    static = x.ndim == len(shape) + 1
    if (x.shape[1:] if static else x.shape[2:]) != shape or x.ndim - len(shape) not in (1, 2):
        raise InputError(
            f"data: shape {x.shape}, expected (N, T, {', '.join(map(str, shape))}) or without T for static input"
        )
    if not static and x.shape[1] != steps:
        raise InputError(f"data: {x.shape[1]} time steps, the network was made for {steps}")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError("data: contains NaN or infinite values")
    if encoding.kind == "spikes":
        if not ((x == 0) | (x == 1)).all():
            raise InputError("data: not binary, but the network takes spikes (0 and 1)")
        messages: Array = x.astype(np.uint8)
    else:
        messages = encoding.rounded(x)
    if encoding.spread:
        exact = np.clip(x * encoding.scale, encoding.low, encoding.high)
        if static:
            sums = exact[:, None] * np.arange(1, steps + 1).reshape(-1, *(1,) * len(shape))
        else:
            sums = np.cumsum(exact, axis=1)
        return np.diff(np.rint(sums).astype(np.int32), axis=1, prepend=0)
    if encoding.kind == "hold":
        if not static:
            raise InputError("data: has a time axis, but the network holds a static input (one message at step 0)")
        return messages[:, None]
    return np.repeat(messages[:, None], steps, axis=1) if static else messages


def check_messages(net: ChipNet, messages: Array) -> None:
    """Raise :class:`InputError` unless ``messages`` are ``[N, T, *input_shape]`` with T no longer than the window."""
    if messages.ndim != len(net.input_shape) + 2 or messages.shape[2:] != net.input_shape:
        raise InputError(f"messages: shape {messages.shape}, expected (N, T, {', '.join(map(str, net.input_shape))})")
    if messages.shape[1] > net.window:
        raise InputError(f"messages: {messages.shape[1]} time steps, the window has {net.window}")


def padded(net: ChipNet, messages: Array) -> npt.NDArray[np.int32]:
    """``messages`` as int32 in an array ``[N, W, *input_shape]``, silent after their last step."""
    check_messages(net, messages)
    out = np.zeros((messages.shape[0], net.window, *net.input_shape), np.int32)
    out[:, : messages.shape[1]] = messages
    return out


def check_mode(mode: str) -> None:
    """Raise :class:`UsageError` unless ``mode`` is one of :data:`MODES`."""
    if mode not in MODES:
        raise UsageError(f"mode: {mode!r} is unknown, expected {', '.join(MODES)}")
