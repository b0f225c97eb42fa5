"""Layers that the networks share."""

from typing import Any

from pipeline.backend import keras, tf

layers = keras.layers


class FusedBatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation, with TensorFlow's fused kernel in training.

    Keras computes the mean, the variance and each of their gradients separately and in float32;
    the fused kernel reads bfloat16 and makes one pass over the features, three to four times faster
    on a CPU (train/EXPERIMENTS.md). Weights and configuration are those of Keras' layer.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.autocast = False  # the kernel takes bfloat16 features with float32 weights

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Normalise features, (n, h, w, c): by their batch in training, else by moving averages."""
        if not training:
            return super().call(inputs, training=False)
        outputs, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            inputs, self.gamma, self.beta, epsilon=self.epsilon, is_training=True
        )
        for average, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign(average * self.momentum + new * (1 - self.momentum))
        return outputs


def convolution(x: Any, channels: int, size: int, strides: int = 1, padding: str = "same") -> Any:
    """Add a convolution, batch normalisation (a bias before it would be redundant), and a ReLU.

    The momentum of the statistics is 0.9 instead of Keras' 0.99, with which they lag behind the
    weights in runs as short as ours.
    """
    x = layers.Conv2D(channels, size, strides=strides, padding=padding, use_bias=False)(x)
    x = FusedBatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


def logits(features: Any, dropout: float) -> Any:
    """Add the last layer, in float32 whatever the precision of the rest."""
    x = layers.Dropout(dropout)(features) if dropout else features
    return layers.Dense(10, dtype="float32", name="logits")(x)
