"""artifacts.py: files are whole or absent, and what is stale is known by content alone."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import PATIENCE, settle

from pipeline import artifacts
from pipeline.artifacts import Step, atomic, code_fingerprint, fingerprint, run, staleness
from pipeline.errors import UserError

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
    artifacts.write_json(tmp_path / "a.json", {"k": [1, "é"]})
    assert artifacts.read_json(tmp_path / "a.json") == {"k": [1, "é"]}


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '"text"'])
def test_read_json_takes_objects_only(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    assert artifacts.read_json(tmp_path / "a.json") is None
    assert artifacts.read_json(tmp_path / "absent.json") is None


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


def test_what_is_remembered_lasts_to_the_next_time(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "a"
    path.write_bytes(b"content")
    settle(path)
    with artifacts.stat_cache(tmp_path) as cache:
        digest = fingerprint(path, cache)
    with artifacts.stat_cache(tmp_path) as cache:
        assert cache[str(path)][4] == digest


@pytest.mark.parametrize("damage", ["", "{", "[]", "null"])
def test_damaged_memories_are_forgotten(tmp_path: Path, damage: str) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "a"
    path.write_bytes(b"content")
    (tmp_path / "data" / artifacts.STAT_CACHE).write_text(damage)
    with artifacts.stat_cache(tmp_path) as cache:
        assert fingerprint(path, cache) == fingerprint(path)


@pytest.mark.parametrize("damage", [5, "text", [], [1, 2]])
def test_memories_of_another_shape_are_forgotten(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"content")
    assert fingerprint(path, {str(path): damage}) == fingerprint(path)  # type: ignore[dict-item]


# --- fingerprints of code ------------------------------------------------------------------------

SOURCE = '''\
"""What the module is for."""

import math

FACTOR = 2


def double(x):
    """Twice x."""
    # An explanation.
    return _times(x)


def _times(x):
    return x * FACTOR


def half(x):
    return x / math.pi


class Shape:
    """A shape."""

    sides = 4

    def area(self):
        """Its area."""
        return self.sides
'''


def changed(old: str, new: str, entry: str, folder: Path) -> bool:
    """Whether replacing `old` by `new` in SOURCE changes the fingerprint of an entry."""
    assert old in SOURCE
    (folder / "m.py").write_text(SOURCE)
    before = code_fingerprint(entry, folder)
    (folder / "m.py").write_text(SOURCE.replace(old, new))
    return code_fingerprint(entry, folder) != before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# An explanation.", "# A better explanation."),
        ("    # An explanation.\n", ""),
        ("Twice x.", "Two times x."),
        ('    """Twice x."""\n', ""),
        ('"""What the module is for."""', '"""Something else."""'),
        ('    """A shape."""\n', ""),
        ("return x * FACTOR", "return (x\n            * FACTOR)"),
        ("\n\n\ndef half", "\n\n\n\n\ndef half"),
    ],
)
def test_comments_docstrings_and_layout_are_no_change(tmp_path: Path, old: str, new: str) -> None:
    assert not changed(old, new, "m.py", tmp_path)
    assert not changed(old, new, "m.py:double", tmp_path)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("FACTOR = 2", "FACTOR = 3"),
        ("x * FACTOR", "x + FACTOR"),
        ("x / math.pi", "x / math.e"),
        ("sides = 4", "sides = 5"),
        ("import math", "import cmath as math"),
        ("def double(x)", "def double(x=None)"),
        ("return self.sides", "return None"),
    ],
)
def test_code_is_a_change(tmp_path: Path, old: str, new: str) -> None:
    assert changed(old, new, "m.py", tmp_path)


def test_one_definition_depends_on_its_helpers_and_on_nothing_else(tmp_path: Path) -> None:
    for old, new in [("x * FACTOR", "x + FACTOR"), ("FACTOR = 2", "FACTOR = 3")]:
        assert changed(old, new, "m.py:double", tmp_path)
        assert not changed(old, new, "m.py:half", tmp_path)
    assert changed("x / math.pi", "x / math.e", "m.py:half", tmp_path)
    assert not changed("x / math.pi", "x / math.e", "m.py:double", tmp_path)
    assert not changed("sides = 4", "sides = 5", "m.py:double", tmp_path)
    assert changed("import math", "import cmath as math", "m.py:half", tmp_path)


@pytest.mark.parametrize(
    "helper",
    [
        "A, B = {}, 1\n",
        "if True:\n    A = {}\nelse:\n    A = 0\n",
        "A: int = {}\n",
        "try:\n    A = {}\nexcept ValueError:\n    A = 0\n",
        "A = 0\nA += {}\n",
        "for A in range({}):\n    pass\n",
        "async def A():\n    return {}\n",
    ],
)
def test_helpers_are_found_however_they_are_defined(tmp_path: Path, helper: str) -> None:
    user = "def f():\n    return A\n"
    (tmp_path / "m.py").write_text(helper.format(1) + user)
    before = code_fingerprint("m.py:f", tmp_path)
    (tmp_path / "m.py").write_text(helper.format(2) + user)
    assert code_fingerprint("m.py:f", tmp_path) != before


# --- steps: a first that reads a source file, a second that reads what the first made -----------


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one source file to read and one module of code."""
    (tmp_path / "data").mkdir()
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "first.py").write_text("def f():\n    return 1\n")
    (tmp_path / "pipeline" / "second.py").write_text("def f():\n    return 1\n")
    (tmp_path / "source.txt").write_text("a")
    return tmp_path


