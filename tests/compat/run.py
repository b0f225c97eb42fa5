"""Tries the pipeline with the packages of Kaggle's images: `make compat`.

For each kaggle*.txt beside this file, it builds an environment in build/compat/, with uv if it is
there, and runs in it the quick tests, `make submission VENV=none` on 5,000 real digits, and
image.py: what a Kaggle notebook does. Environments are kept until their file changes.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TOOLS = HERE / "tools.txt"
PYTHONS = ("3.13", "3.12", "3.11")
PROBE = "import ensurepip, sys, venv; print(sys.executable, '%d.%d.%d' % sys.version_info[:3])"
# This may have been started by make, whose variables are not meant for the one that it starts.
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "VENV", "PYTHON", "PYTHONPATH")
}


def main() -> int:
    """Try every set of versions, or those named; returns 1 if one of them failed."""
    names = sys.argv[1:] or [path.stem for path in sorted(HERE.glob("kaggle*.txt"))]
    failed = [f"{name}: {what}" for name in names for what in attempt(name)]
    print(f"\nfailed: {', '.join(failed)}" if failed else f"\npassed: {', '.join(names)}")
    return 1 if failed else 0


def attempt(name: str) -> list[str]:
    """Build an environment and try everything in it; returns what failed."""
    python = environment(HERE / f"{name}.txt", ROOT / "build" / "compat" / name)
    pytest = [python, "-m", "pytest", "-q"]
    project = copy(python.parents[1] / "project")
    sprint = ["make", "-C", project, "submission", "VENV=none", f"PYTHON={python}"]
    commands = {
        "quick tests": [*pytest, "-m", "not slow", "--ignore", "tests/system"],
        "sprint": [*sprint, "DATASET=sample", "CONFIG=sprint"],
        "notebook": [*pytest, "-n", "0", "tests/compat/image.py"],
    }
    return [what for what, words in commands.items() if not succeeds(f"{name}: {what}", words)]


def environment(versions: Path, folder: Path) -> Path:
    """An environment with these versions and the tools, built if it is not there; its Python."""
    text = versions.read_text(encoding="utf-8")
    wanted = re.search(r"Python (\d\.\d+)", text)
    assert wanted, f"{versions} names no Python"
    content = text + TOOLS.read_text(encoding="utf-8")
    stamp, python = folder / ".installed", folder / "bin" / "python"
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == content):
        base, version = find_python(wanted[1])
        print(f"\n{versions.stem}: Python {version} ({base}) into {folder.relative_to(ROOT)}")
        shutil.rmtree(folder, ignore_errors=True)
        files = ["-r", versions, "-r", TOOLS]
        if uv := shutil.which("uv"):
            subprocess.run([uv, "venv", "--quiet", "--python", base, folder], check=True)
            install = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python]
        else:
            subprocess.run([base, "-m", "venv", folder], check=True)
            install = [python, "-m", "pip", "install", "--quiet"]
        subprocess.run([*install, *files], check=True)
        stamp.write_text(content, encoding="utf-8")
    return python


def find_python(wanted: str) -> tuple[str, str]:
    """The path and the version of a Python: of the one wanted, or else of another that will do."""
    for version in (wanted, *PYTHONS):
        with_minor = shutil.which(f"python{version}")
        asked = [with_minor or sys.executable, "-c", PROBE]
        found = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split()
        if found and found[1].rpartition(".")[0] in (version, *PYTHONS):
            return found[0], found[1]
    raise SystemExit("Python 3.11, 3.12 or 3.13 is needed, with venv; none is on the PATH")


def copy(folder: Path) -> Path:
    """A new copy of what runs the pipeline, so that nothing of the clone's own is rebuilt."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        ROOT / "pipeline", folder / "pipeline", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    return folder


def succeeds(what: str, words: list[object]) -> bool:
    """Run a command in the clone; says how long it took."""
    print(f"\n{what}: {' '.join(map(str, words))}", flush=True)
    start = time.monotonic()
    done = subprocess.run([str(word) for word in words], cwd=ROOT, env=ENVIRONMENT, check=False)
    state = "passed" if done.returncode == 0 else f"failed with code {done.returncode}"
    print(f"{what}: {state} in {time.monotonic() - start:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
