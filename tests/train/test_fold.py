"""train.py: what a fold leaves; same seed, same bytes; stopped and resumed, same bytes."""

import contextlib
import csv
import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import contents, digit_images

from pipeline.config import Train
from pipeline.errors import UserError
from pipeline.networks import NETWORKS
from pipeline.train import CHECKPOINT, State, _restore, _save, predict, train

# 150 rows in three folds of 50: five steps of 20 images an epoch, in calls of three and two.
PARAMS = Train(
    width=4,
    epochs=3,
    batch_size=20,
    learning_rate=0.02,
    dropout=0.2,
    average=0.8,
    rotation=5.0,
    shift=1.0,
    steps_per_call=3,
    precision="float32",
)
# The same with weights that are chosen by the held-out loss.
BEST = replace(PARAMS, keep="best", patience=2)
FLOAT16 = replace(PARAMS, precision="mixed_float16", epochs=2)
ADAM = replace(PARAMS, optimizer="adam", epochs=2)
OUTPUTS = ("history.csv", "oof.npy", "test.npy", "weights.keras")


@pytest.fixture(autouse=True)
def _float32_again(fresh_keras: Any) -> Iterator[None]:
    yield


@pytest.fixture(scope="session")
def tensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arrays that preprocess and split leave."""
    folder = tmp_path_factory.mktemp("tensors")
    images, labels = digit_images(150)
    test_images, _ = digit_images(30, seed=1)
    np.save(folder / "train_images.npy", images)
    np.save(folder / "train_labels.npy", labels)
    np.save(folder / "test_images.npy", test_images)
    np.save(folder / "fold_ids.npy", (np.arange(150) // 10 % 3).astype(np.int8))
    return folder


def train_fold(folder: Path, tensors: Path, params: Train, fold: int = 1) -> dict[str, Any]:
    """Train as a process of its own would: Keras has given no names yet."""
    from pipeline.backend import keras

    keras.utils.clear_session()
    folder.mkdir(exist_ok=True)
    return train(folder, tensors, tensors / "fold_ids.npy", fold, params)


@pytest.fixture(scope="session")
def trained(
    tmp_path_factory: pytest.TempPathFactory, tensors: Path
) -> Callable[[Train], tuple[Path, dict[str, Any]]]:
    """A function from parameters to the folder and facts of an undisturbed run, made once.

    What the run prints lies beside the folder, in said.txt.
    """
    made: dict[Train, tuple[Path, dict[str, Any]]] = {}

    def run(params: Train) -> tuple[Path, dict[str, Any]]:
        if params not in made:
            folder, said = tmp_path_factory.mktemp("trained") / "fold", io.StringIO()
            with contextlib.redirect_stdout(said):
                made[params] = folder, train_fold(folder, tensors, params)
            (folder.parent / "said.txt").write_text(said.getvalue())
        return made[params]

    return run


@pytest.fixture(scope="session")
def trained_again(
    tmp_path_factory: pytest.TempPathFactory, tensors: Path, trained: Any
) -> tuple[Path, dict[str, Any]]:
    """The run of PARAMS once more, in a process that has trained before."""
    trained(PARAMS)
    NETWORKS["strided"](2, 0.5)
    folder = tmp_path_factory.mktemp("again")
    return folder, train(folder, tensors, tensors / "fold_ids.npy", 1, PARAMS)


def timeless(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts that are the same each time."""
    return {name: fact for name, fact in facts.items() if name != "epoch_seconds"}


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in OUTPUTS}


def differing(one: Path, other: Path) -> list[str]:
    """The names of the outputs that differ between two folders."""
    left, right = outputs(one), outputs(other)
    return [name for name in OUTPUTS if left[name] != right[name]]


def history(folder: Path) -> list[dict[str, float]]:
    with (folder / "history.csv").open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def column(folder: Path, name: str) -> list[float]:
    return [row[name] for row in history(folder)]


# --- what a fold leaves --------------------------------------------------------------------------


