"""Capture of a torch module: run it on an example, build the graph, and prove that the graph computes the same."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from snn2chip.errors import CheckFailed, InputError, UnsupportedError, UsageError
from snn2chip.frontends import functions
from snn2chip.frontends.build import build
from snn2chip.frontends.leaves import frontend_of, put_at_rest, settle
from snn2chip.frontends.trace import Dim, Record, Tracer, Value, sample_dims, tensors_in
from snn2chip.graph import ChipLayer, Graph, Input, Neuron, execute
from snn2chip.nn import Network

Array = npt.NDArray[Any]
#: Where a module keeps time in its input: first, after the batch, last, or nowhere (one image for all steps).
Layout = Literal["TN", "NT", "N..T", "N"]

_HABITS: dict[str, Layout] = {  # of each frontend
    "snn2chip.frontends.native": "NT",
    "snn2chip.frontends.snntorch": "TN",
    "snn2chip.frontends.spikingjelly": "TN",
    "snn2chip.frontends.norse": "TN",
    "snn2chip.frontends.slayer": "N..T",
}
EXAMPLES = 32  #: samples that a module is run on
ROUNDING = 1e-9  #: what may be lost in double precision, of potentials and outputs


@dataclass(frozen=True)
class Capture:
    """A graph and how data go into it.

    Attributes:
        graph: what the module computes in evaluation.
        layout: where the module keeps time in its input.
        differing: samples of the proof that have a spike that differs, by a rounding error at the threshold.
    """

    graph: Graph
    layout: Layout
    differing: int = 0


def capture(module: nn.Module, example_input: Any, layout: Layout | None = None, approximate: bool = False) -> Capture:
    """The graph of a trained module, as it is in evaluation and from rest.

    The module is copied, run in double precision on at most 32 samples of the example, and left as it was. Every
    neuron's output at every step is compared with the graph's.

    Args:
        example_input: as the module takes it; real data, so that neurons fire.
        layout: where time is in it; by default "N" where it has two or four dimensions, else as the module's library
            does it.
        approximate: allow what is not exact; the graph lists it with the effect on the example.

    Raises:
        UnsupportedError: something inside has no exact counterpart in the graph; the message names it.
        InputError: the module cannot take the example, or holds NaN.
        CheckFailed: the graph computes something else.
    """
    example = _tensor(example_input)
    layout = layout or layout_of(module, example)
    twin = _twin(module)
    events = layout != "N" and bool(((example == 0) | (example == 1)).all())
    x, dims = _prepared(example, layout)
    if isinstance(module, Network) and tuple(x.shape[2 if layout == "NT" else 1 :]) != module.input_shape:
        raise InputError(f"example input: shape {tuple(example.shape)}, the network takes {module.input_shape}")
    tracer, result = _traced(twin, x, dims)
    returned, output = _output(tracer, result, f"model ({type(module).__name__})")
    _check_others(tracer, result, output, f"model ({type(module).__name__})")
    batch_first = _batch_first(x, layout)
    shape = tuple(batch_first.shape[1 if layout == "N" else 2 :])
    source = Input(name="input", shape=shape, kind="spikes" if events else "analog")
    graph = build(tracer, source, output)
    _check_parameters(graph)
    graph.shapes()
    if graph.inexact and not approximate:
        raise UnsupportedError(f"{graph.inexact[0]}; allow it with --approximate (approximate=True)")
    late = _lateness(graph, tracer.records)
    differences = _differences(graph, tracer.records, late, batch_first.numpy())
    if graph.inexact:
        wrong, total = sum(d.spikes for d in differences), sum(d.outputs for d in differences)
        effect = f"{wrong} of {total} outputs of all neurons differ on the example ({wrong / max(total, 1):.2%})"
        graph = replace(graph, inexact=tuple(f"{sentence}; {effect}" for sentence in graph.inexact))
        return Capture(_integrating(graph), layout)
    differing = _judged(graph, differences, batch_first.numpy())
    if not differing and not late[graph.output.name]:
        _check_output(graph, output, returned, batch_first.numpy())
    if differing:
        first = next(d.name for d in differences if d.spikes)
        sentence = (
            f"{first}: potentials within rounding of the threshold, where the module decides otherwise, on {differing} "
            f"of {len(batch_first)} example samples"
        )
        graph = replace(graph, inexact=(sentence,))
    return Capture(_integrating(graph), layout, differing)


def layout_of(module: nn.Module, example: Tensor) -> Layout:
    """The layout of an example by its number of dimensions, and where that has a time axis, by the library's habit."""
    if isinstance(module, Network):
        return "N" if example.ndim == len(module.input_shape) + 1 else "NT"
    if example.ndim in (2, 4):
        return "N"
    if example.ndim not in (3, 5):
        raise UsageError(
            f"example input: shape {tuple(example.shape)} has {example.ndim} dimensions; say where time is in it with "
            f"layout, one of {', '.join(get_args(Layout))}"
        )
    known = {_HABITS[name] for m in module.modules() if (name := frontend_of(m)) in _HABITS}
    if len(known) != 1:
        raise UsageError(
            f"example input: shape {tuple(example.shape)}; say where time is in it with layout, one of "
            f"{', '.join(get_args(Layout))}"
        )
    return known.pop()


