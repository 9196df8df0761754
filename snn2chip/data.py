"""Data files: ``.npz`` with ``x`` and optionally ``y``."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from snn2chip.errors import InputError

Array = npt.NDArray[Any]

#: A header can claim any size; more than this is not read into memory.
MAX_BYTES = 8 << 30


def load_npz(path: str | os.PathLike[str]) -> tuple[Array, Array | None]:
    """``x`` and ``y`` (or None) of an ``.npz`` file, without unpickling.

    Raises:
        InputError: missing, not an ``.npz``, without ``x``, larger than memory allows, or not numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    try:
        with zipfile.ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > MAX_BYTES:
            raise InputError(f"{file}: {size} bytes unpacked, limit {MAX_BYTES}; split it")
        with np.load(file, allow_pickle=False) as arrays:
            if "x" not in arrays:
                raise InputError(f"{file}: has no array x, only {', '.join(arrays.files) or 'nothing'}")
            x, y = arrays["x"], arrays.get("y")
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: cannot be read as .npz ({str(error).splitlines()[0][:120]})") from error
    if x.dtype.kind not in "biuf" or x.ndim < 2 or len(x) == 0:
        raise InputError(f"{file}: x has shape {x.shape} and type {x.dtype}, expected numbers [N, ...] with N >= 1")
    if y is not None and (y.shape != (len(x),) or y.dtype.kind not in "iu"):
        raise InputError(f"{file}: y has shape {y.shape} and type {y.dtype}, expected {len(x)} integer classes")
    return x, y
