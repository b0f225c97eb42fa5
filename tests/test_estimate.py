"""estimate.py: the temperature is found, changes no label, and is judged on other rows."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from pipeline import estimate
from pipeline.errors import UserError


def drawn(rows: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are right at a temperature: the labels are drawn from them at that one."""
    random = np.random.default_rng(seed)
    logits = 3 * random.normal(size=(rows, 10))
    true = softmax(logits, axis=1)
    labels = (random.random((rows, 1)) > true.cumsum(axis=1)).sum(axis=1).clip(max=9)
    return softmax(logits * temperature, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_the_temperature_is_found(temperature: float) -> None:
    probabilities, labels = drawn(20_000, temperature)
    found = estimate.fit(probabilities, labels)
    assert found == pytest.approx(temperature, rel=0.05)


def test_where_every_row_is_right_the_temperature_is_the_lowest() -> None:
    probabilities = (np.eye(10) * 0.5 + 0.05).astype(np.float32)
    assert estimate.fit(probabilities, np.arange(10)) == pytest.approx(0.1, rel=1e-3)
    assert estimate.fit(probabilities[:0], np.arange(0)) == 1.0


def test_a_temperature_is_a_power() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2] + [0.0] * 7], np.float32)
    scaled = estimate.apply(probabilities, 0.5)
    np.testing.assert_allclose(scaled[0, :3], np.array([25, 9, 4]) / 38, rtol=1e-6)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled[0, 3:], 0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_no_label_changes_even_between_neighbouring_numbers(temperature: float) -> None:
    """The two most probable classes differ by the last bit of a float32, or not at all."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(10, 0.3), 20_000).astype(np.float32)
    rows, first, second = np.arange(20_000), *random.integers(0, 10, (2, 20_000))
    highest = probabilities.max(axis=1)
    above = np.nextafter(highest, np.float32(1))
    probabilities[rows, first] = highest
    probabilities[rows, second] = np.where(rows % 2, highest, above)
    scaled = estimate.apply(probabilities, temperature)
    np.testing.assert_array_equal(scaled.argmax(axis=1), probabilities.argmax(axis=1))
    np.testing.assert_allclose(scaled.sum(axis=1), 1, rtol=1e-5)


def test_each_fold_gets_the_temperature_of_the_others() -> None:
    """The labels of a fold have no part in its own probabilities."""
    probabilities, labels = drawn(600, 2.0)
    fold_ids = (np.arange(600) % 3).astype(np.int8)
    fold_ids[:30] = -1
    calibrated = estimate.apply_out_of_fold(probabilities, labels, fold_ids)
    for fold in range(3):
        others = (fold_ids != fold) & (fold_ids >= 0)
        expected = estimate.apply(
            probabilities[fold_ids == fold], estimate.fit(probabilities[others], labels[others])
        )
        np.testing.assert_array_equal(calibrated[fold_ids == fold], expected)
    np.testing.assert_array_equal(calibrated[:30], probabilities[:30])


def test_a_single_hold_out_is_judged_in_stratified_parts() -> None:
    probabilities, labels = drawn(400, 2.0)
    fold_ids = np.repeat(np.array([-1, 0], np.int8), 200)
    parts = fold_ids.copy()
    by_class = np.argsort(labels[200:], kind="stable")
    parts[200 + by_class] = np.arange(200) % 5  # the rows of each class take turns
    np.testing.assert_array_equal(
        estimate.apply_out_of_fold(probabilities, labels, fold_ids),
        estimate.apply_out_of_fold(probabilities, labels, parts),
    )


def test_reliability_against_a_loop() -> None:
    random = np.random.default_rng(0)
    confidence = random.random(500)
    confidence[0] = 1.0
    right = random.random(500) < confidence**2
    bins: dict[int, list[int]] = {}
    for i, value in enumerate(confidence):
        bins.setdefault(min(int(value * 15), 14), []).append(i)
    expected = sum(
        len(rows) / 500 * abs(np.mean(confidence[rows]) - np.mean(right[rows]))
        for rows in bins.values()
    )
    sure, correct, rows, error = estimate.reliability(confidence, right)
    assert error == pytest.approx(expected)
    assert rows.sum() == 500
    assert len(sure) == len(correct) == len(bins)
    assert estimate.reliability(np.ones(5), np.ones(5, bool))[3] == 0


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    values = np.full((10, 10), 0.1, np.float32)
    values[2, 3] = np.nan
    np.save(tmp_path / "oof.npy", values)
    with pytest.raises(UserError, match=r"oof\.npy contains values that are not finite"):
        estimate.load(tmp_path / "oof.npy")


def test_the_standard_error_of_an_accuracy() -> None:
    assert estimate.standard_error(0.5, 100) == pytest.approx(0.05)
    assert estimate.standard_error(1.0, 10) == 0
