"""Progress of folds: bars on a terminal, a line per epoch everywhere, a file for `digits status`.

The time left is that of the whole command: of this fold and of those after it.
"""

import functools
import importlib
import json
import math
import multiprocessing
import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich import progress
from rich.console import Console

from pipeline.config import Train
from pipeline.files import atomic
from pipeline.kaggle import inside
from pipeline.task import Task
from pipeline.train import fold
from pipeline.train.history import PROGRESS, time_left
from pipeline.train.tensorboard import Events

# Seconds of steps after which the run's duration is forecast.
FORECAST_SECONDS = 2.0
# A line that `TrainingBar.epoch` prints, as it is found in the log of another machine.
EPOCH = re.compile(r"(?P<title>.+), epoch (?P<epoch>\d+)/\d+: .*; (?P<left>.+ left.*)$")


class _Bars(progress.Progress):
    """Bars on a terminal, and lines above them; lines only in a Kaggle notebook.

    A notebook seems to be a terminal, but keeps every repainted bar in its output.
    """

    def __init__(self, *columns: str | progress.ProgressColumn, **settings: Any) -> None:
        console = Console(force_terminal=False if inside.notebook() else None)
        columns = ("{task.description}", progress.BarColumn(), *columns)
        super().__init__(*columns, console=console, disable=not console.is_terminal, **settings)
        self.print = partial(console.print, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """End the bars; rich 13 would print an empty line even where it shows none."""
        if not self.disable:
            super().stop()


class TrainingBar(fold.Progress):
    """Shows a fold's epoch, loss, accuracy and the time left, and writes TensorBoard's events.

    Args:
        task: the fold.
        later: the tasks that come after it, for the time that the whole command takes.
        jobs: how many folds are trained at a time.
    """

    def __init__(self, task: Task, later: Sequence[Task] = (), jobs: int = 1) -> None:
        self.title, self.task, self.jobs = task.name.removeprefix("train "), task, jobs
        self.epochs = task.preset.train.epochs
        self.later = [other.preset.train for other in later]
        self.bars = _Bars(progress.TaskProgressColumn(), "{task.fields[left]}", transient=True)
        # The bars of folds in parallel would overwrite each other.
        self.bars.disable = self.bars.disable or multiprocessing.parent_process() is not None

    def __enter__(self) -> "TrainingBar":
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def begin(self, rows: int, images: int, steps: int, done: int) -> None:
        """Show the bar; see `fold.Progress`."""
        params = self.task.preset.train
        self.steps, self.done, self.first = steps, done, done
        self.runs = runs(params, self.later, rows, self.jobs)
        self.whole = self.epochs + ending(params, rows, images)
        self.bar = self.bars.add_task(
            self.title, total=self.epochs * steps, completed=done * steps, left=""
        )
        self.events = Events(self.task.folder, resumed=done > 0)
        self.began = time.monotonic()
        # Seconds of an epoch, and what the first one takes longer, since it traces the graph.
        self.each, self.tracing, self.first_seconds = 0.0, 0.0, 0.0
        self.traced = 0  # the steps of the call that did
        self.end = 0.0  # when the command ends; 0 = not known yet

    def step(self, batch: int, logs: Mapping[str, float]) -> None:
        """Move the bar; Keras calls this whenever the graph returns to Python."""
        if self.done == self.first and not self.end:
            self._forecast(batch + 1)
        left = self._left(self.end - time.monotonic()) if self.end else ""
        self.bars.update(
            self.bar,
            completed=self.done * self.steps + batch + 1,
            left=left,
            description=(
                f"{self.title}, epoch {self.done + 1}/{self.epochs}, "
                f"loss {logs.get('loss', 0):.4f}, accuracy {logs.get('accuracy', 0):.4f}"
            ),
        )

    def _forecast(self, steps: int) -> None:
        """Say once, after a few seconds of steps, how long this will take on this machine."""
        seconds = time.monotonic() - self.began - self.tracing
        if not self.traced:
            self.tracing, self.traced = seconds, steps
        elif seconds > FORECAST_SECONDS:
            timed = steps - self.traced
            self.each = seconds / timed * self.steps
            left = self._expect(self.done + steps / self.steps)
            self.bars.print(f"{self.title}: {left}, measured over {timed} steps on this machine")

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print the epoch's row of the history, and the time left."""
        self.done = int(row["epoch"])
        seconds, later = time.monotonic() - self.began, self.done - self.first - 1
        if later:
            self.each = (seconds - self.first_seconds) / later
            self.tracing = max(0.0, self.first_seconds - self.each)
        else:
            self.first_seconds = seconds
            alone = self.traced < self.steps  # else the epoch is one call
            self.each = seconds - self.tracing if alone else seconds
        left = self._expect(self.done)
        self.bars.print(f"{self.title}, {_epoch(row, self.epochs)}; {left}")
        self.events.add([row])

    def _expect(self, done: float) -> str:
        """Say what time is left after some epochs, and keep it for others to see."""
        left = self.each * (self.whole * self.runs - done)
        left += self.tracing * len(self.later) / self.jobs
        self.end = time.monotonic() + left
        found = {"left": round(left, 1), "at": time.time(), "all": bool(self.later)}
        with atomic(self.task.staging / PROGRESS) as temporary:
            temporary.write_text(json.dumps(found))
        return self._left(left)

    def _left(self, seconds: float) -> str:
        return time_left(seconds, bool(self.later))


class Board(_Bars):
    """Where each fold is trained and how far it is: a bar each, or a line per epoch."""

    def __init__(self) -> None:
        super().__init__(progress.MofNCompleteColumn(), "{task.fields[where]}")
        self.bars: dict[str, Any] = {}

    def show(self, task: Task, history: Sequence[Mapping[str, float]], where: Any) -> None:
        """Update a fold's line."""
        gpus = ", ".join(f"GPU {gpu}" for gpu in where["gpus"]) or "CPU"
        place = f"{where['node']} ({where['ray_node'][:8]}), {gpus}"
        self.move(task, len(history), place)
        if self.disable:
            epochs = task.preset.train.epochs
            state = f", {_epoch(history[-1], epochs)}" if history else ": started"
            self.print(f"{task.name} on {place}{state}")

    def move(self, task: Task, epoch: int, where: str) -> None:
        """Move a fold's bar."""
        if task.name not in self.bars:
            epochs = task.preset.train.epochs
            self.bars[task.name] = self.add_task(task.name, total=epochs, where=where)
        self.update(self.bars[task.name], completed=epoch, where=where)


def runs(params: Train, later: Sequence[Train], rows: int, jobs: int = 1) -> float:
    """Compute the total training time of several folds, `jobs` at a time, in units of the first."""
    every = (params, *later)
    images = [each.epochs * min(rows, each.limit or rows) for each in every]
    networks = [(each.network, each.width) for each in every]
    if len(set(networks)) > 1:
        images = [
            count * flops_per_image(*network)
            for count, network in zip(images, networks, strict=True)
        ]
    return max(1.0, sum(images) / images[0] / jobs)


def ending(params: Train, rows: int, images: int) -> float:
    """Estimate the time of a fold's predictions after its last epoch, in epochs.

    Predicting an image takes only a forward pass: about a third of the work of training on it.
    """
    shifts = (2 * params.predict_shift + 1) ** 2
    return shifts * images / 3 / rows


@functools.cache
def flops_per_image(network: str, width: int) -> int:
    """Count the multiplications and additions of one training step, per image.

    Convolutions and dense layers, forward and, twice as many, backward; without the gradient of the
    pixels, which is not computed.
    """
    from pipeline.backend import keras

    module = importlib.import_module(f"pipeline.train.networks.{network}")
    total, first = 0, True
    for layer in module.network(width, 0).layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = math.prod(layer.output.shape[1:-1])
            total += 2 * places * math.prod(layer.kernel.shape) * (2 if first else 3)
            first = False
    return total


def _epoch(row: Mapping[str, float], epochs: int) -> str:
    """A row of the history, in words."""
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, accuracy {row['accuracy']:.4f}, "
        f"held out: loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}"
    )
