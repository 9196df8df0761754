"""Quantisation-aware training: a module with the trained parameters whose forward pass is the chip's integer law."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, Encoding
from snn2chip.chip import Neuron as ChipNeuron
from snn2chip.errors import UnsupportedError, UsageError
from snn2chip.frontends import Layout
from snn2chip.graph import BatchNorm, Conv2d, Graph, Linear, Neuron, Node, per_channel
from snn2chip.model_file import model_of
from snn2chip.nn.surrogate import SURROGATES
from snn2chip.passes import Block, chip_blocks, hold_input, lower
from snn2chip.quantise.autograd import Law, run, straight_through
from snn2chip.quantise.network import SAMPLES, Plan, quantise
from snn2chip.quantise.origin import Origin, origins, with_arrays
from snn2chip.quantise.pruning import kept
from snn2chip.quantise.resets import hard_reset
from snn2chip.traces import messages_of

Array = npt.NDArray[Any]
_ALMOST_ZERO = 1e-30


@dataclass(frozen=True)
class Spec:
    """How a network is quantised.

    Attributes:
        bits, scales, per_neuron, hardware_legal, layers: see :func:`snn2chip.quantise.quantise`.
        analog_input: ``graded`` messages at each step, or ``hold``.
        reset: ``zero`` trains with the chip's own reset, whatever the model had; None keeps the model's.
        sparsity: share of the smallest weights of each layer that become 0 and stay it.
        surrogate: name of the surrogate derivative, see :data:`snn2chip.nn.SURROGATES`.
    """

    bits: int = 8
    scales: str = "search"
    per_neuron: bool = False
    hardware_legal: bool = True
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    analog_input: Literal["graded", "hold"] = "graded"
    reset: Literal["zero"] | None = None
    sparsity: float = 0.0
    surrogate: str = "triangle"

    def __post_init__(self) -> None:
        if self.analog_input not in ("graded", "hold") or self.reset not in (None, "zero"):
            raise UsageError(f"spec: analog_input {self.analog_input!r} or reset {self.reset!r} is unknown")
        if self.surrogate not in SURROGATES:
            raise UsageError(f"spec: surrogate {self.surrogate!r} is unknown, have {', '.join(SURROGATES)}")
        if not 0 <= self.sparsity < 1:
            raise UsageError(f"spec: sparsity is {self.sparsity}, expected 0 to below 1")


@dataclass(frozen=True)
class _Source:
    """One array of the graph and the tensors that it is computed from."""

    node: str
    array: Literal["weight", "bias", "recurrent"]
    parameter: Tensor | None
    norm: BatchNorm | _BatchNorm | None = None

    def value(self) -> Tensor:
        """The array now, float64, normalisation folded in."""
        if self.norm is None:
            assert self.parameter is not None
            return self.parameter.double()
        if isinstance(self.norm, BatchNorm):
            scale, shift = (torch.from_numpy(np.array(a, np.float64)) for a in (self.norm.scale, self.norm.shift))
        else:
            scale, shift = _affine(self.norm)
        if self.array == "bias":
            return shift if self.parameter is None else self.parameter.double() * scale + shift
        assert self.parameter is not None
        weight = self.parameter.double()
        return weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _affine(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm with its running statistics."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.double()


@dataclass(frozen=True, eq=False)
class _Stage:
    """One layer: what its numbers were when it was prepared, and where they come from."""

    block: Block
    plan: Plan
    origins: Mapping[str, Origin]

    def now(self, parameters: Array) -> Block:
        """The block with other parameters."""
        return with_arrays(self.block, {name: origin(parameters) for name, origin in self.origins.items()})


class IntegerNetwork(nn.Module):
    """A network that computes what its export computes on the chip, spike by spike, and can be trained.

    The forward pass quantises the parameters as they are and runs the integer law on messages of the input. Gradients
    pass straight through the rounding, stop where a weight is clipped, and use the surrogate at the threshold. Batch
    norms have their running statistics and dropout does nothing, as on the chip. Scales stay what they were when it was
    prepared.

    Attributes:
        model: the module that was prepared; its parameters are trained.
        spec: how it is quantised.
        time_steps: T.

    Shape: ``[N, T, *input_shape]``, or ``[N, *input_shape]``, to ``[N, classes]``: spikes per step, or the readout's
    potential in the trained model's units (its mean over time, where the model returns that).
    """

    def __init__(
        self,
        model: nn.Module,
        spec: Spec,
        graph: Graph,
        net: ChipNet,
        sources: list[_Source],
        stages: list[_Stage],
        mean: bool,
    ) -> None:
        super().__init__()
        self.model, self.spec = model, spec
        self.time_steps = net.time_steps
        self._graph, self._template = graph, net
        self._sources, self._stages, self._mean = sources, stages, mean
        self._on_device: dict[tuple[int, str, torch.device], tuple[Tensor, Tensor, Tensor]] = {}

    def _parameters_now(self) -> Tensor:
        """All arrays of the graph behind one another, ``[P]``, float64."""
        return torch.cat([source.value().reshape(-1) for source in self._sources])

    def chip_net(self) -> ChipNet:
        """The integers of the parameters as they are: for ``snn2chip.export``.

        Raises:
            LimitError: training has moved a threshold or bias out of its register, or weights to where they are zero.
        """
        with torch.no_grad():
            parameters = self._parameters_now().cpu().numpy()
        return replace(self._template, layers=tuple(self._layers(parameters)))

    def _layers(self, parameters: Array) -> list[Dense | Conv]:
        return [stage.plan.build(stage.now(parameters)) for stage in self._stages]

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``[N, classes]``."""
        spikes, potential = self._run(x, True)[-1]
        if self._template.readout.kind == "potential":
            scores = self._in_units(potential)
            return (scores / self.time_steps if self._mean else scores).to(torch.float32)
        return spikes.mean(1).flatten(1)

    def steps(self, x: Tensor) -> Tensor:
        """What is read at each step, ``[N, T, classes]``; where :meth:`forward` is a mean, it is that of these."""
        spikes, potential = self._run(x, False)[-1]
        if self._template.readout.kind == "potential":
            scores = self._in_units(potential.flatten(0, 1)).reshape(*potential.shape[:2], -1)
            if self._mean:
                scores = torch.diff(scores, dim=1, prepend=torch.zeros_like(scores[:, :1]))
            return scores.to(torch.float32)
        return spikes.flatten(2)

    def spikes(self, x: Tensor) -> dict[str, Tensor]:
        """Spikes of each layer ``[N, T, *shape]``, by its name in :meth:`chip_net`."""
        return {stage.block.name: s for stage, (s, _) in zip(self._stages, self._run(x, True), strict=True)}

    def _in_units(self, potential: Tensor) -> Tensor:
        return potential.flatten(1) / self._unit(len(self._stages) - 1, potential.device).flatten()

    def _unit(self, index: int, device: torch.device) -> Tensor:
        """u and v per unit of the trained model's potential, ``[C, 1, 1]`` or ``[C]``."""
        stage = self._stages[index]
        form = stage.plan.form(stage.block)
        unit = np.where(form.live, stage.plan.scale, 1.0) * stage.plan.message_scale * form.gain
        unit = per_channel(unit * (1 << limits.STATE_SHIFT), len(form.shape))
        return torch.from_numpy(np.ascontiguousarray(unit)).to(device)

    def _run(self, x: Tensor, last: bool) -> list[tuple[Tensor, Tensor]]:
        """Spikes and potentials of each layer."""
        parameters = self._parameters_now()
        layers = self._layers(parameters.detach().cpu().numpy())
        net = replace(self._template, layers=tuple(layers))  # checks the sums
        device = parameters.device
        encoding = net.encoding
        data = x.detach().cpu().numpy()
        constant = encoding.kind == "graded" and not encoding.spread and data.ndim == len(net.input_shape) + 1
        messages = messages_of(encoding, net.input_shape, 1 if constant else net.time_steps, data)
        given = torch.from_numpy(messages).to(device, torch.float32)
        found: list[tuple[Tensor, Tensor]] = []
        for i, layer in enumerate(layers):
            sums = self._sums(i, layer, given, parameters, encoding.largest if i == 0 else 1)
            if sums.shape[1] < self.time_steps:
                if constant and i == 0:
                    sums = sums.expand(-1, self.time_steps, *sums.shape[2:])
                else:  # held: nothing arrives after the first step
                    sums = F.pad(sums, (0, 0) * (sums.ndim - 2) + (0, self.time_steps - sums.shape[1]))
            assert isinstance(layer.neuron, ChipNeuron)
            recurrent = None
            if isinstance(layer, Dense) and layer.recurrent is not None:
                recurrent = self._straight_through(i, "recurrent", layer.recurrent, parameters)
            bias = layer.neuron.bias.astype(np.float64)
            if bias.ndim == 1:
                bias = per_channel(bias, len(layer.shape))
            own = torch.from_numpy(np.ascontiguousarray(bias)).to(device)
            if "bias" in self._stages[i].origins:
                own = self._straight_through(i, "bias", bias, parameters)
            law = self._law(i, layer, encoding if i == 0 else Encoding())
            spikes, potential = run(sums, own, recurrent, law, last or i < len(layers) - 1)
            found.append((spikes, potential))
            given = spikes
        return found

    def _sums(self, i: int, layer: Dense | Conv, given: Tensor, parameters: Tensor, largest: int) -> Tensor:
        """``a`` of the feed-forward synapses, ``[N, T, *shape]``; exact in float32, as sums stay below 2^24."""
        weight = self._straight_through(i, "weight", layer.weight, parameters).float()
        if isinstance(layer, Conv):
            flat = given.flatten(0, 1)
            sums = F.conv2d(flat, weight, None, layer.stride, layer.padding, layer.dilation, layer.groups)
            whole = straight_through(sums, torch.round(sums))  # fast convolutions are not exact by themselves
            return whole.reshape(*given.shape[:2], *whole.shape[1:])
        rows = given.flatten(2)
        if layer.delay is None:
            return F.linear(rows, weight)
        total: Tensor | None = None
        for d in np.unique(layer.delay).tolist():
            taken = torch.from_numpy(layer.delay == d).to(weight.device)
            part = F.linear(rows, weight * taken)
            part = F.pad(part, (0, 0, d, 0))[:, : rows.shape[1]]
            total = part if total is None else total + part
        assert total is not None  # there is at least one synapse
        return total

    def _straight_through(self, i: int, name: str, integers: Array, parameters: Tensor) -> Tensor:
        """Integers whose gradient is that of the trained values in the same units, 0 where these are clipped."""
        stage = self._stages[i]
        exact = torch.from_numpy(np.ascontiguousarray(integers, np.float64)).to(parameters.device)
        if not torch.is_grad_enabled() or not parameters.requires_grad:
            return exact
        constant, factor, index = self._tensors(i, name, parameters.device)
        form = stage.plan.form(stage.block)
        scale = stage.plan.scale * form.gain * (1.0 if name == "weight" else stage.plan.message_scale)
        value = constant + factor * parameters[index.reshape(-1)].reshape(index.shape)
        value = value * torch.from_numpy(per_channel(scale, value.ndim).copy()).to(value.device)
        if value.ndim < exact.ndim:  # one bias per channel
            value = value.reshape(exact.shape)
        if name != "bias":
            low, high = (bound * form.gain for bound in form.bounds)
            slack = form.gain / 2
            value = value * ((value >= low - slack) & (value <= high + slack))
        return straight_through(value, exact)

    def _tensors(self, i: int, name: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        key = (i, name, device)
        if key not in self._on_device:
            origin = self._stages[i].origins[name]
            arrays = (origin.constant, origin.factor, origin.index)
            first, second, third = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in arrays)
            self._on_device[key] = first, second, third
        return self._on_device[key]

    def _law(self, i: int, layer: Dense | Conv, encoding: Encoding) -> Law:
        device = next(self.model.parameters()).device
        assert isinstance(layer.neuron, ChipNeuron)
        values = {name: array.astype(np.float64) for name, array in layer.neuron.expanded(layer.shape).items()}
        threshold, current, voltage = (
            torch.from_numpy(a).to(device)
            for a in (
                values["threshold"] * (1 << limits.STATE_SHIFT),
                limits.DECAY_UNITY - values["current_decay"],
                limits.DECAY_UNITY - values["voltage_decay"],
            )
        )
        largest = layer.largest_sum(encoding.largest)
        wraps = bool(current.any()) or largest << limits.STATE_SHIFT >= limits.STATE_LIMIT
        conv_wraps = isinstance(layer, Conv) and largest >= 1 << (limits.CONV_SUM_BITS - 1)
        derivative = SURROGATES[self.spec.surrogate]
        return Law(threshold, current, voltage, self._unit(i, device), wraps, conv_wraps, derivative)


