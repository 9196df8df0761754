"""Recorded traces against expected ones: needs numpy alone, and goes into every bundle.

Traces are arrays ``[samples, window, *shape]`` in layer time, shapes in the order C, H, W, in ``.npz`` files::

    spikes.<k>   of layer k: 0 and 1, or graded messages
    u.<k>, v.<k> current and membrane potential after each step, where they were recorded
    v_last.<k>   membrane potential after the last time step, [samples, *shape]
    u_mark.<k>, v_mark.<k>   one number for the states of all neurons, [samples, window]; see :func:`marks`

Known differences between the chip and the integer simulators are counted apart and named:

- the chip shows v = 128 after a spike, where simulators show 0; later steps are equal. Source: a trace recorded on
  Loihi 2, neuromorphs/NIR, paper/01_lif.
- a constant number of steps by which adapters delay what a layer is sent or seen to do (:func:`aligned`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CHECKSUMS = "SHA256SUMS"
#: What the chip shows as v after a spike.
V_AFTER_SPIKE = 128


@dataclass(frozen=True)
class Difference:
    """One variable of one layer.

    Attributes:
        layer: name.
        variable: ``spikes``, ``u``, ``v``, ``v_last``, ``u_mark`` or ``v_mark``.
        values: how many were compared.
        known: how many differ as known of the chip.
        unknown: how many differ otherwise.
        first: sample, step (None of ``v_last``) and neuron (not of marks) of the first unknown one, at the earliest
            step; empty where there is none.
        expected, found: both values there.
    """

    layer: str
    variable: str
    values: int
    known: int
    unknown: int
    first: tuple[Any, ...] = ()
    expected: int = 0
    found: int = 0

    def __str__(self) -> str:
        what = _WORDS.get(self.variable, self.variable)
        if self.unknown:
            sample, step, *neuron = self.first
            where = f"sample {sample}" + ("" if step is None else f", step {step}")
            if neuron:
                where += f", neuron ({', '.join(map(str, neuron))}): {self.found}, expected {self.expected}"
            return f"{self.layer}: {self.unknown:,} of {self.values:,} {what} differ, first in {where}"
        if self.known:
            return (
                f"{self.layer}: {self.variable} differs as known in {self.known:,} of {self.values:,} places "
                f"(v = {V_AFTER_SPIKE} after a spike on the chip, 0 in simulation), all others are equal"
            )
        return f"{self.layer}: {self.values:,} {what} equal"


_WORDS = {
    "v_last": "potentials at the last step",
    "u_mark": "steps' currents (all neurons)",
    "v_mark": "steps' potentials (all neurons)",
}


def marks(states: Array) -> Array:
    """One int64 for the states of all neurons at each step: ``[samples, window, *shape]`` to ``[samples, window]``.

    Neuron j counts ``(2 j + 1) * c`` times, an odd number, modulo 2^64: a change of one neuron always shows.
    """
    flat = np.ascontiguousarray(states).reshape(*states.shape[:2], -1).astype(np.int64)
    odd = (2 * np.arange(flat.shape[2], dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    out: Array = flat @ odd.view(np.int64)  # wraps
    return out


def compare(names: list[str], expected: Mapping[str, Array], found: Mapping[str, Array]) -> list[Difference]:
    """Compare all that was recorded, layer by layer in order, spikes before states.

    Args:
        names: of the layers.
        expected, found: traces by the names above; what was not recorded is left out.

    Raises:
        ValueError: nothing was recorded, or an array does not have the expected shape.
    """
    out = []
    for k, name in enumerate(names):
        for variable in ("spikes", "u", "v", "u_mark", "v_mark", "v_last"):
            key = f"{variable}.{k}"
            if key not in found or key not in expected:
                continue
            ours, theirs = np.asarray(expected[key]), np.asarray(found[key])
            if ours.shape != theirs.shape:
                raise ValueError(f"{name}: {variable} have shape {theirs.shape}, expected {ours.shape}")
            out.append(_difference(name, variable, ours, theirs, expected.get(f"spikes.{k}")))
    if not out:
        raise ValueError("nothing was recorded that could be compared")
    return out


def _difference(name: str, variable: str, ours: Array, theirs: Array, spikes: Array | None) -> Difference:
    differs = ours != theirs
    known = np.zeros_like(differs)
    if variable == "v" and spikes is not None:
        known = differs & (np.asarray(spikes) != 0) & (theirs == V_AFTER_SPIKE)
    unknown = differs & ~known
    count = int(unknown.sum())
    if not count:
        return Difference(name, variable, ours.size, int(known.sum()), 0)
    places = np.argwhere(unknown)
    stepped = variable != "v_last"
    place = tuple(int(i) for i in places[places[:, 1].argmin()] if stepped) or tuple(int(i) for i in places[0])
    first = place if stepped else (place[0], None, *place[1:])
    return Difference(name, variable, ours.size, int(known.sum()), count, first, int(ours[place]), int(theirs[place]))


def aligned(raw: Array, arrival: int, samples: int, window: int, expected: Array, slack: int) -> tuple[Array, int]:
    """The recording of a layer in layer time, and by how many steps it came late.

    The delay is the one with the fewest differences, 0 to ``slack``; the smallest of equals.

    Args:
        raw: ``[steps, *shape]``, step 1 of the chip first.
        arrival: chip step of the first layer step, without delay.
        expected: ``[samples, window, *shape]``.
    """
    best, fewest, late = None, -1, 0
    for shift in range(slack + 1):
        start = arrival - 1 + shift
        cut = raw[start : start + samples * window]
        if len(cut) < samples * window:
            break
        trace = cut.reshape(expected.shape)
        differing = int(np.count_nonzero(trace != expected))
        if best is None or differing < fewest:
            best, fewest, late = trace, differing, shift
    if best is None:
        raise ValueError(f"{len(raw)} steps were recorded, {arrival - 1 + samples * window} are needed")
    return best, late


def predictions(description: Mapping[str, Any], traces: Mapping[str, Array]) -> Array | None:
    """Class of each sample; None where the readout was not recorded. The lowest class wins a tie."""
    readout, steps = description["readout"], description["time_steps"]
    k = readout["layer"]
    if readout["kind"] == "potential":
        if f"v_last.{k}" in traces:
            scores = np.asarray(traces[f"v_last.{k}"])
        elif f"v.{k}" in traces:
            scores = np.asarray(traces[f"v.{k}"])[:, steps - 1]
        else:
            return None
    elif f"spikes.{k}" in traces:
        scores = np.asarray(traces[f"spikes.{k}"])[:, :steps].sum(1, dtype=np.int64)
    else:
        return None
    best: Array = scores.reshape(len(scores), -1)[:, : readout["classes"]].argmax(1)
    return best


def decisions(description: Mapping[str, Any], traces: Mapping[str, Array]) -> Array | None:
    """Class and step of each sample's early exit, ``[samples, 2]``, -1 where it never left; None without an exit."""
    rule = description["exit"]
    if rule is None or rule["layer"] is None or f"spikes.{rule['layer']}" not in traces:
        return None
    fires = np.asarray(traces[f"spikes.{rule['layer']}"])[:, : description["time_steps"]] != 0
    fires = fires.copy()
    fires[:, : rule["first_step"]] = False
    step = fires.any(2).argmax(1)
    label = fires[np.arange(len(fires)), step].argmax(1)
    out: Array = np.where(fires.any((1, 2))[:, None], np.stack([label, step], 1), -1)
    return out


