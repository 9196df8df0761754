"""Runs one network in Lava: ``python lava_worker.py job.json``, started by :mod:`snn2chip.simulators.lava`.

Needs numpy, h5py, lava-nc and lava-dl and nothing of snn2chip, so that any interpreter that has Lava can run it. It
runs as a copy in an empty folder: Lava looks for process models in every Python file beside the one that defines a
process, and executes them.

The job (all paths absolute)::

    net, messages     NetX file; int32 [steps, *input_shape], order C, H, W
    first, steps      which messages to present
    total             Lava steps to run: until the last layer has seen the last message
    flatten           the first layer takes messages flattened
    input_neurons     the first layer is driven directly
    message_bits, reset_interval, reset_offset, spike_exp     as the NetX loader takes them
    window            steps of a sample
    layers[]          spikes, u, v: files to write or null, int [.., *shape] in the order C, H, W
                      u_var, v_var: Lava's names of these states of the neurons
                      first: their index of the first step;  arrival: Lava step of that
                      clear_states: clear those states before each window
                      clear: paths of other variables to clear then
                      clear_delayed: clear what delayed synapses hold from before the window
    folder            of all jobs of this call; removed where the caller is gone
    segments, result  written here: names of shared memory, one a line; {"seconds": run call alone}
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import shutil
import signal
import sys
import threading
import time
import traceback
import types
from pathlib import Path
from typing import Any

NOT_IMPORTABLE, CHILD_DIED = 42, 70
TEMPORARY = "temporary"  # file beside the one with the segments

if "." in __name__:
    raise ImportError(f"{__name__} is a script: importing it would replace torch")


def watch_parent(folder: Path, segments: Path) -> None:
    """Standard input ends when the process that started this one is gone: leave nothing behind."""
    while os.read(0, 1):
        pass
    for name in segments.read_text().split() if segments.exists() else []:
        Path("/dev/shm", name).unlink(missing_ok=True)
    temporary = segments.with_name(TEMPORARY)
    if temporary.exists():
        shutil.rmtree(temporary.read_text(), ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":  # at once: importing Lava takes seconds
    _job = json.loads(Path(sys.argv[1]).read_text())
    _places = Path(_job["folder"]), Path(_job["segments"])
    threading.Thread(target=watch_parent, args=_places, daemon=True).start()


class _Absent(types.ModuleType):
    """Stands for a module that NetX imports for resonate-and-fire parameters and for type hints only."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return object


_RESONATOR = "lava.lib.dl.slayer.neuron.rf"
for _name in ("torch", "lava.lib.dl.slayer", "lava.lib.dl.slayer.neuron", _RESONATOR):
    # Saves seconds and gigabytes, and torch, once started, hangs in the processes that Lava forks.
    sys.modules.setdefault(_name, _Absent(_name))

try:
    import numpy as np
except ImportError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.exit(NOT_IMPORTABLE)


def resonator_parameters(device_params: Any, scale: int = 1 << 6, p_scale: int = 1 << 12) -> dict[str, Any]:
    """Stands for ``lava.lib.dl.slayer.neuron.rf.neuron_params``, the one function that NetX takes from there."""
    sine, cosine = device_params["sinDecay"] / p_scale, device_params["cosDecay"] / p_scale
    return {
        "threshold": device_params["vThMant"] / scale,
        "period": 1 / (np.arctan2(sine, cosine) / 2 / np.pi),
        "decay": 1 - np.sqrt(sine**2 + cosine**2),
    }


if isinstance(sys.modules[_RESONATOR], _Absent):
    sys.modules[_RESONATOR].neuron_params = resonator_parameters  # type: ignore[attr-defined]

try:
    from lava.lib.dl.netx.hdf5 import Network
    from lava.magma.core.decorator import implements, requires
    from lava.magma.core.model.py.model import PyLoihiProcessModel
    from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
    from lava.magma.core.model.py.type import LavaPyType
    from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
    from lava.magma.core.process.process import AbstractProcess
    from lava.magma.core.resources import CPU
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
    from lava.magma.runtime import runtime
    from lava.magma.runtime.message_infrastructure import multiprocessing as infrastructure
    from lava.proc.io.reset import Reset
except ImportError as error:
    sys.stderr.write(f"{type(error).__name__}: {error}\n")
    sys.exit(NOT_IMPORTABLE)


