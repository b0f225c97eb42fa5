"""Folds on a Ray cluster: each is one task of it. The code that trains a fold is not aware of it.

No file system is shared. The package, the arrays and the parameters go out with Ray; checkpoints
and results come back through it and are put in place here, as if the fold had been trained here. A
fold whose worker is lost resumes elsewhere, after the last epoch that came back.
"""

import logging
import os
import platform
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import artifacts
from pipeline.artifacts import Task
from pipeline.errors import ExternalError, UserError, ran_out
from pipeline.train import checkpoint
from pipeline.train.checkpoint import CHECKPOINT
from pipeline.train.fold import train
from pipeline.train.local import await_all
from pipeline.train.progress import Board
from pipeline.train.tensorboard import Events

ATTEMPTS = 3  # of one fold in a row, without another epoch
DEADLINE = 10  # seconds in which the address of a cluster has to answer


def train_on_ray(
    folds: list[Task], tasks: list[Task], force: bool, jobs: int, address: str | None
) -> None:
    """Train folds on a Ray cluster, as many at a time as fit on it (see `engines.train_folds`).

    Raises:
        UserError: Ray is not installed here, packages are missing on a node, the address is not
            that of a cluster, or a fold's parameters have to be fixed.
        ExternalError: nothing answers at the address, or a fold failed too often.
    """
    ray = _connect(address)
    try:
        cluster = _Cluster(ray, folds, jobs)
        with cluster.board, ThreadPoolExecutor(len(folds)) as pool:
            futures = [
                pool.submit(artifacts.run, task, tasks, force, partial(cluster.train, task))
                for task in folds
            ]
            try:
                await_all(futures)
            except KeyboardInterrupt:
                cluster.cancel()
                raise
    finally:
        ray.shutdown()


def _connect(address: str | None) -> Any:
    try:
        import ray
    except ImportError as error:
        raise UserError("Ray is not installed: `make train ENGINE=ray` installs it") from error
    _check_address(address)
    try:
        ray.init(
            address=address or "local",
            runtime_env={
                "py_modules": [str(Path(artifacts.__file__).parent)],
                "excludes": ["__pycache__"],
            },
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "Version mismatch" in str(error):
            versions = re.findall(r"(?:Ray|Python): \S+", str(error))
            raise UserError(
                f"the Ray cluster at {address} has {' and '.join(versions[:2])}, this environment "
                f"has {' and '.join(versions[2:])}; install the same versions on both"
            ) from error
        cluster = f"no Ray cluster answers at {address}" if address else "Ray did not start"
        raise ExternalError(f"{cluster}: {error}") from error
    return ray


def _check_address(address: str | None) -> None:
    """Raise an error where no cluster answers: Ray itself would retry for minutes."""
    if not address or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise UserError(
            f"{address} is not an address that works here: run the command on a node of the "
            "cluster, with the head's address, host:6379, or with auto (ray:// does not work)"
        )
    try:
        socket.create_connection((host, int(port)), timeout=DEADLINE).close()
    except OSError as error:
        raise ExternalError(f"no Ray cluster answers at {address}: {error}") from error
    if "RAY_USE_TLS" in os.environ:
        return
    import grpc  # comes with TensorFlow

    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=DEADLINE)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                raise ExternalError(
                    f"no Ray cluster answers at {address} within {DEADLINE} s"
                ) from error
            if error.code() != grpc.StatusCode.UNAUTHENTICATED:  # a cluster that wants a token
                raise UserError(
                    f"what answers at {address} is not the head of a Ray cluster "
                    f"({error.code().name}); give the head's address, host:6379, or auto"
                ) from error


