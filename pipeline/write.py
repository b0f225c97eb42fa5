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
    import pandas as pd

    ids, _ = csvs.read_labels(sample_submission)
    labels = estimate.load(test).argmax(axis=1)
    if len(ids) != len(labels):
        raise UserError(
            f"{sample_submission} has {len(ids):,} rows, but there are {len(labels):,} predictions"
        )
    header, end = csvs.first_line(sample_submission)
    rows = pd.DataFrame({"ImageId": ids, "Label": labels})
    with submission.open("wb") as file:
        file.write(header + end)
        rows.to_csv(file, header=False, index=False, lineterminator=end.decode())
    found: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return {**found, "predicted_per_class": np.bincount(labels, minlength=csvs.CLASSES).tolist()}
