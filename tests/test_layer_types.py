"""Delays, sigma-delta and resonate-and-fire neurons: their laws by hand, NetX and back, and Lava itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import hypothesis.strategies as st
import numpy as np
import pytest
from compare import assert_same_traces
from hypothesis import HealthCheck, Phase, assume, given, settings
from strategies import chip_nets, messages_for, rf_nets, sdnn_nets
from with_lava import needs_lava_here

from snn2chip.chip import (
    ChipNet,
    Conv,
    Delta,
    Dense,
    Encoding,
    InputNeurons,
    Layer,
    Neuron,
    Resonator,
    Sigma,
    SigmaDelta,
)
from snn2chip.errors import InputError, LimitError, UnsupportedError
from snn2chip.exporters import netx
from snn2chip.exporters.netx_loader import loader_rotation
from snn2chip.simulators import lava, reference
from snn2chip.traces import MODES, Mode, Record

runs_lava = [pytest.mark.lava, needs_lava_here]

IDENTITY = Encoding("graded", 1.0, -65535, 65535)
PASSES = Neuron.of("d", 100, 4096, 4096)  # u is 64 times the weighted sum


def matrix(*rows: Any) -> Any:
    return np.array(rows, np.int32)


def traced(layer: Layer, *messages: Any) -> tuple[list[Any], list[Any], list[Any]]:
    """Messages, u and v of the layer's first neuron."""
    array = np.array(messages).reshape(1, -1, *layer.input_shape)
    s, u, v = (trace[0].reshape(array.shape[1], -1)[:, 0].tolist() for trace in reference.run_layer(layer, array))
    return s, u, v


def delayed_net(**settings: Any) -> ChipNet:
    layer = Dense("d", (2,), matrix([1, 2], [4, 8]), PASSES, delay=matrix([0, 1], [2, 0]))
    return ChipNet((2,), (layer,), **settings)


# --- Laws, by hand ---


def test_delays() -> None:
    net = delayed_net(time_steps=2, window=4)
    everything = Record.everything(net)
    messages = np.array([[[1, 1], [0, 0]], [[0, 0], [1, 0]]])
    u = reference.run(net, messages, "isolated", everything).u["d"] // 64
    assert u.tolist() == [[[1, 8], [2, 0], [0, 4], [0, 0]], [[0, 0], [1, 0], [0, 0], [0, 4]]]


@pytest.mark.parametrize(("mode", "second"), [("isolated", [0, 0]), ("windowed", [0, 4]), ("streaming", [0, 4])])
def test_delayed_messages_cross_a_window(mode: Mode, second: list[int]) -> None:
    net = delayed_net(time_steps=2)
    messages = np.array([[[1, 0], [0, 0]], [[0, 0], [0, 0]]])
    u = reference.run(net, messages, mode, Record.everything(net)).u["d"] // 64
    assert u[0].tolist() == [[1, 0], [0, 0]]
    assert u[1, 0].tolist() == second


def test_delta() -> None:
    neurons = InputNeurons("in", (1,), Delta.of("in", 2, spike_exp=0))  # sends changes of at least 128
    assert traced(neurons, 1, 3, 3, 0, 1, 2) == ([0, 3, 0, -3, 0, 2], [64, 0, 0, 0, 64, 0], [64, 192, 192, 0, 64, 128])
    usual = InputNeurons("in", (1,), Delta.of("in", 0))
    assert traced(usual, 1, -1) == ([64, -128], [0, 0], [4096, -4096])


def test_sigma_delta() -> None:
    def layer(threshold: int, bias: int) -> Dense:
        return Dense("fc", (1,), matrix([1]), SigmaDelta.of("fc", threshold, bias, spike_exp=0))

    # what is sent is divided by 64 and rounded down; the rest of it is lost
    assert traced(layer(0, 0), 100, -30, -200) == ([1, -1, -2], [100, 70, -130], [100, 70, 0])
    # a change of -30 waits, and goes with the next
    assert traced(layer(1, 1), 100, -30, -200) == ([2, 0, -3], [100, 70, -130], [164, 134, 0])