def test_what_a_fold_leaves(trained: Any, tensors: Path) -> None:
    folder, facts = trained(PARAMS)
    assert set(contents(folder)) == {*OUTPUTS, CHECKPOINT}
    for name, rows in (("oof.npy", 50), ("test.npy", 30)):
        probabilities = np.load(folder / name)
        assert probabilities.shape == (rows, 10)
        assert probabilities.dtype == np.float32
        assert probabilities.min() >= 0
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert facts["rows"] == 100
    assert facts["held_out_rows"] == 50
    assert facts["epochs"] == 3
    assert facts["precision"] == "float32"
    assert set(facts["versions"]) == {"tensorflow", "keras", "numpy", "python"}
    labels = np.load(tensors / "train_labels.npy")[np.load(tensors / "fold_ids.npy") == 1]
    right = np.load(folder / "oof.npy").argmax(axis=1) == labels
    assert facts["held_out_accuracy"] == pytest.approx(right.mean())
    json.dumps(facts)


def test_the_history_has_a_row_an_epoch(trained: Any) -> None:
    folder, facts = trained(PARAMS)
    assert column(folder, "epoch") == [1, 2, 3]
    rates = column(folder, "learning_rate")
    assert max(rates) < PARAMS.learning_rate
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    assert column(folder, "val_accuracy")[-1] == pytest.approx(facts["held_out_accuracy"])
    assert column(folder, "val_loss")[-1] == pytest.approx(facts["held_out_loss"])


def test_it_learns(tmp_path: Path, tensors: Path) -> None:
    params = replace(PARAMS, width=8, epochs=8, dropout=0.0)
    facts = train_fold(tmp_path / "run", tensors, params)
    assert facts["held_out_accuracy"] > 0.5
    assert column(tmp_path / "run", "loss")[-1] < column(tmp_path / "run", "loss")[0]


def test_the_saved_network_gives_the_probabilities_again(
    trained: Any, tensors: Path, fresh_keras: Any
) -> None:
    held_out = np.load(tensors / "fold_ids.npy") == 1
    for params in (PARAMS, BEST):
        folder, _ = trained(params)
        network = fresh_keras.saving.load_model(folder / "weights.keras")
        images = np.load(tensors / "train_images.npy")[held_out]
        np.testing.assert_allclose(
            predict(network, images), np.load(folder / "oof.npy"), rtol=1e-4, atol=1e-6
        )
        images = np.load(tensors / "test_images.npy")
        np.testing.assert_allclose(
            predict(network, images), np.load(folder / "test.npy"), rtol=1e-4, atol=1e-6
        )


def test_the_saved_network_needs_nothing_of_this_package(trained: Any) -> None:
    folder, _ = trained(PARAMS)
    with zipfile.ZipFile(folder / "weights.keras") as file:
        saved = file.read("config.json").decode()
    assert "BatchNormalization" in saved
    assert "pipeline" not in saved


def test_each_epoch_is_timed(trained: Any) -> None:
    _, facts = trained(PARAMS)
    assert len(facts["epoch_seconds"]) == facts["epochs"]
    assert min(facts["epoch_seconds"]) > 0


def test_augmentation_is_part_of_the_graph_and_python_is_not() -> None:
    from pipeline.backend import keras, tf
    from pipeline.train import _build

    model, _ = _build(PARAMS, 0.001, steps=4, seed=0)
    images, labels = digit_images(20)
    batch = (images, keras.utils.to_categorical(labels, 10))
    step = tf.function(lambda: model.train_step(batch)).get_concrete_function()
    kinds = {operation.type for operation in step.graph.get_operations()}
    # The library's own functions, such as the optimiser's branches, count too.
    kinds |= {n.op for f in step.graph.as_graph_def().library.function for n in f.node_def}
    assert "ImageProjectiveTransformV3" in kinds
    assert not {kind for kind in kinds if "PyFunc" in kind}


SECOND_DEVICE = """\
import json, sys
from pathlib import Path
from pipeline.backend import tf
[processor] = tf.config.list_physical_devices("CPU")
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(processor, two)
from pipeline.config import Train
from pipeline.train import train
folder, tensors, params = Path(sys.argv[1]), Path(sys.argv[2]), Train(**json.loads(sys.argv[3]))
with tf.device("CPU:1"):
    train(folder, tensors, tensors / "fold_ids.npy", 1, params)
"""


