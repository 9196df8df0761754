"""Quantisation: a lowered graph and calibration data to a :class:`~snn2chip.chip.ChipNet`."""

from snn2chip.quantise.layers import SCALE_METHODS
from snn2chip.quantise.search import Choice, Quantised, quantise

__all__ = ["SCALE_METHODS", "Choice", "Quantised", "quantise"]
