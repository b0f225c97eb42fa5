"""The machine fails: one clear line, nothing half-written, and a later run succeeds.

The conditions are real: small and read-only file systems, limits, missing permissions, processes
of `make` and `digits`. What this machine does not allow (mounting takes root) is skipped.
"""

import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import (
    PATIENCE,
    Digits,
    build,
    contents,
    copy_package,
    environment,
    fake_environment,
    instant_project,
    write_digits,
)

from pipeline import backend, stages
from pipeline.environment import without_gpu
from pipeline.errors import ExternalError

CHOICE = ("--dataset", "tiny", "--config", "pair.toml")
# Where stages write their files.
FOLDERS = {
    "download": "data/tiny/raw",
    "preprocess": "data/tiny/arrays",
    "split": "data/tiny/folds/2-folds-seed-0",
    "train": "data/tiny/pair/fold-0",
    "write": "submissions",
}


def digits(
    project: Path,
    *words: str,
    prefix: tuple[str, ...] = (),
    limits: dict[int, int] | None = None,
    choice: tuple[str, ...] = CHOICE,
    **variables: str,
) -> "subprocess.CompletedProcess[str]":
    """`digits` in a process of its own, under limits and with environment variables."""

    def limit() -> None:
        for kind, size in (limits or {}).items():
            resource.setrlimit(kind, (size, size))

    return subprocess.run(
        [*prefix, sys.executable, "-m", "pipeline", *words, *choice],
        cwd=project,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=limit,
    )


def failed_outside(process: "subprocess.CompletedProcess[str]", *said: str) -> None:
    """Something outside failed, and exactly one line says what, where, and what to do."""
    assert process.returncode == 1, process.stderr
    assert process.stderr.startswith("digits: ")
    assert process.stderr.count("\n") == 1
    for words in said:
        assert words in process.stderr


def succeeded(process: "subprocess.CompletedProcess[str]") -> None:
    assert (process.returncode, process.stderr) == (0, "")


def results(project: Path) -> dict[str, bytes]:
    """All finished files, without manifests and the report, which record how long it took."""
    files = {
        f"{top}/{name}": content
        for top in ("data", "submissions")
        for name, content in contents(project / top).items()
    }
    return {
        name: content
        for name, content in files.items()
        if not name.endswith((".json", ".html")) and "/." not in name
    }


# --- a project in which everything is built, and a small disk -------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything was built, with training that takes no time."""
    project = instant_project(tmp_path_factory.mktemp("whole") / "project")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", project)
        patch.chdir(project)
        build("tiny", "pair.toml")
    return project


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Path:
    """A project of the test's own, in which everything is built."""
    return Path(shutil.copytree(whole, tmp_path / "project"))


Mount = Callable[[Path, str], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mount a small file system on a folder, or change what it allows."""
    mounted: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        if folder in mounted:
            options = f"remount,{options}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        process = subprocess.run(command, capture_output=True, text=True)
        if process.returncode:
            pytest.skip(f"a file system cannot be mounted here: {process.stderr.strip()}")
        mounted.append(folder)

    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    yield mount
    for folder in dict.fromkeys(mounted):
        subprocess.run(["umount", "-l", str(folder)], check=True)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder)
    folder.mkdir()
    return folder


# --- a full disk ----------------------------------------------------------------------------------


# What does not fit: a copy, an array, and at last the manifest.
@pytest.mark.parametrize(
    ("stage", "size"), [("download", "8k"), ("preprocess", "8k"), ("write", "12k")]
)
def test_a_full_disk_stops_a_stage_and_space_lets_it_continue(
    whole: Path, project: Path, mount: Mount, stage: str, size: str
) -> None:
    folder = emptied(project / FOLDERS[stage])
    mount(folder, f"size={size}")
    process = digits(project, stage)
    failed_outside(process, FOLDERS[stage], "; free some space, then run the same command again")
    assert results(project).items() <= results(whole).items()
    mount(folder, "size=20m")
    succeeded(digits(project, stage))
    assert results(project) == results(whole)


def test_a_limit_to_files_stops_a_stage_and_without_it_the_stage_continues(
    whole: Path, project: Path
) -> None:
    emptied(project / FOLDERS["preprocess"])
    process = digits(
        project,
        "preprocess",
        limits={resource.RLIMIT_FSIZE: 20_000},
        PYTHONDONTWRITEBYTECODE="1",  # see below
    )
    failed_outside(process, FOLDERS["preprocess"], "then run the same command again")
    assert results(project).items() < results(whole).items()
    assert digits(project, "preprocess").returncode == 0
    assert results(project) == results(whole)


def test_a_full_disk_leaves_no_partial_bytecode(
    project: Path, tmp_path: Path, mount: Mount
) -> None:
    """Python mistakes a partial bytecode file for a complete one, and fails from then on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=4m")
    place = shutil.copytree(
        project, disk / "project", ignore=shutil.ignore_patterns("__pycache__", "venv")
    )
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 20 * 1024)
    succeeded(digits(place, "status"))
    filler.unlink()
    succeeded(digits(place, "status"))


