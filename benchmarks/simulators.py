"""Samples per second of the simulators on the same networks and inputs, in one run.

    python benchmarks/simulators.py [--json] [--runs 5] [--no-lava] [--no-frameworks] [--only mlp]

Each figure is the median over runs of the simulation alone (Lava: its ``run`` call, one network, a window as long as a
sample), with minimum and maximum. Everything takes turns, so that a change of the machine's speed meets all; ratios are
medians of the ratios within each turn. Lava gets fewer samples, since its time per sample does not depend on their
number. Beside the simulators:

- float forward passes of snnTorch, SpikingJelly and SLAYER on the same shapes, where these are installed;
- the bound: adding the weight rows of the same events and nothing else, on one thread, against the event simulator on
  one thread, and against its synaptic phase (finding the events and adding their rows);
- one sample alone: what the user waits for, network laid out and all, against Lava's ``run`` call of one sample;
- peak memory, each in a process of its own, also of a million samples that stream from disk.

Random weights whose thresholds are set so that about a tenth of the neurons fire; PilotNet-LIF comes with lava-dl.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np

from snn2chip.backends import simulator, simulators
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron
from snn2chip.errors import LavaMissing, Snn2chipError
from snn2chip.exporters import netx
from snn2chip.simulation import faster_backend
from snn2chip.simulators import event, event_kernels
from snn2chip.traces import Record

Array = np.ndarray[Any, Any]
#: Runs once and tells its seconds.
Timed = Callable[[], float]

THRESHOLDS = {"c1": 30000, "c2": 500, "fc1": 1000, "fc2": 300}
SAMPLES = {"reference": 64, "lava": 16}  # of the small networks; the others get 2000
BATCH = 256  # of the float frameworks
STREAMED = 1_000_000


def mlp(share: float) -> ChipNet:
    """784-512-10, T = 32, for inputs that fire at that share of steps."""
    generator = np.random.default_rng(0)
    spread = 23.4 * (784 * share) ** 0.5  # standard deviation of the first layer's weighted sums
    hidden = Dense(
        "fc1", (784,), generator.integers(-40, 41, (512, 784)), Neuron.of("fc1", round(1.4 * spread), 4096, 2048)
    )
    out = Dense("fc2", (512,), generator.integers(-40, 41, (10, 512)), Neuron.of("fc2", 230, 4096, 2048))
    return ChipNet((784,), (hidden, out), time_steps=32)


def conv() -> ChipNet:
    """16C5s2-32C3s2-FC128-FC10 on graded 28x28 images, T = 4."""
    generator = np.random.default_rng(0)
    neurons = {name: Neuron.of(name, threshold, 4096, 2048) for name, threshold in THRESHOLDS.items()}
    first = Conv("c1", (1, 28, 28), generator.integers(-127, 128, (16, 1, 5, 5)), neurons["c1"], (2, 2))
    second = Conv("c2", first.shape, generator.integers(-127, 128, (32, 16, 3, 3)), neurons["c2"], (2, 2))
    third = Dense("fc1", second.shape, generator.integers(-127, 128, (128, 800)), neurons["fc1"])
    last = Dense("fc2", (128,), generator.integers(-127, 128, (10, 128)), neurons["fc2"])
    return ChipNet((1, 28, 28), (first, second, third, last), Encoding("graded", 255.0, 0, 255), time_steps=4)


def shipped(name: str) -> Path | None:
    """Folder of a network in lava-dl's tests; None where these are not installed."""
    spec = importlib.util.find_spec("lava.lib.dl.netx") if importlib.util.find_spec("lava") else None
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parents[4] / "tests/lava/lib/dl/netx/gts" / name
    return folder if folder.is_dir() else None


def ntidigits() -> tuple[ChipNet, Array] | None:
    """N-TIDIGITS (delays) without its last layer, which NetX cannot load; spikes ``[1, 3000, 1, 1, 64]``."""
    folder = shipped("ntidigits")
    if folder is None:
        return None
    net = dataclasses.replace(netx.read(folder / "ntidigits.net", num_layers=5), time_steps=3000, window=3000)
    return net, (np.load(folder / "input.npy").T > 0).astype(np.uint8).reshape(1, 3000, *net.input_shape)


