"""augment.py: what the augmentation does to an image, and what it never does."""

from typing import Any

import numpy as np
import pytest
from conftest import digit_images
from numpy.typing import NDArray

NONE = {"rotation": 0.0, "zoom": 0.0, "shift": 0.0, "shear": 0.0}
STRONG = {"rotation": 30.0, "zoom": 0.2, "shift": 3.0, "shear": 0.3}


pytestmark = pytest.mark.usefixtures("fresh_keras")


def layer(seed: int = 0, **strengths: float) -> Any:
    from pipeline.train.augment import RandomAffine

    return RandomAffine(**{**NONE, **strengths}, seed=seed)


def layer_that_draws(
    monkeypatch: pytest.MonkeyPatch, draws: list[float], **strengths: float
) -> Any:
    """A layer whose six draws an image (angle, shear, zooms, shifts) are given."""
    from pipeline.train import augment

    def uniform(shape: Any, **_: Any) -> Any:
        return augment.ops.tile(augment.ops.array(draws, "float32")[:, None], (1, shape[1]))

    monkeypatch.setattr(augment.keras.random, "uniform", uniform)
    return layer(**strengths)


def augmented(augmentation: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(augmentation(images, training=True))


def blob(x: float, y: float) -> NDArray[np.uint8]:
    """One image, (1, 28, 28, 1), with a soft round spot at column x and row y."""
    rows, columns = np.mgrid[0:28, 0:28]
    spot = 250 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / 8)
    return spot.astype(np.uint8)[np.newaxis, ..., np.newaxis]


def centre(image: NDArray[Any]) -> tuple[float, float]:
    """The column and row of an image's centre of mass."""
    rows, columns = np.mgrid[0:28, 0:28]
    ink = image.reshape(28, 28).astype(float)
    return float((columns * ink).sum() / ink.sum()), float((rows * ink).sum() / ink.sum())


def test_does_nothing_outside_training_or_without_strength() -> None:
    images, _ = digit_images(10)
    augmentation = layer(**STRONG)
    for result in (augmentation(images, training=False), augmentation(images)):
        assert np.asarray(result).dtype == np.float32
        np.testing.assert_array_equal(np.asarray(result), images)
    np.testing.assert_array_equal(augmented(layer(), images), images)
    augmentation.strength.assign(0)
    np.testing.assert_array_equal(augmented(augmentation, images), images)


@pytest.mark.parametrize("name", list(STRONG))
def test_each_strength_alone_changes_every_image_within_the_range_of_pixels(name: str) -> None:
    images, _ = digit_images(10)
    result = augmented(layer(**{name: STRONG[name]}), images)
    assert (result.shape, result.dtype) == (images.shape, np.float32)
    assert all((result[i] != images[i]).any() for i in range(10))
    assert result.min() >= 0
    assert result.max() <= images.max() + 1e-3


def test_a_shift_moves_by_at_most_so_many_pixels() -> None:
    moved = augmented(layer(shift=2.5), np.repeat(blob(13.5, 13.5), 300, axis=0))
    offsets = np.array([centre(image) for image in moved]) - 13.5
    assert np.abs(offsets).max() <= 2.5 + 0.02
    # In all four directions, and far enough.
    assert (offsets.max(axis=0) > 2).all()
    assert (offsets.min(axis=0) < -2).all()


@pytest.mark.parametrize("way", [-1.0, 1.0])
def test_a_rotation_turns_about_the_middle(monkeypatch: pytest.MonkeyPatch, way: float) -> None:
    image, _ = digit_images(1)
    augmentation = layer_that_draws(monkeypatch, [way, 0, 0, 0, 0, 0], rotation=90.0)
    turned = np.rot90(image[0], k=int(way))
    np.testing.assert_allclose(augmented(augmentation, image)[0], turned, atol=0.5)
    half = layer_that_draws(monkeypatch, [way / 2, 0, 0, 0, 0, 0], rotation=60.0)
    x, y = centre(augmented(half, blob(19.5, 13.5)))
    assert np.hypot(x - 13.5, y - 13.5) == pytest.approx(6, abs=0.1)
    assert np.degrees(np.arctan2(y - 13.5, x - 13.5)) == pytest.approx(-30 * way, abs=1)


def test_a_zoom_moves_points_from_or_to_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = layer_that_draws(monkeypatch, [0, 0, 1, -1, 0, 0], zoom=0.2)
    x, y = centre(augmented(augmentation, blob(19.5, 19.5)))
    # Read 1.2 times as far from the middle in x, and 0.8 times in y.
    assert x - 13.5 == pytest.approx(6 / 1.2, abs=0.2)
    assert y - 13.5 == pytest.approx(6 / 0.8, abs=0.2)


def test_a_shear_moves_rows_sideways_and_leaves_their_height(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    augmentation = layer_that_draws(monkeypatch, [0, 1, 0, 0, 0, 0], shear=0.5)
    for row, moved in ((7.5, 3.0), (13.5, 0.0), (19.5, -3.0)):
        x, y = centre(augmented(augmentation, blob(13.5, row)))
        assert x - 13.5 == pytest.approx(moved, abs=0.1)
        assert y == pytest.approx(row, abs=0.1)


def test_the_border_comes_in_as_background(monkeypatch: pytest.MonkeyPatch) -> None:
    augmentation = layer_that_draws(monkeypatch, [0, 0, 0, 0, 1, 0], shift=3.0)
    result = augmented(augmentation, np.full((1, 28, 28, 1), 200, np.uint8))[0, :, :, 0]
    assert (result[:, :25] == 200).all()
    assert (result[:, 25:] == 0).all()


def test_each_image_has_its_own_draw_which_the_seed_determines() -> None:
    images = np.repeat(digit_images(1)[0], 20, axis=0)
    one, same, other = layer(seed=3, **STRONG), layer(seed=3, **STRONG), layer(seed=4, **STRONG)
    first, second = augmented(one, images), augmented(one, images)
    assert len({image.tobytes() for image in first}) == 20
    np.testing.assert_array_equal(first, augmented(same, images))
    np.testing.assert_array_equal(second, augmented(same, images))
    assert (first != second).any()
    assert (first != augmented(other, images)).any()


def test_works_on_bytes_in_a_compiled_model() -> None:
    from pipeline.backend import keras, tf

    model = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), layer(seed=3, **STRONG)])
    images, _ = digit_images(6)

    @tf.function
    def step(batch: Any) -> Any:
        return model(batch, training=True)

    result = np.asarray(step(tf.constant(images)))
    np.testing.assert_allclose(result, augmented(layer(seed=3, **STRONG), images), atol=1e-2)
