"""compare.py: the difference of two presets, and the digits that only one gets right."""

import re
from pathlib import Path

import numpy as np
import pytest
from conftest import Digits, works, write_digits

from pipeline import artifacts, config, stages
from pipeline.bench import compare
from pipeline.task import Task


def build(preset: str, wrong: list[int]) -> stages.Graph:
    """Make an ensemble whose members get some of the 80 rows wrong."""
    made = works("tiny", preset)
    for task, work in made:
        if task.stage in ("write", "report"):
            break

        def spoiled(writes: dict, task: Task = task, work: object = work) -> dict:
            metadata = work(writes)  # type: ignore[operator]
            fold_ids = np.load(task.reads["fold_ids"])
            oof = np.load(writes["oof"])
            mine = np.isin(np.flatnonzero(fold_ids == task.fold), wrong)
            oof[mine] = np.roll(oof[mine], 1, axis=1)
            np.save(writes["oof"], oof)
            return metadata

        its = spoiled if task.stage == "train" else work
        artifacts.run(task, [task for task, _ in made], work=its)  # type: ignore[arg-type]
    return stages.load("tiny", preset)


@pytest.fixture
def pair(project: Path) -> Path:
    """A project with two trained presets: one misses rows 0 to 9, the other rows 8 to 11."""
    write_digits(project / "tiny")
    (project / "plain.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 4\n")
    (project / "wide.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 8\nseed = 3\n")
    build("plain.toml", list(range(10)))
    build("wide.toml", [8, 9, 10, 11])
    return project


def test_the_difference_the_changes_and_the_digits(pair: Path, digits: Digits) -> None:
    ended = digits("compare", "plain.toml", "wide.toml", "--dataset", "tiny")
    assert ended.code == 0, ended.error
    rows = {line.split()[0]: line.split()[1:] for line in reversed(ended.lines) if line}
    loss = rows["plain"].pop(4), rows["wide"].pop(4)
    assert float(loss[1]) < float(loss[0])
    assert rows["plain"] == ["0.87500", "±", "0.03698", "10", "2"]
    assert rows["wide"] == ["0.95000", "±", "0.02437", "4", "8"]
    assert rows["train.width"] == ["4", "8"]
    assert rows["train.seed"] == ["0", "3"]
    # Eight rows gained and two lost, of 80.
    uncertainty = ((10 - 80 * (6 / 80) ** 2) / 79 / 80) ** 0.5
    [verdict] = [line for line in ended.lines if line.startswith("wide against plain")]
    assert f"+0.07500 ± {uncertainty:.5f} (one standard error, 80 rows)" in verdict
    assert "within two standard errors, which may be chance" in verdict
    page = (pair / "submissions" / "tiny-plain-against-wide.html").read_text()
    assert ended.lines[-1].endswith("submissions/tiny-plain-against-wide.html")
    first, second = page.split("<h2>Only ")[1:]
    assert first.startswith("plain is right: 2<")
    assert re.findall(r"row (\d+):", first) == ["11", "12"]
    assert second.startswith("wide is right: 8<")
    assert re.findall(r"row (\d+):", second) == [str(row) for row in range(1, 9)]
    labels = np.load(pair / "data" / "tiny" / "arrays" / "train_labels.npy")
    assert re.findall(r"<b>(\d)</b>", second) == [str(label) for label in labels[:8]]
    assert page.count("data:image/png") == 2
    assert "0.87500 ± 0.03698" in page
    assert "train.width" in page


def test_a_difference_of_more_than_two_standard_errors_is_named() -> None:
    assert compare.conclusion(0.02, 0.01, ("a", "b")).startswith("within two")
    assert compare.conclusion(0.021, 0.01, ("a", "b")).startswith("b is better")
    assert compare.conclusion(-0.021, 0.01, ("a", "b")).startswith("a is better")


def test_ensembles_differ_in_their_members() -> None:
    best, strided = config.load("best"), config.load("best-strided")
    changed = compare.changes(best, strided)
    assert list(changed.index) == ["ensemble.members"]
    changed["best"] *= 3
    assert compare.html_table(changed).count("best-halved") == 3  # however long a value is
    fast, default = config.load("fast"), config.load("default")
    assert list(compare.changes(fast, default).itertuples(name=None)) == [("split.folds", "1", "5")]


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("plain.toml", "fast"), "plain and fast hold out different rows (2-folds-seed-0, "),
        (("plain.toml", "plain.toml"), "plain is compared with itself; name two presets"),
        (("plain.toml", "pair.toml"), "run `make ensemble DATASET=tiny CONFIG=pair.toml` first"),
    ],
)
def test_the_message_names_a_remedy(
    pair: Path, digits: Digits, words: tuple[str, ...], part: str
) -> None:
    (pair / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 16\n")
    ended = digits("compare", *words, "--dataset", "tiny")
    assert ended.code == 2
    assert part in ended.error
