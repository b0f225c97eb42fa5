"""Find the digits of a picture: whatever its paper, its light and its colours.

Ink is what differs from the background in a small neighbourhood. Light changes slowly from place to
place, ink does not; so the background is what morphology leaves when it removes everything thin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.errors import UserError

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

# Strokes are thinner than this share of the picture's longer side.
THICKEST = 0.25
# The side of the small picture on which the background is first estimated.
SMALL = 96
# The least contrast of ink, where 1 is that of black on white.
LEAST_CONTRAST = 0.08
# A component that is lower than this share of the tallest one is part of a digit, or a speck.
WHOLE = 0.45
SPECK = 0.12

NOTHING = "nothing in it that could be a digit; leave some empty paper around the digit"


@dataclass(frozen=True)
class Found:
    """One digit of a picture.

    Attributes:
        ink: float32 (h, w), the part of the picture around it: 0 is background, 1 is full ink;
            other things are erased.
        threshold: what has more ink than this is part of the digit.
    """

    ink: Floats
    threshold: float


def ink(picture: Floats) -> tuple[Floats, float]:
    """Separate ink from background.

    Args:
        picture: float32 (h, w, 3), 0 to 255.

    Returns:
        The contrast with the background, float32 (h, w), 0 where there is none; and the threshold
        above which it is ink.

    Raises:
        UserError: there is nothing in it.
    """
    grey = _one_channel(picture[_page(picture)])
    background, dark = _coarse_background(grey)
    light = _resized(_surface(_small(grey)), *grey.shape)
    for _ in range(2):
        contrast = _contrast(grey, background, dark)
        threshold = _threshold(contrast)
        # Once more, from everything that is not ink: this follows the edge of a shadow.
        reach = max(2, round(max(grey.shape) / 150))
        paper = ~ndimage.binary_dilation(contrast > 0.7 * threshold, iterations=reach)
        background = light + _smoothed(grey - light, paper, background - light)
    contrast = _contrast(grey, background, dark)
    return contrast.clip(0), _threshold(contrast)


def digits(contrast: Floats, threshold: float) -> list[Found]:
    """The digits of a picture, from left to right.

    Args:
        contrast: from `ink`, float32 (h, w).
        threshold: from `ink`.

    Raises:
        UserError: there is nothing that could be one.
    """
    labelled, _ = ndimage.label(contrast > threshold, np.ones((3, 3)))
    boxes = ndimage.find_objects(labelled)
    height, width = contrast.shape
    parts = [
        _Part(i + 1, box[0].start, box[0].stop, box[1].start, box[1].stop)
        for i, box in enumerate(boxes)
    ]
    least = max(3, 0.02 * max(height, width)) if max(height, width) > 60 else 3
    parts = [part for part in parts if max(part.height, part.width) >= least]
    inner = [part for part in parts if not part.touches(height, width)]
    if inner and max(p.height for p in inner) >= 0.05 * height:
        parts = inner
    if not parts:
        raise UserError(NOTHING)
    groups = _grouped(parts)
    return [_cut(contrast, threshold, labelled, group) for group in groups]


def whole(contrast: Floats, threshold: float) -> Found:
    """Everything in a picture as one digit; raises UserError if there is nothing in it."""
    rows, columns = (np.flatnonzero((contrast > threshold).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise UserError(NOTHING)
    padded = np.pad(contrast, 2)
    return Found(padded[rows[0] : rows[-1] + 5, columns[0] : columns[-1] + 5], threshold)


@dataclass(frozen=True)
class _Part:
    """A connected component: its label and its box, with ends exclusive."""

    label: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    def touches(self, height: int, width: int) -> bool:
        """Whether it reaches the picture's edge."""
        return self.top == 0 or self.left == 0 or self.bottom == height or self.right == width


