"""Tasks, and the reason why one is not fresh: what it reads, its parameters or its code changed.

A task is one stage for one dataset and preset (in training, also one fold). It works in a staging
folder; only when everything is written and checked are its files renamed into place, and last of
all its manifest, a small JSON file that records what they were made from. Content alone decides
what is stale, never a modification time.

Standard library only: every `digits STAGE` imports this module to see whether its task is due.
"""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline import endings, files, fingerprints
from pipeline.errors import ExternalError, UserError
from pipeline.files import Cache, fingerprint, read_json, write_json
from pipeline.task import Task, Work

# The fingerprints of files read before, kept beside the data.
STAT_CACHE = ".fingerprints.json"
# What a staging folder was started for; written there first.
ORIGIN = "origin.json"

# --- staleness ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Tells whether a task is fresh; if not, the reason, in words and as one of a few causes."""

    word: Literal["fresh", "missing", "stale", "waiting"]
    reason: str = ""
    cause: Literal["", "files", "inputs", "parameters", "code"] = ""

    @property
    def fresh(self) -> bool:
        """Check that the task's files are what a run from nothing would give."""
        return self.word == "fresh"


def states(tasks: Iterable[Task], cache: Cache | None = None) -> dict[str, State]:
    """Find the state of each task, by name; one that reads what is due, and may stay, waits.

        states(stages.load("sample", "demo").tasks)["split"].word  # "fresh"

    The tasks come in the order in which data flows. Without a cache, from `stat_cache`, every file
    is read.
    """
    found: dict[str, State] = {}
    due: dict[Path, str] = {}  # the files of tasks that are not fresh, and the tasks' names
    for task in tasks:
        state = _own_state(task, cache)
        if state.fresh and (makers := [due[path] for path in task.inputs if path in due]):
            state = State("waiting", f"for {makers[0]}, which may come out the same")
        if not state.fresh:
            due |= dict.fromkeys(task.writes.values(), task.name)
        found[task.name] = state
    return found


def first_due(tasks: list[Task]) -> str | None:
    """Say what is due first: "split is missing: it has not run yet"; None if nothing is."""
    with stat_cache(tasks[0].root) as cache:
        found = states(tasks, cache)
    due = (f"{name} is {it.word}: {it.reason}" for name, it in found.items() if not it.fresh)
    return next(due, None)


def require_fresh(tasks: list[Task], remedy: str) -> None:
    """Raise UserError, with the command that helps, if one of these tasks is not fresh."""
    if line := first_due(tasks):
        raise UserError(f"{line}; run `{remedy}` first")


def changed(digests: Mapping[str, str], root: Path, cache: Cache) -> Iterator[str]:
    """Name the files that are missing, or other than a manifest says."""
    for label, digest in digests.items():
        path = root / label
        if not path.exists() or fingerprint(path, cache) != digest:
            yield label


def damage(task: Task, cache: Cache | None = None) -> str | None:
    """Say why a task's files cannot be used as they are; None if they can."""
    manifest = read_json(task.manifest)
    if manifest is None:
        return "its manifest is damaged" if task.manifest.exists() else "it has not run yet"
    for path in task.writes.values():
        if not path.exists():
            return f"{task.label(path)} is missing"
        if manifest["outputs"].get(task.label(path)) != fingerprint(path, cache):
            return f"{task.label(path)} was changed after `{task.stage}` wrote it"
    return None


