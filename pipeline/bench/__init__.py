"""Measurements and comparisons; no stage uses anything in this folder."""

import subprocess
import sys
from collections.abc import Mapping, Sequence

from pipeline import stages
from pipeline.errors import UserError
from pipeline.stages import Graph


def make(last: str, dataset: str, preset: str) -> Graph:
    """Run the stages up to `last` on a dataset, each in a process of its own; return all tasks.

    Raises:
        UserError: a stage failed; it has printed why.
    """
    names = [stage.name for stage in stages.STAGES]
    for name in names[: names.index(last) + 1]:
        command = ["-m", "pipeline", name, "--dataset", dataset, "--config", preset]
        if subprocess.run([sys.executable, *command], check=False).returncode:
            raise UserError(f"{preset} on {dataset}: {name} failed")
    return stages.load(dataset, preset)


def markdown(rows: Sequence[Mapping[str, str]]) -> str:
    """Format a table in Markdown; the first row has all columns."""
    lines = [[row.get(name, "") for name in rows[0]] for row in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
