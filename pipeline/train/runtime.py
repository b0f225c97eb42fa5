"""Choose devices and number format, with the reasons, and seed all random number generators."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.train import devices as places


@dataclass(frozen=True)
class Runtime:
    """The device and number format of a run, with the reasons."""

    device: str
    device_reason: str
    precision: str
    precision_reason: str

    def metadata(self) -> dict[str, Any]:
        """The same for a manifest, with the node and the versions of the libraries."""
        packages = ("tensorflow", "keras", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        versions["python"] = platform.python_version()
        return {"node": platform.node(), **dataclasses.asdict(self), "versions": versions}


def prepare(seed: int, precision: str, devices: int = 1, jobs: int = 1) -> Runtime:
    """Seed all random number generators, choose devices and precision, and set Keras to them.

    Args:
        seed: seed of Python, NumPy and Keras.
        precision: a Keras dtype policy, or "auto".
        devices: how many GPUs one model is trained on, where there are GPUs.
        jobs: how many folds are trained on this machine at a time, sharing its cores.

    Raises:
        UserError: there are GPUs, but fewer than `devices`.
    """
    from pipeline.backend import keras, tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        chosen = places.gpus(tf, gpus, devices)
        details = tf.config.experimental.get_device_details(chosen[0])
        device = details.get("device_name", "GPU")
        device_reason = f"TensorFlow sees {len(gpus)} GPU; this run uses {len(chosen)}"
        capability = details.get("compute_capability")
    else:
        device, device_reason, capability = "CPU", "TensorFlow sees no GPU", None
        if jobs > 1:
            cores = ", ".join(map(str, places.cores(tf, jobs)))
            device_reason += f"; {jobs} jobs share the machine, this one uses core {cores}"
    policy, policy_reason = choose_precision(precision, bool(gpus), capability, cpu_flags())

    # Keras numbers layers; every fold of a process has to start counting from the beginning.
    keras.utils.clear_session()  # before the policy, which it resets
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    return Runtime(device, device_reason, policy, policy_reason)


def spread(devices: int) -> Any:
    """The scope in which to build a model that is trained on several devices at once.

    Raises:
        UserError: there are fewer.
    """
    return _strategy(devices).scope() if devices > 1 else contextlib.nullcontext()


# One for all folds of the process: a second one would number its collectives from the start.
@functools.cache
def _strategy(devices: int) -> Any:
    from pipeline.backend import tf

    there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(there):
        raise UserError(
            f"train.devices is {devices}, and TensorFlow sees {len(there)} "
            f"{there[0].device_type}; set it to at most {len(there)}"
        )
    return tf.distribute.MirroredStrategy([device.name for device in there[:devices]])


def choose_precision(
    wanted: str, gpu: bool, capability: tuple[int, int] | None, flags: frozenset[str]
) -> tuple[str, str]:
    """Choose the Keras dtype policy; return it with the reason.

    Args:
        wanted: the policy that the preset asks for, or "auto".
        gpu: whether it runs on a GPU.
        capability: the GPU's compute capability, if known.
        flags: the CPU's features, as Linux names them.
    """
    if wanted != "auto":
        return wanted, "train.precision asks for it"
    if gpu:
        if capability is None:
            return "float32", "the GPU's compute capability is unknown"
        known = f"the GPU's compute capability is {capability[0]}.{capability[1]}"
        if capability >= (8, 0):
            return "mixed_bfloat16", known
        return ("mixed_float16" if capability >= (7, 0) else "float32"), known
    for flag in ("avx512_bf16", "amx_bf16"):
        if flag in flags:
            return "mixed_bfloat16", f"the CPU has {flag}"
    return "float32", "the CPU has no bfloat16 arithmetic"


def cpu_flags() -> frozenset[str]:
    """The CPU's features, as Linux names them; none on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
