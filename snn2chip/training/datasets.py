"""Samples to train on, in memory, split into training, validation and test."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from snn2chip.data import open_data
from snn2chip.errors import EnvironmentFailure, InputError, UsageError
from snn2chip.names import closest, suggestion
from snn2chip.training.events import saccades

Array = npt.NDArray[Any]

#: Data sets that have names; of the last two, what stands before the first colon.
NAMES = ("digits", "saccades", "torchvision", "tonic")


@dataclass(frozen=True, eq=False)
class Samples:
    """``x`` ``[N, ...]`` of any number type and classes ``y`` ``[N]``."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def part(self, index: Tensor | slice) -> Samples:
        """Some of them."""
        return Samples(self.x[index], self.y[index])

    def numpy(self, most: int | None = None) -> tuple[Array, Array]:
        """The first ``most`` of them as float32 (spikes: uint8) and int64."""
        x = self.x[:most]
        return (x if x.dtype == torch.uint8 else x.float()).numpy(), self.y[:most].numpy()


@dataclass(frozen=True, eq=False)
class TrainingData:
    """What training sees.

    Attributes:
        name: what messages call it.
        training, validation: disjoint; epochs and thresholds are chosen on the second.
        test: never chosen on; None where there is none.
    """

    name: str
    training: Samples
    validation: Samples
    test: Samples | None = None

    @property
    def static(self) -> bool:
        """Whether samples have no time axis."""
        return self.training.x.ndim in (2, 4)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one sample and step."""
        return tuple(self.training.x.shape[1 if self.static else 2 :])

    @property
    def time_steps(self) -> int | None:
        """None where samples are static."""
        return None if self.static else int(self.training.x.shape[1])

    @property
    def classes(self) -> int:
        """The highest class, plus one."""
        parts = (self.training, self.validation, *([self.test] if self.test else []))
        return 1 + max(int(part.y.max()) for part in parts)


def split(
    name: str, x: Array, y: Array, test: tuple[Array, Array] | None = None, validation: float = 0.1, seed: int = 0
) -> TrainingData:
    """Arrays as training data.

    Args:
        name: what messages call them.
        x: ``[N, F]``, ``[N, T, F]``, ``[N, C, H, W]`` or ``[N, T, C, H, W]``.
        y: ``[N]`` integers.
        test: the same, apart.
        validation: share of the samples that is taken for it.
        seed: of which.

    Raises:
        InputError: shapes or classes do not fit.
        UsageError: too few samples for both parts.
    """
    whole = _samples(name, x, y)
    held = round(validation * len(whole))
    if not (0 < held < len(whole)):
        raise UsageError(f"{name}: a validation share of {validation} of {len(whole)} samples leaves one part empty")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(whole)))
    held_out = None if test is None else _samples(f"{name} (test)", *test)
    if held_out is not None and held_out.x.shape[1:] != whole.x.shape[1:]:
        raise InputError(
            f"{name} (test): samples of shape {tuple(held_out.x.shape[1:])}, not {tuple(whole.x.shape[1:])}"
        )
    return TrainingData(name, whole.part(order[held:]), whole.part(order[:held]), held_out)


def _samples(name: str, x: Array, y: Array) -> Samples:
    if x.ndim not in (2, 3, 4, 5) or len(x) == 0:
        raise InputError(f"{name}: x has shape {x.shape}, expected [N, F], [N, T, F], [N, C, H, W] or [N, T, C, H, W]")
    if y.shape != x.shape[:1] or y.dtype.kind not in "iu" or (len(y) and int(y.min()) < 0):
        raise InputError(f"{name}: y has shape {y.shape} and type {y.dtype}, expected {len(x)} classes from 0 on")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError(f"{name}: x contains NaN or infinite values")
    timed = x.ndim in (3, 5)
    binary = timed and bool(((x == 0) | (x == 1)).all())
    return Samples(torch.from_numpy(x.astype(np.uint8 if binary else np.float32)), torch.from_numpy(y.astype(np.int64)))


def fewer_steps(x: Tensor, time_steps: int) -> Tensor:
    """Samples ``[N, T, ...]`` in ``time_steps`` longer steps, each the maximum of what it joins: events binned anew.

    Raises:
        UsageError: there are fewer than that.
    """
    if x.shape[1] < time_steps:
        raise UsageError(f"data: {x.shape[1]} time steps cannot become {time_steps}")
    return torch.stack([part.amax(1) for part in torch.tensor_split(x, time_steps, 1)], 1)


def load(
    spec: str, test: Path | None = None, validation: float = 0.1, seed: int = 0, time_steps: int = 10
) -> TrainingData:
    """Training data by name.

    ==========================  =====================================================================================
    ``digits``                  scikit-learn's bundled digits, 1347 to train and 450 to test
    ``saccades``                synthetic events of them, see :func:`snn2chip.training.events.saccades`
    ``torchvision:NAME:ROOT``   an image data set of torchvision that lies in ROOT; nothing is downloaded
    ``tonic:NAME:ROOT``         an event data set of tonic that lies in ROOT, binned to binary frames
    a path                      ``.npz``, a folder of ``.npy``, or HDF5 with ``x`` and ``y``, see :mod:`snn2chip.data`
    ==========================  =====================================================================================

    Everything is held in memory.

    Args:
        spec: one of these.
        test: a path with test samples, for data that come without.
        validation: share of the training samples that epochs are chosen on.
        seed: of the split.
        time_steps: of events that are binned here.

    Raises:
        InputError: there is no such file, or it does not fit.
        UsageError: an unknown name.
        EnvironmentFailure: torchvision or tonic is missing, or the data set is not in ROOT.
    """
    kind, _, rest = spec.partition(":")
    name, _, root = rest.partition(":")
    if spec in ("digits", "saccades"):
        x, y, test_x, test_y = _digits(None if spec == "digits" else time_steps)
        given: tuple[Array, Array] | None = (test_x, test_y)
    elif kind in ("torchvision", "tonic") and root:
        from_library: Callable[..., tuple[Array, Array]] = _torchvision if kind == "torchvision" else _tonic
        (x, y), given = (from_library(name, root, part, time_steps) for part in (True, False))
    elif kind in ("torchvision", "tonic"):
        raise UsageError(f"data: {spec!r} lacks the folder; give {kind}:NAME:ROOT")
    elif not Path(spec).exists() and closest(kind, NAMES) is not None:
        raise InputError(f"{spec}: no such file, and no data set{suggestion(kind, NAMES)}")
    else:
        (x, y), given = _file(Path(spec)), None
    if test is not None:
        given = _file(test)
    return split(spec, x, y, given, validation, seed)


def _file(path: Path) -> tuple[Array, Array]:
    x, y = open_data(path).read()
    if y is None:
        raise InputError(f"{path}: has no classes y")
    return x, y


def _digits(time_steps: int | None) -> tuple[Array, Array, Array, Array]:
    from snn2chip.demo import digits

    x, y, test_x, test_y = digits()
    if time_steps is None:
        return x, y, test_x, test_y
    return saccades(x, time_steps, seed=1), y, saccades(test_x, time_steps, seed=2), test_y


def _library(package: str, module: str, name: str) -> Any:
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise EnvironmentFailure(f"data: {package} cannot be imported ({error}); pip install {package}") from error
    if not isinstance(found, type):
        there = vars(importlib.import_module(module)).items()
        names = [key for key, value in there if isinstance(value, type) and not key.startswith("_")]
        raise UsageError(f"data: {package} has no data set {name!r}{suggestion(name, names)}")
    return found


def _torchvision(name: str, root: str, train: bool, _steps: int) -> tuple[Array, Array]:
    kind = _library("torchvision", "torchvision.datasets", name)
    try:
        found = kind(root, train=train, download=False)
    except (RuntimeError, TypeError, OSError) as error:
        raise EnvironmentFailure(f"data: torchvision:{name}: not in {root} ({str(error).splitlines()[0]})") from error
    images = np.stack([np.asarray(found[i][0]) for i in range(len(found))])
    images = images[:, None] if images.ndim == 3 else np.moveaxis(images, 3, 1)
    return (images / np.float32(255)).astype(np.float32), np.array([found[i][1] for i in range(len(found))])


def _tonic(name: str, root: str, train: bool, steps: int) -> tuple[Array, Array]:
    kind = _library("tonic", "tonic.datasets", name)
    frames = _library("tonic", "tonic.transforms", "ToFrame")(sensor_size=kind.sensor_size, n_time_bins=steps)

    def refuse(_self: Any) -> None:
        raise EnvironmentFailure(f"data: tonic:{name}: not in {root}; nothing is downloaded here")

    # tonic finds the folder by the class's name and downloads what it does not find.
    on_disk = type(kind.__name__, (kind,), {"download": refuse})
    try:
        found = on_disk(save_to=root, train=train, transform=frames)
    except TypeError as error:
        raise UsageError(f"data: tonic:{name} is not split into training and test ({error})") from error
    x = np.stack([np.asarray(found[i][0]) > 0 for i in range(len(found))]).astype(np.uint8)
    return x, np.array([int(found[i][1]) for i in range(len(found))])
