"""checkpoint.py: nothing damaged is resumed; the best epoch follows from the history."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.train.checkpoint import State, history, restore, save


class Variable:
    """As much of Keras' as a checkpoint needs."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


def model() -> Any:
    variables = [Variable(np.arange(3, dtype=np.float32)), Variable(np.array(7))]
    return SimpleNamespace(variables=variables, optimizer=SimpleNamespace(variables=[]))


STATE = State("this run", [{"loss": 0.1}], [1.5])


def test_a_checkpoint_contains_variables_history_and_best_weights(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-here.npz"
    best = [np.arange(4, dtype=np.float32), np.array(2.5)]
    save(path, model(), State("this run", [{"loss": 0.1}], [1.5], best_weights=best))
    zeros = model()
    for variable in zeros.variables:
        variable.assign(variable.value * 0)
    restored = restore(path, zeros, "this run")
    assert [variable.value.tolist() for variable in zeros.variables] == [[0, 1, 2], 7]
    assert (restored.history, restored.epoch_seconds) == ([{"loss": 0.1}], [1.5])
    assert [weights.tolist() for weights in restored.best_weights] == [[0, 1, 2, 3], 2.5]
    assert history(path) == [{"loss": 0.1}]


def test_what_is_missing_damaged_or_of_another_run_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "checkpoint-here.npz"
    assert restore(path, model(), "this run") == State("this run")
    assert history(path) == []
    save(path, model(), STATE)
    assert restore(path, model(), "another") == State("another")
    assert "of another run; starting anew" in capsys.readouterr().out

    sound = path.read_bytes()
    without_state, pickled = tmp_path / "without.npz", tmp_path / "pickled.npz"
    np.savez(without_state, variable_0=np.zeros(3))
    with np.load(path) as arrays:
        np.savez(pickled, **{**arrays, "variable_0": np.array([{}], dtype=object)})
    damaged = [b"", b"not an archive", sound[:-1], sound[: len(sound) // 2]]
    for content in (*damaged, without_state.read_bytes(), pickled.read_bytes()):
        path.write_bytes(content)
        assert restore(path, model(), "this run") == State("this run")
        assert "damaged; starting anew" in capsys.readouterr().out
        assert history(path) == [] or content == pickled.read_bytes()


@pytest.mark.slow
def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed_or_crashes(tmp_path: Path) -> None:
    """Every bit of a small one. If it is not reported as damaged, it holds what was written."""
    network, path = model(), tmp_path / "checkpoint-here.npz"
    save(path, network, STATE)
    sound = path.read_bytes()
    for place in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        if restore(path, network, "this run").history:
            assert restore(path, network, "this run") == STATE
            assert [variable.value.tolist() for variable in network.variables] == [[0, 1, 2], 7]


def test_the_best_epoch_is_the_first_with_the_lowest_of_what_is_monitored() -> None:
    assert State("this run").best_epoch("val_loss") == 0
    losses = [3.0, 1.0, 2.0, 1.0]
    rows = [{"loss": -float(epoch), "val_loss": loss} for epoch, loss in enumerate(losses)]
    state = State("this run", history=rows)
    assert (state.best_epoch("val_loss"), state.best_epoch("loss")) == (1, 3)
