"""How a fold is trained: the model, the order of its batches, and one epoch."""

import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import keras, tf
from pipeline.train.augment import RandomAffine
from pipeline.train.networks import build

if TYPE_CHECKING:
    from pipeline.config import Train


def compiled(params: "Train", module: ModuleType, rate: Any, steps: int, seed: int) -> Any:
    """Compile augmentation and network into the model that is trained; steps are an epoch's."""
    network = build(module, params.width, params.dropout)
    augmentation = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed)
    model = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), augmentation, network])
    # An average that reached further back than a tenth of the run would contain its first weights.
    momentum = min(params.ema_momentum, 1 - 10 / (steps * params.epochs))
    averaging = {"use_ema": momentum > 0, "ema_momentum": max(momentum, 0.0)}
    if params.optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, **averaging)
    else:
        optimizer = keras.optimizers.RMSprop(rate, rho=params.rho, **averaging)
    model.compile(
        optimizer=optimizer,
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=params.label_smoothing
        ),
        metrics=["accuracy"],
        # Several steps per call fail on several devices: keras-team/keras issue 19246.
        steps_per_execution=min(params.steps_per_execution, steps) if params.devices == 1 else 1,
        jit_compile=False,  # XLA cannot transform images, and slows convolutions down on CPUs
    )
    model.optimizer.build(model.trainable_variables)
    return model


def batches(
    images: NDArray[np.uint8], labels: NDArray[np.uint8], batch_size: int, seed: int
) -> Callable[[int], Any]:
    """Return a function from the epoch to its batches; their order depends on seed and epoch."""
    with tf.device("CPU:0"):  # a batch is quick to send; the whole set need not fit on a GPU
        all_images, all_labels = tf.constant(images), tf.one_hot(labels, 10)
    count, steps = len(images), len(images) // batch_size
    # There is nothing to tune here, and an epoch would not end before the autotuner wakes up,
    # after 10 ms, 20 ms, 40 ms … (with TensorFlow 2.21: up to 10 s per epoch).
    options = tf.data.Options()
    options.autotune.enabled = False

    def of(epoch: int) -> Any:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        rows = order[: steps * batch_size].reshape(steps, batch_size)
        dataset = tf.data.Dataset.from_tensor_slices(rows).map(
            lambda batch: (tf.gather(all_images, batch), tf.gather(all_labels, batch))
        )
        return dataset.prefetch(2).with_options(options)

    return of


def fit_epoch(
    model: Any, epoch: Any, steps: int, after_step: Callable[[int, Mapping[str, float]], None]
) -> tuple[dict[str, float], list[NDArray[Any]]]:
    """Train on an epoch's batches; return its mean loss and accuracy, and the weights.

    The next epoch continues from these: `fit` leaves the model with the averages of its weights, if
    there are any. Raises FloatingPointError if the loss is not finite.
    """

    def step(batch: int, logs: Mapping[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError("the loss")
        after_step(batch, logs)

    weights: list[NDArray[Any]] = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=step,
        on_epoch_end=lambda epoch, logs: weights.extend(model.get_weights()),
    )
    fitted = model.fit(epoch, steps_per_epoch=steps, verbose=0, callbacks=[callback])
    return {name: values[0] for name, values in fitted.history.items()}, weights
