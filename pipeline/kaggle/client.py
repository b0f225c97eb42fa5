"""The competition on Kaggle: the official client, with the deadlines and retries that it lacks.

The client waits forever on a stalled connection, prints signed addresses and secrets, exits when it
finds no credentials, and never retries. So each call runs in its own process (the end of this
file), which can be killed, whose output is discarded, and which returns a small JSON answer. The
rest of the file decides from that answer whether to retry.

Every call is one attempt. It raises CallError if it fails, and UserError without credentials.
"""

import contextlib
import io
import itertools
import json
import math
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import COMPETITION, HOME, credentials, inside
from pipeline.kaggle.credentials import Found


def _seconds(variable: str, default: float) -> float:
    """Read a number of seconds from the environment; empty means the default."""
    text = os.environ.get(variable, "").strip() or str(default)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UserError(f'{variable} must be a number of seconds, such as {default}, not "{text}"')
    return seconds


# Seconds without a byte after which an attempt ends; raise it on a slow connection.
STALL = _seconds("DIGITS_STALL_SECONDS", 60)
# Seconds before the second attempt; they double with each attempt, up to LONGEST_PAUSE.
FIRST_PAUSE = _seconds("DIGITS_PAUSE_SECONDS", 2)
LONGEST_PAUSE = 60.0
ATTEMPTS = 5
Answer = TypeVar("Answer")
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
# Errors that another attempt would meet again: what the libraries say, and what the user can do.
REMEDIES = {
    r"certificate (has expired|is not yet valid)": (
        "check this computer's date and time, or the certificate of a proxy on the way"
    ),
    r"certificate verify failed[^('\"]*\b|Could not find .*CA certificate bundle": (
        "a proxy or virus scanner on the way decrypts the connection: set REQUESTS_CA_BUNDLE to "
        "the file with its certificate"
    ),
    r"Missing dependencies for SOCKS support|Tunnel connection failed: [^)'\"]*"
    r"|(Unable to|Cannot) connect to proxy(?=.*NewConnection)"
    r"|[Pp]roxy URL\W+(It is malformed|had unsupported scheme)|Failed to parse": (
        "check {proxies}, http://HOST:PORT or http://USER:PASSWORD@HOST:PORT (socks5:// needs "
        "`pip install pysocks`)"
    ),
}
# Variables that silently change what the client does, or make it print secrets.
IGNORED_VARIABLES = ("KAGGLE_PATH", "KAGGLE_COMPETITION", "VERBOSE", "VERBOSE_OUTPUT")


@dataclass(eq=False)
class CallError(Exception):
    """A call to Kaggle failed. Its text contains no address and no secret, and may be shown."""

    text: str
    status: int = 0  # of HTTP; 0 if there was no answer
    remedy: str = ""  # what the user can do; then retrying makes no sense
    retry_after: float = 0.0  # seconds that the service asks to wait
    stalled: bool = False  # it was ended because no more bytes arrived

    def __str__(self) -> str:
        return self.text

    @property
    def retryable(self) -> bool:
        """True if the service is busy or broken, or the connection was lost."""
        return not self.remedy and (self.status in (0, 408, 429) or self.status >= 500)


@dataclass(frozen=True)
class Submission:
    """A submission as the competition lists it; the score is empty until there is one."""

    ref: int
    description: str
    status: str
    public_score: str
    error_description: str

    @property
    def judged(self) -> bool:
        """True once it has a score, or never will have one; COMPLETE may come before the score."""
        return self.status != "PENDING" and (self.status != "COMPLETE" or bool(self.public_score))


def download(folder: Path, progress: Callable[[int], None]) -> Path:
    """Download the competition's files as one zip, or go on where a stalled attempt ended.

    `progress` is called with the number of bytes so far.
    """
    path = folder / f"{COMPETITION}.zip"

    def size_so_far() -> int:
        size = path.stat().st_size if path.exists() else 0
        progress(size)
        return size

    files = {"competition": COMPETITION, "path": str(folder)}
    call("competition_download_files", files, size_so_far)
    if not path.exists():
        raise CallError("what arrived is not the archive")
    return path


