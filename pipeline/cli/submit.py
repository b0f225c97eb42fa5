"""The commands that check a CSV, submit it to the competition, and list what was submitted."""

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline import datasets, files, stages
from pipeline.cli.options import DatasetOption, PresetOption
from pipeline.cli.screen import load, print_table
from pipeline.errors import UserError


def check(
    file: Annotated[Path, typer.Argument(help="The CSV to check.", exists=True, dir_okay=False)],
    dataset: Annotated[
        str | None, typer.Option(help="Its dataset, if not the competition.")
    ] = None,
    sample: Annotated[Path | None, typer.Option(help="The sample submission to use.")] = None,
) -> None:
    """Check that the competition would accept a CSV."""
    from pipeline import check

    check.check(file, sample or _sample(file, dataset))


def _sample(file: Path, dataset: str | None) -> Path:
    """Find the sample submission that a CSV is to be checked against.

    Without a dataset, it is that of the one that the manifest beside a CSV of our own names, or
    else the competition's.
    """
    name = datasets.dataset(dataset or "kaggle", stages.ROOT).name
    params = (files.read_json(file.with_suffix(".json")) or {}).get("params")
    if dataset is None and isinstance(params, dict) and isinstance(params.get("dataset"), str):
        name = params["dataset"]
    sample = stages.ROOT / "data" / name / "raw" / "sample_submission.csv"
    if not sample.exists():
        raise UserError(
            f"{os.path.relpath(sample)} is missing; run `make download`, or name the sample "
            "submission with --sample"
        )
    return sample


def submit(
    file: Annotated[
        Path | None,
        typer.Argument(exists=True, dir_okay=False, help="Any CSV, in place of a preset's."),
    ] = None,
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    message: Annotated[str, typer.Option("--message", "-m", help="What is new in it.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Submit this file once more.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 120,
    from_competition: Annotated[
        bool,
        typer.Option(help="Confirm, once, that the files are the competition's own."),
    ] = False,
) -> None:
    """Submit a CSV to the competition; wait for its score.

    It is the one of a preset, or FILE. Nothing is sent twice, and nothing that is known to be made
    from public labels.
    """
    from pipeline import submit
    from pipeline.download.local import unpacked

    if file:
        with unpacked(file) as csv:
            chosen = submit.candidate_file(csv, stages.load(dataset, preset))
            submit.submit(csv, chosen, stages.LEDGER, message, force, wait)
    else:
        graph = load(dataset, preset)
        chosen = submit.candidate(graph, from_competition)
        csv = graph.task("write").writes["submission"]
        submit.submit(csv, chosen, stages.LEDGER, message, force, wait)


def ledger(
    refresh: Annotated[bool, typer.Option("--refresh", help="Look up pending scores.")] = False,
) -> None:
    """List the submissions, best score first."""
    from pipeline.kaggle import ledger

    if refresh:
        from pipeline import submit

        submit.refresh(stages.LEDGER)
    entries = ledger.read(stages.LEDGER)
    if not entries:
        print("nothing has been submitted yet: make submit")
        return
    columns = (
        *("public_score", "oof_accuracy", "oof_standard_error", "status", "dataset", "preset"),
        *("submitted_at", "ref", "message"),
    )
    entries.sort(key=lambda entry: entry.public_score, reverse=True)
    print_table(columns, [[getattr(entry, column) for column in columns] for entry in entries])
