"""local.py: several processes train what one would have, and end with the one that started them."""

import json
import os
import re
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import LITTLE_EPOCHS, PATIENCE, little_results, start_little, wait_for

from pipeline import artifacts, environment, stages
from pipeline.train import local, runtime

pytestmark = pytest.mark.slow


def children(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that train for another."""
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(number) for number in listed.stdout.split()]


def is_running(number: int) -> bool:
    """Check that a process is there and no zombie, which has ended and waits for its parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def train(project: Path, *words: str) -> str:
    """Train the little project's folds; return what that prints."""
    process = start_little(project, "train", *words)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def test_a_fold_prints_plain_lines_and_keeps_the_checkpoint_of_another_environment(
    project: Path, tiny_folder: Path, fresh_keras: Any, monkeypatch: Any, capsys: Any
) -> None:
    # TensorFlow takes the number once in a process.
    monkeypatch.setattr("pipeline.train.runtime._fix_threads", environment.threads)
    (project / "short.toml").write_text("[train]\nwidth = 2\nepochs = 2\nprecision = 'float32'\n")
    tasks = stages.load(str(tiny_folder), "short.toml").up_to("train")
    for task in tasks[:3]:
        artifacts.run(task, tasks)
    task = tasks[3]
    other = task.staging / "checkpoint-of-a-gpu.npz"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"another machine's")
    capsys.readouterr()
    metadata = local.work(task, [], 1, task.staged())
    # What may follow says that such a short run is close to guessing.
    lines = capsys.readouterr().out.splitlines()[:7]
    beginnings = [
        f"device {metadata['device']} ({metadata['device_reason']})",
        "precision float32 (train.precision asks for it)",
        f"train fold 0: {other.name} ",
        f"network strided, {metadata['parameters']:,} parameters, 64 rows",
        "fold 0, epoch 1/2: loss ",
        "fold 0, epoch 2/2: loss ",
        "fold 0: accuracy ",
    ]
    assert all(map(str.startswith, lines, beginnings)), lines
    assert other.read_bytes() == b"another machine's"

    again = local.work(task, [], 1, task.staged())
    printed = capsys.readouterr().out
    assert "fold 0: resuming after epoch 2\n" in printed
    assert other.name not in printed
    assert again == metadata


def test_two_jobs_write_what_one_writes(little: Path, little_copy: Path) -> None:
    train(little_copy, "--fold", "all", "--jobs", "2")
    assert little_results(little_copy) == little_results(little)
    manifests = sorted((little_copy / "data/tiny/little").glob("fold-*/manifest.json"))
    metadata = [json.loads(path.read_text())["metadata"] for path in manifests]
    shared = r"2 jobs share the machine, this one uses core (.*)"
    cores = [re.search(shared, each["device_reason"]) for each in metadata]
    assert all(cores)
    there = len(os.sched_getaffinity(0))
    assert [each["threads"] for each in metadata] == [there] * 2
    if there > 1:
        assert len({found[1] for found in cores if found}) == 2


@pytest.mark.parametrize("ending", ["child killed", "parent killed", "Ctrl-C"])
def test_stopped_jobs_resume_and_write_the_same_files(
    little: Path, little_copy: Path, ending: str
) -> None:
    process = start_little(little_copy, "train", "--jobs", "2")
    wait_for(process, rf"fold \d, epoch \d/{LITTLE_EPOCHS}")
    numbers = children(process)
    assert len(numbers) == 2
    if ending == "child killed":
        os.kill(numbers[0], signal.SIGKILL)
    elif ending == "parent killed":
        process.kill()
    else:
        process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while any(map(is_running, numbers)):
        assert time.monotonic() < deadline, "a process outlived the one that started it"
        time.sleep(0.1)
    last = output.splitlines()[-1] if output else ""
    if ending == "child killed":
        assert process.returncode == 1
        assert last.startswith("digits: a training process was killed")
    elif ending == "Ctrl-C":
        assert process.returncode == 130
        assert last.startswith("digits: stopped; run the same command again")
    assert "Traceback" not in output
    assert re.search(r"resuming after epoch \d+", train(little_copy))
    assert little_results(little_copy) == little_results(little)


def test_two_gpus_train_two_folds_without_being_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "one_for_each_gpu", lambda count: 2 // count)
    started: list[int] = []
    pool = partial(ThreadPoolExecutor, 1)
    monkeypatch.setattr(
        local, "ProcessPoolExecutor", lambda count, *_, **__: started.append(count) or pool()
    )
    monkeypatch.setattr(artifacts, "run", lambda *given: started.append(given[-1].args[-1]))
    folds = stages.load("sample", "default").all("train")
    local.train_here(folds, folds, False, None)
    assert started == [2, *[2] * 5], "two processes, which train five folds, two at a time"
    started.clear()
    local.train_here(folds, folds, False, 1)
    assert started == [1] * 5
