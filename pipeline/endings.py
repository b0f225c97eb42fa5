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
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import ExternalError, UserError

if TYPE_CHECKING:
    from pipeline.config import Preset
    from pipeline.datasets import Dataset

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


# --- what to type --------------------------------------------------------------------------------


def here() -> Path:
    """Return the folder that the user is in, which is not the current one after `make -C`."""
    return Path(os.environ.get("DIGITS_HERE") or Path.cwd())


def command(
    target: str, dataset: "Dataset", preset: "Preset", root: Path, folder: Path | None = None
) -> str:
    """Return what to type to make a target, in the project's folder or in another one."""
    away = folder is not None and not folder.samefile(root)
    words = ["make", "-C", str(root), target] if away else ["make", target]
    for variable, default, name, path in (
        ("DATASET", "kaggle", dataset.name, dataset.path),
        ("CONFIG", "default", preset.name, preset.path),
    ):
        word = name if not path else str(path) if away else os.path.relpath(path, root)
        if word != default:
            words.append(f"{variable}={word}")
    return shlex.join(words)


def command_here(target: str, dataset: "Dataset", preset: "Preset", root: Path) -> str:
    """Return what to type to make a target where the user is, with the same Python."""
    none = os.environ.get("VENV") == "none"  # make passes on what its command line has
    python = [f"PYTHON={os.environ['PYTHON']}"] if "PYTHON" in os.environ else []
    more = ["VENV=none", *python] if none else []
    return shlex.join([*shlex.split(command(target, dataset, preset, root, here())), *more])


def command_to_confirm(dataset: "Dataset", preset: "Preset") -> str:
    """Return what to type to submit results of a folder or zip, and confirm its origin."""
    script = Path(sys.executable).with_name("digits")
    words = [sys.executable, "-m", "pipeline"]
    if script.exists():
        words = [os.path.relpath(script, here())]
    words += ["submit", "--from-competition"]
    for option, chosen in (("--dataset", dataset), ("--config", preset)):
        words += [option, os.path.relpath(chosen.path, here()) if chosen.path else chosen.name]
    return shlex.join(words)
