"""Reads pictures as people make them: several lines, signs, lined paper, faint ink, odd files.

    python tests/predict/wild.py [SEED]

Digits are from the test rows of `sample`, or drawn with a pen. Thresholds were chosen on the seeds
1, 2, 100 and 101. A page counts as remarked if any digit of it has a remark.
"""

import csv
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
from handwriting import STROKES, encoded, from_pixels, from_strokes
from hundred import test_digits
from PIL import Image
from scipy import ndimage

from pipeline import stages
from pipeline.predict import files

Array = np.ndarray
Random = np.random.Generator
# Things that are no digits, as strokes.
SIGNS: dict[str, list[list[tuple[int, int]]]] = {
    "minus": [[(10, 50), (90, 50)]],
    "plus": [[(50, 12), (50, 88)], [(12, 50), (88, 50)]],
    "times": [[(15, 15), (85, 85)], [(85, 15), (15, 85)]],
    "equals": [[(12, 38), (88, 36)], [(12, 64), (88, 62)]],
    "divide": [[(10, 50), (90, 50)], [(50, 22), (50, 24)], [(50, 76), (50, 78)]],
    "A": [[(10, 100), (50, 0)], [(50, 0), (90, 100)], [(28, 62), (74, 62)]],
    "E": [[(80, 0), (20, 0)], [(20, 0), (20, 100)], [(20, 100), (80, 100)], [(20, 48), (68, 48)]],
    "F": [[(80, 0), (20, 0)], [(20, 0), (20, 100)], [(20, 48), (68, 48)]],
    "H": [[(15, 0), (15, 100)], [(85, 0), (85, 100)], [(15, 50), (85, 50)]],
    "K": [[(20, 0), (20, 100)], [(80, 0), (20, 55)], [(38, 42), (84, 100)]],
    "M": [[(5, 100), (15, 0)], [(15, 0), (50, 70)], [(50, 70), (85, 0)], [(85, 0), (95, 100)]],
    "N": [[(15, 100), (15, 0)], [(15, 0), (85, 100)], [(85, 100), (85, 0)]],
    "P": [[(20, 0), (20, 100)], [(20, 2), (70, 4), (84, 25), (66, 48), (20, 52)]],
    "R": [[(20, 0), (20, 100)], [(20, 2), (70, 4), (84, 25), (66, 48), (20, 52)],
          [(45, 52), (88, 100)]],
    "T": [[(8, 2), (92, 2)], [(50, 2), (50, 100)]],
    "W": [[(5, 0), (25, 100)], [(25, 100), (50, 30)], [(50, 30), (75, 100)], [(75, 100), (95, 0)]],
    "X": [[(10, 0), (90, 100)], [(90, 0), (10, 100)]],
    "hash": [[(35, 0), (25, 100)], [(75, 0), (65, 100)], [(5, 35), (95, 30)], [(5, 70), (95, 65)]],
    "star": [[(50, 0), (50, 100)], [(8, 25), (92, 75)], [(92, 25), (8, 75)]],
    "heart": [[(50, 25), (30, 2), (5, 20), (20, 60), (50, 100), (80, 60), (95, 20), (70, 2),
               (50, 25)]],
    "arrow": [[(5, 50), (95, 50)], [(95, 50), (65, 22)], [(95, 50), (65, 78)]],
    "tick": [[(8, 55), (35, 95)], [(35, 95), (95, 5)]],
    "percent": [[(85, 0), (15, 100)], [(25, 8), (10, 20), (25, 34), (38, 20), (25, 8)],
                [(75, 66), (60, 80), (75, 94), (88, 80), (75, 66)]],
    "face": [[(50, 0), (8, 20), (2, 60), (30, 98), (70, 98), (98, 60), (92, 20), (50, 0)],
             [(33, 35), (33, 42)], [(67, 35), (67, 42)], [(28, 65), (50, 80), (72, 65)]],
    "hand": [[(20, 100), (8, 55), (14, 50), (28, 65), (24, 10), (33, 8), (40, 48), (44, 0), (54, 0),
              (56, 48), (64, 5), (73, 7), (72, 52), (84, 20), (92, 24), (82, 75), (75, 100)]],
    "house": [[(15, 40), (15, 100)], [(15, 100), (85, 100)], [(85, 100), (85, 40)],
              [(5, 48), (50, 0)], [(50, 0), (95, 48)]],
    "scribble": [[(0, 50), (15, 10), (25, 90), (40, 5), (50, 95), (62, 10), (75, 90), (88, 5),
                  (100, 60)]],
    "triangle": [[(50, 0), (5, 95)], [(5, 95), (95, 95)], [(95, 95), (50, 0)]],
    "square": [[(5, 5), (95, 5)], [(95, 5), (95, 95)], [(95, 95), (5, 95)], [(5, 95), (5, 5)]],
    "tree": [[(50, 100), (50, 10)], [(50, 40), (15, 10)], [(50, 40), (85, 10)],
             [(50, 70), (10, 45)], [(50, 70), (90, 45)]],
}  # fmt: skip
INLINE = ("minus", "plus", "times", "equals", "divide")


