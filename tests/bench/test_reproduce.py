"""reproduce.py: each tutorial has its preset; comparisons respect both standard errors."""

import re
from pathlib import Path

import pytest
from conftest import run_digits, write_digits

from pipeline import config
from pipeline.bench.reproduce import TUTORIALS


@pytest.mark.parametrize("name", list(TUTORIALS))
def test_each_tutorial_has_a_preset_with_its_network(name: str) -> None:
    preset = config.load(name)
    assert preset.train.network == name.removesuffix("-rotated").replace("-", "_")
    assert preset.split.folds == 1


def test_the_published_parameters() -> None:
    trained = {name: config.load(name).train for name in TUTORIALS}
    published = {name: (t.optimizer, t.batch_size, t.epochs) for name, t in trained.items()}
    assert published == {
        "mlp": ("adam", 32, 5),
        "cnn-5x5": ("adam", 128, 10),
        "cnn-batchnorm": ("adam", 50, 10),
        "cnn-batchnorm-rotated": ("adam", 50, 20),
        "cnn-fashion": ("adam", 32, 20),
        "notebook": ("rmsprop", 86, 30),
    }
    assert {t.learning_rate for t in trained.values()} == {0.001}
    assert {t.decay for t in trained.values()} == {"none"}
    rotations = {name: (t.rotation, t.augment_after) for name, t in trained.items() if t.rotation}
    assert rotations == {"cnn-batchnorm-rotated": (50, 10), "notebook": (10, 0)}
    patience = {name: (t.patience, t.monitor) for name, t in trained.items() if t.patience}
    assert patience == {
        "cnn-batchnorm": (1, "loss"),
        "cnn-fashion": (2, "val_loss"),
        "notebook": (4, "val_loss"),
    }
    assert trained["cnn-fashion"].restore_best_weights


@pytest.mark.slow
def test_from_the_digits_to_the_table(project: Path, tmp_path: Path) -> None:
    digits = write_digits(tmp_path / "some", train_rows=400)
    command = ["reproduce", "--config", "mlp", "--dataset", str(digits)]
    done = run_digits(project, *command)
    assert done.returncode == 0, done.stderr
    line = done.stdout.splitlines()[-1]
    assert line.startswith("| `mlp` | some, held out (20) | 101,770 | 0.9775 on mnist | ")
    assert " ± " in line
    # What has been trained is not trained again.
    again = run_digits(project, *command)
    assert again.stdout.splitlines()[-1] == line
    assert re.search(r"^train: .*fresh", again.stdout, re.MULTILINE)


def test_an_unknown_tutorial(project: Path) -> None:
    done = run_digits(project, "reproduce", "--config", "mpl")
    assert done.returncode == 2
    assert re.match(r"digits: .*'mpl'.* mlp, ", done.stderr)
