"""snn2chip: compile trained torch spiking networks for Loihi-style hardware.

>>> import snn2chip as s2c
>>> s2c.save(module, "model.pt", calibration=(x, y))
>>> net = s2c.convert("model.pt")
>>> s2c.export(net, "model.net")
>>> s2c.simulate(net, x).predictions
>>> s2c.verify(net, x, against="lava").equal

Names are loaded when they are first used, so that importing snn2chip does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from snn2chip._version import __version__

if TYPE_CHECKING:
    from snn2chip.chip import ChipNet
    from snn2chip.compiler import compile_model, convert
    from snn2chip.data import open_data
    from snn2chip.formats import export, read
    from snn2chip.long_runs import simulate_data
    from snn2chip.model_file import load, save
    from snn2chip.simulation import simulate
    from snn2chip.verification import verify

_HOME = {
    "ChipNet": "chip",
    "compile_model": "compiler",
    "convert": "compiler",
    "export": "formats",
    "load": "model_file",
    "open_data": "data",
    "read": "formats",
    "save": "model_file",
    "simulate": "simulation",
    "simulate_data": "long_runs",
    "verify": "verification",
}

__all__ = [
    "ChipNet",
    "__version__",
    "compile_model",
    "convert",
    "export",
    "load",
    "open_data",
    "read",
    "save",
    "simulate",
    "simulate_data",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'snn2chip' has no attribute {name!r}")
    return getattr(import_module(f"snn2chip.{_HOME[name]}"), name)