def submit(csv: Path, description: str) -> int:
    """Upload a CSV and submit it; return the submission's number, its ref.

    If it fails with status 0, the submission may exist nevertheless.
    """
    upload = {"file_name": str(csv.resolve()), "message": description, "competition": COMPETITION}
    answer = call("competition_submit", upload)
    if not answer["ref"]:
        # The client hides a failed upload; only the missing number reveals it.
        raise CallError(f"the upload failed ({answer['message']})")
    return int(answer["ref"])


def submissions() -> list[Submission]:
    """Return the user's last hundred submissions, newest first."""
    answer = call("competition_submissions", {"competition": COMPETITION, "page_size": 100})
    names = [field.name for field in fields(Submission)]
    return [Submission(**{name: entry[name] for name in names}) for entry in answer or []]


def submissions_left() -> int:
    """Return how many submissions are left today."""
    answer = call("competition_get_submission_limits", {"competition_name": COMPETITION})
    return int(answer["num_allowed_now"])


def with_retries(
    what: str,
    call: Callable[[], Answer],
    attempts: float = ATTEMPTS,
    between: Callable[[], Answer | None] = lambda: None,
) -> Answer:
    """Call until it succeeds, with growing pauses, or until it is clear that it will not.

        ref = with_retries("the submission", lambda: client.submit(csv, "first"))

    Args:
        what: what the call does, for messages.
        call: raises CallError when it fails.
        attempts: how many there are; math.inf to wait out an outage, however long.
        between: called after each failed attempt, with retries of its own; if it returns something,
            that is the answer.

    Raises:
        UserError: what the user can fix: credentials, rules, a proxy, a certificate, a file.
        ExternalError: the service refuses, or every attempt failed.
    """
    for attempt in itertools.count(1):
        try:
            return call()
        except CallError as failure:
            error = failure
        if error.remedy:
            raise UserError(f"{what}: {error}; {error.remedy}") from error
        if not error.retryable:
            gone = f"; check whether {HOME} still exists" if error.status == 404 else ""
            raise ExternalError(f"{what}: {error}{gone}") from error
        if (answer := between()) is not None:
            return answer
        if attempt == attempts:
            break
        pause = pause_before(attempt + 1, error.retry_after)
        if attempts < math.inf:
            further = f"attempt {attempt + 1} of {attempts} in {pause:.0f} s"
            print(f"{what}: {error}; {further}", flush=True)
        elif attempt == 1:
            print(f"{what}: {error}; waiting until Kaggle answers", flush=True)
        time.sleep(pause)
    remedy = "run the same command again later"
    if inside.notebook():
        remedy = f"switch the notebook's internet on, or {inside.BY_HAND}"
    raise ExternalError(
        f"{what} failed {attempts} times, most recently because {error}; {remedy}"
    ) from error


def pause_before(attempt: int, retry_after: float = 0.0) -> float:
    """Return the seconds to wait before attempt number `attempt` (2, 3, …).

    They double, with jitter. The service's Retry-After is respected, both up to LONGEST_PAUSE.
    """
    doubled = FIRST_PAUSE * 2.0 ** min(attempt - 2, 10) * random.uniform(0.5, 1.0)  # noqa: S311
    return min(LONGEST_PAUSE, max(doubled, retry_after))


# --- a call, from outside its process -----------------------------------------------------------