class Source(AbstractProcess):  # type: ignore[misc]  # Lava has no type information
    """Sends one message frame per step, silence after the last."""

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.s_out = OutPort(shape=shape)


@implements(proc=Source, protocol=LoihiProtocol)
@requires(CPU)
class PySourceModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Reads frames from a memory-mapped file."""

    s_out: Any = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Step t, counted from 1, sends frame t - 1."""
        parameters, index = self.proc_params, self.time_step - 1
        if index == 0:
            self.frames = np.load(parameters["messages"], mmap_mode="r")
        if index < parameters["steps"]:
            frame = self.frames[parameters["first"] + index]
            self.s_out.send(frame.reshape(-1) if parameters["flatten"] else frame.T)
        else:
            self.s_out.send(np.zeros(self.s_out._shape, np.int32))


class Recorder(AbstractProcess):  # type: ignore[misc]
    """Takes the spikes of one layer."""

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.s_in = InPort(shape=shape)


class StateRecorder(AbstractProcess):  # type: ignore[misc]
    """Takes the spikes, u and v of one layer, and clears u and v before each window where asked to."""

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.s_in = InPort(shape=shape)
        self.u_in = RefPort(shape=shape)
        self.v_in = RefPort(shape=shape)


class AbstractPyRecorderModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Writes into memory-mapped files, one frame a step."""

    def write(self, what: str, frame: Any) -> None:
        """Store ``frame`` unless it is from before the first step or after the last."""
        parameters = self.proc_params
        index = self.time_step - parameters["arrival"]
        if 0 <= index < parameters["steps"]:
            if index == 0:
                setattr(self, f"file_{what}", np.load(parameters[what], mmap_mode="r+"))
            getattr(self, f"file_{what}")[parameters["first"] + index] = frame.T

    def run_spk(self) -> None:
        """Take the spikes of this step."""
        self.write("spikes", self.s_in.recv())


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
class PyRecorderModel(AbstractPyRecorderModel):
    """Spikes alone."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)


@implements(proc=StateRecorder, protocol=LoihiProtocol)
@requires(CPU)
class PyStateRecorderModel(AbstractPyRecorderModel):
    """States are read after the step, as Lava's own monitors do, and cleared by the process that has read them."""

    s_in: Any = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    u_in: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    v_in: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def ends_window(self) -> bool:
        """Whether the next step is the first of a window, and the state of this one has to be cleared."""
        parameters = self.proc_params
        return bool(
            parameters["clear_states"] and (self.time_step + 1 - parameters["arrival"]) % parameters["window"] == 0
        )

    def post_guard(self) -> bool:
        """Whether there is something to read or to clear."""
        index = self.time_step - self.proc_params["arrival"]
        return bool(0 <= index < self.proc_params["steps"]) or self.ends_window()

    def run_post_mgmt(self) -> None:
        """Take u and v of this step."""
        if self.proc_params["u"] is not None:
            self.write("u", self.u_in.read())
            self.write("v", self.v_in.read())
        if self.ends_window():
            for port in (self.u_in, self.v_in):
                port.write(np.zeros(port._shape, np.int32))
                port.wait()


class DelayedReset(AbstractProcess):  # type: ignore[misc]
    """Clears what delayed synapses hold from before a window."""

    def __init__(self, shape: tuple[int, ...], **parameters: Any) -> None:
        super().__init__(shape=shape, **parameters)
        self.buffer = RefPort(shape=shape)


@implements(proc=DelayedReset, protocol=LoihiProtocol)
@requires(CPU)
class PyDelayedResetModel(PyLoihiProcessModel):  # type: ignore[misc]
    """Column d of the buffer is delivered d + 1 steps from now.

    Two steps before a window's data arrive, column 0 is for the last step of the window before and has to stay; all
    else would arrive in the new window, whose first message is not yet in the buffer.
    """

    buffer: Any = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def post_guard(self) -> bool:
        """Whether the step after the next is the first of a window."""
        return bool((self.time_step + 2 - self.proc_params["arrival"]) % self.proc_params["window"] == 0)

    def run_post_mgmt(self) -> None:
        """Keep the first column alone."""
        held = np.array(self.buffer.read())
        held[:, 1:] = 0
        self.buffer.write(held)
        self.buffer.wait()


