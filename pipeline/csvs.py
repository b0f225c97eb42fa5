"""The competition's CSVs, read with every check and with errors that name the line and column.

pandas reads the tables of ids and labels. The pixels are left to NumPy, which takes half as long:
pandas is as lenient with numbers, so that every check below would be needed all the same.
"""

import csv
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UserError

CLASSES = 10
PIXELS = tuple(f"pixel{i}" for i in range(784))
TRAIN, TEST, LABELS = ("label", *PIXELS), PIXELS, ("ImageId", "Label")
HIGHEST = {"label": CLASSES - 1, "Label": CLASSES - 1, "ImageId": 2**53}  # of a pixel: 255
BOM = b"\xef\xbb\xbf"
PIECE = 1 << 25  # bytes that are parsed at a time
LINE = 1 << 16  # bytes that the longest line may have; the competition's have less than 4,000


def read_dataset(
    train: Path, test: Path, sample_submission: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the three CSVs of a dataset, and check that they belong together.

    Returns:
        the training images, their labels and the test images, as `read_images` returns them.

    Raises:
        UserError: something is wrong with one, a class has no row, there is nothing to predict, or
            the ids are not 1, 2, 3, …
    """
    images, labels = read_images(train, labelled=True)
    test_images, _ = read_images(test, labelled=False)
    ids, _ = read_labels(sample_submission)
    if absent := sorted(set(range(CLASSES)) - set(labels.tolist())):
        raise UserError(
            f"{train}: no row is labelled {', '.join(map(str, absent))}; every class needs one"
        )
    if not len(test_images):
        raise UserError(f"{test}: it has no rows")
    wanted = np.arange(1, len(test_images) + 1)
    check_count(sample_submission, ids, wanted, test)
    wrong = np.flatnonzero(ids != wanted)
    if len(wrong):
        place = wrong[0]
        raise UserError(
            f"{sample_submission}, line {place + 2}, column ImageId: expected {wanted[place]}, "
            f"found {ids[place]}: one id for each row of {test}, in order"
        )
    return images, labels, test_images


def read_images(path: Path, labelled: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read train.csv (labelled) or test.csv; raise UserError with file, line and column.

    Returns:
        images, uint8 (n, 28, 28, 1), and labels, uint8 (n,); none if it is not labelled.
    """
    table = np.concatenate(list(_pixels(path, TRAIN if labelled else TEST)))
    images = np.ascontiguousarray(table[:, -784:]).reshape(-1, 28, 28, 1)
    return images, table[:, :-784].ravel()


def read_labels(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Read a submission, a sample submission or a solution: its ids and labels, both int64 (n,).

    Raises:
        UserError: header, a row or a value is wrong; the message names file, line and column.
    """
    import pandas as pd

    _check_header(path, LABELS)
    try:
        # As text, since pandas would also read 1.0 and +1 as numbers. The header counts as a row,
        # so that no row may be longer.
        cells = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, encoding_errors="replace"
        )[1:]
        digits = cells.apply(lambda column: column.str.fullmatch("[0-9]+"))
        values = cells.astype(np.int64).to_numpy()
    except (ValueError, OverflowError):
        _refuse_rows(path, LABELS)
    if not digits.all(axis=None) or (values > [HIGHEST[name] for name in LABELS]).any():
        _refuse_rows(path, LABELS)
    return values[:, 0], values[:, 1]


def check_count(
    path: Path, ids: NDArray[np.int64], wanted: NDArray[np.int64], source: Path
) -> None:
    """Raise UserError if a CSV has not as many rows as `source` has ids."""
    if len(ids) != len(wanted):
        raise UserError(f"{path}: {len(ids):,} rows, but {source} has {len(wanted):,}")


def first_line(path: Path) -> tuple[bytes, bytes]:
    """Return a CSV's header, and what ends its lines: LF or CR LF."""
    with path.open("rb") as file:
        line = file.readline(LINE).removeprefix(BOM)
    end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return line.removesuffix(end), end


def _pixels(path: Path, columns: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """Yield the rows of a table of pixels, uint8 (n, columns), some at a time."""
    _check_header(path, columns)
    yield np.empty((0, len(columns)), np.uint8)
    with path.open("rb") as file:
        file.readline(LINE)
        # In pieces of whole lines, so that a large file need not fit into memory as text.
        while piece := file.read(PIECE):
            piece += file.readline(LINE)
            if not piece.strip(b"\r\n"):
                continue
            table = _parsed(piece, columns)
            if table is None:
                _refuse_rows(path, columns)
            yield table


def _parsed(piece: bytes, columns: Sequence[str]) -> NDArray[np.uint8] | None:
    """Parse some lines as a table of bytes; return None if anything is wrong with them.

    NumPy skips empty lines and takes signs and spaces. So two counts come first: no byte but
    digits, commas and line ends, and in each line exactly the commas that such a table has.
    """
    commas = len(columns) - 1
    if piece.translate(None, b"0123456789,\r\n"):
        return None
    if not all(line.count(b",") == commas or not line.strip() for line in io.BytesIO(piece)):
        return None
    try:
        with warnings.catch_warnings():
            # NumPy only warns of a 256, which does not fit into a byte, and makes a 0 of it.
            warnings.simplefilter("error", DeprecationWarning)
            values: NDArray[np.uint8] = np.loadtxt(
                io.BytesIO(piece), np.uint8, delimiter=",", ndmin=2
            )
    except (ValueError, DeprecationWarning):  # a field is empty, or a number does not fit
        return None
    highest = HIGHEST.get(columns[0], 255)
    fits = values.shape[1] == len(columns) and (values[:, 0] <= highest).all()
    return values if fits else None


def _check_header(path: Path, columns: Sequence[str]) -> None:
    try:
        line, _ = first_line(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: there is no such file") from error
    if line.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in line:
        raise UserError(f"{path}: this is UTF-16 or no text at all; save it as UTF-8")
    text = line.decode("utf-8", "replace")
    try:
        found = next(csv.reader([text]), [])
    except csv.Error:  # an absurd length, or old Macintosh line ends
        found = [text]
    if found != list(columns):
        raise UserError(f"{path}, line 1: {_header_fault(found, columns, text[:60])}")


def _header_fault(found: Sequence[str], columns: Sequence[str], text: str) -> str:
    """Say how the names of the columns, which begin with `text`, differ from the right ones."""
    missing = [name for name in columns if name not in found]
    extra = [name for name in found if name not in columns]
    if found[:1] in ([""], ["Unnamed: 0"], ["index"]):
        return f"column {found[0]!r} is a pandas index; write the CSV with to_csv(…, index=False)"
    if [name.strip() for name in found] == list(columns):
        padded = next(name for name in found if name != name.strip())
        return f"column {padded!r} has blanks around its name; remove all blanks from the file"
    if len(found) >= 784 and extra and "pixel0" not in found:
        what = f"the pixels are called {found[1]}, {found[2]} and so on"
        if found[-1].isdigit():
            what = "there is no header"
        return (
            f"{what}, as in mnist-in-csv, Fashion-MNIST's CSV and others; take DATASET=mnist or "
            "DATASET=fashion, or name the columns as the competition does: "
            "label,pixel0,…,pixel783"
        )
    if len(missing) == len(columns):
        commas = any(text.startswith(columns[0] + mark) for mark in ";\t")
        return (
            f"the first line should begin with {','.join(columns[:3])}, found {text!r}"
            f"{'; put commas between the columns' if commas else ''}"
        )
    if extra and not missing and not any(extra):
        which = "the last column has" if len(extra) == 1 else f"the last {len(extra)} columns have"
        return f"{which} no name; remove the commas at the end of every line"
    if missing or extra:
        faults = ((missing, "missing"), (extra, "unknown"))
        return "; ".join(f"column {_few(names)} is {word}" for names, word in faults if names)
    if twice := sorted({name for name in found if found.count(name) > 1}):
        return f"column {_few(twice)} is there twice"
    wanted, name = next(pair for pair in zip(columns, found, strict=True) if pair[0] != pair[1])
    return f"expected column {wanted!r}, found {name!r}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(repr, names[:5])) + more


def _refuse_rows(path: Path, columns: Sequence[str]) -> NoReturn:
    """Raise UserError about the first thing that is wrong in a table, row by row."""
    with path.open("rb") as file:
        for line, raw in enumerate(iter(lambda: file.readline(LINE), b""), start=1):
            place = f"{path}, line {line}"
            if len(raw) == LINE:
                raise UserError(f"{place}: longer than {LINE:,} bytes; no row is that long")
            row = raw.removesuffix(b"\n").removesuffix(b"\r")
            if line == 1 or not row:
                continue
            cells = row.decode("utf-8", "replace").split(",")
            for column, cell in zip(columns, cells, strict=False):
                high = HIGHEST.get(column, 255)
                if not cell.strip():
                    raise UserError(
                        f"{place}, column {column}: empty; expected a whole number from 0 to {high}"
                    )
                digits = re.sub('^"(.+)"$', r"\1", cell) if columns == LABELS else cell
                if not (digits.isascii() and digits.isdigit() and _number(digits) <= high):
                    raise UserError(
                        f"{place}, column {column}: {cell[:20]!r} is not a whole number from 0 to "
                        f"{high}"
                    )
            if len(cells) != len(columns):
                raise UserError(f"{place}: expected {len(columns)} values, found {len(cells)}")
    raise UserError(f"{path}: cannot be read as a table of {len(columns)} columns of numbers")


def _number(digits: str) -> int:
    return int(digits.lstrip("0")[:20] or 0)
