"""Every library's neurons and layers: the graph's spikes are the library's, and the chip's those of Lava."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from frontend_cases import CASES, Case, as_taken, digits, installed, library, put_at_rest, time_axis, trained
from torch import Tensor, nn
from with_lava import needs_lava

from snn2chip.compiler import compile_model
from snn2chip.errors import UnsupportedError
from snn2chip.formats import export, read
from snn2chip.frontends import capture
from snn2chip.graph import Graph, Neuron, execute
from snn2chip.model_file import Model
from snn2chip.passes import lower
from snn2chip.verification import verify

Array = Any
SAMPLES = 100
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Small networks are much faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def marked(cases: list[Case]) -> list[Any]:
    return [
        pytest.param(
            case,
            id=str(case),
            marks=[pytest.mark.skipif(not installed(case.framework), reason=f"{case.framework} is not installed")],
        )
        for case in cases
    ]


@functools.cache
def network(case: Case) -> nn.Module:
    return trained(case)


@functools.cache
def graph_of(case: Case) -> Graph:
    x, _ = digits(case, SAMPLES)
    return capture(network(case), as_taken(case, x), approximate=case.inexact).graph


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


def doubled(content: Any) -> Any:
    if isinstance(content, Tensor):
        return content.double()
    parts = [doubled(part) for part in content]
    return type(content)(*parts) if hasattr(content, "_fields") else type(content)(parts)


def recorded(case: Case, x: Array) -> dict[str, list[Array]]:
    """What each neuron module of the library returned, every tensor as ``[N, T, ...]``, in double precision.

    This is independent of the capture: forward hooks on the library's own neuron classes.
    """
    lib = library(case.framework)
    kinds: Any = {
        "snnTorch": lambda: lib.snn.SpikingNeuron,
        "SpikingJelly": lambda: lib.neuron.BaseNode,
        "Norse": lambda: (
            lib.snn.SNN,
            lib.snn.SNNCell,
            lib.snn.SNNRecurrent,
            lib.snn.SNNRecurrentCell,
            lib.norse.LILinearCell,
        ),
        "snn2chip": lambda: lib.nn.SpikingNeuron,
    }[case.framework]()
    put_at_rest(case, network(case))
    twin = copy.deepcopy(network(case)).double()
    calls: dict[str, list[list[Tensor]]] = {}

    def hook(name: str, module: nn.Module, args: Any, result: Any) -> Any:
        result = doubled(result)
        parts = [result] if isinstance(result, Tensor) else list(result)
        calls.setdefault(name, []).append([part for part in parts if isinstance(part, Tensor)])
        return result

    for path, module in twin.named_modules():
        if isinstance(module, kinds):
            module.register_forward_hook(functools.partial(hook, f"{path} ({type(module).__name__})"))
    with torch.no_grad(), double_precision():
        twin(as_taken(case, x).double())
    found = {}
    for name, steps in calls.items():
        if len(steps) > 1:
            found[name] = [torch.stack(parts, 1).numpy() for parts in zip(*steps, strict=True)]
        else:
            found[name] = [(part.transpose(0, 1) if time_axis(case) == 0 else part).numpy() for part in steps[0]]
    return found


@pytest.mark.parametrize("case", marked([case for case in CASES if not case.inexact]))
def test_the_graph_computes_what_the_library_does(case: Case) -> None:
    x, _ = digits(case, SAMPLES)
    graph = graph_of(case)
    assert not graph.inexact
    neurons = [node for node in graph.nodes if isinstance(node, Neuron)]
    expected = recorded(case, x)
    assert {node.name for node in neurons} == expected.keys()
    trace = execute(graph, x.astype(np.float64))
    for node in neurons:
        if not node.spikes:  # an integrator: numbers, not spikes
            potentials = expected[node.name][1 if case.framework == "snnTorch" else 0]
            np.testing.assert_allclose(trace.potentials[node.name], potentials, 1e-9, 1e-9)
            assert np.ptp(potentials) > 0.1
            continue
        spikes = trace.outputs[node.name]
        differing = int((spikes != expected[node.name][0]).sum())
        assert differing == 0, f"{node.name}: {differing} of {spikes.size} spikes differ"
        assert 0.01 < spikes.mean() < 0.9, f"{node.name}: activity {spikes.mean():.1%} shows little"
    assert graph.reads_potential == case.reads


@pytest.mark.parametrize("case", marked([case for case in CASES if case.inexact]))
def test_an_approximation_has_to_be_allowed_and_is_measured(case: Case) -> None:
    x, _ = digits(case, SAMPLES)
    with pytest.raises(UnsupportedError, match="--approximate"):
        capture(network(case), as_taken(case, x))
    graph = graph_of(case)
    assert graph.inexact and all("outputs of all neurons differ on the example" in text for text in graph.inexact)
    expected = recorded(case, x)
    trace = execute(graph, x.astype(np.float64))
    differing = [int((trace.outputs[name] != spikes[0]).sum()) for name, spikes in expected.items()]
    assert 0 < sum(differing) < 0.1 * sum(outputs.size for outputs in trace.outputs.values())


@pytest.mark.parametrize("case", marked([case for case in CASES if case.chip]))
def test_what_the_chip_cannot_do_is_refused_by_name(case: Case) -> None:
    graph = graph_of(case)
    with pytest.raises(UnsupportedError, match=re.escape(case.chip)) as refusal:
        lower(graph)
    text = str(refusal.value)
    assert "\n" not in text and text.startswith(tuple(node.name for node in graph.nodes))


@pytest.mark.parametrize("case", marked([case for case in CASES if not case.chip]))
def test_the_chip_form_has_the_same_output_and_runs(case: Case) -> None:
    graph = graph_of(case)
    x, y = digits(case, SAMPLES)
    compiled = compile_model(Model(graph, x, y), scales="max")
    source, lowered = (execute(g, x, lambda node, g=g: node is g.output) for g in (graph, compiled.lowered))
    summed = 1 if isinstance(graph.output, Neuron) else graph.time_steps  # a linear readout: its mean becomes a sum
    np.testing.assert_allclose(lowered.scores[:, :10], source.scores * summed, 1e-9, 1e-9)
    if not graph.reads_potential and isinstance(graph.output, Neuron):
        spikes = source.outputs[graph.output.name]
        assert (lowered.outputs[compiled.lowered.output.name][:, :, : spikes.shape[2]] == spikes).all()
    assert verify(compiled.net, x[:4], against="reference").equal


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(*p.values, id=p.id, marks=[*p.marks, pytest.mark.lava, needs_lava])
        for p in marked([c for c in CASES if c.lava])
    ],
)
def test_from_the_module_to_lava(case: Case, tmp_path: Path) -> None:
    x, y = digits(case, 200)
    put_at_rest(case, network(case))
    compiled = compile_model(network(case), (x, y))
    export(compiled.net, tmp_path / "model.net")
    found = verify(read(tmp_path / "model.net"), x[:6], against="lava")
    assert found.equal, str(found.first)
    spikes = sum(int(spikes.sum()) for spikes in found.expected.spikes.values())
    assert spikes > 100, f"{spikes} spikes show little"


def test_the_page_of_compatibility_is_what_these_tables_say() -> None:
    spec = importlib.util.spec_from_file_location("compatibility", ROOT / "tools" / "compatibility.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text() == tool.page(), "run python tools/compatibility.py"
