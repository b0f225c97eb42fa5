"""What several screens print: which results they show, their folds' differences, a table."""

import sys
from collections.abc import Iterable, Sequence

from pipeline import artifacts, environment, stages
from pipeline.stages import Graph


def load(dataset: str, preset: str) -> Graph:
    """Load the tasks for a dataset and a preset, and print which ones these are."""
    graph = stages.load(dataset, preset)
    print_choice(graph)
    return graph


def print_choice(graph: Graph) -> None:
    """Print which dataset and preset a command is about."""
    print(f"dataset {graph.dataset.name}, preset {graph.preset.name}", flush=True)


def print_differences(graph: Graph) -> None:
    """Print in which way the folds of an ensemble were trained differently, if they were."""
    found = {task.name: artifacts.metadata(task.manifest) for task in graph.all("train")}
    for line in environment.differences({name: its for name, its in found.items() if its}):
        print(f"the folds were not trained alike: {line}")


def print_table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, or 160 characters wide elsewhere."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
