"""Lowering: every pass keeps every spike on random graphs, and what has no exact form is refused by name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowered import assert_same_spikes
from with_lava import needs_lava

from snn2chip.errors import DoesNotFitError, UsageError
from snn2chip.graph import (
    Add,
    AvgPool2d,
    BatchNorm,
    Concat,
    Conv2d,
    Delay,
    Flatten,
    Graph,
    Input,
    Linear,
    MaxPool2d,
    Neuron,
    Node,
    execute,
)
from snn2chip.passes import PASSES, PassCost, chip_blocks, hold_input, lower, lowering_costs
from snn2chip.passes.fold import fold_average_pool, fold_batch_norm
from snn2chip.passes.soft_reset import carry_state_in_current
from snn2chip.passes.unroll import conv_matrix
from snn2chip.quantise import quantise
from snn2chip.simulation import simulate
from snn2chip.traces import Record, encode
from snn2chip.verification import verify

Array = np.ndarray[Any, Any]


class Chain:
    """A graph under construction: each call appends a node that takes the last one."""

    def __init__(self, shape: tuple[int, ...], kind: str = "spikes", steps: int = 5, seed: int = 0) -> None:
        self.nodes: list[Node] = [Input(name="input", shape=shape, kind=kind)]  # type: ignore[arg-type]
        self.steps, self.rng = steps, np.random.default_rng(seed)

    def __call__(self, kind: type[Node], *inputs: str, **fields: Any) -> Chain:
        name = f"{len(self.nodes)} ({kind.__name__})"
        self.nodes.append(kind(name=name, inputs=inputs or (self.last,), **fields))
        return self

    @property
    def last(self) -> str:
        return self.nodes[-1].name

    @property
    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), self.steps)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.graph.shapes()[self.last]

    def dyadic(self, *shape: int, step: float = 1 / 8, most: int = 12) -> Array:
        """Multiples of ``step``, so that sums are exact in any order."""
        return self.rng.integers(-most, most, shape, endpoint=True) * step

    def conv(self, channels: int, kernel: tuple[int, int] = (2, 2), bias: bool = False, **fields: Any) -> Chain:
        weight = self.dyadic(channels, self.shape[0] // fields.get("groups", 1), *kernel)
        return self(Conv2d, weight=weight, bias=self.dyadic(channels) * bias, **fields)

    def linear(self, features: int, bias: bool = False) -> Chain:
        if len(self.shape) == 3:
            self(Flatten)
        return self(Linear, weight=self.dyadic(features, *self.shape), bias=self.dyadic(features) * bias)

    def norm(self, shift: bool = True) -> Chain:
        size = self.shape[0]
        return self(BatchNorm, scale=self.rng.choice([0.5, 1.0, -1.0, 2.0], size), shift=self.dyadic(size) * shift)

    def data(self, samples: int = 3) -> Array:
        shape = (samples, self.steps, *self.nodes[0].shape)  # type: ignore[attr-defined]
        if self.nodes[0].kind == "spikes":  # type: ignore[attr-defined]
            return self.rng.integers(0, 2, shape)
        return self.rng.integers(-8, 16, shape) / 8


@st.composite
def chains(draw: st.DrawFn, need: str) -> Chain:
    """Up to three layers with all that may stand between synapses and neurons, and neurons and synapses.

    Args:
        need: a pass that has something to do.
    """
    maps = need in ("fold-average-pool", "relay-max-pool") or (need != "merge-linear" and draw(st.booleans()))
    size = draw(st.sampled_from([4, 5, 6]))
    kind = draw(st.sampled_from(["spikes", "spikes", "analog"]))
    if need in ("relay-max-pool", "add-synapses"):
        kind = "spikes"
    chain = Chain((2, size, size) if maps else (5,), kind, seed=draw(st.integers(0, 2**31)))
    forced = [need]
    unpadded = False  # a shift, or a pooling that does not tile, stands since the last spikes

    def needs(what: str) -> bool:
        """The pass that has to have something to do gets it at the first occasion, the others afterwards."""
        if forced:
            return what == need and forced.pop() == what
        return draw(st.integers(0, 2)) == 0

    def between(spikes: bool) -> None:
        nonlocal unpadded
        if len(chain.shape) == 3 and min(chain.shape[1:]) > 2 and needs("fold-average-pool"):
            padding = (1, 0) if spikes and not unpadded and draw(st.booleans()) else (0, 0)
            stride = draw(st.sampled_from([(2, 2), (1, 2)]))
            tiles = stride == (2, 2) and all(n % 2 == 0 for n in chain.shape[1:]) and padding == (0, 0)
            unpadded |= not tiles
            chain(AvgPool2d, kernel=(2, 2), stride=stride, padding=padding)
        if needs("fold-batch-norm"):
            shift = draw(st.booleans())
            unpadded |= shift
            chain.norm(shift)

    def neurons() -> None:
        shape, rng = chain.shape, chain.rng
        arrays = draw(st.sampled_from([(), shape[:1], shape]))
        soft = needs("soft-reset")
        reset = draw(st.sampled_from(["subtract", "subtract", "none"])) if soft else "zero"
        recurrent = chain.dyadic(shape[0], shape[0]) if len(shape) == 1 and draw(st.booleans()) else None
        threshold = rng.choice([0.5, 1.0, 2.0, math.inf], arrays, p=[0.3, 0.4, 0.2, 0.1])
        if arrays:
            threshold.flat[0] = 1.0  # where none can fire, the potential is read
        chain(
            Neuron,
            alpha=0.0 if soft else rng.choice([0.0, 0.5, 1.0], arrays),
            beta=rng.choice([0.0, 0.5, 0.75, 1.0], arrays),
            threshold=threshold if arrays else 1.0,
            reset=reset,
            reset_delay=soft and draw(st.booleans()),
            inclusive=draw(st.booleans()),
            recurrent=recurrent,
        )

    for layer in range(draw(st.integers(1, 3))):
        unpadded = False
        spikes = layer or kind == "spikes"
        while len(chain.shape) == 3 and min(chain.shape[1:]) > 2 and spikes and needs("relay-max-pool"):
            chain(MaxPool2d, kernel=(2, 2), stride=(1, 2), padding=draw(st.sampled_from([(0, 0), (1, 1)])))
        between(spikes=True)
        if spikes and needs("add-synapses"):
            if draw(st.booleans()) and len(chain.shape) == 3:
                chain(Flatten)
        elif len(chain.shape) == 3 and draw(st.integers(0, 3)):
            chain.conv(
                2 * draw(st.integers(1, 2)),
                draw(st.sampled_from([(1, 1), (2, 2), (3, 1)] if min(chain.shape[1:]) > 2 else [(1, 1)])),
                groups=draw(st.sampled_from([1, 2])),
                bias=needs("move-bias"),
                stride=draw(st.sampled_from([(1, 1), (2, 1)])),
                padding=(0, 0) if unpadded else draw(st.sampled_from([(0, 0), (1, 1)])),
            )
            between(spikes=False)
            if draw(st.integers(0, 5)) == 0:
                chain(Flatten)
        else:
            if needs("merge-linear"):
                chain.linear(3, bias=draw(st.booleans()))
            chain.linear(4, bias=needs("move-bias"))
            between(spikes=False)
        neurons()
    end = "linear" if need == "integrate-readout" else draw(st.sampled_from(["spikes", "linear", "pool", "flatten"]))
    if end == "linear":
        chain.linear(3, bias=True)
    elif end == "pool" and len(chain.shape) == 3 and min(chain.shape[1:]) > 1:
        chain(AvgPool2d, kernel=(2, 2), stride=(2, 2))(Flatten)
    elif end == "flatten" and len(chain.shape) == 3:
        chain(Flatten)
    return chain


@pytest.mark.parametrize("need", [step.name for step in PASSES if step.name != "chain-branches"])
def test_every_pass_keeps_every_spike(need: str) -> None:
    changed = spikes = 0

    @settings(max_examples=100, deadline=None)
    @given(chains(need))
    def check(chain: Chain) -> None:
        nonlocal changed, spikes
        graph, x = chain.graph, chain.data()
        for step in PASSES:
            lowered = step.rewrite(graph)
            assert_same_spikes(chain.graph, lowered, x, step.name)
            changed += step.name == need and not same(lowered, graph)
            graph = lowered
        assert all(not block.synapse.bias.any() for block in chip_blocks(graph))
        spikes += any(0 < s.mean() < 1 for s in execute(graph, x).outputs.values())

    check()
    assert changed >= 100
    assert spikes >= 80


def same(one: Graph, other: Graph) -> bool:
    return len(one.nodes) == len(other.nodes) and all(
        type(a) is type(b) and all(np.array_equal(getattr(a, f), getattr(b, f)) for f in vars(a))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )


@st.composite
def branches(draw: st.DrawFn) -> Chain:
    """Branches of one layer's spikes, added or concatenated: maps and pooling in each and behind, delays or shifts."""
    chain = Chain((2, 4, 4), seed=draw(st.integers(0, 2**31)))
    chain.conv(2, (1, 1), bias=True)(Neuron, beta=0.5)
    spikes, ends, shift = chain.last, [], draw(st.booleans())
    for _ in range(draw(st.integers(2, 3))):
        chain(BatchNorm, spikes, scale=np.array([1.0, -2.0]), shift=chain.dyadic(2) * shift)
        for what in [*draw(st.lists(st.sampled_from(["conv", "norm", "delay"]), max_size=3, unique=True)), "pool"]:
            if what == "conv":
                chain.conv(2, (1, 1), bias=draw(st.booleans()))
            elif what == "norm":
                chain.norm(shift)
            elif what == "pool":
                chain(AvgPool2d, kernel=(2, 2), stride=(2, 2))
            elif not shift:
                chain(Delay, steps=1)
        ends.append(chain.last)
    chain(draw(st.sampled_from([Add, Concat])), *draw(st.permutations(ends)))
    for what in draw(st.permutations(["norm", "pool"])):
        chain.norm(shift) if what == "norm" else chain(AvgPool2d, kernel=(2, 1), stride=(2, 1))
    return chain(Neuron, beta=0.75, threshold=0.5)


