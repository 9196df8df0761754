"""Blocks of lava-dl SLAYER, which compute with the chip's integers: they become :class:`ChipLayer` nodes.

Law of lava-dl 0.6.0, ``slayer/block/*.py`` and ``slayer/neuron/*.py``; data are ``[N, C, (H, W,) T]``. SLAYER's numbers
are the chip's integers in other units::

    weight            1 / scale          quantised by pre_hook_fx to even multiples within -256..254
    threshold         1 / scale          CUBA fires above it, resonators and sigma-delta neurons at it, too
    decays            1 / 4096           rounded, half to even
    u, v, re, im      1 / (64 * scale)
    input             1 / scale          of Input with neurons: even multiples within -256..254, times weight, plus bias
    graded message    1 / 4096           of sigma-delta layers, whose scale has to be 64
    sigma             1 / 2^18           of the sigma-delta Output

``scale`` is that of the neurons, 64 by default. SLAYER's integers have no width; beyond 24 bits they part from the
chip's, which the proof of the capture shows. The graph starts at rest; SLAYER carries the states of neurons with
``persistent_state`` (always those of Recurrent) over from one call to the next. With ``delay_shift`` each block's
output comes one step later; the graph is in layer time, where it does not.

An axonal delay is a delay of all synapses of the neuron that has it, since that is at rest before its first input.
Neurons with a bias, recurrent synapses or complex weights send through a layer of delayed relays instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip import limits
from snn2chip.chip import (
    AnyNeuron,
    Conv,
    Delta,
    Dense,
    Encoding,
    InputNeurons,
    IntArray,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
)
from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import Leaf, as_array
from snn2chip.graph import ChipLayer, Flatten, Linear, Node, Shape

Build = Callable[[str, Shape], Dense | Conv]

_SLAYER = "lava.lib.dl.slayer."
_FAMILIES = ("cuba", "sigma_delta", "rf", "rf_iz")
_WAYS_OUT = {
    "ConvT": "use Conv",
    "Unpool": "use Conv",
    "KWTA": "use Recurrent, whose weights are trained",
    "TimeDecimation": "give the data fewer time steps",
}
#: The chip's integers in one of SLAYER's message, or sigma.
MESSAGE_UNIT = 1 << 12
SIGMA_UNIT = 1 << 18
_SHARED = "shared_param=False, a threshold per channel; these neurons share one on the chip"
_INCLUSIVE = 4096  # from this threshold on, SLAYER's margin of 0.01 is lost in single precision


def _origin(module: nn.Module) -> tuple[str, str, str]:
    """Part of SLAYER, file and class that wrote ``module``'s forward: ``("block", "base", "AbstractDense")``."""
    author = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    if not author.__module__.startswith(_SLAYER):
        return "", "", ""
    area, _, file = author.__module__[len(_SLAYER) :].partition(".")
    return area, file, author.__name__


def rest(module: nn.Module) -> None:
    """Forget the states of earlier calls, and the history of weights that are made of others."""
    area = _origin(module)[0]
    if area == "synapse" and _normed(module):
        module.weight = module.weight.detach()  # made anew at the next call
    if area in ("block", "neuron", "axon", "dendrite"):
        for name, state in list(module.named_buffers(recurse=False)):
            if name.endswith("_state"):
                setattr(module, name, torch.zeros(1, dtype=state.dtype, device=state.device))
        if hasattr(module, "delay_buffer"):
            module.delay_buffer = None  # type: ignore[assignment]


def settle(module: nn.Module) -> None:
    """Make normed weights final in the precision that they were trained in; in another they may round apart."""
    if _origin(module)[0] == "synapse" and _normed(module):
        torch.nn.utils.remove_weight_norm(module)


