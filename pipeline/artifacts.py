"""Tasks, and the reason why one is not fresh: what it reads, its parameters or its code changed.

A task is one stage for one dataset and preset (in training, also one fold): it reads named files
and writes named files. It works in a staging folder; only when everything is written and checked
are its files renamed into place, and last of all its manifest, a small JSON file that records what
they were made from. Content alone decides what is stale, never a modification time: `git checkout`,
archives and backups set those as they please.

Standard library only: every `digits STAGE` imports this module to see whether its task is due.
"""

import contextlib
import dataclasses
import fcntl
import importlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline import endings, files, fingerprints
from pipeline.errors import ExternalError, UserError
from pipeline.files import Cache, fingerprint, read_json, write_json

if TYPE_CHECKING:
    from pipeline.config import Preset

# The fingerprints of files read before, kept beside the data.
STAT_CACHE = ".fingerprints.json"
# What a staging folder was started for; written there first.
ORIGIN = "origin.json"

# The files behind one name: a file; or one for every fold, by preset; or some of the user's own.
Files = Path | Mapping[str, Path | list[Path]]
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
    preset: "Preset"  # in training, the member of the ensemble
    fold: int  # 0 in a stage that does not run per fold
    writes: Mapping[str, Path]  # all in the manifest's folder
    reads: Mapping[str, Files] = field(default_factory=dict)
    # The stage's own parameters: JSON values, or dataclasses of them.
    params: Mapping[str, Any] = field(default_factory=dict)
    # By the function's arguments, the names of modules that a parameter chooses.
    modules: Mapping[str, str] = field(default_factory=dict)
    ages: bool = True  # whether a change of its code makes it stale

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
        return [path for group in self.reads.values() for path in _flat(group)]

    @property
    def code(self) -> list[str]:
        """The names of the modules whose code, with what they import, the task executes."""
        return [self.function.partition(":")[0], *self.modules.values()]

    def staged(self) -> dict[str, Path]:
        """Return the paths that the task writes to, by name, in its staging folder."""
        return {name: self.staging / path.name for name, path in self.writes.items()}

    def label(self, path: Path) -> str:
        """Return the name by which a manifest calls a file: relative to the project if it can."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name

    def names(self) -> dict[str, Any]:
        """Return the names under which the task reads and writes its files."""

        def labels(group: Any) -> Any:
            if isinstance(group, Mapping):
                return {name: labels(each) for name, each in group.items()}
            return [self.label(p) for p in group] if isinstance(group, list) else self.label(group)

        return {"reads": labels(self.reads), "writes": labels(self.writes)}

    def values(self) -> dict[str, Any]:
        """Return the parameters by their names in the manifest, such as "train.epochs"."""
        values: dict[str, Any] = {}
        for name, value in self.params.items():
            values |= _table(value) if is_dataclass(value) else {name: value}
        return dict(json.loads(json.dumps(values)))

    def fingerprints(self) -> dict[str, str]:
        """Fingerprint the task's code, by file (see `fingerprints.fingerprints`)."""
        return fingerprints.fingerprints(self.code, self.root) if self.ages else {}

    def work(self, writes: Mapping[str, Path], **more: Any) -> Mapping[str, Any]:
        """Call the function with `reads`, `params`, `modules` and paths to write to, by name."""
        module, _, name = self.function.partition(":")
        function = getattr(importlib.import_module(module), name)
        chosen = {key: importlib.import_module(each) for key, each in self.modules.items()}
        metadata: Mapping[str, Any] = function(
            **self.reads, **writes, **self.params, **chosen, **more
        )
        return metadata


def _flat(group: Files | list[Path]) -> list[Path]:
    if isinstance(group, Mapping):
        return [path for each in group.values() for path in _flat(each)]
    return [group] if isinstance(group, Path) else group


def _table(value: Any) -> dict[str, Any]:
    """Return a dataclass's values as "train.epochs"; without effect counts as at its default."""
    table = type(value).__name__.lower()
    return {f"{table}.{name}": each for name, each in asdict(getattr(value, "used", value)).items()}


# --- staleness ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """Whether a task is fresh; if not, the reason, in words and as one of a few causes."""

    word: Literal["fresh", "missing", "stale", "waiting"]
    reason: str = ""
    cause: Literal["", "files", "inputs", "parameters", "code"] = ""

    @property
    def fresh(self) -> bool:
        """Whether the task's files are what a run from nothing would give."""
        return self.word == "fresh"


FRESH = State("fresh")


