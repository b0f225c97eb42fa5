"""Kills, damage and company, step by step: whatever happens, the bytes are those of a quiet run."""

import ast
import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE, Work, contents, killed_at, settle, works

from pipeline import artifacts
from pipeline.artifacts import Step, atomic, fingerprint, run, staleness, tidy
from pipeline.errors import UserError

EPOCHS = 3


def long_step(root: Path, size: int = 2) -> Step:
    """A step with a source to read and two files to leave."""
    return Step(
        name="long",
        stage="long",
        root=root,
        manifest=root / "data" / "set" / "long" / "manifest.json",
        outputs=tuple(root / "data" / "set" / "long" / name for name in ("x.txt", "y.txt")),
        inputs=(root / "source.txt",),
        params={"size": size},
    )


def long_work(step: Step) -> Work:
    """Work of several epochs with a checkpoint after each; diary.txt tells which were begun."""

    def work(folder: Path) -> Mapping[str, Any]:
        checkpoint = folder / "checkpoint.txt"
        state = checkpoint.read_text() if checkpoint.exists() else ""
        for epoch in range(len(state), EPOCHS):
            with (step.root / "diary.txt").open("a") as diary:
                diary.write(str(epoch))
            state += step.inputs[0].read_text()
            with atomic(checkpoint) as temporary:
                temporary.write_text(state)
        for path in step.outputs:
            (folder / path.name).write_text(path.name + state * step.params["size"])
        return {}

    return work


def project(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "source.txt").write_text("a")
    return folder


def made(step: Step) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in step.outputs if path.exists()}


def no_leftovers(step: Step) -> bool:
    """Nothing but outputs, manifest and lock lies there once `make` has looked at it."""
    tidy([step], staleness([step]))
    names = {path.name for path in step.manifest.parent.iterdir()}
    return names == {*made(step), "manifest.json", ".manifest.lock"}


# --- kills ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [None, 1], ids=["at first", "over something older"])
def test_a_kill_at_any_moment_costs_an_epoch_at_most(tmp_path: Path, before: int | None) -> None:
    """Before every operation on a file, and in the middle of every file, one after the other."""
    calm = long_step(project(tmp_path / "calm"))
    run(calm, long_work(calm), [])
    older = {}
    for moment in itertools.count(1):
        root = project(tmp_path / str(moment))
        if before is not None:
            run(long_step(root, before), long_work(long_step(root, before)), [])
            older = made(long_step(root, before))
            (root / "diary.txt").unlink()
        step = long_step(root)
        killed = killed_at(moment, lambda step=step: run(step, long_work(step), []))
        for name, content in made(step).items():
            assert content in (made(calm)[name], older.get(name)), "half a file"
        if staleness([step])["long"] is None:
            assert made(step) == made(calm), "it is called fresh and is not"
        run(step, long_work(step), [], if_stale=True)
        assert made(step) == made(calm)
        begun = (root / "diary.txt").read_text()
        assert begun.replace("00", "0").replace("11", "1").replace("22", "2") == "012"
        assert len(begun) <= EPOCHS + 1, "only the epoch that was under way is done again"
        assert no_leftovers(step)
        assert staleness([step]) == {"long": None}
        if not killed:
            break
    assert moment > 30


def test_kills_one_after_the_other_lose_nothing(tmp_path: Path) -> None:
    """Each run is killed a moment later than the one before, and goes on from its debris."""
    calm = long_step(project(tmp_path / "calm"))
    run(calm, long_work(calm), [])
    step = long_step(project(tmp_path / "disturbed"))
    moments = itertools.count(1)
    while killed_at(next(moments), lambda: run(step, long_work(step), [])):
        pass
    assert next(moments) > 20
    assert made(step) == made(calm)
    assert no_leftovers(step)


STAGES = ("download", "preprocess", "split", "train", "ensemble", "write", "report")


