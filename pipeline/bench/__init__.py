"""Measurements and comparisons; no stage uses anything in this folder."""

import subprocess
import sys

from pipeline import stages
from pipeline.errors import UserError
from pipeline.stages import Graph


def make(last: str, dataset: str, preset: str) -> Graph:
    """Run the stages up to `last`, each in a process of its own; returns all tasks.

    Args:
        last: the name of a stage.
        dataset: as the user names it.
        preset: as the user names it.

    Raises:
        UserError: a stage failed; it has printed why.
    """
    names = [stage.name for stage in stages.STAGES]
    for name in names[: names.index(last) + 1]:
        command = ["-m", "pipeline", name, "--dataset", dataset, "--config", preset]
        if subprocess.run([sys.executable, *command], check=False).returncode:
            raise UserError(f"{preset} on {dataset}: {name} failed")
    return stages.load(dataset, preset)