def _twin(module: nn.Module) -> nn.Module:
    """A copy in evaluation, at rest."""
    results: dict[int, Any] = {}  # of operations, which torch does not copy: what pruning makes at each call, say
    for inner in module.modules():
        put_at_rest(inner)
        made = [value for value in vars(inner).values() if isinstance(value, Tensor) and not value.is_leaf]
        results |= {id(value): value.detach().clone() for value in made}
    try:
        twin = copy.deepcopy(module, results).cpu().eval()
    except (TypeError, RuntimeError, AttributeError) as error:
        text = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise InputError(
            f"model ({type(module).__name__}): cannot be copied ({text}); keep nothing in it but modules, tensors and "
            "values"
        ) from error
    for inner in twin.modules():
        settle(inner)
    return twin


def _tensor(example: Any) -> Tensor:
    try:
        tensor = torch.as_tensor(example).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"example input: {type(example).__name__} is not an array of numbers") from error
    if tensor.is_complex() or not bool(torch.isfinite(tensor).all()):
        raise InputError("example input: contains NaN, infinite or complex values; give real data")
    return tensor


def _prepared(example: Tensor, layout: Layout) -> tuple[Tensor, tuple[Dim, ...]]:
    """At least two and at most so many samples, in double precision, and the meaning of the axes."""
    extra = 1 if layout == "N" else 2
    if example.ndim - extra not in (1, 3):
        raise InputError(
            f"example input: shape {tuple(example.shape)} in layout {layout}; a sample's step is (F,) or (C, H, W)"
        )
    sample = sample_dims(example.ndim - extra)
    dims: tuple[Dim, ...] = {
        "TN": ("T", "N", *sample),
        "NT": ("N", "T", *sample),
        "N..T": ("N", *sample, "T"),
        "N": ("N", *sample),
    }[layout]
    axis = dims.index("N")
    if 0 in example.shape:
        raise InputError(f"example input: shape {tuple(example.shape)} is empty")
    count = example.shape[axis]
    # From all of them: samples are often in the order of their classes.
    index = torch.arange(EXAMPLES) * count // EXAMPLES if count > EXAMPLES else torch.arange(max(2, count)) % count
    return example.index_select(axis, index).double(), dims


def _batch_first(x: Tensor, layout: Layout) -> Tensor:
    """``[N, T, ...]``, or ``[N, ...]``."""
    return x.transpose(0, 1) if layout == "TN" else x.movedim(-1, 1) if layout == "N..T" else x


