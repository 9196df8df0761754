"""What early exit saves: decisions, steps, energy and time on MNIST, static and as synthetic events.

    python benchmarks/early_exit.py --data ../shared/data/mnist.npz
    python benchmarks/early_exit.py --data ../shared/data/mnist.npz --json > early_exit.json

Networks: 16C5s2 - 32C3s2 - FC128 - FC10, T = 16, hard-reset LIF, trained with the mean of the cross-entropies of all
steps (TET without its second term, arXiv 2202.11946), kept in a folder for the next run. Thresholds come from the last
training images, which the networks have not seen; the test set chooses nothing.

The events are synthetic: each digit moves along a triangle of saccades, a pixel that becomes brighter or darker by
more than a fifth sends an ON or OFF event, most events are lost and some pixels fire without cause.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from snn2chip.chip import ChipNet
from snn2chip.compiler import compile_model
from snn2chip.early_exit import (
    calibrate,
    fit_gap,
    gap_rule,
    level_costs,
    oracle,
    simulate_exit,
    softmax_gap,
    softmax_ladder,
    softmax_rule,
    stopping,
    verify_exit,
    with_host_rule,
)
from snn2chip.early_exit.activity import required_record
from snn2chip.early_exit.calibration import observe
from snn2chip.early_exit.evidence import Evidence
from snn2chip.early_exit.policies import decide, lead
from snn2chip.errors import CheckFailed
from snn2chip.nn import LIF, Network, Readout
from snn2chip.simulators import event
from snn2chip.traces import encode

STEPS = 16
CALIBRATION = 5000
KEPT, NOISE = 0.5, 0.001  # share of events that arrive; chance of a pixel to fire without cause


def network(channels: int) -> Network:
    """The network for images of so many channels."""
    return Network(
        nn.Conv2d(channels, 16, 5, stride=2, bias=False),
        nn.BatchNorm2d(16),
        LIF(0.5),
        nn.Conv2d(16, 32, 3, stride=2, bias=False),
        nn.BatchNorm2d(32),
        LIF(0.5),
        nn.Flatten(),
        nn.Linear(32 * 5 * 5, 128, bias=False),
        nn.BatchNorm1d(128),
        LIF(0.5),
        Readout(128, 10, bias=False),
        input_shape=(channels, 28, 28),
        time_steps=STEPS,
    )


def events(images: Any, seed: int) -> Any:
    """Synthetic events ``[N, STEPS, 2, 28, 28]`` of 0 and 1 from images ``[N, 28, 28]`` in 0..1."""
    random = np.random.default_rng(seed)
    corners = [(0, 0), (-2, 3), (2, 3), (0, 0)]
    path = [
        np.round(np.add(a, np.subtract(b, a) * k / 6)).astype(int)
        for a, b in itertools.pairwise(corners)
        for k in range(6)
    ]
    out = np.zeros((len(images), STEPS, 2, 28, 28), np.uint8)
    before = images
    for t in range(STEPS):
        now = np.roll(images, tuple(path[t + 1]), (1, 2))
        if (path[t + 1] == path[t]).all():  # fixational jitter
            now = np.roll(now, random.integers(-1, 2), 2)
        change = now - before
        before = now
        for channel, fires in enumerate((change > 0.2, change < -0.2)):
            out[:, t, channel] = fires & (random.random(images.shape) < KEPT) | (random.random(images.shape) < NOISE)
    return out


def plain(images: Any, seed: int) -> Any:
    """Static images with a channel."""
    return images[:, None].astype(np.float32)


#: Input, updates of 64 images, and steps to train with, by task.
TASKS: dict[str, tuple[Callable[[Any, int], Any], int, int, int]] = {
    "static": (plain, 1, 1200, 4),
    "events": (events, 2, 700, STEPS),
}


def train(net: Network, make: Callable[[Any, int], Any], images: Any, classes: Any, updates: int, steps: int) -> None:
    """Cross-entropy of each step's output, on average; batches of 64 in random order."""
    optimiser = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, updates)
    net.train()
    net.time_steps = steps
    done = 0
    while done < updates:
        for index in torch.split(torch.randperm(len(images)), 64)[: updates - done]:
            done += 1
            outputs = net.steps(torch.from_numpy(make(images[index.numpy()], done)).float())
            target = torch.from_numpy(classes[index.numpy()])
            loss = nn.functional.cross_entropy(outputs.flatten(0, 1), target.repeat_interleave(outputs.shape[1]))
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    net.time_steps = STEPS
    net.eval()


def trained(task: str, images: Any, classes: Any, folder: Path) -> tuple[Network, float]:
    """The network, from the folder if it was trained before, and how long that took."""
    make, channels, updates, steps = TASKS[task]
    torch.manual_seed(0)
    net, file = network(channels), folder / f"{task}-{updates}.pt"
    if file.exists():
        net.load_state_dict(torch.load(file, weights_only=True))
        net.eval()
        return net, 0.0
    began = time.perf_counter()
    train(net, make, images, classes, updates, steps)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(net.state_dict(), file)
    return net, time.perf_counter() - began


