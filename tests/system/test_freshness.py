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
from conftest import PACKAGE, Work, contents, killed_at, replace_cell, works, write_digits
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import stages
from pipeline.artifacts import Step, atomic, run, staleness, tidy
from pipeline.errors import UserError

# --- four small steps: one, two that read what it made, and one that reads what these made -------

NAMES = ("first", "left", "right", "last")
READS = {"first": (), "left": ("first",), "right": ("first",), "last": ("left", "right")}
CODE = "# {comment}\ndef f():\n    return {value}\n"


@dataclass
class Project:
    """A folder with a source, code and four steps, and what an observer knows of them."""

    root: Path
    source: str = "a"
    params: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    code: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    comments: int = 0
    # By step: what it was last made from, and what it then left.
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

    # --- the steps --------------------------------------------------------------------------------

    def step(self, name: str) -> Step:
        folder = self.root / "data" / "set" / name
        made = (self.root / "data" / "set" / its / f"{its}.txt" for its in READS[name])
        return Step(
            name=name,
            stage=name,
            root=self.root,
            manifest=folder / "manifest.json",
            outputs=(folder / f"{name}.txt", folder / "more.txt"),
            inputs=tuple(made) or (self.root / "source.txt",),
            params={"size": self.params[name]},
            code=(f"{name}.py",),
        )

    def steps(self) -> list[Step]:
        return [self.step(name) for name in NAMES]

    def work(self, name: str) -> Work:
        """Its output tells of all that it depends on; only `first` does not mind blanks."""

        def work(folder: Path) -> Mapping[str, Any]:
            self.worked.append(name)
            step, code = self.step(name), (self.root / "pipeline" / f"{name}.py").read_text()
            [value] = re.findall("return (.*)", code)
            checkpoint = folder / "checkpoint.txt"
            if not checkpoint.exists():
                read = " ".join(path.read_text().strip() for path in step.inputs)
                with atomic(checkpoint) as temporary:
                    temporary.write_text(f"{name} {value} {step.params['size']} ({read})")
            (folder / f"{name}.txt").write_text(checkpoint.read_text())
            (folder / "more.txt").write_text(name)
            return {}

        return work

    # --- what an observer knows -------------------------------------------------------------------

    def origin(self, name: str) -> object:
        inputs = [p.read_bytes() if p.exists() else None for p in self.step(name).inputs]
        return self.params[name], self.code[name], inputs

    def lies_there(self, name: str) -> object:
        """The bytes of the outputs, and what the manifest says, however it is laid out."""
        step, manifest = self.step(name), None
        with suppress(OSError, ValueError):
            manifest = json.loads(step.manifest.read_bytes())
        return manifest, [p.read_bytes() if p.exists() else None for p in step.outputs]

    def is_due(self, name: str) -> bool:
        asked, there = self.origin(name), self.lies_there(name)
        return self.made_from.get(name) != asked or self.left.get(name) != there

    def note(self, name: str) -> None:
        self.made_from[name], self.left[name] = self.origin(name), self.lies_there(name)

    # --- actions ----------------------------------------------------------------------------------

    def files(self) -> list[Path]:
        return [path for step in self.steps() for path in (*step.outputs, step.manifest)]

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
        before = self.step(name).manifest
        old = before.read_bytes() if before.exists() else None
        killed_at(moment, lambda: self.try_to_run(name))
        new = before.read_bytes() if before.exists() else None
        if new != old:  # it came as far as the manifest, which is last
            self.note(name)

    def try_to_run(self, name: str) -> bool:
        """A step that is asked for by hand may find that what it reads is not there."""
        with suppress(UserError):
            return run(self.step(name), self.work(name), self.steps())
        return False

    def by_hand(self, name: str) -> None:
        whole = all(not self.lacks(its) for its in READS[name])
        assert self.try_to_run(name) == whole, "it runs on what is whole, and on nothing else"
        if whole:
            self.note(name)

    def lacks(self, name: str) -> bool:
        return self.left.get(name) != self.lies_there(name)

    def make(self) -> None:
        """Each step is redone if it has to be, and only then."""
        for name in NAMES:
            due = self.is_due(name)
            assert (staleness([self.step(name)])[name] is not None) == due
            self.worked.clear()
            assert run(self.step(name), self.work(name), self.steps(), if_stale=True) == due
            assert self.worked == [name] * due
            self.note(name)


