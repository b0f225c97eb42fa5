"""Scripts that run on Kaggle, which calls them kernels: push one, watch it, fetch its output.

The client's own functions turn a refusal into an error without a status, and write an error page
to the file that was asked for. So the requests are those of the SDK beneath it. As in client.py,
each call runs in its own process; the second half of this file is what runs in there.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.kaggle import COMPETITION, client
from pipeline.kaggle.client import CallError

CODE = "https://www.kaggle.com/code"
# The names of all scripts that `ENGINE=kaggle` pushes begin like this.
PREFIX = "digits-"
# What Kaggle says of a run that has ended.
ENDED = ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")


@dataclass(frozen=True)
class State:
    """The state of a run: QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED, …."""

    status: str
    failure: str  # why it ended with ERROR, in Kaggle's words; or ""
    user: str  # whose run it is

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.status in ENDED


@dataclass(frozen=True)
class Pushed:
    """The answer to a push. A refusal is an answer too."""

    error: str
    user: str


@dataclass(frozen=True)
class Quota:
    """Hours on a GPU this week."""

    left: float
    total: float
    refresh: str  # when the next week begins, "2026-11-28 00:00"; or ""


@dataclass(frozen=True)
class Run:
    """A run as Kaggle lists it."""

    slug: str
    last: str  # when it last began, "2026-11-25 05:06"


def state(slug: str) -> State | None:
    """The state of a run of the user's own; None if there is none of that name.

    Raises:
        CallError: the call failed; like all functions here.
        UserError: there are no credentials; like all functions here.
    """
    try:
        return State(**_call("_state", slug=slug))
    except CallError as error:
        if error.status in (403, 404):  # 403 also for what does not exist
            return None
        raise


def push(slug: str, script: str, accelerator: str, seconds: int) -> Pushed:
    """Save a private script under a name and run it, with the competition attached.

    With status 0 in the error, the run may exist nevertheless.

    Args:
        slug: the name.
        script: its source.
        accelerator: in Kaggle's words, "NvidiaTeslaT4"; or "none".
        seconds: after which Kaggle ends it.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "script.py")
        path.write_text(script, encoding="utf-8")
        return Pushed(
            **_call("_push", slug=slug, path=str(path), accelerator=accelerator, seconds=seconds)
        )


def follow(slug: str, handle: Callable[[str], None]) -> None:
    """Read the log of a run, from its beginning, until it ends or nothing arrives for a while.

    A log that ends proves nothing: only the state does.

    Args:
        slug: the run's name.
        handle: called with every piece of the log, usually a line.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "log")
        path.touch()
        with path.open("rb") as file:
            count = 0

            def progress() -> int:
                nonlocal count
                while line := file.readline():
                    if not line.endswith(b"\n"):  # half of it; the rest comes next time
                        file.seek(-len(line), os.SEEK_CUR)
                        break
                    count += 1
                    handle(json.loads(line))
                return count

            try:
                _call("_follow", progress, slug=slug, path=str(path))
            finally:
                progress()


def log(slug: str) -> list[str]:
    """The log of a run that has ended, in the pieces that `follow` would give."""
    text = _call("_log", slug=slug)
    try:
        events = json.loads(text)
    except ValueError:
        return list(text.splitlines(keepends=True))
    return [str(event.get("data", "")) for event in events if isinstance(event, dict)]


def output(slug: str) -> list[str]:
    """The paths of the files that a run has left; none if Kaggle has dropped them."""
    return list(_call("_output", slug=slug))


def fetch(slug: str, files: Mapping[str, Path]) -> None:
    """Download files of a run's output; those that are not in it will not be there.

    Args:
        slug: the run's name.
        files: where to put them, by their paths in the output.
    """

    def size() -> int:
        return sum(path.stat().st_size for path in files.values() if path.exists())

    _call("_fetch", size, slug=slug, files={name: str(path) for name, path in files.items()})


def quota() -> Quota:
    """How many hours on a GPU are left."""
    return Quota(**_call("_quota"))


def runs(prefix: str) -> list[Run]:
    """The user's own scripts whose names begin with `prefix`, newest first."""
    return [Run(**each) for each in _call("_runs", prefix=prefix)]


def delete(slug: str) -> None:
    """Delete a script with all its versions and their output."""
    _call("_delete", slug=slug)


