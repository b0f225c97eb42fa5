"""`digits status` and `digits watch`: what is due and why, and folds that are being trained."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Digits, build, works

from pipeline import artifacts, environment, files, stages
from pipeline.artifacts import add_metadata
from pipeline.cli.watch import BLOCKS, WIDTH, curve
from pipeline.task import Task
from pipeline.train import history
from pipeline.train.checkpoint import write_history

ROWS = [
    {"epoch": epoch, "loss": loss, "accuracy": 0.9, "val_loss": 2 * loss, "val_accuracy": 0.5}
    for epoch, loss in ((1, 1.0), (2, 0.5), (3, 0.25))
]
HOLD = """
import sys, time
from pathlib import Path
from pipeline import files
with files.locked(Path(sys.argv[1]), "a fold"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def choice(tiny_folder: Path) -> list[str]:
    return ["--dataset", str(tiny_folder), "--config", "sprint"]


@pytest.fixture
def tiny(project: Path, tiny_folder: Path, choice: list[str]) -> list[str]:
    """The options of a tiny dataset with a preset for which every stage has run."""
    build(str(tiny_folder))
    return choice


@pytest.fixture
def fold(project: Path, tiny_folder: Path) -> Task:
    """A fold that was begun and not completed; everything before it is there."""
    graph = stages.load(str(tiny_folder), "sprint")
    for task, work in works(str(tiny_folder)):
        if task.stage == "train":
            break
        artifacts.run(task, graph.tasks, work=work)

    def interrupted(writes: object) -> dict[str, object]:
        raise KeyboardInterrupt

    [fold] = graph.all("train")
    with pytest.raises(KeyboardInterrupt):
        artifacts.run(fold, graph.tasks, work=interrupted)
    write_history(fold.staged()["history"], ROWS)
    return fold


@pytest.fixture
def running(fold: Task) -> Iterator[int]:
    """Another process is training the fold; its number."""
    progress = {"left": 240.0, "at": time.time(), "all": True}
    (fold.staging / history.PROGRESS).write_text(json.dumps(progress))
    lock = str(fold.staging.with_suffix(".lock"))
    process = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process.pid
    process.kill()
    process.wait()


def states(digits: Digits, *words: str) -> tuple[dict[str, str], str]:
    """What `digits status` prints: by task, the state and the reason, without times; the end."""
    first, *lines, last = digits("status", *words).lines
    assert first == "dataset tiny, preset sprint"
    return {line[:14].strip(): re.sub(r" +[\d.]+ s\b *", " ", line[15:]) for line in lines}, last


def edit(project: Path, module: str) -> None:
    """Change the code of a module: a statement that is executed on import."""
    with (project / "pipeline" / module).open("a") as file:
        file.write("\nid(0)\n")


# --- status --------------------------------------------------------------------------------------


def test_status_shows_what_is_missing(project: Path, digits: Digits) -> None:
    ended = digits("status", "--dataset", "sample", "--config", "demo")
    assert ended.code == 0
    names = ["download", "preprocess", "split", "train fold 0", "train fold 1", "train fold 2"]
    _, *lines, last = ended.lines
    assert [line.split() for line in lines] == [
        [*name.split(), "missing"] for name in [*names, "ensemble", "write", "report"]
    ]
    runs = "runs download, preprocess, split, train (3 folds), ensemble, write, report: time not"
    assert last.startswith(f"`make submission DATASET=sample CONFIG=demo` {runs}")


@pytest.mark.parametrize("verify", [[], ["--verify"]])
def test_status_shows_what_is_stale_and_why_and_what_waits(
    project: Path, tiny: list[str], digits: Digits, verify: list[str]
) -> None:
    (project / "data/tiny/arrays/test_images.npy").unlink()
    found, last = states(digits, *tiny, *verify)
    assert found["download"].strip() == "fresh"
    assert found["preprocess"] == "stale data/tiny/arrays/test_images.npy is missing"
    assert found["train fold 0"] == "waiting for preprocess, which may come out the same"
    assert found["write"] == "waiting for ensemble, which may come out the same"
    waiting = "split, train fold 0, ensemble, write, report, unless their inputs come out the same"
    assert re.search(rf"` runs preprocess: about [\d.]+ min as recorded; then {waiting}$", last)


def test_status_ends_with_what_make_would_run(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    [fold] = stages.load(tiny[1], "sprint").all("train")
    assert states(digits, *tiny)[1].endswith("` has nothing to do")
    add_metadata(fold, "seconds", 600.0)
    build(tiny[1])  # the report reads the fold's manifest
    edit(project, "train/fold.py")
    found, last = states(digits, *tiny)
    assert found["train fold 0"] == "stale the code in train/fold.py has changed"
    command = stages.load(tiny[1], "sprint").command_here("submission")
    assert last.startswith(f"`{command}` runs train fold 0: about 10.0 min as recorded; then ens")


def test_verify_finds_silent_corruption(project: Path, tiny: list[str], digits: Digits) -> None:
    """A byte that changed on the disk, while the file system reports the same timestamps."""
    path = project / "data/tiny/arrays/test_images.npy"
    with artifacts.stat_cache(project) as cache:
        known = files.fingerprint(path)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        now = path.stat()
        cache[str(path)] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, known]
    assert not [line for line in digits("status", *tiny).lines if " stale " in line]
    lines = digits("status", *tiny, "--verify").lines
    assert [line for line in lines if " stale " in line and "test_images.npy" in line]
    assert [line for line in digits("status", *tiny).lines if " stale " in line], "make knows too"


# --- folds that are being trained -----------------------------------------------------------------


def test_status_and_watch_show_how_far_a_running_fold_has_come(
    digits: Digits, choice: list[str], running: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    found, _ = states(digits, *choice)
    assert found["train fold 0"].split() == (
        f"running epoch 3 of 1, 4 min left for all folds, process {running}".split()
    )
    assert found["ensemble"] == "missing"
    _, line = digits("watch", *choice).lines
    assert line.split() == [
        *("fold", "0", "epoch", "3", "of", "1,", "4", "min", "left", "for", "all", "folds"),
        *("0.2500", "0.5000", curve([2.0, 1.0, 0.5]), "0.50000", curve([0.5, 0.5, 0.5])),
    ]


def test_status_shows_where_a_stopped_fold_will_continue(
    digits: Digits, choice: list[str], fold: Task
) -> None:
    def state() -> str:
        return " ".join(states(digits, *choice)[0]["train fold 0"].split())

    (fold.staging / "checkpoint-elsewhere.npz").touch()
    assert state() == "missing", "it is of another machine"
    here = environment.without_gpu(fold.preset.train.precision)
    assert here is not None
    (fold.staging / here.checkpoint).touch()
    assert state() == "missing resumes after epoch 3 of 1"
    origin = files.read_json(fold.staging / artifacts.ORIGIN)
    assert origin is not None
    origin["params"]["train.epochs"] = 7
    files.write_json(fold.staging / artifacts.ORIGIN, origin)
    assert state() == "missing", "it is of other parameters"


def test_watch_says_how_to_start_where_nothing_runs(
    digits: Digits, choice: list[str], fold: Task
) -> None:
    lines = digits("watch", *choice).lines
    assert lines[1].split()[:5] == ["fold", "0", "stopped", "after", "epoch"]
    assert lines[-1].startswith("no fold is being trained; to start: make train DATASET=")


def test_a_curve_is_drawn_between_its_lowest_and_its_highest() -> None:
    assert curve([]) == ""
    assert curve([0.3]) == BLOCKS[0]
    assert curve([8.0, 4.0, 2.0, 1.0]) == BLOCKS[7] + BLOCKS[5] + BLOCKS[2] + BLOCKS[0]
    long = curve([2.0**-i for i in range(100)])
    assert len(long) == WIDTH
    assert (long[0], long[-1]) == (BLOCKS[-1], BLOCKS[0])


def test_half_a_history_is_none(tmp_path: Path) -> None:
    path = tmp_path / "history.csv"
    assert history.read(path) == []
    write_history(path, ROWS)
    assert history.read(path) == ROWS
    path.write_text(path.read_text()[:-10])
    assert history.read(path) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7200, "2.0 h")]
)
def test_a_duration_is_in_seconds_minutes_or_hours(seconds: float, text: str) -> None:
    assert history.duration(seconds) == text
