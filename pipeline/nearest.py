"""The training digits most like a digit, which tell whether an error is the label's."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# Digits compared at a time, so that the distances to many training digits fit into memory.
AT_A_TIME = 100
# How many training digits are compared with all others to learn how far apart digits are.
COMPARED = 1000


class Nearest:
    """Compares digits with training digits, by their pixels.

    Digits are compared at half their resolution, which forgives a shift by a pixel, and in 64
    shades, with which the sums of squares are whole numbers that float32 holds exactly: the result
    does not depend on the order in which a processor adds.
    """

    def __init__(self, training: NDArray[np.uint8]) -> None:
        """Prepare for searches among training digits, uint8 (m, 28, 28, 1)."""
        self._small = _coarse(training)
        self._squares = (self._small**2).sum(axis=1)

    @cached_property
    def far(self) -> float:
        """How far the most isolated of `COMPARED` training digits is from its nearest neighbour.

        An image farther than this from every training digit may not show a digit at all.
        """
        rows = np.unique(np.linspace(0, len(self._small) - 1, COMPARED).astype(np.int64))
        _, distances = self._search(self._small[rows], 1, rows)
        return float(distances.max(initial=0))

    def search(
        self, digits: NDArray[np.uint8], count: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The rows of the nearest training digits, the nearest first, and their distances.

        Args:
            digits: uint8 (n, 28, 28, 1).
            count: how many to find for each.
            own: the row of each digit among the training digits, which is not its own neighbour,
                (n,).

        Returns:
            rows, int64, and Euclidean distances, in 64ths of the range of a pixel, float32; both
            (n, count), or with as many columns as there are training digits to be found.
        """
        return self._search(_coarse(digits), count, own)

    def _search(
        self, points: NDArray[np.float32], count: int, own: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        count = min(count, len(self._small) - (own is not None))
        found = np.empty((len(points), count), np.int64)
        distances = np.empty((len(points), count), np.float32)
        for first in range(0, len(points), AT_A_TIME):
            part = slice(first, first + AT_A_TIME)
            squares = self._squares - 2 * (points[part] @ self._small.T)
            squares += (points[part] ** 2).sum(axis=1, keepdims=True)
            if own is not None:
                squares[np.arange(len(squares)), own[part]] = np.inf
            rows = np.sort(np.argpartition(squares, count - 1, axis=1)[:, :count], axis=1)
            order = np.take_along_axis(squares, rows, axis=1).argsort(axis=1, kind="stable")
            found[part] = np.take_along_axis(rows, order, axis=1)
            distances[part] = np.sqrt(np.take_along_axis(squares, found[part], axis=1))
        return found, distances


def _coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Means of 2 × 2 pixels in 64 shades, float32 (n, 196) of whole numbers."""
    pixels = images[..., 0].astype(np.uint16)
    sums = sum(pixels[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
    return (np.asarray(sums) >> 4).reshape(len(images), 14 * 14).astype(np.float32)
