"""What was made, printed: the status of the stages, one digit, the runs, the submissions."""

import json
import math
import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pipeline import artifacts, config, endings, environment, files, stages, watch
from pipeline.config import Preset
from pipeline.datasets import SOURCES, Dataset
from pipeline.datasets import dataset as find_dataset
from pipeline.errors import UserError
from pipeline.kaggle import SUBMIT_PAGE, inside
from pipeline.stages import Graph
from pipeline.task import Task

# An accuracy that ten classes reach by guessing, with some luck.
CHANCE = 0.2


def status(graph: Graph, verify: bool) -> None:
    """Print the state of each task and how long it took, and what `make submission` would do.

    Args:
        graph: the tasks.
        verify: read every file again, whatever its timestamps; `make` then knows what was found.
    """
    with artifacts.stat_cache(stages.ROOT, trusted=not verify) as cache:
        states = artifacts.states(graph.tasks, cache)
    width = max(14, *(len(task.name) for task in graph.tasks))
    for task in graph.tasks:
        state = states[task.name]
        word: str = state.word
        why = state.reason if word != "missing" else ""
        seconds = artifacts.metadata(task.manifest).get("seconds")
        took = " " * 10 if seconds is None else f"{seconds:8.1f} s"
        if not state.fresh and (process := artifacts.holder(task)):
            word, why = "running", ", ".join([*watch.reached(task), f"process {process}"])
        elif not state.fresh and task.stage == "train" and (epoch := _resumes(task)):
            why = f"{why}  resumes after {epoch}".strip()
        print(f"{task.name:<{width}} {word:<8}{took}  {why}".rstrip())
    print_differences(graph)
    due = [task for task in graph.tasks if states[task.name].word in ("missing", "stale")]
    if not due:
        print(f"`{graph.command_here('submission')}` has nothing to do")
        return
    folds = [task for task in due if task.stage == "train"]
    several = f"train ({len(folds)} folds)"
    names = dict.fromkeys(
        several if task in folds and len(folds) > 1 else task.name for task in due
    )
    seconds = stages.recorded_seconds(due)
    took = "time not known yet" if seconds is None else f"about {seconds / 60:.1f} min as recorded"
    waiting = [name for name, state in states.items() if state.word == "waiting"]
    then = f"; then {', '.join(waiting)}, unless their inputs come out the same" if waiting else ""
    print(f"`{graph.command_here('submission')}` runs {', '.join(names)}: {took}{then}")


def _resumes(task: Task) -> str:
    """Say after which epoch the next run here goes on; empty if it starts anew."""
    found = environment.without_gpu(task.preset.train.precision)
    there = found and (task.staging / found.checkpoint).exists()
    reached = watch.reached(task)
    return reached[0] if there and reached and artifacts.resumable(task) else ""


def print_differences(graph: Graph) -> None:
    """Print in which way the folds of an ensemble were trained differently, if they were."""
    found = {task.name: artifacts.metadata(task.manifest) for task in graph.all("train")}
    for line in environment.differences({name: its for name, its in found.items() if its}):
        print(f"the folds were not trained alike: {line}")