def call(
    method: str, arguments: Mapping[str, object], progress: Callable[[], int] = lambda: 0
) -> Any:
    """Call the client in its own process; kill it if the number `progress` stops growing.

        call("competition_submissions", {"competition": COMPETITION, "page_size": 100})

    `method` may also be "module:function", which is called with the client and the arguments. The
    answer comes as JSON: objects as dicts of their fields, with "" for those not set.
    """
    credentials.require(HOME)
    environment = {key: value for key, value in os.environ.items() if key not in IGNORED_VARIABLES}
    child = subprocess.Popen(  # noqa: S603
        [sys.executable, "-m", "pipeline.kaggle.client", method, json.dumps(arguments)],
        cwd=Path(__file__).parents[2],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        seen, since = progress(), time.monotonic()
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                answer, _ = child.communicate(timeout=0.1)
                break
            if (now := progress()) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since > STALL:
                raise CallError(f"nothing arrived for {STALL:.0f} s", stalled=True)
    finally:
        child.kill()
        child.communicate()
    return _parse(answer, child.returncode)


def _parse(answer: str, code: int) -> Any:
    try:
        content = json.loads(answer)
    except ValueError:
        raise CallError(f"the client crashed (exit code {code})") from None
    if "value" in content:
        return content["value"]
    raise CallError(**content)


# --- a call, inside its process -----------------------------------------------------------------


def _main(method: str, arguments: str) -> None:
    found = credentials.find()  # before the client removes a login that has expired
    with contextlib.redirect_stdout(io.StringIO()):  # what the client prints is discarded
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
            module, _, name = method.rpartition(":")
            if module:
                value = getattr(import_module(module), name)(api, **json.loads(arguments))
            else:
                value = getattr(api, name)(**json.loads(arguments))
            answer = json.dumps({"value": value}, default=_fields)
        except (Exception, SystemExit) as error:
            answer = json.dumps(asdict(_describe(error, found)))
    print(answer)


def _fields(thing: Any) -> dict[str, Any]:
    """Return the fields of one of the client's objects."""
    values = thing.to_field_map(ignore_defaults=False)
    return {name: "" if value is None else value for name, value in values.items()}


def _describe(error: BaseException, found: Sequence[Found]) -> CallError:
    """Describe what the client raised with the credentials found, without (signed) addresses."""
    text = " ".join(re.sub(r"\S*://\S*|\S*\?\S*=\S*", "…", str(error)).split())[:200]
    response = getattr(error, "response", None)
    if isinstance(error, SystemExit):  # the client has tried every credential
        status, headers, text = 401, {}, "none of the credentials works"
    elif response is None:
        return _unanswered(error, text)
    else:
        status, headers, text = response.status_code, response.headers, text or "no reason given"
    if CallError(text, status).retryable:
        wait = headers.get("Retry-After", "")
        seconds = float(wait) if wait.isdigit() else 0.0
        return CallError(f"Kaggle returned HTTP {status}", status, retry_after=seconds)
    asked = getattr(response, "request", None)
    used, remedy = credentials.refused(
        found, asked.headers.get("Authorization", "") if asked else ""
    )
    if status == 401:
        return CallError(f"Kaggle refuses {used} (401: {text})", status, remedy)
    remedy = f"it was sent with {used}" if status == 403 else ""
    if status == 403 and "phone" in text.lower():
        remedy = f"verify your phone at {credentials.SETTINGS}"
    elif status == 403 and re.search("rules|Forbidden|no reason given", text):
        remedy = f"if the rules have not been accepted, accept them in a browser: {HOME}/rules"
    return CallError(f"Kaggle refuses it ({status}): {text}", status, remedy)


def _unanswered(error: BaseException, text: str) -> CallError:
    """Describe a failure without an answer; with a remedy if another attempt would fail too."""
    from requests.exceptions import RequestException

    for pattern, remedy in REMEDIES.items():
        if said := re.search(pattern, str(error)):
            proxies = " and ".join(filter(os.environ.get, PROXIES)) or "the proxy settings"
            return CallError(f"cannot connect ({said[0]})", remedy=remedy.format(proxies=proxies))
    # The last is what the client's check of a resumed download says.
    broken = isinstance(error, RequestException | json.JSONDecodeError)
    if broken or "does not match expected size" in text:
        return CallError(f"no valid answer arrived ({type(error).__name__})")
    if isinstance(error, OSError) and error.filename:
        return CallError(f"{error.filename}: {error.strerror}", remedy="make it readable")
    remedy = "reinstall the environment: remove .venv, then run the same `make` command"
    return CallError(f"the kaggle client failed ({type(error).__name__}: {text})", remedy=remedy)


if __name__ == "__main__":
    _main(*sys.argv[1:])
