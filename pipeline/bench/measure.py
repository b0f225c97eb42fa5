"""Single measurements, each of which `digits bench` takes in a process of its own.

Such a process has no imports yet, and a peak memory of its own.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config

IMAGES = ("train_images", "train_labels", "test_images")


def with_peak(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Take a measurement, and add the peak memory of this process in bytes."""
    found = measure(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # kibibytes on Linux, bytes on macOS
    return {**found, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def limit(precision: str) -> dict[str, Any]:
    """Measure a large matrix product in operations per second, the limit for convolutions."""
    from pipeline.backend import tf

    size = 4096
    matrix = tf.cast(tf.random.stateless_normal((size, size), (0, 0)), precision)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(matrix @ matrix, "float32")))
    product()
    seconds = []
    for _ in range(15):
        began = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - began)
    return {"flops": 2 * size**3 / statistics.median(seconds)}


def notebook(arrays: Path, fold_ids: Path, seed: int) -> dict[str, Any]:
    """Train as the notebook does, and judge it on the rows of fold 0."""
    from pipeline.bench.notebook import train

    images, labels = (np.load(arrays / f"train_{name}.npy") for name in ("images", "labels"))
    held_out = np.load(fold_ids) == 0
    curve = train(images, labels, held_out, seed)
    rate = int((~held_out).sum()) * len(curve["seconds"]) / curve["seconds"][-1]
    return {**curve, "images_per_second": rate}


def preset(arrays: Path, fold_ids: Path, name: str, fold: int, seed: int) -> dict[str, Any]:
    """Train one fold of a preset with a given seed, as the train stage does it."""
    import pandas as pd

    from pipeline.train import progress
    from pipeline.train.fold import train

    params = replace(config.load(name).train, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Any] = {name: arrays / f"{name}.npy" for name in IMAGES}
        files = ("history", "oof", "test", "weights", "augmented")
        paths |= {name: Path(folder, name) for name in files}
        metadata = train(**paths, fold_ids=fold_ids, fold=fold, params=params)
        history = pd.read_csv(paths["history"])
    return {
        "seconds": np.cumsum(metadata["epoch_seconds"]).tolist(),
        "accuracy": history["val_accuracy"].tolist(),
        "final_accuracy": metadata["held_out_accuracy"],
        # The first epoch includes the tracing of the graph.
        "images_per_second": metadata["rows"] / min(metadata["epoch_seconds"]),
        "flops_per_image": progress.flops_per_image(params.network, params.width),
        "precision": metadata["precision"],
    }
