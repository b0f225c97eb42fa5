"""Stage 3: decide which rows each fold holds out."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Split
from pipeline.errors import UserError


def split(train_labels: Path, fold_ids: Path, params: Split) -> dict[str, Any]:
    """Draw stratified folds.

    Args:
        train_labels: uint8 (n,).
        fold_ids: to be written, int8 (n,): the fold that holds out the row, or -1 if none does
            (only with folds = 1, the single hold-out).
        params: the number of folds, the share to hold out if it is 1, and the seed.

    Returns:
        Metadata: the number of rows held out in each fold.

    Raises:
        UserError: a class has fewer rows than there are folds.
    """
    labels, folds = np.load(train_labels), params.folds
    rows = np.bincount(labels)
    rarest = int(rows.argmin())
    if rows[rarest] < max(folds, 2):
        remedy = "lower split.folds or add rows" if folds > 2 else "add rows"
        raise UserError(
            f"{train_labels}: class {rarest} has {rows[rarest]} rows, too few for "
            f"{max(folds, 2)} parts; {remedy} of this class"
        )
    random = np.random.RandomState(params.seed)  # whose numbers no version of NumPy changes
    if folds > 1:
        ids = _parts(labels, folds, random)
    else:
        held_out = math.ceil(params.holdout * len(labels))
        if min(held_out, len(labels) - held_out) < len(rows):
            raise UserError(
                f"{train_labels}: split.holdout is too small ({held_out:,} of {len(labels):,} rows "
                f"would be held out, and there are {len(rows)} classes); raise it"
            )
        ids = _one_part(labels, held_out, random)
    np.save(fold_ids, ids)
    return {"held_out": np.bincount(ids[ids >= 0], minlength=folds).tolist()}


# The next two draw what scikit-learn 1.9 draws (StratifiedKFold, StratifiedShuffleSplit), whose
# import takes a second.


def _parts(
    labels: NDArray[np.uint8], count: int, random: np.random.RandomState
) -> NDArray[np.int8]:
    """The fold of each row, for stratified folds whose sizes differ by one at most."""
    classes = _by_appearance(labels)
    in_order = np.sort(classes)
    kinds = int(classes.max()) + 1
    # Dealt like cards, class after class: how many rows of each class each fold gets.
    dealt = np.array([np.bincount(in_order[i::count], minlength=kinds) for i in range(count)])
    ids = np.empty(len(labels), np.int8)
    for kind in range(kinds):
        folds = np.arange(count).repeat(dealt[:, kind])
        random.shuffle(folds)
        ids[classes == kind] = folds
    return ids


def _by_appearance(labels: NDArray[np.uint8]) -> NDArray[np.intp]:
    """The labels, renumbered in the order in which they first appear."""
    _, first, places = np.unique(labels, return_index=True, return_inverse=True)
    renumbered: NDArray[np.intp] = np.argsort(np.argsort(first))[places]
    return renumbered


def _one_part(
    labels: NDArray[np.uint8], held_out: int, random: np.random.RandomState
) -> NDArray[np.int8]:
    """0 for the rows of a stratified hold-out, -1 for the others."""
    classes, rows = np.unique(labels, return_counts=True)
    kept = _shares(rows, len(labels) - held_out, random)
    taken = _shares(rows - kept, held_out, random)
    ids = np.full(len(labels), -1, np.int8)
    for label, skipped, count in zip(classes, kept, taken, strict=True):
        shuffled = np.flatnonzero(labels == label)[random.permutation((labels == label).sum())]
        ids[shuffled[skipped : skipped + count]] = 0
    return ids


def _shares(
    rows: NDArray[np.int64], count: int, random: np.random.RandomState
) -> NDArray[np.int64]:
    """How many of `count` rows come from each class, in proportion to its rows.

    The fractions are rounded down; the classes that lost most by that get one more row, and where
    several lost as much as each other, chance decides.
    """
    exact = rows / rows.sum() * count
    shares = np.floor(exact)
    lost = exact - shares
    for loss in np.unique(lost)[::-1]:
        missing = int(count - shares.sum())
        if not missing:
            break
        equals = np.flatnonzero(lost == loss)
        shares[random.choice(equals, min(len(equals), missing), replace=False)] += 1
    return np.asarray(shares, np.int64)
