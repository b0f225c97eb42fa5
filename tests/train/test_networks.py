"""networks/: every network takes pixels and returns ten logits, at any width and precision."""

import json
import re
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import digit_images

from pipeline.config import network_names
from pipeline.errors import UserError
from pipeline.train.layers import FusedBatchNormalization
from pipeline.train.networks import build
from pipeline.train.saving import load, save

pytestmark = pytest.mark.usefixtures("fresh_keras")
every_network = pytest.mark.parametrize("name", network_names())


def made(name: str, width: int = 3, dropout: float = 0.0) -> Any:
    return build(import_module(f"pipeline.train.networks.{name}"), width, dropout)


@every_network
def test_takes_pixels_and_returns_logits(name: str) -> None:
    network, (images, _) = made(name, dropout=0.5), digit_images(7)
    assert network.name == name
    logits = np.asarray(network(images.astype("float32"), training=False))
    assert (logits.shape, logits.dtype) == ((7, 10), np.float32)
    assert np.isfinite(logits).all()
    assert logits.min() < 0, "logits, not probabilities"
    # Of uint8, and without the dropout, which acts in training only.
    np.testing.assert_allclose(np.asarray(network(images)), logits, rtol=1e-5)
    assert any("dropout" in layer.name for layer in network.layers)
    without = any("dropout" in layer.name for layer in made(name).layers)
    assert without == (name == "notebook"), "which has some between its convolutions"


def test_the_documented_numbers_of_parameters() -> None:
    documented = 0
    for name in network_names():
        text = str(import_module(f"pipeline.train.networks.{name}").__doc__)
        if found := re.search(r"([\d,]+) parameters at width (\d+)\.", text):
            assert f"{made(name, int(found[2])).count_params():,}" == found[1], name
            documented += 1
    assert documented >= 6


@every_network
def test_the_logits_are_float32_whatever_the_precision(fresh_keras: Any, name: str) -> None:
    fresh_keras.config.set_dtype_policy("mixed_bfloat16")
    network = made(name)
    assert network.output.dtype == "float32"
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in network.layers)


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

    # No float32 copy of the features is made.
    fresh_keras.config.set_dtype_policy("mixed_bfloat16")
    layer = FusedBatchNormalization()
    features = fresh_keras.ops.ones((2, 3, 3, 4), "bfloat16")
    result = layer(features, training=True)
    assert result.dtype == "bfloat16"
    assert {str(weight.dtype) for weight in layer.weights} == {"float32"}


def test_a_network_that_another_keras_saved(tmp_path: Path, fresh_keras: Any) -> None:
    path = tmp_path / "weights.keras"
    save(made("mlp"), path)
    assert load(path).count_params() == made("mlp").count_params()
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1]["config"]["of_the_future"] = None
    parts["config.json"] = json.dumps(config).encode()

    def rewritten(version: str) -> None:
        metadata = json.loads(parts["metadata.json"]) | {"keras_version": version}
        with zipfile.ZipFile(path, "w") as file:
            for name, content in (parts | {"metadata.json": json.dumps(metadata).encode()}).items():
                file.writestr(name, content)

    rewritten("99.0.0")
    with pytest.raises(UserError) as caught:
        load(path)
    for part in (str(path), "Keras 99.0.0", fresh_keras.__version__, "digits train --force"):
        assert part in str(caught.value)
    rewritten(fresh_keras.__version__)
    with pytest.raises((TypeError, ValueError), match="of_the_future"):
        load(path)


# --- a network of the user's own ----------------------------------------------------------------


def said_of(function: Callable[[int, float], Any]) -> str:
    """Return what is said about a network that this function returns."""
    module = ModuleType("pipeline.train.networks.own")
    module.network = function  # type: ignore[attr-defined]
    with pytest.raises(UserError) as caught:
        build(module, 8, 0.0)
    said = str(caught.value)
    assert said.startswith("train/networks/own.py: ")
    assert re.search(r"logits, \((n|None), 10\)", said)
    return said


def small(units: int, activation: Any = None, pixels: tuple[int, ...] = (28, 28, 1)) -> Any:
    from pipeline.backend import keras

    images = keras.Input(pixels)
    x = keras.layers.Dense(units, activation=activation)(keras.layers.Flatten()(images))
    return keras.Model(images, x)


def test_what_is_no_network_is_refused() -> None:
    def failing(width: int, dropout: float) -> Any:
        raise ZeroDivisionError("by me")

    assert "shape (None, 9)" in said_of(lambda width, dropout: small(9))
    assert "returns a KerasTensor" in said_of(lambda width, dropout: small(10).output)
    assert "takes pixels" in said_of(lambda width, dropout: small(10, pixels=(32, 32, 3)))
    assert "ZeroDivisionError: by me" in said_of(failing)


@pytest.mark.parametrize("way", ["activation", "Softmax", "Activation"])
def test_a_softmax_at_the_end_is_refused(way: str) -> None:
    from pipeline.backend import keras

    def softmax(width: int, dropout: float) -> Any:
        if way == "activation":
            return small(10, "softmax")
        model, words = small(10), ["softmax"] if way == "Activation" else []
        return keras.Model(model.input, getattr(keras.layers, way)(*words)(model.output))

    assert "ends in a softmax" in said_of(softmax)
