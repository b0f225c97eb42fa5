"""The command that takes the networks elsewhere."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.options import DatasetOption, PresetOption


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
    submission = graph.task("write").writes["submission"]
    target = to or submission.with_suffix(".keras")
    export(graph, target)
