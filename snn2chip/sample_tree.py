"""A digest of samples that does not depend on where they were cut, and that parts of them can be added up to."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Samples of a leaf; parts begin at multiples of it.
LEAF = 16


class SampleTree:
    """A tree of SHA-256 digests over ``x`` and ``y``, sample by sample.

    ::

        leaf   SHA-256(SHA-256(x) SHA-256(y)) of 16 samples, of the last ones fewer; y empty where there are none
        node   SHA-256(left right) of two neighbours, the left one with an even number among its level
        whole  SHA-256 of the nodes that have no parent yet, from left to right, and of the last leaf

    Args:
        first: sample that the part begins with, a multiple of 16.
    """

    def __init__(self, first: int = 0) -> None:
        if first % LEAF:
            raise ValueError(f"first: {first}, expected a multiple of {LEAF}")
        self.leaves = first // LEAF
        self.nodes: list[tuple[int, bytes]] = []
        self.rest: bytes | None = None
        self._started()

    def _started(self) -> None:
        self._hashes = hashlib.sha256(), hashlib.sha256()
        self._filled = 0

    def add(self, x: Array, y: Array | None) -> None:
        """The next samples."""
        low = 0
        while low < len(x):
            high = min(len(x), low + LEAF - self._filled)
            for state, array in zip(self._hashes, (x, y), strict=True):
                if array is not None:
                    state.update(np.ascontiguousarray(array[low:high]).reshape(-1).view(np.uint8).data)
            self._filled += high - low
            low = high
            if self._filled == LEAF:
                leaf = self._leaf()
                self._started()
                self._push(0, leaf)
        self.rest = self._leaf() if self._filled else None

    def join(self, nodes: list[tuple[int, bytes]], rest: bytes | None) -> None:
        """The ``nodes`` and ``rest`` of the part that follows."""
        for level, node in nodes:
            self._push(level, node)
        self.rest = rest

    def sha256(self) -> str:
        """Of everything so far."""
        whole = b"".join(node for _, node in self.nodes) + (self.rest or b"")
        return hashlib.sha256(whole).hexdigest()

    def _leaf(self) -> bytes:
        return hashlib.sha256(b"".join(state.digest() for state in self._hashes)).digest()

    def _push(self, level: int, node: bytes) -> None:
        self.nodes.append((level, node))
        self.leaves += 1 << level
        while len(self.nodes) > 1 and self.nodes[-2][0] == level and not (self.leaves >> level) & 1:
            (_, left), (_, right) = self.nodes[-2:]
            self.nodes[-2:] = [(level + 1, hashlib.sha256(left + right).digest())]
            level += 1
