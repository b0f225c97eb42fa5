"""installed.py: what is missing or too old is named, all at once; the floors are tested ones."""

import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from conftest import fake_environment

from pipeline import installed, stages

ROOT = stages.ROOT
DEPENDENCIES = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def name_of(requirement: str) -> str:
    return requirement.split(">=")[0]


def floor_of(requirement: str) -> str:
    return requirement.split(">=")[1].split(",")[0]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The installed packages, with their versions: exactly the floors."""
    versions = {name_of(requirement): floor_of(requirement) for requirement in DEPENDENCIES}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    return versions


def test_the_environment_of_these_tests_will_do() -> None:
    assert installed.compare(ROOT) == ({}, [])


def test_the_floors_will_do(there: dict[str, str]) -> None:
    assert installed.compare(ROOT) == ({}, [])


def test_what_is_missing_or_too_old_is_named_in_one_line(
    there: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    del there["mlxtend"]
    there |= {"numpy": "1.26.4", "keras": "3.9.0", "rich": "13.9.0", "tensorflow": "2.30.1"}
    with pytest.raises(SystemExit) as caught:
        installed.main()
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    for part in ("(missing)", "(numpy 1.26.4)", "(keras 3.9.0)"):
        assert part in said.err
    assert "rich" not in said.err
    assert "-m pip install 'keras>=3.13,<4' 'mlxtend>=0.23.4,<1' 'numpy>=2.0'" in said.err
    assert said.out == "tensorflow 2.30.1: newer than what was tested\n"


@pytest.mark.parametrize(
    ("older", "newer"),
    [("2.9", "2.20"), ("2.20rc1", "2.20.1"), ("2.1", "2.1.1"), ("9", "10.0"), ("1.9.dev1", "2")],
)
def test_versions_are_compared_by_number(older: str, newer: str) -> None:
    assert installed._numbers(older) < installed._numbers(newer)
    assert installed._numbers(f"{newer}.0") == installed._numbers(newer)


def test_another_distribution_of_tensorflow_will_do(
    there: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    there["tensorflow-cpu"] = there.pop("tensorflow")
    provides = {"tensorflow": ["tensorflow-cpu"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: provides)
    assert installed.compare(ROOT) == ({}, [])


def test_another_python_is_refused_before_anything_else(
    there: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there.clear()
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit):
        installed.main()
    said = capsys.readouterr().err
    assert "lacks python 3.11 or 3.12 or 3.13 (3.9); name another Python with PYTHON=" in said


def test_the_pythons_are_those_of_the_project() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    first, last = installed.PYTHONS[0], installed.PYTHONS[-1]
    assert wanted == f">={first[0]}.{first[1]},<{last[0]}.{last[1] + 1}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests/compat").glob("kaggle*.txt")), ids=str)
def test_what_make_compat_installs_meets_the_floors(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    for requirement in DEPENDENCIES:
        name = name_of(requirement)
        assert installed._numbers(pinned[name]) >= installed._numbers(floor_of(requirement)), name


def make(project: Path, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", *words, "VENV=none", "DATASET=sample", "CONFIG=demo"],
        cwd=project,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_without_an_environment_make_uses_the_packages_there_are(project: Path) -> None:
    fake_environment(project)
    home = project / "home"
    done = make(project, "split", f"PYTHON={sys.executable}", HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert (project / "data/sample/folds/3-folds-seed-0/fold_ids.npy").exists()
    assert not home.exists()
    assert not (project / ".venv").exists()
    assert not (project / "none").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("PYTHON=/nowhere/python", "/nowhere/python is not there; name one with PYTHON="),
        ("PYTHON=./bare", "lacks jinja2>=3.1,<4 (missing), kaggle>=2.0.2,<3 (missing), keras>="),
        ("EXTRAS=gpu", "VENV=none installs nothing, and so no EXTRAS=gpu"),
    ],
)
def test_what_is_missing_is_named_before_anything_runs(project: Path, word: str, part: str) -> None:
    fake_environment(project)
    (project / "bare").write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    (project / "bare").chmod(0o755)
    done = make(project, "split", word, PYTHONPATH="")
    assert done.returncode == 2
    assert part in done.stderr
    assert not (project / "data/sample").exists()
