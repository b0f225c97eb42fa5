"""The datasets and their sources: what `DATASET=` names, before anything is downloaded.

Standard library only: every command imports this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import UserError


@dataclass(frozen=True)
class Source:
    """A source, as the rest of the pipeline needs to know it."""

    labels_public: bool  # whether the labels of its test set are known, so that solution.csv exists
    class_names: tuple[str, ...] = tuple("0123456789")


GARMENTS = "T-shirt,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
SOURCES = {
    "kaggle": Source(labels_public=False),
    "sample": Source(labels_public=True),
    "mnist": Source(labels_public=True),
    "fashion": Source(labels_public=True, class_names=tuple(GARMENTS.split(","))),
    "local": Source(labels_public=False),  # a folder or zip of your own
}
NAMED = tuple(name for name in SOURCES if name != "local")


@dataclass(frozen=True)
class Dataset:
    """A dataset that DATASET= names."""

    name: str  # of its folder in data/
    source: str  # a key of SOURCES
    path: Path | None = None  # the folder or zip of the source "local"

    @property
    def labels_public(self) -> bool:
        """Whether the labels of its test set are known."""
        return SOURCES[self.source].labels_public


def dataset(word: str) -> Dataset:
    """Find the dataset that `DATASET=word` names; raise UserError if there is none.

    dataset("sample"), dataset("~/Downloads/digit-recognizer.zip")
    """
    if word in NAMED:
        return Dataset(word, word)
    if not word.strip():
        raise UserError(f"--dataset must not be empty; choose from {', '.join(NAMED)}, or a path")
    path = Path(word).expanduser()
    if not path.exists():
        raise UserError(
            f"there is no dataset {word!r}: choose from {', '.join(NAMED)}, or give the path of a "
            "folder or zip with train.csv, test.csv and sample_submission.csv"
        )
    stem = path.resolve().stem if path.is_file() else path.resolve().name
    name = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "local"
    if name in NAMED:
        raise UserError(f"{word}: rename it; {name} is the name of a built-in dataset")
    return Dataset(name, "local", path.resolve())


def user_files(data: Dataset) -> Mapping[str, Path]:
    """Find the user's own files that a dataset is made from; raise UserError if one is missing."""
    if data.path is None:
        return {}
    from pipeline.download import local

    return local.files(data.path)
