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

from pipeline.datasets import SOURCES
from pipeline.endings import explained
from pipeline.errors import UserError
from pipeline.files import atomic
from pipeline.nearest import Nearest
from pipeline.predict import find, picture
from pipeline.predict.model import Networks
from pipeline.predict.normalise import Digit, digits_in
from pipeline.stages import Graph

# Pictures are predicted, and their lines printed, so many at a time.
BATCH = 50
# A lower probability is remarked: it marks 9 of 12 wrong digits and 17 of 317 right ones.
SURE = 0.9
# What few of the nearest training digits are is remarked, and what is as far from all of them as
# the most isolated training digits are from the others, or nearly.
NEIGHBOURS, AGREEING, ISOLATED = 10, 0.35, 0.9
UNSURE, NO_DIGIT = "unsure", find.NO_DIGIT


COLUMNS = ["file", "line", "label", "probability", "remark"]
REMARK = COLUMNS.index("remark")


@dataclass
class Read:
    """One picture: what the user calls it, its digits, and why there are none."""

    name: str
    digits: list[Digit]
    remark: str = ""
    unreadable: bool = False


def predict(
    words: Sequence[str], graph: Graph, many: bool, table: Path | None, drawn: bool
) -> bool:
    """Print the label and the probability of each picture.

    Args:
        words: paths of files and folders; "-" is standard input.
        graph: whose networks are to predict.
        many: read several digits in a picture, line by line; else there must be one.
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
    reader: _Reader | None = None
    rows: list[list[str]] = []
    remarks: Counter[str] = Counter()
    count = 0
    names = SOURCES[graph.dataset.source].class_names
    while batch := list(islice(pictures, BATCH)):
        digits = [digit for its in batch for digit in its.digits]
        if digits and reader is None:
            reader = _Reader(graph)
        answers = iter(reader.read(digits) if reader and digits else ())
        for its in batch:
            count += 1
            told = _tell(its, list(islice(answers, len(its.digits))), names, drawn)
            rows += told
            if its.unreadable or not its.digits:
                remarks["unreadable" if its.unreadable else "without a digit"] += 1
            else:
                every = "; ".join(row[REMARK] for row in told if row[REMARK]).split("; ")
                remarks.update({remark.partition(":")[0] for remark in every if remark})
    if table:
        with (
            atomic(table) as temporary,
            temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
        ):
            csv.writer(file).writerows([[*COLUMNS, *names], *rows])
    if count > 1:
        said = ", ".join(f"{number} {remark}" for remark, number in remarks.most_common())
        print(f"{count:,} pictures: {said or 'no remarks'}", file=sys.stderr)
    return not remarks["unreadable"]


def _files(words: Sequence[str]) -> Iterator[tuple[str, Path | None]]:
    """Yield each file that the words name, as the user would call it; None is standard input."""
    for word in words:
        path = Path(word)
        if word == "-":
            yield "standard input", None
        elif path.is_dir():
            found = [each for each in path.rglob("*") if _is_picture(each.relative_to(path))]
            if not found:
                yield word, path
            yield from ((str(each), each) for each in sorted(found))
        else:
            yield word, path


def _is_picture(path: Path) -> bool:
    """Check that a file of a folder is a picture by its suffix, and that nothing is hidden."""
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return not hidden and path.suffix.lower() in picture.SUFFIXES + picture.OTHER_SUFFIXES


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
        digits = digits_in(colours, many)
    except UserError as error:
        return Read(name, [], str(error))
    if len(digits) > 1 and not many:
        return Read(name, [], f"found {len(digits)} digits; --digits many reads them line by line")
    return Read(name, digits)


class _Reader:
    """The networks and the training digits, loaded once: labels and what speaks against them."""

    def __init__(self, graph: Graph) -> None:
        """Load them."""
        preprocess = graph.task("preprocess").writes
        self.networks = Networks(graph)
        self._labels = np.load(preprocess["train_labels"])
        self._nearest = Nearest(np.load(preprocess["train_images"], mmap_mode="r"))

    def read(self, digits: list[Digit]) -> list[tuple[NDArray[np.float32], str]]:
        """Return the probabilities of each digit, (10,), and a remark, empty if none is due."""
        pixels = np.stack([digit.pixels for digit in digits])
        mean, each = self.networks.predict(pixels)
        rows, distances = self._nearest.search(pixels[..., np.newaxis], NEIGHBOURS)
        agreeing = (self._labels[rows] == mean.argmax(axis=1)[:, np.newaxis]).mean(axis=1)
        far = (distances[:, 0] > ISOLATED * self._nearest.far) | (agreeing < AGREEING)
        return [
            (its, self._remark(digit, its, own, is_far))
            for digit, its, own, is_far in zip(digits, mean, each, far.tolist(), strict=True)
        ]

    def _remark(
        self, digit: Digit, mean: NDArray[np.float32], each: NDArray[np.float32], far: bool
    ) -> str:
        remarks = [digit.remark] if digit.remark else []
        if far and NO_DIGIT not in digit.remark:
            remarks.append(f"{NO_DIGIT}: few training digits look like it")
        votes = Counter(int(label) for label in each.argmax(axis=1))
        if len(votes) > 1:
            names = self.networks.class_names
            said = ", ".join(f"{names[label]} ({count})" for label, count in votes.most_common())
            remarks.append(f"{UNSURE}: the networks predict {said}")
        elif mean.max() < SURE:
            remarks.append(UNSURE)
        return "; ".join(remarks)


def _tell(
    its: Read,
    answers: list[tuple[NDArray[np.float32], str]],
    names: Sequence[str],
    drawn: bool,
) -> list[list[str]]:
    """Print the line of a picture; return its rows for the CSV."""
    name = "".join(letter if letter.isprintable() else "?" for letter in its.name)
    if its.unreadable:
        print(f"digits: {' '.join(its.remark.split())}", file=sys.stderr)
    elif not its.digits:
        print(f"{name}  {its.remark}")
    if not answers:
        return [[its.name, "", "", "", its.remark, *[""] * 10]]
    if drawn:
        for digit in its.digits:
            print("\n".join(picture.drawn(digit.pixels)))
    labels = [names[int(mean.argmax())] for mean, _ in answers]
    gap = "" if all(len(label) == 1 for label in labels) else " "
    lines: dict[int, list[str]] = {}
    for digit, label in zip(its.digits, labels, strict=True):
        lines.setdefault(digit.line, []).append(label)
    written = " / ".join(gap.join(line) for line in lines.values())
    every = "; ".join(dict.fromkeys(remark for _, remark in answers if remark))
    print(
        f"{name}  {written}  {np.prod([mean.max() for mean, _ in answers]):.4f}  {every}".rstrip()
    )
    return [
        [its.name, str(digit.line + 1), label, f"{mean.max():.6f}", remark]
        + [f"{value:.6f}" for value in mean]
        for digit, label, (mean, remark) in zip(its.digits, labels, answers, strict=True)
    ]
