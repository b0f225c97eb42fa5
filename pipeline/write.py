"""Stage 6: turn the test probabilities into a CSV that the competition accepts."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import csvs, estimate
from pipeline.errors import UserError


def write(
    test: Path,
    metrics: Path,
    sample_submission: Path,
    submission: Path,
    dataset: str,
    source: str,
    preset: str,
) -> dict[str, Any]:
    """Write the most probable label of each test image, in the format of the sample submission.

    Args:
        test: float32 (m, 10), in the order of the test rows.
        metrics: metrics.json of the ensemble.
        sample_submission: sample_submission.csv, m rows.
        submission: the CSV to be written.
        dataset: the dataset's name, for the manifest, as are the next two.
        source: where the dataset comes from.
        preset: the preset's name.

    Returns:
        Metadata: the ensemble's metrics, and how often each label is predicted.

    Raises:
        UserError: the sample submission does not fit the probabilities, or one is not finite.
    """
    ids, _ = csvs.read_labels(sample_submission)
    labels = estimate.load(test).argmax(axis=1)
    if len(ids) != len(labels):
        raise UserError(
            f"{sample_submission} has {len(ids):,} rows, but there are {len(labels):,} predictions"
        )
    header, end = csvs.first_line(sample_submission)
    rows = [f"{image_id},{label}".encode() for image_id, label in zip(ids, labels, strict=True)]
    submission.write_bytes(end.join([header, *rows, b""]))
    written = csvs.read_labels(submission)
    if csvs.first_line(submission) != (header, end) or not np.array_equal(written, (ids, labels)):
        raise UserError(f"{submission} does not contain what was written; check the disk")
    found: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return {**found, "predicted_per_class": np.bincount(labels, minlength=csvs.CLASSES).tolist()}
