"""What every test runs under."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def overflow_raises() -> Iterator[None]:
    # numpy only warns, and for integer arrays not even that; underflow to 0 is harmless.
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        yield


def pytest_configure() -> None:
    """Where CI has to prove things against Lava, a missing Lava is a failure; elsewhere its tests skip."""
    if os.environ.get("CI") != "true" or sys.version_info >= (3, 11):
        return
    from with_lava import INSTALLED

    if not INSTALLED:
        raise pytest.UsageError("CI on Python 3.10 needs Lava: install the extra 'lava'")
