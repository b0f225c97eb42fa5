"""split.py: each row is held out once, each fold has its share of each class, a seed is a draw."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import UserError
from pipeline.split import split

# 20 rows of class 0, 25 of class 1, … 65 of class 9.
LABELS = np.repeat(np.arange(10), 20 + 5 * np.arange(10)).astype(np.uint8)


def draw(
    folder: Path, folds: int, holdout: float = 0.15, seed: int = 0, labels: NDArray = LABELS
) -> tuple[NDArray[np.int8], dict[str, object]]:
    """The fold ids that a draw leaves, and its facts."""
    np.save(folder / "labels.npy", labels)
    facts = split(folder, folder / "labels.npy", folds, holdout, seed)
    return np.load(folder / "fold_ids.npy"), facts


@pytest.mark.parametrize("folds", [2, 3, 5, 20])
def test_every_row_is_held_out_once_and_classes_are_shared_out(tmp_path: Path, folds: int) -> None:
    ids, facts = draw(tmp_path, folds)
    assert ids.dtype == np.int8
    assert ids.shape == LABELS.shape
    assert set(ids) == set(range(folds))
    assert facts["held_out"] == np.bincount(ids).tolist()
    for label in range(10):
        shares = np.bincount(ids[label == LABELS], minlength=folds)
        assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize("holdout", [0.15, 0.5])
def test_one_fold_is_a_stratified_hold_out(tmp_path: Path, holdout: float) -> None:
    ids, facts = draw(tmp_path, 1, holdout)
    assert set(ids) == {-1, 0}
    assert abs((ids == 0).sum() - holdout * len(LABELS)) <= 1
    assert facts["held_out"] == [(ids == 0).sum()]
    for label in range(10):
        rows = ids[label == LABELS]
        assert abs((rows == 0).sum() - holdout * len(rows)) <= 1


@pytest.mark.parametrize("folds", [1, 3])
def test_a_seed_is_a_draw(tmp_path: Path, folds: int) -> None:
    first, _ = draw(tmp_path, folds, seed=7)
    first_bytes = (tmp_path / "fold_ids.npy").read_bytes()
    draw(tmp_path, folds, seed=7)
    assert (tmp_path / "fold_ids.npy").read_bytes() == first_bytes
    other, _ = draw(tmp_path, folds, seed=8)
    assert (first != other).any()


def test_the_rows_are_shuffled(tmp_path: Path) -> None:
    ids, _ = draw(tmp_path, 5)
    first_rows = ids[LABELS == 9][:13]
    assert len(set(first_rows)) > 1


@pytest.mark.parametrize("folds", [1, 3])
def test_a_class_that_is_too_rare(tmp_path: Path, folds: int) -> None:
    labels = np.append(LABELS[LABELS != 4], 4)
    with pytest.raises(UserError, match="class 4 has 1 rows, too few for"):
        draw(tmp_path, folds, labels=labels)
    assert not (tmp_path / "fold_ids.npy").exists()


def test_a_hold_out_that_is_smaller_than_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be split as split\.holdout says"):
        draw(tmp_path, 1, holdout=0.01)
