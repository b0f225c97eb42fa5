"""submissions/ledger.csv: every submission sent to the competition, and its score."""

import contextlib
import csv
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pipeline import files
from pipeline.errors import UserError


@dataclass(frozen=True)
class Entry:
    """One submission; all strings, as in the file, and empty where not known yet."""

    submitted_at: str = ""  # UTC, ISO 8601
    file: str = ""  # the CSV's name; it is in the ledger's folder
    sha256: str = ""
    dataset: str = ""
    preset: str = ""
    message: str = ""
    oof_accuracy: str = ""
    oof_standard_error: str = ""
    ref: str = ""
    status: str = ""
    public_score: str = ""


COLUMNS = list(asdict(Entry()))


def read(path: Path) -> list[Entry]:
    """Read all entries, oldest first; none if there is no ledger yet. Raises UserError."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    if reader.fieldnames != COLUMNS or any(None in (*row, *row.values()) for row in rows):
        raise UserError(f"{path}: its columns must be {','.join(COLUMNS)}; fix it or move it away")
    return [Entry(**row) for row in rows]


def write(path: Path, entries: list[Entry]) -> None:
    """Replace the ledger, atomically; the caller holds its lock."""
    with files.atomic(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in entries)


def record_score(path: Path, ref: str, status: str, public_score: str) -> None:
    """Record the status and score of a submission."""
    with locked(path):
        found = {"status": status, "public_score": public_score}
        write(path, [replace(e, **found) if e.ref == ref else e for e in read(path)])


def locked(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold the ledger's lock (see `files.locked`)."""
    return files.locked(path.with_name(f".{path.name}.lock"), path.name)