def laid(shapes: list[tuple[Array, int, int]], height: int, width: int) -> Array:
    """Lay shapes on a page, each with its top left corner at (y, x)."""
    page = np.zeros((height, width), np.float32)
    for shape, y, x in shapes:
        place = page[y : y + shape.shape[0], x : x + shape.shape[1]]
        np.maximum(place, shape[: place.shape[0], : place.shape[1]], out=place)
    return page


class Maker:
    """Makes pictures from digits; `word` draws a row of them.

    Attributes:
        random: the generator that every choice is drawn from.
    """

    def __init__(self, images: Array, labels: list[int], seed: int) -> None:
        """Take the digits, uint8 (n, 28, 28), and their labels."""
        self.images, self.labels, self.random = images, labels, np.random.default_rng(seed)

    def digit(self, height: int, drawn: float = 0.3) -> tuple[Array, int]:
        """One digit and its label."""
        if self.random.random() < drawn:
            label = int(self.random.integers(10))
            pen = self.random.uniform(0.06, 0.13)
            return from_strokes(label, pen, self.random, height), label
        row = int(self.random.integers(len(self.images)))
        return from_pixels(self.images[row], height), self.labels[row]

    def sign(self, name: str, height: int, pen: float | None = None) -> Array:
        """One thing that is no digit."""
        STROKES[name] = [SIGNS[name]]  # type: ignore[index]
        pen = pen or self.random.uniform(0.05, 0.12)
        return from_strokes(name, pen, self.random, height)  # type: ignore[arg-type]

    def page(self, height: int = 240) -> tuple[Array, str]:
        """One digit on a page, and its label."""
        shape, label = self.digit(height)
        y, x = self.random.integers(50, 110, 2)
        return laid([(shape, y, x)], 160 + height + 20, 160 + max(height, shape.shape[1])), str(
            label
        )

    def grey(self, page: Array) -> Array:
        paper, ink = self.random.uniform(225, 255), self.random.uniform(10, 90)
        return paper + (ink - paper) * page + self.random.normal(0, 2, page.shape)

    # --- the kinds, each the bytes of a file and what is written in it ---

    def lines(self) -> tuple[bytes, str]:
        height, lines, shapes = 110, [], []
        pitch = round(height * self.random.uniform(1.35, 2))
        for number in range(self.random.integers(2, 5)):
            x, line = 60 + int(self.random.integers(0, 60)), ""
            for _ in range(self.random.integers(2, 7)):
                tall = round(height * self.random.uniform(0.8, 1.05))
                shape, label = self.digit(tall)
                y = 70 + number * pitch + int(self.random.integers(-10, 11)) + height - tall
                shapes.append((shape, y, x))
                x += shape.shape[1] + int(height * self.random.uniform(0.15, 0.6))
                line += str(label)
            lines.append(line)
        width = max(x + shape.shape[1] for shape, _, x in shapes) + 60
        page = laid(shapes, 140 + pitch * len(lines), width)
        angle = self.random.uniform(-7, 7) * (self.random.random() < 0.5)
        page = ndimage.rotate(page, angle, order=1).clip(0, 1)
        return encoded(self.grey(page), "PNG"), "\n".join(lines)

    def lined(self) -> tuple[bytes, str]:
        page, label = self.page()
        grey = np.repeat(self.grey(page)[..., None], 3, axis=-1)
        paper = np.median(grey)
        pitch, thick = int(self.random.integers(34, 80)), int(self.random.integers(1, 4))
        slope, blue = self.random.uniform(-0.03, 0.03), self.random.uniform(0.3, 0.8)
        y, x = np.mgrid[: page.shape[0], : page.shape[1]]
        rule = (y - slope * x + self.random.integers(pitch)) % pitch < thick
        if self.random.random() < 0.25:
            rule |= (x + slope * y) % pitch < thick  # squared paper
        margin = abs(x + slope * y - self.random.integers(18, 40)) < thick / 2 + 0.5
        ink = np.array([110, 150, 215.0]) * blue + paper * (1 - blue)
        colours = np.where(rule[..., None], np.minimum(grey, ink), grey)
        colours = np.where(margin[..., None], np.minimum(colours, [220, 90, 90]), colours)
        return encoded(colours, "JPEG", quality=85), label

    def faint(self) -> tuple[bytes, str]:
        page, label = self.page()
        kind = self.random.integers(3)
        if kind == 0:
            grey = 250 - 130 * page
            return encoded(grey + self.random.normal(0, 1, page.shape), "PNG"), label
        if kind == 1:
            grey = 250 - 255 * page * self.random.uniform(0.2, 0.3)  # a hard pencil
            return encoded(grey + self.random.normal(0, 3, page.shape), "JPEG"), label
        pixels = np.zeros((*page.shape, 4), np.float32)
        pixels[..., :3] = self.random.choice([0, 40, 255])
        pixels[..., 3] = page * 255 * self.random.uniform(0.3, 0.45)
        return encoded(pixels, "PNG"), label

    def panel(self) -> tuple[bytes, str]:
        page, label = self.page(200)
        from matplotlib import colormaps

        colours = colormaps[self.random.choice(["gray", "viridis", "magma", "cividis"])](page)
        y, x = self.random.integers(40, 90, 2)
        whole = np.full((page.shape[0] + 130, page.shape[1] + 150, 3), 255.0)
        whole[y : y + page.shape[0], x : x + page.shape[1]] = 255 * colours[..., :3]
        for tick in range(0, page.shape[0], 60):
            whole[y + tick, x - 6 : x] = 0
            whole[y + page.shape[0] : y + page.shape[0] + 6, x + tick] = 0
        return encoded(whole, "PNG"), label

    def deep(self) -> tuple[bytes, str]:
        page, label = self.page()
        highest = int(self.random.choice([255, 1023, 4095]))
        values = (highest * (1 - 0.9 * page)).astype(np.uint16)
        return saved(
            Image.fromarray(values), "PNG" if self.random.random() < 0.5 else "TIFF"
        ), label

    def animation(self) -> tuple[bytes, str]:
        page, label = self.page()
        drawn = Image.fromarray((255 - 230 * page).astype(np.uint8))
        empty = Image.new("L", drawn.size, 255)
        return saved(empty, "GIF", save_all=True, append_images=[drawn]), label

    def colour_map(self) -> tuple[bytes, str]:
        from matplotlib import colormaps

        row = int(self.random.integers(len(self.images)))
        colours = colormaps[self.random.choice(["jet", "turbo", "viridis", "hot"])](
            self.images[row]
        )
        return encoded(255 * colours[..., :3], "PNG"), str(self.labels[row])

    def pieces(self) -> tuple[bytes, str]:
        if self.random.random() < 0.35:  # 28 × 28 pixels, not centred and with gaps
            row = int(self.random.integers(len(self.images)))
            digit = np.roll(self.images[row], self.random.integers(-3, 4, 2), (0, 1)).copy()
            gap = int(self.random.integers(9, 19))
            digit[gap, :] = digit[gap, :] // 4
            return encoded(digit, "PNG"), str(self.labels[row])
        page, label = self.page()
        if self.random.random() < 0.5:  # dotted
            y, x = np.mgrid[: page.shape[0], : page.shape[1]]
            dots = ndimage.binary_erosion(page > 0.5, iterations=4) & (y % 24 < 14) & (x % 24 < 14)
            page = ndimage.gaussian_filter(dots.astype(np.float32), 1.5)
        else:  # a gap through it
            rows, columns = np.nonzero(page > 0.5)
            angle, width = self.random.uniform(0, np.pi), self.random.uniform(5, 12)
            y, x = np.mgrid[: page.shape[0], : page.shape[1]]
            across = (y - rows.mean()) * np.sin(angle) + (x - columns.mean()) * np.cos(angle)
            page = page * (abs(across - self.random.uniform(-40, 40)) > width / 2)
        return encoded(self.grey(page), "PNG"), label

    def beside(self) -> tuple[bytes, str]:
        """A calculation: a sign between digits, or a decimal point."""
        height, x, shapes, text = 120, 60, [], ""
        for number in range(3):
            if number == 1:
                name = str(self.random.choice([*INLINE, "dot", "comma"]))
                if name in SIGNS:
                    shape, y = self.sign(name, 80), 140
                    if name in ("minus", "equals", "divide"):
                        y = 165 - shape.shape[0] // 2
                else:
                    shape, y = np.ones((14, 14 if name == "dot" else 9), np.float32), 225
                    shape = np.pad(shape, ((0, 12 * (name == "comma")), (0, 0)), mode="edge")
                text += "?"
            else:
                shape, label = self.digit(height)
                y, text = 110, text + str(label)
            shapes.append((shape, y, x))
            x += shape.shape[1] + int(self.random.integers(22, 50))
        return encoded(self.grey(laid(shapes, 340, x + 60)), "PNG"), text

    def sign_alone(self) -> tuple[bytes, str]:
        name = list(SIGNS)[self.count % len(SIGNS)]
        shape = self.sign(name, 240)
        page = laid([(shape, 90, 90)], 460, 180 + shape.shape[1] + 40)
        return encoded(self.grey(page), "PNG"), "?"

    count = 0
    KINDS = ("lines", "lined", "faint", "panel", "deep", "animation", "colour_map", "pieces",
             "beside", "sign_alone")  # fmt: skip

    def make(self, kind: str) -> tuple[bytes, str]:
        """One picture of a kind."""
        maker: Callable[[], tuple[bytes, str]] = getattr(self, kind)
        made = maker()
        self.count += 1
        return made


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    import io

    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def main() -> None:
    """Exit with code 1 if too many are wrong, or too few of those have a remark."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 102
    graph = stages.load("sample", "demo")
    images, labels = test_digits(graph)
    maker, wanted = Maker(images, labels, seed), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else name)
        for kind in Maker.KINDS:
            maker.count = 0
            for number in range(30 if kind == "sign_alone" else 12):
                path = folder / f"{kind}-{number:02}"
                content, text = maker.make(kind)
                path.write_bytes(content)
                wanted[str(path)] = text
        table = folder / "read.csv"
        many = [p for p in wanted if Path(p).name.startswith(("lines", "beside"))]
        read: dict[str, list[dict[str, str]]] = {}
        for some, several in (([p for p in wanted if p not in many], False), (many, True)):
            files.predict(some, graph, several, table, False)
            with table.open(newline="") as file:
                for row in csv.DictReader(file):
                    read.setdefault(row["file"], []).append(row)
    counts: dict[str, Counter[str]] = {kind: Counter() for kind in Maker.KINDS}
    for path, text in wanted.items():
        kind = Path(path).name.split("-")[0]
        lines: dict[str, str] = {}
        for row in read[path]:
            lines[row["line"]] = lines.get(row["line"], "") + row["label"]
        said, remark = "\n".join(lines.values()), any(row["remark"] for row in read[path])
        good = said == text
        word = "right" if good else "remarked" if remark else "WRONG"
        counts[kind][word] += 1
        counts[kind]["right, remarked"] += good and remark
        if not good and (word == "WRONG" or "?" not in text):
            print(word, Path(path).name, repr(text), "read as", repr(said), read[path][0]["remark"])
    for kind, count in counts.items():
        print(f"{kind:12} {dict(count)}")
    signs = counts.pop("sign_alone")
    total = sum(counts.values(), Counter[str]())
    digits = [count for kind, count in counts.items() if kind != "beside"]
    right = sum(count["right"] for count in digits)
    of = sum(c["right"] + c["remarked"] + c["WRONG"] for c in digits)
    print(
        f"seed {seed}: {right} of {of} numbers are right, {total['WRONG']} wrong without a remark; "
        f"{signs['remarked']} of {len(SIGNS)} signs are remarked"
    )
    sys.exit(right < 0.95 * of or total["WRONG"] > 1 or signs["remarked"] < 0.6 * len(SIGNS))


if __name__ == "__main__":
    main()
