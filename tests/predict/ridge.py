"""Networks that are fitted in a moment: linear in the pixels, by ridge regression, 4 of 5 right."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, fake_training

from pipeline import artifacts, stages
from pipeline.task import Task

SHIFT = 1
PRESET = f"[split]\nfolds = 2\n[train]\nepochs = 1\npredict_shift = {SHIFT}\n"


@contextmanager
def project(folder: Path) -> Iterator[stages.Graph]:
    """Work in a project in a folder, in which the sample's ensemble has been built."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", folder)
        patch.setattr(stages, "LEDGER", folder / "submissions" / "ledger.csv")
        patch.setattr("pipeline.cli._follow_the_user", lambda: None)
        # The fingerprints of the code are those of the real package.
        (folder / "pipeline").symlink_to(PACKAGE)
        patch.chdir(folder)
        yield _build(folder / "ridge.toml")


def choice() -> list[str]:
    """The options that name the dataset and the preset."""
    return ["--dataset", "sample", "--config", str(stages.ROOT / "ridge.toml")]


def _build(preset: Path) -> stages.Graph:
    preset.write_text(PRESET)
    graph = stages.load("sample", str(preset))
    for task in graph.up_to("ensemble"):

        def work(writes: Mapping[str, Path], task: Task = task) -> Mapping[str, Any]:
            return _fit(task.reads, writes, task.fold)

        artifacts.run(task, graph.tasks, work=work if task.stage == "train" else None)
    return graph


def _fit(reads: Mapping[str, Any], writes: Mapping[str, Path], fold: int) -> dict[str, Any]:
    from pipeline.backend import keras
    from pipeline.train.fold import predict
    from pipeline.train.saving import over_shifts, save

    metadata = fake_training(reads, writes, fold)
    images, labels = np.load(reads["train_images"]), np.load(reads["train_labels"])
    held_out = np.load(reads["fold_ids"]) == fold
    x = np.pad(images[~held_out].reshape(-1, 784) / 255.0, ((0, 0), (0, 1)), constant_values=1)
    target = np.eye(10)[labels[~held_out]] * 8
    solved = np.linalg.solve(x.T @ x + 5 * np.eye(785), x.T @ target).astype(np.float32)
    dense = keras.layers.Dense(10, name="logits", dtype="float32")
    network = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            keras.layers.Rescaling(1 / 255, dtype="float32"),
            keras.layers.Flatten(dtype="float32"),
            dense,
        ]
    )
    dense.set_weights([solved[:-1], solved[-1]])
    whole = over_shifts(network, SHIFT)
    np.save(writes["oof"], predict(whole, images[held_out]))
    np.save(writes["test"], predict(whole, np.load(reads["test_images"])))
    save(whole, writes["weights"])
    return metadata
