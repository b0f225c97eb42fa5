"""The competition's CSVs, read with every check and with errors that name the line and column."""

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

CLASSES = 10
PIXELS = tuple(f"pixel{i}" for i in range(784))
BOM = b"\xef\xbb\xbf"
PIECE = 1 << 25  # bytes that are parsed at a time
LINE = 1 << 16  # bytes that the longest line may have; the competition's have less than 4,000
# Of each kind of table: the columns, the highest value in each, and the type that holds them.
TRAIN = (("label", *PIXELS), (CLASSES - 1, *[255] * 784), np.uint8)
TEST = (PIXELS, (255,) * 784, np.uint8)
LABELS = (("ImageId", "Label"), (2**53, CLASSES - 1), np.int64)


def read_images(path: Path, labelled: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Read train.csv (labelled) or test.csv.

    Returns:
        images, uint8 (n, 28, 28, 1), and labels, uint8 (n,), or None where there are none.

    Raises:
        UserError: header, a row or a value is wrong; the message names file, line and column.
    """
    table = _read_numbers(path, *(TRAIN if labelled else TEST))
    images = np.ascontiguousarray(table[:, -784:]).reshape(-1, 28, 28, 1)
    return images, table[:, 0].copy() if labelled else None


def read_labels(path: Path, quoted: bool = False) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read a submission, a sample submission or a solution: columns ImageId and Label.

    Args:
        path: of the CSV.
        quoted: whether numbers may be in quotes.

    Returns:
        ids and labels, both int64 (n,).

    Raises:
        UserError: header, a row or a value is wrong; the message names file, line and column.
    """
    table = _read_numbers(path, *LABELS, quoted)
    return table[:, 0], table[:, 1]


def check_dataset(train: Path, test: Path, sample_submission: Path) -> None:
    """Check three CSVs as preprocess will, without holding them in memory.

    Raises:
        UserError: something is wrong with one, or they do not fit together.
    """
    labels = np.concatenate([table[:, 0].copy() for table in _tables(train, *TRAIN)])
    test_rows = sum(map(len, _tables(test, *TEST)))
    ids, _ = read_labels(sample_submission)
    check_fit((train, test, sample_submission), labels, test_rows, ids)


def check_fit(
    paths: Sequence[Path], labels: NDArray[np.uint8], test_rows: int, ids: NDArray[np.int64]
) -> None:
    """Check that train.csv, test.csv and sample_submission.csv belong together.

    Args:
        paths: of the three, for messages.
        labels: those of train.csv.
        test_rows: how many test.csv has.
        ids: those of sample_submission.csv.

    Raises:
        UserError: a class has no row, there is nothing to predict, or ids are not 1, 2, 3, …
    """
    train, test, sample_submission = paths
    absent = sorted(set(range(CLASSES)) - set(labels.tolist()))
    if absent:
        raise UserError(
            f"{train}: no row is labelled {', '.join(map(str, absent))}; every class needs one"
        )
    if not test_rows:
        raise UserError(f"{test}: it has no rows")
    _check_ids(sample_submission, ids, np.arange(1, test_rows + 1), test)


def check_submission(path: Path, sample: Path) -> int:
    """Check that a CSV is exactly as the sample submission prescribes; returns its number of rows.

    Args:
        path: the CSV to check.
        sample: sample_submission.csv.

    Raises:
        UserError: header, line ends, ids, their order, or a label are wrong; the message says
            where.
    """
    read_labels(path)  # in which no number may be in quotes
    rows, deviations = compare_submission(path, sample)
    if deviations:
        raise UserError(deviations[0])
    return rows


def compare_submission(path: Path, sample: Path) -> tuple[int, list[str]]:
    """Check that the competition will take a CSV, which reads it by id.

    Returns:
        its number of rows, and how it differs from `sample` in what does not matter to Kaggle.

    Raises:
        UserError: a column, an id or a label is wrong; the message says where.
    """
    ids, _ = read_labels(path, quoted=True)
    wanted, _ = read_labels(sample)
    _check_count(path, ids, wanted, sample)
    unknown = np.flatnonzero(~np.isin(ids, wanted))
    if len(unknown):
        line, wrong = unknown[0] + 2, ids[unknown[0]]
        raise UserError(f"{path}, line {line}, column ImageId: {wrong} is not an id of {sample}")
    missing = np.setdiff1d(wanted, ids)
    if len(missing):
        raise UserError(f"{path}: ImageId {missing[0]} has no row, and another has several")
    deviations = []
    moved = np.flatnonzero(ids != wanted)
    if len(moved):
        place = f"{path}, line {moved[0] + 2}, column ImageId"
        deviations.append(f"{place}: the ids are in another order than in {sample}")
    content = path.read_bytes()
    header, end = first_line(sample)
    if content.startswith(BOM):
        deviations.append(f"{path}, line 1: it begins with a byte order mark (BOM)")
    if first_line(path)[0] != header or content.count(b'"') != header.count(b'"'):
        deviations.append(f"{path}, line 1: its quotes are not those of {sample}")
    lines = content.split(end)
    if any(b"\r" in line or b"\n" in line for line in lines):
        deviations.append(f"{path}: its lines end differently from those of {sample} (LF or CR LF)")
    elif len(lines) != len(ids) + 2 or lines[-1]:
        deviations.append(f"{path}: it has empty lines, or its last line has no line end")
    return len(ids), deviations


def _check_ids(path: Path, ids: NDArray[np.int64], wanted: NDArray[np.int64], source: Path) -> None:
    """Check the ids of a CSV, and their order, against those that `source` prescribes."""
    _check_count(path, ids, wanted, source)
    wrong = np.flatnonzero(ids != wanted)
    if len(wrong):
        place = wrong[0]
        raise UserError(
            f"{path}, line {place + 2}, column ImageId: expected {wanted[place]}, found "
            f"{ids[place]}: one id for each row of {source}, in order"
        )


def _check_count(
    path: Path, ids: NDArray[np.int64], wanted: NDArray[np.int64], source: Path
) -> None:
    if len(ids) != len(wanted):
        raise UserError(f"{path}: {len(ids):,} rows, but {source} has {len(wanted):,}")


def first_line(path: Path) -> tuple[bytes, bytes]:
    """A CSV's header, and what ends its lines: LF or CR LF."""
    with path.open("rb") as file:
        line = file.readline().removeprefix(BOM)
    end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return line.removesuffix(end), end


def fault(path: Path) -> str | None:
    """What is wrong with one of the competition's files; None if nothing is."""
    try:
        if path.name in ("train.csv", "test.csv"):
            read_images(path, labelled=path.name == "train.csv")
        else:
            read_labels(path)
    except UserError as error:
        return str(error)
    return None


def _read_numbers(
    path: Path,
    columns: Sequence[str],
    highest: Sequence[int],
    dtype: type[Any],
    quoted: bool = False,
) -> NDArray[Any]:
    return np.concatenate(list(_tables(path, columns, highest, dtype, quoted)))


def _tables(
    path: Path,
    columns: Sequence[str],
    highest: Sequence[int],
    dtype: type[Any],
    quoted: bool = False,
) -> Iterator[NDArray[Any]]:
    """A table of whole numbers from 0 up to `highest` of each column, some rows at a time.

    NumPy's C parser does the work, faster than pandas'. It is lenient (it skips empty lines and
    takes signs and spaces), so two counts over the bytes come first: no byte but digits, commas and
    line ends, and in each line exactly the commas that such a table has. Only if something is wrong
    are the rows checked one by one, to say where.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    with file:
        header = file.readline(LINE).removeprefix(BOM)
        _check_header(path, header.removesuffix(b"\n"), columns, submission=quoted)
        yield np.empty((0, len(columns)), dtype)
        # In pieces of whole lines, so that a large file need not fit into memory as text.
        while piece := file.read(PIECE):
            piece += file.readline(LINE)
            if not piece.strip(b"\r\n"):
                continue
            piece = _without_quotes(piece) if quoted else piece
            table = _parsed(piece, columns, highest, dtype)
            if table is None:
                raise _first_fault(path, columns, highest, quoted)
            yield table


def _without_quotes(lines: bytes) -> bytes:
    return re.sub(rb'"(\d+)"', rb"\1", lines)


def _parsed(
    piece: bytes, columns: Sequence[str], highest: Sequence[int], dtype: type[Any]
) -> NDArray[Any] | None:
    """Some lines as a table; None if anything is wrong with them."""
    commas = len(columns) - 1
    if piece.translate(None, b"0123456789,\r\n"):
        return None
    if not all(line.count(b",") == commas or not line.strip() for line in io.BytesIO(piece)):
        return None
    try:
        with warnings.catch_warnings():
            # NumPy 2.0 only warns of a 256, which does not fit into a byte, and makes a 0 of it.
            warnings.simplefilter("error", DeprecationWarning)
            values: NDArray[Any] = np.loadtxt(io.BytesIO(piece), dtype, delimiter=",", ndmin=2)
    except (ValueError, DeprecationWarning):  # a field is empty, or a number does not fit
        return None
    within = bool((values.max(axis=0, initial=0) <= np.array(highest)).all())
    complete = piece.count(b",") == len(values) * commas
    return values if within and complete else None


def _check_header(
    path: Path, header: bytes, columns: Sequence[str], submission: bool = False
) -> None:
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
    if foreign := _foreign(found, submission):
        fault = foreign
    elif [name.strip() for name in found] == list(columns):
        padded = next(name for name in found if name != name.strip())
        fault = f"column {padded!r} has blanks around its name; remove all blanks from the file"
    elif len(missing) == len(columns):
        start = ",".join(columns[:3])
        fault = f"the first line should begin with {start}, found {text[:60]!r}"
        if text.startswith((columns[0] + ";", columns[0] + "\t")):
            fault += "; put commas between the columns"
    elif missing or extra or twice:
        faults = (("missing", missing), ("unknown", extra), ("duplicated", twice))
        fault = "; ".join(f"column {_few(names)} {what}" for what, names in faults if names)
    else:
        place = next(i for i, name in enumerate(columns) if found[i] != name)
        fault = f"expected column {columns[place]!r}, found {found[place]!r}"
    raise UserError(f"{path}, line 1: {fault}")


def _foreign(found: Sequence[str], submission: bool) -> str | None:
    """What a header is that other datasets are known by, and what to do; None for any other."""
    names = set(found)
    rename = "or name the columns as the competition does: label,pixel0,…,pixel783"
    if found[:1] in ([""], ["Unnamed: 0"], ["index"]):
        return f"column {found[0]!r} is a pandas index; write the CSV with to_csv(…, index=False)"
    if submission:  # by its few columns, no dataset can be told
        return None
    if "1x1" in names:
        return f"this is mnist-in-csv (1x1, 1x2, …); take DATASET=mnist, {rename}"
    if "pixel784" in names and "pixel0" not in names:
        return (
            "this is Fashion-MNIST's CSV, or another that counts from pixel1 to pixel784; take "
            f"DATASET=fashion, {rename}"
        )
    if found[:1] == ["id"] and names & {"pixel0", "label"}:
        return (
            "this is Kannada-MNIST (id, …), of another competition; remove the column 'id' of "
            "test.csv, and give sample_submission.csv the columns ImageId (1, 2, …) and Label"
        )
    if any("nist" in name.lower() or "writer" in name.lower() for name in names):
        return f"this is QMNIST (writers, NIST codes); take DATASET=mnist, {rename}"
    if len(found) >= 784 and all(name.isdigit() for name in found):
        return f"there is no header, as in pjreddie's mnist_train.csv; take DATASET=mnist, {rename}"
    return None


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (
        f" and {len(names) - 5} more" if len(names) > 5 else ""
    )


def _first_fault(
    path: Path, columns: Sequence[str], highest: Sequence[int], quoted: bool
) -> UserError:
    """The first thing that is wrong in a table that did not pass, row by row."""
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(LINE), b""), start=1):
            raw = _without_quotes(raw) if quoted else raw
            if line > 1 and (wrong := _fault_of(raw, columns, highest)):
                return UserError(f"{path}, line {line}{wrong}")
    return UserError(f"{path}: cannot be read as a table of {len(columns)} columns of numbers")


def _fault_of(raw: bytes, columns: Sequence[str], highest: Sequence[int]) -> str | None:
    """What is wrong with one line, if anything, and in which column."""
    if len(raw) == LINE:
        return f": longer than {LINE:,} bytes; no row is that long"
    raw = raw.removesuffix(b"\n").removesuffix(b"\r")
    if raw:
        cells = raw.decode("utf-8", "replace").split(",")
        for column, cell, high in zip(columns, cells, highest, strict=False):
            if not (cell.isascii() and cell.isdigit() and int(cell.lstrip("0")[:20] or 0) <= high):
                wrong = f"{cell[:20]!r} is not" if cell.strip() else "empty; expected"
                return f", column {column}: {wrong} a whole number from 0 to {high}"
        if len(cells) != len(columns):
            return f": expected {len(columns)} values, found {len(cells)}"
    return None