def _own_state(task: Task, cache: Cache | None) -> State:
    if wrong := damage(task, cache):
        return State("stale" if task.manifest.exists() else "missing", wrong, "files")
    manifest = read_json(task.manifest) or {}
    for path in task.inputs:
        # A missing input concerns the task that writes it.
        if path.exists() and manifest["inputs"].get(task.label(path)) != fingerprint(path, cache):
            return State("stale", f"its input {task.label(path)} has changed", "inputs")
    if manifest.get("names", task.names()) != task.names():
        return State("stale", "it reads or writes other files than before", "inputs")
    before, now = task.values(defaults=True) | manifest["params"], task.values()
    for key in sorted(now.keys() | before.keys()):
        if before.get(key) != now.get(key):
            old, new = json.dumps(before.get(key)), json.dumps(now.get(key))
            return State("stale", f"parameter {key} was {old} and is now {new}", "parameters")
    before, now = manifest["code"] if task.ages else {}, task.fingerprints()
    for file in [*now, *before]:
        if now.get(file) != before.get(file):
            return State("stale", f"the code in {file} has changed", "code")
    return State("fresh")


# --- running -----------------------------------------------------------------------------------


def run(
    task: Task,
    tasks: Iterable[Task],
    force: bool = False,
    work: Work | None = None,
    elsewhere: bool = False,
) -> bool:
    """Run a task if it is due, in its staging folder; return whether it ran.

        run(graph.task("split"), graph.tasks)  # True the first time, then False

    Args:
        task: the task.
        tasks: all tasks of the graph; the files of those that it reads from are checked first.
        force: run it even if it is fresh.
        work: called in place of the stage's function. Whatever it leaves in the staging folder
            when it is stopped is there when it is called again for the same inputs and code.
        elsewhere: `work` has another machine run the code, whose fingerprints it returns as "code".

    Raises:
        UserError: an input is missing or damaged, or changed while it was read.
        ExternalError: the disk is full, or something else outside failed.
    """
    with stat_cache(task.root) as cache, contextlib.ExitStack() as lock:
        refused = None
        try:
            lock.enter_context(_locked(task))
        except OSError as error:  # read-only, or another user's: fine if there is nothing to do
            refused = error
        state = _own_state(task, cache)
        if state.fresh and not force:
            _tidy(task)
            _say(f"{task.name}: fresh")
            return False
        if refused:
            raise refused
        check_inputs(task, tasks, cache)
        place = os.path.relpath(task.folder)
        _say(f"{task.name}: {state.reason or 'forced'}; writing to {place}/")
        try:
            if task.ages and not elsewhere:
                fingerprints.load(task.code, task.root)
            seconds = _run(task, work or task.work, cache)
        except OSError as error:  # the system reports a full disk without naming a file
            if isinstance(error, BrokenPipeError):  # nobody reads the output any more
                raise
            raise ExternalError(endings.explained(error, place)) from error
        _say(f"{task.name}: done in {seconds:.1f} s")
    return True


def _say(line: str) -> None:
    """Print a line in one piece: `print` writes its end apart, and threads would mix theirs."""
    print(f"{line}\n", end="", flush=True)


def _run(task: Task, work: Work, cache: Cache) -> float:
    """Run a task; return its seconds."""
    origin = _origin(task, cache)
    resumed = read_json(task.staging / ORIGIN) == origin
    if not resumed:
        _clear(task.staging)
        task.staging.mkdir(parents=True)
        write_json(task.staging / ORIGIN, origin)
    began = time.perf_counter()
    try:
        metadata = dict(work(task.staged()))
    except UserError:
        # Once the user has changed something, nothing in there is of use, and it may be gigabytes.
        # What an earlier run left is kept: it got further, perhaps on another machine.
        if not resumed:
            _clear(task.staging)
        raise
    # A fold trained on another machine reports its own time and code.
    metadata.setdefault("seconds", round(time.perf_counter() - began, 2))
    code = metadata.pop("code", origin["code"])
    outputs = {}
    for name, path in task.staged().items():
        files.flush(path)
        outputs[task.label(task.writes[name])] = fingerprint(path)
    for path in task.inputs:
        if not path.exists() or fingerprint(path, cache) != origin["inputs"][task.label(path)]:
            _clear(task.staging)
            raise UserError(f"{path} changed while {task.name} was reading it; nothing was written")
    for name, path in task.staged().items():
        path.replace(task.writes[name])
    write_json(task.manifest, origin | {"code": code, "outputs": outputs, "metadata": metadata})
    _tidy(task)
    return float(metadata["seconds"])


