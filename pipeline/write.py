"""Stage 6: from probabilities to a CSV that the competition accepts; and the check of any CSV."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import csvs
from pipeline.errors import UserError


def write(target: Path, probabilities: Path, metrics: Path, sample: Path) -> dict[str, Any]:
    """Write the most probable label of each test image to `target`, like the sample submission.

    Args:
        target: the CSV to write.
        probabilities: test.npy, float32 (m, 10), in the order of the test rows.
        metrics: metrics.json of the ensemble.
        sample: sample_submission.csv, m rows.

    Returns:
        Facts for the manifest: the ensemble's metrics, and how often each label is predicted.

    Raises:
        UserError: the sample submission does not go with the probabilities.
    """
    ids, _ = csvs.read_labels(sample)
    labels = np.load(probabilities).argmax(axis=1)
    if len(ids) != len(labels):
        raise UserError(
            f"{sample} has {len(ids):,} rows, but there are {len(labels):,} predictions"
        )
    header, end = _first_line(sample)
    rows = [f"{image_id},{label}".encode() for image_id, label in zip(ids, labels, strict=True)]
    target.write_bytes(end.join([header, *rows, b""]))
    check(target, sample)
    facts: dict[str, Any] = json.loads(metrics.read_text(encoding="utf-8"))
    return {**facts, "predicted_per_class": np.bincount(labels, minlength=csvs.CLASSES).tolist()}


def check(path: Path, sample: Path) -> int:
    """Check that the competition will take a CSV; returns its number of rows.

    Args:
        path: the CSV to check.
        sample: sample_submission.csv.

    Raises:
        UserError: header, line ends, ids, their order, or a label are not as they have to be;
            the message says where.
    """
    ids, _ = csvs.read_labels(path)
    wanted, _ = csvs.read_labels(sample)
    if len(ids) != len(wanted):
        raise UserError(f"{path}: {len(ids):,} rows where {sample} has {len(wanted):,}")
    wrong = np.flatnonzero(ids != wanted)
    if len(wrong):
        first = wrong[0]
        raise UserError(
            f"{path}, line {first + 2}, column ImageId: {ids[first]} where {wanted[first]} "
            "should stand, as in the sample submission"
        )
    header, end = _first_line(sample)
    content = path.read_bytes()
    if not content.startswith(header + end):
        raise UserError(f"{path}, line 1: not byte for byte the first line of {sample}")
    if content.count(end) != content.count(b"\n") or content.count(b"\r") != end.count(
        b"\r"
    ) * content.count(b"\n"):
        raise UserError(f"{path}: its lines do not end as those of {sample} do")
    if content.count(b"\n") != len(ids) + 1 or not content.endswith(end):
        raise UserError(f"{path}: there are empty lines in it, or its last line has no end")
    return len(ids)


def _first_line(path: Path) -> tuple[bytes, bytes]:
    """A CSV's header, and what ends its lines."""
    with path.open("rb") as file:
        line = file.readline().removeprefix(csvs.BOM)
    end = b"\r\n" if line.endswith(b"\r\n") else b"\n"
    return line.removesuffix(end), end
