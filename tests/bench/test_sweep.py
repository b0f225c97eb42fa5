"""sweep.py: what varies, what is trained, and the comparison."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Digits, build, fake_training, write_digits

from pipeline import config, environment
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
    loaded = sweep.load(written(tmp_path, text))
    assert loaded.base == config.load("fast")
    assert loaded.arms["base"] == [loaded.base]
    variants = [preset for presets in loaded.arms.values() for preset in presets][1:]
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
    assert {v.split for v in variants} == {loaded.base.split}
    assert variants[5].train.epochs == loaded.base.train.epochs


def test_each_arm_is_trained_with_each_seed(tmp_path: Path) -> None:
    text = 'base = "fast"\nseeds = [0, 7]\n[grid]\nwidth = [24]\n'
    loaded = sweep.load(written(tmp_path, text))
    assert {name: [p.name for p in presets] for name, presets in loaded.arms.items()} == {
        # With the base's own seed, the folders are those of a sweep without seeds.
        "base": ["fast", "sweeps/widths/seed=7"],
        "width=24": ["sweeps/widths/width=24", "sweeps/widths/width=24,seed=7"],
    }
    assert [p.train.seed for presets in loaded.arms.values() for p in presets] == [0, 7, 0, 7]
    assert [p.train.width for p in loaded.arms["width=24"]] == [24, 24]


def test_a_base_of_the_user_is_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("[train]\nepochs = 2\n")
    base = sweep.load(written(tmp_path, 'base = "mine.toml"\n[grid]\nwidth = [8]\n')).base
    assert (base.name, base.train.epochs) == ("mine", 2)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('base = "fast"\n[grid]\nfolds = [2]\n', "folds is not a parameter of [train]"),
        ("base = 3\n[grid]\nwidth = [8]\n", "base must name a preset"),
        ('base = "fest"\n[grid]\nwidth = [8]\n', "there is no preset 'fest', did you mean fast"),
        ('base = "best"\n[grid]\nwidth = [8]\n', "base: best is an ensemble"),
        ('base = "fast"\n', "nothing varies"),
        ('base = "fast"\nwidth = 3\n', "unknown key width"),
        ('base = "fast"\n[grid]\nwidth = 8\n', "[grid] must give each key a list"),
        ('base = "fast"\n[grid]\nwidth = []\n', "[grid] must give each key a list"),
        ('base = "fast"\n[grid]\nwidht = [8]\n', "did you mean width?"),
        ('base = "fast"\n[grid]\nwidth = [8, 0]\n', "train.width must be between 1 and 1024"),
        ('base = "fast"\n[grid]\nwidth = [8, 8]\n', "width=8 is listed twice"),
        ('base = "fast"\n[variants]\nwidth = 8\n', "variants must be tables"),
        ('base = "fast"\nseeds = [true]\n[grid]\nwidth = [8]\n', "seeds must be a list of"),
        ('base = "fast"\nseeds = [1, 1]\n[grid]\nwidth = [8]\n', "seeds: one is listed twice"),
        ('base = "fast"\nseeds = [1]\n[grid]\nseed = [8]\n', "seed varies twice"),
    ],
)
def test_the_message_names_a_fault(tmp_path: Path, text: str, part: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError, match=re.escape(part)) as caught:
        sweep.load(path)
    assert str(path) in str(caught.value)


def test_the_command_trains_what_is_due_and_prints_the_comparison(
    project: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    trained: list[tuple[int, int]] = []
    files = ("weights", "history", "oof", "test", "augmented")

    def train(fold: int, params: config.Train, **paths: Any) -> dict[str, Any]:
        trained.append((params.width, fold))
        found = fake_training(paths, {name: paths[name] for name in files}, fold)
        if (params.width, fold) == (8, 1):  # it gets its first three rows wrong
            probabilities = np.load(paths["oof"])
            probabilities[:3] = np.roll(probabilities[:3], 1, axis=1)
            np.save(paths["oof"], probabilities)
        return found | {"epoch_seconds": [2.0, 1.0]}

    monkeypatch.setattr("pipeline.train.runtime._fix_threads", environment.threads)
    monkeypatch.setattr("pipeline.train.fold.train", train)
    write_digits(project / "tiny")
    (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nwidth = 4\n")
    build("tiny", "pair.toml")
    path = written(project, 'base = "pair.toml"\n[grid]\nwidth = [8, 16]\n')
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert ended.code == 0, ended.error
    assert trained == [(8, 0), (8, 1), (16, 0), (16, 1)]
    *table, legend, _ = ended.lines
    assert legend.startswith("80 rows; ±: one standard error")
    header, base, first, second = (line.split() for line in table[-4:])
    assert header[0] == "variant"
    assert base[:5] == ["base", "1.00000", "±", "0.00000", "0"]
    assert first[:5] == ["width=8", "0.96250", "±", "0.02124", "3"]
    assert first[6:] == ["6", "s", "-0.03750", "±", "0.02137", "0", "of", "2"]
    assert second[:2] == ["width=16", "1.00000"]
    assert second[6:] == ["6", "s", "+0.00000", "±", "0.00000", "0", "of", "2"]
    again = digits("sweep", str(path), "--dataset", "tiny")
    assert len(trained) == 4
    assert again.lines[-6:] == ended.lines[-6:]
    # Two more seeds: the means of three runs, of which two are new.
    written(project, 'base = "pair.toml"\nseeds = [0, 1, 2]\n[grid]\nwidth = [8]\n')
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert [width for width, _ in trained[4:]] == [4] * 4 + [8] * 4
    *table, legend, _ = ended.lines
    assert legend.startswith("80 rows; means of 3 seeds; ±")
    assert table[-1].split()[:5] == ["width=8", "0.96250", "±", "0.02124", "3"]
    # Every line says whose fold it is.
    (project / "data" / "tiny" / "pair" / "fold-1" / "manifest.json").unlink()
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert any(line.startswith("train pair fold 1: it has not run yet") for line in ended.lines)


def test_a_sweep_needs_the_split_of_its_base(project: Path, digits: Digits) -> None:
    write_digits(project / "tiny")
    path = written(project, 'base = "fast"\n[grid]\nwidth = [8]\n')
    ended = digits("sweep", str(path), "--dataset", "tiny")
    assert ended.code == 2
    assert "run `make split DATASET=tiny CONFIG=fast` first" in ended.error
    with pytest.raises(UserError, match=r"this is a sweep.* run `digits sweep"):
        config.load(str(path))
