"""A stand-in for the Kaggle competition service, spoken to by the unmodified `kaggle` client.

    with KaggleService(files, solution) as service:
        subprocess.run([...], env=service.environment(home))

`KAGGLE_API_ENVIRONMENT=LOCALHOST` makes the client (2.2.4) call `http://localhost`, and the proxy
variables bring those calls to this server's own port. A request for any other host arrives too: it
is refused with 502 and kept in `service.strays`, instead of leaving the machine.

- A call is `POST /api/v1/<service>/<Method>` with JSON both ways. Auth is Basic `user:key` or
  Bearer token. An error is `{"code": >= 400, "message": text}` under the same HTTP status.
- A download is two requests: the call answers 302, and a GET of that URL brings the bytes. A resume
  is another GET, with Range and If-Range. The client writes blocks of 1 MiB, and a block cut short
  is lost: only an archive of more than 2 MiB, cut half-way, is resumed from after its first byte.
- A submission is three requests: StartSubmissionUpload gives a URL and a token, PUT brings the
  bytes to that URL, CreateSubmission turns the token into a submission.
- A connection that breaks before the answer is a `requests` ProxyError here, since this server
  poses as a proxy; from the real service it is another kind of ConnectionError.
- The URLs for bytes carry a signature: whoever logs one leaks it. `SECRETS` lists every text
  that must appear in no output.
"""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import io
import itertools
import json
import os
import re
import socketserver
import threading
import zipfile
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pipeline.kaggle import client, credentials

COMPETITION = "digit-recognizer"
ARCHIVE = f"{COMPETITION}.zip"

USERNAME = "digits-tester"
KEY = "0123456789abcdef0123456789abcdef"  # what environment() gives to the client
TOKEN = "KGAT_fedcba9876543210fedcba9876543210"  # the one bearer token that is valid
SIGNATURE = "c2lnbmF0dXJlLW9mLWEtc3RvcmFnZS11cmw"
_BASIC = base64.b64encode(f"{USERNAME}:{KEY}".encode()).decode()
SECRETS = (KEY, TOKEN, SIGNATURE, _BASIC)

# Years old, as on the real service: whoever copies it to a file makes that file look stale.
LAST_MODIFIED = "Tue, 10 Dec 2019 18:20:13 GMT"

GET_FILE = "GET file"
PUT_UPLOAD = "PUT upload"
STREAM_LOG = "stream log"  # of kernel_service.py
NEED_RULES = ("DownloadDataFiles", "StartSubmissionUpload", "CreateSubmission")

REFUSED = "Could not submit to competition"
HTML = b"<!DOCTYPE html><html><body><h1>Please sign in</h1></body></html>\n"


@dataclass(frozen=True)
class Request:
    """One request as it arrived. `headers` has Title-Case names, `path` is without the query."""

    call: str  # the method's name, "GET file" or "PUT upload"
    verb: str
    host: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body or b"{}"))


@dataclass
class Submission:
    ref: int
    file_name: str
    date: str
    description: str
    content: bytes
    sha256: str
    status: str = "PENDING"  # then COMPLETE or ERROR
    public_score: str = ""
    error_description: str = ""
    polls: int = 0  # how often it was listed
    lag: int = 0  # how many lists it will be missing from


@dataclass(frozen=True)
class Fault:
    kind: str
    status: int
    headers: dict[str, str]
    message: str


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Iterator[bytes] | None = None  # sent piece by piece, in place of the body


@dataclass
class _Upload:
    file_name: str
    content: bytes | None = None


