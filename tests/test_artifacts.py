"""artifacts.py: files are complete or absent, and content alone decides what is stale."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE, settle

import pipeline
from pipeline import artifacts, config, files
from pipeline.artifacts import Task, Work, run, staleness
from pipeline.errors import ExternalError, UserError
from pipeline.files import atomic, fingerprint

# --- writing -------------------------------------------------------------------------------------


def test_atomic_puts_the_content_in_place(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "file.txt") as temporary:
        temporary.write_text("all of it")
        assert not (tmp_path / "new" / "file.txt").exists()
    assert (tmp_path / "new" / "file.txt").read_text() == "all of it"
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_leaves_the_old_content_when_the_block_raises(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(error), atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise error
    assert path.read_text() == "old"
    assert [left.name for left in tmp_path.iterdir()] == ["file.txt"]


def test_atomic_leaves_nothing_when_the_first_write_raises(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), atomic(tmp_path / "file.txt") as temporary:
        temporary.write_text("half")
        raise ValueError("stop")
    assert list(tmp_path.iterdir()) == []


def test_write_json_can_be_read_again(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"k": [1, "é"]})
    assert files.read_json(tmp_path / "a.json") == {"k": [1, "é"]}


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"'])
def test_read_json_accepts_objects_only(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert files.read_json(tmp_path / "a.json") is None
    assert files.read_json(tmp_path / "absent.json") is None


# --- fingerprints of files -----------------------------------------------------------------------


def test_equal_content_has_equal_fingerprints(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"same")
    (tmp_path / "b").write_bytes(b"same")
    (tmp_path / "c").write_bytes(b"Same")
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "c")


def test_a_change_in_place_with_the_old_date_is_noticed(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"pixel 1")
    dates = path.stat().st_atime_ns, path.stat().st_mtime_ns
    settle(path)
    before = fingerprint(path, cache)
    assert cache, "the fingerprint should have been remembered"
    with path.open("r+b") as file:
        file.write(b"pixel 2")
    os.utime(path, ns=dates)
    assert path.stat().st_mtime_ns == dates[1]
    assert fingerprint(path, cache) != before


def test_a_remembered_file_is_not_read_again(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"content")
    settle(path)
    fingerprint(path, cache)
    cache[str(path)][4] = "remembered"
    assert fingerprint(path, cache) == "remembered"


def test_a_file_written_this_moment_is_not_remembered(tmp_path: Path) -> None:
    path, cache = tmp_path / "a", {}
    path.write_bytes(b"content")
    os.utime(path)
    path.touch()
    if time.time_ns() - path.stat().st_ctime_ns < 50_000_000:
        fingerprint(path, cache)
        assert cache == {}


def test_remembered_fingerprints_are_kept(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "a"
    path.write_bytes(b"content")
    settle(path)
    with artifacts.stat_cache(tmp_path) as cache:
        digest = fingerprint(path, cache)
    with artifacts.stat_cache(tmp_path) as cache:
        assert cache[str(path)][4] == digest


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_a_damaged_cache_is_ignored(tmp_path: Path, damage: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "a"
    path.write_bytes(b"content")
    (tmp_path / "data" / artifacts.STAT_CACHE).write_text(damage)
    with artifacts.stat_cache(tmp_path) as cache:
        assert fingerprint(path, cache) == fingerprint(path)


@pytest.mark.parametrize("damage", [5, "text", [], [1, 2]])
def test_a_damaged_entry_of_the_cache_is_ignored(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert fingerprint(path, {str(path): damage}) == fingerprint(path)  # type: ignore[dict-item]


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
    first = Task(
        name="first",
        stage="first",
        root=root,
        manifest=one / "manifest.json",
        function="pipeline.first:f",
        reads={"source": root / "source.txt"},
        writes={"x": one / "x.txt", "y": one / "y.txt"},
        params={"size": 3, "mode": "a"},
    )
    second = Task(
        name="second",
        stage="second",
        root=root,
        manifest=two / "manifest.json",
        function="pipeline.second:f",
        reads={"y": one / "y.txt"},
        writes={"z": two / "z.txt"},
    )
    return [first, second]


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
    visible = {path.name for path in done[0].folder.iterdir() if path.suffix != ".lock"}
    assert visible == {"x.txt", "y.txt", "manifest.json"}
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
    task = Task(
        name="named",
        stage="named",
        root=root,
        manifest=root / "data" / "manifest.json",
        function="pipeline.named:f",
        reads={"source": root / "source.txt", "others": {"b": [root / "other.txt"]}},
        writes={"target": root / "data" / "target.txt"},
        params={"size": 2, "params": config.Split(folds=3)},
    )
    assert task.inputs == [root / "source.txt", root / "other.txt"]
    assert task.values() == {"size": 2, "split.folds": 3, "split.holdout": 0.15, "split.seed": 0}
    assert run(task, [task])
    assert (root / "data" / "target.txt").read_text() == "abab3-folds-seed-0"
    assert artifacts.metadata(task.manifest)["parts"] == 2


def test_a_run_prints_why_and_where_and_a_fresh_task_does_not_run(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    first, *_ = tasks = two_tasks(root)

    def ended(force: bool = False) -> tuple[bool, list[str]]:
        ran = run(first, tasks, force, work_of(first))
        return ran, capsys.readouterr().out.splitlines()

    ran, lines = ended()
    assert ran
    assert lines[0] == "first: missing; writing to data/one/"
    assert re.fullmatch(r"first: done in [\d.]+ s", lines[1])
    before = first.manifest.stat().st_ino
    assert ended() == (False, ["first: fresh"])
    assert first.manifest.stat().st_ino == before
    ran, lines = ended(force=True)
    assert ran
    assert lines[0] == "first: forced; writing to data/one/"
    (root / "source.txt").write_text("b")
    ran, lines = ended()
    assert ran
    assert lines[0] == "first: its input source.txt has changed; writing to data/one/"


# --- what is stale -------------------------------------------------------------------------------


def test_after_a_run_everything_is_fresh(done: list[Task]) -> None:
    assert staleness(done) == {"first": None, "second": None}


def test_before_any_run_everything_is_missing(root: Path) -> None:
    assert staleness(two_tasks(root)) == {"first": "missing", "second": "missing"}


def test_new_dates_are_no_change(done: list[Task], root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    assert staleness(done) == {"first": None, "second": None}


REBUILT = "its input data/one/y.txt will be rebuilt"


def test_a_deleted_file(done: list[Task]) -> None:
    done[0].writes["x"].unlink()
    assert staleness(done) == {"first": "data/one/x.txt is missing", "second": REBUILT}


def test_a_deleted_last_file_concerns_nothing_before_it(done: list[Task]) -> None:
    done[1].writes["z"].unlink()
    assert staleness(done) == {"first": None, "second": "data/two/z.txt is missing"}


def test_a_changed_file(done: list[Task]) -> None:
    done[0].writes["x"].write_text("aab")
    reasons = staleness(done)
    assert reasons == {
        "first": "data/one/x.txt is not the file that first wrote",
        "second": REBUILT,
    }


def test_a_deleted_manifest(done: list[Task]) -> None:
    done[0].manifest.unlink()
    assert staleness(done) == {"first": "missing", "second": REBUILT}


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"inputs": 1}'])
def test_a_damaged_manifest(done: list[Task], damage: str) -> None:
    done[0].manifest.write_text(damage)
    assert staleness(done) == {"first": "its manifest is damaged", "second": REBUILT}


def test_a_changed_input(done: list[Task], root: Path) -> None:
    (root / "source.txt").write_text("b")
    assert staleness(done) == {"first": "its input source.txt has changed", "second": REBUILT}


def test_an_input_that_is_another_file_than_before(done: list[Task]) -> None:
    other = replace(done[1], reads={"y": done[0].writes["x"]})
    assert staleness([done[0], other])["second"] == "its input data/one/x.txt has changed"
    none = replace(done[1], reads={})
    assert staleness([done[0], none])["second"] == "it reads other files than before"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"size": 4, "mode": "a"}, "parameter size was 3 and is now 4"),
        ({"size": 3, "mode": "b"}, 'parameter mode was "a" and is now "b"'),
        ({"size": 3, "mode": "a", "new": 1}, "parameter new was null and is now 1"),
        ({"size": 3}, 'parameter mode was "a" and is now null'),
    ],
)
def test_a_changed_parameter(done: list[Task], params: dict[str, object], reason: str) -> None:
    tasks = [replace(done[0], params=params), done[1]]
    assert staleness(tasks) == {"first": reason, "second": REBUILT}


def test_changed_code(done: list[Task], root: Path) -> None:
    (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
    assert staleness(done) == {"first": "the code in first.py has changed", "second": REBUILT}


def test_a_changed_comment_is_no_change(done: list[Task], root: Path) -> None:
    (root / "pipeline/first.py").write_text("# New.\ndef f():\n    return 1  # one\n")
    assert staleness(done) == {"first": None, "second": None}


def test_equal_files_of_a_second_run_leave_the_next_task_fresh(
    done: list[Task], root: Path
) -> None:
    (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
    done[0].writes["y"].unlink()
    assert run(done[0], done, work=work_of(done[0]))
    assert not run(done[1], done, work=work_of(done[1]))
    assert staleness(done) == {"first": None, "second": None}


# --- runs that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_files(done: list[Task], error: type[BaseException]) -> None:
    def work(writes: Mapping[str, Path]) -> dict[str, object]:
        writes["x"].write_text("half")
        raise error("stop")

    with pytest.raises(error):
        run(done[0], done, force=True, work=work)
    assert done[0].writes["x"].read_text() == "aaa"
    assert staleness(done) == {"first": None, "second": None}


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


@pytest.mark.parametrize("what", ["input", "parameter", "code"])
def test_other_work_starts_anew(root: Path, what: str) -> None:
    task = two_tasks(root)[0]
    with pytest.raises(KeyboardInterrupt):
        run(task, [], work=stopped_half_way)
    if what == "input":
        (root / "source.txt").write_text("b")
    elif what == "parameter":
        task = replace(task, params={"size": 2, "mode": "a"})
    else:
        (root / "pipeline/first.py").write_text("def f():\n    return 2\n")

    def starts(writes: Mapping[str, Path]) -> Mapping[str, object]:
        assert not writes["x"].with_name("half").exists()
        return work_of(task)(writes)

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


# --- missing inputs ------------------------------------------------------------------------------


def test_an_input_that_does_not_exist_yet_names_its_task_and_the_command(root: Path) -> None:
    tasks = two_tasks(root)
    with pytest.raises(UserError, match="first has not run yet; run `make second`"):
        run(tasks[1], tasks, work=work_of(tasks[1]))


def test_an_input_that_was_changed_by_hand_is_refused(done: list[Task]) -> None:
    done[0].writes["y"].write_text("patched")
    with pytest.raises(UserError, match=r"data/one/y\.txt is not the file that first wrote"):
        run(done[1], done, work=work_of(done[1]))
    assert done[1].writes["z"].read_text() == "aaa"


def test_the_message_names_a_missing_source_file(root: Path) -> None:
    (root / "source.txt").unlink()
    task = two_tasks(root)[0]
    with pytest.raises(UserError, match=r"source\.txt is missing"):
        run(task, [task], work=work_of(task))


# --- two processes at once -----------------------------------------------------------------------

PROGRAM = """\
import sys, time
from pathlib import Path
from pipeline.artifacts import Task, run

