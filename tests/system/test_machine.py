"""The machine fails: one clear line, nothing half-written, and a later run succeeds.

The conditions are real: small and read-only file systems, limits, missing permissions, processes
of `make` and `digits`. What this machine does not allow (mounting takes root) is skipped.
"""

import errno
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PATIENCE, build, contents, replace_cell, write_digits
from test_make import BEGUN, COPIED, ROOT, Project, environment, write_environment

from pipeline import backend, cli, endings, stages
from pipeline.environment import without_gpu
from pipeline.errors import ExternalError

PRESET = "[split]\nfolds = 1\n\n[train]\nwidth = 4\nepochs = 2\nbatch_size = 16\n"
CHOICE = ("--dataset", "../tiny", "--config", "../mine.toml")
# Where each stage that needs no TensorFlow writes its files.
FOLDERS = {
    "download": "data/tiny/raw",
    "preprocess": "data/tiny/arrays",
    "split": "data/tiny/folds/holdout-0.15-seed-0",
    "ensemble": "data/tiny/mine/ensemble",
    "write": "submissions",
}


def digits(
    project: Path,
    *words: str,
    prefix: tuple[str, ...] = (),
    limits: dict[int, int] | None = None,
    **variables: str,
) -> "subprocess.CompletedProcess[str]":
    """`digits` in a process of its own, under limits and with environment variables."""

    def limit() -> None:
        for kind, size in (limits or {}).items():
            resource.setrlimit(kind, (size, size))

    return subprocess.run(
        [*prefix, sys.executable, "-m", "pipeline", *words],
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


def results(project: Path) -> dict[str, bytes]:
    """All finished files, without manifests, which record how long it took."""
    files = {
        f"{top}/{name}": content
        for top in ("data", "submissions")
        for name, content in contents(project / top).items()
    }
    return {
        name: content
        for name, content in files.items()
        if not name.endswith(".json") and "/." not in name
    }


# --- a project in which everything is built, and a small disk -------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which everything was built, with fake training; not to be changed."""
    home = tmp_path_factory.mktemp("whole")
    write_digits(home / "tiny")
    (home / "mine.toml").write_text(PRESET)
    project = home / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project / "pipeline", ignore=ignored)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "ROOT", project)
        build(str(home / "tiny"), str(home / "mine.toml"))
    return project


@pytest.fixture
def project(whole: Path, tmp_path: Path) -> Path:
    """A project of the test's own, in which everything is built."""
    shutil.copytree(whole.parent, tmp_path / "home")
    return tmp_path / "home" / "project"


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


@pytest.mark.parametrize("size", ["8k", "12k"])  # for small outputs the second is the manifest
@pytest.mark.parametrize("stage", FOLDERS)
def test_a_full_disk_stops_a_stage_and_space_lets_it_continue(
    whole: Path, project: Path, mount: Mount, stage: str, size: str
) -> None:
    folder = emptied(project / FOLDERS[stage])
    mount(folder, f"size={size}")
    process = digits(project, stage, *CHOICE)
    failed_outside(process, FOLDERS[stage], "; free some space, then run the same command again")
    assert results(project).items() <= results(whole).items()

    mount(folder, "size=20m")
    again = digits(project, stage, *CHOICE)
    assert (again.returncode, again.stderr) == (0, "")
    later = "submissions/tiny-mine.html"  # was in the folder that was emptied
    expected = {name: content for name, content in results(whole).items() if name != later}
    assert {name: content for name, content in results(project).items() if name != later} == (
        expected
    )


def test_a_limit_to_files_stops_a_stage_and_without_it_the_stage_continues(
    whole: Path, project: Path
) -> None:
    """The same without root: a limit to the size of files."""
    emptied(project / FOLDERS["preprocess"])
    process = digits(
        project,
        *("preprocess", *CHOICE),
        limits={resource.RLIMIT_FSIZE: 20_000},
        PYTHONDONTWRITEBYTECODE="1",  # see below
    )
    failed_outside(process, FOLDERS["preprocess"], "then run the same command again")
    assert results(project).items() < results(whole).items()
    assert digits(project, "preprocess", *CHOICE).returncode == 0
    assert results(project) == results(whole)


