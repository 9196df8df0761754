"""The hardware model against published layouts, power and time; and how long a placement takes.

    python benchmarks/hardware.py [--json]

Costs are those of Loihi 1 and were not fitted to any figure here. Layouts are another matter: words, tiles and core
limits are inferred from these very logs (lava-dl's notebooks netx/oxford, pilotnet_snn, pilotnet_sdnn, yolo_kp), so
agreement shows that few rules explain all of them, not that they predict the next. ``fill`` is what :func:`place` does
unless told otherwise, a lower bound; ``divide`` splits dense layers as the compiler of 2022 did.

PilotNet comes with lava-dl's tests (``tests/lava/lib/dl/netx``). The published PilotNet-SDNN has 66 x 200 inputs; the
file that is shipped has 33 x 100, so its geometry is taken from the notebook, with the weights of PilotNet-LIF.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, Layer, Neuron
from snn2chip.exporters import netx
from snn2chip.hardware import Figure, Placement, estimate, place, target_of
from snn2chip.hardware.placement import Split
from snn2chip.simulators import event
from snn2chip.traces import Record

#: Mean words of synapses on a core, from the log of netx/pilotnet_snn/benchmark.ipynb, first layer first.
LIF_WORDS = (0, 81, 864, 1620, 2160, 2880, 7253, 1300, 150, 10)
#: Cores and use of a core in %, from the log of netx/yolo_kp/run.ipynb, first layer first.
YOLO_CORES = (224, 112, 56, 28, 56, 16, 32, 14, 32, 4)
YOLO_USE = (19.88, 21.65, 26.99, 50.03, 81.57, 78.05, 87.61, 72.04, 87.47, 42.26)
#: Its layers: channels, kernel, stride; and bits of the weights, read off the logged memory of synapses.
YOLO_LAYERS = (
    (16, 3, 2, 6),
    (32, 3, 2, 6),
    (64, 3, 2, 5),
    (128, 3, 2, 5),
    (256, 3, 1, 5),
    (256, 3, 2, 4),
    (512, 3, 1, 5),
    (256, 1, 1, 5),
    (512, 3, 1, 5),
    (48, 1, 1, 6),
)


def random_weights(shape: tuple[int, ...], bits: int = 8) -> np.ndarray[Any, Any]:
    """Uniform integers of mixed sign that need all of ``bits``."""
    top = (1 << (bits - 1)) - 1
    weight = np.random.default_rng(0).integers(-top, top + 1, shape, dtype=np.int32)
    weight.flat[:2] = -top, top
    return weight


def dense_net(*sizes: int) -> ChipNet:
    """Layers of those sizes, random weights of 8 bits."""
    layers = [
        Dense(f"fc{i}", (inputs,), random_weights((neurons, inputs)), Neuron.of(f"fc{i}", 1000, 4096, 128))
        for i, (inputs, neurons) in enumerate(itertools.pairwise(sizes))
    ]
    return ChipNet(sizes[:1], tuple(layers), time_steps=16)


def yolo_kp() -> ChipNet:
    """The geometry of YOLO-KP, random weights."""
    layers: list[Layer] = []
    shape: tuple[int, ...] = (3, 448, 448)
    for i, (channels, kernel, stride, bits) in enumerate(YOLO_LAYERS):
        weight = random_weights((channels, shape[0], kernel, kernel), bits)
        padding = kernel // 2
        layers.append(
            Conv(f"conv{i}", shape, weight, Neuron.of("", 1000, 4096, 128), (stride, stride), (padding, padding))
        )
        shape = layers[-1].shape
    return ChipNet((3, 448, 448), tuple(layers))


def shipped() -> Path:
    """The folder of lava-dl's test networks.

    Raises:
        SystemExit: lava-dl is not installed.
    """
    found = importlib.util.find_spec("lava") and importlib.util.find_spec("lava.lib.dl.netx")
    if not found or found.origin is None:
        raise SystemExit("lava-dl is not installed here; this benchmark needs the networks that it ships")
    return Path(found.origin).parents[4] / "tests/lava/lib/dl/netx"


def pilotnet(folder: Path) -> tuple[ChipNet, np.ndarray[Any, Any]]:
    """PilotNet-LIF with windows of 16 steps, and messages of the image that comes with it."""
    net = netx.read(folder / "gts/pilotnet_lif/network.net")
    net = dataclasses.replace(net, encoding=Encoding("graded", 1.0, -255, 255), time_steps=16, window=16)
    image = np.load(folder / "gts/pilotnet_lif/image.npy").T.astype(np.int32)
    return net, np.repeat(image[None, None], 16, axis=1)


Row = dict[str, Any]


def row(what: str, model: float, published: float, unit: str = "", note: str = "") -> Row:
    """One line: model, published, relative error."""
    return {
        "what": what,
        "model": model,
        "published": published,
        "unit": unit,
        "error": model / published - 1 if published else model - published,
        "note": note,
    }


def layouts(folder: Path) -> Iterator[Row]:
    """Utilisations and core counts."""
    loihi2 = target_of("loihi2")
    placement = place(dense_net(784, 128, 64, 10), loihi2)
    for name, published in zip(placement.by_layer, (67.14, 14.72, 1.70), strict=True):
        core = placement.cores[placement.by_layer[name][0]]
        note = f"first core, {core.neurons} neurons"
        yield row(f"MNIST {name}, use of a core", 100 * placement.utilisation(core)["core_words"], published, "%", note)
    lif, _ = pilotnet(folder)
    sdnn = dataclasses.replace(lif, layers=lif.layers[1:], encoding=Encoding())
    bound, even = "fill: lower bound", "divide: as the compiler of 2022"
    for what, net, published in (
        ("MNIST 784-128-64-10", dense_net(784, 128, 64, 10), 5),
        ("Oxford 200-256-200", dense_net(200, 256, 200), 5),
        ("PilotNet-LIF", lif, 74),
        ("PilotNet-SDNN, geometry", sdnn, 61),
    ):
        splits: Sequence[tuple[Split, str]] = (("fill", bound), ("divide", even))
        for split, note in splits:
            yield row(f"{what}, cores", len(place(net, loihi2, split).cores), published, "cores", note)
    divided = place(lif, loihi2, "divide")
    for (name, indices), published in zip(divided.by_layer.items(), LIF_WORDS, strict=True):
        words = [divided.cores[i].synapse_words for i in indices]
        yield row(f"PilotNet-LIF {name}, words of a core", sum(words) // len(words), published, "words")
    yolo = place(yolo_kp(), loihi2)
    yield row("YOLO-KP, cores", len(yolo.cores), 574, "cores", "bits of weights from its log")
    for (name, indices), count, use in zip(yolo.by_layer.items(), YOLO_CORES, YOLO_USE, strict=True):
        yield row(f"YOLO-KP {name}, cores", len(indices), count, "cores")
        share = max(yolo.utilisation(yolo.cores[i])["core_words"] for i in indices)
        yield row(f"YOLO-KP {name}, use of a core", 100 * share, use, "%")


def energy(folder: Path) -> Iterator[Row]:
    """PilotNet-LIF on Loihi 2 from simulated counts of 16 steps."""
    net, messages = pilotnet(folder)
    traces = event.run(net, messages, record=Record.of([layer.name for layer in net.layers]))
    placement: Placement = place(net, target_of("loihi2"), "divide")
    found = estimate(net, placement, traces)

    def line(what: str, figure: Figure, scale: float, unit: str, published: float) -> Row:
        low, mid, high = (scale * value for value in (figure.low, figure.mid, figure.high))
        return row(f"PilotNet-LIF, {what}", mid, published, unit, f"{low:.4g} to {high:.4g}; {figure.label}")

    yield line("time of a step", found.step_time, 1e6, "us", 152.8)
    yield line("dynamic energy of a frame", found.dynamic, 1e3, "mJ", 1.094)
    yield line("static energy of a frame", found.static, 1e3, "mJ", 1.661 - 1.094)
    power = found.static.mid / found.sample_time.mid
    yield row("PilotNet-LIF, static power", 1e3 * power, 232, "mW", "of one Loihi 1 chip and its x86 processors")
    yield line("energy of a frame", found.total, 1e3, "mJ", 1.661)


def placement_seconds() -> Row:
    """A network of ten million synapses."""
    net = dense_net(*[1000] * 11)
    began = time.perf_counter()
    placement = place(net, target_of("loihi2"))
    seconds = time.perf_counter() - began
    synapses = sum(layer.synapses for layer in net.layers)
    return {"synapses": synapses, "cores": len(placement.cores), "seconds": seconds, "limit_seconds": 5}


def main() -> None:
    """Print tables, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    folder = shipped()
    rows = {"layouts": list(layouts(folder)), "energy": list(energy(folder))}
    placed = placement_seconds()
    if as_json:
        print(json.dumps({**rows, "placement": placed}))
        return
    for lines in rows.values():
        print(f"{'':50} {'model':>9} {'published':>9} {'error':>8}")
        for line in lines:
            print(
                f"{line['what']:50} {line['model']:9.4g} {line['published']:9.4g} {line['error']:+8.1%} "
                f"{line['unit']}{'; ' if line['note'] else ''}{line['note']}"
            )
        print()
    print(
        f"{placed['synapses']:,} synapses on {placed['cores']} cores, placed in {placed['seconds']:.2f} s (limit 5 s)"
    )


if __name__ == "__main__":
    main()
