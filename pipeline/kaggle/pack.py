"""The code of this project as text, to travel inside a script or a notebook.

Standard library only, and free of Kaggle's client: what runs on Kaggle may import it.
"""

import base64
import io
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path

# What the package reads when it runs; its other documents and pictures stay here. pyproject.toml
# lists the same for wheels.
PATTERNS = ("**/*.py", "**/*.html", "presets/*.toml", "kaggle/notebook.md")
# The first date that a zip can hold: real ones would make every archive another one.
DATE = (1980, 1, 1, 0, 0, 0)
LINE = 100  # characters


def package(root: Path) -> dict[str, bytes]:
    """Read the files that the package in `root` needs to run, by path: "pipeline/split.py"."""
    folder = root / "pipeline"
    paths = {path for pattern in PATTERNS for path in folder.glob(pattern)}
    visible = [path for path in paths if "/." not in path.relative_to(root).as_posix()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(visible)}


def pack(files: Mapping[str, bytes]) -> str:
    """Zip files, by path, compress the zip as a whole, which halves it, and encode it as base64.

    Equal files give equal text. To unpack it:
    `zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(text)))).extractall(folder)`.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, DATE)
            info.external_attr = 0o644 << 16
            archive.writestr(info, files[name])
    text = base64.b64encode(lzma.compress(buffer.getvalue(), preset=9)).decode("ascii")
    return "".join(f"{text[start : start + LINE]}\n" for start in range(0, len(text), LINE))
