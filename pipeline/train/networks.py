"""The networks. Each is a function of its width and dropout that returns a keras.Model.

Every network takes pixels, (n, 28, 28, 1) with values from 0 to 255, and returns logits, float32
(n, 10). To add one, write a function here under `@network`, and name it in a preset. Only presets
that use a function are retrained when it changes.
"""

from collections.abc import Callable
from typing import Any

from pipeline.backend import keras, tf
from pipeline.errors import UserError

layers = keras.layers
NETWORKS: dict[str, Callable[[int, float], Any]] = {}


def network(function: Callable[[int, float], Any]) -> Callable[[int, float], Any]:
    """Enter a network in NETWORKS, under the name of its function."""
    NETWORKS[function.__name__] = function
    return function


def build(name: str, width: int, dropout: float) -> Any:
    """Build a network, and check that it is one.

    Raises:
        UserError: there is no such network, its function fails, or what it returns is not a model
            from pixels to logits.
    """
    if name not in NETWORKS:
        raise UserError(f"train.network: there is no network {name!r}; it is {', '.join(NETWORKS)}")
    fault = ""
    try:
        model = NETWORKS[name](width, dropout)
        if not isinstance(model, keras.Model):
            fault = f"it returns a {type(model).__name__}, not a keras.Model"
        else:
            shape = model.compute_output_spec(keras.KerasTensor((None, 28, 28, 1))).shape
            if tuple(shape) != (None, 10):
                fault = f"its output has the shape {tuple(shape)}"
            elif _ends_in_softmax(model):
                fault = "it ends in a softmax"
    except Exception as error:
        fault = f"{type(error).__name__}: {error} (--debug shows where)"
        raise not_a_network(name, fault) from error
    if fault:
        raise not_a_network(name, fault)
    return model


def not_a_network(name: str, fault: str) -> UserError:
    """The error for a network that cannot be used, with what a network is."""
    return UserError(
        f"train/networks.py: {name}: {fault}; a network is a keras.Model from pixels, "
        "(n, 28, 28, 1), to logits, (n, 10), such as strided"
    )


def _ends_in_softmax(model: Any) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return isinstance(last, layers.Softmax) or activation is keras.activations.softmax


def over_shifts(network: Any, pixels: int) -> Any:
    """A network that averages another one's probabilities over shifts of the image.

    All (2 pixels + 1)² shifts of at most `pixels` along each axis; what comes in from outside is
    background. Convolutions with strides and pooling see another grid with each shift, and so make
    other mistakes: for `strided`, 10.0 ± 4.8 errors fewer among 42,000 (train/EXPERIMENTS.md).

    Args:
        network: from pixels, (n, 28, 28, 1), to logits, (n, 10).
        pixels: the furthest shift along an axis; 0 returns the network itself.

    Returns:
        a network of Keras' own layers: the logits are the logarithms of the mean probabilities.
    """
    if not pixels:
        return network
    images = keras.Input((28, 28, 1))
    padded = layers.ZeroPadding2D(pixels)(images)
    steps = range(2 * pixels + 1)
    shifted = [
        layers.Cropping2D(((top, 2 * pixels - top), (left, 2 * pixels - left)))(padded)
        for top in steps
        for left in steps
    ]
    probabilities = layers.Softmax(dtype="float32")
    mean = layers.Average(dtype="float32")([probabilities(network(image)) for image in shifted])
    return keras.Model(images, keras.ops.log(mean + 1e-12), name=f"{network.name}_over_shifts")


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


@network
def strided(width: int, dropout: float) -> Any:
    """Small and fast: the first convolution halves the resolution, so the rest is cheap.

    243,114 parameters at width 32. A stride in the first convolution, instead of pooling after it,
    saves three quarters of that layer's work and costs hardly any accuracy on digits.
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


@network
def halved(width: int, dropout: float) -> Any:
    """In between: one convolution at full resolution; the second one halves it."""
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


@network
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
# As published: with biases, and without normalisation unless they are known for it.


@network
def mlp(width: int, dropout: float) -> Any:
    """No convolution, one dense layer. 101,770 parameters at width 128."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Flatten()(layers.Rescaling(1 / 255)(pixels))
    x = layers.Dense(width, activation="relu")(x)
    return keras.Model(pixels, _logits(x, dropout), name="mlp")


@network
def cnn_5x5(width: int, dropout: float) -> Any:
    """One convolution, one dense layer. 592,074 parameters at width 32."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.Conv2D(width, 5, activation="relu")(x)
    x = layers.Flatten()(layers.MaxPooling2D()(x))
    x = layers.Dense(4 * width, activation="relu")(x)
    return keras.Model(pixels, _logits(x, dropout), name="cnn_5x5")


@network
def cnn_batchnorm(width: int, dropout: float) -> Any:
    """Two narrow convolutions, three normalised dense layers. 48,520 parameters at width 10."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for _ in range(2):
        x = layers.MaxPooling2D()(layers.Conv2D(width, 3, activation="relu")(x))
    x = layers.Flatten()(x)
    for _ in range(3):
        x = layers.Dense(10 * width)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return keras.Model(pixels, _logits(x, dropout), name="cnn_batchnorm")


@network
def cnn_fashion(width: int, dropout: float) -> Any:
    """Two convolutions, a dense layer of 100. 333,526 parameters at width 32."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels in (width, 2 * width):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, _logits(x, dropout), name="cnn_fashion")


@network
def notebook(width: int, dropout: float) -> Any:
    """The notebook that most entrants fork. 887,530 parameters at width 32."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    for channels, size in ((width, 5), (2 * width, 3)):
        for _ in range(2):
            x = layers.Conv2D(channels, size, padding="same", activation="relu")(x)
        x = layers.Dropout(0.2)(layers.MaxPooling2D()(x))
    x = layers.Dense(8 * width, activation="relu")(layers.Flatten()(x))
    return keras.Model(pixels, _logits(x, dropout), name="notebook")


def _convolution(x: Any, channels: int, size: int, strides: int = 1, padding: str = "same") -> Any:
    """Convolution, batch normalisation (which makes a bias before it redundant), ReLU.

    The momentum of the statistics is 0.9 instead of Keras' 0.99, with which they lag behind the
    weights in runs as short as ours.
    """
    x = layers.Conv2D(channels, size, strides=strides, padding=padding, use_bias=False)(x)
    x = FusedBatchNormalization(momentum=0.9)(x)
    return layers.ReLU()(x)


def _logits(features: Any, dropout: float) -> Any:
    """The last layer, in float32 whatever the precision of the rest."""
    x = layers.Dropout(dropout)(features) if dropout else features
    return layers.Dense(10, dtype="float32", name="logits")(x)
