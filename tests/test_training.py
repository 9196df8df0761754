"""The loop: exact resume, Ctrl-C, several processes, the command line, and each method down to the chip."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn

import snn2chip as s2c
from snn2chip import training
from snn2chip.cli.app import cli
from snn2chip.cli.train import command
from snn2chip.errors import EnvironmentFailure, InputError, UsageError
from snn2chip.nn import LIF, Network, Readout
from snn2chip.training import checkpoint as checkpoints
from snn2chip.training.datasets import fewer_steps
from snn2chip.training.deploy import calibration, save_trained
from snn2chip.training.loop import Update, learning_rate

RUN = [sys.executable, "-c", "from snn2chip.cli import main; main()", "train"]


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def digits() -> training.TrainingData:
    whole = training.load("digits")
    assert whole.test is not None
    some = slice(0, 320)
    return training.TrainingData("digits", whole.training.part(some), whole.validation, whole.test.part(slice(0, 64)))


@pytest.fixture(scope="module")
def saccades() -> training.TrainingData:
    whole = training.load("saccades", time_steps=5)
    assert whole.test is not None
    some = slice(0, 320)
    return training.TrainingData("saccades", whole.training.part(some), whole.validation, whole.test.part(slice(0, 32)))


def run(
    method: str,
    data: training.TrainingData,
    options: dict[str, Any],
    settings: dict[str, Any] | None = None,
    **how: Any,
) -> training.Trained:
    chosen = training.Options(**{"model": "mlp:24", "epochs": 2, **options})
    return training.train(
        training.plan_of(method, data, chosen), data, training.Settings(**{"device": "cpu", **(settings or {})}), **how
    )


class Interrupts:
    """Sends Ctrl-C to this process after some batches, once each."""

    def __init__(self, *after: int) -> None:
        self.after, self.seen = set(after), 0

    def __call__(self, update: Update) -> None:
        self.seen += 1
        if self.seen in self.after:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("tet", {"inherit": 2, "epochs": 3}),
        ("noise", {"model": "conv:4-6", "epochs": 3}),
        ("ltl", {"teacher_epochs": 1, "time_steps": 4, "online": True, "warm_up": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_interrupted_and_resumed_runs_end_with_the_same_bits(
    digits: training.TrainingData, tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    settings = {"augment": ("shift",), "seed": 3}
    straight = run(method, digits, options, settings)
    # in the first stage, at the end of an epoch, and in the last stage
    interrupts, times = Interrupts(2, 6, 13), 0
    while True:
        try:
            resumed = run(method, digits, options, settings, checkpoint=tmp_path / "c.ckpt", progress=interrupts)
            break
        except KeyboardInterrupt:
            times += 1
    assert times >= 2
    expected, found = straight.network.state_dict(), resumed.network.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert [(e.loss, e.training_accuracy, e.validation) for e in straight.history] == [
        (e.loss, e.training_accuracy, e.validation) for e in resumed.history
    ]


def test_a_checkpoint_of_other_settings_is_refused(digits: training.TrainingData, tmp_path: Path) -> None:
    file = tmp_path / "c.ckpt"
    run("sdt", digits, {"epochs": 1}, checkpoint=file)
    with pytest.raises(UsageError, match=r"learning_rate 0.003 there, 0.1 here.*--force"):
        run("sdt", digits, {"epochs": 1}, {"learning_rate": 0.1}, checkpoint=file)
    run("sdt", digits, {"epochs": 1}, {"learning_rate": 0.1}, checkpoint=file, force=True)
    file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="cannot be read as a checkpoint"):
        run("sdt", digits, {"epochs": 1}, checkpoint=file)
    torch.save({"format": "something else"}, file)
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoints.read(file)


def test_the_best_epoch_is_that_of_the_highest_validation_accuracy(digits: training.TrainingData) -> None:
    # a rate that grows out of hand after a good start: the last epoch is not the best
    trained = run("sdt", digits, {"epochs": 4}, {"learning_rate": 0.6, "schedule": "constant", "optimiser": "sgd"})
    assert trained.best is not None
    accuracies = [epoch.validation.accuracy[-1] for epoch in trained.history]
    assert trained.best.validation.accuracy[-1] == max(accuracies)
    assert trained.validation == trained.best.validation


def test_a_loss_that_is_not_finite_ends_the_run(digits: training.TrainingData) -> None:
    with pytest.raises(InputError, match=r"loss of epoch 1 is not finite.*lower learning rate"):
        run("sdt", digits, {"epochs": 2}, {"learning_rate": 1e38, "optimiser": "sgd", "schedule": "constant"})


def test_bfloat16_trains(digits: training.TrainingData) -> None:
    trained = run("tet", digits, {"epochs": 3}, {"precision": "bfloat16"})
    assert trained.history[-1].loss < 0.9 * trained.history[0].loss
    assert all(value.dtype != torch.bfloat16 for value in trained.network.state_dict().values())


def test_learning_rates() -> None:
    def rates(schedule: str) -> list[float]:
        settings = training.Settings(learning_rate=1.0, schedule=schedule)
        return [learning_rate(settings, update, 100) for update in range(100)]

    assert rates("constant") == [1.0] * 100
    assert rates("cosine")[0] == 1.0
    assert rates("cosine") == sorted(rates("cosine"), reverse=True)
    one = rates("onecycle")
    assert one[0] == pytest.approx(1 / 25)
    assert max(one) == one[30] == pytest.approx(1)
    assert one[99] < 1e-3


@pytest.mark.parametrize(
    ("method", "model", "steps", "least"),
    [
        ("sdt", "conv:8-16", 3, 0.6),
        ("tet", "conv:8-16", 3, 0.6),
        ("str", "mlp:48", 4, 0.6),
        ("rcs", "mlp:48", 4, 0.6),
        ("noise", "conv:8-16", 4, 0.6),
        ("s2nn", "mlp:48-48", 1, 0.6),
        ("ltl", "conv:8-16", 8, 0.6),
        ("convert", "mlp:48", 16, 0.6),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" not in value else "",
)
def test_every_method_reaches_the_chip(
    digits: training.TrainingData, tmp_path: Path, method: str, model: str, steps: int, least: float
) -> None:
    options = {"model": model, "time_steps": steps, "epochs": 8, "rate_weight": 0.01}
    trained = run(method, digits, options, {"batch": 32, "learning_rate": 0.01})
    assert digits.test is not None
    assert trained.test is not None
    assert len(trained.test.accuracy) == steps
    assert trained.test.accuracy[-1] > least
    save_trained(trained.network, digits, tmp_path / "model.pt")
    net = s2c.convert(tmp_path / "model.pt", scales="max")
    s2c.export(net, tmp_path / "model.net")
    net = s2c.read(tmp_path / "model.net")
    assert net.time_steps == steps
    x, y = digits.test.numpy()
    event = s2c.simulate(net, x, y)
    assert event.accuracy is not None
    assert event.accuracy > trained.test.accuracy[-1] - 0.08
    assert s2c.verify(net, x[:4], against="reference").equal


@pytest.mark.parametrize("method", ["tet", "str"])
def test_event_data_reach_the_chip(saccades: training.TrainingData, method: str) -> None:
    trained = run(method, saccades, {"model": "mlp:32", "epochs": 4, "inherit": 2})
    assert saccades.test is not None
    assert trained.test is not None
    net = s2c.convert(trained.network, calibration(trained.network, saccades))
    assert net.encoding.kind == "spikes"
    event = s2c.simulate(net, *saccades.test.numpy())
    assert event.accuracy is not None
    assert abs(event.accuracy - trained.test.accuracy[-1]) < 0.1


def test_a_stateless_network_streams_one_sample_per_time_step(digits: training.TrainingData) -> None:
    """In windows of one step: as many answers as steps, and those of samples by themselves."""
    trained = run("s2nn", digits, {"model": "mlp:32-32"})
    assert digits.test is not None
    x, _ = digits.test.numpy()
    net = s2c.convert(trained.network, calibration(trained.network, digits), scales="max")
    assert (net.time_steps, net.window) == (1, 1)
    streamed = s2c.simulate(net, x, mode="windowed")
    last = net.layers[-1].name
    assert streamed.traces.v[last].shape[:2] == (len(x), 1)
    alone = np.concatenate([s2c.simulate(net, one[None]).predictions for one in x])
    assert (streamed.predictions == alone).all()


@pytest.mark.parametrize("spec", ["vgg:0.05", "resnet19:0.03"])
def test_deep_models_are_exportable(digits: training.TrainingData, spec: str) -> None:
    torch.manual_seed(0)
    network = training.builder(spec)(digits.input_shape, 10, 2)
    with torch.no_grad():  # statistics with which deep layers fire
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.fill_(2.0)
                module.bias.fill_(0.5)
        network.train()(digits.training.x[:32])
    network.eval()
    x, _ = digits.training.numpy(8)
    net = s2c.convert(network, x, scales="max")
    assert s2c.simulate(net, x).predictions.shape == (8,)


class OfSnnTorch(nn.Module):
    """Dense - Leaky - dense over ``[T, N, C, H, W]``, step by step, as in snnTorch's tutorials."""

    def __init__(self) -> None:
        import snntorch

        super().__init__()
        self.fc1, self.fc2 = nn.Linear(64, 24), nn.Linear(24, 10)
        self.lif = snntorch.Leaky(beta=0.5, reset_mechanism="zero", reset_delay=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        memory = self.lif.init_leaky()
        out = []
        for step in range(x.shape[0]):
            spikes, memory = self.lif(self.fc1(x[step].flatten(1)), memory)
            out.append(self.fc2(spikes))
        return torch.stack(out)


def own_network() -> Network:
    return Network(nn.Flatten(), nn.Linear(64, 16), LIF(), Readout(16, 10), input_shape=(1, 8, 8), time_steps=3)


def test_modules_of_snntorch_train_in_the_loop(
    digits: training.TrainingData, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("snntorch")
    (tmp_path / "nets_of_snntorch.py").write_text(Path(__file__).read_text())
    monkeypatch.chdir(tmp_path)
    trained = run("str", digits, {"model": "nets_of_snntorch:OfSnnTorch", "time_steps": 3, "epochs": 3})
    assert trained.history[-1].loss < trained.history[0].loss
    assert len(trained.validation.accuracy) == 3
    save_trained(trained.network, digits, tmp_path / "model.pt", 3)
    assert s2c.convert(tmp_path / "model.pt", scales="max").time_steps == 3
    with pytest.raises(UsageError, match="builds its networks itself"):
        run("ltl", digits, {"model": "nets_of_snntorch:OfSnnTorch"})


@pytest.mark.parametrize(
    ("method", "options", "match"),
    [
        ("bptt", {}, "'bptt' is unknown; have sdt, tet"),
        ("tet", {"model": "transformer"}, "'transformer' is unknown; have mlp, conv"),
        ("tet", {"model": "mlp:many"}, "mlp takes widths as in 512-128"),
        ("tet", {"model": "vgg:-1"}, "vgg takes a factor"),
        ("tet", {"model": "conv:1-1-1-1"}, r"conv takes \(C, H, W\) of at least 16 x 16"),
        ("tet", {"model": "nowhere.at_all:make"}, "nowhere"),
        ("tet", {"inherit": 9}, "9 time steps, expected fewer than the 4"),
        ("noise", {"sigma": -1.0}, "sigma is -1"),
        ("sdt", {"epochs": 0}, "0 epochs"),
        ("sdt", {"surrogate": "sigmoid"}, "surrogate 'sigmoid' is unknown"),
    ],
)
def test_wrong_options(digits: training.TrainingData, method: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        run(method, digits, options)


def test_single_step_methods_refuse_events(saccades: training.TrainingData) -> None:
    for method in ("noise", "s2nn", "ltl", "convert"):
        with pytest.raises(UsageError, match="have 5"):
            run(method, saccades, {})


def test_teachers_refuse_skips(digits: training.TrainingData) -> None:
    with pytest.raises(s2c.errors.UnsupportedError, match=r"Residual.*without skips"):
        run("convert", digits, {"model": "resnet19:0.03", "epochs": 1}, {"batch": 160})


@pytest.mark.parametrize(
    ("spec", "error", "match"),
    [
        ("nowhere.npz", InputError, "no such file"),
        ("torchvision:MNIST", UsageError, "lacks the folder"),
        ("tonic:NMNIST:nowhere", EnvironmentFailure, "tonic cannot be imported"),
    ],
)
def test_data_that_are_not_there(spec: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        training.load(spec)


def test_torchvision_reads_what_lies_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(EnvironmentFailure, match="not in"):
        training.load(f"torchvision:CIFAR10:{tmp_path}")
    with pytest.raises(UsageError, match="no data set 'CIFAR11'"):
        training.load(f"torchvision:CIFAR11:{tmp_path}")
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 6)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        shape = b"".join(n.to_bytes(4, "big") for n in images.shape)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3]) + shape + images.tobytes())
        classes = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(classes))
    data = training.load(f"torchvision:MNIST:{tmp_path}")
    assert data.test is not None
    assert (len(data.training), len(data.validation), len(data.test)) == (18, 2, 6)
    assert data.input_shape == (1, 28, 28)
    assert 0 <= float(data.training.x.min()) < float(data.training.x.max()) <= 1


