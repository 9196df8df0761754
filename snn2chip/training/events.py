"""Synthetic events: images that move along saccades before a simulated event camera."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Corners of the path in pixels, down and right: three saccades that end where they began, as those of N-MNIST.
PATH = ((0.0, 0.0), (2.0, 1.0), (0.0, 2.0), (0.0, 0.0))


def saccades(
    images: Array,
    time_steps: int = 10,
    seed: int = 0,
    contrast: float = 0.15,
    margin: int = 2,
    noise: float = 0.02,
    lost: float = 0.3,
) -> npt.NDArray[np.uint8]:
    """Events of images that move. Synthetic: no camera saw them.

    An image is moved along :data:`PATH`, bilinearly between pixels; a pixel whose brightness changes by more than
    ``contrast`` within a step sends an event, ON where it grows (channel 0), OFF where it falls (channel 1).

    Args:
        images: ``[N, 1, H, W]`` or ``[N, H, W]`` in 0..1.
        time_steps: T.
        seed: of start and noise.
        contrast: threshold of the brightness change.
        margin: pixels around the image; each sample starts at a random place within it.
        noise: probability of an event that nothing caused.
        lost: probability that an event is missed.

    Returns:
        ``[N, T, 2, H + 2 margin, W + 2 margin]``, 0 or 1.
    """
    rng = np.random.default_rng(seed)
    images = images.reshape(len(images), *images.shape[-2:]).astype(np.float64)
    reach = margin + int(max(max(corner) for corner in PATH)) + 1
    height, width = images.shape[1] + 2 * margin, images.shape[2] + 2 * margin
    canvas = np.pad(images, ((0, 0), (reach + margin,) * 2, (reach + margin,) * 2))
    start = rng.uniform(-margin / 2, margin / 2, (len(images), 2))
    before = _moved(canvas, start, height, width, reach)
    out = np.zeros((len(images), time_steps, 2, height, width), np.uint8)
    for t in range(time_steps):
        now = _moved(canvas, start + _place((t + 1) / time_steps), height, width, reach)
        change = now - before
        events = np.stack([change > contrast, change < -contrast], 1)
        out[:, t] = (events & (rng.random(events.shape) >= lost)) | (rng.random(events.shape) < noise)
        before = now
    return out


def _place(share: float) -> Array:
    """Where the image is after this share of the path."""
    along = share * (len(PATH) - 1)
    leg = min(int(along), len(PATH) - 2)
    first, last = np.array(PATH[leg]), np.array(PATH[leg + 1])
    return np.asarray(first + (along - leg) * (last - first))


def _moved(canvas: Array, by: Array, height: int, width: int, reach: int) -> Array:
    """The images ``[N, height, width]`` moved by ``by`` ``[N, 2]`` pixels each."""
    at = reach - by  # reads from the opposite side
    whole = np.floor(at).astype(int)
    part = (at - whole)[:, :, None, None]
    n = np.arange(len(canvas))[:, None, None]
    rows = whole[:, 0, None, None] + np.arange(height)[None, :, None]
    columns = whole[:, 1, None, None] + np.arange(width)[None, None, :]
    down, right = part[:, 0], part[:, 1]
    top = (1 - right) * canvas[n, rows, columns] + right * canvas[n, rows, columns + 1]
    bottom = (1 - right) * canvas[n, rows + 1, columns] + right * canvas[n, rows + 1, columns + 1]
    return np.asarray((1 - down) * top + down * bottom)
