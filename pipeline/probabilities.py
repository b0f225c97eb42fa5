"""Predicted probabilities, loaded with a check, and the error of the accuracy that they reach."""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError


def load(path: Path) -> NDArray[np.float32]:
    """Load probabilities, float32 (n, 10); raise UserError if one is not finite."""
    probabilities: NDArray[np.float32] = np.load(path)
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{path} contains values that are not finite: training diverged; lower "
            "train.learning_rate and train again"
        )
    return probabilities


def standard_error(accuracy: float, rows: int) -> float:
    """Binomial standard error of an accuracy, sqrt(p (1 - p) / n)."""
    return math.sqrt(accuracy * (1 - accuracy) / rows)
