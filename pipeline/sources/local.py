"""A folder or a zip of the user's own that holds the three CSVs, plain, gzipped or zipped."""

import gzip
import lzma
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from pipeline.errors import UserError

KNOWS_ANSWERS = False
CODE = ("download.py", "sources/local.py")
NAMES = ("train.csv", "test.csv", "sample_submission.csv")
# The competition's train.csv has 77 MB; what unpacks to more than this is no data set of ours.
LIMIT = 2_000_000_000  # bytes

# What the unpackers of Python's library raise for damaged content.
DAMAGE = (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile)


def files(path: Path) -> dict[str, Path]:
    """The files that hold the three CSVs: by the CSV's name, or a zip as "archive".

    Raises:
        UserError: one of them is missing.
    """
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: this is no zip archive; give a folder or a .zip")
        return {"archive": path}
    found = {}
    for name in NAMES:
        candidates = [path / f"{name}{ending}" for ending in ("", ".gz", ".zip")]
        present = [candidate for candidate in candidates if candidate.is_file()]
        if not present:
            raise UserError(f"{path}: {name} is missing there (also as .csv.gz or .csv.zip)")
        found[name] = present[0]
    return found


def fetch(folder: Path, path: Path | None) -> dict[str, Any]:
    """Copy the three CSVs from `path`, a folder or a zip, into `folder`, unpacked.

    Raises:
        UserError: one is missing, damaged, encrypted, or unpacks to more than LIMIT bytes.
    """
    assert path is not None
    for name in NAMES:
        try:
            with _open(path, name) as source, (folder / name).open("wb") as target:
                while block := source.read(1 << 20):
                    if target.tell() + len(block) > LIMIT:
                        raise _too_large(path, name)
                    target.write(block)
        except (*DAMAGE, OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the archive's
            raise UserError(f"{path}: {name} is damaged ({error}); get it again") from error
        except NotImplementedError as error:
            raise UserError(
                f"{path}: {name} cannot be unpacked ({error}); unpack it and give the folder"
            ) from error
    return {"origin": path.name}


@contextmanager
def _open(path: Path, name: str) -> Iterator[IO[bytes]]:
    source = files(path).get(name, path)
    if source.suffix == ".gz":
        with gzip.open(source) as unpacked:
            yield cast(IO[bytes], unpacked)
    elif source.suffix == ".zip" or path.is_file():
        with zipfile.ZipFile(source) as archive, _member(archive, source, name) as file:
            yield file
    else:
        with source.open("rb") as file:
            yield file


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> IO[bytes]:
    """The one member with this name, whatever folder of the archive it lies in."""
    for member in archive.infolist():
        # Nothing is unpacked to where a member says; but such an archive is none to be trusted.
        if member.filename.startswith("/") or ".." in member.filename.split("/"):
            raise UserError(
                f"{path}: its member {member.filename[:100]} would lie outside of the folder that "
                "it is unpacked to; put the three CSVs into a zip or a folder of their own"
            )
    found = [i for i in archive.infolist() if i.filename.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        raise UserError(f"{path}: holds {len(found)} members named {name}, and has to hold one")
    [member] = found
    instead = "unpack the archive and give the folder"
    if member.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; {instead}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path}: {name} is a link in it and no file; put the file itself there")
    # The unpackers of the others cannot be told where to stop: a few bytes may become gigabytes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} is not compressed by the usual method; {instead}")
    if member.file_size > LIMIT:
        raise _too_large(path, name)
    return archive.open(member)


def _too_large(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: {name} unpacks to more than {LIMIT:,} bytes, and cannot be a data set of digits; "
        "get it again"
    )
