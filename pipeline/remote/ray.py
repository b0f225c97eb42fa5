"""Folds on a Ray cluster, one Ray task each. The code that trains a fold is not aware of it.

No file system is shared. The package, the arrays and the parameters go out with Ray; checkpoints
and results come back through it and are put in place here, as if the fold had been trained here. A
fold whose worker is lost is sent again, with its last checkpoint.
"""

import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipeline import artifacts, files
from pipeline.endings import RESUMES, ending, ran_out
from pipeline.environment import CHECKPOINTS
from pipeline.errors import ExternalError, UserError
from pipeline.remote import node
from pipeline.task import Task
from pipeline.train import checkpoint
from pipeline.train.local import await_all, follow_the_parent
from pipeline.train.progress import Board
from pipeline.train.tensorboard import Events

ATTEMPTS = 3  # of one fold in a row, without another epoch
DEADLINE = 10  # seconds in which the address of a cluster has to answer
SILENCE = 10  # seconds that a fold may wait for a place before the reason is printed


class TokenError(UserError):
    """The cluster requires a token, which this process did not send."""


def train_on_ray(
    folds: list[Task], tasks: list[Task], force: bool, jobs: int, address: str | None, kind: str
) -> None:
    """Train folds on a Ray cluster, as many at a time as fit on it (see `engines.train_folds`).

    A process of its own is connected to Ray, which ends it a minute after the head is lost. It
    sends a token only in a second attempt: a cluster without one never answers a process that
    sends it, and a process cannot change its mind.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_prepare) as pool:
        try:
            pool.submit(_train, folds, tasks, force, jobs, address, kind).result()
        except TokenError:
            if "RAY_AUTH_MODE" in os.environ:
                raise
            pool.shutdown()
            os.environ["RAY_AUTH_MODE"] = "token"
            train_on_ray(folds, tasks, force, jobs, address, kind)
        except BrokenProcessPool as error:
            lost = f"the head of the Ray cluster at {address}" if address else "the Ray process"
            raise ExternalError(
                f"{lost} is lost, or memory ran out here; make sure that it runs, {RESUMES}"
            ) from error
        except KeyboardInterrupt:  # Ray cancels the tasks of a process that is killed
            for child in multiprocessing.active_children():
                child.kill()
            raise
        finally:
            Console().show_cursor(True)


def _prepare() -> None:
    """Leave Ctrl-C to the process that started this one, and keep Ray's own lines off the terminal.

    Ray's C++ writes to the second file descriptor, whatever Python's `sys.stderr` is.
    """
    follow_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not os.environ.get("DIGITS_DEBUG"):
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _train(
    folds: list[Task], tasks: list[Task], force: bool, jobs: int, address: str | None, kind: str
) -> None:
    """Train folds on a Ray cluster; each thread waits for one of them."""
    ray = connect(address)
    try:
        cluster = Cluster(ray, folds, jobs, kind)
        with cluster.board, ThreadPoolExecutor(len(folds)) as pool:
            run = partial(artifacts.run, tasks=tasks, force=force, elsewhere=True)
            await_all([pool.submit(run, task, work=partial(cluster.train, task)) for task in folds])
    except Exception as error:  # raised anew as a class that every process can import
        message, code = ending(error)
        if isinstance(error, ray.exceptions.RayError):
            message, code = f"Ray: {_why(error)}", 1
        raise (UserError if code == 2 else ExternalError)(message) from error
    finally:
        ray.shutdown()


def connect(address: str | None) -> Any:
    """Connect to a Ray cluster, or start one here; return the module `ray`."""
    if not find_spec("ray"):
        raise UserError("Ray is not installed: `make train ENGINE=ray` installs it")
    import ray

    try:
        if address and address not in ("auto", "local"):
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=DEADLINE).close()
            os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 20 by default, of 40 s each
        ray.init(
            address=address or "local",
            runtime_env=runtime_env(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except (ray.exceptions.AuthenticationError, OSError, RuntimeError, ValueError) as error:
        why = " ".join(f"{type(error).__name__} {error} {error.__cause__ or ''}".split())
        if "AuthenticationError" in why:
            found = "none" if "no authentication token was found" in why else "another one"
            raise TokenError(
                f"the Ray cluster at {address} requires its token, and {found} was found here; "
                "copy ~/.ray/auth_token from its head to the same place here, or set "
                "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
            ) from error
        if "Version mismatch" in why:
            raise UserError(f"{address}: {why}; install the same versions on both") from error
        if not address:
            raise ExternalError(f"Ray did not start: {error}") from error
        raise ExternalError(
            f"no Ray cluster answers at {address}: {error}; run the command on a node of the "
            "cluster, with its head's host:6379 or with auto (ray:// does not work)"
        ) from error
    return ray


def runtime_env() -> dict[str, Any]:
    """Return the runtime_env of the tasks: this package, and what RAY_RUNTIME_ENV's file adds."""
    ours = {"py_modules": [str(Path(artifacts.__file__).parent)], "excludes": ["__pycache__"]}
    if not (name := os.environ.get("RAY_RUNTIME_ENV")):
        return ours
    import yaml  # comes with Ray

    try:
        theirs = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
        if not isinstance(theirs, dict) or theirs.keys() & ours.keys():
            raise ValueError(f"it must have keys such as pip, but not {' and '.join(ours)}")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"RAY_RUNTIME_ENV: {name} is no runtime_env in YAML: {error}") from error
    return theirs | ours


