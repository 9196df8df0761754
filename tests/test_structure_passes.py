"""Branches and delays as chains with relays: every spike of every neuron stays, on random graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st
from with_lava import needs_lava

from snn2chip.compiler import compile_model
from snn2chip.conv import output_size
from snn2chip.errors import InputError, UnsupportedError
from snn2chip.graph import (
    Add,
    AvgPool2d,
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
    Shape,
    execute,
)
from snn2chip.model_file import Model
from snn2chip.passes import chip_blocks, lower
from snn2chip.passes.places import places
from snn2chip.passes.structure import chain_branches
from snn2chip.simulators import lava, reference
from snn2chip.traces import Record

STEPS = 5


class Net:
    """A graph under construction; weights and parameters are small dyadic numbers, so that no sum is rounded."""

    def __init__(self, draw: st.DrawFn | None, shape: Shape, seed: int = 0, kind: Any = "spikes") -> None:
        self.draw, self.rng = draw, np.random.default_rng(seed)
        self.nodes: list[Node] = [Input(name="input", shape=shape, kind=kind)]

    def choose(self, *options: Any) -> Any:
        return options[0] if self.draw is None else self.draw(st.sampled_from(options))

    def put(self, kind: type[Node], *inputs: str, name: str = "", **fields: Any) -> str:
        name = name or f"{kind.__name__.lower()}{len(self.nodes)}"
        self.nodes.append(kind(name=name, inputs=inputs, **fields))
        return name

    def graph(self) -> Graph:
        return Graph(tuple(self.nodes), STEPS)

    def shape(self, name: str) -> Shape:
        return self.graph().shapes()[name]

    def grid(self, *shape: int, low: int = -4, high: int = 5, step: float = 0.5) -> Any:
        return self.rng.integers(low, high, shape) * step

    def linear(self, source: str, out: int, bias: bool = True, **fields: Any) -> str:
        if len(self.shape(source)) == 3:
            source = self.put(Flatten, source)
        weight = self.grid(out, self.shape(source)[0])
        return self.put(Linear, source, weight=weight, bias=self.grid(out) * bias, **fields)

    def conv(self, source: str, out: int, bias: bool = True, groups: int = 1, **geometry: Any) -> str:
        kernel = geometry.pop("kernel", (3, 3))
        weight = self.grid(out, self.shape(source)[0] // groups, *kernel)
        return self.put(Conv2d, source, weight=weight, bias=self.grid(out) * bias, groups=groups, **geometry)

    def sized(self, source: str, out: int, size: tuple[int, int]) -> str:
        """A convolution of a drawn kernel that gives maps of ``size``: as large, or half as large, as its input's."""
        given = self.shape(source)
        geometry: dict[str, list[int]] = {"kernel": [], "stride": [], "padding": [], "dilation": []}
        for n, m in zip(given[1:], size, strict=True):
            stride = 1 if n == m else -(-n // m)
            options = [
                (k, stride, p, d)
                for k in (1, 2, 3)
                for d in ((1, 2) if k > 1 else (1,))
                for p in range(4)
                if output_size((n, n), (k, k), (stride, stride), (p, p), (d, d))[0] == m and p <= d * (k - 1)
            ]
            for field, value in zip(geometry.values(), self.choose(*options), strict=True):
                field.append(value)
        groups = self.choose(1, 1, 2) if given[0] % 2 == 0 and out % 2 == 0 else 1
        return self.conv(source, out, groups=groups, **{what: tuple(pair) for what, pair in geometry.items()})

    def neuron(self, source: str, **fields: Any) -> str:
        shape = self.shape(source)
        threshold = self.choose(1.5, self.rng.integers(1, 6, shape[:1]) * 0.5, self.rng.integers(1, 6, shape) * 0.5)
        given = {
            "alpha": self.choose(0.0, 0.0, 0.5),
            "beta": self.choose(0.5, 1.0, 0.0),
            "threshold": threshold,
            "reset": self.choose("zero", "zero", "subtract"),
            "reset_delay": self.choose(False, True),
            "inclusive": self.choose(False, False, True),
        }
        return self.put(Neuron, source, **{**given, **fields})

    def finish(self, *sources: str) -> Graph:
        """All that nothing takes yet goes to a last layer."""
        used = {name for node in self.nodes for name in node.inputs}
        ends = list(sources) or [node.name for node in self.nodes if node.name not in used]
        flat = [end if len(self.shape(end)) == 1 else self.put(Flatten, end) for end in ends]
        last = flat[0] if len(flat) == 1 else self.put(Concat, *flat)
        self.neuron(self.linear(last, 4))
        return self.graph()

    def data(self, samples: int = 3) -> Any:
        return self.rng.integers(0, 2, (samples, STEPS, *self.nodes[0].shape))  # type: ignore[attr-defined]


@st.composite
def nets(draw: st.DrawFn, shape: Shape | None = None) -> Net:
    seed = draw(st.integers(0, 2**31))
    note(f"seed {seed}")
    sizes = st.sampled_from([4, 5, 6, 7])
    return Net(draw, (draw(st.sampled_from([1, 2])), draw(sizes), draw(sizes)) if shape is None else shape, seed)


def assert_same(graph: Graph, lowered: Graph, x: Any, late: dict[str, int] | None = None) -> None:
    """Every neuron fires as before, those in ``late`` so many steps earlier."""
    before, after = execute(graph, x), execute(lowered, x)
    where = places(graph, lowered)
    assert where.keys() == before.outputs.keys()
    for name, expected in before.outputs.items():
        found = after.outputs[where[name].node].reshape(len(x), STEPS, -1)
        found = found[..., where[name].first : where[name].first + where[name].size]
        expected = expected.reshape(found.shape)
        earlier = (late or {}).get(name, 0)
        assert np.array_equal(found[:, : STEPS - earlier], expected[:, earlier:]), name
        assert not expected[:, :earlier].any()
    assert np.array_equal(before.scores, after.scores)


def check(graph: Graph, x: Any, late: dict[str, int] | None = None) -> Graph:
    """The pass alone, then in its place among all others."""
    chain = chain_branches(graph)
    assert all(node.inputs == (last.name,) for last, node in zip(chain.nodes, chain.nodes[1:], strict=False))
    assert_same(graph, chain, x, late)
    return chain


# Laws


@settings(max_examples=100, deadline=None)
@given(nets())
def test_sums(net: Net) -> None:
    """Residual sums of spikes and of currents, sums of sums, several consumers, across changes of size."""
    values = [net.neuron(net.sized("input", 2, net.shape("input")[1:]))]
    for _ in range(net.choose(1, 2, 3)):
        main = net.choose(*values)
        channels, *size = net.shape(main)
        half = net.choose(False, False, True) and min(size) > 2
        target = tuple(-(-n // 2) for n in size) if half else tuple(size)
        current = net.sized(main, channels, target)
        if net.choose(True, False):
            other = net.choose(*values)
            now = net.shape(other)[1:]
            if now == target and net.choose(True, False):
                current = net.put(Add, current, other)
            elif now == target or tuple(-(-n // 2) for n in now) == target:
                current = net.put(Add, current, net.sized(other, channels, target))
        fired = net.neuron(current)
        alike = [value for value in values if net.shape(value) == net.shape(fired)]
        if alike and net.choose(True, True, False):
            fired = net.put(Add, fired, *{net.choose(*alike), net.choose(*alike)})
        values.append(fired)
    check(net.finish(), net.data())


@settings(max_examples=100, deadline=None)
@given(nets())
def test_concatenations(net: Net) -> None:
    """Of spikes and of currents, of branches that share a layer, into convolutions and Linear."""
    size = net.shape("input")[1:]
    values = ["input"]
    for _ in range(net.choose(1, 2, 3)):
        branches = [net.choose(*values) for _ in range(net.choose(1, 2))]
        fired = [net.neuron(net.sized(branch, net.choose(1, 2), size)) for branch in branches]
        kept = net.choose(*values)
        if net.choose(True, False):
            values.append(net.put(Concat, *fired, kept))
        else:
            currents = [net.sized(one, 2, size) for one in fired]
            values.append(net.neuron(net.put(Concat, *currents, kept)))
    check(net.finish(), net.data())


@settings(max_examples=100, deadline=None)
@given(nets())
def test_skips_over_several_layers(net: Net) -> None:
    """Every layer's spikes go to the last one, past strides, dilation, and convolutions that shrink the map."""
    value = "input"
    for _ in range(net.choose(2, 3, 4)):
        size = net.shape(value)[1:]
        kernel = tuple(net.choose(1, 2, 3) if n > 3 else 1 for n in size)
        stride = tuple(net.choose(1, 1, 2) for _ in size)
        padding = net.choose((0, 0), (1, 0), (1, 1))
        value = net.neuron(net.conv(value, 2, kernel=kernel, stride=stride, padding=padding))
    neurons = [node.name for node in net.nodes if isinstance(node, Neuron)]
    hidden = net.neuron(net.linear(net.put(Flatten, value), 3), reset="zero")
    check(net.finish("input", *neurons, hidden), net.data())


@settings(max_examples=100, deadline=None)
@given(nets(shape=(5,)))
def test_dense_branches_with_delays_and_recurrence(net: Net) -> None:
    values = ["input"]
    for _ in range(net.choose(1, 2, 3)):
        source = net.choose(*values)
        if net.choose(True, False):
            source = net.put(Delay, source, steps=net.choose(1, 2, 7))
            recurrent = None
        else:
            recurrent = net.choose(None, net.grid(5, 5))
        current = net.linear(source, 5)
        if net.choose(True, False) and recurrent is None:
            other = net.put(Delay, net.choose(*values), steps=1)
            delays = None if net.choose(True, False) else np.broadcast_to(net.rng.integers(0, 3, 5), (5, 5))
            other = net.linear(other, 5, delay=delays) if net.choose(True, False) else other
            current = net.put(Add, current, other)
        undelayed = not any(isinstance(node, Delay) or getattr(node, "delay", None) is not None for node in net.nodes)
        values.append(net.neuron(current, recurrent=recurrent if undelayed else None))
        values.append(net.put(Add, values[-1], values[-2]))
    check(net.finish(), net.data())


@settings(max_examples=60, deadline=None)
@given(nets())
def test_all_passes_give_blocks(net: Net) -> None:
    """A residual net with pooling, through every pass: the chip form is reached and every spike is the same."""
    size = net.shape("input")[1:]
    kind = {"reset": "zero", "reset_delay": False}
    first = net.neuron(net.sized("input", 2, size), **kind)
    second = net.neuron(net.put(Add, net.sized(first, 2, size), first), **kind)
    third = net.put(Add, net.neuron(net.sized(second, 2, size), **kind), second)
    pooled = net.put(AvgPool2d, third, kernel=(2, 2), stride=(2, 2))
    if net.choose(True, False):
        pooled = net.neuron(net.conv(pooled, 3, kernel=net.choose((1, 1), (2, 2), (1, 2))), **kind)
    net.put(Linear, net.put(Flatten, pooled), weight=net.grid(3, int(np.prod(net.shape(pooled)))), bias=net.grid(3))
    graph = net.graph()
    lowered = lower(graph)
    assert chip_blocks(lowered)[-1].neuron.threshold == np.inf
    x = net.data()
    before, after = execute(graph, x), execute(lowered, x)
    assert np.array_equal(before.scores * STEPS, after.scores)
    where = places(graph, lowered)
    for name, spikes in before.outputs.items():
        found = after.outputs[where[name].node].reshape(len(x), STEPS, -1)
        assert np.array_equal(found[..., : where[name].size], spikes.reshape(len(x), STEPS, -1)), name


# Cases


def test_chains_are_left_alone() -> None:
    net = Net(None, (2, 6, 6))
    graph = net.finish(net.neuron(net.conv("input", 2, groups=2, dilation=(2, 1))))
    assert chain_branches(graph) is graph


def test_branches_of_one_size_share_a_layer_past_a_stride() -> None:
    """A spiking residual block that halves the map: its two ways become one layer, nothing of the input is relayed."""
    net = Net(None, (3, 8, 8))
    start = net.neuron(net.conv("input", 3, padding=(1, 1)), name="start")
    first = net.neuron(net.conv(start, 4, padding=(1, 1), stride=(2, 2)), name="first")
    down = net.neuron(net.conv(start, 4, kernel=(1, 1), stride=(2, 2)), name="down", threshold=0.5, beta=1.0)
    second = net.neuron(net.conv(first, 4, padding=(1, 1)), name="second")
    graph = net.finish(net.put(Add, second, down))
    chain = check(graph, net.data())
    layers = {node.name: node for node in chain.nodes if isinstance(node, Neuron)}
    assert [(name, node.relays) for name, node in layers.items()] == [
        ("start", 0),
        ("first + down", 0),
        ("second", 4),
        (graph.output.name, 0),
    ]
    assert places(graph, chain)["down"].first == 4 * 4 * 4
    strided = next(node for node in chain.nodes if isinstance(node, Conv2d) and node.stride == (2, 2))
    assert (strided.weight.shape, strided.padding) == ((8, 3, 3, 3), (1, 1))


def test_only_the_phase_that_is_read_is_relayed() -> None:
    """A residual block with a strided 1x1 convolution on the short way, added as currents."""
    net = Net(None, (3, 8, 8))
    start = net.neuron(net.conv("input", 3, padding=(1, 1)), name="start")
    first = net.neuron(net.conv(start, 4, padding=(1, 1), stride=(2, 2)), name="first")
    short = net.conv(start, 4, kernel=(1, 1), stride=(2, 2))
    second = net.neuron(net.put(Add, net.conv(first, 4, padding=(1, 1)), short), name="second")
    chain = check(net.finish(second), net.data())
    first_layer = chain.node("first")
    assert isinstance(first_layer, Neuron)
    assert first_layer.relays == 3  # one map for each channel, of four phases
    whole = Net(None, (3, 8, 8))
    value = whole.neuron(
        whole.conv(whole.neuron(whole.conv("input", 3, kernel=(1, 1))), 4, stride=(2, 2), padding=(1, 1))
    )
    assert check(whole.finish("input", value), whole.data()).node(value).relays == 4 * 3  # type: ignore[attr-defined]


def test_a_map_relayed_past_a_smaller_one_is_cut_into_several() -> None:
    net = Net(None, (2, 8, 7))
    small = net.neuron(net.conv("input", 3), name="small")
    back = net.neuron(net.put(Add, net.conv(small, 2, padding=(2, 2)), "input"), name="back")
    chain = check(net.finish(net.put(Concat, back, "input"), small), net.data())
    relays = {node.name: node.relays for node in chain.nodes if isinstance(node, Neuron)}
    assert relays["small"] == 2 * 2 * 2  # rows in two parts, columns too, of two channels
    assert relays["back"] == 2 + 3


@pytest.mark.parametrize("end", ["sum of spikes", "sum of currents", "concatenation", "delay"])
def test_what_reads_out_several_branches(end: str) -> None:
    net = Net(None, (4,))
    first = net.neuron(net.linear("input", 3), name="first")
    second = net.neuron(net.linear(first, 3), name="second")
    if end == "sum of currents":
        net.put(Add, net.linear(first, 2), net.linear(second, 2))
    elif end == "delay":
        net.put(Delay, net.put(Add, first, second), steps=2)
    else:
        net.put(Add if end == "sum of spikes" else Concat, first, second)
    graph, x = net.graph(), net.data()
    lowered = lower(graph)
    blocks = chip_blocks(lowered)
    assert len(blocks) == 3
    assert np.array_equal(execute(graph, x).scores * STEPS, execute(lowered, x).scores)


def test_neurons_of_the_same_kind_join_with_their_recurrence() -> None:
    net = Net(None, (4,))
    ways = [net.neuron(net.linear("input", n), recurrent=net.grid(n, n), reset="zero") for n in (3, 2)]
    graph = net.finish(*ways, "input")
    chain = check(graph, net.data())
    joined = chain.node(" + ".join(ways))
    assert isinstance(joined, Neuron)
    assert joined.recurrent is not None
    assert joined.recurrent.shape == (9, 9)
    assert joined.relays == 4
    assert not joined.recurrent[5:].any() and not joined.recurrent[:, 5:].any() and not joined.recurrent[:3, 3:].any()


def test_delay_becomes_one_of_synapses() -> None:
    net = Net(None, (2, 4, 4))
    first = net.neuron(net.conv("input", 2))
    late = net.put(Delay, net.put(Flatten, first), steps=3)
    chain = check(net.finish(net.neuron(net.linear(late, 3))), net.data())
    assert [node.delay.max() for node in chain.nodes if isinstance(node, Linear) and node.delay is not None] == [3]


def test_several_delays_between_two_neurons_take_a_layer_of_relays() -> None:
    net = Net(None, (2, 3, 3))
    first = net.put(Flatten, net.neuron(net.conv("input", 2, padding=(1, 1)), name="first"))
    late = net.put(Delay, first, steps=2)
    second = net.neuron(net.put(Add, net.linear(first, 3), net.linear(late, 3)), name="second")
    chain = check(net.finish(second, late, first), net.data())
    delays = chain.node("second delays")
    assert isinstance(delays, Neuron)
    assert delays.relays == 2 * 18


def test_delay_before_a_convolution_moves_behind_silent_neurons() -> None:
    net = Net(None, (2, 6, 6))
    first = net.neuron(net.conv("input", 2, padding=(1, 1)), name="first")
    late = net.put(Delay, first, steps=2)
    second = net.neuron(net.conv(late, 2, bias=False, padding=(1, 1)), name="second")
    third = net.neuron(net.put(Add, net.conv(second, 2, bias=False, padding=(1, 1)), late), name="third")
    biased = net.put(Delay, net.conv(first, 2, padding=(1, 1)), steps=1)
    fourth = net.neuron(biased, name="fourth")
    graph = net.finish(third, second, fourth)
    chain = check(graph, net.data(), {"second": 2, "third": 2, "fourth": 1})
    last = chain.nodes[-2]
    assert isinstance(last, Linear)
    assert last.delay is not None
    assert sorted(set(last.delay[last.weight != 0].tolist())) == [1, 2]


def test_delay_of_a_current_with_its_bias_moves_behind_the_neurons() -> None:
    net = Net(None, (4,))
    early = net.neuron(net.put(Delay, net.linear("input", 4), steps=2), name="early")
    check(net.finish(early), net.data(), {"early": 2})


def test_synaptic_delays_in_the_executor() -> None:
    weight, delay = np.array([[1.0, 2.0, 4.0]]), np.array([[0, 2, 9]])
    linear = Linear(name="fc", inputs=("input",), weight=weight, bias=np.array([8.0]), delay=delay)
    graph = Graph((Input(name="input", shape=(3,)), linear), 4)
    x = np.array([[[1, 1, 1], [0, 1, 1], [0, 0, 0], [1, 0, 1]]])
    trace = execute(graph, x, keep=lambda node: node.name == "fc")
    assert trace.outputs["fc"].ravel().tolist() == [9, 8, 10, 11]
    with pytest.raises(InputError, match="fc: delays must be whole numbers"):
        replace(linear, delay=delay + 0.5)
    with pytest.raises(InputError, match=r"fc: delay has shape \(3,\), expected \(1, 3\)"):
        graph.replaced({"fc": replace(linear, delay=delay[0])}).shapes()


# Refusals


def dead_end(net: Net) -> None:
    net.neuron(net.conv("input", 2), name="lost")
    net.neuron(net.linear("input", 2))


def analog_past_a_layer(net: Net) -> None:
    hidden = net.neuron(net.conv("input", 2), name="hidden")
    net.neuron(net.put(Add, net.linear(hidden, 3), net.linear("input", 3)), name="late")


def two_strides(net: Net) -> None:
    both = net.put(Add, net.conv("input", 2, kernel=(4, 4)), net.conv("input", 2, kernel=(2, 2), stride=(2, 2)))
    net.neuron(both, name="both")


def larger_than_before(net: Net) -> None:
    small = net.neuron(net.conv("input", 2, stride=(2, 2), padding=(1, 1)), name="small")
    net.neuron(net.put(Concat, net.conv(small, 2, kernel=(1, 1), padding=(1, 1)), "input"), name="large")


def several_delays(net: Net) -> None:
    late = net.put(Delay, "input", steps=2)
    net.linear(net.neuron(net.put(Add, net.conv(late, 2), net.conv("input", 2, bias=False)), name="mixed"), 2)


def late_and_biased(net: Net) -> None:
    net.linear(net.neuron(net.conv(net.put(Delay, "input", steps=2), 2), name="biased"), 2)


def fires_alone(net: Net) -> None:
    late = net.conv(net.put(Delay, "input", steps=2), 2, bias=False)
    net.neuron(net.linear(net.neuron(late, name="eager", threshold=-1.0), 2))


def late_output(net: Net) -> None:
    net.neuron(net.conv(net.put(Delay, "input", steps=2), 2, bias=False), name="last")


def no_neurons_between(net: Net) -> None:
    net.neuron(net.linear(net.put(Add, net.conv("input", 2), net.conv("input", 2)), 3))


def max_pooling(net: Net) -> None:
    net.put(MaxPool2d, net.put(Add, "input", "input"), kernel=(2, 2), stride=(2, 2), name="pool")
    net.neuron(net.conv("pool", 2, kernel=(1, 1)))


def no_last_neurons(net: Net) -> None:
    net.put(Add, "input", "input", name="end")


REFUSED = {
    dead_end: "lost: nothing takes its output",
    analog_past_a_layer: "late: takes the analog input past hidden",
    two_strides: "both: its synapses move by different",
    larger_than_before: "large: its synapses move by different",
    several_delays: "mixed: its input arrives with delays of 0, 2 steps; only",
    late_and_biased: "biased: its input arrives with delays of 0, 2 steps; only",
    fires_alone: "eager: fires without input",
    late_output: "last: is the output, and its input is late by 2 steps",
    no_neurons_between: "flatten4: follows add3 without neurons between",
    max_pooling: "pool: a MaxPool2d in a network with branches",
    no_last_neurons: "end: is the last operation, but has no neurons",
}


@pytest.mark.parametrize("build", REFUSED, ids=lambda build: build.__name__)
def test_refusals_name_the_layer(build: Callable[[Net], None]) -> None:
    net = Net(None, (2, 5, 5), kind="analog" if build is analog_past_a_layer else "spikes")
    build(net)
    nodes = tuple(net.nodes)
    if isinstance(nodes[-1], Linear):
        net.neuron(nodes[-1].name)
    with pytest.raises(UnsupportedError) as caught:
        chain_branches(net.graph())
    assert str(caught.value).startswith(REFUSED[build])
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value) or ", " in str(caught.value)


# On the chip


class IntegerNet(Net):
    """Weights of -1, 0 and 1, neurons that integrate: the chip's integers can be the trained model's."""

    def ternary(self, synapses: str) -> str:
        node = self.nodes[-1]
        assert isinstance(node, Linear | Conv2d)
        self.nodes[-1] = replace(node, weight=self.rng.integers(-1, 2, node.weight.shape) * 1.0)
        return synapses

    def fire(self, source: str, threshold: float = 1.5) -> str:
        return self.neuron(source, threshold=threshold, beta=1.0, reset="zero")


def residual_net() -> IntegerNet:
    """Three blocks: a sum of spikes, a sum of currents, and one that halves the map on both ways."""
    net = IntegerNet(None, (2, 8, 8), seed=4)
    fire = net.fire

    def conv(source: str, out: int, **geometry: Any) -> str:
        return net.ternary(net.conv(source, out, bias=False, **geometry))

    same: dict[str, Any] = {"padding": (1, 1)}
    one = fire(conv("input", 4, **same))
    one = net.put(Add, fire(conv(fire(conv(one, 4, **same)), 4, **same)), one)
    two = fire(conv(one, 4, **same))
    two = fire(net.put(Add, conv(two, 4, **same), one))
    half = fire(conv(two, 6, stride=(2, 2), **same))
    short = fire(conv(two, 6, kernel=(1, 1), stride=(2, 2)))
    three = net.put(Add, fire(conv(half, 6, **same)), short)
    fire(net.ternary(net.linear(three, 5, bias=False)), 3.5)
    return net


def delayed_net() -> IntegerNet:
    """A delay before a convolution, and several of one neuron's spikes."""
    net = IntegerNet(None, (2, 5, 5), seed=5)
    first = net.fire(net.ternary(net.conv("input", 3, bias=False)))
    late = net.ternary(net.conv(net.put(Delay, first, steps=1), 2, bias=False, padding=(1, 1)))
    second = net.neuron(late, threshold=1.5, beta=1.0, reset="zero", name="moved")
    flat = net.put(Flatten, second)
    now = net.ternary(net.linear(flat, 6, bias=False))
    then = net.ternary(net.linear(net.put(Delay, flat, steps=1), 6, bias=False))
    hidden = net.fire(net.put(Add, now, then))
    net.fire(net.ternary(net.linear(net.put(Concat, hidden, net.put(Delay, flat, steps=1)), 4, bias=False)))
    return net


ON_CHIP = pytest.mark.parametrize("build", [residual_net, delayed_net], ids=lambda build: build.__name__)


@ON_CHIP
def test_chip_fires_as_the_graph_where_weights_are_integers(build: Callable[[], IntegerNet]) -> None:
    net = build()
    graph, x = net.graph(), net.data(8)
    compiled = compile_model(Model(graph, x=x))
    expected = execute(graph, x)
    found = reference.run(compiled.net, x, record=Record.everything(compiled.net)).spikes
    layers = {block.neuron.name: block.name for block in chip_blocks(compiled.lowered)}
    for name, place in places(graph, compiled.lowered).items():
        spikes = found[layers[place.node]].reshape(len(x), STEPS, -1)[..., place.first : place.first + place.size]
        wanted = expected.outputs[name].reshape(spikes.shape)
        early = int(name == "moved")
        assert 0 < wanted.mean() < 1
        assert np.array_equal(spikes[:, : STEPS - early], wanted[:, early:]), name


@pytest.mark.lava
@needs_lava
@ON_CHIP
def test_lava_fires_as_the_chip(build: Callable[[], IntegerNet]) -> None:
    source = build()
    x = source.data(8)
    net = compile_model(Model(source.graph(), x=x)).net
    record = Record.everything(net)
    expected, found = reference.run(net, x[:2], record=record), lava.run(net, x[:2], record=record, timeout=600)
    for what in ("spikes", "u", "v"):
        for name, wanted in getattr(expected, what).items():
            assert np.array_equal(getattr(found, what)[name], wanted), f"{what} of {name}"
