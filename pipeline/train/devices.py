"""A place for each fold trained on one machine at the same time: GPUs, or a share of the cores.

Processes that know nothing of each other, such as two commands in two terminals, must end up in
different places. So every place is a file, locked by the process that has it; when the process
ends, the place is free.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import environment
from pipeline.errors import UserError

# What this process has taken, GPUs or core numbers. TensorFlow cannot change them later.
_taken: list[Any] = []
_locks: list[contextlib.ExitStack] = []


def one_for_each_gpu(count: int) -> int:
    """How many folds fit on the GPUs at once; 1 without GPUs.

    Args:
        count: how many GPUs each fold takes.
    """
    # TensorFlow's import takes seconds, which most machines are spared.
    if len(list(environment.DRIVER.glob("nvidia[0-9]*"))) < 2:
        return 1
    from pipeline.backend import tf

    return max(1, len(tf.config.list_physical_devices("GPU")) // count)


def gpus(tf: Any, there: Sequence[Any], count: int) -> list[Any]:
    """Take GPUs that no other fold uses, waiting if necessary; hide the others from TensorFlow.

    With DIGITS_JOBS_PER_GPU=2 in the environment, two folds may share a GPU.

    Args:
        tf: TensorFlow, before it has run anything.
        there: the physical GPUs.
        count: how many to take.

    Raises:
        UserError: there are fewer, or the environment variable is not a number.
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
        print(
            f"waiting for a free GPU: other folds use all {len(there)}; set "
            f"DIGITS_JOBS_PER_GPU={jobs + 1} to share them",
            flush=True,
        )
    while not found:
        time.sleep(0.5)
        found = _take(places, count)
    _taken.extend(there[place % len(there)] for place in found)
    tf.config.set_visible_devices(_taken, "GPU")
    if jobs > 1:
        for gpu in _taken:
            tf.config.experimental.set_memory_growth(gpu, True)
    return list(_taken)


def cores(jobs: int) -> list[int]:
    """Take one of `jobs` equal shares of the cores; all cores if no share is free.

    This changes where the threads run, not how many there are: TensorFlow divides its sums among
    its threads, and another number of them would change the last digits of the weights.

    Args:
        jobs: how many folds share the machine.
    """
    if _taken or not hasattr(os, "sched_setaffinity"):  # not on macOS
        return list(_taken)
    there = sorted(os.sched_getaffinity(0))
    found = _take([f"cores-{job}-of-{jobs}" for job in range(jobs)], 1)
    _taken.extend(part(there, found[0], jobs) if found else there)
    os.sched_setaffinity(0, _taken)
    return list(_taken)


def part(cores: Sequence[int], job: int, jobs: int) -> list[int]:
    """The cores of one of several jobs: adjacent, equally many for each, and at least one."""
    first, end = job * len(cores) // jobs, (job + 1) * len(cores) // jobs
    return list(cores[first : max(end, first + 1)])


def _take(places: Sequence[str], count: int) -> list[int]:
    """Lock `count` of these places, or none; return their positions in the list."""
    found = []
    with contextlib.ExitStack() as files:
        for position, place in enumerate(places):
            path = Path(tempfile.gettempdir(), f"digits-{os.getuid()}-{place}.lock")
            file = files.enter_context(path.open("a"))
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                found.append(position)
            if len(found) == count:
                _locks.append(files.pop_all())
                return found
    return []
