"""plan.py: the words that the Makefile reads name every file, and as stale what is stale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build, contents

from pipeline import plan


def words(capsys: pytest.CaptureFixture[str], dataset: str, preset: str) -> list[str]:
    capsys.readouterr()
    plan.main(dataset, preset)
    return capsys.readouterr().out.splitlines()


def stale(lines: list[str]) -> list[str]:
    return [line.removeprefix("stale=") for line in lines if line.startswith("stale=")]


def test_in_an_empty_project_all_is_stale(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = words(capsys, "sample", "demo")
    folds = [f"data/sample/demo/fold-{fold}/manifest.json" for fold in range(3)]
    assert lines.pop(0).startswith("asked=")
    files = [line for line in lines if not line.startswith("stale=")]
    assert files == [
        "download=data/sample/raw/manifest.json",
        "preprocess=data/sample/tensors/manifest.json",
        "split=data/sample/folds/3-folds-seed-0/manifest.json",
        *(f"train={fold}" for fold in folds),
        "ensemble=data/sample/demo/ensemble/manifest.json",
        "write=submissions/sample-demo.json",
        "report=submissions/sample-demo.html.json",
    ]
    assert stale(lines) == [file.partition("=")[2] for file in files]


def test_when_all_is_made_nothing_is_stale(
    project: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(str(tiny_folder))
    before = contents(project)
    assert stale(words(capsys, str(tiny_folder), "sprint")) == []
    # New dates on everything, as after `git checkout`, change nothing.
    for path in project.rglob("*"):
        os.utime(path)
    assert stale(words(capsys, str(tiny_folder), "sprint")) == []
    assert contents(project) == before


def test_what_depends_on_a_lost_file_is_stale(
    project: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(str(tiny_folder))
    (project / "data/tiny/sprint/fold-0/weights.keras").unlink()
    assert stale(words(capsys, str(tiny_folder), "sprint")) == [
        "data/tiny/sprint/fold-0/manifest.json",
        "data/tiny/sprint/ensemble/manifest.json",
        "submissions/tiny-sprint.json",
        "submissions/tiny-sprint.html.json",
    ]


def test_a_pixel_of_the_source_makes_all_stale(
    project: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(str(tiny_folder))
    path = tiny_folder / "train.csv"
    dates = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[-2] = ord("3") if content[-2] != ord("3") else ord("4")
    path.write_bytes(content)
    os.utime(path, ns=dates)
    assert len(stale(words(capsys, str(tiny_folder), "sprint"))) == 7


def run_plan(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as `make` does before anything is installed."""
    return subprocess.run(
        [sys.executable, "-S", "-m", "pipeline.plan", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_runs_with_the_standard_library_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = run_plan(project, "sample", "demo")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.splitlines()[1:] == words(capsys, "sample", "demo")[1:]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sample", "dmeo"), "did you mean demo?"),
        (("smaple", "demo"), "there is no dataset 'smaple'"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    project: Path, arguments: tuple[str, str], said: str
) -> None:
    process = run_plan(project, *arguments)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("digits: ")
    assert process.stderr.count("\n") == 1
    assert said in process.stderr
