"""Folds on this machine: one after another in this process, or several processes in parallel."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.endings import RESUMES
from pipeline.environment import CHECKPOINTS
from pipeline.errors import ExternalError
from pipeline.task import Task
from pipeline.train import runtime


def train_here(folds: list[Task], tasks: list[Task], force: bool, jobs: int | None) -> None:
    """Train folds on this machine (see `engines.train_folds`)."""
    if jobs is None:
        jobs = runtime.one_for_each_gpu(max(task.preset.train.devices for task in folds))
    works = [partial(work, task, folds[i + 1 :], jobs) for i, task in enumerate(folds)]
    if jobs == 1 or len(folds) == 1:
        for task, its_work in zip(folds, works, strict=True):
            artifacts.run(task, tasks, force, its_work)
        return
    # Each process imports TensorFlow once and trains fold after fold.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(folds)), spawn, initializer=follow_the_parent) as pool:
        futures = [
            pool.submit(artifacts.run, task, tasks, force, its_work)
            for task, its_work in zip(folds, works, strict=True)
        ]
        try:
            await_all(futures)
        except BrokenProcessPool as error:
            raise ExternalError(
                "a training process was killed, possibly for lack of memory; lower --jobs, "
                f"{RESUMES}"
            ) from error
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def work(task: Task, later: list[Task], jobs: int, writes: Mapping[str, Path]) -> Mapping[str, Any]:
    """Train one fold in this process, before `later` ones, and show how far it is."""
    from pipeline.train.progress import TrainingBar

    params = task.preset.train
    environment = runtime.prepare(params.precision, params.devices, jobs)
    others = [path.name for path in task.staging.glob(CHECKPOINTS)]
    if others and environment.checkpoint not in others:
        print(
            f"{task.name}: {others[0]} is of another machine or version, whose number format, "
            "device or threads differ; it stays there, and this fold starts anew"
        )
    return task.work(writes, environment=environment, progress=TrainingBar(task, later, jobs))


def await_all(futures: list["Future[Any]"]) -> None:
    """Wait for all folds, even if one fails; then raise the first error and print the others."""
    wait(futures)
    errors = [error for future in futures if (error := future.exception())]
    for error in errors[1:]:
        if str(error) != str(errors[0]):
            print(f"digits: {error}", file=sys.stderr)
    if errors:
        raise errors[0]


def follow_the_parent() -> None:
    """End this process, silently, on Ctrl-C and when the process that started it is gone."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
