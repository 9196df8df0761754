"""Targets, placement and design rules: does it fit."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strategies
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from with_lava import SHIPPED

from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Neuron, SigmaDelta
from snn2chip.cli import cli
from snn2chip.errors import DoesNotFitError, LimitError, UsageError
from snn2chip.exporters import netx
from snn2chip.hardware import BOARDS, RULES, TARGETS, Placement, Target, check, place, require, target_of
from snn2chip.hardware.memory import blocks, mantissa
from snn2chip.hardware.placement import Split

LOIHI1, LOIHI2 = (target_of(name) for name in TARGETS)


def with_limit(target: Target, **values: int) -> Target:
    """``target`` with other limits."""
    changed = {name: dataclasses.replace(target.limits[name], value=value) for name, value in values.items()}
    return dataclasses.replace(target, limits={**target.limits, **changed})


def weights(*shape: int) -> np.ndarray[Any, Any]:
    """Mixed signs that need all of eight bits."""
    array = np.random.default_rng(0).integers(-127, 128, shape)
    array.flat[:2] = -127, 127
    return array


def dense(*sizes: int, window: int = 16) -> ChipNet:
    layers = [
        Dense(f"fc{i}", (a,), weights(b, a) if a * b > 1 else np.array([[1]]), Neuron.of("", 100))
        for i, (a, b) in enumerate(itertools.pairwise(sizes))
    ]
    return ChipNet(sizes[:1], tuple(layers), time_steps=window)


def one(weight: Any, neuron: Neuron | SigmaDelta | None = None, **more: Any) -> ChipNet:
    """One dense layer called ``body.0``."""
    weight = np.asarray(weight)
    return ChipNet(weight.shape[1:], (Dense("body.0", weight.shape[1:], weight, neuron or Neuron.of("", 100), **more),))


def neurons(**parameters: Any) -> ChipNet:
    """As many neurons as the parameters say, one input."""
    size = max(np.size(value) for value in parameters.values())
    return one(np.ones((size, 1), int), Neuron.of("", **{"threshold": 100, **parameters}))


def conv(*input_shape: int, kernel: tuple[int, int] = (1, 1)) -> ChipNet:
    layer = Conv("body.0", input_shape, np.ones((1, input_shape[0], *kernel), int), Neuron.of("", 100))
    return ChipNet(input_shape, (layer,))


def delays(longest: int) -> ChipNet:
    return one([[1, 2]], delay=np.array([[0, longest]]))


def graded(encoding: Encoding) -> ChipNet:
    return dataclasses.replace(one([[1]]), encoding=encoding)


def image(size: int) -> ChipNet:
    return ChipNet((size,), (InputNeurons("body.0", (size,), Neuron.of("", 100)),))


SHORT = with_limit(LOIHI2, delay=7)
TIGHT = with_limit(LOIHI2, neurons_per_core=99, axon_map=99)
WIDE = place(dense(2, 100), LOIHI2)  # made for a chip with larger cores
LOIHI2_WIDE = with_limit(LOIHI2, neurons_per_core=100, axon_map=100)

#: Rule, target, network at the limit, network beyond, value that is named, level.
Case = tuple[str, Target, ChipNet, ChipNet, Any, str]
CASES: dict[str, Case] = {
    "mixed": ("WEIGHT", LOIHI2, one([[-128, 127]]), one([[-128, 129]]), "-128..129", "error"),
    "even": ("WEIGHT", LOIHI2, one([[-256, 254]]), one([[-256, 253]]), "-256..253", "error"),
    "one sign": ("WEIGHT", LOIHI1, one([[1, 255]]), one([[-1, 255]]), "-1..255", "error"),
    "threshold": (
        "THRESHOLD",
        LOIHI2,
        neurons(threshold=131071),
        neurons(threshold=limits.LAVA_THRESHOLD_MAX),
        131072,
        "error",
    ),
    "vDecay": ("VDECAY", LOIHI2, neurons(voltage_decay=4095), neurons(voltage_decay=[0, 4096]), 4096, "error"),
    "iDecay": ("IDECAY", LOIHI1, neurons(current_decay=1), neurons(current_decay=0), 0, "error"),
    "bias": ("BIAS", LOIHI2, neurons(bias=[-4096, 4095]), neurons(bias=4096), 4096, "error"),
    "negative bias": ("BIAS", LOIHI2, neurons(bias=-4096), neurons(bias=[3, -4097]), -4097, "error"),
    "delay": ("DELAY", SHORT, delays(7), delays(8), 8, "error"),
    "graded input": ("GRADED", LOIHI1, graded(Encoding()), graded(Encoding("graded", 1.0, 0, 255)), 8, "error"),
    "kind": (
        "NEURON",
        LOIHI1,
        one([[1]]),
        one([[1]], SigmaDelta.of("", 1)),
        "SigmaDelta",
        "error",
    ),
    "window": ("WINDOW", LOIHI2, dense(1, 1, window=16), dense(1, 1, window=17), 17, "warning"),
    "width": ("INPUT-WIDTH", LOIHI2, conv(1, 1, 255), conv(1, 1, 256), 256, "warning"),
    "large input": ("CONV-INPUT", LOIHI2, conv(1, 125, 128), conv(1, 127, 126), 16002, "warning"),
    "sum": ("WEIGHT-SUM", LOIHI2, one([[-256] * 128]), one([[-256] * 128 + [2]]), 32770, "warning"),
    "profiles 1": (
        "PROFILES",
        LOIHI1,
        neurons(voltage_decay=np.arange(32)),
        neurons(voltage_decay=np.arange(33)),
        33,
        "error",
    ),
    "profiles 2": (
        "PROFILES",
        LOIHI2,
        neurons(threshold=np.arange(8)),
        neurons(threshold=np.arange(9)),
        9,
        "warning",
    ),
    "thresholds": (
        "THRESHOLDS",
        LOIHI1,
        neurons(threshold=np.arange(16)),
        neurons(threshold=np.arange(17)),
        17,
        "error",
    ),
    "axons in": ("AXON-IN", LOIHI1, one(np.ones((1, 4096), int)), one(np.ones((1, 4097), int)), 4097, "error"),
    "axons out": ("AXON-OUT", LOIHI1, dense(1, 1024, 224), dense(1, 1024, 225), 5120, "error"),
    "synaptic memory": (
        "SYN-MEM",
        LOIHI2,
        conv(1777, 3, 3, kernel=(3, 3)),
        conv(1778, 3, 3, kernel=(3, 3)),
        16002,
        "error",
    ),
    "core memory": ("CORE-MEM", LOIHI2, one(np.ones((1, 9999), int)), one(np.ones((1, 10000), int)), 20002, "error"),
    "cores": ("CORES", LOIHI2, image(4095 * 120), image(4095 * 120 + 1), 121, "error"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_rule_fires_beyond_its_limit_and_not_at_it(name: str) -> None:
    rule, target, at, beyond, value, level = CASES[name]
    board = BOARDS["oheogulch"] if rule == "CORES" else None
    identity = f"{target.prefix}-{rule}"
    assert identity not in [finding.id for finding in check(at, target, board=board)]
    found = [finding for finding in check(beyond, target, board=board) if finding.id == identity]
    assert len(found) == 1
    layer = {"WINDOW": "network", "AXON-OUT": "fc0"}.get(rule, "body.0")
    assert (found[0].value, found[0].level, found[0].layer) == (value, level, layer)
    assert found[0].remedy and found[0].remedy in str(found[0]) and identity in str(found[0])


@pytest.mark.parametrize(("rule", "limit"), [("NEURONS", "neurons_per_core"), ("AXON-MAP", "axon_map")])
def test_rules_that_our_own_placement_keeps(rule: str, limit: str) -> None:
    """Placement splits further instead; a placement made for larger cores breaks them."""
    net = dense(2, 100)
    for most, broken in ((100, []), (99, [100])):
        target = with_limit(LOIHI2, **{limit: most})
        found = [f.value for f in check(net, target, WIDE) if f.id == f"L2-{rule}"]
        assert found == broken
        assert f"L2-{rule}" not in [f.id for f in check(net, target)]


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == {case[0] for case in CASES.values()} | {"NEURONS", "AXON-MAP"}
    assert all(rule.function.__doc__ and "Source:" in rule.function.__doc__ for rule in RULES)


def test_loihi_2_takes_what_loihi_1_does_not() -> None:
    for net in (neurons(current_decay=0), graded(Encoding("hold", 1.0, 0, 255)), one([[1]], SigmaDelta.of("", 1))):
        assert [f.level for f in check(net, LOIHI1)] == ["error"]
        assert check(net, LOIHI2) == []


def test_errors_are_refused_unless_allowed() -> None:
    findings = check(neurons(voltage_decay=4096, bias=5000), LOIHI2)
    with pytest.raises(DoesNotFitError, match=r"body\.0: vDecay is 4096, limit 4095; .* --allow L2-VDECAY .*; 1 more"):
        require(findings)
    with pytest.raises(DoesNotFitError, match=r"bias mantissa is 5000, limit -4096\.\.4095"):
        require(findings, ["L2-VDECAY"])
    require(findings, ["L2-VDECAY", "L2-BIAS"])
    require(check(dense(1, 1, window=17), LOIHI2))  # warnings pass
    with pytest.raises(UsageError, match="'L2-NIX' is no rule"):
        require([], ["L2-NIX"])


def test_targets() -> None:
    for target in (LOIHI1, LOIHI2):
        assert all(limit.source and limit.unit is not None for limit in target.limits.values())
        assert all(cost.low <= cost.mid <= cost.high and cost.source for cost in target.costs.values())
        used = {name for rule in RULES for name in rule.limits}
        assert len(used & set(target.limits)) > 10
    assert LOIHI2.value("threshold") == limits.THRESHOLD_MAX
    assert LOIHI2.costs["synapse_dense_time"].low == LOIHI1.costs["synapse_dense_time"].low / 5
    assert {name: board.chips for name, board in BOARDS.items() if board.target == "loihi2"} == {
        "oheogulch": 1,
        "kapoho-point": 8,
        "halapoint": 1152,
    }
    with pytest.raises(UsageError, match="'loihi3' is unknown, expected loihi1 or loihi2"):
        target_of("loihi3")


# Placement


def test_mnist_layout_is_the_published_one() -> None:
    """Utilisation of Loihi 2 cores for 784-128-64-10; cores as published."""
    placement = place(dense(784, 128, 64, 10), LOIHI2)
    first = [placement.cores[indices[0]] for indices in placement.by_layer.values()]
    assert [100 * placement.utilisation(core)["core_words"] for core in first] == pytest.approx(
        [67.14, 14.72, 1.70], abs=0.1
    )
    assert [len(indices) for indices in placement.by_layer.values()] == [3, 1, 1]


def shipped(path: str) -> Path:
    if not (SHIPPED / path).exists():
        pytest.skip("lava-dl and its tests are not installed")
    return SHIPPED / path


@pytest.mark.parametrize(
    ("split", "cores"),
    [("divide", [13, 25, 13, 3, 3, 2, 12, 1, 1, 1]), ("fill", [13, 25, 13, 3, 3, 2, 5, 1, 1, 1])],
)
def test_pilotnet_layout(split: Split, cores: list[int]) -> None:
    """The log of lava-dl's netx/pilotnet_snn/benchmark.ipynb: 74 cores, words of synapses and of the axon map."""
    placement = place(netx.read(shipped("gts/pilotnet_lif/network.net")), LOIHI2, split)
    layers = list(placement.by_layer.values())
    assert [len(indices) for indices in layers] == cores
    if split == "divide":
        mean = [np.mean([placement.cores[i].synapse_words for i in indices]) for indices in layers]
        assert [int(words) for words in mean] == [0, 81, 864, 1620, 2160, 2880, 7253, 1300, 150, 10]
        entries = [np.mean([placement.cores[i].axon_map for i in indices]) for indices in layers]
        assert [int(count) for count in entries] == [1015, 253, 113, 112, 29, 1280, 8, 50, 10, 1]
        assert [placement.cores[indices[0]].axons_in for indices in layers] == [0, 2, 2, 2, 1, 1, 2560, 100, 50, 10]


