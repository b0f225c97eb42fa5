"""`digits result`: what a run came to, where its files are, and what to do next."""

import csv
import os
from pathlib import Path

from pipeline import artifacts, endings, stages
from pipeline.cli.options import DatasetOption, PresetOption
from pipeline.cli.screen import print_differences
from pipeline.errors import UserError
from pipeline.kaggle import SUBMIT_PAGE, inside
from pipeline.stages import Graph

# An accuracy that ten classes reach by guessing, with some luck.
CHANCE = 0.2


def result(dataset: DatasetOption = "kaggle", preset: PresetOption = "default") -> None:
    """Show a submission's accuracy, its files, and what next.

    Where the labels of the test set are public, they are read only here and in the report, after
    everything has been decided. In a Kaggle notebook, copies the files to its output.
    """
    graph = stages.load(dataset, preset)
    download, write = graph.task("download"), graph.task("write")
    submission, found = write.writes["submission"], artifacts.metadata(write.manifest)
    remedy = graph.command_here("submission")
    if not found:
        raise UserError(f"there is no submission yet: run `{remedy}`")
    if wrong := artifacts.damage(write):
        raise UserError(f"{wrong}; run `{remedy}` to write it again")
    if line := artifacts.first_due(graph.up_to("write")):
        print(f"{line}; this is the result of the earlier run, `{remedy}` brings it up to date")
    print_differences(graph)
    print(
        f"out-of-fold accuracy {found['oof_accuracy']:.5f} ± {found['oof_standard_error']:.5f} "
        f"(one standard error, {found['oof_rows']:,} rows)"
    )
    for remark in found.get("remarks", []):
        print(f"note: {remark}")
    if found["oof_accuracy"] < CHANCE:
        print("this is close to guessing; the lines of `digits train --force` say why")
    if "solution" in download.writes:
        predicted, truth = _labels(submission), _labels(download.writes["solution"])
        right = sum(predicted[image_id] == label for image_id, label in truth.items())
        print(
            f"accuracy on the test set {right / len(truth):.5f} "
            f"({len(truth) - right:,} of {len(truth):,} wrong)"
        )
    page = graph.task("report").writes["page"]
    shown = {"submission": submission, **({"report": page} if page.exists() else {})}
    for what, path in shown.items():
        path = inside.put_out(path) if inside.notebook() else path
        print(f"{what} {os.path.relpath(path, endings.here())}")
    print(f"next: {_next(graph)}")


def _labels(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}


def _next(graph: Graph) -> str:
    """Say what to type next, and what that needs."""
    source = graph.dataset.source
    if source == "kaggle":
        by_hand = f"  (needs internet and a token; or {inside.BY_HAND})" * inside.notebook()
        return f'{graph.command_here("submit")} MESSAGE="my first try"{by_hand}'
    if source == "local":
        download = artifacts.metadata(graph.task("download").manifest)
        confirmed = download.get("from_competition")
        command = graph.command_here("submit") if confirmed else graph.command_to_confirm()
        return (
            f"{command}  (only if the files are the competition's own; needs a Kaggle token, "
            f"or upload the CSV at {SUBMIT_PAGE})"
        )
    command = stages.load("kaggle", "fast").command_here("submission")
    return (
        f"{command}  (the real competition: needs a Kaggle token, or "
        "DATASET=digit-recognizer.zip, downloaded by hand)"
    )
