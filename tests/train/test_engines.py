"""engines.py: several processes train what one would have, and end together with the first."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import LITTLE_EPOCHS, PATIENCE, little_results, start_little, wait_for


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
    """Whether it is a zombie, which only waits for somebody to ask after it."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_two_jobs_leave_what_one_leaves(little: Path, little_copy: Path) -> None:
    process = start_little(little_copy, "train", "--folds", "all", "--jobs", "2")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert little_results(little_copy) == little_results(little)
    reasons = [
        json.loads(path.read_text())["facts"]["device_reason"]
        for path in sorted((little_copy / "data/tiny/little").glob("fold-*/manifest.json"))
    ]
    cores = [re.search(r"2 jobs share the machine, this one runs on core (.*)", r) for r in reasons]
    assert all(cores)
    if len(os.sched_getaffinity(0)) > 1:
        assert len({found[1] for found in cores if found}) == 2


@pytest.mark.parametrize("ending", ["child killed", "parent killed", "Ctrl-C"])
def test_jobs_that_are_stopped_go_on_to_the_same_files(
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
    said, _ = process.communicate(timeout=PATIENCE)
    await_end(numbers)
    last = said.splitlines()[-1] if said else ""
    if ending == "child killed":
        assert process.returncode == 1
        assert last.startswith("digits: a training process was killed")
    elif ending == "Ctrl-C":
        assert process.returncode == 130
        assert last == "digits: stopped; the same command goes on from here"
    assert "Traceback" not in said
    process = start_little(little_copy, "train", "--if-stale")
    said, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert re.search(r"going on after epoch \d+", said)
    assert little_results(little_copy) == little_results(little)
