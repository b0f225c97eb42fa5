"""`make reproduce`: the networks of well-known tutorials, as published and as measured here."""

from typing import NamedTuple

import numpy as np

from pipeline import artifacts, csvs
from pipeline.bench import make, markdown
from pipeline.errors import UserError
from pipeline.estimate import standard_error
from pipeline.stages import Graph


class Published(NamedTuple):
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
    print(f"\n{markdown(lines)}")


def _lines(name: str, graph: Graph) -> list[dict[str, str]]:
    """Describe the accuracy on the hold-out and, if its labels are public, on the test set."""
    published, download, ensemble = TUTORIALS[name], graph.task("download"), graph.task("ensemble")
    parameters = artifacts.metadata(graph.all("train")[0].manifest)["parameters"]
    metrics = artifacts.metadata(ensemble.manifest)
    theirs = published.held_out
    if theirs is None and "solution" not in download.writes:  # the closest there is
        theirs = published.test
    figures = [("held out", theirs, metrics["oof_accuracy"], metrics["oof_rows"])]
    if "solution" in download.writes:
        _, labels = csvs.read_labels(download.writes["solution"])
        right = np.load(ensemble.writes["test"]).argmax(axis=1) == labels
        figures.append(("test set", published.test, float(right.mean()), len(right)))
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
