"""Stage 2: turn the competition's CSVs into arrays, which load in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import csvs


def preprocess(
    train: Path,
    test: Path,
    sample_submission: Path,
    train_images: Path,
    train_labels: Path,
    test_images: Path,
) -> dict[str, Any]:
    """Check the CSVs and write them as arrays.

    Args:
        train: train.csv.
        test: test.csv.
        sample_submission: sample_submission.csv.
        train_images: to be written, uint8 (n, 28, 28, 1), pixels as in the CSV: 0 is background,
            255 full ink.
        train_labels: to be written, uint8 (n,).
        test_images: to be written, uint8 (m, 28, 28, 1).

    Returns:
        Metadata: the numbers of rows, and of training rows in each class.

    Raises:
        UserError: something is wrong with a CSV; the message says what and where.
    """
    images, labels, images_to_predict = csvs.read_dataset(train, test, sample_submission)
    np.save(train_images, images)
    np.save(train_labels, labels)
    np.save(test_images, images_to_predict)
    return {
        "train_rows": len(images),
        "test_rows": len(images_to_predict),
        "train_rows_per_class": np.bincount(labels).tolist(),
    }
