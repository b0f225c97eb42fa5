"""What a run came to, in a few lines: the estimate, the score where the answers are known.

`python -m pipeline.result DATASET CONFIG` prints them. `make` calls it each time, so that it keeps
to the standard library, as `plan.py` does.
"""

import csv
import os
import sys
from pathlib import Path

from pipeline import config, stages
from pipeline.artifacts import read_manifest
from pipeline.errors import UserError, one_line


def result(dataset: str, preset: str) -> str:
    """The lines that close a run.

    The answers to the test set are read here only after everything is decided.

    Args:
        dataset: as the user gave it.
        preset: as the user gave it.

    Raises:
        UserError: there is no submission yet.
    """
    steps = stages.steps(stages.dataset(dataset), config.load(preset))
    write, raw, page = (stages.named(steps, stage) for stage in ("write", "download", "report"))
    manifest, submission = read_manifest(write), write.outputs[0]
    if manifest is None or not submission.exists():
        raise UserError("there is no submission yet: run `make submission`")
    facts = manifest["facts"]
    lines = [
        f"out-of-fold accuracy {facts['oof_accuracy']:.5f} ± {facts['oof_standard_error']:.5f} "
        f"(one standard error, {facts['oof_rows']:,} rows)"
    ]
    solution = raw.manifest.parent / "solution.csv"
    if solution in raw.outputs:
        predicted, truth = _labels(submission), _labels(solution)
        right = sum(predicted[image_id] == label for image_id, label in truth.items())
        lines.append(
            f"accuracy on the test set {right / len(truth):.5f} "
            f"({len(truth) - right:,} of {len(truth):,} wrong)"
        )
    lines.append(f"submission {os.path.relpath(submission)}")
    if read_manifest(page) and page.outputs[0].exists():
        lines.append(f"report {os.path.relpath(page.outputs[0])}")
    again = "" if preset == "default" else f" CONFIG={preset}"
    source = raw.params["source"]
    if source == "kaggle":
        lines.append(f'next: make submit{again} MESSAGE="my first try"')
    elif source == "local":
        lines.append(
            f"next: make submit DATASET={dataset}{again}  (only if the files are the "
            "competition's own)"
        )
    else:
        lines.append(
            "next: make submission CONFIG=fast  (the real competition: needs a Kaggle token, or "
            "DATASET=digit-recognizer.zip, downloaded by hand)"
        )
    return "\n".join(lines)


def _labels(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}


if __name__ == "__main__":
    with one_line():
        print(result(*sys.argv[1:]))
