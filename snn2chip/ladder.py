"""The ladder from the trained model to the chip: accuracy and spikes of each rung on the same samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.graph import Graph, execute
from snn2chip.passes import chip_blocks, lower
from snn2chip.simulation import simulate
from snn2chip.traces import Record

Array = npt.NDArray[Any]

#: Samples that the float executor takes at once, so that its memory stays bounded.
CHUNK = 128


@dataclass(frozen=True)
class Rung:
    """One stage on the ladder.

    Attributes:
        accuracy: share of samples that are right; None without classes.
        spikes: by layer, over all samples and steps.
        differing_spikes: by layer, against the rung above; None on the first.
        agreement: share of samples with the same prediction as the rung above; None on the first.
    """

    accuracy: float | None
    spikes: dict[str, int]
    differing_spikes: dict[str, int] | None
    agreement: float | None


def ladder(source: Graph, net: ChipNet, x: Array, y: Array | None = None) -> dict[str, Rung]:
    """``float`` (as trained, float32), ``graph`` (lowered, float64) and ``chip`` (integers, event simulator)."""
    lowered = lower(source)
    names = {block.neuron.name: block.name for block in chip_blocks(lowered)}
    seen: dict[str, tuple[list[Array], dict[str, list[Array]]]] = {
        rung: ([], {layer: [] for layer in names.values()}) for rung in ("float", "graph", "chip")
    }
    record = Record.of(spikes=(layer.name for layer in net.layers))
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK]
        for rung, graph, dtype in (("float", source, np.float32), ("graph", lowered, np.float64)):
            trace = execute(graph, part, lambda node: node.name in names, dtype)
            seen[rung][0].append(trace.scores.argmax(1))
            for neuron, layer in names.items():
                if neuron in trace.outputs:  # the float model's readout has no neurons
                    seen[rung][1][layer].append(trace.outputs[neuron].astype(np.uint8))
        simulated = simulate(net, part, record=record)
        seen["chip"][0].append(simulated.predictions)
        for layer in names.values():
            seen["chip"][1][layer].append(simulated.traces.spikes[layer][:, : net.time_steps])
    rungs: dict[str, Rung] = {}
    above: tuple[Array, dict[str, Array]] | None = None
    for rung, (parts, spike_parts) in seen.items():
        predictions = np.concatenate(parts)
        spikes = {layer: np.concatenate(arrays) for layer, arrays in spike_parts.items() if arrays}
        differing = agreement = None
        if above is not None:
            differing = {layer: int((spikes[layer] != s).sum()) for layer, s in above[1].items() if layer in spikes}
            agreement = float((predictions == above[0]).mean())
        accuracy = None if y is None else float((predictions == y).mean())
        rungs[rung] = Rung(accuracy, {layer: int(s.sum()) for layer, s in spikes.items()}, differing, agreement)
        above = (predictions, spikes)
    return rungs
