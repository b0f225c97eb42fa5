"""What runs on the nodes of a Ray cluster: the task that trains a fold, and the probe before it."""

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.train.checkpoint import CHECKPOINT
from pipeline.train.fold import train

# Before the first fold of this process binds it to some of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def probe() -> dict[str, Any]:
    """A Ray task: the versions of a node, once everything that a fold imports has been imported."""
    from pipeline.backend import tf
    from pipeline.train import augment, networks, schedule

    assert tf and augment and networks and schedule
    return versions()


def versions() -> dict[str, str]:
    """The versions, installed here, of what the bytes of a fold depend on."""
    packages = ("tensorflow", "keras", "numpy", "scipy")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def train_fold(
    writes: Mapping[str, str],
    params: Mapping[str, Any],
    cores: int,
    resume_from: bytes | None,
    **reads: Any,
) -> Iterator[tuple[str, Any]]:
    """A Ray task: train one fold in a temporary folder, and yield everything that comes of it.

    Yields pairs: "where" with the node, its GPUs and versions; the checkpoint's name and bytes
    whenever there is a new one; the name and bytes of each file that `train` writes; and last
    "metadata".

    Args:
        writes: the names of the files to write, by the names of the arguments of `train`.
        params: the other arguments of `train`.
        cores: how many the task may keep busy; 0 if it trains on GPUs.
        resume_from: the bytes of a checkpoint.
        reads: the contents of the files to read, uint8 (bytes,), by the same names.
    """
    import ray

    began = time.perf_counter()
    ray_node, gpus = ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()
    where = {"node": platform.node(), "ray_node": ray_node, "gpus": gpus}
    yield "where", where | {"versions": versions()}
    jobs = 1
    if cores:
        # Ray counts cores, but binds nothing to them, and leaves every GPU visible.
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        jobs = max(1, CORES // cores)
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        paths = {name: Path(home, name) for name in reads}
        for name, content in reads.items():
            content.tofile(paths[name])
        outputs = {name: Path(home, file) for name, file in writes.items()}
        path = Path(home, CHECKPOINT)
        if resume_from is not None:
            path.write_bytes(resume_from)
        seen, done = _changed(path), False
        arguments: dict[str, Any] = {**paths, **outputs, **params, "jobs": jobs}
        future = pool.submit(train, **arguments)
        while not done:
            done = bool(wait([future], timeout=0.1).done)
            if (changed := _changed(path)) != seen:
                seen = changed
                yield CHECKPOINT, path.read_bytes()
        metadata = future.result()
        for name, output in outputs.items():
            yield name, output.read_bytes()
        seconds = round(time.perf_counter() - began, 2)
        yield "metadata", {**metadata, "ray_node": ray_node, "seconds": seconds}


def _changed(path: Path) -> int:
    """When a file last changed, in nanoseconds; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0