def states(tasks: Iterable[Task], cache: Cache | None = None) -> dict[str, State]:
    """Find the state of each task, by name.

    A task waits if all that it depends on is as before, and some of what it reads is due: that may
    come out the same.

    Args:
        tasks: in the order in which data flows, as `stages.load` gives them.
        cache: from `stat_cache`; without it, every file is read.
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
    """Say of the first of these tasks that is not fresh what it is and why; None without one."""
    with stat_cache(tasks[0].root) as cache:
        found = states(tasks, cache)
    due = (f"{name} is {it.word}: {it.reason}" for name, it in found.items() if not it.fresh)
    return next(due, None)


def require_fresh(tasks: list[Task], remedy: str) -> None:
    """Raise UserError, with the command that helps, if one of these tasks is not fresh."""
    if line := first_due(tasks):
        raise UserError(f"{line}; run `{remedy}` first")


def made_of(task: Task, remedy: str) -> dict[str, Any]:
    """Find the files that a task's results were made of, by name, if they are still the same.

    Raises:
        UserError: the results are missing or damaged, or a file has changed since.
    """
    with stat_cache(task.root) as cache:
        if wrong := damage(task, cache):
            raise UserError(f"{wrong}; run `{remedy}` first")
        manifest = read_json(task.manifest) or {}
        for label in _changed(manifest["inputs"], task.root, cache):
            raise UserError(f"{label} has changed since {task.name} read it; run `{remedy}` first")

    def paths(group: Any) -> Any:
        if isinstance(group, dict):
            return {name: paths(each) for name, each in group.items()}
        return [task.root / p for p in group] if isinstance(group, list) else task.root / group

    return dict(paths(manifest.get("names", task.names())["reads"]))


def made_beside(oof: Path, root: Path, remedy: str) -> Path:
    """Find the weights with which a fold's file was predicted, if what both came from is the same.

    Raises:
        UserError: the fold has been trained again since, or what it read has changed.
    """
    fold = read_json(oof.with_name("manifest.json")) or {"inputs": {}, "outputs": {}}
    weights = oof.with_name("weights.keras")
    with stat_cache(root) as cache:
        for label in _changed({**fold["inputs"], **fold["outputs"]}, root, cache):
            raise UserError(f"{label} has changed since the ensemble; run `{remedy}` first")
    if not {oof, weights} <= {root / label for label in fold["outputs"]}:
        raise UserError(f"{oof.parent} is not as the ensemble read it; run `{remedy}` first")
    return weights


def _changed(digests: Mapping[str, str], root: Path, cache: Cache) -> Iterator[str]:
    """Name the files that are missing, or other than a manifest says."""
    for label, digest in digests.items():
        path = root / label
        if not path.exists() or fingerprint(path, cache) != digest:
            yield label


def damage(task: Task, cache: Cache | None = None) -> str | None:
    """Say why a task's files cannot be used as they are; None if they can."""
    manifest = read_json(task.manifest)
    if manifest is not None:
        return _damage(task, manifest, cache)
    if task.manifest.exists():
        return f"the manifest of {task.name} is damaged"
    return f"{task.name} has not run yet"


def _damage(task: Task, manifest: Mapping[str, Any], cache: Cache | None) -> str | None:
    for path in task.writes.values():
        if not path.exists():
            return f"{task.label(path)} is missing"
        if manifest["outputs"].get(task.label(path)) != fingerprint(path, cache):
            return f"{task.label(path)} was changed after `{task.stage}` wrote it"
    return None


def _own_state(task: Task, cache: Cache | None) -> State:
    manifest = read_json(task.manifest)
    if manifest is None and not task.manifest.exists():
        return State("missing", "it has not run yet", "files")
    if manifest is None:
        return State("stale", "its manifest is damaged", "files")
    if wrong := _damage(task, manifest, cache):
        return State("stale", wrong, "files")
    for path in task.inputs:
        # A missing input concerns the task that writes it.
        if path.exists() and manifest["inputs"].get(task.label(path)) != fingerprint(path, cache):
            return State("stale", f"its input {task.label(path)} has changed", "inputs")
    if manifest.get("names", task.names()) != task.names():
        return State("stale", "it reads or writes other files than before", "inputs")
    if reason := _changed_parameter(task, manifest["params"]):
        return State("stale", reason, "parameters")
    now, known = task.fingerprints(), manifest["code"] if task.ages else {}
    changed = [file for file in [*now, *known] if now.get(file) != known.get(file)]
    return State("stale", f"the code in {changed[0]} has changed", "code") if changed else FRESH


