"""Lava itself against the reference: every spike, u and v; and that nothing of it remains when it fails."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from with_lava import needs_lava

from snn2chip.chip import ChipNet, Conv, Dense, Encoding, InputNeurons, Layer, Neuron, Shape
from snn2chip.errors import InputError, LavaError, LimitError, UsageError
from snn2chip.simulators import lava, reference
from snn2chip.traces import MODES, Mode, Record, Traces

runs_lava = [pytest.mark.lava, needs_lava]


def integers(shape: Shape, seed: int = 0, low: int = -100, high: int = 101) -> Any:
    return np.random.default_rng(seed).integers(low, high, shape).astype(np.int32)


def spikes(net: ChipNet, samples: int = 3, seed: int = 0) -> Any:
    low, high = net.encoding.low, net.encoding.high
    return integers((samples, net.time_steps, *net.input_shape), seed, low, high + 1)


def assert_equal(expected: Traces, found: Traces, record: Record) -> None:
    assert found.spikes.keys() == expected.spikes.keys() == record.spikes
    assert found.u.keys() == found.v.keys() == expected.u.keys() == record.states
    for what in ("spikes", "u", "v"):
        for name, wanted in getattr(expected, what).items():
            trace = getattr(found, what)[name]
            assert trace.dtype == wanted.dtype and trace.shape == wanted.shape
            different = np.argwhere(trace != wanted)
            if len(different):
                at = tuple(different[0])
                pytest.fail(
                    f"{what} of {name} at {at}: expected {wanted[at]}, found {trace[at]}, {len(different)} in all"
                )
    for what in ("spikes_per_step", "operations_per_step"):
        for name, wanted in getattr(expected, what).items():
            np.testing.assert_array_equal(getattr(found, what)[name], wanted)


def check(net: ChipNet, messages: Any, *modes: Mode, jobs: int = 1) -> Traces:
    """Lava equals the reference in everything; the last mode's traces."""
    record = Record.everything(net)
    for mode in modes:
        found = lava.run(net, messages, mode, record, timeout=600, jobs=jobs)
        expected = reference.run(net, messages, mode, record)
        assert_equal(expected, found, record)
    assert sum(found.spike_counts.values()), "a test without spikes shows little"
    return found


def dense(name: str, inputs: Shape, neurons: int, seed: int = 0, recurrent: bool = False, **neuron: Any) -> Dense:
    matrix = integers((neurons, neurons), seed + 1) if recurrent else None
    parameters = {"threshold": 150, "current_decay": 1000, "voltage_decay": 300, **neuron}
    weight = integers((neurons, int(np.prod(inputs))), seed)
    return Dense(name, inputs, weight, Neuron.of(name, **parameters), matrix)


def conv_net() -> ChipNet:
    """Asymmetric in everything, parameters per neuron; flattened into a dense layer."""

    def per_neuron(shape: Shape) -> Neuron:
        return Neuron.of(
            "c1",
            integers(shape, 1, 0, 300),
            integers(shape, 2, 0, 4097),
            integers(shape, 3, 0, 4097),
            integers(shape, 4, -100, 200),
        )

    geometry: dict[str, Any] = {"stride": (1, 2), "padding": (2, 1), "dilation": (2, 1), "groups": 2}
    first = Conv("c1", (4, 5, 7), integers((6, 2, 2, 3), 0, -256, 256), per_neuron((6, 7, 4)), **geometry)
    second = Conv("c2", first.shape, integers((2, 6, 3, 1), 5), Neuron.of("c2", 90, 4096, 0, integers((2,), 6)))
    return ChipNet((4, 5, 7), (first, second, dense("fc", second.shape, 3, bias=-4)), time_steps=5, window=8)


def graded_net() -> ChipNet:
    """Signed payloads into a convolution whose sums pass 24 bits."""
    first = Conv("c1", (2, 3, 4), integers((3, 2, 2, 2), 0, -256, 256), Neuron.of("c1", 9000, 2000, 100))
    encoding = Encoding("graded", 1.0, -9000, 9000)
    return ChipNet((2, 3, 4), (first, dense("fc", first.shape, 3)), encoding, time_steps=4)


