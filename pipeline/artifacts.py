"""Files that are complete or absent, and the knowledge of which of them are stale.

A step is one run of a stage: it reads named files and leaves named files. It works in a folder of
its own; only when everything is written and checked are its outputs renamed into place, and last
of all its manifest, a small JSON file that records what the outputs were made from. Freshness is
decided by content alone (fingerprints of inputs, parameters and code against the manifest), never
by modification times, which `git checkout`, archives and restored backups set as they please.

Standard library only: `make` asks this module what is stale each time it is run.
"""

import ast
import contextlib
import fcntl
import functools
import glob
import hashlib
import json
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import UserError

CODE = Path(__file__).parent
# What `fingerprint` remembers of the files that it has read, kept beside the data.
STAT_CACHE = ".fingerprints.json"
# What a workplace is for, written there first.
MARKER = "origin.json"


@dataclass(frozen=True)
class Step:
    """One run of one stage: what it reads, what it leaves, and what else it depends on.

    Attributes:
        name: what the user calls it, "train fold 2".
        stage: the stage's name, "train".
        root: the project's folder; the paths in the manifest are relative to it.
        manifest: the JSON file that is written last and makes the step complete.
        outputs: the files that the step leaves, all in the manifest's folder.
        inputs: the files that it reads. Those that other steps made are recognised by their path.
        params: the parameters that the stage uses, and only those; JSON values.
        code: the files of this package that make up the stage. "networks.py:strided" stands for
            one definition and for what it uses of the rest of its file.
    """

    name: str
    stage: str
    root: Path
    manifest: Path
    outputs: tuple[Path, ...]
    inputs: tuple[Path, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict)
    code: tuple[str, ...] = ()

    @property
    def workplace(self) -> Path:
        """The folder in which the outputs grow; it outlives a kill, so that work can go on."""
        return self.manifest.parent / f".{self.manifest.stem}.partial"

    def label(self, path: Path) -> str:
        """The name under which a manifest records a file: relative to the project where it can."""
        return str(path.relative_to(self.root)) if path.is_relative_to(self.root) else path.name


# --- writing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` if the block ends well.

    The bytes are on the disk before the rename, so that not even a power cut leaves a name
    without its content. If the block raises, the temporary file goes and `path` is untouched.
    What a killed process left of the same file goes too.
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


def write_json(path: Path, value: object) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove the temporary files, of one file or of all in a folder, whose process is dead."""
    for path in folder.glob(f".{glob.escape(name) or '*'}.*.tmp"):
        writer = re.search(r"\.(\d{1,9})(-\d+)?\.tmp$", path.name)
        if writer and not _alive(int(writer[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


# --- fingerprints ------------------------------------------------------------------------------


def fingerprint(path: Path, cache: dict[str, list[Any]] | None = None) -> str:
    """SHA-256 of a file's content, in hexadecimal.

    Args:
        path: the file.
        cache: what `stat_cache` gave. A file whose size, modification and change times and inode
            are those of an earlier reading is not read again. (The change time cannot be set
            back by a program, so neither a restored date nor a patched byte goes unseen.)

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
def stat_cache(root: Path, trusted: bool = True) -> Iterator[dict[str, list[Any]]]:
    """Give the fingerprints remembered for the files below `root`; keep what is added to them.

    It is a cache and nothing else: without it, or with a damaged one, files are read again.

    Args:
        root: the project's folder.
        trusted: False to begin with none, and to forget those that were remembered.
    """
    path = root / "data" / STAT_CACHE
    before = read_sealed(path) or {}
    cache = dict(before) if trusted else {}
    yield cache
    if cache != before and path.parent.is_dir():
        # A read-only folder costs time, not correctness.
        with contextlib.suppress(OSError):
            _write_sealed(
                path, {name: known for name, known in cache.items() if Path(name).exists()}
            )