def _origin(task: Task, cache: Cache | None) -> dict[str, Any]:
    """Return what a run depends on, as in its manifest."""
    return {
        "stage": task.stage,
        "params": task.values(),
        "names": task.names(),
        "inputs": {task.label(path): fingerprint(path, cache) for path in task.inputs},
        "code": task.fingerprints(),
    }


def resumable(task: Task, cache: Cache | None = None) -> bool:
    """Check that the next run of a task continues from what an interrupted one left."""
    try:
        return read_json(task.staging / ORIGIN) == _origin(task, cache)
    except OSError:  # an input is missing
        return False


def check_inputs(task: Task, tasks: Iterable[Task], cache: Cache) -> None:
    """Raise UserError if a file that a task reads is missing, or is not what its stage wrote."""
    for maker in tasks:
        if not set(maker.writes.values()) & set(task.inputs):
            continue
        if damage(maker, cache) and maker.folder.exists():
            with _locked(maker):  # it may be about to be put in place
                pass
        if wrong := damage(maker, cache):
            raise UserError(
                f"{maker.name}: {wrong}; run `make {task.stage}` with the same DATASET and CONFIG, "
                f"which makes everything that {task.stage} needs"
            )
    for path in task.inputs:
        if not path.exists():
            raise UserError(f"{path} is missing")


def tidy(task: Task) -> None:
    """Remove what a killed run left of a fresh task, unless another process is at work there."""
    if task.staging.exists() and not holder(task):
        with _locked(task):
            _tidy(task)


def _tidy(task: Task) -> None:
    with contextlib.suppress(OSError):  # a read-only folder stays as it is
        files.remove_unfinished(task.folder)
        _clear(task.staging)


def _clear(staging: Path) -> None:
    # The origin first: if this is interrupted, half of the folder is not mistaken for all of it.
    (staging / ORIGIN).unlink(missing_ok=True)
    if staging.exists():
        shutil.rmtree(staging)


# --- manifests and locks -----------------------------------------------------------------------


def metadata(manifest: Path) -> dict[str, Any]:
    """Read what a stage's function returned from its manifest; empty if there is none."""
    found: dict[str, Any] = (read_json(manifest) or {}).get("metadata", {})
    return found


def add_metadata(task: Task, name: str, value: object, anew: bool = False) -> None:
    """Record one more value in a task's manifest; this makes nothing stale.

    With `anew`, record too that its files are what today's code and parameters give.
    """
    with _locked(task):
        manifest = read_json(task.manifest)
        assert manifest is not None
        manifest["metadata"][name] = value
        write_json(task.manifest, manifest | (_origin(task, None) if anew else {}))


@contextlib.contextmanager
def stat_cache(root: Path, trusted: bool = True) -> Iterator[Cache]:
    """Give the fingerprints remembered of files, unless not `trusted`; keep what is added."""
    path = root / "data" / STAT_CACHE
    before = read_json(path) or {}
    cache = dict(before) if trusted else {}
    fingerprints.remember(cache)
    yield cache
    if cache != before and path.parent.is_dir():
        kept = {name: known for name, known in cache.items() if Path(name).exists()}
        with contextlib.suppress(OSError):  # a read-only folder costs time, not correctness
            write_json(path, kept)


def holder(task: Task) -> str | None:
    """Find the number of the process that is running a task; None if none is."""
    try:
        with _lock_path(task).open() as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return _lock_path(task).read_text().strip() or "unknown"
    except OSError:  # no lock file, or a file system without locks
        pass
    return None


def _lock_path(task: Task) -> Path:
    return task.staging.with_suffix(".lock")


def _locked(task: Task) -> contextlib.AbstractContextManager[None]:
    return files.locked(_lock_path(task), task.name)
