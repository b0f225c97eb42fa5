"""`digits watch`: the folds while they are trained, with their curves."""

import math
import time
from collections.abc import Sequence
from typing import Any

from pipeline import artifacts, stages
from pipeline.cli.options import DatasetOption, PresetOption
from pipeline.stages import Graph
from pipeline.train import history

SECONDS = 1.0  # between two looks
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 10  # characters of a curve


def watch(dataset: DatasetOption = "kaggle", preset: PresetOption = "default") -> None:
    """Watch the folds train, from a second terminal."""
    from rich.console import Console
    from rich.live import Live

    graph, console = stages.load(dataset, preset), Console()
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
    """Return the table, and whether a fold is being trained."""
    from rich.table import Table

    folds = graph.all("train")
    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
    table, running = Table("", "", "loss", "held out", "", "accuracy", "", box=None), False
    for column in table.columns[2:]:
        column.no_wrap = True
    for task in folds:
        process, fresh = artifacts.holder(task), states[task.name].fresh
        running = running or process is not None
        rows = history.read(task.writes["history"] if fresh else task.staged()["history"])
        state = f"stopped after epoch {len(rows)}" if rows else "waiting"
        if process:
            state = ", ".join(history.reached(task)) or "running"
        elif fresh:
            state = "trained"
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
    heights = [(each - low) / (span or 1) * (len(BLOCKS) - 1) for each in shown]
    return "".join(BLOCKS[round(height)] for height in heights)