class Cluster:
    """Trains folds; the threads that each wait for one share its nodes, arrays and bars."""

    def __init__(self, ray: Any, folds: list[Task], jobs: int, accelerator: str) -> None:
        self.ray, self.accelerator, self.board = ray, accelerator, Board()
        self.unfit: set[str] = set()  # nodes that lack packages, by Ray's numbers
        self.places: dict[str, dict[str, Any]] = {}  # where folds are trained, by their names
        self.said, self.lock = set[str](), threading.Lock()
        nodes = self.nodes().values()
        some = any(each.get("GPU") for each in nodes)
        self.gpus = some if accelerator == "auto" else accelerator != "none"
        # As many cores for a fold as it would have locally, but no more than fit on every node.
        self.cores = max(1, int(min((each.get("CPU", 1) for each in nodes), default=1)) // jobs)
        nodes_have = f"{len(nodes)} node{'s' if len(nodes) != 1 else ''}"
        print(f"Ray: {nodes_have}, {_words(**self.needs(folds[0]))} for each fold", flush=True)
        paths = {path for task in folds for path in task.inputs if path.exists()}
        self.files = {path: ray.put(np.fromfile(path, np.uint8)) for path in paths}

    def nodes(self) -> dict[str, Mapping[str, float]]:
        """Return the resources of the nodes that may get folds, by Ray's numbers."""
        return {
            each["NodeID"]: each["Resources"]
            for each in self.ray.nodes()
            if each["Alive"] and each["Resources"].keys() & {"CPU", "GPU"}
            if each["NodeID"] not in self.unfit
        }

    def needs(self, task: Task) -> dict[str, Any]:
        """Return what a fold asks for, as Ray's options."""
        if not self.gpus:
            return {"num_cpus": self.cores}
        kind = {} if self.accelerator in ("auto", "gpu") else {"accelerator_type": self.accelerator}
        return {"num_cpus": 1, "num_gpus": task.preset.train.devices, **kind}

    def train(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Have a fold trained on some node, again and again until it is; return its metadata."""
        folder = writes["weights"].parent
        attempts, failed_on = 0, set[str]()
        while True:
            before = _epochs(folder)
            try:
                return self.receive(self.send(task, folder, failed_on), task, writes)
            except self.ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error  # what was raised in the task
            finally:
                where = self.places.pop(task.name, None)
            on = f" on {where['node']} ({where['ray_node'][:8]})" if where else ""
            if where:
                failed_on.add(where["ray_node"])
                if isinstance(cause, ImportError) and not ran_out(cause):
                    self.unfit.add(where["ray_node"])
                    line = (
                        f"Ray: {cause}{on}, which gets no more folds; install requirements.lock "
                        "there, or name a runtime_env in RAY_RUNTIME_ENV"
                    )
                    if not self.nodes():
                        raise UserError(line)
                    self.say_once(line)
                    continue
            if not retryable(cause):
                raise cause
            reached = _epochs(folder)
            attempts = 1 if reached > before else attempts + 1
            if attempts == ATTEMPTS:
                raise ExternalError(
                    f"{task.name}: failed {ATTEMPTS} times in a row without another epoch, "
                    f"most recently with {_why(cause)}; fix that, {RESUMES}"
                )
            self.board.print(f"{task.name}: {_why(cause)}{on}; trying again after epoch {reached}")

    def send(self, task: Task, folder: Path, failed_on: set[str]) -> Any:
        """Start the Ray task of a fold, with the checkpoints in a folder; return its stream."""
        avoided = self.unfit | (failed_on if self.nodes().keys() - failed_on else set())
        labels = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"} if avoided else None
        remote = self.ray.remote(
            # "default/fold-3", without the dataset.
            name="/".join(task.folder.relative_to(task.root / "data").parts[1:]),
            max_retries=0,  # Ray would send the first checkpoint again
            label_selector=labels,
            **self.needs(task),
        )(node.train_fold)
        return remote.remote(
            task,
            {name: self.files[path] for name, path in zip(task.reads, task.inputs, strict=True)},
            0 if self.gpus else self.cores,
            {path.name: path.read_bytes() for path in folder.glob(CHECKPOINTS)},
        )

    def receive(self, stream: Any, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Write the files that a Ray task yields; return its metadata."""
        while not self.ray.wait([stream], timeout=SILENCE)[0]:
            self.explain_the_wait(task)
        folder = writes["weights"].parent
        written = 0
        events = Events(task.folder, resumed=any(folder.glob(CHECKPOINTS)))
        for message in stream:
            name, content = self.ray.get(message)
            if name == "metadata":
                self.board.print(
                    f"{task.name}: accuracy {content['held_out_accuracy']:.5f} on "
                    f"{content['held_out_rows']:,} held-out rows"
                )
                return dict(content)
            if name == "where":
                self.places[task.name] = content
                self.board.show(task, [], content)
                continue
            path = writes.get(name) or folder / name
            with files.atomic(path) as temporary:
                temporary.write_bytes(content)
            if path.match(CHECKPOINTS):
                rows = checkpoint.history(path)
                checkpoint.write_history(writes["history"], rows)
                events.add(rows[written:])
                written = len(rows)
                self.board.show(task, rows, self.places[task.name])
        raise ExternalError(f"{task.name}: the Ray task ended without a result")

    def explain_the_wait(self, task: Task) -> None:
        """Say what a fold waits for, unless it only waits for others to end."""
        if not self.places:
            there = self.ray.cluster_resources()
            self.say_once(
                f"Ray: a fold waits for {_words(**self.needs(task))} on one node; all nodes have "
                f"{_words(there.get('CPU', 0), there.get('GPU', 0))}; it starts when a node has "
                "room and is ready (an autoscaling cluster may add one)"
            )

    def say_once(self, line: str) -> None:
        """Print a line, unless the thread of another fold has."""
        with self.lock:
            if line not in self.said:
                self.said.add(line)
                self.board.print(line)


def _epochs(folder: Path) -> int:
    """Count the epochs in the checkpoints of a folder."""
    return sum(len(checkpoint.history(path)) for path in folder.glob(CHECKPOINTS))


def _words(num_cpus: float, num_gpus: float = 0, accelerator_type: str = "") -> str:
    """Return resources in words, such as "2 CPU and 1 GPU of the type T4"."""
    gpus = f" and {num_gpus:g} GPU" if num_gpus else ""
    return f"{num_cpus:g} CPU{gpus}{accelerator_type and f' of the type {accelerator_type}'}"


def _why(cause: Exception) -> str:
    """Return the class of an error and the sentence that says most."""
    lines = str(cause).strip().splitlines() or [""]
    setup = type(cause).__name__ == "RuntimeEnvSetupError"
    return f"{type(cause).__name__}: {lines[-1] if setup else lines[0].partition('. ')[0]}"


def retryable(cause: Exception) -> bool:
    """Return whether a worker, a node or memory was lost, and nothing was wrong in the code."""
    from ray import exceptions as ray

    wrong = (ray.RayTaskError, ray.RuntimeEnvSetupError)
    return (isinstance(cause, ray.RayError) and not isinstance(cause, wrong)) or ran_out(cause)
