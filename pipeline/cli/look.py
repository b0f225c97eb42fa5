"""The commands that show what was made."""

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from pipeline import config, download, show, stages
from pipeline.cli.options import DatasetOption, PresetOption


def status(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again, to find silent corruption.")
    ] = False,
) -> None:
    """Show what is fresh, stale (and why) or missing."""
    show.status(stages.load(dataset, preset), verify)


def watch(dataset: DatasetOption = "kaggle", preset: PresetOption = "default") -> None:
    """Watch the folds train, from a second terminal."""
    import_module("pipeline.watch").watch(stages.load(dataset, preset))


def result(dataset: DatasetOption = "kaggle", preset: PresetOption = "default") -> None:
    """Show a submission's accuracy, its files, and what next."""
    show.result(stages.load(dataset, preset))


def digit(
    row: Annotated[
        int | None, typer.Argument(min=1, help="The row, counted from 1 as in the report.")
    ] = None,
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    test: Annotated[bool, typer.Option("--test", help="A row of test.csv, not train.csv.")] = False,
) -> None:
    """Show one digit, and the probability of each class.

    Without a row, shows the most confident error, and names more.
    """
    show.digit(row, stages.load(dataset, preset), test)


def runs(dataset: DatasetOption = "kaggle") -> None:
    """List the presets trained on a dataset, best first."""
    show.runs(download.dataset(dataset), stages.LEDGER)


def ledger(
    refresh: Annotated[bool, typer.Option("--refresh", help="Look up pending scores.")] = False,
) -> None:
    """List the submissions, best score first."""
    if refresh:
        import_module("pipeline.submit").refresh(stages.LEDGER)
    show.submissions(stages.LEDGER)


def parameters(
    preset: Annotated[
        str | None, typer.Option("--config", help="A preset's name, or a TOML file.")
    ] = None,
) -> None:
    """Show a preset's parameters, their meaning and range.

    * marks what is not default. What a preset inherits (base = "fast") is marked with its origin.
    Without --config, shows the defaults, and lists the presets.
    """
    word = preset or "default"
    show.parameters(config.load(word), config.origins(word))
    if preset is None:
        show.presets()


def check(
    file: Annotated[Path, typer.Argument(help="The CSV to check.", exists=True, dir_okay=False)],
    dataset: Annotated[
        str | None, typer.Option(help="Its dataset, if not the competition.")
    ] = None,
    sample: Annotated[Path | None, typer.Option(help="The sample submission to use.")] = None,
) -> None:
    """Check that the competition would accept a CSV."""
    import_module("pipeline.write").check(file, sample or show.sample_submission(file, dataset))
