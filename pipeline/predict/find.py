"""Find the digits of a picture, line by line: whatever its paper, its light and its colours.

Ink is what differs from the paper around it. Light changes slowly from place to place, ink does
not: so the background is a smooth surface through everything that is not ink.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from pipeline.errors import UserError
from pipeline.predict.picture import one_channel

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

BACKGROUND_BLUR, NOISE_BLUR, PAPER_MARGIN = 1 / 30, 1 / 1000, 1 / 150  # of the longer side
SMALL = 96  # the longer side of the picture on which the background is estimated, in pixels
LEAST_CONTRAST = 0.08  # of ink; 1 is black on white
NOISE = 5  # standard deviations of it that ink differs by at least
PALEST, DARKEST, PAPER = 0.35, 0.65, 0.7  # the threshold of the ink, as a share; of paper, of that

# A sheet on a desk, or a dark panel in a page: its shares of the picture's sides, of its box
# (bright or dark) and of the box's corners; and the most that its ink takes of it.
SHEET_SIDE, SHEET_FILLS, PANEL_FILLS, CORNERS, SHEET_INK = 0.35, 0.8, 0.95, 0.5, 0.3
TWO_LEVELS = 0.7  # the share of the variance that is between the sheet and the rest
DESK = 0.5  # its brightness, as a share of the sheet's; a shadow is brighter

# Ruled lines, in shares of the side along them: seen on RULE_LENGTH from one edge, or on THROUGH
# from edge to edge.
RULE_WIDTH, STEEPEST_RULE, RULE_LENGTH, THROUGH, EDGE = 0.02, 0.1, 0.7, 0.5, 1 / 30

# Shares of the digits' usual height. What is lower than WHOLE is part of a digit NEAR above or
# below it, or BESIDE it, unless it is a DOT; or else a mark, or DUST.
WHOLE, NEAR, BESIDE, DOT, DUST, DUST_STROKE = 0.45, 0.3, 0.12, 0.25, 0.05, 0.7
# Halves of a digit, one above the other: the gap, as a share of both heights, if they are no higher
# together than HIGHEST; and if they are. They overlap by OVER of the narrower one's width.
STACKED, HIGHEST, CLOSE, OVER = 0.15, 1.5, 0.03, 0.5
GAP = 0.12  # bridged, if there should be one digit
SAME_LINE, STEEPEST_LINE = 0.6, 0.35  # between the centres of a line's digits; its slope
FLAT = 1.6  # wider than high by this factor is no digit of the dataset
# A dotted digit: the dots' length in widths of the stroke, their number, and half the gap between
# them, in their lengths.
DOTTED, DOTS, DOT_GAP = 2.5, 5, 0.7
SPECK, SPECK_SHARE = 3, 0.02  # the smallest component, in pixels and of the longer side
INNER = 0.05  # the height, of the picture's, beside which components at its edge are left out

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
    grey = one_channel(_page(picture))
    light, dark = _light(grey)
    background = light
    for _ in range(2):
        contrast = _contrast(grey, background, dark)
        # Once more, from everything that is not ink: this follows the edge of a shadow.
        inked = contrast > PAPER * _threshold(contrast)
        reach = max(2, round(PAPER_MARGIN * max(grey.shape)))
        paper = ~ndimage.binary_dilation(inked, iterations=reach)
        background = light + _filled(grey - light, paper)
    contrast = _contrast(grey, background, dark)
    contrast = _without_rules(contrast.clip(0), _threshold(contrast))
    return contrast, _threshold(contrast)


def digits(contrast: Floats, threshold: float, one: bool = False) -> list[Found]:
    """Find the digits of a picture, line by line from the top, each from left to right.

    Args:
        contrast: from `ink`, float32 (h, w).
        threshold: from `ink`.
        one: there should be one digit, so that pieces close to each other belong together.

    Raises:
        UserError: there is nothing that could be one.
    """
    mask = contrast > threshold
    labelled, parts, cut_off = _parts(mask)
    stroke = stroke_width(np.isin(labelled, [part.labels for part in parts]))
    dot = float(np.median([part.size for part in parts]))
    if len(parts) >= DOTS and dot <= DOTTED * stroke:
        near = ndimage.distance_transform_edt(~mask) <= DOT_GAP * dot
        between = (ndimage.distance_transform_edt(near) > DOT_GAP * dot) & ~mask
        if between.any():
            joined = np.where(between, np.maximum(contrast, 2 * threshold), contrast)
            return digits(joined, threshold, one)
    if max(part.size for part in parts) < SPECK_SHARE * max(mask.shape):
        raise UserError(NOTHING)  # dust
    # The usual height: half of the ink's height is in components no higher.
    heights = [part.height for part in parts]
    scale = float(np.median(np.repeat(heights, heights)))
    groups, marks = _grouped(parts, scale)
    marks += [part for part in cut_off if WHOLE * scale <= part.height <= HIGHEST * scale]
    if one and len(groups) > 1:
        groups = _bridged(groups, labelled, scale)
    for mark in marks:
        if mark.size >= max(DUST * scale, DUST_STROKE * stroke):
            min(groups, key=mark.distance).remarks.add(MARKS)
    for group in groups:
        if group.width > FLAT * group.height:
            group.remarks.add(NO_DIGIT)
    return [
        _cut(contrast, threshold, labelled, group, number)
        for number, line in enumerate(_lines(groups))
        for group in line
    ]


def stroke_width(bilevel: Mask) -> float:
    """Measure the typical width of strokes: twice the median distance from middle to edge."""
    distance = ndimage.distance_transform_edt(bilevel)
    middle = (distance == ndimage.maximum_filter(distance, size=5)) & (distance > 0)
    return 2 * float(np.median(distance[middle]))


def whole(contrast: Floats, threshold: float) -> Found:
    """Take everything in a picture as one digit; raise UserError if there is nothing in it."""
    rows, columns = (np.flatnonzero((contrast > threshold).any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise UserError(NOTHING)
    padded = np.pad(contrast, 2)
    return Found(padded[rows[0] : rows[-1] + 5, columns[0] : columns[-1] + 5], threshold)


@dataclass(frozen=True)
class _Box:
    """A box around ink, with ends exclusive; the labels of the components in it, and remarks."""

    top: int
    bottom: int
    left: int
    right: int
    labels: tuple[int, ...]
    remarks: set[str] = field(default_factory=set)

    @property
    def height(self) -> int:
        return self.bottom - self.top

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def size(self) -> int:
        return max(self.height, self.width)

    def gaps(self, other: "_Box") -> tuple[int, int]:
        """Measure the rows and the columns between two boxes; negative where they overlap."""
        down = max(self.top, other.top) - min(self.bottom, other.bottom)
        return down, max(self.left, other.left) - min(self.right, other.right)

    def distance(self, other: "_Box") -> float:
        return float(np.hypot(*np.maximum(self.gaps(other), 0)))

    def joined(self, other: "_Box", *remarks: str) -> "_Box":
        return _Box(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
            self.labels + other.labels,
            {*self.remarks, *other.remarks, *remarks},
        )


def _page(picture: Floats) -> Floats:
    """Cut out the sheet of paper on a desk, or the dark panel in a page, if there is one."""
    grey = picture.mean(axis=-1)
    small = _small(grey)
    level, between = _otsu(small.ravel(), float(small.max()))
    bright = small > level
    if between < TWO_LEVELS or np.median(small[~bright]) > DESK * np.median(small[bright]):
        return picture
    for mask, least in ((bright, SHEET_FILLS), (~bright, PANEL_FILLS)):
        labelled, _ = ndimage.label(mask)
        sheet = labelled == np.bincount(labelled[mask]).argmax()
        # Without its edge, which is neither paper nor ink.
        inner = ndimage.binary_erosion(sheet, np.ones((3, 3)), border_value=1)
        if not inner.any():
            continue
        [box] = ndimage.find_objects(inner.astype(int))
        filled = ndimage.binary_fill_holes(sheet[box])
        inked = 1 - sheet[box].sum() / filled.sum()
        # It has corners, which a thick digit in light ink has not.
        height, width = (max(1, side // 6) for side in filled.shape)
        ends = np.ix_([*range(height), *range(-height, 0)], [*range(width), *range(-width, 0)])
        if (
            filled.mean() > least
            and filled[ends].mean() > CORNERS
            and np.divide(filled.shape, small.shape).min() >= SHEET_SIDE
            # A dark panel without ink is full of nothing; a sheet may have its ink at the edge.
            and (0 if mask is bright else 1e-9) <= inked <= SHEET_INK
        ):
            scale = max(grey.shape) / max(small.shape)
            rows, columns = (slice(round(s.start * scale), round(s.stop * scale)) for s in box)
            return picture[rows, columns]
    return picture


def _resized(image: Floats, height: int, width: int) -> Floats:
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.float32)


def _small(image: Floats) -> Floats:
    scale = min(1, SMALL / max(image.shape))
    return _resized(image, *(max(1, round(side * scale)) for side in image.shape))


def _light(grey: Floats) -> tuple[Floats, bool]:
    """Fit the light on a picture, float32 (h, w); and tell whether the ink is the dark part.

    The light is a quadratic function of the place, fitted to the picture's edge.
    """
    small = ndimage.gaussian_filter(_small(grey), SMALL / 200, mode="nearest")
    height, width = small.shape
    y, x = (axis.ravel() for axis in np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j])
    terms = np.stack([np.ones_like(x), x, y, x * y, x**2, y**2], axis=1)
    shorter = min(height, width)
    edge = np.maximum(abs(x), abs(y)) > 1 - 2 * max(1, round(shorter / 20)) / shorter
    values, weights = small.ravel()[edge], np.ones(edge.sum())
    for _ in range(5):  # what is drawn across the edge counts less each time
        solved = np.linalg.lstsq(terms[edge] * weights[:, None], values * weights, rcond=None)[0]
        residual = abs(values - terms[edge] @ solved)
        weights = 1 / (1 + residual / (np.median(residual) + 1))
    light = (terms @ solved).reshape(height, width).astype(np.float32)
    # Ink deviates most from the light on it and around it.
    around = ndimage.gaussian_filter(small - light, SMALL / 8, mode="constant")
    dark = ((small - light - around / 2) ** 5).sum() < 0
    return _resized(light, *grey.shape), bool(dark)


def _contrast(grey: Floats, background: Floats, dark: bool) -> Floats:
    """Compare ink with the background: 1 is the most by which it could differ.

    Paper reflects a share of the light that falls on it, so that ink in the shade differs by less.
    """
    most = np.maximum(background, 64) if dark else -255
    difference = (background - grey) / most
    blur = NOISE_BLUR * max(grey.shape)
    return np.asarray(ndimage.gaussian_filter(difference, blur), dtype=np.float32)


def _threshold(contrast: Floats) -> float:
    """Find the contrast that separates ink from everything paler, such as ruled lines."""
    # The noise's standard deviation, by the median by which neighbours differ.
    noise = np.median(np.abs(np.diff(contrast.ravel(), append=0))) * 1.4826 / np.sqrt(2)
    candidates = contrast[contrast > max(LEAST_CONTRAST, NOISE * noise)]
    if len(candidates) < 4:
        raise UserError(NOTHING)
    full = float(np.percentile(candidates, 95))
    best, _ = _otsu(candidates, full)
    return float(np.clip(best, PALEST * full, DARKEST * full))


def _otsu(values: Floats, highest: float) -> tuple[float, float]:
    """Separate two classes best (Otsu 1979); also return the share of variance between them."""
    counts, edges = np.histogram(values, 64, (0, max(highest, 1e-6)))
    middles = (edges[1:] + edges[:-1]) / 2
    shares = counts / max(counts.sum(), 1)
    mean, below = shares @ middles, shares.cumsum()[:-1]
    between = (mean * below - (shares * middles).cumsum()[:-1]) ** 2
    between /= np.maximum(below * (1 - below), 1e-12)
    best = int(between.argmax())
    whole = max(float(shares @ (middles - mean) ** 2), 1e-12)
    return float(edges[1 + best]), float(between[best]) / whole


def _filled(grey: Floats, paper: Mask) -> Floats:
    """Blur the paper, interpolated under the ink; 0 where no paper is near."""
    sigma = BACKGROUND_BLUR * max(_small(grey).shape)
    share, total = (
        ndimage.gaussian_filter(_small(each), sigma, mode="nearest", truncate=3)
        for each in (paper.astype(np.float32), grey * paper)
    )
    return _resized(total / np.maximum(share, 0.02), *grey.shape)


def _without_rules(contrast: Floats, threshold: float) -> Floats:
    """Erase thin straight lines across the picture: ruled and squared paper, margins, frames."""
    contrast = contrast.copy()
    thickest = max(3, round(RULE_WIDTH * max(contrast.shape)))
    for view in (contrast, contrast.T):
        width = view.shape[1]
        # A rule consists of short vertical runs of ink, each of which begins on one line.
        mask = view > 0.5 * threshold
        begins = mask & ~np.pad(mask, ((1, 0), (0, 0)))[:-1]
        runs = np.where(mask, np.cumsum(begins.T).reshape(begins.T.shape).T, 0)
        thin = np.bincount(runs.ravel())[1:] <= thickest
        x, y = (its[thin] for its in np.nonzero(begins.T))
        on_rule = np.zeros(len(x), bool)
        places = [x >= 0, x < max(2, EDGE * width), x >= width - max(2, EDGE * width)]
        for slope in np.arange(-STEEPEST_RULE, STEEPEST_RULE + 1e-6, 2 / max(width, 40)):
            row = np.rint(y - slope * x + STEEPEST_RULE * width).astype(int) + 1
            # The line may be a pixel higher or lower than it should be.
            every, left, right = (
                np.convolve(np.bincount(row[its], minlength=row.max(initial=0) + 2), [1, 1, 1])
                for its in places
            )
            full = (every > RULE_LENGTH * width) & (left + right > 0)
            full |= (every > THROUGH * width) & (left > 0) & (right > 0)
            on_rule |= ndimage.binary_dilation(full)[row + 1]
        if on_rule.any():
            rule = np.isin(runs, 1 + np.flatnonzero(thin)[on_rule])
            view[rule] = 0
            # Where it was drawn over a digit, its place has the ink above and below it.
            pale = rule | (mask & (view < threshold))
            view[pale] = ndimage.grey_closing(view, (thickest + 2, 1))[pale]
    return contrast


def _parts(mask: Mask) -> tuple[NDArray[np.int32], list[_Box], list[_Box]]:
    """Find the labels of a picture's components, their boxes, and those left out at its edge."""
    labelled, _ = ndimage.label(mask, np.ones((3, 3)))
    height, width = mask.shape
    boxes = [
        _Box(rows.start, rows.stop, columns.start, columns.stop, (number,))
        for number, (rows, columns) in enumerate(ndimage.find_objects(labelled), start=1)
    ]
    boxes = [box for box in boxes if box.size >= SPECK]
    # Without anything larger, specks may be the dots of a digit.
    parts = [box for box in boxes if box.size >= SPECK_SHARE * max(mask.shape)] or boxes
    inner = [
        box for box in parts if min(box.top, box.left, height - box.bottom, width - box.right) > 0
    ]
    if max((box.height for box in inner), default=0) >= INNER * height:
        return labelled, inner, [box for box in parts if box not in inner]
    if not parts:
        raise UserError(NOTHING)
    return labelled, parts, []


