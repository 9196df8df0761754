"""A folder that runs a network in the lab, or here in simulation, without snn2chip, and checks itself bit for bit.

::

    run.py worker.py lab.py check.py parts/   the runner; README.md, submit.sh, requirements.txt
    model.net | network.py network.npz        NetX, or a plain Lava module for what NetX cannot say
    inputs.npz expected.npz                   messages of a few samples, and what the integer simulator makes of them
    bundle.json SHA256SUMS

Expected is what the chip does: samples follow one another, u and v are reset at each window, and spikes in flight cross
it (mode ``windowed``).
"""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from snn2chip._version import NEEDS, __version__
from snn2chip.chip import ChipNet, Dense, InputNeurons
from snn2chip.deployment import check, circuit
from snn2chip.deployment.circuit import Circuit
from snn2chip.deployment.compare import FORMAT
from snn2chip.errors import CheckFailed, EnvironmentFailure, LavaError, UsageError
from snn2chip.exporters import lava_module, netx
from snn2chip.files import whole_folder
from snn2chip.simulators import event, lava, lava_env
from snn2chip.traces import Mode, Record, Traces

Array = npt.NDArray[Any]
Kind = Literal["netx", "module"]

TEMPLATES = resources.files("snn2chip.deployment").joinpath("templates")
#: Where each template goes; the others are filled in.
VERBATIM = {"run.py": "run.py", "worker.py": "worker.py", "lab.py": "lab.py", "probes.py": "parts/probes.py"}
GENERATIONS = ("N3B2", "N3B3", "N3C1", "N3D1")
#: Of a bundle's run, `run.py`.
EXIT_FAILED = 1


@dataclass(frozen=True)
class Bundle:
    """What was written.

    Attributes:
        folder: where.
        kind: ``netx`` or ``module``.
        files: names, sorted.
        samples: how many are in it.
        notes: what a user has to know, one sentence each.
    """

    folder: Path
    kind: Kind
    files: tuple[str, ...]
    samples: int
    notes: tuple[str, ...]


def power_of_two(steps: int) -> int:
    """The least power of two that is not below ``steps``."""
    return 1 << max(0, steps - 1).bit_length()


def simulated(net: ChipNet | Circuit, messages: Array, mode: Mode = "windowed") -> Traces:
    """Everything that the integer simulator records."""
    if isinstance(net, Circuit):
        return circuit.run(net, messages, mode, Record.everything(net.net))
    traces: Traces = event.run(net, messages, mode, Record.everything(net))
    return traces


def describe(net: ChipNet | Circuit, kind: Kind, samples: int) -> dict[str, Any]:
    """``bundle.json``: what the runner has to know of the network."""
    chain = net.net if isinstance(net, Circuit) else net
    first = chain.layers[0]
    driven = isinstance(first, InputNeurons)
    names = [layer.name for layer in chain.layers]
    rule = chain.exit
    layers = []
    for k, layer in enumerate(chain.layers):
        variables = lava.process_variables(layer, False)
        layers.append(
            {
                "name": layer.name,
                "type": type(layer).__name__,
                "shape": list(layer.shape),
                "graded": layer.neuron.graded,
                "arrival": k + (1 if driven else 2),
                "u": variables["u_var"],
                "v": variables["v_var"],
            }
        )
    return {
        "format": FORMAT,
        "needs": NEEDS,
        "snn2chip": __version__,
        "kind": kind,
        "target": chain.target,
        "input_shape": list(chain.input_shape),
        "message_bits": chain.encoding.message_bits,
        "spike_exp": chain.spike_exp,
        "input_neurons": driven,
        "flatten": isinstance(first, Dense),
        "time_steps": chain.time_steps,
        "window": chain.window,
        "samples": samples,
        "layers": layers,
        "readout": {
            "layer": names.index(chain.readout_layer.name),
            "kind": chain.readout.kind,
            "classes": chain.classes,
        },
        "exit": None
        if rule is None
        else {
            "policy": rule.policy,
            "form": rule.form,
            "thresholds": list(rule.thresholds),
            "layer": None if rule.form == "host" else len(names) - 1,
            "first_step": rule.thresholds[0] - 1 if rule.form == "run" else 0,
        },
    }


def expected(net: ChipNet | Circuit, description: dict[str, Any], messages: Array, y: Array | None) -> dict[str, Array]:
    """``expected.npz``: traces, predictions and decisions of the integer simulator."""
    traces = simulated(net, messages)
    out: dict[str, Array] = {}
    readout = description["readout"]
    for k, layer in enumerate(description["layers"]):
        name = layer["name"]
        out[f"spikes.{k}"] = traces.spikes[name]
        out[f"u_mark.{k}"], out[f"v_mark.{k}"] = check.marks(traces.u[name]), check.marks(traces.v[name])
        if readout["kind"] == "potential" and k == readout["layer"]:
            out[f"v.{k}"] = traces.v[name]
            out[f"v_last.{k}"] = np.ascontiguousarray(traces.v[name][:, description["time_steps"] - 1])
    predicted = check.predictions(description, out)
    assert predicted is not None
    out["predictions"] = predicted
    decided = check.decisions(description, out)
    if decided is not None:
        out["decisions"] = decided
        alone = simulated(net, messages, "isolated").spikes
        layer = description["exit"]["layer"]
        found = check.decisions(description, {f"spikes.{layer}": alone[description["layers"][layer]["name"]]})
        assert found is not None
        out["alone"] = found
    if y is not None:
        out["labels"] = y
    return out


