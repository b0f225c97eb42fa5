"""progress.py: what a run prints of how far it is, and how long it will take."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Train
from pipeline.train import progress
from pipeline.train.history import PROGRESS, duration
from pipeline.train.progress import EPOCH, Board, TrainingBar, ending, flops_per_image, runs

ROW = {
    "epoch": 2,
    "loss": 0.5,
    "accuracy": 0.8,
    "val_loss": 0.25,
    "val_accuracy": 0.9,
    "learning_rate": 0.001,
}
NUMBERS = "loss 0.5000, accuracy 0.8000, held out: loss 0.2500, accuracy 0.9000"


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A function that lets seconds pass on the clock of progress.py."""
    now = [1000.0]

    def pass_by(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(
        progress, "time", SimpleNamespace(monotonic=lambda: now[0], time=lambda: now[0])
    )
    return pass_by


def fold(number: int, folder: Path, **params: Any) -> Any:
    """As much of a fold's task as progress.py needs."""
    preset = SimpleNamespace(train=Train(**params))
    name = f"train fold {number}"
    return SimpleNamespace(name=name, preset=preset, folder=folder, staging=folder)


@contextmanager
def training_bar(
    folder: Path, epochs: int, later: int = 0, steps: int = 10, done: int = 0, images: int = 0
) -> Iterator[TrainingBar]:
    """Show the progress of fold 1 on 1000 rows, with as many like it to come as `later` says."""
    task = fold(1, folder, epochs=epochs)
    with TrainingBar(task, [task] * later) as bar:
        bar.begin(rows=1000, images=images, steps=steps, done=done)
        yield bar


def run_steps(bar: TrainingBar, calls: range, sleep: Callable[[float], None], each: float) -> None:
    for call in calls:
        sleep(each)
        bar.step(call, {"loss": 0.5, "accuracy": 0.8})


def seconds_left(folder: Path) -> float:
    return float(json.loads((folder / PROGRESS).read_text())["left"])


def test_after_some_seconds_of_steps_the_time_left_is_said_once(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path
) -> None:
    """From the steps after the first call, which traces the graph."""
    for later, left in ((0, 990), (3, 990 + 3 * 1060)):
        with training_bar(tmp_path, epochs=20, later=later, steps=50) as bar:
            sleep(61)  # the first step and the tracing
            bar.step(0, {})
            run_steps(bar, range(1, 3), sleep, 1.0)
            assert capsys.readouterr().out == "", "2 s are not more than 2 s"
            run_steps(bar, range(3, 50), sleep, 1.0)
            said = capsys.readouterr().out
        scope = " for all folds" if later else ""
        # Three steps were measured; 996 are left, and each later fold has a tracing too.
        whole = 996 + later * (1000 + 61)
        assert said == (
            f"fold 1: {duration(whole)} left{scope}, measured over 3 steps on this machine\n"
        ), left
        assert seconds_left(tmp_path) == whole


@pytest.mark.parametrize(("later", "images"), [(0, 0), (3, 0), (3, 6000)])
def test_after_two_epochs_the_time_left_is_right(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path, later: int, images: int
) -> None:
    """The first epoch of each fold takes 40 s, the others 10 s; then come the predictions."""
    predictions = images / 3 / 1000 * 10
    left = later * (40 + 4 * 10 + predictions) + predictions + 5 * 10
    with training_bar(tmp_path, epochs=5, later=later, images=images) as bar:
        sleep(31)
        bar.step(0, {})
        run_steps(bar, range(1, 10), sleep, 0.2)
        for epoch in range(1, 6):
            sleep(7.2 if epoch == 1 else 10)
            left -= 10
            bar.epoch({**ROW, "epoch": epoch})
            assert seconds_left(tmp_path) == pytest.approx(left, rel=1 if epoch == 1 else 0.01)
            scope = " for all folds" if later else ""
            [line] = capsys.readouterr().out.splitlines()[-1:]
            assert line.startswith(f"fold 1, epoch {epoch}/5: {NUMBERS}; ")
            assert line.endswith(f" left{scope}")
            assert EPOCH.match(line)


def test_a_prediction_takes_a_third_of_a_training_step() -> None:
    assert ending(Train(), rows=1000, images=600) == pytest.approx(0.2)
    assert ending(Train(predict_shift=1), rows=1000, images=600) == pytest.approx(9 * 0.2)


def test_folds_alike_take_equally_long() -> None:
    assert runs(Train(), [], 1000) == 1
    assert runs(Train(), [Train(seed=3)] * 4, 1000) == 5
    assert runs(Train(epochs=10), [Train(epochs=20, limit=500)], 1000) == 2
    assert runs(Train(), [Train()] * 3, 1000, jobs=2) == 2
    assert runs(Train(), [], 1000, jobs=2) == 1, "one fold takes as long as one fold"


def test_other_networks_take_as_long_as_their_operations_say(fresh_keras: Any) -> None:
    narrow, wide = flops_per_image("strided", 8), flops_per_image("strided", 16)
    # Outputs × weights × 2 (multiply, add); once forward, twice backward except for the pixels.
    first = 14 * 14 * 25 * 8
    others = 14 * 14 * 9 * 8 * 16 + 7 * 7 * 9 * 16 * 32 + 7 * 7 * 9 * 32 * 32 + 32 * 10
    assert narrow == 4 * first + 6 * others
    found = runs(Train(width=8), [Train(width=8), Train(width=16, epochs=5)], 1000)
    assert found == pytest.approx(2 + wide / narrow / 2)


WHERE = {"node": "kite", "ray_node": "0123456789abcdef", "gpus": []}


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)


def test_the_board_says_where_each_fold_is_trained(capsys: Any, tmp_path: Path) -> None:
    task = fold(1, tmp_path, epochs=5)
    with Board() as board:
        board.show(task, [], WHERE)
        board.show(task, [{**ROW, "epoch": 1}, ROW], {**WHERE, "gpus": [0, 3]})
        board.print("train fold 1: 7 of [9]")
    assert capsys.readouterr().out.splitlines() == [
        "train fold 1 on kite (01234567), CPU: started",
        f"train fold 1 on kite (01234567), GPU 0, GPU 3, epoch 2/5: {NUMBERS}",
        "train fold 1: 7 of [9]",
    ]


def test_a_kaggle_notebook_gets_lines_although_it_seems_to_be_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    terminal(monkeypatch)
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with Board() as board:
        board.show(fold(1, tmp_path, epochs=5), [ROW], WHERE)
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith(NUMBERS)
    assert "\x1b" not in line


def test_on_a_terminal_the_board_has_a_bar_per_fold(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    terminal(monkeypatch)
    task = fold(1, tmp_path, epochs=5)
    with Board() as board:
        board.show(task, [], WHERE)
        board.show(task, [ROW, ROW], WHERE)
    output = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"train fold 1 .* 2/5 +kite \(01234567\), CPU", output)
    assert "held out" not in output