def test_sigma() -> None:
    decoder = Dense("fc", (1,), matrix([3]), Sigma())
    assert traced(decoder, 5, -7, 0) == ([15, -6, -6],) * 3


def test_phase_resonator() -> None:
    neuron = Resonator.of("r", 0, sine=2048, cosine=0)
    layer = Dense("r", (1,), matrix([1]), neuron, imaginary=matrix([0]))
    s, re, im = traced(layer, 1, 0, 0, 0, 0, 0, 0, 0)
    assert re == [64, 0, -16, 0, 4, 0, -1, 0]
    assert im == [0, 32, 0, -8, 0, 2, 0, 0]
    assert s == [0, 0, 0, 0, 1, 0, 0, 0]


def test_izhikevich_resonator() -> None:
    neuron = Resonator.of("r", 1, sine=2048, cosine=4096, phase=False)
    layer = Dense("r", (1,), matrix([0]), neuron, imaginary=matrix([1]))
    s, re, im = traced(layer, 1, 0, 0, 1)
    assert re == [0, -31, -62, 0]
    assert im == [63, 63, 48, 63]  # one below the threshold after a spike
    assert s == [1, 0, 0, 1]


def test_resonators_are_clipped() -> None:
    neuron = Resonator.of("r", 0, 0, 4096)
    layer = Dense("r", (1,), matrix([255]), neuron, imaginary=matrix([-255]))
    _, re, im = traced(layer, 65535, 0)
    assert (re, im) == ([(1 << 23) - 1] * 2, [-(1 << 23) + 1] * 2)


def test_sums_that_lava_would_wrap_are_refused() -> None:
    encoder = InputNeurons("in", (1,), Delta.of("in", 0))
    net = ChipNet((1,), (encoder, Dense("fc", (1,), matrix([255]), Sigma())), IDENTITY)
    with pytest.raises(LimitError, match="fc: weighted sum is 1069531200, limit 16777215"):
        reference.run(net, np.array([[[65535]]]))


def test_graded_messages_are_traced_and_counted() -> None:
    encoder = InputNeurons("in", (2,), Delta.of("in", 0))
    net = ChipNet((2,), (encoder, Dense("fc", (2,), matrix([1, 1]), Sigma())), IDENTITY, time_steps=2)
    out = reference.run(net, np.array([[[5, 0], [5, -1]]]), "isolated", Record.everything(net))
    assert out.spikes["in"].dtype == np.int32
    assert out.spikes["in"].tolist() == [[[320, 0], [0, -64]]]
    assert out.spike_counts == {"in": 2, "fc": 2}
    assert out.synaptic_operations == 2


@pytest.mark.parametrize("mode", MODES)
def test_no_reset_reaches_sigma_delta_neurons(mode: Mode) -> None:
    net = ChipNet((1,), (Dense("fc", (1,), matrix([1]), Sigma()),), IDENTITY)
    assert net.leaks and not net.resettable and not net.recurrent
    out = reference.run(net, np.array([[[5]], [[6]]]), mode)
    assert out.spikes["fc"].flatten().tolist() == ([5, 6] if mode == "isolated" else [5, 11])


# --- What a ChipNet holds ---


def conv(neuron: Any) -> Conv:
    return Conv("c", (1, 1, 1), np.ones((1, 1, 1, 1), np.int32), neuron)


