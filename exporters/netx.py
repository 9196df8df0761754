"""NetX HDF5 (``.net``): what Lava's ``lava.lib.dl.netx.hdf5.Network`` and Loihi deployments load.

Layout, as the loader of lava-dl 0.6.0 reads it::

    /layer/<0..n-1>/type     "input" | "dense" | "dense_rec" | "conv" | "flatten"
                   /shape    (C, H, W) or (N,)
                   /weight   dense (N, M); conv (C_out, C_in / groups, kH, kW)        int16
                   /weight/real, /weight/imag   dense with complex weights (N, M)     int16
                   /weight_rec   dense_rec (N, N)                                     int16
                   /bias     (N,), (C,) or, per neuron of a convolution, (W, H, C)    int32, absent where zero
                   /delay    dense (N, M)                                             int32, absent where None
                   /stride, /padding, /dilation   (H, W);  /groups   conv             int32
                   /neuron/type "CUBA", /vThMant, /iDecay, /vDecay                    int32, () or one per neuron
                               "SDNN", /vThMant                                       int32; of a decoder /sigma_output
                               "RF_PHASE" or "RF", /vThMant, /sinDecay, /cosDecay     int32, float64
    /snn2chip/format, /needs       its version, and the oldest snn2chip that reads it
             /metadata             names, encoding, readout, times: JSON that the loader ignores

The loader holds images in the order W, H, C, so that arrays with one entry per neuron are stored transposed. A
convolution of more than 127 groups is stored with fewer, wider groups whose added weights are zero (Lava holds
``groups`` in eight bits); the metadata keep the number, and :func:`read` undoes it. ``sinDecay`` and ``cosDecay`` are
stored half a unit further from zero than they are meant: the loader turns them into an angle and back, and truncates.
The loader takes the binary places of graded messages as its argument ``spike_exp``; the metadata keep them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip import limits
from snn2chip._version import NEEDS, newer
from snn2chip.archive import shown
from snn2chip.chip import (
    AnyNeuron,
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    Exit,
    InputNeurons,
    Layer,
    Neuron,
    Readout,
    Resonator,
    Shape,
    Sigma,
    SigmaDelta,
)
from snn2chip.errors import LimitError, UnsupportedError, UsageError
from snn2chip.exporters.netx_loader import SAFE_WEIGHTS, loader_rotation, loader_weights
from snn2chip.files import write_whole
from snn2chip.guarded import Entry
from snn2chip.hdf5 import MAX_ELEMENTS, Group, Tree, image, opened

Int = npt.NDArray[np.int64]

FORMAT = 1
INT8_MAX = 127  # Lava's Conv holds its geometry in int8

# Reading: no honest network is larger, and a file may claim anything.
MAX_LAYERS = 4096
MAX_TEXT = 1 << 24
MAX_NAME = 500
MAX_STEPS = 1 << 24

SUPPORTED = ("input", "dense", "dense_rec", "conv", "flatten")
NOT_YET = ("pool", "convT", "unpool", "average", "concat", "dense_comp")


# Writing


def write(
    net: ChipNet, path: str | os.PathLike[str], force: bool = False, measured: Mapping[str, Any] | None = None
) -> None:
    """Write ``net`` so that Lava computes exactly what it says; the same network gives the same bytes.

    Args:
        measured: what was measured of it, for people and :func:`read_measured`: plain values that JSON holds.

    Raises:
        LimitError: the loader would change or refuse a value.
        UnsupportedError: NetX has no form for it.
        UsageError: ``path`` exists and ``force`` is not given.
    """
    layers, notes = _trees(net)
    metadata = {
        "layers": notes,
        "encoding": {
            "kind": net.encoding.kind,
            "scale": net.encoding.scale,
            "low": net.encoding.low,
            "high": net.encoding.high,
            "spread": net.encoding.spread,
            "step": net.encoding.step,
            "offset": net.encoding.offset,
        },
        "readout": net.readout.kind,
        "time_steps": net.time_steps,
        "window": net.window,
        "target": net.target,
        "inexact": list(net.inexact),
    }
    if net.spike_exp != limits.SPIKE_EXPONENT:
        metadata["spike_exp"] = net.spike_exp
    if net.exit is not None:
        metadata["exit"] = asdict(net.exit)
    if measured is not None:
        metadata["measured"] = dict(measured)
    tree = {
        "layer": {str(i): layer for i, layer in enumerate(layers)},
        "snn2chip": {
            "format": np.int32(FORMAT),
            "needs": np.bytes_(NEEDS),
            "metadata": np.bytes_(json.dumps(metadata, sort_keys=True)),
        },
    }
    write_whole(path, image(tree), force)


def _trees(net: ChipNet) -> tuple[list[Tree], list[dict[str, Any]]]:
    """The groups under ``/layer``, and for each layer of ``net`` what only the metadata can say."""
    first = net.layers[0]
    if len(net.input_shape) > 3:
        raise UnsupportedError(f"{first.name}: input of shape {net.input_shape}; NetX holds one to three axes")
    trees: list[Tree] = []
    if not isinstance(first, InputNeurons):
        trees.append({"type": np.bytes_("input"), "shape": _ints(net.input_shape)})
    notes = []
    for layer in net.layers:
        if isinstance(layer, Dense) and len(layer.input_shape) > 1:
            if layer is not first and len(layer.input_shape) != 3:
                raise UnsupportedError(
                    f"{layer.name}: input of shape {layer.input_shape}; NetX flattens (C, H, W) only"
                )
            trees.append({"type": np.bytes_("flatten"), "shape": _ints([int(np.prod(layer.input_shape))])})
        note: dict[str, Any] = {"name": layer.name, "index": len(trees)}
        trees.append(_tree(layer, note))
        notes.append(note)
    return trees, notes


def _tree(layer: Layer, note: dict[str, Any]) -> Tree:
    tree: dict[str, Any] = {"shape": _ints(layer.shape), "neuron": _neuron_tree(layer.neuron, layer.shape)}
    bias = layer.neuron.bias if isinstance(layer.neuron, Neuron | SigmaDelta) else np.zeros((), np.int32)
    if isinstance(layer, InputNeurons):
        if bias.any():
            worst = int(bias.flat[np.abs(bias).argmax()])
            remedy = "the NetX loader never applies it; add it to the messages"
            raise LimitError(layer.name, "bias of input neurons", worst, 0, remedy)
        if bias.ndim:
            note["zero_bias"] = bias.ndim  # NetX has no place for it
        return {"type": np.bytes_("input"), **tree}
    if bias.ndim or bias:
        if not bias.ndim:
            note["one_bias"] = True
            bias = np.full(layer.shape[:1], bias)
        tree["bias"] = _transposed(bias.astype(np.int32))
    if isinstance(layer, Dense):
        _check_dense(layer)
        tree["weight"] = layer.weight.astype(np.int16)
        if layer.imaginary is not None:
            tree["weight"] = {"real": tree["weight"], "imag": layer.imaginary.astype(np.int16)}
        if layer.delay is not None:
            tree["delay"] = layer.delay
        if layer.recurrent is None:
            return {"type": np.bytes_("dense"), **tree}
        return {"type": np.bytes_("dense_rec"), **tree, "weight_rec": layer.recurrent.astype(np.int16)}
    weight, groups = merged_groups(layer.name, layer.weight, layer.groups)
    if groups != layer.groups:
        note["groups"] = layer.groups
    for what, values in (
        ("kernel size", layer.weight.shape[2:]),
        ("stride", layer.stride),
        ("padding", layer.padding),
        ("dilation", layer.dilation),
    ):
        if max(values) > INT8_MAX:
            raise LimitError(layer.name, what, max(values), INT8_MAX, "Lava holds it in eight bits; use a dense layer")
    return {
        "type": np.bytes_("conv"),
        **tree,
        "weight": weight.astype(np.int16),
        "stride": _ints(layer.stride),
        "padding": _ints(layer.padding),
        "dilation": _ints(layer.dilation),
        "groups": np.int32(groups),
    }


def _neuron_tree(neuron: AnyNeuron, shape: Shape) -> Tree:
    if isinstance(neuron, Sigma):
        return {"type": np.bytes_("SDNN"), "vThMant": np.int32(0), "sigma_output": np.bool_(True)}
    if isinstance(neuron, Delta | SigmaDelta):
        return {"type": np.bytes_("SDNN"), "vThMant": neuron.threshold.astype(np.int32)}
    if isinstance(neuron, Resonator):
        rotation = {"sinDecay": neuron.sine, "cosDecay": neuron.cosine}
        return {
            "type": np.bytes_("RF_PHASE" if neuron.phase else "RF"),
            "vThMant": neuron.threshold.astype(np.int32),
            **{name: part + np.where(part < 0, -0.5, 0.5) for name, part in rotation.items()},
        }
    return {
        "type": np.bytes_("CUBA"),
        "vThMant": _transposed(neuron.threshold.astype(np.int32)),
        "iDecay": _transposed(neuron.current_decay.astype(np.int32)),  # signed: the loader stores iDecay - 1
        "vDecay": _transposed(neuron.voltage_decay.astype(np.int32)),
    }


def _ints(values: Iterable[int]) -> npt.NDArray[np.int32]:
    return np.array(list(values), np.int32)


def _transposed(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Images from C, H, W to W, H, C or back; one number or one axis as it is."""
    return array.T.copy()


