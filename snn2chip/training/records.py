"""What neurons did in a forward pass, as tensors that losses can be made of: ``[T, N, ...]``, gradients attached."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.leaves import put_at_rest
from snn2chip.nn import Network, SpikingNeuron


@dataclass(frozen=True, eq=False)
class LayerRecord:
    """One layer of neurons in one forward pass.

    Attributes:
        name: the module's path.
        spikes: ``[T, N, ...]``.
        potential: ``[T, N, ...]`` after the reset; None where it was not asked for.
        threshold: of the neurons.
    """

    name: str
    spikes: Tensor
    potential: Tensor | None
    threshold: float


@dataclass
class Records:
    """Fills while the module runs; :meth:`take` hands over the layers in the order in which they ran."""

    _order: list[str] = field(default_factory=list)
    _spikes: dict[str, list[Tensor]] = field(default_factory=dict)
    _potentials: dict[str, list[Tensor]] = field(default_factory=dict)
    _thresholds: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, threshold: float, spikes: Tensor, potential: Tensor | None) -> None:
        """One step, or all of them, ``[T, N, ...]``."""
        if name not in self._spikes:
            self._order.append(name)
            self._spikes[name], self._potentials[name] = [], []
        self._thresholds[name] = threshold
        self._spikes[name].append(spikes)
        if potential is not None:
            self._potentials[name].append(potential)

    def take(self) -> list[LayerRecord]:
        """The layers since the last call."""
        found = [
            LayerRecord(
                name,
                _joined(self._spikes[name]),
                _joined(self._potentials[name]) if self._potentials[name] else None,
                self._thresholds[name],
            )
            for name in self._order
        ]
        for part in (self._order, self._spikes, self._potentials, self._thresholds):
            part.clear()
        return found


def _joined(steps: list[Tensor]) -> Tensor:
    return steps[0] if len(steps) == 1 else torch.cat(steps)


def _library(module: nn.Module) -> str | None:
    """``own``, ``snntorch`` or ``spikingjelly`` for neurons; None for everything else."""
    if isinstance(module, SpikingNeuron):
        return "own"
    author = type(module).__module__.partition(".")[0]
    if author == "snntorch" and isinstance(module, importlib.import_module("snntorch").SpikingNeuron):
        return author
    if author == "spikingjelly":
        neuron = importlib.import_module("spikingjelly.activation_based.neuron")
        return author if isinstance(module, neuron.BaseNode) else None
    return None


def neurons_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of all layers of neurons: ours, snnTorch's and SpikingJelly's."""
    return [(name, inner) for name, inner in module.named_modules() if _library(inner)]


@contextmanager
def observe(module: nn.Module, potentials: bool = False, local: bool = False) -> Iterator[Records]:
    """Record all neurons of ``module`` while the block runs.

    Args:
        module: neurons of ours (all steps in a call), of SpikingJelly (single- or multi-step), or of snnTorch with
            ``init_hidden=False`` (a call for each step).
        potentials: also record membrane potentials after the reset, as each library returns them: snnTorch's with its
            usual ``reset_delay`` are those before a reset that is still to come.
        local: pass on each layer's spikes without their gradient, so that each layer learns from its own record alone.

    Raises:
        UnsupportedError: a neuron does not hand out its spikes.
    """
    records = Records()
    handles = []
    kept: list[tuple[nn.Module, str, Any]] = []
    for name, neuron in neurons_of(module):
        library = _library(neuron)
        flag = {"own": "keep_potential", "spikingjelly": "store_v_seq"}.get(library or "")
        if flag and potentials and not (library == "spikingjelly" and _single(neuron)):
            kept.append((neuron, flag, getattr(neuron, flag)))
            setattr(neuron, flag, True)
        handles.append(neuron.register_forward_hook(_hook(records, name, library, potentials, local)))
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()
        for neuron, flag, before in kept:
            setattr(neuron, flag, before)
            if flag == "keep_potential":
                neuron.potential = None  # type: ignore[assignment]  # it holds the graph of the whole pass
        records.take()


def _single(neuron: nn.Module) -> bool:
    return bool(getattr(neuron, "step_mode", "s") == "s")


def _hook(records: Records, name: str, library: str | None, potentials: bool, local: bool) -> Any:
    def hook(neuron: Any, _args: Any, output: Any) -> Any:
        if library == "own":
            spikes = output.transpose(0, 1)
            potential = neuron.potential.transpose(0, 1) if potentials else None
            threshold = neuron.threshold
        elif library == "snntorch":
            if not isinstance(output, tuple):
                raise UnsupportedError(f"{name}: init_hidden=True hides the states; use init_hidden=False")
            spikes, potential = output[0][None], output[-1][None] if potentials else None
            threshold = float(neuron.threshold)
        else:
            single = _single(neuron)
            spikes = output[None] if single else output
            potential = (neuron.v[None] if single else neuron.v_seq) if potentials else None
            threshold = float(neuron.v_threshold)
        records.add(name, threshold, spikes, potential)
        if not local:
            return None
        return (output[0].detach(), *output[1:]) if isinstance(output, tuple) else output.detach()

    return hook


def outputs_of(module: nn.Module, x: Tensor, time_steps: int) -> Tensor:
    """Output at each step ``[T, N, classes]``.

    Args:
        module: a :class:`~snn2chip.nn.Network`; or any module that takes ``[T, N, ...]`` and returns
            ``[T, N, classes]``, as is the habit of snnTorch and SpikingJelly. It starts at rest.
        x: ``[N, T, ...]``, or ``[N, ...]``, static.
        time_steps: for static input; a network uses its own.
    """
    if isinstance(module, Network):
        return module.steps(x).transpose(0, 1)
    for inner in module.modules():
        put_at_rest(inner)
    static = x.ndim in (2, 4)
    out = module(x.expand(time_steps, *x.shape) if static else x.transpose(0, 1))
    return out[0] if isinstance(out, tuple) else out  # type: ignore[no-any-return]
