"""Stage 3: decide which rows each fold holds out."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.config import Split


def split(train_labels: Path, fold_ids: Path, params: "Split") -> dict[str, Any]:
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
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    labels, folds = np.load(train_labels), params.folds
    rows = np.bincount(labels)
    rarest = int(rows.argmin())
    if rows[rarest] < max(folds, 2):
        raise UserError(
            f"{train_labels}: class {rarest} has {rows[rarest]} rows, too few for "
            f"{max(folds, 2)} parts; lower split.folds, or add rows of this class"
        )
    if folds == 1:
        parts = StratifiedShuffleSplit(1, test_size=params.holdout, random_state=params.seed)
    else:
        parts = StratifiedKFold(n_splits=folds, shuffle=True, random_state=params.seed)
    ids = np.full(len(labels), -1, dtype=np.int8)
    try:
        for fold, (_, held_out) in enumerate(parts.split(np.zeros(len(labels)), labels)):
            ids[held_out] = fold
    except ValueError as error:
        raise UserError(
            f"{train_labels}: split.holdout = {params.holdout} leaves one of its two parts with "
            f"fewer rows than there are classes ({error}); choose a value nearer to 0.5"
        ) from error
    np.save(fold_ids, ids)
    return {"held_out": np.bincount(ids[ids >= 0], minlength=folds).tolist()}
