"""The most similar training images, to see whether an error is the network's or the label's."""

import numpy as np
from numpy.typing import NDArray

# Images compared at a time, so that the distances to many training images fit into memory.
AT_A_TIME = 100


def nearest(
    images: NDArray[np.uint8],
    training: NDArray[np.uint8],
    count: int,
    own: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """For each image the rows of its nearest training images, the nearest first.

    Images are compared at half their resolution, which forgives a shift by a pixel, and in 64
    shades, with which the sums of squares are whole numbers that float32 holds exactly: the result
    does not depend on the order in which a processor adds.

    Args:
        images: uint8 (n, 28, 28, 1).
        training: uint8 (m, 28, 28, 1).
        count: how many to find.
        own: the row of each image in `training`, which is not its own neighbour, (n,).

    Returns:
        int64 (n, min(count, m - 1)).
    """
    small, points = _coarse(training), _coarse(images)
    squares = (small**2).sum(axis=1)
    count = min(count, len(training) - 1)
    found = np.empty((len(images), count), np.int64)
    for first in range(0, len(images), AT_A_TIME):
        part = slice(first, first + AT_A_TIME)
        distances = squares - 2 * (points[part] @ small.T)
        if own is not None:
            distances[np.arange(len(distances)), own[part]] = np.inf
        rows = np.sort(np.argpartition(distances, count - 1, axis=1)[:, :count], axis=1)
        order = np.take_along_axis(distances, rows, axis=1).argsort(axis=1, kind="stable")
        found[part] = np.take_along_axis(rows, order, axis=1)
    return found


def _coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 2 × 2 pixels in 64 shades, float32 (n, 196) of whole numbers."""
    pixels = images[..., 0].astype(np.uint16)
    sums = sum(pixels[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
    return (np.asarray(sums) >> 4).reshape(len(images), 14 * 14).astype(np.float32)