@settings(max_examples=100, deadline=None)
@given(branches())
def test_maps_and_pooling_move_through_branches(chain: Chain) -> None:
    x = chain.data()
    normed = fold_batch_norm(chain.graph)
    assert_same_spikes(chain.graph, normed, x, "batch norm")
    pooled = fold_average_pool(normed)
    assert_same_spikes(chain.graph, pooled, x, "average pool")
    assert not any(isinstance(node, BatchNorm | AvgPool2d) for node in pooled.nodes)


def test_population_readout_counts_groups_of_spikes() -> None:
    chain = Chain((6,), seed=3).linear(6)(Neuron, beta=0.5)
    groups = np.kron(np.eye(2), np.ones((1, 3)))
    chain(Linear, weight=groups, bias=np.zeros(2))
    x = chain.data(20)
    trace = execute(chain.graph, x)
    counts = trace.outputs["2 (Neuron)"].sum(1).reshape(20, 2, 3).sum(2)
    assert np.array_equal(execute(lower(chain.graph), x).scores, counts)
    net = quantise(lower(chain.graph), x).net
    assert np.array_equal(simulate(net, x).predictions, counts.argmax(1))


@pytest.mark.parametrize("delayed", [False, True])
def test_soft_reset_by_hand(delayed: bool) -> None:
    nodes = (
        Input(name="input", shape=(1,), kind="analog"),
        Linear(name="fc", inputs=("input",), weight=np.ones((1, 1)), bias=np.zeros(1)),
        Neuron(name="lif", inputs=("fc",), beta=0.5, reset="subtract", reset_delay=delayed),
    )
    lowered = carry_state_in_current(Graph(nodes, 4))
    neuron = lowered.node("lif")
    assert isinstance(neuron, Neuron)
    assert (neuron.alpha, neuron.beta, neuron.reset) == (0.5, 0.0, "zero")
    assert neuron.recurrent is not None
    assert neuron.recurrent.tolist() == [[-1.0 if delayed else -0.5]]
    x = np.array([[[1.5], [0.5], [0.5], [1.0]]])
    # same step: 1.5 -> 0.5; 0.75; 0.875; 1.4375      one step later: 1.5; 0.75 + 0.5 - 1; 0.625; 1.3125
    assert execute(lowered, x).outputs["lif"].ravel().tolist() == [1, 0, 0, 1]
    membrane = execute(Graph(nodes, 4), x).potentials["lif"].ravel().tolist()
    assert membrane == ([1.5, 0.25, 0.625, 1.3125] if delayed else [0.5, 0.75, 0.875, 0.4375])


