"""Comparison of a graph with what passes made of it."""

from __future__ import annotations

from typing import Any

import numpy as np

from snn2chip.graph import Graph, Neuron, execute

Array = np.ndarray[Any, Any]


def assert_same_spikes(before: Graph, after: Graph, x: Array, what: str) -> None:
    """The trained neurons are the first of those of the same name; scores are the same, or sums instead of means."""
    expected, found = execute(before, x), execute(after, x)
    for name, spikes in expected.outputs.items():
        flat = spikes.reshape(*spikes.shape[:2], -1)
        ours = found.outputs[name].reshape(*spikes.shape[:2], -1)[..., : flat.shape[2]]
        assert np.array_equal(ours, flat), (
            f"{what}: {name} differs in {int((ours != flat).sum())} of {flat.size} spikes"
        )
    summed = isinstance(after.output, Neuron) and not isinstance(before.output, Neuron)
    wanted = expected.scores * (before.time_steps if summed else 1)
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-12, atol=1e-12, err_msg=what)
