"""`digits result` and `digits show`: what a run came to; one digit; refusals of changed results."""

import csv
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Digits, build, contents, works
from PIL import Image

from pipeline import artifacts, stages
from pipeline.artifacts import add_metadata
from pipeline.files import fingerprint, read_json, write_json
from pipeline.kaggle import inside


@pytest.fixture
def tiny(project: Path, tiny_folder: Path) -> list[str]:
    """The options of a tiny dataset with a preset for which every stage has run."""
    build(str(tiny_folder))
    return ["--dataset", str(tiny_folder), "--config", "sprint"]


# --- result --------------------------------------------------------------------------------------


def test_the_result_of_a_folder_of_the_user(
    project: Path, tiny: list[str], digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate, submission, report, following = digits("result", *tiny).lines
    # The fake training is right about all twelve rows of the hold-out.
    assert estimate == "out-of-fold accuracy 1.00000 ± 0.00000 (one standard error, 12 rows)"
    assert submission == "submission submissions/tiny-sprint.csv"
    assert report == "report submissions/tiny-sprint.html"
    assert "--from-competition" in following
    assert "https://www.kaggle.com/competitions/digit-recognizer/submit" in following
    monkeypatch.setattr(sys, "executable", str(project / "python"))
    last = digits("result", *tiny).lines[-1]
    assert f"next: {project}/python -m pipeline submit --from-competition" in last


def test_the_accuracy_where_the_labels_are_public(project: Path, digits: Digits) -> None:
    graph = build("sample")
    with graph.task("write").writes["submission"].open(newline="") as file:
        predicted = {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}
    with graph.task("download").writes["solution"].open(newline="") as file:
        truth = {row["ImageId"]: row["Label"] for row in csv.DictReader(file)}
    right = sum(predicted[key] == truth[key] for key in truth)
    assert 0 < right < 2000
    lines = digits("result", "--dataset", "sample", "--config", "sprint").lines
    assert f"{right / 2000:.5f} ({2000 - right:,} of 2,000 wrong)" in lines[1]
    assert "make submission CONFIG=fast" in lines[-1]


def test_for_the_competition_the_next_step_is_to_submit(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    """With the submission of a tiny folder in the place of the competition's."""
    made = build(str(tiny_folder)).task("write")
    write = stages.load("kaggle", "sprint").task("write")
    shutil.copy(made.writes["submission"], write.writes["submission"])
    manifest, written = read_json(made.manifest) or {}, write.writes["submission"]
    manifest["outputs"] = {write.label(written): fingerprint(written)}
    write_json(write.manifest, manifest)
    for name, value in [("accuracy", 0.99126), ("standard_error", 0.00046), ("rows", 42_000)]:
        add_metadata(write, f"oof_{name}", value)
    lines = digits("result", "--config", "sprint").lines
    assert lines[0].startswith("download is missing: it has not run yet; this is the result of ")
    assert lines[1] == "out-of-fold accuracy 0.99126 ± 0.00046 (one standard error, 42,000 rows)"
    assert "submit CONFIG=sprint MESSAGE=" in lines[-1]


def test_in_a_notebook_the_files_are_copied_to_its_output(
    project: Path, tiny: list[str], digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(inside, "KAGGLE", project.parent)
    (project.parent / "working").mkdir()
    assert digits("result", *tiny).lines[1:3] == [
        "submission ../working/tiny-sprint.csv",
        "report ../working/tiny-sprint.html",
    ]
    assert contents(project.parent / "working") == {
        name: (project / "submissions" / name).read_bytes()
        for name in ("tiny-sprint.csv", "tiny-sprint.html")
    }


def test_without_an_environment_the_next_command_needs_none(
    project: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VENV", "none")
    monkeypatch.setenv("PYTHON", "python3.12")
    assert digits("result").error.endswith("run `make submission VENV=none PYTHON=python3.12`\n")


def test_a_submission_that_was_edited_by_hand_has_no_accuracy(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    written = stages.load(tiny[1], "sprint").task("write").writes["submission"]
    for damaged in (written.read_text().replace("1,", "1,7", 1), ""):
        written.write_text(damaged)
        ended = digits("result", *tiny)
        assert (ended.code, ended.lines) == (2, [])
        assert "submissions/tiny-sprint.csv was changed after `write` wrote it" in ended.error
        assert stages.load(tiny[1], "sprint").command_here("submission") in ended.error


# --- one digit -----------------------------------------------------------------------------------


def test_show_draws_a_digit_and_its_probabilities(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    graph = stages.load(tiny[1], "sprint")
    arrays = graph.task("preprocess").writes
    images, labels = np.load(arrays["train_images"]), np.load(arrays["train_labels"])
    held_out = np.load(graph.task("split").writes["fold_ids"]) == 0
    row = int(np.flatnonzero(held_out)[0])
    first, *lines = digits("show", str(row + 1), *tiny).lines
    assert first == "dataset tiny, preset sprint"
    picture, probabilities = lines[:28], lines[28:]
    for drawn, pixels in zip(picture, images[row, :, :, 0], strict=True):
        ink = np.array([character != " " for character in drawn.ljust(56)])[::2]
        np.testing.assert_array_equal(ink, pixels > 0)
    assert len(probabilities) == 10
    [true] = [line for line in probabilities if " true" in line]
    assert true.split()[0] == str(labels[row])
    assert true.endswith("true predicted")
    # A row that no fold holds out has no out-of-fold probabilities.
    other = int(np.flatnonzero(~held_out)[0])
    ended = digits("show", str(other + 1), *tiny)
    assert ended.code == 2
    assert f"no fold holds row {other + 1} out; held-out rows: {row + 1}, " in ended.error
    lines = digits("show", "1", "--test", *tiny).lines
    assert not [line for line in lines if " true" in line]


def test_show_without_a_row_shows_the_most_confident_error(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    graph = stages.load(tiny[1], "sprint")
    labels = np.load(graph.task("preprocess").writes["train_labels"])
    rows = np.flatnonzero(np.load(graph.task("split").writes["fold_ids"]) == 0)
    [fold] = graph.all("train")
    _, again = works(tiny[1])[3]

    def mistaken(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        metadata = again(writes)
        oof = np.load(writes["oof"])
        for place, sure in ((3, 0.3), (5, 0.97)):
            oof[place] = (1 - sure) / 9
            oof[place, (labels[rows[place]] + 1) % 10] = sure
        np.save(writes["oof"], oof)
        return metadata

    artifacts.run(fold, graph.tasks, force=True, work=mistaken)
    artifacts.run(graph.task("ensemble"), graph.tasks)
    _, first, *lines = digits("show", *tiny).lines
    worst, other = rows[5] + 1, rows[3] + 1
    assert first == f"row {worst}; most confident errors: {worst}, {other}"
    assert lines == digits("show", str(worst), *tiny).lines[1:]
    ended = digits("show", "81", *tiny)
    assert ended.code == 2
    assert "there is no row 81: there are 80" in ended.error
    assert f"most confident errors: {worst}, {other}" in ended.error
    assert re.match(r"row \d+; least confident", digits("show", "--test", *tiny).lines[1])


# --- results whose data or code have changed since ----------------------------------------------


def test_what_only_today_would_come_out_otherwise_is_shown_and_said(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    commands = {"ensemble": ["show", "1", "--test"], "submission": ["result"]}
    before = {target: digits(*words, *tiny).lines for target, words in commands.items()}
    with (project / "pipeline/train/fold.py").open("a") as file:
        file.write("\nid(0)\n")
    for target, words in commands.items():
        remedy = stages.load(tiny[1], "sprint").command_here(target)
        [line] = [it for it in digits(*words, *tiny).lines if it not in before[target]]
        assert line.startswith("train fold 0 is stale: the code in train/fold.py has changed; ")
        assert line.endswith(f"of the earlier run, `{remedy}` brings it up to date")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("sprint/ensemble/oof.npy", "was changed after `ensemble` wrote it"),
        ("sprint/fold-0/weights.keras", "has changed since"),
        ("arrays/train_labels.npy", "has changed since"),
    ],
)
def test_results_of_what_has_changed_are_refused(
    project: Path, tiny: list[str], digits: Digits, name: str, part: str
) -> None:
    path = project / "data/tiny" / name
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    remedy = stages.load(tiny[1], "sprint").command_here("ensemble")
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(project / "one.png")
    for words in (["show", "1"], ["predict", "one.png"]):
        ended = digits(*words, *tiny)
        assert ended.code == 2
        assert f"data/tiny/{name} {part}" in ended.error
        assert f"run `{remedy}` first" in ended.error
