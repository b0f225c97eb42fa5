"""`digits`: the command line. Nothing heavy is imported before it is used."""

import os
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from pipeline import artifacts, config, download, errors, show, stages
from pipeline.errors import UserError
from pipeline.stages import LEDGER, STAGES, Stage
from pipeline.train.engines import Engine, select, train_folds

app = typer.Typer(
    help="Digit Recognizer, from the competition's CSVs to a score. Each stage is a command that "
    "does its work if it is due; `make` runs them in order. To start: make demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

DATASETS = "kaggle, sample, mnist, fashion, or a folder or zip with the competition's CSVs."
CLUSTER = "Address of a Ray cluster; without it, one is started here and stopped afterwards."
DatasetOption = Annotated[str, typer.Option("--dataset", help=DATASETS)]
PresetOption = Annotated[str, typer.Option("--config", help="A preset's name, or a TOML file.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Run even if everything is fresh.")]
JobsOption = Annotated[int, typer.Option("--jobs", min=1, help="Folds to train at a time.")]
EngineOption = Annotated[Engine, typer.Option("--engine", help="This machine, or a Ray cluster.")]
AddressOption = Annotated[str | None, typer.Option("--address", envvar="RAY_ADDRESS", help=CLUSTER)]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["DIGITS_DEBUG"] = "1"


# --- the stages, from their declarations --------------------------------------------------------


def _command(stage: Stage) -> Callable[..., None]:
    """The command of a stage that runs once."""

    def command(
        dataset: DatasetOption = "kaggle",
        preset: PresetOption = "default",
        force: ForceOption = False,
    ) -> None:
        graph = stages.load(dataset, preset)
        artifacts.run(graph.task(stage.name), graph.tasks, force)

    return command


def _command_per_fold(stage: Stage) -> Callable[..., None]:
    """The command of a stage that runs once per fold."""

    def command(
        dataset: DatasetOption = "kaggle",
        preset: PresetOption = "default",
        force: ForceOption = False,
        folds: Annotated[str, typer.Option("--fold", "--folds", help="Such as 2 or 0,2.")] = "all",
        epochs: Annotated[int | None, typer.Option(min=1, help="Fewer epochs: a trial.")] = None,
        limit: Annotated[int | None, typer.Option(min=1, help="Fewer rows: a trial.")] = None,
        jobs: JobsOption = 1,
        engine: EngineOption = "local",
        address: AddressOption = None,
    ) -> None:
        chosen = config.load(preset)
        if epochs is not None or limit is not None:
            chosen = config.trial(chosen, epochs=epochs, limit=limit)
        graph = stages.graph(download.dataset(dataset), chosen)
        wanted = select(graph.all(stage.name), folds)
        train_folds(wanted, graph.tasks, force, jobs, engine, address)

    return command


for number, stage in enumerate(STAGES, start=1):
    more = " A trial with --epochs or --limit goes to data/DATASET/scratch/." * stage.per_fold
    app.command(stage.name, help=f"Stage {number}: {stage.help}{more}")(
        _command_per_fold(stage) if stage.per_fold else _command(stage)
    )


@app.command()
def submit(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    message: Annotated[str, typer.Option("--message", "-m", help="What is new in it.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Submit this file once more.")] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 120,
    from_competition: Annotated[
        bool,
        typer.Option(help="Confirm, once, that the files are the competition's own."),
    ] = False,
) -> None:
    """Submit the CSV to the competition, and wait for its score."""
    from pipeline import submit

    candidate = submit.candidate(stages.load(dataset, preset), from_competition)
    submit.submit(candidate, LEDGER, message, force, wait)


# --- looking at what was made ------------------------------------------------------------------


@app.command()
def status(
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again, to find silent corruption.")
    ] = False,
) -> None:
    """Show whether each stage is fresh, stale (and why) or missing, and how long it took."""
    show.status(stages.load(dataset, preset), verify)


@app.command()
def result(dataset: DatasetOption = "kaggle", preset: PresetOption = "default") -> None:
    """Show the accuracy of a submission, its files, and what to do next."""
    show.result(stages.load(dataset, preset))


