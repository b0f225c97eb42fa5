"""`mnist`: the 60,000 + 10,000 digits of MNIST, with its own split, through keras.datasets."""

from pathlib import Path
from typing import Any

from pipeline.errors import OutsideError

KNOWS_ANSWERS = True
CODE = ("download.py", "sources/mnist.py", "sources/arrays.py")


def fetch(folder: Path, path: Path | None, name: str = "mnist") -> dict[str, Any]:
    """Write the CSVs of a data set of keras.datasets into `folder`.

    Keras keeps what it downloads below `$KERAS_HOME/datasets` (by default `~/.keras`), and looks
    there first.

    Raises:
        OutsideError: it can be neither found there nor downloaded.
    """
    from pipeline.backend import keras
    from pipeline.sources.arrays import write_csvs

    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # Keras raises a bare Exception with the URL in it.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise OutsideError(
            f"{name} could not be downloaded: {reason}. Try again when the network is back; "
            "`make demo` needs none"
        ) from error
    write_csvs(folder, train, test)
    return {"origin": f"keras.datasets.{name}"}
