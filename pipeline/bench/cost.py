"""`make cost`: how time and memory of each stage grow with the number of digits.

Writes datasets with a quarter, half, all and ten times the training rows of a dataset (the last
with augmented copies, so that no two rows are equal), runs every stage on each in a process of its
own, and prints seconds and peak memory.
"""

import os
import shutil
import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline import stages
from pipeline.datasets import dataset as find_dataset
from pipeline.download.arrays import write_csvs
from pipeline.errors import UserError

SHARES = (0.25, 0.5, 1.0, 10.0)
PRESET = "sprint"
STAGES = ("download", "preprocess", "split", "train", "ensemble", "write")


def main(dataset: str) -> None:
    """Measure every size, and print a table."""
    data = find_dataset(dataset)
    home = stages.ROOT / "data" / data.name
    labels = len(np.load(home / "arrays" / "train_labels.npy", mmap_mode="r"))
    folder = home / "bench" / "cost"
    print("| training rows | " + " | ".join(STAGES) + " |")
    print("|---" * (1 + len(STAGES)) + "|")
    for share in SHARES:
        rows = round(share * labels)
        source = folder / f"digits{rows}"
        if not source.exists():
            # In a process of its own, because a child's peak memory starts with its parent's.
            writer = get_context("spawn").Process(target=_make, args=(source, home, rows))
            writer.start()
            writer.join()
        cells = []
        for stage in STAGES:
            seconds, peak = _run(stage, source)
            cells.append(f"{seconds:.1f} s, {peak / 2**20:,.0f} MiB")
        print(f"| {rows:,} | " + " | ".join(cells) + " |", flush=True)


def _make(folder: Path, home: Path, rows: int) -> None:
    """Write a dataset with this many training rows."""
    arrays = ("train_images", "train_labels", "test_images")
    images, labels, test_images = (np.load(home / "arrays" / f"{name}.npy") for name in arrays)
    _write(folder, *_resized(images, labels, rows), test_images)


def _resized(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], rows: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The first rows; or all of them, followed by augmented copies."""
    if rows <= len(labels):
        return images[:rows], labels[:rows]
    from pipeline.train.augment import RandomAffine

    augment = RandomAffine(10, 0.1, 2, 0.1, seed=0)
    copies = [images]
    while sum(map(len, copies)) < rows:
        parts = np.array_split(images, 20)
        copies += [
            np.asarray(augment(part, training=True)).round().astype(np.uint8) for part in parts
        ]
    return np.concatenate(copies)[:rows], np.resize(labels, rows)


def _write(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    test_images: NDArray[np.uint8],
) -> None:
    """A folder with the three CSVs."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    unknown = np.zeros(len(test_images), np.uint8)
    write_csvs(partial, (images, labels), (test_images, unknown))
    (partial / "solution.csv").unlink()  # these labels are made up
    partial.rename(folder)


def _run(stage: str, source: Path) -> tuple[float, int]:
    """Seconds and peak memory, in bytes, of one stage."""
    command = ["-m", "pipeline", stage, "--force"]
    command += ["--dataset", str(source), "--config", PRESET]
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise UserError(f"{stage} failed on {source}; the reason is printed above")
    return time.perf_counter() - began, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
