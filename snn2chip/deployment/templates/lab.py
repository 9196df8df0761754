"""What exists on the lab's systems alone, in Lava's extension for Loihi: hosts, adapters, measurements.

Written after Intel's public notebooks of lava-dl 0.6.0; not run outside of the lab. LAB_ONLY lists every such name.
"""

from __future__ import annotations

import contextlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from lava.magma.core.run_configs import Loihi2HwCfg
from lava.utils import loihi

#: Names that no public package has, by module.
LAB_ONLY = {
    "lava.proc.embedded_io.spike": ["NxToPyAdapter", "PyToN3ConvAdapter", "PyToNxAdapter"],
    "lava.proc.embedded_io.state": ["Read"],
    "lava.utils.loihi2_profiler": ["Loihi2Activity", "Loihi2ExecutionTime", "Loihi2Memory", "Loihi2Power"],
}


def named(module: str, name: str) -> Any:
    """One of :data:`LAB_ONLY`."""
    if name not in LAB_ONLY[module]:
        raise KeyError(f"{module}.{name} is not listed in LAB_ONLY")
    return getattr(importlib.import_module(module), name)


def keep_torch() -> None:
    """Import the real torch and SLAYER where they are installed; the recorders replace what is not there."""
    with contextlib.suppress(ImportError):
        importlib.import_module("lava.lib.dl.slayer.neuron.rf")


def use_host(job: dict[str, Any]) -> None:
    """Choose the board: an address, or SLURM with a partition or a node."""
    generation = loihi.ChipGeneration[job["loihi_gen"]]
    if job["host"]:
        loihi.use_ethernet_host(host_address=job["host"], loihi_gen=generation)
    else:
        loihi.use_slurm_host(partition=job["partition"], board=job["board"], loihi_gen=generation)


class Adapters:
    """Between host processes and neurocores."""

    def inp(self, shape: tuple[int, ...], message_bits: int, image: bool) -> Any:
        """From the host to the first synapse: images go to convolutions."""
        kind = named("lava.proc.embedded_io.spike", "PyToN3ConvAdapter" if image else "PyToNxAdapter")
        return kind(shape=shape, num_message_bits=message_bits) if message_bits else kind(shape=shape)

    def out(self, shape: tuple[int, ...], graded: bool) -> Any:
        """From neurons to the host; graded messages have 24 bits."""
        kind = named("lava.proc.embedded_io.spike", "NxToPyAdapter")
        return kind(shape=shape, num_message_bits=24) if graded else kind(shape=shape)

    def read(self, shape: tuple[int, ...], interval: int, offset: int) -> Any:
        """Potentials once per window, by an embedded processor."""
        return named("lava.proc.embedded_io.state", "Read")(shape=shape, interval=interval, offset=offset % interval)


def models(parts: Any) -> dict[Any, Any]:
    """Process models of the recorders, by process."""
    return {parts.Source: parts.PySourceModel, parts.Recorder: parts.PyRecorderModel}


def loggers(steps: int) -> dict[str, Any]:
    """Callbacks that measure power, time, memory and activity of the whole run."""
    found = {name: named("lava.utils.loihi2_profiler", name) for name in LAB_ONLY["lava.utils.loihi2_profiler"]}
    return {
        "power": found["Loihi2Power"](num_steps=steps),
        "time": found["Loihi2ExecutionTime"](),
        "memory": found["Loihi2Memory"](),
        "activity": found["Loihi2Activity"](),
    }


def run_config(measured: dict[str, Any], chosen: dict[Any, Any]) -> Any:
    """The chip's run configuration."""
    return Loihi2HwCfg(
        select_sub_proc_model=True, exception_proc_model_map=chosen, callback_fxs=list(measured.values())
    )


def save(measured: dict[str, Any], path: Path) -> None:
    """Every number and array that the callbacks hold, as `power.total_power` and so on: W and microseconds."""
    arrays = {}
    for kind, logger in measured.items():
        for name in dir(logger):
            if name.startswith("_"):
                continue
            with contextlib.suppress(Exception):  # a property of something that was not measured
                value = np.asarray(getattr(logger, name))
                if value.dtype.kind in "iuf":
                    arrays[f"{kind}.{name}"] = value
    np.savez_compressed(path, **arrays)
