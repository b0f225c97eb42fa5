"""What one sees of a training: a bar on a terminal, one plain line an epoch anywhere else."""

import multiprocessing
import os
import time
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from pipeline.backend import keras


class TrainingBar(keras.callbacks.Callback):
    """Shows epoch, loss, accuracy and the time left, while the block that it opens lasts.

    Args:
        title: what is trained.
        epochs: the number of epochs, at most.
        steps: the number of steps an epoch.
        done: the number of epochs that an earlier run did.
    """

    def __init__(self, title: str, epochs: int, steps: int, done: int) -> None:
        super().__init__()
        self.title, self.epochs, self.steps, self.epoch = title, epochs, steps, done
        self.console = Console()
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=self.console,
            # Folds that run side by side would draw their bars over one another.
            disable=not self.console.is_terminal or _beside_others(),
            transient=True,
        )
        self.task = self.bar.add_task(title, total=epochs * steps, completed=done * steps)
        self.began, self.first = time.monotonic(), done

    def __enter__(self) -> "TrainingBar":
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
        """Move the bar; Keras calls it whenever the graph returns to Python."""
        logs = logs or {}
        self.bar.update(
            self.task,
            completed=self.epoch * self.steps + batch + 1,
            description=(
                f"{self.title}, epoch {self.epoch + 1}/{self.epochs}, "
                f"loss {logs.get('loss', 0):.4f}, accuracy {logs.get('accuracy', 0):.4f}"
            ),
        )

    def epoch_done(self, row: Mapping[str, float]) -> None:
        """Print the epoch's row of the history."""
        self.epoch = int(row["epoch"])
        spent = time.monotonic() - self.began
        left = spent / (self.epoch - self.first) * (self.epochs - self.epoch)
        self.console.print(
            f"{self.title}, epoch {self.epoch}/{self.epochs}: "
            f"loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
            f"held out: loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}; "
            f"{left:.0f} s left",
            highlight=False,
            soft_wrap=True,
        )


def _beside_others() -> bool:
    of_make = "jobserver" in os.environ.get("MAKEFLAGS", "")
    return of_make or multiprocessing.parent_process() is not None
