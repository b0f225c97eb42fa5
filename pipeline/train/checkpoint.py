"""The checkpoint of a fold: the whole state after an epoch, from which a stopped run resumes."""

import csv
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.files import atomic

# What NumPy raises for a missing or damaged checkpoint. RuntimeError: a flipped bit may claim that
# the archive is encrypted, or of a later version.
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile)


@dataclass
class State:
    """A checkpoint without the variables of model and optimiser."""

    run: str  # identifies fold, parameters and rows; a checkpoint of another run is not resumed
    history: list[dict[str, float]] = field(default_factory=list)  # rows, as in history.csv
    epoch_seconds: list[float] = field(default_factory=list)  # with the validation
    best_weights: list[NDArray[Any]] = field(default_factory=list)  # if they are to be restored

    def best_epoch(self, monitor: str) -> int:
        """Find the first epoch, counted from 0, with the lowest `monitor`; 0 before the first."""
        epochs = range(len(self.history))
        return min(epochs, key=lambda epoch: self.history[epoch][monitor], default=0)


def save(path: Path, model: Any, state: State) -> None:
    """Write a checkpoint, atomically: all variables that a step changes, and the state."""
    variables = [*model.variables, *model.optimizer.variables]
    arrays = {f"variable_{i}": np.asarray(value) for i, value in enumerate(variables)}
    arrays |= {f"best_{i}": weights for i, weights in enumerate(state.best_weights)}
    rest = vars(state) | {"best_weights": len(state.best_weights)}
    arrays["state"] = np.array(json.dumps(rest))
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def restore(path: Path, model: Any, run: str) -> State:
    """Set the model to its checkpoint, and return the state; start anew without an intact one."""
    if not path.exists():
        return State(run)
    variables = [*model.variables, *model.optimizer.variables]
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[f"variable_{i}"] for i in range(len(variables))]
            rest = json.loads(str(arrays["state"]))
            rest["best_weights"] = [arrays[f"best_{i}"] for i in range(rest["best_weights"])]
            state = State(**rest)
    except DAMAGE:
        print("the checkpoint of the previous run is damaged; starting anew")
        return State(run)
    if state.run != run:
        print("the checkpoint there is of another run; starting anew")
        return State(run)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return state


def history(path: Path) -> list[dict[str, float]]:
    """Read the epochs' rows from a checkpoint; none if it is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return list(json.loads(str(arrays["state"]))["history"])
    except DAMAGE:
        return []


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write a CSV with a row for each epoch, atomically; nothing without any."""
    if not rows:
        return
    with atomic(path) as temporary, temporary.open("w", encoding="ascii", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
