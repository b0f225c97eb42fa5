"""Who trains the folds: this process one after another, several processes, or a Ray cluster."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.artifacts import Step
from pipeline.config import Config, Train
from pipeline.errors import OutsideError, explained

NAMES = ("local", "ray")


@dataclass(frozen=True)
class Training:
    """One fold of one preset: the step that it is in the graph, and the parameters of `train`."""

    step: Step
    params: Train

    @property
    def arguments(self) -> dict[str, Any]:
        """What `train` takes beside the folder that it writes to."""
        images, *_, fold_ids = self.step.inputs
        return {
            "tensors": images.parent,
            "fold_ids_path": fold_ids,
            "fold": self.step.params["fold"],
            "params": self.params,
            "title": self.step.name.removeprefix("train "),
        }


def trainings(steps: Iterable[Step], settings: Config) -> list[Training]:
    """The trainings among the steps of a preset."""
    params = {Path(member.name).name: member.train for member in settings.members}
    return [
        Training(step, params[step.manifest.parent.parent.name])
        for step in steps
        if step.stage == "train"
    ]


def announced(
    step: Step, steps: list[Step], work: Callable[[Path], Mapping[str, Any]], if_stale: bool
) -> None:
    """Run one step (see `artifacts.run`); say why, where to, and how long it took."""
    with artifacts.stat_cache(step.root) as cache:
        why = artifacts.staleness(steps, cache)[step.name] or "asked for"
    if if_stale and why == "asked for":
        print(f"{step.name}: fresh", flush=True)
        return
    print(f"{step.name}: {why}; into {os.path.relpath(step.manifest.parent)}/", flush=True)
    asked = os.environ.get("DIGITS_ASKED")  # make asked, when it looked what is stale
    try:
        done = artifacts.run(step, work, steps, if_stale, int(asked) if asked else None)
    except OSError as error:  # that a disk is full is told without a name
        place = os.path.relpath(step.manifest.parent)
        raise OutsideError(explained(error, place)) from error
    if done:
        manifest = artifacts.read_manifest(step)
        assert manifest is not None
        print(f"{step.name}: done in {manifest['facts']['seconds']:.1f} s", flush=True)
    else:
        print(f"{step.name}: done by the other process", flush=True)


def train_folds(
    trainings: list[Training],
    steps: list[Step],
    if_stale: bool,
    jobs: int,
    engine: str,
    address: str | None = None,
) -> None:
    """Train folds; the files that they leave are the same whoever trains them.

    Args:
        trainings: the folds.
        steps: all steps of the graph, for the check of what the folds rest on.
        if_stale: leave fresh folds alone.
        jobs: how many are trained on one machine at a time.
        engine: one of NAMES.
        address: of a running Ray cluster; without it, one is started here and ended.

    Raises:
        UserError: something about the parameters or the files has to be put right.
        OutsideError: a process or a node was lost.
    """
    if if_stale:
        trainings = _due(trainings, steps)
    if not trainings:
        return
    if engine == "ray":
        from pipeline.cluster import train_on_ray

        train_on_ray(trainings, steps, if_stale, jobs, address)
    elif jobs > 1 and len(trainings) > 1:
        _side_by_side(trainings, steps, if_stale, jobs)
    else:
        _one_by_one(trainings, steps, if_stale, jobs)


def _due(trainings: Iterable[Training], steps: list[Step]) -> list[Training]:
    with artifacts.stat_cache(steps[0].root) as cache:
        why = artifacts.staleness(steps, cache)
    for step in [each.step for each in trainings if why[each.step.name] is None]:
        print(f"{step.name}: fresh", flush=True)
    return [each for each in trainings if why[each.step.name]]


def _one_by_one(
    trainings: Iterable[Training], steps: list[Step], if_stale: bool, jobs: int
) -> None:
    from pipeline.train import train

    for training in trainings:
        work = partial(train, **training.arguments, jobs=jobs)
        announced(training.step, steps, work, if_stale)


def _side_by_side(trainings: list[Training], steps: list[Step], if_stale: bool, jobs: int) -> None:
    """Processes that each import TensorFlow once and train fold after fold."""
    method = multiprocessing.get_context("spawn")
    count = min(jobs, len(trainings))
    with ProcessPoolExecutor(count, method, initializer=_follow_the_parent) as pool:
        futures = [
            pool.submit(_one_by_one, [training], steps, if_stale, jobs) for training in trainings
        ]
        try:
            await_all(futures)
        except BrokenProcessPool as error:
            raise OutsideError(
                "a training process was killed, perhaps for want of memory (lower --jobs); "
                "the same command goes on from here"
            ) from error
        except KeyboardInterrupt:
            stop(pool)
            raise


def await_all(futures: Iterable["Future[None]"]) -> None:
    """Wait for all folds: one that fails does not stop the others. Then raise the first error."""
    futures = list(futures)
    wait(futures)
    errors = [error for future in futures if (error := future.exception())]
    for error in errors[1:]:
        if str(error) != str(errors[0]):
            print(f"digits: {error}", file=sys.stderr)
    if errors:
        raise errors[0]


def stop(pool: Executor) -> None:
    """Begin nothing more, and end the processes that are at work."""
    pool.shutdown(wait=False, cancel_futures=True)
    for child in multiprocessing.active_children():
        child.terminate()


def _follow_the_parent() -> None:
    """End this process, silently, on Ctrl-C and when the one that started it is gone."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
