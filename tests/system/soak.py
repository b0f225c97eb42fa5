"""Edit, run, kill, run, compare: over and over, in a small copy of the project. `make soak`.

A cycle edits something (a parameter, the code, the data, or an artifact, which it damages), starts
`make` and kills it without warning, perhaps several times, all of it or one process; then lets it
finish. The files must be, byte for byte, those of an undisturbed build in a fresh clone, with
nothing stale and no leftovers. It stops at the first discrepancy and says how it got there; when a
kill strikes depends on the clock, so the same seed may not show it again.
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from test_make import (
    ARTIFACTS,
    BEGUN,
    PAIR,
    Project,
    empty,
    environment,
    flip,
    new_project,
    set_cell,
)

PATIENCE = 300
STAGES = ("download", "preprocess", "split", "train", "ensemble", "write", "report")
# Modules in which an edit that changes no result makes different stages stale.
EDITED = (
    *("download/__init__", "preprocess", "split", "train/fold", "train/schedule", "ensemble"),
    *("write", "cli/__init__"),
)


def halve(path: Path) -> None:
    """Cut off the second half."""
    os.truncate(path, path.stat().st_size // 2)


DAMAGE = (flip, halve, empty)


class DiscrepancyError(Exception):
    """Something differs from an undisturbed build."""


@dataclass(frozen=True)
class State:
    """What the bytes depend on: each number is 0 or 1, the first or second of two variants."""

    epochs: int = 0
    draw: int = 0
    data: int = 0
    code: int = 0

    def apply(self, project: Project) -> None:
        """Edit the preset, the data and the code of a project as this says."""
        preset = PAIR.replace("folds = 2", f"folds = 2\nseed = {self.draw}")
        preset = preset.replace("epochs = 1", f"epochs = {4 + 2 * self.epochs}")
        project.preset("pair").write_text(preset, encoding="ascii")
        set_cell(project.dataset / "test.csv", 7, 300, str(255 * self.data))
        path = project.code("write.py")
        code = path.read_text(encoding="utf-8")
        chosen = ("argmax", "argmin")[self.code]
        path.write_text(re.sub(r"arg(max|min)\(", f"{chosen}(", code), encoding="utf-8")


@dataclass
class Soak:
    """A project under test, what is known of it, and what was counted."""

    home: Path
    random: random.Random
    state: State = field(default_factory=State)
    expected: dict[State, dict[str, bytes]] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    edits: int = 0
    story: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pristine = new_project(self.home / "pristine")
        self.project = self.pristine.copied_to(self.home / "project")
        self.state.apply(self.project)
        self.log = self.home / "log"

    # --- one cycle --------------------------------------------------------------------------------

    def cycle(self) -> None:
        self.story = []
        edit: Callable[[], None] = self.random.choice(
            [self.toggle, self.toggle, self.comment, self.statement, self.damage, self.damage]
        )
        edit()
        checkpoints_sound = True
        for _ in range(self.random.choice([0, 1, 1, 2, 3])):
            checkpoints_sound &= self.run_and_kill()
            if self.random.random() < 0.2:
                checkpoints_sound &= not self.damage_staging()
        target = "submission" if self.random.random() < 0.1 else "write"
        due = self.due(target)
        staging = self.project.path("data/blobs/pair").glob("fold-*/.manifest.partial")
        begun = [path.parent.name for path in staging if (path / "checkpoint.npz").exists()]
        resumable = [fold for fold in begun if f"train {fold.replace('-', ' ')}" in due]

        said = self.run_to_the_end(target)
        resumed = said.count("resuming after epoch")
        if checkpoints_sound and resumed < len(resumable):
            raise DiscrepancyError(f"{resumable} should have resumed from a checkpoint")
        ran = BEGUN.findall(said)
        self.counts["tasks run again"] += len(ran)
        self.counts["folds resumed from a checkpoint"] += resumed
        resuming = f", {resumed} of them from a checkpoint" if resumed else ""
        self.story.append(f"ran again: {', '.join(ran) or 'nothing'}{resuming}")
        self.compare(target)

    def due(self, target: str) -> list[str]:
        """The tasks up to a target that are not fresh."""
        status = self.project.status().items()
        last = "report" if target == "write" else ""
        return [name for name, (state, _) in status if state != "fresh" and name != last]

    def compare(self, target: str) -> None:
        made = self.project.artifacts()
        expected = self.undisturbed()
        wrong = [name for name in expected if name not in made or made[name][0] != expected[name]]
        if wrong:
            raise DiscrepancyError(f"these differ from an undisturbed build: {wrong}")
        due = self.due(target)
        if due:
            raise DiscrepancyError(f"still stale after a complete run: {due}")
        left = self.leftovers()
        if target == "write":  # what is left of a report belongs to its next run
            left = [name for name in left if not name.startswith("submissions/.blobs-pair.html.")]
        if left:
            raise DiscrepancyError(f"left over: {left}")

    def undisturbed(self) -> dict[str, bytes]:
        """The outputs of a fresh clone in the same state."""
        if self.state not in self.expected:
            project = self.pristine.copied_to(self.home / "undisturbed")
            self.state.apply(project)
            if project.make("write").returncode:
                raise DiscrepancyError("an undisturbed build fails")
            self.expected[self.state] = project.outputs("pair")
            shutil.rmtree(project.home)
        return self.expected[self.state]

    def leftovers(self) -> list[str]:
        """Temporary files and folders that should have been removed by now."""
        found = [
            path
            for top in ("data", "submissions")
            for pattern in ("*.tmp", ".*.partial", "*.dated.keras", "checkpoint.npz")
            for path in self.project.path(top).rglob(pattern)
        ]
        return [str(path.relative_to(self.project.clone)) for path in found]

    # --- edits ------------------------------------------------------------------------------------

    def toggle(self) -> None:
        name = self.random.choice(["epochs", "draw", "data", "code"])
        self.state = replace(self.state, **{name: 1 - getattr(self.state, name)})
        self.state.apply(self.project)
        self.story.append(f"{name} = {getattr(self.state, name)}")

    def comment(self) -> None:
        self._append("# comment")

    def statement(self) -> None:
        """More code, to the same effect."""
        self._append("assert 0 <=")

    def _append(self, text: str) -> None:
        self.edits += 1
        name = self.random.choice(EDITED)
        path = self.project.code(f"{name}.py")
        lines = path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if not line.startswith(text)]
        path.write_text("\n".join([*kept, f"{text} {self.edits}", ""]), encoding="utf-8")
        self.story.append(f"{text} {self.edits} in {name}.py")

    def damage(self) -> None:
        """Damage, swap or delete artifacts; `make` has to find it."""
        there = [name for name in self._artifacts() if self.project.path(name).exists()]
        if not there:
            self.story.append("nothing")
            return
        name, other = self.random.choice(there), self.random.choice(there)
        path, before = self.project.path(name), self.project.path(name).read_bytes()
        damage = self.random.choice([*DAMAGE, Path.unlink, None])
        if damage is None:
            path.write_bytes(self.project.path(other).read_bytes())
            self.project.path(other).write_bytes(before)
        else:
            damage(path)
        self.story.append(f"{damage.__name__} {name}" if damage else f"swap {name} and {other}")
        if path.exists() and path.read_bytes() == before:
            return
        if not self.due("write"):
            raise DiscrepancyError("the damage was not found")
        self.counts["damaged artifacts found"] += 1 if damage else 2

    def _artifacts(self) -> list[str]:
        folds = "data/blobs/folds/2-folds-seed-"
        return [name.replace(f"{folds}0", f"{folds}{self.state.draw}") for name in ARTIFACTS]

    def damage_staging(self) -> bool:
        """Damage what a killed run left to resume from; returns whether there was something."""
        files = [
            path
            for top in ("data", "submissions")
            for folder in self.project.path(top).rglob(".*.partial")
            for path in folder.iterdir()
            if path.is_file() and path.stat().st_size
        ]
        if not files:
            return False
        path = self.random.choice(sorted(files))
        damage = self.random.choice(DAMAGE)
        damage(path)
        self.counts["unfinished files damaged"] += 1
        self.story.append(f"{damage.__name__} {path.relative_to(self.project.clone)}")
        return True

    # --- runs -------------------------------------------------------------------------------------

    def start(self) -> "subprocess.Popen[bytes]":
        two = "JOBS=2"
        words = self.random.choice([["write"], ["write", two], ["submission", two], ["train"]])
        self.story.append(f"make {' '.join(words)}")
        with self.log.open("wb") as log:
            return subprocess.Popen(
                self.project.command(*words, preset="pair", variables={}),
                cwd=self.project.clone,
                env=environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def run_and_kill(self) -> bool:
        """Start make, kill all or one of its processes; returns whether nothing is left running."""
        running, began = self.start(), time.monotonic()
        # Half of the kills are aimed, as some moments are too short to be hit by chance.
        aim = self.random.choice([*STAGES, *["checkpoint"] * 3, *[""] * 10])
        while aim and running.poll() is None and not self._reached(aim):
            time.sleep(0.005)
        longest = 0.3 if aim else self.random.choice([0.7, 3.0, 9.0])
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(longest * self.random.random())
        delay = time.monotonic() - began
        members = group(running.pid)
        if not members:
            running.wait()
            self.story.append("it had finished")
            return True
        everything = self.random.random() < 0.7
        victims = members if everything else [self.random.choice(members)]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if everything:
            with contextlib.suppress(ProcessLookupError):  # those born in the meantime
                os.killpg(running.pid, signal.SIGKILL)
        stage = self._at_work()
        self.kills[stage] += 1
        which = "all" if everything else "make" if victims[0] == running.pid else "one process"
        self.story.append(f"killed {which} after {delay:.2f} s, in {stage}")
        if everything or victims[0] != running.pid:
            running.wait(PATIENCE)
        # A child whose make was killed keeps running; the next make waits for it.
        return everything

    def _reached(self, aim: str) -> bool:
        """Whether a run has begun a stage, or written a checkpoint."""
        if aim == "checkpoint":
            return any(self.project.path("data/blobs/pair").glob("*/.*.partial/checkpoint.npz"))
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return re.search(rf"^{aim}\b.*; writing to ", said, re.MULTILINE) is not None

    def _at_work(self) -> str:
        """The stage that a killed run had begun and not completed."""
        said = self.log.read_text(encoding="utf-8", errors="replace")
        begun = [name.split()[0] for name in BEGUN.findall(said)]
        ended = re.findall(r"^([a-z]+)(?: fold \d+)?: done ", said, re.MULTILINE)
        open_ = list((Counter(begun) - Counter(ended)).elements())
        return open_[-1] if open_ else "between stages"

    def run_to_the_end(self, target: str) -> str:
        result = self.project.make(target)
        if result.returncode:
            raise DiscrepancyError(f"make failed: {result.stdout}{result.stderr}")
        deadline = time.monotonic() + PATIENCE
        while self._orphans():
            if time.monotonic() > deadline:
                raise DiscrepancyError("a child of a killed make does not exit")
            time.sleep(0.1)
        return result.stdout

    def _orphans(self) -> list[int]:
        """Processes that are still running in the project."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                alive = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if alive and (entry / "cwd").resolve() == self.project.clone.resolve():
                    found.append(int(entry.name))
        return found


