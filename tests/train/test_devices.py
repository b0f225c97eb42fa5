"""devices.py: folds that are trained at the same time get GPUs, or cores, of their own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PATIENCE

from pipeline import environment
from pipeline.errors import UserError
from pipeline.train import devices, runtime

# A process that takes a GPU of three, prints which, and keeps it until its input ends.
HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tests_fake import TF
from pipeline.train import devices
print(devices.gpus(TF, ["a", "b", "c"], int(sys.argv[2])), flush=True)
sys.stdin.read()
"""
FAKE = """
from types import SimpleNamespace
quiet = lambda *arguments: None
TF = SimpleNamespace(config=SimpleNamespace(
    set_visible_devices=quiet, experimental=SimpleNamespace(set_memory_growth=quiet)))
"""


class FakeTensorFlow:
    """Records what it is told."""

    def __init__(self) -> None:
        self.visible: list[Any] = []
        self.growing: list[Any] = []
        self.threads = 0
        self.config = SimpleNamespace(
            list_physical_devices=lambda kind: [],
            set_visible_devices=lambda devices, kind: self.visible.extend(devices),
            experimental=SimpleNamespace(
                set_memory_growth=lambda device, wanted: self.growing.append(device)
            ),
            threading=SimpleNamespace(
                set_intra_op_parallelism_threads=partial(setattr, self, "threads")
            ),
        )


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing is taken, with this process's cores as they were, afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DIGITS_JOBS_PER_GPU", raising=False)
    monkeypatch.setattr(devices, "_taken", [])
    monkeypatch.setattr(devices, "_locks", [])
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def another_process(tmp_path: Path, count: int = 1) -> "subprocess.Popen[str]":
    (tmp_path / "tests_fake.py").write_text(FAKE)
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), str(count)],
        env=os.environ | {"PYTHONPATH": f"{Path(devices.__file__).parents[2]}:{tmp_path}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_process_has_a_gpu_of_its_own(tmp_path: Path) -> None:
    processes = [another_process(tmp_path) for _ in range(3)]
    assert sorted(map(first_line, processes)) == ["['a']", "['b']", "['c']"]
    late = another_process(tmp_path)
    assert first_line(late).startswith("waiting for a free GPU: other folds use all 3")
    processes[1].kill()
    assert first_line(late) in ("['a']", "['b']", "['c']")
    for process in (*processes, late):
        process.communicate(timeout=PATIENCE)


def test_two_share_a_gpu_only_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setenv("DIGITS_JOBS_PER_GPU", "2")
    tensorflow = FakeTensorFlow()
    assert devices.gpus(tensorflow, ["only"], 1) == ["only"]
    assert tensorflow.growing == ["only"]
    devices._taken.clear()
    assert devices.gpus(tensorflow, ["only"], 1) == ["only"]
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == [
        f"digits-{os.getuid()}-gpu-4-{turn}.lock" for turn in (0, 1)
    ]


def test_one_model_may_have_several_gpus_and_others_get_the_rest(tmp_path: Path) -> None:
    tensorflow = FakeTensorFlow()
    assert devices.gpus(tensorflow, ["a", "b", "c"], 2) == ["a", "b"]
    assert tensorflow.visible == ["a", "b"]
    other = another_process(tmp_path)
    assert first_line(other) == "['c']"
    other.communicate(timeout=PATIENCE)
    # The next fold of this process stays where the first one was.
    assert devices.gpus(tensorflow, ["a", "b"], 2) == ["a", "b"]


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.devices is 2, but TensorFlow sees 1 GPU"):
        devices.gpus(FakeTensorFlow(), ["a"], 2)


@pytest.mark.parametrize("word", ["two", "0", "00", "-1", "²", ""])
def test_a_number_of_jobs_that_is_not_one(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("DIGITS_JOBS_PER_GPU", word)
    with pytest.raises(UserError, match="DIGITS_JOBS_PER_GPU must be a whole number from 1"):
        devices.gpus(FakeTensorFlow(), ["a"], 1)


@pytest.mark.parametrize(
    ("cores", "jobs", "parts"),
    [
        ([0, 1], 1, [[0, 1]]),
        ([0, 1], 2, [[0], [1]]),
        ([0, 2, 4, 6], 2, [[0, 2], [4, 6]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3, 4]]),
        ([0, 1], 3, [[0], [0], [1]]),
        ([7], 2, [[7], [7]]),
    ],
)
def test_cores_are_shared_out(cores: list[int], jobs: int, parts: list[list[int]]) -> None:
    assert [devices.part(cores, job, jobs) for job in range(jobs)] == parts


@pytest.mark.parametrize(
    ("files", "seen", "per_fold", "jobs"),
    [
        ([], [], 1, 1),
        (["nvidia0", "nvidiactl", "nvidia-uvm"], ["a"], 1, 1),
        (["nvidia0", "nvidia1", "nvidiactl"], ["a", "b"], 1, 2),
        (["nvidia0", "nvidia1", "nvidia2", "nvidia3"], ["a", "b", "c", "d"], 2, 2),
        (["nvidia0", "nvidia1"], ["a", "b"], 4, 1),
        (["nvidia0", "nvidia1"], [], 1, 1),  # TensorFlow lacks the libraries for them
        (["nvidia0", "nvidia1"], ["b"], 1, 1),  # CUDA_VISIBLE_DEVICES=1
    ],
)
def test_each_gpu_trains_a_fold(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: list[str],
    seen: list[str],
    per_fold: int,
    jobs: int,
) -> None:
    for name in files:
        (tmp_path / name).touch()
    monkeypatch.setattr(environment, "DRIVER", tmp_path)
    monkeypatch.setattr(
        "pipeline.backend.tf.config.list_physical_devices", {"GPU": seen}.__getitem__
    )
    assert devices.one_for_each_gpu(per_fold) == jobs


def test_a_job_stays_on_its_cores_and_keeps_the_number_of_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, tensorflow = sorted(os.sched_getaffinity(0)), FakeTensorFlow()
    monkeypatch.setattr("pipeline.backend.tf", tensorflow)
    monkeypatch.setattr(runtime, "_fix_threads", runtime._fix_threads.__wrapped__)
    found, mine = runtime.prepare("float32", jobs=2), devices.part(there, 0, 2)
    assert found.threads == tensorflow.threads == len(there)
    assert found.device_reason.endswith(f"this one uses core {', '.join(map(str, mine))}")
    assert sorted(os.sched_getaffinity(0)) == mine == devices.cores(2)


def test_a_job_gets_all_cores_if_no_share_is_free() -> None:
    there = sorted(os.sched_getaffinity(0))
    for _ in range(2):
        devices.cores(2)
        devices._taken.clear()
        os.sched_setaffinity(0, there)
    assert devices.cores(2) == there
