"""Keras on TensorFlow, imported without TensorFlow's start-up chatter.

The import takes seconds, so nothing imports this module before it has to train. What TensorFlow's
C++ part writes to stderr while it is loaded obeys no setting; it is kept aside, and shown only if
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

# `fit` is only ever given data sets that bring their own order here.
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")

# Every fold is a model of its own, which TensorFlow takes for one that is traced again and again.
tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