WAVE = Resonator.of("r", 1, 100, 100)
DECODER = Dense("fc", (1,), matrix([1]), Sigma())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: delayed_net() and Dense("d", (1,), matrix([1]), PASSES, delay=matrix([63])),
            LimitError,
            "delay is 63",
        ),
        (lambda: Dense("d", (1,), matrix([1]), PASSES, delay=matrix([1, 1])), InputError, "d: delay has shape"),
        (lambda: Dense("d", (1,), matrix([1]), PASSES, matrix([1]), matrix([1])), UnsupportedError, "recurrent layer"),
        (lambda: Dense("d", (1,), matrix([1]), WAVE), UnsupportedError, "d: neurons of kind Resonator"),
        (lambda: Dense("d", (1,), matrix([1]), PASSES, imaginary=matrix([1])), UnsupportedError, "only Resonator"),
        (
            lambda: Dense("d", (1,), matrix([1]), WAVE, delay=matrix([1]), imaginary=matrix([1])),
            UnsupportedError,
            "delays of complex weights",
        ),
        (lambda: Dense("d", (1,), matrix([1]), Sigma(), matrix([1])), UnsupportedError, "kind Sigma; here only Neuron"),
        (lambda: Dense("d", (1,), matrix([1]), Delta.of("d", 1)), UnsupportedError, "d: neurons of kind Delta"),
        (lambda: conv(WAVE), UnsupportedError, "c: neurons of kind Resonator"),
        (lambda: InputNeurons("in", (1,), Sigma()), UnsupportedError, "only Neuron or Delta"),
        (lambda: Delta.of("in", [1, 2]), InputError, "in: threshold has shape \\(2,\\)"),
        (lambda: Delta.of("in", 1, 8), LimitError, "in: spike exponent is 8"),
        (lambda: SigmaDelta.of("fc", 1, 1 << 15), LimitError, "fc: bias mantissa"),
        (lambda: conv(SigmaDelta.of("c", 1, [1, 2])), InputError, "c: bias has shape"),
        (lambda: Resonator.of("r", 1, 4097, 0), LimitError, "r: sine of the rotation is 4097"),
        (
            lambda: ChipNet((1,), (InputNeurons("in", (1,), Delta.of("in", 1, 3)), conv_free())),
            UnsupportedError,
            "spike exponents \\[3, 6\\]",
        ),
    ],
)
def test_what_cannot_be(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def conv_free() -> Dense:
    return Dense("fc", (1,), matrix([1]), SigmaDelta.of("fc", 1))


# --- NetX ---


@pytest.mark.parametrize("nets", [chip_nets(netx_safe=True, delays=True), sdnn_nets(), rf_nets()], ids=["d", "s", "r"])
def test_networks_survive_a_round_trip(nets: Any, tmp_path: Path) -> None:
    @settings(max_examples=40, derandomize=True, deadline=None)
    @given(nets)
    def survive(net: ChipNet) -> None:
        netx.write(net, tmp_path / "net.net", force=True)
        assert netx.read(tmp_path / "net.net") == net

    survive()


def test_layout(tmp_path: Path) -> None:
    image = InputNeurons("in", (1, 2, 3), Delta.of("in", 3))
    kernel = Conv("c", (1, 2, 3), np.ones((2, 1, 1, 2), np.int32), SigmaDelta.of("c", 4, [5, 6]))
    hidden = Dense("h", (2, 2, 2), np.ones((3, 8), np.int32), SigmaDelta.of("h", 5), delay=np.full((3, 8), 7))
    wave = Dense(
        "r", (3,), np.ones((2, 3), np.int32), Resonator.of("r", 6, 0, [-9, 9]), imaginary=np.eye(2, 3, dtype=int)
    )
    netx.write(ChipNet((1, 2, 3), (image, kernel, hidden, wave), IDENTITY), tmp_path / "a.net")
    netx.write(ChipNet((1,), (DECODER,), IDENTITY), tmp_path / "b.net")
    wanted = {
        "a/0/neuron/type": b"SDNN",
        "a/0/neuron/vThMant": 3,
        "a/1/neuron/type": b"SDNN",
        "a/1/bias": [5, 6],
        "a/3/delay": [[7] * 8] * 3,
        "a/4/neuron/type": b"RF_PHASE",
        "a/4/neuron/sinDecay": 0.5,
        "a/4/neuron/cosDecay": [-9.5, 9.5],
        "a/4/weight/real": [[1, 1, 1], [1, 1, 1]],
        "a/4/weight/imag": [[1, 0, 0], [0, 1, 0]],
        "b/1/neuron/sigma_output": True,
    }
    for path, values in wanted.items():
        with h5py.File(tmp_path / f"{path[0]}.net") as file:
            assert np.asarray(file["layer" + path[1:]][()]).tolist() == values, path


def foreign(path: Path, **layer: Any) -> Path:
    """A file with one layer."""

    def store(group: h5py.Group, tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                store(group.create_group(name), value)
            else:
                group[name] = np.bytes_(value) if isinstance(value, str) else value

    neuron = {"type": "CUBA", "vThMant": 1, "iDecay": 4096, "vDecay": 0}
    with h5py.File(path, "w") as file:
        store(file, {"layer": {"0": {"type": "dense", "shape": [3], "neuron": neuron, **layer}}})
    return path


@pytest.mark.parametrize(
    ("delay", "wanted"),
    [
        (2, [[2, 2]] * 3),
        (2.9, [[2, 2]] * 3),
        ([1, 2, 3], [[1, 1], [2, 2], [3, 3]]),
        ([4, 5], [[4, 5]] * 3),
        ([[1, 2], [3, 4], [5, 99]], [[1, 2], [3, 4], [5, 62]]),
    ],
)
def test_delays_of_other_files(delay: Any, wanted: Any, tmp_path: Path) -> None:
    net = netx.read(foreign(tmp_path / "f.net", weight=[[1, 2], [3, -4], [5, 6]], delay=delay))
    (layer,) = net.layers
    assert isinstance(layer, Dense) and layer.delay is not None
    assert layer.delay.tolist() == wanted
    changed = {"2.9": "the NetX loader cuts delays to integers", "99": "the NetX loader cuts delays of up to 99 to 62"}
    said = [text for value, text in changed.items() if value in str(delay)]
    assert len(net.inexact) == len(said)
    assert all(text in line for text, line in zip(said, net.inexact, strict=True))


def test_square_matrices_take_a_row_of_delays_for_the_neurons(tmp_path: Path) -> None:
    net = netx.read(foreign(tmp_path / "f.net", shape=[2], weight=[[1, 2], [3, -4]], delay=[0, 7]))
    layer = net.layers[0]
    assert isinstance(layer, Dense) and layer.delay is not None
    assert layer.delay.tolist() == [[0, 0], [7, 7]]


def test_complex_weights_of_other_files(tmp_path: Path) -> None:
    weight = {"real": [[1, 2], [3, -4], [5, 6]], "imag": [[1, 0], [0, -1], [2, 2]]}
    neuron = {"type": "RF", "vThMant": 9, "sinDecay": [300], "cosDecay": [4000]}
    net = netx.read(foreign(tmp_path / "f.net", weight=weight, neuron=neuron, bias=[1, 1, 1]))
    (layer,) = net.layers
    assert isinstance(layer, Dense) and isinstance(layer.neuron, Resonator)
    assert layer.imaginary is not None and layer.imaginary.tolist() == weight["imag"]
    assert not layer.neuron.phase and layer.neuron.threshold == 9
    assert net.inexact == ("layer 0 (dense): the NetX loader ignores the bias of a layer of complex weights",)


def test_resonators_need_complex_weights(tmp_path: Path) -> None:
    neuron = {"type": "RF_PHASE", "vThMant": 9, "sinDecay": 300, "cosDecay": 4000}
    with pytest.raises(UnsupportedError, match="type 'RF_PHASE' without complex weights"):
        netx.read(foreign(tmp_path / "f.net", weight=[[1, 2], [3, -4], [5, 6]], neuron=neuron))


def test_only_so_many_layers(tmp_path: Path) -> None:
    layers = tuple(Dense(f"fc{i}", (1,), matrix([i + 1]), PASSES) for i in range(3))
    netx.write(ChipNet((1,), layers), tmp_path / "f.net")
    assert netx.read(tmp_path / "f.net", num_layers=3) == ChipNet((1,), layers[:2])  # the input is one of them
    assert netx.read(tmp_path / "f.net", num_layers=9) == ChipNet((1,), layers)


def test_every_rotation_is_written_so_that_it_is_read() -> None:
    """Half a unit away from zero; as they are, some come back one less."""
    parts = np.array([-4096, -4095, -1000, -1, 0, 1, 1000, 2047, 4096])
    sine, cosine = (grid.flatten() for grid in np.meshgrid(parts, parts))
    moved = [part + np.where(part < 0, -0.5, 0.5) for part in (sine, cosine)]
    assert np.array_equal(loader_rotation(*moved), (sine, cosine))
    found = loader_rotation(sine[sine != 0] / 1.0, cosine[sine != 0] / 1.0)
    assert np.count_nonzero(found[0] != sine[sine != 0]) > 0 and np.abs(found[0] - sine[sine != 0]).max() == 1


# --- Lava ---


def found_in(net: ChipNet, mode: Mode) -> Counter[str]:
    """What this run shows."""
    seen = Counter([mode, "runs"])
    for layer in net.layers:
        seen[type(layer.neuron).__name__] += 1
        if isinstance(layer.neuron, Resonator):
            seen["phase" if layer.neuron.phase else "Izhikevich"] += 1
            seen["rotation of each neuron"] += layer.neuron.sine.ndim
        if isinstance(layer, Conv):
            seen["convolution"] += layer.neuron.graded
        delay = layer.delay if isinstance(layer, Dense) else None
        seen["delays"] += delay is not None
        seen["longest delay"] += delay is not None and bool((delay == 62).any())
        seen["graded delays"] += delay is not None and layer.neuron.graded
    seen["spike exponent"] += net.spike_exp != 6
    return +seen


@pytest.mark.parametrize(
    ("nets", "runs", "wanted"),
    [
        pytest.param(
            chip_nets(netx_safe=True, delays=True, recurrent=False, max_steps=9),
            10,
            ("delays", "longest delay"),
            marks=runs_lava,
            id="delays",
        ),
        pytest.param(
            sdnn_nets(),
            12,
            ("Delta", "SigmaDelta", "Sigma", "Neuron", "convolution", "spike exponent", "graded delays"),
            marks=runs_lava,
            id="sigma-delta",
        ),
        pytest.param(
            rf_nets(), 10, ("phase", "Izhikevich", "rotation of each neuron"), marks=runs_lava, id="resonators"
        ),
    ],
)
def test_lava_equals_reference(nets: Any, runs: int, wanted: tuple[str, ...]) -> None:
    population: Counter[str] = Counter()
    ran = 0

    # A run takes a second, so a failure is reported as it is drawn, not shrunk.
    @settings(
        max_examples=10 * runs,
        derandomize=True,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def compare(data: st.DataObject) -> None:
        nonlocal ran
        net = data.draw(nets)
        messages = data.draw(messages_for(net, max_samples=3))
        mode = MODES[ran % len(MODES)]
        missing = {name for name in (*wanted, *MODES) if not population[name]}
        if ran >= runs and not missing & (+found_in(net, mode)).keys():
            return
        record = Record.everything(net)
        try:
            expected = reference.run(net, messages, mode, record)
        except LimitError:
            assume(False)
        assume(net.leaks and len(messages) > 1 and expected.spike_counts[net.layers[-1].name])
        assert_same_traces(lava.run(net, messages, mode, record, timeout=600), expected)
        population.update(found_in(net, mode))
        ran += 1

    compare()
    assert population["runs"] >= runs
    assert [name for name in (*wanted, *MODES) if not population[name]] == []


@pytest.mark.parametrize("jobs", [pytest.param(n, marks=runs_lava) for n in (1, 2)])
def test_samples_are_isolated_where_no_states_are_recorded(jobs: int) -> None:
    encoder = InputNeurons("in", (2,), Delta.of("in", 1))
    hidden = Dense("h", (2,), matrix([2, -3], [4, 1]), SigmaDelta.of("h", 3, 5), delay=matrix([0, 1], [3, 0]))
    net = ChipNet((2,), (encoder, hidden, Dense("fc", (2,), matrix([2, 5]), Sigma())), IDENTITY, time_steps=3)
    messages = np.array([[[9, 8], [7, 6], [5, 4]], [[0, 0], [0, 3], [0, 0]], [[-9, 2], [3, 3], [4, 4]]], np.int32)
    expected = reference.run(net, messages)
    assert np.array_equal(expected.scores(net), lava.run(net, messages, timeout=600, jobs=jobs).scores(net))


@pytest.mark.parametrize("neuron", [pytest.param(Sigma(), marks=runs_lava)])
def test_sums_of_changes_wrap_in_lava_too(neuron: Any) -> None:
    net = ChipNet((1,), (Dense("fc", (1,), matrix([255]), neuron),), Encoding("graded", 1.0, 0, 65535), time_steps=130)
    messages = np.full((1, 130, 1), 65535, np.int32)
    record = Record.everything(net)
    expected = reference.run(net, messages, "isolated", record)
    assert expected.u["fc"].min() < 0
    assert_same_traces(lava.run(net, messages, "isolated", record, timeout=600), expected)


LOADER = """
import json, sys, warnings
warnings.simplefilter("ignore")
from lava.lib.dl.netx.hdf5 import Network
def what_it_made(path):
    layer = Network(net_config=path).layers[0]
    if hasattr(layer, "synapse"):
        return layer.synapse.delays.init.tolist()
    neuron = layer.neuron
    return [neuron.sin_decay.init.tolist(), neuron.cos_decay.init.tolist(), int(neuron.vth.init)]
print(json.dumps([what_it_made(path) for path in sys.argv[1:]]))
"""


@pytest.mark.parametrize("script", [pytest.param(LOADER, marks=[*runs_lava, pytest.mark.slow], id="loader")])
def test_files_are_read_as_the_loader_reads_them(script: str, tmp_path: Path) -> None:
    """Slow: it starts torch and all that lava-dl imports with it."""
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for i, delay in enumerate([2, 2.9, [1, 2, 3], [4.7, 70], rng.integers(0, 99, (3, 2))]):
        paths.append(foreign(tmp_path / f"delay{i}.net", weight=[[1, 2], [3, -4], [5, 6]], delay=np.array(delay)))
    weight = {"real": [[1, 2], [3, -4], [5, 6]], "imag": [[1, 0], [0, -1], [2, 2]]}
    for i in range(200):
        sine, cosine = rng.integers(-2800, 2800, (2, *rng.choice(np.array([(), (1,), (3,)], object))))
        neuron = {"type": "RF_PHASE", "vThMant": i, "sinDecay": sine, "cosDecay": cosine}
        paths.append(foreign(tmp_path / f"rotation{i}.net", weight=weight, neuron=neuron))
    command = [sys.executable, "-c", script, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for path, loaded in zip(paths, json.loads(done.stdout.strip().splitlines()[-1]), strict=True):
        (layer,) = netx.read(path).layers
        assert isinstance(layer, Dense)
        if isinstance(layer.neuron, Resonator):
            for ours, theirs in zip((layer.neuron.sine, layer.neuron.cosine), loaded, strict=False):
                assert np.array_equal(np.broadcast_to(ours, (3,)), np.broadcast_to(theirs, (3,))), path
            assert loaded[2] == layer.neuron.threshold << 6
        else:
            assert layer.delay is not None and np.array_equal(layer.delay, np.array(loaded).astype(int)), path


STAND_IN = """
import json, runpy, sys, warnings
warnings.simplefilter("ignore")
import numpy as np
from lava.lib.dl.slayer.neuron.rf import neuron_params
stand_in = runpy.run_path(sys.argv[1], run_name="worker")["resonator_parameters"]
grid = np.meshgrid(np.arange(-4095.5, 4096, 63), np.arange(-4095.5, 4096, 63))
parts = {"vThMant": 7, "sinDecay": grid[0], "cosDecay": grid[1]}
real, ours = neuron_params(parts), stand_in(parts)
print(json.dumps([sorted(real) == sorted(ours), [bool(np.array_equal(real[k], ours[k])) for k in real]]))
"""


@pytest.mark.parametrize("worker", [pytest.param(lava.WORKER, marks=[*runs_lava, pytest.mark.slow])])
def test_the_workers_stand_in_equals_lavas_function(worker: Path) -> None:
    """Slow: it starts torch and all that lava-dl imports with it."""
    command = [sys.executable, "-c", STAND_IN, str(worker)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.strip().splitlines()[-1]) == [True, [True] * 3]
