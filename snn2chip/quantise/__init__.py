"""Quantisation: a lowered graph and calibration data to a :class:`~snn2chip.chip.ChipNet`."""

from snn2chip.quantise.checks import label_warning
from snn2chip.quantise.integers import integer_net, is_integer
from snn2chip.quantise.network import Choice, Option, Plan, Quantised, quantise
from snn2chip.quantise.overflow import Bound, bounds
from snn2chip.quantise.pruning import pruned
from snn2chip.quantise.qat import IntegerNetwork, Spec, prepare
from snn2chip.quantise.ranges import PER_NEURON, SCALE_METHODS
from snn2chip.quantise.resets import hard_reset
from snn2chip.quantise.widths import Widths, choose_widths

__all__ = [
    "PER_NEURON",
    "SCALE_METHODS",
    "Bound",
    "Choice",
    "IntegerNetwork",
    "Option",
    "Plan",
    "Quantised",
    "Spec",
    "Widths",
    "bounds",
    "choose_widths",
    "hard_reset",
    "integer_net",
    "is_integer",
    "label_warning",
    "prepare",
    "pruned",
    "quantise",
]
