"""`digits show`: one digit, and the probability of each class."""

from typing import Annotated

import typer

from pipeline.cli.options import DatasetOption, PresetOption
from pipeline.cli.screen import load
from pipeline.datasets import SOURCES
from pipeline.errors import UserError


def show(
    row: Annotated[
        int | None, typer.Argument(min=1, help="The row, counted from 1 as in the report.")
    ] = None,
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    test: Annotated[bool, typer.Option("--test", help="A row of test.csv, not train.csv.")] = False,
) -> None:
    """Show one digit, and the probability of each class.

    Each training row is predicted only by networks that were not trained on it. If no row is given,
    shows the most confident error (with --test, the least confident prediction) and lists others.
    """
    import numpy as np

    from pipeline.predict.picture import drawn

    graph = load(dataset, preset)
    made_of = graph.ensemble()
    preprocess, ensemble = graph.task("preprocess"), graph.task("ensemble")
    images = np.load(preprocess.writes[f"{'test' if test else 'train'}_images"], mmap_mode="r")
    labels = np.load(made_of["train_labels"], mmap_mode="r")
    every = np.load(ensemble.writes["test" if test else "oof"])
    predicted, sure = every.argmax(axis=1), every.max(axis=1)
    rows = np.flatnonzero(~np.isnan(sure))
    kind = "held-out rows"
    if test:
        kind, rows = "least confident predictions", rows[sure[rows].argsort()]
    elif len(errors := rows[predicted[rows] != labels[rows]]):
        kind, rows = "most confident errors", errors[(-sure[errors]).argsort()]
    named = f"{kind}: {', '.join(str(each + 1) for each in rows[:9])}"
    if row is None:
        row = int(rows[0]) + 1
        print(f"row {row}; {named}")
    if row > len(images):
        raise UserError(f"there is no row {row}: there are {len(images):,}; {named}")
    if np.isnan(sure[row - 1]):
        raise UserError(f"no fold holds row {row} out; {named}")
    print("\n".join(drawn(images[row - 1, :, :, 0])))
    truth = None if test else int(labels[row - 1])
    names = SOURCES[graph.dataset.source].class_names
    for label, (name, probability) in enumerate(zip(names, every[row - 1], strict=True)):
        marks = " true" if label == truth else ""
        marks += " predicted" if label == predicted[row - 1] else ""
        print(f"{name:>10} {probability:6.4f} {'█' * round(40 * float(probability))}{marks}")