def test_a_device_that_does_not_hold_the_data_learns_the_same(
    trained: Any, tmp_path: Path, tensors: Path
) -> None:
    """As a GPU does not: the data stay with the first device, the network is on the second."""
    folder, _ = trained(PARAMS)
    arguments = [str(tmp_path), str(tensors), json.dumps(asdict(PARAMS))]
    subprocess.run([sys.executable, "-c", SECOND_DEVICE, *arguments], check=True)
    assert differing(folder, tmp_path) == []


def test_several_steps_run_in_one_call() -> None:
    from pipeline.train import _build

    assert _build(PARAMS, 0.001, steps=5, seed=0)[0].steps_per_execution == 3
    assert _build(PARAMS, 0.001, steps=2, seed=0)[0].steps_per_execution == 2


def test_it_says_what_it_does_in_plain_lines(trained: Any) -> None:
    folder, _ = trained(PARAMS)
    lines = (folder.parent / "said.txt").read_text().splitlines()
    assert lines[0].startswith("device ")
    assert lines[1] == "precision float32 (train.precision asks for it)"
    assert lines[2] == "network strided, 4,190 parameters, 100 rows"
    for epoch in (1, 2, 3):
        assert sum(line.startswith(f"fold 1, epoch {epoch}/3: loss ") for line in lines) == 1
    assert lines[-1].startswith("fold 1: accuracy ")
    assert not any("\x1b" in line for line in lines), "no colours where there is no terminal"


# --- same seed, same bytes -----------------------------------------------------------------------


def test_the_same_seed_gives_the_same_numbers(trained: Any, trained_again: Any) -> None:
    folder, facts = trained(PARAMS)
    again, facts_again = trained_again
    assert set(differing(folder, again)) <= {"weights.keras"}
    assert timeless(facts_again) == timeless(facts)


def test_the_same_seed_gives_the_same_bytes(trained: Any, trained_again: Any) -> None:
    """Whatever the process did before: by hand it trains all folds, under `make` one."""
    # Keras numbers the layers of a process, and the names are in weights.keras.
    assert differing(trained(PARAMS)[0], trained_again[0]) == []


def test_another_seed_gives_another_training(trained: Any, tmp_path: Path, tensors: Path) -> None:
    folder, _ = trained(PARAMS)
    train_fold(tmp_path / "other", tensors, replace(PARAMS, epochs=1, seed=1))
    assert column(tmp_path / "other", "loss")[0] != column(folder, "loss")[0]


# --- stopped and resumed, same bytes -------------------------------------------------------------


