"""The competition on Kaggle: the official client, with the deadlines and retries that it lacks.

The client waits forever on a stalled connection, prints signed addresses and secrets, exits when it
finds no credentials, and never retries. So each call runs in its own process (the second half of
this file), which can be killed, whose output is discarded, and which returns a small JSON answer.
The first half decides from that answer whether to retry.
"""

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pipeline.errors import ExternalError, UserError
from pipeline.kaggle import COMPETITION, HOME, credentials, inside

# Seconds without a byte after which an attempt ends; raise it on a slow connection.
STALL = float(os.environ.get("DIGITS_STALL_SECONDS", "60"))
# Seconds before the second attempt; they double with each attempt, up to LONGEST_PAUSE.
FIRST_PAUSE = float(os.environ.get("DIGITS_PAUSE_SECONDS", "2"))
LONGEST_PAUSE = 60.0
ATTEMPTS = 5
Answer = TypeVar("Answer")
PROXIES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
# Environment variables that silently change what the client does, or make it print secrets.
IGNORED_VARIABLES = ("KAGGLE_PATH", "KAGGLE_COMPETITION", "VERBOSE", "VERBOSE_OUTPUT")


@dataclass(eq=False)
class CallError(Exception):
    """A call to Kaggle failed. Its text contains no address and no secret, and may be shown."""

    text: str
    status: int = 0  # of HTTP; 0 if there was no answer
    retry_after: float = 0.0  # seconds that the service asks to wait
    stalled: bool = False  # it was ended because no more bytes arrived
    remedy: str = ""  # what the user can do; then retrying makes no sense
    sent: str = ""  # the kind of credentials that were sent, "token" or "key"
    lacking: bool = False  # the installed version of the client has no such call

    def __str__(self) -> str:
        return self.text

    @property
    def retryable(self) -> bool:
        """Whether to retry: the service is busy or broken, or the connection was lost."""
        return not self.remedy and (self.status in (0, 408, 429) or self.status >= 500)


@dataclass(frozen=True)
class Submission:
    """A submission as the competition lists it; scores are strings, empty until there is one."""

    ref: int
    description: str
    status: str
    public_score: str
    error_description: str


def download(folder: Path, progress: Callable[[int, int | None], None]) -> Path:
    """Download the competition's files as one zip to `folder`; one attempt.

    Args:
        folder: an empty folder, or one where a stalled attempt left the beginning of the zip, which
            the client resumes if the file on the server is still the same.
        progress: called with the number of bytes so far and, if known, in total.

    Raises:
        CallError: the attempt failed.
        UserError: there are no credentials.
    """
    path = folder / f"{COMPETITION}.zip"

    def size_so_far() -> int:
        size = path.stat().st_size if path.exists() else 0
        progress(size, _total_size(path))
        return size

    files = {"competition": COMPETITION, "path": str(folder)}
    call("competition_download_files", files, size_so_far)
    if not path.exists():
        raise CallError("what arrived is not the archive")
    return path


def submit(csv: Path, description: str) -> int:
    """Upload a CSV and submit it; one attempt. Returns the submission's number, its ref.

    Raises:
        CallError: the attempt failed; with status 0, the submission may exist nevertheless.
        UserError: there are no credentials.
    """
    upload = {"file_name": str(csv.resolve()), "message": description, "competition": COMPETITION}
    answer = call("competition_submit", upload)
    if not answer["ref"]:
        # The client hides a failed upload; only the missing number reveals it.
        raise CallError(f"the upload failed ({answer['message']})")
    return int(answer["ref"])


def submissions() -> list[Submission]:
    """The user's last hundred submissions, newest first; raises what `submit` raises."""
    answer = call("competition_submissions", {"competition": COMPETITION, "page_size": 100})
    names = [field.name for field in fields(Submission)]
    return [Submission(**{name: entry[name] for name in names}) for entry in answer or []]


def submissions_left() -> int | None:
    """How many submissions are left today; None if the client is too old to ask.

    Raises what `submit` raises.
    """
    try:
        answer = call("competition_get_submission_limits", {"competition_name": COMPETITION})
    except CallError as error:
        if error.lacking:  # kaggle 2.0, which Kaggle's own notebooks have
            return None
        raise
    return int(answer["num_allowed_now"])


def with_retries(what: str, call: Callable[[], Answer]) -> Answer:
    """Call until it succeeds, with growing pauses, or until it is clear that it will not.

    Args:
        what: what the call does, "the download", for messages.
        call: raises CallError when it fails.

    Raises:
        UserError: what the user can fix: credentials, rules, a proxy, a certificate, a file.
        ExternalError: the service refuses, or every attempt failed.
    """
    attempt = 1
    while True:
        try:
            return call()
        except CallError as error:
            if not error.retryable:
                raise refusal(what, error) from error
            if attempt == ATTEMPTS:
                remedy = "run the same command again later"
                if inside.notebook():
                    remedy = f"switch the notebook's internet on, or {inside.BY_HAND}"
                raise ExternalError(
                    f"{what} failed {ATTEMPTS} times, most recently because {error}; {remedy}"
                ) from error
            attempt += 1
            pause = pause_before(attempt, error.retry_after)
            print(f"{what}: {error}; attempt {attempt} of {ATTEMPTS} in {pause:.0f} s", flush=True)
            time.sleep(pause)


def pause_before(attempt: int, retry_after: float) -> float:
    """Seconds to wait before attempt number `attempt` (2, 3, …): doubled, jittered, capped.

    The service's Retry-After is respected, up to the same cap.
    """
    doubled = FIRST_PAUSE * 2.0 ** (attempt - 2) * random.uniform(0.5, 1.0)  # noqa: S311
    return min(LONGEST_PAUSE, max(doubled, retry_after))


