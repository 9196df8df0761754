"""Leaves: modules that the capture does not look into, because they are neurons of a library that it knows.

A library's frontend is a module with ``leaf(module) -> Leaf | None``: None for modules that are looked into. It may
raise :class:`~snn2chip.errors.UnsupportedError`, whose message the capture prefixes with the module's path. Where
modules keep a state between calls it also has ``rest(module)``, which puts one of them at rest; where they make weights
of other parameters ``settle(module)``, which makes these final; and where they make parameters at the first call
``make_room(module, shapes)`` and ``loaded(module)``, before and after a state dict is loaded. Nothing of a library is
imported before one of its modules is met.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snn2chip.errors import UnsupportedError
from snn2chip.graph import Node, Shape

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Leaf:
    """How a module with state becomes nodes of the graph.

    Attributes:
        nodes: from the module's name and the shape of one sample and step of its input, nodes in a chain, whose inputs
            the capture fills in. Their names start with the given one; the last is called exactly so, and its output is
            what the module returns.
        time: None where each call is one time step; else the axis of time in the module's input and output.
        potential: which of the returned tensors is the membrane potential after the step; None where none is. 0 of
            integrators, which return nothing else.
        delay: steps by which the module's output comes later than that of its nodes.
        unit: the nodes' output in one of the module's: messages of the chip are integers.
        takes: the same of what the module is given; None where it takes any, and keeps it.
        drifts: its neurons move without input, so that it matters when time starts.
        inexact: what the nodes do differently, one sentence each, without the module's name; refused unless the user
            allows approximations.
    """

    nodes: Callable[[str, Shape], list[Node]]
    time: int | None = None
    potential: int | None = None
    delay: int = 0
    unit: float = 1
    takes: float | None = 1
    drifts: bool = False
    inexact: tuple[str, ...] = ()


#: Frontend by a library's top-level package; what is not here is looked into.
FRONTENDS: dict[str, str] = {
    "snn2chip": "snn2chip.frontends.native",
    "snntorch": "snn2chip.frontends.snntorch",
    "spikingjelly": "snn2chip.frontends.spikingjelly",
    "norse": "snn2chip.frontends.norse",
    "lava": "snn2chip.frontends.slayer",
}


def frontend_of(module: nn.Module) -> str | None:
    """Name of the frontend of the library that wrote ``module``'s forward, if there is one."""
    author = next(kind for kind in type(module).__mro__ if "forward" in vars(kind))
    return FRONTENDS.get(author.__module__.partition(".")[0])


def leaf_of(module: nn.Module) -> Leaf | None:
    """The leaf that ``module`` is; None where the capture looks into it."""
    name = frontend_of(module)
    if name is None:
        return None
    leaf: Leaf | None = importlib.import_module(name).leaf(module)
    return leaf


def put_at_rest(module: nn.Module) -> None:
    """Forget what ``module`` itself keeps from earlier calls."""
    _tell(module, "rest")


def settle(module: nn.Module) -> None:
    """Make final what ``module`` makes of its parameters at each call, in the precision that they have."""
    _tell(module, "settle")


def make_room(module: nn.Module, shapes: Mapping[str, Shape]) -> None:
    """Give parameters that ``module`` would make at its first call the shapes that they have in a state dict."""
    _tell(module, "make_room", shapes)


def state_loaded(module: nn.Module) -> None:
    """Keep ``module`` from making those parameters anew."""
    _tell(module, "loaded")


def _tell(module: nn.Module, what: str, *details: Any) -> None:
    name = frontend_of(module)
    if name is not None:
        getattr(importlib.import_module(name), what, lambda *ignored: None)(module, *details)


def as_array(tensor: torch.Tensor) -> Array:
    """Float64 copy."""
    array: Array = tensor.detach().cpu().to(torch.float64).numpy().copy()
    return array


def parameter(value: Any, shape: Shape) -> float | Array:
    """A parameter of neurons, as torch broadcasts it: a number, one for each channel (feature), or one for each neuron.

    Args:
        value: a number or a tensor.
        shape: of the neurons.

    Raises:
        UnsupportedError: it has another shape.
    """
    array = as_array(value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=torch.float64))
    if array.size == 1:
        return float(array.reshape(()))
    extra = max(0, array.ndim - len(shape))
    try:
        whole = np.broadcast_to(array.reshape(array.shape[extra:]), shape)
    except ValueError:
        raise UnsupportedError(
            f"a parameter of shape {array.shape} does not fit its neurons of shape {shape}"
        ) from None
    channels = whole.reshape(shape[0], -1)
    return channels[:, 0].copy() if (channels == channels[:, :1]).all() else whole.copy()
