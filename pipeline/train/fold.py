"""Train one fold, and predict the rows and images that it has not seen.

The model that is trained is the augmentation followed by the network; pixels stay uint8 until they
are in the graph. After every epoch the whole state is written to a checkpoint. A run that was
stopped resumes from it, and ends with the same bytes as one that was not.
"""

import functools
import hashlib
import math
import re
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline.errors import UserError
from pipeline.train import checkpoint

if TYPE_CHECKING:
    from pipeline.config import Train
    from pipeline.environment import Environment

# Averages of weights and statistics need more steps than this to be of use.
FEW_STEPS = 100
# Images per step of a prediction: few enough for the caches of a small CPU.
PREDICT_BATCH = 500
# Training images that are kept with their augmentations, for the report.
EXAMPLES = 10


class Progress(AbstractContextManager["Progress"]):
    """Shows how far a fold is while it trains; this one shows nothing (see progress.py)."""

    title = ""  # what printed lines begin with; by default the fold

    def __exit__(self, *error: object) -> None:
        """End, whether the fold is trained or failed."""

    def begin(self, rows: int, images: int, steps: int, done: int) -> None:
        """Begin: rows to train on, images to predict, steps of an epoch, epochs done before."""

    def step(self, batch: int, logs: Mapping[str, float]) -> None:
        """End a batch, counted from 0 in its epoch, with the epoch's means so far."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """End an epoch, with its row of the history."""


def train(
    train_images: Path,
    train_labels: Path,
    test_images: Path,
    fold_ids: Path,
    weights: Path,
    history: Path,
    oof: Path,
    test: Path,
    augmented: Path,
    fold: int,
    params: "Train",
    network: ModuleType,
    environment: "Environment",
    progress: Progress,
) -> dict[str, Any]:
    """Train the network of one fold, from its checkpoint if there is one; return metadata.

    Args:
        train_images: uint8 (n, 28, 28, 1).
        train_labels: uint8 (n,).
        test_images: uint8 (m, 28, 28, 1).
        fold_ids: int8 (n,).
        weights: writes the network, from pixels to logits, in Keras' format.
        history: writes a CSV with a row for each epoch.
        oof: writes float32 (held-out rows, 10), their probabilities, in their order.
        test: writes float32 (m, 10).
        augmented: writes uint8 (k, 10, 28, 28, 1), k training images, each with 9 augmentations.
        fold: the fold to hold out.
        params: how to train.
        network: the module that `params.network` names.
        environment: from `runtime.prepare`; a checkpoint of another one is left alone.
        progress: what to tell about it.
    """
    title = progress.title or f"fold {fold}"
    explained = functools.partial(_explained, params=params, precision=environment.precision)
    # 31 bits, which every library accepts, unrelated to those of the next fold.
    digest = hashlib.sha256(f"{params.seed}/{fold}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big") >> 1
    _seed_everything(seed, environment.precision)
    from pipeline.train import recipe, saving
    from pipeline.train.schedule import WarmUpThenDecay

    images, labels = np.load(train_images, mmap_mode="r"), np.load(train_labels, mmap_mode="r")
    held_out = np.load(fold_ids) == fold
    rows = np.flatnonzero(~held_out)[: params.limit or None]
    unseen_images, unseen_labels = images[held_out], labels[held_out]
    unlabelled_images = np.load(test_images, mmap_mode="r")

    batch_size = min(params.batch_size, len(rows))
    steps = len(rows) // batch_size
    rate = WarmUpThenDecay(params.learning_rate, steps * params.epochs, params.warmup, params.decay)
    with _strategy(params.devices).scope():
        model = recipe.compiled(params, network, rate, steps, seed)
    built = model.layers[-1]
    batches = recipe.batches(images[rows], labels[rows], batch_size, seed)
    print(f"network {params.network}, {built.count_params():,} parameters, {len(rows):,} rows")

    identity = repr((fold, params.used)).encode() + labels.tobytes() + held_out.tobytes()
    path = weights.with_name(environment.checkpoint)
    state = checkpoint.restore(path, model, hashlib.sha256(identity).hexdigest())
    if state.history:
        print(f"{title}: resuming after epoch {len(state.history)}")
    with progress:
        predicted = len(unseen_images) + len(unlabelled_images)
        progress.begin(len(rows), predicted, steps, len(state.history))
        for epoch in range(len(state.history), params.epochs):
            if params.patience and epoch > state.best_epoch(params.monitor) + params.patience:
                break
            began = time.perf_counter()
            model.layers[0].strength.assign(float(epoch >= params.augment_after))
            with explained(f"{title}, epoch {epoch + 1}"):
                fitted, current = recipe.fit_epoch(model, batches(epoch), steps, progress.step)
                loss, accuracy = _score(predict(model, unseen_images), unseen_labels)
            row = {
                "epoch": epoch + 1,
                "loss": fitted["loss"],
                "accuracy": fitted["accuracy"],
                "val_loss": loss,
                "val_accuracy": accuracy,
                "learning_rate": float(rate((epoch + 1) * steps - 1)),
            }
            state.history.append(row)
            if params.restore_best_weights and state.best_epoch(params.monitor) == epoch:
                state.best_weights = model.get_weights()
            model.set_weights(current)
            state.epoch_seconds.append(round(time.perf_counter() - began, 3))
            checkpoint.save(path, model, state)
            checkpoint.write_history(history, state.history)
            progress.epoch(row)

    model.optimizer.finalize_variable_values(model.trainable_variables)
    if params.restore_best_weights:
        model.set_weights(state.best_weights)
    with explained(title):
        with _strategy(params.devices).scope():
            final = saving.over_shifts(built, params.predict_shift)
        unseen = predict(final, unseen_images)
        np.save(test, predict(final, unlabelled_images))
    np.save(oof, unseen)
    plain = saving.plain(built)
    saving.save(saving.over_shifts(plain, params.predict_shift), weights)
    checkpoint.write_history(history, state.history)  # all epochs may be an earlier run's
    np.save(augmented, _augmented(images[rows[:EXAMPLES]], params, seed))
    loss, accuracy = _score(unseen, unseen_labels)
    print(f"{title}: accuracy {accuracy:.5f} on {len(unseen):,} held-out rows")
    if accuracy < 2 * np.bincount(unseen_labels).max() / len(unseen):
        print(f"{title}: this is close to guessing: {_why_guessing(state.history, steps)}")
    return {
        **environment.metadata(),
        "parameters": built.count_params(),
        "layers": [saving.described(layer) for layer in plain.layers],
        "rows": len(rows),
        "epochs": len(state.history),
        "epoch_seconds": state.epoch_seconds,
        "held_out_rows": len(unseen),
        "held_out_loss": loss,
        "held_out_accuracy": accuracy,
    }


def _seed_everything(seed: int, precision: str) -> None:
    from pipeline.backend import keras, tf

    # Keras numbers layers; every fold of a process has to start counting from the beginning.
    keras.utils.clear_session()  # before the policy, which it resets
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


@functools.cache  # a second strategy in a process would number its collectives from the start
def _strategy(devices: int) -> Any:
    """Choose TensorFlow's strategy for so many devices; raise UserError if there are fewer."""
    from pipeline.backend import tf

    if devices == 1:
        return tf.distribute.get_strategy()
    there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(there):
        raise UserError(
            f"train.devices is {devices}, and TensorFlow sees {len(there)} "
            f"{there[0].device_type}; set it to at most {len(there)}"
        )
    return tf.distribute.MirroredStrategy([device.name for device in there[:devices]])


