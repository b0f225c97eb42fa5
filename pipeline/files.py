"""Files that are complete or absent: atomic writes, JSON with its own digest, locks.

Standard library only: every `digits STAGE` imports this module.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ExternalError

Cache = dict[str, list[Any]]


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` if the block succeeds.

    The bytes are on the disk before the rename, so that not even a power cut leaves a name
    without its content. If the block raises, the temporary file is removed and `path` is
    untouched. So is what a killed process left of the same file.

        with atomic(Path("answer.txt")) as temporary:
            temporary.write_text("42")
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = f"{os.getpid()}-{threading.get_native_id()}"
    temporary = path.with_name(f".{path.name}.{writer}.tmp")
    remove_unfinished(path.parent, path.name)
    try:
        yield temporary
        flush(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, name: str = "") -> None:
    """Remove the temporary files of dead processes: of one file, or of all in a folder."""
    for path in folder.glob(f".{glob.escape(name) or '*'}.*.tmp"):
        writer = re.search(r"\.(\d{1,9})(-\d+)?\.tmp$", path.name)
        if writer and not _alive(int(writer[1])):
            path.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except OSError as error:
        return isinstance(error, PermissionError)  # another user's
    return True


def flush(path: Path) -> None:
    """Wait until a file is on the disk, where the file system can tell."""
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with its own digest, which reveals damage; atomically.

    For example, `write_json(folder / "metrics.json", {"accuracy": 0.99})`.
    """
    with atomic(path) as temporary:
        text = json.dumps({**value, "sha256": _digest(value)}, indent=2)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """Read what `write_json` wrote; None if there is no such file, or if it is damaged."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(value, dict) or value.pop("sha256", None) != _digest(value):
        return None
    return value


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def fingerprint(path: Path, cache: Cache | None = None) -> str:
    """Compute the SHA-256 of a file's content, in hexadecimal: "9f86d081…".

    Args:
        path: the file.
        cache: from `artifacts.stat_cache`. A file with the size, modification and change times and
            inode of an earlier reading is not read again. (A program cannot set the change time
            back, so neither a restored date nor a patched byte goes unnoticed.)

    Raises:
        FileNotFoundError: there is no such file.
    """
    stat = path.stat()
    identity = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    known = cache.get(str(path)) if cache is not None else None
    if isinstance(known, list) and len(known) == 5 and known[:4] == identity:
        return str(known[4])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # A file that changed a moment ago may change again within one tick of the clock: forget it.
    if cache is not None and time.time_ns() - stat.st_ctime_ns > 100_000_000:
        cache[str(path)] = [*identity, digest]
    return digest


@contextlib.contextmanager
def locked(path: Path, name: str) -> Iterator[None]:
    """Hold a lock; wait if another process holds it, and say so.

    The lock is released when its process ends, however it ends. It does not keep the threads of one
    process apart. (A POSIX lock, because some network file systems lack flock.)

    Args:
        path: the lock file; its folder is created if necessary.
        name: what the lock is for, as the user calls it.

    Raises:
        ExternalError: the file system has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            process = file.read().strip() or "unknown"
            print(
                f"{name}: waiting for process {process}, which is running this step",
                file=sys.stderr,
            )
            fcntl.lockf(file, fcntl.LOCK_EX)
        except OSError as error:
            raise ExternalError(
                f"{path}: this file system cannot lock files ({error.strerror}); work in a folder "
                "on another disk"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
