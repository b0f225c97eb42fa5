"""ensemble.py: out-of-fold rows in their places, the mean of the folds, and the accuracy."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline import estimate
from pipeline.ensemble import ensemble

# Eight rows; the two folds hold out four and three, and row 3 is never held out.
LABELS = np.array([0, 1, 2, 3, 4, 5, 6, 7], np.uint8)
FOLD_IDS = np.array([0, 1, 0, -1, 1, 0, 0, 1], np.int8)
# What the network that has not seen a row predicts for it: wrong for rows 2 and 7.
PREDICTED = [0, 1, 9, -1, 4, 5, 6, 9]


def certain(labels: list[int]) -> np.ndarray:
    """Probabilities that are 0.55 for each label and 0.05 for the others."""
    return (np.eye(10)[labels] * 0.5 + 0.05).astype(np.float32)


def averaged(home: Path, members: Mapping[str, Sequence[Path]]) -> tuple[Path, dict[str, object]]:
    """The folder and metadata of an ensemble; `members` are the folders of each preset's folds."""
    np.save(home / "labels.npy", LABELS)
    np.save(home / "fold_ids.npy", FOLD_IDS)
    (home / "remarks.json").write_text('["half of the rows are copies"]')
    target = home / "ensemble"
    target.mkdir()
    metadata = ensemble(
        fold_oof={name: [folder / "oof.npy" for folder in its] for name, its in members.items()},
        fold_test={name: [folder / "test.npy" for folder in its] for name, its in members.items()},
        train_labels=home / "labels.npy",
        fold_ids=home / "fold_ids.npy",
        remarks=home / "remarks.json",
        oof=target / "oof.npy",
        test=target / "test.npy",
        metrics=target / "metrics.json",
    )
    return target, metadata


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, dict[str, object]]:
    """The folder and metadata of an ensemble of two folds."""
    folders = [tmp_path / "fold-0", tmp_path / "fold-1"]
    tests = [certain([3, 4, 5]), certain([3, 5, 5])]
    for fold, folder in enumerate(folders):
        folder.mkdir()
        rows = [label for label, held in zip(PREDICTED, FOLD_IDS, strict=True) if held == fold]
        np.save(folder / "oof.npy", certain(rows))
        np.save(folder / "test.npy", tests[fold])
    return averaged(tmp_path, {"one": folders})


def test_each_row_is_predicted_by_the_fold_that_holds_it_out(
    made: tuple[Path, dict[str, object]],
) -> None:
    oof = np.load(made[0] / "oof.npy")
    assert oof.shape == (8, 10)
    assert oof.dtype == np.float32
    assert np.isnan(oof[3]).all()
    held_out = FOLD_IDS >= 0
    # Each fold gets the temperature that was fitted on the other one.
    mean = certain(PREDICTED)
    for fold in (0, 1):
        other = 1 - fold == FOLD_IDS
        temperature = estimate.fit(mean[other], LABELS[other])
        expected = estimate.apply(mean[fold == FOLD_IDS], temperature)
        np.testing.assert_array_equal(oof[fold == FOLD_IDS], expected)
    np.testing.assert_array_equal(oof[held_out].argmax(axis=1), mean[held_out].argmax(axis=1))


def test_accuracy_and_standard_error(made: tuple[Path, dict[str, object]]) -> None:
    folder, metadata = made
    # Five of seven right; three of four in fold 0, two of three in fold 1.
    assert metadata["oof_rows"] == 7
    assert metadata["oof_accuracy"] == pytest.approx(5 / 7)
    assert metadata["oof_standard_error"] == pytest.approx(math.sqrt(5 / 7 * 2 / 7 / 7))
    assert metadata["fold_accuracies"] == pytest.approx([3 / 4, 2 / 3])
    assert metadata["remarks"] == ["half of the rows are copies"]
    assert json.loads((folder / "metrics.json").read_text()) == metadata


def test_the_test_probabilities_are_the_calibrated_mean(
    made: tuple[Path, dict[str, object]],
) -> None:
    folder, metadata = made
    held_out = FOLD_IDS >= 0
    temperature = estimate.fit(certain(PREDICTED)[held_out], LABELS[held_out])
    assert metadata["temperature"] == temperature
    test = np.load(folder / "test.npy")
    assert test.dtype == np.float32
    mean = (certain([3, 4, 5]) + certain([3, 5, 5])) / 2
    np.testing.assert_allclose(test, estimate.apply(mean, temperature), rtol=1e-6)
    assert test[1, 4] == pytest.approx(test[1, 5])


def test_the_calibration_errors_are_before_and_after(
    made: tuple[Path, dict[str, object]],
) -> None:
    folder, metadata = made
    # Before: a confidence of 0.55 everywhere, and 5 of 7 right.
    assert metadata["calibration_error_before"] == pytest.approx(5 / 7 - 0.55)
    # After: one confidence in each fold, of which 3 of 4 and 2 of 3 are right.
    oof = np.load(folder / "oof.npy")
    sure = [oof[fold == FOLD_IDS].max(axis=1)[0] for fold in (0, 1)]
    expected = (4 * abs(sure[0] - 3 / 4) + 3 * abs(sure[1] - 2 / 3)) / 7
    assert metadata["calibration_error"] == pytest.approx(expected, rel=1e-5)


def test_members_are_averaged_row_by_row(tmp_path: Path) -> None:
    # The first is confident and wrong in row 2. The second is less confident, and wrong in row 0.
    predicted = {"sure": certain(PREDICTED), "unsure": 0.4 * certain([1, *range(1, 8)]) + 0.06}
    members: dict[str, list[Path]] = {}
    for name, probabilities in predicted.items():
        for fold in range(2):
            folder = tmp_path / name / f"fold-{fold}"
            folder.mkdir(parents=True)
            np.save(folder / "oof.npy", probabilities[fold == FOLD_IDS])
            np.save(folder / "test.npy", probabilities[fold : fold + 1])
            members.setdefault(name, []).append(folder)
    target, metadata = averaged(tmp_path, members)
    oof, test = np.load(target / "oof.npy"), np.load(target / "test.npy")
    expected = np.asarray((predicted["sure"] + predicted["unsure"]) / 2, np.float32)
    calibrated = estimate.apply_out_of_fold(expected, LABELS, FOLD_IDS)
    np.testing.assert_allclose(oof[FOLD_IDS >= 0], calibrated[FOLD_IDS >= 0], rtol=1e-5)
    assert np.isnan(oof[3]).all()
    mean = (expected[:1] + expected[1:2]) / 2
    np.testing.assert_allclose(
        test, estimate.apply(mean, float(str(metadata["temperature"]))), rtol=1e-5
    )
    assert metadata["member_accuracies"] == pytest.approx({"sure": 5 / 7, "unsure": 6 / 7})
    # Where they differ, the more confident one prevails.
    assert metadata["oof_accuracy"] == pytest.approx(5 / 7)
