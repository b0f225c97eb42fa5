"""The training digits most like a digit, which tell whether an error is the label's."""

import numpy as np
from numpy.typing import NDArray

# How many training digits are compared with all others to learn how far apart digits are.
COMPARED = 1000


class Nearest:
    """Compares digits with training digits, uint8 (m, 28, 28, 1), by their pixels.

    Digits are compared at half their resolution, which forgives a shift by a pixel. `far` is how
    far the most isolated of `COMPARED` training digits is from its neighbour: an image farther than
    this from every training digit may not show a digit at all.
    """

    def __init__(self, training: NDArray[np.uint8]) -> None:
        from sklearn.neighbors import NearestNeighbors

        self._count = len(training)
        self._neighbours = NearestNeighbors(algorithm="brute").fit(_coarse(training))
        rows = np.unique(np.linspace(0, len(training) - 1, COMPARED).astype(np.int64))
        self.far = float(self.search(training[rows], 1, rows)[1].max(initial=0))

    def search(
        self, digits: NDArray[np.uint8], count: int, own: NDArray[np.int64] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Find the rows of the nearest training digits, the nearest first, and their distances.

        Args:
            digits: uint8 (n, 28, 28, 1).
            count: how many to find for each, if there are as many.
            own: the row of each digit, which is not its own neighbour, (n,).

        Returns:
            Rows and Euclidean distances, in 64ths of the range of a pixel, both (n, count).
        """
        many = min(count + (own is not None), self._count)
        if not len(digits):
            return np.empty((0, many), np.int64), np.empty((0, many))
        distances, rows = self._neighbours.kneighbors(_coarse(digits), many)
        if own is not None:
            distances[rows == own[:, np.newaxis]] = np.inf
        order = np.lexsort((rows, distances))[:, : many - (own is not None)]
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(distances, order, axis=1)


def _coarse(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Average 2 × 2 pixels, in 64 shades: float32 (n, 196) of whole numbers, which add exactly."""
    sums: NDArray[np.uint16] = images.reshape(-1, 14, 2, 14, 2).sum(axis=(2, 4), dtype=np.uint16)
    return (sums >> 4).reshape(-1, 14 * 14).astype(np.float32)