def largest_net() -> ChipNet:
    """Weights of 1 are shifted by seven bits in Lava: the largest sums just fit its int32."""
    weight = np.ones((2, 255), np.int32)
    weight[1, 0] = 0
    layer = Dense("fc", (255,), weight, Neuron.of("fc", 131071, integers((2,), 1, 0, 4096), 4000))
    return ChipNet((255,), (layer,), Encoding("graded", 1.0, 0, 65535), time_steps=3)


def hold_net() -> ChipNet:
    """One message at step 0, held by a current that never decays."""
    layer = dense("fc1", (2, 3, 2), 5, current_decay=0, voltage_decay=100, threshold=800)
    return ChipNet((2, 3, 2), (layer, dense("fc2", (5,), 3)), Encoding("hold", 1.0, -10, 100), time_steps=6)


def input_neurons_net(graded: bool) -> ChipNet:
    shape = (2, 3, 4)
    neuron = Neuron.of("in", integers(shape, 1, 0, 60), integers(shape, 2, 0, 4097), integers(shape, 3, 0, 4097))
    first = InputNeurons("in", shape, neuron)
    second: Layer = dense("fc", shape, 3)
    if graded:
        second = Conv("c1", shape, integers((2, 2, 2, 2)), Neuron.of("c1", 70, 3000, 1000, 9))
    return ChipNet(shape, (first, second), Encoding("graded", 1.0, -50, 90) if graded else Encoding(), time_steps=5)


def recurrent_net(time_steps: int, window: int) -> ChipNet:
    """Biases so large that layers fire while the pipeline fills; recurrent synapses carry it into the first window."""
    first = dense("r1", (4,), 5, 0, True, bias=integers((5,), 8, 100, 300))
    second = dense("r2", (5,), 6, 2, True, bias=integers((6,), 9, 50, 200))
    third = dense("r3", (6,), 4, 4, True, bias=integers((4,), 10, -50, 200))
    return ChipNet((4,), (first, second, third), time_steps=time_steps, window=window)


@pytest.fixture
def traces_of_warm_up() -> Callable[[ChipNet], int]:
    def count(net: ChipNet) -> int:
        """Spikes of recurrent layers in the step before their first data, from biases alone."""
        silent = np.zeros((1, 8, *net.input_shape), np.int32)
        chained = reference.run(net, silent[:, : net.time_steps], "windowed", Record.everything(net))
        alone = reference.run(net, silent[:, : net.time_steps], "isolated", Record.everything(net))
        return sum(int((chained.u[name] != alone.u[name]).sum()) for name in chained.u)

    return count


class TestEqual:
    """Every test runs Lava."""

    pytestmark = runs_lava

    @pytest.mark.parametrize(
        ("net", "modes"),
        [
            (conv_net(), MODES),
            (graded_net(), ("isolated", "streaming")),
            (largest_net(), ("isolated",)),
            (hold_net(), ("isolated",)),
            (input_neurons_net(True), ("isolated", "streaming")),
            (input_neurons_net(False), ("windowed",)),
        ],
        ids=["conv", "graded", "largest", "hold", "input graded", "input spikes"],
    )
    def test_feed_forward(self, net: ChipNet, modes: tuple[Mode, ...]) -> None:
        messages = spikes(net)
        if net.encoding.kind == "hold":
            messages = messages[:, :1]
        check(net, messages, *modes)

    @pytest.mark.parametrize(("time_steps", "window"), [(1, 1), (2, 2), (3, 5)])
    def test_recurrent(self, time_steps: int, window: int, traces_of_warm_up: Callable[[ChipNet], int]) -> None:
        net = recurrent_net(time_steps, window)
        assert traces_of_warm_up(net), "what isolation has to clear"
        check(net, spikes(net), *MODES)

    def test_samples_shared_among_jobs_and_little_recorded(self) -> None:
        net = recurrent_net(3, 4)
        messages = spikes(net, 5)
        check(net, messages, "isolated", jobs=2)
        record = Record.of(spikes=["r3"], states=["r1"])
        found = lava.run(net, messages, record=record, jobs=9)
        assert_equal(reference.run(net, messages, record=record), found, record)
        assert found.seconds > 0 and found.overhead_seconds > 0

    def test_chosen_interpreter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(lava.PYTHON_VARIABLE, sys.executable)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        check(recurrent_net(2, 2), spikes(recurrent_net(2, 2)), "windowed")


