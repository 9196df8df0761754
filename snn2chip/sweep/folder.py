"""The folder of a sweep: one client at a time, continued where it was left, never overwritten unasked.

::

    sweep.json                      what was asked for, and at the end what came out
    results.csv | results.parquet   a row for each configuration
    pareto.png, pareto.svg
    nets/                           the networks
    journal/                        finished tasks; gone when all are
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from snn2chip.errors import EnvironmentFailure, UsageError
from snn2chip.files import write_whole

FORMAT = "snn2chip sweep 1"
STATE, JOURNAL, NETS = "sweep.json", "journal", "nets"
_FILES = (STATE, "results.csv", "results.parquet", "pareto.png", "pareto.svg")
_STATE_BYTES = 1 << 26


@contextlib.contextmanager
def output_folder(path: Path, settings: Mapping[str, Any], force: bool) -> Iterator[Path]:
    """``path`` with a journal in it, for this process alone until the block ends.

    Args:
        settings: what results depend on; an unfinished sweep of others is not continued.
        force: remove what an earlier sweep left.

    Raises:
        UsageError: there is a finished sweep, one with other settings, another client, or something else.
        EnvironmentFailure: the folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path.is_symlink() or (path.exists() and not path.is_dir()):
                raise UsageError(f"{path}: exists already and is not a folder")
            path.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{path}: another sweep is writing there") from None
            _begin(path, settings, force)
            (path / NETS).mkdir(exist_ok=True)
        except OSError as error:
            raise EnvironmentFailure(f"{path}: cannot be written ({error.strerror or error})") from error
        yield path


def _begin(path: Path, settings: Mapping[str, Any], force: bool) -> None:
    found = _load(path)
    if found is None:
        strange = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith(f".{STATE}."))
        if strange:
            raise UsageError(f"{path}: holds {strange[0]} and is no folder of a sweep; take another")
    elif force:
        _clear(path)
    elif found.get("finished"):
        raise UsageError(f"{path}: holds a finished sweep; --force overwrites it")
    else:
        before = found.get("settings")
        was = before if isinstance(before, dict) else {}
        changed = [name for name, value in settings.items() if was.get(name) != value]
        if changed:
            raise UsageError(f"{path}: holds an unfinished sweep with another {changed[0]}; --force starts anew")
        return
    save_state(path, {"format": FORMAT, "finished": False, "settings": dict(settings)})


def save_state(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``sweep.json``, whole."""
    write_whole(path / STATE, (json.dumps(content, indent=1) + "\n").encode(), force=True)


def _load(path: Path) -> dict[str, Any] | None:
    """``sweep.json``, if it is one of ours."""
    file = path / STATE
    if file.is_symlink() or not file.is_file() or file.stat().st_size > _STATE_BYTES:
        return None
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) and content.get("format") == FORMAT else None


def _clear(path: Path) -> None:
    """Remove everything that a sweep writes and nothing else, ``sweep.json`` last."""
    for name in (JOURNAL, NETS):
        if (path / name).is_dir() and not (path / name).is_symlink():
            shutil.rmtree(path / name)
    for name in reversed(_FILES):
        (path / name).unlink(missing_ok=True)


def finish(path: Path, content: Mapping[str, Any]) -> None:
    """Say that the sweep is finished, and remove its journal."""
    save_state(path, content)
    shutil.rmtree(path / JOURNAL, ignore_errors=True)
