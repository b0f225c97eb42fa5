"""Check that the competition would accept a CSV, and that it is as the sample submission."""

import os
from pathlib import Path

import numpy as np

from pipeline import csvs
from pipeline.download.local import unpacked
from pipeline.errors import UserError


def check(path: Path, sample: Path) -> None:
    """Check that the competition would accept a CSV, and say so, and how it differs from ours."""
    with unpacked(path) as csv:
        rows, deviations = compare_submission(csv, sample)
        print(f"{path}: {rows:,} rows, valid for {os.path.relpath(sample)}")
        for deviation in deviations:
            print(f"warning: {deviation.replace(str(csv), str(path))}; the competition accepts it")


def check_submission(path: Path, sample: Path) -> int:
    """Check that a CSV is exactly as the sample submission prescribes; returns its number of rows.

    Args:
        path: the CSV to check.
        sample: sample_submission.csv.

    Raises:
        UserError: header, line ends, ids, their order, or a label are wrong; the message says
            where.
    """
    rows, deviations = compare_submission(path, sample)
    if deviations:
        raise UserError(deviations[0])
    return rows


def compare_submission(path: Path, sample: Path) -> tuple[int, list[str]]:
    """Check that the competition will take a CSV, which reads it by id.

    Returns:
        its number of rows, and how it differs from `sample` in what does not matter to Kaggle.

    Raises:
        UserError: a column, an id or a label is wrong; the message says where.
    """
    ids, _ = csvs.read_labels(path)
    wanted, _ = csvs.read_labels(sample)
    csvs.check_count(path, ids, wanted, sample)
    unknown = np.flatnonzero(~np.isin(ids, wanted))
    if len(unknown):
        line, wrong = unknown[0] + 2, ids[unknown[0]]
        raise UserError(f"{path}, line {line}, column ImageId: {wrong} is not an id of {sample}")
    missing = np.setdiff1d(wanted, ids)
    if len(missing):
        raise UserError(f"{path}: ImageId {missing[0]} has no row, and another has several")
    deviations = []
    moved = np.flatnonzero(ids != wanted)
    if len(moved):
        place = f"{path}, line {moved[0] + 2}, column ImageId"
        deviations.append(f"{place}: the ids are in another order than in {sample}")
    content = path.read_bytes()
    header, end = csvs.first_line(sample)
    if content.startswith(csvs.BOM):
        deviations.append(f"{path}, line 1: it begins with a byte order mark (BOM)")
    if csvs.first_line(path)[0] != header or content.count(b'"') != header.count(b'"'):
        deviations.append(f"{path}, line 1: its quotes are not those of {sample}")
    lines = content.split(end)
    if any(b"\r" in line or b"\n" in line for line in lines):
        deviations.append(f"{path}: its lines end differently from those of {sample} (LF or CR LF)")
    elif len(lines) != len(ids) + 2 or lines[-1]:
        deviations.append(f"{path}: it has empty lines, or its last line has no line end")
    return len(ids), deviations
