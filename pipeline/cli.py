"""`digits`: each stage as a command. Nothing heavy is imported before a command needs it."""

import json
import logging
import os
import sys
import time
import traceback
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from pipeline import artifacts, config, engines, stages
from pipeline.artifacts import Step
from pipeline.engines import announced
from pipeline.errors import GOES_ON, OutsideError, UserError, explained
from pipeline.memory import ran_out

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
JobsOption = Annotated[
    int,
    typer.Option("--jobs", min=1, help="Folds at a time on one machine, which share its cores."),
]
EngineOption = Annotated[
    str, typer.Option("--engine", help="local, or ray for a cluster: see --address.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        help="Of a Ray cluster; without it, one is started here and ended.",
    ),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options that stand before the command."""
    if debug:
        os.environ["DIGITS_DEBUG"] = "1"


def _steps(dataset: str, preset: str) -> list[Step]:
    return stages.steps(stages.dataset(dataset), config.load(preset))


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

    def work(folder: Path) -> dict[str, Any]:
        facts = download(folder, data.source, data.path)
        if data.path:
            _check_copies(folder, data.path)
        return facts

    announced(steps[0], steps, work, if_stale)


def _check_copies(folder: Path, source: Path) -> None:
    """Refuse a user's CSVs, as preprocess would, before they replace those of an earlier run.

    The file to mend is the user's own, and so it is this one that the message names.
    """
    from pipeline import csvs
    from pipeline.sources import local

    found = local.files(source)
    copies = [folder / name for name in local.NAMES]
    try:
        csvs.check_dataset(*copies)
    except UserError as error:
        message = str(error)
        for copy in copies:
            original = found.get(copy.name, source / copy.name)
            message = message.replace(str(copy), str(original))
        raise UserError(f"{message}; mend it there") from error


@app.command()
def preprocess(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 2: check the CSVs and turn them into arrays, in data/DATASET/tensors/."""
    from pipeline.preprocess import preprocess

    steps = _steps(dataset, preset)
    step = stages.named(steps, "preprocess")
    announced(step, steps, lambda folder: preprocess(folder, *step.inputs), if_stale)


@app.command()
def split(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 3: draw the folds, in data/DATASET/folds/."""
    from pipeline.split import split

    steps = _steps(dataset, preset)
    step, params = stages.named(steps, "split"), config.load(preset).split
    announced(step, steps, lambda folder: split(folder, step.inputs[0], **asdict(params)), if_stale)


@app.command()
def train(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
    member: Annotated[
        str | None, typer.Option(help="Only this preset of those that CONFIG puts together.")
    ] = None,
    folds: Annotated[
        str,
        typer.Option(
            "--folds",
            "--fold",
            help="all: those that are due. Or some, such as 2 or 0,2: these, due or not.",
        ),
    ] = "all",
    epochs: Annotated[int | None, typer.Option(min=1, help="A trial of so many epochs.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="A trial on the first rows only.")
    ] = None,
    jobs: JobsOption = 1,
    engine: EngineOption = "local",
    address: AddressOption = None,
) -> None:
    """Stage 4: train the folds, in data/DATASET/CONFIG/fold-N/.

    With --epochs or --limit it is a trial: its files go to data/DATASET/scratch/, where no other
    stage looks for them.
    """
    now = time.localtime()
    if now.tm_year < 1980:  # as of a board whose battery is empty
        raise OutsideError(
            f"the clock says {time.strftime('%Y-%m-%d', now)}, and Keras' files cannot be dated "
            f"before 1980; set it, {GOES_ON}"
        )
    settings = config.load(preset)
    if epochs is not None or limit is not None:
        settings = config.trial(settings, epochs, limit)
    steps = stages.steps(stages.dataset(dataset), settings)
    names = [Path(each.name).name for each in settings.members]
    if member is not None and member not in names:
        raise UserError(f"there is no member {member}: {preset} trains {', '.join(names)}")
    wanted = _folds(folds, preset, settings.split.folds)
    if_stale = if_stale or folds == "all"
    trainings = [
        training
        for training in engines.trainings(steps, settings)
        if training.step.params["fold"] in wanted
        and member in (None, training.step.manifest.parent.parent.name)
    ]
    engines.train_folds(trainings, steps, if_stale, jobs, _engine(engine), address)


def _folds(word: str, preset: str, count: int) -> set[int]:
    """The folds that `--folds` names."""
    if word == "all":
        return set(range(count))
    try:
        folds = {int(number) for number in word.split(",")}
    except ValueError as error:
        raise UserError(f"--folds has to be all, or numbers such as 0,2, not {word!r}") from error
    for fold in folds:
        if not 0 <= fold < count:
            raise UserError(f"there is no fold {fold}: {preset} has folds 0 to {count - 1}")
    return folds


def _engine(word: str) -> str:
    if word not in engines.NAMES:
        raise UserError(f"--engine has to be one of {', '.join(engines.NAMES)}, not {word!r}")
    return word


@app.command()
def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep's TOML file.")],
    dataset: DatasetOption = "kaggle",
    jobs: JobsOption = 1,
    engine: EngineOption = "local",
    address: AddressOption = None,
) -> None:
    """Train variants of a preset on its folds, and compare them with it out of fold.

    The file names a preset, base = "fast", and below [grid] lists of values of its [train]
    parameters, width = [24, 32], of which every combination is trained; or single differences, each
    below [[variants]]. What was trained before is not trained again.
    """
    import numpy as np
    from rich.table import Table

    from pipeline import sweep

    base, variants = sweep.load(file)
    steps, runs = sweep.graph(stages.dataset(dataset), base, variants)
    _all_fresh(
        [step for step in steps if step.stage != "train"],
        f"make split DATASET={dataset}` with the base as CONFIG",
    )
    trainings = [training for run in runs.values() for training in run]
    engines.train_folds(trainings, steps, True, jobs, _engine(engine), address)

    labels = np.load(stages.named(steps, "preprocess").outputs[1])
    fold_ids = np.load(stages.named(steps, "split").outputs[0])
    table = Table("variant", "out of fold", "±", "training", f"against {base.name}", "±", box=None)
    for row in sweep.compare(runs, labels, fold_ids):
        cells = [row.name, f"{row.accuracy:.5f}", f"{row.error:.5f}", f"{row.seconds:.0f} s"]
        if row.name != "base":
            cells += [f"{row.difference:+.5f}", f"{row.uncertainty:.5f}"]
        table.add_row(*cells)
    _print_table(table)
    print(
        f"±: one standard error; that of a difference from how it varies over {sweep.units(base)}"
    )


@app.command()
def ensemble(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 5: put the folds' probabilities together, in data/DATASET/CONFIG/ensemble/."""
    from pipeline.ensemble import ensemble

    steps = _steps(dataset, preset)
    step = stages.named(steps, "ensemble")
    folders = stages.folders(steps)
    announced(step, steps, lambda folder: ensemble(folder, folders, *step.inputs[-2:]), if_stale)


@app.command()
def write(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """Stage 6: write the submission, submissions/DATASET-CONFIG.csv."""
    from pipeline.write import write

    steps = _steps(dataset, preset)
    step = stages.named(steps, "write")
    announced(
        step, steps, lambda folder: write(folder / step.outputs[0].name, *step.inputs), if_stale
    )


@app.command()
def report(
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    if_stale: IfStaleOption = False,
) -> None:
    """The report: one page to look at, submissions/DATASET-CONFIG.html."""
    # Without a home to keep its fonts' names in, matplotlib goes elsewhere, and says so at length.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from pipeline.report import Sources, report
    from pipeline.sources import class_names

    settings = config.load(preset)
    data = stages.dataset(dataset)
    steps = stages.steps(data, settings)
    step = stages.named(steps, "report")
    trainings = [each for each in steps if each.stage == "train"]
    solution = steps[0].manifest.parent / "solution.csv"
    words = f" DATASET={dataset}" * (dataset != "kaggle") + f" CONFIG={preset}"
    sources = Sources(
        tensors=stages.named(steps, "preprocess").manifest.parent,
        fold_ids=stages.named(steps, "split").outputs[0],
        ensemble=stages.named(steps, "ensemble").manifest.parent,
        folders=stages.folders(steps),
        params={Path(member.name).name: member.train for member in settings.members},
        facts=[(artifacts.read_manifest(each) or {"facts": {}})["facts"] for each in trainings],
        solution=solution if solution in step.inputs else None,
        class_names=class_names(data.source),
        title=f"{data.name}, {settings.name}",
        command=f"make submission{words}",
        score=_score(stages.named(steps, "write").outputs[0]),
    )
    announced(step, steps, lambda folder: report(folder / step.outputs[0].name, sources), if_stale)


def _all_fresh(steps: list[Step], remedy: str) -> None:
    """Raise UserError, with the command that helps, if one of these steps is stale."""
    with artifacts.stat_cache(stages.ROOT) as cache:
        reasons = artifacts.staleness(steps, cache)
    for name, reason in reasons.items():
        if reason:
            raise UserError(f"{name}: {reason}; run `{remedy} first")


def _score(submission: Path) -> str:
    """The public score of these very bytes, where the ledger has one."""
    from pipeline import ledger

    if not submission.exists():
        return ""
    digest = artifacts.fingerprint(submission)
    scores = [e.public_score for e in ledger.read(LEDGER) if e.sha256 == digest]
    return next((score for score in reversed(scores) if score), "")


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
    raw, written = steps[0], stages.named(steps, "write")
    needed = steps[: steps.index(written) + 1]
    _all_fresh(needed, f"make submission DATASET={dataset} CONFIG={preset}`")
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
def show(
    row: Annotated[int, typer.Argument(min=1, help="The row, counted from 1 as in the report.")],
    dataset: DatasetOption = "kaggle",
    preset: ConfigOption = "default",
    test: Annotated[bool, typer.Option("--test", help="A row of test.csv, not train.csv.")] = False,
) -> None:
    """Show one digit, and what the networks that have not seen it say of it."""
    import numpy as np

    from pipeline.sources import class_names

    data = stages.dataset(dataset)
    steps = stages.steps(data, config.load(preset))
    tensors = stages.named(steps, "preprocess").manifest.parent
    said = stages.named(steps, "ensemble").outputs[1 if test else 0]
    images_path = tensors / f"{'test' if test else 'train'}_images.npy"
    for stage in ("preprocess", "ensemble"):
        wrong = artifacts.damage(stages.named(steps, stage))
        if wrong:
            words = f"DATASET={dataset} CONFIG={preset}"
            raise UserError(f"{wrong}: run `make ensemble {words}`")
    images = np.load(images_path, mmap_mode="r")
    if row > len(images):
        raise UserError(f"there is no row {row}: there are {len(images):,}")
    shades = " ░▒▓█"
    for line in images[row - 1, :, :, 0]:
        print("".join(shades[(int(pixel) + 63) // 64] * 2 for pixel in line).rstrip())
    truth = None if test else int(np.load(tensors / "train_labels.npy", mmap_mode="r")[row - 1])
    probabilities = np.load(said, mmap_mode="r")[row - 1]
    if np.isnan(probabilities).any():
        print(f"true {class_names(data.source)[truth or 0]}; no fold holds this row out")
        return
    for label, (name, probability) in enumerate(
        zip(class_names(data.source), probabilities, strict=True)
    ):
        marks = " true" if label == truth else ""
        marks += " predicted" if label == probabilities.argmax() else ""
        print(f"{name:>10} {probability:6.4f} {'█' * round(40 * float(probability))}{marks}")


@app.command()
def runs(dataset: DatasetOption = "kaggle") -> None:
    """List the presets that were trained on a dataset, the best out of fold first."""
    from rich.table import Table

    from pipeline import ledger

    home = stages.ROOT / "data" / stages.dataset(dataset).name
    scores: dict[str, str] = {}
    for entry in ledger.read(LEDGER):
        if entry.dataset == home.name and entry.public_score:
            scores[entry.preset] = max(entry.public_score, scores.get(entry.preset, ""))
    found = []
    for path in home.glob("*/ensemble/manifest.json"):
        metrics, name = _facts(path), path.parents[1].name
        if metrics.get("member_accuracies"):
            folders = [path.parents[2] / member for member in metrics["member_accuracies"]]
            found.append((metrics, name, sum(map(_seconds, folders))))
    if not found:
        print(f"nothing was trained on {dataset} yet: make submission DATASET={dataset}")
        return
    table = Table("preset", "out of fold", "±", "folds", "training", "public score", box=None)
    for metrics, name, seconds in sorted(found, key=lambda run: -run[0]["oof_accuracy"]):
        folds = " ".join(f"{accuracy:.4f}" for accuracy in metrics["fold_accuracies"])
        accuracy, error = metrics["oof_accuracy"], metrics["oof_standard_error"]
        table.add_row(
            *(name, f"{accuracy:.5f}", f"{error:.5f}", folds, f"{seconds:.0f} s"),
            scores.get(name, ""),
        )
    _print_table(table)


def _seconds(preset_folder: Path) -> float:
    """How long the folds of a preset were trained."""
    return sum(
        sum(_facts(path).get("epoch_seconds", []))
        for path in preset_folder.glob("fold-*/manifest.json")
    )


def _facts(manifest: Path) -> dict[str, Any]:
    facts: dict[str, Any] = (artifacts.read_sealed(manifest) or {}).get("facts", {})
    return facts


@app.command()
def ledger(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Look up the scores that were pending.")
    ] = False,
) -> None:
    """Show what was sent to the competition, the best score first."""
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
    _print_table(table)


def _print_table(table: Any) -> None:
    from rich.console import Console

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
    # What is read again is remembered: `make` is to know what was found.
    with artifacts.stat_cache(stages.ROOT, trusted=not verify) as cache:
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
    # Of a terminal that lacks ± or █, more is not to be had than a question mark.
    sys.stdout.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    try:
        code = app(standalone_mode=False)
        if code == 130:  # Typer makes that of Ctrl-C, and says nothing
            raise KeyboardInterrupt
        sys.exit(code)
    except TyperException as error:
        context = getattr(error, "ctx", None)
        command = f" {context.info_name}" if context and context.parent else ""
        _fail(f"{error.format_message().rstrip('.')}; see `digits{command} --help`", 2)
    except UserError as error:
        _fail(str(error), 2)
    except OutsideError as error:
        _fail(str(error), 1)
    except OSError as error:
        _fail(explained(error), 1)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here", 130)
    except Exception as error:
        if ran_out(error):
            _fail(f"memory ran out; close other programs or lift its limit, {GOES_ON}", 1)
        _fail(f"{type(error).__name__}: {error} (a fault of the pipeline: --debug shows where)", 1)


def _fail(line: str, code: int) -> None:
    if "DIGITS_DEBUG" in os.environ:
        traceback.print_exc()
    line = " ".join(line.split()).replace(f"{stages.ROOT}/", "")
    print(f"digits: {line}", file=sys.stderr)
    sys.exit(code)
