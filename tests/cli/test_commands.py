"""The command line: exit codes, one line on stderr for each error, no heavy import before use."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import (
    Digits,
    build,
    contents,
    fake_training,
    run_digits,
    write_digits,
)

from pipeline import artifacts, cli
from pipeline.config import Train
from pipeline.errors import ExternalError, UserError
from pipeline.stages import STAGES, Graph
from pipeline.task import Task

COMMANDS = sorted(
    command.name or command.callback.__name__ for command in cli.app.registered_commands
)


def one_line(text: str) -> bool:
    return text.startswith("digits: ") and text.count("\n") == 1 and text.endswith("\n")


# --- help and start-up ---------------------------------------------------------------------------


def test_help_lists_every_command_under_a_heading_in_a_whole_sentence(
    monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = digits("--help").lines
    listed = lines[lines.index("Stages:") :]
    for heading in ("Results:", "Your own pictures:", "Kaggle:", "Experiments:", "Cleaning:"):
        assert heading in listed
    sentences = dict(line.split(maxsplit=1) for line in listed if line.startswith("  "))
    assert set(sentences) == {*COMMANDS, "kaggle"} > {stage.name for stage in STAGES}
    for name, sentence in sentences.items():
        assert sentence.endswith("."), name
        assert not sentence.endswith("..."), name
        assert len(sentence.partition(": ")[2] or sentence) <= 55, name


IMPORTS_PROGRAM = """\
import contextlib, json, sys
from pipeline import cli
for words in json.loads(sys.argv[1]):
    sys.argv = ["digits", *words]
    with contextlib.suppress(SystemExit):
        cli.main()
heavy = ("tensorflow", "keras", "pandas", "kaggle", "kagglesdk", "sklearn", "mlxtend", "numpy")
print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""


