"""Compare the installed packages with pyproject.toml, for `make VENV=none` and on Kaggle."""

import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path


def compare(root: Path) -> tuple[dict[str, str], list[str]]:
    """Return the requirements that are not met, with what was found; and the packages too new.

    compare(root)  # ({"numpy>=2.0": "found 1.26.4", "rich>=13.9": "missing"}, ["keras 4.0"])
    """
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    wanted = {re.split("[<>=]", it)[0]: it for it in tomllib.loads(text)["project"]["dependencies"]}
    found = {name: _version(name) for name in wanted}
    if not found["packaging"]:  # which compares versions
        return {it: "missing" for name, it in wanted.items() if not found[name]}, []
    from packaging.requirements import Requirement
    from packaging.version import Version

    lacking, newer = {}, []
    for name, it in wanted.items():
        specifier = Requirement(it).specifier
        floor = max(Version(each.version) for each in specifier if each.operator == ">=")
        if not found[name] or Version(found[name]) < floor:
            lacking[it] = f"found {found[name]}" if found[name] else "missing"
        elif not specifier.contains(found[name], prereleases=True):
            newer.append(f"{name} {found[name]}")
    return lacking, newer


def _version(name: str) -> str:
    """Return the version of an installed package, or "" without it."""
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
    if lacking:
        needed = ", ".join(f"{each} ({found})" for each, found in lacking.items())
        words = " ".join(f"'{each}'" for each in lacking)
        remedy = f"`{sys.executable} -m pip install {words}`, or leave out VENV=none"
        print(f"{sys.executable} needs {needed}; run {remedy}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
