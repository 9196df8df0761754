"""Frontends: trained torch modules to a :class:`~snn2chip.graph.Graph`."""

from __future__ import annotations

from snn2chip.frontends.capturing import EXAMPLES, Capture, Layout, capture, layout_of

__all__ = ["EXAMPLES", "Capture", "Layout", "capture", "layout_of"]
