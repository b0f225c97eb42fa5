"""Variants of a preset, trained on the same folds and compared out of fold.

README.md describes the TOML file of a sweep.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pipeline import artifacts, config, stages
from pipeline.bench import paired
from pipeline.config import Preset
from pipeline.datasets import Dataset
from pipeline.errors import UserError
from pipeline.estimate import apply_out_of_fold, gather
from pipeline.stages import Graph
from pipeline.task import Task
from pipeline.train.engines import Engine, train_folds


@dataclass(frozen=True)
class Sweep:
    """The content of a sweep file."""

    base: Preset  # the preset that varies
    arms: dict[str, list[Preset]]  # by name, "base" first: the presets to train, one per seed


def load(path: Path) -> Sweep:
    """Read a sweep file; raise UserError if something in it is missing, wrong or listed twice."""
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
            full = f"sweeps/{path.stem}/{_name(varied)}"
            presets.append(config.variant(base, full, varied, str(path)) if varied else base)
        return presets

    parameters = {field.name for field in dataclasses.fields(config.Train)}
    arms = {"base": arm({})}
    for changes in _changes(tables, path):
        for key in changes.keys() - parameters:
            near = config.nearest(key, parameters)
            raise UserError(
                f"{path}: {key} is not a parameter of [train], which is what a sweep varies{near}"
            )
        if "seed" in changes and "seeds" in tables:
            raise UserError(f"{path}: seed varies twice; leave it to seeds")
        if _name(changes) in arms:
            raise UserError(f"{path}: {_name(changes)} is listed twice")
        arms[_name(changes)] = arm(changes)
    if len(arms) == 1:
        raise UserError(f"{path}: nothing varies; add [grid] or [[variants]] with keys of [train]")
    return Sweep(base, arms)


def _name(changes: Mapping[str, Any]) -> str:
    return ",".join(f"{key}={value}" for key, value in changes.items())


def _changes(tables: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """List the changes of each variant: every combination of [grid], then each of [[variants]]."""
    grid, variants = tables.get("grid", {}), tables.get("variants", [])
    if not isinstance(grid, dict) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{path}: [grid] must give each key a list: width = [24, 32]")
    if not isinstance(variants, list) or not all(isinstance(t, dict) and t for t in variants):
        raise UserError(f"{path}: variants must be tables: [[variants]], with keys below")
    combinations = itertools.product(*grid.values()) if grid else []
    return [dict(zip(grid, values, strict=True)) for values in combinations] + variants


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
        jobs: see `engines.train_folds`, also for the others.
        engine: where the folds are trained.
        address: of a Ray cluster.
        accelerator: what a fold needs there.
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
        # The base's own folds say whose they are, too.
        dataclasses.replace(task, name=f"train {Path(task.preset.name).name} fold {task.fold}")
        for runs in folds.values()
        for tasks in runs
        for task in tasks
    ]
    train_folds(every, shared + every, False, jobs, engine, address, accelerator)
    print_comparison(base, folds)


def print_comparison(base: Graph, arms: dict[str, list[list[Task]]]) -> None:
    """Print the comparison of the arms with the base.

    Args:
        base: the graph of the base.
        arms: for each arm and seed the folds, all of which are trained; "base" comes first.
    """
    labels = np.load(base.task("preprocess").writes["train_labels"])
    fold_ids = np.load(base.task("split").writes["fold_ids"])
    measured, rows = dict[str, paired.Measured](), {}
    for name, runs in arms.items():
        oof = [gather([task.writes["oof"] for task in tasks], fold_ids) for tasks in runs]
        calibrated = [apply_out_of_fold(its, labels, fold_ids) for its in oof]
        measured[name] = paired.measure(calibrated, labels, fold_ids)
        manifests = [artifacts.metadata(task.manifest) for tasks in runs for task in tasks]
        seconds = sum(sum(each.get("epoch_seconds", [])) for each in manifests)
        rows[name] = measured[name].columns() | {"training": f"{seconds:.0f} s"}
        if name != "base":
            gain = paired.difference(measured[name], measured["base"])
            rows[name] |= {
                f"against {base.preset.name}": f"{gain.accuracy:+.5f} ± {gain.uncertainty:.5f}",
                "loss lower in": f"{gain.lower} of {base.preset.split.folds}",
            }
    table = pd.DataFrame.from_dict(rows, orient="index").fillna("")
    print(table.rename_axis(columns="variant").to_string())
    seeds = len(arms["base"])
    means = f"; means of {seeds} seeds" if seeds > 1 else ""
    print(
        f"{int((fold_ids >= 0).sum()):,} rows{means}; ±: one standard error, of a difference from "
        "the differences of the rows"
    )
    print("loss: in nats, at a temperature fitted on the other folds; training: of all folds")