class KaggleService:
    """The service's state, what was asked of it, and what is to go wrong.

    `files` are the competition's files by name. `solution` (ImageId -> Label) scores submissions
    by accuracy; without one they stay PENDING.
    """

    def __init__(
        self, files: Mapping[str, bytes], solution: Mapping[int, int] | None = None
    ) -> None:
        self.files = dict(files)
        self.solution = None if solution is None else dict(solution)

        # What was seen.
        self.requests: list[Request] = []
        self.strays: list[Request] = []
        self.submissions: list[Submission] = []

        # What the next answers depend on; a test may set these at any time.
        self.submissions_left = 10
        self.pending_polls: int | None = 0  # None: a score never comes
        self.score_error: str | None = None
        self.rules_accepted = True
        self.list_lag = 0  # in how many lists a new submission is missing
        self.scores_hidden = False  # COMPLETE comes before the score
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)

        self.closing = threading.Event()  # releases stalled answers
        self._lock = threading.RLock()
        self._stored = {ARCHIVE: _zipped(self.files)}
        self._uploads: dict[str, _Upload] = {}
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    # ---- for tests

    def fail(
        self,
        name: str,
        kind: str = "status",
        *,
        status: int = 503,
        headers: Mapping[str, str] | None = None,
        message: str = "",
        times: int = 1,
    ) -> None:
        """Make the next `times` requests of `name` fail; later ones behave normally again.

        `name` is a method, "download" (the GET of a file), "resume" (one with Range) or "upload"
        (the PUT). `kind` is one of

        - status: an error with `status`, `headers`, `message`
        - html: 200 and a web page, as from a login wall or a proxy
        - drop: the connection is closed without an answer, and nothing was done
        - lost: the same, but what was asked for has been done
        - stall: a file stops half-way, anything else before its first byte
        - refused (CreateSubmission): no error, but no submission either: ref 0
        - truncate (files): half the bytes, then the end of the connection
        - short (files): half the bytes, but announced as the whole
        - corrupt (files): bytes flipped near the end, in a zip's last member
        """
        fault = Fault(kind, status, dict(headers or {}), message)
        self.faults[name].extend([fault] * times)

    def calls(self) -> list[str]:
        """The names of all requests so far, in order."""
        return [request.call for request in self.requests]

    def environment(self, home: Path) -> dict[str, str]:
        """A whole environment for a subprocess in which the client can talk to nobody else.

        Every other KAGGLE_ variable is dropped: the client takes any of them for a setting.
        `home` must be a folder of the test's own, since the client reads and writes there.
        """
        unwanted = ("VERBOSE", "VERBOSE_OUTPUT", "XDG_CONFIG_HOME", "NETRC")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KAGGLE_")
            and not name.lower().endswith("_proxy")
            and name not in unwanted
        }
        proxy = f"http://127.0.0.1:{self.port}"
        return {
            **kept,
            **dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY"), proxy),
            **dict.fromkeys(("no_proxy", "NO_PROXY"), ""),
            "HOME": str(home),
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": USERNAME,
            "KAGGLE_KEY": KEY,
        }

    def adopt(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make `environment` this process's own, with a new folder for `home`, for one test."""
        home.mkdir()
        environment = self.environment(home)
        for name in set(os.environ) - set(environment):
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)

    @property
    def port(self) -> int:
        assert self._server is not None, "the service is not running"
        return int(self._server.server_address[1])

    def __enter__(self) -> KaggleService:
        self._server = _Server(self)
        # The default of half a second between looks for a stop would be paid by every test.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop at once, whatever is still open or stalled."""
        assert self._server
        assert self._thread
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # ---- what is answered, apart from how it is sent

    def next_fault(self, request: Request) -> Fault | None:
        names = [request.call]
        if request.call == GET_FILE:
            names = ["resume", "download"] if "Range" in request.headers else ["download"]
        elif request.call == PUT_UPLOAD:
            names = ["upload"]
        with self._lock:
            for name in names:
                if self.faults.get(name):
                    return self.faults[name].popleft()
        return None

    def answer(self, request: Request, damage: str = "") -> Answer:
        """The right answer to a request; `damage` is what to do to the bytes of a file."""
        with self._lock:
            if request.call == GET_FILE:
                return self._send_file(request, damage)
            if request.call == PUT_UPLOAD:
                return self._receive_upload(request)
            if not self._authorized(request):
                return _error(401, "Unauthenticated")
            asked = request.json()
            if request.call == "IntrospectToken":
                active = asked.get("token") == TOKEN
                return _json({"active": active, "username": USERNAME if active else ""})
            if asked.get("competitionName") != COMPETITION:
                return _error(404, "Competition not found")
            if request.call in NEED_RULES and not self.rules_accepted:
                return _error(403, "You must accept this competition's rules before you continue")
            return {
                "DownloadDataFiles": self._download,
                "StartSubmissionUpload": self._start_upload,
                "CreateSubmission": self._create_submission,
                "ListSubmissions": self._list_submissions,
                "GetSubmissionLimits": self._limits,
            }[request.call](asked)

    def _authorized(self, request: Request) -> bool:
        if request.call == "IntrospectToken":  # asks whether the token in its body is good
            return True
        given = request.headers.get("Authorization")
        return given in (f"Basic {_BASIC}", f"Bearer {TOKEN}")

    def _send_file(self, request: Request, damage: str) -> Answer:
        content = self._stored[request.path.rpartition("/")[2]]
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        content = _damaged(content, damage)
        headers = {
            "Content-Type": "application/zip",
            "Last-Modified": LAST_MODIFIED,
            "ETag": etag,
            "Accept-Ranges": "bytes",
        }
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        still_valid = request.headers.get("If-Range", etag) in (etag, LAST_MODIFIED)
        if asked is None or not still_valid:
            return Answer(200, headers, content)
        first, last = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        if first > last:
            return Answer(416, {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return Answer(206, headers, content[first : last + 1])

    def _download(self, asked: dict[str, Any]) -> Answer:
        url = f"http://localhost/storage/{ARCHIVE}?X-Goog-Signature={SIGNATURE}"
        return Answer(302, {"Location": url})

    def _start_upload(self, asked: dict[str, Any]) -> Answer:
        token = f"upload-{len(self._uploads) + 1}"
        self._uploads[token] = _Upload(str(asked["fileName"]))
        url = f"http://localhost/upload/{token}?X-Goog-Signature={SIGNATURE}"
        return _json({"token": token, "createUrl": url})

    def _receive_upload(self, request: Request) -> Answer:
        upload = self._uploads.get(request.path.rpartition("/")[2])
        if upload is None:
            return Answer(404, {"Content-Type": "application/xml"}, b"<Error>NoSuchUpload</Error>")
        upload.content = request.body
        return Answer(200)

    def _create_submission(self, asked: dict[str, Any]) -> Answer:
        upload = self._uploads.get(str(asked.get("blobFileTokens")))
        if upload is None or upload.content is None:
            return _error(400, "No file was uploaded under this token")
        if self.submissions_left <= 0:
            return _error(
                400, "Submission not allowed: your team has used its daily submission allowance"
            )
        self.submissions_left -= 1
        submission = Submission(
            ref=50_000_001 + len(self.submissions),
            file_name=upload.file_name,
            date=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            description=str(asked.get("submissionDescription", "")),
            content=upload.content,
            sha256=hashlib.sha256(upload.content).hexdigest(),
            lag=self.list_lag,
        )
        self.submissions.append(submission)
        return _json(
            {"message": "Successfully submitted to Digit Recognizer", "ref": submission.ref}
        )

    def _list_submissions(self, asked: dict[str, Any]) -> Answer:
        newest_first = [each for each in self.submissions[::-1] if each.lag <= 0]
        for each in self.submissions:
            each.lag -= 1
        size = int(asked.get("pageSize") or 20)
        number = max(1, int(asked.get("page") or 1))  # kaggle 2.0 asks for -1
        start = int(asked.get("pageToken") or (number - 1) * size)
        page = newest_first[start : start + size]
        for submission in page:
            self._judge(submission)
        more = start + size < len(newest_first)
        listed = [
            {
                "ref": submission.ref,
                "fileName": submission.file_name,
                "date": submission.date,
                "description": submission.description,
                "totalBytes": len(submission.content),
                "publicScore": "" if self.scores_hidden else submission.public_score,
                "status": submission.status,
                "errorDescription": submission.error_description,
            }
            for submission in page
        ]
        return _json({"submissions": listed, "nextPageToken": str(start + size) if more else ""})

    def _judge(self, submission: Submission) -> None:
        """Give a submission its score once it has been listed as PENDING often enough."""
        waited = self.pending_polls is not None and submission.polls >= self.pending_polls
        submission.polls += 1
        if submission.status != "PENDING" or not waited:
            return
        if self.score_error is not None:
            submission.status, submission.error_description = "ERROR", self.score_error
        elif self.solution is not None:
            rows = list(csv.reader(io.StringIO(submission.content.decode())))[1:]
            right = sum(self.solution[int(image)] == int(label) for image, label in rows)
            submission.public_score = f"{right / len(self.solution):.5f}"
            submission.status = "COMPLETE"

    def _limits(self, asked: dict[str, Any]) -> Answer:
        return _json({"numAllowedNow": self.submissions_left})


def _json(content: dict[str, Any], status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(content).encode())


def _error(status: int, message: str = "") -> Answer:
    return _json({"code": status, "message": message or f"failed with status {status}"}, status)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    """The same bytes for the same files: dates would make every archive another one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, date_time=(2019, 12, 10, 18, 20, 12))
            archive.writestr(info, content, zipfile.ZIP_DEFLATED, compresslevel=1)
    return buffer.getvalue()


def _damaged(content: bytes, damage: str) -> bytes:
    if damage == "short":
        return content[: len(content) // 2]
    if damage != "corrupt":
        return content
    damaged = bytearray(content)
    end = len(content)
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            end = archive.start_dir  # of the last member
    for place in range(end - 100, end - 50):
        damaged[place] ^= 0x55
    return bytes(damaged)


# ---- how a test talks to it

REAL_CALL = client.call


def call_in_process(
    method: str, arguments: Mapping[str, object], progress: Callable[[], int] = lambda: 0
) -> Any:
    """Do as `client.call`, without a process of its own unless that has to be killed."""
    if client.STALL < 60:
        return REAL_CALL(method, arguments, progress)
    credentials.require(client.HOME)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        client._main(method, json.dumps(arguments))
    return client._parse(output.getvalue(), 0)


# ---- how it is sent


class _Server(socketserver.ThreadingTCPServer):
    """TCPServer and not HTTPServer: the latter looks up a host name, which may take seconds."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False  # a handler may wait for the next request of a kept-alive connection
    request_queue_size = 64

    def __init__(self, service: KaggleService) -> None:
        self.service = service
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Quiet: clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_any(self) -> None:
        service = self.server.service
        request = self._read_request()
        stray = request.verb == "CONNECT" or request.host != "localhost"
        service.requests.append(request)
        if stray:
            service.strays.append(request)
            self.close_connection = True
            self._send(Answer(502))
            return
        try:
            fault = service.next_fault(request)
            if fault is None:
                self._send(service.answer(request))
            else:
                self._misbehave(request, fault)
        except OSError:
            raise  # the client hung up
        except Exception as error:  # a fault of this file: the client will show the text
            self._send(_error(500, f"the stand-in failed: {error!r}"))

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815 - names that the base class asks for
    do_PATCH = do_DELETE = do_OPTIONS = do_CONNECT = handle_any  # noqa: N815

    def _read_request(self) -> Request:
        url = urlsplit(self.path if self.command != "CONNECT" else f"//{self.path}")
        host = url.hostname or urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        call = url.path.rpartition("/")[2]
        if self.command == "GET" and url.path.startswith("/storage/"):
            call = GET_FILE
        elif self.command == "PUT" and url.path.startswith("/upload/"):
            call = PUT_UPLOAD
        elif "/kernels/logs/stream/" in url.path:
            call = STREAM_LOG
        headers = {name.title(): value for name, value in self.headers.items()}
        return Request(call, self.command, host, url.path, headers, self._read_body())

    def _read_body(self) -> bytes:
        # Always read, or the rest would be taken for the connection's next request.
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the client hung up half-way")
        return body

    def _send(self, answer: Answer, upto: int | None = None) -> None:
        """The head, and the body or only its beginning; Content-Length is that of the whole."""
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.stream is not None:
            self._send_stream(answer.stream)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:upto])

    def _send_stream(self, stream: Iterator[bytes]) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in itertools.chain(stream, [b""]):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()

    def _misbehave(self, request: Request, fault: Fault) -> None:
        service = self.server.service
        if fault.kind == "status":
            wrong = _error(fault.status, fault.message)
            if request.call in (GET_FILE, PUT_UPLOAD):  # storage speaks XML
                wrong = Answer(fault.status, {"Content-Type": "application/xml"}, b"<Error/>")
            self._send(Answer(wrong.status, wrong.headers | fault.headers, wrong.body))
        elif fault.kind == "html":
            headers = {"Content-Type": "text/html; charset=utf-8"} | fault.headers
            self._send(Answer(200, headers, HTML))
        elif fault.kind == "refused":
            self._send(_json({"message": REFUSED, "ref": 0}))
        elif fault.kind in ("short", "corrupt"):
            self._send(service.answer(request, damage=fault.kind))
        elif fault.kind == "stall":
            self._stall(request)
        elif fault.kind == "truncate":
            self._send_half(service.answer(request))
        else:
            if fault.kind == "lost":
                service.answer(request)
            self.close_connection = True  # drop, lost: no answer

    def _send_half(self, answer: Answer) -> None:
        self._send(answer, upto=len(answer.body) // 2)
        self.close_connection = True

    def _stall(self, request: Request) -> None:
        """Send half a file, or nothing, until the service closes."""
        if request.call == GET_FILE:
            self._send_half(self.server.service.answer(request))
        self.close_connection = True
        self.server.service.closing.wait()
