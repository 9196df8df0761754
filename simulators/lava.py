"""Lava's own CPU simulator, in processes of its own: what every other simulator is proven against.

A job folder holds the network as NetX, the messages and the traces as ``.npy``; a worker process
(:mod:`snn2chip.simulators.lava_worker`) loads the network with ``lava.lib.dl.netx.hdf5.Network`` and runs Lava's
``fixed_pt`` models. Lava starts one process per synapse group and neuron group and waits for ever when one of them
fails, so that everything happens in a process group that is watched and, in the end, killed as a whole.

Layer time to Lava's steps, counted from 1: index i of the input reaches layer k (0 is the first) at step i + 2 + k, or
i + 1 + k where the first layer is :class:`~snn2chip.chip.InputNeurons`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Delta, Dense, InputNeurons, Layer, Neuron, Resonator, Sigma
from snn2chip.errors import EnvironmentFailure, LavaError, LavaMissing, UsageError
from snn2chip.exporters import netx
from snn2chip.simulators import lava_env
from snn2chip.traces import Mode, Record, Traces, check_mode, padded

#: Environment variable: the interpreter that has Lava, where this one has not.
PYTHON_VARIABLE = "SNN2CHIP_LAVA_PYTHON"
HOW_TO_GET = (
    "'snn2chip lava-env' makes a small environment that has it; or pip install 'snn2chip[lava]' on Python 3.10, or set "
    "SNN2CHIP_LAVA_PYTHON to an interpreter that has lava-nc and lava-dl"
)
WORKER = Path(__file__).with_name("lava_worker.py")
NOT_IMPORTABLE = 42  # the worker's exit status
GRACE = 3.0  # seconds between a traceback and the end of a worker that does not end by itself
POLL = 0.02


def python() -> str:
    """The interpreter that runs Lava: the one that is named, this one, or that of ``snn2chip lava-env``.

    Raises:
        LavaMissing: there is none.
    """
    chosen = os.environ.get(PYTHON_VARIABLE)
    if chosen:
        found = shutil.which(chosen)
        if found is None:
            raise LavaMissing(f"Lava: {PYTHON_VARIABLE} is {chosen!r}, which is not a program")
        return found
    try:
        missing = any(importlib.util.find_spec(name) is None for name in ("lava.magma.core", "lava.lib.dl.netx"))
    except ImportError:
        missing = True
    if not missing:
        return sys.executable
    made = lava_env.interpreter()
    if made is None:
        raise LavaMissing(f"Lava is not installed for {sys.executable}; {HOW_TO_GET}")
    return str(made)


def run(
    net: ChipNet,
    messages: npt.NDArray[np.int32],
    mode: Mode = "isolated",
    record: Record | None = None,
    *,
    timeout: float = 3600.0,
    jobs: int = 0,
) -> Traces:
    """Simulate ``net`` in Lava; see :mod:`snn2chip.traces` for the contract.

    All samples run in one Lava network. In the mode ``isolated`` u and v are reset by Lava's neurons at each window,
    and what Lava has no reset for is cleared between the two steps: what recurrent and delayed synapses still hold from
    the window before (or from the steps before the first data), and the state of sigma-delta and resonate-and-fire
    neurons. Where these have biases, a network that Lava has just started is not at rest when data reach its second
    layer: the layers before have run already. For that, ask for one sample and ``streaming``.

    Args:
        timeout: seconds for everything.
        jobs: share the samples among so many Lava networks at once; ``isolated`` only. 0 is one for each core, and at
            least 8 samples each.

    Returns:
        Traces that are views of memory-mapped files, already deleted. ``seconds`` is Lava's ``run`` call alone, the
        longest where there are several jobs; all else is in ``overhead_seconds``.

    Raises:
        LavaMissing: Lava is not installed.
        LavaError: Lava failed, or did not finish in time; none of its processes remains.
    """
    began = time.perf_counter()
    check_mode(mode)
    if jobs < 0 or (jobs > 1 and mode != "isolated"):
        raise UsageError(f"jobs: {jobs} in mode {mode!r}; more than one only where samples are isolated")
    if jobs == 0:
        jobs = max(1, min(os.cpu_count() or 1, len(messages) // 8)) if mode == "isolated" else 1
    record = record or Record.readout(net)
    frames = padded(net, messages)
    samples, window = frames.shape[:2]
    interpreter = python()
    try:
        folder = Path(tempfile.mkdtemp(prefix="snn2chip-lava-"))
    except OSError as error:
        raise EnvironmentFailure(f"Lava: no temporary folder ({error.strerror or error})") from error
    try:
        job = Job(net, mode, record, frames.reshape(samples * window, *net.input_shape), folder)
        seconds = job.run(interpreter, samples, min(jobs, samples), began + timeout, timeout) if samples else 0.0
        return job.traces(samples, seconds, began)
    except OSError as error:
        raise EnvironmentFailure(f"Lava: the job folder {folder} failed ({error.strerror or error})") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Job:
    """One call of :func:`run` and its folder."""

    def __init__(self, net: ChipNet, mode: Mode, record: Record, frames: npt.NDArray[np.int32], folder: Path) -> None:
        self.net, self.mode, self.record, self.folder = net, mode, record, folder
        self.frames = frames
        self.input_neurons = isinstance(net.layers[0], InputNeurons)

    def scripts(self) -> tuple[Path, ...]:
        """What a worker runs, and other scripts that this one imports."""
        return (WORKER,)

    def _file(self, k: int, what: str) -> Path:
        return self.folder / f"layer{k}-{what}.npy"

    def run(self, interpreter: str, samples: int, jobs: int, deadline: float, timeout: float) -> float:
        """Run all workers at once; Lava's seconds of the slowest."""
        netx.write(self.net, self.folder / "model.net")
        np.save(self.folder / "messages.npy", self.frames)
        for k, layer in enumerate(self.net.layers):
            shape = (len(self.frames), *layer.shape)
            _reserve(self._file(k, "spikes"), shape, _message_type(layer))
            if layer.name in self.record.states:
                _reserve(self._file(k, "u"), shape, np.int32)
                _reserve(self._file(k, "v"), shape, np.int32)
        bounds = [samples * i // jobs * self.net.window for i in range(jobs + 1)]
        workers: list[_Worker] = []
        try:
            for i in range(jobs):
                part = self.folder / f"job{i}"
                part.mkdir()
                description = self._description(part, bounds[i], bounds[i + 1] - bounds[i])
                with interrupts_later():
                    workers.append(_Worker(interpreter, part, description, self.scripts()))
            while sum(worker.done() for worker in workers) < jobs:  # looks at each, unlike all()
                if time.perf_counter() > deadline:
                    raise LavaError(f"Lava: not finished after {timeout:g} s; fewer samples, or a longer time-out")
                time.sleep(POLL)
            return max(worker.seconds() for worker in workers)
        finally:
            for worker in workers:
                worker.kill()

    def _description(self, part: Path, first: int, steps: int) -> dict[str, Any]:
        layers = []
        for k, layer in enumerate(self.net.layers):
            states = layer.name in self.record.states
            layers.append(
                {
                    **process_variables(layer, self.mode == "isolated"),
                    "spikes": str(self._file(k, "spikes")),
                    "u": str(self._file(k, "u")) if states else None,
                    "v": str(self._file(k, "v")) if states else None,
                    "first": first,
                    "arrival": k + (1 if self.input_neurons else 2),
                }
            )
        return {
            "net": str(self.folder / "model.net"),
            "messages": str(self.folder / "messages.npy"),
            "first": first,
            "steps": steps,
            "total": steps + self.net.depth,
            "flatten": isinstance(self.net.layers[0], Dense),
            "input_neurons": self.input_neurons,
            "message_bits": self.net.encoding.message_bits,
            "spike_exp": self.net.spike_exp,
            "window": self.net.window,
            "reset_interval": None if self.mode == "streaming" else self.net.window,
            "reset_offset": 0 if self.input_neurons else 1,
            "layers": layers,
            "folder": str(self.folder),
            "segments": str(part / "segments"),
            "result": str(part / "result.json"),
        }

    def _trace(self, k: int, what: str, samples: int) -> npt.NDArray[Any]:
        shape = (samples, self.net.window, *self.net.layers[k].shape)
        if not samples:
            return np.zeros(shape, _message_type(self.net.layers[k]) if what == "spikes" else np.int32)
        return np.asarray(np.load(self._file(k, what), mmap_mode="r")).reshape(shape)

    def traces(self, samples: int, seconds: float, began: float) -> Traces:
        """The recorded files as traces, and what they count to."""
        out = Traces({}, {}, {}, {}, {})
        window = self.net.window
        arrived = np.count_nonzero(self.frames.reshape(samples, window, *self.net.input_shape), axis=0)
        for k, layer in enumerate(self.net.layers):
            spikes = self._trace(k, "spikes", samples)
            operations = (arrived * layer.fan_out()).reshape(window, -1).sum(1)
            arrived = np.count_nonzero(spikes, axis=0)
            fired = arrived.reshape(window, -1).sum(1)
            if isinstance(layer, Dense) and layer.recurrent is not None:
                operations = operations + fired * layer.shape[0]
            out.spikes_per_step[layer.name], out.operations_per_step[layer.name] = fired, operations
            if layer.name in self.record.spikes:
                out.spikes[layer.name] = spikes
            if layer.name in self.record.states:
                out.u[layer.name], out.v[layer.name] = self._trace(k, "u", samples), self._trace(k, "v", samples)
        overhead = time.perf_counter() - began - seconds
        return Traces(out.spikes, out.u, out.v, out.spikes_per_step, out.operations_per_step, seconds, overhead)


@contextlib.contextmanager
def interrupts_later() -> Iterator[None]:
    """Hold signals back that end a run: within ``Popen`` they would leave a process behind that nobody knows."""
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    usual = {number: handler for number, handler in usual.items() if callable(handler)}  # else it ends us, or nothing
    if not usual or threading.current_thread() is not threading.main_thread():
        yield  # Python interrupts the main thread alone
        return
    held: list[int] = []
    for number in usual:
        signal.signal(number, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)
    if held:
        signal.raise_signal(held[0])


def _message_type(layer: Layer) -> type:
    return np.int32 if layer.neuron.graded else np.uint8


def process_variables(layer: Layer, isolate: bool) -> dict[str, Any]:
    """Lava's names of what is recorded as u and v, and of what has to be cleared before each window; see the worker."""
    neuron, cleared, states = layer.neuron, [], {"u_var": "u", "v_var": "v"}
    if isinstance(layer, Dense) and layer.recurrent is not None:
        cleared.append("synapse_rec.a_buff")
    if isinstance(neuron, Resonator):
        states = {"u_var": "real", "v_var": "imag"}
    elif isinstance(neuron, Sigma):
        states = {"u_var": "sigma", "v_var": "sigma"}
    elif isinstance(neuron, Delta):
        states = {"u_var": "residue", "v_var": "act"}
    elif not isinstance(neuron, Neuron):
        states = {"u_var": "sigma", "v_var": "act"}
        cleared.append("neuron.residue")
    return {
        **states,
        "clear_states": isolate and not neuron.resettable,
        "clear": cleared if isolate else [],
        "clear_delayed": isolate and isinstance(layer, Dense) and layer.delay is not None,
    }


def _reserve(path: Path, shape: tuple[int, ...], kind: type) -> None:
    """A ``.npy`` file with its space on the disk: a full disk shows now, not as a crash in a mapped page."""
    np.lib.format.open_memmap(path, "w+", kind, shape)  # type: ignore[no-untyped-call]
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


@dataclass
class _Ended:
    """How a worker ended, while it still holds its process id."""

    code: int


class _Worker:
    """A worker process, the leader of a process group that holds everything that Lava starts."""

    def __init__(self, interpreter: str, folder: Path, description: dict[str, Any], scripts: tuple[Path, ...]) -> None:
        self.folder, self.interpreter = folder, interpreter
        self.result = folder / "result.json"
        self.errors = folder / "stderr"
        self.failed_at: float | None = None
        # A copy: Lava executes every Python file beside the one that defines a process, and finds a `lava.py` here.
        script, *_ = (shutil.copy(source, folder / source.name) for source in scripts)
        job = folder / "job.json"
        job.write_text(json.dumps(description))
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        with (folder / "stdout").open("wb") as out, self.errors.open("wb") as err:
            self.process = subprocess.Popen(
                [interpreter, str(script), str(job)],
                stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **threads},
                start_new_session=True,
            )

    def _ended(self) -> _Ended | None:
        """Without waiting for it: a zombie keeps its number, so that killing the group hits nobody else."""
        status = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if status is None:
            return None
        return _Ended(status.si_status if status.si_code == os.CLD_EXITED else -status.si_status)

    def done(self) -> bool:
        """Whether the result is there.

        Raises:
            LavaError: the worker, or a process of Lava, failed.
        """
        if self.result.exists():
            return True
        ended = self._ended()
        if ended is not None:
            if self.result.exists():  # between the two looks
                return True
            raise self._failure(ended)
        if self.failed_at is None and b"Traceback" in self.errors.read_bytes():
            self.failed_at = time.perf_counter()
        if self.failed_at is not None and time.perf_counter() > self.failed_at + GRACE:
            raise self._failure(None)
        return False

    def _failure(self, ended: _Ended | None) -> LavaError:
        lines = [line for line in self.errors.read_text(errors="replace").splitlines() if line.strip()]
        last = readable(_reason(lines))
        if ended is not None and ended.code == NOT_IMPORTABLE:
            return LavaMissing(f"Lava cannot be imported by {self.interpreter} ({last}); {HOW_TO_GET}")
        if ended is not None and ended.code < 0:
            return LavaError(f"Lava: the worker was ended by {signal.Signals(-ended.code).name}")
        return LavaError(f"Lava failed: {last or 'no message'}")

    def seconds(self) -> float:
        """What the result says.

        Raises:
            LavaError: it is not of our worker.
        """
        try:
            return float(json.loads(self.result.read_text())["seconds"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LavaError(f"Lava failed: {self.interpreter} left a result that is damaged") from error

    def kill(self) -> None:
        """End the whole group and free its shared memory."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        segments = self.folder / "segments"
        for name in segments.read_text().split() if segments.exists() else []:
            Path("/dev/shm", name).unlink(missing_ok=True)
        temporary = self.folder / "temporary"
        if temporary.exists() and (path := Path(temporary.read_text())).name.startswith("pymp-"):
            shutil.rmtree(path, ignore_errors=True)


def readable(text: str, most: int = 300) -> str:
    """One line that a terminal can show, whatever a failed process has printed."""
    return "".join(c if c.isprintable() else " " for c in text[:most])


def _reason(lines: list[str]) -> str:
    """The exception line of the first traceback, or the last line at all."""
    for i, line in enumerate(lines):
        if line.startswith("Traceback"):
            after = (text for text in lines[i + 1 :] if not text.startswith((" ", "\t")))
            return next(after, "").strip()
    return lines[-1].strip() if lines else ""
