"""`local`: a folder, zip or tar of your own with the three CSVs, however they are packed."""

import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import IO, Any, cast

from pipeline.errors import UserError

NAMES = ("train.csv", "test.csv", "sample_submission.csv")
ENDINGS = ("", ".gz", ".zip")  # of a CSV that is plain, or packed on its own
TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
RELATIVES = (  # what is in the names of their files
    ("qmnist", "QMNIST: take DATASET=mnist"),
    ("fashion", "Fashion-MNIST: take DATASET=fashion"),
    ("mnist", "MNIST: take DATASET=mnist"),
    ("idx", "MNIST or Fashion-MNIST: take DATASET=mnist or DATASET=fashion"),
)
LEVELS = 3  # how many folders or archives may be inside one another
# The competition's train.csv has 77 MB; whatever unpacks to more than this is something else.
LIMIT = 2_000_000_000  # bytes
DAMAGE = (
    *(EOFError, OSError, ValueError),
    *(zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
)


def files(path: Path) -> dict[str, Path]:
    """Find the three CSVs: a file under the name of each, or an archive under "archive".

    In a folder without any of them, they may be in folders below it, or in its only archive.

    Raises:
        UserError: one of them is missing, or is in two of these folders.
    """
    if path.is_file():
        if not zipfile.is_zipfile(path) and not tarfile.is_tarfile(path):
            raise UserError(f"{path}: this is no zip or tar archive; give one, or a folder")
        return {"archive": path}
    for level in range(LEVELS):
        present = {name: _present(path, "*/" * level, name) for name in NAMES}
        if any(present.values()):
            break
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    archives = [name for name in names if name.endswith((".zip", *TARS))]
    if len(archives) == 1 and not any(present.values()):
        return files(path / archives[0])
    for name, candidates in present.items():
        if not candidates:
            raise UserError(
                f"{path}: {name} is missing; {name}.gz and {name}.zip work too{_relative(names)}"
            )
        if len({candidate.parent for candidate in candidates}) > 1:
            raise UserError(
                f"{path}: contains {len(candidates)} files named {name} ({candidates[0]} and "
                f"{candidates[1]}); give the folder of one"
            )
    return {name: candidates[0] for name, candidates in present.items()}


def _present(path: Path, below: str, name: str) -> list[Path]:
    found = (sorted(path.glob(below + packed)) for packed in _packings(name))
    return [file for files in found for file in files if file.is_file()]


def _relative(names: Sequence[str]) -> str:
    """What to do with the files in which MNIST and its relatives are published."""
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
            with path.open("rb") as file, (folder / name).open("wb") as target:
                packed = path.name if "archive" not in files else _packed(path)
                source = _unpacked(file, path, name, packed)
                while block := source.read(1 << 20):
                    if target.tell() + len(block) > LIMIT:
                        raise _too_large(path, name)
                    target.write(block)
        except DAMAGE as error:
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


def _packed(path: Path) -> str:
    """The name of an archive, with the ending that it should have."""
    # A tar that ends with a zip is taken for a zip by is_zipfile.
    return f"{path.name}.tar" if tarfile.is_tarfile(path) else f"{path.name}.zip"


def _unpacked(
    file: IO[bytes], path: Path, name: str, packed: str, levels: int = LEVELS
) -> IO[bytes]:
    """A CSV, read from a file that may be an archive.

    Args:
        file: the open file.
        path: of the user's file that it is, or is in.
        name: of the CSV.
        packed: name of the file, whose ending says how it is packed.
        levels: how many archives may be inside one another.
    """
    if packed == name:
        return file
    if packed == f"{name}.gz":
        return cast(IO[bytes], gzip.open(file))
    if not levels:
        raise UserError(f"{path}: too many archives inside one another; unpack it")
    member: Any
    if packed.endswith(TARS):
        tar = tarfile.open(fileobj=file)  # noqa: SIM115
        member, inside = _choose(path, name, [(m, m.name) for m in _tar_members(tar, path, name)])
        if not member.isfile():
            raise _link(path, name)
        source = tar.extractfile(member)
    else:
        archive = zipfile.ZipFile(file)
        files = [(m, m.filename) for m in archive.infolist() if not m.is_dir()]
        member, inside = _choose(path, name, files)
        _check(path, name, member)
        source = archive.open(member)
    return _unpacked(cast(IO[bytes], source), path, name, inside, levels - 1)


def _tar_members(archive: tarfile.TarFile, path: Path, name: str) -> Iterator[tarfile.TarInfo]:
    for member in archive:  # each is unpacked to find the next
        if member.offset_data + member.size > LIMIT:
            raise _too_large(path, name)
        if not member.isdir():
            yield member


def _choose(path: Path, name: str, members: Sequence[tuple[Any, str]]) -> tuple[Any, str]:
    """The only member with a CSV, whatever folder of the archive it is in, and its own name.

    Where there is none of the three CSVs, it is the only archive inside this one.

    Args:
        path: of the archive.
        name: of the CSV.
        members: each with its name.
    """
    found = []
    for member, inside in members:
        place = PureWindowsPath(inside)  # to which a backslash is a separator too
        # Nothing is unpacked to where a member says, but such an archive cannot be trusted.
        if place.anchor or ".." in place.parts:
            raise UserError(
                f"{path}: its member {inside[:100]} points outside the folder it is "
                "unpacked to; put the three CSVs into a zip or folder of their own"
            )
        found.append((member, place))
    wanted = [pair for pair in found if pair[1].name in _packings(name)]
    known = [packed for each in NAMES for packed in _packings(each)]
    if not any(place.name in known for _, place in found):
        archives = [pair for pair in found if pair[1].name.endswith((".zip", *TARS))]
        wanted = [pair for pair in archives if not pair[1].name.startswith(".")]
    if len(wanted) != 1:
        which = ", ".join(str(place)[:100] for _, place in wanted[:2])
        raise UserError(
            f"{path}: contains {len(wanted)} files named {name}{which and f' ({which})'}; "
            f"expected one{_relative([place.name for _, place in found])}"
        )
    [(member, place)] = wanted
    return member, place.name


def _packings(name: str) -> list[str]:
    return [name + ending for ending in ENDINGS]


def _check(path: Path, name: str, member: zipfile.ZipInfo) -> None:
    """Raise UserError if a member of a zip is not a file, or cannot be read safely."""
    instead = "unpack the archive and give the folder"
    if member.flag_bits & 1:
        raise UserError(f"{path}: {name} is encrypted; {instead}")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise _link(path, name)
    # Other unpackers cannot be told where to stop: a few bytes may become gigabytes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{path}: {name} uses an unusual compression method; {instead}")
    if member.file_size > LIMIT:
        raise _too_large(path, name)


def _link(path: Path, name: str) -> UserError:
    return UserError(f"{path}: {name} is a symbolic link, not a file; put the file itself there")


def _too_large(path: Path, name: str) -> UserError:
    return UserError(
        f"{path}: {name} unpacks to more than {LIMIT:,} bytes and cannot be a dataset of digits; "
        "get it again"
    )
