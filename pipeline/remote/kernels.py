"""Scripts that run on Kaggle, which calls them kernels: push one, watch it, fetch its output.

The client's own functions turn a refusal into an error without a status, and write an error page
to the file that was asked for. So the requests are those of the SDK beneath it. As in client.py,
each call runs in its own process; the second half of this file is what runs in there. All calls
raise CallError if they fail, and UserError without credentials.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.kaggle import COMPETITION, client
from pipeline.kaggle.client import CallError

# The names of all scripts that `ENGINE=kaggle` pushes begin like this.
PREFIX = "digits-"
# Seconds that a session may take; Kaggle ends it after 9 to 12 hours.
SESSION = 9 * 3600


@dataclass(frozen=True)
class State:
    """The state of a run: QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_REQUESTED, …."""

    status: str
    failure: str = ""  # why it ended with ERROR, in Kaggle's words

    @property
    def ended(self) -> bool:
        """True if it will not change any more."""
        return self.status in ("COMPLETE", "ERROR", "CANCEL_ACKNOWLEDGED")

    def __str__(self) -> str:
        return self.status.lower().replace("_", " ")


@dataclass(frozen=True)
class Runs:
    """The user's name, and when each of the user's runs last began, newest first."""

    user: str
    last: dict[str, str]  # "2026-11-25 05:06", by the name of the script

    def address(self, slug: str) -> str:
        """Return where to look at a run in a browser."""
        return f"https://www.kaggle.com/code/{self.user}/{slug}"


@dataclass(frozen=True)
class Quota:
    """Hours on a GPU this week."""

    left: float
    total: float
    refresh: str  # when the next week begins, "2026-11-28 00:00"; or ""


def letters(name: str) -> str:
    """Return a preset's name in the letters that Kaggle allows in that of a script."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def runs(prefix: str) -> Runs:
    """List the user's scripts whose names begin with `prefix`."""
    return Runs(**_call("_runs", prefix=prefix))


def state(slug: str) -> State | None:
    """Return the state of one of the user's runs; None if there is none of that name."""
    try:
        return State(*_call("_state", slug=slug))
    except CallError as error:
        if error.status in (403, 404):  # 403 also for what does not exist
            return None
        raise


def push(slug: str, script: str, accelerator: str, seconds: int, kind: str = "script") -> str:
    """Save a private script and run it, with the competition attached; return why it is refused.

    With status 0 in the error, the run may exist nevertheless. Kaggle ends it after `seconds`.
    A notebook is a script of the kind "notebook".
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "script")
        path.write_text(script, encoding="utf-8")
        asked = {"path": str(path), "accelerator": accelerator, "seconds": seconds, "kind": kind}
        return str(_call("_push", slug=slug, **asked))


def source(slug: str) -> str:
    """Return the newest version of one of the user's scripts or notebooks; "" if there is none."""
    try:
        return str(_call("_source", slug=slug))
    except CallError as error:
        if error.status in (403, 404):
            return ""
        raise


