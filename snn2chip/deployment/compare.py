"""What came back from the lab against the simulators, layer by layer, and measurements beside the energy model."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip._version import newer
from snn2chip.chip import ChipNet
from snn2chip.data import read_npz
from snn2chip.deployment import check
from snn2chip.errors import InputError
from snn2chip.formats import read
from snn2chip.hardware import Board, Estimate, Figure, estimate, place, target_of
from snn2chip.simulators import event
from snn2chip.traces import Record, Traces

Array = npt.NDArray[Any]

#: Of ``bundle.json``.
FORMAT = 1

PROFILES = ("profile.npz", "profile.csv")


@dataclass(frozen=True)
class Comparison:
    """Of one run.

    Attributes:
        differences: of each layer and variable that was recorded, in order.
        samples: how many came back.
        mode: of the run: hardware, simulation or rehearsal; empty where the results do not say.
        late: steps by which recordings came late, by what was recorded.
        expected_agrees: whether the bundle's ``expected.npz`` is what the simulator says today; None where the network
            is a Lava module, so that ``expected.npz`` is what is compared with.
        predictions: how many are as expected; None where the readout was not recorded.
        accuracy: share of right predictions; None without classes.
        decisions: how many early exits are as expected; None without.
    """

    differences: tuple[check.Difference, ...]
    samples: int
    mode: str
    late: Mapping[str, int]
    expected_agrees: bool | None
    predictions: int | None
    accuracy: float | None
    decisions: int | None

    @property
    def equal(self) -> bool:
        """Whether nothing differs but what is known to."""
        return not any(difference.unknown for difference in self.differences) and self.decisions in (None, self.samples)

    @property
    def known(self) -> int:
        """Values that differ as known."""
        return sum(difference.known for difference in self.differences)


@dataclass(frozen=True)
class Measured:
    """What the lab's callbacks measured, of one sample; None where it was not.

    Attributes:
        steps: of one sample.
        step_time: mean, s.
        power: mean total power of the board, W; ``static`` of it without activity.
        chips: chips on the board that power is of; 0 where it is not known.
    """

    steps: int
    step_time: float | None
    power: float | None
    static: float | None
    chips: int

    @property
    def sample_time(self) -> float | None:
        """Of one window, s."""
        return None if self.step_time is None else self.steps * self.step_time

    @property
    def dynamic(self) -> float | None:
        """Energy of one window beyond the static, J."""
        if self.power is None or self.static is None or self.sample_time is None:
            return None
        return (self.power - self.static) * self.sample_time

    def static_energy(self, used: int) -> float | None:
        """Static energy of one window, J: of the chips that are used; of all where their number is not known."""
        if self.static is None or self.sample_time is None:
            return None
        share = used / self.chips if self.chips else 1.0
        return self.static * share * self.sample_time


@dataclass(frozen=True)
class Row:
    """A measured quantity beside the modelled one, both in ``unit``."""

    name: str
    measured: float | None
    modelled: Figure

    @property
    def ratio(self) -> float | None:
        """Measured over modelled."""
        return None if self.measured is None or not self.modelled.mid else self.measured / self.modelled.mid


def arrays(path: Path) -> dict[str, Array]:
    """Numbers of an ``.npz``, which is not trusted.

    Raises:
        InputError: it cannot be read, or holds anything else.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    return read_npz(path)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object")
    return content


@dataclass(frozen=True)
class Folder:
    """A bundle and results of it.

    Attributes:
        bundle, results: folders.
        description: ``bundle.json``.
        net: the network; None where it is a Lava module.
    """

    bundle: Path
    results: Path
    description: dict[str, Any]
    net: ChipNet | None


def opened(results: Path, bundle: Path | None = None) -> Folder:
    """Results and the bundle that they belong to: by default the folder that they lie in.

    Raises:
        InputError: there is no bundle, or its files cannot be read.
    """
    bundle = bundle or (results if (results / "bundle.json").is_file() else results.absolute().parent)
    if not (bundle / "bundle.json").is_file():
        raise InputError(f"{bundle}: is no bundle (no bundle.json); name it with --bundle")
    if results == bundle:
        results = bundle / "results"
    description = _json(bundle / "bundle.json")
    version = description.get("format")
    if type(version) is int and version > FORMAT:
        raise InputError(f"{bundle / 'bundle.json'}: {newer(version, FORMAT, description.get('needs'))}")
    net = read(bundle / "model.net") if description.get("kind") == "netx" else None
    return Folder(bundle, results, description, net)


