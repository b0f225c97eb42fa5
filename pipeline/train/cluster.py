"""Folds on a Ray cluster: each is one task of it. The code that trains a fold is not aware of it.

No file system is shared. The package, the arrays and the parameters go out with Ray; checkpoints
and results come back through it and are put in place here, as if the fold had been trained here. A
fold whose worker is lost resumes elsewhere, after the last epoch that came back.
"""

import logging
import platform
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline import artifacts
from pipeline.artifacts import Task
from pipeline.errors import ExternalError, UserError
from pipeline.train import checkpoint
from pipeline.train.checkpoint import CHECKPOINT
from pipeline.train.fold import train
from pipeline.train.local import await_all

PACKAGE = Path(artifacts.__file__).parent
ATTEMPTS = 3  # of one fold in a row, without another epoch


def train_on_ray(
    folds: list[Task], tasks: list[Task], force: bool, jobs: int, address: str | None
) -> None:
    """Train folds on a Ray cluster, as many at a time as it has room for.

    Args:
        folds: the folds.
        tasks: all tasks of the graph.
        force: train fresh folds too.
        jobs: how many folds share a machine that has no GPU.
        address: the cluster's, as Ray takes it; None starts one here and stops it afterwards.

    Raises:
        UserError: Ray is not installed, or a fold's parameters have to be fixed.
        ExternalError: there is no cluster at the address, or a fold failed too often.
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
        raise UserError("Ray is not installed: pip install 'digit-recognizer[ray]'") from error
    _check_address(address)
    try:
        ray.init(
            address=address or "local",
            runtime_env={"py_modules": [str(PACKAGE)], "excludes": ["__pycache__"]},
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if not address else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        cluster = f"no Ray cluster answers at {address}" if address else "Ray did not start"
        raise ExternalError(f"{cluster}: {error}") from error
    return ray


def _check_address(address: str | None) -> None:
    """Raise ExternalError where nothing listens: Ray itself would retry for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ExternalError(f"no Ray cluster answers at {address}: {error}") from error


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
        self.files = {
            path: ray.put(np.fromfile(path, np.uint8))
            for path in {path for task in folds for path in task.inputs}
            if path.exists()
        }
        self.board = Board()
        each = f"{folds[0].params['params'].devices} GPU" if self.gpus else f"{self.cores} CPU"
        print(f"Ray: {len(nodes)} node{'s' * (len(nodes) > 1)}, {each} for each fold", flush=True)

    def train(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Have a fold trained somewhere; put its files and checkpoints in their places."""
        name, attempts, path = task.name, 0, writes["weights"].with_name(CHECKPOINT)
        while True:
            before = _epochs(path)
            try:
                return self._receive(self._send(task, path), task, writes, path)
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if self.cancelled:
                    raise KeyboardInterrupt from error
                if isinstance(cause, UserError):
                    raise cause from error
                reached = _epochs(path)
                attempts = 1 if reached > before else attempts + 1
                first_sentence = str(cause or error).split(". ")[0].splitlines()[0]
                why = f"{type(cause or error).__name__}: {first_sentence}"
                if attempts == ATTEMPTS:
                    raise ExternalError(
                        f"{name}: failed {ATTEMPTS} times in a row, most recently with {why}; what "
                        "is finished is kept; run the same command again to continue from here"
                    ) from error
                self.board.print(f"{name}: {why}; trying again after epoch {reached}")

    def _send(self, task: Task, path: Path) -> Any:
        params = task.params["params"]
        needs = {"num_gpus": params.devices} if self.gpus else {"num_cpus": self.cores}
        remote = self.ray.remote(max_retries=0, **needs)(train_fold)
        files = {name: path for name, path in task.reads.items() if isinstance(path, Path)}
        stream = remote.remote(
            {name: path.name for name, path in files.items()},
            {name: path.name for name, path in task.writes.items()},
            dict(task.params),
            self.jobs,
            path.read_bytes() if path.exists() else None,
            *(self.files[path] for path in files.values()),
        )
        self.running.append(stream)
        return stream

    def _receive(
        self, stream: Any, task: Task, writes: Mapping[str, Path], path: Path
    ) -> dict[str, Any]:
        where: dict[str, Any] = {}
        for message in stream:
            kind, content = self.ray.get(message)
            if kind == "where":
                where = content
                self.board.show(task, [], where)
            elif kind == CHECKPOINT:
                with artifacts.atomic(path) as temporary:
                    temporary.write_bytes(content)
                self.board.show(task, checkpoint.history(content), where)
            elif kind == "metadata":
                self.board.print(
                    f"{task.name}: accuracy {content['held_out_accuracy']:.5f} on "
                    f"{content['held_out_rows']:,} held-out rows"
                )
                return {**content, "ray_node": where["ray_node"]}
            else:
                writes[kind].write_bytes(content)
        raise ExternalError(f"{task.name}: the Ray task ended without a result")

    def cancel(self) -> None:
        """End all Ray tasks; what came back from them stays."""
        self.cancelled = True
        for stream in self.running:
            self.ray.cancel(stream, force=True)


def train_fold(
    reads: Mapping[str, str],
    writes: Mapping[str, str],
    params: Mapping[str, Any],
    jobs: int,
    resume_from: bytes | None,
    *contents: Any,
) -> Iterator[tuple[str, Any]]:
    """The Ray task: train one fold in a temporary folder, and yield everything that comes of it.

    Yields pairs: "where" with the node and devices; the checkpoint's name and bytes whenever there
    is a new one; the name and bytes of each file that `train` writes; and last "metadata".

    Args:
        reads: the files to read, by their names as arguments of `train`.
        writes: the files to write, likewise.
        params: the other arguments of `train`.
        jobs: how many tasks share the machine.
        resume_from: the bytes of a checkpoint.
        contents: of the files to read, uint8 (bytes,).
    """
    import ray

    began = time.perf_counter()
    context = ray.get_runtime_context()
    yield (
        "where",
        {"node": platform.node(), "ray_node": context.get_node_id(), "gpus": ray.get_gpu_ids()},
    )
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        inputs = {name: Path(home, file) for name, file in reads.items()}
        for path, content in zip(inputs.values(), contents, strict=True):
            content.tofile(path)
        folder = Path(home, "fold")
        folder.mkdir()
        outputs = {name: folder / file for name, file in writes.items()}
        path = folder / CHECKPOINT
        if resume_from is not None:
            path.write_bytes(resume_from)
        future = pool.submit(train, **inputs, **outputs, **params, jobs=jobs)
        seen = path.stat().st_mtime_ns if path.exists() else 0
        while not wait([future], timeout=0.1).done:
            if path.exists() and path.stat().st_mtime_ns != seen:
                seen = path.stat().st_mtime_ns
                yield CHECKPOINT, path.read_bytes()
        metadata = future.result()
        if path.stat().st_mtime_ns != seen:
            yield CHECKPOINT, path.read_bytes()
        for name, output in outputs.items():
            yield name, output.read_bytes()
        yield "metadata", {**metadata, "seconds": round(time.perf_counter() - began, 2)}


def _epochs(path: Path) -> int:
    """The number of epochs that a checkpoint has behind it; 0 for none, or a damaged one."""
    try:
        return len(checkpoint.history(path.read_bytes()))
    except checkpoint.DAMAGE:
        return 0


class Board:
    """Where each fold is trained and how far it is: a line each; off a terminal, one per epoch."""

    def __init__(self) -> None:
        console = Console()
        self.live = console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[where]}"),
            console=console,
            disable=not self.live,
        )
        self.lines: dict[str, Any] = {}

    def __enter__(self) -> "Board":
        self.bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def show(self, task: Task, history: list[dict[str, float]], where: Any) -> None:
        """Update a fold's line."""
        name, epochs = task.name, task.params["params"].epochs
        gpus = ", ".join(f"GPU {gpu}" for gpu in where["gpus"]) or "CPU"
        place = f"{where['node']} ({where['ray_node'][:8]}), {gpus}"
        if name not in self.lines:
            self.lines[name] = self.bars.add_task(name, total=epochs, where=place)
        self.bars.update(self.lines[name], completed=len(history), where=place)
        if not self.live and history:
            row = history[-1]
            self.print(
                f"{name} on {place}, epoch {len(history)}/{epochs}: loss {row['loss']:.4f}, "
                f"accuracy {row['accuracy']:.4f}, held out: loss {row['val_loss']:.4f}, "
                f"accuracy {row['val_accuracy']:.4f}"
            )
        elif not self.live:
            self.print(f"{name} on {place}: started")

    def print(self, line: str) -> None:
        """Print a line above the bars."""
        self.bars.console.print(line, highlight=False, soft_wrap=True)
