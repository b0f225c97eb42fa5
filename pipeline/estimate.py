"""Calibrate probabilities with one temperature; estimate their error and that of an accuracy.

Label smoothing and averaging leave an ensemble less confident than it is accurate. Temperature
scaling (Guo et al. 2017, arXiv:1706.04599) divides the logarithms of the probabilities by one
number, fitted on rows that the networks have not seen. It changes no label.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

# The range of a temperature. Where every row is right, the lowest one fits best.
COLDEST, HOTTEST = 0.1, 10.0
# A probability below this counts as this, in logarithms.
TINY = 1e-12
BINS = 15
# With a single hold-out, its rows are divided into this many parts, to judge on others than fitted.
PARTS = 5


def load(path: Path) -> NDArray[np.float32]:
    """Load probabilities, float32 (n, 10); raise UserError if one is not finite."""
    probabilities: NDArray[np.float32] = np.load(path)
    if not np.isfinite(probabilities).all():
        raise UserError(
            f"{path} contains values that are not finite: training diverged; lower "
            "train.learning_rate and train again"
        )
    return probabilities


def gather(paths: Sequence[Path], folds: NDArray[np.int8]) -> NDArray[np.float32]:
    """Put the predictions of a preset's folds in the order of the rows; NaN where there is none."""
    oof = np.full((len(folds), 10), np.nan, dtype=np.float32)
    for fold, path in enumerate(paths):
        oof[folds == fold] = load(path)
    return oof


def mean(members: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Average the probabilities of several networks, float32 (n, 10), in float64."""
    return np.asarray(np.mean(members, axis=0, dtype=np.float64), dtype=np.float32)


def standard_error(accuracy: float, rows: int) -> float:
    """Return the binomial standard error of an accuracy, sqrt(p (1 - p) / n)."""
    return math.sqrt(accuracy * (1 - accuracy) / rows)


def fit(probabilities: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> float:
    """Find the temperature with the lowest mean negative log-likelihood of the true labels.

    Args:
        probabilities: (n, 10), of rows that the networks have not seen.
        labels: their true labels, (n,).

    Returns:
        A number between `COLDEST` and `HOTTEST`: below 1 the probabilities are not confident
        enough, above 1 too confident. 1 if there are no rows.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if not len(labels):
        return 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))
    true = logs[np.arange(len(labels)), labels]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float((logsumexp(logs * inverse, axis=1) - true * inverse).mean())

    bounds = (np.log(COLDEST), np.log(HOTTEST))
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return float(np.exp(found.x))


def apply(probabilities: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
    """Scale probabilities by a temperature: softmax(log p / temperature), float32 (n, 10).

    The most probable class of every row stays the most probable one, or the first of equals.
    """
    from scipy.special import softmax

    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))
    scaled = np.asarray(softmax(logs / temperature, axis=1), dtype=np.float32)
    # Rounding to float32 can make equal what differed in the last bit, and the reverse.
    rows, predicted = np.arange(len(scaled)), probabilities.argmax(axis=1)
    moved = np.flatnonzero(scaled.argmax(axis=1) != predicted)
    above = np.nextafter(scaled.max(axis=1), np.float32(1))
    scaled[rows[moved], predicted[moved]] = above[moved]
    return scaled


def apply_out_of_fold(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    fold_ids: NDArray[np.int8],
) -> NDArray[np.float32]:
    """Apply to each fold the temperature that was fitted on the other folds.

    A single hold-out is divided into `PARTS` parts with equal shares of the classes, which take the
    place of the folds.

    Args:
        probabilities: out of fold, (n, 10).
        labels: true labels, (n,).
        fold_ids: the fold that holds out each row, (n,); -1 for none.

    Returns:
        The same probabilities, calibrated; those of rows that no fold holds out as they were.
    """
    groups = fold_ids.copy()
    if fold_ids.max() == 0:
        held_out = np.flatnonzero(fold_ids == 0)
        by_label = held_out[np.argsort(labels[held_out], kind="stable")]
        groups[by_label] = np.arange(len(by_label)) % PARTS
    calibrated = probabilities.copy()
    for group in range(groups.max() + 1):
        mine, others = groups == group, (groups != group) & (groups >= 0)
        temperature = fit(probabilities[others], labels[others])
        calibrated[mine] = apply(probabilities[mine], temperature)
    return calibrated


def reliability(
    confidence: NDArray[np.floating[Any]], right: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64], float]:
    """Compare the confidence of predictions with how often they are right.

    Args:
        confidence: the probability of the predicted class, (n,).
        right: whether the prediction is right, (n,).

    Returns:
        For each non-empty one of `BINS` bins of equal width its mean confidence, its accuracy and
        its number of rows; and the expected calibration error, the mean distance between the first
        two, weighted by the third (Guo et al. 2017).
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    rows = np.bincount(bins, minlength=BINS)
    used = rows > 0
    sure = np.bincount(bins, confidence, BINS)[used] / rows[used]
    correct = np.bincount(bins, right, BINS)[used] / rows[used]
    error = float(np.average(np.abs(sure - correct), weights=rows[used]))
    return sure, correct, rows[used], error
