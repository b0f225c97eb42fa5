"""artifacts.py: a task's files are complete or absent, and content alone decides their state."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import PATIENCE, contents, settle

import pipeline
from pipeline import artifacts, config, stages
from pipeline.artifacts import run, states
from pipeline.config import Preset, Train
from pipeline.errors import ExternalError, UserError
from pipeline.files import fingerprint, read_json, write_json
from pipeline.task import Task, Work

# --- tasks: the first reads a source file, the second reads what the first wrote -----------------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one source file to read and two modules of code."""
    (tmp_path / "data").mkdir()
    (tmp_path / "pipeline").mkdir()
    for module in ("first", "second"):
        (tmp_path / "pipeline" / f"{module}.py").write_text("def f():\n    return 1\n")
    (tmp_path / "source.txt").write_text("a")
    return tmp_path


def two_tasks(root: Path) -> list[Task]:
    one, two = root / "data" / "one", root / "data" / "two"
    writes = {"x": one / "x.txt", "y": one / "y.txt"}
    params = {"size": 3, "mode": "a"}
    return [
        task("first", one, writes, reads={"source": root / "source.txt"}, params=params),
        task("second", two, {"z": two / "z.txt"}, reads={"y": one / "y.txt"}),
    ]


def task(name: str, folder: Path, writes: Mapping[str, Path], **others: Any) -> Task:
    """A task with the code of pipeline/NAME.py, in a folder of the project's data."""
    root, manifest, code = folder.parents[1], folder / "manifest.json", f"pipeline.{name}:f"
    return Task(name, name, root, manifest, code, Preset(), 0, writes, **others)


def work_of(task: Task) -> Work:
    """Every file is the contents of the inputs, repeated `size` times."""

    def work(writes: Mapping[str, Path]) -> dict[str, object]:
        text = "".join(path.read_text() for path in task.inputs) * task.params.get("size", 1)
        for path in writes.values():
            path.write_text(text)
        return {"letters": len(text)}

    return work


@pytest.fixture
def done(root: Path) -> list[Task]:
    """Two tasks that have run."""
    tasks = two_tasks(root)
    for task in tasks:
        assert run(task, tasks, work=work_of(task))
    return tasks


def test_a_run_leaves_its_files_and_manifest_and_nothing_else(done: list[Task], root: Path) -> None:
    assert done[0].writes["x"].read_text() == "aaa"
    assert set(contents(done[0].folder)) == {"x.txt", "y.txt", "manifest.json"}
    manifest = json.loads(done[0].manifest.read_text())
    assert manifest["stage"] == "first"
    assert manifest["params"] == {"size": 3, "mode": "a"}
    assert manifest["inputs"] == {"source.txt": fingerprint(root / "source.txt")}
    assert manifest["outputs"]["data/one/x.txt"] == fingerprint(done[0].writes["x"])
    assert list(manifest["code"]) == ["first.py"]
    assert manifest["metadata"]["letters"] == 3
    assert manifest["metadata"]["seconds"] >= 0


def test_the_function_gets_its_files_and_parameters_by_name(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "pipeline" / "named.py").write_text(
        "def f(source, others, target, params, size):\n"
        "    text = source.read_text() + ''.join(p.read_text() for p in others['b'])\n"
        "    target.write_text(text * size + params.name)\n"
        "    return {'parts': 1 + len(others['b'])}\n"
    )
    (root / "other.txt").write_text("b")
    # The package that runs is not that of the project, whose code is only fingerprinted.
    monkeypatch.setattr(pipeline, "__path__", [str(root / "pipeline")])
    monkeypatch.delitem(sys.modules, "pipeline.named", raising=False)
    folder = root / "data" / "named"
    named = task(
        "named",
        folder,
        {"target": folder / "target.txt"},
        reads={"source": root / "source.txt", "others": {"b": [root / "other.txt"]}},
        params={"size": 2, "params": config.Split(folds=3)},
    )
    assert named.inputs == [root / "source.txt", root / "other.txt"]
    assert named.values() == {"size": 2, "split.folds": 3, "split.holdout": 0.15, "split.seed": 0}
    assert run(named, [named])
    assert (folder / "target.txt").read_text() == "abab3-folds-seed-0"
    assert artifacts.metadata(named.manifest)["parts"] == 2


