"""The networks, by name. Each is a function of its width and dropout that returns a keras.Model.

Every network takes pixels, (n, 28, 28, 1) with values from 0 to 255, and gives logits, float32
(n, 10). To add one: write a function here, enter it in NETWORKS, name it in a preset. Only presets
that use a function are retrained when it changes.
"""

from collections.abc import Callable
from typing import Any

from pipeline.backend import keras, tf

layers = keras.layers


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation, computed by TensorFlow's fused kernel; for training only.

    Keras takes the mean, the variance and each of their gradients in steps of their own and in
    float32; the fused kernel reads bfloat16 and goes over the features once, three to four times
    faster on a CPU (EXPERIMENTS.md). Weights and configuration are those of Keras' layer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.autocast = False  # the kernel takes features in bfloat16 with weights in float32

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Features, (n, h, w, c), normalised by their batch in training, else by its averages."""
        if not training:
            return super().call(inputs, training=False)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + new * (1 - self.momentum))
        return outputs


def strided(width: int, dropout: float) -> Any:
    """Small and quick: the first convolution halves the resolution, so that the rest is cheap.

    With width 32, 243,114 parameters. A stride in the first convolution in place of pooling after
    it saves three quarters of the work of that layer at hardly any loss on digits.
    """
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = _convolution(x, width, 5, strides=2)
    x = _convolution(x, 2 * width, 3)
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 4 * width, 3)
    x = _convolution(x, 4 * width, 3)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(pixels, _logits(x, dropout), name="strided")


def halved(width: int, dropout: float) -> Any:
    """In between: one convolution at full resolution, the second one halves it."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = _convolution(x, width, 3, padding="valid")
    x = _convolution(x, width, 3, strides=2)
    x = _convolution(x, 2 * width, 3)
    x = _convolution(x, 2 * width, 3)
    x = layers.MaxPooling2D(padding="same")(x)
    x = _convolution(x, 4 * width, 3)
    x = _convolution(x, 4 * width, 3)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(pixels, _logits(x, dropout), name="halved")


def fine(width: int, dropout: float) -> Any:
    """Slow and accurate: three pairs of convolutions, the first pair at full resolution."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = _convolution(x, width, 3, padding="valid")
    x = _convolution(x, width, 3, padding="valid")
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 2 * width, 3)
    x = _convolution(x, 2 * width, 3)
    x = layers.MaxPooling2D()(x)
    x = _convolution(x, 4 * width, 3)
    x = _convolution(x, 4 * width, 3)
    x = layers.Flatten()(x)
    return keras.Model(pixels, _logits(x, dropout), name="fine")


# --- the networks of tutorials --------------------------------------------------------------------
# As they were published, with biases, without normalisation unless they are known for it.


def mlp(width: int, dropout: float) -> Any:
    """No convolution at all: one dense layer. With width 128, 101,770 parameters."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dense(width, activation="relu")(x)
    return keras.Model(pixels, _logits(x, dropout), name="mlp")


def cnn_5x5(width: int, dropout: float) -> Any:
    """One convolution, one dense layer. With width 32, 592,074 parameters."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(width, 5, activation="relu")(x)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(4 * width, activation="relu")(x)
    return keras.Model(pixels, _logits(x, dropout), name="cnn_5x5")


def cnn_batchnorm(width: int, dropout: float) -> Any:
    """Two narrow convolutions, three normalised dense layers. With width 10, 48,520 parameters."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for _ in range(2):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Flatten()(x)
    for _ in range(3):
        x = layers.Dense(10 * width)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(pixels, _logits(x, dropout), name="cnn_batchnorm")


def cnn_fashion(width: int, dropout: float) -> Any:
    """Two convolutions and a dense layer of 100. With width 32, 333,526 parameters."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels in (width, 2 * width):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, _logits(x, dropout), name="cnn_fashion")


def notebook(width: int, dropout: float) -> Any:
    """What most entrants to the competition fork. With width 32, 887,530 parameters."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels, size in ((width, 5), (2 * width, 3)):
        for _ in range(2):
            x = layers.Conv2D(channels, size, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(layers.MaxPooling2D()(x))
    x = layers.Dense(8 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, _logits(x, dropout), name="notebook")


def _convolution(x: Any, channels: int, size: int, strides: int = 1, padding: str = "same") -> Any:
    """Convolution, batch normalisation (which makes a bias before it useless), ReLU.

    The momentum of the statistics is 0.9, not Keras' 0.99, with which they lag behind the weights
    in trainings as short as ours.
    """
    x = layers.Conv2D(channels, size, strides=strides, padding=padding, use_bias=False)(x)
    x = FusedBatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


def _logits(features: Any, dropout: float) -> Any:
    """The last layer, in float32 whatever the precision of the rest."""
    x = layers.Dropout(dropout)(features) if dropout else features
    return layers.Dense(10, dtype="float32", name="logits")(x)


# By the function's own name, which is what a preset says.
NETWORKS: dict[str, Callable[[int, float], Any]] = {
    f.__name__: f
    for f in (strided, halved, fine, mlp, cnn_5x5, cnn_batchnorm, cnn_fashion, notebook)
}
