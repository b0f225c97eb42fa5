"""Reads a hundred pictures of five kinds with the networks of `make demo`; 97 must be right.

    python tests/predict/hundred.py [SEED]

Half of the digits are from the test rows of `sample`, which no network has seen; the other half is
drawn with a pen of any width.
"""

import csv
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
from handwriting import KINDS, MAKERS, from_pixels, from_strokes, raw

from pipeline import stages
from pipeline.predict import files

WANTED = 97


def test_digits(graph: stages.Graph) -> tuple[np.ndarray, list[int]]:
    """The test digits of `sample`, uint8 (n, 28, 28), and their labels."""
    images = np.load(graph.task("preprocess").writes["test_images"])[..., 0]
    with graph.task("download").writes["solution"].open(newline="") as file:
        return images, [int(row["Label"]) for row in csv.DictReader(file)]


def write(folder: Path, seed: int) -> list[tuple[str, str]]:
    """Write a hundred pictures; returns the path and the label of each."""
    images, labels = test_digits(stages.load("sample", "demo"))
    random = np.random.default_rng(seed)
    written = []
    for number in range(100):
        kind = KINDS[number % len(KINDS)]
        row = int(random.integers(len(images)))
        label = labels[row]
        if kind == "raw":
            content = raw(images[row], random)
        elif number % 2:
            content = MAKERS[kind](from_pixels(images[row]), random)
        else:
            label = int(random.integers(10))
            content = MAKERS[kind](from_strokes(label, random.uniform(0.04, 0.16), random), random)
        path = folder / f"{number:02}-{kind}-{label}"
        path.write_bytes(content)
        written.append((str(path), str(label)))
    return written


def main() -> None:
    """Exit with code 1 if fewer than WANTED are right."""
    seed = int(sys.argv[1]) if len(sys.argv) > 1 else 16
    with tempfile.TemporaryDirectory() as name:
        pictures = write(Path(name), seed)
        table = Path(name) / "read.csv"
        graph = stages.load("sample", "demo")
        files.predict([path for path, _ in pictures], graph, False, table, False)
        with table.open(newline="") as file:
            read = {row["file"]: row["label"] for row in csv.DictReader(file)}
    right = Counter(
        Path(path).name.split("-")[1] for path, label in pictures if read[path] == label
    )
    print(f"seed {seed}: {right.total()} of {len(pictures)} are right: {dict(right)}")
    sys.exit(right.total() < WANTED)


if __name__ == "__main__":
    main()