def result(graph: Graph) -> None:
    """Print what a run came to: the estimate, the score if the labels are public, what is next.

    The labels of the test set are read only here, after everything has been decided. In a Kaggle
    notebook, the submission and the report are copied to its output.

    Raises:
        UserError: there is no submission yet.
    """
    download, write = graph.task("download"), graph.task("write")
    submission, found = write.writes["submission"], artifacts.metadata(write.manifest)
    if not found or not submission.exists():
        raise UserError(f"there is no submission yet: run `{graph.command_here('submission')}`")
    if line := artifacts.first_due(graph.up_to("write")):
        remedy = graph.command_here("submission")
        print(f"{line}; this is the result of the earlier run, `{remedy}` brings it up to date")
    print_differences(graph)
    print(
        f"out-of-fold accuracy {found['oof_accuracy']:.5f} ± {found['oof_standard_error']:.5f} "
        f"(one standard error, {found['oof_rows']:,} rows)"
    )
    if found["oof_accuracy"] < CHANCE:
        print("this is close to guessing; the lines of `digits train --force` say why")
    if "solution" in download.writes:
        predicted, truth = _labels(submission), _labels(download.writes["solution"])
        right = sum(predicted[image_id] == label for image_id, label in truth.items())
        print(
            f"accuracy on the test set {right / len(truth):.5f} "
            f"({len(truth) - right:,} of {len(truth):,} wrong)"
        )
    page = graph.task("report").writes["page"]
    shown = {"submission": submission, **({"report": page} if page.exists() else {})}
    if inside.notebook():
        shown = {what: inside.put_out(path) for what, path in shown.items()}
    for what, path in shown.items():
        print(f"{what} {os.path.relpath(path, endings.here())}")
    source = graph.dataset.source
    if source == "kaggle":
        by_hand = f"  (needs internet and a token; or {inside.BY_HAND})" * inside.notebook()
        print(f'next: {graph.command_here("submit")} MESSAGE="my first try"{by_hand}')
    elif source == "local":
        confirmed = artifacts.metadata(download.manifest).get("from_competition")
        command = graph.command_here("submit") if confirmed else submit_command(graph)
        print(
            f"next: {command}  (only if the files are the competition's own; needs a Kaggle token, "
            f"or upload the CSV at {SUBMIT_PAGE})"
        )
    else:
        command = stages.load("kaggle", "fast").command_here("submission")
        print(
            f"next: {command}  (the real competition: needs a Kaggle token, or "
            "DATASET=digit-recognizer.zip, downloaded by hand)"
        )


def submit_command(graph: Graph) -> str:
    """What to type to submit what was made from a folder or zip, and confirm where it is from."""

    def word(name: str, path: Path | None) -> str:
        return os.path.relpath(path, endings.here()) if path else name

    script = Path(sys.executable).with_name("digits")
    digits = [word("", script)] if script.exists() else [sys.executable, "-m", "pipeline"]
    return shlex.join(
        [
            *(*digits, "submit", "--from-competition"),
            *("--dataset", word(graph.dataset.name, graph.dataset.path)),
            *("--config", word(graph.preset.name, graph.preset.path)),
        ]
    )


def _labels(path: Path) -> dict[str, str]:
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        return {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}


def digit(row: int | None, graph: Graph, test: bool) -> None:
    """Print one image, and the probabilities from the networks that have not seen it.

    Args:
        row: counted from 1, as in the report; None for the ensemble's most confident error, or
            in the test set, whose labels nobody has, for its least confident prediction.
        graph: the tasks.
        test: a row of test.csv, not of train.csv.

    Raises:
        UserError: there is no such row, no prediction for it, or there are no predictions yet.
    """
    import numpy as np

    made_of = graph.ensemble()
    preprocess, ensemble = graph.task("preprocess"), graph.task("ensemble")
    images = np.load(preprocess.writes[f"{'test' if test else 'train'}_images"], mmap_mode="r")
    labels = np.load(made_of["train_labels"], mmap_mode="r")
    every = np.load(ensemble.writes["test" if test else "oof"])
    predicted, sure = every.argmax(axis=1), every.max(axis=1)
    rows = np.flatnonzero(~np.isnan(sure))
    kind = "held-out rows"
    if test:
        kind, rows = "least confident predictions", rows[sure[rows].argsort()]
    elif len(errors := rows[predicted[rows] != labels[rows]]):
        kind, rows = "most confident errors", errors[(-sure[errors]).argsort()]
    named = f"{kind}: {', '.join(str(each + 1) for each in rows[:9])}"
    if row is None:
        row = int(rows[0]) + 1
        print(f"row {row}; {named}")
    if row > len(images):
        raise UserError(f"there is no row {row}: there are {len(images):,}; {named}")
    if np.isnan(sure[row - 1]):
        raise UserError(f"no fold holds row {row} out; {named}")
    print("\n".join(drawn(images[row - 1, :, :, 0])))
    truth = None if test else int(labels[row - 1])
    names = SOURCES[graph.dataset.source].class_names
    for label, (name, probability) in enumerate(zip(names, every[row - 1], strict=True)):
        marks = " true" if label == truth else ""
        marks += " predicted" if label == predicted[row - 1] else ""
        print(f"{name:>10} {probability:6.4f} {'█' * round(40 * float(probability))}{marks}")


