"""Stage 4: train one fold, and predict what it has not seen.

The training model is the augmentation followed by the network; pixels stay uint8 until they are
in the graph. After every epoch the whole state is written to a checkpoint, from which a run that
was stopped goes on, to the same bytes as a run that was not.
"""

import csv
import hashlib
import io
import json
import math
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import runtime
from pipeline.artifacts import atomic
from pipeline.config import Train
from pipeline.errors import UserError

CHECKPOINT = "checkpoint.npz"
# What NumPy says of a checkpoint that was damaged. RuntimeError: a flipped bit may claim that the
# archive is encrypted, or of a later version.
DAMAGE = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile)
# Images a step where nothing is learnt: few enough for the caches of a small CPU.
PREDICT_BATCH = 500


@dataclass
class State:
    """What a fold has behind it: a checkpoint less the variables of model and optimiser.

    `training` says of which fold, parameters and labels it is.
    """

    training: str
    history: list[dict[str, float]] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    best_loss: float = float("inf")
    best_epoch: int = 0
    best_weights: list[NDArray[Any]] = field(default_factory=list)


def train(
    folder: Path,
    tensors: Path,
    fold_ids_path: Path,
    fold: int,
    params: Train,
    title: str = "",
    jobs: int = 1,
) -> dict[str, Any]:
    """Train the network of one fold; write its weights, history and probabilities to `folder`.

    Leaves weights.keras (the network, from pixels to logits), history.csv (a row an epoch),
    oof.npy, float32 (held-out rows, 10), in the rows' order, and test.npy, float32 (m, 10).

    Args:
        folder: an existing folder; if there is a checkpoint in it, training goes on from there.
        tensors: the folder that preprocess left.
        fold_ids_path: the file that split left.
        fold: the fold that is held out.
        params: the parameters of this stage.
        title: what the lines that are printed begin with; else the fold.
        jobs: how many folds are trained on this machine at a time. It changes no result.

    Returns:
        Facts for the manifest: node, device, precision and why, versions, epochs and the seconds of
        each with its validation (the first one's include the tracing of the graph), accuracy.

    Raises:
        UserError: there is no such network, or not so many devices.
    """
    title = title or f"fold {fold}"
    seed = _fold_seed(params.seed, fold)
    machine = runtime.prepare(seed, params.precision, params.devices, jobs)
    print(f"device {machine.device} ({machine.device_reason})")
    print(f"precision {machine.precision} ({machine.precision_reason})")
    # Imported here because these modules need Keras, and Keras the settings made just now.
    from pipeline.progress import TrainingBar
    from pipeline.schedule import WarmUpThenDecay

    images = np.load(tensors / "train_images.npy", mmap_mode="r")
    labels = np.load(tensors / "train_labels.npy", mmap_mode="r")
    held_out = np.load(fold_ids_path) == fold
    rows = np.flatnonzero(~held_out)[: params.limit or None]
    unseen_images, unseen_labels = images[held_out], labels[held_out]

    batch_size = min(params.batch_size, len(rows))
    steps = len(rows) // batch_size
    rate = WarmUpThenDecay(params.learning_rate, steps * params.epochs, params.warmup, params.decay)
    with runtime.spread(params.devices):
        model, network = _build(params, rate, steps, seed)
    epoch_of_batches = _feed(images[rows], labels[rows], batch_size, seed)
    print(f"network {params.network}, {network.count_params():,} parameters, {len(rows):,} rows")

    identity = repr((fold, params)).encode() + labels.tobytes() + held_out.tobytes()
    state = _restore(folder / CHECKPOINT, model, hashlib.sha256(identity).hexdigest())
    if state.history:
        print(f"{title}: going on after epoch {len(state.history)}")
    with TrainingBar(title, params.epochs, steps, len(state.history)) as bar:
        for epoch in range(len(state.history), params.epochs):
            if params.patience and epoch > state.best_epoch + params.patience:
                break
            began = time.perf_counter()
            model.layers[0].strength.assign(float(epoch >= params.augment_after))
            learnt = _learn(model, epoch_of_batches(epoch), steps, bar)
            with _averaged_weights(model):
                loss, accuracy = _score(predict(model, unseen_images), unseen_labels)
                watched = loss if params.watch == "val_loss" else learnt["loss"]
                if epoch == 0 or watched < state.best_loss:
                    state.best_loss = float("inf") if math.isnan(watched) else watched
                    state.best_epoch = epoch
                    state.best_weights = model.get_weights() if params.keep == "best" else []
            row = {
                "epoch": epoch + 1,
                "loss": learnt["loss"],
                "accuracy": learnt["accuracy"],
                "val_loss": loss,
                "val_accuracy": accuracy,
                "learning_rate": float(rate((epoch + 1) * steps - 1)),
            }
            state.history.append(row)
            state.epoch_seconds.append(round(time.perf_counter() - began, 3))
            _save(folder / CHECKPOINT, model, state)
            bar.epoch_done(row)

    with _averaged_weights(model):
        if params.keep == "best":
            model.set_weights(state.best_weights)
        oof = predict(model, unseen_images)
        np.save(folder / "oof.npy", oof)
        test_images = np.load(tensors / "test_images.npy", mmap_mode="r")
        np.save(folder / "test.npy", predict(model, test_images))
        _save_network(network, folder / "weights.keras")
    _write_history(folder / "history.csv", state.history)
    loss, accuracy = _score(oof, unseen_labels)
    print(f"{title}: accuracy {accuracy:.5f} on {len(oof):,} held-out rows")
    return {
        **machine.facts(),
        "parameters": network.count_params(),
        "rows": len(rows),
        "epochs": len(state.history),
        "epoch_seconds": state.epoch_seconds,
        "held_out_rows": len(oof),
        "held_out_loss": loss,
        "held_out_accuracy": accuracy,
    }


