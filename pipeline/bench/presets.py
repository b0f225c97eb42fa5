"""`make bench`: the presets against the notebook that everybody forks, on one machine.

Every measurement is kept in data/<dataset>/bench/ as soon as it is done, so that an interrupted run
continues; delete the folder to measure again. Nothing is asserted: the seconds are this machine's,
what counts is their ratios.
"""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import artifacts, config, files, stages
from pipeline.bench import make, tables
from pipeline.datasets import dataset as find_dataset
from pipeline.errors import UserError
from pipeline.stages import Graph

# The number of seeds with which each preset of one network is trained.
SEEDS = {"sprint": 5, "fast": 3}


def main(dataset: str) -> None:
    """Measure what has not been measured yet, then print the tables and draw the pictures."""
    home = stages.ROOT / "data" / find_dataset(dataset).name
    folder, arrays = home / "bench", home / "arrays"
    # The notebook and the presets with one network are judged on the same rows.
    holdout, folds = (
        make("split", dataset, preset).task("split").writes["fold_ids"]
        for preset in ("fast", "default")
    )

    def measured(name: str, *arguments: object) -> dict[str, Any]:
        return _measured(folder / f"{name}.json", [str(argument) for argument in arguments])

    found = {
        "start-up": measured("start-up", "start_up"),
        "parsing": measured("parsing", "parsing", home / "raw"),
        "float32": measured("limit-float32", "limit", "float32"),
        "bfloat16": measured("limit-bfloat16", "limit", "bfloat16"),
    }
    runs = {
        preset: [
            measured(f"{preset}-seed-{seed}", "preset", arrays, holdout, preset, 0, seed)
            for seed in range(seeds)
        ]
        for preset, seeds in SEEDS.items()
    }
    runs["default"] = [
        measured(f"default-fold-{fold}", "preset", arrays, folds, "default", fold, 0)
        for fold in range(config.load("default").split.folds)
    ]
    notebook = measured("notebook", "notebook", arrays, holdout, 0)
    best = _trained(stages.load(dataset, "best"))

    text = "\n\n".join(
        [
            f"{_processor()}, {platform.system()}, {datetime.now(UTC):%Y-%m-%d}",
            tables.presets(runs, notebook, found, best),
            tables.rest(found),
        ]
    )
    print(f"\n{text}")
    (folder / "tables.md").write_text(f"{text}\n", encoding="utf-8")
    tables.draw(folder, runs, notebook, best)
    print(f"\nthe same, and two pictures: {folder}/")


def _measured(path: Path, arguments: list[str]) -> dict[str, Any]:
    """What an earlier run measured, or else a process of its own measures now."""
    known = files.read_json(path)
    if known is not None:
        return known
    print(f"measuring {path.stem}", flush=True)
    command = [sys.executable, "-m", "pipeline.bench.measure", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = ""
        for line in process.stdout:
            if not line.startswith("{"):
                print(f"  {line}", end="", flush=True)
    if process.returncode:
        raise UserError(f"{path.stem} could not be measured; the reason is printed above")
    found: dict[str, Any] = json.loads(line)
    files.write_json(path, found)
    return found


def _trained(graph: Graph) -> dict[str, Any] | None:
    """The estimate and the seconds of a preset that takes too long to be trained here each time."""
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
