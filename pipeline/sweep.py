"""Small differences from a preset, trained on the same folds and compared out of fold.

A sweep is a TOML file: `base`, a preset; `[grid]`, lists of values of parameters of [train], of
which every combination is trained; `[[variants]]`, differences one by one.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts, config, stages
from pipeline.artifacts import Step
from pipeline.config import Config
from pipeline.engines import Training, trainings
from pipeline.ensemble import standard_error
from pipeline.errors import UserError


@dataclass(frozen=True)
class Row:
    """What one variant reached on the rows that its folds held out.

    Attributes:
        name: the variant's; "base" for the preset itself.
        accuracy: of all held-out rows together.
        error: its standard error.
        seconds: of training, all folds together.
        difference: of the accuracy from the base's, on the same rows.
        uncertainty: the standard error of the difference.
    """

    name: str
    accuracy: float
    error: float
    seconds: float
    difference: float
    uncertainty: float


def load(path: Path) -> tuple[Config, list[Config]]:
    """The base of a sweep, and its variants.

    Raises:
        UserError: something in the file is missing, unknown, out of range or there twice.
    """
    tables = config.read_toml(path)
    for key in tables.keys() - {"base", "grid", "variants"}:
        raise UserError(f"{path}: unknown key {key}; a sweep has base, [grid] and [[variants]]")
    word = tables.get("base")
    if not isinstance(word, str):
        raise UserError(f'{path}: base has to name a preset: base = "fast"')
    base = config.load_named(word, path, "base")
    if base.ensemble.members:
        raise UserError(f"{path}: base: {word} puts presets together; name one of them")
    parameters = {field.name for field in dataclasses.fields(config.Train)}
    variants: list[Config] = []
    for changes in _grid(tables.get("grid", {}), path) + _listed(tables.get("variants", []), path):
        for key in changes.keys() - parameters:
            near = config.nearest(key, parameters)
            raise UserError(
                f"{path}: {key} is no parameter of [train], the table that varies{near}"
            )
        name = ",".join(f"{key}={value}" for key, value in changes.items())
        full = f"sweeps/{path.stem}/{name}"
        if full in {variant.name for variant in variants}:
            raise UserError(f"{path}: {name} is there twice")
        variants.append(config.variant(base, full, changes, str(path)))
    if not variants:
        raise UserError(
            f"{path}: nothing varies; write [grid] or [[variants]] with keys of [train]"
        )
    return base, variants


def _grid(table: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(table, dict) or not all(isinstance(v, list) and v for v in table.values()):
        raise UserError(f"{path}: [grid] has to give each key a list: width = [24, 32]")
    if not table:
        return []
    return [dict(zip(table, values, strict=True)) for values in itertools.product(*table.values())]


def _listed(tables: Any, path: Path) -> list[dict[str, Any]]:
    if not isinstance(tables, list) or not all(isinstance(t, dict) and t for t in tables):
        raise UserError(f"{path}: variants has to be tables: [[variants]], and keys below it")
    return tables


def graph(
    data: stages.Dataset, base: Config, variants: list[Config]
) -> tuple[list[Step], dict[str, list[Training]]]:
    """The steps of a sweep, and the folds of each variant by its name; the base comes first."""
    steps = stages.steps(data, base)
    runs = {"base": trainings(steps, base)}
    for variant in variants:
        runs[Path(variant.name).name] = trainings(stages.steps(data, variant), variant)
    shared = [step for step in steps if step.stage in ("download", "preprocess", "split")]
    return shared + [training.step for run in runs.values() for training in run], runs


def compare(
    runs: dict[str, list[Training]], labels: NDArray[np.uint8], fold_ids: NDArray[np.int8]
) -> list[Row]:
    """The table of a sweep.

    Args:
        runs: the trained folds of each variant, by its name; the base comes first.
        labels: of the training rows, uint8 (n,).
        fold_ids: the fold that holds each row out, int8 (n,).

    Returns:
        A row a variant. The uncertainty of a difference comes from how the folds differ, where
        there are several: each is a draw of rows and of a training. With one fold it comes from
        the rows alone, and is too small by what the chance of the training adds.
    """
    rows = []
    base: list[NDArray[np.float64]] = []
    for name, run in runs.items():
        steps = [training.step for training in run]
        right = [_right(step, labels, fold_ids) for step in steps]
        base = base or right
        every, gain = np.concatenate(right), np.concatenate(right) - np.concatenate(base)
        of_folds = [(mine - its).mean() for mine, its in zip(right, base, strict=True)]
        spread = of_folds if len(of_folds) > 1 else gain
        facts = [(artifacts.read_manifest(step) or {"facts": {}})["facts"] for step in steps]
        rows.append(
            Row(
                name=name,
                accuracy=float(every.mean()),
                error=standard_error(float(every.mean()), len(every)),
                seconds=sum(sum(each.get("epoch_seconds", [])) for each in facts),
                difference=float(gain.mean()),
                uncertainty=float(np.std(spread, ddof=1) / math.sqrt(len(spread))),
            )
        )
    return rows


def units(base: Config) -> str:
    """What the uncertainty of a difference is taken from."""
    return "the folds" if base.split.folds > 1 else "the rows"


def _right(
    step: Step, labels: NDArray[np.uint8], fold_ids: NDArray[np.int8]
) -> NDArray[np.float64]:
    """1 for each row that the fold holds out and gets right, 0 for the others it holds out."""
    probabilities = np.load(step.manifest.parent / "oof.npy")
    held_out = labels[fold_ids == step.params["fold"]]
    return np.asarray(probabilities.argmax(axis=1) == held_out, dtype=np.float64)
