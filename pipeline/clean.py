"""Remove what the pipeline made: `digits clean`, `digits distclean`, and the same from `make`.

Standard library only, and nothing that an older Python cannot read: `make clean` works without an
environment. Where data/ or a dataset in it is a link, what is behind the link is removed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from pipeline import endings
from pipeline.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
CACHES = ("build", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".hypothesis", "*.egg-info")


def clean(root: Path, yes: bool) -> None:
    """Remove what can be rebuilt; raw data and submissions stay.

    Args:
        root: the project's folder.
        yes: remove networks, and what is behind links, without asking.

    Raises:
        UserError: a link leads nowhere, or nobody agreed; nothing was removed.
    """
    data = root / "data"
    made = [entry for dataset in _entries(data) for entry in _entries(dataset)]
    cache = data / ".fingerprints.json"
    _remove("clean", root, [entry for entry in made if entry.name != "raw"] + [cache], yes)


def distclean(root: Path, yes: bool, venv: Path) -> None:
    """Remove all data, and the environment if it is in the project; see `clean`."""
    made = [path for pattern in CACHES for path in root.glob(pattern)]
    for entry in _entries(root / "data"):
        if entry.name != "README.md":
            made += [*(_entries(entry) if entry.is_symlink() else []), entry]
    place = venv.parent.resolve() / venv.name if venv.is_symlink() else venv.resolve()
    environment = (place / "pyvenv.cfg").exists() or (place / "bin" / "python").exists()
    if environment and root in place.parents:  # another one may be shared
        made.append(place)
    _remove("distclean", root, made, yes)


def _entries(folder: Path) -> list[Path]:
    """List a folder, or the one that a link leads to; a file has no entries."""
    if folder.is_symlink() and not folder.exists():
        raise UserError(
            f"{folder} is a link to {folder.resolve()}, which is missing: restore that, or remove "
            "the link; nothing was removed"
        )
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _remove(command: str, root: Path, made: list[Path], yes: bool) -> None:
    """Remove files and folders; if that costs training or leaves the project, ask first."""
    made = [path for path in made if path.exists() or path.is_symlink()]
    files = [file for path in made if not path.is_symlink() for file in (path, *path.rglob("*"))]
    count = sum(file.name == "weights.keras" for file in files)
    hours = sum(map(_seconds, files)) / 3600
    size = sum(file.lstat().st_size for file in files if not file.is_dir()) / 1e6
    networks = f"{count} network{'' if count == 1 else 's'}"
    folders = {folder for path in made for folder in (path.parent, path.parent.parent)}
    links = [f", {link} -> {link.resolve()}" for link in sorted(folders) if link.is_symlink()]
    if (count or links) and not yes:
        what = f"{networks} ({hours:.1f} hours of training), {size:,.0f} MB{''.join(links)}"
        print(f"{command} removes {what}".replace(f"{root}/", ""), flush=True)
        if not sys.stdin.isatty():
            raise UserError("nothing was removed; confirm with YES=1 (make) or --yes (digits)")
        print("remove them? [y/N] ", end="", flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise UserError("nothing was removed")
    for path in made:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
            continue
        if path.is_dir() and path not in folders:
            print(f"{path.relative_to(root)} was a link; {path.resolve()} stays")
        path.unlink()
    print(f"{command}: removed {networks}, {size:,.0f} MB")


def _seconds(file: Path) -> float:
    """Return the training time that a fold's manifest records; 0 for any other file."""
    try:
        ours = file.match("fold-*/manifest.json")
        return float(json.loads(file.read_text("utf-8"))["metadata"]["seconds"]) if ours else 0
    except (ValueError, KeyError, TypeError):  # damaged, and about to be removed
        return 0


def main() -> None:
    """Clean without the packages that `digits` needs: `python -m pipeline.clean clean`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.clean")
    parser.add_argument("command", choices=("clean", "distclean"))
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="the environment")
    words = parser.parse_args()
    try:
        if words.command == "clean":
            clean(ROOT, words.yes)
        else:
            distclean(ROOT, words.yes, words.venv)
    except (UserError, OSError, KeyboardInterrupt) as error:
        line, code = endings.ending(error)
        print(f"digits: {line}".replace(f"{ROOT}/", ""), file=sys.stderr)
        sys.exit(code)


if __name__ == "__main__":
    main()