def two_steps(root: Path) -> list[Step]:
    first = Step(
        name="first",
        stage="first",
        root=root,
        manifest=root / "data" / "one" / "manifest.json",
        outputs=(root / "data" / "one" / "x.txt", root / "data" / "one" / "y.txt"),
        inputs=(root / "source.txt",),
        params={"size": 3, "mode": "a"},
        code=("first.py",),
    )
    second = Step(
        name="second",
        stage="second",
        root=root,
        manifest=root / "data" / "two" / "manifest.json",
        outputs=(root / "data" / "two" / "z.txt",),
        inputs=(root / "data" / "one" / "y.txt",),
        code=("second.py",),
    )
    return [first, second]


def work_of(step: Step) -> Callable[[Path], dict[str, object]]:
    """Each output is the contents of the inputs, once more for each unit of `size`."""

    def work(folder: Path) -> dict[str, object]:
        text = "".join(path.read_text() for path in step.inputs) * step.params.get("size", 1)
        for path in step.outputs:
            (folder / path.name).write_text(text)
        return {"letters": len(text)}

    return work


@pytest.fixture
def done(root: Path) -> list[Step]:
    """Two steps that have run."""
    steps = two_steps(root)
    for step in steps:
        assert run(step, work_of(step), steps)
    return steps


def test_a_run_leaves_outputs_and_manifest_and_nothing_else(done: list[Step], root: Path) -> None:
    assert (root / "data/one/x.txt").read_text() == "aaa"
    visible = {path.name for path in (root / "data/one").iterdir() if path.suffix != ".lock"}
    assert visible == {"x.txt", "y.txt", "manifest.json"}
    manifest = json.loads((root / "data/one/manifest.json").read_text())
    assert manifest["stage"] == "first"
    assert manifest["params"] == {"size": 3, "mode": "a"}
    assert manifest["inputs"] == {"source.txt": fingerprint(root / "source.txt")}
    assert manifest["outputs"]["data/one/x.txt"] == fingerprint(root / "data/one/x.txt")
    assert list(manifest["code"]) == ["first.py"]
    assert manifest["facts"]["letters"] == 3
    assert manifest["facts"]["seconds"] >= 0


def test_after_a_run_all_is_fresh(done: list[Step]) -> None:
    assert staleness(done) == {"first": None, "second": None}


def test_before_any_run_all_is_missing(root: Path) -> None:
    assert staleness(two_steps(root)) == {"first": "missing", "second": "missing"}


def test_new_dates_are_no_change(done: list[Step], root: Path) -> None:
    for path in root.rglob("*"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
    assert staleness(done) == {"first": None, "second": None}


MADE_AGAIN = "its input data/one/y.txt is to be made again"


def test_a_deleted_output(done: list[Step], root: Path) -> None:
    (root / "data/one/x.txt").unlink()
    assert staleness(done) == {"first": "data/one/x.txt is missing", "second": MADE_AGAIN}


def test_a_deleted_last_output_concerns_nothing_before_it(done: list[Step], root: Path) -> None:
    (root / "data/two/z.txt").unlink()
    assert staleness(done) == {"first": None, "second": "data/two/z.txt is missing"}


def test_a_changed_output(done: list[Step], root: Path) -> None:
    (root / "data/one/x.txt").write_text("aab")
    reasons = staleness(done)
    assert reasons["first"] == "data/one/x.txt is not the file that first wrote"
    assert reasons["second"] == MADE_AGAIN


def test_a_deleted_manifest(done: list[Step]) -> None:
    done[0].manifest.unlink()
    assert staleness(done) == {"first": "missing", "second": MADE_AGAIN}


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"inputs": 1}'])
def test_a_damaged_manifest(done: list[Step], damage: str) -> None:
    done[0].manifest.write_text(damage)
    assert staleness(done) == {"first": "its manifest is damaged", "second": MADE_AGAIN}


