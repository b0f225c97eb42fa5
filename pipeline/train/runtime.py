"""Choose the device, its number format and its threads, and keep to them in this process."""

import contextlib
import dataclasses
import functools

from pipeline import environment
from pipeline.environment import Environment
from pipeline.train import devices as places


def prepare(precision: str, devices: int = 1, jobs: int = 1) -> Environment:
    """Choose what a fold is trained with, say so, and set TensorFlow to it.

    Args:
        precision: a Keras dtype policy, or "auto".
        devices: how many GPUs one model is trained on, where there are GPUs.
        jobs: how many folds are trained on this machine at a time, sharing its cores.

    Raises:
        UserError: there are GPUs, but fewer than `devices`.
    """
    from pipeline.backend import tf

    count = _fix_threads()
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        chosen = places.gpus(tf, gpus, devices)
        details = tf.config.experimental.get_device_details(chosen[0])
        device = details.get("device_name", "GPU")
        reason = f"TensorFlow sees {len(gpus)} GPU; this run uses {len(chosen)}"
        capability = details.get("compute_capability")
    else:
        device, reason, capability = environment.cpu_name(), "TensorFlow sees no GPU", None
        if jobs > 1:
            cores = ", ".join(map(str, places.cores(jobs)))
            reason += f"; {jobs} jobs share the machine, this one uses core {cores}"
    flags = environment.cpu_flags()
    policy = environment.choose_precision(precision, bool(gpus), capability, flags)
    found = environment.environment(device, reason, policy)
    print(f"device {found.device} ({found.device_reason})")
    print(f"precision {found.precision} ({found.precision_reason})")
    return dataclasses.replace(found, threads=count)


@functools.cache  # TensorFlow takes it once, and devices.cores leaves the process fewer
def _fix_threads() -> int:
    from pipeline.backend import tf

    count = environment.threads()
    with contextlib.suppress(RuntimeError):  # it has started, with as many by default
        tf.config.threading.set_intra_op_parallelism_threads(count)
    return count
