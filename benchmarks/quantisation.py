"""What quantisation costs in accuracy, and what it saves.

    python benchmarks/quantisation.py mnist.npz [--only bits,qat,proof,imported,auto] [--seeds 3] [--json]

- ``bits``: MNIST conv net of ``examples/mnist.py``, all 10 000 test images, under the integer law: float accuracy less
  the chip's, by calibration on 1024 training images alone; naive is one scale by the largest weight.
- ``qat``: the same at 2 bits after two epochs of quantisation-aware training.
- ``proof``: spikes of the prepared module against the event simulator and Lava: dense, conv, recurrent, soft reset.
- ``imported``: nets of several frameworks and resets, five trainings each on scikit-learn's digits: accuracy lost at
  8 bits, mean and 95 % interval (one of 450 test images is 0.22 points, so that a single training says little).
- ``auto``: ``--bits auto --max-drop 0.3`` against 8 bits everywhere, synaptic memory by the placement model.

Trained networks are kept in the system's temporary folder and taken from there in later runs.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t
from torch import nn

import snn2chip as s2c
from snn2chip.demo import build, digits, fit
from snn2chip.graph import Graph, execute
from snn2chip.hardware import target_of
from snn2chip.ladder import wilson
from snn2chip.model_file import model_of
from snn2chip.nn import IF, LIF, CubaLIF, Network, Readout
from snn2chip.passes import lower
from snn2chip.quantise import Spec, choose_widths, prepare, quantise
from snn2chip.quantise.network import SAMPLES
from snn2chip.traces import Record

Array = np.ndarray[Any, Any]
CACHE = Path(tempfile.gettempdir()) / "snn2chip-benchmarks"


def mnist(path: Path) -> tuple[Array, Array, Array, Array]:
    """Training and test images ``[N, 1, 28, 28]`` in 0..1, and classes."""
    with np.load(path) as file:
        x, test_x = (file[f"{part}_images"][:, None].astype(np.float32) / 255 for part in ("train", "test"))
        y, test_y = (file[f"{part}_labels"].astype(np.int64) for part in ("train", "test"))
    return x, y, test_x, test_y


def example() -> Any:
    """``examples/mnist.py`` as a module."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    return importlib.import_module("mnist")


def trained(seed: int, x: Array, y: Array) -> Network:
    """The conv net of the example after ten epochs, from the cache if it is there."""
    made = example()
    CACHE.mkdir(exist_ok=True)
    file = CACHE / f"mnist-conv-{seed}.pt"
    torch.manual_seed(seed)
    network: Network = made.conv_net()
    if file.exists():
        network.load_state_dict(torch.load(file, weights_only=True))
        return network.eval()
    fit(network, x, y, 10, batch=128, augment=made.shifted)
    torch.save(network.state_dict(), file)
    return network


def float_accuracy(network: nn.Module, x: Array, y: Array) -> float:
    """Of the module itself, in batches."""
    with torch.no_grad():
        found = [network(torch.from_numpy(part)).argmax(1).numpy() for part in np.array_split(x, 20)]
    return float((np.concatenate(found) == y).mean())


def points(share: float) -> float:
    """A share in points, rounded."""
    return round(100 * share, 2)


def by_calibration(data: tuple[Array, Array, Array, Array], seeds: int) -> Iterator[dict[str, Any]]:
    """Show 1: drops at 8, 4, 3 and 2 bits."""
    x, y, test_x, test_y = data
    for seed in range(seeds):
        network = trained(seed, x, y)
        graph = lower(model_of(network, x[:32]).graph)
        accuracy = float_accuracy(network, test_x, test_y)
        for bits in (8, 4, 3, 2, 1):
            ways: dict[str, dict[str, Any]] = {
                "naive": {"scales": "max"},
                "one_scale": {},
                "per_neuron": {"per_neuron": True},
                "per_neuron_nearest": {"per_neuron": True, "rounding": "nearest"},
            }
            row: dict[str, Any] = {"seed": seed, "bits": bits, "float": accuracy}
            for name, options in ways.items():
                began = time.perf_counter()
                try:
                    net = quantise(graph, x[:SAMPLES], bits, **options).net
                except s2c_errors() as error:
                    row[name] = str(error)
                    continue
                row[f"{name}_seconds"] = round(time.perf_counter() - began, 1)
                found = s2c.simulate(net, test_x, test_y).accuracy or 0.0
                row[name] = points(accuracy - found)
                row[f"{name}_interval"] = [round(end, 4) for end in wilson(round(found * len(test_y)), len(test_y))]
            yield row


