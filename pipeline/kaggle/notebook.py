"""One self-contained notebook: shows the code that learns, carries the rest, runs each stage.

Its text is in notebook.md. What is between ```python and ``` becomes a code cell, ```file PATH
becomes a cell that writes this module as it is in this repository, and everything else becomes
Markdown. The format is described at https://nbformat.readthedocs.io.
"""

import hashlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pipeline import config, files
from pipeline.config import PRESETS, Preset
from pipeline.errors import UserError
from pipeline.kaggle.pack import pack, package

TEXT = Path(__file__).with_name("notebook.md")
# Packed along with the package: the versions it needs, and the Makefile.
BESIDE = ("Makefile", "pyproject.toml")
CELLS = re.compile(r"^```(python|file)(?: (\S+))?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
FOLDER = "/tmp/digits"  # where the notebook unpacks the code  # noqa: S108
# The competition's number, from notebooks that Kaggle exported: it attaches the files by itself.
COMPETITION_NUMBER = 3004


def write(path: Path, preset: Preset, root: Path) -> int:
    """Write the notebook, atomically; return its size in bytes. Equal code gives equal bytes.

    Args:
        path: the file to be written or replaced; its name ends in .ipynb.
        preset: what `CONFIG` is set to in its first cell. A TOML file of the user's own travels
            with the code.
        root: the project's folder.

    Raises:
        UserError: the name ends otherwise, or the preset needs further files.
    """
    if path.suffix != ".ipynb":
        raise UserError(f"{path}: the name of a notebook must end in .ipynb")
    code = pack(_files(preset, root)).replace("\n", "")  # one line takes the least space to show
    text = TEXT.read_text(encoding="utf-8")
    for name, value in {
        "<preset>": preset.name,
        "<size>": f"{len(code) / 1000:.0f} kB",
        "<address>": _address(root),
    }.items():
        text = text.replace(name, value)
    cells = [
        (kind, source.strip("\n").replace("<code>", code), hidden)
        for kind, source, hidden in _split(text, preset, root)
        if source.strip()
    ]
    digest = _digest(source.replace("<digest>", "") for _, source, _ in cells)
    content = {
        "cells": [
            _cell(position, kind, source.replace("<digest>", digest), hidden)
            for position, (kind, source, hidden) in enumerate(cells)
        ],
        "metadata": {
            "kaggle": {
                "accelerator": "none",
                "dataSources": [{"sourceId": COMPETITION_NUMBER, "sourceType": "competition"}],
                "isGpuEnabled": False,
                "isInternetEnabled": False,
                "language": "python",
                "sourceType": "notebook",
            },
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    with files.atomic(path) as new:
        new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path.stat().st_size


def edited(notebook: str) -> bool:
    """Check whether a notebook, as text, differs from what `write` wrote, or is another's."""
    try:
        sources = ["".join(cell["source"]) for cell in json.loads(notebook)["cells"]]
    except (ValueError, KeyError, TypeError):
        return True
    return _digest(sources) not in "".join(sources)


def _digest(sources: Iterable[str]) -> str:
    """Return the SHA-256 of the cells' sources, in which the digest itself does not count."""
    text = "\n".join(source.strip() for source in sources)
    return hashlib.sha256(re.sub(r"[0-9a-f]{64}", "", text).encode()).hexdigest()


def _files(preset: Preset, root: Path) -> dict[str, bytes]:
    """Read everything that travels, by path."""
    files = package(root) | {name: (root / name).read_bytes() for name in BESIDE}
    if preset.path:
        named = [config.read_toml(preset.path).get("base", ""), *preset.ensemble.members]
        if others := [name for name in named if name.endswith(".toml")]:
            raise UserError(
                f"{preset.path}: the notebook takes one TOML file with it, and {others[0]} would "
                "be another; name presets that come with the pipeline"
            )
        folder = PRESETS.relative_to(Path(__file__).parents[2])
        files[(folder / f"{preset.name}.toml").as_posix()] = preset.path.read_bytes()
    return files


def _address(root: Path) -> str:
    """Say where the project can be found: the remote of its clone; "" if it has none."""
    asked = ["git", "-C", str(root), "remote", "get-url", "origin"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    except FileNotFoundError:
        return ""
    # What git@host:path stands for; a folder of this machine, or a password, is nobody's business.
    found = re.sub(r"^git@([^:/]+):", r"https://\1/", done.stdout.strip()).removesuffix(".git")
    public = re.fullmatch(r"https://[^@\s]+", found)
    return f", and as a repository at <{found}>" if public else ""


def _split(text: str, preset: Preset, root: Path) -> Iterator[tuple[str, str, bool]]:
    """Split a text into cells: kind, source, and whether the source is folded away."""
    networks = dict.fromkeys(member.train.network for member in preset.members)
    end = 0
    for found in CELLS.finditer(text):
        yield "markdown", text[end : found.start()], False
        kind, word, source = found.groups()
        if kind == "python":
            yield "code", source, word == "hidden"
        else:
            names = networks if "<network>" in word else [""]
            for path in [word.replace("<network>", name) for name in names]:
                module = (root / path).read_text(encoding="utf-8")
                yield "code", f"%%writefile {FOLDER}/{path}\n{module}", False
        end = found.end()
    yield "markdown", text[end:], False


def _cell(position: int, kind: str, source: str, hidden: bool) -> dict[str, Any]:
    """Return a cell in the notebook format."""
    folded = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}} if hidden else {}
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{position}", "metadata": folded}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.splitlines(keepends=True)}
