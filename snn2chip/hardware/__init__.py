"""Does a network fit the chip, on how many cores, and what does it cost.

::

    targets     limits, costs and boards, one data file for each chip; every figure with its source and confidence
    placement   layers split over cores, memory of each core, traffic between cores
    rules       what Lava and NetX accept but a chip does not
    energy      energy and time from the counts of a simulation
"""

from snn2chip.hardware.energy import Estimate, Figure, estimate
from snn2chip.hardware.placement import Core, Placement, place
from snn2chip.hardware.rules import RULES, Finding, check, require
from snn2chip.hardware.targets import BOARDS, TARGETS, Board, Cost, Limit, Target, target_of

__all__ = [
    "BOARDS",
    "RULES",
    "TARGETS",
    "Board",
    "Core",
    "Cost",
    "Estimate",
    "Figure",
    "Finding",
    "Limit",
    "Placement",
    "Target",
    "check",
    "estimate",
    "place",
    "require",
    "target_of",
]
