"""Gated and stopped windows in Lava: processes beside the NetX network act on its decision.

Gated: one process for each gated layer adds a negative input to its neurons, and the source falls silent; both act one
step after the decision and until the window ends (:mod:`snn2chip.early_exit.activity` says from which layer step on).

Stopped: the source starts the next sample at the step after the decision, each layer is cleared one step before the
first message of that sample reaches it, and after the last sample the run is paused.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Neuron
from snn2chip.early_exit.activity import gates
from snn2chip.early_exit.policies import Decisions
from snn2chip.errors import EnvironmentFailure, UnsupportedError, UsageError
from snn2chip.simulators import lava
from snn2chip.traces import Record, Traces, padded

Array = npt.NDArray[Any]

WORKER = Path(__file__).with_name("exit_lava_worker.py")


class _ExitJob(lava.Job):
    gated = True

    def scripts(self) -> tuple[Path, ...]:
        return (WORKER, lava.WORKER)

    @property
    def log(self) -> Path:
        """Where decisions of stopped windows go."""
        return self.folder / "decisions.npy"

    def _description(self, part: Path, first: int, steps: int) -> dict[str, Any]:
        rule, names = self.net.exit, [layer.name for layer in self.net.layers]
        assert rule is not None
        description = super()._description(part, first, steps)
        description["exit"] = {
            "decision": description["layers"][-1]["arrival"],
            "classes": rule.classes,
            "first": rule.thresholds[0] - 1 if rule.form == "run" else 0,
            "steps": self.net.time_steps,
            "gates": [[names.index(name), gate] for name, gate in gates(self.net).items()] if self.gated else None,
            "log": str(self.log),
            "samples": steps // self.net.window,
        }
        if not self.gated:
            description["reset_interval"] = None
            description["total"] = steps // self.net.window * (self.net.window + self.net.depth + 1)
        return description


class _StopJob(_ExitJob):
    gated = False


def run_gated(
    net: ChipNet, messages: npt.NDArray[np.int32], record: Record | None = None, *, timeout: float = 3600.0
) -> Traces:
    """Simulate ``net`` with gates on ``messages`` ``[N, T, *input_shape]`` in Lava, samples one after the other.

    Raises:
        UsageError: the network has no circuit.
        LavaError: Lava is missing, failed or timed out.
    """
    _require_circuit(net)
    began = time.perf_counter()
    record = record or Record.readout(net)
    frames = padded(net, messages)
    with _folder() as folder:
        job = _ExitJob(net, "isolated", record, frames.reshape(-1, *net.input_shape), folder)
        seconds = job.run(lava.python(), len(frames), 1, began + timeout, timeout)
        return job.traces(len(frames), seconds, began)


def run_stopped(net: ChipNet, messages: npt.NDArray[np.int32], *, timeout: float = 3600.0) -> tuple[Decisions, float]:
    """Decisions of ``net`` in Lava, each sample's window ended by its decision; and the seconds of Lava's run.

    A sample that nothing stops has the label -1: the host would read the readout's potential.

    Raises:
        UsageError: the network has no circuit.
        UnsupportedError: spikes in flight would outlive the restart, or a layer cannot be cleared.
        LavaError: Lava is missing, failed or timed out.
    """
    _require_circuit(net)
    if net.leaks or not all(isinstance(layer.neuron, Neuron) for layer in net.layers):
        raise UnsupportedError("exit: recurrent, delayed or graded layers cannot be restarted in the middle of a run")
    began = time.perf_counter()
    frames = padded(net, messages)
    with _folder() as folder:
        job = _StopJob(net, "streaming", Record(), frames.reshape(-1, *net.input_shape), folder)
        np.save(job.log, np.full((len(frames), 3), -1, np.int64))
        seconds = job.run(lava.python(), len(frames), 1, began + timeout, timeout)
        label, step, exited = np.load(job.log).T
        return Decisions(label, step, exited == 1), seconds


def _require_circuit(net: ChipNet) -> None:
    if net.exit is None or net.exit.form == "host":
        raise UsageError("exit: the network has no circuit whose decision could act in Lava")


@contextlib.contextmanager
def _folder() -> Any:
    try:
        folder = Path(tempfile.mkdtemp(prefix="snn2chip-lava-"))
    except OSError as error:
        raise EnvironmentFailure(f"Lava: no temporary folder ({error.strerror or error})") from error
    try:
        yield folder
    except OSError as error:
        raise EnvironmentFailure(f"Lava: the job folder {folder} failed ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