def stop_after_checkpoint(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Press Ctrl-C as soon as the checkpoint of an epoch is written."""
    from pipeline.progress import TrainingBar

    def epoch_done(bar: Any, row: dict[str, float]) -> None:
        bar.epoch = int(row["epoch"])
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingBar, "epoch_done", epoch_done)


def stop_within(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Press Ctrl-C when the first steps of an epoch are done."""
    from pipeline.progress import TrainingBar

    def on_train_batch_end(bar: Any, batch: int, logs: Any = None) -> None:
        if bar.epoch == epoch - 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(TrainingBar, "on_train_batch_end", on_train_batch_end)


@pytest.mark.parametrize(
    ("stop", "epoch", "params"),
    [
        pytest.param(stop_within, 3, PARAMS, id="within the third epoch"),
        pytest.param(stop_after_checkpoint, 3, PARAMS, id="after the last epoch"),
        pytest.param(stop_after_checkpoint, 2, BEST, id="best weights and patience"),
        pytest.param(
            stop_after_checkpoint,
            1,
            FLOAT16,
            id="float16 with loss scaling",
        ),
        pytest.param(stop_within, 2, ADAM, id="adam"),
    ],
)
def test_a_resumed_run_leaves_the_bytes_of_an_undisturbed_one(
    trained: Any,
    tmp_path: Path,
    tensors: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: Callable[[pytest.MonkeyPatch, int], None],
    epoch: int,
    params: Train,
) -> None:
    folder, facts = trained(params)
    with monkeypatch.context() as patch:
        stop(patch, epoch)
        with pytest.raises(KeyboardInterrupt):
            train_fold(tmp_path / "stopped", tensors, params)
    assert set(contents(tmp_path / "stopped")) == {CHECKPOINT}
    capsys.readouterr()
    resumed = train_fold(tmp_path / "stopped", tensors, params)
    done = epoch if stop is stop_after_checkpoint else epoch - 1
    assert f"going on after epoch {done}\n" in capsys.readouterr().out
    assert differing(folder, tmp_path / "stopped") == []
    assert timeless(resumed) == timeless(facts)
    assert len(resumed["epoch_seconds"]) == resumed["epochs"]


# --- what may be learnt from, and when it ends ---------------------------------------------------


def test_held_out_rows_and_the_test_set_teach_nothing(
    trained: Any, tmp_path: Path, tensors: Path
) -> None:
    """With all of them replaced by nonsense, the weights are the same to the byte."""
    folder, _ = trained(PARAMS)
    other = tmp_path / "tensors"
    other.mkdir()
    held_out = np.load(tensors / "fold_ids.npy") == 1
    images, labels = np.load(tensors / "train_images.npy"), np.load(tensors / "train_labels.npy")
    images[held_out], labels[held_out] = 255 - images[held_out], 3
    np.save(other / "train_images.npy", images)
    np.save(other / "train_labels.npy", labels)
    np.save(other / "test_images.npy", 255 - np.load(tensors / "test_images.npy"))
    (other / "fold_ids.npy").write_bytes((tensors / "fold_ids.npy").read_bytes())

    train_fold(tmp_path / "run", other, PARAMS)
    assert (tmp_path / "run/weights.keras").read_bytes() == (folder / "weights.keras").read_bytes()
    assert column(tmp_path / "run", "loss") == column(folder, "loss")
    assert differing(folder, tmp_path / "run") == ["history.csv", "oof.npy", "test.npy"]


def scripted_losses(monkeypatch: pytest.MonkeyPatch, losses: list[float]) -> None:
    """Make the held-out losses what a test needs; the last of them stays."""
    left = iter(losses)

    def score(probabilities: Any, labels: Any) -> tuple[float, float]:
        return next(left, losses[-1]), 0.5

    monkeypatch.setattr("pipeline.train._score", score)


def test_patience_ends_the_training(
    tmp_path: Path, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = [2.0, 3.0, 1.0, 3.0, 1.5, 0.5]
    scripted_losses(monkeypatch, losses)
    facts = train_fold(tmp_path / "run", tensors, replace(PARAMS, epochs=9, patience=2))
    # The second epoch is forgiven, since the third is the best; the next two end it.
    assert facts["epochs"] == 5
    assert column(tmp_path / "run", "val_loss") == losses[:5]


def test_patience_may_watch_the_training_loss(
    tmp_path: Path, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import train as module

    falling = iter([3.0, 2.0, 2.5, 2.4, 2.3])
    real = module._learn
    monkeypatch.setattr(
        module, "_learn", lambda *arguments: {**real(*arguments), "loss": next(falling)}
    )
    # The held-out loss goes on falling.
    scripted_losses(monkeypatch, [1.0, 0.9, 0.8, 0.7, 0.6])
    facts = train_fold(
        tmp_path / "run", tensors, replace(PARAMS, epochs=5, patience=1, watch="loss")
    )
    assert facts["epochs"] == 3


def test_keep_best_keeps_the_weights_of_the_best_epoch(
    tmp_path: Path, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A constant rate and a short memory, so that two epochs of nine are a training of two.
    params = replace(PARAMS, warmup=0.0, decay="none", epochs=2, batch_size=4, average=0.5)
    train_fold(tmp_path / "two", tensors, params)
    scripted_losses(monkeypatch, [2.0, 1.0, 3.0, 1.5])
    params = replace(params, keep="best", epochs=9, patience=2)
    train_fold(tmp_path / "best", tensors, params)
    for name in ("oof.npy", "test.npy", "weights.keras"):
        assert (tmp_path / "best" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_keep_best_of_losses_that_are_no_numbers(
    tmp_path: Path, tensors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training that went astray at once leaves something to look at."""
    scripted_losses(monkeypatch, [float("nan")])
    facts = train_fold(tmp_path / "run", tensors, replace(PARAMS, keep="best", epochs=1))
    assert facts["epochs"] == 1


def test_augmentation_may_begin_later(trained: Any, tmp_path: Path, tensors: Path) -> None:
    plain = replace(PARAMS, rotation=0.0, zoom=0.0, shift=0.0, shear=0.0)
    train_fold(tmp_path / "plain", tensors, plain)
    train_fold(tmp_path / "never", tensors, replace(PARAMS, augment_after=3))
    train_fold(tmp_path / "late", tensors, replace(PARAMS, augment_after=2))
    assert differing(tmp_path / "plain", tmp_path / "never") == []
    always, late, never = (
        column(folder, "loss")
        for folder in (trained(PARAMS)[0], tmp_path / "late", tmp_path / "never")
    )
    assert late[:2] == never[:2] != always[:2]
    assert late[2] != never[2]


def test_averaging_the_weights_does_not_change_the_training(
    trained: Any, tmp_path: Path, tensors: Path
) -> None:
    folder, _ = trained(PARAMS)
    train_fold(tmp_path / "plain", tensors, replace(PARAMS, average=0.0))
    # Keras' `fit` ends by putting the averages in the place of the weights.
    assert column(tmp_path / "plain", "loss") == column(folder, "loss")
    assert differing(folder, tmp_path / "plain") == list(OUTPUTS)


# --- trials and mistakes -------------------------------------------------------------------------


def test_a_limit_counts_the_rows_to_train_on(tmp_path: Path, tensors: Path) -> None:
    """Here, fewer than a batch holds."""
    facts = train_fold(tmp_path / "run", tensors, replace(PARAMS, epochs=1, limit=7))
    assert (facts["rows"], facts["held_out_rows"]) == (7, 50)
    assert len(history(tmp_path / "run")) == 1


def test_a_high_limit_is_none_and_rows_that_no_fold_holds_out_are_trained_on(
    tmp_path: Path, tensors: Path
) -> None:
    hold_out = np.full(150, -1, dtype=np.int8)
    hold_out[:15] = 0
    np.save(tmp_path / "fold_ids.npy", hold_out)
    params = replace(PARAMS, epochs=1, limit=1_000)
    (tmp_path / "run").mkdir()
    facts = train(tmp_path / "run", tensors, tmp_path / "fold_ids.npy", 0, params)
    assert (facts["rows"], facts["held_out_rows"]) == (135, 15)


def test_an_unknown_network_is_a_mistake_of_the_user(tmp_path: Path, tensors: Path) -> None:
    with pytest.raises(UserError, match=r"no network 'stridde'.* strided, halved, fine, "):
        train_fold(tmp_path / "run", tensors, replace(PARAMS, network="stridde"))


def test_float16_keeps_its_weights_in_float32(trained: Any, fresh_keras: Any) -> None:
    folder, facts = trained(FLOAT16)
    assert facts["precision"] == "mixed_float16"
    assert all(np.isfinite(column(folder, "loss")))
    network = fresh_keras.saving.load_model(folder / "weights.keras")
    assert {str(variable.dtype) for variable in network.weights} == {"float32"}
    assert network.get_layer("conv2d").compute_dtype == "float16"


def of_no_training(path: Path) -> None:
    np.savez(path, variable_0=np.zeros(3))


def with_an_object(path: Path) -> None:
    """What NumPy can only write, and read, by pickling."""
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "variable_0": np.array([{}], dtype=object)})


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no archive"),
        of_no_training,
        with_an_object,
    ],
    ids=["empty", "no archive", "of no training", "with an object"],
)
def test_a_damaged_checkpoint_is_said_and_not_used(
    trained: Any, tmp_path: Path, tensors: Path, damage: Callable[[Path], object], capsys: Any
) -> None:
    folder, _ = trained(PARAMS)
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(folder / CHECKPOINT, run)
    damage(run / CHECKPOINT)
    train_fold(run, tensors, PARAMS)
    assert "damaged; starting anew" in capsys.readouterr().out
    assert differing(folder, run) == []


def test_the_checkpoint_of_another_fold_or_of_other_parameters_is_not_used(
    trained: Any, tmp_path: Path, tensors: Path, capsys: Any
) -> None:
    """All of which have the same network."""
    folder, _ = trained(PARAMS)
    for params, fold in ((PARAMS, 2), (replace(PARAMS, seed=1), 1)):
        run = tmp_path / f"{params.seed}-{fold}"
        run.mkdir()
        shutil.copy(folder / CHECKPOINT, run)
        train_fold(run, tensors, params, fold)
        said = capsys.readouterr().out
        assert "damaged; starting anew" in said
        assert "epoch 1/3" in said


class Variable:
    """As much of Keras' as a checkpoint needs."""

    def __init__(self, value: np.ndarray) -> None:
        self.value = value

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.value

    def assign(self, value: np.ndarray) -> None:
        self.value = value


def test_no_flipped_bit_of_a_checkpoint_goes_unnoticed_or_is_a_crash(tmp_path: Path) -> None:
    """Every bit of a small one. What is not said to be damaged holds what was written."""

    variables = [Variable(np.arange(3, dtype=np.float32)), Variable(np.array(7))]
    model = SimpleNamespace(variables=variables, optimizer=SimpleNamespace(variables=[]))
    path, state = tmp_path / CHECKPOINT, State("this one", history=[{"loss": 0.5}])
    _save(path, model, state)
    sound = path.read_bytes()
    for place in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        if _restore(path, model, "this one").history:
            assert _restore(path, model, "this one") == state
            assert [variable.value.tolist() for variable in variables] == [[0, 1, 2], 7]


def test_a_short_training_has_short_averages(tmp_path: Path, tensors: Path) -> None:
    """An average of a hundred steps would hold little but the first weights after ten."""
    short = replace(PARAMS, epochs=1, batch_size=10, average=0.0)
    train_fold(tmp_path / "none", tensors, short)
    train_fold(tmp_path / "long", tensors, replace(short, average=0.99))
    assert differing(tmp_path / "none", tmp_path / "long") == []


# --- one model on several devices ----------------------------------------------------------------

# A process whose CPU is two devices to TensorFlow; it trains with one and with two of them.
TWO_DEVICES = """
import sys
from dataclasses import replace
from pathlib import Path
from pipeline.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pipeline.config import Train
from pipeline.train import train
tensors, home = Path(sys.argv[1]), Path(sys.argv[2])
plain = Train(
    network="mlp", width=16, epochs=4, batch_size=20, average=0.8, precision="float32",
    rotation=0.0, zoom=0.0, shift=0.0, shear=0.0,
)
warped = replace(plain, network="strided", width=4, rotation=5.0)
for name, params in (("plain", plain), ("warped", warped)):
    for devices in (1, 2):
        folder = home / f"{name}-{devices}"
        folder.mkdir()
        train(folder, tensors, tensors / "fold_ids.npy", 1, replace(params, devices=devices))
"""
# Each device sums the gradients of its half of a batch: the same sums in another order.
TOLERANCE = 1e-5


def test_two_devices_learn_what_one_does(tmp_path: Path, tensors: Path) -> None:
    subprocess.run([sys.executable, "-c", TWO_DEVICES, str(tensors), str(tmp_path)], check=True)
    one, two = tmp_path / "plain-1", tmp_path / "plain-2"
    for name in ("oof.npy", "test.npy"):
        np.testing.assert_allclose(np.load(two / name), np.load(one / name), atol=TOLERANCE)
    np.testing.assert_allclose(column(two, "loss"), column(one, "loss"), atol=TOLERANCE)
    assert column(one, "loss")[-1] < column(one, "loss")[0]
    # Normalisation over half a batch and other draws make it another training, but no worse one.
    warped, its = column(tmp_path / "warped-1", "loss"), column(tmp_path / "warped-2", "loss")
    assert its[-1] < its[0]
    assert abs(its[-1] - warped[-1]) < 0.2 * warped[-1]


def test_more_devices_than_there_are(tmp_path: Path, tensors: Path) -> None:
    with pytest.raises(UserError, match=r"train\.devices is 64, and TensorFlow sees \d+ [CG]PU"):
        train_fold(tmp_path / "fold", tensors, replace(PARAMS, devices=64))
