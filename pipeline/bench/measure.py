"""One measurement, in a process of its own: `python -m pipeline.bench.measure NAME …`.

Each prints one line of JSON last. A process of its own gives each a start from nothing, and a peak
memory that is its own.
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


def limit(precision: str) -> dict[str, Any]:
    """Operations a second of a large matrix product: what convolutions can at best come near to."""
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


def notebook(tensors: str, fold_ids: str, seed: str) -> dict[str, Any]:
    """The notebook's training, judged on the rows of fold 0."""
    from pipeline.bench.notebook import train

    images, labels = (np.load(Path(tensors) / f"train_{name}.npy") for name in ("images", "labels"))
    held_out = np.load(fold_ids) == 0
    curve = train(images, labels, held_out, int(seed))
    rate = int((~held_out).sum()) * len(curve["seconds"]) / curve["seconds"][-1]
    return {**curve, "images_per_second": rate}


def preset(tensors: str, fold_ids: str, name: str, fold: str, seed: str) -> dict[str, Any]:
    """One fold of a preset, trained with another seed, as the train stage does it."""
    from pipeline.train import train

    params = replace(config.load(name).train, seed=int(seed))
    with tempfile.TemporaryDirectory() as folder:
        facts = train(Path(folder), Path(tensors), Path(fold_ids), int(fold), params)
        lines = (Path(folder) / "history.csv").read_text(encoding="ascii").splitlines()
    column = lines[0].split(",").index("val_accuracy")
    return {
        "seconds": np.cumsum(facts["epoch_seconds"]).tolist(),
        "accuracy": [float(line.split(",")[column]) for line in lines[1:]],
        "final_accuracy": facts["held_out_accuracy"],
        # Tracing the graph is part of the first epoch's time.
        "images_per_second": facts["rows"] / min(facts["epoch_seconds"]),
        "flops_per_image": flops_per_image(params),
        "precision": facts["precision"],
    }


def start_up() -> dict[str, Any]:
    """Seconds until a command is there, and until TensorFlow is."""
    commands = {
        "plan": ["-m", "pipeline.plan", "sample", "demo"],
        "help": ["-m", "pipeline", "--help"],
        "tensorflow": ["-c", "import pipeline.backend"],
    }
    return {name: _spread(partial(_python, run)) for name, run in commands.items()}


def parsing(raw: str) -> dict[str, Any]:
    """Seconds to read train.csv: ours with all its checks, pandas', and NumPy's text reader."""
    import pandas as pd

    from pipeline import csvs

    path = Path(raw) / "train.csv"
    return {
        "ours": _spread(lambda: csvs.read_images(path, labelled=True)),
        "pandas": _spread(lambda: pd.read_csv(path)),
        "numpy": _spread(lambda: np.loadtxt(path, np.uint8, delimiter=",", skiprows=1), times=1),
        "bytes": path.stat().st_size,
    }


def flops_per_image(params: config.Train) -> int:
    """Multiplications and additions of one training step, for one image.

    Those of convolutions and dense layers, forward and, twice as many, backward; less the gradient
    of the pixels, which nobody asks for.
    """
    from pipeline.backend import keras
    from pipeline.networks import NETWORKS

    total, first = 0, True
    for layer in NETWORKS[params.network](params.width, params.dropout).layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            places = int(np.prod(layer.output.shape[1:-1], dtype=int))
            total += 2 * places * int(np.prod(layer.kernel.shape)) * (2 if first else 3)
            first = False
    return total


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
