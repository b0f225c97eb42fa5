"""Stage 5: average the folds' predictions, calibrate them, and estimate the accuracy."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import estimate


def ensemble(
    fold_oof: Mapping[str, Sequence[Path]],
    fold_test: Mapping[str, Sequence[Path]],
    train_labels: Path,
    fold_ids: Path,
    remarks: Path,
    oof: Path,
    test: Path,
    metrics: Path,
    chosen: Sequence[str] = (),
) -> dict[str, Any]:
    """Average the test probabilities of all networks, and the out-of-fold ones row by row.

    All members weigh the same: fitted weights gained nothing (train/EXPERIMENTS.md). The means are
    calibrated: test rows with a temperature fitted on all held-out rows, the rows of each fold with
    one fitted on the others.

    Args:
        fold_oof: for each preset, a file per fold, float32 (held-out rows, 10).
        fold_test: for each preset, a file per fold, float32 (m, 10).
        train_labels: uint8 (n,).
        fold_ids: int8 (n,).
        remarks: those of split, JSON, which belong to the estimate.
        oof: to be written, float32 (n, 10): predictions of rows by networks that have not seen
            them; NaN where no fold holds out the row.
        test: to be written, float32 (m, 10): from the mean over members and folds.
        metrics: to be written, JSON: what this function returns.
        chosen: the presets whose epoch was chosen by the loss on the held-out rows.

    Returns:
        Metadata: accuracies and calibration errors of the held-out rows, and the temperature.
        Raises UserError if a probability is not finite.
    """
    labels, folds = np.load(train_labels), np.load(fold_ids)
    held_out = folds >= 0
    members = {name: estimate.gather(paths, folds) for name, paths in fold_oof.items()}
    mean = estimate.mean(list(members.values()))
    temperature = estimate.fit(mean[held_out], labels[held_out])
    calibrated = estimate.apply_out_of_fold(mean, labels, folds)
    np.save(oof, calibrated)
    networks = [estimate.load(path) for paths in fold_test.values() for path in paths]
    np.save(test, estimate.apply(estimate.mean(networks), temperature))

    right = mean.argmax(axis=1) == labels
    before, after = (
        estimate.reliability(its[held_out].max(axis=1), right[held_out])[-1]
        for its in (mean, calibrated)
    )
    rows, accuracy = int(held_out.sum()), float(right[held_out].mean())
    notes = json.loads(remarks.read_text(encoding="utf-8"))
    if chosen:
        notes.append(
            f"the epoch of {', '.join(chosen)} was chosen by the loss on the rows of the "
            'estimate, which is therefore optimistic; monitor = "loss" chooses without them'
        )
    found = {
        "oof_accuracy": accuracy,
        "oof_standard_error": estimate.standard_error(accuracy, rows),
        "oof_rows": rows,
        "fold_accuracies": [float(right[folds == i].mean()) for i in range(folds.max() + 1)],
        "member_accuracies": {
            name: float((member.argmax(axis=1) == labels)[held_out].mean())
            for name, member in members.items()
        },
        "temperature": temperature,
        "calibration_error_before": before,
        "calibration_error": after,
        "remarks": notes,
    }
    metrics.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return found
