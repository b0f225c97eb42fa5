"""`digits kaggle list` and `delete`: the runs that `ENGINE=kaggle` has pushed."""

import re
from functools import partial

from pipeline.errors import UserError
from pipeline.kaggle import client, kernels
from pipeline.kaggle.kernels import Run, State


def print_runs() -> None:
    """Print the runs of this project and their state; raises what `client.with_retries` does."""
    found = _runs()
    if not found:
        print("no run of this project is on Kaggle")
    for run, state in found:
        address = f"{kernels.CODE}/{state.user}/{run.slug}"
        print(f"{state.status.lower().replace('_', ' '):10} {run.last:16} {address}")


def ended(names: list[str]) -> list[str]:
    """The names of the runs that have ended: of all, or of these; raises UserError."""
    found = {run.slug: state for run, state in _runs()}
    for name in names:
        if name not in found:
            raise UserError(f"there is no run {name}; digits kaggle list shows them")
    chosen = {name: state for name, state in found.items() if name in names or not names}
    for name, state in chosen.items():
        if not state.ended:
            print(f"{name} is {state.status.lower()}: it stays")
    return [name for name, state in chosen.items() if state.ended]


def delete(names: list[str]) -> None:
    """Delete runs, with their output."""
    for name in names:
        client.with_retries(f"deleting {name}", partial(kernels.delete, name))
        print(f"deleted {name}", flush=True)


def _runs() -> list[tuple[Run, State]]:
    found = client.with_retries("the list of runs", lambda: kernels.runs(kernels.PREFIX))
    ours = rf"{kernels.PREFIX}.+-[0-9a-f]{{8}}(-\d+)?"
    states = [
        (run, client.with_retries(run.slug, partial(kernels.state, run.slug)))
        for run in found
        if re.fullmatch(ours, run.slug)
    ]
    return [(run, state) for run, state in states if state]
