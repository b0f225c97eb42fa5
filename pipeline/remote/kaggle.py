"""Folds on Kaggle: one private script trains all that are due. It needs no state file here.

A digest of all the folds' parameters, inputs and code gives the script its name. So the same
command finds the same run again, whatever happened in between, and on another machine too. If it
has ended without some of the folds, those are trained by another script: the second has -2 at the
end of its name, and so on.

Code and fold numbers travel inside the script; the images do not: the competition is attached to
it. The folds come back with their manifests, against which they are checked, and are put in place
here, as if they had been trained here. `session.py` is what runs there.
"""

import contextlib
import hashlib
import itertools
import json
import math
import re
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import artifacts, files
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import HOME, client
from pipeline.kaggle.client import CallError, with_retries
from pipeline.kaggle.credentials import SETTINGS
from pipeline.kaggle.pack import pack, package
from pipeline.remote import kernels
from pipeline.remote.job import JOB, RESULT, job, place, reads
from pipeline.remote.kernels import State
from pipeline.task import Task
from pipeline.train.progress import EPOCH, Board

# Seconds between two looks at a run's state; and between two pushes while other sessions run.
POLL = client.FIRST_PAUSE * 10
BUSY = POLL * 3
# How often a run has to be absent before it is believed: a new one may take a moment to appear.
LOOKS = 3
# In a refusal while as many sessions run as Kaggle allows at a time.
BUSY_WORDS = "session count"
LOCAL = "ENGINE=local trains here"
AGAIN = "run the same command again to train the rest in another run, or ENGINE=local to do it here"
# Words in a refused push that tell what the user can do.
REMEDIES = {
    "rules": f"accept the competition's rules in a browser: {HOME}/rules",
    "phone": f"verify your phone at {SETTINGS}",
    "not found": "is {user} your user name (KAGGLE_USERNAME)?",
}


def train_on_kaggle(folds: list[Task], tasks: list[Task], force: bool, accelerator: str) -> None:
    """Train folds on Kaggle (see `engines.train_folds`).

    Raises:
        UserError: there are no credentials, the rules have not been accepted, the phone is not
            verified, the files are not the competition's, or a parameter has to be changed.
        ExternalError: no GPU hours are left, or the run failed, was cancelled or ended too early.
    """
    [source] = [task.params["source"] for task in tasks if task.stage == "download"]
    if source not in ("kaggle", "local"):
        raise UserError(
            f"ENGINE=kaggle trains on the competition's files, and {source} is other data; use "
            "DATASET=kaggle or ENGINE=local"
        )
    if not re.fullmatch(r"none|Nvidia\w+", accelerator):
        raise UserError(
            f"Kaggle has no accelerator {accelerator}; choose gpu, none, or a kind of GPU in "
            "Kaggle's words, such as NvidiaTeslaT4"
        )
    with artifacts.stat_cache(folds[0].root) as cache:
        for task in folds:
            artifacts.check_inputs(task, tasks, cache)
    kaggle = _Kaggle(folds, tasks, force, accelerator)
    with files.locked(folds[0].folder.parent / ".kaggle.lock", "train on Kaggle"):
        try:
            kaggle.train()
        finally:
            if kaggle.running:
                print(
                    "The run continues on Kaggle; run this command again to reconnect",
                    file=sys.stderr,
                )


def name(tasks: list[Task], accelerator: str) -> str:
    """Return the name of a graph's first script, in Kaggle's letters: "digits-best-01abcdef".

    All folds count, not only those that are due: when some of them are in place, the same command
    still has to find the run.
    """
    folds = [task for task in tasks if task.stage == "train"]
    with artifacts.stat_cache(tasks[0].root) as cache:
        parts = [
            {
                "name": task.name,
                "params": task.values(),
                "code": task.fingerprints(),
                "inputs": [files.fingerprint(path, cache) for path in task.inputs],
            }
            for task in folds
        ]
    text = json.dumps([accelerator, *parts], sort_keys=True)
    whole = [task for task in tasks if task.stage == "ensemble"] or folds
    preset = kernels.letters(whole[0].preset.name)[:30].strip("-")
    return f"{kernels.PREFIX}{preset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def script(folds: list[Task], accelerator: str, slug: str, seconds: int) -> str:
    """Return the source of the script: what it is, the job, the code, a few lines."""
    code = package(folds[0].root)
    size = sum(map(len, code.values()))
    more = [reads(folds)["fold_ids"], folds[0].root / "pyproject.toml"]
    text = pack(code | {folds[0].label(path): path.read_bytes() for path in more})
    return f'''"""Train networks for the competition Digit Recognizer, on its attached files.

Name: {slug}
Written and pushed by the pipeline whose code is inside: `make submit ENGINE=kaggle`, or
`digits train --engine kaggle`, which waits for the output and fetches it. `digits kaggle list`
lists all scripts like this one, and `digits kaggle delete` deletes them.

JOB   says which networks to train ({len(folds)}), and on which files: SHA-256 of each.
CODE  is the Python package `pipeline`, {size:,} bytes in {len(code)} files, and the fold of
      each row: a compressed zip in base64.

The output is a folder for each network, and {RESULT}, which says how it ended.
"""

import base64
import io
import lzma
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

JOB = r"""
{json.dumps(job(folds, accelerator, seconds), indent=1)}
"""

CODE = """
{text}"""

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="digits-"))  # not in the output
    zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(CODE)))).extractall(folder)
    (folder / "{JOB}").write_text(JOB)
    words = [sys.executable, "-u", "-m", "pipeline.remote.session"]
    sys.exit(subprocess.run(words, cwd=folder).returncode)
'''


