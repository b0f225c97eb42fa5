"""`mnist`: the 60,000 + 10,000 digits of MNIST, with its own split, through keras.datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ExternalError


def fetch(folder: Path, files: Mapping[str, Path], name: str = "mnist") -> dict[str, Any]:
    """Write the CSVs of one of keras.datasets to `folder`.

    Raises:
        ExternalError: it is not in Keras's cache and cannot be downloaded.
    """
    from pipeline.backend import keras
    from pipeline.download.arrays import write_csvs

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception with the URL in it
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ExternalError(
            f"{name} could not be downloaded: {reason}. Try again when you are online; "
            "`make demo` works offline"
        ) from error
    write_csvs(folder, train, test)
    return {"origin": f"keras.datasets.{name}"}
