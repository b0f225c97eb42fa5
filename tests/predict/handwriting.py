"""Pictures of handwriting, made from digits of the dataset or drawn from strokes; seeded.

A shape is a float array (h, w) from 0 (paper) to 1 (ink), several hundred pixels high, with the
smooth edges of a pen.
"""

import io

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

Array = np.ndarray

# The digits as strokes through points (x, y) of a square of 100; y points down.
STROKES: dict[int, list[list[list[tuple[int, int]]]]] = {
    0: [
        [[(50, 0), (20, 15), (8, 50), (20, 85), (50, 100), (80, 85), (92, 50), (80, 15), (50, 0)]],
        [[(60, 3), (35, 5), (22, 45), (30, 90), (55, 99), (75, 70), (76, 25), (58, 3)]],
    ],
    1: [[[(50, 0), (50, 50), (50, 100)]], [[(28, 28), (55, 0)], [(55, 0), (52, 50), (50, 100)]]],
    2: [
        [[(15, 22), (35, 2), (68, 4), (80, 28), (58, 60), (12, 100)], [(12, 100), (88, 98)]],
        [[(18, 18), (48, 0), (76, 22), (62, 52), (30, 84), (20, 99)],
         [(20, 99), (50, 92), (85, 97)]],
    ],
    3: [
        [[(18, 12), (48, 0), (76, 18), (66, 42), (42, 48), (74, 60),
          (78, 84), (48, 100), (15, 90)]],
    ],
    4: [
        [[(60, 0), (38, 32), (12, 64)], [(12, 64), (90, 64)], [(66, 30), (66, 65), (64, 100)]],
        [[(22, 0), (20, 25), (18, 52)], [(18, 52), (50, 54), (82, 50)],
         [(78, 2), (76, 50), (72, 100)]],
    ],
    5: [
        [[(24, 4), (80, 2)], [(24, 4), (20, 44)],
         [(20, 44), (55, 38), (80, 62), (62, 94), (15, 96)]],
    ],
    6: [[[(68, 2), (36, 28), (18, 66), (36, 98), (68, 94), (78, 68), (54, 54), (22, 72)]]],
    7: [
        [[(12, 4), (86, 2)], [(86, 2), (60, 48), (42, 100)]],
        [[(12, 4), (84, 2)], [(84, 2), (60, 48), (44, 100)], [(36, 52), (78, 48)]],
    ],
    8: [
        [[(70, 14), (48, 0), (24, 18), (42, 44), (72, 68), (66, 94), (40, 100), (22, 80), (44, 52),
          (72, 26), (70, 14)]],
    ],
    9: [
        [[(76, 26), (52, 2), (24, 20), (30, 46), (58, 48), (76, 26)],
         [(76, 26), (74, 64), (62, 100)]],
    ],
}  # fmt: skip


def from_pixels(digit: Array, height: int = 400) -> Array:
    """The shape of a digit of the dataset, uint8 (28, 28): enlarged, and edged as by a pen."""
    rows, columns = np.nonzero(digit.any(axis=1))[0], np.nonzero(digit.any(axis=0))[0]
    cut = digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32) / 255
    scale = height / max(cut.shape)
    size = [max(1, round(side * scale)) for side in np.pad(cut, 2).shape]
    padded = Image.fromarray(np.pad(cut, 2))
    smooth = np.asarray(padded.resize((size[1], size[0]), Image.Resampling.BICUBIC))
    smooth = ndimage.gaussian_filter(smooth, scale / 3)
    return np.clip((smooth - 0.5) * 8 + 0.5, 0, 1)


def from_strokes(label: int, pen: float, random: np.random.Generator, height: int = 400) -> Array:
    """A digit drawn with a round pen, `pen` of the digit's height wide; no two are the same."""
    variants = STROKES[label]
    strokes = variants[random.integers(len(variants))]
    angle, shear = random.uniform(-0.12, 0.12), random.uniform(-0.1, 0.25)
    stretch = random.uniform(0.6, 0.95)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    turn = turn @ np.array([[stretch, -shear], [0, 1]])
    side, radius = round(height * 2), pen * height / 2
    image = Image.new("L", (side, side))
    draw = ImageDraw.Draw(image)
    for stroke in strokes:
        points = (np.array(stroke) / 100 - 0.5 + random.normal(0, 0.012, (len(stroke), 2))) @ turn.T
        for x, y in _curve(points) * height + side / 2:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    shape = np.asarray(image, dtype=np.float32) / 255
    rows, columns = np.nonzero(shape.any(axis=1))[0], np.nonzero(shape.any(axis=0))[0]
    return np.pad(shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 2)


def _curve(points: Array) -> Array:
    """Catmull and Rom's curve through the points, 60 places a piece."""
    if len(points) == 2:
        return points[0] + np.linspace(0, 1, 120)[:, None] * (points[1] - points[0])
    p = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = np.linspace(0, 1, 60)[:, None]
    return np.vstack(
        [
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                   + (3 * b - a - 3 * c + d) * t**3)
            for a, b, c, d in zip(p, p[1:], p[2:], p[3:], strict=False)
        ]
    )  # fmt: skip


def on_page(shape: Array, height: int, width: int, random: np.random.Generator) -> Array:
    """The shape somewhere on an empty page, float (height, width)."""
    page = np.zeros((height, width), np.float32)
    top = random.integers(height // 20, height - shape.shape[0] - height // 20)
    left = random.integers(width // 20, width - shape.shape[1] - width // 20)
    page[top : top + shape.shape[0], left : left + shape.shape[1]] = shape
    return page


def scan(shape: Array, random: np.random.Generator) -> bytes:
    """Grey ink on nearly white paper, with specks of dust."""
    page = on_page(shape, *around(shape, random), random)
    paper, ink = random.uniform(235, 255), random.uniform(10, 110)
    grey = paper + (ink - paper) * page + random.normal(0, 2.5, page.shape)
    for _ in range(random.integers(0, 8)):
        y, x = random.integers(0, page.shape[0] - 4), random.integers(0, page.shape[1] - 4)
        grey[y : y + 3, x : x + 3] = 120
    return encoded(grey, "PNG" if random.random() < 0.5 else "BMP")


def encoded(pixels: Array, kind: str, **options: object) -> bytes:
    """Pixels from 0 to 255 as the bytes of a file."""
    if pixels.dtype != np.uint16:
        pixels = pixels.round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def around(shape: Array, random: np.random.Generator) -> tuple[int, int]:
    """The size of a page on which the shape takes between a fifth and two thirds of the height."""
    height = round(max(shape.shape) * random.uniform(1.5, 5))
    return height, round(height * random.uniform(0.9, 1.4))
