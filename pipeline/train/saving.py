"""A network as it is saved: of Keras' own layers, with the mean over shifts, in stable bytes."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from pipeline.backend import keras
from pipeline.errors import UserError
from pipeline.train.layers import FusedBatchNormalization

layers = keras.layers


def over_shifts(network: Any, pixels: int) -> Any:
    """Average a network's probabilities over all (2 pixels + 1)² shifts of the image.

    What comes in from outside is background. Convolutions with strides and pooling see another grid
    with each shift, and so make other mistakes: for `strided`, 10.0 ± 4.8 errors fewer among 42,000
    (train/EXPERIMENTS.md). The logits are the logarithms of the mean probabilities. With 0 pixels,
    return the network itself.
    """
    if not pixels:
        return network
    images = keras.Input((28, 28, 1))
    padded = layers.ZeroPadding2D(pixels)(images)
    steps = range(2 * pixels + 1)
    shifted = [
        layers.Cropping2D(((top, 2 * pixels - top), (left, 2 * pixels - left)))(padded)
        for top in steps
        for left in steps
    ]
    probabilities = layers.Softmax(dtype="float32")
    mean = layers.Average(dtype="float32")([probabilities(network(image)) for image in shifted])
    return keras.Model(images, keras.ops.log(mean + 1e-12), name=f"{network.name}_over_shifts")


def plain(network: Any) -> Any:
    """Copy a network with layers that Keras has, so that its file can be loaded without this."""

    def copy(layer: Any) -> Any:
        fused = isinstance(layer, FusedBatchNormalization)
        kind = layers.BatchNormalization if fused else type(layer)
        return kind.from_config(layer.get_config())

    copied = keras.models.clone_model(network, clone_function=copy)
    copied.set_weights(network.get_weights())
    return copied


def described(layer: Any) -> dict[str, Any]:
    """Return a layer's class, the shape of an image's features, and the number of parameters."""
    shape = list(keras.tree.flatten(layer.output)[0].shape[1:])
    return {"kind": type(layer).__name__, "shape": shape, "parameters": layer.count_params()}


def load(path: Path) -> Any:
    """Load a saved network; raise UserError if it is another Keras' and cannot be read here."""
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:
        with zipfile.ZipFile(path) as file:
            saved = json.loads(file.read("metadata.json"))["keras_version"]
        if saved == keras.__version__:
            raise
        raise UserError(
            f"{path} was saved by Keras {saved}, which Keras {keras.__version__} here cannot read; "
            "install that version, or train here: `digits train --force`, with the same dataset "
            "and preset"
        ) from error


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
