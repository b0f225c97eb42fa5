"""Progress of folds: bars on a terminal, a line per epoch everywhere."""

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich import progress
from rich.console import Console

from pipeline.artifacts import Task

# Seconds of steps after which the run's duration is forecast.
FORECAST_SECONDS = 2.0


class _Bars(progress.Progress):
    """Bars on a terminal, and lines above them."""

    def __init__(self, *columns: str | progress.ProgressColumn, **settings: Any) -> None:
        console = Console()
        columns = ("{task.description}", progress.BarColumn(), *columns)
        super().__init__(*columns, console=console, disable=not console.is_terminal, **settings)
        self.print = partial(console.print, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """End the bars; rich 13 would print an empty line even where it shows none."""
        if not self.disable:
            super().stop()


class TrainingBar(_Bars):
    """Shows epoch, loss, accuracy and the time left while its `with` block runs.

    `steps` are those of an epoch; `done` epochs were completed by an earlier run; `folds` like this
    one are still to be trained, this one included.
    """

    def __init__(self, title: str, epochs: int, steps: int, done: int, folds: int = 1) -> None:
        columns = progress.TaskProgressColumn(), progress.TimeRemainingColumn()
        super().__init__(*columns, transient=True)
        # The bars of folds in parallel would overwrite each other.
        self.disable = self.disable or multiprocessing.parent_process() is not None
        self.title, self.epochs, self.steps, self.epoch = title, epochs, steps, done
        self.bar = self.add_task(title, total=epochs * steps, completed=done * steps)
        self.began, self.first = time.monotonic(), done
        self.folds, self.measured_from = folds, (0.0, 0)
        self.forecast_due = True

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Move the bar; Keras calls this whenever the graph returns to Python."""
        logs = logs or {}
        completed = self.epoch * self.steps + batch + 1
        self._forecast(completed)
        self.update(
            self.bar,
            completed=completed,
            description=(
                f"{self.title}, epoch {self.epoch + 1}/{self.epochs}, "
                f"loss {logs.get('loss', 0):.4f}, accuracy {logs.get('accuracy', 0):.4f}"
            ),
        )

    def _forecast(self, completed: int) -> None:
        """Say once, after a few seconds of steps, how long the run will take on this machine."""
        now, (since, first) = time.monotonic(), self.measured_from
        if not since:  # the call that ends here traced the graph
            self.measured_from = now, completed
        elif self.forecast_due and now - since > FORECAST_SECONDS:
            self.forecast_due = False
            fold = (now - since) / (completed - first) * self.steps * self.epochs
            folds = f", {_duration(fold * self.folds)} for {self.folds} folds" * (self.folds > 1)
            self.print(
                f"{self.title}: about {_duration(fold)} for {self.epochs} epochs{folds} on this "
                f"machine, measured over {completed - first} steps"
            )

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Print the epoch's row of the history."""
        self.epoch = int(row["epoch"])
        spent = time.monotonic() - self.began
        left = spent / (self.epoch - self.first) * (self.epochs - self.epoch)
        self.print(f"{self.title}, {_epoch(row, self.epochs)}; {left:.0f} s left")


class Board(_Bars):
    """Where each fold is trained and how far it is: a bar each, or a line per epoch."""

    def __init__(self) -> None:
        super().__init__(progress.MofNCompleteColumn(), "{task.fields[where]}")
        self.bars: dict[str, Any] = {}

    def show(self, task: Task, history: Sequence[Mapping[str, float]], where: Any) -> None:
        """Update a fold's line."""
        name, epochs = task.name, task.params["params"].epochs
        gpus = ", ".join(f"GPU {gpu}" for gpu in where["gpus"]) or "CPU"
        place = f"{where['node']} ({where['ray_node'][:8]}), {gpus}"
        if name not in self.bars:
            self.bars[name] = self.add_task(name, total=epochs, where=place)
        self.update(self.bars[name], completed=len(history), where=place)
        if self.disable:
            state = f", {_epoch(history[-1], epochs)}" if history else ": started"
            self.print(f"{name} on {place}{state}")


def _epoch(row: Mapping[str, float], epochs: int) -> str:
    """A row of the history, in words."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"held out: loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
