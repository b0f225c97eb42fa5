"""csvs.py: what it accepts, that the values are right, and where it locates each fault.

More faults are in tests/system/test_bad_input.py, which sees them from the command line.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import PIXEL_NAMES, replace_cell, write_digits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import csvs
from pipeline.errors import UserError

COLUMNS = ("label", "pixel0", "pixel1")
TRAIN = ["label", *PIXEL_NAMES]


# --- the fast reader against an obvious one ------------------------------------------------------


def slow_reader(data: bytes) -> list[list[int]] | None:
    """The values of a table of COLUMNS; None if anything is wrong with it."""
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    if lines[0] != b"label,pixel0,pixel1":
        return None
    rows = [line.split(b",") for line in lines[1:] if line]
    if not all(len(row) == 3 and all(re.fullmatch(rb"[0-9]+", c) for c in row) for row in rows):
        return None
    values = [[int(cell) for cell in row] for row in rows]
    right = all(row[0] <= 9 and max(row[1:]) <= 255 for row in values)
    return values if right else None


WHOLE = st.integers(0, 255).map(str)
ODD = st.sampled_from(
    [
        *("256", "260", "512", "-1", "-0", "+1", "3.0", "3.", ".5", "1e2", "0x1", "1_0", "007"),
        *("x", "", " ", " 1", "1 ", "\t1", '"1"', '"', "'1'", "nan", "NA", "inf", "None", "True"),
        *("65536", "4294967296", "18446744073709551616", "9" * 40, "\u0661", "\0", "#", "1;2"),
        *("1e30", "1e400", "=A1+1", "7\r7"),
    ]
)
ROW = st.tuples(st.integers(0, 9).map(str), WHOLE, WHOLE).map(list)
CELL_LISTS = st.lists(st.one_of(WHOLE, ODD), min_size=0, max_size=5)
END = st.sampled_from(["\n", "\r\n"])


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """A CSV of COLUMNS: correct, or with one or two faults in cells, rows, blank lines or ends."""
    rows = draw(st.lists(ROW, min_size=1, max_size=6))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(rows) - 1))
        kind = draw(st.sampled_from(["cell", "row", "missing", "extra", "all longer"]))
        if kind == "cell" and rows[place]:
            rows[place][draw(st.integers(0, len(rows[place]) - 1))] = draw(ODD)
        elif kind == "row":
            rows[place] = draw(CELL_LISTS)
        elif kind == "missing" and rows[place]:
            rows[place].pop()
        elif kind == "extra":
            rows[place].append(draw(st.one_of(WHOLE, ODD)))
        elif kind == "all longer":
            rows = [[*row, draw(st.one_of(WHOLE, st.just("")))] for row in rows]
    end = draw(END)
    lines = ["label,pixel0,pixel1", *(",".join(row) for row in rows)]
    text = end.join(lines) + draw(st.sampled_from(["", end, end + end]))
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tables())
@example(b"label,pixel0,pixel1\n256,0,0\n")
@example(b"label,pixel0,pixel1\n1,0,0,0\n2,0,0,0\n")  # rows that are all too long
@example(b"label,pixel0,pixel1\n1,2,3,4\n1,2\n")  # as many commas as there should be
@example(b"label,pixel0,pixel1\n1,2\r3,4\n")
@example(b"label,pixel0,pixel1\n1,2,\n1,2,3\n")
@example(b"label,pixel0,pixel1\n\n\n1,2,3\n\n")
@example(b"label,pixel0,pixel1\n1,2,3")
@pytest.mark.filterwarnings("error")
def test_the_fast_reader_agrees_with_the_obvious_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    expected = slow_reader(data)
    if expected is not None:
        values = np.concatenate(list(csvs._pixels(path, COLUMNS)))
        assert values.dtype == np.uint8
        assert values.tolist() == expected
    else:
        with pytest.raises(UserError) as caught:
            list(csvs._pixels(path, COLUMNS))
        assert str(path) in str(caught.value)


# --- what is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize(("bom", "end"), [(b"", "\n"), (csvs.BOM, "\r\n")])
def test_reads_images_and_labels(tmp_path: Path, bom: bytes, end: str) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (12, 784))
    labels = np.arange(12) % 10
    lines = [",".join(TRAIN)]
    lines += [",".join(map(str, [label, *row])) for label, row in zip(labels, rows, strict=True)]
    path = tmp_path / "train.csv"
    path.write_bytes(bom + "".join(line + end for line in lines).encode())

    images, read = csvs.read_images(path, labelled=True)

    assert images.shape == (12, 28, 28, 1)
    assert images.dtype == read.dtype == np.uint8
    assert read.tolist() == labels.tolist()
    # pixel<i> is in row i // 28 and column i % 28, as the competition defines it.
    for pixel in (0, 27, 28, 400, 783):
        assert images[:, pixel // 28, pixel % 28, 0].tolist() == rows[:, pixel].tolist()


def test_the_test_set_has_no_labels(tiny_folder: Path) -> None:
    images, labels = csvs.read_images(tiny_folder / "test.csv", labelled=False)
    assert images.shape == (20, 28, 28, 1)
    assert len(labels) == 0


@pytest.mark.parametrize("row", ["2,0", '"2","0"', "02,00", "2,0\r", "\n2,0"])
def test_reads_ids_and_labels(tmp_path: Path, row: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"ImageId,Label\n1,7\n{row}\n28000,9")
    ids, labels = csvs.read_labels(path)
    assert ids.tolist() == [1, 2, 28000]
    assert labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize("rest", ["", "\r\n\r\n"])
def test_a_header_alone_is_a_table_without_rows(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "test.csv"
    path.write_text(",".join(PIXEL_NAMES) + "\n" + rest)
    images, _ = csvs.read_images(path, labelled=False)
    assert images.shape == (0, 28, 28, 1)
    path.write_text("ImageId,Label\n" + rest)
    assert [values.tolist() for values in csvs.read_labels(path)] == [[], []]


def test_a_file_is_read_in_pieces_of_whole_lines(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, labels = csvs.read_images(tiny_folder / "train.csv", labelled=True)
    for size in (1, 1000, 100_000):
        monkeypatch.setattr(csvs, "PIECE", size)
        again, its_labels = csvs.read_images(tiny_folder / "train.csv", labelled=True)
        np.testing.assert_array_equal(again, images)
        np.testing.assert_array_equal(its_labels, labels)
    replace_cell(tiny_folder / "train.csv", line=70, column=3, text="256")
    with pytest.raises(UserError, match="line 70, column pixel2: '256'"):
        csvs.read_images(tiny_folder / "train.csv", labelled=True)


# --- faults and their places ----------------------------------------------------------------------


def fault(path: Path, labelled: bool = True) -> str:
    """The message with which the reader refuses a file."""
    with pytest.raises(UserError) as caught:
        csvs.read_images(path, labelled)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_first_of_several_faults_is_located(tmp_path: Path, end: str) -> None:
    path = write_digits(tmp_path / "digits", end=end) / "train.csv"
    replace_cell(path, line=81, column=783, text="")
    assert "line 81, column pixel782: empty" in fault(path)
    replace_cell(path, line=9, column=3, text="x")
    replace_cell(path, line=5, column=30, text="y")
    assert "line 5, column pixel29: 'y'" in fault(path)


def test_blank_lines_count_in_line_numbers(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    replace_cell(path, line=3, column=5, text="x")
    header, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n\n" + rest)
    assert "line 4, column pixel4" in fault(path)


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (["label", *PIXEL_NAMES[10:]], "'pixel2', 'pixel3', 'pixel4' and 5 more"),
        (["a", "b"], "label,pixel0,pixel1"),
        (["label", " pixel0", *PIXEL_NAMES[1:]], "' pixel0' has blanks"),
        ([*TRAIN, ""], "the last column has no name; remove the commas"),
        (["Unnamed: 0", *TRAIN], "'Unnamed: 0' is a pandas index"),
        (["", *TRAIN], "'' is a pandas index"),
        (["label", *(f"{i}x{j}" for i in range(1, 29) for j in range(1, 29))], "DATASET=mnist"),
        (["label", *PIXEL_NAMES[1:], "pixel784"], "DATASET=fashion"),
        (["5", *["0"] * 784], "there is no header"),
        (["label", *PIXEL_NAMES[1:]], "column 'pixel0' is missing"),
        (["id", *TRAIN], "column 'id' is unknown"),
        (PIXEL_NAMES, "column 'label' is missing"),
        (["Label", *PIXEL_NAMES], "'label' is missing; column 'Label' is unknown"),
        (
            ["label", "pixel1", "pixel0", *PIXEL_NAMES[2:]],
            "expected column 'pixel0', found 'pixel1'",
        ),
        ([*TRAIN, "pixel3"], "'pixel3' is there twice"),
        (["label;pixel0;pixel1"], "put commas between the columns"),
        (["<html>" + "a" * 200_000], "<html>"),
        (["label,pixel0\r1,0"], "label,pixel0,pixel1"),
    ],
)
def test_a_wrong_header_is_explained(tiny_folder: Path, header: list[str], part: str) -> None:
    path = tiny_folder / "train.csv"
    rest = path.read_text().partition("\n")[2]
    path.write_text(",".join(header) + "\n" + rest)
    message = fault(path)
    assert "line 1: " in message
    assert part in message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf_16_is_refused_by_name(tiny_folder: Path, encoding: str) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(path.read_text().encode(encoding))
    assert "this is UTF-16" in fault(path)


def test_bytes_that_are_no_text_are_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(b"PK\x03\x04\xff\xd8" + bytes(range(1, 256)) * 40)
    fault(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    assert "there is no such file" in fault(tmp_path / "train.csv")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1,10", r"line 3, column Label: '10' .* 0 to 9"),
        (f"{10**25},7", "line 3, column ImageId"),
        ("1,NA", "line 3, column Label: 'NA'"),
        ("1.0,7", "line 3, column ImageId: '1.0'"),
        ("1,", "line 3, column Label: empty"),
        ("1", "line 3: expected 2 values, found 1"),
        ("1,7,7", "line 3: expected 2 values, found 3"),
        ("1,7\0", "line 3, column Label: "),
        ('1,"7', "line 3, column Label: "),
    ],
)
def test_a_wrong_row_of_a_submission_is_located(tmp_path: Path, row: str, said: str) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"ImageId,Label\n5,5\n{row}\n9,9\n")
    with pytest.raises(UserError, match=said) as caught:
        csvs.read_labels(path)
    assert str(caught.value).startswith(str(path))


def test_a_submission_with_other_names_is_not_blamed_on_another_dataset(tmp_path: Path) -> None:
    path = tmp_path / "sample_submission.csv"
    path.write_text("id,label\n0,0\n")
    with pytest.raises(UserError, match=r"line 1: .*ImageId,Label"):
        csvs.read_labels(path)
