"""The training digits that are most like a digit, and whether it is like any."""

import numpy as np
from numpy.typing import NDArray

# How many training digits are compared with all others to learn how far apart digits are.
COMPARED = 1000


class Nearest:
    """Compares digits by their pixels, at half the resolution, which forgives small shifts.

    The distance is Euclidean, of pixels from 0 to 1 at 14 × 14.

    Attributes:
        far: the largest distance of `COMPARED` training digits to the nearest other one. What is
            farther than this from all of them may be no digit.
    """

    def __init__(self, images: NDArray[np.uint8]) -> None:
        """Prepare for searches among training digits, uint8 (n, 28, 28, 1)."""
        self._halves = _halved(images[..., 0])
        self._squares = (self._halves**2).sum(axis=1)
        chosen = np.unique(np.linspace(0, len(images) - 1, COMPARED).astype(int))
        self.far = 0.0
        for rows in np.array_split(chosen, max(1, len(chosen) // 100)):
            squares = self._distances(self._halves[rows])
            squares[np.arange(len(rows)), rows] = np.inf
            nearest = squares.min(axis=1)
            self.far = max(self.far, float(np.sqrt(nearest[np.isfinite(nearest)].max(initial=0))))

    def search(
        self, digit: NDArray[np.uint8], count: int = 1
    ) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The rows of the training digits nearest to a digit, uint8 (28, 28), and their distances.

        The nearest comes first.
        """
        [half] = _halved(digit[np.newaxis])
        # On one core: for one digit, a second one costs more than it saves.
        squares = (self._squares - 2 * np.einsum("ij,j->i", self._halves, half) + half @ half).clip(
            0
        )
        rows = np.argpartition(squares, min(count, len(squares)) - 1)[:count]
        rows = rows[np.argsort(squares[rows], kind="stable")]
        return rows, np.sqrt(squares[rows])

    def _distances(self, halves: NDArray[np.float32]) -> NDArray[np.float32]:
        """The squares of the distances to all training digits, float32 (len(halves), n)."""
        own = (halves**2).sum(axis=1)[:, np.newaxis]
        squares = own - 2 * halves @ self._halves.T + self._squares
        return np.asarray(squares.clip(0), dtype=np.float32)


def _halved(digits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Digits, (n, 28, 28), at half the resolution and from 0 to 1: float32 (n, 196)."""
    squares = digits.reshape(len(digits), 14, 2, 14, 2).astype(np.float32)
    return np.asarray(squares.mean(axis=(2, 4)).reshape(len(digits), -1) / 255, dtype=np.float32)