def code_fingerprint(entry: str, folder: Path = CODE) -> str:
    """SHA-256 of a source file's syntax tree: comments, layout and docstrings do not count.

    Args:
        entry: a file's name below `folder`, or "file.py:name" for one definition of it together
            with the definitions of the same file that it uses, directly or through others. Of a
            file in another language every byte counts.
        folder: where the file lies.

    Raises:
        UserError: the file holds no such definition, or is no Python.
    """
    name, named, definition = entry.partition(":")
    if not name.endswith(".py"):
        return fingerprint(folder / name)
    try:
        source = (folder / name).read_text(encoding="utf-8")
        digest = _syntax_fingerprint(source, definition if named else None)
    except SyntaxError as error:
        raise UserError(f"pipeline/{name}, line {error.lineno}: {error.msg}") from error
    if digest is None:
        raise UserError(
            f"train.network: pipeline/{name} defines no {definition!r}; name one that it defines"
        )
    return digest


@functools.cache  # every fold asks for the same
def _syntax_fingerprint(source: str, definition: str | None) -> str | None:
    """Of one definition and what it uses, or of everything; None if there is no such definition."""
    tree = ast.parse(source)
    if definition is None:
        code = _shape(tree)
    elif any(definition in _defines(statement) for statement in tree.body):
        code = [_shape(node) for node in _uses(tree, definition)]
    else:
        return None
    return hashlib.sha256(repr(code).encode()).hexdigest()


_IMPORTS = (ast.Import, ast.ImportFrom)


def _shape(node: Any) -> Any:
    """The tree as nested lists. Empty fields are left out: Python's versions differ in them."""
    if isinstance(node, ast.AST):
        fields = {name: _shape(value) for name, value in ast.iter_fields(node)}
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            documented = ast.get_docstring(node, clean=False) is not None
            fields["body"] = fields["body"][1:] if documented else fields["body"]
        return [type(node).__name__, *((k, v) for k, v in fields.items() if v not in (None, []))]
    return [_shape(item) for item in node] if isinstance(node, list) else node


def _uses(tree: ast.Module, definition: str) -> list[ast.stmt]:
    """The imports of a module, `definition`, and whatever else of the module these name."""
    names = {definition}
    while True:
        kept = [s for s in tree.body if isinstance(s, _IMPORTS) or _defines(s) & names]
        used = {n.id for s in kept for n in ast.walk(s) if isinstance(n, ast.Name)}
        if used <= names:
            return kept
        names |= used


def _defines(statement: ast.stmt) -> set[str]:
    """The names that a statement of a module gives a meaning to."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    names = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


# --- freshness ---------------------------------------------------------------------------------


def staleness(
    steps: Iterable[Step], cache: dict[str, list[Any]] | None = None
) -> dict[str, str | None]:
    """Say for each step, by name, why it has to run again; None for one that is fresh.

    Args:
        steps: in the order in which data flows, as `stages.steps` gives them.
        cache: what `stat_cache` gave; without it every file is read.
    """
    reasons: dict[str, str | None] = {}
    stale_files: set[Path] = set()
    for step in steps:
        waiting = [path for path in step.inputs if path in stale_files]
        reason = _own_staleness(step, cache)
        if reason is None and waiting:
            reason = f"its input {step.label(waiting[0])} is to be made again"
        if reason is not None:
            stale_files.update(step.outputs)
        reasons[step.name] = reason
    return reasons


def _own_staleness(step: Step, cache: dict[str, list[Any]] | None) -> str | None:
    manifest = read_manifest(step)
    if manifest is None:
        return "missing" if not step.manifest.exists() else "its manifest is damaged"
    wrong = _damage(step, manifest, cache)
    if wrong:
        return wrong
    for path in step.inputs:
        # An input that is not there is the business of the step that makes it.
        if path.exists() and manifest["inputs"].get(step.label(path)) != fingerprint(path, cache):
            return f"its input {step.label(path)} has changed"
    if len(manifest["inputs"]) != len(step.inputs):
        return "its inputs are other files than before"
    for key in sorted(step.params.keys() | manifest["params"].keys()):
        old, new = manifest["params"].get(key), step.params.get(key)
        if old != new:
            return f"parameter {key} was {json.dumps(old)} and is {json.dumps(new)}"
    code, known = _code(step), manifest["code"]
    changed = [entry for entry in [*code, *known] if code.get(entry) != known.get(entry)]
    return f"the code of {changed[0]} has changed" if changed else None


def _damage(
    step: Step, manifest: Mapping[str, Any], cache: dict[str, list[Any]] | None
) -> str | None:
    for path in step.outputs:
        if not path.exists():
            return f"{step.label(path)} is missing"
        if manifest["outputs"].get(step.label(path)) != fingerprint(path, cache):
            return f"{step.label(path)} is not the file that {step.stage} wrote"
    return None


def damage(step: Step, cache: dict[str, list[Any]] | None = None) -> str | None:
    """What keeps a step's outputs from being used as they are; None if nothing does."""
    manifest = read_manifest(step)
    if manifest is not None:
        return _damage(step, manifest, cache)
    if step.manifest.exists():
        return f"the manifest of {step.name} is damaged"
    return f"{step.name} has not run yet"


