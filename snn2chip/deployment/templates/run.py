#!/usr/bin/env python3
"""Run the network in simulation or on Loihi 2, and compare what it does with what is expected, bit for bit.

    python run.py                 Lava's simulator, on this machine
    python run.py --hardware      Loihi 2; needs the lab's extension of Lava

Exit code 0: equal; 1: not equal, or a file was changed; 2: wrong arguments; 5: Lava is missing, failed or timed out.
Results go to results/, where `snn2chip compare results` and the README explain them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE)]

import check  # noqa: E402

#: The switch: False takes Loihi2SimCfg, True Loihi2HwCfg. --hardware and --simulation override it.
HARDWARE = False
#: Steps that an adapter between host and neurocores takes; if layers differ from the first step on, try 0 and 2.
INPUT_STEPS = 1
#: Steps more than that by which a recording may be late.
SLACK = 3

FAILED, USAGE, ENVIRONMENT = 1, 2, 5


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    switch = parser.add_mutually_exclusive_group()
    switch.add_argument("--hardware", dest="mode", action="store_const", const="hardware", help="run on Loihi 2")
    switch.add_argument("--simulation", dest="mode", action="store_const", const="simulation", help="run in Lava")
    switch.add_argument(
        "--rehearse",
        dest="mode",
        action="store_const",
        const="rehearsal",
        help="simulation with a one-step delay in place of each adapter of the chip",
    )
    parser.add_argument("--samples", type=int, help="only the first N samples")
    parser.add_argument("--stop-at-decision", action="store_true", help="pause each sample's run at its early exit")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write [results]")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds for each run [1800]")
    parser.add_argument("--input-steps", type=int, default=INPUT_STEPS, help=f"steps of an adapter [{INPUT_STEPS}]")
    parser.add_argument("--partition", default=os.environ.get("PARTITION"), help="SLURM partition [$PARTITION]")
    parser.add_argument("--board", default=os.environ.get("BOARD"), help="SLURM node instead of a partition [$BOARD]")
    parser.add_argument("--host", default=os.environ.get("NXSDKHOST"), help="board at this address, without SLURM")
    parser.add_argument("--loihi-gen", default=os.environ.get("LOIHI_GEN", "N3B3"), help="chip generation [N3B3]")
    parser.add_argument("--no-profile", action="store_true", help="measure neither power nor time")
    asked = parser.parse_args()
    asked.mode = asked.mode or ("hardware" if HARDWARE else "simulation")
    return asked


def has_extension() -> bool:
    """Whether the lab's extension is installed; `lava.utils.loihi.is_installed` looks for the same module."""
    try:
        return importlib.util.find_spec("lava.utils.loihi2_profiler") is not None
    except ImportError:
        return False


def fail(code: int, text: str) -> None:
    """One line, and the end."""
    print(f"error: {text}", file=sys.stderr)
    sys.exit(code)


def run_worker(job: dict[str, Any], work: Path, timeout: float) -> dict[str, Any]:
    """Start the worker in a process group of its own, wait, and leave nothing of it behind."""
    path, result, errors = work / "job.json", work / "result.json", work / "stderr"
    result.unlink(missing_ok=True)
    path.write_text(json.dumps(job))
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    hardware = job["mode"] == "hardware"
    with (work / "stdout").open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, str(HERE / "worker.py"), str(path)],
            stdin=subprocess.PIPE,  # its end tells the worker that this process is gone
            stdout=out,
            stderr=err,
            cwd=work,
            env={**os.environ, **threads},
            start_new_session=True,
        )
    deadline = time.monotonic() + timeout
    try:
        while True:
            ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
            if result.exists() and (ended or not hardware):  # a board is given back before the worker ends
                done: dict[str, Any] = json.loads(result.read_text())
                return done
            if ended:
                fail(ENVIRONMENT, f"Lava failed: {reason(errors.read_text(errors='replace'))}")
            if time.monotonic() > deadline:
                fail(ENVIRONMENT, f"not finished after {timeout:g} s; take fewer --samples, or a longer --timeout")
            time.sleep(0.02)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hardware and not result.exists():
                os.killpg(process.pid, signal.SIGINT)  # lets Lava release the board
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(20)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        segments = work / "segments"
        for name in segments.read_text().split() if segments.exists() else []:
            Path("/dev/shm", name).unlink(missing_ok=True)
        temporary = work / "temporary"
        if temporary.exists():
            shutil.rmtree(temporary.read_text(), ignore_errors=True)


