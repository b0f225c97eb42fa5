"""`kaggle`: the competition's own files, downloaded with the official client."""

import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.download import local
from pipeline.kaggle import client
from pipeline.kaggle.client import CallError

# Where the files are inside a Kaggle notebook that has the competition as input.
NOTEBOOK = (
    Path("/kaggle/input/digit-recognizer"),
    Path("/kaggle/input/competitions/digit-recognizer"),
)


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Put the competition's CSVs in `folder`: copied inside a Kaggle notebook, else downloaded.

    Raises:
        UserError: there are no credentials.
        ExternalError: the service refuses, or delivered no intact archive in several attempts.
    """
    for place in NOTEBOOK:
        if place.is_dir():
            return local.copy(folder, local.files(place))
    archive = client.with_retries("the download", lambda: _intact_archive(folder / "archive"))
    metadata = local.copy(folder, local.files(archive))
    shutil.rmtree(archive.parent)
    return metadata


def _intact_archive(folder: Path) -> Path:
    """One attempt: download the archive to `folder` and check it; remove what is of no use.

    Raises:
        CallError: the attempt failed, or the archive is damaged.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    folder.mkdir(exist_ok=True)
    archive = folder / f"{client.COMPETITION}.zip"
    console = Console()
    bar = Progress(
        TextColumn("downloading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )
    with bar:
        task = bar.add_task("", total=None)
        try:
            client.download(
                folder, lambda size, whole: bar.update(task, completed=size, total=whole)
            )
            _check(archive)
        except BaseException as error:
            # After a stall, the next attempt resumes the archive. After anything else, the client
            # might resume an error page, or skip a corrupt file.
            if not (isinstance(error, CallError) and error.stalled and _looks_like_a_zip(archive)):
                shutil.rmtree(folder)
            raise
    print(f"downloaded {archive.stat().st_size:,} bytes")
    return archive


def _looks_like_a_zip(archive: Path) -> bool:
    if not archive.exists():
        return False
    with archive.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check(archive: Path) -> None:
    """Check every member's checksum, the names, the headers and the numbers of rows."""
    try:
        with zipfile.ZipFile(archive) as opened:
            damaged = opened.testzip()
            names = {name.rsplit("/", 1)[-1]: name for name in opened.namelist()}
            if damaged:
                raise CallError(f"{damaged} arrived damaged")
            if missing := [name for name in local.NAMES if name not in names]:
                raise CallError(f"{missing[0]} is not in the archive")
            contents = {name: opened.read(names[name]) for name in local.NAMES}
    except (*local.DAMAGE, NotImplementedError) as error:
        raise CallError("what arrived is not a complete zip archive") from error
    headers = {"train.csv": b"label,pixel0,", "test.csv": b"pixel0,pixel1,"}
    for name, header in {**headers, "sample_submission.csv": b"ImageId,Label"}.items():
        if not contents[name].startswith(header):
            raise CallError(f"{name} arrived without its header")
    rows = {
        name: content.count(b"\n") - content.endswith(b"\n") for name, content in contents.items()
    }
    if rows["train.csv"] < 1 or not rows["test.csv"] == rows["sample_submission.csv"] > 0:
        raise CallError(
            f"the numbers of rows do not match: {rows['train.csv']:,} to train on, "
            f"{rows['test.csv']:,} to test on, {rows['sample_submission.csv']:,} to submit"
        )
