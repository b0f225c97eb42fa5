"""Read how far a fold has come that is being trained: its history, and the time that is left.

Standard library only: `digits status` imports this module.
"""

import csv
import json
import time
from pathlib import Path

from pipeline.task import Task

# In a fold's staging folder: the seconds that its command has left, and when that was known.
PROGRESS = "progress.json"


def read(path: Path) -> list[dict[str, float]]:
    """Read the rows of a history.csv; none if it is missing or not complete."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            return [{key: float(row[key]) for key in row} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):
        return []


def reached(task: Task) -> list[str]:
    """Say how far an incomplete task is: "epoch 3 of 12", "4 min left for all folds"."""
    rows = read(task.staged()["history"]) if task.stage == "train" else []
    epochs = f"epoch {len(rows)} of {task.preset.train.epochs}" if rows else ""
    return [text for text in (epochs, _left(task)) if text]


def _left(task: Task) -> str:
    try:
        found = json.loads((task.staging / PROGRESS).read_text(encoding="utf-8"))
        seconds = found["left"] - (time.time() - found["at"])
        return time_left(seconds, found["all"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def time_left(seconds: float, several: bool) -> str:
    """Say how much time is left: "4 min left", of several folds "4 min left for all folds"."""
    return f"{duration(max(0.0, seconds))} left{' for all folds' if several else ''}"


def duration(seconds: float) -> str:
    """Say a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"