def _grouped(parts: list[_Box], scale: float) -> tuple[list[_Box], list[_Box]]:
    """Join components that belong to one digit, such as the separate bar of a 5; find the marks."""
    wholes = [part for part in parts if part.height >= WHOLE * scale]
    joined, marks = list(wholes), []
    for part in parts:
        if part.height >= WHOLE * scale:
            continue
        nearest = min(range(len(wholes)), key=lambda i: part.distance(wholes[i]))
        distance = part.distance(wholes[nearest])
        round_dot = part.size < DOT * scale and part.size < 2 * min(part.height, part.width)
        over = part.gaps(wholes[nearest])[1] < -OVER * part.width
        if (distance < NEAR * scale and over) or (distance < BESIDE * scale and not round_dot):
            joined[nearest] = joined[nearest].joined(part)
        else:
            marks.append(part)
    groups: list[_Box] = []
    for part in sorted(joined, key=lambda part: part.left + part.right):
        above = (i for i, each in enumerate(groups) if _stacked(each, part, scale))
        if (number := next(above, None)) is None:
            groups.append(part)
        else:
            groups[number] = groups[number].joined(part)
    return groups, marks


def _stacked(one: _Box, other: _Box, scale: float) -> bool:
    """Check whether two boxes are the halves of one digit: one above or around the other."""
    # Two digits, one below the other, are higher together than one digit, and farther apart.
    (down, across), both = one.gaps(other), one.height + other.height
    near = down < STACKED * both and both + down < HIGHEST * scale
    return -across > OVER * min(one.width, other.width) and (near or down < CLOSE * both)