# Failures


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where job folders appear; the commands of all processes of a run name it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def processes(folder: Path) -> list[int]:
    """Living processes that were started for a job in ``folder``, Lava's forks included."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{folder}/snn2chip-lava-".encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return sorted(found)


def assert_nothing_remains(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while processes(folder) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not processes(folder)
    assert not list(folder.iterdir())


def changed_worker(folder: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    """Let runs use a worker with one passage replaced."""
    text = lava.WORKER.read_text()
    assert old in text
    other = folder / "worker" / lava.WORKER.name
    other.parent.mkdir()
    other.write_text(text.replace(old, new))
    monkeypatch.setattr(lava, "WORKER", other)


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("elsewhere")


def long_net() -> ChipNet:
    return ChipNet((3,), (dense("a", (3,), 4), dense("b", (4,), 3)), time_steps=100_000)


class TestFailures:
    """Every test starts Lava and sees it fail."""

    pytestmark = runs_lava

    def test_time_out(self, folder: Path) -> None:
        net = long_net()
        with pytest.raises(LavaError, match=r"not finished after 1\.5 s"):
            lava.run(net, spikes(net, 1), timeout=1.5)
        assert_nothing_remains(folder)

    def test_hang_of_one_process(self, folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = "        parameters, index = self.proc_params, self.time_step - 1\n"
        changed_worker(elsewhere, monkeypatch, line, line + "        time.sleep(1000 if index == 2 else 0)\n")
        net = recurrent_net(3, 4)
        with pytest.raises(LavaError, match="not finished"):
            lava.run(net, spikes(net), timeout=2)
        assert_nothing_remains(folder)

    def test_exception_in_one_process(self, folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        line = "        parameters, index = self.proc_params, self.time_step - 1\n"
        changed_worker(elsewhere, monkeypatch, line, line + "        assert index < 2, 'a broken source'\n")
        net = recurrent_net(3, 4)
        with pytest.raises(LavaError, match="Lava failed: AssertionError: a broken source"):
            lava.run(net, spikes(net))
        assert_nothing_remains(folder)

    def test_exception_in_the_worker(self, folder: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        changed_worker(
            elsewhere, monkeypatch, "    net, _around = build(job)\n", "    raise ValueError('no network')\n"
        )
        net = recurrent_net(3, 4)
        with pytest.raises(LavaError, match="Lava failed: ValueError: no network"):
            lava.run(net, spikes(net))
        assert_nothing_remains(folder)

    @pytest.mark.parametrize(("which", "message"), [(0, "SIGKILL"), (4, "ended early with signal 9")])
    def test_killed_process(self, which: int, message: str, folder: Path) -> None:
        """The worker itself, or one of Lava's processes, which Lava would await for ever."""
        segments: list[str] = []

        def kill() -> None:
            deadline = time.monotonic() + 120
            while len(processes(folder)) < 8 and time.monotonic() < deadline:
                time.sleep(0.02)
            time.sleep(0.5)
            segments.extend(next(folder.glob("*/job0/segments")).read_text().split())
            os.kill(processes(folder)[which], signal.SIGKILL)

        net = long_net()
        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(LavaError, match=message):
            lava.run(net, spikes(net, 1), timeout=300)
        killer.join()
        assert_nothing_remains(folder)
        assert segments
        assert not [name for name in segments if Path("/dev/shm", name).exists()]

    def test_interrupt(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        net = long_net()
        sleep = time.sleep

        def interrupted(seconds: float) -> None:
            if len(processes(folder)) >= 8:
                raise KeyboardInterrupt
            sleep(seconds)

        monkeypatch.setattr(lava.time, "sleep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lava.run(net, spikes(net, 1), timeout=300)
        monkeypatch.undo()
        assert_nothing_remains(folder)

    def test_parent_killed(self, folder: Path, elsewhere: Path) -> None:
        """Not even a killed parent leaves processes or files behind."""
        script = elsewhere / "parent.py"
        script.write_text(
            "import sys, tempfile, numpy as np\n"
            "from snn2chip.chip import ChipNet, Dense, Neuron\n"
            "from snn2chip.simulators import lava\n"
            "tempfile.tempdir = sys.argv[1]\n"
            "net = ChipNet((2,), (Dense('a', (2,), np.array([[1, 2]]), Neuron.of('a', 5)),), time_steps=200_000)\n"
            "lava.run(net, np.ones((1, 200_000, 2), np.int32))\n"
        )
        parent = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, str(script), str(folder)])
        deadline = time.monotonic() + 120
        while len(processes(folder)) < 6 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        assert len(processes(folder)) >= 6
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        assert_nothing_remains(folder)


