"""One self-contained notebook: the code of this project, and cells that run and explain each stage.

Its text is in notebook.md: what is between ```python and ``` becomes a code cell, everything else
Markdown cells. The format is described at https://nbformat.readthedocs.io.
"""

import json
import re
from pathlib import Path
from typing import Any

from pipeline import config, files
from pipeline.config import PRESETS, Preset
from pipeline.errors import UserError
from pipeline.kaggle.pack import pack, package

TEXT = Path(__file__).with_name("notebook.md")
# Packed along with the package: the versions it needs, and the Makefile.
BESIDE = ("Makefile", "pyproject.toml")
CELLS = re.compile(r"^```python( hidden)?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
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
    text = TEXT.read_text(encoding="utf-8").replace("<preset>", preset.name)
    content = {
        "cells": [
            _cell(position, kind, source.replace("<code>", code), hidden)
            for position, (kind, source, hidden) in enumerate(_split(text))
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


def _split(text: str) -> list[tuple[str, str, bool]]:
    """Split a text into cells: kind, source, and whether the source is folded away."""
    # Text alternates with what the two groups of each ```python block hold.
    parts = CELLS.split(text)
    texts, folded, sources = parts[::3], parts[1::3], parts[2::3]
    cells = [("markdown", texts[0], False)]
    for hidden, source, following in zip(folded, sources, texts[1:], strict=True):
        cells += [("code", source, bool(hidden)), ("markdown", following, False)]
    return [(kind, source.strip("\n"), hidden) for kind, source, hidden in cells if source.strip()]


def _cell(position: int, kind: str, source: str, hidden: bool) -> dict[str, Any]:
    """Return a cell in the notebook format."""
    folded = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}} if hidden else {}
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{position}", "metadata": folded}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": source.splitlines(keepends=True)}