def _changed_parameter(task: Task, recorded: Mapping[str, Any]) -> str | None:
    """Say which parameter is another than in a manifest; what that does not know was default."""
    before, now = dict(recorded), task.values()
    for value in filter(is_dataclass, task.params.values()):
        table = type(value).__name__.lower()
        names = [each.name for each in dataclasses.fields(value)]
        known = {name: before.pop(key) for name in names if (key := f"{table}.{name}") in before}
        before |= _table(type(value)(**known))  # type: ignore[misc,operator]
    for key in sorted(now.keys() | before.keys()):
        if before.get(key) != now.get(key):
            old, new = json.dumps(before.get(key)), json.dumps(now.get(key))
            return f"parameter {key} was {old} and is now {new}"
    return None


# --- running -----------------------------------------------------------------------------------


def run(
    task: Task,
    tasks: Iterable[Task],
    force: bool = False,
    work: Work | None = None,
    elsewhere: bool = False,
) -> bool:
    """Run a task if it is due, in its staging folder; then put its files and manifest in place.

    Says why it runs, where its files go and how long it took, or that it is fresh.

    Args:
        task: the task.
        tasks: all tasks of the graph; the files of those that it reads from are checked first.
        force: run it even if it is fresh.
        work: called in place of the stage's function, with the paths to write to, by name; returns
            metadata for the manifest.
            Whatever it leaves in the staging folder when it is stopped is still there when it is
            called again for the same inputs, parameters and code.
        elsewhere: `work` has another machine run the code, whose fingerprints it returns as "code".

    Returns:
        Whether it ran.

    Raises:
        UserError: an input is missing or damaged, or changed while it was read.
        ExternalError: the disk is full, or something else outside failed.
    """
    with stat_cache(task.root) as cache, _locked(task):
        state = _own_state(task, cache)
        if state.fresh and not force:
            _tidy(task)
            _say(f"{task.name}: fresh")
            return False
        check_inputs(task, tasks, cache)
        place = os.path.relpath(task.folder)
        _say(f"{task.name}: {state.reason or 'forced'}; writing to {place}/")
        try:
            if task.ages and not elsewhere:
                fingerprints.load(task.code, task.root)
            seconds = _run(task, work or task.work, cache)
        except BrokenPipeError:  # nobody reads the output any more
            raise
        except OSError as error:  # the system reports a full disk without naming a file
            raise ExternalError(endings.explained(error, place)) from error
        _say(f"{task.name}: done in {seconds:.1f} s")
    return True


def _say(line: str) -> None:
    """Print a line in one piece: `print` writes its end apart, and threads would mix theirs."""
    print(f"{line}\n", end="", flush=True)


def _run(task: Task, work: Work, cache: Cache) -> float:
    """Run a task; return its seconds."""
    origin = _origin(task, cache)
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
    made = {**origin, "code": code, "outputs": outputs, "metadata": metadata}
    write_json(task.manifest, made)
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
    """Check whether the next run of a task continues from what an interrupted one left."""
    try:
        return task.staging.exists() and _continues(task.staging, _origin(task, cache))
    except OSError:  # an input is missing
        return False


def _continues(staging: Path, origin: Mapping[str, Any]) -> bool:
    return read_json(staging / ORIGIN) == origin


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


def tidy(task: Task) -> None:
    """Remove what a killed run left of a fresh task, unless another process is at work there."""
    if task.staging.exists() and not holder(task):
        with _locked(task):
            _tidy(task)


def _tidy(task: Task) -> None:
    with contextlib.suppress(OSError):  # a read-only folder stays as it is
        files.remove_unfinished(task.folder)
        if task.staging.exists():
            _clear(task.staging)


def _clear(staging: Path) -> None:
    # The origin first: if this is interrupted, half of the folder is not mistaken for all of it.
    (staging / ORIGIN).unlink(missing_ok=True)
    shutil.rmtree(staging)


# --- manifests and locks -----------------------------------------------------------------------


def metadata(manifest: Path) -> dict[str, Any]:
    """Read what a stage's function returned from its manifest; empty if there is none."""
    found: dict[str, Any] = (read_json(manifest) or {}).get("metadata", {})
    return found


def add_metadata(task: Task, name: str, value: object) -> None:
    """Record one more value in a task's manifest; this makes nothing stale."""
    with _locked(task):
        manifest = read_json(task.manifest)
        assert manifest is not None
        manifest["metadata"][name] = value
        write_json(task.manifest, manifest)


def record_anew(task: Task) -> None:
    """Record that a task's files are what today's code and parameters give."""
    with _locked(task):
        manifest = read_json(task.manifest)
        assert manifest is not None
        write_json(task.manifest, manifest | _origin(task, None))


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
