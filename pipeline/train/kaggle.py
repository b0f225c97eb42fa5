"""Folds on Kaggle: one private script trains all that are due. It needs no state file here.

A digest of all the folds' parameters, inputs and code gives the script its name. So the same
command finds the same run again, whatever happened in between, and on another machine too. If it
has ended without some of the folds, those are trained by another script: the second has -2 at the
end of its name, and so on.

Code and fold numbers travel inside the script; the images do not: the competition is attached to
it. The folds come back with their manifests, against which they are checked, and are put in place
here, as if they had been trained here. `pipeline/kaggle/session.py` is what runs there.
"""

import contextlib
import hashlib
import itertools
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from pipeline import artifacts, datasets, files
from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import HOME, client, credentials, kernels, session
from pipeline.kaggle.client import CallError
from pipeline.kaggle.kernels import PREFIX, Pushed, Quota, State
from pipeline.kaggle.pack import pack, package
from pipeline.kaggle.session import RESULT
from pipeline.task import Task
from pipeline.train.progress import EPOCH, Board

# Seconds that a session may take; Kaggle ends it after 9 to 12 hours.
SESSION = 9 * 3600
# Seconds between two looks at a run's state; and between two pushes while other sessions run.
POLL = client.FIRST_PAUSE * 10
BUSY = POLL * 3
# How often a run has to be absent before it is believed: a new one may take a moment to appear.
LOOKS = 3
LOG_LINES = 20  # of a run that failed
AGAIN = "run the same command again to train the rest in another run, or ENGINE=local to do it here"
Answer = TypeVar("Answer")


def train_on_kaggle(folds: list[Task], tasks: list[Task], force: bool, accelerator: str) -> None:
    """Train folds on Kaggle (see `engines.train_folds`).

    Raises:
        UserError: there are no credentials, the rules have not been accepted, the phone is not
            verified, the files are not the competition's, or a parameter has to be changed.
        ExternalError: no GPU hours are left, or the run failed, was cancelled or ended too early.
    """
    dataset = folds[0].folder.relative_to(folds[0].root).parts[1]
    if dataset in datasets.NAMED and dataset != "kaggle":
        raise UserError(
            f"ENGINE=kaggle trains on the competition's files, and {dataset} is other data; use "
            "DATASET=kaggle or ENGINE=local"
        )
    with artifacts.stat_cache(folds[0].root) as cache:
        for task in folds:
            artifacts.check_inputs(task, tasks, cache)
    kaggle = _Kaggle(folds, tasks, force, accelerator)
    with files.locked(folds[0].folder.parent / ".kaggle.lock", "train on Kaggle"):
        try:
            kaggle.train()
        except KeyboardInterrupt:
            if kaggle.reached:
                print("Kaggle goes on; the same command finds its run again", file=sys.stderr)
            raise


def name(tasks: list[Task], accelerator: str) -> str:
    """The name of a graph's first script, in Kaggle's letters: "digits-best-01abcdef".

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
    preset = re.sub(r"[^a-z0-9]+", "-", whole[0].folder.parent.name.lower())[:30].strip("-")
    return f"{PREFIX}{preset}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def job(folds: list[Task], accelerator: str) -> dict[str, Any]:
    """What `session.run` is to do, in JSON's types.

    Args:
        folds: the folds to train.
        accelerator: in Kaggle's words, or "none".
    """
    return {
        "gpus": accelerator != "none",
        "seconds": SESSION,
        "inputs": {name: files.fingerprint(path) for name, path in _reads(folds).items()},
        "folds": [session.packed(task) for task in folds],
    }


def script(folds: list[Task], accelerator: str, slug: str) -> str:
    """The source of the script: what it is and what made it, the job, the code, a few lines."""
    files = package(folds[0].root)
    size = sum(map(len, files.values()))
    fold_ids = _reads(folds)["fold_ids"]
    more = [fold_ids, folds[0].root / "pyproject.toml"]
    files |= {folds[0].label(path): path.read_bytes() for path in more}
    return f'''"""Train networks for the competition Digit Recognizer, on its attached files.