def test_a_run_prints_why_and_where_and_a_fresh_task_does_not_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    first, *_ = tasks = two_tasks(root)

    def printed(force: bool = False) -> str:
        run(first, tasks, force, work_of(first))
        return capsys.readouterr().out

    assert printed().startswith("first: it has not run yet; writing to data/one/\nfirst: done in ")
    before = first.manifest.stat().st_ino
    assert printed() == "first: fresh\n"
    assert first.manifest.stat().st_ino == before
    assert printed(force=True).startswith("first: forced; writing to data/one/\n")
    (root / "source.txt").write_text("b")
    assert printed().startswith("first: its input source.txt has changed; writing to data/one/\n")


# --- states --------------------------------------------------------------------------------------

FRESH = ("fresh", "", "")
MISSING = ("missing", "it has not run yet", "files")
WAITING = ("waiting", "for first, which may come out the same", "")


def found(tasks: list[Task]) -> list[tuple[str, str, str]]:
    """The state of each task: word, reason and cause."""
    return [(state.word, state.reason, state.cause) for state in states(tasks).values()]


def test_new_dates_and_comments_are_no_change(root: Path) -> None:
    tasks = two_tasks(root)
    assert found(tasks) == [MISSING, MISSING]
    for each in tasks:
        assert run(each, tasks, work=work_of(each))
    assert found(tasks) == [FRESH, FRESH]
    (root / "pipeline/first.py").write_text("# New.\ndef f():\n    return 1  # one\n")
    for path in root.rglob("*"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    assert found(tasks) == [FRESH, FRESH]


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda task: task.writes["x"].unlink(), ("stale", "data/one/x.txt is missing", "files")),
        (
            lambda task: task.writes["x"].write_text("aab"),
            ("stale", "data/one/x.txt was changed after `first` wrote it", "files"),
        ),
        (lambda task: task.manifest.unlink(), MISSING),
        (
            lambda task: (task.root / "source.txt").write_text("b"),
            ("stale", "its input source.txt has changed", "inputs"),
        ),
        (
            lambda task: (task.root / "pipeline/first.py").write_text("def f():\n    return 2\n"),
            ("stale", "the code in first.py has changed", "code"),
        ),
        *(
            (
                lambda task, damage=damage: task.manifest.write_text(damage),
                ("stale", "its manifest is damaged", "files"),
            )
            for damage in ("", "[]", '{"inputs": 1}')
        ),
    ],
)
def test_after_a_change_the_task_is_due_and_the_next_one_waits(
    done: list[Task], change: Callable[[Task], object], state: tuple[str, str, str]
) -> None:
    change(done[0])
    assert found(done) == [state, WAITING]


def test_what_is_stale_by_itself_does_not_wait(done: list[Task]) -> None:
    done[1].writes["z"].unlink()
    assert found(done) == [FRESH, ("stale", "data/two/z.txt is missing", "files")]
    done[0].writes["x"].unlink()
    assert [word for word, *_ in found(done)] == ["stale", "stale"]


def test_a_changed_parameter(done: list[Task]) -> None:
    for params, reason in (
        ({"size": 4, "mode": "a"}, "parameter size was 3 and is now 4"),
        ({"size": 3, "mode": "a", "new": 1}, "parameter new was null and is now 1"),
        ({"size": 3}, 'parameter mode was "a" and is now null'),
    ):
        tasks = [replace(done[0], params=params), done[1]]
        assert found(tasks) == [("stale", reason, "parameters"), WAITING]


