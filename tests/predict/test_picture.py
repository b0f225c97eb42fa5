"""picture.py: every format, orientation and kind of transparency gives the same colours."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.predict import picture


def drawing() -> np.ndarray:
    """An L, dark on light, uint8 (40, 60)."""
    grey = np.full((40, 60), 240, np.uint8)
    grey[8:32, 10:16] = grey[28:32, 10:40] = 20
    return grey


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"), [*((kind, "RGB") for kind in picture.FORMATS), ("GIF", "P"), ("TIFF", "1")]
)
def test_every_format_and_mode_is_read(kind: str, mode: str) -> None:
    image = Image.fromarray(drawing()).convert(mode, dither=Image.Dither.NONE)
    read = picture.read(encoded(image, kind), "it")
    assert (read.shape, read.dtype) == ((40, 60, 3), np.float32)
    assert np.abs(read - drawing()[..., np.newaxis]).mean() < 20


def test_sixteen_bits_and_grey_with_alpha() -> None:
    deep = Image.fromarray(drawing().astype(np.uint16) * 257)
    assert np.abs(picture.read(encoded(deep), "it")[..., 0] - drawing()).max() < 1
    grey = Image.fromarray(drawing()).convert("LA")
    assert np.abs(picture.read(encoded(grey), "it")[..., 0] - drawing()).max() < 1


@pytest.mark.parametrize("bits", [8, 12])
def test_small_values_in_sixteen_bits_are_brightened(bits: int) -> None:
    values = drawing().astype(np.float32) / 240 * (2**bits - 1)
    read = picture.read(encoded(Image.fromarray(values.astype(np.uint16))), "it")
    assert (read.max(), read.min()) == (255, pytest.approx(21, abs=1))


def test_the_first_frame_that_is_not_empty_is_read() -> None:
    drawn = Image.fromarray(drawing())
    empty = Image.new("L", drawn.size, 255)
    read = picture.read(encoded(empty, "GIF", save_all=True, append_images=[empty, drawn]), "it")
    assert np.abs(read[..., 0] - drawing()).max() < 3


def test_faint_ink_on_nothing_is_as_dark_as_full_ink() -> None:
    pixels = np.zeros((40, 60, 4), np.uint8)
    pixels[..., 3] = 100 * (drawing() < 128)
    read = picture.read(encoded(Image.fromarray(pixels)), "it")
    assert np.array_equal(read[..., 0], np.where(drawing() < 128, 0, 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_says(orientation: int) -> None:
    turns = {
        1: (), 2: ("FLIP_LEFT_RIGHT",), 3: ("ROTATE_180",), 4: ("FLIP_TOP_BOTTOM",),
        5: ("TRANSPOSE",), 6: ("ROTATE_90",), 7: ("TRANSVERSE",), 8: ("ROTATE_270",),
    }  # fmt: skip
    image = Image.fromarray(drawing())
    for turn in turns[orientation]:
        image = image.transpose(Image.Transpose[turn])
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = picture.read(encoded(image, "JPEG", exif=exif, quality=95), "it")
    assert np.abs(read[..., 0] - drawing()).mean() < 5


@pytest.mark.parametrize(("ink", "paper"), [(0, 255), (255, 0)])
def test_ink_on_nothing_contrasts_with_its_background(ink: int, paper: int) -> None:
    pixels = np.full((40, 60, 4), ink, np.uint8)
    pixels[..., 3] = 255 * (drawing() < 128)
    read = picture.read(encoded(Image.fromarray(pixels)), "it")
    assert np.array_equal(read[..., 0], np.where(drawing() < 128, ink, paper))


def test_a_large_picture_is_made_smaller() -> None:
    large = Image.fromarray(np.repeat(np.repeat(drawing(), 60, axis=0), 60, axis=1))
    read = picture.read(encoded(large), "it")
    assert max(read.shape) == picture.WORKING_SIDE
    assert (read.min(), read.max()) == (20, 240)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not a picture"),
        (b"label,pixel0\n", "not a picture"),
        (encoded(Image.fromarray(drawing()))[:60], "it: "),
        (encoded(Image.fromarray(drawing()), "PPM"), "PNG, JPEG, WEBP, GIF, BMP, TIFF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not read; export it as JPEG"),
        (b"%PDF-1.7\n", "PDF is not read; convert its page to PNG"),
        (b'<?xml version="1.0"?>\n<svg xmlns="', "SVG is not read; convert it to PNG"),
    ],
    ids=["empty", "text", "cut off", "another format", "HEIC", "PDF", "SVG"],
)
def test_what_cannot_be_read_is_one_line(content: bytes, part: str) -> None:
    with pytest.raises(UserError) as caught:
        picture.read(content, "it")
    assert str(caught.value).startswith("it: ")
    assert part in str(caught.value)


def test_a_file_that_claims_too_many_pixels_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture, "MAX_PIXELS", 1000)
    path = tmp_path / "large.png"
    path.write_bytes(encoded(Image.fromarray(drawing())))
    with pytest.raises(UserError, match="60 × 40 pixels"):
        picture.read(path, "large.png")


def test_the_colours_of_a_colour_map_are_its_values() -> None:
    from matplotlib import colormaps

    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name in picture.COLOUR_MAPS[:2]:
        colours = (255 * colormaps[name](values)[..., :3]).astype(np.float32)
        assert np.abs(picture.one_channel(colours) - values).max() <= 3  # equal when rounded