root, patience = Path(sys.argv[1]), float(sys.argv[2])
made = root / "out" / "made.txt"
task = Task("slow", "slow", root, made.with_name("manifest.json"), "pipeline.m:f", {"made": made})

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


def test_a_second_process_waits_and_does_not_repeat_the_work(slow: Path) -> None:
    first = start(slow)
    wait_for(slow / "begun")
    second = start(slow)
    assert second.stderr is not None
    message = second.stderr.readline()
    (slow / "go").touch()
    assert "slow: done in" in first.communicate(timeout=PATIENCE)[0]
    assert second.communicate(timeout=PATIENCE)[0] == "slow: fresh\n"
    assert message.startswith(f"slow: waiting for process {first.pid}")
    assert (slow / "times").read_text() == "worked\n"
    assert (slow / "out/made.txt").read_text() == "made"


def test_a_killed_process_blocks_nobody(slow: Path) -> None:
    first = start(slow)
    wait_for(slow / "begun")
    first.kill()
    first.communicate(timeout=PATIENCE)
    (slow / "go").touch()
    second = start(slow)
    output, errors = second.communicate(timeout=PATIENCE)
    assert "slow: done in" in output
    assert errors == ""
    assert (slow / "out/made.txt").read_text() == "made"


def test_when_the_first_process_is_killed_the_second_does_the_work(slow: Path) -> None:
    first = start(slow)
    wait_for(slow / "begun")
    second = start(slow)
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    first.kill()
    first.communicate(timeout=PATIENCE)
    (slow / "go").touch()
    assert "slow: done in" in second.communicate(timeout=PATIENCE)[0]
    assert (slow / "times").read_text() == "worked\nworked\n"
