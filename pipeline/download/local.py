"""`local`: a folder or zip of your own with the three CSVs, plain, gzipped or zipped."""

import gzip
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from pipeline.errors import UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")
# The competition's train.csv has 77 MB; whatever unpacks to more than this is something else.
LIMIT = 2_000_000_000  # bytes


def files(path: Path) -> dict[str, Path]:
    """Find the three CSVs: a file under the name of each, or a zip under "archive".

    Raises:
        UserError: one of them is missing.
    """
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: this is not a zip archive; give a folder or a .zip")
        return {"archive": path}
    found = {}
    for name in NAMES:
        candidates = [path / f"{name}{ending}" for ending in ("", ".gz", ".zip")]
        present = [candidate for candidate in candidates if candidate.is_file()]
        if not present:
            raise UserError(f"{path}: {name} is missing; {name}.gz and {name}.zip work too")
        found[name] = present[0]
    return found


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Copy the three CSVs to `folder`, unpacked, and check them as preprocess would.

    The check comes before they replace those of an earlier run.

    Args:
        folder: an existing folder.
        files: what `files` found.

    Raises:
        UserError: a CSV is missing or damaged, or is not a table of digits.
    """
    from pipeline import csvs

    metadata = copy(folder, files)
    try:
        csvs.check_dataset(*(folder / name for name in NAMES))
    except UserError as error:
        message = str(error)
        for name, path in _sources(files).items():  # the file to fix is the user's own
            own = path if path.name.startswith(name) else path / name
            message = message.replace(str(folder / name), str(own))
        raise UserError(f"{message}; fix it there") from error
    return metadata


def copy(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Copy the three CSVs to `folder`, unpacked but not yet checked.

    Raises:
        UserError: one is missing, damaged, encrypted, or unpacks to more than LIMIT bytes.
    """
    for name, path in _sources(files).items():
        try:
            with _open(path, name) as source, (folder / name).open("wb") as target:
                while block := source.read(1 << 20):
                    if target.tell() + len(block) > LIMIT:
                        raise _too_large(path, name)
                    target.write(block)
        except (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault, not the archive's
            raise UserError(f"{path}: {name} is damaged ({error}); get it again") from error
        except NotImplementedError as error:
            raise UserError(
                f"{path}: {name} cannot be unpacked ({error}); unpack it and give the folder"
            ) from error
    origin = files.get("archive") or files["train.csv"].parent
    return {"origin": origin.name}


def _sources(files: Mapping[str, Path]) -> dict[str, Path]:
    """The file that each CSV is in."""
    return {name: files.get(name) or files["archive"] for name in NAMES}


def _open(path: Path, name: str) -> IO[bytes]:
    if path.name == name:
        return path.open("rb")
    if path.suffix == ".gz":
        return cast(IO[bytes], gzip.open(path))
    with zipfile.ZipFile(path) as archive:  # the file stays open as long as its member
        return archive.open(_member(archive, path, name))


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> zipfile.ZipInfo:
    """The only member with this name, whatever folder of the archive it is in."""
    members = archive.infolist()
    for member in members:
        # Nothing is unpacked to where a member says, but such an archive cannot be trusted.
        if member.filename.startswith("/") or ".." in member.filename.split("/"):
            raise UserError(
                f"{path}: its member {member.filename[:100]} points outside the folder it is "
                "unpacked to; put the three CSVs into a zip or folder of their own"
            )
    found = [member for member in members if member.filename.rsplit("/", 1)[-1] == name]
    if len(found) != 1:
        raise UserError(f"{path}: contains {len(found)} files named {name}; expected one")
    [member] = found
    instead = "unpack the archive and give the folder"
    if member.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; {instead}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise UserError(f"{path}: {name} is a symbolic link, not a file; put the file itself there")
    # Other unpackers cannot be told where to stop: a few bytes may become gigabytes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} uses an unusual compression method; {instead}")
    if member.file_size > LIMIT:
        raise _too_large(path, name)
    return member


def _too_large(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: {name} unpacks to more than {LIMIT:,} bytes and cannot be a dataset of digits; "
        "get it again"
    )
