"""Scale search: layer by layer, the scales whose integer spikes differ least from the trained model's.

Each layer is judged on what it will be given, the spikes of the quantised layers before it. The search goes in stages,
each of which starts from the best so far and keeps it on a tie:

1. the encoding of an analog input: fewer message bits leave more room for weights and biases,
2. the method that chooses the range of weights, one for the layer,
3. rounding of thresholds, where leaks leave the potential between integers,
4. a scale for each row, by the method that is best for that row, and somewhat more or less,
5. second-order rounding (:mod:`snn2chip.quantise.rounding`), of narrow weights or where it is asked for.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.chip import Conv, Dense, Encoding
from snn2chip.errors import LimitError
from snn2chip.exporters.netx_loader import loader_weights
from snn2chip.passes import Block
from snn2chip.quantise.layers import Floats, Form, build
from snn2chip.quantise.ranges import PER_NEURON, SCALE_METHODS, grid_range, mean_range
from snn2chip.quantise.rounding import Rounding
from snn2chip.simulators import event

Array = npt.NDArray[Any]

#: u and v may reach this on calibration data: half of what they hold, so that unseen data do not wrap either.
STATE_HEADROOM = limits.STATE_LIMIT // 2

#: Methods that are tried row by row.
ROW_METHODS = ("max", "percentile 98", "mse")

#: Factors by which the scales of rows are changed in the end: all at once, or the worst rows of a recurrent layer.
FACTORS = (0.8, 0.9, 1.1, 1.25)
RECURRENT_FACTORS = (0.7, 0.8, 0.9, 1.1, 1.2, 1.4, 1.6)
WORST_ROWS = 10

#: How far second-order rounding also makes up for the errors of the layers before.
REPAIRS = (0.0, 0.5, 1.0)


@dataclass(frozen=True)
class Given:
    """What a layer is given.

    Attributes:
        scale: messages per unit of the trained model's input.
    """

    encoding: Encoding
    messages: Array
    scale: float


@dataclass(frozen=True)
class Candidate:
    """One layer as integers, and how far its spikes are from the trained model's.

    Attributes:
        method, nearest: how scales and thresholds were chosen.
        form: the block, with the weights that were rounded.
        scale: of each row, ``[C]``.
        given: what the layer was run on.
        errors: of each row, ``[C]``, or one of all.
    """

    method: str
    form: Form
    scale: Floats
    nearest: bool
    given: Given
    layer: Dense | Conv
    spikes: Array
    errors: Floats

    @property
    def error(self) -> float:
        """Mean of all rows."""
        return float(self.errors.mean())


@dataclass(frozen=True)
class Task:
    """One layer, and what it should do.

    Attributes:
        expected: the trained model's spikes, or its potentials where those are read, ``[N, T, *shape]``.
        wanted: what the trained layer is given, ``[N, T, *input_shape]``.
        steps: time steps.
        tried: called at each candidate.
    """

    form: Form
    expected: Array
    potential: bool
    wanted: Array
    steps: int
    tried: Callable[[], None] | None = None

    def part(self, samples: slice) -> Task:
        """The same for some of the samples."""
        return replace(self, expected=self.expected[samples], wanted=self.wanted[samples])

    def candidate(
        self,
        method: str,
        scale: Floats,
        given: Given,
        nearest: bool,
        single: bool = True,
        block: Block | None = None,
    ) -> Candidate:
        """The layer at these scales, which are lowered until no state comes near its limit.

        Args:
            block: with other weights than the trained ones.
        """
        if self.tried is not None:
            self.tried()
        form = self.form if block is None else replace(self.form, block=block)
        scale = form.fitted(scale, given.scale, single)
        form = _raised(form, scale, given.scale)
        while True:
            try:
                layer = build(form, scale, given.scale, given.encoding.largest, nearest, self.steps)
            except LimitError:
                if form.exponent == 0:
                    raise
                form = replace(form, exponent=form.exponent - 1)
                continue
            if isinstance(layer, Dense) and not _survives(layer):
                room = np.full(len(scale), 0.98)
            else:
                spikes, u, v = event.run_layer(layer, given.messages)
                room = self._room(layer, given.encoding.largest, u, v)
            if (room == 1).all():
                errors = self._errors(form, spikes, v, scale * given.scale)
                return Candidate(method, form, scale, nearest, given, layer, spikes, errors)
            if form.exponent:
                form = replace(form, exponent=form.exponent - 1)
                continue
            lower = form.fitted(scale * room, given.scale, single)
            if np.array_equal(lower, scale):
                what = "largest state at the least scale, as a share of what its register should hold,"
                remedy = "use fewer inputs or message bits, or train with reset='zero'"
                raise LimitError(layer.name, what, f"{0.98 / room.min():.2g}", 1, remedy)
            scale = lower

    def _room(self, layer: Dense | Conv, largest_message: int, u: Array, v: Array) -> Floats:
        """``[C]``: 1 where the row's largest state and sum fit, else by what to lower its scale."""
        peak = _peak(u)
        if self.potential:
            peak = np.maximum(peak, _peak(v))
        sums = _row_sums(layer.weight) * largest_message
        if isinstance(layer, Dense) and layer.recurrent is not None:
            sums = sums + _row_sums(layer.recurrent)
        room = np.minimum(STATE_HEADROOM / np.maximum(peak, 1), limits.SUM_LIMIT / np.maximum(sums, 1))
        return np.where(self.form.live & (room <= 1), 0.98 * room, 1.0)

    def _errors(self, form: Form, spikes: Array, v: Array, unit: Floats) -> Floats:
        """``[C]``; one number for potentials, whose rows are compared with one another."""
        if self.potential:
            found = v / (form.gain * unit[self.form.live][0] * (1 << limits.STATE_SHIFT))
            return np.array([np.square(found - self.expected).mean() / max(np.square(self.expected).mean(), 1e-30)])
        differs = spikes != self.expected
        return np.asarray(differs.mean((0, 1, *range(3, differs.ndim))))


