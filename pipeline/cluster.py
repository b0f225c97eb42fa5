"""Folds on a Ray cluster: each is one task. What trains a fold knows nothing of it.

No file system is shared. The package, the arrays and the parameters go out with Ray; checkpoints
and results come back through it, and are put in place here, as if the fold had been trained here.
So a fold whose worker is lost goes on elsewhere after the last epoch that was heard of.
"""

import io
import json
import logging
import platform
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline import artifacts
from pipeline.artifacts import Step
from pipeline.config import Train
from pipeline.engines import Training, announced, await_all
from pipeline.errors import OutsideError, UserError
from pipeline.train import CHECKPOINT, DAMAGE, train

TRIES = 3  # of one fold in a row without an epoch more


def train_on_ray(
    trainings: list[Training], steps: list[Step], if_stale: bool, jobs: int, address: str | None
) -> None:
    """Train folds on a Ray cluster, all at a time that it has room for.

    Args:
        trainings: the folds.
        steps: all steps of the graph.
        if_stale: leave fresh folds alone.
        jobs: how many folds share a machine that has no GPU.
        address: the cluster's, as Ray takes it; None starts one here and ends it.

    Raises:
        UserError: Ray is not installed, or a fold's parameters have to be put right.
        OutsideError: there is no cluster at the address, or a fold failed too often.
    """
    ray = _connect(address)
    try:
        cluster = _Cluster(ray, trainings, jobs)
        with cluster.board, ThreadPoolExecutor(len(trainings)) as pool:
            futures = [
                pool.submit(
                    announced, each.step, steps, partial(cluster.train, training=each), if_stale
                )
                for each in trainings
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
            runtime_env={"py_modules": [str(artifacts.CODE)], "excludes": ["__pycache__"]},
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=False if not address else None,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        cluster = f"no Ray cluster answers at {address}" if address else "Ray cannot be started"
        raise OutsideError(f"{cluster}: {error}") from error
    return ray


def _check_address(address: str | None) -> None:
    """Raise OutsideError where nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise OutsideError(f"no Ray cluster answers at {address}: {error}") from error


class _Cluster:
    """What the threads that each wait for a fold have in common."""

    def __init__(self, ray: Any, trainings: list[Training], jobs: int) -> None:
        self.ray, self.jobs = ray, jobs
        self.cancelled = False
        self.running: list[Any] = []
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self.gpus = any(node.get("GPU") for node in nodes)
        # As many cores for a fold as it would have at home, or it would not fit anywhere.
        smallest = min((node["CPU"] for node in nodes if node.get("CPU")), default=1)
        self.cores = max(1, int(smallest) // jobs)
        self.files = {
            path: ray.put(np.fromfile(path, np.uint8))
            for path in {path for each in trainings for path in each.step.inputs}
            if path.exists()
        }
        self.board = Board()
        each = f"{trainings[0].params.devices} GPU" if self.gpus else f"{self.cores} CPU"
        print(f"Ray: {len(nodes)} node{'s' * (len(nodes) > 1)}, {each} for each fold", flush=True)

    def train(self, folder: Path, training: Training) -> dict[str, Any]:
        """Have a fold trained somewhere; its files and checkpoints end in `folder`."""
        name, tries, checkpoint = training.step.name, 0, folder / CHECKPOINT
        while True:
            before = _epochs(checkpoint)
            try:
                return self._receive(self._send(training, checkpoint), folder, training)
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None)
                if self.cancelled:
                    raise KeyboardInterrupt from error
                if isinstance(cause, UserError):
                    raise cause from error
                reached = _epochs(checkpoint)
                tries = 1 if reached > before else tries + 1
                first_sentence = str(cause or error).split(". ")[0].splitlines()[0]
                why = f"{type(cause or error).__name__}: {first_sentence}"
                if tries == TRIES:
                    raise OutsideError(
                        f"{name}: failed {TRIES} times in a row, at last with {why}; what is "
                        "finished is kept, and the same command goes on from here"
                    ) from error
                self.board.say(f"{name}: {why}; tried again after epoch {reached}")

    def _send(self, training: Training, checkpoint: Path) -> Any:
        inputs = training.step.inputs
        needs = {"num_gpus": training.params.devices} if self.gpus else {"num_cpus": self.cores}
        task = self.ray.remote(max_retries=0, **needs)(train_fold)
        stream = task.remote(
            [path.name for path in inputs],
            training.step.params["fold"],
            training.params,
            self.jobs,
            checkpoint.read_bytes() if checkpoint.exists() else None,
            *(self.files[path] for path in inputs),
        )
        self.running.append(stream)
        return stream

    def _receive(self, stream: Any, folder: Path, training: Training) -> dict[str, Any]:
        where: dict[str, Any] = {}
        for message in stream:
            kind, content = self.ray.get(message)
            if kind == "where":
                where = content
                self.board.show(training, [], where)
            elif kind == CHECKPOINT:
                with artifacts.atomic(folder / CHECKPOINT) as temporary:
                    temporary.write_bytes(content)
                self.board.show(training, _history(content), where)
            elif kind == "facts":
                self.board.say(
                    f"{training.step.name}: accuracy {content['held_out_accuracy']:.5f} on "
                    f"{content['held_out_rows']:,} held-out rows"
                )
                return {**content, "ray_node": where["ray_node"]}
            else:
                (folder / kind).write_bytes(content)
        raise OutsideError(f"{training.step.name}: the task ended without a result")

    def cancel(self) -> None:
        """End all tasks; what came back of them stays."""
        self.cancelled = True
        for stream in self.running:
            self.ray.cancel(stream, force=True)


def train_fold(
    names: list[str], fold: int, params: Train, jobs: int, checkpoint: bytes | None, *contents: Any
) -> Iterator[tuple[str, Any]]:
    """The task: train one fold in a folder that is thrown away; give everything that comes of it.

    Gives pairs: "where" with the node and devices, then the checkpoint's name and bytes whenever
    there is a new one, then the name and bytes of each file that `train` left, and at last "facts".

    Args:
        names: of the files that are needed.
        fold: the fold that is held out.
        params: the parameters of the training.
        jobs: how many tasks share the machine.
        checkpoint: the bytes of one to go on from.
        contents: of the files, uint8 (bytes,).
    """
    import ray

    began = time.perf_counter()
    context = ray.get_runtime_context()
    yield (
        "where",
        {"node": platform.node(), "ray_node": context.get_node_id(), "gpus": ray.get_gpu_ids()},
    )
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(1) as pool:
        tensors, folder = Path(home), Path(home, "fold")
        folder.mkdir()
        for name, content in zip(names, contents, strict=True):
            content.tofile(tensors / name)
        path = folder / CHECKPOINT
        if checkpoint is not None:
            path.write_bytes(checkpoint)
        training = pool.submit(train, folder, tensors, tensors / names[-1], fold, params, jobs=jobs)
        seen = path.stat().st_mtime_ns if path.exists() else 0
        while not wait([training], timeout=0.1).done:
            if path.exists() and path.stat().st_mtime_ns != seen:
                seen = path.stat().st_mtime_ns
                yield CHECKPOINT, path.read_bytes()
        facts = training.result()
        for file in sorted(folder.iterdir()):
            if file != path or path.stat().st_mtime_ns != seen:
                yield file.name, file.read_bytes()
        yield "facts", {**facts, "seconds": round(time.perf_counter() - began, 2)}


def _epochs(checkpoint: Path) -> int:
    try:
        return len(_history(checkpoint.read_bytes()))
    except DAMAGE:  # or there is none; it is the task that says so and begins anew
        return 0


def _history(checkpoint: bytes) -> list[dict[str, float]]:
    with np.load(io.BytesIO(checkpoint), allow_pickle=False) as arrays:
        history: list[dict[str, float]] = json.loads(str(arrays["state"]))["history"]
    return history


class Board:
    """One line a fold: where it is trained and how far it is. Off a terminal, a line an epoch."""

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

    def show(self, training: Training, history: list[dict[str, float]], where: Any) -> None:
        """Move a fold's line."""
        name, epochs = training.step.name, training.params.epochs
        gpus = ", ".join(f"GPU {gpu}" for gpu in where["gpus"]) or "CPU"
        place = f"{where['node']} ({where['ray_node'][:8]}), {gpus}"
        if name not in self.lines:
            self.lines[name] = self.bars.add_task(name, total=epochs, where=place)
        self.bars.update(self.lines[name], completed=len(history), where=place)
        if not self.live and history:
            row = history[-1]
            self.say(
                f"{name} on {place}, epoch {len(history)}/{epochs}: loss {row['loss']:.4f}, "
                f"accuracy {row['accuracy']:.4f}, held out: loss {row['val_loss']:.4f}, "
                f"accuracy {row['val_accuracy']:.4f}"
            )
        elif not self.live:
            self.say(f"{name} on {place}: begun")

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self.bars.console.print(line, highlight=False, soft_wrap=True)
