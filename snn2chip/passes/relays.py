"""Geometry of relays: which pixels of an earlier map a layer repeats, and where a kernel finds them.

Along each axis a relayed line of ``length`` pixels that begins at ``o`` repeats pixels ``o, o + step, ...`` of its
source; pixels outside of the source are silent, as padding is. ``step`` is the product of the strides of the layers
that relayed it. A tap of a kernel reads pixels ``d, d + stride, ...``, ``count`` of them: one for each neuron of the
layer.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


def cover(
    reads: Iterable[int], stride: int, count: int, size: int, step: int, length: int
) -> dict[int, tuple[int, ...]]:
    """Relayed lines that together hold all that is read, each pixel once.

    Args:
        reads: the first pixel ``d`` of each tap.
        size: pixels of the source.

    Returns:
        For each read where the lines begin that hold it: none where it sees nothing but padding, several where one is
        too short; what each line lacks is silent in it.
    """
    spans: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
    found: dict[int, tuple[int, ...]] = {}
    for d in sorted(set(reads)):
        low = d + stride * max(0, -(d // stride))
        high = min(d + stride * (count - 1), d + (size - 1 - d) // stride * stride)
        found[d] = ()
        if low <= high:
            spans[d % step].append((low, high, d))
    reach = step * length
    for phase, read in spans.items():
        low, high = min(span[0] for span in read), max(span[1] for span in read)
        first = phase if high < phase + reach else low  # the phase's own line, if it holds everything
        for low, high, d in read:
            found[d] = tuple(range(first + (low - first) // reach * reach, high + 1, reach))
    return found


def kernel_geometry(taps: Iterable[int], stride: int, size: int, count: int) -> tuple[int, int]:
    """Padding and kernel size along one axis with which ``count`` outputs see the taps.

    Args:
        taps: pixel that the first output sees through each tap; negative ones lie in the padding.
        size: pixels of the layer before.
    """
    low, high = min(taps, default=0), max(taps, default=0)
    padding = max(0, -low, stride * (count - 1) + 1 + high - size)
    return padding, max(padding + 1 + high, size + 2 * padding - stride * count + 1)