def _raised(form: Form, scale: Floats, message_scale: float) -> Form:
    """With the largest power of two at which thresholds and biases still fit their registers."""
    for exponent in range(form.largest_exponent, 0, -1):
        raised = replace(form, exponent=exponent)
        if (scale <= raised.largest_scale(message_scale))[form.live].all():
            return raised
    return form


def _peak(state: Array) -> Array:
    """``[C]``: largest magnitudes in ``[N, T, C, ...]``."""
    axes = (0, 1, *range(3, state.ndim))
    return np.asarray(np.maximum(state.max(axes), -state.min(axes)))


def _row_sums(weight: Array) -> Array:
    """``[C]``: sums of magnitudes."""
    return np.asarray(np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(1))


def _survives(layer: Dense) -> bool:
    """Whether the NetX loader leaves the weights alone."""
    try:
        weight, recurrent = loader_weights(layer.weight, layer.recurrent)
    except OverflowError:  # all weights are zero, which build() has refused where it matters
        return True
    return np.array_equal(weight, layer.weight) and (
        recurrent is None or layer.recurrent is None or np.array_equal(recurrent, layer.recurrent)
    )


def most_attempts(inputs: int, scales: str, per_neuron: bool, second: bool) -> int:
    """Candidates that :func:`choose` and, where ``second``, :func:`second_order` try at most, recurrent rows aside."""
    if scales != "search":
        return inputs
    rows = len(ROW_METHODS) + len(FACTORS) + 2 if per_neuron else 0
    return inputs + len(SCALE_METHODS) + rows + (len(REPAIRS) + len(FACTORS) + 4 if second else 0)


def counted(tell: Callable[[float], None], most: int) -> Callable[[], None]:
    """Tells, each time that it is called, the share of ``most`` calls that were made before."""
    calls = itertools.count()
    tell(0.0)
    return lambda: tell(min(next(calls) / most, 1.0))


def choose(task: Task, inputs: list[Given], scales: str, per_neuron: bool) -> Candidate:
    """The best candidate of the stages above, or of one method.

    Raises:
        LimitError: no scale and no encoding fits.
    """
    form = task.form
    if scales != "search":
        per_row = scales == PER_NEURON and per_neuron
        method = "max" if scales == PER_NEURON else scales
        return _best([_attempt(task, method, given, form.leaky, per_row) for given in inputs])
    best = _best([_attempt(task, "max", given, form.leaky) for given in inputs])
    if not form.live.any():  # nothing has a scale
        return best
    others = [method for method in SCALE_METHODS if method not in ("max", "grid")]
    weights, levels = form.weights(best.given.scale)[form.live], form.bounds[1]
    if grid_range(weights, levels) != np.abs(weights).max():
        others.append("grid")
    best = _best([_attempt(task, method, best.given, form.leaky) for method in others], best)
    if form.leaky:
        best = _best([_attempt(task, best.method, best.given, not best.nearest)], best)
    if not per_neuron or form.live.sum() < 2 or best.error == 0:
        return best
    return _by_row(task, best)


