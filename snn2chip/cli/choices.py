"""Names that options choose from: here as well as where they belong, so that ``--help`` need not import torch.

``tests/test_startup.py`` compares them.
"""

from __future__ import annotations

#: :data:`snn2chip.early_exit.LEVELS`.
LEVELS = ("decision", "gated", "stopped")
#: :data:`snn2chip.exporters.bundle.GENERATIONS`.
GENERATIONS = ("N3B2", "N3B3", "N3C1", "N3D1")
#: :data:`snn2chip.frontends.nir.RESETS`.
RESETS = ("zero", "subtract", "zero-now", "subtract-now")
#: :data:`snn2chip.frontends.nir_dialects.NAMES`.
NIR_DIALECTS = ("auto", "snntorch", "spikingjelly", "norse", "sinabs", "rockpool", "nir")
#: :data:`snn2chip.quantise.network.ROUNDINGS`.
ROUNDINGS = ("auto", "nearest", "second-order")
#: :data:`snn2chip.training.METHODS`, and what each is.
METHODS = {
    "sdt": "standard direct training: cross-entropy of the mean output",
    "tet": "temporal efficient training: cross-entropy at each step",
    "str": "TET, spike strength against residual potential regulated (reconstruction)",
    "rcs": "TET, activity drawn to that of the last steps",
    "noise": "one step with noise for the past, then T steps (reconstruction)",
    "s2nn": "stateless single-step network: one sample per time step on the chip",
    "ltl": "local tandem learning with an ordinary network as teacher",
    "convert": "ordinary network, converted by rate coding and reset by subtraction",
}
