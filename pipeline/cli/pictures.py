"""The commands for your own pictures."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.options import DatasetOption, PresetOption


class Digits(StrEnum):
    """How many digits there are in a picture."""

    one = "one"
    many = "many"


def predict(
    pictures: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...", help="Pictures, or folders of them; - is standard input."
        ),
    ],
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    digits: Annotated[Digits, typer.Option(help="many: several, read line by line.")] = Digits.one,
    csv: Annotated[
        Path | None, typer.Option(help="Write a CSV: file, line, label, probability, remark.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what the networks saw.")] = False,
) -> None:
    """Read digits in scans, photographs and drawings.

    The formats are PNG, JPEG, WebP, GIF, BMP and TIFF. Prints the label and its probability, a
    line a file, and remarks on what is unsure. A file that cannot be read does not stop the others;
    the exit code is then 2.
    """
    from pipeline.predict.files import predict

    graph = stages.load(dataset, preset)
    if not predict(pictures, graph, digits is Digits.many, csv, show):
        raise typer.Exit(2)


def draw(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free port.")] = 8765,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
) -> None:
    """Draw a digit in the browser, and see it predicted.

    The page is served on this machine only, and loads nothing from the network. Ctrl-C ends it.
    """
    from pipeline.predict.draw import draw

    graph = stages.load(dataset, preset)
    draw(graph, port, browser)


def export(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The file; by default submissions/DATASET-CONFIG.keras."),
    ] = None,
) -> None:
    """Write the ensemble as one model for use elsewhere.

    Keras, or an ONNX runtime, loads it without this package. Pixels go in, calibrated
    probabilities come out; pipeline/predict/EXPORT.md has the contract.
    """
    from pipeline.predict.export import export

    graph = stages.load(dataset, preset)
    export(graph, to or graph.task("write").writes["submission"].with_suffix(".keras"))
