"""Read a picture of any kind as colours on an opaque background, upright and not too large."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.endings import explained
from pipeline.errors import UserError

# Formats that are read, by Pillow's names, and the suffixes by which a folder is searched for them.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
# Formats that are not read: by what their first bytes contain, and how to make a picture of them.
OTHERS = {
    b"ftypheic": ("HEIC", "export it as JPEG (iPhone: Settings, Camera, Formats, Most Compatible)"),
    b"ftypheix": ("HEIC", "export it as JPEG"),
    b"ftypmif1": ("HEIF", "export it as JPEG"),
    b"ftypavif": ("AVIF", "export it as PNG or JPEG"),
    b"%PDF-": ("PDF", "convert its page to PNG: pdftoppm -r 150 -png FILE page"),
    b"<svg": ("SVG", "convert it to PNG: rsvg-convert -w 800 FILE -o FILE.png"),
}
OTHER_SUFFIXES = (".heic", ".heif", ".avif", ".pdf", ".svg")
# A picture with more pixels is refused before it is decoded: a small file can claim any size.
MAX_PIXELS = 100_000_000
# The longer side of what is searched for digits; 200 px of digit are reduced to 20 in the end.
WORKING_SIDE = 800

COLOURED = 8  # the mean range of red, green and blue in a picture that is not grey, of 255
# Colour maps in which brightness does not grow with the value; the largest error, of 255.
COLOUR_MAPS = ("jet", "turbo", "rainbow", "nipy_spectral", "gist_rainbow", "hsv")
MAP_ERROR, MAP_SAMPLE = 6, 1000


def read(file: Path | bytes, name: str) -> NDArray[np.float32]:
    """Read a picture: its first frame that is not empty, upright, without transparency.

    Args:
        file: where it is, or its bytes.
        name: what the user calls it.

    Returns:
        float32 (height, width, 3), red, green and blue from 0 to 255. The longer side is at most
        WORKING_SIDE.

    Raises:
        UserError: it is no picture, is damaged, or has more than MAX_PIXELS pixels.
    """
    source: Path | BinaryIO = io.BytesIO(file) if isinstance(file, bytes) else file
    with _explained(name, source), Image.open(source, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{name}: {image.width} × {image.height} pixels are too many; the limit is "
                f"{MAX_PIXELS:,} pixels: make it smaller"
            )
        image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded at a fraction
        _seek_ink(image)
        upright = ImageOps.exif_transpose(_eight_bits(image))
        longer = max(upright.size)
        if longer > WORKING_SIDE:
            size = [max(1, round(side * WORKING_SIDE / longer)) for side in upright.size]
            upright = _blendable(upright).resize((size[0], size[1]), Image.Resampling.BOX)
        return _opaque(upright)


@contextlib.contextmanager
def _explained(name: str, source: Path | BinaryIO) -> Iterator[None]:
    """Turn what Pillow says of a file into a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that we allow
            yield
    except UnidentifiedImageError as error:
        for start, (kind, remedy) in OTHERS.items():
            if start in _start(source):
                raise UserError(f"{name}: {kind} is not read; {remedy}") from error
        raise UserError(
            f"{name}: not a picture that can be read; give a {', '.join(FORMATS)} file"
        ) from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name}: too many pixels; the limit is {MAX_PIXELS:,}") from error
    except OSError as error:
        if error.errno is not None:
            raise UserError(explained(error, name)) from error
        raise UserError(f"{name}: damaged ({error}); save it again") from error
    except (SyntaxError, ValueError, EOFError, IndexError, OverflowError) as error:
        raise UserError(f"{name}: damaged ({error}); save it again") from error


def _start(source: Path | BinaryIO) -> bytes:
    """Read the first bytes of a file."""
    if isinstance(source, Path):
        with source.open("rb") as file:
            return file.read(1000)
    source.seek(0)
    return source.read(1000)


def _seek_ink(image: Image.Image) -> None:
    """Go to the first frame that is not empty; the first one if all are."""
    frames = getattr(image, "n_frames", 1)
    for frame in range(frames) if frames > 1 else ():
        image.seek(frame)
        if np.ptp(np.asarray(image.convert("RGBA")), axis=(0, 1)).max() > 8:
            return
    image.seek(0)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Reduce a picture to eight bits a channel.

    White is 65,535 in a 16-bit picture, or the highest number of 8, 10, 12 or 14 bits if none is
    higher; in floating point, the highest value.
    """
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, dtype=np.float32)
        highest = float(values.max())
        if image.mode == "F":
            values, white = values - values.min(), max(float(np.ptp(values)), 1e-9)
        else:
            white = next((2**bits - 1 for bits in (8, 10, 12, 14) if highest < 2**bits), 65535)
        return Image.fromarray((255 * values / white).clip(0, 255).astype(np.uint8))
    image.load()
    return image


def _blendable(image: Image.Image) -> Image.Image:
    """Convert a picture to a mode whose pixels can be averaged, with transparency kept.

    "a": colours are weighted by their opacity, so that invisible ones do not bleed.
    """
    if image.mode == "RGBa":
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("RGB")


def _opaque(image: Image.Image) -> NDArray[np.float32]:
    """Return the colours; behind transparent ink, a background that contrasts with it."""
    blended = _blendable(image)
    if blended.mode == "RGB":
        return np.asarray(blended, dtype=np.float32)
    pixels = np.asarray(blended.convert("RGBA"), dtype=np.float32)
    # What is most opaque is the ink, however transparent that is.
    colours, opacity = pixels[..., :3], pixels[..., 3:] / max(1.0, float(pixels[..., 3].max()))
    solid = colours[opacity[..., 0] > 0.5]
    if len(solid) == 0:
        return np.zeros_like(colours)
    if solid.std(axis=0).max() < 40 or len(solid) < 0.5 * opacity.size:
        # A shape on nothing: what contrasts with it. Else a page with transparent edges.
        background = np.full(3, 255.0 if solid.mean() < 128 else 0.0)
    else:
        background = np.median(solid, axis=0)
    return np.asarray(colours * opacity + background * (1 - opacity), dtype=np.float32)


def one_channel(picture: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mix red, green and blue so that they vary most: brightness, unless colour says more.

    The colours of a colour map become the values that they stand for, from 0 to 255.
    """
    if np.ptp(picture, axis=-1).mean() > COLOURED and (values := _values(picture)) is not None:
        return values
    pixels = picture.reshape(-1, 3)
    pixels = pixels - pixels.mean(axis=0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)
    axis = axes[:, -1] * np.sign(axes[:, -1].sum() or 1)
    return np.asarray(picture @ (axis / np.abs(axis).sum()), dtype=np.float32)


def _values(picture: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Look up the values of a picture in the colours of one of COLOUR_MAPS; None if in none."""
    from matplotlib import colormaps
    from scipy.spatial import cKDTree

    pixels = picture.reshape(-1, 3)
    sample = pixels[:: max(1, len(pixels) // MAP_SAMPLE)]
    for name in COLOUR_MAPS:
        colours = cKDTree(255 * colormaps[name](np.arange(256))[:, :3])
        if np.percentile(colours.query(sample)[0], 95) < MAP_ERROR:
            return np.asarray(colours.query(picture)[1], dtype=np.float32)
    return None


def drawn(digit: NDArray[np.uint8]) -> list[str]:
    """Draw a digit, uint8 (28, 28), as lines of text in five shades."""
    shades = " ░▒▓█"
    return ["".join(shades[(int(pixel) + 63) // 64] * 2 for pixel in row).rstrip() for row in digit]
