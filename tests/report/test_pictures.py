"""pictures.py: sheets hold the images in order, and equal data give equal pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from conftest import digit_images
from PIL import Image

from pipeline.report import pictures


def decoded(uri: str, kind: str) -> bytes:
    start, content = uri.split(",")
    assert start == f"data:{kind};base64"
    return base64.b64decode(content)


@pytest.mark.parametrize("count", [0, 40, 41])
def test_a_sheet_holds_the_images_in_their_order(count: int) -> None:
    images, _ = digit_images(count)
    sheet = np.asarray(Image.open(io.BytesIO(decoded(pictures.sheet(images), "image/png"))))
    assert sheet.shape == (max(1, -(-count // 40)) * 28, 40 * 28)
    for place in range(count):
        y, x = place // 40 * 28, place % 40 * 28
        np.testing.assert_array_equal(sheet[y : y + 28, x : x + 28], images[place, :, :, 0])


def test_a_strip_is_ink_on_nothing_with_gaps() -> None:
    images, _ = digit_images(3)
    strip = np.asarray(Image.open(io.BytesIO(decoded(pictures.strip(images), "image/png"))))
    assert strip.shape == (28, 3 * 29 - 1, 2)
    assert not strip[..., 0].any()
    for place in range(3):
        ink = strip[:, 29 * place : 29 * place + 28, 1]
        np.testing.assert_array_equal(ink, images[place, :, :, 0])
    assert not strip[:, 28, 1].any()


def history(epochs: int) -> np.ndarray:
    """The history of a fold that gets better by the epoch."""
    names = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    rows = [(i, 1 / i, 1 - 0.1 / i, 0.9 / i, 1.0, 0.001) for i in range(1, epochs + 1)]
    return np.array(rows, [(name, float) for name in names])


def svg(uri: str) -> str:
    return decoded(uri, "image/svg+xml").decode()


def test_equal_data_give_equal_pictures_for_light_and_dark() -> None:
    picture = pictures.learning([history(3), history(2)])
    assert picture == pictures.learning([history(3), history(2)])
    assert "<svg" in svg(picture.light)
    light = {before for before, after in (pictures.INK, *pictures.COLOURS) if before != after}
    assert not [colour for colour in light if colour in svg(picture.dark)]


def contrast(one: str, other: str) -> float:
    """The contrast of two colours (https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio)."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_colours_stand_out_from_the_page_in_both_themes() -> None:
    page = (Path(pictures.__file__).parent / "page.html").read_text()
    for theme, paper in enumerate(("#ffffff", "#16181b")):
        assert theme == 0 or f"light-dark(#fff, {paper})" in page
        assert contrast(pictures.INK[theme], paper) > 7
        assert min(contrast(pair[theme], paper) for pair in pictures.COLOURS) >= 3
        assert len({pair[theme] for pair in pictures.COLOURS}) == len(pictures.COLOURS)


def test_folds_differ_in_colour_and_then_in_marker() -> None:
    folds = len(pictures.COLOURS) + 2
    styles = [pictures._style(fold, 5, False) for fold in range(folds)]
    assert len({(style["color"], style["marker"]) for style in styles}) == folds
    text = svg(pictures.learning([history(3)] * 3).light)
    assert [colour in text for colour in pictures.LINES[:4]] == [True, True, True, False]


def test_a_fold_with_one_epoch_is_drawn_as_points() -> None:
    # Each marker is defined once and used for the loss, the error rate, and the learning rate.
    assert svg(pictures.learning([history(1)]).light).count("<use ") > 10


def test_epochs_without_an_error_are_marked() -> None:
    assert "<!-- no errors -->" in svg(pictures.learning([history(3)]).light)  # held out
    some = history(3)
    some["val_accuracy"] = 0.99
    assert "<!-- no errors -->" not in svg(pictures.learning([some]).light)