@pytest.fixture
def built(project: Path, tiny_folder: Path) -> tuple[Path, list[tuple[Step, Work]]]:
    """A project in which every stage has run, with a training that takes no time."""
    steps_and_works = works(str(tiny_folder))
    steps = [step for step, _ in steps_and_works]
    for step, work in steps_and_works:
        run(step, work, steps)
    return project, steps_and_works


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_may_be_killed_at_every_moment(
    built: tuple[Path, list[tuple[Step, Work]]], stage: str
) -> None:
    folder, steps_and_works = built
    steps = [step for step, _ in steps_and_works]
    step, work = next((step, work) for step, work in steps_and_works if step.stage == stage)
    before, all_fresh = contents(folder), {step.name: None for step in steps}
    for moment in itertools.count(1):
        for path in (*step.outputs, step.manifest):
            path.unlink()
        killed = killed_at(moment, lambda: run(step, work, steps))
        run(step, work, steps, if_stale=True)
        tidy(steps, all_fresh)
        after = contents(folder)
        after[step.label(step.manifest)] = before[step.label(step.manifest)]  # its seconds
        assert after == before
        if not killed:
            break
    stale = {name for name, reason in staleness(steps).items() if reason}
    assert stale <= {"report"}, "which tells how long the training took"
    assert moment > 15


def test_a_workplace_that_was_half_removed_is_not_gone_on_from(tmp_path: Path) -> None:
    step = long_step(project(tmp_path))
    other = replace(step, params={"size": 3})
    assert killed_at(30, lambda: run(step, long_work(step), []))
    assert (step.workplace / "checkpoint.txt").exists()
    # Of other work: what is there is removed, the mark first that says whose it is.
    for moment in itertools.count(1):
        copy = Path(shutil.copytree(step.workplace, tmp_path / "kept"))
        assert killed_at(moment, lambda: run(other, long_work(other), []))
        if not (step.workplace / "checkpoint.txt").exists():
            break
        shutil.rmtree(step.workplace)
        copy.rename(step.workplace)
    assert artifacts.read_json(step.workplace / artifacts.MARKER) is None


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_dead_processes_left_half_written_goes_with_the_next_write(tmp_path: Path) -> None:
    dead, alive = dead_process(), os.getppid()
    names = {
        "its": f".a.json.{dead}-{dead}.tmp",
        "an earlier version's": f".a.json.{dead}.tmp",
        "somebody's who lives": f".a.json.{alive}-{alive}.tmp",
        "another file's": f".b.json.{dead}-{dead}.tmp",
        "nobody's": ".a.json.x.tmp",
    }
    for name in names.values():
        (tmp_path / name).touch()
    artifacts.write_json(tmp_path / "a.json", {})
    kept = {path.name for path in tmp_path.iterdir()} - {"a.json"}
    assert kept == {names[who] for who in ("somebody's who lives", "another file's", "nobody's")}


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


def test_threads_that_make_the_same_step_share_the_work(tmp_path: Path) -> None:
    step, results = long_step(project(tmp_path)), []
    threads = [
        threading.Thread(
            target=lambda: results.append(run(step, long_work(step), [], if_stale=True))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False, False, False, True]
    assert (tmp_path / "diary.txt").read_text() == "012"


def test_what_is_left_of_work_that_nobody_wants_any_more_is_removed(tmp_path: Path) -> None:
    root = project(tmp_path)
    step, gone = long_step(root), root / "data/set/fold-7/.manifest.partial"
    busy, other = root / "data/set/fold-8/.manifest.partial", root / "data/other/x/.y.partial"
    assert killed_at(30, lambda: run(step, long_work(step), []))
    for workplace in (gone, busy, other):
        workplace.mkdir(parents=True)
    with artifacts.locked(busy.with_suffix(".lock"), "busy"):
        tidy([step], staleness([step]))
        assert step.workplace.exists(), "it is stale, and goes on from there"
        assert [path.exists() for path in (gone, busy, other)] == [False, True, True]
    tidy([step], {"long": None})
    assert [path.exists() for path in (step.workplace, busy, other)] == [False, False, True]


# --- damage --------------------------------------------------------------------------------------


def test_an_input_that_changes_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    step = long_step(project(tmp_path))

    def work(folder: Path) -> Mapping[str, Any]:
        facts = long_work(step)(folder)
        (tmp_path / "source.txt").write_text("b")
        return facts

    with pytest.raises(UserError, match=r"source\.txt was changed while long read it"):
        run(step, work, [])
    assert made(step) == {}
    assert not step.workplace.exists(), "what was made of two sources is of no use"
    assert run(step, long_work(step), [])
    assert made(step)["x.txt"] == b"x.txtbbbbbb"


def test_damage_after_the_plan_is_noticed_before_it_is_used(
    built: tuple[Path, list[tuple[Step, Work]]],
) -> None:
    folder, steps_and_works = built
    steps = [step for step, _ in steps_and_works]
    before = contents(folder / "data")
    step, work = next((step, work) for step, work in steps_and_works if step.stage == "ensemble")
    flipped_with_its_dates(folder / "data/tiny/sprint/fold-0/oof.npy")
    with pytest.raises(UserError, match=r"^data/tiny/sprint/fold-0/oof\.npy is not the file that"):
        run(step, work, steps)
    redone = [step.name for step, work in steps_and_works if run(step, work, steps, if_stale=True)]
    assert redone[0] == "train fold 0"
    after = contents(folder / "data")
    changed = {name for name in before if after[name] != before[name]}
    assert changed <= {"tiny/sprint/fold-0/manifest.json"}, "which tells its seconds"


def test_an_input_that_is_just_being_made_is_waited_for(tmp_path: Path) -> None:
    maker = long_step(project(tmp_path))
    user = replace(maker, name="user", manifest=tmp_path / "data/set/user/manifest.json")
    user = replace(user, inputs=maker.outputs[:1], outputs=(tmp_path / "data/set/user/z.txt",))
    begun, go = threading.Event(), threading.Event()

    def slow_work(folder: Path) -> Mapping[str, Any]:
        begun.set()
        assert go.wait(PATIENCE)
        return long_work(maker)(folder)

    making = threading.Thread(target=lambda: run(maker, slow_work, []))
    making.start()
    assert begun.wait(PATIENCE)
    using = threading.Thread(target=lambda: run(user, long_work(user), [maker]))
    using.start()
    while "user" not in {path.parent.name for path in tmp_path.rglob(".manifest.lock")}:
        time.sleep(0.01)
    time.sleep(0.1)
    go.set()
    making.join()
    using.join()
    assert staleness([maker, user]) == {"long": None, "user": None}


def swap(one: Path, other: Path) -> None:
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)


