"""Where the folds are trained: in this process, in several, on a Ray cluster, or on Kaggle."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

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
    """The folds that `--fold` names: "all", or numbers such as "0,2"; raises UserError."""
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
    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
    fresh = [task for task in folds if states[task.name].fresh]
    due = folds if force else [task for task in folds if task not in fresh]
    if not force and fresh:
        names = "all folds" if not due else f"{len(fresh)} of {len(folds)} folds"
        print(f"train: {names} fresh", flush=True)
        for task in fresh:
            artifacts.tidy(task)
    if not due:
        return
    _announce(due, states)
    # Each needs TensorFlow or Ray, whose imports take seconds.
    if engine == "ray":
        from pipeline.train.cluster import train_on_ray

        train_on_ray(due, tasks, force, jobs or 1, address, accelerator)
    elif engine == "kaggle":
        from pipeline.remote.kaggle import train_on_kaggle

        kind = FREE_ON_KAGGLE if accelerator in (ACCELERATOR, "gpu") else accelerator
        train_on_kaggle(due, tasks, force, kind)
    else:
        from pipeline.train.local import train_here

        train_here(due, tasks, force, jobs)


def _announce(due: list[Task], states: Mapping[str, State]) -> None:
    """Say before results are trained again for more than ten minutes how long that takes, and why.

    Args:
        due: the folds to train.
        states: of these folds, by name.
    """
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

    Only for folds that are stale by their code alone, and where this machine computes as the one
    did that trained them; all others stay as they are.

    Args:
        folds: the tasks to look at.
        tasks: all tasks of the graph.
    """
    import tempfile

    from pipeline.train.local import work

    with artifacts.stat_cache(folds[0].root) as cache:
        states = artifacts.states(folds, cache)
        stale = [task for task in folds if states[task.name].cause == "code"]
        for task in stale:
            artifacts.check_inputs(task, tasks, cache)
    if not stale:
        print("train: no fold is stale by its code alone")
    for preset in dict.fromkeys(task.preset.name for task in stale):
        group = [task for task in stale if task.preset.name == preset]
        first = group[0]
        before = read_json(first.manifest) or {}
        print(f"{first.name}: {states[first.name].reason}; training it again, to compare")
        fingerprints.load(first.code, first.root)
        with tempfile.TemporaryDirectory(prefix="digits-") as folder:
            home = Path(folder, first.folder.name)
            home.mkdir()
            writes = {name: home / path.name for name, path in first.writes.items()}
            again = replace(first, manifest=home / first.manifest.name, writes=writes)
            found = work(again, [], 1, writes)
            now = {first.label(first.writes[name]): fingerprint(p) for name, p in writes.items()}
        there = environment.identity(before["metadata"])
        if now != before["outputs"]:
            others = environment.differences({"then": before["metadata"], "now": found})
            why = others[0] if others else "the code gives other results"
            print(f"{first.name}: not the same ({why}); its network's folds stay stale")
            continue
        alike = [task for task in group if _environment(task) == there]
        for task in alike:
            artifacts.add_metadata(task, "same_as", f"{first.name} with later code", anew=True)
        names = ", ".join(task.name for task in alike)
        print(f"{first.name}: the same bytes; recorded anew, without training: {names}")


def _environment(task: Task) -> Mapping[str, Any]:
    return environment.identity(artifacts.metadata(task.manifest))
