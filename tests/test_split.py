"""split.py: each row is held out once, the folds are stratified, and a seed fixes the draw."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Split
from pipeline.errors import UserError
from pipeline.split import split

# 20 rows of class 0, 25 of class 1, … 65 of class 9.
LABELS = np.repeat(np.arange(10), 20 + 5 * np.arange(10)).astype(np.uint8)


def draw(
    folder: Path, folds: int, holdout: float = 0.15, seed: int = 0, labels: NDArray = LABELS
) -> tuple[NDArray[np.int8], dict[str, object]]:
    """The fold ids of a draw, and its metadata."""
    train_labels, fold_ids = folder / "labels.npy", folder / "fold_ids.npy"
    np.save(train_labels, labels)
    metadata = split(train_labels, fold_ids, Split(folds, holdout, seed))
    return np.load(fold_ids), metadata


@pytest.mark.parametrize("folds", [2, 3, 5, 20])
def test_every_row_is_held_out_once_and_folds_are_stratified(tmp_path: Path, folds: int) -> None:
    ids, metadata = draw(tmp_path, folds)
    assert ids.dtype == np.int8
    assert ids.shape == LABELS.shape
    assert set(ids) == set(range(folds))
    assert metadata["held_out"] == np.bincount(ids).tolist()
    for label in range(10):
        shares = np.bincount(ids[label == LABELS], minlength=folds)
        assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize("holdout", [0.15, 0.5])
def test_one_fold_is_a_stratified_hold_out(tmp_path: Path, holdout: float) -> None:
    ids, metadata = draw(tmp_path, 1, holdout)
    assert set(ids) == {-1, 0}
    assert abs((ids == 0).sum() - holdout * len(LABELS)) <= 1
    assert metadata["held_out"] == [(ids == 0).sum()]
    for label in range(10):
        rows = ids[label == LABELS]
        assert abs((rows == 0).sum() - holdout * len(rows)) <= 1


@pytest.mark.parametrize("folds", [1, 3])
def test_a_seed_fixes_the_draw(tmp_path: Path, folds: int) -> None:
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
    with pytest.raises(UserError, match=r"labels\.npy: class 4 has 1 rows"):
        draw(tmp_path, folds, labels=labels)
    assert not (tmp_path / "fold_ids.npy").exists()


def test_a_hold_out_that_is_smaller_than_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.npy: split\.holdout = 0\.01 .*nearer to 0\.5"):
        draw(tmp_path, 1, holdout=0.01)