def test_matrix_of_a_convolution() -> None:
    chain = Chain((4, 5, 6), "analog", steps=1, seed=5)
    chain.conv(6, (3, 2), groups=2, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
    conv, x = chain.nodes[1], chain.data()
    assert isinstance(conv, Conv2d)
    expected = execute(chain.graph, x, keep=lambda node: node is conv).outputs[conv.name]
    flat = x.reshape(3, -1) @ conv_matrix(conv, (4, 5, 6)).T
    assert np.array_equal(flat.reshape(expected.shape), expected)


def _padded_average() -> Chain:
    return Chain((1, 4, 4)).conv(1)(AvgPool2d, kernel=(2, 2), stride=(1, 1), padding=(1, 1))(Neuron)


def _shift_before_padding() -> Chain:
    return Chain((2, 4, 4)).norm().conv(2, padding=(1, 1))(Neuron)


def _untiled() -> Chain:
    return Chain((2, 5, 5))(AvgPool2d, kernel=(2, 2), stride=(2, 2)).conv(2, padding=(1, 1))(Neuron)


def _soft(**fields: Any) -> Chain:
    return Chain((4,)).linear(4, bias=True)(Neuron, reset="subtract", **fields)


def _large() -> Chain:
    return Chain((2, 24, 24)).conv(4, (3, 3))(Neuron, beta=0.5, reset="subtract")


def _large_cuba() -> Chain:
    return Chain((2, 24, 24)).conv(4, (3, 3), bias=True)(Neuron, alpha=0.5)


def _potential() -> Chain:
    return Chain((4,)).linear(4, bias=True)(Neuron, alpha=0.5, threshold=math.inf)


def _analog_maximum() -> Chain:
    return Chain((1, 4, 4), "analog")(MaxPool2d, kernel=(2, 2), stride=(2, 2)).conv(2)(Neuron)


def _maximum_of_currents() -> Chain:
    return Chain((1, 4, 4)).conv(2)(MaxPool2d, kernel=(2, 2), stride=(1, 1))(Neuron)


def _norm_of_flat_currents() -> Chain:
    return Chain((1, 4, 4)).conv(2)(Flatten).norm()(Neuron)


def _maximum_of_sums() -> Chain:
    chain = Chain((1, 4, 4)).conv(2)(Neuron)
    return chain(Add, chain.last, chain.last)(MaxPool2d, kernel=(2, 2), stride=(1, 1)).conv(2)(Neuron)


REFUSED: dict[str, tuple[Chain, str]] = {
    "average pool that pads currents": (_padded_average(), r"2 \(AvgPool2d\): pads .* pool without padding"),
    "shift before padding": (_shift_before_padding(), r"1 \(BatchNorm\): shifts .*2 \(Conv2d\).* use padding 0"),
    "pooling that does not tile": (_untiled(), r"2 \(Conv2d\): has padding after 1 \(AvgPool2d\).*multiple"),
    "norm of a flattened map": (_norm_of_flat_currents(), r"3 \(BatchNorm\): follows 2 \(Flatten\)"),
    "max pool of currents": (_maximum_of_currents(), r"2 \(MaxPool2d\): pools the currents .* after the neurons"),
    "max pool of sums": (_maximum_of_sums(), r"4 \(MaxPool2d\): pools analog values"),
    "max pool of analog data": (_analog_maximum(), r"1 \(MaxPool2d\): pools analog values"),
    "soft reset of CUBA": (_soft(alpha=0.5), r"2 \(Neuron\): reset='subtract' with a current .* \(alpha 0\.5\)"),
    "late reset to zero": (
        Chain((4,)).linear(4)(Neuron, reset_delay=True),
        r"2 \(Neuron\): reset='zero' one step later .* reset_delay=False",
    ),
    "soft reset of a large map": (_large(), r"1 \(Conv2d\): .*weights is 2230272, limit 1048576; .*reset='zero'"),
    "soft reset of a wide layer": (
        Chain((1,)).linear(1025)(Neuron, reset="subtract"),
        r"2 \(Neuron\): .*weights is 1050625, limit 1048576",
    ),
    "bias of a large CUBA map": (_large_cuba(), r"1 \(Conv2d\): .*limit 1048576; train with bias=False"),
    "bias of a lone CUBA readout": (_potential(), r"1 \(Linear\): its bias .* potential is read"),
    "recurrence on a map": (
        Chain((2, 2, 2)).conv(2, (1, 1))(Neuron, recurrent=np.eye(2)),
        r"2 \(Neuron\): has recurrent synapses on a feature map",
    ),
    "growing membrane": (Chain((2,)).linear(2)(Neuron, beta=1.5), r"2 \(Neuron\): beta lies outside 0\.\.1"),
    "two convolutions": (Chain((1, 4, 4)).conv(2).conv(2)(Neuron), r"2 \(Conv2d\): follows 1 \(Conv2d\) without"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    chain, message = REFUSED[case]
    with pytest.raises(DoesNotFitError, match=f"^{message}") as caught:
        chip_blocks(lower(chain.graph))
    assert "\n" not in str(caught.value)


def test_what_skipped_passes_leave_is_refused() -> None:
    biased = Chain((2,)).linear(2, bias=True)(Neuron, reset="subtract").graph
    with pytest.raises(DoesNotFitError, match=r"2 \(Neuron\): reset='subtract' is not what the chip does"):
        chip_blocks(lower(biased, skip=["soft-reset"]))
    with pytest.raises(DoesNotFitError, match=r"2 \(Neuron\): the bias of 1 \(Linear\)"):
        chip_blocks(lower(biased, skip=["move-bias"]))
    with pytest.raises(UsageError, match="fold unknown; have fold-batch-norm"):
        lower(biased, skip=["fold"])


def test_what_the_passes_cost() -> None:
    chain = Chain((1, 4, 4)).conv(2, (1, 1))(Neuron)(MaxPool2d, kernel=(2, 2), stride=(2, 2))
    chain.linear(3)(Neuron, beta=0.5, reset="subtract").linear(2)
    costs = {cost.name: (cost.layers, cost.neurons, cost.synapses) for cost in lowering_costs(chain.graph)}
    assert tuple(costs) == tuple(step.name for step in PASSES)
    assert costs.pop("relay-max-pool") == (1, 8, 32)
    assert costs.pop("integrate-readout") == (1, 2, 0)
    assert costs.pop("soft-reset") == (0, 0, 9)
    assert set(costs.values()) == {(0, 0, 0)}
    with_bias = Chain((3,)).linear(4, bias=True)(Neuron, alpha=0.5)
    assert lowering_costs(with_bias.graph)[-1] == PassCost("move-bias", 1, 1 + 4, (3 + 5 * 5) + 4 * 5)


def test_held_input_sends_each_pixel_once() -> None:
    chain = Chain((6,), "analog", steps=7, seed=2).linear(5, bias=True)(Neuron, beta=0.5).linear(4)
    graph = lower(chain.graph)
    x = chain.data(10)[:, 0]
    nets = [quantise(one, x, scales="max").net for one in (graph, hold_input(graph))]
    graded, held = (simulate(net, x, record=Record.everything(net)).traces for net in nets)
    for layer in nets[0].layers:
        assert np.array_equal(graded.spikes[layer.name], held.spikes[layer.name])
    once, each_step = (np.count_nonzero(encode(net, x)) for net in reversed(nets))
    assert each_step == 7 * once
    assert graded.synaptic_operations - held.synaptic_operations == once * 5 * 6


def _whole(chain: Chain) -> Chain:
    """Integer weights of full scale, so that the chip's integers are the trained ones."""
    for k, node in enumerate(chain.nodes):
        if isinstance(node, Linear | Conv2d):
            weight = chain.rng.integers(-20, 30, node.weight.shape).astype(float)
            weight[0] = np.where(np.arange(weight[0].size).reshape(weight[0].shape) == 0, 127, weight[0])
            chain.nodes[k] = replace(node, weight=weight, bias=np.rint(node.bias * 8))
    return chain


def _deployed() -> dict[str, Chain]:
    hard: dict[str, Any] = {"threshold": 60.0}
    soft = hard | {"reset": "subtract"}
    return {
        "soft": Chain((8,), steps=8).linear(6, bias=True)(Neuron, **soft).linear(5, bias=True)(Neuron, **soft),
        "soft, late": Chain((8,), steps=8).linear(6)(Neuron, reset_delay=True, **soft).linear(5)(Neuron, **hard),
        "max pool": (
            Chain((2, 6, 6), steps=6)
            .conv(3, (3, 3), padding=(1, 1))(Neuron, **hard)(MaxPool2d, kernel=(2, 2), stride=(2, 2))
            .conv(3, bias=True)(Neuron, threshold=90.0)(MaxPool2d, kernel=(2, 2), stride=(1, 1))
            .linear(4)(Neuron, **hard)
        ),
        "max pool, then soft": (
            Chain((2, 6, 6), steps=6)
            .conv(3, (3, 3), padding=(1, 1))(Neuron, **hard)(MaxPool2d, kernel=(2, 2), stride=(2, 2))
            .linear(4, bias=True)(Neuron, **soft)
        ),
        "soft map": Chain((1, 4, 4), steps=6).conv(2, bias=True)(Neuron, **soft).linear(4)(Neuron, **hard),
        "always on": Chain((6,), steps=6).linear(6)(Neuron, **hard).linear(5, bias=True)(Neuron, alpha=1.0, **hard),
    }


@pytest.mark.parametrize("case", _deployed())
def test_integer_weights_reach_the_chip_exactly(case: str) -> None:
    chain = _whole(_deployed()[case])
    x = chain.data(30)
    net = quantise(lower(chain.graph), x, scales="max").net
    found = simulate(net, x, record=Record.everything(net)).traces.spikes
    layers = {block.neuron.name: block.name for block in chip_blocks(lower(chain.graph))}
    for name, spikes in execute(chain.graph, x).outputs.items():
        flat = spikes.reshape(*spikes.shape[:2], -1)
        ours = found[layers[name]].reshape(*spikes.shape[:2], -1)[..., : flat.shape[2]]
        assert 0 < flat.mean() < 1
        assert np.array_equal(ours, flat), f"{name}: {int((ours != flat).sum())} of {flat.size}"


@pytest.mark.lava
@needs_lava
@pytest.mark.parametrize("case", ["soft", "soft, late", "max pool", "leaky"])
def test_lowered_networks_in_lava(case: str) -> None:
    if case == "leaky":
        leaky: dict[str, Any] = {"reset": "subtract", "beta": 0.9}
        chain = Chain((8,), steps=8, seed=1).linear(6, bias=True)(Neuron, **leaky).linear(5, bias=True)(Neuron, **leaky)
    else:
        chain = _whole(_deployed()[case])
    x = chain.data(3)
    result = verify(quantise(lower(chain.graph), x).net, x, against="lava")
    assert all(counts.sum() for counts in result.expected.spikes_per_step.values())
    assert result.equal, result.first
