"""write.py: it writes what the competition accepts; anything else is refused."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.check import check, check_submission
from pipeline.csvs import BOM
from pipeline.errors import UserError
from pipeline.write import write

LABELS = [7, 2, 1, 0, 4, 1, 4, 9, 5, 9, 3, 3]


def make_sample(folder: Path, rows: int = len(LABELS), end: str = "\n", header: str = "") -> Path:
    path = folder / "sample_submission.csv"
    lines = [header or "ImageId,Label", *(f"{i},0" for i in range(1, rows + 1))]
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def write_from(folder: Path, sample: Path) -> dict[str, object]:
    """Write folder/s.csv from probabilities that are highest for LABELS."""
    random = np.random.default_rng(0)
    probabilities = random.random((len(LABELS), 10)) * 0.5
    probabilities[np.arange(len(LABELS)), LABELS] = 0.6
    np.save(folder / "test.npy", probabilities.astype(np.float32))
    metrics = {"oof_accuracy": 0.75, "oof_rows": 4}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    return run(folder, sample)


def run(folder: Path, sample: Path) -> dict[str, object]:
    """Write folder/s.csv from the files in `folder`."""
    return write(
        test=folder / "test.npy",
        metrics=folder / "metrics.json",
        sample_submission=sample,
        submission=folder / "s.csv",
        dataset="tiny",
        source="local",
        preset="mine",
    )


def submission(end: str = "\n") -> str:
    rows = [f"{i},{label}" for i, label in enumerate(LABELS, start=1)]
    return "".join(line + end for line in ["ImageId,Label", *rows])


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize(("bom", "header"), [(b"", "ImageId,Label"), (BOM, '"ImageId","Label"')])
def test_writes_the_most_probable_labels_in_the_format_of_the_sample(
    tmp_path: Path, bom: bytes, header: str, end: str
) -> None:
    sample = make_sample(tmp_path, end=end, header=header)
    sample.write_bytes(bom + sample.read_bytes())
    metadata = write_from(tmp_path, sample)
    expected = submission(end).replace("ImageId,Label", header)
    assert (tmp_path / "s.csv").read_bytes() == expected.encode()  # without the mark
    assert metadata["oof_accuracy"] == 0.75
    assert metadata["oof_rows"] == 4
    assert metadata["predicted_per_class"] == [1, 2, 1, 2, 2, 1, 0, 1, 0, 2]
    assert check_submission(tmp_path / "s.csv", sample) == 12


def test_the_sample_determines_the_ids(tmp_path: Path) -> None:
    sample = make_sample(tmp_path)
    sample.write_text(sample.read_text().replace("\n1,", "\n101,"))
    write_from(tmp_path, sample)
    assert (tmp_path / "s.csv").read_text().startswith("ImageId,Label\n101,7\n2,2\n")


@pytest.mark.parametrize("rows", [11, 13])
def test_refuses_a_sample_with_other_rows(tmp_path: Path, rows: int) -> None:
    sample = make_sample(tmp_path, rows=rows)
    with pytest.raises(UserError, match=rf"sample_submission\.csv .*\b{rows} rows.*\b12\b"):
        write_from(tmp_path, sample)
    assert not (tmp_path / "s.csv").exists()


# --- checking ------------------------------------------------------------------------------------


def replaced(old: str, new: str) -> str:
    text = submission()
    assert text.count(old) == 1
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        pytest.param(replaced("3,1\n", "3,10\n"), "line 4, column Label: '10'", id="label 10"),
        pytest.param(replaced("3,1\n", '3,"1"\n'), "quotes", id="quotes"),
        pytest.param(replaced("3,1\n", "30,1\n"), "line 4, column ImageId: ", id="wrong id"),
        pytest.param(replaced("2,2\n3,1\n", "3,1\n2,2\n"), "line 3, column ImageId: ", id="order"),
        pytest.param(replaced("3,1\n", ""), "11 rows", id="a row too few"),
        pytest.param(submission() + "13,1\n", "13 rows", id="a row too many"),
        pytest.param("ImageId,Label\n", "0 rows", id="no rows"),
        pytest.param(replaced("ImageId,Label", '"ImageId",Label'), "line 1", id="quoted header"),
        pytest.param("\ufeff" + submission(), "line 1", id="byte order mark"),
        pytest.param(submission("\r\n"), "line", id="windows line ends"),
        pytest.param(replaced("3,1\n", "3,1\r\n"), "lines", id="one windows line"),
        pytest.param(submission() + "\n", "empty lines", id="an empty line at the end"),
        pytest.param(replaced("3,1\n", "3,1\n\n"), "empty lines", id="an empty line within"),
        pytest.param(submission().rstrip("\n"), "last line", id="no end"),
        pytest.param(submission() + "\r", "", id="a stray carriage return"),
        pytest.param(replaced("2,2\n3,1\n", "2,2\r3,1\n"), "", id="a carriage return alone"),
    ],
)
def test_refuses_whatever_deviates_from_the_sample(tmp_path: Path, text: str, part: str) -> None:
    sample, path = make_sample(tmp_path), tmp_path / "s.csv"
    path.write_bytes(text.encode())
    with pytest.raises(UserError) as caught:
        check_submission(path, sample)
    assert str(caught.value).startswith(str(path))
    assert part in str(caught.value)


def shuffled() -> str:
    header, *rows = submission().splitlines(keepends=True)
    return "".join([header, *reversed(rows)])


@pytest.mark.parametrize(
    ("text", "warnings"),
    [
        (submission(), []),
        (shuffled(), ["another order"]),
        (submission("\r\n"), ["lines end differently"]),
        (replaced("3,1\n", "3,1\r\n"), ["lines end differently"]),
        (replaced("ImageId,Label", '"ImageId","Label"'), ["quotes"]),
        ("\ufeff" + submission(), ["BOM"]),
        (re.sub(r"([^,\n]+)", r'"\1"', submission()), ["quotes"]),
        (submission().rstrip("\n"), ["no line end"]),
        ("\ufeff" + shuffled().replace("\n", "\r\n"), ["another order", "BOM", "end differently"]),
    ],
)
def test_check_accepts_what_the_competition_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, warnings: list[str]
) -> None:
    sample, path = make_sample(tmp_path), tmp_path / "s.csv"
    path.write_bytes(text.encode())
    check(path, sample)
    verdict, *lines = capsys.readouterr().out.splitlines()
    assert verdict.startswith(f"{path}: 12 rows, valid for ")
    assert len(lines) == len(warnings)
    for line, warning in zip(lines, warnings, strict=True):
        assert line.startswith(f"warning: {path}")
        assert warning in line
    if warnings:  # what we write ourselves must not differ in anything
        with pytest.raises(UserError):
            check_submission(path, sample)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (shuffled().replace("\n3,", "\n30,"), "line 11, column ImageId: 30 is not an id"),
        (shuffled().replace("\n3,", "\n4,"), "ImageId 3 has no row"),
        (submission("\r\n") + "13,1\r\n", "13 rows"),
        (replaced("2,2\n3,1\n", '"2","2"\n3,1.0\n'), "line 4, column Label: '1.0'"),
    ],
)
def test_check_refuses_wrong_ids_in_any_order(tmp_path: Path, text: str, said: str) -> None:
    sample, path = make_sample(tmp_path), tmp_path / "s.csv"
    path.write_bytes(text.encode())
    with pytest.raises(UserError, match=re.escape(said)):
        check(path, sample)


# --- the checker against an obvious one ----------------------------------------------------------


def slow_check(data: bytes, sample: bytes) -> bool:
    """Whether a CSV is the sample's header and a row for each of its ids, and nothing else."""
    header, _, rest = sample.removeprefix(b"\xef\xbb\xbf").partition(b"\n")
    end = b"\r\n" if header.endswith(b"\r") else b"\n"
    ids = [int(line.partition(b",")[0]) for line in rest.split(b"\n") if line.strip()]
    lines = data.split(end)
    if lines[0] != header.removesuffix(b"\r") or lines[-1] != b"" or len(lines) != len(ids) + 2:
        return False
    rows = [re.fullmatch(rb"([0-9]+),([0-9]+)", line) for line in lines[1:-1]]
    return all(
        row is not None and int(row[1]) == image_id and int(row[2]) <= 9
        for row, image_id in zip(rows, ids, strict=True)
    )


