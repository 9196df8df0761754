"""Exporters and simulators, found through entry points, so that another target is a new file."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

from snn2chip.errors import UsageError
from snn2chip.names import suggestion


def _named(group: str, what: str, name: str) -> ModuleType:
    found: dict[str, EntryPoint] = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise UsageError(f"{what}: {name!r} is unknown{suggestion(name, sorted(found), ', installed are ')}")
    module = found[name].load()
    assert isinstance(module, ModuleType)
    return module


def simulators() -> list[str]:
    """Names of all simulators."""
    return sorted(entry_points(group="snn2chip.simulators").names)


def simulator(name: str) -> ModuleType:
    """The module of a simulator; its ``run`` follows :mod:`snn2chip.traces`."""
    return _named("snn2chip.simulators", "backend", name)


def exporter(name: str) -> ModuleType:
    """The module of an exporter, with ``write(net, path, force)`` and ``read(path)``."""
    return _named("snn2chip.exporters", "format", name)
