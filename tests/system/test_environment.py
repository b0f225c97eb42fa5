"""What a machine may have set up otherwise: another Python path, a dead environment, no locks."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build, run_digits
from test_make import Project, digits_lines, environment, fresh, pristine

from pipeline import artifacts, stages
from pipeline.errors import ExternalError

__all__ = ["fresh", "pristine"]  # fixtures


def broken_numpy(folder: Path) -> Path:
    """A folder for PYTHONPATH with a NumPy of another Python."""
    package = folder / "other" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise ImportError("built for another Python")\n')
    return package.parent


def test_settings_of_python_do_not_reach_the_commands_of_make(
    fresh: Project, tmp_path: Path
) -> None:
    settings = {"PYTHONPATH": str(broken_numpy(tmp_path)), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        fresh.command("preprocess", preset="pair", variables={}),
        cwd=fresh.clone,
        env=environment() | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert fresh.path("data/blobs/arrays/train_images.npy").exists()
    assert fresh.path("pipeline/__pycache__").exists()


def test_pythonpath_is_blamed_where_a_command_is_typed_by_hand(
    project: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    done = run_digits(
        project,
        *("download", "--dataset", str(tiny_folder)),
        env={"PYTHONPATH": str(broken_numpy(tmp_path))},
    )
    assert done.returncode == 2
    assert "PYTHONPATH is set" in done.stderr
    assert "bug in the pipeline" not in done.stderr


def test_an_environment_whose_python_is_gone_is_made_anew(fresh: Project) -> None:
    python = fresh.home / "venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    result = fresh.make("-n", "status")
    assert result.returncode == 0, result.stderr
    assert "rm -rf '../venv'" in result.stdout
    assert re.search(r"(-m|uv) venv .*'../venv'", result.stdout)
    assert "--require-hashes -r requirements.lock" in result.stdout


def installing(project: Project, path: str) -> list[str]:
    """The commands that install the environment anew."""
    shutil.rmtree(project.home / "venv")
    done = subprocess.run(
        ["make", "-n", "test", "VENV=../venv"],
        cwd=project.clone,
        env=environment() | {"PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if " install " in line]


def path_without_uv() -> str:
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if not Path(folder, "uv").exists())


def test_a_users_setting_of_pip_does_not_stop_the_installation(fresh: Project) -> None:
    commands = installing(fresh, path_without_uv())
    assert len(commands) == 3
    assert all(line.startswith("PIP_USER=0 ../venv/bin/python -m pip ") for line in commands)


def test_uv_installs_where_it_is_there(fresh: Project, tmp_path: Path) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    commands = installing(fresh, f"{uv.parent}{os.pathsep}{path_without_uv()}")
    assert all(line.startswith(f"{uv} pip install ") for line in commands)
    locked, editable, tools = commands
    assert locked.endswith(" --require-hashes -r requirements.lock")
    assert "--no-deps -e ." in editable
    assert tools.endswith(" --require-hashes -r requirements.lock -r tests/requirements.lock")


def test_a_folder_that_is_no_environment_is_not_cleared(fresh: Project) -> None:
    precious = fresh.home / "photos" / "cat.jpg"
    precious.parent.mkdir()
    precious.write_text("a cat")
    done = fresh.call(["make", "VENV=../photos", "status"])
    assert done.returncode == 2
    assert "../photos exists and is not an environment; name another folder" in done.stderr
    assert precious.read_text() == "a cat"


def test_the_locks_fit_together() -> None:
    """What the tests need comes on top: nothing is pinned twice."""
    root = Path(stages.__file__).resolve().parents[1]
    pins = [
        re.findall(r"^([^\s=]+)==", (root / lock).read_text(encoding="utf-8"), re.MULTILINE)
        for lock in ("requirements.lock", "tests/requirements.lock")
    ]
    assert {"tensorflow", "typer"} < set(pins[0])
    assert {"pytest", "ray", "mypy"} < set(pins[1])
    assert not set(pins[0]) & set(pins[1])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("submission", "CONFG=fast"), "there is no variable CONFG"),
        (("submission", "DATASET="), "DATASET and CONFIG must not be empty"),
        (("submission", "CONFIG="), "DATASET and CONFIG must not be empty"),
        (("demo", "CONFIG=fast"), "demo is always DATASET=sample CONFIG=demo"),
        (("demo", "DATASET=mnist"), "make submission DATASET=mnist"),
    ],
)
def test_a_variable_that_cannot_be_meant_is_refused_by_name(
    fresh: Project, words: tuple[str, ...], part: str
) -> None:
    done = fresh.call(["make", "VENV=../venv", *words])
    assert done.returncode == 2
    assert part in done.stderr
    assert digits_lines(done.stderr) == []
    assert not fresh.path("data/blobs").exists()


def no_locks(*arguments: object) -> None:
    raise OSError(38, "Function not implemented")


def test_a_file_system_without_flock_will_do(
    project: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    graph = build(str(tiny_folder))
    assert graph.task("write").writes["submission"].exists()


def test_a_file_system_without_any_locks_is_named(
    project: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    graph = stages.load(str(tiny_folder), "sprint")
    with pytest.raises(ExternalError, match=r"data/tiny/raw/.*cannot lock files.*another disk"):
        artifacts.run(graph.task("download"), graph.tasks)


@pytest.mark.parametrize("place", [".", "data"])
def test_one_clones_results_are_not_shown_in_another(
    project: Path, fresh: Project, place: str
) -> None:
    folder = fresh.path(place)
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "status", "--dataset", "sample", "--config", "demo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"works on {project}, but you are in {fresh.clone}" in done.stderr
    assert f"cd {fresh.clone} && " in done.stderr