def test_events_binned_anew_lose_none() -> None:
    x = (torch.rand(4, 10, 3) < 0.2).to(torch.uint8)
    assert torch.equal(fewer_steps(x, 10), x)
    for steps in (1, 3, 7):
        joined = fewer_steps(x, steps)
        assert joined.shape == (4, steps, 3)
        assert torch.equal(joined.amax(1), x.amax(1))
    with pytest.raises(UsageError, match="10 time steps cannot become 11"):
        fewer_steps(x, 11)


def test_the_example_ends_in_export_and_verify(digits: training.TrainingData, tmp_path: Path) -> None:
    file = Path(__file__).parents[1] / "examples" / "train_methods.py"
    spec = importlib.util.spec_from_file_location("train_methods", file)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    options = training.Options(model="mlp:16", epochs=1)
    result = example.deployed("tet", digits, options, 0, tmp_path, 2)
    assert (result["compared_samples"], result["differing_spikes"], result["differing_states"]) == (2, 0, 0)
    assert Path(result["file"]).exists()


# -- the command line


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["train", *(str(a) for a in arguments)])


def test_command_trains_logs_and_reads_its_configuration(tmp_path: Path) -> None:
    config = tmp_path / "run.json"
    config.write_text(json.dumps({"data": "digits", "model": "mlp:16", "epochs": 9, "time-steps": 3, "device": "cpu"}))
    target, log = tmp_path / "model.pt", tmp_path / "log.csv"
    arguments = ("tet", "--config", config, "--epochs", 2, "-o", target, "--log", log, "--json")
    done = invoke(*arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["epochs"] == 2
    assert len(result["test_accuracy_by_step"]) == 3
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[result["best_epoch"] - 1]["validation_accuracy_3"]) == result["validation_accuracy"]
    assert s2c.convert(target, scales="max").time_steps == 3
    assert invoke(*arguments).exit_code == 2  # the model exists
    target.unlink()  # the finished checkpoint writes it again, without training
    again = json.loads(invoke(*arguments).stdout)
    assert again["test_accuracy_by_step"] == result["test_accuracy_by_step"]
    config.write_text(json.dumps({"epoch": 3}))
    wrong = invoke("tet", "--config", config, "--data", "digits", "-o", tmp_path / "other.pt")
    assert wrong.exit_code == 3
    assert "unknown epoch" in wrong.output
    assert command.help is not None
    assert "temporal efficient training" in command.help


