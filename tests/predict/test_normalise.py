"""normalise.py: a digit ends in the form of MNIST: a box of 20, centred by its mass."""

import numpy as np
import pytest
from handwriting import from_strokes
from scipy import ndimage

from pipeline.predict import find
from pipeline.predict.normalise import (
    BROADEST,
    THINNEST,
    digits_in,
    in_form,
    normalise,
    stroke_width,
)


def sides(digit: np.ndarray) -> list[int]:
    return [int(np.ptp(np.nonzero(digit.any(axis=axis))[0])) + 1 for axis in (1, 0)]


@pytest.mark.parametrize(("label", "pen"), [(0, 0.1), (1, 0.03), (4, 0.25), (8, 0.03)])
def test_the_longer_side_is_20_and_the_mass_is_in_the_middle(label: int, pen: float) -> None:
    shape = from_strokes(label, pen, np.random.default_rng(label), 200)
    digit = normalise(find.whole(shape, 0.5))
    assert (digit.shape, digit.dtype, digit.max()) == ((28, 28), np.uint8, 255)
    assert max(sides(digit)) == 20
    assert np.abs(np.subtract(ndimage.center_of_mass(digit), 14)).max() <= 0.51
    assert THINNEST - 0.6 <= stroke_width(digit > 127) <= BROADEST + 0.6


def test_the_size_of_the_drawing_does_not_matter() -> None:
    shapes = [from_strokes(3, 0.1, np.random.default_rng(3), height) for height in (60, 120, 500)]
    small, middle, large = (normalise(find.whole(shape, 0.5)).astype(int) for shape in shapes)
    assert np.abs(small - large).mean() < 6
    assert np.abs(middle - large).mean() < 4


def test_a_digit_of_the_dataset_is_left_as_it_is() -> None:
    shape = from_strokes(5, 0.12, np.random.default_rng(5), 200)
    digit = normalise(find.whole(shape, 0.5))
    for picture in (digit, 255 - digit):
        assert np.array_equal(in_form(picture), digit)
        colours = np.repeat(picture[..., np.newaxis], 3, axis=-1).astype(np.float32)
        [seen] = digits_in(colours)
        assert np.array_equal(seen.pixels, digit)
    assert in_form(np.roll(digit, 4, axis=0)) is None
    assert in_form(np.zeros((28, 28), np.uint8)) is None
