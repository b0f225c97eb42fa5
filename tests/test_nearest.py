"""nearest.py: the nearest training images are those that a search of all of them finds."""

import numpy as np
import pytest
from conftest import digit_images

from pipeline.nearest import Nearest


def coarse(image: np.ndarray) -> np.ndarray:
    """The image at half its resolution in 64 shades, one pixel after the other."""
    blocks = [
        int(image[y : y + 2, x : x + 2].sum()) for y in range(0, 28, 2) for x in range(0, 28, 2)
    ]
    return np.array([block // 16 for block in blocks])


@pytest.mark.parametrize("own", [False, True])
def test_the_nearest_are_those_of_a_search_of_all(own: bool) -> None:
    images, _ = digit_images(60)
    images[50] = images[20]  # equals come in the order of their rows
    rows = np.array([3, 17, 20, 42, 50])
    found, far = Nearest(images).search(images[rows], 4, rows if own else None)
    points = [coarse(image) for image in images]
    for row, neighbours, its in zip(rows, found, far, strict=True):
        distances = [((points[row] - point) ** 2).sum() for point in points]
        order = np.argsort(distances, kind="stable")
        wanted = [other for other in order if not own or other != row][:4]
        assert neighbours.tolist() == wanted
        assert its == pytest.approx(np.sqrt(np.array(distances)[wanted]))


def test_of_few_training_images_all_but_one_are_found() -> None:
    images, _ = digit_images(3)
    assert Nearest(images).search(images, 5, np.arange(3))[0].shape == (3, 2)
    assert Nearest(images).search(images, 5)[0].shape == (3, 3)
    assert len(Nearest(images).search(images[:0], 5)[0]) == 0


def test_what_is_far_is_farther_than_any_training_digit_from_the_others() -> None:
    images, _ = digit_images(60)
    nearest = Nearest(images)
    _, distances = nearest.search(images, 1, np.arange(60))
    assert nearest.far == distances.max() > 0
    blank = np.zeros((1, 28, 28, 1), np.uint8)
    assert nearest.search(blank, 1)[1][0, 0] > nearest.far