def test_the_same_files_under_other_names(done: list[Task]) -> None:
    first, source = done[0], done[0].reads["source"]
    exchanged = {"x": first.writes["y"], "y": first.writes["x"]}
    assert isinstance(source, Path)
    for other in (
        replace(first, reads={"other": source}),
        replace(first, reads={"source": {"b": [source]}}),
        replace(first, writes=exchanged),
    ):
        reason = "it reads or writes other files than before"
        assert found([other]) == [("stale", reason, "inputs")]


def forget_parameters(task: Task, *names: str) -> None:
    """Change a manifest into one of a time before these parameters."""
    manifest = read_json(task.manifest)
    assert manifest is not None
    for name in names:
        del manifest["params"][name]
    write_json(task.manifest, manifest)


def test_a_new_parameter_at_its_default_or_one_without_effect_changes_nothing(
    root: Path,
) -> None:
    def training(**params: Any) -> Task:
        return replace(two_tasks(root)[0], params={"params": Train(**params)})

    task = training(optimizer="adam", epochs=3)
    assert run(task, [], work=work_of(task))
    for same in ({}, {"rho": 0.5}, {"steps_per_execution": 1}, {"monitor": "val_accuracy"}):
        assert found([training(optimizer="adam", epochs=3, **same)]) == [FRESH], same
    changed = found([training(optimizer="rmsprop", epochs=3, rho=0.5)])
    reason = 'parameter train.optimizer was "adam" and is now "rmsprop"'
    assert changed == [("stale", reason, "parameters")]

    forget_parameters(task, "train.shear", "train.rho")
    assert found([task]) == [FRESH]
    default = Train().shear
    reason = f"parameter train.shear was {default} and is now 0.9"
    other = training(optimizer="adam", epochs=3, shear=0.9)
    assert found([other]) == [("stale", reason, "parameters")]


def test_a_task_that_does_not_age_is_never_stale_by_its_code(root: Path) -> None:
    task = replace(two_tasks(root)[0], ages=False)
    assert run(task, [], work=work_of(task))
    (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
    assert found([task]) == [FRESH]
    assert [cause for *_, cause in found([replace(task, ages=True)])] == ["code"]


def test_the_first_that_is_due_is_named_with_its_reason(done: list[Task]) -> None:
    assert artifacts.first_due(done) is None
    artifacts.require_fresh(done, "make second")
    done[0].writes["x"].unlink()
    line = "first is stale: data/one/x.txt is missing"
    assert artifacts.first_due(done) == line
    with pytest.raises(UserError, match=f"{line}; run `make second` first"):
        artifacts.require_fresh(done, "make second")


def test_code_that_is_checked_and_gives_the_same_is_recorded(done: list[Task], root: Path) -> None:
    (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
    before = read_json(done[0].manifest)
    assert before is not None
    artifacts.add_metadata(done[0], "same_as", "itself", anew=True)
    assert found(done) == [FRESH, FRESH]
    after = read_json(done[0].manifest)
    assert after is not None
    assert [key for key in before if before[key] != after[key]] == ["code", "metadata"]


# --- what results were made of -------------------------------------------------------------------


def test_what_a_result_was_made_of_is_found_by_name(done: list[Task], root: Path) -> None:
    y = done[0].writes["y"]
    assert stages._read_then(done[1], "make second", {}) == {"y": y}
    grouped = replace(done[1], reads={"y": y, "group": {"b": [y, root / "source.txt"]}})
    assert run(grouped, [], force=True, work=work_of(grouped))
    found = stages._read_then(done[1], "make second", {})
    assert found == {"y": y, "group": {"b": [y, root / "source.txt"]}}, "as it was, not as it is"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda first, second: second.manifest.unlink(), "second: it has not run yet"),
        (lambda first, second: second.writes["z"].unlink(), r"data/two/z\.txt is missing"),
        (
            lambda first, second: first.writes["y"].write_text("b"),
            r"data/one/y\.txt has changed since second read it",
        ),
    ],
)
def test_results_of_which_something_has_changed_are_refused(
    done: list[Task], change: Callable[[Task, Task], object], part: str
) -> None:
    change(*done)
    with pytest.raises(UserError, match=rf"{part}.*; run `make second` first"):
        stages._read_then(done[1], "make second", {})


