"""progress.py: what a run prints of how far it is, and how long it will take."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.config import Train
from pipeline.train import progress
from pipeline.train.progress import Board, TrainingBar, ending, flops_per_image, runs
from pipeline.watch import PROGRESS, duration

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


def run_steps(bar: TrainingBar, calls: range, sleep: Callable[[float], None], each: float) -> None:
    for call in calls:
        sleep(each)
        bar.on_train_batch_end(call, {"loss": 0.5, "accuracy": 0.8})


@pytest.mark.parametrize(("runs", "all_folds"), [(1, ""), (4.5, ", 38 min for all folds")])
def test_the_duration_is_forecast_once(
    sleep: Callable[[float], None],
    capsys: pytest.CaptureFixture[str],
    runs: float,
    all_folds: str,
) -> None:
    """From the steps after the first call, which traces the graph."""
    with TrainingBar("fold 0", epochs=20, steps=50, done=0, runs=runs) as bar:
        sleep(60)
        bar.on_train_batch_end(0)
        run_steps(bar, range(1, 5), sleep, 0.5)
        assert capsys.readouterr().out == "", "2 s are not more than 2 s"
        run_steps(bar, range(5, 50), sleep, 0.5)
    assert capsys.readouterr().out == (
        f"fold 0: about 8 min for 20 epochs{all_folds} on this machine, measured over 5 steps\n"
    )


def test_a_short_forecast_is_in_seconds(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainingBar("fold 0", epochs=3, steps=10, done=1, runs=2) as bar:
        run_steps(bar, range(0, 10), sleep, 0.75)
    assert "about 22 s for 3 epochs, 45 s for all folds on" in capsys.readouterr().out


def test_each_epoch_has_a_line_with_the_time_left(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainingBar("fold 1", epochs=5, steps=10, done=1) as bar:
        sleep(7)
        bar.epoch_done(ROW)
        assert bar.epoch == 2
    # One epoch took 7 s, and three are left.
    assert capsys.readouterr().out == f"fold 1, epoch 2/5: {NUMBERS}; 21 s left\n"


def test_the_time_left_is_that_of_the_whole_command_and_is_kept(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with TrainingBar("fold 1", epochs=5, steps=10, done=1, runs=3.5, folder=tmp_path) as bar:
        sleep(7)
        bar.epoch_done(ROW)
    # Three epochs of this fold, and 2.5 times its five.
    left = 7 * (3 + 2.5 * 5)
    assert capsys.readouterr().out.endswith("; 2 min left\n")
    assert json.loads((tmp_path / PROGRESS).read_text())["left"] == round(left, 1)


def test_the_predictions_after_the_last_epoch_count(
    sleep: Callable[[float], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with TrainingBar("fold 1", 5, steps=10, done=1, runs=3, folder=tmp_path, ending=2) as bar:
        run_steps(bar, range(0, 6), sleep, 0.6)
        assert ": about 42 s for 5 epochs, 2 min for all folds on" in capsys.readouterr().out
        # Three folds of five epochs and their predictions, without the 15 steps done.
        assert json.loads((tmp_path / PROGRESS).read_text())["left"] == pytest.approx(
            0.6 * (3 * 70 - 15)
        )
        sleep(2.4)
        bar.epoch_done(ROW)
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


def task(epochs: int) -> Any:
    return SimpleNamespace(name="train fold 1", params={"params": SimpleNamespace(epochs=epochs)})


@pytest.mark.parametrize(("gpus", "device"), [([], "CPU"), ([0, 3], "GPU 0, GPU 3")])
def test_the_board_says_where_each_fold_is_trained(
    capsys: pytest.CaptureFixture[str], gpus: list[int], device: str
) -> None:
    where = {"node": "kite", "ray_node": "0123456789abcdef", "gpus": gpus}
    with Board() as board:
        board.show(task(5), [], where)
        board.show(task(5), [{**ROW, "epoch": 1}, ROW], where)
        board.print("train fold 1: 7 of [9]")
    assert capsys.readouterr().out.splitlines() == [
        f"train fold 1 on kite (01234567), {device}: started",
        f"train fold 1 on kite (01234567), {device}, epoch 2/5: {NUMBERS}",
        "train fold 1: 7 of [9]",
    ]


def test_a_kaggle_notebook_gets_lines_although_it_seems_to_be_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    with Board() as board:
        board.show(task(5), [ROW], {"node": "kite", "ray_node": "0123456789abcdef", "gpus": []})
    [line] = capsys.readouterr().out.splitlines()
    assert line.endswith(NUMBERS)
    assert "\x1b" not in line


def test_on_a_terminal_the_board_has_a_bar_per_fold(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    where = {"node": "kite", "ray_node": "0123456789abcdef", "gpus": []}
    with Board() as board:
        board.show(task(5), [], where)
        board.show(task(5), [ROW, ROW], where)
    output = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"train fold 1 .* 2/5 +kite \(01234567\), CPU", output)
    assert "held out" not in output
