"""What is installed, and what works: every simulator runs a small network and is compared with the reference."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.backends import simulator, simulators
from snn2chip.chip import ChipNet, Conv, Dense, Neuron
from snn2chip.errors import Snn2chipError
from snn2chip.traces import Record, Traces

#: What the core needs, and what adds to it.
CORE = ("snn2chip", "numpy", "torch", "numba", "h5py", "click", "rich", "scikit-learn")
EXTRAS = ("lava-nc", "lava-dl", "nir")
#: Without these nothing can be simulated, or proven.
CORE_BACKENDS = ("reference", "event")


@dataclass(frozen=True)
class Backend:
    """How a simulator did.

    Attributes:
        name: as ``--backend`` takes it.
        works: it ran, and equals the reference in every spike, u and v.
        interpreter: where it runs; this one, for all but Lava.
        problem: why not, and what to do; empty where it works.
    """

    name: str
    works: bool
    interpreter: str
    problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes:
        python: version and path.
        packages: version by name, None where it is not installed.
        backends: all that are registered.
    """

    python: tuple[str, str]
    packages: dict[str, str | None]
    backends: tuple[Backend, ...]
    core: tuple[str, ...] = field(default=CORE_BACKENDS)

    @property
    def works(self) -> bool:
        """Whether the core does."""
        return {backend.name for backend in self.backends if backend.works} >= set(self.core)


def examine() -> Diagnosis:
    """Look at everything; takes seconds where Lava is installed."""
    packages = {name: _version(name) for name in (*CORE, *EXTRAS)}
    expected = _trial(simulator("reference").run)
    return Diagnosis(
        (platform.python_version(), sys.executable),
        packages,
        tuple(
            _try(name, expected) for name in sorted(simulators(), key=lambda name: (name not in CORE_BACKENDS, name))
        ),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _network() -> ChipNet:
    def weights(*shape: int) -> npt.NDArray[np.int32]:
        return np.random.default_rng(0).integers(-60, 61, shape).astype(np.int32)

    conv = Conv("conv", (1, 6, 6), weights(2, 1, 3, 3), Neuron.of("conv", 60, 4096, 500))
    dense = Dense("dense", conv.shape, weights(3, 32), Neuron.of("dense", 50, 1000, 500))
    return ChipNet((1, 6, 6), (conv, dense), time_steps=4)


def _trial(run: Callable[..., Any]) -> Traces:
    net = _network()
    spikes = np.random.default_rng(1).integers(0, 2, (2, net.time_steps, *net.input_shape)).astype(np.int32)
    traces = run(net, spikes, record=Record.everything(net))
    assert isinstance(traces, Traces)
    return traces


def _try(name: str, expected: Traces) -> Backend:
    where = sys.executable
    try:
        module = simulator(name)
        where = module.python() if hasattr(module, "python") else where  # one that runs in an interpreter of its own
        found = _trial(module.run)
    except Snn2chipError as error:
        return Backend(name, False, where, str(error))
    except Exception as error:  # a broken installation can raise anything
        return Backend(name, False, where, f"{type(error).__name__}: {' '.join(str(error).split())}")
    pairs = [(getattr(found, kind), getattr(expected, kind)) for kind in ("spikes", "u", "v")]
    if any(not np.array_equal(mine[layer], theirs[layer]) for mine, theirs in pairs for layer in theirs):
        return Backend(name, False, where, "differs from the reference; please report it")
    return Backend(name, True, where)