def _bridged(groups: list[_Box], labelled: NDArray[np.int32], scale: float) -> list[_Box]:
    """Join groups with only a small gap between them."""
    ink = np.isin(labelled, [label for group in groups for label in group.labels])
    height = max(group.bottom for group in groups) - min(group.top for group in groups)
    gap = GAP * min(height, 2 * scale)
    near, _ = ndimage.label(ndimage.distance_transform_edt(~ink) <= gap / 2)
    bridged: dict[int, _Box] = {}
    for group in groups:
        island = int(near[labelled == group.labels[0]][0])
        bridged[island] = bridged[island].joined(group, JOINED) if island in bridged else group
    return list(bridged.values())


def _lines(groups: list[_Box]) -> list[list[_Box]]:
    """Sort digits into lines of writing, from the top, each from left to right; also slanted."""
    middles = np.array([(box.top + box.bottom, box.left + box.right) for box in groups]) / 2
    slopes = []
    for y, x in middles:
        to_right = middles[middles[:, 1] > x] - (y, x)
        in_line = to_right[abs(to_right[:, 0]) <= STEEPEST_LINE * to_right[:, 1]]
        if len(in_line):
            down, across = in_line[np.hypot(*in_line.T).argmin()]
            slopes.append(down / across)
    height = float(np.median([group.height for group in groups]))
    level = middles[:, 0] - (np.median(slopes) if slopes else 0) * middles[:, 1]
    lines: list[list[int]] = []
    for number in level.argsort(kind="stable"):
        if lines and level[number] - level[lines[-1]].mean() < SAME_LINE * height:
            lines[-1].append(number)
        else:
            lines.append([number])
    return [[groups[i] for i in sorted(line, key=lambda i: middles[i, 1])] for line in lines]


def _cut(
    contrast: Floats, threshold: float, labelled: NDArray[np.int32], group: _Box, line: int
) -> Found:
    """Cut a digit out, with a margin of two pixels, and without its neighbours."""
    rows, columns = slice(group.top, group.bottom + 4), slice(group.left, group.right + 4)
    around = np.pad(contrast, 2)[rows, columns]
    ours = np.isin(np.pad(labelled, 2)[rows, columns], group.labels)
    near = ndimage.binary_dilation(ours, np.ones((3, 3)), iterations=2)
    ink = np.where(near & (ours | (around <= threshold)), around, 0)
    return Found(ink, threshold, line, "; ".join(sorted(group.remarks)))