def group(leader: int) -> list[int]:
    """The living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(its_group) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def main() -> int:
    """Run the cycles; return 0 if nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not Path("/proc/self/stat").exists():
        print("soak: needs /proc, which only Linux has, to find the processes to kill")
        return 2
    print(f"seed {options.seed}")
    home = Path(tempfile.mkdtemp(prefix="digits-soak-"))
    soak, began = Soak(home, random.Random(options.seed)), time.monotonic()
    done = 0
    try:
        for done in range(1, options.cycles + 1):
            cycle_began = time.monotonic()
            soak.cycle()
            took = time.monotonic() - cycle_began
            print(f"{done}/{options.cycles}: {'; '.join(soak.story)}; sound after {took:.1f} s")
        soak.story = ["the last make submission"]
        soak.run_to_the_end("submission")
        soak.compare("submission")
    except DiscrepancyError as error:
        print(f"{done}/{options.cycles}: {'; '.join(soak.story)}")
        print(f"DISCREPANCY with seed {options.seed}: {error}; all of it is in {home}")
        return 1
    by_stage = ", ".join(f"{soak.kills[s]} in {s}" for s in (*STAGES, "between stages"))
    counts = "; ".join(f"{count} {name}" for name, count in sorted(soak.counts.items()))
    print(f"{done} cycles in {time.monotonic() - began:.0f} s, nothing lost")
    print(f"{soak.kills.total()} kills survived ({by_stage})")
    print(f"{counts}; {len(soak.leftovers())} leftovers; {len(soak.expected)} states")
    shutil.rmtree(home)
    return 0


if __name__ == "__main__":
    sys.exit(main())
