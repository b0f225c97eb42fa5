"""watch.py: folds that are being trained, as `digits status` and `digits watch` show them."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Digits, works

from pipeline import artifacts, environment, files, stages
from pipeline.task import Task
from pipeline.train.checkpoint import write_history
from pipeline.watch import BLOCKS, PROGRESS, WIDTH, curve, history

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
    (fold.staging / PROGRESS).write_text(json.dumps({"left": 240.0, "at": time.time()}))
    lock = str(fold.staging.with_suffix(".lock"))
    process = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    yield process.pid
    process.kill()
    process.wait()


def states(digits: Digits, tiny_folder: Path) -> dict[str, str]:
    lines = digits("status", "--dataset", str(tiny_folder), "--config", "sprint").lines
    return {line[:14].strip(): " ".join(line[15:].split()) for line in lines}


def test_status_shows_how_far_a_running_fold_has_come(
    digits: Digits, tiny_folder: Path, running: int
) -> None:
    found = states(digits, tiny_folder)
    assert found["train fold 0"] == f"running epoch 3 of 1, 4 min left, process {running}"
    assert found["split"].startswith("fresh")
    assert found["ensemble"] == "missing"


def test_status_shows_where_a_stopped_fold_will_continue_and_no_other_work(
    digits: Digits, tiny_folder: Path, fold: Task
) -> None:
    (fold.staging / "checkpoint-elsewhere.npz").touch()
    assert states(digits, tiny_folder)["train fold 0"] == "missing", "it is of another machine"
    here = environment.without_gpu(fold.preset.train.precision)
    assert here is not None
    (fold.staging / here.checkpoint).touch()
    assert states(digits, tiny_folder)["train fold 0"] == "missing resumes after epoch 3 of 1"
    origin = files.read_json(fold.staging / artifacts.ORIGIN)
    assert origin is not None
    origin["params"]["train.epochs"] = 7
    files.write_json(fold.staging / artifacts.ORIGIN, origin)
    assert states(digits, tiny_folder)["train fold 0"] == "missing"


def test_looking_at_a_task_leaves_its_lock_free(fold: Task) -> None:
    assert artifacts.holder(fold) is None
    lock = str(fold.staging.with_suffix(".lock"))
    command = [sys.executable, "-c", HOLD.replace("600", "0"), lock]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("held\n", "")


def test_watch_shows_the_folds_once_where_there_is_no_terminal(
    digits: Digits, tiny_folder: Path, running: int
) -> None:
    ended = digits("watch", "--dataset", str(tiny_folder), "--config", "sprint")
    assert ended.code == 0
    _, line = ended.lines
    assert line.split() == [
        *("fold", "0", "epoch", "3", "of", "1,", "4", "min", "left"),
        *("0.2500", "0.5000", curve([2.0, 1.0, 0.5]), "0.50000", curve([0.5, 0.5, 0.5])),
    ]


def test_watch_says_how_to_start_where_nothing_runs(
    digits: Digits, tiny_folder: Path, fold: Task
) -> None:
    lines = digits("watch", "--dataset", str(tiny_folder), "--config", "sprint").lines
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
    assert history(path) == []
    write_history(path, ROWS)
    assert history(path) == ROWS
    path.write_text(path.read_text()[:-10])
    assert history(path) == []
