"""`local`: a folder or zip of your own with the three CSVs, each plain, `.csv.gz` or `.csv.zip`."""

import contextlib
import gzip
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from pipeline.errors import UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")
ENDINGS = ("", ".gz", ".zip")  # of a CSV that is plain, or packed on its own
# The competition's train.csv has 77 MB; whatever unpacks to more than this is something else.
LIMIT = 2_000_000_000  # bytes
ZIP, GZIP = b"PK", b"\x1f\x8b"  # how such files begin
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (EOFError, OSError, ValueError, NotImplementedError, zlib.error, zipfile.BadZipFile)
INSTEAD = "unpack it and give the folder"


def files(path: Path) -> dict[str, Path]:
    """Find the three CSVs: a file under the name of each, or a zip under "archive".

    In a folder without any of them, they may be one folder further down, or in its only zip.

    Raises:
        UserError: one of them is missing, or is in two of these folders.
    """
    if path.is_file():
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path}: not a zip archive; {INSTEAD}")
        return {"archive": path}
    for below in ("", "*/"):
        present = {
            name: [
                f for end in ENDINGS for f in sorted(path.glob(below + name + end)) if f.is_file()
            ]
            for name in NAMES
        }
        if any(present.values()):
            break
    zips = list(path.glob("*.zip"))
    if len(zips) == 1 and not any(present.values()):
        return {"archive": zips[0]}
    for name, found in present.items():
        if not found:
            raise UserError(f"{path}: {name} is missing; {name}.gz and {name}.zip work too")
        if len({candidate.parent for candidate in found}) > 1:
            raise UserError(
                f"{path}: contains {len(found)} files named {name} ({found[0]} and {found[1]}); "
                "give the folder of one"
            )
    return {name: found[0] for name, found in present.items()}


def fetch(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Copy the CSVs that `files` found to `folder`, and check them as preprocess would.

    Raises:
        UserError: a CSV is missing or damaged, or is not a table of digits.
    """
    from pipeline import csvs

    metadata = copy(folder, files)
    try:
        csvs.read_dataset(*(folder / name for name in NAMES))
    except UserError as error:
        message = str(error)
        for name in NAMES:  # the file to fix is the user's own
            path = files.get(name) or files["archive"] / name
            message = message.replace(str(folder / name), str(path))
        raise UserError(f"{message}; fix it there") from error
    return metadata | {"files": {name: str(path) for name, path in files.items()}}


def copy(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Copy the three CSVs to `folder`, unpacked but not yet checked.

    Raises:
        UserError: one is missing, damaged, encrypted, or unpacks to more than LIMIT bytes.
    """
    for name in NAMES:
        _extract(files.get(name) or files["archive"], name, folder / name)
    return {"origin": (files.get("archive") or files["train.csv"].parent).name}


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give a CSV, unpacked to a temporary folder if it is zipped or gzipped.

    Raises:
        UserError: it cannot be unpacked; or what is raised meanwhile, with the user's file named.
    """
    with path.open("rb") as file:
        packed = file.read(2) in (ZIP, GZIP)
    if not packed:
        yield path
        return
    with TemporaryDirectory() as folder:
        csv = Path(folder, f"{path.stem.removesuffix('.csv')}.csv")
        _extract(path, "*.csv", csv)
        try:
            yield csv
        except UserError as error:
            raise UserError(str(error).replace(str(csv), str(path))) from error


def _extract(path: Path, name: str, target: Path) -> None:
    """Copy a CSV out of the user's file."""
    try:
        with path.open("rb") as file, target.open("wb") as copied:
            source = _open(file, path, name)
            while block := source.read(1 << 20):
                if copied.tell() + len(block) > LIMIT:
                    raise UserError(
                        f"{path}: {name} unpacks to more than {LIMIT:,} bytes and cannot be a "
                        "dataset of digits; get it again"
                    )
                copied.write(block)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the archive's
        raise UserError(f"{path}: {name} is damaged ({error}); get it again") from error


def _open(file: IO[bytes], path: Path, name: str, zips: int = 2) -> IO[bytes]:
    """Open a CSV in `file`, which is, or is in, the user's file; a zip may be in a zip."""
    kind = file.read(2)
    file.seek(0)
    if kind == GZIP:
        return cast(IO[bytes], gzip.open(file))
    if kind != ZIP:
        return file
    if not zips:
        raise UserError(f"{path}: too many archives inside one another; {INSTEAD}")
    archive = zipfile.ZipFile(file)
    # To PureWindowsPath, a backslash is a separator too.
    every = [(m, PureWindowsPath(m.filename)) for m in archive.infolist() if not m.is_dir()]
    # Nothing is unpacked to where a member says, but such an archive cannot be trusted.
    for member, place in every:
        if place.anchor or ".." in place.parts:
            raise UserError(
                f"{path}: its member {member.filename[:100]} points outside the folder it is "
                "unpacked to; put the three CSVs into a zip or folder of their own"
            )
    members = [pair for pair in every if not pair[1].name.startswith(".")]
    wanted = [pair for pair in members if any(pair[1].match(name + end) for end in ENDINGS)]
    wanted = wanted or [pair for pair in members if pair[1].name.endswith(".zip")]
    if len(wanted) != 1:
        which = " and ".join(str(place)[:100] for _, place in wanted[:2]) or "none"
        raise UserError(f"{path}: expected one file named {name}, found {which}")
    [(member, _)] = wanted
    faults = {
        f"unpacks to more than {LIMIT:,} bytes": member.file_size > LIMIT,
        "is encrypted": member.flag_bits & 1,
        "is a symbolic link, not a file": stat.S_ISLNK(member.external_attr >> 16),
        # Other unpackers cannot be told where to stop: a few bytes may become gigabytes.
        "uses an unusual compression method": member.compress_type not in METHODS,
    }
    for fault in filter(faults.get, faults):
        raise UserError(f"{path}: {name} {fault}; {INSTEAD}")
    return _open(archive.open(member), path, name, zips - 1)
