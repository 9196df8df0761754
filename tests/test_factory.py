"""State dicts and the factories that make the modules they belong to."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from snn2chip.errors import InputError, UsageError
from snn2chip.frontends.factory import module_from_state

NAMES = itertools.count()
SOURCE = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

    @classmethod
    def make(cls):
        return cls()

def fails():
    raise RuntimeError("no data\\nhere")

def number():
    return 3
"""


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module in the working directory, which is not on the path."""
    name = f"factories_{next(NAMES)}"
    (tmp_path / f"{name}.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield name
    assert sys.path == before
    sys.modules.pop(name, None)


def net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.mark.parametrize("function", ["Net", "Net.make"])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}], ids=["plain", "checkpoint"])
def test_loads(name: str, function: str, wrap: Callable[[Any], Any]) -> None:
    original = net().eval()
    torch.save(wrap(original.state_dict()), "weights.pt")
    module = module_from_state("weights.pt", f"{name}:{function}")
    assert not module.training
    assert all(torch.equal(tensor, module.state_dict()[key]) for key, tensor in original.state_dict().items())
    x = torch.rand(5, 4)
    assert torch.equal(module(x), original(x))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("Net", "factory 'Net': expected package.module:function"),
        (":Net", "factory ':Net': expected package.module:function"),
        ("no_such_package:Net", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("NAME:Other", "has no attribute 'Other'"),
        ("NAME:fails", "RuntimeError: no data; it is imported"),
        ("NAME:number", "makes int, expected a torch.nn.Module"),
        ("NAME:nn.Linear", "missing 2 required positional arguments"),
    ],
)
def test_factories_that_do_not_work(name: str, factory: str, message: str) -> None:
    torch.save(net().state_dict(), "weights.pt")
    with pytest.raises(UsageError) as error:
        module_from_state("weights.pt", factory.replace("NAME", name))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def _changed(**tensors: torch.Tensor) -> dict[str, torch.Tensor]:
    return {**net().state_dict(), **tensors}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**dict(list(net().state_dict().items())[1:])}, "missing: 0.weight$"),
        (_changed(extra=torch.zeros(1)), "unexpected: extra$"),
        (
            {f"a{i}": torch.zeros(1) for i in range(6)},
            r"missing: 0.weight, 0.bias, 1.weight, 1.bias and 5 more; unexpected: a0, a1, a2, a3 and 2 more$",
        ),
        (_changed(**{"2.bias": torch.zeros(5)}), r"of another shape: 2.bias \(5,\) instead of \(2,\)$"),
        ([torch.zeros(2)], "not a state dict"),
        ({"epoch": 3}, "not a state dict"),
        ({}, "not a state dict"),
        (net(), "holds more than tensors"),
    ],
)
def test_files_that_do_not_fit(name: str, content: Any, message: str) -> None:
    torch.save(content, "weights.pt")
    with pytest.raises(InputError, match=message) as error:
        module_from_state("weights.pt", f"{name}:Net")
    assert "\n" not in str(error.value)


def test_files_that_are_none(name: str) -> None:
    with pytest.raises(InputError, match="no such file"):
        module_from_state("weights.pt", f"{name}:Net")
    Path("weights.pt").write_bytes(b"hello")
    with pytest.raises(InputError, match="is damaged"):
        module_from_state("weights.pt", f"{name}:Net")
