"""Variants of a preset, trained on the same folds and compared out of fold.

A sweep is a TOML file: `base` names a preset; `[grid]` lists values of [train] parameters, of which
every combination is trained; each `[[variants]]` is one more set of changes. With `seeds`, the base
and every variant are trained once with each of them.
"""

import dataclasses
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, config, stages
from pipeline.bench import paired
from pipeline.config import Preset
from pipeline.datasets import Dataset
from pipeline.ensemble import gather
from pipeline.errors import UserError
from pipeline.estimate import apply_out_of_fold
from pipeline.stages import Graph
from pipeline.task import Task
from pipeline.train.engines import Engine, train_folds


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file.

    Attributes:
        base: the preset that varies.
        arms: the presets to train for each arm, one per seed, by the arm's name; "base", the base
            itself, comes first.
    """

    base: Preset
    arms: dict[str, list[Preset]]


def load(path: Path) -> Sweep:
    """Read a sweep file.

    Raises:
        UserError: something in the file is missing, unknown, out of range or listed twice.
    """
    tables = config.read_toml(path)
    for key in tables.keys() - {"base", "seeds", "grid", "variants"}:
        raise UserError(
            f"{path}: unknown key {key}; a sweep has base, seeds, [grid] and [[variants]]"
        )
    word = tables.get("base")
    if not isinstance(word, str):
        raise UserError(f'{path}: base must name a preset: base = "fast"')
    base = config.load_named(word, path, "base")
    if base.ensemble.members:
        raise UserError(f"{path}: base: {word} is an ensemble of presets; name one of them")
    seeds = tables.get("seeds", [base.train.seed])
    if not isinstance(seeds, list) or not seeds or {type(seed) for seed in seeds} != {int}:
        raise UserError(f"{path}: seeds must be a list of whole numbers: seeds = [1, 2]")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds: one is listed twice")

    def arm(changes: dict[str, Any]) -> list[Preset]:
        presets = []
        for seed in seeds:
            varied = changes if seed == base.train.seed else {**changes, "seed": seed}
            name = ",".join(f"{key}={value}" for key, value in varied.items())
            full = f"sweeps/{path.stem}/{name}"
            presets.append(config.variant(base, full, varied, str(path)) if varied else base)
        return presets

    parameters = {field.name for field in dataclasses.fields(config.Train)}
    arms = {"base": arm({})}
    for changes in _grid(tables.get("grid", {}), path) + _listed(tables.get("variants", []), path):
        for key in changes.keys() - parameters:
            near = config.nearest(key, parameters)
            raise UserError(
                f"{path}: {key} is not a parameter of [train], which is what a sweep varies{near}"
            )
        if "seed" in changes and "seeds" in tables:
            raise UserError(f"{path}: seed varies twice; leave it to seeds")
        name = ",".join(f"{key}={value}" for key, value in changes.items())
        if name in arms:
            raise UserError(f"{path}: {name} is listed twice")
        arms[name] = arm(changes)
    if len(arms) == 1:
        raise UserError(f"{path}: nothing varies; add [grid] or [[variants]] with keys of [train]")
    return Sweep(base, arms)


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


def run(
    path: Path,
    data: Dataset,
    jobs: int | None,
    engine: Engine,
    address: str | None,
    accelerator: str,
) -> None:
    """Train the arms of a sweep that are due, and print the comparison.

    Args:
        path: the sweep's TOML file.
        data: the dataset.
        jobs: how many folds are trained on one machine at a time.
        engine: see `engines.train_folds`, also for what follows.
        address: of a Ray cluster.
        accelerator: what a fold needs on a cluster.

    Raises:
        UserError: something in the file is wrong, or the split has not been made yet.
    """
    sweep = load(path)
    base = stages.graph(data, sweep.base)
    shared = base.up_to("split")
    artifacts.require_fresh(shared, base.command_here("split"))
    folds = {
        name: [stages.graph(data, preset).all("train") for preset in presets]
        for name, presets in sweep.arms.items()
    }
    every = [
        # Only the base's own folds lack the preset in their name.
        dataclasses.replace(task, name=f"train {name} fold {task.params['fold']}")
        if name == "base" and preset is sweep.base
        else task
        for name, runs in folds.items()
        for preset, tasks in zip(sweep.arms[name], runs, strict=True)
        for task in tasks
    ]
    train_folds(every, shared + every, False, jobs, engine, address, accelerator)
    print_comparison(base, folds)


def print_comparison(base: Graph, arms: dict[str, list[list[Task]]]) -> None:
    """Print the comparison of the arms with the first of them.

    Args:
        base: the graph of the base.
        arms: for each arm and seed the folds, all of which are trained.
    """
    labels = np.load(base.task("preprocess").writes["train_labels"])
    fold_ids = np.load(base.task("split").writes["fold_ids"])
    rows, first = {}, None
    for name, runs in arms.items():
        oof = [gather([task.writes["oof"] for task in tasks], fold_ids) for tasks in runs]
        calibrated = [apply_out_of_fold(its, labels, fold_ids) for its in oof]
        its = paired.measure(calibrated, labels, fold_ids)
        manifests = [artifacts.metadata(task.manifest) for tasks in runs for task in tasks]
        seconds = sum(sum(each.get("epoch_seconds", [])) for each in manifests)
        row = [f"{its.accuracy:.5f}", f"{its.error:.5f}", f"{its.wrong:g}"]
        row += [f"{its.loss.mean():.5f}", f"{seconds:.0f} s"]
        if first is None:
            first = its
            rows[name] = [*row, "", "", ""]
        else:
            gain = paired.difference(its, first)
            row += [f"{gain.accuracy:+.5f}", f"{gain.uncertainty:.5f}"]
            rows[name] = [*row, f"{gain.lower} of {base.preset.split.folds}"]
    columns = ["out of fold", "±", "wrong", "loss", "training"]
    columns += [f"against {base.preset.name}", "±", "loss lower in"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    print(table.rename_axis(columns="variant").to_string())
    seeds = len(next(iter(arms.values())))
    means = f"; means of {seeds} seeds" if seeds > 1 else ""
    print(
        f"{int((fold_ids >= 0).sum()):,} rows{means}; ±: one standard error, of a difference from "
        "the differences of the rows"
    )
    print("loss: in nats, at a temperature fitted on the other folds; training: of all folds")