def compared(folder: Folder) -> Comparison:
    """Traces that came back against the event simulator; of a Lava module, against what the bundle expects.

    Raises:
        InputError: files are missing, or are not of this network.
    """
    description = folder.description
    found = arrays(folder.results / "traces.npz")
    expected = arrays(folder.bundle / "expected.npz")
    facts = _json(folder.results / "run.json") if (folder.results / "run.json").exists() else {}
    samples = min((len(array) for array in found.values() if array.ndim), default=0)
    if not 0 < samples <= len(expected["predictions"]):
        raise InputError(f"{folder.results}: {samples} samples, the bundle has {len(expected['predictions'])}")
    expected = {key: array[:samples] for key, array in expected.items()}
    agrees = None
    wanted: Mapping[str, Array] = expected
    if folder.net is not None:
        wanted = _states(folder.net, _simulated(folder, folder.net, samples), description)
        agrees = all(np.array_equal(wanted[key], array) for key, array in expected.items() if "." in key)
    names = [layer["name"] for layer in description["layers"]]
    try:
        differences = tuple(check.compare(names, wanted, found))
    except ValueError as error:
        raise InputError(f"{folder.results / 'traces.npz'}: {error}") from error
    predicted, decided = check.predictions(description, found), check.decisions(description, found)
    labels = expected.get("labels")
    right = None if predicted is None or labels is None else float((predicted == labels).mean())
    return Comparison(
        differences,
        samples,
        str(facts.get("mode", "")),
        {str(name): int(steps) for name, steps in facts.get("late", {}).items() if steps},
        agrees,
        None if predicted is None else int((predicted == expected["predictions"]).sum()),
        right,
        None if decided is None else int((decided == expected["decisions"]).all(1).sum()),
    )


def _simulated(folder: Folder, net: ChipNet, samples: int | None = None) -> Traces:
    messages = arrays(folder.bundle / "inputs.npz")["messages"].reshape(-1, net.window, *net.input_shape)
    traces: Traces = event.run(net, messages[:samples], "windowed", Record.everything(net))
    return traces


def _states(net: ChipNet, traces: Traces, description: Mapping[str, Any]) -> dict[str, Array]:
    out: dict[str, Array] = {}
    for k, layer in enumerate(net.layers):
        out[f"spikes.{k}"] = traces.spikes[layer.name]
        out[f"u.{k}"], out[f"v.{k}"] = traces.u[layer.name], traces.v[layer.name]
        out[f"u_mark.{k}"], out[f"v_mark.{k}"] = check.marks(traces.u[layer.name]), check.marks(traces.v[layer.name])
        out[f"v_last.{k}"] = traces.v[layer.name][:, description["time_steps"] - 1]
    return out


def profile(path: Path) -> dict[str, Array]:
    """What the callbacks measured, by names such as ``power.total_power`` (W) and ``time.time_per_step`` (us).

    Args:
        path: ``.npz``, or ``.csv`` with the names in its first line and columns of any length.

    Raises:
        InputError: it cannot be read.
    """
    if path.suffix != ".csv":
        return arrays(path)
    try:
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
        columns = {
            name.strip(): np.array([float(row[i]) for row in rows[1:] if i < len(row) and row[i].strip()])
            for i, name in enumerate(rows[0] if rows else [])
        }
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as CSV ({error})") from error
    return columns


def measured(values: Mapping[str, Array], steps: int, board: Board | None = None) -> Measured:
    """Means of what was measured over the run.

    Args:
        steps: of one sample's window.
        board: that power was measured on.

    Raises:
        InputError: there is neither power nor time, or a value is not a positive number.
    """

    def mean(*names: str) -> float | None:
        for name in names:
            array = np.asarray(values.get(name, ()), np.float64)
            if array.size:
                value = float(array.mean())
                if not (np.isfinite(value) and value > 0):
                    raise InputError(f"profile: {name} has the mean {value}, expected a positive number")
                return value
        return None

    microseconds = mean("time.avg_time_per_step", "time.time_per_step")
    power, static = mean("power.total_power"), mean("power.static_total_power")
    if microseconds is None and power is None:
        known = "time.avg_time_per_step, time.time_per_step, power.total_power"
        raise InputError(f"profile: no time or power; expected {known}, has {', '.join(values) or 'nothing'}")
    return Measured(
        steps, None if microseconds is None else microseconds * 1e-6, power, static, board.chips if board else 0
    )


def beside_model(folder: Folder, found: Measured) -> tuple[list[Row], Estimate]:
    """Measurements and the energy model of the same samples.

    Raises:
        InputError: the network is a Lava module, which the model does not know.
    """
    net = folder.net
    if net is None:
        raise InputError(f"{folder.bundle}: the energy model knows chains of layers, this is a Lava module")
    placement = place(net, target_of(net.target))
    modelled = estimate(net, placement, _simulated(folder, net), int(folder.description["samples"]))
    used = placement.chips
    static = found.static_energy(used)
    total = None if static is None or found.dynamic is None else static + found.dynamic
    rows = [
        Row("time of a step", found.step_time, modelled.step_time),
        Row("time of a sample", found.sample_time, modelled.sample_time),
        Row("dynamic energy of a sample", found.dynamic, modelled.dynamic),
        Row("static energy of a sample", static, modelled.static),
        Row("energy of a sample", total, modelled.total),
    ]
    return rows, modelled
