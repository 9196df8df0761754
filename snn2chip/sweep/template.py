"""A sweep file to begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from snn2chip.chip import ExitPolicy
from snn2chip.sweep.config import LEVELS, LIMIT


def template(model: str, layers: Sequence[str], static: bool, integers: bool = False) -> str:
    """A file with every option, most of them commented out.

    Args:
        model: path as it is to be written.
        layers: names of its layers on the chip.
        static: whether its samples may have no time axis, so that time steps can be swept.
        integers: whether it has nothing left to be quantised.
    """
    first = _quoted(layers[0]) if layers else '"0 (Linear)"'
    quantised = [
        "  bits: [8, 4, 3, 2]            # of the weights, 1 to 8",
        f'  # bits: {{"*": [4, 2], {first}: [8]}}   # by layer; "*" are those that are not named',
        "  per_neuron: [false, true]     # a scale and threshold for each neuron; costs neuron profiles",
        "  # scales: [search, max, mse]  # range of the weights: search, max, mse, percentile 99.9, per neuron, ...",
        "  # rounding: [auto, nearest]   # auto, nearest, second-order",
        "  # resets: [keep, zero]        # keep: the model's; zero: the chip's own, which changes the network",
        "  # analog: [graded, hold]      # analog input at each step, or once and held",
        *(["  # time_steps: [2, 4, 8]       # of a static sample"] if static else []),
    ]
    lines = [
        f"# Configurations of {model}: snn2chip sweep THIS_FILE -o results/",
        "# Paths are relative to this file.",
        f"model: {_quoted(model)}",
        "data: test.npz                  # x and y that are measured on: .npz, a folder of .npy, or HDF5",
        "calibration: null               # samples that choose scales and cutoffs; null: those saved with the model",
        "target: loihi2                  # chip that has to hold the networks, and whose energy is modelled",
        "samples: null                   # only the first so many of data",
        "",
        "grid:                           # every combination of these values",
        *(quantised if not integers else []),
        "  thresholds: [1]               # factors on the chip's thresholds, after quantisation",
        f'  # thresholds: {{"*": [1], {first}: [0.9, 1, 1.1]}}',
        "  # window: [4, 8]              # steps between two resets",
        "  cutoff:                       # when a sample may stop; each option may be a list",
        "    - none",
        "    - {policy: margin, max_drop: [0.5, 1]}      # points of accuracy that may be lost, on calibration samples",
        "    # - {policy: margin, threshold: [100, 200]} # integers of the circuit's evidence",
        "    # - {policy: softmax, eps: 0.01}            # confidence above 1 - eps",
        "    # - {policy: patience, threshold: [2, 3], form: host, level: decision}",
        f"    # policies: {', '.join(get_args(ExitPolicy))}; aims: threshold, max_drop, eps, max_latency",
        f"    # level: {', '.join(LEVELS)} (default stopped): what a decision ends, and whose energy is shown",
        "",
        "# random: 50                    # so many combinations of the grid, drawn with seed",
        "# seed: 0",
        f"# limit: {LIMIT}                   # more configurations than this are an error",
        "# configurations:               # and these",
        f'#   - {{bits: {{"*": 4, {first}: 8}}, cutoff: {{policy: margin, max_drop: 0.5}}}}'
        if not integers
        else f'#   - {{thresholds: {{"*": 1, {first}: 0.9}}, cutoff: {{policy: margin, max_drop: 0.5}}}}',
        f"# layers: {', '.join(layers)}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
