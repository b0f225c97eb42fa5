"""Stage 6: from probabilities to a CSV that the competition accepts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import csvs
from pipeline.errors import UserError


def write(target: Path, probabilities: Path, metrics: Path, sample: Path) -> dict[str, Any]:
    """Write the most probable label of each test image to `target`, like the sample submission.

    Args:
        target: the CSV to write.
        probabilities: test.npy, float32 (m, 10), in the order of the test rows.
        metrics: metrics.json of the ensemble.
        sample: sample_submission.csv, m rows.

    Returns:
        Facts for the manifest: the ensemble's metrics, and how often each label is predicted.

    Raises:
        UserError: the sample submission does not go with the probabilities.
    """
    ids, _ = csvs.read_labels(sample)
    labels = np.load(probabilities).argmax(axis=1)
    if len(ids) != len(labels):
        raise UserError(
            f"{sample} has {len(ids):,} rows, but there are {len(labels):,} predictions"
        )
    header, end = csvs.first_line(sample)
    rows = [f"{image_id},{label}".encode() for image_id, label in zip(ids, labels, strict=True)]
    target.write_bytes(end.join([header, *rows, b""]))
    csvs.check_submission(target, sample)
    facts: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return {**facts, "predicted_per_class": np.bincount(labels, minlength=csvs.CLASSES).tolist()}
