"""Keras on TensorFlow, imported without TensorFlow's start-up chatter.

The import takes seconds, so nothing imports this module before it is needed. No setting silences
what TensorFlow's C++ part writes to stderr while it is loaded; it is captured, and only shown if
the import fails.
"""

import os
import tempfile
import warnings

from pipeline import memory

memory.check()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["KERAS_BACKEND"] = "tensorflow"

_stderr = os.dup(2)
with tempfile.TemporaryFile() as _aside:
    os.dup2(_aside.fileno(), 2)
    try:
        import keras
        import tensorflow as tf
    except BaseException:
        _aside.seek(0)
        os.write(_stderr, _aside.read())
        raise
    finally:
        os.dup2(_stderr, 2)
        os.close(_stderr)

# `fit` is only given datasets that have their own order.
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")

# Every fold is a model of its own; TensorFlow mistakes that for one that is traced repeatedly.
tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
