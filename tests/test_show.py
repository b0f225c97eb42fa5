"""show.py: the status of each stage, the closing lines, one digit, the runs, the parameters."""

import csv
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PACKAGE, Digits, build, contents, works
from PIL import Image

from pipeline import artifacts, config, files, stages
from pipeline.artifacts import add_metadata
from pipeline.kaggle import inside, ledger


@pytest.fixture
def tiny(project: Path, tiny_folder: Path) -> list[str]:
    """The options of a tiny dataset with a preset for which every stage has run."""
    build(str(tiny_folder))
    return ["--dataset", str(tiny_folder), "--config", "sprint"]


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a Kaggle notebook's output."""
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    monkeypatch.setattr(inside, "KAGGLE", tmp_path)
    (tmp_path / "working").mkdir()
    return tmp_path / "working"


# --- status --------------------------------------------------------------------------------------


def test_status_shows_what_is_missing(project: Path, digits: Digits) -> None:
    ended = digits("status", "--dataset", "sample", "--config", "demo")
    assert ended.code == 0
    names = ["download", "preprocess", "split", "train fold 0", "train fold 1", "train fold 2"]
    *lines, last = ended.lines
    assert [line.split() for line in lines] == [
        [*name.split(), "missing"] for name in [*names, "ensemble", "write", "report"]
    ]
    assert last == (
        "`make submission DATASET=sample CONFIG=demo` runs download, preprocess, split, train "
        "(3 folds), ensemble, write, report: time not known yet"
    )


def edit(project: Path, module: str) -> None:
    """Change the code of a module: a statement that is executed on import."""
    with (project / "pipeline" / module).open("a") as file:
        file.write("\nid(0)\n")


def states(digits: Digits, tiny: list[str], *words: str) -> tuple[dict[str, str], str]:
    """What `digits status` prints: by task, the state and the reason, without times; the end."""
    *lines, last = digits("status", *tiny, *words).lines
    return {line[:14].strip(): re.sub(r" +[\d.]+ s\b *", " ", line[15:]) for line in lines}, last


@pytest.mark.parametrize("verify", [[], ["--verify"]])
def test_status_shows_what_is_stale_and_why_and_what_waits(
    project: Path, tiny: list[str], digits: Digits, verify: list[str]
) -> None:
    (project / "data/tiny/arrays/test_images.npy").unlink()
    found, last = states(digits, tiny, *verify)
    assert found["download"].strip() == "fresh"
    assert found["preprocess"] == "stale data/tiny/arrays/test_images.npy is missing"
    assert found["train fold 0"] == "waiting for preprocess, which may come out the same"
    assert found["write"] == "waiting for ensemble, which may come out the same"
    waiting = "split, train fold 0, ensemble, write, report, unless their inputs come out the same"
    assert re.search(rf"` runs preprocess: about [\d.]+ min as recorded; then {waiting}$", last)


