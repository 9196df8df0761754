"""Whether Lava can run here. Looked up, not imported: importing it fixes for good how this process starts others."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from snn2chip.simulators import lava


def _folder(package: str) -> Path | None:
    try:
        found = importlib.util.find_spec(package)
    except ImportError:
        return None
    return None if found is None else Path(next(iter(found.submodule_search_locations or ())))


#: Where lava-dl's NetX is, None where it is not installed.
NETX = None if _folder("lava.magma.core") is None else _folder("lava.lib.dl.netx")
#: Whether this interpreter can run Lava, and whether any can.
INSTALLED = NETX is not None
CALLABLE = INSTALLED or lava.PYTHON_VARIABLE in os.environ
#: Networks and their ground truth: lava-dl installs its tests, as a top-level package.
SHIPPED = Path("/nowhere") if NETX is None else NETX.parents[3] / "tests/lava/lib/dl/netx"

needs_lava = pytest.mark.skipif(not CALLABLE, reason="Lava is not installed")
needs_lava_here = pytest.mark.skipif(not INSTALLED, reason="Lava is not installed here")
