"""ChipNet: the integer network that every exporter, simulator and report reads.

A ChipNet is an ordered chain of layers in **layer time**: step ``t`` of layer ``l`` is chip step ``t + l``, so that a
feed-forward network has no delays at all and a layer can be computed for all steps at once. Only recurrent synapses
look one step back, and delayed ones as far as they say. Exporters and hardware backends translate to chip time; nothing
else does.

Arrays are read-only integers, validated at construction against what Lava computes exactly (:mod:`snn2chip.limits`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip.conv import Pair, output_size, taps_per_input
from snn2chip.errors import InputError, LimitError, UnsupportedError

IntArray = npt.NDArray[np.int32]
Shape = tuple[int, ...]
EncodingKind = Literal["spikes", "graded", "hold"]
ReadoutKind = Literal["count", "potential"]
ExitPolicy = Literal["margin", "threshold", "softmax", "first-spike", "patience"]
ExitForm = Literal["pairs", "ladder", "band", "first", "run", "host"]


def _integers(layer: str, what: str, values: Any, low: int, high: int, remedy: str) -> IntArray:
    """``values`` as a read-only int32 array, or an error that names the first value out of ``[low, high]``."""
    array = np.asarray(values)
    if array.dtype.kind not in "iub":
        raise InputError(f"{layer}: {what} has type {array.dtype}, expected integers")
    if array.size and (array.min() < low or array.max() > high):
        worst = int(array.max() if array.max() > high else array.min())
        raise LimitError(layer, what, worst, f"{low}..{high}", remedy)
    array = array.astype(np.int32)
    array.flags.writeable = False
    return array


class _Comparable:
    """Equality of dataclasses that hold arrays: same fields, same shapes, same integers."""

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or not is_dataclass(self):
            return NotImplemented
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return all(
            np.array_equal(a, b) if isinstance(a, np.ndarray) or isinstance(b, np.ndarray) else a == b for a, b in pairs
        )

    __hash__ = None  # type: ignore[assignment]  # compares by content


@dataclass(frozen=True, eq=False)
class Neuron(_Comparable):
    """Current-based leaky integrate-and-fire neurons of one layer (CUBA, Loihi's standard neuron).

    ::

        u <- wrap(trunc0(u * (4096 - current_decay) / 4096) + (a << 6))
        v <- clip24(trunc0(v * (4096 - voltage_decay) / 4096) + u + (bias << 6))
        spike <- v > (threshold << 6);  v <- 0 where it spikes

    ``a`` is the sum of weight times message. Source: Lava ``proc/lif/models.py``, ``fixed_pt`` models.
    Each parameter is one number, an array of the layer's shape, or (bias of a convolution) one per channel.

    Attributes:
        threshold: membrane threshold mantissa ``vThMant``, 0..131071; 131072 (Lava only) never fires.
        current_decay: ``iDecay``, 0 (for ever) to 4096 (memoryless); the register holds ``iDecay - 1``.
        voltage_decay: ``vDecay``, 0 (no leak) to 4096 (memoryless); chips hold at most 4095.
        bias: bias mantissa, int16 in Lava, 13 bits on the chip; added to ``v`` at every step.
    """

    graded: ClassVar[bool] = False
    resettable: ClassVar[bool] = True

    threshold: IntArray
    current_decay: IntArray
    voltage_decay: IntArray
    bias: IntArray

    @staticmethod
    def of(
        layer: str,
        threshold: Any,
        current_decay: Any = limits.DECAY_UNITY,
        voltage_decay: Any = 0,
        bias: Any = 0,
    ) -> Neuron:
        """Validated neurons; ``layer`` is the name that errors use."""
        unity = limits.DECAY_UNITY
        return Neuron(
            _integers(layer, "threshold", threshold, 0, limits.LAVA_THRESHOLD_MAX, "lower the weight scale"),
            _integers(layer, "current decay", current_decay, 0, unity, "decays are fractions of 4096"),
            _integers(layer, "voltage decay", voltage_decay, 0, unity, "decays are fractions of 4096"),
            _integers(
                layer,
                "bias mantissa",
                bias,
                limits.BIAS_MANTISSA_MIN,
                limits.BIAS_MANTISSA_MAX,
                "lower the weight scale",
            ),
        )

    def check_shapes(self, layer: str, shape: Shape) -> None:
        """Raise :class:`InputError` unless every parameter fits a layer of ``shape``."""
        names = ("threshold", "current_decay", "voltage_decay")
        _check_shapes(layer, shape, bias=self.bias, **{name: getattr(self, name) for name in names})

    def expanded(self, shape: Shape) -> dict[str, IntArray]:
        """Every parameter as an array of ``shape``, by name."""
        names = ("threshold", "current_decay", "voltage_decay", "bias")
        return _expanded(shape, **{name: getattr(self, name) for name in names})


def _check_shapes(layer: str, shape: Shape, **parameters: IntArray) -> None:
    for name, array in parameters.items():
        if name == "bias":
            if array.shape not in ((), shape[:1], shape):
                raise InputError(f"{layer}: bias has shape {array.shape}, expected (), {shape[:1]} or {shape}")
        elif array.shape not in ((), shape):
            raise InputError(f"{layer}: {name} has shape {array.shape}, expected () or {shape}")


def _expanded(shape: Shape, **parameters: IntArray) -> dict[str, IntArray]:
    bias = parameters.get("bias")
    if bias is not None and bias.ndim == 1 and len(shape) == 3:
        parameters["bias"] = bias[:, None, None]
    return {name: np.ascontiguousarray(np.broadcast_to(a, shape)) for name, a in parameters.items()}


def _one_threshold(layer: str, threshold: Any, largest: int) -> IntArray:
    array = _integers(layer, "threshold", threshold, 0, largest, "lower the weight scale")
    if array.shape:
        raise InputError(f"{layer}: threshold has shape {array.shape}; these neurons share one threshold")
    return array


def _exponent(layer: str, spike_exp: int) -> int:
    high = limits.SPIKE_EXPONENT_MAX
    return int(_integers(layer, "spike exponent", spike_exp, 0, high, "messages have at most seven binary places"))


@dataclass(frozen=True, eq=False)
class Delta(_Comparable):
    """Input encoders of a sigma-delta network: a message says by how much the input has changed.

    ::

        x <- a << (spike_exp + 6)
        d <- x - act + residue;                                     act <- x
        sent <- d where |d| >= (threshold << (spike_exp + 6)), else 0;  residue <- d - sent
        message <- sent >> 6                                        rounded down

    All in int32, which wraps. Nothing resets it. Traces: u is ``residue``, v is ``act``. Source: Lava
    ``proc/sdn/models.py``, ``PyDeltaModelFixed``.

    Attributes:
        threshold: ``vThMant``, one number; 0 sends every change.
        spike_exp: binary places of a message, 0..7; the NetX loader takes it as an argument, 6 by default.
    """

    threshold: IntArray
    spike_exp: int = limits.SPIKE_EXPONENT

    graded: ClassVar[bool] = True
    resettable: ClassVar[bool] = False

    @staticmethod
    def of(layer: str, threshold: Any, spike_exp: int = limits.SPIKE_EXPONENT) -> Delta:
        """Validated neurons; ``layer`` is the name that errors use."""
        return Delta(_one_threshold(layer, threshold, limits.THRESHOLD_MAX), _exponent(layer, spike_exp))

    def check_shapes(self, layer: str, shape: Shape) -> None:
        """Nothing to check: there is one threshold."""

    def expanded(self, shape: Shape) -> dict[str, IntArray]:
        """Every parameter as an array of ``shape``, by name."""
        return _expanded(shape, threshold=self.threshold)


@dataclass(frozen=True, eq=False)
class SigmaDelta(_Comparable):
    """Neurons that sum up changes, rectify, and send by how much the result has changed.

    ::

        sigma <- sigma + a
        x <- max(0, sigma + (bias << (spike_exp + 6)))
        d <- x - act + residue;                                     act <- x
        sent <- d where |d| >= (threshold << (spike_exp + 6)), else 0;  residue <- d - sent
        message <- sent >> 6                                        rounded down

    All in int32, which wraps. Nothing resets it. Traces: u is ``sigma``, v is ``act``. Source: Lava
    ``proc/sdn/models.py``, ``PySigmaDeltaModelFixed``; the loader always rectifies.

    Attributes:
        threshold: ``vThMant``, one number; 0 sends every change.
        bias: bias mantissa: one number, one per channel or one per neuron.
        spike_exp: see :class:`Delta`.
    """

    threshold: IntArray
    bias: IntArray
    spike_exp: int = limits.SPIKE_EXPONENT

    graded: ClassVar[bool] = True
    resettable: ClassVar[bool] = False

    @staticmethod
    def of(layer: str, threshold: Any, bias: Any = 0, spike_exp: int = limits.SPIKE_EXPONENT) -> SigmaDelta:
        """Validated neurons; ``layer`` is the name that errors use."""
        low, high = limits.BIAS_MANTISSA_MIN, limits.BIAS_MANTISSA_MAX
        return SigmaDelta(
            _one_threshold(layer, threshold, limits.THRESHOLD_MAX),
            _integers(layer, "bias mantissa", bias, low, high, "lower the weight scale"),
            _exponent(layer, spike_exp),
        )

    def check_shapes(self, layer: str, shape: Shape) -> None:
        """Raise :class:`InputError` unless every parameter fits a layer of ``shape``."""
        _check_shapes(layer, shape, bias=self.bias)

    def expanded(self, shape: Shape) -> dict[str, IntArray]:
        """Every parameter as an array of ``shape``, by name."""
        return _expanded(shape, threshold=self.threshold, bias=self.bias)


@dataclass(frozen=True, eq=False)
class Sigma(_Comparable):
    """Output decoders of a sigma-delta network: ``sigma <- sigma + a``, which is the message too; int32, which wraps.

    Nothing resets it. Traces: u and v are both ``sigma``. Source: Lava ``proc/sdn/models.py``, ``PySigmaModelFixed``.
    """

    graded: ClassVar[bool] = True
    resettable: ClassVar[bool] = False

    def check_shapes(self, layer: str, shape: Shape) -> None:
        """Nothing to check: there are no parameters."""

    def expanded(self, shape: Shape) -> dict[str, IntArray]:
        """No parameters."""
        return {}


@dataclass(frozen=True, eq=False)
class Resonator(_Comparable):
    """Resonate-and-fire neurons: a decaying rotation in the complex plane, driven by complex weights.

    ::

        re' <- clip24(trunc0(cosine * re / 4096) - trunc0(sine * im / 4096) + (a_real << 6))
        im' <- clip24(trunc0(sine * re / 4096) + trunc0(cosine * im / 4096) + (a_imag << 6))
        phase:       spike <- re' >= (threshold << 6) and im' >= 0 and im < 0
        Izhikevich:  spike <- im' >= (threshold << 6);   re' <- 0, im' <- (threshold << 6) - 1 where it spikes

    Nothing resets it. Traces: u is ``re``, v is ``im``. Source: Lava ``proc/rf/models.py`` (phase, NetX type
    ``RF_PHASE``) and ``proc/rf_iz/models.py`` (all other NetX types that contain ``RF``), ``fixed_pt`` models.

    Attributes:
        threshold: ``vThMant``, one number.
        sine, cosine: of the rotation, times the decay, in 1/4096; one number, or one per neuron.
        phase: fires where the phase passes 0, and keeps its state; else as Izhikevich's.
    """

    threshold: IntArray
    sine: IntArray
    cosine: IntArray
    phase: bool = True

    graded: ClassVar[bool] = False
    resettable: ClassVar[bool] = False

    @staticmethod
    def of(layer: str, threshold: Any, sine: Any, cosine: Any, phase: bool = True) -> Resonator:
        """Validated neurons; ``layer`` is the name that errors use."""
        unity, remedy = limits.DECAY_UNITY, "a resonator must not grow"
        return Resonator(
            _one_threshold(layer, threshold, limits.THRESHOLD_MAX),
            _integers(layer, "sine of the rotation", sine, -unity, unity, remedy),
            _integers(layer, "cosine of the rotation", cosine, -unity, unity, remedy),
            bool(phase),
        )

    def check_shapes(self, layer: str, shape: Shape) -> None:
        """Raise :class:`InputError` unless every parameter fits a layer of ``shape``."""
        _check_shapes(layer, shape, sine=self.sine, cosine=self.cosine)

    def expanded(self, shape: Shape) -> dict[str, IntArray]:
        """Every parameter as an array of ``shape``, by name."""
        return _expanded(shape, threshold=self.threshold, sine=self.sine, cosine=self.cosine)


AnyNeuron = Neuron | Delta | SigmaDelta | Sigma | Resonator


@dataclass(frozen=True, eq=False)
class InputNeurons(_Comparable):
    """Neurons that the input drives one to one: ``a`` is the message itself. Only as first layer; costs no step.

    NetX type ``input`` with a neuron.
    """

    name: str
    shape: Shape
    neuron: AnyNeuron

    def __post_init__(self) -> None:
        _check_kind(self.name, self.neuron, Neuron, Delta)
        self.neuron.check_shapes(self.name, self.shape)

    @property
    def input_shape(self) -> Shape:
        """Shape of the messages, the layer's own."""
        return self.shape

    @property
    def synapses(self) -> int:
        """Number of synapses."""
        return 0

    def fan_out(self) -> npt.NDArray[np.int64]:
        """Synapses that one message at each input position drives: none."""
        return np.zeros(self.shape, np.int64)

    def largest_sum(self, message: int) -> int:
        """Bound of the weighted sum's magnitude, messages being at most ``message``."""
        return message


def _check_kind(layer: str, neuron: AnyNeuron, *kinds: type) -> None:
    if not isinstance(neuron, kinds):
        known = " or ".join(kind.__name__ for kind in kinds)
        raise UnsupportedError(f"{layer}: neurons of kind {type(neuron).__name__}; here only {known} can be")


@dataclass(frozen=True, eq=False)
class Dense(_Comparable):
    """All-to-all synapses and their neurons; ``recurrent`` weights see the layer's own spikes one step later.

    Attributes:
        weight: ``[neurons, inputs]``; an input of shape ``(C, H, W)`` is flattened in that order. Of complex weights,
            the real part.
        recurrent: ``[neurons, neurons]`` or None.
        delay: ``[neurons, inputs]``, 0..62 steps that a message takes longer, or None.
        imaginary: ``[neurons, inputs]``, of complex weights, or None; there where the neurons are resonators.
    """

    name: str
    input_shape: Shape
    weight: IntArray
    neuron: AnyNeuron
    recurrent: IntArray | None = None
    delay: IntArray | None = None
    imaginary: IntArray | None = None

    def __post_init__(self) -> None:
        inputs = int(np.prod(self.input_shape))
        if self.weight.ndim != 2 or self.weight.shape[1] != inputs:
            raise InputError(f"{self.name}: weight has shape {self.weight.shape}, expected (neurons, {inputs})")
        object.__setattr__(self, "weight", _weights(self.name, self.weight))
        if self.recurrent is not None:
            if self.recurrent.shape != (self.shape[0], self.shape[0]):
                raise InputError(
                    f"{self.name}: recurrent weight has shape {self.recurrent.shape}, "
                    f"expected {(self.shape[0], self.shape[0])}"
                )
            object.__setattr__(self, "recurrent", _weights(self.name, self.recurrent))
        for what in ("delay", "imaginary"):
            array = getattr(self, what)
            if array is None:
                continue
            if array.shape != self.weight.shape:
                raise InputError(f"{self.name}: {what} has shape {array.shape}, expected {self.weight.shape}")
            if self.recurrent is not None:
                raise UnsupportedError(f"{self.name}: {what} in a recurrent layer; NetX has no form for it")
        if self.delay is not None:
            if self.imaginary is not None:
                raise UnsupportedError(f"{self.name}: delays of complex weights; NetX has no form for them")
            remedy = "shorten the delays, or add a layer of relays"
            object.__setattr__(self, "delay", _integers(self.name, "delay", self.delay, 0, limits.DELAY_MAX, remedy))
        if self.imaginary is None:
            _check_kind(self.name, self.neuron, *((Neuron,) if self.recurrent is not None else _DRIVEN))
        else:
            _check_kind(self.name, self.neuron, Resonator)
            object.__setattr__(self, "imaginary", _weights(self.name, self.imaginary))
        self.neuron.check_shapes(self.name, self.shape)

    @property
    def shape(self) -> Shape:
        """Shape of the neurons."""
        return (self.weight.shape[0],)

    @property
    def synapses(self) -> int:
        """Number of synapses; a complex one counts twice."""
        others = (self.recurrent, self.imaginary)
        return self.weight.size + sum(0 if matrix is None else matrix.size for matrix in others)

    def fan_out(self) -> npt.NDArray[np.int64]:
        """Synapses that one message at each input position drives, ``[*input_shape]``."""
        return np.full(self.input_shape, self.shape[0] * (1 if self.imaginary is None else 2), np.int64)

    def largest_sum(self, message: int) -> int:
        """Bound of the weighted sum's magnitude, messages being at most ``message``."""
        rows = np.abs(self.weight.astype(np.int64)).sum(1) * message
        if self.recurrent is not None:
            rows = rows + np.abs(self.recurrent.astype(np.int64)).sum(1)
        if self.imaginary is not None:
            rows = np.maximum(rows, np.abs(self.imaginary.astype(np.int64)).sum(1) * message)
        return int(rows.max(initial=0))


@dataclass(frozen=True, eq=False)
class Conv(_Comparable):
    """Convolution (cross-correlation, as in torch) and its neurons.

    Attributes:
        input_shape: ``(C_in, H, W)``.
        weight: ``[C_out, C_in / groups, kH, kW]``.
    """

    name: str
    input_shape: Shape
    weight: IntArray
    neuron: AnyNeuron
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        name = self.name
        if len(self.input_shape) != 3 or self.weight.ndim != 4:
            raise InputError(
                f"{name}: a convolution needs an input of shape (C, H, W) and a weight of 4 dimensions, "
                f"got {self.input_shape} and {self.weight.shape}"
            )
        for what, values, least in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
            ("groups", (self.groups,), 1),
        ):
            if any(not least <= int(value) for value in values):
                raise InputError(f"{name}: {what} is {values}, expected at least {least}")
        channels_out, per_group = self.weight.shape[:2]
        if per_group * self.groups != self.input_shape[0] or channels_out % self.groups:
            raise InputError(
                f"{name}: weight {self.weight.shape} with {self.groups} groups does not fit "
                f"{self.input_shape[0]} input channels"
            )
        if min(self.shape) < 1:
            raise InputError(f"{name}: the kernel is larger than its input, the output would be {self.shape}")
        object.__setattr__(self, "weight", _weights(name, self.weight))
        _check_kind(name, self.neuron, *_DRIVEN)
        self.neuron.check_shapes(name, self.shape)

    @cached_property
    def shape(self) -> Shape:
        """Shape of the neurons."""
        size = output_size(self.input_shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return (self.weight.shape[0], *size)

    @property
    def synapses(self) -> int:
        """Number of synapses."""
        return int(self.fan_out().sum())

    def fan_out(self) -> npt.NDArray[np.int64]:
        """Synapses that one message at each input position drives, ``[*input_shape]`` (fewer at the border)."""
        taps = taps_per_input(self.input_shape[1:], self.weight.shape[2:], self.stride, self.padding, self.dilation)
        return np.broadcast_to(taps * (self.shape[0] // self.groups), self.input_shape).astype(np.int64)

    def largest_sum(self, message: int) -> int:
        """Bound of the weighted sum's magnitude, messages being at most ``message``."""
        return int(np.abs(self.weight.astype(np.int64)).sum((1, 2, 3)).max(initial=0)) * message


Layer = InputNeurons | Dense | Conv
_DRIVEN = (Neuron, SigmaDelta, Sigma)  # by real weights


def _weights(layer: str, weight: Any) -> IntArray:
    return _integers(
        layer, "weight", weight, limits.WEIGHT_MIN, limits.WEIGHT_MAX, "lower the weight scale or clip the weights"
    )


@dataclass(frozen=True)
class Encoding:
    """How the user's numbers become the messages of the input.

    ``spikes``: binary, as they are. ``graded``: ``clip(rint(x * scale), low, high)`` at each step.
    ``hold``: the same, once, at step 0; the first layer's current never decays and holds it.
    ``spread``: graded messages are rounded so that their sum over time is: what is lost at one step is sent at a later
    one, ``m[t] = rint(c[t]) - rint(c[t-1])`` with ``c`` the sum of the clipped ``x * scale`` up to t.

    Networks that were trained with input of few bits need the same: graded messages are
    ``step * clip(rint(x * scale), low, high) + offset``.
    """

    kind: EncodingKind = "spikes"
    scale: float = 1.0
    low: int = 0
    high: int = 1
    spread: bool = False
    step: int = 1
    offset: int = 0

    def __post_init__(self) -> None:
        bound = 1 << limits.MESSAGE_BITS_MAX
        if self.kind not in ("spikes", "graded", "hold"):
            raise InputError(f"input: unknown encoding {self.kind!r}, expected spikes, graded or hold")
        if self.kind == "spikes" and (self.scale, self.low, self.high) != (1.0, 0, 1):
            raise InputError("input: spikes have scale 1 and range 0..1")
        if self.spread and self.kind != "graded":
            raise InputError(f"input: rounding is spread over graded messages only, not {self.kind}")
        if (self.step, self.offset) != (1, 0) and (self.kind != "graded" or self.spread):
            raise InputError(f"input: step {self.step} and offset {self.offset} are for graded messages alone")
        if self.step < 1 or self._extremes[0] <= -bound or self._extremes[1] >= bound:
            raise InputError(
                f"input: messages of {self._extremes[0]} to {self._extremes[1]} at steps of {self.step}; expected a "
                f"positive step and {limits.MESSAGE_BITS_MAX} bits"
            )
        if not (np.isfinite(self.scale) and self.scale > 0 and -bound < self.low <= 0 < self.high < bound):
            raise InputError(
                f"input: encoding scale {self.scale}, range {self.low}..{self.high}; expected a positive scale "
                f"and a range around 0 within {limits.MESSAGE_BITS_MAX} bits"
            )

    @property
    def _extremes(self) -> tuple[int, int]:
        """Smallest and largest message; 0 is one, when the input is silent."""
        low, high = (self.step * bound + self.offset for bound in (self.low, self.high))
        return min(low, 0), max(high, 0)

    @property
    def message_bits(self) -> int:
        """Bits of the payload; 0 means that a message is a plain spike."""
        if self.kind == "spikes":
            return 0
        low, high = self._extremes
        return max(high.bit_length(), (-low - 1).bit_length() + 1 if low else 0)

    @property
    def largest(self) -> int:
        """Largest magnitude of a message."""
        low, high = self._extremes
        return max(high, -low)

    def rounded(self, x: npt.NDArray[Any]) -> IntArray:
        """Each number as a message of its own."""
        whole = np.clip(np.rint(x * self.scale), self.low, self.high).astype(np.int32)
        messages: IntArray = whole * np.int32(self.step) + np.int32(self.offset)
        return messages


@dataclass(frozen=True)
class Readout:
    """How a prediction is read from the last layer: most spikes, or highest potential at the last step."""

    kind: ReadoutKind = "count"

    def __post_init__(self) -> None:
        if self.kind not in ("count", "potential"):
            raise InputError(f"readout: unknown kind {self.kind!r}, expected count or potential")


@dataclass(frozen=True)
class Exit:
    """How a decision may leave before the window ends; made and read by :mod:`snn2chip.early_exit`.

    Attributes:
        policy: the rule.
        form: its circuit, which ends in the network's last layer, one neuron per class: ``pairs`` of classes, a
            ``ladder`` of thresholds for each pair, a ``band`` between two thresholds, ``first`` spikes, a ``run`` of
            the same leader; or ``host``: no circuit, the rule is applied outside of the chip.
        thresholds: of the circuit's integer evidence, or steps (patience): one, one per rung (ladder), or one per time
            step (host alone).
        readout: name of the layer whose first ``classes`` neurons are the readout.
        classes: how many, at least 2.
        rival: of ``band``: what every other class has to stay below.
        clocks: last neurons of the layer before the readout, which fire at each step and carry its bias.
        scale: evidence of the circuit per unit of the readout's, numerator and denominator.
        calibration: what it was chosen with, names and values.
    """

    policy: ExitPolicy
    form: ExitForm
    thresholds: tuple[int, ...]
    readout: str
    classes: int
    rival: int = 0
    clocks: int = 0
    scale: tuple[int, int] = (1, 1)
    calibration: tuple[tuple[str, float], ...] = ()

    def __post_init__(self) -> None:
        if self.policy not in get_args(ExitPolicy) or self.form not in get_args(ExitForm):
            raise InputError(f"exit: unknown policy {self.policy!r} or form {self.form!r}")
        if self.classes < 2:
            raise InputError(f"exit: {self.classes} classes, a decision needs at least 2")
        if not self.thresholds or min(self.thresholds) < 0 or self.rival < 0 or self.clocks < 0 or min(self.scale) < 1:
            raise InputError(f"exit: thresholds {self.thresholds}, rival {self.rival}, scale {self.scale} are negative")


@dataclass(frozen=True, eq=False)
class ChipNet(_Comparable):
    """The integer network.

    Attributes:
        input_shape: ``(F,)`` or ``(C, H, W)``.
        layers: in order; each takes the previous one's spikes.
        encoding: how data become messages.
        readout: how a prediction is read.
        time_steps: steps T of one sample.
        window: steps W >= T between two resets; the input is silent from T on.
        target: chip that was asked for.
        inexact: what differs from the trained model beyond rounding, one sentence each.
        exit: how a decision may leave early; None where it does not.
    """

    input_shape: Shape
    layers: tuple[Layer, ...]
    encoding: Encoding = field(default_factory=Encoding)
    readout: Readout = field(default_factory=Readout)
    time_steps: int = 1
    window: int = 0
    target: str = "loihi2"
    inexact: tuple[str, ...] = ()
    exit: Exit | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "window", self.window or self.time_steps)
        if not self.layers:
            raise InputError("network: no layers")
        if not 1 <= self.time_steps <= self.window:
            raise InputError(f"network: {self.time_steps} time steps in a window of {self.window}")
        if self.target not in limits.TARGETS:
            raise InputError(f"network: unknown target {self.target!r}, known: {', '.join(limits.TARGETS)}")
        names = [layer.name for layer in self.layers]
        if len(set(names)) != len(names):
            raise InputError(f"network: layer names repeat in {names}")
        shape = self.input_shape
        message: int | None = self.encoding.largest
        for i, layer in enumerate(self.layers):
            if isinstance(layer, InputNeurons) and i > 0:
                raise InputError(f"{layer.name}: input neurons can only be the first layer")
            if layer.input_shape != shape:
                raise InputError(f"{layer.name}: takes input of shape {layer.input_shape}, is given {shape}")
            # No useful bound of graded messages is known before they are sent; the reference looks at the sums.
            if message is not None and layer.largest_sum(message) >= limits.SUM_LIMIT:
                raise LimitError(
                    layer.name,
                    "largest weighted sum",
                    layer.largest_sum(message),
                    limits.SUM_LIMIT - 1,
                    "use fewer inputs, smaller weights or fewer message bits",
                )
            shape, message = layer.shape, None if layer.neuron.graded else 1
        exponents = {layer.neuron.spike_exp for layer in self.layers if isinstance(layer.neuron, Delta | SigmaDelta)}
        if len(exponents) > 1:
            raise UnsupportedError(f"network: spike exponents {sorted(exponents)} in one network; NetX has one for all")
        if self.exit is not None:
            self._check_exit(self.exit)

    def _check_exit(self, rule: Exit) -> None:
        names = [layer.name for layer in self.layers]
        if rule.readout not in names:
            raise InputError(f"exit: the readout {rule.readout!r} is no layer, have {', '.join(names)}")
        size = int(np.prod(self.readout_layer.shape))
        if rule.classes > size:
            raise InputError(f"exit: {rule.classes} classes, the readout {rule.readout} has {size} neurons")
        if rule.form != "ladder" and len(rule.thresholds) not in (1, self.time_steps if rule.form == "host" else 1):
            raise InputError(f"exit: {len(rule.thresholds)} thresholds, expected 1 (host: or {self.time_steps})")
        last = self.layers[-1]
        if rule.form == "host":
            if rule.readout != last.name or rule.clocks:
                raise InputError(f"exit: has no circuit, but layers follow the readout {rule.readout}")
        elif rule.readout == last.name or last.shape != (rule.classes,):
            raise InputError(f"exit: {last.name} of shape {last.shape} cannot decide between {rule.classes} classes")

    @property
    def readout_layer(self) -> Layer:
        """The layer that scores the classes: the last one, but for the circuit of an early exit."""
        name = None if self.exit is None else self.exit.readout
        return next((layer for layer in self.layers if layer.name == name), self.layers[-1])

    @property
    def classes(self) -> int:
        """How many neurons of :attr:`readout_layer`, the first ones, score a class each."""
        return int(np.prod(self.readout_layer.shape)) if self.exit is None else self.exit.classes

    @property
    def output_shape(self) -> Shape:
        """Shape of the last layer."""
        return self.layers[-1].shape

    @property
    def recurrent(self) -> bool:
        """Whether any layer sees its own spikes, which a reset of u and v does not clear."""
        return any(isinstance(layer, Dense) and layer.recurrent is not None for layer in self.layers)

    @property
    def delayed(self) -> bool:
        """Whether any synapse delays messages, which a reset of u and v does not clear either."""
        return any(isinstance(layer, Dense) and layer.delay is not None and layer.delay.any() for layer in self.layers)

    @property
    def resettable(self) -> bool:
        """Whether the periodic reset reaches every layer: sigma-delta and resonate-and-fire neurons have none."""
        return all(layer.neuron.resettable for layer in self.layers)

    @property
    def leaks(self) -> bool:
        """Whether anything of one sample outlives the reset at the end of its window."""
        return self.recurrent or self.delayed or not self.resettable

    @property
    def spike_exp(self) -> int:
        """Binary places of graded messages."""
        neurons = (layer.neuron for layer in self.layers)
        return next((n.spike_exp for n in neurons if isinstance(n, Delta | SigmaDelta)), limits.SPIKE_EXPONENT)

    @property
    def depth(self) -> int:
        """Chip steps from the input to the last layer's spikes."""
        return sum(not isinstance(layer, InputNeurons) for layer in self.layers)
