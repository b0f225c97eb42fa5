"""fold.py: a run that diverges or fails in the user's network says why; guessing is explained."""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fold import PARAMS, arrays, train_fold

from pipeline.errors import UserError
from pipeline.train.fold import Progress, predict

__all__ = ["arrays"]  # a fixture
pytestmark = pytest.mark.usefixtures("fresh_keras")


@pytest.fixture
def mlp() -> Any:
    from pipeline.train.networks import mlp

    return mlp.network(4, 0.0)


HOT = replace(PARAMS, network="cnn_5x5", learning_rate=10.0, precision="mixed_float16")


def test_a_loss_that_is_not_finite_ends_the_fold_with_the_remedy(
    tmp_path: Path, arrays: Path
) -> None:
    progress = Progress()
    progress.title = "fold 1"
    with pytest.raises(UserError) as caught:
        train_fold(tmp_path, arrays, HOT, progress=progress)
    said = str(caught.value)
    assert said.startswith("fold 1, epoch ")
    assert "no longer finite" in said
    assert "train.learning_rate, which is 10.0" in said
    assert 'train.precision to "float32"' in said
    assert not (tmp_path / "oof.npy").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_weight_that_is_not_finite_predicts_nothing(mlp: Any, layer: int, value: float) -> None:
    weights = mlp.get_weights()
    weights[layer].flat[0] = value
    mlp.set_weights(weights)
    with pytest.raises(FloatingPointError, match="a weight"):
        predict(mlp, np.zeros((3, 28, 28, 1), np.uint8))


def test_a_logit_that_is_not_finite_is_no_prediction(mlp: Any) -> None:
    weights = [np.full_like(each, 3e38) for each in mlp.get_weights()]
    mlp.set_weights(weights)
    with pytest.raises(FloatingPointError, match="a predicted logit"):
        predict(mlp, np.full((3, 28, 28, 1), 255, np.uint8))


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"epochs": 1, "learning_rate": 1e-9}, "it took only 5 steps"),
        ({"epochs": 20, "learning_rate": 1e-9}, "training diverged, to a loss of "),
        (
            {"epochs": 1, "learning_rate": 10.0, "network": "mlp"},
            "training diverged, to a loss of ",
        ),
    ],
)
def test_a_fold_that_guesses_says_why(
    tmp_path: Path, arrays: Path, capsys: Any, changes: dict[str, Any], part: str
) -> None:
    train_fold(tmp_path, arrays, replace(PARAMS, **changes))
    assert f"close to guessing: {part}" in capsys.readouterr().out


PICKY = """
from pipeline.backend import keras
from pipeline.train.networks import mlp


class Picky(keras.layers.Layer):
    def call(self, inputs, training=False):
        if training:
            raise RuntimeError("not in training")
        return inputs


def network(width, dropout):
    model = mlp.network(width, dropout)
    return keras.Model(model.input, Picky()(model.output))
"""


def test_an_exception_that_only_training_raises_is_the_networks(
    tmp_path: Path, arrays: Path
) -> None:
    path = tmp_path / "networks" / "picky.py"
    path.parent.mkdir()
    path.write_text(PICKY)
    spec = importlib.util.spec_from_file_location("pipeline.train.networks.picky", path)
    assert spec and spec.loader
    picky = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(picky)
    with pytest.raises(UserError) as caught:
        train_fold(tmp_path, arrays, replace(PARAMS, network="picky"), network=picky)
    assert str(caught.value).startswith("train/networks/picky.py: ")
    assert "not in training" in str(caught.value)