def parameters(folder: Path, kind: str) -> dict[str, str]:
    """SHA-256 of each layer's parameters in a bundle, by the layer's name.

    Args:
        kind: ``netx``: of ``model.net``, which takes h5py; ``module``: of ``network.npz``.
    """
    found: dict[str, list[tuple[str, Array]]] = {}
    if kind == "module":
        with np.load(folder / "network.npz") as file:
            for key in file.files:
                found.setdefault(key.partition(".")[0], []).append((key, file[key]))
    else:
        import h5py

        with h5py.File(folder / "model.net", "r") as file:
            notes = json.loads(bytes(file["snn2chip/metadata"][()]).decode())["layers"]
            for note in notes:
                group, arrays = file[f"layer/{note['index']}"], found.setdefault(note["name"], [])
                group.visititems(lambda key, item, arrays=arrays: _keep(key, item, arrays))
    out = {}
    for name, arrays in found.items():
        digest = hashlib.sha256()
        for key, array in sorted(arrays, key=lambda pair: pair[0]):
            digest.update(f"{key} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        out[name] = digest.hexdigest()
    return out


def _keep(key: str, item: Any, arrays: list[tuple[str, Array]]) -> None:
    if hasattr(item, "dtype") and item.dtype.kind in "iufb":
        arrays.append((key, np.asarray(item[()])))


def sums(folder: Path, names: list[str]) -> str:
    """Lines of ``SHA256SUMS``, as ``sha256sum -c`` reads them."""
    return "".join(f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in sorted(names))


def changed(folder: Path) -> list[str]:
    """Files of a bundle that are missing or not what they were."""
    out = []
    for line in (folder / CHECKSUMS).read_text().splitlines():
        digest, name = line.split("  ", 1)
        file = folder / name
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            out.append(name)
    return out
