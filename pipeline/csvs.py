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


def _check_ids(path: Path, ids: NDArray[np.int64], wanted: NDArray[np.int64], source: Path) -> None:
    """Check the ids of a CSV, and their order, against those that `source` prescribes."""
    check_count(path, ids, wanted, source)
    wrong = np.flatnonzero(ids != wanted)
    if len(wrong):
        place = wrong[0]
        raise UserError(
            f"{path}, line {place + 2}, column ImageId: expected {wanted[place]}, found "
            f"{ids[place]}: one id for each row of {source}, in order"
        )


def check_count(
    path: Path, ids: NDArray[np.int64], wanted: NDArray[np.int64], source: Path
) -> None:
    """Raise UserError if a CSV has not as many rows as `source` has ids."""
    if len(ids) != len(wanted):
        raise UserError(f"{path}: {len(ids):,} rows, but {source} has {len(wanted):,}")


def first_line(path: Path) -> tuple[bytes, bytes]:
    """Return a CSV's header, and what ends its lines: LF or CR LF."""
    with path.open("rb") as file:
        line = file.readline().removeprefix(BOM)
    end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return line.removesuffix(end), end


def fault(path: Path) -> str | None:
    """Say what is wrong with one of the competition's files; None if nothing is."""
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
        _check_header(path, header.removesuffix(b"\n"), columns)
        yield np.empty((0, len(columns)), dtype)
        # In pieces of whole lines, so that a large file need not fit into memory as text.
        while piece := file.read(PIECE):
            piece += file.readline(LINE)
            if not piece.strip(b"\r\n"):
                continue
            piece = _without_quotes(piece) if quoted else piece
            table = _parsed(piece, columns, highest, dtype)
            if table is None:
                _check_rows(path, columns, highest, quoted)
            else:
                yield table


def _without_quotes(lines: bytes) -> bytes:
    return re.sub(rb'"(\d+)"', rb"\1", lines)


def _parsed(
    piece: bytes, columns: Sequence[str], highest: Sequence[int], dtype: type[Any]
) -> NDArray[Any] | None:
    """Parse some lines as a table; None if anything is wrong with them."""
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
    _refuse_foreign(path, found)
    place = f"{path}, line 1"
    missing = [name for name in columns if name not in found]
    extra = [name for name in found if name not in columns]
    if [name.strip() for name in found] == list(columns):
        padded = next(name for name in found if name != name.strip())
        raise UserError(
            f"{place}: column {padded!r} has blanks around its name; remove all blanks from the "
            "file"
        )
    if len(missing) == len(columns):
        start = ",".join(columns[:3])
        if text.startswith((columns[0] + ";", columns[0] + "\t")):
            raise UserError(
                f"{place}: the first line should begin with {start}, found {text[:60]!r}; put "
                "commas between the columns"
            )
        raise UserError(f"{place}: the first line should begin with {start}, found {text[:60]!r}")
    if missing and extra:
        raise UserError(
            f"{place}: column {_few(missing)} is missing; column {_few(extra)} is unknown"
        )
    if missing:
        raise UserError(f"{place}: column {_few(missing)} is missing")
    if extra and not any(extra):
        raise UserError(
            f"{place}: {len(extra)} columns at the end have no name; remove the commas there, in "
            "every line"
        )
    if extra:
        raise UserError(f"{place}: column {_few(extra)} is unknown")
    if twice := sorted({name for name in found if found.count(name) > 1}):
        raise UserError(f"{place}: column {_few(twice)} is there twice")
    first = next(i for i, name in enumerate(columns) if found[i] != name)
    raise UserError(f"{place}: expected column {columns[first]!r}, found {found[first]!r}")


def _refuse_foreign(path: Path, found: Sequence[str]) -> None:
    """Raise UserError for a header that another dataset is known by, with what to do."""
    names = set(found)
    if found[:1] in ([""], ["Unnamed: 0"], ["index"]):
        raise UserError(
            f"{path}, line 1: column {found[0]!r} is a pandas index; write the CSV with "
            "to_csv(…, index=False)"
        )
    if "1x1" in names:
        raise UserError(
            f"{path}, line 1: this is mnist-in-csv (1x1, 1x2, …); take DATASET=mnist, or name the "
            "columns as the competition does: label,pixel0,…,pixel783"
        )
    if "pixel784" in names and "pixel0" not in names:
        raise UserError(
            f"{path}, line 1: this is Fashion-MNIST's CSV, or another that counts from pixel1 to "
            "pixel784; take DATASET=fashion, or name the columns as the competition does: "
            "label,pixel0,…,pixel783"
        )
    if found[:1] == ["id"] and "pixel0" in names:
        raise UserError(
            f"{path}, line 1: this is Kannada-MNIST (id, …), of another competition; remove the "
            "column 'id' of test.csv, and give sample_submission.csv the columns ImageId (1, 2, …) "
            "and Label"
        )
    if any("nist" in name.lower() or "writer" in name.lower() for name in names):
        raise UserError(
            f"{path}, line 1: this is QMNIST (writers, NIST codes); take DATASET=mnist, or name "
            "the columns as the competition does: label,pixel0,…,pixel783"
        )
    if len(found) >= 784 and all(name.isdigit() for name in found):
        raise UserError(
            f"{path}, line 1: there is no header, as in pjreddie's mnist_train.csv; take "
            "DATASET=mnist, or name the columns as the competition does: label,pixel0,…,pixel783"
        )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _check_rows(path: Path, columns: Sequence[str], highest: Sequence[int], quoted: bool) -> None:
    """Raise UserError about the first thing that is wrong in a table, row by row."""
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(LINE), b""), start=1):
            place = f"{path}, line {line}"
            if len(raw) == LINE:
                raise UserError(f"{place}: longer than {LINE:,} bytes; no row is that long")
            row = (_without_quotes(raw) if quoted else raw).removesuffix(b"\n").removesuffix(b"\r")
            if line == 1 or not row:
                continue
            cells = row.decode("utf-8", "replace").split(",")
            for column, cell, high in zip(columns, cells, highest, strict=False):
                if not cell.strip():
                    raise UserError(
                        f"{place}, column {column}: empty; expected a whole number from 0 to {high}"
                    )
                if not (cell.isascii() and cell.isdigit() and _number(cell) <= high):
                    raise UserError(
                        f"{place}, column {column}: {cell[:20]!r} is not a whole number from 0 to "
                        f"{high}"
                    )
            if len(cells) != len(columns):
                raise UserError(f"{place}: expected {len(columns)} values, found {len(cells)}")
    raise UserError(f"{path}: cannot be read as a table of {len(columns)} columns of numbers")


def _number(digits: str) -> int:
    return int(digits.lstrip("0")[:20] or 0)
