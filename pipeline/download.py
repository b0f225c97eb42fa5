"""Stage 1: bring the three CSVs, from whatever source, to data/<dataset>/raw/."""

from pathlib import Path
from typing import Any

from pipeline.sources import SOURCES


def download(folder: Path, source: str, path: Path | None = None) -> dict[str, Any]:
    """Leave train.csv, test.csv and sample_submission.csv in `folder`.

    Args:
        folder: an existing folder.
        source: a key of `sources.SOURCES`.
        path: the folder or zip to read, for the source "local".

    Returns:
        Facts for the manifest: the source, and where it found the files.

    Raises:
        UserError: what was found cannot be used, or credentials are missing.
        OutsideError: the network or the service failed.
    """
    facts: dict[str, Any] = SOURCES[source].fetch(folder, path)
    return {"source": source, **facts}
