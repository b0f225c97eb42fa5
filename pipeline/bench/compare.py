"""Two presets compared on the rows that both hold out, and the digits that only one gets right."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import artifacts, files, show, stages
from pipeline.bench import paired
from pipeline.config import Preset
from pipeline.datasets import SOURCES
from pipeline.errors import UserError
from pipeline.report import pictures

TEMPLATE = Path(__file__).with_name("compare.html")
# With more digits in a gallery the page would be slow.
SHOWN = 1000


def run(dataset: str, *words: str) -> None:
    """Print the comparison of two presets, and write the page.

    Args:
        dataset: as the user names it.
        words: the two presets, as the user names them.

    Raises:
        UserError: they hold out different rows, or one of them has not been trained.
    """
    graphs = [stages.load(dataset, word) for word in words]
    first, second = (graph.preset for graph in graphs)
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
    only = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]

    show.print_table(
        ("preset", "out of fold", "±", "wrong", "only this one right", "loss", "seed"),
        [
            [
                *(graph.preset.name, f"{its.accuracy:.5f}", f"{its.error:.5f}", f"{its.wrong:.0f}"),
                *(str(count), f"{its.loss.mean():.5f}", seeds(graph.preset)),
            ]
            for graph, its, count in zip(graphs, measured, only, strict=True)
        ],
    )
    folds = first.split.folds
    verdict = (
        f"{second.name} against {first.name}: {gain.accuracy:+.5f} ± {gain.uncertainty:.5f} "
        f"(one standard error, {len(right[0]):,} rows); the mean loss changes by {gain.loss:+.5f} "
        f"nats, and is lower in {gain.lower} of {folds} fold{'s' * (folds > 1)}; "
        f"{conclusion(gain.accuracy, gain.uncertainty, (first.name, second.name))}"
    )
    print(verdict)
    changed = changes(first, second)
    if changed:
        show.print_table(("parameter", first.name, second.name), changed)
    data = graphs[0].dataset
    page = stages.ROOT / "submissions" / f"{data.name}-{first.name}-against-{second.name}.html"
    held_out = np.flatnonzero(fold_ids >= 0)
    images = np.load(graphs[0].task("preprocess").writes["train_images"], mmap_mode="r")
    html = _page(
        title=f"{data.name}: {first.name} and {second.name}",
        names=(first.name, second.name),
        measured=measured,
        verdict=verdict,
        changed=changed,
        galleries=[
            _gallery(images, labels, oof, held_out[mine & ~its], SOURCES[data.source].class_names)
            for mine, its in (right, right[::-1])
        ],
    )
    with files.atomic(page) as temporary:
        temporary.write_text(html, encoding="utf-8")
    print(f"the digits that only one gets right: {os.path.relpath(page, stages.here())}")


def conclusion(difference: float, uncertainty: float, names: tuple[str, str]) -> str:
    """What a difference says: which preset is better, if it exceeds two standard errors."""
    if abs(difference) <= 2 * uncertainty:
        return "within two standard errors, which may be chance"
    better = names[difference > 0]
    return f"{better} is better, by more than two standard errors"


def seeds(preset: Preset) -> str:
    """The seeds of a preset's networks."""
    return ", ".join(sorted({str(member.train.seed) for member in preset.members}, key=int))


def changes(first: Preset, second: Preset) -> list[tuple[str, str, str]]:
    """The parameters in which two presets differ: name, value in the first, in the second.

    Of a preset that averages others, each member has its own parameters, so that only the list of
    members is compared.
    """

    def values(preset: Preset) -> dict[str, str]:
        tables: dict[str, Any] = {"split": preset.split.used, "ensemble": preset.ensemble}
        if not (first.others or second.others):
            tables["train"] = preset.train
        return {
            f"{table}.{key}": json.dumps(value)
            for table, parameters in tables.items()
            for key, value in dataclasses.asdict(parameters).items()
        }

    before, after = values(first), values(second)
    return [(key, before[key], after[key]) for key in before if before[key] != after[key]]


def _gallery(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    oof: Sequence[NDArray[np.float32]],
    rows: NDArray[np.int64],
    names: Sequence[str],
) -> dict[str, Any]:
    """The digits of some rows, with what both presets predict; as many as `SHOWN`."""
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


def _page(**values: Any) -> str:
    from jinja2 import StrictUndefined, Template

    text = TEMPLATE.read_text(encoding="utf-8")
    template = Template(
        text, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html: str = template.render(**values)
    return html
