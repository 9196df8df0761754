"""The demo and the examples run as a new user would run them, only shorter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from with_lava import CALLABLE

import snn2chip as s2c
from snn2chip import demo

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_demo_reaches_lava(tmp_path: Path) -> None:
    stages: list[str] = []
    result = demo.run(tmp_path, samples=3, epochs=4, stage=stages.append)
    assert [stage.split()[0] for stage in stages] == ["training", "saving", "simulating", "comparing", "writing"]
    float_accuracy, chip_accuracy = (result.rungs[rung].accuracy for rung in ("float", "chip"))
    assert float_accuracy is not None
    assert chip_accuracy is not None
    assert float_accuracy > 0.8
    assert chip_accuracy > float_accuracy - 0.03
    # float32 against float64: a potential may round to the other side of the threshold
    assert sum((result.rungs["graph"].differing_spikes or {}).values()) <= 1e-5 * sum(
        result.rungs["float"].spikes.values()
    )
    assert result.proof.result.equal
    assert result.proof.result.samples == 3
    if CALLABLE:
        assert result.proof.against == "lava"
        assert result.lava_accuracy is not None
    else:
        assert result.proof.against == "reference"
        assert "Lava was not run" in result.proof.note
        assert result.lava_accuracy is None
    html = Path(result.files["report"]).read_text("utf-8")
    assert f"{100 * float_accuracy:.2f} → {100 * chip_accuracy:.2f}" in html
    assert ("Equal to Lava" in html) == (result.proof.against == "lava")
    net = s2c.read(result.files["net"])
    with np.load(result.files["data"]) as data:
        assert s2c.simulate(net, data["x"], data["y"]).accuracy == chip_accuracy


@pytest.mark.parametrize("kind", ["conv", "dense"])
def test_mnist_example(tmp_path: Path, kind: str) -> None:
    """On digits scaled up to 28 x 28, under MNIST's names."""
    x, y, test_x, test_y = demo.digits()
    arrays = {}
    for part, images, classes in (("train", x[:600], y[:600]), ("test", test_x[:50], test_y[:50])):
        big = np.kron(images[:, 0], np.ones((1, 3, 3)))
        arrays[f"{part}_images"] = np.pad((255 * big).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
        arrays[f"{part}_labels"] = classes
    np.savez(tmp_path / "digits.npz", **arrays)
    command = [sys.executable, EXAMPLES / "mnist.py", tmp_path / "digits.npz", "--net", kind, "--epochs", 5]
    command += ["--lava-samples", 2, "--folder", tmp_path / "out"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["net"] == kind
    assert result["test_images"] == 50
    assert (result["compared_images"], result["differing_spikes"], result["differing_states"]) == (2, 0, 0)
    assert result["chip_accuracy"] > 0.3
    assert Path(result["file"]).exists()
