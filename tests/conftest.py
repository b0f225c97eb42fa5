"""Tiny datasets, empty projects and other helpers of the tests."""

import inspect
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, Page, browser
from numpy.typing import NDArray

from pipeline import artifacts, cli, fingerprints, stages
from pipeline.task import Task, Work

for name in ("DATASET", "CONFIG"):  # which the user may have set, and `digits` reads
    os.environ.pop(name, None)
PACKAGE = Path(stages.__file__).parent
PIXEL_NAMES = [f"pixel{i}" for i in range(784)]
# Tests that wait for another process give up after this many seconds, rather than hang.
PATIENCE = 120

# Imports no TensorFlow, and trains in no time; waits as long as there is a file `hold`.
INSTANT_FOLD = '''"""Write what training writes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Progress:
    title = ""


def train(fold: int, environment: Any, **files: Any) -> dict[str, Any]:
    while Path("hold").exists():
        time.sleep(0.01)
    return {**environment.metadata(), **fake_training(files, files, fold)}


'''
INSTANT = {
    "train/runtime.py": """from pipeline.environment import environment


def one_for_each_gpu(count):
    return 1


def prepare(*given):
    return environment("CPU", "it is instant", ("float32", "it is instant"))
""",
    "train/networks/__init__.py": "",
    "train/networks/mlp.py": "",
    "report/page.py": """def report(page, **rest):
    page.write_text("<!doctype html>")
    return {"oof_errors": 0}
""",
}
PAIR = "[split]\nfolds = 2\n\n[train]\nnetwork = 'mlp'\n"

# A network that only the driver's copy of the package has; a worker that has it got it from there.
LITTLE_NETWORK = '''"""A linear model on 49 averages; trains in no time."""

from typing import Any

from pipeline.backend import keras
from pipeline.train.layers import logits

layers = keras.layers


def network(width: int, dropout: float) -> Any:
    """Build the network."""
    pixels = keras.Input((28, 28, 1))
    x = layers.Rescaling(1 / 255)(pixels)
    x = layers.AveragePooling2D(4)(x)
    return keras.Model(pixels, logits(layers.Flatten()(x), dropout), name="little")
'''
LITTLE_PRESET = "[split]\nfolds = 2\n[train]\nnetwork = 'little'\nbatch_size = 20\nepochs = "
LITTLE_EPOCHS = 40


def pytest_configure(config: pytest.Config) -> None:
    """Silence two warnings of Keras that no test can act on."""
    for message in (
        "`shuffle=True` was passed",  # the package silences it too, and pytest undoes that
        "__array__ implementation doesn't accept a copy keyword",
    ):
        config.addinivalue_line("filterwarnings", f"ignore:{message}")


# The files that take longest come first, so that no worker is left alone with one of them.
LONGEST = ("test_make", "test_ray", "test_kaggle", "test_fold", "test_machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    order = {name: position for position, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def digit_images(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """`count` images, uint8 (count, 28, 28, 1), and labels: one pattern per class, and noise.

    The classes take turns, so that any `count` has about as many of each.
    """
    patterns = np.random.default_rng(12345).integers(0, 2, (10, 7, 7)) * 200
    labels = (np.arange(count) % 10).astype(np.uint8)
    clean = np.kron(patterns[labels], np.ones((1, 4, 4), dtype=np.int64))
    noise = np.random.default_rng(seed).integers(0, 50, clean.shape)
    return (clean + noise).astype(np.uint8)[..., np.newaxis], labels


def write_digits(
    folder: Path, train_rows: int = 80, test_rows: int = 20, seed: int = 0, end: str = "\n"
) -> Path:
    """Write train.csv, test.csv and sample_submission.csv, with `end` at the end of each line."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digit_images(train_rows, seed)
    rows = np.column_stack([labels, images.reshape(train_rows, 784)])
    _write_csv(folder / "train.csv", ["label", *PIXEL_NAMES], rows, end)
    images, _ = digit_images(test_rows, seed + 1)
    _write_csv(folder / "test.csv", PIXEL_NAMES, images.reshape(test_rows, 784), end)
    ids = np.column_stack([np.arange(1, test_rows + 1), np.zeros(test_rows, dtype=int)])
    _write_csv(folder / "sample_submission.csv", ["ImageId", "Label"], ids, end)
    return folder


def _write_csv(path: Path, header: list[str], rows: NDArray[np.integer], end: str) -> None:
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows.tolist())]
    path.write_bytes("".join(line + end for line in lines).encode())


