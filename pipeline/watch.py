"""`digits watch`: the folds while they are trained, with their curves, in the terminal."""

import csv
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.stages import Graph
from pipeline.task import Task

# In a fold's staging folder: the seconds that its command has left, and when that was known.
PROGRESS = "progress.json"
SECONDS = 1.0  # between two looks
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 10  # characters of a curve

Rows = list[dict[str, float]]


def watch(graph: Graph) -> None:
    """Show each fold's state and curves until no fold is being trained; off a terminal, once."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    table, running = _look(graph)
    if console.is_terminal and running:
        with Live(table, console=console, auto_refresh=False) as live:
            while running:
                time.sleep(SECONDS)
                table, running = _look(graph)
                live.update(table, refresh=True)
    else:
        console.print(table)
    if not running:
        print(f"no fold is being trained; to start: {graph.command_here('train')}")


def _look(graph: Graph) -> tuple[Any, bool]:
    """The table, and whether a fold is being trained."""
    from rich.table import Table

    folds = graph.all("train")
    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
    table, running = Table("", "", "loss", "held out", "", "accuracy", "", box=None), False
    for column in table.columns:
        column.no_wrap = True
    for task in folds:
        process = artifacts.holder(task)
        running = running or process is not None
        rows = history(task.writes["history"] if states[task.name].fresh else _staged(task))
        if process:
            state = ", ".join(reached(task)) or "running"
        elif states[task.name].fresh:
            state = "trained"
        else:
            state = f"stopped after epoch {len(rows)}" if rows else "waiting"
        cells = [f"{rows[-1]['loss']:.4f}"] if rows else []
        for name, digits in (("val_loss", 4), ("val_accuracy", 5)) if rows else ():
            values = [row[name] for row in rows]
            cells += [f"{values[-1]:.{digits}f}", curve(values)]
        table.add_row(task.name.removeprefix("train "), state, *cells)
    return table, running


def curve(values: Sequence[float]) -> str:
    """Draw numbers as blocks, the lowest as ▁ and the highest as █; of many, some.

    Losses fall by orders of magnitude at first, so the heights are those of the logarithms.
    """
    step = max(1.0, (len(values) - 1) / (WIDTH - 1))
    places = [round(place * step) for place in range(min(WIDTH, len(values)))]
    shown = [math.log(max(values[place], 1e-9)) for place in places]
    low, span = min(shown, default=0), max(shown, default=0) - min(shown, default=0)
    if not span:
        return BLOCKS[0] * len(shown)
    return "".join(BLOCKS[round((each - low) / span * (len(BLOCKS) - 1))] for each in shown)


def reached(task: Task) -> list[str]:
    """How far a fold has come that is not complete: "epoch 3 of 12", "4 min left"; as far as known.

    The time left is that of the whole command.
    """
    rows = history(_staged(task))
    epochs = f"epoch {len(rows)} of {task.preset.train.epochs}" if rows else ""
    return [text for text in (epochs, _left(task)) if text]


def _left(task: Task) -> str:
    try:
        found = json.loads((task.staging / PROGRESS).read_text(encoding="utf-8"))
        seconds = found["left"] - (time.time() - found["at"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return f"{duration(max(0.0, seconds))} left"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def _staged(task: Task) -> Path:
    """The history of a fold that is being trained; absent in other stages."""
    return task.staged().get("history", task.staging / "none")


def history(path: Path) -> Rows:
    """The rows of a history.csv; none if it is missing or not complete."""
    try:
        with path.open(encoding="ascii", newline="") as file:
            return [{key: float(row[key]) for key in row} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError):
        return []
