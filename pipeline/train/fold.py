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
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
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


class Progress:
    """What `train` tells about a fold while it trains; this one shows nothing (see progress.py)."""

    title = ""  # what printed lines begin with; by default the fold

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        pass

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
    """Train the network of one fold; resumes from the checkpoint beside `weights`, if there is one.

    Args:
        train_images: uint8 (n, 28, 28, 1).
        train_labels: uint8 (n,).
        test_images: uint8 (m, 28, 28, 1).
        fold_ids: int8 (n,).
        weights: to be written in Keras' format: the network, from pixels to logits, with the mean
            over shifts (`layers.over_shifts`) if there is one.
        history: to be written, a CSV with a row for each epoch.
        oof: to be written, float32 (held-out rows, 10): their probabilities, in their order.
        test: to be written, float32 (m, 10).
        augmented: to be written, uint8 (k, 10, 28, 28, 1): the first k ≤ 10 training images, each
            as it is, and then as training augments it.
        fold: the fold to hold out.
        params: how to train.
        network: the module that `params.network` names.
        environment: from `runtime.prepare`; a checkpoint of another one is left alone.
        progress: what to tell about it.

    Returns:
        Metadata: the environment, the network's layers, the accuracy, and the seconds of each epoch
        with its validation (the first includes the tracing of the graph).

    Raises:
        UserError: the network cannot be used, there are not enough devices, or training diverged.
    """
    title = progress.title or f"fold {fold}"
    # 31 bits, which every library accepts, unrelated to those of the next fold.
    digest = hashlib.sha256(f"{params.seed}/{fold}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big") >> 1
    _seed_everything(seed, environment.precision)
    # Imported here because it imports Keras, which needs the settings made just now.
    from pipeline.train.layers import over_shifts
    from pipeline.train.schedule import WarmUpThenDecay

    images, labels = np.load(train_images, mmap_mode="r"), np.load(train_labels, mmap_mode="r")
    held_out = np.load(fold_ids) == fold
    rows = np.flatnonzero(~held_out)[: params.limit or None]
    unseen_images, unseen_labels = images[held_out], labels[held_out]
    unlabelled_images = np.load(test_images, mmap_mode="r")

    batch_size = min(params.batch_size, len(rows))
    steps = len(rows) // batch_size
    rate = WarmUpThenDecay(params.learning_rate, steps * params.epochs, params.warmup, params.decay)
    with spread(params.devices):
        model, built = _build(params, network, rate, steps, seed)
    batches_of = _feed(images[rows], labels[rows], batch_size, seed)
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
            with _explained(f"{title}, epoch {epoch + 1}", params, environment.precision):
                fitted, current = _fit_epoch(model, batches_of(epoch), steps, progress)
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
    with _explained(title, params, environment.precision):
        with spread(params.devices):
            final = over_shifts(built, params.predict_shift)
        unseen = predict(final, unseen_images)
        np.save(test, predict(final, unlabelled_images))
    np.save(oof, unseen)
    described = _save_network(built, weights, params.predict_shift)
    checkpoint.write_history(history, state.history)  # all epochs may be an earlier run's
    np.save(augmented, _augmented(images[rows[:EXAMPLES]], params, seed))
    loss, accuracy = _score(unseen, unseen_labels)
    print(f"{title}: accuracy {accuracy:.5f} on {len(unseen):,} held-out rows")
    if accuracy < 2 * np.bincount(unseen_labels).max() / len(unseen):
        taken, worst = len(state.history) * steps, max(row["loss"] for row in state.history)
        if worst > 10 * math.log(10) or taken >= FEW_STEPS:  # guessing has a loss of log(10)
            print(
                f"{title}: this is close to guessing: training diverged, to a loss of "
                f"{worst:.3g}; lower train.learning_rate"
            )
        else:
            print(
                f"{title}: this is close to guessing: it took only {taken} steps, which is normal "
                "for the first few dozen"
            )
    return {
        **environment.metadata(),
        "parameters": built.count_params(),
        "layers": described,
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


def spread(devices: int) -> Any:
    """Open the scope in which to build a model that is trained on several devices at once.

    Raises:
        UserError: there are fewer.
    """
    return _strategy(devices).scope() if devices > 1 else nullcontext()


# One for all folds of the process: a second one would number its collectives from the start.
@functools.cache
def _strategy(devices: int) -> Any:
    from pipeline.backend import tf

    there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(there):
        raise UserError(
            f"train.devices is {devices}, and TensorFlow sees {len(there)} "
            f"{there[0].device_type}; set it to at most {len(there)}"
        )
    return tf.distribute.MirroredStrategy([device.name for device in there[:devices]])


def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities, float32 (n, 10), of images, uint8 (n, 28, 28, 1).

    Raises:
        FloatingPointError: a weight or a logit is not finite.
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
        if precision == "mixed_float16":
            raise UserError(
                f"{title}: {error} is no longer finite: training diverged; lower "
                f"train.learning_rate, which is {params.learning_rate}, or set train.precision to "
                '"float32"'
            ) from error
        raise UserError(
            f"{title}: {error} is no longer finite: training diverged; lower train.learning_rate, "
            f"which is {params.learning_rate}"
        ) from error
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.filename.endswith(f"networks/{params.network}.py") for frame in frames):
            raise UserError(
                f"train/networks/{params.network}.py: {type(error).__name__}: {error} (--debug "
                "shows where)"
            ) from error
        raise