def changed_outputs(step: Step) -> list[Path]:
    """The outputs that are there but are not what the step wrote."""
    manifest = read_manifest(step) or {"outputs": {}}
    known = manifest["outputs"]
    there = [path for path in step.outputs if path.exists() and step.label(path) in known]
    return [path for path in there if fingerprint(path) != known[step.label(path)]]


def _code(step: Step) -> dict[str, str]:
    return {entry: code_fingerprint(entry, step.root / "pipeline") for entry in step.code}


def read_manifest(step: Step) -> dict[str, Any] | None:
    """A step's manifest; None where there is none, or one that is damaged."""
    return read_sealed(step.manifest)


def add_fact(step: Step, name: str, value: object) -> None:
    """Record one more fact in a step's manifest; no step becomes stale by it."""
    with _locked(step):
        manifest = read_manifest(step)
        assert manifest is not None
        manifest["facts"][name] = value
        _write_sealed(step.manifest, manifest)


def _write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with the digest of the rest in it, by which a mangled one is known."""
    write_json(path, {**value, "sha256": _digest(value)})


def read_sealed(path: Path) -> dict[str, Any] | None:
    """What manifests and their like hold; None where there is none, or one that is damaged."""
    value = read_json(path)
    return None if value is None or value.pop("sha256", None) != _digest(value) else value


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no such file, or something else in it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


# --- running -----------------------------------------------------------------------------------


def run(
    step: Step,
    work: Callable[[Path], Mapping[str, Any]],
    made_by: Iterable[Step],
    if_stale: bool = False,
    asked: int | None = None,
) -> bool:
    """Do a step's work in its workplace, then put outputs and manifest under their final names.

    Args:
        step: what is to be made.
        work: given the workplace, writes every output there under its final name, and returns the
            facts for the manifest (device, metrics, …). What it leaves there when it is stopped is
            there when it is called again for the same inputs, parameters and code.
        made_by: the steps before it, whose outputs are checked before they are used.
        if_stale: leave the step alone if it is fresh.
        asked: when the step was asked for, in nanoseconds since 1970; now, if None.

    Returns:
        False if nothing had to be done: the step is fresh, and if_stale is set or another process
        did the same work since it was asked for.

    Raises:
        UserError: an input is missing or damaged, or was changed while the work was done.
    """
    asked = time.time_ns() if asked is None else asked
    with _locked(step), stat_cache(step.root) as cache:
        made_since = step.manifest.exists() and step.manifest.stat().st_ctime_ns > asked
        if (if_stale or made_since) and _own_staleness(step, cache) is None:
            return False
        _check_inputs(step, made_by, cache)
        inputs = {step.label(path): fingerprint(path, cache) for path in step.inputs}
        origin = {
            "stage": step.stage,
            "params": dict(step.params),
            "inputs": inputs,
            "code": _code(step),
        }
        resumed = _prepare(step.workplace, origin)
        began = time.perf_counter()
        try:
            facts = dict(work(step.workplace))
        except UserError:
            # With something else given, nothing of this will be of use; it may be gigabytes. What
            # an earlier run left is spared: it got further, perhaps on another machine.
            if not resumed:
                _clear(step.workplace)
            raise
        # A fold that was trained elsewhere knows better: it may have waited for a place.
        facts.setdefault("seconds", round(time.perf_counter() - began, 2))
        outputs = {}
        for path in step.outputs:
            _flush(step.workplace / path.name)
            outputs[step.label(path)] = fingerprint(step.workplace / path.name)
        for path in step.inputs:
            if not path.exists() or fingerprint(path, cache) != inputs[step.label(path)]:
                _clear(step.workplace)
                raise UserError(f"{path} was changed while {step.name} read it; nothing came of it")
        for path in step.outputs:
            (step.workplace / path.name).replace(path)
        _write_sealed(step.manifest, {**origin, "outputs": outputs, "facts": facts})
        _clear(step.workplace)
    return True


def tidy(steps: Iterable[Step], reasons: Mapping[str, str | None]) -> None:
    """Remove what killed runs left, in the folders of these steps and in those beside them.

    These are files half written, and the workplaces of steps that are fresh by now, or gone with
    the parameters that asked for them. Stale steps keep theirs: their work goes on from there.
    What another process is at is left alone.

    Args:
        steps: all steps of a graph.
        reasons: what `staleness` says of them.
    """
    wanted, folders = set(), set()
    for step in steps:
        folder = step.manifest.parent
        folders.add(folder)
        if step.root / "data" in folder.parents[1:]:
            folders.update(folder.parent.glob("*/"))
        if reasons[step.name] is not None:
            wanted.add(step.workplace)
    for folder in folders:
        with contextlib.suppress(OSError):  # a read-only folder stays as it is
            _remove_unfinished(folder)
            for workplace in set(folder.glob(".*.partial")) - wanted:
                lock = workplace.with_suffix(".lock")
                with contextlib.suppress(BlockingIOError), lock.open("a") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _clear(workplace)


def _check_inputs(step: Step, made_by: Iterable[Step], cache: dict[str, list[Any]]) -> None:
    for maker in made_by:
        if not set(maker.outputs) & set(step.inputs):
            continue
        wrong = damage(maker, cache)
        if wrong and maker.manifest.parent.exists():
            with _locked(maker):  # it may be about to be put in its place
                wrong = damage(maker, cache)
        if wrong:
            raise UserError(
                f"{wrong}; run `make {step.stage}` with the same DATASET and CONFIG, which makes "
                f"all that {step.stage} needs"
            )
    for path in step.inputs:
        if not path.exists():
            raise UserError(f"{path} is missing")


def _prepare(workplace: Path, origin: Mapping[str, Any]) -> bool:
    """Keep what an interrupted run left if it was doing the very same work, else clear it.

    Returns whether something was kept.
    """
    marker = workplace / MARKER
    if workplace.exists():
        if read_json(marker) == json.loads(json.dumps(origin)):
            return True
        _clear(workplace)
    workplace.mkdir(parents=True)
    write_json(marker, origin)
    return False


def _clear(workplace: Path) -> None:
    # The marker first: should this be cut short, half of a workplace is not taken for all of it.
    (workplace / MARKER).unlink(missing_ok=True)
    shutil.rmtree(workplace)


def _locked(step: Step) -> contextlib.AbstractContextManager[None]:
    return locked(step.workplace.with_suffix(".lock"), step.name)


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock, waiting if need be, and then saying for whom.

    The lock belongs to the process and goes with it, so that a dead one never blocks the next.

    Args:
        path: the lock file; its folder is made if need be.
        name: what the lock is for, as the user calls it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            print(f"{name}: waiting for process {holder}, which is at it", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
