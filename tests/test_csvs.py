"""csvs.py: what it accepts, that the values are right, and where it locates each fault."""

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
HIGHEST = (9, 255, 255)


# --- the fast reader against an obvious one ------------------------------------------------------


def slow_reader(data: bytes) -> list[list[int]] | None:
    """The values of a table of COLUMNS; None if anything is wrong with it."""
    lines = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").split(b"\n")
    if lines[0] != b"label,pixel0,pixel1":
        return None
    rows = []
    for line in lines[1:]:
        if not line:
            continue
        cells = line.split(b",")
        if len(cells) != len(COLUMNS):
            return None
        if not all(re.fullmatch(rb"[0-9]+", cell) for cell in cells):
            return None
        row = [int(cell) for cell in cells]
        if any(value > high for value, high in zip(row, HIGHEST, strict=True)):
            return None
        rows.append(row)
    return rows


WHOLE = st.integers(0, 255).map(str)
ODD = st.sampled_from(
    [
        *("256", "260", "512", "-1", "-0", "+1", "3.0", "3.", ".5", "1e2", "0x1", "1_0", "007"),
        *("x", "", " ", " 1", "1 ", "\t1", '"1"', '"', "'1'", "nan", "NA", "inf", "None", "True"),
        *("65536", "4294967296", "18446744073709551616", "9" * 40, "\u0661", "\0", "#", "1;2"),
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
@example(b"label,pixel0,pixel1\n1,2\n1,2,3,4\n")
@example(b"label,pixel0,pixel1\n1,2,\n1,2,3\n")
@example(b"label,pixel0,pixel1\n\n\n1,2,3\n\n")
@example(b"label,pixel0,pixel1\n1,2,3")
def test_the_fast_reader_agrees_with_the_obvious_one(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    expected = slow_reader(data)
    if expected is not None:
        values = csvs._read_numbers(path, COLUMNS, HIGHEST, np.uint8)
        assert values.dtype == np.uint8
        assert values.tolist() == expected
    else:
        with pytest.raises(UserError) as caught:
            csvs._read_numbers(path, COLUMNS, HIGHEST, np.uint8)
        assert str(path) in str(caught.value)


# --- what is accepted ----------------------------------------------------------------------------


def test_reads_images_and_labels(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (12, 784))
    labels = np.arange(12) % 10
    lines = [",".join(["label", *PIXEL_NAMES])]
    lines += [",".join(map(str, [label, *row])) for label, row in zip(labels, rows, strict=True)]
    path = tmp_path / "train.csv"
    path.write_text("\n".join(lines) + "\n")

    images, read = csvs.read_images(path, labelled=True)

    assert images.shape == (12, 28, 28, 1)
    assert images.dtype == np.uint8
    assert read is not None
    assert read.dtype == np.uint8
    assert read.tolist() == labels.tolist()
    # pixel<i> is in row i // 28 and column i % 28, as the competition defines it.
    for pixel in (0, 27, 28, 400, 783):
        assert images[:, pixel // 28, pixel % 28, 0].tolist() == rows[:, pixel].tolist()


def test_the_test_set_has_no_labels(tiny_folder: Path) -> None:
    images, labels = csvs.read_images(tiny_folder / "test.csv", labelled=False)
    assert images.shape == (20, 28, 28, 1)
    assert labels is None


def test_reads_ids_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ImageId,Label\n1,7\n2,0\n28000,9\n")
    ids, labels = csvs.read_labels(path)
    assert ids.tolist() == [1, 2, 28000]
    assert labels.tolist() == [7, 0, 9]


@pytest.mark.parametrize("bom", [b"", csvs.BOM])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_byte_order_mark_and_windows_line_ends_change_nothing(
    tmp_path: Path, bom: bytes, end: str
) -> None:
    plain = write_digits(tmp_path / "plain")
    other = write_digits(tmp_path / "other", end=end)
    path = other / "train.csv"
    path.write_bytes(bom + path.read_bytes())
    images, labels = csvs.read_images(path, labelled=True)
    expected_images, expected_labels = csvs.read_images(plain / "train.csv", labelled=True)
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


# --- faults and their places ----------------------------------------------------------------------


def fault(path: Path, labelled: bool = True) -> str:
    """The message with which the reader refuses a file."""
    with pytest.raises(UserError) as caught:
        csvs.read_images(path, labelled)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


@pytest.mark.parametrize("text", ["256", "-1", "3.0", "1e2", "x", '"7"', "9" * 30, "", " ", "\0"])
def test_a_wrong_pixel_is_located_by_line_and_column(tiny_folder: Path, text: str) -> None:
    path = tiny_folder / "test.csv"
    replace_cell(path, line=17, column=300, text=text)
    message = fault(path, labelled=False)
    assert f"{path}, line 17, column pixel300: " in message
    assert "from 0 to 255" in message
    assert (repr(text[:20]) if text.strip() else "empty") in message


@pytest.mark.parametrize("text", ["inf", "1e30"])
@pytest.mark.filterwarnings("error")
def test_the_parser_warns_of_nothing_beside_the_error(tiny_folder: Path, text: str) -> None:
    replace_cell(tiny_folder / "test.csv", line=3, column=3, text=text)
    assert "line 3, column pixel3" in fault(tiny_folder / "test.csv", labelled=False)


def test_a_wrong_label_is_located_by_line_and_column(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    replace_cell(path, line=2, column=0, text="10")
    message = fault(path)
    assert "line 2, column label: '10'" in message
    assert "from 0 to 9" in message


def test_the_last_line_and_column_are_located_too(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    replace_cell(path, line=81, column=784, text="")
    assert "line 81, column pixel783: empty" in fault(path)


def test_the_first_of_several_faults_is_reported(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    replace_cell(path, line=9, column=3, text="x")
    replace_cell(path, line=5, column=30, text="y")
    assert "line 5, column pixel29: 'y'" in fault(path)


def test_blank_lines_count_in_line_numbers(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    replace_cell(path, line=3, column=5, text="x")
    header, _, rest = path.read_bytes().partition(b"\n")
    path.write_bytes(header + b"\n\n" + rest)
    assert "line 4, column pixel4" in fault(path)


def test_line_numbers_hold_with_windows_line_ends(tmp_path: Path) -> None:
    path = write_digits(tmp_path / "windows", end="\r\n") / "train.csv"
    replace_cell(path, line=12, column=8, text="x")
    assert "line 12, column pixel7: 'x'" in fault(path)


def test_a_missing_value_is_located_by_line(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    lines = path.read_text().split("\n")
    lines[6] = lines[6].rpartition(",")[0]
    path.write_text("\n".join(lines))
    assert re.search(r"line 7: .*\b784\b", fault(path))


def test_an_extra_value_is_located_by_line(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    lines = path.read_text().split("\n")
    lines[6] += ",0"
    path.write_text("\n".join(lines))
    assert re.search(r"line 7: .*\b786\b", fault(path))


def test_one_extra_value_in_every_row_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    header, *rows = path.read_text().rstrip("\n").split("\n")
    path.write_text("\n".join([header, *(row + "," for row in rows)]) + "\n")
    assert re.search(r"line 2: .*\b786\b", fault(path))


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (["label", *PIXEL_NAMES[:-1]], "pixel783"),
        (["label", *PIXEL_NAMES, "pixel784"], "pixel784"),
        (["Label", *PIXEL_NAMES], "label"),
        (["label", *PIXEL_NAMES, "pixel3"], "pixel3"),
        (
            ["label", "pixel1", "pixel0", *PIXEL_NAMES[2:]],
            "pixel1",
        ),
        (
            ["label", *PIXEL_NAMES[10:]],
            "'pixel0', 'pixel1', 'pixel2', 'pixel3', 'pixel4' and 5 more",
        ),
        (["a", "b"], "label,pixel0,pixel1"),
    ],
)
def test_a_wrong_header_is_explained(tiny_folder: Path, header: list[str], part: str) -> None:
    path = tiny_folder / "train.csv"
    rest = path.read_text().partition("\n")[2]
    path.write_text(",".join(header) + "\n" + rest)
    message = fault(path)
    assert "line 1: " in message
    assert part in message


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (["label", *(f"{i}x{j}" for i in range(1, 29) for j in range(1, 29))], "mnist-in-csv"),
        (["", "label", *PIXEL_NAMES], "column '' is a pandas index"),
        (["Unnamed: 0", "label", *PIXEL_NAMES], "'Unnamed: 0' is a pandas index"),
        (["label", *PIXEL_NAMES[1:], "pixel784"], "DATASET=fashion"),
        (["id", *PIXEL_NAMES], "Kannada-MNIST"),
        (["Character class", "NIST HSF series", "Writer ID", "Digit index"], "QMNIST"),
        (["5", *["0"] * 784], "there is no header"),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_known_formats_are_named(
    tiny_folder: Path, header: list[str], said: str, labelled: bool
) -> None:
    path = tiny_folder / "train.csv"
    path.write_text(",".join(header) + "\n")
    assert said in fault(path, labelled)


@pytest.mark.parametrize("padded", [" pixel0", "label ", " pixel783"])
def test_blanks_around_a_name_are_shown(tiny_folder: Path, padded: str) -> None:
    path = tiny_folder / "train.csv"
    names = [padded if name == padded.strip() else name for name in ["label", *PIXEL_NAMES]]
    path.write_text(",".join(names) + "\n")
    assert f"{padded!r} has blanks" in fault(path)
    assert "remove" in fault(path)


def test_the_sample_submission_of_kannada_mnist_is_named(tmp_path: Path) -> None:
    path = tmp_path / "sample_submission.csv"
    path.write_text("id,label\n0,0\n")
    with pytest.raises(UserError, match=r"line 1: .*Kannada-MNIST .*ImageId"):
        csvs.read_labels(path)
    with pytest.raises(UserError, match="should begin with ImageId,Label, found 'id,label'"):
        csvs.read_labels(path, quoted=True)  # a submission, of the competition


def test_train_csv_and_test_csv_are_not_interchangeable(tiny_folder: Path) -> None:
    assert "line 1: column 'label'" in fault(tiny_folder / "test.csv", labelled=True)
    assert "line 1: column 'label'" in fault(tiny_folder / "train.csv", labelled=False)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_refused_by_name(tiny_folder: Path, encoding: str) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(path.read_text().encode(encoding))
    assert "UTF-16" in fault(path)


def test_a_web_page_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_text("<!DOCTYPE html>\n<html><body>Please log in</body></html>\n")
    message = fault(path)
    assert "line 1" in message
    assert "'<!DOCTYPE html>'" in message


def test_bytes_that_are_no_text_are_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(b"PK\x03\x04\xff\xd8" + bytes(range(1, 256)) * 40)
    fault(path)


def test_a_very_long_first_line_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_text("<html>" + "a" * 200_000 + "\n")
    assert "line 1" in fault(path)


def test_old_macintosh_line_ends_are_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r"))
    assert "line 1" in fault(path)


def test_a_zero_byte_in_the_header_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(path.read_bytes().replace(b"pixel0", b"pixel\x000", 1))
    assert "no text" in fault(path)


def test_an_empty_file_is_refused(tiny_folder: Path) -> None:
    path = tiny_folder / "train.csv"
    path.write_bytes(b"")
    assert "label,pixel0,pixel1" in fault(path)


def test_a_missing_file_is_a_user_error(tmp_path: Path) -> None:
    assert "there is no such file" in fault(tmp_path / "train.csv")


def test_a_wrong_label_of_a_submission_is_located(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("ImageId,Label\n1,7\n2,10\n")
    with pytest.raises(UserError, match=r"line 3, column Label: '10' .* 0 to 9"):
        csvs.read_labels(path)


def test_an_id_beyond_all_numbers_is_located(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text(f"ImageId,Label\n{10**25},7\n")
    with pytest.raises(UserError, match="line 2, column ImageId"):
        csvs.read_labels(path)


def test_a_fault_is_found_in_a_large_file_too(tmp_path: Path) -> None:
    """Pandas reads in blocks; a fault in a late one is located as well."""
    path = tmp_path / "s.csv"
    rows = [f"{i},{i % 10}" for i in range(1, 60_001)]
    rows[59_000] = "59001,"
    path.write_text("ImageId,Label\n" + "\n".join(rows) + "\n")
    with pytest.raises(UserError, match=r"line 59002, column Label: empty"):
        csvs.read_labels(path)


@pytest.mark.parametrize("rest", ["", "\n", "\r\n\r\n"])
def test_a_header_alone_is_a_table_without_rows(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "test.csv"
    path.write_text(",".join(PIXEL_NAMES) + "\n" + rest)
    images, _ = csvs.read_images(path, labelled=False)
    assert images.shape == (0, 28, 28, 1)


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
