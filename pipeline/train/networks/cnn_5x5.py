"""One convolution, one dense layer. 592,074 parameters at width 32."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(width, 5, activation="relu")(x)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(4 * width, activation="relu")(x)
    return keras.Model(pixels, logits(x, dropout), name="cnn_5x5")