def replace_cell(path: Path, line: int, column: int, text: str) -> None:
    """Replace one cell of a CSV; line 1 is the header, column 0 the first."""
    lines = path.read_bytes().decode().split("\n")
    cells = lines[line - 1].split(",")
    cells[column] = text
    lines[line - 1] = ",".join(cells)
    path.write_bytes("\n".join(lines).encode())


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below `folder`, by relative path; without locks and the cache."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    files = (path for path in files if path.name != artifacts.STAT_CACHE)
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


def fake_training(
    reads: Mapping[str, Any], writes: Mapping[str, Path], fold: int
) -> dict[str, Any]:
    """Write the files that train writes, in a moment: probabilities that favour the right label."""
    labels = np.load(reads["train_labels"])[np.load(reads["fold_ids"]) == fold]
    _, test_labels = digit_images(len(np.load(reads["test_images"])))
    for name, truth in (("oof", labels), ("test", test_labels)):
        scores = np.eye(10)[truth] * 9 + 1
        np.save(writes[name], (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32))
    writes["weights"].write_bytes(b"no weights")
    writes["history"].write_text(
        "epoch,loss,accuracy,val_loss,val_accuracy,learning_rate\n1,0.5,0.9,0.4,1.0,0.001\n"
    )
    np.save(writes["augmented"], np.zeros((1, 10, 28, 28, 1), np.uint8))
    return {
        "held_out_accuracy": 1.0,
        "held_out_rows": len(labels),
        "epoch_seconds": [0.5],
        "layers": [{"kind": "Dense", "shape": [10], "parameters": 7850}],
    }


def works(dataset: str, preset: str = "sprint") -> list[tuple[Task, Work | None]]:
    """Every task in the project that `stages.ROOT` names, with work that takes no time.

    None stands for the stage's own function.
    """

    def train(task: Task, writes: Mapping[str, Path]) -> Mapping[str, Any]:
        return fake_training(task.reads, writes, task.fold)

    def report(task: Task, writes: Mapping[str, Path]) -> Mapping[str, Any]:
        writes["page"].write_text("<!doctype html>")
        return {"oof_errors": 0}

    fakes = {"train": train, "report": report}
    return [
        (task, partial(fakes[task.stage], task) if task.stage in fakes else None)
        for task in stages.load(dataset, preset).tasks
    ]


def build(dataset: str, preset: str = "sprint") -> stages.Graph:
    """Run every stage in the project that `stages.ROOT` names, with fake folds and report."""
    made = works(dataset, preset)
    for task, work in made:
        artifacts.run(task, [task for task, _ in made], work=work)
    return stages.load(dataset, preset)


def settle(path: Path) -> None:
    """Wait until a file is old enough for its fingerprint to be cached."""
    while time.time_ns() - path.stat().st_ctime_ns < 150_000_000:
        time.sleep(0.02)


# What a process does to files; Python raises an audit event before each.
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.utime"}


def killed_at(moment: int, action: Callable[[], object]) -> bool:
    """Do something in a process that is killed at a moment; returns whether it lived that long.

    Moments are counted from 1. There is one before every operation that changes a file or folder,
    and one more in the middle of each file that is written, which is then half complete.
    """
    child = os.fork()
    if child == 0:
        moments = itertools.count(1)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            mode = str(arguments[1]) if event == "open" else ""
            if event not in OPERATIONS or (event == "open" and not set(mode) & set("wax+")):
                return
            if next(moments) == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            if "w" in mode and next(moments) == moment:
                Path(arguments[0]).write_bytes(b"half of")
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            sys.addaudithook(hook)
            action()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def run_digits(
    project: Path, *arguments: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line of the project's copy of the package, in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=project,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(env or {})},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def environment() -> dict[str, str]:
    """The environment without the settings of the user or of a `make test` around this.

    PWD goes too: it names the folder of the tests, not the one in which they start a command.
    """
    ours = ("DATASET", "CONFIG", "VENV", "PYTHON", "EXTRAS", "ENGINE", "JOBS", "GNUMAKE", "PWD")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("DIGITS", "MAKE", "MFLAGS", "PYTHON"))
    }


