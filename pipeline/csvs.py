"""The competition's CSVs, read with every check and with errors that name the line and column."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

CLASSES = 10
PIXELS = tuple(f"pixel{i}" for i in range(784))
BOM = b"\xef\xbb\xbf"
PIECE = 1 << 25  # bytes that are parsed at a time


def read_images(path: Path, labelled: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read train.csv (labelled) or test.csv.

    Returns:
        images, uint8 (n, 28, 28, 1), and labels, uint8 (n,), or None where there are none.

    Raises:
        UserError: header, a row or a value is wrong; the message names file, line and column.
    """
    columns = ("label", *PIXELS) if labelled else PIXELS
    highest = (CLASSES - 1, *[255] * 784) if labelled else (255,) * 784
    table = _read_numbers(path, columns, highest, np.uint8)
    images = np.ascontiguousarray(table[:, -784:]).reshape(-1, 28, 28, 1)
    return images, table[:, 0].copy() if labelled else None


def read_labels(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read a submission, a sample submission or a solution: columns ImageId and Label.

    Returns:
        ids and labels, both int64 (n,).

    Raises:
        UserError: header, a row or a value is wrong; the message names file, line and column.
    """
    highest = (2**53, CLASSES - 1)
    table = _read_numbers(path, ("ImageId", "Label"), highest, np.int64)
    return table[:, 0], table[:, 1]


def check_submission(path: Path, sample: Path) -> int:
    """Check that the competition will take a CSV; returns its number of rows.

    Args:
        path: the CSV to check.
        sample: sample_submission.csv.

    Raises:
        UserError: header, line ends, ids, their order, or a label are not as they have to be;
            the message says where.
    """
    ids, _ = read_labels(path)
    wanted, _ = read_labels(sample)
    if len(ids) != len(wanted):
        raise UserError(f"{path}: {len(ids):,} rows where {sample} has {len(wanted):,}")
    wrong = np.flatnonzero(ids != wanted)
    if len(wrong):
        first = wrong[0]
        raise UserError(
            f"{path}, line {first + 2}, column ImageId: {ids[first]} where {wanted[first]} "
            "should stand, as in the sample submission"
        )
    header, end = first_line(sample)
    content = path.read_bytes()
    if not content.startswith(header + end):
        raise UserError(f"{path}, line 1: not byte for byte the first line of {sample}")
    lines = content.split(end)
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise UserError(f"{path}: its lines do not end as those of {sample} do")
    if len(lines) != len(ids) + 2 or lines[-1]:
        raise UserError(f"{path}: there are empty lines in it, or its last line has no end")
    return len(ids)


def first_line(path: Path) -> tuple[bytes, bytes]:
    """A CSV's header, and what ends its lines: LF or CR LF."""
    with path.open("rb") as file:
        line = file.readline().removeprefix(BOM)
    end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return line.removesuffix(end), end


def fault(path: Path) -> str | None:
    """What is wrong with one of the competition's files, as its reader says it; None if nothing."""
    try:
        if path.name in ("train.csv", "test.csv"):
            read_images(path, labelled=path.name == "train.csv")
        else:
            read_labels(path)
    except UserError as error:
        return str(error)
    return None


def _read_numbers(
    path: Path, columns: Sequence[str], highest: Sequence[int], dtype: type[Any]
) -> NDArray[Any]:
    """A table of whole numbers from 0 up to `highest` of each column.

    Pandas' C parser does the work. It is lenient (3.0, 1e2 and rows that are all too long pass),
    so two counts over the bytes stand beside it: no byte but digits, commas and line ends, and
    exactly the commas that such a table has. Only when something is wrong are the rows gone
    through one by one, to say where.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    with file:
        header = file.readline().removeprefix(BOM)
        _check_header(path, header.removesuffix(b"\n"), columns)
        tables = [np.empty((0, len(columns)), dtype)]
        # In pieces of whole lines, so that a large file need not fit into memory as text.
        while piece := file.read(PIECE):
            piece += file.readline()
            if not piece.strip(b"\r\n"):
                continue
            table = _parsed(piece, columns, highest, dtype)
            if table is None:
                raise _first_fault(path, columns, highest)
            tables.append(table)
    return np.concatenate(tables)


def _parsed(
    piece: bytes, columns: Sequence[str], highest: Sequence[int], dtype: type[Any]
) -> NDArray[Any] | None:
    """Some lines as a table; None if anything is wrong with them."""
    import pandas as pd

    if piece.translate(None, b"0123456789,\r\n"):
        return None
    try:
        table = pd.read_csv(io.BytesIO(piece), header=None, names=range(len(columns)), dtype=dtype)
        values: NDArray[Any] = table.to_numpy()
        even = piece.count(b",") == len(values) * (len(columns) - 1)
        within = bool((values.max(axis=0, initial=0) <= np.array(highest)).all())
    except (ValueError, OverflowError):  # the parser's own errors are ValueErrors too
        return None
    return values if even and within else None


def _check_header(path: Path, header: bytes, columns: Sequence[str]) -> None:
    if header.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in header:
        raise UserError(f"{path}: this is UTF-16 or no text at all; save it as UTF-8")
    text = header.decode("utf-8", "replace").rstrip("\r")
    try:
        found = next(csv.reader([text]), [])
    except csv.Error:  # an absurd length, or old Macintosh line ends
        found = [text]
    if found == list(columns):
        return
    missing = [name for name in columns if name not in found]
    extra = [name for name in found if name not in columns]
    twice = sorted({name for name in found if found.count(name) > 1})
    if len(missing) == len(columns):
        fault = f"the first line should begin with {','.join(columns[:3])} and is {text[:60]!r}"
    elif missing or extra or twice:
        faults = (("missing", missing), ("unknown", extra), ("there twice", twice))
        fault = "; ".join(f"column {_few(names)} {is_}" for is_, names in faults if names)
    else:
        place = next(i for i, name in enumerate(columns) if found[i] != name)
        fault = f"column {found[place]} stands where {columns[place]} should"
    raise UserError(f"{path}, line 1: {fault}")


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _first_fault(path: Path, columns: Sequence[str], highest: Sequence[int]) -> UserError:
    """The first thing that is wrong in a table that did not pass, row by row."""
    _, _, body = path.read_bytes().partition(b"\n")
    for line, raw in enumerate(body.splitlines(), start=2):
        if not raw:
            continue
        cells = raw.decode("utf-8", "replace").split(",")
        for column, cell, high in zip(columns, cells, highest, strict=False):
            if not (cell.isascii() and cell.isdigit() and int(cell.lstrip("0")[:20] or 0) <= high):
                wrong = f"{cell[:20]!r} is not" if cell.strip() else "empty, and should be"
                place = f"{path}, line {line}, column {column}"
                return UserError(f"{place}: {wrong} a whole number from 0 to {high}")
        if len(cells) != len(columns):
            return UserError(
                f"{path}, line {line}: {len(cells)} values where there should be {len(columns)}"
            )
    return UserError(f"{path}: cannot be read as a table of {len(columns)} columns of numbers")