def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute class probabilities, float32 (n, 10), of images, uint8 (n, 28, 28, 1).

        predict(network, images).argmax(axis=1)  # the labels

    Raises FloatingPointError if a weight or a logit is not finite.
    """
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise FloatingPointError("a weight")
    logits = model.predict(images, batch_size=PREDICT_BATCH, verbose=0).astype(np.float64)
    if not np.isfinite(logits).all():
        raise FloatingPointError("a predicted logit")
    return np.asarray(softmax(logits, axis=1), dtype=np.float32)


@contextmanager
def _explained(title: str, params: "Train", precision: str) -> Iterator[None]:
    """Turn values that are not finite, and errors in the user's own network, into a UserError."""
    try:
        yield
    except FloatingPointError as error:
        half = ', or set train.precision to "float32"' if precision == "mixed_float16" else ""
        raise UserError(
            f"{title}: {error} is no longer finite: training diverged; lower train.learning_rate, "
            f"which is {params.learning_rate}{half}"
        ) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.filename.endswith(f"networks/{params.network}.py") for frame in frames):
            said = re.sub(r"\x1b\[\d*m", "", " ".join(str(error).split()))  # Keras' lines and bold
            raise UserError(
                f"train/networks/{params.network}.py: {type(error).__name__}: {said} (--debug "
                "shows where)"
            ) from error
        raise


def _augmented(images: NDArray[np.uint8], params: "Train", seed: int) -> NDArray[np.uint8]:
    """Follow each image, uint8 (k, 28, 28, 1), by 9 augmentations of it: (k, 10, 28, 28, 1)."""
    from pipeline.train.augment import RandomAffine

    augmentation = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed)
    drawn = np.asarray(augmentation(np.repeat(images, 9, axis=0), training=True))
    several = drawn.reshape(len(images), 9, *images.shape[1:]).astype(np.uint8)
    return np.concatenate([images[:, np.newaxis], several], axis=1)


def _score(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the mean negative log-likelihood, in nats, and the accuracy."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(true, 1e-12)).mean()
    return float(loss), float((probabilities.argmax(axis=1) == labels).mean())


def _why_guessing(history: Sequence[Mapping[str, float]], steps: int) -> str:
    """Say why a network predicts no better than by chance; `steps` are those of an epoch."""
    taken, worst = len(history) * steps, max(row["loss"] for row in history)
    if worst > 10 * math.log(10) or taken >= FEW_STEPS:  # guessing has a loss of log(10)
        return f"training diverged, to a loss of {worst:.3g}; lower train.learning_rate"
    return f"it took only {taken} steps, which is normal for the first few dozen"