def test_ctrl_c_leaves_a_checkpoint_that_the_same_command_continues(tmp_path: Path) -> None:
    target, checkpoint = tmp_path / "model.pt", tmp_path / "model.ckpt"
    arguments = ["sdt", "--data", "digits", "--model", "mlp:16", "--device", "cpu", "--threads", "1", "-o", str(target)]
    process = subprocess.Popen(
        [*RUN, *arguments, "--epochs", "40"], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    waited = time.monotonic() + 60
    while not checkpoint.exists() and time.monotonic() < waited:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "error: interrupted"
    assert not target.exists()
    before = checkpoints.read(checkpoint)
    assert 0 < before["stage"]["epoch"] < 40
    done = invoke(*arguments, "--epochs", 40, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["epochs"] == 40
    assert target.exists()


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    launched = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python", *RUN]
    arguments = ["rcs", "--data", "digits", "--model", "mlp:16", "--epochs", "2", "--device", "cpu", "--json"]
    done = subprocess.run(
        [*launched, *arguments, "-o", str(target)],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(results) == 1  # one of them speaks
    assert results[0]["epochs"] == 2
    assert results[0]["test_accuracy"] > 0.2
    assert len(checkpoints.read(tmp_path / "model.ckpt")["history"]) == 2
    assert s2c.convert(target, scales="max").time_steps == 4
