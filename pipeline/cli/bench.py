"""The commands that compare and measure."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import datasets, stages
from pipeline.cli.options import (
    AcceleratorOption,
    AddressOption,
    ComparedDatasetOption,
    EngineOption,
    JobsOption,
)
from pipeline.train.engines import ACCELERATOR


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    dataset: ComparedDatasetOption = "kaggle",
    jobs: JobsOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    accelerator: AcceleratorOption = ACCELERATOR,
) -> None:
    """Train variants of a preset, and compare them.

    The file names a preset, base = "fast". Below [grid] it lists values of [train] parameters,
    width = [24, 32], of which every combination is trained; each [[variants]] is one more set of
    changes. With seeds = [1, 2], each is trained with these seeds. Nothing is trained twice.
    """
    from pipeline.bench.sweep import run

    run(file, datasets.dataset(dataset, stages.ROOT), jobs, engine, address, accelerator)


def compare(
    first: Annotated[str, typer.Argument(help="A preset's name, or a TOML file.")],
    second: Annotated[str, typer.Argument(help="Another one, with the same [split].")],
    dataset: ComparedDatasetOption = "kaggle",
) -> None:
    """Compare two trained presets on the same rows.

    Prints the difference of their out-of-fold accuracies with its standard error, and the changed
    parameters. The digits that only one gets right go to
    submissions/DATASET-FIRST-against-SECOND.html.
    """
    from pipeline.bench.compare import run

    run(dataset, first, second)


def bench(dataset: ComparedDatasetOption = "kaggle") -> None:
    """Measure the presets; takes about half an hour.

    They are compared with the notebook that everybody forks.
    """
    from pipeline.bench.presets import main

    main(dataset)


def reproduce(
    preset: Annotated[str, typer.Option("--config", help="Only this tutorial's preset.")] = "",
    dataset: Annotated[str, typer.Option(help="Digits instead of the published dataset.")] = "",
) -> None:
    """Train the networks of well-known tutorials.

    Their accuracies are compared with the published ones.
    """
    from pipeline.bench.reproduce import main

    main(preset, dataset)
