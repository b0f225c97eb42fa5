"""`make bench`: the presets against the notebook that everybody forks, on one machine.

Every measurement is kept in data/<dataset>/bench/ as soon as it is done, so that an interrupted run
continues; delete the folder to measure again. Nothing is asserted: the seconds are this machine's,
what counts is their ratios.
"""

import platform
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipeline import artifacts, config, files, stages
from pipeline.bench import make, measure, tables
from pipeline.datasets import dataset as find_dataset
from pipeline.endings import RESUMES
from pipeline.errors import ExternalError
from pipeline.stages import Graph


def main(dataset: str) -> None:
    """Measure what has not been measured yet, then print the table and draw the pictures."""
    home = stages.ROOT / "data" / find_dataset(dataset).name
    folder, arrays = home / "bench", home / "arrays"
    # The notebook and the presets with one network are judged on the same rows.
    holdout, folds = (
        make("split", dataset, preset).task("split").writes["fold_ids"]
        for preset in ("fast", "default")
    )
    planned = {
        "sprint": [(holdout, 0, seed) for seed in range(5)],
        "fast": [(holdout, 0, seed) for seed in range(3)],
        "default": [(folds, fold, 0) for fold in range(config.load("default").split.folds)],
    }

    take = partial(measured, folder)
    limits = {
        precision: take(f"limit-{precision}", measure.limit, precision)["flops"]
        for precision in ("float32", "bfloat16")
    }
    runs = {
        preset: [
            take(f"{preset}-{fold}-{seed}", measure.preset, arrays, fold_ids, preset, fold, seed)
            for fold_ids, fold, seed in its
        ]
        for preset, its in planned.items()
    }
    notebook = take("notebook", measure.notebook, arrays, holdout, 0)
    best = _trained(stages.load(dataset, "best"))

    products = (f"{name} {flops / 1e9:,.0f} Gflop/s" for name, flops in limits.items())
    text = (
        f"{_processor()}, {platform.system()}, {datetime.now(UTC):%Y-%m-%d}; "
        f"large matrix product: {', '.join(products)}\n\n"
        f"{tables.markdown(tables.presets(runs, notebook, limits, best))}\n"
    )
    print(f"\n{text}")
    (folder / "tables.md").write_text(text, encoding="utf-8")
    tables.draw(folder, runs, notebook, best)
    print(f"the same, and two pictures: {folder}/")


def measured(
    folder: Path, name: str, measure_it: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """Return what an earlier run measured, or else measure it now in a process of its own.

    Raises:
        ExternalError: the process was killed.
    """
    path = folder / f"{name}.json"
    known = files.read_json(path)
    if known is not None:
        return known
    print(f"measuring {name}", flush=True)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as processes:
            found = processes.submit(measure.with_peak, measure_it, *arguments).result()
    except BrokenProcessPool as error:
        raise ExternalError(
            f"{name}: the process that measured it was killed, perhaps for lack of memory; "
            f"close other programs, {RESUMES}"
        ) from error
    files.write_json(path, found)
    return found


def _trained(graph: Graph) -> dict[str, Any] | None:
    """Return the estimate and the seconds of a preset that takes too long to train here."""
    folds, ensemble = graph.all("train"), graph.task("ensemble")
    with artifacts.stat_cache(stages.ROOT) as cache:
        states = artifacts.states(graph.tasks, cache)
    if not all(states[task.name].fresh for task in [*folds, ensemble]):
        print("best has not been trained, which takes too long to do here; left out")
        return None
    seconds = [sum(artifacts.metadata(task.manifest)["epoch_seconds"]) for task in folds]
    return {**artifacts.metadata(ensemble.manifest), "seconds": sum(seconds)}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()
