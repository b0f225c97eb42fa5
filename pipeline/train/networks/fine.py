"""Slow and accurate: three pairs of convolutions, the first pair at full resolution."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import convolution, logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network, from pixels to logits (see `pipeline.train.networks`)."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = convolution(x, width, 3, padding="valid")
    x = convolution(x, width, 3, padding="valid")
    x = layers.MaxPooling2D()(x)
    x = convolution(x, 2 * width, 3)
    x = convolution(x, 2 * width, 3)
    x = layers.MaxPooling2D()(x)
    x = convolution(x, 4 * width, 3)
    x = convolution(x, 4 * width, 3)
    x = layers.Flatten()(x)
    return keras.Model(pixels, logits(x, dropout), name="fine")
