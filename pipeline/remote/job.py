"""The job of a script on Kaggle, in JSON: which folds to train, and on which files.

The engine packs it here, the session unpacks it there.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.task import Task

# The job, in the folder that the script unpacks to.
JOB = "job.json"
# How the session ended, in the output: the "line" and "code" of a command, the "folds" trained, and
# whether it is "final", because the same job would end like this again.
RESULT = "result.json"


def job(folds: list[Task], accelerator: str, seconds: int) -> dict[str, Any]:
    """Describe what the session does, which Kaggle ends after `seconds`."""
    return {
        "gpus": accelerator != "none",
        "seconds": seconds,
        "inputs": {name: files.fingerprint(path) for name, path in reads(folds).items()},
        "folds": [packed(task) for task in folds],
    }


def reads(folds: list[Task]) -> dict[str, Path]:
    """Return the files that the folds read, by name: the same for all."""
    assert all(task.reads == folds[0].reads for task in folds)
    return {name: path for name, path in folds[0].reads.items() if isinstance(path, Path)}


def packed(task: Task) -> dict[str, Any]:
    """Describe a fold's task in JSON, with paths relative to the project."""
    return {
        "name": task.name,
        "manifest": task.label(task.manifest),
        "function": task.function,
        **task.names(),
        "preset": task.preset.name,
        "fold": task.fold,
        "params": asdict(task.preset.train),
        "modules": dict(task.modules),
    }


def unpacked(values: Mapping[str, Any], root: Path) -> Task:
    """Return the task that `packed` described, in the project at `root`."""
    from pipeline.config import Preset, Train

    train = Train(**values["params"])
    return Task(
        name=values["name"],
        stage="train",
        root=root,
        manifest=root / values["manifest"],
        function=values["function"],
        reads={name: root / path for name, path in values["reads"].items()},
        writes={name: root / path for name, path in values["writes"].items()},
        preset=Preset(name=values["preset"], train=train),
        fold=values["fold"],
        params={"fold": values["fold"], "params": train},
        modules=values["modules"],
    )


def place(task: Task) -> str:
    """Return the folder of a fold in the session's output: "best/fold-0"."""
    return f"{task.preset.name}/fold-{task.fold}"