def test_blocks_of_channels() -> None:
    assert [blocks(n, LOIHI2) for n in (3, 24, 36, 48, 64)] == [[4], [16, 8], [32, 4], [32, 16], [64]]
    assert blocks(24, LOIHI1) == [24]


@pytest.mark.parametrize(
    ("values", "bits"),
    [
        ([-3, 3], 3),
        ([-6, 6], 3),
        ([-24, 20], 4),
        ([-128, 127], 8),
        ([0, 255], 8),
        ([-256, 254], 8),
        ([0], 1),
        ([-4], 1),
    ],
)
def test_bits_of_weights(values: list[int], bits: int) -> None:
    assert mantissa(one([values]).layers[0]).bits == bits


SMALL = {
    "loihi1": with_limit(LOIHI1, neurons_per_core=7, synapse_words=60, cores_per_chip=9),
    "loihi2": with_limit(
        LOIHI2, neurons_per_core=9, synapse_words=60, synapse_words_planned=40, synapse_words_divided=30, core_words=80
    ),
}


@given(strategies.chip_nets(delays=True), st.sampled_from(sorted(SMALL)), st.sampled_from(["fill", "divide"]))
@settings(max_examples=60, deadline=None)
def test_placement_laws(net: ChipNet, name: str, split: Split) -> None:
    """Each neuron is on one core, cores hold what the rules say, messages go exactly where synapses are."""
    target = SMALL[name]
    placement = place(net, target, split)
    assert place(net, target, split).cores == placement.cores
    owners: list[np.ndarray[Any, Any]] = []
    for layer in net.layers:
        owner = np.full(layer.shape, -1)
        for i in placement.by_layer[layer.name]:
            part = placement.cores[i].part(owner)
            assert (part == -1).all() and part.size == placement.cores[i].neurons
            part[:] = i
        assert (owner >= 0).all()
        owners.append(owner)
    assert sorted(placement.slots) == list(range(len(placement.cores)))
    names = {"neurons_per_core": "NEURONS", "synapse_words": "SYN-MEM", "axons_in": "AXON-IN", "core_words": "CORE-MEM"}
    over = {
        f"{target.prefix}-{names[resource]}"
        for core in placement.cores
        for resource, share in placement.utilisation(core).items()
        if share > 1 and resource in names
    }
    found = {f.id for f in check(net, target, placement)}
    assert over == found & {f"{target.prefix}-{rule}" for rule in names.values()}
    assert traffic_of(placement) == expected_traffic(net, owners)


