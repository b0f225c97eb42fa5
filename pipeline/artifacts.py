"""Files that are complete or absent, and the reason why a task is stale.

A task is one stage for one dataset and preset (in training, also one fold): it reads named files
and writes named files. It works in a staging folder; only when everything is written and checked
are its files renamed into place, and last of all its manifest, a small JSON file that records what
they were made from. Content alone decides what is stale (fingerprints of inputs, parameters and
code against the manifest), never a modification time: `git checkout`, archives and backups set
those as they please.

Standard library only: every `digits STAGE` imports this module to see whether its task is due.
"""

import contextlib
import fcntl
import glob
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

from pipeline import code
from pipeline.errors import ExternalError, UserError, explained

# The fingerprints of files read before, kept beside the data.
STAT_CACHE = ".fingerprints.json"
# What a staging folder was started for; written there first.
ORIGIN = "origin.json"

# The files behind one name: a file; or one for every fold, by preset; or some of the user's own.
Files = Path | Mapping[str, Path | list[Path]]
Cache = dict[str, list[Any]]
# From the paths to write to, by name, to metadata for the manifest.
Work = Callable[[Mapping[str, Path]], Mapping[str, Any]]


@dataclass(frozen=True)
class Task:
    """One run of one stage: what it reads and writes, by name, and what else it depends on."""

    name: str  # what the user calls it, "train fold 2"
    stage: str  # the stage's name, "train"
    root: Path  # the project's folder; the paths in the manifest are relative to it
    manifest: Path  # the JSON file that is written last and completes the task
    function: str  # the stage's function, "pipeline.split:split" (see `work`)
    writes: Mapping[str, Path]  # all in the manifest's folder
    reads: Mapping[str, Files] = field(default_factory=dict)
    # The stage's own parameters: JSON values, or dataclasses of them.
    params: Mapping[str, Any] = field(default_factory=dict)
    # What counts as its code beside the function (see `code.fingerprints`): what a parameter names.
    code: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder that the task's files are in."""
        return self.manifest.parent

    @property
    def staging(self) -> Path:
        """The folder in which the files are written; it survives a kill, so that work resumes."""
        return self.folder / f".{self.manifest.stem}.partial"

    @property
    def inputs(self) -> list[Path]:
        """Every file that the task reads."""
        return [path for files in self.reads.values() for path in _flat(files)]

    def staged(self) -> dict[str, Path]:
        """The files that the task writes, by name, in its staging folder."""
        return {name: self.staging / path.name for name, path in self.writes.items()}

    def label(self, path: Path) -> str:
        """The name under which a manifest records a file: relative to the project if it can be."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name

    def values(self) -> dict[str, Any]:
        """The parameters under their names in the manifest, such as "fold" and "train.epochs"."""
        values: dict[str, Any] = {}
        for name, value in self.params.items():
            if is_dataclass(value) and not isinstance(value, type):
                table = type(value).__name__.lower()
                values |= {f"{table}.{key}": each for key, each in asdict(value).items()}
            else:
                values[name] = value
        return values

    def fingerprints(self) -> dict[str, str]:
        """The task's code, by file (see `code.fingerprints`)."""
        return code.fingerprints((self.function, *self.code), self.root)

    def work(self, writes: Mapping[str, Path], **more: Any) -> Mapping[str, Any]:
        """Call the function with `reads`, `params` and paths to write to, all by name."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        metadata: Mapping[str, Any] = function(**self.reads, **writes, **self.params, **more)
        return metadata


def _flat(files: Files | list[Path]) -> list[Path]:
    if isinstance(files, Mapping):
        return [path for group in files.values() for path in _flat(group)]
    return [files] if isinstance(files, Path) else files


# --- writing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` if the block succeeds.

    The bytes are on the disk before the rename, so that not even a power cut leaves a name
    without its content. If the block raises, the temporary file is removed and `path` is
    untouched. So is what a killed process left of the same file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    _remove_unfinished(path.parent, path.name)
    try:
        yield temporary
        _flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own digest, which reveals damage; atomically."""
    with atomic(path) as temporary:
        text = json.dumps({**value, "sha256": _digest(value)}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote to a file; None if there is no such file, or if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.pop("sha256", None) != _digest(value):
        return None
    return value


def _remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove the temporary files of dead processes: of one file, or of all in a folder."""
    for path in folder.glob(f".{glob.escape(name) or '*'}.*.tmp"):
        writer = re.search(r"\.(\d{1,9})(-\d+)?\.tmp$", path.name)
        if writer and not _alive(int(writer[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# --- fingerprints and manifests ----------------------------------------------------------------


def fingerprint(path: Path, cache: Cache | None = None) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path: the file.
        cache: from `stat_cache`. A file with the size, modification and change times and inode of
            an earlier reading is not read again. (A program cannot set the change time back, so
            neither a restored date nor a patched byte goes unnoticed.)

    Raises:
        FileNotFoundError: there is no such file.
    """
    stat = path.stat()
    identity = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    known = cache.get(str(path)) if cache is not None else None
    if isinstance(known, list) and len(known) == 5 and known[:4] == identity:
        return str(known[4])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that changed a moment ago may change again within one tick of the clock: forget it.
    if cache is not None and time.time_ns() - stat.st_ctime_ns > 100_000_000:
        cache[str(path)] = [*identity, digest]
    return digest


@contextlib.contextmanager
def stat_cache(root: Path, trusted: bool = True) -> Iterator[Cache]:
    """Give the remembered fingerprints of the files below `root`, and keep what is added to them.

    It is only a cache: if it is missing or damaged, files are read again.

    Args:
        root: the project's folder.
        trusted: False to start with none, and to forget those remembered.
    """
    path = root / "data" / STAT_CACHE
    before = read_json(path) or {}
    cache = dict(before) if trusted else {}
    yield cache
    if cache != before and path.parent.is_dir():
        kept = {name: known for name, known in cache.items() if Path(name).exists()}
        with contextlib.suppress(OSError):  # a read-only folder costs time, not correctness
            write_json(path, kept)


def metadata(manifest: Path) -> dict[str, Any]:
    """What a stage's function returned, from its manifest; empty if there is none."""
    found: dict[str, Any] = (read_json(manifest) or {}).get("metadata", {})
    return found


def add_metadata(task: Task, name: str, value: object) -> None:
    """Record one more value in a task's manifest; this makes nothing stale."""
    with _locked(task):
        manifest = read_json(task.manifest)
        assert manifest is not None
        manifest["metadata"][name] = value
        write_json(task.manifest, manifest)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


# --- staleness ---------------------------------------------------------------------------------


def staleness(tasks: Iterable[Task], cache: Cache | None = None) -> dict[str, str | None]:
    """For each task, by name, why it is due; None if it is fresh.

    Args:
        tasks: in the order in which data flows, as `stages.tasks` gives them.
        cache: from `stat_cache`; without it, every file is read.
    """
    reasons: dict[str, str | None] = {}
    stale_files: set[Path] = set()
    for task in tasks:
        waiting = [path for path in task.inputs if path in stale_files]
        reason = _own_staleness(task, cache)
        if reason is None and waiting:
            reason = f"its input {task.label(waiting[0])} will be rebuilt"
        if reason is not None:
            stale_files.update(task.writes.values())
        reasons[task.name] = reason
    return reasons


def require_fresh(tasks: list[Task], remedy: str) -> None:
    """Raise UserError, with the command that helps, if one of these tasks is due."""
    with stat_cache(tasks[0].root) as cache:
        reasons = staleness(tasks, cache)
    for name, reason in reasons.items():
        if reason:
            raise UserError(f"{name}: {reason}; run `{remedy}` first")


def damage(task: Task, cache: Cache | None = None) -> str | None:
    """Why a task's files cannot be used as they are; None if they can."""
    manifest = read_json(task.manifest)
    if manifest is not None:
        return _damage(task, manifest, cache)
    if task.manifest.exists():
        return f"the manifest of {task.name} is damaged"
    return f"{task.name} has not run yet"


def _own_staleness(task: Task, cache: Cache | None) -> str | None:
    manifest = read_json(task.manifest)
    if manifest is None:
        return "missing" if not task.manifest.exists() else "its manifest is damaged"
    wrong = _damage(task, manifest, cache)
    if wrong:
        return wrong
    for path in task.inputs:
        # A missing input concerns the task that writes it.
        if path.exists() and manifest["inputs"].get(task.label(path)) != fingerprint(path, cache):
            return f"its input {task.label(path)} has changed"
    if len(manifest["inputs"]) != len(task.inputs):
        return "it reads other files than before"
    values, before = task.values(), manifest["params"]
    for key in sorted(values.keys() | before.keys()):
        if before.get(key) != json.loads(json.dumps(values.get(key))):
            old, new = json.dumps(before.get(key)), json.dumps(values.get(key))
            return f"parameter {key} was {old} and is now {new}"
    now, known = task.fingerprints(), manifest["code"]
    changed = [file for file in [*now, *known] if now.get(file) != known.get(file)]
    return f"the code in {changed[0]} has changed" if changed else None


def _damage(task: Task, manifest: Mapping[str, Any], cache: Cache | None) -> str | None:
    for path in task.writes.values():
        if not path.exists():
            return f"{task.label(path)} is missing"
        if manifest["outputs"].get(task.label(path)) != fingerprint(path, cache):
            return f"{task.label(path)} is not the file that {task.stage} wrote"
    return None


# --- running -----------------------------------------------------------------------------------


def run(task: Task, tasks: Iterable[Task], force: bool = False, work: Work | None = None) -> bool:
    """Run a task if it is due, in its staging folder; then put its files and manifest in place.

    Says why it runs, where its files go and how long it took, or that it is fresh.

    Args:
        task: the task.
        tasks: all tasks of the graph; the files of those that it reads from are checked first.
        force: run it even if it is fresh.
        work: called in place of the stage's function, with the paths to write to, by name; returns
            metadata for the manifest. Whatever it leaves in the staging folder when it is stopped
            is still there when it is called again for the same inputs, parameters and code.

    Returns:
        Whether it ran.

    Raises:
        UserError: an input is missing or damaged, or changed while it was read.
        ExternalError: the disk is full, or something else outside failed.
    """
    with _locked(task), stat_cache(task.root) as cache:
        reason = _own_staleness(task, cache)
        if reason is None and not force:
            _tidy(task)
            _say(f"{task.name}: fresh")
            return False
        check_inputs(task, tasks, cache)
        place = os.path.relpath(task.folder)
        _say(f"{task.name}: {reason or 'forced'}; writing to {place}/")
        try:
            seconds = _run(task, work or task.work, cache)
        except BrokenPipeError:  # nobody reads the output any more
            raise
        except OSError as error:  # the system reports a full disk without naming a file
            raise ExternalError(explained(error, place)) from error
        _say(f"{task.name}: done in {seconds:.1f} s")
    return True


def _say(line: str) -> None:
    """Print a line in one piece: `print` writes its end apart, and threads would mix theirs."""
    print(f"{line}\n", end="", flush=True)


def _run(task: Task, work: Work, cache: Cache) -> float:
    """The run itself; returns its seconds."""
    origin = _origin(task, cache)
    inputs = origin["inputs"]
    resumed = _prepare(task.staging, origin)
    began = time.perf_counter()
    try:
        metadata = dict(work(task.staged()))
    except UserError:
        # Once the user has changed something, nothing in there is of use, and it may be gigabytes.
        # What an earlier run left is kept: it got further, perhaps on another machine.
        if not resumed:
            _clear(task.staging)
        raise
    # A fold trained on another machine reports its own time, without the wait for a place.
    metadata.setdefault("seconds", round(time.perf_counter() - began, 2))
    outputs = {}
    for name, path in task.staged().items():
        _flush(path)
        outputs[task.label(task.writes[name])] = fingerprint(path)
    for path in task.inputs:
        if not path.exists() or fingerprint(path, cache) != inputs[task.label(path)]:
            _clear(task.staging)
            raise UserError(f"{path} changed while {task.name} was reading it; nothing was written")
    for name, path in task.staged().items():
        path.replace(task.writes[name])
    write_json(task.manifest, {**origin, "outputs": outputs, "metadata": metadata})
    _tidy(task)
    return float(metadata["seconds"])


def _origin(task: Task, cache: Cache | None) -> dict[str, Any]:
    """What a run depends on, as in its manifest."""
    return {
        "stage": task.stage,
        "params": task.values(),
        "inputs": {task.label(path): fingerprint(path, cache) for path in task.inputs},
        "code": task.fingerprints(),
    }


def resumable(task: Task, cache: Cache | None = None) -> bool:
    """Whether the next run of a task continues from what an interrupted one left."""
    try:
        return task.staging.exists() and _continues(task.staging, _origin(task, cache))
    except OSError:  # an input is missing
        return False


def _continues(staging: Path, origin: Mapping[str, Any]) -> bool:
    return bool(read_json(staging / ORIGIN) == json.loads(json.dumps(origin)))


def check_inputs(task: Task, tasks: Iterable[Task], cache: Cache) -> None:
    """Raise UserError if a file that a task reads is missing, or is not what its stage wrote.

    Args:
        task: the task.
        tasks: all tasks of the graph.
        cache: from `stat_cache`.
    """
    for maker in tasks:
        if not set(maker.writes.values()) & set(task.inputs):
            continue
        wrong = damage(maker, cache)
        if wrong and maker.folder.exists():
            with _locked(maker):  # it may be about to be put in place
                wrong = damage(maker, cache)
        if wrong:
            raise UserError(
                f"{wrong}; run `make {task.stage}` with the same DATASET and CONFIG, which makes "
                f"everything that {task.stage} needs"
            )
    for path in task.inputs:
        if not path.exists():
            raise UserError(f"{path} is missing")


def _prepare(staging: Path, origin: Mapping[str, Any]) -> bool:
    """Keep what an interrupted run of the very same work left; clear anything else.

    Returns whether something was kept.
    """
    if staging.exists():
        if _continues(staging, origin):
            return True
        _clear(staging)
    staging.mkdir(parents=True)
    write_json(staging / ORIGIN, origin)
    return False


def _tidy(task: Task) -> None:
    """Remove what killed runs left: half-written files, and the staging folder of a fresh task."""
    with contextlib.suppress(OSError):  # a read-only folder stays as it is
        _remove_unfinished(task.folder)
        if task.staging.exists():
            _clear(task.staging)


def _clear(staging: Path) -> None:
    # The origin first: if this is interrupted, half of the folder is not mistaken for all of it.
    (staging / ORIGIN).unlink(missing_ok=True)
    shutil.rmtree(staging)


def holder(task: Task) -> str | None:
    """The number of the process that is running a task; None if none is."""
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
    return locked(_lock_path(task), task.name)


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock; wait if another process holds it, and say so.

    The lock is released when its process ends, however it ends. It does not keep the threads of one
    process apart. (A POSIX lock, because some network file systems lack flock.)

    Args:
        path: the lock file; its folder is created if necessary.
        name: what the lock is for, as the user calls it.

    Raises:
        ExternalError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "unknown"
            wait = f"{name}: waiting for process {holder}, which is running this step"
            print(wait, file=sys.stderr)
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            raise ExternalError(
                f"{path}: this file system cannot lock files ({error.strerror}); work in a folder "
                "on another disk"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