def reason(text: str) -> str:
    """The exception line of the first traceback, or the last line at all."""
    lines = [line for line in text.splitlines() if line.strip()]
    for i, line in enumerate(lines):
        if line.startswith("Traceback"):
            after = (one for one in lines[i + 1 :] if not one.startswith((" ", "\t")))
            return next(after, "").strip()
    return lines[-1].strip() if lines else "no message"


def job_of(
    description: dict[str, Any], asked: argparse.Namespace, work: Path, first: int, samples: int
) -> dict[str, Any]:
    """What the worker is told; all paths absolute."""
    delay = 0 if asked.mode == "simulation" else asked.input_steps
    window, layers = description["window"], description["layers"]
    steps = samples * window
    return {
        "mode": asked.mode,
        "bundle": str(HERE),
        "messages": str(work / "messages.npy"),
        "first": first * window,
        "steps": steps,
        "total": steps + layers[-1]["arrival"] - 1 + 2 * delay + (SLACK if delay else 0),
        "delay": delay,
        "samples": samples,
        "pause": asked.stop_at_decision,
        "profile": asked.mode == "hardware" and not asked.no_profile,
        "partition": None if asked.board else asked.partition,
        "board": asked.board,
        "host": asked.host,
        "loihi_gen": asked.loihi_gen,
        "work": str(work),
        "segments": str(work / "segments"),
        "result": str(work / "result.json"),
        "profile_file": str(work / "profile.npz"),
    }


def collect(
    description: dict[str, Any], job: dict[str, Any], expected: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, int]]:
    """Traces of the run in layer time, and the delay of each layer's recording."""
    work, samples, window = Path(job["work"]), job["samples"], description["window"]
    traces, late = {}, {}
    for k, layer in enumerate(description["layers"]):
        start = layer["arrival"] + job["delay"]
        raw = np.load(work / f"spikes.{k}.npy", mmap_mode="r")
        slack = SLACK + job["delay"] if job["delay"] else 0
        trace, shift = check.aligned(raw, start, samples, window, expected[f"spikes.{k}"][:samples], slack)
        traces[f"spikes.{k}"] = np.array(trace)
        late[layer["name"]] = shift
        for variable in ("u", "v"):
            file = work / f"{variable}.{k}.npy"
            if file.exists():  # read where they are, not sent through an adapter
                states = np.load(file, mmap_mode="r")[start - 1 : start - 1 + samples * window]
                states = states.reshape(samples, window, *layer["shape"])
                traces[f"{variable}_mark.{k}"] = check.marks(states)
                if f"{variable}.{k}" in expected:
                    traces[f"{variable}.{k}"] = np.array(states)
        file = work / f"v_last.{k}.npy"
        if file.exists():
            traces[f"v_last.{k}"] = np.load(file)
    return traces, late


def show(description: dict[str, Any], traces: dict[str, Any], expected: dict[str, Any], samples: int) -> bool:
    """Print the comparison; whether all is equal."""
    names = [layer["name"] for layer in description["layers"]]
    found = check.compare(names, {key: value[:samples] for key, value in expected.items()}, traces)
    for difference in found:
        print(("  " if not difference.unknown else "! ") + str(difference))
    equal = not any(difference.unknown for difference in found)
    labels = expected.get("labels")
    predicted = check.predictions(description, traces)
    if predicted is not None:
        same = int((predicted == expected["predictions"][:samples]).sum())
        accuracy = "" if labels is None else f", {int((predicted == labels[:samples]).sum())} right"
        print(f"  predictions: {same} of {samples} as expected{accuracy}")
    decided = check.decisions(description, traces)
    if decided is not None:
        same = int((decided == expected["decisions"][:samples]).all(1).sum())
        left = decided[decided[:, 1] >= 0, 1]
        steps = f", {len(left)} left early" + (f", after {left.mean() + 1:.2f} steps" if len(left) else "")
        print(f"  early exit: {same} of {samples} as expected{steps}")
        equal = equal and same == samples
    if not equal:
        first = next((difference.layer for difference in found if difference.unknown), "the early exit")
        print(f"DIFFERENT: the first layer that differs is {first}")
    else:
        print(f"EQUAL: {samples} samples, {len(names)} layers, every step and neuron")
    return equal