def test_a_changed_input(done: list[Step], root: Path) -> None:
    (root / "source.txt").write_text("b")
    assert staleness(done) == {
        "first": "its input source.txt has changed",
        "second": MADE_AGAIN,
    }


def test_an_input_that_is_another_file_than_before(done: list[Step], root: Path) -> None:
    steps = [done[0], replace(done[1], inputs=(root / "data/one/x.txt",))]
    assert staleness(steps)["second"] == "its input data/one/x.txt has changed"
    steps = [done[0], replace(done[1], inputs=())]
    assert staleness(steps)["second"] == "its inputs are other files than before"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"size": 4, "mode": "a"}, "parameter size was 3 and is 4"),
        ({"size": 3, "mode": "b"}, 'parameter mode was "a" and is "b"'),
        ({"size": 3, "mode": "a", "new": 1}, "parameter new was null and is 1"),
        ({"size": 3}, 'parameter mode was "a" and is null'),
    ],
)
def test_a_changed_parameter(done: list[Step], params: dict[str, object], reason: str) -> None:
    steps = [replace(done[0], params=params), done[1]]
    assert staleness(steps) == {"first": reason, "second": MADE_AGAIN}


def test_changed_code(done: list[Step], root: Path) -> None:
    (root / "pipeline/first.py").write_text("def f():\n    return 2\n")
    assert staleness(done) == {"first": "the code of first.py has changed", "second": MADE_AGAIN}


def test_a_changed_comment_is_no_change(done: list[Step], root: Path) -> None:
    (root / "pipeline/first.py").write_text("# New.\ndef f():\n    return 1  # one\n")
    assert staleness(done) == {"first": None, "second": None}


def test_equal_outputs_of_a_second_run_leave_the_next_step_fresh(
    done: list[Step], root: Path
) -> None:
    (root / "pipeline/first.py").write_text("def g():\n    return 1\n")
    run(done[0], work_of(done[0]), done)
    assert staleness(done) == {"first": None, "second": None}


# --- runs that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_a_failure_leaves_the_earlier_outputs(
    done: list[Step], root: Path, error: type[BaseException]
) -> None:
    def work(folder: Path) -> dict[str, object]:
        (folder / "x.txt").write_text("half")
        raise error("stop")

    with pytest.raises(error):
        run(done[0], work, done)
    assert (root / "data/one/x.txt").read_text() == "aaa"
    assert staleness(done) == {"first": None, "second": None}


def test_a_forgotten_output_replaces_nothing(done: list[Step], root: Path) -> None:
    (root / "source.txt").write_text("b")

    def work(folder: Path) -> dict[str, object]:
        (folder / "x.txt").write_text("bbb")
        return {}

    with pytest.raises(FileNotFoundError):
        run(done[0], work, done)
    assert (root / "data/one/x.txt").read_text() == "aaa"
    assert (root / "data/one/y.txt").read_text() == "aaa"


def stopped_after_half(folder: Path) -> dict[str, object]:
    (folder / "half").write_text("done so far")
    raise KeyboardInterrupt


def test_the_same_work_goes_on_where_it_was_stopped(root: Path) -> None:
    step = two_steps(root)[0]
    with pytest.raises(KeyboardInterrupt):
        run(step, stopped_after_half, [])

    def goes_on(folder: Path) -> dict[str, object]:
        assert (folder / "half").read_text() == "done so far"
        return work_of(step)(folder)

    assert run(step, goes_on, [])
    assert not (root / "data/one/half").exists()
    assert not step.workplace.exists()


