"""What a machine may have set up otherwise: another Python path, a dead environment, no locks."""

import fcntl
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import build, copy_package, environment, fake_environment, run_digits

from pipeline import artifacts, stages
from pipeline import installation as setup
from pipeline.errors import ExternalError, UserError


def broken_numpy(folder: Path) -> Path:
    """A folder for PYTHONPATH with a NumPy of another Python."""
    package = folder / "other" / "numpy"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise ImportError("built for another Python")\n')
    return package.parent


def test_settings_of_python_do_not_reach_the_commands_of_make_and_are_blamed_elsewhere(
    project: Path, tmp_path: Path
) -> None:
    fake_environment(project)
    broken = {"PYTHONPATH": str(broken_numpy(tmp_path))}
    done = subprocess.run(
        ["make", "download", "VENV=venv", "DATASET=sample"],
        env=environment() | broken | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (project / "pipeline/__pycache__").exists()

    typed = run_digits(project, "download", "--dataset", "sample", "--force", env=broken)
    assert typed.returncode == 2
    assert "PYTHONPATH is set" in typed.stderr


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


def test_this_clones_environment_is_made_anew_when_its_python_is_gone(
    venv: Path, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(venv)
    assert setup.prepare(link)
    assert [path.name for path in venv.iterdir()] == [setup.MARK]


def not_ours(venv: Path) -> None:
    (venv / setup.MARK).write_text(f"/other/clone on {socket.gethostname()}")


def other_machine(venv: Path) -> None:
    (venv / setup.MARK).write_text(f"{setup.ROOT} on container-17")


def unmarked(venv: Path) -> None:
    (venv / setup.MARK).unlink()


def of_another_processor(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").write_bytes(b"\x7fELF of another processor")
    (venv / "bin" / "python").chmod(0o755)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (not_ours, "/nowhere/python is missing"),
        (other_machine, "/nowhere/python is missing"),
        (unmarked, "/nowhere/python is missing"),
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


def test_an_installation_says_how_far_it_is_and_why_it_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(setup, "PULSE", 0.2)
    slow = "import os, time; print('Collecting', os.environ['PIP_USER'], flush=True); time.sleep(1)"
    with pytest.raises(ExternalError, match=r"install\.log .*run the same command again"):
        setup.run([sys.executable, "-c", f"{slow}; import absent"], tmp_path)
    said = capsys.readouterr()
    assert "  package 1: Collecting 0\n" in said.out
    assert "No module named 'absent'" in said.err


PIP = """\
Collecting keras==3.15.1 (from -r requirements.lock (line 9))
  Downloading keras-3.15.1-py3-none-any.whl (1.6 MB)
Collecting tensorflow==2.21.0 (from -r requirements.lock (line 90))
  Downloading tensorflow-2.21.0-cp311-cp311-manylinux_2_27_x86_64.whl (572.4 MB)
WARNING: a location is ignored
"""


def test_progress_is_read_from_what_pip_and_uv_print() -> None:
    installing = f"{PIP}Installing collected packages: six, keras\n"
    for said, installed, parts in (
        ("", 0, ["still working"]),
        (PIP, 0, ["package 2", "tensorflow-2.21.0", "572.4 MB"]),
        (installing, 1, ["1 of 2", "next: keras"]),
        (installing, 2, ["2 of 2"]),
        ("Resolved 75 packages\nDownloading tensorflow (545.9MiB)\n", 0, ["tensorflow (545.9MiB"]),
    ):
        line = setup.progress(said, installed)
        assert all(part in line for part in parts)


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


def test_the_digits_of_one_clone_work_on_the_clone_that_the_user_is_in(
    project: Path, tmp_path: Path
) -> None:
    """Their environment may be shared; and the user may be in a folder of the clone."""
    other = copy_package(tmp_path / "other clone")
    with (other / "pipeline" / "cli" / "__init__.py").open("a") as code:
        code.write("print('the other clone')\n")

    def digits(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pipeline", *words],
            cwd=folder,
            env=environment() | {"PYTHONPATH": str(project), "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
        )

    done = digits("download", "--dataset", "sample", folder=other / "data")
    assert done.returncode == 0, done.stderr
    assert "the other clone" in done.stdout
    assert (other / "data/sample/raw/train.csv").exists()
    assert not (project / "data/sample").exists()
    assert "the other clone" in digits("status", "--help", folder=other).stdout
    assert "the other clone" not in digits("--help", folder=project / "data").stdout
