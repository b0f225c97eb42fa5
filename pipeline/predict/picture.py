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
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp")
# A picture with more pixels is refused before it is decoded: a small file can claim any size.
MAX_PIXELS = 100_000_000
# The longer side of what is searched for digits; 200 px of digit are reduced to 20 in the end.
WORKING_SIDE = 800


def read(file: Path | bytes, name: str) -> NDArray[np.float32]:
    """Read a picture: its first frame, turned as its EXIF says, without transparency.

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
    with _explained(name), Image.open(source, formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise UserError(
                f"{name}: {image.width} × {image.height} pixels are too many; the limit is "
                f"{MAX_PIXELS:,} pixels: make it smaller"
            )
        image.draft("RGB", (WORKING_SIDE, WORKING_SIDE))  # a JPEG is decoded at a fraction
        upright = ImageOps.exif_transpose(_eight_bits(image))
        longer = max(upright.size)
        if longer > WORKING_SIDE:
            size = [max(1, round(side * WORKING_SIDE / longer)) for side in upright.size]
            upright = _blendable(upright).resize((size[0], size[1]), Image.Resampling.BOX)
        return _opaque(upright)


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Turn what Pillow says of a file into a UserError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that we allow
            yield
    except UnidentifiedImageError as error:
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


def _eight_bits(image: Image.Image) -> Image.Image:
    """The picture with at most eight bits a channel; a 16-bit PNG has 65,535 for white."""
    if image.mode.startswith("I"):
        values = np.asarray(image, dtype=np.float32)
        return Image.fromarray((values / 257).clip(0, 255).astype(np.uint8))
    image.load()
    return image


def _blendable(image: Image.Image) -> Image.Image:
    """The picture in a mode whose pixels can be averaged, with transparency kept.

    "a": colours are weighted by their opacity, so that invisible ones do not bleed.
    """
    if image.mode == "RGBa":
        return image
    if "A" in image.getbands() or "transparency" in image.info:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("RGB")


def _opaque(image: Image.Image) -> NDArray[np.float32]:
    """The picture's colours; where it is transparent, those of a background that shows the rest."""
    blended = _blendable(image)
    if blended.mode == "RGB":
        return np.asarray(blended, dtype=np.float32)
    pixels = np.asarray(blended.convert("RGBA"), dtype=np.float32)
    colours, opacity = pixels[..., :3], pixels[..., 3:] / 255
    solid = colours[opacity[..., 0] > 0.5]
    if len(solid) == 0:
        return np.zeros_like(colours)
    if solid.std(axis=0).max() < 40 or len(solid) < 0.5 * opacity.size:
        # A shape on nothing: what contrasts with it. Else a page with transparent edges.
        background = np.full(3, 255.0 if solid.mean() < 128 else 0.0)
    else:
        background = np.median(solid, axis=0)
    return np.asarray(colours * opacity + background * (1 - opacity), dtype=np.float32)