def predict(model: Any, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class probabilities, float32 (n, 10), of images, uint8 (n, 28, 28, 1)."""
    logits = model.predict(images, batch_size=PREDICT_BATCH, verbose=0).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.asarray(probabilities, dtype=np.float32)


def _fold_seed(seed: int, fold: int) -> int:
    """A seed of 31 bits, which every library takes; neighbours in (seed, fold) lie far apart."""
    digest = hashlib.sha256(f"{seed}/{fold}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _build(params: Train, rate: Any, steps: int, seed: int) -> tuple[Any, Any]:
    """The training model, compiled, and the network within it."""
    from pipeline.augment import RandomAffine
    from pipeline.backend import keras
    from pipeline.networks import NETWORKS

    if params.network not in NETWORKS:
        raise UserError(
            f"train.network: there is no network {params.network!r} in networks.py, "
            f"which has {', '.join(NETWORKS)}"
        )
    try:
        network = NETWORKS[params.network](params.width, params.dropout)
    except Exception as error:
        raise UserError(
            f"networks.py: {params.network} cannot be built: {error} (DIGITS_DEBUG=1 shows where)"
        ) from error
    # Averages that reach further back than a tenth of the training would hold its first weights.
    average = min(params.average, 1 - 10 / (steps * params.epochs))
    warp = RandomAffine(params.rotation, params.zoom, params.shift, params.shear, seed)
    model = keras.Sequential([keras.Input((28, 28, 1), dtype="uint8"), warp, network])
    averaging = {"use_ema": average > 0, "ema_momentum": max(average, 0.0)}
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
        # Several steps in one call fail on several devices: keras-team/keras issue 19246.
        steps_per_execution=min(params.steps_per_call, steps) if params.devices == 1 else 1,
        jit_compile=False,  # XLA has no warp of images, and slows convolutions down on CPUs
    )
    model.optimizer.build(model.trainable_variables)
    return model, network


def _feed(images: NDArray[np.uint8], labels: NDArray[np.uint8], batch_size: int, seed: int) -> Any:
    """A function from the epoch to its batches, in an order that only seed and epoch decide."""
    from pipeline.backend import tf

    with tf.device("CPU:0"):  # a batch of bytes is soon sent; the whole set need not fit a GPU
        all_images, all_labels = tf.constant(images), tf.one_hot(labels, 10)

    count, steps = len(images), len(images) // batch_size

    def batches(epoch: int) -> Any:
        order = np.random.default_rng((seed, epoch)).permutation(count)
        rows = order[: steps * batch_size].reshape(steps, batch_size)
        dataset = tf.data.Dataset.from_tensor_slices(rows).map(
            lambda batch: (tf.gather(all_images, batch), tf.gather(all_labels, batch))
        )
        # There is nothing to tune here, and the end of an epoch would wait for the tuner, which
        # wakes up after 10 ms, 20 ms, 40 ms … (seen with TensorFlow 2.21: up to 10 s an epoch).
        options = tf.data.Options()
        options.autotune.enabled = False
        return dataset.prefetch(2).with_options(options)

    return batches


def _learn(model: Any, batches: Any, steps: int, bar: Any) -> dict[str, float]:
    """Train for one epoch; returns its mean loss and accuracy."""
    from pipeline.backend import keras

    # `fit` ends by putting the averages in the place of the weights. The next epoch is to go on
    # from the weights, so they are kept from just before that, and put back.
    weights: list[NDArray[Any]] = []
    keep = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: weights.extend(model.get_weights())
    )
    history = model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=[bar, keep]).history
    model.set_weights(weights)
    return {name: values[0] for name, values in history.items()}


@contextmanager
def _averaged_weights(model: Any) -> Iterator[None]:
    """Within the block the model has the averages of its weights, if any are kept."""
    current = model.get_weights()
    model.optimizer.finalize_variable_values(model.trainable_variables)
    try:
        yield
    finally:
        model.set_weights(current)


def _score(probabilities: NDArray[np.float32], labels: NDArray[np.uint8]) -> tuple[float, float]:
    """Mean negative log-likelihood, in nats, and accuracy."""
    true = probabilities[np.arange(len(labels)), labels]
    loss = -np.log(np.maximum(true, 1e-12)).mean()
    return float(loss), float((probabilities.argmax(axis=1) == labels).mean())


# --- the state on disk --------------------------------------------------------------------------


def _variables(model: Any) -> list[Any]:
    """All that a step changes: weights, statistics, the counters of chance, the optimiser's own."""
    return [*model.variables, *model.optimizer.variables]


def _save(path: Path, model: Any, state: State) -> None:
    arrays = {f"variable_{i}": np.asarray(v) for i, v in enumerate(_variables(model))}
    arrays |= {f"best_{i}": weights for i, weights in enumerate(state.best_weights)}
    rest = {k: v for k, v in asdict(state).items() if k != "best_weights"}
    arrays["state"] = np.array(json.dumps(rest))
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _restore(path: Path, model: Any, training: str) -> State:
    """Put the model where its checkpoint left it; without a sound one, start anew."""
    if not path.exists():
        return State(training)
    variables = _variables(model)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = [arrays[f"variable_{i}"] for i in range(len(variables))]
            best = sorted(int(name[5:]) for name in arrays.files if name.startswith("best_"))
            weights = [arrays[f"best_{i}"] for i in best]
            state = State(**json.loads(str(arrays["state"])), best_weights=weights)
        if state.training != training:
            raise ValueError("it is another training's")
    except DAMAGE:
        print("the checkpoint of the run before is damaged; starting anew")
        return State(training)
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return state


def _save_network(network: Any, path: Path) -> None:
    """Save in Keras' format, less dates and addresses: the same network gives the same bytes."""
    from pipeline.backend import keras
    from pipeline.networks import FusedBatchNormalization

    def plain(layer: Any) -> Any:
        # Whoever loads the file need not have this package.
        fused = isinstance(layer, FusedBatchNormalization)
        kind = keras.layers.BatchNormalization if fused else type(layer)
        return kind.from_config(layer.get_config())

    saved = keras.models.clone_model(network, clone_function=plain)
    saved.set_weights(network.get_weights())
    dated = path.with_suffix(".dated.keras")
    saved.save(dated)
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(path, "w") as target:
        for name in sorted(source.namelist()):
            content = source.read(name)
            if name == "metadata.json":
                dateless = json.loads(content) | {"date_saved": "1980-01-01@00:00:00"}
                content = json.dumps(dateless).encode()
            elif name == "config.json":
                # Addresses in memory, by which Keras finds equal settings again; it need not.
                content = re.sub(rb', "shared_object_id": \d+', b"", content)
            target.writestr(zipfile.ZipInfo(name), content)
    dated.unlink()


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, history[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    path.write_text(text.getvalue(), encoding="ascii")
