"""The demo: train a small convolutional SNN on scikit-learn's digits, compile it, prove it against Lava."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from snn2chip.compiler import compile_model
from snn2chip.data import of_arrays
from snn2chip.early_exit import Calibrated, ExitProof, ExitRun, calibrate, simulate_exit, verify_exit
from snn2chip.errors import CheckFailed
from snn2chip.files import write_npz, write_whole
from snn2chip.formats import export, read
from snn2chip.ladder import Rung, ladder
from snn2chip.model_file import save
from snn2chip.nn import LIF, Network, Readout
from snn2chip.prove import Proof, prove
from snn2chip.report import Names, Options, collect, page
from snn2chip.simulation import simulate

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured.

    Attributes:
        rungs: the ladder on all test samples.
        proof: the comparison with Lava, on the first of them.
        lava_accuracy: accuracy of the compared samples; Lava's own where it ran.
        early: the network with an early exit, and how it was chosen.
        exit_run: that network on all test images.
        exit_proof: circuit, rule, gates and ended windows against one another, on some test images.
        rates: images per second, by backend.
        seconds: training time.
        test_images: how many the ladder was measured on.
        files: what was written, by kind.
    """

    rungs: dict[str, Rung]
    proof: Proof
    lava_accuracy: float | None
    early: Calibrated
    exit_run: ExitRun
    exit_proof: ExitProof
    rates: dict[str, float]
    seconds: float
    test_images: int
    files: dict[str, str]


def digits() -> tuple[Array, Array, Array, Array]:
    """Training and test images ``[N, 1, 8, 8]`` in 0..1, and classes, from scikit-learn's bundled digits (UCI ML)."""
    from sklearn.datasets import load_digits

    images, classes = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = (images[order] / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    y = classes[order].astype(np.int64)
    return x[:1347], y[:1347], x[1347:], y[1347:]


#: Training images that the network is not trained on; they choose when it may stop.
HELD_OUT = 247
EXIT_EPS = 0.05
EXIT_SAMPLES = 8
REPORT_SAMPLES = 16


def build(time_steps: int = 4) -> Network:
    """Two spiking convolutions with batch norm and average pooling, and a linear readout."""
    return Network(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        LIF(0.5),
        nn.AvgPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        LIF(0.5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        Readout(32 * 2 * 2, 10),
        input_shape=(1, 8, 8),
        time_steps=time_steps,
    )


def fit(
    network: Network,
    x: Array,
    y: Array,
    epochs: int,
    batch: int = 64,
    learning_rate: float = 3e-3,
    augment: Callable[[torch.Tensor], torch.Tensor] = lambda images: images,
    progress: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train with cross-entropy of the mean output, Adam and a one-cycle learning rate."""
    images, classes = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(network.parameters(), learning_rate)
    updates = epochs * (-(-len(images) // batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, updates)
    network.train()
    for epoch in range(epochs):
        total = 0.0
        for index in torch.split(torch.randperm(len(images)), batch):
            loss = nn.functional.cross_entropy(network(augment(images[index])), classes[index])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(index)
        progress(epoch, total / len(images))
    network.eval()


def run(
    folder: Path,
    samples: int = 64,
    epochs: int = 20,
    stage: Callable[[str], None] = lambda text: None,
) -> DemoResult:
    """Train, save, compile, export, prove, report; files go to ``folder`` and replace those of an earlier demo.

    Args:
        samples: test images that are compared with Lava.
        stage: called with a line at the start of each stage.

    Raises:
        CheckFailed: Lava computes something else than the event simulator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    x, y, test_x, test_y = digits()
    held_x, held_y, x, y = x[-HELD_OUT:], y[-HELD_OUT:], x[:-HELD_OUT], y[:-HELD_OUT]
    network = build()
    stage(f"training {epochs} epochs on {len(x)} digits")
    began = time.perf_counter()
    fit(network, x, y, epochs)
    seconds = time.perf_counter() - began

    names = {
        "model": "model.pt",
        "net": "model.net",
        "exit": "exit.net",
        "data": "test.npz",
        "held": "heldout.npz",
        "report": "report.html",
    }
    files = {kind: folder / name for kind, name in names.items()}
    stage("saving and compiling")
    save(network, files["model"], calibration=(x[:256], y[:256]))
    write_npz(files["data"], {"x": test_x, "y": test_y}, force=True)
    write_npz(files["held"], {"x": held_x, "y": held_y}, force=True)
    compiled = compile_model(files["model"])
    export(compiled.net, files["net"], force=True)
    net = read(files["net"])
    early = calibrate(net, held_x, held_y, eps=EXIT_EPS, logit=compiled.choices[-1].weight_scale)
    export(early.net, files["exit"], force=True)

    stage(f"simulating {len(test_x)} test images")
    rungs = ladder(compiled.model.graph, compiled.lowered, net, test_x, test_y)
    rates = {}
    for backend in ("reference", "event"):
        traces = simulate(net, test_x, backend=backend).traces
        rates[backend] = len(test_x) / traces.seconds

    stage(f"comparing {samples} of them with Lava, every spike and state")
    proof = prove(net, test_x[:samples])
    if not proof.result.equal:
        raise CheckFailed(f"{files['net']}: {proof.backend} differs from {proof.against}: {proof.result.first}")
    exit_net = read(files["exit"])
    exit_run = simulate_exit(exit_net, test_x, test_y)
    exit_proof = verify_exit(exit_net, test_x[: min(samples, EXIT_SAMPLES)], proof.against == "lava")
    if not exit_proof.equal:
        raise CheckFailed(f"{files['exit']}: its early exit differs: {exit_proof}")
    lava_accuracy = None
    if proof.against == "lava":
        scores = proof.result.expected.predictions(net)
        lava_accuracy = float((scores == test_y[:samples]).mean())
        rates["lava"] = samples / proof.result.expected.seconds
    stage("writing the report")
    content = collect(
        exit_net,
        of_arrays(test_x, test_y),
        compiled.model.graph,
        compiled.notes,
        Options(proof_samples=min(samples, REPORT_SAMPLES), against=proof.against),
        Names.of(files["exit"], files["data"], files["model"]),
    )
    write_whole(files["report"], page(content).encode(), force=True)
    written = {kind: str(path) for kind, path in files.items()}
    return DemoResult(rungs, proof, lava_accuracy, early, exit_run, exit_proof, rates, seconds, len(test_x), written)
