"""One small network of each installed library, from training to a NetX file that Lava runs.

    python examples/frameworks.py
    python examples/frameworks.py --only Norse --epochs 40

Trains on scikit-learn's digits, compiles for the chip, compares with Lava spike by spike (where it is installed), and
prints the ladder of accuracies. Scales are chosen on training images; nothing is chosen on the test set.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import io
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import snn2chip as s2c
from snn2chip.demo import digits, fit
from snn2chip.ladder import ladder
from snn2chip.nn import LIF, Network, Readout
from snn2chip.prove import prove

STEPS = 8


class SnnTorch(nn.Module):
    """A loop over time that passes states on, and reset to zero; spikes are counted."""

    def __init__(self) -> None:
        super().__init__()
        snn: Any = importlib.import_module("snntorch")
        self.fc1, self.lif1 = nn.Linear(64, 96), snn.Leaky(beta=0.8, learn_beta=True, reset_mechanism="zero")
        self.fc2, self.lif2 = nn.Linear(96, 10), snn.Leaky(beta=0.8, reset_mechanism="zero")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spike rates ``[N, 10]`` of images ``[N, 64]``."""
        mem1, mem2, rates = self.lif1.init_leaky(), self.lif2.init_leaky(), 0
        for _ in range(STEPS):
            spikes, mem1 = self.lif1(self.fc1(x), mem1)
            spikes, mem2 = self.lif2(self.fc2(spikes), mem2)
            rates = rates + spikes
        return torch.as_tensor(rates / STEPS)


class SpikingJelly(nn.Module):
    """All time steps at a call: a convolution with batch norm, soft reset in the layer that is counted."""

    def __init__(self) -> None:
        super().__init__()
        layer: Any = importlib.import_module("spikingjelly.activation_based.layer")
        neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
        self.net = nn.Sequential(
            layer.Conv2d(1, 12, 3, padding=1, bias=False),
            layer.BatchNorm2d(12),
            neuron.LIFNode(tau=2.0),
            layer.AvgPool2d(2),
            layer.Flatten(),
            layer.Linear(192, 10),
            neuron.IFNode(v_reset=None),
        )
        _functional().set_step_mode(self.net, "m")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Spike rates ``[N, 10]`` of images ``[N, 1, 8, 8]``."""
        _functional().reset_net(self.net)
        return torch.as_tensor(self.net(x.unsqueeze(0).repeat(STEPS, 1, 1, 1, 1)).mean(0))


def _functional() -> Any:
    return importlib.import_module("spikingjelly.activation_based.functional")


class Norse(nn.Module):
    """Neurons with synaptic currents, and an integrator whose potential is read."""

    def __init__(self) -> None:
        super().__init__()
        norse: Any = importlib.import_module("norse.torch")
        slow = norse.LIParameters(tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(100.0))
        fast = norse.LIFParameters(tau_syn_inv=torch.tensor(500.0), tau_mem_inv=torch.tensor(400.0))
        self.fc1, self.lif = nn.Linear(64, 96), norse.LIFCell(fast)
        self.fc2, self.li = nn.Linear(96, 10), norse.LICell(slow)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Potentials ``[N, 10]`` after the last step of images ``[N, 64]``."""
        state = readout = None
        scores = x
        for _ in range(STEPS):
            spikes, state = self.lif(self.fc1(x), state)
            scores, readout = self.li(self.fc2(spikes), readout)
        return scores


def own() -> nn.Module:
    """The modules of snn2chip."""
    return Network(nn.Linear(64, 96), LIF(0.8), Readout(96, 10), input_shape=(64,), time_steps=STEPS)


#: By name: the package that has to be there, what makes the network, shape of an image.
LIBRARIES: dict[str, tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = {
    "snnTorch": ("snntorch", SnnTorch, (64,)),
    "SpikingJelly": ("spikingjelly", SpikingJelly, (1, 8, 8)),
    "Norse": ("norse", Norse, (64,)),
    "snn2chip": ("snn2chip", own, (64,)),
}


def deploy(name: str, epochs: int, lava_samples: int, folder: Path) -> str:
    """Train, compile and compare one network; a row of the table."""
    _, make, shape = LIBRARIES[name]
    x, y, test_x, test_y = digits()
    x, test_x = x.reshape(-1, *shape), test_x.reshape(-1, *shape)
    torch.manual_seed(0)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # what the libraries say when they are imported
        module = make()
    began = time.perf_counter()
    fit(module, x, y, epochs, learning_rate=5e-3)
    seconds = time.perf_counter() - began
    compiled = s2c.compile_model(module, (x[:256], y[:256]))
    path = folder / f"{name}.net"
    s2c.export(compiled.net, path, force=True)
    net = s2c.read(path)
    rungs = ladder(compiled.model.graph, compiled.lowered, net, test_x, test_y)
    proof = prove(net, test_x[:lava_samples])
    differing = sum(proof.result.differing_spikes.values()) + sum(proof.result.differing_states.values())
    accuracies = [f"{100 * (rungs[rung].accuracy or 0):6.2f} %" for rung in ("float", "graph", "chip")]
    found = f"{differing} with {proof.against} on {proof.result.samples}"
    return " | ".join([f"{name:12}", f"{seconds:5.1f} s", *accuracies, f"{len(net.layers):6}", found])


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=LIBRARIES, help="one library")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--lava-samples", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=Path("demo/frameworks"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print("library      | trained | float    | graph    | chip     | layers | differing spikes and states")
    for name, (package, _, _) in LIBRARIES.items():
        if arguments.only not in (None, name):
            continue
        if importlib.util.find_spec(package) is None:
            print(f"{name:12} | not installed")
            continue
        print(deploy(name, arguments.epochs, arguments.lava_samples, arguments.folder), flush=True)


if __name__ == "__main__":
    main()
