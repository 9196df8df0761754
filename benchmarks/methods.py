"""The five training methods against their baselines: seeds, 95 % intervals, and down to the chip.

    python benchmarks/methods.py                              # everything that needs no files, full scale
    python benchmarks/methods.py tet cutoff --quick           # some parts, small
    python benchmarks/methods.py s2nn ltl mnist --mnist mnist.npz --images 12000
    python benchmarks/methods.py cifar --cifar cifar10_jpeg.npz --images 10000

Parts: tet, cutoff (synthetic events), noise, s2nn, ltl (digits, and MNIST where given), mnist, cifar, step,
resume. Each prints a line of JSON. One thread. Epochs and thresholds are chosen on validation samples, never on test.
``mnist.npz`` holds ``train_images`` [N, 28, 28], ``train_labels``, and the same for ``test``; ``cifar10_jpeg.npz``
``train_jpeg``, ``train_offsets``, ``train_labels`` and the same for ``test``: JPEG files one after the other.
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import snn2chip as s2c
from snn2chip import training
from snn2chip.early_exit import Decisions, fit_gap, gap_rule, oracle, softmax_rule
from snn2chip.early_exit.policies import softmax
from snn2chip.nn import Network
from snn2chip.prove import prove
from snn2chip.training.datasets import split
from snn2chip.training.deploy import calibration, save_trained
from snn2chip.training.records import outputs_of
from snn2chip.training.single_step import with_time_steps

STEPS = 10  # of the events


def interval(values: Sequence[float]) -> dict[str, float | None]:
    """Mean and half width of its 95 % interval (Student's t), null of one value."""
    from scipy.stats import t

    n = len(values)
    half = round(float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)), 4) if n > 1 else None
    return {"mean": round(float(np.mean(values)), 4), "ci95": half, "n": n}


def points(values: Sequence[float]) -> dict[str, float | None]:
    """The same of shares, in percentage points."""
    return interval([100 * value for value in values])


def trained_by(
    method: str, data: training.TrainingData, seed: int, settings: dict[str, Any] | None = None, **options: Any
) -> tuple[training.Trained, float]:
    """A run and its processor seconds, those of the test samples at the end left out."""
    chosen = training.Options(**{"time_steps": training.METHODS[method].time_steps, **options})
    began = time.process_time()
    done = training.train(
        training.plan_of(method, data, chosen),
        replace(data, test=None),
        training.Settings(**{"seed": seed, "device": "cpu", **(settings or {})}),
    )
    seconds = time.process_time() - began
    if data.test is not None:
        steps = getattr(done.network, "time_steps", len(done.validation.accuracy))
        done = replace(done, test=training.evaluate(done.network, data.test, steps))
    return done, seconds


def outputs(network: nn.Module, samples: training.Samples, steps: int) -> np.ndarray[Any, Any]:
    """``[T, N, classes]``."""
    with torch.no_grad():
        parts = [outputs_of(network, part.float(), steps) for part in torch.split(samples.x, 256)]
    return torch.cat(parts, 1).numpy()


# -- events: tet, cutoff


@cache
def event_runs(method: str, seeds: int, epochs: int, model: str) -> list[dict[str, Any]]:
    """Outputs of trained networks on validation and test samples, for each seed; the split is the seed's as well."""
    runs = []
    for seed in range(seeds):
        data = training.load("saccades", seed=seed, time_steps=STEPS, validation=0.2)
        assert data.test is not None
        done, seconds = trained_by(method, data, seed, {"augment": ("shift",)}, epochs=epochs, model=model)
        runs.append(
            {
                "validation": outputs(done.network, data.validation, STEPS),
                "validation_y": data.validation.y.numpy(),
                "test": outputs(done.network, data.test, STEPS),
                "test_y": data.test.y.numpy(),
                "rate": done.validation.spike_rate,
                "seconds": seconds,
            }
        )
    return runs


