"""networks.py: every network takes pixels and gives ten logits, at any width and precision."""

from typing import Any

import numpy as np
import pytest
from conftest import digit_images

from pipeline.config import Train
from pipeline.networks import NETWORKS


@pytest.fixture(autouse=True)
def _keras(fresh_keras: Any) -> None:
    """Keras as a new process has it."""


@pytest.mark.parametrize("name", list(NETWORKS))
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_takes_pixels_and_gives_logits(name: str, dropout: float) -> None:
    network = NETWORKS[name](3, dropout)
    images, _ = digit_images(7)
    logits = np.asarray(network(images.astype("float32"), training=False))
    assert logits.shape == (7, 10)
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    assert logits.min() < 0, "logits, no probabilities"


def test_the_default_network_exists() -> None:
    assert Train().network in NETWORKS


@pytest.mark.parametrize("name", list(NETWORKS))
def test_a_network_bears_the_name_it_is_looked_up_by(name: str) -> None:
    assert NETWORKS[name].__name__ == name
    assert NETWORKS[name](3, 0.0).name == name


def test_the_number_of_parameters_that_is_written_down() -> None:
    assert NETWORKS["strided"](32, 0.0).count_params() == 243_114


@pytest.mark.parametrize("name", list(NETWORKS))
def test_dropout_acts_in_training_only(name: str) -> None:
    images, _ = digit_images(4)
    network = NETWORKS[name](3, 0.5)
    still = [np.asarray(network(images, training=False)) for _ in range(2)]
    np.testing.assert_array_equal(*still)
    assert any("dropout" in layer.name for layer in network.layers)
    assert not any("dropout" in layer.name for layer in NETWORKS[name](3, 0.0).layers)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_the_logits_are_float32_whatever_the_precision(fresh_keras: Any, name: str) -> None:
    fresh_keras.config.set_dtype_policy("mixed_bfloat16")
    network = NETWORKS[name](3, 0.0)
    assert network.output.dtype == "float32"
    assert {str(weight.dtype) for weight in network.weights} == {"float32"}
    assert any(layer.compute_dtype == "bfloat16" for layer in network.layers)


@pytest.mark.parametrize("name", list(NETWORKS))
def test_bytes_and_floats_give_the_same(name: str) -> None:
    images, _ = digit_images(4)
    network = NETWORKS[name](3, 0.0)
    np.testing.assert_allclose(
        np.asarray(network(images)), np.asarray(network(images.astype("float32"))), rtol=1e-5
    )
