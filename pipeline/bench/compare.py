"""Compares two presets on the rows that both hold out; shows what only one gets right."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline import artifacts, endings, files, stages
from pipeline.bench import paired
from pipeline.config import Preset
from pipeline.datasets import SOURCES
from pipeline.errors import UserError
from pipeline.report import pictures, render

TEMPLATE = Path(__file__).with_name("compare.html")
# With more digits in a gallery the page would be slow.
SHOWN = 1000


def run(dataset: str, *words: str) -> None:
    """Print the comparison of two presets, and write the page.

    Args:
        dataset: as the user names it.
        words: the two presets, as the user names them.
    """
    graphs = [stages.load(dataset, word) for word in words]
    first, second = (graph.preset for graph in graphs)
    names = (first.name, second.name)
    if first.name == second.name:
        raise UserError(f"{first.name} is compared with itself; name two presets")
    if first.split.used != second.split.used:
        raise UserError(
            f"{first.name} and {second.name} hold out different rows ({first.split.name}, "
            f"{second.split.name}); give both the same [split], and train again"
        )
    for graph in graphs:
        artifacts.require_fresh(graph.up_to("ensemble"), graph.command_here("ensemble"))
    labels = np.load(graphs[0].task("preprocess").writes["train_labels"])
    fold_ids = np.load(graphs[0].task("split").writes["fold_ids"])
    oof = [np.load(graph.task("ensemble").writes["oof"]) for graph in graphs]
    measured = [paired.measure([its], labels, fold_ids) for its in oof]
    gain = paired.difference(measured[1], measured[0])
    right = [its.right > 0 for its in measured]
    only = [right[0] & ~right[1], right[1] & ~right[0]]

    rows = {
        preset.name: its.columns() | {"only this one right": mine.sum()}
        for preset, its, mine in zip((first, second), measured, only, strict=True)
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis(columns="preset")
    changed = changes(first, second).rename_axis(columns="parameter")
    folds = "1 fold" if first.split.folds == 1 else f"{first.split.folds} folds"
    verdict = (
        f"{second.name} against {first.name}: {gain.accuracy:+.5f} ± {gain.uncertainty:.5f} "
        f"(one standard error, {len(right[0]):,} rows); the mean loss changes by {gain.loss:+.5f} "
        f"nats, and is lower in {gain.lower} of {folds}; "
        f"{conclusion(gain.accuracy, gain.uncertainty, names)}"
    )
    print(f"{table.to_string()}\n{verdict}")
    if len(changed):
        print(changed.to_string())
    data = graphs[0].dataset
    page = stages.ROOT / "submissions" / f"{data.name}-{first.name}-against-{second.name}.html"
    held_out = np.flatnonzero(fold_ids >= 0)
    images = np.load(graphs[0].task("preprocess").writes["train_images"], mmap_mode="r")
    classes = SOURCES[data.source].class_names
    html = render(
        TEMPLATE,
        title=f"{data.name}: {first.name} and {second.name}",
        names=names,
        table=html_table(table),
        verdict=verdict,
        changed=html_table(changed) if len(changed) else "",
        galleries=[_gallery(images, labels, oof, held_out[mine], classes) for mine in only],
    )
    with files.atomic(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    print(f"the digits that only one gets right: {os.path.relpath(page, endings.here())}")


def conclusion(difference: float, uncertainty: float, names: tuple[str, str]) -> str:
    """Say which preset is better, if the difference exceeds two standard errors."""
    if abs(difference) <= 2 * uncertainty:
        return "within two standard errors, which may be chance"
    better = names[difference > 0]
    return f"{better} is better, by more than two standard errors"


def changes(first: Preset, second: Preset) -> pd.DataFrame:
    """Tabulate the parameters in which two presets differ, with the values of both.

    The members of an ensemble of presets have parameters of their own; only their names are
    compared.
    """
    columns = {}
    for preset in (first, second):
        tables: dict[str, Any] = {"split": preset.split.used, "ensemble": preset.ensemble}
        if not (first.others or second.others):
            tables["train"] = preset.train
        columns[preset.name] = {
            f"{table}.{key}": json.dumps(value)
            for table, parameters in tables.items()
            for key, value in dataclasses.asdict(parameters).items()
        }
    table = pd.DataFrame(columns)
    return table[table[first.name] != table[second.name]]


def html_table(table: pd.DataFrame) -> str:
    """Return a table for the page, with every value in full."""
    with pd.option_context("display.max_colwidth", None):
        return table.to_html(border=0)


def _gallery(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    oof: Sequence[NDArray[np.float32]],
    rows: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, Any]:
    """Describe the digits of some rows, at most `SHOWN`, and what both presets predict."""
    shown = rows[:SHOWN]
    return {
        "found": len(rows),
        "sheet": pictures.sheet(images[shown]),
        "digits": [
            {
                "row": int(row) + 1,  # in the CSV, counted from 1
                "x": place % 40,
                "y": place // 40,
                "true": names[labels[row]],
                "predicted": [(names[its[row].argmax()], float(its[row].max())) for its in oof],
            }
            for place, row in enumerate(shown)
        ],
    }
