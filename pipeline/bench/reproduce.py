"""`make reproduce`: the networks of well-known tutorials, as published and as measured here."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import artifacts, csvs
from pipeline.bench import make, tables
from pipeline.errors import UserError
from pipeline.estimate import standard_error
from pipeline.stages import Graph


@dataclass(frozen=True)
class Published:
    """The accuracy that a tutorial reports on the hold-out and on the test set of its dataset."""

    dataset: str
    held_out: float | None
    test: float | None


TUTORIALS = {
    "mlp": Published("mnist", None, 0.9775),
    "cnn-5x5": Published("mnist", None, 0.9897),
    "cnn-batchnorm": Published("mnist", None, 0.9866),
    "cnn-batchnorm-rotated": Published("mnist", None, 0.9860),
    "cnn-fashion": Published("fashion", 0.9137, 0.9073),
    "notebook": Published("kaggle", 0.9919, None),
}


def main(preset: str, dataset: str) -> None:
    """Train what has not been trained yet, then print the table.

    Args:
        preset: one of TUTORIALS, or "" for all.
        dataset: digits to use instead of the published dataset, or "". With all tutorials, the one
            on Fashion-MNIST keeps its own.

    Raises:
        UserError: there is no such tutorial, or a stage failed.
    """
    if preset and preset not in TUTORIALS:
        raise UserError(f"there is no tutorial {preset!r}; choose from {', '.join(TUTORIALS)}")
    chosen = [preset] if preset else list(TUTORIALS)
    places = {name: TUTORIALS[name].dataset for name in chosen}
    if dataset:
        places |= {name: dataset for name in chosen if preset or places[name] != "fashion"}
    lines = []
    for name, place in places.items():
        print(f"--- {name} on {place}", flush=True)
        lines += _lines(name, make("ensemble", place, name))
    print(f"\n{tables.markdown(pd.DataFrame(lines))}")


def _lines(name: str, graph: Graph) -> list[dict[str, str]]:
    """Describe the accuracy on the hold-out and, if its labels are public, on the test set."""
    published, download, ensemble = TUTORIALS[name], graph.task("download"), graph.task("ensemble")
    parameters = artifacts.metadata(graph.all("train")[0].manifest)["parameters"]
    metrics = artifacts.metadata(ensemble.manifest)
    held_out = ("held out", published.held_out, metrics["oof_accuracy"], metrics["oof_rows"])
    figures = [held_out]
    if "solution" in download.writes:
        test = np.load(ensemble.writes["test"])
        _, labels = csvs.read_labels(download.writes["solution"])
        right = test.argmax(axis=1) == labels
        figures.append(("test set", published.test, float(right.mean()), len(right)))
    elif published.held_out is None:  # the hold-out is the closest there is
        figures = [("held out", published.test, *held_out[2:])]
    return [
        {
            "preset": f"`{name}`",
            "data": f"{graph.dataset.name}, {what} ({rows:,})",
            "parameters": f"{parameters:,}",
            "published": "" if theirs is None else f"{theirs:.4f} on {published.dataset}",
            "reached": f"{ours:.4f} ± {standard_error(ours, rows):.4f}",
        }
        for what, theirs, ours, rows in figures
    ]
