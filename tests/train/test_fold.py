"""fold.py: what a fold writes, the same bytes however often it is stopped, and what it refuses."""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import contents, digit_images

from pipeline.config import Train
from pipeline.environment import environment
from pipeline.errors import UserError
from pipeline.train.fold import Progress, predict, train
from pipeline.train.history import read as history

# 150 rows in three folds of 50: five steps of 20 images an epoch, in calls of three and two.
PARAMS = Train(
    width=4,
    epochs=3,
    batch_size=20,
    learning_rate=0.02,
    dropout=0.2,
    ema_momentum=0.8,
    rotation=5.0,
    shift=1.0,
    steps_per_execution=3,
    precision="float32",
)
# The same with weights that are chosen by the held-out loss.
BEST = replace(PARAMS, restore_best_weights=True, patience=2)
SHIFTED = replace(PARAMS, predict_shift=1)
STILL = {"rotation": 0.0, "zoom": 0.0, "shift": 0.0, "shear": 0.0}
ADAM = replace(PARAMS, optimizer="adam", precision="mixed_float16", epochs=2)
READS = ("train_images", "train_labels", "test_images", "fold_ids")
OUTPUTS = {
    "history": "history.csv",
    "oof": "oof.npy",
    "test": "test.npy",
    "weights": "weights.keras",
    "augmented": "augmented.npy",
}
ENVIRONMENT = environment("CPU", "for tests", ("float32", "asked for"))
CHECKPOINT = ENVIRONMENT.checkpoint
slow = pytest.mark.slow
pytestmark = pytest.mark.usefixtures("fresh_keras")


@pytest.fixture(scope="session")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arrays that preprocess and split write."""
    folder = tmp_path_factory.mktemp("arrays")
    images, labels = digit_images(150)
    test_images, _ = digit_images(30, seed=1)
    np.save(folder / "train_images.npy", images)
    np.save(folder / "train_labels.npy", labels)
    np.save(folder / "test_images.npy", test_images)
    np.save(folder / "fold_ids.npy", (np.arange(150) // 10 % 3).astype(np.int8))
    return folder


def train_fold(
    folder: Path, arrays: Path, params: Train, fold: int = 1, **others: Any
) -> dict[str, Any]:
    """Train as a stage does, without a word on the progress; `others` replace what `train` gets."""
    folder.mkdir(exist_ok=True)
    given = {name: arrays / f"{name}.npy" for name in READS}
    given |= {name: folder / file for name, file in OUTPUTS.items()}
    given |= {"fold": fold, "params": params, "progress": Progress()}
    given["environment"] = replace(ENVIRONMENT, precision=params.precision)
    if "network" not in others:
        given["network"] = import_module(f"pipeline.train.networks.{params.network}")
    return train(**given | others)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, arrays: Path
) -> Callable[[Train], tuple[Path, dict[str, Any]]]:
    """A function from parameters to the folder and metadata of an uninterrupted run, made once."""
    made: dict[Train, tuple[Path, dict[str, Any]]] = {}

    def run(params: Train) -> tuple[Path, dict[str, Any]]:
        if params not in made:
            folder = tmp_path_factory.mktemp("trained")
            made[params] = folder, train_fold(folder, arrays, params)
        return made[params]

    return run


def timeless(metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata that is the same each time."""
    return {name: value for name, value in metadata.items() if name != "epoch_seconds"}


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS.values()}


def differing(one: Path, other: Path) -> list[str]:
    """The names of the outputs that differ between two folders."""
    left, right = outputs(one), outputs(other)
    return [name for name in left if left[name] != right[name]]


def column(folder: Path, name: str) -> list[float]:
    return [row[name] for row in history(folder / "history.csv")]


def _build(params: Train, steps: int) -> Any:
    """Build the model that is trained."""
    from pipeline.train import recipe
    from pipeline.train.networks import strided

    return recipe.compiled(params, strided, 0.001, steps, seed=0)


# --- what a fold writes --------------------------------------------------------------------------


