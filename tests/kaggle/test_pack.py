"""pack.py: what travels, that equal files give equal text, and that the copy can be imported."""

import base64
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import PACKAGE

from pipeline.kaggle.pack import LINE, pack, package


def test_the_code_travels_without_benchmarks_documents_and_pictures(project: Path) -> None:
    (project / "pipeline" / ".hidden.py").write_text("")
    names = set(package(project))
    folder = project / "pipeline"
    needed = {
        path.relative_to(project).as_posix()
        for pattern in ("*.py", "presets/*.toml", "report/page.html", "predict/draw.html")
        for path in folder.rglob(pattern)
    }
    benchmarks = {name for name in needed if name.startswith("pipeline/bench/")}
    assert benchmarks
    assert names == needed - benchmarks - {"pipeline/.hidden.py"}


def test_equal_files_give_equal_text_whatever_their_dates_and_order(project: Path) -> None:
    text = pack(package(project))
    for path in (project / "pipeline").rglob("*.py"):
        os.utime(path, (0, 0))
    assert pack(dict(reversed(package(project).items()))) == text
    assert max(map(len, text.splitlines())) == LINE
    assert pack({"a": b"1"}) != pack({"a": b"2"})


def test_what_arrives_can_be_imported(tmp_path: Path) -> None:
    text = pack({**package(PACKAGE.parent), "more/fold_ids.npy": b"\0\1"})
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(text))) as archive:
        archive.extractall(tmp_path)
    assert (tmp_path / "more" / "fold_ids.npy").read_bytes() == b"\0\1"
    command = "from pipeline import config, stages; print(stages.ROOT, config.load('best').name)"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(tmp_path), "best"]
