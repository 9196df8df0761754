"""Processes beside the network: the early exit's monitor, what takes potentials, and stand-ins for adapters.

Lava looks for process models in every Python file beside this one, and executes them: keep scripts out of this folder.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class ExitMonitor(AbstractProcess):  # type: ignore[misc]
    """Notes when each sample's decision leaves the network, and pauses the run there where asked to.

    Args:
        file: int64 ``[samples, 3]``: class, step and chip step of the decision; all -1 where there is none.
        arrival: chip step at which step 0 of the first sample is seen here.
        first_step: decisions before this step of a window belong to the window before.
        pause: request a pause of all processes at the decision, which ends `run()`.
    """

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.s_in = InPort(shape=shape)


@implements(proc=ExitMonitor, protocol=LoihiProtocol)
@requires(CPU)
class PyExitMonitorModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Looks at each step's decision; the lowest class wins where several fire."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Note the first decision of each window."""
        parameters = self.proc_params
        if self.time_step == 1:
            self.decisions = np.load(parameters["file"], mmap_mode="r+")
            self.decisions[:] = -1
        spikes = self.s_in.recv().reshape(-1)
        sample, step = divmod(self.time_step - parameters["arrival"], parameters["window"])
        if not 0 <= sample < parameters["samples"] or not parameters["first_step"] <= step < parameters["time_steps"]:
            return
        if spikes.any() and self.decisions[sample, 0] < 0:
            self.decisions[sample] = int(np.flatnonzero(spikes)[0]), step, self.time_step
            self.decisions.flush()
            if parameters["pause"]:
                self._req_pause = True


class PotentialReader(AbstractProcess):  # type: ignore[misc]
    """Reads a state once per window and sends it one step later: the embedded processor's part, in simulation.

    Args:
        interval, offset: reads after step t, counted from 1, where `(t - 1) % interval == offset`.
    """

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.state = RefPort(shape=shape)
        self.out = OutPort(shape=shape)

    def connect_var(self, variable: Any) -> None:
        """What to read."""
        self.state.connect_var(variable)


@implements(proc=PotentialReader, protocol=LoihiProtocol)
@requires(CPU)
class PyPotentialReaderModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Reads in the management phase, which is after all neurons of a step."""

    state: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Send what was read after the step before."""
        if self.time_step > 1 and (self.time_step - 2) % self.proc_params["interval"] == self.proc_params["offset"]:
            self.out.send(self.held)

    def post_guard(self) -> bool:
        """Whether to read after this step."""
        return bool((self.time_step - 1) % self.proc_params["interval"] == self.proc_params["offset"])

    def run_post_mgmt(self) -> None:
        """Read."""
        self.held = self.state.read()


class PotentialSink(AbstractProcess):  # type: ignore[misc]
    """Takes membrane potentials that are read once per sample.

    Args:
        skipped: how many arrive before the first sample's.
        file: int32 ``[samples, *shape]``, in the order C, H, W.
    """

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.inp = InPort(shape=shape)


@implements(proc=PotentialSink, protocol=LoihiProtocol)
@requires(CPU)
class PyPotentialSinkModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Potentials have 24 bits; the sign is the highest of these."""

    inp: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Store what has arrived."""
        parameters = self.proc_params
        if self.time_step == 1:
            self.potentials = np.load(parameters["file"], mmap_mode="r+")
            self.taken = -self.proc_params["skipped"]
        if self.inp.probe():
            potentials = ((self.inp.recv().astype(np.int32) << 8) >> 8).T
            if 0 <= self.taken < parameters["samples"]:
                self.potentials[self.taken] = potentials
                self.potentials.flush()
            self.taken += 1


class Adapter(AbstractProcess):  # type: ignore[misc]
    """Sends on what it received ``delay`` steps ago: an adapter's time, in simulation."""

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.inp = InPort(shape=shape)
        self.out = OutPort(shape=shape)


@implements(proc=Adapter, protocol=LoihiProtocol)
@requires(CPU)
class PyAdapterModel(PyLoihiProcessModel):  # type: ignore[misc]
    """A queue of messages."""

    inp: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Send the oldest message, take a new one."""
        if self.time_step == 1:
            self.held = [np.zeros(self.out._shape, np.int32)] * self.proc_params["delay"]
        self.out.send(self.held[0])
        self.held = [*self.held[1:], self.inp.recv()]


def models() -> dict[Any, Any]:
    """Process models by process, for a run configuration of the chip."""
    return {ExitMonitor: PyExitMonitorModel, PotentialSink: PyPotentialSinkModel}
