"""Two narrow convolutions, three normalised dense layers. 48,520 parameters at width 10."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for _ in range(2):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Flatten()(x)
    for _ in range(3):
        x = layers.Dense(10 * width)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(pixels, logits(x, dropout), name="cnn_batchnorm")
