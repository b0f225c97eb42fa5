"""fold.py: a run that diverges or fails in the user's network says why; guessing is explained."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_fold import PARAMS, arrays, paths

from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.train.fold import _why_guessing, predict, train

__all__ = ["arrays"]  # a fixture


@pytest.fixture(autouse=True)
def _float32_again(fresh_keras: Any) -> Iterator[None]:
    yield


@pytest.fixture
def cnn(fresh_keras: Any) -> Any:
    from pipeline.train.networks import NETWORKS

    return NETWORKS["mlp"](4, 0.0)


def run(folder: Path, arrays: Path, params: Train) -> dict[str, Any]:
    return train(**paths(folder, arrays), fold=1, params=params)


HOT = replace(PARAMS, network="cnn_5x5", learning_rate=10.0, precision="mixed_float16")


def test_a_loss_that_is_not_finite_ends_the_fold_with_the_remedy(
    tmp_path: Path, arrays: Path
) -> None:
    with pytest.raises(UserError) as caught:
        run(tmp_path, arrays, HOT)
    said = str(caught.value)
    assert said.startswith("fold 1, epoch ")
    assert "no longer finite" in said
    assert "train.learning_rate, which is 10.0" in said
    assert 'train.precision to "float32"' in said
    assert not (tmp_path / "oof.npy").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("layer", [0, -1])
def test_a_weight_that_is_not_finite_predicts_nothing(cnn: Any, layer: int, value: float) -> None:
    weights = cnn.get_weights()
    weights[layer].flat[0] = value
    cnn.set_weights(weights)
    with pytest.raises(FloatingPointError, match="a weight"):
        predict(cnn, np.zeros((3, 28, 28, 1), np.uint8))


def test_a_logit_that_is_not_finite_is_no_prediction(cnn: Any) -> None:
    weights = [np.full_like(each, 3e38) for each in cnn.get_weights()]
    cnn.set_weights(weights)
    with pytest.raises(FloatingPointError, match="a predicted logit"):
        predict(cnn, np.full((3, 28, 28, 1), 255, np.uint8))


def row(loss: float) -> dict[str, float]:
    return {"loss": loss, "accuracy": 0.1}


@pytest.mark.parametrize(
    ("losses", "steps", "part"),
    [
        ([2.3], 19, "only 19 steps"),
        ([2.4, 2.2], 30, "only 60 steps"),
        ([2.3] * 20, 30, "training diverged"),
        ([37_000.0, 2.3], 10, "training diverged, to a loss of 3.7e+04"),
    ],
)
def test_guessing_is_explained(losses: list[float], steps: int, part: str) -> None:
    assert part in _why_guessing([row(loss) for loss in losses], steps)


def test_a_fold_of_a_few_steps_says_why_it_guesses(
    tmp_path: Path, arrays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, arrays, replace(PARAMS, epochs=1, learning_rate=1e-9))
    assert "close to guessing: it took only 5 steps" in capsys.readouterr().out


def test_an_exception_that_only_training_raises_is_the_networks(
    tmp_path: Path, arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.backend import keras
    from pipeline.train import networks

    class Picky(keras.layers.Layer):
        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                raise RuntimeError("not in training")
            return inputs

    def picky(width: int, dropout: float) -> Any:
        model = networks.mlp(width, dropout)
        return keras.Model(model.input, Picky()(model.output))

    monkeypatch.setitem(networks.NETWORKS, "picky", picky)
    with pytest.raises(UserError) as caught:
        run(tmp_path, arrays, replace(PARAMS, network="picky"))
    assert str(caught.value).startswith("train/networks.py: picky: ")
    assert "not in training" in str(caught.value)