def s2c_errors() -> type[Exception]:
    """What is refused on purpose."""
    from snn2chip.errors import Snn2chipError

    return Snn2chipError


def by_training(data: tuple[Array, Array, Array, Array], seeds: int, bits: int = 2) -> Iterator[dict[str, Any]]:
    """Show 1: two epochs of quantisation-aware training at two bits."""
    x, y, test_x, test_y = data
    images, classes = torch.from_numpy(x), torch.from_numpy(y)
    for seed in range(seeds):
        network = trained(seed, x, y)
        accuracy = float_accuracy(network, test_x, test_y)
        torch.manual_seed(seed)
        integer = prepare(network, Spec(bits=bits, per_neuron=True), x[:SAMPLES])
        before = s2c.simulate(integer.chip_net(), test_x, test_y).accuracy or 0.0
        began = time.perf_counter()
        epochs, batch = 2, 128
        optimiser = torch.optim.Adam(integer.parameters(), 2e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * -(-len(x) // batch))
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(x)), batch):
                loss = nn.functional.cross_entropy(integer(example().shifted(images[index])), classes[index])
                optimiser.zero_grad()
                torch.autograd.backward(loss)
                optimiser.step()
                schedule.step()
        seconds = time.perf_counter() - began
        after = s2c.simulate(integer.chip_net(), test_x, test_y).accuracy or 0.0
        yield {
            "seed": seed,
            "bits": bits,
            "float": accuracy,
            "drop_before": points(accuracy - before),
            "drop_after": points(accuracy - after),
            "seconds": round(seconds, 1),
        }


def small_nets() -> dict[str, Network]:
    """One of each kind."""
    torch.manual_seed(0)
    own = nn.Linear(12, 12, bias=False)
    soft = (LIF(0.9, reset="subtract"), IF(reset="subtract"))
    return {
        "dense": Network(
            nn.Linear(8, 20), LIF(0.7), nn.Linear(20, 12), LIF(0.9), Readout(12, 4), input_shape=(8,), time_steps=6
        ),
        "conv": Network(
            nn.Conv2d(1, 4, 3, padding=1),
            LIF(0.5),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 5),
            LIF(0.5),
            input_shape=(1, 8, 8),
            time_steps=5,
        ),
        "recurrent": Network(
            nn.Linear(8, 12),
            CubaLIF(0.5, 0.8, recurrent=own),
            nn.Linear(12, 5),
            CubaLIF(),
            input_shape=(8,),
            time_steps=7,
        ),
        "soft reset": Network(
            nn.Linear(8, 12, bias=False), soft[0], nn.Linear(12, 5, bias=False), soft[1], input_shape=(8,), time_steps=7
        ),
    }


def proofs(samples: int = 8) -> Iterator[dict[str, Any]]:
    """Show 2: spikes that differ, after some steps of training."""
    for name, network in small_nets().items():
        generator = np.random.default_rng(0)
        shape = (64, network.time_steps, *network.input_shape)
        x = (generator.random(shape) < 0.4).astype(np.float32)
        integer = prepare(network.eval(), Spec(), x)
        optimiser = torch.optim.Adam(integer.parameters(), 1e-2)
        classes = torch.from_numpy(generator.integers(0, 4, len(x)))
        for _ in range(10):
            loss = nn.functional.cross_entropy(integer(torch.from_numpy(x)), classes)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
        net = integer.chip_net()
        row: dict[str, Any] = {"net": name}
        for backend in ("event", "lava"):
            part = x if backend == "event" else x[:samples]
            with torch.no_grad():
                own = integer.spikes(torch.from_numpy(part))
            try:
                traces = s2c.simulate(net, part, backend=backend, record=Record.everything(net)).traces
            except s2c_errors() as error:
                row[backend] = str(error)
                continue
            row[backend] = sum(int((spikes.numpy() != traces.spikes[layer]).sum()) for layer, spikes in own.items())
            row[f"{backend}_spikes"] = sum(int(spikes.sum()) for spikes in own.values())
        yield row