def refusal(what: str, error: CallError) -> Exception:
    """What to raise when it makes no sense to retry."""
    said = f"{what}: Kaggle refuses it ({error.status}): {error}"
    if error.remedy:
        return UserError(f"{what}: {error}; {error.remedy}")
    if error.status == 401:
        return UserError(f"{what}: {credentials.refused(error.sent, f'401: {error}')}")
    if error.status == 403:
        advice = f"if the rules have not been accepted, accept them in a browser: {HOME}/rules"
        if "phone" in str(error).lower():
            advice = f"verify your phone at {credentials.SETTINGS}"
        return UserError(f"{said}; {advice}")
    if error.status == 404:
        return ExternalError(f"{said}; check whether {HOME} still exists")
    return ExternalError(said)


def _total_size(path: Path) -> int | None:
    """The size of the complete archive, from the client's note beside an incomplete one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        note = path.with_name(path.name + ".kaggle-partial").read_text(encoding="utf-8")
        return int(json.loads(note)["size"])
    return None


# --- a call, from outside its process -----------------------------------------------------------


def call(
    method: str, arguments: Mapping[str, object], progress: Callable[[], int] = lambda: 0
) -> Any:
    """Call the client in its own process; kill it if `progress` stops growing.

    Args:
        method: of the client; or "module:function", called with the client and the arguments.
        arguments: JSON values, by name.
        progress: a number that grows while something arrives.

    Returns:
        The answer as JSON: objects as dicts of their fields, with "" for those not set.

    Raises:
        CallError: the call failed.
        UserError: there are no credentials.
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
    with contextlib.redirect_stdout(io.StringIO()):  # what the client prints is discarded
        try:
            from kaggle.api.kaggle_api_extended import KaggleApi

            api = KaggleApi()
            api.authenticate()
            module, _, name = method.rpartition(":")
            if module:
                value = getattr(import_module(module), name)(api, **json.loads(arguments))
                answer = json.dumps({"value": value})
            elif hasattr(api, name):
                value = getattr(api, name)(**json.loads(arguments))
                answer = json.dumps({"value": value}, default=_fields)
            else:
                remedy = "install a newer version of the package kaggle"
                answer = json.dumps(
                    {"text": f"the client has no {method}", "remedy": remedy, "lacking": True}
                )
        except (Exception, SystemExit) as error:
            answer = json.dumps(_describe(error))
    print(answer)


def _fields(thing: Any) -> dict[str, Any]:
    """The fields of one of the client's objects."""
    values = thing.to_field_map(ignore_defaults=False)
    return {name: "" if value is None else value for name, value in values.items()}


def _describe(error: BaseException) -> dict[str, Any]:
    """A failure, as arguments of CallError; without addresses, which may be signed."""
    if isinstance(error, SystemExit):  # the client has tried every credential it found
        return {"text": "none of the credentials works", "status": 401, "sent": "token"}
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    wait = getattr(response, "headers", {}).get("Retry-After", "")
    sent = getattr(getattr(response, "request", None), "headers", {}).get("Authorization", "")
    text = " ".join(re.sub(r"\S*://\S*|\S*\?\S*=\S*", "…", str(error)).split())[:200]
    remedy = ""
    if not status:
        text, remedy = _cause(error, text)
    elif CallError(text, status).retryable or not text:
        text = f"Kaggle returned HTTP {status}"
    return {
        "text": text,
        "status": status,
        "retry_after": float(wait) if wait.replace(".", "", 1).isdigit() else 0.0,
        "remedy": remedy,
        "sent": "key" if sent.startswith("Basic") else "token",
    }


def _cause(error: BaseException, text: str) -> tuple[str, str]:
    """Why no answer came, and what the user can do; "" for a lost connection, to be retried."""
    from requests import exceptions as http

    proxies = " and ".join(name for name in PROXIES if os.environ.get(name)) or "the proxy settings"
    refused = re.search(r"Tunnel connection failed: (\d+)", str(error))
    if isinstance(error, http.SSLError) and "CERTIFICATE_VERIFY" in str(error):
        cause = "the certificate of the connection is not trusted"
        remedy = (
            "a proxy or virus scanner on the way decrypts it: set REQUESTS_CA_BUNDLE to the file "
            "with its certificate"
        )
    elif isinstance(error, http.InvalidURL | http.InvalidSchema | http.MissingSchema):
        cause, remedy = f"the proxy's address is malformed ({text})", f"correct {proxies}"
    elif isinstance(error, http.ProxyError) and refused:
        cause, remedy = f"the proxy refuses the connection ({refused[1]})", f"check {proxies}"
        if refused[1] == "407":
            remedy = f"it wants a password: put http://USER:PASSWORD@HOST:PORT into {proxies}"
    elif isinstance(error, http.ProxyError) and "NewConnectionError" in str(error):
        cause, remedy = "the proxy cannot be reached", f"check {proxies}"
    elif isinstance(error, http.InvalidHeader | UnicodeError):
        cause, remedy = "the credentials cannot be sent", "they contain characters that none have"
    elif isinstance(error, http.RequestException | json.JSONDecodeError):
        cause, remedy = f"no valid answer arrived ({type(error).__name__})", ""
    elif "does not match expected size" in text:  # the client's check of a resumed download
        cause, remedy = "the archive arrived incomplete", ""
    elif "CA certificate bundle" in text:
        cause, remedy = text, "correct REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE"
    elif isinstance(error, OSError) and error.filename:
        cause, remedy = f"{error.filename}: {error.strerror}", "make it readable"
    else:
        cause = f"the kaggle client failed ({type(error).__name__}: {text})"
        remedy = "its version may not fit; `make distclean` and the same command install ours"
    return cause, remedy


if __name__ == "__main__":
    _main(*sys.argv[1:])
