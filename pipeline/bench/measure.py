"""Single measurements, each of which `digits bench` takes in a process of its own.

Such a process has a peak memory of its own, and has imported nothing yet.
"""

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config, stages
from pipeline.datasets import dataset as find_dataset


def with_peak(measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Take a measurement, and add the peak memory of this process in bytes."""
    found = measure(*arguments)
    unit = 1 if sys.platform == "darwin" else 1024  # kibibytes on Linux, bytes on macOS
    return {**found, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def limit(precision: str) -> dict[str, Any]:
    """Measure a large matrix product in operations per second, the limit for convolutions."""
    from pipeline.backend import tf

    size, seconds = 4096, []
    matrix = tf.cast(tf.random.stateless_normal((size, size), (0, 0)), precision)
    product = tf.function(lambda: tf.reduce_sum(tf.cast(matrix @ matrix, "float32")))
    product()
    for _ in range(15):
        began = time.perf_counter()
        product().numpy()
        seconds.append(time.perf_counter() - began)
    return {"flops": 2 * size**3 / statistics.median(seconds)}


def notebook(dataset: str, seed: int) -> dict[str, Any]:
    """Train as the notebook does, and judge it on the rows that `fast` holds out."""
    from pipeline.bench.baseline import train

    reads: Any = stages.load(dataset, "fast").all("train")[0].reads
    images, labels = np.load(reads["train_images"]), np.load(reads["train_labels"])
    held_out = np.load(reads["fold_ids"]) == 0
    curve = train(images, labels, held_out, seed)
    rate = int((~held_out).sum()) * len(curve["seconds"]) / curve["seconds"][-1]
    return {**curve, "images_per_second": rate}


def preset(dataset: str, name: str, fold: int, seed: int) -> dict[str, Any]:
    """Train one fold of a preset with a given seed, as the train stage does it."""
    import pandas as pd

    from pipeline.train import runtime
    from pipeline.train.fold import Progress
    from pipeline.train.progress import flops_per_image

    seeded = config.variant(config.load(name), name, {"seed": seed})
    task = stages.graph(find_dataset(dataset, stages.ROOT), seeded).all("train")[fold]
    params = seeded.train
    found = runtime.prepare(params.precision, params.devices, 1)
    with tempfile.TemporaryDirectory() as folder:
        writes = {name: Path(folder, path.name) for name, path in task.writes.items()}
        metadata = task.work(writes, environment=found, progress=Progress())
        history = pd.read_csv(writes["history"])
    return {
        "seconds": np.cumsum(metadata["epoch_seconds"]).tolist(),
        "accuracy": history["val_accuracy"].tolist(),
        "final_accuracy": metadata["held_out_accuracy"],
        # The first epoch includes the tracing of the graph.
        "images_per_second": metadata["rows"] / min(metadata["epoch_seconds"]),
        "flops_per_image": flops_per_image(params.network, params.width),
        "precision": found.precision,
    }