class _Cluster:
    """What the threads that each wait for a fold share."""

    def __init__(self, ray: Any, folds: list[Task], jobs: int) -> None:
        self.ray, self.jobs = ray, jobs
        self.cancelled = False
        self.running: list[Any] = []
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = any(node.get("GPU") for node in nodes)
        # As many cores for a fold as it would have locally, but no more than fit on every node.
        smallest = min((node["CPU"] for node in nodes if node.get("CPU")), default=1)
        self.cores = max(1, int(smallest) // jobs)
        paths = {path for task in folds for path in task.inputs if path.exists()}
        self.files = {path: ray.put(np.fromfile(path, np.uint8)) for path in paths}
        self.board = Board()
        each = f"{folds[0].params['params'].devices} GPU" if self.gpus else f"{self.cores} CPU"
        print(f"Ray: {len(nodes)} node{'s' * (len(nodes) > 1)}, {each} for each fold", flush=True)

    def train(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Have a fold trained somewhere; put its files and checkpoints in their places."""
        name, attempts, path = task.name, 0, writes["weights"].with_name(CHECKPOINT)
        while True:
            before = len(checkpoint.history(path))
            try:
                return self._receive(self._send(task, path), task, {**writes, CHECKPOINT: path})
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                if self.cancelled:
                    raise KeyboardInterrupt from error
                first_sentence = str(cause).split(". ")[0].partition("\n")[0]
                why = f"{type(cause).__name__}: {first_sentence}"
                if not _retryable(cause):
                    _raise_if_packages_are_missing(name, error, cause)
                    if isinstance(cause, self.ray.exceptions.RayError):
                        raise ExternalError(f"{name}: {why}") from error
                    raise cause from error
                reached = len(checkpoint.history(path))
                attempts = 1 if reached > before else attempts + 1
                if attempts == ATTEMPTS:
                    raise ExternalError(
                        f"{name}: failed {ATTEMPTS} times in a row, most recently with {why}; what "
                        "is finished is kept; run the same command again to continue from here"
                    ) from error
                self.board.print(f"{name}: {why}; trying again after epoch {reached}")

    def _send(self, task: Task, path: Path) -> Any:
        """Start the Ray task of a fold, from its checkpoint if there is one; return its stream."""
        params = task.params["params"]
        needs = {"num_gpus": params.devices} if self.gpus else {"num_cpus": self.cores}
        stream = self.ray.remote(max_retries=0, **needs)(train_fold).remote(
            {name: path.name for name, path in task.writes.items()},
            {**task.params, "jobs": self.jobs},
            path.read_bytes() if path.exists() else None,
            **{name: self.files[path] for name, path in zip(task.reads, task.inputs, strict=True)},
        )
        self.running.append(stream)
        return stream

    def _receive(self, stream: Any, task: Task, files: Mapping[str, Path]) -> dict[str, Any]:
        """Write the files that a Ray task yields; return its metadata."""
        where: dict[str, Any] = {}
        written = len(checkpoint.history(files[CHECKPOINT]))
        events = Events(task.folder, resumed=written > 0)
        for message in stream:
            name, content = self.ray.get(message)
            if name == "metadata":
                self.board.print(
                    f"{task.name}: accuracy {content['held_out_accuracy']:.5f} on "
                    f"{content['held_out_rows']:,} held-out rows"
                )
                return dict(content)
            if name == "where":
                where = content
                self.board.show(task, [], where)
                continue
            with artifacts.atomic(files[name]) as temporary:
                temporary.write_bytes(content)
            if name == CHECKPOINT:
                rows = checkpoint.history(files[name])
                checkpoint.write_history(files["history"], rows)
                events.add(rows[written:])
                written = len(rows)
                self.board.show(task, rows, where)
        raise ExternalError(f"{task.name}: the Ray task ended without a result")

    def cancel(self) -> None:
        """End all Ray tasks; what came back from them stays."""
        self.cancelled = True
        for stream in self.running:
            self.ray.cancel(stream, force=True)


def _retryable(cause: Exception) -> bool:
    """Whether a worker, a node or memory was lost, and not an error raised by the training."""
    from ray import exceptions

    lost = (
        exceptions.ActorDiedError,
        exceptions.LocalRayletDiedError,
        exceptions.NodeDiedError,
        exceptions.ObjectLostError,
        exceptions.ObjectStoreFullError,
        exceptions.OutOfDiskError,
        exceptions.OutOfMemoryError,
        exceptions.WorkerCrashedError,
    )
    return isinstance(cause, lost) or ran_out(cause)


def _raise_if_packages_are_missing(name: str, error: Exception, cause: Exception) -> None:
    """Raise UserError if an import failed on a node: in the task, or before it could begin."""
    # If the task itself cannot be imported, Ray raises an error that ends with the traceback.
    last_line = str(cause).strip().rpartition("\n")[2]
    kind, _, why = last_line.rpartition("Error: ")
    if isinstance(cause, ImportError) or kind in ("ModuleNotFound", "Import"):
        node = re.search(r"ip=([^,)\s]+)", str(error))
        raise UserError(
            f"{name}: {why} on node {node[1] if node else 'unknown'}; install the packages of "
            "this environment there: pip install -r requirements.lock"
        ) from error


def train_fold(
    writes: Mapping[str, str], params: Mapping[str, Any], resume_from: bytes | None, **reads: Any
) -> Iterator[tuple[str, Any]]:
    """The Ray task: train one fold in a temporary folder, and yield everything that comes of it.

    Yields pairs: "where" with the node and devices; the checkpoint's name and bytes whenever there
    is a new one; the name and bytes of each file that `train` writes; and last "metadata".

    Args:
        writes: the names of the files to write, by the names of the arguments of `train`.
        params: the other arguments of `train`.
        resume_from: the bytes of a checkpoint.
        reads: the contents of the files to read, uint8 (bytes,), by the same names.
    """
    import ray

    began = time.perf_counter()
    ray_node = ray.get_runtime_context().get_node_id()
    yield "where", {"node": platform.node(), "ray_node": ray_node, "gpus": ray.get_gpu_ids()}
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        paths = {name: Path(home, name) for name in reads}
        for name, content in reads.items():
            content.tofile(paths[name])
        outputs = {name: Path(home, file) for name, file in writes.items()}
        path = Path(home, CHECKPOINT)
        if resume_from is not None:
            path.write_bytes(resume_from)
        seen, done = _changed(path), False
        arguments: dict[str, Any] = {**paths, **outputs, **params}
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