def test_commands_that_compute_nothing_import_nothing_heavy(
    project: Path, tiny_folder: Path
) -> None:
    build(str(tiny_folder))
    choice = ["--dataset", str(tiny_folder), "--config", "sprint"]
    commands = [["--help"], *([name, "--help"] for name in COMMANDS), ["kaggle", "--help"]]
    commands += [[stage, *choice] for stage in ("status", "result", "train", "report")]
    process = subprocess.run(
        [sys.executable, "-c", IMPORTS_PROGRAM, json.dumps(commands)],
        cwd=project,
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stderr == "[]\n"
    assert process.stdout.count("Usage: ") == len(COMMANDS) + 2


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["trian"], "see `digits --help`"),
        (["train", "--epochs", "0"], "see `digits train --help`"),
        (["check"], "issing argument"),
        (["kaggle", "notebook", "--confg", "fast"], "see `digits kaggle notebook --help`"),
        (["show", "0"], "x>=1"),
        (["status", "--config", "spirnt"], "did you mean sprint?"),
        (["status", "--dataset", "keggle"], "there is no dataset 'keggle'"),
        (["train", "--config", "demo", "--dataset", "sample", "--fold", "3"], "from 0 to 2"),
        (["train", "--config", "demo", "--dataset", "sample", "--fold", "one"], "'one'"),
        (["preprocess", "--dataset", "sample"], "run `make preprocess`"),
        (["result", "--dataset", "sample"], "make submission DATASET=sample"),
        (["check", "absent.csv"], "absent.csv"),
    ],
)
def test_a_user_error_ends_in_one_line_and_2(
    project: Path, digits: Digits, arguments: list[str], part: str
) -> None:
    ended = digits(*arguments)
    assert ended.code == 2
    assert one_line(ended.error)
    assert part in ended.error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("use another file"), 2, "use another file"),
        (ExternalError("the network\nis down"), 1, "the network is down"),
        (KeyboardInterrupt(), 130, "stopped"),
        (OSError(28, "No space left on device", "x.npy"), 1, "x.npy: No space left"),
        (MemoryError(), 1, "out of memory"),
        (ZeroDivisionError("half"), 1, "ZeroDivisionError: half"),
    ],
)
def test_an_error_of_a_stage_ends_the_command_and_leaves_nothing(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits: Digits,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    def download(**_: object) -> dict[str, object]:
        raise error

    monkeypatch.setattr("pipeline.download.download", download)
    ended = digits("download", "--dataset", "sample")
    assert ended.code == code
    assert one_line(ended.error)
    assert ended.error.startswith(f"digits: {line}")
    assert not list((project / "data").rglob("*.csv"))


def test_the_environment_names_dataset_and_preset(
    project: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATASET", "sample")
    monkeypatch.setenv("CONFIG", "demo")
    assert digits("status").lines[0] == "dataset sample, preset demo"
    assert digits("status", "--dataset", "mnist").lines[0] == "dataset mnist, preset demo"
    monkeypatch.setenv("CONFIG", "spirnt")
    assert "CONFIG=spirnt in the environment: there is no preset" in digits("train").error
    assert "there is no preset 'tset'" in digits("train", "--config", "tset").error
    for words in (["config"], ["compare", "demo", "fast"]):
        assert "spirnt" not in digits(*words).error
    monkeypatch.setenv("DATASET", "keggle")
    ended = digits("runs")
    assert ended.code == 2
    assert "DATASET=keggle in the environment: there is no dataset 'keggle'" in ended.error
    assert "keggle" not in digits("sweep", "absent.toml").error


def test_only_debug_shows_a_traceback(project: Path) -> None:
    plain = run_digits(project, "status", "--dataset", "absent")
    assert (plain.returncode, plain.stdout) == (2, "")
    assert one_line(plain.stderr)
    assert "Usage: " in run_digits(project).stderr
    debug = run_digits(project, "--debug", "status", "--dataset", "absent")
    assert debug.returncode == 2
    assert debug.stderr.startswith("Traceback")
    assert debug.stderr.endswith(plain.stderr)


def test_a_command_works_on_the_clone_that_the_user_is_in(project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other clone"
    shutil.copytree(project, other)
    (other / "pipeline/presets/other.toml").touch()
    process = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--config", "other"],
        cwd=other / "data",
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith("dataset kaggle, preset other")


# --- stages --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_stages_one_by_one(project: Path, tiny_folder: Path) -> None:
    """From a folder to a checked submission, each stage in a process; a trial changes nothing."""
    (project / "mine.toml").write_text(
        "[split]\nfolds = 1\n[train]\nwidth = 4\nepochs = 2\nbatch_size = 16\n"
    )
    choice = ["--dataset", str(tiny_folder), "--config", "mine.toml"]
    for stage in STAGES:
        process = run_digits(project, stage.name, *choice)
        assert process.returncode == 0, process.stderr
        assert process.stderr == ""
        assert process.stdout.splitlines()[-1].startswith(f"{stage.name}")
        assert "done in" in process.stdout.splitlines()[-1]
        again = run_digits(project, stage.name, *choice)
        assert again.stdout.endswith("fresh\n")
    assert len((project / "submissions/tiny-mine.csv").read_text().splitlines()) == 21

    page = (project / "submissions/tiny-mine.html").read_text()
    assert "<title>tiny, mine: " in page
    assert "on the test set" not in page

    checked = run_digits(project, "check", "submissions/tiny-mine.csv")
    assert checked.returncode == 0
    assert checked.stdout.startswith("submissions/tiny-mine.csv: 20 rows")

    status = run_digits(project, "status", *choice)
    assert status.returncode == 0
    _, *lines, last = status.stdout.splitlines()
    assert len(lines) == len(STAGES)
    assert last.endswith("has nothing to do")
    assert all(line.split()[-3] == "fresh" and line.endswith(" s") for line in lines)

    before = contents(project / "data"), contents(project / "submissions")
    trial = run_digits(project, "train", *choice, "--fold", "0", "--epochs", "1", "--limit", "20")
    assert trial.returncode == 0, trial.stderr
    after = contents(project / "data"), contents(project / "submissions")
    scratch = {name for name in after[0] if name.startswith("tiny/scratch/")}
    assert "tiny/scratch/mine/fold-0/weights.keras" in scratch
    assert {name: after[0][name] for name in after[0].keys() - scratch} == before[0]
    assert after[1] == before[1]
    manifest = json.loads((project / "data/tiny/scratch/mine/fold-0/manifest.json").read_text())
    assert (manifest["metadata"]["epochs"], manifest["metadata"]["rows"]) == (1, 20)
    assert run_digits(project, "status", *choice).stdout == status.stdout


def stale_pair(project: Path) -> Graph:
    """A graph with two folds that were trained with other code."""
    (project / "pair.toml").write_text("[split]\nfolds = 2\n")
    write_digits(project / "mine")
    graph = build("mine", "pair.toml")
    here = {"precision": "float32", "device": "CPU", "threads": 2, "versions": {}}
    for fold in graph.all("train"):
        for name, value in here.items():
            artifacts.add_metadata(fold, name, value)
    with (project / "pipeline" / "train" / "fold.py").open("a") as file:
        file.write("\nid(0)\n")
    return graph


CHOICE = "dataset mine, preset pair"
SAME = ("train", "--dataset", "mine", "--config", "pair.toml", "--same")


def causes(graph: Graph) -> list[str]:
    """Why each fold is due."""
    return [state.cause for state in artifacts.states(graph.all("train")).values()]


@pytest.mark.parametrize(
    ("threads", "more", "elsewhere", "expected", "line"),
    [
        (2, b"", 2, ["", ""], "recorded anew, without training: train fold 0, train fold 1"),
        (2, b"", 8, ["", "code"], "recorded anew, without training: train fold 0"),
        (2, b"!", 2, ["code", "code"], "not the same (the code gives other results)"),
        (1, b"!", 2, ["code", "code"], "not the same (threads: 2 in then, 1 in now)"),
    ],
)
def test_same_trains_one_fold_to_see_whether_all_would_be_the_same(
    project: Path,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
    threads: int,
    more: bytes,
    elsewhere: int,
    expected: list[str],
    line: str,
) -> None:
    graph = stale_pair(project)
    first, second = graph.all("train")
    artifacts.add_metadata(second, "threads", elsewhere)
    before = [contents(task.folder) for task in (first, second)]
    known = artifacts.metadata(first.manifest)
    trained = []

    def work(task: Task, later: list[Task], jobs: int, writes: Mapping[str, Path]) -> object:
        trained.append(task.fold)
        metadata = known | fake_training(task.reads, writes, task.fold)
        writes["weights"].write_bytes(writes["weights"].read_bytes() + more)
        return {**metadata, "threads": threads}

    monkeypatch.setattr("pipeline.train.local.work", work)
    ended = digits(*SAME)
    assert ended.code == 0
    assert trained == [0]
    assert line in ended.lines[2]
    assert causes(graph) == expected
    for task, files in zip((first, second), before, strict=True):
        after = contents(task.folder)
        assert {name for name in after if after[name] != files[name]} <= {"manifest.json"}


def test_same_is_only_for_folds_that_are_stale_by_their_code(project: Path, digits: Digits) -> None:
    graph = stale_pair(project)
    (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nepochs = 3\n")
    ended = digits(*SAME)
    assert (ended.code, ended.lines) == (0, [CHOICE, "train: no fold is stale by its code alone"])
    (project / "pair.toml").write_text("[split]\nfolds = 2\n")
    graph.task("preprocess").writes["test_images"].unlink()
    ended = digits(*SAME)
    assert ended.code == 2
    assert "data/mine/arrays/test_images.npy is missing; run `make train`" in ended.error


@pytest.mark.parametrize("edited", [True, False])
def test_hours_of_training_are_not_repeated_without_a_word(
    project: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch, edited: bool
) -> None:
    graph = stale_pair(project)
    for fold in graph.all("train"):
        artifacts.add_metadata(fold, "seconds", 450.0)
    if not edited:
        (project / "pair.toml").write_text("[split]\nfolds = 2\n[train]\nepochs = 3\n")
    monkeypatch.setattr("pipeline.train.local.train_here", lambda *_: None)
    reason = "the code in train/fold.py has changed"
    if not edited:
        reason = f"parameter train.epochs was {Train().epochs} and is now 3"
    _, line, *more = digits(*SAME[:-1]).lines
    assert line == f"train: 2 folds again, about 15 min as recorded, because {reason}"
    assert ["--same" in line for line in more] == [True] * edited
    assert digits(*SAME[:-1], "--fold", "0").lines == [CHOICE]


def test_train_removes_what_was_left_beside_a_fresh_fold(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    [fold] = build(str(tiny_folder)).all("train")
    fold.staging.mkdir()
    lines = digits("train", "--dataset", str(tiny_folder), "--config", "sprint").lines
    assert lines == ["dataset tiny, preset sprint", "train: all folds fresh"]
    assert not fold.staging.exists()
