"""Checkpoints: everything that a training run depends on, in one file that loads with ``weights_only=True``."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import torch

from snn2chip.errors import InputError, UsageError
from snn2chip.files import write_whole

FORMAT, VERSION = "snn2chip.training", 1


def write(path: Path, content: dict[str, Any]) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "version": VERSION, **content}, buffer)
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
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise InputError(f"{file}: cannot be read as a checkpoint ({str(error).splitlines()[0][:120]})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{file}: not a checkpoint of snn2chip train")
    if content.get("version") != VERSION:
        raise InputError(f"{file}: version {content.get('version')}, this snn2chip reads {VERSION}")
    return content


def check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise :class:`UsageError` that says in what the run of the checkpoint differs from the one that is asked for."""
    differing = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
    if differing:
        shown = "; ".join(f"{key} {found.get(key)!r} there, {wanted.get(key)!r} here" for key in differing[:3])
        raise UsageError(f"{path}: is of a run with other settings ({shown}); --force starts anew")