def measured(net: ChipNet, x: Any, y: Any) -> dict[str, Any]:
    """An exit on test samples; every one of them against the integer rule."""
    run = simulate_exit(net, x, y)
    proof = verify_exit(net, x, in_lava=False)
    cut, chip = run.latency.speed_up
    return {
        "threshold": net.exit.thresholds[0],
        "form": net.exit.form,
        "scale": net.exit.scale[0] / net.exit.scale[1],
        "accuracy_full": run.accuracy_full,
        "accuracy": run.accuracy,
        "drop_points": 100 * (run.accuracy_full - run.accuracy),
        "never_confident": float(1 - run.decisions.exited.mean()),
        "mean_steps": float(run.latency.cutoff.mean()),
        "mean_latency_steps": float(run.latency.chip.mean()),
        "full_latency_steps": run.latency.full_chip,
        "speed_up_cutoff": cut,
        "speed_up_latency": chip,
        "images_against_rule": proof.samples,
        "differ_from_rule": proof.rule,
        "ended_windows_differ": proof.stopped,
    }


def timed(net: ChipNet, x: Any, repeats: int) -> dict[str, Any]:
    """Seconds of whole and ended windows on one thread, the best of some runs each, alternating.

    Processor time, which other programs disturb less than they do the clock.
    """
    messages, record = encode(net, x), required_record(net)
    whole, ended, clock, result = [], [], [], None
    for _ in range(repeats + 1):  # the first one compiles
        began, start = time.process_time(), time.perf_counter()
        event.run(net, messages, record=record, threads=1)
        whole.append(time.process_time() - began)
        middle, begun = time.perf_counter(), time.process_time()
        result = stopping.run(net, messages, threads=1)
        ended.append(time.process_time() - begun)
        clock.append((middle - start, time.perf_counter() - middle))
    assert result is not None
    share = 1 - float(result.decisions.steps.mean()) / net.time_steps
    best = min(ended[1:]) / min(whole[1:])
    return {
        "images": len(x),
        "cpu_seconds_whole": min(whole[1:]),
        "cpu_seconds_ended": min(ended[1:]),
        "ratio": best,
        "wall_ratio": min(b for _, b in clock[1:]) / min(a for a, _ in clock[1:]),
        "saved_share_of_steps": share,
        "allowed_ratio": 1 - 0.8 * share,
        "computed_steps": result.steps / len(x),
    }


