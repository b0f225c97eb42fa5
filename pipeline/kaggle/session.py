"""What runs on Kaggle: checks the session, trains the folds of a job, and leaves their folders.

The script that `make submit ENGINE=kaggle` pushes unpacks this package and starts this module in
the folder that it unpacked to. The folds are trained as anywhere else, and their folders, with
manifests, are the session's output. Only the standard library is imported at the top: this module
has to be able to say which package is missing.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import endings, files, installed
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import HOME, inside
from pipeline.kaggle.credentials import SETTINGS
from pipeline.task import Task

JOB = "job.json"
# How the session ended, in the output: the "line" and "code" of a command, and whether it is
# "final", because the same job would end like this again.
RESULT = "result.json"
CSVS = ("train", "test", "sample_submission")
ARRAYS = ("train_images", "train_labels", "test_images")
# Folds at a time without GPUs: Kaggle's machines have four cores.
JOBS = 2
# Before Kaggle ends the session, seconds in which to save what is not finished.
MARGIN = 300


def packed(task: Task) -> dict[str, Any]:
    """A fold's task as JSON, with paths relative to the project."""
    reads = {name: path for name, path in task.reads.items() if isinstance(path, Path)}
    return {
        "name": task.name,
        "manifest": task.label(task.manifest),
        "function": task.function,
        "reads": {name: task.label(path) for name, path in reads.items()},
        "writes": {name: task.label(path) for name, path in task.writes.items()},
        "fold": task.fold,
        "params": asdict(task.preset.train),
        "modules": dict(task.modules),
    }


def unpacked(values: Mapping[str, Any], root: Path) -> Task:
    """The task that `packed` described, in the project at `root`."""
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
        preset=Preset(train=train),
        fold=values["fold"],
        params={"fold": values["fold"], "params": train},
        modules=values["modules"],
    )


def output(task: Task) -> Path:
    """The folder of a fold in a session's output, relative to it: "best/fold-0"."""
    return Path(*task.folder.relative_to(task.root).parts[2:])


def run(job: Mapping[str, Any], root: Path) -> None:
    """Train the folds of a job; whatever happens, leave RESULT.

    Args:
        job: what `pipeline.train.kaggle.job` returns.
        root: the folder that the script unpacked to; it has `pipeline/` and the folds' numbers.
    """
    working = inside.KAGGLE / "working"
    folds = [unpacked(values, root) for values in job["folds"]]
    for task in folds:
        place = working / output(task)
        place.mkdir(parents=True)
        task.folder.parent.mkdir(parents=True, exist_ok=True)
        task.folder.symlink_to(place)
    line, code, final, trained = "", 0, False, False
    try:
        _check_packages(root)
        _make_arrays(job, folds)
        if job["gpus"]:
            _check_gpus()
        trained = True  # what is wrong with the job itself shows only now
        _train(folds, None if job["gpus"] else min(JOBS, len(folds)))
    except KeyboardInterrupt:
        line, code = "the session's time was over", 1
        final = not any(task.manifest.exists() for task in folds)
    except Exception as error:
        line, code = endings.ending(error)
        final = trained and code == 2
        if not isinstance(error, UserError | ExternalError):
            traceback.print_exc(file=sys.stdout)
    if line:
        print(line, flush=True)
    result = {"line": line, "code": code, "final": final}
    files.write_json(working / RESULT, result)


def _check_packages(root: Path) -> None:
    lacking, _ = installed.compare(root)
    if lacking:
        raise ExternalError(f"Kaggle's image lacks {', '.join(lacking)}; ENGINE=local trains here")


def _make_arrays(job: Mapping[str, Any], folds: list[Task]) -> None:
    """Turn the attached CSVs into arrays, and compare what the folds read with what they should."""
    attached = inside.competition()
    if attached is None:
        raise UserError(
            "the competition is not attached to the run; accept its rules in a browser: "
            f"{HOME}/rules"
        )
    from pipeline.preprocess import preprocess

    reads: Mapping[str, Any] = folds[0].reads
    for path in reads.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    csvs = {name: attached / f"{name}.csv" for name in CSVS}
    preprocess(**csvs, **{name: reads[name] for name in ARRAYS})
    for name, path in reads.items():
        if files.fingerprint(path) != job["inputs"][name]:
            raise UserError(
                f"{name} here and on Kaggle differ: the files here are not the competition's; "
                "DATASET=kaggle downloads those"
            )


def _check_gpus() -> None:
    from pipeline.backend import tf

    if not tf.config.list_physical_devices("GPU"):
        raise UserError(f"the run has no GPU; verify your phone at {SETTINGS}")


def _train(folds: list[Task], jobs: int | None) -> None:
    from pipeline.train.local import train_here

    train_here(folds, [], False, jobs)


def main() -> None:
    """Run the job in the current folder; stop in time to leave what is not finished."""
    root = Path.cwd()
    job = json.loads((root / JOB).read_text(encoding="utf-8"))
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.alarm(job["seconds"] - min(MARGIN, job["seconds"] // 4))
    os.environ["PYTHONUNBUFFERED"] = "1"  # the folds' processes print to the log
    os.environ["MPLBACKEND"] = "agg"  # Keras imports Matplotlib, here perhaps set up for notebooks
    run(job, root)


if __name__ == "__main__":
    main()
