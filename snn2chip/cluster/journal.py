"""Results of finished tasks on the disk, one file each, whole or not at all."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import json
import math
import shutil
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from snn2chip.errors import EnvironmentFailure
from snn2chip.files import write_whole

_ARRAY = "__array__"


def to_bytes(result: Any) -> bytes:
    """A result as JSON: None, bool, int, float, str, lists, mappings with keys of type str, numpy arrays and scalars.

    Tuples become lists, and numpy's scalars Python's, so that a result is the same whether it comes from a worker, from
    this process or from the journal.

    Raises:
        TypeError: anything else is in it.
    """
    return json.dumps(_plain(result), separators=(",", ":")).encode()


def from_bytes(data: bytes) -> Any:
    """The inverse of :func:`to_bytes`; raises ValueError where the bytes are not of that form."""
    try:
        return json.loads(data, object_hook=_array)
    except (TypeError, KeyError, binascii.Error, zlib.error, RecursionError) as error:
        raise ValueError(str(error)) from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        content = base64.b64encode(zlib.compress(np.ascontiguousarray(value).tobytes(), 1)).decode()
        return {_ARRAY: content, "dtype": value.dtype.str, "shape": list(value.shape)}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Mapping) and _ARRAY not in value and all(isinstance(key, str) for key in value):
        return {key: _plain(entry) for key, entry in value.items()}
    raise TypeError(f"a task returned {type(value).__name__}; results are JSON values and arrays of numbers")


def _array(content: dict[str, Any]) -> Any:
    if _ARRAY not in content:
        return content
    dtype, shape = np.dtype(content["dtype"]), tuple(int(size) for size in content["shape"])
    size = math.prod(shape) * dtype.itemsize
    data = zlib.decompressobj().decompress(base64.b64decode(content[_ARRAY], validate=True), size)
    if dtype.kind not in "biufc" or len(data) != size:
        raise ValueError("an array of another size")
    return np.frombuffer(data, dtype).reshape(shape).copy()


@dataclass(frozen=True)
class Journal:
    """A folder with one file for each finished task: a line with the SHA-256 of what follows, and the result.

    Attributes:
        folder: where; visible under this path to every worker.
    """

    folder: Path

    def make(self) -> None:
        """The folder itself.

        Raises:
            EnvironmentFailure: it cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EnvironmentFailure(f"{self.folder}: cannot be made ({error.strerror or error})") from error

    def path(self, key: str) -> Path:
        """Of the entry of a task."""
        return self.folder / f"{key}.task"

    def read(self, key: str) -> bytes | None:
        """The result of a task, or None: it has not finished, or the file is damaged."""
        try:
            head, _, body = self.path(key).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EnvironmentFailure(f"{self.path(key)}: cannot be read ({error.strerror or error})") from error
        if head != _head(key, body):
            return None
        return body

    def forget(self, key: str) -> None:
        """Remove the result of a task."""
        self.path(key).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the results of all tasks, and the folder where nothing else is in it."""
        for entry in self.folder.glob("*.task"):
            entry.unlink(missing_ok=True)
        for unfinished in self.folder.glob(".*.part"):
            shutil.rmtree(unfinished, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def write(self, key: str, body: bytes) -> None:
        """Keep the result of a task.

        Raises:
            EnvironmentFailure: the folder is gone or read-only, or the disk is full.
        """
        write_whole(self.path(key), _head(key, body) + b"\n" + body, force=True)


def _head(key: str, body: bytes) -> bytes:
    return hashlib.sha256(key.encode() + body).hexdigest().encode()
