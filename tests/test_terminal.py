"""The terminal as a user meets it: help, suggestions, completion, bars, colour, narrow windows, pipes, encodings."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from torch import nn

import snn2chip as s2c
from snn2chip import long_runs, names, verification
from snn2chip.chip import ChipNet, Dense, Neuron
from snn2chip.cli import cli, output, progress
from snn2chip.cli.app import COMMANDS
from snn2chip.nn import LIF, Network, Readout
from snn2chip.nn.surrogate import SURROGATES
from snn2chip.quantise.ranges import SCALE_METHODS
from snn2chip.simulation import simulate
from snn2chip.traces import Record
from snn2chip.training import MODELS
from snn2chip.training.augment import AUGMENTATIONS

MAIN = "from snn2chip.cli import main; main()"
LAYERS = ("0 (Linear)", "2 (Readout)")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained-like model, its network, the same with an early exit, and data."""
    path = tmp_path_factory.mktemp("terminal")
    torch.manual_seed(0)
    network = Network(nn.Linear(6, 8), LIF(), Readout(8, 3), input_shape=(6,), time_steps=3)
    x = np.random.default_rng(0).random((40, 6)).astype(np.float32) * 3
    np.savez(path / "data.npz", x=x, y=np.arange(40) % 3)
    s2c.save(network, path / "model.pt", calibration=(x, np.arange(40) % 3))
    s2c.export(s2c.convert(path / "model.pt"), path / "model.net")
    made = call("cutoff", path / "model.net", path / "data.npz", "--max-latency", 100, "-o", path / "exit.net")
    assert made.exit_code == 0, made.output
    dense = Dense("schicht-ü", (4,), np.eye(4, dtype=np.int32)[:2] * 20, Neuron.of("schicht-ü", 5, 4096, 0))
    s2c.export(ChipNet((4,), (dense,)), path / "umlaut.net")
    (path / "folder").mkdir()
    return path


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_everything_at_80_columns(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    ctx = click.Context(command, info_name=name, max_content_width=100)
    for parameter in command.params:
        told = getattr(parameter, "explained", None) or getattr(parameter, "help", None)
        assert told, f"{name}: {parameter.name}"
    for width in (80, 100, 200):
        ctx.terminal_width = min(width, 100)
        lines = command.get_help(ctx).splitlines()
        assert max(map(len, lines)) <= min(width, 100)
        assert not any("RANGE" in line for line in lines), "click's names of numbers"
    text = command.get_help(ctx)
    assert command.get_short_help_str(200).endswith(".") and "--json" in text
    assert ("Examples:" in text) != (name == "completion"), "its use is its example"


def test_options_of_the_same_name_say_the_same() -> None:
    said: dict[str, set[str]] = {}
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name in ("as_json", "debug", "windowed", "streaming"):
                said.setdefault(parameter.name, set()).add(str(parameter.help))
    assert {name: len(texts) for name, texts in said.items()} == dict.fromkeys(said, 1) and len(said) == 4


# Suggestions

UNKNOWN = {
    "command": (2, "Did you mean export?", ["exprot"]),
    "option": (2, "no such option --sampels. Did you mean --samples?", ["simulate", "NET", "DATA", "--sampels", "3"]),
    "choice": (2, "did you mean loihi2?", ["inspect", "NET", "--target", "lohi2"]),
    "board": (2, "did you mean kapoho-bay?", ["inspect", "NET", "--board", "kapohobay"]),
    "policy": (2, "did you mean softmax?", ["cutoff", "NET", "DATA", "--policy", "sofmax"]),
    "form": (2, "did you mean ladder?", ["cutoff", "NET", "DATA", "--form", "lader"]),
    "backend": (2, "did you mean event?", ["simulate", "NET", "DATA", "--backend", "evnt"]),
    "against": (2, "did you mean reference?", ["verify", "NET", "DATA", "--against", "refrence"]),
    "layer": (
        2,
        "no layer 2 (Readot); have 0 (Linear), 2 (Readout); did you mean 2 (Readout)?",
        ["simulate", "NET", "DATA", "-o", "OUT", "--record", "2 (Readot)"],
    ),
    "path of a layer": (
        2,
        "no layer 2; have 0 (Linear), 2 (Readout); did you mean 2 (Readout)?",
        ["simulate", "NET", "DATA", "-o", "OUT", "--record", "2"],
    ),
    "scales": (2, "did you mean percentile 98?", ["export", "MODEL", "-o", "OUT", "--scales", "percentil 98"]),
    "pass": (2, "did you mean fold-batch-norm?", ["export", "MODEL", "-o", "OUT", "--skip-pass", "fold-batchnorm"]),
    "rule": (2, "did you mean L2-", ["export", "MODEL", "-o", "OUT", "--allow", "l2-cores"]),
    "method": (2, "did you mean tet?", ["train", "tett", "--data", "digits", "-o", "OUT"]),
    "data set": (3, "did you mean digits?", ["train", "tet", "--data", "digts", "-o", "OUT"]),
    "model": (2, "did you mean resnet19?", ["train", "tet", "--data", "digits", "--model", "resnet18", "-o", "OUT"]),
    "augmentation": (2, "did you mean shift?", ["train", "tet", "--data", "digits", "--augment", "shft", "-o", "OUT"]),
    "surrogate": (
        2,
        "did you mean triangle?",
        ["train", "tet", "--data", "digits", "--surrogate", "triangel", "-o", "OUT"],
    ),
    "key of a configuration": (3, "did you mean bits?", ["export", "MODEL", "-o", "OUT", "--config", "CONFIG"]),
    "shell": (2, "did you mean bash?", ["completion", "bsh"]),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_did_you_mean(folder: Path, tmp_path: Path, case: str) -> None:
    code, message, arguments = UNKNOWN[case]
    (tmp_path / "config.yaml").write_text("bitz: 3")
    paths = {
        "NET": folder / "model.net",
        "DATA": folder / "data.npz",
        "MODEL": folder / "model.pt",
        "OUT": tmp_path / "out",
        "CONFIG": tmp_path / "config.yaml",
    }
    result = call(*(paths.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert not (tmp_path / "out").exists()


# Arguments that cannot be meant

TRAIN = ["train", "tet", "--data", "digits", "--model", "mlp:4", "--epochs", "1"]
IMPOSSIBLE: dict[str, tuple[str, list[str]]] = {
    "no number": ("'nan' is not a finite number", ["cutoff", "NET", "DATA", "--eps", "0.1", "--logit", "nan"]),
    "infinity": ("'inf' is not a finite number", [*TRAIN, "-o", "OUT", "--learning-rate", "inf"]),
    "share": ("'nan' is not a finite number", [*TRAIN, "-o", "OUT", "--validation", "nan"]),
    "seed": ("is not in the range", [*TRAIN, "-o", "OUT", "--seed", "9223372036854775808"]),
    "threads": ("is not in the range", [*TRAIN, "-o", "OUT", "--threads", "100000"]),
    "endless window": ("is not in the range", ["export", "MODEL", "-o", "OUT", "--window", "99999999999999999999"]),
    "short window": ("window 1: the network runs for", ["export", "MODEL", "-o", "OUT", "--window", "1"]),
    "itself": ("--against event: is the backend", ["verify", "NET", "DATA", "--against", "event"]),
    "policy and eps": ("aim of --policy softmax", ["cutoff", "NET", "DATA", "--eps", "0.1", "--policy", "margin"]),
    "auto and exit": (
        "--bits auto looks at all",
        ["export", "MODEL", "-o", "OUT", "--bits", "auto", "--exit", "margin", "--max-drop", "4"],
    ),
    "aim without exit": ("also of --bits auto", ["export", "MODEL", "-o", "OUT", "--bits", "4", "--max-drop", "1"]),
    "partition": ("--partition 'x;y z'", ["deploy", "NET", "-o", "OUT", "--partition", "x;y z"]),
    "export onto its model": ("which the command needs", ["export", "MODEL", "-o", "MODEL", "--force"]),
    "init onto its model": ("which the command needs", ["init", "MODEL", "-o", "MODEL", "--force"]),
    "sweep onto its model": ("which the command needs", ["sweep", "--init", "MODEL", "-o", "MODEL", "--force"]),
    "report onto its data": ("which the command needs", ["report", "NET", "DATA", "-o", "DATA", "--force"]),
    "results onto data": ("which the command needs", ["simulate", "NET", "DATA", "-o", "DATA", "--force"]),
    "exit onto data": (
        "which the command needs",
        ["cutoff", "NET", "DATA", "--max-drop", "5", "-o", "DATA", "--force"],
    ),
    "checkpoint onto the model": ("which the command needs", [*TRAIN, "-o", "OUT.ckpt"]),
    "log that exists": ("--force overwrites it", [*TRAIN, "-o", "OUT", "--log", "LOG"]),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_cannot_be_meant_is_wrong_usage(folder: Path, tmp_path: Path, case: str) -> None:
    message, arguments = IMPOSSIBLE[case]
    for name in ("model.net", "data.npz", "model.pt"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "log.csv").write_text("kept")
    paths = {"NET": "model.net", "DATA": "data.npz", "MODEL": "model.pt", "OUT": "out", "LOG": "log.csv"}
    paths = {name: str(tmp_path / path) for name, path in paths.items()} | {"OUT.ckpt": str(tmp_path / "out.ckpt")}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = call(*(paths.get(argument, argument) for argument in arguments))
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"seed": {}}', "seed: {}, expected a word or a number"),
        ('{"log": 3}', "--log: 3"),
        ('{"log": ["a.csv"]}', 'log: ["a.csv"], expected a word or a number'),
        ('{"batch": 1e400}', "'inf' is not a valid integer"),
        ('{"epochs": null}', "epochs: null, expected a word or a number"),
        ('{"epochs": 1.5}', "'1.5' is not a valid integer"),
        ('{"epochs": true}', "epochs: true, expected a word or a number"),
        ('{"model": ["mlp:8"]}', 'model: ["mlp:8"], expected a word or a number'),
        ('{"augment": [1]}', "augmentation: 1 unknown"),
        ('{"augment": [[]]}', "augment: [], expected a word or a number"),
        ('{"online": 1}', "online: 1, expected true or false"),
        ('{"lam": 1, "lam": 2}', "lam is given twice"),
        ('{"target": "x.pt"}', "unknown target"),
        ("[" * 100000, "--config:"),
        ("[1]", "is no object"),
        ("{", "--config:"),
    ],
)
def test_configurations_of_training_that_hold_something_else(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.json").write_text(text)
    result = call("train", "tet", "--data", "digits", "-o", tmp_path / "m.pt", "--config", tmp_path / "run.json")
    assert result.exit_code in (2, 3), result.output
    assert message in result.stderr and result.stderr.count("\n") == 1, result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_of_many_names_the_nearest_are_listed() -> None:
    known = [f"block{i}.conv" for i in range(40)]
    text = names.suggestion("blok17.conv", known)
    assert "did you mean block17.conv?" in text and "(40 in all)" in text and len(text) < 300
    assert names.suggestion("zzz", ["a", "b"]) == "; have a, b"
    assert names.suggestion("zzz", []) == "; there are none"
    assert names.closest("CONV1", ["conv1 (Conv2d)"]) == "conv1 (Conv2d)"


# Completion

ASK = """
eval "$("$SNN2CHIP" completion bash)"
snn2chip() { "$SNN2CHIP" "$@"; }
compopt() { printf '<%s>' "$2"; }
while read -r line; do
    eval "COMP_WORDS=($line)"
    [[ $line == *' ' ]] && COMP_WORDS+=('')
    COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
    _snn2chip_completion "$SNN2CHIP" >/dev/null
    (IFS='|'; echo "${COMPREPLY[*]}")
done
"""


def test_completion_in_bash(folder: Path) -> None:
    asked = {
        "snn2chip co": "compare|completion",
        "snn2chip completion ": "bash|zsh|fish",
        "snn2chip inspect --target ": "loihi1|loihi2",
        "snn2chip inspect ": "exit.net|folder|model.net|umlaut.net",
        "snn2chip inspect ./mo": "./model.net",
        "snn2chip export ": "folder|model.pt",
        "snn2chip export m.pt --skip-pass fold-b": "fold-batch-norm",
        "snn2chip simulate model.net da": "data.npz",
        "snn2chip simulate model.net data.npz --record ": "0 (Linear)|2 (Readout)|all",
        "snn2chip train tet --data di": "digits",
    }
    lines = "".join(f"{line}\n" for line in asked).replace("$ \n", "$ ''\n")
    done = subprocess.run(
        ["bash", "--norc", "-c", ASK.replace("while read -r line", "while IFS= read -r line")],
        input=lines,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "SNN2CHIP": str(Path(sys.executable).parent / "snn2chip")},
        check=True,
    )
    assert dict(zip(asked, done.stdout.splitlines(), strict=True)) == asked, done.stderr


def test_completion_needs_no_torch_and_is_offered_for_every_shell(folder: Path) -> None:
    words = f"snn2chip simulate {folder / 'model.net'} data.npz --record "
    code = """
import sys
from snn2chip.cli import main
try:
    main()
finally:
    sys.exit(" ".join({"torch", "numba"} & set(sys.modules)) or None)
"""
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": "5", "_SNN2CHIP_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("name,0 (Linear)\nname,2 (Readout)\nname,all\n", "")
    for shell in ("bash", "zsh", "fish"):
        script = call("completion", shell).stdout
        assert "_SNN2CHIP_COMPLETE" in script and f"{shell}_complete" in script


def test_names_offered_are_those_that_exist() -> None:
    train, export = (cli.get_command(click.Context(cli), name) for name in ("train", "export"))
    assert train is not None and export is not None
    kinds: dict[Any, Any] = {parameter.name: parameter.type for parameter in (*train.params, *export.params[1:])}
    assert kinds["surrogate"].names == tuple(SURROGATES)
    assert kinds["augment"].names == tuple(AUGMENTATIONS)
    assert kinds["model"].names == tuple(MODELS)
    assert set(kinds["scales"].names) == {"search", *SCALE_METHODS}


# A real terminal


class Terminal:
    """What was written to a pseudo terminal, and what a user would see in the end."""

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def plain(self) -> str:
        """Without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.text)


@contextlib.contextmanager
def pseudo_terminal(columns: int) -> Iterator[tuple[int, list[bytes]]]:
    """The end that programs write to, and what they wrote, complete when the context ends."""
    mine, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    parts: list[bytes] = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(mine, 65536):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield theirs, parts
    finally:
        os.close(theirs)
        reader.join()
        os.close(mine)


def in_terminal(code: str, *arguments: object, columns: int = 80, **environment: str) -> Terminal:
    """A program with all its streams on a terminal of so many columns."""
    given = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    with pseudo_terminal(columns) as (theirs, parts):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**given, "TERM": "xterm-256color", **environment},
            check=False,
        )
    text = b"".join(parts).decode()
    assert done.returncode == 0, text
    return Terminal(text)


#: A bar at once, and drawn anew whenever something changes, not ten times a second.
EAGER = (
    "from snn2chip.cli import progress; progress.PATIENCE = 0; import rich.progress; bar = rich.progress.Progress; "
    "update = bar.update; bar.update = lambda *a, **k: (update(*a, **k), a[0].refresh())[0]; "
)


def test_a_bar_with_the_time_left_comes_and_goes(folder: Path, tmp_path: Path) -> None:
    seen = in_terminal(
        EAGER + MAIN, "export", folder / "model.pt", "-o", tmp_path / "a.net", "--no-verify", "--bits", 4
    )
    assert re.search(r"Compiling model.pt: scales: 0 \(Linear\).*\d %.* \d:\d\d:\d\d (left|so far)", seen.plain)
    after = seen.text[seen.text.rindex("\x1b[2K") :]  # the line is erased
    assert "Compiling" not in after and "━" not in after and "wrote" in after
    arguments = ("cutoff", folder / "model.net", folder / "data.npz", "--max-latency", "9")
    quiet = in_terminal(EAGER + MAIN, *arguments, "--json")
    assert "Calibrating" not in quiet.text and json.loads(quiet.plain)["policy"] == "margin"
    piped = subprocess.run(
        [sys.executable, "-c", EAGER + MAIN, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1"},  # colour, but no terminal
    )
    assert piped.stderr == "" and "\x1b[1m" in piped.stdout and "━" not in piped.stdout


def test_colour_and_width(folder: Path) -> None:
    colour = in_terminal(MAIN, "inspect", folder / "exit.net")
    assert re.search(r"\x1b\[3[123]m", colour.text)
    none = in_terminal(MAIN, "inspect", folder / "exit.net", NO_COLOR="1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]", none.text)
    dumb = in_terminal(EAGER + MAIN, "inspect", folder / "exit.net", TERM="dumb")
    assert "\x1b" not in dumb.text
    assert colour.plain == none.plain == dumb.plain
    narrow = in_terminal(MAIN, "inspect", folder / "exit.net", columns=40)
    assert max(map(len, narrow.plain.splitlines())) <= 40
    plain = subprocess.check_output([sys.executable, "-c", MAIN, "inspect", folder / "exit.net"], text=True)
    whole = re.findall(r"[\d,.]+", plain)
    assert set(whole) <= set(re.findall(r"[\d,.]+", narrow.plain)), "a number was cut"


class Watched(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


TEXTS = st.text("abcdefg ü(.", min_size=1, max_size=30).filter(str.strip)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.integers(1, 8), st.integers(0, 3), st.integers(1, 120))
def test_tables_lose_nothing_at_any_width(data: st.DataObject, columns: int, rows: int, width: int) -> None:
    kinds = [st.integers(0, 10**9) if data.draw(st.booleans()) else TEXTS for _ in range(columns)]
    heads = [data.draw(TEXTS) for _ in range(columns)]
    cells = [[data.draw(kind) for kind in kinds] for _ in range(rows)]
    stream = Watched()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setenv("COLUMNS", str(width))
        patch.setenv("TERM", "dumb" if width == 80 else "xterm")
        output.table(heads, cells)
    text = Terminal(stream.getvalue()).plain
    shown = [f"{cell:,}" if isinstance(cell, int) else cell for row in cells for cell in row]
    letters = Counter("".join(text.split()))
    assert not Counter("".join("".join([*heads, *shown]).split())) - letters, "something was left out"
    assert all(cell in text for row in cells for cell in (f"{one:,}" for one in row[1:] if isinstance(one, int)))
    if width >= 50:  # the widest word of a heading and the narrowest name
        assert max(map(cell_len, text.splitlines())) <= width


# Pipes and encodings


@pytest.mark.parametrize("arguments", [("inspect", "NET"), ("inspect", "NET", "--json"), ("--help",), ("train", "-h")])
def test_nobody_reads_on(folder: Path, arguments: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    given = [str(folder / "model.net") if argument == "NET" else argument for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *given], stdout=writer, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_names_that_the_encoding_lacks(folder: Path) -> None:
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = [sys.executable, "-c", MAIN, "inspect"]
    done = subprocess.run([*run, folder / "umlaut.net"], env=ascii_only, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"schicht-\\xfc" in done.stdout
    missing = subprocess.run([*run, folder / "nö.net"], env=ascii_only, capture_output=True, check=False)
    assert missing.returncode == 3 and missing.stderr.startswith(b"error: ") and missing.stderr.count(b"\n") == 1


# Output for programs

KEYS = {
    "simulate": "backend samples time_steps seconds samples_per_s accuracy spikes synaptic_operations overhead_seconds",
    "simulate --exit": "mean_steps mean_latency_steps exited",
    "verify": "equal samples layers differing_spikes differing_states first ladder",
    "inspect": "layers depth window rules cores synaptic_memory_bytes inexact exit",
    "cutoff": "policy threshold time_steps accuracy_full accuracy_exit drop drop_upper_bound mean_steps curve",
    "diff": "equal differences",
    "init": "file layers",
    "export": "file ladder scales widths verification inexact rules exit",
    "deploy": "folder kind files samples window",
    "train": "file method epochs validation_accuracy",
    "completion": "shell script",
}


@pytest.mark.parametrize("case", KEYS)
def test_json_is_one_object_and_nothing_else(folder: Path, tmp_path: Path, case: str) -> None:
    net, data, model = folder / "model.net", folder / "data.npz", folder / "model.pt"
    arguments: dict[str, list[Any]] = {
        "simulate": [net, data],
        "simulate --exit": [folder / "exit.net", data, "--exit"],
        "verify": [net, data, "--against", "reference", "--source", model],
        "inspect": [folder / "exit.net"],
        "cutoff": [net, data, "--max-latency", 100],
        "diff": [net, net],
        "init": [model, "-o", tmp_path / "out.yaml"],
        "export": [model, "-o", tmp_path / "out.net", "--no-verify"],
        "deploy": [net, "-o", tmp_path / "out", "--no-verify"],
        "train": [
            "sdt",
            "--data",
            data,
            "--model",
            "mlp:4",
            "--epochs",
            1,
            "-o",
            tmp_path / "out.pt",
            "--device",
            "cpu",
        ],
        "completion": ["bash"],
    }
    result = call(case.split()[0], *arguments[case], "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1 and result.stdout.endswith("\n")
    assert set(KEYS[case].split()) <= json.loads(result.stdout).keys()


def test_json_and_errors(folder: Path) -> None:
    for arguments in (["inspect", folder / "data.npz"], ["simulate", folder / "model.net", "no.npz"], ["inspect"]):
        result = call(*arguments, "--json")
        assert result.stdout == "" and re.fullmatch(r"error: .*\n", result.stderr) and result.exit_code in (2, 3)


# What was missing


def test_inspect_shows_the_early_exit(folder: Path) -> None:
    exit_net = s2c.read(folder / "exit.net")
    assert exit_net.exit is not None
    found = json.loads(call("inspect", folder / "exit.net", "--json").stdout)["exit"]
    assert (found["policy"], found["thresholds"]) == ("margin", list(exit_net.exit.thresholds))
    assert found["layers"] and set(found["layers"]) <= {layer.name for layer in exit_net.layers} - set(LAYERS)
    assert found["levels"] == ["decision", "gated", "stopped"] and found["calibration"]["samples"] == 40
    text = call("inspect", folder / "exit.net").stdout
    assert f"early exit: margin (pairs), threshold {exit_net.exit.thresholds[0]}, of 3 classes" in text
    assert json.loads(call("inspect", folder / "model.net", "--json").stdout)["exit"] is None


def test_the_file_names_the_target_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    for chip in ("loihi1", "loihi2"):
        path = tmp_path / f"{chip}.net"
        result = call(
            "export", folder / "model.pt", "-o", path, "--no-verify", "--target", chip, "--allow", "L1-GRADED"
        )
        assert result.exit_code == 0, result.output
        assert s2c.read(path).target == chip
        assert json.loads(call("inspect", path, "--json").stdout)["checked_for"] == chip


# What bars are told


@pytest.mark.parametrize("options", [{}, {"bits": 3, "per_neuron": True}, {"bits": "auto", "max_drop": 1.0}])
def test_progress_of_compiling_changes_nothing(folder: Path, options: dict[str, Any]) -> None:
    told: list[tuple[str, int, int]] = []
    net = s2c.convert(folder / "model.pt", progress=lambda *one: told.append(one), **options)
    assert all(0 <= done <= total or total == 0 for _, done, total in told)
    assert net == s2c.convert(folder / "model.pt", **options)
    scales = [done for what, done, _ in told if what.startswith("scales: ")]
    assert scales == sorted(scales)
    expected = {"sensitivity", "widths"} if options.get("bits") == "auto" else {"running the trained model", "scales"}
    assert {what.partition(": ")[0] for what, _, _ in told} == {"reading the model", "lowering", *expected}
    assert {what.partition(": ")[2].split(" at ")[0] for what, _, _ in told} >= set(LAYERS)


def test_rounds_of_a_verification_are_one_comparison(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = s2c.read(folder / "model.net")
    with np.load(folder / "data.npz") as data:
        x = data["x"]
    whole = simulate(net, x, backend="reference", record=Record.everything(net)).traces
    monkeypatch.setattr(verification, "JOB_SAMPLES", 1)
    monkeypatch.setattr(verification, "ROUND_SECONDS", 0.0)
    monkeypatch.setattr(long_runs, "OVERHEAD_SHARE", 1e9)
    told: list[tuple[str, int, int]] = []
    result = s2c.verify(net, x, "reference", progress=lambda *one: told.append(one))
    assert result.equal and result.samples == len(x)
    assert len({done for what, done, _ in told if what == "reference"}) > 2, "it ran in rounds"
    for kind in ("spikes", "u", "v", "spikes_per_step", "operations_per_step"):
        mine, theirs = getattr(result.expected, kind), getattr(whole, kind)
        assert all(np.array_equal(mine[name], theirs[name]) for name in theirs) and mine.keys() == theirs.keys()


def test_a_bar_without_a_total_shows_the_time_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(output, "err", console)
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    with output.working("Waiting") as tell:
        tell("for Lava")
        threading.Event().wait(0.3)
    assert isinstance(console.file, io.StringIO)
    assert re.search(r"Waiting: for Lava.*0:00:0\d so far", Terminal(console.file.getvalue()).plain)
