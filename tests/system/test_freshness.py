"""Whatever is edited, damaged, killed and run, in whatever order: it ends as a clean build does."""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import contents, killed_at
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline.artifacts import run, states
from pipeline.config import Preset
from pipeline.errors import UserError
from pipeline.files import atomic
from pipeline.task import Task, Work

# --- four small tasks: one, two that read its file, and one that reads theirs --------------------

NAMES = ("first", "left", "right", "last")
READS = {"first": (), "left": ("first",), "right": ("first",), "last": ("left", "right")}
CODE = "# {comment}\ndef f():\n    return {value}\n"


@dataclass
class Project:
    """A folder with a source, code and four tasks, and what an observer knows of them."""

    root: Path
    source: str = "a"
    params: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    code: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    comments: int = 0
    # For each task: what it last ran on, and the files it then left.
    made_from: dict[str, object] = field(default_factory=dict)
    left: dict[str, object] = field(default_factory=dict)
    worked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.root / "pipeline").mkdir(parents=True)
        (self.root / "data").mkdir()
        self.write()

    def write(self) -> None:
        (self.root / "source.txt").write_text(self.source)
        for name in NAMES:
            code = CODE.format(comment=self.comments, value=self.code[name])
            (self.root / "pipeline" / f"{name}.py").write_text(code)

    # --- the tasks --------------------------------------------------------------------------------

    def task(self, name: str) -> Task:
        folder = self.root / "data" / "set" / name
        made = {its: self.root / "data" / "set" / its / f"{its}.txt" for its in READS[name]}
        return Task(
            name=name,
            stage=name,
            root=self.root,
            manifest=folder / "manifest.json",
            function=f"pipeline.{name}:f",
            preset=Preset(),
            fold=0,
            reads=made or {"source": self.root / "source.txt"},
            writes={"own": folder / f"{name}.txt", "more": folder / "more.txt"},
            params={"size": self.params[name]},
        )

    def tasks(self) -> list[Task]:
        return [self.task(name) for name in NAMES]

    def work(self, name: str) -> Work:
        """Its output shows all that it depends on, except blanks around what it reads."""

        def work(writes: Mapping[str, Path]) -> Mapping[str, Any]:
            self.worked.append(name)
            task, code = self.task(name), (self.root / "pipeline" / f"{name}.py").read_text()
            [value] = re.findall("return (.*)", code)
            checkpoint = task.staging / "checkpoint.txt"
            if not checkpoint.exists():
                read = " ".join(path.read_text().strip() for path in task.inputs)
                with atomic(checkpoint) as temporary:
                    temporary.write_text(f"{name} {value} {task.params['size']} ({read})")
            writes["own"].write_text(checkpoint.read_text())
            writes["more"].write_text(name)
            return {}

        return work

    # --- what an observer knows -------------------------------------------------------------------

    def origin(self, name: str) -> object:
        inputs = [p.read_bytes() if p.exists() else None for p in self.task(name).inputs]
        return self.params[name], self.code[name], inputs

    def files_of(self, name: str) -> object:
        """The bytes of its outputs, and the content of its manifest, however it is laid out."""
        task, manifest = self.task(name), None
        with suppress(OSError, ValueError):
            manifest = json.loads(task.manifest.read_bytes())
        return manifest, [p.read_bytes() if p.exists() else None for p in task.writes.values()]

    def is_due(self, name: str) -> bool:
        return self.made_from.get(name) != self.origin(name) or self.is_damaged(name)

    def is_damaged(self, name: str) -> bool:
        return self.left.get(name) != self.files_of(name)

    def note(self, name: str) -> None:
        self.made_from[name], self.left[name] = self.origin(name), self.files_of(name)

    # --- actions ----------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        return [path for task in self.tasks() for path in (*task.writes.values(), task.manifest)]

    def act(self, action: str, which: int, how: int) -> None:
        name = NAMES[which % 4]
        path, other = self.files()[which % 12], self.files()[(which + 1 + how) % 12]
        match action:
            case "source":
                self.source = ("a", "b", "a ")[how % 3]
            case "param":
                self.params[name] = how % 2
            case "code":
                self.code[name] = how % 2
            case "comment":
                self.comments += 1
            case "delete":
                path.unlink(missing_ok=True)
            case "damage" if path.exists() and path.stat().st_size:
                damage(path, how)
            case "swap" if path.exists() and other.exists():
                content = path.read_bytes()
                path.write_bytes(other.read_bytes())
                other.write_bytes(content)
            case "dates":
                for each in self.root.rglob("*"):
                    os.utime(each, (946_684_800 + how, 946_684_800 + how))
            case "move":
                root = self.root.with_name(f"{self.root.name}+")
                shutil.copytree(self.root, root)
                shutil.rmtree(self.root)
                self.root = root
            case "kill":
                self.kill(name, how)
            case "by hand":
                self.by_hand(name)
            case "make":
                self.make()
        if action in ("source", "param", "code", "comment"):
            self.write()

    def kill(self, name: str, moment: int) -> None:
        manifest = self.task(name).manifest
        old = manifest.read_bytes() if manifest.exists() else None
        killed_at(moment, lambda: self.try_to_run(name))
        new = manifest.read_bytes() if manifest.exists() else None
        if new != old:  # it got as far as the manifest, which comes last
            self.note(name)

    def try_to_run(self, name: str) -> bool:
        """Run a task, due or not; it may find that its inputs are missing or damaged."""
        with suppress(UserError):
            return run(self.task(name), self.tasks(), force=True, work=self.work(name))
        return False

    def by_hand(self, name: str) -> None:
        intact = not any(self.is_damaged(its) for its in READS[name])
        assert self.try_to_run(name) == intact, "it runs on intact files, and on nothing else"
        if intact:
            self.note(name)

    def make(self) -> None:
        """Each task runs if it is due, and only then."""
        for name in NAMES:
            due = self.is_due(name)
            assert states([self.task(name)])[name].fresh == (not due)
            self.worked.clear()
            assert run(self.task(name), self.tasks(), work=self.work(name)) == due
            assert self.worked == [name] * due
            self.note(name)


