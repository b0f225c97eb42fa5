"""Kills, damage and concurrent runs, task by task: the bytes are those of an undisturbed run."""

import ast
import itertools
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CODE_READ_ONCE, PACKAGE, PATIENCE, contents, killed_at, settle, works

from pipeline import artifacts, files, fingerprints
from pipeline.artifacts import run, states
from pipeline.config import Preset
from pipeline.files import atomic
from pipeline.task import Task, Work

EPOCHS = 3
FORK = multiprocessing.get_context("fork")


def long_task(root: Path, size: int = 2) -> Task:
    """A task with a source to read and two files to write."""
    folder = root / "data" / "set" / "long"
    return Task(
        name="long",
        stage="long",
        root=root,
        manifest=folder / "manifest.json",
        function="pipeline.long:f",
        preset=Preset(),
        fold=0,
        reads={"source": root / "source.txt"},
        writes={"x": folder / "x.txt", "y": folder / "y.txt"},
        params={"size": size},
    )


def long_work(task: Task) -> Work:
    """Work of several epochs with a checkpoint after each; diary.txt records which were begun."""

    def work(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        checkpoint = task.staging / "checkpoint.txt"
        state = checkpoint.read_text() if checkpoint.exists() else ""
        for epoch in range(len(state), EPOCHS):
            with (task.root / "diary.txt").open("a") as diary:
                diary.write(str(epoch))
            state += task.inputs[0].read_text()
            with atomic(checkpoint) as temporary:
                temporary.write_text(state)
        for path in writes.values():
            path.write_text(path.name + state * task.params["size"])
        return {}

    return work


def run_long(task: Task) -> bool:
    return run(task, [task], work=long_work(task))


def project(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "long.py").write_text("def f():\n    pass\n")
    (folder / "source.txt").write_text("a")
    return folder


def made(task: Task) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in task.writes.values() if path.exists()}


def no_leftovers(task: Task) -> bool:
    """Whether only files, manifest and lock are left once a run has found the task fresh."""
    assert not run_long(task)
    names = {path.name for path in task.folder.iterdir()}
    return names == {*made(task), "manifest.json", ".manifest.lock"}


# --- kills ---------------------------------------------------------------------------------------


def test_a_kill_at_any_moment_costs_at_most_an_epoch(tmp_path: Path) -> None:
    """Before every operation on a file, and in the middle of every file, over older files."""
    undisturbed = long_task(project(tmp_path / "undisturbed"))
    run_long(undisturbed)
    for moment in itertools.count(1):
        root = project(tmp_path / str(moment))
        run_long(long_task(root, size=1))
        older = made(long_task(root, size=1))
        (root / "diary.txt").unlink()
        task = long_task(root)
        killed = killed_at(moment, lambda task=task: run_long(task))
        for name, content in made(task).items():
            assert content in (made(undisturbed)[name], older[name]), "half a file"
        if staleness([task])["long"] is None:
            assert made(task) == made(undisturbed), "it counts as fresh and is not"
        run_long(task)
        assert made(task) == made(undisturbed)
        begun = (root / "diary.txt").read_text()
        assert begun.replace("00", "0").replace("11", "1").replace("22", "2") == "012"
        assert len(begun) <= EPOCHS + 1, "only the epoch that was interrupted runs again"
        assert no_leftovers(task)
        assert staleness([task]) == {"long": None}
        if not killed:
            break
    assert moment > 30


def staleness(tasks: Iterable[Task], cache: files.Cache | None = None) -> dict[str, str | None]:
    """For each task, by name, why it is not fresh; None if it is."""
    return {name: None if it.fresh else it.reason for name, it in states(tasks, cache).items()}


Works = list[tuple[Task, Work | None]]


@pytest.fixture
def _code_is_read_once(monkeypatch: pytest.MonkeyPatch, _code_is_read_every_time: None) -> None:
    """As in a process of its own; the tests of whole projects do not edit the code."""
    monkeypatch.setattr(fingerprints, "fingerprints", CODE_READ_ONCE)


def run_all(works: Works) -> list[str]:
    """Run what is due; returns the names of the tasks that ran."""
    tasks = [task for task, _ in works]
    return [task.name for task, work in works if run(task, tasks, work=work)]


def test_a_fold_may_be_killed_at_every_moment(
    project: Path, tiny_folder: Path, _code_is_read_once: None
) -> None:
    its_works = works(str(tiny_folder))
    run_all(its_works)
    folder, tasks = project, [task for task, _ in its_works]
    task, work = next((task, work) for task, work in its_works if task.stage == "train")
    before = contents(folder)
    for moment in itertools.count(1):
        for path in (*task.writes.values(), task.manifest):
            path.unlink()
        killed = killed_at(moment, lambda: run(task, tasks, work=work))
        run(task, tasks, work=work)
        assert not run(task, tasks, work=work)
        after = contents(folder)
        after[task.label(task.manifest)] = before[task.label(task.manifest)]  # its seconds
        assert after == before
        if not killed:
            break
    stale = {name for name, reason in staleness(tasks).items() if reason}
    assert stale <= {"report"}, "which shows how long training took"
    assert moment > 15


def test_a_staging_folder_that_was_partly_removed_is_not_resumed_from(tmp_path: Path) -> None:
    task = long_task(project(tmp_path))
    other = replace(task, params={"size": 3})
    assert killed_at(30, lambda: run_long(task))
    assert (task.staging / "checkpoint.txt").exists()
    # It is for other work, so it is removed: first the file that says what it is for.
    for moment in itertools.count(1):
        copy = Path(shutil.copytree(task.staging, tmp_path / "kept"))
        assert killed_at(moment, lambda: run_long(other))
        if not (task.staging / "checkpoint.txt").exists():
            break
        shutil.rmtree(task.staging)
        copy.rename(task.staging)
    assert files.read_json(task.staging / artifacts.ORIGIN) is None