def _call(function: str, progress: Callable[[], int] = lambda: 0, /, **arguments: object) -> Any:
    return client.call(f"{__name__}:{function}", arguments, progress)


# --- inside the process of a call ----------------------------------------------------------------


def _ask(api: Any, method: str, **values: Any) -> Any:
    """Send a request of the SDK, and return its answer."""
    from kagglesdk.kernels.types import kernels_api_service as types

    name = "".join(word.title() for word in method.split("_"))
    request = getattr(types, f"Api{name}Request")()
    for field, value in values.items():
        setattr(request, field, value)
    with api.build_kaggle_client() as kaggle:
        return getattr(kaggle.kernels.kernels_api_client, method)(request)


def _of(api: Any, slug: str) -> dict[str, str]:
    return {"user_name": _user(api), "kernel_slug": slug}


def _user(api: Any) -> str:
    return str(api.get_config_value("username"))


def _state(api: Any, slug: str) -> dict[str, Any]:
    answer = _ask(api, "get_kernel_session_status", **_of(api, slug))
    return {
        "status": answer.status.name,
        "failure": answer.failure_message or "",
        "user": _user(api),
    }


def _push(api: Any, slug: str, path: str, accelerator: str, seconds: int) -> dict[str, Any]:
    gpu = accelerator != "none"
    answer = _ask(
        api,
        "save_kernel",
        slug=f"{_user(api)}/{slug}",
        new_title=slug,
        text=Path(path).read_text(encoding="utf-8"),
        language="python",
        kernel_type="script",
        is_private=True,
        enable_gpu=gpu,
        enable_internet=False,
        competition_data_sources=[COMPETITION],
        session_timeout_seconds=seconds,
        **({"machine_shape": accelerator} if gpu else {}),
    )
    return {
        "error": answer.error or "",
        "user": _user(api),
    }


def _follow(api: Any, slug: str, path: str) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        for event in api.kernels_logs_stream(f"{_user(api)}/{slug}"):
            file.write(json.dumps(str(event.get("data", ""))) + "\n")
            file.flush()


def _log(api: Any, slug: str) -> str:
    return _ask(api, "list_kernel_session_output", **_of(api, slug)).log or ""


def _output(api: Any, slug: str) -> list[str]:
    return [file.file_name for file in _files(api, slug)]


def _fetch(api: Any, slug: str, files: dict[str, str]) -> None:
    import requests

    missing = dict(files)
    for file in _files(api, slug):
        if path := missing.pop(file.file_name, None):
            with requests.get(file.url, stream=True, timeout=client.STALL) as answer:
                answer.raise_for_status()
                with Path(path).open("wb") as target:
                    for block in answer.iter_content(1 << 16):
                        target.write(block)
        if not missing:
            return


def _files(api: Any, slug: str) -> Iterator[Any]:
    for page in _pages(api, "list_kernel_session_output", page_size=200, **_of(api, slug)):
        yield from page.files or []


def _pages(api: Any, method: str, **values: Any) -> Iterator[Any]:
    token = None
    while True:
        page = _ask(api, method, **values, page_token=token)
        yield page
        token = page.next_page_token
        if not token:
            return


def _quota(api: Any) -> dict[str, Any]:
    answer = _ask(api, "get_accelerator_quota_statistics")
    gpu, refresh = answer.gpu_quota, answer.quota_refresh_time
    total = gpu.total_time_allowed.total_seconds() / 3600
    used = gpu.time_used.total_seconds() / 3600
    return {"left": max(0.0, total - used), "total": total, "refresh": _minute(refresh)}


def _runs(api: Any, prefix: str) -> list[dict[str, str]]:
    from kagglesdk.kernels.types.kernels_enums import KernelsListSortType, KernelsListViewType

    pages = _pages(
        api,
        "list_kernels",
        group=KernelsListViewType.PROFILE,
        sort_by=KernelsListSortType.DATE_RUN,
        search=prefix,
        page_size=100,
    )
    every = [
        {"slug": str(each.ref).rpartition("/")[2], "last": _minute(each.last_run_time)}
        for page in pages
        for each in page.kernels or []
    ]
    return [each for each in every if each["slug"].startswith(prefix)]


def _delete(api: Any, slug: str) -> None:
    _ask(api, "delete_kernel", **_of(api, slug))


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
