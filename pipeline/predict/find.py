"""Find the digits of a picture, line by line: whatever its paper, its light and its colours.

Ink is what differs from the background in a small neighbourhood. Light changes slowly from place to
place, ink does not; so the background is what morphology leaves when it removes everything thin.
"""

from dataclasses import dataclass, field

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
# Sizes of components are shares of the digits' usual height. What is lower than WHOLE is part of a
# digit, if it is within NEAR above or below it, or within BESIDE at its sides; or else a mark.
WHOLE = 0.45
NEAR, BESIDE = 0.3, 0.12
# Halves of a digit, one above the other: the gap, as a share of both heights, if they are no higher
# together than HIGHEST; and if they are.
STACKED, HIGHEST, CLOSE = 0.15, 1.5, 0.03
# A round part as small as this is a dot, which belongs to no digit beside it.
DOT = 0.25
# A mark is no smaller than this, nor than this share of the stroke's width: else it is dust.
DUST, DUST_STROKE = 0.05, 0.7
# With one digit in the picture, gaps up to this share of its height are bridged.
GAP = 0.12
# Components no longer than this many of their strokes' widths, at least so many: a dotted digit.
# Half the gap between its dots is at most DOT_GAP of the dots' width.
DOTTED, DOTS, DOT_GAP = 2.5, 5, 0.7
# Digits are in one line if their centres differ by less than this share of their height.
SAME_LINE = 0.6
# Lines of writing and of ruled paper slope by at most this much.
STEEPEST_LINE, STEEPEST_RULE = 0.35, 0.1
# A rule is thinner than this share of the picture's side. It is to be seen on RULE_LENGTH of the
# picture's side from one edge, or on THROUGH of it from edge to edge.
RULE_WIDTH, RULE_LENGTH, THROUGH = 0.02, 0.7, 0.5
# A component is wider than high by this factor in no digit of the dataset.
FLAT = 1.6
# A sheet of paper, or a dark panel in a page, takes this share of both of the picture's sides.
SHEET_SIDE = 0.35
# Ink has between these shares of the contrast of the darkest ink.
PALEST, DARKEST = 0.35, 0.65
# Colour maps in which brightness does not grow with the value.
COLOUR_MAPS = ("jet", "turbo", "rainbow", "nipy_spectral", "gist_rainbow", "hsv")

MARKS, NO_DIGIT, JOINED = "other marks beside it", "perhaps no digit", "pieces read as one digit"
NOTHING = "nothing in it that could be a digit; leave some empty paper around the digit"


@dataclass(frozen=True)
class Found:
    """One digit of a picture.

    Attributes:
        ink: float32 (h, w), the part of the picture around it: 0 is background, 1 is full ink;
            other things are erased.
        threshold: what has more ink than this is part of the digit.
        line: the line of writing that it is in, from 0.
        remark: what speaks against it, by the place and the shape of its components.
    """

    ink: Floats
    threshold: float
    line: int = 0
    remark: str = ""


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
    grey = one_channel(picture[_page(picture)])
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
    contrast = _without_rules(contrast.clip(0), _threshold(contrast))
    return contrast, _threshold(contrast)


def digits(contrast: Floats, threshold: float, one: bool = False) -> list[Found]:
    """The digits of a picture, line by line from the top, each from left to right.

    Args:
        contrast: from `ink`, float32 (h, w).
        threshold: from `ink`.
        one: there should be one digit, so that pieces close to each other belong together.

    Raises:
        UserError: there is nothing that could be one.
    """
    contrast, labelled, parts, cut_off = _parts(contrast, threshold)
    # The usual height: half of the ink's height is in components no higher.
    heights = np.sort([part.height for part in parts])
    scale = float(heights[np.searchsorted(heights.cumsum(), heights.sum() / 2)])
    stroke = stroke_width(np.isin(labelled, [part.label for part in parts]))
    groups, marks = _grouped(parts, scale)
    marks += [part for part in cut_off if WHOLE * scale <= part.height <= HIGHEST * scale]
    if one and len(groups) > 1:
        groups = _bridged(groups, labelled, scale)
    for mark in marks:
        if mark.size >= max(DUST * scale, DUST_STROKE * stroke):
            min(groups, key=lambda group: mark.distance(group.box)).remarks.add(MARKS)
    for group in groups:
        if group.box.width > FLAT * group.box.height:
            group.remarks.add(NO_DIGIT)
    return [
        _cut(contrast, threshold, labelled, group, number)
        for number, line in enumerate(_lines(groups))
        for group in line
    ]


