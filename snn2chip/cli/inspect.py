"""``snn2chip inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import numpy as np

from snn2chip.chip import ChipNet, Dense, InputNeurons, Layer
from snn2chip.cli import output
from snn2chip.cli.app import common, print_json
from snn2chip.formats import read


@click.command("inspect")
@click.argument("net", type=click.Path(path_type=Path))
@common
def command(net: Path, as_json: bool) -> None:
    """Show the layers, neurons and reading of NET, a NetX file."""
    network = read(net)
    layers = [_describe(layer, network, i) for i, layer in enumerate(network.layers)]
    if as_json:
        print_json(
            {
                "layers": layers,
                "depth": network.depth,
                "time_steps": network.time_steps,
                "window": network.window,
                "target": network.target,
                "input": {"shape": list(network.input_shape), **vars(network.encoding)},
                "readout": network.readout.kind,
                "neurons": sum(layer["neurons"] for layer in layers),
                "synapses": sum(layer["synapses"] for layer in layers),
                "inexact": list(network.inexact),
            }
        )
        return
    encoding = network.encoding
    how = "spikes" if encoding.kind == "spikes" else f"{encoding.kind}, {encoding.message_bits} bits"
    output.out().print(
        f"{net.name}: input {_shape(network.input_shape)} ({how}), {network.time_steps} time steps, window "
        f"{network.window}, depth {network.depth} steps, read by {_READOUT[network.readout.kind]}",
        markup=False,
    )
    output.table(
        ("layer", "type", "shape", "neurons", "synapses", "bits", "threshold", "iDecay", "vDecay"),
        [
            (
                layer["name"],
                layer["type"],
                _shape(layer["shape"]),
                layer["neurons"],
                layer["synapses"],
                layer["bits"],
                *(_span(layer["neuron"].get(name)) for name in ("threshold", "current_decay", "voltage_decay")),
            )
            for layer in layers
        ],
    )
    for line in network.inexact:
        output.out().print(f"inexact: {line}", markup=False)


_READOUT = {"count": "spike count", "potential": "potential at the last step"}


def _describe(layer: Layer, net: ChipNet, index: int) -> dict[str, Any]:
    kind = {"InputNeurons": "input", "Dense": "dense", "Conv": "conv"}[type(layer).__name__]
    weights: list[Any] = []
    if not isinstance(layer, InputNeurons):
        weights.append(layer.weight)
    if isinstance(layer, Dense) and layer.recurrent is not None:
        kind = "dense_rec"
        weights.append(layer.recurrent)
    if isinstance(layer, Dense) and layer.imaginary is not None:
        weights.append(layer.imaginary)
    low, high = (int(f([f(w) for w in weights])) if weights else 0 for f in (np.min, np.max))
    bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0) + (low < 0)
    parameters = {name: np.asarray(value) for name, value in vars(layer.neuron).items()}  # of any kind of neuron
    neuron = {name: [int(array.min()), int(array.max())] for name, array in parameters.items()}
    return {
        "name": layer.name,
        "type": kind,
        "shape": list(layer.shape),
        "neurons": int(np.prod(layer.shape)),
        "synapses": layer.synapses,
        "weights": sum(w.size for w in weights),
        "bits": bits,
        "neuron": neuron,
        "depth": index + (0 if isinstance(net.layers[0], InputNeurons) else 1),
    }


def _shape(shape: Any) -> str:
    return "x".join(map(str, shape))


def _span(bounds: list[int] | None) -> str:
    if bounds is None:
        return ""
    return str(bounds[0]) if bounds[0] == bounds[1] else f"{bounds[0]}..{bounds[1]}"