def make_room(module: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Before a state dict is loaded: what is one number until the first call gets its shape."""
    if _origin(module)[0]:
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tensor.numel() == 1 and name in shapes:
                tensor.data = tensor.data.new_zeros(shapes[name])


def loaded(module: nn.Module) -> None:
    """After that: say that lazily made parameters are there, else the first call makes new random ones."""
    area, _, kind = _origin(module)
    thing: Any = module
    if area == "axon" and kind == "Delay":
        thing.init = True
    elif area in ("neuron", "axon") and getattr(thing, "shared_param", True) is False:
        thing.shared_param = True
    if area == "neuron" and hasattr(thing, "bias_is_set"):
        thing.bias_is_set = thing.bias_is_set or bool((thing.bias != 0).any())


def _normed(synapse: nn.Module) -> bool:
    return hasattr(synapse, "weight_g")


def leaf(module: nn.Module) -> Leaf | None:
    """The layer that a block is; None of modules that are looked into."""
    area, _, author = _origin(module)
    if area in ("neuron", "synapse", "axon", "dendrite") and author != "Dropout":
        raise UnsupportedError(f"slayer.{area} outside of a block; use the blocks of slayer.block")
    kind = author.removeprefix("Abstract")
    block: Any = module
    if area != "block" or kind == "Average" or (kind == "Input" and block.neuron is None):
        return None
    if kind == "Flatten":
        return Leaf(lambda name, shape: [Flatten(name=name)], time=-1, takes=None)
    if kind not in _LEAVES:
        raise UnsupportedError(f"{kind} has no form on the chip; {_WAYS_OUT.get(kind, 'use Dense or Conv')}")
    family = _origin(block.neuron)[1]
    if family not in _FAMILIES:
        raise UnsupportedError(f"neurons of kind {family} have no form on the chip; use {', '.join(_FAMILIES)}")
    if family.startswith("rf") and kind != "Dense":
        raise UnsupportedError(f"{kind} of resonators has no form in NetX, only Dense has")
    if family == "sigma_delta" and kind == "Recurrent":
        raise UnsupportedError("recurrent sigma-delta neurons have no form in NetX; use Dense")
    _check_block(block, family)
    return _LEAVES[kind](block, family)


def _check_block(block: Any, family: str) -> None:
    """What is the same for all blocks with neurons."""
    scale, neuron = block.neuron.w_scale, block.neuron
    if scale & (scale - 1) or (family == "sigma_delta" and scale != 64):
        wanted = "64, as the messages need" if family == "sigma_delta" else "a power of two, as exact sums need"
        raise UnsupportedError(f"scale={scale} of the neurons is not {wanted}; train with scale=64")
    if family != "sigma_delta" and neuron.graded_spike:
        raise UnsupportedError("graded_spike=True, which NetX ignores; train with graded_spike=False")
    if family == "sigma_delta" and neuron.delta.cum_error:
        raise UnsupportedError("cum_error=True has no form on the chip; train with cum_error=False")
    synapse = getattr(block, "synapse", None)
    if getattr(block, "mask", None) is not None and synapse is not None and synapse.weight_norm_enabled:
        raise UnsupportedError("mask with weight_norm=True, which SLAYER then ignores; train without one of them")


# --- parameters ---


def _integers(what: str, values: Any, unit: int, remedy: str) -> IntArray:
    """``values`` in units of ``1 / unit``, which they have to be multiples of."""
    exact = (as_array(values) if isinstance(values, torch.Tensor) else np.asarray(values, np.float64)) * unit
    whole = np.rint(exact)
    if (whole != exact).any():
        example = exact[whole != exact].flat[0] / unit
        raise UnsupportedError(f"{what} contains {example:.9g}, not a multiple of 1/{unit}; {remedy}")
    integers: IntArray = whole.astype(np.int32)
    return integers


def _weights(synapse: Any, scale: int) -> IntArray:
    """Mantissas ``[C_out, C_in / groups, kH, kW]``, as the synapse quantises them."""
    hook = synapse.pre_hook_fx
    weight = synapse.weight if hook is None else hook(synapse.weight)
    return _integers("weight", weight, scale, "leave pre_hook_fx to the block, which quantises them")[..., 0]


def _shift(neuron: Any) -> IntArray:
    """Bias mantissas that normalisation leaves: one, or one per channel."""
    norms = [getattr(neuron, name, None) for name in ("norm", "real_norm", "imag_norm")]
    norm = next((norm for norm in norms if norm is not None), None)
    if norm is None:
        return np.zeros((), np.int32)
    kind = type(norm).__name__
    if neuron.complex or kind not in ("MeanOnlyBatchNorm", "WgtScaleBatchNorm"):
        raise UnsupportedError(f"normalisation by {kind} has no form on the chip; train with weight_norm=True instead")
    if kind == "WgtScaleBatchNorm" and bool((norm.std(norm.running_var) != 1).any()):
        factor = as_array(norm.std(norm.running_var)).flat[0]
        raise UnsupportedError(
            f"WgtScaleBatchNorm divides by {factor:g}, which NetX ignores; train with MeanOnlyBatchNorm"
        )
    mean = norm.pre_hook_fx(norm.running_mean)
    return -_integers("running_mean", mean, neuron.w_scale, "leave its pre_hook_fx to the neuron").squeeze()


def _bias(neuron: Any) -> IntArray:
    """Bias mantissas: one, one per channel, or one per neuron."""
    shift = _shift(neuron)
    if not getattr(neuron, "bias_is_set", False):
        return shift
    remedy = "round it: neuron.set_bias(torch.round(bias * 64) / 64)"
    bias = _integers("bias", neuron.bias, neuron.w_scale, remedy)
    if bias.size == 1:
        return shift + bias.reshape(())
    return shift.reshape(-1, *(1,) * (bias.ndim - 1)) + bias


def _cuba(name: str, neuron: Any, threshold: int | None = None) -> Neuron:
    current, voltage = _rounded(neuron.current_decay), _rounded(neuron.voltage_decay)
    if (current.ndim or voltage.ndim) and len(neuron.shape) != 1:
        raise UnsupportedError(
            "shared_param=False, decays per channel of an image, which SLAYER takes as decays per column; "
            "train with shared_param=True"
        )
    threshold = neuron.v_th_mant if threshold is None else threshold
    return Neuron.of(name, threshold, current, voltage, _bias(neuron))


def _sigma_delta(name: str, neuron: Any) -> SigmaDelta:
    if getattr(neuron.activation, "__name__", type(neuron.activation).__name__).lower() != "relu":
        raise UnsupportedError(f"activation {neuron.activation}; the chip's sigma-delta neurons rectify, use F.relu")
    return SigmaDelta.of(name, _delta_threshold(neuron), _bias(neuron))


def _delta_threshold(neuron: Any) -> int:
    remedy = "train with a threshold that is one"
    thresholds = np.unique(_integers("threshold", neuron.delta.threshold, neuron.w_scale, remedy))
    if len(thresholds) != 1:
        raise UnsupportedError(_SHARED)
    return int(thresholds[0])


def _resonator(name: str, neuron: Any, family: str) -> Resonator:
    _bias(neuron)  # there must be none
    sine, cosine = _rounded(neuron.sin_decay), _rounded(neuron.cos_decay)
    return Resonator.of(name, neuron.v_th_mant, sine, cosine, phase=family == "rf")


def _rounded(decays: torch.Tensor) -> IntArray:
    """One, or one per neuron."""
    whole: IntArray = np.rint(as_array(decays)).astype(np.int32)
    return whole.reshape(()) if whole.size == 1 else whole


def _neuron(name: str, neuron: Any, family: str) -> AnyNeuron:
    if family == "cuba":
        return _cuba(name, neuron)
    return _sigma_delta(name, neuron) if family == "sigma_delta" else _resonator(name, neuron, family)


def _delays(block: Any) -> IntArray | None:
    """Whole steps that each channel's messages take longer; None where no channel's do."""
    if block.delay is None:
        return None
    steps = np.floor(as_array(block.delay.delay / block.delay.sampling_time)).astype(np.int32)
    return steps if steps.any() else None


# --- blocks ---


def _leaf(block: Any, family: str, build: Build) -> Leaf:
    """A block of synapses, neurons and, perhaps, delays."""
    unit = MESSAGE_UNIT if family == "sigma_delta" else 1

    def nodes(name: str, shape: Shape) -> list[Node]:
        layer, delays = build(name, shape), _delays(block)
        if delays is None:
            return [ChipLayer(name=name, layer=layer)]
        if isinstance(layer, Conv):
            raise UnsupportedError(
                f"delays of images, up to {delays.max()} steps, have no form in NetX; train this layer with delay=False"
            )
        rows = np.broadcast_to(delays[:, None], layer.weight.shape)
        if layer.recurrent is None and layer.imaginary is None and not _biased(layer.neuron):
            return [ChipLayer(name=name, layer=replace(layer, delay=rows))]
        if family == "sigma_delta":
            raise UnsupportedError("delays of sigma-delta neurons with a bias have no form; train with delay=False")
        first = f"{name} neurons"
        layer = replace(layer, name=first)
        return [ChipLayer(name=first, layer=layer), ChipLayer(name=name, layer=_relays(name, layer.shape, delays))]

    late, inexact = int(block.delay_shift is True), _inexact(block.neuron, family)
    return Leaf(nodes, -1, delay=late, inexact=inexact, unit=unit, takes=unit, drifts=bool(_bias(block.neuron).any()))


def _inexact(neuron: Any, family: str) -> tuple[str, ...]:
    if family != "cuba" or neuron.v_th_mant < _INCLUSIVE:
        return ()
    return (
        f"threshold {neuron.threshold:g}, from {_INCLUSIVE // neuron.w_scale} on SLAYER in single precision also fires "
        "at it, the chip above it",
    )


def _biased(neuron: AnyNeuron) -> bool:
    return isinstance(neuron, Neuron | SigmaDelta) and bool(neuron.bias.any())


def _relays(name: str, shape: Shape, delays: IntArray) -> Dense:
    """Memoryless neurons that repeat each spike so many steps later."""
    size = len(delays)
    weight = 64 * np.eye(size, dtype=np.int32)
    neuron = Neuron.of(name, 32, limits.DECAY_UNITY, limits.HARDWARE_DECAY_MAX)
    return Dense(name, shape, weight, neuron, delay=np.broadcast_to(delays[:, None], (size, size)))


def _dense(block: Any, family: str) -> Leaf:
    def build(name: str, shape: Shape) -> Dense | Conv:
        neuron, scale = _neuron(name, block.neuron, family), block.neuron.w_scale
        if family.startswith("rf"):
            real, imaginary = (_weights(part, scale) for part in (block.synapse.real, block.synapse.imag))
            if len(shape) == 3:
                raise UnsupportedError("resonators that are driven by images; put a Flatten before")
            return Dense(name, shape, _matrix(real), neuron, imaginary=_matrix(imaginary))
        weight = _weights(block.synapse, scale)
        if len(shape) == 3:  # SLAYER convolves, and keeps two axes of the image
            return Conv(name, shape, weight, neuron)
        return Dense(name, shape, _matrix(weight), neuron)

    return _leaf(block, family, build)


def _matrix(weight: IntArray) -> IntArray:
    return weight.reshape(len(weight), -1)


def _conv(block: Any, family: str) -> Leaf:
    def build(name: str, shape: Shape) -> Conv:
        synapse = block.synapse
        geometry = {what: tuple(getattr(synapse, what)[:2]) for what in ("stride", "padding", "dilation")}
        weight, neuron = _weights(synapse, block.neuron.w_scale), _neuron(name, block.neuron, family)
        return Conv(name, shape, weight, neuron, groups=synapse.groups, **geometry)

    return _leaf(block, family, build)


def _pool(block: Any, family: str) -> Leaf:
    """Sums over windows, with one weight: a convolution of each channel on its own."""

    def build(name: str, shape: Shape) -> Conv:
        synapse = block.synapse
        kernel, stride = tuple(synapse.kernel_size[:2]), tuple(synapse.stride[:2])
        plain = kernel == stride and tuple(synapse.padding[:2]) == (0, 0) and tuple(synapse.dilation[:2]) == (1, 1)
        if not plain or any(n % k for n, k in zip(shape[1:], kernel, strict=True)):
            raise UnsupportedError(
                f"Pool of {kernel} at steps of {stride} on an image of {shape[1:]}, where SLAYER mixes the channels or "
                "pads one side; use windows that divide the image, without overlap or padding"
            )
        weight = np.broadcast_to(_weights(synapse, block.neuron.w_scale), (shape[0], 1, *kernel))
        return Conv(name, shape, weight, _neuron(name, block.neuron, family), stride=stride, groups=shape[0])

    return _leaf(block, family, build)


def _recurrent(block: Any, family: str) -> Leaf:
    neuron = block.neuron
    if block.recurrent_synapse.weight_norm_enabled:
        raise UnsupportedError(
            "weight_norm=True of Recurrent, which SLAYER applies to the recurrent weights once and never again; train "
            "with weight_norm=False"
        )
    if _shift(neuron).any() and bool((torch.round(neuron.current_decay) != limits.DECAY_UNITY).any()):
        raise UnsupportedError(
            "normalisation of recurrent neurons, which SLAYER adds to a current that has a memory; train without norm, "
            "or with current_decay=1"
        )

    def build(name: str, shape: Shape) -> Dense:
        if len(shape) != 1:
            raise UnsupportedError("recurrent neurons that are driven by images; put a Flatten before")
        given, own = (
            _matrix(_weights(part, neuron.w_scale)) for part in (block.input_synapse, block.recurrent_synapse)
        )
        return Dense(name, shape, given, _cuba(name, neuron), recurrent=own)

    return _leaf(block, family, build)


def _affine(block: Any, family: str) -> Leaf:
    """A readout: membrane potentials that nothing resets, or the weighted sums themselves."""
    scale = block.neuron.w_scale

    def integrator(name: str, shape: Shape) -> list[Node]:
        neuron = _cuba(name, block.neuron, limits.LAVA_THRESHOLD_MAX)
        return [ChipLayer(name=name, layer=Dense(name, shape, _matrix(_weights(block.synapse, scale)), neuron))]

    def sums(name: str, shape: Shape) -> list[Node]:
        weight = _matrix(_weights(block.synapse, scale)) / scale
        return [Linear(name=name, weight=weight, bias=np.zeros(len(weight)))]

    if not block.dynamics:
        return Leaf(sums, time=-1)
    return Leaf(integrator, time=-1, potential=0, unit=block.neuron.s_scale, drifts=bool(_bias(block.neuron).any()))


def _input(block: Any, family: str) -> Leaf:
    """Neurons that rounded input drives one to one."""
    neuron, scale = block.neuron, block.neuron.w_scale
    if block.pre_hook_fx != neuron.quantize_8bit:
        raise UnsupportedError("pre_hook_fx of its own; leave it to the block, which rounds the input to 8 bits")
    step, offset = 2 * scale, 0
    for what in ("weight", "bias"):
        values = getattr(block, what)
        if values is not None:
            (mantissa,) = _integers(what, neuron.quantize_8bit(values), scale, "leave it to the block").tolist()
            step, offset = (2 * mantissa, offset) if what == "weight" else (step, mantissa)
    if step <= 0 or step % scale:
        raise UnsupportedError(
            f"weight of the input is {step / scale / 2:g}, not a positive multiple of 1/2; scale the data instead"
        )
    encoding = Encoding("graded", scale / 2, -128, 127, step=step // scale, offset=offset)
    if family == "cuba":
        _check_bias_free(neuron)

    def nodes(name: str, shape: Shape) -> list[Node]:
        kind = _cuba(name, neuron) if family == "cuba" else Delta.of(name, _encoder_threshold(neuron))
        return [ChipLayer(name=name, layer=InputNeurons(name, shape, kind), encoding=encoding)]

    if family == "cuba":
        return Leaf(nodes, time=-1, delay=int(block.delay_shift is True), inexact=_inexact(neuron, family))
    return Leaf(nodes, time=-1, unit=MESSAGE_UNIT)


def _check_bias_free(neuron: Any) -> None:
    if _bias(neuron).any():
        raise UnsupportedError("normalisation of input neurons, which NetX ignores; train without norm")


def _encoder_threshold(neuron: Any) -> int:
    """Changes of the input are integers: what a threshold lets pass, the next integer does."""
    thresholds = np.unique(np.ceil(as_array(neuron.delta.threshold) * neuron.w_scale))
    if len(thresholds) != 1:
        raise UnsupportedError(_SHARED)
    return int(thresholds[0])


def _output(block: Any, family: str) -> Leaf:
    def nodes(name: str, shape: Shape) -> list[Node]:
        weight = _matrix(_weights(block.synapse, block.neuron.w_scale))
        return [ChipLayer(name=name, layer=Dense(name, shape, weight, Sigma()))]

    return Leaf(nodes, time=-1, potential=0, unit=SIGMA_UNIT, takes=MESSAGE_UNIT)


_LEAVES: dict[str, Callable[[Any, str], Leaf]] = {
    "Input": _input,
    "Dense": _dense,
    "Conv": _conv,
    "Pool": _pool,
    "Recurrent": _recurrent,
    "Affine": _affine,
    "Output": _output,
}
