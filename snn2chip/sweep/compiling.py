"""Networks of a sweep: each is quantised once, whatever is done with it afterwards, and written as a NetX file."""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from snn2chip import limits
from snn2chip.chip import ChipNet, Neuron
from snn2chip.compiler import Compiled, compile_model
from snn2chip.errors import EnvironmentFailure, LimitError, Snn2chipError
from snn2chip.formats import export, read
from snn2chip.graph import per_channel
from snn2chip.hardware import target_of
from snn2chip.long_runs import digest
from snn2chip.passes import Block, chip_blocks
from snn2chip.quantise import is_integer
from snn2chip.quantise.layers import Form
from snn2chip.quantise.network import Shelf
from snn2chip.sweep.config import REST, Configuration, Setting
from snn2chip.sweep.measuring import placed
from snn2chip.sweep.source import Source

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Quantisation:
    """One quantisation, and networks that differ in their thresholds alone.

    Attributes:
        options: thresholds and cutoff do not matter.
        thresholds: of each network.
        files: where to write each of them.
    """

    options: Configuration
    thresholds: tuple[Setting, ...]
    files: tuple[str, ...]


@dataclass(frozen=True)
class CompileTask:
    """Quantisations that share work: one process makes them one after the other.

    Attributes:
        source: what is quantised.
        quantisations: of it.
        target: chip.
    """

    source: Source
    quantisations: tuple[Quantisation, ...]
    target: str


#: One task at a time in a process, whose threads share the shelf and the number of threads of linear algebra.
_ALONE = threading.Lock()


@functools.cache
def _shelf() -> Shelf:
    return Shelf()


def compile_configuration(source: Source, options: Configuration, target: str) -> Compiled:
    """As ``snn2chip export`` does with the same options; raises as :func:`snn2chip.compiler.compile_model` does."""
    model = source.trained()
    if options.time_steps is not None:
        model = replace(model, graph=replace(model.graph, time_steps=options.time_steps))
    if is_integer(model.graph):
        return compile_model(model, window=options.window, target=target)
    return compile_model(
        model,
        bits=dict(options.bits)[REST],
        scales=dict(options.scales)[REST],
        rounding=dict(options.rounding)[REST],
        layers=layer_changes(options),
        per_neuron=options.per_neuron,
        resets=options.resets,  # type: ignore[arg-type]  # checked by the configuration
        analog_input=options.analog,  # type: ignore[arg-type]
        window=options.window,
        target=target,
        shelf=_shelf(),
    )


def layer_changes(options: Configuration) -> dict[str, dict[str, Any]]:
    """What single layers have of their own, as :func:`snn2chip.quantise.quantise` takes it."""
    found: dict[str, dict[str, Any]] = {}
    for name in ("bits", "scales", "rounding"):
        for layer, value in getattr(options, name):
            if layer != REST:
                found.setdefault(layer, {})[name] = value
    return found


def compile_task(task: CompileTask) -> list[dict[str, Any]]:
    """Quantise, and write the networks.

    One thread of linear algebra: how many there are can change the last bit of a sum, and results must not depend on
    where they were made.

    Returns:
        For each quantisation ``reason``, where there is no network; else ``used`` calibration samples, integers per
        ``logit`` (or None) and ``nets``: for each its ``file`` and ``digest``, or the ``reason`` why there is none.
    """
    with _ALONE, threadpool_limits(1):
        return [_quantised(task.source, each, task.target) for each in task.quantisations]


def _quantised(source: Source, wanted: Quantisation, target: str) -> dict[str, Any]:
    try:
        compiled = compile_configuration(source, wanted.options, target)
    except EnvironmentFailure:
        raise
    except Snn2chipError as error:
        return {"reason": str(error)}
    nets = [
        _written(compiled, thresholds, Path(file), target)
        for thresholds, file in zip(wanted.thresholds, wanted.files, strict=True)
    ]
    potential = compiled.net.readout.kind == "potential"
    logit = compiled.choices[-1].weight_scale if compiled.choices and potential else None
    return {"used": compiled.used, "logit": logit, "nets": nets}


def _written(compiled: Compiled, thresholds: Setting, file: Path, target: str) -> dict[str, Any]:
    """A network of its own thresholds, in a file."""
    try:
        blocks = () if is_integer(compiled.lowered) else chip_blocks(compiled.lowered)
        net = with_thresholds(compiled.net, blocks, dict(thresholds))
        placed(net, target_of(target))
        export(net, file, force=True)
        written = read(file)
    except EnvironmentFailure:
        raise
    except Snn2chipError as error:
        return {"reason": str(error)}
    return {"file": str(file), "digest": digest(written)}


def with_thresholds(net: ChipNet, blocks: Sequence[Block], factors: Mapping[str, float]) -> ChipNet:
    """``net`` with thresholds times factors, rounded to integers.

    Only neurons of the trained model that fire are changed: no relays, no neurons that always or never fire. An odd
    threshold of a memoryless membrane (``vDecay`` 4095) stays odd: its potentials are even, and what the decay leaves
    of them must not cross the gap (:mod:`snn2chip.quantise.layers`). Weights stay, also those by which a soft reset
    subtracts the trained threshold.

    Args:
        blocks: of the lowered graph, one for each layer; none where the network was integers already.
        factors: by layer; :data:`REST` for all others.

    Raises:
        LimitError: a threshold is larger than its register.
    """
    if set(factors.values()) == {1.0}:
        return net
    layers = []
    for i, layer in enumerate(net.layers):
        factor = factors.get(layer.name, factors.get(REST, 1.0))
        neuron = layer.neuron
        if factor == 1.0 or not isinstance(neuron, Neuron):
            layers.append(layer)
            continue
        before = np.broadcast_to(neuron.threshold, layer.shape).astype(np.int64)
        fires = before < limits.THRESHOLD_MAX
        if blocks:
            form = Form(blocks[i])
            fires = fires & np.isfinite(form.threshold) & per_channel(form.live, len(layer.shape))
        odd = (before % 2 == 1) & (np.broadcast_to(neuron.voltage_decay, layer.shape) == limits.HARDWARE_DECAY_MAX)
        scaled = np.where(odd, 2 * np.floor(before * factor / 2) + 1, np.rint(before * factor)).astype(np.int64)
        after = np.where(fires, scaled, before)
        if after[fires].max(initial=0) >= limits.THRESHOLD_MAX:
            worst = int(after[fires].max())
            raise LimitError(layer.name, "threshold", worst, limits.THRESHOLD_MAX - 1, "use a smaller factor")
        same = (after == after.flat[0]).all()
        threshold = np.asarray(after.flat[0] if same else after, np.int32)
        values = {"current_decay": neuron.current_decay, "voltage_decay": neuron.voltage_decay, "bias": neuron.bias}
        layers.append(replace(layer, neuron=Neuron.of(layer.name, threshold, **values)))
    return replace(net, layers=tuple(layers))


def still_there(results: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the files of a :func:`compile_task` that ran earlier are where it wrote them."""
    nets = [net for result in results for net in result.get("nets", ())]
    return all("reason" in net or Path(net["file"]).is_file() for net in nets)
