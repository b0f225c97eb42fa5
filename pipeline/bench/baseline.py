"""The baseline: the Keras notebook that most entrants to the competition fork.

Its network is one of ours; what makes it the baseline is its training with Keras'
ImageDataGenerator, which augments images one by one in Python. Written from its description, to be
timed with the same TensorFlow as the presets. Published: 0.9919 on its 15 % hold-out after seven
epochs, 0.9922 at best.
"""

import time

import numpy as np
from numpy.typing import NDArray

from pipeline.backend import keras
from pipeline.train.networks import notebook as original

BATCH_SIZE = 86
EPOCHS = 30
PATIENCE = 4


def train(
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    held_out: NDArray[np.bool_],
    seed: int,
    epochs: int = EPOCHS,
) -> dict[str, list[float]]:
    """Train as the notebook does; return seconds, validation accuracy and loss by epoch.

    Args:
        images: uint8 (n, 28, 28, 1).
        labels: uint8 (n,).
        held_out: bool (n,), the rows to validate on.
        seed: of weights, order, dropout and augmentation.
        epochs: the maximum.
    """
    from keras.src.legacy.preprocessing.image import ImageDataGenerator

    keras.utils.set_random_seed(seed)
    pixels, targets = images.astype(np.float32), keras.utils.to_categorical(labels, 10)
    generator = ImageDataGenerator(
        rotation_range=10, zoom_range=0.1, width_shift_range=0.1, height_shift_range=0.1
    )
    model = original.network(32, 0.5)
    model.compile(
        optimizer=keras.optimizers.RMSprop(1e-3, rho=0.9),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    seconds: list[float] = []
    began = time.perf_counter()
    history = model.fit(
        generator.flow(pixels[~held_out], targets[~held_out], BATCH_SIZE, seed=seed),
        epochs=epochs,
        validation_data=(pixels[held_out], targets[held_out]),
        callbacks=[
            keras.callbacks.EarlyStopping("val_loss", patience=PATIENCE),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: seconds.append(time.perf_counter() - began)
            ),
        ],
        verbose=2,
    ).history
    return {"seconds": seconds, "accuracy": history["val_accuracy"], "loss": history["val_loss"]}