def damage(path: Path, how: int) -> None:
    """Flip a bit, cut off the end, or empty the file; dates stay as they were."""
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


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
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
    steps = project.steps()
    reasons = staleness(steps)
    assert reasons == dict.fromkeys(NAMES), "all is fresh after a run"
    project.make()  # which asserts that nothing is redone

    clean = Project(next(folders), project.source, project.params, project.code)
    clean.make()
    for step, its in zip(steps, clean.steps(), strict=True):
        assert [p.read_bytes() for p in step.outputs] == [p.read_bytes() for p in its.outputs]
    tidy(steps, reasons)
    names = {str(path.relative_to(project.root)) for path in project.files()}
    assert set(contents(project.root / "data")) == {name.removeprefix("data/") for name in names}


# --- the real stages, with a training that takes no time -----------------------------------------

STAGES = ("download", "preprocess", "split", "train", "ensemble", "write")
REAL_ACTION = st.tuples(
    st.sampled_from(["pixel", "label", "comment", "statement", "delete", "damage", "kill", "make"]),
    st.integers(0, 30),
    st.integers(1, 40),
)


@pytest.fixture(scope="module")
def clean_builds() -> dict[tuple[int, int], dict[str, bytes]]:
    """What a clean build leaves, by the variant of the data."""
    return {}


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(actions=st.lists(REAL_ACTION, min_size=1, max_size=5))
def test_any_history_of_the_real_stages_ends_as_a_clean_build(
    folders: Iterator[Path],
    clean_builds: dict[tuple[int, int], dict[str, bytes]],
    actions: list[tuple[str, int, int]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        steps, source = new_project(next(folders), patch)
        make(source)
        variant = [0, 0]
        for action, which, how in actions:
            files = [path for step in steps for path in (*step.outputs, step.manifest)]
            path, stage = files[which % len(files)], STAGES[which % len(STAGES)]
            code = stages.ROOT / "pipeline" / f"{stage}.py"
            match action:
                case "pixel":
                    variant[0] = how % 2
                    replace_cell(source / "test.csv", 7, 300, str(variant[0]))
                case "label":
                    variant[1] = how % 2
                    replace_cell(source / "train.csv", 7, 0, str(5 + variant[1]))
                case "comment":
                    code.write_text(f"{code.read_text()}# {how}\n")
                case "statement":
                    code.write_text(f"{code.read_text()}x = {how}\n")
                case "delete":
                    path.unlink(missing_ok=True)
                case "damage" if path.exists() and path.stat().st_size:
                    damage(path, how)
                case "kill":
                    killed_at(3 * how, lambda: make(source))
                case "make":
                    make(source)
        make(source)
        assert set(staleness(steps).values()) == {None}
        assert make(source) == []
        outcome = outputs(steps)
        if tuple(variant) not in clean_builds:
            steps, source = new_project(next(folders), patch)
            replace_cell(source / "test.csv", 7, 300, str(variant[0]))
            replace_cell(source / "train.csv", 7, 0, str(5 + variant[1]))
            make(source)
            clean_builds[variant[0], variant[1]] = outputs(steps)
        assert outcome == clean_builds[variant[0], variant[1]]


def new_project(home: Path, patch: pytest.MonkeyPatch) -> tuple[list[Step], Path]:
    """A project in which nothing was made, and a source with the first variant of the data."""
    source = write_digits(home / "tiny")
    replace_cell(source / "test.csv", 7, 300, "0")
    replace_cell(source / "train.csv", 7, 0, "5")
    root = home / "project"
    shutil.copytree(PACKAGE, root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data").mkdir()
    patch.setattr(stages, "ROOT", root)
    return [step for step, _ in works(str(source))], source


def make(source: Path) -> list[str]:
    """Run what is stale; gives the names of the steps that ran."""
    made = works(str(source))
    steps = [step for step, _ in made]
    return [step.name for step, work in made if run(step, work, steps, if_stale=True)]


def outputs(steps: list[Step]) -> dict[str, bytes]:
    """The outputs less the page of the report, which rests on manifests and their times."""
    return {
        step.label(path): path.read_bytes()
        for step in steps
        if step.stage != "report"
        for path in step.outputs
    }
