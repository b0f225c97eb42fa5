"""`digits status`: the state of each stage, and what `make submission` would do."""

from typing import Annotated

import typer

from pipeline import artifacts, environment, stages
from pipeline.artifacts import State
from pipeline.cli.options import DatasetOption, PresetOption
from pipeline.cli.screen import load, print_differences
from pipeline.task import Task
from pipeline.train import history


def status(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again, to find silent corruption.")
    ] = False,
) -> None:
    """Show what is fresh, stale (and why) or missing."""
    graph = load(dataset, preset)
    with artifacts.stat_cache(stages.ROOT, trusted=not verify) as cache:
        states = artifacts.states(graph.tasks, cache)
    width = max(14, *(len(task.name) for task in graph.tasks))
    for task in graph.tasks:
        word, why = _now(task, states[task.name])
        seconds = artifacts.metadata(task.manifest).get("seconds")
        took = " " * 10 if seconds is None else f"{seconds:8.1f} s"
        print(f"{task.name:<{width}} {word:<8}{took}  {why}".rstrip())
    for fault in graph.faults.values():
        raise fault
    print_differences(graph)
    print(f"`{graph.command_here('submission')}` {_next(graph.tasks, states)}")


def _now(task: Task, state: State) -> tuple[str, str]:
    """Say in a word what a task's state is, and why or how far it is."""
    why = state.reason if state.word != "missing" else ""
    if state.fresh:
        return state.word, why
    if process := artifacts.holder(task):
        return "running", ", ".join([*history.reached(task), f"process {process}"])
    if task.stage == "train" and artifacts.resumable(task):
        here = environment.without_gpu(task.preset.train.precision)
        if here and (task.staging / here.checkpoint).exists():
            why += "".join(f"  resumes after {epoch}" for epoch in history.reached(task)[:1])
    return state.word, why.strip()


def _next(tasks: list[Task], states: dict[str, State]) -> str:
    """Say which tasks would run, and how long they take."""
    due = [task for task in tasks if states[task.name].word in ("missing", "stale")]
    if not due:
        return "has nothing to do"
    folds = [task for task in due if task.stage == "train"]
    several = f"train ({len(folds)} folds)"
    names = dict.fromkeys(
        several if task in folds and len(folds) > 1 else task.name for task in due
    )
    seconds = stages.recorded_seconds(due)
    took = "time not known yet" if seconds is None else f"about {seconds / 60:.1f} min as recorded"
    waiting = [name for name, state in states.items() if state.word == "waiting"]
    then = f"; then {', '.join(waiting)}, unless their inputs come out the same" if waiting else ""
    return f"runs {', '.join(names)}: {took}{then}"
