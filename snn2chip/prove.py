"""The proof that an export comes with: Lava where it can run, otherwise the reference, and it says which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from snn2chip.chip import ChipNet
from snn2chip.errors import LavaMissing
from snn2chip.verification import Verification, verify


@dataclass(frozen=True)
class Proof:
    """A comparison and what it was made with.

    Attributes:
        against: ``lava`` or ``reference``.
        backend: the simulator that was checked.
        note: what the user has to know, empty where Lava ran.
    """

    result: Verification
    against: str
    backend: str
    note: str = ""


def prove(net: ChipNet, x: npt.NDArray[Any], timeout: float = 600.0) -> Proof:
    """Compare the event simulator with Lava, or with the reference where Lava is not installed.

    Raises:
        LavaError: Lava failed, or took longer than ``timeout`` seconds.
    """
    try:
        return Proof(verify(net, x, against="lava", timeout=timeout), "lava", "event")
    except LavaMissing as error:
        return Proof(
            verify(net, x, against="reference"),
            "reference",
            "event",
            f"Lava was not run: {error}. Compared with our reference.",
        )
