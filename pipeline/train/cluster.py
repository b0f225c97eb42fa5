"""Folds on a Ray cluster: each is one task of it. The code that trains a fold is not aware of it.

No file system is shared. The package, the arrays and the parameters go out with Ray; checkpoints
and results come back through it and are put in place here, as if the fold had been trained here. A
fold whose worker is lost resumes elsewhere, after the last epoch that came back.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from pipeline import artifacts
from pipeline.artifacts import Task
from pipeline.config import Train
from pipeline.endings import ending, ran_out
from pipeline.errors import ExternalError, UserError
from pipeline.train import checkpoint, node
from pipeline.train.checkpoint import CHECKPOINT
from pipeline.train.connection import NoClusterError, connect
from pipeline.train.local import await_all, follow_the_parent
from pipeline.train.progress import Board
from pipeline.train.tensorboard import Events

ATTEMPTS = 3  # of one fold in a row, without another epoch
PROBE = 120  # seconds in which a node has to say what is installed there
GRACE = 10  # seconds to cancel the tasks in after Ctrl-C
RETURN = 600  # seconds in which a lost head may come back
SILENCE = 10  # seconds that a fold may wait for a place before the reason is printed


def train_on_ray(
    folds: list[Task],
    tasks: list[Task],
    force: bool,
    jobs: int,
    address: str | None,
    accelerator: str,
) -> None:
    """Train folds on a Ray cluster, as many at a time as fit on it (see `engines.train_folds`).

    A minute after the head is lost, Ray ends the process that is connected to it. This is one of
    its own, and another takes its place once a head answers at the address again.

    Raises:
        UserError: Ray is not installed here, packages are missing on all nodes, the address is not
            that of a cluster, or a fold's parameters have to be fixed.
        ExternalError: nothing answers at the address, or a fold failed too often.
    """
    before = {task.name: _written(task) for task in folds}
    lost, reached, idle = 0.0, (-1, -1), 0
    while due := [task for task in folds if _written(task) == before[task.name]]:
        try:
            _in_a_process(due, tasks, force, jobs, address, accelerator)
            break
        except BrokenProcessPool as error:
            epochs = sum(len(checkpoint.history(task.staging / CHECKPOINT)) for task in due)
            now = (len(folds) - len(due), epochs)
            idle = 1 if now != reached else idle + 1
            if not address or idle == ATTEMPTS:
                raise ExternalError(
                    "the process that was connected to Ray was killed, perhaps because memory ran "
                    "out; run the same command again to continue from here"
                ) from error
            lost, reached = time.monotonic(), now
            Console().show_cursor(True)
            print(
                f"the head of the Ray cluster at {address} is lost; waiting up to {RETURN // 60} "
                "minutes until one answers there; the folds go on from their checkpoints",
                flush=True,
            )
        except NoClusterError:
            if not lost or time.monotonic() - lost > RETURN:
                raise
            time.sleep(5)


def _written(task: Task) -> int:
    """When a task's manifest was written, in nanoseconds; 0 without one."""
    return task.manifest.stat().st_mtime_ns if task.manifest.exists() else 0


def _in_a_process(*arguments: Any) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn, initializer=_prepare) as pool:
        future = pool.submit(_drive, *arguments)
        try:
            future.result()
        except KeyboardInterrupt:
            children = multiprocessing.active_children()
            for child in children:
                child.terminate()
            wait([future], GRACE)  # without a head, Ray may not answer
            for child in children:
                child.kill()
            raise


def _prepare() -> None:
    """Leave Ctrl-C to the process that started this one, and keep Ray's own lines off the terminal.

    Ray's C++ writes to the second file descriptor, whatever Python's `sys.stderr` is.
    """
    follow_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not os.environ.get("DIGITS_DEBUG"):
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _drive(
    folds: list[Task],
    tasks: list[Task],
    force: bool,
    jobs: int,
    address: str | None,
    accelerator: str,
) -> None:
    """Train folds on a Ray cluster, in a process that may be lost with its head."""
    try:
        ray = connect(address)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray has set its own
        try:
            cluster = _Cluster(ray, folds, jobs, accelerator)
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
    except (UserError, ExternalError):
        raise
    except Exception as error:  # of a class that the other process may not be able to import
        message, code = ending(error)
        raise (UserError if code == 2 else ExternalError)(message) from error


