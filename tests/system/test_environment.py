"""What a machine may have set up otherwise: another Python path, a dead environment, no locks."""

import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import build, run_digits
from test_make import Project, environment, fresh, pristine

from pipeline import artifacts, stages
from pipeline import environment as setup
from pipeline.errors import ExternalError, UserError

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
    settings["PYTHONSAFEPATH"] = "1"
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


# --- creating and installing ----------------------------------------------------------------------


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that this clone made, whose Python is gone."""
    venv = tmp_path / "venv"
    assert setup.prepare(venv)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to("/nowhere/python")
    (venv / "pyvenv.cfg").touch()
    (venv / "big").touch()
    return venv


def test_an_environment_that_works_is_left_alone() -> None:
    assert not setup.prepare(Path(sys.prefix))


@pytest.mark.parametrize("linked", [False, True])
def test_this_clones_environment_is_made_anew_when_its_python_is_gone(
    venv: Path, tmp_path: Path, linked: bool
) -> None:
    folder = venv
    if linked:
        folder = tmp_path / "link"
        folder.symlink_to(venv)
    assert setup.prepare(folder)
    assert [path.name for path in venv.iterdir()] == [setup.MARK]


def not_ours(venv: Path) -> None:
    (venv / setup.MARK).write_text(f"/other/clone on {socket.gethostname()}")


def other_machine(venv: Path) -> None:
    (venv / setup.MARK).write_text(f"{setup.ROOT} on container-17")


def unmarked(venv: Path) -> None:
    (venv / setup.MARK).unlink()


def not_executable(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").write_text("#!/bin/sh\n")


def of_another_processor(venv: Path) -> None:
    not_executable(venv)
    (venv / "bin" / "python").write_bytes(b"\x7fELF of another processor")
    (venv / "bin" / "python").chmod(0o755)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (not_ours, "/nowhere/python is missing"),
        (other_machine, "/nowhere/python is missing"),
        (unmarked, "/nowhere/python is missing"),
        (not_executable, "Permission denied"),
        (of_another_processor, "Exec format error"),
    ],
)
def test_an_environment_that_may_work_elsewhere_stays(
    venv: Path, change: Callable[[Path], None], cause: str
) -> None:
    change(venv)
    with pytest.raises(UserError) as caught:
        setup.prepare(venv)
    assert cause in str(caught.value)
    assert "VENV=" in str(caught.value)
    assert f"`rm -rf {venv}`" in str(caught.value)
    assert (venv / "big").exists()


def test_a_folder_that_is_no_environment_is_not_cleared(tmp_path: Path) -> None:
    (tmp_path / "cat.jpg").write_text("a cat")
    with pytest.raises(UserError, match=r"is not an environment; name another folder: VENV="):
        setup.prepare(tmp_path)
    assert (tmp_path / "cat.jpg").read_text() == "a cat"


def test_make_names_the_missing_python_and_removes_nothing(fresh: Project) -> None:
    shared = fresh.home / "shared"
    (shared / "bin").mkdir(parents=True)
    (shared / "bin" / "python").symlink_to("/opt/not-here/python3.11")
    (shared / "pyvenv.cfg").touch()
    done = fresh.call(["make", "status", "VENV=../shared", f"PYTHON={sys.executable}"])
    assert done.returncode == 2
    assert "../shared/bin/python cannot be used here: /opt/not-here/python3.11" in done.stderr
    assert "VENV=" in done.stderr
    assert (shared / "pyvenv.cfg").exists()


@pytest.mark.parametrize("uv", ["/bin/uv", None])
def test_what_is_installed_in_which_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uv: str | None
) -> None:
    started: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda _: uv)
    monkeypatch.setattr(setup, "run", lambda words, _: started.append(" ".join(words)))
    stamp = tmp_path / "venv" / ".installed-2-3gpu"
    stamp.parent.mkdir()
    for name in (".installed-1-1", ".tools-1-1"):
        (stamp.parent / name).touch()
    monkeypatch.setattr(setup, "prepare", lambda _: not started)
    setup.install(stamp, "gpu")
    assert {path.name for path in stamp.parent.glob(".[it]*-*")} == {stamp.name, ".tools-1-1"}

    create, locked, editable, extras = started[:4]
    assert create.startswith("uv venv" if uv else str(Path(sys.executable).resolve()))
    install = "uv pip install" if uv else f"{stamp.parent}/bin/python -m pip install"
    assert all(words.startswith(install) for words in (locked, editable, extras))
    assert locked.endswith(" --require-hashes -r requirements.lock")
    assert editable.endswith(" --no-deps -e .")
    assert extras.endswith(" -e .[gpu]")

    started.clear()
    setup.install(stamp.with_name(".tools-4-5"))
    assert started[-1].endswith(" --require-hashes -r requirements.lock -r tests/requirements.lock")
    assert {path.name for path in stamp.parent.glob(".[it]*-*")} == {stamp.name, ".tools-4-5"}


def test_an_installation_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "PULSE", 0.2)
    slow = "import os, time; print('Collecting', os.environ['PIP_USER'], flush=True); time.sleep(1)"
    setup.run([sys.executable, "-c", slow], tmp_path)
    assert "  package 1: Collecting 0\n" in capsys.readouterr().out


def test_an_installation_that_fails_shows_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExternalError, match=r"install\.log .*run the same command again"):
        setup.run([sys.executable, "-c", "import absent"], tmp_path)
    assert "No module named 'absent'" in capsys.readouterr().err


PIP = """\
Collecting keras==3.15.1 (from -r requirements.lock (line 9))
  Downloading keras-3.15.1-py3-none-any.whl (1.6 MB)
Collecting tensorflow==2.21.0 (from -r requirements.lock (line 90))
  Downloading tensorflow-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl (572.4 MB)
WARNING: a location is ignored
"""


@pytest.mark.parametrize(
    ("said", "installed", "parts"),
    [
        ("", 0, ["still working"]),
        (PIP, 0, ["package 2", "tensorflow-2.21.0", "572.4 MB"]),
        (f"{PIP}Installing collected packages: six, keras\n", 1, ["1 of 2", "next: keras"]),
        (f"{PIP}Installing collected packages: six, keras\n", 2, ["2 of 2"]),
        ("Resolved 75 packages\nDownloading tensorflow (545.9MiB)\n", 0, ["tensorflow", "545.9"]),
    ],
)
def test_progress_is_read_from_what_pip_and_uv_print(
    said: str, installed: int, parts: list[str]
) -> None:
    line = setup.progress(said, installed)
    assert all(part in line for part in parts)
    assert "WARNING" not in line


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


# --- locks, and other clones ----------------------------------------------------------------------


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
