"""local.py: several processes train what one would have, and end with the one that started them."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import LITTLE_EPOCHS, PATIENCE, Digits, little_results, start_little, wait_for

from pipeline.train import devices, local

pytestmark = pytest.mark.slow


def children(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that train for another."""
    listed = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"], capture_output=True, text=True
    )
    return [int(number) for number in listed.stdout.split()]


def await_end(numbers: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{number}/stat").exists() and not is_dead(number) for number in numbers):
        assert time.monotonic() < deadline, "a process outlived the one that started it"
        time.sleep(0.1)


def is_dead(number: int) -> bool:
    """Whether it is a zombie, which has ended and waits for its parent."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_jobs_write_what_one_writes(little: Path, little_copy: Path) -> None:
    process = start_little(little_copy, "train", "--fold", "all", "--jobs", "2")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert little_results(little_copy) == little_results(little)
    reasons = [
        json.loads(path.read_text())["metadata"]["device_reason"]
        for path in sorted((little_copy / "data/tiny/little").glob("fold-*/manifest.json"))
    ]
    cores = [re.search(r"2 jobs share the machine, this one uses core (.*)", r) for r in reasons]
    assert all(cores)
    if len(os.sched_getaffinity(0)) > 1:
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
    await_end(numbers)
    last = output.splitlines()[-1] if output else ""
    if ending == "child killed":
        assert process.returncode == 1
        assert last.startswith("digits: a training process was killed")
    elif ending == "Ctrl-C":
        assert process.returncode == 130
        assert last.startswith("digits: stopped; run the same command again")
    assert "Traceback" not in output
    process = start_little(little_copy, "train")
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    assert re.search(r"resuming after epoch \d+", output)
    assert little_results(little_copy) == little_results(little)


@pytest.mark.parametrize(
    ("words", "at_a_time"), [([], 2), (["--jobs", "1"], 1), (["--jobs", "3"], 3)]
)
def test_two_gpus_train_two_folds_without_being_asked(
    words: list[str],
    at_a_time: int,
    project: Path,
    tiny_folder: Path,
    digits: Digits,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "one_for_each_gpu", lambda count: 2 // count)
    started: list[int] = []
    monkeypatch.setattr(local, "_in_processes", lambda *given: started.append(given[-1]))
    monkeypatch.setattr(local, "_one_by_one", lambda *given: started.append(given[-1]))
    ended = digits("train", "--dataset", str(tiny_folder), *words)
    assert ended.code == 0, ended.error
    assert started == [at_a_time]