# --- runs that fail ------------------------------------------------------------------------------


def test_a_forgotten_file_replaces_nothing(done: list[Task], root: Path) -> None:
    (root / "source.txt").write_text("b")

    def work(writes: Mapping[str, Path]) -> dict[str, object]:
        writes["x"].write_text("bbb")
        return {}

    with pytest.raises(ExternalError, match=r"y\.txt"):
        run(done[0], done, work=work)
    assert done[0].writes["x"].read_text() == "aaa"
    assert done[0].writes["y"].read_text() == "aaa"


def stopped_half_way(writes: Mapping[str, Path]) -> dict[str, object]:
    writes["x"].with_name("half").write_text("done so far")
    raise KeyboardInterrupt


def test_the_same_work_resumes_where_it_was_stopped(root: Path) -> None:
    task = two_tasks(root)[0]
    with pytest.raises(KeyboardInterrupt):
        run(task, [], work=stopped_half_way)

    def resumes(writes: Mapping[str, Path]) -> Mapping[str, object]:
        assert writes["x"].with_name("half").read_text() == "done so far"
        return work_of(task)(writes)

    assert run(task, [], work=resumes)
    assert not (task.folder / "half").exists()
    assert not task.staging.exists()


def test_a_user_error_clears_its_own_debris_and_keeps_earlier_work(root: Path) -> None:
    task = two_tasks(root)[0]

    def mistaken(writes: Mapping[str, Path]) -> dict[str, object]:
        writes["x"].with_name("large").touch()
        raise UserError("there is no such thing")

    with pytest.raises(UserError):
        run(task, [], work=mistaken)
    assert not task.staging.exists()
    with pytest.raises(KeyboardInterrupt):
        run(task, [], work=stopped_half_way)
    with pytest.raises(UserError):
        run(task, [], work=mistaken)
    assert (task.staging / "half").read_text() == "done so far"