def prepare(
    model: nn.Module,
    spec: Spec | None = None,
    calibration: Any = None,
    example_input: Any = None,
    layout: Layout | None = None,
    approximate: bool = False,
) -> IntegerNetwork:
    """A module with the parameters of ``model`` whose forward pass is the chip's integer law.

    Args:
        model: any module that :func:`snn2chip.frontends.capture` takes, whose synapses have plain weights.
        spec: how it is quantised; 8 bits by default.
        calibration: samples ``x`` ``[N, ...]`` or ``(x, y)``, with which scales are chosen.
        example_input, layout, approximate: see :func:`snn2chip.model_file.model_of`.

    Raises:
        UnsupportedError: the network has no form on the chip, or a weight is no parameter of its own.
        UsageError: there is no calibration.
    """
    spec = spec or Spec()
    captured = model_of(model, example_input, calibration, layout, approximate)
    if captured.x is None:
        raise UsageError("prepare: give calibration samples, with which scales are chosen")
    graph = captured.graph
    if spec.reset == "zero":
        graph = hard_reset(graph)
    graph, sources = _bound(model, graph)
    slots = [tuple(source.value().shape) for source in sources]

    def lowered(parameters: Array) -> Graph:
        filled = lower(_filled(graph, sources, slots, parameters))
        return hold_input(filled) if spec.analog_input == "hold" else filled

    with torch.no_grad():
        values = [source.value().reshape(-1).cpu().numpy() for source in sources]
    # A bias that is zero as yet is there all the same.
    started = [v if v.any() or s.array != "bias" else v + _ALMOST_ZERO for v, s in zip(values, sources, strict=True)]
    parameters = np.concatenate(started)
    found = origins(lowered, parameters)
    form = lowered(parameters)
    blocks = chip_blocks(form)
    if spec.sparsity:
        masks = [kept(block, spec.sparsity) for block in blocks]
        found = [{**here, "weight": here["weight"].masked(mask)} for here, mask in zip(found, masks, strict=True)]
        form = form.replaced(
            {b.name: replace(b.synapse, weight=b.synapse.weight * mask) for b, mask in zip(blocks, masks, strict=True)}
        )
        blocks = chip_blocks(form)
    quantised = quantise(
        form,
        captured.x[:SAMPLES],
        spec.bits,
        spec.scales,
        per_neuron=spec.per_neuron,
        hardware_legal=spec.hardware_legal,
        rounding="nearest",
        layers=spec.layers,
    )
    stages = [_Stage(*parts) for parts in zip(blocks, quantised.plans, found, strict=True)]
    mean = not graph.reads_potential
    return IntegerNetwork(model, spec, graph, quantised.net, sources, stages, mean)