class _Cluster:
    """What the threads that each wait for a fold share."""

    def __init__(self, ray: Any, folds: list[Task], jobs: int, accelerator: str) -> None:
        self.ray, self.accelerator = ray, accelerator
        self.cancelled = False
        self.streams: list[Any] = []
        # Nodes on which nothing is trained, by their numbers, and the reason.
        self.unfit: dict[str, str] = {}
        self.compared: set[str] = set()
        self.lock, self.placed = threading.Lock(), 0
        self.said, self.say_again = "", 0.0
        nodes = self._nodes()
        self.gpus = accelerator != "none" and (
            accelerator != "auto" or any(each["Resources"].get("GPU") for each in nodes)
        )
        # As many cores for a fold as it would have locally, but no more than fit on every node.
        smallest = min((each["Resources"].get("CPU", 1) for each in nodes), default=1)
        self.cores = max(1, int(smallest) // jobs)
        self.board = Board()
        each = _words(self._needs(folds[0].params["params"]))
        print(f"Ray: {len(nodes)} node{'s' * (len(nodes) != 1)}, {each} for each fold", flush=True)
        self._probe(nodes)
        paths = {path for task in folds for path in task.inputs if path.exists()}
        self.files = {path: ray.put(np.fromfile(path, np.uint8)) for path in paths}

    # --- nodes ------------------------------------------------------------------------------------

    def _nodes(self) -> list[Any]:
        """The living nodes that offer cores or GPUs, as Ray describes them."""
        return [
            each
            for each in self.ray.nodes()
            if each["Alive"] and each["Resources"].keys() & {"CPU", "GPU"}
        ]

    def _probe(self, nodes: list[Any]) -> None:
        """Have every node import what a fold needs, and compare its versions with these here."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        task = self.ray.remote(num_cpus=0, max_retries=0, name="probe")(node.probe)
        probes = {}
        for each in nodes:
            there = NodeAffinitySchedulingStrategy(each["NodeID"], soft=False)
            probes[task.options(scheduling_strategy=there).remote()] = each
        done, late = self.ray.wait(list(probes), num_returns=len(probes), timeout=PROBE)
        for answer in late:
            print(f"Ray: node {_name(probes[answer])} is not ready after {PROBE} s", flush=True)
        unfit: dict[str, set[str]] = defaultdict(set)
        for answer in done:
            each = probes[answer]
            try:
                self._compare(each["NodeID"], self.ray.get(answer))
            except self.ray.exceptions.RayError as error:
                cause = _cause(error)
                if not _lacks_packages(cause) and not isinstance(
                    cause, self.ray.exceptions.RayError
                ):
                    raise cause from error  # the code itself is wrong
                unfit[_why(error)].add(each["NodeID"])
        for why, there in unfit.items():
            self._set_aside(there, why)

    def _compare(self, ray_node: str, theirs: Mapping[str, str]) -> None:
        """Say, once for each node, what is installed there in another version than here."""
        ours = node.versions()
        differs = [f"{key} {theirs[key]}" for key in ours if theirs[key] != ours[key]]
        with self.lock:
            new = ray_node not in self.compared
            self.compared.add(ray_node)
        if differs and new:
            here = ", ".join(f"{key} {ours[key]}" for key in ours if theirs[key] != ours[key])
            self.board.print(
                f"Ray: node {self._named(ray_node)} has {', '.join(differs)}, this environment "
                f"{here}: the bytes of its folds may differ"
            )

    def _set_aside(self, ray_nodes: set[str], why: str) -> None:
        """Train nothing on some nodes; raise UserError if there is no other node."""
        remedy = (
            "; install the packages of this environment there: pip install -r requirements.lock, "
            "or name a runtime_env in RAY_RUNTIME_ENV"
        ) * (not why.startswith("RuntimeEnvSetupError"))
        with self.lock:
            names = ", ".join(sorted(map(self._named, ray_nodes)))
            new = ray_nodes - self.unfit.keys()
            self.unfit |= dict.fromkeys(ray_nodes, why)
        if all(each["NodeID"] in self.unfit for each in self._nodes()):
            raise UserError(f"{why} on node {names}{remedy}")
        if new:
            self.board.print(f"Ray: {why} on node {names}, which gets no folds{remedy}")

    def _named(self, ray_node: str) -> str:
        return next((_name(e) for e in self.ray.nodes() if e["NodeID"] == ray_node), ray_node[:8])

    # --- places -----------------------------------------------------------------------------------

    def _needs(self, params: Train) -> dict[str, float]:
        """What a fold asks for, as Ray's resources."""
        if not self.gpus:
            return {"CPU": self.cores}
        kind = self.accelerator
        known = {} if kind in ("auto", "gpu") else {f"accelerator_type:{kind}": 0.001}
        return {"CPU": 1, "GPU": params.devices, **known}

    def _explain_the_wait(self, task: Task) -> None:
        """Say why a fold has no place, unless it only waits for other folds to end."""
        needs = self._needs(task.preset.train)
        nodes = [each for each in self._nodes() if each["NodeID"] not in self.unfit]
        offers = [each["Resources"] for each in nodes]
        fits = any(all(its.get(k, 0) >= v for k, v in needs.items()) for its in offers)
        total: Counter[str] = Counter()
        for its in offers:
            total.update({key: its[key] for key in its.keys() & {*needs, "CPU", "GPU"}})
        free = self.ray.available_resources()
        room = _words({key: free.get(key, 0) for key in total})
        prospect = (
            f"free: {room}; it starts when there is room and the node is ready"
            if fits
            else "no node has as much; it starts once one joins (an autoscaling cluster may add it)"
        )
        nodes_have = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
        nodes_have += f": {_words(total)}" * bool(total)
        with self.lock:
            situation = f"{fits}, {nodes_have}"
            now = time.monotonic()
            if (fits and self.placed) or (situation == self.said and now < self.say_again):
                return
            self.said, self.say_again = situation, now + 300
        self.board.print(f"{task.name} waits for {_words(needs)} on {nodes_have}; {prospect}")

    # --- folds ------------------------------------------------------------------------------------

    def train(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Have a fold trained somewhere; put its files and checkpoints in their places."""
        name, attempts, spent, path = task.name, 0, 0.0, writes["weights"].with_name(CHECKPOINT)
        failed_on: set[str] = set()
        while True:
            before, where = len(checkpoint.history(path)), dict[str, Any]()
            try:
                stream = self._send(task, path, failed_on)
                metadata = self._receive(stream, task, {**writes, CHECKPOINT: path}, where)
                return metadata | {"seconds": round(metadata["seconds"] + spent, 2)}
            except self.ray.exceptions.RayError as error:
                if self.cancelled:
                    raise KeyboardInterrupt from error
                cause, why = _cause(error), _why(error)
                lacking = _lacks_packages(cause)
                if not lacking and not _retryable(cause):
                    if isinstance(cause, self.ray.exceptions.RayError):
                        raise ExternalError(f"{name}: {why}") from error
                    raise cause from error
                if where:
                    spent += time.monotonic() - where["since"]
                    failed_on.add(where["ray_node"])
                if lacking:
                    self._set_aside(self._where(error, where), why)
                    continue
                reached = len(checkpoint.history(path))
                attempts = 1 if reached > before else attempts + 1
                if attempts == ATTEMPTS:
                    raise ExternalError(
                        f"{name}: failed {ATTEMPTS} times in a row, most recently with {why}; what "
                        "is finished is kept; run the same command again to continue from here"
                    ) from error
                place = f" on {self._named(where['ray_node'])}" if where else ""
                self.board.print(f"{name}: {why}{place}; trying again after epoch {reached}")

    def _where(self, error: Exception, where: Mapping[str, Any]) -> set[str]:
        """The node on which a task failed; all nodes of its machine if it could not even begin."""
        if where:
            return {where["ray_node"]}
        address = getattr(error, "ip", None)
        return {each["NodeID"] for each in self._nodes() if each["NodeManagerAddress"] == address}

    def _send(self, task: Task, path: Path, failed_on: set[str]) -> Any:
        """Start the Ray task of a fold, from its checkpoint if there is one; return its stream."""
        needs = self._needs(task.preset.train)
        kinds = [key.partition(":")[2] for key in needs if key.startswith("accelerator_type:")]
        options: dict[str, Any] = {"accelerator_type": kinds[0]} if kinds else {}
        alive = {each["NodeID"] for each in self._nodes()}
        avoided = alive & self.unfit.keys()
        if alive - avoided - failed_on:
            avoided |= alive & failed_on
        if avoided:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(avoided))})"}
        # "sample/default/fold-3", without the dataset.
        name = "/".join(task.folder.relative_to(task.root / "data").parts[1:])
        stream = self.ray.remote(
            name=name,
            max_retries=0,
            num_cpus=needs["CPU"],
            num_gpus=needs.get("GPU", 0),
            **options,
        )(node.train_fold).remote(
            {name: path.name for name, path in task.writes.items()},
            task.params,
            0 if self.gpus else self.cores,
            path.read_bytes() if path.exists() else None,
            **{name: self.files[path] for name, path in zip(task.reads, task.inputs, strict=True)},
        )
        self.streams.append(stream)
        return stream

    def _receive(
        self, stream: Any, task: Task, files: Mapping[str, Path], where: dict[str, Any]
    ) -> dict[str, Any]:
        """Write the files that a Ray task yields; return its metadata. Fills in `where` it runs."""
        while not self.ray.wait([stream], timeout=SILENCE)[0]:
            self._explain_the_wait(task)
        with self.lock:
            self.placed += 1
        try:
            return self._write(stream, task, files, where)
        finally:
            with self.lock:
                self.placed -= 1

    def _write(
        self, stream: Any, task: Task, files: Mapping[str, Path], where: dict[str, Any]
    ) -> dict[str, Any]:
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
                where |= {**content, "since": time.monotonic()}
                self._compare(where["ray_node"], where["versions"])
                self.board.show(task, [], where)
                continue
            with files.atomic(files[name]) as temporary:
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
        for stream in self.streams:
            self.ray.cancel(stream, force=True)


def _name(ray_node: Mapping[str, Any]) -> str:
    """A node as the user knows it, with the first digits of Ray's number for it."""
    return f"{ray_node['NodeManagerHostname']} ({ray_node['NodeID'][:8]})"


def _words(resources: Mapping[str, float]) -> str:
    """Ray's resources, such as "2 CPU and 1 GPU"."""
    kinds = [key.partition(":")[2] for key in resources if key.startswith("accelerator_type:")]
    counts = [f"{resources[key]:g} {key}" for key in ("CPU", "GPU") if key in resources]
    return " and ".join(counts) + "".join(f" of the type {kind}" for kind in kinds)


def _cause(error: Exception) -> Exception:
    """What a Ray task ended with: the exception that was raised in it, or else Ray's own."""
    return getattr(error, "cause", None) or error


def _why(error: Exception) -> str:
    """Kind and first sentence of the error that a Ray task ended with."""
    cause = _cause(error)
    if lacking := _lacks_packages(cause):
        return lacking
    text = str(cause).strip()
    if type(cause).__name__ == "RuntimeEnvSetupError":  # it ends with the reason
        return f"RuntimeEnvSetupError: {text.splitlines()[-1]}"
    first_sentence = text.split(". ")[0].partition("\n")[0]
    return f"{type(cause).__name__}: {first_sentence}"


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


def _lacks_packages(cause: Exception) -> str:
    """What could not be imported on a node, in the task or before it could begin; "" if all was."""
    # If the task itself cannot be imported, Ray raises an error that ends with the traceback.
    last_line = str(cause).strip().rpartition("\n")[2]
    kind, _, why = last_line.rpartition("Error: ")
    named = isinstance(cause, ImportError) or kind in ("ModuleNotFound", "Import")
    return (why or last_line) if named and not ran_out(cause) else ""
