"""Write arrays as the competition's CSVs, for the sources that have arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.csvs import PIXELS


def write_csvs(
    folder: Path,
    train: tuple[NDArray[np.uint8], NDArray[np.uint8]],
    test: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    """Write train.csv, test.csv, sample_submission.csv and solution.csv to `folder`.

    Args:
        folder: an existing folder.
        train: images, uint8 (n, …) with 784 values each, and labels, uint8 (n,).
        test: the same for the test set; its labels go to solution.csv only.
    """
    text = [str(value) for value in range(256)]

    def write_images(name: str, header: Sequence[str], rows: NDArray[np.uint8]) -> None:
        with (folder / name).open("w", encoding="ascii", newline="\n") as file:
            file.write(",".join(header) + "\n")
            # A row's bytes are its values; looking them up is ten times faster than formatting.
            file.writelines(",".join([text[v] for v in row.tobytes()]) + "\n" for row in rows)

    def write_labels(name: str, labels: NDArray[np.uint8]) -> None:
        rows = (f"{image_id},{label}\n" for image_id, label in enumerate(labels, start=1))
        (folder / name).write_text("ImageId,Label\n" + "".join(rows), encoding="ascii")

    images, labels = train
    rows = np.column_stack([labels, images.reshape(-1, len(PIXELS))])
    write_images("train.csv", ["label", *PIXELS], rows)
    images, labels = test
    write_images("test.csv", PIXELS, images.reshape(-1, len(PIXELS)))
    write_labels("sample_submission.csv", np.zeros_like(labels))
    write_labels("solution.csv", labels)