def pilotnet() -> tuple[ChipNet, Array] | None:
    """PilotNet-LIF and its image ``[C, H, W]``, T = 16."""
    folder = shipped("pilotnet_lif")
    if folder is None:
        return None
    net = dataclasses.replace(
        netx.read(folder / "network.net"), encoding=Encoding("graded", 1.0, 0, 255), time_steps=16, window=16
    )
    return net, np.load(folder / "image.npy").transpose(2, 1, 0)


def messages_of(net: ChipNet, samples: int, share: float) -> Array:
    """Random spikes, or images of which that share of pixels is not black, the same at each step."""
    generator = np.random.default_rng(1)
    if net.encoding.kind == "spikes":
        spikes = np.empty((samples, net.time_steps, *net.input_shape), np.uint8)
        for sample in spikes:  # one by one, or the random numbers would be the peak of memory
            sample[:] = generator.random(sample.shape, np.float32) < share
        return spikes
    image = generator.integers(1, 256, (samples, 1, *net.input_shape))
    lit = generator.random(image.shape) < share
    return np.repeat(image * lit, net.time_steps, axis=1).astype(np.int32)


# --- what is timed ---


def simulation(name: str, net: ChipNet, messages: Array, **options: Any) -> Timed:
    """A simulator's own seconds."""
    run, record = simulator(name).run, Record.readout(net)
    if name == "lava":
        options["jobs"] = 1
    return lambda: float(run(net, messages, record=record, **options).seconds)


def waited(net: ChipNet, messages: Array) -> Timed:
    """The event simulator's time as the caller sees it, laying out the network included."""

    def timed() -> float:
        began = time.perf_counter()
        event.run(net, messages, record=Record.readout(net))
        return time.perf_counter() - began

    return timed


@numba.njit(nogil=True)  # type: ignore[misc, unused-ignore]
def _rows_only(weight: Array, flush: int, index: Array, first: Array, sums: Array, own: Array) -> None:
    for t in range(first.size - 1):
        count = first[t + 1] - first[t]
        for k in range(count):
            own[k] = index[first[t] + k]
        event_kernels._add_rows(weight, own, count, flush, sums, 0, 1)


@numba.njit(nogil=True)  # type: ignore[misc, unused-ignore]
def _synaptic_phase(weight: Array, flush: int, x: Array, steps: int, pitch: int, sums: Array, own: Array) -> None:
    tail = np.zeros(64, np.uint8)
    for t in range(steps):
        sums[:] = 0
        count = event_kernels._present(x, t * pitch, len(weight), 0, own, tail)
        event_kernels._add_rows(weight, own, count, flush, sums, 0, 1)


def parts(net: ChipNet, messages: Array) -> dict[str, Timed]:
    """Of a network of dense layers, on one thread: adding the rows of all events alone; finding and adding them."""
    stages = event._stages(net.layers, messages.dtype)
    x: Array = messages.reshape(*messages.shape[:2], -1)
    alone, phase = [], []
    for stage in stages:
        weight, flush = stage._arguments[0], stage._arguments[2]
        rows = x.reshape(-1, x.shape[2])[:, : len(weight)]
        index = np.nonzero(rows)[1].astype(np.int32)
        first = np.concatenate([[0], np.cumsum(np.count_nonzero(rows, axis=1))])
        sums, own = np.zeros(stage.pitch, np.int32), np.zeros(len(weight) + 64, np.int32)
        alone.append((weight, flush, index, first, sums, own))
        phase.append((weight, flush, x.reshape(-1), len(rows), x.shape[2], sums, own))
        spikes = np.empty((*x.shape[:2], stage.pitch), np.uint8)
        stage.advance(x, spikes, None)
        x = spikes

    def timed(function: Callable[..., None], calls: list[tuple[Any, ...]]) -> Timed:
        def run() -> float:
            began = time.perf_counter()
            for call in calls:
                function(*call)
            return time.perf_counter() - began

        return run

    return {"rows only": timed(_rows_only, alone), "synaptic phase": timed(_synaptic_phase, phase)}


