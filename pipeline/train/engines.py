"""Where the folds are trained: in this process, in several, on a Ray cluster, or on Kaggle."""

import time
from typing import Literal

from pipeline import artifacts
from pipeline.artifacts import Task
from pipeline.errors import RESUMES, ExternalError, UserError

Engine = Literal["local", "ray", "kaggle"]
# What a fold is trained on, unless the user says it: what there is.
ACCELERATOR = "auto"
# Two GPUs of this kind are what Kaggle gives for nothing.
FREE_ON_KAGGLE = "NvidiaTeslaT4"


def select(folds: list[Task], word: str) -> list[Task]:
    """The folds that `--fold` names: "all", or numbers such as "0,2"; raises UserError."""
    numbers = {task.params["fold"] for task in folds}
    try:
        wanted = numbers if word == "all" else {int(number) for number in word.split(",")}
    except ValueError as error:
        raise UserError(f"--fold must be numbers such as 0,2, not {word!r}") from error
    if unknown := wanted - numbers:
        raise UserError(f"there is no fold {min(unknown)}; choose from 0 to {max(numbers)}")
    return [task for task in folds if task.params["fold"] in wanted]


def train_folds(
    folds: list[Task],
    tasks: list[Task],
    force: bool = False,
    jobs: int | None = None,
    engine: Engine = "local",
    address: str | None = None,
    accelerator: str = ACCELERATOR,
) -> None:
    """Train the folds that are due; their files are the same wherever they are trained.

    Args:
        folds: the tasks to run.
        tasks: all tasks of the graph.
        force: train fresh folds too.
        jobs: how many are trained on one machine at a time; None for one on each GPU, or one.
        engine: "local", "ray" for a cluster, or "kaggle" for Kaggle's machines.
        address: of a running Ray cluster; without it, one is started here and stopped afterwards.
        accelerator: what each fold needs elsewhere: "none", "gpu", a kind of GPU in the words of
            Ray ("T4") or Kaggle ("NvidiaTeslaT4"), or "auto": on a cluster, a GPU if a living node
            has one.

    Raises:
        UserError: something about the parameters or the files has to be fixed.
        ExternalError: a process or a node was lost, or the clock is wrong.
    """
    if time.localtime().tm_year < 1980:  # on a board whose battery is empty
        raise ExternalError(
            f"the clock says {time.strftime('%Y-%m-%d')}, and Keras cannot date files before "
            f"1980; set it, {RESUMES}"
        )
    if engine == "local" and accelerator != ACCELERATOR:
        raise UserError(f"--accelerator {accelerator} needs --engine ray or kaggle")
    due = folds
    if not force:
        with artifacts.stat_cache(folds[0].root) as cache:
            reasons = artifacts.staleness(folds, cache)
        due = [task for task in folds if reasons[task.name]]
        if len(due) < len(folds):
            names = "all folds" if not due else f"{len(folds) - len(due)} of {len(folds)} folds"
            print(f"train: {names} fresh", flush=True)
    if not due:
        return
    # Each needs TensorFlow or Ray, whose imports take seconds.
    if engine == "ray":
        from pipeline.train.cluster import train_on_ray

        train_on_ray(due, tasks, force, jobs or 1, address, accelerator)
    elif engine == "kaggle":
        from pipeline.train.kaggle import train_on_kaggle

        kind = FREE_ON_KAGGLE if accelerator in (ACCELERATOR, "gpu") else accelerator
        train_on_kaggle(due, tasks, force, kind)
    else:
        from pipeline.train.local import train_here

        train_here(due, tasks, force, jobs)