# --- no permission to write, or to read -----------------------------------------------------------


def bound_by_permissions() -> tuple[str, ...]:
    """The command that makes permission bits bind a process, even root's."""
    if os.geteuid() != 0:
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("root may write everywhere, and there is no setpriv to prevent it")
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("root may write everywhere here, and cannot be prevented")
    return prefix


def test_a_missing_permission_is_reported(whole: Path, project: Path) -> None:
    prefix, remedy = bound_by_permissions(), "Permission denied; get permission"
    folder = emptied(project / FOLDERS["split"])
    folder.chmod(0o555)
    failed_outside(digits(project, "split", prefix=prefix), FOLDERS["split"], remedy)
    assert not list(folder.iterdir())
    assert digits(project, "status", prefix=prefix).returncode == 0
    folder.chmod(0o755)
    assert digits(project, "split", prefix=prefix).returncode == 0

    source = project / "tiny" / "test.csv"
    source.chmod(0)
    failed_outside(digits(project, "download", prefix=prefix), f"tiny/test.csv: {remedy}")
    assert results(project) == results(whole)


def test_a_read_only_disk_is_reported_and_can_still_be_read(
    whole: Path, project: Path, mount: Mount
) -> None:
    saved = project / "saved"
    shutil.move(project / "data", saved)
    (project / "data").mkdir()
    mount(project / "data", "size=50m")
    shutil.copytree(saved, project / "data", dirs_exist_ok=True)
    mount(project / "data", "ro")
    process = digits(project, "preprocess", "--force")
    failed_outside(process, "data/tiny/arrays", "Read-only file system; make")
    for command in (["status"], ["show", "1", "--test"], ["preprocess"], ["train"]):
        succeeded(digits(project, *command))
    mount(project / "data", "rw")
    assert digits(project, "preprocess", "--force").returncode == 0
    assert results(project) == results(whole)


# --- the clock, and a terminal that lacks letters -------------------------------------------------

JUMP = """\
import time
now, now_ns, local, strftime = time.time, time.time_ns, time.localtime, time.strftime
time.time = lambda: now() - {seconds}
time.time_ns = lambda: now_ns() - {seconds} * 10**9
time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
time.strftime = lambda format, when=None: strftime(format, when or time.localtime())
"""


def test_a_clock_before_1980_is_reported_and_makes_nothing_stale(
    project: Path, tmp_path: Path
) -> None:
    """Keras writes archives, which cannot hold earlier dates."""
    (tmp_path / "past").mkdir()
    program = JUMP.format(seconds=round(time.time() - 365 * 86400))
    (tmp_path / "past" / "sitecustomize.py").write_text(program)
    past = {"PYTHONPATH": str(tmp_path / "past")}
    process = digits(project, "train", "--force", **past)
    failed_outside(process, "the clock says 197", "set it, then run the same command")
    for _ in range(2):  # once without and once with cached fingerprints
        assert digits(project, "status", **past).stdout.count(" fresh ") == 8


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_terminal_that_lacks_letters_shows_question_marks(project: Path) -> None:
    for command in ("show 1 --test", "config", "status", "result"):
        choice = CHOICE if command != "config" else CHOICE[2:]
        process = digits(project, *command.split(), choice=choice, **ASCII)
        succeeded(process)
        assert process.stdout.isascii()
    assert "accuracy 1.00000 ? 0.0" in process.stdout


