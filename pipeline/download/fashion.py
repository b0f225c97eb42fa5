"""`fashion`: the 60,000 + 10,000 garments of Fashion-MNIST, through keras.datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.download import mnist


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Write Fashion-MNIST's CSVs to `folder`; raises what `mnist.fetch` raises."""
    return mnist.fetch(folder, files, "fashion_mnist")
