"""What every test runs under."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def overflow_raises() -> Iterator[None]:
    # numpy only warns, and for integer arrays not even that; underflow to 0 is harmless.
    with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
        yield