def write(
    net: ChipNet | Circuit,
    folder: str | os.PathLike[str],
    messages: Array,
    y: Array | None = None,
    *,
    kind: Kind = "netx",
    partition: str = "oheogulch",
    generation: str = "N3B3",
    force: bool = False,
    check_first: Callable[[Path], object] = lambda part: None,
) -> Bundle:
    """Write a bundle; the folder appears whole or not at all.

    Args:
        messages: ``[N, T, *input_shape]`` of the samples that it is checked with.
        y: ``[N]`` classes.
        kind: ``netx``, or ``module`` for a plain Lava module, which a circuit needs.
        partition, generation: of the lab's SLURM, defaults of its script.
        force: replace a bundle that is there.
        check_first: called with the complete folder before it takes its place; what it raises keeps it from that.

    Raises:
        UsageError: the folder exists; or a circuit is to be written as NetX.
        DoesNotFitError: the network has no form of that kind.
        EnvironmentFailure: the folder cannot be written.
    """
    if isinstance(net, Circuit) and kind == "netx":
        raise UsageError("bundle: NetX has no form for feedback and gates; take the kind 'module'")
    if generation not in GENERATIONS:
        raise UsageError(f"bundle: chip generation {generation!r}, expected one of {', '.join(GENERATIONS)}")
    if not len(messages):
        raise UsageError("bundle: no samples to check it with")
    target = Path(folder)
    _check_target(target, force)
    chain = net.net if isinstance(net, Circuit) else net
    notes = _notes(net, messages)
    with whole_folder(target, force) as part:
        (part / "parts").mkdir()
        for source, name in VERBATIM.items():
            (part / name).write_bytes(TEMPLATES.joinpath(source).read_bytes())
        shutil.copy(lava.WORKER, part / "parts" / "lava_worker.py")
        shutil.copy(Path(check.__file__), part / "check.py")
        models = _write_model(net, part, kind)
        description = describe(net, kind, len(messages))
        description["parameters"] = check.parameters(part, kind)
        (part / "bundle.json").write_text(json.dumps(description, indent=1) + "\n")
        np.savez_compressed(part / "inputs.npz", messages=_steps(chain, messages))
        np.savez_compressed(part / "expected.npz", **expected(net, description, messages, y))
        packages = TEMPLATES.joinpath("requirements.txt").read_text() + "\n".join(lava_env.PACKAGES) + "\n"
        (part / "requirements.txt").write_text(packages)
        values = {
            "TITLE": f"Bundle for Loihi 2: {len(chain.layers)} layers, {chain.time_steps} time steps",
            "SUMMARY": _summary(net),
            "VERSION": __version__,
            "SAMPLES": str(len(messages)),
            "PARTITION": partition,
            "LOIHI_GEN": generation,
            "JOB": "snn2chip",
            "WINDOW": str(chain.window),
            "POWER": ""
            if chain.window == power_of_two(chain.window)
            else ", which is no power of two: the chip cannot reset at that interval; deploy again with `--window`",
            "NOTES": "\n".join(f"- {note}" for note in notes),
            "LAB_ONLY": "\n".join(f"| `{module}` | {', '.join(names)} |" for module, names in lab_only().items()),
            "MODEL_FILES": models,
        }
        for name in ("README.md", "submit.sh"):
            (part / name).write_text(_filled(TEMPLATES.joinpath(name).read_text(), values))
        for name in ("run.py", "submit.sh"):
            (part / name).chmod(0o755)
        files = sorted(str(path.relative_to(part)) for path in part.rglob("*") if path.is_file())
        (part / check.CHECKSUMS).write_text(check.sums(part, files))
        check_first(part)
    return Bundle(target, kind, (*files, check.CHECKSUMS), len(messages), notes)