def build(job: dict[str, Any]) -> tuple[Any, list[Any]]:
    """The network with its source and recorders; the latter two must be kept alive."""
    net = Network(
        net_config=job["net"],
        input_message_bits=job["message_bits"],
        reset_interval=job["reset_interval"],
        reset_offset=job["reset_offset"],
        spike_exp=job["spike_exp"],
    )
    port = net.in_layer.neuron.a_in if job["input_neurons"] else net.inp
    source = Source(port.shape, **{key: job[key] for key in ("messages", "first", "steps", "flatten")})
    source.s_out.connect(port)
    around = [source]
    for layer, wanted in zip(net.layers, job["layers"], strict=True):
        keys = {key: wanted[key] for key in ("spikes", "u", "v", "first", "arrival", "clear_states")}
        states = wanted["u"] is not None or wanted["clear_states"]
        kind = StateRecorder if states else Recorder
        recorder = kind(layer.neuron.s_out.shape, steps=job["steps"], window=job["window"], **keys)
        layer.neuron.s_out.connect(recorder.s_in)
        if states:
            recorder.u_in.connect_var(getattr(layer.neuron, wanted["u_var"]))
            recorder.v_in.connect_var(getattr(layer.neuron, wanted["v_var"]))
        around.append(recorder)
        for path in wanted["clear"]:
            # Spikes of the step before a window wait in the recurrent synapse; u and v are reset by the neuron.
            clear = Reset(interval=job["window"], offset=wanted["arrival"] - 2)  # after step arrival - 1
            owner, name = path.split(".")
            clear.connect_var(getattr(getattr(layer, owner), name))
            around.append(clear)
        if wanted["clear_delayed"]:
            held = layer.synapse.a_buff
            delayed = DelayedReset(held.shape, window=job["window"], arrival=wanted["arrival"])
            delayed.buffer.connect_var(held)
            around.append(delayed)
    return net, around


def report_exceptions() -> None:
    """Let Lava's processes print their exceptions, which Lava itself passes on at a level that nobody sees."""
    run = runtime.target_fn

    def loud(*args: Any, **kwargs: Any) -> None:
        try:
            run(*args, **kwargs)
        except Exception:
            traceback.print_exc()
            sys.stderr.flush()
            raise

    runtime.target_fn = loud


def report_segments(path: Path) -> None:
    """Note the name of each segment of shared memory, and beside it the folder in which the processes of Lava have
    their sockets: killed processes leave both behind."""
    path.with_name(TEMPORARY).write_text(multiprocessing.util.get_temp_dir())  # made here, so that all share it
    manager = infrastructure.SharedMemoryManager
    create = manager.create_shared_memory

    def noted(self: Any, size: int) -> Any:
        segment = create(self, size)
        with path.open("a") as file:
            file.write(f"{segment.name}\n")
        return segment

    manager.create_shared_memory = noted


def watch_children(actors: list[Any], finished: threading.Event) -> None:
    """End this process when one of Lava's processes ends too early: Lava would wait for it for ever."""
    pids = [actor.pid for actor in actors]
    while not finished.wait(0.2):
        for pid in pids:
            try:
                status = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                continue  # Lava has waited for it
            if status is not None and not finished.is_set():
                time.sleep(0.3)  # for what it has to say
                signalled = status.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
                how = f"signal {status.si_status}" if signalled else f"status {status.si_status}"
                sys.stderr.write(f"\nChildProcessError: a process of Lava ended early with {how}\n")
                sys.stderr.flush()
                os._exit(CHILD_DIED)


def main(path: Path) -> None:
    """Run the job; its result file appears when all steps are done."""
    job = json.loads(path.read_text())
    segments, result = Path(job["segments"]), Path(job["result"])
    report_exceptions()
    report_segments(segments)
    net, _around = build(job)
    net.create_runtime(run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    finished = threading.Event()
    if __name__ != "__main__":
        threading.Thread(target=watch_parent, args=(Path(job["folder"]), segments), daemon=True).start()
    actors = net.runtime._messaging_infrastructure.actors
    threading.Thread(target=watch_children, args=(actors, finished), daemon=True).start()
    began = time.perf_counter()
    net.run(condition=RunSteps(num_steps=job["total"]))
    seconds = time.perf_counter() - began
    finished.set()
    result.with_suffix(".part").write_text(json.dumps({"seconds": seconds}))
    result.with_suffix(".part").replace(result)
    # Not net.stop(): it takes up to seconds and can hang. The files are complete; the parent ends the process group.
    while True:
        signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
