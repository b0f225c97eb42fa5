"""One measurement, in a process of its own: `python -m pipeline.bench.measure NAME …`.

The last line that it prints is JSON. A process of its own has no imports yet, and a peak memory of
its own. `digits bench` starts them.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import config

IMAGES = ("train_images", "train_labels", "test_images")


def limit(precision: str) -> dict[str, Any]:
    """Operations per second of a large matrix product, the limit for convolutions."""
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


def notebook(arrays: str, fold_ids: str, seed: str) -> dict[str, Any]:
    """The notebook's training, judged on the rows of fold 0."""
    from pipeline.bench.notebook import train

    images, labels = (np.load(Path(arrays) / f"train_{name}.npy") for name in ("images", "labels"))
    held_out = np.load(fold_ids) == 0
    curve = train(images, labels, held_out, int(seed))
    rate = int((~held_out).sum()) * len(curve["seconds"]) / curve["seconds"][-1]
    return {**curve, "images_per_second": rate}


def preset(arrays: str, fold_ids: str, name: str, fold: str, seed: str) -> dict[str, Any]:
    """One fold of a preset, trained with a given seed, as the train stage does it."""
    from pipeline.train import progress
    from pipeline.train.fold import train

    params = replace(config.load(name).train, seed=int(seed))
    with tempfile.TemporaryDirectory() as folder:
        paths: dict[str, Any] = {name: Path(arrays, f"{name}.npy") for name in IMAGES}
        files = ("history", "oof", "test", "weights", "augmented")
        paths |= {name: Path(folder, name) for name in files}
        metadata = train(**paths, fold_ids=Path(fold_ids), fold=int(fold), params=params)
        lines = Path(folder, "history").read_text(encoding="ascii").splitlines()
    column = lines[0].split(",").index("val_accuracy")
    return {
        "seconds": np.cumsum(metadata["epoch_seconds"]).tolist(),
        "accuracy": [float(line.split(",")[column]) for line in lines[1:]],
        "final_accuracy": metadata["held_out_accuracy"],
        # The first epoch includes the tracing of the graph.
        "images_per_second": metadata["rows"] / min(metadata["epoch_seconds"]),
        "flops_per_image": progress.flops_per_image(params.network, params.width),
        "precision": metadata["precision"],
    }


def start_up() -> dict[str, Any]:
    """Seconds to start a command, and to import TensorFlow."""
    commands = {
        "status": ["-m", "pipeline", "status", "--dataset", "sample", "--config", "demo"],
        "help": ["-m", "pipeline", "--help"],
        "tensorflow": ["-c", "import pipeline.backend"],
    }
    return {name: _spread(partial(_python, run)) for name, run in commands.items()}


def parsing(raw: str) -> dict[str, Any]:
    """Seconds to read train.csv: with our checks, with pandas, and with NumPy's text reader."""
    import pandas as pd

    from pipeline import csvs

    path = Path(raw) / "train.csv"
    return {
        "ours": _spread(lambda: csvs.read_images(path, labelled=True)),
        "pandas": _spread(lambda: pd.read_csv(path)),
        "numpy": _spread(lambda: np.loadtxt(path, np.uint8, delimiter=",", skiprows=1), times=1),
        "bytes": path.stat().st_size,
    }


def _python(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def _spread(work: Callable[[], Any], times: int = 5) -> list[float]:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return seconds


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    measures = {f.__name__: f for f in (limit, notebook, preset, start_up, parsing)}
    found = measures[sys.argv[1]](*sys.argv[2:])
    # Kibibytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    found["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    print(json.dumps(found))
