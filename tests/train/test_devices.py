"""share.py: trainings side by side end up on GPUs of their own, or on cores of their own."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PATIENCE

from pipeline import share
from pipeline.errors import UserError

# A process that takes a GPU of three, says which, and keeps it until it is told to end.
HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from tests_fake import TF
from pipeline import share
print(share.gpus(TF, ["a", "b", "c"], int(sys.argv[2])), flush=True)
sys.stdin.read()
"""
FAKE = """
from types import SimpleNamespace
quiet = lambda *arguments: None
TF = SimpleNamespace(config=SimpleNamespace(
    set_visible_devices=quiet, experimental=SimpleNamespace(set_memory_growth=quiet)))
"""


class FakeTensorFlow:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.visible: list[Any] = []
        self.growing: list[Any] = []
        self.threads = 0
        self.config = SimpleNamespace(
            set_visible_devices=lambda devices, kind: self.visible.extend(devices),
            experimental=SimpleNamespace(
                set_memory_growth=lambda device, wanted: self.growing.append(device)
            ),
            threading=SimpleNamespace(set_intra_op_parallelism_threads=self._set_threads),
        )

    def _set_threads(self, count: int) -> None:
        self.threads = count


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing is taken, and this process's cores as they were, after."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DIGITS_JOBS_PER_GPU", raising=False)
    monkeypatch.setattr(share, "_taken", [])
    monkeypatch.setattr(share, "_locks", [])
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def another_process(tmp_path: Path, count: int = 1, **env: str) -> "subprocess.Popen[str]":
    (tmp_path / "tests_fake.py").write_text(FAKE)
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path), str(count)],
        env={
            **os.environ,
            "PYTHONPATH": f"{Path(share.__file__).parents[1]}:{tmp_path}",
            **env,
        },
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
    assert first_line(late).startswith("waiting for a free GPU: other trainings are on all 3")
    processes[1].kill()
    freed = first_line(late)
    assert freed in ("['a']", "['b']", "['c']")
    for process in (*processes, late):
        process.communicate(timeout=PATIENCE)


def test_two_share_a_gpu_only_when_asked(tmp_path: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "4", "DIGITS_JOBS_PER_GPU": "2"}
    tensorflow = FakeTensorFlow()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        assert share.gpus(tensorflow, ["only"], 1) == ["only"]
        assert tensorflow.growing == ["only"]
        share._taken.clear()
        assert share.gpus(tensorflow, ["only"], 1) == ["only"]
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == [
        f"digits-{os.getuid()}-gpu-4-{turn}.lock" for turn in (0, 1)
    ]


def test_one_model_may_have_several_gpus_and_others_get_the_rest(tmp_path: Path) -> None:
    tensorflow = FakeTensorFlow()
    assert share.gpus(tensorflow, ["a", "b", "c"], 2) == ["a", "b"]
    assert tensorflow.visible == ["a", "b"]
    other = another_process(tmp_path)
    assert first_line(other) == "['c']"
    other.communicate(timeout=PATIENCE)
    # The next fold of this process stays where the first one was.
    assert share.gpus(tensorflow, ["a", "b"], 2) == ["a", "b"]


def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.devices is 2, and TensorFlow sees 1 GPU"):
        share.gpus(FakeTensorFlow(), ["a"], 2)


@pytest.mark.parametrize("word", ["two", "0", "-1", ""])
def test_a_number_of_jobs_that_is_none(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("DIGITS_JOBS_PER_GPU", word)
    with pytest.raises(UserError, match="DIGITS_JOBS_PER_GPU has to be a whole number from 1"):
        share.gpus(FakeTensorFlow(), ["a"], 1)


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
    assert [share.part(cores, job, jobs) for job in range(jobs)] == parts


def test_a_job_keeps_to_its_cores_and_to_the_number_of_threads() -> None:
    there = sorted(os.sched_getaffinity(0))
    tensorflow = FakeTensorFlow()
    mine = share.cores(tensorflow, 2)
    assert mine == share.part(there, 0, 2)
    assert sorted(os.sched_getaffinity(0)) == mine
    assert tensorflow.threads == len(there)
    assert share.cores(tensorflow, 2) == mine


def test_where_all_shares_are_taken_a_job_has_all_cores() -> None:
    there = sorted(os.sched_getaffinity(0))
    for _ in range(2):
        share.cores(FakeTensorFlow(), 2)
        share._taken.clear()
        os.sched_setaffinity(0, there)
    assert share.cores(FakeTensorFlow(), 2) == there