def copy_package(project: Path) -> Path:
    """Make a project with a copy of the package and nothing built."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, project / "pipeline", ignore=ignored)
    (project / "data").mkdir()
    (project / "submissions").mkdir()
    return project


def fake_environment(project: Path) -> str:
    """Give a project a Makefile and an environment that looks installed; returns its VENV.

    The environment's Python is the one that runs the tests.
    """
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(PACKAGE.parent / name, project)
    checksum = "cat requirements.lock pyproject.toml | cksum | tr ' ' '-'"
    stamp = subprocess.check_output(checksum, shell=True, cwd=project, text=True).strip()
    python = project / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    (project / "venv" / f".installed-{stamp}").touch()
    return "venv"


def instant_project(project: Path) -> Path:
    """Make a project with Makefile, environment and tiny digits, which trains in no time."""
    fake_environment(copy_package(project))
    write_digits(project / "tiny")
    (project / "pair.toml").write_text(PAIR, encoding="ascii")
    fold = INSTANT_FOLD + "\n\n".join(map(inspect.getsource, (digit_images, fake_training)))
    for name, code in {**INSTANT, "train/fold.py": fold}.items():
        (project / "pipeline" / name).write_text(code, encoding="utf-8")
    return project


def little_project(home: Path) -> Path:
    """Make a project with tiny digits, split in two folds."""
    project = copy_package(home / "project")
    (project / "pipeline" / "train" / "networks" / "little.py").write_text(LITTLE_NETWORK)
    write_digits(project / "tiny")
    (project / "little.toml").write_text(f"{LITTLE_PRESET}{LITTLE_EPOCHS}\n")
    for stage in ("download", "preprocess", "split"):
        start_little(project, stage).communicate(timeout=PATIENCE)
    return project


def start_little(project: Path, *words: str) -> "subprocess.Popen[str]":
    """Start a command on the little project."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *words, "--dataset", "tiny", "--config", "little.toml"],
        cwd=project,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests started in the background of a shell ignore Ctrl-C, and their children would too.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    )


def little_results(project: Path) -> dict[str, bytes]:
    """The files of the folds, without their manifests."""
    found = contents(project / "data" / "tiny" / "little")
    return {name: content for name, content in found.items() if not name.endswith(".json")}


def wait_for(process: "subprocess.Popen[str]", pattern: str) -> "re.Match[str]":
    """Read the output of a process until a line matches."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{pattern!r} was never printed: {''.join(lines)}")


@pytest.fixture(scope="session")
def little(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the folds were trained without Ray."""
    project = little_project(tmp_path_factory.mktemp("little"))
    process = start_little(project, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return project


@pytest.fixture
def little_copy(little: Path, tmp_path: Path) -> Path:
    """A copy of the little project with nothing trained."""
    copy = tmp_path / "project"
    shutil.copytree(little, copy)
    shutil.rmtree(copy / "data" / "tiny" / "little")
    return copy


CODE_READ_ONCE = fingerprints.fingerprints


@pytest.fixture(autouse=True)
def _code_is_read_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process reads the code once, but tests edit it."""

    def reread(modules: Iterable[str], root: Path) -> dict[str, str]:
        fingerprints.forget()
        return CODE_READ_ONCE(modules, root)

    monkeypatch.setattr(fingerprints, "fingerprints", reread)


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    """A folder with the three CSVs: 80 rows to train on, 20 to test on."""
    return write_digits(tmp_path / "tiny")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project with a copy of the package; everything that a test makes goes there."""
    folder = copy_package(tmp_path / "project")
    monkeypatch.setattr(stages, "ROOT", folder)
    monkeypatch.setattr(stages, "LEDGER", folder / "submissions" / "ledger.csv")
    monkeypatch.chdir(folder)
    return folder


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, the lines that it printed, and its error."""

    code: int
    lines: list[str]
    error: str


Digits = Callable[..., Ended]


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Digits:
    """Run the command line in this process."""
    # The stdout of pytest is not a file.
    monkeypatch.setattr(sys.stdout, "reconfigure", lambda **_: None, raising=False)
    monkeypatch.delattr(os, "execv")  # a command for another clone would replace this process

    def run(*arguments: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["digits", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Ended(int(caught.value.code or 0), captured.out.splitlines(), captured.err)

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of a real browser, where there is one."""
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def fresh_keras() -> Iterator[Any]:
    """Keras as in a new process: no names taken yet, float32 everywhere."""
    from pipeline.backend import keras

    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
    yield keras
    keras.config.set_dtype_policy("float32")