def damage(path: Path, how: int) -> None:
    """Flip a bit, cut off the end, or empty the file; dates stay the same."""
    content, stat = bytearray(path.read_bytes()), path.stat()
    if how % 3 == 0:
        content[how % len(content)] ^= 1 << how % 8
    elif how % 3 == 1:
        del content[-1 - how % len(content) :]
    else:
        content.clear()
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


ACTION = st.tuples(
    st.sampled_from(
        [
            *("source", "param", "code", "comment", "delete", "damage", "swap", "dates", "move"),
            *("kill", "kill", "by hand", "make", "make"),
        ]
    ),
    st.integers(0, 11),
    st.integers(1, 40),
)
# After a first build: nothing can be damaged that is not there.
ACTIONS = st.lists(ACTION, max_size=12).map(lambda actions: [("make", 0, 0), *actions])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder for each example."""
    home = tmp_path_factory.mktemp("examples")
    return (home / str(number) for number in range(1_000_000))  # type: ignore[return-value]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=ACTIONS)
@example(actions=[("kill", 0, moment) for moment in range(1, 20)])
@example(actions=[("make", 0, 0), ("param", 0, 1), ("kill", 0, 16), ("param", 0, 0)])
@example(actions=[("make", 0, 0), ("source", 0, 2), ("make", 0, 0)])
@example(actions=[("make", 0, 0), ("swap", 0, 2), ("by hand", 1, 1), ("swap", 0, 2)])
def test_any_history_ends_as_a_clean_build(
    folders: Iterator[Path], actions: list[tuple[str, int, int]]
) -> None:
    project = Project(next(folders))
    for action in actions:
        project.act(*action)
    project.make()
    tasks = project.tasks()
    assert due_of(tasks) == [], "everything is fresh after a run"
    project.make()  # which asserts that nothing runs again

    clean = Project(next(folders), project.source, project.params, project.code)
    clean.make()
    for task, its in zip(tasks, clean.tasks(), strict=True):
        for name, path in task.writes.items():
            assert path.read_bytes() == its.writes[name].read_bytes()
    names = {str(path.relative_to(project.root)) for path in project.files()}
    assert set(contents(project.root / "data")) == {name.removeprefix("data/") for name in names}


def due_of(tasks: list[Task]) -> list[str]:
    """The names of the tasks that are not fresh."""
    return [name for name, state in states(tasks).items() if not state.fresh]
