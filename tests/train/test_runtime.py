"""runtime.py, environment.py: what a fold is trained with, and which GPUs or cores it gets."""

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE

from pipeline import environment
from pipeline.environment import choose_precision
from pipeline.errors import UserError
from pipeline.train import fold, runtime

# --- precision, seeds, environment ----------------------------------------------------------------


def test_the_precision_that_is_chosen() -> None:
    def chosen(*given: Any) -> tuple[str, str]:
        return choose_precision("auto", *given)

    bfloat16 = frozenset({"avx2", "avx512_bf16"})
    for capability, policy in (
        ((6, 1), "float32"),
        ((7, 5), "mixed_float16"),
        ((8, 0), "mixed_bfloat16"),
        ((10, 0), "mixed_bfloat16"),
    ):
        for flags in (frozenset[str](), bfloat16):  # the CPU's do not matter
            reason = "the GPU's compute capability is {}.{}".format(*capability)
            assert chosen(True, capability, flags) == (policy, reason)
    assert chosen(True, None, bfloat16)[0] == "float32"
    for flag in ("avx512_bf16", "amx_bf16"):
        found = chosen(False, None, frozenset({flag, "avx2"}))
        assert found == ("mixed_bfloat16", f"the CPU has {flag}")
    none = ("float32", "the CPU has no bfloat16 arithmetic")
    assert chosen(False, None, frozenset({"avx512f"})) == none
    wanted = choose_precision("mixed_float16", False, None, bfloat16)
    assert wanted == ("mixed_float16", "train.precision asks for it")


def draws(seed: int) -> list[Any]:
    """One number from each random number generator."""
    fold._seed_everything(seed, "float32")
    from pipeline.backend import keras

    keras_draw = float(np.asarray(keras.random.uniform(())))
    return [random.random(), float(np.random.random()), keras_draw]


def test_a_seed_seeds_all_generators_and_sets_the_precision(fresh_keras: Any) -> None:
    first, other, again = draws(1), draws(2), draws(1)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))
    fold._seed_everything(0, "mixed_bfloat16")
    assert fresh_keras.config.dtype_policy().name == "mixed_bfloat16"


def test_what_was_chosen_is_reported_and_known_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorFlow takes the number of threads once in a process.
    monkeypatch.setattr(runtime, "_fix_threads", environment.threads)
    here = runtime.prepare("auto")
    assert set(here.metadata()["versions"]) == {"tensorflow", "keras", "numpy", "python"}
    assert here.device_reason.startswith("TensorFlow sees ")
    monkeypatch.setattr(environment, "DRIVER", tmp_path)
    (tmp_path / "nvidiactl").touch()
    found = environment.without_gpu("auto")
    assert found is not None
    assert found.name == here.name or here.device_reason != "TensorFlow sees no GPU"
    (tmp_path / "nvidia0").touch()
    assert environment.without_gpu("auto") is None


CPU = environment.Environment(
    device="CPU (AVX2)",
    device_reason="no GPU",
    precision="float32",
    precision_reason="asked for",
    threads=2,
    versions={"tensorflow": "2.20.0", "keras": "3.12.0", "numpy": "2", "python": "3"},
    node="kite",
)


def test_an_environment_has_a_name_for_files_from_what_changes_the_bytes() -> None:
    assert CPU.name == (
        "precision-float32-device-cpu-avx2-threads-2-tensorflow-2.20.0-keras-3.12.0"
    )
    reasons = {"device_reason": "other", "precision_reason": "other", "node": "other"}
    assert replace(CPU, **reasons, versions={**CPU.versions, "numpy": "1"}).name == CPU.name
    others = [{"device": "Tesla T4/0"}, {"precision": "mixed_float16"}, {"threads": 4}]
    others += [{"versions": {**CPU.versions, name: "4"}} for name in ("tensorflow", "keras")]
    names = {replace(CPU, **other).name for other in others}
    assert len(names - {CPU.name}) == len(others)
    assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)


def test_differences_name_the_value_and_the_folds() -> None:
    def said(*others: dict[str, Any]) -> list[str]:
        folds = {f"fold {i}": CPU.metadata() | other for i, other in enumerate(others)}
        return environment.differences(folds)

    bfloat16, four = {"precision": "mixed_bfloat16"}, {"threads": 4}
    assert environment.differences({}) == said({}, {"node": "owl", "device_reason": "x"}) == []
    assert said({}, {}, four, four, four) == [
        "threads: 2 in fold 0 and fold 1, 4 in fold 2 to fold 4"
    ]
    assert said(four, bfloat16, {"versions": {"keras": "4"}}) == [
        "precision: float32 in fold 0 and fold 2, mixed_bfloat16 in fold 1",
        "threads: 4 in fold 0, 2 in fold 1 and fold 2",
        "keras: 3.12.0 in fold 0 and fold 1, 4 in fold 2",  # which did not record its tensorflow
    ]


