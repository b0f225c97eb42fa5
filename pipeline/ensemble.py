"""Stage 5: put the folds' probabilities together, and estimate the accuracy."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import write_json


def ensemble(
    folder: Path, fold_folders: Sequence[Path], labels_path: Path, fold_ids_path: Path
) -> dict[str, Any]:
    """Average the folds' test probabilities; gather the out-of-fold ones.

    Leaves test.npy, float32 (m, 10), the mean over the folds; oof.npy, float32 (n, 10), each row
    predicted by the one network that has not seen it, NaN where no fold holds the row out; and
    metrics.json, which is also what is returned.

    Args:
        folder: an existing folder.
        fold_folders: the folders that train left, in the order of the folds.
        labels_path: train_labels.npy, uint8 (n,).
        fold_ids_path: fold_ids.npy, int8 (n,).

    Returns:
        Facts for the manifest: the out-of-fold accuracy, its standard error sqrt(p (1 - p) / n),
        the number of rows n that it rests on, and each fold's accuracy.
    """
    labels, fold_ids = np.load(labels_path), np.load(fold_ids_path)
    oof = np.full((len(labels), 10), np.nan, dtype=np.float32)
    for fold, fold_folder in enumerate(fold_folders):
        oof[fold_ids == fold] = np.load(fold_folder / "oof.npy")
    tests = [np.load(fold_folder / "test.npy") for fold_folder in fold_folders]
    np.save(folder / "oof.npy", oof)
    np.save(folder / "test.npy", np.mean(tests, axis=0, dtype=np.float64).astype(np.float32))

    right = oof.argmax(axis=1) == labels
    held_out = fold_ids >= 0
    rows, accuracy = int(held_out.sum()), float(right[held_out].mean())
    metrics = {
        "oof_accuracy": accuracy,
        "oof_standard_error": math.sqrt(accuracy * (1 - accuracy) / rows),
        "oof_rows": rows,
        "fold_accuracies": [float(right[fold_ids == i].mean()) for i in range(len(fold_folders))],
    }
    write_json(folder / "metrics.json", metrics)
    return metrics