def test_what_dead_processes_left_half_written_is_removed_by_the_next_write(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    dead, alive = process.pid, os.getppid()
    names = {
        "own": f".a.json.{dead}-{dead}.tmp",
        "an earlier version's": f".a.json.{dead}.tmp",
        "a living process's": f".a.json.{alive}-{alive}.tmp",
        "another file's": f".b.json.{dead}-{dead}.tmp",
        "of no process": ".a.json.x.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    files.write_json(tmp_path / "a.json", {})
    kept = {path.name for path in tmp_path.iterdir()} - {"a.json"}
    assert kept == {names[who] for who in ("a living process's", "another file's", "of no process")}


def test_threads_write_the_same_file_without_disturbing_each_other(tmp_path: Path) -> None:
    path, errors = tmp_path / "file.txt", []
    barrier = threading.Barrier(4)

    def write(text: str) -> None:
        try:
            for _ in range(50):
                barrier.wait()
                with atomic(path) as temporary:
                    temporary.write_text(text)
        except Exception as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=write, args=(f"{i}" * 10_000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(set(path.read_text())) == 1
    assert [left.name for left in tmp_path.iterdir()] == ["file.txt"]


# --- damage --------------------------------------------------------------------------------------


def test_an_input_that_is_just_being_written_is_waited_for(tmp_path: Path) -> None:
    maker = long_task(project(tmp_path))
    folder = tmp_path / "data/set/user"
    user = replace(
        maker,
        name="user",
        manifest=folder / "manifest.json",
        reads={"x": maker.writes["x"]},
        writes={"z": folder / "z.txt"},
    )
    begun, go = FORK.Event(), FORK.Event()

    def slow_work(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        begun.set()
        assert go.wait(PATIENCE)
        return long_work(maker)(writes)

    making = FORK.Process(target=lambda: run(maker, [maker], work=slow_work))
    making.start()
    assert begun.wait(PATIENCE)
    using = FORK.Process(target=lambda: run(user, [maker, user], work=long_work(user)))
    using.start()
    while "user" not in {path.parent.name for path in tmp_path.rglob(".manifest.lock")}:
        time.sleep(0.01)
    time.sleep(0.1)
    go.set()
    for process in (making, using):
        process.join(PATIENCE)
        assert process.exitcode == 0
    assert staleness([maker, user]) == {"long": None, "user": None}


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_files_and_folders_in_each_others_place_are_noticed(
    project: Path, tiny_folder: Path, _code_is_read_once: None
) -> None:
    its_works = works(str(tiny_folder), "demo")
    run_all(its_works)
    tasks, home = [task for task, _ in its_works], project / "data" / "tiny"
    for one, other, first in (
        ("raw/train.csv", "raw/test.csv", "download"),
        ("arrays/manifest.json", "raw/manifest.json", "download"),
        ("demo/fold-0/oof.npy", "demo/fold-1/oof.npy", "train fold 0"),
        ("demo/fold-1/manifest.json", "demo/ensemble/manifest.json", "train fold 1"),
        ("demo/fold-0", "demo/fold-1", "train fold 0"),
    ):
        swap(home / one, home / other)
        stale = [name for name, reason in staleness(tasks).items() if reason]
        assert stale[0] == first
        assert stale[-2:] == ["write", "report"]
        swap(home / one, home / other)
        assert set(staleness(tasks).values()) == {None}


def test_the_artifacts_of_another_project_are_not_taken(tmp_path: Path) -> None:
    """All names are the same there, and the manifest is intact; what it was made from differs."""
    mine, other = long_task(project(tmp_path / "mine")), long_task(project(tmp_path / "other"))
    (tmp_path / "other/source.txt").write_text("b")
    for task in (mine, other):
        run_long(task)
    shutil.rmtree(mine.folder)
    shutil.copytree(other.folder, mine.folder)
    assert staleness([mine]) == {"long": "its input source.txt has changed"}


def test_silent_corruption_is_found_by_verifying(tmp_path: Path) -> None:
    """It changes no timestamp. Here, the cache claims that a changed file is the intact one."""
    task = long_task(project(tmp_path))
    run_long(task)
    path = task.writes["x"]

    def reason(trusted: bool = True) -> str | None:
        with artifacts.stat_cache(tmp_path, trusted) as cache:
            return staleness([task], cache)["long"]

    path.write_bytes(path.read_bytes().swapcase())
    settle(path)
    assert reason() == "data/set/long/x.txt was changed after `long` wrote it"
    cache, manifest = tmp_path / "data" / artifacts.STAT_CACHE, files.read_json(task.manifest)
    known = files.read_json(cache)
    assert known is not None
    assert manifest is not None
    known[str(path)][4] = manifest["outputs"]["data/set/long/x.txt"]
    files.write_json(cache, known)
    assert reason() is None
    assert reason(trusted=False) is not None
    assert reason() is not None, "what was found is remembered"


# --- nothing is unpickled ------------------------------------------------------------------------


def test_nothing_in_the_package_could_unpickle() -> None:
    """No module for it is imported, and no loader is allowed to."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {name.name.partition(".")[0] for name in node.names}
                names.add((getattr(node, "module", None) or "").partition(".")[0])
                found += names & {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                found += [node.arg] * (ast.unparse(node.value) != "False")
            elif isinstance(node, ast.keyword) and node.arg == "safe_mode":
                found += [node.arg] * (ast.unparse(node.value) != "True")
            elif isinstance(node, ast.Attribute | ast.Name):
                name = node.attr if isinstance(node, ast.Attribute) else node.id
                found += [name] * (name in ("read_pickle", "enable_unsafe_deserialization"))
    assert found == []
