"""Compares the packages of this Python with pyproject.toml, for `make VENV=none`.

It is the first module to run on a machine of which nothing is known: an older Python can read it,
and it imports nothing that may be missing before it has looked.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)


def compare(root: Path) -> tuple[dict[str, str], list[str]]:
    """Compare what is installed with the dependencies that pyproject.toml lists.

    Args:
        root: the project's folder.

    Returns:
        What is missing or too old: "missing", or the version found, by the requirement as pip
        takes it; only Python if that is too old or too new. And what is newer than tested.
    """
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        first, last, found = (f"{its[0]}.{its[1]}" for its in (OLDEST, NEWEST, sys.version_info))
        return {f"Python {first} to {last}": f"found {found}"}, []
    import tomllib

    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    wanted = tomllib.loads(text)["project"]["dependencies"]
    if not _version("packaging"):  # which compares versions
        names = {each: re.split("[<>=]", each)[0] for each in wanted}
        return {each: "missing" for each, name in names.items() if not _version(name)}, []
    from packaging.requirements import Requirement
    from packaging.version import Version

    lacking, newer = {}, []
    for each in wanted:
        requirement = Requirement(each)
        found = _version(requirement.name)
        [floor] = (its.version for its in requirement.specifier if its.operator == ">=")
        if not found or Version(found) < Version(floor):
            lacking[each] = f"found {found}" if found else "missing"
        elif not requirement.specifier.contains(found, prereleases=True):
            newer.append(f"{requirement.name} {found}")
    return lacking, newer


def _version(name: str) -> str:
    """Return the version of an installed package, or "" without it."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # tensorflow-cpu, for one, has another name, and the same modules.
        others = metadata.packages_distributions().get(name, [])
        return metadata.version(others[0]) if others else ""


def main() -> None:
    """Exit with code 2 and one line about all that is missing or too old."""
    lacking, newer = compare(Path(__file__).resolve().parents[1])
    if newer:
        print(f"{', '.join(newer)}: newer than what was tested")
    if not lacking:
        return
    needed = ", ".join(f"{each} ({found})" for each, found in lacking.items())
    remedy = "name another Python with PYTHON="
    if not needed.startswith("Python"):
        words = " ".join(f"'{each}'" for each in lacking)
        remedy = (
            f"install them with `{sys.executable} -m pip install {words}`, or leave out VENV=none, "
            "and make installs everything into .venv"
        )
    print(f"{sys.executable} needs {needed}; {remedy}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
