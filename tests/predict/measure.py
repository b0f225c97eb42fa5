"""Make pictures of digits as people send them, read them, and count what is right.

    python tests/predict/measure.py [SEED] [KIND...]

The networks are those of `make demo`; digits are from the test rows of `sample`, which no network
has seen, or drawn with a pen. The first five kinds are a hundred pictures, 97 of which must be
right; of the others, 95 %. A page counts as remarked if any digit of it has a remark. Thresholds
were chosen on the seeds 1, 2, 100 and 101 of other programs.
"""

import csv
import sys
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib as mpl
import numpy as np
from handwriting import Array, around, encoded, from_pixels, from_strokes, on_page, scan
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from pipeline import stages
from pipeline.predict import files

FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
BESIDE = "\N{MINUS SIGN}+×=÷."
SIGNS = BESIDE[:-1] + "AEFHKMNPRTWX#*♥→✓%☺☞⌂△□&?∫★"
# The colours of paper and ink; the darker one is not always the ink.
PAIRS = [
    ((250, 250, 90), (30, 30, 160)), ((40, 90, 50), (235, 235, 225)),
    ((180, 40, 40), (250, 220, 60)), ((245, 225, 235), (150, 20, 120)),
    ((20, 25, 60), (255, 140, 40)), ((120, 200, 240), (180, 30, 30)),
    ((200, 60, 60), (30, 145, 60)),
]  # fmt: skip
HUNDRED = ("scan", "photograph", "transparent", "coloured", "raw")
MANY = ("lines", "beside")
COUNTS = {
    **dict.fromkeys(HUNDRED, 20),
    **dict.fromkeys(("lines", "lined", "faint", "panel", "deep", "animation", "map", "pieces"), 12),
    "beside": 12,
    "sign": len(SIGNS),
}


