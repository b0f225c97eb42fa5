"""Variants of a preset, trained on the same folds and compared out of fold.

A sweep is a TOML file: `base` names a preset; `[grid]` lists values of [train] parameters, of which
every combination is trained; each `[[variants]]` is one more set of changes.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts, config, show, stages
from pipeline.artifacts import Task
from pipeline.config import Preset
from pipeline.download import Dataset
from pipeline.errors import UserError
from pipeline.probabilities import standard_error
from pipeline.stages import Graph
from pipeline.train.engines import Engine, train_folds


@dataclass(frozen=True)
class Row:
    """What one variant achieved on the rows that its folds held out.

    Attributes:
        name: of the variant; "base" is the preset itself.
        accuracy: on all held-out rows.
        error: its standard error.
        seconds: the training time of all folds.
        difference: from the base's accuracy, on the same rows.
        uncertainty: the standard error of the difference.
    """

    name: str
    accuracy: float
    error: float
    seconds: float
    difference: float
    uncertainty: float


def load(path: Path) -> tuple[Preset, list[Preset]]:
    """The base of a sweep, and its variants.

    Raises:
        UserError: something in the file is missing, unknown, out of range or listed twice.
    """
    tables = config.read_toml(path)
    for key in tables.keys() - {"base", "grid", "variants"}:
        raise UserError(f"{path}: unknown key {key}; a sweep has base, [grid] and [[variants]]")
    word = tables.get("base")
    if not isinstance(word, str):
        raise UserError(f'{path}: base must name a preset: base = "fast"')
    base = config.load_named(word, path, "base")
    if base.ensemble.members:
        raise UserError(f"{path}: base: {word} is an ensemble of presets; name one of them")
    parameters = {field.name for field in dataclasses.fields(config.Train)}
    variants: list[Preset] = []
    for changes in _grid(tables.get("grid", {}), path) + _listed(tables.get("variants", []), path):
        for key in changes.keys() - parameters:
            near = config.nearest(key, parameters)
            raise UserError(
                f"{path}: {key} is not a parameter of [train], which is what a sweep varies{near}"
            )
        name = ",".join(f"{key}={value}" for key, value in changes.items())
        full = f"sweeps/{path.stem}/{name}"
        if full in {variant.name for variant in variants}:
            raise UserError(f"{path}: {name} is listed twice")
        variants.append(config.variant(base, full, changes, str(path)))
    if not variants:
        raise UserError(f"{path}: nothing varies; add [grid] or [[variants]] with keys of [train]")
    return base, variants


def _grid(table: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(v, list) and v for v in table.values()):
        raise UserError(f"{path}: [grid] must give each key a list: width = [24, 32]")
    if not table:
        return []
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


def _listed(tables: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(tables, list) or not all(isinstance(t, dict) and t for t in tables):
        raise UserError(f"{path}: variants must be tables: [[variants]], with keys below")
    return tables


def run(path: Path, data: Dataset, jobs: int | None, engine: Engine, address: str | None) -> None:
    """Train the variants of a sweep that are due, and print the comparison.

    Args:
        path: the sweep's TOML file.
        data: the dataset.
        jobs: how many folds are trained on one machine at a time (see `engines.train_folds`).
        engine: see `engines.train_folds`, also for `address`.
        address: of a Ray cluster.

    Raises:
        UserError: something in the file is wrong, or the split has not been made yet.
    """
    base, variants = load(path)
    graphs = {"base": stages.graph(data, base)}
    graphs |= {Path(variant.name).name: stages.graph(data, variant) for variant in variants}
    shared = graphs["base"].up_to("split")
    artifacts.require_fresh(shared, graphs["base"].command("split"))
    folds = {name: graph.all("train") for name, graph in graphs.items()}
    every = [task for tasks in folds.values() for task in tasks]
    train_folds(every, shared + every, jobs=jobs, engine=engine, address=address)
    print_comparison(graphs["base"], folds)


def compare(
    variants: dict[str, list[Task]], labels: NDArray[np.uint8], fold_ids: NDArray[np.int8]
) -> list[Row]:
    """Compare the variants with the base.

    Args:
        variants: the trained folds of each variant, by its name; the base comes first.
        labels: of the training rows, uint8 (n,).
        fold_ids: the fold that holds out each row, int8 (n,).

    Returns:
        A row for each variant. The uncertainty of a difference comes from its variation over the
        folds if there are several: each differs in rows and random numbers. With one fold it comes
        from the rows alone, and leaves out the variation from run to run.
    """
    rows = []
    base: list[NDArray[np.float64]] = []
    for name, tasks in variants.items():
        right = [_right(task, labels, fold_ids) for task in tasks]
        base = base or right
        every, gain = np.concatenate(right), np.concatenate(right) - np.concatenate(base)
        of_folds = [(mine - its).mean() for mine, its in zip(right, base, strict=True)]
        spread = of_folds if len(of_folds) > 1 else gain
        metadata = [artifacts.metadata(task.manifest) for task in tasks]
        rows.append(
            Row(
                name=name,
                accuracy=float(every.mean()),
                error=standard_error(float(every.mean()), len(every)),
                seconds=sum(sum(each.get("epoch_seconds", [])) for each in metadata),
                difference=float(gain.mean()),
                uncertainty=float(np.std(spread, ddof=1) / math.sqrt(len(spread))),
            )
        )
    return rows


def print_comparison(base: Graph, variants: dict[str, list[Task]]) -> None:
    """Print the comparison of the variants, all of whose folds are trained."""
    labels = np.load(base.task("preprocess").writes["train_labels"])
    fold_ids = np.load(base.task("split").writes["fold_ids"])
    rows = []
    for row in compare(variants, labels, fold_ids):
        cells = [row.name, f"{row.accuracy:.5f}", f"{row.error:.5f}", f"{row.seconds:.0f} s"]
        if row.name != "base":
            cells += [f"{row.difference:+.5f}", f"{row.uncertainty:.5f}"]
        rows.append(cells)
    columns = ("variant", "out of fold", "±", "training", f"against {base.preset.name}", "±")
    show.print_table(columns, rows)
    units = "the folds" if base.preset.split.folds > 1 else "the rows"
    print(f"±: one standard error; that of a difference comes from its variation over {units}")


def _right(
    task: Task, labels: NDArray[np.uint8], fold_ids: NDArray[np.int8]
) -> NDArray[np.float64]:
    """1 for each held-out row of a fold that is predicted correctly, 0 for the others."""
    probabilities = np.load(task.writes["oof"])
    held_out = labels[fold_ids == task.params["fold"]]
    return np.asarray(probabilities.argmax(axis=1) == held_out, dtype=np.float64)