CELL = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["-1", "+1", "1.0", "1e0", "01", "", " 1", "1 ", '"1"', "x", "nan", "\u0661"]),
    st.sampled_from(["1,1", "1\r", "1\n", "\n1", "\0", "9" * 30, str(2**53 + 1), "256", "\ufeff1"]),
)
HEADER = st.sampled_from(
    [
        *("ImageId,Label", '"ImageId","Label"', "\ufeffImageId,Label", "ImageId, Label", ""),
        *("imageid,label", "Label,ImageId", "ImageId,Label,"),
    ]
)


@st.composite
def submissions(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """A CSV, correct or with one or two faults, and the sample that it should match."""
    end = draw(st.sampled_from(["\n", "\r\n"]))
    header = draw(st.sampled_from(["ImageId,Label", "ImageId,Label", '"ImageId","Label"']))
    first = draw(st.sampled_from([1, 1, 0, 7]))
    count = draw(st.integers(0, 5))
    ids = [str(first + i) for i in range(count)]
    sample = "".join(line + end for line in [header, *(f"{image_id},0" for image_id in ids)])
    sample = draw(st.sampled_from(["", "\ufeff"])) + sample
    rows = [[image_id, str(draw(st.integers(0, 9)))] for image_id in ids]
    ends = [end] * (count + 1)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, count))
        match draw(st.sampled_from(["cell", "row", "header", "end", "without", "twice", "swap"])):
            case "cell" if place < len(rows) and rows[place]:
                rows[place][draw(st.integers(0, len(rows[place]) - 1))] = draw(CELL)
            case "row":
                rows.insert(min(place, len(rows)), draw(st.lists(CELL, max_size=3)))
            case "header":
                header = draw(HEADER)
            case "end":
                ends[place] = draw(st.sampled_from(["\n", "\r\n", "\r", "", "\n\n", end + end]))
            case "without" if place < len(rows):
                del rows[place]
            case "twice" if place < len(rows):
                rows.insert(place, list(rows[place]))
            case "swap" if len(rows) > 1:
                rows[0], rows[-1] = rows[-1], rows[0]
    lines = [header, *(",".join(row) for row in rows)]
    ends += [end] * (len(lines) - len(ends))
    data = "".join(line + its_end for line, its_end in zip(lines, ends, strict=False)).encode()
    if data and draw(st.integers(0, 3)) == 0:  # or replace one byte by any other
        place = draw(st.integers(0, len(data) - 1))
        data = data[:place] + draw(st.binary(max_size=1)) + data[place + draw(st.integers(0, 1)) :]
    return data, sample.encode()


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(submissions())
@example((b"ImageId,Label\n", b"ImageId,Label\n"))
@example((b"ImageId,Label\n1,7\n", b"ImageId,Label\n1,0"))
@example((b"ImageId,Label\n1,7\n", b"ImageId,Label\r\n1,0\r\n"))
@example((b"ImageId,Label\r\n1,7\r\n", b"ImageId,Label\n1,0\n"))
@example((b"ImageId,Label\n1,7\n\r\n", b"ImageId,Label\n1,0\n"))
@example((b"ImageId,Label\n1,7\n\n", b"ImageId,Label\n1,0\n"))
@example((b"ImageId,Label\n01,07\n", b"ImageId,Label\n1,0\n"))
def test_the_checker_agrees_with_the_obvious_one(
    tmp_path: Path, files: tuple[bytes, bytes]
) -> None:
    data, sample = files
    (tmp_path / "s.csv").write_bytes(data)
    (tmp_path / "sample.csv").write_bytes(sample)
    if slow_check(data, sample):
        rows = check_submission(tmp_path / "s.csv", tmp_path / "sample.csv")
        assert rows == sample.count(b",") - 1
    else:
        with pytest.raises(UserError) as caught:
            check_submission(tmp_path / "s.csv", tmp_path / "sample.csv")
        assert str(tmp_path / "s.csv") in str(caught.value)
