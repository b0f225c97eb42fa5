"""Bring a digit into the form of the dataset, as the makers of MNIST did.

"The original black and white (bilevel) images from NIST were size normalized to fit in a 20x20
pixel box while preserving their aspect ratio. The resulting images contain grey levels as a result
of the anti-aliasing technique used by the normalization algorithm. The images were centered in a
28x28 image by computing the center of mass of the pixels, and translating the image so as to
position this point at the center of the 28x28 field." (LeCun, Bottou, Bengio and Haffner 1998,
Gradient-based learning applied to document recognition; http://yann.lecun.com/exdb/mnist/)
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.predict import find, picture
from pipeline.predict.find import Floats, Found, stroke_width

SIDE, BOX = 28, 20
# Pixels of the bilevel digit for each pixel of the box.
FINE = 8
# Widths of strokes in the dataset: 1.75 pixels are its 5th percentile, 4 its 95th (of the 3,000
# training digits of `sample`). A finer pen is widened to the first number, a broader one narrowed
# to the second.
THINNEST, BROADEST = 2.0, 4.0


@dataclass(frozen=True)
class Digit:
    """One digit of a picture.

    Attributes:
        pixels: in the form of the dataset, uint8 (28, 28).
        line: the line of writing that it is in, from 0.
        remark: what speaks against its being one digit, by its shape and what is beside it.
    """

    pixels: NDArray[np.uint8]
    line: int = 0
    remark: str = ""


def digits_in(colours: Floats, many: bool = True) -> list[Digit]:
    """Find the digits of a picture in the form of the dataset, line by line from the top.

    Args:
        colours: float32 (h, w, 3), 0 to 255, from `picture.read`.
        many: there may be several digits; else pieces close to each other are one digit. A picture
            of 28 × 28 pixels is always one digit.

    Raises:
        UserError: there is nothing in it.
    """
    if colours.shape[:2] == (SIDE, SIDE):
        grey = colours.mean(axis=-1)
        if np.ptp(colours, axis=-1).max() > 8:  # in colour
            grey = picture.one_channel(colours)
            grey = 255 * (grey - grey.min()) / max(1, np.ptp(grey))
        if (as_it_is := in_form(grey.round().astype(np.uint8))) is not None:
            return [Digit(as_it_is)]
        return [Digit(normalise(find.whole(*find.ink(colours))))]
    found = find.digits(*find.ink(colours), one=not many)
    return [Digit(normalise(each), each.line, each.remark) for each in found]


def in_form(grey: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
    """Return a picture that is a digit of the dataset already, with light and dark as there.

    Args:
        grey: uint8 (28, 28).

    Returns:
        uint8 (28, 28), light on dark; None if the picture is in another form.
    """
    for each in (grey, 255 - grey):
        digit = each.astype(np.float32)
        rows, columns = (np.flatnonzero((digit > 32).any(axis=axis)) for axis in (1, 0))
        if not len(rows) or digit[[0, 1, -2, -1]].max() > 32 or digit[:, [0, 1, -2, -1]].max() > 32:
            continue
        sides = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        centre = ndimage.center_of_mass(np.where(digit > 16, digit, 0))
        if BOX - 1 <= max(sides) <= BOX + 1 and np.abs(np.subtract(centre, SIDE / 2)).max() < 0.7:
            return each
    return None


def normalise(found: Found) -> NDArray[np.uint8]:
    """Bring a digit into the form of the dataset: uint8 (28, 28), 0 is background, 255 ink."""
    bilevel = _stroked(_bilevel(found))
    rows, columns = (np.flatnonzero(bilevel.any(axis=axis)) for axis in (1, 0))
    cut = bilevel[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = BOX / max(cut.shape)
    height, width = (max(1, round(side * scale)) for side in cut.shape)
    image = Image.fromarray(cut.astype(np.float32) * 255)
    box = np.asarray(image.resize((width, height), Image.Resampling.BOX))
    return _centred(box)


def _bilevel(found: Found) -> NDArray[np.bool_]:
    """Draw the digit in black and white, its longer side FINE × BOX pixels, with a margin."""
    ink = Image.fromarray(found.ink)
    scale = FINE * BOX / max(1, max(found.ink.shape) - 4)
    size = [max(1, round(side * scale)) for side in ink.size]
    fine = np.asarray(ink.resize((size[0], size[1]), Image.Resampling.BICUBIC))
    return np.pad(fine > found.threshold, 2 * FINE)


def _stroked(bilevel: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Make strokes no finer and no broader than those of the dataset."""
    width = stroke_width(bilevel) / FINE
    if width < THINNEST:
        outside = ndimage.distance_transform_edt(~bilevel)
        return np.asarray(outside <= (THINNEST - width) / 2 * FINE)
    if width > BROADEST:
        inside = ndimage.distance_transform_edt(bilevel)
        return np.asarray(inside > (width - BROADEST) / 2 * FINE)
    return bilevel


def _centred(box: Floats) -> NDArray[np.uint8]:
    """Put the centre of mass in the middle of 28 × 28 pixels, if there is room."""
    field = np.zeros((SIDE, SIDE), np.float32)
    centre = ndimage.center_of_mass(box)
    top, left = (
        int(np.clip(round(SIDE / 2 - mass), 0, SIDE - side))
        for mass, side in zip(centre, box.shape, strict=True)
    )
    field[top : top + box.shape[0], left : left + box.shape[1]] = box
    return field.round().clip(0, 255).astype(np.uint8)
