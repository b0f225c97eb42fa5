"""`digits`: each stage as a command. Nothing heavy is imported before a command needs it."""

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pipeline import artifacts, config, stages
from pipeline.artifacts import Step
from pipeline.errors import OutsideError, UserError

app = typer.Typer(
    help="Digit Recognizer, from the competition's CSVs to a score. Each stage is a command; "
    "`make` runs those that are due, in their order. For a first try: make demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

LEDGER = stages.ROOT / "submissions" / "ledger.csv"

DatasetOption = Annotated[
    str,
    typer.Option(
        "--dataset",
        help="kaggle, sample, mnist, fashion, or a folder or zip with the competition's CSVs.",
    ),
]
IfStaleOption = Annotated[
    bool, typer.Option("--if-stale", help="Do nothing if what is there is fresh.")
]
ConfigOption = Annotated[
    str, typer.Option("--config", help="A preset's name, or the path of a TOML file.")
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command."""
    if debug:
        os.environ["DIGITS_DEBUG"] = "1"


def _run(
    step: Step, steps: list[Step], work: Callable[[Path], dict[str, Any]], if_stale: bool
) -> None:
    """Run one step; say why, where to, and how long it took."""
    with artifacts.stat_cache(stages.ROOT) as cache:
        why = artifacts.staleness(steps, cache)[step.name] or "asked for"
    if if_stale and why == "asked for":
        print(f"{step.name}: fresh", flush=True)
        return
    print(f"{step.name}: {why}; into {os.path.relpath(step.manifest.parent)}/", flush=True)
    if artifacts.run(step, work, steps, if_stale):
        manifest = artifacts.read_manifest(step)
        assert manifest is not None
        print(f"{step.name}: done in {manifest['facts']['seconds']:.1f} s", flush=True)
    else:
        print(f"{step.name}: done by the other process", flush=True)


def _steps(dataset: str, preset: str) -> list[Step]:
    return stages.steps(stages.dataset(dataset), config.load(preset))


def _named(steps: list[Step], stage: str) -> Step:
    return next(step for step in steps if step.stage == stage)


@app.command()
def download(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 1: bring the three CSVs to data/DATASET/raw/."""
    from pipeline import csvs
    from pipeline.download import download

    data = stages.dataset(dataset)
    steps = _steps(dataset, preset)
    for path in artifacts.changed_outputs(steps[0]):
        print(f"{csvs.fault(path) or path}; this is not what download wrote, it is made again")
    _run(steps[0], steps, lambda folder: download(folder, data.source, data.path), if_stale)


@app.command()
def preprocess(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 2: check the CSVs and turn them into arrays, in data/DATASET/tensors/."""
    from pipeline.preprocess import preprocess

    steps = _steps(dataset, preset)
    step = _named(steps, "preprocess")
    try:
        _run(step, steps, lambda folder: preprocess(folder, *step.inputs), if_stale)
    except UserError as error:
        path = stages.dataset(dataset).path
        raise UserError(f"{error} (a copy of what is in {path})" if path else str(error)) from error


@app.command()
def split(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 3: draw the folds, in data/DATASET/folds/."""
    from pipeline.split import split

    steps = _steps(dataset, preset)
    step, params = _named(steps, "split"), config.load(preset).split
    _run(step, steps, lambda folder: split(folder, step.inputs[0], **asdict(params)), if_stale)


@app.command()
def train(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
    member: Annotated[
        str | None, typer.Option(help="Only this preset of those that CONFIG puts together.")
    ] = None,
    fold: Annotated[int | None, typer.Option(min=0, help="Only this fold; else all.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="A trial of so many epochs.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A trial on the first rows only.")
    ] = None,
) -> None:
    """Stage 4: train the folds, in data/DATASET/CONFIG/fold-N/.

    With --epochs or --limit it is a trial: its files go to data/DATASET/scratch/, where no other
    stage looks for them.
    """
    from pipeline.train import train

    settings = config.load(preset)
    if epochs is not None or limit is not None:
        settings = config.trial(settings, epochs, limit)
    steps = stages.steps(stages.dataset(dataset), settings)
    members = {Path(each.name).name: each for each in settings.members}
    if member is not None and member not in members:
        raise UserError(f"there is no member {member}: {preset} trains {', '.join(members)}")
    if fold is not None and fold >= settings.split.folds:
        raise UserError(
            f"there is no fold {fold}: {preset} has folds 0 to {settings.split.folds - 1}"
        )
    for step in steps:
        name = step.manifest.parent.parent.name
        if step.stage != "train" or member not in (None, name):
            continue
        if fold not in (None, step.params["fold"]):
            continue
        images, *_, fold_ids = step.inputs
        work = partial(
            train,
            tensors=images.parent,
            fold_ids_path=fold_ids,
            fold=step.params["fold"],
            params=members[name].train,
        )
        _run(step, steps, work, if_stale)


@app.command()
def ensemble(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 5: put the folds' probabilities together, in data/DATASET/CONFIG/ensemble/."""
    from pipeline.ensemble import ensemble

    steps = _steps(dataset, preset)
    step = _named(steps, "ensemble")
    folders = stages.folders(steps)
    _run(step, steps, lambda folder: ensemble(folder, folders, *step.inputs[-2:]), if_stale)


@app.command()
def write(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 6: write the submission, submissions/DATASET-CONFIG.csv."""
    from pipeline.write import write

    steps = _steps(dataset, preset)
    step = _named(steps, "write")
    _run(step, steps, lambda folder: write(folder / step.outputs[0].name, *step.inputs), if_stale)


@app.command()
def submit(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    message: Annotated[str, typer.Option("--message", "-m", help="What is new in it.")] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Send it even if the same bytes were sent before.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, help="Seconds to wait for the score.")] = 120,
    from_competition: Annotated[
        bool,
        typer.Option(
            "--from-competition",
            help="Say, once, that the folder or zip holds the competition's own files.",
        ),
    ] = False,
) -> None:
    """Stage 7: send the submission to the competition, and wait for its score."""
    from pipeline.submit import candidate, submit

    steps = _steps(dataset, preset)
    raw, written = steps[0], steps[-1]
    with artifacts.stat_cache(stages.ROOT) as cache:
        stale = {name: why for name, why in artifacts.staleness(steps, cache).items() if why}
    if stale:
        name, reason = next(iter(stale.items()))
        raise UserError(f"{name}: {reason}; run `make submission` with the same variables first")
    if from_competition:
        if stages.dataset(dataset).source != "local":
            raise UserError("--from-competition is for a folder or zip of your own")
        for step in (raw, written):  # the data's manifest decides; the CSV's tells its reader
            artifacts.add_fact(step, "from_competition", True)
    sample = raw.manifest.parent / "sample_submission.csv"
    manifests = [artifacts.read_manifest(step) or {} for step in (written, raw)]
    chosen = candidate(written.outputs[0], sample, *manifests)
    submit(chosen, LEDGER, message, force, wait)


@app.command()
def ledger(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look up the scores that were pending.")
    ] = False,
) -> None:
    """Show what was sent to the competition, the best score first."""
    from rich.console import Console
    from rich.table import Table

    from pipeline import ledger
    from pipeline.submit import refresh as look_up

    if refresh:
        look_up(LEDGER)
    entries = sorted(ledger.read(LEDGER), key=lambda entry: entry.public_score, reverse=True)
    if not entries:
        print("nothing was submitted yet: make submit")
        return
    shown = ("public_score", "oof_accuracy", "oof_standard_error", "status", "dataset", "preset")
    table = Table(*shown, "submitted_at", "ref", "message", box=None)
    for entry in entries:
        row = [getattr(entry, column) for column in (*shown, "submitted_at", "ref", "message")]
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The CSV to check.", exists=True, dir_okay=False)],
    dataset: DatasetOption = "kaggle",
    sample: Annotated[
        Path | None, typer.Option(help="The sample submission; else that of the dataset.")
    ] = None,
) -> None:
    """Check that the competition would take a CSV."""
    from pipeline.csvs import check_submission

    if sample is None:
        name = _dataset_of(file) or stages.dataset(dataset).name
        sample = stages.ROOT / "data" / name / "raw" / "sample_submission.csv"
        if not sample.exists():
            raise UserError(
                f"{os.path.relpath(sample)} is missing; run `make download`, or name the sample "
                "submission with --sample"
            )
    rows = check_submission(file, sample)
    print(f"{file}: {rows:,} rows, as the competition wants them")


def _dataset_of(submission: Path) -> str | None:
    """The dataset of one of our own submissions, from the manifest beside it."""
    params = (artifacts.read_json(submission.with_suffix(".json")) or {}).get("params")
    name = params.get("dataset") if isinstance(params, dict) else None
    return name if isinstance(name, str) else None


@app.command()
def status(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every file again, trusting no date.")
    ] = False,
) -> None:
    """Say of each step whether it is fresh, stale (and why) or missing, and how long it took."""
    steps = _steps(dataset, preset)
    if verify:
        reasons = artifacts.staleness(steps)
    else:
        with artifacts.stat_cache(stages.ROOT) as cache:
            reasons = artifacts.staleness(steps, cache)
    width = max(14, *(len(step.name) for step in steps))
    for step in steps:
        reason = reasons[step.name]
        manifest = artifacts.read_manifest(step)
        took = f"{manifest['facts'].get('seconds', 0):8.1f} s" if manifest else " " * 10
        state = "fresh" if reason is None else "missing" if reason == "missing" else "stale"
        why = f"  {reason}" if state == "stale" else ""
        print(f"{step.name:<{width}} {state:<8}{took}{why}")


@app.command("config")
def show_config(preset: ConfigOption = "default") -> None:
    """Show every parameter of a preset, with its meaning; * marks what the preset changes."""
    settings = config.load(preset)
    for table in config.TABLES:
        if table == "train" and settings.others:
            continue  # its members' own
        print(f"[{table}]")
        for parameter in fields(getattr(settings, table)):
            value = getattr(getattr(settings, table), parameter.name)
            mark = " " if value == parameter.default else "*"
            text = f"{mark} {parameter.name} = {json.dumps(value)}"
            print(f"{text:<30}# {parameter.metadata['meaning']}")


def main() -> None:
    """Run the command line; exit 0, 1 (something outside failed), 2 (a mistake), 130 (Ctrl-C)."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        code = app(standalone_mode=False)
        if code == 130:  # Typer makes that of Ctrl-C, and says nothing
            raise KeyboardInterrupt
        sys.exit(code)
    except TyperException as error:
        _fail(f"{error.format_message()}; see `digits --help`", 2)
    except UserError as error:
        _fail(str(error), 2)
    except OutsideError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here", 130)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error} (a fault of the pipeline: --debug shows where)", 1)


def _fail(line: str, code: int) -> None:
    if "DIGITS_DEBUG" in os.environ:
        traceback.print_exc()
    line = " ".join(line.split()).replace(f"{stages.ROOT}/", "")
    print(f"digits: {line}", file=sys.stderr)
    sys.exit(code)
