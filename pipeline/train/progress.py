"""Progress of a fold: a bar on a terminal, a line per epoch everywhere."""

import multiprocessing
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipeline.backend import keras

# Seconds of steps after which the run's duration is forecast.
FORECAST_SECONDS = 2.0


class TrainingBar(keras.callbacks.Callback):
    """Shows epoch, loss, accuracy and the time left while its `with` block runs.

    Args:
        title: what is being trained.
        epochs: the maximum number of epochs.
        steps: the number of steps per epoch.
        done: the number of epochs that an earlier run completed.
        folds: the number of folds like this one that are still to be trained, this one included.
    """

    def __init__(self, title: str, epochs: int, steps: int, done: int, folds: int = 1) -> None:
        super().__init__()
        self.title, self.epochs, self.steps, self.epoch = title, epochs, steps, done
        self.console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
            # The bars of folds in parallel would overwrite each other.
            disable=not self.console.is_terminal or multiprocessing.parent_process() is not None,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=epochs * steps, completed=done * steps)
        self.began, self.first = time.monotonic(), done
        self.folds, self.measured_from = folds, (0.0, 0)
        self.forecast_due = True

    def __enter__(self) -> "TrainingBar":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Move the bar; Keras calls this whenever the graph returns to Python."""
        logs = logs or {}
        completed = self.epoch * self.steps + batch + 1
        self._forecast(completed)
        self.bar.update(
            self.task,
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
            self._print(
                f"{self.title}: about {_duration(fold)} for {self.epochs} epochs{folds} on this "
                f"machine, measured over {completed - first} steps"
            )

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Print the epoch's row of the history."""
        self.epoch = int(row["epoch"])
        spent = time.monotonic() - self.began
        left = spent / (self.epoch - self.first) * (self.epochs - self.epoch)
        self._print(
            f"{self.title}, epoch {self.epoch}/{self.epochs}: "
            f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
            f"held out: loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}; "
            f"{left:.0f} s left"
        )

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
