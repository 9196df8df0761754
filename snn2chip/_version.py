"""The version of snn2chip, and what it says of files that are newer than itself."""

from __future__ import annotations

import re
from typing import Any

__version__ = "0.1.0"

#: Written into every file whose format has a version: the oldest snn2chip that reads it. Goes up with the format alone.
NEEDS = "0.1.0"


def newer(found: int, reads: int, needs: Any = None) -> str:
    """What an error says of a file in format ``found`` where this version reads up to ``reads``.

    Args:
        needs: what the file says it needs; anything but a version is ignored.
    """
    known = isinstance(needs, str) and re.fullmatch(r"\d{1,4}(\.\d{1,4}){0,3}", needs)
    wanted = f"snn2chip {needs} or later" if known else "a later snn2chip"
    return f"format {found} needs {wanted}; this is {__version__}, which reads up to {reads}"
