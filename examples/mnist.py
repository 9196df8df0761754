"""MNIST from training to a proven NetX file, with a convolutional or a dense network.

    python examples/mnist.py mnist.npz                 # both networks
    python examples/mnist.py mnist.npz --net dense --epochs 5

``mnist.npz`` holds ``train_images`` and ``test_images`` ``[N, 28, 28]`` uint8, ``train_labels`` and ``test_labels``.
Scales are chosen on training images; nothing is chosen on the test set.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import snn2chip as s2c
from snn2chip.demo import fit
from snn2chip.ladder import ladder
from snn2chip.nn import LIF, Network, Readout
from snn2chip.prove import prove


def conv_net() -> Network:
    """16C5s2 - 32C3s2 - FC128 - FC10, batch norm, hard-reset LIF, 4 time steps."""
    return Network(
        nn.Conv2d(1, 16, 5, stride=2, bias=False),
        nn.BatchNorm2d(16),
        LIF(0.5),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        nn.BatchNorm2d(32),
        LIF(0.5),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 128, bias=False),
        nn.BatchNorm1d(128),
        LIF(0.5),
        Readout(128, 10),
        input_shape=(1, 28, 28),
        time_steps=4,
    )


def dense_net() -> Network:
    """784 - 512 - 10 with batch norm, hard-reset LIF, 4 time steps."""
    return Network(
        nn.Flatten(),
        nn.Linear(784, 512, bias=False),
        nn.BatchNorm1d(512),
        LIF(0.5),
        Readout(512, 10),
        input_shape=(1, 28, 28),
        time_steps=4,
    )


def shifted(images: torch.Tensor) -> torch.Tensor:
    """The batch moved by one random offset of up to two pixels in each direction."""
    down, right = torch.randint(-2, 3, (2,)).tolist()
    return torch.roll(images, (down, right), (2, 3))


def main() -> None:
    """Train, export and verify; print a line of JSON for each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--net", choices=["conv", "dense", "both"], default="both")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lava-samples", type=int, default=100)
    parser.add_argument("--folder", type=Path, default=Path("demo/mnist"))
    arguments = parser.parse_args()
    with np.load(arguments.data) as file:
        x, test_x = (file[f"{part}_images"][:, None].astype(np.float32) / 255 for part in ("train", "test"))
        y, test_y = (file[f"{part}_labels"].astype(np.int64) for part in ("train", "test"))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in ("conv", "dense") if arguments.net == "both" else (arguments.net,):
        torch.manual_seed(arguments.seed)
        network = conv_net() if name == "conv" else dense_net()
        began = time.perf_counter()
        fit(
            network,
            x,
            y,
            arguments.epochs,
            batch=128,
            augment=shifted,
            progress=lambda epoch, loss: print(f"epoch {epoch + 1}: loss {loss:.4f}", flush=True),
        )
        seconds = time.perf_counter() - began

        model, net_file = arguments.folder / f"{name}.pt", arguments.folder / f"{name}.net"
        s2c.save(network, model, calibration=(x[:256], y[:256]))
        compiled = s2c.compile_model(model)
        s2c.export(compiled.net, net_file, force=True)
        net = s2c.read(net_file)
        rungs = ladder(compiled.model.graph, compiled.lowered, net, test_x, test_y)
        simulated = s2c.simulate(net, test_x, test_y)
        proof = prove(net, test_x[: arguments.lava_samples])
        print(
            json.dumps(
                {
                    "net": name,
                    "seed": arguments.seed,
                    "training_seconds": round(seconds, 1),
                    "test_images": len(test_x),
                    "float_accuracy": rungs["float"].accuracy,
                    "chip_accuracy": rungs["chip"].accuracy,
                    "same_prediction": rungs["chip"].agreement,
                    "event_images_per_s": round(len(test_x) / simulated.traces.seconds),
                    "compared_with": proof.against,
                    "compared_images": proof.result.samples,
                    "compared_images_per_s": round(proof.result.samples / proof.result.expected.seconds, 1),
                    "differing_spikes": sum(proof.result.differing_spikes.values()),
                    "differing_states": sum(proof.result.differing_states.values()),
                    "file": str(net_file),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
