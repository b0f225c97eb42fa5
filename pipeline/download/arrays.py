"""Write arrays as the competition's CSVs, for the sources that have arrays."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.csvs import TEST, TRAIN

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def write_csvs(folder: Path, train: Labelled, test: Labelled) -> None:
    """Write train.csv, test.csv, sample_submission.csv and solution.csv to an existing folder.

    Args:
        folder: where they go.
        train: images, uint8 (n, …) with 784 values each, and labels, uint8 (n,).
        test: the same for the test set; its labels go to solution.csv only.
    """
    text = [str(value) for value in range(256)]

    def write_images(name: str, header: tuple[str, ...], rows: NDArray[np.uint8]) -> None:
        with (folder / name).open("w", encoding="ascii", newline="\n") as file:
            file.write(",".join(header) + "\n")
            # A row's bytes are its values; looking them up takes a tenth of pandas' time.
            file.writelines(",".join([text[v] for v in row.tobytes()]) + "\n" for row in rows)

    def write_labels(name: str, labels: NDArray[np.uint8]) -> None:
        rows = pd.DataFrame({"ImageId": range(1, len(labels) + 1), "Label": labels})
        rows.to_csv(folder / name, index=False, lineterminator="\n")

    images, labels = train
    write_images("train.csv", TRAIN, np.column_stack([labels, images.reshape(len(images), -1)]))
    images, labels = test
    write_images("test.csv", TEST, images.reshape(len(images), -1))
    write_labels("sample_submission.csv", np.zeros_like(labels))
    write_labels("solution.csv", labels)
