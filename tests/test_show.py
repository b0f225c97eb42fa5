"""result.py: the closing lines say the estimate, the score where it is known, and what is next."""

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import build

from pipeline import config, stages
from pipeline.artifacts import add_fact
from pipeline.errors import UserError
from pipeline.result import result


def test_without_a_submission_it_says_what_to_run(project: Path) -> None:
    with pytest.raises(UserError, match="no submission yet: run `make submission`"):
        result("sample", "sprint")


def test_the_lines_for_a_folder_of_the_users_own(project: Path, tiny_folder: Path) -> None:
    build(str(tiny_folder))
    lines = result(str(tiny_folder), "sprint").splitlines()
    # The fake training is right about all twelve rows of the hold-out.
    assert lines[0] == ("out-of-fold accuracy 1.00000 ± 0.00000 (one standard error, 12 rows)")
    assert lines[1] == "submission submissions/tiny-sprint.csv"
    assert lines[2] == "report submissions/tiny-sprint.html"
    assert lines[3].startswith("next: ")
    assert len(lines) == 4


def test_the_score_where_the_answers_are_known(project: Path) -> None:
    steps = build("sample")
    with stages.named(steps, "write").outputs[0].open(newline="") as file:
        predicted = {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}
    with (project / "data/sample/raw/solution.csv").open(newline="") as file:
        truth = {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}
    right = sum(predicted[key] == truth[key] for key in truth)
    assert 0 < right < 2000
    lines = result("sample", "sprint").splitlines()
    assert lines[1] == (
        f"accuracy on the test set {right / 2000:.5f} ({2000 - right:,} of 2,000 wrong)"
    )
    assert lines[2] == "submission submissions/sample-sprint.csv"


def test_for_the_competition_the_next_step_is_to_submit(project: Path, tiny_folder: Path) -> None:
    """With the submission of a tiny folder in the competition's place."""
    made = stages.named(build(str(tiny_folder)), "write")
    kaggle = stages.steps(stages.dataset("kaggle"), config.load("sprint"))
    write = stages.named(kaggle, "write")
    shutil.copy(made.outputs[0], write.outputs[0])
    shutil.copy(made.manifest, write.manifest)
    add_fact(write, "oof_accuracy", 0.99126)
    add_fact(write, "oof_standard_error", 0.00046)
    add_fact(write, "oof_rows", 42_000)
    lines = result("kaggle", "sprint").splitlines()
    assert lines[0] == "out-of-fold accuracy 0.99126 ± 0.00046 (one standard error, 42,000 rows)"
    assert lines[-1].startswith("next: make submit CONFIG=sprint MESSAGE=")


def test_it_runs_with_the_standard_library_alone(project: Path, tiny_folder: Path) -> None:
    build(str(tiny_folder))
    # -S: without the folder in which packages are installed.
    command = [sys.executable, "-S", "-m", "pipeline.result"]
    good = subprocess.run(
        [*command, str(tiny_folder), "sprint"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert good.returncode == 0
    assert good.stdout == result(str(tiny_folder), "sprint") + "\n"
    bad = subprocess.run(
        [*command, "sample", "sprint"], cwd=project, capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("digits: there is no submission yet")
    assert bad.stderr.count("\n") == 1