@pytest.mark.parametrize(
    ("one", "other", "first"),
    [
        ("raw/train.csv", "raw/test.csv", "download"),
        ("tensors/train_images.npy", "tensors/test_images.npy", "preprocess"),
        ("tensors/manifest.json", "raw/manifest.json", "download"),
        ("demo/fold-0/oof.npy", "demo/fold-1/oof.npy", "train fold 0"),
        ("demo/fold-0/test.npy", "demo/fold-0/oof.npy", "train fold 0"),
        ("demo/fold-0/manifest.json", "demo/fold-1/manifest.json", "train fold 0"),
        ("demo/fold-1/manifest.json", "demo/ensemble/manifest.json", "train fold 1"),
        ("demo/ensemble/oof.npy", "demo/ensemble/test.npy", "ensemble"),
        ("demo/ensemble/metrics.json", "demo/ensemble/manifest.json", "ensemble"),
    ],
)
def test_files_in_each_others_place_are_noticed(
    project: Path, tiny_folder: Path, one: str, other: str, first: str
) -> None:
    steps_and_works = works(str(tiny_folder), "demo")
    steps = [step for step, _ in steps_and_works]
    for step, work in steps_and_works:
        run(step, work, steps)
    before = {path: path.read_bytes() for step in steps for path in step.outputs}
    home = project / "data" / "tiny"
    swap(home / one, home / other)
    stale = [name for name, reason in staleness(steps).items() if reason]
    assert stale[0] == first
    assert stale[-2:] == ["write", "report"]
    for step, work in steps_and_works:
        run(step, work, steps, if_stale=True)
    assert {path: path.read_bytes() for path in before} == before
    assert set(staleness(steps).values()) == {None}


def test_whole_folders_in_each_others_place_are_noticed(project: Path, tiny_folder: Path) -> None:
    steps_and_works = works(str(tiny_folder), "demo")
    steps = [step for step, _ in steps_and_works]
    for step, work in steps_and_works:
        run(step, work, steps)
    home = project / "data" / "tiny" / "demo"
    (home / "fold-0").rename(home / "x")
    (home / "fold-1").rename(home / "fold-0")
    (home / "x").rename(home / "fold-1")
    reasons = staleness(steps)
    assert reasons["train fold 0"] and reasons["train fold 1"]
    assert reasons["train fold 2"] is None


def test_the_artifacts_of_another_project_are_not_taken(tmp_path: Path) -> None:
    """All names are the same there, and the manifest is sound; what it was made from is not."""
    mine, other = long_step(project(tmp_path / "mine")), long_step(project(tmp_path / "other"))
    (tmp_path / "other/source.txt").write_text("b")
    for step in (mine, other):
        run(step, long_work(step), [])
    shutil.rmtree(mine.manifest.parent)
    shutil.copytree(other.manifest.parent, mine.manifest.parent)
    assert staleness([mine]) == {"long": "its input source.txt has changed"}