def frameworks(net: ChipNet, batch: int) -> dict[str, Timed]:
    """Float forward passes on the shapes of ``net``, of those that can be imported."""
    import torch

    found: dict[str, Timed] = {}
    steps, shape = net.time_steps, net.input_shape
    layers = [layer for layer in net.layers if not isinstance(layer, InputNeurons)]
    x = (torch.rand((steps, batch, *shape)) < 0.1).float()

    def synapse(layer: Any) -> Any:
        if isinstance(layer, Dense):
            linear = torch.nn.Linear(layer.weight.shape[1], layer.weight.shape[0])
            return torch.nn.Sequential(torch.nn.Flatten(), linear)
        return torch.nn.Conv2d(
            layer.input_shape[0], layer.shape[0], layer.weight.shape[2:], layer.stride, layer.padding
        )

    def timed(forward: Callable[[], Any]) -> Timed:
        def run() -> float:
            began = time.perf_counter()
            with torch.no_grad():
                forward()
            return time.perf_counter() - began

        return run

    try:
        import snntorch

        pairs = [(synapse(layer), snntorch.Leaky(beta=0.5)) for layer in layers]

        def leaky() -> None:
            states = [neuron.init_leaky() for _, neuron in pairs]
            for t in range(steps):
                y = x[t]
                for i, (weighted, neuron) in enumerate(pairs):
                    y, states[i] = neuron(weighted(y), states[i])

        found["snntorch"] = timed(leaky)
    except ImportError:
        pass
    try:
        with contextlib.redirect_stdout(sys.stderr):  # it prints what else one might install
            from spikingjelly.activation_based import functional, layer, neuron

        modules: list[Any] = []
        for k in layers:
            modules += [layer.SeqToANNContainer(synapse(k)), neuron.LIFNode(tau=2.0, step_mode="m")]
        chain = torch.nn.Sequential(*modules).eval()

        def sequence() -> None:
            functional.reset_net(chain)
            chain(x)

        found["spikingjelly"] = timed(sequence)
    except ImportError:
        pass
    try:
        with contextlib.redirect_stdout(sys.stderr):
            from lava.lib.dl import slayer

        cuba = {"threshold": 1.0, "current_decay": 1.0, "voltage_decay": 0.5}
        blocks: list[Any] = []
        for k in layers:
            if isinstance(k, Conv):
                size = tuple(k.weight.shape[2:])
                blocks.append(slayer.block.cuba.Conv(cuba, k.input_shape[0], k.shape[0], size, k.stride, k.padding))
                continue
            if len(k.input_shape) == 3:
                blocks.append(slayer.block.cuba.Flatten())
            blocks.append(slayer.block.cuba.Dense(cuba, k.weight.shape[1], k.shape[0]))
        whole = torch.nn.Sequential(*blocks).eval()
        last = x.movedim(0, -1).contiguous()  # SLAYER keeps time last
        found["slayer"] = timed(lambda: whole(last))
    except ImportError:
        pass
    return found