def _build(
    params: "Train", module: ModuleType, rate: Any, steps: int, seed: int
) -> tuple[Any, Any]:
    """Compile the model that is trained; return it, and the network within it."""
    from pipeline.backend import keras
    from pipeline.train.augment import RandomAffine
    from pipeline.train.networks import build

    network = build(module, params.width, params.dropout)
    # An average that reached further back than a tenth of the run would contain its first weights.
    momentum = min(params.ema_momentum, 1 - 10 / (steps * params.epochs))
    augmentation = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed)
    model = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), augmentation, network])
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
    return model, network


def _augmented(images: NDArray[np.uint8], params: "Train", seed: int) -> NDArray[np.uint8]:
    """Images, uint8 (k, 28, 28, 1), each followed by 9 augmentations of it: (k, 10, 28, 28, 1)."""
    from pipeline.train.augment import RandomAffine

    augmentation = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed)
    drawn = np.asarray(augmentation(np.repeat(images, 9, axis=0), training=True))
    several = drawn.reshape(len(images), 9, *images.shape[1:]).astype(np.uint8)
    return np.concatenate([images[:, np.newaxis], several], axis=1)


def _feed(images: NDArray[np.uint8], labels: NDArray[np.uint8], batch_size: int, seed: int) -> Any:
    """A function from the epoch to its batches, in an order that depends only on seed and epoch."""
    from pipeline.backend import tf

    with tf.device("CPU:0"):  # a batch is quick to send; the whole set need not fit on a GPU
        all_images, all_labels = tf.constant(images), tf.one_hot(labels, 10)

    count, steps = len(images), len(images) // batch_size

    def batches(epoch: int) -> Any:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        rows = order[: steps * batch_size].reshape(steps, batch_size)
        dataset = tf.data.Dataset.from_tensor_slices(rows).map(
            lambda batch: (tf.gather(all_images, batch), tf.gather(all_labels, batch))
        )
        # There is nothing to tune here, and an epoch would not end before the autotuner wakes up,
        # after 10 ms, 20 ms, 40 ms … (with TensorFlow 2.21: up to 10 s per epoch).
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.prefetch(2).with_options(options)

    return batches


def _fit_epoch(
    model: Any, batches: Any, steps: int, progress: Progress
) -> tuple[dict[str, float], list[NDArray[Any]]]:
    """Train for one epoch; return its mean loss and accuracy, and the weights.

    `fit` ends by replacing the weights with their averages, if there are any: the model is left
    with those. The next epoch has to continue from the weights themselves.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    from pipeline.backend import keras

    def after_steps(batch: int, logs: Mapping[str, float]) -> None:
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError("the loss")
        progress.step(batch, logs)

    weights: list[NDArray[Any]] = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=after_steps,
        on_epoch_end=lambda epoch, logs: weights.extend(model.get_weights()),
    )
    fitted = model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[callback])
    return {name: values[0] for name, values in fitted.history.items()}, weights


def _score(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean negative log-likelihood, in nats, and accuracy."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(true, 1e-12)).mean()
    return float(loss), float((probabilities.argmax(axis=1) == labels).mean())


def save(model: Any, path: Path) -> None:
    """Save in Keras' format, without dates and addresses: equal models give equal bytes."""
    dated = path.with_suffix(".dated.keras")
    model.save(dated)
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "metadata.json":
                content = re.sub(rb"\d{4}-\d\d-\d\d@[\d:]{8}", b"1980-01-01@00:00:00", content)
            elif name == "config.json":
                # Addresses in memory, by which Keras recognises shared objects; there are none.
                content = re.sub(rb', "shared_object_id": \d+', b"", content)
            target.writestr(zipfile.ZipInfo(name), content)
    dated.unlink()


def _save_network(network: Any, path: Path, shift: int) -> list[dict[str, Any]]:
    """Save a network so that it predicts as the fold does: with the mean over shifts, if any.

    Returns:
        The layers of the network, from pixels to logits: the class, the shape of an image's
        features, and the number of parameters of each.
    """
    from pipeline.backend import keras
    from pipeline.train.layers import FusedBatchNormalization, over_shifts

    def plain(layer: Any) -> Any:
        # The file can be loaded without this package.
        fused = isinstance(layer, FusedBatchNormalization)
        kind = keras.layers.BatchNormalization if fused else type(layer)
        return kind.from_config(layer.get_config())

    copied = keras.models.clone_model(network, clone_function=plain)
    copied.set_weights(network.get_weights())
    save(over_shifts(copied, shift), path)
    return [
        {
            "kind": type(layer).__name__,
            "shape": list(keras.tree.flatten(layer.output)[0].shape[1:]),
            "parameters": layer.count_params(),
        }
        for layer in copied.layers
    ]