Name: {slug}
Written and pushed by the pipeline whose code is inside: `make submit ENGINE=kaggle`, or
`digits train --engine kaggle`, which waits for the output and fetches it. `digits kaggle list`
lists all scripts like this one, and `digits kaggle delete` deletes them.

JOB   says which networks to train ({len(folds)}), and on which files: SHA-256 of each.
CODE  is the Python package `pipeline`, {size:,} bytes in {len(files) - 2} files, and the fold of
      each row: a zip in base64.

The output is a folder for each network, and {RESULT}, which says how it ended.
"""

import base64
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

JOB = r"""
{json.dumps(job(folds, accelerator), indent=1)}
"""

CODE = """
{pack(files)}"""

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="digits-"))  # not in the output
    zipfile.ZipFile(io.BytesIO(base64.b64decode(CODE))).extractall(folder)
    (folder / "{session.JOB}").write_text(JOB)
    words = [sys.executable, "-u", "-m", "{session.__name__}"]
    sys.exit(subprocess.run(words, cwd=folder).returncode)
'''


def _reads(folds: list[Task]) -> dict[str, Path]:
    """The files that the folds read, by name: the same for all."""
    reads = {name: path for name, path in folds[0].reads.items() if isinstance(path, Path)}
    assert all(task.reads == reads for task in folds)
    return reads


class _Kaggle:
    """Finds or pushes the scripts of a graph's folds, watches them, and puts folds in place."""

    def __init__(self, folds: list[Task], tasks: list[Task], force: bool, accelerator: str) -> None:
        self.left, self.tasks, self.force, self.accelerator = list(folds), tasks, force, accelerator
        self.reached = False  # Kaggle has answered
        self.slug = self.user = ""
        self.seen = 0  # pieces of the run's log
        self.board = Board()

    def train(self) -> None:
        """Train the folds, in a run that is found or pushed; raises what `train_on_kaggle` does."""
        first = name(self.tasks, self.accelerator)
        for number in itertools.count(1):
            self.slug = first if number == 1 else f"{first}-{number}"
            self.seen = 0
            state = self._look()
            pushed = state is None
            state = state or self._push()
            watched = not state.ended
            state = self._watch(state)
            result: Mapping[str, Any] = {}
            if watched or not self.force:
                result = self._fetch_all(state, watched)
            if not self.left:
                return
            if watched or result.get("final"):
                self._explain(state, result, pushed)

    # --- what comes back ---

    def _fetch_all(self, state: State, watched: bool) -> Mapping[str, Any]:
        """Put in place what the run has left; returns its RESULT, empty if there is none."""

        def attempt() -> list[str]:
            names = kernels.output(self.slug)
            if watched and state.status == "COMPLETE" and RESULT not in names:
                raise CallError(f"{self.slug} has no {RESULT} yet")
            return names

        names = self._patiently(attempt)
        for task in list(self.left):
            if self._path(task, task.manifest.name) in names:
                work = partial(self._fetch_fold, task)
                artifacts.run(task, self.tasks, self.force, work, elsewhere=True)
                self.left.remove(task)
        if RESULT not in names:
            return {}
        with TemporaryDirectory() as folder:
            path = Path(folder, RESULT)
            return self._fetch({RESULT: path}, lambda: files.read_json(path))

    def _fetch_fold(self, task: Task, writes: Mapping[str, Path]) -> dict[str, Any]:
        """Fetch a fold's files, checked against its manifest; return its metadata."""
        path = writes["weights"].with_name(f"there-{task.manifest.name}")

        def checked() -> dict[str, Any] | None:
            manifest = files.read_json(path)
            outputs = (manifest or {}).get("outputs", {})
            for name, file in writes.items():
                if files.fingerprint(file) != outputs.get(task.label(task.writes[name])):
                    return None
            return manifest

        wanted = {self._path(task, file.name): file for file in writes.values()}
        manifest = self._fetch({**wanted, self._path(task, task.manifest.name): path}, checked)
        metadata = dict(manifest["metadata"])
        print(
            f"{task.name}: accuracy {metadata['held_out_accuracy']:.5f} on "
            f"{metadata['held_out_rows']:,} held-out rows",
            flush=True,
        )
        return {**metadata, "kernel": f"{self.user}/{self.slug}", "code": manifest["code"]}

    def _path(self, task: Task, file: str) -> str:
        return (session.output(task) / file).as_posix()

    def _fetch(self, files: Mapping[str, Path], checked: Callable[[], Answer | None]) -> Answer:
        """Download files of the output, until `checked` does not return None."""

        def attempt() -> Answer:
            for path in files.values():
                path.unlink(missing_ok=True)
            kernels.fetch(self.slug, files)
            if missing := [name for name, path in files.items() if not path.exists()]:
                raise CallError(f"{missing[0]} is not in the output")
            answer = checked()
            if answer is None:
                raise CallError(f"{next(iter(files))} arrived damaged")
            return answer

        return self._patiently(attempt)

    def _explain(self, state: State, result: Mapping[str, Any], pushed: bool) -> None:
        """Raise an error that says why folds are left; return if the run was not for them."""
        line, code = result.get("line", ""), result.get("code", 1)
        if state.status == "ERROR":
            line = f"the run failed on Kaggle: {state.failure or 'no reason given'}"
        elif state.status != "COMPLETE":
            line = "the run was cancelled on Kaggle"
        elif not line and not pushed:
            return  # another command pushed it, when other folds were due
        if code == 2:
            raise UserError(f"Kaggle: {line}")
        self._print_log()
        states = artifacts.states([task for task in self.tasks if task.stage == "train"])
        kept = [name for name, state in states.items() if state.fresh]
        finished = f"kept: {', '.join(kept)}" if kept else "no fold is finished"
        remedy = "ENGINE=local trains here" if result.get("final") else AGAIN
        raise ExternalError(f"Kaggle: {line}; {finished}; {remedy}")

    def _print_log(self) -> None:
        """Print the last lines of the run's log that have not been shown."""
        try:
            pieces = client.with_retries("the log", lambda: kernels.log(self.slug))
        except ExternalError as error:
            pieces = [str(error)]
        for line in "".join(pieces[self.seen :]).splitlines()[-LOG_LINES:]:
            self._show(line)

    # --- while it runs ---

    def _look(self) -> State | None:
        """The state of the run. Once Kaggle has answered, an outage is waited out, however long."""
        if self.reached:
            state = self._outlast(lambda: kernels.state(self.slug))
        else:
            state = client.with_retries("the run on Kaggle", lambda: kernels.state(self.slug))
        self.reached = True
        if state:
            self.user = state.user
        return state

    def _find(self) -> State | None:
        """The state of a run that may take a moment to appear; None if it is not there."""
        for _ in range(LOOKS):
            time.sleep(POLL)
            if state := self._look():
                return state
        return None

    def _outlast(self, call: Callable[[], Answer]) -> Answer:
        for attempt in itertools.count(2):
            try:
                answer = call()
            except CallError as error:
                if not error.retryable:
                    raise client.refusal("the run on Kaggle", error) from error
                if attempt == 2:
                    self._print(f"{error}; Kaggle goes on, and so does this when it answers again")
                time.sleep(client.pause_before(min(attempt, 10), error.retry_after))
            else:
                if attempt > 2:
                    self._print("it answers again")
                break
        return answer

    def _patiently(self, call: Callable[[], Answer]) -> Answer:
        """Call, with retries; a lost connection is waited out."""

        def attempt() -> Answer:
            try:
                return call()
            except CallError as error:
                if not error.status:
                    self._look()
                raise

        return client.with_retries("the results", attempt)

    def _print(self, text: str) -> None:
        self.board.print(f"Kaggle: {text}")

    def _watch(self, state: State) -> State:
        """Show the progress of the run until it ends; return its last state."""
        before = ""
        with self.board:
            while not state.ended:
                if state.status != before:
                    before = state.status
                    address = f"{kernels.CODE}/{self.user}/{self.slug}"
                    self._print(f"{before.lower().replace('_', ' ')}: {address}")
                if state.status == "RUNNING":
                    self._follow()
                    after = self._look()
                else:
                    after = None
                after = after or self._find()
                if after is None:
                    raise ExternalError(f"the run {self.slug} was deleted on Kaggle; {AGAIN}")
                state = after
        return state

    def _follow(self) -> None:
        """Show the log, until it ends or is cut; which of these, only the state tells."""
        position = 0

        def show(piece: str) -> None:
            nonlocal position
            position += 1
            if position > self.seen:  # a log begins anew with each connection
                self.seen = position
                for line in piece.splitlines():
                    self._show(line)

        with contextlib.suppress(CallError):
            kernels.follow(self.slug, show)

    def _show(self, line: str) -> None:
        """Show a line of the log; on a terminal, a bar for each fold in place of its epochs."""
        found = EPOCH.match(line)
        task = found and next((t for t in self.left if t.name == f"train {found['title']}"), None)
        if found and task and not self.board.disable:
            self.board.move(task, int(found["epoch"]), f"Kaggle, {found['left']}")
        elif line.strip():
            self._print(line)

    # --- the push ---

    def _push(self) -> State:
        """Push a script that trains the folds left; wait while two others run."""
        self._check_quota()
        text = script(self.left, self.accelerator, self.slug)
        state, attempt, waiting = None, 1, False
        while state is None:
            try:
                answer = kernels.push(self.slug, text, self.accelerator, SESSION)
            except CallError as error:
                if not error.retryable:
                    raise client.refusal("the push", error) from error
                if attempt == client.ATTEMPTS:
                    raise ExternalError(
                        f"the push failed {attempt} times, most recently because {error}; run the "
                        "same command again later"
                    ) from error
                attempt += 1
                # It may have arrived. A second run of the same work would cost hours.
                self._print(f"{error}; looking whether the push arrived")
                state = self._find()
                continue
            if "session count" in answer.error:
                if not waiting:
                    self._print(f"{answer.error} Waiting until one of them has ended.")
                waiting = True
                time.sleep(BUSY)
                continue
            self._check_answer(answer)
            self.user = answer.user
            state = State("QUEUED", "", self.user)
        count = f"{len(self.left)} fold{'s' * (len(self.left) > 1)}"
        self._print(
            f"pushed {count} as {self.user}/{self.slug}, {len(text) / 1000:.0f} kB, accelerator "
            f"{self.accelerator}"
        )
        return state

    def _check_quota(self) -> None:
        if self.accelerator == "none":
            return
        try:
            quota = kernels.quota()
        except CallError as error:
            self._print(f"GPU hours left: not known ({error})")
            return
        self._print(f"{quota.left:.1f} of {quota.total:.0f} GPU hours left this week")
        if quota.left <= 0:
            raise _no_hours(quota)

    def _check_answer(self, answer: Pushed) -> None:
        """Raise an error if a push was refused."""
        said = f"Kaggle refuses the push: {answer.error}"
        words = answer.error.lower()
        if "rules" in words:
            raise UserError(f"{said}; accept the competition's rules in a browser: {HOME}/rules")
        if "quota" in words:
            try:
                raise _no_hours(kernels.quota())
            except CallError as error:
                raise ExternalError(f"{said}; ENGINE=local trains here") from error
        if "phone" in words:
            raise UserError(f"{said}; verify your phone at {credentials.SETTINGS}")
        if "not found" in words:
            raise UserError(f"{said}; is {answer.user} your user name (KAGGLE_USERNAME)?")
        if answer.error:
            raise ExternalError(said)


def _no_hours(quota: Quota) -> ExternalError:
    until = f" until {quota.refresh} UTC" if quota.refresh else ""
    return ExternalError(f"no GPU hours are left{until}; ENGINE=local trains here")
