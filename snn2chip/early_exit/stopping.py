"""Simulation that ends a sample's window at its decision and skips the steps that remain.

Samples go through all layers in blocks of steps, side by side; those that have decided leave. u, v and the last spikes
of the others pass from one block to the next. Layer time makes that simple: a block of steps of one layer needs nothing
but the same block of the layer before.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from numba import typeof, types
from numba.experimental.function_type import _get_wrapper_address

from snn2chip.chip import ChipNet, Conv, Dense, Exit
from snn2chip.early_exit.activity import of_spikes
from snn2chip.early_exit.evidence import Evidence, accumulated_scores
from snn2chip.early_exit.policies import Decisions, decide, lead
from snn2chip.errors import UsageError
from snn2chip.simulators import event, event_stages
from snn2chip.simulators.event_stages import Pool, Stage
from snn2chip.traces import check_messages

Array = npt.NDArray[Any]

_BLOCK_BYTES = 1 << 22  # of the largest array of a block; smaller ones fit the caches, but each costs calls


@dataclass(frozen=True)
class Stopped:
    """What came out.

    Attributes:
        decisions: as of the whole window.
        steps: time steps that were computed, over all samples; those of a block that a decision came early in count.
        seconds: the simulation alone.
        overhead_seconds: laying out and compiling.
    """

    decisions: Decisions
    steps: int
    seconds: float
    overhead_seconds: float


def _each(
    kernel: Any,
    x: Array,
    graded: bool,
    own: Any,
    law: Any,
    which: Array,
    u: Array,
    v: Array,
    last: Array,
    out: Array,
    counts: Array,
    keep: bool,
    trace_u: Array,
    trace_v: Array,
) -> None:
    """``kernel`` on each sample, which goes on from its own row, ``which[n]``, of ``u``, ``v`` and ``last``."""
    for n in range(len(x)):
        k = which[n]
        kernel(
            x[n : n + 1],
            graded,
            *own,
            law,
            0,
            0,
            False,
            u[k],
            v[k],
            last[k],
            out[n : n + 1],
            counts[0],
            counts[1],
            keep,
            trace_u[n : n + 1],
            trace_v[n : n + 1],
        )


class _Compiled(types.WrapperAddressProtocol):
    """A kernel for arguments of certain types, by its address; numba would look it up at each call."""

    def __init__(self, kernel: Any, signature: Any) -> None:
        self._signature = signature
        address: Any = _get_wrapper_address  # numba has no type information
        self._address = address(kernel, signature)

    def __wrapper_address__(self) -> int:
        """Where it is."""
        return int(self._address)

    def signature(self) -> Any:
        """What it takes."""
        return self._signature


@functools.cache
def _looped(kernel: Any, given: tuple[Any, ...]) -> Callable[..., None]:
    """:func:`_each` for a kernel, compiled for further arguments of these types.

    The kernel is called through its address. As a part of the loop it would be optimised once more, which takes tens of
    seconds, and a loop that is kept on disk would not notice that the kernel, in another file, has changed.
    """
    x, graded, own, law, _, u, v, last, out, counts, keep, trace_u, trace_v = given

    def row(array: Any) -> Any:
        return types.Array(array.dtype, 1, "C")

    arguments = (x, graded, *own.types, law, types.int64, types.int64, types.boolean, row(u), row(v), row(last), out)
    signature = types.void(*arguments, row(counts), row(counts), keep, trace_u, trace_v)
    njit: Any = numba.njit((types.FunctionType(signature), *given), nogil=True)
    return functools.partial(njit(_each), _Compiled(kernel, signature))


class _Resumed:
    """A layer with the state of many samples."""

    def __init__(self, stage: Stage, samples: int, loops: dict[Any, Any]) -> None:
        self.stage, self.loops = stage, loops
        self.fast = isinstance(stage, event_stages.SpikingStage) and stage.delays is None
        if self.fast:
            self.u, self.v = (np.zeros((samples, stage.pitch), np.int32) for _ in range(2))
            self.last = np.zeros((samples, stage.pitch), stage.message_type)
        else:
            self.carries = [stage.rest() for _ in range(samples)]

    def advance(self, which: Array, x: Array, graded: bool, states: bool = False) -> tuple[Array, Array]:
        """Messages ``[N, S, pitch]`` of rows ``x`` ``[N, S, inputs]``, and v ``[N, S, neurons]`` where asked for.

        Args:
            which: sample of each row.
        """
        stage = self.stage
        lead = x.shape[:2]
        out = np.empty((*lead, stage.pitch), stage.message_type)
        traces = np.empty((2, *lead, stage.size), np.int32) if states else np.zeros((2, 0, 0, 0), np.int32)
        if not self.fast:
            for n, k in enumerate(which.tolist()):
                kept = (traces[0, n : n + 1], traces[1, n : n + 1]) if states else None
                stage.advance(x[n : n + 1], out[n : n + 1], kept, carry=self.carries[k], graded=graded)
            return out, traces[1]
        assert isinstance(stage, event_stages.SpikingStage)
        own: tuple[Any, ...] = ()
        if isinstance(stage.layer, Conv):
            own = (0, stage.layer.groups * stage.layer.shape[1])
        elif isinstance(stage.layer, Dense):
            own = (np.zeros(1, np.int64) if graded else None,)
        counts = np.zeros((2, x.shape[1]), np.int64)
        arguments = (
            (*stage._arguments, *own),
            stage._law,
            which,
            self.u,
            self.v,
            self.last,
            out,
            counts,
            states,
            *traces,
        )
        key = (x.dtype, graded, states)
        if key not in self.loops:
            type_of: Any = typeof  # numba has no type information
            self.loops[key] = _looped(stage._kernel, tuple(type_of(argument) for argument in (x, graded, *arguments)))
        self.loops[key](x, graded, *arguments)
        return out, traces[1]


def run(net: ChipNet, messages: Array, block: int = 0, threads: int = 0) -> Stopped:
    """Decide each sample of ``messages`` ``[N, T, *input_shape]`` and no more.

    Args:
        block: steps between two looks at the decisions; 0 chooses.
        threads: 0 takes as many as there are processors.

    Raises:
        UsageError: ``net`` has no early exit.
    """
    if net.exit is None:
        raise UsageError("exit: the network has none; snn2chip cutoff makes one")
    began = time.perf_counter()
    check_messages(net, messages)
    kind = event.row_type(messages)
    stages = event.make_stages(net.layers, kind)
    threads = event.thread_count(threads)
    bounds = _bounds(net.exit, net.time_steps, block)
    loops: list[dict[Any, Any]] = [{} for _ in stages]
    _run_block(net, stages, loops, messages[:0], bounds)  # compiles
    ready = time.perf_counter()
    width = max(1, _BLOCK_BYTES // max(1, event.row_bytes(stages, kind) * (bounds[1] - bounds[0])))
    width = min(width, max(1, -(-len(messages) // (2 * threads))))

    def work(low: int, high: int) -> tuple[Decisions, int]:
        return _run_block(net, stages, loops, messages[low:high], bounds)

    jobs = [(low, min(len(messages), low + width)) for low in range(0, len(messages), width)]
    with Pool(threads) as pool:
        parts = pool.map(work, jobs)
    ended = time.perf_counter()
    found = [part for part, _ in parts]
    joined = Decisions(
        *(np.concatenate([getattr(part, name) for part in found]) for name in ("label", "step", "exited"))
    )
    return Stopped(joined, sum(steps for _, steps in parts), ended - ready, ready - began)


def _bounds(rule: Exit, steps: int, block: int) -> list[int]:
    """Where blocks of steps begin and end: the first is shorter than most decisions on calibration samples took.

    A block costs some microseconds for each sample and layer, and steps that were not needed cost more than that.
    """
    expected = dict(rule.calibration).get("median_steps", steps / 6)
    bounds, size = [0], block or max(1, min(steps, round(0.75 * expected)))
    while bounds[-1] < steps:
        bounds.append(min(steps, bounds[-1] + size))
        size = block or max(1, round(steps / 5))
    return bounds


def _run_block(
    net: ChipNet, stages: list[Stage], loops: list[dict[Any, Any]], messages: Array, bounds: list[int]
) -> tuple[Decisions, int]:
    """Samples side by side, and the steps computed."""
    rule = net.exit
    assert rule is not None
    samples, steps, classes = len(messages), net.time_steps, net.classes
    kind, given = event.row_type(messages), messages.shape[1]
    sent = messages.reshape(samples, given, math.prod(net.input_shape))
    readout = next(i for i, stage in enumerate(stages) if stage.layer.name == rule.readout)
    potential, host = net.readout.kind == "potential", rule.form == "host"
    label, step, exited = np.zeros(samples, np.int64), np.full(samples, steps - 1), np.zeros(samples, bool)
    running = np.arange(samples)
    resumed = [_Resumed(stage, samples, loop) for stage, loop in zip(stages, loops, strict=True)]
    scores = np.zeros((samples, steps, classes), np.int64)  # of those that run
    fires = np.zeros((samples, steps, classes), np.uint8)
    full = label
    computed = 0
    for low, high in itertools.pairwise(bounds):
        x = np.zeros((len(running), high - low, sent.shape[2]), kind)
        x[:, : max(0, given - low)] = sent[running, low:high]
        values = kind != np.uint8 or bool(x.max(initial=0) > 1)
        for i, layer in enumerate(resumed):
            x, v = layer.advance(running, x, values, i == readout and potential)
            values = layer.stage.graded
            if i == readout:
                trace = layer.stage.restored(v if potential else x)
                before = scores[:, low - 1 : low] if low and not potential else 0
                scores[:, low:high] = accumulated_scores(net, trace) + before
                last = trace.reshape(*trace.shape[:2], math.prod(trace.shape[2:]))[:, -1, :classes]
                full = (last if potential else scores[:, high - 1]).argmax(1)
        computed += len(running) * (high - low)
        if host:
            limits = rule.thresholds if len(rule.thresholds) == 1 else rule.thresholds[:high]
            found = decide(
                lead(rule.policy, rule.form, Evidence.of(scores[:, :high])),
                limits,
                full,
            )
        else:
            fires[:, low:high] = x[:, :, :classes]
            found = of_spikes(net, fires[:, :high], full)
        done = found.exited if high < steps else np.ones(len(running), bool)
        label[running[done]], exited[running[done]] = found.label[done], found.exited[done]
        step[running[done]] = np.where(found.exited[done], found.step[done], steps - 1)
        running, scores, fires = running[~done], scores[~done], fires[~done]
        if not len(running):
            break
    return Decisions(label, step, exited), computed
