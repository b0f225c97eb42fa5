"""The training digits most like a digit, which tell whether an error is the label's."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

# How many more are found than asked for: of equally near ones, the first in train.csv are kept.
SPARE = 15
# How many training digits are compared with all others to learn how far apart digits are.
COMPARED = 1000


class Nearest:
    """Compares digits with training digits, by their pixels.

    Digits are compared at half their resolution, which forgives a shift by a pixel.
    """

    def __init__(self, training: NDArray[np.uint8]) -> None:
        """Prepare for searches among training digits, uint8 (m, 28, 28, 1)."""
        from sklearn.neighbors import NearestNeighbors

        self._training = training
        self._neighbours = NearestNeighbors(algorithm="brute").fit(_coarse(training))

    @cached_property
    def far(self) -> float:
        """Measure how far the most isolated of `COMPARED` training digits is from its neighbour.

        An image farther than this from every training digit may not show a digit at all.
        """
        rows = np.unique(np.linspace(0, len(self._training) - 1, COMPARED).astype(np.int64))
        return float(self.search(self._training[rows], 1, rows)[1].max(initial=0))

    def search(
        self, digits: NDArray[np.uint8], count: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the rows of the nearest training digits, the nearest first, and their distances.

        Args:
            digits: uint8 (n, 28, 28, 1).
            count: how many to find for each.
            own: the row of each digit among the training digits, which is not its own neighbour,
                (n,).

        Returns:
            rows, int64, and Euclidean distances, in 64ths of the range of a pixel, float64; both
            (n, count), or with as many columns as there are training digits to be found.
        """
        count = min(count, len(self._training) - (own is not None))
        if not len(digits):
            return np.empty((0, count), np.int64), np.empty((0, count))
        many = min(count + SPARE, len(self._training))
        distances, rows = self._neighbours.kneighbors(_coarse(digits), many)
        if own is not None:
            distances[rows == own[:, np.newaxis]] = np.inf
        order = np.lexsort((rows, distances))[:, :count]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average 2 × 2 pixels, in 64 shades: float32 (n, 196) of whole numbers, which add exactly."""
    sums: NDArray[np.uint16] = images.reshape(-1, 14, 2, 14, 2).sum(axis=(2, 4), dtype=np.uint16)
    return (sums >> 4).reshape(-1, 14 * 14).astype(np.float32)
