"""The datasets and their sources: what `DATASET=` names, before anything is downloaded.

Standard library only: every command imports this module.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import nearest
from pipeline.errors import UserError
from pipeline.files import read_json


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
    path: Path | None = None  # the folder or zip of the source "local", if that was given
    files: Mapping[str, Path] = field(default_factory=dict)  # in place of a path: its files

    @property
    def labels_public(self) -> bool:
        """Whether the labels of its test set are known."""
        return SOURCES[self.source].labels_public


def dataset(word: str, root: Path) -> Dataset:
    """Find the dataset that `DATASET=word` names; raise UserError if there is none.

        dataset("sample", root), dataset("~/Downloads/digit-recognizer.zip", root)

    What was once made from a folder or zip has a name, too: that of its folder in root/data.
    """
    if word in NAMED:
        return Dataset(word, word)
    path = Path(word).expanduser()
    if not word.strip() or not path.exists():
        made = _made(root)
        if word in made:
            return made[word]
        names = [*NAMED, *made]
        known = ", ".join(names)
        if not word.strip():
            raise UserError(f"--dataset must not be empty; choose from {known}, or a path")
        raise UserError(
            f"there is no dataset {word!r}{nearest(word, names)} (choose from {known}, or "
            "give the path of a folder or zip with train.csv, test.csv and sample_submission.csv)"
        )
    stem = path.resolve().stem if path.is_file() else path.resolve().name
    name = re.sub(r"[^A-Za-z0-9_]+", "-", stem).strip("-") or "local"
    if name in NAMED:
        raise UserError(f"{word}: rename it; {name} is the name of a built-in dataset")
    return Dataset(name, "local", path.resolve())


def _made(root: Path) -> dict[str, Dataset]:
    """Find the datasets that were made from the user's own files, which may be gone, by name."""
    found = {}
    for manifest in sorted((root / "data").glob("*/raw/manifest.json")):
        files = (read_json(manifest) or {}).get("metadata", {}).get("files")
        if files:
            name = manifest.parents[1].name
            paths = {file: Path(path) for file, path in files.items()}
            found[name] = Dataset(name, "local", files=paths)
    return found


def user_files(data: Dataset) -> Mapping[str, Path]:
    """Find the user's own files that a dataset is made from; raise UserError if one is missing."""
    if data.path is None:
        return data.files
    from pipeline.download import local

    return local.files(data.path)
