"""Which devices and number format a run uses, why, and how its random numbers are fixed."""

import contextlib
import dataclasses
import functools
import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import share
from pipeline.errors import UserError


@dataclass(frozen=True)
class Runtime:
    """Where and in which number format a run computes, with the reasons."""

    device: str
    device_reason: str
    precision: str
    precision_reason: str

    def facts(self) -> dict[str, Any]:
        """The same for a manifest, with the versions of what computes."""
        packages = ("tensorflow", "keras", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        versions["python"] = platform.python_version()
        return {"node": platform.node(), **dataclasses.asdict(self), "versions": versions}


def prepare(seed: int, precision: str, devices: int = 1, jobs: int = 1) -> Runtime:
    """Fix every source of chance, choose devices and precision, and set Keras to them.

    Args:
        seed: seed of Python, NumPy and Keras.
        precision: a Keras dtype policy, or "auto".
        devices: how many GPUs one model is spread over, where there are GPUs.
        jobs: how many folds are trained on this machine at a time; they share its cores.

    Raises:
        UserError: there are GPUs, but fewer than `devices`.
    """
    from pipeline.backend import keras, tf

    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        chosen = share.gpus(tf, gpus, devices)
        details = tf.config.experimental.get_device_details(chosen[0])
        device = details.get("device_name", "GPU")
        device_reason = f"TensorFlow sees {len(gpus)} GPU, this run has {len(chosen)} of them"
        capability = details.get("compute_capability")
    else:
        device, device_reason, capability = "CPU", "TensorFlow sees no GPU", None
        if jobs > 1:
            cores = ", ".join(map(str, share.cores(tf, jobs)))
            device_reason += f"; {jobs} jobs share the machine, this one runs on core {cores}"
    policy, policy_reason = choose_precision(precision, bool(gpus), capability, cpu_flags())

    # Layers are named by counting; a fold that is not the first of its process counts anew too.
    keras.utils.clear_session()  # before the policy, which it would forget
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    return Runtime(device, device_reason, policy, policy_reason)


def spread(devices: int) -> Any:
    """The scope in which a model is made that learns on `devices` devices at once.

    Raises:
        UserError: there are not so many.
    """
    return _strategy(devices).scope() if devices > 1 else contextlib.nullcontext()


# One for all folds of the process: a second one would number its exchanges from the start again.
@functools.cache
def _strategy(devices: int) -> Any:
    from pipeline.backend import tf

    there = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if devices > len(there):
        raise UserError(
            f"train.devices is {devices}, and TensorFlow sees {len(there)} "
            f"{there[0].device_type}; set it to {len(there)} or less"
        )
    return tf.distribute.MirroredStrategy([device.name for device in there[:devices]])


def choose_precision(
    wanted: str, gpu: bool, capability: tuple[int, int] | None, flags: frozenset[str]
) -> tuple[str, str]:
    """The Keras dtype policy to compute in, and the reason for it.

    Args:
        wanted: a policy that the preset asks for, or "auto".
        gpu: whether a GPU computes.
        capability: the GPU's compute capability, where it is known.
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
    """The CPU's features as Linux names them; none where the system does not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return frozenset(flags.partition(":")[2].split())
