"""`make bench`: the presets beside the notebook that everybody forks, on one machine.

Every measurement is kept in data/<dataset>/bench/ as soon as it is done, so that a run that was
stopped goes on; delete the folder to measure anew. Nothing is asserted: the seconds are this
machine's, what counts is their ratios.
"""

import json
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import artifacts, config, stages
from pipeline.bench import tables
from pipeline.errors import UserError, one_line

# How often each preset that trains one network is trained, each time with another seed.
SEEDS = {"sprint": 5, "fast": 3}


def main(dataset: str) -> None:
    """Measure what is not measured yet, then print the tables and draw the pictures."""
    data = stages.dataset(dataset)
    home = stages.ROOT / "data" / data.name
    folder = home / "bench"
    # The notebook and the presets of one network are judged on the same rows.
    holdout, folds = (_split(dataset, preset) for preset in ("fast", "default"))

    def measured(name: str, *arguments: object) -> dict[str, Any]:
        return _measured(folder / f"{name}.json", [str(argument) for argument in arguments])

    found = {
        "start-up": measured("start-up", "start_up"),
        "parsing": measured("parsing", "parsing", home / "raw"),
        "float32": measured("limit-float32", "limit", "float32"),
        "bfloat16": measured("limit-bfloat16", "limit", "bfloat16"),
    }
    tensors = home / "tensors"
    runs = {
        preset: [
            measured(f"{preset}-seed-{seed}", "preset", tensors, holdout, preset, 0, seed)
            for seed in range(seeds)
        ]
        for preset, seeds in SEEDS.items()
    }
    runs["default"] = [
        measured(f"default-fold-{fold}", "preset", tensors, folds, "default", fold, 0)
        for fold in range(config.load("default").split.folds)
    ]
    notebook = measured("notebook", "notebook", tensors, holdout, 0)
    best = _trained(data, "best")

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


def _split(dataset: str, preset: str) -> Path:
    """The file of a preset's fold ids, made if need be."""
    for stage in ("download", "preprocess", "split"):
        command = ["-m", "pipeline", stage, "--dataset", dataset, "--config", preset, "--if-stale"]
        if subprocess.run([sys.executable, *command], check=False).returncode:
            raise UserError(f"there is no data to measure on: {stage} failed")
    steps = stages.steps(stages.dataset(dataset), config.load(preset))
    return stages.named(steps, "split").outputs[0]


def _measured(path: Path, arguments: list[str]) -> dict[str, Any]:
    """What an earlier run measured, else what a process of its own measures now."""
    known = artifacts.read_json(path)
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
        raise UserError(f"{path.stem} could not be measured; the reason stands above")
    found: dict[str, Any] = json.loads(line)
    artifacts.write_json(path, found)
    return found


def _trained(data: stages.Dataset, preset: str) -> dict[str, Any] | None:
    """The estimate and the time of a preset that takes too long to be trained here each time."""
    steps = stages.steps(data, config.load(preset))
    with artifacts.stat_cache(stages.ROOT) as cache:
        reasons = artifacts.staleness(steps, cache)
    if any(reasons[step.name] for step in steps if step.stage in ("train", "ensemble")):
        print(f"{preset} is not trained, and takes too long to be measured here; left out")
        return None
    manifests = [artifacts.read_manifest(step) for step in steps]
    facts = [(m or {})["facts"] for m in manifests]
    trainings = [f for step, f in zip(steps, facts, strict=True) if step.stage == "train"]
    ensemble = next(f for step, f in zip(steps, facts, strict=True) if step.stage == "ensemble")
    return {**ensemble, "seconds": sum(sum(f["epoch_seconds"]) for f in trainings)}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} cores of {names[0]}" if names else platform.processor()


if __name__ == "__main__":
    with one_line():
        main(*sys.argv[1:])
