"""Import Keras on TensorFlow quietly, the same for every user, if there is memory for it.

The import takes seconds, so nothing imports this module before it is needed. No setting silences
what TensorFlow's C++ part writes to stderr while it is loaded; it is captured, and only shown if
the import fails. Settings of the user's own that would change a result, in keras.json or in the
environment, are overridden, because no manifest would record them.
"""

import contextlib
import gc
import os
import resource
import sys
import tempfile
import traceback
import warnings
from pathlib import Path

from pipeline.errors import ExternalError, UserError

# The smallest run needs a little more than this, of memory and of address space.
MEMORY, ADDRESSES = 600 << 20, 3 << 30

# Variables of Keras, TensorFlow and its libraries that could change a result, by their beginnings.
SETTINGS = ("KERAS_", "TF_", "XLA_", "ONEDNN_", "DNNL_", "NVIDIA_TF32_OVERRIDE")
# Terraform's, another program's.
TERRAFORM = ("TF_CLI_", "TF_DATA_DIR", "TF_IN", "TF_LOG", "TF_PLUGIN_", "TF_VAR_", "TF_WORKSPACE")
# Those of them that only say where things are, how much memory to take, or what to log.
HARMLESS = ("KERAS_HOME", "TF_CPP_", "TF_FORCE_GPU_ALLOW_GROWTH", "TF_GPU_ALLOCATOR", *TERRAFORM)


def check_memory() -> None:
    """Refuse to start without memory for the libraries; later, Linux would kill without a message.

    Raises:
        ExternalError: there is too little memory; the message says what to do.
    """
    again = "then run the same command again; it continues from here"
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < ADDRESSES:
        raise ExternalError(
            f"training needs {_gib(ADDRESSES)} of address space, and the limit is {_gib(limit)}; "
            f"lift it with `ulimit -v unlimited`, {again}"
        )
    left = available_memory()
    if left is not None and left < MEMORY:
        raise ExternalError(
            f"training needs at least {_gib(MEMORY)} of memory, and {_gib(left)} is left; close "
            f"other programs, or give the container more, {again}"
        )


def available_memory(root: Path = Path("/")) -> int | None:
    """Return the bytes that a process may still use; None where the system does not say.

    Args:
        root: the folder that contains proc/ and sys/.
    """
    found = []
    with contextlib.suppress(OSError, ValueError, KeyError, IndexError):
        lines = (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        sizes = {name: int(rest.split()[0]) for name, _, rest in (x.partition(":") for x in lines)}
        found.append((sizes["MemAvailable"] + sizes.get("SwapFree", 0)) << 10)
    # A container's own limit, in cgroup versions 2 and 1.
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max"
            found.append(int((root / "sys/fs/cgroup" / name).read_text(encoding="ascii")))
    return min(found, default=None)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


check_memory()
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_names = (name for name in os.environ if name.startswith(SETTINGS))
for _name in sorted(name for name in _names if not name.startswith(HARMLESS)):
    if (_value := os.environ.pop(_name)) != "tensorflow":
        print(
            f"ignoring {_name}={_value} from the environment: it could change results", flush=True
        )
os.environ["KERAS_BACKEND"] = "tensorflow"

# Keras imports these if they are there, for parts of it that are not used here: a third of the
# time that its import takes.
_unused = {"matplotlib", "pandas", "sklearn"} - sys.modules.keys()
sys.modules.update(dict.fromkeys(_unused))  # type: ignore[arg-type]
# The garbage collector looks through a million new objects again and again, and finds nothing: a
# quarter of what is left.
gc.disable()

_stderr = os.dup(2)
with tempfile.TemporaryFile() as _captured:
    os.dup2(_captured.fileno(), 2)
    try:
        import keras
        import tensorflow as tf
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        if frames[-1].filename.endswith("keras/src/backend/config.py"):
            path = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras", "keras.json")
            raise UserError(f"{path}: {error}; fix or remove this file") from error
        _captured.seek(0)
        os.write(_stderr, _captured.read())
        raise
    finally:
        gc.enable()
        gc.freeze()  # none of these objects need be looked through later
        for _name in _unused:
            del sys.modules[_name]
        os.dup2(_stderr, 2)
        os.close(_stderr)

keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)
keras.config.set_image_data_format("channels_last")

# `fit` is only given datasets that have their own order.
warnings.filterwarnings("ignore", message="`shuffle=True` was passed")

# Every fold is a model of its own; TensorFlow mistakes that for one that is traced repeatedly.
tf.get_logger().setLevel("ERROR")

__all__ = ["keras", "tf"]
