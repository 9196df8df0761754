"""What every test runs under."""

from __future__ import annotations

import os
import signal
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
    """Ctrl-C is heard, though who was started in the background ignores it, as do those whom it starts.

    Where CI has to prove things against Lava, a missing Lava is a failure; elsewhere its tests skip.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI") != "true" or sys.version_info >= (3, 11):
        return
    from with_lava import INSTALLED

    if not INSTALLED:
        raise pytest.UsageError("CI on Python 3.10 needs Lava: install the extra 'lava'")
