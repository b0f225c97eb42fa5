"""The Ray task that trains a fold on a node.

Only the standard library and Ray are imported before it says where it runs: what a node lacks is
then an error of that node.
"""

import importlib
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pipeline.config import Train

# Before the first fold of this process binds it to some of them.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def train_fold(
    reads: Mapping[str, Any],
    writes: Mapping[str, str],
    fold: int,
    params: Train,
    code: Sequence[str],
    cores: int,
    checkpoints: Mapping[str, bytes],
) -> Iterator[tuple[str, Any]]:
    """Train one fold in a temporary folder, and yield everything that comes of it.

    Yields pairs: "where" with the node and its GPUs; the checkpoint's name and bytes whenever there
    is a new one; the name and bytes of each file that `train` writes; and last "metadata".

    Args:
        reads: Ray's references to the contents of the files to read, uint8 (bytes,), by the names
            of the arguments of `train`.
        writes: the names of the files to write, by the same names.
        fold: the fold to hold out.
        params: how to train.
        code: the modules that the fold consists of (see `Task.code`), the network's last.
        cores: how many the task may keep busy; 0 if it trains on GPUs.
        checkpoints: by their names, the bytes of those that earlier attempts left.
    """
    import ray

    began = time.perf_counter()
    ray_node, gpus = ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()
    yield "where", {"node": platform.node(), "ray_node": ray_node, "gpus": gpus}
    if cores:  # Ray counts cores, but binds nothing to them, and leaves every GPU visible
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    from pipeline import fingerprints
    from pipeline.train import runtime

    root = Path(fingerprints.__file__).parents[1]
    fingerprints.load(code, root)
    from pipeline.train.fold import Progress, train

    environment = runtime.prepare(params.precision, params.devices, _jobs(cores))

    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        for name, content in reads.items():
            ray.get(content).tofile(Path(home, name))
        outputs = {name: Path(home, file) for name, file in writes.items()}
        for name, its in checkpoints.items():
            Path(home, name).write_bytes(its)
        path = Path(home, environment.checkpoint)
        seen, done = _changed(path), False
        files: dict[str, Any] = {name: Path(home, name) for name in reads} | outputs
        its_own: dict[str, Any] = {
            "fold": fold,
            "params": params,
            "network": importlib.import_module(code[-1]),
        }
        watched: dict[str, Any] = {"environment": environment, "progress": Progress()}
        future = pool.submit(train, **files, **its_own, **watched)
        while not done:
            done = bool(wait([future], timeout=0.1).done)
            if (changed := _changed(path)) != seen:
                seen = changed
                yield path.name, path.read_bytes()
        metadata = future.result()
        for name, output in outputs.items():
            yield name, output.read_bytes()
    seconds = round(time.perf_counter() - began, 2)
    ran = fingerprints.fingerprints(code, root)
    yield "metadata", {**metadata, "ray_node": ray_node, "seconds": seconds, "code": ran}


def _jobs(cores: int) -> int:
    return max(1, CORES // cores) if cores else 1


def _changed(path: Path) -> int:
    """Return when a file last changed, in nanoseconds; 0 if there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0
