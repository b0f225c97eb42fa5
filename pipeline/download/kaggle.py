"""`kaggle`: the competition's own files, downloaded with the official client."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import csvs
from pipeline.download import local
from pipeline.errors import UserError
from pipeline.kaggle import COMPETITION, client, inside
from pipeline.kaggle.client import CallError


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Put the competition's CSVs in `folder`: copied inside a Kaggle notebook, else downloaded.

    Raises UserError if a notebook has not attached the competition, and what `with_retries` does.
    """
    if attached := inside.competition():
        return local.copy(folder, local.files(attached))
    if inside.notebook():
        raise UserError(inside.ATTACH)
    return client.with_retries("the download", lambda: _attempt(folder))


def _attempt(folder: Path) -> dict[str, Any]:
    """Download the archive, unpack it to `folder` and check the CSVs; once, or raise CallError."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    archive = folder / "archive" / f"{COMPETITION}.zip"
    archive.parent.mkdir(exist_ok=True)
    columns = "downloading", BarColumn(), DownloadColumn(), TransferSpeedColumn()
    resumable = False
    try:
        with Progress(*columns, transient=True) as bar:  # shows nothing where there is no terminal
            task = bar.add_task("", total=None)
            client.download(archive.parent, lambda size: bar.update(task, completed=size))
        print(f"downloaded {archive.stat().st_size:,} bytes")
        return _unpack(archive, folder)
    except CallError as error:
        # After a stall, the next attempt resumes the archive. After anything else, the client
        # might resume an error page, or skip a corrupt file.
        resumable = (
            error.stalled and archive.exists() and archive.read_bytes().startswith(b"PK\x03\x04")
        )
        raise
    finally:
        if not resumable:
            shutil.rmtree(archive.parent)


def _unpack(archive: Path, folder: Path) -> dict[str, Any]:
    """Unpack and check as for `local`, except that a fault is worth another attempt."""
    try:
        metadata = local.copy(folder, local.files(archive))
        csvs.read_dataset(*(folder / name for name in local.NAMES))
    except UserError as error:
        raise CallError(str(error).replace(f"{folder}/", "")) from error
    return metadata