def test_status_ends_with_what_make_would_run(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    fold, ensemble = (stages.load(tiny[1], "sprint").all(it)[0] for it in ("train", "ensemble"))
    command = stages.load(tiny[1], "sprint").command_here("submission")
    assert states(digits, tiny)[1] == f"`{command}` has nothing to do"
    add_metadata(fold, "seconds", 600.0)
    add_metadata(ensemble, "seconds", 0.0)
    build(tiny[1])  # the report reads the fold's manifest
    edit(project, "train/fold.py")
    found, last = states(digits, tiny)
    assert found["train fold 0"] == "stale the code in train/fold.py has changed"
    assert last.startswith(f"`{command}` runs train fold 0: about 10.0 min as recorded; then ens")
    edit(project, "ensemble.py")
    found, last = states(digits, tiny)
    assert found["ensemble"] == "stale the code in ensemble.py has changed"
    assert last.startswith(f"`{command}` runs train fold 0, ensemble: about 10.0 min as recorded; ")


def test_verify_finds_silent_corruption(
    project: Path, tiny: list[str], digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte that changed on the disk, while the file system reports the same timestamps."""
    path = project / "data/tiny/arrays/test_images.npy"
    with artifacts.stat_cache(project) as cache:
        stat = path.stat()
        known = files.fingerprint(path)
        path.write_bytes(path.read_bytes()[:-1] + b"\0")
        now = path.stat()
        assert now.st_size == stat.st_size
        cache[str(path)] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, known]
    assert not [line for line in digits("status", *tiny).lines if " stale " in line]
    lines = digits("status", *tiny, "--verify").lines
    assert [line for line in lines if " stale " in line and "test_images.npy" in line]
    assert [line for line in digits("status", *tiny).lines if " stale " in line], "make knows too"


# --- result --------------------------------------------------------------------------------------


def test_the_result_of_a_folder_of_the_user(tiny: list[str], digits: Digits) -> None:
    estimate, submission, report, following = digits("result", *tiny).lines
    # The fake training is right about all twelve rows of the hold-out.
    assert estimate == "out-of-fold accuracy 1.00000 ± 0.00000 (one standard error, 12 rows)"
    assert submission == "submission submissions/tiny-sprint.csv"
    assert report == "report submissions/tiny-sprint.html"
    assert "--from-competition" in following


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
    assert lines[2] == "submission submissions/sample-sprint.csv"
    assert "make submission CONFIG=fast" in lines[-1]


def test_for_the_competition_the_next_step_is_to_submit(
    project: Path, tiny_folder: Path, digits: Digits
) -> None:
    """With the submission of a tiny folder in the place of the competition's."""
    made = build(str(tiny_folder)).task("write")
    write = stages.load("kaggle", "sprint").task("write")
    shutil.copy(made.writes["submission"], write.writes["submission"])
    shutil.copy(made.manifest, write.manifest)
    for name, value in [("accuracy", 0.99126), ("standard_error", 0.00046), ("rows", 42_000)]:
        add_metadata(write, f"oof_{name}", value)
    lines = digits("result", "--config", "sprint").lines
    assert lines[0].startswith("download is missing: it has not run yet; this is the result of ")
    assert lines[1] == "out-of-fold accuracy 0.99126 ± 0.00046 (one standard error, 42,000 rows)"
    assert "submit CONFIG=sprint MESSAGE=" in lines[-1]


def test_in_a_notebook_the_files_are_copied_to_its_output(
    project: Path, tiny_folder: Path, digits: Digits, notebook: Path
) -> None:
    build(str(tiny_folder))
    lines = digits("result", "--dataset", str(tiny_folder), "--config", "sprint").lines
    assert lines[1:3] == [
        "submission ../working/tiny-sprint.csv",
        "report ../working/tiny-sprint.html",
    ]
    assert contents(notebook) == {
        name: (project / "submissions" / name).read_bytes()
        for name in ("tiny-sprint.csv", "tiny-sprint.html")
    }


def test_without_an_environment_the_next_command_needs_none(
    project: Path,
    tiny_folder: Path,
    digits: Digits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VENV", "none")
    monkeypatch.setenv("PYTHON", "python3.12")
    assert digits("result").error.endswith("run `make submission VENV=none PYTHON=python3.12`\n")
    build(str(tiny_folder))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    ended = digits("result", "--dataset", str(tiny_folder), "--config", "sprint")
    assert f"next: {tmp_path}/python -m pipeline submit --from-competition" in ended.lines[-1]
    assert "https://www.kaggle.com/competitions/digit-recognizer/submit" in ended.lines[-1]


# --- one digit -----------------------------------------------------------------------------------


def test_show_draws_a_digit_and_its_probabilities(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    graph = stages.load(tiny[1], "sprint")
    arrays = graph.task("preprocess").writes
    images, labels = np.load(arrays["train_images"]), np.load(arrays["train_labels"])
    held_out = np.load(graph.task("split").writes["fold_ids"]) == 0
    row = int(np.flatnonzero(held_out)[0])
    lines = digits("show", str(row + 1), *tiny).lines
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
    assert len(lines) == 38
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
    first, *lines = digits("show", *tiny).lines
    worst, other = rows[5] + 1, rows[3] + 1
    assert first == f"row {worst}; most confident errors: {worst}, {other}"
    assert lines == digits("show", str(worst), *tiny).lines
    assert f"most confident errors: {worst}, {other}" in digits("show", "81", *tiny).error
    assert re.match(r"row \d+; least confident", digits("show", "--test", *tiny).lines[0])


@pytest.mark.parametrize(
    ("row", "part"), [("81", "there is no row 81: there are 80"), ("0", "in the range x>=1")]
)
def test_show_refuses_a_row_that_does_not_exist(
    tiny: list[str], digits: Digits, row: str, part: str
) -> None:
    ended = digits("show", row, *tiny)
    assert ended.code == 2
    assert part in ended.error


# --- results whose data or code have changed since ----------------------------------------------


def test_what_only_today_would_come_out_otherwise_is_shown_and_said_first(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    before = [digits(*words, *tiny).lines for words in (["show", "1", "--test"], ["result"])]
    assert not [line for line in digits("runs", *tiny[:2]).lines if "stale" in line]
    edit(project, "train/fold.py")
    reason = "train fold 0 is stale: the code in train/fold.py has changed"
    for words, lines, target in (
        (["show", "1", "--test"], before[0], "ensemble"),
        (["result"], before[1], "submission"),
    ):
        ended = digits(*words, *tiny)
        assert ended.code == 0
        first, *rest = ended.lines
        remedy = stages.load(tiny[1], "sprint").command_here(target)
        assert first.startswith(f"{reason}; this is ")
        assert first.endswith(f"of the earlier run, `{remedy}` brings it up to date")
        assert rest == lines
    assert digits("runs", *tiny[:2]).lines[1].rstrip().endswith(f"stale: {reason}")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("ensemble/oof.npy", "was changed after `ensemble` wrote it"),
        ("fold-0/oof.npy", "has changed since"),
        ("fold-0/weights.keras", "has changed since"),
        ("../folds/holdout-0.15-seed-0/fold_ids.npy", "has changed since"),
        ("../arrays/train_labels.npy", "has changed since"),
        ("../arrays/test_images.npy", "has changed since"),
    ],
)
def test_results_of_what_has_changed_are_refused(
    project: Path, tiny: list[str], digits: Digits, name: str, part: str
) -> None:
    path = (project / "data/tiny/sprint" / name).resolve()
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    remedy = stages.load(tiny[1], "sprint").command_here("ensemble")
    label = str(path.relative_to(project))
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save(project / "one.png")
    for words in (["show", "1"], ["predict", "one.png"]):
        ended = digits(*words, *tiny)
        assert ended.code == 2
        assert f"{label} {part}" in ended.error
        assert f"run `{remedy}` first" in ended.error


# --- runs, parameters, check ---------------------------------------------------------------------


def test_runs_lists_the_best_first(project: Path, tiny_folder: Path, digits: Digits) -> None:
    command = ["runs", "--dataset", str(tiny_folder)]
    assert digits(*command).lines == ["nothing has been trained on tiny yet"]
    sprint = build(str(tiny_folder), "sprint")
    build(str(tiny_folder), "fast")
    ensemble = sprint.task("ensemble")
    add_metadata(ensemble, "oof_accuracy", 0.5)
    add_metadata(ensemble, "fold_accuracies", [0.5])
    entry = ledger.Entry(*"abc", "tiny", "sprint", *"defgh", public_score="0.49")
    sent = files.fingerprint(sprint.task("write").writes["submission"])
    ledger.write(stages.LEDGER, [entry, replace(entry, sha256=sent, public_score="0.48")])
    _, best, second = digits(*command).lines
    assert best.split()[0] == "fast"
    assert {"1.00000", "12"} < set(best.split())
    assert second.split()[0] == "sprint"
    assert {"0.50000", "0.48"} < set(second.split()), "the score of this exact file"
    # A damaged manifest is no measurement.
    ensemble.manifest.write_text(ensemble.manifest.read_text().replace("0.5", "0.9"))
    assert not [line for line in digits(*command).lines if "0.9" in line]


def test_runs_lists_folds_that_were_not_averaged_yet(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    shutil.rmtree(project / "data/tiny/sprint/ensemble")
    _, line = digits("runs", *tiny[:2]).lines
    assert line.split()[0] == "sprint"
    assert "1 fold trained, not averaged yet" in line


def test_runs_shows_no_time_of_folds_that_the_accuracy_is_not_of(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    graph = stages.load(tiny[1], "sprint")
    [fold] = graph.all("train")
    add_metadata(fold, "epoch_seconds", [1234.0])
    assert "1234 s" in digits("runs", *tiny[:2]).lines[1]
    _, again = works(tiny[1])[3]

    def other(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        metadata = again(writes)
        np.save(writes["oof"], np.load(writes["oof"])[:, ::-1])
        return {**metadata, "epoch_seconds": [5678.0]}

    artifacts.run(fold, graph.tasks, force=True, work=other)
    line = digits("runs", *tiny[:2]).lines[1]
    assert "1.00000" in line
    assert "5678" not in line
    assert "stale: folds were trained again since" in line


def test_runs_marks_an_estimate_on_rows_that_are_no_longer_held_out(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    graph = stages.load(tiny[1], "sprint")

    def others(writes: Mapping[str, Path]) -> Mapping[str, Any]:
        np.save(writes["fold_ids"], np.load(graph.task("split").writes["fold_ids"])[::-1])
        return {}

    artifacts.run(graph.task("split"), graph.tasks, force=True, work=others)
    assert "stale: other rows are held out since" in digits("runs", *tiny[:2]).lines[1]


@pytest.mark.parametrize("mine", [False, True])
def test_runs_marks_what_is_stale_and_names_seeds(
    project: Path, tiny_folder: Path, digits: Digits, monkeypatch: pytest.MonkeyPatch, mine: bool
) -> None:
    monkeypatch.chdir(project)
    word = "fast"
    if mine:
        word = "mine.toml"
        (project / word).write_text('base = "fast"\n[train]\nseed = 7\n')
    build(str(tiny_folder), word)
    command = ["runs", "--dataset", str(tiny_folder)]
    header, line = digits(*command).lines
    assert header.split()[3] == "seeds"
    assert line.split()[3] == ("7" if mine else "0")
    assert "stale" not in line
    if mine:
        (project / word).write_text('base = "fast"\n[train]\nseed = 8\n')
        reason = "train fold 0 is stale: parameter train.seed was 7 and is now 8"
        assert f"stale: {reason}" in digits(*command).lines[1]
        (project / word).write_text("[train]\nsede = 8\n")
        assert "unknown key" in " ".join(digits(*command).lines)
    else:
        (project / "data/tiny/fast/fold-0/weights.keras").unlink()
        assert "stale: train fold 0 is stale: data/tiny/fast" in digits(*command).lines[1]


def test_runs_ranks_only_within_a_split(project: Path, tiny: list[str], digits: Digits) -> None:
    build(tiny[1], "demo")
    lines = digits("runs", *tiny[:2]).lines
    rows = [line.split()[:3] for line in lines[1:3]]
    assert rows == [["demo", "3-folds-seed-0", "80"], ["sprint", "holdout-0.15-seed-0", "12"]]
    assert "compare within a split" in lines[3]


def test_check_judges_by_the_dataset_that_is_named(
    project: Path, tiny: list[str], digits: Digits
) -> None:
    csv_path = str(project / "submissions/tiny-sprint.csv")
    ended = digits("check", csv_path)
    assert ended.code == 0
    assert "20 rows, valid for data/tiny/raw/sample_submission.csv" in ended.lines[0]
    raw = project / "data" / "sample" / "raw"
    raw.mkdir(parents=True)
    ids = "".join(f"{i},0\n" for i in range(1, 31))
    (raw / "sample_submission.csv").write_text(f"ImageId,Label\n{ids}")
    ended = digits("check", csv_path, "--dataset", "sample")
    assert ended.code == 2
    assert "data/sample/raw/sample_submission.csv" in ended.error


def test_config_marks_what_a_preset_changes(digits: Digits) -> None:
    lines = digits("config", "--config", "sprint").lines
    assert lines[0] == "[split]"
    assert "[train]" in lines
    shown = {line.split("#")[0].strip() for line in lines}
    assert "* epochs = 1" in shown
    assert "batch_size = 128" in shown
    assert all(line.startswith("[") or "# " in line for line in lines)


def test_config_shows_ranges_choices_and_what_is_inherited(digits: Digits) -> None:
    lines = digits("config", "--config", "best-fine").lines
    shown = {line[2:].split(" = ")[0]: line for line in lines}
    assert "(between 1 and 10000; from best-halved)" in shown["epochs"]
    assert shown["dropout"].startswith("* dropout = 0.3 ")
    assert shown["dropout"].endswith("(between 0 and 0.95)")
    assert "(one of rmsprop, adam)" in shown["optimizer"]
    assert "one of cnn_5x5, cnn_batchnorm, " in shown["network"]
    assert (
        digits("config", "--config", "best")
        .lines[-1]
        .endswith("[train]: best-strided best-halved best-fine")
    )


def test_config_lists_the_presets_the_quickest_first(digits: Digits) -> None:
    lines = [line.split() for line in digits("config").lines]
    presets = lines[lines.index(["preset", "accuracy", "training", "use", "it", "for"]) + 1 : -1]
    assert {name for name, *_ in presets} == set(config.preset_names())
    assert presets[0][:4] == ["sprint", "0.99032", "4.2", "s"]


def test_the_readme_has_the_figures_of_the_presets() -> None:
    readme = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+).*? \| ([\d.,]+) s \|", readme, re.MULTILINE)
    assert len(rows) == 5
    for name, accuracy, seconds in rows:
        about = config.load(name).about
        found = float(accuracy), float(seconds.replace(",", ""))
        assert found == (about.accuracy, about.seconds), name


def test_check_uses_the_sample_that_is_named(tiny_folder: Path, digits: Digits) -> None:
    sample = str(tiny_folder / "sample_submission.csv")
    ended = digits("check", sample, "--sample", sample)
    assert ended.code == 0
    assert ended.lines[0].startswith(f"{sample}: 20 rows")


@pytest.mark.parametrize("beside", ["[]", '{"params": [1]}', '{"params": {"dataset": 5}}', "{"])
def test_check_ignores_a_foreign_json_beside_the_csv(
    project: Path, tiny_folder: Path, digits: Digits, beside: str
) -> None:
    (tiny_folder / "s.csv").write_text("ImageId,Label\n1,1\n")
    (tiny_folder / "s.json").write_text(beside)
    ended = digits("check", str(tiny_folder / "s.csv"))
    assert ended.code == 2
    assert "data/kaggle/raw/sample_submission.csv is missing" in ended.error
