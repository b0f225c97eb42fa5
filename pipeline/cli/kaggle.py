"""The commands for running on Kaggle's machines."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import config, stages
from pipeline.cli.options import PresetOption

app = typer.Typer(help="Run on Kaggle's machines.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def notebook(
    path: Annotated[
        Path | None,
        typer.Argument(help="The file to write or replace; by default in submissions/."),
    ] = None,
    preset: PresetOption = "fast",
) -> None:
    """Write a notebook that runs and explains each stage.

    It contains the code. Import it on Kaggle and attach the competition: it needs no internet and
    installs nothing.
    """
    from pipeline.kaggle import notebook

    chosen = config.load(preset)
    file = path or stages.ROOT / "submissions" / f"kaggle-{chosen.name}.ipynb"
    size = notebook.write(file, chosen, stages.ROOT)
    print(f"notebook {file} ({size / 1000:.0f} kB)")
    print("next: on Kaggle, choose Create, Notebook, then File, Import Notebook")


@app.command("list")
def list_runs() -> None:
    """List the runs that --engine kaggle started."""
    from pipeline.kaggle import runs

    runs.print_runs()


@app.command("delete")
def delete_runs(
    names: Annotated[list[str] | None, typer.Argument(help="Runs; without one, all.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete the runs that have ended, with their output."""
    from pipeline.kaggle import runs

    ended = runs.ended(names or [])
    if not ended:
        print("there is no run that has ended")
    elif yes or typer.confirm(f"Delete {', '.join(ended)}, with the output?"):
        runs.delete(ended)
