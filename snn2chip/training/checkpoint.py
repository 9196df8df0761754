"""Checkpoints: everything that a training run depends on, in one file that is read without unpickling."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from snn2chip import torch_file
from snn2chip._version import NEEDS, newer
from snn2chip.archive import Refused
from snn2chip.errors import InputError, UsageError
from snn2chip.files import write_whole

FORMAT, VERSION = "snn2chip.training", 1
_PARTS = {"settings": dict, "finished": list, "history": list, "stage": dict | None}


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, "needs": NEEDS, **content}, buffer)
    write_whole(path, buffer.getbuffer(), force=True)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A checkpoint's content.

    Raises:
        InputError: missing, damaged, or no checkpoint of this version.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        content = torch_file.read(file)
    except (torch_file.Foreign, Refused) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{file}: cannot be read as a checkpoint ({reason}); --force starts anew") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{file}: not a checkpoint of snn2chip train")
    version = content.get("version")
    if type(version) is int and version > VERSION:
        raise InputError(f"{file}: {newer(version, VERSION, content.get('needs'))}; --force starts anew")
    if version != VERSION or any(not isinstance(content.get(key), kind) for key, kind in _PARTS.items()):
        raise InputError(f"{file}: damaged checkpoint; --force starts anew")
    return content


def check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise :class:`UsageError` that says in what the run of the checkpoint differs from the one that is asked for."""
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        shown = "; ".join(f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here" for key in differing[:3])
        raise UsageError(f"{path}: is of a run with other settings ({shown}); --force starts anew")
