"""Builds the network with its adapters, recorders and probes, and runs it; started by run.py.

The same wiring serves the simulator and the chip. What exists on the lab's systems alone stands in lab.py.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "parts")]


def network(job: dict[str, Any], description: dict[str, Any]) -> tuple[Any, Any]:
    """The network, and the process that runs it."""
    interval = description["window"]
    offset = (0 if description["input_neurons"] else 1) + job["delay"]
    if description["kind"] == "module":
        net = importlib.import_module("network").Network(reset_interval=interval, reset_offset=offset)
        return net, net.layers[0].neuron
    from lava.lib.dl.netx.hdf5 import Network

    net = Network(
        net_config=str(HERE / "model.net"),
        input_message_bits=description["message_bits"],
        reset_interval=interval,
        reset_offset=offset,
        spike_exp=description["spike_exp"],
    )
    return net, net


class Rehearsal:
    """One-step delays in place of the chip's adapters."""

    def __init__(self, parts: Any, delay: int) -> None:
        self.parts, self.delay = parts, delay

    def inp(self, shape: tuple[int, ...], **_: Any) -> Any:
        """From the host to the first synapse."""
        return self.parts.Adapter(shape, delay=self.delay)

    def out(self, shape: tuple[int, ...], **_: Any) -> Any:
        """From neurons to the host."""
        return self.parts.Adapter(shape, delay=self.delay)

    def read(self, shape: tuple[int, ...], interval: int, offset: int) -> Any:
        """Potentials once per window."""
        return self.parts.PotentialReader(shape, interval=interval, offset=offset % interval)


def through(adapter: Any, port: Any) -> Any:
    """The port after an adapter."""
    if adapter is None:
        return port
    port.connect(adapter.inp)
    return adapter.out


def wire(net: Any, job: dict[str, Any], description: dict[str, Any], adapters: Any) -> list[Any]:
    """Source, recorders and the exit's monitor; they must be kept alive."""
    import lava_worker  # type: ignore[import-not-found]  # in parts/
    import probes

    work, delay, total = Path(job["work"]), job["delay"], job["total"]
    layers = description["layers"]
    port = net.in_layer.neuron.a_in if description["input_neurons"] else net.inp
    messages = {"messages": job["messages"], "first": job["first"], "steps": job["steps"]}
    source = lava_worker.Source(port.shape, flatten=description["flatten"], **messages)
    bits = {"message_bits": description["message_bits"], "image": len(port.shape) == 3}
    adapter = adapters.inp(port.shape, **bits) if adapters else None
    through(adapter, source.s_out).connect(port)
    around = [source, adapter]
    whole = {"first": 0, "steps": total, "arrival": 1, "window": description["window"], "clear_states": False}
    for k, (layer, about) in enumerate(zip(net.layers, layers, strict=True)):
        neuron = layer.neuron
        spikes, v = work / f"spikes.{k}.npy", work / f"v.{k}.npy"
        kind = np.int32 if about["graded"] else np.uint8
        reserve(spikes, (total, *about["shape"]), kind)
        adapter = adapters.out(neuron.s_out.shape, graded=about["graded"]) if adapters else None
        fired = through(adapter, neuron.s_out)
        files = {"spikes": str(spikes), "u": None, "v": None}
        potential = k == description["readout"]["layer"] and description["readout"]["kind"] == "potential"
        if job["mode"] != "hardware":
            reserve(v, (total, *about["shape"]), np.int32)
            reserve(work / f"u.{k}.npy", (total, *about["shape"]), np.int32)
            files.update(u=str(work / f"u.{k}.npy"), v=str(v))
            recorder = lava_worker.StateRecorder(neuron.s_out.shape, **files, **whole)
            recorder.u_in.connect_var(getattr(neuron, about["u"]))
            recorder.v_in.connect_var(getattr(neuron, about["v"]))
        else:
            recorder = lava_worker.Recorder(neuron.s_out.shape, **files, **whole)
        fired.connect(recorder.s_in)
        around += [adapter, recorder]
        if potential and adapters:
            last = work / f"v_last.{k}.npy"
            reserve(last, (job["samples"], *about["shape"]), np.int32)
            step = about["arrival"] + delay + description["time_steps"] - 2
            read = adapters.read(neuron.s_out.shape, description["window"], step)
            read.connect_var(getattr(neuron, about["v"]))
            early = step // description["window"]  # reads of windows that end before the first sample's
            sink = probes.PotentialSink(neuron.s_out.shape, file=str(last), samples=job["samples"], skipped=early)
            read.out.connect(sink.inp)
            around += [read, sink]
        rule = description["exit"]
        if rule is not None and rule["layer"] == k:
            file = work / "decisions.npy"
            reserve(file, (job["samples"], 3), np.int64)
            monitor = probes.ExitMonitor(
                neuron.s_out.shape,
                file=str(file),
                samples=job["samples"],
                window=description["window"],
                time_steps=description["time_steps"],
                first_step=rule["first_step"],
                arrival=about["arrival"] + (2 * delay if adapters else 0),
                pause=job["pause"],
            )
            fired.connect(monitor.s_in)
            around.append(monitor)
    return around


def reserve(path: Path, shape: tuple[int, ...], kind: type) -> None:
    """A file of zeros for a recorder."""
    np.lib.format.open_memmap(path, "w+", kind, shape)  # type: ignore[no-untyped-call]


def main(path: Path) -> None:
    """Run the job; its result file appears when all is recorded."""
    job = json.loads(path.read_text())
    description = json.loads((HERE / "bundle.json").read_text())
    hardware = job["mode"] == "hardware"
    if hardware:
        import lab

        lab.keep_torch()
    import lava_worker
    import probes
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    work, segments, result = Path(job["work"]), Path(job["segments"]), Path(job["result"])
    lava_worker.report_exceptions()
    loggers: dict[str, Any] = {}
    adapters: Any = None
    if hardware:
        lab.use_host(job)
        adapters = lab.Adapters()
        loggers = lab.loggers(job["total"]) if job["profile"] else {}
        config = lab.run_config(loggers, probes.models() | lab.models(lava_worker))
    else:
        lava_worker.report_segments(segments)
        adapters = Rehearsal(probes, job["delay"]) if job["mode"] == "rehearsal" and job["delay"] else None
        config = Loihi2SimCfg(select_tag="fixed_pt")
    net, process = network(job, description)
    around = wire(net, job, description, adapters)
    process.create_runtime(run_cfg=config)
    finished = threading.Event()
    if not hardware:
        threading.Thread(target=lava_worker.watch_parent, args=(work, segments), daemon=True).start()
        actors = process.runtime._messaging_infrastructure.actors
        threading.Thread(target=lava_worker.watch_children, args=(actors, finished), daemon=True).start()
    began = time.perf_counter()
    process.run(condition=RunSteps(num_steps=job["total"]))
    seconds = time.perf_counter() - began
    finished.set()
    del around
    if hardware:
        process.stop()
        if loggers:
            lab.save(loggers, Path(job["profile_file"]))
    part = result.with_suffix(".part")
    part.write_text(json.dumps({"seconds": seconds}))
    part.replace(result)
    if not hardware:
        threading.Event().wait()  # not stop(): it takes up to seconds and can hang; run.py ends this process group


if __name__ == "__main__":
    main(Path(sys.argv[1]))