def flipped_with_its_dates(path: Path) -> None:
    stat, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_every_byte_of_a_manifest_counts(tmp_path: Path) -> None:
    step = long_step(project(tmp_path))
    run(step, long_work(step), [])
    sound = step.manifest.read_bytes()
    for place in range(len(sound)):
        damaged = bytearray(sound)
        damaged[place] ^= 1 << place % 8
        step.manifest.write_bytes(damaged)
        if staleness([step])["long"] is None:
            assert artifacts.read_manifest(step) is not None
            unchanged = bytes(damaged).split() == sound.split()
            assert unchanged, f"byte {place} is {damaged[place : place + 1]}"
    for length in range(len(sound) - 1):
        step.manifest.write_bytes(sound[:length])
        assert staleness([step])["long"] is not None


def test_a_flipped_bit_with_the_old_dates_is_found_and_one_below_the_file_system_by_verifying(
    tmp_path: Path,
) -> None:
    step = long_step(project(tmp_path))
    run(step, long_work(step), [])
    path = step.outputs[0]

    def reason(trusted: bool = True) -> str | None:
        with artifacts.stat_cache(tmp_path, trusted) as cache:
            return staleness([step], cache)["long"]

    settle(path)
    assert reason() is None
    flipped_with_its_dates(path)
    assert reason() == "data/set/long/x.txt is not the file that long wrote"

    # A disk that decays changes no date at all. That cannot be had here; but the memory can be
    # told that it has seen this very file.
    settle(path)
    reason()
    memory, manifest = tmp_path / "data" / artifacts.STAT_CACHE, artifacts.read_manifest(step)
    known = artifacts.read_sealed(memory)
    assert known is not None
    assert manifest is not None
    known[str(path)][4] = manifest["outputs"]["data/set/long/x.txt"]
    artifacts._write_sealed(memory, known)
    assert reason() is None
    assert reason(trusted=False) is not None
    assert reason() is not None, "what was found is known from now on"
    run(step, long_work(step), [], if_stale=True)
    assert reason(trusted=False) is None


def test_a_memory_of_fingerprints_with_a_flipped_bit_is_not_used(tmp_path: Path) -> None:
    step = long_step(project(tmp_path))
    run(step, long_work(step), [])
    settle(tmp_path / "source.txt")
    with artifacts.stat_cache(tmp_path) as cache:
        staleness([step], cache)
    memory = tmp_path / "data" / artifacts.STAT_CACHE
    content = memory.read_text()
    digest = fingerprint(tmp_path / "source.txt")
    assert digest in content
    memory.write_text(content.replace(digest, "0" + digest[1:]))
    with artifacts.stat_cache(tmp_path) as cache:
        assert cache == {}
        assert staleness([step], cache) == {"long": None}


# --- nothing is unpickled ------------------------------------------------------------------------


class Payload:
    """Whoever unpickles it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def arrays_that_have_to_be_unpickled(path: Path) -> Iterator[bytes]:
    """An array of objects, and a pickle that only has an array's name."""
    content = io.BytesIO()
    np.save(content, np.array([Payload(path)], dtype=object), allow_pickle=True)
    yield content.getvalue()
    yield pickle.dumps(Payload(path))


def test_no_stage_unpickles_what_it_reads(
    built: tuple[Path, list[tuple[Step, Work]]], tmp_path: Path
) -> None:
    _, steps_and_works = built
    harmed, steps = tmp_path / "harmed", [step for step, _ in steps_and_works]
    for step, work in steps_and_works:
        if step.stage in ("train", "report"):  # these are not the real ones here
            continue
        for path in (path for path in step.inputs if path.suffix == ".npy"):
            sound = path.read_bytes()
            for content in arrays_that_have_to_be_unpickled(harmed):
                path.write_bytes(content)
                with pytest.raises(UserError, match="is not the file that"):
                    run(step, work, steps)
                with pytest.raises(ValueError, match="allow_pickle="):
                    work(tmp_path)  # as though nobody had checked
            path.write_bytes(sound)
    assert not harmed.exists()
    np.load(io.BytesIO(next(arrays_that_have_to_be_unpickled(harmed))), allow_pickle=True)
    assert harmed.exists(), "it does what it is feared for"


def test_nothing_in_the_package_could_unpickle() -> None:
    """No module for it is imported, and no loader is told that it may."""
    found = []
    for path in sorted(artifacts.CODE.rglob("*.py")):
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