def traffic_of(placement: Placement) -> dict[tuple[int, int], int]:
    traffic = placement.traffic
    return dict(
        zip(zip(traffic.source.tolist(), traffic.target.tolist(), strict=True), traffic.neurons.tolist(), strict=True)
    )


def expected_traffic(net: ChipNet, owners: list[np.ndarray[Any, Any]]) -> dict[tuple[int, int], int]:
    """One neuron at a time: the cores of the neurons that it has synapses on."""
    found: dict[tuple[int, int], int] = {}

    def count(source: int, targets: Any) -> None:
        for core in np.unique(targets):
            found[source, int(core)] = found.get((source, int(core)), 0) + 1

    for i, layer in enumerate(net.layers):
        if isinstance(layer, Dense) and layer.recurrent is not None:
            for owner in owners[i].ravel():
                count(int(owner), owners[i])
        if i == 0:
            continue
        if not isinstance(layer, Conv):
            for owner in owners[i - 1].ravel():
                count(int(owner), owners[i])
            continue
        reached: dict[tuple[int, ...], set[int]] = {}
        per_group, wide = layer.shape[0] // layer.groups, layer.weight.shape[1]
        for (c, y, x), owner in np.ndenumerate(owners[i]):
            for k, dy, dx in np.ndindex(wide, *layer.weight.shape[2:]):
                row = y * layer.stride[0] - layer.padding[0] + dy * layer.dilation[0]
                column = x * layer.stride[1] - layer.padding[1] + dx * layer.dilation[1]
                if 0 <= row < layer.input_shape[1] and 0 <= column < layer.input_shape[2]:
                    reached.setdefault((c // per_group * wide + k, row, column), set()).add(int(owner))
        for position, targets in reached.items():
            count(int(owners[i - 1][position]), list(targets))
    return found


def test_refinement_shortens_the_way() -> None:
    """Layers of unequal size; the order of the layers alone is longer."""
    placement = place(dense(300, 300, 20, 300, 20, 300), SMALL["loihi2"])
    ordered = dataclasses.replace(placement, slots=np.arange(len(placement.cores)))
    way, ordered_way = (sum(int(h @ p.traffic.neurons) for h in p.hops) for p in (placement, ordered))
    assert 0 < way < ordered_way
    assert placement.chips == -(-len(placement.cores) // 120) > 1
    assert placement.between_chips > 0


@pytest.mark.parametrize("shape", [(1, 60000, 60000), (1, 1, 1 << 25), (1 << 25, 1, 1)])
def test_far_too_large_layers_are_refused_at_once(shape: tuple[int, int, int]) -> None:
    net = ChipNet(shape, (InputNeurons("body.0", shape, Neuron.of("", 100)),))
    with pytest.raises(LimitError, match=r"body\.0: number of cores of one layer is \d+, limit 4096"):
        place(net, LOIHI2)
    wide = Conv("body.1", (1, 1, 1 << 22), np.ones((1, 1, 1, 3), int), Neuron.of("", 100))
    assert len(place(ChipNet((1, 1, 1 << 22), (wide,)), LOIHI2).cores) == 2048


def test_ten_million_synapses_are_placed() -> None:
    net = dense(*[1000] * 11)
    placement = place(net, LOIHI2)
    assert sum(layer.synapses for layer in net.layers) == 10**7
    assert (len(placement.cores), placement.chips) == (270, 3)


# Command line


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that fits, and one that only Lava can run."""
    path = tmp_path_factory.mktemp("hardware")
    netx.write(dense(20, 30, 10), path / "good.net")
    netx.write(neurons(voltage_decay=4096, current_decay=0), path / "lava.net")
    return path


def test_inspect_shows_cores_and_rules(folder: Path) -> None:
    content = json.loads(call("inspect", folder / "good.net", "--json").stdout)
    assert (content["checked_for"], content["cores"], content["chips"], content["rules"]) == ("loihi2", 2, 1, [])
    assert content["synaptic_memory_bytes"] == 8 * (20 * 10 + 30 * 4)
    assert [row["cores"] for row in content["placement"]] == [1, 1]
    assert "no design rule of Loihi 2 broken" in call("inspect", folder / "good.net").stdout
    content = json.loads(call("inspect", folder / "lava.net", "--json", "--board", "nahuku").stdout)
    assert [rule["id"] for rule in content["rules"]] == ["L1-VDECAY", "L1-IDECAY"]
    assert {"id", "level", "layer", "value", "limit", "remedy"} <= content["rules"][0].keys()
    text = call("inspect", folder / "lava.net").stdout
    assert "error: body.0: vDecay is 4096, limit 4095; " in text and "(L2-VDECAY)" in text
    conflict = call("inspect", folder / "good.net", "--board", "nahuku", "--target", "loihi2")
    assert (conflict.exit_code, "chips of kind loihi1" in conflict.stderr) == (2, True)


def test_export_refuses_what_the_chip_cannot_hold(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import snn2chip as s2c
    from snn2chip.nn import LIF, Network

    torch.manual_seed(0)
    network = Network(torch.nn.Linear(8, 4), LIF(), input_shape=(8,), time_steps=4)
    s2c.save(network, tmp_path / "model.pt", calibration=torch.rand(8, 8))
    export: Callable[..., Result] = lambda *more: call(  # noqa: E731
        "export", tmp_path / "model.pt", "-o", tmp_path / "a.net", "--no-verify", *more
    )
    refused = export("--target", "loihi1")
    assert (refused.exit_code, "L1-GRADED" in refused.stderr) == (4, True)
    assert not (tmp_path / "a.net").exists()
    unknown = export("--allow", "GRADED")
    assert (unknown.exit_code, "is no rule" in unknown.stderr) == (2, True)
    assert export("--target", "loihi1", "--allow", "L1-GRADED").exit_code == 0
