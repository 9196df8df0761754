"""Early exit: circuit, integer rule, ended and gated windows decide the same, for every policy and in every corner."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from with_lava import needs_lava

import snn2chip as s2c
from snn2chip import limits
from snn2chip.chip import ChipNet, Conv, Dense, InputNeurons, Neuron, Readout
from snn2chip.cli import cli
from snn2chip.early_exit import (
    attach,
    calibrate,
    detach,
    fit_gap,
    gap_rule,
    gates,
    level_costs,
    oracle,
    simulate_exit,
    softmax_gap,
    softmax_ladder,
    softmax_rule,
    verify_exit,
    with_host_rule,
)
from snn2chip.early_exit.activity import decisions, latency, of_spikes, required_record, run_layers, until
from snn2chip.early_exit.calibration import (
    binomial_tail,
    drop_bound,
    ended,
    lower_share,
    samples_needed,
    upper_share,
)
from snn2chip.early_exit.circuit import THRESHOLD_MAX, rounding_error
from snn2chip.early_exit.evidence import Evidence, circuit_evidence, source_layer
from snn2chip.early_exit.policies import Decisions, Lead, apply, decide, lead, softmax
from snn2chip.errors import CheckFailed, InputError, LimitError, UnsupportedError, UsageError
from snn2chip.simulation import simulate
from snn2chip.traces import Record, encode

Array = Any

runs_lava = [pytest.mark.lava, needs_lava]


def potential_net(seed: int = 0, classes: int = 4, hidden: int = 10, steps: int = 8, bias: bool = True) -> ChipNet:
    rng = np.random.default_rng(seed)
    first = Dense("fc", (16,), rng.integers(-60, 70, (hidden, 16)), Neuron.of("fc", 120, 4096, 2000))
    offsets = rng.integers(-40, 40, classes) if bias else 0
    neuron = Neuron.of("out", limits.THRESHOLD_MAX, 4096, 0, offsets)
    out = Dense("out", (hidden,), rng.integers(-127, 128, (classes, hidden)), neuron)
    return ChipNet((16,), (first, out), readout=Readout("potential"), time_steps=steps)


def count_net(seed: int = 0, classes: int = 4, steps: int = 8) -> ChipNet:
    rng = np.random.default_rng(seed)
    first = Dense("fc", (16,), rng.integers(-60, 70, (10, 16)), Neuron.of("fc", 120, 4096, 2000))
    out = Dense("out", (10,), rng.integers(-60, 100, (classes, 10)), Neuron.of("out", 90, 4096, 800))
    return ChipNet((16,), (first, out), readout=Readout("count"), time_steps=steps)


def conv_net(bias: bool = True) -> ChipNet:
    rng = np.random.default_rng(3)
    first = Conv("conv", (1, 6, 6), rng.integers(-60, 80, (3, 1, 3, 3)), Neuron.of("conv", 100, 4096, 2000), (2, 2))
    neuron = Neuron.of("out", limits.THRESHOLD_MAX, 4096, 0, np.array([9, -20, 4]) if bias else 0)
    out = Dense("out", (3, 2, 2), rng.integers(-127, 128, (3, 12)), neuron)
    return ChipNet((1, 6, 6), (first, out), readout=Readout("potential"), time_steps=6)


def data(net: ChipNet, samples: int = 60, rate: float = 0.35, seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.random((samples, net.time_steps, *net.input_shape)) < rate).astype(np.uint8)


def observed(net: ChipNet, x: Array) -> tuple[Decisions, Decisions, Array]:
    """Decisions of the circuit, of the integer rule, and the decision layer's spikes."""
    source = source_layer(net)
    record = required_record(net)
    result = simulate(net, x, record=Record(record.spikes | ({source} if source else set()), record.states))
    assert net.exit is not None
    arrived = result.traces.spikes[source] if source else encode(net, x)
    wanted = apply(net.exit, circuit_evidence(net, net.exit, arrived), result.predictions)
    return decisions(net, result.traces), wanted, result.traces.spikes[net.layers[-1].name][:, : net.time_steps]


