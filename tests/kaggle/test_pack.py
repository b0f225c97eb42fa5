"""pack.py: what travels, that equal files give equal text, and that the copy can be imported."""

import base64
import io
import lzma
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from conftest import PACKAGE, run_digits

from pipeline.kaggle.pack import LINE, pack, package


def test_what_the_package_reads_travels(project: Path) -> None:
    (project / "pipeline" / ".hidden.py").write_text("")
    names = set(package(project))
    tracked = {
        path.relative_to(project).as_posix()
        for path in (project / "pipeline").rglob("*")
        if path.is_file() and path.suffix in (".py", ".html", ".toml")
    }
    assert names == tracked - {"pipeline/.hidden.py"} | {"pipeline/kaggle/notebook.md"}
    assert "pipeline/bench/compare.html" in names


def test_a_wheel_has_the_same_files(project: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PACKAGE.parent / name, project)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('wheel'))"
    (project / "wheel").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", build], cwd=project, capture_output=True, text=True, check=True
    )
    with zipfile.ZipFile(project / "wheel" / done.stdout.split()[-1]) as archive:
        names = [name for name in archive.namelist() if name.startswith("pipeline/")]
    assert sorted(names) == sorted(package(project))


def test_equal_files_give_equal_text_whatever_their_dates_and_order(project: Path) -> None:
    text = pack(package(project))
    for path in (project / "pipeline").rglob("*.py"):
        os.utime(path, (0, 0))
    assert pack(dict(reversed(package(project).items()))) == text
    assert max(map(len, text.splitlines())) == LINE
    assert pack({"a": b"1"}) != pack({"a": b"2"})


def test_what_arrives_runs(tmp_path: Path) -> None:
    """Also a command of the benchmarks, which says what is wrong with its argument."""
    text = pack(package(PACKAGE.parent))
    with zipfile.ZipFile(io.BytesIO(lzma.decompress(base64.b64decode(text)))) as archive:
        archive.extractall(tmp_path)
    done = run_digits(tmp_path, "config", "--config", "best")
    assert done.returncode == 0, done.stderr
    done = run_digits(tmp_path, "reproduce", "--config", "mpl")
    assert done.returncode == 2
    assert "'mpl'" in done.stderr