def run_task(task: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything for one task."""
    with np.load(arguments.data) as file:
        images = {part: file[f"{part}_images"].astype(np.float32) / 255 for part in ("train", "test")}
        classes = {part: file[f"{part}_labels"].astype(np.int64) for part in ("train", "test")}
    make = TASKS[task][0]
    own, held = slice(0, len(images["train"]) - CALIBRATION), slice(len(images["train"]) - CALIBRATION, None)
    net, seconds = trained(task, images["train"][own], classes["train"][own], arguments.folder)
    samples = make(images["train"][:256], 10**6), classes["train"][:256]
    compiled = compile_model(net, samples, example_input=torch.from_numpy(samples[0][:2]).float())
    chip, logit = compiled.net, compiled.choices[-1].weight_scale
    x, y = make(images["train"][held], 10**6 + 1), classes["train"][held]
    test_x = make(images["test"][: arguments.images], 10**6 + 2)
    test_y = classes["test"][: arguments.images]
    rule = with_host_rule(chip, "margin", (1,))
    calibration, test = observe(rule, x, y), observe(rule, test_x, test_y)
    right = test.scores.argmax(2) == test_y[:, None]
    out: dict[str, Any] = {
        "training_seconds": seconds,
        "test_images": len(test_x),
        "fixed_steps": {t + 1: float(right[:, t].mean()) for t in range(STEPS)},
        "policies": {},
    }
    chosen: ChipNet | None = None
    for policy, form in (("margin", None), ("threshold", None), ("threshold", "band"), ("patience", None)):
        name = policy if form is None else f"{policy} ({form})"
        try:
            found = calibrate(chip, x, y, (policy,), form, max_drop=arguments.max_drop / 100)
        except CheckFailed as error:
            out["policies"][name] = {"refused": str(error)}
            continue
        calibrated = {"drop_upper_bound": found.chosen.drop_upper_bound, "same_as_unrounded": found.loss.same_decision}
        out["policies"][name] = {**measured(found.net, test_x, test_y), "calibration": calibrated}
        if policy == "margin":
            chosen = found.net
            out["curve"] = [
                {"threshold": p.threshold, "accuracy": p.accuracy, "mean_steps": p.mean_steps} for p in found.curve
            ]
    out["softmax"] = {}
    for eps in (0.1, 0.03, 0.01, 0.003):
        exact = softmax_rule(test.scores / logit, eps, test.full)
        gap = decide(test.lead, softmax_gap(eps, 10, logit), test.full)
        rungs = softmax_ladder(eps, 10, logit)
        ladder = decide(lead("softmax", "ladder", Evidence.of(test.scores), rungs), rungs[0], test.full)
        entry = {
            "exact_accuracy": float((exact.label == test_y).mean()),
            "exact_steps": float(exact.steps.mean()),
            "gap_accuracy": float((gap.label == test_y).mean()),
            "gap_steps": float(gap.steps.mean()),
            "gap_extra_percent": 100 * (float(gap.steps.mean() / exact.steps.mean()) - 1),
            "ladder_accuracy": float((ladder.label == test_y).mean()),
            "ladder_steps": float(ladder.steps.mean()),
            "ladder_extra_percent": 100 * (float(ladder.steps.mean() / exact.steps.mean()) - 1),
        }
        try:
            circuit = calibrate(chip, x, y, eps=eps, logit=logit)
            entry["circuit"] = measured(circuit.net, test_x, test_y)
            entry["circuit"]["extra_percent"] = 100 * (entry["circuit"]["mean_steps"] / entry["exact_steps"] - 1)
        except CheckFailed as error:
            entry["circuit"] = {"refused": str(error)}
        out["softmax"][eps] = entry
    gaps = calibration.lead.strength.astype(float)
    out["published"] = {"oracle_steps": float(oracle(test.scores.argmax(2), test_y).steps.mean()), "top_k_gap": []}
    for eps in (0.05, 0.02, 0.01, 0.005):
        beta = fit_gap(gaps, calibration.scores.argmax(2), y, eps)
        found_gap = gap_rule(test.lead.strength, test.scores.argmax(2), beta, test.full)
        out["published"]["top_k_gap"].append(
            {
                "eps": eps,
                "accuracy": float((found_gap.label == test_y).mean()),
                "mean_steps": float(found_gap.steps.mean()),
            }
        )
    if chosen is not None:
        out["levels"] = [vars(cost) for cost in level_costs(chosen, test_x[:1000])]
        out["time"] = timed(chosen, test_x, arguments.repeats)
        if arguments.lava_images:
            proof = verify_exit(chosen, test_x[: arguments.lava_images])
            out["lava"] = {"equal": proof.equal, **vars(proof)}
    return out


def show(task: str, out: dict[str, Any]) -> None:
    """The same as text."""
    print(f"\n== {task}: {out['test_images']} test images, T = {STEPS} ==")
    print("fixed T:   " + "  ".join(f"{t}: {100 * a:.2f}" for t, a in out["fixed_steps"].items()))
    rows = {**out["policies"], **{f"softmax {eps}": entry["circuit"] for eps, entry in out["softmax"].items()}}
    for name, row in rows.items():
        if "refused" in row:
            print(f"{name}: {row['refused']}")
            continue
        print(
            f"{name:17} {100 * row['accuracy']:.2f} % of {100 * row['accuracy_full']:.2f} %, cutoff "
            f"{row['mean_steps']:.2f} of {STEPS} ({row['speed_up_cutoff']:.2f}x), answer "
            f"{row['mean_latency_steps']:.2f} of {row['full_latency_steps']} ({row['speed_up_latency']:.2f}x), "
            f"never {row['never_confident']:.2%}, "
            f"{row['differ_from_rule']} of {row['images_against_rule']} differ from the rule"
        )
    for eps, entry in out["softmax"].items():
        print(
            f"softmax {eps}: exact {entry['exact_steps']:.3f} steps; guaranteed by one gap {entry['gap_steps']:.3f} "
            f"({entry['gap_extra_percent']:+.1f} %), by a ladder {entry['ladder_steps']:.3f} "
            f"({entry['ladder_extra_percent']:+.1f} %), its circuit {entry['circuit'].get('mean_steps', math.nan):.3f} "
            f"({entry['circuit'].get('extra_percent', math.nan):+.1f} %)"
        )
    print(f"oracle: {out['published']['oracle_steps']:.2f} steps; top-K gap: {out['published']['top_k_gap']}")
    for level in out.get("levels", []):
        print(
            f"{level['level']:9} {level['steps']:6.2f} steps {level['operations']:12,.0f} operations "
            f"{1e6 * level['energy']:8.2f} uJ ({1e6 * level['dynamic']:.2f} dynamic) {1e6 * level['seconds']:7.1f} us "
            f"{level['cores']} cores"
        )
    if "time" in out:
        print("time:", out["time"])
    if "lava" in out:
        print("lava:", out["lava"])


def main() -> None:
    """Run the tasks and print what they came to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/mnist.npz"))
    parser.add_argument("--task", choices=[*TASKS, "both"], default="both")
    parser.add_argument("--images", type=int, default=10000, help="test images")
    parser.add_argument("--lava-images", type=int, default=100)
    parser.add_argument("--max-drop", type=float, default=0.5, help="points")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "snn2chip-early-exit")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    tasks = list(TASKS) if arguments.task == "both" else [arguments.task]
    results = {task: run_task(task, arguments) for task in tasks}
    if arguments.json:
        print(json.dumps(results))
        return
    for task, out in results.items():
        show(task, out)


if __name__ == "__main__":
    main()
