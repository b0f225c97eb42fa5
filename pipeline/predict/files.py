"""`digits predict`: what is in the picture files, a line each."""

import csv
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import show
from pipeline.endings import explained
from pipeline.errors import UserError
from pipeline.files import atomic
from pipeline.nearest import Nearest
from pipeline.predict import picture
from pipeline.predict.networks import Networks
from pipeline.predict.normalise import digits_in
from pipeline.stages import Graph

# Pictures are predicted, and their lines printed, so many at a time.
BATCH = 50


@dataclass
class Read:
    """One picture: what the user calls it, its digits, and why there are none."""

    name: str
    digits: list[NDArray[np.uint8]]
    remark: str = ""
    unreadable: bool = False


def predict(
    words: Sequence[str], graph: Graph, many: bool, table: Path | None, drawn: bool
) -> bool:
    """Print the label and the probability of each picture.

    Args:
        words: paths of files and folders; "-" is standard input.
        graph: whose networks are to predict.
        many: read several digits in a picture, from left to right; else there must be one.
        table: a CSV to be written, with a row for each digit, and one without a label for each
            picture in which none was found.
        drawn: print what the networks saw.

    Returns:
        Whether all files could be read.

    Raises:
        UserError: there are no networks, or the CSV cannot be written.
    """
    graph.ensemble()
    if table and table.is_dir():
        raise UserError(f"{table} is a folder; give --csv the name of a file")
    pictures = (_read(word, path, many) for word, path in _files(words))
    rows: list[list[str]] = []
    loaded: tuple[Networks, Nearest] | None = None
    all_read = True
    while batch := list(islice(pictures, BATCH)):
        if loaded is None and any(its.digits for its in batch):
            images = np.load(graph.task("preprocess").writes["train_images"], mmap_mode="r")
            loaded = Networks(graph), Nearest(images)
        for its in batch:
            rows += _tell(its, loaded, drawn)
            all_read &= not its.unreadable
    if table:
        names = loaded[0].class_names if loaded else [str(number) for number in range(10)]
        with (
            atomic(table) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file).writerows([["file", "label", "probability", *names], *rows])
    return all_read


def _files(words: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Each file that the words name, as the user would call it; None is standard input."""
    for word in words:
        path = Path(word)
        if word == "-":
            yield "standard input", None
        elif path.is_dir():
            found = [each for each in path.rglob("*") if each.suffix.lower() in picture.SUFFIXES]
            if not found:
                yield word, path
            yield from ((str(each), each) for each in sorted(found))
        else:
            yield word, path


def _read(name: str, path: Path | None, many: bool) -> Read:
    """Read one picture; what is wrong with it is said in the result."""
    try:
        if path and path.is_dir():
            kinds = ", ".join(picture.FORMATS)
            raise UserError(f"{name}: there are no pictures in this folder ({kinds})")
        colours = picture.read(path or sys.stdin.buffer.read(), name)
    except UserError as error:
        return Read(name, [], str(error), unreadable=True)
    except OSError as error:
        return Read(name, [], explained(error, name), unreadable=True)
    try:
        digits = digits_in(colours)
    except UserError as error:
        return Read(name, [], str(error))
    if len(digits) > 1 and not many:
        return Read(name, [], f"{len(digits)} things in it; --digits many reads them in a row")
    return Read(name, digits)


def _tell(its: Read, loaded: tuple[Networks, Nearest] | None, drawn: bool) -> list[list[str]]:
    """Print the line of a picture; return its rows for the CSV."""
    name = "".join(letter if letter.isprintable() else "?" for letter in its.name)
    if its.unreadable:
        print(f"digits: {' '.join(its.remark.split())}", file=sys.stderr)
    elif not its.digits:
        print(f"{name}  {its.remark}")
    if not its.digits or not loaded:
        return [[its.name, "", "", *[""] * 10]]
    ensemble, nearest = loaded
    mean, each = ensemble.predict(np.stack(its.digits))
    if drawn:
        for digit in its.digits:
            print("\n".join(show.drawn(digit)))
    labels = [ensemble.class_names[label] for label in mean.argmax(axis=1)]
    gap = "" if all(len(label) == 1 for label in labels) else " "
    line = f"{name}  {gap.join(labels)}  {mean.max(axis=1).prod():.4f}"
    print(f"{line}  {_doubt(its.digits, mean, each, ensemble.class_names, nearest)}".rstrip())
    return [
        [its.name, label, f"{row.max():.6f}", *(f"{value:.6f}" for value in row)]
        for label, row in zip(labels, mean, strict=True)
    ]


def _doubt(
    digits: list[NDArray[np.uint8]],
    mean: NDArray[np.float32],
    each: NDArray[np.float32],
    names: list[str],
    nearest: Nearest,
) -> str:
    """What speaks against the labels of a picture; empty if nothing does."""
    _, distances = nearest.search(np.stack(digits)[..., np.newaxis], 1)
    if distances.max() > nearest.far:
        return "perhaps no digit: it is unlike every training digit"
    for row, networks_row in zip(mean, each, strict=True):
        votes = Counter(int(label) for label in networks_row.argmax(axis=1))
        if len(votes) > 1:
            said = ", ".join(f"{names[label]} ({count})" for label, count in votes.most_common())
            return f"unsure: the networks say {said}"
        if row.max() < 0.5:
            return "unsure"
    return ""
