"""Choose what a fold is trained with: device, number format, threads, and a share of the machine.

Processes that know nothing of each other, such as two commands in two terminals, must end up on
different GPUs or cores. So every place is a file, locked by the process that has it; when the
process ends, the place is free.
"""

import contextlib
import dataclasses
import fcntl
import functools
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pipeline import environment
from pipeline.environment import Environment
from pipeline.errors import UserError

# What this process has taken, GPUs or core numbers. TensorFlow cannot change them later.
_taken: list[Any] = []
_locks: list[contextlib.ExitStack] = []


def prepare(precision: str, devices: int = 1, jobs: int = 1) -> Environment:
    """Choose what a fold is trained with, say so, and set TensorFlow to it.

        prepare("auto").precision  # "mixed_bfloat16", on a machine that computes with it

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
        chosen = take_gpus(tf, gpus, devices)
        details = tf.config.experimental.get_device_details(chosen[0])
        device = details.get("device_name", "GPU")
        reason = f"TensorFlow sees {len(gpus)} GPU; this run uses {len(chosen)}"
        capability = details.get("compute_capability")
    else:
        device, reason, capability = environment.cpu_name(), "TensorFlow sees no GPU", None
        if jobs > 1:
            cores = ", ".join(map(str, take_cores(jobs)))
            reason += f"; {jobs} jobs share the machine, this one uses core {cores}"
    flags = environment.cpu_flags()
    policy = environment.choose_precision(precision, bool(gpus), capability, flags)
    found = environment.environment(device, reason, policy)
    print(f"device {found.device} ({found.device_reason})")
    print(f"precision {found.precision} ({found.precision_reason})")
    return dataclasses.replace(found, threads=count)


@functools.cache  # TensorFlow takes it once, and take_cores leaves the process fewer
def _fix_threads() -> int:
    from pipeline.backend import tf

    count = environment.threads()
    with contextlib.suppress(RuntimeError):  # it has started, with as many by default
        tf.config.threading.set_intra_op_parallelism_threads(count)
    return count


def one_for_each_gpu(count: int) -> int:
    """Return how many folds of `count` GPUs each fit on the GPUs at once; 1 without GPUs."""
    # TensorFlow's import takes seconds, which most machines are spared.
    if len(list(environment.DRIVER.glob("nvidia[0-9]*"))) < 2:
        return 1
    from pipeline.backend import tf

    return max(1, len(tf.config.list_physical_devices("GPU")) // count)


def take_gpus(tf: Any, there: Sequence[Any], count: int) -> list[Any]:
    """Take GPUs that no other fold uses, waiting if necessary; hide the others from TensorFlow.

    With DIGITS_JOBS_PER_GPU=2 in the environment, two folds may share a GPU. `tf` is TensorFlow,
    before it has run anything; raises UserError if there are fewer GPUs than are to be taken.
    """
    if _taken:
        return list(_taken)
    if count > len(there):
        raise UserError(f"train.devices is {count}, but TensorFlow sees {len(there)} GPU")
    word = os.environ.get("DIGITS_JOBS_PER_GPU", "1")
    if not word.isdecimal() or int(word) == 0:
        raise UserError(f"DIGITS_JOBS_PER_GPU must be a whole number from 1, not {word!r}")
    jobs = int(word)
    # The driver's own numbers, by which every process knows a GPU, even if it may not see all.
    numbers = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(numbers) != len(there):
        numbers = [str(number) for number in range(len(there))]
    places = [f"gpu-{number}-{turn}" for turn in range(jobs) for number in numbers]
    if not (found := _take(places, count)):
        remedy = f"set DIGITS_JOBS_PER_GPU={jobs + 1} to share them"
        print(f"waiting for a free GPU: other folds use all {len(there)}; {remedy}", flush=True)
    while not found:
        time.sleep(0.5)
        found = _take(places, count)
    _taken.extend(there[place % len(there)] for place in found)
    tf.config.set_visible_devices(_taken, "GPU")
    if jobs > 1:
        for gpu in _taken:
            tf.config.experimental.set_memory_growth(gpu, True)
    return list(_taken)


def take_cores(jobs: int) -> list[int]:
    """Take one of `jobs` equal shares of the cores; all cores if no share is free.

    This changes where the threads run, not how many there are: TensorFlow divides its sums among
    its threads, and another number of them would change the last digits of the weights.
    """
    if _taken or not hasattr(os, "sched_setaffinity"):  # not on macOS
        return list(_taken)
    there = sorted(os.sched_getaffinity(0))
    found = _take([f"cores-{job}-of-{jobs}" for job in range(jobs)], 1)
    _taken.extend(share(there, found[0], jobs) if found else there)
    os.sched_setaffinity(0, _taken)
    return list(_taken)


def share(cores: Sequence[int], job: int, jobs: int) -> list[int]:
    """Pick the cores of one of several jobs: adjacent, equally many for each, at least one."""
    first, end = job * len(cores) // jobs, (job + 1) * len(cores) // jobs
    return list(cores[first : max(end, first + 1)])


def _lock(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # a file system without flock
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _take(places: Sequence[str], count: int) -> list[int]:
    """Lock `count` of these places, or none; return their positions in the list."""
    found = []
    with contextlib.ExitStack() as files:
        for position, place in enumerate(places):
            path = Path(tempfile.gettempdir(), f"digits-{os.getuid()}-{place}.lock")
            file = files.enter_context(path.open("a"))
            with contextlib.suppress(BlockingIOError, PermissionError):
                _lock(file)
                found.append(position)
            if len(found) == count:
                _locks.append(files.pop_all())
                return found
    return []