# --- GPUs and cores of one's own ------------------------------------------------------------------

# A process that takes a GPU of three, prints which, and keeps it until its input ends.
HOLDER = """
import sys, tempfile
from types import SimpleNamespace
from pipeline.train import runtime
tempfile.tempdir = sys.argv[1]
TF = SimpleNamespace(config=SimpleNamespace(set_visible_devices=lambda *_: None))
print(runtime.take_gpus(TF, ["a", "b", "c"], 1), flush=True)
sys.stdin.read()
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


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which nothing is taken, with this process's cores as they were, afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("DIGITS_JOBS_PER_GPU", raising=False)
    monkeypatch.setattr(runtime, "_taken", [])
    monkeypatch.setattr(runtime, "_locks", [])
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def another_process(tmp_path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(Path(runtime.__file__).parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def first_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_each_process_has_gpus_of_its_own(machine: None, tmp_path: Path) -> None:
    tensorflow = FakeTensorFlow()
    assert runtime.take_gpus(tensorflow, ["a", "b", "c"], 2) == ["a", "b"] == tensorflow.visible
    other, late = another_process(tmp_path), None
    try:
        assert first_line(other) == "['c']"
        late = another_process(tmp_path)
        assert first_line(late).startswith("waiting for a free GPU: other folds use all 3")
        other.kill()
        assert first_line(late) == "['c']"
    finally:
        for process in filter(None, (other, late)):
            process.communicate(timeout=PATIENCE)
    # The next fold of this process stays where the first one was.
    assert runtime.take_gpus(tensorflow, ["a", "b"], 2) == ["a", "b"]


def test_two_share_a_gpu_only_when_asked(
    machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    monkeypatch.setenv("DIGITS_JOBS_PER_GPU", "2")
    tensorflow = FakeTensorFlow()
    for _ in range(2):
        assert runtime.take_gpus(tensorflow, ["only"], 1) == ["only"] == tensorflow.growing
        runtime._taken.clear()
        tensorflow.growing.clear()
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == [
        f"digits-{os.getuid()}-gpu-4-{turn}.lock" for turn in (0, 1)
    ]


@pytest.mark.parametrize("word", ["two", "0", "-1", "²", ""])
def test_a_number_that_is_not_one(
    machine: None, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    with pytest.raises(UserError, match=r"train\.devices is 2, but TensorFlow sees 1 GPU"):
        runtime.take_gpus(FakeTensorFlow(), ["a"], 2)
    monkeypatch.setenv("DIGITS_JOBS_PER_GPU", word)
    with pytest.raises(UserError, match="DIGITS_JOBS_PER_GPU must be a whole number from 1"):
        runtime.take_gpus(FakeTensorFlow(), ["a"], 1)


def test_cores_are_shared_out() -> None:
    for cores, jobs, shares in (
        ([0, 2, 4, 6], 2, [[0, 2], [4, 6]]),
        ([0, 1, 2, 3, 4], 2, [[0, 1], [2, 3, 4]]),
        ([0, 1], 3, [[0], [0], [1]]),
    ):
        assert [runtime.share(cores, job, jobs) for job in range(jobs)] == shares


def test_each_gpu_trains_a_fold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "DRIVER", tmp_path)
    listed = "pipeline.backend.tf.config.list_physical_devices"
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidiactl").touch()
    assert runtime.one_for_each_gpu(1) == 1
    (tmp_path / "nvidia1").touch()
    # The last: TensorFlow lacks the libraries for them.
    for seen, per_fold, jobs in (("abcd", 2, 2), ("ab", 4, 1), ("", 1, 1)):
        monkeypatch.setattr(listed, {"GPU": seen}.__getitem__)
        assert runtime.one_for_each_gpu(per_fold) == jobs


def test_a_job_stays_on_its_cores_and_keeps_the_number_of_threads(
    machine: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, tensorflow = sorted(os.sched_getaffinity(0)), FakeTensorFlow()
    monkeypatch.setattr("pipeline.backend.tf", tensorflow)
    monkeypatch.setattr(runtime, "_fix_threads", runtime._fix_threads.__wrapped__)
    found, mine = runtime.prepare("float32", jobs=2), runtime.share(there, 0, 2)
    assert found.threads == tensorflow.threads == len(there)
    assert found.device_reason.endswith(f"this one uses core {', '.join(map(str, mine))}")
    assert sorted(os.sched_getaffinity(0)) == mine == runtime.take_cores(2)
    # The second share goes to the next fold; a third one gets all cores.
    for cores in (runtime.share(there, 1, 2), there):
        runtime._taken.clear()
        os.sched_setaffinity(0, there)
        assert runtime.take_cores(2) == cores