@slow
def test_what_a_fold_writes(trained: Any, arrays: Path) -> None:
    folder, metadata = trained(PARAMS)
    assert set(contents(folder)) == {*OUTPUTS.values(), CHECKPOINT}
    for name, rows in (("oof.npy", 50), ("test.npy", 30)):
        probabilities = np.load(folder / name)
        assert (probabilities.shape, probabilities.dtype) == ((rows, 10), np.float32)
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert (metadata["rows"], metadata["held_out_rows"], metadata["epochs"]) == (100, 50, 3)
    assert len(metadata["epoch_seconds"]) == 3
    assert metadata | ENVIRONMENT.metadata() == metadata
    labels = np.load(arrays / "train_labels.npy")[np.load(arrays / "fold_ids.npy") == 1]
    right = np.load(folder / "oof.npy").argmax(axis=1) == labels
    assert metadata["held_out_accuracy"] == pytest.approx(right.mean())
    json.dumps(metadata)

    layers = metadata["layers"]
    assert layers[0] == {"kind": "InputLayer", "shape": [28, 28, 1], "parameters": 0}
    assert sum(layer["parameters"] for layer in layers) == metadata["parameters"] == 4_190
    assert {"Conv2D", "BatchNormalization"} < {layer["kind"] for layer in layers}

    assert column(folder, "epoch") == [1, 2, 3]
    rates = column(folder, "learning_rate")
    assert PARAMS.learning_rate > rates[0] > rates[1] > rates[2] > 0
    assert column(folder, "val_accuracy")[-1] == pytest.approx(metadata["held_out_accuracy"])
    assert column(folder, "val_loss")[-1] == pytest.approx(metadata["held_out_loss"])

    images = np.load(arrays / "train_images.npy")[np.load(arrays / "fold_ids.npy") != 1]
    augmented = np.load(folder / "augmented.npy")
    assert (augmented.shape, augmented.dtype) == ((10, 10, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(augmented[:, 0], images[:10])
    assert len(np.unique(augmented.reshape(100, -1), axis=0)) == 100
    assert (augmented.max(axis=(2, 3)) > 100).all(), "ink is still there"


@slow
@pytest.mark.parametrize("params", [BEST, SHIFTED], ids=["best weights", "mean over shifts"])
def test_the_saved_network_predicts_the_same_without_this_package(
    trained: Any, arrays: Path, fresh_keras: Any, params: Train
) -> None:
    folder, _ = trained(params)
    with zipfile.ZipFile(folder / "weights.keras") as file:
        saved = file.read("config.json").decode()
    assert "BatchNormalization" in saved
    assert "pipeline" not in saved
    network = fresh_keras.saving.load_model(folder / "weights.keras")
    held_out = np.load(arrays / "fold_ids.npy") == 1
    for name, images in (
        ("oof.npy", np.load(arrays / "train_images.npy")[held_out]),
        ("test.npy", np.load(arrays / "test_images.npy")),
    ):
        found = predict(network, images)
        np.testing.assert_allclose(found, np.load(folder / name), rtol=1e-4, atol=1e-6)


@slow
def test_predictions_are_means_over_shifts(trained: Any, arrays: Path, fresh_keras: Any) -> None:
    """The training is that of a fold without shifts; only its predictions differ."""
    plain, (folder, _) = trained(PARAMS)[0], trained(SHIFTED)
    assert differing(plain, folder) == ["oof.npy", "test.npy", "weights.keras"]
    network = fresh_keras.saving.load_model(plain / "weights.keras")
    images = np.load(arrays / "test_images.npy")
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    shifts = [padded[:, top : top + 28, left : left + 28] for top in range(3) for left in range(3)]
    mean = np.mean([predict(network, shifted) for shifted in shifts], axis=0)
    np.testing.assert_allclose(np.load(folder / "test.npy"), mean, rtol=1e-4, atol=1e-6)


def test_augmentation_runs_in_the_graph_without_python() -> None:
    from pipeline.backend import keras, tf

    model = _build(PARAMS, steps=4)
    images, labels = digit_images(20)
    batch = (images, keras.utils.to_categorical(labels, 10))
    step = tf.function(lambda: model.train_step(batch)).get_concrete_function()
    kinds = {operation.type for operation in step.graph.get_operations()}
    # The library's own functions, such as the optimiser's branches, count too.
    kinds |= {n.op for f in step.graph.as_graph_def().library.function for n in f.node_def}
    assert "ImageProjectiveTransformV3" in kinds
    assert not {kind for kind in kinds if "PyFunc" in kind}


# What starts a process that sees its CPU as two devices.
TWO_DEVICES = f"""\
import sys
sys.path += {[str(folder) for folder in Path(__file__).parents[:2]]}
from pipeline.backend import tf
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from test_fold import *
"""


def train_on_two_devices(folds: dict[Path, Train], arrays: Path, scope: str = "") -> None:
    """Train folds in one such process, by the folders that they go to."""
    calls = [
        f"train_fold(Path({str(f)!r}), Path({str(arrays)!r}), {p!r})" for f, p in folds.items()
    ]
    text = TWO_DEVICES + "\n".join(f"{scope}{call}" for call in calls)
    subprocess.run([sys.executable, "-c", text], check=True)


@slow
def test_a_device_that_does_not_hold_the_data_gives_the_same_bytes(
    trained: Any, tmp_path: Path, arrays: Path
) -> None:
    """As on a GPU: the data stay on the first device, the network is on the second."""
    folder, _ = trained(PARAMS)
    train_on_two_devices({tmp_path: PARAMS}, arrays, 'with tf.device("CPU:1"): ')
    assert differing(folder, tmp_path) == []


def test_several_steps_run_in_one_call() -> None:
    assert [_build(PARAMS, steps).steps_per_execution for steps in (5, 2)] == [3, 2]


# --- same seed, same bytes -----------------------------------------------------------------------


@slow
def test_the_same_seed_gives_the_same_bytes(trained: Any, tmp_path: Path, arrays: Path) -> None:
    """Whatever the process did before: by hand it trains all folds, under `make` one."""
    folder, metadata = trained(PARAMS)
    _build(PARAMS, steps=5)  # Keras numbers the layers of a process; weights.keras has their names
    again = train_fold(tmp_path, arrays, PARAMS)
    assert differing(folder, tmp_path) == []
    assert timeless(again) == timeless(metadata)
    train_fold(tmp_path / "other", arrays, replace(PARAMS, epochs=1, seed=1))
    assert column(tmp_path / "other", "loss")[0] != column(folder, "loss")[0]


# --- stopped and resumed, same bytes -------------------------------------------------------------


class Stop(Progress):
    """Presses Ctrl-C in the first steps of an epoch, or as soon as its checkpoint is written."""

    def __init__(self, epoch: int, within: bool) -> None:
        self.last, self.within, self.now = epoch, within, 1

    def step(self, batch: int, logs: Mapping[str, float]) -> None:
        if self.within and self.now == self.last:
            raise KeyboardInterrupt

    def epoch(self, row: Mapping[str, float]) -> None:
        self.now = int(row["epoch"]) + 1
        if self.now > self.last:
            raise KeyboardInterrupt


@slow
@pytest.mark.parametrize(
    ("epoch", "within", "params"),
    [
        pytest.param(3, True, PARAMS, id="within the third epoch"),
        pytest.param(2, False, BEST, id="best weights and patience"),
        pytest.param(1, False, ADAM, id="adam and float16 with loss scaling"),
        pytest.param(3, False, PARAMS, id="after the last epoch"),
    ],
)
def test_a_resumed_run_writes_the_bytes_of_an_uninterrupted_one(
    trained: Any, tmp_path: Path, arrays: Path, capsys: Any, epoch: int, within: bool, params: Train
) -> None:
    folder, metadata = trained(params)
    stopped = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train_fold(stopped, arrays, params, progress=Stop(epoch, within))
    left = replace(ENVIRONMENT, precision=params.precision).checkpoint
    assert set(contents(stopped)) == {left, OUTPUTS["history"]}
    capsys.readouterr()
    resumed = train_fold(stopped, arrays, params)
    assert f"resuming after epoch {epoch - within}\n" in capsys.readouterr().out
    assert differing(folder, stopped) == []
    assert timeless(resumed) == timeless(metadata)
    assert len(resumed["epoch_seconds"]) == resumed["epochs"]


# --- what it learns from, and when it stops ---------------------------------------------------


@slow
def test_held_out_rows_and_the_test_set_do_not_affect_the_weights(
    trained: Any, tmp_path: Path, arrays: Path
) -> None:
    """With all of them replaced by nonsense, the weights are the same to the byte."""
    folder, _ = trained(PARAMS)
    other = tmp_path / "arrays"
    other.mkdir()
    held_out = np.load(arrays / "fold_ids.npy") == 1
    images, labels = np.load(arrays / "train_images.npy"), np.load(arrays / "train_labels.npy")
    images[held_out], labels[held_out] = 255 - images[held_out], 3
    np.save(other / "train_images.npy", images)
    np.save(other / "train_labels.npy", labels)
    np.save(other / "test_images.npy", 255 - np.load(arrays / "test_images.npy"))
    (other / "fold_ids.npy").write_bytes((arrays / "fold_ids.npy").read_bytes())

    train_fold(tmp_path / "run", other, PARAMS)
    assert (tmp_path / "run/weights.keras").read_bytes() == (folder / "weights.keras").read_bytes()
    assert column(tmp_path / "run", "loss") == column(folder, "loss")
    assert differing(folder, tmp_path / "run") == ["history.csv", "oof.npy", "test.npy"]


def scripted_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make the held-out losses what a test needs; the last of them stays."""
    left = iter(losses)

    def score(probabilities: Any, labels: Any) -> tuple[float, float]:
        return next(left, losses[-1]), 0.5

    monkeypatch.setattr("pipeline.train.fold._score", score)


@slow
def test_patience_stops_the_run(
    tmp_path: Path, arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [2.0, 3.0, 1.0, 3.0, 1.5, 0.5]
    scripted_losses(monkeypatch, losses)
    metadata = train_fold(tmp_path / "run", arrays, replace(PARAMS, epochs=9, patience=2))
    # The second epoch is forgiven, since the third is the best; the next two stop the run.
    assert metadata["epochs"] == 5
    assert column(tmp_path / "run", "val_loss") == losses[:5]


@slow
def test_the_best_weights_are_restored(
    tmp_path: Path, arrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A constant rate and a short memory, so that two epochs of nine are a run of two.
    params = replace(PARAMS, warmup=0.0, decay="none", epochs=2, batch_size=4, ema_momentum=0.5)
    train_fold(tmp_path / "two", arrays, params)
    scripted_losses(monkeypatch, [2.0, 1.0, 3.0, 1.5])
    params = replace(params, restore_best_weights=True, epochs=9, patience=2)
    train_fold(tmp_path / "best", arrays, params)
    for name in ("oof.npy", "test.npy", "weights.keras"):
        assert (tmp_path / "best" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@slow
def test_augmentation_can_start_later(trained: Any, tmp_path: Path, arrays: Path) -> None:
    train_fold(tmp_path / "never", arrays, replace(PARAMS, **STILL))
    train_fold(tmp_path / "late", arrays, replace(PARAMS, augment_after=2))
    folders = (trained(PARAMS)[0], tmp_path / "late", tmp_path / "never")
    always, late, never = (column(folder, "loss") for folder in folders)
    assert late[:2] == never[:2] != always[:2]
    assert late[2] != never[2]


@slow
def test_averaging_does_not_change_the_steps(trained: Any, tmp_path: Path, arrays: Path) -> None:
    folder, _ = trained(PARAMS)
    train_fold(tmp_path / "plain", arrays, replace(PARAMS, ema_momentum=0.0))
    # Keras' `fit` ends by putting the averages in the place of the weights.
    assert column(tmp_path / "plain", "loss") == column(folder, "loss")
    trained_otherwise = set(OUTPUTS.values()) - {"augmented.npy"}
    assert set(differing(folder, tmp_path / "plain")) == trained_otherwise


# --- limits, checkpoints, averages ---------------------------------------------------------------


@slow
def test_which_rows_are_trained_on(tmp_path: Path, arrays: Path) -> None:
    once = replace(PARAMS, epochs=1)
    fewer_than_a_batch = train_fold(tmp_path / "few", arrays, replace(once, limit=7))
    assert (fewer_than_a_batch["rows"], fewer_than_a_batch["held_out_rows"]) == (7, 50)
    fold_ids = tmp_path / "fold_ids.npy"
    np.save(fold_ids, np.repeat(np.array([0, -1], np.int8), [15, 135]))
    no_fold_holds = train_fold(tmp_path / "run", arrays, once, 0, fold_ids=fold_ids)
    assert (no_fold_holds["rows"], no_fold_holds["held_out_rows"]) == (135, 15)


class Begun(Progress):
    """Stops before the first step, and notes how many epochs were done before."""

    def begin(self, rows: int, images: int, steps: int, done: int) -> None:
        self.done = done
        raise KeyboardInterrupt


@slow
def test_the_checkpoint_of_another_fold_or_seed_is_not_used(
    trained: Any, tmp_path: Path, arrays: Path
) -> None:
    """All of which have the same network."""
    shutil.copy(trained(PARAMS)[0] / CHECKPOINT, tmp_path)
    epochs = []
    for params, fold in ((PARAMS, 1), (PARAMS, 2), (replace(PARAMS, seed=1), 1)):
        progress = Begun()
        with pytest.raises(KeyboardInterrupt):
            train_fold(tmp_path, arrays, params, fold, progress=progress)
        epochs.append(progress.done)
    assert epochs == [3, 0, 0]


@slow
def test_a_short_run_has_short_averages(tmp_path: Path, arrays: Path) -> None:
    """An average of a hundred steps would hold little but the first weights after ten."""
    short = replace(PARAMS, epochs=1, batch_size=10, ema_momentum=0.0)
    train_fold(tmp_path / "none", arrays, short)
    train_fold(tmp_path / "long", arrays, replace(short, ema_momentum=0.99))
    assert differing(tmp_path / "none", tmp_path / "long") == []


# --- one model on several devices ----------------------------------------------------------------

# Each device sums the gradients of its half of a batch: the same sums in another order.
TOLERANCE = 1e-5


@slow
def test_two_devices_learn_what_one_learns(tmp_path: Path, arrays: Path) -> None:
    plain = replace(
        PARAMS, network="mlp", width=16, epochs=4, dropout=0.0, predict_shift=1, **STILL
    )
    augmented = replace(PARAMS, epochs=4, dropout=0.0, devices=2)
    one, two, other = (tmp_path / name for name in ("one", "two", "augmented"))
    train_fold(one, arrays, plain)
    train_on_two_devices({two: replace(plain, devices=2), other: augmented}, arrays)
    for name in ("oof.npy", "test.npy"):
        np.testing.assert_allclose(np.load(two / name), np.load(one / name), atol=TOLERANCE)
    np.testing.assert_allclose(column(two, "loss"), column(one, "loss"), atol=TOLERANCE)
    # Normalisation over half a batch and other draws make it another run, but it learns, too.
    for folder in (one, other):
        assert column(folder, "loss")[-1] < column(folder, "loss")[0]


def test_more_devices_than_there_are(tmp_path: Path, arrays: Path) -> None:
    with pytest.raises(UserError, match=r"train\.devices is 64, and TensorFlow sees \d+ [CG]PU"):
        train_fold(tmp_path / "fold", arrays, replace(PARAMS, devices=64))


# --- runs that diverge, guess, or fail in the user's network -------------------------------------


def test_a_loss_that_is_not_finite_ends_the_fold_with_the_remedy(
    tmp_path: Path, arrays: Path
) -> None:
    hot = replace(PARAMS, network="cnn_5x5", learning_rate=10.0, precision="mixed_float16")
    with pytest.raises(UserError) as caught:
        train_fold(tmp_path, arrays, hot)
    said = str(caught.value)
    assert said.startswith("fold 1, epoch ")
    assert "train.learning_rate, which is 10.0" in said
    assert 'train.precision to "float32"' in said
    assert not (tmp_path / "oof.npy").exists()


def test_what_is_not_finite_is_no_prediction() -> None:
    from pipeline.train.networks import mlp

    network = mlp.network(4, 0.0)
    weights = network.get_weights()
    images = np.full((3, 28, 28, 1), 255, np.uint8)
    network.set_weights([np.full_like(each, 3e38) for each in weights])
    with pytest.raises(FloatingPointError, match="a predicted logit"):
        predict(network, images)
    for value in (np.nan, -np.inf):
        weights[0].flat[0] = value
        network.set_weights(weights)
        with pytest.raises(FloatingPointError, match="a weight"):
            predict(network, images)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"epochs": 1, "learning_rate": 1e-9}, "it took only 5 steps"),
        ({"epochs": 4, "learning_rate": 1e-9, "batch_size": 4}, "training diverged"),
        ({"epochs": 1, "learning_rate": 10.0, "network": "mlp"}, "training diverged"),
    ],
)
def test_a_fold_that_guesses_says_why(
    tmp_path: Path, arrays: Path, capsys: Any, changes: dict[str, Any], part: str
) -> None:
    train_fold(tmp_path, arrays, replace(PARAMS, **changes))
    assert f"close to guessing: {part}" in capsys.readouterr().out


PICKY = """
from pipeline.backend import keras
from pipeline.train.networks import mlp


class Picky(keras.layers.Layer):
    def call(self, inputs, training=False):
        if training:
            raise RuntimeError("not in training")
        return inputs


def network(width, dropout):
    model = mlp.network(width, dropout)
    return keras.Model(model.input, Picky()(model.output))
"""


def test_an_exception_that_only_training_raises_is_the_networks(
    tmp_path: Path, arrays: Path
) -> None:
    picky = ModuleType("pipeline.train.networks.picky")
    exec(compile(PICKY, "/here/networks/picky.py", "exec"), picky.__dict__)
    with pytest.raises(UserError, match=r"(?s)^train/networks/picky\.py: .*not in training"):
        train_fold(tmp_path, arrays, replace(PARAMS, network="picky"), network=picky)
