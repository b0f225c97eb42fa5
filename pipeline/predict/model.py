"""The trained networks of a dataset and a preset, loaded once: from pixels to probabilities."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from pipeline import artifacts, estimate
from pipeline.datasets import SOURCES
from pipeline.stages import Graph


class Networks:
    """The networks of an ensemble.

    Attributes:
        names: of the networks, such as "fold 0".
        class_names: what the ten classes are called.
        temperature: of the ensemble (see estimate.py).
    """

    def __init__(self, graph: Graph, often: bool = False) -> None:
        """Load the networks of the ensemble; raise what `Graph.ensemble` does.

        Args:
            graph: whose networks to load.
            often: trace them, which takes a second for each, and makes later predictions faster.
        """
        weights = graph.ensemble(quiet=True)["weights"]
        from pipeline.backend import tf
        from pipeline.train.saving import load

        self.names = [
            f"{member} fold {fold}" if len(weights) > 1 else f"fold {fold}"
            for member, paths in weights.items()
            for fold in range(len(paths))
        ]
        self.class_names = list(SOURCES[graph.dataset.source].class_names)
        metrics = artifacts.metadata(graph.task("ensemble").manifest)
        self.temperature = float(metrics["temperature"])
        networks = [load(path) for paths in weights.values() for path in paths]

        def logits(pixels: Any) -> Any:
            values = tf.cast(pixels, tf.float32)
            return tf.stack([tf.cast(network(values), tf.float32) for network in networks], axis=1)

        signature = [tf.TensorSpec((None, 28, 28, 1), tf.uint8)]
        self._logits = tf.function(logits, input_signature=signature) if often else logits

    def predict(self, digits: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Predict digits as the stage ensemble does.

        Args:
            digits: uint8 (n, 28, 28), light on dark, as in the dataset.

        Returns:
            The mean of the networks' probabilities at the ensemble's temperature, float32 (n, 10);
            and the probabilities of each network as they are, float32 (n, networks, 10).
        """
        logits = self._logits(digits[..., np.newaxis]).numpy().astype(np.float64)
        each = np.asarray(softmax(logits, axis=2), dtype=np.float32)
        mean = np.asarray(each.mean(axis=1, dtype=np.float64), dtype=np.float32)
        return estimate.apply(mean, self.temperature), each
