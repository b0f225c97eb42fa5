"""Stage 1: fetch the three CSVs, from whatever source, into data/<dataset>/raw/.

Each source is a module of this folder with `fetch(folder, files)`, which writes train.csv, test.csv
and sample_submission.csv to `folder` (and solution.csv, `ImageId,Label`, where the labels of the
test set are public) and returns metadata for the manifest. Nothing is imported here before it is
used: every command imports this module.
"""

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError


@dataclass(frozen=True)
class Source:
    """What the rest of the pipeline needs to know about a source."""

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
    """The dataset that `DATASET=word` names.

    Args:
        word: the name of a source, or the path of a folder or zip.

    Raises:
        UserError: it is neither.
    """
    if word in NAMED:
        return Dataset(word, word)
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
    """The user's own files that a dataset is made from; raises UserError if one is missing."""
    if data.path is None:
        return {}
    from pipeline.download import local

    return local.files(data.path)


def download(
    files: Mapping[str, Path],
    train: Path,
    test: Path,
    sample_submission: Path,
    source: str,
    solution: Path | None = None,
) -> dict[str, Any]:
    """Write the CSVs of a source.

    Args:
        files: the user's own files, for the source "local" (see `local.files`).
        train: train.csv, to be written, like its neighbours below.
        test: test.csv, in the same folder.
        sample_submission: sample_submission.csv, in the same folder.
        source: a key of SOURCES.
        solution: solution.csv, in the same folder, if the labels of the test set are public.

    Returns:
        Metadata: where the files came from.

    Raises:
        UserError: the files cannot be used, or credentials are missing.
        ExternalError: the network or the service failed.
    """
    from pipeline import csvs

    for path in (train, test, sample_submission):
        earlier = path.parents[1] / path.name  # path itself is in the staging folder
        if earlier.exists() and (fault := csvs.fault(earlier)):
            print(f"{fault}; fetching it again", flush=True)
    module = importlib.import_module(f"pipeline.download.{source}")
    metadata: dict[str, Any] = module.fetch(train.parent, files)
    return {"source": source, **metadata}
