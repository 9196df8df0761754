"""Runs a network with an early exit in Lava, with processes beside it that act on the decision.

``python exit_lava_worker.py job.json``, started by :mod:`snn2chip.early_exit.lava`, beside a copy of
``lava_worker.py``, whose job it takes with one more entry::

    exit    decision      Lava step at which the decision layer processes the first message
            first, steps  steps of a window whose decisions count
            gates         [[layer, amount], ...]; null: stop
            log           of stop: .npy int64 [samples, 3] to write class, step and whether it exited to
            samples       of stop
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import lava_worker as base  # type: ignore[import-not-found]  # a copy beside this one
import numpy as np
from lava.magma.core.decorator import implements, requires
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

# Gates


class Gate(AbstractProcess):  # type: ignore[misc]  # Lava has no type information
    """Inhibits a layer from the step after a decision to the end of the window."""

    def __init__(self, shape: tuple[int, ...], classes: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.d_in = InPort(shape=classes)
        self.s_out = OutPort(shape=shape)


class GatedSource(AbstractProcess):  # type: ignore[misc]
    """Sends frames until the decision, silence until the end of the window."""

    def __init__(self, shape: tuple[int, ...], classes: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.d_in = InPort(shape=classes)
        self.s_out = OutPort(shape=shape)


def decided_window(parameters: Any, step: int, spikes: Any) -> int | None:
    """Number of the window that a decision at this Lava step belongs to; None where there is none."""
    rule, window = parameters["exit"], parameters["window"]
    index = step - rule["decision"]
    if index < 0 or not rule["first"] <= index % window < rule["steps"] or not spikes.any():
        return None
    return int(index // window)


@implements(proc=Gate, protocol=LoihiProtocol)
@requires(CPU)
class PyGateModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Sends first, so that no process waits for itself; what it hears acts from the next step on."""

    d_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    closed = -1

    def run_spk(self) -> None:
        """Inhibit, or not, and listen."""
        parameters = self.proc_params
        index = self.time_step - parameters["arrival"]
        closed = index >= 0 and index // parameters["window"] == self.closed
        self.s_out.send(np.full(self.s_out._shape, -parameters["amount"] if closed else 0, np.int32))
        decided = decided_window(parameters, self.time_step, self.d_in.recv())
        if decided is not None:
            self.closed = decided


@implements(proc=GatedSource, protocol=LoihiProtocol)
@requires(CPU)
class PyGatedSourceModel(PyLoihiProcessModel):  # type: ignore[misc]
    """As the source without a gate (whose model Lava lets nobody inherit), and listens after it has sent."""

    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    d_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    closed = -1

    def run_spk(self) -> None:
        """Step t, counted from 1, sends frame t - 1."""
        index = self.time_step - 1
        if index > 0 and index // self.proc_params["window"] == self.closed:
            self.s_out.send(np.zeros(self.s_out._shape, np.int32))
        else:
            base.PySourceModel.run_spk(self)
        decided = decided_window(self.proc_params, self.time_step, self.d_in.recv())
        if decided is not None:
            self.closed = decided


# Stop


class Windows:
    """Which sample runs, and since when; each process that needs it keeps its own, from the same decisions."""

    def __init__(self, parameters: Any) -> None:
        self.rule, self.window = parameters["exit"], parameters["window"]
        self.sample, self.start = 0, 1

    def listen(self, step: int, spikes: Any) -> tuple[int, int, int] | None:
        """Class (-1: none), step and sample of a window that ends at this Lava step."""
        # the decision layer processes what is sent at Lava step 1 at step ``decision``
        index = step - self.start - (self.rule["decision"] - 1)
        counts = self.rule["first"] <= index < self.rule["steps"]
        if not (counts and spikes.any()) and index < self.window - 1:
            return None
        label = int(spikes.argmax()) if counts and spikes.any() else -1
        ended = label, min(index, self.rule["steps"] - 1), self.sample
        self.sample, self.start = self.sample + 1, step + 1
        return ended


class StoppedSource(GatedSource):
    """Starts the next sample after a decision, or after the window; pauses the run after the last."""


class Clear(AbstractProcess):  # type: ignore[misc]
    """Clears u and v of a layer before the first message of a sample reaches it."""

    def __init__(self, shape: tuple[int, ...], classes: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.d_in = InPort(shape=classes)
        self.u = RefPort(shape=shape)
        self.v = RefPort(shape=shape)


@implements(proc=StoppedSource, protocol=LoihiProtocol)
@requires(CPU)
class PyStoppedSourceModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Reads frames from a memory-mapped file, and writes what was decided to another."""

    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)
    d_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Send the next frame of the present sample, and listen."""
        parameters = self.proc_params
        if self.time_step == 1:
            self.windows = Windows(parameters)
            self.frames = np.load(parameters["messages"], mmap_mode="r")
            self.log = np.load(parameters["exit"]["log"], mmap_mode="r+")
        windows = self.windows
        index = self.time_step - windows.start
        if index < windows.window and windows.sample < parameters["exit"]["samples"]:
            frame = self.frames[windows.sample * windows.window + index]
            self.s_out.send(frame.reshape(-1) if parameters["flatten"] else frame.T)
        else:
            self.s_out.send(np.zeros(self.s_out._shape, np.int32))
        ended = windows.listen(self.time_step, self.d_in.recv())
        if ended is not None and ended[2] < len(self.log):
            label, step, sample = ended
            self.log[sample] = label, step, label >= 0
            self.log.flush()
            if sample + 1 == len(self.log):
                self._req_pause = True


@implements(proc=Clear, protocol=LoihiProtocol)
@requires(CPU)
class PyClearModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Layer k is cleared k steps after the first message of a sample was sent: one before it arrives."""

    d_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    u: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    v: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    at = -1

    def run_spk(self) -> None:
        """Listen."""
        arrival = self.proc_params["arrival"]
        if self.time_step == 1:
            self.windows = Windows(self.proc_params)
            self.at = arrival - 1
        if self.windows.listen(self.time_step, self.d_in.recv()) is not None:
            self.at = self.windows.start + arrival - 2

    def post_guard(self) -> bool:
        """Whether the first message arrives at the next step."""
        return bool(self.time_step == self.at)

    def run_post_mgmt(self) -> None:
        """Back to rest."""
        for port in (self.u, self.v):
            port.write(np.zeros(port._shape, np.int32))
            port.wait()


# Both


build_network = base.build


def build(job: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The network with all processes around it."""
    rule = job["exit"]
    classes = (rule["classes"],)
    kind = GatedSource if rule["gates"] is not None else StoppedSource
    own = {"exit": rule, "window": job["window"]}
    base.Source = lambda shape, **parameters: kind(shape, classes, **parameters, **own)
    net, around = build_network(job)
    decision = net.layers[-1].neuron.s_out
    decision.connect(around[0].d_in)
    for layer, wanted in zip(net.layers, job["layers"], strict=True):
        shape = layer.neuron.s_out.shape
        if rule["gates"] is None:
            clear = Clear(shape, classes, arrival=wanted["arrival"], **own)
            clear.u.connect_var(layer.neuron.u)
            clear.v.connect_var(layer.neuron.v)
            decision.connect(clear.d_in)
            around.append(clear)
    for k, amount in rule["gates"] or []:
        neuron = net.layers[k].neuron
        gate = Gate(neuron.s_out.shape, classes, arrival=job["layers"][k]["arrival"], amount=amount, **own)
        gate.s_out.connect(neuron.a_in)
        decision.connect(gate.d_in)
        around.append(gate)
    return net, around


if __name__ == "__main__":
    base.build = build
    base.main(Path(sys.argv[1]))