def _check_target(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise UsageError(f"{target}: exists already; --force overwrites it")
    if not (target / "bundle.json").is_file() and any(target.iterdir() if target.is_dir() else [target]):
        raise UsageError(f"{target}: exists already and is no bundle; take another folder")


def _filled(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    return text


def _write_model(net: ChipNet | Circuit, part: Path, kind: Kind) -> str:
    """The model's files, and their lines in the README."""
    if kind == "netx":
        assert isinstance(net, ChipNet)
        netx.write(net, part / "model.net")
        return "| `model.net` | the network, NetX HDF5 |"
    whole = net if isinstance(net, Circuit) else Circuit(net)
    text, arrays = lava_module.source(whole, "The network as Lava processes.")
    (part / "network.py").write_text(text)
    np.savez_compressed(part / "network.npz", **arrays)
    return "| `network.py`, `network.npz` | the network as a plain Lava module, and its weights |"


def _steps(net: ChipNet, messages: Array) -> npt.NDArray[np.int32]:
    """Messages ``[N * W, *input_shape]``, silent after their last step."""
    out = np.zeros((len(messages), net.window, *net.input_shape), np.int32)
    out[:, : messages.shape[1]] = messages
    return out.reshape(-1, *net.input_shape)


def _summary(net: ChipNet | Circuit) -> str:
    chain = net.net if isinstance(net, Circuit) else net
    rows = ["| layer | type | shape |", "|---|---|---|"]
    rows += [
        f"| {layer.name} | {type(layer).__name__.lower()} | {' x '.join(map(str, layer.shape))} |"
        for layer in chain.layers
    ]
    if isinstance(net, Circuit):
        rows += ["", "Further synapses: " + "; ".join(edge.name for edge in net.edges) + "."]
    return "\n".join(rows)


def _notes(net: ChipNet | Circuit, messages: Array) -> tuple[str, ...]:
    chain = net.net if isinstance(net, Circuit) else net
    notes = list(chain.inexact)
    if chain.leaks or isinstance(net, Circuit):
        alone = simulated(net, messages, "isolated").predictions(chain)
        following = simulated(net, messages, "windowed").predictions(chain)
        notes.append(
            "Samples follow one another, and what is in flight crosses the reset: "
            f"{int((alone != following).sum())} of {len(messages)} predictions differ from those of samples alone."
        )
    if not chain.resettable:
        notes.append(
            "Sigma-delta and resonate-and-fire neurons have no reset: each sample starts where the last one ended."
        )
    if chain.exit is not None and chain.exit.form == "host":
        notes.append("The early exit's rule is applied outside of the chip (form host) and is not in this bundle.")
    return tuple(notes)


def lab_only() -> dict[str, list[str]]:
    """Names that no public package has, by module, as the bundle's ``lab.py`` lists them."""
    tree = ast.parse(TEMPLATES.joinpath("lab.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "LAB_ONLY":
            found: dict[str, list[str]] = ast.literal_eval(node.value)
            return found
    raise AssertionError("lab.py has no LAB_ONLY")


def prove(
    folder: str | os.PathLike[str],
    timeout: float = 600.0,
    arguments: tuple[str, ...] = (),
    name: str | os.PathLike[str] | None = None,
    scratch: Path | None = None,
) -> str:
    """Run a bundle in Lava's simulator, as its reader would; what it prints.

    Args:
        timeout: seconds that Lava may take.
        arguments: of ``run.py``.
        name: what errors call the bundle.
        scratch: where results go until they are looked at.

    Raises:
        CheckFailed: it does not do what is expected; the message names the layer.
        LavaMissing: Lava is not installed.
        LavaError: Lava failed or timed out.
    """
    run = Path(folder).absolute() / "run.py"
    try:
        results = tempfile.mkdtemp(prefix="snn2chip-bundle-", dir=scratch.resolve() if scratch else None)
    except OSError as error:
        raise EnvironmentFailure(f"Lava: no temporary folder ({error.strerror or error})") from error
    try:
        command = [
            lava.python(),
            "-I",
            "-B",
            "-c",
            _WITH_US,
            str(run),
            "--timeout",
            str(timeout),
            "--results",
            results,
            *arguments,
        ]
        code, printed, errors = _run(command, timeout + 60)
    except subprocess.TimeoutExpired as error:
        raise LavaError(f"{name or folder}: not finished after {timeout:g} s; give a longer time-out") from error
    finally:
        shutil.rmtree(results, ignore_errors=True)
    if code == EXIT_FAILED:
        differs = [line.strip("! ") for line in printed.splitlines() if line.startswith("!")]
        raise CheckFailed(f"{name or folder}: in Lava {'; '.join(differs[:2]) or 'the check failed'}")
    if code:
        lines = [line for line in errors.splitlines() if line.strip()] or [f"ended with code {code}"]
        raise LavaError(f"{name or folder}: {lava.readable(lines[-1]).removeprefix('error: ')}")
    return printed


#: Linux ends the process when the one that started it is gone: prctl(PR_SET_PDEATHSIG, SIGKILL).
_WITH_US = """
import ctypes, runpy, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _run(command: list[str], timeout: float) -> tuple[int, str, str]:
    """Exit code and what was printed; nothing that it started outlives it."""
    process: subprocess.Popen[str] | None = None
    try:
        with lava.interrupts_later():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
        printed, errors = process.communicate(timeout=timeout)
    except BaseException:
        if process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise
    return process.returncode, printed, errors


def widened(net: ChipNet, window: int | None) -> ChipNet:
    """``net`` with a window that the chip can reset at: a power of two.

    Raises:
        UsageError: ``window`` is shorter than a sample, or no power of two.
    """
    wanted = power_of_two(net.window) if window is None else window
    if wanted < net.time_steps or wanted != power_of_two(wanted):
        raise UsageError(
            f"--window {wanted}: has to be a power of two, as the chip's resets, and at least {net.time_steps} steps"
        )
    return replace(net, window=wanted)
