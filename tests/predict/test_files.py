"""files.py, model.py: a line a picture, by the networks of an ensemble."""

import csv
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import ridge
from conftest import Digits
from handwriting import encoded, from_strokes, scan

from pipeline.predict.model import Networks
from pipeline.stages import Graph

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with ridge.project(tmp_path_factory.mktemp("project")) as built:
        yield built


@pytest.fixture
def choice(graph: Graph) -> list[str]:
    return ridge.choice()


def seven(number: int) -> bytes:
    random = np.random.default_rng(number)
    return scan(from_strokes(7, 0.1, random, 120), random)


def test_the_probabilities_are_those_of_the_ensemble(graph: Graph) -> None:
    images = np.load(graph.task("preprocess").writes["test_images"])[:200, :, :, 0]
    networks = Networks(graph)
    mean, each = networks.predict(images)
    expected = np.load(graph.task("ensemble").writes["test"])[:200]
    assert networks.temperature not in (0, 1)
    assert np.abs(mean - expected).max() < 1e-5
    folds = [np.load(task.writes["test"])[:200] for task in graph.all("train")]
    assert np.abs(each - np.stack(folds, axis=1)).max() < 1e-5
    assert networks.names == ["fold 0", "fold 1"]


def test_a_line_a_file_and_a_folder_is_searched(
    graph: Graph, choice: list[str], digits: Digits, tmp_path: Path
) -> None:
    folder = tmp_path / "some"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.png").write_bytes(seven(1))
    (folder / "deeper" / "b.PNG").write_bytes(seven(5))
    (folder / "notes.txt").write_text("no picture")
    for hidden in ("._a.png", ".ipynb_checkpoints/a.png", "__MACOSX/a.png"):
        (folder / hidden).parent.mkdir(exist_ok=True)
        (folder / hidden).write_bytes(b"damaged")
    (tmp_path / "c").write_bytes(seven(3))
    ended = digits("predict", str(folder), str(tmp_path / "c"), *choice)
    assert (ended.code, ended.error.startswith("3 pictures: ")) == (0, True)
    paths = [folder / "a.png", folder / "deeper" / "b.PNG", tmp_path / "c"]
    for line, path in zip(ended.lines, paths, strict=True):
        name, label, probability = line.split("  ")[:3]
        assert (name, label) == (str(path), "7")
        assert 0.1 < float(probability) <= 1


def test_an_unreadable_file_is_a_line_and_the_others_go_on(
    graph: Graph, choice: list[str], digits: Digits, tmp_path: Path
) -> None:
    (tmp_path / "broken.png").write_text("broken")
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.png").write_bytes(seven(1))
    (tmp_path / "blank.png").write_bytes(encoded(np.full((50, 50), 255), "PNG"))
    names = ("broken.png", "absent.png", "empty", "blank.png", "good.png")
    table = tmp_path / "read.csv"
    words = [str(tmp_path / name) for name in names]
    ended = digits("predict", *words, "--csv", str(table), *choice)
    assert ended.code == 2
    *errors, last = ended.error.splitlines()
    assert last.startswith("5 pictures: ")
    assert "3 unreadable" in last
    assert "1 without a digit" in last
    assert [line.startswith("digits: ") for line in errors] == [True] * 3
    for line, name in zip(errors, names, strict=False):
        assert str(tmp_path / name) in line
    blank, good = ended.lines
    assert "blank.png  nothing in it" in blank
    assert "good.png  7  " in good
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == words
    assert [row["label"] for row in rows] == ["", "", "", "", "7"]
    assert [bool(row["remark"]) for row in rows[:4]] == [True] * 4
    assert rows[3]["remark"] in blank
    assert rows[4]["line"] == "1"
    probabilities = [float(rows[4][str(label)]) for label in range(10)]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert float(rows[4]["probability"]) == max(probabilities) == probabilities[7]


def test_several_digits_are_told_or_read_line_by_line(
    graph: Graph, choice: list[str], digits: Digits, tmp_path: Path
) -> None:
    random = np.random.default_rng(4)
    page = np.zeros((420, 520), np.float32)
    for top, left, label in ((40, 40, 7), (40, 200, 0), (40, 370, 1), (240, 60, 0), (240, 220, 7)):
        shape = from_strokes(label, 0.1, random, 120)
        page[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    path, table = tmp_path / "row.png", tmp_path / "row.csv"
    path.write_bytes(encoded(255 - 230 * page, "PNG"))
    [line] = digits("predict", str(path), *choice).lines
    assert line.startswith(f"{path}  found 5 digits")
    assert "--digits many" in line
    [line] = digits("predict", str(path), "--digits", "many", "--csv", str(table), *choice).lines
    assert line.startswith(f"{path}  701 / 07  ")
    with table.open(newline="") as file:
        read = [(row["line"], row["label"]) for row in csv.DictReader(file)]
    assert read == [("1", "7"), ("1", "0"), ("1", "1"), ("2", "0"), ("2", "7")]


def test_standard_input_and_what_the_networks_saw(
    choice: list[str], digits: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(seven(5))))
    ended = digits("predict", "-", "--show", *choice)
    assert len(ended.lines) == 29
    assert sum("█" in line for line in ended.lines[:28]) >= 15
    assert ended.lines[28].startswith("standard input  7  ")
    ended = digits("predict", "-", "--csv", str(tmp_path), *choice)
    assert (ended.code, f"{tmp_path} is a folder" in ended.error) == (2, True)


def test_what_is_no_digit_is_told(
    graph: Graph, choice: list[str], digits: Digits, tmp_path: Path
) -> None:
    square = np.full((200, 200), 255)
    square[50:150, 50:150] = 0
    (tmp_path / "square.png").write_bytes(encoded(square, "PNG"))
    table = tmp_path / "read.csv"
    [line] = digits("predict", str(tmp_path / "square.png"), "--csv", str(table), *choice).lines
    assert "perhaps no digit" in line
    with table.open(newline="") as file:
        [row] = csv.DictReader(file)
    assert "perhaps no digit" in row["remark"]


def test_without_networks_the_command_that_makes_them_is_named(
    project: Path, digits: Digits
) -> None:
    ended = digits("predict", "any.png", "--dataset", "sample", "--config", "sprint")
    assert ended.code == 2
    assert "make ensemble DATASET=sample CONFIG=sprint" in ended.error
