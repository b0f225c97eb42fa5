"""`kaggle`: the competition's own files, downloaded with the official client."""

import shutil
import zipfile
from pathlib import Path
from typing import Any

from pipeline import kaggle_client
from pipeline.kaggle_client import CallError
from pipeline.sources import local

KNOWS_ANSWERS = False
CODE = ("download.py", "sources/kaggle.py", "sources/local.py")
# Where the files lie inside a Kaggle notebook that the competition was added to.
NOTEBOOK = (
    Path("/kaggle/input/digit-recognizer"),
    Path("/kaggle/input/competitions/digit-recognizer"),
)


def fetch(folder: Path, path: Path | None) -> dict[str, Any]:
    """Leave the competition's CSVs in `folder`: copied inside a Kaggle notebook, else downloaded.

    Raises:
        UserError: there are no credentials.
        OutsideError: the service refuses, or did not deliver a sound archive in several tries.
    """
    for place in NOTEBOOK:
        if place.is_dir():
            return local.fetch(folder, place)
    archive = kaggle_client.patiently("the download", lambda: _sound_archive(folder / "archive"))
    facts = local.fetch(folder, archive)
    shutil.rmtree(archive.parent)
    return facts


def _sound_archive(folder: Path) -> Path:
    """One try: download the archive into `folder` and check it; a part that is no use is removed.

    Raises:
        CallError: the try failed, or what came is damaged.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    folder.mkdir(exist_ok=True)
    archive = folder / f"{kaggle_client.COMPETITION}.zip"
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
            kaggle_client.download(
                folder, lambda size, whole: bar.update(task, completed=size, total=whole)
            )
            _check(archive)
        except BaseException as error:
            # A stall leaves the beginning of the archive, which the next try goes on with. After
            # anything else the client may go on with an error page, or skip a corrupt file.
            if not (isinstance(error, CallError) and error.stalled and _begins_well(archive)):
                shutil.rmtree(folder)
            raise
    print(f"downloaded {archive.stat().st_size:,} bytes")
    return archive


def _begins_well(archive: Path) -> bool:
    if not archive.exists():
        return False
    with archive.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _check(archive: Path) -> None:
    """Every member's checksum, the names, the headers, and that the numbers of rows agree."""
    try:
        with zipfile.ZipFile(archive) as opened:
            damaged = opened.testzip()
            names = {name.rsplit("/", 1)[-1]: name for name in opened.namelist()}
            if damaged:
                raise CallError(f"{damaged} came damaged")
            if missing := [name for name in local.NAMES if name not in names]:
                raise CallError(f"{missing[0]} is not in what came")
            contents = {name: opened.read(names[name]) for name in local.NAMES}
    except (*local.DAMAGE, NotImplementedError) as error:
        raise CallError("what came is not a whole zip archive") from error
    headers = {"train.csv": b"label,pixel0,", "test.csv": b"pixel0,pixel1,"}
    for name, header in {**headers, "sample_submission.csv": b"ImageId,Label"}.items():
        if not contents[name].startswith(header):
            raise CallError(f"{name} came without its header")
    rows = {
        name: content.count(b"\n") - content.endswith(b"\n") for name, content in contents.items()
    }
    if rows["train.csv"] < 1 or not rows["test.csv"] == rows["sample_submission.csv"] > 0:
        raise CallError(
            f"the numbers of rows do not agree: {rows['train.csv']:,} to train on, "
            f"{rows['test.csv']:,} to test on, {rows['sample_submission.csv']:,} to submit"
        )
