"""split.py: each row is held out once, stratified and reproducible; copies share a fold."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.config import Split
from pipeline.errors import UserError
from pipeline.split import split

# 20 rows of class 0, 25 of class 1, … 65 of class 9.
LABELS = np.repeat(np.arange(10), 20 + 5 * np.arange(10)).astype(np.uint8)


def noise(rows: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images that all differ, with black edges."""
    images = np.random.default_rng(seed).integers(0, 256, (rows, 28, 28, 1), np.uint8)
    images[:, [0, -1]] = 0
    images[:, :, [0, -1]] = 0
    return images


def draw(
    folder: Path,
    folds: int,
    holdout: float = 0.15,
    seed: int = 0,
    labels: NDArray[np.uint8] = LABELS,
    images: NDArray[np.uint8] | None = None,
    test: NDArray[np.uint8] | None = None,
) -> tuple[NDArray[np.int8], dict[str, Any], list[str]]:
    """The fold ids of a draw, its metadata and its remarks."""
    arrays = {
        "train_images": noise(len(labels)) if images is None else images,
        "train_labels": labels,
        "test_images": noise(7, seed=1) if test is None else test,
    }
    paths = {name: folder / f"{name}.npy" for name in arrays}
    for name, array in arrays.items():
        np.save(paths[name], array)
    fold_ids, remarks = folder / "fold_ids.npy", folder / "remarks.json"
    metadata = split(
        **paths, fold_ids=fold_ids, remarks=remarks, params=Split(folds, holdout, seed)
    )
    return np.load(fold_ids), metadata, json.loads(remarks.read_text())


@pytest.mark.parametrize("folds", [2, 5, 20])
def test_every_row_is_held_out_once_and_folds_are_stratified(tmp_path: Path, folds: int) -> None:
    ids, metadata, remarks = draw(tmp_path, folds)
    assert ids.dtype == np.int8
    assert ids.shape == LABELS.shape
    assert set(ids) == set(range(folds))
    assert metadata == {
        "held_out": np.bincount(ids).tolist(),
        "copies": {"train": 0, "test": 0},
    }
    assert remarks == []
    for label in range(10):
        shares = np.bincount(ids[label == LABELS], minlength=folds)
        assert shares.max() - shares.min() <= 1


@pytest.mark.parametrize("holdout", [0.15, 0.5])
def test_one_fold_is_a_stratified_hold_out(tmp_path: Path, holdout: float) -> None:
    ids, metadata, _ = draw(tmp_path, 1, holdout)
    assert set(ids) == {-1, 0}
    assert abs((ids == 0).sum() - holdout * len(LABELS)) <= 1
    assert metadata["held_out"] == [(ids == 0).sum()]
    for label in range(10):
        rows = ids[label == LABELS]
        assert abs((rows == 0).sum() - holdout * len(rows)) <= 1


@pytest.mark.parametrize("folds", [1, 3])
def test_a_seed_fixes_the_draw(tmp_path: Path, folds: int) -> None:
    first, *_ = draw(tmp_path, folds, seed=7)
    first_bytes = (tmp_path / "fold_ids.npy").read_bytes()
    draw(tmp_path, folds, seed=7)
    assert (tmp_path / "fold_ids.npy").read_bytes() == first_bytes
    other, *_ = draw(tmp_path, folds, seed=8)
    assert (first != other).any()
    assert len(set(other[LABELS == 9][:13])) > 1, "rows are shuffled"


@pytest.mark.parametrize("folds", [1, 3])
def test_a_class_that_is_too_rare(tmp_path: Path, folds: int) -> None:
    labels = np.append(LABELS[LABELS != 4], np.uint8(4))
    with pytest.raises(UserError, match=r"labels\.npy: class 4 has 1 rows"):
        draw(tmp_path, folds, labels=labels)
    assert not (tmp_path / "fold_ids.npy").exists()


def test_a_hold_out_that_is_smaller_than_the_classes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"labels\.npy: split\.holdout = 0\.01 .*nearer to 0\.5"):
        draw(tmp_path, 1, holdout=0.01)


# --- rows that make the estimate doubtful ---------------------------------------------------------


@pytest.mark.parametrize("folds", [1, 3])
def test_copies_are_in_the_fold_of_their_first_row(
    tmp_path: Path, folds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before, *_ = draw(tmp_path, folds)
    images = noise(len(LABELS))
    images[100:110] = images[0]  # of class 0 first, then of another
    images[302] = images[301]
    ids, metadata, remarks = draw(tmp_path, folds, images=images, test=images[[5, 6, 0]])
    assert set(ids[100:110]) == {ids[0]}
    assert ids[302] == ids[301]
    moved = [*range(100, 110), 302]
    np.testing.assert_array_equal(np.delete(ids, moved), np.delete(before, moved))
    assert metadata["copies"] == {"train": 11, "test": 3}
    assert "11 of 425 training images" in remarks[0]
    assert "10 with another label" in remarks[0]
    assert "3 of the test images are" in remarks[1]
    assert capsys.readouterr().out.splitlines() == [f"note: {remark}" for remark in remarks]


def test_copies_that_leave_a_fold_without_rows(tmp_path: Path) -> None:
    images = np.repeat(noise(1), len(LABELS), axis=0)
    with pytest.raises(UserError, match=r"images\.npy: fold \d holds out no row.*only 1 of 425"):
        draw(tmp_path, 3, images=images)


def test_a_class_of_which_none_is_held_out(tmp_path: Path) -> None:
    labels = np.append(LABELS[LABELS != 4], np.uint8([4, 4]))
    ids, _, remarks = draw(tmp_path, 1, labels=labels)
    assert (ids[labels == 4] == -1).all()
    assert [remark[:34] for remark in remarks] == ["class 4 has 2 rows and none is held"[:34]]


def test_a_class_that_is_all_in_one_fold(tmp_path: Path) -> None:
    images = noise(len(LABELS))
    images[LABELS == 2] = images[LABELS == 2][0]
    _, _, remarks = draw(tmp_path, 3, images=images)
    assert "all 30 rows of class 2 are in fold" in remarks[1]


@pytest.mark.parametrize("value", [0, 255])
def test_inverted_images_and_a_lost_column(tmp_path: Path, value: int) -> None:
    images = noise(len(LABELS)) if value == 0 else 255 - noise(len(LABELS))
    images[:, :, 14] = value
    _, _, remarks = draw(tmp_path, 3, images=images)
    assert ["inverted" in remark for remark in remarks] == [True, False][value == 0 :]
    assert (
        f"12 pixels in the middle of the training images never change, first of all pixel238, "
        f"always {value}" in remarks[-1]
    )
