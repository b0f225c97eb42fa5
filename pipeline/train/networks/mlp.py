"""No convolution, one dense layer. 101,770 parameters at width 128."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dense(width, activation="relu")(x)
    return keras.Model(pixels, logits(x, dropout), name="mlp")