# --- a whole run in an odd place, with TensorFlow -------------------------------------------------


def test_odd_paths_no_home_no_locale_and_a_disk_that_fills_up(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Folders with spaces and letters of three alphabets; the checkpoint lets training resume."""
    home = tmp_path / "my digits é 数字"
    project = copy_package(home / "clone")
    fake_environment(project)
    write_digits(home / "mes données" / "tiny")
    preset = "[split]\nfolds = 1\n\n[train]\nwidth = 4\nepochs = 2\nbatch_size = 16\n"
    (home / "mes données" / "mine.toml").write_text(preset)
    (home / "a file").touch()

    def make(**variables: str) -> "subprocess.CompletedProcess[str]":
        data = f"DATASET={home / 'mes données' / 'tiny'}"
        return subprocess.run(
            ["make", "submission", "VENV=venv", data, "CONFIG=../mes données/mine.toml"],
            cwd=project,
            env={**environment(), **ASCII, **variables},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=PATIENCE,
        )

    full = os.geteuid() == 0
    if full:
        mount: Mount = request.getfixturevalue("mount")
        folder = project / "data/tiny/mine/fold-0"
        folder.mkdir(parents=True)
        mount(folder, "size=60k")  # one checkpoint, and not the next beside it
        process = make(HOME=str(home / "a file" / "none"))
        assert process.returncode == 2
        assert "fold-0: No space left on device; free some space" in process.stderr
        assert "epoch 1/2" in process.stdout
        here = without_gpu("auto")
        assert here, "there is a GPU"
        left = {path.name for path in (folder / ".manifest.partial").iterdir()}
        assert left == {"origin.json", here.checkpoint, "history.csv", "progress.json"}
        mount(folder, "size=20m")
    process = make(HOME="")
    succeeded(process)
    assert ("resuming after epoch 1" in process.stdout) == full
    assert "submission submissions/tiny-mine.csv" in process.stdout
    assert (project / "submissions/tiny-mine.html").stat().st_size > 10_000


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce it")
def test_training_without_memory_ends_in_one_line(project: Path) -> None:
    shutil.copytree(Path(backend.__file__).parent, project / "pipeline", dirs_exist_ok=True)
    process = digits(project, "train", "--force", limits={resource.RLIMIT_AS: 2 << 30})
    failed_outside(
        process, "training needs 3.0 GiB of address space, and the limit is 2.0 GiB", "ulimit -v"
    )


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7 kB\nSwapFree: 1 kB\n"}, 8 << 10),
        ({"proc/meminfo": "MemTotal: 9 kB\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory/memory.limit_in_bytes": "4000\n"}, 4000),
        ({"proc/meminfo": "MemAvailable: 7 kB\n", "sys/fs/cgroup/memory.max": "5000\n"}, 5000),
    ],
)
def test_available_memory_is_what_linux_reports(
    tmp_path: Path, files: dict[str, str], left: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert backend.available_memory(tmp_path) == left


def test_too_little_memory_is_reported_before_tensorflow_is_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backend, "available_memory", lambda: 200 << 20)
    with pytest.raises(ExternalError, match=r"0\.6 GiB of memory, and 0\.2 GiB is left"):
        backend.check_memory()
    before, _, _ = Path(backend.__file__).read_text(encoding="utf-8").partition("import keras")
    assert "\ncheck_memory()" in before


def test_memory_that_runs_out_later_ends_in_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, digits: Digits
) -> None:
    def train(*_: object, **__: object) -> dict[str, object]:
        raise MemoryError

    monkeypatch.setattr("pipeline.train.fold.train", train)
    monkeypatch.setattr(stages, "ROOT", project)
    monkeypatch.chdir(project)
    ended = digits("train", "--fold", "0", "--force", *CHOICE)
    assert ended.code == 1
    assert ended.error.startswith("digits: out of memory; close other programs")
    assert ended.error.count("\n") == 1
