"""Create the environment and install what the locks pin, with uv or pip: `make` starts this.

Standard library only.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from pipeline import endings
from pipeline.errors import ExternalError, UserError

ROOT = Path(__file__).resolve().parents[1]
MARK = ".made-by"  # in an environment: which clone made it, on which machine
PULSE = 4  # seconds between two lines about an installation


def install(stamp: Path, extras: str = "") -> None:
    """Install what the locks pin; first create the environment if there is none that works.

    Args:
        stamp: the file in the environment's folder that says, afterwards, that it is done. Its
            name begins with .installed- for the project, .tools- for what tests and Ray need.
        extras: optional dependencies of the project, such as "gpu".
    """
    venv, kind = stamp.parent, stamp.name.partition("-")[0]
    python, uv = str(venv / "bin" / "python"), shutil.which("uv")
    base = str(Path(sys.executable).resolve())  # this one may be in what `prepare` removes
    if prepare(venv):
        print(f"creating {venv}", flush=True)
        with_uv = ["uv", "venv", "--allow-existing", "--python", base]
        run([*(with_uv if uv else [base, "-m", "venv"]), str(venv)], venv)
    with_pip = [python, "-m", "pip", "install", "--progress-bar", "off"]
    pip = ["uv", "pip", "install", "--python", python] if uv else with_pip
    locked = [*pip, "--require-hashes", "-r", "requirements.lock"]
    editable = [*pip, "--no-build-isolation", "--config-settings", "editable_mode=compat"]
    if kind == ".tools":
        print(f"installing the tools for tests and Ray into {venv} (once; 0.4 GB)", flush=True)
        run([*locked, "-r", "tests/requirements.lock"], venv)
    else:
        print(f"installing into {venv} (once; 2.5 GB)", flush=True)
        run(locked, venv)
        run([*editable, "--no-deps", "-e", "."], venv)
        if extras:
            run([*editable, "-e", f".[{extras}]"], venv)
    for earlier in venv.glob(f"{kind}-*"):
        earlier.unlink()
    stamp.touch()


def prepare(venv: Path) -> bool:
    """Make room for an environment, and return True; False if there is one that works.

    Raises:
        UserError: something else is in the folder, or an environment that may work elsewhere.
    """
    fault, gone = _fault(venv / "bin" / "python")
    if not fault:
        return False
    mark, made_here = venv / MARK, f"{ROOT} on {socket.gethostname()}"
    files = (path for path in venv.rglob("*") if path.is_symlink() or path.is_file())
    if any(path.name not in (".gitignore", "CACHEDIR.TAG") for path in files):
        if not (venv / "pyvenv.cfg").exists() and not mark.exists():
            raise UserError(f"{venv} exists and is not an environment; name another folder: VENV=…")
        ours = mark.exists() and mark.read_text(encoding="utf-8") == made_here
        if not (gone and ours and venv.stat().st_uid == os.getuid()):
            raise UserError(
                f"{venv}/bin/python cannot be used here: {fault}; the environment stays, since it "
                f"may work elsewhere: name another folder (VENV={venv}-2), or `rm -rf {venv}` "
                "and run the same command again to create it anew"
            )
        shutil.rmtree(venv.resolve())
    venv.resolve().mkdir(parents=True, exist_ok=True)
    mark.write_text(made_here, encoding="utf-8")
    return True


def _fault(python: Path) -> tuple[str, bool]:
    """Say why a Python cannot be used, or ""; and whether it, or its pip, is simply gone."""
    needed = "" if shutil.which("uv") else "import pip"
    try:
        python.stat()
        done = subprocess.run([python, "-Ec", needed], capture_output=True, text=True, check=False)
    except OSError as error:
        gone = isinstance(error, FileNotFoundError) and not python.exists()
        return f"{python.resolve()} is missing" if gone else str(error.strerror), gone
    if done.returncode == 0:
        return "", False
    said = done.stderr.splitlines() or [f"it ends with {done.returncode}"]
    return said[-1], "No module named 'pip'" in said[-1]


def run(words: list[str], venv: Path) -> None:
    """Run a command that installs, print every few seconds how far it is, and log its output.

    Raises:
        ExternalError: the command failed; its last lines were printed.
    """
    log, before = venv / "install.log", _installed(venv)
    settings = {"PIP_USER": "0", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(words, stdout=out, stderr=out, env=os.environ | settings)
        while process.poll() is None:
            try:
                process.wait(PULSE)
            except subprocess.TimeoutExpired:
                said = log.read_text(encoding="utf-8", errors="replace")
                print(f"  {progress(said, _installed(venv) - before)}", flush=True)
    if process.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")
        print(*said.splitlines()[-12:], sep="\n", file=sys.stderr)
        raise ExternalError(
            f"the installation failed for the reason above ({log} has all of it); remove it, "
            f"{endings.RESUMES}"
        )


def _installed(venv: Path) -> int:
    """Count the packages in an environment."""
    return len(list(venv.glob("lib/*/site-packages/*.dist-info")))


def progress(said: str, installed: int) -> str:
    """Say how far an installation is, by what uv or pip printed and the packages in place."""
    if found := re.findall(r"^Installing collected packages: (.*)", said, re.MULTILINE):
        names = found[-1].split(", ")
        now = f"; next: {names[installed]}" if installed < len(names) else ""
        return f"{installed} of {len(names)} packages installed{now}"
    lines = [line for line in said.splitlines() if not line.startswith("WARNING")]
    now = lines[-1].strip().partition(" (from ")[0] if lines else "still working"
    count = said.count("Collecting ")  # of pip, which names all; uv names what is large
    return f"package {count}: {now}" if count else now


def main() -> None:
    """Bring an environment up to date: python -m pipeline.installation STAMP [EXTRAS]."""
    try:
        install(Path(sys.argv[1]), *sys.argv[2:])
    except (UserError, ExternalError, OSError, KeyboardInterrupt) as error:
        line, code = endings.ending(error)
        print(f"make: {line}", file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