def by_step(run: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Test accuracy of the mean output up to each step."""
    return np.asarray((run["test"].cumsum(0).argmax(2) == run["test_y"]).mean(1))


def accumulated(outputs: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], ...]:
    """Of outputs ``[T, N, C]``: their sums ``[N, T, C]``, the leader ``[N, T]``, and that of the whole window."""
    sums = outputs.astype(np.float64).cumsum(0).transpose(1, 0, 2)
    labels = sums.argmax(2)
    return sums, labels, labels[:, -1]


def most_daring(sums: Any, full: Any, y: Any, drop: float) -> float:
    """The largest epsilon of 200 with which the softmax rule loses no more than ``drop`` of the accuracy on these."""

    def lost(found: Decisions) -> float:
        return float((full == y).mean() - (found.label == y).mean())

    candidates = np.unique(np.quantile(1 - softmax(sums).max(2), np.linspace(0, 1, 200)))
    allowed = [eps for eps in candidates if lost(softmax_rule(sums, float(eps), full)) <= drop]
    return float(max(allowed, default=0.0))


def scale(arguments: argparse.Namespace) -> tuple[int, int, str]:
    """Seeds, epochs and model of the event task."""
    return (2, 4, "mlp:32") if arguments.quick else (arguments.seeds, arguments.epochs or 60, arguments.model)


def tet(arguments: argparse.Namespace) -> dict[str, Any]:
    """TET against SDT, paired by seed, at each step."""
    chosen = scale(arguments)
    direct, temporal = (np.array([by_step(run) for run in event_runs(m, *chosen)]) for m in ("sdt", "tet"))
    return {
        "data": "saccades (synthetic events of digits)",
        "settings": chosen,
        "time_steps": STEPS,
        "sdt": [points(direct[:, t]) for t in range(STEPS)],
        "tet": [points(temporal[:, t]) for t in range(STEPS)],
        "tet - sdt": [points(temporal[:, t] - direct[:, t]) for t in range(STEPS)],
        "train_cpu_s": {m: interval([run["seconds"] for run in event_runs(m, *chosen)]) for m in ("sdt", "tet")},
    }


def cutoff(arguments: argparse.Namespace) -> dict[str, Any]:
    """Softmax and gap cutoff after each kind of training; thresholds from validation samples."""
    chosen = scale(arguments)
    found: dict[str, Any] = {"settings": chosen, "time_steps": STEPS, "allowed_drop_points": 0.6, "paper": "2.14-2.89x"}
    for method in ("sdt", "tet", "str", "rcs"):
        rows: dict[str, list[float]] = {}

        def note(_rows: dict[str, list[float]] = rows, **values: float) -> None:
            for name, value in values.items():
                _rows.setdefault(name, []).append(value)

        for run in event_runs(method, *chosen):
            sums, labels, full = accumulated(run["validation"])
            test_sums, test_labels, test_full = accumulated(run["test"])
            y, test_y = run["validation_y"], run["test_y"]
            top, test_top = (np.diff(np.sort(values, 2)[:, :, -2:], axis=2)[:, :, 0] for values in (sums, test_sums))
            accuracy = float((test_full == test_y).mean())
            soft = softmax_rule(test_sums, most_daring(sums, full, y, 0.006), test_full)
            gap = gap_rule(test_top, test_labels, fit_gap(top, labels, y, 0.02), test_full)
            note(full=100 * accuracy, spike_rate=run["rate"])
            for name, decisions in (("softmax", soft), ("gap", gap)):
                steps = float(decisions.steps.mean())
                note(**{f"{name}_drop": 100 * (accuracy - float((decisions.label == test_y).mean()))})
                note(**{f"{name}_steps": steps, f"{name}_latency": steps + 2, f"{name}_speed_up": STEPS / steps})
            note(oracle_steps=float(oracle(test_labels, test_y).steps.mean()))
        found[method] = {name: interval(values) for name, values in rows.items()}
    return found


# -- digits and MNIST: noise


def noise(arguments: argparse.Namespace) -> dict[str, Any]:
    """Single-step training with noise against eight steps of backpropagation; on digits also against rate coding."""
    found: dict[str, Any] = {}
    for name in ["digits", *(["mnist"] if arguments.mnist else [])]:
        if arguments.quick:
            seeds, epochs, model = 2, 4, "conv:8-8"
        elif name == "digits":
            seeds, epochs, model = max(5, arguments.seeds // 2), 30, "conv:16-32"
        else:
            seeds, epochs, model = arguments.file_seeds, 4, "conv:16-32"
        rows: dict[str, list[float]] = {}
        matched: list[int] = []
        for seed in range(seeds):
            if name == "digits":
                data = training.load("digits", seed=seed, validation=0.2)
            else:
                data = mnist_data(arguments, seed)
            direct, direct_seconds = trained_by("sdt", data, seed, epochs=epochs, model=model, time_steps=8)
            noisy, noisy_seconds = trained_by("noise", data, seed, epochs=epochs, model=model, time_steps=8)
            quiet, _ = trained_by("noise", data, seed, epochs=epochs, model=model, time_steps=8, sigma=0.0)
            bare, _ = trained_by("noise", data, seed, epochs=epochs, model=model, time_steps=8, sigma=0.0, mu=0.0)
            assert direct.test is not None
            assert noisy.test is not None
            assert quiet.test is not None
            assert bare.test is not None
            values = {
                "cpu_share": noisy_seconds / direct_seconds,
                "direct_T8": 100 * direct.test.accuracy[-1],
                "noise_T1": 100 * noisy.test.accuracy[0],
                "noise_T8": 100 * noisy.test.accuracy[-1],
                "noise_T8 - direct_T8": 100 * (noisy.test.accuracy[-1] - direct.test.accuracy[-1]),
                "sigma 0.2 - 0": 100 * (noisy.test.accuracy[-1] - quiet.test.accuracy[-1]),
                "noise - nothing (mu = sigma = 0)": 100 * (noisy.test.accuracy[-1] - bare.test.accuracy[-1]),
            }
            if name == "digits":
                more, steps = against_rates(data, seed, epochs, model, noisy)
                values |= more
                matched.append(steps)
            for what, value in values.items():
                rows.setdefault(what, []).append(value)
        found[name] = {
            "settings": [seeds, epochs, model],
            "rate_steps_to_match_T8": [steps if steps <= 256 else "more than 256" for steps in matched],
            **{what: interval(values) for what, values in rows.items()},
        }
    return found


def against_rates(
    data: training.TrainingData, seed: int, epochs: int, model: str, noisy: training.Trained
) -> tuple[dict[str, float], int]:
    """The classical conversion: its accuracy, both networks' seconds, and the steps it needs to be as good.

    Each number of steps has a conversion of its own, since the shift depends on it.
    """
    assert data.test is not None
    assert noisy.test is not None
    rate, _ = trained_by("convert", data, seed, epochs=epochs, model=model, time_steps=256)
    right = (outputs(rate.network, data.test, 256).cumsum(0).argmax(2) == data.test.y.numpy()).mean(1)
    teacher, wanted = rate.networks[0], noisy.test.accuracy[-1]
    assert isinstance(teacher, Network)
    tried = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    steps = next((steps for steps in tried if rate_accuracy(teacher, data, steps) >= wanted), 512)
    return {
        "rate_T256": 100 * float(right[-1]),
        "inference_s_noise_T8": inference_seconds(noisy.network, data),
        "inference_s_rate": inference_seconds(rate.network, data, min(steps, 256)),
    }, steps


def rate_accuracy(teacher: Network, data: training.TrainingData, steps: int) -> float:
    """Test accuracy of the classical conversion for so many steps."""
    from snn2chip.training.teacher import rate_coded

    assert data.test is not None
    network = rate_coded(teacher, data.training.x, steps)
    return training.evaluate(network, data.test, steps).accuracy[-1]


def inference_seconds(network: nn.Module, data: training.TrainingData, steps: int | None = None) -> float:
    """Processor seconds of torch on all test samples, the least of three."""
    assert data.test is not None
    assert isinstance(network, Network)
    network = with_time_steps(network, steps or network.time_steps)
    times = []
    for _ in range(3):
        began = time.process_time()
        outputs(network, data.test, network.time_steps)
        times.append(time.process_time() - began)
    return min(times)


# -- digits and MNIST: s2nn, ltl, all of them


def tasks(arguments: argparse.Namespace, seed: int) -> list[tuple[training.TrainingData, str, int]]:
    """Data, model and epochs: digits, and MNIST where its file is given."""
    quick = arguments.quick
    found = [(training.load("digits", seed=seed, validation=0.2), "mlp:128-64", 5 if quick else 40)]
    if arguments.mnist:
        found.append((mnist_data(arguments, seed), "mlp:256-128", 2 if quick else 8))
    return found


def mnist_data(arguments: argparse.Namespace, seed: int) -> training.TrainingData:
    """MNIST, the first ``--images`` of its shuffled training images."""
    with np.load(arguments.mnist) as file:
        x, test_x = (file[f"{part}_images"][:, None].astype(np.float32) / 255 for part in ("train", "test"))
        y, test_y = (file[f"{part}_labels"].astype(np.int64) for part in ("train", "test"))
    count = 600 if arguments.quick else arguments.images
    return split("mnist", x[:count], y[:count], (test_x, test_y), 0.1, seed)


def cifar_data(arguments: argparse.Namespace) -> training.TrainingData:
    """CIFAR-10 of JPEG files, the first ``--images`` of its shuffled training images."""
    from PIL import Image

    def images(part: str, count: int) -> tuple[Any, Any]:
        with np.load(arguments.cifar) as file:
            bytes_, offsets, labels = (file[f"{part}_{what}"] for what in ("jpeg", "offsets", "labels"))
        found = [
            np.asarray(Image.open(io.BytesIO(bytes_[offsets[i] : offsets[i + 1]].tobytes()))) for i in range(count)
        ]
        return np.stack(found).transpose(0, 3, 1, 2).astype(np.float32) / 255, labels[:count].astype(np.int64)

    count = 300 if arguments.quick else arguments.images
    return split("cifar10", *images("train", count), images("test", 200 if arguments.quick else 2000), 0.1)


def s2nn(arguments: argparse.Namespace) -> dict[str, Any]:
    """Stateless single-step networks against ReLU and against straight-through binary networks, and as a stream."""
    seeds = 2 if arguments.quick else max(5, arguments.seeds // 2)
    found: dict[str, Any] = {}
    for number, name in enumerate(["digits", *(["mnist"] if arguments.mnist else [])]):
        rows: dict[str, list[float]] = {}
        for seed in range(seeds if name == "digits" else min(seeds, arguments.file_seeds)):
            data, model, epochs = tasks(arguments, seed)[number]
            stateless, seconds = trained_by("s2nn", data, seed, epochs=epochs, model=model)
            triangle, _ = trained_by("s2nn", data, seed, epochs=epochs, model=model, surrogate="triangle")
            binary, _ = trained_by("s2nn", data, seed, epochs=epochs, model=model, surrogate="straight_through")
            relu, _ = trained_by("convert", data, seed, epochs=epochs, model=model, time_steps=1)
            assert data.test is not None
            ordinary = training.evaluate(relu.networks[0], data.test, 1).accuracy[-1]
            accuracies = [one.test.accuracy[-1] for one in (stateless, triangle, binary) if one.test is not None]
            for what, value in zip(("s2nn", "triangle", "straight_through"), accuracies, strict=True):
                rows.setdefault(what, []).append(100 * value)
                rows.setdefault(f"{what} - relu", []).append(100 * (value - ordinary))
            rows.setdefault("relu", []).append(100 * ordinary)
            rows.setdefault("train_cpu_s", []).append(seconds)
        found[name] = {
            "settings": [model, epochs],
            **{what: interval(values) for what, values in rows.items()},
            "stream": stream(stateless.network, data, arguments),
        }
        steps, _ = trained_by("tet", data, 0, epochs=max(1, epochs // 4), model=model, time_steps=4)
        found[name]["stream"]["event_samples_per_s_T4"] = rate_of(steps.network, data, "isolated")
    return found


def stream(network: nn.Module, data: training.TrainingData, arguments: argparse.Namespace) -> dict[str, Any]:
    """A sample at each step: windows of one step, in the event simulator and in Lava."""
    assert data.test is not None
    net = s2c.convert(network, calibration(network, data))
    x, y = data.test.numpy(1000)
    streamed = s2c.simulate(net, x, y, mode="windowed")
    some = x[: 8 if arguments.quick else 64]
    found: dict[str, Any] = {
        "chip_accuracy": streamed.accuracy,
        "steps_per_sample": streamed.traces.v[net.layers[-1].name].shape[1],
        "latency_steps": len(net.layers),
        "event_samples_per_s": rate_of(network, data, "windowed"),
    }
    try:
        began = time.perf_counter()
        proof = s2c.verify(net, some, against="lava", mode="windowed")
        found["lava"] = {
            "samples": proof.samples,
            "differing_spikes": sum(proof.differing_spikes.values()),
            "differing_states": sum(proof.differing_states.values()),
            "samples_per_s": round(proof.samples / proof.expected.seconds, 1),
            "seconds_in_all": round(time.perf_counter() - began, 1),
        }
    except s2c.errors.LavaMissing as error:
        found["lava"] = str(error)
    return found


def rate_of(network: nn.Module, data: training.TrainingData, mode: Any) -> int:
    """Samples per second of the event simulator, the best of three."""
    assert data.test is not None
    net = s2c.convert(network, calibration(network, data))
    x, _ = data.test.numpy(1000)
    return round(len(x) / min(s2c.simulate(net, x, mode=mode).traces.seconds for _ in range(3)))


def ltl(arguments: argparse.Namespace) -> dict[str, Any]:
    """Local tandem learning: from the folded teacher and from scratch, offline and online, by epoch."""
    seeds = 2 if arguments.quick else max(3, arguments.seeds // 3)
    found: dict[str, Any] = {}
    for number, name in enumerate(["digits", *(["mnist"] if arguments.mnist else [])]):
        rows: dict[str, list[float]] = {}
        for seed in range(seeds if name == "digits" else min(seeds, arguments.file_seeds)):
            data, model, teacher_epochs = tasks(arguments, seed)[number]
            assert data.test is not None
            updates = -(-len(data.training) // 64)
            matched = 3 if arguments.quick else max(5, round(arguments.updates / updates))
            # Students get so small a rate that their start, already good, is not lost.
            for kind, epochs, rate, options in (
                ("folded offline", 2 if arguments.quick else 5, 5e-4, {}),
                ("folded online", 2 if arguments.quick else 5, 5e-4, {"online": True}),
                ("random offline", matched, 3e-3, {"from_teacher": False}),
                ("random online", matched, 3e-3, {"from_teacher": False, "online": True}),
            ):
                plan = training.plan_of(
                    "ltl",
                    data,
                    training.Options(
                        model=model, epochs=epochs, time_steps=16, teacher_epochs=teacher_epochs, **options
                    ),
                )
                teacher = teacher_of(data, seed, model, teacher_epochs)
                given = replace(plan.stages[0], epochs=0, build=lambda _, found=teacher: found)
                done = training.train(
                    replace(plan, stages=(given, plan.stages[1])),
                    data,
                    training.Settings(seed=seed, learning_rate=rate, device="cpu"),
                )
                assert done.test is not None
                top = training.evaluate(teacher, data.test, 1).accuracy[-1]
                if kind == "folded offline":  # once for each seed
                    rows.setdefault("teacher", []).append(100 * top)
                rows.setdefault(kind, []).append(100 * done.test.accuracy[-1])
                rows.setdefault(f"{kind} - teacher", []).append(100 * (done.test.accuracy[-1] - top))
                rows.setdefault(f"{kind} epoch 1 (validation)", []).append(
                    100 * done.history[0].validation.accuracy[-1]
                )
        found[name] = {
            "settings": {
                "model": model,
                "teacher_epochs": teacher_epochs,
                "random_epochs": matched,
                "updates": updates,
            },
            **{what: interval(values) for what, values in rows.items()},
        }
    return found


_TEACHERS: dict[tuple[str, int], nn.Module] = {}


def teacher_of(data: training.TrainingData, seed: int, model: str, epochs: int) -> nn.Module:
    """One teacher for all students of a seed."""
    key = (data.name, seed)
    if key not in _TEACHERS:
        done, _ = trained_by("convert", data, seed, epochs=epochs, model=model, time_steps=1)
        _TEACHERS[key] = done.networks[0]
    return _TEACHERS[key]


def every_method(data: training.TrainingData, model: str, epochs: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Each method's network: float, chip, Lava."""
    assert data.test is not None
    found: dict[str, Any] = {"model": model, "epochs": epochs, "training_images": len(data.training)}
    x, y = data.test.numpy(200 if arguments.quick else 2000)
    for method in arguments.methods.split(","):
        settings = {"augment": ("crop", "flip")} if data.name == "cifar10" else {}
        done, seconds = trained_by(method, data, 0, settings, epochs=epochs, model=model)
        assert done.test is not None
        with tempfile.TemporaryDirectory() as folder:
            model_file, net_file = Path(folder) / "model.pt", Path(folder) / "model.net"
            save_trained(done.network, data, model_file)
            try:
                s2c.export(s2c.convert(model_file), net_file)
            except s2c.errors.DoesNotFitError as error:
                found[method] = {"float": done.test.accuracy[-1], "not deployable": str(error)}
                continue
            net = s2c.read(net_file)
        proof = prove(net, x[:4] if arguments.quick else x[: arguments.lava])
        found[method] = {
            "time_steps": net.time_steps,
            "float_all_test": done.test.accuracy[-1],
            "float_same_samples": training.evaluate(
                done.network, data.test.part(slice(0, len(x))), net.time_steps
            ).accuracy[-1],
            "chip_8_bit": s2c.simulate(net, x, y).accuracy,
            "against": proof.against,
            "samples": proof.result.samples,
            "differing_spikes": sum(proof.result.differing_spikes.values()),
            "differing_states": sum(proof.result.differing_states.values()),
            "spike_rate": round(done.test.spike_rate, 4),
            "train_cpu_s": round(seconds, 1),
        }
        print(json.dumps({method: found[method]}), flush=True)
    return found


def mnist(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each method on MNIST, down to Lava."""
    if not arguments.mnist:
        return {"not run": "--mnist FILE"}
    model, epochs = ("mlp:32", 1) if arguments.quick else (arguments.file_model, arguments.epochs or 4)
    return every_method(mnist_data(arguments, 0), model, epochs, arguments)


def cifar(arguments: argparse.Namespace) -> dict[str, Any]:
    """Each method on CIFAR-10 with a small budget."""
    if not arguments.cifar:
        return {"not run": "--cifar FILE"}
    model, epochs = ("conv:8-8", 1) if arguments.quick else (arguments.file_model, arguments.epochs or 5)
    return every_method(cifar_data(arguments), model, epochs, arguments)


# -- a training step against other libraries


def networks(library: str) -> tuple[nn.Module, Callable[[nn.Module, torch.Tensor], torch.Tensor]]:
    """conv16 - conv32 - dense with hard-reset LIF neurons, and how to get its mean output for ``[N, T, 1, 28, 28]``."""
    layers = [nn.Conv2d(1, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1), nn.Linear(32 * 49, 10)]
    if library == "snn2chip":
        from snn2chip.nn import LIF, Readout

        own = Network(
            layers[0], LIF(0.5), layers[1], LIF(0.5), nn.Flatten(), Readout(32 * 49, 10),
            input_shape=(1, 28, 28), time_steps=8,
        )  # fmt: skip
        return own, lambda net, x: net(x)
    if library == "snntorch":
        import snntorch
        from snntorch import surrogate

        class Stepped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layers = nn.ModuleList(layers)
                self.lif = nn.ModuleList(
                    snntorch.Leaky(
                        beta=0.5, reset_mechanism="zero", reset_delay=False, spike_grad=surrogate.fast_sigmoid()
                    )
                    for _ in range(2)
                )

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                m1, m2 = (lif.init_leaky() for lif in self.lif)
                out = []
                for t in range(x.shape[1]):
                    s, m1 = self.lif[0](self.layers[0](x[:, t]), m1)
                    s, m2 = self.lif[1](self.layers[1](s), m2)
                    out.append(self.layers[2](s.flatten(1)))
                return torch.stack(out).mean(0)

        return Stepped(), lambda net, x: net(x)
    from spikingjelly.activation_based import functional, layer, neuron
    from spikingjelly.activation_based import surrogate as slopes

    def lif() -> nn.Module:
        return neuron.LIFNode(
            2.0, False, v_reset=0.0, surrogate_function=slopes.ATan(), detach_reset=False, step_mode="m"
        )

    jelly = nn.Sequential(
        layer.SeqToANNContainer(layers[0]), lif(), layer.SeqToANNContainer(layers[1]), lif(),
        layer.SeqToANNContainer(nn.Flatten(), layers[2]),
    )  # fmt: skip

    def run(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        functional.reset_net(net)
        return net(x.transpose(0, 1)).mean(0)  # type: ignore[no-any-return]

    return jelly, run


def _memory_of(library: str, batch: int, steps: int, pipe: Any) -> None:
    """Peak memory of training steps beyond what was there before, in a process of its own (Linux)."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, run = networks(library)
    y = torch.randint(10, (batch,))
    one_step(net, run, torch.rand(2, 2, 1, 28, 28), y[:2])  # loads what is loaded once
    x = (torch.rand(batch, steps, 1, 28, 28) < 0.3).float()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _resident("VmRSS")
    for _ in range(2):
        one_step(net, run, x, y)
    pipe.send(_resident("VmHWM") - before)


def _resident(what: str) -> float:
    """MiB, of this process's status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


def one_step(net: nn.Module, run: Callable[[nn.Module, torch.Tensor], torch.Tensor], x: Any, y: Any) -> float:
    """Forward and backward; processor seconds."""
    began = time.process_time()
    net.zero_grad(set_to_none=True)
    nn.functional.cross_entropy(run(net, x), y).backward()
    return time.process_time() - began


def step(arguments: argparse.Namespace) -> dict[str, Any]:
    """Processor time and peak memory of a training step, the libraries taking turns on the same batch."""
    batch, rounds = (16, 3) if arguments.quick else (128, 9)
    found: dict[str, Any] = {"batch": batch, "rounds": rounds}
    libraries = ("snn2chip", "snntorch", "spikingjelly")
    for steps in (4, 8, 16):
        torch.manual_seed(0)
        x, y = (torch.rand(batch, steps, 1, 28, 28) < 0.3).float(), torch.randint(10, (batch,))
        nets = {library: networks(library) for library in libraries}
        seconds: dict[str, list[float]] = {library: [] for library in libraries}
        for turn in range(rounds + 1):
            for library, (net, run) in nets.items():
                used = one_step(net, run, x, y)
                if turn:
                    seconds[library].append(used)
        context = multiprocessing.get_context("spawn")
        rows = {}
        for library in libraries:
            here, there = context.Pipe(False)
            process = context.Process(target=_memory_of, args=(library, batch, steps, there))
            process.start()
            peak = here.recv()
            process.join()
            rows[library] = {
                "cpu_ms_median": round(1000 * float(np.median(seconds[library])), 1),
                "cpu_ms_least": round(1000 * min(seconds[library]), 1),
                "peak_mib": round(peak, 1),
            }
        found[f"T={steps}"] = rows
    return found


def resume(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs that are interrupted at random batches end with the same bits."""
    data = training.load("digits")
    found = {}
    for method in training.METHODS:
        options = training.Options(model="mlp:32", epochs=3, time_steps=4)
        settings = training.Settings(seed=1, augment=("shift",), device="cpu")
        straight = training.train(training.plan_of(method, data, options), data, settings)
        rng, times = np.random.default_rng(0), 0

        def sometimes(_update: Any, rng: Any = rng) -> None:
            if rng.random() < 0.05:
                os.kill(os.getpid(), 2)

        with tempfile.TemporaryDirectory() as folder:
            while True:
                try:
                    again = training.train(
                        training.plan_of(method, data, options),
                        data,
                        settings,
                        Path(folder) / "c.ckpt",
                        progress=sometimes,
                    )
                    break
                except KeyboardInterrupt:
                    times += 1
        pairs = zip(straight.network.state_dict().values(), again.network.state_dict().values(), strict=True)
        found[method] = {"interruptions": times, "identical": all(torch.equal(a, b) for a, b in pairs)}
    return found


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    part.__name__: part for part in (tet, cutoff, noise, s2nn, ltl, mnist, cifar, step, resume)
}


def main() -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small, to see that it runs")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--file-seeds", type=int, default=3, help="of MNIST")
    parser.add_argument("--epochs", type=int, help="of the events, MNIST and CIFAR-10")
    parser.add_argument("--model", default="mlp:128", help="of the event task")
    parser.add_argument("--file-model", default="conv:16-32", help="of MNIST and CIFAR-10")
    parser.add_argument("--methods", default="sdt,tet,str,rcs,noise,s2nn,ltl,convert", help="of MNIST and CIFAR-10")
    parser.add_argument("--updates", type=int, default=3900, help="of random starts in local tandem learning")
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--cifar", type=Path)
    parser.add_argument("--images", type=int, default=12000, help="training images of MNIST and CIFAR-10")
    parser.add_argument("--lava", type=int, default=20, help="samples that are compared with Lava")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part {', '.join(sorted(unknown))}; have {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for name in arguments.parts or PARTS:
        began, load = time.perf_counter(), os.getloadavg()[0]
        result = PARTS[name](arguments)
        row = {"part": name, "load": round(load, 1), "seconds": round(time.perf_counter() - began, 1), **result}
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
