"""networks.py: every network takes pixels and returns ten logits, at any width and precision."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import digit_images

from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.train.networks import NETWORKS, FusedBatchNormalization


@pytest.fixture(autouse=True)
def _keras(fresh_keras: Any) -> None:
    """Keras as a new process has it."""


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_takes_pixels_and_returns_logits(name: str, dropout: float) -> None:
    network = NETWORKS[name](3, dropout)
    images, _ = digit_images(7)
    logits = np.asarray(network(images.astype("float32"), training=False))
    assert logits.shape == (7, 10)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.min() < 0, "logits, not probabilities"


def test_the_default_network_exists() -> None:
    assert Train().network in NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_has_the_name_it_is_looked_up_by(name: str) -> None:
    assert NETWORKS[name].__name__ == name
    assert NETWORKS[name](3, 0.0).name == name


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [
        ("strided", 32, 243_114),
        ("mlp", 128, 101_770),
        ("cnn_5x5", 32, 592_074),
        ("cnn_batchnorm", 10, 48_520),
        ("cnn_fashion", 32, 333_526),
        ("notebook", 32, 887_530),
    ],
)
def test_the_documented_numbers_of_parameters(name: str, width: int, parameters: int) -> None:
    assert NETWORKS[name](width, 0.0).count_params() == parameters


@pytest.mark.parametrize("name", list(NETWORKS))
def test_dropout_acts_in_training_only(name: str) -> None:
    images, _ = digit_images(4)
    network = NETWORKS[name](3, 0.5)
    still = [np.asarray(network(images, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert any("dropout" in layer.name for layer in network.layers)
    without = any("dropout" in layer.name for layer in NETWORKS[name](3, 0.0).layers)
    assert without == (name == "notebook"), "which has some between its convolutions"


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_logits_are_float32_whatever_the_precision(fresh_keras: Any, name: str) -> None:
    fresh_keras.config.set_dtype_policy("mixed_bfloat16")
    network = NETWORKS[name](3, 0.0)
    assert network.output.dtype == "float32"
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in network.layers)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_uint8_and_float32_give_the_same_logits(name: str) -> None:
    images, _ = digit_images(4)
    network = NETWORKS[name](3, 0.0)
    np.testing.assert_allclose(
        np.asarray(network(images)), np.asarray(network(images.astype("float32"))), rtol=1e-5
    )


def test_fused_normalisation_agrees_with_that_of_keras(fresh_keras: Any) -> None:
    features = np.random.default_rng(0).normal(3, 2, (16, 7, 7, 5)).astype("float32")
    fused = FusedBatchNormalization(momentum=0.9)
    plain = fresh_keras.layers.BatchNormalization(momentum=0.9)
    for _ in range(3):
        results = [np.asarray(layer(features, training=True)) for layer in (fused, plain)]
        np.testing.assert_allclose(*results, atol=1e-5)
    np.testing.assert_allclose(fused.moving_mean, plain.moving_mean, rtol=1e-5)
    # The kernel divides by n - 1 in what it keeps of the variance.
    ratio = np.asarray(fused.moving_variance) / np.asarray(plain.moving_variance)
    assert np.all((ratio >= 1) & (ratio < 784 / 783))
    results = [np.asarray(layer(features, training=False)) for layer in (fused, plain)]
    np.testing.assert_allclose(*results, rtol=1e-3, atol=1e-3)


def test_no_float32_copy_of_the_features_is_made(fresh_keras: Any) -> None:
    fresh_keras.config.set_dtype_policy("mixed_bfloat16")
    layer = FusedBatchNormalization()
    features = fresh_keras.ops.ones((2, 3, 3, 4), "bfloat16")
    result = layer(features, training=True)
    assert result.dtype == "bfloat16"
    assert {str(weight.dtype) for weight in layer.weights} == {"float32"}


# --- a network of the user's own ----------------------------------------------------------------


def own(monkeypatch: pytest.MonkeyPatch, function: Callable[[int, float], Any]) -> str:
    """What is said about a network that this function returns."""
    from pipeline.train import networks

    monkeypatch.setitem(networks.NETWORKS, "own", function)
    with pytest.raises(UserError) as caught:
        networks.build("own", 8, 0.0)
    said = str(caught.value)
    assert said.startswith("train/networks.py: own: ")
    assert "(n, 28, 28, 1), to logits, (n, 10)" in said
    return said


def small(units: int, activation: str | None = None) -> Any:
    from pipeline.backend import keras

    pixels = keras.Input((28, 28, 1))
    x = keras.layers.Flatten()(pixels)
    return keras.Model(pixels, keras.layers.Dense(units, activation=activation)(x))


def test_a_wrong_number_of_outputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "shape (None, 9)" in own(monkeypatch, lambda width, dropout: small(9))


def test_a_tensor_in_place_of_a_model_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    said = own(monkeypatch, lambda width, dropout: small(10).output)
    assert "KerasTensor, not a keras.Model" in said


@pytest.mark.parametrize("way", ["activation", "layer", "function"])
def test_a_softmax_at_the_end_is_refused(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    from pipeline.backend import keras

    def build(width: int, dropout: float) -> Any:
        if way == "activation":
            return small(10, "softmax")
        end = keras.layers.Softmax() if way == "layer" else keras.layers.Activation("softmax")
        model = small(10)
        return keras.Model(model.input, end(model.output))

    assert "ends in a softmax" in own(monkeypatch, build)


def test_other_pixels_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.backend import keras

    def build(width: int, dropout: float) -> Any:
        pixels = keras.Input((32, 32, 3))
        return keras.Model(pixels, keras.layers.Dense(10)(keras.layers.Flatten()(pixels)))

    own(monkeypatch, build)


def test_an_exception_is_told_with_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(width: int, dropout: float) -> Any:
        raise ZeroDivisionError("by me")

    assert "ZeroDivisionError: by me" in own(monkeypatch, build)


def test_an_unknown_network_is_refused() -> None:
    from pipeline.train import networks

    with pytest.raises(UserError, match="no network 'strode'"):
        networks.build("strode", 8, 0.0)
