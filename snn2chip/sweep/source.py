"""Where a sweep's network and its held-out samples come from."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from snn2chip.data import open_data
from snn2chip.errors import InputError

if TYPE_CHECKING:
    from snn2chip.model_file import Model

Array = npt.NDArray[Any]
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """A network and calibration samples.

    Attributes:
        model: path of a trained model, or of a NetX file.
        calibration: path of samples; None takes those in the model.
        sha256: of what both contain.
    """

    model: str
    calibration: str | None
    sha256: str

    @property
    def is_net(self) -> bool:
        """Whether there is nothing left to quantise."""
        return Path(self.model).suffix.lower() == ".net"

    def trained(self) -> Model:
        """The model, with the calibration samples.

        Raises:
            InputError: a file cannot be read, or is malformed.
        """
        return _trained(self)

    def samples(self) -> tuple[Array | None, Array | None]:
        """``x`` and ``y`` of the calibration samples, or None; raises as :meth:`trained` does."""
        if self.calibration is not None:
            return _samples(self.calibration, self.sha256)
        if self.is_net:
            return None, None
        model = self.trained()
        return model.x, model.y


@functools.lru_cache(maxsize=1)
def _samples(path: str, sha256: str) -> tuple[Array, Array | None]:
    return open_data(path).read()


@functools.lru_cache(maxsize=1)
def _trained(source: Source) -> Model:
    from snn2chip.sources import open_source

    if source.calibration is None:
        return open_source(source.model).model
    x, y = source.samples()
    return replace(open_source(source.model, (x, y)).model, x=x, y=y)


def content_sha256(path: str) -> str:
    """SHA-256 of a file, or of the names and content of a folder's files.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    top = Path(path)
    if not top.exists():
        raise InputError(f"{path}: no such file or folder")
    files = sorted(entry for entry in top.iterdir() if entry.is_file()) if top.is_dir() else [top]
    state = hashlib.sha256()
    for file in files:
        own = hashlib.sha256()
        try:
            with file.open("rb") as stream:
                while block := stream.read(_BLOCK):
                    own.update(block)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror or error})") from error
        state.update(f"{file.name if top.is_dir() else ''}\0".encode() + own.digest())
    return state.hexdigest()