def test_a_full_disk_leaves_no_partial_bytecode(
    project: Path, tmp_path: Path, mount: Mount
) -> None:
    """Python mistakes a partial bytecode file for a complete one, and fails from then on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=4m")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(project, disk / "project", ignore=ignored)
    for name in ("tiny", "mine.toml"):
        (disk / name).symlink_to(project.parent / name)
    filler = disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    os.truncate(filler, filler.stat().st_size - 20 * 1024)
    status = digits(disk / "project", "status", *CHOICE)
    assert (status.returncode, status.stderr) == (0, "")
    filler.unlink()
    again = digits(disk / "project", "status", *CHOICE)
    assert (again.returncode, again.stdout, again.stderr) == (0, status.stdout, "")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "a file: No space left on device; free"),
        (
            OSError("100 requested and 20 written"),
            "(100 requested and 20 written); free some space",
        ),
        (OSError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; get permission"),
        (OSError(errno.EIO, "Input/output error", "x"), "x: Input/output error"),
    ],
)
def test_an_error_of_the_system_ends_with_a_remedy(error: OSError, said: str) -> None:
    assert said in endings.explained(error)


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


def test_a_folder_without_write_permission_is_reported(whole: Path, project: Path) -> None:
    prefix = bound_by_permissions()
    folder = emptied(project / FOLDERS["split"])
    folder.chmod(0o555)
    failed_outside(
        digits(project, "split", *CHOICE, prefix=prefix),
        FOLDERS["split"],
        "Permission denied; get permission",
    )
    assert not list(folder.iterdir())
    assert digits(project, "status", *CHOICE, prefix=prefix).returncode == 0
    folder.chmod(0o755)
    assert digits(project, "split", *CHOICE, prefix=prefix).returncode == 0
    assert results(project) == results(whole)


def test_a_file_without_read_permission_is_reported(whole: Path, project: Path) -> None:
    prefix = bound_by_permissions()
    source = project.parent / "tiny" / "test.csv"
    source.chmod(0)
    failed_outside(
        digits(project, "download", *CHOICE, prefix=prefix),
        "tiny/test.csv: Permission denied; get permission",
    )
    assert results(project) == results(whole)
    source.chmod(0o644)
    assert digits(project, "download", *CHOICE, prefix=prefix).returncode == 0
    assert results(project) == results(whole)


def test_a_read_only_disk_is_reported_and_can_still_be_read(
    whole: Path, project: Path, mount: Mount
) -> None:
    saved = project.parent / "saved"
    shutil.move(project / "data", saved)
    (project / "data").mkdir()
    mount(project / "data", "size=50m")
    shutil.copytree(saved, project / "data", dirs_exist_ok=True)
    mount(project / "data", "ro")
    failed_outside(
        digits(project, "preprocess", *CHOICE), "data/tiny/arrays", "Read-only file system; make"
    )
    assert results(project) == results(whole)
    for command in ("status", "show 1 --test"):
        process = digits(project, *command.split(), *CHOICE)
        assert (process.returncode, process.stderr) == (0, "")
    mount(project / "data", "rw")
    assert digits(project, "preprocess", *CHOICE).returncode == 0
    assert results(project) == results(whole)


# --- the clock ------------------------------------------------------------------------------------

JUMP = """\
import time
now, now_ns, local, strftime = time.time, time.time_ns, time.localtime, time.strftime
time.time = lambda: now() - {seconds}
time.time_ns = lambda: now_ns() - {seconds} * 10**9
time.localtime = lambda seconds=None: local(time.time() if seconds is None else seconds)
time.strftime = lambda format, when=None: strftime(format, when or time.localtime())
"""


def clock_set_back(folder: Path, years: float) -> dict[str, str]:
    """The environment of a process whose clock is behind that of the files."""
    folder.mkdir()
    program = JUMP.format(seconds=round(years * 365 * 86400))
    (folder / "sitecustomize.py").write_text(program)
    return {"PYTHONPATH": str(folder)}


def test_a_clock_that_jumped_back_changes_nothing(
    whole: Path, project: Path, tmp_path: Path
) -> None:
    """Files from the future are as fresh as others, and a change to one is as stale."""
    past = clock_set_back(tmp_path / "past", years=10)
    future = time.time() + 86400 * 365
    for path in project.parent.rglob("*"):
        os.utime(path, (future, future))
    for _ in range(2):  # once without and once with cached fingerprints
        status = digits(project, "status", *CHOICE, **past)
        assert status.stdout.count(" fresh ") == 7, status.stdout

    source = project.parent / "tiny" / "test.csv"
    good, old = source.read_bytes(), source.stat()
    replace_cell(source, 5, 9, "77")
    os.utime(source, (old.st_atime, old.st_mtime - 1000))
    for stage in ("download", "preprocess"):
        process = digits(project, stage, *CHOICE, **past)
        assert (process.returncode, process.stderr) == (0, "")
    assert (project / "data/tiny/raw/test.csv").read_bytes() == source.read_bytes() != good
    status = digits(project, "status", *CHOICE, **past).stdout.splitlines()[1:]
    assert [line.split()[1] for line in status[:3]] == ["fresh"] * 3
    assert "test_images.npy has changed" in status[3]

    source.write_bytes(good)
    for stage in ("download", "preprocess"):
        assert digits(project, stage, *CHOICE).returncode == 0
    assert results(project) == results(whole)


def test_a_clock_before_1980_is_reported(project: Path, tmp_path: Path) -> None:
    """Keras writes archives, which cannot hold earlier dates."""
    past = clock_set_back(tmp_path / "past", years=time.time() / 86400 / 365 - 1)
    process = digits(project, "train", *CHOICE, **past)
    failed_outside(process, "the clock says 197", "set it, then run the same command")
    assert digits(project, "status", *CHOICE, **past).stdout.count(" fresh ") == 7


# --- output in a terminal that lacks letters ------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_a_terminal_that_lacks_letters_shows_question_marks(project: Path) -> None:
    for command in ("show 1 --test", "config", "status", "result"):
        words = [*command.split(), *(CHOICE if command != "config" else CHOICE[2:])]
        process = digits(project, *words, **ASCII)
        assert (process.returncode, process.stderr) == (0, "")
        assert process.stdout.isascii()
    assert "accuracy 1.00000 ? 0.0" in process.stdout


# --- paths, homes, and a whole run in odd places --------------------------------------------------


@pytest.fixture(scope="module")
def odd(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone, a dataset and a preset in folders with spaces and letters of three alphabets."""
    home = tmp_path_factory.mktemp("odd") / "my digits é 数字"
    project = Project(home)
    project.clone.mkdir(parents=True)
    for name in COPIED:
        shutil.copy(ROOT / name, project.clone)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "pipeline", project.code("."), ignore=ignored)
    shutil.copytree(whole.parent / "tiny", home / "mes données" / "tiny")
    shutil.copy(whole.parent / "mine.toml", home / "mes données" / "mine.toml")
    write_environment(project)
    return project


