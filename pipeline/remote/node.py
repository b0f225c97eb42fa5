"""The Ray task that trains a fold on a node.

Only the standard library and Ray are imported before it says where it runs: what a node lacks is
then an error of that node.
"""

import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline import environment, fingerprints
from pipeline.task import Task

ROOT = Path(__file__).parents[2]
# Before the first fold of this process binds it to some of them.
CORES = environment.threads()


def train_fold(
    task: Task, reads: Mapping[str, Any], cores: int, checkpoints: Mapping[str, bytes]
) -> Iterator[tuple[str, Any]]:
    """Train one fold in a temporary folder, and yield everything that comes of it.

    Yields pairs: "where" with the node and its GPUs; the checkpoint's name and bytes whenever there
    is a new one; the name and bytes of each file that `train` writes; and last "metadata".

    Args:
        task: the fold's; its paths are those of another machine.
        reads: Ray's references to the contents of the files to read, uint8 (bytes,), by name.
        cores: how many the task may keep busy; 0 if it trains on GPUs.
        checkpoints: the bytes of those that earlier attempts left, by name.
    """
    import ray

    began = time.perf_counter()
    ray_node, gpus = ray.get_runtime_context().get_node_id(), ray.get_gpu_ids()
    yield "where", {"node": platform.node(), "ray_node": ray_node, "gpus": gpus}
    if cores:  # Ray counts cores, but binds nothing to them, and leaves every GPU visible
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    fingerprints.load(task.code, ROOT)
    from pipeline.train import runtime
    from pipeline.train.fold import Progress

    params = task.preset.train
    found = runtime.prepare(params.precision, params.devices, max(1, CORES // (cores or CORES)))
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        for name, content in reads.items():
            ray.get(content).tofile(Path(home, name))
        for name, content in checkpoints.items():
            Path(home, name).write_bytes(content)
        here = replace(task, root=ROOT, reads={name: Path(home, name) for name in reads})
        writes = {name: Path(home, path.name) for name, path in task.writes.items()}
        path, done = Path(home, found.checkpoint), False
        seen = path.stat().st_mtime_ns if path.exists() else 0
        future = pool.submit(here.work, writes, environment=found, progress=Progress())
        while not done:
            done = bool(wait([future], timeout=0.1).done)
            if path.exists() and (changed := path.stat().st_mtime_ns) != seen:
                seen = changed
                yield path.name, path.read_bytes()
        metadata = future.result()
        for name, output in writes.items():
            yield name, output.read_bytes()
    seconds, ran = round(time.perf_counter() - began, 2), here.fingerprints()
    yield "metadata", {**metadata, "ray_node": ray_node, "seconds": seconds, "code": ran}