def drawn(digit: Any) -> list[str]:
    """A digit, uint8 (28, 28), as lines of text in five shades."""
    shades = " ░▒▓█"
    return ["".join(shades[(int(pixel) + 63) // 64] * 2 for pixel in row).rstrip() for row in digit]


def runs(data: Dataset, ledger_path: Path) -> None:
    """Print the presets trained on a dataset: one group per split, the best out of fold first."""
    from pipeline.estimate import standard_error
    from pipeline.kaggle import ledger

    scores = {entry.sha256: entry.public_score for entry in ledger.read(ledger_path)}
    folders = (stages.ROOT / "data" / data.name).glob("*/")
    found = [run for run in (_run(data, folder) for folder in folders) if run]
    if not found:
        print(f"nothing has been trained on {data.name} yet")
        return
    found.sort(key=lambda run: (-run["rows"], run["split"], -run["accuracy"], run["preset"]))
    rows = []
    for run in found:
        written = stages.ROOT / "submissions" / f"{data.name}-{run['preset']}.json"
        outputs = (files.read_json(written) or {}).get("outputs", {})
        error = standard_error(run["accuracy"], run["rows"])
        rows.append(
            [
                *(run["preset"], run["split"], f"{run['rows']:,}", run["seeds"]),
                *(f"{run['accuracy']:.5f}", f"{error:.5f}"),
                "" if run["seconds"] is None else f"{run['seconds']:.0f} s",
                scores.get(next(iter(outputs.values()), ""), ""),
                run["state"],
            ]
        )
    columns = ("preset", "split", "rows", "seeds", "out of fold", "±", "training", "public score")
    print_table((*columns, "state"), rows)
    if len({run["split"] for run in found}) > 1:
        print("estimates on different splits come from different rows: compare within a split")


def _run(data: Dataset, folder: Path) -> dict[str, Any] | None:
    """The estimate and training time of the preset in a folder; None if no fold was trained."""
    averaged = files.read_json(folder / "ensemble" / "manifest.json")
    inputs = averaged["inputs"] if averaged else {}
    used = {path: digest for path, digest in inputs.items() if path.endswith("/oof.npy")}
    manifests = [stages.ROOT / Path(path).with_name("manifest.json") for path in used]
    if not averaged:
        manifests = sorted(folder.glob("fold-*/manifest.json"))
    folds = [fold for fold in map(files.read_json, manifests) if fold]
    if not averaged and not folds:
        return None
    split = next(Path(path) for path in (averaged or folds[0])["inputs"] if "/folds/" in path)
    measured = [fold["metadata"] for fold in folds]
    run = {
        "preset": folder.name,
        "split": split.parent.name,
        "seeds": ", ".join(map(str, sorted({fold["params"]["train.seed"] for fold in folds}))),
        "seconds": sum(sum(its.get("epoch_seconds", [])) for its in measured),
        "state": "",
    }
    if averaged:
        metrics = averaged["metadata"]
        run |= {"rows": metrics["oof_rows"], "accuracy": metrics["oof_accuracy"]}
        now = {path: digest for fold in folds for path, digest in fold["outputs"].items()}
        if not used.items() <= now.items():
            run |= {"seconds": None, "state": "stale: folds were trained again since"}
        elif files.fingerprint(stages.ROOT / split) != inputs[str(split)]:
            run["state"] = "stale: other rows are held out since"
        else:
            run["state"] = _stale(data, folder.name)
    else:
        rows = sum(its["held_out_rows"] for its in measured)
        right = sum(its["held_out_accuracy"] * its["held_out_rows"] for its in measured)
        state = f"{len(folds)} fold{'s' * (len(folds) > 1)} trained, not averaged yet"
        run |= {"rows": rows, "accuracy": right / rows, "state": state}
    return run


def _stale(data: Dataset, name: str) -> str:
    """Say why training and averaging a preset anew would not leave the same; empty if it would.

    The name is that of a preset that comes with the pipeline, or of a file where the user is.
    """
    ours = name in config.preset_names()
    word = name if ours else str(endings.here() / f"{name}.toml")
    if not ours and not Path(word).exists():
        return f"unknown: there is no {name}.toml in this folder"
    try:
        preset = config.load(word)
    except UserError as error:
        return f"unknown: {error}"
    line = artifacts.first_due(stages.graph(data, preset).up_to("ensemble"))
    return f"stale: {line}" if line else ""


def submissions(ledger_path: Path) -> None:
    """Print the ledger, the best score first."""
    from pipeline.kaggle import ledger

    entries = sorted(ledger.read(ledger_path), key=lambda entry: entry.public_score, reverse=True)
    if not entries:
        print("nothing has been submitted yet: make submit")
        return
    columns = (
        *("public_score", "oof_accuracy", "oof_standard_error", "status", "dataset", "preset"),
        *("submitted_at", "ref", "message"),
    )
    print_table(columns, [[getattr(entry, column) for column in columns] for entry in entries])


def parameters(preset: Preset, origins: Mapping[str, str]) -> None:
    """Print every parameter of a preset: value, meaning, range; * marks what is not the default.

    Args:
        preset: the preset.
        origins: from `config.origins`; what another preset sets is marked as coming from there.
    """
    for table in config.TABLES:
        if table == "about" or (table == "train" and preset.others):
            continue
        print(f"[{table}]")
        for parameter in fields(getattr(preset, table)):
            value = getattr(getattr(preset, table), parameter.name)
            mark = " " if value == parameter.default else "*"
            text = f"{mark} {parameter.name} = {json.dumps(value)}"
            origin = origins.get(f"{table}.{parameter.name}", preset.name)
            source = f"; from {origin}" * (origin != preset.name)
            meaning = f"{parameter.metadata['meaning']} ({config.allowed(parameter)}{source})"
            print(f"{text:<33} # {meaning}")
    if preset.others:
        members = " ".join(member.name for member in preset.others)
        print(f"each member has its own [train]: {members}")


def presets() -> None:
    """Print the presets that come with the pipeline, the quickest first."""
    rows = []
    loaded = [config.load(name) for name in config.preset_names()]
    for preset in sorted(loaded, key=lambda each: (each.about.seconds or math.inf, each.name)):
        about = preset.about
        seconds = f"{about.seconds:,.4g} s" if about.seconds else ""
        rows.append((preset.name, f"{about.accuracy:.5f}", seconds, about.use))
    print_table(("preset", "accuracy", "training", "use it for"), rows)
    print(
        "accuracy: held-out rows of different data (README.md); training: two cores with bfloat16; "
        "`digits config --config fast` shows one preset"
    )


def sample_submission(file: Path, dataset: str | None) -> Path:
    """The sample submission that a CSV is to be checked against.

    Args:
        file: the CSV.
        dataset: its dataset, as the user names it; None for the one that the manifest beside a CSV
            of our own names, or else the competition.

    Raises:
        UserError: it is missing.
    """
    params = (files.read_json(file.with_suffix(".json")) or {}).get("params")
    named = params.get("dataset") if isinstance(params, dict) else None
    name = find_dataset(dataset or "kaggle").name
    if dataset is None and isinstance(named, str):
        name = named
    sample = stages.ROOT / "data" / name / "raw" / "sample_submission.csv"
    if not sample.exists():
        raise UserError(
            f"{os.path.relpath(sample)} is missing; run `make download`, or name the sample "
            "submission with --sample"
        )
    return sample


def print_table(columns: Iterable[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table as wide as the terminal, or 160 characters wide elsewhere."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