def make(project: Project, *words: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["make", *words],
        cwd=project.clone,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def trained(odd: Project) -> Project:
    """The same, with everything built by `make`: without a home, in the locale C."""
    (odd.home / "a file").touch()
    variables = {"HOME": str(odd.home / "a file" / "none"), "LC_ALL": "C"}
    data = f"DATASET={odd.home / 'mes données' / 'tiny'}"
    words = ("VENV=../venv", data, "CONFIG=../mes données/mine.toml")
    result = make(odd, "submission", *words, **variables)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert "submission submissions/tiny-mine.csv" in result.stdout
    again = make(odd, "submission", *words, **variables)
    assert again.returncode == 0
    assert BEGUN.findall(again.stdout) == []
    return odd


def test_odd_paths_no_home_and_no_locale_change_nothing(whole: Path, trained: Project) -> None:
    made, expected = results(trained.clone), results(whole)
    assert made.keys() == expected.keys()
    for name in made:
        if name.startswith(("data/tiny/raw", "data/tiny/arrays", "data/tiny/folds")):
            assert made[name] == expected[name]


def test_without_the_variable_home_the_stages_run(project: Path) -> None:
    variables = {name: value for name, value in environment().items() if name != "HOME"}
    for stage in ("download", "preprocess", "status"):
        process = subprocess.run(
            [sys.executable, "-m", "pipeline", stage, *CHOICE],
            cwd=project,
            env=variables,
            capture_output=True,
            text=True,
        )
        assert (process.returncode, process.stderr) == (0, "")


@pytest.mark.parametrize("venv", ["../my venv", "a:b", "a%b", ""])
def test_an_environment_whose_name_make_misreads_is_refused(odd: Project, venv: str) -> None:
    result = make(odd, "status", f"VENV={venv}")
    assert result.returncode == 2
    [line] = result.stderr.splitlines()
    assert f'VENV must be one path without spaces, : and %, not "{venv}"' in line
    assert not (odd.home / "my venv").exists()


def test_distclean_spares_a_shared_environment_that_is_named_like_the_clone(
    odd: Project, tmp_path: Path
) -> None:
    """/home/my is not inside /home/my digits, although a space ends a name in make."""
    clone = tmp_path / "my digits"
    shutil.copytree(odd.clone, clone)
    for venv in (tmp_path / "my", clone / ".venv"):
        venv.mkdir()
        (venv / "pyvenv.cfg").touch()
    for word in ("../my", str(tmp_path / "my"), ".venv"):
        result = subprocess.run(
            ["make", "-C", str(clone), "distclean", f"VENV={word}", "YES=1"],
            env=environment(),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
    assert (tmp_path / "my").is_dir()
    assert not (clone / ".venv").exists()


def test_a_missing_python_ends_in_one_line(odd: Project) -> None:
    result = make(odd, "status", "VENV=../none", "PYTHON=no-such-python")
    assert result.returncode == 2
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("make: ")]
    assert "Python 3.11, 3.12 or 3.13 is needed, and no-such-python is not there" in line
    assert "PYTHON=python3.13" in line
    assert not (odd.home / "none").exists()


# --- memory, and a disk that fills up during training ---------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce it")
def test_training_without_memory_ends_in_one_line(project: Path) -> None:
    process = digits(project, "train", "--force", *CHOICE, limits={resource.RLIMIT_AS: 2 << 30})
    failed_outside(
        process, "training needs 3.0 GiB of address space, and the limit is 2.0 GiB", "ulimit -v"
    )
    assert not list(project.glob("data/tiny/mine/fold-0/.manifest.partial/*.npz"))


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9 kB\nMemAvailable: 7 kB\nSwapFree: 1 kB\n"}, 8 << 10),
        ({"proc/meminfo": "MemTotal: 9 kB\n"}, None),
        ({"sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"sys/fs/cgroup/memory.max": "5000\n"}, 5000),
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
    with pytest.raises(
        ExternalError, match=r"needs at least 0\.6 GiB of memory, and 0\.2 GiB is left"
    ):
        backend.check_memory()
    before, _, _ = Path(backend.__file__).read_text(encoding="utf-8").partition("import keras")
    assert "\ncheck_memory()" in before


class ResourceExhaustedError(Exception):
    """Named like the one of TensorFlow."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ResourceExhaustedError("OOM when allocating tensor with shape[9,9]\nHint: none"),
        ImportError("libtensorflow_cc.so.2: failed to map segment from shared object"),
    ],
)
def test_memory_that_runs_out_later_ends_in_one_line(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
) -> None:
    def train(*_: object, **__: object) -> dict[str, object]:
        raise error

    monkeypatch.setattr("pipeline.train.fold.train", train)
    monkeypatch.setattr(stages, "ROOT", project)
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["digits", "train", "--fold", "0", "--force", *CHOICE])
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("digits: out of memory; close other programs")
    assert said.count("\n") == 1


def test_a_disk_that_fills_up_during_training_costs_no_epoch(
    trained: Project, project: Path, mount: Mount
) -> None:
    shutil.rmtree(project / "data/tiny/mine")
    folder = project / "data/tiny/mine/fold-0"
    folder.mkdir(parents=True)
    mount(folder, "size=60k")  # one checkpoint, and not the next beside it
    process = digits(project, "train", *CHOICE)
    failed_outside(process, "data/tiny/mine/fold-0: No space left on device; free some space")
    assert "epoch 1/2" in process.stdout
    assert {path.name for path in folder.iterdir()} == {".manifest.lock", ".manifest.partial"}
    left = {path.name for path in (folder / ".manifest.partial").iterdir()}
    here = without_gpu("auto")
    assert here, "there is a GPU"
    assert left == {"origin.json", here.checkpoint, "history.csv", "progress.json"}

    mount(folder, "size=20m")
    again = digits(project, "train", *CHOICE)
    assert (again.returncode, again.stderr) == (0, "")
    assert "resuming after epoch 1" in again.stdout
    undisturbed = trained.clone / "data/tiny/mine/fold-0"
    for name in ("weights.keras", "history.csv", "oof.npy", "test.npy", "augmented.npy"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
