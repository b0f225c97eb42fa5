"""Stage 1: fetch the three CSVs, from whatever source, into data/<dataset>/raw/.

Each source is a module of this folder with `fetch(folder, files)`, which writes train.csv, test.csv
and sample_submission.csv to `folder` (and solution.csv, `ImageId,Label`, where the labels of the
test set are public) and returns metadata for the manifest.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def download(
    files: Mapping[str, Path],
    train: Path,
    test: Path,
    sample_submission: Path,
    source: str,
    module: ModuleType,
    solution: Path | None = None,
) -> dict[str, Any]:
    """Write the CSVs of a source.

    Args:
        files: the user's own files, for the source "local" (see `local.files`).
        train: train.csv, to be written, like its neighbours below.
        test: test.csv, in the same folder.
        sample_submission: sample_submission.csv, in the same folder.
        source: a key of `datasets.SOURCES`.
        module: the source's module, one of this folder.
        solution: solution.csv, if the labels of the test set are public.

    Returns:
        Metadata: where the files came from.

    Raises:
        UserError: the files cannot be used, or credentials are missing.
        ExternalError: the network or the service failed.
    """
    metadata: dict[str, Any] = module.fetch(train.parent, files)
    return {"source": source, **metadata}
