"""The notebook that most entrants fork. 887,530 parameters at width 32."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels, size in ((width, 5), (2 * width, 3)):
        for _ in range(2):
            x = layers.Conv2D(channels, size, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(layers.MaxPooling2D()(x))
    x = layers.Dense(8 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, logits(x, dropout), name="notebook")