def in_turns(timed: dict[str, Timed], runs: int) -> dict[str, list[float]]:
    """Seconds of each, by turn; the first turn warms caches and compiles, which Lava does not."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(runs + 1):
        for name, run in timed.items():
            if turn or not name.startswith("lava"):
                found = run()
                if turn:
                    seconds[name].append(found)
    return seconds


def summary(values: list[float], digits: int = 1) -> dict[str, float]:
    """Median, least and most."""
    median, least, most = (round(f(values), digits) for f in (statistics.median, min, max))
    return {"median": median, "min": least, "max": most}


def ratio(seconds: dict[str, list[float]], name: str, other: str, samples: dict[str, int]) -> float:
    """How many times as fast as ``other``: the median over turns."""
    pairs = zip(seconds[name], seconds[other], strict=True)
    return round(statistics.median(b / samples[other] / (a / samples[name]) for a, b in pairs), 3)


def measure(net: ChipNet, inputs: Callable[[int], Array], samples: dict[str, int], runs: int) -> dict[str, Any]:
    """Everything about one network. ``samples``: how many each gets; ``inputs`` makes them."""
    timed = {name: simulation(name, net, inputs(samples[name])) for name in samples if name in simulators()}
    floats = frameworks(net, samples["frameworks"]) if "frameworks" in samples else {}
    timed |= floats
    counts = dict(samples) | dict.fromkeys(floats, samples.get("frameworks", 0))
    messages, one = inputs(samples["event"]), inputs(1)
    dense_spikes = net.encoding.kind == "spikes" and all(
        isinstance(layer, Dense) and layer.delay is None for layer in net.layers
    )
    if dense_spikes:
        timed |= {"event, 1 thread": simulation("event", net, messages, threads=1)} | parts(net, messages)
    timed["one sample"] = waited(net, one)
    if "lava" in samples:
        timed["lava, one sample"] = simulation("lava", net, one)
    counts |= dict.fromkeys(("event, 1 thread", "rows only", "synaptic phase"), samples["event"])
    counts |= {"one sample": 1, "lava, one sample": 1}
    seconds = in_turns(timed, runs)

    traces = event.run(net, messages)
    neurons = sum(int(np.prod(layer.shape)) for layer in net.layers)
    steps = len(messages) * net.window
    out: dict[str, Any] = {
        "input_activity": round(float(np.count_nonzero(messages) / messages.size), 3),
        "neuron_activity": round(sum(traces.spike_counts.values()) / (steps * neurons), 3),
        "synaptic_operations_per_sample": round(traces.synaptic_operations / len(messages)),
        "samples_per_s": {
            name: summary([counts[name] / value for value in values]) | {"samples": counts[name]}
            for name, values in seconds.items()
            if "one sample" not in name
        },
        "one_sample_ms": {
            name: summary([1000 * value for value in values], 3)
            for name, values in seconds.items()
            if "one sample" in name
        },
        "auto": faster_backend(net, messages, samples=len(messages)),
    }
    operations = traces.synaptic_operations / statistics.median(seconds["event"])
    out["synaptic_operations_per_s"] = {"event": round(operations)}
    if "lava" in samples:
        out["event_over_lava"] = ratio(seconds, "event", "lava", counts)
        out["one_sample_over_lava"] = ratio(seconds, "one sample", "lava, one sample", counts)
    if floats:
        fastest = min(floats, key=lambda name: statistics.median(seconds[name]))
        out["event_over_fastest_framework"] = {fastest: ratio(seconds, "event", fastest, counts)}
    if dense_spikes:
        bound = statistics.median(seconds["rows only"])
        out["synaptic_operations_per_s"]["rows only, 1 thread"] = round(traces.synaptic_operations / bound)
        out["share_of_rows_only"] = {
            "whole run": ratio(seconds, "event, 1 thread", "rows only", counts),
            "synaptic phase": ratio(seconds, "synaptic phase", "rows only", counts),
        }
    return out


# --- memory ---


def peak_of(*arguments: str) -> int | None:
    """Peak memory in MB of this script with these arguments, in a process of its own; None where it fails."""
    call = [sys.executable, __file__, "--memory", *arguments]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[-1]) if done.returncode == 0 else None


def use_memory(what: str) -> None:
    """The part that :func:`peak_of` looks at; prints MB."""
    if what == "stream":
        _stream()
    else:
        messages = messages_of(mlp(0.1), 2000, 0.1)
        if what != "data alone":
            simulator(what).run(mlp(0.1), messages if what != "reference" else messages[: SAMPLES["reference"]])
    # Not ru_maxrss, which a process inherits from the one that started it.
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(round(int(peak.split()[1]) / 1024))


def _stream() -> None:
    from snn2chip.data import open_data
    from snn2chip.long_runs import simulate_data

    generator = np.random.default_rng(0)
    cell = Neuron.of("fc", 200, 4096, 2048)
    net = ChipNet((64,), (Dense("fc", (64,), generator.integers(-40, 41, (10, 64)), cell),), time_steps=8)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "x")
        place.mkdir()
        shape = (STREAMED, net.time_steps, *net.input_shape)
        with (place / "x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for _ in range(0, STREAMED, 10_000):
                chunk = generator.random((10_000, *shape[1:]), np.float32) < 0.1
                file.write(chunk.astype(np.uint8).tobytes())
        simulate_data(net, open_data(place), target=Path(folder, "out"))


# --- the machine ---


def settled(wait: float) -> dict[str, Any]:
    """The machine; waits until it is quiet, at most so many seconds."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    until = time.monotonic() + wait
    while os.getloadavg()[0] > 0.25 * cores and time.monotonic() < until:
        time.sleep(1)
    load = os.getloadavg()[0]
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    wanted = ("numpy", "numba", "torch", "lava-nc", "lava-dl", "snntorch", "spikingjelly")
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return {
        "processor": model,
        "cores": cores,
        "load": round(load, 2),
        "quiet": load <= 0.25 * cores,
        "python": platform.python_version(),
        "versions": {name: installed[name] for name in wanted if name in installed},
    }


