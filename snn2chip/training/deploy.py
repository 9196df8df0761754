"""From a trained network to a ``model.pt``."""

from __future__ import annotations

import os

import numpy as np
from torch import nn

from snn2chip.frontends import Layout
from snn2chip.model_file import Array, save
from snn2chip.nn import Network
from snn2chip.training.datasets import TrainingData

#: Training samples that go into a model, to choose scales with.
CALIBRATION = 256


def calibration(
    network: nn.Module, data: TrainingData, time_steps: int = 1, samples: int = CALIBRATION
) -> tuple[Array, Array]:
    """Training samples in the form in which the compiler tells how many steps the network has.

    Args:
        network: as trained.
        data: what it was trained on.
        time_steps: of a module other than :class:`~snn2chip.nn.Network` on static data.
        samples: how many.

    Returns:
        ``x`` as the data have it; static data with a time axis where a network has a single step, or does not show
        static input by itself; and ``y``.
    """
    x, y = data.training.numpy(samples)
    steps = network.time_steps if isinstance(network, Network) else time_steps
    shows = isinstance(network, Network) and steps > 1
    return (np.repeat(x[:, None], steps, 1) if data.static and not shows else x), y


def save_trained(
    network: nn.Module, data: TrainingData, path: str | os.PathLike[str], time_steps: int = 1, force: bool = True
) -> None:
    """Write ``model.pt`` with calibration samples; arguments as of :func:`calibration`, errors of `snn2chip.save`."""
    layout: Layout | None = None if isinstance(network, Network) else "TN"
    save(network, path, calibration=calibration(network, data, time_steps), force=force, layout=layout)
