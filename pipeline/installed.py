"""Compares the packages that this Python has with pyproject.toml, for `make VENV=none`.

Standard library only, and without anything that an older Python could not read: this is the first
module to run on a machine of which nothing is known.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYTHONS = ((3, 11), (3, 12), (3, 13))


def compare(root: Path) -> tuple[dict[str, str], list[str]]:
    """Compare what is installed with the dependencies that pyproject.toml lists.

    Args:
        root: the project's folder.

    Returns:
        What is missing or too old, with its version, by the requirement as pip takes it; only
        "python" if it is none of PYTHONS. And what is newer than what was tested.
    """
    if sys.version_info[:2] not in PYTHONS:
        wanted = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        return {f"python {wanted}": ".".join(map(str, sys.version_info[:2]))}, []
    import tomllib

    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lacking, newer = {}, []
    for requirement in project["dependencies"]:
        name = re.split("[<>=]", requirement)[0]
        floor, ceiling = (re.search(f"{sign}([0-9.]+)", requirement) for sign in (">=", "<"))
        found = _version(name)
        if not found or (floor and _numbers(found) < _numbers(floor[1])):
            lacking[requirement] = f"{name} {found}" if found else ""
        elif ceiling and _numbers(found) >= _numbers(ceiling[1]):
            newer.append(f"{name} {found}")
    return lacking, newer


def _version(name: str) -> str:
    """The version of an installed package; "" without it."""
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # tensorflow-cpu, for one, has another name, and the same modules.
        others = metadata.packages_distributions().get(name, [])
        return metadata.version(others[0]) if others else ""


def _numbers(version: str) -> list[int]:
    """The numbers at the beginning of a version: of 2.1.0rc1 [2, 1]."""
    found = re.match(r"[0-9]+(\.[0-9]+)*(?![0-9a-z])", version)
    numbers = [int(number) for number in (found[0] if found else "0").split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return numbers


def main() -> None:
    """Exit with code 2 and one line about all that is missing or too old."""
    lacking, newer = compare(Path(__file__).resolve().parents[1])
    if newer:
        print(f"{', '.join(newer)}: newer than what was tested")
    if not lacking:
        return
    wanted = ", ".join(
        f"{requirement} ({found or 'missing'})" for requirement, found in lacking.items()
    )
    if next(iter(lacking)).startswith("python "):
        remedy = "name another Python with PYTHON="
    else:
        words = " ".join(f"'{requirement}'" for requirement in lacking)
        remedy = (
            f"install them with `{sys.executable} -m pip install {words}`, or leave out VENV=none, "
            "and make installs everything into .venv"
        )
    print(f"{sys.executable} lacks {wanted}; {remedy}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
