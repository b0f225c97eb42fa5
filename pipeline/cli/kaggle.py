"""The commands for running on Kaggle's machines."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline import config, stages
from pipeline.cli.options import PresetOption
from pipeline.errors import ExternalError, UserError

if TYPE_CHECKING:
    from pipeline.remote.kernels import Runs, State

app = typer.Typer(help="Run on Kaggle's machines.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def notebook(
    path: Annotated[
        Path | None,
        typer.Argument(help="The file to write or replace; by default in submissions/."),
    ] = None,
    preset: PresetOption = "fast",
    push: Annotated[bool, typer.Option("--push", help="Run it on Kaggle, private.")] = False,
    accelerator: Annotated[
        str, typer.Option(help="With --push: none, or NvidiaTeslaT4, which uses GPU hours.")
    ] = "none",
    yes: Annotated[bool, typer.Option("--yes", help="Replace an edited one.")] = False,
) -> None:
    """Write a notebook that runs and explains each stage.

    It contains the code, needs no internet and installs nothing. Import it on Kaggle and attach the
    competition; or let --push do both, which needs a token.
    """
    from pipeline.kaggle import notebook

    chosen = config.load(preset)
    file = path or stages.ROOT / "submissions" / f"kaggle-{chosen.name}.ipynb"
    size = notebook.write(file, chosen, stages.ROOT)
    print(f"notebook {file} ({size / 1000:.0f} kB)")
    if push:
        _push(file, chosen.name, accelerator, yes)
    else:
        print("next: on Kaggle, choose Create, Notebook, then File, Import Notebook; or add --push")


def _push(file: Path, preset: str, accelerator: str, yes: bool) -> None:
    """Make a notebook the newest version of the user's private one, and let Kaggle run it."""
    from pipeline.kaggle.client import with_retries
    from pipeline.kaggle.notebook import edited
    from pipeline.remote import kernels

    slug = f"{kernels.PREFIX}notebook-{kernels.letters(preset).strip('-')}"
    text = file.read_text(encoding="utf-8")
    address = with_retries("the list of notebooks", partial(kernels.runs, slug)).address(slug)
    there = with_retries(address, partial(kernels.source, slug))
    if there and edited(there) and not yes:
        typer.confirm(f"{address} was edited on Kaggle. Replace it?", abort=True)

    def arrived() -> str | None:  # the answer to a push may have been lost
        source = with_retries(address, partial(kernels.source, slug))
        return "" if source == text else None

    push = partial(kernels.push, slug, text, accelerator, kernels.SESSION, "notebook")
    if refused := with_retries(address, push, between=arrived):
        raise ExternalError(f"Kaggle refuses the notebook: {refused}")
    print(f"Kaggle runs it: {address}")


@app.command("list")
def list_runs() -> None:
    """List the runs that --engine kaggle started."""
    found, states = _runs()
    if not states:
        print("no run of this project is on Kaggle")
    for name, state in states.items():
        print(f"{state!s:10} {found.last[name]:16} {found.address(name)}")


@app.command("delete")
def delete_runs(
    names: Annotated[list[str] | None, typer.Argument(help="Runs; without one, all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the runs that have ended, with their output."""
    from pipeline.kaggle.client import with_retries
    from pipeline.remote import kernels

    _, states = _runs()
    if unknown := set(names or []) - set(states):
        raise UserError(f"there is no run {min(unknown)}; `digits kaggle list` shows them")
    ended = [name for name in names or states if states[name].ended]
    for name in names or states:
        if name not in ended:
            print(f"{name} is {states[name]}: it stays")
    if not ended:
        print("there is no run that has ended")
    elif yes or typer.confirm(f"Delete {', '.join(ended)}, with the output?"):
        for name in ended:
            with_retries(f"deleting {name}", partial(kernels.delete, name))
            print(f"deleted {name}", flush=True)


def _runs() -> "tuple[Runs, dict[str, State]]":
    """Return the runs of this project, and their states by name."""
    from pipeline.kaggle.client import with_retries
    from pipeline.remote import kernels

    found = with_retries("the list of runs", lambda: kernels.runs(kernels.PREFIX))
    ours = [each for each in found.last if re.fullmatch(r".+-[0-9a-f]{8}(-\d+)?", each)]
    states = {each: with_retries(each, partial(kernels.state, each)) for each in ours}
    return found, {each: state for each, state in states.items() if state}
