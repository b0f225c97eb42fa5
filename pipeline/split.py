"""Stage 3: decide which rows each fold holds out."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError


def split(folder: Path, labels_path: Path, folds: int, holdout: float, seed: int) -> dict[str, Any]:
    """Draw stratified folds and write them to fold_ids.npy in `folder`.

    fold_ids is int8 (n,): the fold that holds the row out, or -1 for a row that none does (which
    there is only when folds = 1, the single hold-out).

    Args:
        folder: an existing folder.
        labels_path: train_labels.npy, uint8 (n,).
        folds: how many; with 1, a share of `holdout` of the rows is held out.
        holdout: that share.
        seed: seed of the draw.

    Returns:
        Facts for the manifest: the number of rows held out in each fold.

    Raises:
        UserError: a class has fewer rows than there are folds.
    """
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    labels = np.load(labels_path)
    rows = np.bincount(labels)
    rarest = int(rows.argmin())
    if rows[rarest] < max(folds, 2):
        remedy = "lower split.folds, or add rows of it" if folds > 2 else "add rows of it"
        raise UserError(
            f"{labels_path}: class {rarest} has {rows[rarest]} rows, too few for "
            f"{max(folds, 2)} parts; {remedy}"
        )
    if folds == 1:
        parts = StratifiedShuffleSplit(n_splits=1, test_size=holdout, random_state=seed)
    else:
        parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=seed)
    fold_ids = np.full(len(labels), -1, dtype=np.int8)
    try:
        for fold, (_, held_out) in enumerate(parts.split(np.zeros(len(labels)), labels)):
            fold_ids[held_out] = fold
    except ValueError as error:
        raise UserError(
            f"{labels_path}: cannot be split as split.holdout says ({error}); raise it"
        ) from error
    np.save(folder / "fold_ids.npy", fold_ids)
    return {"held_out": np.bincount(fold_ids[fold_ids >= 0], minlength=folds).tolist()}