def test_a_mistake_clears_what_it_left_and_spares_what_was_there(root: Path) -> None:
    step = two_steps(root)[0]

    def mistaken(folder: Path) -> dict[str, object]:
        (folder / "large").touch()
        raise UserError("there is no such thing")

    with pytest.raises(UserError):
        run(step, mistaken, [])
    assert not step.workplace.exists()
    with pytest.raises(KeyboardInterrupt):
        run(step, stopped_after_half, [])
    with pytest.raises(UserError):
        run(step, mistaken, [])
    assert (step.workplace / "half").read_text() == "done so far"


@pytest.mark.parametrize("what", ["input", "parameter", "code"])
def test_other_work_begins_from_nothing(root: Path, what: str) -> None:
    step = two_steps(root)[0]
    with pytest.raises(KeyboardInterrupt):
        run(step, stopped_after_half, [])
    if what == "input":
        (root / "source.txt").write_text("b")
    elif what == "parameter":
        step = replace(step, params={"size": 2, "mode": "a"})
    else:
        (root / "pipeline/first.py").write_text("def f():\n    return 2\n")

    def begins(folder: Path) -> dict[str, object]:
        assert not (folder / "half").exists()
        return work_of(step)(folder)

    assert run(step, begins, [])


# --- inputs that are not there -------------------------------------------------------------------


def test_an_input_that_was_not_made_yet_names_the_step_and_what_to_type(root: Path) -> None:
    steps = two_steps(root)
    with pytest.raises(UserError, match="first has not run yet; run `make second`"):
        run(steps[1], work_of(steps[1]), steps)


def test_an_input_that_was_changed_by_hand_is_refused(done: list[Step], root: Path) -> None:
    (root / "data/one/y.txt").write_text("patched")
    with pytest.raises(UserError, match=r"data/one/y\.txt is not the file that first wrote"):
        run(done[1], work_of(done[1]), done)
    assert (root / "data/two/z.txt").read_text() == "aaa"


def test_a_missing_source_file_is_named(root: Path) -> None:
    (root / "source.txt").unlink()
    step = two_steps(root)[0]
    with pytest.raises(UserError, match=r"source.txt is missing"):
        run(step, work_of(step), [step])


# --- two processes at once -----------------------------------------------------------------------

PROGRAM = """\
import sys, time
from pathlib import Path
from pipeline.artifacts import Step, run

root, patience = Path(sys.argv[1]), float(sys.argv[2])
step = Step("slow", "slow", root, root / "out" / "manifest.json", (root / "out" / "made.txt",))

def work(folder):
    with (root / "times").open("a") as file:
        file.write("worked\\n")
    (root / "begun").touch()
    end = time.monotonic() + patience
    while not (root / "go").exists() and time.monotonic() < end:
        time.sleep(0.02)
    if (root / "die").exists():
        raise SystemExit(9)
    (folder / "made.txt").write_text("made")
    return {}

print(run(step, work, []))
"""


def start(root: Path) -> "subprocess.Popen[str]":
    """Start a process that does the step `slow`, which lasts until there is a file `go`."""
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


def test_a_second_process_waits_and_does_not_do_the_work_again(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for(tmp_path / "begun")
    second = start(tmp_path)
    assert second.stderr is not None
    said = second.stderr.readline()
    (tmp_path / "go").touch()
    assert first.communicate(timeout=PATIENCE)[0] == "True\n"
    assert second.communicate(timeout=PATIENCE)[0] == "False\n"
    assert said == f"slow: waiting for process {first.pid}, which is at it\n"
    assert (tmp_path / "times").read_text() == "worked\n"
    assert (tmp_path / "out/made.txt").read_text() == "made"


def test_a_process_that_was_killed_blocks_nobody(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for(tmp_path / "begun")
    first.kill()
    first.communicate(timeout=PATIENCE)
    (tmp_path / "go").touch()
    second = start(tmp_path)
    output, errors = second.communicate(timeout=PATIENCE)
    assert (output, errors) == ("True\n", "")
    assert (tmp_path / "out/made.txt").read_text() == "made"


def test_when_the_first_process_fails_the_second_does_the_work(tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for(tmp_path / "begun")
    second = start(tmp_path)
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    first.kill()
    first.communicate(timeout=PATIENCE)
    (tmp_path / "go").touch()
    assert second.communicate(timeout=PATIENCE)[0] == "True\n"
    assert (tmp_path / "times").read_text() == "worked\nworked\n"
