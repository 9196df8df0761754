"""Early exit: a decision as soon as the evidence is clear, calibrated on held-out data, as extra chip layers.

::

    evidence      what each class has collected up to each step
    policies      when to stop: one rule for floats and integers; the published rules beside it
    circuit       the rule as layers of the chip
    calibration   policy and threshold from held-out samples, with a bound on the drop
    activity      the three levels of stopping; gates; latency
    stopping      simulation that skips what is left of a window
    lava          gated and stopped windows in Lava
    running       all of it on data, and the proof
"""

from snn2chip.early_exit.activity import LEVELS, Latency, Level, decisions, gates, latency
from snn2chip.early_exit.calibration import Calibrated, Loss, Point, calibrate
from snn2chip.early_exit.circuit import attach, detach, with_host_rule
from snn2chip.early_exit.policies import Decisions, fit_gap, gap_rule, oracle, softmax_gap, softmax_ladder, softmax_rule
from snn2chip.early_exit.running import (
    ExitProof,
    ExitRun,
    LevelCost,
    level_costs,
    simulate_exit,
    simulate_exit_data,
    verify_exit,
)

__all__ = [
    "LEVELS",
    "Calibrated",
    "Decisions",
    "ExitProof",
    "ExitRun",
    "Latency",
    "Level",
    "LevelCost",
    "Loss",
    "Point",
    "attach",
    "calibrate",
    "decisions",
    "detach",
    "fit_gap",
    "gap_rule",
    "gates",
    "latency",
    "level_costs",
    "oracle",
    "simulate_exit",
    "simulate_exit_data",
    "softmax_gap",
    "softmax_ladder",
    "softmax_rule",
    "verify_exit",
    "with_host_rule",
]
