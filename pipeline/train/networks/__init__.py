"""The networks: each is a module here with a function `network(width, dropout)`.

It returns a keras.Model from pixels, (n, 28, 28, 1) with values from 0 to 255, to logits, float32
(n, 10). To add one, write a module here, and name it in a preset. Only presets that name a network
are trained again when it changes.

`mlp`, `cnn_…` and `notebook` are the networks of tutorials, as published: with biases, and without
normalisation unless they are known for it.
"""

from types import ModuleType
from typing import Any

from pipeline.backend import keras
from pipeline.errors import UserError


def build(network: ModuleType, width: int, dropout: float) -> Any:
    """Build a network, and check that it is one.

    Args:
        network: its module.
        width: channels of its first layers.
        dropout: share of the last features dropped in training.

    Raises:
        UserError: its function fails, or does not return a model from pixels to logits.
    """
    place = f"{network.__name__.replace('.', '/').partition('/')[2]}.py"
    try:
        model = network.network(width, dropout)
        if not isinstance(model, keras.Model):
            raise UserError(
                f"{place}: network() returns a {type(model).__name__}, and must return a "
                "keras.Model from pixels, (n, 28, 28, 1), to logits, (n, 10)"
            )
        shape = model.compute_output_spec(keras.KerasTensor((None, 28, 28, 1))).shape
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{place}: {type(error).__name__}: {error} (--debug shows where); a network takes "
            "pixels, (n, 28, 28, 1), and returns logits, (n, 10)"
        ) from error
    if tuple(shape) != (None, 10):
        raise UserError(
            f"{place}: its output has the shape {tuple(shape)}, and must be logits, (None, 10)"
        )
    if _ends_in_softmax(model):
        raise UserError(f"{place}: it ends in a softmax, and must end in logits, (n, 10)")
    return model


def _ends_in_softmax(model: Any) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return isinstance(last, keras.layers.Softmax) or activation is keras.activations.softmax