def _bound(model: nn.Module, graph: Graph) -> tuple[Graph, list[_Source]]:
    """The graph without the batch norms that fold into the synapses right before them, and what its arrays are."""
    by_value: dict[tuple[tuple[int, ...], bytes], list[tuple[str, Tensor]]] = {}
    for name, parameter in model.named_parameters():
        array = parameter.detach().cpu().double().numpy()
        by_value.setdefault((array.shape, array.tobytes()), []).append((name, parameter))

    def parameter_of(node: str, array: Array) -> Tensor | None:
        path = node.split(" (")[0]
        found = by_value.get((array.shape, np.ascontiguousarray(array, np.float64).tobytes()), [])
        return next((p for name, p in found if name.startswith(f"{path}.")), found[0][1] if found else None)

    sources: list[_Source] = []
    gone: dict[str, Node | None] = {}
    for node in graph.nodes:
        if isinstance(node, Neuron) and node.recurrent is not None:
            own = parameter_of(node.name, node.recurrent)
            if own is not None:
                sources.append(_Source(node.name, "recurrent", own))
        if not isinstance(node, Linear | Conv2d):
            continue
        weight = parameter_of(node.name, node.weight)
        if weight is None:
            raise UnsupportedError(
                f"{node.name}: its weight is computed from other parameters, or shared in part; remove the "
                "parametrisation (torch.nn.utils.parametrize.remove_parametrizations) before prepare"
            )
        consumers = graph.consumers(node.name)
        norm: BatchNorm | _BatchNorm | None = None
        if len(consumers) == 1 and isinstance(consumers[0], BatchNorm):
            norm = _module_of(model, consumers[0])
            gone[consumers[0].name] = None
        sources.append(_Source(node.name, "weight", weight, norm))
        bias = parameter_of(node.name, node.bias) if node.bias.any() else None
        if norm is not None or bias is not None:
            sources.append(_Source(node.name, "bias", bias, norm))
    return graph.replaced(gone), sources


def _module_of(model: nn.Module, node: BatchNorm) -> BatchNorm | _BatchNorm:
    """The module that the node was captured from, if it computes the same; else the node, whose numbers stay."""
    module = dict(model.named_modules()).get(node.name.split(" (")[0])
    if isinstance(module, _BatchNorm) and module.running_mean is not None:
        with torch.no_grad():
            scale, shift = (part.cpu().numpy() for part in _affine(module))
        if np.allclose(scale, node.scale, 1e-9, 1e-12) and np.allclose(shift, node.shift, 1e-9, 1e-9):
            return module
    return node


def _filled(graph: Graph, sources: list[_Source], slots: list[tuple[int, ...]], parameters: Array) -> Graph:
    """The graph with these numbers in the arrays of the sources."""
    changes: dict[str, Node | None] = {}
    begin = 0
    for source, shape in zip(sources, slots, strict=True):
        size = int(np.prod(shape))
        values = parameters[begin : begin + size].reshape(shape)
        begin += size
        node = changes.get(source.node) or graph.node(source.node)
        assert isinstance(node, Linear | Conv2d | Neuron)
        changes[source.node] = replace(node, **{source.array: values})  # type: ignore[arg-type]
    return graph.replaced(changes)