def _check_dense(layer: Dense) -> None:
    """Raise :class:`LimitError` unless what Lava makes of the weights is what they are."""
    remedy = "change the scale, or keep one small positive weight"
    try:
        effective = loader_weights(layer.weight, layer.recurrent)
        imaginary = None if layer.imaginary is None else loader_weights(layer.imaginary)[0]
    except OverflowError:
        what, remedy = "largest |weight|", "the NetX loader fails on it; keep one weight, or remove the layer"
        raise LimitError(layer.name, what, 0, "at least 1", remedy) from None
    matrices = (layer.weight, layer.recurrent, layer.imaginary)
    names = ("weight", "recurrent weight", "imaginary weight")
    for what, wanted, found in zip(names, matrices, (*effective, imaginary), strict=True):
        if wanted is not None and found is not None and (wanted != found).any():
            i, j = (int(index) for index in np.argwhere(wanted != found)[0])
            value = f"{wanted[i, j]}, which the NetX loader turns into {found[i, j]:g}"
            raise LimitError(layer.name, f"{what}[{i}, {j}]", value, SAFE_WEIGHTS, remedy)


def merged_groups(name: str, weight: npt.NDArray[Any], groups: int) -> tuple[npt.NDArray[Any], int]:
    """An equal convolution of at most 127 groups: neighbours merged, weights between them zero.

    ::

        groups 4, merged by 2:   [w0] [w1] [w2] [w3]   ->   [w0  0 ]  [w2  0 ]
                                                            [ 0  w1]  [ 0  w3]
    """
    legal = max(n for n in range(1, limits.CONV_GROUPS_MAX + 1) if groups % n == 0)
    merge = groups // legal
    if merge == 1:
        return weight, groups
    if weight.size * merge > MAX_ELEMENTS:
        remedy = f"with Lava's {limits.CONV_GROUPS_MAX} groups the weights are too many; use another number of channels"
        raise LimitError(name, "groups", groups, limits.CONV_GROUPS_MAX, remedy)
    channels, per_group = weight.shape[:2]
    out = np.zeros((legal, merge, channels // groups, merge, per_group, *weight.shape[2:]), weight.dtype)
    blocks = weight.reshape(legal, merge, channels // groups, per_group, *weight.shape[2:])
    for k in range(merge):
        out[:, k, :, k] = blocks[:, k]
    return out.reshape(channels, merge * per_group, *weight.shape[2:]), legal


def _unmerged_groups(weight: Int, groups: int, wanted: int) -> Int | None:
    """The inverse of :func:`merged_groups`; None where the weights are not of that form."""
    channels, wide = weight.shape[:2]
    if wanted % groups or channels % wanted or wide % (wanted // groups):
        return None
    merge = wanted // groups
    blocks = weight.reshape(groups, merge, channels // wanted, merge, wide // merge, *weight.shape[2:])
    narrow = np.stack([blocks[:, k, :, k] for k in range(merge)], axis=1).reshape(
        channels, wide // merge, *weight.shape[2:]
    )
    return narrow if np.count_nonzero(narrow) == np.count_nonzero(weight) else None


# Reading


def read(path: str | os.PathLike[str], num_layers: int | None = None) -> ChipNet:
    """The network in a ``.net`` file, as Lava would run it.

    Files of other origin get names such as ``layer 3 (conv)``, spikes as input (graded where the first layer is a
    sigma-delta encoder), one time step, and in ``inexact`` what the loader ignores or changes. The file is not trusted:
    it is not followed to other files, and what it declares is checked before it is read.

    Args:
        num_layers: read only so many entries of ``/layer``, as the loader's argument of that name; it lets one leave
            out a last layer that NetX cannot load.

    Raises:
        InputError: the file is missing, malformed, or tries something it must not.
        UnsupportedError: valid NetX that a ChipNet does not hold.
    """
    with opened(path) as root:
        return _network(_Node.of(root), num_layers)


def read_measured(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`write` was given as ``measured``; empty where nothing was. The values are not checked.

    Raises:
        InputError: as :func:`read`.
    """
    with opened(path) as root:
        node = _Node.of(root)
        found = _metadata(node)[1].get("measured", {}) if "snn2chip" in node else {}
        return found if isinstance(found, dict) else {}


class _Node(Group):
    """A group of the file, with the numbers that NetX has."""

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """Finite numbers within int32, of any type."""
        array = self.values(name, "iufb", "integers")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise self.fail(f"{name} contains NaN or infinite values")
        low, high = array.min().item(), array.max().item()  # numpy compares halves as halves
        if low < -(2**31) or high >= 2**31:
            raise self.fail(f"{name} contains {low if low < -(2**31) else high}, beyond 32 bits")
        return array

    def integers(self, name: str) -> Int:
        array = self.numbers(name)
        whole = array.astype(np.int64)
        if (whole != array).any():
            raise self.fail(f"{name} contains {array[whole != array].flat[0]:g}, expected integers")
        return whole

    def truncated(self, name: str, inexact: list[str], label: str) -> Int:
        """Integers as the loader's ``astype(int)`` makes them."""
        array = self.numbers(name)
        whole = array.astype(np.int64)
        changed = whole != array
        if changed.any():
            example = array[changed].flat[0]
            inexact.append(
                f"{label}: the NetX loader cuts {int(changed.sum())} of {array.size} values of {name} to integers, "
                f"such as {example:g} to {int(example)}"
            )
        return whole

    def one(self, name: str) -> int:
        array = self.integers(name)
        if array.size != 1:
            raise self.fail(f"{name} has shape {array.shape}, expected one value")
        return int(array.flat[0])

    def shape(self) -> Shape:
        values = self.integers("shape")
        if values.ndim > 1 or values.size > 3 or values.min() < 1:
            raise self.fail(f"shape is {values.flatten()[:8].tolist()}, expected one to three positive sizes")
        shape = tuple(int(n) for n in values.flat)
        if np.prod(np.array(shape, np.float64)) > MAX_ELEMENTS:
            raise self.fail(f"shape is {shape}, more neurons than any network has")
        return shape


@dataclass
class _Progress:
    """The chain as far as it has been read."""

    layers: list[Layer] = field(default_factory=list)
    input_shape: Shape | None = None
    flatten: bool = False
    spike_exp: int = limits.SPIKE_EXPONENT
    inexact: list[str] = field(default_factory=list)

    @property
    def shape(self) -> Shape | None:
        return self.layers[-1].shape if self.layers else self.input_shape


def _network(root: _Node, num_layers: int | None) -> ChipNet:
    notes, metadata = _metadata(root) if "snn2chip" in root else ({}, None)
    chain = root.child("layer")
    count = len(chain.entries)
    if not 1 <= count <= MAX_LAYERS:
        raise chain.fail(f"{count} layers, expected 1 to {MAX_LAYERS}")
    if num_layers is not None:
        if num_layers < 1:
            raise UsageError(f"num_layers is {num_layers}, expected at least 1")
        count = min(count, num_layers)
        notes = {i: note for i, note in notes.items() if i < count}
    progress = _Progress(spike_exp=_spike_exp(root, metadata))
    for i in range(count):
        node = chain.child(str(i), f"layer {i}")
        node = _Node.of(node, f"{root.where}: layer {i}")
        kind = node.text("type")
        if kind in NOT_YET:
            raise node.unsupported(f"type {kind!r} cannot be read yet, only {', '.join(SUPPORTED)}")
        if kind not in SUPPORTED:
            raise node.fail(f"type {kind!r} is unknown, expected {', '.join(SUPPORTED)}")
        if metadata is not None and kind != "flatten" and (kind != "input" or "neuron" in node) and i not in notes:
            raise root.fail(f"snn2chip: metadata say nothing about layer {i}")
        _READERS[kind](node, progress, kind, notes.get(i, {"name": f"layer {i} ({kind})"}))
    if not progress.layers or progress.input_shape is None:
        raise chain.fail("no layer computes anything")
    if len(notes) not in (0, len(progress.layers)):
        raise root.fail("snn2chip: metadata name layers that are not there")
    if metadata is None:
        first, last = progress.layers[0].neuron, progress.layers[-1].neuron
        widest = (1 << (limits.MESSAGE_BITS_MAX - 1)) - 1
        return ChipNet(
            progress.input_shape,
            tuple(progress.layers),
            Encoding("graded", 1.0, -widest, widest) if isinstance(first, Delta) else Encoding(),
            Readout("potential" if isinstance(last, Sigma) else "count"),
            inexact=tuple(progress.inexact),
        )
    return ChipNet(progress.input_shape, tuple(progress.layers), **_settings(root, metadata, progress.inexact))


def _metadata(root: _Node) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """What :func:`write` knew of each layer, by index under ``/layer``, and of the network."""
    node = root.child("snn2chip")
    version = node.one("format")
    if version > FORMAT:
        raise node.fail(newer(version, FORMAT, node.text("needs") if "needs" in node else None))
    if version < 1:
        raise node.fail(f"format {version} is unknown")
    try:
        metadata = json.loads(node.text("metadata", MAX_TEXT))
        notes = {_typed(note["index"], int): note for note in metadata["layers"]}
        for note in notes.values():
            if not _typed(note["name"], str).isprintable() or len(note["name"]) > MAX_NAME:
                raise ValueError(f"layer name {shown(note['name'])!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise node.fail(f"metadata are malformed ({type(error).__name__}: {error})") from None
    return notes, metadata


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind and not (kind is float and type(value) is int):
        raise TypeError(f"{value!r} is not {kind.__name__}")
    return value


def _spike_exp(root: _Node, metadata: Mapping[str, Any] | None) -> int:
    value = limits.SPIKE_EXPONENT if metadata is None else metadata.get("spike_exp", limits.SPIKE_EXPONENT)
    if type(value) is not int:
        raise root.fail(f"snn2chip: metadata are malformed (spike_exp is {str(value)[:20]!r})")
    return value


def _settings(root: _Node, metadata: Mapping[str, Any], inexact: list[str]) -> dict[str, Any]:
    try:
        encoding = metadata["encoding"]
        return {
            "encoding": Encoding(
                encoding["kind"],
                float(_typed(encoding["scale"], float)),
                _typed(encoding["low"], int),
                _typed(encoding["high"], int),
                _typed(encoding.get("spread", False), bool),
                _typed(encoding.get("step", 1), int),
                _typed(encoding.get("offset", 0), int),
            ),
            "readout": Readout(metadata["readout"]),
            "time_steps": _steps(metadata["time_steps"]),
            "window": _steps(metadata["window"]),
            "target": _typed(metadata["target"], str),
            "inexact": (*(_typed(line, str) for line in _typed(metadata["inexact"], list)), *inexact),
            "exit": _exit(metadata["exit"]) if "exit" in metadata else None,
        }
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise root.fail(f"snn2chip: metadata are malformed ({type(error).__name__}: {error})") from None


def _steps(value: Any) -> int:
    if _typed(value, int) > MAX_STEPS:
        raise ValueError(f"{shown(value)} time steps, limit {MAX_STEPS}")
    return int(value)


def _exit(content: Mapping[str, Any]) -> Exit:
    """The early exit; raises what malformed metadata give."""

    def integers(name: str) -> tuple[int, ...]:
        return tuple(_typed(value, int) for value in _typed(content[name], list))

    numerator, denominator = integers("scale")
    if not _typed(content["readout"], str).isprintable():
        raise TypeError("readout of the exit")
    return Exit(
        content["policy"],
        content["form"],
        integers("thresholds"),
        content["readout"],
        _typed(content["classes"], int),
        _typed(content["rival"], int),
        _typed(content["clocks"], int),
        (numerator, denominator),
        tuple((_typed(name, str), float(_typed(value, float))) for name, value in _typed(content["calibration"], list)),
    )


def _read_input(node: _Node, progress: _Progress, kind: str, note: Mapping[str, Any]) -> None:
    if progress.layers or progress.input_shape is not None:
        raise node.fail("a second input layer")
    progress.input_shape = node.shape()
    if "neuron" not in node:
        return
    name = note["name"]
    stored = {what: node.numbers(what).flat[0] for what in ("weight", "bias") if what in node}
    if stored:
        values = ", ".join(f"{what} {value:g}" for what, value in stored.items())
        progress.inexact.append(
            f"{name}: the NetX loader never applies the input layer's {values}; scale and shift the data instead"
        )
    axes = note.get("zero_bias", 0)
    bias = np.zeros(progress.input_shape[:axes] if axes in (1, 2, 3) else (), np.int64)
    neuron = _read_neuron(node, name, progress.input_shape, bias, progress, kind)
    progress.layers.append(InputNeurons(name, progress.input_shape, neuron))


def _read_flatten(node: _Node, progress: _Progress, kind: str, note: Mapping[str, Any]) -> None:
    if progress.layers and len(progress.layers[-1].shape) != 3:
        raise node.fail(f"flatten of shape {progress.layers[-1].shape}, the loader flattens (C, H, W) only")
    progress.flatten = True


def _read_dense(node: _Node, progress: _Progress, kind: str, note: Mapping[str, Any]) -> None:
    name = note["name"]
    neurons = int(np.prod(node.shape()))
    imaginary: Int | None = None
    if node.is_group("weight"):
        if kind == "dense_rec":
            raise node.unsupported("complex weights in a recurrent layer; the NetX loader ignores its weight_rec")
        parts = node.child("weight")
        if "imag" not in parts:
            raise parts.fail("imag is missing")
        weight, imaginary = (_matrix(parts, part, neurons, progress, name) for part in ("real", "imag"))
        if weight.shape != imaginary.shape:
            raise parts.fail(f"real has shape {weight.shape}, imag {imaginary.shape}")
        for ignored in ("bias", "delay"):
            if ignored in node:
                progress.inexact.append(f"{name}: the NetX loader ignores the {ignored} of a layer of complex weights")
    else:
        weight = _matrix(node, "weight", neurons, progress, name)
    recurrent = _matrix(node, "weight_rec", neurons, progress, name) if kind == "dense_rec" else None
    if progress.shape is not None and len(progress.shape) > 1 and progress.layers and not progress.flatten:
        raise node.fail(f"dense after shape {progress.shape} needs a flatten layer between them")
    progress.flatten = False
    if progress.input_shape is None:
        progress.input_shape = weight.shape[1:]
    input_shape = progress.shape or progress.input_shape
    if int(np.prod(input_shape)) != weight.shape[1]:
        raise node.fail(f"weight has shape {weight.shape}, expected {weight.shape[1:]} to be {input_shape}")
    if recurrent is not None and recurrent.shape != (neurons, neurons):
        raise node.fail(f"weight_rec has shape {recurrent.shape}, expected {(neurons, neurons)}")
    effective, effective_recurrent = _as_loaded(node, name, weight, recurrent, progress)
    if imaginary is not None:
        second, _ = _as_loaded(node, name, imaginary, None, progress)
        resonator = _read_neuron(node, name, (neurons,), np.zeros((), np.int64), progress, "complex")
        progress.layers.append(Dense(name, input_shape, effective, resonator, imaginary=second))
        return
    delay = _read_delay(node, name, weight.shape, kind, progress)
    bias = _read_bias(node, name, (neurons,), note, progress)
    neuron = _read_neuron(node, name, (neurons,), bias, progress, kind)
    progress.layers.append(Dense(name, input_shape, effective, neuron, effective_recurrent, delay))


def _read_delay(node: _Node, name: str, shape: Shape, kind: str, progress: _Progress) -> npt.NDArray[np.int32] | None:
    """Delays of each synapse, as the loader makes them of one number, or one per neuron, input or synapse."""
    if "delay" not in node:
        return None
    if kind == "dense_rec":
        raise node.unsupported("delay in a recurrent layer; the NetX loader loses its weight exponent there")
    stored = node.numbers("delay")
    if stored.min() < 0:
        raise node.fail(f"delay contains {stored.min():g}, Lava takes none below 0")
    if stored.max() > limits.DELAY_MAX:
        progress.inexact.append(f"{name}: the NetX loader cuts delays of up to {stored.max():g} to {limits.DELAY_MAX}")
    delay = stored.clip(0, limits.DELAY_MAX)
    whole = delay.astype(np.int32)
    if (whole != delay).any():
        example = delay[whole != delay].flat[0]
        progress.inexact.append(
            f"{name}: the NetX loader cuts delays to integers, such as {example:g} to {int(example)}"
        )
    if whole.shape == (shape[0],):  # the loader, too, looks for one per neuron first
        whole = whole[:, None]
    elif whole.shape not in ((), (shape[1],), shape):
        raise node.fail(f"delay has shape {whole.shape}, expected (), {shape[:1]}, {shape[1:]} or {shape}")
    return np.broadcast_to(whole, shape)


def _matrix(node: _Node, what: str, neurons: int, progress: _Progress, name: str) -> Int:
    weight = node.truncated(what, progress.inexact, name)
    if weight.ndim == 1 and weight.size % neurons == 0:
        weight = weight.reshape(neurons, -1)
    if weight.ndim != 2 or len(weight) != neurons:
        raise node.fail(f"{what} has shape {weight.shape}, expected ({neurons}, inputs)")
    return weight


def _as_loaded(
    node: _Node, name: str, weight: Int, recurrent: Int | None, progress: _Progress
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32] | None]:
    """Dense weights as Lava applies them; what changes goes to ``inexact``."""
    try:
        effective = loader_weights(weight, recurrent)
    except OverflowError:
        raise node.unsupported("all weights are zero, the NetX loader fails on it") from None
    for what, stored, loaded in zip(("weight", "weight_rec"), (weight, recurrent), effective, strict=True):
        if stored is None or loaded is None:
            continue
        changed = stored != loaded
        if not changed.any():
            continue
        i, j = (int(index) for index in np.argwhere(changed)[0])
        if (loaded != np.rint(loaded)).any():
            raise node.unsupported(
                f"the loader turns {what}[{i}, {j}] from {stored[i, j]} into {loaded[i, j]:g}, which no integers "
                f"express; weights pass unchanged with {SAFE_WEIGHTS}"
            )
        progress.inexact.append(
            f"{name}: the NetX loader changes {int(changed.sum())} of {stored.size} values of {what}, "
            f"such as {stored[i, j]} to {int(loaded[i, j])}"
        )
    first, second = effective
    return first.astype(np.int32), None if second is None else second.astype(np.int32)


def _read_conv(node: _Node, progress: _Progress, kind: str, note: Mapping[str, Any]) -> None:
    name = note["name"]
    if progress.shape is None or len(progress.shape) != 3 or progress.flatten:
        raise node.fail("a convolution needs an input of shape (C, H, W) before it")
    shape = node.shape()
    weight = node.truncated("weight", progress.inexact, name)
    if weight.ndim == 5 and weight.shape[4] == 1:
        weight = weight[..., 0]
    if weight.ndim != 4:
        raise node.fail(f"weight has shape {weight.shape}, expected 4 dimensions")
    pairs = {what: _pair(node, what) for what in ("stride", "padding", "dilation")}
    groups = node.integers("groups")
    if groups.shape != ():
        raise node.fail(f"groups has shape {groups.shape}, expected one number")
    geometry = {"kernel size": weight.shape[2:], **pairs, "groups": (int(groups),)}
    for what, values in geometry.items():
        if max(values) > INT8_MAX:
            raise node.unsupported(f"{what} is {max(values)}; Lava holds it in eight bits, at most {INT8_MAX}")
    if "delay" in node:
        progress.inexact.append(f"{name}: the NetX loader ignores the delays of convolutions")
    used = int(groups)
    wanted = note.get("groups", used)
    if wanted != used:
        narrow = _unmerged_groups(weight, used, wanted) if isinstance(wanted, int) and wanted > used > 0 else None
        if narrow is None:
            raise node.fail(f"weights of {used} groups are not those of {wanted} groups, as the metadata say")
        weight, used = narrow, wanted
    bias = _read_bias(node, name, shape, note, progress)
    neuron = _read_neuron(node, name, shape, bias, progress, kind)
    layer = Conv(name, progress.shape, weight.astype(np.int32), neuron, groups=used, **pairs)
    if layer.shape != shape:
        raise node.fail(f"shape is {shape}, but its input and kernel give {layer.shape}")
    progress.layers.append(layer)


def _pair(node: _Node, what: str) -> tuple[int, int]:
    values = node.integers(what)
    if values.shape not in ((), (1,), (2,)):
        raise node.fail(f"{what} has shape {values.shape}, expected one or two values")
    return int(values.flat[0]), int(values.flat[-1])


def _read_bias(node: _Node, name: str, shape: Shape, note: Mapping[str, Any], progress: _Progress) -> Int:
    if "bias" not in node:
        return np.zeros((), np.int64)
    bias = node.truncated("bias", progress.inexact, name)
    if len(shape) == 3 and bias.shape == shape[::-1]:
        bias = _transposed(bias)
    elif bias.shape not in (shape[:1], ()) or (bias.ndim == 0 and len(shape) == 3):
        expected = f"{shape[:1]} or {shape[::-1]}" if len(shape) == 3 else str(shape)
        raise node.fail(f"bias has shape {bias.shape}, expected {expected}")
    if note.get("one_bias"):
        if bias.min() != bias.max():
            raise node.fail("bias differs between neurons, the metadata say that it is one")
        bias = bias.flatten()[0]
    return bias


def _read_neuron(node: _Node, name: str, shape: Shape, bias: Int, progress: _Progress, place: str) -> AnyNeuron:
    """Neurons of a layer; ``place`` is the layer's type, or "complex"."""
    if "neuron" not in node:
        if place in ("conv", "complex"):
            raise node.fail("neuron is missing")
        # the loader's default: an integrator that cannot fire and adds its bias to v once, not at each step
        return Neuron.of(name, limits.LAVA_THRESHOLD_MAX, 0, limits.DECAY_UNITY, bias)
    neuron = node.child("neuron")
    kind = neuron.text("type")
    if "RF" in kind:  # as the loader tells them
        if place != "complex":
            raise neuron.unsupported(f"type {kind!r} without complex weights; the NetX loader fails on it")
        return _read_resonator(neuron, name, kind, shape)
    if kind not in ("CUBA", "LOIHI", "SDNN"):
        raise neuron.fail(f"type {kind!r} is unknown, expected CUBA, LOIHI, SDNN or RF")
    if place == "complex":
        raise neuron.unsupported(f"type {kind!r} with complex weights; the NetX loader fails on it")
    if kind == "SDNN":
        return _read_sigma_delta(neuron, name, bias, progress, place)
    return _read_cuba(neuron, name, shape, bias, progress)


def _read_sigma_delta(node: _Node, name: str, bias: Int, progress: _Progress, place: str) -> AnyNeuron:
    _refuse_message_bits(node)
    if place == "dense_rec":
        raise node.unsupported("sigma-delta neurons in a recurrent layer")
    if place != "input" and "sigma_output" in node:
        if bias.ndim or bias:
            raise node.unsupported("sigma_output with a bias; the NetX loader fails on it")
        return Sigma()
    threshold = node.one("vThMant")
    if place == "input":
        return Delta.of(name, threshold, progress.spike_exp)
    return SigmaDelta.of(name, threshold, bias, progress.spike_exp)


def _read_resonator(node: _Node, name: str, kind: str, shape: Shape) -> Resonator:
    _refuse_message_bits(node)
    parts = []
    for what in ("sinDecay", "cosDecay"):
        array = node.numbers(what).astype(np.float64)
        if array.shape not in ((), (1,), shape):
            raise node.fail(f"{what} has shape {array.shape}, expected () or {shape}")
        parts.append(array.reshape(()) if array.shape == (1,) and shape != (1,) else array)
    sine, cosine = loader_rotation(*parts)
    return Resonator.of(name, node.one("vThMant"), sine, cosine, "PHASE" in kind)


def _refuse_message_bits(node: _Node) -> None:
    if "messageBits" in node:
        raise node.unsupported("messageBits is not readable by the NetX loader")


def _read_cuba(neuron: _Node, name: str, shape: Shape, bias: Int, progress: _Progress) -> Neuron:
    _refuse_message_bits(neuron)
    for what, usual in (("refDelay", 1), ("gradedSpike", 0), ("wgtExp", 0)):
        if what in neuron and neuron.one(what) != usual:
            progress.inexact.append(f"{name}: the NetX loader ignores {what} {neuron.one(what)}")
    current_decay = _parameter(neuron, "iDecay", shape)
    if _unsigned(neuron.entries["iDecay"]) and (current_decay == 0).any():
        raise neuron.unsupported(
            "iDecay is 0 in an unsigned dataset; the loader subtracts 1 and wraps, store it signed"
        )
    return Neuron.of(
        name, _parameter(neuron, "vThMant", shape), current_decay, _parameter(neuron, "vDecay", shape), bias
    )


def _unsigned(entry: Entry) -> bool:
    return entry.dtype is not None and entry.dtype.kind in "ub"


def _parameter(node: _Node, what: str, shape: Shape) -> Int:
    array = node.integers(what)
    if array.shape in ((), shape[::-1]):
        return _transposed(array)
    if array.shape == (1,):
        return array.reshape(())
    if len(shape) == 3 and array.shape == shape[:1]:
        return np.broadcast_to(array[:, None, None], shape)  # Lava broadcasts along the last axis of W, H, C
    raise node.fail(f"{what} has shape {array.shape}, expected () or {shape[::-1]}")


_READERS: dict[str, Callable[[_Node, _Progress, str, Mapping[str, Any]], None]] = {
    "input": _read_input,
    "flatten": _read_flatten,
    "dense": _read_dense,
    "dense_rec": _read_dense,
    "conv": _read_conv,
}
