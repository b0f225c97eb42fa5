"""The stand-in for Kaggle, extended by kernels: it runs what is pushed, in a folder like Kaggle's.

    with KernelService(files, folder) as service:
        subprocess.run([...], env=service.environment(home))

What is said on the wire, as kaggle 2.2.4 speaks it:

- SaveKernel saves a script and runs it. A refusal is 200 with `error` in the answer.
- GetKernelSessionStatus tells the state of the newest version; 403 for what does not exist.
- The log is a GET that streams `data: {"stream_name", "time", "data"}` from the beginning of the
  log, and `data: END_OF_LOG` at its end; after the run, it is a JSON array.
- ListKernelSessionOutput lists the files of /kaggle/working with signed addresses, after the run.

A session runs in the namespaces of tests/system/kaggle_image.py: with Kaggle's folders in their
places, the competition attached, and no network.

What only the real service can confirm is listed in pipeline/kaggle/README.md.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kaggle_service import (
    COMPETITION,
    SIGNATURE,
    STREAM_LOG,
    USERNAME,
    Answer,
    KaggleService,
    Request,
    _error,
    _json,
)

sys.path.append(str(Path(__file__).parent / "system"))
import kaggle_image

ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")
DENIED = "Permission 'kernels.get' was denied"


@dataclass
class Session:
    """A version of a script, and its run."""

    asked: dict[str, Any]
    folder: Path
    process: subprocess.Popen[str] | None = None
    log: list[dict[str, Any]] = field(default_factory=list)
    status: str = "QUEUED"
    failure: str = ""
    polls: int = 0  # how often its state was asked for
    started: bool = False

    @property
    def working(self) -> Path:
        return self.folder / "kaggle" / "working"


class KernelService(KaggleService):
    """Kaggle with kernels. `folder` is where the sessions' folders go."""

    def __init__(
        self, files: Mapping[str, bytes], folder: Path, solution: Mapping[int, int] | None = None
    ) -> None:
        super().__init__(files, solution)
        self.folder = folder
        self.kernels: dict[str, list[Session]] = {}  # versions by name

        # What the next answers depend on; a test may set these at any time.
        self.hours_used = 2.5
        self.others_running = 0  # sessions of other scripts
        self.phone = "verified"  # or "error"
        self.queued_polls = 0  # how often a session is QUEUED before it starts
        self.running_polls = 1  # how often it is RUNNING, if there is a runner
        # Called in place of running the script, to write the output and the log in no time.
        self.runner: Callable[[Session], None] | None = None
        self.owner = USERNAME
        self.refuses_deletion = ""  # why
        self.flattens = False  # the output's files are listed without their folders
        self.cut_after: list[int] = []  # the next log streams are cut after so many lines
        self.output_survives_errors = False
        self.kill_at_end = ""  # why a session ends with ERROR although its script did not fail

    def __exit__(self, *error: object) -> None:
        for session in (each for versions in self.kernels.values() for each in versions):
            if session.process and session.process.poll() is None:
                os.killpg(session.process.pid, signal.SIGKILL)
        super().__exit__(*error)

    def pushes(self) -> int:
        """How many sessions were started."""
        return sum(map(len, self.kernels.values()))

    def newest(self) -> Session:
        """The session that was started last."""
        return list(self.kernels.values())[-1][-1]

    # ---- what is answered

    def answer(self, request: Request, damage: str = "") -> Answer:
        if not (request.call == STREAM_LOG or "/kernels." in request.path):
            return super().answer(request, damage)
        with self._lock:
            if not self._authorized(request):
                return _error(401, "Unauthenticated")
            if request.call == STREAM_LOG:
                return self._stream(request.path.rpartition("/")[2])
            asked = request.json()
            if request.call == "SaveKernel":
                return self._save(asked)
            if request.call == "ListKernels":
                return self._list()
            if request.call == "GetAcceleratorQuotaStatistics":
                used = {"timeUsed": f"{self.hours_used * 3600:.0f}s", "timeReserved": "0s"}
                gpu = used | {"totalTimeAllowed": "108000s", "minimumTimeAllowed": "108000s"}
                return _json({"quotaRefreshTime": "2026-11-28T00:00:00Z", "gpuQuota": gpu})
            slug = str(asked.get("kernelSlug"))
            if asked.get("userName") != self.owner or slug not in self.kernels:
                return _error(403, DENIED)
            if request.call == "DeleteKernel":
                if not self.refuses_deletion:
                    del self.kernels[slug]
                return _json({"errorMessage": self.refuses_deletion})
            if request.call == "GetKernel":
                text = self.kernels[slug][-1].asked["text"]
                return _json({"metadata": {}, "blob": {"slug": slug, "source": text}})
            session = self.kernels[slug][int(asked.get("versionLabel") or 0) - 1]
            if request.call == "GetKernelSessionStatus":
                session.polls += 1
                self._advance(session)
                return _json({"status": session.status, "failureMessage": session.failure})
            return self._output(session, asked)

    def _save(self, asked: dict[str, Any]) -> Answer:
        owner, _, slug = str(asked["slug"]).partition("/")
        error = ""
        if owner != self.owner:
            error = "Notebook not found"
        elif asked["newTitle"] != slug or len(slug) < 5 or re.search(r"[^a-z0-9-]", slug):
            error = "The title does not resolve to the slug"
        elif asked.get("enableGpu") and self.hours_used >= 30:
            error = "Maximum weekly GPU quota of 30.00 hours reached."
        elif self.others_running + self._running() >= 2:
            error = "Maximum batch GPU session count of 2 reached."
            self.others_running = max(0, self.others_running - 1)
        elif asked.get("enableGpu") and self.phone == "error":
            error = "You must verify your phone number to use a GPU."
        if error:
            return _json({"error": error})
        versions = self.kernels.setdefault(slug, [])
        folder = self.folder / f"{slug}-{len(versions) + 1}"
        session = Session(asked, folder)
        versions.append(session)
        if not self.queued_polls:
            self._start(session)
        attached = [] if self.rules_accepted else asked["competitionDataSources"]
        return _json(
            {
                "ref": f"/code/{owner}/{slug}",
                "url": f"https://www.kaggle.com/code/{owner}/{slug}",
                "versionNumber": len(versions),
                "invalidCompetitionSources": attached,
            }
        )

    def _running(self) -> int:
        every = [each for versions in self.kernels.values() for each in versions]
        return sum(each.status not in ENDED for each in every)

    def _start(self, session: Session) -> None:
        """Run the script as Kaggle does."""
        folder, asked = session.folder, session.asked
        home = folder / "kaggle" / "input" / "competitions" / COMPETITION
        for each in (home, session.working, folder / "src"):
            each.mkdir(parents=True)
        if self.rules_accepted and COMPETITION in asked["competitionDataSources"]:
            for name, content in self.files.items():
                (home / name).write_bytes(content)
        script = folder / "src" / "script.py"
        script.write_text(asked["text"], encoding="utf-8")
        session.status, session.started = "RUNNING", True
        if self.runner:
            session.polls = 0
            self.runner(session)
            return
        words = ["python3", "/kaggle/input/src/script.py"]
        attached = home if any(home.iterdir()) else None
        datasets = {"src": script.parent}
        python = Path(sys.executable)
        session.process = subprocess.Popen(
            kaggle_image.command(words, python, session.working, attached, datasets=datasets),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, args=(session,), daemon=True).start()

    def _listen(self, session: Session) -> None:
        assert session.process
        assert session.process.stdout
        began = time.monotonic()
        for line in session.process.stdout:
            event = {"stream_name": "stdout", "time": time.monotonic() - began, "data": line}
            session.log.append(event)
        code = session.process.wait()
        with self._lock:
            if session.status == "CANCEL_ACKNOWLEDGED":
                return
            self._end(session, f"Your notebook exited with code {code}" if code else "")

    def _end(self, session: Session, failure: str) -> None:
        session.failure = failure or self.kill_at_end
        session.status = "ERROR" if session.failure else "COMPLETE"

    def _advance(self, session: Session) -> None:
        if not session.started and session.polls > self.queued_polls:
            self._start(session)
        elif self.runner and session.status == "RUNNING" and session.polls > self.running_polls:
            self._end(session, "")

    def _stream(self, slug: str) -> Answer:
        if slug not in self.kernels:
            return _error(403, DENIED)
        session = self.kernels[slug][-1]
        if session.status in ENDED:
            return Answer(
                200, {"Content-Type": "application/json"}, json.dumps(session.log).encode()
            )
        cut = self.cut_after.pop(0) if self.cut_after else None
        pieces = self._pieces(session, cut)
        return Answer(200, {"Content-Type": "text/event-stream"}, stream=pieces)

    def _pieces(self, session: Session, cut: int | None) -> Iterator[bytes]:
        sent = 0
        while not self.closing.is_set():
            ended = session.status in ENDED
            for event in session.log[sent:cut]:
                yield f"data: {json.dumps(event)}\n\n".encode()
                sent += 1
            if cut is not None and sent >= cut:
                return
            if ended or self.runner:
                yield b"data: END_OF_LOG\n\n"
                return
            time.sleep(0.02)

    def _output(self, session: Session, asked: dict[str, Any]) -> Answer:
        files = []
        if session.status == "COMPLETE" or self.output_survives_errors:
            found = sorted(path for path in session.working.rglob("*") if path.is_file())
            start = int(asked.get("pageToken") or 0)
            size = 5  # every listing has several pages
            for path in found[start : start + size]:
                name = path.relative_to(session.working).as_posix()
                stored = str(path.relative_to(self.folder)).replace("/", "-")
                self._stored[stored] = path.read_bytes()
                url = f"http://localhost/storage/{stored}?X-Goog-Signature={SIGNATURE}"
                files.append({"fileName": path.name if self.flattens else name, "url": url})
            more = str(start + size) if start + size < len(found) else ""
        else:
            more = ""
        return _json({"files": files, "log": json.dumps(session.log), "nextPageToken": more})

    def _list(self) -> Answer:
        names = [*self.kernels, "my-own-notebook", "digits-of-pi"]
        listed = [
            {"ref": f"{self.owner}/{name}", "lastRunTime": "2026-11-25T05:06:07Z"} for name in names
        ]
        return _json({"kernels": listed, "nextPageToken": ""})
