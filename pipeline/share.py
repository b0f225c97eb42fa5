"""A share of the machine, for trainings that run on it side by side: GPUs of their own, or cores.

Processes that know nothing of one another, such as those of `make -j`, have to end up in different
places. So each place is a file, locked by whoever has it; a dead process's place is free again.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pipeline.errors import UserError

# What this process has, for good: GPUs or numbers of cores. TensorFlow cannot change them later.
_taken: list[Any] = []
_locks: list[IO[str]] = []


def gpus(tf: Any, there: Sequence[Any], count: int) -> list[Any]:
    """Take GPUs that no other training is on, waiting if need be; TensorFlow sees no others then.

    With DIGITS_JOBS_PER_GPU=2 in the environment, two trainings may be on one GPU.

    Args:
        tf: TensorFlow, not yet at work.
        there: the physical GPUs.
        count: how many are wanted.

    Raises:
        UserError: there are not so many, or the environment holds no number.
    """
    if _taken:
        return list(_taken)
    if count > len(there):
        raise UserError(f"train.devices is {count}, and TensorFlow sees {len(there)} GPU")
    word = os.environ.get("DIGITS_JOBS_PER_GPU", "1")
    if not word.isdigit() or word == "0":
        raise UserError(f"DIGITS_JOBS_PER_GPU has to be a whole number from 1, and is {word!r}")
    jobs = int(word)
    # The driver's own numbers, which other processes know a GPU by, also if we may see some only.
    numbers = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if len(numbers) != len(there):
        numbers = [str(number) for number in range(len(there))]
    places = [f"gpu-{number}-{turn}" for turn in range(jobs) for number in numbers]
    waiting = False
    while not (found := _take(places, count)):
        if not waiting:
            print(
                f"waiting for a free GPU: other trainings are on all {len(there)}; "
                f"with DIGITS_JOBS_PER_GPU={jobs + 1} they would share",
                flush=True,
            )
        waiting = True
        time.sleep(0.5)
    _taken.extend(there[place % len(there)] for place in found)
    tf.config.set_visible_devices(_taken, "GPU")
    if jobs > 1:
        for gpu in _taken:
            tf.config.experimental.set_memory_growth(gpu, True)
    return list(_taken)


def cores(tf: Any, jobs: int) -> list[int]:
    """Take one of `jobs` equal shares of the cores; all of them if no share is free.

    Only where the threads run changes, not how many there are: TensorFlow divides its sums among
    its threads, and with another number of them the last digits of the weights would differ.

    Args:
        tf: TensorFlow, not yet at work.
        jobs: how many trainings share the machine.
    """
    if _taken or not hasattr(os, "sched_setaffinity"):  # macOS lacks it
        return list(_taken)
    there = sorted(os.sched_getaffinity(0))
    found = _take([f"cores-{job}-of-{jobs}" for job in range(jobs)], 1)
    _taken.extend(part(there, found[0], jobs) if found else there)
    tf.config.threading.set_intra_op_parallelism_threads(len(there))
    os.sched_setaffinity(0, _taken)
    return list(_taken)


def part(cores: Sequence[int], job: int, jobs: int) -> list[int]:
    """The cores of one of several jobs: neighbours, and as many as each other has, at least one."""
    first, end = job * len(cores) // jobs, (job + 1) * len(cores) // jobs
    return list(cores[first : max(end, first + 1)])


def _take(places: Sequence[str], count: int) -> list[int]:
    """Lock `count` of these places, or none; gives their positions among them."""
    found: dict[int, IO[str]] = {}
    for position, place in enumerate(places):
        file: IO[str] = (Path(tempfile.gettempdir()) / f"digits-{os.getuid()}-{place}.lock").open(
            "a"
        )
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found[position] = file
        except BlockingIOError:
            file.close()
        if len(found) == count:
            _locks.extend(found.values())
            return list(found)
    for file in found.values():
        file.close()
    return []
