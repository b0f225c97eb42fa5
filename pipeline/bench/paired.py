"""Compares two recipes row by row: their difference, and its standard error.

Pairing removes what makes rows easy or hard. It leaves the chance of training: two runs of one
recipe with other seeds disagree on some rows too, and these disagreements are what the uncertainty
is made of. More seeds make it smaller.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.estimate import TINY, standard_error


@dataclass(frozen=True)
class Measured:
    """A recipe on the held-out rows, in their order: means over its runs."""

    right: NDArray[np.float64]  # the share of runs that predict each row correctly
    loss: NDArray[np.float64]  # the negative log-likelihood of each row, in nats
    folds: NDArray[np.int8]  # the fold that holds out each row

    def columns(self) -> dict[str, str]:
        """Return the accuracy with its standard error for one run, wrong rows and loss."""
        accuracy = float(self.right.mean())
        return {
            "out of fold": f"{accuracy:.5f} ± {standard_error(accuracy, len(self.right)):.5f}",
            "wrong": f"{(1 - self.right).sum():g}",
            "loss": f"{self.loss.mean():.5f}",
        }


@dataclass(frozen=True)
class Difference:
    """One recipe minus another."""

    accuracy: float
    uncertainty: float  # the standard error of `accuracy`
    loss: float
    lower: int  # in how many folds the loss is lower


def measure(
    runs: Sequence[NDArray[np.float32]], labels: NDArray[np.uint8], fold_ids: NDArray[np.int8]
) -> Measured:
    """Measure a recipe by the out-of-fold probabilities of its runs.

    Args:
        runs: for each run (seed), float32 (n, 10), calibrated (`estimate.apply_out_of_fold`):
            the loss of probabilities as they are depends on the label smoothing above all.
        labels: uint8 (n,).
        fold_ids: int8 (n,); rows with -1 are left out.
    """
    held_out = fold_ids >= 0
    truth, rows = labels[held_out], np.arange(held_out.sum())
    right = [run[held_out].argmax(axis=1) == truth for run in runs]
    losses = [-np.log(np.maximum(run[held_out][rows, truth], TINY)) for run in runs]
    return Measured(
        np.mean(right, axis=0), np.mean(losses, axis=0, dtype=np.float64), fold_ids[held_out]
    )


def difference(new: Measured, base: Measured) -> Difference:
    """Subtract two recipes that hold out the same rows in the same folds.

    The standard error is that of the mean of the rows' differences, s / √n: what a bootstrap over
    the rows converges to (Efron and Tibshirani 1993, chapter 2), without its chance.
    """
    gain = new.right - base.right
    change = new.loss - base.loss
    of_folds = [change[new.folds == fold].mean() for fold in np.unique(new.folds)]
    return Difference(
        accuracy=float(gain.mean()),
        uncertainty=float(gain.std(ddof=1)) / math.sqrt(len(gain)),
        loss=float(change.mean()),
        lower=sum(mean < 0 for mean in of_folds),
    )