def _page(picture: Floats) -> tuple[slice, slice]:
    """Where the sheet of paper is that lies on something darker; everything if there is none."""
    grey = picture.mean(axis=-1)
    small = _small(grey)
    level, between = _otsu(small.ravel(), float(small.max()))
    bright = small > level
    everything = slice(None), slice(None)
    if not 0.15 < bright.mean() < 0.95 or between < 0.7:
        return everything
    if np.median(small[~bright]) > 0.5 * np.median(small[bright]):
        return everything  # a shadow
    labelled, _ = ndimage.label(bright)
    sheet = labelled == np.bincount(labelled[bright]).argmax()
    [(rows, columns)] = ndimage.find_objects(sheet.astype(int))
    whole = ndimage.binary_fill_holes(sheet)[rows, columns]
    sides = [side / of for side, of in zip(whole.shape, small.shape, strict=True)]
    # It has corners, which a thick digit in light ink has not.
    height, width = (max(1, side // 6) for side in whole.shape)
    corners = [whole[y, x] for y in _ends(height) for x in _ends(width)]
    filled = whole.mean() > 0.8 and np.mean([corner.mean() for corner in corners]) > 0.5
    if not filled or sheet.sum() < 0.7 * whole.sum() or min(sides) < 0.35:
        return everything
    scale = [large / of for large, of in zip(grey.shape, small.shape, strict=True)]
    # A little less than the sheet, whose edge is neither paper nor ink.
    return tuple(  # type: ignore[return-value]
        slice(
            round((each.start + (each.start > 0)) * by),
            round((each.stop - (each.stop < of)) * by),
        )
        for each, by, of in zip((rows, columns), scale, small.shape, strict=True)
    )


def _ends(length: int) -> tuple[slice, slice]:
    """The beginning and the end of an axis."""
    return slice(length), slice(-length, None)


def _one_channel(picture: Floats) -> Floats:
    """The mixture of red, green and blue that varies most: brightness, unless colour says more."""
    pixels = picture.reshape(-1, 3)
    pixels = pixels - pixels.mean(axis=0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)
    axis = axes[:, -1] * np.sign(axes[:, -1].sum() or 1)
    return np.asarray(picture @ (axis / np.abs(axis).sum()), dtype=np.float32)


def _resized(image: Floats, height: int, width: int) -> Floats:
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def _small(image: Floats) -> Floats:
    height, width = image.shape
    scale = min(1, SMALL / max(height, width))
    return _resized(image, max(1, round(height * scale)), max(1, round(width * scale)))


def _coarse_background(grey: Floats) -> tuple[Floats, bool]:
    """The picture without anything thin, float32 (h, w); and whether the ink is the dark part."""
    small = ndimage.gaussian_filter(_small(grey), SMALL / 200, mode="nearest")
    # The picture's edge is background; ink deviates most from the light on it and around it.
    deviation = small - _surface(small)
    around = ndimage.gaussian_filter(deviation, SMALL / 8, mode="constant")
    dark_ink = bool(((deviation - around / 2) ** 5).sum() < 0)
    size = 2 * round(THICKEST * max(small.shape) / 2) + 1
    without = ndimage.grey_closing if dark_ink else ndimage.grey_opening
    background = without(small, (size, size), mode="nearest")
    background = ndimage.gaussian_filter(background, size / 6, mode="nearest")
    return _resized(background, *grey.shape), dark_ink


def _surface(small: Floats) -> Floats:
    """The light on a picture, a quadratic function of the place; fitted to the picture's edge."""
    height, width = small.shape
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)
    edge = np.maximum(abs(x), abs(y)) > 1 - 2 * max(1, round(min(height, width) / 20)) / min(
        height, width
    )
    values, weights = small.ravel()[edge], np.ones(edge.sum())
    for _ in range(5):  # what is drawn across the edge counts less each time
        solved = np.linalg.lstsq(terms[edge] * weights[:, None], values * weights, rcond=None)[0]
        residual = abs(values - terms[edge] @ solved)
        weights = 1 / (1 + residual / (np.median(residual) + 1))
    return np.asarray((terms @ solved).reshape(small.shape), dtype=np.float32)


def _contrast(grey: Floats, background: Floats, dark: bool) -> Floats:
    """How far ink goes from the background, as a share of how far it could go.

    Paper reflects a share of the light that falls on it, so that ink in the shade differs by less.
    """
    if dark:
        difference = (background - grey) / np.maximum(background, 64)
    else:
        difference = (grey - background) / 255
    blur = max(grey.shape) / 1000
    return np.asarray(ndimage.gaussian_filter(difference, blur), dtype=np.float32)


def _threshold(contrast: Floats) -> float:
    """The contrast that separates ink from everything paler, such as ruled lines.

    Raises:
        UserError: nothing differs from the background.
    """
    if contrast.size < 4:
        raise UserError(NOTHING)
    # The noise's standard deviation, by what neighbours usually differ.
    noise = float(np.median(np.abs(np.diff(contrast.ravel())))) * 1.4826 / np.sqrt(2)
    candidates = contrast[contrast > max(LEAST_CONTRAST, 5 * noise)]
    if len(candidates) < 4:
        raise UserError(NOTHING)
    full = float(np.percentile(candidates, 95))
    best, _ = _otsu(candidates, full)
    return float(np.clip(best, 0.35 * full, 0.65 * full))


def _otsu(values: Floats, highest: float) -> tuple[float, float]:
    """The value that separates two classes best (Otsu 1979), and how well.

    Returns:
        The threshold, and the variance between the classes as a share of the whole, from 0 to 1.
    """
    counts, edges = np.histogram(values, 64, (0, max(highest, 1e-6)))
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * middles)
    means = sums[:-1] / np.maximum(below, 1), (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2 / max(counts.sum(), 1) ** 2
    best = int(between.argmax())
    whole = float(np.average((middles - np.average(middles, weights=counts)) ** 2, weights=counts))
    return float(edges[1 + best]), float(between[best]) / max(whole, 1e-12)


def _smoothed(grey: Floats, paper: Mask, otherwise: Floats) -> Floats:
    """What the paper differs from the light on it, carried on below the ink from around it."""
    share, total = _small(paper.astype(np.float32)), _small(grey * paper)
    sigma = max(share.shape) / 30
    share, total = (
        ndimage.gaussian_filter(each, sigma, mode="nearest", truncate=3) for each in (share, total)
    )
    known = share > 0.02
    smoothed = np.where(known, total / np.where(known, share, 1), _small(otherwise))
    return _resized(smoothed.astype(np.float32), *grey.shape)


def _grouped(parts: list[_Part]) -> list[list[_Part]]:
    """Components that belong to one digit, such as the separate bar of a 5; left to right."""
    tallest = max(part.height for part in parts)
    wholes = [[part] for part in parts if part.height >= WHOLE * tallest]
    for part in parts:
        if part.height >= WHOLE * tallest:
            continue
        nearest = min(wholes, key=lambda whole: _distance(part, whole[0]))
        size = max(part.height, part.width)
        if size >= SPECK * tallest and _distance(part, nearest[0]) < 0.3 * tallest:
            nearest.append(part)
    wholes.sort(key=lambda whole: whole[0].left + whole[0].right)
    groups: list[list[_Part]] = []
    for whole in wholes:
        if groups and _stacked(groups[-1][0], whole[0]):
            groups[-1] += whole
        else:
            groups.append(whole)
    return groups


def _distance(one: _Part, other: _Part) -> float:
    """How far two boxes are apart, in pixels; 0 if they overlap."""
    across = max(one.left, other.left) - min(one.right, other.right)
    down = max(one.top, other.top) - min(one.bottom, other.bottom)
    return float(np.hypot(max(across, 0), max(down, 0)))


def _stacked(one: _Part, other: _Part) -> bool:
    """Whether two components are the halves of one digit: one above or around the other."""
    overlap = min(one.right, other.right) - max(one.left, other.left)
    apart = max(one.top, other.top) - min(one.bottom, other.bottom)
    near = apart < 0.15 * (one.height + other.height)
    return overlap > 0.5 * min(one.width, other.width) and near


def _cut(
    contrast: Floats, threshold: float, labelled: NDArray[np.int32], group: list[_Part]
) -> Found:
    """A digit with a margin of two pixels, and without its neighbours."""
    rows = slice(min(part.top for part in group), max(part.bottom for part in group) + 4)
    columns = slice(min(part.left for part in group), max(part.right for part in group) + 4)
    around = np.pad(contrast, 2)[rows, columns]
    ours = np.isin(np.pad(labelled, 2)[rows, columns], [part.label for part in group])
    near = ndimage.binary_dilation(ours, np.ones((3, 3)), iterations=2)
    return Found(np.where(near & (ours | (around <= threshold)), around, 0), threshold)