# Without starting Lava


def test_lava_is_missing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.delenv(lava.PYTHON_VARIABLE, raising=False)
    monkeypatch.setenv("SNN2CHIP_LAVA_ENV", "/nowhere")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    net = recurrent_net(2, 2)
    with pytest.raises(LavaError, match=r"not installed.*pip install 'snn2chip\[lava\]' on Python 3\.10.*LAVA_PYTHON"):
        lava.run(net, spikes(net))


def test_chosen_interpreter_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(lava.PYTHON_VARIABLE, "/nowhere/python")
    with pytest.raises(LavaError, match="SNN2CHIP_LAVA_PYTHON is '/nowhere/python', which is not a program"):
        lava.run(recurrent_net(2, 2), spikes(recurrent_net(2, 2)))


def test_chosen_interpreter_has_no_lava(monkeypatch: pytest.MonkeyPatch, folder: Path, elsewhere: Path) -> None:
    bare = elsewhere / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv(lava.PYTHON_VARIABLE, str(bare))
    with pytest.raises(LavaError, match=r"cannot be imported by .*No module named 'numpy'.*pip install"):
        lava.run(recurrent_net(2, 2), spikes(recurrent_net(2, 2)))
    assert_nothing_remains(folder)


def test_refused_before_anything_starts(folder: Path) -> None:
    net = recurrent_net(2, 2)
    with pytest.raises(UsageError, match="jobs: 2 in mode 'windowed'"):
        lava.run(net, spikes(net), "windowed", jobs=2)
    with pytest.raises(UsageError, match="jobs: -1"):
        lava.run(net, spikes(net), jobs=-1)
    with pytest.raises(UsageError, match="mode: 'wild' is unknown"):
        lava.run(net, spikes(net), "wild")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="messages: shape"):
        lava.run(net, spikes(net)[0])


@needs_lava
def test_refused_by_the_exporter_and_no_samples(folder: Path) -> None:
    zero = ChipNet((2,), (Dense("zero", (2,), np.zeros((2, 2), int), Neuron.of("zero", 1)),))
    with pytest.raises(LimitError, match="zero"):
        lava.run(zero, np.ones((1, 1, 2), np.int32))
    net = recurrent_net(2, 3)
    found = lava.run(net, spikes(net, 0), record=Record.everything(net))
    assert found.spikes["r1"].shape == (0, 3, 5) and found.spike_counts == {"r1": 0, "r2": 0, "r3": 0}
    assert_nothing_remains(folder)


@pytest.mark.parametrize("late", [False, True])
def test_an_interrupt_waits_until_a_worker_is_known(late: bool) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt):
        with lava.interrupts_later():
            if not late:
                signal.raise_signal(signal.SIGINT)
            reached = True
        assert late
        signal.raise_signal(signal.SIGINT)
    assert reached
