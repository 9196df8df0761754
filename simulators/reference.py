"""The reference simulator: the integer law of :mod:`snn2chip.law`, layer by layer, in plain numpy."""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from snn2chip.chip import ChipNet, Dense, InputNeurons
from snn2chip.law import Int, run_layer
from snn2chip.traces import Mode, Record, Traces, check_mode, padded


def run(net: ChipNet, messages: npt.NDArray[np.int32], mode: Mode = "isolated", record: Record | None = None) -> Traces:
    """Simulate ``net`` on ``messages`` ``[N, T, *input_shape]``; see :mod:`snn2chip.traces` for the contract.

    In the modes ``windowed`` and ``streaming`` all samples form one run. As in Lava, layer k (0 is the first that costs
    a step) starts k + 1 steps before its data arrive: biases integrate meanwhile, and what it fires then is delivered.
    """
    check_mode(mode)
    record = record or Record.readout(net)
    current: Int = padded(net, messages).astype(np.int64)
    samples, window = current.shape[:2]
    began = time.perf_counter()
    chained = mode != "isolated"
    if chained:
        current = current.reshape(1, samples * window, *net.input_shape)
    reset_every = window if mode == "windowed" else 0
    start = 0
    out = Traces({}, {}, {}, {}, {})
    for layer in net.layers:
        arrived = np.count_nonzero(current[:, -start:].reshape(samples, window, *layer.input_shape), axis=0)
        operations = (arrived * layer.fan_out()).reshape(window, -1).sum(1)
        if chained and not isinstance(layer, InputNeurons):
            start -= 1
            current = np.concatenate([np.zeros_like(current[:, :1]), current], axis=1)
        spikes, u, v = run_layer(layer, current, start, reset_every)
        kept = {
            name: array[:, -start:].reshape(samples, window, *layer.shape)
            for name, array in (("s", spikes), ("u", u), ("v", v))
        }
        fired = np.count_nonzero(kept["s"], axis=0).reshape(window, -1).sum(1)
        if isinstance(layer, Dense) and layer.recurrent is not None:
            operations = operations + fired * layer.shape[0]
        out.spikes_per_step[layer.name], out.operations_per_step[layer.name] = fired, operations
        if layer.name in record.spikes:
            out.spikes[layer.name] = kept["s"].astype(np.int32 if layer.neuron.graded else np.uint8)
        if layer.name in record.states:
            out.u[layer.name], out.v[layer.name] = kept["u"].astype(np.int32), kept["v"].astype(np.int32)
        current = spikes
    seconds = time.perf_counter() - began
    return Traces(out.spikes, out.u, out.v, out.spikes_per_step, out.operations_per_step, seconds)