class _Kaggle:
    """Finds or pushes the scripts of a graph's folds, watches them, and puts folds in place."""

    def __init__(self, folds: list[Task], tasks: list[Task], force: bool, accelerator: str) -> None:
        self.left, self.tasks, self.force, self.accelerator = list(folds), tasks, force, accelerator
        self.running = False  # a run of ours is at work on Kaggle
        self.slug = self.version = ""
        self.looked = -math.inf  # when its state was last asked for
        self.seen = 0  # pieces of its log
        self.board = Board()

    def train(self) -> None:
        """Train the folds, in a run that is found or pushed; raises what `train_on_kaggle` does."""
        first = name(self.tasks, self.accelerator)
        self.runs = with_retries("the list of runs", lambda: kernels.runs(first))
        others = set(self.runs.last)
        for number in itertools.count(1):
            self.slug = first if number == 1 else f"{first}-{number}"
            self.looked, self.seen = -math.inf, 0
            others.discard(self.slug)
            found = self._look()
            if found is None and others:
                continue  # it was deleted; a later one may be at work
            state = found or self._push()
            watched = not state.ended
            state = self._watch(state)
            result: Mapping[str, Any] = {}
            if watched or not self.force:
                result = self._fetch(state, watched)
            if not self.left:
                return
            if watched or result.get("final"):
                self._explain(state, result, pushed=found is None)

    # --- the push ---

    def _push(self) -> State:
        """Push a script that trains the folds left; wait while two others run."""
        seconds = self._check_quota()
        text = script(self.left, self.accelerator, self.slug, seconds)

        def arrived() -> str | None:
            """Look whether a push without an answer arrived: a second run would cost hours."""
            self._print("looking whether the push arrived")
            return "" if self._find() else None

        def push() -> str:
            call = partial(kernels.push, self.slug, text, self.accelerator, seconds)
            return with_retries("the push", call, between=arrived)

        refused = push()
        if BUSY_WORDS in refused:
            self._print(f"{refused} Waiting until one of them has ended.")
        while BUSY_WORDS in refused:
            time.sleep(BUSY)
            refused = push()
        for words, remedy in REMEDIES.items():
            if words in refused.lower():
                remedy = remedy.format(user=self.runs.user)
                raise UserError(f"Kaggle refuses the push: {refused}; {remedy}")
        if refused:
            raise ExternalError(f"Kaggle refuses the push: {refused}; {LOCAL}")
        count = f"{len(self.left)} fold{'s' if len(self.left) > 1 else ''}"
        self._print(
            f"pushed {count} as {self.runs.user}/{self.slug}, {len(text) / 1000:.0f} kB, "
            f"accelerator {self.accelerator}"
        )
        return State("QUEUED")

    def _check_quota(self) -> int:
        """Return the seconds that the session may take."""
        if self.accelerator == "none":
            return kernels.SESSION
        try:
            quota = kernels.quota()
        except CallError as error:
            self._print(f"GPU hours left: not known ({error})")
            return kernels.SESSION
        self._print(f"{quota.left:.1f} of {quota.total:.0f} GPU hours left this week")
        if quota.left <= 0:
            until = f" until {quota.refresh} UTC" if quota.refresh else ""
            raise ExternalError(f"no GPU hours are left{until}; {LOCAL}")
        return min(kernels.SESSION, int(3600 * quota.left))

    # --- while it runs ---

    def _look(self) -> State | None:
        """Return the run's state, asked for at most every POLL seconds; wait out an outage."""

        def look() -> State | None:
            time.sleep(max(0.0, self.looked + POLL - time.monotonic()))
            self.looked = time.monotonic()
            return kernels.state(self.slug)

        return with_retries("the run on Kaggle", look, math.inf)

    def _find(self) -> State | None:
        """Return the state of a run that may take a moment to appear; None if it is not there."""
        looks = (self._look() for _ in range(LOOKS))
        return next((state for state in looks if state), None)

    def _watch(self, state: State) -> State:
        """Show the progress of the run until it ends; return its last state."""
        before = ""
        with self.board:
            while not state.ended:
                self.running = True
                if state.status != before:
                    before = state.status
                    self._print(f"{state}: {self.runs.address(self.slug)}")
                if state.status == "RUNNING":
                    self._follow()
                found = self._find()
                if found is None:
                    self.running = False
                    raise ExternalError(f"the run {self.slug} was deleted on Kaggle; {AGAIN}")
                state = found
        self.running = False
        return state

    def _follow(self) -> None:
        """Show what is new in the log, as it comes."""

        def show(piece: str) -> None:
            self.seen += 1
            for line in piece.splitlines():
                self._show(line)

        with contextlib.suppress(CallError):  # the log is only shown: the state tells what to do
            kernels.follow(self.slug, self.seen, show)

    def _show(self, line: str) -> None:
        """Show a line of the log; on a terminal, a bar for each fold in place of its epochs."""
        found = EPOCH.match(line)
        task = found and next((t for t in self.left if t.name == f"train {found['title']}"), None)
        if found and task and not self.board.disable:
            self.board.move(task, int(found["epoch"]), f"Kaggle, {found['left']}")
        elif line.strip():
            self._print(line)

    def _print(self, text: str) -> None:
        self.board.print(f"Kaggle: {text}")

    # --- what comes back ---

    def _fetch(self, state: State, watched: bool) -> Mapping[str, Any]:
        """Put in place what the run has left; return its RESULT, empty if there is none."""
        with TemporaryDirectory() as folder:
            path = Path(folder, RESULT)

            def attempt() -> tuple[list[str], dict[str, Any]]:
                names = kernels.fetch(self.slug, {RESULT: path})
                self.version = ""
                if RESULT not in names:  # of a version that its owner saved: ours is the first
                    with contextlib.suppress(CallError):
                        names = kernels.fetch(self.slug, {RESULT: path}, "1")
                        self.version = "1"
                result = files.read_json(path)
                complete = watched and state.status == "COMPLETE"
                if result is None and (complete or RESULT in names):
                    raise CallError(f"{self.slug} has no intact {RESULT} yet")
                return names, result or {}

            names, result = with_retries("the results", attempt, between=self._reconnect)
        for task in list(self.left):
            if f"{place(task)}/{task.manifest.name}" in names:
                work = partial(self._fetch_fold, task)
                artifacts.run(task, self.tasks, self.force, work, elsewhere=True)
                self.left.remove(task)
        lost = [place(task) for task in self.left if place(task) in result.get("folds", ())]
        if lost:
            raise ExternalError(
                f"Kaggle: {', '.join(lost)} was trained, but is not in the run's output at "
                f"{self.runs.address(self.slug)}; {LOCAL}"
            )
        return result

    def _fetch_fold(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Fetch a fold's files, checked against its manifest; return its metadata."""
        path = writes["weights"].with_name(f"there-{task.manifest.name}")
        wanted = {f"{place(task)}/{file.name}": file for file in writes.values()}

        def attempt() -> dict[str, Any]:
            for file in wanted.values():
                file.unlink(missing_ok=True)
            its = {**wanted, f"{place(task)}/{task.manifest.name}": path}
            kernels.fetch(self.slug, its, self.version)
            manifest = files.read_json(path)
            present = {n: file for n, file in writes.items() if file.exists()}
            found = {task.label(task.writes[n]): files.fingerprint(f) for n, f in present.items()}
            if manifest is None or manifest["outputs"] != found:
                raise CallError(f"{place(task)} arrived incomplete or damaged")
            return manifest

        manifest = with_retries("the results", attempt, between=self._reconnect)
        metadata = dict(manifest["metadata"])
        print(
            f"{task.name}: accuracy {metadata['held_out_accuracy']:.5f} on "
            f"{metadata['held_out_rows']:,} held-out rows",
            flush=True,
        )
        kernel = f"{self.runs.user}/{self.slug}"
        return {**metadata, "kernel": kernel, "code": manifest["code"]}

    def _reconnect(self) -> None:
        """Wait until Kaggle answers."""
        self._look()

    def _explain(self, state: State, result: Mapping[str, Any], pushed: bool) -> None:
        """Raise an error that says why folds are left; return if the run was not for them."""
        line, code = result.get("line", ""), result.get("code", 1)
        if state.status == "ERROR":
            line = f"the run failed on Kaggle: {state.failure or 'no reason given'}"
        elif state.status != "COMPLETE":
            line = "the run was cancelled on Kaggle"
        elif not line and not pushed:
            return  # another command pushed it, when other folds were due
        line = line or f"the run left out {place(self.left[0])}"
        if code == 2:
            raise UserError(f"Kaggle: {line}")
        self._follow()
        states = artifacts.states([task for task in self.tasks if task.stage == "train"])
        kept = [name for name, state in states.items() if state.fresh]
        finished = f"kept: {', '.join(kept)}" if kept else "no fold is finished"
        remedy = LOCAL if result.get("final") else AGAIN
        raise ExternalError(f"Kaggle: {line}; {finished}; {remedy}")