def follow(slug: str, start: int, handle: Callable[[str], None]) -> None:
    """Call `handle` with the pieces of a run's log, usually lines, until it ends or stalls.

    The log begins anew with each connection: the first `start` pieces are left out. A log that ends
    proves nothing: only the state does.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder, "log")
        path.touch()
        seen = start

        def progress() -> int:
            nonlocal seen
            pieces = path.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be half
            for piece in pieces[seen:]:
                handle(json.loads(piece))
            seen = max(seen, len(pieces))
            return len(pieces)

        try:
            _call("_follow", progress, slug=slug, path=str(path))
        finally:
            progress()


def fetch(slug: str, wanted: Mapping[str, Path], version: str = "") -> list[str]:
    """Download files of a run's output; return the names of all, none if Kaggle dropped them.

    `wanted` says where to put files, by their names; those that are not in the output are left out.
    The output is that of the newest version of the script, if none is given.
    """

    def size() -> int:
        return sum(path.stat().st_size for path in wanted.values() if path.exists())

    files = {name: str(path) for name, path in wanted.items()}
    return list(_call("_fetch", size, slug=slug, files=files, version=version))


def quota() -> Quota:
    """Return how many hours on a GPU are left."""
    return Quota(**_call("_quota"))


def delete(slug: str) -> None:
    """Delete a script with all its versions and their output."""
    if refused := _call("_delete", slug=slug):
        raise CallError(f"Kaggle refuses it: {refused}", status=400)


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


def _pages(api: Any, method: str, **values: Any) -> Iterator[Any]:
    token = None
    while token != "":
        page = _ask(api, method, **values, page_token=token)
        yield page
        token = page.next_page_token or ""


def _of(api: Any, slug: str) -> dict[str, str]:
    return {"user_name": _user(api), "kernel_slug": slug}


def _user(api: Any) -> str:
    return str(api.get_config_value("username"))


def _runs(api: Any, prefix: str) -> dict[str, Any]:
    from kagglesdk.kernels.types.kernels_enums import KernelsListSortType, KernelsListViewType

    pages = _pages(
        api,
        "list_kernels",
        group=KernelsListViewType.PROFILE,
        sort_by=KernelsListSortType.DATE_RUN,
        search=PREFIX,
        page_size=100,
    )
    every = [each for page in pages for each in page.kernels or []]
    last = {str(each.ref).rpartition("/")[2]: _minute(each.last_run_time) for each in every}
    ours = {slug: began for slug, began in last.items() if slug.startswith(prefix)}
    return {"user": _user(api), "last": ours}


def _state(api: Any, slug: str) -> tuple[str, str]:
    answer = _ask(api, "get_kernel_session_status", **_of(api, slug))
    return answer.status.name, answer.failure_message or ""


def _source(api: Any, slug: str) -> str:
    return _ask(api, "get_kernel", **_of(api, slug)).blob.source or ""


def _push(api: Any, slug: str, path: str, accelerator: str, seconds: int, kind: str) -> str:
    gpu = accelerator != "none"
    answer = _ask(
        api,
        "save_kernel",
        slug=f"{_user(api)}/{slug}",
        new_title=slug,
        text=Path(path).read_text(encoding="utf-8"),
        language="python",
        kernel_type=kind,
        is_private=True,
        enable_gpu=gpu,
        enable_internet=False,
        competition_data_sources=[COMPETITION],
        session_timeout_seconds=seconds,
        **({"machine_shape": accelerator} if gpu else {}),
    )
    return answer.error or ""


def _follow(api: Any, slug: str, path: str) -> None:
    with Path(path).open("w", encoding="utf-8") as file:
        for event in api.kernels_logs_stream(f"{_user(api)}/{slug}"):
            file.write(json.dumps(str(event.get("data", ""))) + "\n")
            file.flush()


def _fetch(api: Any, slug: str, files: dict[str, str], version: str) -> list[str]:
    import requests

    asked = {**_of(api, slug), "version_label": version or None, "page_size": 200}
    names = []
    for page in _pages(api, "list_kernel_session_output", **asked):
        for file in page.files or []:
            names.append(file.file_name)
            if file.file_name in files:
                with requests.get(file.url, stream=True, timeout=client.STALL) as answer:
                    answer.raise_for_status()
                    with Path(files[file.file_name]).open("wb") as target:
                        for block in answer.iter_content(1 << 16):
                            target.write(block)
    return names


def _quota(api: Any) -> dict[str, Any]:
    answer = _ask(api, "get_accelerator_quota_statistics")
    total = answer.gpu_quota.total_time_allowed.total_seconds() / 3600
    left = max(0.0, total - answer.gpu_quota.time_used.total_seconds() / 3600)
    return {"left": left, "total": total, "refresh": _minute(answer.quota_refresh_time)}


def _delete(api: Any, slug: str) -> str:
    return _ask(api, "delete_kernel", **_of(api, slug)).error_message or ""


def _minute(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""
