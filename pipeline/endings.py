"""How a command ends. Every error becomes one line that says what to do, and an exit code.

| code | meaning |
|---|---|
| 0 | success, or nothing to do |
| 1 | external failure: the network, the service, the disk, memory |
| 2 | user error: an option, a preset, a file |
| 130 | stopped with Ctrl-C |
"""

import errno
import os
from pathlib import Path

from pipeline.errors import ExternalError, UserError

RESUMES = "then run the same command again; it continues from here"
SPACE = f"free some space, {RESUMES}"
PERMISSION = f"get permission, or work elsewhere, {RESUMES}"
REMEDIES = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: SPACE,
    errno.EACCES: PERMISSION,
    errno.EPERM: PERMISSION,
    errno.EROFS: f"make it writable, or work in another folder, {RESUMES}",
    errno.EFBIG: f"lift the limit with `ulimit -f unlimited`, {RESUMES}",
    errno.ENOMEM: f"close other programs, {RESUMES}",
}


def ending(error: BaseException) -> tuple[str, int]:
    """Return the line and the exit code with which an error ends a command."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, ExternalError):
        return str(error), 1
    if isinstance(error, BrokenPipeError):
        return "the program that reads the output has ended", 1
    if isinstance(error, OSError):
        return explained(error), 1
    if isinstance(error, KeyboardInterrupt):
        return "stopped; run the same command again to continue from here", 130
    if hasattr(error, "format_message"):  # what Typer says of a wrong option
        context = getattr(error, "ctx", None)
        command = context.command_path.partition(" ")[2] if context else ""
        remedy = " ".join(f"digits {command} --help".split())
        return f"{error.format_message().rstrip('.')}; see `{remedy}`", 2
    if ran_out(error):
        return f"out of memory; close other programs or raise the limit, {RESUMES}", 1
    if isinstance(error, ImportError) and os.environ.get("PYTHONPATH"):
        return f"{error}; PYTHONPATH is set, and may hide the installed packages: unset it", 2
    return f"{type(error).__name__}: {error} (a bug in the pipeline; --debug shows where)", 1


def explained(error: OSError, place: str = "") -> str:
    """Say what the system says about a file, or else about the `place`, and the remedy.

    explained(OSError(errno.ENOSPC, "No space left on device"), "data/sample")
    # "data/sample: No space left on device; free some space, then run the same command again…"
    """
    number, message = error.errno, error.strerror or str(error)
    if number is None and "written" in message:  # NumPy's "100 requested and 20 written"
        number, message = errno.ENOSPC, f"it could not be written completely ({message})"
    remedy = REMEDIES.get(number or 0)
    where = error.filename or place or (Path.cwd() if remedy else "")
    return f"{where}: {message}".removeprefix(": ") + (f"; {remedy}" if remedy else "")


def ran_out(error: BaseException) -> bool:
    """Check whether an error means that memory ran out."""
    if isinstance(error, ImportError):  # TensorFlow's libraries did not fit
        return "failed to map segment" in str(error) or "Cannot allocate memory" in str(error)
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"
