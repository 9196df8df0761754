"""Work in pieces, over the processes of one machine or of many."""

from __future__ import annotations

from snn2chip.cluster.engine import Progress, run
from snn2chip.cluster.places import Place, connect

__all__ = ["Place", "Progress", "connect", "run"]
