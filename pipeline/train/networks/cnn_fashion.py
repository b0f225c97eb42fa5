"""Two convolutions, a dense layer of 100. 333,526 parameters at width 32."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels in (width, 2 * width):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, logits(x, dropout), name="cnn_fashion")
