"""The ensemble as one model for use elsewhere: pixels in, calibrated probabilities out.

It consists of Keras' own layers and operations, so that Keras loads it without this package; and it
computes in float32 whatever its networks were trained in, so that every machine gives the same
probabilities. Where tf2onnx is installed, it is written as ONNX too, for other runtimes.
"""

import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import artifacts
from pipeline.endings import here
from pipeline.errors import UserError
from pipeline.estimate import TINY
from pipeline.files import atomic
from pipeline.stages import Graph

# Test images on which the model is compared with the ensemble.
CHECKED = 2000
# What the output of the ONNX model is called.
OUTPUT = "probabilities"


def export(graph: Graph, target: Path) -> None:
    """Write the ensemble of a dataset and a preset as a model, and say how exact it is.

    Args:
        graph: the tasks.
        target: the file to be written, which ends in .keras. One that ends in .onnx is written
            beside it, if tf2onnx is installed.

    Raises:
        UserError: the file has another ending, or a fold or the ensemble is missing or stale.
    """
    from pipeline.train.saving import save

    if target.suffix != ".keras":
        raise UserError(f"{target}: the name of a model ends in .keras")
    artifacts.require_fresh(graph.up_to("ensemble"), graph.command_here("ensemble"))
    model = ensemble(graph)
    images = np.load(graph.task("preprocess").writes["test_images"], mmap_mode="r")[:CHECKED]
    wanted = np.load(graph.task("ensemble").writes["test"], mmap_mode="r")[:CHECKED]
    found = model.predict(images.astype(np.float32), batch_size=500, verbose=0)
    others = int((found.argmax(axis=1) != wanted.argmax(axis=1)).sum())

    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic(target) as temporary:
        save(model, temporary)
    networks = len(graph.all("train"))
    said = f"{networks} network{'s' * (networks > 1)}, {model.count_params():,} parameters"
    print(f"{os.path.relpath(target, here())}: {said}")
    if importlib.util.find_spec("tf2onnx"):
        onnx = target.with_suffix(".onnx")
        _save_onnx(model, onnx)
        print(f"{os.path.relpath(onnx, here())}: the same for ONNX runtimes")
    else:
        print("no ONNX, which needs tf2onnx: pip install tf2onnx")
    print(
        f"on {len(images):,} test images, the probabilities are within "
        f"{np.abs(found - wanted).max():.2g} of the ensemble's, and {others} labels differ"
    )


def ensemble(graph: Graph) -> Any:
    """The ensemble as a keras.Model of Keras' own layers and operations.

    Pixels, (n, 28, 28, 1) with values from 0 (background) to 255 or 1 (ink), go in; calibrated
    probabilities, float32 (n, 10), come out: the mean of the networks' probabilities at the
    temperature that the ensemble stage fitted (see `estimate.apply`).
    """
    from pipeline.backend import keras
    from pipeline.train.saving import load

    layers, ops = keras.layers, keras.ops
    keras.utils.clear_session()  # it numbers layers, and equal ensembles have equal names
    metrics = artifacts.metadata(graph.task("ensemble").manifest)
    pixels = keras.Input((28, 28, 1), name="pixels")
    # Pixels from 0 to 1, as many libraries have them, would all be background.
    highest = ops.max(pixels, axis=(1, 2, 3), keepdims=True)
    levels = ops.where(highest <= 1, 255 * pixels, pixels)
    each = []
    for number, task in enumerate(graph.all("train"), start=1):
        network = _in_float32(load(task.writes["weights"]))
        network.name = f"network_{number}"
        each.append(layers.Softmax(name=f"probabilities_{number}")(network(levels)))
    mean = layers.Average(name="mean")(each) if len(each) > 1 else each[0]
    logs = ops.log(ops.maximum(mean, TINY))
    scaled = layers.Rescaling(1 / metrics["temperature"], name="temperature")(logs)
    return keras.Model(pixels, layers.Softmax(name="probabilities")(scaled), name="digits")


def _in_float32(network: Any) -> Any:
    """A copy of a network that computes in float32."""
    from pipeline.backend import keras

    def copy(layer: Any) -> Any:
        dtype = {"dtype": "float32"} if isinstance(layer, keras.Layer) else {}  # an operation
        return type(layer).from_config({**layer.get_config(), **dtype})

    # A mean over shifts contains the network.
    copied = keras.models.clone_model(network, clone_function=copy, recursive=True)
    copied.set_weights(network.get_weights())
    return copied


def _save_onnx(model: Any, path: Path) -> None:
    import onnx

    with atomic(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Keras and tf2onnx about each other
        model.export(str(temporary), format="onnx", verbose=False)
        proto = onnx.load(temporary)
        _name_output(proto.graph)
        onnx.save(proto, temporary)


def _name_output(graph: Any) -> None:
    """Call the only output of an ONNX graph "probabilities", which Keras calls after its number."""
    [output] = graph.output
    for node in graph.node:
        node.input[:] = [OUTPUT if name == output.name else name for name in node.input]
        node.output[:] = [OUTPUT if name == output.name else name for name in node.output]
    output.name = OUTPUT
