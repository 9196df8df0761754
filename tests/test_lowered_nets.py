"""Networks that NetX has no words for, captured from the frameworks' own modules and run in Lava from a plain file.

Weights are small integers and thresholds multiples of a half, so that the chip's spikes have to equal the trained
model's; all of it has to equal Lava.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from snn2chip.compiler import compile_model
from snn2chip.formats import export, read
from snn2chip.graph import execute
from snn2chip.passes import chip_blocks
from snn2chip.passes.places import places
from snn2chip.simulation import simulate
from snn2chip.traces import Record
from snn2chip.verification import verify

snn = pytest.importorskip("snntorch")
utils = pytest.importorskip("snntorch.utils")
with contextlib.redirect_stdout(io.StringIO()):  # it prints what else one might install
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, layer, neuron

STEPS = 6


def spiking(**settings: Any) -> nn.Module:
    """Integrate-and-fire neurons that fire at 2, all steps in one call."""
    return neuron.IFNode(v_threshold=2.0, step_mode="m", **settings)  # type: ignore[no-any-return]


def conv(channels_in: int, channels_out: int, **settings: Any) -> nn.Module:
    return layer.Conv2d(channels_in, channels_out, 3, padding=1, bias=False, step_mode="m", **settings)  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Three SEW blocks, one of which halves the image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(2, 3), spiking())
        self.blocks = nn.ModuleList(
            nn.Sequential(conv(3, 3, stride=stride), spiking(), conv(3, 3), spiking()) for stride in (1, 2, 1)
        )
        self.down = nn.Sequential(layer.Conv2d(3, 3, 1, stride=2, bias=False, step_mode="m"), spiking())
        self.head = nn.Sequential(layer.Flatten(step_mode="m"), layer.Linear(27, 4, bias=False, step_mode="m"))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i, block in enumerate(self.blocks):
            x = block(x) + (self.down(x) if i == 1 else x)
        return self.head(x).mean(0)  # type: ignore[no-any-return]


class Vgg(nn.Module):
    """Max pooling of spikes."""

    def __init__(self) -> None:
        super().__init__()
        pool = [layer.MaxPool2d(2, step_mode="m") for _ in range(2)]
        self.features = nn.Sequential(conv(2, 3), spiking(), pool[0], conv(3, 4), spiking(), pool[1])
        self.head = nn.Sequential(layer.Flatten(step_mode="m"), layer.Linear(4, 3, bias=False, step_mode="m"))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)).sum(0)  # type: ignore[no-any-return]


class Concatenated(nn.Module):
    """What the first layer fires also goes past the second one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(conv(n, 3), spiking()) for n in (2, 3))
        self.third = nn.Sequential(conv(6, 2), spiking())

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        out: Tensor = self.third(torch.cat([first, self.second(first)], 2))
        return out.flatten(2).mean(0)


class SoftSnnTorch(nn.Module):
    """The threshold is taken off one step after the spike, as is snnTorch's habit."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.ModuleList(nn.Linear(n, m, bias=False) for n, m in ((12, 10), (10, 6)))
        self.lif = nn.ModuleList(snn.Leaky(beta=1.0, threshold=2.0, init_hidden=True) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        utils.reset(self)
        out = []
        for step in x:
            for fc, lif in zip(self.fc, self.lif, strict=True):
                step = lif(fc(step))
            out.append(step)
        return torch.stack(out)


def soft_spikingjelly() -> nn.Module:
    parts = [(layer.Linear(n, m, bias=False), spiking(v_reset=None)) for n, m in ((12, 10), (10, 6))]
    net = nn.Sequential(*(part for pair in parts for part in pair))
    functional.set_step_mode(net, "m")
    return net


IMAGE, FEATURES = (2, 6, 6), (12,)
NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "residual": (Residual, IMAGE),
    "VGG with max pooling": (Vgg, IMAGE),
    "concatenation": (Concatenated, IMAGE),
    "soft reset of snnTorch": (SoftSnnTorch, FEATURES),
    "soft reset of SpikingJelly": (soft_spikingjelly, FEATURES),
}


@pytest.mark.lava
@pytest.mark.parametrize("name", NETS)
def test_chip_equals_the_trained_model_and_lava(name: str, tmp_path: Path) -> None:
    make, shape = NETS[name]
    generator = torch.Generator().manual_seed(5)
    module = make().eval()
    with torch.no_grad():
        for parameter in module.parameters():
            weights = torch.tensor([-1.0, -1.0, 0.0, 1.0, 2.0])
            parameter.copy_(weights[torch.randint(5, parameter.shape, generator=generator)])
    x = (torch.rand((24, STEPS, *shape), generator=generator) < 0.3).float().numpy()

    compiled = compile_model(module, x)
    export(compiled.net, tmp_path / "model.net")
    net = read(tmp_path / "model.net")
    assert net == compiled.net

    graph = compiled.model.graph
    trained = execute(graph, x).outputs
    found = simulate(net, x, record=Record.everything(net)).traces.spikes
    where = {block.neuron.name: block.name for block in chip_blocks(compiled.lowered)}
    for neurons, place in places(graph, compiled.lowered).items():
        spikes = found[where[place.node]].reshape(*x.shape[:2], -1)[:, :, place.first : place.first + place.size]
        expected = trained[neurons].reshape(*x.shape[:2], -1)
        if neurons != graph.output.name or expected.any():
            assert 0.01 < expected.mean() < 0.99, f"{neurons} fires at {expected.mean():.1%} of steps"
        assert np.array_equal(spikes, expected), f"{neurons}: {(spikes != expected).sum()} of {expected.size} differ"
    result = verify(net, x[:8], against="lava")
    assert result.equal, str(result.first)