CASES = [
    (potential_net, "margin", "pairs", (0, 1, 60, 400, THRESHOLD_MAX)),
    (potential_net, "threshold", "pairs", (0, 1, 60, 400, THRESHOLD_MAX)),
    (potential_net, "threshold", "band", (0, 1, 60, THRESHOLD_MAX)),
    (potential_net, "patience", "run", (1, 3)),
    (potential_net, "softmax", "ladder", ((5, 9, 20, 31, 40, 60, 90), (1,) * 7, (THRESHOLD_MAX,) * 7)),
    (count_net, "softmax", "ladder", ((1, 1, 1, 2, 2, 2, 3),)),
    (count_net, "margin", "pairs", (0, 1, 2, THRESHOLD_MAX)),
    (count_net, "threshold", "pairs", (0, 1, 3, THRESHOLD_MAX)),
    (count_net, "threshold", "band", (0, 1, 3, THRESHOLD_MAX)),
    (count_net, "first-spike", "first", (1,)),
    (count_net, "patience", "run", (1, 4)),
]


@pytest.mark.parametrize(("make", "policy", "form", "thresholds"), CASES)
@pytest.mark.parametrize("classes", [2, 4, 7])
def test_the_circuit_is_the_integer_rule(
    make: Callable[..., ChipNet], policy: Any, form: Any, thresholds: tuple[Any, ...], classes: int
) -> None:
    plain = make(classes, classes)
    x = data(plain)
    full = simulate(plain, x)
    for threshold in thresholds:
        net = attach(plain, policy, threshold, form)
        found, wanted, spikes = observed(net, x)
        assert found.same(wanted), (policy, form, threshold)
        assert spikes.sum(2).max() <= 1, "two decisions at one step"
        whole = simulate(net, x)
        assert (whole.traces.scores(net) == full.traces.scores(plain)).all(), "the readout has changed"
        assert (found.label == full.predictions)[~found.exited].all()
        assert simulate_exit(net, x, level="stopped").decisions.same(found)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(0, 300), st.sampled_from([0.0, 0.1, 0.4, 1.0]))
def test_no_input_breaks_the_circuit(seed: int, classes: int, threshold: int, rate: float) -> None:
    """Silence, noise and all-on input; weights of full range."""
    plain = potential_net(seed, classes, hidden=6, steps=12)
    x = data(plain, 20, rate, seed)
    for policy in ("margin", "threshold"):
        net = attach(plain, policy, threshold)
        found, wanted, spikes = observed(net, x)
        assert found.same(wanted)
        assert spikes.sum(2).max(initial=0) <= 1
        u = simulate(net, x, record=Record.of(states=["out"])).traces.u["out"]
        sums = circuit_evidence(net, net.exit, simulate(net, x, record=Record.of(["fc"])).traces.spikes["fc"])  # type: ignore[arg-type]
        assert sums.pairs is not None
        pairs = u[:, :, -classes * (classes - 1) :] // 128
        first, second = np.nonzero(~np.eye(classes, dtype=bool))
        assert (pairs == sums.pairs[:, :, first, second]).all(), "u has wrapped"


def test_a_hundred_classes() -> None:
    plain = potential_net(5, 100, hidden=12)
    x = data(plain, 20)
    exact, cheap = attach(plain, "threshold", 150), attach(plain, "threshold", 150, "band")
    for net in (exact, cheap):
        found, wanted, spikes = observed(net, x)
        assert found.same(wanted)
        assert spikes.sum(2).max() <= 1
    assert exact.layers[1].shape == (100 + 100 + 9900,)
    assert cheap.layers[1].shape == (100 + 200,)


def test_silence_never_decides_and_is_flagged() -> None:
    for make, policy in ((count_net, "margin"), (count_net, "first-spike"), (count_net, "patience")):
        net = attach(make(), policy, 1)
        found, _, _ = observed(net, np.zeros((3, 8, 16), np.uint8))
        assert not found.exited.any()
        assert (found.steps == 8).all()
        assert (latency(net, found).chip == 8 + 2).all()


