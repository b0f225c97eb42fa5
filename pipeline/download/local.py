"""`local`: a folder or zip of your own with the three CSVs, each plain, `.csv.gz` or `.csv.zip`."""

import contextlib
import gzip
import stat
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from tempfile import TemporaryDirectory
from typing import IO, Any, cast

from pipeline.errors import UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")
ENDINGS = ("", ".gz", ".zip")  # of a CSV that is plain, or packed on its own
RELATIVES = (  # what is in the names of their files
    ("qmnist", "QMNIST: take DATASET=mnist"),
    ("fashion", "Fashion-MNIST: take DATASET=fashion"),
    ("mnist", "MNIST: take DATASET=mnist"),
    ("idx", "MNIST or Fashion-MNIST: take DATASET=mnist or DATASET=fashion"),
)
# The competition's train.csv has 77 MB; whatever unpacks to more than this is something else.
LIMIT = 2_000_000_000  # bytes
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
DAMAGE = (EOFError, OSError, ValueError, zlib.error, zipfile.BadZipFile)
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
        present = {name: _present(path, below + name) for name in NAMES}
        if any(present.values()):
            break
    zips = list(path.glob("*.zip"))
    if len(zips) == 1 and not any(present.values()):
        return {"archive": zips[0]}
    for name, found in present.items():
        if not found:
            hint = _relative([file.name for file in path.glob("*")])
            raise UserError(f"{path}: {name} is missing; {name}.gz and {name}.zip work too{hint}")
        if len({candidate.parent for candidate in found}) > 1:
            raise UserError(
                f"{path}: contains {len(found)} files named {name} ({found[0]} and {found[1]}); "
                "give the folder of one"
            )
    return {name: found[0] for name, found in present.items()}


def _present(path: Path, name: str) -> list[Path]:
    """Return the files that match a name, packed or not."""
    found = (sorted(path.glob(name + ending)) for ending in ENDINGS)
    return [file for files in found for file in files if file.is_file()]


def _relative(names: Sequence[str]) -> str:
    """Say what to do with the files in which MNIST and its relatives are published."""
    known = (what for mark, what in RELATIVES if any(mark in name.lower() for name in names))
    return "".join(f"; these are the files of {what}" for what in list(known)[:1])


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
        for name in NAMES:  # the file to fix is the user's own
            path = files.get(name) or files["archive"]
            own = path if path.name.startswith(name) else path / name
            message = message.replace(str(folder / name), str(own))
        raise UserError(f"{message}; fix it there") from error
    return metadata


def copy(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """Copy the three CSVs to `folder`, unpacked but not yet checked.

    Raises:
        UserError: one is missing, damaged, encrypted, or unpacks to more than LIMIT bytes.
    """
    for name in NAMES:
        path = files.get(name) or files["archive"]
        _extract(path, name, path.name if name in files else ".zip", folder / name)
    return {"origin": (files.get("archive") or files["train.csv"].parent).name}


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Give a CSV, unpacked to a temporary folder if it is zipped or gzipped.

    Raises:
        UserError: a zip does not contain one CSV, or is damaged; or what is raised meanwhile, which
            then names the user's file.
    """
    with path.open("rb") as file:
        packed = {b"PK": ".zip", b"\x1f\x8b": ".gz"}.get(file.read(2))
    if packed is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        csv = Path(folder, f"{path.stem.removesuffix('.csv')}.csv")
        _extract(path, "*.csv", packed, csv)
        try:
            yield csv
        except UserError as error:
            raise UserError(str(error).replace(str(csv), str(path))) from error


def _extract(path: Path, name: str, packed: str, target: Path) -> None:
    """Copy a CSV out of the user's file, which is packed as the ending of `packed` says."""
    try:
        with path.open("rb") as file, target.open("wb") as copied:
            source = _open(file, path, name, packed)
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
    except NotImplementedError as error:
        raise UserError(f"{path}: {name} cannot be unpacked ({error}); {INSTEAD}") from error


def _open(file: IO[bytes], path: Path, name: str, packed: str, zips: int = 2) -> IO[bytes]:
    """Open a CSV in a file that may be packed; a zip may be in a zip, whatever its folders.

    Args:
        file: the open file.
        path: of the user's file that it is, or is in.
        name: of the CSV, or a pattern.
        packed: name of the file, whose ending says how it is packed.
        zips: how many zips may be inside one another.
    """
    if packed.endswith(".gz"):
        return cast(IO[bytes], gzip.open(file))
    if not packed.endswith(".zip"):
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
        hint = _relative([place.name for _, place in members])
        raise UserError(f"{path}: expected one file named {name}, found {which}{hint}")
    [(member, place)] = wanted
    faults = {
        f"unpacks to more than {LIMIT:,} bytes": member.file_size > LIMIT,
        "is encrypted": member.flag_bits & 1,
        "is a symbolic link, not a file": stat.S_ISLNK(member.external_attr >> 16),
        # Other unpackers cannot be told where to stop: a few bytes may become gigabytes.
        "uses an unusual compression method": member.compress_type not in METHODS,
    }
    for fault in filter(faults.get, faults):
        raise UserError(f"{path}: {name} {fault}; {INSTEAD}")
    return _open(archive.open(member), path, name, place.name, zips - 1)
