"""paired.py: differences and standard errors of predictions made by hand."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from pipeline.bench import paired

LABELS = (np.arange(40) % 10).astype(np.uint8)
# The last four rows are held out by no fold.
FOLD_IDS = np.where(np.arange(40) < 36, np.arange(40) % 2, -1).astype(np.int8)


def predicted(wrong: list[int], sure: float = 0.91) -> np.ndarray:
    """Probabilities that are `sure` of the true label, or of the next one in the rows `wrong`."""
    labels = LABELS.copy()
    labels[wrong] = (labels[wrong] + 1) % 10
    return np.where(np.eye(10)[labels] == 1, sure, (1 - sure) / 9).astype(np.float32)


def test_a_run_is_measured_on_held_out_rows() -> None:
    measured = paired.measure([predicted([0, 1, 38])], LABELS, FOLD_IDS)
    assert len(measured.right) == 36
    columns = measured.columns()
    error = (34 / 36 * 2 / 36 / 36) ** 0.5
    assert columns["out of fold"] == f"{34 / 36:.5f} ± {error:.5f}"
    assert columns["wrong"] == "2"
    assert measured.loss[2] == pytest.approx(-np.log(0.91), rel=1e-5)
    assert measured.loss[0] == pytest.approx(-np.log(0.01), rel=1e-5)


def test_seeds_are_averaged_row_by_row() -> None:
    measured = paired.measure([predicted([0, 1]), predicted([1, 2, 3])], LABELS, FOLD_IDS)
    np.testing.assert_array_equal(measured.right[:5], [0.5, 0, 0.5, 0.5, 1])
    assert measured.columns()["wrong"] == "2.5"


def test_the_difference_is_that_of_the_rows() -> None:
    """The new recipe gains rows 0, 2 and 4 and loses row 1: +2 of 36."""
    base = paired.measure([predicted([0, 2, 4, 6])], LABELS, FOLD_IDS)
    new = paired.measure([predicted([1, 6])], LABELS, FOLD_IDS)
    its = paired.difference(new, base)
    assert its.accuracy == pytest.approx(2 / 36)
    # The variance of three +1, one -1 and 32 zeros, by hand.
    variance = (4 - 36 * (2 / 36) ** 2) / 35
    assert its.uncertainty == pytest.approx((variance / 36) ** 0.5)
    # Fold 0 (the even rows) loses three errors; fold 1 gets a new one.
    assert its.lower == 1
    assert its.loss == pytest.approx(-2 * np.log(91) / 36, rel=1e-4)


def test_the_uncertainty_is_what_a_bootstrap_over_rows_gives() -> None:
    random = np.random.default_rng(0)
    runs = [predicted(list(random.choice(36, 6, replace=False))) for _ in range(4)]
    base = paired.measure(runs[:2], LABELS, FOLD_IDS)
    new = paired.measure(runs[2:], LABELS, FOLD_IDS)
    drawn = bootstrap((new.right - base.right,), np.mean, n_resamples=20_000, rng=1)
    # The bootstrap divides by n where s divides by n - 1.
    assert paired.difference(new, base).uncertainty * (35 / 36) ** 0.5 == pytest.approx(
        drawn.standard_error, rel=0.03
    )


def test_a_recipe_does_not_differ_from_itself() -> None:
    measured = paired.measure([predicted([3])], LABELS, FOLD_IDS)
    assert paired.difference(measured, measured) == paired.Difference(0, 0, 0, 0)