def test_ties_go_to_the_lowest_class() -> None:
    """Two classes with the same weights: neither leads by 1, and with threshold 0 the first one decides."""
    weight = np.array([[5, 5], [5, 5], [-5, 1]])
    out = Dense("out", (2,), weight, Neuron.of("out", limits.THRESHOLD_MAX, 4096, 0))
    plain = ChipNet((2,), (out,), readout=Readout("potential"), time_steps=4)
    x = np.ones((1, 4, 2), np.uint8)
    found, _, _ = observed(attach(plain, "margin", 1), x)
    assert not found.exited.any()
    for policy, threshold in (("margin", 0), ("threshold", 12)):
        found, _, _ = observed(attach(plain, policy, threshold), x)  # type: ignore[arg-type]
        assert (found.label.tolist(), found.exited.tolist()) == ([0], [True])


@pytest.mark.parametrize("bias", [True, False])
def test_the_bias_of_the_readout_is_carried(bias: bool) -> None:
    plain = conv_net(bias)
    net = attach(plain, "margin", 60)
    x = data(plain)
    found, wanted, _ = observed(net, x)
    assert found.same(wanted)
    assert net.layers[0].shape == ((4, 2, 2) if bias else (3, 2, 2))
    # where the rows are not rounded, the evidence is that of the potentials
    small = potential_net(2, 3)
    small = replace(small, layers=(small.layers[0], replace(small.layers[1], weight=small.layers[1].weight // 5)))  # type: ignore[arg-type,operator,union-attr]
    exact = attach(small, "margin", 5)
    assert rounding_error(exact) == 0
    result = simulate(exact, data(small), record=Record.of(["fc"], ["out"]))
    potential = result.traces.v["out"][:, :, :3].astype(np.int64) >> 6
    pairs = circuit_evidence(exact, exact.exit, result.traces.spikes["fc"]).pairs  # type: ignore[arg-type]
    assert (pairs == potential[:, :, :, None] - potential[:, :, None, :]).all()


@pytest.mark.parametrize("make", [potential_net, count_net, conv_net])
def test_the_exit_is_stored_and_removed(make: Callable[..., ChipNet], tmp_path: Path) -> None:
    plain = make()
    net = attach(plain, "margin", 3, calibration=(("samples", 12.0),))
    s2c.export(net, tmp_path / "exit.net")
    back = s2c.read(tmp_path / "exit.net")
    assert back == net
    assert back.exit == net.exit
    x = data(plain)
    bare = detach(back)
    assert bare.exit is None
    assert [layer.shape for layer in bare.layers] == [layer.shape for layer in plain.layers]
    assert (simulate(bare, x).traces.scores(bare) == simulate(plain, x).traces.scores(plain)).all()
    assert attach(net, "margin", 3, calibration=(("samples", 12.0),)) == net


def test_malformed_exits_are_refused(tmp_path: Path) -> None:
    import h5py

    net = attach(potential_net(), "margin", 3)
    for change in (
        {"policy": "guess"},
        {"classes": 1},
        {"thresholds": []},
        {"thresholds": ["1"]},
        {"readout": "nothing"},
        {"scale": [1]},
        {"form": "host"},
        {"calibration": [["a", "b"]]},
    ):
        path = tmp_path / "bad.net"
        s2c.export(net, path, force=True)
        with h5py.File(path, "r+") as file:
            metadata = json.loads(file["snn2chip/metadata"][()])
            metadata["exit"].update(change)
            del file["snn2chip/metadata"]
            file["snn2chip/metadata"] = np.bytes_(json.dumps(metadata))
        with pytest.raises(InputError):
            s2c.read(path)


def test_what_has_no_circuit_says_so() -> None:
    leaky = potential_net()
    neuron = Neuron.of("out", limits.THRESHOLD_MAX, 4096, 500)
    leaky = replace(leaky, layers=(leaky.layers[0], replace(leaky.layers[1], neuron=neuron)))
    with pytest.raises(UnsupportedError, match=r"^out: its potential leaks .*form host"):
        attach(leaky, "margin", 3)
    assert verify_exit(with_host_rule(leaky, "margin", (300,)), data(leaky), in_lava=False).equal
    with pytest.raises(UnsupportedError, match=r"^out: .* first-spike needs output spikes; use threshold"):
        attach(potential_net(), "first-spike", 1)
    with pytest.raises(LimitError, match=r"^out: threshold of the exit \(margin\) is 2049, limit 0..2048"):
        attach(potential_net(), "margin", 2049)
    with pytest.raises(UsageError, match="two classes may decide"):
        attach(count_net(), "threshold", 3, "band", rival=4)
    with pytest.raises(UsageError, match="a ladder holds up to 46 classes, not 50"):
        attach(potential_net(0, 50), "softmax", (5, 9, 20, 31, 40, 60, 90), "ladder")
    with pytest.raises(UsageError, match="margin has no form band"):
        attach(count_net(), "margin", 3, "band")
    single = replace(potential_net(), layers=potential_net().layers[1:], input_shape=(10,))
    with pytest.raises(UnsupportedError, match=r"^out: its bias differs between classes, and no layer before"):
        attach(single, "margin", 3)


def test_thresholds_of_each_step_on_the_host() -> None:
    plain = potential_net()
    x = data(plain)
    steps = np.linspace(600, 50, plain.time_steps).astype(int)
    net = with_host_rule(plain, "margin", tuple(steps.tolist()))
    found = simulate_exit(net, x).decisions
    scores = simulate(plain, x, record=Record.of(states=["out"])).traces.v["out"].astype(np.int64) >> 6
    top = np.sort(scores, axis=2)
    beyond = (top[:, :, -1] - top[:, :, -2]) >= steps
    assert (found.exited == beyond.any(1)).all()
    assert (found.step[found.exited] == beyond.argmax(1)[found.exited]).all()
    assert verify_exit(net, x, in_lava=False).equal


@pytest.mark.parametrize("make", [potential_net, count_net])
@pytest.mark.parametrize(("policy", "threshold"), [("margin", 2), ("patience", 3)])
def test_spikes_in_flight_across_windows_decide_nothing(
    make: Callable[..., ChipNet], policy: Any, threshold: int
) -> None:
    """On the chip samples follow one another, and what delays hold crosses the reset."""
    net = attach(make(), policy, threshold)
    x, record = data(net, 30), required_record(net)
    alone = decisions(net, simulate(net, x, record=record).traces)
    chained = decisions(net, simulate(net, x, backend="reference", mode="windowed", record=record).traces)
    assert alone.exited.any()
    assert chained.same(alone)


# Gates and ended windows


def test_a_gate_silences_what_comes_after_the_decision() -> None:
    plain = potential_net(bias=False)
    net = attach(plain, "margin", 20)
    x = data(plain)
    messages = encode(net, x)
    found, _, _ = observed(net, x)
    assert found.exited.mean() > 0.5
    assert gates(net).keys() == {"fc"}
    at = np.where(found.exited, found.step, net.window)
    whole = run_layers(net, messages, Record.of(["fc", net.layers[-1].name]))
    gated = run_layers(net, messages, Record.of(["fc", net.layers[-1].name]), at)
    late = np.arange(net.window) >= (at + 3)[:, None]  # decision layer 2, gate one step later
    assert (gated.kept["fc"] == np.where(late[:, :, None], 0, whole.kept["fc"])).all()
    assert gated.spikes["fc"].sum() < whole.spikes["fc"].sum()
    assert of_spikes(net, gated.kept[net.layers[-1].name], found.label).same(found), "a gate has changed a decision"


@pytest.mark.parametrize("make", [potential_net, count_net, conv_net])
@pytest.mark.parametrize("window", [None, 11])
def test_levels_cost_less(make: Callable[..., ChipNet], window: int | None) -> None:
    plain = make()
    plain = plain if window is None else replace(plain, window=window)
    net = attach(plain, "margin", 1)
    none, full, gated, stopped = level_costs(net, data(plain))
    assert (none.level, full.level, gated.level, stopped.level) == ("none", "decision", "gated", "stopped")
    assert none.operations < full.operations
    assert gated.operations < full.operations
    assert gated.spikes < full.spikes
    assert stopped.operations < full.operations
    assert none.steps == full.steps == gated.steps == plain.window


LAVA_CASES = [
    (conv_net, "margin", "pairs", 60),
    (count_net, "patience", "run", 2),
]


@pytest.mark.parametrize(
    ("make", "policy", "form", "threshold"), [pytest.param(*case, marks=runs_lava) for case in LAVA_CASES]
)
def test_lava_decides_gates_and_stops_the_same(
    make: Callable[..., ChipNet], policy: Any, form: Any, threshold: int
) -> None:
    net = attach(replace(make(), window=9), policy, threshold, form)
    x = data(net, 6)
    proof = verify_exit(net, x, timeout=600)
    assert simulate_exit(net, x).decisions.exited.sum() > 0
    assert proof.equal, proof
    assert (proof.lava, proof.gated_spikes) == (0, 0)
    assert proof.stopped_lava == (None if form == "run" else 0)


# Published rules


def test_the_gap_guarantees_the_softmax() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1, (200, 10, 5)).cumsum(1)
    full = logits[:, -1].argmax(1)
    for eps in (0.3, 0.05, 0.001):
        exact = softmax_rule(logits, eps, full)
        unit = 200
        integers = np.rint(logits * unit).astype(np.int64)
        top = np.sort(integers, axis=2)
        gap = decide(Lead(integers.argmax(2), top[:, :, -1] - top[:, :, -2]), softmax_gap(eps, 5, unit) + 1, full)
        assert (gap.step >= exact.step).all()
        assert (gap.label[gap.exited] == logits.argmax(2)[np.arange(200), gap.step][gap.exited]).all()
        rungs = softmax_ladder(eps, 5, unit)
        ladder = decide(lead("softmax", "ladder", Evidence.of(integers), rungs), rungs[0], full)
        sure = softmax(integers / unit)[np.arange(200), ladder.step].max(1)
        assert (sure[ladder.exited] > 1 - eps).all()
        assert (ladder.step >= exact.step).all()
        assert ladder.steps.mean() <= gap.steps.mean()
    # two classes: the condition is the gap
    gap2 = softmax_gap(0.1, 2, 1000.0)
    assert 1 / (1 + math.exp(-gap2 / 1000)) > 0.9 >= 1 / (1 + math.exp(-(gap2 - 1) / 1000))


def test_oracle_and_fitted_gap() -> None:
    labels = np.array([[0, 1, 1], [1, 0, 1], [2, 2, 2], [0, 0, 0]])
    y = np.array([1, 1, 2, 1])
    best = oracle(labels, y)
    assert best.steps.tolist() == [2, 3, 1, 3]
    assert best.exited.tolist() == [True, True, True, False]
    gaps = np.array([[1.0, 5, 9], [4, 1, 3], [9, 9, 9], [2, 2, 2]])
    beta = fit_gap(gaps, labels, y, 0.0)
    assert 4 <= beta[0] < 9  # only the third sample is right from the first step on
    found = gap_rule(gaps, labels, beta, labels[:, -1])
    assert (found.label[found.exited] == y[found.exited]).all()


# Calibration


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    assert upper_share(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert lower_share(0, 100, 0.05) == pytest.approx(0, abs=1e-12)
    assert upper_share(100, 100, 0.05) == 1
    assert upper_share(5, 50, 0.025) == pytest.approx(0.2181, abs=1e-4)  # of tables
    assert lower_share(5, 50, 0.025) == pytest.approx(0.0333, abs=1e-4)
    assert binomial_tail(2, 5, 0.5) == pytest.approx(0.5)
    needed = samples_needed(0.005, 0.05)
    assert needed is not None
    assert drop_bound(0, 0, needed, 0.05) <= 0.005 < drop_bound(0, 0, needed - 1, 0.05)
    assert samples_needed(0.005, 0.05, worse=0.02, better=0.01) is None


def labelled(net: ChipNet, samples: int, seed: int = 4, wrong: float = 0.1) -> tuple[Array, Array]:
    """Samples, and classes that the full window gets right but for some."""
    x = data(net, samples, seed=seed)
    rng = np.random.default_rng(seed)
    y = simulate(net, x).predictions
    return x, np.where(rng.random(samples) < wrong, rng.integers(0, net.classes, samples), y)


@pytest.mark.parametrize("make", [potential_net, count_net])
def test_calibration_reaches_its_aim(make: Callable[..., ChipNet]) -> None:
    plain = make()
    x, y = labelled(plain, 500)
    found = calibrate(plain, x, y, ("margin", "patience"), max_drop=0.06, energy=True)
    assert found.chosen.drop_upper_bound <= 0.06
    assert found.chosen.drop < found.chosen.drop_upper_bound
    run = simulate_exit(found.net, x, y)
    assert run.accuracy == found.chosen.accuracy
    assert float(run.latency.cutoff.mean()) == found.chosen.mean_steps
    assert found.chosen.energy is not None
    assert found.net.exit is not None
    assert dict(found.net.exit.calibration)["samples"] == 500
    lower = calibrate(plain, x, y, ("margin",), max_latency=found.curve[-1].mean_latency_steps + 0.5)
    assert lower.chosen.mean_latency_steps <= found.curve[-1].mean_latency_steps + 0.5


@pytest.mark.parametrize("make", [potential_net, count_net, conv_net])
@pytest.mark.parametrize("first", [False, True])
def test_energy_is_charged_for_what_a_stopped_window_does(make: Callable[..., ChipNet], first: bool) -> None:
    plain = make()
    if first:
        inputs = InputNeurons("in", plain.input_shape, Neuron.of("in", 0, 4096, 4096))
        plain = replace(plain, layers=(inputs, *plain.layers))
    net = attach(plain, "margin" if make is not count_net else "first-spike", 1)
    run = run_layers(net, encode(net, data(net)), required_record(net))
    found = decisions(net, run.traces())
    charged = [traces for _, traces in ended(net, run, found).values()]
    assert sum(traces.synaptic_operations for traces in charged) == until(net, run.operations, found).sum()
    for layer in net.layers:
        spikes = sum(traces.spike_counts[layer.name] for traces in charged)
        alone = {name: counts if name == layer.name else 0 * counts for name, counts in run.spikes.items()}
        assert spikes == until(net, alone, found).sum(), layer.name


@pytest.mark.parametrize("policy", ["margin", "patience"])
def test_the_chosen_threshold_costs_what_its_own_circuit_does(policy: Any) -> None:
    plain = potential_net(classes=5)
    x, y = labelled(plain, 600)
    found = calibrate(plain, x, y, [policy], max_drop=0.06, energy=True)
    assert found.net.exit is not None
    assert found.net.exit.thresholds != (1,)
    stopped = next(cost for cost in level_costs(found.net, x) if cost.level == "stopped")
    assert (found.chosen.operations, found.chosen.energy) == (stopped.operations, stopped.energy)
    assert found.chosen in found.curve
    assert found.estimated_operations != found.chosen.operations


def test_a_latency_that_was_asked_for_pays_for_the_choice() -> None:
    plain = potential_net()
    x, y = labelled(plain, 400)
    found = calibrate(plain, x, y, max_latency=plain.time_steps + 9)
    run = simulate_exit(found.net, x, y)
    right, before = run.decisions.label == y, simulate(plain, x).predictions == y
    worse, better = int((before & ~right).sum()), int((right & ~before).sum())
    assert found.chosen.drop_upper_bound == drop_bound(worse, better, len(y), (1 - 0.95) / len(found.curve))


def test_classes_that_the_network_does_not_have() -> None:
    plain = potential_net()
    x, y = labelled(plain, 400)
    uses: list[Callable[[], Any]] = [
        lambda: calibrate(plain, x, y, max_drop=0.06),
        lambda: calibrate(plain, x, y, eps=0.05),
        lambda: simulate_exit(attach(plain, "margin", 3), x, y),
        lambda: simulate(plain, x, y),
    ]
    for wrong in (-1, 4):
        y[7] = wrong
        for use in uses:
            with pytest.raises(InputError, match=rf"y contains class {wrong}, the network has classes 0\.\.3"):
                use()


def test_a_network_that_is_always_right_says_nothing_of_its_confidence() -> None:
    plain = potential_net()
    x = data(plain, 100)
    y = simulate(plain, x).predictions
    with pytest.raises(CheckFailed, match=r"right on all 100 samples.* with --logit"):
        calibrate(plain, x, y, eps=0.05)
    assert calibrate(plain, x, y, eps=0.05, logit=30.0).net.exit is not None


def test_too_few_samples_are_counted() -> None:
    plain = potential_net()
    x, y = labelled(plain, 100)
    with pytest.raises(CheckFailed, match=r"100 samples prove no drop below 0.5 points; at least 636 more are missing"):
        calibrate(plain, x, y, max_drop=0.005)


def test_softmax_policy_takes_its_gap_from_the_confidence() -> None:
    plain = potential_net()
    x, y = labelled(plain, 200)
    for form, rule in (("pairs", lambda *a: (softmax_gap(*a),)), ("ladder", softmax_ladder)):
        found = calibrate(plain, x, y, form=form, eps=0.05, logit=20.0)  # type: ignore[arg-type]
        assert found.net.exit is not None
        numerator, denominator = found.net.exit.scale
        assert found.net.exit.thresholds == rule(0.05, 4, 20.0 * numerator / denominator)  # type: ignore[operator]
        run = simulate_exit(found.net, x, y)
        assert (run.accuracy, float(run.latency.cutoff.mean())) == (found.chosen.accuracy, found.chosen.mean_steps)


# Command line


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_commands(tmp_path: Path) -> None:
    plain = potential_net()
    x, y = labelled(plain, 400)
    s2c.export(plain, tmp_path / "plain.net")
    np.savez(tmp_path / "held.npz", x=x, y=y)
    cutoff = ["cutoff", tmp_path / "plain.net", tmp_path / "held.npz", "-o", tmp_path / "exit.net"]
    result = call(*cutoff, "--max-drop", 6, "--json")
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert {"policy", "threshold", "time_steps", "drop_upper_bound", "mean_latency_steps", "curve"} <= content.keys()
    assert [level["level"] for level in content["levels"]] == ["none", "decision", "gated", "stopped"]
    text = call(*cutoff, "--max-drop", 6, "--force")
    assert text.exit_code == 0
    assert "until the answer has left the chip" in text.stdout
    assert call(*cutoff, "--max-drop", 6).exit_code == 2  # the file exists
    assert call(*cutoff, "--force").exit_code == 2  # no aim
    assert call(*cutoff, "--max-drop", 0.1, "--force").exit_code == 1
    for level in ("decision", "stopped"):
        result = call("simulate", tmp_path / "exit.net", tmp_path / "held.npz", "--exit", level, "--json")
        run = json.loads(result.stdout)
        assert run["mean_steps"] == content["mean_steps"]
        assert run["accuracy"] == content["accuracy_exit"]
    result = call("simulate", tmp_path / "exit.net", tmp_path / "held.npz", "--json")
    assert json.loads(result.stdout)["accuracy"] == content["accuracy_full"]
    verify = ["verify", tmp_path / "exit.net", tmp_path / "held.npz", "--exit", "--against", "reference"]
    result = call(*verify, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["exit"]["rule"] == 0
    assert "circuit, integer rule" in call(*verify).stdout
    assert call("simulate", tmp_path / "plain.net", tmp_path / "held.npz", "--exit").exit_code == 2