def cases(arguments: argparse.Namespace) -> dict[str, tuple[ChipNet, Callable[[int], Array], dict[str, int]]]:
    """By name: network, its inputs, and how many samples each gets."""
    small = {"event": 2000, "dense": 2000, **SAMPLES, "frameworks": BATCH}
    frames = {"event": 1, "dense": 1, "lava": 1, "frameworks": 1}
    found: dict[str, tuple[ChipNet, Callable[[int], Array], dict[str, int]]] = {}
    for share in (0.1, 0.05, 0.02):
        found[f"mlp {share:.0%}"] = (mlp(share), lambda n, s=share: messages_of(mlp(s), n, s), small)
    found["conv 20%"] = (conv(), lambda n: messages_of(conv(), n, 0.2), small)
    pilot = pilotnet()
    if pilot is not None:
        net, image = pilot
        stack = dataclasses.replace(net, layers=net.layers[1:], encoding=Encoding())
        found["pilotnet shipped"] = (net, lambda n: np.repeat(image[None, None], 16, 1).astype(np.int32), frames)
        found["pilotnet 20%"] = (stack, lambda n: messages_of(stack, n, 0.2), frames)
    spoken = ntidigits()
    if spoken is not None:
        net, spikes = spoken
        found["ntidigits"] = (net, lambda n: np.repeat(spikes, n, 0), {"event": 32})  # minutes in Lava
    without = {name for name in ("lava", "frameworks") if getattr(arguments, f"no_{name}")}
    return {
        name: (net, inputs, {k: n for k, n in samples.items() if k not in without})
        for name, (net, inputs, samples) in found.items()
        if arguments.only in name
    }


def report(machine: dict[str, Any], results: dict[str, Any]) -> None:
    """The same as the JSON, to read."""
    print(f"{machine['processor']}, {machine['cores']} cores, load {machine['load']:.2f} at the start")
    for name, result in results.items():
        if name == "peak_memory_mb":
            print("peak memory, MB: " + ", ".join(f"{what} {mb}" for what, mb in result.items()))
            continue
        print(f"{name}: neurons fire at {result['neuron_activity']:.1%} of steps, auto takes {result['auto']}")
        for who, rate in result["samples_per_s"].items():
            print(f"  {who:16} {rate['median']:>10,} samples/s ({rate['min']:,} to {rate['max']:,})")
        for what in ("event_over_lava", "one_sample_over_lava", "event_over_fastest_framework", "share_of_rows_only"):
            if what in result:
                print(f"  {what.replace('_', ' ')}: {result[what]}")


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--wait", type=float, default=60, help="at most so many seconds for a quiet machine")
    parser.add_argument("--no-lava", action="store_true")
    parser.add_argument("--no-frameworks", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory:
        use_memory(arguments.memory)
        return
    machine = settled(arguments.wait) | {"runs": arguments.runs}
    results: dict[str, Any] = {}
    for name, (net, inputs, samples) in cases(arguments).items():
        try:
            results[name] = measure(net, inputs, samples, arguments.runs)
        except LavaMissing as error:
            parser.exit(5, f"{error}; --no-lava leaves it out\n")
        except Snn2chipError as error:
            parser.exit(1, f"{name}: {error}\n")
    if not arguments.no_memory:
        tried = ["data alone", "event", "reference", *(["dense"] if "dense" in simulators() else []), "stream"]
        results["peak_memory_mb"] = {what: peak_of(what) for what in tried}
    if arguments.json:
        print(json.dumps({"machine": machine, "results": results}))
    else:
        report(machine, results)


if __name__ == "__main__":
    main()
