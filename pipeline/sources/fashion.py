"""`fashion`: the 60,000 + 10,000 garments of Fashion-MNIST, through keras.datasets."""

from pathlib import Path
from typing import Any

from pipeline.sources import mnist

KNOWS_ANSWERS = True
CLASS_NAMES = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CODE = ("download.py", "sources/fashion.py", "sources/mnist.py", "sources/arrays.py")


def fetch(folder: Path, path: Path | None) -> dict[str, Any]:
    """Write Fashion-MNIST's CSVs into `folder`; raises what `mnist.fetch` raises."""
    return mnist.fetch(folder, path, "fashion_mnist")