@contextmanager
def _double_precision() -> Iterator[None]:
    """States that a module makes itself are double, too."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_default_dtype(before)  # type: ignore[no-untyped-call]


def _traced(twin: nn.Module, x: Tensor, dims: tuple[Dim, ...]) -> tuple[Tracer, Any]:
    tracer = Tracer(twin.double(), functions.apply)
    try:
        with torch.no_grad(), _double_precision():
            return tracer, tracer.run(twin, x, dims, "input")
    except (RuntimeError, ValueError, IndexError, TypeError, AssertionError) as error:
        text = (str(error).strip() or repr(error)).splitlines()[0][:200]
        where = tracer.failed or tracer.place
        raise InputError(f"{where}: fails on the example input of shape {tuple(x.shape)} ({text})") from error


def _output(tracer: Tracer, result: Any, name: str) -> tuple[Tensor, Value]:
    """What the module returns: the first tensor, or a list of one tensor for each step."""
    returned = tensors_in(result)
    values = [tracer.value(tensor) for tensor in returned]
    first = values[0] if values else None
    if first is None:
        raise UnsupportedError(f"{name}: returns nothing that depends on its input; return spikes or scores first")
    if first.part == "state":
        raise UnsupportedError(f"{first.node}: an inner state of it is returned; return its spikes or its potential")
    if first.part == "potential" and (first.total or first.steps):
        raise UnsupportedError(
            f"{first.node}: its potential is summed over time; only that of the last step can be read on the chip"
        )
    if first.node is None:
        return returned[0], first
    if not first.ordered:
        raise UnsupportedError(
            f"{name}: returns dimensions {', '.join(first.dims)}, which are permuted; permute them back"
        )
    first = functions.whole_sum(tracer, first)
    if first.total:
        if first.total != tracer.steps:
            raise UnsupportedError(
                f"{name}: returns what was made of {first.total} of {tracer.steps} time steps; use all of them"
            )
        return returned[0], first
    if first.timed:
        steps_returned = returned[0].shape[first.dims.index("T")] if "T" in first.dims else tracer.steps
        if steps_returned != tracer.steps:
            raise UnsupportedError(f"{name}: returns {steps_returned} of {tracer.steps} time steps; return all of them")
        return returned[0], first
    if first.steps:
        raise UnsupportedError(
            f"{name}: returns a sum of {len(first.steps)} of {tracer.steps} time steps; sum all of them"
        )
    steps = [value.step for value in values if value is not None and value.node == first.node]
    if first.part == "potential" and first.step == tracer.steps - 1:
        return returned[0], first
    if first.step is not None and tracer.steps > 1 and steps[: tracer.steps] != list(range(tracer.steps)):
        raise UnsupportedError(
            f"{first.node}: only time step {first.step} of it is returned; return all steps, or their sum or mean"
        )
    return returned[0], first


def _check_others(tracer: Tracer, result: Any, output: Value, name: str) -> None:
    """What else is returned may be recordings of layers before the output, but no other output."""
    before: set[str | None] = set()
    visiting = [output.node]
    while visiting:
        node = visiting.pop()
        if node not in before:
            before.add(node)
            record = tracer.records.get(node or "")
            visiting += [source.node for sources in record.sources for source in sources] if record else []
    for tensor in tensors_in(result):
        value = tracer.value(tensor)
        if output.node and value is not None and value.node and value.node not in before:
            raise UnsupportedError(
                f"{name}: returns {output.node} and {value.node}, which is no layer before it; return one output, first"
            )


def _check_parameters(graph: Graph) -> None:
    for node in graph.nodes:
        if isinstance(node, Neuron) and np.any(np.asarray(node.threshold) < 0):
            raise UnsupportedError(
                f"{node.name}: its threshold is {np.min(node.threshold):.6g}, so that it fires at rest; the chip has "
                "none below 0, train with a positive one"
            )
        for name, value in vars(node).items():
            if not isinstance(value, np.ndarray | float):
                continue
            if np.isnan(value).any() or not (np.isfinite(value).all() or name == "threshold"):
                raise InputError(f"{node.name}: its {name} contains NaN or infinite values; train it again")


@dataclass(frozen=True)
class _Difference:
    """Which of one layer's outputs differ between the run and the graph: ``[N, steps, ...]``."""

    name: str
    where: npt.NDArray[np.bool_]

    @property
    def samples(self) -> npt.NDArray[np.bool_]:
        """Those in which any does."""
        found: npt.NDArray[np.bool_] = self.where.reshape(len(self.where), -1).any(1)
        return found

    @property
    def spikes(self) -> int:
        return int(self.where.sum())

    @property
    def outputs(self) -> int:
        return self.where.size


def _lateness(graph: Graph, records: dict[str, Record]) -> dict[str, int]:
    """Steps by which the run's outputs come later than the graph's.

    Raises:
        UnsupportedError: neurons move before their input arrives, which in the graph is there at once.
    """
    late: dict[str, int] = {}
    for node in graph.nodes:
        leaf = records[node.name].leaf if node.name in records else None
        before = max((late[name] for name in node.inputs), default=0)
        if leaf is not None and leaf.drifts and before:
            raise UnsupportedError(
                f"{node.name}: has a bias, which acts for {before} steps before the first input arrives; on the chip "
                "both start together: set delay_shift = False of all blocks, which changes nothing else"
            )
        late[node.name] = before + (leaf.delay if leaf else 0)
    return late


