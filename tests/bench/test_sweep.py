"""sweep.py: what is varied, what is trained, and the table that comes of it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import build, fake_training, write_digits

from pipeline import artifacts, cli, config, engines, stages, sweep
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
    # All the rest is the base's.
    assert {v.split for v in variants} == {base.split}
    assert variants[5].train.epochs == base.train.epochs


def test_a_base_of_ones_own_lies_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 2\n")
    base, _ = sweep.load(written(tmp_path, 'base = "mine.toml"\n[grid]\nwidth = [8]\n'))
    assert (base.name, base.train.epochs) == ("mine", 2)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('base = "fast"\n[grid]\nfolds = [2]\n', "folds is no parameter of [train]"),
        ("[grid]\nwidth = [8]\n", "base has to name a preset"),
        ("base = 3\n[grid]\nwidth = [8]\n", "base has to name a preset"),
        ('base = "fest"\n[grid]\nwidth = [8]\n', "there is no preset 'fest', did you mean fast"),
        ('base = "best"\n[grid]\nwidth = [8]\n', "puts presets together"),
        ('base = "fast"\n', "nothing varies"),
        ('base = "fast"\nwidth = 3\n', "unknown key width"),
        ('base = "fast"\n[grid]\nwidth = 8\n', "has to give each key a list"),
        ('base = "fast"\n[grid]\nwidth = []\n', "has to give each key a list"),
        (
            'base = "fast"\n[grid]\nwidht = [8]\n',
            "widht is no parameter of [train], the table that varies, did you mean width?",
        ),
        ('base = "fast"\n[grid]\nwidth = [8, 0]\n', "train.width has to lie between 1 and 1024"),
        ('base = "fast"\n[grid]\nwidth = [8, 8]\n', "width=8 is there twice"),
        ('base = "fast"\n[variants]\nwidth = 8\n', "variants has to be tables"),
        ('base = "fast"\n[[variants]]\n', "variants has to be tables"),
    ],
)
def test_a_fault_is_named(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        sweep.load(path)
    assert str(path) in str(caught.value)


def test_the_table_compares_on_the_same_rows(project: Path) -> None:
    """Two folds of 40 rows; the variant gets 2 more right in one and 1 less in the other."""
    write_digits(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n")
    steps = build("tiny", "pair.toml")
    folds = engines.trainings(steps, config.load("pair.toml"))
    labels = np.load(stages.named(steps, "preprocess").outputs[1])
    fold_ids = np.load(stages.named(steps, "split").outputs[0])
    base, variant = (
        config.load("pair.toml"),
        config.variant(config.load("pair.toml"), "sweeps/w/width=8", {"width": 8}, "w.toml"),
    )
    others = engines.trainings(stages.steps(stages.dataset("tiny"), variant), variant)
    wrong = {base.name: ([0, 1, 2], [5]), variant.name: ([2], [5, 6])}
    for name, run in ((base.name, folds), (variant.name, others)):
        for training, rows in zip(run, wrong[name], strict=True):
            step = training.step
            predict(step, labels[fold_ids == step.params["fold"]], rows)
    first, second = sweep.compare({"base": folds, "width=8": others}, labels, fold_ids)
    assert (first.name, first.accuracy, first.difference) == ("base", 76 / 80, 0)
    assert first.error == pytest.approx((0.95 * 0.05 / 80) ** 0.5)
    assert (second.name, second.accuracy) == ("width=8", 77 / 80)
    assert second.difference == pytest.approx(1 / 80)
    # The folds differ by +2 and by -1 of 40 rows: half their distance.
    assert second.uncertainty == pytest.approx((2 / 40 - -1 / 40) / 2)
    # With one fold the rows have to do.
    (_, second) = sweep.compare({"base": folds[:1], "width=8": others[:1]}, labels, fold_ids)
    gains = np.array([1, 1] + [0] * 38)
    assert second.uncertainty == pytest.approx(gains.std(ddof=1) / 40**0.5)


def predict(step: artifacts.Step, labels: Any, wrong: list[int]) -> None:
    probabilities = np.eye(10, dtype=np.float32)[labels]
    probabilities[wrong] = np.roll(probabilities[wrong], 1, axis=1)
    step.manifest.parent.mkdir(parents=True, exist_ok=True)
    np.save(step.manifest.parent / "oof.npy", probabilities)


def test_the_command_trains_what_is_missing_and_prints_the_table(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[tuple[int, int]] = []

    def train(
        folder: Path, tensors: Path, fold_ids_path: Path, fold: int, params: Any, **rest: object
    ) -> Any:
        trained.append((params.width, fold))
        return fake_training(folder, tensors, fold_ids_path, fold) | {"epoch_seconds": [2.0, 1.0]}

    monkeypatch.setattr("pipeline.train.train", train)
    write_digits(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 4\n")
    build("tiny", "pair.toml")
    capsys.readouterr()
    path = written(project, 'base = "pair.toml"\n[grid]\nwidth = [8, 16]\n')
    call = ["digits", "sweep", str(path), "--dataset", "tiny"]
    monkeypatch.setattr("sys.argv", call)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert trained == [(8, 0), (8, 1), (16, 0), (16, 1)]
    *said, legend = capsys.readouterr().out.splitlines()
    assert legend == "±: one standard error; that of a difference from how it varies over the folds"
    lines = [line.split() for line in said[-4:]]
    assert lines[0][0] == "variant"
    assert lines[1][:2] == ["base", "1.00000"]
    assert lines[2][:5] == ["width=8", "1.00000", "0.00000", "6", "s"]
    assert lines[2][5:] == ["+0.00000", "0.00000"]
    assert lines[3][0] == "width=16"
    with pytest.raises(SystemExit):
        cli.main()
    assert len(trained) == 4


def test_a_sweep_says_what_it_rests_on(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_digits(project / "tiny")
    path = written(project, 'base = "fast"\n[grid]\nwidth = [8]\n')
    monkeypatch.setattr("sys.argv", ["digits", "sweep", str(path), "--dataset", "tiny"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    said = (
        "digits: download: missing; run `make split DATASET=tiny` with the base as CONFIG first\n"
    )
    assert capsys.readouterr().err == said
    with pytest.raises(UserError, match="this is a sweep and no preset: digits sweep"):
        config.load(str(path))