def stop_at_decision(
    description: dict[str, Any], asked: argparse.Namespace, work: Path, expected: dict[str, Any]
) -> bool:
    """Run one sample after the other, each paused by the monitor; whether all decided as expected."""
    rule = description["exit"]
    if rule is None or rule["layer"] is None:
        fail(USAGE, "--stop-at-decision: the network has no early exit in its layers")
    equal = True
    arrival = description["layers"][rule["layer"]]["arrival"]
    for n in range(asked.samples):
        job = job_of(description, asked, work, n, 1)
        run_worker(job, work, asked.timeout)
        label, step, chip_step = (int(i) for i in np.load(work / "decisions.npy")[0])
        wanted = tuple(int(i) for i in expected["alone"][n])
        what = f"class {label} at step {step + 1} of {description['time_steps']}" if step >= 0 else "never left early"
        if step >= 0:
            what += f", paused at chip step {chip_step} of {arrival + description['window'] - 1}"
        if (label, step) == wanted:
            print(f"  sample {n}: {what}")
        else:
            equal = False
            print(f"! sample {n}: {what}, expected class {wanted[0]} at step {wanted[1] + 1}")
    print("EQUAL: every decision" if equal else "DIFFERENT: the early exit")
    return equal


def main() -> None:
    """All of it."""
    asked = arguments()
    description = json.loads((HERE / "bundle.json").read_text())
    most = description["samples"]
    asked.samples = most if asked.samples is None else min(asked.samples, most)
    if asked.samples < 1 or not 0 <= asked.input_steps <= 8:
        fail(USAGE, "--samples has to be at least 1, --input-steps 0 to 8")
    if asked.mode == "hardware":
        if not has_extension():
            fail(
                ENVIRONMENT,
                "--hardware: the extension of Lava for Loihi (lava-loihi) is not installed here. Intel's lab has it "
                "on its own systems (INRC): copy this folder there. Without --hardware the same runs in simulation",
            )
        window = description["window"]
        if window & (window - 1):
            fail(
                USAGE,
                f"--hardware: the window, {window} steps, is no power of two: the chip cannot reset; deploy again",
            )
    broken = check.changed(HERE)
    if broken:
        print(f"! changed since deployment: {', '.join(broken)}")
        now = check.parameters(HERE, description["kind"])
        for name, digest in description["parameters"].items():
            if now.get(name) != digest:
                print(f"! {name}: its weights or parameters are not those that were deployed")
    with np.load(HERE / "expected.npz") as file:
        expected = dict(file)
    asked.results.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="work-", dir=asked.results))
    try:
        with np.load(HERE / "inputs.npz") as file:
            np.save(work / "messages.npy", file["messages"])
        if asked.stop_at_decision:
            sys.exit(0 if stop_at_decision(description, asked, work, expected) and not broken else FAILED)
        job = job_of(description, asked, work, 0, asked.samples)
        done = run_worker(job, work, asked.timeout)
        traces, late = collect(description, job, expected)
        np.savez_compressed(asked.results / "traces.npz", **traces)
        if Path(job["profile_file"]).exists():
            shutil.copy(job["profile_file"], asked.results / "profile.npz")
        facts = {
            "mode": asked.mode,
            "samples": asked.samples,
            "steps": job["total"],
            "late": late,
            "host": platform.node(),
            "python": platform.python_version(),
            **{key: job[key] for key in ("partition", "board", "loihi_gen", "delay")},
            **done,
        }
        (asked.results / "run.json").write_text(json.dumps(facts, indent=1) + "\n")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    where = {"hardware": "Loihi 2", "simulation": "Lava's simulator", "rehearsal": "Lava's simulator, with adapters"}
    print(f"{where[asked.mode]}: {job['total']} steps in {done['seconds']:.2f} s; results in {asked.results}")
    if any(late.values()):
        print("  recordings late by: " + ", ".join(f"{name} {steps}" for name, steps in late.items() if steps))
    equal = show(description, traces, expected, asked.samples)
    sys.exit(0 if equal and not broken else FAILED)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        fail(ENVIRONMENT, f"{error.filename or 'system'}: {error.strerror or error}")
