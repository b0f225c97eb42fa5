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
from pathlib import Path
from typing import Any

from pipeline import endings, files, installed
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import HOME, inside
from pipeline.kaggle.credentials import SETTINGS
from pipeline.remote.job import JOB, RESULT, place, reads, unpacked
from pipeline.task import Task

CSVS = ("train", "test", "sample_submission")
ARRAYS = ("train_images", "train_labels", "test_images")
# Folds at a time without GPUs: Kaggle's machines have four cores.
JOBS = 2
# Before Kaggle ends the session, seconds in which to save what is not finished.
MARGIN = 300


def run(job: Mapping[str, Any], root: Path) -> None:
    """Train the folds of a job in the folder that the script unpacked to; always leave RESULT."""
    working = inside.KAGGLE / "working"
    folds = [unpacked(values, root) for values in job["folds"]]
    for task in folds:
        folder = working / place(task)
        folder.mkdir(parents=True)
        task.folder.parent.mkdir(parents=True, exist_ok=True)
        task.folder.symlink_to(folder)
    line, code, final, checked = "", 0, False, False
    try:
        _check(job, folds, root)
        checked = True  # what is wrong with the job itself shows only now
        from pipeline.train.local import train_here

        train_here(folds, [], False, None if job["gpus"] else min(JOBS, len(folds)))
    except KeyboardInterrupt:
        line, code = "the session's time was over", 1
        final = not any(task.manifest.exists() for task in folds)
    except Exception as error:
        line, code = endings.ending(error)
        final = checked and code == 2
        if not isinstance(error, UserError | ExternalError):
            traceback.print_exc(file=sys.stdout)
    if line:
        print(line, flush=True)
    trained = [place(task) for task in folds if task.manifest.exists()]
    result = {"line": line, "code": code, "folds": trained, "final": final}
    files.write_json(working / RESULT, result)


def _check(job: Mapping[str, Any], folds: list[Task], root: Path) -> None:
    """Check the packages, turn the attached CSVs into arrays, compare these, look for a GPU."""
    lacking, _ = installed.compare(root)
    if lacking:
        raise ExternalError(f"Kaggle's image lacks {', '.join(lacking)}; ENGINE=local trains here")
    attached = inside.competition()
    if attached is None:
        raise UserError(
            "the competition is not attached to the run; accept its rules in a browser: "
            f"{HOME}/rules"
        )
    from pipeline.preprocess import preprocess

    paths = reads(folds)
    paths[ARRAYS[0]].parent.mkdir(parents=True, exist_ok=True)
    csvs = {name: attached / f"{name}.csv" for name in CSVS}
    preprocess(**csvs, **{name: paths[name] for name in ARRAYS})
    for name, path in paths.items():
        if files.fingerprint(path) != job["inputs"][name]:
            raise UserError(
                f"{name} here and on Kaggle differ: the files here are not the competition's; "
                "DATASET=kaggle downloads those"
            )
    if job["gpus"]:
        from pipeline.backend import tf

        if not tf.config.list_physical_devices("GPU"):
            raise UserError(f"the run has no GPU; verify your phone at {SETTINGS}")


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
