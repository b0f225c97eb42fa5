"""pictures.py: sheets hold the images in order, and equal data give equal pictures."""

import base64
import io

import numpy as np
import pytest
from conftest import digit_images
from PIL import Image

from pipeline.report import pictures
from pipeline.report.pictures import Picture

NAMES = tuple("0123456789")


def decoded(uri: str, kind: str) -> bytes:
    start, content = uri.split(",")
    assert start == f"data:{kind};base64"
    return base64.b64decode(content)


@pytest.mark.parametrize("count", [1, 40, 41, 97])
def test_a_sheet_holds_the_images_in_their_order(count: int) -> None:
    images, _ = digit_images(count)
    sheet = np.asarray(Image.open(io.BytesIO(decoded(pictures.sheet(images), "image/png"))))
    assert sheet.shape == (-(-count // 40) * 28, 40 * 28)
    for place in range(count):
        y, x = place // 40 * 28, place % 40 * 28
        np.testing.assert_array_equal(sheet[y : y + 28, x : x + 28], images[place, :, :, 0])


def test_a_sheet_of_nothing_is_a_picture_too() -> None:
    sheet = pictures.sheet(np.zeros((0, 28, 28, 1), np.uint8))
    assert Image.open(io.BytesIO(decoded(sheet, "image/png"))).width == 40 * 28


def drawn(which: str) -> Picture:
    images, labels = digit_images(60)
    if which == "grid":
        return pictures.grid([images[labels == label] for label in range(10)], NAMES, "x" * 30)
    bins = np.array([0.5, 0.9])
    return pictures.reliability(bins, bins - 0.1, np.array([3, 30]))


@pytest.mark.parametrize("which", ["grid", "reliability"])
def test_equal_data_give_equal_pictures_for_light_and_dark(which: str) -> None:
    picture = drawn(which)
    assert picture == drawn(which)
    light, dark = (decoded(uri, "image/svg+xml") for uri in (picture.light, picture.dark))
    assert light != dark
    assert b"<svg" in light
    assert len(picture.alt) > 20
