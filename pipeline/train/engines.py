"""Where the folds are trained: in this process, in several, on a Ray cluster, or on Kaggle."""

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pipeline import artifacts, environment, fingerprints
from pipeline.artifacts import State
from pipeline.endings import RESUMES
from pipeline.errors import ExternalError, UserError
from pipeline.files import fingerprint, read_json
from pipeline.stages import recorded_seconds
from pipeline.task import Task

Engine = Literal["local", "ray", "kaggle"]
# What a fold is trained on, unless the user says it: what there is.
ACCELERATOR = "auto"
# Seconds of training that are not repeated without a word.
LONG = 600
# Two GPUs of this kind are what Kaggle gives for nothing.
FREE_ON_KAGGLE = "NvidiaTeslaT4"


def select(folds: list[Task], word: str) -> list[Task]:
    """Select the folds that `--fold` names: "all", or numbers such as "0,2"; raises UserError."""
    numbers = {task.fold for task in folds}
    try:
        wanted = numbers if word == "all" else {int(number) for number in word.split(",")}
    except ValueError as error:
        raise UserError(f"--fold must be numbers such as 0,2, not {word!r}") from error
    if unknown := wanted - numbers:
        raise UserError(f"there is no fold {min(unknown)}; choose from 0 to {max(numbers)}")
    return [task for task in folds if task.fold in wanted]


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
            Ray ("T4") or Kaggle ("NvidiaTeslaT4"), or "auto" for what there is.

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
    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
    due = [task for task in folds if force or not states[task.name].fresh]
    if fresh := [task for task in folds if task not in due]:
        names = "all folds" if not due else f"{len(fresh)} of {len(folds)} folds"
        print(f"train: {names} fresh", flush=True)
        for task in fresh:
            artifacts.tidy(task)
    if not due:
        return
    _announce(due, states)
    # Each needs TensorFlow or Ray, whose imports take seconds.
    if engine == "ray":
        from pipeline.remote.ray import train_on_ray

        train_on_ray(due, tasks, force, jobs or 1, address, accelerator)
    elif engine == "kaggle":
        from pipeline.remote.kaggle import train_on_kaggle

        kind = FREE_ON_KAGGLE if accelerator in (ACCELERATOR, "gpu") else accelerator
        train_on_kaggle(due, tasks, force, kind)
    else:
        from pipeline.train.local import train_here

        train_here(due, tasks, force, jobs)


def _announce(due: list[Task], states: Mapping[str, State]) -> None:
    """Say how long it takes to train results again, and why, if that is more than ten minutes."""
    again = [task for task in due if states[task.name].cause in ("inputs", "parameters", "code")]
    seconds = recorded_seconds(due) if again else None
    if not seconds or seconds < LONG:
        return
    print(
        f"train: {len(due)} fold{'s' if len(due) > 1 else ''} again, about {seconds / 60:.0f} min "
        f"as recorded, because {states[again[0].name].reason}",
        flush=True,
    )
    if all(states[task.name].cause == "code" for task in again):
        print(
            "train: `digits train --same` trains one fold of each network first, and the others "
            "only if that comes out otherwise; Ctrl-C stops here",
            flush=True,
        )


def train_same(folds: list[Task], tasks: list[Task]) -> None:
    """Train one fold of each network again; if it comes out the same, record the others anew.

    This concerns folds that are stale by their code alone, and were trained where the first was.
    """
    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
        stale = [task for task in folds if states[task.name].cause == "code"]
        for task in stale:
            artifacts.check_inputs(task, tasks, cache)
    if not stale:
        print("train: no fold is stale by its code alone")
    for _, found in itertools.groupby(stale, lambda task: task.preset.name):
        group = list(found)
        first = group[0]
        print(f"{first.name}: {states[first.name].reason}; training it again, to compare")
        if why := _what_differs(first):
            print(f"{first.name}: not the same ({why}); its network's folds stay stale")
            continue
        places = [environment.identity(artifacts.metadata(task.manifest)) for task in group]
        alike = [task for task, place in zip(group, places, strict=True) if place == places[0]]
        for task in alike:
            artifacts.add_metadata(task, "same_as", f"{first.name} with later code", anew=True)
        names = ", ".join(task.name for task in alike)
        print(f"{first.name}: the same bytes; recorded anew, without training: {names}")


def _what_differs(task: Task) -> str | None:
    """Train a fold again, in a temporary folder; say why its files differ, None if they do not."""
    import tempfile

    from pipeline.train.local import work

    before = read_json(task.manifest) or {}
    fingerprints.load(task.code, task.root)
    with tempfile.TemporaryDirectory(prefix="digits-") as folder:
        home = Path(folder, task.folder.name)
        home.mkdir()
        writes = {name: home / path.name for name, path in task.writes.items()}
        again = replace(task, manifest=home / task.manifest.name, writes=writes)
        found = work(again, [], 1, writes)
        now = {task.label(task.writes[name]): fingerprint(path) for name, path in writes.items()}
    if now == before["outputs"]:
        return None
    others = environment.differences({"then": before["metadata"], "now": found})
    return others[0] if others else "the code gives other results"