def _by_row(task: Task, best: Candidate) -> Candidate:
    """A scale for each row: by one of the methods, then somewhat more or less.

    Rows of a feed-forward layer do not see one another, so that what is best for each is best together. In a recurrent
    layer it may not be; there the worst rows are improved one after the other, judged by the whole layer.
    """
    rows = [_attempt(task, method, best.given, best.nearest, per_row=True) for method in ROW_METHODS]
    best = _combined(task, best, rows)
    if task.form.block.neuron.recurrent is None:
        return _combined(task, best, [_rescaled(task, best, factor) for factor in FACTORS])
    live = np.flatnonzero(task.form.live)
    for row in live[np.argsort(-best.errors[live], kind="stable")][:WORST_ROWS]:
        this = np.arange(len(best.scale)) == row
        best = _best([_rescaled(task, best, np.where(this, factor, 1.0)) for factor in RECURRENT_FACTORS], best)
    return best


def _combined(task: Task, best: Candidate, attempts: list[Callable[[], Candidate]]) -> Candidate:
    """The best of ``best``, the attempts, and the scales that were best for each row."""
    errors, scales = [best.errors], [best.scale]
    for attempt in attempts:
        try:
            candidate = attempt()
        except LimitError:
            continue  # best fits
        errors.append(candidate.errors)
        scales.append(candidate.scale)
        best = candidate if candidate.error < best.error else best
    scale = np.array(scales)[np.argmin(errors, 0), np.arange(len(best.scale))]
    return _best([functools.partial(task.candidate, PER_NEURON, scale, best.given, best.nearest, single=False)], best)


def second_order(task: Task, best: Candidate, by_row: bool) -> Candidate:
    """Weights rounded by :mod:`snn2chip.quantise.rounding`, with the repair and the scales that suit them.

    Moments of every other sample decide on the weights, the samples between them decide what is better: the repair has
    as many parameters as there are weights. What has been chosen is then done with all samples.
    """
    even, odd = task.part(slice(0, None, 2)), task.part(slice(1, None, 2))
    given = best.given
    tried = Rounding.of(task.form, given.messages[::2], even.wanted * given.scale)
    if best.error == 0 or tried is None or len(given.messages) < 2:
        return best
    judged = replace(given, messages=given.messages[1::2])

    def error(repair: float, factor: float) -> float:
        scale = best.scale * factor
        block = tried.block(scale, given.scale, repair)
        try:
            return odd.candidate(best.method, scale, judged, best.nearest, not by_row, block).error
        except LimitError:
            return np.inf

    nearest = odd.candidate(best.method, best.scale, judged, best.nearest, not by_row).error
    repair = min(REPAIRS, key=lambda repair: error(repair, 1.0))
    factor = min((1.0, *FACTORS), key=lambda factor: error(repair, factor))
    if error(repair, factor) >= nearest:
        return best
    rounding = Rounding.of(task.form, given.messages, task.wanted * given.scale)
    assert rounding is not None  # it depends on shapes alone
    scale = best.scale * factor
    block = rounding.block(scale, given.scale, repair)
    try:
        return task.candidate(best.method, scale, given, best.nearest, not by_row, block)
    except LimitError:
        return best


def _rescaled(task: Task, best: Candidate, factor: float | Floats) -> Callable[[], Candidate]:
    return functools.partial(task.candidate, PER_NEURON, best.scale * factor, best.given, best.nearest, single=False)


def _attempt(task: Task, method: str, given: Given, nearest: bool, per_row: bool = False) -> Callable[[], Candidate]:
    """A candidate by one of :data:`SCALE_METHODS`, for the whole layer or row by row; computed when it is called."""

    def attempt() -> Candidate:
        form = task.form
        weights, levels = form.weights(given.scale), form.bounds[1]
        choose = mean_range if form.bits == 1 else SCALE_METHODS[method]
        scale = np.ones(len(weights))
        if form.live.any() and per_row:
            rows = np.array([levels / choose(row, levels) for row in weights[form.live]])
            scale[:] = np.median(rows)
            scale[form.live] = rows
        elif form.live.any():
            scale[:] = levels / choose(weights[form.live], levels)
        return task.candidate(PER_NEURON if per_row else method, scale, given, nearest, single=not per_row)

    return attempt


def _best(attempts: Iterable[Callable[[], Candidate]], best: Candidate | None = None) -> Candidate:
    """The candidate of least error, the first of several; ``best`` is what they have to beat.

    Raises:
        LimitError: none of them fits the chip; what the first one says.
    """
    failure: LimitError | None = None
    for attempt in attempts:
        if best is not None and best.error == 0:
            break
        try:
            candidate = attempt()
        except LimitError as error:
            failure = failure or error
            continue
        if best is None or candidate.error < best.error:
            best = candidate
    if best is None:
        assert failure is not None  # there is at least one attempt
        raise failure
    return best
