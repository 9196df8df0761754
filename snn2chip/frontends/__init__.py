"""Frontends: trained torch modules to a :class:`~snn2chip.graph.Graph`."""

from __future__ import annotations

from torch import nn

from snn2chip.errors import UnsupportedError
from snn2chip.frontends.native import capture_network
from snn2chip.graph import Graph
from snn2chip.nn import Network


def capture(module: nn.Module) -> Graph:
    """The graph of a trained module, as it is in evaluation.

    Raises:
        UnsupportedError: the module, or one inside it, has no counterpart in the graph; the message names its path.
    """
    if isinstance(module, Network):
        return capture_network(module)
    raise UnsupportedError(
        f"{type(module).__name__}: cannot be captured; wrap the layers in snn2chip.nn.Network(..., input_shape=, "
        "time_steps=)"
    )


__all__ = ["capture"]
