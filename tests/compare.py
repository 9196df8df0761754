"""Comparison of two simulators' traces with ``==``, naming the first difference."""

from __future__ import annotations

import numpy as np
import torch

from snn2chip.frontends import capture
from snn2chip.graph import Graph
from snn2chip.nn import Network
from snn2chip.traces import Traces


def assert_same_traces(found: Traces, expected: Traces) -> None:
    """Fail unless spikes, u, v, counts and operations are equal, of the same types, for the same layers."""
    for what in ("spikes", "u", "v"):
        ours, theirs = getattr(found, what), getattr(expected, what)
        assert ours.keys() == theirs.keys(), f"{what} of layers {sorted(ours)}, expected {sorted(theirs)}"
        for layer, array in ours.items():
            other = theirs[layer]
            assert array.shape == other.shape, f"{layer}: {what} has shape {array.shape}, expected {other.shape}"
            assert array.dtype == other.dtype, f"{layer}: {what} has type {array.dtype}, expected {other.dtype}"
            differs = np.argwhere(array != other)
            if len(differs):
                # The earliest step says more about the cause than the first sample.
                place = min(map(tuple, differs.tolist()), key=lambda index: (index[1], index[0], index[2:]))
                raise AssertionError(
                    f"{layer}: {what} differs in {len(differs)} of {array.size} places, first at sample {place[0]}, "
                    f"step {place[1]}, neuron {place[2:]}: found {array[place]}, expected {other[place]}"
                )
    for what in ("spikes_per_step", "operations_per_step"):
        ours, theirs = getattr(found, what), getattr(expected, what)
        assert ours.keys() == theirs.keys(), f"{what} of layers {sorted(ours)}, expected {sorted(theirs)}"
        for layer, counts in ours.items():
            assert counts.dtype == np.int64, f"{layer}: {what} has type {counts.dtype}"
            np.testing.assert_array_equal(counts, theirs[layer], f"{layer}: {what}")


def graph_of(network: Network) -> Graph:
    """The graph of a network, captured on random static input."""
    x = torch.from_numpy(np.random.default_rng(0).random((4, *network.input_shape)))
    return capture(network, x * 2).graph