def _differences(graph: Graph, records: dict[str, Record], late: dict[str, int], x: Array) -> list[_Difference]:
    """Layer by layer, in order."""
    checked = [node.name for node in graph.nodes if isinstance(node, Neuron | ChipLayer) and node.name in records]
    trace = execute(graph, x, keep=lambda node: node.name in checked)
    found = []
    for name in checked:
        record = records[name]
        assert record.leaf is not None  # they are neurons
        time = record.leaf.time
        expected = (torch.stack(record.found, 1) if time is None else record.found[0].movedim(time, 1)).numpy()
        expected = expected[:, late[name] :] * record.leaf.unit
        found_here = trace.potentials[name] if record.leaf.potential == 0 else trace.outputs[name]
        outputs = found_here[:, : graph.time_steps - late[name]]
        if outputs.shape[:2] != expected.shape[:2]:
            raise UnsupportedError(f"{name}: runs for another number of time steps than other layers; run all as often")
        expected = expected.reshape(outputs.shape)
        differs = ~np.isclose(outputs, expected, 1e-9, 1e-9) if record.leaf.potential == 0 else outputs != expected
        found.append(_Difference(name, differs))
    return found


def _judged(graph: Graph, differences: list[_Difference], x: Array) -> int:
    """Samples that differ, by rounding.

    Raises:
        CheckFailed: more than a rounding error at a threshold can explain.
    """
    wrong = np.zeros(len(x), bool)
    for difference in differences:
        new = difference.samples & ~wrong
        wrong |= new
        if new.any() and not _rounding(graph, difference.name, difference.where[new], x[new]):
            break
    else:
        if wrong.sum() <= max(1, len(wrong) // 16):
            return int(wrong.sum())
    wrong = np.any([d.samples for d in differences], axis=0)
    first = next(d.name for d in differences if d.spikes)
    raise CheckFailed(
        f"{first}: the graph's spikes differ from the module's on {wrong.sum()} of {len(wrong)} samples; "
        "please report this with the model"
    )


def _rounding(graph: Graph, name: str, where: npt.NDArray[np.bool_], x: Array) -> bool:
    """Whether in each sample the first outputs that differ are of potentials within rounding of the threshold.

    Layers before this one have equal outputs in these samples.
    """
    node = next(node for node in graph.nodes if node.name == name)
    if not isinstance(node, Neuron):
        return False
    margin = ROUNDING * np.maximum(1, np.abs(node.threshold))
    low, high = (
        execute(
            graph.replaced({name: replace(node, threshold=node.threshold + shift)}),
            x,
            keep=lambda node: node.name == name,
        ).outputs[name][:, : where.shape[1]]
        for shift in (-margin, margin)
    )
    first = where.reshape(*where.shape[:2], -1).any(2).argmax(1)
    samples = np.arange(len(x))
    return bool((low != high)[samples, first][where[samples, first]].all())


def _integrating(graph: Graph) -> Graph:
    """Neurons without reset whose potential is read need not fire."""
    last = graph.output
    if not (graph.reads_potential and isinstance(last, Neuron) and last.reset == "none" and last.recurrent is None):
        return graph
    return graph.replaced({last.name: replace(last, threshold=np.inf)})


def _check_output(graph: Graph, output: Value, returned: Tensor, x: Array) -> None:
    """Compare what the module returns: all steps, or a mean over time, after a softmax its highest class.

    What comes later than the graph's is not compared.

    Raises:
        UnsupportedError: the module returns the potential of neurons that fire before it is reset.
    """
    if isinstance(graph.output, ChipLayer):
        return
    last = graph.output.name
    trace = execute(graph, x, keep=lambda node: node.name == last)
    if output.part == "potential":
        whole = returned.movedim(output.dims.index("T"), 0)[-1] if output.timed else returned
        if not np.allclose(trace.scores, whole.numpy().reshape(trace.scores.shape), 1e-9, 1e-9):
            raise UnsupportedError(
                f"{last}: its potential is returned from before the reset, the chip has that from after it; return "
                "spikes, or train its last neurons without reset"
            )
        return
    steps = trace.outputs[last]
    if output.timed and "T" in output.dims and "N" in output.dims:
        whole = returned.movedim((output.dims.index("N"), output.dims.index("T")), (0, 1)).numpy()
        equal = np.allclose(steps.reshape(whole.shape), whole, rtol=1e-9, atol=1e-9)
    elif output.total and output.dims[0] == "N":
        found, expected = (output.gain * steps.mean(1)).reshape(len(x), -1), returned.numpy().reshape(len(x), -1)
        if output.ranked:
            ordered = np.sort(found, 1)
            clear = ordered[:, -1] - ordered[:, -2:-1].ravel() > 1e-9 if found.shape[1] > 1 else np.zeros(len(x), bool)
            equal = bool((found.argmax(1) == expected.argmax(1))[clear].all())
        else:
            equal = np.allclose(found, expected, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(expected).max())))
    else:
        return
    if not equal:
        raise CheckFailed(f"{last}: the graph's output differs from the module's; please report this with the model")