def test_other_work_starts_anew(root: Path) -> None:
    task = two_tasks(root)[0]

    def starts(writes: Mapping[str, Path]) -> Mapping[str, object]:
        assert not writes["x"].with_name("half").exists()
        return work_of(task)(writes)

    for change in ("input", "parameter", "code"):
        with pytest.raises(KeyboardInterrupt):
            run(task, [], force=True, work=stopped_half_way)
        if change == "input":
            (root / "source.txt").write_text("b")
        elif change == "parameter":
            task = replace(task, params={"size": 2, "mode": "a"})
        else:
            (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
        assert run(task, [], work=starts)


def test_an_input_that_changes_while_it_is_read(root: Path) -> None:
    task = two_tasks(root)[0]

    def work(writes: Mapping[str, Path]) -> Mapping[str, object]:
        found = work_of(task)(writes)
        (root / "source.txt").write_text("b")
        return found

    with pytest.raises(UserError, match=r"source\.txt changed while first was reading it"):
        run(task, [], work=work)
    assert not task.writes["x"].exists()
    assert not task.staging.exists()


def test_code_that_is_edited_while_it_runs_is_recorded_as_it_ran(
    project: Path, tiny_folder: Path
) -> None:
    """In its own process, whose modules are those of the project."""
    program = """\
import sys
from pipeline import artifacts, stages
graph = stages.load(sys.argv[1], "sprint")
artifacts.run(graph.task("download"), graph.tasks)
task = graph.task("preprocess")
def work(writes):
    path = stages.ROOT / "pipeline" / "csvs.py"
    path.write_text(path.read_text() + "\\n1 / 0\\n")
    return task.work(writes)
artifacts.run(task, graph.tasks, work=work)
"""
    task = stages.load(str(tiny_folder), "sprint").task("preprocess")
    unedited = task.fingerprints()
    subprocess.run([sys.executable, "-c", program, str(tiny_folder)], cwd=project, check=True)
    manifest = read_json(task.manifest)
    assert manifest is not None
    assert manifest["code"] == unedited
    assert found([task]) == [("stale", "the code in csvs.py has changed", "code")]


def test_what_a_killed_forced_run_left_is_removed(done: list[Task]) -> None:
    task = done[0]
    with pytest.raises(KeyboardInterrupt):
        run(task, [], force=True, work=stopped_half_way)
    assert (task.staging / "half").exists()
    assert found(done) == [FRESH, FRESH]
    artifacts.tidy(task)
    assert not task.staging.exists()
    artifacts.tidy(task)


# --- missing inputs ------------------------------------------------------------------------------


def test_an_input_that_does_not_exist_yet_names_its_task_and_the_command(root: Path) -> None:
    tasks = two_tasks(root)
    with pytest.raises(UserError, match="first: it has not run yet; run `make second`"):
        run(tasks[1], tasks, work=work_of(tasks[1]))
    (root / "source.txt").unlink()
    with pytest.raises(UserError, match=r"source\.txt is missing"):
        run(tasks[0], tasks, work=work_of(tasks[0]))


def test_an_input_that_was_changed_by_hand_is_refused(done: list[Task]) -> None:
    done[0].writes["y"].write_text("patched")
    with pytest.raises(UserError, match=r"data/one/y\.txt was changed after `first` wrote it"):
        run(done[1], done, work=work_of(done[1]))
    assert done[1].writes["z"].read_text() == "aaa"


# --- two processes at once -----------------------------------------------------------------------

PROGRAM = """\
import sys, time
from pathlib import Path
from pipeline.artifacts import run
from pipeline.task import Task
from pipeline.config import Preset

root, patience = Path(sys.argv[1]), float(sys.argv[2])
made = root / "out" / "made.txt"
manifest = made.with_name("manifest.json")
task = Task("slow", "slow", root, manifest, "pipeline.m:f", Preset(), 0, {"made": made})

def work(writes):
    with (root / "times").open("a") as file:
        file.write("worked\\n")
    (root / "begun").touch()
    end = time.monotonic() + patience
    while not (root / "go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    writes["made"].write_text("made")
    return {}

run(task, [], work=work)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """The project of the task `slow`."""
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "m.py").write_text("def f():\n    return 1\n")
    return tmp_path


def start(root: Path) -> "subprocess.Popen[str]":
    """Start a process that runs the task `slow`, which waits for a file `go`."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(root), str(PATIENCE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not path.exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.02)


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_process_waits_and_works_only_if_the_first_is_killed(
    slow: Path, killed: bool
) -> None:
    first = start(slow)
    wait_for(slow / "begun")
    second = start(slow)
    assert second.stderr is not None
    assert second.stderr.readline().startswith(f"slow: waiting for process {first.pid}")
    if killed:
        first.kill()
    else:
        (slow / "go").touch()
    first.communicate(timeout=PATIENCE)
    (slow / "go").touch()
    printed = second.communicate(timeout=PATIENCE)[0]
    assert ("slow: done in" in printed) == killed
    assert (printed == "slow: fresh\n") != killed
    assert (slow / "times").read_text() == "worked\n" * (1 + killed)
    assert (slow / "out/made.txt").read_text() == "made"


# --- remembered fingerprints ---------------------------------------------------------------------


def test_remembered_fingerprints_are_kept_and_damaged_ones_ignored(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "a"
    path.write_bytes(b"content")
    settle(path)
    with artifacts.stat_cache(tmp_path) as cache:
        digest = fingerprint(path, cache)
    with artifacts.stat_cache(tmp_path) as cache:
        assert cache[str(path)][4] == digest
    for damage in ("", "[]", "null"):
        (tmp_path / "data" / artifacts.STAT_CACHE).write_text(damage)
        with artifacts.stat_cache(tmp_path) as cache:
            assert fingerprint(path, cache) == digest