def sign(letter: str, height: int) -> Array:
    """The shape of a thing that is no digit, float from 0 to 1."""
    image = Image.new("L", (2 * height, 2 * height))
    font = ImageFont.truetype(str(FONT), height)
    ImageDraw.Draw(image).text((height // 2, height // 3), letter, fill=255, font=font)
    return np.asarray(image.crop(image.getbbox()), dtype=np.float32) / 255


class Maker:
    """Makes pictures: each method a kind, the bytes of a file and what is written in it."""

    def __init__(self, images: Array, labels: list[int], seed: int) -> None:
        """Take the digits, uint8 (n, 28, 28), and their labels."""
        self.images, self.labels, self.random = images, labels, np.random.default_rng(seed)
        self.signs = iter(SIGNS)

    def row(self) -> tuple[Array, str]:
        """A digit of the dataset, and its label."""
        row = int(self.random.integers(len(self.images)))
        return self.images[row], str(self.labels[row])

    def digit(self, height: int = 400) -> tuple[Array, str]:
        """The shape of a digit, and its label: half are drawn with a pen."""
        if self.random.random() < 0.5:
            label, pen = int(self.random.integers(10)), self.random.uniform(0.05, 0.15)
            return from_strokes(label, pen, self.random, height), str(label)
        pixels, text = self.row()
        return from_pixels(pixels, height), text

    def page(self, height: int = 240) -> tuple[Array, str]:
        """A page with a digit, and its label."""
        shape, text = self.digit(height)
        return on_page(shape, *around(shape, self.random), self.random), text

    def grey(self, page: Array) -> Array:
        """The page as pixels, dark on light, with a little noise."""
        paper, ink = self.random.uniform(225, 255), self.random.uniform(10, 90)
        return paper + (ink - paper) * page + self.random.normal(0, 2, page.shape)

    def scan(self) -> tuple[bytes, str]:
        shape, text = self.digit()
        return scan(shape, self.random), text

    def photograph(self) -> tuple[bytes, str]:
        """Blue, red or black ink, askew, in uneven light, with a shadow, on its side by EXIF."""
        page, text = self.page(400)
        random, size = self.random, (1600, 1200)
        high, wide = page.shape
        wide = max(wide, round(high * 4 / 3))
        page = np.pad(page, ((0, 0), (0, wide - page.shape[1])))
        askew = random.uniform(0, 0.07, (4, 2)) * [(1, 1), (1, -1), (-1, -1), (-1, 1)] + [
            (0, 0), (0, 1), (1, 1), (1, 0)
        ]  # fmt: skip
        warped = Image.fromarray((page * 255).astype(np.uint8)).transform(
            size,
            Image.Transform.QUAD,
            tuple((askew * (wide, high)).ravel()),
            Image.Resampling.BICUBIC,
        )
        cover = ndimage.gaussian_filter(np.asarray(warped, dtype=np.float32) / 255, 1)
        y, x = np.mgrid[0 : 1 : size[1] * 1j, 0 : 1 : size[0] * 1j].astype(np.float32)
        light = 1 + random.uniform(-0.35, 0.35) * (x - 0.5) + random.uniform(-0.35, 0.35) * y
        light -= random.uniform(0, 0.7) * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
        edge = x * np.cos(a := random.uniform(0, 6.3)) + y * np.sin(a) - random.uniform(-0.2, 0.9)
        light *= 1 - random.uniform(0, 0.4) / (1 + np.exp(-edge / 0.04))
        ink = np.array([(40, 50, 110), (45, 45, 45), (150, 40, 40)][random.integers(3)])
        paper = np.array([205, 200, 185])
        colours = (paper + (ink - paper) * cover[..., None]) * light[..., None]
        colours += random.normal(0, random.uniform(2, 12), (*cover.shape, 1))
        turned, orientation = [(0, 1), (1, 6), (2, 3), (3, 8)][random.integers(4)]
        exif = Image.Exif()
        exif[0x0112] = orientation
        return encoded(np.rot90(colours, turned), "JPEG", exif=exif, quality=85), text

    def transparent(self) -> tuple[bytes, str]:
        page, text = self.page()
        pixels = np.zeros((*page.shape, 4), np.float32)
        pixels[..., :3] = [(0, 0, 0), (255,) * 3, (20, 40, 160)][self.random.integers(3)]
        pixels[..., 3] = page * 255
        return encoded(pixels, "WEBP" if self.random.random() < 0.3 else "PNG", lossless=True), text

    def coloured(self) -> tuple[bytes, str]:
        page, text = self.page()
        paper, ink = (np.array(colour) for colour in PAIRS[self.random.integers(len(PAIRS))])
        colours = paper + (ink - paper) * page[..., None]
        colours = colours + self.random.normal(0, 3, colours.shape)
        return encoded(colours, ("PNG", "WEBP", "JPEG", "GIF")[self.random.integers(4)]), text

    def raw(self) -> tuple[bytes, str]:
        pixels, text = self.row()
        return encoded(pixels if self.random.random() < 0.5 else 255 - pixels, "PNG"), text

    def lines(self) -> tuple[bytes, str]:
        height, lines, shapes = 110, [], []
        pitch = round(height * self.random.uniform(1.35, 2))
        for number in range(self.random.integers(2, 5)):
            x, line = 60 + int(self.random.integers(0, 60)), ""
            for _ in range(self.random.integers(2, 7)):
                tall = round(height * self.random.uniform(0.8, 1.05))
                shape, text = self.digit(tall)
                shapes.append((shape, 70 + (number + 1) * pitch - tall, x))
                x += shape.shape[1] + int(height * self.random.uniform(0.15, 0.6))
                line += text
            lines.append(line)
        width = 60 + max(x + shape.shape[1] for shape, _, x in shapes)
        page = laid(shapes, 140 + pitch * len(lines), width)
        angle = self.random.uniform(-7, 7) * (self.random.random() < 0.5)
        page = ndimage.rotate(page, angle, order=1).clip(0, 1)
        return encoded(self.grey(page), "PNG"), "\n".join(lines)

    def lined(self) -> tuple[bytes, str]:
        page, text = self.page()
        grey = np.repeat(self.grey(page)[..., None], 3, axis=-1)
        pitch, thick = int(self.random.integers(34, 80)), int(self.random.integers(1, 4))
        slope, blue = self.random.uniform(-0.03, 0.03), self.random.uniform(0.3, 0.8)
        y, x = np.mgrid[: page.shape[0], : page.shape[1]]
        rule = (y - slope * x + self.random.integers(pitch)) % pitch < thick
        if self.random.random() < 0.25:
            rule |= (x + slope * y) % pitch < thick  # squared paper
        margin = abs(x + slope * y - self.random.integers(8, 20)) < thick / 2 + 0.5
        ink = np.array([110, 150, 215.0]) * blue + np.median(grey) * (1 - blue)
        colours = np.where(rule[..., None], np.minimum(grey, ink), grey)
        colours = np.where(margin[..., None], np.minimum(colours, [220, 90, 90]), colours)
        return encoded(colours, "JPEG", quality=85), text

    def faint(self) -> tuple[bytes, str]:
        page, text = self.page()
        if self.random.random() < 0.5:  # a hard pencil
            grey = 250 - 255 * page * self.random.uniform(0.2, 0.45)
            return encoded(grey + self.random.normal(0, 2, page.shape), "JPEG"), text
        pixels = np.zeros((*page.shape, 4), np.float32)
        pixels[..., :3] = self.random.choice([0, 40, 255])
        pixels[..., 3] = page * 255 * self.random.uniform(0.3, 0.45)
        return encoded(pixels, "PNG"), text

    def panel(self) -> tuple[bytes, str]:
        page, text = self.page(200)
        colours = mpl.colormaps[self.random.choice(["gray", "viridis", "magma"])](page)
        whole = np.full((page.shape[0] + 130, page.shape[1] + 150, 3), 255.0)
        whole[60:-70, 80:-70] = 255 * colours[..., :3]
        for tick in range(0, page.shape[0], 60):
            whole[60 + tick, 74:80] = 0
        return encoded(whole, "PNG"), text

    def deep(self) -> tuple[bytes, str]:
        page, text = self.page()
        values = self.random.choice([255, 1023, 4095]) * (1 - 0.9 * page)
        kind = "PNG" if self.random.random() < 0.5 else "TIFF"
        return encoded(values.astype(np.uint16), kind), text

    def animation(self) -> tuple[bytes, str]:
        page, text = self.page()
        drawn = Image.fromarray((255 - 230 * page).astype(np.uint8))
        return encoded(page * 0 + 255, "GIF", save_all=True, append_images=[drawn]), text

    def map(self) -> tuple[bytes, str]:
        pixels, text = self.row()
        colours = mpl.colormaps[self.random.choice(["jet", "turbo", "viridis", "hot"])](pixels)
        return encoded(255 * colours[..., :3], "PNG"), text

    def pieces(self) -> tuple[bytes, str]:
        if self.random.random() < 0.35:  # 28 × 28 pixels, not centred and with a gap
            pixels, text = self.row()
            pixels = np.roll(pixels, self.random.integers(-3, 4, 2), (0, 1)).copy()
            gap = int(self.random.integers(9, 19))
            pixels[gap] //= 4
            return encoded(pixels, "PNG"), text
        page, text = self.page()
        y, x = np.mgrid[: page.shape[0], : page.shape[1]]
        if self.random.random() < 0.5:  # dotted
            dots = ndimage.binary_erosion(page > 0.5, iterations=4) & (y % 24 < 14) & (x % 24 < 14)
            page = ndimage.gaussian_filter(dots.astype(np.float32), 1.5)
        else:  # a gap through it
            rows, columns = np.nonzero(page > 0.5)
            angle, width = self.random.uniform(0, np.pi), self.random.uniform(5, 12)
            across = (y - rows.mean()) * np.sin(angle) + (x - columns.mean()) * np.cos(angle)
            page = page * (abs(across - self.random.uniform(-40, 40)) > width / 2)
        return encoded(self.grey(page), "PNG"), text

    def beside(self) -> tuple[bytes, str]:
        """Two digits with a sign between them: no reading of it is right, it is remarked."""
        (left, first), (right, second) = self.digit(120), self.digit(120)
        letter = str(self.random.choice(list(BESIDE)))
        mark = sign(letter, 110)
        y = 225 - mark.shape[0] if letter == "." else 170 - mark.shape[0] // 2
        x = 60 + left.shape[1] + int(self.random.integers(22, 50))
        after = x + mark.shape[1] + int(self.random.integers(22, 50))
        shapes = [(left, 110, 60), (mark, y, x), (right, 110, after)]
        page = laid(shapes, 340, after + right.shape[1] + 60)
        return encoded(self.grey(page), "PNG"), f"{first}?{second}"

    def sign(self) -> tuple[bytes, str]:
        shape = sign(next(self.signs), 240)
        return encoded(self.grey(np.pad(shape, 90)), "PNG"), "?"


def laid(shapes: list[tuple[Array, int, int]], height: int, width: int) -> Array:
    """Lay shapes on a page, each with its top left corner at (y, x)."""
    page = np.zeros((height, width), np.float32)
    for shape, y, x in shapes:
        place = page[y : y + shape.shape[0], x : x + shape.shape[1]]
        np.maximum(place, shape[: place.shape[0], : place.shape[1]], out=place)
    return page


def read(paths: list[Path], graph: stages.Graph, many: bool) -> dict[str, tuple[str, str]]:
    """The digits, and the remarks, of each picture as `digits predict --csv` has them."""
    table = paths[0].with_name("read.csv")
    files.predict([str(path) for path in paths], graph, many, table, False)
    found: dict[str, dict[str, str]] = {}
    remarks: dict[str, str] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            name = Path(row["file"]).name
            lines = found.setdefault(name, {})
            lines[row["line"]] = lines.get(row["line"], "") + row["label"]
            remarks[name] = remarks.get(name, "") + row["remark"]
    return {name: ("\n".join(lines.values()), remarks[name]) for name, lines in found.items()}


def main() -> None:
    """Exit with code 1 if too few are right, or a wrong one beyond the hundred has no remark."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    kinds = sys.argv[2:] or list(COUNTS)
    graph = stages.load("sample", "demo")
    with graph.task("download").writes["solution"].open(newline="") as file:
        labels = [int(row["Label"]) for row in csv.DictReader(file)]
    images = np.load(graph.task("preprocess").writes["test_images"])[..., 0]
    maker, wanted = Maker(images, labels, seed), {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in kinds:
            for number in range(COUNTS[kind]):
                path = Path(folder, f"{kind}-{number:02}")
                content, wanted[path] = getattr(maker, kind)()
                path.write_bytes(content)
        many = [path for path in wanted if path.name.startswith(MANY)]
        found = read([path for path in wanted if path not in many], graph, False)
        found |= read(many, graph, True) if many else {}
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    for path, text in wanted.items():
        digits, remark = found[path.name]
        word = "right" if digits == text else "remarked" if remark else "WRONG"
        counts[path.name.partition("-")[0]][word] += 1
        if word == "WRONG" or (word == "remarked" and "?" not in text):
            print(f"{path.name}: {text!r} read as {digits!r}; {remark or 'no remark'}")
    for kind, count in counts.items():
        print(f"{kind:12} {dict(count)}")
    rights = {"hundred": [0, 0], "others": [0, 0]}
    for kind in set(kinds) - {"beside", "sign"}:
        its = rights["hundred" if kind in HUNDRED else "others"]
        its[0] += counts[kind]["right"]
        its[1] += COUNTS[kind]
    print(f"seed {seed}: right are", *(f"{a} of {b} ({name})" for name, (a, b) in rights.items()))
    enough = all(
        a >= share * b for (a, b), share in zip(rights.values(), (0.97, 0.95), strict=True)
    )
    wrong = sum(counts[kind]["WRONG"] for kind in set(kinds) - {"sign", *HUNDRED})
    sys.exit(not enough or wrong > 0)


if __name__ == "__main__":
    main()