class Stepped(nn.Module):
    """64-48-10 with the neurons of a library, stepped over time and counted: ``[T, N, 64]`` to ``[N, 10]``.

    ``state`` says where the neurons keep theirs: in them (``self``), or ``passed`` in and out.
    """

    def __init__(self, neuron: Callable[[], nn.Module], state: str) -> None:
        super().__init__()
        self.first, self.hidden = nn.Linear(64, 48), neuron()
        self.second, self.last = nn.Linear(48, 10), neuron()
        self.state = state

    def _step(self, layer: nn.Module, x: torch.Tensor, states: dict[nn.Module, Any]) -> torch.Tensor:
        if self.state == "passed":
            spikes, states[layer] = layer(x, states.get(layer))
        else:
            spikes = layer(x)
        return spikes[0] if isinstance(spikes, tuple) else spikes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spikes, summed."""
        total, states = torch.zeros(x.shape[1], 10), dict[nn.Module, Any]()
        for step in x:
            spikes = self._step(self.hidden, self.first(step), states)
            total = total + self._step(self.last, self.second(spikes), states)
        return total


def libraries() -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Names and nets, of those libraries that are installed."""

    def native(neuron: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        return lambda: Network(
            nn.Linear(64, 48), neuron(), nn.Linear(48, 10), neuron(), input_shape=(64,), time_steps=8
        )

    yield "native LIF, zero", native(lambda: LIF(0.5, surrogate="atan"))
    yield "native LIF, subtract", native(lambda: LIF(0.5, reset="subtract", surrogate="atan"))
    yield "native IF, subtract", native(lambda: IF(reset="subtract", surrogate="atan"))
    if importlib.util.find_spec("snntorch") is not None:
        snntorch = importlib.import_module("snntorch")
        hidden = {"init_hidden": True, "output": True}
        for what, kind, options in (
            ("Leaky, zero", "Leaky", {"beta": 0.5, "reset_mechanism": "zero", "reset_delay": False}),
            ("Leaky, subtract, delayed", "Leaky", {"beta": 0.5, "reset_mechanism": "subtract"}),
            (
                "Synaptic, zero",
                "Synaptic",
                {"alpha": 0.5, "beta": 0.5, "reset_mechanism": "zero", "reset_delay": False},
            ),
        ):
            make = functools.partial(getattr(snntorch, kind), **options, **hidden)
            yield f"snnTorch {what}", functools.partial(Stepped, make, "self")
    if importlib.util.find_spec("spikingjelly") is not None:
        neurons = importlib.import_module("spikingjelly.activation_based.neuron")
        for kind in ("LIFNode", "IFNode", "ParametricLIFNode"):
            for reset_to in (0.0, None):
                make = functools.partial(getattr(neurons, kind), v_reset=reset_to)
                what = "subtract" if reset_to is None else "zero"
                yield f"SpikingJelly {kind}, {what}", functools.partial(Stepped, make, "self")
    if importlib.util.find_spec("norse") is not None:
        norse = importlib.import_module("norse.torch")
        parameters = norse.LIFBoxParameters(tau_mem_inv=torch.as_tensor(500.0), v_th=torch.as_tensor(0.5))
        make = functools.partial(norse.LIFBoxCell, p=parameters)
        yield "Norse LIFBoxCell, zero", functools.partial(Stepped, make, "passed")


def cleared(network: nn.Module) -> nn.Module:
    """The network with its neurons as before the first step."""
    for module in network.modules():
        for name in ("reset", "reset_mem"):
            if callable(getattr(module, name, None)):
                getattr(module, name)()
    return network


def scores_of(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Spike rates ``[N, 10]`` of static samples over eight steps."""
    if not isinstance(network, Stepped):
        rates: torch.Tensor = network(x)
        return rates
    shown: torch.Tensor = cleared(network)(x.expand(8, *x.shape))
    return shown / 8


def fitted(make: Callable[[], nn.Module], seed: int, x: Array, y: Array) -> nn.Module:
    """Trained on the spike rates for 20 epochs."""
    torch.manual_seed(seed)
    network = make()
    optimiser = torch.optim.Adam(network.parameters(), 5e-3)
    images, classes = torch.from_numpy(x), torch.from_numpy(y)
    for _ in range(20):
        for index in torch.split(torch.randperm(len(x)), 64):
            loss = nn.functional.cross_entropy(5 * scores_of(network, images[index]), classes[index])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
    return cleared(network.eval())


def interval(values: list[float]) -> list[float]:
    """Mean, and half width of its 95 % interval (Student's t)."""
    half = 0.0 if len(values) < 2 else t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
    return [round(float(np.mean(values)), 2), round(float(half), 2)]


def imported(seeds: int = 5) -> Iterator[dict[str, Any]]:
    """Show 3: accuracy lost at eight bits on digits."""
    x, y, test_x, test_y = digits()
    x, test_x = (2 * part.reshape(len(part), 64) for part in (x, test_x))
    for name, make in libraries():
        drops: dict[str, list[float]] = {"drop": [], "drop_per_neuron": []}
        floats: list[float] = []
        for seed in range(seeds):
            network = fitted(make, seed, x, y)
            stepped = isinstance(network, Stepped)
            calibration = np.repeat(x[None, :512], 8, 0) if stepped else x[:512]
            given, shown = (np.repeat(part[:, None], 8, 1) if stepped else part for part in (x[:512], test_x))
            graph = model_of(network, calibration, layout="TN" if stepped else "N").graph
            exact = float((execute(graph, shown).scores.argmax(1) == test_y).mean())
            floats.append(100 * exact)
            for way, per_neuron in zip(drops, (False, True), strict=True):
                net = quantise(lower(graph), given, per_neuron=per_neuron).net
                drops[way].append(100 * (exact - (s2c.simulate(net, shown, test_y).accuracy or 0.0)))
        each = [round(drop, 2) for drop in drops["drop"]]
        yield {"net": name, "float": interval(floats), **{k: interval(v) for k, v in drops.items()}, "each": each}


def automatic(data: tuple[Array, Array, Array, Array] | None) -> Iterator[dict[str, Any]]:
    """Show 4: memory that ``--bits auto --max-drop 0.3`` saves."""

    def row(name: str, graph: Graph, network: nn.Module, parts: tuple[Array, Array, Array, Array]) -> dict[str, Any]:
        x, y, test_x, test_y = parts
        began = time.perf_counter()
        quantised, widths = choose_widths(lower(graph), x, y, target_of("loihi2"), max_drop=0.003)
        seconds = time.perf_counter() - began
        found = s2c.simulate(quantised.net, test_x, test_y).accuracy or 0.0
        return {
            "net": name,
            "bits": list(widths.bits.values()),
            "memory": widths.memory,
            "saved": points(1 - widths.memory[0] / widths.memory[1]),
            "drop_calibration": points(widths.drop),
            "drop_test": points(float_accuracy(network, test_x, test_y) - found),
            "seconds": round(seconds, 1),
        }

    parts = digits()
    torch.manual_seed(0)
    network = build()
    fit(network, parts[0], parts[1], 20)
    yield row("digits conv", model_of(network, parts[0][:32]).graph, network, parts)
    if data is not None:
        network = trained(0, data[0], data[1])
        shortened = (data[0][:5120], data[1][:5120], data[2], data[3])
        yield row("MNIST conv", model_of(network, data[0][:32]).graph, network, shortened)


def main() -> None:
    """Print a table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--only", default="bits,qat,proof,imported,auto")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    data = None if arguments.data is None else mnist(arguments.data)
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "proof": proofs,
        "imported": imported,
        "auto": lambda: automatic(data),
    }
    if data is not None:
        parts["bits"] = lambda: by_calibration(data, arguments.seeds)
        parts["qat"] = lambda: by_training(data, arguments.seeds)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.only.split(","):
        if name not in parts:
            parser.error(f"--only: {name!r} is unknown or needs the MNIST file; have {', '.join(parts)}")
        found[name] = []
        for row in parts[name]():
            found[name].append(row)
            if not arguments.json:
                print(name, json.dumps(row), flush=True)
    if arguments.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