def stroke_width(bilevel: Mask) -> float:
    """The typical width of the strokes of a black and white picture, in its pixels.

    Twice the median distance from the middle of a stroke to its edge.
    """
    distance = ndimage.distance_transform_edt(bilevel)
    middle = (distance == ndimage.maximum_filter(distance, size=5)) & (distance > 0)
    return 2 * float(np.median(distance[middle]))


def whole(contrast: Floats, threshold: float) -> Found:
    """Everything in a picture as one digit; raises UserError if there is nothing in it."""
    rows, columns = (np.flatnonzero((contrast > threshold).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise UserError(NOTHING)
    padded = np.pad(contrast, 2)
    return Found(padded[rows[0] : rows[-1] + 5, columns[0] : columns[-1] + 5], threshold)


@dataclass(frozen=True)
class _Box:
    """A box around ink, with ends exclusive; and the label of its component, if it is one."""

    top: int
    bottom: int
    left: int
    right: int
    label: int = 0

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def size(self) -> int:
        return max(self.height, self.width)

    @property
    def middle(self) -> tuple[float, float]:
        return (self.top + self.bottom) / 2, (self.left + self.right) / 2

    def touches(self, height: int, width: int) -> bool:
        """Whether it reaches the picture's edge."""
        return self.top == 0 or self.left == 0 or self.bottom == height or self.right == width

    def across(self, other: "_Box") -> int:
        """How far it is to the left or right of another, in pixels; negative if they overlap."""
        return max(self.left, other.left) - min(self.right, other.right)

    def apart(self, other: "_Box") -> int:
        """How far it is above or below another, in pixels; negative if they overlap."""
        return max(self.top, other.top) - min(self.bottom, other.bottom)

    def distance(self, other: "_Box") -> float:
        """How far it is from another, in pixels; 0 if they overlap."""
        return float(np.hypot(max(self.across(other), 0), max(self.apart(other), 0)))

    def stacked(self, other: "_Box", scale: float) -> bool:
        """Whether the two are the halves of one digit: one above or around the other.

        Two digits, one below the other, are higher together than one digit, and farther apart.
        """
        height, both = self.apart(other), self.height + other.height
        near = height < STACKED * both and both + height < HIGHEST * scale
        over = -self.across(other) > 0.5 * min(self.width, other.width)
        return over and (near or height < CLOSE * both)


@dataclass
class _Group:
    """The components of one digit, the largest first, and what speaks against it."""

    parts: list[_Box]
    remarks: set[str] = field(default_factory=set)

    @property
    def box(self) -> _Box:
        """The box around all of it."""
        return _Box(
            min(part.top for part in self.parts),
            max(part.bottom for part in self.parts),
            min(part.left for part in self.parts),
            max(part.right for part in self.parts),
        )


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
    found = _rectangle(bright, 0.8) or _rectangle(~bright, 0.95)
    if found is None:
        return everything
    rows, columns = found
    scale = [large / of for large, of in zip(grey.shape, small.shape, strict=True)]
    # A little less than the sheet, whose edge is neither paper nor ink.
    return tuple(  # type: ignore[return-value]
        slice(
            round((each.start + (each.start > 0)) * by),
            round((each.stop - (each.stop < of)) * by),
        )
        for each, by, of in zip((rows, columns), scale, small.shape, strict=True)
    )


def _rectangle(mask: Mask, least: float) -> tuple[slice, slice] | None:
    """The largest thing in a mask if it is a sheet: it fills its box, and has something in it.

    Args:
        mask: the small picture's bright or dark part.
        least: the share of its box that it fills.
    """
    labelled, _ = ndimage.label(mask)
    sheet = labelled == np.bincount(labelled[mask]).argmax()
    [(rows, columns)] = ndimage.find_objects(sheet.astype(int))
    whole = ndimage.binary_fill_holes(sheet)[rows, columns]
    sides = [side / of for side, of in zip(whole.shape, mask.shape, strict=True)]
    # It has corners, which a thick digit in light ink has not.
    height, width = (max(1, side // 6) for side in whole.shape)
    corners = [whole[y, x].mean() for y in _ends(height) for x in _ends(width)]
    filled = whole.mean() > least and np.mean(corners) > 0.5
    # A dark panel is full of nothing if it has no ink; a sheet may have it at its edge.
    share = sheet.sum() / whole.sum()
    if filled and share >= 0.7 and (share < 1 or least < 0.9) and min(sides) >= SHEET_SIDE:
        return rows, columns
    return None


def _ends(length: int) -> tuple[slice, slice]:
    """The beginning and the end of an axis."""
    return slice(length), slice(-length, None)


def one_channel(picture: Floats) -> Floats:
    """The mixture of red, green and blue that varies most: brightness, unless colour says more.

    The colours of a colour map become the values that they stand for, from 0 to 255.
    """
    if float(np.ptp(picture, axis=-1).mean()) > 8 and (values := _values(picture)) is not None:
        return values
    pixels = picture.reshape(-1, 3)
    pixels = pixels - pixels.mean(axis=0)
    _, axes = np.linalg.eigh(pixels.T @ pixels)
    axis = axes[:, -1] * np.sign(axes[:, -1].sum() or 1)
    return np.asarray(picture @ (axis / np.abs(axis).sum()), dtype=np.float32)


def _values(picture: Floats) -> Floats | None:
    """The values that a picture shows in the colours of one of COLOUR_MAPS; None if in none."""
    from matplotlib import colormaps

    packed = picture.round().astype(np.int64) @ (1 << 16, 1 << 8, 1)
    numbers, where = np.unique(packed, return_inverse=True)
    colours = np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1)
    for name in COLOUR_MAPS if len(colours) < 1000 else ():
        listed = 255 * colormaps[name](np.arange(256))[:, :3]
        distances = np.linalg.norm(colours[:, np.newaxis] - listed, axis=2)
        values = distances.argmin(axis=1)
        if np.percentile(distances.min(axis=1), 95) < 6:
            return np.asarray(values[where].reshape(picture.shape[:2]), dtype=np.float32)
    return None


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
    return float(np.clip(best, PALEST * full, DARKEST * full))


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


def _without_rules(contrast: Floats, threshold: float) -> Floats:
    """Erase thin straight lines across the picture: ruled and squared paper, margins, frames."""
    contrast = contrast.copy()
    thickest = max(3, round(RULE_WIDTH * max(contrast.shape)))
    for view in (contrast, contrast.T):
        height, width = view.shape
        mask = view > 0.5 * threshold
        thin = mask & ~ndimage.binary_opening(mask, np.ones((thickest + 1, 1)))
        (y, x), (all_y, all_x) = np.nonzero(thin), np.indices(view.shape)
        edge = max(2, width // 30)
        rule = np.zeros(view.shape, bool)
        for slope in np.arange(-STEEPEST_RULE, STEEPEST_RULE + 1e-6, 2 / max(width, 40)):
            # A line of this slope is in two rows, one below the other, of the sheared picture.
            row = np.rint(y - slope * (x - width / 2)).astype(int) + width // 8 + 1
            sheared = np.zeros((height + width // 4 + 4, width), bool)
            sheared[row, x] = sheared[row + 1, x] = True
            ends = sheared[:, :edge].any(axis=1), sheared[:, -edge:].any(axis=1)
            length = sheared.mean(axis=1)
            full = (length > RULE_LENGTH) & (ends[0] | ends[1])
            full |= (length > THROUGH) & ends[0] & ends[1]
            if full.any():
                band = ndimage.binary_dilation(full, iterations=thickest // 2)
                rule |= band[
                    np.rint(all_y - slope * (all_x - width / 2)).astype(int) + width // 8 + 1
                ]
        view[rule & thin] = 0
        # Where it was drawn over a digit, its place has the ink above and below it.
        view[rule] = ndimage.grey_closing(view, (thickest + 2, 1))[rule]
    return contrast


def _parts(
    contrast: Floats, threshold: float
) -> tuple[Floats, NDArray[np.int32], list[_Box], list[_Box]]:
    """The connected components of a picture.

    Returns:
        The contrast, in which the dots of a dotted digit are joined; the labels of its pixels; the
        components; and those that are left out because they touch the picture's edge.

    Raises:
        UserError: there is none that could be a digit.
    """
    mask = contrast > threshold
    labelled, _ = ndimage.label(mask, np.ones((3, 3)))
    height, width = contrast.shape
    parts = [
        _Box(rows.start, rows.stop, columns.start, columns.stop, number)
        for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1)
    ]
    least = max(3, 0.02 * max(height, width)) if max(height, width) > 60 else 3
    parts = [part for part in parts if part.size >= least]
    inner = [part for part in parts if not part.touches(height, width)]
    cut_off: list[_Box] = []
    if inner and max(part.height for part in inner) >= 0.05 * height:
        cut_off = [part for part in parts if part.touches(height, width)]
        parts = inner
    if not parts:
        raise UserError(NOTHING)
    stroke = stroke_width(np.isin(labelled, [part.label for part in parts]))
    dot = float(np.median([part.size for part in parts]))
    if len(parts) < DOTS or dot > DOTTED * stroke:
        return contrast, labelled, parts, cut_off
    near = ndimage.distance_transform_edt(~mask) <= DOT_GAP * dot
    closed = (ndimage.distance_transform_edt(near) > DOT_GAP * dot) & ~mask
    if not closed.any():
        return contrast, labelled, parts, cut_off
    return _parts(np.where(closed, np.maximum(contrast, 2 * threshold), contrast), threshold)


def _grouped(parts: list[_Box], scale: float) -> tuple[list[_Group], list[_Box]]:
    """Components that belong to one digit, such as the separate bar of a 5; and other marks."""
    wholes = [[part] for part in parts if part.height >= WHOLE * scale]
    marks = []
    for part in parts:
        if part.height >= WHOLE * scale:
            continue
        [nearest, *_], its = min(
            ((whole, part.distance(whole[0])) for whole in wholes), key=lambda pair: pair[1]
        )
        round_dot = part.size < DOT * scale and part.size < 2 * min(part.height, part.width)
        over = part.across(nearest) < -0.5 * part.width
        if (its < NEAR * scale and over) or (its < BESIDE * scale and not round_dot):
            next(whole for whole in wholes if whole[0] is nearest).append(part)
        else:
            marks.append(part)
    wholes.sort(key=lambda whole: whole[0].left + whole[0].right)
    groups: list[_Group] = []
    for whole in wholes:
        above = next((each for each in groups if each.parts[0].stacked(whole[0], scale)), None)
        if above:
            above.parts += whole
        else:
            groups.append(_Group(whole))
    return groups, marks


def _bridged(groups: list[_Group], labelled: NDArray[np.int32], scale: float) -> list[_Group]:
    """The groups, and those with only a small gap between them as one."""
    ink = np.isin(labelled, [part.label for group in groups for part in group.parts])
    whole = _Group([group.box for group in groups]).box
    gap = GAP * min(whole.height, 2 * scale)
    near, _ = ndimage.label(ndimage.distance_transform_edt(~ink) <= gap / 2)
    bridged: dict[int, _Group] = {}
    for group in groups:
        island = int(near[labelled == group.parts[0].label][0])
        if island in bridged:
            bridged[island].parts += group.parts
            bridged[island].remarks.add(JOINED)
        else:
            bridged[island] = group
    return list(bridged.values())


def _lines(groups: list[_Group]) -> list[list[_Group]]:
    """The lines of writing, from the top, each from left to right, on a slanted sheet too."""
    middles = np.array([group.box.middle for group in groups])
    slopes = []
    for y, x in middles:
        to_right = middles[middles[:, 1] > x] - (y, x)
        in_line = to_right[abs(to_right[:, 0]) <= STEEPEST_LINE * to_right[:, 1]]
        if len(in_line):
            down, across = in_line[np.hypot(*in_line.T).argmin()]
            slopes.append(down / across)
    height = float(np.median([group.box.height for group in groups]))
    level = middles[:, 0] - (np.median(slopes) if slopes else 0) * middles[:, 1]
    lines: list[list[int]] = []
    for number in level.argsort(kind="stable"):
        if lines and level[number] - level[lines[-1]].mean() < SAME_LINE * height:
            lines[-1].append(number)
        else:
            lines.append([number])
    return [[groups[i] for i in sorted(line, key=lambda i: middles[i, 1])] for line in lines]


def _cut(
    contrast: Floats, threshold: float, labelled: NDArray[np.int32], group: _Group, line: int
) -> Found:
    """A digit with a margin of two pixels, and without its neighbours."""
    box = group.box
    rows, columns = slice(box.top, box.bottom + 4), slice(box.left, box.right + 4)
    around = np.pad(contrast, 2)[rows, columns]
    ours = np.isin(np.pad(labelled, 2)[rows, columns], [part.label for part in group.parts])
    near = ndimage.binary_dilation(ours, np.ones((3, 3)), iterations=2)
    ink = np.where(near & (ours | (around <= threshold)), around, 0)
    return Found(ink, threshold, line, "; ".join(sorted(group.remarks)))
