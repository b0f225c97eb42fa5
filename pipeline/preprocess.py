"""Stage 2: from the competition's CSVs to arrays that load in milliseconds."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import csvs


def preprocess(folder: Path, train: Path, test: Path, sample_submission: Path) -> dict[str, Any]:
    """Check the CSVs and write them as arrays into `folder`.

    Leaves train_images.npy (n, 28, 28, 1), train_labels.npy (n,) and test_images.npy
    (m, 28, 28, 1), all uint8, pixels as they are in the CSV: 0 is background, 255 full ink.

    Returns:
        Facts for the manifest: the numbers of rows, and of training rows of each class.

    Raises:
        UserError: something is wrong with a CSV; the message says what and where.
    """
    train_images, train_labels = csvs.read_images(train, labelled=True)
    test_images, _ = csvs.read_images(test, labelled=False)
    ids, _ = csvs.read_labels(sample_submission)
    assert train_labels is not None

    csvs.check_fit((train, test, sample_submission), train_labels, len(test_images), ids)

    np.save(folder / "train_images.npy", train_images)
    np.save(folder / "train_labels.npy", train_labels)
    np.save(folder / "test_images.npy", test_images)
    return {
        "train_rows": len(train_images),
        "test_rows": len(test_images),
        "train_rows_per_class": np.bincount(train_labels).tolist(),
    }
