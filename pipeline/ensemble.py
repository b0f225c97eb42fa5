"""Stage 5: put the folds' probabilities together, and estimate the accuracy."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import write_json


def ensemble(
    folder: Path,
    members: Mapping[str, Sequence[Path]],
    labels_path: Path,
    fold_ids_path: Path,
) -> dict[str, Any]:
    """Average the test probabilities of all networks; gather and average the out-of-fold ones.

    Leaves test.npy, float32 (m, 10), the mean over members and folds; oof.npy, float32 (n, 10),
    each row predicted by the networks that have not seen it, one a member, NaN where no fold holds
    the row out; and metrics.json, which is also what is returned.

    Members count alike: weights fitted out of fold gained nothing (EXPERIMENTS.md).

    Args:
        folder: an existing folder.
        members: for each preset that takes part the folders that train left, in the order of the
            folds.
        labels_path: train_labels.npy, uint8 (n,).
        fold_ids_path: fold_ids.npy, int8 (n,).

    Returns:
        Facts for the manifest: the out-of-fold accuracy, its standard error sqrt(p (1 - p) / n),
        the number of rows n that it rests on, each fold's accuracy, and each member's own.
    """
    labels, fold_ids = np.load(labels_path), np.load(fold_ids_path)
    held_out = fold_ids >= 0
    own = {name: _gather(folders, fold_ids) for name, folders in members.items()}
    oof = _mean(list(own.values()))
    tests = [np.load(fold / "test.npy") for folders in members.values() for fold in folders]
    np.save(folder / "oof.npy", oof)
    np.save(folder / "test.npy", _mean(tests))

    right = oof.argmax(axis=1) == labels
    rows, accuracy = int(held_out.sum()), float(right[held_out].mean())
    metrics = {
        "oof_accuracy": accuracy,
        "oof_standard_error": standard_error(accuracy, rows),
        "oof_rows": rows,
        "fold_accuracies": [float(right[fold_ids == i].mean()) for i in range(fold_ids.max() + 1)],
        "member_accuracies": {
            name: float((its.argmax(axis=1) == labels)[held_out].mean())
            for name, its in own.items()
        },
    }
    write_json(folder / "metrics.json", metrics)
    return metrics


def _gather(folders: Sequence[Path], fold_ids: NDArray[np.int8]) -> NDArray[np.float32]:
    """One member's out-of-fold probabilities in the order of the rows, float32 (n, 10)."""
    oof = np.full((len(fold_ids), 10), np.nan, dtype=np.float32)
    for fold, folder in enumerate(folders):
        oof[fold_ids == fold] = np.load(folder / "oof.npy")
    return oof


def _mean(probabilities: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    mean = np.mean(probabilities, axis=0, dtype=np.float64)
    return np.asarray(mean, dtype=np.float32)


def standard_error(accuracy: float, rows: int) -> float:
    """Of a share of so many rows, each of which is right or wrong by itself."""
    return math.sqrt(accuracy * (1 - accuracy) / rows)
