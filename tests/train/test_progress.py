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
from pipeline.train.progress import Board, TrainingBar, ending, flops_per_image, runs

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


@pytest.mark.parametrize(("later", "all_folds"), [(0, ""), (3, ", 33 min for all folds")])
def test_the_duration_is_forecast_once(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path, later: int, all_folds: str
) -> None:
    """From the steps after the first call, which traces the graph."""
    with training_bar(tmp_path, epochs=20, later=later, steps=50) as bar:
        sleep(60)
        bar.step(0, {})
        run_steps(bar, range(1, 5), sleep, 0.5)
        assert capsys.readouterr().out == "", "2 s are not more than 2 s"
        run_steps(bar, range(5, 50), sleep, 0.5)
    assert capsys.readouterr().out == (
        f"fold 1: about 8 min for 20 epochs{all_folds} on this machine, measured over 5 steps\n"
    )


def test_a_short_forecast_is_in_seconds(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path
) -> None:
    with training_bar(tmp_path, epochs=3, later=1, done=1) as bar:
        run_steps(bar, range(0, 10), sleep, 0.75)
    assert "about 22 s for 3 epochs, 45 s for all folds on" in capsys.readouterr().out


def test_each_epoch_has_a_line_with_the_time_left_of_the_whole_command(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path
) -> None:
    # An epoch took 7 s; three of this fold are left, and five of each later one.
    for later, left, said in ((0, 7 * 3, "21 s"), (3, 7 * (3 + 3 * 5), "2 min")):
        with training_bar(tmp_path, epochs=5, later=later, done=1) as bar:
            sleep(7)
            bar.epoch(ROW)
        assert capsys.readouterr().out == f"fold 1, epoch 2/5: {NUMBERS}; {said} left\n"
        assert seconds_left(tmp_path) == left


def test_the_predictions_after_the_last_epoch_count(
    sleep: Callable[[float], None], capsys: Any, tmp_path: Path
) -> None:
    """Here they take as long as two epochs."""
    with training_bar(tmp_path, epochs=5, later=2, done=1, images=6000) as bar:
        run_steps(bar, range(0, 6), sleep, 0.6)
        assert ": about 42 s for 5 epochs, 2 min for all folds on" in capsys.readouterr().out
        # Three folds of five epochs and their predictions, without the 15 steps done.
        assert seconds_left(tmp_path) == pytest.approx(0.6 * (3 * 70 - 15))
        sleep(2.4)
        bar.epoch(ROW)
    assert capsys.readouterr().out.endswith(f"; {duration(6 * (3 * 7 - 2))} left\n")


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
    assert wide > 2 * narrow
    found = runs(Train(width=8), [Train(width=8), Train(width=16, epochs=5)], 1000)
    assert found == pytest.approx(2 + wide / narrow / 2)


def test_the_operations_of_a_training_step(fresh_keras: Any) -> None:
    # Outputs × weights × 2 (multiply, add); once forward, twice backward except for the pixels.
    first = 14 * 14 * 25 * 8
    others = 14 * 14 * 9 * 8 * 16 + 7 * 7 * 9 * 16 * 32 + 7 * 7 * 9 * 32 * 32 + 32 * 10
    assert flops_per_image("strided", 8) == 4 * first + 6 * others


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (150, "2 min"), (7200, "2.0 h")]
)
def test_durations_have_the_unit_that_one_would_say(seconds: float, text: str) -> None:
    assert duration(seconds) == text


WHERE = {"node": "kite", "ray_node": "0123456789abcdef", "gpus": []}


def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(("gpus", "device"), [([], "CPU"), ([0, 3], "GPU 0, GPU 3")])
def test_the_board_says_where_each_fold_is_trained(
    capsys: Any, tmp_path: Path, gpus: list[int], device: str
) -> None:
    task, where = fold(1, tmp_path, epochs=5), {**WHERE, "gpus": gpus}
    with Board() as board:
        board.show(task, [], where)
        board.show(task, [{**ROW, "epoch": 1}, ROW], where)
        board.print("train fold 1: 7 of [9]")
    assert capsys.readouterr().out.splitlines() == [
        f"train fold 1 on kite (01234567), {device}: started",
        f"train fold 1 on kite (01234567), {device}, epoch 2/5: {NUMBERS}",
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
