"""`make bench`: the presets against the notebook that everybody forks, on one machine.

Every measurement is kept in data/<dataset>/bench/ as soon as it is done, so that an interrupted run
continues; delete the folder to measure again. Nothing is asserted: the seconds are this machine's,
what counts is their ratios.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from datetime import UTC, datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline import config, environment, files, stages
from pipeline.bench import make, markdown, measure
from pipeline.datasets import dataset as find_dataset
from pipeline.endings import RESUMES
from pipeline.errors import ExternalError

Run = Mapping[str, Any]
Runs = Mapping[str, Sequence[Run]]


def main(dataset: str) -> None:
    """Measure what has not been measured yet, then print the table and draw the picture."""
    folder = stages.ROOT / "data" / find_dataset(dataset, stages.ROOT).name / "bench"
    # `fast`, `sprint` and the notebook are judged on the same rows.
    planned = {
        "sprint": [(0, seed) for seed in range(5)],
        "fast": [(0, seed) for seed in range(3)],
        "default": [(fold, 0) for fold in range(config.load("default").split.folds)],
    }
    for preset in planned:
        make("split", dataset, preset)
    take = partial(measured, folder)
    limits = {
        precision: take(f"limit-{precision}", measure.limit, precision)["flops"]
        for precision in ("float32", "bfloat16")
    }
    runs = {
        preset: [
            take(f"{preset}-{fold}-{seed}", measure.preset, dataset, preset, fold, seed)
            for fold, seed in its
        ]
        for preset, its in planned.items()
    }
    notebook = take("notebook", measure.notebook, dataset, 0)

    products = (f"{name} {flops / 1e9:,.0f} Gflop/s" for name, flops in limits.items())
    text = (
        f"{environment.threads()} cores, {environment.cpu_name()}, {platform.system()}, "
        f"{datetime.now(UTC):%Y-%m-%d}; "
        f"large matrix product: {', '.join(products)}\n\n"
        f"{markdown(tabulate(runs, notebook, limits))}\n"
    )
    print(f"\n{text}")
    (folder / "tables.md").write_text(text, encoding="utf-8")
    draw(folder / "accuracy-against-time.svg", runs, notebook)
    print(f"the same, and a picture: {folder}/")


def measured(
    folder: Path, name: str, measure_it: Callable[..., dict[str, Any]], *arguments: Any
) -> dict[str, Any]:
    """Return what an earlier run measured, or else measure it now in a process of its own."""
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


def tabulate(runs: Runs, notebook: Run, limits: Mapping[str, float]) -> list[dict[str, str]]:
    """Tabulate the presets: accuracy, time, and both relative to the notebook.

    Args:
        runs: for each preset the results of `measure.preset`, one per run.
        notebook: the result of `measure.notebook`.
        limits: operations per second, by precision.
    """
    lines = []
    for name, its in runs.items():
        each, folds = pd.DataFrame(its), name == "default"
        accuracy, seconds = each["final_accuracy"], pd.Series([run["seconds"][-1] for run in its])
        total = seconds.sum() if folds else seconds.median()
        rate = each["images_per_second"].median()
        limit = limits["bfloat16" if "bfloat16" in its[0]["precision"] else "float32"]
        spread = f"{seconds.min():.1f} to {seconds.max():.1f}{' each' if folds else ''}"
        count = f"{len(its)} {'folds' if folds else 'seeds'}"
        lines.append(
            {
                "preset": f"`{name}`",
                "accuracy on held-out digits": (
                    f"{accuracy.mean():.5f}, sd {accuracy.std():.5f} ({count})"
                ),
                "training, s": f"{total:.1f} ({spread})",
                "against the notebook": ratio(notebook, accuracy.mean(), total),
                "images/s": f"{rate:,.0f}",
                "of the matrix limit": f"{rate * its[0]['flops_per_image'] / limit:.0%}",
                "peak memory": f"{each['peak_bytes'].max() / 2**30:.1f} GiB",
            }
        )
    accuracy, epochs = notebook["accuracy"], len(notebook["accuracy"])
    lines.append(
        {
            "preset": "the notebook",
            "accuracy on held-out digits": (
                f"{accuracy[-1]:.5f} at its end, {max(accuracy):.5f} at best"
            ),
            "training, s": f"{notebook['seconds'][-1]:.1f} ({epochs} epochs)",
            "images/s": f"{notebook['images_per_second']:,.0f}",
            "peak memory": f"{notebook['peak_bytes'] / 2**30:.1f} GiB",
        }
    )
    return lines


def draw(path: Path, runs: Runs, notebook: Run) -> None:
    """Draw the accuracy of every run against its seconds, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    # Equal data give equal bytes; the colours suit colour-blind readers.
    plt.rcParams.update({"svg.hashsalt": "digits", "font.size": 11})
    figure, axes = plt.subplots(figsize=(7.5, 4.5), layout="constrained")
    axes.plot(notebook["seconds"], notebook["accuracy"], "o-", c="#666666", label="the notebook")
    for (name, its), colour in zip(runs.items(), ("#E69F00", "#56B4E9", "#009E73"), strict=False):
        for run in its:
            axes.plot(run["seconds"], run["accuracy"], color=colour, alpha=0.6)
        ends = [(run["seconds"][-1], run["final_accuracy"]) for run in its]
        axes.plot(*zip(*ends, strict=True), "D", color=colour, label=name)
    axes.set(
        xscale="log",
        ylim=(0.975, 1.0),
        xlabel="seconds of training (one network)",
        ylabel="accuracy on held-out digits",
    )
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def ratio(notebook: Run, accuracy: float, seconds: float) -> str:
    """Say how much faster than the notebook a preset reaches its accuracy."""
    pairs = zip(notebook["seconds"], notebook["accuracy"], strict=True)
    first = next((at for at, its in pairs if its >= accuracy), None)
    times = (first or notebook["seconds"][-1]) / seconds
    speed = f"{times:.1f}× faster" if times >= 1 else f"{1 / times:.1f}× slower"
    return f"{speed}; the notebook never reaches this accuracy" if first is None else speed
