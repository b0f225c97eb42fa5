"""`make reproduce`: the networks of well-known tutorials, as published and as reached here."""

import math
import subprocess
import sys
from dataclasses import dataclass

import numpy as np

from pipeline import artifacts, config, csvs, stages
from pipeline.ensemble import standard_error
from pipeline.errors import UserError, one_line


@dataclass(frozen=True)
class Published:
    """What a tutorial reports: on which dataset, on the hold-out and on the test set."""

    dataset: str
    held_out: float | None
    test: float | None


# Of MNIST and of Fashion-MNIST alike.
TEST_ROWS = 10_000
TUTORIALS = {
    "mlp": Published("mnist", None, 0.9775),
    "cnn-5x5": Published("mnist", None, 0.9897),
    "cnn-batchnorm": Published("mnist", None, 0.9866),
    "cnn-batchnorm-rotated": Published("mnist", None, 0.9860),
    "cnn-fashion": Published("fashion", 0.9137, 0.9073),
    "notebook": Published("kaggle", 0.9919, None),
}


def main(preset: str, dataset: str) -> None:
    """Train what is not trained yet, then print the table.

    Args:
        preset: one of TUTORIALS, or "" for all.
        dataset: digits in place of the published ones; "" for those. With all tutorials, the one
            on Fashion-MNIST stays with that.
    """
    if preset and preset not in TUTORIALS:
        raise UserError(f"nothing was published as {preset}; there are {', '.join(TUTORIALS)}")
    chosen = [preset] if preset else list(TUTORIALS)
    places = {name: TUTORIALS[name].dataset for name in chosen}
    if dataset:
        places |= {name: dataset for name in chosen if preset or places[name] != "fashion"}
    for name, place in places.items():
        print(f"--- {name} on {place}", flush=True)
        for stage in ("download", "preprocess", "split", "train", "ensemble"):
            command = [sys.executable, "-m", "pipeline", stage, "--dataset", place]
            command += ["--config", name, "--if-stale"]
            if subprocess.run(command, check=False).returncode:  # noqa: S603
                raise UserError(f"{name} was not reproduced: {stage} failed")
    print("\n| preset | data | parameters | published | reached | |\n|---|---|---|---|---|---|")
    for name, place in places.items():
        for line in _rows(name, place):
            print(line)


def _rows(name: str, place: str) -> list[str]:
    """A line of the table for the hold-out and, where its labels are known, the test set."""
    published, data = TUTORIALS[name], stages.dataset(place)
    steps = stages.steps(data, config.load(name))
    facts = {
        stage: (artifacts.read_manifest(stages.named(steps, stage)) or {})["facts"]
        for stage in ("train", "ensemble")
    }
    its = facts["ensemble"]
    figures = [("held out", published.held_out, its["oof_accuracy"], its["oof_rows"])]
    solution = steps[0].manifest.parent / "solution.csv"
    if solution in steps[0].outputs:
        test = np.load(stages.named(steps, "ensemble").outputs[1])
        _, labels = csvs.read_labels(solution)
        right = test.argmax(axis=1) == labels
        figures.append(("test set", published.test, float(right.mean()), len(right)))
    elif published.held_out is None:  # then the hold-out is the nearest thing there is
        figures = [("held out", published.test, its["oof_accuracy"], its["oof_rows"])]
    lines = []
    for what, theirs, ours, rows in figures:
        cells = (
            f"`{name}`",
            f"{data.name}, {what} ({rows:,})",
            f"{facts['train']['parameters']:,}",
            "" if theirs is None else f"{theirs:.4f}",
            f"{ours:.4f} ± {standard_error(ours, rows):.4f}",
            verdict(
                theirs,
                ours,
                rows,
                TEST_ROWS if theirs == published.test else rows,
                place == published.dataset,
            ),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def verdict(
    published: float | None, reached: float, rows: int, published_rows: int, same_data: bool
) -> str:
    """How a figure compares with a published one; each has the error of the rows it rests on."""
    if published is None:
        return ""
    error = math.hypot(standard_error(reached, rows), standard_error(published, published_rows))
    if reached >= published:
        said = "better"
    elif published - reached <= 2 * error:
        said = "within two standard errors"
    else:
        said = f"{(published - reached) / error:.1f} standard errors below"
    return said if same_data else f"{said}, on other data"


if __name__ == "__main__":
    with one_line():
        main(*sys.argv[1:])
