"""installed.py: what is missing or too old is named, all at once; the floors are tested ones."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import fake_environment
from packaging.version import Version

from pipeline import installed, stages

ROOT = stages.ROOT
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
FLOORS = {
    name: rest.split(",")[0] for name, _, rest in (each.partition(">=") for each in DEPENDENCIES)
}


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The installed packages, with their versions: exactly the floors."""
    versions = dict(FLOORS)

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    return versions


def test_what_is_missing_or_too_old_is_named_in_one_line(
    there: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert installed.compare(ROOT) == ({}, [])
    del there["mlxtend"]
    there |= {"numpy": "1.26.4", "keras": "3.9.0", "rich": "13.9.0", "tensorflow": "2.30.1"}
    with pytest.raises(SystemExit) as caught:
        installed.main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    for part in ("mlxtend>=0.23.4,<1 (missing)", "numpy>=2.0 (found 1.26.4)", "(found 3.9.0)"):
        assert part in said.err
    assert "rich" not in said.err
    assert "-m pip install 'keras>=3.13,<4' 'mlxtend>=0.23.4,<1' 'numpy>=2.0'" in said.err
    assert "tensorflow 2.30.1" in said.out


def test_versions_are_compared_by_number(there: dict[str, str]) -> None:
    for found in ("2.9", "2.20rc1"):
        there["tensorflow"] = found
        assert list(installed.compare(ROOT)[0].values()) == [f"found {found}"]
    for found in ("2.22.0rc1", "10.0"):
        there["tensorflow"] = found
        assert installed.compare(ROOT) == ({}, [f"tensorflow {found}"])


def test_without_packaging_what_is_missing_is_named_all_the_same(there: dict[str, str]) -> None:
    del there["packaging"], there["mlxtend"]
    there["keras"] = "3.9.0"  # cannot be compared
    missing = {"mlxtend>=0.23.4,<1": "missing", "packaging>=24.0": "missing"}
    assert installed.compare(ROOT) == (missing, [])


def test_another_distribution_of_tensorflow_will_do(
    there: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there["tensorflow-cpu"] = there.pop("tensorflow")
    provides = {"tensorflow": ["tensorflow-cpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: provides)
    assert installed.compare(ROOT) == ({}, [])


@pytest.mark.parametrize("path", sorted((ROOT / "tests/compat").glob("kaggle*.txt")), ids=str)
def test_what_make_compat_installs_meets_the_floors(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("#")[0].strip().split("==") for line in lines)
    for name, floor in FLOORS.items():
        assert Version(pinned[name]) >= Version(floor), name


@pytest.mark.slow
def test_without_an_environment_make_uses_the_packages_there_are(project: Path) -> None:
    fake_environment(project)
    (project / "bare").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (project / "bare").chmod(0o755)

    def make(*words: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["make", "download", *words, "VENV=none", "DATASET=sample"],
            env={**os.environ, "HOME": str(project / "home"), "PYTHONPATH": ""},
            capture_output=True,
            text=True,
        )

    for word, part in (
        ("PYTHON=/nowhere/python", "/nowhere/python is not there; name one with PYTHON="),
        ("PYTHON=./bare", "needs jinja2>=3.1,<4 (missing), kaggle>=2.0.2,<3 (missing), keras>="),
        ("EXTRAS=gpu", "VENV=none installs nothing, and so no EXTRAS=gpu"),
    ):
        refused = make(word)
        assert refused.returncode == 2
        assert part in refused.stderr
    assert not (project / "data/sample").exists()

    done = make(f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert (project / "data/sample/raw/train.csv").exists()
    assert not {"home", ".venv", "none"} & {path.name for path in project.iterdir()}
