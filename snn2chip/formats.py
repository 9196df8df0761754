"""Write a network to a file of another tool, and read it back."""

from __future__ import annotations

import os
from typing import Any

from snn2chip.backends import exporter
from snn2chip.chip import ChipNet


def export(
    net: ChipNet, path: str | os.PathLike[str], format: str = "netx", force: bool = False, **options: Any
) -> None:
    """Write ``net``; the file appears whole or not at all.

    Args:
        options: of the format; NetX takes ``measured``, plain values that are kept in the file.

    Raises:
        LimitError: a layer has no form in the file's format.
        UsageError: the file exists and ``force`` is not given, or the format is unknown.
        EnvironmentFailure: the file cannot be written.
    """
    exporter(format).write(net, path, force, **options)


def read(path: str | os.PathLike[str], format: str = "netx") -> ChipNet:
    """Read a network; files are treated as hostile.

    Raises:
        InputError: the file is missing, malformed or tries something it must not.
        UnsupportedError: it is valid, but uses something that snn2chip does not know.
    """
    net = exporter(format).read(path)
    assert isinstance(net, ChipNet)
    return net