@app.command("show")
def show_digit(
    row: Annotated[int, typer.Argument(min=1, help="The row, counted from 1 as in the report.")],
    dataset: DatasetOption = "kaggle",
    preset: PresetOption = "default",
    test: Annotated[bool, typer.Option("--test", help="A row of test.csv, not train.csv.")] = False,
) -> None:
    """Show one digit, and the predictions of the networks that have not seen it."""
    show.digit(row, stages.load(dataset, preset), test)


@app.command()
def runs(dataset: DatasetOption = "kaggle") -> None:
    """List the presets trained on a dataset, the best out of fold first."""
    show.runs(download.dataset(dataset), LEDGER)


@app.command()
def ledger(
    refresh: Annotated[bool, typer.Option("--refresh", help="Look up pending scores.")] = False,
) -> None:
    """List the submissions, the best score first."""
    if refresh:
        import_module("pipeline.submit").refresh(LEDGER)
    show.submissions(LEDGER)


@app.command("config")
def show_config(preset: PresetOption = "default") -> None:
    """Show every parameter of a preset, with its meaning; * marks what the preset changes."""
    show.parameters(config.load(preset))


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The CSV to check.", exists=True, dir_okay=False)],
    dataset: Annotated[
        str | None, typer.Option(help="Its dataset, if not the competition.")
    ] = None,
    sample: Annotated[Path | None, typer.Option(help="The sample submission to use.")] = None,
) -> None:
    """Check that the competition would accept a CSV."""
    import_module("pipeline.write").check(file, sample or show.sample_submission(file, dataset))


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    dataset: DatasetOption = "kaggle",
    jobs: JobsOption = 1,
    engine: EngineOption = "local",
    address: AddressOption = None,
) -> None:
    """Train variants of a preset on its folds, and compare them out of fold.

    The file names a preset, base = "fast". Below [grid] it lists values of [train] parameters,
    width = [24, 32], of which every combination is trained; each [[variants]] is one more set of
    changes. Nothing is trained twice.
    """
    import_module("pipeline.bench.sweep").run(
        file, download.dataset(dataset), jobs, engine, address
    )


@app.command()
def bench(dataset: DatasetOption = "kaggle") -> None:
    """Measure the presets against the notebook that everybody forks; about half an hour."""
    import_module("pipeline.bench.presets").main(dataset)


@app.command()
def cost(dataset: DatasetOption = "kaggle") -> None:
    """Measure how time and memory of each stage grow with the data; some minutes."""
    import_module("pipeline.bench.cost").main(dataset)


@app.command()
def reproduce(
    preset: Annotated[str, typer.Option("--config", help="Only this tutorial's preset.")] = "",
    dataset: Annotated[str, typer.Option(help="Digits instead of the published dataset.")] = "",
) -> None:
    """Train the networks of well-known tutorials, and compare with what they published."""
    import_module("pipeline.bench.reproduce").main(preset, dataset)


def _refuse_another_clone() -> None:
    """Raise UserError if the current folder is in another clone than this code and its results."""
    here = Path.cwd()
    clone = next((p for p in (here, *here.parents) if (p / "pipeline/stages.py").exists()), None)
    if clone and not clone.samefile(stages.ROOT):
        words = shlex.join([sys.executable, "-m", "pipeline", *sys.argv[1:]])
        raise UserError(
            f"this command works on {stages.ROOT}, but you are in {clone}; "
            f"type cd {shlex.quote(str(clone))} && {words}"
        )


def main() -> None:
    """Run the command line; see `errors` for the exit codes."""
    # A terminal that lacks ± or █ shows a question mark.
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    try:
        _refuse_another_clone()
        code = app(standalone_mode=False)
        if code == 130:  # Typer's answer to Ctrl-C, without a message
            raise KeyboardInterrupt
    except (Exception, KeyboardInterrupt) as error:
        if "DIGITS_DEBUG" in os.environ:
            import_module("traceback").print_exc()
        line, code = errors.ending(error)
        line = " ".join(line.split()).replace(f"{stages.ROOT}/", "")
        print(f"digits: {line}", file=sys.stderr)
    sys.exit(code)
