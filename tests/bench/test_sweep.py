"""sweep.py: what varies, what is trained, and the comparison."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Digits, build, fake_training, write_digits

from pipeline import config, stages
from pipeline.artifacts import Task
from pipeline.bench import sweep
from pipeline.errors import UserError


def written(folder: Path, text: str) -> Path:
    path = folder / "widths.toml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination_and_a_list_is_itself(tmp_path: Path) -> None:
    text = (
        'base = "fast"\n[grid]\nwidth = [24, 48]\ndropout = [0.0, 0.25]\n'
        "[[variants]]\nepochs = 3\nlearning_rate = 0.001\n[[variants]]\noptimizer = 'adam'\n"
    )
    base, variants = sweep.load(written(tmp_path, text))
    assert base == config.load("fast")
    assert [variant.name for variant in variants] == [
        "sweeps/widths/width=24,dropout=0.0",
        "sweeps/widths/width=24,dropout=0.25",
        "sweeps/widths/width=48,dropout=0.0",
        "sweeps/widths/width=48,dropout=0.25",
        "sweeps/widths/epochs=3,learning_rate=0.001",
        "sweeps/widths/optimizer=adam",
    ]
    assert [v.train.width for v in variants[:4]] == [24, 24, 48, 48]
    assert variants[4].train.epochs == 3
    # Everything else is as in the base.
    assert {v.split for v in variants} == {base.split}
    assert variants[5].train.epochs == base.train.epochs


def test_a_base_of_the_user_is_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 2\n")
    base, _ = sweep.load(written(tmp_path, 'base = "mine.toml"\n[grid]\nwidth = [8]\n'))
    assert (base.name, base.train.epochs) == ("mine", 2)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('base = "fast"\n[grid]\nfolds = [2]\n', "folds is not a parameter of [train]"),
        ("[grid]\nwidth = [8]\n", "base must name a preset"),
        ("base = 3\n[grid]\nwidth = [8]\n", "base must name a preset"),
        ('base = "fest"\n[grid]\nwidth = [8]\n', "there is no preset 'fest', did you mean fast"),
        ('base = "best"\n[grid]\nwidth = [8]\n', "base: best is an ensemble"),
        ('base = "fast"\n', "nothing varies"),
        ('base = "fast"\nwidth = 3\n', "unknown key width"),
        ('base = "fast"\n[grid]\nwidth = 8\n', "[grid] must give each key a list"),
        ('base = "fast"\n[grid]\nwidth = []\n', "[grid] must give each key a list"),
        ('base = "fast"\n[grid]\nwidht = [8]\n', "widht is not a parameter of [train]"),
        ('base = "fast"\n[grid]\nwidht = [8]\n', "did you mean width?"),
        ('base = "fast"\n[grid]\nwidth = [8, 0]\n', "train.width must be between 1 and 1024"),
        ('base = "fast"\n[grid]\nwidth = [8, 8]\n', "width=8 is listed twice"),
        ('base = "fast"\n[variants]\nwidth = 8\n', "variants must be tables"),
        ('base = "fast"\n[[variants]]\n', "variants must be tables"),
    ],
)
def test_the_message_names_a_fault(tmp_path: Path, text: str, part: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(part)) as caught:
        sweep.load(path)
    assert str(path) in str(caught.value)


def test_the_comparison_is_on_the_same_rows(project: Path) -> None:
    """Two folds of 40 rows; the variant gets 2 more right in one and 1 less in the other."""
    write_digits(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n")
    graph = build("tiny", "pair.toml")
    folds = graph.all("train")
    labels = np.load(graph.task("preprocess").writes["train_labels"])
    fold_ids = np.load(graph.task("split").writes["fold_ids"])
    variant = config.variant(graph.preset, "sweeps/w/width=8", {"width": 8}, "w.toml")
    others = stages.graph(graph.dataset, variant).all("train")
    for tasks, wrong in ((folds, ([0, 1, 2], [5])), (others, ([2], [5, 6]))):
        for task, rows in zip(tasks, wrong, strict=True):
            predict(task, labels[fold_ids == task.params["fold"]], rows)
    first, second = sweep.compare({"base": folds, "width=8": others}, labels, fold_ids)
    assert (first.name, first.accuracy, first.difference) == ("base", 76 / 80, 0)
    assert first.error == pytest.approx((0.95 * 0.05 / 80) ** 0.5)
    assert (second.name, second.accuracy) == ("width=8", 77 / 80)
    assert second.difference == pytest.approx(1 / 80)
    # The folds differ by +2 and -1 of 40 rows: half the distance between them.
    assert second.uncertainty == pytest.approx((2 / 40 - -1 / 40) / 2)
    # With one fold, the uncertainty comes from the rows.
    (_, second) = sweep.compare({"base": folds[:1], "width=8": others[:1]}, labels, fold_ids)
    gains = np.array([1, 1] + [0] * 38)
    assert second.uncertainty == pytest.approx(gains.std(ddof=1) / 40**0.5)


def predict(task: Task, labels: Any, wrong: list[int]) -> None:
    probabilities = np.eye(10, dtype=np.float32)[labels]
    probabilities[wrong] = np.roll(probabilities[wrong], 1, axis=1)
    task.folder.mkdir(parents=True, exist_ok=True)
    np.save(task.writes["oof"], probabilities)


def test_the_command_trains_what_is_due_and_prints_the_comparison(
    project: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    trained: list[tuple[int, int]] = []
    files = ("weights", "history", "oof", "test")

    def train(fold: int, params: config.Train, **paths: Any) -> dict[str, Any]:
        trained.append((params.width, fold))
        found = fake_training(paths, {name: paths[name] for name in files}, fold)
        return found | {"epoch_seconds": [2.0, 1.0]}

    monkeypatch.setattr("pipeline.train.fold.train", train)
    write_digits(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 4\n")
    build("tiny", "pair.toml")
    path = written(project, 'base = "pair.toml"\n[grid]\nwidth = [8, 16]\n')
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert ended.code == 0, ended.error
    assert trained == [(8, 0), (8, 1), (16, 0), (16, 1)]
    *table, legend = ended.lines
    assert legend.startswith("±: one standard error")
    assert legend.endswith("over the folds")
    header, base, first, second = (line.split() for line in table[-4:])
    assert header[0] == "variant"
    assert base[:2] == ["base", "1.00000"]
    assert first == ["width=8", "1.00000", "0.00000", "6", "s", "+0.00000", "0.00000"]
    assert second[0] == "width=16"
    again = digits("sweep", str(path), "--dataset", "tiny")
    assert len(trained) == 4
    assert again.lines[-4:] == ended.lines[-4:]


def test_a_sweep_needs_the_split_of_its_base(project: Path, digits: Digits) -> None:
    write_digits(project / "tiny")
    path = written(project, 'base = "fast"\n[grid]\nwidth = [8]\n')
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert ended.code == 2
    assert "run `make split DATASET=tiny CONFIG=fast` first" in ended.error
    with pytest.raises(UserError, match=r"this is a sweep.* run `digits sweep"):
        config.load(str(path))
